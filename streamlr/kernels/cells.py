"""Rows that repeat, gathered: weights added up by key in a hash table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import kernel

Keys = NDArray[np.int64]

# 2**64 over the golden ratio: its multiples spread over the high bits (Knuth 1998, The Art of Computer
# Programming 3, section 6.4, multiplicative hashing).
SPREAD = np.uint64(0x9E3779B97F4A7C15)
EMPTY = -1


@kernel
def gather(
    keys: Keys,
    amounts: NDArray[np.float64],
    first: int,
    cell_keys: Keys,
    cell_amounts: NDArray[np.float64],
    slots: NDArray[np.int32],
    shift: int,
    count: int,
) -> tuple[int, int]:
    """Add the amount of every row from `first` on to the cell of its key; new keys become cells.

    `keys` (n,), `amounts` (n,) or (0,), where each is one. `cell_keys` and `cell_amounts` (m,) hold `count`
    cells in the order they came; `slots` (2**(64 - shift),), more than m, holds their places by hash, EMPTY
    where there is none. Returns how many rows are done, fewer than n where all m cells are taken, and the
    number of cells.
    """
    mask = slots.size - 1
    for i in range(first, keys.size):
        key = keys[i]
        slot = np.int64((np.uint64(key) * SPREAD) >> np.uint64(shift))
        while True:
            place = slots[slot]
            if place == EMPTY:
                if count == cell_keys.size:
                    return i, count
                place = count
                slots[slot] = place
                cell_keys[place] = key
                cell_amounts[place] = 0.0
                count += 1
                break
            if cell_keys[place] == key:
                break
            slot = (slot + 1) & mask
        cell_amounts[place] += amounts[i] if amounts.size > 0 else 1.0
    return keys.size, count
