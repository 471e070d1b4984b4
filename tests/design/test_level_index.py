"""Levels by the hundred thousand: counted and looked up as with a dictionary, which is the reference."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamlr.design import levels as module
from streamlr.design.columns import coded, level_of
from streamlr.design.levels import (
    FIRST,
    OTHER,
    ROWS,
    SECOND,
    IndexedRecoder,
    LevelCounts,
    LevelIndex,
    is_among,
)

UNKNOWN, MISSING = -4, -5

COLUMNS: dict[str, pa.Array] = {
    "int64": pa.array([5, -3, None, 5, 2**40, 7, -3, 0]),
    "int8": pa.array([5, -3, None, 5, 100, 7, -3, 0], pa.int8()),
    "uint8": pa.array([5, 200, None, 5, 100, 7, 200, 0], pa.uint8()),
    "uint64": pa.array([5, 2**63 + 5, None, 5, 2**40, 7, 2**63, 0], pa.uint64()),
    "text": pa.array(["b", "a", None, "b", "", "ü", "a", "Z"]),
    "large text": pa.array(["b", "a", None, "b", "", "ü", "a", "Z"], pa.large_string()),
    "view": pa.array(["b", "a", None, "b", "", "ü", "a", "Z"]).cast(pa.string_view()),
    "float": pa.array([1.5, -2.0, None, 1.5, float("nan"), 0.0, -2.0, 9.0]),
    "truth": pa.array([True, False, None, True, True, True, False, False]),
    "decimal": pa.array([None if i == 2 else decimal.Decimal(i % 3) for i in range(8)], pa.decimal128(5, 2)),
    "categories": pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None, 1, 3, 4, 0, 2]), pa.array(["a", "b", None, "a", "c"])
    ),
}
each_column = pytest.mark.parametrize("name", COLUMNS)


def amounts_of(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2, n)
    return np.array([np.ones(n), first * 2.0, (1 - first) * 3.0])


def by_dictionary(parts: Sequence[pa.Array], amounts: Sequence[np.ndarray]) -> dict[Any, np.ndarray]:
    counts: dict[Any, np.ndarray] = {}
    for part, amount in zip(parts, amounts, strict=True):
        for value, row in zip(part.to_pylist(), amount.T, strict=True):
            level = level_of(value)
            if level is not None:
                counts[level] = counts.get(level, np.zeros(4)) + np.r_[row, 0.0]
    return counts


def check_counts(found: LevelCounts, expected: dict[Any, np.ndarray]) -> None:
    counts = found.counts
    assert counts is not None
    assert counts.keys() == expected.keys()
    assert {type(level) for level in counts} == {type(level) for level in expected}
    for level, row in expected.items():
        np.testing.assert_array_equal(counts[level], row)


@each_column
def test_counts_are_those_of_a_dictionary(name: str) -> None:
    column = COLUMNS[name]
    parts = [column.slice(0, 5), column.slice(3), column, column.slice(2, 1)]
    amounts = [amounts_of(len(part), seed) for seed, part in enumerate(parts)]
    for amount, part in zip(amounts, parts, strict=True):
        amount[:, [level_of(value) is None for value in part.to_pylist()]] = 0.0
    whole = LevelCounts()
    for part, amount in zip(parts, amounts, strict=True):
        whole.add(coded(part), None, amount)
    whole.flush()
    check_counts(whole, by_dictionary(parts, amounts))

    merged = LevelCounts()
    for part, amount in zip(parts, amounts, strict=True):
        one = LevelCounts()
        one.add(coded(part), None, amount)
        one.flush()
        merged.merge(one, [ROWS, FIRST, SECOND, OTHER])
    check_counts(merged, by_dictionary(parts, amounts))


def test_outcomes_met_in_another_order_are_added_to_their_own() -> None:
    column = pa.array([1, 2, 1])
    one, other = LevelCounts(), LevelCounts()
    one.add(coded(column), None, np.array([[1, 1, 1], [1, 0, 0], [0, 5, 0]], dtype=float))
    other.add(coded(column), None, np.array([[1, 1, 1], [7, 0, 0], [0, 0, 3]], dtype=float))
    one.flush()
    other.flush()
    one.merge(other, [ROWS, SECOND, OTHER, OTHER])
    assert one.counts is not None
    assert {level: row.tolist() for level, row in one.counts.items()} == {1: [4, 1, 7, 3], 2: [2, 0, 5, 0]}


def test_rows_that_are_not_used_are_passed_over() -> None:
    column = pa.array(["a", "b", None, "c", "b"])
    unused = np.array([True, False, True, True, False])
    counts = LevelCounts()
    counts.add(coded(column), unused, np.where(unused, 0.0, amounts_of(5)))
    counts.flush()
    assert counts.levels == ["b"]
    assert counts.passed_over == {"a", "c"}
    quiet = LevelCounts(list_passed_over=False)
    quiet.add(coded(column), unused, np.where(unused, 0.0, amounts_of(5)))
    assert not quiet.passed_over


@each_column
def test_outcomes_of_rows_that_weigh_one_are_counted_like_amounts(name: str) -> None:
    """Over two batches with one dictionary, one with another, and rows that are not used."""
    column = COLUMNS[name]
    rng = np.random.default_rng(8)
    by_outcome, by_amounts = LevelCounts(), LevelCounts()
    for part in (column, column, column.slice(3)):
        outcome = rng.choice([FIRST, SECOND, OTHER], len(part)).astype(np.int8)
        unused = rng.random(len(part)) < 0.3
        amounts = np.array([np.ones(len(part)), outcome == FIRST, outcome == SECOND]) * ~unused
        by_outcome.add(coded(part), unused, np.where(unused, ROWS, outcome).astype(np.int8))
        by_amounts.add(coded(part), unused, amounts)
    by_outcome.flush()
    by_amounts.flush()
    assert by_outcome.levels == by_amounts.levels
    assert by_outcome.passed_over == by_amounts.passed_over
    np.testing.assert_array_equal(by_outcome.table[:, :OTHER], by_amounts.table[:, :OTHER])
    np.testing.assert_array_equal(by_outcome.table[:, ROWS], by_outcome.table[:, ROWS + 1 :].sum(axis=1))
    np.testing.assert_array_equal(by_outcome.without[:OTHER], by_amounts.without[:OTHER])


def test_above_the_limit_nothing_is_held() -> None:
    for by_merging in (False, True):
        counts = LevelCounts(3)
        for values in ([1, 2], [2, 3], [4]):
            one = LevelCounts(3) if by_merging else counts
            one.add(coded(pa.array(values)), None, amounts_of(len(values)))
            one.flush()
            if by_merging:
                counts.merge(one, [ROWS, FIRST, SECOND, OTHER])
            assert counts.too_many == (values == [4])
        assert counts.counts is None
        assert counts.entries is None
        late = LevelCounts(3)
        late.merge(counts, [ROWS, FIRST, SECOND, OTHER])
        assert late.too_many


def test_single_outcomes() -> None:
    counts = LevelCounts()
    amounts = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 0, 0, 2]], dtype=float)
    counts.add(coded(pa.array(["a", "a", "b", "zero", "c"])), None, amounts)
    counts.flush()
    assert counts.single_outcome(True) == {"b": 1, "c": 0}
    assert counts.single_outcome(False) == {"b": 0, "c": 1}
    assert counts.rows_with_one_outcome == 2


@each_column
def test_membership(name: str) -> None:
    column = COLUMNS[name]
    values = [level_of(value) for value in column.to_pylist()]
    wanted = frozenset(value for value in values[3:6] if value is not None)
    found = is_among(coded(column), wanted)
    for value, is_wanted in zip(values, found, strict=True):
        if value is not None:
            assert is_wanted == (value in wanted)


@each_column
@pytest.mark.parametrize("table", [True, False])
def test_codes_are_those_of_a_dictionary(name: str, table: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a table over the range, by bisection, by hashing, and by a dictionary as the last resort."""
    monkeypatch.setattr(module, "TABLE_A_LEVEL", 1 << 50 if table and name != "int64" else 0)
    monkeypatch.setattr(module, "SMALL_TABLE", 0)
    column = COLUMNS[name]
    values = [level_of(value) for value in column.to_pylist()]
    known = [value for value in dict.fromkeys(values) if value is not None][::-1][1:]
    codes = np.arange(len(known), dtype=np.int32)
    codes[0] = -2
    index = LevelIndex(known, codes, UNKNOWN, MISSING)
    by_level = dict(zip(known, codes.tolist(), strict=True))
    recoder = IndexedRecoder(index)
    for first, length in [(0, 8), (0, 8), (1, 3), (0, 0), (2, 1), (4, 4)]:
        part = column.slice(first, length)
        expected = [
            MISSING if level_of(value) is None else by_level.get(level_of(value), UNKNOWN)
            for value in part.to_pylist()
        ]
        out = np.empty(len(part), dtype=np.int32)
        assert recoder.codes(part, out) == min([0, *expected])
        assert out.tolist() == expected


def test_values_beyond_the_table_are_unknown() -> None:
    index = LevelIndex([10, 12], np.arange(2, dtype=np.int32), UNKNOWN, MISSING)
    values = pa.array([9, 10, 11, 12, 13, -(2**63), 2**63 - 1, None])
    out = np.empty(8, dtype=np.int32)
    assert IndexedRecoder(index).codes(values, out) == MISSING
    assert out.tolist() == [UNKNOWN, 0, UNKNOWN, 1, UNKNOWN, UNKNOWN, UNKNOWN, MISSING]


def test_a_column_of_another_type_than_the_levels() -> None:
    """Numbers that are equal are one level, whatever their type; text is none of them."""
    index = LevelIndex([10, 12], np.arange(2, dtype=np.int32), UNKNOWN, MISSING)
    out = np.empty(3, dtype=np.int32)
    IndexedRecoder(index).codes(pa.array([12.0, 10.5, None]), out)
    assert out.tolist() == [1, UNKNOWN, MISSING]
    IndexedRecoder(index).codes(pa.array(["12", None, "x"]), out)
    assert out.tolist() == [UNKNOWN, MISSING, UNKNOWN]
    texts = LevelIndex(["a", "b"], np.arange(2, dtype=np.int32), UNKNOWN, MISSING)
    IndexedRecoder(texts).codes(pa.array([1, 2, None]), out)
    assert out.tolist() == [UNKNOWN, UNKNOWN, MISSING]
