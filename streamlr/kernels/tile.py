"""A tile: about a thousand rows of the dense columns in float64, conditioned, one column after another.

A block is worked through tile by tile so that everything between reading a column and adding to the sums
stays in the second-level cache. Dense columns are the intercept (a row of ones, when there is one) and then
the numeric columns as (x - centre) * scale; factors stay integer codes and never enter the tile.

Coefficients, gradients and factor tables share one numbering, the slots: slot j is dense column j, and
factor f owns `starts[f] + 0 ... starts[f] + levels`, where slot `starts[f]` stands for code -1, "no column",
so that no loop needs a branch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import kernel

Floats = NDArray[np.float64]


class Block(NamedTuple):
    """A chunk of n rows as arrays, the one thing that kernels are fed; size 0: there is no such column."""

    numeric: NDArray[np.floating]  # (q, n), float32 or float64
    codes: NDArray[np.int32]  # (c, n), -1 for "no column"
    success: Floats  # (n,) successes, 0 or 1 without trials
    trials: Floats  # (n,) or (0,)
    weight: Floats  # (n,) or (0,)
    offset: Floats  # (n,) or (0,)


class Conditioning(NamedTuple):
    """How dense columns are centred, scaled and made nearly orthogonal to earlier ones."""

    intercept: int  # 1 when dense column 0 is a column of ones, else 0
    centre: Floats  # (q,)
    scale: Floats  # (q,)
    starts: NDArray[np.int64]  # (c,) first slot of each factor
    reduced: NDArray[np.int64]  # (d,) dense columns that have earlier columns taken out, ascending
    gamma: Floats  # (d, slots) what is taken out, in slots
    stretch: Floats  # (d,) scale of what remains


@kernel
def fill_tile(block, conditioning, first, count, tile, scratch):
    """tile[j, :count] = dense column j of rows first, first + 1, ..."""
    intercept = conditioning.intercept
    if intercept == 1:
        for i in range(count):
            tile[0, i] = 1.0
    for j in range(block.numeric.shape[0]):
        column = block.numeric[j][first : first + count]
        target = tile[j + intercept]
        centre = conditioning.centre[j]
        scale = conditioning.scale[j]
        for i in range(count):
            target[i] = (np.float64(column[i]) - centre) * scale
    for d in range(conditioning.reduced.size):
        for i in range(count):
            scratch[i] = 0.0
        add_linear_predictor(
            block.codes, conditioning.starts, conditioning.gamma[d], first, count, tile, scratch
        )
        target = tile[conditioning.reduced[d]]
        stretch = conditioning.stretch[d]
        for i in range(count):
            target[i] = (target[i] - scratch[i]) * stretch


@kernel
def start_eta(offset, constant, first, count, eta):
    """eta = constant + offset, where there is an offset"""
    for i in range(count):
        eta[i] = constant
    if offset.size > 0:
        for i in range(count):
            eta[i] += offset[first + i]


@kernel
def add_linear_predictor(codes, starts, coef, first, count, tile, eta):
    """eta += sum over dense columns of coef[j] tile[j] + sum over factors of coef[slot of the code]"""
    dense = starts[0] if starts.size > 0 else coef.size
    for j in range(dense):
        slope = coef[j]
        if slope != 0.0:
            column = tile[j]
            for i in range(count):
                eta[i] += slope * column[i]
    for f in range(starts.size):
        levels = codes[f][first : first + count]
        none = starts[f] + 1
        for i in range(count):
            eta[i] += coef[none + levels[i]]


@kernel
def fill_outcomes(block, first, count, success, failure):
    """success = w k, failure = w (n - k): k successes in n trials of weight w"""
    outcome = block.success[first : first + count]
    for i in range(count):
        success[i] = outcome[i]
        failure[i] = 1.0 - outcome[i]
    if block.trials.size > 0:
        trials = block.trials[first : first + count]
        for i in range(count):
            failure[i] = trials[i] - outcome[i]
    if block.weight.size > 0:
        weight = block.weight[first : first + count]
        for i in range(count):
            success[i] *= weight[i]
            failure[i] *= weight[i]
