"""`streamlr fit DATA…`"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from streamlr.cli.options import (
    column_arguments,
    column_lists,
    column_options,
    data_argument,
    errors_as_messages,
    format_option,
    memory_option,
    print_result,
    quiet_option,
    stars_option,
    threads_option,
)


class Between(click.FloatRange):
    """A float strictly between two bounds."""

    def __init__(self, low: float, high: float | None = None) -> None:
        super().__init__(min=low, max=high, min_open=True, max_open=high is not None)


@click.command("fit")
@data_argument
@column_options
@click.option(
    "--separation",
    type=click.Choice(["levels", "drop", "error"]),
    default="levels",
    show_default=True,
    help="Set aside levels that go with one outcome only, or all rows that are separated, or stop.",
)
@click.option(
    "--firth",
    is_flag=True,
    help="Firth's penalised likelihood: finite whatever is separated, nothing set aside.",
)
@click.option(
    "--flic",
    is_flag=True,
    help="With --firth, an intercept that makes the mean probability the share of the outcome.",
)
@click.option(
    "--cov",
    type=click.Choice(["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"]),
    help="Covariance that standard errors come from; one more pass for all but the first, the default.",
)
@click.option(
    "--cluster", multiple=True, metavar="COL[,COL2]", help="Columns that tell which rows belong together."
)
@click.option(
    "--small-sample",
    type=click.Choice(["none", "clusters", "full"]),
    default="clusters",
    show_default=True,
    help="Factor of a clustered covariance: 1, G/(G-1), or G/(G-1) (n-1)/(n-k).",
)
@click.option(
    "--ci",
    type=click.Choice(["wald", "profile"]),
    default="wald",
    show_default=True,
    help="Intervals from standard errors, or by the profile likelihood (some more passes).",
)
@click.option(
    "--profile", multiple=True, metavar="TERM", help="A term to profile; default all with --ci profile."
)
@click.option(
    "--conf-level", type=Between(0.0, 1.0), default=0.95, show_default=True, help="Level of intervals."
)
@click.option(
    "--tol",
    type=Between(0.0),
    default=1e-8,
    show_default=True,
    help="Proved distance to the maximum in std. errors.",
)
@click.option(
    "--max-passes", type=click.IntRange(min=1), default=50, show_default=True, help="Passes before giving up."
)
@threads_option
@memory_option
@click.option(
    "--spool",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder of a temporary file for encoded rows that memory has no room for.",
)
@click.option("-o", "--output", metavar="MODEL.json", help="Write the model file.")
@format_option
@stars_option
@quiet_option
@click.option("--log-json", is_flag=True, help="Events on stderr as JSON, one object a line.")
def command(
    data: tuple[str, ...],
    output: str | None,
    format_: str,
    stars: bool,
    quiet: bool,
    log_json: bool,
    **options: Any,
) -> None:
    """Fit a logistic regression by maximum likelihood and print its summary.

    DATA is a Parquet file, several, a directory of them, or a glob.

    Exit codes: 0 fitted and converged; 1 data or model error; 2 wrong usage; 3 written but not converged;
    4 no finite maximum-likelihood estimate, and the finding is printed; 130 interrupted.
    """
    from streamlr.cli.progress import Reporter

    with errors_as_messages(log_json, format_), Reporter(quiet=quiet, log_json=log_json) as reporter:
        model = _fitted(data, output, reporter, options)
    print_result(model.result(), model.about(), format_, stars=stars)
    if not model.converged:
        if not log_json:
            from streamlr.fitting import advice_on_passes

            passes = model.statistics.passes
            click.echo(
                f"Not converged after {passes} passes: the estimates are not proved to be near the maximum. "
                f"{advice_on_passes(passes, options['max_passes'])}",
                err=True,
            )
        sys.exit(3)


def _fitted(data: tuple[str, ...], output: str | None, reporter: Any, options: dict[str, Any]) -> Any:
    from streamlr.errors import ConvergenceWarning
    from streamlr.fitting import fit
    from streamlr.sources.open import open_source
    from streamlr.whole_file import check_writable

    if output is not None:
        check_writable(output)
    source = open_source(list(data))
    arguments = column_arguments(source.schema.names, options)
    arguments["cluster"] = column_lists(options["cluster"], source.schema.names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # exit code 3 says it
        model = fit(source, on_event=reporter, **arguments)
    if output is not None:
        model.save(output)
    return model
