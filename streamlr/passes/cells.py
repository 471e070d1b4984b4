"""Rows that repeat, kept as cells: where every column is discrete, later passes need not read the data again.

The first pass gathers rows with the same values in all columns and the same outcome, and adds up their
weights. Loss, gradient and Hessian are sums over rows in which only the weight differs within a cell, so
cells give them exactly. Where too few rows repeat, or too many cells come together, gathering is given up and
rows are read again. Whether it is depends on the data alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.design.design import Design
from streamlr.kernels.cells import EMPTY, gather
from streamlr.kernels.tile import Block

# More cells than this are not gathered: a quarter of the memory that a narrow fit has anyway.
MOST_CELLS = 1 << 20
# Of n rows drawn from m equally likely cells about n**2 / (2 m) repeat an earlier one. Where fewer of the
# first rows of a leaf do than if there were MOST_CELLS, there are more, and gathering is given up at once.
FIRST_ROWS = 8_192
FEWEST_REPEATED = FIRST_ROWS**2 // (2 * MOST_CELLS)
# Cells are worth having where they are an eighth of the rows at most.
MOST_SHARE = 8
# Keys are int64, the lowest bit is the outcome.
LARGEST_KEY = 1 << 62
# Cells that a leaf of a pass over them holds.
CELLS_A_PART = 32_768

NOTHING = np.empty(0)


@dataclass(frozen=True)
class Keying:
    """How the values of a row become one number: digits of factors (code + 1) and numbers (value - low)."""

    lows: tuple[int, ...]  # (q,) of the numeric columns
    sizes: tuple[int, ...]  # (q + c,) how many values each numeric column and each factor can have

    def keys(self, block: Block) -> NDArray[np.int64]:
        """(n,) the key of every row, its outcome included."""
        keys = np.zeros(len(block.success), dtype=np.int64)
        offsets = (*self.lows, *[-1] * len(block.codes))
        for column, low, size in zip((*block.numeric, *block.codes), offsets, self.sizes, strict=True):
            keys *= size
            keys += column
            keys -= low
        keys *= 2
        keys += block.success
        return keys

    def holds(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> bool:
        """Whether numeric columns with these ranges, each (q,), have a digit for every value."""
        lows = np.array(self.lows, dtype=np.float64)
        return bool(np.all(low >= lows) and np.all(high - lows < self.sizes[: len(lows)]))

    def block(self, keys: NDArray[np.int64], amounts: NDArray[np.float64]) -> Block:
        """Cells as a block of weighted rows."""
        success = (keys % 2).astype(np.int8)
        rest = keys // 2
        digits = []
        for size in reversed(self.sizes):
            digits.append(rest % size)
            rest = rest // size
        digits.reverse()
        numeric = [digit + low for digit, low in zip(digits, self.lows, strict=False)]
        codes = np.array([digit - 1 for digit in digits[len(self.lows) :]], dtype=np.int32)
        return Block(numeric, codes.reshape(-1, len(keys)), success, NOTHING, amounts, NOTHING)


def keying_of(design: Design, integers: Callable[[str], tuple[int, int] | None]) -> Keying | None:
    """How rows of a design are told apart, None where they cannot be.

    `integers`: the lowest and highest value of a column of whole numbers, None where it is not known or the
    column holds fractions.
    """
    if design.offset is not None or design.trials is not None or design.layout.scaled:
        return None
    lows, sizes = [], []
    for number in design.numbers:
        bounds = (
            None if number.column is None or number.column in design.reader.fills else integers(number.column)
        )
        if bounds is None:
            return None
        lows.append(bounds[0])
        sizes.append(bounds[1] - bounds[0] + 1)
    sizes.extend(width for width in design.layout.widths.tolist())
    product = 1
    for size in sizes:
        product *= size
    return Keying(tuple(lows), tuple(sizes)) if product < LARGEST_KEY else None


class Cells:
    """Keys with the weight of their rows. Given up (`found` is None) where they would not pay."""

    def __init__(self) -> None:
        self.rows = 0
        self._keys = np.empty(1_024, dtype=np.int64)
        self._amounts = np.empty(1_024)
        self._slots = np.full(4_096, EMPTY, dtype=np.int32)
        self._count: int | None = 0

    def add(self, keys: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        """Gather the rows of a block; `weight` (n,), or (0,) where each row weighs one."""
        begin = min(FIRST_ROWS, len(keys)) if self.rows == 0 else 0
        for rows in (slice(0, begin), slice(begin, len(keys))):
            self._gather(keys[rows], weight[rows] if weight.size else weight)
            self.rows += rows.stop - rows.start
            if self.rows == FIRST_ROWS and self._count is not None:
                repeated = self.rows - self._count
                if repeated < FEWEST_REPEATED:
                    self._count = None

    def merge(self, other: Cells) -> Cells:
        """Add another leaf's cells."""
        self.rows += other.rows
        if other._count is None:
            self._count = None
        else:
            self._gather(other._keys[: other._count], other._amounts[: other._count])
        return self

    @property
    def found(self) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Keys in ascending order and weights, where they are few enough beside the rows."""
        if self._count is None or self._count * MOST_SHARE > self.rows:
            return None
        order = np.argsort(self._keys[: self._count])
        return self._keys[order], self._amounts[order]

    def _gather(self, keys: NDArray[np.int64], amounts: NDArray[np.float64]) -> None:
        done = 0
        while self._count is not None:
            shift = 65 - self._slots.size.bit_length()
            done, self._count = gather(
                keys, amounts, done, self._keys, self._amounts, self._slots, shift, self._count
            )
            if done == len(keys):
                return
            if len(self._keys) >= MOST_CELLS:
                self._count = None
            else:
                self._grow()

    def _grow(self) -> None:
        old_keys, old_amounts, count = self._keys, self._amounts, self._count
        assert count is not None
        self._keys, self._amounts = np.empty(2 * len(old_keys), dtype=np.int64), np.empty(2 * len(old_keys))
        self._slots = np.full(2 * self._slots.size, EMPTY, dtype=np.int32)
        self._count = 0
        self._gather(old_keys[:count], old_amounts[:count])


@dataclass(frozen=True)
class CellsPart:
    """Cells as a part of its own, encoded already."""

    block: Block

    @property
    def rows(self) -> int:
        """Number of cells."""
        return len(self.block.success)


def parts_of_cells(keying: Keying, found: tuple[NDArray[np.int64], NDArray[np.float64]]) -> list[CellsPart]:
    """Cells cut into parts of a fixed size."""
    keys, amounts = found
    return [
        CellsPart(keying.block(keys[first : first + CELLS_A_PART], amounts[first : first + CELLS_A_PART]))
        for first in range(0, len(keys), CELLS_A_PART)
    ]
