"""What a formula must not depend on: order and cut of the rows, form of the columns, threads, memory.

One table in many forms: each must give the model of the whole table in one row group. Differences are
|Δ| / max(|b|, standard error), and TIGHT leaves room for rounding alone, as in `test_properties`. Everything
that a formula learns from the data (levels, cells, means, polynomials, knots, breaks) is compared as well:
what is a rank or a count must be the same to the bit, what is a sum to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_properties import TIGHT, assert_identical, assert_same

import streamlr
from streamlr.passes.cache import BlockCache

FORMULAS = (
    "y ~ g*h",
    "y ~ g:x",
    "y ~ h + h:x",
    "y ~ x + g:h",
    "y ~ bs(x, df=5)*g",
    "y ~ poly(x, 3) + h",
    "y ~ scale(x)*h",
    "y ~ cut(x, quantiles=4)*h",
    "y ~ lump(g, top=3)*h",
    "y ~ C(k, sum) + C(k, sum):x",
    "y ~ isnull(x) + h",
    "y ~ hash(g, 16) + h",
    "y ~ g*h*x",
)
# Row groups of 7 rows make a fit slow to read; these cover every kind of state.
FEW = (
    "y ~ x + g:h",
    "y ~ bs(x, df=5)*g",
    "y ~ scale(x)*h",
    "y ~ cut(x, quantiles=4)*h",
    "y ~ C(k, sum) + C(k, sum):x",
)

N = 1_200
LAST = 60  # rows of the level of `g` that stands in the last of them only
RNG = np.random.default_rng(20)


def _table() -> pa.Table:
    """y, x (with gaps), k (0 to 3), h (3 levels), g (5 levels, "zeta" in the last rows only)."""
    x = RNG.gamma(2.0, 3.0, N)
    g = RNG.choice(["alpha", "beta", "delta", "gamma"], N)
    g[-LAST:] = "zeta"
    h = RNG.choice(["p", "q", "r"], N)
    k = RNG.integers(0, 4, N)
    eta = -0.6 + 0.08 * x + 0.4 * (g == "beta") - 0.3 * (h == "q") + 0.1 * k * (h == "r")
    y = (RNG.random(N) < 1 / (1 + np.exp(-eta))).astype(np.int8)
    y[-LAST:] = np.arange(LAST) % 2  # both outcomes in each cell of the last level
    h[-LAST:] = np.array(["p", "q", "r"])[np.arange(LAST) // 2 % 3]
    gaps = RNG.random(N) < 0.03
    gaps[-LAST:] = False
    return pa.table({"y": y, "x": pa.array(x, mask=gaps), "k": k, "h": pa.array(h), "g": pa.array(g)})


TABLE = _table()


def encoded(table: pa.Table, kind: pa.DataType) -> pa.Table:
    """The table with its texts as another type."""
    for name in ("g", "h"):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table


def categories(table: pa.Table) -> pd.DataFrame:
    """Pandas categories in no order, and one of them in no row."""
    frame = table.to_pandas()
    frame["g"] = pd.Categorical(frame["g"], categories=["zeta", "nobody", "gamma", "alpha", "delta", "beta"])
    frame["h"] = pd.Categorical(frame["h"], categories=["r", "q", "never", "p"])
    return frame


def written(table: pa.Table, path: Path, **options: Any) -> Path:
    pq.write_table(table, path / "data.parquet", **options)
    return path / "data.parquet"


def dictionaries_apart(path: Path) -> Path:
    """Every row group with a dictionary of its own, in the order of its first rows."""
    with pq.ParquetWriter(path / "data.parquet", TABLE.schema) as writer:
        for start in range(0, N, 400):
            writer.write_table(TABLE.slice(start, 400))
    return path / "data.parquet"


def long_texts(path: Path) -> Path:
    """A dictionary page that is full after a few levels: the rest of the row group is plain pages."""
    return written(TABLE, path, dictionary_pagesize_limit=12, data_page_size=64, write_batch_size=16)


def several_files(path: Path) -> list[str]:
    ends = [0, 5, 500, 900, N]
    names = []
    for place, (start, end) in enumerate(pairwise(ends)):
        names.append(str(path / f"{place}.parquet"))
        pq.write_table(TABLE.slice(start, end - start), names[-1])
    return names


FORMS: dict[str, Callable[[Path], Any]] = {
    "row groups of 1000": lambda path: written(TABLE, path, row_group_size=1_000),
    "backwards": lambda path: written(TABLE.take(np.arange(N)[::-1]), path, row_group_size=97),
    "shuffled": lambda path: written(TABLE.take(np.random.default_rng(1).permutation(N)), path),
    "plain pages": lambda path: written(TABLE, path, use_dictionary=False),
    "dictionary that overflows": long_texts,
    "a dictionary a row group": dictionaries_apart,
    "dictionary type": lambda path: written(
        encoded(TABLE, pa.dictionary(pa.int8(), pa.string())), path, row_group_size=300
    ),
    "large text": lambda path: written(encoded(TABLE, pa.large_string()), path, row_group_size=300),
    "no statistics": lambda path: written(TABLE, path, write_statistics=False, row_group_size=500),
    "several files": several_files,
    "categories in a file": lambda path: written(
        pa.Table.from_pandas(categories(TABLE), preserve_index=False), path, row_group_size=300
    ),
    "arrow": lambda path: TABLE,
    "arrow in chunks": lambda path: pa.concat_tables(
        [TABLE.slice(0, 3), TABLE.slice(3, 800), TABLE.slice(803)]
    ),
    "text view": lambda path: encoded(TABLE, pa.string_view()),
    "pandas": lambda path: TABLE.to_pandas(),
    "pandas categories": lambda path: categories(TABLE),
    "polars": lambda path: pl.from_arrow(TABLE),
    "polars categories": lambda path: pl.from_arrow(TABLE).with_columns(
        pl.col("g", "h").cast(pl.Categorical)
    ),
}


def fit(data: Any, formula: str, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, formula, tol=options.pop("tol", TIGHT), **options)
    assert model.converged
    return model


def assert_same_model(model: streamlr.Model, expected: streamlr.Model) -> None:
    assert_same(model, expected)
    assert model.aliased == expected.aliased
    assert model.dropped == expected.dropped
    assert_same_states(model.design.reader.states, expected.design.reader.states)
    assert [v.name for v in model.design.categories] == [v.name for v in expected.design.categories]
    for own, other in zip(model.design.categories, expected.design.categories, strict=True):
        assert (own.all_levels, own.set_aside, own.merging) == (
            other.all_levels,
            other.set_aside,
            other.merging,
        )
    assert [term.cells for term in model.design.terms] == [term.cells for term in expected.design.terms]


def assert_same_states(states: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert states.keys() == expected.keys()
    for name, state in states.items():
        assert state.keys() == expected[name].keys()
        for key, value in state.items():
            if key in ("knots", "lower", "upper", "breaks", "labels"):  # ranks of the data, not sums
                assert value == expected[name][key]
            else:
                assert value == pytest.approx(expected[name][key], rel=1e-12)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], streamlr.Model]:
    """The model of a formula on the whole table in one row group."""
    path = written(TABLE, tmp_path_factory.mktemp("whole"))
    known: dict[str, streamlr.Model] = {}

    def of(formula: str) -> streamlr.Model:
        if formula not in known:
            known[formula] = fit(path, formula)
        return known[formula]

    return of


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_rows_does_not_matter(
    form: str, models: Callable[[str], streamlr.Model], tmp_path: Path
) -> None:
    data = FORMS[form](tmp_path)
    for formula in FORMULAS:
        assert_same_model(fit(data, formula), models(formula))


@pytest.mark.parametrize("rows", [1, 7])
def test_small_row_groups(rows: int, models: Callable[[str], streamlr.Model], tmp_path: Path) -> None:
    path = written(TABLE, tmp_path, row_group_size=rows)
    for formula in FEW:
        assert_same_model(fit(path, formula), models(formula))


def test_dask_partitions(models: Callable[[str], streamlr.Model]) -> None:
    frame = dd.from_pandas(TABLE.to_pandas(), npartitions=3)
    for formula in ("y ~ bs(x, df=5)*g", "y ~ cut(x, quantiles=4)*h"):
        assert_same_model(fit(frame, formula), models(formula))


def test_the_forms_are_what_they_are_called(tmp_path: Path) -> None:
    """Without this, a writer that ignores an option would leave nothing tested."""

    def encodings(path: Path) -> set[str]:
        return set(pq.ParquetFile(path).metadata.row_group(0).column(4).encodings)

    assert {"PLAIN", "RLE_DICTIONARY"} <= encodings(long_texts(tmp_path))
    column = pq.ParquetFile(long_texts(tmp_path)).metadata.row_group(0).column(4)
    assert column.total_uncompressed_size > 5 * N, "most rows are plain text"
    assert "RLE_DICTIONARY" not in encodings(FORMS["plain pages"](tmp_path))
    assert not pq.ParquetFile(FORMS["no statistics"](tmp_path)).metadata.row_group(0).column(1).is_stats_set


@pytest.mark.parametrize("rows_per_group", [7, LAST, None])
def test_what_only_the_last_rows_hold_is_in_the_model(rows_per_group: int | None, tmp_path: Path) -> None:
    path = written(TABLE, tmp_path, row_group_size=rows_per_group)
    model = fit(path, "y ~ g*h")
    assert {"g[T.zeta]", "g[T.zeta]:h[T.q]", "g[T.zeta]:h[T.r]"} <= set(model.terms)
    # A saturated model: the share of ones of a cell.
    last = TABLE.slice(N - LAST).to_pandas()
    shares = last.groupby("h")["y"].mean()
    for level, share in shares.items():
        score = model.predict({"g": ["zeta"], "h": [level]})
        assert score[0] == pytest.approx(share, rel=1e-9)
    zeta = [name for name in fit(path, "y ~ g:x").terms if "zeta" in name]
    assert zeta == ["g[zeta]:x"]
    top = fit(path, "y ~ lump(g, top=3)*h")
    assert any("(other)" in name for name in (*top.terms, str(top.design.categories[0].reference)))


@pytest.mark.parametrize(
    "formula", ["y ~ bs(x, df=5)*g", "y ~ lump(g, top=3)*h", "y ~ scale(x)*h + poly(k, 2)"]
)
def test_threads_and_memory_change_no_bit(
    formula: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(TABLE, tmp_path, row_group_size=90)
    first = fit(path, formula, tol=1e-8, threads=1)
    for threads in (2, 3):
        assert_identical(fit(path, formula, tol=1e-8, threads=threads), first)
    assert_identical(fit(path, formula, tol=1e-8, memory="700MB"), first)
    monkeypatch.setattr(BlockCache, "__init__", _without_room(BlockCache.__init__))
    assert_identical(fit(path, formula, tol=1e-8, threads=2), first)


def _without_room(build: Callable[..., None]) -> Callable[..., None]:
    def built(self: Any, room: int, *more: Any) -> None:
        build(self, 0, *more)

    return built
