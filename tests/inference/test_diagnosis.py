"""Diagnosis against R, against refits without a row, and against sums written out in NumPy.

`tests/reference/diagnosis/*.json` hold what R says of the fits of `tests/reference/*.json`;
`scripts/make_diagnosis_references.R` wrote them.
"""

from __future__ import annotations

import datetime
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from test_references import CASES, REFERENCE, options_of, read_case

import streamlr
from streamlr.errors import StreamlrError
from streamlr.inference import fit_statistics
from streamlr.inference.collinearity import condition_number, vif
from streamlr.inference.diagnosis import Collinearity, border_ranks, diagnose, grouped, hosmer_lemeshow
from streamlr.passes import diagnosis_task
from streamlr.passes.diagnosis_task import TopRows
from streamlr.sources.memory import TablePart

DIAGNOSES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((REFERENCE / "diagnosis").glob("*.json"))
}
assert DIAGNOSES, f"no reference results in {REFERENCE / 'diagnosis'}"

# Both sides are at their maximum to 1e-9 standard errors or better; what differs is rounding in sums.
TOLERANCE = 1e-8


@pytest.fixture(scope="module")
def diagnosed() -> Any:
    """diagnosed(name, **options) -> (model, result) of a reference case, each model fitted once."""
    models: dict[str, Any] = {}

    def run(name: str, **options: Any) -> tuple[Any, dict[str, Any]]:
        table = read_case(CASES[name])
        if name not in models:
            models[name] = streamlr.fit(table, **options_of(CASES[name]))
        return models[name], diagnose(models[name], table, **options).result()

    return run


def close(got: float, want: float, tolerance: float = TOLERANCE, scale: float = 0.0) -> None:
    assert abs(got - want) <= tolerance * max(abs(want), scale), f"{got!r}, the reference has {want!r}"


@pytest.mark.parametrize("name", DIAGNOSES)
def test_fit_agrees_with_r(name: str, diagnosed: Any) -> None:
    want = DIAGNOSES[name]
    model, got = diagnosed(name)
    assert got["same_rows"]
    assert got["remarks"] == []
    for key in ("pearson_chi2", "dispersion", "deviance", "deviance_dispersion", "log_loss", "brier"):
        close(got[key], want[key])
    for key, value in want["pseudo_r2"].items():
        close(got["pseudo_r2"][key], value)
    for key in ("loo_log_loss", "loo_brier"):
        close(got[key], want[key])
    assert got["rows_used"] == model.statistics.rows_used


@pytest.mark.parametrize("name", DIAGNOSES)
@pytest.mark.parametrize("place", [0, 1])
def test_hosmer_lemeshow_agrees_with_r(name: str, place: int, diagnosed: Any) -> None:
    want = DIAGNOSES[name]["hosmer_lemeshow"][place]
    got = diagnosed(name, groups=want["g"])[1]["hosmer_lemeshow"]
    table = got["groups"]
    assert len(table) == len(want["n"])
    for key in ("n", "observed", "expected"):
        for group, value in zip(table, want[key], strict=True):
            close(group[key], value)
    close(got["statistic"], want["statistic"])
    assert got["df"] == want["df"]
    close(got["p_value"], want["p_value"], 1e-7)


@pytest.mark.parametrize("name", DIAGNOSES)
def test_link_test_agrees_with_r(name: str, diagnosed: Any) -> None:
    want = DIAGNOSES[name]["link_test"]
    got = diagnosed(name, link_test=True)[1]["link_test"]
    for key, row in want.items():
        error = row["std_error"]
        close(got[key]["estimate"], row["estimate"], TOLERANCE, error)
        close(got[key]["std_error"], error, TOLERANCE)
        close(got[key]["statistic"], row["statistic"], TOLERANCE, 1.0)
        close(got[key]["p_value"], row["p_value"], TOLERANCE * (1 + row["statistic"] ** 2))


@pytest.mark.parametrize("name", DIAGNOSES)
def test_influential_rows_agree_with_r(name: str, diagnosed: Any) -> None:
    want = DIAGNOSES[name]["influential"]
    model, got = diagnosed(name, top=len(want))
    terms = [t for t in CASES[name]["terms"] if t in model.terms]
    errors = dict(zip(model.terms, model.bse, strict=True))
    by_row = {row["row"]: row for row in got["influential"]}
    # Rows whose columns are equal have the same distance, which R orders by its rounding.
    distances = [row["cooks_distance"] for row in got["influential"]]
    assert distances == sorted(distances, reverse=True)
    for distance, row in zip(distances, want, strict=True):
        close(distance, row["cooks_distance"])
    found = 0
    for row in want:
        if row["row"] not in by_row:
            assert row["cooks_distance"] <= distances[-1] * (1 + TOLERANCE)
            continue
        found += 1
        ours = by_row[row["row"]]
        for key in ("leverage", "pearson_residual", "cooks_distance"):
            close(ours[key], row[key])
        for term, value in zip(terms, row["dfbeta"], strict=True):
            close(ours["dfbeta"][term], value, TOLERANCE, errors[term])
    assert found >= len(want) // 2


# ------------------------------------------------------------ against NumPy

FORMULA = "late ~ dep_delay + carrier * weekend + distance:weekend + origin"


@pytest.fixture(scope="module")
def flights(flights_like: pa.Table) -> pa.Table:
    """600 rows with nulls, their numbers as "id", dates, and columns for every role."""
    rng = np.random.default_rng(3)
    n = flights_like.num_rows
    first = datetime.date(2013, 1, 1)
    return (
        flights_like.append_column("id", pa.array(np.arange(n)))
        .append_column("day", pa.array([first + datetime.timedelta(days=i % 365) for i in range(n)]))
        .append_column("times", pa.array(rng.integers(0, 4, n)))
        .append_column("precision", pa.array(rng.uniform(0.2, 3.0, n)))
        .append_column("shift", pa.array(rng.normal(0.0, 0.3, n)))
    )


@pytest.fixture(scope="module")
def model(flights: pa.Table) -> Any:
    return streamlr.fit(flights, FORMULA)


def used_rows(flights: pa.Table) -> np.ndarray:
    gaps = [flights[name].is_null().to_numpy() for name in ("dep_delay", "carrier")]
    return np.flatnonzero(~(gaps[0] | gaps[1]))


def design_of(flights: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """X (n, k) of FORMULA over the rows used, in the order of its terms, and y."""
    used = flights.take(used_rows(flights))
    column = {name: np.array(used[name].to_pylist()) for name in used.column_names}
    carriers = [column["carrier"] == level for level in ("B6", "DL", "UA")]
    weekend = column["weekend"]
    X = [np.ones(used.num_rows), column["dep_delay"], *carriers, weekend]
    X += [column["origin"] == level for level in ("JFK", "LGA")]
    X += [carrier & weekend for carrier in carriers]
    X += [column["distance"] * ~weekend, column["distance"] * weekend]
    return np.column_stack([x.astype(float) for x in X]), column["late"].astype(float)


def by_terms(model: Any, flights: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """X with its columns in the order of `model.terms`, and y; checked against the fit."""
    names = ["Intercept", "dep_delay", "carrier[T.B6]", "carrier[T.DL]", "carrier[T.UA]", "weekend[T.True]"]
    names += ["origin[T.JFK]", "origin[T.LGA]"]
    names += [f"carrier[T.{level}]:weekend[T.True]" for level in ("B6", "DL", "UA")]
    names += ["distance:weekend[False]", "distance:weekend[True]"]
    X, y = design_of(flights)
    assert sorted(names) == sorted(model.terms)
    return X[:, [names.index(term) for term in model.terms]], y


@pytest.mark.parametrize("by", ["cooks", "leverage", "dfbeta:Intercept", "dfbeta:distance:weekend[True]"])
def test_every_row_against_matrices(by: str, model: Any, flights: pa.Table) -> None:
    X, y = by_terms(model, flights)
    rows = used_rows(flights)
    p = 1 / (1 + np.exp(-X @ model.params))
    H = (X * (p * (1 - p))[:, None]).T @ X
    h = p * (1 - p) * np.einsum("ij,ij->i", X @ np.linalg.inv(H), X)
    change = (X @ np.linalg.inv(H)) * ((y - p) / (1 - h))[:, None]
    r = (y - p) / np.sqrt(p * (1 - p))
    cooks = r**2 * h / ((1 - h) ** 2 * len(model.params))
    term = by.partition(":")[2]
    value = {"cooks": cooks, "leverage": h}.get(by)
    if value is None:
        value = np.abs(change[:, model.terms.index(term)])

    found = diagnose(model, flights, by=by, top=len(rows), keep=["id", "day"]).result()
    listed = found["influential"]
    assert len(listed) == len(rows)
    place = {int(row): i for i, row in enumerate(rows)}
    at = [place[row["row"]] for row in listed]
    assert sorted(at) == list(range(len(rows)))
    np.testing.assert_allclose(value[at], np.sort(value)[::-1], rtol=1e-9)
    assert [row["keep"]["id"] for row in listed] == [row["row"] for row in listed]
    assert listed[0]["keep"]["day"] == flights["day"][listed[0]["row"]].as_py().isoformat()
    # The inverse of an information matrix in these units has lost five digits; ours is of scaled columns.
    np.testing.assert_allclose([row["p"] for row in listed], p[at], rtol=1e-9)
    np.testing.assert_allclose([row["leverage"] for row in listed], h[at], rtol=1e-9)
    residuals = [row["pearson_residual"] for row in listed]
    np.testing.assert_allclose(residuals, (r / np.sqrt(1 - h))[at], rtol=1e-9)
    np.testing.assert_allclose([row["cooks_distance"] for row in listed], cooks[at], rtol=1e-9)
    changes = np.array([[row["dfbeta"][term] for term in model.terms] for row in listed])
    np.testing.assert_allclose(changes / model.bse, change[at] / model.bse, atol=1e-9)

    left_out = X @ model.params - h / (p * (1 - p)) * (y - p) / (1 - h)
    loss = np.mean(np.logaddexp(0, left_out) - y * left_out)
    assert found["loo_log_loss"] == pytest.approx(loss, rel=1e-12)
    brier = np.mean((y - 1 / (1 + np.exp(-left_out))) ** 2)
    assert found["loo_brier"] == pytest.approx(brier, rel=1e-12)


def test_leave_one_out_is_near_that_of_refits(maximum_likelihood: Any) -> None:
    table = read_case(CASES["birthwt"]).select(["low", "age", "lwt", "smoke"])
    model = streamlr.fit(table, target="low")
    X = np.column_stack(
        [np.ones(table.num_rows), *(table[name].to_numpy() for name in table.column_names[1:])]
    )
    y = table["low"].to_numpy().astype(float)
    eta = np.array(
        [X[i] @ maximum_likelihood(np.delete(X, i, 0), np.delete(y, i)).coef for i in range(len(y))]
    )
    exact = float(np.mean(np.logaddexp(0, eta) - y * eta))
    found = diagnose(model, table)
    assert found.loo_log_loss is not None
    assert found.log_loss is not None
    # One Newton step away the error is of second order in the leverages, which are about 4 / 189.
    optimism = exact - found.log_loss
    assert optimism > 0.01
    assert found.loo_log_loss == pytest.approx(exact, abs=optimism / 50)


# ------------------------------------------------------------ weights, counts, offsets


def assert_same_sums(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("pearson_chi2", "dispersion", "deviance_dispersion", "log_loss", "brier", "loo_log_loss"):
        assert one[key] == pytest.approx(other[key], rel=1e-9), key
    assert one["nobs"] == other["nobs"]
    assert one["pseudo_r2"] == pytest.approx(other["pseudo_r2"], rel=1e-9)
    ours, theirs = one["hosmer_lemeshow"], other["hosmer_lemeshow"]
    assert ours["statistic"] == pytest.approx(theirs["statistic"], rel=1e-7)
    assert [group["n"] for group in ours["groups"]] == [group["n"] for group in theirs["groups"]]
    for key in ("hat", "hatsq"):
        assert one["link_test"][key] == pytest.approx(other["link_test"][key], rel=1e-6)


def test_frequency_weights_are_repeated_rows(flights: pa.Table) -> None:
    options = {"target": "late", "features": ["dep_delay", "carrier", "weekend"], "offset": "shift"}
    weighted = streamlr.fit(flights, weights="times", **options)
    one = diagnose(weighted, flights, link_test=True, top=5).result()
    repeated = flights.take(np.repeat(np.arange(flights.num_rows), flights["times"].to_numpy()))
    model = streamlr.fit(repeated, **options)
    other = diagnose(model, repeated, link_test=True, top=30, keep=["id"]).result()
    assert_same_sums(one, other)
    theirs = {row["keep"]["id"]: row for row in other["influential"]}
    for row in one["influential"]:
        twin = theirs[row["row"]]
        assert row["weight"] == flights["times"][row["row"]].as_py()
        for key in ("leverage", "pearson_residual", "cooks_distance"):
            assert row[key] == pytest.approx(twin[key], rel=1e-7)


def test_changes_are_ranked_whatever_the_offset(flights: pa.Table) -> None:
    model = streamlr.fit(flights, "late ~ dep_delay + origin", offset="shift")
    listed = diagnose(model, flights, by="dfbeta:dep_delay", top=600).influential
    assert listed is not None
    changes = np.abs([row["dfbeta"]["dep_delay"] for row in listed])
    assert (changes[:-1] >= changes[1:] * (1 - 1e-12)).all()


def test_counts_are_rows_for_everything_but_influence(flights: pa.Table) -> None:
    used = flights.drop_null()
    grouped = used.group_by(["carrier", "weekend", "month"]).aggregate([("late", "sum"), ("late", "count")])
    grouped = grouped.rename_columns(["carrier", "weekend", "month", "late", "n"])
    features = ["carrier", "weekend", "month"]
    one = diagnose(streamlr.fit(grouped, target="late", trials="n", features=features), grouped)
    other = diagnose(streamlr.fit(used, target="late", features=features), used)
    assert one.log_loss == pytest.approx(other.log_loss, rel=1e-9)
    assert one.brier == pytest.approx(other.brier, rel=1e-9)
    assert one.pseudo_r2["tjur"] == pytest.approx(other.pseudo_r2["tjur"], rel=1e-9)
    assert one.hosmer_lemeshow.statistic == pytest.approx(other.hosmer_lemeshow.statistic, rel=1e-7)
    assert one.hosmer_lemeshow.df == other.hosmer_lemeshow.df


@pytest.mark.parametrize("weight_type", ["frequency", "analytic"])
def test_rows_without_weight_change_nothing(weight_type: Any, flights: pa.Table) -> None:
    options: dict[str, Any] = {"target": "late", "features": ["dep_delay", "origin"], "weights": "times"}
    options["weight_type"] = weight_type
    some = flights.filter(np.array(flights["times"]) > 0)
    one = diagnose(streamlr.fit(flights, **options), flights, link_test=True, top=600).result()
    other = diagnose(streamlr.fit(some, **options), some, link_test=True, top=600).result()
    assert_same_sums(one, other)
    assert len(one["influential"]) == len(other["influential"])
    assert one["deviance"] == pytest.approx(other["deviance"], rel=1e-12)


# ------------------------------------------------------------ groups


def failures_at(p: np.ndarray) -> diagnosis_task.Fitted:
    """A failure of weight one at each probability."""
    one = np.ones_like(p)
    return diagnosis_task.Fitted(np.log(p / (1 - p)), p, 1 - p, 0 * one, one, one, one)


def groups_of(p: np.ndarray, most: int, counts: np.ndarray | None = None) -> diagnosis_task.Groups:
    groups = diagnosis_task.Groups(diagnosis_task.whole_range(), most)
    groups.add(failures_at(p), np.ones_like(p) if counts is None else counts)
    return groups


def test_groups_of_parts_are_those_of_all_rows() -> None:
    few, many = np.array([0.2, 0.3, 0.3, 0.9]), np.linspace(0.05, 0.8, 10)
    for one, other in ((few, many), (many, few)):
        merged = groups_of(one, 20).merge(groups_of(other, 20))
        whole = groups_of(np.concatenate([one, other]), 20)
        assert merged.highest == whole.highest
        np.testing.assert_array_equal(merged.keys, whole.keys)
        np.testing.assert_allclose(merged.amounts, whole.amounts)
        np.testing.assert_array_equal(merged.bins, whole.bins)
        # Where one part has too many probabilities to tell apart, so have both.
        assert groups_of(one, 5).merge(groups_of(other, 5)).keys is None


def test_rows_that_do_not_count_are_not_the_highest() -> None:
    p = np.array([0.2, 0.9])
    assert groups_of(p, 5, np.array([1.0, 0.0])).highest == groups_of(p[:1], 5).highest


def test_link_sums_of_parts_are_those_of_all_rows() -> None:
    point = diagnosis_task.LinkPoint(0.1, 2.0, np.array([0.2, 1.0, -0.3]))
    sums = []
    parts = np.array([0.3, 0.01, 0.6]), np.array([0.5, 0.99])
    for p in (*parts, np.concatenate(parts)):
        sums.append(diagnosis_task.LinkSums())
        sums[-1].add(failures_at(p), point)
    for merged in (sums[0].merge(sums[1]), sums[2]):
        assert merged.low == pytest.approx((math.log(0.01 / 0.99) - 0.1) / 2)
        assert merged.high == pytest.approx((math.log(0.99 / 0.01) - 0.1) / 2)
        assert merged.loss == pytest.approx(sums[2].loss)
        assert merged.least_curvature == sums[2].least_curvature
        np.testing.assert_allclose(merged.gradient, sums[2].gradient)
        np.testing.assert_allclose(merged.hessian, sums[2].hessian)


def naive_groups(p: np.ndarray, y: np.ndarray, g: int) -> list[tuple[int, float, float]]:
    """n, observed and expected of groups cut at quantiles of type 7, as R's `cut` does it."""
    borders = np.unique(np.quantile(p, np.arange(g + 1) / g))
    place = np.maximum(np.searchsorted(borders, p, side="left") - 1, 0)
    return [(int((place == j).sum()), y[place == j].sum(), p[place == j].sum()) for j in np.unique(place)]


@pytest.mark.parametrize("digits", [12, 1])
@pytest.mark.parametrize("limits", [(1 << 14, 1 << 18, 1 << 18), (8, 1 << 18, 1 << 18), (8, 16, 64)])
def test_groups_take_as_many_passes_as_they_need(
    limits: tuple[int, int, int], digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(11)
    # At one digit many rows are ties, at the least value and at borders.
    x = np.round(rng.normal(size=997), digits)
    y = (rng.random(997) < 1 / (1 + np.exp(1.0 - x))).astype(np.int8)
    table = pa.table({"x": x, "y": y})
    model = streamlr.fit(table, target="y")
    for name, limit in zip(("FIRST_MOST", "LATER_MOST", "BINS"), limits, strict=True):
        monkeypatch.setattr(diagnosis_task, name, limit)
    p = 1 / (1 + np.exp(-(model.params[0] + model.params[1] * x)))
    for g in (2, 7, 10):
        found = diagnose(model, table, groups=g, top=0)
        want = naive_groups(np.round(p, 11), y, g)
        got = [(group["n"], group["observed"], group["expected"]) for group in found.hosmer_lemeshow.groups]
        assert [n for n, _, _ in got] == [n for n, _, _ in want]
        np.testing.assert_allclose(got, want, rtol=1e-8)
        tops = [group["p_up_to"] for group in found.hosmer_lemeshow.groups]
        assert tops == sorted(tops)
        np.testing.assert_allclose(tops[-1], p.max(), rtol=1e-11)
        if limits[0] > len(x):
            assert found.passes == 1
        elif limits[2] > len(x):
            assert found.passes == 2
        else:
            # 16 probabilities at most are told apart, and two rounds of 64 bins leave fewer than that in one
            # of them; where more borders share the bins of a round, one more is needed.
            assert found.passes >= (2 if digits == 1 else 3 if g == 2 else 4)


@settings(max_examples=40)
@given(values=st.lists(st.integers(0, 6), min_size=2, max_size=40), g=st.integers(2, 10))
def test_groups_of_ties(values: list[int], g: int) -> None:
    """Any pattern of ties, the least and the largest value among them."""
    p = np.array(values) / 8.0 + 0.1
    groups = groups_of(p, 1 << 14)
    found = grouped(groups, border_ranks(groups, g))
    want = naive_groups(p, np.zeros_like(p), g)
    np.testing.assert_allclose(found[:, 1], [n for n, _, _ in want])
    np.testing.assert_allclose(found[:, 4], [expected for _, _, expected in want])


def test_probabilities_that_rounding_parts_are_ties() -> None:
    p = np.array([1e-9, 0.01, 0.3, 0.7])
    keys = diagnosis_task.keys_of_probability(p)
    np.testing.assert_array_equal(diagnosis_task.keys_of_probability(p * (1 + 4e-16)), keys)
    assert (diagnosis_task.keys_of_probability(p * (1 + 4e-12)) > keys).all()


def test_a_row_that_cannot_have_happened() -> None:
    """p underflows to zero where the outcome is one: Pearson's residual is infinite, the loss is not."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 200)
    offset = np.where(np.arange(200) == 20, -800.0, 0.0)
    y[20] = 1
    table = pa.table({"x": rng.normal(size=200), "y": y, "shift": offset})
    found = diagnose(streamlr.fit(table, "y ~ x", offset="shift"), table)
    assert found.same_rows
    assert (found.pearson_chi2, found.dispersion) == (None, None)
    assert found.log_loss > 800 / 200
    assert "Pearson chi-square none" in str(found)
    json.dumps(found.result(), allow_nan=False)


def test_p_value_is_that_of_the_chi_square_distribution(model: Any, flights: pa.Table) -> None:
    test = diagnose(model, flights).hosmer_lemeshow
    assert test.df == 8
    assert test.p_value == pytest.approx(chi2.sf(test.statistic, 8), rel=1e-12)


def test_a_group_that_cannot_fail() -> None:
    """Where no failure is expected and none is seen there is nothing to divide; if one is, no statistic."""
    key = float(diagnosis_task.HIGHEST_KEY)
    # Key of the largest probability, count, successes, failures, and the expected of both.
    groups = np.array([[key - 1, 9, 4, 5, 3.5, 5.5], [key, 6, 6, 0, 6, 0]])
    test = hosmer_lemeshow(groups, in_sample=False)
    assert test.statistic == pytest.approx(0.25 / 3.5 + 0.25 / 5.5)
    assert test.p_value == pytest.approx(chi2.sf(test.statistic, 2))
    groups[1, 3] = 1
    assert hosmer_lemeshow(groups, in_sample=False).statistic is None


def test_two_groups_have_no_p_value(model: Any, flights: pa.Table) -> None:
    test = diagnose(model, flights, groups=2).hosmer_lemeshow
    assert (test.df, test.p_value) == (0, None)
    assert "too few groups" in str(diagnose(model, flights, groups=2))


# ------------------------------------------------------------ rows and where they are


@pytest.fixture(scope="module")
def folder(flights: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in eleven files of several row groups, one of them without rows: as many leaves."""
    path = tmp_path_factory.mktemp("flights")
    for i, first in enumerate(range(0, 600, 60)):
        pq.write_table(flights.slice(first, 60), path / f"part-{i:02d}.parquet", row_group_size=25)
    pq.write_table(flights.slice(0, 0), path / "part-045.parquet")
    return path


@pytest.mark.parametrize("where", [None, "id >= 137", "id >= 137 and weekend", "month > 3"])
def test_rows_are_numbered_as_they_stand_in_the_files(
    where: str | None, folder: Path, flights: pa.Table
) -> None:
    model = streamlr.fit(str(folder), "late ~ dep_delay + carrier", where=where)
    for data in (str(folder), flights):
        found = diagnose(model, data, top=20, keep=["id", "carrier"])
        assert found.same_rows
        listed = found.influential
        assert listed is not None
        assert [row["row"] for row in listed] == [row["keep"]["id"] for row in listed]
        carriers = flights["carrier"].take(pa.array([row["row"] for row in listed])).to_pylist()
        assert [row["keep"]["carrier"] for row in listed] == carriers
        assert len({row["row"] for row in listed}) == 20


def test_one_answer_for_any_number_of_threads(folder: Path, model: Any) -> None:
    one, four = (
        diagnose(model, str(folder), link_test=True, threads=threads, by="dfbeta:dep_delay").result()
        for threads in (1, 4)
    )
    assert one == four


@pytest.mark.parametrize("limits", [(1 << 14, 1 << 18, 1 << 18), (8, 16, 64)])
def test_one_answer_for_any_cut_into_parts(
    limits: tuple[int, int, int],
    folder: Path,
    flights: pa.Table,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = diagnose(model, flights, link_test=True, keep=["id"]).result()
    for name, limit in zip(("FIRST_MOST", "LATER_MOST", "BINS"), limits, strict=True):
        monkeypatch.setattr(diagnosis_task, name, limit)
    cut = diagnose(model, str(folder), link_test=True, keep=["id"]).result()
    assert_same_sums(whole, cut)
    assert [row["row"] for row in whole["influential"]] == [row["row"] for row in cut["influential"]]


def test_dask_gives_the_same(flights: pa.Table, model: Any) -> None:
    import dask.dataframe as dd

    frame = dd.from_pandas(
        flights.select(["late", "dep_delay", "carrier", "weekend", "distance", "origin", "id"]).to_pandas(),
        npartitions=3,
    )
    whole = diagnose(model, flights, link_test=True).result()
    on_dask = diagnose(model, frame, link_test=True, keep=["id"]).result()
    assert_same_sums(whole, on_dask)
    assert [row["row"] for row in on_dask["influential"]] == [
        row["keep"]["id"] for row in on_dask["influential"]
    ]


def test_reads_are_counted(model: Any, flights: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    read = TablePart.read
    reads = []

    def counting(self: TablePart, *arguments: Any) -> Any:
        reads.append(self.rows)
        return read(self, *arguments)

    monkeypatch.setattr(TablePart, "read", counting)
    for link_test, most in ((False, 1), (True, 6)):
        reads.clear()
        found = diagnose(model, flights, link_test=link_test)
        assert len(reads) == found.passes <= most


@settings(max_examples=200)
@given(
    values=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    most=st.integers(1, 12),
)
def test_top_rows_of_any_parts(values: list[int], cuts: list[int], most: int) -> None:
    """The largest values in order, of equal ones the first, however the rows come in parts."""
    value = np.array(values, dtype=float)
    value[value == 5] = np.nan  # no rank
    top = TopRows(most, 1)
    borders = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    for begin, end in pairwise(borders):
        best = top.places(value[begin:end])
        part = TopRows(most, 1)
        part.value, part.rows = value[begin:end][best], best + begin
        part.numbers = np.zeros((len(best), len(diagnosis_task.NUMBERS)))
        part.x = np.zeros((len(best), 1))
        part.kept = [()] * len(best)
        top.take(part)
    order = [i for i in np.argsort(-value, kind="stable") if not np.isnan(value[i])]
    assert top.rows.tolist() == order[:most]


def test_results_are_plain_for_json(model: Any, flights: pa.Table) -> None:
    odd = flights.append_column("odd", pa.array([math.nan, 1.5] * 300))
    found = diagnose(model, odd, keep=["odd", "day"], top=40).result()
    assert {row["keep"]["odd"] for row in found["influential"]} == {None, 1.5}
    assert isinstance(found["nobs"], int)
    assert isinstance(found["df_resid"], int)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_more_rows_asked_for_than_there_are(model: Any, flights: pa.Table) -> None:
    assert len(diagnose(model, flights, top=10_000).influential) == len(used_rows(flights))
    assert diagnose(model, flights, top=0).influential == ()


# ------------------------------------------------------------ when something is missing


def test_other_rows_are_told(model: Any, flights: pa.Table) -> None:
    found = diagnose(model, flights, where="month <= 6")
    assert not found.same_rows
    used = found.rows_used
    assert any("not the rows of the fit" in remark and f"{used:,} rows" in remark for remark in found.remarks)
    assert found.hosmer_lemeshow.df == len(found.hosmer_lemeshow.groups) == 10
    assert found.df_resid == found.nobs == used
    assert found.loo_log_loss is None
    assert found.log_loss is not None
    assert str(found).startswith("note: these are not the rows of the fit")


def test_as_many_rows_with_other_values_are_other_rows(model: Any, flights: pa.Table) -> None:
    column = flights.column_names.index("dep_delay")
    moved = flights.set_column(
        column,
        "dep_delay",
        pa.array([None if v is None else v + 0.1 for v in flights["dep_delay"].to_pylist()]),
    )
    found = diagnose(model, moved)
    assert found.rows_used == model.statistics.rows_used
    assert not found.same_rows
    assert "log-likelihood" in found.remarks[0]


def test_absorbed_effects_leave_no_influence(flights: pa.Table) -> None:
    model = streamlr.fit(flights, target="late", features=["dep_delay"], absorb="month")
    found = diagnose(model, flights)
    assert found.same_rows
    assert found.influential is None
    assert found.loo_log_loss is None
    assert any("absorbed" in remark for remark in found.remarks)
    dummies = streamlr.fit(flights, "late ~ dep_delay + C(month)")
    other = diagnose(dummies, flights)
    assert found.pearson_chi2 == pytest.approx(other.pearson_chi2, rel=1e-8)
    assert found.dispersion == pytest.approx(other.dispersion, rel=1e-8)
    assert found.hosmer_lemeshow.statistic == pytest.approx(other.hosmer_lemeshow.statistic, rel=1e-7)
    with pytest.raises(StreamlrError, match="month"):
        diagnose(model, flights, by="dfbeta:dep_delay")


def test_a_row_that_decides_a_coefficient() -> None:
    """A level that one row of counts has alone: its leverage is 1, and there is no fit without it."""
    table = pa.table(
        {
            "place": ["a", "b", "b", "b", "c", "c"],
            "k": [3, 2, 4, 5, 1, 6],
            "n": [10, 9, 9, 9, 8, 12],
        }
    )
    model = streamlr.fit(table, target="k", trials="n", features=["place"])
    found = diagnose(model, table, by="leverage")
    assert found.loo_log_loss is None
    assert found.loo_brier is None
    assert any("leverage 1" in remark for remark in found.remarks)
    assert found.influential is not None
    first = found.influential[0]
    assert (first["row"], first["successes"], first["trials"]) == (0, 3, 10)
    assert first["leverage"] == pytest.approx(1.0)
    assert first["cooks_distance"] is None
    assert set(first["dfbeta"].values()) == {None}
    assert all(row["row"] != 0 for row in diagnose(model, table).influential)
    json.dumps(found.result(), allow_nan=False)


def test_no_link_test_of_two_values(flights: pa.Table) -> None:
    model = streamlr.fit(flights, "late ~ weekend")
    found = diagnose(model, flights, link_test=True)
    assert found.link_test is None
    assert any("no link test" in remark for remark in found.remarks)


def test_a_wrong_link_is_found() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=4_000)
    y = rng.random(4_000) < 1 / (1 + np.exp(-(x + 0.5 * x**2 - 0.5)))
    table = pa.table({"x": x, "y": y})
    link = diagnose(streamlr.fit(table, target="y"), table, link_test=True).link_test
    assert link is not None
    assert link.hatsq["p_value"] < 1e-10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 1}, "groups must lie between 2 and 1,000, not 1"),
        ({"top": -1}, "top must lie between 0 and"),
        ({"by": "cook"}, "cooks, leverage, dfbeta:TERM"),
        ({"by": "dfbeta:dep_dely"}, "Did you mean 'dep_delay'"),
        ({"keep": ["idd"]}, "Did you mean 'id'"),
        ({"where": "id > 1000000"}, "rows"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], words: str, model: Any, flights: pa.Table) -> None:
    with pytest.raises(StreamlrError) as error:
        diagnose(model, flights, **options)
    assert words in str(error.value)


def test_collinearity_stands_beside(model: Any, flights: pa.Table) -> None:
    found = diagnose(model, flights)
    assert found.collinearity.condition_number == condition_number(model)
    assert found.collinearity.centred_condition_number == condition_number(model, centred=True)
    assert list(found.collinearity.vif) == vif(model).as_dicts()
    assert f"condition number {found.collinearity.condition_number:.4g}" in str(found)
    constant = diagnose(streamlr.fit(flights, "late ~ 1"), flights)
    assert constant.collinearity == Collinearity(pytest.approx(1.0), None, ())
    assert "condition number" not in str(constant)
    assert "in 1 group: too few groups" in str(constant)


def test_rows_that_do_not_fit_are_refused(
    model: Any, flights: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Columns and 9 numbers a row, 3 copies on one thread, a quarter of what there is.
    least = 4 * 8 * 3 * 10 * (model.design.layout.slots + 9)
    monkeypatch.setattr("streamlr.inference.diagnosis.available_memory", lambda: least)
    assert len(diagnose(model, flights, top=10, threads=1).influential) == 10
    with pytest.raises(StreamlrError, match=r"11 rows of 13 columns need \d kB on 1 threads"):
        diagnose(model, flights, top=11, threads=1)


def test_firths_estimate_is_told(flights: pa.Table) -> None:
    model = streamlr.fit(flights, "late ~ dep_delay + origin", firth=True)
    found = diagnose(model, flights)
    assert found.same_rows
    assert ["Firth" in remark for remark in found.remarks] == [True]


def test_pseudo_r2_of_a_perfect_null_model() -> None:
    assert fit_statistics.nagelkerke_r2(0.0, 0.0, 10.0) is None
    assert fit_statistics.cox_snell_r2(-10.0, -20.0, 40.0) == pytest.approx(1 - math.exp(-0.5), rel=1e-15)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_values_are_told(value):
    rng = np.random.default_rng(6)
    rows = {"y": rng.integers(0, 2, 60), "x": rng.normal(size=60)}
    model = streamlr.fit(rows, "y ~ x")
    x = rows["x"].copy()
    x[[3, 50]] = value
    with pytest.raises(StreamlrError, match="linear predictor of 2 rows or more is not finite"):
        streamlr.diagnose(model, rows | {"x": x}, link_test=True)
    with pytest.raises(StreamlrError, match="linear predictor of 2 rows or more is not finite"):
        streamlr.screen(model, rows | {"x": x, "z": rng.normal(size=60)}, ["z"])


def test_one_column_to_keep_is_a_text():
    rng = np.random.default_rng(6)
    rows = {"y": rng.integers(0, 2, 60), "xy": rng.normal(size=60)}
    found = streamlr.diagnose(streamlr.fit(rows, "y ~ xy"), rows, keep="xy", top=1)
    assert found.influential is not None
    assert list(found.influential[0]["keep"]) == ["xy"]


@pytest.mark.parametrize("kind", [True, "flic"])
def test_of_a_penalised_fit(kind):
    rng = np.random.default_rng(8)
    rows = {"x": rng.normal(size=80), "y": rng.integers(0, 2, 80)}
    model = streamlr.fit(rows, "y ~ x", firth=kind)
    found = streamlr.diagnose(model, rows, top=1)
    X = np.column_stack([np.ones(80), rows["x"]])
    p = model.predict(rows)
    h = p * (1 - p) * np.einsum("ij,jk,ik->i", X, model.cov_params(), X)
    r = (rows["y"] - p) / np.sqrt(p * (1 - p))
    cooks = r**2 * h / (1 - h) ** 2 / 2
    assert found.same_rows
    assert found.pearson_chi2 == pytest.approx((r**2).sum(), rel=1e-12)
    assert found.influential is not None
    assert found.influential[0]["row"] == np.argmax(cooks)
    assert found.influential[0]["cooks_distance"] == pytest.approx(cooks.max(), rel=1e-9)
    assert any("the estimate is Firth's" in remark for remark in found.remarks)
