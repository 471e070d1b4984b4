"""The pass behind score tests: sums of candidate terms with the residuals and with the model's columns.

A candidate of numbers needs three sums and its products with the columns of the model; one with factors needs
as much for every cell of levels, which are learned as rows come and merged by name. Rows in which a candidate
is missing are not its rows: for such a candidate the sums of the model's own columns over the rows that it
lacks are kept as well, to be taken off those of all rows.

Numbers are centred at their mean in the first rows of a leaf, and two leaves are merged by moving one to the
centre of the other (Chan, Golub and LeVeque 1983, The American Statistician 37, 242-247), so that a column
with mean 1e9 and standard deviation 1 keeps its digits and nothing needs to be known of it beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.columns import Level, Recoder
from streamlr.design.design import BATCH_BYTES, MOST_BATCH_ROWS
from streamlr.design.encoding import ALL, Encoder, Tally
from streamlr.design.features import Feature, Gaps, Reader, text_columns
from streamlr.design.layout import Layout
from streamlr.design.terms import MISSING
from streamlr.design.values import Frame
from streamlr.errors import StreamlrError
from streamlr.kernels.block import Scratch
from streamlr.kernels.scores import add_cluster_scores, add_row_products, add_row_sums, fitted_rows
from streamlr.kernels.screening import BLOCK, SCORE, SQUARES, SUMS, WEIGHTED, add_candidates
from streamlr.kernels.tile import KIND_OF_TYPE, Block, Conditioning
from streamlr.passes.memory import format_size
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import DesignTask, check_finite

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Cell = tuple[Level, ...]

# Candidates that share a filled tile of the design: their own tile takes 256 KB.
GROUP = 32
NOTHING = np.empty(0)


@dataclass(frozen=True)
class Candidate:
    """A term to be tested: the product of some numbers, in the cells of some factors.

    `shifts`: what is taken off each number before they are multiplied.
    """

    name: str
    numbers: tuple[Feature, ...]
    factors: tuple[Feature, ...]
    shifts: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        found = [name for feature in (*self.numbers, *self.factors) for name in feature.columns]
        return tuple(dict.fromkeys(found))

    @property
    def is_column(self) -> bool:
        """Whether it is one number as it stands in the data."""
        return len(self.numbers) == 1 and not self.factors and not self.shifts[0]


@dataclass
class Nuisance:
    """What the model's own columns x sum up to over some rows, with score r and curvature c.

    `sums` holds the sum of c x x' in the tables of its Hessian and minus the sum of r x as gradient.
    """

    sums: Sums
    weighted: Floats  # (slots,) sum of c x
    curvature: float = 0.0  # sum of c
    score: float = 0.0  # sum of r
    rows: int = 0

    @classmethod
    def empty(cls, layout: Layout) -> Nuisance:
        """Of no rows."""
        return cls(Sums(layout, first=False), np.zeros(layout.slots))

    def add(
        self, block: Block, conditioning: Conditioning, slope: Floats, curvature: Floats, scratch: Scratch
    ) -> None:
        """Add the rows of a block, with their slopes, which are minus the scores, and curvatures, (n,)."""
        rows = block.rows
        add_row_products(rows, conditioning, curvature, self.sums.totals, scratch)
        add_row_sums(rows, conditioning, slope, self.sums.totals.gradient, scratch)
        add_row_sums(rows, conditioning, curvature, self.weighted, scratch)
        self.curvature += float(curvature.sum())
        self.score -= float(slope.sum())
        self.rows += len(slope)

    def merge(self, other: Nuisance) -> Nuisance:
        """Add other rows."""
        self.sums.merge(other.sums)
        self.weighted += other.weighted
        self.curvature += other.curvature
        self.score += other.score
        self.rows += other.rows
        return self

    def without(self, other: Nuisance | None) -> Nuisance:
        """All of these rows but some of them."""
        if other is None:
            return self
        rest = Nuisance.empty(self.sums.layout)
        for name in ("gradient", "gram", "diagonal", "cross", "pairs"):
            total: Floats = getattr(rest.sums.totals, name)
            np.subtract(getattr(self.sums.totals, name), getattr(other.sums.totals, name), out=total)
        rest.weighted = self.weighted - other.weighted
        rest.curvature = self.curvature - other.curvature
        rest.score = self.score - other.score
        rest.rows = self.rows - other.rows
        return rest


@dataclass
class NumberSums:
    """The sums of m candidates of numbers, z = value - centre, with score r and curvature c of the rows."""

    centre: Floats  # (m,) NaN before a value has come
    sums: Floats  # (m, SUMS) of r z, c z and c z z
    products: Floats  # (m, slots) of c z x
    infinite: NDArray[np.int64]  # (m,) rows with an infinite value, which count as zero

    @classmethod
    def empty(cls, number: int, slots: int) -> NumberSums:
        """Of no rows."""
        return cls(
            np.full(number, np.nan),
            np.zeros((number, SUMS)),
            np.zeros((number, slots)),
            np.zeros(number, dtype=np.int64),
        )

    def moved(self, place: int, centre: float, rows: Nuisance) -> tuple[Floats, Floats]:
        """(SUMS,) sums and (slots,) products of one candidate around another centre; `rows`: its rows."""
        # What z is more by.
        more = self.centre[place] - centre
        sums = self.sums[place].copy()
        sums[SQUARES] += more * (2.0 * sums[WEIGHTED] + more * rows.curvature)
        sums[WEIGHTED] += more * rows.curvature
        sums[SCORE] += more * rows.score
        return sums, self.products[place] + more * rows.weighted

    def merge(self, other: NumberSums, rows: Screened) -> None:
        """Add another leaf's, moved to our centres; `rows`: the leaf."""
        curvature = np.full(len(self.centre), rows.nuisance.curvature)
        score = np.full(len(self.centre), rows.nuisance.score)
        self.centre = np.where(np.isnan(self.centre), other.centre, self.centre)
        more = np.nan_to_num(other.centre - self.centre)  # NaN: no value has come
        self.products += other.products
        self.products += more[:, np.newaxis] * rows.nuisance.weighted
        for place, missing in rows.absent.items():
            if place < len(more):
                curvature[place] -= missing.curvature
                score[place] -= missing.score
                self.products[place] -= more[place] * missing.weighted
        self.sums += other.sums
        self.sums[:, SQUARES] += more * (2.0 * other.sums[:, WEIGHTED] + more * curvature)
        self.sums[:, WEIGHTED] += more * curvature
        self.sums[:, SCORE] += more * score
        self.infinite += other.infinite

    def add(
        self,
        values: Sequence[NDArray[Any]],
        block: Block,
        conditioning: Conditioning,
        slope: Floats,
        curvature: Floats,
        scratch: Scratch,
    ) -> None:
        """Add the values of every candidate in the rows of a block, a column each."""
        tile = np.zeros((GROUP, scratch.tile.shape[1]))
        for first in range(0, len(values), GROUP):
            last = min(first + GROUP, len(values))
            number = last - first
            products = np.zeros((-(-number // BLOCK) * BLOCK, self.products.shape[1]))
            own = Conditioning(
                intercept=0,
                centre=np.nan_to_num(self.centre[first:last]),
                scale=np.ones(number),
                dense=number,
                scales=number,
                plain=0,
                starts=np.empty(0, dtype=np.int64),
                reduced=np.empty(0, dtype=np.int64),
                gamma=np.empty((0, 0)),
                stretch=NOTHING,
            )
            columns = Block(
                values[first:last], np.empty((0, 0), np.int32), block.success, NOTHING, NOTHING, NOTHING
            )
            add_candidates(
                block.rows,
                conditioning,
                slope,
                curvature,
                columns.rows,
                own,
                self.sums[first:last],
                products,
                scratch,
                tile,
            )
            self.products[first:last] += products[:number]


@dataclass
class CellSums:
    """The sums of a candidate with factors by cell.

    `sums` (m, 2): of r z and of c z z; `products` (m, slots): of c z x. Above `limit` cells there is nothing
    in it.
    """

    sums: Floats
    products: Floats
    limit: int
    places: dict[Cell, int] = field(default_factory=dict)
    infinite: int = 0
    too_many: bool = False

    def add(
        self,
        cells: Sequence[Cell],
        codes: NDArray[np.int64],
        value: Floats | None,
        block: Block,
        conditioning: Conditioning,
        slope: Floats,
        curvature: Floats,
        scratch: Scratch,
    ) -> None:
        """Add rows in `cells` by `codes` (n,), -1 for rows that do not count, with `value` (n,) in them."""
        places = self._places_of(cells)
        if self.too_many:
            return
        m = len(self.places)
        own = np.append(places, m)[codes]  # what does not count stands behind
        score = -slope if value is None else -slope * value
        weighed = curvature if value is None else curvature * value
        squares = weighed if value is None else weighed * value
        self.sums += np.column_stack([np.bincount(own, each, m + 1)[:m] for each in (score, squares)])
        products = np.zeros((m + 1, self.products.shape[1]))
        add_cluster_scores(block.rows, conditioning, weighed, own, products, scratch)
        self.products += products[:m]

    def merge(self, other: CellSums) -> CellSums:
        """Add another leaf's."""
        self.infinite += other.infinite
        if other.too_many:
            self.give_up()
        places = self._places_of(list(other.places))
        if not self.too_many:
            self.sums[places] += other.sums
            self.products[places] += other.products
        return self

    def _places_of(self, cells: Sequence[Cell]) -> NDArray[np.int64]:
        """(cells,) where they stand; room is made for new ones."""
        if self.too_many:
            return np.empty(0, dtype=np.int64)
        places = np.array([self.places.setdefault(cell, len(self.places)) for cell in cells], dtype=np.int64)
        more = len(self.places) - len(self.sums)
        if len(self.places) > self.limit:
            self.give_up()
        elif more:
            self.sums = np.vstack([self.sums, np.zeros((more, 2))])
            self.products = np.vstack([self.products, np.zeros((more, self.products.shape[1]))])
        return places

    def give_up(self) -> None:
        """Forget the cells, of which there are too many."""
        self.too_many = True
        self.places = {}
        self.sums, self.products = self.sums[:0], self.products[:0]


@dataclass
class Screened:
    """Everything that the score tests need of some rows; `absent` by candidate, where rows lack it.

    `held`: numbers in the cells of factors and for candidates that lack rows, `most_held` at most.
    """

    nuisance: Nuisance
    numbers: NumberSums
    cells: list[CellSums]
    absent: dict[int, Nuisance]
    most_held: int
    tally: Tally = field(default_factory=Tally)
    held: int = 0

    def merge(self, other: Screened) -> Screened:
        """Add another leaf's rows."""
        self.numbers.merge(other.numbers, other)
        for own, more in zip(self.cells, other.cells, strict=True):
            own.merge(more)
        for place, missing in other.absent.items():
            if place in self.absent:
                self.absent[place].merge(missing)
            else:
                self.absent[place] = missing
        self.nuisance.merge(other.nuisance)
        self.tally.merge(other.tally)
        layout = self.nuisance.sums.layout
        self.hold(self._cells() * layout.slots + len(self.absent) * self.of_absent - self.held)
        return self

    @property
    def of_absent(self) -> int:
        """Numbers held for a candidate that lacks rows: a block's, and those of all blocks."""
        return 2 * self.nuisance.sums.layout.cells

    def hold(self, more: int) -> None:
        """Note that so many more numbers are held. Raises `StreamlrError` where there is no room for them."""
        self.held += more
        if self.held > self.most_held:
            of_cell = 8 * self.nuisance.sums.layout.slots
            raise StreamlrError(
                f"the candidates need more than the {format_size(8 * self.most_held)} that a thread has room "
                f"for: {self._cells():,} levels, or cells of levels, of {format_size(of_cell)} each and "
                f"{len(self.absent):,} candidates with missing values, of {format_size(8 * self.of_absent)} "
                "each for the model's information over the rows that lack them. Screen fewer at once, set "
                "max_levels lower, or use fewer threads."
            )

    def _cells(self) -> int:
        return sum(len(own.sums) for own in self.cells)


@dataclass(frozen=True)
class ScreeningTask(DesignTask):
    """Sums of candidates at `coef` (k,), the model's maximum.

    `candidates`: those of numbers alone first. `most_levels`: cells of a candidate beyond which it is given
    up. `most_held`: numbers for all cells and all candidates that lack rows.
    """

    coef: Floats
    candidates: tuple[Candidate, ...]
    most_levels: int
    most_held: int

    @property
    def numeric(self) -> int:
        """Number of candidates of numbers alone."""
        return sum(not candidate.factors for candidate in self.candidates)

    @property
    def own_columns(self) -> tuple[str, ...]:
        """Columns of the candidates."""
        return tuple(dict.fromkeys(name for each in self.candidates for name in each.columns))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return tuple(dict.fromkeys((*self.design.columns, *self.own_columns)))

    @property
    def coded(self) -> tuple[str, ...]:
        """Columns best read as dictionary codes."""
        factors = [feature for candidate in self.candidates for feature in candidate.factors]
        numbers = {name for each in self.candidates for feature in each.numbers for name in feature.columns}
        own = [name for name in text_columns(factors) if name not in numbers]
        return tuple(dict.fromkeys((*self.design.coded_columns, *own)))

    @property
    def batch_rows(self) -> int:
        """Rows of a batch, with the candidates beside the design."""
        width = self.design.row_bytes + 8 * len(self.candidates)
        return int(np.clip(BATCH_BYTES // width // 1024 * 1024, 1024, MOST_BATCH_ROWS))

    @property
    def cells(self) -> int:
        """Size of the result, in numbers."""
        layout = self.design.layout
        return layout.cells + len(self.candidates) * layout.slots

    def __call__(self, parts: Sequence[Any]) -> Screened:
        """The sums of one leaf."""
        slots = self.design.layout.slots
        numeric = self.numeric
        found = Screened(
            Nuisance.empty(self.design.layout),
            NumberSums.empty(numeric, slots),
            [
                CellSums(np.zeros((0, 2)), np.zeros((0, slots)), self.most_levels)
                for _ in self.candidates[numeric:]
            ],
            {},
            self.most_held,
        )
        worker = _Worker(self, found)
        for part in parts:
            encoder = Encoder(self.design)
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                block, keep = encoder.encode_used(batch, found.tally)
                if block.success.size:
                    worker.add(block, self.design.reader.frame(batch), keep)
                del batch, block
        return found


class _Worker:
    """Adds blocks to the sums of one leaf."""

    def __init__(self, task: ScreeningTask, found: Screened) -> None:
        self._task, self._found = task, found
        layout = task.design.layout
        self._scratch = scratch_for(layout)
        self._conditioning = task.basis.conditioning()
        self._coef = layout.to_slots(task.coef)
        self._levels = [
            [_Levels() for _ in candidate.factors] for candidate in task.candidates[task.numeric :]
        ]

    def add(self, block: Block, frame: Frame, keep: Any) -> None:
        """Add the rows of a block, which are the rows `keep` of the frame."""
        task, found = self._task, self._found
        slope, curvature = self._slopes(block)
        found.nuisance.add(block, self._conditioning, slope, curvature, self._scratch)
        gaps: dict[bytes, Nuisance] = {}
        values = []
        for place, candidate in enumerate(task.candidates[: task.numeric]):
            column, missing, infinite = numbers_of(candidate, task.design.reader, frame, keep)
            found.numbers.infinite[place] += infinite
            centre = self._centre(place, column, missing)
            if missing is not None:
                column = np.where(missing, centre, column.astype(np.float64))
                self._lack(place, missing, block, slope, curvature, gaps)
            values.append(np.ascontiguousarray(column))
        if values:
            found.numbers.add(values, block, self._conditioning, slope, curvature, self._scratch)
        for place, candidate in enumerate(task.candidates[task.numeric :]):
            own = found.cells[place]
            if own.too_many:
                continue
            self._add_cells(place, candidate, own, block, frame, keep, slope, curvature, gaps)

    def _slopes(self, block: Block) -> tuple[Floats, Floats]:
        """(n,) slope and curvature of the loss of every row."""
        n = block.success.size
        eta, p, q = np.empty(n), np.empty(n), np.empty(n)
        fitted_rows(block.rows, self._conditioning, self._coef, self._scratch, eta, p, q)
        check_finite(eta)
        success = block.success.astype(np.float64)
        trials = block.trials if block.trials.size else np.ones(n)
        slope = (trials - success) * p - success * q
        curvature = trials * (p * q)
        if block.weight.size:
            slope *= block.weight
            curvature *= block.weight
        return slope, curvature

    def _centre(self, place: int, values: NDArray[Any], missing: Mask | None) -> float:
        """The centre of a candidate in this leaf, the mean of its first rows."""
        centres = self._found.numbers.centre
        if np.isnan(centres[place]):
            there = values if missing is None else values[~missing]
            if there.size:
                with np.errstate(over="ignore"):
                    mean = float(there.mean(dtype=np.float64))
                centres[place] = mean if np.isfinite(mean) else 0.0
        return float(np.nan_to_num(centres[place]))

    def _lack(
        self,
        place: int,
        missing: Mask,
        block: Block,
        slope: Floats,
        curvature: Floats,
        gaps: dict[bytes, Nuisance],
    ) -> None:
        """Note the rows in which a candidate is missing; candidates that lack the same share the work."""
        key = np.packbits(missing).tobytes()
        if key not in gaps:
            gaps[key] = Nuisance.empty(self._task.design.layout)
            gaps[key].add(
                block.taken(missing),
                self._conditioning,
                slope[missing],
                curvature[missing],
                self._scratch,
            )
        absent = self._found.absent
        if place not in absent:
            absent[place] = Nuisance.empty(self._task.design.layout)
            self._found.hold(self._found.of_absent)
        absent[place].merge(gaps[key])

    def _add_cells(
        self,
        place: int,
        candidate: Candidate,
        own: CellSums,
        block: Block,
        frame: Frame,
        keep: Any,
        slope: Floats,
        curvature: Floats,
        gaps: dict[bytes, Nuisance],
    ) -> None:
        """Add the rows of a candidate with factors."""
        reader = self._task.design.reader
        missing: Mask | None = None
        value = None
        if candidate.numbers:
            column, missing, infinite = numbers_of(candidate, reader, frame, keep)
            own.infinite += infinite
            value = column.astype(np.float64)
        rows = block.success.size
        cell = np.zeros(rows, dtype=np.int64)
        radix = []
        for levels, feature in zip(self._levels[place], candidate.factors, strict=True):
            codes = levels.codes(reader.levels(feature, frame))[keep]
            gone = codes < 0
            if gone.any():
                missing = gone if missing is None else missing | gone
            cell = cell * len(levels) + np.maximum(codes, 0)
            radix.append(levels)
        if missing is not None and missing.any():
            self._lack(self._task.numeric + place, missing, block, slope, curvature, gaps)
            cell[missing] = -1
            if value is not None:
                value[missing] = 0.0
        used, inverse = np.unique(cell, return_inverse=True)
        inverse = inverse.reshape(-1).astype(np.int64)
        if used.size and used[0] < 0:
            used, inverse = used[1:], inverse - 1
        before = len(own.sums)
        if used.size > own.limit:
            own.give_up()
        else:
            cells = [_cell_of(int(number), radix) for number in used]
            own.add(cells, inverse, value, block, self._conditioning, slope, curvature, self._scratch)
        self._found.hold((len(own.sums) - before) * self._task.design.layout.slots)


class _Levels:
    """The levels of a factor as a leaf meets them."""

    def __init__(self) -> None:
        self._places: dict[Level, int] = {}
        self.names: list[Level] = []
        self._recoder = Recoder(self._code, MISSING)

    def __len__(self) -> int:
        return max(len(self.names), 1)

    def _code(self, level: Level) -> int:
        place = self._places.setdefault(level, len(self.names))
        if place == len(self.names):
            self.names.append(level)
        return place

    def codes(self, array: Any) -> NDArray[np.int32]:
        """(n,) the code of every row, negative where it has none."""
        out = np.empty(len(array), dtype=np.int32)
        self._recoder.codes(array, out)
        return out


def _cell_of(number: int, radix: Sequence[_Levels]) -> Cell:
    """The levels that a cell's number stands for, the last factor's the fastest."""
    found = []
    for levels in reversed(radix):
        number, place = divmod(number, len(levels))
        found.append(levels.names[place])
    return tuple(reversed(found))


def numbers_of(
    candidate: Candidate, reader: Reader, frame: Frame, keep: Any
) -> tuple[NDArray[Any], Mask | None, int]:
    """The product of a candidate's numbers in the rows `keep`, (n,), where it is missing (None: nowhere), and
    how many values are infinite, which become zero.

    One number as it stands in the data is not copied where all rows are kept.
    """
    gaps: Gaps = {}
    product: NDArray[Any] | None = None
    for feature, shift in zip(candidate.numbers, candidate.shifts, strict=True):
        (values,) = reader.numeric(feature, frame, gaps)
        if not candidate.is_column:
            values = values.astype(np.float64) - shift
        with np.errstate(over="ignore", invalid="ignore"):
            product = values if product is None else product * values
    assert product is not None
    if product.dtype not in KIND_OF_TYPE:
        product = product.astype(np.float64)
    missing: Mask | None = None
    for mask in gaps.values():
        missing = mask if missing is None else missing | mask
    if keep is not ALL:
        product = product[keep]
        missing = None if missing is None else missing[keep]
    if missing is not None and not missing.any():
        missing = None
    if product.dtype.kind != "f" or _is_finite(product):
        return product, missing, 0
    finite = np.isfinite(product)
    infinite = ~finite if missing is None else ~finite & ~missing
    return np.where(finite, product, 0.0), missing, int(np.count_nonzero(infinite))


def _is_finite(values: NDArray[Any]) -> bool:
    """Whether all values surely are: one product tells without an array of their own."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.dot(values, values)))
