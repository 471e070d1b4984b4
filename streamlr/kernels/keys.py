"""Texts as integers of 64 bits."""

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
