"""What functions and operators take, before a row is read: kinds, options, faults by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from streamlr.design.expressions import COMPARISONS, parse_expression
from streamlr.design.functions import (
    CALENDAR,
    FUNCTIONS,
    LONGEST_POLYNOMIAL,
    MOST_BUCKETS,
    MOST_INTERVALS,
    MOST_SPLINE_COLUMNS,
    check_alone,
    column_kind,
    is_whole,
    kind_of,
    options_of,
)
from streamlr.errors import StreamlrError

TYPES = {
    "x": pa.float64(),
    "i": pa.int8(),
    "d": pa.decimal128(9, 2),
    "b": pa.bool_(),
    "s": pa.string(),
    "g": pa.dictionary(pa.int8(), pa.large_string()),
    "k": pa.dictionary(pa.int16(), pa.int64()),
    "t": pa.timestamp("us", "UTC"),
    "day": pa.date32(),
    "n": pa.null(),
}

SAMPLES = {"number": "x", "logical": "b", "text": "s", "time": "t"}

CALLS = {
    "round": "round({}, 2)",
    "clip": "clip({}, 0, upper=5)",
    "min": "min({}, i)",
    "max": "max(i, {})",
    "poly": "poly({}, 3)",
    "bs": "bs({}, df=4)",
    "ns": "ns({}, df=2)",
    "cr": "cr({}, df=3)",
    "cut": "cut({}, [0, 1])",
    "lump": "lump({}, min=5)",
    "hash": "hash({}, 8)",
}


def kind(text: str) -> str:
    return kind_of(parse_expression(text), TYPES)


def refused(text: str) -> str:
    with pytest.raises(StreamlrError) as caught:
        kind(text)
    return str(caught.value)


TAKES_TEXT = {"C", "I", "lump", "hash", "isnull", "lower", "strip", "len"}
TAKES_TIME = {"I", "isnull", *CALENDAR}
ONLY_TEXT = {"lower", "strip", "len"}
GIVES = {
    **dict.fromkeys(("C", "cut", "lump", "hash"), "factor"),
    "isnull": "logical",
    "lower": "text",
    "strip": "text",
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("sort", SAMPLES)
def test_every_function_on_every_kind(name: str, sort: str) -> None:
    """Numbers and conditions go everywhere but into functions of texts and times; those take only theirs."""
    call = CALLS.get(name, name + "({})").format(SAMPLES[sort])
    numeric = sort in ("number", "logical")
    fits = {
        "text": name in TAKES_TEXT,
        "time": name in TAKES_TIME,
    }.get(sort, name not in ONLY_TEXT and name not in CALENDAR)
    if fits:
        assert kind(call) == (sort if name == "I" else GIVES.get(name, "number"))
    else:
        message = refused(call)
        assert call in message
        assert f"{name} takes " in message
        assert f"is a {sort}" in message
    assert numeric or sort in ("text", "time")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "number"),
        ("i + d", "number"),
        ("k * 2", "number"),
        ("n + 1", "number"),
        ("b + b", "number"),
        ("-b", "number"),
        ("b", "logical"),
        ("s", "text"),
        ("g", "text"),
        ("t", "time"),
        ("day", "time"),
        ("'a'", "text"),
        ("True", "logical"),
        ("2.5", "number"),
        ("x > 1", "logical"),
        ("b == 1", "logical"),
        ("s == 'a'", "logical"),
        ("s < g", "logical"),
        ("t >= '2024-01-01'", "logical"),
        ("'2024-01-01' >= day", "logical"),
        ("t < t", "logical"),
        ("(x > 1) & b | ~b", "logical"),
        ("isnull(x + 1)", "logical"),
        ("len(lower(strip(s)))", "number"),
        ("log(1 + abs(x))", "number"),
        ("min(x, i, d, b)", "number"),
        ("I(t)", "time"),
        ("I(s)", "text"),
        ("C(I(s))", "factor"),
        ("C(x > 1)", "factor"),
        ("hash(lower(s), 8)", "factor"),
        ("scale(log(x))", "number"),
    ],
)
def test_kinds(text: str, expected: str) -> None:
    assert kind(text) == expected


@pytest.mark.parametrize("operator", ["+", "-", "*", "/", "//", "%", "**"])
@pytest.mark.parametrize(("wrong", "sort"), [("s", "text"), ("t", "time"), ("'1'", "text"), ("day", "time")])
def test_arithmetic_needs_numbers(operator: str, wrong: str, sort: str) -> None:
    for text in (f"x {operator} {wrong}", f"{wrong} {operator} x"):
        assert f"arithmetic needs numbers, and there is a {sort}" in refused(text)
    assert "arithmetic needs numbers" in refused(f"-{wrong}")
    assert "a factor cannot be calculated with" in refused(f"C(s) {operator} 1")


@pytest.mark.parametrize("operator", COMPARISONS)
def test_comparisons_need_two_of_a_kind(operator: str) -> None:
    for text in ("x {} s", "s {} 1", "t {} x", "t {} s", "b {} 's'", "t {} 2024", "day {} g"):
        assert "cannot be compared with" in refused(text.format(operator))
    assert "factor" in refused(f"C(s) {operator} 'a'")


@pytest.mark.parametrize("text", ["x & b", "b | s", "~x", "b & 1", "~t", "not s", "b or 'a'"])
def test_logic_needs_conditions(text: str) -> None:
    assert "joins conditions" in refused(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("None", "None cannot stand there"),
        ("x + [1, 2]", r"[1, 2] cannot stand there"),
        ("x == None", "None cannot stand there"),
        ("log()", "a column must be given"),
        ("max(x)", "two columns or more"),
        ("log(x, 2)", "log takes 1 arguments at most"),
        ("round(x, 2, 3)", "round takes 2 arguments at most"),
        ("log(x, base=2)", "log has no option 'base'; it has none"),
        ("bs(x, dof=4)", "bs has no option 'dof'; it has df, knots, degree"),
        ("round(x, 2, digits=3)", "'digits' is given twice"),
        ("round(x, digits=i)", "i must be a number, a text or a list"),
        ("round(x, digits=log(x))", "log(x) must be a number"),
        ("min(x, i, digits=3)", "min has no option 'digits'"),
        ("sin(x)", "there is no function 'sin'. Did you mean 'sign'? Functions are: C, I, abs, bs,"),
        ("logg(x)", "Did you mean 'log'?"),
        ("LOG(x)", "Did you mean 'log'?"),
        ("open(s)", "there is no function 'open'"),
        ("log(open(s))", "there is no function 'open'"),
        # options
        ("bs(x)", "give one of df= and knots="),
        ("bs(x, df=4, knots=[1])", "give one of df= and knots="),
        ("bs(x, df=2)", "df must be at least 3"),
        ("bs(x, df=3, include_intercept=True)", "df must be at least 4"),
        ("bs(x, df=1, degree=2)", "df must be at least 2"),
        ("bs(x, df=4.5)", "df must be a whole number"),
        ("bs(x, df='4')", "df must be a whole number"),
        ("bs(x, df=True)", "df must be a whole number"),
        (f"bs(x, df={MOST_SPLINE_COLUMNS + 1})", "df must be a whole number"),
        ("bs(x, df=-1)", "df must be a whole number"),
        ("bs(x, df=4, degree=-1)", "degree must be a whole number from 0 to 10"),
        ("bs(x, df=40, degree=11)", "degree must be a whole number from 0 to 10"),
        ("bs(x, df=4, degree=1.0)", "degree must be a whole number"),
        ("bs(x, knots=['a'])", "knots must be a list of numbers"),
        ("bs(x, knots=[])", "knots must be a list of numbers"),
        ("bs(x, knots=[True])", "knots must be a list of numbers"),
        ("bs(x, df=4, lower_bound='a')", "lower_bound must be a number"),
        ("bs(x, df=4, upper_bound=[1, 2])", "upper_bound must be a number"),
        ("ns(x, df=4, include_intercept='no')", "include_intercept must be True or False"),
        ("ns(x, df=0)", "df must be a whole number from 1"),
        ("ns(x, df=4, degree=3)", "ns has no option 'degree'"),
        ("cr(x, df=1)", "df must be a whole number from 2"),
        ("poly(x, 0)", "degree must be a whole number from 1"),
        (f"poly(x, {LONGEST_POLYNOMIAL + 1})", "degree must be a whole number"),
        ("poly(x, 2.0)", "degree must be a whole number"),
        ("cut(x)", "give one of breaks= and quantiles="),
        ("cut(x, [1, 2], quantiles=3)", "give one of breaks= and quantiles="),
        ("cut(x, 3)", "at least two different numbers"),
        ("cut(x, [1])", "at least two different numbers"),
        ("cut(x, [1, 1.0])", "at least two different numbers"),
        ("cut(x, ['a', 'b'])", "breaks must be a list of numbers"),
        ("cut(x, quantiles=1)", "quantiles must be a whole number from 2"),
        (f"cut(x, quantiles={MOST_INTERVALS + 1})", "quantiles must be a whole number"),
        ("cut(x, [1, 2], right='no')", "right must be True or False"),
        ("cut(x, [1, 2], include_lowest=1)", "include_lowest must be True or False"),
        ("lump(s)", "give one of min= and top="),
        ("lump(s, min=2, top=3)", "give one of min= and top="),
        ("lump(s, min=0)", "min must be a whole number from 1"),
        ("lump(s, top=2.5)", "top must be a whole number"),
        ("hash(s)", "give the number of buckets"),
        ("hash(s, 1)", "buckets must be a whole number from 2"),
        (f"hash(s, {MOST_BUCKETS + 1})", "buckets must be a whole number"),
        ("hash(s, buckets=8.0)", "buckets must be a whole number"),
        ("C(s, levels='a')", "levels must be a list"),
        ("C(s, levels=['a'])", "levels must be a list of at least two"),
        ("C(s, levels=['a', 'a'])", "different values"),
        ("C(s, Unheard)", "there is no coding Unheard; there are treatment, sum, helmert, poly"),
        ("C(s, 3)", "there is no coding 3"),
        ("C(s, coding=log(x))", "there is no coding log(x)"),
        ("C(C(s))", "C takes number or logical or text, and C(s) is a factor"),
        ("I(cut(x, [1, 2]))", "is a factor"),
        ("clip(x, 'a')", "lower must be a number"),
        ("clip(x, upper=[1])", "upper must be a number"),
        ("clip(x, 2, 1)", "lower must not be above upper"),
        ("round(x, 0.5)", "digits must be a whole number"),
        ("round(x, 301)", "digits must be a whole number from -300 to 300"),
    ],
)
def test_what_makes_no_sense_is_named(text: str, named: str) -> None:
    message = refused(text)
    assert named in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("bs(x, 4)", {"df": 4}),
        ("bs(x, knots=3)", {"knots": 3}),
        ("bs(x, df=5, degree=None, include_intercept=None, lower_bound=None)", None),
        ("C(s, contr.sum, 'a')", {"coding": "sum", "reference": "a"}),
        ("C(s, 'Helmert')", {"coding": "helmert"}),
        ("C(s, Poly)", {"coding": "poly"}),
        ("C(s, Treatment('b'))", {"coding": "treatment", "reference": "b"}),
        ("round(x, digits=None)", {"digits": None}),
        ("clip(x)", {}),
        ("clip(x, None, 3)", {"lower": None, "upper": 3}),
        ("cut(x, [2, 1], right=False)", {"breaks": (2, 1), "right": False}),
        ("lump(s, top=3)", {"top": 3}),
        ("max(x, i)", {}),
    ],
)
def test_options(text: str, options: dict[str, object] | None) -> None:
    call = parse_expression(text)
    kind_of(call, TYPES)
    if options is not None:
        assert options_of(call) == options  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["poly(x, 2) + 1", "log(bs(x, df=4))", "I(1 + ns(x, df=2))", "scale(poly(x, 2))", "-cr(x, df=3)"]
)
def test_several_columns_stand_alone(text: str) -> None:
    with pytest.raises(StreamlrError, match="makes several columns and must stand alone"):
        check_alone(parse_expression(text))


@pytest.mark.parametrize(
    "text", ["poly(x, 2)", "I(poly(x, 2))", "I(I(bs(x, df=4)))", "bs(scale(x), df=4)", "x"]
)
def test_several_columns_alone(text: str) -> None:
    check_alone(parse_expression(text))


def test_a_call_of_nothing_is_left_to_other_checks() -> None:
    check_alone(parse_expression("I()"))
    assert "a column must be given" in refused("I()")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("i", True),
        ("x", False),
        ("d", False),
        ("i + 1", True),
        ("i + 1.0", False),
        ("i * i - 3", True),
        ("i / 2", False),
        ("i ** 2", False),
        ("i // 2", True),
        ("i % 2", True),
        ("x // 2", False),
        ("-i", True),
        ("floor(x)", True),
        ("round(x)", True),
        ("round(x, 1)", False),
        ("round(x, -1)", True),
        ("round(x, digits=None)", True),
        ("abs(i)", True),
        ("abs(x)", False),
        ("max(i, 3)", True),
        ("max(i, x)", False),
        ("year(t)", True),
        ("len(s)", True),
        ("log(i)", False),
        ("I(i)", True),
        ("clip(i, 0, 1)", False),
        ("scale(i)", False),
    ],
)
def test_whole_numbers(text: str, whole: bool) -> None:
    assert is_whole(parse_expression(text), TYPES) is whole


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.int8()), pa.struct([]), pa.binary(), pa.time32("s"), pa.duration("s")]
)
def test_columns_that_cannot_be_used(type_: pa.DataType) -> None:
    with pytest.raises(StreamlrError, match=r"column 'z'.*cannot be used in a formula"):
        column_kind("z", type_)
