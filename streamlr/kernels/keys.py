"""Keys of 64 bits: texts as keys, and sums by key added together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import kernel

# Start and multiplier of FNV-1a, the hash of Fowler, Noll and Vo, for 64 bits.
START = np.uint64(0xCBF29CE484222325)
PRIME = np.uint64(0x100000001B3)


@kernel
def hash_texts(begin: NDArray[np.int64], letters: NDArray[np.uint8], out: NDArray[np.uint64]):
    """out[i] = FNV-1a of letters[begin[i]:begin[i + 1]]: `begin` (n + 1,), `out` (n,)"""
    for i in range(out.size):
        key = START
        for place in range(begin[i], begin[i + 1]):
            key = (key ^ np.uint64(letters[place])) * PRIME
        out[i] = key


@kernel
def count_union(first: NDArray[np.int64], second: NDArray[np.int64]) -> int:
    """Number of different keys in two ascending lists without repetitions."""
    i = j = count = 0
    while i < first.size and j < second.size:
        before, after = first[i], second[j]
        i += before <= after
        j += after <= before
        count += 1
    return count + first.size - i + second.size - j


@kernel
def merge_tables(
    first: NDArray[np.int64],
    first_table: NDArray[np.float64],
    second: NDArray[np.int64],
    second_table: NDArray[np.float64],
    keys: NDArray[np.int64],
    table: NDArray[np.float64],
):
    """keys (g,) = union of two ascending lists without repetitions, table (g, m) = sums of rows by key.

    g is what `count_union` says.
    """
    i = j = 0
    for place in range(keys.size):
        in_first = i < first.size and (j == second.size or first[i] <= second[j])
        in_second = j < second.size and (i == first.size or second[j] <= first[i])
        if in_first:
            keys[place] = first[i]
            for m in range(table.shape[1]):
                table[place, m] = first_table[i, m]
            if in_second:
                for m in range(table.shape[1]):
                    table[place, m] += second_table[j, m]
        else:
            keys[place] = second[j]
            for m in range(table.shape[1]):
                table[place, m] = second_table[j, m]
        i += in_first
        j += in_second
