"""Block kernels against whole matrices: dense, categorical and mixed designs, every kind of row."""

from __future__ import annotations

import naive
import numpy as np
import pytest

from streamlr.design.layout import Layout
from streamlr.kernels.block import (
    LEAST_CURVATURE,
    NULL_CURVATURE,
    NULL_LOSS,
    NULL_SLOPE,
    SCALARS,
    note_least,
    probe_block,
    score_block,
)
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.sums import Sums, scratch_for

NOTHING = np.empty(0)


def layout_of(
    numeric: int, levels: tuple[int, ...], intercept: bool = True, hosts: tuple[int, ...] = ()
) -> Layout:
    order = ([-1] if intercept else []) + list(range(numeric + len(levels)))
    return Layout(tuple(order), numeric, levels, hosts)


def block_of(
    layout: Layout,
    n: int,
    *,
    seed: int = 1,
    dtype: type = np.float64,
    trials: bool = False,
    weight: bool = False,
    offset: bool = False,
) -> Block:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, n).astype(float) if trials else NOTHING
    codes = np.empty((len(layout.levels), n), dtype=np.int32)
    for row, count in zip(codes, layout.levels, strict=True):
        row[:] = rng.integers(-1, count, n)
    return Block(
        (rng.normal(size=(layout.numeric + layout.scaled, n)) * 2 + 3).astype(dtype),
        codes,
        np.floor(rng.random(n) * (counts + 1)) if trials else (rng.random(n) < 0.4).astype(float),
        counts,
        rng.integers(0, 3, n).astype(float) if weight else NOTHING,
        rng.normal(size=n) if offset else NOTHING,
    )


def conditioning_of(layout: Layout, reduced: bool = False) -> Conditioning:
    rng = np.random.default_rng(9)
    gamma = np.zeros((int(reduced), layout.slots))
    if reduced:  # the last dense column loses a bit of each earlier dense column and of every level
        gamma[0, : layout.dense - 1] = 0.3
        gamma[0, layout.dense :] = rng.normal(size=layout.slots - layout.dense)
    return Conditioning(
        layout.intercept,
        rng.normal(size=layout.numeric + layout.scaled),
        rng.random(layout.numeric + layout.scaled) + 0.5,
        layout.dense,
        layout.padded,
        layout.plain,
        layout.starts,
        np.array([layout.dense - 1] if reduced else [], dtype=np.int64),
        gamma,
        np.array([1.7] if reduced else []),
    )


DESIGNS = [
    (0, (), True),
    (1, (), True),
    (3, (), False),
    (12, (), True),
    (28, (), True),
    (64, (), True),
    (129, (), True),
    (0, (4,), True),
    (0, (1, 7, 3), True),
    (2, (5,), True),
    (4, (12, 2, 30), True),
    (5, (3, 3), False),
]


@pytest.mark.parametrize(("numeric", "levels", "intercept"), DESIGNS)
@pytest.mark.parametrize("rows", [0, 1, 255, 1023, 1024, 1025, 3000])
def test_sums_agree_with_the_naive_twin(
    numeric: int, levels: tuple[int, ...], intercept: bool, rows: int
) -> None:
    layout = layout_of(numeric, levels, intercept)
    check_sums(layout, block_of(layout, rows), conditioning_of(layout))


@pytest.mark.parametrize(
    ("numeric", "levels", "hosts", "intercept"),
    [
        (0, (3,), (-1,), True),
        (0, (3,), (-1,), False),
        (3, (4, 2, 4), (0,), True),
        (5, (4, 2, 4, 2), (0, 1), True),
        (4, (4, 4, 4), (0, 0), False),
        (2, (6, 5), (-1, -1), True),
    ],
)
@pytest.mark.parametrize("reduced", [False, True])
def test_factors_times_numbers(
    numeric: int, levels: tuple[int, ...], hosts: tuple[int, ...], intercept: bool, reduced: bool
) -> None:
    layout = layout_of(numeric, levels, intercept, hosts)
    conditioning = conditioning_of(layout, reduced and numeric > 0)
    check_sums(layout, block_of(layout, 2500), conditioning)
    coef = np.random.default_rng(4).normal(size=layout.slots)
    block = block_of(layout, 1500)
    eta, probability = np.empty(1500), np.empty(1500)
    score_block(block.rows, conditioning, coef, scratch_for(layout), eta, probability)
    want = naive.design_matrix(block, conditioning, layout.slots) @ coef
    np.testing.assert_allclose(eta, want, rtol=1e-12, atol=1e-12)
    squares, products, extent = np.zeros(1), np.zeros((1, layout.slots)), np.zeros(1)
    probe_block(block.rows, conditioning, coef[None], coef, squares, products, extent, scratch_for(layout))
    X = naive.design_matrix(block, conditioning, layout.slots)
    _, _, curvature = naive.losses(want, *naive.outcomes(block))
    np.testing.assert_allclose(products[0], X.T @ (curvature * want), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("reduced", [False, True])
def test_every_kind_of_row(dtype: type, trials: bool, weight: bool, offset: bool, reduced: bool) -> None:
    layout = layout_of(3, (4, 6))
    block = block_of(layout, 1500, dtype=dtype, trials=trials, weight=weight, offset=offset)
    check_sums(layout, block, conditioning_of(layout, reduced))


def check_sums(layout: Layout, block: Block, conditioning: Conditioning) -> None:
    coef = np.random.default_rng(2).normal(size=layout.slots) * 0.3
    sums = Sums(layout, first=True)
    sums.add(block, conditioning, coef, 0.4, scratch_for(layout))
    X = naive.design_matrix(block, conditioning, layout.slots)
    s, f = naive.outcomes(block)
    offset = block.offset if block.offset.size else np.zeros(s.size)
    loss, slope, curvature = naive.losses(X @ coef + offset, s, f)
    columns = layout.slot_of_column
    # Sums of up to 3,000 rows in another order: rounding of sqrt(n) ulps relative to the absolute sum.
    scale = np.abs(X).T @ np.abs(slope)
    assert sums.loss == pytest.approx(loss.sum(), rel=1e-12)
    assert np.all(np.abs(sums.gradient() - (X.T @ slope)[columns]) <= 1e-13 * (1 + scale[columns]))
    hessian = (X.T @ (curvature[:, None] * X))[np.ix_(columns, columns)]
    bound = (np.abs(X).T @ (curvature[:, None] * np.abs(X)))[np.ix_(columns, columns)]
    assert np.all(np.abs(sums.hessian() - hessian) <= 1e-13 * (1 + bound))
    assert sums.successes == pytest.approx(s.sum(), rel=1e-13)
    assert sums.failures == pytest.approx(f.sum(), rel=1e-13)
    informative = curvature[s + f > 0]
    assert sums.totals.scalars[LEAST_CURVATURE] == pytest.approx(informative.min(initial=np.inf), rel=1e-12)
    if block.offset.size:
        null = naive.losses(0.4 + offset, s, f)
        got = sums.totals.scalars[[NULL_LOSS, NULL_SLOPE, NULL_CURVATURE]]
        np.testing.assert_allclose(got, [part.sum() for part in null], rtol=1e-11, atol=1e-12)


def test_ranges_of_numeric_columns_show_infinities() -> None:
    layout = layout_of(3, ())
    block = block_of(layout, 2000)
    block.numeric[1][1234] = np.inf
    block.numeric[2][77] = -np.inf
    sums = Sums(layout, first=True)
    with np.errstate(invalid="ignore"):  # kernels run as plain Python warn of infinity times zero
        sums.add(block, conditioning_of(layout), np.zeros(layout.slots), 0.0, scratch_for(layout))
    np.testing.assert_array_equal(sums.low, [column.min() for column in block.numeric])
    np.testing.assert_array_equal(sums.high, [column.max() for column in block.numeric])
    assert np.isinf(sums.high[1])
    assert np.isinf(sums.low[2])


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_scores_are_linear_predictor_and_probability(reduced: bool, offset: bool) -> None:
    layout = layout_of(4, (3, 9))
    block, conditioning = block_of(layout, 2500, offset=offset), conditioning_of(layout, reduced)
    coef = np.random.default_rng(4).normal(size=layout.slots)
    eta, probability = np.empty(2500), np.empty(2500)
    score_block(block.rows, conditioning, coef, scratch_for(layout), eta, probability)
    want = naive.design_matrix(block, conditioning, layout.slots) @ coef + (block.offset if offset else 0.0)
    np.testing.assert_allclose(eta, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-want)), rtol=1e-11)


def test_probe_finds_how_far_combinations_stay_from_zero() -> None:
    layout = layout_of(3, (4,))
    block, conditioning = block_of(layout, 2100, weight=True), conditioning_of(layout)
    rng = np.random.default_rng(6)
    coef, combinations = rng.normal(size=layout.slots) * 0.2, rng.normal(size=(2, layout.slots))
    squares, products, extent = np.zeros(2), np.zeros((2, layout.slots)), np.zeros(2)
    probe_block(block.rows, conditioning, combinations, coef, squares, products, extent, scratch_for(layout))
    X = naive.design_matrix(block, conditioning, layout.slots)
    s, f = naive.outcomes(block)
    _, _, curvature = naive.losses(X @ coef, s, f)
    values = X @ combinations.T
    informative = s + f > 0
    np.testing.assert_allclose(extent, np.abs(values[informative]).max(axis=0), rtol=1e-12)
    np.testing.assert_allclose(squares, (curvature[:, None] * values**2).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(products, (values * curvature[:, None]).T @ X, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("before", [np.inf, 0.2, 1e-9])
def test_the_least_curvature_is_that_of_rows_with_trials(before: float) -> None:
    rng = np.random.default_rng(9)
    curvature = rng.random(100) + 0.01
    curvature[[3, 50, 77, 90]] = 0.0, 1e-310, np.nan, 1e-4
    success, failure = np.ones(100), np.zeros(100)
    success[[3, 50]] = 0.0  # no trial at all
    scalars = np.full(SCALARS, 7.0)
    scalars[LEAST_CURVATURE] = before
    note_least(success, failure, curvature, 95, scalars)
    assert scalars[LEAST_CURVATURE] == min(before, 1e-4)
    success[50] = 2.0
    note_least(success, failure, curvature, 95, scalars)
    assert scalars[LEAST_CURVATURE] == 1e-310
    success[3] = 1.0
    note_least(success, failure, curvature, 3, scalars)  # the rows before it alone
    assert scalars[LEAST_CURVATURE] == 1e-310
    assert (np.delete(scalars, LEAST_CURVATURE) == 7.0).all()
