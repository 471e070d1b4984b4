"""What a pass hands out: borders that the data decide, and giant parts that every worker shares."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.passes.leaves import Range, leaves_of
from streamlr.passes.run import Workers
from streamlr.sources import parquet
from streamlr.sources.open import open_source


@dataclass(frozen=True)
class TablePart:
    """The numbers begin, begin + 1, ... in one column; at most `piece` rows come at a time."""

    begin: int
    rows: int
    giant: bool = False
    piece: int = 10**9
    fails_at: int = -1
    reads: list[int] = field(default_factory=list, compare=False)

    def read(
        self, columns: Sequence[str], coded: Sequence[str], batch_rows: int, *, parallel: bool = False
    ) -> Iterator[pa.RecordBatch]:
        self.reads.append(threading.get_ident())
        for first in range(0, self.rows, batch_rows):
            stop = min(first + batch_rows, self.rows)
            for at in range(first, stop, self.piece):
                if at == self.fails_at:
                    raise ValueError("damaged")
                numbers = np.arange(self.begin + at, self.begin + min(at + self.piece, stop))
                yield pa.record_batch({"x": numbers})


@dataclass
class Collect:
    """A task that returns the rows of its leaf as text, and remembers who worked on them."""

    cells: int = 0
    batch_rows: int = 10
    columns: tuple[str, ...] = ("x",)
    coded: tuple[str, ...] = ()
    kept: bool = False
    workers: set[int] = field(default_factory=set)

    def has(self, part: object) -> bool:
        return self.kept

    def __call__(self, parts: Sequence[TablePart]) -> str:
        self.workers.add(threading.get_ident())
        time.sleep(0.002)
        rows = [
            str(value)
            for part in parts
            for batch in part.read(self.columns, self.coded, self.batch_rows)
            for value in batch.column("x").to_pylist()
        ]
        return "[" + " ".join(rows) + "]"


def run(parts: Sequence[TablePart], task: Collect, threads: int) -> str:
    with Workers(threads) as workers:
        return workers.run(parts, task, str.__add__)


def rows_of(parts: Sequence[TablePart]) -> list[str]:
    return [str(part.begin + i) for part in parts for i in range(part.rows)]


def test_a_part_is_a_leaf_where_sums_are_small() -> None:
    leaves = leaves_of([TablePart(0, 5), TablePart(5, 7)], Collect())
    assert [leaf.rows for leaf in leaves] == [5, 7]
    assert [leaf.number for leaf in leaves] == [0, 1]


def test_small_parts_share_a_leaf_until_its_rows_outweigh_its_sums() -> None:
    parts = [TablePart(10 * i, 10) for i in range(100)]
    assert [leaf.rows for leaf in leaves_of(parts, Collect(cells=8 * 35))] == [40] * 25
    # However large the sums, the rows are cut into eight leaves.
    assert [leaf.rows for leaf in leaves_of(parts, Collect(cells=10**9))] == [130] * 7 + [90]


def test_parts_of_unknown_size_are_leaves() -> None:
    parts = [TablePart(0, 5), TablePart(5, None), TablePart(5, None)]  # type: ignore[arg-type]
    assert [len(leaf.parts) for leaf in leaves_of(parts, Collect(cells=10**9))] == [1, 1, 1]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("piece", [3, 10, 10**9])
def test_a_giant_part_is_read_once_and_every_row_is_worked_on_in_order(threads: int, piece: int) -> None:
    parts = [
        TablePart(0, 25),
        TablePart(25, 57, giant=True, piece=piece),
        TablePart(82, 33, giant=True),
        TablePart(115, 5),
    ]
    task = Collect()
    text = run(parts, task, threads)
    assert text.replace("][", " ").strip("[]").split() == rows_of(parts)
    # Leaves end where batches do, whatever the pieces: 25 | 10 10 10 10 10 7 | 10 10 10 3 | 5
    assert [len(leaf.split()) for leaf in text.strip("[]").split("][")] == [25, *[10] * 5, 7, *[10] * 3, 3, 5]
    assert [len(part.reads) for part in parts] == [1, 1, 1, 1]


def test_all_workers_share_a_giant_part() -> None:
    task = Collect()
    run([TablePart(0, 400, giant=True)], task, 3)
    assert len(task.workers) == 3


def test_a_giant_part_that_was_kept_is_not_read() -> None:
    part = TablePart(0, 40, giant=True)
    task = Collect(kept=True)
    assert run([part], task, 2) == "[][][][]"
    assert part.reads == []


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_while_decoding_a_giant_part_ends_the_pass(threads: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        run([TablePart(0, 400, giant=True, fails_at=100)], Collect(), threads)


def test_ranges_of_two_passes_are_known_by_the_same_key() -> None:
    part = TablePart(0, 25, giant=True)
    first, second = leaves_of([part], Collect()), leaves_of([part], Collect())
    keys = [[leaf.parts[0].key for leaf in leaves] for leaves in (first, second)]  # type: ignore[union-attr]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3
    assert isinstance(first[0].parts[0], Range)


@pytest.mark.parametrize("memory", [None, "400MB"])
def test_one_giant_row_group_gives_the_same_bits_on_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str | None
) -> None:
    monkeypatch.setattr(parquet, "GIANT_ROWS", 5_000)
    monkeypatch.setattr("streamlr.design.design.MOST_BATCH_ROWS", 2_048)
    rng = np.random.default_rng(5)
    n = 30_000
    level = rng.choice(["a", "b", "c"], n)
    x = rng.normal(size=(3, n))
    y = rng.random(n) < 1 / (1 + np.exp(-x.sum(axis=0) - (level == "b")))
    table = pa.table({"y": y, "g": level, **{f"x{j}": x[j] for j in range(3)}})
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=n)
    assert open_source(tmp_path / "one.parquet").parts[0].giant
    fits = [
        streamlr.fit(tmp_path / "one.parquet", target="y", threads=threads, memory=memory)
        for threads in (1, 2, 3)
    ]
    for other in fits[1:]:
        np.testing.assert_array_equal(other.params, fits[0].params)
        np.testing.assert_array_equal(other.bse, fits[0].bse)
        assert other.llf == fits[0].llf
    assert fits[0].nobs == n
