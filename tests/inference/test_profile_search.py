"""The search for profile bounds on losses made by hand: Newton's step too long, Hessians old, ridges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest

from streamlr.inference.profile_intervals import profile_bounds
from streamlr.newton import Box, Evaluation

Z = NormalDist().inv_cdf(0.975)


class Logistic:
    """The loss of a small table; counts calls and Hessians."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X, self.y = X, y
        self.passes = self.hessians = 0

    def at(self, coef: np.ndarray, with_hessian: bool = True) -> Evaluation:
        eta = self.X @ coef
        p = 1 / (1 + np.exp(-eta))
        loss = float(np.sum(np.logaddexp(0, eta) - self.y * eta))
        hessian = (self.X.T * (p * (1 - p))) @ self.X if with_hessian else np.zeros((0, 0))
        box = Box(np.abs(self.X).max(axis=0), np.arange(len(coef)))
        return Evaluation(loss, self.X.T @ (p - self.y), hessian, box, float((p * (1 - p)).min()))

    def __call__(self, coefs: Sequence[np.ndarray], wanted: Sequence[bool]) -> list[Evaluation]:
        self.passes += 1
        self.hessians += sum(wanted)
        return [self.at(coef, own) for coef, own in zip(coefs, wanted, strict=True)]

    def minimum(self) -> np.ndarray:
        coef = np.zeros(self.X.shape[1])
        for _ in range(50):
            found = self.at(coef)
            coef = coef - np.linalg.solve(found.hessian, found.gradient)
        return coef


def drawn(n: int, seed: int, heavy: bool = False) -> Logistic:
    rng = np.random.default_rng(seed)
    x = np.exp(1.5 * rng.normal(size=n)) if heavy else rng.normal(size=n)
    X = np.column_stack([np.ones(n), x, rng.normal(size=n)])
    eta = X @ [-0.5, 0.6, 0.2]
    return Logistic(X, (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float))


def check_conditions(problem: Logistic, coef: np.ndarray, j: int, bound: float) -> None:
    """With coefficient j held at the bound, the least loss is half a quantile above the minimum."""
    others = [i for i in range(len(coef)) if i != j]
    at = coef.copy()
    at[j] = bound
    for _ in range(200):  # damped Newton of the other coefficients
        found = problem.at(at)
        step = np.linalg.solve(found.hessian[np.ix_(others, others)], found.gradient[others])
        at[others] -= step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-13:
            break
    assert 2 * (problem.at(at).loss - problem.at(coef).loss) == pytest.approx(Z * Z, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "heavy"), [(15, False), (40, True), (400, False), (400, True)])
def test_bounds_meet_both_conditions(n: int, heavy: bool, seed: int) -> None:
    problem = drawn(n, seed, heavy)
    coef = problem.minimum()
    if not np.isfinite(coef).all() or np.abs(coef).max() > 30:
        pytest.skip("separated")
    bounds = profile_bounds(problem, coef, problem.at(coef), np.eye(3), level=0.95, at_once=100)
    for j in range(3):
        assert bounds[j, 0] < coef[j] < bounds[j, 1]
        for bound in bounds[j]:
            check_conditions(problem, coef, j, bound)


def test_any_combination_can_be_profiled() -> None:
    problem = drawn(200, 1)
    coef = problem.minimum()
    a = np.array([[0.3, 1.0, -2.0]])
    (low, high) = profile_bounds(problem, coef, problem.at(coef), a, level=0.95, at_once=2)[0]
    # The same in coordinates whose second one is a'coef.
    turn = np.array([[1.0, 0.0, 0.0], [0.3, 1.0, -2.0], [0.0, 0.0, 1.0]])
    turned = Logistic(problem.X @ np.linalg.inv(turn), problem.y)
    other = profile_bounds(turned, turn @ coef, turned.at(turn @ coef), np.eye(3)[1:2], level=0.95, at_once=2)
    np.testing.assert_allclose([low, high], other[0], rtol=1e-9)


def test_large_samples_hardly_need_hessians_of_their_own() -> None:
    problem = drawn(200_000, 2)
    coef = problem.minimum()
    minimum = problem.at(coef)
    bounds = profile_bounds(problem, coef, minimum, np.eye(3), level=0.95, at_once=100)
    assert problem.hessians < 6  # of six searches, some of which go on with that of the minimum
    assert problem.passes <= 10  # 6 or 8, as sums are rounded
    check_conditions(problem, coef, 1, bounds[1, 1])


def test_searches_share_passes_and_groups_do_not_change_them() -> None:
    together, alone = drawn(60, 3), drawn(60, 3)
    coef = together.minimum()
    bounds = [
        profile_bounds(problem, coef, problem.at(coef), np.eye(3), level=0.9, at_once=count)
        for problem, count in ((together, 6), (alone, 1))
    ]
    np.testing.assert_array_equal(*bounds)
    assert together.passes < alone.passes / 3


def test_a_loss_that_is_no_number_shortens_the_step() -> None:
    """Beyond a wall the loss is infinite; the bound lies before it and the first step leads behind it."""
    problem = drawn(20, 6)
    coef = problem.minimum()
    free = profile_bounds(problem, coef, problem.at(coef), np.eye(3)[1:2], level=0.95, at_once=2)[0]
    wald = coef[1] - Z * math.sqrt(np.linalg.inv(problem.at(coef).hessian)[1, 1])
    assert wald < free[0]
    wall = 0.5 * (wald + free[0])

    def walled(coefs: Sequence[np.ndarray], wanted: Sequence[bool]) -> list[Evaluation]:
        found = problem(coefs, wanted)
        return [
            Evaluation(math.inf, each.gradient, each.hessian, each.box, 0.0) if at[1] < wall else each
            for at, each in zip(coefs, found, strict=True)
        ]

    low = profile_bounds(walled, coef, problem.at(coef), np.eye(3)[1:2], level=0.95, at_once=2)[0, 0]
    assert low == pytest.approx(free[0], rel=1e-9)


def test_a_bound_that_is_not_found_is_none() -> None:
    problem = drawn(50, 1)
    coef = problem.minimum()

    def broken(coefs: Sequence[np.ndarray], wanted: Sequence[bool]) -> list[Evaluation]:
        return [Evaluation(math.inf, at, np.eye(3), problem.at(at).box, 0.0) for at in coefs]

    found = profile_bounds(broken, coef, problem.at(coef), np.eye(3), level=0.95, at_once=9)
    assert np.isnan(found).all()
