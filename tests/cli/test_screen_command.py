"""`streamlr screen`: terms that a model lacks, ranked, in the form asked for."""

from __future__ import annotations

import csv
import io

import pytest

from streamlr.cli.screen_command import term_lists

FIT = ("fit", "data.parquet", "-f", "late ~ dep_delay + carrier", "-o", "model.json")


@pytest.fixture
def fitted(cli, parquet, flights_like):
    parquet(flights_like, rows_per_group=100)
    assert cli(*FIT).exit_code == 0
    return cli


def test_default_candidates_as_json(fitted):
    run = fitted("screen", "model.json", "data.parquet", "--format", "json", "--quiet")
    found = run.json()
    assert {row["term"] for row in found["screen"]} == {"distance", "month", "origin", "weekend"}
    assert list(found["screen"][0]) == [
        "term",
        "df",
        "statistic",
        "p_value",
        "p_adjusted",
        "estimate",
        "std_error",
        "rows_missing",
    ]
    assert (found["passes"], found["skipped"]) == (1, {})
    assert run.changed == frozenset()
    assert run.stderr == ""


def test_terms_with_commas_and_colons(fitted):
    terms = ["--candidates", "log(distance),C(month, levels=[1, 2, 3])", "--candidates", "origin:carrier"]
    found = fitted("screen", "model.json", "data.parquet", *terms, "--format", "json").json()["screen"]
    by_term = {row["term"]: row for row in found}
    assert set(by_term) == {"log(distance)", "C(month, levels=[1, 2, 3])", "origin:carrier"}
    # `origin` is not in the model, so that its levels are compared within each carrier.
    assert [by_term[term]["df"] for term in by_term if term == "origin:carrier"] == [8]
    assert by_term["C(month, levels=[1, 2, 3])"]["df"] == 2
    assert by_term["C(month, levels=[1, 2, 3])"]["rows_missing"] > 0


def test_text_shows_twenty_and_top_fewer(fitted, parquet, flights_like):
    wide = flights_like
    for j in range(30):
        wide = wide.append_column(f"more{j}", flights_like["month"])
    parquet(wide, "data.parquet", rows_per_group=100)
    text = fitted("screen", "model.json", "data.parquet").stdout
    assert "… and 14 more terms." in text
    assert text.startswith("Score tests of 34 candidate terms for late\n")
    assert "… and 31 more terms." in fitted("screen", "model.json", "data.parquet", "--top", "3").stdout
    as_json = ("screen", "model.json", "data.parquet", "--format", "json")
    assert len(fitted(*as_json).json()["screen"]) == 34
    assert len(fitted(*as_json, "--top", "3").json()["screen"]) == 3


@pytest.mark.parametrize("form", ["csv", "markdown", "latex"])
def test_other_forms(fitted, form):
    run = fitted("screen", "model.json", "data.parquet", "--format", form)
    assert run.exit_code == 0
    assert all(term in run.stdout for term in ("distance", "month", "origin", "weekend"))
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(run.stdout)))
        assert len(rows) == 4
        assert float(rows[0]["p_value"]) <= float(rows[-1]["p_value"])


def test_another_filter_needs_the_rows_of_the_fit(fitted):
    run = fitted("screen", "model.json", "data.parquet", "--where", "month > 3")
    run.refused("not at its maximum", "score tests need the data that it was fitted to")


def test_levels_at_most(fitted):
    found = fitted("screen", "model.json", "data.parquet", "--max-levels", "2", "--format", "json").json()
    assert found["skipped"] == {"origin": "more than 2 levels"}
    fitted("screen", "model.json", "data.parquet", "--max-levels", "1").misused("max-levels")


def test_filter_of_the_fit_applies(cli, parquet, flights_like):
    parquet(flights_like, rows_per_group=100)
    cli(*FIT, "--where", "month > 3")
    assert cli("screen", "model.json", "data.parquet").exit_code == 0


def test_refusals(fitted):
    fitted("screen", "model.json", "data.parquet", "--candidates", "distanc").refused("distanc", "distance")
    fitted("screen", "model.json", "data.parquet", "--candidates", "'open").refused("open")
    fitted("screen", "absent.json", "data.parquet").refused("absent.json")
    fitted("screen", "model.json").misused("DATA")
    fitted("screen", "model.json", "data.parquet", "--top", "0").misused("top")


@pytest.mark.parametrize(
    ("values", "terms"),
    [
        (["a,b"], ["a", "b"]),
        (["a,b", "c d, e"], ["a", "b", "c d", "e"]),
        (["x,y"], ["x,y"]),
        (["cut(a, breaks=[1, 2]), b:c"], ["cut(a, breaks=[1, 2])", "b:c"]),
        (["C(a, levels=['u,v', 'w']),b"], ["C(a, levels=['u,v', 'w'])", "b"]),
        (["`p,q`,b"], ["`p,q`", "b"]),
        (["f(a,b"], ["f(a,b"]),
        (["'a,b"], ["'a,b"]),
        ([",,"], []),
    ],
)
def test_term_lists(values, terms):
    assert term_lists(values, ["x,y", "a", "b"]) == terms
