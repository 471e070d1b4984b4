"""Diagnosis of a fit: how well it fits, whether its link holds, and which rows it hangs on.

Everything is found by reading the rows again with the saved model: one pass where few different
probabilities occur, two otherwise (the second settles the borders of the Hosmer-Lemeshow groups exactly), and
for the link test, which is a regression of its own with three coefficients, two to four more. Rows that are
not those of the fit are diagnosed as well: the result says so, and what is only true of rows of the fit
(degrees of freedom used up, leave-one-out losses) is then left out or counted otherwise.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr import arguments
from streamlr.errors import StreamlrError, did_you_mean
from streamlr.events import Listener, silent
from streamlr.inference import fit_statistics
from streamlr.inference.collinearity import condition_number, vif
from streamlr.inference.fit_statistics import chi_squared_tail
from streamlr.inference.rereading import Rereading, reading_again
from streamlr.linear_algebra import factorise
from streamlr.model import Model
from streamlr.newton import Box, Evaluation, newton
from streamlr.newton import inverse as covariance
from streamlr.passes.diagnosis_task import (
    AMOUNTS,
    COUNT,
    EXPECTED,
    EXPECTED_FAILURES,
    FAILURES,
    NUMBERS,
    SUCCESSES,
    DiagnosisSums,
    DiagnosisTask,
    Groups,
    Keys,
    LaterSums,
    LaterTask,
    LinkPoint,
    LinkSums,
    TopRows,
    probability_of_key,
)
from streamlr.passes.memory import available_memory, format_size
from streamlr.sources.parquet import ParquetSource

Floats = NDArray[np.float64]

MOST_GROUPS = 1_000
MOST_ROWS = 100_000
# Log-likelihoods of the same rows at the same coefficients differ by rounding, or by what a pass left out
# leaves unknown.
SAME = 1e-7
# The link test is taken to the maximum within this many standard errors; its own errors are right to SPARE.
LINK_TOLERANCE = 1e-8
SPARE = 1e-9
MOST_LINK_PASSES = 30
# Share of the square's information that its regression on 1 and eta must leave.
NO_SQUARE = 1e-10

CRITERIA = ("cooks", "leverage", "dfbeta:TERM")


@dataclass(frozen=True)
class HosmerLemeshow:
    """Hosmer and Lemeshow's test: sum over groups of (O - E)**2 / E of successes and of failures.

    Hosmer, Lemeshow and Sturdivant 2013, Applied Logistic Regression, 3rd ed., section 5.2.2. `df`: groups
    less two; all of them where the rows are not those of the fit (ibid., section 5.5). `p_value` by the
    chi-square distribution. None where a group leaves no expectation to divide by, or df is not positive.
    `groups`: dicts with "p_up_to" (the largest probability of the group, to twelve digits), "n", "observed",
    "expected", the last three weighted.

    Agrees with `ResourceSelection::hoslem.test(y, fitted, g)` of R where no two probabilities are equal: the
    borders are quantiles of type 7 at j/g and belong to the group below. Equal probabilities (to twelve
    digits) are never parted, so that ties give fewer groups, or uneven ones; degrees of freedom count the
    groups that there are, as Stata's `estat gof` does, where hoslem.test counts those asked for. A frequency
    weight and a number of trials count as so many rows in the ranking.
    """

    statistic: float | None
    df: int
    p_value: float | None
    groups: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class LinkTest:
    """The link test: the outcome regressed on eta and eta**2 by logistic regression.

    Pregibon 1980, Goodness of link tests for generalized linear models, Applied Statistics 29, 15-24; Stata's
    `linktest`. Agrees with `glm(y ~ eta + I(eta^2), binomial, weights)` of R. eta holds the offset. A square
    with a small p-value says that the link or the linear predictor is wrong. Each of the three: a dict with
    "estimate", "std_error", "statistic", "p_value".
    """

    intercept: Mapping[str, float | None]
    hat: Mapping[str, float | None]
    hatsq: Mapping[str, float | None]


@dataclass(frozen=True)
class Collinearity:
    """How much the columns of the model say what others say, from its information alone.

    condition_number, and with the intercept taken out of the other columns centred_condition_number: Belsley,
    Kuh and Welsch 1980, see `collinearity.condition_number`; None without columns. vif: dicts with "term",
    "gvif", "df", "per_df", Fox and Monette 1992, see `collinearity.vif`.
    """

    condition_number: float | None
    centred_condition_number: float | None
    vif: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a fit on some rows. Numbers that do not exist are None.

    same_rows: whether these are the rows of the fit: as many are used, with the same log-likelihood.
    rows_used, nobs, df_resid: rows, observations as the model counts them, and those less the parameters (all
        of them where the rows are not those of the fit).
    pearson_chi2: sum over rows of w (k - n p)**2 / (n p q), McCullagh and Nelder 1989, section 2.2.4 (R:
        `sum(residuals(fit, "pearson")^2)`). dispersion: that over df_resid (ibid., 4.5.2).
    deviance: 2 (log L of a parameter a row - log L). deviance_dispersion: that over df_resid.
    pseudo_r2: "mcfadden", "cox_snell", "nagelkerke" of the fit (see `fit_statistics`), and "tjur" of these
        rows: mean p of successes less mean p of failures, weighted (Tjur 2009, The American Statistician 63,
        366-372; R: `performance::r2_tjur`).
    log_loss, brier: means over trials of -log p(outcome) and (outcome - p)**2, weighted.
    loo_log_loss, loo_brier: the same where each row's p is that of the fit without it, to one Newton step
        from the fit with it: eta_i - x_i'Vx_i s_i / (1 - h_i), s_i the derivative of the row's log-likelihood
        in eta (Pregibon 1981, Logistic regression diagnostics, Annals of Statistics 9, 705-724). A row is one
        row of the data: of a frequency weight one of so many, of a count all its trials. None where a row
        decides a coefficient alone, with an absorbed factor, and for other rows than those of the fit.
    influential: the rows with the largest values of what was asked for, None with an absorbed factor. Dicts:
        "row": place in the data as read, from 0, rows dropped and filtered out counted.
        "keep": values of the columns kept.    "successes", "trials", "weight", "p"
        "leverage": h = w n p q x'Vx, R's `hatvalues` (of one of the rows that a frequency weight stands for).
        "pearson_residual": standardised, (k - n p) sqrt(w) / sqrt(n p q (1 - h)), R's
            `rstandard(type = "pearson")`.
        "cooks_distance": r**2 h / ((1 - h)**2 k), r the Pearson residual and k coefficients; R's
            `cooks.distance`.
        "dfbeta": by term, coefficient with the row less coefficient without it, to one Newton step: V x s /
            (1 - h) (Pregibon 1981, section 4); `coef(fit) - coef(glm(subset = -i, start = coef(fit), maxit =
            1))` of R, `get_influence(observed=False).d_params` of statsmodels. R's own `dfbeta` of a glm has
            the deviance residual in place of the Pearson residual.
    by: what they are ranked by.    passes: reads of the data.    remarks: sentences for the reader.
    """

    same_rows: bool
    rows_used: int
    nobs: float
    df_resid: float
    log_likelihood: float
    pearson_chi2: float | None
    dispersion: float | None
    deviance: float | None
    deviance_dispersion: float | None
    pseudo_r2: Mapping[str, float | None]
    log_loss: float | None
    brier: float | None
    loo_log_loss: float | None
    loo_brier: float | None
    collinearity: Collinearity
    hosmer_lemeshow: HosmerLemeshow
    link_test: LinkTest | None
    influential: tuple[Mapping[str, Any], ...] | None
    by: str
    passes: int
    remarks: tuple[str, ...]

    def result(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {**_plain(asdict(self)), "nobs": _whole(self.nobs), "df_resid": _whole(self.df_resid)}

    def __str__(self) -> str:
        from streamlr.report.diagnosis import diagnosis_text

        return diagnosis_text(self.result())

    def __repr__(self) -> str:
        return str(self)


def diagnose(
    model: Model,
    data: Any,
    *,
    groups: int = 10,
    top: int = 10,
    by: str = "cooks",
    keep: Sequence[str] | str = (),
    link_test: bool = False,
    where: str | None = None,
    threads: int | None = None,
    on_event: Listener = silent,
) -> Diagnosis:
    """Diagnose a fit on the rows of `data`, which should be those of the fit.

    Args:
        model: a fitted model.
        data: anything that `fit` reads.
        groups: groups of the Hosmer-Lemeshow test, 2 to 1,000.
        top: how many of the most influential rows to list, 0 to 100,000.
        by: what influence is: "cooks" (Cook's distance), "leverage", or "dfbeta:TERM" (the change of a
            coefficient, whatever its sign).
        keep: one or several columns of `data` whose values stand beside the rows listed.
        link_test: whether to make the link test, which takes passes of its own.
        where: rows to use; default the filter of the fit.
        threads: worker threads; default the cores this process may use. The result does not depend on it.
        on_event: called with progress events.

    Returns:
        A `Diagnosis`; what each number is and where it is from stands there.

    Raises:
        StreamlrError: columns are missing, an argument is out of range, or there are no rows.
    """
    _check(model, groups, top, by)
    with reading_again(model, data, where=where, threads=threads, on_event=on_event) as again:
        names = again.session.source.schema.names
        keep = tuple(dict.fromkeys(arguments.columns("keep", keep)))
        for name in keep:
            if name not in names:
                raise StreamlrError(f"no column '{name}' to keep.{did_you_mean(name, names)}")
        inverse = None if model.design.absorbed is not None else model.conditioned_covariance
        if inverse is not None:
            _check_room(again, top)
        link = _first_link_point(again) if link_test else None
        first: DiagnosisSums = again.run(
            DiagnosisTask(
                again.design,
                again.basis,
                None,
                again.coef,
                inverse=None if inverse is None else _in_slots(again, inverse),
                parameters=len(model.params),
                by=by,
                direction=_direction(model, again, inverse, by),
                top=top,
                keep_columns=keep,
                link=link,
            ),
            DiagnosisSums.merge,
        )
        if not first.successes + first.failures > 0.0:
            raise StreamlrError(f"none of the {first.rows_seen:,} rows is used: no outcome has any weight.")
        later = _Later(again, groups, first.groups)
        tested, remarks = (None, []) if link is None else _link_test(first.link, link, later)
        table = later.groups()
        rows = _rows_in_files(again, first.top.rows)
        passes = again.session.passes
    same = _is_same(model, first)
    return _concluded(
        model,
        first,
        same=same,
        hosmer_lemeshow=hosmer_lemeshow(table, in_sample=same),
        link_test=tested,
        influential=None if inverse is None else _listed(model, first.top, rows, inverse, keep),
        by=by,
        passes=passes,
        remarks=[*_remarks(model, first, same), *remarks],
    )


def _check(model: Model, groups: int, top: int, by: str) -> None:
    arguments.whole("groups", groups, 2, MOST_GROUPS)
    arguments.whole("top", top, 0, MOST_ROWS)
    kind, _, term = by.partition(":")
    if by in CRITERIA[:2]:
        return
    if kind != "dfbeta" or not term:
        raise StreamlrError(f"rows are ranked by {', '.join(CRITERIA)}, not by '{by}'.")
    if model.design.absorbed is not None:
        raise StreamlrError(
            f"rows cannot be ranked by '{by}': the effects of '{model.design.absorbed.name}' are absorbed, "
            "and their covariance, which influence needs, is not part of the model."
        )
    if term not in model.terms:
        known = [row["term"] for row in model.tidy_rows()]
        if term in known:
            raise StreamlrError(f"'{term}' has no estimate, so no row can change it.")
        raise StreamlrError(f"the model has no term '{term}'.{did_you_mean(term, model.terms)}")


def _check_room(again: Rereading, top: int) -> None:
    """Raise `StreamlrError` where the rows under way to the list need too much memory."""
    room, threads = available_memory() // 4, again.session.workers.threads
    size = 8 * (threads + 2) * top * (again.design.layout.slots + len(NUMBERS))
    if size > room:
        raise StreamlrError(
            f"{top:,} rows of {again.design.layout.columns:,} columns need {format_size(size)} on {threads} "
            f"threads, above a quarter of the memory that is available ({format_size(room)}). Ask for fewer "
            "rows, or use fewer threads."
        )


def _own_active(model: Model) -> NDArray[np.int64]:
    """(k,) model columns of `model.terms`."""
    return np.flatnonzero(model.basis.active[: model.design.layout.own_columns])


def _in_slots(again: Rereading, inverse: Floats) -> Floats:
    """The (k, k) inverse information as (slots, slots), zero for columns without an estimate."""
    layout = again.design.layout
    slots = layout.slot_of_column[again.basis.active]
    whole = np.zeros((layout.slots, layout.slots))
    whole[np.ix_(slots, slots)] = inverse
    return whole


def _direction(model: Model, again: Rereading, inverse: Floats | None, by: str) -> Floats | None:
    """(slots,) c with c'x moved the change of the coefficient of a term in the user's units."""
    if inverse is None or not by.startswith("dfbeta:"):
        return None
    place = model.terms.index(by.partition(":")[2])
    active = _own_active(model)
    whole = np.zeros((model.design.layout.own_columns, len(active)))
    whole[active] = inverse
    values = np.zeros(model.design.layout.columns)
    values[active] = model.basis.to_raw(whole)[active[place]]
    return again.design.layout.to_slots(values)


def _rows_in_files(again: Rereading, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers that count the row groups that a filter left unread as well."""
    source = again.session.source
    return source.numbered_in_files(rows) if isinstance(source, ParquetSource) else rows


def _is_same(model: Model, first: DiagnosisSums) -> bool:
    """Whether the rows read are those of the fit, as far as their number and likelihood tell."""
    found = first.log_binomial - first.loss
    return first.tally.rows_used == model.statistics.rows_used and abs(found - model.llf) <= SAME * max(
        1.0, abs(model.llf)
    )


def _remarks(model: Model, first: DiagnosisSums, same: bool) -> list[str]:
    found = []
    if not same:
        used, fitted = first.tally.rows_used, model.statistics.rows_used
        what = (
            f"{used:,} rows are used, {fitted:,} were in the fit"
            if used != fitted
            else f"their log-likelihood is {first.log_binomial - first.loss:.10g}, that of the fit "
            f"{model.llf:.10g}"
        )
        found.append(
            f"these are not the rows of the fit: {what}. Leverages, Cook's distances and changes of "
            "coefficients are therefore not those of the fit, and no leave-one-out loss is given."
        )
    if not model.converged:
        found.append("the fit has not converged, and diagnosis holds at its last coefficients only.")
    if model.design.absorbed is not None:
        found.append(
            f"no influence of rows: the effects of '{model.design.absorbed.name}' are absorbed, and their "
            "covariance is not part of the model."
        )
    if model.firth is not None:
        found.append(
            "the estimate is Firth's: Cook's distances, changes of coefficients and leave-one-out losses are "
            "those of a step that leaves his penalty as it is."
        )
    if first.undetermined:
        found.append(
            f"{first.undetermined:,} row{'s have' if first.undetermined > 1 else ' has'} leverage 1: without "
            "such a row a coefficient would have no estimate, so no leave-one-out loss exists."
        )
    return found


def _concluded(
    model: Model,
    first: DiagnosisSums,
    *,
    same: bool,
    hosmer_lemeshow: HosmerLemeshow,
    link_test: LinkTest | None,
    influential: tuple[Mapping[str, Any], ...] | None,
    by: str,
    passes: int,
    remarks: Sequence[str],
) -> Diagnosis:
    tally = first.tally
    frequency = model.design.weights is not None and model.design.weight_type == "frequency"
    nobs = float(tally.weight if frequency else tally.rows_weighted)
    df = nobs - model.parameters if same else nobs
    trials = first.successes + first.failures
    deviance = 2.0 * (first.loss - first.saturated)
    left_out = same and influential is not None and not first.undetermined
    return Diagnosis(
        same_rows=same,
        rows_used=tally.rows_used,
        nobs=nobs,
        df_resid=df,
        log_likelihood=first.log_binomial - first.loss,
        pearson_chi2=_finite(first.pearson_chi2),
        dispersion=_ratio(first.pearson_chi2, df),
        deviance=_finite(deviance),
        deviance_dispersion=_ratio(deviance, df),
        pseudo_r2={
            "mcfadden": model.prsquared,
            "cox_snell": fit_statistics.cox_snell_r2(model.llf, model.llnull, model.nobs),
            "nagelkerke": fit_statistics.nagelkerke_r2(model.llf, model.llnull, model.nobs),
            "tjur": tjur_r2(first.p_of_successes, first.successes, first.p_of_failures, first.failures),
        },
        log_loss=_ratio(first.loss, trials),
        brier=_ratio(first.brier, trials),
        loo_log_loss=_ratio(first.loo_loss, trials) if left_out else None,
        loo_brier=_ratio(first.loo_brier, trials) if left_out else None,
        collinearity=_collinearity(model),
        hosmer_lemeshow=hosmer_lemeshow,
        link_test=link_test,
        influential=influential,
        by=by,
        passes=passes,
        remarks=tuple(remarks),
    )


def _collinearity(model: Model) -> Collinearity:
    slopes = sum(term != "Intercept" for term in model.terms)
    return Collinearity(
        condition_number(model) if len(model.terms) else None,
        condition_number(model, centred=True) if slopes else None,
        tuple(vif(model).as_dicts()) if slopes else (),
    )


def tjur_r2(p_of_successes: float, successes: float, p_of_failures: float, failures: float) -> float | None:
    """Sum of p over successes by their number, less the same of failures; None where there are none."""
    if not (successes > 0.0 and failures > 0.0):
        return None
    return p_of_successes / successes - p_of_failures / failures


class _Later:
    """Passes behind the first: each looks into what groups are still unsettled and where the link test is."""

    def __init__(self, again: Rereading, wanted: int, first: Groups) -> None:
        self._again = again
        self._wanted = wanted
        self._found: Floats | None = None
        self._windows: Keys | None = None
        self._settle(first)

    def link_at(self, point: LinkPoint) -> LinkSums:
        """The link test's sums at a point."""
        sums = self._pass(point)
        assert sums.link is not None
        return sums.link

    def groups(self) -> Floats:
        """(groups, 1 + AMOUNTS): key of the largest probability and sums of each group."""
        while self._found is None:
            self._pass(None)
        return self._found

    def _pass(self, point: LinkPoint | None) -> LaterSums:
        again = self._again
        task = LaterTask(again.design, again.basis, None, again.coef, windows=self._windows, link=point)
        sums = again.run(task, LaterSums.merge)
        if sums.groups is not None:
            self._settle(sums.groups)
        return sums

    def _settle(self, groups: Groups) -> None:
        ranks = border_ranks(groups, self._wanted)
        if groups.keys is None:
            self._windows = narrowed(groups, ranks)
        else:
            self._found, self._windows = grouped(groups, ranks), None


def border_ranks(groups: Groups, wanted: int) -> dict[int, bool]:
    """Ranks, from zero, of the last observation of all groups but the last: floor((n - 1) j / g).

    The quantile of type 7 at j/g lies between the values of that rank and the next, so a group ends with the
    former and what equals it. The value: whether the quantile is above the former if the latter is.
    """
    total = float(groups.bins.sum() + groups.outside[:, COUNT].sum())
    last = max(total - 1.0, 0.0)
    ranks: dict[int, bool] = {}
    for j in range(1, wanted):
        whole = last.is_integer()
        rank = int(last) * j // wanted if whole else math.floor(last * j / wanted)
        # Of borders with the same rank the last is the one that may lie above it.
        ranks[rank] = not whole or int(last) * j % wanted != 0
    return ranks


def narrowed(groups: Groups, ranks: Iterable[int]) -> Keys:
    """(m, 2) the bins that hold some ranks, as the windows of another pass."""
    inside = groups.bins.sum(axis=1)
    below = np.cumsum(groups.outside[:-1, COUNT]) + np.cumsum(inside) - inside
    windows = set()
    for rank in ranks:
        place = int(np.searchsorted(below, rank, side="right")) - 1
        ends = below[place] + np.cumsum(groups.bins[place])
        width = int(groups.widths[place])
        low = int(groups.windows[place, 0]) + int(np.searchsorted(ends, rank, side="right")) * width
        windows.add((low, min(low + width - 1, int(groups.windows[place, 1]))))
    return np.array(sorted(windows), dtype=np.int64)


def grouped(groups: Groups, ranks: Mapping[int, bool]) -> Floats:
    """(groups, 1 + AMOUNTS): key of the largest probability and sums of each group that the ranks end."""
    assert groups.keys is not None
    # Sums in the order of probability: between the windows and, one by one, in them.
    keys = np.concatenate([groups.windows[:, 0] - 0.5, [np.inf], groups.keys.astype(np.float64)])
    amounts = np.concatenate([groups.outside, groups.amounts])
    order = np.argsort(keys, kind="stable")
    keys, amounts = keys[order], amounts[order]
    ends = np.cumsum(amounts[:, COUNT])
    first = int(np.flatnonzero(amounts[:, COUNT] > 0.0)[0])
    cuts = set()
    for rank, above in ranks.items():
        place = int(np.searchsorted(ends, rank, side="right"))
        # A quantile that is the least probability of all begins the first group with its lower end.
        if place > first or (above and ends[place] <= rank + 1):
            cuts.add(place + 1)
    behind = [cut for cut in sorted(cuts) if ends[cut - 1] < ends[-1]]
    sums = np.add.reduceat(amounts, [0, *behind], axis=0)
    return np.column_stack([[*keys[np.array(behind, dtype=np.int64) - 1], groups.highest], sums])


def hosmer_lemeshow(groups: Floats, *, in_sample: bool) -> HosmerLemeshow:
    """The test from sums by group, (g, 1 + AMOUNTS); see `HosmerLemeshow`."""
    assert groups.shape[1] == 1 + AMOUNTS
    sums = groups[:, 1:]
    observed, expected = sums[:, [SUCCESSES, FAILURES]], sums[:, [EXPECTED, EXPECTED_FAILURES]]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(observed == expected, 0.0, (observed - expected) ** 2 / expected)
    statistic = _finite(float(shares.sum()))
    df = len(groups) - (2 if in_sample else 0)
    table = [
        {
            "p_up_to": probability_of_key(int(key)),
            "n": _whole(float(success + failure)),
            "observed": _whole(float(success)),
            "expected": float(mean),
        }
        for key, (success, failure), mean in zip(groups[:, 0], observed, expected[:, 0], strict=True)
    ]
    p_value = chi_squared_tail(statistic, df) if statistic is not None and df > 0 else None
    return HosmerLemeshow(statistic, max(df, 0), p_value, tuple(table))


def _first_link_point(again: Rereading) -> LinkPoint:
    """eta itself as a point of the link test; the intercept in the basis is near the middle of all eta."""
    layout = again.design.layout
    centre = float(layout.to_slots(again.coef)[0]) if layout.intercept else 0.0
    return LinkPoint(centre, 1.0, np.array([centre, 1.0, 0.0]))


def _link_test(sums: LinkSums, point: LinkPoint, later: _Later) -> tuple[LinkTest | None, list[str]]:
    """The link test from its sums at the start, by Newton's method; a remark where there is none."""
    moved = _recentred(sums, point)
    if moved is None:
        return None, ["no link test: the linear predictor has too few different values to tell its square."]
    point, evaluation = moved
    taken = 0

    def evaluate(coef: Floats, with_hessian: bool = True) -> Evaluation:
        nonlocal taken
        taken += 1
        if taken > MOST_LINK_PASSES:
            raise _LinkPassesSpentError
        return _evaluation(later.link_at(LinkPoint(point.centre, point.spread, coef)))

    last = None
    try:
        for state in newton(evaluate, point.coef, evaluation, tolerance=LINK_TOLERANCE, spare=SPARE):
            last = state
    except _LinkPassesSpentError:
        pass
    if last is None or last.status != "converged":
        return None, ["no link test: its regression has no finite maximum, or could not be taken to it."]
    back = _powers_map(-point.centre / point.spread, 1.0 / point.spread)
    coef = back.T @ last.coef
    errors = fit_statistics.standard_errors(back.T @ covariance(last.evaluation.hessian) @ back)
    rows = [_tidy(value, error) for value, error in zip(coef, errors, strict=True)]
    return LinkTest(*rows), []


class _LinkPassesSpentError(Exception):
    pass


def _powers_map(shift: float, slope: float) -> Floats:
    """(3, 3) M with (1, v, v**2) = M (1, u, u**2) for v = shift + slope u."""
    return np.array(
        [[1.0, 0.0, 0.0], [shift, slope, 0.0], [shift * shift, 2.0 * shift * slope, slope * slope]]
    )


def _recentred(sums: LinkSums, point: LinkPoint) -> tuple[LinkPoint, Evaluation] | None:
    """The same point with the curvature-weighted mean and deviation of eta as centre and spread, and the
    evaluation there; None where eta has fewer than three values, up to rounding."""
    h = sums.hessian
    if not h[0, 0] > 0.0:
        return None
    mean = h[0, 1] / h[0, 0]
    variance = h[1, 1] / h[0, 0] - mean * mean
    if not variance > NO_SQUARE * max(1.0, mean * mean):
        return None
    deviation = math.sqrt(variance)
    powers = _powers_map(-mean / deviation, 1.0 / deviation)
    hessian = powers @ h @ powers.T
    factor = factorise(hessian)
    if factor is None or not 1.0 / factor.inverse_diagonal()[2] > NO_SQUARE * hessian[2, 2]:
        return None
    centre, spread = point.centre + point.spread * mean, point.spread * deviation
    found = LinkSums(
        sums.loss,
        powers @ sums.gradient,
        hessian,
        sums.least_curvature,
        (sums.low - mean) / deviation,
        (sums.high - mean) / deviation,
    )
    return LinkPoint(centre, spread, np.array([centre, spread, 0.0])), _evaluation(found)


def _evaluation(sums: LinkSums) -> Evaluation:
    most = max(abs(sums.low), abs(sums.high))
    box = Box(np.array([1.0, most, most * most]), np.arange(3))
    return Evaluation(sums.loss, sums.gradient, sums.hessian, box, sums.least_curvature)


def _tidy(estimate: float, error: float) -> dict[str, float | None]:
    z = estimate / error
    return {
        "estimate": float(estimate),
        "std_error": float(error),
        "statistic": float(z),
        "p_value": float(fit_statistics.two_sided_p(np.array([z]))[0]),
    }


def _listed(
    model: Model, top: TopRows, rows: NDArray[np.int64], inverse: Floats, keep: Sequence[str]
) -> tuple[Mapping[str, Any], ...]:
    """The influential rows as dicts."""
    active = _own_active(model)
    numbers = dict(zip(NUMBERS, top.numbers.T, strict=True))
    columns = top.x[:, model.design.layout.slot_of_column[active]]
    change = np.zeros((model.design.layout.own_columns, len(rows)))
    change[active] = inverse @ columns.T * numbers["moved"]
    changes = model.basis.to_raw(change)[active].T
    return tuple(
        {
            "row": int(rows[i]),
            "keep": dict(zip(keep, top.kept[i], strict=True)),
            "successes": _whole(float(numbers["success"][i])),
            "trials": _whole(float(numbers["trials"][i])),
            "weight": _whole(float(numbers["weight"][i])),
            "p": float(numbers["p"][i]),
            "leverage": _finite(float(numbers["leverage"][i])),
            "pearson_residual": _finite(float(numbers["pearson"][i])),
            "cooks_distance": _finite(float(numbers["cooks"][i])),
            "dfbeta": {
                term: _finite(float(value)) for term, value in zip(model.terms, changes[i], strict=True)
            },
        }
        for i in range(len(rows))
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, times and other things are text."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _ratio(value: float, by: float) -> float | None:
    return _finite(value / by) if by > 0.0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value
