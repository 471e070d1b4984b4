"""`streamlr explain DATA…`: what a fit would do, from footers and one row group."""

from __future__ import annotations

from typing import Any

import click

from streamlr.cli.options import (
    column_arguments,
    column_options,
    data_argument,
    errors_as_messages,
    memory_option,
    threads_option,
)


@click.command("explain")
@data_argument
@column_options
@threads_option
@memory_option
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    data: tuple[str, ...], threads: int | None, memory: int | None, format_: str, **options: Any
) -> None:
    """Say what a fit would do: rows, columns, levels (at least), design width, memory, passes and time.

    Reads footers and a part of one row group; nothing is fitted.
    """
    from streamlr.explanation import explain
    from streamlr.report import tables
    from streamlr.report.text import explanation_text
    from streamlr.sources.open import open_source

    with errors_as_messages():
        source = open_source(list(data))
        arguments = column_arguments(source.schema.names, options)
        found = explain(source, threads=threads, memory=memory, **arguments)
    click.echo(tables.to_json(found) if format_ == "json" else explanation_text(found))
