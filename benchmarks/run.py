"""Times solvers on a problem, from process start to process end, and keeps what was measured.

`python benchmarks/run.py --problem higgs --solvers streamlr,glum --repeat 3` runs each solver once
unmeasured, then all of them in turn (A B A B …), so that a slow spell of a shared machine hits them
alike. Each run is a fresh process; its CPU time and peak memory are what the kernel accounts to it.
This module imports the standard library only: until it starts its own program a child process is
charged with the memory of its parent.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("streamlr", "glum", "scikit-learn", "numba", "numpy", "scipy", "pyarrow", "pandas")
STAGES = ("load_seconds", "fit_seconds")
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss


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
class Run:
    """One process: seconds, bytes, and what it printed."""

    wall: float
    user: float
    system: float
    peak: int
    exit_code: int
    stdout: str
    stderr: str


def make_data(problem: str, folder: Path | None, rows: int | None) -> Data:
    """The problem's data, made first if absent."""
    command = [sys.executable, str(HERE / "problems.py"), problem]
    command += ["--data", str(folder)] if folder else []
    command += ["--rows", str(rows)] if rows else []
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        sys.exit(made.returncode)
    return Data(**json.loads(made.stdout))


def command_of(solver: str, data: Data) -> list[str]:
    """A whole program's own command, or this interpreter with the solver's module."""
    if solver.endswith("_cli"):
        command: list[str] = import_module(f"solvers.{solver}").command(data.path, data.target)
        return command
    cell = [str(HERE / "cell.py"), solver, data.path, data.target, ",".join(data.features)]
    return [sys.executable, *cell]


def solution_of(solver: str, stdout: str) -> dict[str, Any]:
    """The Solution that a process printed."""
    if solver.endswith("_cli"):
        solution: dict[str, Any] = import_module(f"solvers.{solver}").read(stdout)
    else:
        solution = json.loads(stdout.splitlines()[-1])
    return solution


def measure(command: list[str]) -> Run:
    """Run a command to its end."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        start = perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Run(
            wall=wall,
            user=usage.ru_utime,
            system=usage.ru_stime,
            peak=usage.ru_maxrss * PEAK_UNIT,
            exit_code=process.returncode,
            stdout=out.read(),
            stderr=err.read(),
        )


def largest_error(coef: dict[str, float], reference: dict[str, Any]) -> float:
    """The largest distance to the reference in its standard errors.

    A term that is missing counts as zero; one that the reference does not have makes it infinite.
    """
    if not coef.keys() <= reference["coef"].keys():
        return math.inf
    estimates: dict[str, float] = reference["coef"]
    errors: dict[str, float] = reference["std_error"]
    return max(abs(coef.get(term, 0.0) - estimates[term]) / errors[term] for term in estimates)


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
    """Python, the packages that are installed, and the commit, with + when changed since."""
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
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


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the range when there is more than one value."""
    middle = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def result_row(solver: str, turn: int, run: Run) -> dict[str, Any]:
    """The measurements of one run, its solution's part still empty."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "solver": solver,
        "turn": turn + 1,
        "wall_seconds": round(run.wall, 4),
        "user_seconds": round(run.user, 4),
        "system_seconds": round(run.system, 4),
        "peak_rss_bytes": run.peak,
        "exit_code": run.exit_code,
        **dict.fromkeys((*STAGES, "error_se"), ""),
    }


def report_failure(solver: str, run: Run) -> None:
    """The end of what a failed process said; its solver is left out from then on."""
    print(run.stderr[-2000:], file=sys.stderr)
    print(f"{solver} failed (exit code {run.exit_code}) and is left out", file=sys.stderr)


def print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def print_results(runs: dict[str, list[Run]], errors: dict[str, float]) -> None:
    """Medians and ranges; the ratio is to the first solver's run of the same turn."""
    first = next(iter(runs))
    rows = [["solver", "wall s", "CPU s", "peak GB", "max error (SE)", f"wall / {first}"]]
    for solver, done in runs.items():
        ratios = [run.wall / base.wall for run, base in zip(done, runs[first], strict=True)]
        row = [solver, spread([run.wall for run in done])]
        row += [spread([run.user + run.system for run in done])]
        row += [spread([run.peak / 1e9 for run in done])]
        row += [f"{errors[solver]:.1e}" if solver in errors else "", spread(ratios)]
        rows.append(row)
    print_table(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time solvers on a benchmark problem.")
    parser.add_argument("--problem", required=True, help="a name of problems.PROBLEMS")
    parser.add_argument("--solvers", required=True, help="modules of solvers/, with commas between")
    parser.add_argument("--repeat", type=int, default=3)
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


def save_reference(data: Data, solver: str, solution: dict[str, Any]) -> None:
    stored = stored_reference(data)
    stored.parent.mkdir(exist_ok=True)
    kept = {"solver": solver, "versions": versions()}
    kept |= {name: solution[name] for name in ("coef", "std_error")}
    stored.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> int:
    options = parse_arguments()
    names = options.solvers.split(",")
    data = make_data(options.problem, options.data, options.rows)

    warm: dict[str, dict[str, Any]] = {}
    for solver in names:
        run = measure(command_of(solver, data))
        if run.exit_code:
            report_failure(solver, run)
        else:
            warm[solver] = solution_of(solver, run.stdout)
    if options.save_reference and names[0] in warm:
        save_reference(data, names[0], warm[names[0]])
    reference = choose_reference(data, warm)

    about = {"problem": data.name, "machine": machine(), "versions": versions()}
    runs: dict[str, list[Run]] = {solver: [] for solver in warm}
    errors: dict[str, float] = {}
    for turn in range(options.repeat):
        for solver in list(runs):
            run = measure(command_of(solver, data))
            row = result_row(solver, turn, run)
            if run.exit_code:
                report_failure(solver, run)
                del runs[solver]
            else:
                runs[solver].append(run)
                solution = solution_of(solver, run.stdout)
                row |= {stage: solution[stage] for stage in STAGES}
                if reference:
                    row["error_se"] = largest_error(solution["coef"], reference)
                    errors[solver] = max(errors.get(solver, 0.0), row["error_se"])
            append(options.results / f"{data.name}.csv", row | about)

    if runs and options.repeat:
        print_results(runs, errors)
    if reference:
        print(f"errors are against {reference['solver']}, in its standard errors")
    return 0 if runs.keys() == set(names) else 1


if __name__ == "__main__":
    sys.exit(main())
