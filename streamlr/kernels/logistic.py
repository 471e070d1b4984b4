"""Loss, slope and curvature of the binomial log-likelihood, exact in both tails.

With e = exp(-|eta|) everything follows without overflow and without a subtraction from one:

    p = 1 / (1 + e)  and  q = e / (1 + e)  for eta > 0, exchanged for eta < 0
    -log p(success) = log(1 + e) + max(-eta, 0)        -log p(failure) = log(1 + e) + max(eta, 0)

exp and log1p are polynomials over whole arrays: the scalar functions of the C library were a third of the
time of narrow fits, these vectorise to about a nanosecond a value. Each step is a loop of its own, because
one fused loop over all of it does not vectorise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.jit import kernel, summing_kernel, use_widest_vectors

Floats = NDArray[np.float64]

LOG2_E = 1.4426950408889634
# ln 2 in two parts, the first with 21 trailing zero bits, so that n times it is exact (Cody and Waite 1980,
# Software Manual for the Elementary Functions, chapter 6).
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
# Adding 1.5 * 2**52 leaves the nearest integer in the low bits of a double; seen as an int64 it is there to
# shift. A conversion from double to int64 has no AVX2 instruction.
ROUND_TO_INTEGER = 6755399441055744.0
ROUND_TO_INTEGER_BITS = np.int64(0x4338000000000000)
BIAS_AND_ROUNDING = np.int64(1023) + ROUND_TO_INTEGER_BITS
MANTISSA_BITS = np.int64(52)
# exp(-746) is below half of the smallest subnormal double.
UNDERFLOW = 746.0


@kernel
def exp_of_negative(count, scratch, bits):
    """scratch[3] = exp(-scratch[0]) for scratch[0] >= 0, within 1 ulp, subnormal results included.

    exp(-a) = 2**-n exp(r),  n = round(a / ln 2),  r = n ln 2 - a in [-ln 2 / 2, ln 2 / 2], and 2**-n is
    formed as two factors in rows 1 and 2, because 2**-1022 is the smallest that a normal double holds.
    `scratch` is (4, n) float64, `bits` the same memory seen as int64.
    """
    use_widest_vectors()
    for i in range(count):
        a = min(scratch[0, i], UNDERFLOW)
        n = (a * LOG2_E + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
        half = 0.5 * n + ROUND_TO_INTEGER
        scratch[1, i] = half
        scratch[2, i] = (n - (half - ROUND_TO_INTEGER)) + ROUND_TO_INTEGER
        r = (n * LN2_HIGH - a) + n * LN2_LOW
        # Taylor's series to r**13; the first term left out is 4e-18 of the sum.
        s = 1.0 / 6227020800.0
        s = s * r + 1.0 / 479001600.0
        s = s * r + 1.0 / 39916800.0
        s = s * r + 1.0 / 3628800.0
        s = s * r + 1.0 / 362880.0
        s = s * r + 1.0 / 40320.0
        s = s * r + 1.0 / 5040.0
        s = s * r + 1.0 / 720.0
        s = s * r + 1.0 / 120.0
        s = s * r + 1.0 / 24.0
        s = s * r + 1.0 / 6.0
        s = s * r + 0.5
        s = s * r + 1.0
        scratch[3, i] = s * r + 1.0
    for i in range(count):
        bits[1, i] = (BIAS_AND_ROUNDING - bits[1, i]) << MANTISSA_BITS
        bits[2, i] = (BIAS_AND_ROUNDING - bits[2, i]) << MANTISSA_BITS
    for i in range(count):
        scratch[3, i] = (scratch[3, i] * scratch[1, i]) * scratch[2, i]


@kernel
def log1p_of_unit(x, count, out):
    """out = log(1 + x) for 0 <= x <= 1, within 2 ulp of the result, however small x is.

    log(1 + x) = 2 atanh(s),  s = x / (2 + x) in [0, 1/3];  atanh(s) / s is a polynomial in s**2, the
    Chebyshev fit of degree 11 on [0, 1/9] (relative error 4e-20).
    """
    use_widest_vectors()
    for i in range(count):
        s = x[i] / (2.0 + x[i])
        z = s * s
        t = 0.08244142965694784
        t = t * z + 0.03490195249166216
        t = t * z + 0.05488308318973747
        t = t * z + 0.05857637334055213
        t = t * z + 0.06668438407871918
        t = t * z + 0.07692223530229984
        t = t * z + 0.09090911711247626
        t = t * z + 0.11111111059551837
        t = t * z + 0.14285714286311463
        t = t * z + 0.19999999999996435
        t = t * z + 0.3333333333333334
        out[i] = 2.0 * (s + s * (z * t))


@kernel
def row_losses(eta, success, failure, count, scratch, bits, loss, slope, curvature):
    """Loss, slope and curvature in eta of `count` rows.

    loss      = -(success log p + failure log q)
    slope     = failure p - success q
    curvature = (success + failure) p q

    `success` and `failure` are weighted numbers of trials, so a 0/1 row of weight w has w in one and 0 in
    the other. p and q = 1 - p are each computed without subtracting from one, so both tails keep full
    relative precision. `scratch` is (4, n) float64, `bits` the same memory seen as int64.
    """
    use_widest_vectors()
    for i in range(count):
        scratch[0, i] = abs(eta[i])
    exp_of_negative(count, scratch, bits)
    log1p_of_unit(scratch[3], count, scratch[1])
    # Everything is read before it is chosen from: a choice that reads one of two arrays becomes a branch, and
    # a pass took 28 instead of 22 ns a row where the signs of eta are hard to foresee.
    for i in range(count):
        e = scratch[3, i]
        log1p_of_e = scratch[1, i]
        size = scratch[0, i]
        s = success[i]
        f = failure[i]
        large = 1.0 / (1.0 + e)
        small = e * large
        positive = eta[i] > 0.0
        p = large if positive else small
        q = small if positive else large
        wrong = f if positive else s
        further = size * wrong
        trials = s + f
        loss[i] = trials * log1p_of_e + (further if wrong > 0.0 else 0.0)
        slope[i] = f * p - s * q
        curvature[i] = trials * (large * small)


@kernel
def probabilities(eta, count, scratch, bits, out):
    """out = 1 / (1 + exp(-eta)), with full relative precision where it is small.

    `scratch` is (4, n) float64, `bits` the same memory seen as int64.
    """
    use_widest_vectors()
    for i in range(count):
        scratch[0, i] = abs(eta[i])
    exp_of_negative(count, scratch, bits)
    for i in range(count):
        e = scratch[3, i]
        large = 1.0 / (1.0 + e)
        out[i] = large if eta[i] > 0.0 else e * large


@summing_kernel
def total(values, count):
    """sum of values[:count]"""
    use_widest_vectors()
    s = 0.0
    for i in range(count):
        s += values[i]
    return s


@summing_kernel
def dot(a, b, count):
    """sum over i < count of a[i] b[i]"""
    use_widest_vectors()
    s = 0.0
    for i in range(count):
        s += a[i] * b[i]
    return s


@kernel
def log_binomial_coefficients(success: Floats, trials: Floats, weight: Floats) -> float:
    """sum of w log(n choose k), the part of a binomial log-likelihood that no coefficient moves."""
    s = 0.0
    for i in range(success.size):
        k = success[i]
        n = trials[i]
        w = weight[i] if weight.size else 1.0
        s += w * (math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0))
    return s


@kernel
def saturated_loss(success: Floats, trials: Floats, weight: Floats) -> float:
    """-sum of w (k log(k/n) + (n - k) log((n - k)/n)): the loss of a model with a parameter a row."""
    s = 0.0
    for i in range(success.size):
        k = success[i]
        n = trials[i]
        w = weight[i] if weight.size else 1.0
        if k > 0.0:
            s -= w * k * math.log(k / n)
        if n - k > 0.0:
            s -= w * (n - k) * math.log((n - k) / n)
    return s
