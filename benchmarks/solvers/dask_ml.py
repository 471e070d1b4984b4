"""dask-ml's LogisticRegression, Newton on threads, without penalty; it has no standard errors.

Its Newton has no penalty whatever `C` says. Rows are loaded into memory first by the same loader as the
other peers' and cut into one dask chunk for each 250,000 rows: with lazily read chunks every iteration
would read the file again. Its tolerance, of the largest change of a coefficient, is the default of its
Newton, 1e-8.
"""

from __future__ import annotations

from time import perf_counter

import dask.array as da
from dask_ml.linear_model import LogisticRegression

from . import Solution
from .loading import read_dense

CHUNK = 250_000


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood by Newton; factors are dense columns, first level left out."""
    start = perf_counter()
    X, y, terms = read_dense(path, target, features, order="C")
    loaded = perf_counter()
    rows = min(CHUNK, len(y))
    model = LogisticRegression(solver="newton", max_iter=100, solver_kwargs={"tol": 1e-8})
    model.fit(da.from_array(X, chunks=(rows, -1), name=False), da.from_array(y, chunks=rows, name=False))
    fitted = perf_counter()
    coef = dict(zip(terms, model.coef_.ravel().tolist(), strict=True))
    return {
        "coef": {"Intercept": float(model.intercept_), **coef},
        "std_error": None,
        "load_seconds": loaded - start,
        "fit_seconds": fitted - loaded,
    }
