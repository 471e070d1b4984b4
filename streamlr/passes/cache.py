"""Encoded blocks kept in memory between passes, as far as a budget for the whole process goes.

What does not fit is decoded again on the next pass. A part is kept whole or not at all and stays once it is
in, since a scan that evicts never hits. Encoded blocks are the same whether kept or not, so the answer is.

Blocks are copied into large pieces of memory, which NumPy asks the system to back with huge pages. Holding
on to what the decoder allocated would spare the copy, but each of its pages of 4 kB is then touched for the
first time: that took twice as long as decoding (3.2 against 1.4 s of a first pass over 1.2 GB).
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.design import Tally
from streamlr.kernels.tile import Block
from streamlr.passes.memory import resident_bytes

PIECE = 1 << 26
CACHE_LINE = 64


@dataclass(frozen=True)
class Kept:
    """The blocks of a part and the tally of its rows."""

    blocks: Sequence[Block]
    tally: Tally


class BlockCache:
    """Blocks of parts, by the identity of the part object; thread-safe.

    They take `capacity` bytes at most, and none that would bring the resident size of the process above
    `ceiling`: what decoders and allocators hold on to is known only once they are at work.
    """

    def __init__(self, capacity: int, ceiling: int) -> None:
        self._free = max(capacity, 0)
        self._ceiling = ceiling
        self._kept: dict[Hashable, Kept] = {}
        self._piece: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._lock = threading.Lock()

    def get(self, part: Any) -> Kept | None:
        """The blocks of a part, if they were kept."""
        return self._kept.get(_key(part))

    def begin(self, part: Any) -> Keeping | None:
        """Somewhere to put the blocks of a part one after another, None where no room is left."""
        return Keeping(self, part) if self._free else None

    def take(self, size: int) -> NDArray[np.uint8] | None:
        """(size,) bytes that begin at a cache line, None where they are beyond the capacity.

        The first part that finds no room closes the cache: smaller ones behind it would only fill up what it
        has to leave.
        """
        size = -(-size // CACHE_LINE) * CACHE_LINE
        with self._lock:
            if size > self._free or resident_bytes() + size > self._ceiling:
                self._free = 0
                return None
            self._free -= size
            if size > self._piece.size:
                self._piece = _aligned(max(PIECE, size))
            memory, self._piece = self._piece[:size], self._piece[size:]
            return memory

    def store(self, part: Any, kept: Kept) -> None:
        """Have a part whose blocks are all in place."""
        self._kept[_key(part)] = kept


class Keeping:
    """The blocks of one part on their way into the cache."""

    def __init__(self, cache: BlockCache, part: Any) -> None:
        self._cache = cache
        self._part = part
        self._blocks: list[Block] | None = []

    def add(self, block: Block) -> Block:
        """A copy of the block in the cache, or the block itself where it has no room."""
        if self._blocks is None:
            return block
        arrays = [*block.numeric, block.codes, block.success, block.trials, block.weight, block.offset]
        sizes = [-(-array.nbytes // CACHE_LINE) * CACHE_LINE for array in arrays]
        memory = self._cache.take(sum(sizes))
        if memory is None:
            self._blocks = None
            return block
        copies = []
        begin = 0
        for array, size in zip(arrays, sizes, strict=True):
            copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
            copy[...] = array
            copies.append(copy)
            begin += size
        codes, success, trials, weight, offset = copies[len(block.numeric) :]
        kept = Block(copies[: len(block.numeric)], codes, success, trials, weight, offset)
        self._blocks.append(kept)
        return kept

    def finish(self, tally: Tally) -> None:
        """Keep the part, where all of it found room."""
        if self._blocks is not None:
            self._cache.store(self._part, Kept(self._blocks, tally))


def _key(part: Any) -> Hashable:
    """What a part is known by: it lives as long as its source, but a range is made anew on every pass."""
    return getattr(part, "key", id(part))


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size]
