"""The order of the story, in one place: names, profile, design, sample, Newton, inference, model."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamlr import arguments
from streamlr.aliasing import settle_basis
from streamlr.climbing import climb, climb_penalised
from streamlr.conclusion import conclude
from streamlr.design.absorbing import absorbing
from streamlr.design.freeze import SeparationPolicy
from streamlr.design.learning import LearningTask
from streamlr.design.spec import Spec, WeightType, resolve_spec
from streamlr.errors import ConvergenceWarning, StreamlrError
from streamlr.events import Listener, silent
from streamlr.inference.robust import CovarianceChoice
from streamlr.linear_algebra import threads_of_algebra
from streamlr.model import Model
from streamlr.newton import State
from streamlr.objective import Gathering, Objective
from streamlr.passes.cache import BlockCache
from streamlr.passes.cells import keying_of
from streamlr.passes.memory import available_cores, available_memory, parse_size, resident_bytes
from streamlr.passes.run import Workers
from streamlr.passes.session import Session
from streamlr.passes.spool import Spool
from streamlr.profiling import (
    OWN_SIZE,
    features_to_profile,
    leave_out_by_metadata,
    named,
    plan_memory,
    profile_and_freeze,
    reader_of,
    skipping,
)
from streamlr.sampling import parts_to_condition_on, sample_of
from streamlr.sources.base import Source
from streamlr.sources.open import open_source
from streamlr.start import (
    Starts,
    begin,
    conditioned_basis,
    null_model,
    null_start,
    starts_of,
)
from streamlr.surrogate import Surrogate

Floats = NDArray[np.float64]

# Types whose values are whole, with the range that the type itself tells where it is small.
INTEGER_RANGES = {
    pa.bool_(): (0, 1),
    pa.int8(): (-(1 << 7), (1 << 7) - 1),
    pa.uint8(): (0, (1 << 8) - 1),
    pa.int16(): (-(1 << 15), (1 << 15) - 1),
    pa.uint16(): (0, (1 << 16) - 1),
    pa.int32(): None,
    pa.uint32(): None,
    pa.int64(): None,
}
# A Hessian in single precision is no one's to report. It steers only where there are passes enough for one in
# double precision to follow: while it serves decrements fall to 0.4 at most each time.
PASSES_TO_REPLACE = 30


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
    where: str | None = None,
    missing: str = "drop",
    weights: str | None = None,
    weight_type: WeightType = "frequency",
    offset: str | None = None,
    trials: str | None = None,
    absorb: str | None = None,
    absorb_l2: float = 0.0,
    separation: SeparationPolicy = "levels",
    firth: bool = False,
    flic: bool = False,
    cov: str | None = None,
    cluster: str | Sequence[str] = (),
    small_sample: str = "clusters",
    ci: Literal["wald", "profile"] = "wald",
    profile: Sequence[str] = (),
    conf_level: float = 0.95,
    tol: float = 1e-8,
    max_passes: int = 50,
    threads: int | None = None,
    memory: str | int | None = None,
    spool: str | os.PathLike[str] | None = None,
    on_event: Listener = silent,
) -> Model:
    """Fit a logistic regression by maximum likelihood, streaming over `data`.

    Maximises sum_i w_i [y_i log p_i + (n_i - y_i) log(1 - p_i)] with log(p / (1 - p)) = x'coef + offset,
    by Newton's method, one pass over the data an iteration. Agrees with R's
    `glm(formula, family = binomial)` converged to rounding.

    Args:
        data: a Parquet path, folder, glob or list of them; a pandas, polars or dask DataFrame; a pyarrow
            Table or Dataset; a dict of equally long arrays.
        formula: `"late ~ dep_delay + C(carrier)"`; in place of `target` and `features`.
        target: the outcome, a column with two values; with `trials` the number of successes. Left out: the
            one column named y, target, label, outcome or class.
        features: columns to use; default every other column that can be a term.
        exclude: columns not to use.
        categorical: numeric columns to code as factors.
        numeric: text, boolean or dictionary columns to read as numbers.
        reference: the level of a factor that has no coefficient, by column; default the first in order.
        positive: the target's value that counts as 1.
        where: rows to use, such as `"year >= 2023 and carrier in ('AA', 'UA')"`; row groups that cannot hold
            such rows are not read.
        missing: "drop" leaves out rows with a null or NaN in a used column, "error" refuses them, "indicator"
            makes a level "missing" of factors and gives numbers their mean and a 0/1 column `isnull(x)`,
            "fill=VALUE" puts a value in their place.
        weights: column of row weights, not negative.
        weight_type: "frequency" (whole numbers; a row of weight 3 is three rows), "analytic" (precisions) or
            "sampling" (rows of a population that a row stands for; standard errors are then robust).
        offset: column added to the linear predictor.
        trials: column with the number of trials of each row.
        absorb: column whose levels, up to some millions, have an effect each that is estimated with the rest
            and not reported. The model then has no intercept, which the effects take up. Everything else is
            as if every level had a column of its own.
        absorb_l2: ridge on the absorbed effects, in the mean loss of a trial: the loss is (1/W) sum of losses
            + absorb_l2 / 2 times the sum of squared effects, W the weight of all trials. Levels with one
            outcome only then stay, and so does the intercept.
        separation: "levels" sets aside levels of factors that go with one outcome only and raises for any
            other separation; "drop" sets aside all rows that are separated, whose probability is then 0 or 1,
            and fits the rest; "error" raises.
        firth: maximise Firth's penalised likelihood instead, log-likelihood + log det information / 2, whose
            estimate is less biased and finite whatever the data: nothing is set aside, and `separation` has
            no say. Standard errors come from the information at the estimate; with ci="profile" intervals
            and p-values come from the penalised likelihood, as in R's `logistf`.
        flic: with `firth`, give the intercept its maximum likelihood given the other coefficients, so that
            the mean probability is the share of the outcome.
        cov: "nonrobust" (the inverse information), "HC0" to "HC3", or "cluster"; one more pass for all but
            the first. Left out: clusters where some are given, HC0 with sampling weights, else the first.
        cluster: column whose values tell which rows belong together, or two such columns.
        small_sample: factor of a clustered covariance: "none"; "clusters", G / (G - 1), as Stata's logit and
            R's `vcovCL` for a glm; "full", (G / (G - 1)) (n - 1) / (n - k), as statsmodels.
        ci: "wald" (estimate and standard error) or "profile" (what a likelihood-ratio test would not reject;
            up to ten more passes).
        profile: terms to profile, by their names or those of a variable; default all. Asks for "profile".
        conf_level: level of the intervals in tables.
        tol: distance to the maximum to be proved, in standard errors.
        max_passes: passes over the data after which to stop.
        threads: worker threads; default the cores this process may use. The result does not depend on it.
        memory: resident size that the process keeps to, such as "4GB"; default a quarter of what is
            available. Encoded rows are kept in it as far as it goes, the others decoded again on every pass.
            The result does not depend on it.
        spool: folder of a temporary file for encoded rows that memory has no room for: worth it where
            decoding is slower than the disk.
        on_event: called with progress events (`streamlr.events`).

    Returns:
        A `Model`. With `model.converged` False a `ConvergenceWarning` is given as well.

    Raises:
        SeparationError: no finite maximum exists.
        StreamlrError: anything wrong with files, columns, formulas or numbers.
    """
    started = time.perf_counter()
    conf_level = arguments.probability("conf_level", conf_level)
    max_passes = arguments.whole("max_passes", max_passes, least=1)
    count = available_cores() if threads is None else arguments.whole("threads", threads, least=1)
    if not arguments.number("tol", tol) > 0.0:
        raise StreamlrError(f"tol must be positive, not {tol}.")
    clusters = list(arguments.columns("cluster", cluster))
    choice = CovarianceChoice.of(cov, clusters, small_sample, weight_type, weights is not None)
    if firth:
        from streamlr.inference.firth_fit import check_firth

        check_firth(covariance=choice.kind, weights=weights, weight_type=weight_type, absorb=absorb)
    elif flic:
        raise StreamlrError("flic (--flic) corrects the intercept of a fit by firth (--firth). Ask for both.")
    profiled = _profiled(ci, list(arguments.columns("profile", profile)), choice, absorb_l2)
    limit = parse_size(memory) if memory is not None else available_memory() // 4
    resident = resident_bytes()
    source = open_source(data)
    spec = resolve_spec(
        source.schema,
        origin=named(source),
        formula=arguments.text("formula", formula),
        target=arguments.column("target", target),
        features=None if features is None else list(arguments.columns("features", features)),
        exclude=arguments.columns("exclude", exclude),
        categorical=arguments.columns("categorical", categorical),
        numeric=arguments.columns("numeric", numeric),
        reference=arguments.by_column("reference", reference),
        positive=positive,
        where=arguments.text("where", where),
        missing=missing,
        weights=arguments.column("weights", weights),
        weight_type=weight_type,
        offset=arguments.column("offset", offset),
        trials=arguments.column("trials", trials),
        clusters=clusters,
    )
    spec = absorbing(spec, arguments.column("absorb", absorb), arguments.number("absorb_l2", absorb_l2))
    if spec.where is not None:
        source = skipping(source, spec.where)
    # BLAS on one thread: its sums must not depend on the machine's load.
    with ExitStack() as held:
        held.enter_context(threadpool_limits(1))
        held.enter_context(threads_of_algebra(count))
        workers = held.enter_context(Workers(count))
        session = Session(source, workers, on_event, started)
        if spool is not None:
            session.spool = held.enter_context(Spool(os.fspath(spool)))
        if spec.target_inferred:
            session.remark(f"target: {spec.target}")
        objective, state, spec, aliased, separated = _maximise(
            session, spec, "keep" if firth else separation, tol, max_passes, limit
        )
        model = conclude(
            session,
            spec,
            objective,
            state,
            aliased,
            choice=choice,
            profile=profiled,
            flic=flic,
            limit=limit + max(resident - OWN_SIZE, 0),  # what was there before is not the fit's
            separated=separated,
            conf_level=conf_level,
            tol=tol,
        )
    if not model.converged:
        warnings.warn(
            f"not converged after {session.passes} passes: the estimates are not proved to lie within "
            f"{tol:g} standard errors of the maximum. {advice_on_passes(session.passes, max_passes)}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return model


def advice_on_passes(passes: int, max_passes: int) -> str:
    """What to do about a fit that has not converged."""
    if passes >= max_passes:
        return f"Raise max_passes (--max-passes), now {max_passes}."
    return (
        "No step leads further in double precision: look for huge weights, offsets or trials, and for "
        "columns that nearly repeat others."
    )


def _profiled(ci: str, names: list[str], choice: CovarianceChoice, absorb_l2: float) -> list[str] | None:
    """The terms whose intervals to profile, all where the list is empty; None: none."""
    if ci not in ("wald", "profile"):
        raise StreamlrError(f"ci must be wald or profile, not '{ci}'.")
    if ci == "wald" and not names:
        return None
    if choice.kind != "nonrobust" or absorb_l2:
        why = (
            f"{choice.kind} standard errors do not trust" if choice.kind != "nonrobust" else "a ridge changes"
        )
        raise StreamlrError(
            f"profile intervals come from the likelihood, which {why}. Leave out one of the two."
        )
    return names


def _maximise(
    session: Session,
    spec: Spec,
    separation: SeparationPolicy | Literal["keep"],
    tol: float,
    max_passes: int,
    limit: int,
) -> tuple[Objective, State, Spec, list[int], Mapping[str, Any] | None]:
    """From checked names to the last state of Newton; the spec as the data left it; aliased columns; what was
    found of directions that separate rows, which are set aside.

    `separation`: "keep" maximises Firth's penalised likelihood, which has a maximum whatever is separated.
    """
    source = session.source
    spec = leave_out_by_metadata(source, spec)
    features = features_to_profile(source, spec)
    reader = reader_of(
        spec, source, lambda task: session.run(source.parts, task, LearningTask.merge, "profile")
    )
    threads = session.workers.threads
    while True:
        spec, profile, design = profile_and_freeze(session, spec, features, reader, separation)
        plan = plan_memory(design, source, threads, limit)
        session.workers.threads = plan.threads
        session.cache = None if session.on_dask else BlockCache(plan.cache, plan.ceiling, session.spool)
        sample = sample_of(source, design, profile)
        basis = conditioned_basis(session, design, parts_to_condition_on(source, sample))
        null = null_model(design, profile)
        starts = starts_of(session, design, basis, null, profile, sample)

        keying = keying_of(design, partial(_whole_range, source))
        gathering = None if keying is None else Gathering(keying, session.run_cells)
        while True:
            objective = Objective(
                design, basis, session.run_pass, session.cache, null_start(design, profile), gathering
            )
            single = separation != "keep" and max_passes >= PASSES_TO_REPLACE
            start = begin(objective, starts, null, sampled=sample is not None, single=single)
            few = starts.sample if start[0] is starts.points[0] else None
            objective, coef, evaluation, aliased = settle_basis(objective, *start)
            unhosted = objective.basis.unhosted
            if not unhosted.any():
                break
            # Centring a scale would change a model that has no estimate for what takes it up.
            basis, starts = basis.without_centres(unhosted), Starts([null])
        assert objective.first is not None
        rows_as_profiled = objective.first.tally.rows_used == profile.rows_used
        if rows_as_profiled and np.isfinite(objective.extent()).all():
            break
        if set(features) >= set(spec.features):
            raise StreamlrError("the data changed while they were being read. Fit again.")
        # NaN that no footer told of, or an infinity: learn levels and counts again from every column.
        features = spec.features
    if not objective.basis.active.any() and design.layout.columns:
        because = f": the offset '{design.offset}' leaves no row to learn from" if design.offset else ""
        raise StreamlrError(f"no term can be estimated{because}.")
    if separation == "keep":
        penalised = climb_penalised(session, objective, coef, evaluation, tol, max_passes)
        return objective, penalised, spec, aliased, None

    def new_cache() -> BlockCache | None:
        if not session.on_dask:
            session.cache = BlockCache(plan.cache, plan.ceiling, session.spool)
        return session.cache

    guide = None
    # Where Hessians are dear one of all rows is used for several steps, and where the first ends matters
    # little.
    if few is not None and not (objective.costs_nothing or design.layout.hessian_is_dear):
        few = few.with_basis(objective.basis, objective.reduced_extent)
        guide = Surrogate(few, objective, near=sample is not None and sample.is_large)
    climbed = climb(session, objective, coef, evaluation, separation, new_cache, tol, max_passes, guide)
    objective, state, lost, separated = climbed
    return objective, state, spec, sorted({*aliased, *lost}), separated


def _whole_range(source: Source, column: str) -> tuple[int, int] | None:
    """Lowest and highest value of a column of whole numbers, where they are known without reading."""
    kind = source.schema.field(column).type
    if kind not in INTEGER_RANGES:
        return None
    told = source.statistics(column)
    if isinstance(told.low, int) and isinstance(told.high, int):
        return int(told.low), int(told.high)
    return INTEGER_RANGES[kind]
