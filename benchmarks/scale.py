"""Whether time grows with the rows and memory does not, up to a billion rows and beyond the page cache.

`python benchmarks/scale.py` fits the higgs columns at 1 M, 10 M, 100 M (10 links to the 10 M file) and
1,001,000,000 rows (91 links to the 11 M file) with `streamlr fit --memory 512MB`, each a whole process, and
prints seconds, peak memory, passes, and seconds per row beside those of the 10 M rows. Links share one file
in the page cache, so no disk is in those times; `--copies 20` instead makes distinct copies of the 11 M
file, more than the memory of most machines, takes them out of the page cache, fits them, and removes them.
Rows are appended to `results/scale.csv`.

The error is against the stored reference of the file that is repeated: n copies of all rows have the same
maximum, with standard errors smaller by the root of n. Imports the standard library only, as `run.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from process_tree import measure
from run import HERE, Data, Solver, append, found_errors, machine, now, print_table, versions

MILLION = 1_000_000
WHOLE = 11 * MILLION  # rows of the higgs problem
STANDARD = 10 * MILLION  # rows that the others are compared with


@dataclass(frozen=True)
class Size:
    """`times` times a higgs file of `rows` rows, as links or as distinct copies."""

    rows: int
    times: int = 1
    distinct: bool = False

    @property
    def total(self) -> int:
        return self.rows * self.times

    def make(self, folder: Path | None) -> str:
        """The path of the data, made first if absent."""
        command = [sys.executable, str(HERE / "problems.py"), "higgs", "--rows", str(self.rows)]
        command += ["--data", str(folder)] if folder else []
        if self.times > 1 or self.distinct:
            command += ["--copies" if self.distinct else "--links", str(self.times)]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        path: str = json.loads(made.stdout)["path"]
        return path

    def reference(self) -> dict[str, Any] | None:
        """The stored reference of the repeated file, with this many times its rows."""
        name = "higgs" if self.rows == WHOLE else f"higgs_{self.rows}"
        stored = HERE / "reference" / f"{name}.json"
        if not stored.exists():
            return None
        reference: dict[str, Any] = json.loads(stored.read_text())
        root = math.sqrt(self.times)
        errors = {term: error / root for term, error in reference["std_error"].items()}
        return reference | {"std_error": errors}


SIZES = {
    size.total: size
    for size in (Size(MILLION), Size(STANDARD), Size(STANDARD, 10), Size(WHOLE, 91))
}  # fmt: skip


def evict(path: str) -> None:
    """Write out and drop from the page cache all files of a directory."""
    for file in Path(path).iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def check_disk(copies: int, rows: int, folder: Path | None) -> None:
    """Say what the copies take, and stop where the disk has no room for them and a tenth more."""
    source = Size(rows).make(folder)
    need = copies * os.stat(source).st_size
    free = shutil.disk_usage(source).free
    print(f"{copies} copies take {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
    if 1.1 * need > free:
        sys.exit("that is too little; ask for fewer copies or name another folder with --data")


def fit(size: Size, path: str, options: argparse.Namespace, run_id: str) -> dict[str, Any]:
    """One whole process, as a row of results."""
    name = f"streamlr_cli:memory={options.memory}"
    solver = Solver(name + (f":threads={options.threads}" if options.threads else ""))
    run = measure(solver.command(Data(path, "y", [])), options.timeout)
    row: dict[str, Any] = {
        "run": run_id,
        "date": now(),
        "rows": size.total,
        "files": size.times,
        "kind": "copies" if size.distinct else "links" if size.times > 1 else "file",
        "solver": solver.name,
        "wall_seconds": round(run.wall, 3),
        "user_seconds": round(run.user, 3),
        "system_seconds": round(run.system, 3),
        "peak_rss_bytes": run.peak,
        "disk_bytes": run.disk,
        "exit_code": run.exit_code,
        "passes": "",
        "error_se": "",
        "error_std_error": "",
    }
    if run.exit_code:
        print(run.stderr[-2000:], file=sys.stderr)
        return row
    row["passes"] = json.loads(run.stdout)["glance"]["passes"]
    return row | found_errors(solver.solution(run.stdout), size.reference())


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """What is printed: per row and pass, and how far from linear in the rows."""
    lines = [
        ["rows", "as", "seconds", "peak MB", "disk GB", "passes", "ns a row", "ns a row and pass",
         "seconds / linear", "error (SE)"],
    ]  # fmt: skip
    done = [row for row in rows if row["exit_code"] == 0]
    standard = next((row for row in done if row["rows"] >= STANDARD), done[0] if done else None)
    for row in rows:
        if row["exit_code"]:
            lines.append([f"{row['rows']:,}", row["kind"], f"failed ({row['exit_code']})", *[""] * 7])
            continue
        wall, n = row["wall_seconds"], row["rows"]
        linear = standard["wall_seconds"] * n / standard["rows"] if standard else wall
        lines.append(
            [
                f"{n:,}",
                row["kind"] if row["files"] == 1 else f"{row['files']} {row['kind']}",
                f"{wall:.2f}",
                f"{row['peak_rss_bytes'] / 1e6:.0f}",
                f"{row['disk_bytes'] / 1e9:.1f}",
                str(row["passes"]),
                f"{1e9 * wall / n:.1f}",
                f"{1e9 * wall / n / row['passes']:.1f}",
                f"{wall / linear:.3f}",
                f"{row['error_se']:.1e}" if row["error_se"] != "" else "",
            ]
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit ever more rows of the higgs columns.")
    parser.add_argument(
        "--rows",
        default=",".join(map(str, SIZES)),
        help="numbers of rows, with commas between; others than the four usual ones make a file each",
    )
    parser.add_argument(
        "--copies", type=int, help="so many distinct copies of the whole file, and nothing else"
    )
    parser.add_argument("--copies-rows", type=int, default=WHOLE, help="rows of the file that is copied")
    parser.add_argument("--keep", action="store_true", help="do not remove the copies afterwards")
    parser.add_argument("--memory", default="512MB")
    parser.add_argument("--threads")
    parser.add_argument("--timeout", type=float, help="seconds after which a fit is stopped")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    about = {"machine": machine(), "versions": versions()}
    run_id = now()
    rows = []
    if options.copies:
        check_disk(options.copies, options.copies_rows, options.data)
        sizes = [Size(options.copies_rows, options.copies, distinct=True)]
    else:
        sizes = [SIZES.get(n, Size(n)) for n in map(int, options.rows.split(","))]
    for size in sizes:
        path = size.make(options.data)
        try:
            if size.distinct:
                evict(path)
            row = fit(size, path, options, run_id)
        finally:
            if size.distinct and not options.keep:
                shutil.rmtree(path)
        append(options.results / "scale.csv", row | about)
        rows.append(row)
    print_table(table(rows))
    return 0 if all(row["exit_code"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
