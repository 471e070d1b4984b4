"""A tile: some hundred rows of the dense columns in float64, conditioned, one column after another.

A block is worked through tile by tile so that everything between reading a column and adding to the sums
stays in the second-level cache. Dense columns are the intercept (a row of ones, when there is one) and then
the numeric columns as (x - centre) * scale; factors stay integer codes and never enter the tile.

Numeric columns are read where they lie, each in its own type, so that a decoded column is never copied:
kernels get the address of each one, `Block` holds on to the memory.

A factor times a number is a factor whose rows have a scale: its column is the scale where a row has that
level. Scales are conditioned like numeric columns and stand in the tile behind the dense columns; scaled
factors come after all others.

Coefficients, gradients and factor tables share one numbering, the slots: slot j is dense column j, and
factor f owns `starts[f] + 0 ... starts[f] + levels`, where slot `starts[f]` stands for code -1, "no column",
so that no loop needs a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import COMPILED, Intrinsic, kernel, use_widest_vectors

Floats = NDArray[np.float64]

# The types a numeric column may have; every other one is stored as the smallest of these that holds it.
STORED_TYPES = ("float64", "float32", "int64", "int32", "int16", "int8")
FLOAT64, FLOAT32, INT64, INT32, INT16, INT8 = range(6)
KIND_OF_TYPE = {np.dtype(name): kind for kind, name in enumerate(STORED_TYPES)}


class Rows(NamedTuple):
    """A chunk of n rows as kernels are fed them; size 0: there is no such column."""

    addresses: NDArray[np.int64]  # (q + s,) where the n values of each numeric column and scale begin
    kinds: NDArray[np.int64]  # (q + s,) their types, as places in STORED_TYPES
    codes: NDArray[np.int32]  # (c, n), -1 for "no column"
    success: NDArray[Any]  # (n,) successes: int8, 0 or 1, without trials, float64 with them
    trials: Floats  # (n,) or (0,)
    weight: Floats  # (n,) or (0,)
    offset: Floats  # (n,) or (0,)


@dataclass(frozen=True)
class Block:
    """A chunk of n rows as arrays: `Rows` with the memory that its addresses point into, and for each of m
    columns of clusters the keys of the rows. `ranges`, where they are known: the lowest and the highest value
    of every numeric column and scale, each (q + s,)."""

    numeric: Sequence[NDArray[Any]]  # q columns and s scales (n,), contiguous, of the types in STORED_TYPES
    codes: NDArray[np.int32]
    success: NDArray[Any]
    trials: Floats
    weight: Floats
    offset: Floats
    clusters: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))  # (m, n)
    ranges: tuple[Floats, Floats] | None = None

    @cached_property
    def rows(self) -> Rows:
        """The arguments of kernels; valid as long as the block."""
        return Rows(
            np.array([column.__array_interface__["data"][0] for column in self.numeric], dtype=np.int64),
            np.array([KIND_OF_TYPE[column.dtype] for column in self.numeric], dtype=np.int64),
            self.codes,
            self.success,
            self.trials,
            self.weight,
            self.offset,
        )

    def taken(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Block:
        """Some of the rows, by a mask (n,) or their places."""

        def some(array: Floats) -> Floats:
            return array[which] if array.size else array

        return Block(
            [np.ascontiguousarray(column[which]) for column in self.numeric],
            np.ascontiguousarray(self.codes[:, which]),
            self.success[which],
            some(self.trials),
            some(self.weight),
            some(self.offset),
            self.clusters[:, which] if self.clusters.shape[1] else self.clusters,
        )


class Conditioning(NamedTuple):
    """How dense columns are centred, scaled and made nearly orthogonal to earlier ones."""

    intercept: int  # 1 when dense column 0 is a column of ones, else 0
    centre: Floats  # (q + s,)
    scale: Floats  # (q + s,)
    dense: int  # intercept + q
    scales: int  # row of the tile where the s scales begin
    plain: int  # c - s: factors without a scale, which are the first
    starts: NDArray[np.int64]  # (c,) first slot of each factor
    reduced: NDArray[np.int64]  # (d,) dense columns that have earlier columns taken out, ascending
    gamma: Floats  # (d, slots) what is taken out, in slots
    stretch: Floats  # (d,) scale of what remains


def _values_at(dtype: str) -> Any:
    """A function of an address and a number n: the n values there, as an array (n,) without a copy."""
    if not COMPILED:
        element = np.ctypeslib.as_ctypes_type(np.dtype(dtype))

        def read(address: int, n: int) -> NDArray[Any]:
            return (
                np.ctypeslib.as_array((element * n).from_address(int(address))) if n else np.empty(0, dtype)
            )

        return read

    def values(typing_context, address, n):
        from numba import types

        array_type = types.Array(getattr(types, dtype), 1, "C")

        def generate(context, builder, signature, arguments):
            from numba.core.cgutils import intp_t
            from numba.np.arrayobj import populate_array

            start, count = arguments
            array = context.make_array(array_type)(context, builder)
            size = intp_t(np.dtype(dtype).itemsize)
            populate_array(
                array,
                data=builder.inttoptr(start, array.data.type),
                shape=[count],
                strides=[size],
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return array_type(types.int64, types.intp), generate

    return Intrinsic(values)


_float64_at = _values_at("float64")
_float32_at = _values_at("float32")
_int64_at = _values_at("int64")
_int32_at = _values_at("int32")
_int16_at = _values_at("int16")
_int8_at = _values_at("int8")


@kernel
def condition(column, centre, scale, target):
    """target = (column - centre) * scale"""
    use_widest_vectors()
    for i in range(column.size):
        target[i] = (np.float64(column[i]) - centre) * scale


@kernel
def condition_and_add(columns, centre, scale, coef, targets, eta):
    """Of four columns target = z = (column - centre) * scale, and eta += coef z.

    `columns`: four arrays (n,), whose n values are worked on; `targets`, four, and `eta` are rows of scratch
    at least as long; `centre`, `scale` and `coef` four numbers each.
    """
    use_widest_vectors()
    x0, x1, x2, x3 = columns
    m0, m1, m2, m3 = centre
    s0, s1, s2, s3 = scale
    c0, c1, c2, c3 = coef
    t0, t1, t2, t3 = targets
    for i in range(x0.size):
        z0 = (np.float64(x0[i]) - m0) * s0
        z1 = (np.float64(x1[i]) - m1) * s1
        z2 = (np.float64(x2[i]) - m2) * s2
        z3 = (np.float64(x3[i]) - m3) * s3
        t0[i] = z0
        t1[i] = z1
        t2[i] = z2
        t3[i] = z3
        eta[i] += (c0 * z0 + c1 * z1) + (c2 * z2 + c3 * z3)


@kernel
def fill_column(rows, conditioning, j, first, count, target):
    """target[:count] = numeric column or scale j of rows first, first + 1, ..., conditioned"""
    kind = rows.kinds[j]
    at = rows.addresses[j]
    centre = conditioning.centre[j]
    scale = conditioning.scale[j]
    if kind == FLOAT64:
        condition(_float64_at(at + 8 * first, count), centre, scale, target)
    elif kind == FLOAT32:
        condition(_float32_at(at + 4 * first, count), centre, scale, target)
    elif kind == INT64:
        condition(_int64_at(at + 8 * first, count), centre, scale, target)
    elif kind == INT32:
        condition(_int32_at(at + 4 * first, count), centre, scale, target)
    elif kind == INT16:
        condition(_int16_at(at + 2 * first, count), centre, scale, target)
    else:
        condition(_int8_at(at + first, count), centre, scale, target)


@kernel
def fill_tile(rows, conditioning, first, count, tile, scratch):
    """tile[j, :count] = dense column j of rows first, first + 1, ...; scales stand from row `scales` on"""
    use_widest_vectors()
    intercept = conditioning.intercept
    numeric = conditioning.dense - intercept
    if intercept == 1:
        for i in range(count):
            tile[0, i] = 1.0
    for j in range(rows.addresses.size):
        row = intercept + j if j < numeric else conditioning.scales + j - numeric
        fill_column(rows, conditioning, j, first, count, tile[row])
    for d in range(conditioning.reduced.size):
        for i in range(count):
            scratch[i] = 0.0
        add_linear_predictor(rows, conditioning, conditioning.gamma[d], first, count, tile, scratch)
        target = tile[conditioning.reduced[d]]
        stretch = conditioning.stretch[d]
        for i in range(count):
            target[i] = (target[i] - scratch[i]) * stretch


@kernel
def fill_and_predict(rows, conditioning, coef, first, count, tile, eta, scratch):
    """`fill_tile`, and eta += sum over dense columns of coef[j] tile[j]

    Four columns of one type are read, conditioned and added to eta in one loop: 10 ns a row of 28 columns in
    memory, of which four are fetched at once, where one after another takes 15. A column whose coefficient is
    zero says nothing, even where it is infinite.
    """
    use_widest_vectors()
    if conditioning.reduced.size > 0:  # columns are whole only when all are there
        fill_tile(rows, conditioning, first, count, tile, scratch)
        add_dense_predictor(conditioning, coef, count, tile, eta)
        return
    intercept = conditioning.intercept
    if intercept == 1:
        for i in range(count):
            tile[0, i] = 1.0
            eta[i] += coef[0]
    centre = conditioning.centre
    scale = conditioning.scale
    kinds = rows.kinds
    at = rows.addresses
    j = 0
    while j < conditioning.dense - intercept:
        k = j + intercept
        if (
            k + 4 <= conditioning.dense
            and (kinds[j] == FLOAT64 or kinds[j] == FLOAT32)
            and kinds[j] == kinds[j + 1]
            and kinds[j] == kinds[j + 2]
            and kinds[j] == kinds[j + 3]
            and coef[k] != 0.0
            and coef[k + 1] != 0.0
            and coef[k + 2] != 0.0
            and coef[k + 3] != 0.0
        ):
            centres = (centre[j], centre[j + 1], centre[j + 2], centre[j + 3])
            scales = (scale[j], scale[j + 1], scale[j + 2], scale[j + 3])
            coefs = (coef[k], coef[k + 1], coef[k + 2], coef[k + 3])
            targets = (tile[k], tile[k + 1], tile[k + 2], tile[k + 3])
            if kinds[j] == FLOAT64:
                byte = 8 * first
                doubles = (
                    _float64_at(at[j] + byte, count),
                    _float64_at(at[j + 1] + byte, count),
                    _float64_at(at[j + 2] + byte, count),
                    _float64_at(at[j + 3] + byte, count),
                )
                condition_and_add(doubles, centres, scales, coefs, targets, eta)
            else:
                byte = 4 * first
                singles = (
                    _float32_at(at[j] + byte, count),
                    _float32_at(at[j + 1] + byte, count),
                    _float32_at(at[j + 2] + byte, count),
                    _float32_at(at[j + 3] + byte, count),
                )
                condition_and_add(singles, centres, scales, coefs, targets, eta)
            j += 4
        else:
            target = tile[k]
            fill_column(rows, conditioning, j, first, count, target)
            if coef[k] != 0.0:
                for i in range(count):
                    eta[i] += coef[k] * target[i]
            j += 1
    for s in range(j, at.size):
        fill_column(rows, conditioning, s, first, count, tile[conditioning.scales + s - j])


@kernel
def start_eta(offset, constant, first, count, eta):
    """eta = constant + offset, where there is an offset"""
    for i in range(count):
        eta[i] = constant
    if offset.size > 0:
        for i in range(count):
            eta[i] += offset[first + i]


@kernel
def add_dense_predictor(conditioning, coef, count, tile, eta):
    """eta += sum over dense columns of coef[j] tile[j]

    Four columns at a time, so that eta is read and written a quarter as often. A column whose coefficient is
    zero says nothing, even where it is infinite.
    """
    use_widest_vectors()
    dense = conditioning.dense
    j = 0
    while j < dense:
        if (
            j + 4 <= dense
            and coef[j] != 0.0
            and coef[j + 1] != 0.0
            and coef[j + 2] != 0.0
            and coef[j + 3] != 0.0
        ):
            c0 = coef[j]
            c1 = coef[j + 1]
            c2 = coef[j + 2]
            c3 = coef[j + 3]
            x0 = tile[j]
            x1 = tile[j + 1]
            x2 = tile[j + 2]
            x3 = tile[j + 3]
            for i in range(count):
                eta[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])
            j += 4
        else:
            c0 = coef[j]
            if c0 != 0.0:
                x0 = tile[j]
                for i in range(count):
                    eta[i] += c0 * x0[i]
            j += 1


@kernel
def add_scaled_predictor(rows, conditioning, coef, first, count, tile, eta):
    """eta += sum over scaled factors of scale coef[slot of the code]"""
    starts = conditioning.starts
    plain = conditioning.plain
    for f in range(plain, starts.size):
        levels = rows.codes[f][first : first + count]
        none = starts[f] + 1
        scale = tile[conditioning.scales + f - plain]
        for i in range(count):
            eta[i] += scale[i] * coef[none + levels[i]]


@kernel
def add_factor_predictor(rows, conditioning, coef, first, count, tile, eta):
    """eta += sum over factors of scale coef[slot of the code]; scale is 1 if the factor has none"""
    starts = conditioning.starts
    for f in range(conditioning.plain):
        levels = rows.codes[f][first : first + count]
        none = starts[f] + 1
        for i in range(count):
            eta[i] += coef[none + levels[i]]
    add_scaled_predictor(rows, conditioning, coef, first, count, tile, eta)


@kernel
def add_linear_predictor(rows, conditioning, coef, first, count, tile, eta):
    """eta += sum over dense columns of coef[j] tile[j] + sum over factors of scale coef[slot of the code]"""
    add_dense_predictor(conditioning, coef, count, tile, eta)
    add_factor_predictor(rows, conditioning, coef, first, count, tile, eta)


@kernel
def fill_outcomes(rows, first, count, success, failure):
    """success = w k, failure = w (n - k): k successes in n trials of weight w"""
    use_widest_vectors()
    outcome = rows.success[first : first + count]
    for i in range(count):
        success[i] = outcome[i]
        failure[i] = 1.0 - outcome[i]
    if rows.trials.size > 0:
        trials = rows.trials[first : first + count]
        for i in range(count):
            failure[i] = trials[i] - outcome[i]
    if rows.weight.size > 0:
        weight = rows.weight[first : first + count]
        for i in range(count):
            success[i] *= weight[i]
            failure[i] *= weight[i]
