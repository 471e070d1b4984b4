"""One measurement: runs one solver once in this interpreter and prints its Solution as JSON.

`python benchmarks/cell.py SOLVER[:OPTION=VALUE]… PATH TARGET FEATURE,FEATURE…` is started by `run.py`,
which measures the whole process from outside; it can be run by hand to see what a solver finds.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main() -> None:
    variant, path, target, features = sys.argv[1:]
    solver, *pairs = variant.split(":")
    options = dict(pair.split("=", 1) for pair in pairs)
    solution = import_module(f"solvers.{solver}").solve(path, target, features.split(","), **options)
    print(json.dumps(solution))


if __name__ == "__main__":
    main()
