"""streamlr as a user types it: the installed program, its table of results read from stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from . import Solution


def command(path: str, target: str, **options: str) -> list[str]:
    """The program that stands beside this interpreter, fitting every other column; memory="2GB" and so on."""
    program = str(Path(sys.executable).with_name("streamlr"))
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [program, "fit", path, "-y", target, "--format", "json", "--quiet", *words]


def read(stdout: str) -> Solution:
    """Estimates and standard errors of the printed table; aliased terms are absent."""
    result = json.loads(stdout)
    rows = [row for row in result["tidy"] if row["estimate"] is not None]
    return {
        "coef": {row["term"]: row["estimate"] for row in rows},
        "std_error": {row["term"]: row["std_error"] for row in rows},
        "load_seconds": None,
        "fit_seconds": result["glance"]["seconds"],
    }
