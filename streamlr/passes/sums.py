"""The sums of a pass: everything that Newton, inference and reports ever see of the rows.

The Hessian is kept in blocks (dense square, factor diagonals, factor by number, pair tables of factors), so
adding a part to another costs no more than the tables it filled; it is assembled once a pass.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.encoding import Tally
from streamlr.design.layout import CELLS_A_SAVING, Layout
from streamlr.kernels.block import (
    FAILURES,
    LEAST_CURVATURE,
    LOSS,
    NULL_CURVATURE,
    NULL_LOSS,
    NULL_SLOPE,
    SCALARS,
    SUCCESSES,
    Scratch,
    Totals,
    add_block,
    add_null,
)
from streamlr.kernels.joint import LANES, NOT_JOINED, PRODUCTS, Joining
from streamlr.kernels.logistic import log_binomial_coefficients, saturated_loss
from streamlr.kernels.tails import NOTHING_ALONG, SIDE, Along
from streamlr.kernels.tile import Block, Conditioning
from streamlr.linear_algebra import Blocked, Bordered, Hessian
from streamlr.passes.cells import Cells
from streamlr.passes.packing import aligned

Floats = NDArray[np.float64]
# Numbers in single precision on two cache lines.
LINE = 32
NO_SINGLE = np.empty((0, 0), dtype=np.float32)


def joining_for(layout: Layout) -> Joining:
    """How the factors of a layout are taken together, and the memory for it."""
    groups = layout.joints
    if not groups:
        return NOT_JOINED
    members = [f for group in groups for f in group]
    sizes = [int(np.prod(layout.widths[list(group)])) for group in groups]
    strides: list[int] = []
    levels = np.zeros((len(members), max(sizes)), dtype=np.int64)
    for group, size in zip(groups, sizes, strict=True):
        stride = size
        for f in group:
            width = int(layout.widths[f])
            stride //= width
            levels[len(strides), :size] = np.arange(size) // stride % width
            strides.append(stride)
    begins = np.cumsum([0, *sizes])
    pair_begins = np.zeros((len(groups), len(groups)), dtype=np.int64)
    cells = 0
    for a, b in itertools.combinations(range(len(groups)), 2):
        pair_begins[a, b] = cells
        cells += sizes[a] * sizes[b]
    products = -(-layout.numeric // 4) * 4
    lanes = -(-(PRODUCTS + products) // LANES) * LANES
    return Joining(
        members=np.array(members, dtype=np.int64),
        first_member=np.cumsum([0, *map(len, groups)]),
        strides=np.array(strides, dtype=np.int64),
        levels=levels,
        begins=begins,
        pair_begins=pair_begins,
        least_rows=(cells + int(begins[-1]) * lanes) // CELLS_A_SAVING,
        codes=np.zeros((len(groups), layout.tile_rows), dtype=np.int32),
        lines=_aligned_zeros(layout.tile_rows, lanes),
        sums=_aligned_zeros(int(begins[-1]), lanes),
        pairs=np.zeros(cells),
        coef=np.zeros(int(begins[-1])),
        by_level=np.zeros(int(layout.widths.max())),
    )


def _along(layout: Layout, combinations: Floats) -> Along:
    """`combinations` (m, slots) of dense columns and the memory for their products with a tile."""
    rows, dense = layout.tile_rows, layout.dense
    padded = -(-dense // SIDE) * SIDE
    narrowed = np.zeros((-(-len(combinations) // SIDE) * SIDE, padded), dtype=np.float32)
    narrowed[: len(combinations), :dense] = combinations[:, :dense]
    # Rows a power of two apart would share the places of the first-level cache: 63 instead of 29 ns a row.
    apart = rows + LINE
    return Along(narrowed, _singles(padded, apart), _singles(SIDE, apart))


def scratch_for(layout: Layout, single: bool = False, along: Floats | None = None) -> Scratch:
    """Working memory of one worker; `single`: products of dense columns are in single precision; `along`:
    combinations (m, slots) whose fourth powers are wanted."""
    rows = layout.tile_rows
    exponent = _aligned_zeros(4, rows)
    narrow = _singles(layout.padded, rows) if single else NO_SINGLE
    return Scratch(
        _aligned_zeros(layout.padded + layout.scaled, rows),
        _aligned_zeros(8, rows),
        exponent,
        exponent.view(np.int64),
        narrow,
        joining_for(layout),
        NOTHING_ALONG if along is None else _along(layout, along),
    )


def _singles(rows: int, columns: int) -> NDArray[np.float32]:
    """Zeros (rows, columns), an even number of these, as `_aligned_zeros` gives them."""
    return _aligned_zeros(rows, columns // 2).view(np.float32)


def _aligned_zeros(rows: int, columns: int) -> Floats:
    """Zeros (rows, columns) that begin at a cache line: a vector of 512 bits that straddles two costs double
    (the Gram kernel reached 41 instead of 60 billion operations a second)."""
    memory = aligned(8 * rows * columns)
    memory[:] = 0
    return memory.view(np.float64).reshape(rows, columns)


def _ranges_of(block: Block) -> tuple[Floats, Floats]:
    """(q + s,) lowest and highest values of the columns of a block with rows."""
    low, high = np.empty(len(block.numeric)), np.empty(len(block.numeric))
    for j, column in enumerate(block.numeric):
        low[j], high[j] = column.min(), column.max()
    return low, high


@dataclass
class Sums:
    """Loss, gradient and Hessian in the layout's slots, with the tally of rows.

    `with_hessian`: else its tables stay zero. `first`: this is the first pass, so the ranges of the numeric
    columns and scales, (q + s,) `low` and `high`, and the constants of the likelihood are found as well.
    `along`: number of combinations whose fourth powers are summed, with the curvature as weight.
    """

    layout: Layout
    first: bool
    with_hessian: bool = True
    along: int = 0
    totals: Totals = field(init=False)
    tally: Tally = field(default_factory=Tally)
    cells: Cells = field(default_factory=Cells)
    log_binomial: float = 0.0
    saturated: float = 0.0

    def __post_init__(self) -> None:
        layout = self.layout
        self.totals = Totals(
            scalars=np.zeros(SCALARS),
            gradient=np.zeros(layout.slots),
            gram=np.zeros((layout.padded, layout.padded)),
            diagonal=np.zeros(layout.factor_slots),
            cross=np.zeros((layout.dense, layout.factor_slots)),
            pairs=np.zeros(layout.pair_cells),
            widths=layout.widths,
            pair_starts=layout.pair_starts,
            fourth=np.zeros(-(-self.along // SIDE) * SIDE),
        )
        self.totals.scalars[LEAST_CURVATURE] = np.inf
        self.low = np.full(layout.numeric + layout.scaled, np.inf)
        self.high = np.full(layout.numeric + layout.scaled, -np.inf)

    def add(
        self, block: Block, conditioning: Conditioning, coef: Floats, null_coef: float, scratch: Scratch
    ) -> None:
        """Add every row of a block at `coef` (slots,)."""
        add_block(block.rows, conditioning, coef, self.with_hessian, self.totals, scratch)
        if block.offset.size:
            add_null(block.rows, null_coef, self.totals.scalars, scratch)
        if self.first and block.success.size:
            low, high = block.ranges or _ranges_of(block)
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
        if self.first and block.trials.size:
            self.log_binomial += log_binomial_coefficients(block.success, block.trials, block.weight)
            self.saturated += saturated_loss(block.success, block.trials, block.weight)

    def merge(self, other: Sums) -> Sums:
        """Add another part's sums to these."""
        ours, theirs = self.totals, other.totals
        least = min(ours.scalars[LEAST_CURVATURE], theirs.scalars[LEAST_CURVATURE])
        tables = ("gram", "diagonal", "cross", "pairs") if self.with_hessian else ()
        for name in ("scalars", "gradient", "fourth", *tables):
            total: Floats = getattr(ours, name)
            total += getattr(theirs, name)
        ours.scalars[LEAST_CURVATURE] = least
        np.minimum(self.low, other.low, out=self.low)
        np.maximum(self.high, other.high, out=self.high)
        self.tally.merge(other.tally)
        self.cells.merge(other.cells)
        self.log_binomial += other.log_binomial
        self.saturated += other.saturated
        return self

    @property
    def loss(self) -> float:
        """Minus the log-likelihood, without binomial coefficients."""
        return float(self.totals.scalars[LOSS])

    @property
    def null_loss(self) -> float:
        """Loss of the model with an intercept alone, where there is no offset."""
        s, f = self.successes, self.failures
        return -sum(count * math.log(count / (s + f)) for count in (s, f) if count > 0.0)

    @property
    def null(self) -> tuple[float, float, float]:
        """Loss, slope and curvature of the null model; zeros without an offset."""
        scalars = self.totals.scalars
        return float(scalars[NULL_LOSS]), float(scalars[NULL_SLOPE]), float(scalars[NULL_CURVATURE])

    @property
    def successes(self) -> float:
        """Weighted number of successes."""
        return float(self.totals.scalars[SUCCESSES])

    @property
    def failures(self) -> float:
        """Weighted number of failures."""
        return float(self.totals.scalars[FAILURES])

    @property
    def trials(self) -> float:
        """Weighted number of trials."""
        return self.successes + self.failures

    @property
    def least_curvature(self) -> float:
        """Least curvature of the loss in eta over rows of positive weight."""
        return float(self.totals.scalars[LEAST_CURVATURE])

    @property
    def fourth(self) -> Floats:
        """(m,) sums of fourth powers along the combinations that were asked for."""
        return self.totals.fourth[: self.along]

    def gradient(self) -> Floats:
        """(k,) gradient by model column."""
        return self.totals.gradient[self.layout.slot_of_column]

    def hessian(self) -> Hessian:
        """Hessian by model column: (k, k), or with the levels of a long or an absorbed factor apart."""
        layout, totals = self.layout, self.totals
        apart = layout.apart
        run = slice(layout.columns, layout.columns) if apart is None else layout.factor_columns[apart]
        length = run.stop - run.start

        def moved(columns: Any) -> Any:
            """Columns as they are numbered without those that stand apart."""
            if isinstance(columns, slice):
                shift = length if columns.start >= run.stop else 0
                return slice(columns.start - shift, columns.stop - shift)
            return np.where(columns >= run.stop, columns - length, columns)

        places = moved(self._places)
        own = layout.columns - length
        whole = np.zeros((own, own))
        lower = np.tril(totals.gram[: layout.dense, : layout.dense])
        whole[np.ix_(places, places)] = lower + np.tril(lower, -1).T
        factors = [f for f in range(len(layout.levels)) if f != apart]
        for place, f in enumerate(factors):
            rows = moved(layout.factor_columns[f])
            slots = self._slots_of_levels(layout.starts[f], layout.widths[f])
            self._copy_cross(slots, places, whole[:, rows])
            whole[rows, places] = whole[places, rows].T
            whole[np.arange(rows.start, rows.stop), np.arange(rows.start, rows.stop)] = totals.diagonal[slots]
            for g in factors[place + 1 :]:
                columns = moved(layout.factor_columns[g])
                table = self._pair_table(f, g)
                whole[rows, columns] = table
                whole[columns, rows] = table.T
        if apart is None:
            return whole
        border = np.zeros((own, length))
        slots = self._slots_of_levels(layout.starts[apart], layout.widths[apart])
        self._copy_cross(slots, places, border)
        for f in factors:
            table = self._pair_table(f, apart) if f < apart else self._pair_table(apart, f).T
            border[moved(layout.factor_columns[f])] = table
        inner = Bordered(whole, border, totals.diagonal[slots].copy())
        return inner if layout.absorbed else Blocked(inner, run)

    def shed(self) -> None:
        """Let go of the tables of the Hessian, which has been assembled."""
        nothing = np.zeros((0, 0))
        self.totals = self.totals._replace(gram=nothing, cross=nothing, pairs=np.zeros(0))

    @property
    def _places(self) -> NDArray[np.int64]:
        """Model columns of the dense slots."""
        slots = self.layout.slot_of_column
        dense = slots < self.layout.dense
        return np.flatnonzero(dense)[np.argsort(slots[dense])]

    def _slots_of_levels(self, start: int, width: int) -> slice:
        """Slots of a factor but for "no column", counted from the first factor's."""
        first = int(start) - self.layout.dense
        return slice(first + 1, first + int(width))

    def _copy_cross(self, slots: slice, places: NDArray[np.int64], out: Floats) -> None:
        """Products of dense columns with the levels in `slots` into the rows `places` of `out`."""
        layout = self.layout
        intercept = layout.intercept
        if intercept:
            # Of a factor without a scale the intercept's row is the diagonal.
            scaled = layout.scaled and slots.start >= layout.starts[layout.plain] - layout.dense
            out[places[0]] = self.totals.cross[0, slots] if scaled else self.totals.diagonal[slots]
        for j in range(intercept, layout.dense):
            out[places[j]] = self.totals.cross[j, slots]

    def _pair_table(self, f: int, g: int) -> Floats:
        """Products of two factors' levels."""
        layout = self.layout
        begin = layout.pair_starts[f, g]
        rows, columns = layout.widths[f], layout.widths[g]
        return self.totals.pairs[begin : begin + rows * columns].reshape(rows, columns)[1:, 1:]
