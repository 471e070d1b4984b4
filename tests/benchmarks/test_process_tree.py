"""A program is charged with every process that it starts, also with one that outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BUSY = """
import time
kept = b"x" * {size}
end = time.process_time() + {seconds}
while time.process_time() < end:
    pass
"""
MEASURE = """
import json, sys
from process_tree import measure
run = measure([sys.executable, "-c", sys.argv[1]], float(sys.argv[2]))
print(json.dumps({**run.__dict__, "stdout": "", "stderr": ""}))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux adopts orphans")


def measured(code: str, timeout: float = 60.0) -> dict[str, float]:
    """What is measured of `python -c code`, in a process of its own, which alone adopts and waits."""
    command = [sys.executable, "-c", MEASURE, code, str(timeout)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_an_orphan_counts() -> None:
    # The program starts another of 200 MB and 0.4 CPU seconds, and ends without waiting for it.
    child = BUSY.format(size=200_000_000, seconds=0.4)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    found = measured(code)
    assert found["exit_code"] == 0
    assert found["user"] + found["system"] > 0.4
    assert found["peak"] > 200_000_000
    assert found["wall"] < 0.4  # of the program itself


def test_time_runs_out_for_all_of_them() -> None:
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = measured(code, timeout=0.3)
    assert found["timed_out"]
    assert found["exit_code"] != 0
    assert found["processes"] == 2
    assert found["wall"] < 10.0
