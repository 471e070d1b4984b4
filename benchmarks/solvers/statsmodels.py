"""statsmodels' Logit, a dense matrix with a column of ones, and its standard errors.

Newton's method and its own tolerance: no coefficient moved by more than 1e-8 in the last step, which is
at the maximum to rounding. The check of the rank, a singular value decomposition of all rows, is left
out, as its documentation allows: it has no part in the estimate and takes longer than the fit.
"""

from __future__ import annotations

from time import perf_counter

from statsmodels.discrete.discrete_model import Logit

from . import Solution
from .loading import read_dense


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood by Newton; factors are dense columns, first level left out."""
    start = perf_counter()
    X, y, terms = read_dense(path, target, features, order="F", intercept=True)
    loaded = perf_counter()
    model = Logit(y, X, check_rank=False)
    result = model.fit(method="newton", tol=1e-8, maxiter=100, disp=False)
    std_error = result.bse
    fitted = perf_counter()
    terms = ["Intercept", *terms]
    return {
        "coef": dict(zip(terms, result.params.tolist(), strict=True)),
        "std_error": dict(zip(terms, std_error.tolist(), strict=True)),
        "load_seconds": loaded - start,
        "fit_seconds": fitted - loaded,
    }
