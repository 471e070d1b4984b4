"""The two functions of the package beside `fit`: loading a model and scoring into a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr import arguments
from streamlr.design.encoding import Unseen
from streamlr.model import Model
from streamlr.model_file import read_model
from streamlr.passes.memory import available_cores
from streamlr.prediction import predict_file
from streamlr.sources.open import open_source
from streamlr.whole_file import check_writable


def load(path: str | os.PathLike[str]) -> Model:
    """The model of a file that `Model.save` wrote. Runs no code. Raises `StreamlrError`."""
    return read_model(os.fspath(path))


def predict(
    model: Model,
    data: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    keep: Sequence[str] = (),
    unseen: Unseen = "null",
    threads: int | None = None,
    done: Callable[[int], None] | None = None,
) -> NDArray[np.float64] | tuple[int, int]:
    """Probabilities of every row of `data`, (n,), or written to the Parquet file `output`.

    Args:
        model: a fitted model.
        data: anything that `fit` reads.
        output: a Parquet file to write, row group by row group; then the return value is the number of rows
            and the number of them that could not be scored.
        keep: columns of `data` to carry along into `output`.
        unseen: what becomes of a row with a level that the fit has not seen: no score ("null"), that of the
            reference level ("reference"), or an error ("error").
        threads: worker threads; default the cores this process may use.
        done: called with the number of rows written so far.

    Raises:
        StreamlrError: columns are missing, or the file cannot be written.
    """
    if output is None:
        return model.predict(data, unseen=unseen)
    path = os.fspath(output)
    check_writable(path)
    return predict_file(
        model.design,
        model.basis,
        model.coef_of_basis,
        open_source(data),
        path,
        keep=arguments.columns("keep", keep),
        unseen=unseen,
        threads=available_cores() if threads is None else arguments.whole("threads", threads, least=1),
        done=done,
    )
