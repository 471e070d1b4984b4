"""`streamlr summary`: a saved model printed again, without its data, as `fit` printed it."""

from __future__ import annotations

import math

import pytest
from scipy.special import ndtri

FIT = ("fit", "data.parquet", "-y", "late", "-x", "dep_delay,carrier,twice", "-o", "model.json")


@pytest.fixture
def data(parquet, flights_like):
    """Nulls that drop rows and an aliased column, so that every part of the summary is in use."""
    return parquet(flights_like.append_column("twice", flights_like["dep_delay"]))


@pytest.mark.parametrize("form", ["text", "json", "csv", "markdown", "latex"])
def test_summary_prints_what_fit_printed(cli, data, form):
    fitted = cli(*FIT, "--format", form)
    assert fitted.exit_code == 0, fitted.stderr
    data.unlink()
    again = cli("summary", "model.json", "--format", form)
    assert again.exit_code == 0, again.stderr
    assert again.stdout == fitted.stdout
    assert again.stderr == ""
    assert again.changed == frozenset()


def test_stars_are_marked_on_request(cli, data):
    plain, starred = cli(*FIT), cli(*FIT, "--stars")
    again = cli("summary", "model.json", "--stars")
    assert again.stdout == starred.stdout
    assert "*** p < 0.001" in starred.stdout
    assert "*" not in plain.stdout


def test_text_is_the_default(cli, data):
    fitted = cli(*FIT)
    assert cli("summary", "model.json").stdout == fitted.stdout
    assert "dep_delay" in fitted.stdout


def test_model_that_did_not_converge_says_so_again(cli, data):
    fitted = cli(*FIT, "--max-passes", "1")
    assert fitted.exit_code == 3
    again = cli("summary", "model.json")
    assert again.exit_code == 0
    assert again.stdout == fitted.stdout
    assert "converge" in again.stdout


def test_another_confidence_level_needs_no_data(cli, data):
    cli(*FIT)
    data.unlink()
    run = cli("summary", "model.json", "--conf-level", "0.5", "--format", "json")
    for term in ("Intercept", "dep_delay", "carrier[T.UA]"):
        row = run.tidy()[term]
        half = ndtri(0.75) * row["std_error"]
        assert math.isclose(row["conf_high"] - row["conf_low"], 2 * half, rel_tol=1e-9)
    assert run.tidy()["twice"]["conf_low"] is None


def test_no_such_model(cli):
    cli("summary", "absent.json").refused("absent.json")


@pytest.mark.parametrize("content", [b"", b"not JSON", b"{}", b"[1, 2]", b"PAR1\x00\xff"])
def test_file_that_is_no_model(cli, tmp_path, content):
    (tmp_path / "other.json").write_bytes(content)
    cli("summary", "other.json").refused("other.json")


def test_half_of_a_model_file(cli, data, tmp_path):
    cli(*FIT)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "half.json").write_text(text[: len(text) // 2])
    cli("summary", "half.json").refused("half.json")
