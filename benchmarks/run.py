"""Times solvers on a problem, from process start to process end, and keeps what was measured.

`python benchmarks/run.py --problem higgs --solvers streamlr,glum --repeat 3` runs each solver once
unmeasured, then all of them in turn (A B A B …), so that a slow spell of a shared machine hits them
alike. Each run is a fresh process, charged with all that it starts: this process adopts what a program
leaves behind (`process_tree.py`), so a Java server counts wherever it hangs. All rows of one invocation
share a `run`, since only their ratios mean anything on a shared machine. This module imports the
standard library only: until it starts its own program a child is charged with its parent's memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Any

from process_tree import Run, measure

HERE = Path(__file__).parent
PACKAGES = (
    "streamlr", "glum", "tabmat", "scikit-learn", "statsmodels", "dask-ml", "h2o", "pyspark",
    "numba", "numpy", "scipy", "pyarrow", "pandas",
)  # fmt: skip
STAGES = ("load_seconds", "fit_seconds")
ERRORS = ("error_se", "error_std_error")
TIMED_OUT = 124  # exit code of a run that was stopped, as `timeout` has it


@dataclass(frozen=True)
class Data:
    """A problem's data on disk."""

    path: str
    target: str
    features: list[str]

    @property
    def name(self) -> str:
        """Of the problem and of its reference solution; with the rows when not the usual number."""
        return Path(self.path).stem


@dataclass(frozen=True)
class Solver:
    """A module of `solvers/` and options for it: `streamlr_cli:memory=512MB:threads=1`."""

    name: str  # as it was typed, and as it stands in the results

    @property
    def module(self) -> str:
        return self.name.split(":")[0]

    @property
    def options(self) -> dict[str, str]:
        return dict(option.split("=", 1) for option in self.name.split(":")[1:])

    def command(self, data: Data) -> list[str]:
        """A whole program's own command, or this interpreter with the solver's module."""
        if self.module.endswith("_cli"):
            program = import_module(f"solvers.{self.module}")
            command: list[str] = program.command(data.path, data.target, **self.options)
            return command
        cell = [str(HERE / "cell.py"), self.name, data.path, data.target, ",".join(data.features)]
        return [sys.executable, *cell]

    def solution(self, stdout: str) -> dict[str, Any]:
        """The Solution that a process printed."""
        if self.module.endswith("_cli"):
            solution: dict[str, Any] = import_module(f"solvers.{self.module}").read(stdout)
        else:
            solution = json.loads(stdout.splitlines()[-1])
        return solution


def make_data(problem: str, folder: Path | None, rows: int | None) -> Data:
    """The problem's data, made first if absent."""
    command = [sys.executable, str(HERE / "problems.py"), problem]
    command += ["--data", str(folder)] if folder else []
    command += ["--rows", str(rows)] if rows else []
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        sys.exit(made.returncode)
    return Data(**json.loads(made.stdout))


def largest_error(coef: dict[str, float], reference: dict[str, Any]) -> float:
    """The largest distance to the reference in its standard errors.

    A term that is missing counts as zero; one that the reference does not have makes it infinite.
    """
    if not coef.keys() <= reference["coef"].keys():
        return math.inf
    estimates: dict[str, float] = reference["coef"]
    errors: dict[str, float] = reference["std_error"]
    return max(abs(coef.get(term, 0.0) - estimates[term]) / errors[term] for term in estimates)


def largest_std_error_error(std_error: dict[str, float], reference: dict[str, Any]) -> float:
    """The largest deviation of a standard error from the reference's, relative to it."""
    errors: dict[str, float] = reference["std_error"]
    if std_error.keys() != errors.keys():
        return math.inf
    return max(abs(std_error[term] / errors[term] - 1.0) for term in errors)


def stored_reference(data: Data) -> Path:
    return HERE / "reference" / f"{data.name}.json"


def machine() -> str:
    """Processor, cores and memory."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def versions() -> str:
    """Python, the packages that are installed, Java, and the commit, with + when changed since."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    with suppress(FileNotFoundError):
        said = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
        found += [f"java {number}" for number in re.findall(r'version "([^"]+)"', said)[:1]]
    git = ["git", "--no-optional-locks", "-C", str(HERE.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        status = [*git, "status", "--porcelain", "--", "streamlr"]
        changed = subprocess.run(status, capture_output=True, text=True).stdout
        found.append(f"commit {head.stdout.strip()}{'+' if changed else ''}")
    return ", ".join(found)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a CSV file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the range when there is more than one value."""
    middle = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def result_row(run_id: str, solver: Solver, turn: int, run: Run) -> dict[str, Any]:
    """The measurements of one run, its solution's part still empty."""
    return {
        "run": run_id,
        "date": now(),
        "solver": solver.name,
        "turn": turn,
        "wall_seconds": round(run.wall, 4),
        "user_seconds": round(run.user, 4),
        "system_seconds": round(run.system, 4),
        "peak_rss_bytes": run.peak,
        "processes": run.processes,
        "exit_code": TIMED_OUT if run.timed_out else run.exit_code,
        **dict.fromkeys((*STAGES, *ERRORS), ""),
    }


def found_errors(solution: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, Any]:
    """How far a solution is from the reference; nothing where there is none to compare."""
    if reference is None:
        return {}
    found: dict[str, Any] = {"error_se": largest_error(solution["coef"], reference)}
    if solution["std_error"]:
        found["error_std_error"] = largest_std_error_error(solution["std_error"], reference)
    return found


def report_failure(solver: Solver, run: Run) -> None:
    """The end of what a failed process said; its solver is left out from then on."""
    print(run.stderr[-2000:], file=sys.stderr)
    why = "ran out of time" if run.timed_out else f"failed (exit code {run.exit_code})"
    print(f"{solver.name} {why} after {run.wall:.0f} s and is left out", file=sys.stderr)


def print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def print_results(rows: list[dict[str, Any]]) -> None:
    """Medians and ranges; the ratio is to the first solver's run of the same turn."""
    done = [row for row in rows if row["exit_code"] == 0]
    if not done:
        return
    first = done[0]["solver"]
    base = {row["turn"]: row["wall_seconds"] for row in done if row["solver"] == first}
    table = [
        ["solver", "wall s", "CPU s", "fit s", "peak GB", "error (SE)", "of std. error", f"wall / {first}"]
    ]
    for solver in dict.fromkeys(row["solver"] for row in done):
        own = [row for row in done if row["solver"] == solver]
        ratios = [row["wall_seconds"] / base[row["turn"]] for row in own if row["turn"] in base]
        fits = [row["fit_seconds"] for row in own if row["fit_seconds"] is not None]
        line = [solver, spread([row["wall_seconds"] for row in own])]
        line.append(spread([row["user_seconds"] + row["system_seconds"] for row in own]))
        line.append(spread(fits) if fits else "")
        line.append(spread([row["peak_rss_bytes"] / 1e9 for row in own]))
        for error in ERRORS:
            known = [row[error] for row in own if row[error] != ""]
            line.append(f"{max(known):.1e}" if known else "")
        line.append(spread(ratios) if ratios else "")
        table.append(line)
    print_table(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time solvers on a benchmark problem.")
    parser.add_argument("--problem", required=True, help="a name of problems.PROBLEMS")
    parser.add_argument(
        "--solvers",
        required=True,
        help="modules of solvers/, with commas between; options after colons: streamlr_cli:memory=512MB",
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--once",
        default="",
        help="slow ones of the solvers, with commas between: run in the first turn only, and not before",
    )
    parser.add_argument("--timeout", type=float, help="seconds after which a run is stopped")
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument(
        "--save-reference",
        action="store_true",
        help="store what the first solver finds as the reference solution of these data",
    )
    return parser.parse_args()


def choose_reference(data: Data, solutions: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The stored reference solution, or else the first solution that has standard errors."""
    stored = stored_reference(data)
    if stored.exists():
        reference: dict[str, Any] = json.loads(stored.read_text())
        return reference
    for solver, solution in solutions.items():
        if solution["std_error"]:
            return {"solver": solver, **solution}
    return None


def save_reference(data: Data, solver: Solver, solution: dict[str, Any]) -> None:
    stored = stored_reference(data)
    stored.parent.mkdir(exist_ok=True)
    kept = {"solver": solver.name, "versions": versions()}
    kept |= {name: solution[name] for name in ("coef", "std_error")}
    stored.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    options = parse_arguments()
    solvers = [Solver(name) for name in options.solvers.split(",")]
    once = {name for name in options.once.split(",") if name}
    unknown = once - {solver.name for solver in solvers}
    if unknown:
        sys.exit(f"--once names {', '.join(sorted(unknown))}, which --solvers does not")
    data = make_data(options.problem, options.data, options.rows)
    about = {"problem": data.name, "machine": machine(), "versions": versions()}
    results = options.results / f"{data.name}.csv"
    run_id = now()
    rows: list[dict[str, Any]] = []
    failed: set[str] = set()
    reference: dict[str, Any] | None = None

    def run_one(solver: Solver, turn: int) -> dict[str, Any] | None:
        """One measured run, written down; its solution, or None where it failed."""
        run = measure(solver.command(data), options.timeout)
        row = result_row(run_id, solver, turn, run)
        solution = None
        if run.exit_code:
            report_failure(solver, run)
            failed.add(solver.name)
        else:
            solution = solver.solution(run.stdout)
            row |= {stage: solution[stage] for stage in STAGES}
            row |= found_errors(solution, reference)
        if turn or run.exit_code:  # a run before the first turn is written down only where it failed
            append(results, row | about)
            rows.append(row)
        return solution

    warm: dict[str, dict[str, Any]] = {}
    for solver in solvers:
        if solver.name not in once:
            solution = run_one(solver, 0)
            if solution:
                warm[solver.name] = solution
    if options.save_reference and solvers[0].name in warm:
        save_reference(data, solvers[0], warm[solvers[0].name])
    reference = choose_reference(data, warm)

    for turn in range(1, options.repeat + 1):
        for solver in solvers:
            if solver.name not in failed and (turn == 1 or solver.name not in once):
                run_one(solver, turn)

    print_results(rows)
    if reference:
        print(f"errors are against {reference['solver']}, in its standard errors")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
