"""Profile-likelihood intervals against root-finding in R, and against what a bound means.

A bound of coefficient j is where twice the fall of the log-likelihood, with coefficient j fixed there and the
others at their best, is the quantile of chi-squared on one degree of freedom. R's numbers are roots of that
found by `uniroot` on constrained fits that are converged to rounding; `confint` interpolates between refits,
and is off by up to 1e-3 standard errors in these cases. Passes are counted where parts are read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference_references import cases, in_order, read_case, write_case
from reads import Reads

import streamlr
from streamlr.sources import parquet as parquet_source

CASES = cases("profile_")
# In standard errors. What is promised is 1e-6; R's roots are good to 1e-10.
TOLERANCE = 1e-8
# qchisq(level, 1), R's to its last digit.
QUANTILE = {0.95: 3.841458820694124, 0.9: 2.705543454095404}


# Against R


@pytest.mark.parametrize("level", [0.95, 0.9])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_roots_found_by_r(name: str, level: float, tmp_path: Path) -> None:
    case = CASES[name]
    model = streamlr.fit(write_case(case, tmp_path), **case["fit"], ci="profile", conf_level=level)
    error = in_order(model.terms, case, case["std_error"])
    low, high = (
        in_order(model.terms, case, [row[side] for row in case["intervals"][str(level)]]) for side in (0, 1)
    )
    bounds = model.conf_int()
    assert np.max(np.abs(bounds[:, 0] - low) / error) <= TOLERANCE
    assert np.max(np.abs(bounds[:, 1] - high) / error) <= TOLERANCE
    assert np.all((bounds[:, 0] < model.params) & (model.params < bounds[:, 1]))
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    for term, (lower, upper) in zip(model.terms, bounds, strict=True):
        assert (rows[term]["conf_low"], rows[term]["conf_high"]) == (lower, upper)
    # Errors and tests stay Wald's.
    np.testing.assert_allclose(model.bse, error, rtol=1e-8)


def test_they_are_not_walds() -> None:
    """Of 32 nearly separated rows the upper bound of wt lies much nearer and the lower one much further."""
    case = CASES["mtcars"]
    data = read_case(case)
    profile = streamlr.fit(data, **case["fit"], ci="profile").conf_int()
    wald = streamlr.fit(data, **case["fit"], ci="wald").conf_int()
    plain = streamlr.fit(data, **case["fit"]).conf_int()
    assert wald.tobytes() == plain.tobytes()
    assert np.all(np.abs(profile - wald)[:, 0] > 0.1 * (wald[:, 1] - wald[:, 0]) / 4)


# Against the definition


def skewed(n: int = 400) -> dict[str, np.ndarray]:
    """Few events, a long tail in x, a factor, an offset, whole weights."""
    rng = np.random.default_rng(2)
    x, z = rng.lognormal(0.0, 0.8, n), rng.normal(size=n)
    g = rng.choice(["p", "q", "r"], n, p=[0.5, 0.4, 0.1])
    o = rng.normal(0.0, 0.3, n)
    y = rng.random(n) < 1 / (1 + np.exp(-(0.7 * x - 3.0 + 0.5 * z + 0.6 * (g == "q") + o)))
    return {"y": y.astype(np.int8), "x": x, "z": z, "g": g, "o": o, "w": rng.integers(0, 4, n)}


@pytest.mark.parametrize("level", [0.95, 0.9])
@pytest.mark.parametrize("weights", [{}, {"weights": "w"}, {"weights": "o2", "weight_type": "analytic"}])
def test_at_a_bound_the_best_fit_is_that_much_worse(level: float, weights: dict[str, str]) -> None:
    """The other terms fitted again with the bound of x, or of g[T.q], as an offset."""
    data = skewed() | {"o2": 0.2 + skewed()["o"] ** 2}
    options: dict[str, Any] = {**weights, "tol": 1e-10}
    model = streamlr.fit(data, "y ~ x + z + g", offset="o", ci="profile", conf_level=level, **options)
    bounds = dict(zip(model.terms, model.conf_int(), strict=True))
    column = {"x": data["x"], "g[T.q]": (data["g"] == "q").astype(float), "Intercept": np.ones(400)}
    # A factor whose level q is told by the offset keeps r alone.
    rest = {"x": "y ~ z + g", "g[T.q]": "y ~ x + z + r", "Intercept": "y ~ 0 + x + z + q + r"}
    dummies = {"q": (data["g"] == "q").astype(float), "r": (data["g"] == "r").astype(float)}
    for term, fixed in column.items():
        for bound in bounds[term]:
            moved = {**data, **dummies, "o": data["o"] + bound * fixed}
            constrained = streamlr.fit(moved, rest[term], offset="o", **options)
            assert 2 * (model.llf - constrained.llf) == pytest.approx(QUANTILE[level], abs=1e-7), term


def test_bounds_go_with_the_units_of_a_column() -> None:
    data = skewed()
    model = streamlr.fit(data, "y ~ x + z", ci="profile")
    far = streamlr.fit({**data, "x": 1e6 + 1e-3 * data["x"]}, "y ~ x + z", ci="profile")
    np.testing.assert_allclose(far.conf_int()[1] * 1e-3, model.conf_int()[1], rtol=1e-6)
    np.testing.assert_allclose(far.conf_int()[2], model.conf_int()[2], rtol=1e-6)
    turned = streamlr.fit({**data, "x": -data["x"]}, "y ~ x + z", ci="profile")
    np.testing.assert_allclose(-turned.conf_int()[1, ::-1], model.conf_int()[1], rtol=1e-9)


def test_rows_with_nulls_and_terms_without_an_estimate_have_no_part() -> None:
    data = skewed()
    gaps = np.arange(400) % 8 == 1
    table = pa.table({**data, "x": pa.array(data["x"], mask=gaps), "twice": 2 * data["z"] - 1})
    model = streamlr.fit(table, "y ~ x + z + twice + g", ci="profile")
    want = streamlr.fit({name: values[~gaps] for name, values in data.items()}, "y ~ x + z + g", ci="profile")
    assert list(model.aliased) == ["twice"]
    np.testing.assert_allclose(model.conf_int(), want.conf_int(), rtol=1e-8, atol=1e-10)
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    assert rows["twice"]["conf_low"] is None
    assert rows["twice"]["conf_high"] is None


# Chosen terms


def test_only_the_terms_asked_for_are_profiled() -> None:
    case = CASES["birthwt"]
    data = read_case(case)
    everything = streamlr.fit(data, **case["fit"], ci="profile")
    wald = streamlr.fit(data, **case["fit"])
    chosen = streamlr.fit(data, **case["fit"], ci="profile", profile=["age", "C(race)[T.2]"])
    for place, term in enumerate(chosen.terms):
        profiled = term in ("age", "C(race)[T.2]")
        want = everything if profiled else wald
        np.testing.assert_allclose(chosen.conf_int()[place], want.conf_int()[place], rtol=1e-9)
        other = wald if profiled else everything
        assert not np.allclose(chosen.conf_int()[place], other.conf_int()[place], rtol=1e-5)


def test_a_term_that_is_not_there_is_refused() -> None:
    with pytest.raises(streamlr.StreamlrError, match=r"zz"):
        streamlr.fit(skewed(), "y ~ x + z", ci="profile", profile=["zz"])


@pytest.mark.parametrize("ci", ["likelihood", "Profile"])
def test_an_unknown_kind_of_interval_is_refused(ci: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=rf"{ci}.*|wald.*profile"):
        streamlr.fit(skewed(), "y ~ x + z", ci=ci)


# What it costs, and the same bits


def wide(n: int = 5_000) -> pa.Table:
    """Twenty terms beside the intercept: heavy tails, rare indicators, correlated columns, few events."""
    rng = np.random.default_rng(12)
    columns: dict[str, np.ndarray] = {}
    common = rng.normal(size=n)
    for j in range(8):
        columns[f"x{j}"] = rng.normal(size=n) + 0.7 * common
    for j in range(5):
        columns[f"tail{j}"] = rng.lognormal(0.0, 0.9, n)
    for j in range(4):
        columns[f"rare{j}"] = (rng.random(n) < 0.01 * (j + 1)).astype(float)
    columns["g"] = rng.choice(["p", "q", "r", "s"], n, p=[0.6, 0.3, 0.08, 0.02])
    eta = -3.0 + 0.4 * common + 0.3 * columns["tail0"] + 1.2 * columns["rare0"] - 1.5 * columns["rare2"]
    eta += 0.8 * (columns["g"] == "r")
    return pa.table({"y": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int8), **columns})


def test_twenty_terms_cost_ten_passes_at_most(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(wide(), path, row_group_size=500)
    found = []
    for options in ({}, {"ci": "profile"}):
        with pytest.MonkeyPatch.context() as patch:
            reads = Reads(patch, part_rows=1_000)
            model = streamlr.fit(path, target="y", threads=2, **options)
            found.append((reads.of_part, model))
    (plain, first), (profiled, model) = found
    assert len(model.terms) == 21
    assert np.isfinite(model.conf_int()).all()
    assert len(plain) == 5
    more = {profiled[part] - plain[part] for part in plain}
    assert len(more) == 1, "every part as often"
    (passes,) = more
    assert 1 <= passes <= 10
    assert model.glance()["passes"] - first.glance()["passes"] == passes
    # And they are bounds: each is checked by the tests above on small data, here by its order.
    wald = first.conf_int()
    assert np.max(np.abs(model.conf_int() - wald) / first.bse[:, None]) > 0.05
    assert np.max(np.abs(model.conf_int() - wald) / first.bse[:, None]) < 1.0


def test_the_same_bits_for_any_threads_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "PART_ROWS", 400)
    path = tmp_path / "data.parquet"
    pq.write_table(wide(2_000), path, row_group_size=200)
    formula = "y ~ x0 + tail0 + rare2 + g"
    first = streamlr.fit(path, formula, ci="profile", threads=1)
    for setting in ({"threads": 2}, {"threads": 2, "memory": "400MB"}, {"threads": 1, "memory": "4GB"}):
        again = streamlr.fit(path, formula, ci="profile", **setting)
        assert again.conf_int().tobytes() == first.conf_int().tobytes()
    pq.write_table(wide(2_000), path, row_group_size=33)
    split = streamlr.fit(path, formula, ci="profile")
    assert np.max(np.abs(split.conf_int() - first.conf_int()) / first.bse[:, None]) <= 1e-9


# A saved model, and other levels


def test_saved_and_loaded_the_intervals_are_the_same(tmp_path: Path) -> None:
    model = streamlr.fit(skewed(), "y ~ x + z + g", ci="profile", conf_level=0.9)
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    assert again.conf_int().tobytes() == model.conf_int().tobytes()
    assert again.conf_int(0.9).tobytes() == model.conf_int().tobytes()
    assert again.result() == model.result()
    assert str(again.summary()) == str(model.summary())
    assert "profile" in str(model.summary())


def test_another_level_is_walds(tmp_path: Path) -> None:
    """Bounds were searched for at one level, and a model has no data to search for others."""
    model = streamlr.fit(skewed(), "y ~ x + z + g", ci="profile", conf_level=0.9)
    wald = streamlr.fit(skewed(), "y ~ x + z + g")
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    for level in (0.95, 0.8):
        assert model.conf_int(level).tobytes() == again.conf_int(level).tobytes()
        np.testing.assert_allclose(model.conf_int(level), wald.conf_int(level), rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"cov": "HC1"}, {"cluster": ["w"]}, {"weights": "w", "weight_type": "sampling"}],
    ids=["HC1", "cluster", "sampling"],
)
def test_robust_errors_and_intervals_of_the_likelihood_do_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(streamlr.StreamlrError, match="profile intervals"):
        streamlr.fit(skewed(), "y ~ x + z", ci="profile", **options)


def test_an_end_that_was_not_found_is_told_as_none_and_not_as_walds() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    model = streamlr.fit({"x": x, "y": (rng.random(60) < 1 / (1 + np.exp(-x))).astype(int)}, ci="profile")
    assert model.profile_bounds is not None
    bounds = model.profile_bounds.copy()
    bounds[1, 1] = np.nan
    less = replace(model, profile_bounds=bounds)
    assert np.isnan(less.conf_int()[1, 1])
    np.testing.assert_array_equal(less.conf_int()[0], model.conf_int()[0])
    assert less.conf_int()[1, 0] == model.conf_int()[1, 0]
    assert less.tidy_rows()[1]["conf_high"] is None


def test_what_was_not_found_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array([[np.nan, 1.0], [np.nan, np.nan]])
    monkeypatch.setattr("streamlr.inference.profile_intervals.profile_bounds", lambda *_, **__: found)
    said: list[str] = []
    model = streamlr.fit(
        {"x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "y": [0, 1, 0, 1, 0, 1]},
        ci="profile",
        on_event=lambda event: said.append(getattr(event, "text", "")),
    )
    assert [text for text in said if "profile likelihood" in text] == [
        "remark: no lower bound by profile likelihood was found for Intercept",
        "remark: no interval by profile likelihood was found for x; it has Wald's",
    ]
    wald = model.params[1] + 1.959963984540054 * model.bse[1] * np.array([-1.0, 1.0])
    np.testing.assert_allclose(model.conf_int()[1], wald, rtol=1e-12)
    assert model.about()["profiled"] == ["Intercept"]


def test_a_term_without_an_estimate_is_not_suggested_again() -> None:
    data = {"x": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "y": [0, 1, 0, 1, 0, 1]}
    with pytest.raises(streamlr.StreamlrError, match="no term 'double' with an estimate") as caught:
        streamlr.fit({**data, "double": [2 * x for x in data["x"]]}, "y ~ x + double", profile=["double"])
    assert "Did you mean" not in str(caught.value)
