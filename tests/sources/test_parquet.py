"""What a Parquet file can hold and how files differ: none of it changes the model.

The expected model is plain Newton on arrays (`maximum_likelihood`); values are chosen so that every
type holds them exactly. Differences are |Δ| / max(|b|, standard error), see test_inputs.py.
"""

from __future__ import annotations

import datetime as dt
import os
import pickle
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamlr
from streamlr.design.where import parse_where
from streamlr.errors import StreamlrError
from streamlr.events import Progress
from streamlr.sources import parquet
from streamlr.sources.base import ColumnStatistics
from streamlr.sources.open import open_source

TIGHT = 2e-13
SAME = 1e-12
N = 360


class Truth:
    """y (n,) 0/1, x (n,) in 0, 1/2 ... 9/2, whole (n,) in 0..9 and g (n,) of three texts."""

    rng = np.random.default_rng(99)
    x = rng.integers(0, 10, N) / 2.0
    whole = rng.integers(0, 10, N)
    g = rng.choice(["a", "b", "c"], N)
    y = (rng.random(N) < 1 / (1 + np.exp(-(0.4 * x - 0.9 + 0.6 * (g == "b"))))).astype(np.int8)


@pytest.fixture(autouse=True)
def read_by_kernels_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """As files of more rows are; test_column_chunks.py compares kernels with Arrow."""
    monkeypatch.setattr(parquet, "KERNEL_ROWS", 1)


def fit(data: Any, features: list[str] | None = None, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, target="y", features=features, **{"tol": TIGHT, "threads": 2, **options})
    assert model.converged
    return model


@pytest.fixture
def same(maximum_likelihood: Callable[..., Any]) -> Callable[..., None]:
    """same(model, columns, y): the model is the maximum for an intercept and these columns."""

    def check(model: streamlr.Model, columns: dict[str, np.ndarray], y: np.ndarray = Truth.y) -> None:
        X = np.column_stack([np.ones(len(y)), *columns.values()]).astype(float)
        reference = maximum_likelihood(X, y)
        assert list(model.terms) == ["Intercept", *columns]
        scale = np.maximum(np.abs(reference.coef), reference.std_error)
        assert np.max(np.abs(model.params - reference.coef) / scale) <= SAME
        assert np.max(np.abs(model.bse / reference.std_error - 1)) <= SAME
        assert model.nobs == len(y)

    return check


def dummies(values: np.ndarray, name: str, levels: list[Any]) -> dict[str, np.ndarray]:
    return {f"{name}[T.{level}]": values == level for level in levels}


def columns_of(**columns: Any) -> pa.Table:
    return pa.table({"y": Truth.y, **columns})


# Types


WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("kind", WHOLE, ids=str)
def test_integers(kind: pa.DataType, nulls: bool, parquet: Any, same: Any) -> None:
    mask = (np.arange(N) % 7 == 3) & nulls
    path = parquet(columns_of(v=pa.array(Truth.whole, kind, mask=mask)), rows_per_group=100)
    model = fit(path)
    same(model, {"v": Truth.whole[~mask]}, Truth.y[~mask])
    assert np.array_equal(np.isnan(model.predict(path)), mask)


@pytest.mark.parametrize("nulls", [None, "null", "NaN"])
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_floats(kind: pa.DataType, nulls: str | None, parquet: Any, same: Any) -> None:
    mask = (np.arange(N) % 7 == 3) & (nulls is not None)
    values = np.where(mask & (nulls == "NaN"), np.nan, Truth.x).astype(kind.to_pandas_dtype())
    array = pa.array(values, kind, mask=mask if nulls == "null" else None)
    model = fit(parquet(columns_of(v=array), rows_per_group=100))
    same(model, {"v": Truth.x[~mask]}, Truth.y[~mask])
    assert dict(model.dropped) == ({"v": int(mask.sum())} if nulls else {})


DECIMALS = [pa.decimal32(6, 1), pa.decimal64(14, 2), pa.decimal128(30, 4), pa.decimal256(60, 9)]


@pytest.mark.parametrize("kind", DECIMALS, ids=str)
def test_decimals(kind: pa.DataType, parquet: Any, same: Any) -> None:
    mask = np.arange(N) % 7 == 3
    values = [None if hole else Decimal(str(value)) for hole, value in zip(mask, Truth.x, strict=True)]
    path = parquet(columns_of(v=pa.array(values, kind)), rows_per_group=100)
    same(fit(path), {"v": Truth.x[~mask]}, Truth.y[~mask])


def test_decimals_as_levels(parquet: Any, same: Any) -> None:
    values = [Decimal(int(value)) / 4 for value in Truth.whole % 3]
    path = parquet(columns_of(v=pa.array(values, pa.decimal128(9, 2))))
    levels = dummies(Truth.whole % 3 / 4, "C(v)", [0.25, 0.5])
    same(fit(path, ["v"], categorical=["v"]), levels)


def test_truth_values(parquet: Any, same: Any) -> None:
    path = parquet(columns_of(v=pa.array(Truth.x > 2)), rows_per_group=77)
    same(fit(path), {"v[T.True]": Truth.x > 2})
    same(fit(path, ["v"], numeric=["v"]), {"v": Truth.x > 2})


TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "dictionary of string": pa.dictionary(pa.int32(), pa.string()),
    "dictionary of large_string": pa.dictionary(pa.int8(), pa.large_string()),
    "string_view": pa.string_view(),
}


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind: str, nulls: bool, parquet: Any, same: Any) -> None:
    mask = (np.arange(N) % 7 == 3) & nulls
    array = pa.array(Truth.g, pa.string(), mask=mask).cast(TEXTS[kind])
    model = fit(parquet(columns_of(v=array), rows_per_group=100))
    same(model, dummies(Truth.g[~mask], "v", ["b", "c"]), Truth.y[~mask])


@pytest.mark.parametrize("kind", TEXTS)
def test_text_as_outcome(kind: str, parquet: Any, same: Any) -> None:
    y = pa.array(np.where(Truth.y == 1, "yes", "no")).cast(TEXTS[kind])
    model = fit(parquet(pa.table({"y": y, "v": Truth.x}), rows_per_group=100))
    same(model, {"v": Truth.x})
    assert model.design.positive == "yes"


def test_dictionary_of_integers_is_a_factor(same: Any) -> None:
    """A category of whole numbers in pandas. A Parquet file stores its numbers only: there it is a number."""
    codes = pa.array(Truth.whole % 3, pa.int8())
    table = columns_of(v=pa.DictionaryArray.from_arrays(codes, pa.array([10, 9, 100])))
    model = fit(table)
    values = np.array([10, 9, 100])[Truth.whole % 3]
    same(model, dummies(values, "v", [10, 100]))


def test_unused_categories_of_pandas(parquet: Any, same: Any, tmp_path: Path) -> None:
    """They are no levels, and no rows are missed for them; the order of categories is not that of levels."""
    category = pd.Categorical(Truth.g, categories=["c", "zz", "b", "a", "aa"], ordered=True)
    path = tmp_path / "data.parquet"
    pd.DataFrame({"y": Truth.y, "v": category}).to_parquet(path)
    model = fit(path)
    same(model, dummies(Truth.g, "v", ["b", "c"]))
    assert "zz" not in str(model.tidy().to_pylist())


# Layout of files


@pytest.mark.parametrize("rows_per_group", [1, 7, 359, 360])
def test_row_groups_of_any_size(rows_per_group: int, parquet: Any, same: Any) -> None:
    table = columns_of(v=Truth.x, g=Truth.g)
    path = parquet(table, rows_per_group=rows_per_group)
    assert pq.ParquetFile(path).num_row_groups == -(-N // rows_per_group)
    same(fit(path), {"v": Truth.x, **dummies(Truth.g, "g", ["b", "c"])})


def test_empty_row_groups_and_empty_files(tmp_path: Path, same: Any) -> None:
    table = columns_of(v=Truth.x, g=Truth.g)
    with pq.ParquetWriter(tmp_path / "b.parquet", table.schema) as writer:
        for start, stop in [(0, 0), (0, 100), (100, 100), (100, N), (N, N)]:
            writer.write_table(table.slice(start, stop - start))
    pq.write_table(table.slice(0, 0), tmp_path / "a.parquet")
    pq.ParquetWriter(tmp_path / "c.parquet", table.schema).close()  # no row group at all
    assert pq.ParquetFile(tmp_path / "c.parquet").num_row_groups == 0
    same(fit(tmp_path), {"v": Truth.x, **dummies(Truth.g, "g", ["b", "c"])})
    assert fit(tmp_path).predict(tmp_path).shape == (N,)


def test_level_in_the_last_row_group_only(parquet: Any, same: Any) -> None:
    g = Truth.g.copy().astype("U12")
    late = np.arange(N) >= N - 20
    g[late] = "0 the first"  # sorts before all others, so it is the reference
    y = Truth.y.copy()
    y[late] = np.arange(20) % 2
    path = parquet(pa.table({"y": y, "g": g}), rows_per_group=20)
    same(fit(path), dummies(g, "g", ["a", "b", "c"]), y)


def test_dictionaries_that_differ_from_file_to_file(tmp_path: Path, same: Any) -> None:
    """Twelve files; each has its own order of entries, and entries that it does not use."""
    rng = np.random.default_rng(5)
    for number in range(12):
        rows = slice(number * 30, (number + 1) * 30)
        entries = rng.permutation(["a", "b", "c", "d", f"only {number}"])
        codes = [int(np.flatnonzero(entries == level)[0]) for level in Truth.g[rows]]
        v = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(entries))
        pq.write_table(pa.table({"y": Truth.y[rows], "v": v}), tmp_path / f"{number:02d}.parquet")
    same(fit(tmp_path), dummies(Truth.g, "v", ["b", "c"]))
    batches = [pq.read_table(path) for path in sorted(tmp_path.iterdir())]
    same(fit(pa.concat_tables(batches)), dummies(Truth.g, "v", ["b", "c"]))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_dictionary_pages_that_fall_back_to_plain_ones(version: str, tmp_path: Path, same: Any) -> None:
    """Half of the pages are codes, the others plain text, in one column chunk."""
    table = columns_of(v=[f"a long text that fills the dictionary page: {level}" for level in Truth.g])
    long = pa.concat_tables([table] * 30)
    path = tmp_path / "data.parquet"
    pq.write_table(
        long,
        path,
        dictionary_pagesize_limit=64,
        data_page_size=256,
        write_batch_size=16,
        data_page_version=version,
        row_group_size=2_000,
    )
    encodings = pq.ParquetFile(path).metadata.row_group(0).column(1).encodings
    assert "PLAIN" in encodings
    assert "RLE_DICTIONARY" in encodings
    levels = [f"a long text that fills the dictionary page: {level}" for level in "bc"]
    values = np.array(long["v"].to_pylist())
    same(fit(path), dummies(values, "v", levels), np.tile(Truth.y, 30))


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": False},
        {"compression": "zstd"},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"write_statistics": False},
        {"store_schema": False},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
        {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
        {"use_dictionary": False, "use_byte_stream_split": ["v"]},
        {"write_page_checksum": True},
        {"write_page_index": True, "version": "1.0"},
    ],
    ids=str,
)
def test_ways_to_write(options: dict[str, Any], tmp_path: Path, same: Any) -> None:
    table = columns_of(v=pa.array(Truth.x, mask=np.arange(N) < 0), g=Truth.g)
    if options.get("column_encoding"):
        options = {**options, "column_encoding": {"g": options["column_encoding"]}}
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=50, **options)
    same(fit(tmp_path / "data.parquet"), {"v": Truth.x, **dummies(Truth.g, "g", ["b", "c"])})


def test_columns_in_another_order_in_every_file(tmp_path: Path, same: Any) -> None:
    table = columns_of(v=Truth.x, g=Truth.g)
    pq.write_table(table.slice(0, 90), tmp_path / "a.parquet")
    pq.write_table(table.slice(90).select(["g", "v", "y"]), tmp_path / "b.parquet")
    same(fit(tmp_path), {"v": Truth.x, **dummies(Truth.g, "g", ["b", "c"])})


def test_names_with_dots_beside_nested_columns(parquet: Any, same: Any) -> None:
    """A flat column `s.t` and the child t of a struct s have one path in the file."""
    table = pa.table({"y": Truth.y, "s.t": Truth.x, "s": pa.array([{"t": 7.0}] * N), "s.t.u": Truth.whole})
    model = fit(parquet(table))
    same(model, {"s.t": Truth.x, "s.t.u": Truth.whole})
    assert set(model.excluded) == {"s"}


# Schemas that meet


def two_files(tmp_path: Path, first: pa.Array, second: pa.Array) -> Path:
    cut = len(first)
    pq.write_table(pa.table({"y": Truth.y[:cut], "v": first}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"y": Truth.y[cut:], "v": second}), tmp_path / "two.parquet")
    return tmp_path


NUMBERS = [
    (pa.int32(), pa.int64()),
    (pa.int64(), pa.uint8()),
    (pa.int8(), pa.float32()),
    (pa.float32(), pa.float64()),
    (pa.float16(), pa.float64()),
    (pa.int64(), pa.float64()),
    (pa.decimal128(9, 2), pa.float64()),
    (pa.decimal128(9, 2), pa.decimal128(20, 5)),
    (pa.int32(), pa.decimal128(9, 2)),
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kinds", NUMBERS, ids=lambda kinds: "+".join(map(str, kinds)))
def test_numbers_are_promoted(
    kinds: tuple[pa.DataType, ...], swapped: bool, tmp_path: Path, same: Any
) -> None:
    first, second = kinds[::-1] if swapped else kinds

    def typed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        as_python: list[Any] = [Decimal(int(v)) if pa.types.is_decimal(kind) else int(v) for v in values]
        return pa.array(as_python, kind)

    path = two_files(tmp_path, typed(Truth.whole[:100], first), typed(Truth.whole[100:], second))
    same(fit(path), {"v": Truth.whole})


def test_float32_beside_float64_keeps_every_digit(tmp_path: Path, same: Any) -> None:
    """The second file's values are no float32: blocks must not be narrowed after the first file."""
    x = Truth.x + 1e-9 * Truth.whole
    x[:100] = Truth.x[:100]
    path = two_files(tmp_path, pa.array(x[:100], pa.float32()), pa.array(x[100:]))
    model = fit(path)
    same(model, {"v": x})
    one = Truth.x.copy()
    scores = model.predict({"v": x})
    assert not np.array_equal(scores, model.predict({"v": one}))
    np.testing.assert_array_equal(model.predict(path), scores)


@pytest.mark.parametrize("swapped", [False, True])
def test_levels_of_promoted_numbers_have_one_name(swapped: bool, tmp_path: Path, same: Any) -> None:
    """int32 in one file and float64 in the other is a float64 column; its levels are called so."""
    values = Truth.whole % 3
    kinds = (pa.float64(), pa.int32()) if swapped else (pa.int32(), pa.float64())
    path = two_files(tmp_path, pa.array(values[:100], kinds[0]), pa.array(values[100:], kinds[1]))
    model = fit(path, ["v"], categorical=["v"])
    assert list(model.terms) == ["Intercept", "C(v)[T.1.0]", "C(v)[T.2.0]"]


@pytest.mark.parametrize(
    "kinds",
    [
        (pa.string(), pa.large_string()),
        (pa.string(), pa.dictionary(pa.int32(), pa.string())),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string())),
        (pa.string(), pa.string_view()),
    ],
    ids=str,
)
def test_texts_are_promoted(kinds: tuple[pa.DataType, pa.DataType], tmp_path: Path, same: Any) -> None:
    texts = pa.array(Truth.g)
    path = two_files(tmp_path, texts.slice(0, 100).cast(kinds[0]), texts.slice(100).cast(kinds[1]))
    same(fit(path), dummies(Truth.g, "v", ["b", "c"]))


@pytest.mark.parametrize("kind", [pa.float64(), pa.int32(), pa.string(), pa.bool_()], ids=str)
def test_file_in_which_the_column_is_all_null(kind: pa.DataType, tmp_path: Path, same: Any) -> None:
    """Arrow calls its type null; the rows are missing and the other file tells the type."""
    values = {"string": Truth.g, "bool": Truth.x > 2}.get(str(kind), Truth.whole)
    path = two_files(tmp_path, pa.nulls(100), pa.array(values[100:], kind))
    model = fit(path)
    assert model.dropped == {"v": 100}
    assert model.nobs == N - 100
    if str(kind) == "string":
        same(model, dummies(values[100:], "v", ["b", "c"]), Truth.y[100:])


CONFLICTS = [
    (pa.array(["a"] * 100), pa.array(Truth.x[100:])),
    (pa.array(Truth.x[:100] > 1), pa.array(Truth.x[100:])),
    (pa.array(Truth.x[:100] > 1), pa.array(["a"] * (N - 100))),
    (pa.array(Truth.x[:100]), pa.array(np.arange(N - 100), pa.timestamp("us"))),
    (pa.array([{"a": 1}] * 100), pa.array(Truth.x[100:])),
]


@pytest.mark.parametrize("number", range(len(CONFLICTS)))
def test_types_with_nothing_in_common_name_both_files(number: int, tmp_path: Path) -> None:
    path = two_files(tmp_path, *CONFLICTS[number])
    with pytest.raises(StreamlrError) as caught:
        fit(path)
    for word in ("'v'", "one.parquet", "two.parquet"):
        assert word in str(caught.value)


def test_same_name_twice_in_one_file(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([0, 1]), pa.array([1, 2]), pa.array([3, 4])], ["y", "v", "v"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(StreamlrError, match=r"twice\.parquet.*'v'"):
        fit(tmp_path / "twice.parquet")


# Folders with key=value


def hive(tmp_path: Path, key: str, values: list[str]) -> Path:
    """As many files as values, each with its share of the rows."""
    size = N // len(values)
    for number, value in enumerate(values):
        rows = slice(number * size, (number + 1) * size)
        folder = tmp_path / "hive" / f"{key}={value}"
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.table({"y": Truth.y[rows], "v": Truth.x[rows]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=17)
    return tmp_path / "hive"


def rows_of(values: list[Any]) -> np.ndarray:
    return np.repeat(np.array(values), N // len(values))


def in_order(path: Path) -> np.ndarray:
    """Row numbers in the order in which files are read."""
    files = [Path(file) for file in open_source(path).origin]
    size = N // len(files)
    return np.concatenate([np.arange(size) + int(file.stem) * size for file in files])


def test_hive_folders_of_texts(tmp_path: Path, same: Any) -> None:
    path = hive(tmp_path, "k", ["b", "a", "c"])
    order = in_order(path)
    k = rows_of(["b", "a", "c"])
    same(fit(path), {"v": Truth.x[order], **dummies(k[order], "k", ["b", "c"])}, Truth.y[order])


def test_hive_folders_of_integers_are_numbers(tmp_path: Path, same: Any) -> None:
    path = hive(tmp_path, "k", ["10", "9", "-2"])
    order = in_order(path)
    k = rows_of([10, 9, -2])
    same(fit(path), {"v": Truth.x[order], "k": k[order]}, Truth.y[order])
    levels = dummies(k[order], "C(k)", [9, 10])
    same(fit(path, ["k"], categorical=["k"]), levels, Truth.y[order])


@pytest.mark.parametrize("values", [["01", "2", "3"], ["1.5", "2", "3"], ["1", "x", "3"], ["1e3", "2", "3"]])
def test_hive_folders_that_are_not_all_integers_are_texts(
    values: list[str], tmp_path: Path, same: Any
) -> None:
    path = hive(tmp_path, "k", values)
    order = in_order(path)
    k = rows_of(values)[order]
    same(fit(path, ["k"]), dummies(k, "k", sorted(values)[1:]), Truth.y[order])


@pytest.mark.parametrize("values", [["a", "b"], ["3", "7"]])
def test_hive_folder_of_nulls(values: list[str], tmp_path: Path) -> None:
    path = hive(tmp_path, "k", [*values, "__HIVE_DEFAULT_PARTITION__"])
    model = fit(path)
    assert model.dropped == {"k": N // 3}
    assert list(model.terms) == ["Intercept", "v", "k" if values == ["3", "7"] else "k[T.b]"]
    order = in_order(path)
    assert np.array_equal(np.isnan(model.predict(path)), order >= 2 * N // 3)


def test_hive_values_are_unquoted_from_their_url_form(tmp_path: Path) -> None:
    path = hive(tmp_path, "k", ["a%2Fb", "c d", "%C3%A9"])
    assert list(fit(path, ["k"]).terms) == ["Intercept", "k[T.c d]", "k[T.é]"]


def test_hive_column_as_outcome(tmp_path: Path) -> None:
    for value in (0, 1):
        folder = tmp_path / f"y={value}"
        folder.mkdir()
        v = Truth.x[Truth.y == value]
        pq.write_table(pa.table({"v": v}), folder / "data.parquet")
    x = np.concatenate([Truth.x[Truth.y == 0], Truth.x[Truth.y == 1]])
    model, plain = fit(tmp_path), fit({"y": np.sort(Truth.y), "v": x})
    np.testing.assert_allclose(model.params, plain.params, rtol=1e-11)


def test_folders_of_different_kinds_are_refused(tmp_path: Path) -> None:
    path = hive(tmp_path, "k", ["a", "b"])
    pq.write_table(columns_of(v=Truth.x), path / "loose.parquet")
    with pytest.raises(StreamlrError, match="k="):
        fit(path)


def test_names_that_begin_with_underscore_or_dot_are_skipped(tmp_path: Path) -> None:
    table = columns_of(v=Truth.x)
    for name in (
        "a.parquet",
        "_b.parquet",
        ".c.parquet",
        "_d/e.parquet",
        ".f/g.parquet",
        "h.txt",
        "i.PARQUET",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    assert [Path(p).name for p in open_source(tmp_path).origin] == ["a.parquet", "i.PARQUET"]


# Time and size


@pytest.mark.parametrize("phase", ["profile", "pass"])
def test_file_changed_between_passes(phase: str, parquet: Any) -> None:
    """Rewritten with other rows after the first look at it; the footer is remembered, the bytes are not."""
    path = parquet(columns_of(v=pa.array(Truth.x, mask=np.arange(N) == 3), g=Truth.g), rows_per_group=40)
    other = columns_of(v=Truth.x[::-1].copy(), g=Truth.g)
    changed = False

    def change(event: Any) -> None:
        nonlocal changed
        if isinstance(event, Progress) and event.phase == phase and not changed:
            changed = True
            pq.write_table(other, path)

    try:
        model = fit(path, on_event=change, threads=1)
    except StreamlrError as error:
        assert changed
        assert "changed" in str(error)
        assert "data.parquet" in str(error)
    else:  # kept in memory since the first pass, so nothing of the new file was read
        assert changed
        assert phase == "pass"
        assert model.nobs == N - 1


def test_file_that_went_between_passes(parquet: Any) -> None:
    path = parquet(columns_of(v=Truth.x, g=Truth.g))

    def remove(event: Any) -> None:
        if isinstance(event, Progress) and path.exists():
            path.unlink()

    with pytest.raises(StreamlrError, match=r"data\.parquet"):
        fit(path, on_event=remove, threads=1)


def test_file_touched_between_passes_is_noticed_by_its_time(parquet: Any) -> None:
    path = parquet(columns_of(v=Truth.x, g=Truth.g))
    (part,) = open_source(path).parts
    assert sum(batch.num_rows for batch in part.read(["y"], [], 100)) == N
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))
    with pytest.raises(StreamlrError, match="changed"):
        list(part.read(["y"], [], 100))


def test_one_giant_row_group_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300,000 rows of ten doubles in one row group are 24 MB; reading them holds a small part of that."""
    monkeypatch.setattr("streamlr.sources.parquet.WHOLE_BYTES", 10_000_000)
    n = 300_000
    rng = np.random.default_rng(3)
    v = {f"v{j}": rng.normal(size=n) for j in range(10)}
    y = (rng.random(n) < 1 / (1 + np.exp(-0.5 * v["v0"]))).astype(np.int8)
    g = rng.choice(["a", "b", "c"], n)
    path = tmp_path / "giant.parquet"
    pq.write_table(pa.table({"y": y, **v, "g": g}), path, row_group_size=n, use_dictionary=["g"])
    assert pq.ParquetFile(path).num_row_groups == 1
    names = ["y", *v, "g"]
    before = pa.total_allocated_bytes()
    rows = most = 0
    for part in open_source(path).parts:
        for batch in part.read(names, ["g"], 8_192):
            assert batch.num_rows <= 8_192
            assert batch.schema.names == names
            rows += batch.num_rows
            most = max(most, pa.total_allocated_bytes() - before)
    assert rows == n
    # Eleven read buffers of 1 MB, pages of 1 MB on top of some, and a batch of 0.7 MB.
    assert most < 20e6
    model = fit(path, tol=1e-8)
    assert model.nobs == n
    assert abs(model.params[1] - 0.5) < 5 * model.bse[1]


@pytest.mark.parametrize("columns", [1, 8, 9, 30])
def test_a_part_read_as_a_whole_is_what_it_is_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Numbers and codes, columns in another order than in the file, several row groups in one part."""
    rng = np.random.default_rng(columns)
    n = 3_000
    table = pa.table(
        {f"v{j}": rng.normal(size=n) for j in range(columns)} | {"g": rng.choice(["a", "b", "c"], n)}
    )
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=700)
    (part,) = open_source(tmp_path / "data.parquet").parts
    names = [*reversed(table.column_names)]
    whole = list(part.read(names, ["g"], 500))
    assert part.held_rows(names, 500) == n
    monkeypatch.setattr("streamlr.sources.parquet.WHOLE_BYTES", 0)
    pieces = list(part.read(names, ["g"], 500))
    assert part.held_rows(names, 500) == 1_000
    assert max(batch.num_rows for batch in pieces) <= 500
    plain = [
        pa.Table.from_batches(batches).set_column(
            0, "g", pa.Table.from_batches(batches)["g"].cast(pa.string())
        )
        for batches in (whole, pieces)
    ]
    assert plain[0].equals(plain[1])
    assert plain[0].equals(table.select(names))


@pytest.mark.parametrize("swapped", [False, True])
def test_large_unsigned_beside_signed_integers_keep_their_sign(swapped: bool, tmp_path: Path) -> None:
    """No integer type holds both uint64 and int32; read as int64 the large ones would be negative."""
    large = Truth.whole.astype(np.uint64) << np.uint64(60)  # 0 to 9 times 2**60, beyond 2**63
    cut = 100
    first, second = pa.array(large[:cut]), pa.array(Truth.whole[cut:].astype(np.int32))
    values = np.where(np.arange(N) < cut, Truth.whole * 2.0**60, Truth.whole)
    y = Truth.y
    if swapped:
        (tmp_path / "in").mkdir()
        pq.write_table(pa.table({"y": y[cut:], "v": second}), tmp_path / "in" / "a.parquet")
        pq.write_table(pa.table({"y": y[:cut], "v": first}), tmp_path / "in" / "b.parquet")
        path = tmp_path / "in"
    else:
        path = two_files(tmp_path, first, second)
    try:
        model = fit(path, tol=1e-10)
    except StreamlrError as error:
        assert "'v'" in str(error)
        return
    expected = fit({"y": y, "v": values}, tol=1e-10)
    np.testing.assert_allclose(model.params, expected.params, rtol=1e-8)


# Row groups that a filter rules out


def groups_left(source: Any, text: str) -> tuple[Any, list[tuple[int, ...]]]:
    """The filtered source, and the row groups of its parts."""
    remaining = source.where(parse_where(text, source.schema, "data").expression())
    return remaining, [part.groups for part in remaining.parts]


def rows_kept(source: Any, text: str) -> list[dict[str, Any]]:
    """The rows of a source that a filter keeps, read part by part in small batches."""
    where = parse_where(text, source.schema, "data")
    names = source.schema.names
    coded = [field.name for field in source.schema if pa.types.is_string(field.type)]
    return [
        row
        for part in source.parts
        for batch in part.read(names, coded, 3)
        for row, kept in zip(batch.to_pylist(), where.mask(batch), strict=True)
        if kept
    ]


def test_row_groups_are_left_out_by_their_footers(parquet: Any) -> None:
    table = pa.table(
        {"v": range(60), "g": [f"{row // 20}" for row in range(60)], "w": [None] * 30 + [1] * 30}
    )
    source = open_source(parquet(table, rows_per_group=10))
    for text, left in [
        ("v >= 25", [2, 3, 4, 5]),
        ("v < 25 and g = '1'", [2]),
        ("v = 3 or v = 57", [0, 5]),
        ("v in (3, 44) and g != '0'", [4]),
        ("not v between 10 and 49", [0, 5]),
        ("w is null", [0, 1, 2]),
        ("w is not null", [3, 4, 5]),
        ("v > 1000", []),
        ("v is null", []),
    ]:
        remaining, groups = groups_left(source, text)
        assert groups == ([tuple(left)] if left else []), text
        assert (remaining.row_groups, remaining.row_groups_skipped) == (len(left), 6 - len(left))
        assert remaining.rows == 10 * len(left)
        assert rows_kept(remaining, text) == rows_kept(source, text)
    assert (source.row_groups, source.row_groups_skipped, source.rows) == (6, 0, 60)


def test_codes_and_views_do_not_keep_others_from_ruling_out(parquet: Any) -> None:
    """Arrow tells no range of codes, but the rest of the condition still counts."""
    texts = pa.array([f"{row // 10}" for row in range(30)])
    table = pa.table({"v": range(30), "c": texts.dictionary_encode(), "w": texts.cast(pa.string_view())})
    source = open_source(parquet(table, rows_per_group=10))
    for test in ("c = '1'", "c in ('1', '2')", "c not in ('2')", "c < '2'", "c is not null"):
        assert groups_left(source, f"v between 5 and 15 and {test}")[1] == [(0, 1)], test
    for test in ("w = '1'", "w in ('1', '5')", "w not in ('2', '0')", "w > '0' and w < '2'"):
        assert 1 in groups_left(source, test)[1][0], test
    assert groups_left(source, "w = '1'")[1] == [(1,)]


def test_statistics_are_those_of_the_row_groups_that_remain(parquet: Any, tmp_path: Path) -> None:
    table = pa.table({"v": range(60), "w": [None] * 30 + [1] * 30})
    source = open_source(parquet(table, rows_per_group=10))
    assert source.statistics("v") == ColumnStatistics(0, 0, 59)
    remaining, _ = groups_left(source, "v between 12 and 35")
    assert remaining.statistics("v") == ColumnStatistics(0, 10, 39)
    assert remaining.statistics("w") == ColumnStatistics(20, 1, 1)
    nothing, _ = groups_left(source, "v > 100")
    assert nothing.statistics("v") == ColumnStatistics(0)
    assert (nothing.rows, list(nothing.parts)) == (0, [])
    folders = open_source(hive(tmp_path, "k", ["1", "2", "3"]))
    assert groups_left(folders, "k >= 2")[0].statistics("k") == ColumnStatistics(0, 2, 3)
    assert groups_left(folders, "k > 3")[0].statistics("k") == ColumnStatistics(0)


def test_filters_follow_one_another(parquet: Any) -> None:
    source = open_source(parquet(pa.table({"v": range(60)}), rows_per_group=10))
    first, _ = groups_left(source, "v < 5 or v > 35")
    second, groups = groups_left(first, "v < 45")
    assert groups == [(0, 3, 4)]
    assert second.row_groups_skipped == 3


def test_parts_join_row_groups_that_are_not_neighbours(parquet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders of parts depend on the data and the filter; each part goes to another process."""
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 20)
    source = open_source(parquet(pa.table({"v": [0, 1] * 5 + [2] * 10, "u": range(20)}), rows_per_group=5))
    assert [part.groups for part in source.parts] == [(0, 1, 2, 3)]
    table = pa.table({"v": np.arange(100) // 10 % 2, "u": range(100)})
    source = open_source(parquet(table, name="other.parquet", rows_per_group=10))
    remaining, groups = groups_left(source, "v = 1")
    assert groups == [(1, 3), (5, 7), (9,)]
    parts = pickle.loads(pickle.dumps(list(remaining.parts)))
    assert [part.rows for part in parts] == [20, 20, 10]
    for whole_bytes in (0, 1_000_000):
        monkeypatch.setattr("streamlr.sources.parquet.WHOLE_BYTES", whole_bytes)
        read = [u for part in parts for batch in part.read(["u"], [], 3) for u in batch[0].to_pylist()]
        assert read == [row for row in range(100) if row // 10 % 2]


def test_files_are_left_out_by_their_folders(tmp_path: Path) -> None:
    path = hive(tmp_path, "k", ["a%2Fb", "b", "__HIVE_DEFAULT_PARTITION__"])
    source = open_source(path)
    for text, files in [
        ("k = 'a/b'", ["0"]),
        ("k >= 'b'", ["1"]),
        ("k is null", ["2"]),
        ("k is not null", ["0", "1"]),
        ("k in ('b', 'c') or k is null", ["1", "2"]),
        ("k != 'b'", ["0"]),
        ("k = 'c'", []),
    ]:
        remaining, _ = groups_left(source, text)
        assert sorted({Path(part.identity.path).stem for part in remaining.parts}) == files, text
        assert rows_kept(remaining, text) == rows_kept(source, text)
    numbers = open_source(hive(tmp_path / "numbers", "k", ["10", "9", "-2"]))
    remaining, _ = groups_left(numbers, "k > 8.5 and v >= 0")
    assert sorted({Path(part.identity.path).stem for part in remaining.parts}) == ["0", "1"]


def test_a_folder_hides_a_column_of_its_name(tmp_path: Path) -> None:
    """The file says k is a throughout; the folder, which is what is read, says 5."""
    (tmp_path / "k=5").mkdir()
    pq.write_table(pa.table({"k": ["a", "a"], "v": [1.0, 2.0]}), tmp_path / "k=5" / "data.parquet")
    source = open_source(tmp_path)
    assert groups_left(source, "k = 5")[1] == [(0,)]
    assert groups_left(source, "k = 1")[1] == []


def test_a_range_of_one_value_does_not_hide_nan(parquet: Any) -> None:
    """Arrow takes a column whose least and greatest value are 5 to be 5 in every row, NaN or not."""
    table = pa.table({"f": [5.0, np.nan, 5.0, 5.0, 5.0, None]})
    source = open_source(parquet(table, rows_per_group=2))
    for text in ("f is null", "not f is not null", "f is null or f = 7", "f is null and f is null"):
        remaining, _ = groups_left(source, text)
        assert len(rows_kept(remaining, text)) == 2, text
    assert groups_left(source, "f != 5")[1] == []
    assert groups_left(source, "f > 4 and f < 5")[1] == []


def test_statistics_that_are_missing_or_cut_short_rule_nothing_out_wrongly(tmp_path: Path) -> None:
    texts = [f"{'x' * 100}{row // 10}" for row in range(40)] + ["\U0010ffff" * 40] * 10
    table = pa.table({"s": texts, "v": range(50)})
    pq.write_table(table, tmp_path / "none.parquet", row_group_size=10, write_statistics=False)
    pq.write_table(table, tmp_path / "some.parquet", row_group_size=10, write_statistics=["v"])
    pl.DataFrame({"s": texts, "v": list(range(50))}).write_parquet(
        tmp_path / "cut.parquet", row_group_size=10
    )
    for name in ("none", "some", "cut"):
        source = open_source(tmp_path / f"{name}.parquet")
        assert source.row_groups == 5
        for text in (f"s = '{texts[25]}'", f"s > '{texts[25]}'", f"s <= '{texts[5]}'", "v = 33"):
            remaining, _ = groups_left(source, text)
            assert rows_kept(remaining, text) == rows_kept(source, text) != []
        assert groups_left(source, "v = 33")[0].row_groups == (5 if name == "none" else 1)


def test_columns_with_dots_beside_nested_ones_are_not_mistaken(parquet: Any) -> None:
    nested = pa.array([{"t": 9.0, "u": 1}] * 10 + [None] * 10)
    table = pa.table({"s": nested, "s.t": range(20), "v": range(20)[::-1]})
    source = open_source(parquet(table, rows_per_group=10))
    assert groups_left(source, "s.t >= 10")[1] == [(1,)]
    assert groups_left(source, "v >= 10")[1] == [(0,)]
    assert len(rows_kept(groups_left(source, "s is null")[0], "s is null")) == 10


@pytest.mark.parametrize("kinds", [*NUMBERS, (pa.uint64(), pa.int32())], ids=lambda k: "+".join(map(str, k)))
def test_files_with_other_types_are_ruled_out_by_their_own(
    kinds: tuple[pa.DataType, ...], tmp_path: Path
) -> None:
    for number, kind in enumerate(kinds):
        values = [
            Decimal(v) if pa.types.is_decimal(kind) else v for v in range(number * 20, number * 20 + 20)
        ]
        table = pa.table({"v": pa.array(values).cast(kind)})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=10)
    source = open_source(tmp_path)
    for text in ("v = 7", "v >= 25", "v < 9.5 and v > 8", "v in (0, 39)", "v not in (0, 39)", "v > 1e300"):
        remaining, _ = groups_left(source, text)
        assert rows_kept(remaining, text) == rows_kept(source, text)
    if not any(pa.types.is_decimal(kind) or pa.types.is_float16(kind) for kind in kinds):
        assert groups_left(source, "v between 3 and 27")[0].row_groups_skipped == 1 + (kinds[0] == kinds[1])


def test_a_file_in_which_the_column_is_all_null_or_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": pa.nulls(5), "w": range(5)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"v": range(5), "w": range(5)}), tmp_path / "b.parquet")
    source = open_source(tmp_path)
    for text in ("v = 3", "v is null", "v is null or w = 3", "v != 3"):
        remaining, _ = groups_left(source, text)
        assert rows_kept(remaining, text) == rows_kept(source, text) != []
    for test in ("v = 3", "v in (3)", "v is null"):
        assert groups_left(source, f"{test} and w > 10")[1] == [], test
    pq.write_table(pa.table({"w": range(10, 15)}), tmp_path / "c.parquet")
    some = open_source([tmp_path / "b.parquet", tmp_path / "c.parquet"])
    assert some.statistics("v") == ColumnStatistics()
    assert groups_left(some, "w < 10")[0].statistics("v") == ColumnStatistics(0, 0, 4)
    remaining, _ = groups_left(open_source(tmp_path), "v = 3")
    with pytest.raises(StreamlrError, match="'v'"):
        rows_kept(remaining, "v = 3")


def test_a_condition_that_fits_no_type_rules_nothing_out(parquet: Any) -> None:
    source = open_source(parquet(pa.table({"v": range(20)}), rows_per_group=10))
    assert source.where(pc.field("v") == "text").row_groups == 2
    assert source.where(pc.field("absent") == 1).row_groups == 2


def test_a_filter_on_odd_paths_and_changed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b%20c:d=e#f"
    folder.mkdir()
    table = pa.table({"v": range(20)})
    pq.write_table(table, folder / "ü?.parquet", row_group_size=10)
    monkeypatch.chdir(folder)
    source = open_source("ü?.parquet")
    assert groups_left(source, "v > 12")[1] == [(1,)]
    (folder / "ü?.parquet").unlink()
    assert groups_left(source, "v > 12")[1] == [(0, 1)]


VALUES: dict[str, tuple[pa.DataType, list[Any], list[str]]] = {
    "i": (pa.int16(), [-2, 0, 1, 2, 3, None], ["-2", "0", "1.5", "2", "9"]),
    "f": (
        pa.float32(),
        [-1.5, 0.0, -0.0, 0.1, 2.0, np.inf, np.nan, None],
        ["-1.5", "0", "0.1", "2", "1e300"],
    ),
    "s": (pa.string(), ["", "a", "ab", "b", "é", None], ["''", "'a'", "'b'", "'zz'"]),
    "c": (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "c", None], ["'a'", "'b'", "'zz'"]),
    "d": (
        pa.date32(),
        [dt.date(2024, 1, d) for d in (1, 2, 3)] + [None],
        ["'2024-01-01'", "'2024-01-02 12:00'"],
    ),
    "t": (
        pa.timestamp("us", "Europe/Berlin"),
        [dt.datetime(2024, 1, d, tzinfo=dt.timezone.utc) for d in (1, 2, 3)] + [None],
        ["'2024-01-02'", "'2024-01-02 00:00Z'"],
    ),
    "m": (pa.decimal128(9, 2), [Decimal("-0.5"), Decimal("1.25"), Decimal(2), None], ["-0.5", "1.255", "2"]),
    "b": (pa.bool_(), [True, False, None], ["true", "false"]),
}


@st.composite
def filters(draw: st.DrawFn, depth: int = 2) -> str:
    sort = draw(st.sampled_from(["and", "or", "not", "test"] if depth else ["test"]))
    if sort == "not":
        return f"not ({draw(filters(depth=depth - 1))})"
    if sort != "test":
        return f"({draw(filters(depth=depth - 1))}) {sort} ({draw(filters(depth=depth - 1))})"
    name = draw(st.sampled_from(list(VALUES)))
    written = draw(st.lists(st.sampled_from(VALUES[name][2]), min_size=1, max_size=3))
    tests = ["is null", "is not null", f"in ({', '.join(written)})", f"not in ({', '.join(written)})"]
    operators = ["=", "!="] if name == "b" else ["=", "!=", "<", "<=", ">", ">="]
    tests += [f"{operator} {written[0]}" for operator in operators]
    return f"{name} {draw(st.sampled_from(tests))}"


@st.composite
def uneven_tables(draw: st.DrawFn) -> list[pa.Table]:
    """Row groups of few values each, so that ranges rule much out: one, all null, only NaN."""
    groups = []
    for _ in range(draw(st.integers(1, 5))):
        size = draw(st.integers(1, 4))
        columns = {}
        for name, (kind, values, _) in VALUES.items():
            few = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
            rows = draw(st.lists(st.sampled_from(few), min_size=size, max_size=size))
            columns[name] = pa.array(rows, kind)
        groups.append(pa.table(columns))
    return groups


@given(groups=uneven_tables(), texts=st.lists(filters(), min_size=6, max_size=6), statistics=st.booleans())
@settings(max_examples=80)
def test_no_row_is_lost_with_the_row_groups(
    groups: list[pa.Table], texts: list[str], statistics: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        columns: Any = True if statistics else ["i", "f"]
        with pq.ParquetWriter(path, groups[0].schema, write_statistics=columns) as writer:
            for group in groups:
                writer.write_table(group)
        source = open_source(path)
        assert source.row_groups == len(groups)
        for text in texts:
            remaining, _ = groups_left(source, text)
            # As text, so that NaN equals NaN.
            assert str(rows_kept(remaining, text)) == str(rows_kept(source, text)), text
