"""Codes and counts of levels against loops over rows."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr.kernels.levels import add_rows, count_levels, count_outcomes, look_up, recode


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_recoding_looks_every_index_up_and_tells_the_least(rows: int) -> None:
    rng = np.random.default_rng(rows)
    table = np.array([3, -1, 0, -5, 7], dtype=np.int32)
    indices = rng.integers(0, 5, rows).astype(np.int32)
    out = np.full(rows, 99, dtype=np.int32)
    least = recode(indices, table, out)
    assert out.tolist() == [table[i] for i in indices]
    assert least == min([0, *out.tolist()])


def test_counting_outcomes_adds_one_to_the_column_of_each() -> None:
    rng = np.random.default_rng(5)
    indices = rng.integers(0, 7, 500).astype(np.int32)
    outcomes = rng.integers(0, 4, 500).astype(np.int8)
    table = rng.integers(0, 9, (8, 4)).astype(np.float64)
    want = table.copy()
    np.add.at(want, (indices, outcomes), 1.0)
    count_outcomes(indices, outcomes, table)
    np.testing.assert_array_equal(table, want)


def test_counting_adds_the_amounts_of_every_row_to_its_level() -> None:
    rng = np.random.default_rng(3)
    indices = rng.integers(0, 4, 500).astype(np.int32)
    amounts = rng.integers(0, 9, (3, 500)).astype(np.float64)
    table = rng.integers(0, 9, (4, 4)).astype(np.float64)
    want = table.copy()
    for row in range(500):
        want[indices[row], :3] += amounts[:, row]
    count_levels(indices, amounts, table)
    np.testing.assert_array_equal(table, want)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_looking_up_values_in_a_table_of_their_range(rows: int) -> None:
    values = np.random.default_rng(rows).integers(-12, 3, rows)
    table = np.array([3, -1, 0, -5, 7], dtype=np.int32)
    out = np.full(rows, 99, dtype=np.int32)
    least = look_up(values, -10, table, -4, out)
    assert out.tolist() == [table[value + 10] if -10 <= value < -5 else -4 for value in values]
    assert least == min([0, *out.tolist()])


def test_adding_rows_to_the_places_they_belong_to() -> None:
    rng = np.random.default_rng(4)
    places = rng.integers(0, 7, 300).astype(np.int32)
    rows = rng.integers(0, 9, (300, 4)).astype(np.float64)
    table = rng.integers(0, 9, (7, 4)).astype(np.float64)
    want = table.copy()
    np.add.at(want, places, rows)
    add_rows(rows, places, table)
    np.testing.assert_array_equal(table, want)
