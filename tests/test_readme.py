"""The README's commands are run as they stand there, and must print what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamlr.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
# The last digits of a distance of 1e-12 standard errors are rounding, and differ between processors.
ROUNDING = re.compile(r"within \S+ standard errors")
TIME = re.compile(r"about \d+ passes, .*")


def transcript() -> list[tuple[list[str], str]]:
    """(words of the command, what it prints) for every `$ streamlr` of the README, in order."""
    commands = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = piece.partition("\n")
            words = shlex.split(command)
            if words[0] == "streamlr":
                commands.append((words[1:], output))
    return commands


def comparable(text: str) -> list[str]:
    """Lines without what may differ from machine to machine."""
    text = ROUNDING.sub("within # standard errors", TIME.sub("about #", text))
    return [line.rstrip() for line in text.strip().splitlines()]


def test_readme_shows_what_the_program_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = transcript()
    assert [words[0] for words, _ in commands[:2]] == ["demo", "fit"]
    for words, shown in commands:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        if words[0] == "demo":
            assert (tmp_path / "flights.parquet").exists()
        else:
            assert comparable(result.output) == comparable(shown)


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["demo", "--quiet"]).exit_code == 0
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
