"""A fit by Firth's penalised likelihood: from the start that any fit has to its maximum, tests and intervals.

`firth.py` knows arrays only; here its evaluations become passes over the data, and what it finds becomes
numbers of a model. Every search after the maximum shares its passes with the others: the model with
an intercept alone, the intercept of FLIC, the test of every coefficient and both ends of every interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.inference.firth import (
    Firth,
    FirthEvaluation,
    FirthPoint,
    FlicIntercept,
    PenalisedTest,
    Search,
    firth_maximum,
    flic_intercept,
    penalised_bound,
    penalised_test,
    run_together,
)
from streamlr.linear_algebra import Blocked
from streamlr.newton import Evaluation, State
from streamlr.objective import Objective

Floats = NDArray[np.float64]


class _PassesSpentError(Exception):
    """The next pass would be one too many."""


def check_firth(*, covariance: str, weights: str | None, weight_type: str, absorb: str | None) -> None:
    """Raise `StreamlrError` for what does not go with Firth's penalised likelihood."""
    if absorb is not None:
        raise StreamlrError(
            f"absorbed effects ('{absorb}') do not go with Firth's penalised likelihood, whose penalty needs "
            "the information of every coefficient. Leave out one of the two, or use the column as a factor."
        )
    if weights is not None and weight_type == "sampling":
        raise StreamlrError(
            f"sampling weights ('{weights}') do not go with Firth's penalised likelihood: what they make is "
            "no likelihood of the data, and their standard errors are robust ones. Leave out one of the two."
        )
    if covariance != "nonrobust":
        raise StreamlrError(
            f"{covariance} standard errors do not go with Firth's penalised likelihood: its standard errors "
            "come from the information. Leave out one of the two."
        )


@dataclass(frozen=True)
class PenalisedState(State):
    """Where the iteration ended; `evaluation` is that of the log-likelihood without the penalty."""

    point: FirthPoint


@dataclass(frozen=True)
class PenalisedInference:
    """What was found at the maximum, and the `state` that the model is made of.

    `bounds` (k, 2) of penalised profile intervals, NaN where there are none; None where none was wanted.
    `covariance` (k, k) in the basis where it is not the inverse of the state's information.
    """

    firth: Firth
    state: State
    bounds: Floats | None
    covariance: Floats | None


def penalised_maximum(
    objective: Objective,
    coef: Floats,
    evaluation: Evaluation,
    *,
    tol: float,
    spent: Callable[[], bool],
    note: Callable[[State], None],
) -> PenalisedState:
    """Maximise Firth's penalised likelihood from `coef` (active,), where the evaluation is known.

    Args:
        objective: in its settled basis.
        coef: not a diverging estimate; see `streamlr.inference.firth.firth_maximum`.
        evaluation: at `coef`.
        tol: distance to the maximum, in standard errors.
        spent: whether the next pass would be one too many; the state then says that it has not converged.
        note: called with a state of each point on the way, whose loss is the penalised one.
    """
    last: FirthPoint | None = None
    log_scale = _log_scale(objective.map_to_raw())

    def evaluate(coefs: Floats, inverses: Floats) -> Sequence[FirthEvaluation]:
        if spent():
            raise _PassesSpentError
        return objective.with_leverages(coefs, inverses)

    def noted(point: FirthPoint) -> None:
        nonlocal last
        last = point
        loss = point.penalised_loss + log_scale
        penalised = replace(_evaluation(objective, point), loss=loss, gradient=point.score)
        note(_state(objective, point, penalised, converged=False))

    hessian = evaluation.hessian
    assert isinstance(hessian, Blocked | np.ndarray), "nothing is absorbed"
    first = FirthEvaluation(
        loss=evaluation.loss,
        gradient=evaluation.gradient,
        information=hessian.matrix if isinstance(hessian, Blocked) else hessian,
        adjustment=np.zeros(len(coef)),
        spread=0.0,
    )
    converged = False
    with suppress(_PassesSpentError):  # the state says that it has not converged
        last, converged = firth_maximum(evaluate, coef, first, tolerance=tol, note=noted)
    assert last is not None, "the start is noted"
    return _state(objective, last, _evaluation(objective, last), converged)


def penalised_inference(
    objective: Objective,
    state: PenalisedState,
    *,
    intercept: int | None,
    flic: bool,
    profiled: NDArray[np.int64] | None,
    level: float,
    at_once: int,
) -> PenalisedInference:
    """Tests, intervals and the intercept of FLIC at the maximum.

    Where it was not reached there are none, and the state is as it was.

    Args:
        objective: as it was maximised.
        state: the last one.
        intercept: its place among the k coefficients, None without one.
        flic: whether to correct it.
        profiled: places of the coefficients to test and to find intervals of, None: none is asked for.
        level: of the intervals.
        at_once: searches that share a pass.
    """
    best, k = state.point, len(state.coef)
    if flic and intercept is None:
        raise StreamlrError("the model has no intercept for FLIC to correct. Leave out flic (--flic).")
    binomial = objective.first.log_binomial if objective.first is not None else 0.0
    to_raw = objective.map_to_raw()
    others = np.delete(np.arange(k), [] if intercept is None else [intercept])
    firth = Firth(binomial - best.penalised_loss - _log_scale(to_raw), math.nan, len(others))
    if state.status != "converged":
        return PenalisedInference(firth, state, None, None)
    searches: list[Search[PenalisedTest | float | FlicIntercept]] = [penalised_test(best, to_raw[others])]
    if flic and intercept is not None:
        searches.append(flic_intercept(best, intercept))
    behind = len(searches)
    places = np.arange(0) if profiled is None else profiled
    quantile = NormalDist().inv_cdf((1.0 - level) / 2.0) ** 2
    for place in places:
        searches.append(penalised_test(best, to_raw[[place]]))
        searches.extend(penalised_bound(best, to_raw[place], side, quantile) for side in (-1.0, 1.0))
    found = [
        result
        for first in range(0, len(searches), at_once)
        for result in run_together(objective.with_leverages, searches[first : first + at_once])
    ]
    null = found[0]
    assert isinstance(null, PenalisedTest)
    firth = replace(firth, null_log_likelihood=firth.log_likelihood - 0.5 * null.statistic)
    bounds = None
    if profiled is not None:
        roots, bounds = np.full(k, math.nan), np.full((k, 2), math.nan)
        signs = np.sign(to_raw @ state.coef)
        for place, test, low, high in zip(
            places, found[behind::3], found[behind + 1 :: 3], found[behind + 2 :: 3], strict=True
        ):
            assert isinstance(test, PenalisedTest)
            roots[place] = signs[place] * math.sqrt(test.statistic)
            bounds[place] = low, high
        firth = replace(firth, roots=roots)
    if not flic or intercept is None:
        return PenalisedInference(firth, state, bounds, None)
    corrected = found[1]
    assert isinstance(corrected, FlicIntercept)
    firth = replace(firth, intercept_shift=float(corrected.coef[intercept] - state.coef[intercept]))
    settled = replace(
        state,
        coef=corrected.coef,
        evaluation=replace(state.evaluation, loss=corrected.loss),
        status="converged" if corrected.converged else "stalled",
    )
    return PenalisedInference(firth, settled, bounds, flic_covariance(best, corrected, intercept))


def flic_covariance(best: FirthPoint, corrected: FlicIntercept, intercept: int) -> Floats:
    """(k, k) covariance of Firth's estimates beside the intercept of FLIC.

    That intercept solves sum of w (k - n p) = 0 given the others, so that it moves with them by
    d = -I_0j / I_00, the information I being that with it: its variance is 1 / I_00 + d'V d and its
    covariance with the others V d, whose own V is that of Firth's estimate. `logistf::flic` has the same
    standard errors but for the intercept's, which it takes from the inverse of I.
    """
    others = np.delete(np.arange(len(best.coef)), intercept)
    row = corrected.information[intercept]
    share = -row[others] / row[intercept]
    covariance = best.inverse.copy()
    with_others = covariance[np.ix_(others, others)] @ share
    covariance[intercept, others] = covariance[others, intercept] = with_others
    covariance[intercept, intercept] = 1.0 / row[intercept] + share @ with_others
    return covariance


def _log_scale(to_raw: Floats) -> float:
    """By how much half of log det of the information is less in the user's units than in the basis."""
    return float(np.linalg.slogdet(to_raw)[1])


def _evaluation(objective: Objective, point: FirthPoint) -> Evaluation:
    sums = point.evaluation
    return Evaluation(sums.loss, sums.gradient, sums.information, objective.box(), 0.0)


def _state(
    objective: Objective, point: FirthPoint, evaluation: Evaluation, converged: bool
) -> PenalisedState:
    distance = point.distance(np.zeros((0, len(point.coef)))) + point.lag
    return PenalisedState(
        coef=point.coef,
        evaluation=evaluation,
        decrement=distance,
        distance=math.inf,  # no bound has been proved
        step=point.step,
        direction=np.zeros(len(point.coef)),
        status="converged" if converged else "stalled",
        point=point,
    )
