"""The same work on the partitions of a dask DataFrame, merged by the same tree, on dask's own scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from streamlr.passes.leaves import Task
from streamlr.sources.dask import PartitionPart
from streamlr.sources.memory import TablePart, table_of

Result = TypeVar("Result")


def run_dask(
    parts: Sequence[PartitionPart],
    task: Task[Result],
    merge: Callable[[Result, Result], Result],
) -> Result:
    """Work on every partition where dask puts it and merge the results two by two."""
    import dask

    def on_frame(frame: Any) -> Result:
        return task([TablePart(table_of(frame))])

    leaf, join = dask.delayed(on_frame), dask.delayed(merge)
    level = [leaf(part.delayed(task.columns)) for part in parts]
    while len(level) > 1:
        pairs = [join(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    (result,) = dask.compute(level[0])
    return result
