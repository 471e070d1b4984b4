"""On which side of some planes rows lie: x'd, and the sum of absolute terms that its rounding goes by."""

from __future__ import annotations

from streamlr.kernels.block import Scratch
from streamlr.kernels.gram import add_dense_gradient, add_factor_gradient
from streamlr.kernels.jit import kernel, use_widest_vectors
from streamlr.kernels.tile import Conditioning, Rows, fill_tile


@kernel
def project_block(rows: Rows, conditioning: Conditioning, coef, scratch: Scratch, along, size):
    """along[m, i] = x_i'coef[m] and size[m, i] = sum_j |x_ij coef[m, j]|; `coef` (m, slots), a row a plane.

    `along` and `size` (m, n). Without offset. `conditioning` has no reduced columns, so that each x_ij is a
    value of the data, centred and scaled with two roundings.
    """
    use_widest_vectors()
    n = rows.success.size
    tile = scratch.tile
    length = tile.shape[1]
    dense = conditioning.dense
    starts = conditioning.starts
    plain = conditioning.plain
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        for m in range(coef.shape[0]):
            sums = scratch.work[0]
            sizes = scratch.work[1]
            for i in range(count):
                sums[i] = 0.0
                sizes[i] = 0.0
            for j in range(dense):
                c = coef[m, j]
                if c != 0.0:
                    x = tile[j]
                    for i in range(count):
                        sums[i] += c * x[i]
                        sizes[i] += abs(c * x[i])
            for f in range(starts.size):
                none = starts[f] + 1
                levels = rows.codes[f][first : first + count]
                if f < plain:
                    for i in range(count):
                        c = coef[m, none + levels[i]]
                        sums[i] += c
                        sizes[i] += abs(c)
                else:
                    scale = tile[conditioning.scales + f - plain]
                    for i in range(count):
                        c = coef[m, none + levels[i]] * scale[i]
                        sums[i] += c
                        sizes[i] += abs(c)
            for i in range(count):
                along[m, first + i] = sums[i]
                size[m, first + i] = sizes[i]


@kernel
def add_products(rows: Rows, conditioning: Conditioning, amounts, scratch: Scratch, products):
    """products[m] += sum_i amounts[m, i] x_i by slot; `amounts` (m, n), `products` (m, slots)"""
    use_widest_vectors()
    n = rows.success.size
    tile = scratch.tile
    length = tile.shape[1]
    for first in range(0, n, length):
        count = min(length, n - first)
        fill_tile(rows, conditioning, first, count, tile, scratch.work[6])
        amount = scratch.work[0]
        for m in range(amounts.shape[0]):
            for i in range(count):
                amount[i] = amounts[m, first + i]
            add_dense_gradient(tile, amount, count, conditioning.dense, products[m])
            add_factor_gradient(tile, amount, rows, conditioning, first, count, products[m])
