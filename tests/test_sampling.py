"""Which parts a sample is of: how many, spread how, and those that it is checked on outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from designs import design, factor, number

from streamlr.design.design import Design
from streamlr.design.profile import ProfileSums
from streamlr.sampling import Sample, sample_of


@dataclass(frozen=True)
class Piece:
    """A part of which only the number of rows is known."""

    number: int
    rows: int


@dataclass(frozen=True)
class Pieces:
    """A source of which only the parts are known."""

    parts: Sequence[Piece]
    known: bool = True

    @property
    def rows(self) -> int | None:
        return sum(piece.rows for piece in self.parts) if self.known else None


def pieces(count: int, rows: int, **options: Any) -> Any:
    return Pieces([Piece(i, rows) for i in range(count)], **options)


def design_of(numbers: int, levels: Sequence[int] = (), trials: str | None = None) -> Design:
    terms = [number(f"x{j}") for j in range(numbers)]
    factors = [factor(f"g{f}", [f"l{i}" for i in range(count)], "other") for f, count in enumerate(levels)]
    return design(*terms, *factors, trials=trials)


def profile_of(successes: float, failures: float, *, trials: bool = False) -> ProfileSums:
    profile = ProfileSums()
    if trials:
        profile.successes, profile.failures = successes, failures
    else:
        profile.outcome_weight = {1: successes, 0: failures}
    return profile


def numbers_of(parts: Sequence[Any]) -> list[int]:
    return [part.number for part in parts]


HALF = profile_of(0.5, 0.5)


def rows_of(sample: Sample) -> int:
    return sum(part.rows for part in sample.stages[-1])


def test_small_data_have_no_sample() -> None:
    """Rows times columns, an intercept and factors included, decide: 40 million values are the border."""
    design = design_of(18, [3])  # twenty columns and codes
    assert sample_of(pieces(20, 99_999), design, HALF) is None
    assert sample_of(pieces(20, 100_000), design, HALF) is not None


def test_data_of_unknown_length_have_no_sample() -> None:
    assert sample_of(pieces(100, 1_000_000, known=False), design_of(9), HALF) is None


def test_data_in_few_parts_have_no_sample() -> None:
    """A part is the least to read, and two thirds of the data at least are left out."""
    assert sample_of(pieces(2, 50_000_000), design_of(9), HALF) is None
    assert sample_of(pieces(3, 50_000_000), design_of(9), HALF) is not None
    # 2,000 columns want 200,000 rows of a million: two parts of ten, but not two of five.
    wide = design_of(1999)
    assert len(sample_of(pieces(10, 100_000), wide, HALF).stages[-1]) == 2
    assert len(sample_of(pieces(5, 200_000), wide, HALF).stages[-1]) == 1
    assert sample_of(pieces(2, 500_000), wide, HALF) is None


@pytest.mark.parametrize(
    ("count", "rows", "columns", "wanted"),
    [
        (100, 50_000, 10, 250_000),  # a twentieth
        (100, 10_000_000, 10, 10_000_000),  # 500,000, of which a part is more
        (10_000, 100_000, 41, 500_000),
        (100, 10_000, 41, 100_000),  # at least so many
        (1_000, 10_000, 7_000, 700_000),  # a hundred rows a coefficient
        (100, 10_000, 9_000, 200_000),  # and never more than a fifth
    ],
)
def test_the_size_of_a_sample(count: int, rows: int, columns: int, wanted: int) -> None:
    sample = sample_of(pieces(count, rows), design_of(columns - 1), HALF)
    assert sample is not None
    assert rows_of(sample) == wanted
    assert not sample.is_large


@pytest.mark.parametrize(
    ("rows", "columns", "share", "wanted"),
    [
        (44, 29, 0.5, 7),  # of 11 million rows 1.75 million and a little more
        (400, 29, 0.5, 10),  # of ten times as many half more
        (44, 15, 0.5, 0),  # 165 million values are too few
        (120, 15, 0.5, 5),
        (44, 41, 0.5, 0),  # too many columns
        (44, 29, 0.1, 0),  # of outcomes that are rare, more rows would be needed than is worth it
        (120, 29, 0.1, 20),
    ],
)
def test_the_size_of_a_large_sample(rows: int, columns: int, share: float, wanted: int) -> None:
    """Parts of 250,000 rows; 0: none. It starts with what a sample is otherwise."""
    sample = sample_of(pieces(rows, 250_000), design_of(columns - 1), profile_of(share, 1 - share))
    assert sample is not None
    assert sample.is_large == (wanted > 0)
    if wanted:
        assert [len(stage) for stage in sample.stages] == [2, wanted]
        first, large = (set(numbers_of(stage)) for stage in sample.stages)
        assert first < large
        assert len(large) == wanted
        assert len(sample.checks) == 2
        assert not set(numbers_of(sample.checks)) & large


def test_a_large_sample_is_not_every_so_many_parts() -> None:
    """Of files that repeat each other it has different parts."""
    sample = sample_of(pieces(4_004, 250_000), design_of(28), HALF)
    assert sample is not None
    large = numbers_of(sample.stages[-1])
    assert len({number % 44 for number in large}) >= len(large) - 2
    runs = [number * len(large) // 4_004 for number in large]
    assert runs == list(range(len(large)))


def test_factors_have_no_large_sample() -> None:
    """Fourth powers are summed along dense columns alone."""
    sample = sample_of(pieces(44, 250_000), design_of(28, [3]), HALF)
    assert sample is not None
    assert not sample.is_large


@pytest.mark.parametrize("trials", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.003, 0.997])
def test_a_sample_has_enough_of_the_rarer_outcome(share: float, trials: bool) -> None:
    """Twenty a coefficient: 2,000 of a share of 0.003 are 667,000 rows."""
    design = design_of(99, trials="n" if trials else None)
    profile = profile_of(share, 1 - share, trials=trials)
    sample = sample_of(pieces(1_000, 10_000), design, profile)
    assert sample is not None
    # Rounded to whole parts.
    assert rows_of(sample) * min(share, 1 - share) >= 20 * 100 - 10_000 * 0.5
    assert rows_of(sample) == max(500_000, round(20 * 100 / min(share, 1 - share), -4))


def test_a_sample_is_spread_over_the_data_and_the_check_lies_between() -> None:
    sample = sample_of(pieces(103, 100_000), design_of(40), HALF)
    assert sample is not None
    chosen = numbers_of(sample.stages[-1])
    assert len(chosen) == 5
    assert chosen[0] == 0
    # Evenly: no gap differs from a fifth of the parts by more than rounding, nor the one behind the last.
    gaps = np.diff([*chosen, 103])
    assert set(gaps) <= {20, 21}
    assert numbers_of(sample.checks) == [10, 51]


@pytest.mark.parametrize("numbers", [10, 400])
@pytest.mark.parametrize("count", [3, 4, 7, 20, 29, 64, 501])
def test_the_check_is_outside_and_stages_are_nested(count: int, numbers: int) -> None:
    sample = sample_of(pieces(count, 10_000_000 // count), design_of(numbers), HALF)
    assert sample is not None
    chosen = numbers_of(sample.stages[-1])
    assert chosen == sorted(set(chosen))
    assert 1 <= len(sample.checks) <= 2
    assert not {part.number for part in sample.checks} & set(chosen)
    assert 3 * len(chosen) <= count
    for small, large in zip(sample.stages, sample.stages[1:], strict=False):
        assert 0 < len(small) < len(large)
        assert set(numbers_of(small)) < set(numbers_of(large))
    # Only a dear Hessian is worth a stage of its own, and only of several parts.
    assert len(sample.stages) == (2 if numbers >= 256 and len(chosen) > 2 else 1)


def test_a_sample_is_the_same_every_time() -> None:
    source, design = pieces(77, 90_000), design_of(300, [5])
    first, again = (sample_of(source, design, profile_of(0.1, 0.9)) for _ in range(2))
    assert first is not None
    assert first == again
