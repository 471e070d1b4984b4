"""A `pyarrow.dataset.Dataset`: its fragments, each row group of a Parquet fragment on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from streamlr.errors import StreamlrError
from streamlr.sources.base import ColumnStatistics, check_unique_names


@dataclass(frozen=True)
class FragmentPart:
    """One fragment, or one row group of one, read without reading ahead."""

    fragment: Any
    schema: pa.Schema
    rows: int | None

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of the columns asked for, in that order."""
        try:
            # A filtered dataset scans by its own schema, a fragment by that of the dataset it is from.
            schema = {} if isinstance(self.fragment, ds.Dataset) else {"schema": self.schema}
            scanner = self.fragment.scanner(
                columns=list(columns),
                batch_size=batch_rows,
                use_threads=False,
                batch_readahead=1,
                fragment_readahead=1,
                **schema,
            )
            yield from scanner.to_batches()
        except (pa.ArrowException, OSError) as error:
            name = getattr(self.fragment, "path", "the dataset")
            raise StreamlrError(f"{name}: cannot be read ({error}).") from error


def _fragments(dataset: ds.Dataset) -> Iterator[Any]:
    """The fragments, or the dataset itself where it is filtered and does not give them away."""
    try:
        yield from dataset.get_fragments()
    except ValueError:
        yield dataset


class DatasetSource:
    """A dataset as pyarrow opened it, with its own schema and partitioning."""

    def __init__(self, dataset: ds.Dataset) -> None:
        check_unique_names(dataset.schema, "the dataset")
        self._schema = dataset.schema
        self._parts: list[FragmentPart] = []
        self._origin: list[str] = []
        for fragment in _fragments(dataset):
            self._origin.append(str(getattr(fragment, "path", "a fragment in memory")))
            if isinstance(fragment, ds.ParquetFileFragment):
                for piece in fragment.split_by_row_group():
                    rows = sum(group.num_rows for group in piece.row_groups)
                    self._parts.append(FragmentPart(piece, dataset.schema, rows))
            else:
                self._parts.append(FragmentPart(fragment, dataset.schema, None))

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the dataset."""
        return self._schema

    @property
    def parts(self) -> Sequence[FragmentPart]:
        """Row groups or fragments."""
        return self._parts

    @property
    def rows(self) -> int | None:
        """Number of rows, where every fragment's metadata tells it."""
        counts = [part.rows for part in self._parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def origin(self) -> Sequence[str]:
        """The paths of the fragments."""
        return self._origin

    def statistics(self, column: str) -> ColumnStatistics:
        """Nothing is told before reading."""
        return ColumnStatistics()
