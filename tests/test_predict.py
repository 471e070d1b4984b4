"""Scoring: the frozen design serves new rows whatever their types, order, blocks or form.

Expected scores are the formula 1 / (1 + exp(-Xb)) on arrays where it is exact enough, and scores of
the same rows in another form, which must agree to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.errors import StreamlrError

N = 400
RNG = np.random.default_rng(31)
X = RNG.integers(-8, 9, N) / 4.0  # held exactly by every float
K = RNG.integers(0, 10, N)
G = RNG.choice(["a", "b", "é"], N)
B = RNG.random(N) < 0.4
H = RNG.integers(0, 3, N)
ETA = -0.3 + 0.5 * X - 0.1 * K + 0.6 * (G == "b") + 0.4 * B
Y = (RNG.random(N) < 1 / (1 + np.exp(-ETA))).astype(np.int64)
ROWS = np.arange(N)
DATA = {"x": X, "k": K, "g": G, "b": B, "h": H}


@pytest.fixture(scope="module")
def model() -> streamlr.Model:
    return streamlr.fit({"y": Y, **DATA}, target="y", categorical=["h"])


@pytest.fixture(scope="module")
def scores(model: streamlr.Model) -> np.ndarray:
    return model.predict(DATA)


def scored_file(model: streamlr.Model, data: Any, tmp_path: Path, **options: Any) -> np.ndarray:
    """Scores by way of a file, NaN for null; a NaN in the file itself is a fault."""
    path = tmp_path / "scores.parquet"
    rows, unscored = streamlr.predict(model, data, path, **options)
    column = pq.read_table(path)["probability"]
    values = column.to_pylist()
    assert not any(value is not None and value != value for value in values)
    assert (rows, unscored) == (len(values), column.null_count)
    return np.array([np.nan if value is None else value for value in values])


def assert_bits(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isnan(left), np.isnan(right))
    known = ~np.isnan(left)
    assert left[known].tobytes() == right[known].tobytes()


def test_the_formula(model: streamlr.Model, scores: np.ndarray) -> None:
    columns = [np.ones(N), X, K, G == "b", G == "é", B, H == 1, H == 2]
    assert model.terms == (
        "Intercept",
        "x",
        "k",
        "g[T.b]",
        "g[T.é]",
        "b[T.True]",
        "C(h)[T.1]",
        "C(h)[T.2]",
    )
    eta = np.column_stack(columns).astype(float) @ model.params
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-eta)), rtol=1e-13)


def test_mean_of_scores_is_the_share_of_ones(scores: np.ndarray) -> None:
    """What the intercept of a maximum-likelihood fit makes exact."""
    assert scores.mean() == pytest.approx(Y.mean(), rel=1e-12)


# Forms of the same rows


def test_file_and_array_agree_to_the_bit(model: streamlr.Model, scores: np.ndarray, tmp_path: Path) -> None:
    pq.write_table(pa.table(DATA), tmp_path / "data.parquet", row_group_size=37)
    path = tmp_path / "data.parquet"
    assert_bits(model.predict(path), scores)
    assert_bits(streamlr.predict(model, path), scores)
    for threads in (1, 3):
        assert_bits(scored_file(model, path, tmp_path, threads=threads), scores)
    assert_bits(scored_file(model, pa.table(DATA), tmp_path), scores)
    assert_bits(scored_file(model, DATA, tmp_path), scores)


def test_order_of_columns_and_further_columns(model: streamlr.Model, scores: np.ndarray) -> None:
    backwards = {name: DATA[name] for name in reversed(DATA)}
    assert_bits(model.predict({"more": ["?"] * N, **backwards, "y": [None] * N}), scores)


FORMS: dict[str, dict[str, Any]] = {
    "float32": {"x": X.astype(np.float32), "k": K.astype(np.float32)},
    "float16": {"x": X.astype(np.float16)},
    "integers as floats": {"k": K.astype(float), "h": H.astype(float)},
    "narrow integers": {"k": K.astype(np.int8), "h": H.astype(np.uint64)},
    "decimals": {"x": pa.array([Decimal(str(value)) for value in X])},
    "numbers as text": {"x": [repr(float(value)) for value in X]},
    "text as dictionary": {"g": pa.array(G).dictionary_encode()},
    "text as category": {"g": pd.Categorical(G, categories=["é", "zz", "b", "a"])},
    "large text": {"g": pa.array(G).cast(pa.large_string())},
    "text view": {"g": pa.array(G).cast(pa.string_view())},
    "truth as 0 and 1": {"b": B.astype(np.int8)},
    "truth as dictionary": {"b": pa.array(B).dictionary_encode()},
    "levels as dictionary": {"h": pa.array(H).dictionary_encode()},
    "levels as decimals": {"h": pa.array([Decimal(int(value)) for value in H], pa.decimal128(5, 2))},
}


@pytest.mark.parametrize("form", FORMS)
def test_types_may_differ_from_those_of_the_fit(
    form: str, model: streamlr.Model, scores: np.ndarray, tmp_path: Path
) -> None:
    data = {name: pa.array(values) for name, values in {**DATA, **FORMS[form]}.items()}
    assert_bits(model.predict(pa.table(data)), scores)
    assert_bits(scored_file(model, pa.table(data), tmp_path), scores)


@pytest.mark.parametrize("start", [0, 1, 199, N - 1])
def test_one_row_scores_as_it_does_among_all(start: int, model: streamlr.Model, scores: np.ndarray) -> None:
    one = {name: values[start : start + 1] for name, values in DATA.items()}
    assert_bits(model.predict(one), scores[start : start + 1])


def test_any_cut_gives_the_same_bits(model: streamlr.Model, scores: np.ndarray) -> None:
    """Rows fall on other places of a tile, and tiles have other lengths."""
    many = {name: np.tile(values, 12) for name, values in DATA.items()}
    assert_bits(model.predict(many), np.tile(scores, 12))
    for start, stop in [(0, 3), (1, 5), (7, 22), (100, 131), (13, N)]:
        piece = {name: values[start:stop] for name, values in DATA.items()}
        assert_bits(model.predict(piece), scores[start:stop])


def test_one_row_of_many_numbers_scores_as_it_does_among_all() -> None:
    """Wide rows, whose sums could be taken in another order for other lengths."""
    wide = RNG.normal(size=(41, 300))
    data = {f"x{j}": column for j, column in enumerate(wide)}
    wide_model = streamlr.fit({"y": RNG.integers(0, 2, 300), **data}, target="y")
    everything = wide_model.predict(data)
    for row in (0, 5, 299):
        assert_bits(
            wide_model.predict({name: values[row : row + 1] for name, values in data.items()}),
            everything[row : row + 1],
        )


def test_no_rows(model: streamlr.Model, tmp_path: Path) -> None:
    empty = pa.table(DATA).slice(0, 0)
    assert model.predict(empty).shape == (0,)
    assert scored_file(model, empty, tmp_path).shape == (0,)
    pq.write_table(empty, tmp_path / "empty.parquet")
    assert model.predict(tmp_path / "empty.parquet").shape == (0,)


# Rows that cannot be scored


@pytest.mark.parametrize("column", list(DATA))
def test_null_is_not_scored(column: str, model: streamlr.Model, scores: np.ndarray, tmp_path: Path) -> None:
    rows = ROWS % 7 == 3
    data = pa.table({**DATA, column: pa.array(DATA[column], mask=rows)})
    expected = np.where(rows, np.nan, scores)
    assert_bits(model.predict(data), expected)
    assert_bits(scored_file(model, data, tmp_path), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value: float, model: streamlr.Model, scores: np.ndarray) -> None:
    rows = ROWS % 7 == 3
    assert_bits(model.predict({**DATA, "x": np.where(rows, value, X)}), np.where(rows, np.nan, scores))


def test_infinite_offset_is_not_scored() -> None:
    data = {"x": X, "o": np.zeros(N)}
    fitted = streamlr.fit({"y": Y, **data}, target="y", offset="o")
    for value in (np.inf, -np.inf, np.nan):
        out = fitted.predict({"x": X, "o": np.where(ROWS < 2, value, 0.0)})
        assert np.isnan(out[:2]).all()
        assert_bits(out[2:], fitted.predict(data)[2:])


@pytest.mark.parametrize(
    ("column", "values"), [("g", "never seen"), ("h", 7), ("h", -1), ("g", ""), ("g", "A"), ("g", "a ")]
)
def test_unseen_level_is_not_scored(
    column: str, values: Any, model: streamlr.Model, scores: np.ndarray, tmp_path: Path
) -> None:
    rows = ROWS % 7 == 3
    other = DATA[column].astype(object).copy()
    other[rows] = values
    data = {**DATA, column: pa.array(other.tolist())}
    expected = np.where(rows, np.nan, scores)
    assert_bits(model.predict(data), expected)
    assert_bits(scored_file(model, data, tmp_path), expected)


def test_column_that_is_all_null(model: streamlr.Model) -> None:
    for column in DATA:
        assert np.isnan(model.predict(pa.table({**DATA, column: pa.nulls(N)}))).all()
        kind = pa.array(DATA[column]).type
        assert np.isnan(model.predict(pa.table({**DATA, column: pa.nulls(N, kind)}))).all()


def test_file_tells_how_many_rows_were_not_scored(model: streamlr.Model, tmp_path: Path) -> None:
    data = pa.table({**DATA, "x": pa.array(X, mask=ROWS < 5)})
    assert streamlr.predict(model, data, tmp_path / "scores.parquet") == (N, 5)


# Levels without an estimate


def sure(**others: Any) -> dict[str, Any]:
    g = G.astype("U4").copy()
    g[np.flatnonzero(Y == 1)[:9]] = "up"
    g[np.flatnonzero(Y == 0)[:7]] = "down"
    return {"x": X, "g": g, **others}


def test_levels_set_aside_score_their_limit(tmp_path: Path) -> None:
    data = sure()
    fitted = streamlr.fit({"y": Y, **data}, target="y")
    for scored in (fitted.predict(data), scored_file(fitted, data, tmp_path)):
        assert set(scored[data["g"] == "up"]) == {1.0}
        assert set(scored[data["g"] == "down"]) == {0.0}
        others = scored[~np.isin(data["g"], ["up", "down"])]
        assert ((others > 0) & (others < 1)).all()


def test_a_level_set_aside_beside_a_missing_value_is_not_scored() -> None:
    data = sure()
    fitted = streamlr.fit({"y": Y, **data}, target="y")
    out = fitted.predict({"x": [np.nan, 0.0], "g": ["up", "up"]})
    assert np.isnan(out[0])
    assert out[1] == 1.0


def test_levels_set_aside_that_contradict_each_other_are_not_scored() -> None:
    data = sure(f=np.where(np.flatnonzero(Y == 0)[20] == ROWS, "no", np.where(ROWS % 2 == 0, "p", "q")))
    fitted = streamlr.fit({"y": Y, **data}, target="y")
    out = fitted.predict({"x": [0.0] * 3, "g": ["up", "up", "down"], "f": ["no", "p", "no"]})
    assert np.isnan(out[0])
    assert out[1:].tolist() == [1.0, 0.0]


def test_aliased_columns_change_no_score() -> None:
    data = {"x": X, "k": K, "sum": X + K}
    aliased = streamlr.fit({"y": Y, **data}, target="y", tol=1e-12)
    plain = streamlr.fit({"y": Y, "x": X, "k": K}, target="y", tol=1e-12)
    np.testing.assert_allclose(aliased.predict(data), plain.predict(data), rtol=1e-11)


def test_level_that_was_unused_in_the_fit_is_not_scored() -> None:
    table = pa.table({"y": Y, "x": pa.array(X, mask=G == "b"), "g": G})
    out = streamlr.fit(table, target="y").predict({"x": X, "g": G})
    np.testing.assert_array_equal(np.isnan(out), G == "b")


# Digits


@pytest.mark.parametrize("mean", [1e6, 1e9, 1e12])
@pytest.mark.parametrize("reloaded", [False, True])
def test_a_column_far_from_zero_keeps_its_digits(mean: float, reloaded: bool, tmp_path: Path) -> None:
    """x + mean is exact, so the scores are those of x; coefficients in units of the column cancel."""
    near = streamlr.fit({"y": Y, "x": X}, target="y", tol=1e-12)
    far = streamlr.fit({"y": Y, "x": X + mean}, target="y", tol=1e-12)
    if reloaded:
        far.save(tmp_path / "model.json")
        far = streamlr.load(tmp_path / "model.json")
    np.testing.assert_allclose(far.predict({"x": X + mean}), near.predict({"x": X}), rtol=1e-11)
    assert far.params[1] == pytest.approx(near.params[1], rel=1e-10)


def test_float32_model_scores_doubles_as_doubles() -> None:
    fitted = streamlr.fit({"y": Y, "x": X.astype(np.float32)}, target="y")
    fine = X + 1e-10
    eta = fitted.params[0] + fitted.params[1] * fine
    np.testing.assert_allclose(fitted.predict({"x": fine}), 1 / (1 + np.exp(-eta)), rtol=1e-14)
    assert not np.array_equal(fitted.predict({"x": fine}), fitted.predict({"x": X}))


def test_tails_keep_relative_precision() -> None:
    fitted = streamlr.fit({"y": Y, "x": X}, target="y")
    a, b = (float(value) for value in fitted.params)
    x = np.array([-1_400.0, -700.0, -80.0, 80.0])
    np.testing.assert_allclose(fitted.predict({"x": x})[:3], np.exp(a + b * x[:3]), rtol=1e-10)


def test_offset_of_the_fit_is_added_when_scoring() -> None:
    o = RNG.normal(size=N)
    fitted = streamlr.fit({"y": Y, "x": X, "o": o}, target="y", offset="o")
    eta = fitted.params[0] + fitted.params[1] * X + o
    np.testing.assert_allclose(fitted.predict({"x": X, "o": o}), 1 / (1 + np.exp(-eta)), rtol=1e-13)
    with pytest.raises(StreamlrError, match="'o'"):
        fitted.predict({"x": X})


def test_weights_and_trials_are_not_needed() -> None:
    data = {"y": Y, "x": X, "w": np.ones(N), "t": np.full(N, 2)}
    fitted = streamlr.fit(data, target="y", weights="w", trials="t")
    assert fitted.predict({"x": X}).shape == (N,)


def test_columns_left_out_are_not_needed() -> None:
    """Constants found while fitting are left out of the model, so new rows need not have them."""
    data = {"y": Y, "x": X, "one": np.ones(N), "when": ROWS.astype("M8[s]"), "text": ["k"] * N}
    fitted = streamlr.fit(data, target="y")
    assert set(fitted.excluded) == {"one", "when", "text"}
    assert_bits(fitted.predict({"x": X}), streamlr.fit({"y": Y, "x": X}, target="y").predict({"x": X}))


# What can be wrong


def test_all_missing_columns_are_listed(model: streamlr.Model, tmp_path: Path) -> None:
    for scoring in (model.predict, lambda data: streamlr.predict(model, data, tmp_path / "s.parquet")):
        with pytest.raises(StreamlrError) as caught:
            scoring({"x": X, "gg": G, "K": K})
        for name in ("'k'", "'g'", "'b'", "'h'"):
            assert name in str(caught.value)
        assert "'x'" not in str(caught.value)
    assert os.listdir(tmp_path) == []
    with pytest.raises(StreamlrError, match="Did you mean 'K'"):
        model.predict({**{name: DATA[name] for name in "xgbh"}, "K": K})


def test_column_missing_from_one_file(model: streamlr.Model, tmp_path: Path) -> None:
    table = pa.table(DATA)
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    pq.write_table(table.drop_columns(["k"]), tmp_path / "data" / "b.parquet")
    with pytest.raises(StreamlrError, match=r"b\.parquet.*'k'"):
        model.predict(tmp_path / "data")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("x", ["many"] * N),
        ("x", ROWS.astype("M8[s]")),
        ("k", [[1]] * N),
        ("g", ROWS.astype("M8[s]")),
        ("b", [b"yes"] * N),
    ],
)
def test_types_that_cannot_be_scored(column: str, values: Any, model: streamlr.Model, tmp_path: Path) -> None:
    data = pa.table({**DATA, column: pa.array(values)})
    with pytest.raises(StreamlrError, match=f"'{column}'"):
        model.predict(data)
    with pytest.raises(StreamlrError, match=f"'{column}'"):
        streamlr.predict(model, data, tmp_path / "scores.parquet")
    assert os.listdir(tmp_path) == []


KEPT: dict[str, Any] = {
    "time": pa.array(ROWS.astype("M8[us]")),
    "list": pa.array([[1, 2]] * N),
    "struct": pa.array([{"a": 1}] * N),
    "binary": pa.array([b"\0"] * N),
    "null": pa.nulls(N),
    "dictionary": pa.array(G).dictionary_encode(),
    "decimal": pa.array([Decimal("1.5")] * N),
    "huge": pa.array([2**64 - 1] * N, pa.uint64()),
    "view": pa.array(G).cast(pa.string_view()),
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("in_file", [False, True])
def test_kept_columns_of_any_type(
    kind: str, in_file: bool, model: streamlr.Model, scores: np.ndarray, tmp_path: Path
) -> None:
    data: Any = pa.table({**DATA, "kept": KEPT[kind]})
    if in_file:
        pq.write_table(data, tmp_path / "data.parquet", row_group_size=50)
        data = tmp_path / "data.parquet"
    assert_bits(scored_file(model, data, tmp_path, keep=["kept"]), scores)
    kept = pq.read_table(tmp_path / "scores.parquet")["kept"]
    assert kept.to_pylist() == KEPT[kind].to_pylist()


def test_kept_columns_of_the_model_itself(model: streamlr.Model, scores: np.ndarray, tmp_path: Path) -> None:
    data = pa.table({**DATA, "g": pa.array(G).dictionary_encode()})
    pq.write_table(data, tmp_path / "data.parquet", row_group_size=50)
    assert_bits(scored_file(model, tmp_path / "data.parquet", tmp_path, keep=["g", "x"]), scores)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == ["g", "x", "probability"]
    assert table["g"].to_pylist() == G.tolist()


def test_a_column_kept_twice_is_written_once_or_refused(model: streamlr.Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    try:
        streamlr.predict(model, DATA, path, keep=["x", "x"])
    except StreamlrError:
        return
    assert pq.read_table(path).column_names == ["x", "probability"]


@pytest.mark.parametrize("keep", [["zz"], ["probability"]])
def test_columns_that_cannot_be_kept(keep: list[str], model: streamlr.Model, tmp_path: Path) -> None:
    with pytest.raises(StreamlrError, match=keep[0]):
        streamlr.predict(model, {**DATA, "probability": X}, tmp_path / "scores.parquet", keep=keep)
    assert os.listdir(tmp_path) == []


def test_output_over_its_own_input_is_refused_or_whole(
    model: streamlr.Model, scores: np.ndarray, tmp_path: Path
) -> None:
    """The data must not be replaced by their scores without a word."""
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(DATA), path)
    with pytest.raises(StreamlrError, match=r"data\.parquet"):
        streamlr.predict(model, path, path)
    assert_bits(model.predict(path), scores)


def test_failure_while_scoring_leaves_nothing(
    model: streamlr.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.parquet").write_text("old")
    pq.write_table(pa.table(DATA), tmp_path / "a.parquet", row_group_size=100)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:1_500] = b"\xff" * 1_496
    (tmp_path / "a.parquet").write_bytes(bytes(content))
    with pytest.raises(StreamlrError, match=r"a\.parquet"):
        streamlr.predict(model, tmp_path / "a.parquet", out / "scores.parquet")
    assert os.listdir(out) == ["scores.parquet"]
    assert (out / "scores.parquet").read_text() == "old"


def test_dask_frame_into_a_file(model: streamlr.Model, scores: np.ndarray, tmp_path: Path) -> None:
    dd: Callable[..., Any] = pytest.importorskip("dask.dataframe").from_pandas
    import dask

    with dask.config.set(scheduler="synchronous"):
        frame = dd(pd.DataFrame(DATA), npartitions=3, sort=False)
        assert_bits(scored_file(model, frame, tmp_path), scores)
        assert_bits(model.predict(frame), scores)
