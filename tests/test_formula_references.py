"""Fits of formulas against R's glm: each case of tests/reference/formulas/references.json is one formula.

A case names its table, the formula as `streamlr.fit` gets it, the R call that made the numbers, and
coefficient and standard error of every term, null where R calls the term aliased.
`scripts/make_formula_references.py` wrote them, with glm iterated to its fixpoint and every fit repeated by
Newton's method in extended precision. To add a case, add the formula to `scripts/make_formula_references.R`
and run the script; nothing here changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from test_references import LIKELIHOOD_TOLERANCE, assert_close, by_term

import streamlr
from streamlr.design import layout

REFERENCE = Path(__file__).parent / "reference"
STORED: dict[str, Any] = json.loads((REFERENCE / "formulas" / "references.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["formula"]: case for case in STORED["cases"]}

# R is within 1e-12 of the maximum in every case, so this is what the fit itself may be off, as for the other
# references.
TOLERANCE = 1e-8

# 7 rows: levels, empty cells and ranges are pieced together from 358 row groups; 1,000: the last one is
# shorter; None: one row group.
ROWS_PER_GROUP = (7, 1_000, None)


@cache
def read_table(name: str) -> pa.Table:
    """A table of the references with its stored column types; an empty field is null."""
    stored = STORED["tables"][name]
    types = {column: pa.type_for_alias(alias) for column, alias in stored["columns"].items()}
    convert = pyarrow.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(REFERENCE / stored["data"], convert_options=convert)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int | None], str]:
    """A writer: written(table, rows_per_group) -> the path of the Parquet file, written once."""
    folder = tmp_path_factory.mktemp("formulas")

    def write(name: str, rows_per_group: int | None) -> str:
        path = folder / f"{name}-{rows_per_group}.parquet"
        if not path.exists():
            pq.write_table(read_table(name), path, row_group_size=rows_per_group)
        return str(path)

    return write


def in_any_order(term: str) -> str:
    """The name of an interaction without the order of its parts: R's is that of the variables in the whole
    formula, ours that in which the term is written."""
    return ":".join(sorted(term.split(":")))


@pytest.mark.parametrize("rows_per_group", ROWS_PER_GROUP)
@pytest.mark.parametrize("formula", CASES)
def test_formula_agrees_with_r(
    formula: str, rows_per_group: int | None, written: Callable[[str, int | None], str]
) -> None:
    case = CASES[formula]
    model = streamlr.fit(written(case["table"], rows_per_group), formula)

    assert model.converged
    terms = {in_any_order(term): numbers for term, numbers in case["terms"].items()}
    aliased = sorted(in_any_order(term) for term in model.aliased)
    assert aliased == sorted(term for term, numbers in terms.items() if numbers is None)
    estimated = {term: numbers for term, numbers in terms.items() if numbers is not None}
    coefficients = {term: b for term, (b, _) in estimated.items()}
    std_error = {term: se for term, (_, se) in estimated.items()}
    scale = {term: max(abs(b), std_error[term]) for term, b in coefficients.items()}
    names = [in_any_order(term) for term in model.terms]
    assert_close(by_term(names, model.params), coefficients, TOLERANCE, scale)
    assert_close(by_term(names, model.bse), std_error, TOLERANCE, std_error)

    assert model.llf == pytest.approx(case["log_likelihood"], rel=LIKELIHOOD_TOLERANCE, abs=0)
    glance = model.glance()
    assert {key: glance[key] for key in ("rows_read", "rows_used")} == {
        key: case[key] for key in ("rows_read", "rows_used")
    }


@pytest.mark.parametrize(
    "formula", [formula for formula in CASES if "carrier" in formula or "birthwt" in formula]
)
def test_factors_eliminated_first_change_nothing(
    formula: str, written: Callable[[str, int | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As factors of hundreds of levels are."""
    monkeypatch.setattr(layout, "LONG", 2)
    test_formula_agrees_with_r(formula, None, written)
    model = streamlr.fit(written(CASES[formula]["table"], None), formula)
    np.testing.assert_allclose(np.sqrt(np.diag(model.cov_params())), model.bse, rtol=1e-9)


OPERATORS = ("+", "-", "*", "/", ":", "^", "**", "%in%")
FUNCTIONS = (
    "log log1p log2 log10 exp sqrt abs sign floor ceil round clip min max I C center scale standardize poly "
    "bs ns cr cut lump year month day dow hour minute isnull lower strip len"
)


def test_every_operator_and_function_has_a_formula() -> None:
    called = {name for formula in CASES for name in re.findall(r"(\w+)\(", formula)}
    assert called >= set(FUNCTIONS.split())
    without_calls = " ".join(re.sub(r"\w+\(.*?\)", "", formula) for formula in CASES)
    used = set(re.findall(r"%in%|\*\*|[-+*/:^]", without_calls))
    assert used >= set(OPERATORS)
    assert len(CASES) == len(STORED["cases"]) >= 100
