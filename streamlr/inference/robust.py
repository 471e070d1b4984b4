"""Covariances that hold where the model does not: the inverse information around sums of scores.

With A the information and B the sum of squared scores of rows, or of clusters, the covariance is A^-1 B A^-1
(Huber 1967, Fifth Berkeley Symposium 1, 221-233; White 1980, Econometrica 48, 817-838, and 1982). HC2 and HC3
divide squares by 1 - h and (1 - h)**2, h the leverage of a trial (MacKinnon and White 1985, Journal of
Econometrics 29, 305-325). Two-way clusters add the sandwiches of both and take off that of both crossed
(Cameron, Gelbach and Miller 2011, Journal of Business and Economic Statistics 29, 238-249). One pass gives
any of them. R: `sandwich::vcovHC`, `sandwich::vcovCL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.linear_algebra import Bordered, Hessian, Inverse, restricted
from streamlr.newton import State
from streamlr.objective import Objective

if TYPE_CHECKING:
    from streamlr.passes.scores import Room

Floats = NDArray[np.float64]

CovarianceType = Literal["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"]
SmallSample = Literal["none", "clusters", "full"]
COVARIANCES = get_args(CovarianceType)
SMALL_SAMPLES = get_args(SmallSample)
POWERS = {"HC2": 1, "HC3": 2}


@dataclass(frozen=True)
class CovarianceChoice:
    """Which covariance a fit reports, checked. `clusters`: one column or two, where the kind is "cluster"."""

    kind: CovarianceType
    clusters: tuple[str, ...] = ()
    small_sample: SmallSample = "clusters"

    @classmethod
    def of(
        cls, kind: str | None, clusters: Sequence[str], small_sample: str, weight_type: str, weighted: bool
    ) -> CovarianceChoice:
        """What the options amount to: clusters given ask for themselves, sampling weights for HC0.

        Raises `StreamlrError` for options that do not go together.
        """
        clusters = tuple(clusters)
        if kind is not None and kind not in COVARIANCES:
            raise StreamlrError(f"cov must be one of {', '.join(COVARIANCES)}, not '{kind}'.")
        if small_sample not in SMALL_SAMPLES:
            raise StreamlrError(f"small_sample must be none, clusters or full, not '{small_sample}'.")
        sampling = weighted and weight_type == "sampling"
        if kind is None:
            kind = "cluster" if clusters else "HC0" if sampling else "nonrobust"
        if kind == "cluster" and not clusters:
            raise StreamlrError("clustered standard errors need a column that tells clusters (cluster=...).")
        if kind != "cluster" and clusters:
            raise StreamlrError(f"{kind} standard errors do not use clusters. Leave out one of the two.")
        if kind == "nonrobust" and sampling:
            raise StreamlrError(
                "with sampling weights the model's own standard errors mean nothing. Ask for HC0 to HC3 or "
                "for clusters, or leave the choice out."
            )
        assert kind in COVARIANCES
        return cls(kind, clusters, small_sample)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class RobustCovariance:
    """`matrix` (active own, active own) in the basis; `groups`: number of clusters by column."""

    matrix: Floats
    groups: tuple[int, ...] = ()


def robust_covariance(
    objective: Objective,
    state: State,
    choice: CovarianceChoice,
    inverse_information: Floats | Inverse,
    *,
    parameters: float,
    limit: int,
    threads: int,
) -> RobustCovariance:
    """The covariance of a choice other than "nonrobust", by one pass at the estimate.

    `inverse_information` (active own, active own) in the basis; `parameters`: how many are estimated,
    absorbed effects included; `limit`: bytes for sums by cluster, `threads`: how many add them up. Raises
    `StreamlrError`.
    """
    bread = inverse_information.matrix if isinstance(inverse_information, Inverse) else inverse_information
    hessian = state.evaluation.hessian
    if choice.kind == "cluster":
        from streamlr.passes.scores import Room

        assert objective.first is not None
        room = Room(limit, objective.first.tally.rows_used, threads)
        return _clustered(objective, state.coef, choice, bread, hessian, parameters, room)
    power = POWERS.get(choice.kind, 0)
    if power and isinstance(hessian, Bordered):
        raise StreamlrError(
            f"{choice.kind} needs leverages, which are not worked out beside absorbed effects. Use HC0, HC1 "
            "or clusters."
        )
    meat = objective.meat(state.coef, bread if power else None, power)
    squares = restricted(meat.sums.hessian(), np.flatnonzero(objective.basis.active))
    middle = condensed(hessian, squares)
    factor = 1.0
    if choice.kind == "HC1":
        factor = _per_degree(meat.observations, parameters, choice.kind)
    return RobustCovariance(sandwich(bread, middle, factor))


def sandwich(bread: Floats, meat: Floats, factor: float = 1.0) -> Floats:
    """(k, k) factor * bread meat bread, symmetric to the last bit"""
    half = bread @ meat @ bread
    return factor * 0.5 * (half + half.T)


def condensed(hessian: Hessian, squares: Hessian) -> Floats:
    """(p, p) squared scores of the columns that are not absorbed, with the regression on those that are taken
    out: [I, -G] squares [I, -G]' with G = border / tail of the Hessian."""
    if not isinstance(hessian, Bordered):
        return np.asarray(getattr(squares, "matrix", squares), dtype=np.float64)
    assert isinstance(squares, Bordered)
    middle = squares.dense.copy()
    for chunk in hessian.chunks:
        shares = hessian.border[:, chunk] / hessian.tail[chunk]
        crossing = squares.border[:, chunk] @ shares.T
        middle += (shares * squares.tail[chunk]) @ shares.T - crossing - crossing.T
    return middle


def _clustered(
    objective: Objective,
    coef: Floats,
    choice: CovarianceChoice,
    bread: Floats,
    hessian: Hessian,
    parameters: float,
    room: Room,
) -> RobustCovariance:
    layout = objective.design.layout
    own = np.flatnonzero(objective.basis.active[: layout.own_columns])
    slots = layout.slot_of_column[own]
    shares = None
    if isinstance(hessian, Bordered):
        shares = np.zeros((int(layout.starts[-1]), layout.levels[-1]))
        estimated = np.flatnonzero(objective.basis.active[layout.own_columns :])
        shares[np.ix_(slots, estimated)] = hessian.border / hessian.tail
    found = objective.cluster_scores(coef, room, shares)
    covariance = np.zeros_like(bread)
    degrees = 1.0
    if choice.small_sample == "full":
        # (n - 1) / (n - k) = (n - 1) / n * n / (n - k)
        n = found.observations
        degrees = (n - 1.0) / n * _per_degree(n, parameters, "a full small-sample factor")
    told = (*choice.clusters, " x ".join(choice.clusters))
    for way, name, sign in zip(found.ways, told, (1.0, 1.0, -1.0), strict=False):
        groups = len(way.keys)
        factor = degrees
        if choice.small_sample != "none":
            if groups < 2:
                raise StreamlrError(
                    f"there is only one cluster of {name}; clustered standard errors need two at least."
                )
            factor *= groups / (groups - 1.0)
        scores = way.table[:, slots]
        covariance += sign * sandwich(bread, scores.T @ scores, factor)
    columns = len(choice.clusters)
    return RobustCovariance(covariance, tuple(len(way.keys) for way in found.ways[:columns]))


def _per_degree(observations: float, parameters: float, what: str) -> float:
    """n / (n - k)"""
    if observations <= parameters:
        raise StreamlrError(
            f"{what} needs more observations ({observations:,.0f}) than estimated terms ({parameters:,.0f})."
        )
    return observations / (observations - parameters)
