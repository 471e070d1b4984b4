"""How coefficients are numbered: model columns in the order of the terms, slots in the order of the kernels.

Model columns are what a user sees: the intercept, then term after term. Slots are where kernels keep them:
dense columns first, then for each factor one slot for "no column" and one a level. A layout is the map
between the two and where every table of the Hessian lies. The columns of an absorbed factor, of which there
may be a million, stand behind all others in both numberings.

A factor times a number is a factor whose rows have a scale; such factors come after all others, an absorbed
one last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Levels of a factor from which on they are worth eliminating first.
LONG = 256
# Joint slots of a group of factors, and cells of all tables of groups, that stay in the second-level cache.
MOST_JOINT = 256
JOINT_CELLS = 1 << 16
# Slots of a factor that stays alone while others are taken together.
MOST_ALONE = 1024
# A row saves so much that a block is worth unfolding from a row for each so many cells.
CELLS_A_SAVING = 2
# Dense columns from which on a Hessian is worth saving.
DEAR = 256


@dataclass(frozen=True)
class Layout:
    """`order` names what stands in the model, in its order: -1 the intercept, 0 ... q - 1 the numeric
    columns, q + f factor f; `levels` has the number of columns of each factor.

    The last `len(hosts)` factors are scaled. `hosts` names for each a factor without a scale that has the
    same columns but for the scale, -1 where the model has none: it can take up what centring moves. Where
    `full_hosts`, the factor has a column for its reference too, and the host and the intercept take it up.
    `absorbed`: the last factor, the last term, is absorbed, so that the Hessian is bordered
    (`streamlr.linear_algebra.Bordered`); behind scaled factors its scale is one.
    """

    order: tuple[int, ...]
    numeric: int
    levels: tuple[int, ...]
    hosts: tuple[int, ...] = ()
    absorbed: bool = False
    full_hosts: tuple[bool, ...] = ()

    @property
    def intercept(self) -> int:
        """1 with an intercept, else 0."""
        return int(-1 in self.order)

    @property
    def dense(self) -> int:
        """Number of dense columns: intercept and numbers."""
        return self.intercept + self.numeric

    @property
    def scaled(self) -> int:
        """s, the number of factors with a scale."""
        return len(self.hosts)

    @property
    def plain(self) -> int:
        """Number of factors without a scale, which are the first."""
        return len(self.levels) - self.scaled

    @property
    def padded(self) -> int:
        """`dense` rounded up so that blocks of 4 numeric columns end inside."""
        return self.intercept + -(-self.numeric // 4) * 4

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """(c,) slots of each factor."""
        return np.array([count + 1 for count in self.levels], dtype=np.int64)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(c,) first slot of each factor."""
        return self.dense + np.cumsum(self.widths) - self.widths

    @property
    def factor_slots(self) -> int:
        """Number of slots of all factors."""
        return int(self.widths.sum())

    @property
    def slots(self) -> int:
        """Number of slots."""
        return self.dense + self.factor_slots

    @cached_property
    def pair_starts(self) -> NDArray[np.int64]:
        """(c, c) where the table of factors f < g begins among all pair tables."""
        starts = np.zeros((len(self.levels), len(self.levels)), dtype=np.int64)
        at = 0
        for f, rows in enumerate(self.widths):
            for g in range(f + 1, len(self.levels)):
                starts[f, g] = at
                at += int(rows * self.widths[g])
        return starts

    @property
    def pair_cells(self) -> int:
        """Number of cells of all pair tables."""
        total = int(self.widths.sum())
        return (total * total - int((self.widths**2).sum())) // 2

    @cached_property
    def joints(self) -> tuple[tuple[int, ...], ...]:
        """Groups of factors without a scale that are summed together; none where their tables are too large.

        The largest first, each goes into the first group that has at most MOST_JOINT slots with it (Johnson
        and others 1974, SIAM Journal on Computing 3, 299-325).
        """
        groups: list[tuple[int, list[int]]] = []
        for f in sorted(range(self.plain), key=lambda f: -self.widths[f]):
            width = int(self.widths[f])
            for place, (size, members) in enumerate(groups):
                if size * width <= MOST_JOINT:
                    groups[place] = (size * width, [*members, f])
                    break
            else:
                groups.append((width, [f]))
        sizes = [size for size, _ in groups]
        pairs = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
        most = MOST_JOINT if len(groups) == self.plain else MOST_ALONE
        if not groups or max(sizes) > most or pairs > JOINT_CELLS:
            return ()
        return tuple(tuple(sorted(members)) for _, members in groups)

    @property
    def cells(self) -> int:
        """Numbers in all tables of the Hessian."""
        return self.padded**2 + (self.dense + 1) * self.factor_slots + self.pair_cells

    @property
    def hessian_is_dear(self) -> bool:
        """Whether a Hessian costs several times what reading the rows and summing a gradient does.

        At 300 dense columns the Gram kernel takes as long as decoding a row, at 1,000 four times as long.
        """
        return self.dense >= DEAR

    @cached_property
    def slot_of_column(self) -> NDArray[np.int64]:
        """(k,) the slot of every model column."""
        slots = [np.empty(0, dtype=np.int64)]
        for term in self.order:
            if term < self.numeric:
                slots.append(np.array([0 if term < 0 else self.intercept + term]))
            else:
                start = int(self.starts[term - self.numeric]) + 1
                slots.append(np.arange(start, start + self.levels[term - self.numeric]))
        return np.concatenate(slots)

    @cached_property
    def factor_columns(self) -> tuple[slice, ...]:
        """The model columns of each factor, which stand side by side."""
        starts = []
        at = 0
        for term in self.order:
            if term >= self.numeric:
                starts.append((term - self.numeric, at))
            at += self.levels[term - self.numeric] if term >= self.numeric else 1
        return tuple(slice(at, at + self.levels[f]) for f, at in sorted(starts))

    @cached_property
    def group_of_column(self) -> NDArray[np.int64]:
        """(k,) place in `order` of the column; of one factor's columns a row has at most one."""
        sizes = [self.levels[term - self.numeric] if term >= self.numeric else 1 for term in self.order]
        return np.repeat(np.arange(len(sizes)), sizes)

    @property
    def columns(self) -> int:
        """k, the number of model columns."""
        return self.dense + sum(self.levels)

    @cached_property
    def apart(self) -> int | None:
        """The factor whose levels stand apart in the Hessian, as they never meet and are eliminated first.

        An absorbed one, else the largest without a scale where it is long; None where there is none.
        """
        if self.absorbed:
            return len(self.levels) - 1
        largest = max(range(self.plain), key=lambda f: self.levels[f], default=-1)
        return largest if largest >= 0 and self.levels[largest] >= LONG else None

    @property
    def own_columns(self) -> int:
        """p, the number of model columns in front of those that are absorbed; all k where none are."""
        return self.columns - (self.levels[-1] if self.absorbed else 0)

    def to_slots(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(k,) by model column to (slots,); "no column" gets zero."""
        slots = np.zeros(self.slots)
        slots[self.slot_of_column] = values
        return slots

    @property
    def tile_rows(self) -> int:
        """Rows of a tile: what the Gram kernel works on stays in a second-level cache of 0.5 MB.

        Columns that are read from memory want long ones, products of many columns short ones: on two threads
        300 columns take 2.7 instead of 2.9 us a row by tiles of 384 instead of 512 rows.
        """
        return 1024 if self.padded <= 64 else 384
