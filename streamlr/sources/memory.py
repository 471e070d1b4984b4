"""Tables that are in memory already: Arrow tables and all that can become one without a copy of its own.

pandas and polars frames, DuckDB relations and whatever else offers the Arrow PyCapsule interface come in
through `pyarrow.table`; a dict of arrays does too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streamlr.errors import StreamlrError
from streamlr.sources.base import PART_ROWS, ColumnStatistics, check_unique_names


@dataclass(frozen=True)
class TablePart:
    """A slice of a table."""

    table: pa.Table

    @property
    def rows(self) -> int:
        """Number of rows of the slice."""
        return int(self.table.num_rows)

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Batches of the columns asked for, in that order."""
        yield from self.table.select(list(columns)).to_batches(max_chunksize=batch_rows)


class TableSource:
    """An Arrow table cut into slices of a fixed number of rows."""

    def __init__(self, table: pa.Table, origin: str = "a table in memory") -> None:
        check_unique_names(table.schema, origin)
        self._table = table
        self._origin = origin
        self._parts = [
            TablePart(table.slice(first, PART_ROWS)) for first in range(0, table.num_rows, PART_ROWS)
        ]

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the table."""
        return self._table.schema

    @property
    def parts(self) -> Sequence[TablePart]:
        """The slices."""
        return self._parts

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    @property
    def origin(self) -> Sequence[str]:
        """What the table was."""
        return [self._origin]

    def statistics(self, column: str) -> ColumnStatistics:
        """The null count, which Arrow knows."""
        return ColumnStatistics(null_count=self._table.column(column).null_count)


def table_of(data: Any) -> pa.Table:
    """An Arrow table of a pandas or polars frame, a dict of arrays, or any Arrow stream.

    Raises `StreamlrError` for anything else.
    """
    if isinstance(data, pa.Table):
        return data
    try:
        if isinstance(data, pa.RecordBatch):
            return pa.Table.from_batches([data])
        if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
            return _table_of_pandas(data)
        if isinstance(data, dict) or (hasattr(data, "__arrow_c_stream__") and not isinstance(data, type)):
            return pa.table(data)
    except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
        raise StreamlrError(f"the {type(data).__name__} cannot become an Arrow table: {error}") from error
    raise StreamlrError(
        f"cannot read a table from {type(data).__name__}. Give a path, a list of paths, a pandas, polars or "
        "dask frame, a pyarrow Table or Dataset, or a dict of arrays."
    )


def _table_of_pandas(frame: Any) -> pa.Table:
    """The frame's columns; those that Arrow does not know (sparse ones) by way of NumPy."""
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (TypeError, NotImplementedError):
        arrays = []
        for column in frame.columns:
            try:
                arrays.append(pa.array(frame[column], from_pandas=True))
            except (TypeError, NotImplementedError):
                arrays.append(pa.array(frame[column].to_numpy(), from_pandas=True))
        return pa.table(arrays, names=[str(column) for column in frame.columns])
