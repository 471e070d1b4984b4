"""A fitted model with another reference level: the same fit in other coordinates, without its data.

Columns of a factor are indicators, and the indicator of its reference is what is left of the constant:

    1[f = reference] = 1 - sum over the other levels of 1[f = level]

so every old column is an exact combination of new ones, in interactions with numbers and other factors as
well, and coefficients and covariances follow by one sparse matrix. It is applied in the conditioned basis, in
which columns at mean 1e6 are centred, so that nothing cancels that the fit had not cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.columns import Level, find_level
from streamlr.design.design import Design, terms_with_limits
from streamlr.design.expressions import Call, Constant, text_of
from streamlr.design.freeze import empty_cells, ordered_levels
from streamlr.design.terms import Cells, Coded, Dense, Factor, Meeting, Part, Term, digits_of
from streamlr.design.values import level_order
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.inference import fit_statistics
from streamlr.linear_algebra import make_symmetric

if TYPE_CHECKING:
    from streamlr.inference.firth import Firth
    from streamlr.model import Model

Floats = NDArray[np.float64]
# The level of each factor that meets others, by the factor's place among the variables; a level is named by
# its place in `Factor.all_levels` of the old model.
Cell = tuple[tuple[int, int], ...]
# A function of rows as a combination of new columns.
Combination = dict[int, float]

# Empty cells of interactions that are listed by name.
MOST_NAMED = 10_000


def relevel(model: Model, column: str, reference: Any) -> Model:
    """The same model with `reference` as the reference level of a factor.

    Equal to a fit with `reference={column: reference}`: coefficients, both covariances, names and the frozen
    design change; log-likelihood, predictions and everything else stay. What was profiled stays for
    coefficients that are old ones, maybe with the other sign; others have Wald's intervals. Agrees with R's
    `glm(... relevel(x, ref = ))`.

    Args:
        model: a fitted model.
        column: the column of a factor, or the factor's name such as `C(hour)`.
        reference: one of its levels, as `fit` takes it.

    Raises:
        StreamlrError: there is no such factor or level, the level was set aside, the factor is absorbed or is
            not coded by treatment, or the change moves aliased terms, which only the rows can settle,
            or rows were set aside beside a separating direction.
    """
    design = model.design
    place, factor = _factor_named(design, column)
    level = _level_named(factor, reference)
    if level == factor.reference:
        return model
    if design.cuts:
        raise StreamlrError(
            "rows were set aside beside a separating direction, which is told by the levels of "
            f"{factor.name} as they are. Fit again with --reference {column}={reference}."
        )
    changed = _with_reference(design, place, factor, level)
    move = _Move(design, changed, place, model.basis)
    transfer = move.transfer()
    _check_aliasing(model, changed, move, transfer)
    return _moved(model, changed, move, transfer)


def _factor_named(design: Design, column: str) -> tuple[int, Factor]:
    """A factor by its name or by its column. Raises `StreamlrError`."""
    named = [p for p, v in enumerate(design.variables) if v.feature.name == column]
    found = named or [p for p, v in enumerate(design.variables) if v.feature.column == column]
    factors = [(p, v) for p in found if isinstance(v := design.variables[p], Factor)]
    if len(factors) == 1:
        place, factor = factors[0]
        if factor.absorbed:
            raise StreamlrError(
                f"'{factor.name}' is absorbed: every level has an effect, and none is the reference."
            )
        if factor.coding != "treatment":
            raise StreamlrError(
                f"{factor.name} is coded by {factor.coding} contrasts and has no reference level to change."
            )
        return place, factor
    if factors:
        listed = ", ".join(factor.name for _, factor in factors)
        raise StreamlrError(f"column '{column}' is in the model as {listed}: name the one to change.")
    if found:
        raise StreamlrError(f"'{column}' is numeric and has no reference level.")
    known = [name for f in design.categories for name in dict.fromkeys((f.name, f.feature.column))]
    raise StreamlrError(f"the model has no factor '{column}'.{did_you_mean(column, known)}")


def _level_named(factor: Factor, reference: Any) -> Level:
    """A level by the user's word. Raises `StreamlrError`."""
    found = find_level(reference, factor.all_levels)
    if found is not None:
        return found
    aside = dict(factor.set_aside)
    known = find_level(reference, aside)
    if known is not None:
        raise StreamlrError(
            f"the level '{reference}' of {factor.name} goes with one outcome only (always {aside[known]}) "
            "and is set aside. Choose another."
        )
    if find_level(reference, factor.unused) is not None:
        raise StreamlrError(f"the level '{reference}' of {factor.name} is in no row that was used.")
    hint = did_you_mean(str(reference), [str(level) for level in factor.all_levels])
    raise StreamlrError(f"{factor.name} has no level '{reference}'.{hint}")


def _with_reference(design: Design, place: int, factor: Factor, level: Level) -> Design:
    """The design as a fit with this reference freezes it."""
    expression = factor.feature.expression
    order = level_order(expression, design.reader.states)
    filled = design.missing == "fill"
    levels = ordered_levels(dict.fromkeys(factor.all_levels), factor.merging, order, filled)
    feature = factor.feature
    if isinstance(expression, Call) and any(name == "reference" for name, _ in expression.options):
        options = tuple(
            (name, Constant(level) if name == "reference" else value) for name, value in expression.options
        )
        written = replace(expression, options=options)
        feature = replace(feature, expression=written, name=text_of(written))
    new = replace(
        factor, feature=feature, levels=tuple(other for other in levels if other != level), reference=level
    )
    variables = list(design.variables)
    variables[place] = new
    changed = replace(design, variables=tuple(variables))
    return replace(changed, terms=tuple(_renumbered(design, term, place, new) for term in design.terms))


def _renumbered(design: Design, term: Term, place: int, new: Factor) -> Term:
    """A term with its cells told by the new order of levels."""
    if term.cells is None or place not in term.variables:
        return term
    meeting = next(
        piece.meeting
        for piece in design.factors
        if piece.meeting.cells is term.cells and set(piece.meeting.variables) <= set(term.variables)
    )
    if place not in meeting.variables:
        return term
    radix = design.radix(meeting)
    old = design.variables[place]
    assert isinstance(old, Factor)
    places = [new.places[level] for level in old.all_levels]

    def renumbered(cell: int) -> int:
        number, size = 0, 1
        for variable, digit, of in zip(meeting.variables, digits_of(cell, radix), radix, strict=True):
            number += size * (places[digit] if variable == place else digit)
            size *= of
        return number

    aside = tuple(sorted((renumbered(cell), outcome) for cell, outcome in term.cells.set_aside))
    return replace(term, cells=Cells(tuple(sorted(map(renumbered, term.cells.seen))), aside))


@dataclass(frozen=True)
class _Columns:
    """The columns of one piece of a design. `seen`: cells with rows, None for all. `centre` and `scale` are
    those of its numbers in the basis."""

    first: int
    factors: Mapping[int, bool]  # each factor that meets, and whether it is coded in full
    of: Mapping[Cell, int]
    seen: frozenset[Cell] | None
    centre: float
    scale: float


Key = tuple[frozenset[int], tuple[Part, ...]]


class _Move:
    """What the columns of a design are in terms of those of the same design with another reference."""

    def __init__(self, old: Design, new: Design, place: int, basis: Basis) -> None:
        self.place = place
        self._levels = {
            p: len(variable.all_levels)
            for p, variable in enumerate(old.variables)
            if isinstance(variable, Factor)
        }
        self._reference = dict.fromkeys(self._levels, 0)
        before, after = old.variables[place], new.variables[place]
        assert isinstance(before, Factor)
        assert isinstance(after, Factor)
        self._reference[place] = before.places[after.all_levels[0]]
        self._named = {place: [before.places[level] for level in after.all_levels]}
        self.before = self._pieces(old, basis, {})
        self.after = self._pieces(new, basis, self._named)
        self.absorbs = old.absorbed is not None and not old.absorb_l2
        self.own = old.layout.own_columns
        self.new_own = new.layout.own_columns
        self._known: dict[tuple[Key, Cell], Combination] = {}

    def transfer(self) -> Any:
        """(p' + 1, p) sparse: each old column, conditioned and not reduced, as a combination of new ones.

        The last row is what goes to every absorbed effect.
        """
        from scipy import sparse

        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for key, piece in self.before.items():
            for cell, column in piece.of.items():
                for row, value in self._own(key, cell).items():
                    rows.append(row)
                    columns.append(column)
                    values.append(value)
        return sparse.csr_array((values, (rows, columns)), shape=(self.new_own + 1, self.own))

    def _own(self, key: Key, cell: Cell) -> Combination:
        """1[cell] times the numbers of a piece, in the piece's own centre and scale."""
        known = self._known.get((key, cell))
        if known is None:
            known = self._known[key, cell] = self._combined(key, cell)
        return known

    def _combined(self, key: Key, cell: Cell) -> Combination:
        piece = self.after[key]
        if cell in piece.of:
            return {piece.of[cell]: 1.0}
        if piece.seen is not None and cell not in piece.seen:
            return {}  # no row is in it
        at, factor = next(
            (at, factor)
            for at, (factor, digit) in enumerate(cell)
            if not piece.factors[factor] and digit == self._reference[factor]
        )
        rest = cell[:at] + cell[at + 1 :]
        total = self._scaled(rest, key[1], piece.centre, piece.scale)
        for digit in range(self._levels[factor]):
            if digit != self._reference[factor]:
                other = (*cell[:at], (factor, digit), *cell[at + 1 :])
                _add(total, self._own(key, other), -1.0)
        return total

    def _scaled(self, cell: Cell, parts: tuple[Part, ...], centre: float, scale: float) -> Combination:
        """1[cell] (x - centre) scale, x the product of `parts`."""
        key, full = self._home(cell, parts)
        total: Combination = {}
        if key is None:
            total[self.new_own] = 1.0
            return total
        piece = self.after[key]
        for whole in _filled_up(cell, full, self._levels):
            _add(total, self._own(key, whole), scale / piece.scale)
        beyond = (piece.centre - centre) * scale
        if beyond:
            _add(total, self._scaled(cell, (), 0.0, 1.0), beyond)
        return total

    def _home(self, cell: Cell, parts: tuple[Part, ...]) -> tuple[Key | None, tuple[int, ...]]:
        """The piece that spans the cells of some factors, and the factors with all levels that it adds."""
        wanted = frozenset(factor for factor, _ in cell)
        if (wanted, parts) in self.after:
            return (wanted, parts), ()
        for key, piece in self.after.items():
            more = key[0] - wanted
            if key[1] == parts and wanted < key[0] and all(piece.factors[factor] for factor in more):
                return key, tuple(sorted(more))
        if not cell and not parts and self.absorbs:
            return None, ()
        raise StreamlrError(
            "the model has no term that takes up what a change of this reference level moves, so that only "
            "another fit can change it."
        )

    def _pieces(self, design: Design, basis: Basis, named: Mapping[int, list[int]]) -> dict[Key, _Columns]:
        """Pieces by their factors and numbers; levels by their names in the old model (`named`)."""
        found: dict[Key, _Columns] = {}
        if design.intercept:
            found[frozenset(), ()] = _Columns(0, {}, {(): 0}, None, 0.0, 1.0)
        inputs = {piece: at for at, piece in enumerate(design.inputs)}
        column = int(design.intercept)
        for piece in design.pieces:
            if isinstance(piece, Coded) and piece.absorbed:
                continue
            at = inputs.get(piece)
            centre, scale = (0.0, 1.0) if at is None else (float(basis.centre[at]), float(basis.scale[at]))
            parts = tuple(sorted(piece.parts, key=lambda part: (part.variable, part.column)))
            if isinstance(piece, Dense):
                found[frozenset(), parts] = _Columns(column, {}, {(): column}, None, centre, scale)
                column += 1
                continue
            meeting = piece.meeting
            factors = dict(zip(meeting.variables, meeting.full, strict=True))
            cells, seen = self._cells(design, meeting, named)
            of = {cell: column + i for i, cell in enumerate(cells)}
            found[frozenset(factors), parts] = _Columns(column, factors, of, seen, centre, scale)
            column += len(cells)
        return found

    def _cells(
        self, design: Design, meeting: Meeting, named: Mapping[int, list[int]]
    ) -> tuple[list[Cell], frozenset[Cell] | None]:
        """The cells with a column, in the order of columns, and those with rows."""
        radix = design.radix(meeting)
        numbers = range(radix[0]) if meeting.cells is None else meeting.cells.seen
        cells, seen = [], []
        for number in numbers:
            digits = digits_of(number, radix)
            cell = tuple(
                sorted(
                    (variable, named[variable][digit] if variable in named else digit)
                    for variable, digit in zip(meeting.variables, digits, strict=True)
                )
            )
            seen.append(cell)
            if all(full or digit for digit, full in zip(digits, meeting.full, strict=True)):
                cells.append(cell)
        return cells, None if meeting.cells is None else frozenset(seen)


def _filled_up(cell: Cell, more: tuple[int, ...], levels: Mapping[int, int]) -> list[Cell]:
    """The cells of more factors, all levels of each, in a cell of some."""
    cells = [cell]
    for factor in more:
        cells = [tuple(sorted((*own, (factor, digit)))) for own in cells for digit in range(levels[factor])]
    return cells


def _add(total: Combination, other: Combination, times: float) -> None:
    for column, value in other.items():
        total[column] = total.get(column, 0.0) + times * value


def _check_aliasing(model: Model, changed: Design, move: _Move, transfer: Any) -> None:
    """Refuse what only rows can settle: which column of a set of dependent ones has no estimate."""
    names = model.design.column_names
    active = model.basis.active[: move.own]
    moved = (abs(transfer) > 0).sum(axis=0) != 1
    for key, piece in move.before.items():
        if move.place in key[0]:
            moved[list(piece.of.values())] = True
    touched = set(transfer[:, np.flatnonzero(moved)].tocoo().row.tolist())
    for key, piece in move.before.items():
        same = move.after[key]
        for cell, column in piece.of.items():
            if not active[column] and (moved[column] or same.of.get(cell) in touched):
                raise StreamlrError(
                    f"{names[column]} is aliased with terms that another reference level changes; fit again "
                    "with that reference level."
                )
    if move.own != move.new_own:
        raise StreamlrError(
            "some cells of an interaction have no rows, so that with this reference level other terms are "
            "aliased; fit again with that reference level."
        )


@dataclass(frozen=True)
class _Map:
    """From coefficients in the old basis to those in the new one.

    Reduced columns are the same functions of rows in both, so what goes to others goes past them: a round
    trip through columns that are not reduced would lose the digits that reducing them has won. `plain`
    (p' + 1, p): what stays outside of reduced columns, last what goes to every absorbed effect. `margins`
    (p', p): what goes to a column that is reduced, as it is without that.
    """

    new: Basis
    plain: Any
    margins: Any

    def __call__(self, values: Floats) -> Floats:
        """(p', ...) or with absorbed effects (k', ...) from (p, ...) or (k, ...)."""
        own, new_own = self.plain.shape[1], self.plain.shape[0] - 1
        head = values[:own]
        found = self.plain[:new_own] @ head
        margin = self.margins @ head
        if len(values) > own:
            found = np.concatenate([found, values[own:] + (self.plain[[new_own]] @ head)[0]])
            margin = np.concatenate([margin, np.zeros(len(values) - own)])
        if self.new.reduced and margin.any():
            found = found + self.new.from_conditioned(margin)
        return np.asarray(found, dtype=np.float64)


def _moved(model: Model, changed: Design, move: _Move, transfer: Any) -> Model:
    """The model in the new columns."""
    own, new_own = move.own, move.new_own
    active = np.ones(new_own, dtype=np.bool_)
    for key, piece in move.before.items():
        for cell, column in piece.of.items():
            if not model.basis.active[column]:
                active[move.after[key].of[cell]] = False
    moved = _moved_basis(model.basis, changed, active, move, transfer)
    old_places, places = np.flatnonzero(model.basis.active[:own]), np.flatnonzero(active)

    def moved_covariance(covariance: Floats) -> Floats:
        """(p', p') in the new basis from (k, k) in the old one."""
        full = np.zeros((own, own))
        full[np.ix_(old_places, old_places)] = covariance
        full = moved(moved(full).T)
        make_symmetric(full)
        return full

    coef = moved(model.coef_of_basis)
    information = moved_covariance(model.conditioned_covariance)
    robust = None if model.robust_covariance is None else moved_covariance(model.robust_covariance)
    errors = fit_statistics.standard_errors(
        moved.new.covariance_to_raw(information if robust is None else robust)
    )
    bounds, firth = _moved_profiles(model, changed, move.place, places)
    return replace(
        model,
        design=changed,
        basis=moved.new,
        conditioned_coef=coef[places],
        conditioned_effects=None if model.conditioned_effects is None else coef[new_own:],
        inverse_information=information[np.ix_(places, places)],
        robust_covariance=None if robust is None else robust[np.ix_(places, places)],
        params=moved.new.to_raw(coef)[places],
        bse=errors[places],
        profile_bounds=bounds,
        firth=firth,
        aliased=_aliased_names(changed, active),
        separation=_separation(model, changed),
    )


def _moved_profiles(
    model: Model, changed: Design, place: int, places: NDArray[np.int64]
) -> tuple[Floats | None, Firth | None]:
    """(k, 2) profiled bounds, and what is kept of a penalised likelihood, of coefficients that are old ones,
    maybe with the other sign; NaN for others, which only the rows could profile."""
    bounds, firth = model.profile_bounds, model.firth
    if bounds is None and (firth is None or firth.roots is None):
        return bounds, firth
    old = model.basis
    raw = Basis.of(model.design.layout, np.zeros_like(old.centre), np.ones_like(old.scale))
    transfer = _Move(model.design, changed, place, raw).transfer().toarray()
    transfer = transfer[np.ix_(places, np.flatnonzero(old.active[: transfer.shape[1]]))]
    kept = np.flatnonzero(np.count_nonzero(transfer, axis=1) == 1)
    sources = np.argmax(transfer[kept] != 0, axis=1)
    signs = transfer[kept, sources]
    if bounds is not None:
        moved = np.full((len(places), 2), np.nan)
        moved[kept] = np.sort(signs[:, np.newaxis] * bounds[sources], axis=1)
        bounds = moved
    if firth is not None and firth.roots is not None:
        roots = np.full(len(places), np.nan)
        roots[kept] = signs * firth.roots[sources]
        firth = replace(firth, roots=roots)
    return bounds, firth


def _moved_basis(old: Basis, changed: Design, active: NDArray[np.bool_], move: _Move, transfer: Any) -> _Map:
    """The new basis with the same functions of rows in it: what is taken out of a column is written in new
    columns, and stays in front of it."""
    from scipy import sparse

    own, new_own = move.own, move.new_own
    moved_to = {
        column: move.after[key].first
        for key, piece in move.before.items()
        if not piece.factors
        for column in piece.of.values()
    }
    basis = Basis(
        layout=changed.layout,
        centre=old.centre,
        scale=old.scale,
        active=np.concatenate([active, old.active[own:]]),
    )
    targets = [moved_to[column] for column in old.reduced]
    entries = transfer.tocoo()
    rows, columns, values = entries.row, entries.col, entries.data
    free = ~np.isin(columns, old.reduced)
    at_margin = np.isin(rows, targets)

    def part(which: NDArray[np.bool_], units: bool, shape: tuple[int, int]) -> Any:
        ones = np.ones(len(targets) if units else 0)
        at = (
            np.concatenate([rows[which], targets if units else []]).astype(np.int64),
            np.concatenate([columns[which], old.reduced if units else []]).astype(np.int64),
        )
        return sparse.csr_array((np.concatenate([values[which], ones]), at), shape=shape)

    plain = part(free & ~at_margin, True, (new_own + 1, own))
    margins = part(free & at_margin, False, (new_own, own))
    for at, gamma in enumerate(old.gamma):
        taken = _Map(basis, plain, margins)(gamma)
        if taken[targets[at] : new_own].any():  # a column is made of what stands in front of it
            raise StreamlrError(
                f"{changed.column_names[targets[at]]} stands in front of terms that another reference level "
                "moves into it; fit again with that reference level."
            )
        basis = replace(
            basis,
            reduced=(*basis.reduced, targets[at]),
            gamma=(*basis.gamma, taken),
            stretch=old.stretch[: at + 1],
        )
    return _Map(basis, plain, margins)


def _aliased_names(design: Design, active: NDArray[np.bool_]) -> list[str]:
    """What a fit lists: columns without an estimate, factors of one level, cells without rows."""
    names = design.column_names
    single = [factor.name for factor in design.factors if not factor.column_names and not factor.absorbed]
    return [*(names[column] for column in np.flatnonzero(~active)), *single, *empty_cells(design, MOST_NAMED)]


def _separation(model: Model, changed: Design) -> Mapping[str, Any] | None:
    """The finding of the fit, its levels and cells set aside by their new names."""
    found = model.separation
    if found is None or not terms_with_limits(changed):
        return found
    # A level that is set aside has its own column whatever the reference: all else of it stays.
    told = {term["term"]: term for term in found["terms"]}
    renamed = zip(terms_with_limits(model.design), terms_with_limits(changed), strict=True)
    return {**found, "terms": [{**told[old], "term": new} for old, new in renamed]}
