"""Sizes as people write them, and what the machine is asked."""

from __future__ import annotations

import os

import pytest

from streamlr.errors import StreamlrError
from streamlr.passes.memory import (
    available_cores,
    available_memory,
    format_size,
    parse_size,
    peak_resident_bytes,
    resident_bytes,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (4_000_000_000, 4_000_000_000),
        ("123", 123),
        ("123B", 123),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("512m", 512_000_000),
        ("512MiB", 512 * 2**20),
        ("512mi", 512 * 2**20),
        (" 4GB ", 4_000_000_000),
        ("4GiB", 4 * 2**30),
        ("1.5g", 1_500_000_000),
        ("0.5 KiB", 512),
        ("2k", 2_000),
        ("1T", 10**12),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "4 bytes", "4XB", "1e9", "-4GB", "4,000", "1.GB", ".5GB", "4 G B", "4iB", "nan", True]
)
def test_what_is_no_size_is_refused(text: str | bool) -> None:
    with pytest.raises(StreamlrError, match="as a size; write 512MB or 4GB"):
        parse_size(text)


@pytest.mark.parametrize("text", [0, -1, "0", "0GB", "0.0001B"])
def test_a_limit_must_be_positive(text: str | int) -> None:
    with pytest.raises(StreamlrError, match="must be positive"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (64_400, "64 kB"),
        (1_000_000, "1 MB"),
        (1_230_000, "1.23 MB"),
        (512_000_000, "512 MB"),
        (13_600_000_000, "13.6 GB"),
        (10**12, "1 TB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_sizes_are_written(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(999_600, "1 MB"), (999_600_000, "1 GB"), (999_900_000_000, "1 TB"), (1.5e15, "1500 TB")],
)
def test_sizes_that_round_up_to_the_next_unit(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("size", [1, 999, 1_000, 12_345, 9_876_543, 123_456_789, 45_678_901_234])
def test_a_size_written_reads_as_the_same_size(size: int) -> None:
    # Whole kilobytes and three digits above: half a unit in the first digit left out.
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.05)


def test_the_machine_is_within_reason() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert available_memory() > 10_000_000
    now = resident_bytes()
    assert 10_000_000 < now < 100_000_000_000
    # Linux updates the two figures at different times, by some hundred kilobytes.
    assert peak_resident_bytes() > now - 1_000_000
