"""What a summary says beside the table: tests of whole terms, the kind of standard errors, stars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr


@pytest.fixture(scope="module")
def data() -> pa.Table:
    rng = np.random.default_rng(5)
    n = 2_000
    x, g = rng.normal(size=n), rng.choice(list("abcd"), n)
    firm, day = rng.integers(0, 40, n), rng.integers(0, 30, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-(0.15 * x + 0.6 * (g == "b") - 0.3)))).astype(int)
    return pa.table({"y": y, "x": x, "g": g, "firm": firm, "day": day, "w": rng.integers(1, 4, n)})


def test_a_factor_has_its_overall_test(data: pa.Table) -> None:
    model = streamlr.fit(data, "y ~ x + g", cov="HC1")
    places = [model.terms.index(f"g[T.{level}]") for level in "bcd"]
    b, V = model.params[places], model.cov_params()[np.ix_(places, places)]
    statistic = b @ np.linalg.solve(V, b)
    lines = str(model.summary()).splitlines()
    (heading,) = [line for line in lines if line.startswith("all coefficients of")]
    (own,) = [line.split() for line in lines[lines.index(heading) :] if line.startswith("g ")]
    assert own[1:3] == [f"{statistic:.2f}", "3"]
    assert f"<td>{statistic:.2f}</td><td>3</td>" in model.summary()._repr_html_()


def test_a_model_of_single_columns_has_no_such_table(data: pa.Table) -> None:
    model = streamlr.fit(data, "y ~ x")
    assert "all coefficients of" not in str(model.summary())
    assert model.summary()._repr_html_().count("<table>") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "model-based standard errors"),
        ({"cov": "HC3"}, "HC3 standard errors"),
        ({"weights": "w", "weight_type": "sampling"}, "HC0 standard errors"),
        ({"cluster": "firm"}, "standard errors clustered by firm (40 clusters)"),
        (
            {"cluster": ["firm", "day"], "small_sample": "full"},
            "clustered by firm (40 clusters) and day (30 clusters), full small-sample factor",
        ),
        ({"cluster": "day", "small_sample": "none"}, "day (30 clusters), no small-sample factor"),
        ({"ci": "profile"}, "intervals by the profile likelihood"),
        ({"profile": ["g"]}, "intervals of g[T.b], g[T.c], g[T.d] by the profile likelihood"),
    ],
)
def test_it_says_what_errors_and_intervals_are(data: pa.Table, options: dict[str, Any], said: str) -> None:
    assert said in str(streamlr.fit(data, "y ~ x + g", **options).summary())


def test_stars_are_off_by_default(data: pa.Table) -> None:
    model = streamlr.fit(data, "y ~ x + g")
    assert "*" not in str(model.summary())
    starred = str(model.summary(stars=True))
    assert "*** p < 0.001" in starred
    marks = {0.001: "***", 0.01: "**", 0.05: "*", 0.1: "."}
    for term, p in zip(model.terms, model.pvalues, strict=True):
        (line,) = [line for line in starred.splitlines() if line.startswith(f"{term} ")]
        mark = next((mark for bound, mark in marks.items() if p < bound), "")
        found = [word for word in line.split() if set(word) in ({"*"}, {"."})]
        assert found == ([mark] if mark else []), line


def test_profile_intervals_are_those_of_their_level_only(data: pa.Table) -> None:
    model = streamlr.fit(data, "y ~ x", profile=["x"], conf_level=0.9)
    wald = streamlr.fit(data, "y ~ x", conf_level=0.9)
    x = model.terms.index("x")
    assert model.conf_int()[x].tolist() != wald.conf_int()[x].tolist()
    assert model.conf_int()[1 - x].tolist() == wald.conf_int()[1 - x].tolist()
    assert model.conf_int(0.5).tolist() == wald.conf_int(0.5).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ci": "exact"}, "wald or profile"),
        ({"ci": "profile", "cov": "HC0"}, "HC0 standard errors do not trust"),
        ({"profile": ["y"]}, "no term 'y'"),
        ({"profile": ["gg"]}, "Did you mean 'g'"),
        ({"ci": "profile", "absorb": "firm", "absorb_l2": 0.1}, "ridge"),
    ],
)
def test_profiles_that_cannot_be_had(data: pa.Table, options: dict[str, Any], message: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=message):
        streamlr.fit(data, "y ~ x + g", **options)
