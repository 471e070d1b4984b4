"""Factors taken together against factors one by one, in small whole numbers: every order is exact."""

from __future__ import annotations

import numpy as np
import pytest

from streamlr.design import layout as layouts
from streamlr.design.basis import Basis
from streamlr.design.layout import Layout
from streamlr.kernels.gram import add_factors
from streamlr.kernels.joint import (
    NOT_JOINED,
    Joining,
    add_joint,
    add_joint_predictor,
    add_joint_slopes,
    join_codes,
    join_coef,
    unfold,
    unfold_slopes,
)
from streamlr.kernels.tile import Block
from streamlr.passes.sums import Sums, joining_for, scratch_for

# One group, groups of one, two and three factors, and several of them.
LEVELS = [
    (1,),
    (40,),
    (2, 400, 5),
    (2, 3),
    (11, 19, 15, 2, 104),
    (1, 2, 3, 4, 5, 6, 7),
    (200, 1, 200),
    (15, 15, 15, 15),
]


def layout_of(numeric: int, levels: tuple[int, ...], intercept: int = 1) -> Layout:
    return Layout((-1,) * intercept + tuple(range(numeric + len(levels))), numeric, levels)


def whole(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers as doubles."""
    return rng.integers(-9, 10, shape).astype(np.float64)


def codes_of(rng: np.random.Generator, levels: tuple[int, ...], rows: int) -> np.ndarray:
    """(c, rows) int32 from -1, "no column", to the last level, both of which occur."""
    codes = np.array([rng.integers(-1, count, rows) for count in levels], dtype=np.int32)
    codes[:, :1] = -1
    codes[:, 1:2] = np.array(levels)[:, np.newaxis] - 1
    return codes


def is_zero(joining: Joining) -> bool:
    return not (joining.sums.any() or joining.pairs.any())


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("numeric", "intercept"), [(0, 1), (1, 0), (3, 1), (6, 1), (7, 0), (28, 1)])
@pytest.mark.parametrize("counts", [(), (0,), (1,), (2, 60)])
def test_joint_tables_unfold_into_those_of_factors(
    levels: tuple[int, ...], numeric: int, intercept: int, counts: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(numeric)
    layout = layout_of(numeric, levels, intercept)
    assert layout.joints
    joining = joining_for(layout)
    joined, apart = (Sums(layout, first=False).totals for _ in range(2))
    codes = codes_of(rng, levels, 5 + sum(counts))
    first = 3
    dense, plain = layout.dense, layout.plain
    for count in counts:
        tile = np.zeros((layout.padded, 64))
        tile[:dense, :count] = whole(rng, dense, count)
        root = rng.integers(0, 5, 64).astype(np.float64)
        slope, curvature = whole(rng, 64), root**2
        join_codes(codes, first, count, joining)
        add_joint(tile, root, curvature, slope, count, dense, intercept, joining)
        add_factors(
            tile, root, curvature, slope, codes, layout.starts, plain, layout.widths, layout.pair_starts,
            first, count, dense, intercept, apart.gradient, apart.diagonal, apart.cross, apart.pairs,
        )  # fmt: skip
        first += count
    unfold(
        layout.starts, layout.widths, layout.pair_starts, dense, intercept, joining,
        joined.gradient, joined.diagonal, joined.cross, joined.pairs,
    )  # fmt: skip
    for name in ("gradient", "diagonal", "cross", "pairs"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(apart, name), err_msg=name)
    assert is_zero(joining)


@pytest.mark.parametrize("levels", LEVELS)
def test_slopes_alone_unfold_into_the_gradient(levels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    layout = layout_of(2, levels)
    joining = joining_for(layout)
    codes = codes_of(rng, levels, 50)
    slope = whole(rng, 64)
    join_codes(codes, 4, 40, joining)
    add_joint_slopes(slope, 40, joining)
    gradient = np.zeros(layout.slots)
    unfold_slopes(layout.starts, joining, gradient)
    want = np.zeros(layout.slots)
    for row, start in zip(codes[:, 4:44], layout.starts, strict=True):
        np.add.at(want, start + 1 + row, slope[:40])
    np.testing.assert_array_equal(gradient, want)
    assert is_zero(joining)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_joint_coefficient_is_the_sum_of_those_of_the_levels(levels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    layout = layout_of(2, levels)
    joining = joining_for(layout)
    codes = codes_of(rng, levels, 50)
    coef = whole(rng, layout.slots)
    eta = whole(rng, 64)
    want = eta.copy()
    for row, start in zip(codes[:, 4:44], layout.starts, strict=True):
        want[:40] += coef[start + 1 + row]
    join_coef(coef, layout.starts, joining)
    join_codes(codes, 4, 40, joining)
    add_joint_predictor(40, joining, eta)
    np.testing.assert_array_equal(eta, want)


@pytest.mark.parametrize("with_hessian", [False, True])
@pytest.mark.parametrize("hosts", [(), (0,)])
def test_a_block_has_the_same_sums_either_way(with_hessian: bool, hosts: tuple[int, ...]) -> None:
    """Over several tiles, with weights and an offset, and beside a factor with a scale."""
    rng = np.random.default_rng(3)
    levels = (11, 3, 6, *(11,) * len(hosts))
    layout = Layout(tuple(range(-1, 2 + len(levels))), 2, levels, hosts, full_hosts=(False,) * len(hosts))
    rows = 2_500
    block = Block(
        [rng.normal(size=rows) for _ in range(2 + len(hosts))],
        codes_of(rng, levels, rows),
        rng.integers(0, 2, rows).astype(np.int8),
        np.empty(0),
        rng.integers(0, 4, rows).astype(np.float64),
        rng.normal(size=rows),
    )
    columns = layout.numeric + layout.scaled
    conditioning = Basis.of(layout, np.full(columns, 0.1), np.full(columns, 2.0)).conditioning()
    coef = layout.to_slots(0.1 * rng.normal(size=layout.columns))
    scratch = scratch_for(layout)
    assert scratch.joining.strides.size == 3
    always = scratch.joining._replace(least_rows=0)
    never = scratch.joining._replace(least_rows=rows + 1)
    found = []
    for joining in (always, never, NOT_JOINED):
        sums = Sums(layout, False, with_hessian)
        sums.add(block, conditioning, coef, 0.0, scratch._replace(joining=joining))
        found.append(sums.totals)
    joined, *apart = found
    for other in apart:
        for name in ("scalars", "gradient", "gram", "diagonal", "cross", "pairs"):
            got, want = getattr(joined, name), getattr(other, name)
            atol = 1e-13 * np.abs(want, where=np.isfinite(want), out=np.zeros_like(want)).max(initial=0.0)
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=name)
    assert apart[0].pairs.tobytes() == apart[1].pairs.tobytes()
    assert (joined.pairs.tobytes() != apart[0].pairs.tobytes()) == with_hessian  # it did go the other way
    assert is_zero(always)


def test_a_block_too_short_to_be_worth_unfolding_is_added_factor_by_factor() -> None:
    layout = layout_of(3, (11, 19, 15, 2, 104))
    joining = joining_for(layout)
    cells = joining.pairs.size + joining.sums.size
    assert joining.least_rows == cells // layouts.CELLS_A_SAVING
    assert joining.sums.shape == (105 + 12 * 20 + 16 * 3, 8)  # curvature, slope and three numbers in one line
    assert joining.sums.ctypes.data % 64 == joining.lines.ctypes.data % 64 == 0


# Groups


def test_small_factors_fill_groups() -> None:
    """104 levels alone, 11 with 19 and 15 with 2: products of slots up to 256."""
    assert layout_of(3, (11, 19, 15, 2, 104)).joints == ((4,), (0, 1), (2, 3))
    assert layout_of(0, (1, 1, 1)).joints == ((0, 1, 2),)
    assert layout_of(5, ()).joints == ()


def test_a_long_factor_stays_alone_beside_others_that_are_joined() -> None:
    assert layout_of(3, (300, 12, 7, 4, 2)).joints == ((0,), (1, 2), (3, 4))
    assert layout_of(3, (2, 3, 1000)).joints == ((2,), (0, 1))


@pytest.mark.parametrize("levels", [(256,), (2, 1100, 3), (90, 91, 92, 93, 94, 95, 96, 97, 98)])
def test_tables_too_large_for_a_cache_are_not_joined(levels: tuple[int, ...]) -> None:
    layout = layout_of(1, levels)
    assert layout.joints == ()
    assert joining_for(layout) is NOT_JOINED


def test_only_factors_without_a_scale_are_joined() -> None:
    layout = Layout((-1, 0, 1, 2), 0, (3, 4, 3), hosts=(0,), full_hosts=(False,))
    assert layout.joints == ((0, 1),)


def test_every_factor_is_in_one_group() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        levels = tuple(int(count) for count in rng.integers(1, 40, rng.integers(1, 9)))
        layout = layout_of(1, levels)
        if layout.joints:
            assert sorted(f for group in layout.joints for f in group) == list(range(len(levels)))
            for group in layout.joints:
                most = layouts.MOST_JOINT if len(group) > 1 else layouts.MOST_ALONE
                assert np.prod(layout.widths[list(group)]) <= most
                assert list(group) == sorted(group)
