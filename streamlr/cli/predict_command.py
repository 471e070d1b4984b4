"""`streamlr predict MODEL DATA…`"""

from __future__ import annotations

from typing import Any

import click

from streamlr.cli.options import column_lists, data_argument, errors_as_messages, quiet_option, threads_option


@click.command("predict")
@click.argument("model", metavar="MODEL")
@data_argument
@click.option("-o", "--output", required=True, metavar="SCORES.parquet", help="The Parquet file to write.")
@click.option("--keep", multiple=True, metavar="COL,COL", help="Columns of the data to carry along.")
@click.option(
    "--unseen",
    type=click.Choice(["null", "reference", "error"]),
    default="null",
    show_default=True,
    help="A level that the fit has not seen: no score, that of the reference level, or an error.",
)
@threads_option
@quiet_option
def command(
    model: str,
    data: tuple[str, ...],
    output: str,
    keep: tuple[str, ...],
    unseen: Any,
    threads: int | None,
    quiet: bool,
) -> None:
    """Write the probability of every row to a Parquet file, in the order of the rows.

    A row that cannot be scored (a missing value, an unknown level) gets null.
    """
    from streamlr.api import load, predict
    from streamlr.sources.open import open_source

    with errors_as_messages():
        loaded = load(model)
        source = open_source(list(data))
        counts = predict(
            loaded,
            source,
            output,
            keep=column_lists(keep, source.schema.names),
            unseen=unseen,
            threads=threads,
        )
        assert isinstance(counts, tuple)
    rows, unscored = counts
    if not quiet:
        note = f"; {unscored:,} could not be scored and are null" if unscored else ""
        click.echo(f"{rows:,} rows scored into {output}{note}", err=True)
