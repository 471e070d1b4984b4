"""Fourth powers along combinations of columns, against whole matrices."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from test_block import block_of, conditioning_of, layout_of

from streamlr.passes.sums import Sums, scratch_for


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize(
    ("numeric", "intercept", "rows"), [(0, True, 7), (1, False, 1), (2, True, 3_000), (7, True, 1_025)]
)
@pytest.mark.parametrize("asked", [1, 4, 9])
def test_fourth_powers_are_those_of_whole_matrices(
    numeric: int, intercept: bool, rows: int, asked: int, reduced: bool
) -> None:
    """To single precision, whatever the number of rows and combinations; other sums do not change."""
    if reduced and numeric + intercept < 2:
        pytest.skip("nothing to reduce by")
    layout = layout_of(numeric, (), intercept)
    block = block_of(layout, rows, dtype=np.float32, trials=True, weight=True, offset=True)
    conditioning = conditioning_of(layout, reduced)
    rng = np.random.default_rng(3)
    coef = rng.normal(size=layout.slots) * 0.2
    along = rng.normal(size=(asked, layout.slots))
    sums = Sums(layout, first=True, along=asked)
    plain = Sums(layout, first=True)
    for _ in range(2):
        sums.add(block, conditioning, coef, 0.0, scratch_for(layout, along=along))
        plain.add(block, conditioning, coef, 0.0, scratch_for(layout))

    X = naive.design_matrix(block, conditioning, layout.slots)
    _, _, curvature = naive.losses(X @ coef + block.offset, *naive.outcomes(block))
    expected = 2 * ((X @ along.T) ** 4 * curvature[:, None]).sum(axis=0)
    assert sums.fourth.shape == (asked,)
    np.testing.assert_allclose(sums.fourth, expected, rtol=1e-4)
    for name in ("scalars", "gradient", "gram"):
        np.testing.assert_array_equal(getattr(sums.totals, name), getattr(plain.totals, name))
    assert plain.fourth.size == 0


def test_fourth_powers_merge() -> None:
    layout = layout_of(3, ())
    along = np.random.default_rng(1).normal(size=(2, layout.slots))
    conditioning = conditioning_of(layout)

    def of(*seeds: int) -> Sums:
        sums = Sums(layout, first=False, along=2)
        for seed in seeds:
            block = block_of(layout, 500, seed=seed)
            sums.add(block, conditioning, np.zeros(layout.slots), 0.0, scratch_for(layout, along=along))
        return sums

    np.testing.assert_allclose(of(1).merge(of(2)).fourth, of(1, 2).fourth, rtol=1e-14)
