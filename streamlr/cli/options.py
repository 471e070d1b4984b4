"""Options that commands share, and the words of a command line as the arguments of the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from streamlr.report.grids import Grid

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("text", "json", "csv", "markdown", "latex")


class Size(click.ParamType):  # type: ignore[type-arg]
    """A size in bytes: 512MB, 4GB, 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; misuse is a usage error."""
        from streamlr.errors import StreamlrError
        from streamlr.passes.memory import parse_size

        try:
            return parse_size(value)
        except StreamlrError as error:
            self.fail(str(error), param, ctx)


class Assignment(click.ParamType):  # type: ignore[type-arg]
    """COL=VALUE; the column may hold an equals sign itself."""

    name = "col=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, checked to have two sides."""
        name, equals, level = str(value).partition("=")
        if not (name and equals and level):
            self.fail(f"{value!r} is not of the form COL=VALUE", param, ctx)
        return str(value)


class Missing(click.ParamType):  # type: ignore[type-arg]
    """A policy for missing values."""

    name = "policy"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The policy as the library takes it; misuse is a usage error."""
        text = str(value)
        if text not in ("drop", "error", "indicator") and not (text.startswith("fill=") and text != "fill="):
            self.fail(f"{text!r} is none of drop, error, indicator, fill=VALUE", param, ctx)
        return text


data_argument = click.argument("data", nargs=-1, required=True, metavar="DATA...")
format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="Form of the result.",
)
stars_option = click.option("--stars", is_flag=True, help="Mark small p-values in the text, as R does.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Worker threads; default all cores. Results do not depend on it.",
)
memory_option = click.option(
    "--memory",
    type=Size(),
    metavar="SIZE",
    help="Resident size to keep to, such as 4GB; default a quarter of what is available.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Nothing on stderr but errors.")


def column_options(command: Command) -> Command:
    """The options that give columns their roles."""
    options = [
        click.option("-y", "--target", metavar="COL", help="The outcome, a column with two values."),
        click.option(
            "-x", "--features", multiple=True, metavar="COL,COL", help="Columns to use; default all others."
        ),
        click.option("--exclude", multiple=True, metavar="COL,COL", help="Columns not to use."),
        click.option("-f", "--formula", metavar="TEXT", help='Such as "late ~ dep_delay + C(carrier)".'),
        click.option(
            "--categorical", multiple=True, metavar="COL,COL", help="Numeric columns to code as factors."
        ),
        click.option("--numeric", multiple=True, metavar="COL,COL", help="Other columns to read as numbers."),
        click.option(
            "--reference",
            multiple=True,
            type=Assignment(),
            metavar="COL=LEVEL",
            help="The level without a term.",
        ),
        click.option("--positive", metavar="LEVEL", help="The value of the target that counts as 1."),
        click.option(
            "--where",
            metavar="EXPR",
            help="Rows to use, such as \"year >= 2023 and carrier in ('AA', 'UA')\".",
        ),
        click.option(
            "--missing",
            type=Missing(),
            metavar="drop|error|indicator|fill=VALUE",
            default="drop",
            show_default=True,
            help="Missing values: drop their rows, refuse them, give them a level or column of their own, or "
            "put a value in their place.",
        ),
        click.option("--weights", metavar="COL", help="Row weights."),
        click.option(
            "--weight-type",
            type=click.Choice(["frequency", "analytic", "sampling"]),
            default="frequency",
            show_default=True,
            help="Whether a row of weight 3 is three rows, one of higher precision, or stands for three of a "
            "population.",
        ),
        click.option("--offset", metavar="COL", help="Added to the linear predictor."),
        click.option("--trials", metavar="COL", help="Number of trials; the target then counts successes."),
        click.option(
            "--absorb",
            metavar="COL",
            help="A factor of any size, whose effects are estimated and not reported.",
        ),
        click.option(
            "--absorb-l2",
            type=click.FloatRange(min=0.0),
            default=0.0,
            metavar="LAMBDA",
            help="Ridge on the absorbed effects, in the mean loss.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def column_lists(values: Sequence[str], names: Sequence[str]) -> list[str]:
    """COL,COL options as a list of columns; an exact column name wins over splitting at commas."""
    columns: list[str] = []
    for value in values:
        pieces = [value] if value in names else value.split(",")
        columns.extend(piece.strip() if piece not in names else piece for piece in pieces)
    return [column for column in columns if column]


def assignments(values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """COL=VALUE options as a dict; the longest column name before an equals sign wins."""
    pairs = {}
    for value in values:
        cuts = [i for i, character in enumerate(value) if character == "="]
        cut = max((i for i in cuts if value[:i] in names), default=cuts[0])
        pairs[value[:cut]] = value[cut + 1 :]
    return pairs


def column_arguments(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `column_options` as keyword arguments of `streamlr.fit`."""
    arguments = dict(options)
    for key in ("exclude", "categorical", "numeric"):
        arguments[key] = column_lists(options[key], names)
    arguments["features"] = column_lists(options["features"], names) if options["features"] else None
    arguments["reference"] = assignments(options["reference"], names)
    return arguments


@contextmanager
def errors_as_messages(log_json: bool = False, format_: str | None = None) -> Iterator[None]:
    """Errors as one message and an exit code: 1 data or model, 4 separation, 130 Ctrl-C.

    `format_`: the form in which results are printed, for a finding of separation is one.
    """
    from streamlr.errors import SeparationError, StreamlrError
    from streamlr.report.text import printable

    try:
        yield
    except StreamlrError as error:
        if log_json:
            click.echo(json.dumps({"event": "error", "message": str(error)}), err=True)
        else:
            # Names in it may come from a file, which is not to write to a terminal.
            click.echo(f"Error: {printable(str(error))}", err=True)
        if not isinstance(error, SeparationError):
            sys.exit(1)
        if format_ is not None:
            print_finding(error.separation, format_)
        sys.exit(4)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our stdout has gone (`| head`); there is nobody left to tell.
        sys.stderr.close()
        sys.exit(1)


def print_text(text: str) -> None:
    """Write a result to stdout to the letter; on a terminal, characters that could command it as escapes.

    Left to itself click takes what looks like a colour out of what goes to a pipe, with the comma behind it,
    and passes it on to a terminal.
    """
    from streamlr.report.text import printable

    if sys.stdout.isatty():
        text = "\n".join(map(printable, text.split("\n")))
    click.echo(text, color=True)


def print_finding(finding: Mapping[str, Any], format_: str) -> None:
    """Write a finding of separation to stdout, as text or as JSON; other forms hold coefficients only."""
    if format_ == "text":
        from streamlr.report.text import finding_text

        click.echo(finding_text(finding))
    elif format_ == "json":
        from streamlr.report.tables import to_json

        click.echo(to_json({"separation": finding}))


def print_result(
    result: Mapping[str, Any], about: Mapping[str, Any], format_: str, *, stars: bool = False
) -> None:
    """Write a result to stdout in the form asked for; `stars` are for text alone."""
    from streamlr.report import tables
    from streamlr.report.text import Summary

    if format_ == "text":
        click.echo(str(Summary(result, about, stars=stars)))
        return
    writers = {
        "json": tables.to_json,
        "csv": tables.to_csv,
        "markdown": tables.to_markdown,
        "latex": tables.to_latex,
    }
    print_text(writers[format_](result))


def print_grid(grid: Grid, format_: str) -> None:
    """Write a table of tests to stdout in a form other than JSON."""
    writers = {"text": grid.__str__, "csv": grid.to_csv, "markdown": grid.to_markdown, "latex": grid.to_latex}
    print_text(writers[format_]())
