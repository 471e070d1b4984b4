"""Factors taken together: one code for several, so that a row adds to a few tables instead of many.

Factors f of a group have a joint code, sum of (code_f + 1) stride_f, one for every combination of their
levels and "no column". What a row adds to the tables of a group stands side by side: curvature, slope and
its products with the dense columns fill whole cache lines, and a line is added by one vector operation. Two
groups share a table of curvatures. Behind a block these tables are unfolded into those of the single factors
and pairs of factors, which are sums of them.

All sums of five factors of 3 to 105 levels and three numbers take 20 ns a row, with the tables of the factors
themselves 30 (`benchmarks/kernels.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import COMPILED, Intrinsic, kernel, use_widest_vectors

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Numbers that one vector operation adds.
LANES = 8
# Places in a line.
CURVATURE = 0
SLOPE = 1
PRODUCTS = 2


class Joining(NamedTuple):
    """Which of c factors are taken together in which of g groups, and the memory for that.

    Groups are numbered; `members` names their factors group by group. Slots of all groups stand behind each
    other in `sums` and `coef`, those of a group from `begins` on.
    """

    members: Integers  # (c,) those of a group ascend
    first_member: Integers  # (g + 1,) where the members of a group begin
    strides: Integers  # (c,) of each member
    levels: Integers  # (c, largest group) slot of each member at every joint slot of its group
    begins: Integers  # (g + 1,) where the slots of a group begin
    pair_begins: Integers  # (g, g) where the table of groups a < b begins
    least_rows: int  # of a block that is worth unfolding for
    codes: NDArray[np.int32]  # (g, t) joint codes of a tile
    lines: Floats  # (t, lanes) what its rows add
    sums: Floats  # (slots, lanes)
    pairs: Floats  # (all pair tables,)
    coef: Floats  # (slots,)
    by_level: Floats  # (widest factor,)


NOT_JOINED = Joining(
    members=np.zeros(0, dtype=np.int64),
    first_member=np.zeros(1, dtype=np.int64),
    strides=np.zeros(0, dtype=np.int64),
    levels=np.zeros((0, 0), dtype=np.int64),
    begins=np.zeros(1, dtype=np.int64),
    pair_begins=np.zeros((0, 0), dtype=np.int64),
    least_rows=0,
    codes=np.zeros((0, 0), dtype=np.int32),
    lines=np.zeros((0, LANES)),
    sums=np.zeros((0, LANES)),
    pairs=np.zeros(0),
    coef=np.zeros(0),
    by_level=np.zeros(0),
)


def _add_line(typing_context: Any, table: Any, slot: Any, lines: Any, row: Any, begin: Any) -> Any:
    """table[slot, begin : begin + LANES] += lines[row, begin : begin + LANES], both at cache lines.

    Left to itself the compiler adds number by number, since it cannot know that a table and a line lie apart.
    """
    from llvmlite import ir
    from numba import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.DoubleType(), LANES).as_pointer()

        def place(kind: Any, array: Any, index: Any) -> Any:
            found = context.make_array(kind)(context, builder, array)
            width = builder.extract_value(found.shape, 1)
            at = builder.add(builder.mul(index, width), arguments[4])
            return builder.bitcast(builder.gep(found.data, [at]), vector)

        target = place(signature.args[0], arguments[0], arguments[1])
        source = place(signature.args[2], arguments[2], arguments[3])
        line = 8 * LANES
        total = builder.fadd(builder.load(target, align=line), builder.load(source, align=line))
        builder.store(total, target, align=line)
        return context.get_dummy_value()

    return types.void(table, types.int64, lines, types.int64, types.int64), generate


def _add_line_plainly(table: Floats, slot: int, lines: Floats, row: int, begin: int) -> None:
    table[slot, begin : begin + LANES] += lines[row, begin : begin + LANES]


add_line: Any = Intrinsic(_add_line) if COMPILED else _add_line_plainly


@kernel
def join_coef(coef, starts, joining):
    """coef of a joint slot = sum of the coefficients (slots,) of its levels"""
    for g in range(joining.begins.size - 1):
        begin = joining.begins[g]
        for slot in range(joining.begins[g + 1] - begin):
            s = 0.0
            for m in range(joining.first_member[g], joining.first_member[g + 1]):
                f = joining.members[m]
                s += coef[starts[f] + joining.levels[m, slot]]
            joining.coef[begin + slot] = s


@kernel
def join_codes(codes, first, count, joining):
    """codes of groups = sum over their factors of (code + 1) stride, for rows first, first + 1, ..."""
    use_widest_vectors()
    for g in range(joining.begins.size - 1):
        joint = joining.codes[g]
        begin = np.int32(joining.begins[g])
        for i in range(count):
            joint[i] = begin
        for m in range(joining.first_member[g], joining.first_member[g + 1]):
            f = joining.members[m]
            stride = np.int32(joining.strides[m])
            levels = codes[f][first : first + count]
            for i in range(count):
                joint[i] += (levels[i] + np.int32(1)) * stride


@kernel
def add_joint_predictor(count, joining, eta):
    """eta += coefficients of the joint codes of a tile"""
    for g in range(joining.begins.size - 1):
        joint = joining.codes[g]
        for i in range(count):
            eta[i] += joining.coef[joint[i]]


@kernel
def add_joint_slopes(slope, count, joining):
    """sums[joint code, SLOPE] += slope"""
    for g in range(joining.begins.size - 1):
        joint = joining.codes[g]
        for i in range(count):
            joining.sums[joint[i], SLOPE] += slope[i]


@kernel
def fill_lines(tile, root, curvature, slope, count, dense, intercept, joining):
    """lines[i] = curvature, slope, and root tile[j] of every dense column but the intercept

    Row by row and four columns at a time: column by column it took three times as long. Behind the last
    column the tile is zero.
    """
    lines = joining.lines
    for i in range(count):
        line = lines[i]
        line[CURVATURE] = curvature[i]
        line[SLOPE] = slope[i]
    for j in range(intercept, dense, 4):
        x0 = tile[j]
        x1 = tile[j + 1]
        x2 = tile[j + 2]
        x3 = tile[j + 3]
        at = PRODUCTS + j - intercept
        for i in range(count):
            line = lines[i]
            w = root[i]
            line[at] = w * x0[i]
            line[at + 1] = w * x1[i]
            line[at + 2] = w * x2[i]
            line[at + 3] = w * x3[i]


@kernel
def add_joint(tile, root, curvature, slope, count, dense, intercept, joining):
    """sums[joint code] += line of the row, and pairs[joint code, joint code of a later group] += curvature

    `tile` holds root(curvature) z_j in its dense rows.
    """
    fill_lines(tile, root, curvature, slope, count, dense, intercept, joining)
    lines, sums, pairs, begins = joining.lines, joining.sums, joining.pairs, joining.begins
    groups = begins.size - 1
    for begin in range(0, lines.shape[1], LANES):
        g = 0
        while g + 2 <= groups:
            joint0 = joining.codes[g]
            joint1 = joining.codes[g + 1]
            for i in range(count):
                add_line(sums, np.int64(joint0[i]), lines, i, begin)
                add_line(sums, np.int64(joint1[i]), lines, i, begin)
            g += 2
        if g < groups:
            joint0 = joining.codes[g]
            for i in range(count):
                add_line(sums, np.int64(joint0[i]), lines, i, begin)
    for g in range(groups):
        joint = joining.codes[g]
        h = g + 1
        while h + 2 <= groups:
            other0 = joining.codes[h]
            other1 = joining.codes[h + 1]
            width0 = begins[h + 1] - begins[h]
            width1 = begins[h + 2] - begins[h + 1]
            origin0 = joining.pair_begins[g, h] - begins[g] * width0 - begins[h]
            origin1 = joining.pair_begins[g, h + 1] - begins[g] * width1 - begins[h + 1]
            for i in range(count):
                pairs[origin0 + joint[i] * width0 + other0[i]] += curvature[i]
                pairs[origin1 + joint[i] * width1 + other1[i]] += curvature[i]
            h += 2
        if h < groups:
            other0 = joining.codes[h]
            width0 = begins[h + 1] - begins[h]
            origin0 = joining.pair_begins[g, h] - begins[g] * width0 - begins[h]
            for i in range(count):
                pairs[origin0 + joint[i] * width0 + other0[i]] += curvature[i]


@kernel
def unfold_slopes(starts, joining, gradient):
    """gradient[slot] += slopes of all joint slots that have the level; the joint sums are zero again."""
    for g in range(joining.begins.size - 1):
        begin = joining.begins[g]
        end = joining.begins[g + 1]
        for m in range(joining.first_member[g], joining.first_member[g + 1]):
            start = starts[joining.members[m]]
            for slot in range(begin, end):
                gradient[start + joining.levels[m, slot - begin]] += joining.sums[slot, SLOPE]
        for slot in range(begin, end):
            joining.sums[slot, SLOPE] = 0.0


@kernel
def unfold_group(g, starts, widths, pair_starts, dense, intercept, joining, gradient, diagonal, cross, pairs):
    """What the lines of a group are of its factors, and of two of them; the lines are zero again."""
    base = starts[0]
    begin = joining.begins[g]
    for slot in range(joining.begins[g + 1] - begin):
        line = joining.sums[begin + slot]
        for m in range(joining.first_member[g], joining.first_member[g + 1]):
            f = joining.members[m]
            level = joining.levels[m, slot]
            place = starts[f] - base + level
            diagonal[place] += line[CURVATURE]
            gradient[base + place] += line[SLOPE]
            for j in range(intercept, dense):
                cross[j, place] += line[PRODUCTS + j - intercept]
            for n in range(m + 1, joining.first_member[g + 1]):  # members ascend
                h = joining.members[n]
                at = pair_starts[f, h] + level * widths[h] + joining.levels[n, slot]
                pairs[at] += line[CURVATURE]
        for lane in range(line.size):
            line[lane] = 0.0


@kernel
def unfold_pair(g, h, widths, pair_starts, joining, pairs):
    """What the table of two groups is of a factor of the one and one of the other; it is zero again.

    Each row of the table first becomes sums by level of the other factor.
    """
    size = joining.begins[h + 1] - joining.begins[h]
    begin = joining.pair_begins[g, h]
    by_level = joining.by_level
    for slot in range(joining.begins[g + 1] - joining.begins[g]):
        row = joining.pairs[begin + slot * size : begin + (slot + 1) * size]
        for n in range(joining.first_member[h], joining.first_member[h + 1]):
            b = joining.members[n]
            levels = joining.levels[n]
            for level in range(widths[b]):
                by_level[level] = 0.0
            for other in range(size):
                by_level[levels[other]] += row[other]
            for m in range(joining.first_member[g], joining.first_member[g + 1]):
                a = joining.members[m]
                level_of_a = joining.levels[m, slot]
                if a < b:
                    at = pair_starts[a, b] + level_of_a * widths[b]
                    step = 1
                else:
                    at = pair_starts[b, a] + level_of_a
                    step = widths[a]
                for level in range(widths[b]):
                    pairs[at] += by_level[level]
                    at += step
        for other in range(size):
            row[other] = 0.0


@kernel
def unfold(starts, widths, pair_starts, dense, intercept, joining, gradient, diagonal, cross, pairs):
    """Add the joint tables to those of factors and of pairs of factors, and leave them zero.

    A table of a factor is the sum of joint slots that have its level, one of two factors of those that have
    both levels.
    """
    groups = joining.begins.size - 1
    for g in range(groups):
        unfold_group(
            g, starts, widths, pair_starts, dense, intercept, joining, gradient, diagonal, cross, pairs
        )
        for h in range(g + 1, groups):
            unfold_pair(g, h, widths, pair_starts, joining, pairs)
