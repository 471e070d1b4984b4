"""Nested models side by side: likelihood-ratio tests, and a proof that they may be compared.

A likelihood ratio is chi-squared only where the smaller model is a special case of the larger one and both
saw the same rows. Models hold no rows, so both are proved from what they hold. Nesting: the terms of a model
span the products of their variables with all levels of factors (`_Span`), whatever the reference levels and
contrasts, so it is enough that every term of the smaller one is inside of one of the larger, or is a
polynomial that splines or higher polynomials of the larger take in. Rows: files of the same names, the same
filter, roles and counts, and the same log-likelihood of the null model; the larger reads all columns of the
smaller, so it lost every row that the smaller lost, and equal counts make them equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from streamlr.design.design import Design
from streamlr.design.expressions import Call, Constant, Operation, nodes_of, text_of
from streamlr.design.features import unwrapped
from streamlr.design.functions import options_of
from streamlr.design.terms import Factor, Variable
from streamlr.errors import StreamlrError
from streamlr.inference.fit_statistics import chi_squared_tail
from streamlr.model import Model
from streamlr.report.grids import Field, Grid

# Log-likelihoods of the null model over the same rows differ by the rounding of sums in another order.
SAME_LIKELIHOOD = 1e-9
# A larger model with a smaller log-likelihood by more than this, relatively, is not at its maximum.
LOWER_LIKELIHOOD = 1e-8

# The degree of polynomials that the columns of a spline, with a constant, span beyond its boundaries as well;
# that of `bs` is an option.
SPLINES = {"bs": 3, "ns": 1, "cr": 1}
# Functions that only move and scale.
LINEAR = ("center", "scale", "standardize")


@dataclass(frozen=True)
class ComparedModel:
    """A model in a comparison; `df_model` is its number of parameters without the intercept."""

    model: str
    df_model: float
    log_likelihood: float
    deviance: float
    aic: float
    bic: float
    nobs: float


@dataclass(frozen=True)
class LikelihoodRatioTest:
    """That what `larger` has more than `smaller` is all zero: 2 (log L1 - log L0), chi-squared.

    `added`: terms of the larger one whose variables the smaller one has in no term.
    """

    smaller: str
    larger: str
    added: tuple[str, ...]
    df: float
    statistic: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Models in the order of their parameters, and a test of each against the next one."""

    models: tuple[ComparedModel, ...]
    tests: tuple[LikelihoodRatioTest, ...]
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {
            "models": [asdict(model) for model in self.models],
            "tests": [asdict(test) for test in self.tests],
            "remarks": list(self.remarks),
        }

    def grid(self) -> Grid:
        """One row a model, the test against the row above in it."""
        fields = (
            Field("model", "", "text"),
            Field("df_model", "df", "degrees"),
            Field("log_likelihood", "log-likelihood", "precise"),
            Field("deviance", "deviance", "precise"),
            Field("aic", "AIC", "precise"),
            Field("bic", "BIC", "precise"),
            Field("df", "df more", "degrees"),
            Field("statistic", "chi-squared", "statistic"),
            Field("p_value", "p", "p_value"),
        )
        rows = []
        for place, model in enumerate(self.models):
            test = self.tests[place - 1] if place else None
            row = asdict(model)
            for key in ("df", "statistic", "p_value"):
                row[key] = None if test is None else getattr(test, key)
            rows.append(row)
        nobs = self.models[0].nobs
        shown = f"{nobs:,}" if isinstance(nobs, int) else f"{nobs:,.6g}"
        above = (
            f"Likelihood-ratio tests of nested models, {shown} observations; each against the row above",
        )
        below = [f"{test.larger} adds {', '.join(test.added)}" for test in self.tests if test.added]
        return Grid(fields, rows, above, (*below, *self.remarks))

    def __str__(self) -> str:
        return str(self.grid())

    def _repr_html_(self) -> str:
        return self.grid().to_html()


def compare(*models: Model, names: Sequence[str] | None = None, force: bool = False) -> Comparison:
    """Likelihood-ratio tests of nested models, with AIC and BIC side by side.

    2 (log L1 - log L0) is chi-squared with as many degrees of freedom as the larger model has parameters more
    (Wilks 1938, Annals of Mathematical Statistics 9, 60-62). Agrees with R's
    `anova(smaller, larger, test = "LRT")`, `AIC` and `BIC`.

    Args:
        models: two or more fitted models, in any order.
        names: what to call them; default "model 1" and so on, in the order given.
        force: compare models with robust standard errors as well. Their estimates maximise the same
            likelihood, but where the robust errors were needed it is not the likelihood of the data, and the
            ratio not chi-squared. Never for sampling weights.

    Raises:
        StreamlrError: models that are not nested, not converged, of different rows or roles, or without a
            likelihood to compare. Then say so with Wald tests, `model.wald_test`.
    """
    if len(models) < 2:
        raise StreamlrError("a comparison takes two models or more.")
    called = [f"model {i + 1}" for i in range(len(models))] if names is None else list(names)
    if len(called) != len(models):
        raise StreamlrError(f"there are {len(called)} names for {len(models)} models.")
    found = sorted(zip(called, models, strict=True), key=lambda one: one[1].parameters)
    for name, model in found:
        _check_likelihood(name, model, force)
    tests = []
    for (smaller, less), (larger, more) in pairwise(found):
        _check_roles(smaller, less.design, larger, more.design)
        outside = _outside(less.design, more.design)
        if outside:
            raise StreamlrError(
                f"{smaller} is not known to be nested in {larger}, which has nothing that is known to span "
                f"{', '.join(outside)}. Compare them by AIC or BIC, or fit the larger one with them."
            )
        _check_rows(smaller, less, larger, more)
        tests.append(_test(smaller, less, larger, more))
    robust = sorted({model.covariance_type for _, model in found} - {"nonrobust"})
    remarks: tuple[str, ...] = ()
    if robust:
        remarks = (f"standard errors are {', '.join(robust)}: if they are needed, these tests are not valid",)
    return Comparison(tuple(_compared(name, model) for name, model in found), tuple(tests), remarks)


def _compared(name: str, model: Model) -> ComparedModel:
    glance = model.glance()
    return ComparedModel(
        model=name,
        df_model=glance["df_model"],
        log_likelihood=model.llf,
        deviance=glance["deviance"],
        aic=model.aic,
        bic=model.bic,
        nobs=glance["nobs"],
    )


def _test(smaller: str, less: Model, larger: str, more: Model) -> LikelihoodRatioTest:
    df = more.parameters - less.parameters
    if not df > 0:
        raise StreamlrError(
            f"{smaller} and {larger} have the same {less.parameters:,} parameters: one is the other in other "
            "words, and there is nothing to test."
        )
    statistic = 2.0 * (more.llf - less.llf)
    if statistic < -LOWER_LIKELIHOOD * max(1.0, abs(less.llf)):
        raise StreamlrError(
            f"{larger} has a smaller log-likelihood ({more.llf:.10g}) than {smaller} ({less.llf:.10g}), "
            "which a larger model at its maximum cannot have."
        )
    statistic = max(statistic, 0.0)
    known = {_key(less.design, variables) for variables in _own_terms(less.design).values()}
    return LikelihoodRatioTest(
        smaller,
        larger,
        added=tuple(
            name
            for name, variables in _own_terms(more.design).items()
            if _key(more.design, variables) not in known
        ),
        df=df,
        statistic=statistic,
        p_value=chi_squared_tail(statistic, df),
    )


def _check_likelihood(name: str, model: Model, force: bool) -> None:
    """Whether twice a difference of its log-likelihood can be chi-squared."""
    design = model.design
    cov_type = model.covariance_type
    if str(design.weight_type) == "sampling" and design.weights is not None:
        raise StreamlrError(
            f"{name} has sampling weights ({design.weights}): what it maximises is no likelihood of the "
            "data. Test terms with Wald tests instead (summary --test TERM)."
        )
    if cov_type != "nonrobust" and not force:
        raise StreamlrError(
            f"{name} has robust standard errors ({cov_type}), and a likelihood ratio is not robust. Test "
            "terms with Wald tests instead (summary --test TERM), or compare all the same with --force."
        )
    if model.firth is not None:
        raise StreamlrError(
            f"{name} maximises Firth's penalised likelihood, and each model has a penalty of its own: a "
            "ratio is no test. Test terms with Wald tests instead (summary --test TERM)."
        )
    if design.absorbed is not None and design.absorb_l2:
        raise StreamlrError(
            f"{name} has a ridge on its absorbed effects, so a likelihood ratio is not valid."
        )
    if not model.converged:
        raise StreamlrError(f"{name} is not at its maximum: it did not converge. Fit it with more passes.")


def _check_roles(smaller: str, less: Design, larger: str, more: Design) -> None:
    """Same outcome, weights, offset, trials and absorbed factor."""
    for (role, one), (_, other) in zip(_roles(less), _roles(more), strict=True):
        if one != other:
            raise StreamlrError(
                f"the models differ in their {role}: {smaller} has {_shown(one)}, {larger} has "
                f"{_shown(other)}. Fit both with the same."
            )


def _roles(design: Design) -> list[tuple[str, Any]]:
    return [
        ("target", design.target),
        ("positive level", design.positive),
        ("weights", design.weights),
        ("kind of weights", None if design.weights is None else design.weight_type),
        ("offset", design.offset),
        ("trials", design.trials),
        ("absorbed factor", None if design.absorbed is None else design.absorbed.name),
        ("handling of missing values", design.missing),
    ]


def _check_rows(smaller: str, less: Model, larger: str, more: Model) -> None:
    """That both used the same rows, of the same files."""
    a, b = less.statistics, more.statistics
    origins = [list(model.provenance.get("origin", ())) for model in (less, more)]
    files = [[os.path.basename(name) for name in origin] for origin in origins]
    filters = [model.provenance.get("where") for model in (less, more)]
    found = None
    if files[0] != files[1]:
        found = f"{smaller} those of {_files(origins[0])}, {larger} those of {_files(origins[1])}"
        remedy = "the same data"
    elif filters[0] != filters[1]:
        found = f"{smaller} where {_shown(filters[0])}, {larger} where {_shown(filters[1])}"
        remedy = "the same --where"
    elif (a.rows_read, a.rows_used, less.nobs) != (b.rows_read, b.rows_used, more.nobs):
        found = f"{smaller} {a.rows_used:,} of {a.rows_read:,}, {larger} {b.rows_used:,} of {b.rows_read:,}"
        remedy = "the same rows"
        more_lost = [column for column, count in more.dropped.items() if count > less.dropped.get(column, 0)]
        if more_lost:
            condition = " and ".join(f"{column} is not null" for column in more_lost[:6])
            found += f"; missing in {', '.join(more_lost[:6])}"
            remedy = f'--where "{condition}"'
    elif abs(a.null_log_likelihood - b.null_log_likelihood) > SAME_LIKELIHOOD * max(
        1.0, abs(a.null_log_likelihood)
    ):
        found = (
            f"as many, but their null log-likelihoods are {a.null_log_likelihood:.10g} and "
            f"{b.null_log_likelihood:.10g}"
        )
        remedy = "the same rows"
    if found is not None:
        raise StreamlrError(f"the models used different rows ({found}): fit both with {remedy}.")


def _outside(less: Design, more: Design) -> list[str]:
    """Terms of the smaller model that are not proved to be inside of the larger one."""
    span = _Span(more, less)
    found = [] if not less.intercept or span.holds(frozenset()) else ["the intercept"]
    found.extend(
        name for name, variables in _own_terms(less).items() if not span.holds(_key(less, variables))
    )
    return found


def _own_terms(design: Design) -> dict[str, tuple[int, ...]]:
    """The variables of each term but an absorbed one, by its name."""
    return {
        name: term.variables
        for name, term in zip(design.term_columns, design.terms, strict=True)
        if design.absorbed is None or name != design.absorbed.name
    }


# What a variable is, so that equal ones have the same values in the same rows: its expression and what its
# functions have learned. Reference levels and contrasts do not matter to what a term spans.
Meaning = tuple[Any, ...]
Key = frozenset[Meaning]


def _key(design: Design, variables: Sequence[int]) -> Key:
    return frozenset(_meaning(design, place) for place in variables)


def _meaning(design: Design, place: int) -> Meaning:
    variable = design.variables[place]
    expression = variable.feature.expression
    fills = _fills(design, variable)
    if isinstance(variable, Factor):
        inner = unwrapped(expression)
        hashes = [node for node in nodes_of(expression) if isinstance(node, Call) and node.function == "hash"]
        return (
            "factor",
            text_of(hashes[0] if hashes else inner),
            _learned(design, inner),
            variable.merging,
            fills,
        )
    return ("number", text_of(expression), _learned(design, expression), variable.suffixes, fills)


def _fills(design: Design, variable: Variable) -> tuple[tuple[str, Any], ...]:
    """What its missing values are filled with."""
    fills = design.reader.fills
    return tuple((name, fills[name]) for name in variable.feature.columns if name in fills)


def _learned(design: Design, expression: Any) -> tuple[str, ...]:
    states = design.reader.states
    calls = [text_of(node) for node in nodes_of(expression) if isinstance(node, Call)]
    return tuple(repr(sorted(states[text].items())) for text in calls if text in states)


class _Span:
    """Which products of variables, factors with all their levels, are combinations of a design's columns.

    A design codes a factor of a term by contrasts only where it has what the term is without the factor, and
    contrasts and a constant make all levels (Chambers and Hastie 1992, Statistical Models in S, section
    2.4.1): so each term spans its product, and every one that lacks some of its factors. `less`: the design
    whose products are asked for.
    """

    def __init__(self, design: Design, less: Design) -> None:
        self._spanned = [frozenset[Meaning]()] if design.intercept else []
        self._spanned.extend(_key(design, term.variables) for term in design.terms)
        self._polynomials = _polynomials(less)
        self._wider = _polynomials(design)
        self._factors = {
            _meaning(design, place)
            for place, variable in enumerate(design.variables)
            if isinstance(variable, Factor)
        }

    def holds(self, wanted: Key, fixed: Key = frozenset()) -> bool:
        """Whether a product is spanned; a polynomial that is not `fixed` also by a spline or one of a higher
        degree, and what is left without it."""
        for spanned in self._spanned:
            if wanted <= spanned and spanned - wanted <= self._factors:
                return True
        return any(
            self.holds(wanted - {meaning}, fixed)
            and self.holds(wanted - {meaning} | {wider}, fixed | {wider})
            for meaning in wanted - fixed
            for wider, polynomial in self._wider.items()
            if self._polynomials[meaning].is_spanned_by(polynomial)
        )


@dataclass(frozen=True)
class _Polynomial:
    """Columns as polynomials of what they are `about`: of `degree` at most, 0 where they are none; with a
    constant they make all those up to the degree `spanned`."""

    about: Meaning
    degree: int
    spanned: int

    def is_spanned_by(self, other: _Polynomial) -> bool:
        return self.about == other.about and 0 < self.degree <= other.spanned


def _polynomials(design: Design) -> dict[Meaning, _Polynomial]:
    return {
        _meaning(design, place): _polynomial(design, variable)
        for place, variable in enumerate(design.variables)
    }


def _polynomial(design: Design, variable: Variable) -> _Polynomial:
    about, degree, spanned = variable.feature.expression, 1, 1
    if isinstance(variable, Factor):
        degree = spanned = 0
    elif isinstance(about, Call) and about.function in SPLINES:
        chosen = options_of(about).get("degree")
        degree, spanned = 0, SPLINES[about.function] if chosen is None else chosen
        about = about.arguments[0]
    elif isinstance(about, Call) and about.function == "poly":
        degree = spanned = options_of(about).get("degree") or 1
        about = about.arguments[0]
    elif isinstance(about, Call) and about.function in LINEAR:
        about = about.arguments[0]
    elif isinstance(power := unwrapped(about), Operation) and power.operator == "**":
        base, exponent = power.operands
        if isinstance(exponent, Constant) and isinstance(exponent.value, int) and exponent.value > 1:
            about, degree, spanned = base, exponent.value, 0
    return _Polynomial((text_of(about), _learned(design, about), _fills(design, variable)), degree, spanned)


def _files(origin: Sequence[str]) -> str:
    if not origin:
        return "unknown data"
    return origin[0] + (f" and {len(origin) - 1:,} more" if len(origin) > 1 else "")


def _shown(value: Any) -> str:
    return "none" if value is None else f"'{value}'"
