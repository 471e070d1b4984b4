"""The slow obvious twin of every kernel: whole matrices, one-hot columns, no tiles and no tricks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.tile import Block, Conditioning

Floats = NDArray[np.float64]


def design_matrix(block: Block, conditioning: Conditioning, slots: int) -> Floats:
    """(n, slots): dense columns conditioned, then 0/1 columns of each factor, "no column" first, times the
    scale of the factor where it has one."""
    n = block.success.size
    conditioned = [
        (x.astype(np.float64) - centre) * scale
        for x, centre, scale in zip(block.numeric, conditioning.centre, conditioning.scale, strict=True)
    ]
    numeric = conditioning.dense - conditioning.intercept
    columns = [np.ones(n)] * conditioning.intercept + conditioned[:numeric]
    scales = [np.ones(n)] * conditioning.plain + conditioned[numeric:]
    ends = [*conditioning.starts, slots][1:]
    for codes, start, end, scale in zip(block.codes, conditioning.starts, ends, scales, strict=True):
        columns.extend((codes == level) * scale for level in range(-1, end - start - 1))
    X = np.column_stack(columns) if columns else np.empty((n, 0))
    for place, column in enumerate(conditioning.reduced):
        X[:, column] = (X[:, column] - X @ conditioning.gamma[place]) * conditioning.stretch[place]
    return X


def outcomes(block: Block) -> tuple[Floats, Floats]:
    """Weighted successes and failures of every row."""
    trials = block.trials if block.trials.size else np.ones(block.success.size)
    weight = block.weight if block.weight.size else np.ones(block.success.size)
    return weight * block.success, weight * (trials - block.success)


def losses(eta: Floats, success: Floats, failure: Floats) -> tuple[Floats, Floats, Floats]:
    """Loss, slope and curvature of every row, straight from the definition of p = 1 / (1 + exp(-eta))."""
    loss = success * np.logaddexp(0, -eta) + failure * np.logaddexp(0, eta)
    p, q = 1 / (1 + np.exp(-eta)), 1 / (1 + np.exp(eta))
    return loss, failure * p - success * q, (success + failure) * p * q


def factor_tables(
    codes: NDArray[np.int32], widths: NDArray[np.int64], root: Floats, weighed: Floats
) -> tuple[Floats, Floats, Floats]:
    """Diagonal, cross and pair tables of factors, row by row; `weighed` (dense, n) is root times the columns.

    Pair tables follow one another as factors 0 and 1, 0 and 2, ..., each with a row a slot of the first.
    """
    factors = len(widths)
    starts = np.cumsum(widths) - widths
    diagonal = np.zeros(int(widths.sum()))
    cross = np.zeros((len(weighed), int(widths.sum())))
    pairs = [np.zeros((widths[f], widths[g])) for f in range(factors) for g in range(f + 1, factors)]
    for i in range(len(root)):
        place = 0
        for f in range(factors):
            slot = starts[f] + 1 + codes[f, i]
            diagonal[slot] += root[i] ** 2
            cross[:, slot] += root[i] * weighed[:, i]
            for g in range(f + 1, factors):
                pairs[place][1 + codes[f, i], 1 + codes[g, i]] += root[i] ** 2
                place += 1
    return diagonal, cross, np.concatenate([np.empty(0), *(table.ravel() for table in pairs)])
