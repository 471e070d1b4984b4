"""Options of `streamlr summary` that ask a saved model more than its table, without its data."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

import streamlr


@pytest.fixture
def model(cli: Any, people: Any, parquet: Any, tmp_path: Any) -> streamlr.Model:
    """model.json of a fit whose data are gone."""
    data = parquet(people)
    run = cli("fit", "data.parquet", "-f", "late ~ age*group + income", "--cov", "HC1", "-o", "model.json")
    assert run.exit_code == 0, run.stderr
    data.unlink()
    return streamlr.load(tmp_path / "model.json")


def test_tests(cli: Any, model: streamlr.Model) -> None:
    texts = ("age - 2*income = 0.1, age:group", "group[T.south] = group[T.west]")
    run = cli("summary", "model.json", "--test", texts[0], "--test", texts[1], "--format", "json")
    assert run.json()["tests"] == [model.wald_test(text).as_dict() for text in texts]
    assert run.json()["tests"][0]["df"] == 3
    assert run.json()["tests"][0]["cov_type"] == "HC1"
    text = cli("summary", "model.json", "--test", texts[0], "--conf-level", "0.9").stdout
    assert str(model.wald_test(texts[0], conf_level=0.9)) in text
    assert run.changed == frozenset()


@pytest.mark.parametrize("type", ["2", "3"])
def test_terms(cli: Any, model: streamlr.Model, type: str) -> None:
    run = cli("summary", "model.json", "--terms", type, "--format", "json")
    assert run.json()["term_tests"] == model.term_tests(int(type)).as_dicts()
    assert str(model.term_tests(int(type))) in cli("summary", "model.json", "--terms", type).stdout


def test_vif(cli: Any, model: streamlr.Model) -> None:
    found = cli("summary", "model.json", "--vif", "--format", "json").json()
    assert found["vif"] == model.vif().as_dicts()
    assert found["condition_number"] == model.condition_number()
    text = cli("summary", "model.json", "--vif").stdout
    assert str(model.vif()) in text
    assert text.splitlines()[-1] == (
        f"condition number of the scaled information: {model.condition_number():.5g}"
    )


def test_reference(cli: Any, model: streamlr.Model) -> None:
    moved = model.relevel("group", "west")
    run = cli(
        "summary", "model.json", "--reference", "group=west", "--test", "group[T.north]", "--format", "json"
    )
    assert list(run.tidy()) == list(moved.terms)
    for row, expected in zip(run.tidy().values(), moved.tidy_rows(), strict=True):
        assert row == expected
    assert run.json()["tests"][0]["rows"][0]["estimate"] == run.tidy()["group[T.north]"]["estimate"]
    assert cli("summary", "model.json", "--reference", "group=west").stdout == f"{moved.summary()}\n"


def test_tables_in_other_formats(cli: Any, model: streamlr.Model) -> None:
    """Every table after an empty line, in the order terms, tests, inflation."""
    options = ("--vif", "--terms", "2", "--test", "group", "--format")
    blocks = cli("summary", "model.json", *options, "csv").stdout.rstrip("\n").split("\n\n")
    heads = [next(csv.reader(io.StringIO(block))) for block in blocks]
    assert [head[0] for head in heads] == ["term", "term", "contrast", "term"]
    assert heads[3] == ["term", "gvif", "df", "per_df"]
    rows = list(csv.DictReader(io.StringIO(blocks[3])))
    assert [float(row["gvif"]) for row in rows] == [row.gvif for row in model.vif()]
    for form, start in (("markdown", "| "), ("latex", r"\begin{tabular}")):
        blocks = cli("summary", "model.json", *options, form).stdout.rstrip("\n").split("\n\n")
        assert len(blocks) == 4
        assert all(block.startswith(start) for block in blocks)


def test_refused(cli: Any, model: streamlr.Model) -> None:
    cli("summary", "model.json", "--test", "nothing = 1").refused("no term 'nothing'")
    cli("summary", "model.json", "--test", "age = 1, age = 2").refused("contradict")
    cli("summary", "model.json", "--test", "").refused("hypothesis")
    cli("summary", "model.json", "--reference", "group=east").refused("no level 'east'")
    cli("summary", "model.json", "--reference", "age=1").refused("age")


def test_misused(cli: Any, model: streamlr.Model) -> None:
    cli("summary", "model.json", "--terms", "1").misused("1")
    cli("summary", "model.json", "--conf-level", "95").misused("95")
    cli("summary", "model.json", "--reference", "group").misused("COL=VALUE")
