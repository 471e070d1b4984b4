"""`streamlr effects`: the table in every form, columns held at values, and what is refused."""

from __future__ import annotations

import csv
import io

import pytest

FIT = ("fit", "data.parquet", "-f", "late ~ dep_delay * carrier + distance + weekend", "-o", "model.json")
EFFECTS = ("effects", "model.json", "data.parquet")


@pytest.fixture
def fitted(cli, parquet, flights_like):
    parquet(flights_like, rows_per_group=100)
    assert cli(*FIT).exit_code == 0
    return cli


def test_json(fitted):
    run = fitted(*EFFECTS, "--format", "json", "--quiet")
    found = run.json()
    assert [(row["term"], row["contrast"]) for row in found["effects"]] == [
        ("dep_delay", "dy/dx"),
        ("carrier", "B6 - AA"),
        ("carrier", "DL - AA"),
        ("carrier", "UA - AA"),
        ("distance", "dy/dx"),
        ("weekend", "True - False"),
    ]
    assert list(found["effects"][0]) == [
        "term",
        "contrast",
        "estimate",
        "std_error",
        "statistic",
        "p_value",
        "conf_low",
        "conf_high",
    ]
    rest = {key: value for key, value in found.items() if key != "effects"}
    assert rest == {
        "at": {},
        "conf_level": 0.95,
        "cov_type": "nonrobust",
        "rows_used": 566,
        "passes": 1,
        "notes": [],
    }
    assert (run.stderr, run.changed) == ("", frozenset())


def test_text(fitted):
    lines = fitted(*EFFECTS, "--variables", "carrier,weekend", "--contrasts", "pairwise").stdout.splitlines()
    assert lines[:2] == [
        "Average marginal effects on the probability of late = 1",
        "566 rows; standard errors by the delta method, model-based covariance",
    ]
    assert lines[3].split() == ["contrast", "estimate", "std.", "error", "z", "p", "95%", "from", "to"]
    assert [" ".join(line.split()[:4]) for line in lines[4:]] == [
        "carrier B6 - AA",
        "carrier DL - AA",
        "carrier UA - AA",
        "carrier DL - B6",
        "carrier UA - B6",
        "carrier UA - DL",
        "weekend True - False",
    ]


def test_held_columns(fitted):
    at = ("--at", "dep_delay=30", "--at", "weekend=True", "--at", "distance=mean")
    found = fitted(*EFFECTS, *at, "--format", "json").json()
    assert found["passes"] == 2
    assert list(found["at"]) == ["dep_delay", "weekend", "distance"]
    assert (found["at"]["dep_delay"], found["at"]["weekend"]) == (30.0, True)
    means = fitted(*EFFECTS, "--at", "mean", "--format", "json").json()
    assert list(means["at"]) == ["dep_delay", "distance"]
    assert means["at"]["distance"] == found["at"]["distance"]
    assert means["effects"][0]["estimate"] != found["effects"][0]["estimate"]
    text = fitted(*EFFECTS, "--at", "carrier=UA", "--at", "dep_delay=-2.5").stdout
    assert "in every row carrier=UA, dep_delay=-2.5" in text


def test_level_rows_and_threads(fitted):
    found = fitted(*EFFECTS, "--conf-level", "0.9", "--where", "month > 6", "--format", "json").json()
    assert found["conf_level"] == 0.9
    assert 0 < found["rows_used"] < 566
    several = fitted(*EFFECTS, "--threads", "3", "--format", "json").stdout
    assert several == fitted(*EFFECTS, "--threads", "1", "--format", "json").stdout


@pytest.mark.parametrize("form", ["csv", "markdown", "latex"])
def test_other_forms(fitted, form):
    run = fitted(*EFFECTS, "--format", form)
    assert run.exit_code == 0
    for text in ("dep_delay", "UA - AA", "conf_high"):
        assert text.replace("_", r"\_" if form == "latex" else "_") in run.stdout
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(run.stdout)))
        as_json = fitted(*EFFECTS, "--format", "json").json()["effects"]
        assert [float(row["std_error"]) for row in rows] == [row["std_error"] for row in as_json]


def test_notes_stand_below_or_on_the_other_stream(cli, parquet, flights_like):
    parquet(flights_like)
    cli("fit", "data.parquet", "-f", "late ~ dep_delay + floor(distance)", "-o", "model.json")
    note = "distance has no effect here: floor(distance) changes with it by jumps only, so the slope is zero"
    assert cli(*EFFECTS).stdout.splitlines()[-1] == note
    assert cli(*EFFECTS, "--format", "json").json()["notes"] == [note]
    run = cli(*EFFECTS, "--format", "csv")
    assert note not in run.stdout
    assert note in run.message
    assert cli(*EFFECTS, "--format", "csv", "--quiet").stderr == ""


def test_refusals(fitted, parquet, flights_like):
    fitted(*EFFECTS, "--variables", "distanc").refused("distanc", "distance")
    fitted(*EFFECTS, "--at", "carrier=ZZ").refused("carrier", "ZZ", "AA, B6, DL, UA")
    fitted(*EFFECTS, "--at", "dep_delay=late").refused("dep_delay", "late")
    fitted("effects", "absent.json", "data.parquet").refused("absent.json")
    fitted("effects", "model.json").misused("DATA")
    fitted(*EFFECTS, "--at", "distance").misused("--at", "distance")
    fitted(*EFFECTS, "--at", "mean", "--at", "distance=3").misused("--at mean")
    fitted(*EFFECTS, "--at", "distance=4", "--at", "distance=3").misused("twice", "distance=4, distance=3")
    fitted(*EFFECTS, "--contrasts", "all").misused("contrasts")
    unknown = flights_like.set_column(4, "carrier", [["ZZ"] * len(flights_like)])
    parquet(unknown, "new.parquet")
    fitted("effects", "model.json", "new.parquet").refused("carrier")
    parquet(flights_like.drop_columns(["dep_delay"]), "less.parquet")
    fitted("effects", "model.json", "less.parquet").refused("dep_delay")
