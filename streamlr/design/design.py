"""The frozen design: which columns become which coefficients, and batches as blocks.

Everything that depends on data (levels, references, the outcome that counts as 1) is fixed here before the
first Newton pass, so no chunk ever changes it. The same encoding serves the fit and the scoring of new data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Level, Recoder, fits_float32, is_number, numbers
from streamlr.design.layout import Layout
from streamlr.design.spec import Feature, MissingPolicy, WeightType
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


@dataclass(frozen=True)
class Number:
    """A numeric column; `single`: every value is a float32 exactly."""

    column: str
    name: str
    named: bool
    single: bool = False

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of its coefficients."""
        return (self.name,)


@dataclass(frozen=True)
class Factor:
    """A categorical column: `levels` have a coefficient each, `reference` (where there is one) has none.

    `set_aside` maps levels seen with one outcome only to that outcome, 0 or 1; `unused` were in the data but
    in no used row.
    """

    column: str
    name: str
    named: bool
    levels: tuple[Level, ...]
    reference: Level | None
    set_aside: tuple[tuple[Level, int], ...] = ()
    unused: tuple[Level, ...] = ()

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

    `positive` and `negative` are the outcome's levels, None with trials.
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
        return Layout(tuple(order), numeric, levels)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """(k,) names of the coefficients."""
        names = ["Intercept"] if self.intercept else []
        for term in self.terms:
            names.extend(term.column_names)
        return tuple(names)

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        """The numeric terms."""
        return tuple(term for term in self.terms if isinstance(term, Number))

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The categorical terms."""
        return tuple(term for term in self.terms if isinstance(term, Factor))

    @property
    def single(self) -> bool:
        """Whether blocks keep their numbers as float32."""
        return bool(self.numbers) and all(term.single for term in self.numbers)

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


def number_of(feature: Feature, kind: pa.DataType) -> Number:
    """The numeric term of a feature."""
    return Number(feature.column, feature.name, feature.named, fits_float32(kind))


class Encoder:
    """Encodes the batches of one part; it remembers dictionaries, so each part has its own."""

    def __init__(self, design: Design, reuse: bool = False) -> None:
        """`reuse`: a block may overwrite the one before it, which saves a third of the encoding's time."""
        self._design = design
        self._reuse = reuse
        self._memory = np.empty(0)
        self._factors = [Recoder(_code_of(factor), MISSING) for factor in design.factors]
        codes = {design.negative: 0, design.positive: 1}
        self._target = Recoder(lambda level: codes.get(level, UNKNOWN), MISSING)

    def encode(self, batch: pa.RecordBatch, tally: Tally) -> Block:
        """The used rows of a batch as a block; rows not used are counted in `tally`.

        Raises `StreamlrError` for an outcome or a level that the design has not seen.
        """
        design = self._design
        n = batch.num_rows
        keep = np.ones(n, dtype=np.bool_)
        missing: dict[str, NDArray[np.bool_]] = {}
        numeric, codes, offset = self._features(batch, missing, np.float32 if design.single else np.float64)
        trials = NOTHING
        if design.trials is None:
            success = self._outcome(batch.column(design.target), missing)
        else:
            success = _role(batch, design.target, missing)
            trials = _role(batch, design.trials, missing)
        weight = NOTHING if design.weights is None else _role(batch, design.weights, missing)
        for name, mask in missing.items():
            count = int(np.count_nonzero(mask))
            if count:
                tally.missing[name] += count
                keep &= ~mask
        for factor, row in zip(design.factors, codes, strict=True):
            if factor.set_aside:
                aside = keep & ((row == ALWAYS_NEGATIVE) | (row == ALWAYS_POSITIVE))
                tally.rows_set_aside += int(np.count_nonzero(aside))
                keep &= ~aside
        if design.trials is None and n and success.min() < 0 and (success[keep] < 0).any():
            raise _changed(design.target)
        for factor, row in zip(design.factors, codes, strict=True):
            if row.size and row.min() <= UNKNOWN:
                _check_known(row[keep], factor.column)
        used = int(np.count_nonzero(keep))
        tally.rows_read += n
        tally.rows_used += used
        if used < n:
            numeric = np.ascontiguousarray(numeric[:, keep])
            codes = np.ascontiguousarray(codes[:, keep])
            success, trials, weight, offset = (
                array[keep] if array.size else array for array in (success, trials, weight, offset)
            )
        tally.weight += float(weight.sum()) if weight.size else float(used)
        positive = weight[weight > 0] if weight.size else np.ones(min(used, 1))
        tally.rows_weighted += positive.size if weight.size else used
        tally.least_weight = min(tally.least_weight, float(positive.min(initial=np.inf)))
        return Block(numeric, codes, success, trials, weight, offset)

    def encode_features(self, batch: pa.RecordBatch) -> tuple[Block, NDArray[np.bool_], NDArray[np.float64]]:
        """The rows of a batch that can be scored, as a block; which rows they are; and limits.

        Limits, (n,): NaN, or the probability 0 or 1 of a row with a level that had that outcome only.
        """
        n = batch.num_rows
        missing: dict[str, NDArray[np.bool_]] = {}
        numeric, codes, offset = self._features(batch, missing, np.float64)
        keep = np.ones(n, dtype=np.bool_)
        for mask in missing.values():
            keep &= ~mask
        finite = np.isfinite(numeric).all(axis=0) if numeric.size else np.ones(n, dtype=np.bool_)
        keep &= finite & ~(codes == UNKNOWN).any(axis=0)
        if offset.size:
            keep &= np.isfinite(offset)
        always_negative = (codes == ALWAYS_NEGATIVE).any(axis=0)
        always_positive = (codes == ALWAYS_POSITIVE).any(axis=0)
        limits = np.full(n, np.nan)
        limits[keep & always_negative & ~always_positive] = 0.0
        limits[keep & always_positive & ~always_negative] = 1.0
        keep &= ~(always_negative | always_positive)
        block = Block(
            np.ascontiguousarray(numeric[:, keep]),
            np.ascontiguousarray(codes[:, keep]),
            np.zeros(int(np.count_nonzero(keep))),
            NOTHING,
            NOTHING,
            offset[keep] if offset.size else NOTHING,
        )
        return block, keep, limits

    def _features(
        self, batch: pa.RecordBatch, missing: dict[str, NDArray[np.bool_]], dtype: type[np.floating[Any]]
    ) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.float64]]:
        design = self._design
        n = batch.num_rows
        numeric = self._numeric(n, dtype)
        for row, number in zip(numeric, design.numbers, strict=True):
            row[:] = numbers(batch.column(number.column), number.column)
            _note_missing(row, number.column, missing)
        codes = np.empty((len(design.factors), n), dtype=np.int32)
        for place, (factor, recoder) in enumerate(zip(design.factors, self._factors, strict=True)):
            codes[place] = recoder.codes(batch.column(factor.column))
            missing[factor.column] = codes[place] == MISSING
        offset = NOTHING if design.offset is None else _role(batch, design.offset, missing)
        return numeric, codes, offset

    def _outcome(self, array: pa.Array, missing: dict[str, NDArray[np.bool_]]) -> NDArray[np.float64]:
        """1.0 where the outcome counts as 1, 0.0 where it is the other, UNKNOWN where it is neither."""
        name, positive, negative = self._design.target, self._design.positive, self._design.negative
        if is_number(array.type):  # comparing is four times as fast as coding
            values = numbers(array, name)
            _note_missing(values, name, missing)
            success = values == positive
            unknown = ~(success | (values == negative))
            return np.where(unknown, float(UNKNOWN), success)
        codes = self._target.codes(array)
        missing[name] = codes == MISSING
        return codes.astype(np.float64)

    def _numeric(self, n: int, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        size = len(self._design.numbers) * n
        if not self._reuse:
            return np.empty((len(self._design.numbers), n), dtype=dtype)
        if self._memory.size < size or self._memory.dtype != dtype:
            self._memory = np.empty(size, dtype=dtype)
        return self._memory[:size].reshape(len(self._design.numbers), n)


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
    # A sum of squares is NaN where any value is, and one BLAS call: a fifth of the cost of looking at each.
    with np.errstate(over="ignore", invalid="ignore"):
        if values.size and np.isnan(np.dot(values, values)):
            missing[name] = np.isnan(values)


def _check_known(codes: NDArray[np.int32], column: str) -> None:
    if (codes == UNKNOWN).any():
        raise _changed(column)


def _changed(column: str) -> StreamlrError:
    return StreamlrError(
        f"column '{column}' has a value that was not there when its levels were collected. "
        "The data changed during the fit; fit again."
    )


def terms_with_limits(design: Design) -> Mapping[str, int]:
    """Names of all levels set aside, each with the outcome it always had."""
    return {
        factor.level_name(level): outcome for factor in design.factors for level, outcome in factor.set_aside
    }
