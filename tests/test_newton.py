"""The driver and its certificate on problems whose minimum is known to rounding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import naive
import numpy as np
import pytest

from streamlr.errors import StreamlrError
from streamlr.linear_algebra import factorise
from streamlr.newton import Box, Evaluation, State, certified_distance, inverse, newton


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
    np.testing.assert_allclose(
        factor.inverse() @ matrix * np.divide.outer(scale, scale), np.eye(k), atol=1e-9
    )
    np.testing.assert_allclose(factor.inverse_diagonal(), np.diag(factor.inverse()), rtol=1e-12)
    assert np.array_equal(factor.inverse(), factor.inverse().T)
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
