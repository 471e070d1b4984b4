"""Bordered matrices do what the dense ones that they stand for do."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from streamlr import linear_algebra
from streamlr.linear_algebra import (
    Blocked,
    BlockedFactor,
    Bordered,
    BorderedFactor,
    Factor,
    diagonal,
    factorise,
    is_finite,
    pivoted_cholesky,
    plus_diagonal,
    product,
    restricted,
    solve,
    solve_lower,
    threads_of_algebra,
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
    np.testing.assert_allclose(product(matrix, values), dense @ values, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(product(dense, values), dense @ values)
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


def blocked(front: int, levels: int, behind: int) -> Blocked:
    """A positive definite matrix in which `levels` columns between others never meet."""
    k = front + levels + behind
    rng = np.random.default_rng(k)
    n = 4 * k
    X = rng.normal(size=(n, k))
    level = np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)])
    X[:, front : front + levels] = level[:, None] == np.arange(levels)
    size = 10.0 ** rng.uniform(-2, 2, k)
    return apart((X.T @ X) * np.outer(size, size), slice(front, front + levels))


def apart(matrix: np.ndarray, run: slice) -> Blocked:
    """The matrix with a run of columns apart."""
    others = np.r_[: run.start, run.stop : len(matrix)]
    dense, border = matrix[np.ix_(others, others)], matrix[others, run]
    return Blocked(Bordered(dense, border, np.diagonal(matrix)[run].copy()), run)


@pytest.mark.parametrize("shape", [(0, 5, 0), (3, 7, 2), (0, 4, 6), (5, 3, 0), (300, 40, 260), (20, 600, 7)])
@pytest.mark.parametrize("threads", [1, 3])
def test_columns_that_never_meet_are_eliminated_first(shape: tuple[int, int, int], threads: int) -> None:
    matrix = blocked(*shape)
    k = len(matrix)
    with threads_of_algebra(threads), threadpool_limits(1):
        factor, plain = factorise(matrix), factorise(matrix.matrix)
        assert isinstance(factor, BlockedFactor)
        assert isinstance(plain, Factor)
        own = np.sqrt(np.diagonal(matrix.matrix))
        vector = np.random.default_rng(1).normal(size=k) * own
        np.testing.assert_allclose(
            factor.solve(vector) * own, plain.solve(vector) * own, rtol=1e-8, atol=1e-9
        )
        half = factor.half_solve(vector)
        assert half @ half == pytest.approx(vector @ plain.solve(vector), rel=1e-10)
        np.testing.assert_allclose(factor.inverse_diagonal(), plain.inverse_diagonal(), rtol=1e-9)
        largest = 1.0 / np.linalg.eigvalsh(matrix.matrix / np.outer(own, own))[0]
        assert 0.1 * largest <= factor.condition <= largest * (1 + 1e-9)
        inverse = factor.into_inverse()
        np.testing.assert_array_equal(inverse, inverse.T)
        scale = np.outer(own, own)
        np.testing.assert_allclose(inverse * scale, plain.into_inverse() * scale, rtol=1e-8, atol=1e-9)
        # The factor is still of use.
        np.testing.assert_array_equal(factor.half_solve(vector), half)


def test_the_same_bits_for_any_number_of_threads() -> None:
    with threadpool_limits(1):
        inverses = []
        for threads in (1, 2, 3):
            with threads_of_algebra(threads):
                factor = factorise(blocked(300, 700, 260))
                assert factor is not None
                inverses.append(factor.into_inverse().tobytes())
    assert len(set(inverses)) == 1


def test_places_of_a_run_move_with_its_matrix() -> None:
    matrix = blocked(3, 6, 2)
    places = np.array([0, 2, 4, 5, 8, 10])
    part = restricted(matrix, places)
    assert isinstance(part, Blocked)
    assert part.run == slice(2, 5)
    np.testing.assert_array_equal(part.matrix, matrix.matrix[np.ix_(places, places)])
    more = plus_diagonal(matrix, np.arange(11.0))
    assert isinstance(more, Blocked)
    np.testing.assert_array_equal(more.matrix, matrix.matrix + np.diag(np.arange(11.0)))
    np.testing.assert_array_equal(diagonal(more), np.diagonal(more.matrix))
    np.testing.assert_allclose(product(more, np.arange(11.0)), more.matrix @ np.arange(11.0), rtol=1e-12)
    assert is_finite(matrix)
    whole = matrix.matrix
    np.testing.assert_array_equal(apart(whole, matrix.run).matrix, whole)
    assert factorise(apart(-whole, matrix.run)) is None
    whole[1, 7] = whole[7, 1] = np.nan
    assert not is_finite(apart(whole, matrix.run))
    assert factorise(apart(whole, matrix.run)) is None


def test_a_system_with_a_run_apart_is_solved() -> None:
    matrix = blocked(3, 6, 2)
    vector = np.arange(11.0)
    np.testing.assert_allclose(solve(matrix, vector), np.linalg.solve(matrix.matrix, vector), rtol=1e-8)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_triangles_are_solved_in_either_order(order: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    # What stands above the diagonal is not looked at.
    lower = np.array(rng.normal(size=(5, 5)) + 3.0 * np.eye(5), order=order)
    right = rng.normal(size=shape)
    triangle = np.tril(lower)
    for transposed, matrix in ((False, triangle), (True, triangle.T)):
        kept = right.copy()
        found = solve_lower(lower, right, transposed=transposed)
        assert found.shape == shape
        # A few units times the condition of the triangle, some tens.
        np.testing.assert_allclose(matrix @ found, right, rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(right, kept)


def test_triangles_without_an_inverse_are_refused() -> None:
    assert solve_lower(np.zeros((0, 0)), np.zeros((0, 2))).shape == (0, 2)
    with pytest.raises(np.linalg.LinAlgError, match="zero on its diagonal"):
        solve_lower(np.array([[1.0, 0.0], [1.0, 0.0]]), np.ones(2))


def test_pivoted_cholesky_finds_the_independent_rows() -> None:
    rng = np.random.default_rng(5)
    half = rng.normal(size=(6, 4))
    lower, order = pivoted_cholesky(half @ half.T, 1e-9)
    assert lower.shape == (4, 4)
    assert sorted(order) == list(range(6))
    first = order[:4]
    # Of 4 products of a size of some units each.
    np.testing.assert_allclose(lower @ lower.T, (half @ half.T)[np.ix_(first, first)], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(lower, np.tril(lower))
