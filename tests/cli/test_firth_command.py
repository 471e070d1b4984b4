"""`fit --firth` and `--flic` on the command line.

Numbers have references of their own in tests/inference/test_firth.py; here it matters that the options
arrive, that separated data end well, that the result says by which likelihood it is, and that misuse is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr

ARGUMENTS = ("fit", "data.parquet", "-y", "y", "-x", "x,g")


@pytest.fixture
def separated(parquet: Callable[..., Path]) -> pa.Table:
    """60 rows; x above 0.4 means 1, and so does the level r."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=60).round(2)
    g = rng.choice(["p", "q", "r"], 60)
    y = ((x > 0.4) | (g == "r")).astype(np.int8)
    table = pa.table({"y": y, "x": x, "g": g})
    parquet(table, rows_per_group=13)
    return table


def test_separated_data_fit(cli: Any, separated: pa.Table) -> None:
    refused = cli(*ARGUMENTS)
    assert refused.exit_code == 4
    run = cli(*ARGUMENTS, "--firth", "--format", "json", "-o", "model.json")
    assert run.exit_code == 0
    assert run.stderr == ""
    model = streamlr.fit("data.parquet", target="y", features=["x", "g"], firth=True)
    assert run.tidy() == {row["term"]: row for row in model.tidy().to_pylist()}
    assert set(run.tidy()) == {"Intercept", "x", "g[T.q]", "g[T.r]"}
    assert all(row["estimate"] is not None for row in run.tidy().values())
    result = run.json()
    assert result["penalty"] == model.firth.as_dict()
    assert result["penalty"]["method"] == "Firth's penalised likelihood"
    assert result["separation"] is None
    assert streamlr.load(run.folder / "model.json").params.tobytes() == model.params.tobytes()
    assert cli("summary", "model.json").stdout.splitlines()[0].endswith("by Firth's penalised likelihood")


@pytest.mark.parametrize("words", [(), ("--separation", "error"), ("--separation", "levels")])
def test_separation_has_no_say(cli: Any, separated: pa.Table, words: tuple[str, ...]) -> None:
    run = cli(*ARGUMENTS, "--firth", *words)
    assert run.exit_code == 0
    assert "set aside" not in run.stdout


def test_profile_and_flic(cli: Any, separated: pa.Table) -> None:
    run = cli(*ARGUMENTS, "--firth", "--flic", "--profile", "x", "--conf-level", "0.9", "--format", "json")
    model = streamlr.fit(
        "data.parquet", target="y", features=["x", "g"], firth=True, flic=True, profile=["x"], conf_level=0.9
    )
    assert run.tidy() == {row["term"]: row for row in model.tidy().to_pylist()}
    text = cli(*ARGUMENTS, "--firth", "--flic", "--profile", "x").stdout
    assert "intervals of x by the penalised profile likelihood" in text
    assert "(FLIC)" in text
    assert "penalised log-likelihood" in text
    assert "plain log-likelihood" in text


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("--flic",), "--firth"),
        (("--firth", "--cov", "HC0"), "HC0"),
        (("--firth", "--absorb", "g"), "absorbed"),
    ],
    ids=["flic", "robust", "absorb"],
)
def test_misuse_is_refused(cli: Any, separated: pa.Table, words: tuple[str, ...], fragment: str) -> None:
    run = cli("fit", "data.parquet", "-y", "y", "-x", "x", *words, "-o", "model.json")
    assert run.exit_code == 1
    assert fragment in run.message
    assert not (run.folder / "model.json").exists()
