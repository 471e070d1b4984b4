"""A dask DataFrame: one part a partition, computed by dask's own scheduler when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streamlr.errors import StreamlrError
from streamlr.sources.base import ColumnStatistics, check_unique_names
from streamlr.sources.memory import TablePart, table_of

LOOK_ROWS = 100


@dataclass(frozen=True)
class PartitionPart:
    """One partition of a dask DataFrame."""

    frame: Any

    @property
    def rows(self) -> None:
        """Unknown until the partition is computed."""
        return None

    def delayed(self, columns: Sequence[str]) -> Any:
        """The partition's pandas frame as a dask delayed value, with only `columns` computed."""
        (value,) = self.frame[list(columns)].to_delayed()
        return value

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of the columns asked for, in that order."""
        frame = self.frame[list(columns)].compute()
        yield from TablePart(table_of(frame)).read(columns, coded, batch_rows)


def _schema_of(frame: Any) -> pa.Schema:
    """The types of the meta; columns that pandas calls only "object" are looked at in the first rows."""
    schema = pa.Schema.from_pandas(frame._meta, preserve_index=False)
    unknown = [field.name for field in schema if pa.types.is_null(field.type)]
    if not unknown:
        return pa.schema(list(schema))
    seen = table_of(frame[unknown].head(LOOK_ROWS, npartitions=-1)).schema
    fields = []
    for field in schema:
        kind = seen.field(field.name).type if field.name in unknown else field.type
        fields.append(pa.field(field.name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


class DaskSource:
    """A dask DataFrame."""

    def __init__(self, frame: Any) -> None:
        if not hasattr(frame, "npartitions") or not hasattr(frame, "_meta"):
            raise StreamlrError(f"cannot read a table from dask's {type(frame).__name__}; give a DataFrame.")
        self._frame = frame
        self._schema = _schema_of(frame)
        check_unique_names(self._schema, "the dask DataFrame")
        self._parts = [PartitionPart(frame.partitions[i]) for i in range(frame.npartitions)]

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def parts(self) -> Sequence[PartitionPart]:
        """The partitions."""
        return self._parts

    @property
    def rows(self) -> None:
        """Unknown before reading."""
        return None

    @property
    def origin(self) -> Sequence[str]:
        """That it was a dask DataFrame."""
        return ["a dask DataFrame"]

    def statistics(self, column: str) -> ColumnStatistics:
        """Nothing is told before reading."""
        return ColumnStatistics()
