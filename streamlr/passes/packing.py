"""A block in one piece of memory: its arrays one behind the other, each at the beginning of a cache line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.tile import Block

CACHE_LINE = 64

Memory = NDArray[np.uint8]


@dataclass(frozen=True)
class Packing:
    """Where the arrays of a block lie: `arrays` has types and shapes, the first `numeric` are its columns."""

    numeric: int
    arrays: tuple[tuple[np.dtype[Any], tuple[int, ...]], ...]

    @classmethod
    def of(cls, block: Block) -> Packing:
        """The packing of a block."""
        return cls(len(block.numeric), tuple((array.dtype, array.shape) for array in _arrays(block)))

    @property
    def size(self) -> int:
        """Bytes of the memory that it takes."""
        return sum(_whole_lines(dtype, shape) for dtype, shape in self.arrays)

    def view(self, memory: Memory) -> Block:
        """The block whose arrays lie in `memory` (size,)."""
        views = []
        begin = 0
        for dtype, shape in self.arrays:
            count = int(np.prod(shape))
            views.append(memory[begin : begin + count * dtype.itemsize].view(dtype).reshape(shape))
            begin += _whole_lines(dtype, shape)
        return Block(views[: self.numeric], *views[self.numeric :])

    def pack(self, block: Block, memory: Memory) -> Block:
        """A copy of the block in `memory` (size,)."""
        packed = self.view(memory)
        for target, array in zip(_arrays(packed), _arrays(block), strict=True):
            target[...] = array
        return packed


def aligned(size: int) -> Memory:
    """(size,) bytes from the beginning of a cache line."""
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size]


def _arrays(block: Block) -> list[NDArray[Any]]:
    roles = [block.success, block.trials, block.weight, block.offset, block.clusters]
    return [*block.numeric, block.codes, *roles]


def _whole_lines(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) * dtype.itemsize // CACHE_LINE) * CACHE_LINE
