"""Expressions over a batch: what the functions and operators of a formula do to its columns.

Values are numbers with NaN where they are missing, conditions, texts as dictionary codes, or points in time.
Functions with a state are given it (`states`, by the text of the call) and never learn here, so that a row
gets the same values in whatever batch it comes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow._compute import call_function

from streamlr.design.bases import (
    bspline,
    cardinal_spline,
    natural_spline,
    polynomial_values,
)
from streamlr.design.columns import (
    Level,
    arrow_of,
    coded,
    entries_of,
    find_level,
    has_nan,
    level_of,
    nulls,
    numbers,
    plain,
    texts_of,
)
from streamlr.design.expressions import (
    COMPARISONS,
    Call,
    Column,
    Constant,
    Expression,
    Operation,
    text_of,
)
from streamlr.design.functions import SEVERAL, column_kind, options_of
from streamlr.errors import StreamlrError

Floats = NDArray[np.float64]
State = Mapping[str, Any]


@dataclass(frozen=True)
class Logical:
    """Conditions row by row; what stands where one is `missing` (None: nowhere) is arbitrary."""

    values: NDArray[np.bool_]
    missing: NDArray[np.bool_] | None = None


# Numbers (n,), or (m, n) of a function with m columns, NaN where missing; conditions; texts; points in time.
Values: TypeAlias = Floats | Logical | pa.Array


class Frame:
    """The columns of a batch as expressions see them."""

    def __init__(self, batch: pa.RecordBatch, filled: Mapping[str, pa.Array] | None = None) -> None:
        """`filled`: columns with numbers in place of missing values."""
        self._batch = batch
        self._filled = filled or {}
        self.rows = batch.num_rows

    def array(self, name: str) -> pa.Array:
        """A column as Arrow holds it, missing values filled where the model fills them."""
        return self._filled.get(name, self._batch.column(name))

    def raw(self, name: str) -> pa.Array:
        """A column as Arrow holds it."""
        return self._batch.column(name)

    def value(self, name: str) -> Values:
        """A column as values."""
        array = self.array(name)
        kind = column_kind(name, array.type)
        if kind == "number":
            return numbers(array, name).astype(np.float64, copy=False)
        if kind == "logical":
            return _logical(array)
        if kind == "text":
            return coded(array)
        return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _logical(array: pa.Array) -> Logical:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return Logical(plain(array), nulls(array))


def missing_of(array: pa.Array) -> NDArray[np.bool_] | None:
    """(n,) where a column is null or NaN; None: nowhere."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        null = nulls(array.indices)
        entries = missing_of(array.dictionary)
        if entries is None:
            return null
        hidden = entries[entries_of(array)] if len(entries) else np.zeros(len(array), dtype=np.bool_)
        return hidden if null is None else null | hidden
    null = nulls(array)
    if pa.types.is_floating(kind) and has_nan(values := plain(array)):
        nan = np.isnan(values)
        return nan if null is None else null | nan
    return null


def evaluate(expression: Expression, frame: Frame, states: Mapping[str, State]) -> Values:
    """The values of a checked expression in a batch; `states` by the text of the calls that learn.

    (n,) or (m, n) numbers with NaN where missing, conditions, or texts as dictionary codes.
    """
    if isinstance(expression, Column):
        return frame.value(expression.name)
    if isinstance(expression, Constant):
        if isinstance(expression.value, bool):
            return Logical(np.full(frame.rows, expression.value))
        if isinstance(expression.value, str):
            return pa.DictionaryArray.from_arrays(
                arrow_of(np.zeros(frame.rows, dtype=np.int32)), texts_of([expression.value])
            )
        return np.full(frame.rows, float(expression.value))  # type: ignore[arg-type]
    with np.errstate(all="ignore"):  # what is no number is missing, what is infinite is found and named
        if isinstance(expression, Operation):
            return _operate(expression, frame, states)
        assert isinstance(expression, Call), "words are options"
        return _call(expression, frame, states)


def as_numbers(values: Values) -> Floats:
    """Numbers, or conditions as 0 and 1; NaN where missing."""
    if isinstance(values, Logical):
        found = values.values.astype(np.float64)
        if values.missing is not None:
            found[values.missing] = np.nan
        return found
    if isinstance(values, pa.Array):
        raise TypeError("texts are no numbers")
    return values


def as_levels(expression: Expression, frame: Frame, states: Mapping[str, State], whole: bool) -> pa.Array:
    """The values of a factor's expression, to be told apart; null where missing.

    `whole`: numbers are whole numbers.
    """
    if isinstance(expression, Call):
        if expression.function in ("C", "lump", "I"):
            array = as_levels(expression.arguments[0], frame, states, whole)
            wanted = options_of(expression).get("levels") if expression.function == "C" else None
            return array if wanted is None else _among(array, wanted)
        if expression.function == "cut":
            return _intervals(expression, frame, states)
        if expression.function == "hash":
            return _buckets(expression, frame, states, whole)
    if isinstance(expression, Column):
        return frame.array(expression.name)
    values = evaluate(expression, frame, states)
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, Logical):
        return arrow_of(values.values, values.missing)
    missing = np.isnan(values)
    if whole and (np.abs(values) >= 2.0**63).any():
        raise StreamlrError(
            f"{text_of(expression)} has values that are too large to be levels, or infinite. Leave them "
            "out with --where."
        )
    if whole:
        values = np.where(missing, 0.0, values).astype(np.int64)
    return arrow_of(values, missing)


def _among(array: pa.Array, wanted: Sequence[Any]) -> pa.Array:
    """The array, null where its value is none of the wanted ones, as R has it."""
    codes = coded(array)
    known = [find_level(level_of(entry), wanted) is not None for entry in codes.dictionary.to_pylist()]
    gone = ~np.array([*known, False])[entries_of(codes, len(known))]
    return pa.DictionaryArray.from_arrays(arrow_of(entries_of(codes), gone), codes.dictionary)


ELEMENTWISE: dict[str, Callable[[Floats], Floats]] = {
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
}
COMPARE: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "==": (np.equal, "equal"),
    "!=": (np.not_equal, "not_equal"),
    "<": (np.less, "less"),
    "<=": (np.less_equal, "less_equal"),
    ">": (np.greater, "greater"),
    ">=": (np.greater_equal, "greater_equal"),
}


def _operate(operation: Operation, frame: Frame, states: Mapping[str, State]) -> Values:
    operator = operation.operator
    if operator in COMPARISONS:
        return _compare(operation, frame, states)
    values = [evaluate(operand, frame, states) for operand in operation.operands]
    if operator in ("&", "|", "~"):
        conditions = [_condition(value) for value in values]
        return _negated(conditions[0]) if operator == "~" else _joined(operator, *conditions)
    operands = [as_numbers(value) for value in values]
    if len(operands) == 1:
        return -operands[0]
    found: Floats = ARITHMETIC[operator](*operands)
    if (
        operator == "**"
    ):  # NumPy, like R, says that 1 ** NaN and NaN ** 0 are 1; but a row with a gap is missing
        found = np.where(np.isnan(operands[0]) | np.isnan(operands[1]), np.nan, found)
    return found


def _condition(value: Values) -> Logical:
    assert isinstance(value, Logical)
    return value


def _negated(condition: Logical) -> Logical:
    return Logical(~condition.values, condition.missing)


def _joined(operator: str, left: Logical, right: Logical) -> Logical:
    """Known where one side decides, as in R and SQL."""
    if left.missing is None and right.missing is None:
        return Logical(left.values & right.values if operator == "&" else left.values | right.values)
    nothing = np.zeros(left.values.size, dtype=np.bool_)
    a = left.missing if left.missing is not None else nothing
    b = right.missing if right.missing is not None else nothing
    decides = operator == "|"
    decided = (~a & (left.values == decides)) | (~b & (right.values == decides))
    return Logical(np.where(decided, decides, not decides), ~decided & (a | b))


def _compare(operation: Operation, frame: Frame, states: Mapping[str, State]) -> Logical:
    by_number, by_arrow = COMPARE[operation.operator]
    left, right = (evaluate(operand, frame, states) for operand in operation.operands)
    if not isinstance(left, pa.Array) and not isinstance(right, pa.Array):
        a, b = as_numbers(left), as_numbers(right)
        missing = np.isnan(a) | np.isnan(b)
        return Logical(by_number(a, b), missing if missing.any() else None)
    arrays = []
    for value, operand, other in (
        (left, operation.operands[0], right),
        (right, operation.operands[1], left),
    ):
        assert isinstance(value, pa.Array)
        if isinstance(operand, Constant) and isinstance(other, pa.Array) and pa.types.is_temporal(other.type):
            arrays.append(_point_in_time(operand, other.type))
        elif pa.types.is_dictionary(value.type):
            arrays.append(value.dictionary_decode().cast(pa.string()))
        else:
            arrays.append(value)
    try:
        found = call_function(by_arrow, arrays)
    except pa.ArrowException as error:  # a time with a zone and one without
        raise StreamlrError(
            f"{text_of(operation)}: the two cannot be compared ({error}). Cast a column."
        ) from error
    return Logical(plain(found), nulls(found))


def _point_in_time(constant: Constant, kind: pa.DataType) -> pa.Scalar:
    try:
        return texts_of([str(constant.value)]).cast(kind)[0]
    except pa.ArrowException as error:
        raise StreamlrError(
            f"'{constant.value}' is no date or time; write '2024-01-31' or '2024-01-31 12:00:00'."
        ) from error


def _call(call: Call, frame: Frame, states: Mapping[str, State]) -> Values:
    function = call.function
    argument = call.arguments[0]
    if function == "isnull":
        return Logical(_is_missing(argument, frame, states))
    if function in ("min", "max"):
        columns = [as_numbers(evaluate(value, frame, states)) for value in call.arguments]
        return reduce(np.minimum if function == "min" else np.maximum, columns)
    values = evaluate(argument, frame, states)
    if function == "I":
        return values
    if isinstance(values, pa.Array):
        return (
            _of_text(function, values)
            if function in ("lower", "strip", "len")
            else _of_time(function, values)
        )
    x = as_numbers(values)
    if function in ELEMENTWISE:
        return ELEMENTWISE[function](x)
    options = options_of(call)
    if function == "round":
        found = np.round(x, int(options.get("digits") or 0))
        return np.where(np.isfinite(found), found, x)  # what overflows has no such digits
    if function == "clip":
        return np.clip(x, options.get("lower"), options.get("upper"))
    return _learned(function, x, states[text_of(call)])


def _learned(function: str, x: Floats, state: State) -> Floats:
    if function == "center":
        return x - state["mean"]
    if function in ("scale", "standardize"):
        return (x - state["mean"]) / state["deviation"]
    if function == "poly":
        return _columns(
            polynomial_values(x - state["mean"], np.array(state["alpha"]), np.array(state["norm2"]))
        )
    inner = np.array(state["knots"])
    if function == "bs":
        return _columns(
            bspline(x, inner, state["lower"], state["upper"], int(state["degree"]), bool(state["intercept"]))
        )
    if function == "ns":
        return _columns(natural_spline(x, inner, state["lower"], state["upper"], bool(state["intercept"])))
    return _columns(cardinal_spline(x, inner))


def _columns(basis: Floats) -> Floats:
    """(n, m) as (m, n), one column of the design after another."""
    return np.ascontiguousarray(basis.T)


def _is_missing(argument: Expression, frame: Frame, states: Mapping[str, State]) -> NDArray[np.bool_]:
    if isinstance(argument, Column):
        found = missing_of(frame.raw(argument.name))
    else:
        values = evaluate(argument, frame, states)
        if isinstance(values, Logical):
            found = values.missing
        else:
            found = missing_of(values) if isinstance(values, pa.Array) else np.isnan(values)
    return np.zeros(frame.rows, dtype=np.bool_) if found is None else found


def _of_text(function: str, texts: pa.DictionaryArray) -> Values:
    """Once for every entry of the dictionary, then for its rows."""
    entries = texts.dictionary.cast(pa.string())
    if function == "len":
        lengths = plain(call_function("utf8_length", [entries])).astype(np.float64)
        found = np.append(lengths, np.nan)[entries_of(texts, len(lengths))]
        if (missing := missing_of(texts)) is not None:
            found[missing] = np.nan
        return found
    changed = call_function("utf8_lower" if function == "lower" else "utf8_trim_whitespace", [entries])
    return pa.DictionaryArray.from_arrays(texts.indices, changed)


def _of_time(function: str, times: pa.Array) -> Floats:
    if function in ("hour", "minute") and pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("s"))
    parts = call_function("day_of_week" if function == "dow" else function, [times])
    found = plain(parts).astype(np.float64)
    if (missing := nulls(parts)) is not None:
        found[missing] = np.nan
    return found


def _intervals(call: Call, frame: Frame, states: Mapping[str, State]) -> pa.Array:
    """`cut`: the interval of every row as a code into its labels; null outside of all of them."""
    x = as_numbers(evaluate(call.arguments[0], frame, states))
    state = states[text_of(call)]
    breaks, right = np.array(state["breaks"], dtype=np.float64), bool(state["right"])
    breaks[np.isnan(breaks)] = np.inf  # None: no break on this side
    breaks[0] = -np.inf if np.isinf(breaks[0]) else breaks[0]
    codes = np.searchsorted(breaks, x, side="left" if right else "right") - 1
    if state["include_lowest"]:  # the outer end of the last interval that is open there
        codes[x == (breaks[0] if right else breaks[-1])] = 0 if right else len(breaks) - 2
    outside = np.isnan(x) | (codes < 0) | (codes > len(breaks) - 2)
    codes = np.where(outside, 0, codes).astype(np.int32)
    return pa.DictionaryArray.from_arrays(arrow_of(codes, outside), texts_of(state["labels"]))


def interval_labels(breaks: Sequence[float], right: bool, include_lowest: bool) -> list[str]:
    """Names of the intervals between breaks, as R's `cut` writes them: three digits, more if they meet."""
    texts: list[str] = []
    for digits in range(3, 18):
        texts = [f"{value:.{digits}g}".replace("inf", "Inf") for value in breaks]
        if len(set(texts)) == len(texts):
            break
    opening, closing = ("(", "]") if right else ("[", ")")
    labels = [f"{opening}{a},{b}{closing}" for a, b in pairwise(texts)]
    if include_lowest and right:
        labels[0] = "[" + labels[0][1:]
    elif include_lowest:
        labels[-1] = labels[-1][:-1] + "]"
    return labels


def _buckets(call: Call, frame: Frame, states: Mapping[str, State], whole: bool) -> pa.Array:
    """`hash`: CRC-32 of the level as it prints (3.0 as 3), modulo the number of buckets."""
    levels = coded(as_levels(call.arguments[0], frame, states, whole))
    buckets = int(options_of(call)["buckets"])
    entries = [
        zlib.crc32(_printed(level_of(value)).encode()) % buckets for value in levels.dictionary.to_pylist()
    ]
    table = np.array([*entries, 0], dtype=np.int64)
    return arrow_of(table[entries_of(levels, len(entries))], missing_of(levels))


def _printed(level: Level | None) -> str:
    """3 and 3.0 are one level."""
    return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)


def level_order(expression: Expression, states: Mapping[str, State]) -> Sequence[Any] | None:
    """The levels of a factor in the order that its expression sets, None where they are to be sorted."""
    if isinstance(expression, Call) and expression.function == "cut":
        labels: Sequence[Any] = states[text_of(expression)]["labels"]
        return labels
    if isinstance(expression, Call) and expression.function == "C":
        levels: Sequence[Any] | None = options_of(expression).get("levels")
        inner = level_order(expression.arguments[0], states)
        return inner if levels is None else levels
    return None


def states_columns(expression: Expression, states: Mapping[str, State]) -> int | None:
    """How many columns a numeric expression makes where its function makes several, else None."""
    if not isinstance(expression, Call):
        return None
    if expression.function == "I":
        return states_columns(expression.arguments[0], states)
    if expression.function not in SEVERAL:
        return None
    state = states[text_of(expression)]
    if expression.function == "poly":
        return len(state["alpha"])
    inner = len(state["knots"])
    if expression.function == "cr":
        return inner
    degree = int(state["degree"]) if expression.function == "bs" else 1
    return inner + degree + int(bool(state["intercept"]))
