"""Sums of marginal effects over the rows that a fit uses, with what moves them: one pass, every effect.

A batch is encoded as it is, to find the rows that count and their weights. Then its columns are replaced by
constants where effects are wanted at given values. For a slope the terms of each variable made of the column
are encoded once more with that variable read as its derivative; for a level the terms that read the column,
with the column at that level in every row. Only sums of predictions and slopes are kept, each with its
derivative in the coefficients: numbers of effects and coefficients, never of rows.

With p = 1 / (1 + exp(-x'b)), q = 1 - p and x' the derivative of the design row,

    slope       sum w p q x'b          its derivative in b    sum w [p q (q - p) (x'b) x + p q x']
    prediction  sum w p                                       sum w p q x

(Greene 2018, Econometric Analysis, 8th ed., section 17.3.2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Level, arrow_of, numbers, texts_of
from streamlr.design.cuts import Sides
from streamlr.design.derivatives import SlopeReader, is_smooth_in
from streamlr.design.design import Design
from streamlr.design.encoding import ALL, Encoder, Tally
from streamlr.design.expressions import Column
from streamlr.design.features import Reader, picked
from streamlr.design.terms import Coded, Dense, Number
from streamlr.errors import StreamlrError
from streamlr.kernels.block import Scratch
from streamlr.kernels.scores import add_row_sums, fitted_rows
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.sums import scratch_for
from streamlr.passes.tasks import DesignTask

Floats = NDArray[np.float64]
NOTHING = np.empty(0)


@dataclass(frozen=True)
class Setting:
    """A column with one value in every row; None: missing in every row."""

    column: str
    value: Level | None
    kind: str  # "number", "text" or "logical"

    def array(self, rows: int) -> pa.Array:
        """The column (rows,)."""
        types = {"number": pa.float64(), "text": pa.string(), "logical": pa.bool_()}
        if self.value is None:
            return pa.nulls(rows, types[self.kind])
        if isinstance(self.value, str):
            return pa.DictionaryArray.from_arrays(
                arrow_of(np.zeros(rows, dtype=np.int32)), texts_of([self.value])
            )
        return arrow_of(np.full(rows, self.value))


@dataclass
class EffectSums:
    """Weighted sums of m quantities, first slopes and then predictions, over the rows used.

    `values` (m,), `gradients` (m, slots) their derivatives in the basis; `lost` (m,) rows in which the
    quantity does not exist, as a logarithm of what is not positive, levels that have never met, or what takes
    a row out of the plane of a cut.
    """

    values: Floats
    gradients: Floats
    lost: NDArray[np.int64]
    weight: float = 0.0
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def zeros(cls, quantities: int, slots: int) -> EffectSums:
        """Before any row."""
        return cls(np.zeros(quantities), np.zeros((quantities, slots)), np.zeros(quantities, dtype=np.int64))

    def merge(self, other: EffectSums) -> EffectSums:
        """Add another leaf's."""
        self.values += other.values
        self.gradients += other.gradients
        self.lost += other.lost
        self.weight += other.weight
        self.tally.merge(other.tally)
        return self


@dataclass(frozen=True)
class UsedRowsTask(DesignTask):
    """Works on the batches themselves, cut down to the rows that a fit uses."""

    def used(self, parts: Sequence[Any], tally: Tally) -> Iterator[tuple[pa.RecordBatch, Block, Floats]]:
        """Batches of used rows, each with its block and its weights (n,); rows are counted in `tally`.

        Rows of weight zero are counted and then left out: what does not exist in them has no say. Raises
        `StreamlrError` for a weight that is negative or infinite.
        """
        where = self.design.reader.where
        for part in parts:
            encoder = Encoder(self.design)
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                block, keep = encoder.encode_used(batch, tally)
                weight = block.weight if block.weight.size else np.ones(block.success.size)
                if not (np.isfinite(weight) & (weight >= 0.0)).all():
                    raise StreamlrError(
                        f"the weight '{self.design.weights}' is negative or infinite in a row."
                    )
                if where is not None and not (chosen := where.mask(batch)).all():
                    batch = picked(batch, chosen)
                if keep is not ALL:
                    batch = picked(batch, keep)
                if not (positive := weight > 0.0).all():
                    batch, block, weight = (
                        picked(batch, positive),
                        block.taken(positive),
                        weight[positive],
                    )
                if weight.size:
                    yield batch, block, weight

    @cached_property
    def scoring(self) -> Design:
        """The design for rows that are chosen already."""
        return replace(self.design, reader=replace(self.design.reader, where=None))


@dataclass
class Averages:
    """Weighted sums of columns (m,) and the weight of all rows used."""

    sums: Floats
    weight: float = 0.0

    def merge(self, other: Averages) -> Averages:
        """Add another leaf's."""
        self.sums += other.sums
        self.weight += other.weight
        return self


@dataclass(frozen=True)
class AveragesTask(UsedRowsTask):
    """Sums of numeric columns, `wanted`, over the rows used, with what stands in for gaps."""

    wanted: tuple[str, ...]

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return len(self.wanted)

    def __call__(self, parts: Sequence[Any]) -> Averages:
        """The sums of one leaf."""
        found = Averages(np.zeros(len(self.wanted)))
        for batch, _, weight in self.used(parts, Tally()):
            frame = self.scoring.reader.frame(batch)
            found.weight += float(weight.sum())
            for place, name in enumerate(self.wanted):
                found.sums[place] += float((weight * numbers(frame.array(name), name)).sum())
        return found


@dataclass(frozen=True)
class Share:
    """The terms of a design that have some of its variables in them, as a design of its own.

    `inputs` and `factors`: where its numeric columns and its codes stand in a block of the whole design.
    """

    design: Design
    inputs: tuple[int, ...]
    factors: tuple[int, ...]

    @classmethod
    def of(cls, whole: Design, variables: Collection[int], reader: Reader) -> Share:
        """The terms that have one of some variables, by their places, read by `reader`."""
        terms = [term for term in whole.terms if not set(variables).isdisjoint(term.variables)]
        own = sorted({place for term in terms for place in term.variables})
        moved = {place: new for new, place in enumerate(own)}
        met = {frozenset(term.variables) for term in terms}
        design = replace(
            whole,
            variables=tuple(whole.variables[place] for place in own),
            terms=tuple(replace(term, variables=tuple(moved[v] for v in term.variables)) for term in terms),
            offset=None,
            reader=reader,
            cuts=(),  # these tell on which side whole rows lie
        )
        return cls(
            design,
            tuple(place for place, piece in enumerate(whole.inputs) if _variables_of(piece) in met),
            tuple(place for place, piece in enumerate(whole.factors) if _variables_of(piece) in met),
        )

    def put(self, own: Block, base: Block) -> Block:
        """A block of the whole design with these terms as in `own`."""
        numeric, codes = list(base.numeric), base.codes.copy()
        for place, column in zip(self.inputs, own.numeric, strict=True):
            numeric[place] = column
        for place, row in zip(self.factors, own.codes, strict=True):
            codes[place] = row
        return replace(base, numeric=numeric, codes=codes)

    def alone(self, own: Block, base: Block, plain: int) -> Block:
        """A block in which nothing is but the numeric columns of these terms; `plain`: factors without a
        scale."""
        still = np.zeros(base.success.size, dtype=np.int8)
        codes = base.codes.copy()
        codes[:plain] = -1
        return self.put(own, replace(base, numeric=[still] * len(base.numeric), codes=codes, offset=NOTHING))


@dataclass(frozen=True)
class EffectsTask(UsedRowsTask):
    """Sums of slopes in some numeric columns, and of predictions with a column at given values.

    `coef` (k,) in the basis; `slopes` are columns; `settings` one prediction each; `fixed` are columns with
    one value for all of these, but for a setting of the same column.
    """

    coef: Floats
    slopes: tuple[str, ...]
    settings: tuple[Setting, ...]
    fixed: tuple[Setting, ...]

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return (len(self.slopes) + len(self.settings)) * self.design.layout.slots

    def __call__(self, parts: Sequence[Any]) -> EffectSums:
        """The sums of one leaf."""
        layout = self.design.layout
        sums = EffectSums.zeros(len(self.slopes) + len(self.settings), layout.slots)
        rows = _Adder(self.basis.conditioning(), layout.to_slots(self.coef), scratch_for(layout))
        whole = Encoder(self.scoring)
        movers = [[(share, Encoder(share.design)) for share in found] for found in self.moving]
        setters = {column: (share, Encoder(share.design)) for column, share in self.setting.items()}
        sides = Sides(layout, self.design.cuts)
        for batch, block, weight in self.used(parts, sums.tally):
            sums.weight += float(weight.sum())
            batch = _with(batch, self.fixed)
            base: Block | None = block
            if self.fixed or not _is_finite(block):
                base, kept, _ = whole.encode_features(batch)
                if not kept.all():
                    sums.lost[: len(self.slopes)] += int(np.count_nonzero(~kept))
                    base = None
            if base is not None and self.slopes:
                self._add_slopes(sums, batch, base, weight, movers, rows, sides)
            for place, setting in enumerate(self.settings, start=len(self.slopes)):
                share, encoder = setters[setting.column]
                if base is None:
                    altered, kept, _ = whole.encode_features(_with(batch, (setting,)))
                else:
                    altered, kept, _ = encoder.encode_features(_with(_read_by(share, batch), (setting,)))
                if not kept.all():
                    sums.lost[place] += int(np.count_nonzero(~kept))
                    continue
                if base is not None:
                    altered = share.put(altered, base)
                    if beyond := np.count_nonzero(sides.of(altered)):
                        sums.lost[place] += int(beyond)
                        continue
                p, q = rows.fitted(altered)
                sums.values[place] += float((weight * p).sum())
                rows.add(altered, weight * p * q, sums.gradients[place])
        return sums

    @cached_property
    def setting(self) -> dict[str, Share]:
        """For each column that is set what has to be encoded again."""
        return {
            column: Share.of(
                self.scoring,
                [at for at, v in enumerate(self.design.variables) if column in v.feature.columns],
                self.scoring.reader,
            )
            for column in dict.fromkeys(setting.column for setting in self.settings)
        }

    @cached_property
    def moving(self) -> list[list[Share]]:
        """For each slope the terms of every variable that changes with the column, with the derivative in
        place of that variable."""
        reader = self.scoring.reader
        found: list[list[Share]] = []
        for column in self.slopes:
            found.append([])
            for place, variable in enumerate(self.design.variables):
                if isinstance(variable, Number) and is_smooth_in(variable.feature.expression, column):
                    slope = SlopeReader(
                        None, reader.fills, reader.states, reader.kinds, of=variable.feature, column=column
                    )
                    found[-1].append(Share.of(self.scoring, [place], slope))
        return found

    @cached_property
    def straight(self) -> tuple[int, ...]:
        """Places of slopes in columns that stand as they are in one term alone, so that x'b is one number."""
        if self.design.cuts:
            return ()
        variables = self.design.variables
        found = []
        for place, column in enumerate(self.slopes):
            reading = [at for at, v in enumerate(variables) if column in v.feature.columns]
            terms = [term for term in self.design.terms if not set(reading).isdisjoint(term.variables)]
            if (
                len(reading) == len(terms) == len(terms[0].variables) == 1
                and isinstance(variables[reading[0]], Number)
                and variables[reading[0]].feature.expression == Column(column)
                and column not in self.scoring.reader.fills
            ):
                found.append(place)
        return tuple(found)

    def _add_slopes(
        self,
        sums: EffectSums,
        batch: pa.RecordBatch,
        base: Block,
        weight: Floats,
        movers: Sequence[Sequence[tuple[Share, Encoder]]],
        rows: _Adder,
        sides: Sides,
    ) -> None:
        """Add the slopes of all columns in the rows of `base`."""
        p, q = rows.fitted(base)
        density = weight * p * q
        derivatives = rows.of_derivatives()
        if self.straight:
            turning = np.zeros(sums.gradients.shape[1])
            rows.add(base, density * (q - p), turning)
            one = base.taken(np.arange(density.size) == 0)
            for place in self.straight:
                ((share, encoder),) = movers[place]
                own, _, _ = encoder.encode_features(_read_by(share, batch.slice(0, 1)))
                moved = share.alone(own, one, self.design.layout.plain)
                slope, unit = float(derivatives.linear(moved)[0]), np.zeros_like(turning)
                derivatives.add(moved, np.ones(1), unit)
                if self.design.intercept:
                    unit[0] = 0.0
                sums.values[place] += slope * density.sum()
                sums.gradients[place] += slope * turning + density.sum() * unit
        for place, found in enumerate(movers):
            if place in self.straight:
                continue
            eta_slope = np.zeros(p.size)
            gradient = np.zeros(sums.gradients.shape[1])
            for share, encoder in found:
                own, kept, _ = encoder.encode_features(_read_by(share, batch))
                if not kept.all():
                    sums.lost[place] += int(np.count_nonzero(~kept))
                    break
                moved = share.alone(own, base, self.design.layout.plain)
                if leaving := np.count_nonzero(sides.leaving(moved)):
                    sums.lost[place] += int(leaving)
                    break
                eta_slope += derivatives.linear(moved)
                derivatives.add(moved, density, gradient)
            else:
                if self.design.intercept:
                    gradient[0] = 0.0
                rows.add(base, density * (q - p) * eta_slope, gradient)
                sums.values[place] += float((density * eta_slope).sum())
                sums.gradients[place] += gradient


@dataclass(frozen=True)
class _Adder:
    """What kernels need to predict the rows of a block and to add them up."""

    conditioning: Conditioning
    coef: Floats  # (slots,)
    scratch: Scratch

    def fitted(self, block: Block) -> tuple[Floats, Floats]:
        """p and q of every row."""
        n = block.success.size
        p, q = np.empty(n), np.empty(n)
        fitted_rows(block.rows, self.conditioning, self.coef, self.scratch, np.empty(n), p, q)
        return p, q

    def linear(self, block: Block) -> Floats:
        """The linear predictor of every row."""
        n = block.success.size
        eta = np.empty(n)
        fitted_rows(block.rows, self.conditioning, self.coef, self.scratch, eta, np.empty(n), np.empty(n))
        return eta

    def add(self, block: Block, slope: Floats, gradient: Floats) -> None:
        """gradient (slots,) += sum of slope_i x_i"""
        add_row_sums(block.rows, self.conditioning, slope, gradient, self.scratch)

    def of_derivatives(self) -> _Adder:
        """The same for derivatives of rows: no constant moves."""
        gamma, coef = self.conditioning.gamma.copy(), self.coef.copy()
        if self.conditioning.intercept:
            gamma[:, 0] = 0.0
            coef[0] = 0.0
        centre = np.zeros_like(self.conditioning.centre)
        return _Adder(self.conditioning._replace(centre=centre, gamma=gamma), coef, self.scratch)


def _variables_of(piece: Dense | Coded) -> frozenset[int]:
    """The variables of its term."""
    met = piece.meeting.variables if isinstance(piece, Coded) else ()
    return frozenset((*met, *(part.variable for part in piece.parts)))


def _is_finite(block: Block) -> bool:
    """Whether all rows have a prediction."""
    numbers = [column for column in block.numeric if column.dtype.kind == "f"]
    return all(np.isfinite(column).all() for column in (*numbers, block.offset))


def _read_by(share: Share, batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.select(list(share.design.feature_columns))


def _with(batch: pa.RecordBatch, settings: Sequence[Setting]) -> pa.RecordBatch:
    """The batch with columns replaced by constants."""
    if not settings:
        return batch
    constant: Mapping[str, Setting] = {setting.column: setting for setting in settings}
    arrays = [
        constant[name].array(batch.num_rows) if name in constant else array
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
