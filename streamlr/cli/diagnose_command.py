"""`streamlr diagnose MODEL DATA…`"""

from __future__ import annotations

from typing import Any

import click

from streamlr.cli.options import column_lists, data_argument, errors_as_messages, quiet_option, threads_option


class Criterion(click.ParamType):  # type: ignore[type-arg]
    """What rows are ranked by."""

    name = "criterion"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, checked to be one of the three; whether a term exists only the model knows."""
        text = str(value)
        if text not in ("cooks", "leverage") and not (text.startswith("dfbeta:") and text != "dfbeta:"):
            self.fail(f"{text!r} is none of cooks, leverage, dfbeta:TERM", param, ctx)
        return text


@click.command("diagnose")
@click.argument("model", metavar="MODEL")
@data_argument
@click.option(
    "--groups",
    type=click.IntRange(min=2, max=1000),
    default=10,
    show_default=True,
    help="Groups of the Hosmer-Lemeshow test.",
)
@click.option(
    "--top",
    type=click.IntRange(min=0, max=100_000),
    default=10,
    show_default=True,
    help="Influential rows to list.",
)
@click.option(
    "--by",
    type=Criterion(),
    default="cooks",
    show_default=True,
    metavar="cooks|leverage|dfbeta:TERM",
    help="What influence is: Cook's distance, leverage, or the change of a coefficient.",
)
@click.option("--keep", multiple=True, metavar="COL,COL", help="Columns to show beside the rows listed.")
@click.option("--link-test", is_flag=True, help="Make the link test, which takes passes of its own.")
@click.option("--where", metavar="EXPR", help="Rows to use; default the filter of the fit.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@threads_option
@quiet_option
def command(
    model: str,
    data: tuple[str, ...],
    groups: int,
    top: int,
    by: str,
    keep: tuple[str, ...],
    link_test: bool,
    where: str | None,
    format_: str,
    threads: int | None,
    quiet: bool,
) -> None:
    """Say how well a model fits the rows of its fit, and which rows it hangs on.

    Pearson and deviance dispersion, pseudo R-squared, Hosmer-Lemeshow test, link test, log loss with each row
    left out, and the most influential rows, in one or two passes over the data.
    """
    from streamlr.api import load
    from streamlr.cli.progress import Reporter
    from streamlr.inference.diagnosis import diagnose
    from streamlr.report.tables import to_json
    from streamlr.sources.open import open_source

    with errors_as_messages():
        loaded = load(model)
        source = open_source(list(data))
        with Reporter(quiet=quiet, log_json=False) as reporter:
            found = diagnose(
                loaded,
                source,
                groups=groups,
                top=top,
                by=by,
                keep=column_lists(keep, source.schema.names),
                link_test=link_test,
                where=where,
                threads=threads,
                on_event=reporter,
            )
    click.echo(to_json(found.result()) if format_ == "json" else str(found))
