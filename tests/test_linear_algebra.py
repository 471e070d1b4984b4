"""Bordered matrices do what the dense ones that they stand for do."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr import linear_algebra
from streamlr.linear_algebra import (
    Bordered,
    BorderedFactor,
    Factor,
    diagonal,
    factorise,
    is_finite,
    plus_diagonal,
    restricted,
    solve,
)


def positive(p: int, m: int, seed: int = 0) -> Bordered:
    """Positive definite, with scales from 1e-3 to 1e3."""
    rng = np.random.default_rng(seed)
    tail = rng.uniform(1.0, 2.0, m)
    border = rng.normal(size=(p, m))
    root = rng.normal(size=(p, p + 3))
    half = border / np.sqrt(tail)
    dense = half @ half.T + root @ root.T
    scale = 10.0 ** rng.uniform(-3, 3, p + m)
    return Bordered(
        dense * np.outer(scale[:p], scale[:p]),
        border * np.outer(scale[:p], scale[p:]),
        tail * scale[p:] ** 2,
    )


def whole(matrix: Bordered) -> np.ndarray:
    return np.block([[matrix.dense, matrix.border], [matrix.border.T, np.diag(matrix.tail)]])


def scaled(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = np.sqrt(np.diag(matrix))
    return size, matrix / np.outer(size, size)


each_shape = pytest.mark.parametrize(("p", "m"), [(4, 30), (1, 1), (0, 7), (5, 0), (30, 4)])


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_algebra, "AT_ONCE", 17)


@each_shape
def test_factor_solves_measures_and_inverts(p: int, m: int) -> None:
    matrix = positive(p, m)
    factor = factorise(matrix)
    assert isinstance(factor, BorderedFactor)
    size, unit = scaled(whole(matrix))
    inverse = np.linalg.inv(unit)
    vector = np.random.default_rng(1).normal(size=p + m) * size
    np.testing.assert_allclose(factor.solve(vector) * size, inverse @ (vector / size), rtol=1e-9, atol=1e-9)
    half = factor.half_solve(vector)
    assert half @ half == pytest.approx((vector / size) @ inverse @ (vector / size), rel=1e-10)
    np.testing.assert_allclose(factor.inverse_diagonal() * size**2, np.diag(inverse), rtol=1e-9)
    own = factor.into_inverse()
    np.testing.assert_array_equal(own, own.T)
    own = own * np.outer(size[:p], size[:p])
    np.testing.assert_allclose(own, inverse[:p, :p], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(solve(matrix, vector) * size, inverse @ (vector / size), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(matrix.schur_complement(), matrix.schur_complement().T)


@each_shape
def test_diagonals_and_parts(p: int, m: int) -> None:
    matrix = positive(p, m)
    dense = whole(matrix)
    assert len(matrix) == len(dense)
    np.testing.assert_array_equal(diagonal(matrix), diagonal(dense))
    values = np.random.default_rng(2).normal(size=p + m)
    added = plus_diagonal(matrix, values)
    assert isinstance(added, Bordered)
    np.testing.assert_array_equal(whole(added), plus_diagonal(dense, values))
    for places in (np.arange(p + m), np.arange(0, p + m, 2), np.arange(p), np.arange(p, p + m)):
        part = restricted(matrix, places)
        assert isinstance(part, Bordered)
        np.testing.assert_array_equal(whole(part), restricted(dense, places))
    assert restricted(matrix, np.arange(p + m)) is matrix


def test_what_completes_a_combination_leaves_nothing_in_the_tail() -> None:
    matrix = positive(4, 30)
    combination = matrix.completed(np.array([1.0, -2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(combination[:4], [1.0, -2.0, 0.0, 3.0])
    products = whole(matrix) @ combination
    reach = np.abs(whole(matrix)) @ np.abs(combination)
    assert np.all(np.abs(products[4:]) <= 1e-14 * reach[4:])


def test_no_factor_of_what_is_not_positive_definite() -> None:
    matrix = positive(3, 5)
    assert factorise(matrix) is not None
    for block, place, value in [
        ("tail", 2, 0.0),
        ("tail", 2, -1.0),
        ("tail", 2, 1e-310),
        ("tail", 1, np.nan),
        ("border", (0, 1), np.inf),
        ("border", (0, 1), np.nan),
        ("dense", (1, 1), np.nan),
        ("dense", (1, 1), -1.0),
        ("dense", (1, 1), 0.5 * (matrix.border[1] ** 2 / matrix.tail).sum()),  # positive, S is not
    ]:
        blocks = {name: getattr(matrix, name).copy() for name in ("dense", "border", "tail")}
        blocks[block][place] = value
        broken = Bordered(**blocks)
        assert factorise(broken) is None, (block, value)
        assert is_finite(broken) == np.isfinite(value)


def test_dense_matrices_are_arrays() -> None:
    matrix = whole(positive(3, 4))
    assert isinstance(factorise(matrix), Factor)
    assert is_finite(matrix)
    matrix[2, 2] = np.inf
    assert not is_finite(matrix)
    matrix[2, 2] = 1e7
    np.testing.assert_allclose(matrix @ solve(matrix, np.arange(7.0)), np.arange(7.0), rtol=1e-7, atol=1e-7)
