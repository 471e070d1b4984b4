"""`streamlr compare MODEL MODEL…`"""

from __future__ import annotations

import click

from streamlr.cli.options import errors_as_messages, format_option, print_grid


@click.command("compare")
@click.argument("models", metavar="MODEL MODEL...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Compare models with robust standard errors as well.")
@format_option
def command(models: tuple[str, ...], force: bool, format_: str) -> None:
    """Likelihood-ratio tests of nested models, with AIC and BIC side by side.

    Models come in any order. They must have used the same rows, and each must be a special case of the next
    larger one, whatever its columns are called; what is not known to be so is refused.
    """
    from streamlr.inference.comparison import compare
    from streamlr.model_file import read_model
    from streamlr.report.tables import to_json

    if len(models) < 2:
        raise click.UsageError("a comparison takes two models or more.")
    with errors_as_messages():
        found = compare(*[read_model(path) for path in models], names=models, force=force)
    if format_ == "json":
        click.echo(to_json(found.as_dict()))
    else:
        print_grid(found.grid(), format_)
