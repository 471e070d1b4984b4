"""Profiling: what is learned of the data before Newton starts, and whether the design fits into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from streamlr.design.columns import Level
from streamlr.design.design import Design, Factor
from streamlr.design.freeze import (
    Review,
    SeparationPolicy,
    freeze,
    review,
    separation_by_levels,
    without_columns,
)
from streamlr.design.profile import ProfileSums, ProfileTask
from streamlr.design.spec import Spec
from streamlr.errors import StreamlrError
from streamlr.passes.leaves import CELLS_A_ROW, MOST_SHARED
from streamlr.passes.memory import format_size, resident_bytes
from streamlr.passes.session import Session
from streamlr.sources.base import Source, held_rows

# Resident size of a fresh process with everything imported and compiled.
OWN_SIZE = 250_000_000
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


def columns_to_profile(source: Source, spec: Spec) -> tuple[str, ...]:
    """Roles, factors, and the numbers that may be null: levels count only in rows that are used."""
    wanted = {name for name in (spec.target, spec.weights, spec.offset, spec.trials) if name is not None}
    for feature in spec.features:
        if feature.categorical or source.statistics(feature.column).null_count != 0:
            wanted.add(feature.column)
    return tuple(name for name in spec.columns if name in wanted)


def profile_and_freeze(
    session: Session, spec: Spec, columns: Sequence[str], separation: SeparationPolicy
) -> tuple[Spec, ProfileSums, Design]:
    """Profile until nothing more has to be left out or set aside, then freeze."""
    set_aside: dict[str, dict[Level, int]] = {}
    rows_without_say = 0
    if not session.source.parts:
        raise StreamlrError(f"{named(session.source)} has no rows (0 rows).")
    while True:
        columns = tuple(name for name in columns if name in spec.columns)
        task = ProfileTask(
            spec=spec,
            columns=columns,
            factors=tuple(f.column for f in spec.features if f.categorical),
            set_aside={column: frozenset(levels) for column, levels in set_aside.items()},
        )
        profile = session.run(session.source.parts, task, ProfileSums.merge, "profile")
        if profile.rows_read == 0:
            raise StreamlrError(f"{named(session.source)} has no rows (0 rows).")
        try:
            found: Review = review(spec, profile, set_aside)
        except StreamlrError:
            if set(columns) == set(spec.columns):
                raise
            columns = spec.columns  # columns not read yet may drop the rows that are at fault
            continue
        if not found:
            break
        spec = without_columns(spec, found.exclude)
        for column, levels in found.set_aside.items():
            set_aside.setdefault(column, {}).update(levels)
            if column == spec.absorbed:
                rows_without_say += profile.factors[column].rows_with_one_outcome
    if set_aside and separation == "error":
        raise separation_by_levels(spec, profile, set_aside)
    for column, reason in spec.excluded.items():
        session.remark(f"left out: {column} ({reason})")
    design = freeze(spec, profile, set_aside)
    if design.absorbed is not None:
        pa.default_memory_pool().release_unused()  # passes plan with what is resident
        _ = design.absorbed.index  # built before threads ask for it, each of which would build its own
        _remark_on_absorbed(session, design, design.absorbed, rows_without_say, profile.rows_used)
    for factor in design.factors:
        if factor.set_aside and not factor.absorbed:
            names = [factor.level_name(level) for level, _ in factor.set_aside]
            shown = ", ".join(names[:NAMED]) + (
                f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            )
            session.remark(f"set aside, because all their rows have one outcome: {shown}")
    return spec, profile, design


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
    k, slots, levels = layout.own_columns, layout.slots, 0
    if layout.absorbed:
        levels = layout.levels[-1]
        slots -= int(layout.widths[-1])
    hessian = 8 * k * k
    border = 8 * k * levels
    # Assembled, in model order, scaled, factored and inverted: five matrices at the widest moment. Of the
    # border, which is never factored, that of the estimate at hand and that of the next.
    algebra = 8 * slots * slots + 4 * hessian + 2 * border + VECTORS * 8 * levels + LEVEL_BYTES * levels
    tables = 8 * layout.cells
    waiting = WAITING
    if layout.absorbed:
        tables += 8 * layout.slots  # the gradient counts as well
        leaves = max(MOST_SHARED, (source.rows or 0) * CELLS_A_ROW // layout.cells)
        waiting = max(WAITING, min(leaves, len(source.parts)).bit_length())
    tile = 8 * layout.padded * layout.tile_rows
    held = max(held_rows(part, design.columns, design.batch_rows) for part in source.parts)
    decoding = int(DECODED * held * design.row_bytes) + DECODERS
    giant = any(getattr(part, "giant", False) for part in source.parts)
    shared = GIANT_BUFFERS * len(design.columns) if giant else 0
    fixed = OWN_SIZE + algebra + waiting * tables + shared
    each = tables + tile + decoding
    if fixed + each > limit:
        terms = sorted(
            (factor for factor in design.factors if not factor.absorbed),
            key=lambda factor: -len(factor.levels),
        )
        advice = (
            f" Widest term: {terms[0].name} ({len(terms[0].levels):,} levels). "
            f"Drop it with --exclude {terms[0].column}."
            if terms and len(terms[0].levels) > k // 4
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
