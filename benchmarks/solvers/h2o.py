"""H2O's GLM on a server of its own on this machine, two threads or what cores there are, and p-values.

The Parquet file is read by H2O's own parser in Java, the only loader that does not go through text.
Factors are made H2O's enums, levels in sorted order, the first of them the reference. `lambda_=0` is
maximum likelihood and `compute_p_values` gives standard errors. The tolerances are far below the
defaults, which stop a thousandth of a standard error away; IRLSM then takes a step or two more. The
process starts the server, waits for it to end, and is charged with it.
"""

from __future__ import annotations

import os
import socket
from time import perf_counter

import h2o
from h2o.estimators import H2OGeneralizedLinearEstimator

from . import Solution
from .loading import booleans, factors

SERVER_MEMORY = "14g"  # the most its heap may grow to; what it takes is measured


def solve(path: str, target: str, features: list[str]) -> Solution:
    """Maximum likelihood by iteratively reweighted least squares."""
    h2o.init(
        ip="127.0.0.1",
        port=free_port(),
        nthreads=len(os.sched_getaffinity(0)),
        max_mem_size=SERVER_MEMORY,
        bind_to_localhost=True,
        verbose=False,
    )
    h2o.no_progress()
    try:
        return fit(path, target, features)
    finally:
        h2o.cluster().shutdown()


def fit(path: str, target: str, features: list[str]) -> Solution:
    """Load and fit on the running server."""
    start = perf_counter()
    frame = h2o.import_file(os.path.abspath(path), pattern=r".*\.parquet" if os.path.isdir(path) else None)
    for name in [target, *factors(path, features)]:
        if not frame[name].isfactor()[0]:
            frame[name] = frame[name].asfactor()
    frame.refresh()  # waits until it is there
    loaded = perf_counter()
    model = H2OGeneralizedLinearEstimator(
        family="binomial",
        solver="IRLSM",
        lambda_=0,
        compute_p_values=True,
        remove_collinear_columns=False,
        beta_epsilon=1e-10,
        objective_epsilon=1e-14,
        gradient_epsilon=1e-12,
        max_iterations=100,
        seed=1,
    )
    model.train(x=features, y=target, training_frame=frame)
    table = model._model_json["output"]["coefficients_table"]
    fitted = perf_counter()
    flags = booleans(path, features)
    coef, std_error = {}, {}
    for values in table.cell_values:
        row = dict(zip(table.col_header, values, strict=True))
        term = term_of(row["names"], features, flags)
        coef[term], std_error[term] = float(row["coefficients"]), float(row["std_error"])
    return {
        "coef": coef,
        "std_error": std_error,
        "load_seconds": loaded - start,
        "fit_seconds": fitted - loaded,
    }


def term_of(name: str, features: list[str], flags: list[str]) -> str:
    """streamlr's name: `carrier.AA` is `carrier[T.AA]`; of a boolean only True has a coefficient."""
    if name in features or name == "Intercept":
        return name
    feature = max((f for f in features if name.startswith(f + ".")), key=len)
    level = "True" if feature in flags else name[len(feature) + 1 :]
    return f"{feature}[T.{level}]"


def free_port() -> int:
    """A port of the loopback with the one after it, of which H2O takes both, most likely free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
