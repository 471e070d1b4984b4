"""Newton's method on a convex loss, with a proof of how far the maximum is.

The driver is a generator of frozen `State`s over `objective(coef) -> Evaluation`; it knows no data, no file
and no print. Loss, gradient and Hessian come together from each evaluation at a trial point, so an accepted
trial is the next iteration and a rejected one costs one pass.

The certificate (Bach 2010, Self-concordant analysis for logistic regression, EJS 4, 384-414). Along any
direction h of unit length in the metric of H the logistic loss obeys |F'''| <= u F'' with
u = max_i ||x_i|| in the metric of the inverse of H, because |l'''| <= l'' for every row. Hence

    h'H(coef + t h)h >= exp(-u t)    and    F'(coef + t h)h >= -lambda + (1 - exp(-u t)) / u

with lambda = sqrt(g'H^-1 g), the Newton decrement. The right side is positive beyond
t = -log(1 - u lambda) / u, and that exists only for u lambda < 1. So when u lambda < 1 a finite minimum
exists and lies within that distance of the estimate, in standard errors. On separated data u lambda stays at
one or above however small lambda becomes: a small decrement alone proves nothing.

Where a Hessian costs more than reading the rows (wide designs) it is reused: steps are taken from one that
was evaluated earlier, in its metric corrected by what the gradients have since shown of the curvature (BFGS;
Nocedal and Wright 2006, Numerical Optimization, section 6.1), and passes sum gradients only. If no row's eta
has moved by more than the drift s since, then exp(-s) H <= H(coef) <= exp(s) H, so that with the Hessian at
hand lambda and u are known up to exp(s/2), and standard errors as well. A Hessian that is reported is
evaluated again once the steps to come are too short to change it.

The first step may end elsewhere than its parabola says, where something more is known of the loss (`Guide`).
It then ends so near the minimum that the next step is the last one and need not be looked at, if standard
errors can be shown not to change over it. That every row's eta moves by s at most is too coarse for that;
sums of fourth powers (`Tails`) tell how few rows can be far out.

u is bounded twice, and the smaller bound counts: by the ranges of the columns, since ||x|| is at most
sum_j |x_j| sqrt((H^-1)_jj) where of one factor's columns only one counts; and by 1 / sqrt(least curvature),
since the leverage c_i x_i'H^-1 x_i of a row never exceeds one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.linear_algebra import BlockedFactor, Hessian, diagonal, factorise, plus_diagonal

Floats = NDArray[np.float64]

# A trial is accepted when the loss falls by this share of what the slope promises (Armijo 1966).
SUFFICIENT_DECREASE = 1e-4
# Differences of losses below this many units of rounding say nothing; then the decrement decides.
LOSS_ROUNDING = 16 * np.finfo(np.float64).eps
SHORTEST_STEP = 2.0**-20
# A step that moves eta further than this, for a column of unit size, leaves every parabola behind; a
# column that would is led about so far as the second says.
BELIEVABLE = 15.0
BELIEVED = 8.0
LEAST_DAMPING = 1e-2
# Steps after which damping that leaves the decrement at this share each time is given up.
CRAWLING_STEPS = 3
CRAWLING_RATE = 0.7
# A column that starts flat is damped as if it had this share of the most informative one's information.
FLATTEST = 1e-6
# Share of the most information a column has had, below which it counts as flat.
LOST = 1e-3
# Each is ten times the one before.
MOST_DAMPINGS = 12
# Separated data: the decrement shrinks by exp(-1/2) = 0.61 a step for ever, where a finite minimum would
# bring quadratic convergence. Probabilities of the separated rows are then below 1e-14.
LINEAR_RATE = 0.3
# A Hessian serves while decrements fall at least to this share from step to step. Before two are known with
# it they are expected to fall to a tenth.
SLOW = 0.4
RATE_TO_EXPECT = 0.1
# A last step that moves eta further than this is not short enough to be taken unseen.
SHORT = 0.01
# Beyond this drift a Hessian bounds nothing.
LONGEST_DRIFT = 20.0
LINEAR_STEPS = 4
DIVERGED = 1e-7
SINGULAR_AFTER = 1.0
# Decrement above which the inverse of a Hessian is not worth its price: that a maximum exists is hardly to be
# proved from so far away, nor that there is none.
FAR = 30.0
# A Hessian that leaves a column less than this share of its information is singular to rounding: what is
# computed in its metric proves nothing (separated data were "within 5.6e-9 standard errors" in it).
SINGULAR = 1e-12
# Share of a condition number that is certain where it is known by its order of magnitude only.
SAFETY = 0.1
# Rows with more curvature than this have leverages that bound their reach by a thousand, which proves what
# is to be proved as soon as the decrement is small.
FLAT_ROW = 1e-6

Status = Literal["running", "converged", "stalled", "diverging"]


@dataclass(frozen=True)
class Box:
    """Where the rows of the design lie: |x_j| <= extent_j, and of one group a row has one non-zero column.

    extent: (k,). group: (k,) ascending numbers of the terms.
    """

    extent: Floats
    group: NDArray[np.int64]

    def reach(self, lengths: Floats) -> float:
        """Largest possible sum of |x_j| lengths_j over a row."""
        if not lengths.size:
            return 0.0
        starts = np.flatnonzero(np.r_[True, self.group[1:] != self.group[:-1]])
        with np.errstate(over="ignore"):
            return float(np.maximum.reduceat(self.extent * lengths, starts).sum())


@dataclass(frozen=True)
class Tails:
    """How far out rows lie, along directions that span all others.

    directions: (k, k). roots: (k,) fourth roots of sum_i c_i (x_i'direction)^4, or bounds on them; c_i is the
    curvature of a row. combinations: (k, k) those of the coefficients whose standard errors are reported.
    """

    directions: Floats
    roots: Floats
    combinations: Floats


@dataclass(frozen=True)
class Evaluation:
    """Loss, gradient (k,) and Hessian, dense or bordered, at a point, with what bounds the rows.

    The Hessian may be that of a point from which no row's eta has moved by more than `drift`.
    """

    loss: float
    gradient: Floats
    hessian: Hessian
    box: Box
    least_curvature: float
    drift: float = 0.0
    tails: Tails | None = None

    def with_hessian_of(self, other: Evaluation, moved: Floats) -> Evaluation:
        """This evaluation with the Hessian of another, `moved` (k,) from it."""
        drift = other.drift + self.box.reach(np.abs(moved))
        return replace(self, hessian=other.hessian, drift=drift)


@dataclass(frozen=True)
class State:
    """An iteration. `distance`: proved bound on the distance to the minimum in standard errors, or inf."""

    coef: Floats
    evaluation: Evaluation
    decrement: float
    distance: float
    step: float  # length of the step that led here, 1 a full Newton step; 0 at the start
    direction: Floats  # the next Newton step
    status: Status


# Called with coefficients, and with False where the gradient is enough: the Hessian may then be anything;
# with directions `along` (k, k) where the evaluation is to tell of the tails along them.
Objective = Callable[..., Evaluation]


class Metric:
    """A Hessian as Newton uses it: its factor, and what later gradients have shown of the curvature."""

    def __init__(self, hessian: Hessian) -> None:
        self._factor = factorise(hessian)
        self._own = diagonal(hessian)
        self._pairs: list[tuple[Floats, Floats, float]] = []

    @cached_property
    def inverse_diagonal(self) -> Floats:
        """(k,) diagonal of the inverse, infinite where the Hessian is singular."""
        if self._factor is None:
            return np.full(len(self._own), math.inf)
        return self._factor.inverse_diagonal()

    def lengths_in(self, evaluation: Evaluation) -> Floats | None:
        """The diagonal of the inverse where the reach of rows needs it; None where it costs as much as the
        factor itself and leverages bound the reach well enough."""
        if isinstance(self._factor, BlockedFactor) and evaluation.least_curvature > FLAT_ROW:
            return None
        return self.inverse_diagonal

    @cached_property
    def singular(self) -> bool:
        """Whether some column has next to no information that no combination of others explains."""
        if self._factor is None:
            return True
        if isinstance(self._factor, BlockedFactor) and self._factor.condition < SAFETY / SINGULAR:
            return False
        return bool((1.0 / (self.inverse_diagonal * self._own) < SINGULAR).any())

    def unit_solutions(self, combinations: Floats) -> Floats:
        """(m, k) the inverse times each of `combinations` (m, k), of length one in the metric."""
        assert self._factor is not None, "of a Hessian that is not singular"
        solved = np.array([self._factor.solve(each) for each in combinations])
        return solved / np.sqrt((solved * combinations).sum(axis=1))[:, None]

    def release(self) -> None:
        """Give up the factor, and with it all use."""
        self._factor = None

    def learn(self, moved: Floats, change: Floats) -> None:
        """The gradient changed by `change` (k,) over a step `moved` (k,)."""
        product = float(moved @ change)
        if product > 0.0:
            self._pairs.append((moved, change, 1.0 / product))

    def solve(self, gradient: Floats) -> tuple[Floats, float]:
        """The step (k,) that the curvature promises to end at the minimum, and the Newton decrement.

        Zeros and infinity where the Hessian is singular or the gradient is no number. Two loops over the
        pairs (Nocedal and Wright 2006, algorithm 7.4); the decrement is in the metric of the Hessian alone.
        """
        if self._factor is None or not np.isfinite(gradient).all():
            return np.zeros(gradient.size), math.inf
        half = self._factor.half_solve(gradient)
        rest = gradient
        shares = []
        for moved, change, scale in reversed(self._pairs):
            shares.append(scale * float(moved @ rest))
            rest = rest - shares[-1] * change
        step = self._factor.solve(rest)
        for (moved, change, scale), share in zip(self._pairs, reversed(shares), strict=True):
            step = step + (share - scale * float(change @ step)) * moved
        return -step, float(np.sqrt(half @ half))


class Guide(Protocol):
    """What knows more of the loss than its slope and its curvature at a point."""

    def bend(self, state: State, metric: Metric) -> Floats:
        """A step (k,) from a state that leads down and further than the Newton step, or that."""

    def directions(self, metric: Metric) -> Floats | None:
        """(k, k) where to look for tails at the end of the step; None where that is not worth it."""


def newton(
    objective: Objective,
    start: Floats,
    first: Evaluation | None = None,
    *,
    tolerance: float,
    spare: float = 0.0,
    reuse: bool = False,
    guide: Guide | None = None,
) -> Iterator[State]:
    """Minimise from `start`; each state costs one evaluation or more. Ends at a status other than running.

    `first`: the evaluation at `start`, where it is known. `tolerance`: distance to be proved, in standard
    errors. `spare`: relative change of standard errors up to which a last evaluation, which could only
    confirm what is proved already, is left out; the last state is then the full step from the one before
    it. `reuse`: Hessians are dear and taken over from earlier points while steps shorten well; that of the
    last state then leaves standard errors right to `spare`, which must be positive. `guide`: asked where the
    first step should end. The caller stops the iteration when it has used its passes.
    """
    coef = np.array(start, dtype=np.float64)
    evaluation = objective(coef) if first is None else first
    information = np.zeros(coef.size)
    step = 0.0
    trusted = False  # whole steps are taken, whatever their parabola promises
    decrements: list[float] = []
    metric = Metric(evaluation.hessian)
    while True:
        direction, decrement = metric.solve(evaluation.gradient)
        near = not FAR < decrement < math.inf
        distance = math.inf
        if near and not metric.singular:
            distance = certified_distance(evaluation, decrement, metric.lengths_in(evaluation))
        decrements.append(decrement)
        status = _status(decrements, distance, tolerance, near and metric.singular)
        if status != "running" and _standard_error_change(evaluation.drift) > spare > 0.0:
            evaluation = objective(coef)  # whatever it is, it is told with a Hessian of its own
            metric = Metric(evaluation.hessian)
            decrements.pop()
            continue
        state = State(coef, evaluation, decrement, distance, step, direction, status)
        if status != "running":
            yield state
            return
        yield state
        ahead = None
        if math.isfinite(distance):
            ahead = _proved_ahead(state, metric, tolerance, spare)
        if ahead is not None:
            yield ahead
            return
        own = diagonal(evaluation.hessian)
        information = np.maximum(information, np.maximum(own, FLATTEST * own.max(initial=0.0)))
        trusted = _crawls(decrements) or (trusted and step == 1.0)
        if not trusted:
            direction = _believable(evaluation, direction, information)
        along = None
        if guide is not None and direction is state.direction:
            direction = guide.bend(state, metric)
            along = guide.directions(metric)
        guide = None
        with_hessian = not reuse or _wants_hessian(evaluation, direction, decrements, spare)
        if with_hessian:
            metric.release()  # the next one is as large
        found = _search(objective, coef, evaluation, direction, with_hessian, along)
        if found is not None:
            trial, trial_evaluation, step = found
            if with_hessian:
                metric = Metric(trial_evaluation.hessian)
            else:
                metric.learn(trial - coef, trial_evaluation.gradient - evaluation.gradient)
            coef, evaluation = trial, trial_evaluation
        elif evaluation.drift > 0.0:
            evaluation = objective(coef)  # no step by an old Hessian descends; one by its own may
            metric = Metric(evaluation.hessian)
            decrements.pop()
        else:
            yield State(coef, evaluation, decrement, distance, 0.0, direction, "stalled")
            return


def _search(
    objective: Objective,
    coef: Floats,
    evaluation: Evaluation,
    direction: Floats,
    with_hessian: bool,
    along: Floats | None,
) -> tuple[Floats, Evaluation, float] | None:
    """The first of ever shorter steps along the direction that is accepted: where it leads, what is found
    there, and its length; None where none is. `along`: where the whole step is to look for tails."""
    slope = float(evaluation.gradient @ direction)
    step = 1.0
    while True:
        trial = coef + step * direction
        if with_hessian:
            found = objective(trial) if along is None or step < 1.0 else objective(trial, along=along)
        else:
            found = objective(trial, False).with_hessian_of(evaluation, trial - coef)
        if _accepts(evaluation, step * slope, found):
            return trial, found, step
        if step < SHORTEST_STEP:
            return None
        step *= _shrink(evaluation, step * slope, found)


def certified_distance(evaluation: Evaluation, decrement: float, inverse_diagonal: Floats | None) -> float:
    """-log(1 - u lambda) / u, or inf where u lambda >= 1; see the head of this module.

    `inverse_diagonal`: (k,), or None where u is to be bounded by leverages alone.
    """
    if not math.isfinite(decrement) or evaluation.drift > LONGEST_DRIFT:
        return math.inf
    return _distance(
        _reach_of_rows(evaluation, inverse_diagonal), math.exp(evaluation.drift / 2.0) * decrement
    )


def _reach_of_rows(evaluation: Evaluation, inverse_diagonal: Floats | None) -> float:
    """Bound on u, the largest length of a row in the metric of the inverse Hessian."""
    least = evaluation.least_curvature
    by_leverage = 1.0 / math.sqrt(least) if least > 0.0 else math.inf
    if inverse_diagonal is None:
        return by_leverage
    lengths = math.exp(evaluation.drift / 2.0) * np.sqrt(np.maximum(inverse_diagonal, 0.0))
    return min(evaluation.box.reach(lengths), by_leverage)


def _distance(u: float, decrement: float) -> float:
    product = u * decrement
    if not product < 1.0:
        return math.inf
    return decrement if product < 1e-8 else -math.log1p(-product) / u


def inverse(hessian: Hessian) -> Floats:
    """(k, k) inverse of the Hessian; of a bordered one (p, p), the block of the columns not absorbed.

    Raises `StreamlrError` where it is not positive definite.
    """
    factor = factorise(hessian)
    if factor is None:
        raise StreamlrError("the information matrix is singular at the estimate; no standard errors exist.")
    return factor.into_inverse()


def _proved_ahead(state: State, metric: Metric, tolerance: float, spare: float) -> State | None:
    """The state after one more full step, where it is proved to be within the tolerance without evaluating.

    With s = max_i |x_i d| the curvature of every row changes by a factor within exp(+-s), hence after the
    step d the decrement is at most exp(s/2) (exp(s) - 1 - s) / s lambda (Bach 2010, proposition 2), u at most
    exp(s/2) u, and standard errors change by a factor within exp(+-s/2), or by less where tails are known.
    """
    # A step by the Hessian of another point leaves a share of the decrement behind, however short it is.
    if spare == 0.0 or state.evaluation.drift > 0.0:
        return None
    s = state.evaluation.box.reach(np.abs(state.direction))
    if not s < SHORT:
        return None
    growth = math.exp(s / 2.0)
    # (exp(s) - 1 - s) / s without cancellation: s / 2 + s**2 / 6 + ...
    decrement = growth * (s / 2.0 + s * s / 3.0) * state.decrement
    u = _reach_of_rows(state.evaluation, metric.lengths_in(state.evaluation))
    distance = _distance(growth * u, decrement)
    if not distance <= tolerance:
        return None
    change = _standard_error_change(s)
    if change > spare and state.evaluation.tails is not None:
        change = _change_by_tails(state.evaluation.tails, metric, state.decrement, s, u)
    if not change <= spare:
        return None
    gained = replace(state.evaluation, loss=state.evaluation.loss - 0.5 * state.decrement**2)
    coef = state.coef + state.direction
    return State(coef, gained, decrement, distance, 1.0, np.zeros_like(coef), "converged")


def _change_by_tails(tails: Tails, metric: Metric, decrement: float, s: float, u: float) -> float:
    """Bound on the relative change of the standard errors of all combinations over the Newton step d.

    With w = H^-1 a the variance of a combination a is v = a'w, and along the step H' = sum_i c_i' x_i x_i'
    with |c_i'| <= c_i |x_i'd|, so by the inequality of Cauchy and Schwarz

        |d log v| = |w'H'w| / v <= sqrt(sum c_i (x_i'd)^2) sqrt(sum c_i (x_i'w)^4) / v = lambda N(w)^2 / v

    where N, the fourth root of such a sum, is a seminorm: N(sum_j b_j e_j) <= sum_j |b_j| N(e_j) takes it
    from the directions e_j, along which it was summed, to w. Over the step c_i grows by exp(s) at most, v
    shrinks by exp(-s) at most, and w moves by (exp(s) - 1) sqrt(v) at most in the metric of H, where N is at
    most sqrt(u) times the length.
    """
    unit = metric.unit_solutions(tails.combinations)
    try:
        shares = np.linalg.solve(tails.directions.T, unit.T)
    except np.linalg.LinAlgError:
        return math.inf
    roots = np.abs(shares).T @ tails.roots + math.sqrt(u) * math.expm1(s)
    largest = float(roots.max(initial=0.0)) ** 2
    return math.expm1(math.exp(2.0 * s) * decrement * largest / 2.0)


def _believable(evaluation: Evaluation, direction: Floats, information: Floats) -> Floats:
    """The Newton direction, or a damped one where the quadratic model promises what cannot be.

    Where all rows that inform a column are far in a tail, its curvature is next to nothing and the Newton
    step next to infinite. The loss cannot fall below zero, and no flat column of unit size can move eta by
    BELIEVABLE and still be described by a parabola. A column that would is held back by an addition to its
    own place on the diagonal of the Hessian, and the others go on as they were about to; where no column is
    to blame, a multiple of the largest diagonal seen so far (`information`) is added, which holds back flat
    directions most (Levenberg 1944, Quarterly of Applied Mathematics 2, 164-168).
    """
    # Only columns that have lost their curvature count: those of a collinear pair may move far, together.
    own = diagonal(evaluation.hessian)
    size = np.where(own < LOST * information, np.minimum(evaluation.box.extent, 1.0), 0.0)
    slope = np.abs(evaluation.gradient)
    damping = np.zeros_like(information)
    for _ in range(MOST_DAMPINGS):
        gain = -0.5 * float(evaluation.gradient @ direction)
        too_far = np.abs(direction) * size > BELIEVABLE
        if 0.0 < gain <= evaluation.loss and not too_far.any():
            break
        if too_far.any():
            # Alone the column would then move as far as is believed.
            least = np.maximum(slope * size / BELIEVED - own, FLATTEST * information)
            damping = np.where(too_far, np.maximum(10.0 * damping, least), damping)
        else:
            damping = np.maximum(10.0 * damping, LEAST_DAMPING * information)
        factor = factorise(plus_diagonal(evaluation.hessian, damping))
        direction = np.zeros_like(direction) if factor is None else -factor.solve(evaluation.gradient)
    return direction


def _crawls(decrements: list[float]) -> bool:
    """Whether damped steps have led nowhere for a while: the whole step is then taken at its word.

    Where a narrow gap separates the outcomes the coefficients have to go far, and no parabola tells how far.
    """
    recent = decrements[-CRAWLING_STEPS - 1 :]
    return len(recent) > CRAWLING_STEPS and all(
        after > CRAWLING_RATE * before for before, after in itertools.pairwise(recent)
    )


def _standard_error_change(drift: float) -> float:
    """Bound on the relative change of standard errors while no row's eta moves by more than `drift`."""
    return math.expm1(min(drift, 1.0) / 2.0)


def _wants_hessian(evaluation: Evaluation, direction: Floats, decrements: list[float], spare: float) -> bool:
    """Whether the next evaluation should have a Hessian of its own: steps shorten too slowly with the one at
    hand, or those behind the next are likely to be too short to change it any more."""
    last = decrements[-1] / decrements[-2] if len(decrements) > 1 else RATE_TO_EXPECT
    if not last <= SLOW:
        return True
    rate = max(last, RATE_TO_EXPECT) if evaluation.drift > 0.0 else RATE_TO_EXPECT
    behind = rate * evaluation.box.reach(np.abs(direction))
    return _standard_error_change(behind) <= spare


def _status(decrements: list[float], distance: float, tolerance: float, singular: bool) -> Status:
    decrement = decrements[-1]
    if distance <= tolerance:
        return "converged"
    if singular:
        # Far from the maximum a singular Hessian is an overshoot, which damping mends, as long as it has a
        # factor that gives a step at all; near it there is no information left in the direction in which the
        # coefficients go.
        lost = math.isinf(decrement) or any(before < SINGULAR_AFTER for before in decrements[:-1])
        return "diverging" if lost else "running"
    recent = decrements[-LINEAR_STEPS - 1 :]
    slow = len(recent) > LINEAR_STEPS and all(
        after > LINEAR_RATE * before for before, after in itertools.pairwise(recent)
    )
    if slow and decrement < DIVERGED and not math.isfinite(distance):
        return "diverging"
    if len(decrements) > 2 and math.isfinite(distance) and decrement >= decrements[-2] and decrement < 1e-6:
        return "stalled"
    return "running"


def _accepts(evaluation: Evaluation, slope: float, trial: Evaluation) -> bool:
    """`slope`: change of the loss over the trial's step if it went on as it begins."""
    if not math.isfinite(trial.loss):
        return False
    change = trial.loss - evaluation.loss
    if abs(change) <= LOSS_ROUNDING * abs(evaluation.loss):
        return True
    return change <= SUFFICIENT_DECREASE * slope


def _shrink(evaluation: Evaluation, slope: float, trial: Evaluation) -> float:
    """Factor for the next trial: the minimum of the parabola through what is known, kept in [0.1, 0.5]."""
    if not math.isfinite(trial.loss):
        return 0.1
    curvature = 2.0 * (trial.loss - evaluation.loss - slope)
    return float(np.clip(-slope / curvature, 0.1, 0.5)) if curvature > 0 else 0.5
