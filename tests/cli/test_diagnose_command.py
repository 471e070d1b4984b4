"""`streamlr diagnose`: what the library finds, as text and as JSON, and what it refuses."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.inference.diagnosis import diagnose

FIT = ("fit", "data.parquet", "-y", "late", "-x", "dep_delay,carrier", "-o", "model.json", "--quiet")


@pytest.fixture
def data(parquet, flights_like):
    numbered = flights_like.append_column("id", pa.array(np.arange(flights_like.num_rows)))
    return parquet(numbered.append_column("a,b", numbered["origin"]), rows_per_group=100)


def test_json_is_what_the_library_finds(cli, data):
    cli(*FIT)
    run = cli("diagnose", "model.json", "data.parquet", "--format", "json", "--link-test", "--top", 3)
    assert run.exit_code == 0, run.stderr
    assert run.changed == frozenset()
    found = run.json()
    assert found == diagnose(streamlr.load("model.json"), str(data), link_test=True, top=3).result()
    assert found["same_rows"]
    assert found["passes"] >= 3
    assert len(found["influential"]) == 3
    assert found["hosmer_lemeshow"]["df"] == 8
    assert set(found["pseudo_r2"]) == {"mcfadden", "cox_snell", "nagelkerke", "tjur"}


def test_text_tells_everything(cli, data):
    cli(*FIT)
    options = ("--link-test", "--by", "dfbeta:dep_delay", "--keep", "id,origin", "--keep", "a,b")
    run = cli("diagnose", "model.json", "data.parquet", *options)
    assert run.exit_code == 0, run.stderr
    assert run.stderr == ""
    found = diagnose(
        streamlr.load("model.json"), str(data), link_test=True, by="dfbeta:dep_delay", keep=["id"]
    )
    text = run.stdout
    assert f"{found.rows_used:,} rows used" in text
    assert f"dispersion {found.dispersion:.5g}" in text
    assert f"Tjur {found.pseudo_r2['tjur']:.4g}" in text
    assert f"log loss {found.log_loss:.6g}" in text
    assert f"one step): {found.loo_log_loss:.6g}" in text
    assert f"chi-square {found.hosmer_lemeshow.statistic:.5g} on 8, p = " in text
    assert f"{found.link_test.hatsq['estimate']:.5g}" in text
    heads, first = text.splitlines()[-11:-9]
    assert heads.split()[:5] == ["id", "origin", "a,b", "row", "successes"]
    row = found.influential[0]
    cells = first.split()
    assert cells[0] == cells[3] == str(row["row"])
    assert cells[-1] == f"{row['dfbeta']['dep_delay']:.5g}"


def test_link_test_is_made_where_it_is_asked_for(cli, data):
    cli(*FIT)
    run = cli("diagnose", "model.json", "data.parquet", "--format", "json")
    assert run.json()["link_test"] is None
    assert run.json()["passes"] == 1


def test_other_rows_are_told(cli, data):
    cli(*FIT)
    run = cli("diagnose", "model.json", "data.parquet", "--where", "id < 300")
    assert run.exit_code == 0, run.stderr
    assert run.stdout.startswith("note: these are not the rows of the fit: ")


@pytest.mark.parametrize(
    "option", [("--groups", "1"), ("--top", "-1"), ("--by", "size"), ("--by", "dfbeta:")]
)
def test_misuse(option, cli, data):
    cli(*FIT)
    cli("diagnose", "model.json", "data.parquet", *option).misused(option[0])


def test_unknown_names(cli, data):
    cli(*FIT)
    cli("diagnose", "model.json", "data.parquet", "--by", "dfbeta:carrier[T.B7]").refused(
        "no term 'carrier[T.B7]'", "Did you mean 'carrier[T.B6]'"
    )
    cli("diagnose", "model.json", "data.parquet", "--keep", "idd").refused("idd", "Did you mean 'id'")


def test_data_that_lack_a_column(cli, data, parquet, flights_like):
    cli(*FIT)
    parquet(flights_like.drop_columns(["carrier"]), "other.parquet")
    cli("diagnose", "model.json", "other.parquet").refused("other.parquet", "carrier")
