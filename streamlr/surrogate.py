"""A first step that knows the loss better than its parabola does: all rows tell slope and curvature, and the
rows of a sample how the curvature changes.

The step ends at the minimum of

    M(b + d) = g'd + d'Hd / 2 + r (L(b + d) - L(b) - G'd - d'Kd / 2)

where g and H are gradient and Hessian of all rows at b, L, G and K loss, gradient and Hessian of the sample
there, and r is how many times the weight of the sample all rows have. To second order it is the loss of all
rows, beyond that the sample's (the surrogate likelihood of Jordan, Lee and Yang 2019, Communication-efficient
distributed statistical inference, JASA 114, 668-681, who take from all rows the gradient alone). Where Newton
leaves an error of about |d|^2 / sqrt(n), this leaves as much times the sampling error of third derivatives:
from a sample of 2.25 of 11 million rows 0.00014 standard errors after a pass instead of 0.018, for 0.05 s.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamlr.linear_algebra import product
from streamlr.newton import Evaluation, Metric, State
from streamlr.objective import Objective

Floats = NDArray[np.float64]

# The bend is found by repeated substitution; corrections shrink by the change of curvature over the step.
ROUNDS = 5
# Rounds end when the next would change it by less than this share of the first.
SETTLED = 0.05
# A sample that bends a step by more than this share of its length, or whose corrections hardly shrink, knows
# too little, or the step is too long for anybody to know.
MOST_BENT = 0.2
SHRINKING = 0.5


class Surrogate:
    """Bends a step by what the rows of `sample` say; `whole` has been evaluated at the step's beginning.

    `near`: the sample is so large that its bent step may well be the last but one.
    """

    def __init__(self, sample: Objective, whole: Objective, *, near: bool) -> None:
        self._sample = sample
        self._whole = whole
        self._near = near

    def bend(self, state: State, metric: Metric) -> Floats:
        """The step (active,) from a state to the minimum of the surrogate; where the sample does not tell
        it, the Newton step."""
        ends = [state.coef, state.coef + state.direction]
        here, there = self._sample.at_points(ends, [True, False])
        assert self._sample.first is not None
        assert self._whole.first is not None
        times = self._whole.first.trials / self._sample.first.trials

        def beyond(step: Floats, there: Evaluation) -> Floats:
            """Gradient at the end of a step less what the parabola says of it."""
            return times * (there.gradient - here.gradient - product(here.hessian, step))

        bent, told, before = state.direction, np.zeros_like(state.direction), state.decrement
        first = math.inf
        for count in range(ROUNDS):
            if count:
                there = self._sample(state.coef + bent, False)
            found = beyond(bent, there)
            correction, size = metric.solve(found - told)
            if not size <= (SHRINKING if count else MOST_BENT) * before:
                return state.direction
            bent, told = bent + correction, found
            first = min(first, size)
            if size * size / before <= SETTLED * first:  # what the next round may be expected to change
                break
            before = size
        return bent

    def directions(self, metric: Metric) -> Floats | None:
        """(active, active) the combinations that are reported, as directions in which they alone change."""
        return metric.unit_solutions(self._whole.map_to_raw()) if self._near else None
