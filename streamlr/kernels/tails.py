"""How far out single rows lie along some combinations of columns: sums of fourth powers.

What a proof needs of them is a bound to a few digits, so products are in single precision: 28 ns a row for 29
combinations of 29 columns, on a core that takes 25 for their Gram matrix in double precision.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.gram import narrow_tile
from streamlr.kernels.jit import summing_kernel, use_widest_vectors

SIDE = 4  # combinations and columns are taken so many at a time

Singles = NDArray[np.float32]


class Along(NamedTuple):
    """The combinations, and memory for a tile; (0, 0) where nothing is asked."""

    combinations: Singles  # (m, padded), m and padded whole numbers of SIDE, zero behind what is asked
    narrow: Singles  # (padded, t)
    products: Singles  # (SIDE, t)


_NOTHING = np.empty((0, 0), dtype=np.float32)
NOTHING_ALONG = Along(_NOTHING, _NOTHING, _NOTHING)


@summing_kernel
def add_fourth_powers(tile, curvature, count, dense, along, fourth):
    """fourth[m] += sum of curvature * (combinations[m] . tile)**4 over the `count` rows of a tile

    `tile` (padded, t) holds conditioned columns that are not yet weighed.
    """
    use_widest_vectors()
    combinations = along.combinations
    narrow = along.narrow
    narrow_tile(tile, count, dense, narrow)
    z0 = along.products[0]
    z1 = along.products[1]
    z2 = along.products[2]
    z3 = along.products[3]
    for m in range(0, combinations.shape[0], SIDE):
        c0 = combinations[m]
        c1 = combinations[m + 1]
        c2 = combinations[m + 2]
        c3 = combinations[m + 3]
        for i in range(count):
            z0[i] = z1[i] = z2[i] = z3[i] = np.float32(0)
        for j in range(0, dense, SIDE):
            x0 = narrow[j]
            x1 = narrow[j + 1]
            x2 = narrow[j + 2]
            x3 = narrow[j + 3]
            a00 = c0[j]
            a01 = c0[j + 1]
            a02 = c0[j + 2]
            a03 = c0[j + 3]
            a10 = c1[j]
            a11 = c1[j + 1]
            a12 = c1[j + 2]
            a13 = c1[j + 3]
            a20 = c2[j]
            a21 = c2[j + 1]
            a22 = c2[j + 2]
            a23 = c2[j + 3]
            a30 = c3[j]
            a31 = c3[j + 1]
            a32 = c3[j + 2]
            a33 = c3[j + 3]
            for i in range(count):
                y0 = x0[i]
                y1 = x1[i]
                y2 = x2[i]
                y3 = x3[i]
                z0[i] += a00 * y0 + a01 * y1 + a02 * y2 + a03 * y3
                z1[i] += a10 * y0 + a11 * y1 + a12 * y2 + a13 * y3
                z2[i] += a20 * y0 + a21 * y1 + a22 * y2 + a23 * y3
                z3[i] += a30 * y0 + a31 * y1 + a32 * y2 + a33 * y3
        s0 = s1 = s2 = s3 = 0.0
        for i in range(count):
            weight = curvature[i]
            square0 = np.float64(z0[i] * z0[i])
            square1 = np.float64(z1[i] * z1[i])
            square2 = np.float64(z2[i] * z2[i])
            square3 = np.float64(z3[i] * z3[i])
            s0 += weight * square0 * square0
            s1 += weight * square1 * square1
            s2 += weight * square2 * square2
            s3 += weight * square3 * square3
        fourth[m] += s0
        fourth[m + 1] += s1
        fourth[m + 2] += s2
        fourth[m + 3] += s3
