"""Expressions as trees: reading, the normal form, that it is read back the same, precedence, faults.

Model files store an expression as its text, so `parse_expression(text_of(tree)) == tree` has to hold for
every tree that a formula can lead to, whatever its columns are called and its texts hold.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlr.design.expressions import (
    BINARY,
    MAXIMUM_DEPTH,
    SAME,
    WORDS,
    Call,
    Column,
    Constant,
    Expression,
    Operation,
    Word,
    columns_of,
    nodes_of,
    parse_expression,
    text_of,
)
from streamlr.design.functions import FUNCTIONS
from streamlr.errors import StreamlrError


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("x", "x"),
        ("  ( (x) ) ", "x"),
        ("x+1", "x + 1"),
        ("x ^ 2", "x**2"),
        ("x ** 2 ** 3", "x**2**3"),
        ("(x ** 2) ** 3", "(x**2)**3"),
        ("-x ** 2", "-x**2"),
        ("(-x) ** 2", "(-x)**2"),
        ("x ** -1", "x**(-1)"),
        ("(-2) ** x", "(-2)**x"),
        ("-2 ** x", "-2**x"),
        ("(-0.0) ** x", "(-0.0)**x"),
        ("- - x", "--x"),
        ("+x", "x"),
        ("-(2)", "-2"),
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("a * (b + c) / d", "a * (b + c) / d"),
        ("a // b % c", "a // b % c"),
        ("a - -1", "a - -1"),
        ("x>1 & y<2 | ! z", "((x > 1) & (y < 2)) | (~z)"),
        ("x > 1 and not y or z", "((x > 1) & (~y)) | z"),
        ("not a == b", "~(a == b)"),
        ("(a < b) == (c < d)", "(a < b) == (c < d)"),
        ("log(x+1)", "log(x + 1)"),
        ("np.log( x )", "log(x)"),
        ("bs(x, df = 4)", "bs(x, df=4)"),
        ("bs(x, knots=c(1, 2.50, -3))", "bs(x, knots=[1, 2.5, -3])"),
        ("cut(x, [1,])", "cut(x, [1])"),
        ("C(g, levels=['a', \"b\"])", "C(g, levels=['a', 'b'])"),
        ("C(g, sum)", "C(g, sum)"),
        ("C(g, contr.sum)", "C(g, contr.sum)"),
        ("C(g, coding=Sum)", "C(g, coding=Sum)"),
        ("C(g, Treatment('a'))", "C(g, Treatment, reference='a')"),
        (
            "C(g, Treatment(reference='a'), levels=[1, 2])",
            "C(g, Treatment, reference='a', levels=[1, 2])",
        ),
        ('C(g, reference="it\'s")', 'C(g, reference="it\'s")'),
        (r"C(g, reference='a\'b\"c\\d\ne')", r"""C(g, reference='a\'b"c\\d\ne')"""),
        ("f(x, y=TRUE, z=NULL, w=False)", "f(x, y=True, z=None, w=False)"),
        ("`a b` + `x`", "`a b` + x"),
        ("`True` + `and` + `None`", "`True` + `and` + `None`"),
        ("````", "````"),
        ("``", "``"),
        ("é * 年", "é * 年"),
        ("a.b + _c1", "a.b + _c1"),
        ("1e3 + .5 + 5. + 1E-3", "1000.0 + 0.5 + 5.0 + 0.001"),
        ("x\n\t+\r\n1", "x + 1"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    tree = parse_expression(text)
    assert text_of(tree) == normal
    assert parse_expression(normal) == tree


def test_what_a_text_holds() -> None:
    assert parse_expression(r"'a\'b\\\n\t\r\q'") == Constant("a'b\\\n\t\rq")
    assert parse_expression(r'''"a\"b'"''') == Constant("a\"b'")
    assert parse_expression("'a\nb'") == Constant("a\nb")


def test_columns_and_nodes() -> None:
    tree = parse_expression("log(x + y) * max(x, z) + C(g, reference='x')")
    assert columns_of(tree) == ("x", "y", "z", "g")
    nodes = [text_of(node) for node in nodes_of(tree)]
    assert nodes.index("x + y") < nodes.index("log(x + y)") < nodes.index(text_of(tree))


# Every tree is read back


NAMES = st.one_of(
    st.sampled_from(
        ["x", "é", "a b", "`", "``", "a`b", "", "'", '"', "1st", "np.x", "a.b", "a.", ".a", "\n"]
    ),
    st.sampled_from([*WORDS, *SAME, "c", "C", "log", "lambda", "x(1)", "a:b", "‮x", "²", "x²", "٣", "\\"]),
    st.text(max_size=6),
)
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(10**300), 10**300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 5e-324, -5e-324, 1.7976931348623157e308, 1e16, 0.1, 2**63]),
)
TEXTS = st.one_of(st.text(max_size=8), st.text("'\"\\\n\r\tnt`)]", max_size=6))
PLAIN = st.one_of(NUMBERS, TEXTS, st.sampled_from([True, False, None]))
CONSTANTS = st.one_of(PLAIN, st.lists(PLAIN, max_size=3).map(tuple)).map(Constant)
OPTIONS = st.lists(
    st.tuples(st.sampled_from(["df", "levels", "and", "reference"]), CONSTANTS),
    max_size=2,
    unique_by=lambda option: option[0],
).map(tuple)


def negative(operand: Expression) -> Expression:
    """What the minus sign makes of an operand: of a number it is a number."""
    if isinstance(operand, Constant) and type(operand.value) in (int, float):
        return Constant(-operand.value)  # type: ignore[operator]
    return Operation("-", (operand,))


def larger(inside: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    functions = [name for name in FUNCTIONS if name != "C"]
    return st.one_of(
        st.builds(lambda o, a, b: Operation(o, (a, b)), st.sampled_from(list(BINARY)), inside, inside),
        inside.map(negative),
        inside.map(lambda operand: Operation("~", (operand,))),
        st.builds(Call, st.sampled_from(functions), st.lists(inside, max_size=3).map(tuple), OPTIONS),
        st.builds(
            lambda x, coding, options: Call("C", (x, Word(coding)), options),
            inside,
            st.sampled_from(["sum", "Treatment", "contr.helmert"]),
            OPTIONS,
        ),
    )


TREES: st.SearchStrategy[Expression] = st.recursive(
    st.one_of(NAMES.map(Column), CONSTANTS), larger, max_leaves=12
)


def written_out(tree: Any) -> str:
    """The tree with its types, since 1 == 1.0 == True."""
    return repr(tree)


@settings(max_examples=400)
@given(TREES)
def test_every_tree_is_read_back(tree: Expression) -> None:
    text = text_of(tree)
    again = parse_expression(text)
    assert written_out(again) == written_out(tree)
    assert again == tree
    assert text_of(again) == text


# Precedence


def value(tree: Expression, of: dict[str, float]) -> float:
    """The obvious evaluation."""
    if isinstance(tree, Column):
        return of[tree.name]
    if isinstance(tree, Constant):
        return tree.value  # type: ignore[return-value]
    assert isinstance(tree, Operation)
    parts = [value(operand, of) for operand in tree.operands]
    if len(parts) == 1:
        return -parts[0]
    a, b = parts
    return {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "/": lambda: a / b,
        "//": lambda: a // b,
        "%": lambda: a % b,
        "**": lambda: a**b,
        "<": lambda: a < b,
        "<=": lambda: a <= b,
        "==": lambda: a == b,
    }[tree.operator]()


ATOMS = st.sampled_from(["x", "y", "2", "3", "0.5", "(x + y)", "(y - 2)", "-x", "-2"])
SIGNS = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])


@settings(max_examples=300)
@given(ATOMS, st.lists(st.tuples(SIGNS, ATOMS), max_size=5), st.sampled_from(["", " < y * 2", " <= 3 + x"]))
def test_arithmetic_has_the_precedence_of_python(
    first: str, rest: list[tuple[str, str]], comparison: str
) -> None:
    text = first + "".join(f" {sign} {atom}" for sign, atom in rest) + comparison
    names = {"x": 1.75, "y": 3.0}
    try:
        expected = eval(text, {"__builtins__": {}}, names)
    except (ZeroDivisionError, OverflowError):
        return
    if isinstance(expected, complex):
        return
    found = value(parse_expression(text), names)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


# Faults


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "ends too early"),
        ("x +", "ends too early"),
        ("x + * y", r"'\*' is not expected"),
        ("(x", r"'\)' is missing at the end"),
        ("x)", r"'\)' is not expected"),
        ("log(x", r"'\)' is missing at the end"),
        ("log(x y)", r"'\)' is missing before 'y'"),
        ("x y", "'y' is not expected"),
        ("[1, 2", r"'\]' is missing"),
        ("[x]", "numbers or texts only"),
        ("[[1]]", "numbers or texts only"),
        ("c(1, x)", "numbers or texts only"),
        ("f(a=1, a=2)", "'a' is given twice"),
        ("f(a=1, x)", "must stand last"),
        ("a < b < c", "cannot be chained"),
        ("a == b != c", "cannot be chained"),
        ("'abc", "''abc' is not understood"),
        ("`abc", "'`abc' is not understood"),
        ("x @ y", "'@ y' is not understood"),
        ("x; y", "'; y' is not understood"),
        ("x.", r"'\.' is not understood"),
        ("2x", "'2x' is not understood"),
        ("1_000", "'1_000' is not understood"),
        ("0x10", "'0x10' is not understood"),
        ("x := 1", "':= 1' is not understood"),
        ("x = 1", "'=' is not expected"),
        ("lambda: 0", "': 0' is not understood"),
        ("x.a()()", r"'\(' is not expected"),
        ("f(x).a", r"'\.a' is not understood"),
        ("x[0]", r"'\[' is not expected"),
        ("f(,)", "',' is not expected"),
        ("1e999", "'1e999'.*1e999 is too large"),
        ("9" * 5000, r"99999\.\.\. is too large"),
        ("x + \0", "is not understood"),
        ("(" * 101 + "x" + ")" * 101, "nested more than 100 deep"),
        ("-" * 101 + "x", "nested more than 100 deep"),
        ("x" + " + x" * 101, "more than 100 operators"),
    ],
    ids=lambda text: text[:16],
)
def test_faults_are_named(text: str, named: str) -> None:
    with pytest.raises(StreamlrError, match=named) as caught:
        parse_expression(text)
    assert "cannot read the expression" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["{}", "log({})", "-{}", "{} + 1"])
def test_depth_within_the_bound_is_read(text: str) -> None:
    for deep in (
        "(" * (MAXIMUM_DEPTH - 2) + "x" + ")" * (MAXIMUM_DEPTH - 2),
        "x" + " + x" * (MAXIMUM_DEPTH - 2),
        "log(" * (MAXIMUM_DEPTH - 2) + "x" + ")" * (MAXIMUM_DEPTH - 2),
    ):
        tree = parse_expression(text.format(f"({deep})" if "(" not in deep else deep))
        assert parse_expression(text_of(tree)) == tree
        assert hash(tree) == hash(parse_expression(text_of(tree)))
