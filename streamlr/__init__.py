"""Exact logistic regression on tables larger than memory.

    import streamlr
    model = streamlr.fit("big.parquet", "late ~ dep_delay + C(carrier)")
    print(model.summary())

The house, from the top:

    cli/            one file a command
    fitting.py      the order of the story: names, profile, design, sample, climb, conclusion, model
    model.py        the fitted model; model_file.py writes and reads it; report/ prints it
    prediction.py   scores new rows
    inference/      what is said of a fitted model: robust.py, profile_intervals.py, firth.py from the sums of
                    a fit; hypotheses.py, relevel.py, collinearity.py, comparison.py from saved models alone;
                    marginal_effects.py, diagnosis.py, screening.py with the rows of the fit
    start.py        where Newton starts; sampling.py: from which rows; surrogate.py: a first step bent by them
    climbing.py     from the start to the maximum, or to a direction that separates rows
    aliasing.py     columns that are combinations of others
    separating.py   is there a finite maximum? the passes of a proof, and the fit beside separated rows
    objective.py    loss, gradient and Hessian of a design: one pass an evaluation
    passes/         leaves of work, threads or dask over them, the merging tree; what a pass does: tasks,
                    sums; kept blocks, cells of rows that repeat, the spool, memory
    newton.py       the driver and its certificate; separation.py: arrays in, arrays out
    linear_algebra.py  factors of dense Hessians, and of those bordered by an absorbed factor; lapack.py is
                    scipy's LAPACK alone
    design/         formulas and row filters; names and roles; what functions learn; profile, levels, the
                    frozen design; encoding, conditioning, derivatives
    sources/        anything that holds a table, as parts of record batches; column_chunks.py has kernels read
                    numbers and codes of Parquet files
    arguments.py    what the functions of the package are handed, checked
    kernels/        compiled sums over a block of rows; pages.py reads pages of Parquet; jit.py has them
                    compiled by compiling.py, machine_code.py keeps and loads what that makes

Only sums touch rows: a pass turns blocks of rows into small `Sums` and adds them together, and everything
above a pass sees sums alone. Importing this package imports none of the above.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from streamlr._version import __version__
from streamlr.errors import ConvergenceWarning, SeparationError, StreamlrError

if TYPE_CHECKING:
    from streamlr.api import load, predict
    from streamlr.fitting import fit
    from streamlr.inference.comparison import compare
    from streamlr.inference.diagnosis import diagnose
    from streamlr.inference.marginal_effects import effects
    from streamlr.inference.screening import screen
    from streamlr.model import Model

# Arrow's allocator reads this once, when pyarrow is imported. It would give freed pages back to the system
# after ten milliseconds, and the next batch would fault them in again: a tenth of the time of a pass.
# (Arrow's other allocator, jemalloc, took a twentieth less for eight columns, a tenth more for a thousand,
# and 0.3 GB more than the memory that a fit was given.)
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "10000")

__all__ = [
    "ConvergenceWarning",
    "Model",
    "SeparationError",
    "StreamlrError",
    "__version__",
    "compare",
    "diagnose",
    "effects",
    "fit",
    "load",
    "predict",
    "screen",
]

_HOMES = {
    "compare": "streamlr.inference.comparison",
    "fit": "streamlr.fitting",
    "Model": "streamlr.model",
    "load": "streamlr.api",
    "predict": "streamlr.api",
    "diagnose": "streamlr.inference.diagnosis",
    "screen": "streamlr.inference.screening",
    "effects": "streamlr.inference.marginal_effects",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'streamlr' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
