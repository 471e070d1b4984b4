"""The formula as terms: what operators mean, that nothing is evaluated, and bounds on hostile text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamlr
from streamlr.design.expressions import Column, Expression, text_of
from streamlr.design.formula import MAXIMUM_LENGTH, parse_formula
from streamlr.errors import StreamlrError

COLUMNS = ["y", "x", "z", "g", "a b", "a,b", "1st", "é", "C(x)", "y ~ x"]


def name_of(variable: Expression) -> str:
    return variable.name if isinstance(variable, Column) else text_of(variable)


def parsed(text: str) -> tuple[str | None, bool, tuple[str, ...]]:
    formula = parse_formula(text, COLUMNS)
    terms = tuple(":".join(name_of(variable) for variable in term) for term in formula.terms)
    return formula.target, formula.intercept, terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("y ~ x", ["x"]),
        ("y~x+z", ["x", "z"]),
        ("  y  ~  z\n + x ", ["z", "x"]),
        ("y ~ x + x", ["x"]),
        ("y ~ (x + z)", ["x", "z"]),
        ("y ~ 1 + x", ["x"]),
        ("y ~ C(g)", ["C(g)"]),
        ("y ~ C( g ) + x", ["C(g)", "x"]),
        ("y ~ x + z - z", ["x"]),
        ("y ~ x:z", ["x:z"]),
        ("y ~ x*z", ["x", "z", "x:z"]),
        ("y ~ z:x + x:z", ["z:x"]),
        ("y ~ x*z*g", ["x", "z", "g", "x:z", "x:g", "z:g", "x:z:g"]),
        ("y ~ x*z*g - x:z:g", ["x", "z", "g", "x:z", "x:g", "z:g"]),
        ("y ~ x/z", ["x", "x:z"]),
        ("y ~ (x + z)/g", ["x", "z", "x:z:g"]),
        ("y ~ x/(z + g)", ["x", "x:z", "x:g"]),
        ("y ~ x/z/g", ["x", "x:z", "x:z:g"]),
        ("y ~ z %in% x", ["z:x"]),
        ("y ~ x + z %in% x", ["x", "z:x"]),
        ("y ~ (x + z + g)^2", ["x", "z", "g", "x:z", "x:g", "z:g"]),
        ("y ~ (x + z + g)**3 - x", ["z", "g", "x:z", "x:g", "z:g", "x:z:g"]),
        ("y ~ x:x", ["x"]),
        ("y ~ x:1 + z:g + g", ["x", "g", "z:g"]),
        ("y ~ log(x) + I(x**2)", ["log(x)", "I(x**2)"]),
        ("y ~ bs(x, df = 4):C(g)", ["bs(x, df=4):C(g)"]),
        ("y ~ {x + 1}", ["x + 1"]),
        ("y ~ 1", []),
        ("y ~ `a b` + `a,b`", ["a b", "a,b"]),
        ("y ~ `1st` + é", ["1st", "é"]),
        ("y ~ C(`a b`)", ["C(`a b`)"]),
        ("y ~ `C(x)`", ["C(x)"]),
        ("y ~ `y ~ x`", ["y ~ x"]),
    ],
)
def test_terms(text: str, terms: list[tuple[str, bool]]) -> None:
    assert parsed(text) == ("y", True, tuple(terms))


@pytest.mark.parametrize("text", ["y ~ 0 + x", "y ~ x + 0", "y ~ x - 1", "y ~ -1 + x"])
def test_no_intercept(text: str) -> None:
    assert parsed(text) == ("y", False, ("x",))


@pytest.mark.parametrize("text", ["y ~ 0 + 1 + x", "y ~ x - 1 + 1"])
def test_the_last_word_on_the_intercept_counts(text: str) -> None:
    assert parsed(text) == ("y", True, ("x",))


def test_dot_is_every_other_column() -> None:
    others = tuple(name for name in COLUMNS if name != "y")
    assert parsed("y ~ .") == ("y", True, others)
    assert parsed("`y ~ x` ~ .")[0] == "y ~ x"
    assert set(parsed("y ~ . - g - `a b`")[2]) == {term for term in others if term not in ("g", "a b")}
    assert parsed("y ~ . + 0") == ("y", False, others)


def test_left_side_may_be_absent() -> None:
    assert parsed("~ x") == (None, True, ("x",))


def test_backquoted_outcome() -> None:
    assert parsed("`a b` ~ x") == ("a b", True, ("x",))
    assert "a b" not in parsed("`a b` ~ .")[2]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("y ~ x > 3", ">"),
        ("y ~ x^5", "power"),
        ("y ~ x^z", "power"),
        ("y ~ 2*x", "2"),
        ("y ~ x + 'a'", "'a'"),
        ("y ~ I(x", "I(x"),
        ("y ~ x | z", "|"),
        ("y | z ~ x", "y"),
    ],
)
def test_what_is_not_supported_is_named(text: str, named: str) -> None:
    with pytest.raises(StreamlrError) as caught:
        parse_formula(text, COLUMNS)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "y ~ (x",
        "y ~ x)",
        "y ~ `x",
        "y ~ x ~ z",
        "y ~ x +",
        "y ~ + * x",
        "y ~ x z",
        "y ~ 'x'",
        "y ~ 2",
        "y ~ x + 3.5",
        "y + z ~ x",
        "~",
        "y ~ \0",
        "y ~ x @ z",
        "y ~ x.real",
        "y ~ x.real()",
        "y ~ __import__('os').system('true')",
        "y ~ __import__('os')",
        "y ~ C()",
        "y ~ C(x + w)",
        "y ~ C(x, Unheard)",
        "y ~ lambda: x",
        "y ~ x; z",
        "y ~ " + "(" * 200_000,
        "y ~ " + "+".join(["x"] * (MAXIMUM_LENGTH // 2 + 2)),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(StreamlrError):
        streamlr.fit({"y": [0, 1, 1, 0], "x": [1.0, 2.0, 0.5, 3.0], "z": [1.0, 5.0, 2.0, 3.0]}, text)


def test_empty_formula_is_refused() -> None:
    """It names neither an outcome nor a term; a model of the intercept is written `y ~ 1`."""
    with pytest.raises(StreamlrError):
        streamlr.fit({"y": [0, 1, 1, 0], "x": [1.0, 2.0, 0.5, 3.0]}, "")


def test_nothing_is_evaluated(tmp_path: Any) -> None:
    marker = tmp_path / "marker"
    for call in (f"open('{marker}', 'w')", f"C(open('{marker}', 'w'))", f"{{open('{marker}', 'w')}}"):
        with pytest.raises(StreamlrError, match="no function 'open'"):
            streamlr.fit(DATA, f"y ~ {call}")
    assert not marker.exists()


# In a fit


RNG = np.random.default_rng(8)
N = 200
DATA = {
    "x": RNG.normal(size=N),
    "a b": RNG.normal(size=N),
    "g": RNG.choice(["p", "q", "r"], N),
    "h": RNG.integers(0, 3, N),
    "y": RNG.integers(0, 2, N),
}


def test_formula_is_the_same_as_the_options() -> None:
    model = streamlr.fit(DATA, "y ~ C(h) + `a b` + g")
    other = streamlr.fit(DATA, target="y", features=["h", "a b", "g"], categorical=["h"])
    assert model.terms == other.terms
    assert model.terms == ("Intercept", "C(h)[T.1]", "C(h)[T.2]", "a b", "g[T.q]", "g[T.r]")
    assert model.params.tobytes() == other.params.tobytes()


def test_dot_in_a_fit() -> None:
    model = streamlr.fit(DATA, "y ~ .")
    assert model.terms == ("Intercept", "x", "a b", "g[T.q]", "g[T.r]", "h")


def test_dot_leaves_out_what_the_user_did_not_name() -> None:
    """Columns behind the dot were not named, so one that cannot be used is left out, not an error."""
    model = streamlr.fit({**DATA, "one": np.ones(N), "when": np.arange(N).astype("M8[s]")}, "y ~ .")
    assert set(model.excluded) == {"one", "when"}


def test_dot_takes_no_column_with_a_role() -> None:
    model = streamlr.fit({**DATA, "w": np.ones(N)}, "y ~ .", weights="w")
    assert "w" not in model.terms


@pytest.mark.parametrize("text", ["y ~ 0 + g + x", "y ~ g + x - 1", "y ~ x + g + 0"])
def test_without_intercept_the_first_factor_has_all_levels(text: str) -> None:
    model = streamlr.fit(DATA, text, tol=1e-12)
    with_intercept = streamlr.fit(DATA, "y ~ g + x", tol=1e-12)
    assert set(model.terms) == {"g[p]", "g[q]", "g[r]", "x"}
    assert model.llf == pytest.approx(with_intercept.llf, rel=1e-12)
    place = model.terms.index("g[p]")
    assert model.params[place] == pytest.approx(with_intercept.params[0], rel=1e-10)


def test_without_intercept_the_second_factor_has_a_reference() -> None:
    model = streamlr.fit(DATA, "y ~ 0 + C(h) + g")
    assert model.terms == ("C(h)[0]", "C(h)[1]", "C(h)[2]", "g[T.q]", "g[T.r]")
    assert list(model.aliased) == []


def test_without_intercept_and_factors_nothing_is_centred() -> None:
    data = {"x": DATA["x"] + 5.0, "y": DATA["y"]}
    model = streamlr.fit(data, "y ~ 0 + x", tol=1e-12)
    slope = float(model.params[0])
    p = 1 / (1 + np.exp(-slope * data["x"]))
    assert abs(np.sum((data["y"] - p) * data["x"])) < 1e-9 * np.sum(np.abs(data["x"]))


def test_target_option_and_formula() -> None:
    assert streamlr.fit(DATA, "~ x", target="y").terms == ("Intercept", "x")
    assert streamlr.fit(DATA, "y ~ x", target="y").terms == ("Intercept", "x")
    with pytest.raises(StreamlrError, match=r"'y'.*'h'"):
        streamlr.fit(DATA, "y ~ x", target="h")
    with pytest.raises(StreamlrError, match="formula"):
        streamlr.fit(DATA, "y ~ x", features=["x"])


def test_unknown_columns_of_a_formula() -> None:
    with pytest.raises(StreamlrError, match=r"'xx'.*Did you mean 'x'"):
        streamlr.fit(DATA, "y ~ xx")
    with pytest.raises(StreamlrError, match="'yy'"):
        streamlr.fit(DATA, "yy ~ x")
    with pytest.raises(StreamlrError, match="'hh'"):
        streamlr.fit(DATA, "y ~ C(hh)")


def test_factor_and_its_text_are_one_term() -> None:
    """C(g) of a text column is the column; both say the same, so one is aliased or they are one."""
    model = streamlr.fit(DATA, "y ~ C(g) + g")
    assert len(model.params) == 3
    assert np.isfinite(model.params).all()
