"""Profile-likelihood intervals: for each term the values that a likelihood-ratio test would not reject.

The bound of a coefficient b = a'coef is the largest or the smallest value that b takes where the loss is no
more than half a quantile of chi-squared above its minimum. There the gradient is a multiple of a. Newton's
method on both conditions (Venzon and Moolgavkar 1988, Applied Statistics 37, 87-94) goes, from a point with
gradient g and Hessian H, by

    step = -H^-1 g + tau H^-1 a,    loss - (g'H^-1 g)/2 + tau^2 (a'H^-1 a)/2 = target,

to where the parabola through the point has both. It starts where the parabola at the minimum has them, which
are the bounds of the Wald interval. All searches share their passes. R: `confint` of a glm has the same
bounds to three digits or so, interpolated between refits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from streamlr.linear_algebra import AnyFactor, factorise
from streamlr.newton import Evaluation

Floats = NDArray[np.float64]

# Evaluates at several points, each with a Hessian or without, in one pass.
Evaluator = Callable[[Sequence[Floats], Sequence[bool]], Sequence[Evaluation]]

# A search ends where its next step, in standard errors, is shorter than this: the one after would be of the
# order of its square, or with the Hessian of another point of the order of a share of it.
LAST_STEP = 1e-5
LAST_STEP_STALE = 1e-9
# While no row's eta moves further than this the Hessian of the minimum serves for the first step, and it goes
# on to serve while each step is no more than so much of the one before.
NEARBY = 0.3
FAST = 0.05
MOST_PASSES = 30
SHORTEST_STEP = 2.0**-12


@dataclass(frozen=True)
class _Point:
    """Where a search is, with the Hessian that steps are taken by: its own, or one that was found before."""

    coef: Floats
    evaluation: Evaluation
    factor: AnyFactor
    own_hessian: bool


@dataclass
class _Search:
    """The bound of one coefficient on one side, on its way.

    `error`: how far both conditions are from holding at the point, in standard errors, infinite where the
    search begins. `renews`: whether the next point is to have a Hessian of its own.
    """

    functional: Floats  # a (active,)
    side: float
    point: _Point
    step: Floats
    renews: bool
    error: float = math.inf
    length: float = 1.0
    bound: float = math.nan
    done: bool = False

    @property
    def trial(self) -> Floats:
        """The point to evaluate next."""
        return self.point.coef + self.length * self.step


def profile_bounds(
    evaluate: Evaluator,
    coef: Floats,
    evaluation: Evaluation,
    functionals: Floats,
    *,
    level: float,
    at_once: int,
) -> Floats:
    """(m, 2) lower and upper bounds of the coefficients a'coef, NaN for one that was not found.

    Args:
        evaluate: evaluates at several points in one pass.
        coef: (active,) where the loss has its minimum.
        evaluation: there, with its Hessian.
        functionals: (m, active) the a of each coefficient.
        level: of the intervals.
        at_once: searches that share a pass.
    """
    factor = factorise(evaluation.hessian)
    bounds = np.full((len(functionals), 2), math.nan)
    if factor is None:
        return bounds
    z = -NormalDist().inv_cdf((1.0 - level) / 2.0)
    places = [(row, side) for row in range(len(functionals)) for side in (0, 1)]
    for first in range(0, len(places), at_once):
        group = places[first : first + at_once]
        searches = [
            _begin(functionals[row], 2.0 * side - 1.0, _Point(coef, evaluation, factor, own_hessian=True), z)
            for row, side in group
        ]
        _run(searches, evaluate, evaluation.loss, z)
        for (row, side), search in zip(group, searches, strict=True):
            bounds[row, side] = search.bound
    return bounds


def _begin(functional: Floats, side: float, minimum: _Point, z: float) -> _Search:
    """A search with its first step, to the bound that the parabola at the minimum has."""
    step, _, _ = _next_step(functional, side, minimum, minimum.evaluation.loss, z)
    reach = minimum.evaluation.box.reach(np.abs(step))
    return _Search(functional, side, minimum, step, renews=reach > NEARBY)


def _run(searches: Sequence[_Search], evaluate: Evaluator, least: float, z: float) -> None:
    """Advance all searches pass by pass until they are done, or passes are spent."""
    for _ in range(MOST_PASSES):
        under_way = [search for search in searches if not search.done]
        if not under_way:
            return
        found = evaluate([search.trial for search in under_way], [search.renews for search in under_way])
        for search, evaluation in zip(under_way, found, strict=True):
            _advance(search, evaluation, least, z)


def _advance(search: _Search, evaluation: Evaluation, least: float, z: float) -> None:
    """Go to the trial and plan the next step, or be done; or try again with half of the step."""
    factor = factorise(evaluation.hessian) if search.renews else search.point.factor
    if factor is not None and math.isfinite(evaluation.loss):
        point = _Point(search.trial, evaluation, factor, own_hessian=search.renews)
        step, length, error = _next_step(search.functional, search.side, point, least, z)
        if error < search.error:
            slow = error > FAST * search.error
            limit = LAST_STEP if point.own_hessian else LAST_STEP_STALE
            search.point, search.step, search.length, search.error = point, step, 1.0, error
            search.renews = search.renews or slow
            if length <= limit and error <= limit:
                search.bound, search.done = float(search.functional @ search.trial), True
            return
    search.renews = True
    search.length *= 0.5
    search.done = search.length < SHORTEST_STEP


def _next_step(
    functional: Floats, side: float, point: _Point, least: float, z: float
) -> tuple[Floats, float, float]:
    """The step, its length along the coefficient, and how far both conditions are from holding; the last two
    in standard errors."""
    gradient = point.evaluation.gradient
    newton, along = point.factor.solve(gradient), point.factor.solve(functional)
    variance = float(functional @ along)
    decrement = float(gradient @ newton)
    excess = point.evaluation.loss - least
    tau = side * math.sqrt(2.0 * max(0.5 * z * z - excess + 0.5 * decrement, 0.0) / variance)
    step = tau * along - newton
    off_path = decrement - float(functional @ newton) ** 2 / variance
    error = abs(math.sqrt(max(2.0 * excess, 0.0)) - z) + math.sqrt(max(off_path, 0.0))
    return step, abs(float(functional @ step)) / math.sqrt(variance), error
