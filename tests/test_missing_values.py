"""Missing values: what each policy does with a row, and what it says.

The expected model is always a fit of a table in which the same was done by hand: rows dropped, a level
"missing" written, a gap replaced by a mean. Null and NaN are missing; an infinity is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.errors import StreamlrError

N = 500
RNG = np.random.default_rng(8)
X = RNG.normal(3.0, 1.0, N)
Z = RNG.normal(0.0, 1.0, N)
K = RNG.integers(0, 50, N)
G = RNG.choice(["a", "b", "z"], N)
Y = (RNG.random(N) < 1 / (1 + np.exp(1.0 - 0.3 * X - 0.5 * Z - 0.4 * (G == "b")))).astype(np.int64)
NO_X = RNG.random(N) < 0.06
NO_G = RNG.random(N) < 0.08
NO_K = RNG.random(N) < 0.05
FULL: dict[str, Any] = {"y": Y, "x": X, "z": Z, "k": K, "g": G}


def holes(**missing: np.ndarray) -> pa.Table:
    """The full table with nulls."""
    return pa.table({name: pa.array(values, mask=missing.get(name)) for name, values in FULL.items()})


GAPPY = holes(x=NO_X, g=NO_G, k=NO_K)


def by_hand(keep: np.ndarray | None = None, **columns: Any) -> pa.Table:
    keep = np.ones(N, dtype=bool) if keep is None else keep
    return pa.table({name: np.asarray(values)[keep] for name, values in {**FULL, **columns}.items()})


def fit(data: Any, formula: str, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, formula, tol=options.pop("tol", 1e-12), **options)
    assert model.converged
    return model


def assert_same(model: streamlr.Model, expected: streamlr.Model, names: Any = None) -> None:
    terms = expected.terms if names is None else tuple(names.get(term, term) for term in expected.terms)
    assert model.terms == terms
    scale = np.maximum(np.abs(expected.params), expected.bse)
    assert np.max(np.abs(model.params - expected.params) / scale) <= 1e-10
    np.testing.assert_allclose(model.bse, expected.bse, rtol=1e-10)
    assert model.llf == pytest.approx(expected.llf, rel=1e-12)


def refusal(data: Any, formula: str | None, **options: Any) -> str:
    with pytest.raises(StreamlrError) as caught:
        streamlr.fit(data, formula, **({"target": "y"} if formula is None else {}), **options)
    return str(caught.value)


FORMS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "memory": lambda table, path: table,
    "footers": lambda table, path: _written(table, path, row_group_size=60),
    "no statistics": lambda table, path: _written(table, path, row_group_size=60, write_statistics=False),
}


def _written(table: pa.Table, path: Path, **options: Any) -> Path:
    pq.write_table(table, path / "data.parquet", **options)
    return path / "data.parquet"


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pa.Table], Any]:
    """A table in memory, in a file whose footers tell of nulls, and in one without statistics."""
    return lambda table: FORMS[request.param](table, tmp_path)


# drop


@pytest.mark.parametrize(
    "formula",
    ["y ~ x + g", "y ~ x*g + z", "y ~ bs(x, df=4) + g", "y ~ poly(k, 2)*g", "y ~ scale(x) + k", "y ~ z + k"],
)
def test_rows_are_dropped_and_counted_by_column(formula: str, form: Callable[[pa.Table], Any]) -> None:
    data = form(GAPPY)
    model = fit(data, formula)
    used = {name: gaps for name, gaps in (("x", NO_X), ("g", NO_G), ("k", NO_K)) if name in formula}
    gone = np.logical_or.reduce(list(used.values()))
    assert model.dropped == {name: int(gaps.sum()) for name, gaps in used.items()}
    assert (model.statistics.rows_dropped, model.statistics.rows_used) == (gone.sum(), N - gone.sum())
    assert model.statistics.rows_read == N
    if "bs(" not in formula and "poly" not in formula and "scale" not in formula:
        assert_same(model, fit(by_hand(~gone), formula))


@pytest.mark.parametrize("formula", ["y ~ scale(x) + k", "y ~ poly(k, 2) + x", "y ~ bs(x, df=4) + k"])
def test_functions_learn_from_every_row_that_has_their_argument(
    formula: str, form: Callable[[pa.Table], Any]
) -> None:
    """As R's, whose model frame drops rows after its functions have seen their columns."""
    model = fit(form(GAPPY), formula)
    (state,) = model.design.reader.states.values()
    seen = X[~NO_X] if "x" in next(iter(model.design.reader.states)) else K[~NO_K]
    if "mean" in state:
        assert state["mean"] == pytest.approx(seen.mean(), rel=1e-13)
    if "deviation" in state:
        assert state["deviation"] == pytest.approx(seen.std(ddof=1), rel=1e-13)
    if "knots" in state:
        assert (state["lower"], state["upper"]) == (seen.min(), seen.max())
        assert state["knots"] == pytest.approx([np.quantile(seen, 0.5)], rel=1e-15)


def test_a_gap_counts_where_it_is_and_a_bad_value_under_its_function() -> None:
    x = np.where(np.arange(N) % 50 == 3, -1.0, np.abs(X) + 1)  # 10 rows
    none = np.arange(N) % 100 == 7  # 5 others
    data = pa.table({**FULL, "x": pa.array(x, mask=none)})
    model = fit(data, "y ~ log(x) + x")
    assert model.dropped == {"log(x)": 10, "x": 5}
    assert model.statistics.rows_dropped == 15
    assert_same(model, fit(by_hand((x > 0) & ~none, x=x), "y ~ log(x) + x"))
    # Both in one row: a row counts under each name that is a reason.
    data = pa.table({**FULL, "x": pa.array(x), "k": pa.array(K, mask=x < 0)})
    model = fit(data, "y ~ log(x) + k")
    assert model.dropped == {"log(x)": 10, "k": 10}
    assert model.statistics.rows_dropped == 10


def test_levels_of_dropped_rows_are_no_levels(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(holes(x=NO_X | (G == "z"))), "y ~ g*x")
    assert not any("z" in term for term in model.terms)
    assert model.design.categories[0].unused == ("z",)
    assert "g[T.z]" in fit(form(holes(x=NO_X)), "y ~ g*x").terms


def test_nan_is_missing_as_null_is(form: Callable[[pa.Table], Any]) -> None:
    table = by_hand(x=np.where(NO_X, np.nan, X))
    for formula in ("y ~ x + g", "y ~ x*g", "y ~ scale(x)"):
        model = fit(form(table), formula)
        assert_same(model, fit(holes(x=NO_X), formula))
        assert model.dropped == {"x": int(NO_X.sum())}


def test_weights_do_not_count_as_gaps_and_must_not_have_any() -> None:
    weight = RNG.integers(1, 4, N)
    model = fit(GAPPY.append_column("w", pa.array(weight)), "y ~ x*g", weights="w")
    gone = NO_X | NO_G
    assert_same(model, fit(by_hand(~gone, w=weight), "y ~ x*g", weights="w"))
    assert model.dropped == {"x": int(NO_X.sum()), "g": int(NO_G.sum())}
    gappy = GAPPY.append_column("w", pa.array(weight, mask=NO_K))
    words = refusal(gappy, "y ~ x*g", weights="w")
    assert "'w'" in words
    assert "missing" in words
    assert str(int(NO_K.sum())) in words


# error


def test_error_names_every_column_with_its_count(form: Callable[[pa.Table], Any]) -> None:
    words = refusal(form(GAPPY), "y ~ x*g + k", missing="error")
    for name, gaps in (("x", NO_X), ("g", NO_G), ("k", NO_K)):
        assert f"'{name}' {int(gaps.sum())}" in words
    # Gaps elsewhere are nobody's business.
    assert_same(fit(form(GAPPY), "y ~ z", missing="error"), fit(by_hand(), "y ~ z"))


def test_error_counts_what_a_function_has_no_value_for() -> None:
    words = refusal(by_hand(), "y ~ log(z)", missing="error")
    assert f"'log(z)' {int((Z < 0).sum())}" in words


@pytest.mark.parametrize("missing", ["drop", "error", "indicator", "fill=0"])
def test_infinite_is_not_missing(missing: str, form: Callable[[pa.Table], Any]) -> None:
    x = X.copy()
    x[[3, 77, 400]] = np.inf, -np.inf, np.inf
    words = refusal(form(by_hand(x=x)), "y ~ x + g", missing=missing)
    assert "'x'" in words
    assert "3 infinite values" in words
    assert "missing" not in words


def test_what_becomes_infinite_is_told_by_its_function() -> None:
    x = np.where(np.arange(N) < 4, 0.0, np.abs(X) + 1)
    words = refusal(by_hand(x=x), "y ~ log(x)")
    assert "'log(x)'" in words
    assert "4 infinite values" in words


# indicator


def test_a_factor_gets_a_level_missing_that_comes_last(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(holes(g=NO_G)), "y ~ g + x", missing="indicator")
    assert model.terms == ("Intercept", "g[T.b]", "g[T.z]", "g[T.missing]", "x")
    assert model.dropped == {}
    hand = by_hand(g=np.where(NO_G, "zzz", G))
    assert_same(model, fit(hand, "y ~ g + x"), {"g[T.zzz]": "g[T.missing]"})


def test_a_number_gets_its_mean_and_a_column_that_says_so(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(holes(x=NO_X)), "y ~ x + z + g", missing="indicator")
    assert sorted(model.terms) == sorted(
        ("Intercept", "x", "z", "g[T.b]", "g[T.z]", "isnull(x)[T.True]"), key=str
    ), "x alone has gaps"
    hand = by_hand(x=np.where(NO_X, X[~NO_X].mean(), X), m=NO_X)
    assert_same(model, fit(hand, "y ~ x + z + g + m"), {"m[T.True]": "isnull(x)[T.True]"})
    nan = fit(form(by_hand(x=np.where(NO_X, np.nan, X))), "y ~ x + z + g", missing="indicator")
    assert_same(nan, model)


@pytest.mark.parametrize(
    "formula",
    ["y ~ x*g", "y ~ scale(x) + g", "y ~ poly(x, 2)", "y ~ bs(x, df=4) + g", "y ~ k + x + log(k + 1)"],
)
def test_indicators_beside_functions_and_interactions(formula: str, form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(GAPPY), formula, missing="indicator")
    columns: dict[str, Any] = {
        "x": np.where(NO_X, X[~NO_X].mean(), X),
        "k": np.where(NO_K, K[~NO_K].mean(), K),
        "g": np.where(NO_G, "zzz", G),
        "mx": NO_X,
        "mk": NO_K,
    }
    hand = formula + " + mx" * ("x" in formula) + " + mk" * ("k" in formula)
    expected = fit(by_hand(**columns), hand)
    names = {"mx[T.True]": "isnull(x)[T.True]", "mk[T.True]": "isnull(k)[T.True]"}
    renamed = {names.get(t, t).replace("zzz", "missing"): place for place, t in enumerate(expected.terms)}
    assert set(model.terms) == set(renamed)
    order = [renamed[term] for term in model.terms]
    scale = np.maximum(np.abs(expected.params), expected.bse)[order]
    assert np.max(np.abs(model.params - expected.params[order]) / scale) <= 1e-9
    assert model.statistics.rows_used == N


def test_a_column_that_is_a_number_and_a_factor(form: Callable[[pa.Table], Any]) -> None:
    """Its gaps are the mean where it is a number, and the level "missing" where it is a factor."""
    few = np.minimum(K, 3)
    data = pa.table({**FULL, "k": pa.array(few, mask=NO_K)})
    model = fit(form(data), "y ~ C(k) + k:x", missing="indicator")
    assert [str(level) for level in model.design.categories[0].all_levels] == ["0", "1", "2", "3", "missing"]


def test_a_level_that_is_called_missing_already() -> None:
    data = pa.table({**FULL, "g": pa.array(np.where(G == "b", "missing", G), mask=NO_G)})
    model = fit(data, "y ~ g", missing="indicator")
    assert {"g[T.missing]", "g[T.(missing)]"} <= {
        *model.terms,
        f"g[T.{model.design.categories[0].reference}]",
    }


def test_no_gaps_no_indicators(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(by_hand()), "y ~ x + g + k", missing="indicator")
    assert_same(model, fit(by_hand(), "y ~ x + g + k"))


def test_an_unnamed_column_of_nulls_is_left_out_by_every_policy(form: Callable[[pa.Table], Any]) -> None:
    data = by_hand().append_column("void", pa.array([None] * N, pa.float64()))
    for missing in ("drop", "indicator", "fill=0"):
        model = streamlr.fit(form(data), target="y", missing=missing)
        assert "all null" in model.excluded["void"], missing
        assert not any("void" in term for term in model.terms)


# fill


def test_a_number_in_place_of_gaps(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(holes(x=NO_X, k=NO_K)), "y ~ x + k + g", missing="fill=2.5")
    assert_same(model, fit(by_hand(x=np.where(NO_X, 2.5, X), k=np.where(NO_K, 2.5, K)), "y ~ x + k + g"))
    assert model.dropped == {}


def test_a_level_in_place_of_gaps(form: Callable[[pa.Table], Any]) -> None:
    model = fit(form(holes(g=NO_G)), "y ~ g*x", missing="fill=b")
    assert_same(model, fit(by_hand(g=np.where(NO_G, "b", G)), "y ~ g*x"))
    new = fit(form(holes(g=NO_G)), "y ~ g + x", missing="fill=none")
    assert_same(new, fit(by_hand(g=np.where(NO_G, "none", G)), "y ~ g + x"))


def test_a_number_in_place_of_gaps_of_any_use(form: Callable[[pa.Table], Any]) -> None:
    few = np.minimum(K, 3)
    data = pa.table({**FULL, "x": pa.array(X, mask=NO_X), "k": pa.array(few, mask=NO_K)})
    formula = "y ~ cut(x, breaks=[-5, 2, 3, 9]) + C(k) + scale(x)"
    model = fit(form(data), formula, missing="fill=2")
    assert_same(model, fit(by_hand(x=np.where(NO_X, 2, X), k=np.where(NO_K, 2, few)), formula))
    beyond = fit(form(data), "y ~ C(k) + x", missing="fill=7")
    assert_same(beyond, fit(by_hand(x=np.where(NO_X, 7, X), k=np.where(NO_K, 7, few)), "y ~ C(k) + x"))


def test_a_word_does_not_fill_a_number(form: Callable[[pa.Table], Any]) -> None:
    words = refusal(form(GAPPY), "y ~ x + g", missing="fill=none")
    assert "'x'" in words
    assert "none" in words
    assert "number" in words
    assert f"{int(NO_X.sum())}" in words
    # Without gaps in numbers there is nothing to refuse.
    model = fit(form(holes(g=NO_G)), "y ~ x + g", missing="fill=none")
    assert "g[T.none]" in model.terms


@pytest.mark.parametrize("missing", ["", "mean", "fill", "fill=", "DROP"])
def test_policies_that_there_are_not(missing: str) -> None:
    words = refusal(GAPPY, "y ~ x", missing=missing)
    for policy in ("drop", "error", "indicator", "fill=VALUE"):
        assert policy in words
