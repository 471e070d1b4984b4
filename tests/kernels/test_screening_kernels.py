"""Sums of candidate columns against whole matrices."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from test_block import block_of, conditioning_of, layout_of

from streamlr.kernels.screening import BLOCK, SUMS, add_candidates
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.sums import scratch_for

DESIGNS = [
    (0, (), True, ()),
    (3, (), False, ()),
    (12, (), True, ()),
    (0, (4,), True, ()),
    (2, (5, 3), True, ()),
    (4, (12, 2, 30), True, (0, -1)),
]


def of_candidates(block: Block, values: list[np.ndarray], centre: np.ndarray) -> tuple[Block, Conditioning]:
    nothing = np.empty(0)
    own = Conditioning(
        intercept=0,
        centre=centre,
        scale=np.ones(len(values)),
        dense=len(values),
        scales=len(values),
        plain=0,
        starts=np.empty(0, dtype=np.int64),
        reduced=np.empty(0, dtype=np.int64),
        gamma=np.empty((0, 0)),
        stretch=nothing,
    )
    return Block(values, np.empty((0, 0), np.int32), block.success, nothing, nothing, nothing), own


@pytest.mark.parametrize("n", [0, 1, 1_300])
@pytest.mark.parametrize("number", [1, 4, 7])
@pytest.mark.parametrize("shape", DESIGNS)
def test_sums_agree_with_the_naive_twin(shape, number, n):
    layout = layout_of(*shape)
    block = block_of(layout, n)
    conditioning = conditioning_of(layout, reduced=layout.dense > 2)
    rng = np.random.default_rng(5)
    slope, curvature = rng.normal(size=n), rng.random(n)
    # Every stored type takes its turn.
    types = ["float64", "float32", "int64", "int32", "int16", "int8", "float64"]
    values = [(rng.normal(size=n) * 9).astype(kind) for kind in types[:number]]
    centre = rng.normal(size=number)
    columns, own = of_candidates(block, values, centre)
    padded = -(-number // BLOCK) * BLOCK
    scratch = scratch_for(layout)
    sums, products = np.ones((number, SUMS)), np.ones((padded, layout.slots))
    tile = np.zeros((padded, scratch.tile.shape[1]))
    add_candidates(
        block.rows, conditioning, slope, curvature, columns.rows, own, sums, products, scratch, tile
    )
    X = naive.design_matrix(block, conditioning, layout.slots)
    Z = np.array([column.astype(float) - c for column, c in zip(values, centre, strict=True)])
    expected = np.column_stack([-Z @ slope, Z @ curvature, Z**2 @ curvature])
    np.testing.assert_allclose(sums, 1 + expected, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(products[:number], 1 + (Z * curvature) @ X, rtol=1e-10, atol=1e-9)
