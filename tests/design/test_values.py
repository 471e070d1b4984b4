"""Expressions over a batch against plain Python, row by row, on every type a column can have.

The obvious evaluation is written in each test: Python's own numbers and texts, None for a missing value.
A row has the same values in whatever batch it comes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlr.design.expressions import parse_expression
from streamlr.design.features import Feature, Reader
from streamlr.design.functions import is_whole, kind_of
from streamlr.design.learning import learner_of
from streamlr.design.values import (
    Frame,
    Logical,
    as_levels,
    as_numbers,
    evaluate,
    interval_labels,
    level_order,
    states_columns,
)
from streamlr.errors import StreamlrError

NAN = math.nan


def batch_of(**columns: Any) -> pa.RecordBatch:
    arrays = [value if isinstance(value, pa.Array) else pa.array(value) for value in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def listed(values: Any) -> list[Any]:
    """Values as Python has them, None where missing."""
    if isinstance(values, Logical):
        missing = np.zeros(len(values.values), bool) if values.missing is None else values.missing
        return [None if gone else bool(value) for value, gone in zip(values.values, missing, strict=True)]
    if isinstance(values, pa.Array):
        return [None if v is None or v != v else v for v in values.to_pylist()]
    assert values.dtype == np.float64
    return [None if value != value else float(value) for value in values]


def result(text: str, batch: pa.RecordBatch, **states: Any) -> list[Any]:
    expression = parse_expression(text)
    kind_of(expression, {field.name: field.type for field in batch.schema})
    return listed(evaluate(expression, Frame(batch), states.get("states", {})))


def assert_alike(found: list[Any], expected: list[Any]) -> None:
    """Missing in the same rows, and equal but for the rounding of two libraries' logarithms."""
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v for v in found if v is not None] == pytest.approx(
        [v for v in expected if v is not None], rel=1e-15, abs=1e-15
    )


def levels(text: str, batch: pa.RecordBatch, states: Any = None) -> list[Any]:
    expression = parse_expression(text)
    types = {field.name: field.type for field in batch.schema}
    kind_of(expression, types)
    found = as_levels(expression, Frame(batch), states or {}, is_whole(expression, types))
    return [None if v is None or v != v else v for v in found.to_pylist()]


def state_of(text: str) -> dict[str, Any]:
    """The state of a call that needs no data."""
    call = parse_expression(text)
    return {text: learner_of(call)}  # type: ignore[arg-type]


X = [1.5, -2.0, 0.0, None, NAN, 100.0, 0.25]
Y = [2.0, 3.0, None, 1.0, 1.0, -1.0, 0.5]
XY = batch_of(x=X, y=Y)


def rowwise(function: Callable[..., float], *columns: Sequence[float | None]) -> list[float | None]:
    """What a function of Python makes of rows in which nothing is missing."""
    found: list[float | None] = []
    for row in zip(*columns, strict=True):
        if any(v is None or v != v for v in row):
            found.append(None)
            continue
        try:
            value = function(*row)
        except (ValueError, ZeroDivisionError):
            value = None
        found.append(value)
    return found


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("x + y", lambda x, y: x + y),
        ("x - y", lambda x, y: x - y),
        ("x * y", lambda x, y: x * y),
        ("x / y", lambda x, y: x / y),
        ("x // y", lambda x, y: x // y),
        ("x % y", lambda x, y: x % y),
        ("abs(x) ** y", lambda x, y: abs(x) ** y),
        ("-x", lambda x, y: -x),
        ("--x + 1", lambda x, y: x + 1),
        ("2 * (x - y) ** 2 - 1", lambda x, y: 2 * (x - y) ** 2 - 1),
        ("min(x, y, 1)", lambda x, y: min(x, y, 1)),
        ("max(x, y)", max),
        ("I(x + y)", lambda x, y: x + y),
        ("clip(x, 0, 2) + 0 * y", lambda x, y: min(max(x, 0), 2)),
    ],
)
def test_arithmetic(text: str, function: Callable[..., float]) -> None:
    batch = batch_of(x=X, y=Y)
    columns = (X, Y) if "y" in text else (X, [0.0] * len(X))
    assert_alike(result(text, batch), rowwise(function, *columns))


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("log(x)", math.log),
        ("log1p(x)", math.log1p),
        ("log2(x)", math.log2),
        ("log10(x)", math.log10),
        ("exp(x)", math.exp),
        ("sqrt(x)", math.sqrt),
        ("abs(x)", abs),
        ("sign(x)", lambda x: (x > 0) - (x < 0)),
        ("floor(x)", math.floor),
        ("ceil(x)", math.ceil),
        ("round(x)", round),
        ("round(x, 1)", lambda x: round(x, 1)),
        ("round(x, digits=-1)", lambda x: round(x, -1)),
        ("clip(x, upper=1)", lambda x: min(x, 1)),
        ("clip(x, -1)", lambda x: max(x, -1)),
        ("clip(x)", lambda x: x),
    ],
)
def test_functions_of_a_number(text: str, function: Callable[[float], float]) -> None:
    expected = rowwise(function, X)
    if text.startswith("log"):  # what no number has a logarithm of is missing, zero is infinite
        expected[2] = 0.0 if "1p" in text else -math.inf
    assert_alike(result(text, XY), expected)


def test_power_of_a_missing_value_is_missing() -> None:
    """NumPy and R say that 1 ** NaN and NaN ** 0 are 1."""
    batch = batch_of(x=[1.0, None, 2.0, None], y=[None, 0.0, 3.0, None])
    assert result("x ** y", batch) == [None, None, 8.0, None]
    assert result("1 ** y", batch) == [None, 1.0, 1.0, None]
    assert result("x ** 0", batch) == [1.0, None, 1.0, None]


def test_rounding_keeps_what_has_no_such_digits() -> None:
    assert result("round(x, 300)", batch_of(x=[1e10, -1.5e300, 0.5])) == [1e10, -1.5e300, 0.5]


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
        *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64()),
        *(pa.decimal128(12, 3), pa.decimal256(40, 1)),
        pa.dictionary(pa.int8(), pa.int16()),
        pa.dictionary(pa.int32(), pa.float64()),
    ],
    ids=str,
)
def test_arithmetic_of_every_width_is_that_of_doubles(type_: pa.DataType) -> None:
    values = [127, 3, None, 100, 0]
    if pa.types.is_decimal(type_):
        array = pa.array([None if v is None else Decimal(v) for v in values], type_)
    elif pa.types.is_dictionary(type_):
        array = pa.array(values, type_.value_type).dictionary_encode().cast(type_)
    elif type_ == pa.float16():
        array = pa.array([None if v is None else np.float16(v) for v in values], type_)
    else:
        array = pa.array(values, type_)
    padded = pa.concat_arrays([array, array]).slice(5)  # an offset into the buffers
    for batch in (batch_of(x=array), batch_of(x=padded)):
        assert result("x * x * x", batch) == [127.0**3, 27.0, None, 1e6, 0.0]
        assert result("-x - 1", batch) == [-128.0, -4.0, None, -101.0, -1.0]
        assert result("x + 200 > 300", batch) == [True, False, None, False, False]
        assert result("isnull(x)", batch) == [False, False, True, False, False]


def test_conditions_are_zero_and_one() -> None:
    batch = batch_of(b=[True, False, None], x=[1.0, 2.0, 3.0])
    assert result("b + x", batch) == [2.0, 2.0, None]
    assert result("-b", batch) == [-1.0, 0.0, None]
    assert result("(x > 1) * 2", batch) == [0.0, 2.0, 2.0]
    assert result("abs(b)", batch) == [1.0, 0.0, None]
    assert result("b == 1", batch) == [True, False, None]
    encoded = batch_of(b=pa.array([True, False, None]).dictionary_encode())
    assert result("~b", encoded) == [False, True, None]


THREE = [True, False, None]


@pytest.mark.parametrize(
    ("operator", "both"),
    [
        ("&", lambda a, b: False if a is False or b is False else None if a is None or b is None else True),
        ("|", lambda a, b: True if a is True or b is True else None if a is None or b is None else False),
    ],
)
def test_three_valued_logic(operator: str, both: Callable[[Any, Any], Any]) -> None:
    pairs = [(a, b) for a in THREE for b in THREE]
    batch = batch_of(a=[a for a, _ in pairs], b=[b for _, b in pairs])
    expected = [both(a, b) for a, b in pairs]
    assert result(f"a {operator} b", batch) == expected
    negated = [None if value is None else not value for value in expected]
    assert result(f"~(a {operator} b)", batch) == negated
    numbers = batch_of(
        x=[None if a is None else float(a) for a, _ in pairs], y=[None if b is None else b for _, b in pairs]
    )
    assert result(f"(x > 0.5) {operator} y", numbers) == expected
    known = batch_of(a=[a for a, _ in pairs if a is not None], b=[True] * 6)
    assert result(f"a {operator} b", known) == [both(a, True) for a, _ in pairs if a is not None]


TEXT_TYPES = [
    *(pa.string(), pa.large_string(), pa.string_view()),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int64(), pa.large_string()),
    pa.dictionary(pa.uint16(), pa.string()),
]
WORDS = [" Ab ", "ab", None, "", "É\t", "ab"]


def texts(values: Sequence[str | None], type_: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(type_):
        return pa.array(values, type_.value_type).dictionary_encode().cast(type_)
    return pa.array(values, type_)


@pytest.mark.parametrize("type_", TEXT_TYPES, ids=str)
def test_texts(type_: pa.DataType) -> None:
    batch = batch_of(s=texts(WORDS, type_))
    assert result("lower(s)", batch) == [" ab ", "ab", None, "", "é\t", "ab"]
    assert result("strip(s)", batch) == ["Ab", "ab", None, "", "É", "ab"]
    assert result("len(s)", batch) == [4.0, 2.0, None, 0.0, 2.0, 2.0]
    assert result("len(strip(lower(s)))", batch) == [2.0, 2.0, None, 0.0, 1.0, 2.0]
    assert result("lower(strip(s)) == 'ab'", batch) == [True, True, None, False, False, True]
    assert result("'ab' != s", batch) == [True, False, None, True, True, False]
    assert result("s >= 'a'", batch) == [w if w is None else w >= "a" for w in WORDS]
    assert result("isnull(s)", batch) == [False, False, True, False, False, False]
    assert levels("C(lower(strip(s)))", batch) == ["ab", "ab", None, "", "é", "ab"]
    assert levels("C(s, levels=['ab', ''])", batch) == [None, "ab", None, "", None, "ab"]
    assert levels("hash(lower(s), 16)", batch)[1] == zlib.crc32(b"ab") % 16
    part = batch.slice(1, 3)
    assert result("lower(s)", part) == ["ab", None, ""]
    assert levels("C(s, levels=['ab', ''])", part) == ["ab", None, ""]


def test_text_with_text() -> None:
    batch = batch_of(
        s=["a", "b", None, "d"], g=pa.array(["a", "c", "c", None], pa.large_string()).dictionary_encode()
    )
    assert result("s == g", batch) == [True, False, None, None]
    assert result("s < g", batch) == [False, True, None, None]
    assert result("g == s", batch) == [True, False, None, None]


MOMENTS = [
    datetime(2024, 2, 29, 23, 59, 30, tzinfo=timezone.utc),
    None,
    datetime(1969, 12, 31, 5, 7, tzinfo=timezone.utc),
    datetime(2023, 7, 2, 0, 0, tzinfo=timezone.utc),
]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
def test_parts_of_times(unit: str, zone: str | None) -> None:
    """Of a column with a zone, its local time."""
    array = pa.array(MOMENTS, pa.timestamp(unit, "UTC"))
    array = array.cast(pa.timestamp(unit, zone)) if zone else array.cast(pa.timestamp(unit))
    if zone is None or zone == "UTC":
        local = MOMENTS
    else:
        local = [None if moment is None else moment for moment in array.to_pylist()]
    for column in (array, array.dictionary_encode() if unit == "us" and zone is None else array):
        batch = batch_of(t=column)
        parts: dict[str, Callable[[datetime], int]] = {
            "year": lambda t: t.year,
            "month": lambda t: t.month,
            "day": lambda t: t.day,
            "dow": lambda t: t.weekday(),
            "hour": lambda t: t.hour,
            "minute": lambda t: t.minute,
        }
        for name, part in parts.items():
            expected = [None if t is None else float(part(t)) for t in local]
            assert result(f"{name}(t)", batch) == expected, name
        assert result("isnull(t)", batch) == [False, True, False, False]


def test_dates() -> None:
    days = [date(2024, 2, 29), None, date(1969, 12, 28)]
    for array in (pa.array(days, pa.date32()), pa.array(days, pa.date32()).cast(pa.date64())):
        batch = batch_of(t=array)
        assert result("day(t)", batch) == [29.0, None, 28.0]
        assert result("dow(t)", batch) == [3.0, None, 6.0]
        assert result("hour(t) + minute(t)", batch) == [0.0, None, 0.0]
        assert result("t > '2000-01-01'", batch) == [True, None, False]
        assert result("'2024-02-29' == t", batch) == [True, None, False]


@pytest.mark.parametrize("dictionary", [False, True])
def test_times_with_times(dictionary: bool) -> None:
    times = pa.array([datetime(2024, 1, 31, 12), None, datetime(2024, 2, 1)], pa.timestamp("us"))
    batch = batch_of(t=times.dictionary_encode() if dictionary else times, u=times)
    assert result("t > '2024-01-31'", batch) == [True, None, True]
    assert result("t > '2024-01-31 12:00:00'", batch) == [False, None, True]
    assert result("t == u", batch) == [True, None, True]
    with pytest.raises(StreamlrError, match="'soon' is no date or time"):
        result("t > 'soon'", batch)


def test_a_time_with_a_zone_and_one_without_are_not_compared() -> None:
    t = pa.array([datetime(2024, 1, 1)], pa.timestamp("us"))
    with pytest.raises(StreamlrError, match="t < u: the two cannot be compared"):
        result("t < u", batch_of(t=t, u=t.cast(pa.timestamp("us", "UTC"))))


def test_empty_batches_and_columns_without_a_type() -> None:
    empty = batch_of(x=pa.array([], pa.int8()), s=pa.array([], pa.string()), t=pa.array([], pa.date32()))
    for text in ("x + 1", "log(x)", "s == 'a'", "lower(s)", "len(s)", "year(t)", "t > '2024-01-01'"):
        assert result(text, empty) == []
    assert levels("C(s, levels=['a', 'b'])", empty) == []
    assert levels("hash(x, 4)", empty) == []
    assert levels("cut(x, [0, 1])", empty, state_of("cut(x, [0, 1])")) == []
    nothing = batch_of(x=pa.nulls(3), y=[1.0, 2.0, 3.0])
    assert result("x + y", nothing) == [None] * 3
    assert result("x > y", nothing) == [None] * 3
    assert result("isnull(x) | (y > 5)", nothing) == [True] * 3
    assert result("log(x)", nothing) == [None] * 3
    assert levels("C(x)", nothing) == [None] * 3
    assert levels("hash(x, 4)", nothing) == [None] * 3
    hollow = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int8()), pa.array([], pa.string()))
    assert result("len(s)", batch_of(s=hollow)) == [None, None]
    assert levels("C(lower(s), levels=['a', 'b'])", batch_of(s=hollow)) == [None, None]


def test_nulls_inside_a_dictionary() -> None:
    g = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2], pa.int8()), pa.array(["A", None, "b"]))
    batch = batch_of(g=g)
    assert result("isnull(g)", batch) == [False, True, True, False]
    assert result("lower(g)", batch) == ["a", None, None, "b"]
    assert result("len(g)", batch) == [1.0, None, None, 1.0]
    assert result("g == 'A'", batch) == [True, None, None, False]
    assert levels("hash(g, 5)", batch) == [zlib.crc32(b"A") % 5, None, None, zlib.crc32(b"b") % 5]


# Factors


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("[0, 1, 2]", [None, None, "(0,1]", "(0,1]", "(1,2]", None, None]),
        ("[2, 0, 1], right=False", [None, "[0,1)", "[0,1)", "[1,2)", None, None, None]),
        ("[0, 1, 2], include_lowest=True", [None, "[0,1]", "[0,1]", "[0,1]", "(1,2]", None, None]),
        (
            "[0, 1, 2], right=False, include_lowest=True",
            [None, "[0,1)", "[0,1)", "[1,2]", "[1,2]", None, None],
        ),
    ],
)
def test_cut(options: str, expected: list[str | None]) -> None:
    batch = batch_of(x=[-0.5, 0.0, 0.5, 1.0, 2.0, math.inf, None])
    text = f"cut(x, {options})"
    states = {text: learner_of(parse_expression(text))}  # type: ignore[arg-type]
    found = levels(text, batch, states)
    assert found == expected
    order = level_order(parse_expression(text), states)  # type: ignore[arg-type]
    assert order is not None
    assert list(order) == sorted({label for label in found if label}, key=list(order).index)


def test_labels_have_as_many_digits_as_tell_them_apart() -> None:
    assert interval_labels([0.0, 1.0, 2.0], True, False) == ["(0,1]", "(1,2]"]
    assert interval_labels([0.12345, 0.5, 100000.0], True, False) == ["(0.123,0.5]", "(0.5,1e+05]"]
    assert interval_labels([1.0001, 1.0002], False, True) == ["[1.0001,1.0002]"]


def test_whole_numbers_are_levels_without_a_point() -> None:
    batch = batch_of(x=[1.4, None, -2.6, NAN], i=pa.array([3, 4, None, 5], pa.int8()))
    assert levels("C(round(x))", batch) == [1.0, None, -3.0, None]
    expression = parse_expression("round(x)")
    whole = as_levels(expression, Frame(batch), {}, True)
    assert whole.type == pa.int64()
    assert whole.to_pylist() == [1, None, -3, None]
    assert levels("C(x > 0)", batch) == [True, None, False, None]
    assert levels("C(i, levels=[3, '5'])", batch) == [3, None, None, 5]


@pytest.mark.parametrize("value", [1e300, math.inf, -math.inf, 2.0**63])
def test_numbers_too_large_for_a_level(value: float) -> None:
    with pytest.raises(StreamlrError, match="too large"):
        as_levels(parse_expression("floor(x)"), Frame(batch_of(x=[1.0, value])), {}, True)


def test_hash_depends_on_the_level_alone() -> None:
    values = ["a", "b", None, "c", "a", "é"]
    whole = [None if v is None else zlib.crc32(v.encode()) % 1000 for v in values]
    for type_ in TEXT_TYPES:
        assert levels("hash(s, 1000)", batch_of(s=texts(values, type_))) == whole
    backwards = pa.DictionaryArray.from_arrays(
        pa.array([3, 2, None, 1, 3, 0], pa.int8()), pa.array(["é", "c", "b", "a"])
    )
    assert levels("hash(s, 1000)", batch_of(s=backwards)) == whole


def test_hash_of_a_whole_number_is_that_of_the_integer() -> None:
    """A column that was integer in training and comes with fractions later falls into the same buckets."""
    values = [3, -7, 0, None, 100]
    expected = [None if v is None else zlib.crc32(str(v).encode()) % 1000 for v in values]
    for type_ in (pa.int8(), pa.int64(), pa.float32(), pa.float64()):
        assert levels("hash(x, 1000)", batch_of(x=pa.array(values, type_))) == expected
    decimals = pa.array([None if v is None else Decimal(v) for v in values], pa.decimal128(8, 2))
    assert levels("hash(x, 1000)", batch_of(x=decimals)) == expected
    assert levels("hash(x, 1000)", batch_of(x=[-0.0, 0.5])) == [
        zlib.crc32(b"0") % 1000,
        zlib.crc32(b"0.5") % 1000,
    ]


def test_isnull_looks_at_the_column_as_it_was() -> None:
    reader = Reader(fills={"x": 9.0})
    frame = reader.frame(batch_of(x=[1.0, None, NAN]))
    for text, expected in (
        ("x + 0", [1.0, 9.0, 9.0]),
        ("isnull(x) * 1", [0.0, 1.0, 1.0]),
        ("isnull(x + 1) * 1", [0.0, 0.0, 0.0]),
    ):
        feature = Feature(parse_expression(text), text, categorical=False, named=True)
        gaps: dict[str, Any] = {}
        (found,) = reader.numeric(feature, frame, gaps)
        assert found.tolist() == expected
        assert gaps == {}


def test_isnull_of_what_has_no_value() -> None:
    batch = batch_of(x=[1.0, -1.0, None], b=[None, True, False])
    assert result("isnull(log(x))", batch) == [False, True, True]
    assert result("isnull(b)", batch) == [True, False, False]
    assert result("isnull(b | (x > 0))", batch) == [False, False, True]


def test_texts_are_no_numbers() -> None:
    with pytest.raises(TypeError):
        as_numbers(pa.array(["a"]))


# A row has the same values in whatever batch it comes


STATES = {
    "scale(x)": {"mean": 0.3, "deviation": 1.7},
    "center(log(abs(x) + 1))": {"mean": 0.1},
    "poly(x, 2)": {"mean": 0.1, "alpha": [0.2, -0.3], "norm2": [1.0, 9.0, 5.0, 3.0]},
    "bs(x, df=4)": {"knots": [0.0], "lower": -2.0, "upper": 2.0, "degree": 3, "intercept": False},
    "ns(x, df=2)": {"knots": [0.0], "lower": -2.0, "upper": 2.0, "degree": 3, "intercept": False},
    "cr(x, df=3)": {"knots": [-2.0, 0.5, 2.0]},
}
TOGETHER = [
    *STATES,
    "x * i - 1",
    "x ** 2 / (1 + i)",
    "exp(x) // 1",
    "len(lower(s)) + i",
    "max(x, i) * (s == 'b')",
    "(x > 0) & ~(i == 1)",
    "isnull(x) + isnull(s)",
    "round(x, 1) % 3",
]
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-3, 3), st.just(NAN)),
        st.one_of(st.none(), st.integers(-128, 127)),
        st.one_of(st.none(), st.sampled_from(["a", "b", "B", "é"])),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40)
@given(ROWS, st.data())
def test_values_do_not_depend_on_the_batch(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    batch = batch_of(
        x=pa.array([row[0] for row in rows], pa.float64()),
        i=pa.array([row[1] for row in rows], pa.int8()),
        s=pa.array([row[2] for row in rows], pa.string()),
    )
    cut = data.draw(st.integers(0, len(rows)))
    encoded = batch.slice(cut).set_column(2, "s", batch.slice(cut).column(2).dictionary_encode())
    for text in TOGETHER:
        expression = parse_expression(text)

        def values(part: pa.RecordBatch, expression: Any = expression) -> Any:
            return as_numbers(evaluate(expression, Frame(part), STATES))

        together = values(batch)
        apart = np.concatenate([values(batch.slice(0, cut)), values(encoded)], axis=-1)
        assert together.tobytes() == apart.tobytes(), text
        assert together.ndim == (1 if states_columns(expression, STATES) is None else 2)
    for text in ("hash(s, 7)", "hash(i, 7)", "C(lower(s))", "C(s, levels=['a', 'é'])"):
        assert levels(text, batch) == levels(text, batch.slice(0, cut)) + levels(text, encoded), text
