"""Score tests of terms that a fitted model does not have: one pass over the data of the fit ranks thousands.

For candidate columns Z, with score residuals r = w (k - n p) and curvatures c = w n p (1 - p) of the rows at
the fitted coefficients,

    U = Z'r - Z'CX (X'CX)^-1 X'r         A = Z'CZ - Z'CX (X'CX)^-1 X'CZ         U'A^-1 U ~ chi-squared(rank A)

if the term has no effect (Rao 1948, Mathematical Proceedings of the Cambridge Philosophical Society 44,
50-57; with the correction of U by X'r in Cox and Hinkley 1974, Theoretical Statistics, section 9.3(iii)).
A^-1 U is the step that one iteration of Newton's method from the fit would take, which approximates the
coefficient that the term would have.

Rows in which a candidate is missing are not used for its test. Over the others the model is not at its
maximum, so X'r is not zero there, and the correction of U makes the test one of the null hypothesis all the
same, at the coefficients of all rows; a refit on the rows of the candidate gives R's numbers for these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr import arguments
from streamlr.design.columns import why_unusable
from streamlr.design.design import Design
from streamlr.design.encoding import Tally
from streamlr.design.expressions import Call, Expression, nodes_of, text_of
from streamlr.design.features import Feature
from streamlr.design.functions import FUNCTIONS
from streamlr.design.spec import resolve_spec
from streamlr.errors import StreamlrError
from streamlr.events import Listener, silent
from streamlr.inference.fit_statistics import chi_squared_tail
from streamlr.inference.rereading import Rereading, reading_again
from streamlr.kernels.screening import SCORE, SQUARES, WEIGHTED
from streamlr.linear_algebra import (
    AnyFactor,
    Hessian,
    diagonal,
    factorise,
    pivoted_cholesky,
    restricted,
    solve_lower,
)
from streamlr.model import Model
from streamlr.passes.memory import available_memory, format_size
from streamlr.passes.screening_task import Candidate, CellSums, Nuisance, NumberSums, Screened, ScreeningTask
from streamlr.profiling import named
from streamlr.report.grids import Field, Grid
from streamlr.sources.base import Source
from streamlr.sources.open import open_source

Floats = NDArray[np.float64]

MAXIMUM_LEVELS = 1_000
# Standard errors that the coefficients may be away from the maximum on the rows at hand.
FARTHEST = 1e-4
# Share of a candidate's weighted sum of squares that must be left when the model's columns are taken out;
# what rounding leaves of nothing is some 1e-15. Around its mean, around zero, and for cells of levels.
LEAST_LEFT = 1e-11
ROUNDING = 1e-14
LEAST_PIVOT = 1e-10
# The same of a constant. A model's column of 1000 + 0.001 noise leaves 1e-12 of it, and a candidate with mean
# 1e4 is then not to be tested as if it were centred.
LEAST_CONSTANT = 1e-13
# The same of the model's own columns, of the rows that have a candidate against all rows.
LEAST_OWN = 1e-12
WORST_CONDITION = 1e10
# Rows that tell where the numbers of an interaction lie.
FIRST_ROWS = 4_096
SHOWN_SKIPPED = 10
PANDAS_INDEX = "__index_level_"


@dataclass(frozen=True)
class ScoreTest:
    """The test of one candidate term; None for a term that is a combination of the model's columns.

    statistic: chi-squared with `df` degrees of freedom. p_adjusted: after Benjamini and Hochberg, over all
    terms tested. estimate, std_error: of a number, one Newton step from the fit, in the term's own units.
    rows_missing: rows of the fit that lack the term and are not used for its test.
    """

    term: str
    df: int
    statistic: float | None
    p_value: float | None
    p_adjusted: float | None
    estimate: float | None
    std_error: float | None
    rows_missing: int


FIELDS = (
    Field("term", "term", "text"),
    Field("df", "df", "degrees"),
    Field("statistic", "chi-squared", "statistic"),
    Field("p_value", "p value", "p_value"),
    Field("p_adjusted", "p adjusted", "p_value"),
    Field("estimate", "estimate"),
    Field("std_error", "std. error"),
    Field("rows_missing", "missing", "degrees"),
)


@dataclass(frozen=True)
class Screening:
    """Score tests of candidate terms, the most telling first.

    `rows`: by p-value, then statistic; aliased terms come last. `skipped`: candidates without a test, with
    the reason. `rows_used`: rows of the fit. `passes`: passes over the data. `cov_type`: what standard errors
    of the model are; the tests here are based on the model whatever that is.
    """

    target: str
    rows: tuple[ScoreTest, ...]
    skipped: Mapping[str, str]
    rows_used: int
    passes: int
    cov_type: str = "nonrobust"

    def tidy_rows(self) -> list[dict[str, Any]]:
        """A dict a term."""
        return [asdict(row) for row in self.rows]

    def tidy(self) -> Any:
        """The tests as a `pyarrow.Table`."""
        import pyarrow as pa

        kinds = {"term": pa.string(), "df": pa.int64(), "rows_missing": pa.int64()}
        schema = pa.schema([(field.key, kinds.get(field.key, pa.float64())) for field in FIELDS])
        return pa.Table.from_pylist(self.tidy_rows(), schema=schema)

    def result(self, top: int | None = None) -> dict[str, Any]:
        """Everything that `--format json` prints; `top`: that many terms at most."""
        return {
            "screen": self.tidy_rows()[:top],
            "skipped": dict(self.skipped),
            "rows_used": self.rows_used,
            "passes": self.passes,
        }

    def grid(self, top: int | None = None) -> Grid:
        """The tests as a table to be printed; `top`: that many terms at most."""
        return Grid(FIELDS, self.tidy_rows()[:top], above=self._above(), below=self._below(top))

    def __str__(self) -> str:
        return str(self.grid(20))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.grid(20).to_html()

    def _above(self) -> list[str]:
        aliased = sum(row.statistic is None for row in self.rows)
        tested = len(self.rows) - aliased
        line = f"Score tests of {tested:,} candidate term{'s' * (tested != 1)} for {self.target}"
        if aliased:
            line += f"; {aliased:,} more {'are' if aliased > 1 else 'is'} aliased with the model"
        return [line, f"{self.rows_used:,} rows used, {self.passes} pass{'es' * (self.passes != 1)}", ""]

    def _below(self, top: int | None) -> list[str]:
        lines = [""]
        hidden = len(self.rows) - (len(self.rows) if top is None else top)
        if hidden > 0:
            lines.append(f"… and {hidden:,} more terms.")
        lines.append(
            "p adjusted: Benjamini and Hochberg's false discovery rate. Estimates are one Newton step from "
            "the fit."
        )
        if self.cov_type != "nonrobust":
            lines.append(f"The tests are based on the model; they do not use its {self.cov_type} covariance.")
        if self.skipped:
            shown = [f"{name} ({reason})" for name, reason in list(self.skipped.items())[:SHOWN_SKIPPED]]
            more = len(self.skipped) - len(shown)
            lines.append(f"Not tested: {', '.join(shown)}{f' and {more:,} more' if more else ''}.")
        return lines


def screen(
    model: Model,
    data: Any,
    candidates: Sequence[str] | str | None = None,
    *,
    where: str | None = None,
    max_levels: int = MAXIMUM_LEVELS,
    threads: int | None = None,
    on_event: Listener = silent,
) -> Screening:
    """Rao's score test of every candidate term that `model` does not have, in one pass over `data`.

    Agrees with R's `anova(fit, update(fit, . ~ . + z), test = "Rao")` and statsmodels' `score_test`; where a
    candidate has missing values the rows without are tested at the coefficients of all rows (see the module).

    Args:
        model: a fitted model, without a penalty.
        data: the rows of the fit, anything that `fit` reads.
        candidates: columns, or terms as formulas have them ("log(x)", "x:carrier", "C(month)"). A number has
            one degree of freedom; text, booleans and `C(...)` have one for each level but one, which are
            learned on the way. Functions that learn from the rows (`scale`, `poly`, `bs`, `cut`, ...) are
            refused. Default: every column that can be a term and has no part in the model.
        where: rows to use; default the filter of the fit.
        max_levels: levels, or cells of levels, above which a candidate is skipped.
        threads: worker threads; default the cores this process may use. The result does not depend on it.
        on_event: called with progress events (`streamlr.events`).

    Returns:
        A `Screening`.

    Raises:
        StreamlrError: a candidate does not exist or makes no sense; the model is penalised, or is not at its
            maximum on these rows; or there is not memory enough for the tables.
    """
    if model.firth is not None or model.design.absorb_l2 > 0.0:
        ridge = f"a ridge on absorbed effects ({model.design.absorb_l2:g})"
        raise StreamlrError(
            "score tests need an estimate without a penalty, but this model was fitted with "
            f"{ridge if model.firth is None else 'that of Firth'}. Fit it without."
        )
    max_levels = arguments.whole("max_levels", max_levels, least=2)
    source = open_source(data)
    wanted, skipped = _candidates(
        model, source, None if candidates is None else arguments.columns("candidates", candidates)
    )
    if not wanted:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:SHOWN_SKIPPED])
        raise StreamlrError(
            f"there is no candidate to test in {named(source)}"
            + (f": {reasons}." if reasons else ": every column has a part in the model.")
        )
    with reading_again(model, source, where=where, threads=threads, on_event=on_event) as again:
        task = _task(again, [each.candidate for each in wanted], max_levels)
        found = again.run(task, Screened.merge)
        tests, more = _tests(model, again.basis.active, wanted, task, found)
        return Screening(
            target=model.design.target,
            rows=tuple(ranked(tests)),
            skipped={**skipped, **more},
            rows_used=_rows_used(found.tally),
            passes=again.session.passes,
            cov_type=str(model.glance()["cov_type"]),
        )


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the least over j >= i of m p_(j) / j, in the order given, at most one.

    Rejecting where they are at most q keeps the expected share of false rejections at q for independent tests
    (Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57, 289-300, section 3.1). Agrees
    with R's `p.adjust(p, "BH")`.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    m = len(p)
    steps = p[order] * m / np.arange(1, m + 1)
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return [float(value) for value in adjusted]


def ranked(tests: Sequence[ScoreTest]) -> list[ScoreTest]:
    """Tests with adjusted p-values, by p-value, then statistic; those without a statistic last."""
    told = sorted(
        (test.p_value, -test.statistic, place)
        for place, test in enumerate(tests)
        if test.p_value is not None and test.statistic is not None
    )
    adjusted = benjamini_hochberg([p for p, _, _ in told])
    done = [
        replace(tests[place], p_adjusted=value) for (_, _, place), value in zip(told, adjusted, strict=True)
    ]
    return [*done, *(test for test in tests if test.statistic is None)]


# ---- which terms


@dataclass(frozen=True)
class _Wanted:
    candidate: Candidate
    named: bool


def _candidates(
    model: Model, source: Source, asked: Sequence[str] | None
) -> tuple[list[_Wanted], dict[str, str]]:
    """Candidates, those of numbers alone first, and what is no candidate with the reason."""
    design = model.design
    names = source.schema.names
    skipped: dict[str, str] = {}
    if asked is None:
        columns = []
        taken = {design.target, design.weights, design.offset, design.trials}
        taken.update(design.clusters, design.feature_columns)
        for field in source.schema:
            if field.name in taken:
                continue
            reason = why_unusable(field.type)
            if field.name.startswith(PANDAS_INDEX):
                reason = "index written by pandas"
            if reason is None:
                columns.append(field.name)
            else:
                skipped[field.name] = reason
        terms = _terms_of_columns(design, source, columns)
    else:
        asked = list(dict.fromkeys(text.strip() if text not in names else text for text in asked))
        terms = _terms_of_columns(design, source, [text for text in asked if text in names])
        for text in asked:
            if text not in names:
                terms.extend(_terms_of_formula(design, source, text))
    own = {variable.feature.expression: variable.feature for variable in design.variables}
    present = {
        frozenset(design.variables[place].feature.expression for place in term.variables)
        for term in design.terms
    }
    if design.intercept or (design.absorbed is not None and not design.absorb_l2):
        present.add(frozenset())
    means: dict[Expression, float] = {}
    found: dict[frozenset[Expression], _Wanted] = {}
    for term in terms:
        features = [own.get(feature.expression, feature) for feature in term]
        key = frozenset(feature.expression for feature in features)
        name = ":".join(feature.name for feature in features)
        if key in present:
            skipped[name] = "in the model"
            continue
        for feature in features:
            _check_stateless(feature)
        shifted = _shifted(features, present)
        for feature in shifted:
            if feature.expression not in means:
                means[feature.expression] = _mean(feature, design, source)
        numbers = tuple(feature for feature in features if not feature.categorical)
        shifts = tuple(means[each.expression] if each in shifted else 0.0 for each in numbers)
        factors = tuple(feature for feature in features if feature.categorical)
        found.setdefault(key, _Wanted(Candidate(name, numbers, factors, shifts), asked is not None))
    wanted = sorted(found.values(), key=lambda each: bool(each.candidate.factors))
    return wanted, skipped


def _terms_of_columns(design: Design, source: Source, columns: Sequence[str]) -> list[tuple[Feature, ...]]:
    """A term for each column. Raises `StreamlrError` for one that can be none."""
    if not columns:
        return []
    roles = {
        "target": design.target,
        "weights": design.weights,
        "offset": design.offset,
        "number of trials": design.trials,
    }
    for role, name in roles.items():
        if name in columns:
            raise StreamlrError(f"column '{name}' is the {role} of the model and cannot be a candidate.")
    spec = _resolved(design, source, features=columns)
    return [(feature,) for feature in spec.features]


def _terms_of_formula(design: Design, source: Source, text: str) -> list[tuple[Feature, ...]]:
    """The terms of one side of a formula."""
    if "~" in text:
        raise StreamlrError(f"the candidate {text!r} is a formula; name its terms alone.")
    spec = _resolved(design, source, formula=f"{text}")
    if not spec.terms:
        raise StreamlrError(f"the candidate {text!r} names no term.")
    return [tuple(spec.features[place] for place in term) for term in spec.terms]


def _resolved(
    design: Design, source: Source, features: Sequence[str] | None = None, formula: str | None = None
) -> Any:
    return resolve_spec(
        source.schema,
        origin=named(source),
        formula=formula,
        target=design.target,
        features=features,
        exclude=(),
        categorical=(),
        numeric=(),
        reference={},
        positive=None,
        where=None,
        missing="drop",
        weights=design.weights,
        weight_type=design.weight_type,
        offset=design.offset,
        trials=design.trials,
    )


def _check_stateless(feature: Feature) -> None:
    """Refuse what has to be learned from all rows before it has values."""
    for node in nodes_of(feature.expression):
        if isinstance(node, Call) and (FUNCTIONS[node.function].learns or node.function == "lump"):
            raise StreamlrError(
                f"the candidate {text_of(feature.expression)} cannot be screened: {node.function}() learns "
                "from all rows before it has values, which takes passes of its own. Screen plain columns "
                "and functions of single rows (log, sqrt, I, C, ...), or fit the model with the term."
            )


def _shifted(features: Sequence[Feature], present: Set[frozenset[Expression]]) -> tuple[Feature, ...]:
    """The numbers of a product that may be centred without changing its test: as many as the model allows.

    (x - a)(z - b) = x z - b x - a z + a b: with x, z and an intercept in the model the test is the same, and
    the product does not drown in its parts.
    """
    whole = frozenset(feature.expression for feature in features)
    numbers = [feature for feature in features if not feature.categorical]
    for count in range(len(numbers) if len(features) > 1 else 0, 0, -1):
        for chosen in combinations(numbers, count):
            if all(
                whole - frozenset(feature.expression for feature in removed) in present
                for some in range(1, count + 1)
                for removed in combinations(chosen, some)
            ):
                return chosen
    return ()


def _mean(feature: Feature, design: Design, source: Source) -> float:
    """Of a number in the first rows of the data: any number would do, one amid the values conditions best."""
    for batch in source.parts[0].read(feature.columns, (), FIRST_ROWS) if source.parts else ():
        reader = replace(design.reader, where=None)
        values = reader.numeric(feature, reader.frame(batch), {})[0].astype(np.float64)
        values = values[np.isfinite(values)]
        with np.errstate(over="ignore"):
            mean = float(values.mean()) if values.size else 0.0
        return mean if math.isfinite(mean) else 0.0
    return 0.0


def _task(again: Rereading, candidates: Sequence[Candidate], max_levels: int) -> ScreeningTask:
    """The pass, once it is sure to have room. Raises `StreamlrError`."""
    layout = again.design.layout
    room = available_memory() // 4
    threads = again.session.workers.threads
    copies = threads + 2
    numbers = len(candidates) * layout.slots + layout.cells
    tables = 8 * copies * numbers
    if tables > room:
        raise StreamlrError(
            f"{len(candidates):,} candidates against {layout.columns:,} columns of the model need "
            f"{format_size(tables)} for their sums on {threads} threads, above a quarter of the memory that "
            f"is available ({format_size(room)}). Screen fewer at once, or use fewer threads."
        )
    return ScreeningTask(
        design=again.design,
        basis=again.basis,
        cache=None,
        coef=again.coef,
        candidates=tuple(candidates),
        most_levels=max_levels,
        most_held=room // (8 * copies) - numbers,
    )


# ---- tests


@dataclass(frozen=True)
class _Own:
    """The model's own columns over the rows of a candidate, factorised."""

    nuisance: Nuisance
    factor: AnyFactor
    slots: NDArray[np.int64]  # (columns,) of the columns that these rows tell apart
    is_centred: bool  # whether an intercept or absorbed effects are among the columns

    @classmethod
    def of(cls, nuisance: Nuisance, active: NDArray[np.bool_], whole: Floats | None = None) -> _Own | None:
        """None where these rows do not tell the columns apart; `whole`: (k,) diagonal over all rows."""
        if not nuisance.curvature > 0.0:
            return None
        layout = nuisance.sums.layout
        hessian = nuisance.sums.hessian()
        places = np.flatnonzero(active)
        if whole is not None:
            # A level may be in no row that has the candidate.
            places = places[diagonal(hessian)[places] > LEAST_OWN * whole[places]]
        own = restricted(hessian, places)
        factor = factorise(own)
        if whole is not None and isinstance(own, np.ndarray) and _is_deficient(own, factor):
            scale = np.sqrt(np.diagonal(own))
            kept = np.sort(_independent(own / np.outer(scale, scale))[0])
            places = places[kept]
            factor = factorise(own[np.ix_(kept, kept)])
        if factor is None:
            return None
        centred = layout.absorbed or bool(layout.intercept and active[layout.slot_of_column == 0].all())
        return cls(nuisance, factor, layout.slot_of_column[places], centred)

    def half(self, values: Floats) -> Floats:
        """(columns,) of values by slot, whose length is that in the metric of the inverse information."""
        return self.factor.half_solve(values[self.slots])

    @cached_property
    def half_score(self) -> Floats:
        """Of the model's own scores."""
        return self.half(-self.nuisance.sums.totals.gradient)

    @cached_property
    def has_constant(self) -> bool:
        """Whether a constant is a combination of the columns, as of all levels of a factor."""
        half = self.half(self.nuisance.weighted)
        left = self.nuisance.curvature - float(half @ half)
        return self.is_centred or left <= LEAST_CONSTANT * self.nuisance.curvature


def _is_deficient(matrix: Hessian, factor: AnyFactor | None) -> bool:
    if factor is None:
        return True
    scaled = factor.inverse_diagonal() * diagonal(matrix)
    return bool(scaled.max(initial=1.0) > WORST_CONDITION)


def _independent(matrix: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Rows of a positive semidefinite matrix that are independent, and the lower factor of these.

    The diagonal is at most one, and at most rounding in a row that has nothing of its own.
    """
    places = np.flatnonzero(np.diagonal(matrix) > LEAST_PIVOT)
    if not places.size:
        return places, np.empty((0, 0))
    lower, order = pivoted_cholesky(matrix[np.ix_(places, places)], LEAST_PIVOT)
    return places[order[: len(lower)]], lower


def _rows_used(tally: Tally) -> int:
    if tally.rows_weighted == 0:
        raise StreamlrError(
            f"no row is left of {tally.rows_read:,}: score tests need the rows that the model was fitted to."
        )
    return tally.rows_used


def _tests(
    model: Model,
    active: NDArray[np.bool_],
    wanted: Sequence[_Wanted],
    task: ScreeningTask,
    found: Screened,
) -> tuple[list[ScoreTest], dict[str, str]]:
    """A test for each candidate that has one, and for each other the reason."""
    _rows_used(found.tally)
    active = active & np.isfinite(model.coef_of_basis)
    own = _Own.of(found.nuisance, active)
    if own is None:
        raise StreamlrError(
            "the model's own terms are combinations of each other on these rows: score tests need the rows "
            "that the model was fitted to."
        )
    _check_maximum(model, own)
    whole = diagonal(found.nuisance.sums.hessian())
    tests, skipped = [], {}
    for place, each in enumerate(wanted):
        name = each.candidate.name
        missing = found.absent.get(place)
        absent = 0 if missing is None else missing.rows
        cells = None if place < task.numeric else found.cells[place - task.numeric]
        reason = _why_not(each, found.nuisance.rows - absent, found, place, cells)
        if reason is not None:
            skipped[name] = reason
            continue
        there = own if missing is None else _Own.of(found.nuisance.without(missing), active, whole)
        if there is None:
            skipped[name] = "the model's terms are combinations of each other on the rows that have it"
            continue
        if cells is None:
            test = _of_number(name, there, found.numbers, place)
        else:
            test = _of_cells(each.candidate, there, cells)
        if test is None and each.named:
            test = _aliased(name)
        if test is None:
            skipped[name] = "constant"
        else:
            tests.append(replace(test, rows_missing=absent))
    return tests, skipped


def _check_maximum(model: Model, own: _Own) -> None:
    """Raise `StreamlrError` where the scores of the model's own terms are not zero."""
    decrement = float(np.sqrt(own.half_score @ own.half_score))
    if decrement <= FARTHEST:
        return
    unconverged = "" if model.converged else " It had not converged when it was saved; fit it to the end."
    raise StreamlrError(
        f"the model is not at its maximum on these rows ({own.nuisance.rows:,} rows; the maximum is about "
        f"{decrement:.3g} standard errors away): score tests need the data that it was fitted to."
        f"{unconverged}"
    )


def _why_not(each: _Wanted, rows: int, found: Screened, place: int, cells: CellSums | None) -> str | None:
    """Why a candidate with values in so many rows has no test, as far as counts tell."""
    infinite = int(found.numbers.infinite[place]) if cells is None else cells.infinite
    if infinite:
        return f"{infinite:,} infinite value{'s' * (infinite != 1)}"
    if cells is not None and cells.too_many:
        return f"more than {cells.limit:,} levels"
    if rows == 0:
        return "all null"
    is_name = cells is not None and not each.candidate.numbers and len(cells.places) == rows > 1
    return "a level per row" if is_name and not each.named else None


def _of_number(name: str, own: _Own, numbers: NumberSums, place: int) -> ScoreTest | None:
    """The test of a number, around its centre where the model's columns take that up; None for a constant."""
    rows = own.nuisance
    sums, products, centre = numbers.sums[place], numbers.products[place], float(numbers.centre[place])
    squares = float(sums[SQUARES])
    spread = squares
    if own.has_constant:
        spread -= float(sums[WEIGHTED]) ** 2 / rows.curvature
        if spread <= max(ROUNDING * squares, (4 * np.finfo(float).eps * centre) ** 2 * rows.curvature):
            return None
    else:
        sums, products = numbers.moved(place, 0.0, rows)
        squares = spread = float(sums[SQUARES])
    half = own.half(products)
    left = squares - float(half @ half)
    if not np.isfinite(left) or left <= max(LEAST_LEFT * spread, ROUNDING * squares):
        return _aliased(name)
    score = float(sums[SCORE]) - float(half @ own.half_score)
    return _tested(name, 1, score * (score / left), score / left, 1.0 / math.sqrt(left))


def _of_cells(candidate: Candidate, own: _Own, cells: CellSums) -> ScoreTest | None:
    """The test of a candidate with factors, a column for each cell that has rows; None for a constant."""
    if len(cells.places) == 1 and not candidate.numbers and own.has_constant:
        return None
    places = np.flatnonzero(cells.sums[:, 1] > 0.0)
    squares = cells.sums[places, 1]
    halves = np.array([own.half(cells.products[place]) for place in places]).reshape(len(places), -1)
    scale = 1.0 / np.sqrt(squares)
    halves *= scale[:, np.newaxis]
    left = np.eye(len(places)) - halves @ halves.T
    scores = cells.sums[places, 0] * scale - halves @ own.half_score
    kept, lower = _independent(left)
    if not len(kept):
        return _aliased(candidate.name)
    root = solve_lower(lower, scores[kept])
    return _tested(candidate.name, len(kept), float(root @ root))


def _tested(
    name: str, df: int, statistic: float, estimate: float | None = None, std_error: float | None = None
) -> ScoreTest:
    return ScoreTest(name, df, statistic, chi_squared_tail(statistic, df), None, estimate, std_error, 0)


def _aliased(name: str) -> ScoreTest:
    return ScoreTest(name, 0, None, None, None, None, None, 0)
