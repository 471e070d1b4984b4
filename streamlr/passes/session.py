"""A fit under way: how passes run over its source, what they cost, and who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamlr.events import Listener, Progress, Remark
from streamlr.passes.cache import BlockCache
from streamlr.passes.leaves import Task
from streamlr.passes.run import Workers
from streamlr.passes.spool import Spool
from streamlr.sources.base import Part, Source

Result = TypeVar("Result")


@dataclass
class Session:
    """The source, the engine over its parts, and the running counts of a fit."""

    source: Source
    workers: Workers
    emit: Listener
    started: float
    cache: BlockCache | None = None
    spool: Spool | None = None
    passes: int = 0
    pass_seconds: float = 0.0
    trace: list[dict[str, Any]] = field(default_factory=list)
    remarks: set[str] = field(default_factory=set)

    @property
    def on_dask(self) -> bool:
        """Whether the parts live where dask's scheduler puts them."""
        return type(self.source).__module__ == "streamlr.sources.dask"

    def run(
        self, parts: Sequence[Part], task: Task[Result], merge: Callable[[Result, Result], Result], phase: str
    ) -> Result:
        """Work over `parts` on threads, or on dask's scheduler for a dask DataFrame."""
        if self.on_dask:
            from streamlr.passes.dask import run_dask

            return run_dask(parts, task, merge)  # type: ignore[arg-type]
        begun = time.perf_counter()
        total = sum(part.rows or 0 for part in parts) if self.source.rows is not None else None
        rows_done = 0

        def done(rows: int) -> None:
            nonlocal rows_done
            rows_done += rows
            self.emit(Progress(phase, self.passes, rows_done, total, time.perf_counter() - begun))

        return self.workers.run(parts, task, merge, done)

    def run_pass(self, task: Task[Result], merge: Callable[[Result, Result], Result]) -> Result:
        """Work over all parts; counted and timed as a pass over the data."""
        self.passes += 1
        begun = time.perf_counter()
        result = self.run(self.source.parts, task, merge, "pass")
        self.pass_seconds = time.perf_counter() - begun
        return result

    def run_cells(
        self, parts: Sequence[Part], task: Task[Result], merge: Callable[[Result, Result], Result]
    ) -> Result:
        """Work over rows gathered before: timed, but no pass over the data."""
        begun = time.perf_counter()
        result = self.workers.run(parts, task, merge)
        self.pass_seconds = time.perf_counter() - begun
        return result

    def remark(self, text: str) -> None:
        """Say a sentence to the user, once."""
        if text not in self.remarks:
            self.remarks.add(text)
            self.emit(Remark(text))
