"""The assembled gradient and Hessian against a one-hot design matrix, and merging against plain addition."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import permutations

import naive
import numpy as np
import pytest

from streamlr.design.layout import Layout
from streamlr.kernels.block import LEAST_CURVATURE, SCALARS
from streamlr.kernels.tile import Block, Conditioning
from streamlr.linear_algebra import Bordered
from streamlr.passes.sums import Sums, scratch_for

NOTHING = np.empty(0)


def block_of(numeric: int, levels: tuple[int, ...], rows: int, seed: int = 1, **kinds: bool) -> Block:
    rng = np.random.default_rng(seed)
    codes = np.empty((len(levels), rows), dtype=np.int32)
    for row, count in zip(codes, levels, strict=True):
        row[:] = rng.integers(-1, count, rows)
    trials = rng.integers(1, 6, rows).astype(float) if kinds.get("trials") else NOTHING
    success = np.floor(rng.random(rows) * ((trials if trials.size else np.ones(rows)) + 1))
    return Block(
        rng.normal(1.0, 2.0, (numeric, rows)),
        codes,
        success,
        trials,
        rng.integers(0, 4, rows).astype(float) if kinds.get("weight") else NOTHING,
        rng.normal(size=rows) if kinds.get("offset") else NOTHING,
    )


def plain(layout: Layout) -> Conditioning:
    """Columns as they are."""
    return Conditioning(
        layout.intercept,
        np.zeros(layout.numeric),
        np.ones(layout.numeric),
        layout.dense,
        layout.padded,
        layout.plain,
        layout.starts,
        np.empty(0, dtype=np.int64),
        np.empty((0, layout.slots)),
        NOTHING,
    )


def by_term(layout: Layout, block: Block) -> np.ndarray:
    """(n, k): the columns in the order of the terms, a factor as one 0/1 column a level."""
    columns: list[np.ndarray] = []
    for term in layout.order:
        if term < 0:
            columns.append(np.ones(block.success.size))
        elif term < layout.numeric:
            columns.append(block.numeric[term])
        else:
            f = term - layout.numeric
            columns.extend((block.codes[f] == level).astype(float) for level in range(layout.levels[f]))
    return np.column_stack(columns) if columns else np.empty((block.success.size, 0))


def sums_of(layout: Layout, block: Block, coef: np.ndarray, first: bool = True) -> Sums:
    sums = Sums(layout, first)
    sums.add(block, plain(layout), layout.to_slots(coef), 0.3, scratch_for(layout))
    return sums


def check(layout: Layout, rows: int = 300) -> None:
    block = block_of(layout.numeric, layout.levels, rows)
    coef = np.random.default_rng(5).normal(size=layout.columns) * 0.3
    sums = sums_of(layout, block, coef)
    X = by_term(layout, block)
    loss, slope, curvature = naive.losses(X @ coef, *naive.outcomes(block))
    # n terms summed in two orders differ by at most 2 n 2**-53 of the sum of their absolute values, and
    # each term by a few roundings of eta, which reaches 20 here, so by 20 * 4 * 2**-53 of itself.
    rounding = (2 * rows + 100) * 2.0**-53
    assert sums.loss == pytest.approx(loss.sum(), rel=rounding)
    reach = np.abs(X).T @ np.abs(slope)
    assert np.all(np.abs(sums.gradient() - X.T @ slope) <= rounding * reach)
    reach = np.abs(X).T @ (curvature[:, None] * np.abs(X))
    hessian = sums.hessian()
    assert hessian.shape == (layout.columns, layout.columns)
    assert np.all(np.abs(hessian - X.T @ (curvature[:, None] * X)) <= rounding * reach)
    np.testing.assert_array_equal(hessian, hessian.T)


@pytest.mark.parametrize("numeric", [*range(14), 29, 65])
@pytest.mark.parametrize("intercept", [False, True])
def test_dense_designs_of_every_width(numeric: int, intercept: bool) -> None:
    check(Layout(tuple(range(-int(intercept), numeric)), numeric, ()))


@pytest.mark.parametrize("order", list(permutations([-1, 0, 1, 2, 3])))
def test_terms_in_any_order(order: tuple[int, ...]) -> None:
    """Intercept, two numbers, and factors of 3 and 5 levels."""
    check(Layout(order, 2, (3, 5)), rows=60)


@pytest.mark.parametrize("levels", [(1,), (4,), (1, 1), (6, 2, 3), (2, 5, 1, 3)])
@pytest.mark.parametrize("numeric", [0, 3])
@pytest.mark.parametrize("intercept", [False, True])
def test_factors_of_every_number(levels: tuple[int, ...], numeric: int, intercept: bool) -> None:
    check(Layout(tuple(range(-int(intercept), numeric + len(levels))), numeric, levels))


@pytest.mark.parametrize("order", [(-1, 0, 1, 2, 3, 4), (3, 1, -1, 2, 0, 4), (2, 0, 3, 1, 4), (4,)])
def test_an_absorbed_factor_borders_the_hessian(order: tuple[int, ...]) -> None:
    """It is the Hessian of the same layout without absorbing, in blocks."""
    numeric, levels = (2, (3, 5, 11)) if len(order) > 1 else (0, (11,))
    order = order if len(order) > 1 else (0,)
    layout = Layout(order, numeric, levels, absorbed=True)
    block = block_of(numeric, levels, 500)
    coef = np.random.default_rng(5).normal(size=layout.columns) * 0.3
    sums = sums_of(layout, block, coef)
    bordered, dense = sums.hessian(), sums_of(replace(layout, absorbed=False), block, coef).hessian()
    assert isinstance(bordered, Bordered)
    assert isinstance(dense, np.ndarray)
    p = layout.own_columns
    assert p == layout.columns - 11
    np.testing.assert_array_equal(bordered.dense, dense[:p, :p])
    np.testing.assert_array_equal(bordered.border, dense[:p, p:])
    np.testing.assert_array_equal(np.diag(bordered.tail), dense[p:, p:])
    sums.shed()
    np.testing.assert_array_equal(bordered.border, dense[:p, p:])


@pytest.mark.parametrize("kinds", [{}, {"trials": True, "weight": True, "offset": True}])
def test_merging_adds(kinds: dict[str, bool]) -> None:
    layout = Layout((2, -1, 0, 3, 1), 2, (3, 4))
    coef = np.random.default_rng(3).normal(size=layout.columns) * 0.4
    parts = [sums_of(layout, block_of(2, (3, 4), 200 + seed, seed, **kinds), coef) for seed in range(2)]
    for place, part in enumerate(parts):
        part.tally.rows_read = part.tally.rows_used = 10 + place
        part.tally.least_weight = 3.0 - place
        part.tally.missing["x"] = place
    a, b = copy.deepcopy(parts)
    merged = parts[0].merge(parts[1])
    assert merged is parts[0]
    for name in ("gradient", "gram", "diagonal", "cross", "pairs"):
        want = getattr(a.totals, name) + getattr(b.totals, name)
        np.testing.assert_array_equal(getattr(merged.totals, name), want)
    added = [place for place in range(SCALARS) if place != LEAST_CURVATURE]
    scalars = a.totals.scalars[added] + b.totals.scalars[added]
    np.testing.assert_array_equal(merged.totals.scalars[added], scalars)
    assert merged.least_curvature == min(a.least_curvature, b.least_curvature)
    np.testing.assert_array_equal(merged.low, np.minimum(a.low, b.low))
    np.testing.assert_array_equal(merged.high, np.maximum(a.high, b.high))
    assert merged.log_binomial == a.log_binomial + b.log_binomial
    assert merged.saturated == a.saturated + b.saturated
    assert (merged.tally.rows_read, merged.tally.rows_used) == (21, 21)
    assert merged.tally.least_weight == 2.0
    assert merged.tally.missing == {"x": 1}


def test_two_halves_are_the_whole() -> None:
    layout = Layout((-1, 0, 1, 2), 2, (4,))
    coef = np.array([0.2, -0.1, 0.3, 0.5, -0.4, 0.0, 1.0])
    block = block_of(2, (4,), 2500, weight=True)
    whole = sums_of(layout, block, coef)
    halves = []
    for rows in (slice(0, 1100), slice(1100, 2500)):
        numeric, codes = (
            np.ascontiguousarray(np.array(array)[:, rows]) for array in (block.numeric, block.codes)
        )
        half = Block(numeric, codes, block.success[rows], NOTHING, block.weight[rows], NOTHING)
        halves.append(sums_of(layout, half, coef))
    merged = halves[0].merge(halves[1])
    # 2,500 terms added up in another order; nothing cancels in the loss and on the diagonal.
    rounding = 2 * 2500 * 2.0**-53
    assert merged.loss == pytest.approx(whole.loss, rel=rounding)
    np.testing.assert_allclose(np.diag(merged.hessian()), np.diag(whole.hessian()), rtol=rounding)
    np.testing.assert_array_equal(merged.low, whole.low)
    np.testing.assert_array_equal(merged.high, whole.high)
    assert merged.least_curvature == whole.least_curvature


def test_sums_of_nothing_are_neutral() -> None:
    layout = Layout((-1, 0, 1), 1, (3,))
    coef = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    some = sums_of(layout, block_of(1, (3,), 50), coef)
    before = copy.deepcopy(some)
    some.merge(sums_of(layout, block_of(1, (3,), 0), coef)).merge(Sums(layout, first=True))
    np.testing.assert_array_equal(some.hessian(), before.hessian())
    np.testing.assert_array_equal(some.totals.scalars, before.totals.scalars)
    np.testing.assert_array_equal([some.low, some.high], [before.low, before.high])


def test_later_passes_look_for_no_ranges() -> None:
    layout = Layout((-1, 0), 1, ())
    block = block_of(1, (), 50, trials=True)
    first, later = (sums_of(layout, block, np.zeros(2), first) for first in (True, False))
    assert first.low[0] == block.numeric.min()
    assert first.log_binomial > 0.0
    assert (later.low[0], later.high[0]) == (np.inf, -np.inf)
    assert (later.log_binomial, later.saturated) == (0.0, 0.0)
    assert later.loss == first.loss


def test_rows_of_weight_zero_bound_no_curvature() -> None:
    layout = Layout((-1, 0), 1, ())
    block = block_of(1, (), 3)
    block = replace(block, numeric=np.array([[0.0, 50.0, 1.0]]), weight=np.array([1.0, 0.0, 2.0]))
    sums = sums_of(layout, block, np.array([0.0, 1.0]))
    assert sums.least_curvature == 0.25
