"""Where Newton starts: conditioning from a few rows, and for large data the estimate of a sample.

Both only save passes: a poor sample costs a pass or two and never an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design
from streamlr.design.freeze import conditioning_of
from streamlr.design.profile import ProfileSums
from streamlr.errors import StreamlrError
from streamlr.newton import Evaluation, newton
from streamlr.objective import HeadsTask, Objective
from streamlr.passes.leaves import Task
from streamlr.passes.session import Session
from streamlr.sources.base import Part, Source

Floats = NDArray[np.float64]

# Parts whose first rows centre and scale are learned from.
CONDITIONING_PARTS = 4
CONDITIONING_ROWS = (1_024, 16_384)
# ... and how many values of all columns together are looked at in each.
CONDITIONING_VALUES = 1 << 20
# Variances are squares of scales; beyond this they leave the range of doubles.
LARGEST_SCALE = 1e150
# Data with more values than this take their start from a sample: below, all passes together are quicker.
WORTH_A_SAMPLE = 40_000_000
# Rows of a sample: a twentieth of the data within bounds; ROWS_A_COLUMN for every coefficient and
# EVENTS_A_COLUMN of the rarer outcome, but never more than a fifth of the data.
SAMPLE_SHARE = 20
SAMPLE_ROWS = (100_000, 500_000)
ROWS_A_COLUMN = 100
EVENTS_A_COLUMN = 20
LARGEST_SHARE = 5
# The part of a sample on which a fit with a dear Hessian finds its own start.
FIRST_STAGE = 5
# Weight of the pull towards zero that keeps a sample fit finite where the sample is separated; with
# standardised columns it is one pseudo-observation.
RIDGE = 1.0
# In standard errors of the sample: its estimate is some sqrt(k) of them away from that of all rows.
CLOSE_ENOUGH = 0.1
ITERATIONS = 12
TINY = 1e-300


def conditioned_basis(session: Session, design: Design, parts: Sequence[Part]) -> Basis:
    """Centre and scale from some rows of some parts."""
    rows = int(np.clip(CONDITIONING_VALUES // max(design.layout.numeric, 1), *CONDITIONING_ROWS))
    task = HeadsTask(design, Basis.of(design.layout, *_neutral(design)), session.cache, rows)
    heads = session.run(parts, task, HeadsTask.merge, "sample")
    columns = [np.concatenate(head) if head else np.empty(0) for head in heads]
    _remark_on_identifiers(session, design, columns)
    centre, scale = conditioning_of(columns)
    for number, factor in zip(design.numbers, scale, strict=True):
        if not 1.0 / LARGEST_SCALE <= factor <= LARGEST_SCALE:
            raise StreamlrError(
                f"column '{number.column}' varies by {1.0 / factor:.0e}, and the square of its coefficient's "
                "standard error is beyond what a double holds. Rescale the column."
            )
    return Basis.of(design.layout, centre, scale)


def null_start(design: Design, profile: ProfileSums) -> float:
    """The intercept of the model with an intercept alone, exact where the offset is one number or none."""
    offset = profile.offset_sum / max(profile.rows_used, 1)
    if not math.isfinite(offset):
        offset = 0.0
    if design.trials is not None:
        return math.log(profile.successes / profile.failures) - offset
    assert design.positive is not None
    assert design.negative is not None
    weight = profile.outcome_weight
    return math.log(weight[design.positive] / weight[design.negative]) - offset


def start_of(
    session: Session, design: Design, basis: Basis, profile: ProfileSums, sample: Sample | None
) -> Floats:
    """(k,) the estimate from a sample for large data, else the null model.

    A sample that says little of the other rows (a sorted file) is found out on rows outside of it: where its
    estimate does not describe them better than the null model does, the null model is the start.
    """
    layout = design.layout
    start = np.zeros(layout.columns)
    if layout.intercept:
        start[int(np.flatnonzero(layout.slot_of_column == 0)[0])] = null_start(design, profile)
    if sample is None:
        return start
    found = start
    for parts in sample.stages:
        found = _estimate(_objective_on(session, design, basis, parts), found)
    check = _objective_on(session, design, basis, [sample.check])
    loss = check(found, False).loss
    assert check.last is not None
    null_loss = check(start, False).loss if design.offset is not None else check.last.null_loss
    return found if loss < null_loss else start


def _objective_on(session: Session, design: Design, basis: Basis, parts: Sequence[Part]) -> Objective:
    def runner(task: Task[Any], merge: Callable[[Any, Any], Any]) -> Any:
        return session.run(parts, task, merge, "sample")

    return Objective(design, basis, runner, session.cache)


def _estimate(objective: Objective, start: Floats) -> Floats:
    """(k,) the estimate of some rows, pulled a little towards zero, as close as is worth it."""

    def ridged(coef: Floats, with_hessian: bool = True) -> Evaluation:
        evaluation = objective(coef, with_hessian)
        pulled = replace(
            evaluation,
            loss=evaluation.loss + 0.5 * RIDGE * float(coef @ coef),
            gradient=evaluation.gradient + RIDGE * coef,
        )
        if not with_hessian:
            return pulled
        return replace(pulled, hessian=evaluation.hessian + RIDGE * np.eye(len(coef)))

    found = start
    dear = objective.design.layout.hessian_is_dear
    # A tolerance out of reach: how close is close enough is decided here, without a proof.
    steps = newton(ridged, start, tolerance=TINY, spare=TINY, reuse=dear)
    for count, state in enumerate(steps):
        found = state.coef
        if state.decrement < CLOSE_ENOUGH or count >= ITERATIONS:
            break
    return found


def _neutral(design: Design) -> tuple[Floats, Floats]:
    return np.zeros(design.layout.numeric), np.ones(design.layout.numeric)


def _remark_on_identifiers(session: Session, design: Design, columns: Sequence[NDArray[Any]]) -> None:
    for number, values in zip(design.numbers, columns, strict=True):
        if number.named:
            continue
        whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if whole and values.size > 2 and np.unique(values).size == values.size:
            session.remark(
                f"remark: all {values.size:,} values of '{number.column}' looked at are different whole "
                f"numbers; if it is an identifier, leave it out with --exclude {number.column}"
            )


@dataclass(frozen=True)
class Sample:
    """Parts to take the start from, in growing `stages`, and a part outside of them to `check` it on."""

    stages: tuple[Sequence[Part], ...]
    check: Part


def parts_to_condition_on(source: Source, sample: Sample | None) -> Sequence[Part]:
    """A few parts spread over the data; those of a sample, which will be read anyway, if there is one."""
    if sample is None:
        return _spread(source.parts, CONDITIONING_PARTS)
    return [*_spread(sample.stages[-1], CONDITIONING_PARTS), sample.check]


def _spread(parts: Sequence[Part], count: int) -> list[Part]:
    """At most `count` parts evenly spread over the data, the first among them."""
    if len(parts) <= count:
        return list(parts)
    return [parts[i * len(parts) // count] for i in range(count)]


def sample_of(source: Source, design: Design, profile: ProfileSums) -> Sample | None:
    """A sample of large data; None of small data, and of data in too few parts to leave most of them out."""
    rows, parts = source.rows, source.parts
    layout = design.layout
    if rows is None or rows * (layout.dense + len(layout.levels)) < WORTH_A_SAMPLE:
        return None
    wanted = min(max(rows // SAMPLE_SHARE, SAMPLE_ROWS[0]), SAMPLE_ROWS[1])
    wanted = max(wanted, ROWS_A_COLUMN * layout.columns)
    wanted = max(wanted, int(EVENTS_A_COLUMN * layout.columns / _rarer_share(design, profile)))
    count = max(1, round(min(wanted, rows // LARGEST_SHARE) * len(parts) / rows))
    if 3 * count > len(parts):
        return None
    chosen = _spread(parts, count)
    check = parts[len(parts) // (2 * count)]  # in the middle between the first two
    if layout.hessian_is_dear and count > 2:
        return Sample((_spread(chosen, -(-count // FIRST_STAGE)), chosen), check)
    return Sample((chosen,), check)


def _rarer_share(design: Design, profile: ProfileSums) -> float:
    """Weighted share of the rarer outcome."""
    if design.trials is not None:
        amounts = [profile.successes, profile.failures]
    else:
        amounts = list(profile.outcome_weight.values())
    return min(amounts) / sum(amounts)
