"""`streamlr summary MODEL`: everything that needs a saved model alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from streamlr.cli.options import (
    Assignment,
    assignments,
    errors_as_messages,
    format_option,
    print_grid,
    print_result,
    stars_option,
)


@click.command("summary")
@click.argument("model", metavar="MODEL")
@format_option
@stars_option
@click.option(
    "--conf-level", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Level of intervals."
)
@click.option(
    "--reference",
    multiple=True,
    type=Assignment(),
    metavar="COL=LEVEL",
    help="Another reference level of a factor.",
)
@click.option(
    "--test",
    "tests",
    multiple=True,
    metavar="TEXT",
    help='Wald test of equations, "x1 - 2*x2 = 1, x3", or of a whole term, "carrier".',
)
@click.option("--terms", type=click.Choice(["2", "3"]), help="Wald tests of all terms, of this type.")
@click.option("--vif", "inflation", is_flag=True, help="Variance inflation factors and condition number.")
def command(
    model: str,
    format_: str,
    stars: bool,
    conf_level: float | None,
    reference: tuple[str, ...],
    tests: tuple[str, ...],
    terms: str | None,
    inflation: bool,
) -> None:
    """Print a saved model again, without its data.

    With other reference levels it is the same fit in other coordinates. Tests and inflation factors follow
    the summary; with --format json they stand under "tests", "term_tests", "vif" and "condition_number".
    """
    from streamlr.model_file import read_model

    with errors_as_messages():
        loaded = read_model(model)
        if conf_level is not None:
            loaded = replace(loaded, conf_level=conf_level)
        factors = loaded.design.categories
        names = [name for factor in factors for name in (factor.name, factor.feature.column)]
        for column, level in assignments(reference, names).items():
            loaded = loaded.relevel(column, level)
        result: dict[str, Any] = loaded.result()
        grids = []
        if terms is not None:
            table = loaded.term_tests(int(terms))
            result["term_tests"] = table.as_dicts()
            grids.append(table.grid())
        if tests:
            found = [loaded.wald_test(text) for text in tests]
            result["tests"] = [test.as_dict() for test in found]
            grids.extend(test.grid() for test in found)
        if inflation:
            factors_found = loaded.vif()
            condition = loaded.condition_number()
            result["vif"], result["condition_number"] = factors_found.as_dicts(), condition
            line = f"condition number of the scaled information: {condition:.5g}"
            grids.append(replace(factors_found.grid(), below=(line,)))
    print_result(result, loaded.about(), format_, stars=stars)
    for grid in grids if format_ != "json" else ():
        click.echo("")
        print_grid(grid, format_)
