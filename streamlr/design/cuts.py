"""Planes through the design beside which rows have been set aside, because a direction separates outcomes.

A cut keeps the direction in which coefficients go to infinity. Rows beyond the rounding of their own x'd have
the limit 0 or 1 for a probability, on the side where they lie; the others say nothing about the direction and
are fitted. Of several cuts each looks at the rows that those before it have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.design.layout import Layout
from streamlr.kernels.block import Scratch
from streamlr.kernels.joint import NOT_JOINED
from streamlr.kernels.sides import project_block
from streamlr.kernels.tails import NOTHING_ALONG
from streamlr.kernels.tile import Block, Conditioning

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cut:
    """A direction d in columns (x - centre) scale, and the unit of rounding of x'd: |x'd| <= unit sum |x d|
    is zero."""

    centre: Floats  # (q + s,)
    scale: Floats  # (q + s,)
    coef: Floats  # (k,)
    unit: float


class Sides:
    """Where rows lie beside cuts; working memory of one worker."""

    def __init__(self, layout: Layout, cuts: Sequence[Cut]) -> None:
        self._cuts = [
            (plain_conditioning(layout, cut.centre, cut.scale), layout.to_slots(cut.coef)[None], cut.unit)
            for cut in cuts
        ]
        self._scratch = scratch_of(layout)

    def leaving(self, block: Block) -> NDArray[np.bool_]:
        """(n,) which rows a step along a column takes out of a plane; `block` has the derivatives of all
        columns in it, so nothing is centred and no constant moves."""
        n = block.success.size
        found = np.zeros(n, dtype=np.bool_)
        along, size = np.empty((1, n)), np.empty((1, n))
        for conditioning, coef, unit in self._cuts:
            slope = coef.copy()
            if conditioning.intercept:
                slope[:, 0] = 0.0
            still = conditioning._replace(centre=np.zeros_like(conditioning.centre))
            project_block(block.rows, still, slope, self._scratch, along, size)
            found |= np.abs(along[0]) > unit * size[0]
        return found

    def of(self, block: Block) -> NDArray[np.int8]:
        """(n,) 1 or -1 where the first cut that a row is not in the plane of sends its probability to 1 or
        to 0; 0 where it lies in all planes."""
        n = block.success.size
        found = np.zeros(n, dtype=np.int8)
        along, size = np.empty((1, n)), np.empty((1, n))
        for conditioning, coef, unit in self._cuts:
            project_block(block.rows, conditioning, coef, self._scratch, along, size)
            beyond = (found == 0) & (np.abs(along[0]) > unit * size[0])
            found[beyond] = np.sign(along[0][beyond])
        return found


def plain_conditioning(layout: Layout, centre: Floats, scale: Floats) -> Conditioning:
    """Columns centred and scaled, none taken out of another."""
    return Conditioning(
        intercept=layout.intercept,
        centre=centre,
        scale=scale,
        dense=layout.dense,
        scales=layout.padded,
        plain=layout.plain,
        starts=layout.starts,
        reduced=np.empty(0, dtype=np.int64),
        gamma=np.empty((0, layout.slots)),
        stretch=np.empty(0),
    )


def scratch_of(layout: Layout) -> Scratch:
    """Working memory for one tile."""
    rows = layout.tile_rows
    exponent = np.zeros((4, rows))
    return Scratch(
        np.zeros((layout.padded + layout.scaled, rows)),
        np.zeros((8, rows)),
        exponent,
        exponent.view(np.int64),
        np.empty((0, 0), dtype=np.float32),
        NOT_JOINED,
        NOTHING_ALONG,
    )


def together(blocks: Sequence[Block]) -> Block:
    """The rows of some blocks, one after another."""
    if len(blocks) == 1:
        return blocks[0]

    def joined(name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(block, name) for block in blocks])

    return Block(
        [_joined(columns) for columns in zip(*(block.numeric for block in blocks), strict=True)],
        np.concatenate([block.codes for block in blocks], axis=1),
        joined("success"),
        joined("trials"),
        joined("weight"),
        joined("offset"),
        np.concatenate([block.clusters for block in blocks], axis=1),
    )


def _joined(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    found = np.concatenate(columns)
    return found if all(column.dtype == found.dtype for column in columns) else found.astype(np.float64)
