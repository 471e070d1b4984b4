"""Kernels that are cached come back in another process, without what only compiling needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

pytestmark = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="nothing is compiled")

MODULE = """
import numpy as np
from streamlr.kernels.jit import kernel

@kernel
def doubled(x):
    total = 0.0
    for value in x:
        total += 2.0 * value
    return total

@kernel
def halved(x):
    return doubled(x) / 4.0
"""
# Its result, how often it was found in the cache, and two things that Numba does before it compiles anything.
CALLS = """
import sys
import numpy as np
from numba.core.runtime import rtsys
{before}
from own import doubled, halved
x = np.arange(5.0)
result, hits = doubled(x), sum(doubled.stats.cache_hits.values())
print(result, hits, "numba.np.linalg" in sys.modules, rtsys._init)
{after}
"""


def calls(folder: Path, *, before: str = "", after: str = "") -> list[str]:
    """What a fresh process that calls a kernel prints."""
    if not (folder / "own.py").exists():  # one that was written again is compiled again
        (folder / "own.py").write_text(MODULE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *sys.path])
    program = CALLS.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.split()


def test_a_cached_kernel_loads_nothing_that_only_compiling_needs(tmp_path: Path) -> None:
    assert calls(tmp_path) == ["20.0", "0", "True", "True"]
    assert calls(tmp_path) == ["20.0", "1", "False", "False"]


def test_a_kernel_may_be_compiled_after_one_was_loaded(tmp_path: Path) -> None:
    calls(tmp_path)
    compiling = "print(halved(x), sum(halved.stats.cache_hits.values()), doubled(x))"
    assert calls(tmp_path, after=compiling) == ["20.0", "1", "False", "False", "5.0", "0", "20.0"]
    assert calls(tmp_path, after=compiling) == ["20.0", "1", "False", "False", "5.0", "1", "20.0"]


def test_where_the_names_of_the_run_time_library_are_unknown_numba_sets_it_up(tmp_path: Path) -> None:
    calls(tmp_path)
    unknown = (
        "import streamlr.kernels.jit as jit\n"
        "from types import SimpleNamespace\n"
        "jit._nrt_python = SimpleNamespace(c_helpers={})"
    )
    assert calls(tmp_path, before=unknown) == ["20.0", "1", "False", "True"]


def test_types_are_not_registered_while_kernels_are_compiled_or_loaded(tmp_path: Path) -> None:
    """Threads that ask for types of arguments meanwhile would see a registry that changes."""
    before = "from streamlr.kernels import jit\nfrom numba.core.typing.typeof import typeof_impl\n"
    before += "known = len(typeof_impl.registry)"
    after = "print(len(typeof_impl.registry) - known)"
    for _ in range(2):
        assert calls(tmp_path, before=before, after=after)[-1] == "0"
