"""`streamlr effects MODEL DATA…`"""

from __future__ import annotations

from typing import Any

import click

from streamlr.cli.options import (
    Assignment,
    assignments,
    column_lists,
    data_argument,
    errors_as_messages,
    format_option,
    print_grid,
    quiet_option,
    threads_option,
)


class Held(Assignment):
    """COL=VALUE, or the word "mean"."""

    name = "col=value|mean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, checked to be one of both."""
        return "mean" if value == "mean" else super().convert(value, param, ctx)


@click.command("effects")
@click.argument("model", metavar="MODEL")
@data_argument
@click.option("--variables", multiple=True, metavar="COL,COL", help="Columns of the data; default all.")
@click.option(
    "--at",
    "held",
    multiple=True,
    type=Held(),
    metavar="COL=VALUE",
    help="Hold a column at a value in every row, or at its mean with COL=mean; --at mean: all numbers.",
)
@click.option(
    "--contrasts",
    type=click.Choice(["reference", "pairwise"]),
    default="reference",
    show_default=True,
    help="Levels against the reference, or each pair of them.",
)
@click.option(
    "--conf-level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Level of intervals; default the fit's.",
)
@click.option("--where", metavar="EXPR", help="Rows to average over; default the filter of the fit.")
@threads_option
@format_option
@quiet_option
def command(
    model: str,
    data: tuple[str, ...],
    variables: tuple[str, ...],
    held: tuple[str, ...],
    contrasts: Any,
    conf_level: float | None,
    where: str | None,
    threads: int | None,
    format_: str,
    quiet: bool,
) -> None:
    """Average marginal effects on the probability, with errors by the delta method, in one pass over DATA.

    A number has the average slope of the probability in it, a factor the average change from one level to
    another. DATA needs all columns of the fit; rows count as the fit would use and weigh them.
    """
    from streamlr.api import load
    from streamlr.cli.progress import Reporter
    from streamlr.inference.marginal_effects import effects
    from streamlr.report import tables
    from streamlr.report.text import printable
    from streamlr.sources.open import open_source

    if "mean" in held and len(held) > 1:
        raise click.UsageError("--at mean holds every number at its mean; give no other --at with it.")
    with errors_as_messages(), Reporter(quiet=quiet, log_json=False) as reporter:
        loaded = load(model)
        source = open_source(list(data))
        names = source.schema.names
        values = {} if "mean" in held else assignments(held, names)
        if len(values) < len(held) and "mean" not in held:
            raise click.UsageError(f"--at names a column twice: {', '.join(held)}. Hold it at one value.")
        found = effects(
            loaded,
            source,
            variables=column_lists(variables, names) if variables else None,
            at="mean" if "mean" in held else values,
            contrasts=contrasts,
            conf_level=conf_level,
            where=where,
            threads=threads,
            on_event=reporter,
        )
    if format_ == "json":
        click.echo(tables.to_json(found.result()))
    else:
        print_grid(found.grid(), format_)
    if format_ in ("csv", "markdown", "latex") and not quiet:
        for note in found.notes:
            click.echo(printable(note), err=True)
