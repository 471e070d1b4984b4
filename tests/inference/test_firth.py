"""Firth's penalised likelihood against brglm2, roots found in R, expanded rows, and what its words mean.

`scripts/make_firth_references.R` wrote the JSON in tests/reference/firth: estimates and errors are brglm2's,
tests and bounds come from constrained maxima of the penalised likelihood. What has no stored reference is
compared with `naive_firth`, which knows nothing but the modified scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from reads import Reads
from scipy.special import expit

import streamlr
from streamlr.inference.firth import FirthEvaluation, FirthPoint, firth_maximum, flic_intercept, run_together
from streamlr.inference.rereading import reading_again
from streamlr.passes.firth_task import FirthSums, FirthTask
from streamlr.sources import parquet as parquet_source

REFERENCE = Path(__file__).parent.parent / "reference"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted((REFERENCE / "firth").glob("*.json"))}
PROFILED = [name for name, case in CASES.items() if "intervals" in case]
# In standard errors. What is promised is 1e-6; R's numbers are good to 1e-9.
TOLERANCE = 1e-8


def read_case(case: Mapping[str, Any]) -> pa.Table:
    """The case's data, with the columns that the generator makes as well."""
    table = pyarrow.csv.read_csv(REFERENCE / "data" / case["data"])
    if case["case"] == "iris":
        setosa = pc.equal(table["species"], "setosa").cast(pa.int8())
        table = table.append_column("setosa", setosa)
    if case["case"] == "weighted":
        table = table.append_column("w", pa.array(1 + np.arange(1, table.num_rows + 1) % 3))
    return table


def fit_case(name: str, **options: Any) -> streamlr.Model:
    case = CASES[name]
    return streamlr.fit(read_case(case), **case["fit"], firth=True, **options)


def naive_firth(
    x: np.ndarray, y: np.ndarray, offset: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scoring on the modified scores of single rows until nothing moves: estimate and inverse information."""
    coef = np.zeros(x.shape[1])
    for _ in range(5_000):
        p = 1 / (1 + np.exp(-(x @ coef + offset)))
        weight = p * (1 - p)
        inverse = np.linalg.inv((x * weight[:, None]).T @ x)
        leverage = weight * np.einsum("ij,jk,ik->i", x, inverse, x)
        step = inverse @ (x.T @ (y - p + leverage * (0.5 - p)))
        length = math.sqrt(step @ np.linalg.solve(inverse, step))
        coef = coef + step * min(1.0, 1.0 / max(length, 1e-300))
        if length < 1e-13:
            break
    return coef, inverse


# Against R


@pytest.mark.parametrize("name", CASES)
def test_estimates_agree_with_brglm2(name: str) -> None:
    case, model = CASES[name], fit_case(name)
    assert list(model.terms) == case["terms"]
    error = np.array(case["std_error"])
    assert model.converged
    assert np.max(np.abs(model.params - case["brglm2_coefficients"]) / error) <= TOLERANCE
    np.testing.assert_allclose(model.bse, error, rtol=TOLERANCE)
    assert model.llf == pytest.approx(case["log_likelihood"], rel=1e-9)
    assert model.firth is not None
    assert model.firth.log_likelihood == pytest.approx(case["penalised_log_likelihood"], rel=1e-10)
    null = case["null_penalised_log_likelihood"]
    assert model.firth.null_log_likelihood == pytest.approx(null, rel=1e-9)
    assert model.firth.df == len(case["terms"]) - ("Intercept" in case["terms"])
    assert model.separation is None
    assert model.statistics.rows_set_aside == 0
    # What iterations are told to have reached is what they maximise.
    climb = [row["log_likelihood"] for row in model.trace]
    assert (np.diff(climb) >= -1e-12).all()
    assert climb[-1] == pytest.approx(case["penalised_log_likelihood"], rel=1e-10)


@pytest.mark.parametrize("name", PROFILED)
def test_tests_and_intervals_agree_with_constrained_maxima(name: str) -> None:
    case = CASES[name]
    model = fit_case(name, ci="profile", conf_level=case["level"])
    error = np.array(case["std_error"])
    # Statistics through their roots, which are in standard errors.
    roots = np.sqrt(case["statistics"])
    assert np.max(np.abs(np.abs(model.zvalues) - roots)) <= 1e-7
    assert (np.sign(model.zvalues) == np.sign(model.params)).all()
    bounds = model.conf_int()
    assert np.max(np.abs(bounds - case["intervals"]) / error[:, None]) <= 1e-7
    assert (np.abs(model.params[:, None] - bounds) > 0.5 * error[:, None]).all()
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    for place, term in enumerate(model.terms):
        tail = math.erfc(roots[place] / math.sqrt(2.0))  # chi-squared on one degree of freedom
        assert rows[term]["p_value"] == pytest.approx(tail, rel=1e-5)
        assert [rows[term]["conf_low"], rows[term]["conf_high"]] == bounds[place].tolist()
    # Errors stay those of the information.
    np.testing.assert_allclose(model.bse, error, rtol=TOLERANCE)


def test_the_example_as_it_is_published() -> None:
    """Endometrial cancer, to the digits in print (Heinze and Schemper 2002; Kosmidis and Firth 2021)."""
    model = fit_case("endometrial", ci="profile")
    found = dict(zip(model.terms, zip(model.params, model.bse, strict=True), strict=True))
    printed = {
        "Intercept": (3.775, 1.489),
        "NV": (2.929, 1.551),
        "PI": (-0.035, 0.040),
        "EH": (-2.604, 0.776),
    }
    for term, numbers in printed.items():
        assert np.abs(np.subtract(found[term], numbers)).max() <= 0.5e-3
    low, high = model.conf_int()[1]
    assert (round(low, 2), round(high, 2)) == (0.61, 7.85)
    with pytest.raises(streamlr.SeparationError):
        streamlr.fit(read_case(CASES["endometrial"]), target="HG")


# Weights, counts, offsets, gaps


def small(n: int = 90) -> dict[str, np.ndarray]:
    """Few rows, an offset, whole weights, a factor whose level r has one outcome only."""
    rng = np.random.default_rng(5)
    x, o = rng.lognormal(0.0, 0.7, n), rng.normal(0.0, 0.4, n)
    g = rng.choice(["p", "q", "r"], n, p=[0.5, 0.4, 0.1])
    y = (rng.random(n) < 1 / (1 + np.exp(1.0 - 0.8 * x - o))) | (g == "r")
    return {"y": y.astype(np.int8), "x": x, "g": g, "o": o, "w": rng.integers(0, 4, n)}


def design(data: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.column_stack([np.ones(len(data["x"])), data["x"], data["g"] == "q", data["g"] == "r"])


@pytest.mark.parametrize("groups", [7, 90])
def test_a_level_with_one_outcome_stays(groups: int, tmp_path: Path) -> None:
    data = small()
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(data), path, row_group_size=groups)
    model = streamlr.fit(path, "y ~ x + g", offset="o", firth=True)
    assert model.terms == ("Intercept", "x", "g[T.q]", "g[T.r]")
    coef, inverse = naive_firth(design(data), data["y"], data["o"])
    error = np.sqrt(np.diagonal(inverse))
    assert np.max(np.abs(model.params - coef) / error) <= TOLERANCE
    np.testing.assert_allclose(model.bse, error, rtol=1e-7)
    assert model.statistics.rows_used == 90
    p = model.predict(data)
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("options", [{}, {"ci": "profile"}, {"flic": True}], ids=["wald", "profile", "flic"])
def test_a_row_of_weight_three_is_three_rows(options: dict[str, Any]) -> None:
    data = small()
    data["wide"] = np.arange(90) * 0.37  # no two rows alike, so that none are gathered
    expanded = {name: np.repeat(column, data["w"]) for name, column in data.items()}
    weighted = streamlr.fit(data, "y ~ x + g + wide", weights="w", firth=True, **options)
    single = streamlr.fit(expanded, "y ~ x + g + wide", firth=True, **options)
    error = single.bse
    assert np.max(np.abs(weighted.params - single.params) / error) <= TOLERANCE
    np.testing.assert_allclose(weighted.bse, error, rtol=1e-8)
    np.testing.assert_allclose(weighted.zvalues, single.zvalues, rtol=1e-6, atol=1e-8)
    assert np.max(np.abs(weighted.conf_int() - single.conf_int()) / error[:, None]) <= 1e-7
    assert weighted.firth.log_likelihood == pytest.approx(single.firth.log_likelihood, rel=1e-10)
    assert weighted.firth.null_log_likelihood == pytest.approx(single.firth.null_log_likelihood, rel=1e-10)
    assert weighted.nobs == single.nobs == data["w"].sum()


@pytest.mark.parametrize("options", [{"ci": "profile"}, {"flic": True}], ids=["profile", "flic"])
def test_a_row_of_counts_is_its_trials(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    x, o, n = rng.normal(size=25), rng.normal(0.0, 0.3, 25), rng.integers(0, 6, 25)
    k = rng.binomial(n, 1 / (1 + np.exp(0.5 - x - o)))
    rows = np.repeat(np.arange(25), n)
    y = np.concatenate([np.arange(trials) < hits for trials, hits in zip(n, k, strict=True)]).astype(int)
    counts = streamlr.fit(
        {"k": k, "n": n, "x": x, "o": o}, "k ~ x", trials="n", offset="o", firth=True, **options
    )
    single = streamlr.fit({"y": y, "x": x[rows], "o": o[rows]}, "y ~ x", offset="o", firth=True, **options)
    assert np.max(np.abs(counts.params - single.params) / single.bse) <= TOLERANCE
    np.testing.assert_allclose(counts.bse, single.bse, rtol=1e-8)
    assert np.max(np.abs(counts.conf_int() - single.conf_int()) / single.bse[:, None]) <= 1e-7
    # Both likelihoods have the binomial coefficients, which say nothing of the coefficients.
    binomial = sum(math.log(math.comb(int(trials), int(hits))) for trials, hits in zip(n, k, strict=True))
    assert counts.firth.log_likelihood == pytest.approx(single.firth.log_likelihood + binomial, rel=1e-10)
    assert counts.firth.test.statistic == pytest.approx(single.firth.test.statistic, rel=1e-8)


def test_analytic_weights_as_in_brglm2() -> None:
    """Half the weight everywhere halves the information and not the penalty, as in a glm with weights."""
    data = small()
    x, y, half = design(data), data["y"], np.full(90, 0.5)
    model = streamlr.fit({**data, "h": half}, "y ~ x + g", weights="h", weight_type="analytic", firth=True)
    p = model.predict(data)
    curvature = 0.5 * p * (1 - p)
    inverse = np.linalg.inv((x * curvature[:, None]).T @ x)
    leverage = curvature * np.einsum("ij,jk,ik->i", x, inverse, x)
    score = x.T @ (0.5 * (y - p) + leverage * (0.5 - p))
    assert math.sqrt(score @ inverse @ score) <= TOLERANCE
    np.testing.assert_allclose(model.bse, np.sqrt(np.diagonal(inverse)), rtol=1e-7)


def test_gaps_repeated_rows_and_aliased_columns() -> None:
    data = small()
    whole = streamlr.fit(data, "y ~ x + g", firth=True, ci="profile")
    gaps = {**data, "x": np.append(data["x"], np.nan), "twice": np.append(2 * data["x"], 1.0)}
    gaps = {
        name: column if len(column) == 91 else np.append(column, column[:1]) for name, column in gaps.items()
    }
    model = streamlr.fit(gaps, "y ~ x + twice + g", firth=True, ci="profile")
    assert model.aliased == ["twice"]
    assert model.dropped == {"x": 1}
    assert model.terms == whole.terms
    assert np.max(np.abs(model.params - whole.params) / whole.bse) <= TOLERANCE
    assert np.max(np.abs(model.conf_int() - whole.conf_int()) / whole.bse[:, None]) <= 1e-7
    assert model.firth.log_likelihood == pytest.approx(whole.firth.log_likelihood, rel=1e-10)
    # Few distinct rows are gathered to cells; leverages count them.
    rough = {**data, "x": np.round(data["x"]).astype(np.int8)}
    coef, inverse = naive_firth(design(rough), rough["y"])
    gathered = streamlr.fit(rough, "y ~ x + g", firth=True)
    assert np.max(np.abs(gathered.params - coef) / np.sqrt(np.diagonal(inverse))) <= TOLERANCE


def test_a_cell_with_one_outcome_stays() -> None:
    """Of two factors no level has one outcome only, but a cell of both has."""
    rng = np.random.default_rng(2)
    g, h = rng.choice(["p", "q"], 80), rng.choice(["s", "t"], 80)
    y = (rng.random(80) < 0.4) | ((g == "q") & (h == "t"))
    q, t = (g == "q").astype(float), (h == "t").astype(float)
    data = {"y": y.astype(np.int8), "g": g, "h": h}
    plain = streamlr.fit(data, "y ~ g*h")
    assert plain.statistics.rows_set_aside > 0
    model = streamlr.fit(data, "y ~ g*h", firth=True)
    coef, inverse = naive_firth(np.column_stack([np.ones(80), q, t, q * t]), data["y"])
    assert np.max(np.abs(model.params - coef) / np.sqrt(np.diagonal(inverse))) <= TOLERANCE
    assert model.statistics.rows_set_aside == 0


def test_factor_by_number_and_no_intercept() -> None:
    data = small()
    q, r = data["g"] == "q", data["g"] == "r"
    x = np.column_stack([data["x"] * (data["g"] == "p"), data["x"] * q, data["x"] * r])
    coef, inverse = naive_firth(x, data["y"])
    model = streamlr.fit(data, "y ~ 0 + g:x", firth=True)
    error = np.sqrt(np.diagonal(inverse))
    assert np.max(np.abs(model.params - coef) / error) <= TOLERANCE
    np.testing.assert_allclose(model.bse, error, rtol=1e-7)


def test_other_units_and_another_reference_are_the_same_model() -> None:
    """Jeffreys' prior does not know of coordinates: probabilities stay, and so does the test of the whole."""
    data = small()
    first = streamlr.fit(data, "y ~ x + g", firth=True)
    moved = {**data, "x": 1e6 + 1e-3 * data["x"]}
    other = streamlr.fit(moved, "y ~ x + g", firth=True, reference={"g": "r"})
    np.testing.assert_allclose(other.predict(moved), first.predict(data), rtol=1e-6)
    assert other.params[1] == pytest.approx(1e3 * first.params[1], rel=1e-6)
    assert other.firth.test.statistic == pytest.approx(first.firth.test.statistic, rel=1e-6)


# FLIC


@pytest.mark.parametrize("weights", [None, "w"])
def test_flic_has_the_outcomes_mean_and_firths_slopes(weights: str | None) -> None:
    data = small()
    plain = streamlr.fit(data, "y ~ x + g", firth=True, weights=weights, ci="profile")
    model = streamlr.fit(data, "y ~ x + g", firth=True, flic=True, weights=weights, ci="profile")
    w = np.ones(90) if weights is None else data["w"]
    p = model.predict(data)
    assert w @ p == pytest.approx(w @ data["y"], rel=1e-9)
    assert abs(w @ plain.predict(data) - w @ data["y"]) > 1e-3 * w.sum()
    np.testing.assert_allclose(model.params[1:], plain.params[1:], rtol=1e-12)
    np.testing.assert_allclose(model.bse[1:], plain.bse[1:], rtol=1e-9)
    assert model.conf_int()[1:].tobytes() == plain.conf_int()[1:].tobytes()
    assert model.firth.intercept_shift == pytest.approx(model.params[0] - plain.params[0], rel=1e-6)
    assert model.firth.log_likelihood == plain.firth.log_likelihood
    assert model.llf == pytest.approx(float(w @ np.log(np.where(data["y"] == 1, p, 1 - p))), rel=1e-10)
    # The delta method through the equation that the intercept solves.
    x = design(data)
    row = x.T @ (w * p * (1 - p))
    share = -row[1:] / row[0]
    slopes = plain.cov_params()[1:, 1:]
    assert model.bse[0] == pytest.approx(math.sqrt(1 / row[0] + share @ slopes @ share), rel=1e-7)
    # Nearly that of the information at the new intercept, which is R's.
    information = (x * (w * p * (1 - p))[:, None]).T @ x
    assert model.bse[0] == pytest.approx(math.sqrt(np.linalg.inv(information)[0, 0]), rel=0.05)
    # No likelihood has its maximum at that intercept: its interval is Wald's.
    z = 1.959963984540054
    assert model.conf_int()[0, 1] == pytest.approx(model.params[0] + z * model.bse[0], rel=1e-9)


# What is refused, what is said, what is stored


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cov": "HC1"}, "HC1 standard errors"),
        ({"cluster": "w"}, "cluster standard errors"),
        ({"weights": "w", "weight_type": "sampling"}, "sampling weights"),
        ({"absorb": "g"}, "absorbed effects"),
        ({"firth": False, "flic": True}, "flic"),
    ],
    ids=["robust", "cluster", "sampling", "absorb", "flic"],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=words):
        streamlr.fit(small(), target="y", features=["x"], **{"firth": True, **options})


def test_flic_needs_an_intercept() -> None:
    with pytest.raises(streamlr.StreamlrError, match="no intercept"):
        streamlr.fit(small(), "y ~ 0 + x", firth=True, flic=True)


def test_passes_may_run_out() -> None:
    data = {"y": small()["y"], "x": np.random.default_rng(1).normal(size=90)}
    with pytest.warns(streamlr.ConvergenceWarning):
        model = streamlr.fit(data, target="y", firth=True, max_passes=2)
    assert not model.converged
    assert model.firth.as_dict()["statistic"] is None
    assert "NOT converged" in str(model.summary())


@pytest.mark.parametrize("options", [{}, {"ci": "profile"}, {"flic": True, "profile": ["x"]}])
def test_saved_and_loaded_it_says_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    model = streamlr.fit(small(), "y ~ x + g", firth=True, **options)
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    assert again.result() == model.result()
    assert str(again.summary()) == str(model.summary())
    assert again.firth.as_dict() == model.firth.as_dict()
    np.testing.assert_array_equal(again.zvalues, model.zvalues)
    stored = json.loads((tmp_path / "model.json").read_text())["penalty"]
    assert stored["kind"] == "firth"
    assert model.result()["penalty"]["method"] == "Firth's penalised likelihood"
    text = str(model.summary())
    assert "by Firth's penalised likelihood" in text
    assert ("FLIC" in text) == ("flic" in options)
    profiled = bool({"ci", "profile"} & set(options))
    assert ("by the penalised profile likelihood" in text) == profiled
    # Bounds are of one level; tests of none.
    other = str(replace(model, conf_level=0.8).summary())
    assert "profile likelihood" not in other
    for said in (text, other):
        assert ("by signed roots of the penalised likelihood ratio" in said) == profiled
    assert "penalty" not in streamlr.fit(small(), "y ~ x").result()


def test_a_damaged_penalty_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    streamlr.fit(small(), "y ~ x", firth=True).save(path)
    content = json.loads(path.read_text())
    content["penalty"]["kind"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(streamlr.StreamlrError, match="damaged"):
        streamlr.load(path)


# What it costs, and the same bits


def large(n: int = 20_000) -> pa.Table:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(6, n))
    g = rng.choice(["p", "q", "r", "s"], n, p=[0.6, 0.3, 0.08, 0.02])
    y = rng.random(n) < 1 / (1 + np.exp(2.0 - 0.5 * x[0] + 0.3 * x[1] - 0.8 * (g == "r")))
    return pa.table({"y": y.astype(np.int8), **{f"x{j}": x[j] for j in range(6)}, "g": g})


def test_large_data_take_few_passes_more_than_maximum_likelihood(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(large(), path, row_group_size=2_000)
    reads, models = [], []
    for options in ({}, {"firth": True}, {"firth": True, "ci": "profile", "flic": True}):
        with pytest.MonkeyPatch.context() as patch:
            counted = Reads(patch, part_rows=4_000)
            models.append(streamlr.fit(path, target="y", threads=2, **options))
            reads.append(counted.of_part)
    plain, firth, profiled = models
    (more,) = {reads[1][part] - reads[0][part] for part in reads[0]}
    assert more == firth.glance()["passes"] - plain.glance()["passes"]
    assert more <= 8
    assert profiled.glance()["passes"] - firth.glance()["passes"] <= 4
    # Of the order of k / n standard errors apart, and not the same.
    apart = np.max(np.abs(firth.params - plain.params) / plain.bse)
    assert 1e-4 < apart < 0.1


def test_the_same_bits_for_any_threads_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "PART_ROWS", 300)
    path = tmp_path / "data.parquet"
    pq.write_table(large(1_500), path, row_group_size=100)
    options = {"firth": True, "ci": "profile", "flic": True}
    formula = "y ~ x0 + x1 + g"
    first = streamlr.fit(path, formula, threads=1, **options)
    for setting in ({"threads": 2}, {"threads": 3, "memory": "400MB"}):
        again = streamlr.fit(path, formula, **options, **setting)
        for name in ("params", "bse", "zvalues"):
            assert getattr(again, name).tobytes() == getattr(first, name).tobytes()
        assert again.conf_int().tobytes() == first.conf_int().tobytes()
    pq.write_table(large(1_500), path, row_group_size=37)
    split = streamlr.fit(path, formula, **options)
    assert np.max(np.abs(split.params - first.params) / first.bse) <= TOLERANCE
    assert np.max(np.abs(split.conf_int() - first.conf_int()) / first.bse[:, None]) <= 1e-7


# The iteration by itself


class Rows:
    """Rows in memory as an `Evaluate`."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __call__(self, coefs: np.ndarray, inverses: np.ndarray) -> Sequence[FirthEvaluation]:
        return [self.at(coef, inverse) for coef, inverse in zip(coefs, inverses, strict=True)]

    def at(self, coef: np.ndarray, inverse: np.ndarray) -> FirthEvaluation:
        x = self.x
        eta = x @ coef
        p = expit(eta)
        weight = p * (1 - p)
        form = np.einsum("ij,jk,ik->i", x, inverse, x)
        return FirthEvaluation(
            loss=float(np.logaddexp(0, eta).sum() - self.y @ eta),
            gradient=x.T @ (p - self.y),
            information=(x * weight[:, None]).T @ x,
            adjustment=x.T @ (weight * form * (0.5 - p)),
            spread=math.sqrt(float((weight * form**2 * (0.5 - p) ** 2).sum())),
        )


@pytest.mark.parametrize("columns", [500, 0])
def test_the_lag_bounds_what_it_is_said_to(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With leverages from the inverse at another point, the score is off by no more than `lag`, whether it
    comes from eigenvalues or, as with more than so many columns, from a norm."""
    monkeypatch.setattr("streamlr.inference.firth.MOST_EIGENVALUES", columns)
    rng = np.random.default_rng(3)
    for scale in (1e-3, 0.1, 1.0, 3.0):
        x = np.column_stack([np.ones(40), rng.normal(size=(40, 4))])
        rows = Rows(x, (rng.random(40) < 0.3).astype(float))
        before = 0.3 * rng.normal(size=5)
        used = rows.at(before, np.zeros((5, 5))).information
        after = before + scale * rng.normal(size=5)
        lagging = FirthPoint(after, rows.at(after, np.linalg.inv(used)), used)
        own = rows.at(after, lagging.inverse)
        off = lagging.length(lagging.score - (own.gradient - own.adjustment))
        assert 0.0 < off <= lagging.lag
        assert FirthPoint(after, own, own.information).lag == 0.0


def test_the_sums_of_a_pass_are_those_of_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points at once over many parts, one of them without leverages, with factor, weights and offset."""
    monkeypatch.setattr(parquet_source, "PART_ROWS", 20)
    data = small()
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(data), path, row_group_size=10)
    model = streamlr.fit(path, "y ~ x + g", weights="w", offset="o", firth=True)
    rng = np.random.default_rng(9)
    coefs, root = 0.5 * rng.normal(size=(2, 4)), rng.normal(size=(4, 4))
    inverses = np.array([root @ root.T, np.zeros((4, 4))])
    with reading_again(model, path, threads=2) as again:
        slots = again.design.layout.slot_of_column
        matrices = np.zeros((2, again.design.layout.slots, again.design.layout.slots))
        matrices[np.ix_([0, 1], slots, slots)] = inverses
        assert len(again.session.source.parts) > 3
        task = FirthTask(again.design, again.basis, None, coefs, matrices, 0.0)
        found = again.run(task, FirthSums.merge)
    x = design(data)
    x[:, 1] = (x[:, 1] - model.basis.centre[0]) * model.basis.scale[0]
    for place in (0, 1):
        eta = x @ coefs[place] + data["o"]
        p, w = expit(eta), data["w"]
        curvature, form = w * p * (1 - p), np.einsum("ij,jk,ik->i", x, inverses[place], x)
        adjustment = x.T @ (curvature * form * (0.5 - p))
        np.testing.assert_allclose(found.adjustments[place][slots], adjustment, rtol=1e-12, atol=1e-13)
        assert found.squares[place] == pytest.approx((curvature * form**2 * (0.5 - p) ** 2).sum(), rel=1e-12)
        assert found.sums[place].loss == pytest.approx(
            w @ (np.logaddexp(0, eta) - data["y"] * eta), rel=1e-12
        )
        np.testing.assert_allclose(
            found.sums[place].hessian(), (x * curvature[:, None]).T @ x, rtol=1e-12, atol=1e-13
        )


def test_it_converges_from_far_away_and_on_hard_data() -> None:
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(30), rng.normal(size=(30, 6))])
    y = (x[:, 1] + 0.3 * x[:, 2] > 0).astype(float)
    rows = Rows(x, y)
    best, converged = firth_maximum(rows, np.zeros(7))
    assert converged
    assert best.distance(np.zeros((0, 7))) + best.lag <= 1e-8
    coef, inverse = naive_firth(x, y)
    error = np.sqrt(np.diagonal(inverse))
    assert np.max(np.abs(best.coef - coef) / error) <= 1e-7
    far, converged = firth_maximum(rows, 3.0 * rng.normal(size=7))
    assert converged
    assert np.max(np.abs(far.coef - coef) / error) <= 1e-7


def test_the_intercept_of_flic_is_found_from_far_away() -> None:
    """One event in 100, and slopes that leave hardly any curvature where the search begins."""
    x = np.column_stack([np.ones(100), np.repeat([-1.0, 1.0], 50)])
    y = np.zeros(100)
    y[-1] = 1.0
    rows = Rows(x, y)
    coef = np.array([0.0, 15.0])
    evaluation = rows.at(coef, np.zeros((2, 2)))
    (found,) = run_together(rows, [flic_intercept(FirthPoint(coef, evaluation, None), 0)])
    assert found.converged
    assert found.coef[1] == 15.0
    assert expit(x @ found.coef).sum() == pytest.approx(1.0, rel=1e-9)
    assert found.loss == pytest.approx(rows.at(found.coef, np.zeros((2, 2))).loss, rel=1e-14)


def test_a_singular_start_is_an_error() -> None:
    x = np.column_stack([np.ones(5), np.ones(5)])
    with pytest.raises(streamlr.StreamlrError, match="singular"):
        firth_maximum(Rows(x, np.array([0.0, 1, 0, 1, 0])), np.zeros(2))
