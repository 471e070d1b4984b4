"""Rows that repeat: when they are gathered, and that the answer is that of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.passes import cells as cells_module
from streamlr.passes.cells import Cells, Keying
from streamlr.sources.parquet import ParquetPart

N = 40_000
NOTHING = np.empty(0)


@pytest.fixture(scope="module")
def discrete() -> pa.Table:
    """Text, a truth value, whole numbers with nulls, weights: at most 4 * 2 * 12 * 2 cells in 40,000 rows."""
    rng = np.random.default_rng(8)
    group = rng.choice(["a", "b", "c", "d"], N)
    flag = rng.random(N) < 0.3
    hour = rng.integers(-3, 9, N)
    eta = -0.4 + 0.5 * (group == "b") - 0.6 * flag + 0.1 * hour
    return pa.table(
        {
            "y": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(np.int8),
            "group": group,
            "flag": flag,
            "hour": pa.array(hour.astype(np.int32), mask=np.arange(N) % 50 == 7),
            "weight": rng.integers(0, 4, N),
            "x": rng.normal(size=N),
        }
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The columns of every reading of a part, in the order in which they were read."""
    seen: list[tuple[str, ...]] = []
    read = ParquetPart.read

    def counted(self: ParquetPart, columns: Sequence[str], *rest: Any, **options: Any) -> Any:
        seen.append(tuple(columns))
        return read(self, columns, *rest, **options)

    monkeypatch.setattr(ParquetPart, "read", counted)
    return seen


@pytest.fixture
def file(tmp_path: Path, discrete: pa.Table, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table as a file of eight parts."""
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 5_000)
    pq.write_table(discrete, tmp_path / "data.parquet", row_group_size=5_000)
    return tmp_path / "data.parquet"


FITS: dict[str, dict[str, Any]] = {
    "factors": {"features": ["group", "flag"]},
    "numbers": {"features": ["hour", "flag"], "numeric": ["flag"]},
    "all": {"features": ["group", "flag", "hour"]},
    "no intercept": {"formula": "y ~ 0 + group + hour"},
    "categorical": {"features": ["hour"], "categorical": ["hour"]},
    "weights": {"features": ["group", "hour"], "weights": "weight"},
    "analytic": {"features": ["group", "hour"], "weights": "weight", "weight_type": "analytic"},
}


def arguments(kind: str) -> dict[str, Any]:
    options = FITS[kind]
    return options if "formula" in options else {"target": "y", **options}


@pytest.mark.parametrize("kind", FITS)
def test_cells_give_what_the_rows_give(
    file: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reads: list[tuple[str, ...]]
) -> None:
    gathered = streamlr.fit(file, **arguments(kind))
    assert gathered.glance()["passes"] == 1
    assert len(gathered.trace) > 2
    monkeypatch.setattr("streamlr.fitting.keying_of", lambda *_: None)
    by_row = streamlr.fit(file, **arguments(kind))
    assert by_row.glance()["passes"] > 2
    # 40,000 terms added up in another order.
    np.testing.assert_allclose(gathered.params / by_row.bse, by_row.params / by_row.bse, atol=1e-10)
    np.testing.assert_allclose(gathered.bse, by_row.bse, rtol=1e-12)
    assert gathered.llf == pytest.approx(by_row.llf, rel=1e-13)
    assert gathered.llnull == pytest.approx(by_row.llnull, rel=1e-13)
    for name in ("nobs", "df_resid", "rows_read", "rows_used", "rows_dropped"):
        assert gathered.glance()[name] == by_row.glance()[name]


def test_the_data_are_read_once_after_the_profile(
    file: Path, monkeypatch: pytest.MonkeyPatch, reads: list[tuple[str, ...]]
) -> None:
    monkeypatch.setattr("streamlr.fitting.BlockCache", lambda *_: None)
    streamlr.fit(file, target="y", features=["group", "flag", "hour"])
    parts = 8
    conditioning = 4
    assert len(reads) == parts + conditioning + parts  # profile, rows to centre by, the one pass


@pytest.mark.parametrize("threads", [2, 3])
def test_cells_give_the_same_bits_on_any_number_of_threads(file: Path, threads: int) -> None:
    one, other = (
        streamlr.fit(file, target="y", features=["group", "hour"], threads=count) for count in (1, threads)
    )
    np.testing.assert_array_equal(other.params, one.params)
    np.testing.assert_array_equal(other.bse, one.bse)
    assert other.llf == one.llf


@pytest.mark.parametrize(
    "options",
    [
        {"features": ["group", "x"]},
        {"features": ["group"], "offset": "x"},
        {"features": ["group"], "offset": "hour"},
    ],
)
def test_fractions_and_offsets_are_read_by_row(file: Path, options: dict[str, Any]) -> None:
    model = streamlr.fit(file, target="y", **options)
    assert model.glance()["passes"] > 2


def test_too_many_cells_are_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, "MOST_CELLS", 1_024)
    keys = np.arange(3_000, dtype=np.int64)
    cells = Cells()
    cells.add(np.repeat(keys, 10), NOTHING)
    assert cells.found is None
    assert Cells().merge(cells).found is None


def test_too_few_rows_that_repeat_are_given_up() -> None:
    few, enough = Cells(), Cells()
    few.add(np.repeat(np.arange(100, dtype=np.int64), 7), NOTHING)
    enough.add(np.repeat(np.arange(100, dtype=np.int64), 8), NOTHING)
    assert few.found is None
    found = enough.found
    assert found is not None
    np.testing.assert_array_equal(found[0], np.arange(100))
    np.testing.assert_array_equal(found[1], 8.0)


def test_a_table_without_repeats_is_given_up_after_its_first_rows() -> None:
    cells = Cells()
    cells.add(np.arange(100_000, dtype=np.int64), NOTHING)
    assert cells._count is None
    assert cells.rows == 100_000


@pytest.mark.parametrize("split", [1, 500, 9_000])
def test_merged_cells_are_those_of_all_rows(split: int) -> None:
    rng = np.random.default_rng(split)
    keys = rng.integers(0, 3_000, 50_000) * 12_345
    weight = rng.integers(0, 5, 50_000).astype(np.float64)
    whole, left, right = Cells(), Cells(), Cells()
    whole.add(keys, weight)
    left.add(keys[:split], weight[:split])
    right.add(keys[split:], weight[split:])
    merged, wanted = left.merge(right).found, whole.found
    assert merged is not None
    assert wanted is not None
    np.testing.assert_array_equal(merged[0], wanted[0])
    np.testing.assert_array_equal(merged[1], wanted[1])  # whole numbers: any order is exact


def test_keys_and_back() -> None:
    rng = np.random.default_rng(1)
    n = 500
    block = cells_module.Block(
        [rng.integers(-5, 6, n).astype(np.int8), rng.integers(10**9, 10**9 + 7, n)],
        np.array([rng.integers(-1, 3, n), rng.integers(-1, 1, n)], dtype=np.int32),
        rng.integers(0, 2, n).astype(np.int8),
        NOTHING,
        NOTHING,
        NOTHING,
    )
    keying = Keying((-5, 10**9), (11, 7, 4, 2))
    keys = keying.keys(block)
    assert keys.min() >= 0
    back = keying.block(keys, np.ones(n))
    for column, wanted in zip(back.numeric, block.numeric, strict=True):
        np.testing.assert_array_equal(column, wanted)
    np.testing.assert_array_equal(back.codes, block.codes)
    np.testing.assert_array_equal(back.success, block.success)


def test_ranges_that_metadata_got_wrong_are_noticed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With digits too few for the values, cells of different rows would be one."""
    right = streamlr.fit(file, target="y", features=["group", "hour"])
    wrong: Callable[..., tuple[int, int]] = lambda *_: (0, 5)  # noqa: E731
    monkeypatch.setattr("streamlr.fitting._whole_range", wrong)
    model = streamlr.fit(file, target="y", features=["group", "hour"])
    assert model.glance()["passes"] > 2
    np.testing.assert_allclose(model.params, right.params, rtol=1e-9)


def test_separation_is_counted_in_rows(tmp_path: Path) -> None:
    """x1 + x2 >= 1 where y is 1 and <= 1 where it is 0: quasi-complete, with more rows than cells."""
    x1, x2 = np.tile([0, 1, 0, 1], 100), np.tile([0, 0, 1, 1], 100)
    y = np.where(x1 + x2 == 1, np.arange(400) % 8 < 4, x1 + x2 > 1).astype(np.int8)
    pq.write_table(pa.table({"y": y, "x1": x1, "x2": x2}), tmp_path / "d.parquet")
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(tmp_path / "d.parquet", target="y")
    finding = caught.value.separation
    assert finding["kind"] == "quasi-complete"
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (200, 200)
