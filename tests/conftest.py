"""Data and references that several test files share.

The tables are small and fixed by their seeds. `maximum_likelihood` is the obvious Newton iteration
in twelve lines of NumPy: what the command line and the library print is compared with it, never
with numbers that the library printed before. The hypothesis profile is repeatable by default;
`HYPOTHESIS_PROFILE=explore` draws fresh examples, and many more of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

# One example is several whole fits, so their number is small; the deadline would only measure
# the first compilation. derandomize: the same commit passes or fails everywhere.
settings.register_profile("repeatable", max_examples=12, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=300, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes many seconds or large files")


@pytest.fixture(scope="session")
def flights_like() -> pa.Table:
    """600 rows shaped like flights: numbers, text and a truth value, with nulls in two columns.

    late (int8 0/1), dep_delay (float, 24 nulls), distance (int, 8 values), month (int 1..12),
    carrier (text, 4 levels, 15 nulls of which 5 share a row with a null dep_delay),
    origin (text: EWR, JFK, LGA), weekend (bool). No level is close to separation.
    """
    rng = np.random.default_rng(20130101)
    n = 600
    dep_delay = rng.normal(8.0, 25.0, n)
    distance = rng.choice([184, 229, 502, 719, 1096, 1400, 2248, 2475], n)
    month = rng.integers(1, 13, n)
    carrier = rng.choice(["AA", "B6", "DL", "UA"], n, p=[0.2, 0.3, 0.3, 0.2])
    origin = rng.choice(["EWR", "JFK", "LGA"], n)
    weekend = rng.random(n) < 0.3
    eta = (
        -0.8
        + 0.03 * dep_delay
        + 0.0002 * distance
        + 0.5 * (carrier == "B6")
        - 0.4 * (origin == "JFK")
        + 0.3 * weekend
    )
    late = rng.random(n) < 1 / (1 + np.exp(-eta))
    rows = np.arange(n)
    return pa.table(
        {
            "late": pa.array(late.astype(np.int8)),
            "dep_delay": pa.array(dep_delay, mask=rows % 25 == 3),
            "distance": pa.array(distance.astype(np.int32)),
            "month": pa.array(month.astype(np.int16)),
            "carrier": pa.array(carrier, mask=(rows % 60 == 17) | (rows % 125 == 28)),
            "origin": pa.array(origin),
            "weekend": pa.array(weekend),
        }
    )


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """A writer: parquet(table, "name.parquet", rows_per_group=100) -> its path under tmp_path."""

    def write(
        table: pa.Table,
        name: str = "data.parquet",
        rows_per_group: int | None = None,
        **options: object,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=rows_per_group, **options)
        return path

    return write


@dataclass(frozen=True)
class Reference:
    """coef (k,), std_error (k,), log_likelihood: the maximum by plain Newton."""

    coef: np.ndarray
    std_error: np.ndarray
    log_likelihood: float


@pytest.fixture(scope="session")
def maximum_likelihood() -> Callable[..., Reference]:
    """maximum_likelihood(X, y, weight=None, offset=None): X (n, k) with its intercept column."""

    def fit(
        X: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None = None,
        offset: np.ndarray | None = None,
    ) -> Reference:
        X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
        w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=float)
        o = np.zeros(len(y)) if offset is None else np.asarray(offset, dtype=float)
        scale = np.abs(X).max(axis=0)
        Z = X / scale
        coef = np.zeros(X.shape[1])
        for _ in range(40):
            p = 1 / (1 + np.exp(-(Z @ coef + o)))
            hessian = (Z * (w * p * (1 - p))[:, None]).T @ Z
            step = np.linalg.solve(hessian, Z.T @ (w * (y - p)))
            coef = coef + step
        std_error = np.sqrt(np.diag(np.linalg.inv(hessian)))
        # In standard errors: how far rounding leaves nearly collinear columns depends on the machine's BLAS.
        assert np.max(np.abs(step) / std_error) < 1e-10, "the reference itself did not converge"
        eta = Z @ coef + o
        log_likelihood = float(np.sum(w * (y * eta - np.logaddexp(0.0, eta))))
        return Reference(coef / scale, std_error / scale, log_likelihood)

    return fit


@pytest.fixture(scope="session")
def flights_design(flights_like: pa.Table) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Terms, X (rows used, 7) and y of late ~ dep_delay + carrier + origin + weekend."""
    used = flights_like.select(["late", "dep_delay", "carrier", "origin", "weekend"]).drop_null()
    column = {name: np.array(used[name].to_pylist()) for name in used.column_names}
    terms = ["Intercept", "dep_delay"]
    design = [np.ones(used.num_rows), column["dep_delay"]]
    for factor, level in [
        ("carrier", "B6"),
        ("carrier", "DL"),
        ("carrier", "UA"),
        ("origin", "JFK"),
        ("origin", "LGA"),
        ("weekend", True),
    ]:
        terms.append(f"{factor}[T.{level}]")
        design.append((column[factor] == level).astype(float))
    return terms, np.column_stack(design), column["late"]
