"""The loss of a design as a function of its coefficients: one pass over the parts an evaluation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.design.basis import Basis
from streamlr.design.design import Design
from streamlr.design.encoding import Tally
from streamlr.linear_algebra import Blocked, Bordered, Hessian, diagonal, plus_diagonal, restricted
from streamlr.newton import Box, Evaluation, Metric, State, Tails
from streamlr.passes.cache import BlockCache, Kept
from streamlr.passes.cells import Keying, parts_of_cells
from streamlr.passes.leaves import Task
from streamlr.passes.sums import Sums
from streamlr.passes.tasks import Probe, ProbeTask, Rivals, RivalsTask, SumsTask

if TYPE_CHECKING:
    from streamlr.inference.firth import FirthEvaluation
    from streamlr.passes.scores import Clustered, Meat, Room
    from streamlr.passes.sides import Sides

Floats = NDArray[np.float64]
Result = TypeVar("Result")

# The null model takes whole Newton steps, which only far from its minimum could overshoot.
LONGEST_NULL_STEP = 4.0

# A Hessian summed in single precision is told as one from a point so far away in eta. Rounding changes its
# products by less than a hundred thousandth of the columns' lengths, and no column that it is used for has
# less than a fiftieth of its information to itself.
SINGLE_DRIFT = 0.01

# Fourth powers are summed along combinations in single precision, in which a product of p columns is off by
# this times p + 3 and the largest sum of |x_j| |combination_j|.
SINGLE_ROUNDING = 2.0**-24
# Trials of a row have a quarter of their weight as curvature at most.
MOST_CURVATURE = 0.25

# Share of a column's information that is added to it where only a rough decrement is wanted.
MADE_UP = 1e-8

# Runs a task over all parts that it was made for and merges the results.
Runner = Callable[[Task[Result], Callable[[Result, Result], Result]], Result]


@dataclass(frozen=True)
class Gathering:
    """How rows that repeat are told apart, and what runs a task over the parts that cells make."""

    keying: Keying
    run: Callable[[Sequence[Any], Task[Any], Callable[[Any, Any], Any]], Any]


class Objective:
    """Loss, gradient and Hessian in the active columns of a basis; remembers what the first pass found."""

    def __init__(
        self,
        design: Design,
        basis: Basis,
        runner: Runner[Any],
        cache: BlockCache | None,
        null_coef: float = 0.0,
        gathering: Gathering | None = None,
    ) -> None:
        """`gathering`: how rows that repeat are gathered in the first pass, None where they are not."""
        self.design = design
        self.basis = basis
        self.null_coef = null_coef
        self.reduced_extent: dict[int, float] = {}
        self.null_loss = 0.0
        self.null_decrement = 0.0
        self.first: Sums | None = None
        self.last: Sums | None = None
        self.evaluations = 0
        self.costs_nothing = False  # an evaluation reads no data, because rows were gathered to cells
        # Where sums are taken over, and where the rows themselves are.
        self._runner, self._cache = runner, cache
        self._row_runner, self._row_cache = runner, cache
        self._gathering = gathering

    def __call__(
        self, coef: Floats, with_hessian: bool = True, *, single: bool = False, along: Floats | None = None
    ) -> Evaluation:
        """Evaluate at `coef`, one number an active column; the Hessian is zero where it is not wanted.

        `single`: the Hessian only steers, and single precision will do for it. `along`: directions (active,
        active) along which the evaluation is to tell of tails, of a design of dense columns.
        """
        gathering = self._gathering if self.first is None else None
        task = SumsTask(
            self.design,
            self.basis,
            self._cache,
            self.expand(coef),
            self.null_coef,
            self.first is None,
            with_hessian,
            gathering.keying if gathering is not None else None,
            single,
            None if along is None else np.array([self.expand(each) for each in along]),
        )
        sums: Sums = self._runner(task, Sums.merge)
        self._note(sums, gathering)
        evaluation = self._evaluation(sums, coef, with_hessian)
        if along is not None:
            evaluation = replace(evaluation, tails=self._tails(sums, along, evaluation.box))
        return replace(evaluation, drift=SINGLE_DRIFT) if single else evaluation

    def _tails(self, sums: Sums, along: Floats, box: Box) -> Tails:
        """What a pass has found along directions (active, active), with room for the rounding of it."""
        off = np.array([box.reach(np.abs(each)) for each in along])
        off *= SINGLE_ROUNDING * (along.shape[1] + 3) * (MOST_CURVATURE * sums.trials) ** 0.25
        return Tails(along, sums.fourth**0.25 + off, self.map_to_raw())

    def best_of(self, starts: Sequence[Floats], *, single: bool = False) -> tuple[Floats, Evaluation]:
        """The better of one or two points (active,), and the evaluation there, in one pass.

        The first has to have the lower loss and less than a quarter of the Newton decrement: near a minimum
        that is the distance to it. `single`: single precision will do for the Hessian of a lone point.
        """
        if len(starts) == 1:
            return starts[0], self(starts[0], single=single)
        one, other = starts
        task = RivalsTask(
            self.design,
            self.basis,
            self._cache,
            self.expand(one),
            self.null_coef,
            first=True,
            keying=self._gathering.keying if self._gathering is not None else None,
            rival=self.expand(other),
        )
        both: Rivals = self._runner(task, Rivals.merge)
        self._note(both.sums, self._gathering)
        found = self._evaluation(both.sums, one, True)
        rival = self._evaluation(both.rival, other, True)
        if found.loss < rival.loss and 4.0 * rough_decrement(found) < rough_decrement(rival):
            return one, found
        self.last = both.rival
        return other, rival

    def _note(self, sums: Sums, gathering: Gathering | None) -> None:
        """Remember what a pass has found; the first one told ranges and cells as well."""
        self.evaluations += 1
        if self.first is None:
            self.first = sums
            if gathering is not None:
                self._take_cells(gathering, sums)
        self.last = sums
        self._step_null(sums)

    def _evaluation(self, sums: Sums, coef: Floats, with_hessian: bool) -> Evaluation:
        active = np.flatnonzero(self.basis.active)
        hessian: Hessian = np.zeros((0, 0))
        if with_hessian:
            hessian = restricted(sums.hessian(), active)
            sums.shed()  # the tables are as large as what was made of them
        evaluation = Evaluation(
            loss=sums.loss,
            gradient=sums.gradient()[active],
            hessian=hessian,
            box=self.box(),
            least_curvature=sums.least_curvature,
        )
        return self._with_ridge(evaluation, coef, self.ridge(sums)) if self.design.absorb_l2 else evaluation

    def ridge(self, sums: Sums) -> float:
        """Weight of half the sum of squared absorbed effects in the loss: lambda times all trials' weight."""
        return self.design.absorb_l2 * sums.trials

    def log_likelihood(self, state: State) -> float:
        """Log-likelihood at a state, binomial coefficients included and the ridge left out."""
        assert self.first is not None
        return self.first.log_binomial - (state.evaluation.loss - self.penalty(state.coef))

    def penalty(self, coef: Floats) -> float:
        """What the ridge adds to the loss at `coef` (active,)."""
        assert self.first is not None
        effects = coef[self.own_active :]
        return 0.5 * self.ridge(self.first) * float(effects @ effects) if self.design.absorb_l2 else 0.0

    @property
    def own_active(self) -> int:
        """Number of active columns that are not absorbed."""
        return int(np.count_nonzero(self.basis.active[: self.design.layout.own_columns]))

    def _with_ridge(self, evaluation: Evaluation, coef: Floats, ridge: float) -> Evaluation:
        own = self.own_active
        pull = np.zeros(len(coef))
        pull[own:] = ridge
        hessian = evaluation.hessian
        return replace(
            evaluation,
            loss=evaluation.loss + 0.5 * ridge * float(coef[own:] @ coef[own:]),
            gradient=evaluation.gradient + pull * coef,
            hessian=plus_diagonal(hessian, pull) if len(hessian) else hessian,
        )

    def probe(self, coef: Floats, combinations: Floats) -> tuple[Floats, Floats, Floats]:
        """Extents (m,), curvature-weighted squares (m,) and products with every column (m, k)."""
        task = ProbeTask(self.design, self.basis, self._cache, self.expand(coef), combinations)
        probe: Probe = self._runner(task, Probe.merge)
        return probe.extent, probe.squares, probe.products[:, self.design.layout.slot_of_column]

    def near(self, direction: Floats, threshold: float) -> Hessian:
        """Products of the active columns, summed over the rows with |x'direction| <= `threshold` or with
        trials of both outcomes; `direction` (k,) in conditioned columns."""
        from streamlr.passes.sides import Near, NearTask

        task = NearTask(self.design, self.basis, self._row_cache, direction, threshold)
        near: Near = self._row_runner(task, Near.merge)
        return restricted(near.hessian(), np.flatnonzero(self.basis.active))

    def sides(
        self, directions: Floats, unit: float, near: Floats | None, threshold: float, most: int
    ) -> Sides:
        """Rows by the side of planes on which they lie: `directions` (m, k) in conditioned columns.

        `near` (k,) and `threshold`: what `near` was asked for, for the rows that products are of."""
        from streamlr.passes.sides import Sides, SidesTask

        task = SidesTask(self.design, self.basis, self._row_cache, directions, unit, near, threshold, most)
        sides: Sides = self._row_runner(task, Sides.merge)
        return sides

    def uncached(self) -> Objective:
        """The same loss without the rows that were kept, which make room for others."""
        other = copy.copy(self)
        other._row_cache = None
        return other

    def on(self, design: Design, basis: Basis, cache: BlockCache | None) -> Objective:
        """The loss of a design with the same columns and fewer rows, of which nothing is known yet."""
        return Objective(design, basis, self._row_runner, cache, self.null_coef, self._gathering)

    def at_points(self, coefs: Sequence[Floats], with_hessian: Sequence[bool]) -> list[Evaluation]:
        """Evaluate at several points (active,) in one pass; Hessians where they are wanted."""
        from streamlr.passes.points import Points, PointsTask

        whole = np.array([self.expand(coef) for coef in coefs])
        task = PointsTask(self.design, self.basis, self._cache, whole, tuple(with_hessian))
        found: Points = self._runner(task, Points.merge)
        return [
            self._evaluation(sums, coef, wanted)
            for sums, coef, wanted in zip(found.sums, coefs, with_hessian, strict=True)
        ]

    def with_leverages(self, coefs: Floats, inverses: Floats) -> list[FirthEvaluation]:
        """Evaluate at points (m, active) with leverages from matrices (m, active, active), in one pass."""
        from streamlr.inference.firth import FirthEvaluation
        from streamlr.passes.firth_task import FirthSums, FirthTask

        active = np.flatnonzero(self.basis.active)
        whole = np.array([self.expand(coef) for coef in coefs])
        layout = self.design.layout
        slots = layout.slot_of_column[active]
        matrices = np.zeros((len(coefs), layout.slots, layout.slots))
        for matrix, inverse in zip(matrices, inverses, strict=True):
            matrix[np.ix_(slots, slots)] = inverse
        task = FirthTask(self.design, self.basis, self._cache, whole, matrices, self.null_coef)
        found: FirthSums = self._runner(task, FirthSums.merge)
        self.evaluations += 1
        self._step_null(found.sums[0])
        evaluations = []
        for sums, adjustment, square in zip(found.sums, found.adjustments, found.squares, strict=True):
            information = restricted(sums.hessian(), active)
            assert not isinstance(information, Bordered), "nothing is absorbed"
            evaluations.append(
                FirthEvaluation(
                    loss=sums.loss,
                    gradient=sums.gradient()[active],
                    information=information.matrix if isinstance(information, Blocked) else information,
                    adjustment=adjustment[slots],
                    spread=math.sqrt(square),
                )
            )
        return evaluations

    def meat(self, coef: Floats, inverse: Floats | None, power: int) -> Meat:
        """Squares of scores at `coef` (active,); see `streamlr.passes.scores.MeatTask`.

        Rows that were gathered serve where they are frequencies: of others the squares of weights are needed.
        """
        from streamlr.passes.scores import Meat, MeatTask

        gathered = self.counts_frequencies
        runner, cache = (self._runner, self._cache) if gathered else (self._row_runner, self._row_cache)
        whole = None if inverse is None else self._expand_matrix(inverse)
        task = MeatTask(self.design, self.basis, cache, self.expand(coef), gathered, power, whole)
        meat: Meat = runner(task, Meat.merge)
        return meat

    def cluster_scores(self, coef: Floats, room: Room, shares: Floats | None) -> Clustered:
        """Sums of scores by cluster at `coef` (active,); see `streamlr.passes.scores.ClusterTask`."""
        from streamlr.passes.scores import Clustered, ClusterTask

        task = ClusterTask(
            self.design,
            self.basis,
            self._row_cache,
            self.expand(coef),
            self.counts_frequencies,
            room,
            shares,
        )
        found: Clustered = self._row_runner(task, Clustered.merge)
        return found

    @property
    def counts_frequencies(self) -> bool:
        """Whether a row of weight w is w rows, as it is without weights too."""
        return self.design.weights is None or self.design.weight_type == "frequency"

    def _expand_matrix(self, matrix: Floats) -> Floats:
        """(active, active) as (k, k), zero where there is no estimate."""
        active = self.basis.active
        whole = np.zeros((len(active), len(active)))
        whole[np.ix_(active, active)] = matrix
        return whole

    def with_basis(self, basis: Basis, reduced_extent: Mapping[int, float]) -> Objective:
        """The same loss in another basis; `reduced_extent`: largest values of its reduced columns."""
        other = copy.copy(self)
        other.basis = basis
        other.reduced_extent = dict(reduced_extent)
        return other

    def map_to_raw(self) -> Floats:
        """(own active, own active) takes coefficients in the basis to the user's."""
        own = self.design.layout.own_columns
        active = np.flatnonzero(self.basis.active[:own])
        units = np.zeros((own, len(active)))
        units[active, np.arange(len(active))] = 1.0
        return self.basis.to_raw(units)[active]

    def expand(self, coef: Floats) -> Floats:
        """(active,) coefficients as (k,), zero where there is no estimate."""
        whole = np.zeros(self.design.layout.columns)
        whole[self.basis.active] = coef
        return whole

    def extent(self) -> Floats:
        """(k,) largest absolute value of every basis column over the rows used; 1 for a level of a factor."""
        assert self.first is not None, "ranges are known after the first pass"
        basis = self.basis
        if self.first.tally.rows_used == 0:
            return np.zeros(self.design.layout.columns)
        low = (self.first.low - basis.centre) * basis.scale
        high = (self.first.high - basis.centre) * basis.scale
        largest = np.maximum(np.abs(low), np.abs(high))
        layout = self.design.layout
        extent = np.ones(layout.columns)
        extent[basis.numeric_columns] = largest[: layout.numeric]
        for columns, reach in zip(
            layout.factor_columns[layout.plain :], largest[layout.numeric :], strict=True
        ):
            extent[columns] = reach
        for column, reach in self.reduced_extent.items():
            extent[column] = reach
        return extent

    def box(self) -> Box:
        """Where the rows lie, in the active columns."""
        active = self.basis.active
        return Box(self.extent()[active], self.design.layout.group_of_column[active])

    def _take_cells(self, gathering: Gathering, sums: Sums) -> None:
        """From now on sum over the cells of the first pass, where there are few and they tell every row."""
        keying, found = gathering.keying, sums.cells.found
        if found is None or not keying.holds(sums.low, sums.high):
            return
        parts = parts_of_cells(keying, found)
        self._cache = BlockCache(0, 0)
        for part in parts:
            self._cache.store(part, Kept([part.block], Tally()))
        self._runner = partial(gathering.run, parts)
        self.costs_nothing = True

    def _step_null(self, sums: Sums) -> None:
        """One Newton step of the null model, which shares the passes of the fit."""
        if self.design.offset is not None:
            _, slope, curvature = sums.null
            self.null_decrement = abs(slope) / np.sqrt(curvature) if curvature > 0 else 0.0
            self.null_loss = sums.null[0]
            if curvature > 0:
                self.null_coef -= float(np.clip(slope / curvature, -LONGEST_NULL_STEP, LONGEST_NULL_STEP))


def rough_decrement(evaluation: Evaluation) -> float:
    """The Newton decrement, also where columns are aliased: their share of the information is made up."""
    hessian = evaluation.hessian
    return Metric(plus_diagonal(hessian, MADE_UP * diagonal(hessian))).solve(evaluation.gradient)[1]
