"""The frozen design: which columns become which coefficients.

Everything that depends on data (levels, references, knots, the outcome that counts as 1) is fixed here before
the first Newton pass, so no chunk ever changes it. What variables and terms are is in
`streamlr.design.terms`, what becomes of a batch in `streamlr.design.encoding`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from streamlr.design.columns import Level
from streamlr.design.cuts import Cut
from streamlr.design.expressions import Column
from streamlr.design.features import Reader, text_columns
from streamlr.design.layout import Layout
from streamlr.design.spec import MissingPolicy, WeightType
from streamlr.design.terms import (
    Coded,
    Dense,
    Factor,
    Lookup,
    Meeting,
    Number,
    Part,
    Term,
    Variable,
    digits_of,
)

BATCH_BYTES = 1 << 25
MOST_BATCH_ROWS = 1 << 18


@dataclass(frozen=True)
class Design:
    """Roles, variables and terms of a model, frozen.

    `positive` and `negative` are the outcome's levels, None with trials. `reader`: what batches are read
    with. `absorb_l2`: ridge on the effects of an absorbed factor, as `design.absorbing` defines it.
    `clusters`: columns whose values tell which rows belong together. `cuts`: rows that these send to
    a limit are not used.
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
    clusters: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()

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
    def term_columns(self) -> dict[str, slice]:
        """The model columns of every term, by its name, the intercept aside."""
        found = {}
        begin = int(self.intercept)
        for place, term in enumerate(self.terms):
            end = begin + sum(
                1 if isinstance(piece, Dense) else self._levels_of(piece)
                for piece in self._pieces_of(place, term)
            )
            name = ":".join(self.variables[variable].feature.name for variable in term.variables)
            found[name] = slice(begin, end)
            begin = end
        return found

    @cached_property
    def lookups(self) -> dict[Meeting, Lookup]:
        """How the codes of each meeting of factors are found; shared by all encoders."""
        return {factor.meeting: Lookup(factor.meeting, self.radix(factor.meeting)) for factor in self.factors}

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
        keys = 8 * len(self.clusters)
        return (
            sum(number.width for number in self.numbers) + scales + 4 * len(self.factors) + roles + keys + 1
        )

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
        roles.extend(self.clusters)
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
