"""Spline, polynomial and contrast bases against R, formulaic, and what they are by definition.

`reference/data/bases.json` holds R's numbers; `scripts/make_bases_reference.R` wrote it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formulaic.transforms.cubic_spline import cubic_spline
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamlr.design import bases
from streamlr.errors import StreamlrError

REFERENCE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "reference" / "data" / "bases.json").read_text()
)
SPLINES = [(bases.bspline, case) for case in REFERENCE["bspline"]] + [
    (bases.natural_spline, case) for case in REFERENCE["natural"]
]
assert len(SPLINES) == 18

# Both sides round: each value is a short sum of products whose terms are of the size of the column, which far
# beyond the boundaries is that of its polynomial.
TOLERANCE = 1e-12

# One call of each function, for what holds of all of them.
CALLS: dict[str, Callable[[Any], NDArray[np.float64]]] = {
    "bspline": lambda x: bases.bspline(x, [0.2, 0.5], 0.0, 1.0),
    "bspline of degree 0": lambda x: bases.bspline(x, [0.2, 0.5], 0.0, 1.0, degree=0, intercept=True),
    "natural_spline": lambda x: bases.natural_spline(x, [0.2, 0.5, 0.7], 0.0, 1.0),
    "cardinal_spline": lambda x: bases.cardinal_spline(x, [0.0, 0.2, 0.5, 1.0]),
    "polynomial_values": lambda x: bases.polynomial_values(x, [0.5, 0.4], [1.0, 9.0, 3.0, 2.0]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def assert_columns(got: NDArray[np.float64], wanted: Any) -> None:
    expected = np.array(wanted, dtype=np.float64)
    assert got.shape == expected.T.shape
    for column, values in zip(got.T, expected, strict=True):
        np.testing.assert_allclose(column, values, rtol=0, atol=TOLERANCE * np.max(np.abs(values)))


# Against R


@pytest.mark.parametrize(("function", "case"), SPLINES)
def test_splines_are_those_of_r(function: Callable[..., Any], case: dict[str, Any]) -> None:
    arguments = {name: value for name, value in case.items() if name != "columns"}
    assert_columns(function(**arguments), case["columns"])


@pytest.mark.parametrize("case", REFERENCE["polynomial"])
def test_polynomials_are_those_of_r(case: dict[str, Any]) -> None:
    assert_columns(bases.polynomial_values(case["x"], case["alpha"], case["norm2"]), case["columns"])


@pytest.mark.parametrize("case", REFERENCE["contrast"], ids=lambda case: f"{case['coding']}-{case['count']}")
def test_contrasts_are_those_of_r(case: dict[str, Any]) -> None:
    matrix = bases.contrast_matrix(case["coding"], case["count"])
    assert matrix.shape == (case["count"], case["count"] - 1)
    assert_columns(matrix, case["columns"])


def test_polynomial_contrasts_are_named_as_in_r() -> None:
    names = bases.contrast_suffixes("poly", range(7))
    assert list(names) == [f"[{name}]" for name in REFERENCE["polynomial_names"]]


@pytest.mark.parametrize("case", REFERENCE["knots"])
def test_knots_are_at_the_quantiles_of_r(case: dict[str, Any]) -> None:
    probabilities = bases.quantile_probabilities(case["count"])
    np.testing.assert_allclose(probabilities, case["bs"], rtol=1e-15)  # R adds up steps of a rounded width
    np.testing.assert_allclose(probabilities, case["ns"], rtol=1e-15)


# Against formulaic


@pytest.mark.parametrize(
    "knots", [[0.0, 0.4, 1.0], [-1.0, 0.1, 0.3, 1.5, 2.0], [1985.0, 1990, 2001.5, 2003, 2010, 2013]]
)
def test_cardinal_splines_are_those_of_formulaic(knots: list[float]) -> None:
    width = knots[-1] - knots[0]
    x = np.concatenate([np.linspace(knots[0] - 2 * width, knots[-1] + 1.5 * width, 40), knots])
    theirs = cubic_spline(
        x, knots=knots[1:-1], lower_bound=knots[0], upper_bound=knots[-1], extrapolation="extend", _state={}
    )
    assert_columns(bases.cardinal_spline(x, knots), list(theirs.values()))


def test_cardinal_knots_are_where_formulaic_puts_them() -> None:
    # Half of the values are equal, and count once.
    x = np.concatenate([np.zeros(50), np.random.default_rng(3).gamma(2.0, size=51)])
    state: dict[str, Any] = {}
    cubic_spline(x, df=6, _state=state)
    knots = np.quantile(np.unique(x), bases.cr_probabilities(6))
    np.testing.assert_allclose(knots, state["knots"], rtol=1e-14)


# What they are by definition


def test_bsplines_without_knots_are_bernstein_polynomials_however_far_beyond() -> None:
    for x in (0.25, -7.0, 3.0, 1e6, -1e9):
        got = bases.bspline([x], [], 0.0, 1.0, intercept=True)[0]
        wanted = [math.comb(3, k) * x**k * (1 - x) ** (3 - k) for k in range(4)]
        np.testing.assert_allclose(got, wanted, rtol=1e-14)


def test_cardinal_coefficients_are_values_at_knots() -> None:
    knots = [0.0, 1.0, 1.5, 4.0]
    np.testing.assert_allclose(bases.cardinal_spline(knots, knots), np.eye(4), atol=1e-15)


def test_two_cardinal_knots_make_a_line() -> None:
    got = bases.cardinal_spline([-1.0, 0.0, 1.0, 2.0, 5.0], [0.0, 2.0])
    np.testing.assert_allclose(got[:, 1], [-0.5, 0.0, 0.5, 1.0, 2.5])
    np.testing.assert_allclose(got.sum(axis=1), 1.0)


def test_splines_of_degree_0_are_steps_from_the_right() -> None:
    got = bases.bspline([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 3.0], 0.0, 4.0, degree=0, intercept=True)
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("inner", [[1.0, 4.0], [4.0], [0.0, 4.0, 4.0]])
def test_a_knot_on_the_upper_boundary_changes_nothing_but_a_column_of_zeros(inner: list[float]) -> None:
    # R 4.2 has NaN beyond the boundary here.
    x = np.linspace(-1, 5, 25)
    below = [knot for knot in inner if knot < 4]
    got = bases.bspline(x, inner, 0.0, 4.0, intercept=True)
    wanted = bases.bspline(x, below, 0.0, 4.0, intercept=True)
    np.testing.assert_allclose(got[:, : wanted.shape[1]], wanted, rtol=1e-13, atol=1e-13)
    assert not got[:, wanted.shape[1] :].any()
    assert got.shape[1] == len(inner) + 4


# Knots are on a grid that repeats them often, and never so close that one over their distance overflows.
GRID = st.integers(0, 16).map(lambda place: place / 16)


@given(
    inner=st.lists(GRID, max_size=6),
    degree=st.integers(0, 5),
    x=st.lists(GRID | st.floats(0.0, 1.0), min_size=1, max_size=20),
)
def test_bsplines_are_shares_of_one(inner: list[float], degree: int, x: list[float]) -> None:
    got = bases.bspline(x, inner, 0.0, 1.0, degree=degree, intercept=True)
    assert got.min() >= 0
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-13)


def exact_polynomials(count: int) -> list[list[Fraction]]:
    """Gram-Schmidt in fractions: powers of 0 ... count - 1, each less its projections on those before."""
    made: list[list[Fraction]] = []
    for degree in range(count):
        vector = [Fraction(place) ** degree for place in range(count)]
        for other in made:
            share = sum(a * b for a, b in zip(vector, other, strict=True)) / sum(b * b for b in other)
            vector = [a - share * b for a, b in zip(vector, other, strict=True)]
        made.append(vector)
    return made


def test_polynomial_contrasts_are_exact_where_r_has_lost_its_digits() -> None:
    count = 40
    wanted = [
        [float(value) / math.sqrt(sum(v * v for v in vector)) for value in vector]
        for vector in exact_polynomials(count)[1:]
    ]
    assert_columns(bases.contrast_matrix("poly", count), wanted)


def test_contrast_names() -> None:
    assert bases.contrast_suffixes("sum", ["a", "b", "c"]) == ("[S.a]", "[S.b]")
    assert bases.contrast_suffixes("helmert", [False, True]) == ("[H.True]",)
    assert bases.contrast_suffixes("poly", [1, 2, 3, 4, 5]) == ("[.L]", "[.Q]", "[.C]", "[^4]")


# What holds of all


@every_call
def test_a_missing_value_is_a_missing_row_and_no_other(call: Callable[[Any], NDArray[np.float64]]) -> None:
    got = call(np.array([0.3, np.nan, 0.9, np.nan]))
    assert np.isnan(got[[1, 3]]).all()
    assert np.isfinite(got[[0, 2]]).all()
    np.testing.assert_array_equal(got[[0, 2]], call(np.array([0.3, 0.9])))


@every_call
def test_infinities_and_huge_values_pass_without_a_warning(
    call: Callable[[Any], NDArray[np.float64]],
) -> None:
    # Warnings are errors here.
    got = call(np.array([np.inf, 0.3, -np.inf, 1e200, -1e308]))
    np.testing.assert_array_equal(got[1], call([0.3])[0])


@every_call
def test_a_row_does_not_depend_on_its_batch(call: Callable[[Any], NDArray[np.float64]]) -> None:
    x = np.random.default_rng(5).normal(0.5, 0.5, size=2 * bases.ROWS_AT_A_TIME + 77)
    whole = call(x)
    for start, stop in ((0, 1), (3, 10), (bases.ROWS_AT_A_TIME - 5, bases.ROWS_AT_A_TIME + 8), (11, len(x))):
        np.testing.assert_array_equal(call(x[start:stop]), whole[start:stop])


@every_call
def test_shape_and_memory(call: Callable[[Any], NDArray[np.float64]]) -> None:
    got = call(np.arange(7))
    assert got.dtype == np.float64
    assert all(column.flags.c_contiguous for column in got.T)
    assert call([]).shape == (0, got.shape[1])


def test_nothing_imports_scipy_interpolate() -> None:
    code = (
        "import sys; from streamlr.design import bases as b; b.bspline([1.0], [], 0, 2); "
        "b.natural_spline([1.0], [], 0, 2); b.cardinal_spline([1.0], [0, 1, 2]); "
        "b.contrast_matrix('poly', 4); "
        "sys.exit('scipy.interpolate' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bases.bspline([1.0], [], 3.0, 3.0), "lower boundary below its upper one, not 3.0 and 3.0"),
        (lambda: bases.bspline([1.0], [], 0.0, np.nan), "not 0.0 and nan"),
        (lambda: bases.natural_spline([1.0], [], -np.inf, 1.0), "not -inf and 1.0"),
        (lambda: bases.bspline([1.0], [0.5, 6.0], 0.0, 4.0), "0.0 and 4.0; these do not: 6.0$"),
        (lambda: bases.natural_spline([1.0], [np.nan], 0.0, 4.0), "these do not: nan"),
        (lambda: bases.bspline([1.0], [], 0.0, 1.0, degree=-1), "0 or more, not -1"),
        (lambda: bases.cardinal_spline([1.0], [0.0]), "two or more knots that ascend, not 0.0$"),
        (lambda: bases.cardinal_spline([1.0], [0.0, 1.0, 1.0]), "ascend, not 0.0, 1.0, 1.0"),
        (lambda: bases.cardinal_spline([1.0], [0.0, 1.0, np.inf]), "ascend, not 0.0, 1.0, inf"),
        (lambda: bases.quantile_probabilities(-1), "cannot have -1 inner knots"),
        (lambda: bases.cr_probabilities(1), "2 or more knots, not 1"),
        (lambda: bases.polynomial_values([1.0], [0.0], [1.0, 2.0]), "not 1 and 2"),
        (lambda: bases.polynomial_values([1.0], [], [1.0, 2.0]), "not 0 and 2"),
        (lambda: bases.polynomial_values([1.0], [0.0], [1.0, 2.0, 0.0]), "take a lower degree"),
        (lambda: bases.contrast_matrix("helmet", 3), "sum, helmert, poly. Did you mean 'helmert'"),
        (lambda: bases.contrast_suffixes("treatment", "ab"), "no contrasts called 'treatment'"),
        (lambda: bases.contrast_matrix("sum", 1), "two or more levels; there is 1"),
        (lambda: bases.contrast_suffixes("poly", ["a"]), "two or more levels; there is 1"),
    ],
)
def test_refusals_say_what_is_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(StreamlrError, match=message):
        call()


def test_no_inner_knots_have_no_probabilities() -> None:
    assert bases.quantile_probabilities(0).shape == (0,)
