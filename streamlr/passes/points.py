"""One read of the rows for many points: loss, gradient and, where wanted, Hessian at each of them.

Searches that do not depend on each other, such as both ends of the interval of every term, advance together:
a pass decodes its rows once and sums at every point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.block import add_block
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import DesignTask

Floats = NDArray[np.float64]


@dataclass
class Points:
    """Sums at each of some points."""

    sums: list[Sums]

    def merge(self, other: Points) -> Points:
        """Add another part's."""
        for own, theirs in zip(self.sums, other.sums, strict=True):
            own.merge(theirs)
        return self


@dataclass(frozen=True)
class PointsTask(DesignTask):
    """Sums at each of `coefs` (m, k); with a Hessian where `with_hessian` (m,) says so."""

    coefs: Floats
    with_hessian: tuple[bool, ...]

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return len(self.coefs) * self.design.layout.cells

    def __call__(self, parts: Sequence[Any]) -> Points:
        """The sums of one leaf."""
        layout = self.design.layout
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        found = Points([Sums(layout, first=False, with_hessian=wanted) for wanted in self.with_hessian])
        slots = [layout.to_slots(coef) for coef in self.coefs]
        tally = found.sums[0].tally
        for block in self.blocks(parts, tally):
            for coef, sums in zip(slots, found.sums, strict=True):
                add_block(block.rows, conditioning, coef, sums.with_hessian, sums.totals, scratch)
            del block
        return found
