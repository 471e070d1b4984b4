"""R's robust covariances and profile intervals: each JSON in tests/reference/inference is one case.

A case names its data (a CSV in tests/reference/data), the keywords that `streamlr.fit` gets, the R call that
made the numbers and the numbers. `scripts/make_inference_references.py` wrote all of them; to add a case, add
it to `scripts/make_inference_references.R` and run the script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

REFERENCE = Path(__file__).parent / "reference"
# Many row groups even for small cases, so that a cluster is met in several.
ROWS_PER_GROUP = 37

Case = Mapping[str, Any]


def cases(prefix: str = "") -> dict[str, Case]:
    """The cases whose file name begins with `prefix`, by the rest of the name; without one, covariances."""
    found = {
        path.stem.removeprefix(prefix): json.loads(path.read_text())
        for path in sorted((REFERENCE / "inference").glob(f"{prefix}*.json"))
    }
    assert found, f"no reference results in {REFERENCE}"
    return found if prefix else {name: case for name, case in found.items() if "covariances" in case}


def read_case(case: Case) -> pa.Table:
    """The case's CSV with its column types; an empty field is null."""
    types = {name: pa.type_for_alias(alias) for name, alias in case["columns"].items()}
    return pyarrow.csv.read_csv(
        REFERENCE / "data" / case["data"],
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True
        ),
    )


def write_case(case: Case, folder: Path) -> Path:
    """The case as a Parquet file of many small row groups."""
    path = folder / f"{case['case']}.parquet"
    pq.write_table(read_case(case), path, row_group_size=ROWS_PER_GROUP)
    return path


def in_order(terms: Sequence[str], case: Case, values: Sequence[float | None]) -> np.ndarray:
    """R's values, one a term, in the order of `terms`; what R has no number for is NaN."""
    by_term = dict(zip(case["terms"], values, strict=True))
    assert sorted(terms) == sorted(by_term)
    return np.array([np.nan if by_term[term] is None else by_term[term] for term in terms])


def matrix_in_order(terms: Sequence[str], case: Case, values: Sequence[Sequence[float]]) -> np.ndarray:
    """R's (k, k) matrix with its rows and columns in the order of `terms`."""
    places = [case["terms"].index(term) for term in terms]
    return np.array(values)[np.ix_(places, places)]
