"""Standard errors, tests and intervals: arrays in, arrays out.

Formulas are those of R's `summary.glm` and `confint.default` for the binomial family with the logit link
(McCullagh and Nelder 1989, Generalized Linear Models, 2nd ed., sections 2.5 and 4.4).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


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
    """P(X > statistic) of a chi-squared X, by the upper incomplete gamma function: exact in the tail."""
    return float(special.chdtrc(df, max(statistic, 0.0)))


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
