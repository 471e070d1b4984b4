"""Separated outcomes are found and told, however narrow the gap; the algebra that finds them."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr import separating
from streamlr.linear_algebra import Bordered
from streamlr.newton import Box, Evaluation, newton
from streamlr.objective import Objective
from streamlr.separating import UnsettledError, prove
from streamlr.separation import NullSpace, against, off_rows, rounding_unit, widest_direction
from streamlr.sources.memory import TableSource


def normal(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def directions(finding: dict[str, Any]) -> list[tuple[str, int]]:
    return [(term["term"], term["direction"]) for term in finding["terms"]]


@pytest.mark.parametrize("n", [10, 100, 400, 1_000, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cut_through_one_number(n: int, seed: int) -> None:
    """The gap is a share 1/n of the range, so the coefficient has to go far before every row is right."""
    x = normal(n, seed)
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit({"y": (x > 0).astype(int), "x": x}, "y ~ x")
    assert caught.value.separation["kind"] == "complete"
    assert ("x", 1) in directions(caught.value.separation)
    assert caught.value.separation["rows_separated"] == n


@pytest.mark.parametrize(
    ("formula", "options"), [("y ~ C(c)*x", {}), ("y ~ x", {"absorb": "c"}), ("y ~ x + z", {})]
)
def test_a_cut_beside_other_terms(formula: str, options: dict[str, Any]) -> None:
    x, z = normal(400, 0), normal(400, 1)
    c = np.arange(400) % 4
    with pytest.raises(streamlr.SeparationError):
        streamlr.fit({"y": (x > 0).astype(int), "x": x, "z": z, "c": c}, formula, **options)


def test_a_cut_inside_of_one_level() -> None:
    x = normal(400, 0)
    c = np.arange(400) % 4
    y = np.where(c == 1, x > 0, normal(400, 3) > 0).astype(int)
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit({"y": y, "x": x, "c": c}, "y ~ C(c)*x")
    assert caught.value.separation["kind"] == "quasi-complete"
    assert caught.value.separation["rows_separated"] == 100


@pytest.mark.parametrize("seed", range(3))
def test_one_row_on_the_wrong_side_is_no_separation(seed: int) -> None:
    x = normal(400, seed)
    y = (x > 0).astype(int)
    y[np.argmin(np.abs(x - 0.5))] = 0
    model = streamlr.fit({"y": y, "x": x}, "y ~ x", tol=1e-10)
    assert model.converged
    p = model.predict({"x": x})
    assert abs(np.sum(y - p)) < 1e-9
    assert abs(np.sum((y - p) * x)) < 1e-9


# ---------------------------------------------------------------- the algebra


def test_the_unit_of_rounding_bounds_sums_of_products() -> None:
    """Of sums that cancel to nothing but rounding, in fractions."""
    rng = np.random.default_rng(40)
    for m in (2, 5, 30):
        unit = rounding_unit(m)
        assert unit < 1e-14
        for _ in range(50):
            x, d = rng.normal(size=m), rng.normal(size=m)
            d[-1] = -float(sum(Fraction(a) * Fraction(b) for a, b in zip(x[:-1], d[:-1], strict=True)))
            x[-1] = 1.0
            size = np.abs(x) @ np.abs(d)
            exact = abs(float(sum(Fraction(a) * Fraction(b) for a, b in zip(x, d, strict=True))))
            assert exact <= unit * size
            assert abs(x @ d) <= unit * size


def rows_of_rank(n: int, k: int, rank: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-3, 4, size=(n, rank)).astype(float) @ rng.integers(-2, 3, size=(rank, k))


@pytest.mark.parametrize(("k", "rank"), [(4, 3), (6, 2), (5, 5), (3, 0)])
def test_projections_move_none_of_the_rows(k: int, rank: int) -> None:
    X = rows_of_rank(60, k, rank, k)
    space = NullSpace.of(X.T @ X, 1e-11)
    assert space.dimension == k - np.linalg.matrix_rank(X)
    direction = np.random.default_rng(41).normal(size=k)
    projected = space.projected(direction)
    np.testing.assert_array_equal(projected[space.free], direction[space.free])
    assert np.abs(X @ projected).max(initial=0.0) < 1e-10
    spoilt = projected + 1e-6 * np.isin(np.arange(k), space.pivots)
    better = space.corrected(spoilt, X.T @ (X @ spoilt))
    assert np.abs(X @ better).max(initial=0.0) < 1e-11
    assert len(space.basis()) == space.dimension
    assert np.abs(X @ space.basis().T).max(initial=0.0) < 1e-10


def test_projections_beside_levels_apart() -> None:
    """A level without a row is free, one with rows follows from the other columns."""
    rng = np.random.default_rng(42)
    X = np.c_[rows_of_rank(80, 3, 2, 3), np.eye(4)[rng.integers(0, 3, 80)]]
    gram = X.T @ X
    space = NullSpace.of(Bordered(gram[:3, :3], gram[:3, 3:], np.diag(gram)[3:].copy()), 1e-11)
    dense = NullSpace.of(gram, 1e-11)
    assert space.dimension == dense.dimension == 2
    direction = rng.normal(size=7)
    projected = space.projected(direction)
    assert projected[6] == direction[6]
    assert np.abs(X @ projected).max() < 1e-10
    spoilt = projected + np.r_[1e-6, 0.0, 0.0, 1e-6, -1e-6, 0.0, 0.0]
    better = space.corrected(spoilt, X.T @ (X @ spoilt))
    assert np.abs(X @ better).max() < 1e-11


def test_the_widest_direction_separates_all_that_can_be() -> None:
    """Rows 0 to 3 by the first column; rows 4 and 5 by the second, where the first is zero; 6 and 7 never."""
    X = np.array([[2, 1], [1, -9], [-1, 5], [-3, 0], [0, 2], [0, -1], [0, 0], [0, 0]], dtype=float)
    sides = np.array([1, 1, -1, -1, 1, -1, 1, 0], dtype=np.int8)
    found = widest_direction(X, sides)
    assert found is not None
    direction, separated = found
    np.testing.assert_array_equal(separated, [True] * 6 + [False] * 2)
    assert np.all(sides[:6] * (X[:6] @ direction) > 0)
    sides[6:] = 0
    X[7] = [0, 1]
    found = widest_direction(X, sides)
    assert found is not None
    direction, separated = found
    np.testing.assert_array_equal(separated, [True] * 4 + [False] * 4)
    assert direction[1] == 0.0


def test_small_terms_are_not_left_to_the_rounding_of_large_ones() -> None:
    """Two rows that only terms of 1e-6 move: they too are moved by no more than their own rounding."""
    rng = np.random.default_rng(43)
    wanted = np.r_[rng.normal(size=4), 1e-6 * rng.normal(size=3)]
    rows = rng.normal(size=(12, 7))
    rows[:2, :4] = 0.0
    rows[2:, :4] *= 3.0
    for row in rows:
        row[6] = -(row[:6] @ wanted[:6]) / wanted[6]
    found = off_rows(wanted * (1 + 1e-9 * rng.normal(size=7)), rows)
    exact = np.abs(rows.astype(np.longdouble) @ found.astype(np.longdouble))
    assert np.all(exact <= rounding_unit(7) * (np.abs(rows) @ np.abs(found)))


def test_directions_against_a_column() -> None:
    moves = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    sides = np.array([1, 1, -1], dtype=np.int8)
    other_way = against(moves, sides, np.array([0.0, 1.0]))
    assert other_way is not None
    assert other_way[1] < 0
    assert np.all(sides * (moves @ other_way) >= -1e-9)
    assert not np.any(against(moves, sides, np.array([1.0, 0.0])))


def test_a_hessian_without_a_factor_is_a_divergence() -> None:
    """It gives no step, so that nothing would ever change."""

    def loss(coef: np.ndarray, _: bool = True) -> Evaluation:
        hessian = np.zeros((1, 1)) if coef.any() else np.eye(1)
        return Evaluation(9.0 - coef[0], np.array([-1.0]), hessian, Box(np.ones(1), np.zeros(1, int)), 0.0)

    states = list(islice(newton(loss, np.zeros(1), tolerance=1e-8), 9))
    assert [state.status for state in states] == ["running", "diverging"]


# ---------------------------------------------------------------- a search with wrong suspects


def objective_of(data: dict[str, np.ndarray], formula: str, **options: Any) -> Objective:
    """The loss of data that can be fitted with `y` and are asked about with `outcome` in its place."""
    model = streamlr.fit(data, formula, **options)
    table = pa.table({**data, "y": data["outcome"]})
    source = TableSource(table)

    def runner(work: Any, merge: Any) -> Any:
        return work(source.parts)

    return Objective(model.design, model.basis, runner, None)


def staged(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b, c = rng.integers(-3, 4, size=(3, 300)).astype(float)
    along = a + 2 * b - c
    outcome = np.where(along == 0, rng.integers(0, 2, 300), along > 0).astype(int)
    return {"y": rng.integers(0, 2, 300), "outcome": outcome, "a": a, "b": b, "c": c}


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("suspect", [[0.0, 1.0, -1.0, 3.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
def test_a_linear_programme_finds_what_the_suspect_does_not_point_at(
    suspect: list[float], thorough: bool
) -> None:
    data = staged(44)
    objective = objective_of(data, "y ~ a + b + c")
    proof = prove(objective, [np.array(suspect)], is_direction=True, thorough=thorough)
    if not thorough:
        assert proof is None
        return
    assert proof is not None
    along = data["a"] + 2 * data["b"] - data["c"]
    assert (proof.separated, proof.overlapping) == (int(np.sum(along != 0)), int(np.sum(along == 0)))
    raw = objective.basis.to_raw(proof.direction)
    np.testing.assert_allclose(raw / raw[1], [0.0, 1.0, 2.0, -1.0], atol=1e-12)


def test_counts_of_both_outcomes_speak_against_a_direction() -> None:
    """Three of four trials at a = 1 succeed; without the fourth a would separate them from those at -1."""
    roles = {"n": np.array([2, 4, 2]), "a": np.array([-1.0, 1.0, 0.0])}
    counts = {"y": np.array([1, 2, 1]), **roles}
    suspect = [np.array([0.0, 1.0])]
    overlapping = objective_of({**counts, "outcome": np.array([0, 3, 1])}, "y ~ a", trials="n")
    assert prove(overlapping, suspect, is_direction=False) is None
    separated = objective_of({**counts, "outcome": np.array([0, 4, 1])}, "y ~ a", trials="n")
    proof = prove(separated, suspect, is_direction=False)
    assert proof is not None
    assert (proof.separated, proof.overlapping) == (2, 1)


def test_a_programme_proves_that_rows_overlap() -> None:
    data = staged(45)
    objective = objective_of({**data, "outcome": data["y"]}, "y ~ a + b + c")
    assert prove(objective, [np.array([0.0, 1.0, 2.0, -1.0])], is_direction=True) is None


def test_passes_that_settle_nothing_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separating, "PROGRAMMES", 1)
    with pytest.raises(UnsettledError, match=r"1 passes have not settled it.*--firth"):
        prove(objective_of(staged(44), "y ~ a + b + c"), [np.zeros(4)], is_direction=True)
    monkeypatch.setattr(separating, "WIDEST_PROGRAMME", 3)
    with pytest.raises(UnsettledError, match="4 columns"):
        prove(objective_of(staged(44), "y ~ a + b + c"), [np.zeros(4)], is_direction=True)
