"""Formulas of no good will: each is answered at once, by a model or a StreamlrError, and nothing is run.

The time allowed for each is a second, ten times what the slowest takes. To draw many fresh examples:
`HYPOTHESIS_PROFILE=explore FUZZ_EXAMPLES=20000 pytest tests/test_hostile_formulas.py -k fuzz`.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamlr
from streamlr.design.spec import Spec, resolve_spec
from streamlr.errors import StreamlrError

SECONDS = 3.0  # what a hang exceeds; 20,000 arguments took 1.2 on a busy machine
RNG = np.random.default_rng(9)
N = 60
DATA = {
    "y": RNG.integers(0, 2, N),
    "x": RNG.normal(size=N),
    "z": RNG.normal(size=N) + 3,
    "g": RNG.choice(list("abc"), N),
}
ODD_NAMES = [
    "a b",
    "it's",
    'say "x"',
    "two\nlines",
    "été",
    "年",
    "شمال",
    "‮x",
    "x;y",
    "{x}",
    "a:b",
    "y ~ x",
    "\\",
]
ODD_NAMES += [
    "`",
    "``x",
    "a`b`",
    "x)",
    "(x",
    "__class__",
    "lambda",
    "0",
    "1",
    ".",
    "~",
    "#",
    "%in%",
    "a\tb",
    "x.y",
    "True",
]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """What is measured is the answer to a formula, not compiling and importing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", streamlr.ConvergenceWarning)
        streamlr.fit(DATA, "y ~ x + g")


def answer(formula: str, data: Any = None) -> str:
    """What came of it; anything but a model or a StreamlrError fails the test by itself."""
    start = time.perf_counter()
    try:
        model = streamlr.fit(DATA if data is None else data, formula)
        found = " ".join(model.terms)
    except StreamlrError as error:
        found = f"refused: {error}"
    assert time.perf_counter() - start < SECONDS
    return found


def joined(operator: str, count: int) -> str:
    return operator.join(f"a{number}" for number in range(count))


REFUSED = {
    "attribute": "x.__class__",
    "attributes": "x.__class__.__mro__[1].__subclasses__()",
    "call of attribute": "I(x.sum())",
    "subscript": "x[0]",
    "builtins": "__builtins__",
    "globals": "globals()",
    "lambda": "(lambda: x)()",
    "lambda inside": "I((lambda: x)())",
    "f-string": "f'{x}'",
    "f-string inside": "log(f'{x}')",
    "walrus": "(x := 3)",
    "walrus inside": "I((x := 3))",
    "comprehension": "[x for x in z]",
    "comprehension inside": "I([x for x in z])",
    "generator": "max(x for x in z)",
    "conditional": "I(x if x > 1 else z)",
    "starred": "max(*x, **z)",
    "semicolon": "x; z",
    "semicolon inside": "I(x; z)",
    "import": "import os",
    "comment": "x # z",
    "yield": "(yield x)",
    "await": "await x",
    "decorator": "@x",
    "braces": "{x; z}",
    "bytes": "I(x == b'a')",
    "exec": "exec('x = 1')",
    "eval": "eval('x')",
    "compile": "C(compile('x', '', 'eval'))",
    "numpy": "np.load('x')",
    "1,000 parentheses": "(" * 1000 + "x" + ")" * 1000,
    "5,000 parentheses": "(" * 5000 + "x" + ")" * 5000,
    "5,000 calls": "log(" * 5000 + "x" + ")" * 5000,
    "5,000 braces": "{" * 5000 + "x" + "}" * 5000,
    "depth behind a text": "C(g, reference='\\'') + " + "(" * 30_000 + "'",
    "a megabyte of parentheses": "(" * 1_000_000,
    "a megabyte of text": "I(g == '" + "a" * 1_000_000 + "')",
    "parentheses that close": ")" * 60_000,
    "brackets": "[" * 60_000,
    "64 KB of +": "+" * 65_000,
    "64 KB of -x": "x" + "-x" * 32_000,
    "64 KB of ~": "~" * 65_000,
    "many tildes": "x" + " ~ x" * 15_000,
    "many bars": "x" + "|x" * 30_000,
    "long sum inside": "I(x" + "+x" * 30_000 + ")",
    "sum of 500 inside": "I(x" + "+x" * 500 + ")",
    "long product inside": "I(x" + "*x" * 30_000 + ")",
    "tower of powers": "I(x" + "**x" * 20_000 + ")",
    "signs inside": "I(" + "-" * 60_000 + "x)",
    "negations inside": "I(" + "not " * 15_000 + "(x > 1))",
    "seven to the seventh": f"({joined('+', 7)})**7",
    "thirty to the fourth": f"({joined('+', 30)})**4",
    "powers of powers": "(" * 20 + joined("+", 8) + ")**4" * 20,
    "product of 13": joined("*", 13),
    "product of 14": joined("*", 14),
    "product of 90": joined("*", 90),
    "products of sums": f"({joined('+', 3000)}):({joined('+', 3000)})",
    "nested sums": f"({joined('+', 4000)})/({joined('+', 4000)})",
    "chain of :": "x" + ":z" * 30_000,
    "chain of : of many": joined(":", 9000),
    "chain of /": joined("/", 300),
    "chain of %in%": "x" + " %in% z" * 8000,
    "huge power": "(x + z)**" + "9" * 5000,
    "power of a superscript": "(x + z)**²",
    "huge number": "9" * 5000,
    "huge number inside": "I(x + " + "9" * 5000 + ")",
    "number beyond doubles": "I(x + " + "9" * 400 + ")",
    "infinite number": "I(x + 1e999)",
    "digits of another script": "٣",
    "quote": "'",
    "double quote": 'x + "',
    "backtick": "`",
    "two backticks": "``",
    "backticks": "`" * 60_000,
    "odd backticks": "`" * 60_001,
    "backticks without an end": "`a`" * 20_000 + "`",
    "empty calls": "I() + C() + hash() + lump()",
    "unclosed quote inside": "C(g, reference='a)",
    "escaped end": "C(g, reference='a\\')",
    "escapes": "I(g == '" + "\\'" * 30_000,
    "spaces": " " * 60_000 + "@",
    "dots": "." * 60_000,
    "long dotted name": "a." * 30_000,
    "dots before a name": "..x",
    "commas": "f(" + "," * 60_000 + ")",
    "NUL": "\0",
    "NUL in a name": "`\0`",
    "NUL inside": "I(x\0)",
    "half a character": "I(g == '\ud800')",
    "right to left mark": "\u202ex",
    "no-break space": "x\u00a0z",
    "a mark of our own": "x '\ue0009' \ue0007",
    "two kinds of brackets": "[x + z)**3 - 1",
    "no operand": "x + ",
    "only signs": "+ - * /",
    "percent": "x % z",
    "unclosed percent": "x %in z",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    found = answer("y ~ " + REFUSED[name])
    assert found.startswith("refused: ")
    assert len(found) < 1500 or "no column" in found


def test_messages_name_variables_as_they_are_written() -> None:
    assert "between `log(x)` and `a b`" in answer("y ~ z + log(x) `a b`")


def test_product_of_thirteen_is_refused_for_its_columns_only() -> None:
    assert "no column 'a0'" in answer("y ~ " + REFUSED["product of 13"])
    assert "10,000" in answer("y ~ " + REFUSED["product of 14"])


MANY = {
    "50 parentheses": "(" * 50 + "x" + ")" * 50,
    "90 parentheses inside": "I(" + "(" * 90 + "x" + ")" * 90 + ")",
    "sum of 5,000": "x" + "+x" * 5000,
    "90 differences": "x" + "-z" * 90,
    "chain of dots": "." + "*." * 6,
    "20,000 arguments": "max(" + ",".join(["x"] * 20_000) + ")",
    "long list": "cut(x, [" + ",".join(map(str, range(-9, 12_000))) + "]) - 1",
    "parenthesis in a text": "I(g == ')') + I(g == '(') + x + I(g == ')(`\"') + x",
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.filterwarnings("ignore::streamlr.ConvergenceWarning")
def test_long_but_well_meant(name: str) -> None:
    """Answered in time; constant columns and such may still be refused."""
    found = answer("y ~ " + MANY[name])
    assert "cannot read" not in found
    assert "more than" not in found


EXECUTED = [
    "__import__('os').system('touch {}')",
    "__import__('os')",
    "os.system('touch {}')",
    "open('{}', 'w')",
    "I(open('{}', 'w'))",
    "log(x, open('{}', 'w'))",
    "round(x, digits=open('{}', 'w'))",
    "C(g, levels=[open('{}', 'w')])",
    "C(g, open('{}', 'w'))",
    "{{open('{}', 'w')}}",
    "{{__import__('pathlib').Path('{}').touch()}}",
    "(lambda: open('{}', 'w'))()",
    "[open('{}', 'w') for i in (1,)]",
    'x + exec(\'open("{}", "w")\')',
    "np.save('{}', x)",
    "`open('{}', 'w')`",
    'f\'{{open("{}", "w")}}\'',
    'I(f\'{{open("{}", "w")}}\' == g)',
]


@pytest.mark.parametrize("call", EXECUTED)
def test_nothing_is_executed_or_opened(call: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert answer("y ~ " + call.format(marker)).startswith("refused: ")
    assert answer(call.format(marker) + " ~ x").startswith("refused: ")
    assert not marker.exists()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_stands_in_backticks(name: str) -> None:
    data = {"y": DATA["y"], name: DATA["x"]}
    written = name.replace("`", "``")
    assert answer(f"y ~ `{written}`", data) == f"Intercept {name}"
    assert answer(f"y ~ scale(`{written}`)", data).startswith("Intercept scale(")
    assert answer("y ~ .", data) == f"Intercept {name}"
    assert answer(f"`{written}` ~ x", {name: DATA["y"], "x": DATA["x"]}) == "Intercept x"


@pytest.mark.parametrize("name", ["été", "年", "شمال", "x_1", "_x", "x.y", "ª"])
def test_letters_of_every_script_are_names(name: str) -> None:
    assert answer(f"y ~ {name}", {"y": DATA["y"], name: DATA["x"]}) == f"Intercept {name}"


def test_parentheses_inside_of_calls_keep_their_meaning() -> None:
    """`^` binds looser than `+` in Python, tighter here, so the text of a call must not pass through it."""
    model = streamlr.fit({"y": DATA["y"], "x": np.abs(DATA["x"]) + 0.5}, "y ~ I(x^(2+1)) + I(x^2+1)")
    assert model.terms == ("Intercept", "I(x**(2 + 1))", "I(x**2 + 1)")


# Fuzz


SCHEMA = pa.schema(
    {
        "y": pa.int8(),
        "x": pa.float64(),
        "i": pa.int32(),
        "g": pa.string(),
        "b": pa.bool_(),
        "t": pa.timestamp("us"),
        "a b": pa.float64(),
        "l": pa.list_(pa.int8()),
        "n": pa.null(),
    }
)
TOKENS = [
    *(
        "x",
        "i",
        "g",
        "b",
        "t",
        "y",
        "`a b`",
        "l",
        "n",
        "w",
        "0",
        "1",
        "2",
        ".5",
        "1e3",
        "9" * 30,
        "-1",
        "'a'",
    ),
    *("'it\\'s'", '"b"', "[1, 2]", "c('a', 'b')", "True", "None", "é", "²", "‮", "\0", "\\", "`", "'", '"'),
    *("+", "-", "*", "/", ":", "^", "**", "%in%", "%", "~", "|", "&", "!", "not ", " and ", " or ", "."),
    *("(", ")", "(", ")", "[", "]", "{", "}", ",", "=", "==", "<", ">=", "!=", ";", "#", "@", "$", " ", "\n"),
    *("log(", "C(", "poly(", "bs(", "ns(", "cr(", "cut(", "lump(", "hash(", "scale(", "year(", "lower("),
    *("isnull(", "round(", "min(", "clip(", "I(", "len(", "open(", "lambda ", "x.real", "__import__('os')"),
    *("df=4", "degree=2", "knots=[0]", "quantiles=3", "top=2", "sum", "reference='a'", "levels=", "digits="),
]
VALID = [
    "y ~ x + g",
    "y ~ x*g*b - x:g:b",
    "y ~ (x + i + g)**3 - 1",
    "y ~ x/g + i %in% g",
    "y ~ log(x + 1) + I(x**2 / (1 + i))",
    "y ~ C(g, sum) + C(i, reference=3) + C(g, Treatment('a'))",
    "y ~ poly(x, 3):g + bs(`a b`, df=5) + ns(x, knots=[0, 1])",
    "y ~ cut(x, quantiles=4) + cut(i, c(0, 5, 10), right=False)",
    "y ~ lump(g, top=3) + hash(g, 16) + cr(x, df=4)",
    "y ~ I((x > 1) & ~(i == 2) | b) + isnull(x)",
    "y ~ year(t) + hour(t) + I(t > '2024-01-01') + len(lower(strip(g)))",
    "y ~ scale(log1p(abs(x))) + min(x, i, 3) + clip(x, -1, upper=1) + round(x, 1)",
    "~ . - x + {x + 1}",
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))


def resolved(formula: str) -> Spec | None:
    """The formula against a table of every type; None: refused. Anything else fails, a warning too."""
    start = time.perf_counter()
    try:
        return resolve_spec(
            SCHEMA,
            origin="data",
            formula=formula,
            target="y",
            features=None,
            exclude=[],
            categorical=[],
            numeric=[],
            reference={},
            positive=None,
            where=None,
            missing="drop",
            weights=None,
            weight_type="frequency",
            offset=None,
            trials=None,
        )
    except StreamlrError as error:
        assert str(error)
        return None
    finally:
        assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize("formula", VALID)
def test_what_is_mutated_is_valid(formula: str) -> None:
    assert resolved(formula) is not None


@settings(max_examples=EXAMPLES)
@given(st.lists(st.sampled_from(TOKENS), max_size=25), st.sampled_from(["y ~ ", "~", ""]))
def test_fuzz_of_tokens(tokens: list[str], start: str) -> None:
    resolved(start + "".join(tokens))


@st.composite
def mutations(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 6))
        put = draw(
            st.one_of(
                st.just(""), st.sampled_from(TOKENS), st.text(max_size=3), st.just(text[at : at + length] * 2)
            )
        )
        text = text[:at] + put + text[at + length :]
    return text


@settings(max_examples=EXAMPLES)
@given(mutations())
def test_fuzz_of_mutations(text: str) -> None:
    resolved(text)
