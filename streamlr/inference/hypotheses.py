"""Linear hypotheses about the coefficients of a fitted model, tested by Wald's statistic without the data.

A hypothesis is text, `"x1 - 2*x2 = 1"`, `"carrier[T.AA] = carrier[T.UA], age"`, or `"carrier"` for all
coefficients of a term; or it is a matrix. Names of terms hold brackets, commas, spaces and operators, so at
each place the longest name that the model knows is taken and nothing needs quotes. Tests work on a root of
the covariance, A with A A' = V, formed in the basis of the fit: at mean 1e6 the raw covariance of a factor
and its interaction has lost twelve digits, the root has not.

    W = (L b - r)' (L V L')^-1 (L b - r) ~ chi-squared with rank(L) degrees of freedom

(Wald 1943, Transactions of the American Mathematical Society 54, 426-482; Wooldridge 2010, Econometric
Analysis of Cross Section and Panel Data, 2nd ed., section 12.6.1.) V is what the table of the model uses,
robust where that is. Agrees with R's `car::linearHypothesis(test = "Chisq")` and statsmodels' `wald_test`.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special

from streamlr.design.design import terms_with_limits
from streamlr.design.expressions import Column
from streamlr.design.features import unwrapped
from streamlr.design.terms import Variable
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.inference import fit_statistics
from streamlr.linear_algebra import cholesky
from streamlr.report.grids import Field, Grid

if TYPE_CHECKING:
    from streamlr.model import Model

Floats = NDArray[np.float64]

LONGEST_TEXT = 10_000
DEEPEST = 50
MOST_ROWS = 10_000
# A row of L, scaled to length one, of which less than this is left after its projection on the others, says
# nothing of its own; so does one of L A. Coefficients in text are short decimals: what is left of an exact
# combination is some 1e-16.
DEPENDENT = 1e-9
# Coefficients of a contrast that its label spells out.
MOST_SPELLED = 6
# Variables of a term whose name is understood in any order.
MOST_PERMUTED = 3

NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
SPACE = re.compile(r"\s*")


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
class TermTests:
    """Wald tests of all terms, of type 2 or 3; see `term_tests`."""

    type: int
    rows: tuple[TermTest, ...]
    cov_type: str

    def __iter__(self) -> Iterator[TermTest]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, term: str) -> TermTest:
        for row in self.rows:
            if row.term == term:
                return row
        raise KeyError(term)

    def as_dicts(self) -> list[dict[str, Any]]:
        """What `--format json` prints of them."""
        return [asdict(row) for row in self.rows]

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

    def __str__(self) -> str:
        return str(self.grid())

    def _repr_html_(self) -> str:
        return self.grid().to_html()


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
    level = model.conf_level if conf_level is None else conf_level
    if not 0.0 < level < 1.0:
        raise StreamlrError(f"a confidence level lies between 0 and 1, not at {level:g}.")
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
        p_value=chi_squared_tail(statistic, len(kept)),
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
    return TermTests(type, tuple(found), model.covariance_type)


def factor_tests(model: Model) -> tuple[TermTest, ...]:
    """The overall test of each term with several coefficients: that all of them are zero (type 3)."""
    blocks = {name: own for name, own in coefficient_blocks(model).items() if len(own) > 1}
    if not blocks:
        return ()
    root = covariance_root(model)
    return tuple(_term_test(name, root, model.params, own) for name, own in blocks.items())


def coefficient_blocks(model: Model) -> dict[str, NDArray[np.int64]]:
    """The places of each term's coefficients among `model.terms`, in the order of the terms.

    Aliased coefficients have no place, and absorbed terms are not there.
    """
    design = model.design
    own = design.layout.own_columns
    active = model.basis.active[:own]
    places = np.cumsum(active) - 1
    return {
        name: places[columns][active[columns]]
        for name, columns in design.term_columns.items()
        if design.absorbed is None or name != design.absorbed.name
    }


def chi_squared_tail(statistic: float, df: float) -> float:
    """P(X > statistic) of a chi-squared X, by the upper incomplete gamma function: exact in the tail."""
    return float(special.chdtrc(df, max(statistic, 0.0)))


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
        squares, directions = linalg.eigh(scaled, check_finite=False)
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
    return TermTest(name, len(own), statistic, chi_squared_tail(statistic, len(own)))


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
    if (root.signs > 0).all():
        lower = linalg.qr(half.T, mode="r", check_finite=False)[0][: len(half)].T
    else:
        lower = cholesky((half * root.signs) @ half.T)
    if lower is None or (np.abs(np.diagonal(lower)) < DEPENDENT).any():
        return None
    return np.asarray(linalg.solve_triangular(lower, difference / lengths, lower=True, check_finite=False))


# ------------------------------------------------------------------ text


def parse_hypotheses(model: Model, texts: Iterable[str]) -> tuple[Floats, Floats]:
    """L (m, k) and r (m,) of hypotheses in text; see `wald_test`. Raises `StreamlrError`."""
    vocabulary = _vocabulary(model)
    rows: list[tuple[dict[int, float], float]] = []
    for text in texts:
        if len(text) > LONGEST_TEXT:
            raise StreamlrError(
                f"the hypothesis has {len(text):,} characters, more than {LONGEST_TEXT:,}. Give several, "
                "or a matrix."
            )
        rows.extend(_Reading(text, vocabulary).equations())
        if len(rows) > MOST_ROWS:
            raise StreamlrError(f"the hypothesis has more than {MOST_ROWS:,} equations.")
    if not rows:
        raise StreamlrError("the hypothesis is empty: name a term, or an equation such as 'x1 - 2*x2 = 1'.")
    matrix = np.zeros((len(rows), len(model.params)))
    for row, (coefficients, _) in zip(matrix, rows, strict=True):
        for place, value in coefficients.items():
            row[place] = value
    return matrix, np.array([value for _, value in rows])


@dataclass(frozen=True)
class _Vocabulary:
    """What names mean: places of coefficients; terms with the places of theirs; and names that stand for no
    estimate, with the reason."""

    coefficients: Mapping[str, int]
    terms: Mapping[str, tuple[int, ...]]
    without: Mapping[str, str]

    def names(self) -> list[str]:
        return [*self.coefficients, *self.terms, *self.without]


def _vocabulary(model: Model) -> _Vocabulary:
    design = model.design
    coefficients = {name: place for place, name in enumerate(model.terms)}
    without: dict[str, str] = {}
    for factor in design.categories:
        if design.has_reference(factor):
            name = f"{factor.name}[T.{factor.reference}]"
            without[name] = f"{name} is the reference level: its coefficient is 0 by definition. Leave it out"
        if factor.absorbed:
            without[factor.name] = f"the effects of {factor.name} are absorbed and have no covariance"
    for name, outcome in terms_with_limits(design).items():
        without[name] = f"{name} is set aside (its outcome is always {outcome}) and is not estimable"
    for name in model.aliased:
        without[name] = f"{name} is aliased (a combination of earlier terms) and is not estimable"
    terms: dict[str, tuple[int, ...]] = {}
    others: dict[str, set[str]] = {}
    blocks = coefficient_blocks(model)
    for name, term in zip(design.term_columns, design.terms, strict=True):
        if name not in blocks:
            continue
        terms[name] = tuple(blocks[name].tolist())
        variables = [design.variables[variable] for variable in term.variables]
        if len(variables) <= MOST_PERMUTED:
            for order in permutations([_names_of(variable) for variable in variables]):
                for names in product(*order):
                    others.setdefault(":".join(names), set()).add(name)
    for other, owners in others.items():
        if len(owners) == 1:
            terms.setdefault(other, terms[next(iter(owners))])
    return _Vocabulary(
        coefficients,
        {name: own for name, own in terms.items() if name not in coefficients},
        {name: why for name, why in without.items() if name not in coefficients},
    )


def _names_of(variable: Variable) -> tuple[str, ...]:
    """What a variable may be called in the name of a term: `C(race)` is about race as well."""
    inner = unwrapped(variable.feature.expression)
    return tuple(dict.fromkeys([variable.feature.name, *([inner.name] if isinstance(inner, Column) else [])]))


@dataclass
class _Side:
    """One side of an equation: a combination of coefficients and a constant, or a whole term."""

    coefficients: dict[int, float]
    constant: float = 0.0
    term: str | None = None

    @property
    def is_constant(self) -> bool:
        return not self.coefficients and self.term is None

    def plus(self, other: _Side, sign: float, shown: str) -> _Side:
        for side in (self, other):
            if side.term is not None:
                raise StreamlrError(
                    f"{side.term} in '{shown}' has several coefficients or none: name one of them, or let "
                    f"{side.term} stand alone to test that all are 0."
                )
        total = dict(self.coefficients)
        for place, value in other.coefficients.items():
            total[place] = total.get(place, 0.0) + sign * value
        return _Side(total, self.constant + sign * other.constant)

    def times(self, factor: float) -> _Side:
        return _Side({p: v * factor for p, v in self.coefficients.items()}, self.constant * factor)


class _Reading:
    """One pass over the text of a hypothesis, from left to right."""

    def __init__(self, text: str, vocabulary: _Vocabulary) -> None:
        self._text = text
        self._known = vocabulary
        self._at = 0
        self._depth = 0
        names = vocabulary.names()
        self._names = set(names)
        self._lengths = sorted({len(name) for name in names}, reverse=True)
        # Spaces inside of names may be left out where that leaves no doubt.
        close: dict[str, set[str]] = {}
        for name in names:
            close.setdefault("".join(name.split()), set()).add(name)
        self._close = {key: next(iter(found)) for key, found in close.items() if len(found) == 1}
        self._close_lengths = sorted({len(key) for key in self._close}, reverse=True)
        self._places = [i for i, character in enumerate(text) if not character.isspace()]
        self._squeezed = "".join(text[i] for i in self._places)

    def equations(self) -> list[tuple[dict[int, float], float]]:
        """Every equation as coefficients and the value of their combination."""
        found = []
        while True:
            begin = self._at
            sides = [self._sum()]
            while self._take("="):
                self._take("=")  # Python's way of writing it
                sides.append(self._sum())
            shown = self._text[begin : self._at].strip()
            if len(sides) == 1:
                sides.append(_Side({}))
            for left, right in pairwise(sides):
                found.extend(self._equation(left, right, shown))
            if self._done():
                return found
            if not self._take(","):
                raise self._fault("an equation ends here, but no comma follows")
            if self._done():
                return found

    def _equation(self, left: _Side, right: _Side, shown: str) -> list[tuple[dict[int, float], float]]:
        for one, other in ((left, right), (right, left)):
            if one.term is not None and other.is_constant and other.constant == 0.0:
                own = self._known.terms[one.term]
                if not own:
                    raise StreamlrError(
                        f"{one.term} has no coefficient with an estimate, so it is not estimable."
                    )
                return [({place: 1.0}, 0.0) for place in own]
        total = left.plus(right, -1.0, shown)
        coefficients = {place: value for place, value in total.coefficients.items() if value != 0.0}
        if not coefficients:
            raise StreamlrError(f"'{shown}' says nothing about any coefficient: name a term of the model.")
        return [(coefficients, 0.0 - total.constant)]

    def _sum(self) -> _Side:
        begin = self._at
        sign = -1.0 if self._take("-") else 1.0
        if sign > 0:
            self._take("+")
        side = self._product()
        if sign < 0:
            side = _Side({}).plus(side, -1.0, self._text[begin : self._at].strip())
        while True:
            if self._take("+"):
                sign = 1.0
            elif self._take("-"):
                sign = -1.0
            else:
                return side
            following = self._product()
            side = side.plus(following, sign, self._text[begin : self._at].strip())

    def _product(self) -> _Side:
        begin = self._at
        side = self._operand()
        while True:
            divided = self._take("/")
            if not divided and not self._take("*"):
                return side
            other = self._operand()
            shown = self._text[begin : self._at].strip()
            if divided and other.is_constant and other.constant == 0.0:
                raise StreamlrError(f"'{shown}' divides by zero.")
            if not other.is_constant and (divided or not side.is_constant):
                raise StreamlrError(
                    f"'{shown}' is not linear: coefficients can be multiplied by numbers alone."
                )
            for one in (side, other):
                if one.term is not None:
                    one.plus(_Side({}), 1.0, shown)  # raises
            if other.is_constant:
                side = side.times(1.0 / other.constant if divided else other.constant)
            else:
                side = other.times(side.constant)
            if not all(math.isfinite(v) for v in (side.constant, *side.coefficients.values())):
                raise StreamlrError(f"'{shown}' is too large a number.")

    def _operand(self) -> _Side:
        self._skip()
        if self._at >= len(self._text):
            raise self._fault("a term or a number is missing at the end")
        if self._text[self._at] == "`":
            return self._meaning(self._quoted())
        number = NUMBER.match(self._text, self._at)
        name, end = self._name()
        if number is not None and number.end() >= end and not self._runs_on(number.end()):
            self._at = number.end()
            value = float(number.group())
            if not math.isfinite(value):
                raise StreamlrError(f"'{number.group()}' is too large a number.")
            return _Side({}, value)
        if name is not None:
            self._at = end
            return self._meaning(name)
        if self._take("("):
            self._depth += 1
            if self._depth > DEEPEST:
                raise StreamlrError(f"the hypothesis has more than {DEEPEST} brackets inside of each other.")
            side = self._sum()
            self._depth -= 1
            if not self._take(")"):
                raise self._fault("a bracket is not closed")
            return side
        word = self._word()
        if not word:
            raise self._fault(f"'{self._text[self._at]}' stands where a term or a number should")
        raise self._unknown(word)

    def _name(self) -> tuple[str | None, int]:
        """The longest name that is known at this place, and where it ends."""
        text, at = self._text, self._at
        exact = next(
            (
                text[at : at + length]
                for length in self._lengths
                if text[at : at + length] in self._names and self._ends(text[at : at + length], at + length)
            ),
            None,
        )
        found, end = exact, at + len(exact) if exact is not None else at
        start = bisect_left(self._places, at)
        for length in self._close_lengths:
            key = self._squeezed[start : start + length]
            if len(key) < length or key not in self._close:
                continue
            stop = self._places[start + length - 1] + 1
            if stop > end and self._ends(key, stop):
                return self._close[key], stop
        return found, end

    def _ends(self, name: str, end: int) -> bool:
        """Whether a name may end here: not where the text goes on with a longer name that is not known."""
        if not name or end > len(self._text):
            return False
        following = self._text[end : end + 1]
        if following in ("[", "(", ":"):
            return False
        return not (_is_of_word(name[-1]) and _is_of_word(following))

    def _runs_on(self, end: int) -> bool:
        return _is_of_word(self._text[end : end + 1])

    def _quoted(self) -> str:
        end = self._text.find("`", self._at + 1)
        while end >= 0 and self._text[end : end + 2] == "``":
            end = self._text.find("`", end + 2)
        if end < 0:
            raise self._fault("a backquote is not closed")
        name = self._text[self._at + 1 : end].replace("``", "`")
        self._at = end + 1
        if name not in self._names:
            raise self._unknown(name)
        return name

    def _meaning(self, name: str) -> _Side:
        known = self._known
        if name in known.coefficients:
            return _Side({known.coefficients[name]: 1.0})
        if known.terms.get(name):
            return _Side({}, term=name)
        if name in known.without:
            raise StreamlrError(f"{known.without[name]}.")
        return _Side({}, term=name)

    def _word(self) -> str:
        """What stands here up to a delimiter outside of brackets, for a message."""
        depth = 0
        end = self._at
        while end < len(self._text):
            character = self._text[end]
            depth += (character in "([") - (character in ")]")
            if depth < 0 or (depth == 0 and (character in ",=+-*/" or character.isspace())):
                break
            end += 1
        return self._text[self._at : end]

    def _unknown(self, name: str) -> StreamlrError:
        shown = name if len(name) <= 80 else name[:77] + "..."
        return StreamlrError(f"the model has no term '{shown}'.{did_you_mean(name, self._known.names())}")

    def _fault(self, what: str) -> StreamlrError:
        text = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        return StreamlrError(f"'{text}' is no hypothesis: {what} (character {self._at + 1}).")

    def _skip(self) -> None:
        found = SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, symbol: str) -> bool:
        self._skip()
        if self._text.startswith(symbol, self._at):
            self._at += len(symbol)
            return True
        return False

    def _done(self) -> bool:
        self._skip()
        return self._at >= len(self._text)


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character in ("_", ".") if character else False


# ------------------------------------------------------------------ matrices and labels


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
