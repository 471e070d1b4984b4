"""The coefficient table for other programs: JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from streamlr.report.text import fixed, number, p_value, printable

COLUMNS = ("term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high", "odds_ratio")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX.update({character: f"\\{character}" for character in "&%$#_{}"})


def to_json(result: Mapping[str, Any]) -> str:
    """One object with everything; a number that does not exist is null."""
    return json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False)


def to_csv(result: Mapping[str, Any]) -> str:
    """Every digit, an empty field where there is no number."""
    return csv_text(COLUMNS, result["tidy"])


def csv_text(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under their keys, one a line, without a newline at the end; None is an empty field."""
    # A writer quotes a carriage return in a name only where lines end with one.
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    lines = []
    for values in (keys, *([row[key] for key in keys] for row in rows)):
        writer.writerow(["" if value is None else value for value in values])
        lines.append(file.getvalue().removesuffix("\r\n"))
        file.seek(0)
        file.truncate()
    return "\n".join(lines)


def to_markdown(result: Mapping[str, Any]) -> str:
    """A pipe table."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "|".join([":--", *["--:"] * (len(COLUMNS) - 1)]) + "|",
    ]
    for row in result["tidy"]:
        cells = [printable(row["term"]).replace("|", "\\|"), *_cells(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def to_latex(result: Mapping[str, Any]) -> str:
    """A booktabs-free tabular."""
    lines = [r"\begin{tabular}{l" + "r" * (len(COLUMNS) - 1) + "}", r"\hline"]
    lines.append(" & ".join(_escaped(name) for name in COLUMNS) + r" \\")
    lines.append(r"\hline")
    for row in result["tidy"]:
        lines.append(" & ".join([_escaped(printable(row["term"])), *_cells(row)]) + r" \\")
    lines.extend([r"\hline", r"\end{tabular}"])
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    shown = [number(row[key]) for key in ("estimate", "std_error")]
    shown.append(fixed(row["statistic"], 2))
    shown.append(p_value(row["p_value"]))
    shown.extend(number(row[key]) for key in ("conf_low", "conf_high", "odds_ratio"))
    return shown


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
