"""Passes as they are: how often each part of a file is read, counted where it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from streamlr.passes.cache import BlockCache
from streamlr.sources import parquet as parquet_source


class Reads:
    """Counts reads of each part of Parquet files, with nothing kept between passes, from now on."""

    def __init__(self, patch: pytest.MonkeyPatch, *, part_rows: int) -> None:
        """`part_rows`: rows of a part at least, so that small files have several."""
        self.of_part: Counter[int] = Counter()
        read = parquet_source.ParquetPart.read

        def counted(part: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
            self.of_part[part.first] += 1
            yield from read(part, *arguments, **options)

        patch.setattr(parquet_source.ParquetPart, "read", counted)
        patch.setattr(parquet_source, "PART_ROWS", part_rows)
        patch.setattr(BlockCache, "begin", lambda cache, part: None)
