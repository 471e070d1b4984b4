"""The loss of a design as a function of its coefficients: one pass over the parts an evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design, Encoder, Tally
from streamlr.kernels.block import Scratch, probe_block, score_block
from streamlr.kernels.tile import Block
from streamlr.newton import Box, Evaluation, Metric
from streamlr.passes.cache import BlockCache, Kept
from streamlr.passes.cells import Keying, parts_of_cells
from streamlr.passes.leaves import Task
from streamlr.passes.sums import Sums, scratch_for

Floats = NDArray[np.float64]
Result = TypeVar("Result")

# The null model takes whole Newton steps, which only far from its minimum could overshoot.
LONGEST_NULL_STEP = 4.0

# Share of a column's information that is added to it where only a rough decrement is wanted.
MADE_UP = 1e-8

# Runs a task over all parts that it was made for and merges the results.
Runner = Callable[[Task[Result], Callable[[Result, Result], Result]], Result]


def blocks_of(
    design: Design, part: Any, tally: Tally, cache: BlockCache | None, keep: bool = True
) -> Iterator[Block]:
    """The encoded blocks of a part, from the cache where they were kept; rows are counted in `tally`.

    `keep`: put them there where they were not.

    A block may be dropped by the consumer before it asks for the next one, and should be: it then leaves room
    for the rows that are decoded next.
    """
    kept = cache.get(part) if cache is not None else None
    if kept is not None:
        tally.merge(kept.tally)
        yield from kept.blocks
        return
    own = Tally()
    encoder = Encoder(design)
    keeping = cache.begin(part) if cache is not None and keep else None
    for batch in part.read(design.columns, design.coded_columns, design.batch_rows):
        block = encoder.encode(batch, own)
        del batch
        if keeping is not None:
            block = keeping.add(block)
        yield block
        del block
    tally.merge(own)
    if keeping is not None:
        keeping.finish(own)


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
            yield from blocks_of(self.design, part, tally, self.cache, self.keep)

    @property
    def keep(self) -> bool:
        """Whether blocks are worth keeping for later passes."""
        return True


@dataclass(frozen=True)
class HeadsTask(DesignTask):
    """The first `rows` rows of every block, one column after another: lists of arrays (rows,)."""

    rows: int

    def __call__(self, parts: Sequence[Any]) -> list[list[NDArray[Any]]]:
        """The columns of one leaf."""
        heads: list[list[NDArray[Any]]] = [[] for _ in self.design.numbers]
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
    """Loss, gradient and (where wanted) Hessian at `coef` (k,)."""

    coef: Floats
    null_coef: float
    first: bool
    with_hessian: bool = True
    keying: Keying | None = None

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return self.design.layout.cells

    @property
    def keep(self) -> bool:
        """Not while rows are gathered: copying them took as long as it did to gather them."""
        return self.keying is None

    def __call__(self, parts: Sequence[Any]) -> Sums:
        """The sums of one leaf."""
        layout = self.design.layout
        sums = Sums(layout, self.first, self.with_hessian)
        scratch = scratch_for(layout)
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


@dataclass
class Margins:
    """Rows of positive weight by where they lie along a direction; one `wrong` row disproves separation."""

    separated: int = 0
    overlapping: int = 0
    wrong: int = 0

    def merge(self, other: Margins) -> Margins:
        """Add another part's."""
        self.separated += other.separated
        self.overlapping += other.overlapping
        self.wrong += other.wrong
        return self


@dataclass(frozen=True)
class MarginsTask(DesignTask):
    """Counts rows whose outcomes lie more than `threshold` along `direction` (k,), or against it."""

    direction: Floats
    threshold: float

    def __call__(self, parts: Sequence[Any]) -> Margins:
        """The counts of one leaf."""
        layout = self.design.layout
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        coef = layout.to_slots(self.direction)
        margins = Margins()
        for block in self.blocks(parts, Tally()):
            n = block.success.size
            eta, probability = np.empty(n), np.empty(n)
            plain = replace(block, offset=np.empty(0))
            score_block(plain.rows, conditioning, coef, scratch, eta, probability)
            failures = (block.trials if block.trials.size else 1.0) - block.success
            counts = block.weight > 0 if block.weight.size else np.ones(n, dtype=np.bool_)
            along, against = eta > self.threshold, eta < -self.threshold
            wrong = counts & ((along & (failures > 0)) | (against & (block.success > 0)))
            right = counts & ~wrong & (along | against)
            separated, disproved = int(np.count_nonzero(right)), int(np.count_nonzero(wrong))
            overlapping = int(np.count_nonzero(counts)) - separated - disproved
            margins.merge(Margins(separated, overlapping, disproved))
        return margins


@dataclass(frozen=True)
class Gathering:
    """How rows that repeat are told apart, and what runs a task over the parts that cells make."""

    keying: Keying
    run: Callable[[Sequence[Any], Task[Any], Callable[[Any, Any], Any]], Any]


class Objective:
    """Loss, gradient and Hessian in the active columns of a basis; remembers what the first pass found."""

    def __init__(
        self,
        design: Design,
        basis: Basis,
        runner: Runner[Any],
        cache: BlockCache | None,
        null_coef: float = 0.0,
        gathering: Gathering | None = None,
    ) -> None:
        """`gathering`: how rows that repeat are gathered in the first pass, None where they are not."""
        self.design = design
        self.basis = basis
        self.null_coef = null_coef
        self.reduced_extent: dict[int, float] = {}
        self.null_loss = 0.0
        self.null_decrement = 0.0
        self.first: Sums | None = None
        self.last: Sums | None = None
        self.evaluations = 0
        self.costs_nothing = False  # an evaluation reads no data, because rows were gathered to cells
        # Where sums are taken over, and where the rows themselves are.
        self._runner, self._cache = runner, cache
        self._row_runner, self._row_cache = runner, cache
        self._gathering = gathering

    def __call__(self, coef: Floats, with_hessian: bool = True) -> Evaluation:
        """Evaluate at `coef`, one number an active column; the Hessian is zero where it is not wanted."""
        gathering = self._gathering if self.first is None else None
        task = SumsTask(
            self.design,
            self.basis,
            self._cache,
            self.expand(coef),
            self.null_coef,
            self.first is None,
            with_hessian,
            gathering.keying if gathering is not None else None,
        )
        sums: Sums = self._runner(task, Sums.merge)
        self._note(sums, gathering)
        return self._evaluation(sums, with_hessian)

    def best_of(self, starts: Sequence[Floats]) -> tuple[Floats, Evaluation]:
        """The better of one or two points (active,), and the evaluation there, in one pass.

        The first has to have the lower loss and less than a quarter of the Newton decrement: near a minimum
        that is the distance to it.
        """
        if len(starts) == 1:
            return starts[0], self(starts[0])
        one, other = starts
        task = RivalsTask(
            self.design,
            self.basis,
            self._cache,
            self.expand(one),
            self.null_coef,
            first=True,
            keying=self._gathering.keying if self._gathering is not None else None,
            rival=self.expand(other),
        )
        both: Rivals = self._runner(task, Rivals.merge)
        self._note(both.sums, self._gathering)
        found, rival = (self._evaluation(sums, True) for sums in (both.sums, both.rival))
        if found.loss < rival.loss and 4.0 * rough_decrement(found) < rough_decrement(rival):
            return one, found
        self.last = both.rival
        return other, rival

    def _note(self, sums: Sums, gathering: Gathering | None) -> None:
        """Remember what a pass has found; the first one told ranges and cells as well."""
        self.evaluations += 1
        if self.first is None:
            self.first = sums
            if gathering is not None:
                self._take_cells(gathering, sums)
        self.last = sums
        self._step_null(sums)

    def _evaluation(self, sums: Sums, with_hessian: bool) -> Evaluation:
        active = np.flatnonzero(self.basis.active)
        hessian = sums.hessian() if with_hessian else np.zeros((0, 0))
        if with_hessian and len(active) < len(hessian):
            hessian = hessian[np.ix_(active, active)]
        return Evaluation(
            loss=sums.loss,
            gradient=sums.gradient()[active],
            hessian=hessian,
            box=self.box(),
            least_curvature=sums.least_curvature,
        )

    def probe(self, coef: Floats, combinations: Floats) -> tuple[Floats, Floats, Floats]:
        """Extents (m,), curvature-weighted squares (m,) and products with every column (m, k)."""
        task = ProbeTask(self.design, self.basis, self._cache, self.expand(coef), combinations)
        probe: Probe = self._runner(task, Probe.merge)
        return probe.extent, probe.squares, probe.products[:, self.design.layout.slot_of_column]

    def margins(self, direction: Floats, threshold: float) -> Margins:
        """Rows separated by `direction` (active,) and rows that are not."""
        task = MarginsTask(self.design, self.basis, self._row_cache, self.expand(direction), threshold)
        margins: Margins = self._row_runner(task, Margins.merge)
        return margins

    def with_basis(self, basis: Basis, reduced_extent: Mapping[int, float]) -> Objective:
        """The same loss in another basis; `reduced_extent`: largest values of its reduced columns."""
        other = copy.copy(self)
        other.basis = basis
        other.reduced_extent = dict(reduced_extent)
        return other

    def expand(self, coef: Floats) -> Floats:
        """(active,) coefficients as (k,), zero where there is no estimate."""
        whole = np.zeros(self.design.layout.columns)
        whole[self.basis.active] = coef
        return whole

    def extent(self) -> Floats:
        """(k,) largest absolute value of every basis column over the rows used; 1 for a factor's."""
        assert self.first is not None, "ranges are known after the first pass"
        basis = self.basis
        if self.first.tally.rows_used == 0:
            return np.zeros(self.design.layout.columns)
        low = (self.first.low - basis.centre) * basis.scale
        high = (self.first.high - basis.centre) * basis.scale
        extent = np.ones(self.design.layout.columns)
        extent[basis.numeric_columns] = np.maximum(np.abs(low), np.abs(high))
        for column, largest in self.reduced_extent.items():
            extent[column] = largest
        return extent

    def box(self) -> Box:
        """Where the rows lie, in the active columns."""
        active = self.basis.active
        return Box(self.extent()[active], self.design.layout.group_of_column[active])

    def _take_cells(self, gathering: Gathering, sums: Sums) -> None:
        """From now on sum over the cells of the first pass, where there are few and they tell every row."""
        keying, found = gathering.keying, sums.cells.found
        if found is None or not keying.holds(sums.low, sums.high):
            return
        parts = parts_of_cells(keying, found)
        self._cache = BlockCache(0, 0)
        for part in parts:
            self._cache.store(part, Kept([part.block], Tally()))
        self._runner = partial(gathering.run, parts)
        self.costs_nothing = True

    def _step_null(self, sums: Sums) -> None:
        """One Newton step of the null model, which shares the passes of the fit."""
        if self.design.offset is not None:
            _, slope, curvature = sums.null
            self.null_decrement = abs(slope) / np.sqrt(curvature) if curvature > 0 else 0.0
            self.null_loss = sums.null[0]
            if curvature > 0:
                self.null_coef -= float(np.clip(slope / curvature, -LONGEST_NULL_STEP, LONGEST_NULL_STEP))


def rough_decrement(evaluation: Evaluation) -> float:
    """The Newton decrement, also where columns are aliased: their share of the information is made up."""
    hessian = evaluation.hessian + np.diag(MADE_UP * np.diagonal(evaluation.hessian))
    return Metric(hessian).solve(evaluation.gradient)[1]
