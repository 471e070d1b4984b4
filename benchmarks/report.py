"""Makes the table in the README and the picture beside it from `results/*.csv`, and hides no row.

`python benchmarks/report.py` writes both. A table's group is one run: of each problem and each first
streamlr variant the latest run, every program of it, also those that failed or were stopped. Seconds and
memory are medians over the turns; "against" is the median of the ratios within a turn, to that variant's
run of that turn; errors are the largest. To leave a run out, leave its rows out of `results/`.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from problems import PROBLEMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PICTURE = "benchmarks/results/measured.png"
NOT_PROGRAMS = ("scale.csv",)  # results of other shapes
TIMED_OUT = "124"

Row = dict[str, str]


@dataclass(frozen=True)
class Program:
    """How a solver is named in print."""

    title: str  # with the place of the version in braces
    package: str
    std_errors: bool


PROGRAMS = {
    "streamlr_cli": Program("`streamlr fit{options}`", "streamlr", True),
    "streamlr": Program("`streamlr.fit({arguments})`", "streamlr", True),
    "glum": Program("glum {version}", "glum", False),
    "sklearn": Program("scikit-learn {version}, newton-cholesky", "scikit-learn", False),
    "sklearn_lbfgs": Program("scikit-learn {version}, lbfgs", "scikit-learn", False),
    "statsmodels": Program("statsmodels {version}, Logit", "statsmodels", True),
    "dask_ml": Program("dask-ml {version}, Newton", "dask-ml", False),
    "h2o": Program("H2O {version}, GLM", "h2o", True),
    "spark": Program("Spark {version}", "pyspark", False),
    "naive": Program("Newton in NumPy", "numpy", True),
    "zeros": Program("an empty Python program", "python", False),
}


@dataclass(frozen=True)
class Line:
    """One program in one run; None is "not known"."""

    title: str
    ours: bool
    turns: int
    seconds: float | None  # median
    stopped: float | None  # seconds after which it was stopped, where it was
    ratio: float | None  # of seconds, against the first program
    fit_seconds: float | None
    peak: float | None  # bytes
    error: float | None  # in standard errors
    std_error_error: float | None  # relative
    std_errors: bool


@dataclass(frozen=True)
class Group:
    """One run of one problem, quickest program first."""

    problem: str
    rows: int | None
    shape: str
    lines: list[Line]
    machine: str


def read_results(folder: Path) -> list[Row]:
    """All measured rows of all problems."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.csv")):
        if path.name not in NOT_PROGRAMS:
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
    return rows


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """The latest run of each problem and base, in the order of `PROBLEMS`."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["problem"], row["run"]), []).append(row)
    latest: dict[tuple[str, str], tuple[str, list[Row]]] = {}
    for (problem, run), members in runs.items():
        key = (problem, base_of(members))
        if key not in latest or run > latest[key][0]:
            latest[key] = (run, members)
    order = list(PROBLEMS)
    place = {key: (order.index(key[0]) if key[0] in order else len(order), *key) for key in latest}
    return [group_of(*key, latest[key][1]) for key in sorted(latest, key=lambda key: place[key])]


def base_of(rows: list[Row]) -> str:
    """The solver that ratios are taken to: the first streamlr variant, or else the first solver."""
    solvers = [row["solver"] for row in rows]
    return next((solver for solver in solvers if solver.startswith("streamlr")), solvers[0])


def group_of(problem: str, base_solver: str, rows: list[Row]) -> Group:
    base = {
        row["turn"]: float(row["wall_seconds"]) for row in rows if row["solver"] == base_solver and ended(row)
    }
    lines = [
        line_of([row for row in rows if row["solver"] == solver], base)
        for solver in dict.fromkeys(row["solver"] for row in rows)
    ]
    known = PROBLEMS.get(problem)
    return Group(
        problem,
        known.rows if known else None,
        known.shape if known else "",
        sorted(lines, key=lambda line: math.inf if line.seconds is None else line.seconds),
        rows[0]["machine"],
    )


def line_of(rows: list[Row], base: dict[str, float]) -> Line:
    """The medians of one program; one failure spoils it."""
    failures = [row for row in rows if not ended(row)]
    stopped = [float(row["wall_seconds"]) for row in failures if row["exit_code"] == TIMED_OUT]
    ratio = None
    if failures:
        if stopped and base:
            ratio = stopped[0] / median(base.values())
    else:
        ratios = [float(row["wall_seconds"]) / base[row["turn"]] for row in rows if row["turn"] in base]
        ratio = median(ratios) if ratios else None
    solver, *options = rows[0]["solver"].split(":")
    program = PROGRAMS[solver]
    errors = numbers(rows, "error_std_error")
    return Line(
        title=title_of(program, rows[0]["versions"], options),
        ours=program.package == "streamlr",
        turns=len(rows),
        seconds=None if failures else median(numbers(rows, "wall_seconds")),
        stopped=stopped[0] if stopped else None,
        ratio=ratio,
        fit_seconds=None if failures else middle(numbers(rows, "fit_seconds")),
        peak=middle(numbers(rows, "peak_rss_bytes")),
        error=max(numbers(rows, "error_se"), default=None),
        std_error_error=max(errors, default=None),
        std_errors=program.std_errors or bool(errors),
    )


def title_of(program: Program, versions: str, options: list[str]) -> str:
    """`streamlr fit --memory 512MB`, `glum 3.4.1, std_errors=yes`."""
    found = re.search(rf"\b{re.escape(program.package)} (\S+?)(,|$)", versions)
    if program.package == "streamlr":
        flags = [option.split("=", 1) for option in options]
        words = "".join(f" --{name.replace('_', '-')} {value}" for name, value in flags)
        return program.title.format(options=words, arguments=", ".join(options))
    title = program.title.format(version=found.group(1) if found else "")
    return ", ".join([title.replace("  ", " ").strip(), *(option.replace("_", " ") for option in options)])


def ended(row: Row) -> bool:
    return row["exit_code"] == "0"


def numbers(rows: list[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]


def middle(values: list[float]) -> float | None:
    return median(values) if values else None


def markdown(groups: list[Group]) -> str:
    """What stands between the two marks of the README."""
    turns = sorted({line.turns for group in groups for line in group.lines})
    lines = [
        BEGIN,
        f"Whole processes from Parquet file to coefficients, on {'; '.join(machines(groups))}. Medians of "
        f"{' to '.join(str(n) for n in dict.fromkeys((turns[0], turns[-1])))} interleaved runs; ratios are "
        "medians of those within a turn ([all runs](benchmarks/results)). *Fit* leaves out loading, where a "
        "program does that first.",
        "",
        f"![Seconds and peak memory of every program on every problem]({PICTURE})",
        "",
        "| problem | program | seconds | against streamlr | fit, seconds | peak memory "
        "| off by, in standard errors | standard errors, relative error |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for group in groups:
        for place, line in enumerate(group.lines):
            cells = [heading(group) if place == 0 else "", line.title, seconds_of(line), ratio_of(line)]
            cells.append("" if line.fit_seconds is None else seconds(line.fit_seconds))
            cells.append("" if line.peak is None else size(line.peak))
            cells.append("" if line.error is None else power(line.error))
            cells.append(std_errors_of(line))
            lines.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")
    return "\n".join([*lines, END])


def machines(groups: list[Group]) -> list[str]:
    return sorted({group.machine for group in groups})


def heading(group: Group) -> str:
    """`higgs`: 11,000,000 x 28 float32."""
    if group.rows is None:
        return f"`{group.problem}`"
    return f"`{group.problem}`: {group.rows:,} x {group.shape}"


def seconds_of(line: Line) -> str:
    if line.seconds is not None:
        return seconds(line.seconds)
    return "failed" if line.stopped is None else f"stopped after {line.stopped:.0f}"


def ratio_of(line: Line) -> str:
    if line.ratio is None:
        return ""
    if line.ours and line.ratio == 1.0:
        return "1"
    return f"{'> ' if line.stopped else ''}{line.ratio:.2g} x".replace("e+02", "00")


def std_errors_of(line: Line) -> str:
    if line.std_error_error is not None:
        return power(line.std_error_error)
    return "yes" if line.std_errors else "none"


def seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def power(value: float) -> str:
    """8e-14; 0 where it is 0, and 40 where it is that much."""
    if 1 <= value < math.inf:
        return f"{value:.0f}"
    if value == 0 or math.isinf(value):
        return "0" if value == 0 else "∞"
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.0e}")


OURS, OTHERS, INK, QUIET, LINES = "#0b7a75", "#b9c4cc", "#1f2933", "#66727c", "#e3e7ea"
BAR = 0.76  # of a row
BACKGROUND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def draw_picture(groups: list[Group], path: Path) -> None:
    """Bars of seconds on a logarithmic scale, the quickest of each problem on top, labelled directly."""
    from matplotlib.figure import Figure

    times = [line.seconds or line.stopped for group in groups for line in group.lines]
    least = 10 ** math.floor(math.log10(0.5 * min(time for time in times if time)))
    most = max(time for time in times if time)
    figure = Figure(
        figsize=(9.0, 0.6 + 0.25 * (len(times) + 1.5 * len(groups))), dpi=160, layout="constrained"
    )
    axes = figure.add_subplot()
    row, places, names = 0.0, [], []
    for group in groups:
        title = heading(group).replace("`", "")
        axes.text(least, row, title, va="center", weight="bold", color=INK, fontsize=9.5, bbox=BACKGROUND)
        for line in group.lines:
            row += 1.0
            draw_bar(axes, row, line, least)
            places.append(row)
            names.append(line)
        row += 1.5
    axes.set_xscale("log")
    axes.set_xlim(least, most * 1.15)
    axes.set_ylim(row - 0.8, -0.7)
    axes.set_yticks(places, [line.title.replace("`", "") for line in names], fontsize=8.5)
    for label, line in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(OURS if line.ours else INK)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", labelsize=8.5, colors=QUIET, length=0)
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.grid(axis="x", color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(path)


def draw_bar(axes: Axes, row: float, line: Line, least: float) -> None:
    """The bar of one program, and after it seconds, ratio and memory."""
    time = line.seconds or line.stopped
    parts = [seconds_of(line) + ("" if time is None else " s")]
    if line.ratio not in (None, 1.0):
        parts.append(ratio_of(line))
    if line.peak is not None:
        parts.append(size(line.peak))
    if time is not None:
        stopped = {"hatch": "///", "edgecolor": "white", "linewidth": 0} if line.stopped else {}
        axes.barh(row, time - least, BAR, left=least, color=OURS if line.ours else OTHERS, **stopped)
    axes.annotate(
        "   ".join(parts),
        (time or least, row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=OURS if line.ours else INK,
        bbox=BACKGROUND,
        annotation_clip=False,
    )


def put_into(text: str, table: str) -> str:
    """The README's text with the table between its marks. Raises `ValueError` without marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: the README needs the lines {BEGIN} and {END}")
    return before + table + after


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the README's table and its picture from the results.")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE.parent / "README.md")
    parser.add_argument("--picture", type=Path, default=HERE.parent / PICTURE)
    options = parser.parse_args()
    groups = groups_of(read_results(options.results))
    text = options.readme.read_text(encoding="utf-8")
    options.readme.write_text(put_into(text, markdown(groups)), encoding="utf-8")
    draw_picture(groups, options.picture)


if __name__ == "__main__":
    main()
