"""Encoded blocks kept in memory between passes, as far as a budget for the whole process goes.

What does not fit is decoded again on the next pass. A part is kept whole or not at all and stays once it is
in, since a scan that evicts never hits. Encoded blocks are the same whether kept or not, so the answer is.

Blocks lie in large pieces of memory. A source that can reads columns right there (`Keeping.room`); all else
is copied. Holding on to what a decoder has allocated would leave gaps: the process was 0.2 GB larger with 28
columns, 0.8 GB with 300.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.encoding import Tally
from streamlr.kernels.tile import Block
from streamlr.passes.memory import resident_bytes
from streamlr.passes.packing import Packed, Packing, whole_lines
from streamlr.passes.spool import Spool, Spooled

PIECE = 1 << 26


@dataclass(frozen=True)
class Kept:
    """The blocks of a part and the tally of its rows."""

    kept: Sequence[Block | Packed | Spooled]
    tally: Tally

    @property
    def blocks(self) -> Iterator[Block]:
        """The blocks, one after another; one that was loaded may be dropped before the next is asked for."""
        for each in self.kept:
            yield each if isinstance(each, Block) else each.load()


class BlockCache:
    """Blocks of parts, by the identity of the part object; thread-safe.

    They take `capacity` bytes at most, and none that would bring the resident size of the process above
    `ceiling`: what decoders and allocators hold on to is known only once they are at work.
    """

    def __init__(self, capacity: int, ceiling: int, spool: Spool | None = None) -> None:
        """`spool`: takes what memory has no room for."""
        self.spool = spool
        self._free = max(capacity, 0)
        self._ceiling = ceiling
        self._kept: dict[Hashable, Kept] = {}
        self._complete: set[Hashable] = set()
        self._piece: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._unused: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def get(self, part: Any) -> Kept | None:
        """The blocks of a part, if they were kept."""
        return self._kept.get(_key(part))

    def is_complete(self, part: Any) -> bool:
        """Whether a part was read before and none of its rows lacked anything; parts do not change."""
        return _key(part) in self._complete

    def note_complete(self, part: Any) -> None:
        """Remember that none of the rows of a part lacks anything that the design reads."""
        self._complete.add(_key(part))

    def begin(self, part: Any) -> Keeping | None:
        """Somewhere to put the blocks of a part one after another, None where no room is left."""
        return Keeping(self, part) if self._free or self.spool is not None else None

    def take(self, size: int) -> NDArray[np.uint8] | None:
        """(size,) bytes, whole cache lines, None where they are beyond the capacity.

        The first part that finds no room closes the cache: smaller ones behind it would only fill up what it
        has to leave.
        """
        with self._lock:
            for place, memory in enumerate(self._unused):
                if memory.size == size:
                    return self._unused.pop(place)
            if size > self._free or resident_bytes() + size > self._ceiling:
                self._free = 0
                return None
            self._free -= size
            if size > self._piece.size:
                self._piece = _piece(max(PIECE, size))
            memory, self._piece = self._piece[:size], self._piece[size:]
            return memory

    def give_back(self, memory: NDArray[np.uint8]) -> None:
        """Have memory that was taken for another who wants as much."""
        with self._lock:
            self._unused.append(memory)

    def clear(self) -> None:
        """Forget every block and keep no more: memory is wanted for something else."""
        with self._lock:
            self._kept.clear()
            self._unused.clear()
            self._free = 0
            self._piece = np.empty(0, dtype=np.uint8)

    def store(self, part: Any, kept: Kept) -> None:
        """Have a part whose blocks are all in place."""
        self._kept[_key(part)] = kept


class Keeping:
    """The blocks of one part on their way into the cache."""

    def __init__(self, cache: BlockCache, part: Any) -> None:
        self._cache = cache
        self._part = part
        self._blocks: list[Block | Packed | Spooled] | None = []
        self._room: NDArray[np.uint8] | None = None
        self._room_used = False

    def room(self, sizes: Mapping[str, int]) -> dict[str, NDArray[np.uint8]]:
        """Memory of the cache for columns of so many bytes, to read them into; none where it has no room.

        Columns of blocks that are added need no copy where they lie in it.
        """
        lines = {name: whole_lines(size) for name, size in sizes.items()}
        self._room = self._cache.take(sum(lines.values())) if lines else None
        if self._room is None:
            return {}
        ends = np.cumsum(list(lines.values())).tolist()
        return {
            name: self._room[end - lines[name] :][: sizes[name]]
            for name, end in zip(lines, ends, strict=True)
        }

    def add(self, block: Block) -> Block:
        """The block in the cache, or the block itself where memory has no room for it."""
        if self._blocks is None:
            return block
        there = {place: column for place, column in enumerate(block.numeric) if self._is_there(column)}
        packing = Packing.of(block, there)
        memory = self._cache.take(packing.size)
        if memory is not None:
            packing.pack(block, memory)
            self._room_used = self._room_used or bool(there)
            block = packing.view(memory, block.ranges, there)
            kept = Packed(packing, memory, block.ranges, there) if packing.is_narrow else block
            self._blocks.append(kept)
        elif self._cache.spool is not None:
            self._blocks.append(self._cache.spool.write(block))
        else:
            self._blocks = None
        return block

    def _is_there(self, column: NDArray[Any]) -> bool:
        return self._room is not None and column.size > 0 and np.may_share_memory(column, self._room)

    def finish(self, tally: Tally) -> None:
        """Keep the part, where all of it found room."""
        if self._blocks is None:
            return
        self._cache.store(self._part, Kept(self._blocks, tally))
        if self._room is not None and not self._room_used:
            self._cache.give_back(self._room)  # every row was copied, as those are of which some are left out


def _piece(size: int) -> NDArray[np.uint8]:
    """(size,) bytes from the beginning of a page, straight from the system and in pages of its usual size.

    NumPy would ask for huge ones. A virtual machine that hands free memory back to its host hands back just
    what they are made of: to touch 1.3 GB took 3.6 instead of 1.6 s of the system's time, and passes over it
    were no quicker for it.
    """
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _key(part: Any) -> Hashable:
    """What a part is known by: it lives as long as its source, but a range is made anew on every pass."""
    return getattr(part, "key", id(part))
