"""What inference costs beside the fit: robust errors, effects, score tests, diagnosis, on the higgs problem.

`python benchmarks/inference.py` runs each command as a user types it, in turns, and prints medians of whole
processes. What the README says of them comes from here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from problems import PROBLEMS, data_folder, ensure
from process_tree import Run, measure

SCREENED = "I(f01**2),f02:f03,I(f05**2)"


def commands(path: Path, target: str, model: Path) -> dict[str, list[str]]:
    """What is measured, by its name in the table; the first one writes the model that others read."""
    program = str(Path(sys.executable).with_name("streamlr"))
    fit = [program, "fit", str(path), "-y", target, "--quiet"]
    later = {name: [program, name, str(model), str(path)] for name in ("effects", "screen", "diagnose")}
    later["screen"] += ["--candidates", SCREENED]
    return {
        "fit": [*fit, "-o", str(model)],
        "fit --cov HC1": [*fit, "--cov", "HC1"],
        "fit --cov HC3": [*fit, "--cov", "HC3"],
        **later,
    }


def main() -> None:
    """Print seconds and peak memory of each command."""
    parser = argparse.ArgumentParser(description="Time what is said of a fitted model, on higgs.")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    options = parser.parse_args()
    path = ensure("higgs", options.data or data_folder(), options.rows)
    with TemporaryDirectory() as folder:
        work = commands(path, PROBLEMS["higgs"].target, Path(folder) / "model.json")
        runs: dict[str, list[Run]] = {name: [] for name in work}
        for turn in range(options.repeat + 1):
            for name, command in work.items():
                run = measure(command)
                if run.exit_code:
                    raise SystemExit(f"{name}: {run.stderr}")
                if turn:  # the first one compiles and brings the file into memory
                    runs[name].append(run)
    print(f"{'higgs':16}{'seconds':>22}{'peak MB':>10}")
    for name, found in runs.items():
        walls = [run.wall for run in found]
        spread = f"{median(walls):.2f} ({min(walls):.2f}–{max(walls):.2f})"
        print(f"{name:16}{spread:>22}{max(run.peak for run in found) / 1e6:>10.0f}")


if __name__ == "__main__":
    main()
