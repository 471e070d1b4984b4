"""The numbers behind formula terms of several columns: splines, orthogonal polynomials and contrasts.

Pure functions: what a term learned from the data (knots, recurrence coefficients, the number of levels) goes
in, a matrix comes out, and each row depends on its own value alone, to the last bit, so that a row has the
same columns in whatever batch it comes. Signs, order and scale of the columns are R's, for `cardinal_spline`
patsy's and formulaic's. Matrices have a row per value and lie in memory column after column, as kernels read
them. A missing value (NaN) makes a missing row; an infinity, which has no place in a model, makes a row of
infinities or NaN and no warning.

Splines are evaluated by recurrence in NumPy, which is as fast as `scipy.interpolate.BSpline` (0.05 s for a
million values and six columns) and spares the 0.1 s that importing it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.errors import StreamlrError, did_you_mean

Floats = NDArray[np.float64]

CODINGS = ("sum", "helmert", "poly")

# Rows worked on at a time, so that the dozen vectors of a recurrence stay in cache: half the time of all rows
# at once, and the same from 4,096 to 16,384.
ROWS_AT_A_TIME = 8192


# Splines


def bspline(
    x: ArrayLike, inner: ArrayLike, lower: float, upper: float, degree: int = 3, intercept: bool = False
) -> Floats:
    """B-splines of `x` (n,), as (n, inner + degree) columns, one more with `intercept`.

    `inner` (any number of knots, repeated ones too, in any order) lie from `lower` to `upper`. Beyond these
    the outermost polynomials go on. A function jumps only at a knot repeated more than `degree` times, and
    there, as at every knot but `upper`, the value is that from the right. Without `intercept` the first
    function is left out, as the columns would add up to one. A knot on a boundary leaves a column of zeros
    (with `intercept` or at `upper`), or columns that add up to one all the same.

    Raises `StreamlrError` for a negative degree and for knots that are not finite or out of place.

    Equals R's `splines::bs(x, knots=inner, degree=degree, intercept=intercept,
    Boundary.knots=c(lower, upper))`, but for degree 0, which R refuses, and for an inner knot on `upper`,
    beyond which R has NaN. De Boor (1978), A Practical Guide to Splines, chapter X.
    """
    if degree < 0:
        raise StreamlrError(f"the degree of a spline is 0 or more, not {degree}")
    values = np.asarray(x, dtype=np.float64)
    functions = _all_functions(values, _clamped_knots(inner, lower, upper, degree), degree)
    return functions[0 if intercept else 1 :].T


def natural_spline(
    x: ArrayLike, inner: ArrayLike, lower: float, upper: float, intercept: bool = False
) -> Floats:
    """Natural cubic splines of `x` (n,), as (n, inner + 1) columns, one more with `intercept`.

    Cubic between `lower`, the `inner` knots and `upper`, with second derivative zero at both boundaries and
    linear beyond them. The columns are those combinations of the B-splines (without their first, unless
    `intercept`) that fulfil this: all but the first two columns of Q, where Q R is the QR factorisation of
    the second derivatives at the boundaries, by Householder reflections.

    Raises `StreamlrError` for knots that are not finite or out of place.

    Equals R's `splines::ns(x, knots=inner, intercept=intercept, Boundary.knots=c(lower, upper))`, signs
    included, as long as no inner knot lies on a boundary. Hastie (1992), Generalized additive models, chapter
    7 of Statistical Models in S.
    """
    values = np.asarray(x, dtype=np.float64)
    knots = _clamped_knots(inner, lower, upper, degree=3)
    bounds = knots[[0, -1]]
    left_out = 0 if intercept else 1
    at_bounds, slopes, curvatures = (_derivatives(bounds, knots, order)[:, left_out:] for order in range(3))
    combine = _orthogonal_complement(curvatures.T)  # (functions, columns)
    table = np.zeros((combine.shape[1], combine.shape[0] + left_out))
    table[:, left_out:] = combine.T

    out = np.empty((len(table), len(values)))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _runs(len(values)):
            inside = np.clip(values[rows], *bounds)
            first, functions = _nonzero_functions(inside, knots, 3)
            places = [first + place for place in range(4)]
            for column, coefficients in zip(out[:, rows], table, strict=True):
                column[:] = functions[0] * coefficients.take(places[0])
                for place, function in zip(places[1:], functions[1:], strict=True):
                    column += function * coefficients.take(place)
        for beyond, at_bound, slope, bound in zip(
            (values < bounds[0], values > bounds[1]),
            at_bounds @ combine,
            slopes @ combine,
            bounds,
            strict=True,
        ):
            out[:, beyond] = at_bound[:, None] + slope[:, None] * (values[beyond] - bound)
    return out.T


def cardinal_spline(x: ArrayLike, knots: ArrayLike) -> Floats:
    """The natural cubic spline through values at `knots`, as (n, knots) columns whose coefficients these are.

    `x` (n,) are the values; `knots` ascend, and the first and last are the boundaries, beyond which the
    functions are linear. With h_j = k_{j+1} - k_j, and F_j the second derivatives at knot j that the spline
    has by the value at each knot, a row is, for k_j <= x <= k_{j+1} and the unit vectors e_j,

        a- e_j + a+ e_{j+1} + c- F_j + c+ F_{j+1},     a- = (k_{j+1} - x) / h_j,   a+ = (x - k_j) / h_j,
        c- = ((k_{j+1} - x)^3 / h_j - h_j (k_{j+1} - x)) / 6,   c+ = ((x - k_j)^3 / h_j - h_j (x - k_j)) / 6.

    The columns add up to one. Raises `StreamlrError` for fewer than two knots, or knots that are not finite
    or do not ascend.

    Equals patsy's and formulaic's `cr` with these knots, `formulaic.transforms.cubic_spline`, extrapolation
    "extend". Wood (2006), Generalized Additive Models, section 4.1.2.
    """
    values = np.asarray(x, dtype=np.float64)
    at = np.asarray(knots, dtype=np.float64)
    if len(at) < 2 or not np.all(np.isfinite(at)) or np.any(np.diff(at) <= 0):
        raise StreamlrError(
            f"a cubic regression spline needs two or more knots that ascend, not {_listed(at)}"
        )
    gaps = np.diff(at)
    second = _second_derivatives(gaps).T.copy()  # (knots, knots): the column of each, by knot
    out = np.empty((len(at), len(values)))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _runs(len(values)):
            here = values[rows]
            j = np.searchsorted(at[1:-1], here, side="right")
            gap = gaps.take(j)
            left, right = here - at.take(j), at.take(j + 1) - here
            # Beyond the boundaries the cubic of the far side is left out, which leaves the tangent.
            cubic_left, cubic_right = np.maximum(left, 0.0), np.maximum(right, 0.0)
            c_left = (cubic_right**2 * cubic_right / gap - gap * right) / 6
            c_right = (cubic_left**2 * cubic_left / gap - gap * left) / 6
            for column, coefficients in zip(out[:, rows], second, strict=True):
                column[:] = c_left * coefficients.take(j) + c_right * coefficients.take(j + 1)
            row = np.arange(rows.start, rows.start + len(here))
            out[j, row] += right / gap
            out[j + 1, row] += left / gap
    return out.T


def _clamped_knots(inner: ArrayLike, lower: float, upper: float, degree: int) -> Floats:
    """(inner + 2 degree + 2,) all knots in order, with each boundary `degree` + 1 times."""
    if not (np.isfinite(lower) and np.isfinite(upper) and lower < upper):
        raise StreamlrError(
            f"a spline needs a lower boundary below its upper one, not {float(lower)} and {float(upper)}"
        )
    between = np.sort(np.asarray(inner, dtype=np.float64).ravel())
    outside = between[~((between >= lower) & (between <= upper))]
    if len(outside):
        raise StreamlrError(
            f"the inner knots of a spline lie between its boundaries, {float(lower)} and {float(upper)}; "
            f"these do not: {_listed(outside)}"
        )
    ends = degree + 1
    return np.concatenate([np.full(ends, lower, dtype=np.float64), between, np.full(ends, upper)])


def _nonzero_functions(x: Floats, knots: Floats, degree: int) -> tuple[NDArray[np.intp], list[Floats]]:
    """Number of the first B-spline that is not zero at `x` (n,), and the values of it and the next `degree`.

    The recurrence over degrees, algorithm BSPLVB of de Boor (1978), chapter X. Of an `x` beyond the first or
    last knot the functions are the polynomials of the outermost interval, continued.
    """
    # Only intervals of some length count, so no knot difference below is zero.
    inside = knots[(knots > knots[0]) & (knots < knots[-1])]
    leftmost = int(np.searchsorted(knots, knots[0], side="right")) - 1
    interval = np.searchsorted(inside, x, side="right") + leftmost
    below = [knots.take(interval - place) for place in range(degree)]
    above = [knots.take(interval + 1 + place) for place in range(degree)]
    functions = [np.ones_like(x)]
    for order in range(1, degree + 1):
        raised = []
        carried = np.zeros_like(x)
        for place, function in enumerate(functions):
            left, right = below[order - 1 - place], above[place]
            # Not (right - x) + (x - left), which loses digits far beyond the boundaries.
            share = function / (right - left)
            raised.append(carried + (right - x) * share)
            carried = (x - left) * share
        functions = [*raised, carried]
    return interval - degree, functions


def _all_functions(x: Floats, knots: Floats, degree: int) -> Floats:
    """(functions, n) every B-spline of this degree on these knots, NaN where `x` (n,) is."""
    n = len(x)
    out = np.zeros((len(knots) - degree - 1, n))
    flat = out.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _runs(n):
            first, functions = _nonzero_functions(x[rows], knots, degree)
            at = first * n + np.arange(rows.start, rows.start + len(first))
            for place, function in enumerate(functions):
                flat[at + place * n] = function
    out[:, np.isnan(x)] = np.nan
    return out


def _derivatives(x: Floats, knots: Floats, order: int) -> Floats:
    """(n, functions) derivative of this order of the cubic B-splines; de Boor (1978), chapter X.

    Each order writes it in splines of a degree less, with differences of coefficients over knot distances.
    """
    out = _all_functions(x, knots, 3 - order).T
    for degree in range(4 - order, 4):
        spans = knots[degree:] - knots[:-degree]
        # A function without support takes part in nothing.
        factor = np.divide(degree, spans, out=np.zeros_like(spans), where=spans > 0)
        scaled = out * factor
        out = scaled[:, :-1] - scaled[:, 1:]
    return out


def _orthogonal_complement(columns: Floats) -> Floats:
    """(m, m - k) orthonormal columns orthogonal to `columns` (m, k): the last ones of Q in their QR.

    Written out because the signs are part of the meaning of a coefficient: a reflection sends the column to
    the axis on the side away from it (Golub & Van Loan 1996, section 5.1), as LINPACK does, which R calls.
    """
    m, k = columns.shape
    rest = columns.copy()
    q = np.eye(m)
    for j in range(k):
        v = np.zeros(m)
        v[j:] = rest[j:, j]
        length = np.sqrt(np.sum(v**2))
        v[j] += length if v[j] >= 0 else -length
        scaled = 2 * v / np.sum(v**2)
        rest -= np.outer(scaled, v @ rest)
        q -= np.outer(q @ v, scaled)
    return q[:, k:]


def _second_derivatives(gaps: Floats) -> Floats:
    """(k, k) second derivatives of a natural cubic spline at its knots, per value at each.

    B F = D at the inner knots, where the first derivative is continuous, and zero at both ends; B and D as in
    Wood (2006), section 4.1.2.
    """
    inner = len(gaps) - 1
    F = np.zeros((inner + 2, inner + 2))
    D = np.zeros((inner, inner + 2))
    at = np.arange(inner)
    D[at, at] = 1 / gaps[:-1]
    D[at, at + 2] = 1 / gaps[1:]
    D[at, at + 1] = -D[at, at] - D[at, at + 2]
    B = np.diag((gaps[:-1] + gaps[1:]) / 3) + np.diag(gaps[1:-1] / 6, 1) + np.diag(gaps[1:-1] / 6, -1)
    F[1:-1] = np.linalg.solve(B, D)
    return F


def _runs(n: int) -> Iterator[slice]:
    return (slice(start, start + ROWS_AT_A_TIME) for start in range(0, n, ROWS_AT_A_TIME))


def _listed(values: Floats) -> str:
    shown = ", ".join(str(value) for value in values[:5].tolist())
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "") if shown else "none"


# Where knots go


def quantile_probabilities(count: int) -> Floats:
    """(count,) the probabilities of the quantiles at which R's `bs` and `ns` put `count` inner knots.

    1/(count + 1), 2/(count + 1), ..., the ends left out. R takes the quantiles (type 7, linear between order
    statistics) of all values that are not missing and lie in the boundaries, equal ones as often as they
    occur. Raises `StreamlrError` for a negative count.
    """
    if count < 0:
        raise StreamlrError(f"a spline cannot have {count} inner knots")
    return np.arange(1, count + 1) / (count + 1)


def cr_probabilities(df: int) -> Floats:
    """(df,) the probabilities of the quantiles at which patsy's and formulaic's `cr(x, df=df)` has its knots.

    0, 1/(df - 1), ..., 1. They take the quantiles (linear between order statistics, as R's type 7) of the
    *distinct* values in the boundaries, each counted once however often it occurs. The first and last knot
    are the boundaries themselves, by default the least and greatest value. With `constraints="center"` they
    have df + 1 knots, and the constraint takes away a column. They refuse where two knots fall together.

    Raises `StreamlrError` for fewer than two knots.
    """
    if df < 2:
        raise StreamlrError(f"a cubic regression spline needs 2 or more knots, not {df}")
    return np.arange(df) / (df - 1)


# Orthogonal polynomials


def polynomial_values(x: ArrayLike, alpha: ArrayLike, norm2: ArrayLike) -> Floats:
    """Orthonormal polynomials of degree 1, 2, ... of `x` (n,), as (n, degree) columns.

    `alpha` (degree,) and `norm2` (degree + 2,) are the coefficients of the three-term recurrence

        p_0 = 1,   p_1 = x - alpha_0,   p_{i+1} = (x - alpha_i) p_i - (norm2_{i+1} / norm2_i) p_{i-1}

    where norm2_{i+1} is the sum of squares of p_i over the rows it was learned from, and norm2_0 is 1; column
    i is p_i / sqrt(norm2_{i+1}). Raises `StreamlrError` where the lengths do not fit, or a sum of squares is
    not positive.

    Equals R's `predict(poly(x0, degree), x)`, where the two are the attribute `coefs` of `poly(x0, degree)`.
    Kennedy & Gentle (1980), Statistical Computing, pages 343-344.
    """
    values = np.asarray(x, dtype=np.float64)
    centres = np.asarray(alpha, dtype=np.float64)
    squares = np.asarray(norm2, dtype=np.float64)
    degree = len(centres)
    if degree < 1 or len(squares) != degree + 2:
        raise StreamlrError(
            f"orthogonal polynomials of degree k, 1 or more, need k centres and k + 2 sums of squares, not "
            f"{degree} and {len(squares)}"
        )
    if not (np.all(squares > 0) and np.all(np.isfinite(squares)) and np.all(np.isfinite(centres))):
        raise StreamlrError(
            f"orthogonal polynomials of degree {degree} do not exist here: their sums of squares are "
            f"{_listed(squares[2:])}. The values have too few distinct ones; take a lower degree."
        )
    out = np.empty((degree, len(values)))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in _runs(len(values)):
            before, last = np.zeros(1), np.ones(1)
            for i in range(degree):
                before, last = last, (values[rows] - centres[i]) * last - squares[i + 1] / squares[i] * before
                out[i, rows] = last / np.sqrt(squares[i + 2])
    return out.T


# Contrasts


def contrast_matrix(coding: str, count: int) -> Floats:
    """(count, count - 1) what each of `count` levels has in each column.

    "sum": level j has 1 in column j, the last -1 everywhere. "helmert": column j is j + 1 for level j + 1 and
    -1 for those before. "poly": orthonormal polynomials, leading coefficients positive, of equally spaced
    levels. Equals R's `contr.sum`, `contr.helmert` and `contr.poly`.

    Raises `StreamlrError` for another coding and for fewer than two levels.
    """
    _check_coding(coding, count)
    if coding == "sum":
        return np.vstack([np.eye(count - 1), -np.ones(count - 1)])
    if coding == "helmert":
        column = np.arange(count - 1)
        matrix = np.where(np.arange(count)[:, None] <= column, -1.0, 0.0)
        matrix[column + 1, column] = column + 1
        return matrix
    # The values of orthonormal polynomials at n equally spaced points are eigenvectors of the tridiagonal
    # matrix of their recurrence, with the points as eigenvalues (Golub & Welsch 1969, Mathematics of
    # Computation 23, 221-230). This is exact to rounding for any n; R factors powers of the points, which has
    # no digit left in the last column of 40. The recurrence is that of the discrete Chebyshev polynomials:
    # Hahn's with alpha = beta = 0 in the NIST Digital Library of Mathematical Functions, section 18.22.
    k = np.arange(1, count)
    off = np.sqrt(k**2 * (count**2 - k**2) / (4 * (4.0 * k**2 - 1)))
    vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1)).eigenvectors
    return (vectors * np.sign(vectors[0]))[1:].T.copy()


def contrast_suffixes(coding: str, levels: Sequence[Any]) -> tuple[str, ...]:
    """What follows the name of the factor in the names of its columns, one for each of `contrast_matrix`.

    "sum": `[S.level]` of each level but the last; "helmert": `[H.level]` of each but the first; "poly":
    `[.L]`, `[.Q]`, `[.C]`, `[^4]`, `[^5]` and so on. Raises as `contrast_matrix` does.
    """
    _check_coding(coding, len(levels))
    if coding == "sum":
        return tuple(f"[S.{level}]" for level in levels[:-1])
    if coding == "helmert":
        return tuple(f"[H.{level}]" for level in levels[1:])
    named = ("[.L]", "[.Q]", "[.C]")
    return tuple(named[k - 1] if k <= 3 else f"[^{k}]" for k in range(1, len(levels)))


def _check_coding(coding: str, count: int) -> None:
    if coding not in CODINGS:
        raise StreamlrError(
            f"no contrasts called '{coding}'; there are {', '.join(CODINGS)}.{did_you_mean(coding, CODINGS)}"
        )
    if count < 2:
        raise StreamlrError(f"contrasts compare two or more levels; there is {count}")
