"""A block in one piece of memory: its arrays one behind the other, each at the beginning of a cache line.

Codes are held as the smallest integers that they fit into and are widened when the block is used: of five
factors with at most 127 levels 5 bytes a row instead of 20, and with three numbers 30 instead of 45.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.tile import Block

CACHE_LINE = 64
CODE = np.dtype(np.int32)  # the type that kernels read

Memory = NDArray[np.uint8]
Columns = Mapping[int, NDArray[Any]]
Ranges = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Packing:
    """Where the arrays of a block lie: `arrays` has types and shapes, first those of the `packed` columns, by
    their places among all `numeric` ones, then that of the codes."""

    numeric: int
    packed: tuple[int, ...]
    arrays: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]

    @classmethod
    def of(cls, block: Block, elsewhere: Columns | None = None) -> Packing:
        """The packing of a block, but for columns that lie `elsewhere`, by their places."""
        packed = tuple(place for place in range(len(block.numeric)) if place not in (elsewhere or {}))
        places = [(array.dtype, array.shape) for array in _arrays(block, packed)]
        places[len(packed)] = (_narrowest(block.codes), block.codes.shape)
        return cls(len(block.numeric), packed, tuple(places))

    @property
    def size(self) -> int:
        """Bytes of the memory that it takes."""
        return sum(_whole_lines(dtype, shape) for dtype, shape in self.arrays)

    @property
    def is_narrow(self) -> bool:
        """Whether codes are widened when the block is used."""
        return self.arrays[len(self.packed)][0] != CODE

    def view(self, memory: Memory, ranges: Ranges | None = None, elsewhere: Columns | None = None) -> Block:
        """The block whose arrays lie in `memory` (size,), and some of its columns `elsewhere`."""
        views = self._views(memory)
        count = len(self.packed)
        columns = {**(elsewhere or {}), **dict(zip(self.packed, views, strict=False))}
        codes = views[count].astype(CODE, copy=False)
        success, trials, weight, offset, clusters = views[count + 1 :]
        numeric = [columns[place] for place in range(self.numeric)]
        return Block(numeric, codes, success, trials, weight, offset, clusters, ranges)

    def pack(self, block: Block, memory: Memory) -> None:
        """Copy a block into `memory` (size,)."""
        for target, array in zip(self._views(memory), _arrays(block, self.packed), strict=True):
            target[...] = array

    def _views(self, memory: Memory) -> list[NDArray[Any]]:
        views = []
        begin = 0
        for dtype, shape in self.arrays:
            count = math.prod(shape)
            views.append(memory[begin : begin + count * dtype.itemsize].view(dtype).reshape(shape))
            begin += _whole_lines(dtype, shape)
        return views


@dataclass(frozen=True)
class Packed:
    """A block in memory whose codes are narrow, with the ranges of its columns where they are known."""

    packing: Packing
    memory: Memory
    ranges: Ranges | None = None
    elsewhere: Columns | None = None

    def load(self) -> Block:
        """The block, its codes in memory of their own."""
        return self.packing.view(self.memory, self.ranges, self.elsewhere)


def aligned(size: int) -> Memory:
    """(size,) bytes from the beginning of a cache line."""
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size]


def _narrowest(codes: NDArray[np.int32]) -> np.dtype[Any]:
    """The smallest type of integers that holds the codes."""
    if not codes.size:
        return CODE
    low, high = codes.min(), codes.max()
    for kind in (np.int8, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return CODE


def _arrays(block: Block, packed: Sequence[int]) -> list[NDArray[Any]]:
    roles = [block.success, block.trials, block.weight, block.offset, block.clusters]
    return [*(block.numeric[place] for place in packed), block.codes, *roles]


def whole_lines(size: int) -> int:
    """So many bytes, filled up to whole cache lines."""
    return -(-size // CACHE_LINE) * CACHE_LINE


def _whole_lines(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return whole_lines(math.prod(shape) * dtype.itemsize)
