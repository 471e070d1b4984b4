"""The sums of Firth's penalised likelihood at several points, in one read of the rows.

Beside loss, gradient and Hessian a point has the sum of leverages times (1/2 - p) x, for leverages that come
from an inverse of its own; see `inference/firth.py`. Everything counts trials and frequency weights, so that
a cell of rows, a row of counts and the rows themselves one by one have the same sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.layout import Layout
from streamlr.kernels.block import Scratch
from streamlr.kernels.scores import add_row_sums, fitted_rows, quadratic_forms
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import DesignTask

Floats = NDArray[np.float64]


@dataclass
class FirthSums:
    """Sums at m points: `adjustments` (m, slots) and `squares` (m,) are those of leverages."""

    sums: list[Sums]
    adjustments: Floats
    squares: Floats

    @classmethod
    def empty(cls, layout: Layout, points: int) -> FirthSums:
        """Of no rows."""
        sums = [Sums(layout, first=False) for _ in range(points)]
        return cls(sums, np.zeros((points, layout.slots)), np.zeros(points))

    def add(
        self,
        place: int,
        block: Block,
        conditioning: Conditioning,
        coef: Floats,
        inverse: Floats,
        scratch: Scratch,
    ) -> None:
        """Add to what leverages tell of a point: for rows with curvature c = w n p q and form v = x'Vx

        adjustment += sum of c v (1/2 - p) x,    square += sum of c v**2 (1/2 - p)**2

        `coef` (slots,), `inverse` (slots, slots) with zeros for "no column".
        """
        n = block.success.size
        eta, p, q, form = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
        fitted_rows(block.rows, conditioning, coef, scratch, eta, p, q)
        quadratic_forms(block.rows, conditioning, inverse, scratch, form)
        curvature = p * q
        if block.trials.size:
            curvature *= block.trials
        if block.weight.size:
            curvature *= block.weight
        towards_half = 0.5 * (q - p)
        slope = curvature * form * towards_half
        add_row_sums(block.rows, conditioning, slope, self.adjustments[place], scratch)
        self.squares[place] += float((slope * form * towards_half).sum())

    def merge(self, other: FirthSums) -> FirthSums:
        """Add another part's."""
        for own, theirs in zip(self.sums, other.sums, strict=True):
            own.merge(theirs)
        self.adjustments += other.adjustments
        self.squares += other.squares
        return self


@dataclass(frozen=True)
class FirthTask(DesignTask):
    """Sums at each of `coefs` (m, k), with leverages from `inverses` (m, slots, slots), zero for "no column",
    for inactive columns, and all zero where no leverages are wanted.

    `null_coef`: where the null model of an offset is evaluated, which shares the passes.
    """

    coefs: Floats
    inverses: Floats
    null_coef: float

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return len(self.coefs) * self.design.layout.cells

    def __call__(self, parts: Sequence[Any]) -> FirthSums:
        """The sums of one leaf."""
        layout = self.design.layout
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        found = FirthSums.empty(layout, len(self.coefs))
        coefs = [layout.to_slots(coef) for coef in self.coefs]
        wanted = [bool(inverse.any()) for inverse in self.inverses]
        for block in self.blocks(parts, found.sums[0].tally):
            for place, (coef, inverse) in enumerate(zip(coefs, self.inverses, strict=True)):
                found.sums[place].add(block, conditioning, coef, self.null_coef, scratch)
                if wanted[place]:
                    found.add(place, block, conditioning, coef, inverse, scratch)
            del block
        return found
