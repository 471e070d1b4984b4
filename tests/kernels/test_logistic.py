"""Row losses and their pieces against 50-digit arithmetic, both tails, relative error only."""

from __future__ import annotations

import mpmath
import naive
import numpy as np
import pytest

from streamlr.kernels.logistic import (
    dot,
    exp_of_negative,
    log1p_of_unit,
    log_binomial_coefficients,
    probabilities,
    row_losses,
    saturated_loss,
    total,
)

mpmath.mp.dps = 60
EDGES = [0.0, 1e-300, 1e-9, 0.5, 1.0, 36.0, 37.0, 38.0, 700.0, 708.0, 709.8, 710.0, 744.0, 745.2, 746.0, 1e20]
MAGNITUDES = np.array(EDGES + list(np.abs(np.random.default_rng(7).normal(size=200)) * 40))
SMALLEST_NORMAL = 2.0**-1022
SMALLEST = 2.0**-1074


def close(got: float, want: mpmath.mpf, ulps: float) -> bool:
    """Within `ulps` * 2**-53 relatively; below the normal range, within four units there."""
    if abs(want) < SMALLEST_NORMAL:
        return abs(mpmath.mpf(got) - want) <= 4 * SMALLEST
    return abs(mpmath.mpf(got) - want) <= ulps * mpmath.mpf(2) ** -53 * abs(want)


def scratch(n: int) -> tuple[np.ndarray, np.ndarray]:
    memory = np.empty((4, n))
    return memory, memory.view(np.int64)


def test_exp_of_negative_is_within_one_ulp() -> None:
    n = MAGNITUDES.size
    memory, bits = scratch(n)
    memory[0] = MAGNITUDES
    exp_of_negative(n, memory, bits)
    for a, got in zip(MAGNITUDES, memory[3], strict=True):
        # One unit in the last place is two of 2**-53 at worst.
        assert close(got, mpmath.exp(-mpmath.mpf(float(a))), 2), a


def test_log1p_of_unit_is_within_two_ulps() -> None:
    x = np.array(
        [0.0, 5e-324, 1e-300, 1e-20, 1e-8, 0.1, 0.5, 0.99, 1.0, *np.random.default_rng(1).random(200)]
    )
    out = np.empty(x.size)
    log1p_of_unit(x, x.size, out)
    for value, got in zip(x, out, strict=True):
        assert close(got, mpmath.log1p(mpmath.mpf(float(value))), 4), value


@pytest.mark.parametrize("success", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("failure", [0.0, 1.0, 0.75])
def test_row_losses_keep_both_tails(success: float, failure: float) -> None:
    eta = np.concatenate([MAGNITUDES, -MAGNITUDES])
    n = eta.size
    memory, bits = scratch(n)
    loss, slope, curvature = np.empty(n), np.empty(n), np.empty(n)
    row_losses(eta, np.full(n, success), np.full(n, failure), n, memory, bits, loss, slope, curvature)
    for i, value in enumerate(eta):
        v = mpmath.mpf(float(value))
        p, q = 1 / (1 + mpmath.exp(-v)), 1 / (1 + mpmath.exp(v))
        s, f = mpmath.mpf(success), mpmath.mpf(failure)
        assert close(loss[i], s * mpmath.log1p(mpmath.exp(-v)) + f * mpmath.log1p(mpmath.exp(v)), 8), value
        assert close(curvature[i], (s + f) * p * q, 8), value
        if success == 0.0 or failure == 0.0:  # with both outcomes the slope is a difference and may cancel
            assert close(slope[i], f * p - s * q, 8), value
        else:
            assert abs(slope[i] - (f * p - s * q)) <= 2**-50 * (f * p + s * q), value


def test_row_losses_agree_with_their_naive_twin() -> None:
    rng = np.random.default_rng(3)
    n = 1000
    eta, s, f = rng.normal(size=n) * 8, rng.random(n), rng.random(n)
    memory, bits = scratch(n)
    out = np.empty((3, n))
    row_losses(eta, s, f, n, memory, bits, *out)
    for got, want in zip(out, naive.losses(eta, s, f), strict=True):
        # The twin subtracts nothing either, but its own exp and sums round a few times more.
        np.testing.assert_allclose(got, want, rtol=2e-14)


def test_probabilities_keep_the_small_side() -> None:
    eta = np.concatenate([MAGNITUDES, -MAGNITUDES])
    memory, bits = scratch(eta.size)
    out = np.empty(eta.size)
    probabilities(eta, eta.size, memory, bits, out)
    for value, got in zip(eta, out, strict=True):
        assert close(got, 1 / (1 + mpmath.exp(-mpmath.mpf(float(value)))), 4), value


def test_sums() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=1001), rng.normal(size=1001)
    assert total(a, 900) == pytest.approx(a[:900].sum(), rel=1e-13, abs=1e-12)
    assert dot(a, b, 900) == pytest.approx(a[:900] @ b[:900], rel=1e-13, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_constants_of_counts(weighted: bool) -> None:
    k, n = np.array([0.0, 3.0, 7.0, 5.0]), np.array([4.0, 3.0, 20.0, 9.0])
    w = np.array([1.0, 2.0, 0.5, 0.0]) if weighted else np.empty(0)
    weights = w if weighted else np.ones(4)
    rows = list(zip(k, n, weights, strict=True))
    binomial = sum(float(v * mpmath.log(mpmath.binomial(int(b), int(a)))) for a, b, v in rows)
    assert log_binomial_coefficients(k, n, w) == pytest.approx(binomial, rel=1e-13)
    saturated = 0.0
    for a, b, v in rows:
        for part in (a, b - a):
            saturated -= float(v) * (float(part * mpmath.log(part / b)) if part else 0.0)
    assert saturated_loss(k, n, w) == pytest.approx(saturated, rel=1e-13)
