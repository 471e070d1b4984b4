"""Standard errors, p-values and intervals against 50 digits and against `scipy.stats`."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from streamlr.inference.fit_statistics import (
    aic,
    bic,
    chi_squared_tail,
    cox_snell_r2,
    mcfadden_r2,
    nagelkerke_r2,
    odds_ratios,
    standard_errors,
    two_sided_p,
    wald_intervals,
)

UNIT = 2.0**-53
Z = [0.0, 1e-300, 1e-9, 0.1, 1.0, 1.96, 3.0, 5.0, 8.3, 10.0, 15.5, 20.0, 26.0, 30.0, 35.0, 37.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_p_values_keep_their_digits_far_in_the_tail(sign: float) -> None:
    got = two_sided_p(sign * np.array(Z))
    for z, p in zip(Z, got, strict=True):
        with mp.workdps(50):
            want = mpmath.erfc(mpf(z) / mpmath.sqrt(2))
            # z / sqrt 2 carries two roundings, and erfc turns a relative change of its argument into one
            # z**2 + 1 times as large; libm's own erfc is within 4 units.
            assert abs(mpf(p) - want) <= (2 * (z * z + 1) + 8) * UNIT * want, z


def test_p_values_of_numbers_without_end() -> None:
    got = two_sided_p(np.array([np.inf, -np.inf, np.nan, 40.0]))
    np.testing.assert_array_equal(got, [0.0, 0.0, np.nan, 0.0])
    assert two_sided_p(np.empty(0)).shape == (0,)


def test_p_values_against_scipy() -> None:
    from scipy.stats import norm

    z = np.random.default_rng(1).normal(size=200) * 8
    # SciPy's tail is within some units times z**2, here up to 600, for the reason above.
    np.testing.assert_allclose(two_sided_p(z), 2 * norm.sf(np.abs(z)), rtol=1e-12)


# Both sides of where the series gives way to the fraction, and tails down to 1e-300.
STATISTICS = [1e-300, 1e-9, 0.1, 1.0, 2.9, 3.1, 10.0, 50.0, 300.0, 1350.0]
OF_DEGREES = [0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 1.5, 2.0, 4.0]


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 7, 10, 25, 79, 80, 81, 100, 501, 2000, 2.5])
def test_tails_of_chi_squared_keep_their_digits(df: float) -> None:
    for statistic in [*STATISTICS, *(df * share for share in OF_DEGREES), df + 2.0]:
        got = chi_squared_tail(statistic, df)
        with mp.workdps(60):
            want = mpmath.gammainc(mpf(df) / 2, mpf(statistic) / 2, mpmath.inf, regularized=True)
            if want > 1e-300:
                # One rounding of thirty digits; up to 2^-53 of the result, and next to nothing before it.
                assert abs(mpf(got) - want) <= 1.1 * UNIT * want, (statistic, got, want)


def test_tails_of_chi_squared_at_a_million_degrees() -> None:
    for df, statistic in [(1e6, 1e6), (1e6, 1.004e6), (2e6 + 1, 1.99e6), (1e6, 1.03e6)]:
        got = chi_squared_tail(statistic, df)
        with mp.workdps(60):
            want = mpmath.gammainc(mpf(df) / 2, mpf(statistic) / 2, mpmath.inf, regularized=True)
            assert abs(mpf(got) - want) <= 1.1 * UNIT * want, (df, statistic, got, want)


def test_tails_of_chi_squared_at_their_ends() -> None:
    assert [chi_squared_tail(statistic, 3) for statistic in (0.0, -1e-12, 5e-324)] == [1.0, 1.0, 1.0]
    assert [chi_squared_tail(statistic, 3) for statistic in (1e4, 1.7e308, math.inf)] == [0.0, 0.0, 0.0]
    assert math.isnan(chi_squared_tail(math.nan, 3))


def test_tails_of_chi_squared_against_scipy() -> None:
    from scipy.special import chdtrc

    rng = np.random.default_rng(3)
    for df, statistic in zip(rng.integers(1, 500, 200), rng.exponential(300.0, 200), strict=True):
        # Doubles lose what the exponent takes: SciPy is within 5e-13 here.
        assert chi_squared_tail(statistic, int(df)) == pytest.approx(chdtrc(df, statistic), rel=1e-12)


@pytest.mark.parametrize("level", [0.01, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-6, 1 - 1e-9])
def test_intervals_against_scipy(level: float) -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(2)
    coef, error = rng.normal(size=20) * 3, rng.random(20) + 0.01
    got = wald_intervals(coef, error, level)
    assert got.shape == (20, 2)
    # Both quantile functions are within 1e-15 times their condition number at 0.5 + level / 2, which for
    # 1 - 1e-9 is 1e8 UNIT / z = 2e-9; scale is that of the half width.
    rounding = 1e-14 + UNIT / (1 - level)
    for place, quantile in enumerate([norm.isf(0.5 + level / 2), norm.ppf(0.5 + level / 2)]):
        want = coef + quantile * error
        assert np.all(np.abs(got[:, place] - want) <= rounding * (np.abs(coef) + abs(quantile) * error))


def test_the_interval_of_ninety_five_percent() -> None:
    with mp.workdps(50):
        z = mpmath.sqrt(2) * mpmath.erfinv(mpf("0.95"))
        low, high = wald_intervals(np.array([0.0]), np.array([1.0]), 0.95)[0]
        # 0.95 itself is off by half a unit, which the density at z, 0.058, makes 9 units of 0.975 / 1.96.
        assert abs(mpf(high) - z) <= 10 * UNIT * z
        assert high == -low


def test_standard_errors_are_roots_of_the_diagonal() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0**-1000]])
    np.testing.assert_array_equal(standard_errors(covariance), [2.0, 2.0**-500])


def test_odds_ratios() -> None:
    assert odds_ratios(np.array([0.0, 1.0, -1000.0])) == [1.0, math.e, 0.0]
    assert odds_ratios(np.array([710.0, 1e300])) == [None, None]
    large = odds_ratios(np.array([709.7]))[0]
    assert large is not None
    # exp turns the rounding of its argument, half a unit of 709.7, into none here: 709.7 is what it is.
    assert large == pytest.approx(float(mpmath.exp(mpf(709.7))), rel=4 * UNIT)


def test_criteria() -> None:
    assert aic(-123.5, 4) == 8.0 + 247.0
    assert bic(-123.5, 4, 1000.0) == pytest.approx(4 * math.log(1000) + 247.0, rel=4 * UNIT)
    assert mcfadden_r2(-50.0, -200.0) == 0.75
    assert mcfadden_r2(-200.0, -200.0) == 0.0
    assert mcfadden_r2(0.0, 0.0) is None


def test_r2_that_overflows_is_none():
    # Without an intercept, and with large analytic weights, the null model may be far better.
    assert cox_snell_r2(-1e6, -1.0, 10.0) is None
    assert nagelkerke_r2(-1e6, -1.0, 10.0) is None
    assert mcfadden_r2(-1.0, -5e-324) is None
