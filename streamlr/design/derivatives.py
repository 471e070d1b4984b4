"""How variables change with a column: derivatives of expressions, exact row by row, for marginal effects.

The rules of differentiation are applied to the tree of an expression while it is evaluated, so nothing is
differenced and no step has to be chosen. What only jumps (`floor`, `sign`, comparisons, levels of a factor)
has derivative zero wherever it has one. At a kink (`abs` at 0, `clip` at its bounds, `min` and `max` where
two are equal) it is the mean of both sides, at a knot of a spline that from the right.

A `SlopeReader` reads one variable as its derivative and all others as they are, so that whatever multiplies
columns multiplies these: by the product rule the derivative of a row is the sum of such rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from streamlr.design.bases import bspline, cardinal_spline, natural_spline
from streamlr.design.expressions import Call, Column, Expression, Operation, text_of
from streamlr.design.features import Feature, Gaps, Reader
from streamlr.design.functions import SEVERAL, options_of
from streamlr.design.values import Frame, State, as_numbers, evaluate

Floats = NDArray[np.float64]

# Of y = f(x), what x' is multiplied by, from x and y.
RULES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "log": lambda x, y: 1.0 / x,
    "log1p": lambda x, y: 1.0 / (1.0 + x),
    "log2": lambda x, y: 1.0 / (x * np.log(2.0)),
    "log10": lambda x, y: 1.0 / (x * np.log(10.0)),
    "exp": lambda x, y: y,
    "sqrt": lambda x, y: 0.5 / y,
    "abs": lambda x, y: np.sign(x),
}
SMOOTH = (*RULES, *SEVERAL, "I", "clip", "min", "max", "center", "scale", "standardize")


def is_smooth_in(expression: Expression, column: str) -> bool:
    """Whether an expression changes with a numeric column otherwise than by jumps."""
    if isinstance(expression, Column):
        return expression.name == column
    if isinstance(expression, Operation):
        arithmetic = expression.operator in ("+", "-", "*", "/", "%", "**")
        return arithmetic and any(is_smooth_in(operand, column) for operand in expression.operands)
    if isinstance(expression, Call):
        steps = expression.function == "bs" and options_of(expression).get("degree") == 0
        return (
            expression.function in SMOOTH
            and not steps
            and any(is_smooth_in(argument, column) for argument in expression.arguments)
        )
    return False


def derivative(expression: Expression, column: str, frame: Frame, states: Any) -> Floats:
    """The derivative of a numeric expression with respect to a numeric column, row by row.

    Args:
        expression: numbers (n,), or the (m, n) of a function with m columns.
        column: the column that moves; others, even those made of it, stand still.
        frame: n rows in which nothing that the expression reads is missing.
        states: what functions have learned, by the text of their calls.

    Returns:
        (n,) or (m, n); infinite or NaN where there is no derivative, as of sqrt(x) at 0.
    """
    with np.errstate(all="ignore"):
        found = _derivative(expression, column, frame, states)
    if found is None:
        return np.zeros_like(as_numbers(evaluate(expression, frame, states)))
    return found


def _derivative(expression: Expression, column: str, frame: Frame, states: Any) -> Floats | None:
    """The derivative, None where it is zero in all rows."""
    if not is_smooth_in(expression, column):
        return None
    if isinstance(expression, Column):
        return np.ones(frame.rows)
    if isinstance(expression, Operation):
        return _of_operation(expression, column, frame, states)
    assert isinstance(expression, Call)
    if expression.function in ("min", "max"):
        return _of_extreme(expression, column, frame, states)
    argument = expression.arguments[0]
    moved = _derivative(argument, column, frame, states)
    assert moved is not None, "the other arguments are constants"
    if expression.function in ("I", "center"):
        return moved
    x = as_numbers(evaluate(argument, frame, states))
    if expression.function in RULES:
        return moved * RULES[expression.function](x, as_numbers(evaluate(expression, frame, states)))
    if expression.function == "clip":
        return moved * _inside(x, **options_of(expression))
    state = states[text_of(expression)]
    if expression.function in ("scale", "standardize"):
        return moved / state["deviation"]
    return moved * _of_basis(expression.function, x, state)


def _of_operation(operation: Operation, column: str, frame: Frame, states: Any) -> Floats:
    moved = [_derivative(operand, column, frame, states) for operand in operation.operands]
    a, b = moved[0], moved[-1]
    if len(moved) == 1:
        assert a is not None
        return -a
    if operation.operator in ("+", "-"):
        terms = [a, b if operation.operator == "+" or b is None else -b]
        return _sum(terms)
    x, y = (as_numbers(evaluate(operand, frame, states)) for operand in operation.operands)
    if operation.operator == "*":
        return _sum([None if a is None else a * y, None if b is None else x * b])
    if operation.operator == "/":
        return _sum([None if a is None else a / y, None if b is None else -x / y**2 * b])
    if operation.operator == "%":  # x - floor(x / y) y
        return _sum([a, None if b is None else -np.floor_divide(x, y) * b])
    base = None if a is None else np.where(y == 0.0, 0.0, y * np.power(x, y - 1.0)) * a
    return _sum([base, None if b is None else np.power(x, y) * np.log(x) * b])


def _sum(terms: list[Floats | None]) -> Floats:
    present = [term for term in terms if term is not None]
    return reduce(np.add, present)


def _of_extreme(call: Call, column: str, frame: Frame, states: Any) -> Floats:
    values = [as_numbers(evaluate(argument, frame, states)) for argument in call.arguments]
    extreme = reduce(np.minimum if call.function == "min" else np.maximum, values)
    ties = reduce(np.add, [(value == extreme).astype(np.float64) for value in values])
    moved = [_derivative(argument, column, frame, states) for argument in call.arguments]
    shares = zip(moved, values, strict=True)
    return _sum([None if d is None else np.where(value == extreme, d / ties, 0.0) for d, value in shares])


def _inside(x: Floats, lower: float | None = None, upper: float | None = None) -> Floats:
    low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper
    return 0.5 * ((x > low) & (x <= high)) + 0.5 * ((x >= low) & (x < high))


def _of_basis(function: str, x: Floats, state: State) -> Floats:
    """(m, n) derivatives in x (n,) of the columns of `poly`, `bs`, `ns` and `cr`."""
    if function == "poly":
        return _of_polynomials(x - state["mean"], state["alpha"], state["norm2"])
    inner = np.sort(np.array(state["knots"], dtype=np.float64))
    if function == "cr":
        return _of_pieces(x, inner, 3, lambda at: cardinal_spline(at, inner), linear_beyond=True)
    lower, upper, intercept = state["lower"], state["upper"], bool(state["intercept"])
    breaks = np.unique(np.concatenate([[lower], inner, [upper]]))
    if function == "ns":
        return _of_pieces(
            x, breaks, 3, lambda at: natural_spline(at, inner, lower, upper, intercept), linear_beyond=True
        )
    degree = int(state["degree"])
    return _of_pieces(
        x, breaks, degree, lambda at: bspline(at, inner, lower, upper, degree, intercept), linear_beyond=False
    )


def _of_polynomials(x: Floats, alpha: Any, norm2: Any) -> Floats:
    """(degree, n): the recurrence of `bases.polynomial_values`, differentiated step by step."""
    before, last = np.zeros_like(x), np.ones_like(x)
    slope_before, slope = np.zeros_like(x), np.zeros_like(x)
    out = np.empty((len(alpha), len(x)))
    for i, centre in enumerate(alpha):
        ratio = norm2[i + 1] / norm2[i]
        slope_before, slope = slope, last + (x - centre) * slope - ratio * slope_before
        before, last = last, (x - centre) * last - ratio * before
        out[i] = slope / np.sqrt(norm2[i + 2])
    return out


def _of_pieces(
    x: Floats, breaks: Floats, degree: int, spline: Callable[[Floats], Floats], *, linear_beyond: bool
) -> Floats:
    """(m, n) derivatives of functions that are polynomials between `breaks`; `spline` is (p,) -> (p, m).

    Each piece is interpolated at its Chebyshev points, which is exact for its degree, and the interpolating
    polynomial is differentiated (Mason and Handscomb 2003, Chebyshev Polynomials, sections 6.3 and 2.4.5).
    """
    points = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    inverse = np.linalg.inv(chebyshev.chebvander(points, degree))
    pieces = []
    for left, right in pairwise(breaks):
        values = spline(0.5 * (left + right) + 0.5 * (right - left) * points)
        pieces.append(chebyshev.chebder(inverse @ values, scl=2.0 / (right - left)))
    table = np.array(pieces)  # (pieces, degree, m)
    piece = np.searchsorted(breaks[1:-1], x, side="right")
    at = 2.0 * (x - breaks[piece]) / (breaks[piece + 1] - breaks[piece]) - 1.0
    if linear_beyond:
        at = np.clip(at, -1.0, 1.0)
    powers = chebyshev.chebvander(at, degree - 1)  # (n, degree)
    out = np.zeros((table.shape[2], len(x)))
    for column, coefficients in zip(out, np.moveaxis(table, 2, 0), strict=True):
        for order in range(degree):
            column += powers[:, order] * coefficients[piece, order]
    return out


@dataclass(frozen=True)
class SlopeReader(Reader):
    """Reads one variable, `of`, as its derivative with respect to `column`."""

    of: Feature | None = None
    column: str = ""

    def numeric(
        self, feature: Feature, frame: Frame, gaps: Gaps, *, complete: bool = False
    ) -> list[NDArray[Any]]:
        """The columns of a numeric variable, each (n,), or their derivatives; else as a `Reader`."""
        columns = super().numeric(feature, frame, gaps, complete=complete)
        if feature != self.of:
            return columns
        if isinstance(feature.expression, Column):
            return [np.ones(frame.rows)]
        found = derivative(feature.expression, self.column, frame, self.states)
        return [found] if found.ndim == 1 else list(found)
