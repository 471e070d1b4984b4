"""What is counted of the rows before a design is frozen: rows used, missing values, levels, faults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.design.columns import coded_outcomes
from streamlr.errors import StreamlrError

N = 240
RNG = np.random.default_rng(77)
X = RNG.normal(size=N)
Z = RNG.normal(size=N)
G = RNG.choice(["a", "b", "c"], N)
Y = (RNG.random(N) < 1 / (1 + np.exp(-0.5 * X))).astype(np.int64)
ROWS = np.arange(N)


def holes(values: np.ndarray, rows: np.ndarray, how: str = "null") -> pa.Array:
    if how == "NaN":
        values = np.where(rows, np.nan, values)
        return pa.array(values, from_pandas=False)
    return pa.array(values, mask=rows)


def fit(**columns: Any) -> streamlr.Model:
    return streamlr.fit(pa.table({"y": Y, **columns}), target="y", tol=1e-12)


# Missing values


@pytest.mark.parametrize("how", ["null", "NaN"])
def test_null_and_nan_are_missing_alike(how: str) -> None:
    rows = ROWS % 9 == 2
    model = fit(x=holes(X, rows, how), z=Z)
    assert model.dropped == {"x": int(rows.sum())}
    alone = streamlr.fit({"y": Y[~rows], "x": X[~rows], "z": Z[~rows]}, target="y", tol=1e-12)
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-11)
    assert model.nobs == alone.nobs == N - rows.sum()


def test_null_and_nan_in_one_column() -> None:
    values = np.where(ROWS % 9 == 2, np.nan, X)
    model = fit(x=pa.array(values, mask=ROWS % 9 == 4, from_pandas=False))
    assert model.dropped == {"x": int(np.isin(ROWS % 9, [2, 4]).sum())}


def test_a_row_with_two_missing_columns_counts_under_both_and_once_in_total() -> None:
    in_x, in_g = ROWS % 10 == 3, ROWS % 15 == 3  # both in rows 3, 33, 63 ...
    both = int((in_x & in_g).sum())
    assert both > 0
    model = fit(x=holes(X, in_x), g=holes(G, in_g), z=Z)
    glance = model.glance()
    assert model.dropped == {"x": int(in_x.sum()), "g": int(in_g.sum())}
    assert glance["rows_dropped"] == sum(model.dropped.values()) - both
    assert glance["rows_read"] == N
    assert glance["rows_used"] == N - glance["rows_dropped"] == model.nobs


def test_missing_outcomes_offsets_and_trials_drop_their_rows() -> None:
    table = pa.table(
        {
            "y": holes(Y, ROWS % 11 == 1),
            "x": X,
            "o": holes(np.full(N, 0.1), ROWS % 13 == 2, "NaN"),
            "t": holes(np.full(N, 3), ROWS % 17 == 3),
        }
    )
    model = streamlr.fit(table, target="y", features=["x"], offset="o", trials="t")
    expected = {"y": ROWS % 11 == 1, "o": ROWS % 13 == 2, "t": ROWS % 17 == 3}
    assert model.dropped == {name: int(rows.sum()) for name, rows in expected.items()}
    assert model.glance()["rows_used"] == N - np.logical_or.reduce(list(expected.values())).sum()


def test_missing_in_columns_that_are_not_used_costs_nothing() -> None:
    model = streamlr.fit(pa.table({"y": Y, "x": X, "z": holes(Z, ROWS % 2 == 0)}), target="y", features=["x"])
    assert model.nobs == N
    assert dict(model.dropped) == {}


def test_missing_in_text_truth_and_dictionaries() -> None:
    rows = ROWS % 8 == 5
    for array in (
        holes(G, rows),
        holes(X > 0, rows),
        holes(G, rows).dictionary_encode(),
        pa.DictionaryArray.from_arrays(  # the null stands among the entries
            pa.array(np.where(rows, 3, np.searchsorted(["a", "b", "c"], G))), pa.array(["a", "b", "c", None])
        ),
        pa.DictionaryArray.from_arrays(  # a NaN among the entries
            pa.array(np.where(rows, 2, ROWS % 2)), pa.array([1.5, 2.5, np.nan])
        ),
    ):
        model = fit(v=array, x=X)
        assert model.dropped == {"v": int(rows.sum())}, array.type
        np.testing.assert_array_equal(np.isnan(model.predict({"x": X, "v": array})), rows)


def test_empty_text_is_a_level() -> None:
    model = fit(g=np.where(G == "a", "", G))
    assert model.terms == ("Intercept", "g[T.b]", "g[T.c]")
    assert model.design.categories[0].reference == ""


def test_missing_error_tells_the_counts() -> None:
    table = pa.table({"y": Y, "x": holes(X, ROWS % 9 == 2), "g": holes(G, ROWS < 4)})
    with pytest.raises(StreamlrError, match=r"'x' 27.*'g' 4"):
        streamlr.fit(table, target="y", missing="error")
    streamlr.fit(table.drop_null(), target="y", missing="error")


@pytest.mark.parametrize("how", ["null", "NaN"])
@pytest.mark.parametrize("in_file", [False, True])
def test_missing_error_sees_nan_that_no_footer_tells(how: str, in_file: bool, tmp_path: Any) -> None:
    table: Any = pa.table({"y": Y, "x": holes(X, ROWS % 9 == 2, how)})
    if in_file:
        pq.write_table(table, tmp_path / "data.parquet")
        table = tmp_path / "data.parquet"
    with pytest.raises(StreamlrError, match="'x' 27"):
        streamlr.fit(table, target="y", missing="error")


def test_no_rows_left() -> None:
    with pytest.raises(StreamlrError, match=r"no rows are left.*240"):
        fit(x=holes(X, ROWS % 2 == 0), z=holes(Z, ROWS % 2 == 1))
    with pytest.raises(StreamlrError, match=r"no rows are left.*240"):
        fit(x=holes(X, ROWS % 2 == 0, "NaN"), z=holes(Z, ROWS % 2 == 1, "NaN"))


# Levels are those of used rows


def test_level_of_dropped_rows_only_is_no_level() -> None:
    """c stands only in rows whose x is missing: no coefficient, listed as unused."""
    model = fit(x=holes(X, G == "c"), g=G)
    assert model.terms == ("Intercept", "x", "g[T.b]")
    (factor,) = model.design.categories
    assert factor.unused == ("c",)
    assert "c" in str(model.summary())


def test_reference_is_the_first_level_that_is_used() -> None:
    model = fit(x=holes(X, G == "a"), g=G)
    assert model.terms == ("Intercept", "x", "g[T.c]")
    assert model.design.categories[0].reference == "b"


@pytest.mark.parametrize("in_file", [False, True])
def test_levels_of_rows_dropped_for_nan_that_no_footer_tells(in_file: bool, tmp_path: Any) -> None:
    """NaN is found only when numbers are read, after the first look at the levels."""
    table: Any = pa.table({"y": Y, "x": holes(X, G == "a", "NaN"), "g": G})
    if in_file:
        pq.write_table(table, tmp_path / "data.parquet")
        table = tmp_path / "data.parquet"
    model = streamlr.fit(table, target="y")
    assert model.terms == ("Intercept", "x", "g[T.c]")
    assert model.design.categories[0].unused == ("a",)


def test_outcomes_are_those_of_used_rows() -> None:
    y = np.where(ROWS < 5, 2, Y)
    model = streamlr.fit(pa.table({"y": y, "x": holes(X, ROWS < 5)}), target="y")
    assert (model.design.negative, model.design.positive) == (0, 1)
    with pytest.raises(StreamlrError, match=r"1 value \(1\)"):
        streamlr.fit(pa.table({"y": Y, "x": holes(X, Y == 0)}), target="y")
    with pytest.raises(StreamlrError, match=r"1 value \(1\)"):
        streamlr.fit(pa.table({"y": Y, "x": holes(X, Y == 0, "NaN")}), target="y")


def test_dictionary_with_one_entry_twice() -> None:
    """Arrow allows it; both codes are one level."""
    entries = pa.array(["b", "a", "b", "c"])
    codes = np.where(G == "a", 1, np.where(G == "c", 3, np.where(ROWS % 2 == 0, 0, 2)))
    model = fit(g=pa.DictionaryArray.from_arrays(pa.array(codes), entries))
    np.testing.assert_allclose(model.params, fit(g=G).params, rtol=1e-11)
    assert model.terms == ("Intercept", "g[T.b]", "g[T.c]")


def test_slices_of_arrow_arrays_begin_where_they_should() -> None:
    """Offsets into shared buffers, also in the bits of truth values and of nulls."""
    twice = {"y": np.r_[1 - Y, Y], "x": np.r_[Z, X], "b": np.r_[X > 0, Z > 0], "g": np.r_[G[::-1], G]}
    arrays = {name: pa.array(values) for name, values in twice.items()}
    arrays["x"] = pa.array(twice["x"], mask=np.arange(2 * N) % 7 == 3)
    arrays["g"] = arrays["g"].dictionary_encode()
    for start in (N, N + 1, N + 3, N + 13):
        sliced = pa.table({name: array.slice(start, N - 20) for name, array in arrays.items()})
        fresh = pa.Table.from_pylist(sliced.to_pylist(), sliced.schema)
        left, right = streamlr.fit(sliced, target="y"), streamlr.fit(fresh, target="y")
        assert left.terms == right.terms
        assert left.params.tobytes() == right.params.tobytes()
        assert left.dropped == right.dropped


# Weights and faults


def test_a_row_of_weight_zero_counts_as_used() -> None:
    """Its level is a level (without an estimate, as R's NA), its missing values are missing."""
    weight = np.where(G == "c", 0.0, 1.0 + ROWS % 3)
    table = pa.table({"y": Y, "x": holes(X, ROWS == 7), "g": G, "w": weight})
    model = streamlr.fit(table, target="y", weights="w", tol=1e-12)
    assert model.glance()["rows_used"] == N - 1
    assert model.dropped == {"x": 1}
    assert [row["term"] for row in model.tidy().to_pylist()] == ["Intercept", "x", "g[T.b]", "g[T.c]"]
    assert list(model.aliased) == ["g[T.c]"]
    keep = (G != "c") & (ROWS != 7)
    rest = streamlr.fit(
        {"y": Y[keep], "x": X[keep], "g": G[keep], "w": weight[keep]}, target="y", weights="w", tol=1e-12
    )
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-10)
    assert model.nobs == rest.nobs == weight[keep].sum()


def test_reference_level_of_weight_zero_stays_the_reference() -> None:
    """As in R, where levels are not dropped for their weights; the next level is then aliased."""
    weight = np.where(G == "a", 0, 1)
    model = streamlr.fit({"y": Y, "g": G, "w": weight}, target="y", weights="w")
    assert model.design.categories[0].reference == "a"
    assert len(model.params) == 2
    assert len(model.aliased) == 1


def test_outcome_of_weight_zero_only() -> None:
    with pytest.raises(StreamlrError, match="weight zero"):
        streamlr.fit({"y": Y, "x": X, "w": Y.astype(float)}, target="y", weights="w")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, "negative in 3 rows"),
        (np.nan, "missing.* in 3 rows"),
        (None, "missing.* in 3 rows"),
        (np.inf, "infinite"),
        (-np.inf, "negative in 3 rows"),
        (0.5, "not a whole number.* in 3 rows"),
    ],
)
def test_faulty_weights(value: float | None, words: str) -> None:
    weight = [value] * 3 + [1.0] * (N - 3)
    with pytest.raises(StreamlrError, match=f"'w'.*{words}"):
        streamlr.fit({"y": Y, "x": X, "w": pa.array(weight)}, target="y", weights="w")


def test_all_weights_zero() -> None:
    with pytest.raises(StreamlrError, match=r"'w' is zero in all 240 rows"):
        streamlr.fit({"y": Y, "x": X, "w": np.zeros(N)}, target="y", weights="w")


@pytest.mark.parametrize("role", ["feature", "offset", "target", "trials"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities(role: str, value: float) -> None:
    v = np.where(ROWS < 3, value, 1.0 + ROWS % 2)
    data: dict[str, Any] = {"y": Y, "x": X, "v": v}
    options: dict[str, Any] = {"target": "y", "features": ["x"]}
    if role == "feature":
        options["features"] = ["x", "v"]
    elif role == "target":
        options = {"target": "v", "features": ["x"]}
    else:
        options[role] = "v"
    with pytest.raises(StreamlrError, match="'v'"):
        streamlr.fit(data, **options)


def test_infinities_count_in_used_rows_only() -> None:
    x = np.where(ROWS < 3, np.inf, X)
    model = fit(x=x, z=holes(Z, ROWS < 3))
    assert model.nobs == N - 3
    with pytest.raises(StreamlrError, match=r"'x' has 2 infinite values"):
        fit(x=x, z=holes(Z, ROWS < 1))
    with pytest.raises(StreamlrError, match=r"'x' has 2 infinite values"):
        fit(x=x, z=holes(Z, ROWS < 1, "NaN"))


@pytest.mark.parametrize(
    ("successes", "trials", "words"),
    [
        (1.5, 3.0, "'y' is not a whole number"),
        (1.0, 2.5, "'t' is not a whole number"),
        (-1.0, 3.0, "'y' is negative"),
        (4.0, 3.0, "'y' has more successes than 't'"),
    ],
)
def test_faulty_counts(successes: float, trials: float, words: str) -> None:
    y, t = Y.astype(float), np.full(N, 3.0)
    y[:2], t[:2] = successes, trials
    with pytest.raises(StreamlrError, match=f"{words}.* in 2 rows"):
        streamlr.fit({"y": y, "t": t, "x": X}, target="y", trials="t")


@pytest.mark.parametrize(("y", "none"), [(np.zeros(N), "success"), (np.full(N, 3), "failure")])
def test_counts_of_one_kind_only(y: np.ndarray, none: str) -> None:
    with pytest.raises(StreamlrError, match=f"no {none}"):
        streamlr.fit({"y": y, "t": np.full(N, 3), "x": X}, target="y", trials="t")


# Sizes that no double squares


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_parts_that_meet_the_outcomes_in_another_order(order: str, tmp_path: Any) -> None:
    """One file begins with outcome 1, the other with 0 or has only one of them; a level is one-sided."""
    sort = {"a": np.argsort(-Y[:100], kind="stable"), "b": 100 + np.argsort(Y[100:], kind="stable")}
    g = G.astype("U4")
    g[sort["b"][:5]] = "down"
    g[sort["a"][:5]] = "up"
    for number, name in enumerate(order):
        rows = sort[name]
        pq.write_table(pa.table({"y": Y[rows], "g": g[rows]}), tmp_path / f"{number}.parquet")
    zeros = np.flatnonzero(Y == 0)[:20]
    pq.write_table(pa.table({"y": Y[zeros], "g": ["c"] * 20}), tmp_path / "2.parquet")
    model = streamlr.fit(tmp_path, target="y", threads=1)
    assert model.separation is not None
    terms = model.separation["terms"]
    assert [(term["term"], term["direction"]) for term in terms] == [("g[T.down]", -1), ("g[T.up]", 1)]
    for name, count in (("down", 5), ("up", 5)):
        assert (g == name).sum() == count
    assert model.separation["rows_separated"] == 10


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_outcomes_of_a_small_range_are_coded_without_hashing(kind: str) -> None:
    top = np.iinfo(kind).max
    for values in ([top, top - 3, top], [0, 1, 1], [5], [0, top], []):
        array = pa.array(np.array(values, dtype=kind))
        assert coded_outcomes(array).to_pylist() == values
        assert coded_outcomes(array[1:]).to_pylist() == values[1:]
    assert len(coded_outcomes(pa.array(np.array([1, 3], dtype=kind))).dictionary) == 3  # 2 is no row's


def test_other_outcomes_are_coded_by_what_they_are() -> None:
    for values in ([1, None, 2], [0.0, 1.0], ["a", "b"], [True, False]):
        assert coded_outcomes(pa.array(values)).to_pylist() == values
