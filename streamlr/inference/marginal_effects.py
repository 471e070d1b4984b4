"""Average marginal effects: what a step in a column does to the probability, on average over the rows.

For a number it is the average slope of p in the column, whatever the formula makes of it; for a factor the
average change of p from one level to another, everything else of a row as it is. One pass over the data gives
all of them with their standard errors, in memory that does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamlr import arguments
from streamlr.design.columns import Level, find_level
from streamlr.design.derivatives import is_smooth_in
from streamlr.design.design import Design, terms_with_limits
from streamlr.design.expressions import Call, Column, Expression
from streamlr.design.terms import Coded, Dense, Factor, Number
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.events import Listener, silent
from streamlr.inference import fit_statistics
from streamlr.inference.rereading import Rereading, reading_again
from streamlr.model import Model
from streamlr.passes.effects_task import Averages, AveragesTask, EffectsTask, EffectSums, Setting
from streamlr.passes.memory import format_size
from streamlr.report.grids import Field, Grid
from streamlr.report.text import listing

Floats = NDArray[np.float64]
Contrasts = Literal["reference", "pairwise"]

SLOPE = "dy/dx"
ALIASED = "all coefficients that it moves are aliased"
# Said of rows without a prediction where rows were set aside beside a direction that separates outcomes.
BEYOND = ", as beyond a separating direction the probability is 0 or 1 and has no slope"
NUMBERS = ("estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high")
# Numbers of all gradients that a worker may hold: 256 MB.
MOST_GRADIENTS = 1 << 25
# Contrasts whose variances are worked out at once.
AT_ONCE = 4096
# Calls through which a level of the factor is a value of the column as well.
THROUGH = ("C", "I", "lump", "lower", "strip")


@dataclass(frozen=True)
class Effect:
    """An average marginal effect; numbers are None where it has no estimate.

    `contrast` is "dy/dx" of a number, and "UA - AA" of two levels of a factor.
    """

    term: str
    contrast: str
    estimate: float | None
    std_error: float | None
    statistic: float | None
    p_value: float | None
    conf_low: float | None
    conf_high: float | None


@dataclass(frozen=True, repr=False)
class Effects:
    """A table of average marginal effects, printable; `notes` say what it leaves out and why.

    `at` has the columns that were held at a value, `rows_used` the rows averaged over.
    """

    effects: tuple[Effect, ...]
    target: str
    positive: str | None
    conf_level: float
    cov_type: str
    weights: str | None
    at: Mapping[str, Level | None]
    rows_used: int
    passes: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.effects)

    def __repr__(self) -> str:
        return str(self.grid())

    def _repr_html_(self) -> str:
        return self.grid().to_html()

    def result(self) -> dict[str, Any]:
        """Everything that `--format json` prints."""
        return {
            "effects": [asdict(effect) for effect in self.effects],
            "at": dict(self.at),
            "conf_level": self.conf_level,
            "cov_type": self.cov_type,
            "rows_used": self.rows_used,
            "passes": self.passes,
            "notes": list(self.notes),
        }

    def tidy(self) -> Any:
        """The table as a `pyarrow.Table`: term, contrast, estimate, std_error, statistic, p_value, conf_low,
        conf_high."""
        import pyarrow as pa

        names = [("term", pa.string()), ("contrast", pa.string())]
        schema = pa.schema([*names, *((key, pa.float64()) for key in NUMBERS)])
        return pa.Table.from_pylist([asdict(effect) for effect in self.effects], schema=schema)

    def grid(self) -> Grid:
        """The table as it is printed."""
        percent = f"{100 * self.conf_level:g}%"
        what = (
            f"{self.target} = {self.positive}" if self.positive is not None else f"success of {self.target}"
        )
        rows = f"{self.rows_used:,} rows" + (f" weighted by {self.weights}" if self.weights else "")
        held = ", ".join(f"{name}={_shown(value)}" for name, value in self.at.items())
        above = [f"Average marginal effects on the probability of {what}", f"{rows}; {self._errors()}"]
        return Grid(
            fields=(
                Field("term", "", "text"),
                Field("contrast", "contrast", "text"),
                Field("estimate", "estimate"),
                Field("std_error", "std. error"),
                Field("statistic", "z", "statistic"),
                Field("p_value", "p", "p_value"),
                Field("conf_low", f"{percent} from"),
                Field("conf_high", "to"),
            ),
            rows=[asdict(effect) for effect in self.effects],
            above=[*above, *([f"in every row {held}"] if held else []), ""],
            below=["", *self.notes] if self.notes else [],
        )

    def _errors(self) -> str:
        kind = "model-based" if self.cov_type == "nonrobust" else self.cov_type
        return f"standard errors by the delta method, {kind} covariance"


@dataclass(frozen=True)
class _Levels:
    """A column whose levels are compared, the reference first, and the column at each of them."""

    column: str
    levels: tuple[Level, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class _Mean:
    """A column to be held at its mean."""

    column: str
    kind: str


def effects(
    model: Model,
    data: Any,
    *,
    variables: Sequence[str] | str | None = None,
    at: Mapping[str, Any] | Literal["mean"] | None = None,
    contrasts: Contrasts = "reference",
    conf_level: float | None = None,
    where: str | None = None,
    threads: int | None = None,
    on_event: Listener = silent,
) -> Effects:
    """Average marginal effects on the probability, with standard errors by the delta method, in one pass.

        slope in x            (1/W) sum of w_i dp_i/dx = (1/W) sum of w_i p_i q_i x_i'b
        level a against b     (1/W) sum of w_i [p_i(a) - p_i(b)]

    over the rows that the fit would use, x_i' the derivative of row i of the design in the column, p_i(a) the
    probability with the column at `a` in row i and all else as it is. The variance is J V J', J the
    derivative of the effect in the coefficients and V their covariance, robust where the model's is.

    A column has one effect, whatever the formula makes of it: `log(x)`, `x**2`, `bs(x)`, `x:carrier`. Columns
    that are factors, and booleans, have contrasts of levels. At a kink, as of `abs(x)` at 0, the slope is the
    mean of both sides. What the formula takes from a column by jumps alone (`cut`, `floor`, comparisons) has
    slope zero, so such a column has no effect here.

    Args:
        model: a fitted model.
        data: anything that `fit` reads, with all columns of the fit.
        variables: one or several columns of the data; default all that the formula reads.
        at: columns to hold at a value in every row, the others as they are, as Stata's `margins, at()`:
            `{"x": 5, "carrier": "UA"}`. A value "mean" is the weighted mean over the rows used, which takes a
            pass before; "mean" in place of the dict holds every numeric column at its mean.
        contrasts: of levels, with the "reference" or "pairwise", later levels less earlier ones.
        conf_level: level of the intervals; default the fit's.
        where: rows to average over; default the filter of the fit.
        threads: worker threads; default the cores this process may use. The result does not depend on it.
        on_event: called with progress events.

    Rows weigh as the weights of the model, if it has any, and one otherwise: a row of a binomial count weighs
    one whatever its trials. Rows with a gap, and those of levels set aside, are left out; where a number
    stands in for a gap, the slope is that at the number. An effect has no estimate, and a note says so, where
    the model has no prediction for a row at the level (cells of an interaction that were never seen, or the
    far side of a separating direction that rows were set aside for) and where all coefficients that it moves
    are aliased.

    Raises:
        StreamlrError: a column or level is unknown, has no effect of this kind, or is absorbed; rows have a
            level that the fit has not seen.

    Source: Greene 2018, Econometric Analysis, 8th ed., section 17.3.2; Oehlert 1992, The American
    Statistician 46, 27-29, for the delta method. Agrees with statsmodels' `Logit.fit().get_margeff()`, for
    factors coded 0/1 with `dummy=True`, and with its `at="mean"` where every column is a number held at its
    mean; and with `avg_slopes` and `avg_comparisons` of marginaleffects, with `wts` where there are weights.
    """
    if contrasts not in ("reference", "pairwise"):
        raise StreamlrError(f"contrasts must be 'reference' or 'pairwise', not {contrasts!r}.")
    level = model.conf_level if conf_level is None else arguments.probability("conf_level", conf_level)
    columns = _Columns(model.design)
    slopes, factors, notes = columns.chosen(
        None if variables is None else arguments.columns("variables", variables)
    )
    holding = columns.held(at)
    settings = tuple(setting for factor in factors for setting in factor.settings)
    with reading_again(model, data, where=where, threads=threads, on_event=on_event) as again:
        held = _with_means(again, holding)
        task = EffectsTask(again.design, again.basis, None, again.coef, slopes, settings, held)
        if task.cells > MOST_GRADIENTS:
            raise StreamlrError(
                f"{len(slopes) + len(settings):,} slopes and levels with a derivative in "
                f"{model.design.layout.slots:,} coefficients each take {format_size(8 * task.cells)}, above "
                f"{format_size(8 * MOST_GRADIENTS)}. Name fewer columns with --variables (variables=...)."
            )
        sums = again.run(task, EffectSums.merge)
        passes = again.session.passes
    if not sums.weight > 0.0:
        raise StreamlrError(
            f"no row of positive weight is left to average over ({sums.tally.rows_read:,} rows read)."
        )
    found = _Estimates(model, sums, slopes, level)
    if limits := terms_with_limits(model.design):
        found.notes.append(
            f"rows with {listing(list(limits))} are left out, as the fit had one outcome only in them"
        )
    rows = list(found.slopes())
    for factor in factors:
        rows.extend(found.contrasts(factor, contrasts))
    if held and rows and all(effect.estimate is None for effect in rows):
        shown = ", ".join(f"{setting.column}={_shown(setting.value)}" for setting in held)
        raise StreamlrError(f"no effect has an estimate with {shown} in every row. {' '.join(found.notes)}")
    order = {name: place for place, name in enumerate(model.design.feature_columns)}
    return Effects(
        effects=tuple(sorted(rows, key=lambda effect: order[effect.term])),
        target=model.design.target,
        positive=None if model.design.positive is None else str(model.design.positive),
        conf_level=level,
        cov_type=model.covariance_type,
        weights=model.design.weights,
        at={setting.column: setting.value for setting in held},
        rows_used=sums.tally.rows_used,
        passes=passes,
        notes=(*found.notes, *notes),
    )


class _Columns:
    """The columns that a formula reads: what effect each has, and what values it can be held at."""

    def __init__(self, design: Design) -> None:
        if design.absorbed is not None:
            name = design.absorbed.name
            raise StreamlrError(
                f"the effects of '{name}' are absorbed, and their covariance, which marginal effects need, "
                f"is not kept. Fit the model with '{name}' as a factor of its own."
            )
        self._design = design
        self._names = design.feature_columns

    def chosen(
        self, variables: Sequence[str] | None
    ) -> tuple[tuple[str, ...], tuple[_Levels, ...], tuple[str, ...]]:
        """Columns with slopes, columns with levels, and notes on those without either."""
        slopes: list[str] = []
        factors: list[_Levels] = []
        notes: list[str] = []
        for name in self._names if variables is None else dict.fromkeys(variables):
            self._check(name)
            reason = self._why_none(name)
            if reason is None and (levels := self.levels_of(name)) is not None:
                factors.append(levels)
            elif reason is None:
                slopes.append(name)
            elif variables is not None:
                raise StreamlrError(f"'{name}' has no marginal effect: {reason}.")
            elif name != self._design.offset:
                notes.append(f"{name} has no effect here: {reason}")
        if not slopes and not factors:
            because = f": {'; '.join(notes)}" if notes else ""
            raise StreamlrError(f"no column has a marginal effect{because}.")
        return tuple(slopes), tuple(factors), tuple(notes)

    def held(self, at: Mapping[str, Any] | Literal["mean"] | None) -> tuple[Setting | _Mean, ...]:
        """Columns with the value that each is held at, or its mean, which is still to be found."""
        if at == "mean":
            at = {
                name: "mean"
                for name in self._names
                if self._is_number(name) and self.levels_of(name) is None and name != self._design.offset
            }
            if not at:
                raise StreamlrError("no column is a number, so none can be held at its mean.")
        elif at is not None and not isinstance(at, Mapping):
            raise StreamlrError(f"at must be a dict of columns and values, or 'mean', not {at!r}.")
        return tuple(self._setting(name, value) for name, value in (at or {}).items())

    def levels_of(self, name: str) -> _Levels | None:
        """The levels of a column that is a factor or a boolean, None for any other."""
        factor = self._factor(name)
        kind = self._kind(name)
        if factor is not None:
            settings = tuple(Setting(name, _value_of(factor, level), kind) for level in factor.all_levels)
            return _Levels(name, factor.all_levels, settings)
        if kind == "logical":
            return _Levels(name, (False, True), (Setting(name, False, kind), Setting(name, True, kind)))
        return None

    def _why_none(self, name: str) -> str | None:
        """Why a column has no effect; None where it has one."""
        if name == self._design.offset:
            return "it is the offset, which has no coefficient"
        levels = self.levels_of(name)
        if levels is not None:
            return "it has one level only" if len(levels.levels) < 2 else None
        if any(_moves(variable, name) for variable in self._reading(name)):
            return None
        kind = self._kind(name)
        if kind == "time":
            return "it is a date or time"
        terms = listing([variable.feature.name for variable in self._reading(name)])
        if kind == "text":
            return f"its levels are not known, as it stands inside of {terms} only"
        return f"{terms} changes with it by jumps only, so the slope is zero"

    def _setting(self, name: str, value: Any) -> Setting | _Mean:
        self._check(name)
        kind = self._kind(name)
        if kind == "time":
            raise StreamlrError(f"'{name}' is a date or time and cannot be held at a value.")
        levels = self.levels_of(name)
        if levels is not None:
            if value == "mean" and find_level("mean", levels.levels) is None:
                raise StreamlrError(f"'{name}' has levels, which have no mean. Name one of them.")
            known = find_level(value, levels.levels)
            if known is None:
                self._check_not_set_aside(name, value)
                shown = listing([str(level) for level in levels.levels])
                raise StreamlrError(f"'{name}' has no level {value!r}. Its levels are: {shown}.")
            return levels.settings[levels.levels.index(known)]
        if not self._is_number(name):
            return Setting(name, str(value), kind)
        if value == "mean":
            return _Mean(name, kind)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise StreamlrError(f"'{name}' is a number and cannot be held at {value!r}.")
        return _number_setting(name, number, kind)

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise StreamlrError(
                f"the model has no column '{name}'. Its columns are: {listing(list(self._names), 20)}."
                f"{did_you_mean(name, self._names)}"
            )

    def _check_not_set_aside(self, name: str, value: Any) -> None:
        factor = self._factor(name)
        aside = [level for level, _ in factor.set_aside] if factor is not None else []
        if find_level(value, aside) is not None:
            raise StreamlrError(
                f"level {value!r} of '{name}' is set aside: the fit had one outcome only in its rows, so "
                "nothing is estimated of them. Name another level."
            )

    def _kind(self, name: str) -> str:
        return self._design.reader.kinds[name]

    def _reading(self, name: str) -> list[Number | Factor]:
        """The variables that read a column."""
        return [variable for variable in self._design.variables if name in variable.feature.columns]

    def _is_number(self, name: str) -> bool:
        """Whether a column holds numbers, or is read as one, as a column of text may be."""
        return self._kind(name) == "number" or any(
            isinstance(v, Number) and v.feature.expression == Column(name) for v in self._reading(name)
        )

    def _factor(self, name: str) -> Factor | None:
        """The factor that a column is by itself."""
        for variable in self._design.categories:
            if _itself(variable.feature.expression) == Column(name):
                return variable
        return None


def _itself(expression: Expression) -> Expression | None:
    """The column whose values a factor tells apart, None where its levels are something else."""
    while isinstance(expression, Call) and expression.function in THROUGH:
        expression = expression.arguments[0]
    return expression if isinstance(expression, Column) else None


def _value_of(factor: Factor, level: Level) -> Level | None:
    """A value of the column that has a level; None: a missing one."""
    merging = factor.merging
    if merging.missing is not None and level == merging.missing:
        return None
    if merging.kept is not None and level == merging.other:
        kept = [value for value in merging.kept if not isinstance(value, str)]
        return level if len(kept) < len(merging.kept) or not kept else max(kept) + 1
    return level


def _with_means(again: Rereading, held: Sequence[Setting | _Mean]) -> tuple[Setting, ...]:
    """The settings, means found by a pass of their own where there are any."""
    wanted = tuple(each.column for each in held if isinstance(each, _Mean))
    means: dict[str, float] = {}
    if wanted:
        found = again.run(AveragesTask(again.design, again.basis, None, wanted), Averages.merge)
        if not found.weight > 0.0:
            raise StreamlrError("no row of positive weight is left to take means over.")
        means = dict(zip(wanted, (found.sums / found.weight).tolist(), strict=True))
    return tuple(
        _number_setting(each.column, means[each.column], each.kind) if isinstance(each, _Mean) else each
        for each in held
    )


def _number_setting(column: str, value: float, kind: str) -> Setting:
    """A number as the column holds it: as text in a column of text that the model reads as numbers."""
    return Setting(column, value if kind == "number" else repr(value), kind)


class _Estimates:
    """Effects with their errors, from the sums of a pass; `notes` tell why an effect has none."""

    def __init__(self, model: Model, sums: EffectSums, slopes: Sequence[str], conf_level: float) -> None:
        self._design, self._active = model.design, model.basis.active
        self._numeric_columns = model.basis.numeric_columns
        self._covariance = model.reported_covariance
        self._level = conf_level
        self._values = sums.values / sums.weight
        self._gradients = sums.gradients[:, model.design.layout.slot_of_column] / sums.weight  # (m, k)
        self._lost = sums.lost
        self._has_cuts = bool(model.design.cuts)
        self._slopes = tuple(slopes)
        self._next = len(slopes)  # where the next factor's levels begin
        self.notes: list[str] = []

    def slopes(self) -> Iterator[Effect]:
        """The effects of the columns that have slopes."""
        found = []
        for place, name in enumerate(self._slopes):
            moving = [at for at, variable in enumerate(self._design.variables) if _moves(variable, name)]
            moved = self._columns_of(moving, within_parts=True)
            reason = None
            if self._lost[place]:
                reason = f"in {self._lost[place]:,} rows it has no prediction or no finite slope"
                reason += BEYOND if self._has_cuts else ""
            elif not self._active[moved].any():
                reason = ALIASED
            if reason is not None:
                self.notes.append(f"{name} has no estimate: {reason}")
            found.append(reason is None)
        yield from self._effects(
            [(name, SLOPE) for name in self._slopes],
            self._values[: len(found)],
            self._gradients[: len(found)],
            np.array(found, dtype=np.bool_),
        )

    def contrasts(self, factor: _Levels, contrasts: Contrasts) -> Iterator[Effect]:
        """The effects of a column with levels; to be called in the order of the sums."""
        own = slice(self._next, self._next + len(factor.levels))
        self._next = own.stop
        values, gradients = self._values[own], self._gradients[own]
        known = np.array(
            [
                self._has_estimate(factor, level, int(lost), gradient)
                for level, lost, gradient in zip(factor.levels, self._lost[own], gradients, strict=True)
            ]
        )
        names = [str(level) for level in factor.levels]
        pairs = [(0, b) for b in range(1, len(names))]
        if contrasts == "pairwise":
            pairs = list(combinations(range(len(names)), 2))
        for first in range(0, len(pairs), AT_ONCE):
            some = pairs[first : first + AT_ONCE]
            a, b = np.array(some).T
            yield from self._effects(
                [(factor.column, f"{names[j]} - {names[i]}") for i, j in some],
                values[b] - values[a],
                gradients[b] - gradients[a],
                known[a] & known[b],
            )

    def _has_estimate(self, factor: _Levels, level: Level, lost: int, gradient: Floats) -> bool:
        """Whether the average prediction at a level has one; if not, a note says why."""
        reading = [
            at
            for at, variable in enumerate(self._design.variables)
            if factor.column in variable.feature.columns
        ]
        moved = self._columns_of(reading, within_parts=False) & (gradient != 0.0)
        reason = None
        if lost:
            reason = (
                f"in {lost:,} rows there is no prediction at it, as levels meet that were never seen "
                "together or had one outcome only, or a number is not finite"
            )
            reason += ", or are beyond a separating direction" if self._has_cuts else ""
        elif moved.any() and not self._active[moved].any():
            reason = ALIASED
        if reason is not None:
            self.notes.append(f"level {level} of {factor.column} has no estimate: {reason}")
        return reason is None

    def _columns_of(self, variables: Sequence[int], *, within_parts: bool) -> NDArray[np.bool_]:
        """(k,) model columns that some variables are a part of, or one of the factors that meet in them."""
        layout = self._design.layout
        columns = np.zeros(layout.columns, dtype=np.bool_)
        for place, dense in enumerate(self._design.numbers):
            columns[self._numeric_columns[place]] = _has_part(dense, variables)
        for place, coded in enumerate(self._design.factors):
            meeting = coded.meeting
            met = not within_parts and bool(set(meeting.variables) & set(variables))
            # With all levels of several factors cells are aliased whatever the rows are, and say nothing
            # against a prediction in them.
            met &= sum(meeting.full) < 2
            columns[layout.factor_columns[place]] = met or _has_part(coded, variables)
        return columns

    def _effects(
        self, names: Sequence[tuple[str, str]], values: Floats, gradients: Floats, known: NDArray[np.bool_]
    ) -> Iterator[Effect]:
        """From values (m,), derivatives in the coefficients (m, k), and which have an estimate."""
        gradients = gradients[:, self._active]
        errors = np.sqrt(np.einsum("ij,ij->i", gradients @ self._covariance, gradients).clip(min=0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = values / errors
        p = fit_statistics.two_sided_p(z)
        low, high = fit_statistics.wald_intervals(values, errors, self._level).T
        for place, (term, contrast) in enumerate(names):
            numbers = (values, errors, z, p, low, high)
            own = [_finite(array[place]) if known[place] else None for array in numbers]
            yield Effect(term, contrast, *own)


def _moves(variable: Number | Factor, column: str) -> bool:
    """Whether a variable has a slope in a column."""
    return isinstance(variable, Number) and is_smooth_in(variable.feature.expression, column)


def _has_part(piece: Dense | Coded, variables: Sequence[int]) -> bool:
    return any(part.variable in variables for part in piece.parts)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shown(value: Level | None) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
