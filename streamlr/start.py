"""Where Newton starts: conditioning from a few rows, and for large data the estimate of a sample.

Both only save passes: a poor sample costs a pass or two and never an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design
from streamlr.design.freeze import conditioning_of
from streamlr.design.profile import ProfileSums
from streamlr.errors import StreamlrError
from streamlr.kernels.tile import Block
from streamlr.newton import Evaluation, newton
from streamlr.objective import Objective, first_rows
from streamlr.passes.leaves import Task
from streamlr.passes.session import Session
from streamlr.sources.base import Part, Source

Floats = NDArray[np.float64]

# Parts whose first rows centre and scale are learned from.
CONDITIONING_PARTS = 4
CONDITIONING_ROWS = 16_384
# Variances are squares of scales; beyond this they leave the range of doubles.
LARGEST_SCALE = 1e150
# Larger data take their start from a twentieth of their rows, within bounds.
WORTH_A_SAMPLE = 2_000_000
SAMPLE_SHARE = 20
SAMPLE_ROWS = (250_000, 500_000)
# Weight of the pull towards zero that keeps a sample fit finite where the sample is separated; with
# standardised columns it is one pseudo-observation.
RIDGE = 1.0
CLOSE_ENOUGH = 1e-3
ITERATIONS = 12


def conditioned_basis(session: Session, design: Design) -> Basis:
    """Centre and scale from a few parts spread over the data."""
    looked_at = _spread(session.source.parts, CONDITIONING_PARTS)
    found = [first_rows(design, part, CONDITIONING_ROWS) for part in looked_at]
    blocks = [block for block in found if block is not None]
    _remark_on_identifiers(session, design, blocks)
    centre, scale = conditioning_of(blocks, design.layout.numeric)
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


def start_of(session: Session, design: Design, basis: Basis, profile: ProfileSums) -> Floats:
    """(k,) the estimate from a sample for large data, else the null model."""
    layout = design.layout
    start = np.zeros(layout.columns)
    if layout.intercept:
        start[int(np.flatnonzero(layout.slot_of_column == 0)[0])] = null_start(design, profile)
    parts = _sample(session.source)
    if not parts:
        return start

    def runner(task: Task[Any], merge: Callable[[Any, Any], Any]) -> Any:
        return session.run(parts, task, merge, "sample")

    sample = Objective(design, basis, runner, session.cache)

    def ridged(coef: Floats) -> Evaluation:
        evaluation = sample(coef)
        return replace(
            evaluation,
            loss=evaluation.loss + 0.5 * RIDGE * float(coef @ coef),
            gradient=evaluation.gradient + RIDGE * coef,
            hessian=evaluation.hessian + RIDGE * np.eye(len(coef)),
        )

    found = start
    for count, state in enumerate(newton(ridged, start, tolerance=CLOSE_ENOUGH)):
        found = state.coef
        if state.decrement < CLOSE_ENOUGH or count >= ITERATIONS:
            break
    return found


def _remark_on_identifiers(session: Session, design: Design, blocks: list[Block]) -> None:
    for j, number in enumerate(design.numbers):
        if number.named or not blocks:
            continue
        values = np.concatenate([block.numeric[j] for block in blocks])
        whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if whole and values.size > 2 and np.unique(values).size == values.size:
            session.remark(
                f"remark: all {values.size:,} values of '{number.column}' looked at are different whole "
                f"numbers; if it is an identifier, leave it out with --exclude {number.column}"
            )


def _spread(parts: Sequence[Part], count: int) -> list[Part]:
    """At most `count` parts evenly spread over the data, the first among them."""
    if len(parts) <= count:
        return list(parts)
    return [parts[i * len(parts) // count] for i in range(count)]


def _sample(source: Source) -> list[Part]:
    """Parts to take the start from: a twentieth of large data, within bounds; none of small data."""
    rows = source.rows
    if rows is None or rows < WORTH_A_SAMPLE:
        return []
    wanted = min(max(rows // SAMPLE_SHARE, SAMPLE_ROWS[0]), SAMPLE_ROWS[1])
    count = max(1, round(wanted * len(source.parts) / rows))
    return _spread(source.parts, count) if 4 * count <= len(source.parts) else []
