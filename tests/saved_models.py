"""What R says of fitted models: each JSON in tests/reference/tests is one case, made by
`scripts/make_test_references.R`, which names the R functions.

A case names its data (a CSV in tests/reference/data), the keywords that `streamlr.fit` gets, and the numbers.
The tests ask models that were written to a file and read again, so that nothing is left but the file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from inference_references import read_case

import streamlr

CASES: dict[str, Mapping[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "reference" / "tests").glob("*.json"))
}
assert CASES, "no reference results"

# glm stops where its estimate does not move any more, which is some 1e-9 standard errors from the maximum.
TOLERANCE = 1e-8


def reread(model: streamlr.Model) -> streamlr.Model:
    """The model as it comes out of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save(path)
        return streamlr.load(path)


@cache
def saved(name: str) -> streamlr.Model:
    """The model of a case, from its file."""
    case = CASES[name]
    return reread(streamlr.fit(read_case(case), **case["fit"]))


@cache
def saved_smaller(name: str) -> tuple[streamlr.Model, ...]:
    """The models that are nested in that of a case, from their files, each in the one before."""
    case = CASES[name]
    return tuple(reread(streamlr.fit(read_case(case), **less["fit"])) for less in case["smaller"])


def check_table(model: streamlr.Model, table: Mapping[str, Sequence[Any]]) -> None:
    """Coefficients to a part of their standard errors, standard errors relatively."""
    assert list(model.terms) == table["terms"]
    errors = np.array(table["std_error"])
    assert np.all(np.abs(model.params - table["coefficients"]) <= TOLERANCE * errors)
    np.testing.assert_allclose(model.bse, errors, rtol=TOLERANCE)


def wald(model: streamlr.Model, matrix: Any, value: Any = 0.0) -> float:
    """(L b - r)' (L V L')^-1 (L b - r), as it is written."""
    rows = np.atleast_2d(np.asarray(matrix, dtype=float))
    difference = rows @ model.params - value
    return float(difference @ np.linalg.solve(rows @ model.cov_params() @ rows.T, difference))
