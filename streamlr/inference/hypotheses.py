"""Linear hypotheses about the coefficients of a fitted model, tested by Wald's statistic without the data.

A hypothesis is text, `"x1 - 2*x2 = 1"`, `"carrier[T.AA] = carrier[T.UA], age"`, or `"carrier"` for all
coefficients of a term (`equations.py` reads it); or it is a matrix. Tests work on a root of the covariance,
A with A A' = V, formed in the basis of the fit: at mean 1e6 the raw covariance of a factor and its
interaction has lost twelve digits, the root has not.

    W = (L b - r)' (L V L')^-1 (L b - r) ~ chi-squared with rank(L) degrees of freedom

(Wald 1943, Transactions of the American Mathematical Society 54, 426-482; Wooldridge 2010, Econometric
Analysis of Cross Section and Panel Data, 2nd ed., section 12.6.1.) V is what the table of the model uses,
robust where that is. Agrees with R's `car::linearHypothesis(test = "Chisq")` and statsmodels' `wald_test`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr import arguments
from streamlr.errors import StreamlrError
from streamlr.inference import fit_statistics
from streamlr.inference.equations import MOST_ROWS, coefficient_blocks, parse_hypotheses
from streamlr.linear_algebra import cholesky, qr_triangle, solve_lower
from streamlr.report.grids import Field, Grid, TermTable

if TYPE_CHECKING:
    from streamlr.model import Model

Floats = NDArray[np.float64]

# A row of L, scaled to length one, of which less than this is left after its projection on the others, says
# nothing of its own; so does one of L A. Coefficients in text are short decimals: what is left of an exact
# combination is some 1e-16.
DEPENDENT = 1e-9
# Coefficients of a contrast that its label spells out.
MOST_SPELLED = 6


@dataclass(frozen=True)
class Contrast:
    """One linear combination of coefficients, l'b, against the value that the hypothesis gives it."""

    contrast: str
    estimate: float
    null_value: float
    std_error: float
    statistic: float
    p_value: float
    conf_low: float
    conf_high: float


@dataclass(frozen=True)
class WaldTest:
    """A joint test of linear hypotheses, and each of them on its own.

    `statistic` is chi-squared with `df` degrees of freedom if they are all true; `rows` has a `Contrast` for
    each equation, redundant ones included, with intervals at `conf_level`.
    """

    hypothesis: str
    statistic: float
    df: int
    p_value: float
    rows: tuple[Contrast, ...]
    conf_level: float
    cov_type: str

    def as_dict(self) -> dict[str, Any]:
        """What `--format json` prints of it."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    def grid(self) -> Grid:
        """Its table of contrasts under a line with the test."""
        percent = f"{100 * self.conf_level:g}%"
        fields = (
            Field("contrast", "", "text"),
            Field("estimate", "estimate"),
            Field("null_value", "against"),
            Field("std_error", "std. error"),
            Field("statistic", "z", "statistic"),
            Field("p_value", "p", "p_value"),
            Field("conf_low", f"{percent} from"),
            Field("conf_high", "to"),
        )
        return Grid(fields, [asdict(row) for row in self.rows], above=(self.line(),))

    def line(self) -> str:
        """The test in one line."""
        from streamlr.report.text import fixed, p_value

        p = p_value(self.p_value)
        p = f"p {p}" if p.startswith("<") else f"p = {p}"
        return (
            f"Wald test of {self.hypothesis}: chi-squared = {fixed(self.statistic, 3)}, df = {self.df}, {p}"
        )

    def __str__(self) -> str:
        return str(self.grid())

    def _repr_html_(self) -> str:
        return self.grid().to_html()


@dataclass(frozen=True)
class TermTest:
    """Whether a term says anything: `df` is the number of its coefficients with an estimate, and `statistic`
    is None where there is none, or where the covariance is not positive definite for them together."""

    term: str
    df: int
    statistic: float | None
    p_value: float | None


@dataclass(frozen=True)
class TermTests(TermTable[TermTest]):
    """Wald tests of all terms, of type 2 or 3; see `term_tests`."""

    type: int
    cov_type: str

    def grid(self) -> Grid:
        """Their table."""
        fields = (
            Field("term", "", "text"),
            Field("df", "df", "degrees"),
            Field("statistic", "chi-squared", "statistic"),
            Field("p_value", "p", "p_value"),
        )
        roman = {2: "II", 3: "III"}[self.type]
        return Grid(fields, self.as_dicts(), above=(f"Wald tests of terms, type {roman}",))


# ------------------------------------------------------------------ tests


def wald_test(
    model: Model,
    hypothesis: str | Sequence[str] | ArrayLike,
    *,
    value: ArrayLike | None = None,
    conf_level: float | None = None,
) -> WaldTest:
    """Wald test of linear hypotheses L b = r about the coefficients of a model.

    Args:
        model: a fitted model.
        hypothesis: text, or several; equations are separated by commas, a combination without `=` is
            compared with 0, `a = b = c` is two equations, and the name of a term or of a column made
            categorical means that all coefficients of the term are 0. Names may stand in backquotes. Or L,
            (m, k) or (k,), in the order of `model.terms`.
        value: r, (m,) or a number, for an L; default 0.
        conf_level: of the intervals; default that of the model.

    Rows of L that follow from others are kept in `rows` and count no degree of freedom.

    Raises:
        StreamlrError: an unknown or aliased term, a text that is no hypothesis, equations that contradict
            each other, or a covariance that is not positive definite for them together.
    """
    level = model.conf_level if conf_level is None else arguments.probability("conf_level", conf_level)
    texts = _texts(hypothesis)
    if texts is None:
        matrix, against = _checked_matrix(model, hypothesis, value)
        shown = f"{len(matrix)} contrast{'s' if len(matrix) > 1 else ''}"
    else:
        if value is not None:
            raise StreamlrError("the text of a hypothesis holds its values; give none beside it.")
        matrix, against = parse_hypotheses(model, texts)
        shown = ", ".join(" ".join(text.split()) for text in texts)
    if not (np.isfinite(matrix).all() and np.isfinite(against).all()):
        raise StreamlrError("the hypothesis adds up to numbers that are too large.")
    # Each equation times a power of two that makes its largest coefficient about one, which rounds nothing.
    size = np.exp2(np.frexp(np.abs(matrix).max(axis=1))[1])
    with np.errstate(over="ignore"):
        scaled, target = matrix / size[:, np.newaxis], against / size
    differences = scaled @ model.params - target
    root = covariance_root(model).of(scaled)
    labels = [_label(model, row, value) for row, value in zip(matrix, against, strict=True)]
    kept = independent_rows(scaled, target, labels)
    with np.errstate(over="ignore", invalid="ignore"):
        whitened = _whitened(root.at(kept), differences[kept])
    if whitened is None:
        raise StreamlrError(
            f"the covariance ({model.covariance_type}) is not positive definite for {len(kept)} equations "
            "together: it is made of too few clusters or rows. Test fewer at a time."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        statistic = float(whitened @ whitened)
        estimates, errors = (scaled @ model.params) * size, np.sqrt(root.variances())
        z, errors = differences / errors, errors * size
    if not (math.isfinite(statistic) and np.isfinite([*estimates, *errors, *z]).all()):
        raise StreamlrError("the hypothesis holds numbers so large that its test is not a number.")
    intervals = fit_statistics.wald_intervals(estimates, errors, level)
    columns = (estimates, against, errors, z, fit_statistics.two_sided_p(z), *intervals.T)
    rows = [Contrast(label, *map(float, numbers)) for label, *numbers in zip(labels, *columns, strict=True)]
    return WaldTest(
        hypothesis=shown,
        statistic=statistic,
        df=len(kept),
        p_value=fit_statistics.chi_squared_tail(statistic, len(kept)),
        rows=tuple(rows),
        conf_level=level,
        cov_type=model.covariance_type,
    )


def term_tests(model: Model, type: int = 3) -> TermTests:
    """Wald tests of every term of a model, in the order of the terms.

    Type 3 tests that all coefficients of a term are zero beside all other terms, the intercept in a row of
    its own. With treatment coding the tests of terms that stand in interactions then depend on the reference
    levels; code such factors as `C(x, sum)` where types 3 are wanted. Type 2 tests a term without those that
    contain it (marginality): of the hypotheses about the term and its relatives together, the part that is
    V-orthogonal to those about the relatives alone, so that

        W(term | others) = W(term and relatives) - W(relatives)

    Agrees with R's `car::Anova(model, type = , test.statistic = "Wald")` (Fox 2016, Applied Regression
    Analysis and Generalized Linear Models, 3rd ed., sections 8.2.5 and 15.4). Absorbed effects are no term.

    Raises `StreamlrError` for another type.
    """
    if type not in (2, 3):
        raise StreamlrError(f"term tests are of type 2 or 3, not {type!r}.")
    blocks = coefficient_blocks(model)
    root = covariance_root(model)
    found = []
    if type == 3 and model.design.intercept and "Intercept" in model.terms:
        found.append(_term_test("Intercept", root, model.params, np.array([0])))
    variables = {
        name: set(term.variables)
        for name, term in zip(model.design.term_columns, model.design.terms, strict=True)
    }
    for name, own in blocks.items():
        relatives = [blocks[other] for other in blocks if type == 2 and variables[name] < variables[other]]
        found.append(_term_test(name, root, model.params, own, relatives))
    return TermTests(tuple(found), type, model.covariance_type)


def factor_tests(model: Model) -> tuple[TermTest, ...]:
    """The overall test of each term with several coefficients: that all of them are zero (type 3)."""
    blocks = {name: own for name, own in coefficient_blocks(model).items() if len(own) > 1}
    if not blocks:
        return ()
    root = covariance_root(model)
    return tuple(_term_test(name, root, model.params, own) for name, own in blocks.items())


@dataclass(frozen=True)
class CovarianceRoot:
    """`half` A (m, r) and `signs` s (r,) of a covariance A diag(s) A'.

    All signs are 1 unless the covariance is indefinite, as that of two-way clusters may be.
    """

    half: Floats
    signs: Floats

    def variances(self) -> Floats:
        """(m,) its diagonal."""
        return np.asarray(np.einsum("ij,j,ij->i", self.half, self.signs, self.half))

    def of(self, combinations: Floats) -> CovarianceRoot:
        """That of linear combinations, the rows of L (l, m)."""
        return CovarianceRoot(combinations @ self.half, self.signs)

    def at(self, places: NDArray[np.int64]) -> CovarianceRoot:
        """That of some coefficients."""
        return CovarianceRoot(self.half[places], self.signs)


def covariance_root(model: Model, robust: bool = True) -> CovarianceRoot:
    """The root of the covariance of `model.params`, or with `robust` false of the inverse information."""
    own = model.design.layout.own_columns
    active = np.flatnonzero(model.basis.active[:own])
    sandwich = model.robust_covariance if robust else None
    covariance = model.conditioned_covariance if sandwich is None else sandwich
    variances = np.diagonal(covariance)
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    scaled = covariance / scale / scale[:, np.newaxis]
    half = cholesky(scaled)
    signs = np.ones(len(scaled))
    rounding = 100.0 * len(scaled) * np.finfo(np.float64).eps
    if half is None or (sandwich is not None and (np.diagonal(half) ** 2 < rounding).any()):
        # Few clusters span fewer directions than there are coefficients, and rounding fills up the rest.
        squares, directions = np.linalg.eigh(scaled)
        spanned = np.abs(squares) > rounding
        half = directions[:, spanned] * np.sqrt(np.abs(squares[spanned]))
        signs = np.sign(squares[spanned])
    whole = np.zeros((own, half.shape[1]))
    whole[active] = half * scale[:, np.newaxis]
    return CovarianceRoot(model.basis.to_raw(whole)[active], signs)


def independent_rows(matrix: Floats, against: Floats, labels: Sequence[str]) -> NDArray[np.int64]:
    """Places of rows of L that the others follow from, the earliest ones.

    Raises `StreamlrError` where one that follows has another value than it follows with.
    """
    m = len(matrix)
    single = np.count_nonzero(matrix, axis=1) == 1
    if single.all() and len(np.unique(np.argmax(matrix != 0, axis=1))) == m:
        return np.arange(m)
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    scaled, values = matrix / lengths[:, np.newaxis], against / lengths
    basis = np.empty((min(matrix.shape), matrix.shape[1]))
    known = np.empty(len(basis))
    sizes = np.empty(len(basis))  # how large the values are that a rest is made of
    kept: list[int] = []
    for i, row in enumerate(scaled):
        count = len(kept)
        rest, value, size = row, values[i], abs(values[i])
        for _ in range(2):  # once leaves errors of the size of what was taken out
            shares = basis[:count] @ rest
            rest = rest - shares @ basis[:count]
            value = value - shares @ known[:count]
            size = size + np.abs(shares) @ sizes[:count]
        length = float(np.sqrt(rest @ rest))
        if length > DEPENDENT and count < len(basis):
            basis[count], known[count], sizes[count] = rest / length, value / length, size / length
            kept.append(i)
        elif abs(value) > DEPENDENT * max(size, 1e-300):
            raise StreamlrError(
                f"the equations contradict each other: {labels[i]} cannot be true together with the ones "
                "before it."
            )
    return np.array(kept, dtype=np.int64)


def _term_test(
    name: str,
    root: CovarianceRoot,
    params: Floats,
    own: NDArray[np.int64],
    above: Sequence[NDArray[np.int64]] = (),
) -> TermTest:
    """The test of coefficients `own`, of their part that is orthogonal to those `above` them."""
    if not len(own):
        return TermTest(name, 0, None, None)
    places = np.concatenate([*above, own])
    whitened = _whitened(root.at(places), params[places])
    if whitened is None:
        return TermTest(name, len(own), None, None)
    # The squares of the last coordinates are W(above and own) - W(above), and nothing cancels.
    last = whitened[-len(own) :]
    statistic = float(last @ last)
    return TermTest(name, len(own), statistic, fit_statistics.chi_squared_tail(statistic, len(own)))


def _whitened(root: CovarianceRoot, difference: Floats) -> Floats | None:
    """(m,) w of which the first i make the Wald statistic of the first i of m numbers, w'w = d' V^-1 d.

    By the QR of A', V = A A', whose rows are brought to length one; where only V = A diag(s) A', by the
    Cholesky factor of V. None where V is not positive definite.
    """
    variances = root.variances()
    if not ((variances > 0) & np.isfinite(variances)).all() or len(variances) > len(root.signs):
        return None
    lengths = np.sqrt(variances)
    half = root.half / lengths[:, np.newaxis]
    lower: Floats | None
    if (root.signs > 0).all():
        lower = qr_triangle(half.T)[: len(half)].T
    else:
        lower = cholesky((half * root.signs) @ half.T)
    if lower is None or (np.abs(np.diagonal(lower)) < DEPENDENT).any():
        return None
    return solve_lower(lower, difference / lengths)


def _texts(hypothesis: Any) -> list[str] | None:
    """The texts of a hypothesis, None where it is a matrix."""
    if isinstance(hypothesis, str):
        return [hypothesis]
    listed = isinstance(hypothesis, list | tuple) and len(hypothesis) > 0
    return list(hypothesis) if listed and all(isinstance(text, str) for text in hypothesis) else None


def _checked_matrix(model: Model, matrix: Any, value: ArrayLike | None) -> tuple[Floats, Floats]:
    """L (m, k) and r (m,) as arrays. Raises `StreamlrError`."""
    k = len(model.params)
    try:
        rows = np.atleast_2d(np.asarray(matrix, dtype=np.float64))
        values = np.asarray(0.0 if value is None else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StreamlrError(f"a hypothesis is text or a matrix of numbers ({error}).") from error
    if rows.ndim != 2 or rows.shape[1] != k or not len(rows):
        raise StreamlrError(
            f"a hypothesis matrix has a column for each of the {k} terms with an estimate; this one is "
            f"{' by '.join(str(size) for size in rows.shape)}."
        )
    if len(rows) > MOST_ROWS:
        raise StreamlrError(f"the hypothesis has more than {MOST_ROWS:,} equations.")
    if values.shape not in ((), (len(rows),)):
        raise StreamlrError(f"{len(rows)} rows of a hypothesis need as many values, or one for all.")
    if not (np.isfinite(rows).all() and np.isfinite(values).all()):
        raise StreamlrError("a hypothesis holds numbers that are not finite.")
    empty = np.flatnonzero(~rows.any(axis=1))
    if len(empty):
        raise StreamlrError(f"row {empty[0] + 1} of the hypothesis matrix is all zero.")
    return rows, np.broadcast_to(values, (len(rows),)).astype(np.float64)


def _label(model: Model, row: Floats, value: float) -> str:
    """A row of L in words: `x1 - 2*x2 = 1`."""
    places = np.flatnonzero(row)
    pieces: list[str] = []
    for place in places[:MOST_SPELLED]:
        weight = float(row[place])
        sign = "-" if weight < 0 else "+" if pieces else ""
        size = "" if abs(weight) == 1.0 else f"{abs(weight):.6g}*"
        pieces.append(f"{sign} {size}{model.terms[place]}" if pieces else f"{sign}{size}{model.terms[place]}")
    if len(places) > MOST_SPELLED:
        pieces.append(f"+ {len(places) - MOST_SPELLED:,} more")
    return f"{' '.join(pieces)} = {value:.6g}"
