"""The obvious Newton in SciPy: one sparse one-hot matrix and full steps.

For designs of thousands of levels, of which `naive` would sum dense products for an hour. It shares no code
with streamlr, and its solutions are stored references as well.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import scipy.sparse

from . import Solution
from .loading import read_sparse

TOLERANCE = 1e-9  # length of the last Newton step, in standard errors
MAX_PASSES = 30


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood and standard errors from the inverse of the last Hessian."""
    start = perf_counter()
    X, y, terms = read_sparse(path, target, features)
    X = scipy.sparse.hstack([np.ones((X.shape[0], 1)), X]).tocsr()
    coef = np.zeros(X.shape[1])
    for _ in range(MAX_PASSES):
        p = 1.0 / (1.0 + np.exp(-(X @ coef)))
        hessian = (X.T @ X.multiply((p * (1.0 - p))[:, np.newaxis]).tocsr()).toarray()
        gradient = X.T @ (y - p)
        step = np.linalg.solve(hessian, gradient)
        coef += step
        if np.sqrt(gradient @ step) < TOLERANCE:
            break
    else:
        raise RuntimeError(f"not at the maximum after {MAX_PASSES} passes")
    std_error = np.sqrt(np.diag(np.linalg.inv(hessian)))
    names = ["Intercept", *terms]
    return {
        "coef": dict(zip(names, coef.tolist(), strict=True)),
        "std_error": dict(zip(names, std_error.tolist(), strict=True)),
        "load_seconds": None,
        "fit_seconds": perf_counter() - start,
    }
