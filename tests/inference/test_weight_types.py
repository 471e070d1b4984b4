"""The three kinds of row weights, each against its reference and against what its words mean.

A row of frequency 3 is three rows, so fits of repeated rows are its reference. An analytic weight is a
precision: R's `glm(weights = w)` with `sandwich`. A sampling weight says how many of a population a row
stands for: the same estimates, and a covariance that is always robust. Rows of weight zero are used and are
no observations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from inference_references import cases, in_order, read_case

import streamlr

CASES = cases()
KINDS = ("frequency", "analytic", "sampling")
WEIGHTED = [name for name, case in CASES.items() if "weights" in case["fit"]]
FORMULA = "y ~ x + g * z"
TOLERANCE = 1e-8
# Log-likelihoods are flat at the maximum; what is left is rounding in sums of logarithms.
LIKELIHOOD_TOLERANCE = 1e-10


def weighted(n: int = 300) -> dict[str, np.ndarray]:
    """An outcome, two numbers, a factor, clusters, whole weights from 0 to 4 and fractional ones."""
    rng = np.random.default_rng(17)
    x, z, g = rng.normal(1.0, 2.0, n), rng.normal(size=n), rng.choice(["p", "q", "r"], n)
    y = rng.random(n) < 1 / (1 + np.exp(-(0.4 * x - 0.5 + 0.5 * z * (g == "r"))))
    return {
        "y": y.astype(np.int8),
        "x": x,
        "z": z,
        "g": g,
        "a": rng.integers(0, 25, n),
        "w": rng.integers(0, 5, n),
        "share": rng.gamma(2.0, 1.3, n),
    }


def repeated(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.repeat(values, data["w"]) for name, values in data.items()}


def fit(data: Any, kind: str | None = None, weights: str = "w", **options: Any) -> streamlr.Model:
    if kind is not None:
        options |= {"weights": weights, "weight_type": kind}
    return streamlr.fit(data, options.pop("formula", FORMULA), tol=1e-12, **options)


def assert_same(left: np.ndarray, right: np.ndarray, tolerance: float = 1e-9) -> None:
    """Two covariances, in units of the right one's standard errors."""
    size = np.sqrt(np.diagonal(right))
    assert np.all(np.abs(left - right) <= tolerance * np.outer(size, size))


# Against R


@pytest.mark.parametrize("name", WEIGHTED)
def test_statistics_agree_with_r(name: str) -> None:
    """Estimates, model standard errors, observations, degrees of freedom and BIC."""
    case = CASES[name]
    model = streamlr.fit(read_case(case), **case["fit"])
    glance = model.glance()
    kind = case["fit"]["weight_type"]
    coef = in_order(model.terms, case, case["coefficients"])
    naive = in_order(model.terms, case, case["naive_std_error"])
    assert np.all(np.abs(model.params - coef) <= TOLERANCE * np.maximum(np.abs(coef), naive))
    np.testing.assert_allclose(np.sqrt(np.diagonal(model.cov_params(robust=False))), naive, rtol=TOLERANCE)
    assert (model.nobs, glance["nobs"], glance["df_resid"]) == (case["nobs"], case["nobs"], case["df_resid"])
    assert glance["log_likelihood"] == pytest.approx(case["log_likelihood"], rel=LIKELIHOOD_TOLERANCE)
    assert glance["bic"] == pytest.approx(case["bic"], rel=LIKELIHOOD_TOLERANCE)
    assert glance["cov_type"] == ("HC0" if kind == "sampling" else "nonrobust")
    error = naive
    if kind == "sampling":
        (hc0,) = (stored for stored in case["covariances"] if stored["options"]["cov"] == "HC0")
        error = in_order(model.terms, case, hc0["std_error"])
    np.testing.assert_allclose(model.bse, error, rtol=TOLERANCE)


def test_kinds_differ_in_what_counts_as_an_observation() -> None:
    """The same column three times: 4,392 observations or 189, and one log-likelihood."""
    models = {
        kind: streamlr.fit(read_case(CASES[f"birthwt_{kind}"]), **CASES[f"birthwt_{kind}"]["fit"])
        for kind in KINDS
    }
    assert [models[kind].nobs for kind in KINDS] == [4392, 189, 189]
    assert [models[kind].glance()["df_resid"] for kind in KINDS] == [4387, 184, 184]
    first = models["frequency"]
    for model in models.values():
        assert model.params.tobytes() == first.params.tobytes()
        assert model.cov_params(robust=False).tobytes() == first.cov_params(robust=False).tobytes()
        assert (model.llf, model.aic) == (first.llf, first.aic)
    assert models["analytic"].bse.tobytes() == first.bse.tobytes()
    assert models["analytic"].bic == models["sampling"].bic < first.bic


# Frequency weights: rows repeated


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"cov": f"HC{number}"} for number in range(4)),
        *({"cluster": ["a"], "small_sample": small} for small in ("none", "clusters", "full")),
    ],
    ids=lambda o: "-".join(str(value) for value in o.values()),
)
def test_a_frequency_is_so_many_rows(options: dict[str, Any]) -> None:
    data = weighted()
    model, want = fit(data, "frequency", **options), fit(repeated(data), **options)
    np.testing.assert_allclose(model.params, want.params, rtol=1e-9)
    assert_same(model.cov_params(), want.cov_params())
    assert (model.nobs, model.glance()["df_resid"]) == (want.nobs, want.glance()["df_resid"])
    for name in ("llf", "llnull", "aic", "bic", "prsquared"):
        assert getattr(model, name) == pytest.approx(getattr(want, name), rel=1e-11)
    assert model.clusters == want.clusters


def test_frequency_is_the_default() -> None:
    data = weighted()
    assert streamlr.fit(data, FORMULA, weights="w", cov="HC1").bse.tobytes() == (
        streamlr.fit(data, FORMULA, weights="w", weight_type="frequency", cov="HC1").bse.tobytes()
    )


@pytest.mark.parametrize("cov", ["nonrobust", "HC1"])
def test_fractional_frequencies_are_refused(cov: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=r"share.*(whole|analytic)"):
        fit(weighted(), "frequency", weights="share", cov=cov)


def test_one_fraction_among_many_whole_numbers_is_refused() -> None:
    data = weighted()
    data["w"] = data["w"].astype(float)
    data["w"][-1] = 2.5
    with pytest.raises(streamlr.StreamlrError, match="w"):
        fit(data, "frequency")
    for kind in ("analytic", "sampling"):
        assert fit(data, kind).converged


# What a unit of weight means


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{"cov": "HC0"}, {"cov": "HC3"}, {"cluster": ["a"]}], ids=["HC0", "HC3", "cluster"]
)
def test_weights_times_seven(kind: str, options: dict[str, Any]) -> None:
    """Model errors shrink by the root of 7 for all. Robust ones only where a weight counts rows, HC3 by more,
    since leverages become smaller, and those by cluster not at all, which are as many as before."""
    data = weighted()
    more = {**data, "w": 7 * data["w"]}
    one, seven = fit(data, kind, **options), fit(more, kind, **options)
    np.testing.assert_allclose(seven.params, one.params, rtol=1e-9)
    assert_same(7 * seven.cov_params(robust=False), one.cov_params(robust=False))
    if kind != "frequency" or "cluster" in options:
        assert_same(seven.cov_params(), one.cov_params())
    elif options["cov"] == "HC0":
        assert_same(7 * seven.cov_params(), one.cov_params())
    else:
        assert np.all(np.diagonal(7 * seven.cov_params()) < np.diagonal(one.cov_params()))


def test_analytic_weights_of_one_are_no_weights() -> None:
    data = weighted()
    data["w"] = np.ones(300)
    for kind in KINDS:
        model, want = fit(data, kind, cov="HC2"), fit(data, cov="HC2")
        assert_same(model.cov_params(), want.cov_params(), 1e-11)
        assert model.bic == pytest.approx(want.bic, rel=1e-13)


# Weight zero


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"cov": "HC1"}, {"cov": "HC3"}, {"cluster": ["a"]}, {"cluster": ["a", "b"], "small_sample": "full"}],
    ids=["HC1", "HC3", "cluster", "two-ways"],
)
def test_rows_of_weight_zero_are_used_and_are_no_observations(kind: str, options: dict[str, Any]) -> None:
    """Not in n and not in the number of clusters: 5 of the 25 hold nothing but rows of weight zero."""
    data = weighted()
    data["b"] = np.arange(300) % 7
    data["w"] = np.where((data["a"] < 5) | (data["b"] == 6), 0, data["w"])
    without = {name: values[data["w"] > 0] for name, values in data.items()}
    model, want = fit(data, kind, **options), fit(without, kind, **options)
    assert model.glance()["rows_used"] == 300
    assert (model.nobs, model.bic) == (want.nobs, pytest.approx(want.bic, rel=1e-12))
    assert model.clusters == want.clusters
    assert_same(model.cov_params(), want.cov_params())


def test_rows_without_trials_are_no_clusters() -> None:
    data = weighted()
    rng = np.random.default_rng(3)
    trials = np.where(data["a"] < 5, 0, rng.integers(0, 6, 300))
    data |= {"n": trials, "k": rng.binomial(trials, 0.4)}
    without = {name: values[trials > 0] for name, values in data.items()}
    one, other = (
        fit(each, formula="k ~ x + g", trials="n", cluster=["a"], small_sample="full")
        for each in (data, without)
    )
    assert one.clusters == other.clusters
    assert_same(one.cov_params(), other.cov_params())


# Sampling weights


def test_sampling_weights_have_a_robust_covariance() -> None:
    data = weighted()
    sampling, analytic = (
        fit(data, "sampling", weights="share"),
        fit(data, "analytic", weights="share", cov="HC0"),
    )
    assert sampling.glance()["cov_type"] == "HC0"
    assert sampling.bse.tobytes() == analytic.bse.tobytes()
    assert "HC0 standard errors" in str(sampling.summary())
    assert "sampling weights share" in str(sampling.summary())
    with pytest.raises(streamlr.StreamlrError, match="sampling"):
        fit(data, "sampling", weights="share", cov="nonrobust")


@pytest.mark.parametrize(
    "options",
    [
        {"cov": "HC1"},
        {"cov": "HC2"},
        {"cov": "HC3"},
        {"cluster": ["a"]},
        {"cluster": ["a"], "small_sample": "full"},
    ],
    ids=lambda o: "-".join(str(value) for value in o.values()),
)
def test_sampling_weights_are_analytic_ones_in_every_robust_covariance(options: dict[str, Any]) -> None:
    data = weighted()
    sampling, analytic = (fit(data, kind, weights="share", **options) for kind in ("sampling", "analytic"))
    assert sampling.cov_params().tobytes() == analytic.cov_params().tobytes()
    assert sampling.nobs == analytic.nobs == 300


def test_a_saved_model_knows_its_kind_of_weights(tmp_path: Any) -> None:
    for kind in KINDS:
        model = fit(weighted(), kind, cov="HC1")
        model.save(tmp_path / "model.json")
        again = streamlr.load(tmp_path / "model.json")
        assert again.about()["weight_type"] == kind
        assert again.result() == model.result()
        assert str(again.summary()) == str(model.summary())


@pytest.mark.parametrize("kind", KINDS)
def test_negative_weights_are_refused(kind: str) -> None:
    data = weighted()
    data["w"] = data["w"] - 1
    with pytest.raises(streamlr.StreamlrError, match=r"w.*negative|negative.*w"):
        fit(data, kind)


def test_an_unknown_kind_of_weights_is_refused() -> None:
    with pytest.raises(streamlr.StreamlrError, match=r"probability.*sampling"):
        fit(weighted(), "probability")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_weights_are_refused(kind: str) -> None:
    data = weighted()
    gaps = np.arange(300) % 20 == 4
    table = pa.table({**data, "w": pa.array(data["w"], mask=gaps)})
    with pytest.raises(streamlr.StreamlrError, match=r"w.*missing.* 15 rows"):
        fit(table, kind, cov="HC1")
