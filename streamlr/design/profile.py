"""What a pass over the rows teaches before a design can be frozen: levels, outcomes, counts, faults.

The profile reads the outcome, the factors, weights and the like, and those numeric columns whose metadata do
not rule out nulls, because levels count only in rows that are used. It is a pass like any other: sums are
added batch by batch and merged part by part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamlr.design.columns import Level, coded, entries_of, has_nan, level_of, numbers, plain
from streamlr.design.levels import (
    FIRST,
    MAXIMUM_ABSORBED,
    OTHER,
    ROWS,
    SECOND,
    LevelCounts,
    is_among,
)
from streamlr.design.spec import Spec

# More outcomes than this are not listed; two are wanted.
MAXIMUM_OUTCOMES = 1_000


@dataclass(frozen=True)
class ProfileTask:
    """What to profile: the columns, and levels whose rows are set aside already."""

    spec: Spec
    columns: tuple[str, ...]
    factors: tuple[str, ...]
    set_aside: Mapping[str, frozenset[Level]]
    batch_rows: int = 65_536
    cells: int = 0

    @property
    def coded(self) -> tuple[str, ...]:
        """Columns best read as dictionary codes."""
        return self.factors

    def has(self, part: Any) -> bool:
        """No: every row is read."""
        return False

    def counts_for(self, column: str) -> LevelCounts:
        """Counts of a factor's levels, none of them yet."""
        if column == self.spec.absorbed:
            return LevelCounts(MAXIMUM_ABSORBED, list_passed_over=False)
        return LevelCounts()

    def __call__(self, parts: Sequence[Any]) -> ProfileSums:
        """The sums of one leaf."""
        sums = ProfileSums()
        for part in parts:
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                sums.add(batch, self)
        sums.flush()
        return sums


@dataclass
class ProfileSums:
    """Counts over rows; `outcomes` are the target's values with their rows, in the order they came."""

    rows_read: int = 0
    rows_used: int = 0
    rows_set_aside: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    infinite: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: dict[Level, int] = field(default_factory=dict)
    outcome_weight: dict[Level, float] = field(default_factory=dict)
    factors: dict[str, LevelCounts] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    successes: float = 0.0
    failures: float = 0.0
    offset_sum: float = 0.0

    def add(self, batch: pa.RecordBatch, task: ProfileTask) -> None:
        """Count the rows of a batch."""
        spec = task.spec
        n = batch.num_rows
        self.rows_read += n
        values: dict[str, NDArray[Any]] = {}
        codes: dict[str, pa.DictionaryArray] = {}
        unused: NDArray[np.bool_] | None = None
        for name, array in zip(task.columns, batch.columns, strict=True):
            if name in task.factors or (name == spec.target and spec.trials is None):
                codes[name] = coded(array)
                gaps = _missing_codes(codes[name])
            else:
                values[name] = numbers(array, name)
                gaps = np.isnan(values[name]) if has_gaps(values[name]) else None
            if gaps is not None and name != spec.weights:
                self.missing[name] += int(np.count_nonzero(gaps))
                unused = gaps if unused is None else unused | gaps
        weight = self._checked_weight(values, spec)
        for name, levels in task.set_aside.items():
            aside = is_among(codes[name], levels)
            if unused is not None:
                aside &= ~unused
            count = int(np.count_nonzero(aside))
            if count:
                self.rows_set_aside += count
                unused = aside if unused is None else unused | aside
        used = n if unused is None else n - int(np.count_nonzero(unused))
        self.rows_used += used
        keep = slice(None) if unused is None else ~unused
        for name, column in values.items():
            self._add_range(name, column[keep])
        if spec.offset is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                self.offset_sum += float(values[spec.offset][keep].sum())
        if spec.trials is not None:
            amounts = self._count_trials(values, spec, keep, weight)
        else:
            amounts = self._count_outcomes(spec.target, codes[spec.target], keep, weight, bool(task.factors))
        if task.factors and amounts.shape[1] < n:
            everywhere = np.zeros((3, n))
            everywhere[:, keep] = amounts
            amounts = everywhere
        for name in task.factors:
            if name not in self.factors:
                self.factors[name] = task.counts_for(name)
            self.factors[name].add(codes[name], unused, amounts)

    def _checked_weight(self, values: Mapping[str, NDArray[Any]], spec: Spec) -> NDArray[np.float64] | None:
        """The weights with faults counted, None where every row weighs one."""
        if spec.weights is None:
            return None
        weight = values[spec.weights].astype(np.float64)
        self.faults["weight missing"] += int(np.isnan(weight).sum())
        weight = np.nan_to_num(weight, nan=0.0)
        self.faults["weight negative"] += int((weight < 0).sum())
        self.faults["weight infinite"] += int(np.isinf(weight).sum())
        self.faults["weight fractional"] += int((np.isfinite(weight) & (weight != np.floor(weight))).sum())
        return weight

    def _add_range(self, name: str, column: NDArray[Any]) -> None:
        if not column.size:
            return
        low, high = float(column.min()), float(column.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.infinite[name] += int(np.isinf(column).sum())
        known = self.ranges.get(name)
        self.ranges[name] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))

    def _count_trials(
        self,
        values: Mapping[str, NDArray[Any]],
        spec: Spec,
        keep: Any,
        weight: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """Count successes and failures; (3, rows kept): ones, weight of successes, of failures."""
        assert spec.trials is not None
        kept = values[spec.target][keep]
        w = np.ones(kept.size) if weight is None else weight[keep]
        success = values[spec.target][keep].astype(np.float64)
        trials = values[spec.trials][keep].astype(np.float64)
        self.faults["successes not whole"] += int((success != np.floor(success)).sum())
        self.faults["trials not whole"] += int((trials != np.floor(trials)).sum())
        self.faults["successes negative"] += int((success < 0).sum())
        self.faults["successes above trials"] += int((success > trials).sum())
        self.successes += float((w * success).sum())
        self.failures += float((w * (trials - success)).sum())
        return np.array([np.ones(w.size), w * success, w * (trials - success)])

    def _count_outcomes(
        self,
        name: str,
        target: pa.DictionaryArray,
        keep: Any,
        weight: NDArray[np.float64] | None,
        by_row: bool,
    ) -> NDArray[np.float64]:
        """Count the target's values; `by_row`: (3, rows kept) ones and the weight of the first two values."""
        used = entries_of(target)[keep]
        if len(self.outcomes) >= MAXIMUM_OUTCOMES:  # an error already; do not spend time on counting it
            return np.zeros((3, used.size))
        levels = [level_of(value) for value in target.dictionary.to_pylist()]
        rows = np.bincount(used, minlength=len(levels))
        w = None if weight is None else weight[keep]
        weights = rows if w is None else np.bincount(used, weights=w, minlength=len(levels))
        column_of = np.full(max(len(levels), 1), OTHER)
        for entry in np.flatnonzero(rows):
            level = levels[entry]
            if level is None or (level not in self.outcomes and len(self.outcomes) >= MAXIMUM_OUTCOMES):
                continue
            if isinstance(level, float) and math.isinf(level):
                self.infinite[name] += int(rows[entry])
            self.outcomes[level] = self.outcomes.get(level, 0) + int(rows[entry])
            self.outcome_weight[level] = self.outcome_weight.get(level, 0.0) + float(weights[entry])
            column_of[entry] = self._column(level)
        amounts = np.empty((3, used.size if by_row else 0))
        if by_row:
            column = column_of[used]
            amounts[0] = 1.0
            np.equal(column, FIRST, out=amounts[1])
            np.equal(column, SECOND, out=amounts[2])
            if w is not None:
                amounts[1:] *= w
        return amounts

    def _column(self, level: Level) -> int:
        for place, known in enumerate(self.outcomes):
            if known == level:
                return (FIRST, SECOND)[place] if place < 2 else OTHER
        return OTHER

    def flush(self) -> None:
        """Finish a part."""
        for counts in self.factors.values():
            counts.flush()

    def merge(self, other: ProfileSums) -> ProfileSums:
        """Add another part's sums to these."""
        self.rows_read += other.rows_read
        self.rows_used += other.rows_used
        self.rows_set_aside += other.rows_set_aside
        self.missing.update(other.missing)
        self.infinite.update(other.infinite)
        self.faults.update(other.faults)
        self.successes += other.successes
        self.failures += other.failures
        self.offset_sum += other.offset_sum
        for level, rows in other.outcomes.items():
            if level in self.outcomes or len(self.outcomes) < MAXIMUM_OUTCOMES:
                self.outcomes[level] = self.outcomes.get(level, 0) + rows
                self.outcome_weight[level] = self.outcome_weight.get(level, 0.0) + other.outcome_weight[level]
        columns = [ROWS, FIRST, SECOND, OTHER]
        if other.outcomes:
            found = [self._column(level) for level in list(other.outcomes)[:2]]
            columns = [ROWS, *found, *[OTHER] * (3 - len(found))]
        for name, counts in other.factors.items():
            if name not in self.factors:
                self.factors[name] = LevelCounts(counts.limit)
            self.factors[name].merge(counts, columns)
        for name, (low, high) in other.ranges.items():
            known = self.ranges.get(name)
            self.ranges[name] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
        return self


def has_gaps(values: NDArray[Any]) -> bool:
    """Whether any number is missing."""
    return values.dtype.kind == "f" and has_nan(values)


def _missing_codes(codes: pa.DictionaryArray) -> NDArray[np.bool_] | None:
    """Which rows are missing, None where no row is."""
    mask = plain(pc.is_null(codes.indices)) if codes.indices.null_count else None
    entries = [level_of(value) is None for value in codes.dictionary.to_pylist()] if _may_hide(codes) else []
    if any(entries):
        hidden = np.array(entries, dtype=np.bool_)[entries_of(codes)]
        mask = hidden if mask is None else mask | hidden
    return mask


def _may_hide(codes: pa.DictionaryArray) -> bool:
    """Whether the dictionary itself may hold a null or a NaN."""
    return codes.dictionary.null_count > 0 or pa.types.is_floating(codes.dictionary.type)
