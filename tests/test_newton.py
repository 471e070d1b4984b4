"""The driver and its certificate on problems whose minimum is known to rounding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import naive
import numpy as np
import pytest

from streamlr.linear_algebra import factorise
from streamlr.newton import Box, Evaluation, State, certified_distance, newton


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
