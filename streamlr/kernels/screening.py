"""Sums of candidate columns against the columns of a design, for score tests of terms that it lacks.

A few dozen candidates at a time stand in a tile of their own beside the design's, so that a tile of the
design is filled once for all of them and the products run through both in blocks of 4 candidates by 3
columns, whose twelve running sums stay in registers.
"""

from __future__ import annotations

from streamlr.kernels.block import Scratch
from streamlr.kernels.gram import add_three
from streamlr.kernels.jit import kernel, summing_kernel, use_widest_vectors
from streamlr.kernels.logistic import dot
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


@kernel
def add_tile_products(candidates, number, tile, dense, count, products):
    """products[m, j] += sum of candidates[m] tile[j], for j < `dense`

    Rows of `candidates` and `products` beyond `number`, rounded up to BLOCK, are there and what they hold is
    of no use.
    """
    threes = dense // 3 * 3
    for m in range(0, number, BLOCK):
        for j in range(0, threes, 3):
            add_three(candidates, tile, m, j, count, products)
        for j in range(threes, dense):
            for k in range(m, m + BLOCK):
                products[k, j] += dot(candidates[k], tile[j], count)


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
