"""Kept blocks: what is kept, when the cache is full, and that an answer never depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from designs import design, factor, number

import streamlr
from streamlr.design import columns
from streamlr.design.basis import Basis
from streamlr.design.encoding import Tally
from streamlr.kernels.tile import Block
from streamlr.passes import cache as cache_module
from streamlr.passes.cache import BlockCache
from streamlr.passes.packing import Packing
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import blocks_of

NOTHING = np.empty(0)
BLOCK = Block(np.zeros((1, 2)), np.empty((0, 2), np.int32), np.zeros(2), NOTHING, NOTHING, NOTHING)
DESIGN = design(number("x"), factor("g", ["b", "c"], "a"))


class CountedPart:
    """A part of three batches that counts how often it is read; the first alone has missing values."""

    rows = 9

    def __init__(self) -> None:
        self.reads = 0
        self.table = pa.table(
            {
                "y": [0, 1, 1, 0, 1, 0, 1, 0, 1],
                "x": [0.5, None, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
                "g": ["a", "b", None, "b", "a", "c", "c", "a", "b"],
            }
        )

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        yield from self.table.select(list(columns)).to_batches(max_chunksize=3)


@pytest.fixture
def resident(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that the process seems to take, in a list of one to set."""
    bytes_now = [100]
    monkeypatch.setattr(cache_module, "resident_bytes", lambda: bytes_now[0])
    return bytes_now


def kept(cache: BlockCache, part: object) -> Block | None:
    """Offer BLOCK as the only block of a part; what the cache has of it afterwards."""
    keeping = cache.begin(part)
    if keeping is not None:
        keeping.add(BLOCK)
        keeping.finish(Tally())
    found = cache.get(part)
    return next(found.blocks) if found is not None else None


SIZE = 2 * 64  # BLOCK's numbers and its outcomes, each a cache line


def test_a_part_kept_comes_back_as_a_copy(resident: list[int]) -> None:
    cache, part, other = BlockCache(1000, 10_000), CountedPart(), CountedPart()
    assert cache.get(part) is None
    block = kept(cache, part)
    assert block is not None
    np.testing.assert_array_equal(block.numeric, BLOCK.numeric)
    np.testing.assert_array_equal(block.success, BLOCK.success)
    assert not np.shares_memory(block.success, BLOCK.success)
    assert (block.codes.shape, block.codes.dtype) == ((0, 2), np.int32)
    assert cache.get(other) is None


def test_the_capacity_is_the_limit(resident: list[int]) -> None:
    cache, parts = BlockCache(2 * SIZE, 10_000), [CountedPart() for _ in range(3)]
    assert [kept(cache, part) is not None for part in parts] == [True, True, False]


def test_the_size_of_the_process_is_a_limit_too(resident: list[int]) -> None:
    cache, parts = BlockCache(10**6, 1000), [CountedPart() for _ in range(3)]
    assert kept(cache, parts[0]) is not None
    resident[0] = 1000 - SIZE
    assert kept(cache, parts[1]) is not None
    resident[0] += 1
    assert kept(cache, parts[2]) is None


def test_a_full_cache_stays_full_and_keeps_what_it_has(resident: list[int]) -> None:
    cache, parts = BlockCache(10**6, 1000), [CountedPart() for _ in range(3)]
    kept(cache, parts[0])
    resident[0] = 5000
    kept(cache, parts[1])
    resident[0] = 100
    assert cache.begin(parts[2]) is None
    assert [cache.get(part) is not None for part in parts] == [True, False, False]


def read_all(part: CountedPart, cache: BlockCache | None) -> tuple[list[list[np.ndarray]], Tally]:
    """Copies of what a pass sees."""
    tally = Tally()
    return [
        [np.array(array) for array in (*block.numeric, *block.rows[2:])]
        for block in blocks_of(DESIGN, part, tally, cache)
    ], tally


def test_a_kept_part_is_read_once_and_gives_the_same_blocks_and_counts(resident: list[int]) -> None:
    uncached, part, cache = CountedPart(), CountedPart(), BlockCache(10_000, 10**6)
    for _ in range(3):
        want, want_tally = read_all(uncached, None)
        got, tally = read_all(part, cache)
        assert tally == want_tally
        assert (tally.rows_read, tally.rows_used, tally.missing) == (9, 7, {"x": 1, "g": 1})
        for block, expected in zip(got, want, strict=True):
            for array, other in zip(block, expected, strict=True):
                assert array.dtype == other.dtype
                np.testing.assert_array_equal(array, other)
    assert (uncached.reads, part.reads) == (3, 1)


def test_a_part_with_room_for_half_of_it_is_not_kept(resident: list[int]) -> None:
    part, cache = CountedPart(), BlockCache(5 * 64, 10**6)
    want = read_all(part, None)[0]
    assert [len(block) for block in read_all(part, cache)[0]] == [len(block) for block in want]
    assert cache.get(part) is None


def test_a_part_left_half_way_is_not_kept(resident: list[int]) -> None:
    part, cache = CountedPart(), BlockCache(10_000, 10**6)
    half = blocks_of(DESIGN, part, Tally(), cache)
    next(half)
    half.close()
    assert cache.get(part) is None
    assert len(read_all(part, cache)[0]) == 3


def test_the_answer_is_the_same_to_the_last_bit_without_a_cache(
    flights_like: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twelve parts, so that some are kept and some are not in the third fit.
    monkeypatch.setattr("streamlr.sources.memory.PART_ROWS", 50)
    fits = [streamlr.fit(flights_like, target="late")]
    begin = BlockCache.begin
    for count in (0, 5):
        room = iter([True] * count)
        monkeypatch.setattr(
            BlockCache,
            "begin",
            lambda self, part, room=room: begin(self, part) if next(room, False) else None,
        )
        fits.append(streamlr.fit(flights_like, target="late"))
    for other in fits[1:]:
        np.testing.assert_array_equal(other.params, fits[0].params)
        np.testing.assert_array_equal(other.bse, fits[0].bse)
        assert other.llf == fits[0].llf


def test_ranges_are_those_of_the_rows_and_are_kept_with_them(resident: list[int]) -> None:
    """The first batch leaves a row out, so that its columns are looked at again, once they are all there."""
    cache, part = BlockCache(10**6, 10**6), CountedPart()
    for blocks in (
        list(blocks_of(DESIGN, part, Tally(), cache)),
        list(blocks_of(DESIGN, part, Tally(), cache)),
    ):
        assert [block.ranges is None for block in blocks] == [True, False, False]
        for block in blocks[1:]:
            assert block.ranges is not None
            low, high = block.ranges
            assert low.tolist() == [block.numeric[0].min()]
            assert high.tolist() == [block.numeric[0].max()]
    assert part.reads == 1
    assert all(block.ranges is None for block in blocks_of(DESIGN, part, Tally(), None))
    wanted = [block.ranges for block in blocks_of(DESIGN, part, Tally(), None, ranges=True)]
    assert [ranges is None for ranges in wanted] == [True, False, False]


def test_a_first_pass_finds_the_same_ranges_either_way() -> None:
    layout = DESIGN.layout
    conditioning = Basis.of(layout, np.zeros(1), np.ones(1)).conditioning()
    found = []
    for ranges in (False, True):
        sums = Sums(layout, first=True)
        for block in blocks_of(DESIGN, CountedPart(), Tally(), None, ranges=ranges):
            sums.add(block, conditioning, np.zeros(layout.slots), 0.0, scratch_for(layout))
        found.append((sums.low.tolist(), sums.high.tolist()))
    assert found == [([0.5], [8.0])] * 2


def test_a_part_that_lacked_nothing_is_not_looked_through_again(
    resident: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    has_nan = columns.has_nan
    monkeypatch.setattr(columns, "has_nan", lambda values: looked.append(len(values)) or has_nan(values))
    cache = BlockCache(0, 10**6)  # keeps nothing
    whole, lacking = CountedPart(), CountedPart()
    whole.table = whole.table.slice(3)
    whole.table = whole.table.set_column(1, "x", pa.array([3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
    for part, again in ((whole, []), (lacking, [3, 3, 3])):
        first, tally = read_all(part, cache)
        assert looked == [3] * (part.table.num_rows // 3)
        looked.clear()
        second, tally_again = read_all(part, cache)
        assert looked == again
        looked.clear()
        assert vars(tally) == vars(tally_again)
        for blocks, others in zip(first, second, strict=True):
            for array, other in zip(blocks, others, strict=True):
                np.testing.assert_array_equal(array, other)
    assert read_all(whole, None)[1].rows_used == 6
    assert looked == [3, 3]


class PlacedPart(CountedPart):
    """A part of one batch that reads `x` into memory that it is given."""

    takes_room = True

    def __init__(self, *, gap: bool) -> None:
        super().__init__()
        x = self.table["x"] if gap else pa.array(np.arange(9) / 2.0)
        self.table = pa.table({"y": self.table["y"], "g": list("abcabcabc"), "x": x})

    def read(  # type: ignore[override]
        self, columns: Sequence[str], coded: Sequence[str], batch_rows: int, *, room: Any = None
    ) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        memory = {} if room is None else room({"x": 72, "y": 72})
        assert "y" not in memory  # of which blocks have no column
        arrays = {name: self.table[name].combine_chunks() for name in columns}
        if "x" in memory:
            validity, values = arrays["x"].buffers()
            memory["x"][:] = np.frombuffer(values, np.uint8)[:72]
            placed = [validity, pa.py_buffer(memory["x"])]
            arrays["x"] = pa.Array.from_buffers(pa.float64(), 9, placed, arrays["x"].null_count)
        yield pa.RecordBatch.from_pydict(arrays)


def test_columns_read_into_the_cache_are_not_copied(
    resident: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    pack = Packing.pack

    def noted(packing: Packing, block: Block, memory: Any) -> None:
        copied.append(len(packing.packed))
        pack(packing, block, memory)

    monkeypatch.setattr(Packing, "pack", noted)
    part = PlacedPart(gap=False)
    cache = BlockCache(10_000, 100_000)
    plain = list(blocks_of(DESIGN, part, Tally(), None))
    first = list(blocks_of(DESIGN, part, Tally(), cache))
    again = list(blocks_of(DESIGN, part, Tally(), cache))
    assert (part.reads, copied) == (2, [0])
    assert np.shares_memory(first[0].numeric[0], again[0].numeric[0])
    for blocks in (first, again):
        for one, other in zip(blocks, plain, strict=True):
            np.testing.assert_array_equal(one.numeric[0], other.numeric[0])
            np.testing.assert_array_equal(one.codes, other.codes)
            np.testing.assert_array_equal(one.success, other.success)


def test_room_of_a_part_that_lacks_values_is_used_by_the_next(resident: list[int]) -> None:
    cache = BlockCache(10_000, 100_000)
    rooms: list[np.ndarray] = []
    take = cache.take

    def noted(size: int) -> Any:
        memory = take(size)
        assert memory is not None
        if size == 128:  # of nine numbers
            rooms.append(memory)
        return memory

    cache.take = noted  # type: ignore[method-assign]
    parts = [PlacedPart(gap=True), PlacedPart(gap=True), PlacedPart(gap=False)]
    kept = [list(blocks_of(DESIGN, part, Tally(), cache)) for part in parts]
    assert [len(blocks[0].success) for blocks in kept] == [8, 8, 9]
    shared = [room for room in rooms if np.shares_memory(room, rooms[0])]
    assert len(shared) == 3
    assert np.shares_memory(kept[2][0].numeric[0], rooms[0])
    for part, blocks in zip(parts, kept, strict=True):
        (again,) = blocks_of(DESIGN, part, Tally(), cache)
        (plain,) = blocks_of(DESIGN, part, Tally(), None)
        np.testing.assert_array_equal(again.numeric[0], plain.numeric[0])
        np.testing.assert_array_equal(blocks[0].numeric[0], plain.numeric[0])


def test_without_room_a_part_reads_as_it_would(resident: list[int]) -> None:
    part = PlacedPart(gap=False)
    (block,) = blocks_of(DESIGN, part, Tally(), BlockCache(64, 100_000))
    np.testing.assert_array_equal(block.numeric[0], np.arange(9) / 2.0)
