"""Profiling: what is learned of the data before Newton starts, and whether the design fits into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from streamlr.design.columns import is_number
from streamlr.design.design import Design, terms_with_limits
from streamlr.design.expressions import Call, Column, Constant, quoted
from streamlr.design.features import Feature, Reader, unwrapped
from streamlr.design.freeze import (
    Findings,
    Review,
    SeparationPolicy,
    cells_with_one_outcome,
    freeze,
    groupings_of,
    mergings,
    number_of,
    review,
    variables_of,
    without_columns,
)
from streamlr.design.layout import JOINT_CELLS
from streamlr.design.learning import LearningTask, Runner, ScaleLearner, learn, learn_means
from streamlr.design.profile import Aside, ProfileSums, ProfileTask
from streamlr.design.spec import Spec
from streamlr.design.terms import CellGrouping, Factor
from streamlr.errors import StreamlrError
from streamlr.passes.leaves import CELLS_A_ROW, MOST_SHARED
from streamlr.passes.memory import format_size, resident_bytes
from streamlr.passes.session import Session
from streamlr.sources.base import Source, held_rows

if TYPE_CHECKING:
    from streamlr.design.where import Where

# Resident size of a fresh process with everything imported and its kernels loaded, and some room.
OWN_SIZE = 178_000_000
# Pages, compressed and decompressed, of the columns that a thread decodes together.
DECODERS = 12_000_000
# What each column of a giant part takes while all of them are decoded side by side, whoever does it.
GIANT_BUFFERS = 4_000_000
# What a thread holds of the rows at hand, over their encoded size: codes twice, and allocators round.
DECODED = 1.25
# Sums of parts that wait for their neighbours while others are worked on.
WAITING = 3
# Share of the limit up to which blocks are kept; the rest is what allocators take beside it.
CEILING = 0.97
# Vectors of a number a level that Newton holds: coefficients, gradients, steps, metrics of two points.
VECTORS = 24
# What a level takes as text or number in the design and its index.
LEVEL_BYTES = 250
# Levels that a remark names before it counts the rest.
NAMED = 8


def named(source: Source) -> str:
    """The data in a message: the first of its files, and how many more."""
    more = len(source.origin) - 1
    return (
        source.origin[0] + (f" (and {more:,} more)" if more > 0 else "") if source.origin else "the dataset"
    )


def skipping(source: Source, where: Where) -> Source:
    """The source without the row groups that footers show to hold no row of the filter."""
    from streamlr.sources.parquet import ParquetSource

    return source.where(where.expression()) if isinstance(source, ParquetSource) else source


def leave_out_by_metadata(source: Source, spec: Spec) -> Spec:
    """Leave out unnamed columns that metadata show to be all null or constant."""
    reasons = {}
    for place, feature in enumerate(spec.features):
        if feature.named:
            continue
        told = source.statistics(feature.column)
        if source.rows is not None and source.rows > 0 and told.null_count == source.rows:
            reasons[place] = "all null"
        elif told.low is not None and told.low == told.high and told.low == told.low:
            reasons[place] = f"constant ({told.low})"
    return without_columns(spec, reasons) if reasons else spec


def features_to_profile(source: Source, spec: Spec) -> tuple[Feature, ...]:
    """Factors, and the numbers that may be missing: levels count only in rows that are used.

    Where gaps are filled, footers do not tell enough: they count nulls, and NaN is a gap as well.
    """

    def may_have_gaps(name: str) -> bool:
        nan = spec.keeps_gaps and pa.types.is_floating(spec.types[name])
        return nan or source.statistics(name).null_count != 0

    return tuple(
        feature
        for feature in spec.features
        if feature.categorical or any(may_have_gaps(name) for name in feature.columns)
    )


def _filled_columns(source: Source, spec: Spec) -> list[str]:
    """Columns whose gaps are filled: for "indicator" those of numeric variables that may have any.

    A value given fills every gap, those of rows to come as well, except where a column is a factor itself.
    """
    told = spec.fill is not None
    return sorted(
        {
            name
            for feature in spec.features
            if not feature.categorical or (told and not isinstance(unwrapped(feature.expression), Column))
            for name in feature.columns
            if is_number(spec.types[name])
            and (told or pa.types.is_floating(spec.types[name]) or source.statistics(name).null_count != 0)
        }
    )


def reader_of(spec: Spec, source: Source, run: Runner) -> Reader:
    """How batches are read: with what stands for gaps, and what functions have learned from all rows."""

    def columns_for(names: Sequence[str]) -> tuple[str, ...]:
        where = spec.where.columns if spec.where is not None else ()
        return tuple(dict.fromkeys((*where, *names)))

    if not source.parts:
        raise no_rows(source, spec)
    reader = Reader(spec.where)
    filled = _filled_columns(source, spec)
    if spec.missing == "indicator" and filled:
        reader = replace(reader, fills=learn_means(filled, reader, columns_for, run))
    elif spec.fill is not None and (number := number_of(spec.fill)) is not None:
        reader = replace(reader, fills=dict.fromkeys(filled, number))
    try:
        return learn([feature.expression for feature in spec.features], reader, columns_for, run)
    except StreamlrError:
        if spec.where is None or _keeps_rows(spec.where, reader, run):
            raise
        raise no_rows(source, spec) from None


def _keeps_rows(where: Where, reader: Reader, run: Runner) -> bool:
    """Whether the filter keeps any row."""
    one, counter = Constant(1), ScaleLearner("rows", with_deviation=False)
    task = LearningTask(reader, where.columns, {"rows": one}, {"rows": counter})
    return bool(run(task)["rows"].count)


def no_rows(source: Source, spec: Spec) -> StreamlrError:
    """The error that there is nothing to fit."""
    kept = " that --where keeps" if spec.where is not None else ""
    return StreamlrError(f"{named(source)} has no rows{kept} (0 rows).")


def profile_and_freeze(
    session: Session,
    spec: Spec,
    features: Sequence[Feature],
    reader: Reader,
    separation: SeparationPolicy | Literal["keep"],
) -> tuple[Spec, ProfileSums, Design]:
    """Profile until nothing more has to be left out or set aside, then freeze.

    `features`: those to look at. All are, where those leave a fault that rows not used could explain.
    `separation`: "keep" sets no level and no cell aside.
    """
    if not session.source.parts:
        raise no_rows(session.source, spec)
    wanted = set(features)
    findings = Findings()
    groupings: dict[str, CellGrouping] = {}
    rows_without_say = 0
    while True:
        looked_at = tuple(feature for feature in spec.features if feature in wanted)
        profile = session.run(
            session.source.parts,
            _task(spec, reader, looked_at, findings, groupings),
            ProfileSums.merge,
            "profile",
        )
        if profile.rows_read == 0:
            raise no_rows(session.source, spec)
        if not findings.merging:
            findings = replace(findings, merging=mergings(spec, profile))
        try:
            found: Review = review(spec, profile, findings)
        except StreamlrError:
            if len(looked_at) == len(spec.features):
                raise
            wanted = set(spec.features)  # columns not read yet may drop the rows that are at fault
            continue
        if separation == "keep":
            found = replace(found, set_aside={})
        if found:
            if spec.absorbed in found.set_aside:
                rows_without_say += profile.factors[spec.absorbed].rows_with_one_outcome
            spec = without_columns(spec, found.exclude)
            findings = findings.with_levels(found.set_aside)
            continue
        indicators = _indicators(spec, profile)
        if indicators:
            for feature in indicators:
                spec = spec.with_term(feature)
            wanted.update(indicators)
            findings = replace(findings, merging={})
            continue
        variables = variables_of(spec, profile, reader, findings)
        if groupings != (groupings := groupings_of(spec, variables)):
            continue
        cells = cells_with_one_outcome(spec, profile, groupings)
        if not cells or separation == "keep":
            break
        findings = findings.with_cells(cells, groupings)
    if spec.missing == "indicator":  # what had no gaps has no indicator to tell of them later
        reader = replace(reader, fills={name: f for name, f in reader.fills.items() if profile.filled[name]})
    design = freeze(spec, profile, reader, variables, groupings, findings)
    _remark(session, spec, profile, design)
    if design.absorbed is not None:
        pa.default_memory_pool().release_unused()  # passes plan with what is resident
        _ = design.absorbed.index  # built before threads ask for it, each of which would build its own
        _remark_on_absorbed(session, design, design.absorbed, rows_without_say, profile.rows_used)
    return spec, profile, design


def _task(
    spec: Spec,
    reader: Reader,
    features: tuple[Feature, ...],
    findings: Findings,
    groupings: Mapping[str, CellGrouping],
) -> ProfileTask:
    return ProfileTask(
        spec=spec,
        reader=reader,
        features=features,
        set_aside={
            feature.name: Aside(frozenset(findings.set_aside[feature.name]), findings.merging_of(feature))
            for feature in features
            if feature.name in findings.set_aside
        },
        groupings=groupings,
        cells_aside={
            name: frozenset(grouping.cells_of(findings.cells_aside[name]))
            for name, grouping in groupings.items()
            if name in findings.cells_aside
        },
    )


def _indicators(spec: Spec, profile: ProfileSums) -> list[Feature]:
    """A 0/1 variable for each number that was filled with its mean somewhere, where it is not there yet."""
    if spec.missing != "indicator":
        return []
    names = {feature.name for feature in spec.features}
    found = []
    for column, count in profile.filled.items():
        name = f"isnull({quoted(column)})"
        if count and name not in names and name not in spec.excluded:
            found.append(Feature(Call("isnull", (Column(column),)), name, categorical=True, named=False))
    return found


def _remark(session: Session, spec: Spec, profile: ProfileSums, design: Design) -> None:
    """Say what was left out, set aside and filled."""
    for column, reason in spec.excluded.items():
        session.remark(f"left out: {column} ({reason})")
    for column, count in profile.filled.items():
        if count:
            session.remark(f"filled: {column} with {design.reader.fills[column]:g} in {count:,} rows")
    aside: dict[str, list[str]] = {}
    for name in terms_with_limits(design):
        aside.setdefault(name.partition("[")[0], []).append(name)
    for names in aside.values():
        shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
        session.remark(f"set aside, because all their rows have one outcome: {shown}")


def _remark_on_absorbed(
    session: Session, design: Design, factor: Factor, rows_without_say: int, rows_used: int
) -> None:
    """What absorbing the effects of a factor has left out, and what it costs (Lancaster 2000, The incidental
    parameter problem since 1948, Journal of Econometrics 95, 391-413)."""
    if factor.set_aside:
        session.remark(
            f"remark: {len(factor.set_aside):,} levels of '{factor.name}' have one outcome only; their "
            f"{rows_without_say:,} rows say nothing about the other terms and are left out"
        )
    if not design.absorb_l2:
        session.remark(
            f"remark: the effects of {len(factor.levels):,} levels of '{factor.name}' are estimated from "
            f"{rows_used / len(factor.levels):.3g} rows each on average; with few rows a level, estimates of "
            "the other terms are biased by a share of order 1 / (rows a level)"
        )


@dataclass(frozen=True)
class MemoryPlan:
    """How a limit on the resident size is spent: worker threads, and bytes left for kept blocks."""

    threads: int
    cache: int
    ceiling: int


def plan_memory(design: Design, source: Source, threads: int, limit: int) -> MemoryPlan:
    """As many threads as fit into the limit, and kept blocks in what is left.

    Raises `StreamlrError` with the arithmetic where one thread does not fit.
    """
    layout = design.layout
    k, levels = layout.own_columns, 0
    if layout.absorbed:
        levels = layout.levels[-1]
    hessian = 8 * k * k
    border = 8 * k * levels
    # That of the estimate at hand, that of the next, its factor, and one in the making: four matrices at the
    # widest moment. Of the border, which is never factored, two.
    algebra = 4 * hessian + 2 * border + VECTORS * 8 * levels + LEVEL_BYTES * levels
    tables = 8 * layout.cells
    tile = 8 * (layout.padded + layout.scaled) * layout.tile_rows
    tile += 8 * (2 * JOINT_CELLS if layout.joints else 0)  # tables of pairs of groups, and lines of all
    waiting = WAITING
    if layout.absorbed:
        tables += 8 * layout.slots  # the gradient counts as well
        leaves = max(MOST_SHARED, (source.rows or 0) * CELLS_A_ROW // layout.cells)
        waiting = max(WAITING, min(leaves, len(source.parts)).bit_length())
    held = max(held_rows(part, design.columns, design.batch_rows) for part in source.parts)
    decoding = int(DECODED * held * design.row_bytes) + DECODERS
    giant = any(getattr(part, "giant", False) for part in source.parts)
    shared = GIANT_BUFFERS * len(design.columns) if giant else 0
    fixed = OWN_SIZE + algebra + waiting * tables + shared
    each = tables + tile + decoding
    if fixed + each > limit:
        terms = sorted(
            (factor for factor in design.factors if not factor.absorbed),
            key=lambda factor: -len(factor.column_names),
        )
        advice = (
            f" Widest term: {terms[0].name} ({len(terms[0].column_names):,} levels). "
            f"Drop it with --exclude {design.column_of(terms[0])}."
            if terms and len(terms[0].column_names) > k // 4
            else ""
        )
        raise StreamlrError(
            f"the design has {k:,} columns "
            + (f"beside {levels:,} absorbed levels " if levels else "")
            + f"and needs {format_size(hessian + border)} for its Hessian. With the copies "
            f"that sums and factorisation take ({format_size(algebra + (waiting + 1) * tables)}), a thread "
            f"that decodes ({format_size(tile + decoding + shared)}) and the program itself "
            f"({format_size(OWN_SIZE)}) "
            f"that makes {format_size(fixed + each)}, above --memory {format_size(limit)}.{advice}"
        )
    affordable = min(threads, (limit - fixed) // each)
    return MemoryPlan(
        threads=affordable,
        cache=limit - max(resident_bytes(), OWN_SIZE) - (fixed - OWN_SIZE) - affordable * each,
        ceiling=int(limit * CEILING) - algebra - shared,
    )
