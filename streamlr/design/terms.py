"""Variables and terms of a frozen design, and what terms are made of: dense columns and cells of factors.

A variable is an expression that is read once a batch. A term is a product of variables. Kernels know two
kinds of columns: dense ones, and factors, which are integer codes and may have a scale. A term of numbers is
a dense column for each product; a term with factors is one factor whose levels are the cells in which they
meet, with a scale for each product of the numbers in it. Nothing is expanded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.bases import contrast_matrix, contrast_suffixes
from streamlr.design.columns import Level, Recoder
from streamlr.design.features import Feature
from streamlr.design.levels import IndexedRecoder, LevelIndex
from streamlr.design.profile import NOT_MERGED, Merging

# Codes of a factor that are no column: the reference level, levels set aside by the outcome they always
# have, levels the design does not know, and missing values.
REFERENCE = -1
ALWAYS_NEGATIVE = -2
ALWAYS_POSITIVE = -3
UNKNOWN = -4
MISSING = -5

# Cells of a term of several factors that are looked up in a table; of more they are searched for.
LARGEST_TABLE = 1 << 22


@dataclass(frozen=True)
class Number:
    """A numeric variable; `suffixes` name its columns, `width`: bytes of a value as it is read."""

    feature: Feature
    suffixes: tuple[str, ...] = ("",)
    width: int = field(default=8, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its columns."""
        return tuple(self.feature.name + suffix for suffix in self.suffixes)


@dataclass(frozen=True)
class Factor:
    """A categorical variable: all its levels but the `reference` are coded from 0 on, the reference is -1.

    `set_aside` maps levels seen with one outcome only to that outcome, 0 or 1; `unused` were in the data but
    in no used row. `coding` says how a term that does not need all levels codes them.
    """

    feature: Feature
    levels: tuple[Level, ...]
    reference: Level | None
    set_aside: tuple[tuple[Level, int], ...] = ()
    unused: tuple[Level, ...] = ()
    coding: str = "treatment"
    merging: Merging = NOT_MERGED

    @property
    def name(self) -> str:
        """Its name."""
        return self.feature.name

    @cached_property
    def all_levels(self) -> tuple[Level, ...]:
        """The reference and the others."""
        return self.levels if self.reference is None else (self.reference, *self.levels)

    @cached_property
    def places(self) -> dict[Level, int]:
        """Where each level stands in `all_levels`."""
        return {level: place for place, level in enumerate(self.all_levels)}

    def level_names(self, full: bool) -> tuple[str, ...]:
        """Names of the columns, as patsy writes them: of all levels, or of all but the reference."""
        return self._full_names if full else self._reduced_names

    @cached_property
    def _full_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}[{level}]" for level in self.all_levels)

    @cached_property
    def _reduced_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}[T.{level}]" for level in self.levels)

    @cached_property
    def contrasts(self) -> NDArray[np.float64]:
        """(levels, columns) of a coding other than treatment."""
        return contrast_matrix(self.coding, len(self.all_levels))

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the columns of `contrasts`."""
        return tuple(self.name + suffix for suffix in contrast_suffixes(self.coding, self.all_levels))

    def code(self, value: Level | None) -> int:
        """The code of a value of its column."""
        level = self.merging.level(value)
        return MISSING if level is None else self._codes.get(level, UNKNOWN)

    @property
    def absorbed(self) -> bool:
        """Whether its effects are absorbed: all its levels have one, and none is the reference."""
        return self.feature.absorbed

    @cached_property
    def index(self) -> LevelIndex:
        """Codes of all levels, for a factor with very many."""
        aside = [ALWAYS_POSITIVE if outcome else ALWAYS_NEGATIVE for _, outcome in self.set_aside]
        codes = np.concatenate([np.arange(len(self.levels)), aside]).astype(np.int32)
        return LevelIndex([*self.levels, *(level for level, _ in self.set_aside)], codes, UNKNOWN, MISSING)

    def recoder(self) -> Recoder | IndexedRecoder:
        """What turns its values into codes."""
        return IndexedRecoder(self.index) if self.absorbed else Recoder(self.code, self.code(None))

    @cached_property
    def _codes(self) -> dict[Level, int]:
        codes = {level: code for code, level in enumerate(self.levels)}
        if self.reference is not None:
            codes[self.reference] = REFERENCE
        for level, outcome in self.set_aside:
            codes[level] = ALWAYS_POSITIVE if outcome else ALWAYS_NEGATIVE
        return codes


Variable = Number | Factor


@dataclass(frozen=True)
class Cells:
    """Which cells the factors of a term meet in. A cell is a number: its levels as digits, the first factor's
    the fastest, the reference 0.

    `seen`: ascending, those of used rows. `set_aside`: those with one outcome only, with that outcome.
    """

    seen: tuple[int, ...]
    set_aside: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Term:
    """A product of variables (their places), the intercept aside. `full`: for each, whether it is a factor
    that is coded by all its levels. `cells` where several factors meet."""

    variables: tuple[int, ...]
    full: tuple[bool, ...]
    cells: Cells | None = None


@dataclass(frozen=True)
class Part:
    """One column of a variable that is multiplied: its place, and the place of the column in it."""

    variable: int
    column: int


@dataclass(frozen=True)
class Dense:
    """A dense column: the product of its parts. `column`: the column of the data that it is, if it is one."""

    name: str
    named: bool
    parts: tuple[Part, ...]
    column: str | None = None
    width: int = 8


@dataclass(frozen=True)
class Meeting:
    """The factors of a term: their places, which are coded in full, and the cells where several meet."""

    variables: tuple[int, ...]
    full: tuple[bool, ...]
    cells: Cells | None = None


@dataclass(frozen=True)
class Coded:
    """A factor as kernels know it: the cells in which factors meet, scaled by `parts` where it has some."""

    term: int
    name: str
    meeting: Meeting
    parts: tuple[Part, ...]
    column_names: tuple[str, ...]
    absorbed: bool = False


def digits_of(cell: int, radix: Sequence[int]) -> list[int]:
    """The levels of each factor in a cell."""
    digits = []
    for size in radix:
        digits.append(cell % size)
        cell //= size
    return digits


class Lookup:
    """From the codes of the factors that meet in a term to the codes of their cells."""

    def __init__(self, meeting: Meeting, radix: Sequence[int]) -> None:
        """`radix`: levels of each of the factors."""
        self._variables = meeting.variables
        self._full = meeting.full
        self._radix = tuple(radix)
        self._keys: NDArray[np.int64] | None = None
        if meeting.cells is None:
            return
        seen = np.array(meeting.cells.seen, dtype=np.int64)
        digits = np.empty(seen.shape, dtype=np.int64)
        has_column = np.ones(seen.shape, dtype=np.bool_)
        rest = seen
        for size, full in zip(self._radix, self._full, strict=True):
            digits, rest = rest % size, rest // size
            has_column &= full | (digits > 0)
        codes = np.where(has_column, np.cumsum(has_column) - 1, REFERENCE).astype(np.int32)
        aside = np.array([cell for cell, _ in meeting.cells.set_aside], dtype=np.int64)
        always = [ALWAYS_POSITIVE if outcome else ALWAYS_NEGATIVE for _, outcome in meeting.cells.set_aside]
        keys = np.concatenate([seen, aside])
        order = np.argsort(keys)
        self._keys = keys[order]
        self._codes = np.concatenate([codes, np.array(always, dtype=np.int32)])[order]
        self._table: NDArray[np.int32] | None = None
        size = int(np.prod(self._radix, dtype=np.float64))
        if size <= LARGEST_TABLE:
            self._table = np.full(size, UNKNOWN, dtype=np.int32)
            self._table[self._keys] = self._codes

    @property
    def is_plain(self) -> bool:
        """Whether the codes are those of the one factor as they are."""
        return self._keys is None and not self._full[0]

    def codes(self, levels: Mapping[int, NDArray[np.int32]]) -> NDArray[np.int32]:
        """(n,) code of each row, from the codes of each variable (by its place)."""
        own = [levels[variable] for variable in self._variables]
        if self._keys is None:
            # A reduced factor is coded as it is; in full the reference is a column as well.
            return np.where(own[0] >= REFERENCE, own[0] + np.int32(1), own[0]) if self._full[0] else own[0]
        keys = np.zeros(own[0].shape, dtype=np.int64)
        for codes, size in zip(reversed(own), reversed(self._radix), strict=True):
            keys *= size
            keys += codes + 1
        special = np.minimum.reduce(own)
        if self._table is not None:
            keys[special < REFERENCE] = 0
            found = self._table[keys]
        else:
            place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found = np.where(self._keys[place] == keys, self._codes[place], np.int32(UNKNOWN))
        return np.where(special < REFERENCE, special, found).astype(np.int32)


@dataclass(frozen=True)
class CellGrouping:
    """Counts the cells of a term's factors in a profile."""

    factors: tuple[Factor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the factors."""
        return tuple(factor.name for factor in self.factors)

    def levels_of(self, cell: int) -> tuple[Level, ...]:
        """The level of each factor in a cell."""
        digits = digits_of(cell, [len(factor.all_levels) for factor in self.factors])
        return tuple(factor.all_levels[digit] for factor, digit in zip(self.factors, digits, strict=True))

    def cells_of(self, levels: Mapping[tuple[Level, ...], int]) -> dict[int, int]:
        """Cells told by levels as numbers, with what each maps to; not those with a level no longer known."""
        found = {}
        for cell, outcome in levels.items():
            number, size = 0, 1
            for factor, level in zip(self.factors, cell, strict=True):
                if level not in factor.places:
                    break
                number += size * factor.places[level]
                size *= len(factor.all_levels)
            else:
                found[number] = outcome
        return found

    def keys(self, levels: Sequence[pa.DictionaryArray]) -> NDArray[np.int64]:
        """(n,) the cell of each row, -1 where a factor has no level of the design."""
        keys = np.zeros(len(levels[0]), dtype=np.int64)
        known = np.ones(len(levels[0]), dtype=np.bool_)
        for factor, array in zip(reversed(self.factors), reversed(levels), strict=True):
            codes = np.empty(len(array), dtype=np.int32)
            Recoder(factor.code, factor.code(None)).codes(array, out=codes)
            known &= codes >= REFERENCE
            keys *= len(factor.all_levels)
            keys += codes + 1
        keys[~known] = -1
        return keys
