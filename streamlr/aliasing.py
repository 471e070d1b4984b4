"""Columns that are exact combinations of earlier ones, decided by rows and not by a small pivot.

year, its square and its cube in raw units leave a pivot of 1e-12 and are estimable; the sum of two other
columns leaves one of 1e-16 and is not. So pivots only nominate. A pass forms the residual x_j - X gamma of
each nominated column row by row: zero to rounding, the column is aliased; anything else becomes the basis
column in its place, and the arithmetic is well conditioned again. Columns are taken in the order of the
terms, so of several the earlier is kept, as in R.

The effects of an absorbed factor come before all of them, because they are eliminated first: pivots are those
of the Schur complement, and what is taken out of a column holds a number for every level. A column that is
constant within levels is aliased, unless a ridge holds the effects back, which then cannot stand in for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.linear_algebra import (
    Blocked,
    Bordered,
    Hessian,
    cholesky,
    diagonal,
    inverse_of_lower,
    is_finite,
    restricted,
    solve,
    solve_lower,
)
from streamlr.newton import Evaluation
from streamlr.objective import Objective

Floats = NDArray[np.float64]

# Share of a column's information that must be its own; below, it is looked at row by row. Above, solving
# loses six digits of sixteen at most.
NOMINATION = 1e-6
# Share of it that is certain where an eigenvalue is known by its order of magnitude only.
SAFETY = 0.1
# Units of rounding, relative to the sum of absolute terms, up to which a residual is zero.
ROUNDING = 32 * np.finfo(np.float64).eps
# gamma itself carries the rounding of the Hessian; it is refined until the residual is zero or stays put.
REFINEMENTS = 6
STAYS = 0.25
ROUNDS = 8
# Columns that are factored together: one at a time took 100 s at 3,800 columns, so many 2 s.
COLUMNS_AT_ONCE = 64
# Numbers of combinations that are probed together: fifty columns that a million levels explain would take
# 400 MB, for every thread several times.
PROBED = 1 << 23


@dataclass(frozen=True)
class Nomination:
    """A column with little information of its own, and the combination of earlier ones nearest to it."""

    column: int
    gamma: Floats  # (m,) of all m that could be nominated, zero for columns that are not earlier or not kept
    information: float  # what the Hessian leaves of it


def settle_basis(
    objective: Objective, coef: Floats, evaluation: Evaluation
) -> tuple[Objective, Floats, Evaluation, list[int]]:
    """Find aliased columns and condition the others, from the evaluation at `coef`.

    Returns the objective in the settled basis, `coef` there, the evaluation and the aliased model columns.
    """
    assert objective.first is not None
    if objective.first.tally.rows_used == 0 or not is_finite(evaluation.hessian):
        # No row is left, or there are infinities in the data: the caller knows what to say.
        return objective, coef, evaluation, []
    objective, coef, evaluation = _without_empty_levels(objective, coef, evaluation)
    magnitude = _magnitude(objective)
    aliased: list[int] = []
    cleared: set[int] = set()
    for _ in range(ROUNDS):
        active = np.flatnonzero(objective.basis.active)
        skip = [place for place, column in enumerate(active) if column in cleared]
        # A ridge keeps effects from standing in for a column: only columns of one's own can.
        hessian = evaluation.hessian
        if isinstance(hessian, Bordered) and objective.design.absorb_l2:
            hessian = hessian.dense
        nominations, kept = nominate(hessian, skip)
        if not nominations:
            break
        residuals = _in_groups(objective, coef, hessian, nominations, kept, magnitude)
        basis = objective.basis
        own_information = diagonal(evaluation.hessian)
        extents = dict(objective.reduced_extent)
        dropped: list[int] = []
        coef = coef.copy()
        for nomination, (combination, square, extent) in zip(nominations, residuals, strict=True):
            column = int(active[nomination.column])
            if square == 0.0:
                # What the column said is now said by those it is made of: no row's eta changes.
                share = coef[nomination.column]
                coef = coef - share * combination
                dropped.append(column)
            elif objective.design.layout.slot_of_column[column] < objective.design.layout.dense:
                gamma = objective.expand(-combination)
                gamma[column] = 0.0
                stretch = float(np.sqrt(own_information[nomination.column] / square))
                basis = basis.reduce(column, gamma, stretch)
                extents[column] = extent * stretch
            else:
                cleared.add(column)
        aliased.extend(dropped)
        whole = objective.expand(coef)
        conditioned = objective.basis.to_conditioned(whole)
        basis = basis.without(np.array(dropped, dtype=np.int64))
        moved = objective.with_basis(basis, extents)
        if basis.stretch != objective.basis.stretch:
            coef = basis.from_conditioned(conditioned)[basis.active]
            objective = moved
            evaluation = objective(coef)
        else:
            stay = np.flatnonzero(basis.active[active])
            coef = coef[stay]
            objective = moved
            evaluation = _on_columns(evaluation, stay, objective)
    return objective, coef, evaluation, sorted(aliased)


def _without_empty_levels(
    objective: Objective, coef: Floats, evaluation: Evaluation
) -> tuple[Objective, Floats, Evaluation]:
    """Absorbed levels whose rows all weigh nothing have no estimate."""
    hessian = evaluation.hessian
    if not isinstance(hessian, Bordered) or (hessian.tail > 0.0).all():
        return objective, coef, evaluation
    empty = len(hessian.dense) + np.flatnonzero(~(hessian.tail > 0.0))
    stay = np.setdiff1d(np.arange(len(coef)), empty)
    basis = objective.basis.without(np.flatnonzero(objective.basis.active)[empty])
    objective = objective.with_basis(basis, objective.reduced_extent)
    return objective, coef[stay], _on_columns(evaluation, stay, objective)


def _on_columns(evaluation: Evaluation, stay: NDArray[np.int64], objective: Objective) -> Evaluation:
    """The evaluation without the columns that the objective has lost."""
    return Evaluation(
        evaluation.loss,
        evaluation.gradient[stay],
        restricted(evaluation.hessian, stay),
        objective.box(),
        evaluation.least_curvature,
    )


def nominate(hessian: Hessian, skip: list[int]) -> tuple[list[Nomination], NDArray[np.int64]]:
    """Columns whose pivot in a Cholesky factor taken in order is small, and the columns kept without them.

    `skip`: columns that are kept whatever their pivot. Absorbed columns are taken first and never nominated.
    """
    if isinstance(hessian, Blocked):
        # No combination of columns has less information than the least eigenvalue tells.
        if hessian.factor is not None and hessian.factor.condition < SAFETY / NOMINATION:
            return [], np.arange(len(hessian))
        hessian = hessian.matrix
    left = hessian
    if isinstance(hessian, Bordered):
        left, hessian = hessian.schur_complement(), hessian.dense
    assert isinstance(hessian, np.ndarray)
    k = len(hessian)
    diagonal = np.diagonal(hessian)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = left / np.multiply.outer(scale, scale)
    factor = cholesky(scaled)
    if factor is not None:
        # A pivot over the squared length of its combination: rounding multiplies along chains of pivots.
        small = 1.0 / (inverse_of_lower(factor) ** 2).sum(axis=1) < NOMINATION
        small[skip] = False
        if not small.any():
            return [], np.arange(k)
    nominations = []
    kept = np.empty(0, dtype=np.int64)
    lower = np.zeros((k, k))
    for first in range(0, k, COLUMNS_AT_ONCE):
        columns = np.arange(first, min(first + COLUMNS_AT_ONCE, k))
        m = len(kept)
        before = lower[:m, :m]
        above = solve_lower(before, scaled[np.ix_(kept, columns)])
        told = solve_lower(before, above, transposed=True).T.copy()  # what the kept ones say of each column
        rest = scaled[np.ix_(columns, columns)] - above.T @ above
        stay: list[int] = []
        corner = np.zeros_like(rest)
        told_of_stay = np.empty_like(told)
        for place, column in enumerate(columns):
            n = len(stay)
            row = solve_lower(corner[:n, :n], rest[stay, place])
            pivot = rest[place, place] - row @ row
            beside = solve_lower(corner[:n, :n], row, transposed=True)
            back = told[place] - beside @ told_of_stay[:n]
            length = 1.0 + back @ back + beside @ beside
            if pivot < NOMINATION * length and (column not in skip or pivot <= 0.0):
                gamma = np.zeros(k)
                gamma[kept] = back
                gamma[columns[stay]] = beside
                gamma *= scale[column] / scale
                nominations.append(Nomination(int(column), gamma, float(pivot * diagonal[column])))
                continue
            corner[n, :n] = row
            corner[n, n] = np.sqrt(pivot)
            told_of_stay[n] = told[place]
            stay.append(place)
        n = len(stay)
        lower[m : m + n, :m] = above[:, stay].T
        lower[m : m + n, m : m + n] = corner[:n, :n]
        kept = np.concatenate([kept, columns[stay]])
    return nominations, kept


def _in_groups(
    objective: Objective,
    coef: Floats,
    hessian: Hessian,
    nominations: list[Nomination],
    kept: NDArray[np.int64],
    magnitude: Floats,
) -> Iterator[tuple[Floats, float, float]]:
    """What `_residuals` finds, for as many nominations at once as memory is planned for."""
    at_once = max(PROBED // len(coef), 1)
    for first in range(0, len(nominations), at_once):
        group = nominations[first : first + at_once]
        yield from _residuals(objective, coef, hessian, group, kept, magnitude)


def _residuals(
    objective: Objective,
    coef: Floats,
    hessian: Hessian,
    nominations: list[Nomination],
    kept: NDArray[np.int64],
    magnitude: Floats,
) -> list[tuple[Floats, float, float]]:
    """For every nomination the residual's combination (active,), weighted square (0: aliased), extent.

    `hessian`: of all active columns, or of the own ones where no effect may stand in for a column.
    """
    own, absorbing = len(hessian), np.empty(0, dtype=np.int64)
    if isinstance(hessian, Bordered):
        own = len(hessian.dense)
        absorbing = np.arange(own, len(hessian))
    combinations = np.zeros((len(nominations), len(coef)))
    for combination, nomination in zip(combinations, nominations, strict=True):
        combination[nomination.column] = 1.0
        combination[:own] -= nomination.gamma
        if isinstance(hessian, Bordered):
            combination[:] = hessian.completed(combination[:own])
    squares_before = np.array([max(n.information, 0.0) for n in nominations])
    settled: dict[int, tuple[Floats, float, float]] = {}
    for _ in range(REFINEMENTS):
        open_ = [i for i in range(len(nominations)) if i not in settled]
        whole = np.array([objective.expand(combinations[i]) for i in open_])
        extent, squares, products = objective.probe(coef, whole)
        products = products[:, objective.basis.active]
        for place, i in enumerate(open_):
            terms = np.abs(objective.basis.to_conditioned(whole[place])) * magnitude
            if extent[place] <= ROUNDING * _largest_sum(objective, terms):
                settled[i] = combinations[i], 0.0, 0.0
            elif squares[place] >= STAYS * squares_before[i] > 0.0:
                settled[i] = combinations[i], float(squares[place]), float(extent[place])
            else:
                earlier = kept[kept < nominations[i].column]
                places = np.concatenate([earlier, absorbing])
                inner = restricted(hessian, places)
                combinations[i, places] -= solve(inner, products[place, places])
                squares_before[i] = squares[place]
        if len(settled) == len(nominations):
            break
    # Neither zero nor steady after all refinements: rounding is all that is left of such a column.
    return [settled.get(i, (combinations[i], 0.0, 0.0)) for i in range(len(nominations))]


def _largest_sum(objective: Objective, terms: Floats) -> float:
    """Bound on a row's sum of absolute terms (k,), of which at most one is an absorbed level's."""
    own = objective.design.layout.own_columns
    return float(terms[:own].sum() + terms[own:].max(initial=0.0))


def _magnitude(objective: Objective) -> Floats:
    """(k,) largest |x| of every column in the scale of its z, before centring: what its rounding goes by."""
    magnitude = objective.extent()
    basis = objective.basis
    centres = np.abs(basis.centre) * basis.scale
    layout = basis.layout
    magnitude[basis.numeric_columns] += centres[: layout.numeric]
    for columns, centre in zip(layout.factor_columns[layout.plain :], centres[layout.numeric :], strict=True):
        magnitude[columns] += centre
    return magnitude
