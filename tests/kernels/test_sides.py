"""On which side of planes rows lie, against whole matrices."""

from __future__ import annotations

import itertools
from dataclasses import replace

import naive
import numpy as np
import pytest
from test_scores import DESIGNS, ROWS, drawn

from streamlr.design.cuts import plain_conditioning, together
from streamlr.kernels.sides import add_products, project_block
from streamlr.passes.sides import Picked
from streamlr.passes.sums import scratch_for

Shape = tuple[int, tuple[int, ...], bool, tuple[int, ...]]
each_design = pytest.mark.parametrize("shape", DESIGNS)
each_length = pytest.mark.parametrize("n", ROWS)


@each_design
@each_length
def test_projections_and_their_sizes(shape: Shape, n: int) -> None:
    """Without the offset; three planes at once, one of them nowhere."""
    layout, block, conditioning, _ = drawn(shape, n)
    plain = plain_conditioning(layout, conditioning.centre, conditioning.scale)
    coef = np.random.default_rng(1).normal(size=(3, layout.slots))
    coef[1] = 0.0
    along, size = np.full((3, n), np.nan), np.full((3, n), np.nan)
    project_block(block.rows, plain, coef, scratch_for(layout), along, size)
    X = naive.design_matrix(block, plain, layout.slots)
    expected = np.abs(X) @ np.abs(coef).T
    np.testing.assert_allclose(size.T, expected, rtol=1e-13)
    assert np.all(np.abs(along.T - X @ coef.T) <= 1e-14 * expected)


@each_design
@each_length
def test_products_with_amounts(shape: Shape, n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    amounts = np.random.default_rng(2).normal(size=(2, n))
    products = np.ones((2, layout.slots))
    add_products(block.rows, conditioning, amounts, scratch_for(layout), products)
    expected = 1.0 + amounts @ X
    scale = 1.0 + np.abs(amounts) @ np.abs(X)
    assert np.all(np.abs(products - expected) <= 1e-13 * scale)


def test_rows_apart_and_together_again() -> None:
    _, block, *_ = drawn(DESIGNS[5], 1_300)
    block = replace(block, clusters=np.arange(1_300, dtype=np.int64)[None])
    first = np.arange(1_300) < 400
    again = together([block.taken(first), block.taken(~first)])
    for mine, theirs in zip(again.numeric, block.numeric, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name in ("codes", "success", "trials", "weight", "offset", "clusters"):
        np.testing.assert_array_equal(getattr(again, name), getattr(block, name), err_msg=name)


@pytest.mark.parametrize("cuts", [[], [1], [3, 500, 501], [650]])
def test_the_most_telling_rows_do_not_depend_on_how_rows_are_split(cuts: list[int]) -> None:
    """Ties go by the order of the rows."""
    _, block, *_ = drawn(DESIGNS[1], 1_300)
    block = replace(block, weight=np.arange(1_300) + 1.0)  # tells which rows they are
    wrong_by = np.round(np.random.default_rng(3).normal(size=1_300), 1)
    which = np.arange(1_300) % 3 != 0
    found = Picked(17)
    borders = [0, *cuts, 1_300]
    for begin, end in itertools.pairwise(borders):
        part = np.arange(begin, end)
        other = Picked(17)
        other.add(block.taken(part), wrong_by[part], which[part])
        found.merge(other)
    assert found.block is not None
    order = np.flatnonzero(which)[np.argsort(-wrong_by[which], kind="stable")][:17]
    np.testing.assert_array_equal(found.wrong_by, wrong_by[order])
    np.testing.assert_array_equal(found.block.weight, order + 1.0)
