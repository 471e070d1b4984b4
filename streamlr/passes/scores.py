"""The pass behind a robust covariance: squares of scores, and scores added up by cluster.

Both are what the middle of a sandwich is made of (Huber 1967; White 1982, Econometrica 50, 1-25). Squares
keep the blocks of a Hessian, since they are a Gram matrix with other weights; clusters keep a row of sums for
each key that a leaf has seen, and merging two leaves adds the rows of those that both have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.design.encoding import Tally
from streamlr.design.keys import crossed
from streamlr.errors import StreamlrError
from streamlr.kernels.keys import count_union, merge_tables
from streamlr.kernels.levels import add_rows
from streamlr.kernels.scores import add_cluster_scores, add_row_products, fitted_rows, quadratic_forms
from streamlr.kernels.tile import Block, Conditioning
from streamlr.passes.memory import format_size
from streamlr.passes.sums import Sums, scratch_for
from streamlr.passes.tasks import DesignTask

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

# Rows whose shares of absorbed effects are formed at once.
ROWS_AT_ONCE = 1 << 14


@dataclass
class Meat:
    """Sum of squared scores as a matrix, in the tables of `sums`; `observations`: trials that count."""

    sums: Sums
    observations: float = 0.0

    def merge(self, other: Meat) -> Meat:
        """Add another part's."""
        self.sums.merge(other.sums)
        self.observations += other.observations
        return self


@dataclass
class ClusterScores:
    """Sums of scores by cluster: `keys` (g,) ascending, `table` (g, slots)."""

    keys: Keys
    table: Floats

    def merge(self, other: ClusterScores, clusters: int) -> ClusterScores:
        """Both added together, which makes so many clusters."""
        keys = np.empty(clusters, dtype=np.int64)
        table = np.empty((clusters, self.table.shape[1]))
        merge_tables(self.keys, self.table, other.keys, other.table, keys, table)
        return ClusterScores(keys, table)


@dataclass(frozen=True)
class Room:
    """Bytes for the tables of clusters, `rows` in all to be added up by so many threads."""

    limit: int
    rows: int
    threads: int


@dataclass
class Clustered:
    """The sums of every way to cluster, of `rows`: by each column, and by both crossed behind them."""

    ways: list[ClusterScores]
    room: Room
    rows: int = 0
    observations: float = 0.0

    def merge(self, other: Clustered) -> Clustered:
        """Add another part's. Raises `StreamlrError` where the tables outgrow the room for them."""
        pairs = list(zip(self.ways, other.ways, strict=True))
        clusters = [count_union(own.keys, theirs.keys) for own, theirs in pairs]
        self.rows += other.rows
        self.observations += other.observations
        # While these are merged other threads merge tables of as many rows, if there are so many.
        at_once = min(float(self.room.threads), max(self.room.rows / max(self.rows, 1), 1.0))
        slots = self.ways[0].table.shape[1]
        tables = sum(len(own.keys) + len(theirs.keys) for own, theirs in pairs) + sum(clusters)
        size = int(8 * (1 + slots) * tables * at_once)
        if size > self.room.limit:
            raise StreamlrError(
                f"the scores of {max(clusters):,} clusters and more with {slots:,} columns need "
                f"{format_size(size)} while they are added up, of which --memory leaves "
                f"{format_size(self.room.limit)}. Raise --memory, or cluster by a coarser column."
            )
        self.ways = [own.merge(theirs, count) for (own, theirs), count in zip(pairs, clusters, strict=True)]
        return self


@dataclass(frozen=True)
class RowScores:
    """What the rows of a block say at the estimate, each (n,).

    slope: derivative of the log-likelihood in eta. squares: sum over the trials of a row of their squared
    slopes, times the weight for frequencies and its square for others. curvature: of one trial. trials: how
    many count.
    """

    slope: Floats
    squares: Floats
    curvature: Floats
    trials: Floats


def row_scores(block: Block, p: Floats, q: Floats, frequencies: bool) -> RowScores:
    """Scores of rows with fitted probabilities p and q = 1 - p.

    A row of k successes in n trials is n rows: its squares are k q**2 + (n - k) p**2, not (k - n p)**2. A row
    of frequency w is w such rows; with other weights a trial's score is w times as large.
    """
    success = block.success.astype(np.float64)
    trials = block.trials if block.trials.size else np.ones(len(success))
    weight = block.weight if block.weight.size else np.ones(len(success))
    failure = trials - success
    squares = success * q * q + failure * p * p
    return RowScores(
        slope=weight * (success * q - failure * p),
        squares=weight * squares if frequencies else weight * weight * squares,
        curvature=p * q if frequencies else weight * p * q,
        trials=weight * trials if frequencies else np.where(weight > 0.0, trials, 0.0),
    )


@dataclass(frozen=True)
class MeatTask(DesignTask):
    """Squares of scores at `coef` (k,), divided by (1 - leverage) ** `power`.

    `inverse` (k, k): of the Hessian, zero for columns without an estimate; not needed where `power` is 0. The
    leverage is that of a trial: its curvature times x'inverse x.
    """

    coef: Floats
    frequencies: bool
    power: int = 0
    inverse: Floats | None = None

    @property
    def cells(self) -> int:
        """Size of the sums, in numbers."""
        return self.design.layout.cells

    def __call__(self, parts: Sequence[Any]) -> Meat:
        """The squares of one leaf."""
        layout = self.design.layout
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        coef = layout.to_slots(self.coef)
        matrix = None if self.inverse is None else in_slots(self.inverse, layout.slot_of_column, layout.slots)
        meat = Meat(Sums(layout, first=False))
        for block in self.blocks(parts, meat.sums.tally):
            n = block.success.size
            eta, p, q = np.empty(n), np.empty(n), np.empty(n)
            fitted_rows(block.rows, conditioning, coef, scratch, eta, p, q)
            scores = row_scores(block, p, q, self.frequencies)
            squares = scores.squares
            if matrix is not None and self.power:
                form = eta  # eta has served
                quadratic_forms(block.rows, conditioning, matrix, scratch, form)
                squares = squares / (1.0 - scores.curvature * form) ** self.power
            add_row_products(block.rows, conditioning, squares, meat.sums.totals, scratch)
            meat.observations += float(scores.trials.sum())
            del block
        return meat


@dataclass(frozen=True)
class ClusterTask(DesignTask):
    """Sums of scores at `coef` (k,) by cluster.

    `shares` (slots of the own columns, levels): of an absorbed factor, what regression on its levels takes
    out of each column; the scores are then those of the other columns with that taken out.
    """

    coef: Floats
    frequencies: bool
    room: Room
    shares: Floats | None = None

    @property
    def cells(self) -> int:
        """Size of the sums at least, in numbers."""
        return self.design.layout.slots

    def __call__(self, parts: Sequence[Any]) -> Clustered:
        """The sums of one leaf."""
        layout = self.design.layout
        scratch = scratch_for(layout)
        conditioning = self.basis.conditioning()
        own = conditioning if self.shares is None else without_last_factor(conditioning)
        slots = layout.slots if self.shares is None else len(self.shares)
        coef = layout.to_slots(self.coef)
        columns = len(self.design.clusters)
        count = columns + (columns > 1)
        found = Clustered([_none(slots) for _ in range(count)], self.room)
        for block in self.blocks(parts, Tally()):
            n = block.success.size
            eta, p, q = np.empty(n), np.empty(n), np.empty(n)
            fitted_rows(block.rows, conditioning, coef, scratch, eta, p, q)
            scores = row_scores(block, p, q, self.frequencies)
            keys = [*block.clusters, *([crossed(*block.clusters)] if columns > 1 else [])]
            ways = []
            for way in keys:
                seen, places = np.unique(way, return_inverse=True)
                table = np.zeros((len(seen), slots))
                add_cluster_scores(block.rows, own, scores.slope, places, table, scratch)
                if self.shares is not None:
                    _take_out(self.shares, block.codes[-1], scores.slope, places, table)
                # A cluster of rows that count for nothing is none.
                counts = np.bincount(places, scores.trials > 0.0) > 0.0
                ways.append(ClusterScores(seen[counts], table[counts]))
            found = found.merge(Clustered(ways, self.room, n, float(scores.trials.sum())))
            del block
        return found


def in_slots(matrix: Floats, slot_of_column: NDArray[np.int64], slots: int) -> Floats:
    """(slots, slots) of a matrix by model column (k, k), zero for "no column"."""
    whole = np.zeros((slots, slots))
    whole[np.ix_(slot_of_column, slot_of_column)] = matrix
    return whole


def without_last_factor(conditioning: Conditioning) -> Conditioning:
    """The conditioning of the columns in front of the last factor."""
    starts = conditioning.starts[:-1]
    return conditioning._replace(starts=starts, plain=min(conditioning.plain, len(starts)))


def _take_out(shares: Floats, levels: NDArray[np.int32], slope: Floats, places: Keys, table: Floats) -> None:
    """table[places_i] -= slope_i shares[:, levels_i]"""
    for first in range(0, len(levels), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        taken = np.ascontiguousarray((shares[:, levels[rows]] * -slope[rows]).T)
        add_rows(taken, places[rows].astype(np.int32), table)


def _none(slots: int) -> ClusterScores:
    return ClusterScores(np.empty(0, dtype=np.int64), np.zeros((0, slots)))
