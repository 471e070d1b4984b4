"""Passes that look for a plane between the outcomes: which rows lie near it, and on which side the others.

Rows of weight zero, and rows without trials, do not count. All directions are in conditioned columns, none
taken out of another, so that x'd has no roundings but its own; products are in the columns of the basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamlr.design.cuts import plain_conditioning, together
from streamlr.design.encoding import Tally
from streamlr.kernels.sides import add_products, project_block
from streamlr.kernels.tile import Block
from streamlr.linear_algebra import Hessian
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import DesignTask
from streamlr.separation import CERTAIN

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A row at linear predictor zero has a quarter of its weight for curvature.
WEIGHT_OF_ONE = 4.0


def outcomes_of(block: Block) -> tuple[Mask, Mask]:
    """(n,) which rows count with a success, and which with a failure."""
    up = block.success > 0
    down = (block.trials > block.success) if block.trials.size else block.success == 0
    if block.weight.size:
        up, down = up & (block.weight > 0), down & (block.weight > 0)
    return up, down


@dataclass
class Near:
    """Sums of products of some rows."""

    sums: Sums

    def merge(self, other: Near) -> Near:
        """Add another leaf's."""
        self.sums.merge(other.sums)
        return self

    def hessian(self) -> Hessian:
        """sum of x x' by model column."""
        return self.sums.hessian()


@dataclass(frozen=True)
class NearTask(DesignTask):
    """Products of the rows with |x'direction| <= `threshold`, or with trials of both outcomes."""

    direction: Floats  # (k,)
    threshold: float

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return self.design.layout.cells

    def __call__(self, parts: Sequence[object]) -> Near:
        """The sums of one leaf."""
        layout = self.design.layout
        sums = Sums(layout, first=False)
        scratch = scratch_for(layout)
        plain = plain_conditioning(layout, self.basis.centre, self.basis.scale)
        conditioning = self.basis.conditioning()
        coef, zero = layout.to_slots(self.direction)[None], np.zeros(layout.slots)
        for block in self.blocks(parts, Tally()):
            n = block.success.size
            along, size = np.empty((1, n)), np.empty((1, n))
            project_block(block.rows, plain, coef, scratch, along, size)
            up, down = outcomes_of(block)
            chosen = block.taken(near_rows(along[0], up, down, self.threshold))
            ones = Block(
                chosen.numeric,
                chosen.codes,
                np.zeros(chosen.success.size, dtype=np.int8),
                np.empty(0),
                np.full(chosen.success.size, WEIGHT_OF_ONE),
                np.empty(0),
            )
            sums.add(ones, conditioning, zero, 0.0, scratch)
            del block
        return Near(sums)


def near_rows(along: Floats, up: Mask, down: Mask, threshold: float) -> Mask:
    """(n,) rows that count and look as if they overlapped."""
    near: Mask = (up & down) | ((up | down) & (np.abs(along) <= threshold))
    return near


@dataclass
class Picked:
    """Up to `most` rows of the data that say most about a direction: those most wrong, then those separated
    by the least, relative to their own size; ties in the order of the rows."""

    most: int
    block: Block | None = None
    wrong_by: Floats = field(default_factory=lambda: np.empty(0))  # (r,) descending; negative: right

    def add(self, block: Block, wrong_by: Floats, which: Mask) -> None:
        """Look at the rows `which` of a block."""
        places = np.flatnonzero(which)
        if not places.size:
            return
        if places.size > self.most:
            least = np.partition(wrong_by[places], places.size - self.most)[places.size - self.most]
            places = places[wrong_by[places] >= least]
        order = places[np.argsort(-wrong_by[places], kind="stable")][: self.most]
        self.merge(Picked(self.most, block.taken(order), wrong_by[order]))

    def merge(self, other: Picked) -> Picked:
        """Take in those of another leaf."""
        if other.block is None:
            return self
        if self.block is None:
            self.block, self.wrong_by = other.block, other.wrong_by
            return self
        wrong_by = np.concatenate([self.wrong_by, other.wrong_by])
        order = np.argsort(-wrong_by, kind="stable")[: self.most]
        self.block, self.wrong_by = together([self.block, other.block]).taken(order), wrong_by[order]
        return self


@dataclass
class Sides:
    """Rows of positive weight by where they lie along m directions."""

    separated: NDArray[np.int64]  # (m,)
    overlapping: NDArray[np.int64]  # (m,)
    wrong: NDArray[np.int64]  # (m,)
    products: Floats  # (m, slots) of rows that look as if they overlapped: sum of x x'd
    picked: list[Picked]

    def merge(self, other: Sides) -> Sides:
        """Add another leaf's."""
        self.separated += other.separated
        self.overlapping += other.overlapping
        self.wrong += other.wrong
        self.products += other.products
        for mine, theirs in zip(self.picked, other.picked, strict=True):
            mine.merge(theirs)
        return self


@dataclass(frozen=True)
class SidesTask(DesignTask):
    """Sorts rows by `directions` (m, k): x'd is zero up to unit sum |x d|, and rows are separated beyond
    `CERTAIN` times as much."""

    directions: Floats
    unit: float
    near: Floats | None  # (k,)
    threshold: float
    most: int

    @property
    def cells(self) -> int:
        """Size of the result, in numbers."""
        layout = self.design.layout
        return len(self.directions) * (layout.slots + self.most * (len(layout.levels) + layout.dense))

    def __call__(self, parts: Sequence[object]) -> Sides:
        """The sides of one leaf."""
        layout, m = self.design.layout, len(self.directions)
        scratch = scratch_for(layout)
        plain = plain_conditioning(layout, self.basis.centre, self.basis.scale)
        conditioning = self.basis.conditioning()
        looked_along = [*self.directions] if self.near is None else [*self.directions, self.near]
        coef = np.array([layout.to_slots(row) for row in looked_along])
        sides = Sides(
            separated=np.zeros(m, dtype=np.int64),
            overlapping=np.zeros(m, dtype=np.int64),
            wrong=np.zeros(m, dtype=np.int64),
            products=np.zeros((m, layout.slots)),
            picked=[Picked(self.most) for _ in range(m)],
        )
        for block in self.blocks(parts, Tally()):
            n = block.success.size
            along, size = np.empty((len(coef), n)), np.empty((len(coef), n))
            project_block(block.rows, plain, coef, scratch, along, size)
            up, down = outcomes_of(block)
            for d in range(m):
                beyond = (np.abs(along[d]) > self.unit * size[d]) & (up | down)
                wrong = beyond & (((along[d] > 0) & down) | ((along[d] < 0) & up))
                sides.wrong[d] += np.count_nonzero(wrong)
                certain = beyond & ~wrong & (np.abs(along[d]) > CERTAIN * self.unit * size[d])
                sides.separated[d] += np.count_nonzero(certain)
                sides.overlapping[d] += np.count_nonzero((up | down) & ~wrong & ~certain)
                if self.most:
                    share = np.abs(along[d]) / np.where(size[d] > 0, size[d], 1.0)
                    sides.picked[d].add(block, np.where(wrong, share, -share), beyond)
            if self.near is not None:
                near = near_rows(along[m], up, down, self.threshold)
                add_products(block.rows, conditioning, along[:m] * near, scratch, sides.products)
            del block
        return sides
