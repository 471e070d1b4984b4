"""What a pass over the rows teaches before a design can be frozen: levels, outcomes, counts, faults.

The profile reads the outcome, the factors, weights and the like, and those numeric columns whose metadata do
not rule out nulls, because levels count only in rows that are used. It is a pass like any other: sums are
added batch by batch and merged part by part. Where factors meet in a term, a second one counts their cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Level, coded, coded_outcomes, entries_of, has_nan, level_of, numbers
from streamlr.design.features import Feature, Gaps, Reader, text_columns
from streamlr.design.keys import keys_of
from streamlr.design.levels import (
    FIRST,
    MAXIMUM_ABSORBED,
    MAXIMUM_LEVELS,
    OTHER,
    ROWS,
    SECOND,
    LevelCounts,
    is_among,
)
from streamlr.design.spec import Spec
from streamlr.design.values import missing_of

# More outcomes than this are not listed; two are wanted.
MAXIMUM_OUTCOMES = 1_000
FEW_OUTCOMES = 4
# Offsets of each leaf that are looked at one by one.
OFFSET_ROWS = 64


@dataclass(frozen=True)
class ProfileTask:
    """What to profile: variables, how batches are read, and levels whose rows are set aside already.

    `set_aside`: by the name of the factor. `groupings`: encoders of factors that meet in a term, by its name.
    """

    spec: Spec
    reader: Reader
    features: tuple[Feature, ...]
    set_aside: Mapping[str, Aside]
    groupings: Mapping[str, Grouping] = field(default_factory=dict)
    cells_aside: Mapping[str, frozenset[int]] = field(default_factory=dict)
    batch_rows: int = 65_536
    cells: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return self.spec.columns_for(self.features)

    @property
    def factors(self) -> tuple[Feature, ...]:
        """The categorical ones of the variables."""
        return tuple(feature for feature in self.features if feature.categorical)

    @property
    def coded(self) -> tuple[str, ...]:
        """Columns best read as dictionary codes."""
        return text_columns(self.features)

    def has(self, part: Any) -> bool:
        """No: every row is read."""
        return False

    def __call__(self, parts: Sequence[Any]) -> ProfileSums:
        """The sums of one leaf."""
        sums = ProfileSums()
        for part in parts:
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                sums.add(batch, self)
        sums.flush()
        return sums


@dataclass(frozen=True)
class Merging:
    """What becomes of the values of a factor: rare ones are one level, and so are the missing ones.

    `kept`: the values that stay themselves, None: all. `other`, `missing`: names of the two levels; rows
    without a value have none where `missing` is None.
    """

    kept: frozenset[Level] | None = None
    other: Level = "(other)"
    missing: Level | None = None

    def level(self, value: Level | None) -> Level | None:
        """The level of a value; None for a value that is missing and has none."""
        if value is None:
            return self.missing
        return value if self.kept is None or value in self.kept else self.other

    def merged(self, counts: Mapping[Level | None, NDArray[np.float64]]) -> dict[Level, NDArray[np.float64]]:
        """Counts by value as counts by level."""
        found: dict[Level, NDArray[np.float64]] = {}
        for value, count in counts.items():
            level = self.level(value)
            if level is not None:
                found[level] = found[level] + count if level in found else count
        return found


NOT_MERGED = Merging()


@dataclass(frozen=True)
class Aside:
    """Levels of a factor whose rows are set aside."""

    levels: frozenset[Level]
    merging: Merging


class Grouping(Protocol):
    """Turns the levels of several factors into one number a row."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the factors, in the order of the arguments of `keys`."""

    def keys(self, levels: Sequence[pa.DictionaryArray]) -> NDArray[np.int64]:
        """(n,) the cell of each row, negative where a factor has no level of the design."""


@dataclass
class CellCounts:
    """Rows used and weight by outcome of every cell of some factors: keys (m,) ascending, counts (m, 4).

    Given up above `limit` cells, which no Hessian could hold.
    """

    limit: ClassVar[int] = MAXIMUM_LEVELS
    too_many: bool = False
    keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    counts: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))

    def add(self, keys: NDArray[np.int64], amounts: NDArray[np.float64]) -> None:
        """Add the `amounts` (3, n) of each row to the first columns of its cell."""
        if self.too_many:
            return
        cells, place = np.unique(keys, return_inverse=True)
        counts = np.zeros((cells.size, 4))
        for column, amount in enumerate(amounts):
            counts[:, column] = np.bincount(place, weights=amount, minlength=cells.size)
        self._join(cells, counts)

    def merge(self, other: CellCounts, columns: Sequence[int]) -> None:
        """Add another part's counts, whose columns are ours in the order `columns`."""
        self.too_many = self.too_many or other.too_many
        if self.too_many:
            return
        counts = np.zeros_like(other.counts)
        for theirs, ours in enumerate(columns):
            counts[:, ours] += other.counts[:, theirs]
        self._join(other.keys, counts)

    def _join(self, keys: NDArray[np.int64], counts: NDArray[np.float64]) -> None:
        both, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        total = np.zeros((both.size, 4))
        np.add.at(total, place, np.concatenate([self.counts, counts]))
        self.too_many = both.size > self.limit
        self.keys, self.counts = (both, total) if not self.too_many else (both[:0], total[:0])


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
    cells: dict[str, CellCounts] = field(default_factory=dict)
    filled: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    successes: float = 0.0
    failures: float = 0.0
    offset_sum: float = 0.0
    offset_heads: list[float] = field(default_factory=list)  # of the first rows of each leaf

    def add(self, batch: pa.RecordBatch, task: ProfileTask) -> None:
        """Count the rows of a batch."""
        spec, reader = task.spec, task.reader
        frame = reader.frame(batch)
        n = frame.rows
        begins = self.rows_read == 0
        self.rows_read += n
        gaps: Gaps = {}
        target: pa.DictionaryArray | None = None
        roles = {name: numbers(frame.raw(name), name) for name in _number_roles(spec)}
        if spec.trials is None:
            target = coded_outcomes(frame.raw(spec.target))
            if (missing := missing_of(target)) is not None:
                gaps[spec.target] = missing
        gaps.update({name: np.isnan(x) for name, x in roles.items() if name != spec.weights and has_gaps(x)})
        for name in spec.clusters:
            _, missing = keys_of(frame.raw(name), name)
            if missing is not None:
                gaps[name] = missing
        values: dict[str, NDArray[Any]] = dict(roles)
        codes: dict[str, pa.DictionaryArray] = {}
        for feature in task.features:
            if feature.categorical:
                codes[feature.name] = coded(reader.levels(feature, frame))
                if not spec.keeps_gaps or feature.absorbed:
                    reader.note_gaps(feature, frame, missing_of(codes[feature.name]), gaps)
            else:
                columns = reader.numeric(feature, frame, gaps)
                names = [feature.column] if len(columns) == 1 else numbered(feature.name, len(columns))
                values.update(zip(names, columns, strict=True))
        unused: NDArray[np.bool_] | None = None
        for name, missing in gaps.items():
            self.missing[name] += int(np.count_nonzero(missing))
            unused = missing if unused is None else unused | missing
        read = set(batch.schema.names)
        self.filled.update(
            {name: _count(missing_of(frame.raw(name))) for name in reader.fills if name in read}
        )
        weight = self._checked_weight(roles, spec)
        for name, aside in task.set_aside.items():
            unused = self._set_aside(_is_level(codes[name], aside), unused)
        keys = {
            name: grouping.keys([codes[factor] for factor in grouping.names])
            for name, grouping in task.groupings.items()
        }
        for name, cells in task.cells_aside.items():
            unused = self._set_aside(np.isin(keys[name], list(cells)), unused)
        used = n if unused is None else n - int(np.count_nonzero(unused))
        self.rows_used += used
        keep = slice(None) if unused is None else ~unused
        for name, column in values.items():
            self._add_range(name, column[keep])
        if spec.offset is not None:
            offsets = values[spec.offset][keep]
            with np.errstate(over="ignore", invalid="ignore"):
                self.offset_sum += float(offsets.sum())
            if begins:
                self.offset_heads.extend(offsets[:OFFSET_ROWS].tolist())
        by_row = bool(task.factors)
        if target is None:
            amounts = self._count_trials(values, spec, keep, weight)
        else:
            amounts = self._count_outcomes(spec.target, target, keep, weight, by_row)
        for name, cell_of in keys.items():
            self.cells.setdefault(name, CellCounts()).add(cell_of[keep], _as_amounts(amounts))
        if by_row and amounts.shape[-1] < n:
            everywhere = np.zeros((*amounts.shape[:-1], n), dtype=amounts.dtype)  # outcome ROWS is zero
            everywhere[..., keep] = amounts
            amounts = everywhere
        for feature in task.factors:
            if feature.name not in self.factors:
                self.factors[feature.name] = counts_for(feature)
            self.factors[feature.name].add(codes[feature.name], unused, amounts)

    def _set_aside(
        self, aside: NDArray[np.bool_], unused: NDArray[np.bool_] | None
    ) -> NDArray[np.bool_] | None:
        """Count rows that are set aside; which rows are not used with them."""
        if unused is not None:
            aside = aside & ~unused
        count = int(np.count_nonzero(aside))
        self.rows_set_aside += count
        if not count:
            return unused
        return aside if unused is None else unused | aside

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
    ) -> NDArray[Any]:
        """Count the target's values.

        `by_row`: returns (3, rows kept) ones and the weight of the first two values, or (rows kept,) the
        column of its value where every row weighs one.
        """
        used = entries_of(target)[keep]
        if len(self.outcomes) >= MAXIMUM_OUTCOMES:  # an error already; do not spend time on counting it
            nowhere = np.zeros(used.size, dtype=np.int8)
            return nowhere if weight is None else _as_amounts(nowhere, weight[keep])
        levels = [level_of(value) for value in target.dictionary.to_pylist()]
        # A comparison for each of a few values is ten times as fast as counting and picking by row.
        masks = [used == entry for entry in range(len(levels))] if len(levels) <= FEW_OUTCOMES else None
        if masks is None:
            rows = np.bincount(used, minlength=len(levels))
        else:
            rows = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
        w = None if weight is None else weight[keep]
        weights = rows if w is None else np.bincount(used, weights=w, minlength=len(levels))
        column_of = np.full(max(len(levels), 1), OTHER, dtype=np.int8)
        for entry in np.flatnonzero(rows):
            level = levels[entry]
            if level is None or (level not in self.outcomes and len(self.outcomes) >= MAXIMUM_OUTCOMES):
                continue
            if isinstance(level, float) and math.isinf(level):
                self.infinite[name] += int(rows[entry])
            self.outcomes[level] = self.outcomes.get(level, 0) + int(rows[entry])
            self.outcome_weight[level] = self.outcome_weight.get(level, 0.0) + float(weights[entry])
            column_of[entry] = self._column(level)
        if not by_row:
            return np.empty(0, dtype=np.int8)
        if masks is None:
            outcome = column_of[used]
        else:
            outcome = np.zeros(used.size, dtype=np.int8)
            for mask, column in zip(masks, column_of, strict=False):
                outcome += mask.view(np.int8) * column
        return outcome if w is None else _as_amounts(outcome, w)

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
        self.offset_heads += other.offset_heads
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
        for name, cells in other.cells.items():
            self.cells.setdefault(name, CellCounts()).merge(cells, columns)
        self.filled.update(other.filled)
        for name, (low, high) in other.ranges.items():
            known = self.ranges.get(name)
            self.ranges[name] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
        return self


def _as_amounts(outcome: NDArray[Any], weight: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """(3, n) ones and the weight of the first two outcomes, from the column (n,) of each; or what it is."""
    if outcome.ndim > 1:
        return outcome
    amounts = np.empty((3, outcome.size))
    amounts[0] = 1.0
    np.equal(outcome, FIRST, out=amounts[1])
    np.equal(outcome, SECOND, out=amounts[2])
    if weight is not None:
        amounts[1:] *= weight
    return amounts


def has_gaps(values: NDArray[Any]) -> bool:
    """Whether any number is missing."""
    return values.dtype.kind == "f" and has_nan(values)


def numbered(name: str, count: int) -> list[str]:
    """Names of the columns of a function that makes several."""
    return [f"{name}[{place}]" for place in range(1, count + 1)]


def _number_roles(spec: Spec) -> list[str]:
    """Columns with a role that are read as numbers, each once."""
    target = spec.target if spec.trials is not None else None
    names = (target, spec.trials, spec.weights, spec.offset)
    return list(dict.fromkeys(name for name in names if name is not None))


def _count(missing: NDArray[np.bool_] | None) -> int:
    return 0 if missing is None else int(np.count_nonzero(missing))


def counts_for(feature: Feature) -> LevelCounts:
    """Counts of a factor's levels, none of them yet."""
    return LevelCounts(MAXIMUM_ABSORBED, list_passed_over=False) if feature.absorbed else LevelCounts()


def _is_level(codes: pa.DictionaryArray, aside: Aside) -> NDArray[np.bool_]:
    if aside.merging == NOT_MERGED:
        return is_among(codes, aside.levels)
    values = [*codes.dictionary.to_pylist(), None]
    wanted = np.array([aside.merging.level(level_of(value)) in aside.levels for value in values])
    return wanted[entries_of(codes, len(values) - 1)]
