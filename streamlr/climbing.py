"""From the start of a fit to its last state: Newton's steps, what they make one suspect, and what rows prove.

Newton ends at a certified maximum, out of passes, or where coefficients seem to go to infinity. The rows are
then asked whether a direction separates them: if so the search goes on beside those rows or ends in a
`SeparationError`, if not it goes on from where it stopped. Firth's penalised likelihood has a maximum
whatever is separated, and a climb of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.design import terms_with_limits
from streamlr.design.freeze import SeparationPolicy
from streamlr.errors import remedies
from streamlr.events import PassDone
from streamlr.newton import Evaluation, Guide, State, newton
from streamlr.objective import Objective
from streamlr.passes.cache import BlockCache
from streamlr.passes.session import Session
from streamlr.separating import Separation, UnsettledError, beside, not_separated, prove
from streamlr.separation import finding_of, is_complete, separation_error, set_aside_terms

Floats = NDArray[np.float64]

# With this many values a pass is left out where it is proved that it could only confirm what is known, and
# that standard errors would change by less than this relative to themselves.
WORTH_SPARING = 20_000_000
SPARE_ERROR = 1e-6
# Columns of any kind from which on a Hessian of large data is worth saving.
MANY_COLUMNS = 2_000
# How often Newton goes on where it gave up although rows prove that there is a maximum.
MOST_DOUBTS = 4
# On separated data decrements shrink by exp(-1/2) = 0.61 a whole step, and by less where margins are of many
# sizes. So many steps like that are worth two passes to see whether it is that, and so often.
GUESS_RATES = (0.5, 0.9)
GUESS_STEPS = 3
MOST_GUESSES = 2
# Steps without a certificate after which a proof is looked for by all means, and how many columns a linear
# programme may have for that to be cheap beside the passes.
PATIENCE = 16
WIDEST_ASKED = 200


class PassesSpentError(Exception):
    """The next pass would be one too many."""


def climb(
    session: Session,
    objective: Objective,
    coef: Floats,
    evaluation: Evaluation,
    separation: SeparationPolicy,
    new_cache: Callable[[], BlockCache | None],
    tol: float,
    max_passes: int,
    guide: Guide | None = None,
) -> tuple[Objective, State, list[int], Mapping[str, Any] | None]:
    """Newton to the maximum, beside rows that are separated; those are found whatever the policy. Then also
    columns that the other rows say nothing of, and the finding. `guide`: asked where to end the first step.

    Raises `SeparationError` where there are any and they are not to be set aside, or none is left.
    """
    found = Separation(objective)
    # Levels and cells that the profile has set aside are a separation that is not to be passed over.
    is_error = separation == "error" and bool(_levels_aside(objective))
    lost: list[int] = []
    doubts, guesses, noted, before, asked = 0, 0, 0, 0, False
    while True:
        watch = Watch(
            is_finite=doubts > 0,
            # With Hessians of earlier points decrements shrink as they like.
            may_guess=guesses < MOST_GUESSES and not _reuse(objective),
            may_ask=not asked and objective.own_active <= WIDEST_ASKED,
            noted=noted,
            before=before,
        )
        state, suspicion = _iterate(session, objective, coef, evaluation, tol, max_passes, watch, guide)
        guide = None
        if suspicion is None:
            found.settled = state.status == "converged"
            break
        proof, searched = None, False
        try:
            if not doubts:
                proof = prove(
                    objective,
                    suspicion.suspects,
                    is_direction=suspicion.is_direction,
                    thorough=not suspicion.is_guess,
                )
        except UnsettledError:
            if is_error or (found.proofs and separation != "drop"):
                break
            if state.status == "stalled":
                break
            if state.status != "running" or asked:
                raise
            # It was only time to ask: Newton may get there, or diverge in earnest.
            searched = asked = True
        noted, before = watch.noted, before + len(watch.steps)
        if proof is None and (suspicion.is_guess or searched):
            guesses += 1
            coef, evaluation = state.coef, state.evaluation
            continue
        if proof is None:
            # The maximum is finite and only far away: Newton goes on from where it gave up.
            doubts += 1
            if state.status == "stalled" or (is_error and doubts > MOST_DOUBTS):
                break
            if doubts > MOST_DOUBTS:
                raise not_separated()
            coef, evaluation = state.coef, state.evaluation
            continue
        if not found.proofs:
            found.whole = objective.uncached()
        found.add(proof, objective.basis)
        if not proof.overlapping:
            found.settled = True
            break
        objective, coef, evaluation, aliased = beside(objective, proof, state.coef, new_cache())
        lost += aliased
        found.rest = objective
        if not objective.basis.active.any():
            found.settled = True
            break
        doubts, guesses, noted, before, asked = 0, 0, 0, 0, False
    if not found.proofs and is_error:
        raise separation_error(_by_levels(objective), unsettled=not found.settled)
    if not found.proofs:
        return objective, state, [], None
    finding = found.finding()
    is_left = bool(found.overlapping and objective.basis.active.any())
    if separation != "drop" or not is_left:
        finding = _with_levels(finding, found.whole)
        if found.settled and not is_left:
            finding["advice"] = remedies(None)  # nothing is left to fit beside them
        raise separation_error(finding, unsettled=not found.settled)
    return objective, state, lost, finding


def _levels_aside(objective: Objective) -> dict[str, int]:
    """Names of levels and cells that the profile has set aside, each with the outcome it always had."""
    absorbed = {
        f"{factor.name}[T.{level}]": outcome
        for factor in objective.design.categories
        if factor.absorbed
        for level, outcome in factor.set_aside
    }
    return {**terms_with_limits(objective.design), **absorbed}


def _by_levels(objective: Objective) -> dict[str, Any]:
    """The finding where nothing separates the rows that the profile has left."""
    assert objective.first is not None
    tally = objective.first.tally
    # No row has been asked whether another direction moves these levels the other way.
    terms = set_aside_terms(_levels_aside(objective), None)
    finding = finding_of(terms, tally.rows_set_aside, tally.rows_used)
    return {**finding, "advice": remedies("levels")}


def _with_levels(finding: dict[str, Any], whole: Objective) -> dict[str, Any]:
    """The finding together with levels and cells that the profile had set aside already."""
    limits = _levels_aside(whole)
    if not limits:
        return finding
    assert whole.first is not None
    rows = finding["rows_separated"] + whole.first.tally.rows_set_aside
    terms = [*set_aside_terms(limits, None), *finding["terms"]]
    return {**finding, **finding_of(terms, rows, finding["rows_overlapping"])}


@dataclass(frozen=True)
class Suspicion:
    """Where coefficients seem to go to infinity, each (active,), the likeliest first."""

    suspects: tuple[Floats, ...]
    is_direction: bool  # else they are coefficients with which every row is on its own side
    is_guess: bool = False  # worth a look that costs little


@dataclass
class Watch:
    """What an iteration looks out for: `is_finite`, it was proved that there is a maximum; `may_guess` and
    `may_ask`, separation may be looked for before coefficients have diverged for good."""

    is_finite: bool = False
    may_guess: bool = False
    may_ask: bool = False
    noted: int = 0  # evaluations that the trace tells of already
    before: int = 0  # steps that were taken without it
    steps: list[tuple[float, float]] = field(default_factory=list)  # decrement at each state, step to it

    @property
    def sees_a_pattern(self) -> bool:
        """Whether the last whole steps went as they go on separated data."""
        recent = self.steps[-GUESS_STEPS - 1 :]
        if not self.may_guess or self.is_finite or len(recent) <= GUESS_STEPS:
            return False
        low, high = GUESS_RATES
        return all(
            low * before < after < high * before and length == 1.0
            for (before, _), (after, length) in itertools.pairwise(recent)
        )

    @property
    def is_at_a_loss(self) -> bool:
        """Whether so many steps have proved no maximum that it is time to look for a proof of none."""
        return self.may_ask and not self.is_finite and self.before + len(self.steps) > PATIENCE


def _iterate(
    session: Session,
    objective: Objective,
    coef: Floats,
    evaluation: Evaluation,
    tol: float,
    max_passes: int,
    watch: Watch,
    guide: Guide | None,
) -> tuple[State, Suspicion | None]:
    """Newton to a certified maximum, or until passes run out, or until separation is suspected."""

    def limited(coef: Floats, with_hessian: bool = True, *, along: Floats | None = None) -> Evaluation:
        if max(session.passes, objective.evaluations) >= max_passes:
            raise PassesSpentError
        return objective(coef, with_hessian, along=along)

    last: State | None = None
    suspicion: Suspicion | None = None
    try:
        steps = newton(
            limited,
            coef,
            evaluation,
            tolerance=tol,
            spare=_spare(objective),
            reuse=_reuse(objective),
            guide=guide,
        )
        for state in steps:
            if objective.evaluations > watch.noted:
                watch.noted = objective.evaluations
                _note(session, objective, state)
            if state.status != "converged":
                watch.steps.append((state.decrement, state.step))
                suspicion = _suspicion(objective, state, last, watch)
            last = state
            if suspicion is not None:
                return state, suspicion
        if last is not None and last.status == "converged":
            _finish_null(objective, limited, tol)
    except PassesSpentError:
        pass  # the last state says that it has not converged
    assert last is not None, "Newton yields its start"
    return last, None


def climb_penalised(
    session: Session,
    objective: Objective,
    coef: Floats,
    evaluation: Evaluation,
    tol: float,
    max_passes: int,
) -> State:
    """To the maximum of Firth's penalised likelihood, or until passes run out."""
    from streamlr.inference.firth_fit import penalised_maximum

    noted = 0

    def spent() -> bool:
        return max(session.passes, objective.evaluations) >= max_passes

    def note(state: State) -> None:
        nonlocal noted
        if objective.evaluations > noted:
            noted = objective.evaluations
            _note(session, objective, state)

    def limited(coef: Floats) -> Evaluation:
        if spent():
            raise PassesSpentError
        return objective(coef)

    state = penalised_maximum(objective, coef, evaluation, tol=tol, spent=spent, note=note)
    with suppress(PassesSpentError):
        _finish_null(objective, limited, tol)
    return state


def _spare(objective: Objective) -> float:
    """Change of standard errors worth a pass less: none where a pass costs nothing."""
    if objective.costs_nothing:
        return 0.0
    return SPARE_ERROR if objective.design.layout.hessian_is_dear or _is_large(objective) else 0.0


def _reuse(objective: Objective) -> bool:
    """Whether Hessians are taken over from earlier points: where summing one is dear, or where there are very
    many columns, whose pair tables take three times as long as a gradient, and then there is the algebra."""
    layout = objective.design.layout
    many = layout.own_columns >= MANY_COLUMNS and _spare(objective) > 0.0
    return layout.hessian_is_dear or many


def _is_large(objective: Objective) -> bool:
    """Whether there are so many values that a pass less is worth the last digits of standard errors."""
    assert objective.first is not None
    layout = objective.design.layout
    return objective.first.tally.rows_used * (layout.dense + len(layout.levels)) >= WORTH_SPARING


def _note(session: Session, objective: Objective, state: State) -> None:
    """Write an iteration into the trace and tell about it."""
    assert objective.first is not None
    log_likelihood = objective.log_likelihood(state)
    seconds = session.pass_seconds
    speed = objective.first.tally.rows_read / max(seconds, 1e-9)
    session.trace.append(
        {
            "pass": session.passes,
            "log_likelihood": log_likelihood,
            "max_gradient": float(np.abs(state.evaluation.gradient).max(initial=0.0)),
            "newton_decrement": state.decrement if math.isfinite(state.decrement) else None,
            "step": state.step,
            "seconds": seconds,
            "rows_per_second": speed,
        }
    )
    session.emit(
        PassDone(session.passes, log_likelihood, state.decrement, state.distance, state.step, seconds, speed)
    )


def _finish_null(objective: Objective, limited: Callable[[Floats], Evaluation], tol: float) -> None:
    """Passes for the null model alone, where an offset makes it slower than the fit itself."""
    coef = np.zeros(int(objective.basis.active.sum()))
    before = math.inf
    while tol < objective.null_decrement < before:
        before = objective.null_decrement
        limited(coef)


def _suspicion(objective: Objective, state: State, last: State | None, watch: Watch) -> Suspicion | None:
    """Where a state proves complete separation, diverges, or leads no further without a certificate."""
    assert objective.first is not None
    tally = objective.first.tally
    # A ridge may hold back the very effects that separate the rows.
    proves_nothing = objective.design.offset is not None or objective.design.absorb_l2 > 0.0
    if not watch.is_finite and is_complete(state.evaluation.loss, tally.least_weight, proves_nothing):
        return Suspicion((state.coef,), is_direction=False)
    lost = not watch.is_finite and not math.isfinite(state.distance)
    diverges = state.status == "diverging" or (lost and (state.status == "stalled" or watch.is_at_a_loss))
    if diverges or (lost and watch.sees_a_pattern):
        # A singular Hessian leaves no direction; the one before it still points the way.
        moving = state if np.any(state.direction) or last is None else last
        return Suspicion((moving.direction, state.coef), is_direction=True, is_guess=not diverges)
    return None
