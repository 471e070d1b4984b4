"""`--cov`, `--cluster`, `--small-sample`, `--ci` and kinds of weights on the command line.

What a command prints is compared with the library, whose numbers have references of their own; here it
matters that each option arrives, is named in the result, and is refused in plain words where it is misused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr

ARGUMENTS = ("fit", "data.parquet", "-f", "late ~ age + group")
FORMULA = "late ~ age + group"


@pytest.fixture
def grouped(people: pa.Table, parquet: Callable[..., Path]) -> pa.Table:
    """`people` with 29 firms, 11 days and a column whose name holds a comma."""
    rows = np.arange(people.num_rows)
    table = people.append_column("firm", pa.array([f"firm {row * 7 % 29}" for row in rows]))
    table = table.append_column("day", pa.array(rows % 11))
    table = table.append_column("town, state", pa.array(rows % 13))
    parquet(table, rows_per_group=50)
    return table


def same(run: Any, model: streamlr.Model) -> None:
    """The printed table is that of the library, to the last bit."""
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    assert run.tidy() == rows
    assert run.json()["glance"]["cov_type"] == model.glance()["cov_type"]


@pytest.mark.parametrize("kind", ["nonrobust", "HC0", "HC1", "HC2", "HC3"])
def test_cov(cli: Any, grouped: pa.Table, kind: str) -> None:
    run = cli(*ARGUMENTS, "--cov", kind, "--format", "json")
    same(run, streamlr.fit("data.parquet", FORMULA, cov=kind))
    assert run.json()["glance"]["cov_type"] == kind
    assert run.stderr == ""


@pytest.mark.parametrize("small", ["none", "clusters", "full"])
@pytest.mark.parametrize("clusters", ["firm", "firm,day"])
def test_cluster(cli: Any, grouped: pa.Table, clusters: str, small: str) -> None:
    run = cli(*ARGUMENTS, "--cluster", clusters, "--small-sample", small, "--format", "json")
    same(run, streamlr.fit("data.parquet", FORMULA, cluster=clusters.split(","), small_sample=small))
    assert run.json()["glance"]["cov_type"] == "cluster"
    named = cli(
        *ARGUMENTS, "--cov", "cluster", "--cluster", clusters, "--small-sample", small, "--format", "json"
    )
    assert named.tidy() == run.tidy()


def test_small_sample_is_the_number_of_clusters_by_default(cli: Any, grouped: pa.Table) -> None:
    left_out = cli(*ARGUMENTS, "--cluster", "firm", "--format", "json").tidy()
    given = cli(*ARGUMENTS, "--cluster", "firm", "--small-sample", "clusters", "--format", "json").tidy()
    other = cli(*ARGUMENTS, "--cluster", "firm", "--small-sample", "none", "--format", "json").tidy()
    assert left_out == given
    for term, row in left_out.items():
        assert row["std_error"] == pytest.approx(np.sqrt(29 / 28) * other[term]["std_error"], rel=1e-12)


def test_a_cluster_name_with_a_comma_wins_over_splitting(cli: Any, grouped: pa.Table) -> None:
    run = cli(*ARGUMENTS, "--cluster", "town, state", "--format", "json")
    same(run, streamlr.fit("data.parquet", FORMULA, cluster=["town, state"]))
    twice = cli(*ARGUMENTS, "--cluster", "town, state", "--cluster", "firm", "--format", "json")
    same(twice, streamlr.fit("data.parquet", FORMULA, cluster=["town, state", "firm"]))


def test_clusters_are_no_features_by_default(cli: Any, grouped: pa.Table) -> None:
    options = ("--exclude", "town, state", "--exclude", "income", "--cluster", "firm,day")
    run = cli("fit", "data.parquet", "-y", "late", *options, "--format", "json")
    assert list(run.tidy()) == ["Intercept", "age", "group[T.south]", "group[T.west]", "exposure"]


# The summary


def test_the_summary_names_the_covariance(cli: Any, grouped: pa.Table) -> None:
    """In the text of the fit and in that of the saved model."""
    for options, sentence in (
        ([], "model-based standard errors"),
        (["--cov", "HC1"], "HC1 standard errors"),
        (["--cluster", "firm"], "standard errors clustered by firm (29 clusters)"),
        (["--cluster", "firm,day"], "standard errors clustered by firm (29 clusters) and day (11 clusters)"),
    ):
        run = cli(*ARGUMENTS, *options, "-o", "model.json")
        assert run.exit_code == 0, run.stderr
        assert sentence in " ".join(run.stdout.split())
        again = cli("summary", "model.json")
        assert sentence in " ".join(again.stdout.split())


def test_a_saved_model_prints_another_level(cli: Any, grouped: pa.Table) -> None:
    cli(*ARGUMENTS, "--cov", "HC3", "-o", "model.json")
    model = streamlr.load("model.json")
    assert model.glance()["cov_type"] == "HC3"
    wide, narrow = model.conf_int(0.99), model.conf_int(0.5)
    np.testing.assert_allclose(
        (wide[:, 1] - wide[:, 0]) / (narrow[:, 1] - narrow[:, 0]), 2.5758293035489 / 0.6744897501960817
    )


def test_a_covariance_pass_is_counted(cli: Any, grouped: pa.Table) -> None:
    # age is read row by row, so that nothing is gathered.
    plain = cli(*ARGUMENTS, "--format", "json").json()["glance"]["passes"]
    robust = cli(*ARGUMENTS, "--cov", "HC2", "--format", "json").json()["glance"]["passes"]
    assert robust == plain + 1


# Intervals


def test_ci_profile(cli: Any, grouped: pa.Table) -> None:
    run = cli(*ARGUMENTS, "--ci", "profile", "--conf-level", "0.9", "--format", "json")
    same(run, streamlr.fit("data.parquet", FORMULA, ci="profile", conf_level=0.9))
    wald = cli(*ARGUMENTS, "--ci", "wald", "--conf-level", "0.9", "--format", "json")
    same(wald, streamlr.fit("data.parquet", FORMULA, conf_level=0.9))
    assert run.tidy()["age"]["conf_low"] != wald.tidy()["age"]["conf_low"]
    assert run.tidy()["age"]["std_error"] == wald.tidy()["age"]["std_error"]
    text = cli(*ARGUMENTS, "--ci", "profile")
    assert "profile" in text.stdout


# Weights


def test_sampling_weights_are_robust(cli: Any, grouped: pa.Table) -> None:
    run = cli(*ARGUMENTS, "--weights", "income", "--weight-type", "sampling", "--format", "json")
    same(run, streamlr.fit("data.parquet", FORMULA, weights="income", weight_type="sampling", cov="HC0"))
    assert run.json()["glance"]["cov_type"] == "HC0"
    assert run.json()["glance"]["nobs"] == 347
    clustered = cli(
        *ARGUMENTS,
        "--weights",
        "income",
        "--weight-type",
        "sampling",
        "--cluster",
        "firm",
        "--format",
        "json",
    )
    same(
        clustered,
        streamlr.fit("data.parquet", FORMULA, weights="income", weight_type="sampling", cluster=["firm"]),
    )


def test_fractional_frequencies_are_refused(cli: Any, grouped: pa.Table) -> None:
    cli(*ARGUMENTS, "--weights", "income", "--cov", "HC1").refused("income")


# Misuse


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cov", "HC4"], ["HC4", "HC3"]),
        (["--small-sample", "stata", "--cluster", "firm"], ["stata", "full"]),
        (["--ci", "bayes"], ["bayes", "profile"]),
        (["--weights", "exposure", "--weight-type", "probability"], ["probability", "sampling"]),
    ],
    ids=["cov", "small sample", "ci", "weight type"],
)
def test_an_unknown_choice_is_misuse(
    cli: Any, grouped: pa.Table, options: list[str], words: list[str]
) -> None:
    cli(*ARGUMENTS, *options).misused(*words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cluster", "firma"], ["firma", "Did you mean 'firm'"]),
        (["--cluster", "firm,dey"], ["dey", "Did you mean 'day'"]),
        (["--cluster", "firm,day,exposure"], ["firm, day, exposure"]),
        (["--cluster", "firm,firm"], ["firm"]),
    ],
    ids=["missing", "second missing", "three", "twice"],
)
def test_a_column_that_is_not_there_is_a_data_error(
    cli: Any, grouped: pa.Table, options: list[str], words: list[str]
) -> None:
    cli(*ARGUMENTS, *options, "-o", "model.json").refused(*words)


@pytest.mark.parametrize(
    "options",
    [
        ["--cov", "cluster"],
        ["--cov", "HC1", "--cluster", "firm"],
        ["--cov", "nonrobust", "--cluster", "firm"],
        ["--cov", "nonrobust", "--weights", "exposure", "--weight-type", "sampling"],
    ],
    ids=["no column", "HC1 and cluster", "nonrobust and cluster", "sampling"],
)
def test_options_that_do_not_go_together_are_refused(cli: Any, grouped: pa.Table, options: list[str]) -> None:
    """One message, no result and no file; whether as misuse or as an error of the model."""
    run = cli(*ARGUMENTS, *options, "-o", "model.json")
    run.without_traceback()
    assert run.exit_code in (1, 2)
    assert run.stdout == ""
    assert run.changed == frozenset()
    assert "Error: " in run.stderr


def test_options_of_several_words_in_one_run(cli: Any, grouped: pa.Table) -> None:
    options = ["--cov", "cluster", "--cluster", "firm,day", "--small-sample", "full", "--conf-level", "0.8"]
    run = cli(*ARGUMENTS, *options, "--format", "json")
    same(
        run,
        streamlr.fit("data.parquet", FORMULA, cluster=["firm", "day"], small_sample="full", conf_level=0.8),
    )
