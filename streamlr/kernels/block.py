"""The order of the story for one block of rows: tile, linear predictor, losses, gradient, Hessian."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.gram import add_factors, add_gradient, add_gram, weigh_tile
from streamlr.kernels.jit import kernel
from streamlr.kernels.logistic import probabilities, row_losses, total
from streamlr.kernels.tile import (
    Block,
    Conditioning,
    Floats,
    add_linear_predictor,
    fill_outcomes,
    fill_tile,
    start_eta,
)

# Places in `Totals.scalars`.
LOSS = 0
LEAST_CURVATURE = 1
NULL_LOSS = 2
NULL_SLOPE = 3
NULL_CURVATURE = 4
SUCCESSES = 5
FAILURES = 6
SCALARS = 7


class Totals(NamedTuple):
    """Running sums that kernels add to; `streamlr.passes.sums.Sums` owns them."""

    scalars: Floats  # (SCALARS,)
    gradient: Floats  # (slots,)
    gram: Floats  # (padded, padded), dense with dense, lower triangle
    diagonal: Floats  # (factor slots,)
    cross: Floats  # (dense, factor slots)
    pairs: Floats  # (all pair tables,)
    widths: NDArray[np.int64]  # (c,) slots of each factor
    pair_starts: NDArray[np.int64]  # (c, c) where the table of a pair begins


class Scratch(NamedTuple):
    """Memory of one worker for one tile."""

    tile: Floats  # (padded, t)
    work: Floats  # (7, t)
    exponent: Floats  # (4, t)
    exponent_bits: NDArray[np.int64]  # the same memory


@kernel
def add_block(block: Block, conditioning: Conditioning, coef, totals: Totals, scratch: Scratch):
    """Add loss, gradient and Hessian at `coef` (slots,) of every row of a block to `totals`."""
    n = block.success.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = block.numeric.shape[0] + conditioning.intercept
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    loss = scratch.work[3]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    root = scratch.work[6]
    starts = conditioning.starts
    scalars = totals.scalars
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(block, conditioning, first, count, tile, root)
        fill_outcomes(block, first, count, success, failure)
        scalars[SUCCESSES] += total(success, count)
        scalars[FAILURES] += total(failure, count)
        start_eta(block.offset, 0.0, first, count, eta)
        add_linear_predictor(block.codes, starts, coef, first, count, tile, eta)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, loss, slope, curvature
        )
        scalars[LOSS] += total(loss, count)
        least = scalars[LEAST_CURVATURE]
        for i in range(count):
            if success[i] + failure[i] > 0.0:
                least = min(least, curvature[i])
        scalars[LEAST_CURVATURE] = least
        add_gradient(tile, slope, block.codes, starts, first, count, dense, totals.gradient)
        weigh_tile(tile, curvature, count, dense, root)
        add_gram(tile, count, dense, totals.gram)
        add_factors(
            tile,
            root,
            curvature,
            block.codes,
            starts,
            totals.widths,
            totals.pair_starts,
            first,
            count,
            dense,
            totals.diagonal,
            totals.cross,
            totals.pairs,
        )


@kernel
def add_null(block: Block, coef, scalars, scratch: Scratch):
    """Add loss, slope and curvature of the null model, eta = coef + offset, to `scalars`.

    Without an offset these have a closed form, so this kernel is for designs that have one.
    """
    n = block.success.size
    length = scratch.tile.shape[1]
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    loss = scratch.work[3]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_outcomes(block, first, count, success, failure)
        start_eta(block.offset, coef, first, count, eta)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, loss, slope, curvature
        )
        scalars[NULL_LOSS] += total(loss, count)
        scalars[NULL_SLOPE] += total(slope, count)
        scalars[NULL_CURVATURE] += total(curvature, count)


@kernel
def score_block(block: Block, conditioning: Conditioning, coef, scratch: Scratch, eta, probability):
    """eta = x'coef + offset and probability = 1 / (1 + exp(-eta)) of every row of a block, each (n,)."""
    n = eta.size
    length = scratch.tile.shape[1]
    row_eta = scratch.work[0]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(block, conditioning, first, count, scratch.tile, scratch.work[6])
        start_eta(block.offset, 0.0, first, count, row_eta)
        add_linear_predictor(block.codes, conditioning.starts, coef, first, count, scratch.tile, row_eta)
        probabilities(row_eta, count, scratch.exponent, scratch.exponent_bits, scratch.work[1])
        for i in range(count):
            eta[first + i] = row_eta[i]
            probability[first + i] = scratch.work[1, i]


@kernel
def probe_block(
    block: Block,
    conditioning: Conditioning,
    coef,
    curvature_coef,
    squares,
    products,
    extent,
    scratch: Scratch,
):
    """How far from zero the combinations x'coef[m] stay, one row of `coef` (m, slots) a combination.

    extent[m]   = max(extent[m], |x'coef[m]|)
    squares[m] += curvature (x'coef[m])**2
    products[m] += curvature (x'coef[m]) x, by slot

    The curvature is that of the loss at `curvature_coef`.
    """
    n = block.success.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = block.numeric.shape[0] + conditioning.intercept
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    weighted = scratch.work[3]
    starts = conditioning.starts
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(block, conditioning, first, count, tile, scratch.work[6])
        fill_outcomes(block, first, count, success, failure)
        start_eta(block.offset, 0.0, first, count, eta)
        add_linear_predictor(block.codes, starts, curvature_coef, first, count, tile, eta)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, weighted, slope, curvature
        )
        for m in range(coef.shape[0]):
            for i in range(count):
                eta[i] = 0.0
            add_linear_predictor(block.codes, starts, coef[m], first, count, tile, eta)
            most = extent[m]
            square = 0.0
            for i in range(count):
                if success[i] + failure[i] > 0.0:
                    most = max(most, abs(eta[i]))
                weighted[i] = curvature[i] * eta[i]
                square += weighted[i] * eta[i]
            extent[m] = most
            squares[m] += square
            add_gradient(tile, weighted, block.codes, starts, first, count, dense, products[m])
