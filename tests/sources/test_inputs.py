"""Every kind of input that holds the same rows gives the same model and the same scores.

One table is turned into each kind; the model of every kind is compared with plain Newton on arrays
(`maximum_likelihood`), so that all kinds cannot be wrong together. Differences are measured as
|Δ| / max(|b|, standard error): fits proved to 2e-13 standard errors may differ by twice that and by
the rounding of sums taken in another order, and 1e-12 leaves room for both.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import dask.bag
import dask.dataframe
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.errors import StreamlrError

TIGHT = 2e-13
SAME = 1e-12
TERMS = ["Intercept", "x", "k", "flag[T.True]", "g[T.b]", "g[T.é]", "c[T.v]", "c[T.w]"]
ROWS = 400


def make_table() -> pa.Table:
    """y (int64 0/1) and five features with nulls: x float, k int, flag bool, g and c text.

    `when` is a time and `one` a constant, so both are left out. x has nulls here and NaN in kinds
    that know no null.
    """
    rng = np.random.default_rng(20240229)
    x = rng.normal(3.0, 2.0, ROWS)
    k = rng.integers(-5, 6, ROWS)
    flag = rng.random(ROWS) < 0.4
    g = rng.choice(["a", "b", "é"], ROWS)
    c = rng.choice(["u", "v", "w"], ROWS)
    eta = -0.5 + 0.3 * (x - 3) - 0.1 * k + 0.6 * flag + 0.7 * (g == "b") - 0.4 * (c == "w")
    y = rng.random(ROWS) < 1 / (1 + np.exp(-eta))
    rows = np.arange(ROWS)
    return pa.table(
        {
            "y": pa.array(y.astype(np.int64)),
            "x": pa.array(x, mask=rows % 31 == 5),
            "k": pa.array(k, mask=rows % 37 == 6),
            "flag": pa.array(flag, mask=rows % 41 == 7),
            "g": pa.array(g, mask=(rows % 43 == 8) | (rows == 5)),  # row 5 lacks x as well
            "c": pa.array(c, mask=rows % 47 == 9),
            "when": pa.array([datetime.datetime(2024, 1, 1 + i % 28) for i in range(ROWS)]),
            "one": pa.array(np.ones(ROWS)),
        }
    )


def pandas_object(table: pa.Table) -> pd.DataFrame:
    frame = table.to_pandas()
    for name in ("g", "c", "flag"):
        frame[name] = pd.Series(table[name].to_pylist(), dtype=object)
    return frame


def pandas_str(table: pa.Table) -> pd.DataFrame:
    return pandas_object(table).astype({"g": "string", "c": "string"})


def pandas_category(table: pa.Table) -> pd.DataFrame:
    """g has its categories in another order, and one that no row has."""
    frame = pandas_object(table)
    frame["g"] = pd.Categorical(frame["g"], categories=["é", "never", "a", "b"])
    frame["c"] = frame["c"].astype("category")
    return frame


def pandas_nullable(table: pa.Table) -> pd.DataFrame:
    frame = pandas_object(table)
    return frame.astype({"k": "Int64", "flag": "boolean", "y": "Int8"})


def pandas_floats(table: pa.Table) -> pd.DataFrame:
    """Nulls as NaN everywhere: k is float64, the outcome 0.0 and 1.0."""
    frame = pandas_object(table)
    return frame.astype({"k": "float64", "y": "float64"})


def pandas_arrow(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def dict_of_arrays(table: pa.Table) -> dict[str, Any]:
    """NumPy arrays with NaN where there can be one, lists with None elsewhere."""
    arrays: dict[str, Any] = {name: table[name].to_pylist() for name in table.column_names}
    arrays["y"] = np.array(arrays["y"])
    arrays["x"] = table["x"].to_numpy()
    return arrays


def dictionary_table(table: pa.Table) -> pa.Table:
    for name in ("g", "c"):
        column = table[name].combine_chunks().dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def chunked(table: pa.Table) -> pa.Table:
    """Chunks of uneven length, one of them empty, each with a dictionary of its own."""
    borders = [0, 1, 1, 30, 257, ROWS]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(borders)]
    return pa.concat_tables([dictionary_table(piece) for piece in pieces])


def written(table: pa.Table, path: Path, rows: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def three_files(table: pa.Table, folder: Path) -> list[Path]:
    return [
        written(table.slice(a, b - a), folder / f"part-{a:03d}.parquet", 60)
        for a, b in [(0, 100), (100, 101), (101, ROWS)]
    ]


def csv_dataset(table: pa.Table, folder: Path) -> ds.Dataset:
    pa.csv.write_csv(table, folder / "data.csv")
    options = pa.csv.ConvertOptions(strings_can_be_null=True)
    return ds.dataset(folder / "data.csv", format=ds.CsvFileFormat(convert_options=options))


def in_partitions(frame: pd.DataFrame) -> Any:
    """Four partitions of uneven length, the third of them empty."""
    pieces = [frame.iloc[:50], frame.iloc[50:180], frame.iloc[:0], frame.iloc[180:]]
    return dask.dataframe.from_delayed([dask.delayed(piece) for piece in pieces], meta=frame.iloc[:0])


def dask_plain(table: pa.Table, convert: bool) -> Any:
    """With `convert`, which is dask's default, object columns become text, truth values too."""
    frame = pandas_object(table)
    if convert:
        frame = frame.astype({"flag": "boolean"})
    with dask.config.set({"dataframe.convert-string": convert}):
        return dask.dataframe.from_pandas(frame, npartitions=5, sort=False)


def dask_unknown_categories(table: pa.Table) -> Any:
    frame = in_partitions(pandas_nullable(table)).astype({"g": "category", "c": "category"})
    assert not frame["g"].cat.known
    return frame


def dask_known_categories(table: pa.Table) -> Any:
    frame = in_partitions(pandas_category(table).astype({"flag": "boolean"}))
    assert frame["g"].cat.known
    return frame


KINDS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "path as text": lambda t, f: str(written(t, f / "data.parquet")),
    "path": lambda t, f: written(t, f / "data.parquet", 37),
    "list of paths": three_files,
    "list of texts": lambda t, f: [str(path) for path in three_files(t, f)],
    "folder": lambda t, f: three_files(t, f / "in" / "side")[0].parent.parent,
    "glob": lambda t, f: three_files(t, f)[0].parent / "part-*.parquet",
    "parquet with dictionaries": lambda t, f: written(dictionary_table(t), f / "data.parquet", 50),
    "pandas object": lambda t, f: pandas_object(t),
    "pandas str": lambda t, f: pandas_str(t),
    "pandas default": lambda t, f: t.to_pandas(),
    "pandas category": lambda t, f: pandas_category(t),
    "pandas nullable": lambda t, f: pandas_nullable(t),
    "pandas floats": lambda t, f: pandas_floats(t),
    "pandas arrow": lambda t, f: pandas_arrow(t),
    "pandas with an index": lambda t, f: pandas_object(t).set_index(pd.Index(range(ROWS, 0, -1), name="i")),
    "polars": lambda t, f: pl.from_arrow(t),
    "polars categorical": lambda t, f: pl.from_arrow(t).with_columns(pl.col("g", "c").cast(pl.Categorical)),
    "polars enum": lambda t, f: pl.from_arrow(t).with_columns(
        pl.col("g").cast(pl.Enum(["é", "b", "a", "never"]))
    ),
    "arrow table": lambda t, f: t,
    "arrow chunks": lambda t, f: chunked(t),
    "arrow slice": lambda t, f: pa.concat_tables([t, t]).combine_chunks().slice(ROWS, ROWS),
    "arrow string view": lambda t, f: t.set_column(4, "g", t["g"].cast(pa.string_view())),
    "arrow large string": lambda t, f: t.set_column(4, "g", t["g"].cast(pa.large_string())),
    "record batch": lambda t, f: t.combine_chunks().to_batches()[0],
    "dataset of parquet": lambda t, f: ds.dataset([str(path) for path in three_files(t, f)]),
    "dataset of csv": csv_dataset,
    "dataset in memory": lambda t, f: ds.dataset(t),
    "dict of arrays": lambda t, f: dict_of_arrays(t),
    "dask object": lambda t, f: dask_plain(t, convert=False),
    "dask str": lambda t, f: dask_plain(t, convert=True),
    "dask empty partition": lambda t, f: in_partitions(pandas_nullable(t)),
    "dask known categories": lambda t, f: dask_known_categories(t),
    "dask unknown categories": lambda t, f: dask_unknown_categories(t),
}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return make_table()


@pytest.fixture(scope="module")
def expected(rows: pa.Table, maximum_likelihood: Callable[..., Any]) -> Any:
    """The maximum by plain Newton on the complete rows."""
    used = rows.drop_null()
    values = {name: np.array(used[name].to_pylist()) for name in used.column_names}
    X = np.column_stack(
        [
            np.ones(used.num_rows),
            values["x"],
            values["k"],
            values["flag"],
            values["g"] == "b",
            values["g"] == "é",
            values["c"] == "v",
            values["c"] == "w",
        ]
    ).astype(float)
    return X, maximum_likelihood(X, values["y"])


@pytest.fixture(params=KINDS)
def data(request: pytest.FixtureRequest, rows: pa.Table, tmp_path: Path) -> Iterator[Any]:
    with dask.config.set(scheduler="synchronous"):
        yield KINDS[request.param](rows, tmp_path)


@pytest.fixture(scope="module")
def fitted(rows: pa.Table) -> streamlr.Model:
    return fit(dictionary_table(rows))


def fit(data: Any, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, target="y", **{"tol": TIGHT, "threads": 2, **options})
    assert model.converged
    return model


def assert_is_maximum(model: streamlr.Model, expected: Any) -> None:
    X, reference = expected
    assert list(model.terms) == TERMS
    scale = np.maximum(np.abs(reference.coef), reference.std_error)
    assert np.max(np.abs(model.params - reference.coef) / scale) <= SAME
    assert np.max(np.abs(model.bse / reference.std_error - 1)) <= SAME
    assert model.llf == pytest.approx(reference.log_likelihood, rel=SAME, abs=0)
    assert model.nobs == len(X)


def test_same_model(data: Any, expected: Any, rows: pa.Table) -> None:
    model = fit(data)
    assert_is_maximum(model, expected)
    missing = {name: rows[name].null_count for name in ("x", "k", "flag", "g", "c")}
    assert dict(model.dropped) == missing
    assert model.glance()["rows_read"] == ROWS
    assert model.glance()["rows_dropped"] == ROWS - rows.drop_null().num_rows < sum(missing.values())
    assert set(model.excluded) == {"when", "one"}


def test_same_model_by_formula(data: Any, expected: Any) -> None:
    model = streamlr.fit(data, "y ~ x + k + flag + g + c", tol=TIGHT, threads=1)
    assert_is_maximum(model, expected)
    assert dict(model.excluded) == {}


def test_same_scores(data: Any, fitted: streamlr.Model, expected: Any, rows: pa.Table) -> None:
    scores = fitted.predict(data)
    complete = pc.and_kleene(rows["x"].is_valid(), rows["k"].is_valid())
    for name in ("flag", "g", "c"):
        complete = pc.and_kleene(complete, rows[name].is_valid())
    mask = np.array(complete.to_pylist())
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(scores), ~mask)
    X, reference = expected
    np.testing.assert_allclose(scores[mask], 1 / (1 + np.exp(-(X @ reference.coef))), rtol=1e-11)
    np.testing.assert_array_equal(scores, fitted.predict(rows))


# Schedulers of dask


@pytest.mark.parametrize("kind", ["dask object", "dask known categories", "dask unknown categories"])
def test_schedulers_agree_to_the_bit(kind: str, rows: pa.Table, tmp_path: Path, expected: Any) -> None:
    frame = KINDS[kind](rows, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        alone = fit(frame)
    with dask.config.set(scheduler="threads", num_workers=3):
        threaded = fit(frame)
    assert_is_maximum(threaded, expected)
    assert threaded.params.tobytes() == alone.params.tobytes()
    assert threaded.cov_params().tobytes() == alone.cov_params().tobytes()


def test_distributed_scheduler(rows: pa.Table, tmp_path: Path, expected: Any) -> None:
    from distributed import Client

    frame = KINDS["dask unknown categories"](rows, tmp_path)
    with dask.config.set(scheduler="synchronous"):
        alone = fit(frame)
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit=0):
        model = fit(frame)
        scores = model.predict(frame)
    assert_is_maximum(model, expected)
    assert model.params.tobytes() == alone.params.tobytes()
    np.testing.assert_array_equal(scores, alone.predict(rows))


def test_what_goes_to_workers_can_be_pickled(
    rows: pa.Table, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work and its sums, as they would travel to another process and back."""
    import cloudpickle

    from streamlr.passes import dask as dask_passes

    run = dask_passes.run_dask
    sent = 0

    def travelled(value: Any) -> Any:
        nonlocal sent
        sent += 1
        return cloudpickle.loads(cloudpickle.dumps(value))

    class Travelled:
        """A task that comes from afar and sends its results back."""

        def __init__(self, task: Any) -> None:
            self.task = travelled(task)
            self.columns = self.task.columns

        def __call__(self, parts: Any) -> Any:
            return travelled(self.task(parts))

    def run_far_away(parts: Any, task: Any, merge: Any) -> Any:
        return run(parts, Travelled(task), merge)

    monkeypatch.setattr(dask_passes, "run_dask", run_far_away)
    with dask.config.set(scheduler="synchronous"):
        model = fit(in_partitions(pandas_nullable(rows)))
    assert sent > 10
    assert_is_maximum(model, expected)


def test_columns_of_the_frame_that_arrow_does_not_know_do_no_harm(rows: pa.Table) -> None:
    """They are left out as other columns that cannot be used are, and a fit without them works."""
    frame = pandas_object(rows)
    frame["sparse"] = pd.arrays.SparseArray(np.arange(ROWS) % 7 == 0)
    model = streamlr.fit(frame, "y ~ x")
    assert model.terms == ("Intercept", "x")


# Streams that can be read once


def test_reader_that_can_be_read_once(rows: pa.Table, expected: Any) -> None:
    assert_is_maximum(fit(rows.to_reader(max_chunksize=61)), expected)


# What is no table


def scanner(table: pa.Table) -> Any:
    return ds.dataset(table).scanner()


UNSUPPORTED: dict[str, Callable[[pa.Table], Any]] = {
    "None": lambda t: None,
    "number": lambda t: 3,
    "bytes": lambda t: b"data.parquet",
    "array": lambda t: np.ones((5, 2)),
    "empty list": lambda t: [],
    "list of numbers": lambda t: [1, 2],
    "list of paths and numbers": lambda t: ["data.parquet", 1],
    "list of frames": lambda t: [t, t],
    "set": lambda t: {"data.parquet"},
    "generator": lambda t: (row for row in [1]),
    "class": lambda t: pd.DataFrame,
    "pandas series": lambda t: t["x"].to_pandas(),
    "pandas index": lambda t: pd.Index([1, 2]),
    "polars series": lambda t: pl.Series("x", [1.0]),
    "lazy polars frame": lambda t: pl.from_arrow(t).lazy(),
    "arrow array": lambda t: t["x"].combine_chunks(),
    "arrow chunked array": lambda t: t["x"],
    "arrow schema": lambda t: t.schema,
    "arrow scanner": scanner,
    "dask series": lambda t: dask.dataframe.from_pandas(t.to_pandas(), npartitions=2)["x"],
    "dask array": lambda t: dask.array.ones((4, 4)),
    "dask bag": lambda t: dask.bag.from_sequence([1, 2]),
    "dask delayed": lambda t: dask.delayed(t.to_pandas()),
    "dict of unequal lengths": lambda t: {"y": [0, 1, 1], "x": [1.0, 2.0]},
    "dict of numbers": lambda t: {"y": 1, "x": 2},
    "dict of matrices": lambda t: {"y": [0, 1], "x": np.ones((2, 2))},
    "dict of None": lambda t: {"y": None},
    "dict with numbers for names": lambda t: {1: [0, 1], 2: [1.0, 2.0]},
    "dict of objects": lambda t: {"y": [object(), object()], "x": [1.0, 2.0]},
    "empty dict": lambda t: {},
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_anything_else_is_refused(kind: str, rows: pa.Table) -> None:
    with pytest.raises(StreamlrError):
        streamlr.fit(UNSUPPORTED[kind](rows), target="y")


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_anything_else_is_refused_when_scoring(kind: str, rows: pa.Table, fitted: streamlr.Model) -> None:
    with pytest.raises(StreamlrError):
        fitted.predict(UNSUPPORTED[kind](rows))


def test_filtered_dataset_is_filtered_or_refused(rows: pa.Table) -> None:
    """pyarrow gives no fragments of it; what must not happen is a fit of all rows."""
    filtered = ds.dataset(rows).filter(ds.field("k") > 0)
    try:
        model = fit(filtered)
    except StreamlrError:
        return
    assert model.glance()["rows_read"] == rows.filter(pc.greater(rows["k"], 0)).num_rows


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.slice(0, 0),
        lambda t: t.slice(0, 0).to_pandas(),
        lambda t: pl.from_arrow(t.slice(0, 0)),
        lambda t: ds.dataset(t.slice(0, 0)),
        lambda t: dask.dataframe.from_pandas(pandas_object(t).iloc[:0], npartitions=1),
    ],
    ids=["arrow", "pandas", "polars", "dataset", "dask"],
)
def test_no_rows(make: Callable[[pa.Table], Any], rows: pa.Table) -> None:
    with pytest.raises(StreamlrError, match="no rows"):
        streamlr.fit(make(rows), target="y", features=["x"])


def test_two_columns_of_one_name(rows: pa.Table) -> None:
    twice = rows.append_column("x", rows["k"])
    with pytest.raises(StreamlrError, match="'x'"):
        streamlr.fit(twice, target="y")
    with pytest.raises(StreamlrError, match="x"):
        streamlr.fit(pd.DataFrame([[1, 2, 3]], columns=["y", "x", "x"]), target="y")


# Folders


def test_folder_reached_through_a_link(rows: pa.Table, tmp_path: Path, expected: Any) -> None:
    three_files(rows, tmp_path / "real")
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert_is_maximum(fit(tmp_path / "link"), expected)


def test_folder_linked_inside_the_folder_is_read(rows: pa.Table, tmp_path: Path) -> None:
    """Half of the data must not go missing without a word."""
    written(rows.slice(0, 200), tmp_path / "data" / "first.parquet")
    written(rows.slice(200), tmp_path / "elsewhere" / "second.parquet")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "more")
    assert fit(tmp_path / "data").glance()["rows_read"] == ROWS


def test_links_in_a_circle(rows: pa.Table, tmp_path: Path) -> None:
    written(rows, tmp_path / "data" / "a.parquet")
    os.symlink(tmp_path / "data", tmp_path / "data" / "again")
    os.symlink("self.parquet", tmp_path / "self.parquet")
    assert fit(tmp_path / "data").glance()["rows_read"] == ROWS
    with pytest.raises(StreamlrError, match=r"self\.parquet"):
        fit(tmp_path / "self.parquet")


def unreadable(path: Path) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def test_file_without_permission(rows: pa.Table, tmp_path: Path) -> None:
    path = written(rows, tmp_path / "secret.parquet")
    unreadable(path)
    with pytest.raises(StreamlrError, match=r"secret\.parquet.*[Pp]ermission"):
        fit(path)


def test_folder_without_permission_inside_the_folder(rows: pa.Table, tmp_path: Path) -> None:
    """Its files must not go missing without a word."""
    written(rows, tmp_path / "a.parquet")
    written(rows, tmp_path / "inner" / "b.parquet")
    unreadable(tmp_path / "inner")
    try:
        with pytest.raises(StreamlrError, match="inner"):
            fit(tmp_path)
    finally:
        (tmp_path / "inner").chmod(0o700)


def test_walk_errors_are_not_swallowed(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a user who may read everything: listing the inner folder fails."""
    written(rows, tmp_path / "a.parquet")
    written(rows, tmp_path / "inner" / "b.parquet")
    scandir = os.scandir

    def failing(path: Any = ".") -> Any:
        if os.fspath(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StreamlrError, match="inner"):
        fit(tmp_path)


def test_folder_named_like_a_file(rows: pa.Table, tmp_path: Path, expected: Any) -> None:
    written(rows, tmp_path / "x.parquet" / "data.parquet")
    assert_is_maximum(fit(tmp_path / "x.parquet"), expected)
    assert_is_maximum(fit(tmp_path), expected)


def test_name_with_glob_characters_is_the_file_itself(rows: pa.Table, tmp_path: Path, expected: Any) -> None:
    written(rows, tmp_path / "part[1]*.parquet")
    assert_is_maximum(fit(tmp_path / "part[1]*.parquet"), expected)


def test_same_file_twice_counts_twice(rows: pa.Table, tmp_path: Path) -> None:
    path = written(rows, tmp_path / "data.parquet")
    once, twice = fit(path), fit([path, path])
    np.testing.assert_allclose(twice.params, once.params, rtol=1e-10)
    np.testing.assert_allclose(twice.bse * np.sqrt(2), once.bse, rtol=1e-11)
    assert twice.nobs == 2 * once.nobs
