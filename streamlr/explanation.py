"""What a fit would do, before it is done: from metadata and one part of the data.

Levels are counted in the rows looked at, so they are lower bounds; widths and memory follow from them. The
time is what decoding those rows took here, times the rows there are and the passes to expect.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from streamlr.design.absorbing import absorbing
from streamlr.design.columns import Level
from streamlr.design.expressions import Column, quoted
from streamlr.design.features import Feature, Reader
from streamlr.design.freeze import (
    Findings,
    groupings_of,
    mergings,
    outcome_levels,
    variables_of,
    why_left_out,
    width_of,
    without_columns,
)
from streamlr.design.profile import ProfileSums, ProfileTask
from streamlr.design.spec import Spec, resolve_spec
from streamlr.design.where import Where
from streamlr.passes.memory import available_cores, available_memory, resident_bytes
from streamlr.profiling import leave_out_by_metadata, no_rows, reader_of, skipping
from streamlr.sampling import WORTH_A_SAMPLE
from streamlr.sources.base import Source

# A fit from the null model takes five or six passes, one of large data, from a sample, three or four.
PASSES = 6
PASSES_FROM_SAMPLE = 3
LOOK_ROWS = 65_536
# So many times LOOK_ROWS are looked through for a row that the filter keeps.
MOST_LOOKS = 16
# Rows that tell a column with a level per row from one that repeats itself.
TELLING_ROWS = 1_000


class _Look:
    """The first rows of the data, as a part of its own: more of them while the filter keeps none."""

    def __init__(self, parts: Sequence[Any], where: Where | None) -> None:
        self._parts = parts
        self._where = where
        self.rows = 0
        self.seconds = 0.0  # that decoding took

    def read(self, columns: Any, coded: Any, batch_rows: int) -> Any:
        self.rows, self.seconds = 0, 0.0
        kept = False
        batches = (b for part in self._parts for b in part.read(columns, coded, min(batch_rows, LOOK_ROWS)))
        while self.rows < (LOOK_ROWS if kept else MOST_LOOKS * LOOK_ROWS):
            begun = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - begun
            if batch is None:
                return
            self.rows += batch.num_rows
            kept = kept or self._where is None or bool(self._where.mask(batch).any())
            yield batch


def explain(
    source: Source,
    *,
    threads: int | None,
    memory: int | None,
    absorb: str | None = None,
    absorb_l2: float = 0.0,
    **options: Any,
) -> dict[str, Any]:
    """Rows, columns and the cost of a fit, as a dict that prints as JSON. `options` are those of `fit`."""
    spec = resolve_spec(source.schema, origin=", ".join(source.origin[:1]), **options)
    spec = absorbing(spec, absorb, absorb_l2)
    if spec.where is not None:
        source = skipping(source, spec.where)
    spec = leave_out_by_metadata(source, spec)
    if not source.parts:
        raise no_rows(source, spec)
    look = _Look(source.parts, spec.where)
    reader = reader_of(spec, source, lambda task: task([look]))
    while True:
        profile = ProfileTask(spec, reader, spec.features, {})([look])
        reasons = _left_out(spec, profile, whole=look.rows == source.rows)
        if not reasons:
            break
        spec = without_columns(spec, reasons)
    columns = [_column(source, spec, name, profile) for name in source.schema.names]
    width = _width(spec, reader, profile, look)
    cores = threads or available_cores()
    rows = source.rows
    large = rows is not None and rows * len(spec.features) >= WORTH_A_SAMPLE
    passes = PASSES_FROM_SAMPLE if large else PASSES
    return {
        "rows": rows,
        "parts": len(source.parts),
        "files": len(source.origin),
        "row_groups_skipped": getattr(source, "row_groups_skipped", None) if spec.where is not None else None,
        "target": spec.target,
        "positive": _positive(spec, profile),
        "columns": columns,
        "excluded": dict(spec.excluded),
        "formula": _formula(spec),
        "design_columns_at_least": width,
        "hessian_bytes": 8 * width * width,
        "memory_limit_bytes": memory if memory is not None else available_memory() // 4,
        "resident_bytes_now": resident_bytes(),
        "passes_expected": passes,
        "seconds_expected": None
        if not rows or not look.rows
        else passes * look.seconds * rows / look.rows / cores,
        "rows_looked_at": look.rows,
    }


def _left_out(spec: Spec, profile: ProfileSums, *, whole: bool) -> dict[int, str]:
    """Unnamed variables that a fit leaves out, by place, with the reason, as far as rows looked at tell: all
    of it where they are the `whole` data, else only that each has a level of its own."""
    findings = Findings(merging=mergings(spec, profile))
    found = {}
    for place, feature in enumerate(spec.features):
        reason = None if feature.named else why_left_out(feature, profile, findings)
        if reason is None:
            continue
        if whole:
            found[place] = reason
        elif reason.startswith("one level per row") and profile.rows_used >= TELLING_ROWS:
            found[place] = f"{reason} looked at"
    return found


def _width(spec: Spec, reader: Reader, profile: ProfileSums, look: _Look) -> int:
    """Columns of the design as far as the rows looked at show its levels and cells."""
    if profile.rows_used == 0:
        return int(spec.intercept) + len(spec.terms)
    findings = Findings(merging=mergings(spec, profile))
    variables = variables_of(spec, profile, reader, findings)
    groupings = groupings_of(spec, variables)
    if groupings:
        profile = ProfileTask(spec, reader, spec.features, {}, groupings)([look])
    return width_of(spec, profile, variables, groupings)


def _column(source: Source, spec: Spec, name: str, profile: ProfileSums) -> dict[str, Any]:
    told = source.statistics(name)
    roles = {spec.target: "target", spec.weights: "weights", spec.offset: "offset", spec.trials: "trials"}
    roles.update(dict.fromkeys(spec.clusters, "cluster"))
    features = {column: feature for feature in spec.features for column in feature.columns}
    features.update(
        {feature.column: feature for feature in spec.features if feature.column in feature.columns}
    )
    feature = features.get(name)
    role = roles.get(name) or (
        "left out" if feature is None else "factor" if feature.categorical else "number"
    )
    return {
        "column": name,
        "type": str(source.schema.field(name).type),
        "role": role,
        "reason": spec.excluded.get(name),
        "nulls": told.null_count,
        "low": _plain(told.low),
        "high": _plain(told.high),
        "levels_at_least": _levels(profile, feature.name)
        if feature is not None and feature.categorical and role == "factor"
        else None,
    }


def _levels(profile: ProfileSums, factor: str) -> int:
    return max(len(profile.factors[factor]) if factor in profile.factors else 0, 1)


def _positive(spec: Spec, profile: ProfileSums) -> str | None:
    """The outcome that would count as 1, where the rows looked at show both."""
    if spec.trials is not None or len(profile.outcomes) != 2:
        return None
    positive: Level = outcome_levels(spec, profile)[0]
    return str(positive)


def _formula(spec: Spec) -> str:
    """The model that the options amount to, as a formula to edit."""

    def written(feature: Feature) -> str:
        if not isinstance(feature.expression, Column):
            return feature.name
        column = quoted(feature.expression.name)
        return f"C({column})" if feature.name != feature.expression.name else column

    listed = [term for term in spec.terms if not spec.features[term[0]].absorbed]
    names = [":".join(written(spec.features[place]) for place in term) for term in listed]
    # Absorbed effects stand in for an intercept, whatever the formula says.
    right = " + ".join(names if spec.intercept or spec.absorbed else ["0", *names]) or "1"
    return f"{quoted(spec.target)} ~ {right}"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
