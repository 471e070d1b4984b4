"""The frozen design: which columns become which coefficients, and batches as blocks.

Everything that depends on data (levels, references, knots, the outcome that counts as 1) is fixed here before
the first Newton pass, so no chunk ever changes it. The same encoding serves the fit and the scoring of new
data.

A design has variables, each an expression that is read once a batch, and terms, which are products of
variables. Kernels know two kinds of columns: dense ones, and factors, which are integer codes and may have a
scale. A term of numbers is a dense column for each product; a term with factors is one factor whose levels
are the cells in which they meet, with a scale for each product of the numbers in it. Nothing is expanded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.bases import contrast_matrix, contrast_suffixes
from streamlr.design.columns import Level, Recoder, has_nan, is_number, numbers
from streamlr.design.expressions import Column
from streamlr.design.features import Feature, Gaps, Reader, text_columns
from streamlr.design.layout import Layout
from streamlr.design.levels import IndexedRecoder, LevelIndex
from streamlr.design.profile import NOT_MERGED, Merging
from streamlr.design.spec import MissingPolicy, WeightType
from streamlr.design.values import Frame
from streamlr.errors import StreamlrError
from streamlr.kernels.tile import KIND_OF_TYPE, Block

# Codes of a factor that are no column: the reference level, levels set aside by the outcome they always
# have, levels the design does not know, and missing values.
REFERENCE = -1
ALWAYS_NEGATIVE = -2
ALWAYS_POSITIVE = -3
UNKNOWN = -4
MISSING = -5

# What becomes of a row with a level that the fit has not seen.
Unseen = Literal["null", "reference", "error"]

NOTHING = np.empty(0)
ALL = slice(None)

BATCH_BYTES = 1 << 25
MOST_BATCH_ROWS = 1 << 18
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


@dataclass
class Tally:
    """Rows of a pass by what became of them."""

    rows_read: int = 0
    rows_used: int = 0
    rows_set_aside: int = 0
    rows_weighted: int = 0
    weight: float = 0.0
    least_weight: float = np.inf  # least positive weight

    def __post_init__(self) -> None:
        self.missing: Counter[str] = Counter()

    def merge(self, other: Tally) -> Tally:
        """Add another part's counts."""
        self.rows_read += other.rows_read
        self.rows_used += other.rows_used
        self.rows_set_aside += other.rows_set_aside
        self.rows_weighted += other.rows_weighted
        self.weight += other.weight
        self.least_weight = min(self.least_weight, other.least_weight)
        self.missing.update(other.missing)
        return self


@dataclass(frozen=True)
class Design:
    """Roles, variables and terms of a model, frozen.

    `positive` and `negative` are the outcome's levels, None with trials. `reader`: what batches are read
    with. `absorb_l2`: ridge on the effects of an absorbed factor, as `design.absorbing` defines it.
    """

    target: str
    positive: Level | None
    negative: Level | None
    intercept: bool
    variables: tuple[Variable, ...]
    terms: tuple[Term, ...]
    reader: Reader
    weights: str | None
    weight_type: WeightType
    offset: str | None
    trials: str | None
    missing: MissingPolicy
    absorb_l2: float = 0.0

    @cached_property
    def pieces(self) -> tuple[Dense | Coded, ...]:
        """What the terms are made of, in the order of the model."""
        return tuple(piece for place, term in enumerate(self.terms) for piece in self._pieces_of(place, term))

    @cached_property
    def numbers(self) -> tuple[Dense, ...]:
        """The dense columns."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Dense))

    @cached_property
    def factors(self) -> tuple[Coded, ...]:
        """The factors of the kernels: those without a scale, then those with one; an absorbed one is last."""
        found = [piece for piece in self.pieces if isinstance(piece, Coded)]
        return tuple(sorted(found, key=lambda piece: (piece.absorbed, bool(piece.parts))))

    @cached_property
    def scaled(self) -> tuple[Coded, ...]:
        """The factors with a scale. An absorbed one behind them has one too: ones."""
        first = next((place for place, factor in enumerate(self.factors) if factor.parts), len(self.factors))
        return self.factors[first:]

    @cached_property
    def inputs(self) -> tuple[Dense | Coded, ...]:
        """What the numeric columns of a block belong to: dense columns, then scaled factors."""
        return (*self.numbers, *self.scaled)

    @cached_property
    def absorbed(self) -> Factor | None:
        """The factor whose effects are absorbed, which is the last term."""
        last = self.variables[self.terms[-1].variables[0]] if self.terms else None
        return last if isinstance(last, Factor) and last.absorbed else None

    @cached_property
    def layout(self) -> Layout:
        """How its coefficients are numbered."""
        places: dict[Dense | Coded, int] = {piece: place for place, piece in enumerate(self.numbers)}
        places.update({piece: len(self.numbers) + place for place, piece in enumerate(self.factors)})
        unscaled = self.factors[: len(self.factors) - len(self.scaled)]
        plain = {factor.meeting: place for place, factor in enumerate(unscaled)}
        hosts = [plain.get(factor.meeting, -1) for factor in self.scaled]
        full = [False] * len(hosts)
        # What takes up the share of a reference, which has no column of its own without the scale.
        spread = self.intercept or (self.absorbed is not None and not self.absorb_l2)
        for place, factor in enumerate(self.scaled):
            meeting = factor.meeting
            if hosts[place] < 0 and spread and meeting.full == (True,) and meeting.cells is None:
                hosts[place] = plain.get(replace(meeting, full=(False,)), -1)
                full[place] = hosts[place] >= 0
        return Layout(
            order=(*([-1] if self.intercept else []), *(places[piece] for piece in self.pieces)),
            numeric=len(self.numbers),
            levels=tuple(self._levels_of(factor) for factor in self.factors),
            hosts=tuple(hosts),
            absorbed=self.absorbed is not None,
            full_hosts=tuple(full),
        )

    def _levels_of(self, factor: Coded) -> int:
        absorbed = self.absorbed if factor.absorbed else None
        return len(factor.column_names) if absorbed is None else len(absorbed.levels)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """(p,) names of the coefficients, those of absorbed levels left out."""
        names = ["Intercept"] if self.intercept else []
        for piece in self.pieces:
            names.extend([piece.name] if isinstance(piece, Dense) else piece.column_names)
        return tuple(names)

    @cached_property
    def lookups(self) -> dict[Meeting, Lookup]:
        """How the codes of each meeting of factors are found; shared by all encoders."""
        return {factor.meeting: Lookup(self, factor.meeting) for factor in self.factors}

    @property
    def categories(self) -> tuple[Factor, ...]:
        """The categorical variables."""
        return tuple(variable for variable in self.variables if isinstance(variable, Factor))

    @property
    def batch_rows(self) -> int:
        """Rows decoded at once: what makes BATCH_BYTES.

        A row group of the usual size is then one batch, which decodes in 126 ns a row of 28 floats where four
        batches take 141; a wide table still streams in little memory.
        """
        return int(np.clip(BATCH_BYTES // self.row_bytes // 1024 * 1024, 1024, MOST_BATCH_ROWS))

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row."""
        roles = sum(8 for name in (self.weights, self.offset, self.trials, self.trials) if name is not None)
        scales = 8 * self.layout.scaled
        return sum(number.width for number in self.numbers) + scales + 4 * len(self.factors) + roles + 1

    @cached_property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns that scoring needs, each once."""
        names = [name for variable in self.variables for name in variable.feature.columns]
        if self.offset is not None:
            names.append(self.offset)
        return tuple(dict.fromkeys(names))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that a fit needs, each once."""
        roles = [name for name in (self.target, self.weights, self.trials) if name is not None]
        where = self.reader.where.columns if self.reader.where is not None else ()
        return tuple(dict.fromkeys((*roles, *where, *self.feature_columns)))

    @cached_property
    def factor_columns(self) -> tuple[str, ...]:
        """Columns that factors are made of as they are, best read as dictionary codes."""
        return text_columns([factor.feature for factor in self.categories])

    @cached_property
    def coded_columns(self) -> tuple[str, ...]:
        """Columns of a fit best read as dictionary codes."""
        target = (self.target,) if isinstance(self.positive, str) else ()
        return tuple(dict.fromkeys((*self.factor_columns, *target)))

    def has_reference(self, factor: Factor) -> bool:
        """Whether a term compares the levels of a factor with its reference."""
        place = self.variables.index(factor)
        return (
            not factor.absorbed
            and factor.coding == "treatment"
            and any(
                not full
                for term in self.terms
                for variable, full in zip(term.variables, term.full, strict=True)
                if variable == place
            )
        )

    def column_of(self, factor: Coded) -> str:
        """The column of the data that a factor is about, the first of several."""
        return self.variables[factor.meeting.variables[0]].feature.column

    def without_columns(self, columns: Set[str]) -> Design:
        """The design without the terms that are one of some columns of the data."""
        gone = {
            place
            for place, variable in enumerate(self.variables)
            if isinstance(variable, Number) and variable.feature.column in columns
        }
        kept = [place for place in range(len(self.variables)) if place not in gone]
        moved = {place: new for new, place in enumerate(kept)}
        return replace(
            self,
            variables=tuple(self.variables[place] for place in kept),
            terms=tuple(
                replace(term, variables=tuple(moved[place] for place in term.variables))
                for term in self.terms
                if not gone & set(term.variables)
            ),
        )

    def _pieces_of(self, place: int, term: Term) -> Iterable[Dense | Coded]:
        variables = [self.variables[variable] for variable in term.variables]
        if isinstance(variables[0], Factor) and variables[0].absorbed:
            yield Coded(place, variables[0].name, Meeting(term.variables, term.full), (), (), absorbed=True)
            return
        multiplied: list[int] = []
        meeting: list[int] = []
        for at, (variable, full) in enumerate(zip(variables, term.full, strict=True)):
            dummies = isinstance(variable, Factor) and (full or variable.coding == "treatment")
            (meeting if dummies else multiplied).append(at)
        columns = [self._columns_of(variables[at]) for at in multiplied]
        met = Meeting(
            tuple(term.variables[at] for at in meeting), tuple(term.full[at] for at in meeting), term.cells
        )
        levels = list(self._met_levels(met)) if meeting else [()]
        # The first variable's columns vary fastest, as in R.
        for chosen in product(*(range(len(names)) for names in reversed(columns))):
            picked = chosen[::-1]
            parts = tuple(
                Part(term.variables[at], column) for at, column in zip(multiplied, picked, strict=True)
            )
            words: dict[int, str] = {
                at: names[column] for at, names, column in zip(multiplied, columns, picked, strict=True)
            }
            names = []
            for level in levels:
                words.update(zip(meeting, level, strict=True))
                names.append(":".join(words[at] for at in range(len(variables))))
            if meeting:
                name = ":".join(variable.feature.name for variable in variables)
                yield Coded(place, name, met, parts, tuple(names))
                continue
            alone = isinstance(variables[0], Number) and len(variables) == 1
            expression = variables[0].feature.expression
            yield Dense(
                name=names[0],
                named=any(variable.feature.named for variable in variables),
                parts=parts,
                column=expression.name if alone and isinstance(expression, Column) else None,
                width=variables[0].width if alone and isinstance(variables[0], Number) else 8,
            )

    def _columns_of(self, variable: Variable) -> tuple[str, ...]:
        """Names of the columns of a variable that is multiplied."""
        return variable.names if isinstance(variable, Number) else variable.contrast_names

    def _met_levels(self, meeting: Meeting) -> Iterable[tuple[str, ...]]:
        """The names of the levels of each factor in every cell with a column, in the order of codes."""
        factors = [self.variables[variable] for variable in meeting.variables]
        names = [
            factor.level_names(full)
            for factor, full in zip(factors, meeting.full, strict=True)
            if isinstance(factor, Factor)
        ]
        if meeting.cells is None:
            return ((name,) for name in names[0])
        shapes = self.radix(meeting)
        found = []
        for cell in meeting.cells.seen:
            digits = digits_of(cell, shapes)
            if all(full or digit for digit, full in zip(digits, meeting.full, strict=True)):
                found.append(
                    tuple(
                        of[digit - (not full)]
                        for of, digit, full in zip(names, digits, meeting.full, strict=True)
                    )
                )
        return found

    def radix(self, meeting: Meeting) -> tuple[int, ...]:
        """Levels of each factor that meets others."""
        return tuple(
            len(variable.all_levels)
            for variable in (self.variables[place] for place in meeting.variables)
            if isinstance(variable, Factor)
        )

    def cell_name(self, factor: Coded, cell: int) -> str:
        """The name that the column of a cell has, or would have."""
        meeting = factor.meeting
        words = {
            part.variable: self._columns_of(self.variables[part.variable])[part.column]
            for part in factor.parts
        }
        digits = digits_of(cell, self.radix(meeting))
        for place, digit, full in zip(meeting.variables, digits, meeting.full, strict=True):
            variable = self.variables[place]
            assert isinstance(variable, Factor)
            in_full = full or not digit  # the reference has no reduced name
            words[place] = variable.level_names(in_full)[digit - (not in_full)]
        return ":".join(words[place] for place in self.terms[factor.term].variables)


def digits_of(cell: int, radix: Sequence[int]) -> list[int]:
    """The levels of each factor in a cell."""
    digits = []
    for size in radix:
        digits.append(cell % size)
        cell //= size
    return digits


class Lookup:
    """From the codes of the factors that meet in a term to the codes of their cells."""

    def __init__(self, design: Design, meeting: Meeting) -> None:
        self._variables = meeting.variables
        self._full = meeting.full
        self._radix = design.radix(meeting)
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


@dataclass
class Encoded:
    """The features of a batch: numeric columns and scales, codes, offset, and what is missing by name.

    `odd` and `odd_cells` name the factors, and the meetings of factors, with codes (n,) that are no level and
    no reference.
    """

    numeric: list[NDArray[Any]]
    codes: NDArray[np.int32]
    odd: list[tuple[str, NDArray[np.int32]]]
    odd_cells: list[tuple[Coded, NDArray[np.int32]]]
    levels: Mapping[int, NDArray[np.int32]]  # codes of each factor, by its place
    offset: NDArray[np.float64]
    gaps: Gaps

    @property
    def all_odd(self) -> list[tuple[str, NDArray[np.int32]]]:
        """Both, by name."""
        return [*self.odd, *((factor.name, codes) for factor, codes in self.odd_cells)]


class Encoder:
    """Encodes the batches of one part; it remembers dictionaries, so each part has its own."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._recoders = {
            place: variable.recoder()
            for place, variable in enumerate(design.variables)
            if isinstance(variable, Factor)
        }
        codes = {design.negative: 0, design.positive: 1}
        self._target = Recoder(lambda level: codes.get(level, UNKNOWN), MISSING)
        self._lookups = design.lookups
        # Rows of the codes that are those of a variable as they are, which need no copy.
        self._homes: dict[int, int] = {}
        for row, factor in enumerate(design.factors):
            if self._lookups[factor.meeting].is_plain:
                self._homes.setdefault(factor.meeting.variables[0], row)

    def encode(self, batch: pa.RecordBatch, tally: Tally) -> Block:
        """The used rows of a batch as a block; rows not used are counted in `tally`.

        Raises `StreamlrError` for an outcome or a level that the design has not seen.
        """
        design = self._design
        frame = design.reader.frame(batch)
        n = frame.rows
        found = self._features(frame)
        missing = found.gaps
        success: NDArray[Any]
        trials = NOTHING
        if design.trials is None:
            success = self._outcome(frame.raw(design.target), missing)
        else:
            success = _role(frame, design.target, missing)
            trials = _role(frame, design.trials, missing)
        weight = NOTHING if design.weights is None else _role(frame, design.weights, missing)
        keep = self._used(n, found, tally)
        if design.trials is None and n and success.min() < 0 and (success[keep] < 0).any():
            raise _changed(design.target)
        used = n
        numeric, codes, offset = found.numeric, found.codes, found.offset
        if keep is not ALL:
            used = int(np.count_nonzero(keep))
            numeric = [column[keep] for column in numeric]
            codes = np.ascontiguousarray(codes[:, keep])
            success = success[keep]
            trials, weight, offset = (
                array[keep] if array.size else array for array in (trials, weight, offset)
            )
        tally.rows_read += n
        tally.rows_used += used
        tally.weight += float(weight.sum()) if weight.size else float(used)
        positive = weight[weight > 0] if weight.size else np.ones(min(used, 1))
        tally.rows_weighted += positive.size if weight.size else used
        tally.least_weight = min(tally.least_weight, float(positive.min(initial=np.inf)))
        return Block(numeric, codes, success, trials, weight, offset)

    def _used(self, n: int, found: Encoded, tally: Tally) -> Any:
        """Which rows are used, (n,) or `ALL`; the others are counted."""
        odd = found.all_odd
        if not found.gaps and not odd:
            return ALL
        keep = np.ones(n, dtype=np.bool_)
        for name, mask in found.gaps.items():
            count = int(np.count_nonzero(mask))
            if count:
                tally.missing[name] += count
                keep &= ~mask
        for _, codes in odd:
            aside = keep & ((codes == ALWAYS_NEGATIVE) | (codes == ALWAYS_POSITIVE))
            tally.rows_set_aside += int(np.count_nonzero(aside))
            keep &= ~aside
        for name, codes in odd:
            if (codes[keep] == UNKNOWN).any():
                raise _changed(name)
        return keep

    def encode_features(
        self, batch: pa.RecordBatch, unseen: Unseen = "null"
    ) -> tuple[Block, NDArray[np.bool_], NDArray[np.float64]]:
        """The rows of a batch that can be scored, as a block; which rows they are; and limits.

        Limits, (n,): NaN, or the probability 0 or 1 of a row with a level that had that outcome only.
        `unseen`: rows with a level that the fit has not seen get no score ("null"), are scored as the
        reference level ("reference"), or raise `StreamlrError` ("error").
        """
        frame = self._design.reader.frame(batch)
        n = frame.rows
        found = self._features(frame, unseen)
        keep = np.ones(n, dtype=np.bool_)
        for mask in found.gaps.values():
            keep &= ~mask
        for column in found.numeric:
            if column.dtype.kind == "f":
                keep &= np.isfinite(column)
        for _, codes in found.odd:
            keep &= codes != UNKNOWN
        if found.offset.size:
            keep &= np.isfinite(found.offset)
        odd = found.all_odd
        always_negative, always_positive = _any(odd, ALWAYS_NEGATIVE, n), _any(odd, ALWAYS_POSITIVE, n)
        limits = np.full(n, np.nan)
        limits[keep & always_negative & ~always_positive] = 0.0
        limits[keep & always_positive & ~always_negative] = 1.0
        keep &= ~(always_negative | always_positive)
        # A cell that was set aside in one term is unknown to others that it would be in.
        for factor, codes in found.odd_cells:
            keep &= self._are_known(factor, codes, found.levels, keep, unseen)
        codes = found.codes
        if unseen == "reference":
            codes = np.where(codes == UNKNOWN, np.int32(REFERENCE), codes)
        block = Block(
            [column[keep] for column in found.numeric],
            np.ascontiguousarray(codes[:, keep]),
            np.zeros(int(np.count_nonzero(keep)), dtype=np.int8),
            NOTHING,
            NOTHING,
            found.offset[keep] if found.offset.size else NOTHING,
        )
        return block, keep, limits

    def _features(self, frame: Frame, unseen: Unseen = "null") -> Encoded:
        """The variables of a batch, multiplied as the terms have them."""
        design, gaps = self._design, Gaps()
        rows = np.empty((len(design.factors), frame.rows), dtype=np.int32)
        columns: dict[int, list[NDArray[Any]]] = {}
        levels: dict[int, NDArray[np.int32]] = {}
        odd: list[tuple[str, NDArray[np.int32]]] = []
        for place, variable in enumerate(design.variables):
            if isinstance(variable, Number):
                columns[place] = design.reader.numeric(variable.feature, frame, gaps)
                continue
            home = self._homes.get(place)
            codes = np.empty(frame.rows, dtype=np.int32) if home is None else rows[home]
            levels[place] = codes
            array = design.reader.levels(variable.feature, frame)
            lowest = self._recoders[place].codes(array, out=codes)
            if lowest < REFERENCE:
                odd.append((variable.name, codes))
                missing = codes == MISSING
                if missing.any():
                    design.reader.note_gaps(variable.feature, frame, missing, gaps)
                self._settle_unseen(variable, codes, unseen, array)
            if variable.coding != "treatment":
                columns[place] = _contrasts_of(variable, codes)
        numeric = [_product(number.parts, columns) for number in design.numbers]
        coded_as: dict[Meeting, NDArray[np.int32]] = {}
        odd_cells: list[tuple[Coded, NDArray[np.int32]]] = []
        for place, (row, factor) in enumerate(zip(rows, design.factors, strict=True)):
            meeting = factor.meeting
            if meeting not in coded_as:
                coded_as[meeting] = found = self._lookups[meeting].codes(levels)
                if meeting.cells is not None and found.size and found.min() < REFERENCE:
                    odd_cells.append((factor, found))
            if self._homes.get(meeting.variables[0]) != place:
                row[:] = coded_as[meeting]
            if factor.parts:
                numeric.append(_product(factor.parts, columns))
            elif factor.absorbed and design.layout.scaled:
                numeric.append(np.ones(frame.rows, dtype=np.int8))
        offset = NOTHING if design.offset is None else _role(frame, design.offset, gaps)
        return Encoded(numeric, rows, odd, odd_cells, levels, offset, gaps)

    def _settle_unseen(
        self, factor: Factor, codes: NDArray[np.int32], unseen: Unseen, array: pa.Array
    ) -> None:
        unknown = codes == UNKNOWN
        if unseen == "null" or not unknown.any():
            return
        if unseen == "reference":
            # Absorbed effects have no reference level; with a ridge an unknown one is expected to be zero.
            if factor.reference is not None or self._design.absorb_l2:
                codes[unknown] = REFERENCE
            return
        row = int(np.flatnonzero(unknown)[0])
        count = int(np.count_nonzero(unknown))
        raise StreamlrError(
            f"'{factor.feature.column}' has a level that the model has not seen: {array[row].as_py()!r} "
            f"({count:,} such rows here). Score such rows as missing with --unseen null, or as the reference "
            "level with --unseen reference."
        )

    def _are_known(
        self,
        factor: Coded,
        codes: NDArray[np.int32],
        levels: Mapping[int, NDArray[np.int32]],
        keep: NDArray[np.bool_],
        unseen: Unseen,
    ) -> NDArray[np.bool_]:
        """(n,) which rows have cells that the fit has seen, where that matters; `keep`: those in question.

        Raises `StreamlrError` where levels meet that have not met, and that is an error.
        """
        unknown = codes == UNKNOWN
        if unseen == "error" and (unknown & keep).any():
            row = int(np.flatnonzero(unknown & keep)[0])
            met = []
            for place in factor.meeting.variables:
                variable = self._design.variables[place]
                assert isinstance(variable, Factor)
                met.append(f"{variable.name} {variable.all_levels[levels[place][row] - REFERENCE]!r}")
            raise StreamlrError(
                f"'{factor.name}' meets levels that the model has not seen together: {' with '.join(met)} "
                f"({int(np.count_nonzero(unknown & keep)):,} such rows here). Score such rows as missing "
                "with --unseen null, or without this term with --unseen reference."
            )
        return np.ones_like(unknown) if unseen == "reference" else ~unknown

    def _outcome(self, array: pa.Array, missing: Gaps) -> NDArray[np.int8]:
        """1 where the outcome counts as 1, 0 where it is the other, negative where it is neither."""
        name, positive, negative = self._design.target, self._design.positive, self._design.negative
        if is_number(array.type):  # comparing is four times as fast as coding
            values = numbers(array, name)
            _note_missing(values, name, missing)
            success = (values == positive).view(np.int8)
            known = np.count_nonzero(success) + np.count_nonzero(values == negative)
            if known < len(values):
                success[(values != positive) & (values != negative)] = UNKNOWN
            return success
        codes = np.empty(len(array), dtype=np.int32)
        if self._target.codes(array, out=codes) < REFERENCE:
            missing[name] = codes == MISSING
        return codes.astype(np.int8)


def _any(odd: Sequence[tuple[str, NDArray[np.int32]]], code: int, n: int) -> NDArray[np.bool_]:
    """(n,) where one of some factors has the code."""
    found = np.zeros(n, dtype=np.bool_)
    for _, codes in odd:
        found |= codes == code
    return found


def _contrasts_of(factor: Factor, codes: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """The columns of a coding, each (n,); whatever for codes that are no level, whose rows are not used."""
    beyond = np.zeros((REFERENCE - MISSING, factor.contrasts.shape[1]))
    table = np.vstack([factor.contrasts, beyond])  # codes below the reference count from the end
    return list(np.ascontiguousarray(table[codes - REFERENCE].T))


def _product(parts: Sequence[Part], columns: Mapping[int, Sequence[NDArray[Any]]]) -> NDArray[Any]:
    """The product of some columns, each (n,), of a type that kernels read; one alone is not copied."""
    first = columns[parts[0].variable][parts[0].column]
    if len(parts) == 1:
        return first if first.dtype in KIND_OF_TYPE else first.astype(np.float64)
    found = first.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts[1:]:
            found *= columns[part.variable][part.column]
    return found


def _role(frame: Frame, name: str, missing: Gaps) -> NDArray[np.float64]:
    values = numbers(frame.raw(name), name).astype(np.float64)
    _note_missing(values, name, missing)
    return values


def _note_missing(values: NDArray[Any], name: str, missing: Gaps) -> None:
    if values.dtype.kind == "f" and has_nan(values):
        missing[name] = np.isnan(values)


def _changed(column: str) -> StreamlrError:
    return StreamlrError(
        f"'{column}' has a value that was not there when its levels were collected. "
        "The data changed during the fit; fit again."
    )


def terms_with_limits(design: Design) -> Mapping[str, int]:
    """Names of levels and cells set aside, each with the outcome it always had; absorbed ones not listed."""
    found = {
        f"{factor.name}[T.{level}]": outcome
        for factor in design.categories
        if not factor.absorbed
        for level, outcome in factor.set_aside
    }
    for factor in design.factors:
        for cell, outcome in factor.meeting.cells.set_aside if factor.meeting.cells is not None else ():
            if not factor.parts:
                found[design.cell_name(factor, cell)] = outcome
    return found
