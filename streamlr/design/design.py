"""The frozen design: which columns become which coefficients, and batches as blocks.

Everything that depends on data (levels, references, the outcome that counts as 1) is fixed here before the
first Newton pass, so no chunk ever changes it. The same encoding serves the fit and the scoring of new data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Level, Recoder, has_nan, is_number, numbers, stored_numbers
from streamlr.design.layout import Layout
from streamlr.design.levels import IndexedRecoder, LevelIndex
from streamlr.design.spec import MissingPolicy, WeightType
from streamlr.errors import StreamlrError
from streamlr.kernels.tile import Block

# Codes of a factor that are no column: the reference level, levels set aside by the outcome they always
# have, levels the design does not know, and missing values.
REFERENCE = -1
ALWAYS_NEGATIVE = -2
ALWAYS_POSITIVE = -3
UNKNOWN = -4
MISSING = -5

NOTHING = np.empty(0)
ALL = slice(None)

BATCH_BYTES = 1 << 25
MOST_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Number:
    """A numeric column; `width`: bytes of a value as it is read."""

    column: str
    name: str
    named: bool
    width: int = field(default=8, compare=False)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of its coefficients."""
        return (self.name,)


@dataclass(frozen=True)
class Factor:
    """A categorical column: `levels` have a coefficient each, `reference` (where there is one) has none.

    `set_aside` maps levels seen with one outcome only to that outcome, 0 or 1; `unused` were in the data but
    in no used row. `absorbed`: its effects are estimated and not reported; it is the last term.
    """

    column: str
    name: str
    named: bool
    levels: tuple[Level, ...]
    reference: Level | None
    set_aside: tuple[tuple[Level, int], ...] = ()
    unused: tuple[Level, ...] = ()
    absorbed: bool = False

    @cached_property
    def index(self) -> LevelIndex:
        """Codes of all levels, for a factor with very many."""
        aside = [ALWAYS_POSITIVE if outcome else ALWAYS_NEGATIVE for _, outcome in self.set_aside]
        codes = np.concatenate([np.arange(len(self.levels)), aside]).astype(np.int32)
        return LevelIndex([*self.levels, *(level for level, _ in self.set_aside)], codes, UNKNOWN, MISSING)

    def recoder(self) -> Recoder | IndexedRecoder:
        """What turns a column into codes."""
        return IndexedRecoder(self.index) if self.absorbed else Recoder(_code_of(self), MISSING)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of its coefficients, as patsy writes them."""
        return tuple(self.level_name(level) for level in self.levels)

    def level_name(self, level: Level) -> str:
        """Name of the coefficient of one level."""
        return f"{self.name}[{level}]" if self.reference is None else f"{self.name}[T.{level}]"


Term = Number | Factor


@dataclass
class Tally:
    """Rows of a pass by what became of them."""

    rows_read: int = 0
    rows_used: int = 0
    rows_set_aside: int = 0
    rows_weighted: int = 0
    weight: float = 0.0
    least_weight: float = np.inf  # least positive weight

    def __post_init__(self) -> None:
        self.missing: Counter[str] = Counter()

    def merge(self, other: Tally) -> Tally:
        """Add another part's counts."""
        self.rows_read += other.rows_read
        self.rows_used += other.rows_used
        self.rows_set_aside += other.rows_set_aside
        self.rows_weighted += other.rows_weighted
        self.weight += other.weight
        self.least_weight = min(self.least_weight, other.least_weight)
        self.missing.update(other.missing)
        return self


@dataclass(frozen=True)
class Design:
    """Roles and terms of a model, frozen.

    `positive` and `negative` are the outcome's levels, None with trials. `absorb_l2`: ridge on the effects of
    an absorbed factor, as `design.absorbing` defines it.
    """

    target: str
    positive: Level | None
    negative: Level | None
    intercept: bool
    terms: tuple[Term, ...]
    weights: str | None
    weight_type: WeightType
    offset: str | None
    trials: str | None
    missing: MissingPolicy
    absorb_l2: float = 0.0

    @cached_property
    def layout(self) -> Layout:
        """How its coefficients are numbered."""
        numeric = sum(isinstance(term, Number) for term in self.terms)
        order = [-1] if self.intercept else []
        seen_numbers = seen_factors = 0
        for term in self.terms:
            if isinstance(term, Number):
                order.append(seen_numbers)
                seen_numbers += 1
            else:
                order.append(numeric + seen_factors)
                seen_factors += 1
        levels = tuple(len(term.levels) for term in self.terms if isinstance(term, Factor))
        return Layout(tuple(order), numeric, levels, self.absorbed is not None)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """(p,) names of the coefficients, those of absorbed levels left out."""
        names = ["Intercept"] if self.intercept else []
        for term in self.reported_terms:
            names.extend(term.column_names)
        return tuple(names)

    @property
    def absorbed(self) -> Factor | None:
        """The factor whose effects are absorbed."""
        last = self.terms[-1] if self.terms else None
        return last if isinstance(last, Factor) and last.absorbed else None

    @property
    def reported_terms(self) -> tuple[Term, ...]:
        """The terms that a table of coefficients lists."""
        return self.terms if self.absorbed is None else self.terms[:-1]

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        """The numeric terms."""
        return tuple(term for term in self.terms if isinstance(term, Number))

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The categorical terms."""
        return tuple(term for term in self.terms if isinstance(term, Factor))

    @property
    def batch_rows(self) -> int:
        """Rows decoded at once: what makes BATCH_BYTES.

        A row group of the usual size is then one batch, which decodes in 126 ns a row of 28 floats where four
        batches take 141; a wide table still streams in little memory.
        """
        return int(np.clip(BATCH_BYTES // self.row_bytes // 1024 * 1024, 1024, MOST_BATCH_ROWS))

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row."""
        roles = sum(8 for name in (self.weights, self.offset, self.trials, self.trials) if name is not None)
        return sum(number.width for number in self.numbers) + 4 * len(self.factors) + roles + 1

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns that scoring needs, each once."""
        names = [term.column for term in self.terms]
        if self.offset is not None:
            names.append(self.offset)
        return tuple(dict.fromkeys(names))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a fit needs, each once."""
        roles = [name for name in (self.target, self.weights, self.trials) if name is not None]
        return tuple(dict.fromkeys((*roles, *self.feature_columns)))

    @property
    def coded_columns(self) -> tuple[str, ...]:
        """Columns best read as dictionary codes."""
        names = [factor.column for factor in self.factors]
        if isinstance(self.positive, str):
            names.append(self.target)
        return tuple(dict.fromkeys(names))


class Encoder:
    """Encodes the batches of one part; it remembers dictionaries, so each part has its own."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._factors = [factor.recoder() for factor in design.factors]
        codes = {design.negative: 0, design.positive: 1}
        self._target = Recoder(lambda level: codes.get(level, UNKNOWN), MISSING)

    def encode(self, batch: pa.RecordBatch, tally: Tally) -> Block:
        """The used rows of a batch as a block; rows not used are counted in `tally`.

        Raises `StreamlrError` for an outcome or a level that the design has not seen.
        """
        design = self._design
        n = batch.num_rows
        missing: dict[str, NDArray[np.bool_]] = {}
        numeric, codes, special, offset = self._features(batch, missing)
        success: NDArray[Any]
        trials = NOTHING
        if design.trials is None:
            success = self._outcome(batch.column(design.target), missing)
        else:
            success = _role(batch, design.target, missing)
            trials = _role(batch, design.trials, missing)
        weight = NOTHING if design.weights is None else _role(batch, design.weights, missing)
        keep = self._used(n, codes, special, missing, tally)
        if design.trials is None and n and success.min() < 0 and (success[keep] < 0).any():
            raise _changed(design.target)
        used = n
        if keep is not ALL:
            used = int(np.count_nonzero(keep))
            numeric = [column[keep] for column in numeric]
            codes = np.ascontiguousarray(codes[:, keep])
            success = success[keep]
            trials, weight, offset = (
                array[keep] if array.size else array for array in (trials, weight, offset)
            )
        tally.rows_read += n
        tally.rows_used += used
        tally.weight += float(weight.sum()) if weight.size else float(used)
        positive = weight[weight > 0] if weight.size else np.ones(min(used, 1))
        tally.rows_weighted += positive.size if weight.size else used
        tally.least_weight = min(tally.least_weight, float(positive.min(initial=np.inf)))
        return Block(numeric, codes, success, trials, weight, offset)

    def _used(
        self,
        n: int,
        codes: NDArray[np.int32],
        special: list[int],
        missing: dict[str, NDArray[np.bool_]],
        tally: Tally,
    ) -> Any:
        """Which rows are used, (n,) or `ALL`; the others are counted. `special`: factors with codes that are
        neither a level nor the reference."""
        if not missing and not special:
            return ALL
        keep = np.ones(n, dtype=np.bool_)
        for name, mask in missing.items():
            count = int(np.count_nonzero(mask))
            if count:
                tally.missing[name] += count
                keep &= ~mask
        for place in special:
            row = codes[place]
            aside = keep & ((row == ALWAYS_NEGATIVE) | (row == ALWAYS_POSITIVE))
            tally.rows_set_aside += int(np.count_nonzero(aside))
            keep &= ~aside
        for place in special:
            if (codes[place][keep] == UNKNOWN).any():
                raise _changed(self._design.factors[place].column)
        return keep

    def encode_features(self, batch: pa.RecordBatch) -> tuple[Block, NDArray[np.bool_], NDArray[np.float64]]:
        """The rows of a batch that can be scored, as a block; which rows they are; and limits.

        Limits, (n,): NaN, or the probability 0 or 1 of a row with a level that had that outcome only.
        """
        n = batch.num_rows
        missing: dict[str, NDArray[np.bool_]] = {}
        numeric, codes, _, offset = self._features(batch, missing)
        keep = np.ones(n, dtype=np.bool_)
        for mask in missing.values():
            keep &= ~mask
        for column in numeric:
            if column.dtype.kind == "f":
                keep &= np.isfinite(column)
        keep &= ~(codes == UNKNOWN).any(axis=0)
        if offset.size:
            keep &= np.isfinite(offset)
        always_negative = (codes == ALWAYS_NEGATIVE).any(axis=0)
        always_positive = (codes == ALWAYS_POSITIVE).any(axis=0)
        limits = np.full(n, np.nan)
        limits[keep & always_negative & ~always_positive] = 0.0
        limits[keep & always_positive & ~always_negative] = 1.0
        keep &= ~(always_negative | always_positive)
        block = Block(
            [column[keep] for column in numeric],
            np.ascontiguousarray(codes[:, keep]),
            np.zeros(int(np.count_nonzero(keep)), dtype=np.int8),
            NOTHING,
            NOTHING,
            offset[keep] if offset.size else NOTHING,
        )
        return block, keep, limits

    def _features(
        self, batch: pa.RecordBatch, missing: dict[str, NDArray[np.bool_]]
    ) -> tuple[list[NDArray[Any]], NDArray[np.int32], list[int], NDArray[np.float64]]:
        """Numeric columns, codes, factors with special codes, offset; `missing` is told what is missing."""
        design = self._design
        n = batch.num_rows
        numeric = []
        for number in design.numbers:
            column, gaps = stored_numbers(batch.column(number.column), number.column)
            numeric.append(column)
            if gaps is not None:
                missing[number.column] = gaps
        codes = np.empty((len(design.factors), n), dtype=np.int32)
        special = []
        for place, (factor, recoder) in enumerate(zip(design.factors, self._factors, strict=True)):
            if recoder.codes(batch.column(factor.column), out=codes[place]) < REFERENCE:
                special.append(place)
                missing[factor.column] = codes[place] == MISSING
        offset = NOTHING if design.offset is None else _role(batch, design.offset, missing)
        return numeric, codes, special, offset

    def _outcome(self, array: pa.Array, missing: dict[str, NDArray[np.bool_]]) -> NDArray[np.int8]:
        """1 where the outcome counts as 1, 0 where it is the other, negative where it is neither."""
        name, positive, negative = self._design.target, self._design.positive, self._design.negative
        if is_number(array.type):  # comparing is four times as fast as coding
            values = numbers(array, name)
            _note_missing(values, name, missing)
            success = (values == positive).view(np.int8)
            known = np.count_nonzero(success) + np.count_nonzero(values == negative)
            if known < len(values):
                success[(values != positive) & (values != negative)] = UNKNOWN
            return success
        codes = np.empty(len(array), dtype=np.int32)
        if self._target.codes(array, out=codes) < REFERENCE:
            missing[name] = codes == MISSING
        return codes.astype(np.int8)


def _code_of(factor: Factor) -> Any:
    codes = {level: code for code, level in enumerate(factor.levels)}
    if factor.reference is not None:
        codes[factor.reference] = REFERENCE
    for level, outcome in factor.set_aside:
        codes[level] = ALWAYS_POSITIVE if outcome else ALWAYS_NEGATIVE
    return lambda level: codes.get(level, UNKNOWN)


def _role(batch: pa.RecordBatch, name: str, missing: dict[str, NDArray[np.bool_]]) -> NDArray[np.float64]:
    values = numbers(batch.column(name), name).astype(np.float64)
    _note_missing(values, name, missing)
    return values


def _note_missing(values: NDArray[Any], name: str, missing: dict[str, NDArray[np.bool_]]) -> None:
    if values.dtype.kind == "f" and has_nan(values):
        missing[name] = np.isnan(values)


def _changed(column: str) -> StreamlrError:
    return StreamlrError(
        f"column '{column}' has a value that was not there when its levels were collected. "
        "The data changed during the fit; fit again."
    )


def terms_with_limits(design: Design) -> Mapping[str, int]:
    """Names of all levels set aside, each with the outcome it always had; absorbed ones are not listed."""
    return {
        term.level_name(level): outcome
        for term in design.reported_terms
        if isinstance(term, Factor)
        for level, outcome in term.set_aside
    }
