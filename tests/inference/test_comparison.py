"""Nested models compared: against R, and which pairs of models may be compared at all.

Likelihood ratios, AIC and BIC are R's (`tests/saved_models.py`). What is nested in what is known from the
columns that the formulas make, whatever they are called; a pair that is not nested, or did not see the same
rows, must be refused in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_models import CASES, reread, saved, saved_smaller
from scipy.special import chdtrc, logit

import streamlr

# Both log-likelihoods are at their maxima, where they are flat: their difference is exact to rounding.
OF_RATIOS = 1e-10


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """y, numbers x and z, factors a (p, q, r) and b (s, t), a weight w, an offset o, whole numbers v."""
    rng = np.random.default_rng(8)
    n = 500
    x, a = rng.normal(size=n), rng.choice(["p", "q", "r"], n)
    y = (rng.random(n) < 1 / (1 + np.exp(-0.5 * x - 0.7 * (a == "q")))).astype(int)
    return pa.table(
        {
            "y": y,
            "x": x,
            "z": rng.normal(size=n),
            "a": a,
            "b": rng.choice(["s", "t"], n),
            "w": rng.integers(1, 4, n),
            "o": rng.normal(0.0, 0.1, n),
            "v": rng.integers(0, 3, n),
        }
    )


# Against R


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["smaller"]])
def test_agrees_with_r(name: str) -> None:
    """anova(smaller, larger, test = "LRT"), AIC and BIC; all models in one comparison, in any order."""
    stored = CASES[name]["smaller"]
    models = (saved(name), *saved_smaller(name))
    found = streamlr.compare(*models)
    assert [test.df for test in reversed(found.tests)] == [less["df"] for less in stored]
    for test, less in zip(reversed(found.tests), stored, strict=True):
        assert test.statistic == pytest.approx(less["statistic"], rel=OF_RATIOS)
        assert test.p_value == pytest.approx(less["p_value"], rel=100 * OF_RATIOS)
    every = [CASES[name]["criteria"], *(less["criteria"] for less in stored)]
    for model, criteria in zip(reversed(found.models), every, strict=True):
        assert (model.log_likelihood, model.aic, model.bic) == pytest.approx(
            (criteria["log_likelihood"], criteria["aic"], criteria["bic"]), rel=1e-12
        )
    assert streamlr.compare(*models[::-1]).tests[0].statistic == found.tests[0].statistic


# What is nested


@pytest.mark.parametrize(
    ("smaller", "larger", "df"),
    [
        ("y ~ 1", "y ~ x", 1),
        ("y ~ x", "y ~ z + x", 1),
        ("y ~ a", "y ~ C(a, reference='q') + x", 1),
        ("y ~ 0 + a", "y ~ a + x", 1),
        ("y ~ C(a, sum)", "y ~ 0 + x + a", 1),
        ("y ~ C(a, poly)", "y ~ C(a, helmert) * b", 3),
        ("y ~ 0 + a:b", "y ~ x + b*a", 1),
        ("y ~ C(a, sum):b", "y ~ a*b + x", 1),
        ("y ~ b:a", "y ~ a + b + a:b + x", 1),
        ("y ~ x:a", "y ~ x*a", 2),
        ("y ~ C(a, sum):x", "y ~ a*x + z", 3),
        ("y ~ 0 + x", "y ~ 0 + x + a", 3),
        ("y ~ 0 + x:a", "y ~ 0 + x + x:a + z", 1),
        ("y ~ x", "y ~ poly(x, 2)", 1),
        ("y ~ x", "y ~ bs(x, df=4)", 3),
        ("y ~ x + z", "y ~ ns(x, df=3) + z", 2),
        ("y ~ x", "y ~ scale(x) + z", 1),
        ("y ~ scale(x)", "y ~ center(x) + z", 1),
        ("y ~ I(x**2) + x", "y ~ poly(x, 3)", 1),
        ("y ~ poly(x, 2)", "y ~ poly(x, 3)", 1),
        ("y ~ poly(x, 3)", "y ~ bs(x, df=4)", 1),
        ("y ~ poly(x, 2) + x:z", "y ~ poly(x, 3)*poly(z, 2)", 8),
        ("y ~ hash(a, 3)", "y ~ x + hash(a, 3)", 1),
        ("y ~ x:a", "y ~ bs(x, df=4) * a", 11),
        ("y ~ cut(x, [-9, -1, 1, 9])", "y ~ cut(x, [-9, -1, 1, 9]) + z", 1),
        ("y ~ log(x**2 + 1)", "y ~ log( x**2+1 ) * a", 4),
    ],
)
def test_nested_by_what_columns_span(table: pa.Table, smaller: str, larger: str, df: int) -> None:
    less, more = streamlr.fit(table, smaller), streamlr.fit(table, larger)
    (test,) = streamlr.compare(more, less).tests
    assert test.df == df
    assert test.statistic == pytest.approx(2 * (more.llf - less.llf), abs=1e-9)
    assert test.p_value == pytest.approx(chdtrc(df, test.statistic), rel=1e-12)
    # The proof is right: every column of the smaller is a combination of those of the larger one.
    assert more.llf >= less.llf - 1e-9


@pytest.mark.parametrize(
    ("smaller", "larger", "named"),
    [
        ("y ~ x", "y ~ z + a", "x"),
        ("y ~ x", "y ~ I(x**2) + a", "x"),
        ("y ~ a", "y ~ x + z + b + x:z", "a"),
        ("y ~ a:b", "y ~ x + z + a + b + x:z + x:a", "a:b"),
        ("y ~ x*a", "y ~ x + a + z + b + x:b + z:b", "x:a"),
        ("y ~ 1", "y ~ 0 + x + z", "the intercept"),
        ("y ~ x", "y ~ 0 + bs(x, df=4)", "the intercept, x"),
        ("y ~ x", "y ~ bs(x, knots=[0], degree=0) + z", "x"),
        ("y ~ poly(x, 2)", "y ~ ns(x, df=4)", r"poly\(x, 2\)"),
        ("y ~ poly(x, 3)", "y ~ poly(x, 2) + z + b", r"poly\(x, 3\)"),
        ("y ~ I(x**2)", "y ~ x + z", r"I\(x\*\*2\)"),
        ("y ~ x", "y ~ I(x**2) + z", "x"),
        ("y ~ x", "y ~ poly(z, 2) + b", "x"),
        ("y ~ a", "y ~ lump(a, top=1) + x + z", "a"),
        ("y ~ C(v)", "y ~ hash(v, 3) + x", r"C\(v\)"),
        ("y ~ bs(x, df=4)", "y ~ bs(x, df=5)", r"bs\(x, df=4\)"),
        ("y ~ log(x**2 + 1)", "y ~ x + I(x**2)", r"log\(x\*\*2 \+ 1\)"),
        ("y ~ cut(x, [-9, -1, 1, 9])", "y ~ cut(x, [-9, -1, 0, 1, 9]) + z", r"cut\(x, \[-9, -1, 1, 9\]\)"),
        ("y ~ C(w)", "y ~ w + x + z", r"C\(w\)"),
    ],
)
def test_what_is_not_known_to_be_nested(table: pa.Table, smaller: str, larger: str, named: str) -> None:
    less, more = streamlr.fit(table, smaller), streamlr.fit(table, larger)
    says = f"model 1 is not known to be nested in model 2, .* span {named}\\. Compare them by AIC or BIC"
    with pytest.raises(streamlr.StreamlrError, match=says):
        streamlr.compare(less, more)


TERMS = (
    *("x", "z", "a", "b", "x:z", "a:b", "x:a", "x:b", "x:a:b", "C(a, sum)", "C(b, sum)", "C(a, sum):b"),
    *("C(a, sum):x", "C(a, reference='q')", "scale(x)", "scale(x):a", "I(x**2)", "poly(x, 2)", "poly(x, 3)"),
    *("bs(x, df=4)", "bs(x, df=4):b", "ns(x, df=3)", "bs(x, df=2, degree=1)"),
)


@given(st.integers(0, 10_000))
def test_nothing_is_called_nested_that_is_not(table: pa.Table, seed: int) -> None:
    """Random formulas: a pair that passes for nested has columns that are combinations of each other."""
    rng = np.random.default_rng(seed)
    table = table.slice(0, 100)

    def formula(terms: int) -> str:
        chosen = rng.choice(TERMS, terms, replace=False)
        return "y ~ " + rng.choice(["", "0 + "]) + " + ".join(chosen)

    for _ in range(3):
        try:
            models = [streamlr.fit(table, formula(terms)) for terms in (int(rng.integers(1, 3)), 4)]
            streamlr.compare(*models)
        except streamlr.StreamlrError:  # dependent beyond what can be fitted, or not nested
            continue
        less, more = (
            np.column_stack([logit(one.predict(table)) for one in _columns(model)])
            for model in sorted(models, key=lambda model: model.parameters)
        )
        rest = less - more @ np.linalg.lstsq(more, less, rcond=None)[0]
        assert np.abs(rest).max() < 1e-7 * np.abs(less).max(), [model.terms for model in models]


def _columns(model: streamlr.Model) -> Iterator[streamlr.Model]:
    """Models whose linear predictors are the columns of this one."""
    for unit in 0.25 * np.eye(len(model.params)):
        yield replace(model, conditioned_coef=unit)


def test_the_same_model_in_other_words(table: pa.Table) -> None:
    one, other = streamlr.fit(table, "y ~ a"), streamlr.fit(table, "y ~ 0 + C(a, sum)")
    with pytest.raises(streamlr.StreamlrError, match="same 3 parameters"):
        streamlr.compare(one, other)


def test_an_aliased_column_is_no_parameter(table: pa.Table) -> None:
    table = table.append_column("twice", pa.array(2 * table["x"].to_numpy()))
    (test,) = streamlr.compare(streamlr.fit(table, "y ~ x"), streamlr.fit(table, "y ~ x + twice + z")).tests
    assert test.df == 1
    with pytest.raises(streamlr.StreamlrError, match="same 2 parameters"):
        streamlr.compare(streamlr.fit(table, "y ~ x"), streamlr.fit(table, "y ~ x + twice"))


def test_absorbed_effects_are_parameters(table: pa.Table) -> None:
    """As the factor itself, whose constant an absorbed one has as well."""
    plain = streamlr.fit(table, "y ~ x + a")
    absorbed = [streamlr.fit(table, formula, absorb="b") for formula in ("y ~ x", "y ~ x + a")]
    (test,) = streamlr.compare(*absorbed).tests
    whole = [streamlr.fit(table, formula) for formula in ("y ~ x + b", "y ~ x + a + b")]
    assert (test.df, test.added) == (2, ("a",))
    assert test.statistic == pytest.approx(streamlr.compare(*whole).tests[0].statistic, rel=1e-8)
    with pytest.raises(streamlr.StreamlrError, match="absorbed factor: model 1 has none, model 2 has 'b'"):
        streamlr.compare(plain, absorbed[1])


# The same rows


def test_a_column_with_missing_values(table: pa.Table) -> None:
    """The message holds the filter with which both see the same rows."""
    z = table["z"].to_pylist()
    z[:7] = [None] * 7
    table = table.set_column(2, "z", pa.array(z))
    less, more = (reread(streamlr.fit(table, formula)) for formula in ("y ~ x", "y ~ x + z"))
    with pytest.raises(streamlr.StreamlrError, match="model 1 500 of 500, model 2 493 of 500") as raised:
        streamlr.compare(less, more)
    assert 'missing in z): fit both with --where "z is not null".' in str(raised.value)
    again = [streamlr.fit(table, formula, where="z is not null") for formula in ("y ~ x", "y ~ x + z")]
    assert streamlr.compare(*again).models[0].nobs == 493


def test_as_many_rows_but_others(table: pa.Table) -> None:
    """Same name, same counts: the log-likelihoods of the null models tell them apart."""
    y = table["y"].to_numpy().copy()
    y[0] = 1 - y[0]
    less, more = (
        streamlr.fit(table, "y ~ x"),
        streamlr.fit(table.set_column(0, "y", pa.array(y)), "y ~ x + z"),
    )
    with pytest.raises(streamlr.StreamlrError, match="as many, but their null log-likelihoods"):
        streamlr.compare(less, more)


def test_levels_set_aside(table: pa.Table) -> None:
    """Their rows are not used: nothing is changed where both set them aside, and refused where one does."""
    a, y = table["a"].to_pylist(), table["y"].to_numpy().copy()
    a[:8], y[:8] = ["zz"] * 8, 1
    table = table.set_column(0, "y", pa.array(y)).set_column(3, "a", pa.array(a))
    models = [streamlr.fit(table, formula) for formula in ("y ~ x", "y ~ x + a", "y ~ x + a + z")]
    assert streamlr.compare(*models[1:]).tests[0].df == 1
    with pytest.raises(streamlr.StreamlrError, match="model 1 500 of 500, model 2 492 of 500"):
        streamlr.compare(*models[:2])


def test_other_files_and_filters(table: pa.Table, tmp_path: Path) -> None:
    for name in ("one.parquet", "two.parquet", "elsewhere/one.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    less = streamlr.fit(tmp_path / "one.parquet", "y ~ x")
    with pytest.raises(streamlr.StreamlrError, match=r"different rows .*one\.parquet.*two\.parquet"):
        streamlr.compare(less, streamlr.fit(tmp_path / "two.parquet", "y ~ x + z"))
    moved = streamlr.fit(tmp_path / "elsewhere" / "one.parquet", "y ~ x + z")
    assert streamlr.compare(less, moved).tests[0].df == 1
    filtered = streamlr.fit(tmp_path / "one.parquet", "y ~ x + z", where="w < 3")
    with pytest.raises(streamlr.StreamlrError, match=r"model 1 where none, model 2 where 'w < 3'"):
        streamlr.compare(less, filtered)


@pytest.mark.parametrize(
    ("options", "role"),
    [
        ({"weights": "w"}, "weights"),
        ({"offset": "o"}, "offset"),
        ({"positive": 0}, "positive level"),
        ({"missing": "fill=0"}, "handling of missing values"),
    ],
)
def test_other_roles(table: pa.Table, options: dict[str, Any], role: str) -> None:
    less, more = streamlr.fit(table, "y ~ x"), streamlr.fit(table, "y ~ x + z", **options)
    with pytest.raises(streamlr.StreamlrError, match=f"differ in their {role}: model 1 has"):
        streamlr.compare(less, more)


def test_another_outcome(table: pa.Table) -> None:
    less, more = streamlr.fit(table, "y ~ x"), streamlr.fit(table, "b ~ x + z")
    with pytest.raises(streamlr.StreamlrError, match="target: model 1 has 'y', model 2 has 'b'"):
        streamlr.compare(less, more)


# Without a likelihood to compare


def test_sampling_weights_are_never_compared(table: pa.Table) -> None:
    models = [
        streamlr.fit(table, formula, weights="w", weight_type="sampling")
        for formula in ("y ~ x", "y ~ x + z")
    ]
    for force in (False, True):
        with pytest.raises(streamlr.StreamlrError, match=r"model 1 has sampling weights \(w\).*Wald"):
            streamlr.compare(*models, force=force)


@pytest.mark.parametrize("options", [{"cov": "HC0"}, {"cluster": ["w"]}])
def test_robust_models_are_compared_by_force(table: pa.Table, options: dict[str, Any]) -> None:
    robust = [streamlr.fit(table, formula, **options) for formula in ("y ~ x", "y ~ x + z")]
    plain = [streamlr.fit(table, formula) for formula in ("y ~ x", "y ~ x + z")]
    kind = robust[0].covariance_type
    with pytest.raises(streamlr.StreamlrError, match=rf"robust standard errors \({kind}\)"):
        streamlr.compare(*robust)
    found = streamlr.compare(*robust, force=True)
    assert found.tests == streamlr.compare(*plain).tests
    assert kind in found.remarks[0]
    assert kind in str(found)
    assert found.as_dict()["remarks"] == [found.remarks[0]]


def test_a_model_that_is_not_at_its_maximum(table: pa.Table) -> None:
    with pytest.warns(streamlr.ConvergenceWarning):
        short = streamlr.fit(table, "y ~ x + z + a", max_passes=1)
    with pytest.raises(streamlr.StreamlrError, match="long is not at its maximum"):
        streamlr.compare(streamlr.fit(table, "y ~ x"), short, names=["short", "long"])
    # One that only says that it is there.
    less = streamlr.fit(table, "y ~ x + a")
    more = streamlr.fit(table, "y ~ x + a + z")
    false = replace(more, statistics=replace(more.statistics, log_likelihood=less.llf - 0.1))
    with pytest.raises(streamlr.StreamlrError, match="cannot have"):
        streamlr.compare(less, false)


def test_penalised_likelihoods(table: pa.Table) -> None:
    models = [streamlr.fit(table, formula, firth=True) for formula in ("y ~ x", "y ~ x + z")]
    with pytest.raises(streamlr.StreamlrError, match="model 1 maximises Firth's penalised likelihood"):
        streamlr.compare(*models, force=True)


def test_a_ridge_on_absorbed_effects(table: pa.Table) -> None:
    models = [streamlr.fit(table, formula, absorb="a", absorb_l2=0.1) for formula in ("y ~ x", "y ~ x + z")]
    with pytest.raises(streamlr.StreamlrError, match="ridge"):
        streamlr.compare(*models)


def test_one_model_and_wrong_names(table: pa.Table) -> None:
    model = streamlr.fit(table, "y ~ x")
    with pytest.raises(streamlr.StreamlrError, match="two models or more"):
        streamlr.compare(model)
    with pytest.raises(streamlr.StreamlrError, match="1 names for 2 models"):
        streamlr.compare(model, model, names=["only"])


# How it looks


def test_table(table: pa.Table) -> None:
    models = [streamlr.fit(table, formula) for formula in ("y ~ x + a", "y ~ 1", "y ~ x*a")]
    found = streamlr.compare(*models, names=["both", "none", "product"])
    assert [model.model for model in found.models] == ["none", "both", "product"]
    assert [(test.smaller, test.larger, test.added) for test in found.tests] == [
        ("none", "both", ("x", "a")),
        ("both", "product", ("x:a",)),
    ]
    lines = str(found).splitlines()
    assert lines[0].startswith("Likelihood-ratio tests of nested models, 500 observations")
    assert [line.split()[0] for line in lines[2:5]] == ["none", "both", "product"]
    assert lines[5:] == ["both adds x, a", "product adds x:a"]
    assert "<table>" in found._repr_html_()
    assert found.as_dict()["tests"][1]["df"] == 2
