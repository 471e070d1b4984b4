"""The command line inside the tests: run it in an empty folder and judge what it left.

`cli("fit", "data.parquet", …)` runs the program in `tmp_path` and returns a `Run`: exit code, the
two streams apart, and which files appeared or changed. A `Run` knows what a refusal looks like, so
every bad input is held to the same contract in one place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from streamlr.cli import main

# A class name of another library, or of Python, is not a message.
FOREIGN_ERROR = re.compile(r"Arrow\w*(Error|Invalid)|\b(Key|Value|Type|Index|OS|Runtime)Error\b")


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON: a number that does not exist is null")


@dataclass(frozen=True)
class Run:
    """One run of the program. `changed`: paths in the folder that appeared, changed or went."""

    exit_code: int
    stdout: str
    stderr: str
    exception: BaseException | None
    changed: frozenset[str]
    folder: Path

    def json(self) -> Any:
        """What stdout holds, which must be JSON in the strict sense: no NaN, no Infinity."""
        assert self.exit_code in (0, 3), self.stderr
        return json.loads(self.stdout, parse_constant=refuse_constant)

    def tidy(self) -> dict[str, dict[str, Any]]:
        """The coefficient table of `--format json` by term."""
        return {row["term"]: row for row in self.json()["tidy"]}

    @property
    def message(self) -> str:
        """stderr on one line and without the folder, whose name holds the name of the test."""
        plain = self.stderr.replace(f"{self.folder}/", "").replace(str(self.folder), ".")
        return " ".join(plain.split())

    def says(self, *fragments: str | int) -> None:
        """Each text as whole words, and each number as a number, stands in the message."""
        for fragment in fragments:
            if isinstance(fragment, int):
                pattern = rf"(?<![\w.,+-]){fragment}(?!\w|[.,]\d)"
            else:  # 'age' must not be found in 'page'
                pattern = rf"(?<!\w){re.escape(fragment)}(?!\w)"
            assert re.search(pattern, self.message), f"{fragment!r} is not in: {self.message}"

    def without_traceback(self) -> None:
        """It left through the front door: no exception of ours or of others reached the top."""
        assert self.exception is None or isinstance(self.exception, SystemExit), repr(self.exception)
        assert "Traceback" not in self.stderr + self.stdout

    def refused(self, *fragments: str | int) -> None:
        """Exit 1 with one message and nothing else: no results, no file, no traceback."""
        self.without_traceback()
        assert self.exit_code == 1, self.stderr or self.stdout
        assert self.stdout == ""
        assert self.stderr.startswith("Error: "), self.stderr
        assert len(re.findall(r"^\s*Error:", self.stderr, re.MULTILINE)) == 1, self.stderr
        assert not FOREIGN_ERROR.search(self.stderr), self.stderr
        assert self.changed == frozenset()
        self.says(*fragments)

    def misused(self, *fragments: str | int) -> None:
        """Exit 2, the code of misused options, and nothing written."""
        self.without_traceback()
        assert self.exit_code == 2, self.stderr or self.stdout
        assert self.stdout == ""
        assert self.changed == frozenset()
        self.says("Error:", *fragments)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """cli(*arguments) -> Run, in the folder `tmp_path`; CliRunner's streams are no terminal."""
    monkeypatch.chdir(tmp_path)

    def contents() -> dict[str, str]:
        return {
            str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "folder"
            for path in tmp_path.rglob("*")
        }

    def run(*arguments: object) -> Run:
        before = contents()
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        after = contents()
        changed = {path for path in before | after if before.get(path) != after.get(path)}
        return Run(
            result.exit_code,
            result.stdout,
            result.stderr,
            result.exception,
            frozenset(changed),
            tmp_path,
        )

    return run


@pytest.fixture(scope="session")
def people() -> pa.Table:
    """347 clean rows to spoil: late (0/1), age, income, group (3 levels), exposure (1, 2 or 3).

    347 stands in messages as the number of rows and is no part of any file name.
    """
    rng = np.random.default_rng(7)
    n = 347
    age = rng.normal(40, 10, n)
    group = rng.choice(["north", "south", "west"], n)
    late = rng.random(n) < 1 / (1 + np.exp(-0.04 * (age - 40) - 0.5 * (group == "west")))
    return pa.table(
        {
            "late": late.astype(np.int8),
            "age": age,
            "income": rng.lognormal(10, 0.5, n),
            "group": group,
            "exposure": rng.integers(1, 4, n).astype(float),
        }
    )


@pytest.fixture(scope="session")
def spoil() -> Callable[..., pa.Table]:
    """spoil(table, column, values, rows=None): a column replaced, or those first rows of it."""

    def replace(table: pa.Table, column: str, values: Any, rows: int | None = None) -> pa.Table:
        if rows is not None:
            old = table[column].to_pylist()
            repeated = [values] * rows if not isinstance(values, list) else values
            values = pa.array(repeated + old[rows:], type=table.schema.field(column).type)
        position = table.column_names.index(column) if column in table.column_names else None
        if position is None:
            return table.append_column(column, values)
        return table.set_column(position, column, values)

    return replace
