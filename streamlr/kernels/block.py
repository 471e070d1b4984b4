"""The order of the story for one block of rows: tile, linear predictor, losses, gradient, Hessian."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.gram import (
    add_dense_gradient,
    add_factor_gradient,
    add_factors,
    add_gram,
    add_scaled_factors,
    add_scaled_gradient,
    narrow_tile,
    weigh_tile,
)
from streamlr.kernels.jit import kernel, use_widest_vectors
from streamlr.kernels.joint import (
    Joining,
    add_joint,
    add_joint_predictor,
    add_joint_slopes,
    join_codes,
    join_coef,
    unfold,
    unfold_slopes,
)
from streamlr.kernels.logistic import probabilities, row_losses, total
from streamlr.kernels.tails import Along, add_fourth_powers
from streamlr.kernels.tile import (
    Conditioning,
    Floats,
    Rows,
    add_factor_predictor,
    add_linear_predictor,
    add_scaled_predictor,
    fill_and_predict,
    fill_outcomes,
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

BITS_OF_INFINITY = np.int64(0x7FF0000000000000)


class Totals(NamedTuple):
    """Running sums that kernels add to; `streamlr.passes.sums.Sums` owns them."""

    scalars: Floats  # (SCALARS,)
    gradient: Floats  # (slots,)
    gram: Floats  # (padded, padded), dense with dense, lower triangle
    diagonal: Floats  # (factor slots,)
    cross: (
        Floats  # (dense, factor slots); for an intercept, scaled factors only: of others it is the diagonal
    )
    pairs: Floats  # (all pair tables,)
    widths: NDArray[np.int64]  # (c,) slots of each factor
    pair_starts: NDArray[np.int64]  # (c, c) where the table of a pair begins
    fourth: Floats  # (m,) of the combinations that are asked for


class Scratch(NamedTuple):
    """Memory of one worker for one tile."""

    tile: Floats  # (padded + s, t)
    work: Floats  # (8, t)
    exponent: Floats  # (4, t)
    exponent_bits: NDArray[np.int64]  # the same memory
    single: NDArray[np.float32]  # (padded, t) for products in single precision, (0, 0) for double
    joining: Joining
    along: Along  # combinations whose fourth powers are wanted


@kernel
def note_least(success: Floats, failure: Floats, curvature: Floats, count: int, scalars: Floats):
    """scalars[LEAST_CURVATURE] = least curvature of `count` rows that have trials, or what it was before

    Doubles that are not negative are ordered like their bits, and a least whole number is found by vectors:
    0.1 instead of 1 ns a row. NaN counts as larger than any.
    """
    use_widest_vectors()
    bits = curvature.view(np.int64)
    noted = scalars.view(np.int64)
    least = noted[LEAST_CURVATURE]
    for i in range(count):
        here = bits[i]
        least = min(least, here if success[i] + failure[i] > 0.0 else BITS_OF_INFINITY)
    noted[LEAST_CURVATURE] = least


@kernel
def add_weighted_tile(
    tile: Floats,
    slope: Floats,
    curvature: Floats,
    root: Floats,
    rows: Rows,
    conditioning: Conditioning,
    first: int,
    count: int,
    totals: Totals,
    scratch: Scratch,
    joint: bool = False,
):
    """Add sum of slope x to the gradient and sum of curvature x x' to the tables of the Hessian, of a tile.

    Rows [first, first + count); `slope` and `curvature` (t,), not negative the latter. `tile` and `root` (t,)
    are used up. `joint`: factors without a scale go into the tables of their groups, whose codes are those of
    these rows. Products of dense columns are in single precision where `scratch` has room for that.
    """
    dense = conditioning.dense
    starts = conditioning.starts
    for i in range(count):
        root[i] = math.sqrt(curvature[i])
    intercept = conditioning.intercept
    weigh_tile(tile, slope, root, count, dense, intercept, totals.gradient, totals.gram)
    if scratch.single.size:
        narrow_tile(tile, count, dense, scratch.single)
        add_gram(scratch.single, count, intercept, dense, totals.gram)
    else:
        # Without the intercept, whose products are there: 20 instead of 27 ns a row of 29 columns.
        add_gram(tile, count, intercept, dense, totals.gram)
    if joint:
        add_joint(tile, root, curvature, slope, count, dense, intercept, scratch.joining)
    else:
        add_factors(
            tile,
            root,
            curvature,
            slope,
            rows.codes,
            starts,
            conditioning.plain,
            totals.widths,
            totals.pair_starts,
            first,
            count,
            dense,
            intercept,
            totals.gradient,
            totals.diagonal,
            totals.cross,
            totals.pairs,
        )
    add_scaled_factors(
        tile,
        conditioning.scales,
        root,
        curvature,
        slope,
        rows.codes,
        starts,
        conditioning.plain,
        totals.widths,
        totals.pair_starts,
        first,
        count,
        dense,
        conditioning.intercept,
        scratch.work[7],
        totals.gradient,
        totals.diagonal,
        totals.cross,
        totals.pairs,
    )


@kernel
def add_block(
    rows: Rows, conditioning: Conditioning, coef, with_hessian: bool, totals: Totals, scratch: Scratch
):
    """Add loss, gradient and, where wanted, Hessian at `coef` (slots,) of every row to `totals`."""
    use_widest_vectors()
    n = rows.success.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    loss = scratch.work[3]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    root = scratch.work[6]
    scalars = totals.scalars
    starts = conditioning.starts
    joining = scratch.joining
    joint = joining.strides.size > 0 and n >= joining.least_rows
    if joint:
        join_coef(coef, starts, joining)
    for first in range(0, n, length):
        count = min(length, n - first)
        start_eta(rows.offset, 0.0, first, count, eta)
        fill_and_predict(rows, conditioning, coef, first, count, tile, eta, root)
        if joint:
            join_codes(rows.codes, first, count, joining)
            add_joint_predictor(count, joining, eta)
            add_scaled_predictor(rows, conditioning, coef, first, count, tile, eta)
        else:
            add_factor_predictor(rows, conditioning, coef, first, count, tile, eta)
        fill_outcomes(rows, first, count, success, failure)
        scalars[SUCCESSES] += total(success, count)
        scalars[FAILURES] += total(failure, count)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, loss, slope, curvature
        )
        scalars[LOSS] += total(loss, count)
        note_least(success, failure, curvature, count, scalars)
        if not with_hessian:
            add_dense_gradient(tile, slope, count, dense, totals.gradient)
            if joint:
                add_joint_slopes(slope, count, joining)
                add_scaled_gradient(tile, slope, rows, conditioning, first, count, totals.gradient)
            else:
                add_factor_gradient(tile, slope, rows, conditioning, first, count, totals.gradient)
            continue
        if scratch.along.combinations.size:
            add_fourth_powers(tile, curvature, count, dense, scratch.along, totals.fourth)
        add_weighted_tile(
            tile, slope, curvature, root, rows, conditioning, first, count, totals, scratch, joint
        )
    if joint and not with_hessian:
        unfold_slopes(starts, joining, totals.gradient)
    elif joint:
        unfold(
            starts,
            totals.widths,
            totals.pair_starts,
            dense,
            conditioning.intercept,
            joining,
            totals.gradient,
            totals.diagonal,
            totals.cross,
            totals.pairs,
        )


@kernel
def add_null(rows: Rows, coef, scalars, scratch: Scratch):
    """Add loss, slope and curvature of the null model, eta = coef + offset, to `scalars`.

    Without an offset these have a closed form, so this kernel is for designs that have one.
    """
    use_widest_vectors()
    n = rows.success.size
    length = scratch.tile.shape[1]
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    loss = scratch.work[3]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_outcomes(rows, first, count, success, failure)
        start_eta(rows.offset, coef, first, count, eta)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, loss, slope, curvature
        )
        scalars[NULL_LOSS] += total(loss, count)
        scalars[NULL_SLOPE] += total(slope, count)
        scalars[NULL_CURVATURE] += total(curvature, count)


@kernel
def score_block(rows: Rows, conditioning: Conditioning, coef, scratch: Scratch, eta, probability):
    """eta = x'coef + offset and probability = 1 / (1 + exp(-eta)) of every row of a block, each (n,)."""
    use_widest_vectors()
    n = eta.size
    length = scratch.tile.shape[1]
    row_eta = scratch.work[0]
    for first in range(0, n, length):
        count = min(length, n - first)
        start_eta(rows.offset, 0.0, first, count, row_eta)
        fill_and_predict(rows, conditioning, coef, first, count, scratch.tile, row_eta, scratch.work[6])
        add_factor_predictor(rows, conditioning, coef, first, count, scratch.tile, row_eta)
        probabilities(row_eta, count, scratch.exponent, scratch.exponent_bits, scratch.work[1])
        for i in range(count):
            eta[first + i] = row_eta[i]
            probability[first + i] = scratch.work[1, i]


@kernel
def probe_block(
    rows: Rows,
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
    use_widest_vectors()
    n = rows.success.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    eta = scratch.work[0]
    success = scratch.work[1]
    failure = scratch.work[2]
    slope = scratch.work[4]
    curvature = scratch.work[5]
    weighted = scratch.work[3]
    for first in range(0, n, length):
        count = min(length, n - first)
        start_eta(rows.offset, 0.0, first, count, eta)
        fill_and_predict(rows, conditioning, curvature_coef, first, count, tile, eta, scratch.work[6])
        add_factor_predictor(rows, conditioning, curvature_coef, first, count, tile, eta)
        fill_outcomes(rows, first, count, success, failure)
        row_losses(
            eta, success, failure, count, scratch.exponent, scratch.exponent_bits, weighted, slope, curvature
        )
        for m in range(coef.shape[0]):
            for i in range(count):
                eta[i] = 0.0
            add_linear_predictor(rows, conditioning, coef[m], first, count, tile, eta)
            most = extent[m]
            square = 0.0
            for i in range(count):
                if success[i] + failure[i] > 0.0:
                    most = max(most, abs(eta[i]))
                weighted[i] = curvature[i] * eta[i]
                square += weighted[i] * eta[i]
            extent[m] = most
            squares[m] += square
            add_dense_gradient(tile, weighted, count, dense, products[m])
            add_factor_gradient(tile, weighted, rows, conditioning, first, count, products[m])
