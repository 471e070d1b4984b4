"""The one place that knows the order of the story: names, profile, design, sample, Newton, inference, model."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamlr import inference
from streamlr.aliasing import settle_basis
from streamlr.design.basis import Basis
from streamlr.design.columns import Level
from streamlr.design.design import Design, Tally, terms_with_limits
from streamlr.design.freeze import (
    Review,
    SeparationPolicy,
    conditioning_of,
    freeze,
    review,
    without_columns,
)
from streamlr.design.profile import ProfileSums, ProfileTask
from streamlr.design.spec import MissingPolicy, Spec, WeightType, resolve_spec
from streamlr.errors import ConvergenceWarning, StreamlrError
from streamlr.events import Listener, PassDone, Progress, Remark, silent
from streamlr.kernels.tile import Block
from streamlr.model import Model, Statistics
from streamlr.newton import State, inverse, newton
from streamlr.objective import Objective, blocks_of
from streamlr.passes.cache import BlockCache
from streamlr.passes.memory import (
    available_cores,
    available_memory,
    format_size,
    parse_size,
    peak_resident_bytes,
    resident_bytes,
)
from streamlr.passes.run import run_threads
from streamlr.passes.sums import Sums
from streamlr.separation import is_complete, separated_terms, separation_error
from streamlr.sources.base import Part, Source
from streamlr.sources.open import open_source

Floats = NDArray[np.float64]
Result = TypeVar("Result")

# Without a limit set by the user blocks are kept while the process stays below this size.
DEFAULT_CACHE_BUDGET = 600_000_000
# Resident size of a fresh process with everything imported and compiled.
OWN_SIZE = 250_000_000
# Rows that centre and scale are learned from, and from which much larger data take their start.
SAMPLE_PARTS = 4
START_SHARE = 20
START_ROWS = (250_000, 500_000)
START_WORTH_IT = 2_000_000
# Weight of the pull towards zero that keeps a sample fit finite where the sample is separated; with
# standardised columns it is one pseudo-observation.
START_RIDGE = 1.0
START_DECREMENT = 1e-3
START_ITERATIONS = 12


@dataclass
class Session:
    """A fit under way: its source, how passes over it run, what they cost and who is told."""

    source: Source
    threads: int
    emit: Listener
    started: float
    cache: BlockCache | None = None
    passes: int = 0
    pass_seconds: float = 0.0
    trace: list[dict[str, Any]] = field(default_factory=list)

    def run(
        self,
        parts: Sequence[Part],
        columns: Sequence[str],
        work: Callable[[Any], Result],
        merge: Callable[[Result, Result], Result],
        phase: str,
    ) -> Result:
        """Work over `parts` on threads, or on dask's scheduler for a dask DataFrame."""
        begun = time.perf_counter()
        if type(self.source).__name__ == "DaskSource":
            from streamlr.passes.dask import run_dask

            return run_dask(parts, columns, work, merge)  # type: ignore[arg-type]
        total = sum(part.rows or 0 for part in parts) if self.source.rows is not None else None
        done_rows = 0

        def done(index: int) -> None:
            nonlocal done_rows
            done_rows += parts[index].rows or 0
            elapsed = time.perf_counter() - begun
            self.emit(Progress(phase, self.passes, done_rows, total, elapsed))

        return run_threads(parts, work, merge, threads=self.threads, done=done)

    def pass_runner(self, design: Design) -> Callable[[Callable[[Any], Any], Callable[[Any, Any], Any]], Any]:
        """A runner over all parts that counts each run as a pass."""

        def runner(work: Callable[[Any], Any], merge: Callable[[Any, Any], Any]) -> Any:
            self.passes += 1
            begun = time.perf_counter()
            result = self.run(self.source.parts, design.columns, work, merge, "pass")
            self.pass_seconds = time.perf_counter() - begun
            return result

        return runner


def fit(
    data: Any,
    formula: str | None = None,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
    numeric: Sequence[str] = (),
    reference: Mapping[str, Any] | None = None,
    positive: Any = None,
    missing: MissingPolicy = "drop",
    weights: str | None = None,
    weight_type: WeightType = "frequency",
    offset: str | None = None,
    trials: str | None = None,
    separation: SeparationPolicy = "levels",
    conf_level: float = 0.95,
    tol: float = 1e-8,
    max_passes: int = 50,
    threads: int | None = None,
    memory: str | int | None = None,
    on_event: Listener = silent,
) -> Model:
    """Fit a logistic regression by maximum likelihood, streaming over `data`.

    Maximises sum_i w_i [y_i log p_i + (n_i - y_i) log(1 - p_i)] with log(p / (1 - p)) = x'coef + offset,
    by Newton's method, one pass over the data an iteration. Agrees with R's
    `glm(formula, family = binomial)` converged to rounding.

    Args:
        data: a Parquet path, folder, glob or list of them; a pandas, polars or dask DataFrame; a pyarrow Table
            or Dataset; a dict of equally long arrays.
        formula: `"late ~ dep_delay + C(carrier)"`; in place of `target` and `features`.
        target: the outcome, a column with two values; with `trials` the number of successes. Left out: the
            one column named y, target, label, outcome or class.
        features: columns to use; default every other column that can be a term.
        exclude: columns not to use.
        categorical: numeric columns to code as factors.
        numeric: text, boolean or dictionary columns to read as numbers.
        reference: the level of a factor that has no coefficient, by column; default the first in order.
        positive: the target's value that counts as 1.
        missing: "drop" leaves out rows with a null or NaN in a used column, "error" refuses them.
        weights: column of row weights, not negative.
        weight_type: "frequency" (whole numbers; a row of weight 3 is three rows) or "analytic".
        offset: column added to the linear predictor.
        trials: column with the number of trials of each row.
        separation: "levels" sets aside levels of factors that go with one outcome only; "error" raises.
        conf_level: level of the intervals in tables.
        tol: distance to the maximum to be proved, in standard errors.
        max_passes: passes over the data after which to stop.
        threads: worker threads; default the cores this process may use. The result does not depend on it.
        memory: resident size that the process should keep to, such as "4GB".
        on_event: called with progress events (`streamlr.events`).

    Returns:
        A `Model`. With `model.converged` False a `ConvergenceWarning` is given as well.

    Raises:
        SeparationError: no finite maximum exists.
        StreamlrError: anything wrong with files, columns, formulas or numbers.
    """
    started = time.perf_counter()
    _check_settings(conf_level, tol, max_passes, threads)
    limit = parse_size(memory) if memory is not None else available_memory() // 4
    source = open_source(data)
    spec = resolve_spec(
        source.schema,
        origin=_named(source),
        formula=formula,
        target=target,
        features=features,
        exclude=tuple(exclude),
        categorical=tuple(categorical),
        numeric=tuple(numeric),
        reference=dict(reference or {}),
        positive=positive,
        missing=missing,
        weights=weights,
        weight_type=weight_type,
        offset=offset,
        trials=trials,
    )
    if spec.target_inferred:
        on_event(Remark(f"target: {spec.target}"))
    session = Session(source, threads or available_cores(), on_event, started)
    budget = limit if memory is not None else min(limit, DEFAULT_CACHE_BUDGET)
    with threadpool_limits(1):  # BLAS on one thread: its sums must not depend on the machine's load
        return _fit(session, spec, separation, conf_level, tol, max_passes, limit, budget)


def _check_settings(conf_level: float, tol: float, max_passes: int, threads: int | None) -> None:
    if not 0.0 < conf_level < 1.0:
        raise StreamlrError(f"conf_level must lie between 0 and 1, not {conf_level}.")
    if not tol > 0.0:
        raise StreamlrError(f"tol must be positive, not {tol}.")
    if max_passes < 1:
        raise StreamlrError(f"max_passes must be at least 1, not {max_passes}.")
    if threads is not None and threads < 1:
        raise StreamlrError(f"threads must be at least 1, not {threads}.")


def _fit(
    session: Session,
    spec: Spec,
    separation: SeparationPolicy,
    conf_level: float,
    tol: float,
    max_passes: int,
    limit: int,
    budget: int,
) -> Model:
    spec = leave_out_by_metadata(session.source, spec)
    columns = _columns_to_profile(session.source, spec)
    while True:
        spec, profile, design = _profile(session, spec, columns, separation)
        headroom = _check_memory(design, session.threads, limit)
        session.cache = None if _is_dask(session.source) else BlockCache(budget, headroom)
        attempt = _Attempt(session, design, profile, tol, max_passes)
        objective, coef, evaluation, aliased = attempt.settle()
        assert objective.first is not None
        tally = objective.first.tally
        values_unseen = tally.rows_used != profile.rows_used or not np.isfinite(objective.extent()).all()
        if not values_unseen:
            break
        if set(columns) == set(spec.columns):
            raise StreamlrError("the data changed while they were being read. Fit again.")
        # NaN that no footer told of, or an infinity: learn levels and counts again from every column.
        columns = spec.columns
    constants = _constants(objective, design)
    state = attempt.maximise(objective, coef, evaluation)
    return _model(session, spec, design, attempt, state, aliased, constants, conf_level, tol)


def _named(source: Source) -> str:
    """The data in a message: the first of its files, and how many more."""
    more = len(source.origin) - 1
    return (
        source.origin[0] + (f" (and {more:,} more)" if more > 0 else "") if source.origin else "the dataset"
    )


def _is_dask(source: Source) -> bool:
    return type(source).__name__ == "DaskSource"


def leave_out_by_metadata(source: Source, spec: Spec) -> Spec:
    """Leave out unnamed columns that metadata show to be all null or constant."""
    reasons = {}
    for feature in spec.features:
        if feature.named:
            continue
        told = source.statistics(feature.column)
        if source.rows is not None and source.rows > 0 and told.null_count == source.rows:
            reasons[feature.column] = "all null"
        elif told.low is not None and told.low == told.high and told.low == told.low:
            reasons[feature.column] = f"constant ({told.low})"
    return without_columns(spec, reasons) if reasons else spec


def _columns_to_profile(source: Source, spec: Spec) -> tuple[str, ...]:
    """Roles, factors, and the numbers that may be null: levels count only in rows that are used."""
    wanted = {name for name in (spec.target, spec.weights, spec.offset, spec.trials) if name is not None}
    for feature in spec.features:
        if feature.categorical or source.statistics(feature.column).null_count != 0:
            wanted.add(feature.column)
    return tuple(name for name in spec.columns if name in wanted)


def _profile(
    session: Session, spec: Spec, columns: Sequence[str], separation: SeparationPolicy
) -> tuple[Spec, ProfileSums, Design]:
    """Profile until nothing more has to be left out or set aside, then freeze."""
    set_aside: dict[str, dict[Level, int]] = {}
    if not session.source.parts:
        raise StreamlrError(f"{_named(session.source)} has no rows (0 rows).")
    while True:
        columns = tuple(name for name in columns if name in spec.columns)
        task = ProfileTask(
            spec=spec,
            columns=columns,
            factors=tuple(f.column for f in spec.features if f.categorical),
            set_aside={column: frozenset(levels) for column, levels in set_aside.items()},
        )
        profile = session.run(session.source.parts, columns, task, ProfileSums.merge, "profile")
        if profile.rows_read == 0:
            raise StreamlrError(f"{_named(session.source)} has no rows (0 rows).")
        found: Review = review(spec, profile, separation)
        if not found:
            break
        spec = without_columns(spec, found.exclude)
        for column, levels in found.set_aside.items():
            set_aside.setdefault(column, {}).update(levels)
    for column, reason in spec.excluded.items():
        session.emit(Remark(f"left out: {column} ({reason})"))
    design = freeze(spec, profile, set_aside)
    for name, outcome in terms_with_limits(design).items():
        session.emit(Remark(f"set aside: {name}, whose rows all have outcome {outcome}"))
    return spec, profile, design


def _check_memory(design: Design, threads: int, limit: int) -> int:
    """Bytes that a pass needs beside kept blocks. Raises `StreamlrError` where that exceeds the limit."""
    layout = design.layout
    k, slots = layout.columns, layout.slots
    hessian = 8 * k * k
    tables = 8 * (layout.padded**2 + layout.dense * layout.factor_slots + layout.pair_cells)
    batch = layout.batch_rows * (8 * layout.numeric + 4 * len(layout.levels) + 8)
    # Assembled, in model order, scaled, factored and inverted: five matrices at the widest moment.
    needed = 8 * slots * slots + 4 * hessian + (threads + 3) * tables + 3 * threads * batch
    if needed > limit - min(resident_bytes(), OWN_SIZE):
        terms = sorted(design.factors, key=lambda factor: -len(factor.levels))
        advice = (
            f" Widest term: {terms[0].name} ({len(terms[0].levels):,} levels). "
            f"Drop it with --exclude {terms[0].column}."
            if terms and len(terms[0].levels) > k // 4
            else ""
        )
        raise StreamlrError(
            f"the design has {k:,} columns and needs {format_size(hessian)} for its Hessian, "
            f"{format_size(needed)} with the copies that threads and factorisation take, above --memory "
            f"{format_size(limit)}.{advice}"
        )
    return needed


class _Attempt:
    """Newton on one frozen design: conditioning, start, passes, and what they found."""

    def __init__(
        self, session: Session, design: Design, profile: ProfileSums, tol: float, max_passes: int
    ) -> None:
        self.session = session
        self.design = design
        self.profile = profile
        self.tol = tol
        self.max_passes = max_passes
        self.objective: Objective | None = None

    def settle(self) -> tuple[Objective, Floats, Any, list[int]]:
        """The first pass over all data, aliased columns found and the basis conditioned."""
        design, session = self.design, self.session
        basis = self._conditioned()
        start = self._start(basis)
        objective = Objective(
            design, basis, session.pass_runner(design), session.cache, null_coef=self._null_start()
        )
        settled = settle_basis(objective, start)
        self.objective = settled[0]
        return settled

    def maximise(self, objective: Objective, coef: Floats, evaluation: Any) -> State:
        """Newton to a certified maximum, or until passes run out. Raises `SeparationError`."""
        session, names = self.session, self.design.column_names
        last: State | None = None
        for state in newton(objective, coef, evaluation, tolerance=self.tol):
            self._note(objective, state)
            if state.status == "converged":
                self._finish_null(objective)
                return state
            complete = self._complete(objective)
            if complete or state.status == "diverging":
                moving = state if np.any(state.direction) or last is None else last
                direction = state.coef if complete else moving.direction
                raise self._separated(objective, direction, names, complete)
            last = state
            if session.passes >= self.max_passes or state.status == "stalled":
                return state
        raise AssertionError("Newton ends at a status other than running")

    def _conditioned(self) -> Basis:
        """Centre and scale from a few parts spread over the data."""
        parts = _spread(self.session.source.parts, SAMPLE_PARTS)
        blocks: list[Block] = []
        for part in parts:
            for block in blocks_of(self.design, part, Tally(), None):
                blocks.append(block)
                break
        layout = self.design.layout
        self._remark_on_identifiers(blocks)
        centre, scale = conditioning_of(blocks, layout.numeric)
        return Basis.of(layout, centre, scale)

    def _remark_on_identifiers(self, blocks: list[Block]) -> None:
        for j, number in enumerate(self.design.numbers):
            if number.named or not blocks:
                continue
            values = np.concatenate([block.numeric[j] for block in blocks])
            whole = np.isfinite(values).all() and (values == np.floor(values)).all()
            if whole and values.size > 2 and np.unique(values).size == values.size:
                self.session.emit(
                    Remark(
                        f"remark: all {values.size:,} values of '{number.column}' looked at are different whole "
                        f"numbers; if it is an identifier, leave it out with --exclude {number.column}"
                    )
                )

    def _null_start(self) -> float:
        if self.design.trials is not None:
            return math.log(self.profile.successes / self.profile.failures)
        weight = self.profile.outcome_weight
        assert self.design.positive is not None and self.design.negative is not None
        return math.log(weight[self.design.positive] / weight[self.design.negative])

    def _start(self, basis: Basis) -> Floats:
        """Where Newton starts: the estimate from a sample for large data, else the null model."""
        layout = self.design.layout
        start = np.zeros(layout.columns)
        if layout.intercept:
            start[int(np.flatnonzero(layout.slot_of_column == 0)[0])] = self._null_start()
        parts = _start_sample(self.session.source)
        if not parts:
            return start

        def runner(work: Callable[[Any], Any], merge: Callable[[Any, Any], Any]) -> Any:
            return self.session.run(parts, self.design.columns, work, merge, "sample")

        sample = Objective(self.design, basis, runner, self.session.cache)
        penalty = np.full(layout.columns, START_RIDGE)

        def ridged(coef: Floats) -> Any:
            evaluation = sample(coef)
            return replace(
                evaluation,
                loss=evaluation.loss + 0.5 * float(penalty @ coef**2),
                gradient=evaluation.gradient + penalty * coef,
                hessian=evaluation.hessian + np.diag(penalty),
            )

        found = start
        for count, state in enumerate(newton(ridged, start, tolerance=self.tol)):
            found = state.coef
            if state.decrement < START_DECREMENT or count >= START_ITERATIONS:
                break
        return found

    def _note(self, objective: Objective, state: State) -> None:
        """Write the iteration into the trace and tell about it."""
        assert objective.first is not None and objective.last is not None
        seconds = self.session.pass_seconds
        log_likelihood = -state.evaluation.loss + objective.first.log_binomial
        rows = objective.last.tally.rows_read
        gradient = state.evaluation.gradient
        row = {
            "pass": self.session.passes,
            "log_likelihood": log_likelihood,
            "max_gradient": float(np.abs(gradient).max(initial=0.0)),
            "newton_decrement": _finite(state.decrement),
            "step": state.step,
            "seconds": seconds,
            "rows_per_second": rows / seconds if seconds > 0 else None,
        }
        self.session.trace.append(row)
        self.session.emit(
            PassDone(
                self.session.passes,
                log_likelihood,
                state.decrement,
                state.distance,
                state.step,
                seconds,
                rows / max(seconds, 1e-9),
            )
        )

    def _finish_null(self, objective: Objective) -> None:
        """Passes for the null model alone, where an offset makes it slower than the fit itself."""
        if self.design.offset is None:
            return
        assert objective.first is not None
        coef = np.zeros(int(objective.basis.active.sum()))
        while objective.null_decrement > self.tol and self.session.passes < self.max_passes:
            objective(coef)

    def _complete(self, objective: Objective) -> bool:
        assert objective.first is not None and objective.last is not None
        least = objective.first.tally.least_weight
        return is_complete(objective.last.loss, least, self.design.offset is not None)

    def _separated(
        self, objective: Objective, direction: Floats, names: Sequence[str], complete: bool
    ) -> StreamlrError:
        whole = objective.expand(direction)
        raw = objective.basis.to_raw(whole)
        conditioned = objective.basis.to_conditioned(whole)
        terms = separated_terms(conditioned, raw, names)
        if complete:
            assert objective.first is not None
            return separation_error("complete", terms, objective.first.tally.rows_used, 0)
        reach = objective.box().reach(np.abs(direction))
        margins = objective.margins(direction, 1e-6 * reach)
        return separation_error("quasi-complete", terms, margins.separated, margins.overlapping)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _spread(parts: Sequence[Part], count: int) -> list[Part]:
    """At most `count` parts evenly spread over the data, the first among them."""
    if len(parts) <= count:
        return list(parts)
    return [parts[i * len(parts) // count] for i in range(count)]


def _start_sample(source: Source) -> list[Part]:
    """Parts to take the start from: a twentieth of large data, within bounds; none of small data."""
    rows = source.rows
    if rows is None or rows < START_WORTH_IT:
        return []
    wanted = min(max(rows // START_SHARE, START_ROWS[0]), START_ROWS[1])
    count = max(1, round(wanted * len(source.parts) / rows))
    return _spread(source.parts, count) if 4 * count <= len(source.parts) else []


def _constants(objective: Objective, design: Design) -> dict[str, str]:
    """Unnamed numeric columns that turned out to have one value in all rows used."""
    assert objective.first is not None
    if not design.intercept:
        return {}
    totals, basis = objective.first.totals, objective.basis
    constants = {}
    for j, number in enumerate(design.numbers):
        slot = design.layout.intercept + j
        column = int(basis.numeric_columns[j])
        if not number.named and totals.low[slot] == totals.high[slot] and not basis.active[column]:
            constants[number.name] = f"constant ({totals.low[slot] / basis.scale[j] + basis.centre[j]:g})"
    return constants


def _model(
    session: Session,
    spec: Spec,
    design: Design,
    attempt: _Attempt,
    state: State,
    aliased: list[int],
    constants: Mapping[str, str],
    conf_level: float,
    tol: float,
) -> Model:
    objective = attempt.objective
    assert objective is not None and objective.first is not None
    basis, first = objective.basis, objective.first
    names = design.column_names
    active = np.flatnonzero(basis.active)
    covariance = inverse(state.evaluation.hessian) if active.size else np.zeros((0, 0))
    whole = np.zeros((names_count := len(names), names_count))
    whole[np.ix_(active, active)] = covariance
    raw_covariance = basis.covariance_to_raw(whole)[np.ix_(active, active)]
    params = basis.to_raw(objective.expand(state.coef))[active]
    single_level = [f.name for f in design.factors if not f.levels and f.reference is not None]
    return_value = Model(
        design=design,
        basis=basis,
        conditioned_coef=state.coef,
        conditioned_covariance=covariance,
        params=params,
        bse=inference.standard_errors(raw_covariance),
        statistics=_statistics(session, design, attempt, objective, state, first),
        conf_level=conf_level,
        dropped={name: int(count) for name, count in first.tally.missing.items() if count},
        excluded={**spec.excluded, **constants},
        aliased=[names[column] for column in aliased if names[column] not in constants] + single_level,
        separation=_set_aside_finding(design, first),
        trace=session.trace,
        provenance=_provenance(session.source, tol),
    )
    if not return_value.converged:
        warnings.warn(
            f"not converged after {session.passes} passes: the estimates are not proved to lie within {tol:g} "
            "standard errors of the maximum. Raise max_passes.",
            ConvergenceWarning,
            stacklevel=4,
        )
    return return_value


def _statistics(
    session: Session, design: Design, attempt: _Attempt, objective: Objective, state: State, first: Sums
) -> Statistics:
    tally = first.tally
    nobs = float(
        tally.weight if design.weights and design.weight_type == "frequency" else tally.rows_weighted
    )
    loss = state.evaluation.loss
    if design.offset is None:
        s, f = first.successes, first.failures
        null_loss = -(s * math.log(s / (s + f)) + f * math.log(f / (s + f)))
    else:
        null_loss = objective.null_loss - 0.5 * objective.null_decrement**2
    null_settled = design.offset is None or objective.null_decrement <= max(attempt.tol, 1e-6)
    return Statistics(
        nobs=nobs,
        log_likelihood=first.log_binomial - loss,
        null_log_likelihood=first.log_binomial - null_loss,
        deviance=2.0 * (loss - first.saturated),
        null_deviance=2.0 * (null_loss - first.saturated),
        converged=state.status == "converged" and bool(null_settled),
        passes=session.passes,
        newton_decrement=_finite(state.distance if math.isfinite(state.distance) else state.decrement),
        rows_read=tally.rows_read,
        rows_used=tally.rows_used,
        rows_dropped=tally.rows_read - tally.rows_used - tally.rows_set_aside,
        rows_set_aside=tally.rows_set_aside,
        seconds=time.perf_counter() - session.started,
        peak_rss_bytes=peak_resident_bytes(),
    )


def _set_aside_finding(design: Design, first: Sums) -> dict[str, Any] | None:
    terms = [
        {"term": factor.level_name(level), "direction": 1 if outcome else -1}
        for factor in design.factors
        for level, outcome in factor.set_aside
    ]
    if not terms:
        return None
    return {
        "kind": "quasi-complete",
        "terms": terms,
        "rows_separated": first.tally.rows_set_aside,
        "rows_overlapping": first.tally.rows_used,
    }


def _provenance(source: Source, tol: float) -> dict[str, Any]:
    return {
        "origin": list(source.origin),
        "schema": {field.name: str(field.type) for field in source.schema},
        "tolerance": tol,
        "versions": {name: version(name) for name in ("streamlr", "numpy", "numba", "pyarrow")},
    }
