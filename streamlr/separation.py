"""Is there a finite maximum? The algebra of separation: arrays in, arrays out.

Outcomes are separated by a direction d when every row with a success has x'd >= 0, every row with a failure
x'd <= 0, rows with both among their trials x'd = 0, and not all x'd are zero (Albert and Anderson 1984, On
the existence of maximum likelihood estimates in logistic regression models, Biometrika 71, 1-10). Such
directions are a convex cone, and along each the likelihood rises for ever. Rows that some direction of the
cone moves are separated, the others overlap; without overlapping rows the separation is complete, else
quasi-complete.

Whether x'd is zero is decided by the rounding of the row's own sum: computed in any order, a sum of m
products is off by gamma_m sum |x_j d_j| at most, gamma_m = m u / (1 - m u), u = 2**-53 (Higham 2002, Accuracy
and Stability of Numerical Algorithms, section 3.1).

A direction is found in two ways. Coefficients that diverge point along one up to what the overlapping rows
still move, so it is projected onto the null space of those rows. Where that fails, a linear programme over
some rows, of which all others then give their say, finds one or proves that there is none: maximise
sum of t_i subject to s_i x_i'd >= t_i, 0 <= t_i <= 1. A cone can be stretched, so at the maximum t_i is one
for every row that can be separated and zero for every other; this is the programme of Konis (2007, Linear
programming algorithms for detecting separated data in binary logistic regression models, thesis, Oxford,
chapter 4) with a bound on every row in place of one on d. `streamlr.separating` runs the passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import SeparationError, remedies
from streamlr.linear_algebra import Blocked, Bordered, Hessian, pivoted_cholesky, solve_lower

Floats = NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-53
# Roundings of a term of x'd beside its product and sum: two of (x - centre) scale, and as many of the
# direction itself as of the sum, because it was computed to satisfy the very rows that it is verified on.
ROUNDINGS_OF_A_TERM = 4
# Rows are taken to be separated beyond so many units of rounding, as a direction that was computed from rows
# of its plane may be off by a few; between one unit and these a row on the right side counts as overlapping.
CERTAIN = 64.0
# Terms whose share of a direction, in standard deviations, is below these are left out of it where the proof
# holds without them: below the second they are most often rounding.
SHARE = 1e-3
NO_SHARE = 1e-12
# Part of a column's square that has to be its own for the column to count as one; squares lose half the
# digits, and of two ranks that come from these the proof decides.
TOLERANCES = (1e-11, 1e-7)
# Square of a column below which no row has it at all: a single row with a level has one.
NO_ROW = 1e-12
# Where a linear programme says 0 or 1.
HALF = 0.5
# Solutions of linear programmes are off by this.
LP_TOLERANCE = 1e-7
# Rounds in which what a direction moves of overlapping rows is taken out of it.
REFINEMENTS = 4
# Terms that a message names.
MOST_TOLD = 12


def is_complete(loss: float, least_weight: float, has_offset: bool) -> bool:
    """Whether the loss alone proves complete separation. With an offset it proves nothing about x'coef."""
    return not has_offset and loss < math.log(2.0) * least_weight


def rounding_unit(terms: int) -> float:
    """gamma_m for rows of that many terms: |x'd| up to this times sum |x_j d_j| cannot be told from zero."""
    roundings = (2 * terms + ROUNDINGS_OF_A_TERM) * UNIT_ROUNDOFF
    return roundings / (1.0 - roundings)


@dataclass(frozen=True)
class NullSpace:
    """Directions (k,) that move none of some rows, from the sum of their x x'.

    A pivoted Cholesky factor says which columns those rows tell apart, the pivots; the other columns are
    free, and the pivots follow from them, so that a direction along free columns that no row has stays
    exactly that. Columns of levels apart, the last of a bordered matrix, follow from all others where a row
    has the level, and are free where none has.
    """

    pivots: NDArray[np.int64]  # (r,) among the first p columns
    free: NDArray[np.int64]  # (p - r,)
    factor: Floats  # (r, r) lower, of the scaled matrix without levels apart
    coupling: Floats  # (r, p - r) scaled products of pivots and free columns
    scale: Floats  # (p,)
    border: Floats  # (p, m)
    tail: Floats  # (m,)

    @classmethod
    def of(cls, gram: Hessian, tolerance: float) -> NullSpace:
        """The null space of `gram` (k, k), what is below `tolerance` of a column's square being rounding."""
        if isinstance(gram, Blocked):
            gram = gram.matrix
        border, tail = np.zeros((len(gram), 0)), np.zeros(0)
        if isinstance(gram, Bordered):
            border, tail, gram = gram.border, gram.tail, gram.dense
        diagonal = np.diagonal(gram)
        scale = np.sqrt(np.maximum(diagonal, NO_ROW))
        known = tail > NO_ROW
        half = border[:, known] / np.sqrt(tail[known])
        scaled = (gram - half @ half.T) / np.multiply.outer(scale, scale)
        if not len(scaled):
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, np.empty((0, 0)), np.empty((0, 0)), scale, border, tail)
        factor, order = pivoted_cholesky(scaled, tolerance)
        pivots, free = order[: len(factor)], np.sort(order[len(factor) :])
        return cls(pivots, free, factor, scaled[np.ix_(pivots, free)], scale, border, tail)

    @property
    def dimension(self) -> int:
        """Number of columns that are free."""
        return len(self.free) + int(np.count_nonzero(~(self.tail > NO_ROW)))

    def projected(self, direction: Floats, least_share: float = 0.0) -> Floats:
        """The direction (k,) with the same free columns that moves none of the rows.

        Free columns below `least_share` of the largest are taken to be zero.
        """
        out = np.array(direction)
        p = len(self.scale)
        unknown = ~(self.tail > NO_ROW)
        free = np.concatenate([self.free, p + np.flatnonzero(unknown)])
        size = np.abs(out[free])
        out[free[size < least_share * size.max(initial=0.0)]] = 0.0
        moved = self.coupling @ (out[self.free] * self.scale[self.free])
        out[self.pivots] = -self._solve(moved) / self.scale[self.pivots]
        return self._completed(out)

    def corrected(self, direction: Floats, products: Floats) -> Floats:
        """The direction less what `products` (k,), the sum of x x'd over the rows, say that it moves them."""
        p = len(self.scale)
        known = self.tail > NO_ROW
        rest = np.zeros(len(self.tail))
        rest[known] = products[p:][known] / self.tail[known]
        own = (products[:p] - self.border @ rest)[self.pivots] / self.scale[self.pivots]
        change = np.zeros(p)
        change[self.pivots] = self._solve(own) / self.scale[self.pivots]
        out = np.array(direction)
        out[:p] -= change
        behind = rest - np.where(known, (change @ self.border) / np.where(known, self.tail, 1.0), 0.0)
        out[p:] -= behind
        return out

    def basis(self) -> Floats:
        """(q, k) directions that span the null space, each with one free column of the first p."""
        found = np.zeros((len(self.free), len(self.scale) + len(self.tail)))
        for row, column in zip(found, self.free, strict=True):
            row[column] = 1.0
            row[:] = self.projected(row)
        return found

    def _solve(self, vector: Floats) -> Floats:
        return solve_lower(self.factor, solve_lower(self.factor, vector), transposed=True)

    def _completed(self, out: Floats) -> Floats:
        """The levels apart that rows have, as all other columns have them."""
        p = len(self.scale)
        known = self.tail > NO_ROW
        out[p:][known] = -(out[:p] @ self.border[:, known]) / self.tail[known]
        return out


def scaled_to_one(direction: Floats) -> Floats:
    """(k,) scaled to a largest value of one; zeros where there is nothing to scale."""
    largest = np.abs(direction).max(initial=0.0)
    if not (largest > 0.0 and math.isfinite(largest)):
        return np.zeros_like(direction)
    return direction / largest


def tidied(direction: Floats, least: float = NO_SHARE) -> Floats:
    """(k,) scaled to a largest value of one, what is below `least` at zero: most often that is rounding, but
    a centre of 1e-16 wants an intercept of as much."""
    scaled = scaled_to_one(direction)
    return np.where(np.abs(scaled) < least, 0.0, scaled)


def widest_direction(X: Floats, sides: NDArray[np.int8]) -> tuple[Floats, NDArray[np.bool_]] | None:
    """The direction (k,) that separates as many of some rows as can be, and which (r,) it does.

    `X` (r, k), `sides` (r,): 1 for rows of successes, -1 of failures, 0 of both. None where the programme has
    no solution that can be trusted.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack

    r, k = X.shape
    of_rows = np.abs(X).max(axis=1, initial=0.0)
    scaled = X / np.where(of_rows > 0, of_rows, 1.0)[:, None]
    pure = np.flatnonzero(sides)
    both = np.flatnonzero(sides == 0)
    count = len(pure)
    upper = hstack([csr_array(-sides[pure, None] * scaled[pure]), eye_array(count)], format="csr")
    equal = hstack([csr_array(scaled[both]), csr_array((len(both), count))], format="csr")
    found = linprog(
        np.r_[np.zeros(k), -np.ones(count)],
        A_ub=upper if count else None,
        b_ub=np.zeros(count) if count else None,
        A_eq=equal if len(both) else None,
        b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=[(None, None)] * k + [(0.0, 1.0)] * count,
        method="highs",
    )
    if found.status != 0:
        return None
    separated = np.zeros(r, dtype=np.bool_)
    separated[pure] = found.x[k:] > HALF
    return off_rows(found.x[:k], X[~separated]), separated


def off_rows(direction: Floats, rows: Floats) -> Floats:
    """The direction (k,) with what it moves of some rows (r, k) taken out, as nearly as doubles have it.

    Each row goes by its own rounding, so that one of small terms is not left to that of large ones. Residuals
    are formed in extended precision where the machine has it, and rounded once.
    """
    out = direction.astype(np.longdouble)
    if not len(rows):
        return np.array(direction)
    exact = rows.astype(np.longdouble)
    for _ in range(REFINEMENTS):
        sizes = np.abs(rows) @ np.abs(out).astype(np.float64)
        weights = 1.0 / np.where(sizes > 0.0, sizes, sizes.min(initial=1.0, where=sizes > 0.0))
        residual = (exact @ out) * weights
        out -= np.linalg.lstsq(rows * weights[:, None], residual.astype(np.float64), rcond=1e-12)[0]
    return out.astype(np.float64)


def unmoved(X: Floats) -> Floats:
    """(q, k) directions that move none of the rows X (r, k)."""
    if not X.size:
        return np.eye(X.shape[1])
    _, values, right = np.linalg.svd(X, full_matrices=True)
    rank = int(np.count_nonzero(values > 1e-10 * values.max(initial=0.0)))
    return np.asarray(right[rank:])


def against(moves: Floats, sides: NDArray[np.int8], column: Floats) -> Floats | None:
    """A direction (q,) in coordinates of a span for which `column` (q,) is negative, and that moves no row to
    the wrong side; zeros where there is none, None where that cannot be told.

    `moves` (r, q): what each coordinate does to x'd of some rows, on which they are `sides` (r,).
    """
    from scipy.optimize import linprog

    size = np.abs(moves).max(axis=1, initial=0.0)
    scaled = -sides[:, None] * moves / np.where(size > 0, size, 1.0)[:, None]
    found = linprog(
        column,
        A_ub=scaled if len(scaled) else None,
        b_ub=np.zeros(len(scaled)) if len(scaled) else None,
        bounds=[(-1.0, 1.0)] * len(column),
        method="highs",
    )
    if found.status != 0:
        return None
    if found.fun > -10.0 * LP_TOLERANCE * np.abs(column).max(initial=0.0):
        return np.zeros(len(column))
    return np.asarray(found.x)


def separated_terms(
    direction: Floats, raw_direction: Floats, names: Sequence[str], least_share: float = 0.0
) -> list[dict[str, Any]]:
    """The terms that a direction moves, with the sign in which each goes to infinity; (p,) both.

    "value" is the coefficient of the direction in the user's columns, where the largest coefficient of a
    standardised column is one.
    """
    largest = np.abs(direction).max(initial=0.0)
    moved = np.abs(direction) > least_share * largest
    return [
        {"term": name, "direction": 1 if raw > 0 else -1, "value": float(raw / largest)}
        for name, raw, moves in zip(names, raw_direction, moved, strict=True)
        if name != "Intercept" and moves and raw != 0.0
    ]


def set_aside_terms(limits: Mapping[str, int], sign_fixed: bool | None) -> list[dict[str, Any]]:
    """Levels and cells that had one outcome only, 1 or 0, as terms of a finding.

    Each is a direction of its own, along its own column, among the rows that those before it have left.
    """
    return [
        {
            "term": name,
            "direction": 1 if outcome else -1,
            "value": 1.0 if outcome else -1.0,
            "sign_fixed": sign_fixed,
        }
        for name, outcome in limits.items()
    ]


def finding_of(
    terms: Sequence[Mapping[str, Any]], separated: int, overlapping: int, *, set_aside: int = 0
) -> dict[str, Any]:
    """What a fit has to tell about separation, as INTERFACE shapes it, and what to do about it.

    `set_aside`: those of the separated rows without which a model was fitted.
    """
    return {
        "kind": "quasi-complete" if overlapping else "complete",
        "terms": [dict(term) for term in terms],
        "rows_separated": separated,
        "rows_overlapping": overlapping,
        "rows_set_aside": set_aside,
        "advice": remedies("drop" if overlapping and not set_aside else None),
    }


def separation_error(finding: Mapping[str, Any], unsettled: bool = False) -> SeparationError:
    """The finding as the error that `fit` raises; `unsettled`: more rows may be separated."""
    kind, terms = finding["kind"], finding["terms"]
    arrows = ", ".join(f"{t['term']} → {'+' if t['direction'] > 0 else '−'}∞" for t in terms[:MOST_TOLD])
    more = ", …" if len(terms) > MOST_TOLD else ""
    separated, overlapping = finding["rows_separated"], finding["rows_overlapping"]
    rows = "every row is predicted perfectly"
    if kind != "complete":
        least = "at least " if unsettled else ""
        rows = f"{least}{separated:,} rows are predicted perfectly, {overlapping:,} overlap"
    return SeparationError(
        f"{kind} separation: no finite maximum-likelihood estimate exists ({rows}). "
        f"Diverging: {arrows}{more}. {' '.join(finding['advice'])}",
        finding,
    )
