"""Sums with a number given for every row, quadratic forms of rows, and scores added up by cluster.

What comes after the fit needs no loss: a robust covariance is a Gram matrix weighted by squared residuals, a
leverage is a quadratic form, a score test or a marginal effect is a sum of rows times numbers that somebody
else has worked out. The kernels here take those numbers, one for each row of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.block import Scratch, Totals, add_weighted_tile
from streamlr.kernels.gram import (
    add_dense_gradient,
    add_factor_gradient,
)
from streamlr.kernels.jit import kernel, use_widest_vectors
from streamlr.kernels.logistic import probabilities
from streamlr.kernels.tile import (
    Conditioning,
    Floats,
    Rows,
    add_linear_predictor,
    fill_tile,
    start_eta,
)


@kernel
def fitted_rows(
    rows: Rows, conditioning: Conditioning, coef, scratch: Scratch, eta: Floats, p: Floats, q: Floats
):
    """eta = x'coef + offset, p = 1 / (1 + exp(-eta)) and q = 1 / (1 + exp(eta)) of every row, each (n,).

    q is not one less p, so that both tails keep their relative precision.
    """
    use_widest_vectors()
    n = eta.size
    length = scratch.tile.shape[1]
    row_eta = scratch.work[0]
    probability = scratch.work[1]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, scratch.tile, scratch.work[6])
        start_eta(rows.offset, 0.0, first, count, row_eta)
        add_linear_predictor(rows, conditioning, coef, first, count, scratch.tile, row_eta)
        probabilities(row_eta, count, scratch.exponent, scratch.exponent_bits, probability)
        for i in range(count):
            eta[first + i] = row_eta[i]
            p[first + i] = probability[i]
            row_eta[i] = -row_eta[i]
        probabilities(row_eta, count, scratch.exponent, scratch.exponent_bits, probability)
        for i in range(count):
            q[first + i] = probability[i]


@kernel
def add_row_sums(rows: Rows, conditioning: Conditioning, slope: Floats, gradient: Floats, scratch: Scratch):
    """gradient += sum of slope_i x_i: `slope` (n,), `gradient` (slots,)"""
    use_widest_vectors()
    n = slope.size
    tile = scratch.tile
    length = tile.shape[1]
    own = scratch.work[4]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        for i in range(count):
            own[i] = slope[first + i]
        add_dense_gradient(tile, own, count, conditioning.dense, gradient)
        add_factor_gradient(tile, own, rows, conditioning, first, count, gradient)


@kernel
def add_row_products(
    rows: Rows, conditioning: Conditioning, weight: Floats, totals: Totals, scratch: Scratch
):
    """Tables of the Hessian += sum of weight_i x_i x_i': `weight` (n,), not negative"""
    use_widest_vectors()
    n = weight.size
    tile = scratch.tile
    length = tile.shape[1]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    root = scratch.work[6]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, root)
        for i in range(count):
            slope[i] = 0.0
            curvature[i] = weight[first + i]
        add_weighted_tile(tile, slope, curvature, root, rows, conditioning, first, count, totals, scratch)


@kernel
def quadratic_forms(rows: Rows, conditioning: Conditioning, matrix: Floats, scratch: Scratch, out: Floats):
    """out_i = x_i' matrix x_i: `out` (n,), `matrix` (slots, slots) symmetric, zero for "no column"

    For column after column: twice what it meets of the columns before it, and itself once.
    """
    use_widest_vectors()
    n = out.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    starts = conditioning.starts
    plain = conditioning.plain
    met = scratch.work[0]
    form = scratch.work[1]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        for i in range(count):
            form[i] = 0.0
        for j in range(dense):
            column = tile[j]
            for i in range(count):
                met[i] = 0.5 * matrix[j, j] * column[i]
            for b in range(j):
                share = matrix[j, b]
                if share != 0.0:
                    other = tile[b]
                    for i in range(count):
                        met[i] += share * other[i]
            for i in range(count):
                form[i] += 2.0 * met[i] * column[i]
        for f in range(starts.size):
            levels = rows.codes[f][first : first + count]
            none = starts[f] + 1
            for i in range(count):
                met[i] = 0.5 * matrix[none + levels[i], none + levels[i]]
            if f >= plain:
                scale = tile[conditioning.scales + f - plain]
                for i in range(count):
                    met[i] *= scale[i]
            for b in range(dense):
                other = tile[b]
                table = matrix[b]
                for i in range(count):
                    met[i] += table[none + levels[i]] * other[i]
            for g in range(f):
                others = rows.codes[g][first : first + count]
                start = starts[g] + 1
                if g >= plain:
                    factor = tile[conditioning.scales + g - plain]
                    for i in range(count):
                        met[i] += matrix[none + levels[i], start + others[i]] * factor[i]
                else:
                    for i in range(count):
                        met[i] += matrix[none + levels[i], start + others[i]]
            if f >= plain:
                scale = tile[conditioning.scales + f - plain]
                for i in range(count):
                    form[i] += 2.0 * met[i] * scale[i]
            else:
                for i in range(count):
                    form[i] += 2.0 * met[i]
        for i in range(count):
            out[first + i] = form[i]


@kernel
def add_cluster_scores(
    rows: Rows,
    conditioning: Conditioning,
    slope: Floats,
    places: NDArray[np.int64],
    table: Floats,
    scratch: Scratch,
):
    """table[places_i] += slope_i x_i: `slope` and `places` (n,), `table` (clusters, slots)"""
    use_widest_vectors()
    n = slope.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    starts = conditioning.starts
    plain = conditioning.plain
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        for i in range(count):
            own = table[places[first + i]]
            score = slope[first + i]
            for j in range(dense):
                own[j] += score * tile[j, i]
            for f in range(plain):
                own[starts[f] + 1 + rows.codes[f, first + i]] += score
            for f in range(plain, starts.size):
                scale = tile[conditioning.scales + f - plain, i]
                own[starts[f] + 1 + rows.codes[f, first + i]] += score * scale
