"""Levels of factors by the hundred thousand: counted, sorted and looked up as Arrow and NumPy arrays.

A profile counts levels in a table that grows by Arrow's own hashing; a frozen factor finds the codes of a
batch by a table over the range of its integers, by bisection, or by hashing text. No step holds the
interpreter for a level at a time, which takes a microsecond each and is what a million levels cannot afford.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow._compute import SetLookupOptions, call_function

from streamlr.design.columns import Level, coded, entries_of, level_of, plain
from streamlr.kernels.levels import add_rows, count_levels, count_outcomes, look_up, recode

# A factor beyond this is given up with advice; a dense Hessian of this many columns would need 80 GB.
MAXIMUM_LEVELS = 100_000
# An absorbed factor needs some hundred bytes a level and column instead.
MAXIMUM_ABSORBED = 1 << 22
ROWS, FIRST, SECOND, OTHER = range(4)
# Integer levels are looked up in a table over their range while it has no more than this many entries a
# level (4 bytes each), or no more than a first-level cache holds.
TABLE_A_LEVEL = 8
SMALL_TABLE = 1 << 13

# Entries of a dictionary whose hashing leaves memory worth giving back.
MANY = 1 << 14

Table = NDArray[np.float64]


class LevelCounts:
    """Rows used and weight by outcome of every level of a factor; nothing above `limit` levels.

    `entries`: the levels, in the order they came, and `table` (m, 4) their ROWS, weight of the FIRST and the
    SECOND outcome, and of any OTHER. `without`: the same of rows that have no value and are used.
    `passed_over`: levels of rows that are not used, where they are wanted.
    """

    def __init__(self, limit: int = MAXIMUM_LEVELS, *, list_passed_over: bool = True) -> None:
        self.limit = limit
        self.entries: pa.Array | None = None
        self.table: Table = np.zeros((0, 4))
        self.without: Table = np.zeros(4)
        self.too_many = False
        self.passed_over: set[Level] = set()
        self._list_passed_over = list_passed_over
        self._dictionary: pa.Array | None = None
        self._counts: Table = np.zeros((0, 4))  # of the dictionary at hand
        self._by_outcome = False  # they have yet to be added up

    def add(
        self,
        codes: pa.DictionaryArray,
        unused: NDArray[np.bool_] | None,
        amounts: NDArray[Any],
    ) -> None:
        """Add the `amounts` (3, n) of each row to the first columns of its level, zeros where `unused`; or
        where every row weighs one its outcome (n,), the column that it belongs to, ROWS where unused."""
        if self.too_many:
            return
        if self._dictionary is None or not codes.dictionary.equals(self._dictionary):
            self.flush()
            self._dictionary = codes.dictionary
            self._counts = np.zeros((len(codes.dictionary) + 1, 4))  # null rows have the last entry
        entries = entries_of(codes, len(codes.dictionary))
        if amounts.ndim == 1:
            count_outcomes(entries, amounts, self._counts)
            self._by_outcome = True
        else:
            count_levels(entries, amounts, self._counts)
        if unused is not None and self._list_passed_over and len(self.passed_over) <= self.limit:
            others = np.unique(entries[unused & plain(call_function("is_valid", [codes]))])
            values = _taken(self._dictionary, others).to_pylist()
            self.passed_over.update(level for level in map(level_of, values) if level is not None)

    def flush(self) -> None:
        """Move the counts of the dictionary at hand to the levels that its entries stand for."""
        if self._dictionary is None:
            return
        if self._by_outcome:
            self._counts[:, ROWS] = self._counts[:, ROWS + 1 :].sum(axis=1)
        self.without = self.without + self._counts[-1]
        places = np.flatnonzero(self._counts[:-1, ROWS])
        if places.size:
            self._join(_taken(self._dictionary, places), self._counts[places])
        if len(self._dictionary) > MANY:
            # What hashing so many took: Arrow would keep it, thread by thread (126 MB for 200,000 levels).
            pa.default_memory_pool().release_unused()
        self._dictionary, self._counts = None, np.zeros((0, 4))

    def merge(self, other: LevelCounts, columns: Sequence[int]) -> None:
        """Add another part's counts, whose columns are ours in the order `columns`."""
        self.passed_over |= other.passed_over
        self.too_many = self.too_many or other.too_many
        for theirs, ours in enumerate(columns):
            self.without[ours] += other.without[theirs]
        if self.too_many or other.entries is None:
            return
        moved = np.zeros_like(other.table)
        for theirs, ours in enumerate(columns):
            moved[:, ours] += other.table[:, theirs]
        self._join(other.entries, moved)

    def _join(self, entries: pa.Array, table: Table) -> None:
        """Add the counts of some entries, among which one may stand twice, a null or NaN too."""
        known = _is_known(entries)
        if not known.all():
            self.without = self.without + table[~known].sum(axis=0)
            entries, table = _taken(entries, np.flatnonzero(known)), table[known]
        before = len(self)
        if self.entries is not None:
            entries = entries if entries.type == self.entries.type else entries.cast(self.entries.type)
            entries = pa.concat_arrays([self.entries, entries])
        codes = coded(entries)
        self.entries = codes.dictionary
        if len(self.entries) > self.limit:
            self.too_many, self.entries, self.table = True, None, np.zeros((0, 4))
            return
        joined = np.zeros((len(self.entries), 4))
        joined[:before] = self.table  # codes count entries as they come, and ours come first
        add_rows(table, entries_of(codes)[before:], joined)
        self.table = joined

    @property
    def counts(self) -> dict[Level | None, Table] | None:
        """(4,) by level, None the one of rows without a value; None above the limit."""
        if self.too_many:
            return None
        found: dict[Level | None, Table] = {}
        for level, row in zip(self.levels, self.table, strict=True):
            found[level] = row + found[level] if level in found else row
        if self.without[ROWS]:
            found[None] = self.without
        return found

    @property
    def levels(self) -> list[Level]:
        """The levels in the order of `table`."""
        return [] if self.entries is None else _as_levels(self.entries)

    def __len__(self) -> int:
        return len(self.table)

    def single_outcome(self, first_is_positive: bool) -> dict[Level, int]:
        """Levels whose rows have one outcome only, with that outcome: the coefficient would be infinite."""
        first = self.table[:, FIRST] > 0
        places = np.flatnonzero(first != (self.table[:, SECOND] > 0))
        if not places.size or self.entries is None:
            return {}
        levels = _as_levels(_taken(self.entries, places))
        outcomes = (first[places] == first_is_positive).astype(int).tolist()
        return dict(zip(levels, outcomes, strict=True))

    @property
    def rows_with_one_outcome(self) -> int:
        """Rows of those levels."""
        one = (self.table[:, FIRST] > 0) != (self.table[:, SECOND] > 0)
        return int(self.table[one, ROWS].sum())


def _taken(entries: pa.Array, places: NDArray[Any]) -> pa.Array:
    """The entries at `places`. `pa.array` would do for these, but imports pandas."""
    values = np.ascontiguousarray(places, dtype=np.int64)
    buffers = [None, pa.py_buffer(values)]
    return call_function("take", [entries, pa.Array.from_buffers(pa.int64(), len(values), buffers)])


def _is_known(entries: pa.Array) -> NDArray[np.bool_]:
    """(m,) which entries are levels: neither null nor NaN."""
    known = plain(call_function("is_valid", [entries]))
    if pa.types.is_floating(entries.type):
        known = known & ~np.isnan(plain(entries))
    return known


def _as_levels(entries: pa.Array) -> list[Any]:
    """Entries without nulls as levels."""
    if pa.types.is_integer(entries.type):
        return plain(entries).tolist()
    values = entries.to_pylist()
    return [level_of(value) for value in values] if pa.types.is_decimal(entries.type) else values


def _compared(function: str, entries: pa.Array, values: pa.Array) -> pa.Array:
    """Which `entries` are one of some values (`is_in`), or which one each is (`index_in`), null for none."""
    return call_function(function, [entries], SetLookupOptions(values))


def is_among(codes: pa.DictionaryArray, levels: frozenset[Level]) -> NDArray[np.bool_]:
    """(n,) which rows have one of the levels; a row without a value may be either."""
    dictionary = codes.dictionary
    kind = dictionary.type
    if len(dictionary) and (pa.types.is_integer(kind) or pa.types.is_string(kind)):
        wanted = plain(_compared("is_in", dictionary, pa.array(list(levels), type=kind)))
    else:
        wanted = np.array([level_of(value) in levels for value in dictionary.to_pylist()] or [False])
    return wanted[entries_of(codes)]


class LevelIndex:
    """Codes of levels by the hundred thousand, built once for a factor and shared by all who encode it."""

    def __init__(self, levels: Sequence[Level], codes: NDArray[np.int32], unknown: int, missing: int) -> None:
        """`codes` (m,) of the `levels`; `unknown` for any other value, `missing` for null and NaN."""
        self.unknown, self.missing = unknown, missing
        self._codes = codes
        self._integers: NDArray[np.int64] | None = None
        self._texts: pa.Array | None = None
        self._others: dict[Level, int] = {}
        self._low = 0
        self._table: NDArray[np.int32] | None = None
        types = {type(level) for level in levels}
        if types == {int} and min(levels) >= -(1 << 63) and max(levels) < 1 << 63:  # type: ignore[operator]
            self._index_integers(np.array(levels, dtype=np.int64))
        elif types == {str}:
            self._texts = pa.array(levels, type=pa.string())
        else:
            self._others = dict(zip(levels, codes.tolist(), strict=True))

    def _index_integers(self, values: NDArray[np.int64]) -> None:
        order = np.argsort(values, kind="stable")
        self._integers, self._codes = values[order], self._codes[order]
        low, high = int(self._integers[0]), int(self._integers[-1])
        if high - low < max(TABLE_A_LEVEL * len(values), SMALL_TABLE):
            self._low = low
            self._table = np.full(high - low + 1, self.unknown, dtype=np.int32)
            self._table[values[order] - low] = self._codes

    def of_integers(self, array: pa.Array, out: NDArray[np.int32]) -> int | None:
        """Write the codes of an integer column into `out` (n,) and return the least of them and zero; None,
        and nothing written, where levels are no integers or spread too far for a table."""
        kind = array.type
        if self._table is None or not pa.types.is_integer(kind) or pa.types.is_uint64(kind):
            return None
        values = plain(array).astype(np.int64, copy=False)
        least: int = look_up(values, self._low, self._table, self.unknown, out)
        if array.null_count:
            out[plain(array.is_null())] = self.missing
            least = int(out.min(initial=0))
        return least

    def of_entries(self, entries: pa.Array) -> NDArray[np.int32]:
        """(m,) codes of the entries of a dictionary."""
        kind = entries.type
        if not len(entries):
            return np.empty(0, dtype=np.int32)
        if self._integers is not None and pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
            values = plain(entries).astype(np.int64, copy=False)
            places = np.minimum(np.searchsorted(self._integers, values), len(self._integers) - 1)
            codes = np.where(self._integers[places] == values, self._codes[places], self.unknown)
        elif self._texts is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            if kind != self._texts.type:
                self._texts = self._texts.cast(kind)
            found = _compared("index_in", entries, self._texts)
            places = entries_of(pa.DictionaryArray.from_arrays(found, self._texts), -1)
            codes = np.where(places >= 0, self._codes[places], self.unknown)
        else:
            return np.array(
                [
                    self.missing if level is None else self._others_of().get(level, self.unknown)
                    for level in map(level_of, entries.to_pylist())
                ],
                dtype=np.int32,
            )
        if entries.null_count:
            codes[~plain(call_function("is_valid", [entries]))] = self.missing
        return codes.astype(np.int32, copy=False)

    def _others_of(self) -> dict[Level, int]:
        """Codes by level, for columns of another type than the one that was counted."""
        if not self._others:
            levels: Any = self._texts.to_pylist() if self._texts is not None else self._integers
            self._others = dict(zip(list(levels), self._codes.tolist(), strict=True))
        return self._others


class IndexedRecoder:
    """Turns a column into codes by an index, remembering the last dictionary; see `columns.Recoder`."""

    def __init__(self, index: LevelIndex) -> None:
        self._index = index
        self._dictionary: pa.Array | None = None
        self._table = np.empty(0, dtype=np.int32)

    def codes(self, array: pa.Array, out: NDArray[np.int32]) -> int:
        """Write the own code of every row into `out` (n,); returns the least of them and zero."""
        least = self._index.of_integers(array, out)
        if least is not None:
            return least
        codes = coded(array)
        if self._dictionary is None or not codes.dictionary.equals(self._dictionary):
            # The last entry is where null rows point.
            entries = self._index.of_entries(codes.dictionary)
            self._table = np.append(entries, np.int32(self._index.missing))
            self._dictionary = codes.dictionary
        found: int = recode(entries_of(codes, len(codes.dictionary)), self._table, out)
        return found
