"""Standard errors, tests and intervals: arrays in, arrays out.

Formulas are those of R's `summary.glm` and `confint.default` for the binomial family with the logit link
(McCullagh and Nelder 1989, Generalized Linear Models, 2nd ed., sections 2.5 and 4.4).
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Decimals that a tail of chi-squared is worked out in. It loses as many as its exponent and its degrees of
# freedom have, eight at most, and a double holds sixteen.
DIGITS = 34
HALF_LOG_2_PI = Decimal("0.9189385332046727417803297364056176")
# From here on five terms of Stirling's series are within 3e-18.
STIRLING = 40


def standard_errors(covariance: Floats) -> Floats:
    """(k,) square roots of the diagonal of a (k, k) covariance, NaN where it is negative.

    That of two-way clusters need not be positive (Cameron, Gelbach and Miller 2011, section 2.3).
    """
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.diagonal(covariance))


def two_sided_p(z: Floats) -> Floats:
    """(k,) P(|Z| > |z|) of a standard normal Z: erfc(|z| / sqrt 2), exact in the tail down to 1e-308."""
    return np.array([math.erfc(abs(value) / math.sqrt(2.0)) for value in z])


def chi_squared_tail(statistic: float, df: float) -> float:
    """P(X > statistic) of a chi-squared X with df > 0, to the last bit or two, also far in the tail.

    The upper incomplete gamma function at a = df / 2, x = statistic / 2 over the whole one (Abramowitz and
    Stegun 1964, Handbook of Mathematical Functions, 6.5.29 and 6.5.31):

        1 - x^a e^-x / Gamma(a + 1) (1 + x / (a + 1) (1 + x / (a + 2) (1 + ...)))           up to x = a + 1,
        x^a e^-x / Gamma(a) / (x + 1 - a - 1 (1 - a) / (x + 3 - a - 2 (2 - a) / (...)))     beyond.

    In decimals, of which an exponent of -700 takes three; in doubles it takes three of sixteen digits. R:
    `pchisq(statistic, df, lower.tail = FALSE)`. `scipy.special` takes 0.02 s to import, this 0.0001 s.
    """
    if math.isnan(statistic):
        return math.nan
    if statistic <= 0.0 or math.isinf(statistic):
        return float(statistic <= 0.0)
    with localcontext(Context(prec=DIGITS)):
        a, x = Decimal(df) / 2, Decimal(statistic) / 2
        factor = (a * x.ln() - x - _log_gamma(a)).exp()
        return float(1 - factor * _series(a, x) if x < a + 1 else factor * a / _continued_fraction(a, x))


def _log_gamma(a: Decimal) -> Decimal:
    """log Gamma(a + 1), by Stirling's series where a is large enough, else from a larger a by recurrence."""
    product = Decimal(1)
    while a < STIRLING:
        a += 1
        product *= a
    inverse = 1 / (a * a)
    rest = Decimal(1) / 12 - inverse * (Decimal(1) / 360 - inverse * (Decimal(1) / 1260 - inverse / 1680))
    return (a + Decimal("0.5")) * a.ln() - a + HALF_LOG_2_PI + rest / a - product.ln()


def _series(a: Decimal, x: Decimal) -> Decimal:
    """1 + x / (a + 1) + x^2 / ((a + 1) (a + 2)) + ..."""
    total = term = Decimal(1)
    while total + term != total:
        a += 1
        term *= x / a
        total += term
    return total


def _continued_fraction(a: Decimal, x: Decimal) -> Decimal:
    """x + 1 - a - 1 (1 - a) / (x + 3 - a - 2 (2 - a) / (...)), by Lentz's method.

    It ends where a is whole (Press and others 2007, Numerical Recipes, 3rd ed., section 5.2).
    """
    found = above = denominator = x + 1 - a
    below = change = Decimal(0)
    n = 0
    while change != 1:
        n += 1
        partial = n * (a - n)
        denominator += 2
        below = 1 / (denominator + partial * below)
        above = denominator + partial / above
        change = above * below
        found *= change
    return found


def wald_intervals(coef: Floats, std_error: Floats, level: float) -> Floats:
    """(k, 2) coef -+ z std_error with z the (1 + level) / 2 quantile of the normal distribution."""
    z = -NormalDist().inv_cdf((1.0 - level) / 2.0)  # not 0.5 + level / 2, which rounds to 1
    return np.column_stack([coef - z * std_error, coef + z * std_error])


def odds_ratios(coef: Floats) -> list[float | None]:
    """exp(coef), None where it overflows."""
    return [math.exp(value) if value < 709.78 else None for value in coef]


def aic(log_likelihood: float, parameters: float) -> float:
    """Akaike's criterion, 2 k - 2 log L."""
    return 2.0 * parameters - 2.0 * log_likelihood


def bic(log_likelihood: float, parameters: float, observations: float) -> float:
    """Schwarz's criterion, k log n - 2 log L."""
    return parameters * math.log(observations) - 2.0 * log_likelihood


def mcfadden_r2(log_likelihood: float, null_log_likelihood: float) -> float | None:
    """1 - log L / log L0 (McFadden 1974), None where the null model is perfect, or all but perfect."""
    found = 1.0 - log_likelihood / null_log_likelihood if null_log_likelihood else math.inf
    return found if math.isfinite(found) else None


def cox_snell_r2(log_likelihood: float, null_log_likelihood: float, observations: float) -> float | None:
    """1 - (L0 / L)**(2 / n) (Cox and Snell 1989, Analysis of Binary Data, 2nd ed., section 6.4).

    n as BIC has it: rows of counts are one observation each. None where the null model, with an intercept
    that the model lacks, is so much better that it overflows. R: `performance::r2_coxsnell`.
    """
    gain = 2.0 * (null_log_likelihood - log_likelihood) / observations
    return -math.expm1(gain) if gain < 700.0 else None


def nagelkerke_r2(log_likelihood: float, null_log_likelihood: float, observations: float) -> float | None:
    """Cox and Snell's over the most that it can be, 1 - L0**(2 / n).

    Nagelkerke 1991, Biometrika 78, 691-692; R: `performance::r2_nagelkerke`. None where the null model is
    perfect.
    """
    most = -math.expm1(2.0 * null_log_likelihood / observations)
    share = cox_snell_r2(log_likelihood, null_log_likelihood, observations)
    return share / most if share is not None and most else None
