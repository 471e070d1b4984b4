"""The row filter: `year >= 2023 and carrier in ('AA', 'UA') and dep_delay is not null`.

A filter is read by a small parser of its own and never evaluated as Python. Its logic is SQL's, with NaN
counted as null: a comparison with a missing value is neither true nor false, also under `not`, and a row is
kept where the whole is true, so `x != 3` and `not x = 3` both drop rows in which x is missing. That is why a
negation can be moved down to the comparisons while parsing: what is left are `and` and `or` over conditions
that hold or do not hold. Values are exact: a number is compared as it is written with integers, decimals and
times, and in the column's own precision with floats; text is compared by code point. Nothing here converts
Python values to Arrow by `pa.array` or `pa.scalar`, which import pandas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache, reduce
from operator import and_, or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamlr.design.columns import is_number, is_text, plain
from streamlr.errors import StreamlrError, did_you_mean

MAXIMUM_LENGTH = 65_536
MAXIMUM_DEPTH = 100
# Arrow simplifies a long `or` by recursion: ten thousand comparisons overflow the stack of its C++ code.
MAXIMUM_COMPARISONS = 500
# Digits of a number before or after its point: more than any column type has.
MAXIMUM_DIGITS = 400

NEGATED = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
OPERATORS = {"=": "==", "==": "==", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
KEYWORDS = frozenset(["and", "or", "not", "in", "is", "null", "between", "true", "false"])
TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<word>[^\W\d][\w.]*)
    |(?P<text>'[^']*(?:''[^']*)*')
    |(?P<quoted>`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*")
    |(?P<sign><>|<=|>=|==|!=|[=<>(),+-])
    |(?P<end>\Z)
    )""",
    re.VERBOSE,
)
ARITHMETIC = "arithmetic is not supported; columns are compared with values."
ADVICE = {
    "'": "a text begins that has no closing quote.",
    '"': "a name begins that has no closing quote.",
    "`": "a name begins that has no closing quote.",
    "&": "write 'and'.",
    "|": "write 'or'.",
    "~": "write 'not'.",
    "!": "write 'not', or '!='.",
    "*": ARITHMETIC,
    "/": ARITHMETIC,
    "%": ARITHMETIC,
}
TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[ T](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?\s?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
OFFSET = re.compile(r"[+-]\d{2}:?\d{2}", re.ASCII)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# What cannot follow a number at once.
RUN = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Literal:
    """A value as it was written: sort is "number", "text" or "truth" ("true" or "false")."""

    sort: str
    text: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 40 else f"{self.text[:37]}..."
        return f"'{shown}'" if self.sort == "text" else shown


@dataclass(frozen=True)
class Where:
    """A row filter: as it was written, the columns it reads in the order of their mention, what it means."""

    text: str
    columns: tuple[str, ...]
    condition: Condition

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) which rows of a batch are kept. The batch holds at least `columns`.

        A column may come as codes or plainly, in one batch so and in the next otherwise, or with a type of
        its own; it is compared in the type it comes in. Raises `StreamlrError` where that type does not fit.
        """
        return self.condition.mask(batch)

    def expression(self) -> pc.Expression:
        """What is true of every row that is kept, as Arrow says it, for leaving out rows unread.

        It is true of no other row, with one exception: `x is null` of a float column is taken for true,
        because NaN counts as null and the ranges in Parquet footers, which Arrow simplifies by, say nothing
        of NaN.
        """
        return self.condition.expression()


def parse_where(text: str, schema: pa.Schema, origin: str) -> Where:
    """Read a filter over the columns of `schema`; `origin` is what messages call the table.

    Comparisons `= == != <> < <= > >=` of a column with a value, `in (…)`, `between … and …`, `is null`, a
    truth column by itself, `and`, `or`, `not` in any case, and parentheses. Names stand bare, in backquotes
    or, as in SQL, in double quotes; text, dates and times stand in single quotes, `''` for a quote. A time
    without an offset is in the zone of its column. Raises `StreamlrError` where it cannot be read, names an
    unknown column, or compares things of two kinds.
    """
    if len(text) > MAXIMUM_LENGTH:
        raise StreamlrError(f"the filter has {len(text):,} characters; at most {MAXIMUM_LENGTH:,} are read.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StreamlrError("the filter is not valid Unicode text.") from error
    if not text.strip():
        raise StreamlrError(
            "the filter is empty. Write a condition such as: year >= 2023 and carrier in ('AA', 'UA')."
        )
    return Where(text, *_Parser(text, schema, origin).parse())


# Conditions


@dataclass(frozen=True)
class Both:
    """All of some conditions."""

    conditions: tuple[Condition, ...]

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) where all hold."""
        return reduce(and_, (condition.mask(batch) for condition in self.conditions))

    def expression(self) -> pc.Expression:
        """All of their expressions."""
        return _balanced(and_, [condition.expression() for condition in self.conditions])


@dataclass(frozen=True)
class Either:
    """At least one of some conditions."""

    conditions: tuple[Condition, ...]

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) where one holds."""
        return reduce(or_, (condition.mask(batch) for condition in self.conditions))

    def expression(self) -> pc.Expression:
        """Any of their expressions."""
        return _balanced(or_, [condition.expression() for condition in self.conditions])


@dataclass(frozen=True)
class Missing:
    """`column is null`, of float columns NaN included, or with `wanted` false its opposite."""

    column: str
    kind: pa.DataType
    wanted: bool

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) where it holds."""
        array = batch.column(self.column)
        return _by_entries(array, lambda values: _missing(values) == self.wanted, of_null=self.wanted)

    def expression(self) -> pc.Expression:
        """Nulls as Arrow tells them; "true" where NaN would be wanted."""
        if not self.wanted:
            return _present(self.column, self.kind)
        return _constant(True) if pa.types.is_floating(self.kind) else pc.field(self.column).is_null()


@dataclass(frozen=True)
class Comparison:
    """`column operator value`; `kind` is the type of the column, of a coded one that of its entries."""

    column: str
    kind: pa.DataType
    operator: str
    value: Literal

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) where it holds."""
        return _by_entries(batch.column(self.column), self._holds, of_null=False)

    def _holds(self, values: pa.Array) -> NDArray[np.bool_]:
        told = _in_type(self.column, values.type, self.operator, self.value)
        if told is True:
            return ~_missing(values)
        if told is False:
            return np.zeros(len(values), dtype=np.bool_)
        held = COMPARE[told[0]](_comparable(values), told[1])
        # NaN is unequal to everything by IEEE 754, but missing here.
        return _true(held) & ~_missing(values) if told[0] == "!=" else _true(held)

    def expression(self) -> pc.Expression:
        """The comparison in the type of the column."""
        told = _in_type(self.column, self.kind, self.operator, self.value)
        if told is True:
            return _present(self.column, self.kind)
        if told is False:
            return _constant(False)
        held = COMPARE[told[0]](_comparable_field(self.column, self.kind), told[1])
        return held & _present(self.column, self.kind) if told[0] == "!=" else held


@dataclass(frozen=True)
class Among:
    """`column in (values)`, or with `wanted` false `column not in (values)`."""

    column: str
    kind: pa.DataType
    values: tuple[Literal, ...]
    wanted: bool

    def mask(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(n,) where it holds."""
        return _by_entries(batch.column(self.column), self._holds, of_null=False)

    def _holds(self, values: pa.Array) -> NDArray[np.bool_]:
        found = plain(
            pc.is_in(_comparable(values), value_set=_set_in_type(self.column, values.type, self.values))
        )
        return found if self.wanted else ~(found | _missing(values))

    def expression(self) -> pc.Expression:
        """The same in the type of the column."""
        field = _comparable_field(self.column, self.kind)
        found = field.isin(_set_in_type(self.column, self.kind, self.values))
        return found if self.wanted else ~found & _present(self.column, self.kind)


Condition = Both | Either | Missing | Comparison | Among


def _balanced(join: Callable[[Any, Any], Any], parts: Sequence[pc.Expression]) -> pc.Expression:
    """All parts joined pair by pair, so that many of them make no deep expression."""
    while len(parts) > 1:
        pairs = [join(*parts[first : first + 2]) for first in range(0, len(parts) - 1, 2)]
        parts = [*pairs, parts[-1]] if len(parts) % 2 else pairs
    return parts[0]


def _present(column: str, kind: pa.DataType) -> pc.Expression:
    field = pc.field(column)
    return field.is_valid() & ~pc.is_nan(field) if pa.types.is_floating(kind) else field.is_valid()


def _constant(value: bool) -> pc.Expression:
    return pc.scalar(_typed([str(value).lower()], pa.bool_())[0])


def _comparable_field(column: str, kind: pa.DataType) -> pc.Expression:
    wanted = _comparable_type(kind)
    return pc.field(column) if wanted == kind else pc.field(column).cast(wanted)


# Columns of a batch


def _by_entries(
    array: pa.Array, holds: Callable[[pa.Array], NDArray[np.bool_]], *, of_null: bool
) -> NDArray[np.bool_]:
    """(n,) `holds` of every row; of a coded column by way of its entries where those are fewer."""
    if array.null_count == len(array):  # its type may be anything
        return np.full(len(array), of_null, dtype=np.bool_)
    if not pa.types.is_dictionary(array.type):
        return holds(array)
    entries, indices = array.dictionary, array.indices
    if pa.types.is_string_view(entries.type):  # the one type that Arrow cannot take from yet
        entries = entries.cast(pa.string())
    if len(entries) > len(array):
        return holds(entries.take(indices))
    places = plain(indices).astype(np.int64)
    if indices.null_count:
        places[plain(pc.is_null(indices))] = len(entries)
    return np.append(holds(entries), of_null)[places]


def _comparable_type(kind: pa.DataType) -> pa.DataType:
    """A type that Arrow has all comparisons for and that holds every value of `kind`."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def _comparable(values: pa.Array) -> pa.Array:
    wanted = _comparable_type(values.type)
    return values if wanted == values.type else values.cast(wanted)


def _missing(values: pa.Array) -> NDArray[np.bool_]:
    """(n,) null or NaN."""
    return plain(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))


def _true(held: pa.Array) -> NDArray[np.bool_]:
    """(n,) true, neither false nor null."""
    return plain(held) & plain(pc.is_valid(held)) if held.null_count else plain(held)


# Values in the type of a column


def _typed(texts: Sequence[str], kind: pa.DataType) -> pa.Array:
    """An Arrow array of values written as text; those of times are whole numbers of their unit since 1970."""
    encoded = [text.encode() for text in texts]
    borders = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(borders), pa.py_buffer(b"".join(encoded))]
    array = pa.Array.from_buffers(pa.string(), len(encoded), buffers)
    if pa.types.is_temporal(kind):
        return array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    return array.cast(kind)


@lru_cache(maxsize=1024)
def _in_type(column: str, kind: pa.DataType, operator: str, value: Literal) -> tuple[str, pa.Scalar] | bool:
    """The comparison as one with a value of the (comparable) type of the column.

    True where it holds of every value that is not missing, False where it holds of none. Raises
    `StreamlrError` where the column and the value are of two kinds.
    """
    told = _as_text(column, kind, operator, value)
    return told if isinstance(told, bool) else (told[0], _typed([told[1]], _comparable_type(kind))[0])


@lru_cache(maxsize=64)
def _set_in_type(column: str, kind: pa.DataType, values: tuple[Literal, ...]) -> pa.Array:
    """Those of the values that the column can hold, in its (comparable) type. Raises as `_in_type` does."""
    if pa.types.is_null(kind):
        return pa.nulls(0)
    told = (_as_text(column, kind, "==", value) for value in values)
    texts = [one[1] for one in told if not isinstance(one, bool)]
    if pa.types.is_floating(kind) and any(float(text) == 0 for text in texts):
        texts += ["0.0", "-0.0"]  # one number, but looked up as two
    return _typed(texts, _comparable_type(kind))


def _as_text(column: str, kind: pa.DataType, operator: str, value: Literal) -> tuple[str, str] | bool:
    """Operator and value as `_typed` reads it, or True or False as `_in_type` has them."""
    if pa.types.is_null(kind):
        return False
    if pa.types.is_boolean(kind):
        if value.sort != "truth":
            raise StreamlrError(
                f"the filter compares column '{column}', which holds truth values, with {value}. "
                f"Write {column} = true, {column} = false, or {column} alone."
            )
        if operator not in ("==", "!="):
            raise StreamlrError(
                f"the filter orders column '{column}', which holds truth values. Write = or !=."
            )
        return operator, value.text
    if is_text(kind):
        if value.sort != "text":
            raise StreamlrError(
                f"the filter compares column '{column}', which holds text, with {value}. "
                f"Write the text in single quotes: '{value}'."
            )
        return operator, value.text
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        limit = 2 ** (kind.bit_width - 1)
        return _whole(operator, _time(column, kind, value), -limit, limit - 1)
    if not is_number(kind):
        raise StreamlrError(
            f"the filter compares column '{column}' with {value}, but columns of type {kind} can only be "
            "asked whether they are null."
        )
    if value.sort != "number":
        advice = "Write the number without quotes." if value.sort == "text" else "Write 1 or 0."
        raise StreamlrError(
            f"the filter compares column '{column}', which holds numbers ({kind}), with {value}. {advice}"
        )
    if pa.types.is_floating(kind):
        return _rounded(operator, float(value.text), np.finfo(kind.to_pandas_dtype()))
    wanted = Fraction(Decimal(value.text))
    if pa.types.is_decimal(kind):
        limit = 10**kind.precision
        told = _whole(operator, wanted * Fraction(10) ** kind.scale, 1 - limit, limit - 1)
        return told if isinstance(told, bool) else (told[0], _with_scale(told[1], kind.scale))
    low = -(2 ** (kind.bit_width - 1)) if pa.types.is_signed_integer(kind) else 0
    return _whole(operator, wanted, low, low + 2**kind.bit_width - 1)


def _whole(operator: str, wanted: Fraction, low: int, high: int) -> tuple[str, str] | bool:
    """`n operator wanted` of whole numbers n from low to high, as a comparison with one of them."""
    floor, ceiling = math.floor(wanted), math.ceil(wanted)
    if operator in ("==", "!="):
        if floor != ceiling or not low <= floor <= high:
            return operator == "!="
        return operator, str(floor)
    if operator in ("<", "<="):
        last = floor if operator == "<=" else ceiling - 1
        return last >= high if not low <= last < high else ("<=", str(last))
    first = ceiling if operator == ">=" else floor + 1
    return first <= low if not low < first <= high else (">=", str(first))


def _rounded(operator: str, wanted: float, precision: np.finfo[Any]) -> tuple[str, str] | bool:
    """A comparison with the nearest float; with the largest one where `wanted` is beyond it."""
    with np.errstate(over="ignore"):
        nearest = float(precision.dtype.type(wanted))
    if math.isfinite(nearest):
        return operator, repr(nearest)
    if operator in ("==", "!="):
        return operator == "!="
    # Only infinity lies beyond: x < 1e999 is x <= the largest, x > 1e999 is x > the largest.
    beyond = operator[0] == (">" if wanted > 0 else "<")
    return operator[0] if beyond else f"{operator[0]}=", repr(math.copysign(float(precision.max), wanted))


def _with_scale(scaled: str, scale: int) -> str:
    """A decimal number from its digits as a whole number."""
    sign, digits, _ = Decimal(scaled).as_tuple()
    return format(Decimal((sign, digits, -scale)), "f")


def _time(column: str, kind: pa.DataType, value: Literal) -> Fraction:
    """A date or time as units of the column since 1970, of a column with a time zone in UTC."""
    told = f"the filter compares column '{column}' ({kind}) with {value}"
    match = TIME.fullmatch(value.text.strip()) if value.sort == "text" else None
    moment = None
    if match is not None:
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
        with suppress(ValueError):
            moment = datetime(year, month, day, hour, minute, second)
    if match is None or moment is None:
        raise StreamlrError(
            f"{told}, which is no date or time. Write '2024-01-31' or '2024-01-31 18:30:00', with quotes."
        )
    digits, offset = match.group(7) or "0", match.group(8)
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    if offset and zone is None:
        raise StreamlrError(f"{told}, but the column has no time zone. Leave out the offset {offset}.")
    since = moment - datetime(1970, 1, 1)
    if offset:
        since -= _fixed_offset(offset)
    elif zone:
        since -= _offset_in_zone(moment, zone, told)
    seconds = since.days * 86_400 + since.seconds + Fraction(int(digits), 10 ** len(digits))
    if pa.types.is_date32(kind):
        return seconds / 86_400
    return seconds * (1_000 if pa.types.is_date64(kind) else PER_SECOND[kind.unit])


def _fixed_offset(text: str) -> timedelta:
    """An offset such as +02:00 or Z."""
    if text == "Z":
        return timedelta(0)
    hours, minutes = int(text[1:3]), int(text[-2:])
    return timedelta(hours=hours, minutes=minutes) * (-1 if text[0] == "-" else 1)


def _offset_in_zone(moment: datetime, zone: str, told: str) -> timedelta:
    """How far a zone's clocks are ahead of UTC when they show `moment`."""
    if OFFSET.fullmatch(zone):
        return _fixed_offset(zone)
    from zoneinfo import ZoneInfo

    try:
        clocks = ZoneInfo(zone)
    except (OSError, ValueError, KeyError) as error:
        raise StreamlrError(
            f"{told}, but the time zone {zone} is not known here. Give the offset: '{moment}+00:00'."
        ) from error
    first, second = (moment.replace(tzinfo=clocks, fold=fold).utcoffset() for fold in (0, 1))
    if first is None or first != second:
        raise StreamlrError(
            f"{told}, but clocks in {zone} show that time twice or never. Give the offset: '{moment}+00:00'."
        )
    return first


# The grammar


@dataclass(frozen=True)
class Token:
    """A piece of the text: sort is "number", "word", "text", "quoted", "sign" or "end"."""

    sort: str
    text: str
    position: int

    @property
    def keyword(self) -> str:
        """The word in lower case where it belongs to the language, the sign, or nothing."""
        if self.sort == "sign":
            return self.text
        lowered = self.text.lower()
        return lowered if self.sort == "word" and lowered in KEYWORDS else ""


@dataclass(frozen=True)
class Name:
    """A column as it was named."""

    text: str
    token: Token


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while True:
        match = TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            odd = f"'{text[position]}' has no meaning here. A name with such characters stands in backquotes."
            raise _unreadable(text, position, ADVICE.get(text[position], odd))
        sort = str(match.lastgroup)
        token = Token(sort, match.group(sort), match.start(sort))
        position = match.end()
        if sort == "number" and (following := RUN.match(text, position)):
            word = token.text + following.group()
            message = f"'{word[:40]}' is no number. A name that begins with a digit stands in backquotes."
            raise _unreadable(text, token.position, message)
        yield token
        if sort == "end":
            return


def _unreadable(text: str, position: int, message: str) -> StreamlrError:
    rest = text[position:].strip()
    there = f"at {rest if len(rest) <= 30 else rest[:27] + '...'!r}" if rest else "at its end"
    return StreamlrError(f"cannot read the filter {there} (character {position + 1}): {message}")


class _Parser:
    """Recursive descent, one method a rule. `wanted` false means that the opposite is to hold."""

    def __init__(self, text: str, schema: pa.Schema, origin: str) -> None:
        self._text = text
        self._schema = schema
        self._origin = origin
        self._tokens = _tokens(text)
        self._token = next(self._tokens)
        self._columns: dict[str, None] = {}
        self._comparisons = 0

    def parse(self) -> tuple[tuple[str, ...], Condition]:
        """Columns in the order of their mention, and the condition."""
        condition = self._either(True, 0)
        if self._token.sort != "end":
            raise self._fail(self._token, "'and', 'or' or the end of the filter is expected here.")
        return tuple(self._columns), condition

    def _fail(self, token: Token, message: str) -> StreamlrError:
        return _unreadable(self._text, token.position, message)

    def _take(self) -> Token:
        token = self._token
        if token.sort != "end":
            self._token = next(self._tokens)
        return token

    def _found(self, keyword: str) -> bool:
        """Whether this keyword or sign comes next; it is taken if so."""
        if self._token.keyword != keyword:
            return False
        self._take()
        return True

    def _expect(self, keyword: str) -> None:
        if not self._found(keyword):
            raise self._fail(self._token, f"'{keyword}' is expected here.")

    def _either(self, wanted: bool, depth: int) -> Condition:
        parts = [self._both(wanted, depth)]
        while self._found("or"):
            parts.append(self._both(wanted, depth))
        return parts[0] if len(parts) == 1 else (Either if wanted else Both)(tuple(parts))

    def _both(self, wanted: bool, depth: int) -> Condition:
        parts = [self._one(wanted, depth)]
        while self._found("and"):
            parts.append(self._one(wanted, depth))
        return parts[0] if len(parts) == 1 else (Both if wanted else Either)(tuple(parts))

    def _one(self, wanted: bool, depth: int) -> Condition:
        if depth > MAXIMUM_DEPTH:
            raise self._fail(self._token, f"it is nested more than {MAXIMUM_DEPTH} deep.")
        if self._found("not"):
            return self._one(not wanted, depth + 1)
        if self._found("("):
            condition = self._either(wanted, depth + 1)
            self._expect(")")
            return condition
        return self._test(wanted)

    def _test(self, wanted: bool) -> Condition:
        begin = self._token
        left = self._operand()
        self._comparisons += 1
        if self._comparisons > MAXIMUM_COMPARISONS:
            raise self._fail(
                begin,
                f"it makes more than {MAXIMUM_COMPARISONS} comparisons. "
                "Write many values of one column as: column in (1, 2, 3).",
            )
        if self._token.keyword in OPERATORS:
            return self._comparison(left, wanted)
        if isinstance(left, Literal):
            raise self._fail(begin, f"{left} alone is no condition; compare a column with it.")
        name, kind = self._column(left)
        if self._found("is"):
            opposite = self._found("not")
            self._expect("null")
            return Missing(name, kind, wanted != opposite)
        negated = self._found("not")
        if self._found("in"):
            return self._among(name, kind, wanted != negated)
        if self._found("between"):
            low = self._value()
            self._expect("and")
            high = self._value()
            return self._between(name, kind, low, high, wanted != negated)
        if negated:
            raise self._fail(self._token, "'in' or 'between' is expected here.")
        if not pa.types.is_boolean(kind):
            raise self._fail(
                begin, f"column '{name}' ({kind}) alone is no condition; compare it with a value."
            )
        return self._compared(name, kind, "==", Literal("truth", "true"), wanted)

    def _comparison(self, left: Name | Literal, wanted: bool) -> Condition:
        sign = self._take()
        operator = OPERATORS[sign.text]
        right = self._operand()
        if self._token.keyword in OPERATORS:
            raise self._fail(
                self._token, "comparisons cannot be chained. Write: x between 1 and 3, or: 1 < x and x < 3."
            )
        if isinstance(left, Literal):
            if isinstance(right, Literal):
                raise self._fail(sign, f"{left} and {right} are both values; compare a column with one.")
            left, right, operator = right, left, MIRRORED[operator]
        if isinstance(right, Name):
            raise self._no_value(right)
        name, kind = self._column(left)
        return self._compared(name, kind, operator, right, wanted)

    def _compared(
        self, name: str, kind: pa.DataType, operator: str, value: Literal, wanted: bool
    ) -> Comparison:
        operator = operator if wanted else NEGATED[operator]
        _in_type(name, kind, operator, value)
        return Comparison(name, kind, operator, value)

    def _between(self, name: str, kind: pa.DataType, low: Literal, high: Literal, wanted: bool) -> Condition:
        ends = (self._compared(name, kind, ">=", low, wanted), self._compared(name, kind, "<=", high, wanted))
        return Both(ends) if wanted else Either(ends)

    def _among(self, name: str, kind: pa.DataType, wanted: bool) -> Among:
        self._expect("(")
        values = [self._value()]
        while self._found(","):
            values.append(self._value())
        self._expect(")")
        _set_in_type(name, kind, tuple(values))
        return Among(name, kind, tuple(values), wanted)

    def _value(self) -> Literal:
        operand = self._operand()
        if isinstance(operand, Name):
            raise self._no_value(operand)
        return operand

    def _no_value(self, name: Name) -> StreamlrError:
        """Why a name cannot stand where a value is expected."""
        shown = name.text[:40].replace("'", "''")
        if name.text in self._schema.names:
            message = f"'{name.text}' is a column, and a column is compared with values only."
        else:
            quoted = "double quotes name a column" if name.token.text[0] == '"' else "this names a column"
            message = f"{quoted}, and there is no column '{name.text[:40]}'."
        return self._fail(name.token, f"{message} Text stands in single quotes: '{shown}'.")

    def _operand(self) -> Name | Literal:
        operand = self._unit()
        if self._token.keyword in ("+", "-"):
            raise self._fail(self._token, ARITHMETIC)
        return operand

    def _unit(self) -> Name | Literal:
        token = self._take()
        keyword = token.keyword
        if token.sort == "number":
            return self._number(token, "")
        if keyword in ("-", "+"):
            if self._token.sort != "number":
                raise self._fail(self._token, "a number is expected here.")
            return self._number(self._take(), "-" if keyword == "-" else "")
        if token.sort == "text":
            return Literal("text", token.text[1:-1].replace("''", "'"))
        if keyword in ("true", "false"):
            return Literal("truth", keyword)
        if keyword == "null":
            raise self._fail(token, "nothing equals null. Write: x is null, or: x is not null.")
        if keyword or token.sort == "end":
            quoting = f" If {token.text} is a column, put it in backquotes." if token.sort == "word" else ""
            raise self._fail(token, f"a column or a value is expected here.{quoting}")
        if self._token.keyword == "(" and token.sort == "word":
            raise self._fail(
                token,
                "functions are not supported; a filter compares columns with values, and knows in, "
                "between, is null, and, or, not.",
            )
        if token.sort == "quoted":
            mark = token.text[0]
            return Name(token.text[1:-1].replace(mark * 2, mark), token)
        return Name(token.text, token)

    def _number(self, token: Token, sign: str) -> Literal:
        try:
            size = max(len(token.text), abs(Decimal(token.text).adjusted()))
        except ArithmeticError:
            size = MAXIMUM_DIGITS + 1
        if size > MAXIMUM_DIGITS:
            raise self._fail(token, f"a number of more than {MAXIMUM_DIGITS} digits is not read.")
        return Literal("number", sign + token.text)

    def _column(self, name: Name) -> tuple[str, pa.DataType]:
        """The column and its type, of a coded one that of its entries."""
        names = self._schema.names
        if name.text not in names:
            raise StreamlrError(
                f"no column '{name.text[:200]}' in {self._origin} ({len(names)} columns), "
                f"which the filter names.{did_you_mean(name.text[:200], names)}"
            )
        self._columns[name.text] = None
        kind = self._schema.field(name.text).type
        return name.text, kind.value_type if pa.types.is_dictionary(kind) else kind
