"""The tile and what is read from it against whole matrices, in numbers that leave nothing to round.

Data are quarters below 2**5 and scales powers of two, so a fused multiply-add changes nothing and equality is
exact. Cells behind the rows asked for hold a mark that has to stay.
"""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest

from streamlr.design.layout import Layout
from streamlr.kernels.tile import (
    STORED_TYPES,
    Block,
    Conditioning,
    add_dense_predictor,
    add_factor_predictor,
    add_linear_predictor,
    fill_and_predict,
    fill_outcomes,
    fill_tile,
    start_eta,
)

NOTHING = np.empty(0)
MARK = -12345.0
ROWS = 40
SHAPES = [(0, (), 1), (1, (), 0), (5, (), 1), (0, (3,), 1), (3, (2, 4), 1), (3, (2, 4), 0), (0, (3, 1, 5), 0)]
SLICES = [(0, 0), (0, 1), (0, ROWS), (7, 30)]


def quarters(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-100, 101, shape) / 4.0


def layout_of(numeric: int, levels: tuple[int, ...], intercept: int) -> Layout:
    return Layout(tuple(range(-intercept, numeric + len(levels))), numeric, levels)


def block_of(
    layout: Layout, dtype: type = np.float64, *, trials: bool = False, weight: bool = False
) -> Block:
    rng = np.random.default_rng(1)
    codes = np.empty((len(layout.levels), ROWS), dtype=np.int32)
    for row, count in zip(codes, layout.levels, strict=True):
        row[:] = rng.integers(-1, count, ROWS)
    counts = rng.integers(0, 9, ROWS).astype(float) if trials else NOTHING
    success = rng.integers(0, counts + 1) if trials else rng.integers(0, 2, ROWS)
    return Block(
        quarters(rng, layout.numeric, ROWS).astype(dtype),
        codes,
        success.astype(float),
        counts,
        rng.integers(0, 4, ROWS) / 2.0 if weight else NOTHING,
        quarters(rng, ROWS),
    )


def conditioning_of(layout: Layout, reduced: tuple[int, ...] = ()) -> Conditioning:
    """`reduced`: dense columns that lose a bit of every earlier one and of every slot of a factor."""
    rng = np.random.default_rng(2)
    gamma = np.zeros((len(reduced), layout.slots))
    for row, column in zip(gamma, reduced, strict=True):
        row[:column] = rng.integers(-2, 3, column) / 2.0
        row[layout.dense :] = rng.integers(-2, 3, layout.factor_slots) / 2.0
    return Conditioning(
        layout.intercept,
        quarters(rng, layout.numeric),
        2.0 ** rng.integers(-3, 4, layout.numeric),
        layout.dense,
        layout.padded,
        layout.plain,
        layout.starts,
        np.array(reduced, dtype=np.int64),
        gamma,
        2.0 ** rng.integers(-2, 3, len(reduced)),
    )


def filled(block: Block, conditioning: Conditioning, layout: Layout, first: int, count: int) -> np.ndarray:
    tile = np.full((layout.padded, ROWS + 3), MARK)
    fill_tile(block.rows, conditioning, first, count, tile, np.full(ROWS + 3, np.nan))
    assert np.all(tile[layout.dense :] == MARK)
    assert np.all(tile[:, count:] == MARK)
    return tile[: layout.dense, :count]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("numeric", "levels", "intercept"), SHAPES)
@pytest.mark.parametrize(("first", "count"), SLICES)
def test_a_tile_holds_the_conditioned_columns(
    dtype: type, numeric: int, levels: tuple[int, ...], intercept: int, first: int, count: int
) -> None:
    layout = layout_of(numeric, levels, intercept)
    block, conditioning = block_of(layout, dtype), conditioning_of(layout)
    want = naive.design_matrix(block, conditioning, layout.slots)[first : first + count, : layout.dense].T
    np.testing.assert_array_equal(filled(block, conditioning, layout, first, count), want)


@pytest.mark.parametrize("reduced", [(1,), (3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("levels", [(), (2, 4)])
def test_reduced_columns_lose_what_earlier_ones_say(
    reduced: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    """A later reduction is taken from columns reduced already."""
    layout = layout_of(3, levels, 1)
    block, conditioning = block_of(layout), conditioning_of(layout, reduced)
    want = naive.design_matrix(block, conditioning, layout.slots)[7:37, : layout.dense].T
    np.testing.assert_array_equal(filled(block, conditioning, layout, 7, 30), want)


@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_columns_of_every_stored_type_are_read_where_they_lie(dtype: str) -> None:
    """Slices that begin inside a larger array, one of each type in one block, and both ends of the type."""
    layout = layout_of(2, (), 0)
    floats = dtype.startswith("float")
    ends = [-1.5, 2.0**20 + 0.25] if floats else [np.iinfo(dtype).min, np.iinfo(dtype).max]
    whole = np.array([99, *ends, 3, 5, 99], dtype=dtype)
    other = np.arange(4, dtype=np.float64)
    block = Block((whole[1:5], other), np.empty((0, 4), np.int32), np.zeros(4), NOTHING, NOTHING, NOTHING)
    conditioning = Conditioning(
        0,
        np.zeros(2),
        np.ones(2),
        2,
        layout.padded,
        0,
        layout.starts,
        np.empty(0, np.int64),
        np.empty((0, 2)),
        NOTHING,
    )
    want = [whole[1:5].astype(np.float64)[1:], other[1:]]
    np.testing.assert_array_equal(filled(block, conditioning, layout, 1, 3), want)


def test_single_precision_is_widened_before_it_is_centred() -> None:
    layout = layout_of(1, (), 0)
    values = np.array([[16777216.0, 16777218.0]], dtype=np.float32)
    block = Block(values, np.empty((0, 2), np.int32), np.zeros(2), NOTHING, NOTHING, NOTHING)
    centre = np.array([16777217.0])  # no float32
    conditioning = Conditioning(
        0,
        centre,
        np.ones(1),
        1,
        layout.padded,
        0,
        layout.starts,
        np.empty(0, np.int64),
        np.empty((0, 1)),
        NOTHING,
    )
    np.testing.assert_array_equal(filled(block, conditioning, layout, 0, 2), [[-1.0, 1.0]])


@pytest.mark.parametrize(("numeric", "levels", "intercept"), SHAPES)
@pytest.mark.parametrize(("first", "count"), SLICES)
@pytest.mark.parametrize("offset", [False, True])
def test_the_linear_predictor(
    numeric: int, levels: tuple[int, ...], intercept: int, first: int, count: int, offset: bool
) -> None:
    layout = layout_of(numeric, levels, intercept)
    block, conditioning = block_of(layout), conditioning_of(layout)
    if not offset:
        block = replace(block, offset=NOTHING)
    coef = quarters(np.random.default_rng(4), layout.slots)
    X = naive.design_matrix(block, conditioning, layout.slots)[first : first + count]
    tile = np.full((layout.padded, ROWS + 3), np.nan)
    tile[: layout.dense, :count] = X[:, : layout.dense].T
    eta = np.full(ROWS + 3, MARK)
    start_eta(block.offset, 0.75, first, count, eta)
    np.testing.assert_array_equal(
        eta[:count], 0.75 + (block.offset[first : first + count] if offset else 0.0)
    )
    add_linear_predictor(block.rows, conditioning, coef, first, count, tile, eta)
    want = 0.75 + X @ coef + (block.offset[first : first + count] if offset else 0.0)
    np.testing.assert_array_equal(eta[:count], want)
    assert np.all(eta[count:] == MARK)


def test_a_column_without_a_coefficient_says_nothing_even_where_it_is_infinite() -> None:
    tile = np.array([[1.0, 2.0, 3.0], [np.inf, np.nan, 1.0]])
    eta = np.zeros(3)
    layout = layout_of(2, (), 0)
    block = replace(block_of(layout), offset=NOTHING)
    add_linear_predictor(block.rows, conditioning_of(layout), np.array([2.0, 0.0]), 0, 3, tile, eta)
    np.testing.assert_array_equal(eta, [2.0, 4.0, 6.0])


def filled_and_predicted(
    block: Block, layout: Layout, coef: np.ndarray, first: int, count: int, reduced: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The tile, and what was added to an eta of 0.75."""
    conditioning = conditioning_of(layout, reduced)
    tile = np.full((layout.padded, ROWS + 3), MARK)
    eta = np.full(ROWS + 3, 0.75)
    fill_and_predict(block.rows, conditioning, coef, first, count, tile, eta, np.full(ROWS + 3, np.nan))
    assert np.all(tile[layout.dense :] == MARK)
    assert np.all(tile[:, count:] == MARK)
    assert np.all(eta[count:] == 0.75)
    np.testing.assert_array_equal(
        tile[: layout.dense, :count], filled(block, conditioning, layout, first, count)
    )
    return tile, eta[:count]


@pytest.mark.parametrize(
    "types", ["ddddd", "fffff", "dffff", "ffdddd", "ffffddddf", "qqqqq", "bffffihd", "fffd"]
)
@pytest.mark.parametrize("intercept", [0, 1])
@pytest.mark.parametrize(("first", "count"), SLICES)
def test_a_tile_is_filled_and_its_predictor_added_at_once(
    types: str, intercept: int, first: int, count: int
) -> None:
    """Columns of all types, in fours of one type and not."""
    layout = layout_of(len(types), (3,), intercept)
    block = block_of(layout)
    numeric = [column.astype(kind) for column, kind in zip(block.numeric, types, strict=True)]
    block = replace(block, numeric=numeric)
    coef = np.where(quarters(np.random.default_rng(5), layout.slots) < 0.0, -0.5, 1.5)
    tile, eta = filled_and_predicted(block, layout, coef, first, count)
    X = naive.design_matrix(block, conditioning_of(layout), layout.slots)[first : first + count]
    dense = layout.dense
    np.testing.assert_array_equal(eta, 0.75 + X[:, :dense] @ coef[:dense])
    add_factor_predictor(block.rows, conditioning_of(layout), coef, first, count, tile, eta)
    np.testing.assert_array_equal(eta, 0.75 + X @ coef)


@pytest.mark.parametrize("reduced", [(1,), (2, 4)])
def test_reduced_columns_are_filled_before_they_are_predicted_from(reduced: tuple[int, ...]) -> None:
    layout = layout_of(5, (2,), 1)
    block, coef = block_of(layout), quarters(np.random.default_rng(6), layout.slots)
    tile, eta = filled_and_predicted(block, layout, coef, 7, 30, reduced)
    want = np.full(30, 0.75)
    add_dense_predictor(conditioning_of(layout, reduced), coef, 30, tile, want)
    np.testing.assert_array_equal(eta, want)


@pytest.mark.parametrize("zero", range(6))
def test_an_infinite_column_without_a_coefficient_is_left_out_of_four(zero: int) -> None:
    layout = layout_of(5, (), 1)
    coef = np.full(6, 0.5)
    coef[zero] = 0.0
    block = block_of(layout)
    numeric = np.array(block.numeric)
    if zero > 0:
        numeric[zero - 1] = np.inf
    tile, eta = filled_and_predicted(replace(block, numeric=list(numeric)), layout, coef, 0, ROWS)
    kept = np.arange(6) != zero
    np.testing.assert_array_equal(eta, 0.75 + 0.5 * tile[:6][kept][:, :ROWS].sum(axis=0))


def test_scales_are_filled_behind_the_dense_columns() -> None:
    layout = Layout((-1, 0, 1, 2, 3), 3, (2,), hosts=(-1,))
    rng = np.random.default_rng(7)
    numeric = [quarters(rng, ROWS).astype(kind) for kind in ("f8", "f8", "f8", "f4")]
    codes = rng.integers(-1, 2, (1, ROWS)).astype(np.int32)
    block = Block(numeric, codes, np.zeros(ROWS), NOTHING, NOTHING, NOTHING)
    centre, scale = quarters(rng, 4), 2.0 ** rng.integers(-3, 4, 4)
    none = np.empty((0, layout.slots))
    conditioning = Conditioning(
        1, centre, scale, 4, layout.padded, 0, layout.starts, np.empty(0, np.int64), none, NOTHING
    )
    tiles = np.full((2, layout.padded + 1, ROWS), MARK)
    fill_tile(block.rows, conditioning, 0, ROWS, tiles[0], np.empty(ROWS))
    fill_and_predict(
        block.rows, conditioning, np.ones(layout.slots), 0, ROWS, tiles[1], np.zeros(ROWS), np.empty(ROWS)
    )
    np.testing.assert_array_equal(tiles[1], tiles[0])
    np.testing.assert_array_equal(tiles[1, layout.padded], (numeric[3] - centre[3]) * scale[3])


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize(("first", "count"), SLICES)
def test_outcomes_are_weighted_successes_and_failures(
    trials: bool, weight: bool, first: int, count: int
) -> None:
    block = block_of(layout_of(1, (), 1), trials=trials, weight=weight)
    got = np.full((2, ROWS + 3), MARK)
    fill_outcomes(block.rows, first, count, got[0], got[1])
    for row, want in zip(got, naive.outcomes(block), strict=True):
        np.testing.assert_array_equal(row[:count], want[first : first + count])
    assert np.all(got[:, count:] == MARK)
