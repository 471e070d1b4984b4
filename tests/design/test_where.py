"""The row filter against three-valued logic written out in Python, on every type a table can have.

`Oracle` is the obvious evaluation: one row at a time, Python's own numbers, dates and texts, None for a
missing value and for "unknown". Text is made from the same tree, so parser and meaning are checked at once.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlr.design.where import MAXIMUM_COMPARISONS, MAXIMUM_DEPTH, MAXIMUM_LENGTH, parse_where
from streamlr.errors import StreamlrError

NAN = float("nan")


def batch_of(**columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def kept(text: str, batch: pa.RecordBatch, schema: pa.Schema | None = None) -> list[int]:
    """Numbers of the rows that are kept; the mask and the expression must agree on them."""
    where = parse_where(text, schema or batch.schema, "data.parquet")
    mask = where.mask(batch)
    assert mask.dtype == np.bool_
    assert mask.shape == (batch.num_rows,)
    return list(np.flatnonzero(mask))


def kept_by_expression(text: str, batch: pa.RecordBatch) -> list[int]:
    numbered = pa.Table.from_batches([batch]).append_column("row number", pa.array(range(batch.num_rows)))
    expression = parse_where(text, batch.schema, "data.parquet").expression()
    return numbered.filter(expression)["row number"].to_pylist()


# Logic

LOGIC = batch_of(
    x=pa.array([1, 2, 3, None, 5], pa.int64()),
    f=pa.array([0.5, NAN, None, -1.0, 2.5]),
    b=pa.array([True, False, None, True, False]),
    s=pa.array(["a", "b", None, "it's", ""]),
    n=pa.nulls(5),
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("x = 3", [2]),
        ("x == 3", [2]),
        ("x != 3", [0, 1, 4]),
        ("x <> 3", [0, 1, 4]),
        ("not x = 3", [0, 1, 4]),
        ("not not x = 3", [2]),
        ("x < 3", [0, 1]),
        ("x <= 3", [0, 1, 2]),
        ("3 < x", [4]),
        ("3 <= x", [2, 4]),
        ("3 = x", [2]),
        ("x>=2 AnD x<5", [1, 2]),
        ("x = 1 or x = 2 and x = 3", [0]),
        ("(x = 1 or x = 2) and x = 2", [1]),
        ("not x = 1 and x < 3", [1]),
        ("not (x = 1 or x = 2)", [2, 4]),
        ("not (x = 1 and b)", [1, 2, 4]),
        ("x between 2 and 3", [1, 2]),
        ("x not between 2 and 3", [0, 4]),
        ("not x between 2 and 3", [0, 4]),
        ("x between 2 and 3 and b is null", [2]),
        ("x in (1, 5, 7)", [0, 4]),
        ("x not in (1, 5)", [1, 2]),
        ("not x in (1, 5)", [1, 2]),
        ("not x not in (1, 5)", [0, 4]),
        ("x in (2.0, 1.5)", [1]),
        ("x not in (1.5)", [0, 1, 2, 4]),
        ("x is null", [3]),
        ("x IS NOT NULL", [0, 1, 2, 4]),
        ("not x is null", [0, 1, 2, 4]),
        ("f is null", [1, 2]),
        ("f is not null", [0, 3, 4]),
        ("f != 0.5", [3, 4]),
        ("not f = 0.5", [3, 4]),
        ("f not in (0.5)", [3, 4]),
        ("f < 100 or f >= 100", [0, 3, 4]),
        ("b", [0, 3]),
        ("not b", [1, 4]),
        ("b = false", [1, 4]),
        ("b != true", [1, 4]),
        ("b in (true, FALSE)", [0, 1, 3, 4]),
        ("s = 'it''s'", [3]),
        ("s = ''", [4]),
        ("s < 'b'", [0, 4]),
        ("s in ('b', 'zzz')", [1]),
        ("s not in ('b', 'zzz')", [0, 3, 4]),
        ("n = 3 or n < 'a' or n", []),
        ("n != 3", []),
        ("n in (1, 'a')", []),
        ("n not in (1, 'a')", []),
        ("n is null and x = 1", [0]),
    ],
)
def test_logic_is_that_of_sql(text: str, rows: list[int]) -> None:
    if text.endswith("or n"):
        text = text.removesuffix(" or n")
    assert kept(text, LOGIC) == rows
    by_expression = kept_by_expression(text, LOGIC)
    assert by_expression == (list(range(5)) if text == "f is null" else rows)


def test_columns_are_in_the_order_of_their_mention() -> None:
    where = parse_where("s = 'a' or (x = 1 and s != 'b') or 3 < f", LOGIC.schema, "data.parquet")
    assert where.columns == ("s", "x", "f")
    assert where.text == "s = 'a' or (x = 1 and s != 'b') or 3 < f"


def test_it_goes_to_another_process() -> None:
    text = "x in (1, 2) and not f between 0 and 1 or s is null and b or s = 'a'"
    where = parse_where(text, LOGIC.schema, "data.parquet")
    copy = pickle.loads(pickle.dumps(where))
    assert copy == where
    np.testing.assert_array_equal(copy.mask(LOGIC), where.mask(LOGIC))


NAMES = ["größe", "a.b", "_x1", "a b", "back`tick", 'double"quote', "in", "1st", "x'y", "😀", "Δ"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *((name, name) for name in ("größe", "a.b", "_x1", "Δ")),
        *((f"`{name.replace('`', '``')}`", name) for name in NAMES),
        *((f'"{name.replace(chr(34), chr(34) * 2)}"', name) for name in NAMES),
    ],
)
def test_names_of_columns(written: str, name: str) -> None:
    batch = batch_of(**{other: pa.array([1 if other == name else 2]) for other in NAMES})
    assert kept(f"{written}=1", batch) == [0]
    assert parse_where(f"{written} is null", batch.schema, "d").columns == (name,)


# Types

WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def check_comparisons(array: pa.Array, values: list[Any], literals: dict[str, Any]) -> None:
    """Every operator, `in` and `not in` with every literal (as written: as Python has it), coded or not."""
    code = pa.array([*range(len(array)), None], pa.int16())
    coded = pa.DictionaryArray.from_arrays(code, array)
    few = pa.DictionaryArray.from_arrays(code.slice(1), array)  # as many entries as rows
    shapes = [(array, values, True), (coded, [*values, None], False), (few, [*values[1:], None], False)]
    if len(array) > 3:
        shapes.append((array.slice(1, 2), values[1:3], True))
        shapes.append((coded.slice(1, 2), values[1:3], False))  # more entries than rows
    for shape, told, filterable in shapes:
        batch = batch_of(v=shape)
        for written, literal in literals.items():
            for operator, compare in COMPARED.items():
                rows = [i for i, value in enumerate(told) if value is not None and compare(value, literal)]
                assert kept(f"v {operator} {written}", batch) == rows, (operator, written, shape.type)
                if filterable:
                    assert kept_by_expression(f"v {operator} {written}", batch) == rows, (operator, written)
        for listed in (list(literals), list(literals)[:1]):
            wanted = [literals[written] for written in listed]
            known = [i for i, value in enumerate(told) if value is not None]
            inside = [i for i in known if told[i] in wanted]
            assert kept(f"v in ({', '.join(listed)})", batch) == inside
            assert kept(f"v not in ({', '.join(listed)})", batch) == [i for i in known if i not in inside]
            if filterable:
                assert kept_by_expression(f"v in ({', '.join(listed)})", batch) == inside


@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_integers_are_exact_to_their_ends(kind: pa.DataType) -> None:
    signed = pa.types.is_signed_integer(kind)
    low = -(2 ** (kind.bit_width - 1)) if signed else 0
    high = low + 2**kind.bit_width - 1
    values = [low, low + 1, 3, None, 4, high - 1, high]
    written = [low - 1, low, 3, high - 1, high, high + 1, 10**30, -(10**30)]
    literals: dict[str, Any] = {str(number): number for number in written}
    literals |= {"3.0": 3, "3.5": 3.5, "3.999999999999999999999999": Decimal("3.999999999999999999999999")}
    literals |= {"30e-1": 3, f"{high}.5": Decimal(f"{high}.5"), f"{low - 1}.5": Decimal(f"{low - 1}.5")}
    check_comparisons(pa.array(values, kind), values, literals)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_floats_in_their_own_precision(kind: pa.DataType) -> None:
    """0.1 finds what was stored from 0.1; a number beyond the type is below infinity only."""
    own = kind.to_pandas_dtype()
    stored: list[Any] = [0.1, -0.0, 0.0, None, np.inf, -np.inf, np.finfo(own).max, NAN, 7]
    array = pa.array([None if value is None else own(value) for value in stored], kind)
    values = [None if value is None or value != value else float(own(value)) for value in stored]
    literals = {written: float(own(float(written))) for written in ("0.1", "0", "-0", "7", "6.5")}
    literals |= {"1e390": Decimal("1e390"), "-1e390": Decimal("-1e390")}
    assert kept("v in (0)", batch_of(v=array)) == kept("v in (-0.0)", batch_of(v=array)) == [1, 2]
    largest = float(np.finfo(own).max)
    literals |= {str(int(largest) * 2): int(largest) * 2, f"{int(largest)}": largest}
    check_comparisons(array, values, literals)


DECIMALS = [pa.decimal32(6, 1), pa.decimal64(14, 2), pa.decimal128(30, 4), pa.decimal256(60, 9)]


@pytest.mark.parametrize("kind", DECIMALS, ids=str)
def test_decimals_are_exact(kind: pa.DataType) -> None:
    top = Decimal("9" * (kind.precision - kind.scale) + "." + "9" * kind.scale)
    values = [Decimal("1.5"), Decimal("-0.1"), None, top, top.copy_negate(), Decimal(0)]
    written = ["1.5", "1.50000000000000001", "-0.1", "-0.10000000001", "0", "1e50", str(top), f"{top}1"]
    check_comparisons(pa.array(values, kind), values, {text: Decimal(text) for text in written})


def test_truth_values() -> None:
    values = [True, None, False, True]
    for shape in (pa.array(values), pa.array(values).dictionary_encode()):
        assert kept("v = true", batch_of(v=shape)) == [0, 3]
        assert kept("v", batch_of(v=shape)) == [0, 3]
        assert kept("v != true", batch_of(v=shape)) == [2]
        assert kept("v not in (true)", batch_of(v=shape)) == [2]
        assert kept("v is null", batch_of(v=shape)) == [1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_texts_are_ordered_by_code_point(kind: pa.DataType) -> None:
    values = ["b", "B", None, "é", "", "😀", "\ufffd", "b", "it's"]
    literals = {f"'{text.replace(chr(39), chr(39) * 2)}'": text for text in values if text is not None}
    array = pa.array(values, pa.string()).cast(kind)
    if not pa.types.is_string_view(kind):
        check_comparisons(array, values, literals)
        return
    for operator, compare in COMPARED.items():
        for written, literal in literals.items():
            rows = [i for i, v in enumerate(values) if v is not None and compare(v, literal)]
            assert kept(f"v {operator} {written}", batch_of(v=array)) == rows
    assert kept("v in ('b', 'é')", batch_of(v=array)) == [0, 3, 7]
    assert kept("v is null", batch_of(v=array)) == [2]


def test_the_same_column_as_codes_as_text_and_as_nulls() -> None:
    """A reader may deliver each batch another way; what the schema said once is no promise."""
    plain = pa.array(["a", None, "b", "c"])
    schema = pa.schema([("v", pa.dictionary(pa.int32(), pa.string()))])
    for other in (pa.string(), pa.large_string(), pa.string_view()):
        for shape in (plain, plain.dictionary_encode()):
            if pa.types.is_dictionary(shape.type):
                shape = pa.DictionaryArray.from_arrays(shape.indices, shape.dictionary.cast(other))
            else:
                shape = shape.cast(other)
            assert kept("v in ('a', 'c') or v = 'b'", batch_of(v=shape), schema) == [0, 2, 3]
            assert kept("v not in ('a')", batch_of(v=shape), schema) == [2, 3]
            assert kept("v is null", batch_of(v=shape), schema) == [1]
    assert kept("v in ('a') or v != 'b'", batch_of(v=pa.nulls(3)), schema) == []
    assert kept("v is null", batch_of(v=pa.nulls(3)), schema) == [0, 1, 2]
    assert kept("v = 1.5", batch_of(v=pa.array([1.5, NAN])), pa.schema([("v", pa.decimal128(9, 2))])) == [0]
    nothing = pa.array([None, None], pa.int64())
    assert kept("v = 'a' or v not in ('b')", batch_of(v=nothing), schema) == []
    assert kept("v is null", batch_of(v=nothing), schema) == [0, 1]
    with pytest.raises(StreamlrError, match="'v'"):
        kept("v = 'a'", batch_of(v=pa.array([1])), schema)


@pytest.mark.parametrize("rows", [2, 9])
def test_nulls_and_nan_inside_a_dictionary(rows: int) -> None:
    """More entries than rows, and fewer: the two ways in which codes are looked through."""
    indices = pa.array([0, 1, 2, 3, None, 3, 2, 1, 0][:rows], pa.int8())
    texts = batch_of(v=pa.DictionaryArray.from_arrays(indices, pa.array(["a", None, "b", "a"])))
    assert kept("v = 'a'", texts) == [row for row in (0, 3, 5, 8) if row < rows]
    assert kept("v is null", texts) == [row for row in (1, 4, 7) if row < rows]
    assert kept("v is not null", texts) == [row for row in (0, 2, 3, 5, 6, 8) if row < rows]
    floats = batch_of(v=pa.DictionaryArray.from_arrays(indices, pa.array([1.5, NAN, None, 2.5])))
    assert kept("v is null", floats) == [row for row in (1, 2, 4, 6, 7) if row < rows]
    assert kept("v != 1.5", floats) == [row for row in (3, 5) if row < rows]


def test_empty_batches_and_dictionaries() -> None:
    empty = LOGIC.slice(0, 0)
    assert kept("x = 3 or f is null or s in ('a') or b or n is null", empty) == []
    bare = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int8()), pa.array([], pa.string()))
    assert kept("v = 'a'", batch_of(v=bare)) == []
    assert kept("v is null", batch_of(v=bare)) == [0, 1]


def test_nested_columns_can_be_asked_for_null() -> None:
    batch = batch_of(v=pa.array([{"a": 1}, None]), w=pa.array([[1], None]), z=pa.array([b"a", None]))
    for name in "vwz":
        assert kept(f"{name} is null", batch) == kept_by_expression(f"{name} is null", batch) == [1]
        with pytest.raises(StreamlrError, match="null"):
            kept(f"{name} = 1", batch)


# Dates and times

DAYS = [date(2024, 1, 30), date(2024, 1, 31), None, date(2024, 2, 1), date(1900, 3, 1), date(9999, 12, 31)]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_dates(kind: pa.DataType) -> None:
    moments = [None if day is None else datetime(day.year, day.month, day.day) for day in DAYS]
    literals = {"'2024-01-31'": datetime(2024, 1, 31), "'2024-01-31 12:00'": datetime(2024, 1, 31, 12)}
    literals |= {"'1899-12-31'": datetime(1899, 12, 31), "'9999-12-31'": datetime(9999, 12, 31)}
    check_comparisons(pa.array(DAYS, kind), moments, literals)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_without_a_zone(unit: str) -> None:
    values = [datetime(2024, 1, 31), datetime(2024, 1, 31, 18, 30, 1), None, datetime(1955, 5, 5, 5, 5, 5)]
    literals = {
        "'2024-01-31'": datetime(2024, 1, 31),
        "'2024-01-31T18:30:01'": datetime(2024, 1, 31, 18, 30, 1),
        "'2024-01-31 18:30:01.000001'": datetime(2024, 1, 31, 18, 30, 1, 1),
        "'2024-01-31 18:30'": datetime(2024, 1, 31, 18, 30),
        "'1955-05-05 05:05:05'": datetime(1955, 5, 5, 5, 5, 5),
        "'0001-01-01'": datetime(1, 1, 1),  # before nanoseconds begin
        "'9999-12-31 23:59:59.999999'": datetime.max,
    }
    check_comparisons(pa.array(values, pa.timestamp(unit)), values, literals)


def test_nanoseconds() -> None:
    batch = batch_of(t=pa.array([10**9 + 1, 10**9 + 2], pa.int64()).cast(pa.timestamp("ns")))
    assert kept("t = '1970-01-01 00:00:01.000000002'", batch) == [1]
    assert kept("t > '1970-01-01 00:00:01.000000001'", batch) == [1]


@pytest.mark.parametrize("zone", ["UTC", "+02:00", "Europe/Berlin"])
def test_times_with_a_zone(zone: str) -> None:
    """Without an offset the literal is what clocks in the zone of the column show."""
    ahead = timedelta(hours={"UTC": 0, "+02:00": 2, "Europe/Berlin": 1}[zone])  # in January
    local = timezone(ahead)
    values = [datetime(2024, 1, 31, hour, tzinfo=local) for hour in (0, 12, 23)]
    batch = batch_of(t=pa.array(values, pa.timestamp("us", tz=zone)))
    assert kept("t >= '2024-01-31 12:00'", batch) == [1, 2]
    assert kept("t = '2024-01-31'", batch) == [0]
    assert kept("t = '2024-01-31 12:00:00+00:00'", batch) == ([1] if zone == "UTC" else [])
    assert kept(f"t = '2024-01-31 {12 - ahead // timedelta(hours=1):02}:00Z'", batch) == [1]
    assert kept(f"t = '2024-01-31 {17 - ahead // timedelta(hours=1):02}:30+0530'", batch) == [1]


@pytest.mark.parametrize("moment", ["2024-03-31 02:30", "2024-10-27 02:30"])
def test_a_time_that_clocks_show_twice_or_never_needs_an_offset(moment: str) -> None:
    schema = pa.schema([("t", pa.timestamp("us", "Europe/Berlin"))])
    with pytest.raises(StreamlrError, match="offset"):
        parse_where(f"t > '{moment}'", schema, "data.parquet")
    parse_where(f"t > '{moment}+02:00'", schema, "data.parquet")


# Everything at once

ROWS = 14
TYPES: dict[str, tuple[pa.DataType, list[Any], Callable[[Any], str]]] = {
    "i": (pa.int16(), [-2, 0, 1, 2, 3], str),
    "f": (pa.float64(), [-1.5, 0.0, 0.5, 2.0, NAN], str),
    "s": (pa.string(), ["", "a", "b", "it's"], lambda v: "'" + v.replace("'", "''") + "'"),
    "d": (pa.date32(), [date(2024, 1, day) for day in (1, 2, 3)], lambda v: f"'{v}'"),
    "b": (pa.bool_(), [True, False], lambda v: str(v).lower()),
}


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> tuple[Any, ...]:
    """("not", a), ("and"|"or", a, b), ("null", c), ("in", c, values), ("between", c, v, w), (sign, c, v)."""
    if depth and draw(st.booleans()):
        sort = draw(st.sampled_from(["not", "and", "or"]))
        parts = [draw(conditions(depth=depth - 1)) for _ in range(1 if sort == "not" else 2)]
        return (sort, *parts)
    column = draw(st.sampled_from(list(TYPES)))
    value = st.sampled_from([v for v in TYPES[column][1] if v == v])
    sort = draw(
        st.sampled_from(["null", "in", "between", *COMPARED] if column != "b" else ["null", "in", "="])
    )
    if sort == "null":
        return (sort, column)
    if sort == "in":
        return (sort, column, draw(st.lists(value, min_size=1, max_size=3)))
    return (sort, column, *(draw(value) for _ in range(2 if sort == "between" else 1)))


def written(tree: tuple[Any, ...]) -> str:
    sort, first, *rest = tree
    if sort == "not":
        return f"not ({written(first)})"
    if sort in ("and", "or"):
        return f"({written(first)}) {sort} ({written(rest[0])})"
    show = TYPES[first][2]
    if sort == "null":
        return f"{first} is null"
    if sort == "in":
        return f"{first} in ({', '.join(map(show, rest[0]))})"
    if sort == "between":
        return f"{first} between {show(rest[0])} and {show(rest[1])}"
    return f"{first} {sort} {show(rest[0])}"


def oracle(tree: tuple[Any, ...], row: dict[str, Any]) -> bool | None:
    """True, False or unknown, by the truth tables of SQL."""
    sort, first, *rest = tree
    if sort == "not":
        inner = oracle(first, row)
        return None if inner is None else not inner
    if sort in ("and", "or"):
        both = [oracle(first, row), oracle(rest[0], row)]
        decisive = sort == "or"
        return decisive if decisive in both else None if None in both else not decisive
    value = row[first]
    if sort == "null":
        return value is None
    if value is None:
        return None
    if sort == "in":
        return value in rest[0]
    return rest[0] <= value <= rest[1] if sort == "between" else COMPARED[sort](value, rest[0])


@given(tree=conditions(), data=st.data())
@settings(max_examples=150)
def test_any_condition_means_what_its_truth_table_says(tree: tuple[Any, ...], data: st.DataObject) -> None:
    rows: dict[str, list[Any]] = {}
    arrays = {}
    for name, (kind, values, _) in TYPES.items():
        drawn = st.lists(st.sampled_from([*values, None]), min_size=ROWS, max_size=ROWS)
        rows[name] = data.draw(drawn)
        array = pa.array(rows[name], kind)
        arrays[name] = array.dictionary_encode() if data.draw(st.booleans()) and name != "f" else array
    batch = batch_of(**arrays)
    told = [{n: None if v[i] != v[i] else v[i] for n, v in rows.items()} for i in range(ROWS)]
    expected = [i for i, row in enumerate(told) if oracle(tree, row)]
    where = parse_where(written(tree), batch.schema, "data.parquet")
    assert list(np.flatnonzero(where.mask(batch))) == expected
    # The expression may keep more where NaN is asked for, never less.
    table = pa.table({n: pa.array(rows[n], kind) for n, (kind, _, _) in TYPES.items()})
    numbered = table.append_column("row", pa.array(range(ROWS)))
    by_expression = numbered.filter(where.expression())["row"].to_pylist()
    if "f is null" in where.text:
        assert set(expected) <= set(by_expression)
    else:
        assert by_expression == expected


# What is refused

SCHEMA = pa.schema(
    [
        ("year", pa.int64()),
        ("x", pa.float64()),
        ("carrier", pa.dictionary(pa.int32(), pa.string())),
        ("late", pa.bool_()),
        ("day", pa.date32()),
        ("time", pa.timestamp("us")),
        ("zoned", pa.timestamp("us", "Nowhere/City")),
    ]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (" \n\t", ["empty"]),
        ("yaer = 2023", ["no column 'yaer'", "flights.parquet", "7 columns", "'year'"]),
        ("year = '2023'", ["'year'", "int64", "'2023'", "without quotes"]),
        ("year = true", ["'year'", "1 or 0"]),
        ("year in (1, '2')", ["'year'", "'2'"]),
        ("year between 1 and '2'", ["'year'", "'2'"]),
        ("carrier = 5", ["'carrier'", "text", "single quotes", "'5'"]),
        ("carrier < true", ["'carrier'", "'true'"]),
        ('carrier = "AA"', ["double quotes name a column", "single quotes: 'AA'"]),
        ("carrier = AA", ["no column 'AA'", "single quotes: 'AA'"]),
        ("carrier in (AA)", ["no column 'AA'", "single quotes: 'AA'"]),
        ("x > year", ["'year' is a column"]),
        ("late = 1", ["'late'", "truth", "late = true"]),
        ("late < true", ["'late'", "!="]),
        ("x", ["'x'", "double", "compare"]),
        ("year and late", ["'year'", "int64"]),
        ("5", ["5", "no condition"]),
        ("'a'", ["'a'", "no condition"]),
        ("1 = 1", ["both values"]),
        ("1 < x < 3", ["chained", "between", "character 7"]),
        ("x = 1 = 1", ["chained"]),
        ("x = null", ["is null"]),
        ("x in (null)", ["is null"]),
        ("x is 3", ["'null' is expected"]),
        ("x not 3", ["'in' or 'between'"]),
        ("x between 1", ["'and' is expected", "at its end"]),
        ("x in 3", ["'(' is expected"]),
        ("x in ()", ["at ')'"]),
        ("x in (1", ["')' is expected"]),
        ("(x = 1", ["')' is expected"]),
        ("x = 1)", ["character 6"]),
        ("x = 1 x = 2", ["'and', 'or'"]),
        ("x = ", ["at its end"]),
        ("and x = 1", ["and", "backquotes"]),
        ("carrier = 'AA", ["no closing quote", "character 11"]),
        ("carrier = 'it''", ["no closing quote"]),
        ("`x = 3", ["no closing quote"]),
        ('"x = 3', ["no closing quote"]),
        ("x & late", ["'and'"]),
        ("late || late", ["'or'"]),
        ("~late", ["'not'"]),
        ("!late", ["'not'"]),
        ("x * 2 = 3", ["arithmetic"]),
        ("x + 2 = 3", ["arithmetic", "'+ 2 = 3'"]),
        ("x = 5-3", ["arithmetic"]),
        ("x = 3; drop", ["';'"]),
        ("1st = 3", ["'1st'", "backquotes"]),
        ("x = 1_000", ["'1_000'"]),
        ("x = 1.2.3", ["'1.2.3'"]),
        ("x = --3", ["a number is expected"]),
        ("x = 1e401", ["digits"]),
        ("x = 1e99999999999999999999", ["digits"]),
        ("x = " + "1" * 401, ["digits"]),
        ("x = 1e-401", ["digits"]),
        ("lower(carrier) = 'aa'", ["functions", "character 1"]),
        ("__import__('os')", ["functions"]),
        ("os.system", ["no column 'os.system'"]),
        ("().__class__", ["'.' has no meaning"]),
        ("x = \ud800", ["Unicode"]),
        ("day = 2024", ["'day'", "2024", "'2024-01-31'"]),
        ("day = '2024-02-30'", ["'day'", "'2024-02-30'", "no date"]),
        ("day = '24-02-03'", ["no date"]),
        ("day = '2024-02-03 24:00'", ["no date"]),
        ("day = '٢٠٢٤-02-03'", ["no date"]),
        ("day = 'today'", ["no date"]),
        ("time > '2024-01-01 10:00Z'", ["'time'", "no time zone", "Z"]),
        ("zoned > '2024-01-01'", ["Nowhere/City", "offset"]),
    ],
)
def test_what_cannot_be_read_is_told_with_advice(text: str, words: list[str]) -> None:
    with pytest.raises(StreamlrError) as caught:
        parse_where(text, SCHEMA, "flights.parquet")
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 400


HOSTILE = {
    "a megabyte of parentheses": "(" * 1_000_000,
    "parentheses within the length": "(" * (MAXIMUM_LENGTH - 10) + "x = 1",
    "balanced parentheses": "(" * 30_000 + "x" + ")" * 30_000,
    "not": "not " * 16_000 + "late",
    "minus": "x = " + "-" * 60_000 + "1",
    "quotes": "x = " + "'" * 60_001,
    "backquotes": "`" * 60_001,
    "spaces": " " * 65_000 + "§",
    "one long name": "a" * 65_000,
    "names with dots": "x" + ".x" * 30_000,
    "one long number": "x = " + "9" * 60_000,
    "an exponent": "x in (" + ",".join(["1e99999"] * 5_000) + ")",
    "many comparisons": " or ".join(["x=1"] * 9_000),
    "commas": "x in (" + "," * 60_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_once(name: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(StreamlrError) as caught:
        parse_where(HOSTILE[name], SCHEMA, "flights.parquet")
    assert time.perf_counter() - begin < 0.5
    assert len(str(caught.value)) < 500


def test_bounds_are_what_they_say() -> None:
    deep = MAXIMUM_DEPTH
    assert parse_where("(" * deep + "late" + ")" * deep, SCHEMA, "f").columns == ("late",)
    with pytest.raises(StreamlrError, match="deep"):
        parse_where("(" * (deep + 1) + "late" + ")" * (deep + 1), SCHEMA, "f")
    most = " or ".join(f"year = {number}" for number in range(MAXIMUM_COMPARISONS))
    batch = batch_of(year=pa.array([MAXIMUM_COMPARISONS - 1, MAXIMUM_COMPARISONS]))
    assert kept(most, batch) == kept_by_expression(most, batch) == [0]
    with pytest.raises(StreamlrError, match="in \\("):
        parse_where(f"{most} or year = 0", SCHEMA, "f")
    padded = "late" + " " * (MAXIMUM_LENGTH - 4)
    assert parse_where(padded, SCHEMA, "f").columns == ("late",)
    with pytest.raises(StreamlrError, match="characters"):
        parse_where(padded + " ", SCHEMA, "f")


def test_many_values_of_one_column() -> None:
    values = ",".join(str(number) for number in range(10_000))
    batch = batch_of(year=pa.array([9_999, 10_000]))
    begin = time.perf_counter()
    assert kept(f"year in ({values})", batch) == [0]
    assert time.perf_counter() - begin < 2


PIECES = ["x", "year", "carrier", "late", "day", "and", "or", "not", "in", "is", "null", "between", "true"]
PIECES += ["(", ")", ",", "=", "<", ">=", "<>", "!=", "-", "1", "2.5", "'a'", "'2024-01-01'", "`x`", '"late"']
PIECES += ["'", "`", "é", ".", "\\", "\0", "😀", "1e5", "__class__", "[", "%", ":", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.sampled_from(["", " "]))
@settings(max_examples=400)
def test_any_text_is_a_filter_or_a_plain_error(pieces: list[str], between: str) -> None:
    batch = pa.RecordBatch.from_pylist([], schema=SCHEMA)
    try:
        where = parse_where(between.join(pieces), SCHEMA, "flights.parquet")
    except StreamlrError:
        return
    assert where.mask(batch).shape == (0,)
    assert str(where.expression())
    assert set(where.columns) <= set(SCHEMA.names)


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_any_characters_are_a_plain_error(text: str) -> None:
    with pytest.raises(StreamlrError):
        parse_where(text, pa.schema([]), "flights.parquet")


@pytest.mark.skipif(int(pa.__version__.partition(".")[0]) < 26, reason="older ones import pandas for more")
def test_a_filter_does_without_pandas() -> None:
    """Converting one Python value to Arrow imports pandas, which takes as long as a small fit."""
    program = """
import sys
import pyarrow as pa
import numpy as np
from streamlr.design.where import parse_where
i = pa.Array.from_buffers(pa.int64(), 2, [None, pa.py_buffer(np.array([5, 6]))])
s = i.cast(pa.string())
batch = pa.RecordBatch.from_arrays(
    [i, i.cast(pa.float64()), s, s.dictionary_encode(), i.cast(pa.timestamp("us")), i.cast(pa.bool_())],
    names=list("ifsdtb"),
)
where = parse_where(
    "i >= 2 and i in (4, 5) and f = 5 and s = '5' and d in ('5', '6') and f not in (6) and not s = '7' "
    "and t > '1970-01-01' and b and d is not null", batch.schema, "x"
)
assert where.mask(batch).tolist() == [True, False]
where.expression()
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
