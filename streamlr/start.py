"""Where Newton starts: conditioning from a few rows, and for large data the estimate of a sample.

Both only save passes, and a poor sample never costs an answer. Where rows outside of it look different, the
first pass evaluates its estimate and the null model together, and the better one is the start. One that
looked alike and is far off after all is given up after the first pass: that pass is what it costs.
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
from streamlr.design.levels import FIRST, SECOND
from streamlr.design.profile import ProfileSums
from streamlr.design.terms import REFERENCE, Factor
from streamlr.errors import StreamlrError
from streamlr.linear_algebra import Hessian, diagonal, factorise, plus_diagonal
from streamlr.newton import Evaluation, newton
from streamlr.objective import Objective, rough_decrement
from streamlr.passes.leaves import Task
from streamlr.passes.session import Session
from streamlr.passes.sums import Sums
from streamlr.passes.tasks import HeadsTask
from streamlr.sampling import Sample, parts_to_condition_on, positive_share
from streamlr.sources.base import Part, Source

Floats = NDArray[np.float64]

# Rows of a part whose values centre and scale are learned from.
CONDITIONING_ROWS = (1_024, 16_384)
# ... and how many values of all columns together are looked at in each.
CONDITIONING_VALUES = 1 << 20
# Variances are squares of scales; beyond this they leave the range of doubles.
LARGEST_SCALE = 1e150
# With fewer than this for every coefficient, an estimate is not to be relied on.
FEWEST_EVENTS = 5
# Weight of the pull towards zero that keeps a sample fit finite where the sample is separated; with
# standardised columns it is one pseudo-observation.
RIDGE = 1.0
# A column whose information is no more than the pull's was constant in the sample: a level that it lacks.
UNINFORMED = 1.01 * RIDGE
# Columns that have so many times the pull's information, and this share of it to themselves, are far from
# being combinations of others in all rows as well.
STEADY_INFORMATION = 100.0
STEADY_SHARE = 0.02
# Other rows look like those of the sample while the score test's statistic is this many deviations above its
# mean at most. Looking at both starts in vain costs a tenth of a pass.
DEVIATIONS = 4.0
# How much further all values may reach than those of the sample: a twentieth of a heavy tail misses its end.
WIDER = 4.0
# A step of d standard errors of the sample leaves about d**2 / sqrt(rows) of them. Where that is less than
# this the end need not be looked at: the estimate is some sqrt(k) of them away from that of all rows anyway.
CLOSE_ENOUGH = 1.0
ITERATIONS = 12
# Where the mean of an offset is further from its median it says little of most rows: probabilities would
# start near zero or one.
DRAWN_AWAY = 4.0
TINY = 1e-300


def conditioned_basis(session: Session, design: Design, parts: Sequence[Part]) -> Basis:
    """Centre and scale from some rows of some parts."""
    rows = int(np.clip(CONDITIONING_VALUES // max(len(design.inputs), 1), *CONDITIONING_ROWS))
    task = HeadsTask(design, Basis.of(design.layout, *_neutral(design)), session.cache, rows)
    heads = session.run(parts, task, HeadsTask.merge, "sample")
    columns = [np.concatenate(head) if head else np.empty(0) for head in heads]
    _remark_on_identifiers(session, design, columns)
    centre, scale = conditioning_of(columns)
    for column, factor in zip(design.inputs, scale, strict=True):
        if not 1.0 / LARGEST_SCALE <= factor <= LARGEST_SCALE:
            raise StreamlrError(
                f"column '{column.name}' varies by {1.0 / factor:.0e}, and the square of its coefficient's "
                "standard error is beyond what a double holds. Rescale the column."
            )
    return Basis.of(design.layout, centre, scale, free_effects=not design.absorb_l2)


def null_start(design: Design, profile: ProfileSums) -> float:
    """The intercept of the model with an intercept alone, exact where the offset is one number or none."""
    offset = _typical_offset(profile)
    if design.trials is not None:
        return math.log(profile.successes / profile.failures) - offset
    assert design.positive is not None
    assert design.negative is not None
    weight = profile.outcome_weight
    return math.log(weight[design.positive] / weight[design.negative]) - offset


def _typical_offset(profile: ProfileSums) -> float:
    """The mean offset, or where a few rows draw it away from most of those looked at, the median of these."""
    mean = profile.offset_sum / max(profile.rows_used, 1)
    median = float(np.median(profile.offset_heads)) if profile.offset_heads else mean
    typical = mean if abs(mean - median) <= DRAWN_AWAY else median
    return typical if math.isfinite(typical) else 0.0


def null_model(design: Design, profile: ProfileSums) -> Floats:
    """(k,) the coefficients of the model with an intercept alone.

    Of absorbed effects that nothing holds back, the model with these alone: a level's log odds, half an event
    of each kind added, which the profile has counted.
    """
    null = np.zeros(design.layout.columns)
    if design.absorbed is not None and not design.absorb_l2:
        null[design.layout.own_columns :] = _log_odds(design, design.absorbed, profile)
    if design.layout.intercept:
        null[int(np.flatnonzero(design.layout.slot_of_column == 0)[0])] = null_start(design, profile)
    return null


def marginal_model(design: Design, profile: ProfileSums) -> Floats | None:
    """(k,) the log odds of the levels of each factor by itself, which the profile has counted, added up.

    Near the maximum where factors are not alike, so that the first Hessian serves for longer; None where no
    factor is long. Half an event of each kind is added to every level.
    """
    layout = design.layout
    if layout.apart is None or design.absorbed is not None or design.offset is not None:
        return None
    if not layout.intercept:
        return None
    coef = null_model(design, profile)
    place = int(np.flatnonzero(layout.slot_of_column == 0)[0])
    base = coef[place]
    success, failure = _outcome_columns(design, profile)
    for factor, columns in zip(design.factors, layout.factor_columns, strict=True):
        variable = design.variables[factor.meeting.variables[0]]
        if factor.parts or len(factor.meeting.variables) > 1 or factor.meeting.full[0]:
            continue
        assert isinstance(variable, Factor)
        table = np.full((len(variable.all_levels), 2), 0.5)
        for value, counts in (profile.factors[variable.name].counts or {}).items():
            code = variable.code(value)
            if code >= REFERENCE:
                table[code - REFERENCE] += counts[success], counts[failure]
        odds = np.log(table[:, 0] / table[:, 1])
        coef[columns] = odds[1:] - odds[0]
        coef[place] += odds[0] - base
    return coef


def _outcome_columns(design: Design, profile: ProfileSums) -> tuple[int, int]:
    """Which column of a level's counts is that of successes, and which that of failures."""
    first_is_positive = design.trials is not None or next(iter(profile.outcomes)) == design.positive
    return (FIRST, SECOND) if first_is_positive else (SECOND, FIRST)


def _log_odds(design: Design, absorbed: Factor, profile: ProfileSums) -> Floats:
    """(m,) log odds of every level of the absorbed factor, less the mean offset."""
    counts = profile.factors[absorbed.name]
    odds = np.zeros(len(absorbed.levels))
    if counts.entries is None:
        return odds
    success, failure = _outcome_columns(design, profile)
    codes = absorbed.index.of_entries(counts.entries)
    known = codes >= 0
    table = counts.table[known]
    odds[codes[known]] = np.log((table[:, success] + 0.5) / (table[:, failure] + 0.5))
    return odds - _typical_offset(profile)


@dataclass(frozen=True)
class Starts:
    """One or two points (k,) where Newton may start; `steady`: no column is nearly a combination of others
    there, so that single precision will do for a Hessian that only steers; `sample`: the loss of the rows
    whose estimate the only point is, where others look like them."""

    points: list[Floats]
    steady: bool = False
    sample: Objective | None = None


def begin(
    objective: Objective, starts: Starts, null: Floats, *, sampled: bool, single: bool
) -> tuple[Floats, Evaluation]:
    """The first pass: where Newton starts, and the evaluation there.

    A sample's estimate that looked like all rows and is far from their minimum after all is given up for the
    null model, whose loss needs no pass: it has to have won four times what the next step promises to win.
    `single`: the Hessian may be in single precision where that is steady and pays.
    """
    dear = objective.design.layout.hessian_is_dear
    coef, evaluation = objective.best_of(starts.points, single=single and dear and starts.steady)
    if not sampled or coef is null or len(starts.points) > 1 or objective.design.offset is not None:
        return coef, evaluation
    assert objective.first is not None
    won = objective.first.null_loss - evaluation.loss
    if won >= 2.0 * rough_decrement(evaluation) ** 2:
        return coef, evaluation
    return null, objective(null)


def starts_of(
    session: Session,
    design: Design,
    basis: Basis,
    null: Floats,
    profile: ProfileSums,
    sample: Sample | None,
) -> Starts:
    """Where Newton may start: the estimate from a sample for large data, else the null model, or with a long
    factor what its levels say one by one, if that is better on some rows.

    Both where the sample may say little of the other rows (a sorted file, a level that it lacks): the first
    pass then looks at both, so that a poor sample costs no pass.
    """
    if sample is None:
        marginal = marginal_model(design, profile)
        if marginal is None:
            return Starts([null])
        few = _objective_on(session, design, basis, parts_to_condition_on(session.source, None))
        better = few(marginal, False).loss < few(null, False).loss
        return Starts([marginal if better else null])
    found: Estimate | None = None
    for parts in sample.stages:
        before = null if found is None else found.coef
        rows = _objective_on(session, design, basis, parts)
        found = _estimate(rows, before)
        if found is None:
            return Starts([null])
    assert found is not None
    check = _objective_on(session, design, basis, sample.checks)
    gradient = check(found.coef, False).gradient
    assert check.last is not None
    alike = (
        min(found.sums.successes, found.sums.failures) >= FEWEST_EVENTS * design.layout.columns
        and found.describes(gradient, check.last.tally.rows_used)
        and _share_alike(found.sums, positive_share(design, profile))
        and _ranges_alike(found.sums, design, session.source)
    )
    return Starts([found.coef], found.steady, rows) if alike else Starts([found.coef, null])


def _share_alike(sums: Sums, share: float) -> bool:
    """Whether a sample has the outcomes that all rows have, of which `share` are successes."""
    trials = sums.successes + sums.failures
    return abs(sums.successes - trials * share) <= DEVIATIONS * math.sqrt(trials * share * (1.0 - share))


def _ranges_alike(sums: Sums, design: Design, source: Source) -> bool:
    """Whether the numeric columns of a sample vary about as far as metadata tell of all rows."""
    for number, low, high in zip(design.numbers, sums.low, sums.high, strict=False):
        if number.column is None:
            continue
        told = source.statistics(number.column)
        try:
            if not float(told.high) - float(told.low) <= WIDER * (high - low):
                return False
        except (TypeError, ValueError):
            continue  # not told, or no number
    return True


@dataclass(frozen=True)
class Estimate:
    """What a sample says: coefficients (k,), and their information, pull included."""

    coef: Floats
    information: Hessian
    sums: Sums  # of its first evaluation

    @property
    def rows(self) -> int:
        """Rows of the sample that are used."""
        return self.sums.tally.rows_used

    @property
    def steady(self) -> bool:
        """Whether every column has much information, and a fair share of it to itself."""
        factor = factorise(self.information)
        own = diagonal(self.information)
        if factor is None or not (own > STEADY_INFORMATION * RIDGE).all():
            return False
        return bool((1.0 / (factor.inverse_diagonal() * own) > STEADY_SHARE).all())

    def describes(self, gradient: Floats, rows: int) -> bool:
        """Whether other rows, whose loss has this gradient (k,) here, look like those of the sample.

        Then the gradient is random with variance H (rows / self.rows) (1 + rows / self.rows), and its square
        in the metric of that variance is chi-squared with k degrees of freedom: a score test of the estimate.
        """
        k = len(self.coef)
        factor = factorise(self.information)
        informed = diagonal(self.information) > UNINFORMED
        if factor is None or rows == 0 or not (informed.all() and np.isfinite(gradient).all()):
            return False
        share = rows / self.rows
        half = factor.half_solve(gradient)
        statistic = float(half @ half) / (share * (1.0 + share))
        return statistic <= k + DEVIATIONS * math.sqrt(2.0 * k)


def _objective_on(session: Session, design: Design, basis: Basis, parts: Sequence[Part]) -> Objective:
    def runner(task: Task[Any], merge: Callable[[Any, Any], Any]) -> Any:
        return session.run(parts, task, merge, "sample")

    return Objective(design, basis, runner, session.cache)


def _estimate(objective: Objective, start: Floats) -> Estimate | None:
    """The estimate of some rows, pulled a little towards zero, as close as is worth it; None where no row of
    them is used."""

    def ridged(coef: Floats, with_hessian: bool = True) -> Evaluation:
        evaluation = objective(coef, with_hessian)
        pulled = replace(
            evaluation,
            loss=evaluation.loss + 0.5 * RIDGE * float(coef @ coef),
            gradient=evaluation.gradient + RIDGE * coef,
        )
        if not with_hessian:
            return pulled
        return replace(pulled, hessian=plus_diagonal(evaluation.hessian, np.full(len(coef), RIDGE)))

    first = ridged(start)
    sums = objective.first
    assert sums is not None
    if sums.tally.rows_used == 0:
        return None
    found: Estimate | None = None
    dear = objective.design.layout.hessian_is_dear
    # A tolerance out of reach: how close is close enough is decided here, without a proof.
    steps = newton(ridged, start, first, tolerance=TINY, spare=TINY, reuse=dear)
    for count, state in enumerate(steps):
        found = Estimate(state.coef, state.evaluation.hessian, sums)
        if state.decrement**2 < CLOSE_ENOUGH * math.sqrt(min(sums.successes, sums.failures)):
            found = replace(found, coef=state.coef + state.direction)
            break
        if count >= ITERATIONS:
            break
    return found


def _neutral(design: Design) -> tuple[Floats, Floats]:
    return np.zeros(len(design.inputs)), np.ones(len(design.inputs))


def _remark_on_identifiers(session: Session, design: Design, columns: Sequence[NDArray[Any]]) -> None:
    for number, values in zip(design.numbers, columns, strict=False):
        if number.named or number.column is None:
            continue
        whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if whole and values.size > 2 and np.unique(values).size == values.size:
            session.remark(
                f"remark: all {values.size:,} values of '{number.column}' looked at are different whole "
                f"numbers; if it is an identifier, leave it out with --exclude {number.column}"
            )
