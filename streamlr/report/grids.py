"""Small tables of results (tests, comparisons, inflation factors) as text, HTML, CSV, Markdown and LaTeX.

A `Grid` holds numbers as they are; how many digits of them are shown is decided here by the kind of each
column, and CSV has them all.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from streamlr.report.tables import LATEX, csv_text
from streamlr.report.text import aligned, degrees, fixed, html_table, number, p_value, printable

Kind = Literal["text", "number", "precise", "statistic", "degrees", "p_value"]


@dataclass(frozen=True)
class Field:
    """A column: its key in the rows, what stands above it, and how its numbers are shown."""

    key: str
    head: str
    kind: Kind = "number"


@dataclass(frozen=True)
class Grid:
    """Rows under named columns, with lines above and below the table."""

    fields: Sequence[Field]
    rows: Sequence[Mapping[str, Any]]
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    def __str__(self) -> str:
        left = [place for place, field in enumerate(self.fields) if field.kind == "text"]
        lines = aligned([[field.head for field in self.fields], *self._cells()], left)
        return "\n".join([*map(printable, self.above), *lines, *map(printable, self.below)])

    def to_html(self) -> str:
        """A table for a notebook."""
        above = "<br>".join(html.escape(line) for line in self.above)
        below = "<br>".join(html.escape(line) for line in self.below)
        table = html_table([field.head for field in self.fields], self._cells())
        return f"<p>{above}</p>{table}<p>{below}</p>"

    def to_csv(self) -> str:
        """Every digit under the keys, an empty field where there is no number."""
        return csv_text([field.key for field in self.fields], self.rows)

    def to_markdown(self) -> str:
        """A pipe table under the keys."""
        lines = [
            "| " + " | ".join(field.key for field in self.fields) + " |",
            "|" + "|".join(":--" if field.kind == "text" else "--:" for field in self.fields) + "|",
        ]
        lines.extend(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self._cells()
        )
        return "\n".join(lines)

    def to_latex(self) -> str:
        """A tabular without packages, under the keys."""
        columns = "".join("l" if field.kind == "text" else "r" for field in self.fields)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline"]
        lines += [" & ".join(_escaped(field.key) for field in self.fields) + r" \\", r"\hline"]
        lines.extend(" & ".join(_escaped(cell) for cell in row) + r" \\" for row in self._cells())
        return "\n".join([*lines, r"\hline", r"\end{tabular}"])

    def _cells(self) -> list[list[str]]:
        return [[_SHOWN[field.kind](row[field.key]) for field in self.fields] for row in self.rows]


def _precise(value: float | None) -> str:
    return number(value, 8)


def _degrees(value: float | None) -> str:
    return "" if value is None else degrees(value)


def _statistic(value: float | None) -> str:
    return fixed(value, 3)


def _text(value: Any) -> str:
    return "" if value is None else printable(str(value))


_SHOWN: dict[Kind, Callable[[Any], str]] = {
    "text": _text,
    "number": number,
    "precise": _precise,
    "statistic": _statistic,
    "degrees": _degrees,
    "p_value": p_value,
}


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


class HasTerm(Protocol):
    """A row of numbers about a term; a dataclass."""

    @property
    def term(self) -> str:
        """Its name."""


TermRow = TypeVar("TermRow", bound=HasTerm)


@dataclass(frozen=True)
class TermTable(Generic[TermRow]):
    """Rows about terms, in the order of the terms; a row is had by the name of its term."""

    rows: tuple[TermRow, ...]

    def __iter__(self) -> Iterator[TermRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, term: str) -> TermRow:
        for row in self.rows:
            if row.term == term:
                return row
        raise KeyError(term)

    def as_dicts(self) -> list[dict[str, Any]]:
        """What `--format json` prints of them."""
        return [asdict(row) for row in self.rows]  # type: ignore[call-overload]

    def grid(self) -> Grid:
        """Their table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.grid())

    def _repr_html_(self) -> str:
        return self.grid().to_html()
