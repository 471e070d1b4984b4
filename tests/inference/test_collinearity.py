"""Inflation factors and condition numbers from a saved model: R's on real data, and their definitions.

R's are `car::vif` and `kappa(exact = TRUE)` of the weighted columns (`tests/saved_models.py`). What is
obvious in NumPy, determinants of a correlation matrix and singular values of W^(1/2) X, is written out here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from saved_models import CASES, TOLERANCE, reread, saved

import streamlr

WITH_FACTORS = [name for name, case in CASES.items() if "vif" in case]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """y, x, `near` that is x and a little, z, a factor a of three levels, a factor b of two."""
    rng = np.random.default_rng(4)
    n = 400
    x, a = rng.normal(size=n), rng.choice(["p", "q", "r"], n)
    z = rng.normal(5.0, 1.0, n) + (a == "q")
    y = (rng.random(n) < 1 / (1 + np.exp(-0.5 * x))).astype(int)
    near = x + 0.05 * rng.normal(size=n)
    return pa.table({"y": y, "x": x, "near": near, "z": z, "a": a, "b": rng.choice(["s", "t"], n)})


def weighted_columns(model: streamlr.Model, table: pa.Table, columns: list[np.ndarray]) -> np.ndarray:
    """W^(1/2) X with the intercept first."""
    mu = model.predict(table)
    X = np.column_stack([np.ones(table.num_rows), *columns])
    return np.sqrt(mu * (1 - mu))[:, np.newaxis] * X


@pytest.mark.parametrize("name", WITH_FACTORS)
def test_agrees_with_r(name: str) -> None:
    """car::vif, and kappa of sqrt(W) X with columns of length one."""
    case, model = CASES[name], saved(name)
    found = model.vif()
    assert [row.term for row in found] == case["vif"]["term"]
    assert [row.df for row in found] == case["vif"]["df"]
    np.testing.assert_allclose([row.gvif for row in found], case["vif"]["gvif"], rtol=TOLERANCE)
    for row in found:
        assert row.per_df == pytest.approx(row.gvif ** (1 / (2 * row.df)), rel=1e-14)
    assert model.condition_number() == pytest.approx(case["condition"]["plain"], rel=TOLERANCE)
    assert model.condition_number(centred=True) == pytest.approx(case["condition"]["centred"], rel=TOLERANCE)


def test_determinants(table: pa.Table) -> None:
    model = reread(streamlr.fit(table, "y ~ x + near + z + a*b"))
    covariance = model.cov_params()[1:, 1:]
    size = np.sqrt(np.diagonal(covariance))
    R = covariance / np.outer(size, size)
    for term, row in zip(model.design.term_columns, model.vif(), strict=True):
        names = model.design.column_names[model.design.term_columns[term]]
        own = np.array([name in names for name in model.terms[1:]])
        parts = [np.linalg.det(R[np.ix_(some, some)]) for some in (own, ~own)]
        assert row.gvif == pytest.approx(parts[0] * parts[1] / np.linalg.det(R), rel=1e-8), term
    # What everybody knows: 1 / (1 - R^2), in the weighted regression that is centred.
    assert model.vif()["near"].gvif > 100
    assert model.vif()["near"].per_df == pytest.approx(np.sqrt(model.vif()["near"].gvif), rel=1e-12)


def test_condition_number_is_that_of_the_weighted_columns(table: pa.Table) -> None:
    model = reread(streamlr.fit(table, "y ~ x + near + z"))
    X = weighted_columns(model, table, [table[name].to_numpy() for name in ("x", "near", "z")])
    values = np.linalg.svd(X / np.sqrt((X**2).sum(axis=0)), compute_uv=False)
    assert model.condition_number() == pytest.approx(values[0] / values[-1], rel=1e-8)
    rest = X[:, 1:] - np.outer(X[:, 0], X[:, 0] @ X[:, 1:]) / (X[:, 0] @ X[:, 0])
    values = np.linalg.svd(rest / np.sqrt((rest**2).sum(axis=0)), compute_uv=False)
    assert model.condition_number(centred=True) == pytest.approx(values[0] / values[-1], rel=1e-8)


@pytest.mark.parametrize("options", [{"cov": "HC3"}, {"cluster": ["b"]}])
def test_the_information_whatever_the_errors(table: pa.Table, options: dict[str, Any]) -> None:
    """A robust covariance says nothing about columns."""
    robust = reread(streamlr.fit(table, "y ~ x + near + a", **options))
    plain = streamlr.fit(table, "y ~ x + near + a")
    assert robust.vif() == plain.vif()
    assert robust.condition_number() == plain.condition_number()


def test_moved_and_scaled_columns(table: pa.Table) -> None:
    """Inflation does not know units; an origin far away is in the condition number alone."""
    far = table.append_column("far", pa.array(table["x"].to_numpy() * 8 + 2.0**23))
    one, other = streamlr.fit(table, "y ~ x + near + a"), streamlr.fit(far, "y ~ far + near + a")
    for row, moved in zip(one.vif(), other.vif(), strict=True):
        assert moved.gvif == pytest.approx(row.gvif, rel=1e-7)
    assert other.condition_number(centred=True) == pytest.approx(one.condition_number(centred=True), rel=1e-7)
    assert other.condition_number() > 1e5


def test_another_reference_changes_no_inflation_of_a_term(table: pa.Table) -> None:
    model = reread(streamlr.fit(table, "y ~ x + z + a"))
    for row, moved in zip(model.vif(), model.relevel("a", "q").vif(), strict=True):
        assert moved.gvif == pytest.approx(row.gvif, rel=1e-10)


def test_columns_without_an_estimate(table: pa.Table) -> None:
    """An aliased column has no row, and inflates nothing: without it the fit is the same."""
    twice = table.append_column("twice", pa.array(2 * table["x"].to_numpy()))
    found = reread(streamlr.fit(twice, "y ~ x + twice + z")).vif()
    plain = streamlr.fit(table, "y ~ x + z").vif()
    assert [row.term for row in found] == ["x", "z"]
    np.testing.assert_allclose([row.gvif for row in found], [row.gvif for row in plain], rtol=1e-8)


def test_absorbed_effects_are_taken_out(table: pa.Table) -> None:
    """1 / (1 - R^2) in the weighted regression within the levels of the absorbed factor."""
    model = reread(streamlr.fit(table, "y ~ x + z + near", absorb="a"))
    levels = np.array(table["a"].to_pylist())[:, np.newaxis] == ["p", "q", "r"]
    X = weighted_columns(model, table, [*levels.T, *(table[c].to_numpy() for c in ("x", "z", "near"))])[:, 1:]
    rest = X[:, 3:] - X[:, :3] @ np.linalg.lstsq(X[:, :3], X[:, 3:], rcond=None)[0]
    rest = rest / np.sqrt((rest**2).sum(axis=0))
    expected = np.diagonal(np.linalg.inv(rest.T @ rest))
    assert [row.term for row in model.vif()] == ["x", "z", "near"]
    np.testing.assert_allclose([row.gvif for row in model.vif()], expected, rtol=1e-8)


def test_nothing_to_inflate(table: pa.Table) -> None:
    model = streamlr.fit(table, "y ~ 1")
    with pytest.raises(streamlr.StreamlrError, match="no term beside the intercept"):
        model.vif()
    with pytest.raises(streamlr.StreamlrError, match="no coefficient"):
        model.condition_number(centred=True)
    assert model.condition_number() == 1.0


def test_without_an_intercept(table: pa.Table) -> None:
    model = streamlr.fit(table, "y ~ 0 + x + z")
    X = weighted_columns(model, table, [table["x"].to_numpy(), table["z"].to_numpy()])[:, 1:]
    cosine = X[:, 0] @ X[:, 1] / np.sqrt((X[:, 0] @ X[:, 0]) * (X[:, 1] @ X[:, 1]))
    for row in model.vif():
        assert row.gvif == pytest.approx(1 / (1 - cosine**2), rel=1e-8)


def test_table(table: pa.Table) -> None:
    found = streamlr.fit(table, "y ~ x + a").vif()
    lines = str(found).splitlines()
    assert lines[0] == "Variance inflation factors"
    assert [line.split()[0] for line in lines[2:]] == ["x", "a"]
    assert found.as_dicts()[1]["df"] == 2
    assert "<table>" in found._repr_html_()
