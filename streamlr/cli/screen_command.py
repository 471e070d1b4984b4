"""`streamlr screen MODEL DATA…`"""

from __future__ import annotations

from collections.abc import Sequence

import click

from streamlr.cli.options import (
    data_argument,
    errors_as_messages,
    format_option,
    print_grid,
    quiet_option,
    threads_option,
)

# Rows of the table for reading; other programs get all.
SHOWN = 20
OPENING, CLOSING, QUOTES = "([{", ")]}", "'\"`"


@click.command("screen")
@click.argument("model", metavar="MODEL")
@data_argument
@click.option(
    "--candidates",
    multiple=True,
    metavar="COL,COL",
    help="Columns or terms such as log(x) or x:carrier; default every column without a part in the model.",
)
@click.option("--top", type=click.IntRange(min=1), help=f"Terms to print; default {SHOWN} as text, else all.")
@click.option(
    "--max-levels",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Levels, or cells of levels, above which a candidate is skipped.",
)
@click.option("--where", metavar="EXPR", help="Rows to use; default the filter of the fit.")
@threads_option
@format_option
@quiet_option
def command(
    model: str,
    data: tuple[str, ...],
    candidates: tuple[str, ...],
    top: int | None,
    max_levels: int,
    where: str | None,
    threads: int | None,
    format_: str,
    quiet: bool,
) -> None:
    """Rank terms that MODEL does not have by score tests, in one pass over DATA, without refitting.

    DATA are the rows that the model was fitted to. Rows in which a candidate is missing are not used for its
    test and are counted.
    """
    from streamlr.api import load
    from streamlr.cli.progress import Reporter
    from streamlr.inference.screening import screen
    from streamlr.report.tables import to_json
    from streamlr.sources.open import open_source

    with errors_as_messages(), Reporter(quiet=quiet, log_json=False) as reporter:
        loaded = load(model)
        source = open_source(list(data))
        terms = term_lists(candidates, source.schema.names) if candidates else None
        found = screen(
            loaded, source, terms, where=where, max_levels=max_levels, threads=threads, on_event=reporter
        )
    if format_ == "json":
        click.echo(to_json(found.result(top)))
    else:
        print_grid(found.grid(SHOWN if top is None and format_ == "text" else top), format_)


def term_lists(values: Sequence[str], names: Sequence[str]) -> list[str]:
    """Options of terms between commas; an exact column name wins, and commas in parentheses or quotes part
    nothing."""
    terms: list[str] = []
    for value in values:
        if value in names:
            terms.append(value)
            continue
        depth, quote, begin = 0, "", 0
        for place, character in enumerate(f"{value},"):
            if quote:
                quote = "" if character == quote else quote
            elif character in QUOTES:
                quote = character
            elif character == "," and (depth <= 0 or place == len(value)):
                terms.append(value[begin:place])
                begin = place + 1
            else:
                depth += (character in OPENING) - (character in CLOSING)
        if begin <= len(value) and quote:
            terms.append(value[begin:])  # the formula's reader says what is wrong with it
    return [term if term in names else term.strip() for term in terms if term.strip()]
