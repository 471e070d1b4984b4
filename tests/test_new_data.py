"""Scoring rows that are not like those of the fit: one alone, of another type, with levels never seen.

A row's score depends on the row and the frozen design alone, so the score of one row is, to the bit, the one
that it has among all, for every kind of term, before and after the model was in a file.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.errors import StreamlrError

N = 600
RNG = np.random.default_rng(5)
X = RNG.normal(4.0, 1.5, N)
K = RNG.integers(0, 4, N)
G = RNG.choice(["a", "b", "c", "d"], N, p=[0.4, 0.3, 0.2, 0.1])
H = RNG.choice(["p", "q"], N)
B = RNG.random(N) < 0.3
START = datetime.datetime(2023, 1, 1)
T = [START + datetime.timedelta(hours=7 * i) for i in range(N)]
ETA = -1.2 + 0.3 * X - 0.2 * K + 0.5 * (G == "b") + 0.4 * B
Y = (RNG.random(N) < 1 / (1 + np.exp(-ETA))).astype(np.int64)
FULL = pa.table(
    {
        "y": Y,
        "x": X,
        "k": K,
        "g": pa.array(G),
        "h": pa.array(H),
        "b": pa.array(B),
        "t": pa.array(T, pa.timestamp("us")),
        "s": pa.array(X, mask=RNG.random(N) < 0.05),
        "f": pa.array(G, mask=RNG.random(N) < 0.05),
    }
)

FORMULAS = {
    "bs": "y ~ bs(x, df=5)",
    "ns": "y ~ ns(x, df=3)*h",
    "cr": "y ~ cr(x, df=4)",
    "poly": "y ~ poly(x, 3) + poly(k, 2):h",
    "scale": "y ~ scale(x)*g + center(k)",
    "cut": "y ~ cut(x, quantiles=4)*h",
    "lump": "y ~ lump(g, top=2)*x",
    "hash": "y ~ hash(g, 16) + h",
    "isnull": "y ~ isnull(s) + h",
    "cells": "y ~ g*h*b",
    "cells with numbers": "y ~ g:h + g:x + x:k",
    "contrasts": "y ~ C(g, sum)*x + C(k, poly)",
    "time": "y ~ month(t) + C(dow(t)) + hour(t)",
    "arithmetic": "y ~ log(x + 10) + I(x**2) + I(k > 1) + clip(x, 1, 6)",
    "gaps": "y ~ s + f",
}
POLICIES = {"gaps": "indicator", "gaps filled": "fill=1", "isnull": "drop"}
CASES = [
    *[(formula, POLICIES.get(name, "drop")) for name, formula in FORMULAS.items()],
    ("y ~ scale(s)*f", "indicator"),
    ("y ~ bs(s, df=4) + f:h", "fill=1"),
    ("y ~ cut(s, quantiles=3) + f", "indicator"),
]


def fit(data: Any, formula: str, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, formula, **options)
    assert model.converged
    return model


def reloaded(model: streamlr.Model, folder: Path) -> streamlr.Model:
    model.save(folder / "model.json")
    return streamlr.load(folder / "model.json")


@pytest.mark.parametrize(("formula", "missing"), CASES)
def test_one_row_scores_as_it_does_among_all(formula: str, missing: str, tmp_path: Path) -> None:
    model = fit(FULL, formula, missing=missing)
    scores = model.predict(FULL)
    assert np.isnan(scores).sum() == model.statistics.rows_dropped
    assert scores[~np.isnan(scores)].mean() == pytest.approx(Y[~np.isnan(scores)].mean(), rel=1e-7)
    loaded = reloaded(model, tmp_path)
    assert loaded.predict(FULL).tobytes() == scores.tobytes()
    for row in [*range(0, N, 17), N - 1]:
        assert loaded.predict(FULL.slice(row, 1)).tobytes() == scores[row : row + 1].tobytes()
    pq.write_table(FULL, tmp_path / "new.parquet", row_group_size=41)
    assert loaded.predict(tmp_path / "new.parquet").tobytes() == scores.tobytes()
    backwards = FULL.take(np.arange(N)[::-1]).select(FULL.column_names[::-1])
    assert loaded.predict(backwards).tobytes() == scores[::-1].tobytes()


# Levels never seen


def scores_of(model: streamlr.Model, rows: Mapping[str, Any], unseen: Any = "null") -> np.ndarray:
    return model.predict(dict(rows), unseen=unseen)


@pytest.mark.parametrize(
    "formula", ["y ~ g + x", "y ~ g*x", "y ~ g:x + h", "y ~ g*h", "y ~ C(g, sum) + h", "y ~ 0 + g + x"]
)
def test_unseen_levels(formula: str, tmp_path: Path) -> None:
    model = reloaded(fit(FULL, formula), tmp_path)
    rows = {"g": ["b", "new", "a"], "x": [1.0, 2.0, 2.0], "h": ["p", "p", "p"]}
    scores = scores_of(model, rows)
    assert np.isnan(scores).tolist() == [False, True, False]
    as_reference = scores_of(model, rows, "reference")
    assert as_reference[1] == as_reference[2] == scores[2]
    assert as_reference[0] == scores[0]
    with pytest.raises(StreamlrError, match=r"'g'.*'new'.*--unseen"):
        scores_of(model, rows, "error")
    assert not np.isnan(scores_of(model, {name: values[::2] for name, values in rows.items()}, "error")).any()


def test_unseen_cells_of_seen_levels(tmp_path: Path) -> None:
    keep = ~((G == "c") & (H == "q"))
    model = reloaded(fit(FULL.filter(pa.array(keep)), "y ~ g*h + x"), tmp_path)
    rows = {"g": ["c", "c", "b"], "h": ["q", "p", "q"], "x": [1.0, 1.0, 1.0]}
    assert np.isnan(scores_of(model, rows)).tolist() == [True, False, False]
    without = scores_of(model, rows, "reference")
    b = dict(zip(model.terms, model.params, strict=True))
    eta = b["Intercept"] + b["g[T.c]"] + b["h[T.q]"] + b["x"]
    assert without[0] == pytest.approx(1 / (1 + np.exp(-eta)), rel=1e-12), "scored without the interaction"
    with pytest.raises(StreamlrError, match=r"'g:h'.*'c'.*'q'.*1 such row.*--unseen"):
        scores_of(model, rows, "error")
    known = {name: values[1:] for name, values in rows.items()}
    assert not np.isnan(scores_of(model, known, "error")).any()


def test_a_bucket_without_a_row_is_unseen() -> None:
    model = fit(FULL, "y ~ hash(g, 1000) + x")
    rows = {"g": ["a", "something else"], "x": [1.0, 1.0]}
    assert np.isnan(scores_of(model, rows)).tolist() == [False, True]
    assert not np.isnan(scores_of(model, rows, "reference")).any()
    with pytest.raises(StreamlrError, match="unseen"):
        scores_of(model, rows, "error")
    # With a bucket for few, a level never seen shares one and is scored.
    narrow = fit(FULL, "y ~ hash(g, 2) + x")
    assert not np.isnan(scores_of(narrow, rows)).any()


def test_a_rare_level_to_come_is_other() -> None:
    model = fit(FULL, "y ~ lump(g, top=2) + x")
    scores = scores_of(model, {"g": ["c", "d", "new", None], "x": [1.0] * 4}, "error")
    assert scores[0] == scores[1] == scores[2]
    assert np.isnan(scores[3])


def test_beyond_the_breaks_is_missing() -> None:
    model = fit(FULL, "y ~ cut(x, breaks=[-10, 3, 5, 20])")
    assert np.isnan(scores_of(model, {"x": [0.0, 21.0, -10.0, 20.0]})).tolist() == [False, True, True, False]


def test_beyond_the_knots_is_scored() -> None:
    """A spline goes on as the polynomial that it is there: no clipping, no null."""
    model = fit(FULL, "y ~ bs(x, df=5) + ns(k, df=2)")
    scores = scores_of(model, {"x": [X.max() + 1, X.min() - 1], "k": [9, -3]})
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 2


def test_gaps_to_come_are_told_from_levels_never_seen() -> None:
    model = fit(FULL, "y ~ g + x")
    assert np.isnan(scores_of(model, {"g": [None], "x": [1.0]}, "error")).all()
    # A level "missing" is one that a fit without gaps has never seen.
    indicator = fit(FULL, "y ~ g + x", missing="indicator")
    rows = {"g": [None], "x": [1.0]}
    assert np.isnan(scores_of(indicator, rows)).all()
    assert scores_of(indicator, rows, "reference") == scores_of(indicator, {**rows, "g": ["a"]})


@pytest.mark.parametrize("statistics", [True, False])
def test_gaps_where_the_fit_had_none(statistics: bool, tmp_path: Path) -> None:
    """Whatever the file told: "indicator" has no column to say it with, a value given is filled in."""
    pq.write_table(FULL, tmp_path / "data.parquet", write_statistics=statistics)
    rows = {"x": pa.array([None, 1.0]), "k": pa.array([1, None], pa.int64())}
    model = fit(tmp_path / "data.parquet", "y ~ x + k", missing="indicator")
    assert np.isnan(model.predict(pa.table(rows))).all()
    filled = fit(tmp_path / "data.parquet", "y ~ x + k", missing="fill=1")
    assert filled.predict(pa.table(rows)).tolist() == filled.predict({"x": [1.0, 1.0], "k": [1, 1]}).tolist()


# Columns of another type

RAW = {name: FULL[name].to_pylist() for name in FULL.column_names}
FORMS: dict[str, dict[str, Any]] = {
    "integers as floats": {"k": pa.array(K.astype(float))},
    "narrow integers": {"k": pa.array(K.astype(np.int8))},
    "decimals": {"k": FULL["k"].cast(pa.decimal128(25, 3))},
    "floats as text": {"x": pa.array([repr(value) for value in RAW["x"]])},
    "integers as text": {"k": pa.array([str(value) for value in RAW["k"]])},
    "dictionary numbers": {"k": FULL["k"].dictionary_encode(), "x": FULL["x"].dictionary_encode()},
    "text as dictionary": {"g": FULL["g"].dictionary_encode()},
    "large text": {"g": FULL["g"].cast(pa.large_string())},
    "truth as integers": {"b": FULL["b"].cast(pa.int64())},
    "truth as floats": {"b": FULL["b"].cast(pa.int8()).cast(pa.float64())},
    "time as text": {"t": pa.array([str(value) for value in T])},
    "time in seconds": {"t": FULL["t"].cast(pa.timestamp("s"))},
    "time in nanoseconds": {"t": FULL["t"].cast(pa.timestamp("ns"))},
}
TYPED = (
    "y ~ scale(x) + k + log(k + 1)",
    "y ~ C(k)*x",
    "y ~ g*b + x",
    "y ~ hour(t) + month(t) + b",
    "y ~ hash(k, 8) + x",
)


@pytest.fixture(scope="module")
def typed() -> Mapping[str, tuple[streamlr.Model, np.ndarray]]:
    models = {formula: fit(FULL, formula) for formula in TYPED}
    return {formula: (model, model.predict(FULL)) for formula, model in models.items()}


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_another_type_that_hold_the_same(form: str, typed: Any) -> None:
    data = FULL
    for name, values in FORMS[form].items():
        data = data.set_column(data.column_names.index(name), name, values)
    for formula, (model, scores) in typed.items():
        assert model.predict(data).tobytes() == scores.tobytes(), formula


def test_other_libraries(typed: Any) -> None:
    for model, scores in typed.values():
        for data in (FULL.to_pandas(), pl.from_arrow(FULL), FULL.to_pandas().astype({"g": "category"})):
            assert model.predict(data).tobytes() == scores.tobytes()


@pytest.mark.parametrize(
    ("formula", "column", "values"),
    [
        ("y ~ x + log(k + 1)", "k", ["one", "2", "3"]),
        ("y ~ x*g", "x", ["1.5", "", "2"]),
        ("y ~ g*b", "b", [0, 1, 2]),
        ("y ~ g*b", "b", ["yes", "no", "no"]),
        ("y ~ g + x", "g", [1.5, 2.0, 3.0]),
        ("y ~ g + x", "g", [True, False, True]),
        ("y ~ hour(t) + x", "t", ["yesterday", "2023-01-01", "2023-01-02"]),
        ("y ~ x + k", "x", [datetime.datetime(2023, 1, 1)] * 3),
    ],
)
def test_what_would_lose_a_value_is_refused(formula: str, column: str, values: list[Any]) -> None:
    model = fit(FULL, formula)
    rows = {**{name: RAW[name][:3] for name in RAW}, column: values}
    with pytest.raises(StreamlrError) as caught:
        model.predict(pa.table(rows))
    assert f"'{column}'" in str(caught.value)


def test_missing_columns_are_named_together() -> None:
    model = fit(FULL, "y ~ g*h + bs(x, df=4) + log(k + 1) + hour(t)")
    with pytest.raises(StreamlrError) as caught:
        model.predict({"g": ["a"], "K": [1]})
    for name in ("h", "x", "k", "t"):
        assert f"'{name}'" in str(caught.value)
    assert "'g'" not in str(caught.value)


def test_rows_without_a_score_are_counted(tmp_path: Path) -> None:
    model = fit(FULL, "y ~ log(x + 1) + g")
    rows = pa.table({"x": [1.0, -2.0, None, 3.0, np.inf], "g": ["a", "a", "b", "new", "b"]})
    assert streamlr.predict(model, rows, tmp_path / "scores.parquet") == (5, 4)
    column = pq.read_table(tmp_path / "scores.parquet")["probability"]
    assert column.null_count == 4
    assert np.isnan(model.predict(rows)).tolist() == [False, True, True, True, True]


def test_the_filter_of_the_fit_does_not_choose_what_is_scored(tmp_path: Path) -> None:
    model = fit(FULL, "y ~ x + g", where="k >= 2 and h = 'p'")
    rest = fit(FULL.filter(pa.array((K >= 2) & (H == "p"))), "y ~ x + g")
    for one in (model, reloaded(model, tmp_path)):
        scores = one.predict(FULL.select(["x", "g"]))
        assert not np.isnan(scores).any()
        np.testing.assert_allclose(scores, rest.predict(FULL), rtol=1e-7)


# Filters of the fit, whatever the data are


SOURCES: dict[str, Callable[[], Any]] = {
    "arrow": lambda: FULL,
    "pandas": lambda: FULL.to_pandas(),
    "polars": lambda: pl.from_arrow(FULL),
    "dask": lambda: _dask(FULL.to_pandas()),
}


def _dask(frame: pd.DataFrame) -> Any:
    import dask.dataframe as dd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dd.from_pandas(frame, npartitions=3)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "formula", ["y ~ scale(x) + g", "y ~ g*b + s", "y ~ cut(x, quantiles=3) + lump(g, top=2)"]
)
def test_a_filter_is_a_smaller_table(source: str, formula: str) -> None:
    keep = (K >= 1) & (H == "p")
    model = fit(SOURCES[source](), formula, where="k >= 1 and h = 'p'", tol=1e-12)
    rest = fit(FULL.filter(pa.array(keep)), formula, tol=1e-12)
    assert model.terms == rest.terms
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9, atol=1e-11)
    assert model.statistics.rows_read == int(keep.sum())
    assert model.dropped == rest.dropped
    assert model.provenance["where"] == "k >= 1 and h = 'p'"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("formula", ["y ~ x + g", "y ~ scale(x) + g"])
def test_a_filter_that_keeps_nothing(source: str, formula: str) -> None:
    with pytest.raises(StreamlrError, match="no rows that --where keeps"):
        streamlr.fit(SOURCES[source](), formula, where="x > 1000")


def test_intervals_without_end(tmp_path: Path) -> None:
    """Breaks at infinity are written as in R, and kept in the model file, whose numbers are finite."""
    model = reloaded(fit(FULL, "y ~ cut(x, [-Inf, 0, Inf])"), tmp_path)
    assert model.terms == ("Intercept", "cut(x, [-Inf, 0, Inf])[T.(0,Inf]]")
    low, high = model.predict({"x": [-1e300, 1e300]})
    np.testing.assert_array_equal(model.predict({"x": [0.0, 1e-300]}), [low, high])
    assert low != high
