"""Robust covariances against R's sandwich, and what must hold for any data.

The numbers are those of `sandwich::vcovHC` and `sandwich::vcovCL` at fits that are converged to rounding, on
one row an observation where rows are counts or have frequency weights (`tests/inference_references.py`).
Passes are counted where parts are read and never taken from the program's word alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference_references import cases, in_order, matrix_in_order, read_case, write_case
from reads import Reads

import streamlr
from streamlr.passes.cache import BlockCache
from streamlr.sources import parquet as parquet_source

CASES = cases()
EVERY = [
    pytest.param(
        name,
        place,
        id="-".join([name, stored["options"]["cov"], *stored["options"].get("cluster", [])])
        + ("-" + stored["options"]["small_sample"] if "small_sample" in stored["options"] else ""),
    )
    for name, case in CASES.items()
    for place, stored in enumerate(case["covariances"])
]

# What is promised of estimates, and what R's own numbers are good to (they agree with sandwich to 1e-10).
TOLERANCE = 1e-8


@pytest.fixture(scope="session")
def stored_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Parquet file of a case, written once."""
    folder = tmp_path_factory.mktemp("inference")
    written: dict[str, Path] = {}

    def path_of(name: str) -> Path:
        if name not in written:
            written[name] = write_case(CASES[name], folder)
        return written[name]

    return path_of


# Against R


@pytest.mark.parametrize(("name", "place"), EVERY)
def test_agrees_with_sandwich(name: str, place: int, stored_case: Callable[[str], Path]) -> None:
    case = CASES[name]
    stored = case["covariances"][place]
    options = stored["options"]
    model = streamlr.fit(stored_case(name), **case["fit"], **options)
    assert model.converged
    assert model.glance()["cov_type"] == options["cov"]

    coef = in_order(model.terms, case, case["coefficients"])
    naive = in_order(model.terms, case, case["naive_std_error"])
    error = in_order(model.terms, case, stored["std_error"])
    assert np.all(np.abs(model.params - coef) <= TOLERANCE * np.maximum(np.abs(coef), naive))
    np.testing.assert_allclose(model.bse, error, rtol=TOLERANCE)  # NaN where the variance is negative
    np.testing.assert_allclose(np.sqrt(np.diagonal(model.cov_params(robust=False))), naive, rtol=TOLERANCE)
    if stored["covariance"] is not None:
        covariance = matrix_in_order(model.terms, case, stored["covariance"])
        size = np.sqrt(np.abs(np.diagonal(covariance)))
        assert np.all(np.abs(model.cov_params() - covariance) <= 2 * TOLERANCE * np.outer(size, size))
    clusters = dict(zip(options.get("cluster", []), stored["clusters"], strict=False))
    assert model.clusters == clusters
    np.testing.assert_allclose(model.zvalues, coef / error, rtol=3 * TOLERANCE, atol=3 * TOLERANCE)
    # 1.959963984540054 is R's qnorm(0.975), to its last digit.
    bounds = np.column_stack([coef - 1.959963984540054 * error, coef + 1.959963984540054 * error])
    scale = np.maximum(np.abs(coef), error)[:, None]
    known = np.isfinite(error)
    assert np.all((np.abs(model.conf_int() - bounds) <= 4 * TOLERANCE * scale)[known])


def test_at_least_five_data_sets_and_every_kind_of_weights() -> None:
    kinds = {case["fit"].get("weight_type", "none") for case in CASES.values()}
    assert kinds == {"none", "frequency", "analytic", "sampling"}
    assert len({case["data"] for case in CASES.values()}) >= 5
    assert any("trials" in case["fit"] and "offset" in case["fit"] for case in CASES.values())


# Clusters


@pytest.mark.parametrize("kind", ["int8", "uint64", "float32", "text", "large text", "dictionary", "decimal"])
def test_clusters_are_the_same_in_any_type(kind: str, tmp_path: Path) -> None:
    case = CASES["infert"]
    stratum = read_case(case)["stratum"]
    column = {
        "int8": stratum.cast(pa.int8()),
        "uint64": stratum.cast(pa.uint64()),
        "float32": pa.array(stratum.to_numpy() / 4).cast(pa.float32()),
        "text": stratum.cast(pa.string()),
        "large text": stratum.cast(pa.large_string()),
        "dictionary": stratum.cast(pa.string()).dictionary_encode(),
        "decimal": stratum.cast(pa.decimal128(22, 2)),
    }[kind]
    path = tmp_path / "data.parquet"
    table = read_case(case).append_column("who", column)
    pq.write_table(table, path, row_group_size=29)
    model = streamlr.fit(path, **case["fit"], cluster=["who"])
    (stored,) = (
        stored
        for stored in case["covariances"]
        if stored["options"] == {"cov": "cluster", "cluster": ["stratum"], "small_sample": "clusters"}
    )
    np.testing.assert_allclose(model.bse, in_order(model.terms, case, stored["std_error"]), rtol=TOLERANCE)
    assert model.clusters == {"who": 83}


def test_a_cluster_given_is_enough() -> None:
    case = CASES["bacteria"]
    data = read_case(case)
    alone = streamlr.fit(data, **case["fit"], cluster=["patient"])
    named = streamlr.fit(data, **case["fit"], cov="cluster", cluster=["patient"], small_sample="clusters")
    assert alone.glance()["cov_type"] == "cluster"
    assert alone.bse.tobytes() == named.bse.tobytes()


def test_rows_without_a_cluster_are_dropped_and_counted() -> None:
    case = CASES["lung_institutions"]
    model = streamlr.fit(read_case(case), **case["fit"], cluster=["inst"])
    assert model.dropped == {"ph.ecog": 1, "wt.loss": 14, "inst": 1}
    assert model.glance()["rows_used"] == case["nobs"] == 212
    assert model.glance()["rows_dropped"] == 16


def test_a_cluster_that_is_not_asked_for_drops_nothing() -> None:
    case = CASES["lung"]
    model = streamlr.fit(read_case(case), **case["fit"], cov="HC0")
    assert "inst" not in model.dropped
    assert model.glance()["rows_used"] == 213


def crossed(n: int = 900) -> pa.Table:
    """An outcome, two numbers, a factor, and two columns of clusters; nulls in a number and in a cluster."""
    rng = np.random.default_rng(31)
    x, z = rng.normal(2.0, 3.0, n), rng.normal(size=n)
    g = rng.choice(["p", "q", "r"], n)
    a, b = rng.integers(0, 40, n), rng.integers(0, 30, n)
    effect = rng.normal(0, 0.8, 40)
    eta = 0.3 * x - 0.9 + 0.6 * z * (g == "q") + effect[a]
    return pa.table(
        {
            "y": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(np.int8),
            "x": pa.array(x, mask=np.arange(n) % 50 == 7),
            "z": z,
            "g": g,
            "a": pa.array(a, mask=np.arange(n) % 90 == 11),
            "b": [f"b{value}" for value in b],
            "row": np.arange(n),
            "times": rng.integers(0, 4, n),
        }
    )


FORMULA = "y ~ x + g * z"


@pytest.mark.parametrize("small_sample", ["none", "clusters", "full"])
def test_a_cluster_for_every_row_is_hc0(small_sample: str) -> None:
    """Times the factor: 1, n / (n - 1), and both factors together, which is n / (n - k), that of HC1."""
    data = crossed().drop_columns("a")
    model = streamlr.fit(data, FORMULA, cluster=["row"], small_sample=small_sample)
    plain = streamlr.fit(data, FORMULA, cov="HC1" if small_sample == "full" else "HC0")
    n = plain.nobs
    factor = n / (n - 1) if small_sample == "clusters" else 1.0
    np.testing.assert_allclose(model.cov_params(), factor * plain.cov_params(), rtol=1e-11, atol=1e-16)


def test_a_row_of_clusters_does_not_depend_on_how_they_are_crossed() -> None:
    data = crossed()
    one, other = (
        streamlr.fit(data, FORMULA, cluster=columns, small_sample="full").cov_params()
        for columns in (["a", "b"], ["b", "a"])
    )
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-16)


def test_pairs_of_texts_that_read_alike_are_different_clusters() -> None:
    """ "x" with "y_z" is not "x_y" with "z", nor is 1 with 11 the same as 11 with 1."""
    rng = np.random.default_rng(5)
    n = 400
    first, second = rng.integers(0, 2, n), rng.integers(0, 2, n)
    data = {"y": rng.integers(0, 2, n), "x": rng.normal(size=n)}
    alike = {"u": np.array(["x", "x_y"])[first], "v": np.array(["y_z", "z"])[second]}
    plain = {"u": np.array(["x", "w"])[first], "v": np.array(["y", "z"])[second]}
    swapped = {"u": np.array([1, 11])[first], "v": np.array([1, 11])[second]}
    errors = [
        streamlr.fit({**data, **clusters}, "y ~ x", cluster=["u", "v"], small_sample="none").cov_params()
        for clusters in (alike, plain, swapped)
    ]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(errors[2], errors[1], rtol=1e-12, atol=1e-18)


def test_an_indefinite_covariance_has_no_standard_error_and_no_warning(tmp_path: Path) -> None:
    """Two ways to cluster may leave a negative variance: then null stands in the table, never NaN."""
    case = CASES["fair"]
    model = streamlr.fit(read_case(case), **case["fit"], cluster=["age", "children"])
    without = np.isnan(model.bse)
    assert without.sum() == 3
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    for term, missing in zip(model.terms, without, strict=True):
        row = rows[term]
        for name in ("std_error", "statistic", "p_value", "conf_low", "conf_high"):
            assert (row[name] is None) == missing, (term, name)
        assert row["estimate"] is not None
    assert "nan" not in str(model.summary()).lower()
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    np.testing.assert_array_equal(again.bse, model.bse)


# Counts, weights and repetition

ALL_KINDS: list[dict[str, Any]] = [
    *({"cov": f"HC{number}"} for number in range(4)),
    {"cluster": ["a"], "small_sample": "full"},
    {"cluster": ["a", "b"], "small_sample": "full"},
]


@pytest.mark.parametrize(
    "options", ALL_KINDS, ids=lambda o: "-".join([o.get("cov", ""), *o.get("cluster", [])])
)
def test_counts_frequencies_and_single_rows_are_the_same_observations(options: dict[str, Any]) -> None:
    """Successes and failures of equal rows as counts, as two rows with weights, and one by one."""
    rng = np.random.default_rng(8)
    m = 120
    x, o = np.round(rng.normal(size=m), 2), np.round(rng.normal(size=m) / 3, 2)
    g = rng.choice(["p", "q"], m)
    a, b = rng.integers(0, 15, m), rng.integers(0, 12, m)
    n = rng.integers(1, 6, m)
    k = rng.binomial(n, 1 / (1 + np.exp(-(0.5 * x + o - 0.4 * (g == "q")))))
    columns = {"x": x, "g": g, "o": o, "a": a, "b": b}
    counts = {**columns, "k": k, "n": n}
    twice = {name: np.concatenate([values, values]) for name, values in columns.items()}
    outcome, times = np.repeat([1, 0], m), np.concatenate([k, n - k])
    single = {name: np.repeat(values, times) for name, values in twice.items()}
    fits = [
        streamlr.fit(counts, "k ~ x * g", trials="n", offset="o", tol=1e-12, **options),
        streamlr.fit(
            {**twice, "y": outcome, "w": times}, "y ~ x * g", weights="w", offset="o", tol=1e-12, **options
        ),
        streamlr.fit(
            {**single, "y": np.repeat(outcome, times)}, "y ~ x * g", offset="o", tol=1e-12, **options
        ),
    ]
    for other in fits[:2]:
        np.testing.assert_allclose(other.cov_params(), fits[2].cov_params(), rtol=1e-9, atol=1e-14)
        assert other.clusters == fits[2].clusters
    assert [fit.nobs for fit in fits] == [m, times.sum(), times.sum()]


@pytest.mark.parametrize(
    "options", ALL_KINDS, ids=lambda o: "-".join([o.get("cov", ""), *o.get("cluster", [])])
)
def test_aliased_columns_and_rescaled_ones_change_nothing(options: dict[str, Any]) -> None:
    data = crossed()
    x = data["x"].to_numpy(zero_copy_only=False)
    more = data.append_column("twice", pa.array(2 * x + 1, from_pandas=True))
    more = more.append_column("far", pa.array(1e3 * x + 1e6, from_pandas=True))
    plain = streamlr.fit(data, FORMULA, tol=1e-12, **options)
    aliased = streamlr.fit(more, "y ~ x + g * z + twice", tol=1e-12, **options)
    assert list(aliased.aliased) == ["twice"]
    np.testing.assert_allclose(aliased.cov_params(), plain.cov_params(), rtol=1e-9, atol=1e-15)
    far = streamlr.fit(more, "y ~ far + g * z", tol=1e-12, **options)
    place, old = far.terms.index("far"), plain.terms.index("x")
    assert far.bse[place] * 1e3 == pytest.approx(plain.bse[old], rel=1e-9)


# The same from any way to read

WAYS: list[dict[str, Any]] = [{"cov": "HC0"}, {"cov": "HC3"}, {"cluster": ["a", "b"], "small_sample": "full"}]


@pytest.mark.parametrize("options", WAYS, ids=["HC0", "HC3", "cluster"])
def test_the_same_bits_for_any_threads_and_memory(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_source, "PART_ROWS", 200)
    path = tmp_path / "data.parquet"
    pq.write_table(crossed(3_000), path, row_group_size=100)
    first = streamlr.fit(path, FORMULA, threads=1, **options)
    for setting in ({"threads": 2}, {"threads": 2, "memory": "400MB"}, {"threads": 1, "memory": "4GB"}):
        again = streamlr.fit(path, FORMULA, **setting, **options)
        assert again.cov_params().tobytes() == first.cov_params().tobytes()
        assert again.bse.tobytes() == first.bse.tobytes()
    with monkeypatch.context() as patch:
        patch.setattr(BlockCache, "begin", lambda cache, part: None)
        again = streamlr.fit(path, FORMULA, threads=2, **options)
        assert again.cov_params().tobytes() == first.cov_params().tobytes()


@pytest.mark.parametrize("options", WAYS, ids=["HC0", "HC3", "cluster"])
def test_row_groups_agree_to_rounding(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them a file with parts in which no row can be used: their x is null."""
    monkeypatch.setattr(parquet_source, "PART_ROWS", 200)
    data = crossed(2_000)
    whole = streamlr.fit(data, FORMULA, tol=1e-12, **options)
    x = data["x"].to_numpy(zero_copy_only=False)
    for rows in (2_000, 301, 50):
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(data, path, row_group_size=rows)
        model = streamlr.fit(path, FORMULA, tol=1e-12, **options)
        np.testing.assert_allclose(model.bse, whole.bse, rtol=1e-12)
    gap = pa.array(
        np.where((np.arange(2_000) >= 400) & (np.arange(2_000) < 1_000), np.nan, x), from_pandas=True
    )
    holed = data.set_column(data.column_names.index("x"), "x", gap)
    pq.write_table(holed, path, row_group_size=100)
    model = streamlr.fit(path, FORMULA, tol=1e-12, **options)
    used = holed.drop_columns([name for name in ("a", "b") if name not in options.get("cluster", [])])
    want = streamlr.fit(used.drop_null(), FORMULA, tol=1e-12, **options)
    np.testing.assert_allclose(model.bse, want.bse, rtol=1e-12)


def test_estimates_and_the_plain_covariance_stay_what_they_are() -> None:
    data = crossed().drop_columns("a")
    plain = streamlr.fit(data, FORMULA)
    robust = streamlr.fit(data, FORMULA, cov="HC2")
    assert robust.params.tobytes() == plain.params.tobytes()
    assert robust.llf == plain.llf
    assert robust.cov_params(robust=False).tobytes() == plain.cov_params().tobytes()
    assert plain.cov_params(robust=True).tobytes() == plain.cov_params().tobytes()
    assert not np.allclose(robust.bse, plain.bse)
    np.testing.assert_allclose(robust.bse, np.sqrt(np.diagonal(robust.cov_params())), rtol=1e-14)


def test_a_row_filter_is_that_of_the_fit() -> None:
    data = crossed()
    filtered = streamlr.fit(data, FORMULA, where="row < 500", cluster=["b"], tol=1e-12)
    sliced = streamlr.fit(data.slice(0, 500), FORMULA, cluster=["b"], tol=1e-12)
    np.testing.assert_allclose(filtered.bse, sliced.bse, rtol=1e-12)
    assert filtered.clusters == sliced.clusters


# What it costs


@pytest.mark.parametrize(
    "options",
    [
        {"cov": "HC0"},
        {"cov": "HC1"},
        {"cov": "HC2"},
        {"cov": "HC3"},
        {"cluster": ["a"]},
        {"cluster": ["a", "b"]},
    ],
    ids=lambda o: "-".join([o.get("cov", ""), *o.get("cluster", [])]),
)
def test_a_robust_fit_costs_one_pass_more(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pq.write_table(crossed(4_000), path, row_group_size=250)
    found = []
    for asked in ({}, options):
        with pytest.MonkeyPatch.context() as patch:
            reads = Reads(patch, part_rows=500)
            model = streamlr.fit(path, FORMULA, threads=2, **asked)
            found.append((reads.of_part, model.glance()["passes"]))
    (plain, passes), (robust, more) = found
    assert len(plain) == 8
    assert {part: robust[part] - plain[part] for part in plain} == dict.fromkeys(plain, 1)
    assert more == passes + 1


# A saved model


@pytest.mark.parametrize(
    "options", ALL_KINDS, ids=lambda o: "-".join([o.get("cov", ""), *o.get("cluster", [])])
)
def test_saved_and_loaded_everything_is_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    model = streamlr.fit(crossed(), FORMULA, **options)
    model.save(tmp_path / "model.json")
    again = streamlr.load(tmp_path / "model.json")
    assert again.result() == model.result()
    assert str(again.summary()) == str(model.summary())
    assert again.clusters == model.clusters
    assert again.glance()["cov_type"] == options.get("cov", "cluster")
    np.testing.assert_allclose(again.cov_params(), model.cov_params(), rtol=1e-14)
    np.testing.assert_allclose(again.cov_params(robust=False), model.cov_params(robust=False), rtol=1e-14)
    assert again.conf_int(0.8).tobytes() == model.conf_int(0.8).tobytes()
    # qnorm(0.9)
    np.testing.assert_allclose(
        again.conf_int(0.8)[:, 1] - again.params, 1.2815515655446004 * model.bse, rtol=1e-9
    )


# Misuse


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cov": "HC5"}, ["HC5", "HC3", "cluster"]),
        ({"cov": "hc1"}, ["hc1"]),
        ({"cov": "cluster"}, ["cluster"]),
        ({"cov": "HC1", "cluster": ["a"]}, ["HC1"]),
        ({"cov": "nonrobust", "cluster": ["a"]}, ["nonrobust"]),
        ({"cluster": ["a"], "small_sample": "stata"}, ["stata", "full"]),
        ({"cluster": ["aa"]}, ["aa", "Did you mean 'a'"]),
        ({"cluster": ["a", "b", "row"]}, ["a, b, row"]),
        ({"cluster": ["a", "a"]}, ["a"]),
        ({"cov": "nonrobust", "weights": "times", "weight_type": "sampling"}, ["sampling"]),
    ],
    ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else "",
)
def test_misuse_is_refused_in_plain_words(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(streamlr.StreamlrError) as raised:
        streamlr.fit(crossed(), FORMULA, **options)
    for word in words:
        assert word in str(raised.value)


def test_one_cluster_is_no_cluster() -> None:
    with pytest.raises(streamlr.StreamlrError, match="one cluster"):
        streamlr.fit(crossed(), FORMULA, where="b == 'b3'", cluster=["b"])


def test_scores_that_add_up_to_nothing_in_every_cluster() -> None:
    """Pairs of one success and one failure leave standard errors of zero, and no warning of a division."""
    data = {"x": [0.0, 0.0, 1.0, 1.0], "y": [0, 1, 0, 1], "g": [1, 1, 2, 2]}
    model = streamlr.fit(data, "y ~ x", cluster="g")
    assert not model.bse.any()
    assert all(row["statistic"] is None for row in model.tidy_rows())


def test_of_two_columns_the_one_with_a_single_cluster_is_named() -> None:
    data = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 1, 0], "g": [1, 1, 2, 2], "same": [5, 5, 5, 5]}
    with pytest.raises(streamlr.StreamlrError, match="only one cluster of same;"):
        streamlr.fit(data, "y ~ x", cluster=["g", "same"])


def test_negative_two_way_variances_are_told() -> None:
    """Clusters by a factor of the model leave little but the crossed term that is taken off."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 6, 2_000), rng.normal(size=2_000)
    y = (rng.random(2_000) < 1 / (1 + np.exp(-x))).astype(int)
    told: list[str] = []
    model = streamlr.fit(
        {"x": x, "y": y, "g": g, "c": rng.integers(0, 50, 2_000)},
        "y ~ x + C(g)",
        cluster=["c", "g"],
        on_event=lambda event: told.append(str(event)),
    )
    without = [term for term, error in zip(model.terms, model.bse, strict=True) if np.isnan(error)]
    assert without
    (remark,) = [text for text in told if "variance" in text]
    assert f"of {len(without)} terms is negative" in remark
    assert all(term in remark for term in without)
