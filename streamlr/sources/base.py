"""What every source of rows offers: a schema, what its metadata tells, and parts.

A part is a picklable unit of work whose borders depend on the data alone, never on how many threads there
are, so that sums merged part by part are the same on one thread and on forty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from streamlr.errors import StreamlrError

# Fewer rows than this make a poor unit of work: small row groups and slices are joined up to it.
PART_ROWS = 131_072
# ... unless they are wide: this many bytes, decoded, are always enough. Twice as many cost a fit of 300
# columns 0.27 of 3.8 seconds: memory that threads touch first, and a sample of parts too few to share.
PART_BYTES = 1 << 25


@dataclass(frozen=True)
class ColumnStatistics:
    """What metadata tells of a column without reading it; None is "not told".

    `low` and `high` leave NaN out, as Parquet's statistics do.
    """

    null_count: int | None = None
    low: Any = None
    high: Any = None


class Part(Protocol):
    """A unit of work: some rows, in a fixed order.

    A part that holds more than a batch in memory while it is read tells so by
    `held_rows(columns, batch_rows)`. A part with an attribute `giant` that is true holds so many rows that it
    is worked on in ranges; its `read` takes `parallel=True` as well, which lets it decode on several threads.
    Where an attribute `takes_room` is true, `read` also takes `room`: called with how many bytes columns of
    numbers take, it returns memory by their names, and those it has memory for are read into that.
    """

    @property
    def rows(self) -> int | None:
        """Number of rows, where it is known without reading."""

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of `batch_rows` rows, or of all that the part holds at once, with `columns` in that order.

        Columns named in `coded` come as dictionary arrays where the source can tell codes cheaply; a reader
        must accept both. Batch borders depend on the data and `batch_rows` alone.
        """


def held_rows(part: Part, columns: Sequence[str], batch_rows: int) -> int:
    """Most rows of a part that reading it holds in memory at once."""
    told = getattr(part, "held_rows", None)
    return told(columns, batch_rows) if told is not None else min(batch_rows, part.rows or batch_rows)


class Source(Protocol):
    """Parts with one schema."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""

    @property
    def parts(self) -> Sequence[Part]:
        """All units of work, in the order of the rows."""

    @property
    def rows(self) -> int | None:
        """Number of rows, where it is known without reading."""

    @property
    def origin(self) -> Sequence[str]:
        """Where the rows come from, for messages and the model file."""

    def statistics(self, column: str) -> ColumnStatistics:
        """What metadata tells of a column."""


def check_unique_names(schema: pa.Schema, origin: str) -> None:
    """Refuse a table in which a name stands for two columns."""
    seen: set[str] = set()
    twice = []
    for name in schema.names:
        if name in seen and name not in twice:
            twice.append(name)
        seen.add(name)
    if twice:
        names = ", ".join(f"'{name}'" for name in twice)
        raise StreamlrError(
            f"{origin} has more than one column named {names}. Rename them so that every name is unique."
        )
