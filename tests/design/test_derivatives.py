"""Derivatives of expressions against differences of their values, and what they are at kinks and knots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamlr.design.derivatives import SlopeReader, derivative, is_smooth_in
from streamlr.design.expressions import parse_expression, text_of
from streamlr.design.features import Feature
from streamlr.design.values import Frame, as_numbers, evaluate

RNG = np.random.default_rng(11)
X = RNG.uniform(0.3, 4.7, 200)
Y = RNG.uniform(0.5, 3.5, 200)

# What functions with a state have learned, by their text.
SPLINE = {"knots": [1.5, 3.0], "lower": 0.5, "upper": 4.5}
STATES: dict[str, dict[str, Any]] = {
    "center(x)": {"mean": 2.4},
    "scale(x)": {"mean": 2.4, "deviation": 1.7},
    "standardize(log(x))": {"mean": 0.6, "deviation": 0.8},
    "poly(x, 3)": {"mean": 2.4, "alpha": [0.1, -0.2, 0.05], "norm2": [1.0, 200.0, 310.0, 250.0, 240.0]},
    "bs(x, df=5)": {**SPLINE, "degree": 3, "intercept": False},
    "bs(x, df=3, degree=1)": {**SPLINE, "degree": 1, "intercept": False},
    "bs(x, df=7, degree=4, include_intercept=True)": {**SPLINE, "degree": 4, "intercept": True},
    "bs(x, df=9, degree=9)": {"knots": [], "lower": 0.5, "upper": 4.5, "degree": 9, "intercept": False},
    "bs(x, knots=[2, 2, 2])": {**SPLINE, "knots": [2.0, 2.0, 2.0], "degree": 3, "intercept": False},
    "bs(log(x + y), df=5)": {**SPLINE, "degree": 3, "intercept": False},
    "ns(x, df=3)": {**SPLINE, "intercept": False},
    "ns(x**2, df=4, include_intercept=True)": {**SPLINE, "upper": 16.0, "intercept": True},
    "cr(x, df=4)": {"knots": [0.5, 1.5, 3.0, 4.5]},
}

SMOOTH = [
    "x",
    "-x",
    "3",
    "y",
    "x + y",
    "y - x",
    "x - 2 * x",
    "x * y",
    "x * x * y",
    "x / y",
    "y / x",
    "x / (1 + x)",
    "x // 2",
    "x % 2",
    "y % x",
    "x**2",
    "x**0.5",
    "x**(-1.5)",
    "2**x",
    "x**y",
    "x**0",
    "I(x)",
    "log(x)",
    "log1p(x * y)",
    "log2(x)",
    "log10(x + y)",
    "exp(-x / y)",
    "sqrt(x)",
    "abs(x - y)",
    "sign(x - 2)",
    "floor(x) * x",
    "ceil(x) + x",
    "round(x, 1)",
    "clip(x, 1, 3)",
    "clip(x * y, 2)",
    "min(x, y)",
    "max(x, y, 2)",
    "max(x, 2 * x - y)",
    "(x > 2) * x",
    "isnull(x) + x",
    *STATES,
]


def frame_of(**columns: np.ndarray) -> Frame:
    return Frame(pa.RecordBatch.from_arrays([pa.array(v) for v in columns.values()], names=list(columns)))


@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("text", SMOOTH)
def test_derivatives_are_what_differences_tend_to(text, column):
    """At points of which none is near a kink: of 200 at random some are, and are left out."""
    expression = parse_expression(text)
    assert text_of(expression) == text
    h = 1e-4
    base = {"x": X, "y": Y}

    def value(times: float) -> np.ndarray:
        moved = {**base, column: base[column] + times * h}
        return np.atleast_2d(as_numbers(evaluate(expression, frame_of(**moved), STATES)))

    near = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * h)
    wide = (8 * (value(2) - value(-2)) - (value(4) - value(-4))) / (24 * h)
    # Around a kink differences of two widths are not the same.
    smooth = np.abs(near - wide).max(axis=0) <= 1e-6 * (1 + np.abs(near).max(axis=0))
    assert smooth.mean() > 0.97
    found = np.atleast_2d(derivative(expression, column, frame_of(**base), STATES))
    assert found.shape == near.shape
    # 1e-8: rounding over the step, and what is left of a jump of the third derivative at a knot.
    scale = 1 + np.abs(near).max(axis=0)
    assert (np.abs(found - near) / scale)[:, smooth].max() < 1e-8


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("abs(x)", 0.0, 0.0),
        ("clip(x, 1, 3)", 1.0, 0.5),
        ("clip(x, 1, 3)", 3.0, 0.5),
        ("clip(x, 1)", 5.0, 1.0),
        ("max(x, 2)", 2.0, 0.5),
        ("min(x, 2)", 2.0, 0.5),
        ("max(x, x)", 2.0, 1.0),
        ("x**2", 0.0, 0.0),
        ("x**1", 0.0, 1.0),
        ("x**0", 0.0, 0.0),
        ("floor(x)", 2.0, 0.0),
        ("x % 3", 7.0, 1.0),
        ("sqrt(x)", 0.0, np.inf),
        ("(-1 * x)**3", 2.0, -12.0),
        ("x // 1", 2.5, 0.0),
    ],
)
def test_kinks_have_the_mean_of_both_sides(text, at, expected):
    found = derivative(parse_expression(text), "x", frame_of(x=np.array([at])), {})
    assert found.tolist() == [expected]


def test_a_knot_has_the_slope_to_its_right():
    text = "bs(x, df=3, degree=1)"
    frame = frame_of(x=np.array([1.5, 1.5 + 1e-9, 1.5 - 1e-9]))
    at, right, left = derivative(parse_expression(text), "x", frame, STATES).T
    np.testing.assert_allclose(at, right, rtol=1e-12)
    assert np.abs(at - left).max() > 0.5


def test_beyond_the_boundaries_splines_go_on_as_they_do():
    frame = frame_of(x=np.array([-3.0, 0.5, 4.5, 9.0]))
    for text in ("ns(x, df=3)", "cr(x, df=4)"):
        found = derivative(parse_expression(text), "x", frame, STATES)
        np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found[:, 2], found[:, 3], rtol=1e-12, atol=1e-14)
    expression = parse_expression("bs(x, df=5)")
    low, high = (
        as_numbers(evaluate(expression, frame_of(x=np.array([9.0 + d])), STATES)) for d in (-1e-5, 1e-5)
    )
    found = derivative(expression, "x", frame, STATES)[:, 3]
    np.testing.assert_allclose(found, ((high - low) / 2e-5)[:, 0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "smooth"),
    [
        ("x", True),
        ("log(x)", True),
        ("x * 2", True),
        ("y", False),
        ("floor(x)", False),
        ("x // 2", False),
        ("x > 2", False),
        ("(x > 2) * y", False),
        ("isnull(x)", False),
        ("log(floor(x))", False),
        ("max(y, floor(x))", False),
        ("max(y, x)", True),
        ("C(x)", False),
        ("cut(x, breaks=[1, 2])", False),
        ("bs(x, df=4)", True),
        ("bs(x, df=4, degree=0)", False),
    ],
)
def test_what_only_jumps_does_not_move(text, smooth):
    assert is_smooth_in(parse_expression(text), "x") is smooth


def test_a_reader_reads_one_variable_as_its_derivative():
    log_x = Feature(parse_expression("log(x)"), "log(x)", categorical=False, named=True)
    plain = Feature(parse_expression("x"), "x", categorical=False, named=True)
    reader = SlopeReader(of=log_x, column="x")
    frame = frame_of(x=X)
    gaps: dict[str, np.ndarray] = {}
    np.testing.assert_allclose(reader.numeric(log_x, frame, gaps)[0], 1 / X, rtol=1e-15)
    np.testing.assert_array_equal(reader.numeric(plain, frame, gaps)[0], X)
    np.testing.assert_array_equal(SlopeReader(of=plain, column="x").numeric(plain, frame, gaps)[0], 1.0)
    assert gaps == {}
