"""What passes do to the encoded blocks of a design: sums, probes, a few rows to look at.

Each task is a frozen record that travels to a worker, works on one leaf and returns what is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design
from streamlr.design.encoding import Encoder, Tally
from streamlr.errors import StreamlrError
from streamlr.kernels.block import Scratch, probe_block
from streamlr.kernels.tile import Block
from streamlr.passes.cache import BlockCache, Keeping
from streamlr.passes.cells import Keying
from streamlr.passes.sums import Sums, scratch_for

Floats = NDArray[np.float64]


def blocks_of(
    design: Design,
    part: Any,
    tally: Tally,
    cache: BlockCache | None,
    keep: bool = True,
    ranges: bool = False,
) -> Iterator[Block]:
    """The encoded blocks of a part, from the cache where they were kept; rows are counted in `tally`.

    `keep`: put them there where they were not. `ranges`: those of their columns are wanted, as they are of
    blocks that are kept.

    A block may be dropped by the consumer before it asks for the next one, and should be: it then leaves room
    for the rows that are decoded next.
    """
    kept = cache.get(part) if cache is not None else None
    if kept is not None:
        tally.merge(kept.tally)
        yield from kept.blocks
        return
    own = Tally()
    keeping = cache.begin(part) if cache is not None and keep else None
    complete = cache is not None and cache.is_complete(part)
    encoder = Encoder(design, ranges=ranges or keeping is not None, complete=complete)
    room = {}
    if keeping is not None and getattr(part, "takes_room", False):
        room["room"] = _room_for(keeping, design)
    for batch in part.read(design.columns, design.coded_columns, design.batch_rows, **room):
        block = encoder.encode(batch, own)
        del batch
        if keeping is not None:
            block = keeping.add(block)
        yield block
        del block
    tally.merge(own)
    if cache is not None and not own.missing:
        cache.note_complete(part)
    if keeping is not None:
        keeping.finish(own)


def _room_for(keeping: Keeping, design: Design) -> Callable[[Mapping[str, int]], Mapping[str, Any]]:
    """Room for those columns that blocks have as they are read."""
    names = {number.column for number in design.numbers}
    return lambda sizes: keeping.room({name: size for name, size in sizes.items() if name in names})


def check_finite(eta: Floats) -> None:
    """Raise `StreamlrError` where a linear predictor (n,) is not finite: a fit would have refused it."""
    if bad := int(np.count_nonzero(~np.isfinite(eta))):
        raise StreamlrError(
            f"the linear predictor of {bad:,} row{'s' if bad > 1 else ''} or more is not finite: a column "
            "holds infinite or huge values, as those of a fit do not. Leave such rows out with --where "
            "(where=...)."
        )


@dataclass(frozen=True)
class DesignTask:
    """Work on the encoded blocks of a design, in a basis of it."""

    design: Design
    basis: Basis
    cache: BlockCache | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return self.design.columns

    @property
    def coded(self) -> tuple[str, ...]:
        """Columns best read as dictionary codes."""
        return self.design.coded_columns

    @property
    def batch_rows(self) -> int:
        """Rows of a batch."""
        return self.design.batch_rows

    @property
    def cells(self) -> int:
        """Size of the result, in numbers."""
        return self.design.layout.slots

    def has(self, part: Any) -> bool:
        """Whether the blocks of a part are kept."""
        return self.cache is not None and self.cache.get(part) is not None

    def blocks(self, parts: Sequence[Any], tally: Tally) -> Iterator[Block]:
        """The encoded blocks of some parts; rows are counted in `tally`."""
        for part in parts:
            yield from blocks_of(self.design, part, tally, self.cache, self.keep, self.ranges)

    @property
    def keep(self) -> bool:
        """Whether blocks are worth keeping for later passes."""
        return True

    @property
    def ranges(self) -> bool:
        """Whether the ranges of columns are wanted."""
        return False


@dataclass(frozen=True)
class HeadsTask(DesignTask):
    """The first `rows` rows of every block, one column after another: lists of arrays (rows,)."""

    rows: int

    def __call__(self, parts: Sequence[Any]) -> list[list[NDArray[Any]]]:
        """The columns of one leaf."""
        heads: list[list[NDArray[Any]]] = [[] for _ in self.design.inputs]
        for block in self.blocks(parts, Tally()):
            for head, column in zip(heads, block.numeric, strict=True):
                head.append(column[: self.rows].copy())
            del block
        return heads

    @staticmethod
    def merge(heads: list[list[NDArray[Any]]], others: list[list[NDArray[Any]]]) -> list[list[NDArray[Any]]]:
        """Both one after the other."""
        return [head + other for head, other in zip(heads, others, strict=True)]


@dataclass(frozen=True)
class SumsTask(DesignTask):
    """Loss, gradient and (where wanted) Hessian at `coef` (k,); with `single` in single precision; with
    `along` also fourth powers along these combinations (m, k) of dense columns."""

    coef: Floats
    null_coef: float
    first: bool
    with_hessian: bool = True
    keying: Keying | None = None
    single: bool = False
    along: Floats | None = None

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return self.design.layout.cells

    @property
    def keep(self) -> bool:
        """Not while rows are gathered: copying them took as long as it did to gather them."""
        return self.keying is None

    @property
    def ranges(self) -> bool:
        """In the first pass."""
        return self.first

    def __call__(self, parts: Sequence[Any]) -> Sums:
        """The sums of one leaf."""
        layout = self.design.layout
        along = None if self.along is None else np.array([layout.to_slots(row) for row in self.along])
        sums = Sums(layout, self.first, self.with_hessian, 0 if along is None else len(along))
        scratch = scratch_for(layout, self.single, along)
        conditioning = self.basis.conditioning()
        coef = layout.to_slots(self.coef)
        for block in self.blocks(parts, sums.tally):
            sums.add(block, conditioning, coef, self.null_coef, scratch)
            if self.keying is not None:
                sums.cells.add(self.keying.keys(block), block.weight)
            del block
        return sums


@dataclass
class Rivals:
    """Sums at two points."""

    sums: Sums
    rival: Sums

    def merge(self, other: Rivals) -> Rivals:
        """Add another leaf's."""
        self.sums.merge(other.sums)
        self.rival.merge(other.rival)
        return self


@dataclass(frozen=True)
class RivalsTask(SumsTask):
    """Sums at `coef` and at another point, in one pass; what is no sum at a point stands with the first."""

    rival: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def cells(self) -> int:
        """Size of both sums, in numbers."""
        return 2 * self.design.layout.cells

    def __call__(self, parts: Sequence[Any]) -> Rivals:  # type: ignore[override]
        """The sums of one leaf."""
        layout = self.design.layout
        both = Rivals(Sums(layout, self.first), Sums(layout, False))
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        coef, rival = layout.to_slots(self.coef), layout.to_slots(self.rival)
        for block in self.blocks(parts, both.sums.tally):
            both.sums.add(block, conditioning, coef, self.null_coef, scratch)
            both.rival.add(block, conditioning, rival, self.null_coef, scratch)
            if self.keying is not None:
                both.sums.cells.add(self.keying.keys(block), block.weight)
            del block
        return both


@dataclass
class Probe:
    """How far some combinations of columns stay from zero; see `kernels.block.probe_block`."""

    extent: Floats  # (m,)
    squares: Floats  # (m,)
    products: Floats  # (m, slots)

    def merge(self, other: Probe) -> Probe:
        """Add another part's."""
        np.maximum(self.extent, other.extent, out=self.extent)
        self.squares += other.squares
        self.products += other.products
        return self


@dataclass(frozen=True)
class ProbeTask(DesignTask):
    """Probes `combinations` (m, k) of basis columns; the curvature is that at `coef` (k,)."""

    coef: Floats
    combinations: Floats

    @property
    def cells(self) -> int:
        """Size of the probe, in numbers."""
        return len(self.combinations) * self.design.layout.slots

    def __call__(self, parts: Sequence[Any]) -> Probe:
        """The probe of one leaf."""
        layout = self.design.layout
        scratch: Scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        combinations = np.array([layout.to_slots(row) for row in self.combinations])
        m = len(combinations)
        probe = Probe(np.zeros(m), np.zeros(m), np.zeros((m, layout.slots)))
        coef = layout.to_slots(self.coef)
        for block in self.blocks(parts, Tally()):
            probe_block(
                block.rows,
                conditioning,
                combinations,
                coef,
                probe.squares,
                probe.products,
                probe.extent,
                scratch,
            )
        return probe
