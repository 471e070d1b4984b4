"""From a profile to a frozen design: faults named, levels sorted, columns that cannot be used left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.columns import Level, find_level, is_number, sorted_levels, stored_width
from streamlr.design.design import Design
from streamlr.design.expressions import Call, Column
from streamlr.design.features import Feature, Reader, unwrapped
from streamlr.design.functions import options_of
from streamlr.design.levels import FIRST, SECOND
from streamlr.design.profile import (
    MAXIMUM_OUTCOMES,
    NOT_MERGED,
    CellCounts,
    Merging,
    ProfileSums,
    numbered,
)
from streamlr.design.spec import Spec
from streamlr.design.terms import CellGrouping, Cells, Factor, Number, Term, Variable, digits_of
from streamlr.design.values import level_order, states_columns
from streamlr.errors import SeparationError, StreamlrError, did_you_mean, remedies

# Cells are numbered by int64.
MOST_CELLS = 1 << 62

SeparationPolicy = Literal["levels", "drop", "error"]


@dataclass(frozen=True)
class Review:
    """What a profile asks for before it can be frozen: variables to leave out (by place), with the reason;
    levels to set aside, by the name of the factor."""

    exclude: dict[int, str] = field(default_factory=dict)
    set_aside: dict[str, dict[Level, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.exclude or self.set_aside)


@dataclass(frozen=True)
class Findings:
    """What profiles have led to so far: levels and cells set aside, with the outcome they always had, and how
    the values of each factor are merged to levels, all by name.

    `in_cells`: the factors that the cells of a term are made of, by the name of the term.
    """

    set_aside: Mapping[str, Mapping[Level, int]] = field(default_factory=dict)
    cells_aside: Mapping[str, Mapping[tuple[Level, ...], int]] = field(default_factory=dict)
    in_cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    merging: Mapping[str, Merging] = field(default_factory=dict)

    def with_levels(self, levels: Mapping[str, Mapping[Level, int]]) -> Findings:
        """More levels set aside."""
        names = [*self.set_aside, *levels]
        merged = {name: {**self.set_aside.get(name, {}), **levels.get(name, {})} for name in names}
        return replace(self, set_aside=merged)

    def with_cells(
        self, cells: Mapping[str, Mapping[int, int]], groupings: Mapping[str, CellGrouping]
    ) -> Findings:
        """More cells set aside, by their numbers in the groupings at hand."""
        merged = {name: dict(known) for name, known in self.cells_aside.items()}
        for name, found in cells.items():
            for cell, outcome in found.items():
                merged.setdefault(name, {})[groupings[name].levels_of(cell)] = outcome
        factors = {**self.in_cells, **{name: groupings[name].names for name in cells}}
        return replace(self, cells_aside=merged, in_cells=factors)

    def cells_with(self, factors: Sequence[str]) -> dict[tuple[Level, ...], int]:
        """The cells set aside in any term in which just these factors meet, levels in their order."""
        found = {}
        for name, own in self.in_cells.items():
            if sorted(own) == sorted(factors):
                places = [own.index(factor) for factor in factors]
                for cell, outcome in self.cells_aside[name].items():
                    found[tuple(cell[place] for place in places)] = outcome
        return found

    def levels_in_cells(self, factor: str) -> frozenset[Level]:
        """Levels of a factor with a cell set aside: they stay levels, because their cells are told by them,
        even where no row of them is left."""
        return frozenset(
            cell[factors.index(factor)]
            for name, factors in self.in_cells.items()
            if factor in factors
            for cell in self.cells_aside[name]
        )

    def merging_of(self, feature: Feature) -> Merging:
        """How the values of a factor are merged."""
        return self.merging.get(feature.name, NOT_MERGED)

    def levels(self, feature: Feature, profile: ProfileSums) -> dict[Level, NDArray[np.float64]] | None:
        """Counts of the levels of a factor, None where there are too many."""
        counts = profile.factors[feature.name].counts
        return None if counts is None else self.merging_of(feature).merged(counts)


def mergings(spec: Spec, profile: ProfileSums) -> dict[str, Merging]:
    """How values of each factor become levels: rare ones of a `lump` together, missing ones as a level."""
    found = {}
    for feature in spec.features:
        if not feature.categorical or feature.absorbed:
            continue
        counts = profile.factors[feature.name].counts or {}
        values = {value: float(count[0]) for value, count in counts.items() if value is not None}
        kept = None
        if isinstance(feature.expression, Call) and feature.expression.function == "lump":
            kept = _frequent(values, options_of(feature.expression))
        missing = None
        if spec.keeps_gaps:
            missing = _missing_level(spec, values)
        found[feature.name] = Merging(kept=kept, missing=missing)
    return found


def _frequent(values: Mapping[Level, float], options: Mapping[str, Any]) -> frozenset[Level]:
    """The values that `lump` leaves alone: of `min` rows at least, or the `top` ones, ties in order."""
    if options.get("min") is not None:
        return frozenset(value for value, rows in values.items() if rows >= options["min"])
    ordered = sorted(sorted_levels(values), key=lambda value: -values[value])
    return frozenset(ordered[: options["top"]])


def _missing_level(spec: Spec, values: Mapping[Level, float]) -> Level:
    """The level of rows without a value: "missing", or the value that is filled in."""
    if spec.fill is None:
        return "missing" if "missing" not in values else "(missing)"
    known = find_level(spec.fill, list(values))
    if known is not None:
        return known
    number = number_of(spec.fill)
    if number is None or not any(type(value) in (int, float) for value in values):
        return spec.fill
    return int(number) if number.is_integer() and all(type(value) is int for value in values) else number


def number_of(text: str) -> float | None:
    """The finite number that a text is, if it is one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def review(spec: Spec, profile: ProfileSums, findings: Findings) -> Review:
    """Raise the first fault a profile shows, or say what must change before the next profile."""
    set_aside = findings.set_aside
    if spec.missing == "error" and profile.missing:
        counts = _counts(profile.missing)
        raise StreamlrError(f"missing values: {counts}. Fill them, or drop their rows with --missing drop.")
    if profile.missing[spec.target] == profile.rows_read:
        raise StreamlrError(f"the target '{spec.target}' is all null ({profile.rows_read:,} rows).")
    _check_weights(spec, profile)
    _check_fill(spec, profile)
    for feature in spec.features:
        if feature.named and _is_all_null(feature, profile):
            if feature.column in spec.types and not isinstance(feature.expression, Call):
                raise StreamlrError(
                    f"column '{feature.column}' is all null ({profile.rows_read:,} rows); it cannot be a "
                    f"feature. Leave it out with --exclude {feature.column}."
                )
            raise StreamlrError(
                f"{feature.name} has a value in none of the {profile.rows_read:,} rows. Check its levels, "
                "its breaks, or what it is calculated from."
            )
    exclude = {
        place: reason
        for place, feature in enumerate(spec.features)
        if not feature.named
        and feature.name not in set_aside
        and (reason := why_left_out(feature, profile, findings)) is not None
    }
    if exclude:
        return Review(exclude)
    if profile.rows_used == 0 and profile.rows_set_aside == 0:
        raise StreamlrError(
            f"no rows are left: all {profile.rows_read:,} have a missing value ({_counts(profile.missing)})."
        )
    if (set_aside or findings.cells_aside) and (
        profile.rows_used == 0 or (spec.trials is None and len(profile.outcomes) < 2)
    ):
        raise complete_by_levels(spec, profile, findings)
    if spec.weights is not None and not any(profile.outcome_weight.values()) and spec.trials is None:
        raise StreamlrError(f"the weight '{spec.weights}' is zero in all {profile.rows_used:,} rows used.")
    _check_infinite(spec, profile)
    _check_levels(spec, profile, findings)
    positive = None
    if spec.trials is None:
        positive, _ = outcome_levels(spec, profile)
    else:
        _check_counts(spec, profile)
    return Review(set_aside=_single_outcome_levels(spec, profile, findings, positive))


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


def _check_fill(spec: Spec, profile: ProfileSums) -> None:
    if spec.fill is None or number_of(spec.fill) is not None:
        return
    for feature in spec.features:
        for name in feature.columns:
            if not feature.categorical and is_number(spec.types[name]) and profile.missing[name]:
                raise StreamlrError(
                    f"column '{name}' holds numbers and has {profile.missing[name]:,} missing values, which "
                    f"'{spec.fill}' cannot fill: it is no number. Fill them with a number, or with "
                    "--missing indicator."
                )


def _is_all_null(feature: Feature, profile: ProfileSums) -> bool:
    return profile.rows_read in (profile.missing[feature.column], profile.filled[feature.column])


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


def _check_infinite(spec: Spec, profile: ProfileSums) -> None:
    for name, count in profile.infinite.items():
        if not count:
            continue
        what = f"column '{name}'" if name in spec.types else f"'{name}'"
        advice = (
            "Replace them or leave the column out."
            if name in spec.types
            else "Leave those rows out with --where, or use a function that is finite there."
        )
        raise StreamlrError(f"{what} has {count:,} infinite value{'' if count == 1 else 's'}. {advice}")


def _check_levels(spec: Spec, profile: ProfileSums, findings: Findings) -> None:
    for feature in spec.features:
        reason = why_left_out(feature, profile, findings)
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


def why_left_out(feature: Feature, profile: ProfileSums, findings: Findings) -> str | None:
    """Why a variable makes no term of its own accord; None where it does."""
    if _is_all_null(feature, profile):
        return "all null"
    if profile.rows_used == 0:
        return None
    if not feature.categorical:
        low, high = profile.ranges.get(feature.column, (0.0, 1.0))
        return f"constant ({low:g})" if low == high else None
    counted = profile.factors[feature.name]
    if counted.too_many:
        return f"more than {counted.limit:,} levels"
    levels: Sequence[Level] = (
        counted.levels if feature.absorbed else list(findings.levels(feature, profile) or ())
    )
    if len(levels) == 1:
        return f"constant ({levels[0]})"
    if len(levels) == profile.rows_used and len(levels) > 2:
        return f"one level per row ({len(levels):,} levels in {profile.rows_used:,} rows)"
    return None


def _always(counts: NDArray[np.float64], first_is_positive: bool) -> int | None:
    """The outcome of a level that has only one, None where it has both or no weight."""
    if (counts[FIRST] > 0) == (counts[SECOND] > 0):
        return None
    return int((counts[FIRST] > 0) == first_is_positive)


def _first_is_positive(spec: Spec, profile: ProfileSums, positive: Level | None) -> bool:
    return spec.trials is not None or next(iter(profile.outcomes)) == positive


def _single_outcome_levels(
    spec: Spec, profile: ProfileSums, findings: Findings, positive: Level | None
) -> dict[str, dict[Level, int]]:
    """Levels whose rows have one outcome only, with that outcome: the coefficient would be infinite.

    Where a factor is only in terms with numbers, its levels have slopes and no coefficient of their own. Of a
    level with a cell set aside the other cells are, one by one: that cell may have the other outcome.
    """
    first_is_positive = _first_is_positive(spec, profile, positive)
    found: dict[str, dict[Level, int]] = {}
    spanned = {
        place for term in spec.terms if all(spec.features[p].categorical for p in term) for place in term
    }
    for place in sorted(spanned):
        feature = spec.features[place]
        if feature.absorbed:
            # A ridge keeps every effect finite.
            single = {} if spec.absorb_l2 else profile.factors[feature.name].single_outcome(first_is_positive)
            if single:
                found[feature.name] = single
            continue
        in_cells = findings.levels_in_cells(feature.name)
        for level, counts in (findings.levels(feature, profile) or {}).items():
            outcome = _always(counts, first_is_positive)
            if outcome is not None and level not in in_cells:
                found.setdefault(feature.name, {})[level] = outcome
    return found


def complete_by_levels(spec: Spec, profile: ProfileSums, findings: Findings) -> SeparationError:
    """The finding that levels set aside leave no rows, or rows of one outcome, which an intercept separates.

    Columns of levels that are set aside add up with others to an intercept, so that there is one.
    """
    single = [
        (f"{feature.name}[T.{level}]", outcome)
        for feature in spec.features
        for level, outcome in sorted(
            findings.set_aside.get(feature.name, {}).items(), key=lambda item: str(item[0])
        )
    ]
    single += [
        (
            ":".join(
                f"{factor}[T.{level}]" for factor, level in zip(findings.in_cells[name], cell, strict=True)
            ),
            outcome,
        )
        for name, cells in findings.cells_aside.items()
        for cell, outcome in cells.items()
    ]
    terms = [
        # Another direction may move a level the other way: no row has been asked.
        {"term": name, "direction": sign, "value": float(sign), "sign_fixed": None}
        for name, sign in ((name, 1 if outcome else -1) for name, outcome in single)
    ]
    named = ", ".join(name for name, _ in single[:10]) + (", …" if len(single) > 10 else "")
    advice = remedies(None)
    return SeparationError(
        f"no finite maximum-likelihood estimate: every row of {named} has one outcome only, and no row is "
        f"left to fit. {' '.join(advice)}",
        {
            "kind": "complete",
            "terms": terms,
            "rows_separated": profile.rows_used + profile.rows_set_aside,
            "rows_overlapping": 0,
            "rows_set_aside": 0,
            "advice": advice,
        },
    )


def variables_of(
    spec: Spec, profile: ProfileSums, reader: Reader, findings: Findings
) -> tuple[Variable, ...]:
    """The variables of a reviewed profile, frozen."""
    return tuple(
        _factor(spec, feature, profile, reader, findings)
        if feature.categorical
        else Number(feature, _suffixes(feature, reader), _width(feature, spec.types))
        for feature in spec.features
    )


def groupings_of(spec: Spec, variables: Sequence[Variable]) -> dict[str, CellGrouping]:
    """How the cells of each term in which several factors meet are counted, by the name of the term."""
    full = full_coding(spec)
    found = {}
    for term, coded in zip(spec.terms, full, strict=True):
        met = [
            variables[place]
            for place, whole in zip(term, coded, strict=True)
            if _is_met(variables[place], whole)
        ]
        factors = tuple(variable for variable in met if isinstance(variable, Factor))
        cells = math.prod(len(factor.all_levels) for factor in factors)
        if len(factors) > 1 and cells > MOST_CELLS:
            raise StreamlrError(
                f"{_term_name(spec, term)} has {cells:.1e} cells, too many to tell apart. Lump rare levels."
            )
        if len(factors) > 1:
            found[_term_name(spec, term)] = CellGrouping(factors)
    return found


def cells_with_one_outcome(
    spec: Spec, profile: ProfileSums, groupings: Mapping[str, CellGrouping]
) -> dict[str, dict[int, int]]:
    """Cells whose rows have one outcome only, with that outcome, by the name of the term.

    Only of terms without numbers: those have a coefficient for each cell.
    """
    for name, counted in profile.cells.items():
        if counted.too_many:
            raise StreamlrError(
                f"{name} has more than {counted.limit:,} cells with rows in them. Lump rare levels, or "
                "absorb one of its factors with --absorb instead."
            )
    positive = None if spec.trials is not None else outcome_levels(spec, profile)[0]
    first_is_positive = _first_is_positive(spec, profile, positive)
    found: dict[str, dict[int, int]] = {}
    for term in spec.terms:
        name = _term_name(spec, term)
        if name not in groupings or not all(spec.features[place].categorical for place in term):
            continue
        counted = profile.cells.get(name, CellCounts())
        for cell, counts in zip(counted.keys.tolist(), counted.counts, strict=True):
            outcome = _always(counts, first_is_positive)
            if outcome is not None:
                found.setdefault(name, {})[cell] = outcome
    return found


def freeze(
    spec: Spec,
    profile: ProfileSums,
    reader: Reader,
    variables: tuple[Variable, ...],
    groupings: Mapping[str, CellGrouping],
    findings: Findings,
) -> Design:
    """The design that a reviewed profile leads to."""
    positive, negative = (None, None) if spec.trials is not None else outcome_levels(spec, profile)
    terms = []
    for term, full in zip(spec.terms, full_coding(spec), strict=True):
        name = _term_name(spec, term)
        cells = None
        if name in groupings:
            aside = groupings[name].cells_of(findings.cells_with(groupings[name].names))
            cells = Cells(tuple(profile.cells[name].keys.tolist()), tuple(sorted(aside.items())))
        terms.append(Term(term, full, cells))
    return Design(
        target=spec.target,
        positive=positive,
        negative=negative,
        intercept=spec.intercept,
        variables=variables,
        terms=tuple(terms),
        reader=reader,
        weights=spec.weights,
        weight_type=spec.weight_type,
        offset=spec.offset,
        trials=spec.trials,
        clusters=spec.clusters,
        missing=spec.missing,
        absorb_l2=spec.absorb_l2,
    )


def width_of(
    spec: Spec, profile: ProfileSums, variables: Sequence[Variable], groupings: Mapping[str, CellGrouping]
) -> int:
    """Columns of the design that a profile leads to, absorbed levels left out."""
    width = int(spec.intercept)
    for term, full in zip(spec.terms, full_coding(spec), strict=True):
        if spec.features[term[0]].absorbed:
            continue
        columns = 1
        name = _term_name(spec, term)
        for place, whole in zip(term, full, strict=True):
            variable = variables[place]
            if isinstance(variable, Number):
                columns *= len(variable.suffixes)
            elif name not in groupings or not _is_met(variable, whole):
                columns *= len(variable.levels) + int(whole)
        width += columns * (len(profile.cells[name].keys) if name in profile.cells else 1)
    return width


def full_coding(spec: Spec) -> list[tuple[bool, ...]]:
    """For each term, which of its variables are factors coded by all their levels.

    R's rule: a factor needs all its levels where what is left of the term without it is in no earlier term
    (Chambers and Hastie 1992, Statistical Models in S, section 2.4.1); without an intercept the first factor
    of all does as well.
    """
    found: list[tuple[bool, ...]] = []
    sets = [frozenset(term) for term in spec.terms]
    # Absorbed effects that nothing holds back are a full coding already.
    lacking = not (spec.intercept or (spec.absorbed and not spec.absorb_l2))
    for at, term in enumerate(spec.terms):
        codes = []
        for place in term:
            if not spec.features[place].categorical or spec.features[place].absorbed:
                codes.append(False)
                continue
            rest = sets[at] - {place}
            full = bool(rest) and not any(rest <= earlier for earlier in sets[:at])
            codes.append(full or lacking)
            lacking = False
        found.append(tuple(codes))
    return found


def empty_cells(design: Design, most: int) -> list[str]:
    """Names of the columns of cells that no used row is in, up to a number of them."""
    found: list[str] = []
    for factor in design.factors:
        meeting = factor.meeting
        if meeting.cells is None:
            continue
        known = {*meeting.cells.seen, *(cell for cell, _ in meeting.cells.set_aside)}
        radix = design.radix(meeting)
        for cell in range(math.prod(radix)):
            if len(found) >= most:
                return found
            digits = digits_of(cell, radix)
            if cell not in known and all(d or full for d, full in zip(digits, meeting.full, strict=True)):
                found.append(design.cell_name(factor, cell))
    return found


def _is_met(variable: Variable, full: bool) -> bool:
    """Whether a variable of a term is a factor that meets the others of the term in cells."""
    return isinstance(variable, Factor) and (full or variable.coding == "treatment")


def _term_name(spec: Spec, term: Sequence[int]) -> str:
    return ":".join(spec.features[place].name for place in term)


def _suffixes(feature: Feature, reader: Reader) -> tuple[str, ...]:
    count = states_columns(feature.expression, reader.states)
    return ("",) if count is None else tuple(numbered("", count))


def _width(feature: Feature, types: Mapping[str, pa.DataType]) -> int:
    expression = feature.expression
    return stored_width(types[expression.name]) if isinstance(expression, Column) else 8


def _factor(spec: Spec, feature: Feature, profile: ProfileSums, reader: Reader, findings: Findings) -> Factor:
    merging = findings.merging_of(feature)
    set_aside = _set_aside_of(spec, feature, findings)
    if feature.absorbed:
        known = sorted_levels(dict.fromkeys(profile.factors[feature.name].levels))
        aside = tuple((level, set_aside[level]) for level in sorted_levels(set_aside))
        return Factor(feature, tuple(known), None, aside)
    order = level_order(feature.expression, reader.states)
    filled = spec.fill is not None
    with_rows = findings.levels(feature, profile) or {}
    kept = {*with_rows, *(findings.levels_in_cells(feature.name) - set(set_aside))}
    levels = ordered_levels(dict.fromkeys(kept), merging, order, filled)
    options = {}
    if isinstance(feature.expression, Call) and feature.expression.function == "C":
        options = options_of(feature.expression)
    wanted = _wanted_reference(spec, feature, options)
    reference: Level = next(level for level in levels if level in with_rows)
    if wanted is not None:
        found = find_level(wanted, levels)
        if found is None:
            if find_level(wanted, set_aside) is not None:
                raise StreamlrError(
                    f"the reference level '{wanted}' of '{feature.column}' goes with one outcome only and is "
                    "set aside. Choose another."
                )
            if find_level(wanted, profile.factors[feature.name].levels) is not None:
                raise StreamlrError(
                    f"{feature.name} lumps the level '{wanted}' of '{feature.column}' with others."
                )
            hint = did_you_mean(str(wanted), [str(level) for level in levels])
            raise StreamlrError(f"column '{feature.column}' has no level '{wanted}'.{hint}")
        reference = found
    passed_over = {merging.level(value) for value in profile.factors[feature.name].passed_over}
    unused = {level for level in passed_over if level is not None} - set(levels) - set(set_aside)
    return Factor(
        feature=feature,
        levels=tuple(level for level in levels if level != reference),
        reference=reference,
        set_aside=tuple(
            (level, set_aside[level]) for level in ordered_levels(set_aside, merging, order, filled)
        ),
        unused=tuple(ordered_levels(dict.fromkeys(unused), merging, order, filled)),
        coding=options.get("coding", "treatment") if len(levels) > 1 else "treatment",
        merging=merging,
    )


def _set_aside_of(spec: Spec, feature: Feature, findings: Findings) -> dict[Level, int]:
    """The levels of a factor that are set aside, in it or in another coding of the same values."""
    found: dict[Level, int] = {}
    for other in spec.features:
        same = other.categorical and unwrapped(other.expression) == unwrapped(feature.expression)
        if same and findings.merging_of(other) == findings.merging_of(feature):
            found.update(findings.set_aside.get(other.name, {}))
    return found


def _wanted_reference(spec: Spec, feature: Feature, options: Mapping[str, Any]) -> Any:
    """The reference level that the formula or an option asks for, None where neither does."""
    written, given = options.get("reference"), spec.reference.get(feature.column)
    if written is not None and given is not None and str(written) != str(given):
        raise StreamlrError(
            f"{feature.name} asks for the reference level '{written}' and the option for '{given}'. Give one."
        )
    wanted = given if written is None else written
    if wanted is not None and options.get("coding") == "poly":
        raise StreamlrError(f"{feature.name} is coded by the order of its levels and has no reference level.")
    return wanted


def ordered_levels(
    levels: Mapping[Level, Any], merging: Merging, order: Sequence[Any] | None, filled: bool
) -> list[Level]:
    """Levels as they are written in the model: sorted, or in the order that the expression sets; values that
    were merged before them, the missing ones behind. `filled`: missing ones are a value like the others."""
    first = [merging.other] if merging.kept is not None and merging.other in levels else []
    last = [merging.missing] if merging.missing is not None and merging.missing in levels else []
    if filled and last and len({isinstance(level, str) for level in levels if level not in first}) == 1:
        last = []
    own = [level for level in levels if level not in (*first, *last)]
    if order is None:
        return [*first, *sorted_levels(own), *last]
    places = {find_level(wanted, own): place for place, wanted in enumerate(order)}
    return [*first, *sorted(own, key=lambda level: places.get(level, len(places))), *last]


def without_columns(spec: Spec, reasons: Mapping[int, str]) -> Spec:
    """The spec with some unnamed variables left out."""
    named = {spec.features[place].column: reason for place, reason in reasons.items()}
    kept = spec.without(set(reasons), named)
    if not kept.features and spec.features and spec.intercept and not any(f.named for f in spec.features):
        listed = "; ".join(f"{column}: {reason}" for column, reason in kept.excluded.items())
        raise StreamlrError(f"no feature is left ({listed}).")
    return kept


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
