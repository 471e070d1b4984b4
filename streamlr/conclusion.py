"""From the last state of Newton to a model: inference, statistics, and what is told beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr._version import __version__
from streamlr.design.basis import Basis
from streamlr.design.design import Design, terms_with_limits
from streamlr.design.freeze import empty_cells
from streamlr.design.functions import column_kind
from streamlr.design.spec import Spec
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.inference import fit_statistics
from streamlr.inference.robust import CovarianceChoice, robust_covariance
from streamlr.kernels.machine_code import numba_version
from streamlr.linear_algebra import Blocked, Hessian, Inverse, factorise
from streamlr.model import Model, Statistics
from streamlr.newton import State, inverse
from streamlr.objective import Objective
from streamlr.passes.memory import peak_resident_bytes, resident_bytes
from streamlr.passes.session import Session
from streamlr.passes.sums import Sums
from streamlr.separation import finding_of, set_aside_terms
from streamlr.sources.base import Source

if TYPE_CHECKING:
    from streamlr.inference.firth_fit import PenalisedInference

Floats = NDArray[np.float64]

# Empty cells of interactions that are listed by name.
MOST_NAMED = 10_000
# Terms without a standard error that a remark names.
MOST_TOLD = 10
# Matrices (k, k) that a search over the penalised likelihood keeps beside the sums it is sent.
MATRICES_OF_SEARCH = 8


def conclude(
    session: Session,
    spec: Spec,
    objective: Objective,
    state: State,
    aliased: Sequence[int],
    *,
    choice: CovarianceChoice,
    profile: Sequence[str] | None,
    flic: bool,
    limit: int,
    separated: Mapping[str, Any] | None = None,
    conf_level: float,
    tol: float,
) -> Model:
    """The model at the state where Newton ended; `aliased` are model columns, `separated` is what was found
    of directions that separate rows.

    `choice`: the covariance to report. `profile`: terms whose intervals are profiled, all of them where it is
    empty, None: none. `flic`: whether to correct the intercept of a penalised fit. `limit`: resident
    size of the process to keep to, with sums by cluster and searches where there are any.
    """
    assert objective.first is not None
    design, basis, first = objective.design, objective.basis, objective.first
    names = design.column_names
    own = design.layout.own_columns
    active = np.flatnonzero(basis.active[:own])
    penalised = None
    if type(state) is not State:  # a PenalisedState, whose module other fits do without
        penalised = _penalised(session, objective, state, active, profile, flic, conf_level, limit)
        state = penalised.state
    inverse_information, std_errors = _inference(basis, state.evaluation.hessian, active, len(names))
    if penalised is not None and penalised.covariance is not None:
        inverse_information = penalised.covariance
        std_errors = _raw_errors(basis, inverse_information, active, len(names))
    robust = None
    if choice.kind != "nonrobust":
        if choice.clusters and session.cache is not None and 2 * resident_bytes() > limit:
            session.cache.clear()  # sums by cluster may need the room
        robust = robust_covariance(
            objective,
            state,
            choice,
            inverse_information,
            parameters=len(active) + _absorbed_parameters(objective, state),
            limit=max(limit - resident_bytes(), 0),
            threads=session.workers.threads,
        )
        std_errors = _raw_errors(basis, robust.matrix, active, len(names))
        without = [names[column] for column in active[np.isnan(std_errors)]]
        if without:
            session.remark(
                f"remark: the two-way clustered variance of {len(without):,} terms is negative, so that they "
                f"have no standard error ({', '.join(without[:MOST_TOLD])}"
                f"{', …' if len(without) > MOST_TOLD else ''}); that happens with few clusters"
            )
    bounds = None if penalised is None else penalised.bounds
    if penalised is None and profile is not None and state.status == "converged":
        bounds = _profile(session, objective, state, active, profile, conf_level, limit)
    constants = _constants(objective)
    for column, reason in constants.items():
        session.remark(f"left out: {column} ({reason})")
    single_level = [f.name for f in design.factors if not f.column_names and not f.absorbed]
    unseen = empty_cells(design, MOST_NAMED)
    coef = objective.expand(state.coef)
    params = basis.to_raw(coef)[active]
    effects = np.where(basis.active[own:], coef[own:], np.nan) if design.absorbed else None
    aliased_names = [names[column] for column in aliased if names[column] not in constants]
    if constants:
        gone = [j for j, number in enumerate(design.numbers) if number.column in constants]
        design = design.without_columns(set(constants))
        if not design.terms:
            listed = "; ".join(f"{c}: {why}" for c, why in {**spec.excluded, **constants}.items())
            raise StreamlrError(f"no feature is left ({listed}).")
        basis = basis.dropping(design.layout, gone)
    kinds = {name: column_kind(name, spec.types[name]) for name in design.feature_columns}
    design = replace(design, reader=replace(design.reader, where=None, kinds=kinds))
    return Model(
        design=design,
        basis=basis,
        conditioned_coef=coef[active],
        conditioned_effects=effects,
        covariance_type=choice.kind,
        robust_covariance=None if robust is None else robust.matrix,
        clusters={} if robust is None else dict(zip(choice.clusters, robust.groups, strict=True)),
        small_sample=choice.small_sample,
        profile_bounds=bounds,
        profile_level=None if bounds is None else conf_level,
        inverse_information=inverse_information,
        params=params,
        bse=std_errors,
        statistics=_statistics(session, objective, first, state, tol),
        conf_level=conf_level,
        dropped={name: int(count) for name, count in first.tally.missing.items() if count},
        excluded={**spec.excluded, **constants},
        aliased=aliased_names + single_level + unseen,
        separation=_set_aside_finding(design, first, separated, aliased),
        trace=session.trace,
        provenance=_provenance(session.source, spec, tol),
        firth=None if penalised is None else penalised.firth,
    )


def _inference(
    basis: Basis, hessian: Hessian, active: NDArray[np.int64], columns: int
) -> tuple[Floats | Inverse, Floats]:
    """The inverse of the Hessian in the basis, and standard errors of the user's coefficients (active,)."""
    if isinstance(hessian, Blocked) and hessian.factor is not None:
        variances = basis.raw_variances(hessian.factor)
        if variances is not None:
            return Inverse(hessian), np.sqrt(variances)
    covariance = inverse(hessian)
    return covariance, _raw_errors(basis, covariance, active, columns)


def _profile(
    session: Session,
    objective: Objective,
    state: State,
    active: NDArray[np.int64],
    wanted: Sequence[str],
    level: float,
    limit: int,
) -> Floats:
    """(active own, 2) profile bounds of the terms wanted, NaN for the others."""
    from streamlr.inference.profile_intervals import profile_bounds

    design = objective.design
    names = [design.column_names[column] for column in active]
    places = places_of_terms(design, names, wanted)
    functionals = np.zeros((len(places), len(state.coef)))
    functionals[:, : len(active)] = objective.map_to_raw()[places]
    waiting = 2 + session.workers.threads
    at_once = max(int(limit // 4 // (8 * design.layout.cells * waiting)), 1)
    found = profile_bounds(
        objective.at_points, state.coef, state.evaluation, functionals, level=level, at_once=at_once
    )
    bounds = np.full((len(active), 2), np.nan)
    bounds[places] = found
    _remark_on_bounds(session, bounds, names, places)
    return bounds


def _penalised(
    session: Session,
    objective: Objective,
    state: State,
    active: NDArray[np.int64],
    wanted: Sequence[str] | None,
    flic: bool,
    level: float,
    limit: int,
) -> PenalisedInference:
    """Tests and intervals by Firth's penalised likelihood, of the terms wanted, and the intercept of FLIC."""
    from streamlr.inference.firth_fit import PenalisedState, penalised_inference

    assert isinstance(state, PenalisedState)
    design, layout = objective.design, objective.design.layout
    names = [design.column_names[column] for column in active]
    places = None if wanted is None else places_of_terms(design, names, wanted)
    intercept = None
    if layout.intercept:
        column = int(np.flatnonzero(layout.slot_of_column == 0)[0])
        intercept = int(np.flatnonzero(active == column)[0])
    if flic and places is not None:
        # The penalised likelihood tells of its own maximum, which has another intercept.
        places = places[places != intercept]
    sums = layout.cells * (2 + session.workers.threads)
    at_once = max(int(limit // 4 // (8 * (sums + MATRICES_OF_SEARCH * len(active) ** 2))), 1)
    found = penalised_inference(
        objective,
        state,
        intercept=intercept,
        flic=flic,
        profiled=places,
        level=level,
        at_once=at_once,
    )
    if found.bounds is not None and places is not None:
        _remark_on_bounds(session, found.bounds, names, places)
    return found


def _remark_on_bounds(
    session: Session, bounds: Floats, names: Sequence[str], places: NDArray[np.int64]
) -> None:
    """Say which ends of intervals were not found; a term without either has Wald's interval."""
    for place in places:
        name, missing = names[place], np.isnan(bounds[place])
        if missing.all():
            session.remark(f"remark: no interval by profile likelihood was found for {name}; it has Wald's")
        elif missing.any():
            end = "lower" if missing[0] else "upper"
            session.remark(f"remark: no {end} bound by profile likelihood was found for {name}")


def places_of_terms(design: Design, names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    """Places among `names` of the coefficients that some words mean: one by its name, or all of a term.

    All where no word is given. Raises `StreamlrError` for a word that means none.
    """
    if not wanted:
        return np.arange(len(names))
    found: set[int] = set()
    for word in wanted:
        columns = design.term_columns.get(word, slice(0, 0))
        meant = {word, *design.column_names[columns]}
        places = [place for place, name in enumerate(names) if name in meant]
        if not places:
            known = [*names, *design.term_columns]
            hint = did_you_mean(word, [name for name in known if name != word])
            raise StreamlrError(f"no term '{word}' with an estimate, so it has no interval to profile.{hint}")
        found.update(places)
    return np.array(sorted(found), dtype=np.int64)


def _raw_errors(basis: Basis, covariance: Floats, active: NDArray[np.int64], columns: int) -> Floats:
    """Standard errors of the user's coefficients (active,) from a covariance in the basis."""
    whole = covariance
    if len(active) < columns:
        whole = np.zeros((columns, columns))
        whole[np.ix_(active, active)] = covariance
    return fit_statistics.standard_errors(basis.covariance_to_raw(whole))[active]


def _constants(objective: Objective) -> dict[str, str]:
    """Unnamed numeric columns that turned out to have one value in all rows used."""
    assert objective.first is not None
    design = objective.design
    if design.cuts:  # constant beside the rows of a cut, which has a place for every column
        return {}
    if not (design.intercept or (design.absorbed is not None and not design.absorb_l2)):
        return {}
    low, high, basis = objective.first.low, objective.first.high, objective.basis
    constants = {}
    for j, number in enumerate(design.numbers):
        column = int(basis.numeric_columns[j])
        if number.column is not None and not number.named and low[j] == high[j] and not basis.active[column]:
            constants[number.column] = f"constant ({low[j]:g})"
    return constants


def _statistics(session: Session, objective: Objective, first: Sums, state: State, tol: float) -> Statistics:
    design = objective.design
    tally = first.tally
    nobs = float(
        tally.weight if design.weights and design.weight_type == "frequency" else tally.rows_weighted
    )
    loss = state.evaluation.loss - objective.penalty(state.coef)
    if design.offset is None:
        null_loss = first.null_loss
    else:
        null_loss = objective.null_loss - 0.5 * objective.null_decrement**2
    null_settled = design.offset is None or objective.null_decrement <= max(tol, 1e-6)
    return Statistics(
        nobs=nobs,
        log_likelihood=objective.log_likelihood(state),
        null_log_likelihood=first.log_binomial - null_loss,
        deviance=2.0 * (loss - first.saturated),
        null_deviance=2.0 * (null_loss - first.saturated),
        converged=state.status == "converged" and bool(null_settled),
        passes=session.passes,
        newton_decrement=_distance(state),
        rows_read=tally.rows_read,
        rows_used=tally.rows_used,
        rows_dropped=tally.rows_read - tally.rows_used - tally.rows_set_aside,
        rows_set_aside=tally.rows_set_aside,
        seconds=time.perf_counter() - session.started,
        peak_rss_bytes=peak_resident_bytes(),
        absorbed_parameters=_absorbed_parameters(objective, state),
    )


def _absorbed_parameters(objective: Objective, state: State) -> float:
    """Parameters that absorbed effects amount to: their number, or with a ridge the effective one.

    That is the trace of the inverse Hessian times the information, less the other columns (Hastie, Tibshirani
    and Friedman 2009, The Elements of Statistical Learning, section 7.6).
    """
    own, ridge = objective.own_active, objective.ridge(objective.first) if objective.first else 0.0
    effects = len(state.coef) - own
    factor = factorise(state.evaluation.hessian) if ridge and effects else None
    if factor is None:
        return float(effects)
    return effects - ridge * float(factor.inverse_diagonal()[own:].sum())


def _distance(state: State) -> float | None:
    """The proved distance to the maximum, or the decrement alone where nothing is proved."""
    for distance in (state.distance, state.decrement):
        if math.isfinite(distance):
            return distance
    return None


def _set_aside_finding(
    design: Design, first: Sums, separated: Mapping[str, Any] | None, aliased: Sequence[int]
) -> dict[str, Any] | None:
    """What was set aside: levels and cells by the profile, rows beside a direction by passes."""
    limits = terms_with_limits(design)
    if not limits and separated is None:
        return None
    tally = first.tally
    own = set_aside_terms(limits, _levels_are_fixed(design, separated is not None or bool(aliased)))
    terms = [*own, *(separated["terms"] if separated is not None else ())]
    found = finding_of(terms, tally.rows_set_aside, tally.rows_used, set_aside=tally.rows_set_aside)
    return {**(separated or {}), **found}


def _levels_are_fixed(design: Design, beside_others: bool) -> bool | None:
    """Whether the signs of levels set aside are certain. They are where all of them belong to one term, so
    that each has rows of its own, and the other rows have an estimate for every other column."""
    terms = [factor.name for factor in design.categories if factor.set_aside and not factor.absorbed]
    for coded in design.factors:
        cells = coded.meeting.cells
        if cells is not None and cells.set_aside and not coded.parts:
            terms.append(coded.name)
    return True if len(terms) == 1 and not beside_others else None


def _provenance(source: Source, spec: Spec, tol: float) -> dict[str, Any]:
    return {
        "origin": list(source.origin),
        "where": None if spec.where is None else spec.where.text,
        "schema": {field.name: str(field.type) for field in source.schema},
        "tolerance": tol,
        "versions": {
            "streamlr": __version__,
            "numpy": np.__version__,
            "numba": numba_version(),
            "pyarrow": pa.__version__,
        },
    }
