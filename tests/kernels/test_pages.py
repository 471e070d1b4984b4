"""Pages of Parquet files against loops over bits and bytes, Arrow's codecs, and whatever bytes there are."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlr.kernels import pages
from streamlr.kernels.pages import (
    ABSENT,
    CODES,
    EIGHT_BYTES,
    FIELDS,
    FOUR_BYTES,
    STRIP,
    Sink,
    decompress,
    fill_coded,
    levels_are_full,
    read_header,
    read_varint,
    split_texts,
    unpack,
    walk_pages,
)

FIELD_NAMES = (
    "KIND", "SIZE", "STORED", "CHECKSUM", "VALUES", "ENCODING", "LEVEL_ENCODING", "NULLS", "LEVELS",
    "REPETITION", "PACKED",
)  # fmt: skip
PIECES = [b"a", b"ab", b"\0\0\0\0", b"longer than eight", bytes(range(70))]
GUARD = 0xA5  # what bytes and values beside those written must still be


def as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8) if data else np.empty(0, np.uint8)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def packed(codes: np.ndarray, width: int) -> bytes:
    """Codes one after another, each of `width` bits, the lowest first, filled up to whole bytes."""
    bits = (codes[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31 - 1, 2**62])
def test_a_varint_is_read_with_the_place_behind_it(value: int) -> None:
    data = as_bytes(b"\xff" + varint(value) + b"\xff")
    assert read_varint(data, 1) == (value, data.size - 1)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 8, b"\xff" * 30])
def test_a_varint_that_does_not_end_is_none(data: bytes) -> None:
    assert read_varint(as_bytes(data), 0) == (0, len(data) + 1)


# Headers


class Thrift:
    """Writes structures of the compact protocol, as its specification has them."""

    def __init__(self) -> None:
        self.data = b""
        self.last = [0]

    def _field(self, number: int, kind: int, short: bool) -> None:
        delta = number - self.last[-1]
        if short and 0 < delta < 16:
            self.data += bytes([delta << 4 | kind])
        else:
            self.data += bytes([kind]) + varint((number << 1) ^ (number >> 63))
        self.last[-1] = number

    def integer(self, number: int, value: int, kind: int = 5, short: bool = True) -> Thrift:
        self._field(number, kind, short)
        self.data += varint((value << 1) ^ (value >> 63) if value < 0 else value << 1)
        return self

    def flag(self, number: int, value: bool) -> Thrift:
        self._field(number, 1 if value else 2, True)
        return self

    def text(self, number: int, value: bytes) -> Thrift:
        self._field(number, 8, True)
        self.data += varint(len(value)) + value
        return self

    def double(self, number: int, value: float) -> Thrift:
        self._field(number, 7, True)
        self.data += struct.pack("<d", value)
        return self

    def byte(self, number: int, value: int) -> Thrift:
        self._field(number, 3, True)
        self.data += bytes([value])
        return self

    def begin(self, number: int) -> Thrift:
        self._field(number, 12, True)
        self.last.append(0)
        return self

    def end(self) -> Thrift:
        self.data += b"\0"
        self.last.pop()
        return self


def data_page(values: int, size: int, stored: int, *, checksum: bool = False) -> Thrift:
    header = Thrift().integer(1, pages.DATA_PAGE).integer(2, size).integer(3, stored)
    if checksum:
        header.integer(4, -5)
    return header.begin(5).integer(1, values).integer(2, 8).integer(3, 3).integer(4, 3)


def header_of(data: bytes) -> dict[str, int] | None:
    page = np.empty(FIELDS, np.int64)
    at = read_header(as_bytes(data), np.int64(0), page)
    if at > len(data):
        return None
    assert at == len(data)
    told = {name: int(page[getattr(pages, name)]) for name in FIELD_NAMES}
    return {name: value for name, value in told.items() if value != ABSENT}


def test_a_header_of_a_page_is_read() -> None:
    header = data_page(700, 4000, 3000).end().end().data
    assert header_of(header) == {
        "KIND": 0, "SIZE": 4000, "STORED": 3000, "VALUES": 700, "ENCODING": 8, "LEVEL_ENCODING": 3,
    }  # fmt: skip


def test_a_header_of_a_page_of_the_second_version_is_read() -> None:
    header = Thrift().integer(1, pages.DATA_PAGE_V2).integer(2, 90).integer(3, 80).begin(8)
    header.integer(1, 30).integer(2, 4).integer(3, 30).integer(4, 0).integer(5, 6).integer(6, 0)
    header.flag(7, False)
    assert header_of(header.end().end().data) == {
        "KIND": 3, "SIZE": 90, "STORED": 80, "VALUES": 30, "NULLS": 4, "ENCODING": 0, "LEVELS": 6,
        "REPETITION": 0, "PACKED": 0,
    }  # fmt: skip


def test_what_a_header_says_beside_that_is_passed_over() -> None:
    header = data_page(700, 4000, 3000, checksum=True)
    header.begin(5).text(1, b"\x15\x00most").text(2, b"").integer(3, 5, kind=6).integer(20, 9, short=False)
    header.flag(21, True).double(22, 3.5).byte(23, 7).begin(24).integer(1, 77).end().end().end()
    header.integer(19, 8, kind=4).begin(300).integer(1, 99).integer(2, 98).end().end()
    assert header_of(header.data) == {
        "KIND": 0, "SIZE": 4000, "STORED": 3000, "CHECKSUM": -5, "VALUES": 700, "ENCODING": 8,
        "LEVEL_ENCODING": 3,
    }  # fmt: skip


def test_a_header_that_is_cut_short_or_nests_too_deeply_is_none() -> None:
    whole = data_page(700, 4000, 3000).begin(5).text(1, b"least").end().end().end().data
    assert header_of(whole) is not None
    for size in range(len(whole)):
        assert header_of(whole[:size]) is None
    assert header_of(b"\x1c" * 40) is None  # structures inside structures
    assert header_of(b"\x18\xff\xff\xff\xff\x7f") is None  # a text beyond the end
    assert header_of(b"\x19\x15\x02\x00") is None  # a list, which no header has


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (data_page(5, 4, 4), True),
        (data_page(5, 4, 4, checksum=True), False),
        (data_page(6, 4, 4), False),
        (data_page(-5, 4, 4), False),
        (data_page(5, -1, 4), False),
        (data_page(5, 2**31, 4), False),
        (data_page(5, 4, 5), False),
        (data_page(5, 4, -1), False),
    ],
)
def test_pages_have_to_add_up_to_the_rows_of_the_chunk(header: Thrift, fits: bool) -> None:
    chunk = as_bytes(header.end().end().data + bytes(4))
    table = np.empty((4, FIELDS), np.int64)
    count, largest = walk_pages(chunk, 5, table)
    assert count == (1 if fits else -1)
    assert not fits or (largest == 4 and table[0, pages.BODY] == chunk.size - 4)
    assert walk_pages(chunk, 5, table[:0])[0] == -1  # no room in the table


# Compression


def shrunk(data: bytes) -> bytes:
    return bytes(pa.Codec("snappy").compress(data, asbytes=True))


def expanded(stored: bytes, size: int) -> tuple[bool, bytes]:
    """Whether bytes stand for `size` bytes, and these; nothing beside them is written."""
    target = np.full(size + 64, GUARD, np.uint8)
    source = np.concatenate([np.full(9, 7, np.uint8), as_bytes(stored)])
    done = decompress(source, 9, source.size, target[:size] if size else target[:0], size)
    assert (target[size:] == GUARD).all()
    return bool(done), target[:size].tobytes()


def floats_as_doubles(size: int) -> bytes:
    return np.random.default_rng(2).normal(size=size).astype(np.float32).astype(np.float64).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        bytes(100_000),
        b"abc" * 7000,
        b"abcdefg" * 3000,
        b"abcdefgh" * 3000,
        bytes(range(256)) * 300,
        np.random.default_rng(0).bytes(200_000),
        np.random.default_rng(1).integers(0, 3, 50_000).astype(np.uint8).tobytes(),
        floats_as_doubles(20_000),
        np.arange(30_000).astype(np.float64).tobytes(),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_bytes_come_out_of_compression(data: bytes) -> None:
    stored = shrunk(data)
    assert expanded(stored, len(data)) == (True, data)
    assert not expanded(stored, len(data) + 1)[0]
    assert not expanded(stored[:-1], len(data))[0]
    assert not data or not expanded(stored + b"\0\0", len(data))[0]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_repetitions_of_all_lengths_and_distances_come_out(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert expanded(shrunk(data), len(data)) == (True, data)


def test_long_distances_and_lengths_are_told_in_up_to_four_bytes() -> None:
    """What Arrow's compressor does not write: literals of 2 to 4 bytes of length, copies of 4 of distance."""
    text = np.random.default_rng(3).bytes(300)
    for extra in (2, 3, 4):
        literal = bytes([(59 + extra) << 2]) + (len(text) - 1).to_bytes(extra, "little") + text
        copy = bytes([(20 - 1) << 2 | 3]) + (299).to_bytes(4, "little")
        assert expanded(varint(320) + literal + copy, 320) == (True, text + text[1:21])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_mean_what_they_mean_to_arrow(data: st.DataObject) -> None:
    raw = floats_as_doubles(60) + b"abcd" * 20 + bytes(100)
    stored = bytearray(shrunk(raw))
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.integers(0, len(stored)))]
    done, got = expanded(bytes(stored), len(raw))
    if done:
        assert bytes(pa.Codec("snappy").decompress(bytes(stored), len(raw), asbytes=True)) == got


# Codes


@pytest.mark.parametrize("width", [0, 1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 18, 24, 25, 31])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 1000])
def test_codes_of_any_width_are_unpacked(width: int, count: int) -> None:
    want = np.random.default_rng(count).integers(0, 2**width, count)
    for behind in (b"", b"\xff" * 40):
        body = as_bytes(packed(want, width) + behind)
        codes = np.full(count + 3, -7, np.int32)
        unpack(body, 0, body.size, count, width, codes)
        assert codes[:count].tolist() == want.tolist()
        assert (codes[count:] == -7).all()


def hybrid(codes: np.ndarray, width: int, rng: np.random.Generator) -> bytes:
    """Runs of both kinds, each of a length by chance; the last bit-packed one is filled up."""
    out = bytes([width])
    at = 0
    while at < codes.size:
        same = int(np.argmax(np.append(codes[at:] != codes[at], True)))
        if same >= 3 and rng.random() < 0.7:
            run = int(rng.integers(1, same + 1))
            out += varint(run << 1) + int(codes[at]).to_bytes((width + 7) // 8, "little")
        else:
            groups = int(rng.integers(1, 200))
            run = 8 * groups
            some = codes[at : at + run]
            some = np.append(some, np.zeros(run - some.size, some.dtype))
            out += varint(groups << 1 | 1) + packed(some, width)
        at += run
    return out


def sink(become: int, rows: int, values: np.ndarray) -> tuple[Sink, np.ndarray]:
    kind = np.uint64 if become == EIGHT_BYTES else np.uint32
    out = np.full(rows, GUARD, kind)
    fours, eights = np.empty(0, np.uint32), np.empty(0, np.uint64)
    if become == EIGHT_BYTES:
        return Sink(become, out.view(np.uint8), fours, out, fours, values.astype(np.uint64)), out
    return Sink(become, out.view(np.uint8), out, eights, values.astype(np.uint32), eights), out


@pytest.mark.parametrize("become", [CODES, FOUR_BYTES, EIGHT_BYTES])
@pytest.mark.parametrize("width", [0, 1, 3, 8, 12, 18])
@pytest.mark.parametrize("count", [1, 9, STRIP - 1, STRIP, STRIP + 1, 9000])
def test_runs_of_codes_are_looked_up(become: int, width: int, count: int) -> None:
    rng = np.random.default_rng(count + width)
    size = 2**width
    codes = np.repeat(rng.integers(0, size, count), rng.choice([1, 1, 2, 9, 40, 3000], count))[:count]
    values = rng.integers(0, 2**31, size)
    body = as_bytes(b"\x09\x09" + hybrid(codes, width, rng))
    column, out = sink(become, count + 7, values)
    strip = np.empty(STRIP, np.int32)
    assert fill_coded(body, 2, body.size, count, size, column, 5, strip)
    want = codes if become == CODES else values[codes]
    assert out[5 : 5 + count].tolist() == want.tolist()
    assert (out[:5] == GUARD).all()
    assert (out[5 + count :] == GUARD).all()
    top = int(codes.max())  # a dictionary that does not have the largest code
    assert not fill_coded(body, 2, body.size, count, top, column, 5, strip)
    assert not fill_coded(body, 2, body.size - 1, count, size, column, 5, strip) or width == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",  # no run
        b"\x20\x02\x00\x00\x00\x00",  # codes of 32 bits
        b"\x1f\x02\xff\xff\xff\xff",  # a repeated code beyond what its width allows
        b"\x01\x00\x01\x00\x01",  # runs of nothing
        b"\x01\x80",  # a length that does not end
        b"\x01\xff\xff\xff\xff\xff\xff\xff\x7f",  # more groups than a page can hold
        b"\x01\x03",  # a group that is not there
    ],
    ids=lambda body: body.hex(),
)
def test_runs_that_make_no_sense_are_refused(body: bytes) -> None:
    column, _ = sink(FOUR_BYTES, 8, np.arange(2))
    assert not fill_coded(as_bytes(body), 0, len(body), 8, 2, column, 0, np.empty(STRIP, np.int32))


# Levels and texts


@pytest.mark.parametrize(
    ("levels", "full"),
    [
        (varint(9 << 1) + b"\1", True),
        (varint(4 << 1) + b"\1" + varint(5 << 1) + b"\1", True),
        (varint(8 << 1) + b"\1", False),  # of eight rows, not nine
        (varint(9 << 1) + b"\0", False),  # all nulls
        (b"\5\xff\xff", False),  # bit-packed
        (varint(9 << 1), False),
        (b"\0\1\0\1", False),
        (b"", False),
    ],
)
def test_levels_are_full_where_every_row_has_a_value(levels: bytes, full: bool) -> None:
    body = as_bytes(b"\1" + levels + b"\x12\1")
    assert levels_are_full(body, 1, 1 + len(levels), 9) == full


def test_texts_of_a_dictionary_are_split() -> None:
    texts = ["", "a", "ünïcode", "x" * 300]
    stored = [text.encode() for text in texts]
    memory = as_bytes(b"".join(struct.pack("<I", len(text)) + text for text in stored))
    split: Callable[..., bool] = split_texts
    size = memory.size - 4 * len(texts)
    offsets = np.empty(len(texts) + 1, np.int32)
    into = np.empty(size, np.uint8)
    assert split(memory, memory.size, len(texts), offsets, into)
    array = pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(into)])
    assert array.to_pylist() == texts
    assert not split(memory, memory.size - 1, len(texts), offsets, into)
    assert not split(memory, memory.size, len(texts) - 1, offsets, into)
    assert not split(memory, memory.size, len(texts), offsets, into[:-1])
    memory[3] = 255  # the first text is longer than all of them
    assert not split(memory, memory.size, len(texts), offsets, into)
