"""Which parts of large data are looked at before all of them: to condition columns, to start from, to check.

They are spread over the data, since files are often sorted, and depend on the data alone: a fit has the same
bits whatever memory and threads it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamlr.design.design import Design
from streamlr.design.profile import ProfileSums
from streamlr.sources.base import Part, Source

# Parts whose first rows centre and scale are learned from.
CONDITIONING_PARTS = 4
# Data with more values than this take their start from a sample: below, all passes together are quicker.
WORTH_A_SAMPLE = 40_000_000
# Rows of a sample: a twentieth of the data within bounds, but where a Hessian is dear no more than needed;
# ROWS_A_COLUMN for every coefficient and EVENTS_A_COLUMN of the rarer outcome, but never more than a fifth of
# the data.
SAMPLE_SHARE = 20
SAMPLE_ROWS = (100_000, 500_000)
ROWS_A_COLUMN = 100
EVENTS_A_COLUMN = 20
# So many rows in a sample of LARGE rows with LARGE_COLUMNS columns and balanced outcomes bend the first step
# so near to the maximum that the second ends the fit: of 11 million rows to 3e-4 standard errors, where
# 4.4e-4 would do (5e-4 with a quarter less, 1.5e-4 with a quarter more). The distance behind the bent step
# goes with columns sqrt(rows) / sample^1.5, the distance that will do with rows^0.25, so that samples grow
# with the sixth root of the data.
LARGE_SAMPLE = 1_750_000
LARGE = 10_000_000
LARGE_COLUMNS = 29
# That saves a pass, and costs the larger sample and the sums of fourth powers. It is worth it for so many
# values, of a sample so many times, in at most so many columns: with 28 as quick where all rows are kept and
# a sixth quicker where they are not, with 60 a twentieth to a fifth slower.
WORTH_A_LARGE_SAMPLE = 250_000_000
TIMES_LARGER = 4
MOST_COLUMNS = 40
LARGEST_SHARE = 5
# The part of a sample on which a fit with a dear Hessian finds its own start.
FIRST_STAGE = 5
# Parts that an estimate is checked on.
CHECKS = 2
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Sample:
    """Parts to take the start from, in growing `stages`, and parts outside of them to check it on."""

    stages: tuple[Sequence[Part], ...]
    checks: Sequence[Part]
    is_large: bool = False  # a first step that it bends may well be the last but one


def parts_to_condition_on(source: Source, sample: Sample | None) -> Sequence[Part]:
    """A few parts spread over the data; those of a sample, which will be read anyway, if there is one."""
    return _spread(source.parts if sample is None else sample.stages[-1], CONDITIONING_PARTS)


def _spread(parts: Sequence[Part], count: int) -> list[Part]:
    """At most `count` parts evenly spread over the data, the first among them."""
    if len(parts) <= count:
        return list(parts)
    return [parts[i * len(parts) // count] for i in range(count)]


def _scattered(parts: int, count: int) -> list[int]:
    """Numbers of `count` parts, one from each of as many runs of equal length, by the golden ratio in them.

    Every so many parts would be the same hours of other days where files repeat each other's order.
    """
    run = parts / count
    return [int((i + i * GOLDEN % 1.0) * run) for i in range(count)]


def sample_of(source: Source, design: Design, profile: ProfileSums) -> Sample | None:
    """A sample of large data; None of small data, and of data in too few parts to leave most of them out."""
    if design.absorbed is not None:
        return None  # a sample says nothing of most levels, and their log odds are a start
    rows, parts = source.rows, source.parts
    layout = design.layout
    if rows is None or rows * (layout.dense + len(layout.levels)) < WORTH_A_SAMPLE:
        return None
    share = positive_share(design, profile)
    wanted = ROWS_A_COLUMN * layout.columns
    if not layout.hessian_is_dear:
        wanted = max(wanted, min(max(rows // SAMPLE_SHARE, SAMPLE_ROWS[0]), SAMPLE_ROWS[1]))
    wanted = max(wanted, int(EVENTS_A_COLUMN * layout.columns / min(share, 1.0 - share)))
    count = max(1, round(min(wanted, rows // LARGEST_SHARE) * len(parts) / rows))
    if 3 * count > len(parts):
        return None
    chosen = _spread(parts, count)
    # In the middle between parts of the sample, so that what changes along the file is seen.
    gaps = [parts[(2 * i + 1) * len(parts) // (2 * count)] for i in range(count)]
    checks = _spread(gaps, CHECKS)
    if layout.hessian_is_dear and count > 2:
        return Sample((_spread(chosen, -(-count // FIRST_STAGE)), chosen), checks)
    many = _large_sample(rows, layout.dense, share)
    pays = rows * layout.dense >= WORTH_A_LARGE_SAMPLE and rows >= TIMES_LARGER * many
    if pays and layout.dense <= MOST_COLUMNS and not layout.levels:
        more = round(many * len(parts) / rows)
        if count < more:
            places = _scattered(len(parts), more)
            large = [parts[place] for place in places]
            others = [part for place, part in enumerate(parts) if place not in set(places)]
            return Sample((_spread(large, count), large), _spread(others, CHECKS + 1)[1:], is_large=True)
    return Sample((chosen,), checks)


def _large_sample(rows: int, columns: int, share: float) -> float:
    """Rows of a sample whose bent step may well be the last but one; a row counts for as much as its outcome
    informs, of which `share` are successes."""
    informs = 4.0 * share * (1.0 - share)
    growth = max(rows * informs / LARGE, 1.0) ** (1.0 / 6.0) * (columns / LARGE_COLUMNS) ** (2.0 / 3.0)
    return LARGE_SAMPLE * growth / informs


def positive_share(design: Design, profile: ProfileSums) -> float:
    """Weighted share of successes in all rows."""
    if design.trials is not None:
        return profile.successes / (profile.successes + profile.failures)
    assert design.positive is not None
    return profile.outcome_weight[design.positive] / sum(profile.outcome_weight.values())
