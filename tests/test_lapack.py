"""LAPACK without `scipy.linalg` around it is the same LAPACK, and `scipy.linalg` may still come later."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest
import scipy.linalg

from streamlr import lapack

TOGETHER = """
import sys
{first}
from streamlr.lapack import blas, lapack
assert ("scipy.linalg" in sys.modules) is {there}
import numpy as np
import scipy.linalg
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpotrf
assert (dpotrf is lapack.dpotrf, dtrmm is blas.dtrmm) == (True, True)
A = np.array([[4.0, 2.0], [2.0, 5.0]])
assert np.array_equal(scipy.linalg.cholesky(A, lower=True), [[2.0, 0.0], [1.0, 2.0]])
assert np.array_equal(lapack.dpotrf(A, lower=1, clean=1)[0], [[2.0, 0.0], [1.0, 2.0]])
assert {there} or sys.modules["scipy.linalg._flapack"] is lapack
from threadpoolctl import threadpool_info
assert len({{pool["filepath"] for pool in threadpool_info()}}) == len(threadpool_info())
"""


@pytest.mark.parametrize(("first", "there"), [("", False), ("import scipy.linalg", True)])
def test_scipy_has_no_second_copy_whichever_comes_first(first: str, there: bool) -> None:
    program = TOGETHER.format(first=first, there=there)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_scipy_whose_files_are_elsewhere_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable or a frozen scipy has no such file in its folder."""
    monkeypatch.delitem(sys.modules, "scipy.linalg")
    monkeypatch.setattr(lapack, "find_spec", lambda name: ModuleSpec(name, None, is_package=True))
    monkeypatch.setattr(lapack, "import_module", {"scipy.linalg.lapack": scipy.linalg.lapack}.__getitem__)
    assert lapack._compiled("lapack") is scipy.linalg.lapack
