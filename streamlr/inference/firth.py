"""Firth's penalised likelihood: its maximum, its likelihood-ratio tests and profile intervals; arrays only.

Jeffreys' prior is taken into the likelihood (Firth 1993, Bias reduction of maximum likelihood estimates,
Biometrika 80, 27-38; Heinze and Schemper 2002, A solution to the problem of separation in logistic
regression, Statistics in Medicine 21, 2409-2419). What is minimised, and its gradient, are

    f(b) = loss(b) - log det I(b) / 2,    g*(b) = gradient(b) - a(b),    a(b) = sum_i h_i (1/2 - p_i) x_i

with I the information and h_i = w_i n_i p_i q_i x_i'I^-1 x_i the leverage of row i, summed over its trials.
The estimate is finite whatever the data, separated or not.

A pass at b gives loss, gradient and I(b), hence f(b), exactly. Only a(b) asks for the inverse of what the
pass is about to find, so a pass takes V, the inverse at the point before. How wrong that is can be bounded
afterwards: if x'Vx is off by a share of at most e for any x, then a is off, in the metric of I^-1, by

    lag <= e s,    s**2 = sum_i w_i n_i p_i q_i (x_i'Vx_i)**2 (1/2 - p_i)**2

by the inequality of Cauchy and Schwarz, and the pass sums s too. A lag well below the distance that is left
does not matter: that is so in nearly every pass over large data, which therefore take hardly more passes than
maximum likelihood. Otherwise the point is evaluated again with its own inverse; data where that happens are
small.

The Hessian of f is I plus that of the penalty, of which there are no sums; it is learned from how a changes
from point to point (a structured secant update: Dennis and Schnabel 1983, Numerical Methods for Unconstrained
Optimization and Nonlinear Equations, chapters 9 and 10). Searches are generators that ask for an evaluation
and are sent it, so that any number of them advance in the same passes. They are not those of
`streamlr.inference.profile_intervals`, which count on exact gradients and Hessians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.inference.fit_statistics import chi_squared_tail
from streamlr.linear_algebra import Factor, cholesky, factorise

Floats = NDArray[np.float64]
Found = TypeVar("Found")

# A trial is accepted when f falls by this share of what the slope promises (Armijo 1966).
SUFFICIENT_DECREASE = 1e-4
# Differences of f below this many units of rounding say nothing.
ROUNDING = 32 * np.finfo(np.float64).eps
SHORTEST_STEP = 2.0**-20
# Beyond this share of the distance that is left, the lag is worth an evaluation more: with 0.3 the fits of
# eight small data sets took 13 to 29 evaluations, with none but the lagged ones up to a hundred.
WORTH_AN_EVALUATION = 0.3
# A change of a is learned from where its lags are no more than this share of it.
CLEAR = 0.3
# What the penalty takes away leaves every direction at least this share of its information.
LEAST_SHARE = 0.1
# With more columns the norm of a matrix stands in for its eigenvalues, which take a second at 1,000.
MOST_EIGENVALUES = 500
# Points in a row that are no better than the best before them, when nothing is left but rounding.
STALLED_AFTER = 4
NEAR = 1e-6
# Tests and bounds need the maximum over the other coefficients only as well as f is flat there: what is left
# of it is known to second order, and this is third order for a tolerance of 1e-8.
SECOND_ORDER = 1e-2
# Within this of the maximum over the others, in standard errors, a search for a bound moves the bound too.
CLOSE = 1.0
# FLIC's intercept takes whole Newton steps, which only far from where it goes could overshoot.
LONGEST_INTERCEPT_STEP = 4.0
# Evaluations that a search may take.
MOST_EVALUATIONS = 200


@dataclass(frozen=True)
class FirthEvaluation:
    """Sums at a point b, with leverages taken from an inverse V of the caller's.

    loss          minus the log-likelihood, without binomial coefficients
    gradient      (k,) of the loss
    information   (k, k) I(b)
    adjustment    (k,) sum of w n p q (x'Vx) (1/2 - p) x
    spread        square root of the sum of w n p q (x'Vx)**2 (1/2 - p)**2
    """

    loss: float
    gradient: Floats
    information: Floats
    adjustment: Floats
    spread: float


# Called with points (m, k) and their inverses (m, k, k), zeros where no leverages are wanted; in one read.
Evaluate = Callable[[Floats, Floats], Sequence[FirthEvaluation]]
# Asks for an evaluation at coef (k,) with leverages from an inverse (k, k).
Request = tuple[Floats, Floats]
Search = Generator[Request, FirthEvaluation, Found]


class FirthPoint:
    """An evaluated point with the factor of its information, and what the lag of its leverages amounts to.

    coef             (k,)
    evaluation       the sums there
    score            (k,) gradient of f, with leverages that may lag behind
    factor           of the information, None where it is not positive definite
    penalised_loss   f(coef), infinite without a factor
    lag              bound on what leverages that lag behind change of the score, in standard errors
    step             length of the step that led here, 1 a full one; 0 where a search begins
    """

    def __init__(
        self, coef: Floats, evaluation: FirthEvaluation, used: Floats | None, step: float = 0.0
    ) -> None:
        """`used`: (k, k) the information whose inverse gave the leverages, None where there were none."""
        self.coef = coef
        self.evaluation = evaluation
        self.step = step
        self.score = evaluation.gradient - evaluation.adjustment
        finite = math.isfinite(evaluation.loss) and bool(np.isfinite(evaluation.information).all())
        found = factorise(evaluation.information) if finite else None
        assert found is None or isinstance(found, Factor)
        self.factor = found
        self.penalised_loss = self.lag = math.inf
        self.rounding = 0.0
        if found is not None:
            half_log_det = float(np.log(found.scale).sum() - np.log(np.diagonal(found.inverse_lower)).sum())
            self.penalised_loss = evaluation.loss - half_log_det
            self.rounding = ROUNDING * (abs(evaluation.loss) + abs(half_log_det))
            self.lag = self._lag(used)

    @cached_property
    def inverse(self) -> Floats:
        """(k, k) the covariance of an estimate here."""
        half = self._half
        return half.T @ half

    @property
    def _half(self) -> Floats:
        assert self.factor is not None
        return self.factor.inverse_lower / self.factor.scale

    def whitened(self, matrix: Floats) -> Floats:
        """(k, k) a symmetric matrix in coordinates in which the information is the identity."""
        half = self._half
        return half @ matrix @ half.T

    def _lag(self, used: Floats | None) -> float:
        if used is self.evaluation.information or not len(self.coef):
            return 0.0
        if used is None:
            # Without leverages nothing is known but the order of what they do: that of a standard error in
            # all coefficients, which is next to nothing in the first steps over large data.
            return math.sqrt(len(self.coef))
        # x'I^-1 x over x'Vx lies between the extreme eigenvalues of V^-1 where the information is one.
        off = self.whitened(used)
        np.fill_diagonal(off, np.diagonal(off) - 1.0)
        if len(off) > MOST_EIGENVALUES:
            return float(np.linalg.norm(off)) * self.evaluation.spread
        ends = np.linalg.eigvalsh(off)
        return float(max(-ends[0], ends[-1])) * self.evaluation.spread

    def length(self, gradient: Floats) -> float:
        """Of a gradient (k,), in the metric of the inverse information: a distance in standard errors."""
        assert self.factor is not None
        half = self.factor.half_solve(gradient)
        return float(math.sqrt(half @ half))

    def distance(self, held: Floats) -> float:
        """To the maximum while held'coef is constant, in standard errors, as far as the information tells."""
        assert self.factor is not None
        return math.sqrt(_Parabola.at(self, self.factor, held).gain)


@dataclass(frozen=True)
class PenalisedTest:
    """A penalised likelihood-ratio test; NaN for its numbers where the search has not converged."""

    statistic: float
    df: int
    penalised_loss: float  # f at the maximum under the hypothesis

    @property
    def p_value(self) -> float:
        """Upper tail of chi-squared."""
        return chi_squared_tail(self.statistic, self.df) if self.df else math.nan


@dataclass(frozen=True)
class Firth:
    """What a model keeps of a fit by Firth's penalised likelihood, beside what any model keeps.

    Penalised log-likelihoods are log-likelihood + log det I / 2 with I the information of the user's
    coefficients, all of them, in the model with an intercept alone as well. That one, on `df` degrees of
    freedom, is NaN where it was not found.
    """

    log_likelihood: float
    null_log_likelihood: float
    df: int
    # (k,) signed roots of the penalised likelihood-ratio statistics of single coefficients, NaN for those not
    # tested; None where none was.
    roots: Floats | None = None
    # What was added to the intercept so that the mean probability is that of the outcomes; None without FLIC.
    intercept_shift: float | None = None

    @property
    def test(self) -> PenalisedTest:
        """Penalised likelihood-ratio test that all coefficients but the intercept are zero."""
        statistic = max(2.0 * (self.log_likelihood - self.null_log_likelihood), 0.0)
        return PenalisedTest(statistic, self.df, -self.null_log_likelihood)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with None for what was not found; tests of single coefficients stand in the table."""
        found = math.isfinite(self.null_log_likelihood)
        return {
            "kind": "firth",
            "method": "Firth's penalised likelihood",
            "log_likelihood": self.log_likelihood,
            "null_log_likelihood": self.null_log_likelihood if found else None,
            "statistic": self.test.statistic if found else None,
            "df": self.df,
            "p_value": self.test.p_value if found and self.df else None,
            "flic_shift": self.intercept_shift,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], roots: Floats | None) -> Firth:
        """What `as_dict` wrote. Raises `ValueError` for anything else."""
        null, shift = stored["null_log_likelihood"], stored["flic_shift"]
        if stored["kind"] != "firth":
            raise ValueError(f"unknown penalty {stored['kind']!r}")
        return cls(
            log_likelihood=float(stored["log_likelihood"]),
            null_log_likelihood=math.nan if null is None else float(null),
            df=int(stored["df"]),
            roots=roots,
            intercept_shift=None if shift is None else float(shift),
        )


@dataclass(frozen=True)
class FlicIntercept:
    """Firth's estimate with another intercept: `coef` (k,), the loss and `information` (k, k) there."""

    coef: Floats
    loss: float
    information: Floats
    converged: bool


class _Curvature:
    """The Hessian of f near a search: the information, and what changes of a have told of the penalty's."""

    def __init__(self, size: int) -> None:
        self.penalty = np.zeros((size, size))
        self._last: FirthPoint | None = None

    def learn(self, after: FirthPoint) -> None:
        """Make the penalty's Hessian C obey C moved = change of -a, at least change in the metric of I.

        The least symmetric change in the Frobenius norm with weights that take `moved` to I moved (Dennis and
        Schnabel 1983, chapter 9).
        """
        before, self._last = self._last, after
        if before is None:
            return
        moved = after.coef - before.coef
        change = before.evaluation.adjustment - after.evaluation.adjustment
        if not before.lag + after.lag <= CLEAR * after.length(change):
            return
        weighed = after.evaluation.information @ moved
        size = float(moved @ weighed)
        if not size > 0.0:
            return
        missing = change - self.penalty @ moved
        both = np.multiply.outer(missing, weighed)
        self.penalty = (
            self.penalty
            + (both + both.T) / size
            - float(missing @ moved) / size**2 * np.multiply.outer(weighed, weighed)
        )

    def forget(self) -> bool:
        """Unlearn everything; whether there was anything."""
        known = bool(self.penalty.any())
        self.penalty = np.zeros_like(self.penalty)
        return known

    def factor_at(self, point: FirthPoint) -> Factor:
        """Of the Hessian of f at a point, the next one of the search.

        What was learned is halved until the sum is safely positive definite.
        """
        if point is not self._last:
            self.learn(point)
        information = point.evaluation.information
        while self.penalty.any():
            found = factorise(information + self.penalty)
            if (
                isinstance(found, Factor)
                and cholesky((1.0 - LEAST_SHARE) * information + self.penalty) is not None
            ):
                return found
            self.penalty = 0.5 * self.penalty
        assert point.factor is not None
        return point.factor


@dataclass(frozen=True)
class _Parabola:
    """f near a point as its Hessian tells, where r functions held'coef of the coefficients are constant.

    across    (k,) the step to the minimum
    outward   (k, r) how the minimum moves with held'coef
    slope     (r,) of the profile of f in held'coef
    gain      twice what f falls by on the way to the minimum
    lowest    f at the minimum
    """

    across: Floats
    outward: Floats
    slope: Floats
    gain: float
    lowest: float

    @classmethod
    def at(cls, point: FirthPoint, factor: Factor, held: Floats) -> _Parabola:
        """`factor`: of the Hessian; `held`: (r, k)."""
        solved = np.array([factor.solve(row) for row in held]).reshape(held.shape).T
        outward = solved @ np.linalg.inv(held @ solved)
        slope = outward.T @ point.score
        rest = point.score - slope @ held
        step = -factor.solve(rest)
        step -= outward @ (held @ step)
        gain = max(-float(rest @ step), 0.0)
        return cls(step, outward, slope, gain, point.penalised_loss - 0.5 * gain)

    def root(self, best: FirthPoint) -> float:
        """Root of the likelihood-ratio statistic against the estimate."""
        return math.sqrt(2.0 * max(self.lowest - best.penalised_loss, 0.0))


def firth_maximum(
    evaluate: Evaluate,
    start: Floats,
    first: FirthEvaluation | None = None,
    *,
    tolerance: float = 1e-8,
    note: Callable[[FirthPoint], None] = lambda point: None,
) -> tuple[FirthPoint, bool]:
    """Maximise the penalised likelihood; the last point, and whether it is the maximum.

    Args:
        evaluate: sums at points; called with one point at a time.
        start: (k,) any point that is not far out: the null model, or zeros. Not a diverging maximum
            likelihood estimate.
        first: sums at `start`, where they are known; `adjustment` is not used.
        tolerance: the score and what leverages still lag behind, in standard errors, at the maximum.
        note: called with every point accepted on the way, the start first. The caller stops when passes run
            out by an exception from `evaluate`.

    Raises:
        StreamlrError: the information is singular at `start`.

    On a handful of rows that are separated, or nearly, f may have several maxima; this is one of them, and a
    program that comes from elsewhere may find another. Agrees with R's `brglm2::brglm_fit` of type "AS_mean"
    or "MPL_Jeffreys" and with `logistf`, each converged to rounding.
    """
    k = len(start)
    if first is None:
        first = evaluate(start[np.newaxis], np.zeros((1, k, k)))[0]
    plain = FirthEvaluation(first.loss, first.gradient, first.information, np.zeros(k), 0.0)
    point = FirthPoint(np.array(start, dtype=np.float64), plain, None)
    if point.factor is None:
        raise StreamlrError(
            "the information matrix is singular where Firth's penalised likelihood starts: some columns "
            "nearly repeat others, or weights or offsets are huge. Leave such columns out, or rescale them."
        )
    nothing_held = np.zeros((0, k))
    search = _maximised(point, nothing_held, _Curvature(k), tolerance, note)
    return run_together(evaluate, [search])[0]


def penalised_test(best: FirthPoint, contrasts: Floats, *, tolerance: float = 1e-8) -> Search[PenalisedTest]:
    """A search for the penalised likelihood-ratio test of contrasts'coef = 0, r equations.

    The statistic is 2 (f at the maximum under the hypothesis - f at the estimate), chi-squared with r degrees
    of freedom. The penalty has the information of all columns under the hypothesis too (Heinze and Schemper
    2002), as in `logistf` and `logistftest`.

    Args:
        best: the maximum.
        contrasts: (r, k), linearly independent. For a coefficient that the basis transforms, its row of the
            transformation.
        tolerance: in the root of the statistic.
    """
    curvature = _Curvature(len(best.coef))
    point = best
    exact = 1e-14 * (np.abs(contrasts) @ np.abs(best.coef))
    for _ in range(MOST_EVALUATIONS):
        missing = -(contrasts @ point.coef)
        if (np.abs(missing) <= exact).all():
            break
        parabola = _Parabola.at(point, curvature.factor_at(point), contrasts)
        found = yield from _moved(point, parabola, missing)
        if found is None:
            return PenalisedTest(math.nan, len(contrasts), math.nan)
        point = found
    near = math.sqrt(SECOND_ORDER * tolerance)
    point, reached = yield from _maximised(point, contrasts, curvature, near)
    if not reached:
        return PenalisedTest(math.nan, len(contrasts), math.nan)
    lowest = _Parabola.at(point, curvature.factor_at(point), contrasts).lowest
    return PenalisedTest(max(2.0 * (lowest - best.penalised_loss), 0.0), len(contrasts), lowest)


def penalised_bound(
    best: FirthPoint, contrast: Floats, side: float, quantile: float, *, tolerance: float = 1e-8
) -> Search[float]:
    """A search for one end of the penalised profile interval of contrast'coef; NaN where it fails.

    At the bound b it is 2 (f at the maximum with contrast'coef = b - f at the estimate) = quantile. As in the
    iteration of Venzon and Moolgavkar (1988, Applied Statistics 37, 87-94) the bound and all other
    coefficients move together, and from the same parabola. But the step in b is Newton's for the root of the
    statistic, which is nearly linear in b, and b is kept between values known to lie within the interval and
    beyond it. The same bounds as `logistf(..., pl = TRUE)`. Where f has several maxima while contrast'coef is
    held, as it may far out on separated rows, the bound is that of the one the search comes upon.

    Args:
        best: the maximum.
        contrast: (k,)
        side: -1 for the lower bound, 1 for the upper.
        quantile: of chi-squared with one degree of freedom, 3.841458820694124 for 95 %.
        tolerance: in standard errors, as the root of the statistic has them.
    """
    assert best.factor is not None
    held = contrast[np.newaxis]
    curvature = _Curvature(len(best.coef))
    root = math.sqrt(quantile)
    centre = float(contrast @ best.coef)
    error = math.sqrt(float(contrast @ best.factor.solve(contrast)))  # the standard error
    point, away = best, 0.0
    inside, outside = 0.0, math.inf  # distances from the estimate that lie within the bound, and beyond it
    for _ in range(MOST_EVALUATIONS):
        assert point.factor is not None
        plain = _Parabola.at(point, point.factor, held)
        left = math.sqrt(plain.gain)
        if away > 0.0 and point.lag > WORTH_AN_EVALUATION * max(left, abs(root - plain.root(best))):
            point = yield from _sharpened(point)
            left = point.distance(held)
        if left > CLOSE:
            # No parabola tells the profile from here: first down to it, which always succeeds.
            lower = yield from _downhill(point, held, curvature)
            if lower is None:
                return math.nan
            point = lower
            continue
        parabola = _Parabola.at(point, curvature.factor_at(point), held)
        reached = parabola.root(best)
        missing = root - reached
        unsure = (left + point.lag) ** 2
        rate = side * float(parabola.slope[0]) / reached if reached > 0.0 else 0.0
        if abs(missing) <= tolerance and unsure <= SECOND_ORDER * tolerance:
            return centre + side * (away + (missing / rate if rate > 0.0 else 0.0))
        if reached + unsure < root:
            inside = max(inside, away)
        elif reached - unsure > root:
            outside = min(outside, away)
        wanted = away + (missing / rate if rate > 0.0 else math.copysign(error, missing))
        if away == 0.0:
            wanted = root * error
        wanted = min(wanted, max(3.0 * away, root * error))  # a profile that flattens is followed in stages
        if not inside <= wanted <= outside:
            wanted = 0.5 * (inside + outside) if math.isfinite(outside) else 2.0 * away + error
        found = yield from _moved(point, parabola, np.array([side * (wanted - away)]))
        if found is None:
            return math.nan
        point = found
        away = side * (float(contrast @ point.coef) - centre)
    return math.nan


def flic_intercept(best: FirthPoint, intercept: int, *, tolerance: float = 1e-8) -> Search[FlicIntercept]:
    """A search for the intercept of maximum likelihood, all other coefficients held at Firth's: FLIC.

    The mean predicted probability is then that of the outcomes (Puhr, Heinze, Nold, Lusa and Geroldinger
    2017, Firth's logistic regression with rare events: accurate effect estimates and predictions? Statistics
    in Medicine 36, 2302-2317). Newton's method in one dimension: sum of w (k - n p) = 0; three evaluations as
    a rule. R: `logistf::flic`.

    Args:
        best: the maximum.
        intercept: place of the column of ones among the k.
        tolerance: in standard errors of the intercept given the others.
    """
    k = len(best.coef)
    unit = np.eye(k)[intercept]
    no_leverages = np.zeros((k, k))
    shift, coef, found = 0.0, best.coef, best.evaluation
    low, high = -math.inf, math.inf
    for _ in range(MOST_EVALUATIONS):
        curvature = float(found.information[intercept, intercept])
        if not curvature > 0.0:
            break
        step = -float(found.gradient[intercept]) / curvature
        if abs(step) * math.sqrt(curvature) <= tolerance:
            return FlicIntercept(coef, found.loss, found.information, True)
        low, high = (shift, high) if step > 0.0 else (low, shift)
        ahead = shift + min(max(step, -LONGEST_INTERCEPT_STEP), LONGEST_INTERCEPT_STEP)
        # The sum is monotone: what lies behind a point that was passed is not looked at again.
        shift = ahead if low < ahead < high else 0.5 * (low + high)
        coef = best.coef + shift * unit
        found = yield coef, no_leverages
    return FlicIntercept(coef, found.loss, found.information, False)


def run_together(evaluate: Evaluate, searches: Sequence[Search[Found]]) -> list[Found]:
    """Run searches side by side to what they find: each round is one call for all that still go on."""
    found: dict[int, Found] = {}
    waiting: dict[int, Request] = {}

    def advance(number: int, answer: FirthEvaluation | None) -> None:
        try:
            search = searches[number]
            waiting[number] = next(search) if answer is None else search.send(answer)
        except StopIteration as ended:
            waiting.pop(number, None)
            found[number] = ended.value

    for number in range(len(searches)):
        advance(number, None)
    while waiting:
        asked = sorted(waiting)
        coefs = np.array([waiting[number][0] for number in asked])
        inverses = np.array([waiting[number][1] for number in asked])
        for number, answer in zip(asked, evaluate(coefs, inverses), strict=True):
            advance(number, answer)
    return [found[number] for number in range(len(searches))]


def _maximised(
    point: FirthPoint,
    held: Floats,
    curvature: _Curvature,
    tolerance: float,
    note: Callable[[FirthPoint], None] = lambda point: None,
) -> Search[tuple[FirthPoint, bool]]:
    """The maximum while held'coef (r,) is constant, and whether it was reached; else rounding, or too many
    evaluations, let the search come no nearer than the point."""
    nearest, idle = math.inf, 0
    note(point)
    for _ in range(MOST_EVALUATIONS):
        left = point.distance(held)
        if left + point.lag > tolerance and point.lag > WORTH_AN_EVALUATION * left:
            point = yield from _sharpened(point)
            left = point.distance(held)
        if left + point.lag <= tolerance:
            note(point)
            return point, True
        idle = 0 if left < 0.9 * nearest else idle + 1
        nearest = min(nearest, left)
        if idle >= STALLED_AFTER and nearest < NEAR:
            break
        lower = yield from _downhill(point, held, curvature)
        if lower is not None:
            note(lower)
            point = lower
        elif not curvature.forget():
            break
    return point, False


def _sharpened(point: FirthPoint) -> Search[FirthPoint]:
    """The same point with leverages of its own."""
    evaluation = yield point.coef, point.inverse
    return FirthPoint(point.coef, evaluation, evaluation.information, point.step)


def _stepped(point: FirthPoint, move: Floats, step: float) -> Search[FirthPoint]:
    """A point further on, with leverages from the inverse of the one before."""
    coef = point.coef + step * move
    evaluation = yield coef, point.inverse
    return FirthPoint(coef, evaluation, point.evaluation.information, step)


def _downhill(point: FirthPoint, held: Floats, curvature: _Curvature) -> Search[FirthPoint | None]:
    """The first of ever shorter steps towards the minimum at which f, which is exact, has fallen enough."""
    direction = _Parabola.at(point, curvature.factor_at(point), held).across
    slope = float(point.score @ direction)
    step = 1.0
    while step >= SHORTEST_STEP:
        trial = yield from _stepped(point, direction, step)
        change = trial.penalised_loss - point.penalised_loss
        if change <= SUFFICIENT_DECREASE * step * slope or abs(change) <= point.rounding:
            return trial
        bend = 2.0 * (change - step * slope)
        shrink = 0.1
        if math.isfinite(change):
            shrink = float(np.clip(-step * slope / bend, 0.1, 0.5)) if bend > 0.0 else 0.5
        step *= shrink
    return None


def _moved(point: FirthPoint, parabola: _Parabola, distance: Floats) -> Search[FirthPoint | None]:
    """The point `distance` (r,) further in what is held, others following; less far where f has no value."""
    move = parabola.across + parabola.outward @ distance
    share = 1.0
    while share >= SHORTEST_STEP:
        trial = yield from _stepped(point, move, share)
        if trial.factor is not None:
            return trial
        share *= 0.25
    return None
