"""Sums of products against their naive twins, in small whole numbers: every order of summation is exact.

Products of whole numbers below 2**8 summed over 2**11 rows stay far below 2**53: the kernels may reorder and
fuse as they like and still have to agree to the last bit. Cells that a kernel has no business with hold NaN.
"""

from __future__ import annotations

import naive
import numpy as np
import pytest

from streamlr.design.basis import Basis
from streamlr.design.layout import Layout
from streamlr.kernels.gram import (
    add_dense_gradient,
    add_factor_gradient,
    add_factors,
    add_gram,
    narrow_tile,
    weigh_tile,
)
from streamlr.kernels.tile import Block

DENSE = [*range(14), 29, 65, 95, 96, 97, 130, 200]
LEVELS = [(), (1,), (5,), (1, 2), (3, 1, 7), (2, 4, 3, 6)]


def layout_of(numeric: int, levels: tuple[int, ...] = (), intercept: int = 0) -> Layout:
    return Layout((-1,) * intercept + tuple(range(numeric + len(levels))), numeric, levels)


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers as doubles."""
    return rng.integers(-9, 10, shape).astype(np.float64)


def codes_of(rng: np.random.Generator, levels: tuple[int, ...], rows: int) -> np.ndarray:
    """(c, rows) int32 from -1, "no column", to the last level, both of which occur."""
    codes = np.empty((len(levels), rows), dtype=np.int32)
    for row, count in zip(codes, levels, strict=True):
        row[:] = rng.integers(-1, count, rows)
        row[:2] = (-1, count - 1)[: min(rows, 2)]
    return codes


@pytest.mark.parametrize(
    ("dense", "intercept"), [*((dense, 0) for dense in DENSE), *((dense, 1) for dense in DENSE[1:])]
)
@pytest.mark.parametrize("count", [0, 1, 7, 33])
def test_gram_is_the_matrix_times_its_transpose(dense: int, count: int, intercept: int) -> None:
    rng = np.random.default_rng(dense)
    padded = layout_of(dense - intercept, intercept=intercept).padded
    tile = np.full((padded, 40), np.nan)
    tile[:dense, :count] = whole(rng, dense, count)
    tile[dense:, :count] = 0.0
    gram = whole(rng, padded, padded)
    before = gram.copy()
    add_gram(tile, count, intercept, dense, gram)
    values = tile[:, :count]
    lower = tuple(places + intercept for places in np.tril_indices(dense - intercept))
    np.testing.assert_array_equal(gram[lower], (before + values @ values.T)[lower])
    # Nothing above the diagonal is touched; columns that only fill up the last block are zero in the tile.
    upper = np.triu_indices(padded, 1)
    np.testing.assert_array_equal(gram[upper], before[upper])
    np.testing.assert_array_equal(gram[dense:], before[dense:])
    np.testing.assert_array_equal(gram[:, dense:], before[:, dense:])
    np.testing.assert_array_equal(gram[:, :intercept], before[:, :intercept])


@pytest.mark.parametrize("dense", [1, 5, 29, 97])
@pytest.mark.parametrize("count", [0, 1, 33])
def test_gram_in_single_precision_is_added_in_double(dense: int, count: int) -> None:
    rng = np.random.default_rng(dense)
    padded = layout_of(dense).padded
    tile = np.full((padded, 40), np.nan)
    tile[:dense, :count] = whole(rng, dense, count)
    single = np.zeros((padded, 40), dtype=np.float32)
    narrow_tile(tile, count, dense, single)
    np.testing.assert_array_equal(single[:dense, :count], tile[:dense, :count])
    assert not single[:, count:].any()
    assert not single[dense:].any()
    before = whole(rng, padded, padded) + 1e12  # single precision would lose the whole numbers behind it
    gram = before.copy()
    add_gram(single, count, 0, dense, gram)
    lower = np.tril_indices(dense)
    values = tile[:dense, :count]
    np.testing.assert_array_equal(
        gram[:dense, :dense][lower], (before[:dense, :dense] + values @ values.T)[lower]
    )


@pytest.mark.parametrize("count", [1, 1023, 1024])
def test_gram_of_a_whole_tile(count: int) -> None:
    rng = np.random.default_rng(count)
    tile = np.zeros((12, 1024))
    tile[:10] = whole(rng, 10, 1024)
    gram = np.zeros((12, 12))
    add_gram(tile, count, 0, 10, gram)
    want = tile[:10, :count] @ tile[:10, :count].T
    np.testing.assert_array_equal(np.tril(gram[:10, :10]), np.tril(want))


@pytest.mark.parametrize("dense", [0, 1, 4, 29])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 1), (5, 37)])
def test_gradient_is_the_design_times_the_slopes(
    dense: int, levels: tuple[int, ...], first: int, count: int
) -> None:
    rng = np.random.default_rng(1)
    layout = layout_of(dense, levels)
    tile, slope = np.full((layout.padded, 50), np.nan), np.full(50, np.nan)
    tile[:dense, :count] = whole(rng, dense, count)
    slope[:count] = whole(rng, count)
    codes = codes_of(rng, levels, first + count + 3)
    gradient = whole(rng, layout.slots)
    want = gradient.copy()
    for i in range(count):
        want[:dense] += slope[i] * tile[:dense, i]
        for f, start in enumerate(layout.starts):
            want[start + 1 + codes[f, first + i]] += slope[i]
    nothing = np.empty(0)
    rows = Block((), codes, nothing, nothing, nothing, nothing).rows
    conditioning = Basis.of(layout, np.zeros(dense), np.ones(dense)).conditioning()
    add_dense_gradient(tile, slope, count, dense, gradient)
    add_factor_gradient(tile, slope, rows, conditioning, first, count, gradient)
    np.testing.assert_array_equal(gradient, want)


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("intercept", [0, 1])
def test_weighing_adds_what_costs_nothing_beside_it(count: int, intercept: int) -> None:
    rng = np.random.default_rng(2)
    tile = whole(rng, 6, 50)
    before = tile.copy()
    slope, root = np.full(50, np.nan), np.full(50, np.nan)
    slope[:count] = whole(rng, count)
    root[:count] = rng.integers(0, 5, count)
    gradient = whole(rng, 6)
    want = gradient.copy()
    want[:5] += before[:5, :count] @ slope[:count]
    gram = whole(rng, 6, 6)
    products = gram.copy()
    if intercept:
        products[:5, 0] += before[:5, :count] @ root[:count] ** 2
    weigh_tile(tile, slope, root, count, 5, intercept, gradient, gram)
    np.testing.assert_array_equal(gradient, want)
    np.testing.assert_array_equal(gram, products)
    np.testing.assert_array_equal(tile[:5, :count], before[:5, :count] * root[:count])
    np.testing.assert_array_equal(tile[:, count:], before[:, count:])
    np.testing.assert_array_equal(tile[5], before[5])


@pytest.mark.parametrize(("dense", "intercept"), [(0, 0), (1, 0), (1, 1), (4, 0), (8, 1), (13, 0), (14, 1)])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 1), (5, 61)])
def test_factor_tables_agree_with_their_naive_twin(
    dense: int, intercept: int, levels: tuple[int, ...], first: int, count: int
) -> None:
    rng = np.random.default_rng(3)
    layout = layout_of(dense, levels)
    root, slope = np.full(70, np.nan), np.full(70, np.nan)
    root[:count] = rng.integers(0, 5, count)
    slope[:count] = whole(rng, count)
    tile = np.full((layout.padded, 70), np.nan)
    tile[:dense, :count] = whole(rng, dense, count) * root[:count]
    codes = codes_of(rng, levels, first + count + 3)
    gradient = whole(rng, layout.slots)
    tables = [
        whole(rng, layout.factor_slots),
        whole(rng, dense, layout.factor_slots),
        whole(rng, layout.pair_cells),
    ]
    twin = naive.factor_tables(
        codes[:, first : first + count], layout.widths, root[:count], tile[:dense, :count]
    )
    want = [before + added for before, added in zip(tables, twin, strict=True)]
    want[1][:intercept] = tables[1][:intercept]  # the row of an intercept is the diagonal
    want_gradient = gradient.copy()
    for f, start in enumerate(layout.starts):
        np.add.at(want_gradient, start + 1 + codes[f, first : first + count], slope[:count])
    add_factors(
        tile,
        root,
        root**2,
        slope,
        codes,
        layout.starts,
        layout.plain,
        layout.widths,
        layout.pair_starts,
        first,
        count,
        dense,
        intercept,
        gradient,
        *tables,
    )
    np.testing.assert_array_equal(gradient, want_gradient)
    for got, expected in zip(tables, want, strict=True):
        np.testing.assert_array_equal(got, expected)
