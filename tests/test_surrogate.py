"""Steps that a sample bends: nearer to the minimum than Newton's, and only where the sample knows enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import naive
import numpy as np
import pytest

from streamlr.newton import Box, Evaluation, Metric, State, newton
from streamlr.surrogate import Surrogate


@dataclass
class Rows:
    """The loss of some rows, as much of an objective as a surrogate asks for."""

    X: np.ndarray
    y: np.ndarray

    @property
    def first(self) -> Any:
        return SimpleNamespace(trials=float(len(self.y)))

    def __call__(self, coef: np.ndarray, with_hessian: bool = True, **options: Any) -> Evaluation:
        loss, slope, curvature = naive.losses(self.X @ coef, self.y, 1 - self.y)
        hessian = self.X.T @ (curvature[:, None] * self.X)
        box = Box(np.abs(self.X).max(axis=0), np.arange(self.X.shape[1]))
        return Evaluation(float(loss.sum()), self.X.T @ slope, hessian, box, float(curvature.min()))

    def at_points(self, coefs: Any, with_hessian: Any) -> list[Evaluation]:
        return [self(coef) for coef in coefs]

    def map_to_raw(self) -> np.ndarray:
        k = self.X.shape[1]
        return np.eye(k) + np.diag(np.full(k - 1, 0.3), 1)

    def taken(self, rows: slice) -> Rows:
        return Rows(self.X[rows], self.y[rows])


def problem(rows: int = 40_000, columns: int = 6) -> Rows:
    rng = np.random.default_rng(11)
    X = np.column_stack([np.ones(rows), rng.normal(size=(rows, columns - 1)), rng.exponential(size=rows)])
    coef = rng.normal(size=columns + 1) * 0.5
    return Rows(X, (rng.random(rows) < 1 / (1 + np.exp(-X @ coef))).astype(float))


def minimum_of(rows: Rows) -> np.ndarray:
    return list(newton(rows, np.zeros(rows.X.shape[1]), tolerance=1e-12))[-1].coef


def state_at(rows: Rows, coef: np.ndarray) -> tuple[State, Metric]:
    evaluation = rows(coef)
    metric = Metric(evaluation.hessian)
    direction, decrement = metric.solve(evaluation.gradient)
    return State(coef, evaluation, decrement, math.inf, 0.0, direction, "running"), metric


def distance(rows: Rows, one: np.ndarray, other: np.ndarray) -> float:
    step = one - other
    return math.sqrt(step @ rows(other).hessian @ step)


def test_a_sample_of_everything_leads_to_the_minimum() -> None:
    whole = problem()
    state, metric = state_at(whole, minimum_of(whole.taken(slice(0, 2_000))))
    found = state.coef + Surrogate(whole, whole, near=False).bend(state, metric)
    best = minimum_of(whole)
    assert distance(whole, found, best) < 0.05 * distance(whole, state.coef + state.direction, best)


def test_the_bend_is_an_order_nearer_with_an_eighth_of_the_rows() -> None:
    whole = problem()
    part = whole.taken(slice(0, 5_000))
    state, metric = state_at(whole, minimum_of(part))
    best = minimum_of(whole)
    newton_ends = distance(whole, state.coef + state.direction, best)
    bent_ends = distance(whole, state.coef + Surrogate(part, whole, near=False).bend(state, metric), best)
    assert bent_ends < newton_ends / 5


@pytest.mark.parametrize("kind", ["far", "other"])
def test_a_sample_that_knows_too_little_bends_nothing(kind: str) -> None:
    """A step from zeros to effects of twice the size, or a sample of rows a hundred times as large."""
    whole = problem()
    part = whole.taken(slice(0, 5_000))
    start = minimum_of(part)
    if kind == "far":
        start = -2.0 * start
    else:
        part = Rows(part.X * 100.0, part.y)
    state, metric = state_at(whole, start)
    assert Surrogate(part, whole, near=False).bend(state, metric) is state.direction


def test_nothing_is_asked_of_tails_where_the_end_is_not_near() -> None:
    whole = problem()
    _, metric = state_at(whole, minimum_of(whole))
    assert Surrogate(whole, whole, near=False).directions(metric) is None
    directions = Surrogate(whole, whole, near=True).directions(metric)
    assert directions is not None
    hessian = whole(minimum_of(whole)).hessian
    # Each is the direction in which its combination alone changes, of length one.
    raw = whole.map_to_raw() @ np.linalg.inv(hessian)
    np.testing.assert_allclose(directions / raw, (directions / raw)[:, :1] * np.ones(len(raw)), rtol=1e-8)
    np.testing.assert_allclose(np.einsum("ij,jk,ik->i", directions, hessian, directions), 1.0, rtol=1e-10)
