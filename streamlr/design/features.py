"""Variables of a model over a batch: each expression as numeric columns or as levels, gaps accounted for.

The profile that learns levels, the fit and the scoring of new rows all read batches through a `Reader`, so
that a row means the same to each of them. A gap counts under the column where it is (null or NaN), and under
the name of the variable where no column has one: `log(x)` of a negative number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import arrow_of, has_nan, numbers, stored_numbers
from streamlr.design.expressions import Call, Column, Expression, columns_of
from streamlr.design.functions import Kind, column_kind
from streamlr.design.values import Frame, State, as_levels, as_numbers, evaluate, missing_of
from streamlr.errors import StreamlrError

if TYPE_CHECKING:
    from streamlr.design.where import Where

Gaps = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Feature:
    """A variable: an expression and the kind that it is coded as. `named`: the user asked for it by name.

    `whole`: its numbers are whole whatever the rows hold. `absorbed`: see `streamlr.design.absorbing`.
    """

    expression: Expression
    name: str
    categorical: bool
    named: bool
    whole: bool = False
    absorbed: bool = False

    @property
    def column(self) -> str:
        """The column that it is, or its name where it is more than a column."""
        inner = unwrapped(self.expression)
        return inner.name if isinstance(inner, Column) else self.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return columns_of(self.expression)


def unwrapped(expression: Expression) -> Expression:
    """What `C(x)`, `I(x)`, `lump(x, ...)` and `hash(x, ...)` are about."""
    while isinstance(expression, Call) and expression.function in ("C", "I", "lump", "hash"):
        expression = expression.arguments[0]
    return expression


@dataclass(frozen=True)
class Reader:
    """How batches are read: which rows count, what stands for gaps in numeric columns, what functions have
    learned, and what the values of columns are taken for, where a batch has them otherwise."""

    where: Where | None = None
    fills: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)

    def frame(self, batch: pa.RecordBatch) -> Frame:
        """The rows of a batch that the filter keeps, with gaps filled."""
        if self.where is not None:
            keep = self.where.mask(batch)
            if not keep.all():
                batch = picked(batch, keep)
        if self.kinds:
            batch = _cast(batch, self.kinds)
        return Frame(batch, _filled(batch, self.fills))

    def numeric(
        self, feature: Feature, frame: Frame, gaps: Gaps, *, complete: bool = False
    ) -> list[NDArray[Any]]:
        """The columns of a numeric variable, each (n,); `gaps` is told where it has no value.

        `complete`: these rows were read before, and none lacked anything.
        """
        expression = feature.expression
        if isinstance(expression, Column):
            array = frame.array(expression.name)
            values, missing = stored_numbers(array, expression.name, complete=complete)
            if missing is not None:
                _note(gaps, expression.name, missing)
            return [values]
        found = as_numbers(evaluate(expression, frame, self.states))
        columns = [found] if found.ndim == 1 else list(found)
        if columns and has_nan(columns[0]):
            self._account(feature, frame, np.isnan(columns[0]), gaps)
        return columns

    def levels(self, feature: Feature, frame: Frame) -> pa.Array:
        """The values of a factor, null or NaN where it has none: what fills gaps in a column of numbers is no
        level of it."""
        if isinstance(inner := unwrapped(feature.expression), Column) and inner.name in self.fills:
            frame = Frame(pa.RecordBatch.from_arrays([frame.raw(inner.name)], names=[inner.name]))
        return as_levels(feature.expression, frame, self.states, feature.whole)

    def note_gaps(
        self, feature: Feature, frame: Frame, missing: NDArray[np.bool_] | None, gaps: Gaps
    ) -> None:
        """Tell `gaps` where a variable is `missing` (n,), under the names that are the reason."""
        if missing is not None:
            self._account(feature, frame, missing, gaps)

    def _account(self, feature: Feature, frame: Frame, missing: NDArray[np.bool_], gaps: Gaps) -> None:
        inner = unwrapped(feature.expression)
        unexplained = missing
        for name in feature.columns:
            in_column = missing_of(frame.array(name))
            if in_column is not None and (in_column & missing).any():
                _note(gaps, name, in_column & missing)
                unexplained = unexplained & ~in_column
        if unexplained.any():
            _note(gaps, inner.name if isinstance(inner, Column) else feature.name, unexplained)


def _note(gaps: Gaps, name: str, missing: NDArray[np.bool_]) -> None:
    known = gaps.get(name)
    gaps[name] = missing if known is None else known | missing


def picked(batch: pa.RecordBatch, keep: NDArray[np.bool_]) -> pa.RecordBatch:
    """Some rows of a batch, `keep` (n,)."""
    return _without_views(batch).filter(arrow_of(keep))


def _without_views(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with views of text as text: Arrow cannot pick rows of those yet."""

    def plain_text(array: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(array.type) and pa.types.is_string_view(array.type.value_type):
            return pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.string()))
        return array.cast(pa.string()) if pa.types.is_string_view(array.type) else array

    return pa.RecordBatch.from_arrays(
        [plain_text(array) for array in batch.columns], names=batch.schema.names
    )


def _cast(batch: pa.RecordBatch, kinds: Mapping[str, Kind]) -> pa.RecordBatch:
    """The batch with columns of another kind turned into what the model takes them for.

    Raises `StreamlrError` where a value would be lost.
    """
    arrays = [
        as_kind(array, kinds[name], name) if name in kinds else array
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


TYPE_OF_KIND: dict[Kind, pa.DataType] = {
    "number": pa.float64(),
    "text": pa.string(),
    "logical": pa.bool_(),
    "time": pa.timestamp("us"),
}


def as_kind(array: pa.Array, kind: Kind, name: str) -> pa.Array:
    """A column as one of another kind, where that loses nothing. Raises `StreamlrError`."""
    own = column_kind(name, array.type)
    if own == kind or array.null_count == len(array):
        return array if own == kind else array.cast(TYPE_OF_KIND[kind])
    if own == "logical" and kind == "number":
        return array  # 0 and 1
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    fractions = own == "number" and not pa.types.is_integer(array.type)
    if fractions and kind == "logical":
        missing = missing_of(array)
        array, fractions = arrow_of(numbers(array, name).astype(np.float64), missing), False
    try:
        lossy = (fractions and kind != "number") or (own == "logical" and kind == "text") or own == "time"
        if lossy or (own == "number" and kind == "time"):  # a number of what, since when?
            raise pa.ArrowInvalid(f"{own} is no {kind}")
        found = array.cast(TYPE_OF_KIND[kind])
        if own == "number" and kind == "logical" and not found.cast(array.type).equals(array):
            raise pa.ArrowInvalid("only 0 and 1 are")
    except pa.ArrowException as error:
        raise StreamlrError(
            f"column '{name}' is {array.type}, but the model takes it for a {kind}, and its values cannot be "
            f"turned into that without loss ({error}). Cast the column."
        ) from error
    return found


def _filled(batch: pa.RecordBatch, fills: Mapping[str, float]) -> dict[str, pa.Array]:
    """Columns with a number in place of every null and NaN."""
    filled = {}
    for name, fill in fills.items():
        if name in batch.schema.names and (missing := missing_of(batch.column(name))) is not None:
            values = numbers(batch.column(name), name).astype(np.float64)
            values[missing] = fill
            filled[name] = arrow_of(values)
    return filled


def text_columns(features: Sequence[Feature]) -> tuple[str, ...]:
    """Columns best read as dictionary codes: those that factors are made of as they are."""
    found = [unwrapped(feature.expression) for feature in features if feature.categorical]
    return tuple(dict.fromkeys(inner.name for inner in found if isinstance(inner, Column)))
