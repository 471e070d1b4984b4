"""Reading labelled rows again with a fitted model: one pass over them for whatever is wanted of the fit.

Diagnosis, marginal effects and score tests are passes at the estimate with the frozen design. They read the
rows that a fit would use: the fit's own filter applies unless another is given, rows with a gap are dropped
and counted, and outcomes are coded as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamlr import arguments
from streamlr.design.basis import Basis
from streamlr.design.design import Design
from streamlr.design.where import parse_where
from streamlr.errors import StreamlrError
from streamlr.events import Listener, silent
from streamlr.linear_algebra import threads_of_algebra
from streamlr.model import Model
from streamlr.passes.leaves import Task
from streamlr.passes.memory import available_cores
from streamlr.passes.run import Workers
from streamlr.passes.session import Session
from streamlr.prediction import check_scorable
from streamlr.profiling import named, skipping
from streamlr.sources.open import open_source

Floats = NDArray[np.float64]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rereading:
    """Labelled rows and the design they are encoded by; `coef` (k,) in the basis, 0 without an estimate."""

    design: Design
    basis: Basis
    coef: Floats
    session: Session

    def run(self, task: Task[Result], merge: Callable[[Result, Result], Result]) -> Result:
        """One pass over all rows, counted in `session.passes`."""
        return self.session.run_pass(task, merge)


@contextmanager
def reading_again(
    model: Model,
    data: Any,
    *,
    where: str | None = None,
    threads: int | None = None,
    on_event: Listener = silent,
) -> Iterator[Rereading]:
    """The rows of `data` as the model's fit would use them.

    Args:
        model: a fitted model.
        data: anything that `fit` reads, with the columns that the fit read.
        where: rows to use; None: the filter of the fit, if it had one.
        threads: worker threads; default the cores this process may use.
        on_event: called with progress events.

    Raises:
        StreamlrError: columns are missing or of a type that cannot be used, or there are no rows.
    """
    source = open_source(data)
    design = model.design
    check_scorable(design, source, labelled=True)
    own = model.provenance.get("where")
    text = arguments.text("where", where) if where is not None else own
    if text is not None:
        condition = parse_where(text, source.schema, named(source))
        source = skipping(source, condition)
        design = replace(design, reader=replace(design.reader, where=condition))
    if not source.parts:
        raise StreamlrError(f"{named(source)} has no rows{' that --where keeps' if text else ''} (0 rows).")
    with ExitStack() as held:
        count = available_cores() if threads is None else arguments.whole("threads", threads, least=1)
        held.enter_context(threadpool_limits(1))
        held.enter_context(threads_of_algebra(count))
        workers = held.enter_context(Workers(count))
        session = Session(source, workers, on_event, time.perf_counter())
        yield Rereading(design, model.basis, np.nan_to_num(model.coef_of_basis), session)
