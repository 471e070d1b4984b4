"""Levels of factors: dictionary codes into codes of one's own, and counts of levels by outcome."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import kernel

Codes = NDArray[np.int32]


@kernel
def recode(indices: Codes, table: Codes, out: Codes) -> int:
    """out[i] = table[indices[i]]: `indices` (n,) into `table` (m,). Returns the least of `out` and zero."""
    least = 0
    for i in range(indices.size):
        code = table[indices[i]]
        out[i] = code
        least = min(least, code)
    return least


@kernel
def count_levels(
    indices: Codes, outcome: NDArray[np.int8], weight: NDArray[np.float64], table: NDArray[np.float64]
) -> None:
    """table[indices[i], 0] += 1 and table[indices[i], outcome[i]] += weight[i] for rows with outcome[i] > 0.

    `outcome` (n,) int8 is 0 for rows that are not used; `weight` (n,) or (0,), where every row weighs one.
    """
    if weight.size > 0:
        for i in range(indices.size):
            if outcome[i] > 0:
                table[indices[i], 0] += 1.0
                table[indices[i], outcome[i]] += weight[i]
    else:
        for i in range(indices.size):
            if outcome[i] > 0:
                table[indices[i], 0] += 1.0
                table[indices[i], outcome[i]] += 1.0
