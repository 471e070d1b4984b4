"""Kernels that take a number for every row, against whole matrices."""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest
from test_block import block_of, conditioning_of, layout_of

from streamlr.design.layout import Layout
from streamlr.kernels.scores import (
    add_cluster_scores,
    add_row_products,
    add_row_sums,
    fitted_rows,
    quadratic_forms,
)
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.sums import Sums, scratch_for

DESIGNS = [
    (0, (), True, ()),
    (3, (), False, ()),
    (12, (), True, ()),
    (0, (4,), True, ()),
    (2, (5, 3), True, ()),
    (4, (12, 2, 30), True, (0, -1)),
    (5, (3, 3), False, (0,)),
]
ROWS = [0, 1, 1_300]


def drawn(
    shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int
) -> tuple[Layout, Block, Conditioning, np.ndarray]:
    layout = layout_of(*shape)
    block = block_of(layout, n, weight=True, offset=True)
    conditioning = conditioning_of(layout, reduced=layout.dense > 2)
    return layout, block, conditioning, naive.design_matrix(block, conditioning, layout.slots)


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("shape", DESIGNS)
def test_fitted_rows(shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    coef = np.random.default_rng(3).normal(size=layout.slots)
    eta, p, q = np.empty(n), np.empty(n), np.empty(n)
    fitted_rows(block.rows, conditioning, coef, scratch_for(layout), eta, p, q)
    want = X @ coef + block.offset
    np.testing.assert_allclose(eta, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-eta)), rtol=1e-14)
    np.testing.assert_allclose(q, 1 / (1 + np.exp(eta)), rtol=1e-14)


def test_both_tails_keep_their_digits() -> None:
    layout = layout_of(1, ())
    block = replace(block_of(layout, 4), numeric=[np.array([-600.0, -40.0, 40.0, 600.0])], offset=np.empty(0))
    plain = conditioning_of(layout)._replace(centre=np.zeros(1), scale=np.ones(1))
    eta, p, q = np.empty(4), np.empty(4), np.empty(4)
    fitted_rows(block.rows, plain, np.array([0.0, 1.0]), scratch_for(layout), eta, p, q)
    tails = np.exp([-600.0, -40.0])
    np.testing.assert_allclose(p[:2], tails, rtol=1e-13, atol=0)
    np.testing.assert_allclose(q[2:], tails[::-1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("shape", DESIGNS)
def test_row_sums(shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    slope = np.random.default_rng(4).normal(size=n)
    gradient = np.ones(layout.slots)
    add_row_sums(block.rows, conditioning, slope, gradient, scratch_for(layout))
    np.testing.assert_allclose(gradient, 1 + X.T @ slope, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("shape", DESIGNS)
def test_row_products(shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    weight = np.random.default_rng(5).random(n)
    sums = Sums(layout, first=False)
    add_row_products(block.rows, conditioning, weight, sums.totals, scratch_for(layout))
    own = X[:, layout.slot_of_column]
    np.testing.assert_allclose(sums.hessian(), (own.T * weight) @ own, rtol=1e-10, atol=1e-8)
    assert not sums.totals.gradient.any()


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("shape", DESIGNS)
def test_quadratic_forms(shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    half = np.random.default_rng(6).normal(size=(layout.slots, layout.slots))
    matrix = np.zeros((layout.slots, layout.slots))
    own = np.ix_(layout.slot_of_column, layout.slot_of_column)
    matrix[own] = (half + half.T)[own]
    found = np.empty(n)
    quadratic_forms(block.rows, conditioning, matrix, scratch_for(layout), found)
    np.testing.assert_allclose(found, np.einsum("ij,jk,ik->i", X, matrix, X), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("shape", DESIGNS)
def test_cluster_scores(shape: tuple[int, tuple[int, ...], bool, tuple[int, ...]], n: int) -> None:
    layout, block, conditioning, X = drawn(shape, n)
    rng = np.random.default_rng(7)
    slope, places = rng.normal(size=n), rng.integers(0, 7, n)
    table = np.ones((7, layout.slots))
    add_cluster_scores(block.rows, conditioning, slope, places, table, scratch_for(layout))
    want = np.ones((7, layout.slots))
    np.add.at(want, places, X * slope[:, None])
    np.testing.assert_allclose(table, want, rtol=1e-10, atol=1e-9)
