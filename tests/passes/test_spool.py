"""Blocks on disk: what is written comes back, and a fit with a spool reads its source once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr.kernels.tile import Block
from streamlr.passes.cache import BlockCache
from streamlr.passes.packing import CACHE_LINE, Packed, Packing, aligned
from streamlr.passes.spool import Spool
from streamlr.sources.parquet import ParquetPart

NOTHING = np.empty(0)


def block_of(seed: int, n: int, factors: int = 2) -> Block:
    """Columns of several types, codes, outcomes, weights and an offset."""
    rng = np.random.default_rng(seed)
    return Block(
        [
            rng.normal(size=n).astype(np.float32),
            rng.integers(-9, 9, n).astype(np.int8),
            rng.normal(size=n),
            rng.integers(-(2**60), 2**60, n),
        ],
        rng.integers(-1, 5, (factors, n)).astype(np.int32),
        rng.integers(0, 2, n).astype(np.int8),
        NOTHING,
        rng.random(n),
        rng.normal(size=n),
    )


def arrays_of(block: Block) -> list[np.ndarray]:
    return [*block.numeric, *block.rows[2:]]


def assert_same(one: Block, other: Block) -> None:
    for array, wanted in zip(arrays_of(one), arrays_of(other), strict=True):
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("n", [0, 1, 63, 1000])
@pytest.mark.parametrize("factors", [0, 3])
def test_a_packed_block_is_a_copy_on_whole_cache_lines(n: int, factors: int) -> None:
    block = block_of(n, n, factors)
    packing = Packing.of(block)
    memory = aligned(packing.size)
    packing.pack(block, memory)
    packed = packing.view(memory)
    assert_same(packed, block)
    for array in arrays_of(packed):
        is_codes = array is packed.codes  # widened ones lie elsewhere
        assert array.size == 0 or is_codes or array.__array_interface__["data"][0] % CACHE_LINE == 0
        assert not any(np.shares_memory(array, other) for other in arrays_of(block) if array.size)


@pytest.mark.parametrize(
    ("low", "high", "size"),
    [(-1, 127, 1), (-128, 0, 1), (-1, 128, 2), (-129, 5, 2), (-1, 32_767, 2), (-1, 32_768, 4)],
)
def test_codes_take_the_least_memory_and_come_back_wide(low: int, high: int, size: int) -> None:
    n = 1_000
    block = replace(block_of(1, n, 2), codes=np.full((2, n), 3, dtype=np.int32))
    block.codes[0, 7], block.codes[1, 999] = low, high
    packing = Packing.of(block)
    wide = Packing.of(replace(block, codes=np.full((2, n), 1 << 20, dtype=np.int32)))
    assert (4 - size) * 2 * n - 3 * CACHE_LINE < wide.size - packing.size <= (4 - size) * 2 * n + CACHE_LINE
    assert packing.is_narrow == (size < 4)
    memory = aligned(packing.size)
    packing.pack(block, memory)
    assert_same(Packed(packing, memory).load(), block)


def test_blocks_come_back_from_any_thread(tmp_path: Path) -> None:
    blocks = [block_of(seed, 500 + seed) for seed in range(40)]
    with Spool(str(tmp_path)) as spool:
        written: dict[int, Any] = {}

        def write(seeds: Sequence[int]) -> None:
            for seed in seeds:
                written[seed] = spool.write(blocks[seed])

        threads = [threading.Thread(target=write, args=[range(first, 40, 4)]) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed in reversed(range(40)):
            assert_same(written[seed].load(), blocks[seed])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six parts of 1,000 rows: numbers, text, nulls."""
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 1_000)
    rng = np.random.default_rng(4)
    n = 6_000
    x, g = rng.normal(size=n), rng.choice(["a", "b", "c"], n)
    y = rng.random(n) < 1 / (1 + np.exp(-x - (g == "b")))
    table = pa.table({"y": y, "x": pa.array(x, mask=np.arange(n) % 100 == 3), "g": g})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=1_000)
    return tmp_path / "data.parquet"


@pytest.mark.parametrize("room", [0, 30_000])
def test_a_spooled_fit_decodes_once_and_gives_the_same_bits(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """`room`: bytes of memory for blocks, so that none or some of the parts go to disk."""
    plain = streamlr.fit(file, target="y", threads=1)
    reads = 0
    read = ParquetPart.read

    def counted(self: ParquetPart, columns: Sequence[str], *rest: Any, **options: Any) -> Any:
        nonlocal reads
        reads += len(columns) == 3 and set(columns) == {"y", "x", "g"}
        return read(self, columns, *rest, **options)

    monkeypatch.setattr(ParquetPart, "read", counted)
    monkeypatch.setattr(
        "streamlr.fitting.BlockCache", lambda capacity, ceiling, spool: BlockCache(room, ceiling, spool)
    )
    spool = tmp_path / "spool"
    spool.mkdir()
    spooled = streamlr.fit(file, target="y", spool=spool, threads=2)
    assert reads == 2 * 6  # the profile and one pass
    assert list(spool.iterdir()) == []
    np.testing.assert_array_equal(spooled.params, plain.params)
    np.testing.assert_array_equal(spooled.bse, plain.bse)
    assert spooled.llf == plain.llf
    assert spooled.dropped == plain.dropped == {"x": 60}


def test_a_full_disk_ends_the_fit_with_advice(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "streamlr.fitting.BlockCache", lambda capacity, ceiling, spool: BlockCache(0, ceiling, spool)
    )
    monkeypatch.setattr("streamlr.passes.spool.os.pwrite", full)
    with pytest.raises(streamlr.StreamlrError, match=r"No space left on device.*more room"):
        streamlr.fit(file, target="y", spool=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.parquet"]


def test_a_spool_cut_short_is_noticed(tmp_path: Path) -> None:
    with Spool(str(tmp_path)) as spool:
        spooled = spool.write(block_of(1, 100))
        spool._file.truncate(200)
        with pytest.raises(streamlr.StreamlrError, match="cut short"):
            spooled.load()


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_read(file: Path) -> None:
    with pytest.raises(streamlr.StreamlrError, match="cannot spool in /nowhere: No such file"):
        streamlr.fit(file, target="y", spool="/nowhere")
