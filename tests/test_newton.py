"""The driver and its certificate on problems whose minimum is known to rounding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import naive
import numpy as np
import pytest
from scipy.linalg import eigh

from streamlr.errors import StreamlrError
from streamlr.linear_algebra import factorise
from streamlr.newton import (
    Box,
    Evaluation,
    Metric,
    State,
    Tails,
    _change_by_tails,
    certified_distance,
    inverse,
    newton,
)


def logistic(X: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], Evaluation]:
    """The logistic loss of 0/1 outcomes as an objective."""
    box = Box(np.abs(X).max(axis=0), np.arange(X.shape[1]))

    def objective(coef: np.ndarray) -> Evaluation:
        with np.errstate(over="ignore"):
            loss, slope, curvature = naive.losses(X @ coef, y, 1 - y)
        hessian = X.T @ (curvature[:, None] * X)
        return Evaluation(float(loss.sum()), X.T @ slope, hessian, box, float(curvature.min()))

    return objective


def problem(seed: int, rows: int = 80, columns: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [np.ones(rows), rng.normal(size=(rows, columns - 1)) * rng.uniform(0.2, 3, columns - 1)]
    )
    eta = X @ rng.normal(size=columns) * 0.7
    return X, (rng.random(rows) < 1 / (1 + np.exp(-eta))).astype(float)


def states(
    objective: Callable[[np.ndarray], Evaluation], start: np.ndarray, tol: float = 1e-10
) -> list[State]:
    found = []
    for state in newton(objective, start, tolerance=tol):
        found.append(state)
        if len(found) == 60:
            break
    return found


@pytest.mark.parametrize("seed", range(40))
def test_the_certificate_bounds_the_true_distance(seed: int) -> None:
    X, y = problem(seed)
    objective = logistic(X, y)
    path = states(objective, np.zeros(4), tol=1e-13)
    best = path[-1].coef
    certified = 0
    for state in path[:-1]:
        if math.isfinite(state.distance):
            certified += 1
            step = best - state.coef
            distance = math.sqrt(step @ state.evaluation.hessian @ step)
            assert distance <= state.distance * (1 + 1e-9) + 1e-13
    assert path[-1].status == "converged"
    assert certified >= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_far_start_comes_home(seed: int) -> None:
    X, y = problem(seed)
    objective = logistic(X, y)
    home = states(objective, np.zeros(4))[-1]
    away = states(objective, np.array([9.0, -12.0, 8.0, 15.0]))[-1]
    assert home.status == away.status == "converged"
    errors = np.sqrt(np.diag(np.linalg.inv(home.evaluation.hessian)))
    np.testing.assert_allclose(away.coef / errors, home.coef / errors, atol=1e-9)


def test_a_rejected_trial_is_shortened() -> None:
    """From log odds of 2.5 the full step lands at -3.6, beyond the minimum at 0; losses never rise."""
    path = states(logistic(np.ones((40, 1)), np.arange(40) % 2.0), np.array([2.5]))
    losses = [state.evaluation.loss for state in path]
    assert path[-1].status == "converged"
    assert any(0 < state.step < 1 for state in path)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize("overlap", [0, 2])
def test_separated_data_are_never_certified(overlap: int) -> None:
    x = np.r_[np.linspace(-3, -1, 20), np.zeros(overlap), np.linspace(1, 3, 20)]
    y = np.r_[np.zeros(20), np.arange(overlap) % 2, np.ones(20)]
    path = states(logistic(np.column_stack([np.ones(x.size), x]), y), np.zeros(2), tol=1e-6)
    assert all(not math.isfinite(state.distance) for state in path)
    assert path[-1].status in ("diverging", "running")


def test_quasi_separation_ends_as_diverging() -> None:
    x = np.r_[np.zeros(10), np.ones(10)]
    y = np.r_[np.arange(10) % 2, np.ones(10)]
    path = states(logistic(np.column_stack([np.ones(20), x]), y), np.zeros(2), tol=1e-8)
    assert path[-1].status == "diverging"
    assert path[-1].direction[1] > 0


def test_a_spared_last_step_is_where_it_says() -> None:
    X, y = problem(3, rows=4000)
    objective = logistic(X, y)
    best = states(objective, np.zeros(4), tol=1e-13)[-1]
    spared = list(newton(objective, np.zeros(4), tolerance=1e-8, spare=1e-3))
    assert spared[-1].status == "converged"
    # One evaluation less than states: the last state repeats the Hessian of the one before it.
    assert spared[-1].evaluation.hessian is spared[-2].evaluation.hessian
    step = best.coef - spared[-1].coef
    assert math.sqrt(step @ best.evaluation.hessian @ step) <= spared[-1].distance * (1 + 1e-6) + 1e-13
    assert spared[-1].evaluation.loss == pytest.approx(best.evaluation.loss, rel=1e-14)
    ratio = np.diag(np.linalg.inv(spared[-1].evaluation.hessian)) / np.diag(
        np.linalg.inv(best.evaluation.hessian)
    )
    assert np.all(np.abs(np.sqrt(ratio) - 1) <= 1e-3)


def test_a_step_to_the_moon_is_damped() -> None:
    """One row of a level in each tail: its curvature is next to nothing, the Newton step next to infinite."""
    X, y = problem(5, rows=200)
    level = np.zeros(200)
    level[:2] = 1.0
    X = np.column_stack([X, level])
    X[:2, 1] = 40.0
    y[:2] = [0.0, 1.0]
    path = states(logistic(X, y), np.array([0.0, 1.0, 0.0, 0.0, 0.0]))
    assert path[-1].status == "converged"
    assert len(path) < 40


def test_a_column_that_went_too_far_does_not_hold_back_the_others() -> None:
    """Thousands of rare levels: now and then one overshoots, while the others have far to go still."""
    X = np.zeros((20_003, 2))
    X[:2, 0] = X[2:, 1] = 1.0
    y = np.r_[1.0, 0.0, 0.0, np.ones(20_000)]
    path = states(logistic(X, y), np.array([60.0, 0.0]))
    assert path[-1].status == "converged"
    assert path[-1].coef == pytest.approx([0.0, np.log(20_000)], abs=1e-8)
    assert len(path) < 20


def test_reach_counts_one_column_of_a_group() -> None:
    box = Box(np.array([1.0, 2.0, 1.0, 1.0]), np.array([0, 1, 2, 2]))
    assert box.reach(np.array([1.0, 3.0, 5.0, 4.0])) == 1.0 + 6.0 + 5.0
    assert Box(np.empty(0), np.empty(0, dtype=np.int64)).reach(np.empty(0)) == 0.0


def test_the_distance_formula() -> None:
    box = Box(np.array([2.0]), np.array([0]))
    evaluation = Evaluation(1.0, np.array([0.1]), np.array([[4.0]]), box, 0.0)
    # u = 2 sqrt(1/4) = 1, so the bound is -log(1 - lambda).
    assert certified_distance(evaluation, 0.25, np.array([0.25])) == pytest.approx(-math.log(0.75))
    assert certified_distance(evaluation, 1.0, np.array([0.25])) == math.inf


@pytest.mark.parametrize("k", [1, 5, 256, 257])
def test_factors_solve_and_invert(k: int) -> None:
    rng = np.random.default_rng(k)
    A = rng.normal(size=(k, 2 * k + 3))
    scale = 10.0 ** rng.uniform(-6, 6, k)
    matrix = (A @ A.T) * np.multiply.outer(scale, scale)
    factor = factorise(matrix)
    assert factor is not None
    b = rng.normal(size=k) * scale
    # Condition numbers of scaled Wishart matrices of this shape stay below 1e3.
    np.testing.assert_allclose((matrix @ factor.solve(b)) / scale, b / scale, atol=1e-10)
    variances = factor.inverse_diagonal()
    inverse = factor.into_inverse()
    np.testing.assert_allclose(inverse @ matrix * np.divide.outer(scale, scale), np.eye(k), atol=1e-9)
    np.testing.assert_allclose(variances, np.diag(inverse), rtol=1e-12)
    assert np.array_equal(inverse, inverse.T)
    assert factorise(-matrix) is None


@pytest.mark.parametrize("seed", range(10))
def test_the_certificate_holds_at_points_that_newton_never_visits(seed: int) -> None:
    """Around the minimum at all distances, in the metric of the Hessian there."""
    rng = np.random.default_rng(seed)
    X, y = problem(seed)
    objective = logistic(X, y)
    best = states(objective, np.zeros(4), tol=1e-13)[-1]
    root = np.linalg.cholesky(np.linalg.inv(best.evaluation.hessian))
    certified = 0
    for length in np.geomspace(1e-6, 10, 200):
        h = rng.normal(size=4)
        state = next(newton(objective, best.coef + root @ h * (length / np.linalg.norm(h)), tolerance=0.0))
        if math.isfinite(state.distance):
            certified += 1
            step = best.coef - state.coef
            # The minimum itself is known to 1e-13 and rounding of the gradient, some 1e-14.
            assert math.sqrt(step @ state.evaluation.hessian @ step) <= state.distance * (1 + 1e-9) + 1e-12
    assert 100 < certified < 200


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["complete", "quasi"])
def test_no_separated_problem_is_ever_certified(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    X, _ = problem(seed)
    direction = rng.normal(size=4)
    side = X @ direction
    if kind == "quasi":  # twelve rows of both outcomes lie in the plane that separates the others
        X[:12] -= np.outer(side[:12], direction) / (direction @ direction)
        side[:12] = 0.0
    y = np.where(side == 0.0, rng.permutation(80) % 2, side > 0).astype(float)
    start = rng.normal(size=4) * rng.choice([0.0, 1.0, 3.0])
    for state in states(logistic(X, y), start, tol=1e-6):
        assert state.distance == math.inf
        assert state.status in ("running", "diverging", "stalled")


@pytest.mark.parametrize("seed", range(20))
def test_badly_started_problems_of_every_width_converge(seed: int) -> None:
    """Columns of unit size, as the driver is promised, and a start that puts rows at eta of up to 60."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 12))
    X, y = problem(seed, rows=40 * columns, columns=columns)
    y[:2] = [0.0, 1.0]
    size = np.abs(X).max(axis=0)
    objective = logistic(X, y)
    path = states(objective, rng.normal(size=columns) * 20 / size)
    assert path[-1].status == "converged"
    assert path[-1].distance <= 1e-10
    gradient = path[-1].evaluation.gradient
    errors = np.sqrt(np.diag(np.linalg.inv(path[-1].evaluation.hessian)))
    # |g'h| <= lambda for every h of unit length, of which each column's error is one.
    assert np.all(np.abs(gradient) * errors <= 1e-9)
    for before, after in itertools.pairwise(path):
        assert after.evaluation.loss <= before.evaluation.loss * (1 + 1e-14)


def test_a_known_evaluation_is_not_asked_for_again() -> None:
    X, y = problem(1)
    objective = logistic(X, y)
    asked: list[np.ndarray] = []

    def counted(coef: np.ndarray) -> Evaluation:
        asked.append(coef)
        return objective(coef)

    start = np.zeros(4)
    path = list(newton(counted, start, objective(start), tolerance=1e-8))
    assert not any(np.array_equal(coef, start) for coef in asked)
    # Whole steps only, so an evaluation a state but the first.
    assert [state.step for state in path] == [0.0] + [1.0] * (len(path) - 1)
    assert len(asked) == len(path) - 1


def test_no_columns_are_at_their_minimum() -> None:
    empty = Evaluation(
        3.0, np.empty(0), np.empty((0, 0)), Box(np.empty(0), np.empty(0, dtype=np.int64)), 0.25
    )
    (state,) = newton(lambda coef: empty, np.empty(0), tolerance=1e-8)
    assert (state.status, state.distance, state.decrement) == ("converged", 0.0, 0.0)


def test_a_descent_that_does_not_descend_stalls_where_it_is() -> None:
    """x**2 with a gradient of the wrong sign: each trial is worse, down to the shortest step."""

    def wrong(coef: np.ndarray) -> Evaluation:
        box = Box(np.array([1.0]), np.array([0]))
        return Evaluation(float(coef @ coef), -2.0 * coef, np.array([[2.0]]), box, 0.25)

    path = list(newton(wrong, np.array([1.0]), tolerance=1e-8))
    assert [state.status for state in path] == ["running", "stalled"]
    assert path[-1].coef[0] == 1.0
    assert path[-1].step == 0.0


def test_a_gradient_of_pure_rounding_stalls() -> None:
    """A decrement that no longer falls can reach no tolerance below it, and must end all the same."""
    box = Box(np.array([1.0]), np.array([0]))
    noisy = Evaluation(1.0, np.array([1e-9]), np.array([[1.0]]), box, 0.25)
    path = list(newton(lambda coef: noisy, np.zeros(1), tolerance=1e-12))
    assert path[-1].status == "stalled"
    assert len(path) <= 5
    assert path[-1].distance == pytest.approx(1e-9)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_losses_that_are_no_number_are_never_accepted(fault: float) -> None:
    """Beyond 1 the loss is no number: the minimum of the parabola, at 3, is out of reach."""

    def walled(coef: np.ndarray) -> Evaluation:
        box = Box(np.array([1.0]), np.array([0]))
        loss = float((coef[0] - 3.0) ** 2) if coef[0] <= 1.0 else fault
        return Evaluation(loss, 2.0 * (coef - 3.0), np.array([[2.0]]), box, 0.0)

    path = states(walled, np.zeros(1))
    assert all(math.isfinite(state.evaluation.loss) for state in path)
    assert path[-1].status == "stalled"
    assert path[-1].coef[0] == pytest.approx(1.0, abs=1e-4)


def test_reach_is_the_largest_of_all_rows() -> None:
    """Every corner of the box, with one column of each group."""
    rng = np.random.default_rng(1)
    group = np.array([0, 1, 1, 1, 2, 3, 3])
    for _ in range(20):
        extent, lengths = rng.random(7) * 5, rng.random(7)
        choices = itertools.product(*(np.flatnonzero(group == g) for g in range(4)))
        most = max(sum(extent[j] * lengths[j] for j in choice) for choice in choices)
        assert Box(extent, group).reach(lengths) == pytest.approx(most, rel=1e-15)


def test_the_smaller_of_two_bounds_counts() -> None:
    wide = Box(np.array([100.0]), np.array([0]))
    # By ranges u = 100; by leverage 1 / sqrt(0.25) = 2.
    evaluation = Evaluation(1.0, np.array([0.1]), np.array([[1.0]]), wide, 0.25)
    want = -math.log1p(-2.0 * 0.25) / 2.0
    assert certified_distance(evaluation, 0.25, np.array([1.0])) == pytest.approx(want, rel=1e-15)
    flat = Evaluation(1.0, np.array([0.1]), np.array([[1.0]]), wide, 0.0)
    assert certified_distance(flat, 0.25, np.array([1.0])) == math.inf
    assert certified_distance(flat, 0.01 * (1 - 1e-9), np.array([1.0])) < math.inf
    # Tiny decrements: the series of -log(1 - x) begins with x, and nothing may be lost.
    assert certified_distance(evaluation, 1e-12, np.array([1.0])) == pytest.approx(1e-12, rel=1e-8)
    for nothing in (math.inf, math.nan):
        assert certified_distance(evaluation, nothing, np.array([1.0])) == math.inf


def test_a_singular_information_matrix_has_no_inverse() -> None:
    np.testing.assert_allclose(inverse(np.array([[4.0, 0.0], [0.0, 1e-200]])), np.diag([0.25, 1e200]))
    for singular in (np.zeros((2, 2)), np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((1, 1), np.nan)):
        with pytest.raises(StreamlrError, match="singular"):
            inverse(singular)


# Hessians taken over from earlier points


class Watched:
    """An objective that counts; where no Hessian is asked for, what stands in its place is no number."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.whole = logistic(X, y)
        self.hessians = self.gradients = 0

    def __call__(self, coef: np.ndarray, with_hessian: bool = True) -> Evaluation:
        evaluation = self.whole(coef)
        if with_hessian:
            self.hessians += 1
            return evaluation
        self.gradients += 1
        return replace(evaluation, hessian=np.full_like(evaluation.hessian, np.nan))


SPARE = 1e-6
MOST_STATES = 120


def wide_problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """4 to 30 columns, 25 to 60 rows a column, both outcomes."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(4, 31))
    X, y = problem(seed, columns * int(rng.integers(25, 60)), columns)
    return X, y


def far_start(seed: int, X: np.ndarray) -> np.ndarray:
    """Coefficients that put rows at eta of up to a hundred and more."""
    return np.random.default_rng(seed + 1000).normal(size=X.shape[1]) * 20 / np.abs(X).max(axis=0)


def reusing(objective: Watched, start: np.ndarray, spare: float = SPARE, tol: float = 1e-8) -> list[State]:
    steps = newton(objective, start, tolerance=tol, spare=spare, reuse=True)
    return list(itertools.islice(steps, MOST_STATES))


def errors_of(hessian: np.ndarray) -> np.ndarray:
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


@pytest.mark.parametrize("spare", [1e-6, 1e-3])
@pytest.mark.parametrize("far", [False, True], ids=["null", "far"])
@pytest.mark.parametrize("seed", range(12))
def test_reused_hessians_lead_to_the_same_maximum(seed: int, far: bool, spare: float) -> None:
    X, y = wide_problem(seed)
    best = states(logistic(X, y), np.zeros(X.shape[1]), tol=1e-13)[-1]
    errors = errors_of(best.evaluation.hessian)
    objective = Watched(X, y)
    path = reusing(objective, far_start(seed, X) if far else np.zeros(X.shape[1]), spare)
    assert path[-1].status == "converged"
    assert path[-1].distance <= 1e-8
    # No coefficient moves by more errors than the whole moves in the metric of H; 1e-13 is the reference's.
    assert np.max(np.abs(path[-1].coef - best.coef) / errors) <= 1e-8 + 1e-12
    assert np.max(np.abs(errors_of(path[-1].evaluation.hessian) / errors - 1)) <= spare
    # A loss is known to rounding and to half the squared distance, which is below it.
    assert path[-1].evaluation.loss == pytest.approx(best.evaluation.loss, rel=1e-12)
    # Seen: 4 to 6 of 11 to 17 evaluations from the null model, up to 13 of 24 from afar.
    assert objective.hessians <= (14 if far else 7)
    assert objective.gradients >= 4


@pytest.mark.parametrize("seed", range(6))
def test_from_nearby_two_hessians_are_enough(seed: int) -> None:
    """As from a sample's estimate, three errors away in all directions: the first and that of the report."""
    X, y = wide_problem(seed)
    best = states(logistic(X, y), np.zeros(X.shape[1]), tol=1e-13)[-1]
    aside = np.random.default_rng(seed).choice([-1.0, 1.0], X.shape[1])
    root = np.linalg.cholesky(np.linalg.inv(best.evaluation.hessian))
    objective = Watched(X, y)
    path = reusing(objective, best.coef + 3.0 / math.sqrt(X.shape[1]) * root @ aside)
    assert path[-1].status == "converged"
    assert objective.hessians == 2
    step = best.coef - path[-1].coef
    assert math.sqrt(step @ best.evaluation.hessian @ step) <= path[-1].distance + 1e-12


@pytest.mark.parametrize("far", [False, True], ids=["null", "far"])
def test_the_certificate_bounds_the_distance_while_hessians_are_reused(far: bool) -> None:
    """In the metric of the Hessian at that very state, which the driver does not have."""
    certified = drifted = 0
    for seed in range(40):
        X, y = wide_problem(seed)
        whole = logistic(X, y)
        best = states(whole, np.zeros(X.shape[1]), tol=1e-13)[-1].coef
        start = far_start(seed, X) if far else np.zeros(X.shape[1])
        for spare in (1e-6, 1e-2):
            for state in reusing(Watched(X, y), start, spare):
                if math.isfinite(state.distance):
                    certified += 1
                    drifted += state.evaluation.drift > 0
                    step = best - state.coef
                    distance = math.sqrt(step @ whole(state.coef).hessian @ step)
                    # The minimum itself is known to 1e-13 and rounding of the gradient, some 1e-14.
                    assert distance <= state.distance * (1 + 1e-9) + 1e-12
    assert certified > 200
    assert drifted > 50


@pytest.mark.parametrize("seed", range(10))
def test_the_certificate_holds_with_a_hessian_from_anywhere(seed: int) -> None:
    """At points the driver never visits, with the Hessian of other such points."""
    rng = np.random.default_rng(seed)
    X, y = problem(seed)
    whole = logistic(X, y)
    best = states(whole, np.zeros(4), tol=1e-13)[-1]
    root = np.linalg.cholesky(np.linalg.inv(best.evaluation.hessian))

    def aside(length: float) -> np.ndarray:
        h = rng.normal(size=4)
        return best.coef + root @ h * (length / np.linalg.norm(h))

    certified = 0
    for length in np.geomspace(1e-6, 3, 200):
        here, origin = aside(length), aside(rng.choice([0.01, 0.1, 1.0]))
        there = whole(here)
        evaluation = there.with_hessian_of(whole(origin), here - origin)
        metric = Metric(evaluation.hessian)
        distance = certified_distance(
            evaluation, metric.solve(evaluation.gradient)[1], metric.inverse_diagonal
        )
        if math.isfinite(distance):
            certified += 1
            step = best.coef - here
            assert math.sqrt(step @ there.hessian @ step) <= distance * (1 + 1e-9) + 1e-12
    assert 30 < certified < 200


def test_the_distance_formula_with_a_drift() -> None:
    """Either bound on u and lambda itself may be exp(s / 2) larger than in the metric at hand."""
    ranges = Box(np.array([2.0]), np.array([0]))
    drifted = Evaluation(1.0, np.array([0.1]), np.array([[4.0]]), ranges, 0.0, drift=0.5)
    # u = 2 sqrt(1/4) exp(1/4)
    want = -math.log1p(-0.25 * math.exp(0.5)) / math.exp(0.25)
    assert certified_distance(drifted, 0.25, np.array([0.25])) == pytest.approx(want, rel=1e-14)
    # The least curvature is of the point itself: u = 2 whatever the drift.
    steep = replace(drifted, least_curvature=0.25, box=Box(np.array([100.0]), np.array([0])))
    want = -math.log1p(-2 * 0.25 * math.exp(0.25)) / 2
    assert certified_distance(steep, 0.25, np.array([0.25])) == pytest.approx(want, rel=1e-14)
    assert certified_distance(replace(drifted, drift=1e9), 1e-9, np.array([0.25])) == math.inf


@pytest.mark.parametrize("tol", [1e-2, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_a_loose_tolerance_is_no_excuse_for_an_old_hessian(seed: int, tol: float) -> None:
    """Standard errors are those of the point told, though its distance was proved with another's."""
    X, y = problem(seed, rows=400)
    path = reusing(Watched(X, y), np.zeros(4), tol=tol)
    assert path[-1].status == "converged"
    own = errors_of(logistic(X, y)(path[-1].coef).hessian)
    assert np.max(np.abs(errors_of(path[-1].evaluation.hessian) / own - 1)) <= SPARE


@pytest.mark.parametrize("seed", range(20))
def test_curvature_stays_within_the_drift(seed: int) -> None:
    """exp(-s) H <= H(coef) <= exp(s) H in the Loewner order: generalised eigenvalues."""
    rng = np.random.default_rng(seed)
    X, y = problem(seed, rows=200, columns=6)
    whole = logistic(X, y)
    coef = rng.normal(size=6)
    reference = whole(coef)
    for length in (1e-6, 1e-3, 0.1, 1.0):
        moved = rng.normal(size=6) * length
        evaluation = whole(coef + moved).with_hessian_of(reference, moved)
        assert evaluation.hessian is reference.hessian
        ratios = eigh(whole(coef + moved).hessian, reference.hessian, eigvals_only=True)
        # Rounding of the eigenvalues: the condition of H, below 1e4, times 1e-16.
        assert np.log(ratios).max() <= evaluation.drift + 1e-11
        assert np.log(ratios).min() >= -evaluation.drift - 1e-11


def test_the_drift_is_reached_in_a_tail() -> None:
    """Far out the curvature is exp(-|eta|), so that no smaller bound would do."""
    X = np.full((10, 1), 2.0)
    whole = logistic(X, np.arange(10) % 2.0)
    before, after = whole(np.array([15.0])), whole(np.array([16.0]))
    evaluation = after.with_hessian_of(before, np.array([1.0]))
    assert evaluation.drift == 2.0
    # The curvature is exp(-eta) up to a relative 2 exp(-30) = 2e-13.
    assert math.log(before.hessian[0, 0] / after.hessian[0, 0]) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("far", [False, True], ids=["null", "far"])
@pytest.mark.parametrize("seed", range(6))
def test_drift_adds_up_from_step_to_step(seed: int, far: bool) -> None:
    X, y = wide_problem(seed)
    path = reusing(Watched(X, y), far_start(seed, X) if far else np.zeros(X.shape[1]))
    runs = 0
    for before, after in itertools.pairwise(path[:-1]):
        if after.evaluation.drift == 0.0:
            assert np.isfinite(after.evaluation.hessian).all()
            assert after.evaluation.hessian is not before.evaluation.hessian
            continue
        runs += before.evaluation.drift > 0.0
        assert after.evaluation.hessian is before.evaluation.hessian
        # Columns are in no group here, so the reach is a plain sum; the order of summing leaves rounding.
        reach = float(np.abs(X).max(axis=0) @ np.abs(after.coef - before.coef))
        assert after.evaluation.drift == pytest.approx(before.evaluation.drift + reach, rel=1e-12)
    assert runs >= 1


def test_slow_contraction_asks_for_a_new_hessian() -> None:
    """A decrement that did not fall to 0.4 of the one before it is the last with that Hessian."""
    slow = 0
    for seed in range(15):
        X, y = wide_problem(seed)
        path = reusing(Watched(X, y), far_start(seed, X))
        assert path[-1].status == "converged"
        for before, at, after in zip(path, path[1:], path[2:], strict=False):
            if at.evaluation.drift > 0.0 and at.decrement > 0.4 * before.decrement:
                slow += 1
                assert after.evaluation.drift == 0.0
    assert slow > 20


def test_a_hessian_is_kept_while_it_serves() -> None:
    """Decrements that fall fast need no new one before steps are too short to change it."""
    X, y = wide_problem(2)
    path = reusing(Watched(X, y), np.zeros(X.shape[1]))
    for before, at, after in zip(path, path[1:], path[2:], strict=False):
        if at.evaluation.drift > 0.0 and at.decrement < 0.4 * before.decrement:
            # Behind the next step there is another as much shorter, but hardly less than a tenth.
            rate = max(at.decrement / before.decrement, 0.1)
            behind = rate * at.evaluation.box.reach(np.abs(at.direction))
            assert (after.evaluation.drift == 0.0) == (behind <= 2 * math.log1p(SPARE))


def pairs_of(seed: int, k: int, count: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A Hessian and steps with the changes of gradient that other curvatures make over them."""
    rng = np.random.default_rng(seed)

    def curvature() -> np.ndarray:
        A = rng.normal(size=(k, 3 * k))
        return A @ A.T

    hessian = curvature()
    moves = [rng.normal(size=k) for _ in range(count)]
    return hessian, [(moved, curvature() @ moved) for moved in moves]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_metric_is_the_dense_bfgs_update(k: int, count: int) -> None:
    """Nocedal and Wright 2006, equation 6.17: (I - r s y') H (I - r y s') + r s s', r = 1 / s'y."""
    hessian, pairs = pairs_of(k + 10 * count, k, count)
    metric = Metric(hessian)
    dense = np.linalg.inv(hessian)
    for moved, change in pairs:
        metric.learn(moved, change)
        share = 1.0 / (moved @ change)
        left = np.eye(k) - share * np.outer(moved, change)
        dense = left @ dense @ left.T + share * np.outer(moved, moved)
    gradient = np.random.default_rng(k).normal(size=k)
    step, decrement = metric.solve(gradient)
    # Condition numbers below 1e4 after nine updates.
    np.testing.assert_allclose(step, -dense @ gradient, rtol=0, atol=1e-11 * np.abs(dense @ gradient).max())
    # The decrement, and all that is certified from it, is the Hessian's alone.
    assert decrement == pytest.approx(math.sqrt(gradient @ np.linalg.solve(hessian, gradient)), rel=1e-12)
    np.testing.assert_allclose(metric.inverse_diagonal, np.diag(np.linalg.inv(hessian)), rtol=1e-10)


@pytest.mark.parametrize("count", [1, 4])
def test_the_last_step_is_explained(count: int) -> None:
    """The secant equation: what the gradient changed by leads back over the step that changed it."""
    hessian, pairs = pairs_of(count, 8, count)
    metric = Metric(hessian)
    for moved, change in pairs:
        metric.learn(moved, change)
    np.testing.assert_allclose(metric.solve(change)[0], -moved, rtol=1e-10)


def test_what_contradicts_convexity_is_not_learned() -> None:
    """A gradient that falls along a step, by rounding, would make directions that lead uphill."""
    hessian, pairs = pairs_of(3, 5, 1)
    metric, plain = Metric(hessian), Metric(hessian)
    moved, change = pairs[0]
    for wrong in (-change, np.zeros(5), np.full(5, np.nan)):
        metric.learn(moved, wrong)
    gradient = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(metric.solve(gradient)[0], plain.solve(gradient)[0])


def test_without_a_factor_there_is_no_step() -> None:
    metric = Metric(np.array([[1.0, 2.0], [2.0, 1.0]]))
    step, decrement = metric.solve(np.ones(2))
    assert (step.tolist(), decrement) == ([0.0, 0.0], math.inf)
    assert np.all(metric.inverse_diagonal == math.inf)
    step, decrement = Metric(np.eye(2)).solve(np.array([np.nan, 1.0]))
    assert (step.tolist(), decrement) == ([0.0, 0.0], math.inf)


def separated_problem(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Separated by a direction of small whole numbers, of data on a grid of 1/64: exactly so in doubles.

    "quasi": four rows a column, of both outcomes, lie in the plane that separates the others.
    """
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 7))
    n, flat = 40 * k, 4 * k if kind == "quasi" else 0
    X = np.round(rng.normal(size=(n, k)) * rng.uniform(0.2, 3, k) * 64) / 64
    direction = np.r_[1.0, rng.integers(-3, 4, k - 1)]
    X[:flat, 0] = -(X[:flat, 1:] @ direction[1:])
    side = X @ direction
    assert not side[:flat].any()
    X = X * 2.0 ** -np.ceil(np.log2(np.abs(X).max(axis=0)))  # columns of unit size, as the driver is promised
    return X, np.where(side == 0.0, rng.permutation(n) % 2, side > 0).astype(float)


@pytest.mark.parametrize("kind", ["complete", "quasi"])
@pytest.mark.parametrize("seed", range(20))
def test_no_separated_problem_is_certified_with_a_reused_hessian(seed: int, kind: str) -> None:
    X, y = separated_problem(seed, kind)
    start = np.random.default_rng(seed).normal(size=X.shape[1]) * (seed % 3)
    path = reusing(Watched(X, y), start, tol=1e-6)
    for state in path:
        assert state.distance == math.inf
        assert state.status in ("running", "diverging", "stalled")


def test_reused_hessians_do_not_go_on_for_ever() -> None:
    """They end, or the loss falls below log 2, which proves complete separation."""
    creeping = 0
    for seed in range(40):
        for kind in ("complete", "quasi"):
            X, y = separated_problem(seed, kind)
            last = reusing(Watched(X, y), np.zeros(X.shape[1]), tol=1e-6)[-1]
            creeping += last.status == "running" and last.evaluation.loss >= math.log(2)
    # Where the margin is a hundredth of the columns' size, damping holds the steps back, reused or not.
    assert creeping <= 4


@pytest.mark.parametrize("reuse", [False, True])
def test_no_quasi_separated_problem_is_certified_by_rounding(reuse: bool) -> None:
    """Far out, the curvature along the separating direction is the rounding of that of other rows."""
    for seed in range(150):
        X, y = separated_problem(seed, "quasi")
        steps = newton(Watched(X, y), np.zeros(X.shape[1]), tolerance=1e-8, spare=SPARE, reuse=reuse)
        for state in itertools.islice(steps, MOST_STATES):
            assert state.distance == math.inf, seed


def test_a_step_proved_ahead_counts_the_drift_of_its_hessian() -> None:
    """A step by another point's Hessian leaves up to (exp(drift) - 1) lambda behind, however short it is."""
    for seed in range(10):
        X, y = problem(seed, rows=400)
        whole = logistic(X, y)
        best = states(whole, np.zeros(4), tol=1e-13)[-1]
        root = np.linalg.cholesky(np.linalg.inv(best.evaluation.hessian))
        here = best.coef + 1e-4 * root[:, 0]
        origin = here + np.full(4, 0.1) / np.abs(X).max(axis=0) / 4
        first = whole(here).with_hessian_of(whole(origin), here - origin)
        steps = newton(Watched(X, y), here, first, tolerance=1e-6, spare=0.06, reuse=True)
        for state in itertools.islice(steps, MOST_STATES):
            step = best.coef - state.coef
            distance = math.sqrt(step @ whole(state.coef).hessian @ step)
            assert distance <= state.distance * (1 + 1e-9) + 1e-12, (seed, distance, state.distance)


def test_a_stalled_state_has_a_hessian_of_its_own() -> None:
    """The last state's Hessian leaves standard errors right to `spare`, whatever its status."""
    for seed in range(60):
        X, y = separated_problem(seed, "quasi")
        last = reusing(Watched(X, y), np.zeros(X.shape[1]))[-1]
        assert math.expm1(last.evaluation.drift / 2) <= SPARE, (seed, last.status)


def test_quasi_separation_is_recognised_within_the_passes_of_a_fit() -> None:
    """50 by default; without reuse the slowest takes 41."""

    def recognised(reuse: bool) -> int:
        count = 0
        for seed in range(40):
            X, y = separated_problem(seed, "quasi")
            objective = Watched(X, y)
            for state in newton(objective, np.zeros(X.shape[1]), tolerance=1e-8, spare=SPARE, reuse=reuse):
                if objective.hessians + objective.gradients > 50:
                    break
                count += state.status == "diverging"
        return count

    assert recognised(reuse=True) >= recognised(reuse=False)


# Steps that a guide bends, and the last one taken unseen because tails are known


def tails_of(X: np.ndarray, evaluation: Evaluation, curvature: np.ndarray, combinations: np.ndarray) -> Tails:
    """What a pass tells, along directions that are off by a tenth."""
    directions = np.linalg.solve(evaluation.hessian, combinations.T).T
    directions *= np.random.default_rng(1).uniform(0.9, 1.1, directions.shape)
    return Tails(directions, ((X @ directions.T) ** 4).T @ curvature, combinations)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("length", [1e-5, 1e-3, 0.03])
@pytest.mark.parametrize("seed", range(12))
def test_tails_bound_the_change_of_standard_errors(seed: int, length: float, heavy: bool) -> None:
    """Of any combinations, from points around the minimum to where Newton's step leads; where no row stands
    out more closely than the reach of the largest."""
    X, y = problem(seed, rows=3_000, columns=6)
    rng = np.random.default_rng(seed)
    if heavy:
        X[:, 1:] **= 3
    objective = logistic(X, y)
    best = states(objective, np.zeros(6), tol=1e-12)[-1]
    h = rng.normal(size=6)
    coef = best.coef + h * length / math.sqrt(h @ best.evaluation.hessian @ h)
    here = objective(coef)
    metric = Metric(here.hessian)
    direction, decrement = metric.solve(here.gradient)
    combinations = np.linalg.qr(rng.normal(size=(6, 6)))[0] * rng.uniform(0.1, 10, (6, 1))
    _, _, curvature = naive.losses(X @ coef, y, 1 - y)
    tails = tails_of(X, here, curvature, combinations)
    tails = replace(tails, roots=tails.roots**0.25)
    s = here.box.reach(np.abs(direction))
    u = math.sqrt(np.einsum("ij,jk,ik->i", X, np.linalg.inv(here.hessian), X).max())
    bound = _change_by_tails(tails, metric, decrement, s, u)
    before = np.einsum("ij,jk,ik->i", combinations, np.linalg.inv(here.hessian), combinations)
    after_hessian = objective(coef + direction).hessian
    after = np.einsum("ij,jk,ik->i", combinations, np.linalg.inv(after_hessian), combinations)
    change = np.abs(np.sqrt(after / before) - 1).max()
    assert change <= bound * (1 + 1e-6) + 1e-12
    assert heavy or bound < math.expm1(s / 2)


def test_the_bound_by_tails_is_sharp_where_rows_are_alike() -> None:
    """With an intercept alone and rare events curvature changes by nearly all of itself, in every row."""
    X, y = np.ones((50_000, 1)), (np.arange(50_000) % 1_000 == 0).astype(float)
    objective = logistic(X, y)
    here = objective(np.array([math.log(0.001) + 1e-3]))
    metric = Metric(here.hessian)
    direction, decrement = metric.solve(here.gradient)
    _, _, curvature = naive.losses(np.full(50_000, math.log(0.001) + 1e-3), y, 1 - y)
    directions = metric.unit_solutions(np.eye(1))
    tails = Tails(directions, (((X @ directions.T) ** 4).T @ curvature) ** 0.25, np.eye(1))
    s = abs(float(direction[0]))
    bound = _change_by_tails(tails, metric, decrement, s, float(1 / np.sqrt(here.hessian[0, 0])))
    after = objective(np.array([math.log(0.001) + 1e-3]) + direction)
    change = abs(math.sqrt(float(here.hessian[0, 0] / after.hessian[0, 0])) - 1)
    assert change <= bound <= 1.01 * change


def test_directions_that_do_not_span_bound_nothing() -> None:
    X, y = problem(1)
    metric = Metric(logistic(X, y)(np.zeros(4)).hessian)
    tails = Tails(np.ones((4, 4)), np.ones(4), np.eye(4))
    assert _change_by_tails(tails, metric, 1e-9, 1e-9, 0.1) == math.inf


class Guided:
    """A guide that knows where to go, and an objective that counts and tells of tails when it is asked."""

    def __init__(self, X: np.ndarray, y: np.ndarray, goal: np.ndarray) -> None:
        self.X, self.y, self.goal = X, y, goal
        self.loss = logistic(X, y)
        self.asked: list[str] = []

    def bend(self, state: State, metric: Metric) -> np.ndarray:
        self.asked.append("bend")
        return self.goal - state.coef

    def directions(self, metric: Metric) -> np.ndarray:
        return metric.unit_solutions(np.eye(self.X.shape[1]))

    def __call__(
        self, coef: np.ndarray, with_hessian: bool = True, along: np.ndarray | None = None
    ) -> Evaluation:
        self.asked.append("plain" if along is None else "tails")
        found = self.loss(coef)
        if along is None:
            return found
        _, _, curvature = naive.losses(self.X @ coef, self.y, 1 - self.y)
        roots = (((self.X @ along.T) ** 4).T @ curvature) ** 0.25
        return replace(found, tails=Tails(along, roots, np.eye(len(coef))))


def test_a_guided_first_step_and_one_unseen_end_the_fit() -> None:
    """The guide is asked once, tails at its step's end alone; what is told is as near as it says."""
    X, y = problem(4, rows=20_000)
    best = states(logistic(X, y), np.zeros(4), tol=1e-13)[-1]
    goal = best.coef + 2e-4 * np.sqrt(np.diag(np.linalg.inv(best.evaluation.hessian)))
    guided = Guided(X, y, goal)
    path = list(newton(guided, best.coef * 0.9, tolerance=1e-7, spare=1e-5, guide=guided))
    assert guided.asked == ["plain", "bend", "tails"]
    assert [state.status for state in path] == ["running", "running", "converged"]
    step = best.coef - path[-1].coef
    assert math.sqrt(step @ best.evaluation.hessian @ step) <= path[-1].distance <= 1e-7
    told, true = (np.sqrt(np.diag(np.linalg.inv(e.evaluation.hessian))) for e in (path[-1], best))
    np.testing.assert_allclose(told, true, rtol=1e-5)
    # By the reach of the largest row alone that is not proved, and the step has to be looked at.
    alone = Guided(X, y, goal)
    path = list(newton(alone, goal, tolerance=1e-7, spare=1e-5))
    assert alone.asked == ["plain", "plain"]
    assert path[-1].status == "converged"


def test_a_guide_that_errs_costs_trials_and_no_answer() -> None:
    """Far beyond the minimum: the trial is shortened, and whole steps of Newton follow."""
    X, y = problem(4, rows=2_000)
    best = states(logistic(X, y), np.zeros(4), tol=1e-13)[-1]
    guided = Guided(X, y, 40.0 * best.coef)
    path = list(itertools.islice(newton(guided, np.zeros(4), tolerance=1e-9, guide=guided), 60))
    assert 0.0 < path[1].step < 1.0
    assert path[-1].status == "converged"
    np.testing.assert_allclose(path[-1].coef, best.coef, rtol=1e-8)
