"""A factor whose effects are absorbed: the fit with a dummy for every level, without ever holding one.

Two routes to one maximum: `absorb="id"` and `categorical=["id"]`. Both are certified to 1e-12 standard
errors, so that what they differ by is rounding; 1e-8 is what is promised.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import designs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

import streamlr
from streamlr import profiling
from streamlr.design.expressions import Column
from streamlr.design.features import Feature, Reader
from streamlr.design.levels import LevelCounts
from streamlr.design.profile import ProfileSums, ProfileTask
from streamlr.design.terms import Factor
from streamlr.errors import SeparationError, StreamlrError
from streamlr.events import Remark
from streamlr.profiling import plan_memory

N, LEVELS = 3_000, 40
PROMISE = 1e-8


def rows(seed: int = 1, n: int = N, levels: int = LEVELS) -> dict[str, Any]:
    """x (mean 1e6), z (related to the effects), c (3 levels), d (4 levels), id with scattered numbers."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, levels, n)
    effect = rng.normal(size=levels)
    x = rng.normal(size=n) + 1e6
    z = rng.normal(size=n) + effect[group]
    c, d = rng.choice(list("abc"), n), rng.choice(list("pqrs"), n)
    eta = effect[group] + 0.5 * (x - 1e6) - 0.3 * z + 0.4 * (c == "b") - 0.2 * (d == "q")
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int64)
    return {"y": y, "x": x, "z": z, "c": c, "d": d, "id": group * 7_919 - 100}


def fit(data: Any, **options: Any) -> streamlr.Model:
    return streamlr.fit(data, **{"target": "y", "tol": 1e-12, **options})


def remarks_of(data: Any, **options: Any) -> tuple[streamlr.Model, list[str]]:
    told: list[str] = []
    model = fit(data, on_event=lambda e: told.append(e.text) if isinstance(e, Remark) else None, **options)
    return model, told


def check_equal(data: Any, **options: Any) -> streamlr.Model:
    """The absorbed fit and the one with dummies agree in all that both report."""
    absorbed = fit(data, absorb="id", **options)
    dummies = fit(data, categorical=["id"], **options)
    assert absorbed.converged
    assert dummies.converged
    assert absorbed.terms == tuple(t for t in dummies.terms if t != "Intercept" and "id" not in t)
    places = [dummies.terms.index(term) for term in absorbed.terms]
    assert np.all(np.abs(absorbed.params - dummies.params[places]) <= PROMISE * dummies.bse[places])
    np.testing.assert_allclose(absorbed.bse, dummies.bse[places], rtol=PROMISE)
    covariance = dummies.cov_params()[np.ix_(places, places)]
    scale = np.multiply.outer(absorbed.bse, absorbed.bse)
    np.testing.assert_allclose(absorbed.cov_params() / scale, covariance / scale, atol=PROMISE)
    assert absorbed.llf == pytest.approx(dummies.llf, rel=1e-11)
    assert absorbed.llnull == pytest.approx(dummies.llnull, rel=1e-11)
    ours, theirs = absorbed.glance(), dummies.glance()
    for key in ("nobs", "df_model", "df_resid", "aic", "bic", "deviance", "rows_used", "rows_dropped"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-11), key
    np.testing.assert_allclose(absorbed.predict(data), dummies.predict(data), rtol=PROMISE)
    effects = dict(zip(absorbed.design.absorbed.levels, absorbed.absorbed_effects, strict=True))
    by_term = dict(zip(dummies.terms, zip(dummies.params, dummies.bse, strict=True), strict=True))
    at_reference, error = by_term["Intercept"]
    reference = next(f for f in dummies.design.categories if f.feature.column == "id").reference
    assert abs(effects.pop(reference) - at_reference) <= PROMISE * error
    for level, effect in effects.items():
        name = f"id[T.{level}]" if f"id[T.{level}]" in by_term else f"C(id)[T.{level}]"
        assert abs(effect - at_reference - by_term[name][0]) <= PROMISE * (error + by_term[name][1])
    return absorbed


# The same as dummies


def test_numbers_and_factors() -> None:
    model = check_equal(rows())
    assert model.terms == ("x", "z", "c[T.b]", "c[T.c]", "d[T.q]", "d[T.r]", "d[T.s]")


def test_text_levels() -> None:
    data = rows()
    check_equal({**data, "id": np.array([f"customer {i}" for i in data["id"]])})


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint32(), pa.uint64(), pa.float64(), pa.large_string()])
@pytest.mark.parametrize("dictionary", [False, True])
def test_levels_of_every_type(kind: pa.DataType, dictionary: bool) -> None:
    data = rows(n=800, levels=6)
    level = pa.array((data["id"] + 100) // 7_919)
    level = level.cast(pa.string()).cast(kind) if pa.types.is_large_string(kind) else level.cast(kind)
    level = pa.array([None if i % 50 == 7 else value for i, value in enumerate(level.to_pylist())], kind)
    data["id"] = level.dictionary_encode() if dictionary else level
    data["x"] = data["x"] - 1e6
    table = pa.table(data)
    model = fit(table, absorb="id")
    assert model.dropped == {"id": 16}
    plain = fit(table.set_column(5, "id", level.cast(pa.string())), categorical=["id"])
    np.testing.assert_allclose(model.params, plain.params[1:8], rtol=PROMISE)
    np.testing.assert_array_equal(np.isnan(model.predict(table)), np.arange(800) % 50 == 7)


def test_truth_values() -> None:
    data = rows(n=500)
    check_equal(pa.table({"y": data["y"], "z": data["z"], "id": data["x"] > 1e6}), features=["z", "id"])


def test_missing_values() -> None:
    data = rows()
    row = np.arange(N)
    table = pa.table(
        {
            **data,
            "x": pa.array(data["x"], mask=row % 31 == 3),
            "c": pa.array(data["c"], mask=row % 37 == 5),
            "id": pa.array(data["id"], mask=row % 41 == 7),
            "y": pa.array(data["y"], mask=row % 43 == 9),
        }
    )
    model = check_equal(table)
    assert set(model.dropped) == {"x", "c", "id", "y"}
    nan = np.where(row % 29 == 2, np.nan, data["z"])
    check_equal(table.set_column(2, "z", pa.array(nan, from_pandas=False)))


@pytest.mark.parametrize("kind", ["frequency", "analytic"])
def test_weights(kind: Any) -> None:
    rng = np.random.default_rng(3)
    weight = rng.integers(0, 4, N) if kind == "frequency" else rng.exponential(size=N)
    check_equal({**rows(), "w": weight}, weights="w", weight_type=kind)


def test_trials() -> None:
    rng = np.random.default_rng(4)
    data = rows()
    trials = rng.integers(1, 9, N)
    success = rng.binomial(trials, 0.3 + 0.4 * data["y"])
    check_equal({**data, "y": success, "t": trials}, trials="t")


def test_offset() -> None:
    check_equal({**rows(), "o": np.random.default_rng(5).normal(1.0, 1.0, N)}, offset="o")


def test_a_formula_with_and_without_the_absorbed_column() -> None:
    data = rows()
    a = fit(data, formula="y ~ x + z", target=None, absorb="id")
    b = fit(data, features=["x", "z"], absorb="id")
    c = fit(data, features=["id", "x", "z"], absorb="id")
    assert a.terms == b.terms == c.terms == ("x", "z")
    np.testing.assert_array_equal(a.params, b.params)
    np.testing.assert_array_equal(b.params, c.params)


def test_no_other_term() -> None:
    """Effects alone have a closed form, the log odds of each level."""
    data = rows()
    model = fit(data, features=["id"], absorb="id")
    assert model.terms == ()
    assert model.params.shape == model.bse.shape == (0,)
    shares = {level: data["y"][data["id"] == level].mean() for level in np.unique(data["id"])}
    np.testing.assert_allclose(model.predict(data), [shares[level] for level in data["id"]], rtol=1e-9)


def test_many_dense_columns() -> None:
    """Hessians are dear from 256 columns on and are reused."""
    rng = np.random.default_rng(6)
    n = 6_000
    X = rng.normal(size=(n, 260))
    group = rng.integers(0, 30, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-0.3 * X[:, 0] - 0.1 * group + 1.5))).astype(int)
    check_equal({"y": y, **{f"x{j}": X[:, j] for j in range(260)}, "id": group})


def test_one_hundred_times_the_rows_of_one_level() -> None:
    data = rows()
    data["id"] = np.where(np.arange(N) % 100 < 98, 5, data["id"])
    data["id"] = np.where(np.isin(data["id"], np.unique(data["id"])[:20]), data["id"], 5)
    check_equal(data)


# What does not change the answer


def test_bits_do_not_depend_on_threads_memory_or_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 400)
    pq.write_table(pa.table(rows(n=9_000, levels=300)), tmp_path / "data.parquet", row_group_size=200)
    alone = streamlr.fit(tmp_path / "data.parquet", target="y", absorb="id", threads=1, memory="1GB")
    settings: list[dict[str, Any]] = [
        {"threads": 2, "memory": "2GB"},
        {"threads": 5, "memory": "330MB"},
        {"threads": 3, "memory": "330MB", "spool": tmp_path},
    ]
    for options in settings:
        model = streamlr.fit(tmp_path / "data.parquet", target="y", absorb="id", **options)
        for name in ("params", "bse", "conditioned_effects"):
            assert getattr(model, name).tobytes() == getattr(alone, name).tobytes()
        assert model.llf == alone.llf


def test_other_parts_and_other_dictionaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row group has a dictionary of its own, and some levels come late only."""
    data = rows()
    order = np.argsort(data["id"], kind="stable")
    data = {name: values[order] for name, values in data.items()}
    whole = fit(data, absorb="id")
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 300)
    for text in (False, True):
        table = pa.table(data)
        if text:
            table = table.set_column(5, "id", table["id"].cast(pa.string()))
        pq.write_table(table, tmp_path / f"{text}.parquet", row_group_size=70)
        model = fit(tmp_path / f"{text}.parquet", absorb="id", threads=3)
        np.testing.assert_allclose(model.params, whole.params, rtol=1e-9)
        np.testing.assert_allclose(model.bse, whole.bse, rtol=1e-9)


def test_a_dask_frame() -> None:
    import dask.dataframe as dd
    import pandas as pd

    data = rows()
    model = fit(dd.from_pandas(pd.DataFrame(data), npartitions=5), absorb="id")
    np.testing.assert_allclose(model.params, fit(data, absorb="id").params, rtol=1e-9)


def test_nothing_of_levels_squared_is_allocated() -> None:
    """tracemalloc counts what NumPy asks for, touched or not: 20,000 levels squared are 3.2 GB."""
    rng = np.random.default_rng(8)
    n, levels = 200_000, 20_000
    group = rng.integers(0, levels, n)
    x = rng.normal(size=n)
    near = group / levels + 1e-5 * rng.normal(size=n)  # a nomination: it costs combinations of all levels
    y = (rng.random(n) < 1 / (1 + np.exp(-0.5 * x))).astype(int)
    data = pa.table({"y": y, "x": x, "near": near, "id": group})
    tracemalloc.start()
    try:
        model = streamlr.fit(data, target="y", absorb="id", threads=1)
        model.cov_params()
        model.tidy()
        model.predict(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert model.converged
    assert peak < 250e6


# Aliasing within levels


def within_levels() -> dict[str, Any]:
    data = rows()
    group = np.unique(data["id"], return_inverse=True)[1]
    rng = np.random.default_rng(9)
    data["x"] = data["x"] - 1e6
    fixed = rng.normal(1e3, 1.0, LEVELS)[group]
    return {
        "y": data["y"],
        "id": data["id"],
        "x": data["x"],
        "fixed": fixed,
        "both": 2.0 * data["x"] - 3.0 * fixed,
        "region": np.array(list("abc"))[group % 3],
        "z": data["z"],
        "c": data["c"],
    }


@pytest.mark.parametrize("probed", [1 << 23, 1])
def test_columns_constant_within_levels_are_aliased(probed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them are probed together."""
    monkeypatch.setattr("streamlr.aliasing.PROBED", probed)
    data = within_levels()
    model = fit(data, absorb="id")
    assert model.terms == ("x", "z", "c[T.b]", "c[T.c]")
    assert list(model.aliased) == ["fixed", "both", "region[T.b]", "region[T.c]"]
    kept = fit(data, absorb="id", features=["x", "z", "c"])
    np.testing.assert_allclose(model.params, kept.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, kept.bse, rtol=1e-9)
    np.testing.assert_allclose(model.predict(data), kept.predict(data), rtol=1e-9)
    dummies = fit(data, categorical=["id"])  # the id comes first
    assert list(dummies.aliased) == list(model.aliased)
    rows_of = {row["term"]: row for row in model.tidy().to_pylist()}
    assert rows_of["fixed"]["estimate"] is None


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7])
def test_columns_nearly_constant_within_levels_are_estimated(size: float, tmp_path: Path) -> None:
    """Their residual within levels is formed row by row. With dummies it is the same column reduced."""
    data = within_levels()
    rng = np.random.default_rng(10)
    wiggle = rng.normal(size=N)
    data["fixed"] = data["fixed"] / 1e3 + size * wiggle
    del data["both"]
    model = fit(data, absorb="id")
    assert "fixed" in model.terms
    scaled = fit({**data, "fixed": wiggle}, absorb="id")
    place = model.terms.index("fixed")
    # The column itself holds its wiggle to 1e-16 / size only.
    rel = max(1e-15 / size, PROMISE)
    assert model.params[place] * size == pytest.approx(scaled.params[place], rel=100 * rel, abs=1e-9)
    assert model.bse[place] * size == pytest.approx(scaled.bse[place], rel=rel)
    others = [j for j in range(len(model.terms)) if j != place]
    np.testing.assert_allclose(model.params[others], scaled.params[others], rtol=100 * rel)
    np.testing.assert_allclose(model.bse[others], scaled.bse[others], rtol=rel)
    np.testing.assert_allclose(model.predict(data), scaled.predict({**data, "fixed": wiggle}), rtol=100 * rel)
    model.save(tmp_path / "m.json")
    assert streamlr.load(tmp_path / "m.json").predict(data).tobytes() == model.predict(data).tobytes()


def test_rounding_of_one_level_is_not_that_of_all() -> None:
    """A row has one of the thousand effects: what is zero to rounding is told by that one alone."""
    rng = np.random.default_rng(17)
    group = rng.integers(0, 1_000, 20_000)
    wiggle = rng.uniform(-1.0, 1.0, 20_000)
    fixed = rng.uniform(-1.0, 1.0, 1_000)[group]
    y = (rng.random(20_000) < 1 / (1 + np.exp(-wiggle))).astype(int)
    for size, terms in ((1e-12, ("fixed",)), (0.0, ())):
        model = fit({"y": y, "fixed": fixed + size * wiggle, "id": group}, absorb="id", tol=1e-8)
        assert model.terms == terms


def test_the_start_is_the_log_odds_of_every_level() -> None:
    data = rows()
    model = fit(data, features=["id"], absorb="id")
    first = model.trace[0]["log_likelihood"]
    assert model.llf - first < 0.01 * (model.llf - model.llnull)
    shifted = fit({**data, "o": np.full(N, 3.0)}, features=["id"], absorb="id", offset="o")
    assert shifted.trace[0]["log_likelihood"] == pytest.approx(first, rel=1e-12)


def test_a_part_without_rows_holds_no_more_and_no_less() -> None:
    spec: Any = None
    task = ProfileTask(spec, Reader(), (), {})
    counts = LevelCounts(50, list_passed_over=False)
    counts.add(pa.array(range(40)).dictionary_encode(), None, np.ones((3, 40)))
    counts.flush()
    filled = ProfileSums(factors={"id": counts})
    assert len(task([]).merge(filled).factors["id"]) == 40
    assert task([]).merge(filled).factors["id"].limit == 50


def test_unnamed_constants_are_left_out_with_the_reason() -> None:
    model, _ = remarks_of({**rows(), "one": np.full(N, 7.5)}, absorb="id")
    assert dict(model.excluded) == {"one": "constant (7.5)"}
    assert not model.aliased


# Levels with one outcome only


def with_single_outcomes() -> dict[str, Any]:
    data = rows()
    levels = np.unique(data["id"])
    data["y"] = np.where(data["id"] == levels[3], 0, np.where(data["id"] == levels[11], 1, data["y"]))
    return data


def test_levels_with_one_outcome_say_nothing_and_are_counted() -> None:
    data = with_single_outcomes()
    levels = np.unique(data["id"])
    model, told = remarks_of(data, absorb="id")
    aside = np.isin(data["id"], levels[[3, 11]])
    assert any(f"2 levels of 'id' have one outcome only; their {aside.sum():,} rows" in text for text in told)
    assert model.statistics.rows_set_aside == aside.sum()
    assert model.separation is None
    assert not [row for row in model.tidy().to_pylist() if "id" in row["term"]]
    rest = fit({name: values[~aside] for name, values in data.items()}, absorb="id")
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, rest.bse, rtol=1e-9)
    assert model.llnull == pytest.approx(rest.llnull, rel=1e-12)
    check_equal(data)
    predicted = model.predict(data)
    assert np.all(predicted[data["id"] == levels[3]] == 0.0)
    assert np.all(predicted[data["id"] == levels[11]] == 1.0)
    assert np.all((predicted[~aside] > 0.0) & (predicted[~aside] < 1.0))
    assert "2 more have one outcome only" in str(model.summary())
    with pytest.raises(SeparationError):
        fit(data, absorb="id", separation="error")


def test_levels_set_aside_take_levels_of_others_with_them() -> None:
    """c has a fourth level whose only failures stand in a level of the id that fails always."""
    data = with_single_outcomes()
    first = data["id"] == np.unique(data["id"])[3]
    other = (np.arange(N) % 40 == 1) & (data["y"] == 1)
    data["c"] = np.where(first | other, "k", data["c"])
    check_equal(data)


def test_a_level_of_dropped_rows_alone_is_no_level() -> None:
    data = rows()
    gone = data["id"] == np.unique(data["id"])[7]
    table = pa.table({**data, "z": pa.array(data["z"], mask=gone)})
    model = fit(table, absorb="id")
    assert len(model.design.absorbed.levels) == LEVELS - 1
    rest = fit(table.filter(pa.array(~gone)), absorb="id")
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9)
    assert np.isnan(model.predict(pa.table(data))[gone]).all()


def test_incidental_parameters_are_a_remark() -> None:
    _, told = remarks_of(rows(), absorb="id")
    assert [text for text in told if "40 levels of 'id'" in text and "75 rows each on average" in text]


def test_a_level_of_weight_zero_has_no_effect_and_no_score(tmp_path: Path) -> None:
    data = rows()
    nothing = data["id"] == np.unique(data["id"])[5]
    data["w"] = np.where(nothing, 0, 2)
    model = fit(data, absorb="id", weights="w")
    assert not model.aliased
    rest = fit({name: values[~nothing] for name, values in data.items()}, absorb="id", weights="w")
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9)
    np.testing.assert_array_equal(np.isnan(model.predict(data)), nothing)
    model.save(tmp_path / "m.json")
    again = streamlr.load(tmp_path / "m.json")
    np.testing.assert_array_equal(np.isnan(again.predict(data)), nothing)
    np.testing.assert_array_equal(again.basis.active, model.basis.active)
    assert model.absorbed_effects is not None
    assert np.isnan(model.absorbed_effects).sum() == 1


def test_separation_within_levels_names_the_column() -> None:
    """Above each level's own value of v all rows are successes; some rows lie on it."""
    data = rows()
    group = np.unique(data["id"], return_inverse=True)[1]
    data["v"] = group + (data["y"] == 1) * np.maximum(np.random.default_rng(12).normal(size=N), 0.0)
    with pytest.raises(SeparationError, match=r"quasi-complete .*Diverging: v → \+∞\. ") as absorbed:
        streamlr.fit(data, target="y", absorb="id")
    (term,) = absorbed.value.separation["terms"]
    assert (term["term"], term["direction"]) == ("v", 1)
    with pytest.raises(SeparationError) as dummies:
        streamlr.fit(data, target="y", categorical=["id"])
    for key in ("kind", "rows_separated", "rows_overlapping"):
        assert absorbed.value.separation[key] == dummies.value.separation[key]
    assert absorbed.value.separation["rows_separated"] == int((data["v"] > group).sum())


# A ridge on the effects


def dense_ridge(data: dict[str, Any], ridge: float, intercept: bool = True) -> tuple[Any, Any, Any, float]:
    """Newton on (intercept, x - 1e6, z, b, c; a column a level) with `ridge` W / 2 times their squares."""
    levels, group = np.unique(data["id"], return_inverse=True)
    own = [data["x"] - 1e6, data["z"], data["c"] == "b", data["c"] == "c"]
    if intercept:
        own.insert(0, np.ones(N))
    X = np.column_stack([*own, np.eye(len(levels))[group]]).astype(float)
    w = data["w"].astype(float)
    pull = np.r_[np.zeros(len(own)), np.full(len(levels), ridge * w.sum())]
    coef = np.zeros(X.shape[1])
    with threadpool_limits(
        1
    ):  # small products on many threads take a hundred times as long on a busy machine
        for _ in range(15):
            p = 1 / (1 + np.exp(-X @ coef))
            hessian = (X * (w * p * (1 - p))[:, None]).T @ X + np.diag(pull)
            coef = coef - np.linalg.solve(hessian, X.T @ (w * (p - data["y"])) + pull * coef)
    eta = X @ coef
    likelihood = float(np.sum(w * (data["y"] * eta - np.logaddexp(0.0, eta))))
    p = 1 / (1 + np.exp(-eta))
    information = (X * (w * p * (1 - p))[:, None]).T @ X
    inverse = np.linalg.inv(information + np.diag(pull))
    m = len(own)
    return coef, np.sqrt(np.diag(inverse))[:m], np.trace(inverse @ information), likelihood


@pytest.mark.parametrize("ridge", [1e-5, 1e-3, 0.1])
def test_ridge_against_dense_newton(ridge: float, tmp_path: Path) -> None:
    data = {**with_single_outcomes(), "w": np.random.default_rng(13).integers(0, 4, N)}
    options = {"features": ["x", "z", "c"], "absorb": "id", "weights": "w", "absorb_l2": ridge}
    model = fit({**data, "x": data["x"] - 1e6}, **options)
    coef, errors, parameters, likelihood = dense_ridge(data, ridge)
    assert model.terms == ("Intercept", "x", "z", "c[T.b]", "c[T.c]")
    np.testing.assert_allclose(model.params, coef[:5], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(model.bse, errors, rtol=PROMISE)
    assert model.llf == pytest.approx(likelihood, rel=1e-11)
    assert model.parameters == pytest.approx(parameters, rel=1e-8)
    assert model.absorbed_effects is not None
    np.testing.assert_allclose(model.absorbed_effects, coef[5:], rtol=1e-8, atol=1e-10)
    far = fit(data, **options)  # mean 1e6: the intercept takes up what centring adds
    np.testing.assert_allclose(far.params[1:], coef[1:5], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(far.bse[1:], errors[1:], rtol=PROMISE)
    far.save(tmp_path / "m.json")
    assert streamlr.load(tmp_path / "m.json").predict(data).tobytes() == far.predict(data).tobytes()


def test_ridge_without_an_intercept_centres_nothing() -> None:
    data = {**with_single_outcomes(), "w": np.ones(N)}
    formula = "y ~ 0 + x + z + c"
    near = {**data, "x": data["x"] - 1e6 + 3.0}
    model = fit(near, formula=formula, target=None, absorb="id", absorb_l2=1e-3)
    coef, errors, *_ = dense_ridge({**near, "x": near["x"] + 1e6}, 1e-3)
    # A full coding of c: its first level has the intercept, and the others have it added.
    assert model.terms == ("x", "z", "c[a]", "c[b]", "c[c]")
    expected = [coef[1], coef[2], coef[0], coef[0] + coef[3], coef[0] + coef[4]]
    np.testing.assert_allclose(model.params, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(model.bse[:3], [errors[1], errors[2], errors[0]], rtol=PROMISE)


def test_ridge_estimates_columns_constant_within_levels() -> None:
    """Effects that are held back cannot stand in for them; exact combinations of own columns still can."""
    data = within_levels()
    data["fixed"] = (data["fixed"] - 1e3) / 3
    data["both"] = 2.0 * data["x"] - 3.0 * data["fixed"]
    model = fit(data, absorb="id", absorb_l2=1e-3)
    assert list(model.aliased) == ["both"]
    assert "fixed" in model.terms
    assert "region[T.b]" in model.terms
    hardly = fit(data, absorb="id", absorb_l2=1e-9, tol=1e-8)
    assert list(hardly.aliased) == ["both"]


def test_a_ridge_keeps_effects_finite_where_every_level_has_one_outcome() -> None:
    rng = np.random.default_rng(16)
    group = rng.integers(0, 30, 600)
    model = fit({"y": group % 2, "id": group}, absorb="id", absorb_l2=1e-9)
    assert model.terms == ("Intercept",)
    assert model.absorbed_effects is not None
    assert np.all(np.sign(model.absorbed_effects) == np.where(np.arange(30) % 2, 1, -1))
    assert -model.llf < np.log(2.0)


def test_a_strong_ridge_is_the_model_without_the_factor() -> None:
    data = rows()
    model = fit(data, features=["z", "c"], absorb="id", absorb_l2=1e6)
    plain = fit(data, features=["z", "c"])
    np.testing.assert_allclose(model.params, plain.params, rtol=1e-6)
    np.testing.assert_allclose(model.bse, plain.bse, rtol=1e-6)


# Scoring


@pytest.mark.parametrize("text", [False, True])
def test_one_row_scores_as_among_all_after_save_and_load(text: bool, tmp_path: Path) -> None:
    data = with_single_outcomes()
    if text:
        data["id"] = np.array([f"customer {i}" for i in data["id"]])
    table = pa.table(data)
    model = fit(table, absorb="id")
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    whole = model.predict(table)
    assert again.predict(table).tobytes() == whole.tobytes()
    assert again.terms == model.terms
    np.testing.assert_array_equal(again.basis.active, model.basis.active)
    np.testing.assert_array_equal(again.cov_params(), model.cov_params())
    assert again.result() == model.result()
    assert str(again.summary()) == str(model.summary())
    for i in (0, 17, N - 1):
        assert again.predict(table.slice(i, 1)).tobytes() == whole[i : i + 1].tobytes()


def test_unknown_and_missing_levels_are_not_scored() -> None:
    data = rows()
    model = fit(data, absorb="id")
    new = pa.table({name: values[:4] for name, values in data.items()})
    new = new.set_column(5, "id", pa.array([int(data["id"][0]), 123_456_789, None, -(10**15)]))
    predicted = model.predict(new)
    assert predicted[0] == model.predict(data)[0]
    assert np.isnan(predicted[1:]).all()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    model = fit(rows(), absorb="id")
    model.save(tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    place = text.index('"effects": "') + len('"effects": "')
    (tmp_path / "m.json").write_text(text[:place] + text[place + 64 :])
    with pytest.raises(StreamlrError, match="damaged"):
        streamlr.load(tmp_path / "m.json")


# Faults


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"absorb": "idd"}, "no column 'idd' to absorb.*'id'"),
        ({"absorb": "y"}, "'y' cannot be both absorbed and the target"),
        ({"absorb": "id", "absorb_l2": -1.0}, "absorb_l2 must be zero or a positive number"),
        ({"absorb": "id", "absorb_l2": np.nan}, "absorb_l2 must be zero or a positive number"),
        ({"absorb_l2": 1.0}, "absorb_l2 needs a column"),
        ({"absorb": "d", "reference": {"d": "q"}}, "'d' is absorbed"),
        ({"absorb": "when"}, "'when' cannot be absorbed: date or time"),
        ({"absorb": "row"}, "'row' cannot be absorbed: one level per row"),
        ({"absorb": "none"}, "'none' is all null"),
    ],
)
def test_faults_are_told(options: dict[str, Any], words: str) -> None:
    row = np.arange(N)
    table = pa.table(
        {**rows(), "when": row.astype("datetime64[s]"), "row": row, "none": pa.array([None] * N, pa.int64())}
    )
    with pytest.raises(StreamlrError, match=words):
        fit(table, exclude=["none"] if options.get("absorb") != "none" else [], **options)


def test_more_levels_than_a_factor_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows()
    monkeypatch.setattr("streamlr.design.profile.MAXIMUM_ABSORBED", 39)
    with pytest.raises(StreamlrError, match=r"'id' cannot be absorbed: more than 39 levels"):
        fit(data, absorb="id")
    monkeypatch.undo()
    many = np.arange(120_000) // 2
    rng = np.random.default_rng(14)
    big = {"y": rng.integers(0, 2, 240_000), "x": rng.normal(size=240_000), "id": np.r_[many, many + 60_000]}
    with pytest.raises(StreamlrError, match=r"more than 100,000 levels.*--absorb id"):
        fit(big, features=["x", "id"], categorical=["id"])
    assert fit(big, absorb="id", tol=1e-8).converged


def test_memory_is_planned_as_levels_times_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "resident_bytes", lambda: 100_000_000)

    def least(levels: int, numbers: int) -> int:
        feature = Feature(Column("id"), "id", categorical=True, named=True, absorbed=True)
        absorbed = Factor(feature, tuple(range(levels)), None)
        made = designs.design(*(designs.number(f"x{j}") for j in range(numbers)), absorbed)
        design = replace(made, intercept=False)
        low, high = 1, 1 << 44
        while high - low > 1:
            middle = (low + high) // 2
            try:
                plan_memory(design, SOURCE, 1, middle)
                high = middle
            except StreamlrError as error:
                assert f"beside {levels:,} absorbed levels" in str(error)
                low = middle
        return high

    base = least(1_000, 10)
    assert least(11_000, 10) - base == pytest.approx(10 * (least(2_000, 10) - base), rel=0.01)
    # Two borders, the tables of one thread and three that wait for others.
    assert least(1_000_000, 11) - least(1_000_000, 10) >= 8_000_000 * (2 + 1 + 3)
    assert least(200_000, 5) < 600_000_000


class Piece:
    rows = 200_000

    def held_rows(self, columns: Any, batch_rows: int) -> int:
        return self.rows


class Pieces:
    parts = (Piece(),)
    rows = 200_000


SOURCE: Any = Pieces()


# At size


def write_large(path: Path, rows_in_all: int, levels: int, level: Callable[[np.ndarray], pa.Array]) -> None:
    """y, five numbers and an id to a file, in row groups of a quarter of a million."""
    rng = np.random.default_rng(15)
    effect = rng.normal(size=levels)
    slopes = np.array([0.5, -0.3, 0.2, 0.0, 0.1])
    writer: pq.ParquetWriter | None = None
    for _ in range(0, rows_in_all, 250_000):
        group = rng.integers(0, levels, 250_000)
        X = rng.normal(size=(5, 250_000)) + 0.2 * effect[group]
        y = rng.random(250_000) < 1 / (1 + np.exp(-(effect[group] - 0.5 + slopes @ X)))
        table = pa.table({"y": y.astype(np.int8), **{f"x{j}": X[j] for j in range(5)}, "id": level(group)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


PROGRAM = """
import sys, time, json
import streamlr
started = time.perf_counter()
model = streamlr.fit(sys.argv[1], target="y", absorb="id", memory="950MB")
seconds = time.perf_counter() - started
print(json.dumps([model.params.tolist(), model.converged, model.glance()["peak_rss_bytes"], seconds]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process alone")
def test_two_hundred_thousand_levels_in_ten_million_rows_stay_under_a_gigabyte(tmp_path: Path) -> None:
    """The effects are normal with deviation 1 and there are 50 rows a level: a bias of 1/50 or so."""
    path = tmp_path / "large.parquet"
    write_large(path, 10_000_000, 200_000, lambda group: pa.array(group.astype(np.int64) * 3 + 1))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    params, converged, peak, seconds = json.loads(done.stdout)
    assert peak < 1_000_000_000
    assert seconds < 120
    assert converged
    np.testing.assert_allclose(params, [0.5, -0.3, 0.2, 0.0, 0.1], atol=0.02)


@pytest.mark.parametrize("formula", ["y ~ g + x:g", "y ~ x*g", "y ~ z + g + g:x"])
def test_slopes_by_level_far_from_zero(formula: str) -> None:
    """The absorbed effects take up what centring the slope of the reference level moves."""
    rng = np.random.default_rng(31)
    n = 3_000
    data = {"x": rng.normal(size=n), "z": rng.normal(size=n), "id": rng.integers(0, 40, n)}
    data["g"] = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    eta = 0.4 * data["x"] * (data["g"] == "b") + np.sin(data["id"])
    data["y"] = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    near = streamlr.fit(data, formula, absorb="id", tol=1e-10)
    far = streamlr.fit({**data, "x": data["x"] + 1e6}, formula, absorb="id", tol=1e-10)
    assert near.converged
    assert far.converged
    assert far.llf == pytest.approx(near.llf, rel=1e-12)
    slopes = [place for place, name in enumerate(near.terms) if "x" in name]
    np.testing.assert_allclose(far.params[slopes], near.params[slopes], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(far.predict({**data, "x": data["x"] + 1e6}), near.predict(data), rtol=1e-6)
