"""The obvious Newton in NumPy: a dense design, some thousand rows at a time, and full steps.

Slow, but short enough to check by eye and right to rounding, so its solutions are the stored
references. It shares no code with streamlr. The design is kept with a column of the data in each row,
since that is how they are read: turning 1,000 of them over took longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import Solution
from .loading import Floats, factors, parquet_files

TOLERANCE = 1e-9  # length of the last Newton step, in standard errors
MAX_PASSES = 30
VALUES_AT_ONCE = 1 << 20  # 8 MB, which stay in cache


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood and standard errors from the inverse of the last Hessian."""
    start = perf_counter()
    levels = {name: column_levels(path, name) for name in factors(path, features)}
    terms = ["Intercept"]
    for name in features:
        terms += [f"{name}[T.{level}]" for level in levels[name][1:]] if name in levels else [name]
    coef = np.zeros(len(terms))
    for _ in range(MAX_PASSES):
        gradient, hessian = np.zeros(len(terms)), np.zeros((len(terms), len(terms)))
        for X, y in blocks(path, target, features, levels):
            with np.errstate(over="ignore"):  # exp(-eta) may overflow to infinity: p is then 0
                p = 1.0 / (1.0 + np.exp(-(coef @ X)))
            gradient += X @ (y - p)
            root = X * np.sqrt(p * (1.0 - p))
            hessian += root @ root.T  # which NumPy computes as half a product
        step = np.linalg.solve(hessian, gradient)
        coef += step
        if np.sqrt(gradient @ step) < TOLERANCE:
            break
    else:
        raise RuntimeError(f"not at the maximum after {MAX_PASSES} passes")
    std_error = np.sqrt(np.diag(np.linalg.inv(hessian)))
    return {
        "coef": dict(zip(terms, coef.tolist(), strict=True)),
        "std_error": dict(zip(terms, std_error.tolist(), strict=True)),
        "load_seconds": None,
        "fit_seconds": perf_counter() - start,
    }


def column_levels(path: str, name: str) -> list[str]:
    """The distinct values of a factor as text, sorted."""
    column = pq.read_table(path, columns=[name], read_dictionary=[name])[name]
    return sorted(str(value) for value in pc.unique(column).to_pylist())


def blocks(
    path: str, target: str, features: list[str], levels: dict[str, list[str]]
) -> Iterator[tuple[Floats, Floats]]:
    """For some thousand rows at a time the design (k, n), intercept first, and the target (n,)."""
    rows = VALUES_AT_ONCE // (1 + len(features) + sum(map(len, levels.values())))
    for file in parquet_files(path):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(rows, columns=[*features, target]):
                parts = [np.ones((1, batch.num_rows))]
                for name in features:
                    if name in levels:
                        parts.append(indicators(batch[name], levels[name]))
                    else:
                        parts.append(batch[name].to_numpy()[np.newaxis])
                yield np.concatenate(parts), batch[target].to_numpy().astype(np.float64)


def indicators(column: pa.Array, levels: list[str]) -> Floats:
    """(levels - 1, n) ones where a row has the level, for all levels but the first."""
    if pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)[np.newaxis].astype(float)
    codes = pc.index_in(column, value_set=pa.array(levels)).to_numpy()
    return np.array([codes == place for place in range(1, len(levels))], dtype=float)
