"""`streamlr summary MODEL`"""

from __future__ import annotations

from dataclasses import replace

import click

from streamlr.cli.options import errors_as_messages, format_option, print_result


@click.command("summary")
@click.argument("model", metavar="MODEL")
@format_option
@click.option(
    "--conf-level", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Level of intervals."
)
def command(model: str, format_: str, conf_level: float | None) -> None:
    """Print a saved model again, without its data."""
    from streamlr.model_file import read_model

    with errors_as_messages():
        loaded = read_model(model)
    if conf_level is not None:
        loaded = replace(loaded, conf_level=conf_level)
    print_result(loaded.result(), loaded.about(), format_)
