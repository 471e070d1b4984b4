"""Robust covariances on every path that rows can take: absorbed effects, gathered rows, gaps, limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr


def table(n: int = 3_000, **more: Any) -> pa.Table:
    rng = np.random.default_rng(11)
    x, z = rng.normal(5.0, 3.0, n), rng.normal(size=n)
    g = rng.choice(list("abc"), n)
    firm, day = rng.integers(0, 60, n), rng.integers(0, 25, n)
    shock = rng.normal(0, 0.7, 60)
    y = rng.random(n) < 1 / (1 + np.exp(-(0.3 * x - 1.5 + 0.5 * z + (g == "b") + shock[firm])))
    columns = {"y": y.astype(np.int8), "x": x, "z": z, "g": g, "firm": firm, "day": day}
    return pa.table({**columns, **more})


def on_terms(model: Any, terms: list[str]) -> np.ndarray:
    places = [list(model.terms).index(term) for term in terms]
    return model.cov_params()[np.ix_(places, places)]


@pytest.mark.parametrize(
    "options",
    [
        {"cov": "HC0"},
        {"cov": "HC1"},
        {"cluster": "firm"},
        {"cluster": "day"},
        {"cluster": ["firm", "day"], "small_sample": "full"},
    ],
)
@pytest.mark.parametrize("formula", ["y ~ x + g", "y ~ x + g + g:z"])
def test_absorbed_effects_are_as_dummies(options: dict[str, Any], formula: str) -> None:
    data = table()
    one = streamlr.fit(data, formula, absorb="firm", tol=1e-12, **options)
    other = streamlr.fit(data, formula + " + C(firm)", tol=1e-12, **options)
    # Without an intercept g has all of its levels but those that the effects explain.
    shared = [term for term in one.terms if term in other.terms and term != "Intercept"]
    assert "x" in shared
    np.testing.assert_allclose(on_terms(one, shared), on_terms(other, shared), rtol=1e-8, atol=1e-12)
    assert one.converged


@pytest.mark.parametrize("kind", ["HC2", "HC3"])
def test_leverages_beside_absorbed_effects_are_refused(kind: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match="leverages"):
        streamlr.fit(table(), "y ~ x", absorb="firm", cov=kind)


@pytest.mark.parametrize("kind", ["HC0", "HC1", "HC2", "HC3"])
def test_rows_gathered_to_cells_are_as_rows(kind: str, parquet: Callable[..., Path]) -> None:
    """Whole numbers and factors are gathered where rows repeat; a column beside them that is read by row."""
    rng = np.random.default_rng(3)
    n = 40_000
    a, g = rng.integers(0, 5, n), rng.choice(list("pqr"), n)
    y = (rng.random(n) < 1 / (1 + np.exp(-(0.2 * a - 0.5 + 0.4 * (g == "q"))))).astype(np.int8)
    data = pa.table({"y": y, "a": a, "half": a / 2.0, "g": g})
    path = parquet(data, rows_per_group=10_000)
    gathered = streamlr.fit(path, "y ~ a + g", cov=kind, tol=1e-12)
    by_row = streamlr.fit(path, "y ~ half + g", cov=kind, tol=1e-12)
    assert gathered.glance()["passes"] < by_row.glance()["passes"]
    scale = np.array([2.0 if term == "half" else 1.0 for term in by_row.terms])
    np.testing.assert_allclose(gathered.bse * scale, by_row.bse, rtol=1e-10)


def test_analytic_weights_are_not_gathered() -> None:
    """The sum of squared weights is not the square of their sum."""
    rng = np.random.default_rng(3)
    n = 40_000
    a = rng.integers(0, 5, n)
    w = rng.integers(1, 4, n).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(-(0.2 * a - 0.5)))).astype(np.int8)
    data = pa.table({"y": y, "a": a, "half": a / 2.0, "w": w})
    options: dict[str, Any] = {"weights": "w", "weight_type": "analytic", "cov": "HC0", "tol": 1e-12}
    gathered = streamlr.fit(data, "y ~ a", **options)
    by_row = streamlr.fit(data, "y ~ half", **options)
    np.testing.assert_allclose(gathered.bse * np.array([1.0, 2.0]), by_row.bse, rtol=1e-10)


@pytest.mark.parametrize("kind", ["int64", "int16", "text", "dictionary", "float", "date", "timestamp"])
def test_clusters_of_any_type(kind: str, parquet: Callable[..., Path]) -> None:
    data = table()
    firm = data["firm"].to_numpy()
    column = {
        "int64": pa.array(firm),
        "int16": pa.array(firm.astype(np.int16)),
        "text": pa.array([f"firm {number}" for number in firm]),
        "dictionary": pa.array([f"firm {number}" for number in firm]).dictionary_encode(),
        "float": pa.array(firm / 4.0),
        "date": pa.array(firm.astype(np.int32)).view(pa.date32()),
        "timestamp": pa.array(firm).view(pa.timestamp("us")),
    }[kind]
    path = parquet(data.append_column("who", column), rows_per_group=700)
    model = streamlr.fit(path, "y ~ x + g", cluster="who")
    want = streamlr.fit(data, "y ~ x + g", cluster="firm")
    np.testing.assert_allclose(model.bse, want.bse, rtol=1e-9)
    assert model.clusters == {"who": 60}


def test_rows_without_a_cluster_are_dropped() -> None:
    data = table()
    missing = np.arange(3_000) % 10 == 3
    who = pa.array(data["firm"].to_numpy(), mask=missing)
    model = streamlr.fit(data.append_column("who", who), "y ~ x + g", cluster="who")
    assert model.dropped == {"who": 300}
    want = streamlr.fit(data.filter(pa.array(~missing)), "y ~ x + g", cluster="firm")
    np.testing.assert_allclose(model.params, want.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, want.bse, rtol=1e-9)


def test_truth_values_with_gaps_in_one_batch_only_are_the_same_clusters(
    parquet: Callable[..., Path],
) -> None:
    data = table()
    old = data["day"].to_numpy() > 12
    gaps = np.arange(3_000) > 2_990
    path = parquet(data.append_column("old", pa.array(old, mask=gaps)), rows_per_group=500)
    assert streamlr.fit(path, "y ~ x", cluster="old").clusters == {"old": 2}


def test_a_cluster_column_is_no_feature_by_default() -> None:
    model = streamlr.fit(table(), target="y", exclude=["day"], cluster="firm")
    assert "firm" not in model.terms
    assert "C(firm)[T.1]" in streamlr.fit(table(), "y ~ x + C(firm)", cluster="firm").terms


def test_too_many_clusters_for_memory_are_refused_with_the_arithmetic() -> None:
    n = 400_000
    rng = np.random.default_rng(0)
    columns = {f"x{j}": rng.normal(size=n).astype(np.float32) for j in range(40)}
    data = pa.table({"y": rng.integers(0, 2, n), **columns, "who": np.arange(n)})
    with pytest.raises(streamlr.StreamlrError, match=r"clusters and more with 41 columns need .* --memory"):
        streamlr.fit(data, target="y", cluster="who", memory="450MB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cov": "HC4"}, "HC0, HC1"),
        ({"cov": "cluster"}, "column that tells clusters"),
        ({"cov": "HC1", "cluster": "firm"}, "do not use clusters"),
        ({"small_sample": "some"}, "none, clusters or full"),
        ({"cluster": "firma"}, "Did you mean 'firm'"),
        ({"cluster": ["firm", "firm"]}, "two different"),
        ({"cluster": ["firm", "day", "g"]}, "one column or by two"),
        ({"weights": "day", "weight_type": "sampling", "cov": "nonrobust"}, "sampling weights"),
        ({"cluster": "same"}, "only one cluster"),
    ],
)
def test_misuse_is_told(options: dict[str, Any], message: str) -> None:
    data = table(same=np.zeros(3_000))
    with pytest.raises(streamlr.StreamlrError, match=message):
        streamlr.fit(data, "y ~ x", **options)
