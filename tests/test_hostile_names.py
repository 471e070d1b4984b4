"""Names from a file that would command a terminal or break a table stay names, wherever they are shown."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import streamlr
from streamlr.cli import main

RED = "\x1b[31mred"
BELL = "o\x07"
SWALLOW = "n\x1b[9"  # with ",d" behind it, what looks like a colour
LINES = "a,b\r\nc\rd"
LEVELS = np.array(["l\x1b[2J", "m|n", "o\np"])
N = 240
RNG = np.random.default_rng(5)
ROWS: dict[str, Any] = {
    "y\x1b[1m": RNG.integers(0, 2, N),
    RED: RNG.choice(LEVELS, N),
    SWALLOW: RNG.normal(size=N),
    LINES: RNG.normal(size=N),
    BELL: RNG.normal(size=N) / 10,
    "w\x1b": RNG.integers(1, 4, N),
    "c\x1b": RNG.integers(0, 20, N),
}
ROWS["twice\x1b"] = 2.0 * ROWS[SWALLOW]
CONTROLS = "\x1b\x07\r"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("names")
    pq.write_table(pa.table(ROWS), folder / "rows.parquet")
    model = streamlr.fit(
        folder / "rows.parquet",
        target="y\x1b[1m",
        weights="w\x1b",
        offset=BELL,
        cov="cluster",
        cluster=["c\x1b"],
    )
    model.save(folder / "model.json")
    return str(folder / "model.json"), str(folder / "rows.parquet")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def commands(files: tuple[str, str]) -> dict[str, list[str]]:
    model, rows = files
    return {
        "summary": ["summary", model, "--terms", "3", "--vif", "--test", SWALLOW],
        "effects": ["effects", model, rows],
        "diagnose": ["diagnose", model, rows, "--keep", RED],
    }


@pytest.mark.parametrize("command", ["summary", "effects", "diagnose"])
def test_text_has_no_control_characters(command, files):
    result = run(*commands(files)[command])
    assert result.exit_code == 0, result.output
    assert not set(CONTROLS) & set(result.output)
    assert "\\x1b[31mred" in result.output


@pytest.mark.parametrize("form", ["markdown", "latex"])
@pytest.mark.parametrize("command", ["summary", "effects"])
def test_tables_and_their_notes_have_no_control_characters(command, form, files):
    result = run(*commands(files)[command], "--format", form)
    assert result.exit_code == 0
    assert not set(CONTROLS) & set(result.output)


def test_errors_have_no_control_characters(files):
    model, rows = files
    for arguments in (
        ["effects", model, rows, "--variables", "none"],  # names the columns that there are
        ["diagnose", model, rows, "--by", "dfbeta:\x1b[31mre"],
        ["summary", model, "--reference", f"{RED}=none"],
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert not set(CONTROLS) & set(result.output), arguments


def test_csv_keeps_names_to_the_letter(files):
    for command, terms in (("effects", {RED, SWALLOW, LINES, "twice\x1b"}), ("summary", {SWALLOW, LINES})):
        arguments = commands(files)[command] if command == "effects" else ["summary", files[0]]
        result = CliRunner().invoke(main, [*arguments, "--format", "csv"])
        rows = list(csv.reader(io.StringIO(result.stdout_bytes.decode(), newline="")))
        assert len({len(row) for row in rows}) == 1
        assert terms <= {row[0] for row in rows}


def test_json_keeps_names_to_the_letter(files):
    found = json.loads(run(*commands(files)["effects"], "--format", "json").stdout)
    assert {RED, SWALLOW, LINES} <= {row["term"] for row in found["effects"]}


def test_csv_on_a_terminal_commands_nothing(files, monkeypatch):
    from streamlr.cli import options

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(options.sys, "stdout", screen)
    options.print_text(f"term,estimate\n{RED},1\n")
    assert screen.getvalue() == "term,estimate\n\\x1b[31mred,1\n\n"
