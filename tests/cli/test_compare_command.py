"""`streamlr compare`: saved models side by side, without their data."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

import streamlr


@pytest.fixture
def models(cli: Any, people: Any, parquet: Any, tmp_path: Any) -> None:
    """small.json, large.json and other.json, which is not nested in either; the data are gone."""
    data = parquet(people)
    for name, formula in (
        ("small", "late ~ age"),
        ("large", "late ~ age + group + income"),
        ("other", "late ~ exposure + group + log(income)"),
    ):
        assert cli("fit", "data.parquet", "-f", formula, "-o", f"{name}.json").exit_code == 0
    assert cli("fit", "data.parquet", "-f", "late ~ 1", "-o", "none.json").exit_code == 0
    assert (
        cli("fit", "data.parquet", "-f", "late ~ age + group", "--cov", "HC0", "-o", "HC0.json").exit_code
        == 0
    )
    assert (
        cli("fit", "data.parquet", "-f", "late ~ age", "--where", "age > 30", "-o", "old.json").exit_code == 0
    )
    data.unlink()


def test_json(cli: Any, models: None, tmp_path: Any) -> None:
    run = cli("compare", "large.json", "none.json", "small.json", "--format", "json")
    found = run.json()
    loaded = {name: streamlr.load(tmp_path / f"{name}.json") for name in ("none", "small", "large")}
    assert [row["model"] for row in found["models"]] == ["none.json", "small.json", "large.json"]
    for row, model in zip(found["models"], loaded.values(), strict=True):
        assert (row["log_likelihood"], row["aic"], row["bic"]) == (model.llf, model.aic, model.bic)
        assert row["nobs"] == 347
    (first, second) = found["tests"]
    assert (first["smaller"], first["larger"], first["df"]) == ("none.json", "small.json", 1)
    assert (second["df"], second["added"]) == (3, ["group", "income"])
    assert second["statistic"] == 2 * (loaded["large"].llf - loaded["small"].llf)
    assert found["remarks"] == []
    assert run.changed == frozenset()
    assert run.stderr == ""


def test_text(cli: Any, models: None) -> None:
    run = cli("compare", "small.json", "large.json")
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    assert lines[0].startswith("Likelihood-ratio tests of nested models, 347 observations")
    for word in ("log-likelihood", "deviance", "AIC", "BIC", "df more", "chi-squared"):
        assert word in lines[1]
    assert lines[2].startswith("small.json")
    assert lines[3].startswith("large.json")
    assert lines[4] == "large.json adds group, income"


def test_other_formats(cli: Any, models: None) -> None:
    rows = list(
        csv.DictReader(io.StringIO(cli("compare", "small.json", "large.json", "--format", "csv").stdout))
    )
    found = cli("compare", "small.json", "large.json", "--format", "json").json()
    assert [row["model"] for row in rows] == ["small.json", "large.json"]
    assert (rows[0]["statistic"], float(rows[1]["statistic"])) == ("", found["tests"][0]["statistic"])
    assert [float(row["aic"]) for row in rows] == [row["aic"] for row in found["models"]]
    markdown = cli("compare", "small.json", "large.json", "--format", "markdown").stdout.splitlines()
    assert markdown[0].startswith("| model | df_model | log_likelihood |")
    assert markdown[1].startswith("|:--|--:|")
    assert len(markdown) == 4
    latex = cli("compare", "small.json", "large.json", "--format", "latex").stdout
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrr}")
    assert r"log\_likelihood" in latex


def test_refused(cli: Any, models: None) -> None:
    cli("compare", "small.json", "other.json").refused("small.json", "not known to be nested", "age")
    cli("compare", "old.json", "large.json").refused("different rows", "age > 30", "--where")
    cli("compare", "small.json", "HC0.json").refused("HC0.json", "robust standard errors", "--force")
    cli("compare", "small.json", "absent.json").refused("absent.json")
    cli("compare", "small.json", "small.json").refused("same 2 parameters")


def test_force(cli: Any, models: None) -> None:
    run = cli("compare", "small.json", "HC0.json", "--force")
    assert run.exit_code == 0
    assert "standard errors are HC0: if they are needed, these tests are not valid" in run.stdout


def test_misused(cli: Any, models: None) -> None:
    cli("compare").misused("MODEL")
    cli("compare", "small.json").misused("two models or more")
    cli("compare", "small.json", "large.json", "--format", "xml").misused("xml")
