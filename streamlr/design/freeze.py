"""From a profile to a frozen design: faults named, levels sorted, columns that cannot be used left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamlr.design.columns import Level, find_level, sorted_levels, stored_width
from streamlr.design.design import Design, Factor, Number, Term
from streamlr.design.profile import MAXIMUM_OUTCOMES, ProfileSums
from streamlr.design.spec import Feature, Spec
from streamlr.errors import SeparationError, StreamlrError, did_you_mean

SeparationPolicy = Literal["levels", "error"]


@dataclass(frozen=True)
class Review:
    """What a profile asks for before it can be frozen: columns to leave out, levels to set aside."""

    exclude: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, dict[Level, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.exclude or self.set_aside)


def review(spec: Spec, profile: ProfileSums, set_aside: Mapping[str, Mapping[Level, int]]) -> Review:
    """Raise the first fault a profile shows, or say what must change before the next profile.

    `set_aside`: the levels whose rows this profile has left out already.
    """
    if spec.missing == "error" and profile.missing:
        counts = _counts(profile.missing)
        raise StreamlrError(f"missing values: {counts}. Fill them, or drop their rows with --missing drop.")
    if profile.missing[spec.target] == profile.rows_read:
        raise StreamlrError(f"the target '{spec.target}' is all null ({profile.rows_read:,} rows).")
    _check_weights(spec, profile)
    for feature in spec.features:
        if feature.named and profile.missing[feature.column] == profile.rows_read:
            raise StreamlrError(
                f"column '{feature.column}' is all null ({profile.rows_read:,} rows); it cannot be a feature."
            )
    exclude = {
        feature.column: reason
        for feature in spec.features
        if not feature.named
        and feature.column not in set_aside
        and (reason := _why_left_out(feature, profile)) is not None
    }
    if exclude:
        return Review(exclude)
    if profile.rows_used == 0 and profile.rows_set_aside == 0:
        raise StreamlrError(
            f"no rows are left: all {profile.rows_read:,} have a missing value ({_counts(profile.missing)})."
        )
    if set_aside and (profile.rows_used == 0 or (spec.trials is None and len(profile.outcomes) < 2)):
        raise separation_by_levels(spec, profile, set_aside)
    if spec.weights is not None and not any(profile.outcome_weight.values()) and spec.trials is None:
        raise StreamlrError(f"the weight '{spec.weights}' is zero in all {profile.rows_used:,} rows used.")
    _check_infinite(profile)
    _check_levels(spec, profile)
    positive = None
    if spec.trials is None:
        positive, _ = outcome_levels(spec, profile)
    else:
        _check_counts(spec, profile)
    return Review(set_aside=_single_outcome_levels(spec, profile, positive))


def outcome_levels(spec: Spec, profile: ProfileSums) -> tuple[Level, Level]:
    """The outcome that counts as 1 and the other. Raises `StreamlrError` unless there are just two."""
    levels = sorted_levels(profile.outcomes)
    if len(levels) != 2:
        shown = ", ".join(str(level) for level in levels[:10]) + (", …" if len(levels) > 10 else "")
        many = f"more than {MAXIMUM_OUTCOMES:,}" if len(levels) >= MAXIMUM_OUTCOMES else str(len(levels))
        raise StreamlrError(
            f"column '{spec.target}' has {many} value{'' if len(levels) == 1 else 's'} ({shown}) in the rows "
            f"used; a binary target needs 2."
        )
    if spec.positive is not None:
        positive = find_level(spec.positive, levels)
        if positive is None:
            raise StreamlrError(
                f"the target '{spec.target}' has no value '{spec.positive}' to count as 1; "
                f"it has {levels[0]} and {levels[1]}."
            )
    elif levels in ([-1, 1], [0, 1]):
        positive = levels[1]
    else:
        positive = levels[-1]
    negative = levels[0] if positive == levels[1] else levels[1]
    for level in levels:
        if profile.outcome_weight[level] <= 0:
            raise StreamlrError(
                f"column '{spec.target}' has the value {level} only in rows of weight zero; "
                "a binary target needs 2 values."
            )
    return positive, negative


def _check_weights(spec: Spec, profile: ProfileSums) -> None:
    faults = profile.faults
    problems = {
        "weight missing": "is missing (null or NaN)",
        "weight negative": "is negative",
        "weight infinite": "is infinite",
    }
    if spec.weight_type == "frequency":
        problems["weight fractional"] = (
            "is not a whole number, which a frequency must be (for precisions: --weight-type analytic)"
        )
    for fault, text in problems.items():
        if faults[fault]:
            raise StreamlrError(f"the weight '{spec.weights}' {text} in {faults[fault]:,} rows.")


def _check_counts(spec: Spec, profile: ProfileSums) -> None:
    faults = profile.faults
    problems = {
        "successes not whole": f"'{spec.target}' is not a whole number of successes",
        "trials not whole": f"'{spec.trials}' is not a whole number of trials",
        "successes negative": f"'{spec.target}' is negative",
        "successes above trials": f"'{spec.target}' has more successes than '{spec.trials}' has trials",
    }
    for fault, text in problems.items():
        if faults[fault]:
            raise StreamlrError(f"{text} in {faults[fault]:,} rows.")
    if profile.successes <= 0 or profile.failures <= 0:
        none = "success" if profile.successes <= 0 else "failure"
        raise StreamlrError(f"the counts '{spec.target}' of '{spec.trials}' hold no {none} at all.")


def _check_infinite(profile: ProfileSums) -> None:
    for name, count in profile.infinite.items():
        if count:
            raise StreamlrError(
                f"column '{name}' has {count:,} infinite value{'' if count == 1 else 's'}. "
                "Replace them or leave the column out."
            )


def _check_levels(spec: Spec, profile: ProfileSums) -> None:
    for feature in spec.features:
        reason = _why_left_out(feature, profile)
        if reason is not None and feature.categorical and "constant" not in reason:
            if feature.absorbed:
                raise StreamlrError(
                    f"column '{feature.column}' cannot be absorbed: {reason}. Absorb a coarser column."
                )
            raise StreamlrError(
                f"column '{feature.column}' cannot be a factor: {reason}. "
                f"Leave it out with --exclude {feature.column}."
                + (f" Or absorb its effects with --absorb {feature.column}." if "more than" in reason else "")
            )


def _why_left_out(feature: Feature, profile: ProfileSums) -> str | None:
    """Why a column makes no term of its own accord; None where it does."""
    if profile.missing[feature.column] == profile.rows_read:
        return "all null"
    if profile.rows_used == 0:
        return None
    if not feature.categorical:
        low, high = profile.ranges.get(feature.column, (0.0, 1.0))
        return f"constant ({low:g})" if low == high else None
    counts = profile.factors[feature.column]
    if counts.too_many:
        return f"more than {counts.limit:,} levels"
    if len(counts) == 1:
        return f"constant ({counts.levels[0]})"
    if len(counts) == profile.rows_used and len(counts) > 2:
        return f"one level per row ({len(counts):,} levels in {profile.rows_used:,} rows)"
    return None


def _single_outcome_levels(
    spec: Spec, profile: ProfileSums, positive: Level | None
) -> dict[str, dict[Level, int]]:
    """Levels whose rows have one outcome only, with that outcome: the coefficient would be infinite."""
    first_is_positive = spec.trials is not None or next(iter(profile.outcomes)) == positive
    found: dict[str, dict[Level, int]] = {}
    for feature in spec.features:
        if not feature.categorical:
            continue
        if feature.absorbed and spec.absorb_l2:
            continue  # a ridge keeps every effect finite
        single = profile.factors[feature.column].single_outcome(first_is_positive)
        if single:
            found[feature.column] = single
    return found


def separation_by_levels(
    spec: Spec, profile: ProfileSums, set_aside: Mapping[str, Mapping[Level, int]]
) -> SeparationError:
    """The finding that levels set aside are a separation which the fit must not pass over."""
    complete = profile.rows_used == 0 or len(profile.outcomes) < 2
    terms = [
        {"term": f"{feature.name}[T.{level}]", "direction": 1 if outcome else -1}
        for feature in spec.features
        for level, outcome in sorted(set_aside.get(feature.column, {}).items(), key=lambda item: str(item[0]))
    ]
    named = ", ".join(str(term["term"]) for term in terms[:10]) + (", …" if len(terms) > 10 else "")
    total = profile.rows_used + profile.rows_set_aside
    return SeparationError(
        f"no finite maximum-likelihood estimate: every row of {named} has one outcome only"
        + (", and no row is left to fit" if complete else "")
        + ". Leave the column out or merge its levels.",
        {
            "kind": "complete" if complete else "quasi-complete",
            "terms": terms,
            "rows_separated": total if complete else profile.rows_set_aside,
            "rows_overlapping": 0 if complete else profile.rows_used,
        },
    )


def freeze(spec: Spec, profile: ProfileSums, set_aside: Mapping[str, Mapping[Level, int]]) -> Design:
    """The design that a reviewed profile leads to."""
    positive, negative = (None, None) if spec.trials is not None else outcome_levels(spec, profile)
    terms: list[Term] = []
    # Absorbed effects that nothing holds back are a full coding already.
    full_coding_left = not (spec.intercept or (spec.absorbed and not spec.absorb_l2))
    for feature in spec.features:
        if not feature.categorical:
            width = stored_width(spec.types[feature.column])
            terms.append(Number(feature.column, feature.name, feature.named, width))
            continue
        terms.append(_factor(spec, feature, profile, set_aside.get(feature.column, {}), full_coding_left))
        full_coding_left = False
    return Design(
        target=spec.target,
        positive=positive,
        negative=negative,
        intercept=spec.intercept,
        terms=tuple(terms),
        weights=spec.weights,
        weight_type=spec.weight_type,
        offset=spec.offset,
        trials=spec.trials,
        missing=spec.missing,
        absorb_l2=spec.absorb_l2,
    )


def _factor(
    spec: Spec, feature: Feature, profile: ProfileSums, set_aside: Mapping[Level, int], full_coding: bool
) -> Factor:
    known = profile.factors[feature.column]
    levels = sorted_levels(dict.fromkeys(known.levels))
    if feature.absorbed:
        return Factor(
            column=feature.column,
            name=feature.name,
            named=feature.named,
            levels=tuple(levels),
            reference=None,
            set_aside=tuple((level, set_aside[level]) for level in sorted_levels(set_aside)),
            absorbed=True,
        )
    reference: Level | None = levels[0]
    if feature.column in spec.reference:
        wanted = spec.reference[feature.column]
        reference = find_level(wanted, levels)
        if reference is None:
            if find_level(wanted, set_aside) is not None:
                raise StreamlrError(
                    f"the reference level '{wanted}' of '{feature.column}' goes with one outcome only and is "
                    "set aside. Choose another."
                )
            hint = did_you_mean(str(wanted), [str(level) for level in levels])
            raise StreamlrError(f"column '{feature.column}' has no level '{wanted}'.{hint}")
    elif full_coding:
        reference = None
    return Factor(
        column=feature.column,
        name=feature.name,
        named=feature.named,
        levels=tuple(level for level in levels if level != reference),
        reference=reference,
        set_aside=tuple((level, set_aside[level]) for level in sorted_levels(set_aside)),
        unused=tuple(sorted_levels(known.passed_over - set(levels) - set(set_aside))),
    )


def without_columns(spec: Spec, reasons: Mapping[str, str]) -> Spec:
    """The spec with some unnamed columns left out."""
    features = tuple(feature for feature in spec.features if feature.column not in reasons)
    if not features and spec.features and spec.intercept and not any(f.named for f in spec.features):
        listed = "; ".join(f"{column}: {reason}" for column, reason in {**spec.excluded, **reasons}.items())
        raise StreamlrError(f"no feature is left ({listed}).")
    return replace(spec, features=features, excluded={**spec.excluded, **reasons})


def _counts(missing: Mapping[str, int]) -> str:
    ordered = sorted(((count, name) for name, count in missing.items() if count), reverse=True)
    shown = ", ".join(f"'{name}' {count:,}" for count, name in ordered[:10])
    return shown + (", …" if len(ordered) > 10 else "")


def conditioning_of(
    columns: Sequence[NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and scale of numeric columns, each (q,), from some rows of each: means and 1 / deviations.

    They only condition the arithmetic, so a sample will do; a column that does not vary in it keeps scale 1.
    """
    centre, scale = np.zeros(len(columns)), np.ones(len(columns))
    for j, column in enumerate(columns):
        values = column.astype(np.float64)
        values = values[np.isfinite(values)]
        largest = float(np.abs(values).max(initial=0.0))
        if largest == 0.0:
            continue
        values /= largest  # so that no square overflows
        mean = float(values.mean())
        deviation = float(np.sqrt(np.mean((values - mean) ** 2)))
        centre[j] = mean * largest
        if deviation > 1e-14 * abs(mean):
            with np.errstate(over="ignore"):
                scale[j] = 1.0 / np.float64(deviation * largest)
    return centre, scale
