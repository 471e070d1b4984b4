"""A small weighted fit with an offset against Newton's method in 50 digits, worked out in the test.

The other references were made by software that computes in doubles; this one shares nothing with
streamlr but the likelihood. Twelve rows suffice: each of them has its own weight and offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import pyarrow as pa
import pytest
from mpmath import mp, mpf

import streamlr

DIGITS = 50

Y = [0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0]
COLUMNS = {
    "dose": [0.1, 0.4, 1.7, 2.5, 0.8, 1.1, 3.2, 2.9, 0.3, 1.9, 2.2, 1.4],
    "price": [412.5, 389.0, 520.1, 618.75, 299.9, 355.0, 723.0, 661.2, 450.1, 583.0, 314.0, 495.0],
    "balance": [-3.5, 2.25, 0.0, 1.5, -0.75, -4.0, 3.125, 0.5, 1.0, -2.5, 4.75, -1.25],
}
OFFSET = [0.3, -0.2, 0.0, 0.55, -0.45, 0.1, 0.7, -0.6, 0.25, 0.0, -0.15, 0.4]
WEIGHTS = {
    "frequency": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8],
    "analytic": [0.7, 1.3, 2.1, 0.4, 1.9, 3.2, 0.9, 2.6, 1.1, 0.35, 1.75, 2.2],
}

# Rounding in the sums costs a few units in the last place, some 1e-15, times the condition number
# of the standardised columns, which is 3: 1e-12 leaves room for any order of summation. The
# certified distance to the maximum is asked for at the same size.
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Exact:
    """coef and std_error are (k,) in the order Intercept, dose, price, balance."""

    coef: list[mpf]
    std_error: list[mpf]
    log_likelihood: mpf


def newton(columns: list[list[float]], weights: list[float]) -> Exact:
    """The maximum of sum w (y log p + (1 - y) log(1 - p)), p = 1 / (1 + exp(-offset - X b)).

    A double is an exact number for mpmath, so the data are those that streamlr reads. The start is
    zero; the steps end below 1e-40 standard errors.
    """
    rows = [[mpf(x) for x in row] for row in zip(*columns, strict=True)]
    w, o = [mpf(x) for x in weights], [mpf(x) for x in OFFSET]
    k = len(columns)
    coef = [mpf(0)] * k
    for _ in range(50):
        gradient, hessian = mpmath.zeros(k, 1), mpmath.zeros(k, k)
        log_likelihood = mpf(0)
        for x, y, weight, offset in zip(rows, Y, w, o, strict=True):
            p = 1 / (1 + mpmath.exp(-offset - mpmath.fdot(x, coef)))
            log_likelihood += weight * mpmath.log(p if y else 1 - p)
            for i in range(k):
                gradient[i] += weight * (y - p) * x[i]
                for j in range(k):
                    hessian[i, j] += weight * p * (1 - p) * x[i] * x[j]
        covariance = hessian**-1
        std_error = [mpmath.sqrt(covariance[i, i]) for i in range(k)]
        step = covariance * gradient
        if all(abs(step[i]) < mpf("1e-40") * std_error[i] for i in range(k)):
            return Exact(coef, std_error, log_likelihood)
        coef = [coef[i] + step[i] for i in range(k)]
    raise AssertionError("Newton's method in 50 digits did not converge")


@pytest.mark.parametrize("weight_type", WEIGHTS)
def test_agrees_with_fifty_digits(weight_type: str) -> None:
    weights = WEIGHTS[weight_type]
    table = pa.table({"y": Y, **COLUMNS, "offset": OFFSET, "weight": weights})
    ones = [1.0] * len(Y)
    with mp.workdps(DIGITS):
        exact = newton([ones, *COLUMNS.values()], weights)
        null = newton([ones], weights)

    model = streamlr.fit(
        table,
        target="y",
        features=list(COLUMNS),
        offset="offset",
        weights="weight",
        weight_type=weight_type,
        tol=TOLERANCE,
    )

    assert sorted(model.terms) == sorted(["Intercept", *COLUMNS])
    place = {term: i for i, term in enumerate(model.terms)}
    with mp.workdps(DIGITS):
        for i, term in enumerate(["Intercept", *COLUMNS]):
            coef, std_error = exact.coef[i], exact.std_error[i]
            estimate, error = float(model.params[place[term]]), float(model.bse[place[term]])
            assert abs(estimate - coef) <= TOLERANCE * max(abs(coef), std_error), term
            assert abs(error - std_error) <= TOLERANCE * std_error, term
        assert abs(model.llf - exact.log_likelihood) <= TOLERANCE * abs(exact.log_likelihood)
        assert abs(model.llnull - null.log_likelihood) <= TOLERANCE * abs(null.log_likelihood)
    assert model.nobs == (sum(weights) if weight_type == "frequency" else len(Y))
