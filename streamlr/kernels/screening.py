"""Sums of candidate columns against the columns of a design, for score tests of terms that it lacks.

A few dozen candidates at a time stand in a tile of their own beside the design's, so that a tile of the
design is filled once for all of them and the products run through both in blocks of 4 candidates by 3
columns, whose twelve running sums stay in registers.
"""

from __future__ import annotations

from streamlr.kernels.block import Scratch
from streamlr.kernels.jit import kernel, summing_kernel, use_widest_vectors
from streamlr.kernels.tile import Conditioning, Floats, Rows, fill_tile

# Places in a row of the sums of a candidate z: score r z, curvature c z and c z z.
SCORE = 0
WEIGHTED = 1
SQUARES = 2
SUMS = 3

BLOCK = 4


@summing_kernel
def weigh_candidate(candidate, slope, curvature, count, sums):
    """sums += (-slope z, curvature z, curvature z z);  z *= curvature"""
    use_widest_vectors()
    score = weighted = squares = 0.0
    for i in range(count):
        z = candidate[i]
        cz = curvature[i] * z
        score -= slope[i] * z
        weighted += cz
        squares += cz * z
        candidate[i] = cz
    sums[SCORE] += score
    sums[WEIGHTED] += weighted
    sums[SQUARES] += squares


@summing_kernel
def add_tile_products(candidates, number, tile, dense, count, products):
    """products[m, j] += sum of candidates[m] tile[j], for j < `dense`

    Rows of `candidates` and `products` beyond `number`, rounded up to 4, are there and what they hold is of
    no use; those of `tile` beyond `dense`, rounded up to 3, are there.
    """
    use_widest_vectors()
    for m in range(0, number, 4):
        a0 = candidates[m]
        a1 = candidates[m + 1]
        a2 = candidates[m + 2]
        a3 = candidates[m + 3]
        for j in range(0, dense, 3):
            b0 = tile[j]
            b1 = tile[j + 1]
            b2 = tile[j + 2]
            s00 = s01 = s02 = s10 = s11 = s12 = 0.0
            s20 = s21 = s22 = s30 = s31 = s32 = 0.0
            for t in range(count):
                y0 = b0[t]
                y1 = b1[t]
                y2 = b2[t]
                s00 += a0[t] * y0
                s01 += a0[t] * y1
                s02 += a0[t] * y2
                s10 += a1[t] * y0
                s11 += a1[t] * y1
                s12 += a1[t] * y2
                s20 += a2[t] * y0
                s21 += a2[t] * y1
                s22 += a2[t] * y2
                s30 += a3[t] * y0
                s31 += a3[t] * y1
                s32 += a3[t] * y2
            products[m, j] += s00
            products[m + 1, j] += s10
            products[m + 2, j] += s20
            products[m + 3, j] += s30
            if j + 1 < dense:
                products[m, j + 1] += s01
                products[m + 1, j + 1] += s11
                products[m + 2, j + 1] += s21
                products[m + 3, j + 1] += s31
            if j + 2 < dense:
                products[m, j + 2] += s02
                products[m + 1, j + 2] += s12
                products[m + 2, j + 2] += s22
                products[m + 3, j + 2] += s32


@kernel
def add_candidates(
    rows: Rows,
    conditioning: Conditioning,
    slope: Floats,
    curvature: Floats,
    candidates: Rows,
    own: Conditioning,
    sums: Floats,
    products: Floats,
    scratch: Scratch,
    tile_of_candidates: Floats,
):
    """Sums of m candidate columns z = (value - centre) scale over every row of a block.

    sums[z]     += (sum of -slope z, sum of curvature z, sum of curvature z z)
    products[z] += sum of curvature z x, by slot of the design

    `slope` and `curvature` are (n,); `candidates` and `own` hold the m columns, numeric alone; `sums` is
    (m, SUMS), `products` (m rounded up to BLOCK, slots), `tile_of_candidates` as many rows of a tile.
    """
    use_widest_vectors()
    n = slope.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    starts = conditioning.starts
    plain = conditioning.plain
    number = own.dense
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        fill_tile(candidates, own, first, count, tile_of_candidates, scratch.work[6])
        slopes = slope[first : first + count]
        curvatures = curvature[first : first + count]
        for m in range(number):
            weigh_candidate(tile_of_candidates[m], slopes, curvatures, count, sums[m])
        add_tile_products(tile_of_candidates, number, tile, dense, count, products)
        for f in range(starts.size):
            none = starts[f] + 1
            levels = rows.codes[f][first : first + count]
            for m in range(number):
                weighed = tile_of_candidates[m]
                table = products[m]
                if f >= plain:
                    scale = tile[conditioning.scales + f - plain]
                    for i in range(count):
                        table[none + levels[i]] += weighed[i] * scale[i]
                else:
                    for i in range(count):
                        table[none + levels[i]] += weighed[i]
