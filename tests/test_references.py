"""Fits of real data sets against R's glm: each JSON in tests/reference is one case.

A case names its data (a CSV beside it), the keywords that `streamlr.fit` gets, the R call that
made the numbers and the numbers. `scripts/make_references.py` wrote all of them, with glm iterated
to its fixpoint and every value checked against a Newton iteration in 50 digits. To add a case, add
it to `scripts/make_references.R` and run the script; nothing here changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streamlr
from streamlr.cli import main

REFERENCE = Path(__file__).parent / "reference"
CASES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(REFERENCE.glob("*.json"))
}
assert CASES, f"no reference results in {REFERENCE}"

# Log-likelihoods and what is made of them are flat at the maximum: an estimate that is off by 1e-8
# standard errors moves them by 1e-16. What is left is rounding in sums of up to 6,366 logarithms
# and in the binomial coefficients (R's own are up to 4e-13 from the 50-digit values).
LIKELIHOOD_TOLERANCE = 1e-10

# Many row groups even for the small cases, and 37 divides none of the row counts.
ROWS_PER_GROUP = 37


def read_case(case: Mapping[str, Any]) -> pa.Table:
    """The case's CSV with its column types and only the rows it is about; an empty field is null."""
    table = _read_csv(case)
    where = case["fit"].get("where")
    if where is None:
        return table
    column, comparison, value = where.split()
    literal = value.strip("'") if "'" in value else int(value)
    compare = {"==": pc.equal, "!=": pc.not_equal}[comparison]
    return table.filter(compare(table.column(column), literal))


def options_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the fit; rows are chosen before it."""
    return {key: value for key, value in case["fit"].items() if key != "where"}


def _read_csv(case: Mapping[str, Any]) -> pa.Table:
    types = {name: pa.type_for_alias(alias) for name, alias in case["columns"].items()}
    return pyarrow.csv.read_csv(
        REFERENCE / "data" / case["data"],
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True
        ),
    )


def write_case(case: Mapping[str, Any], folder: Path) -> Path:
    """The case as a Parquet file of many small row groups."""
    path = folder / "data.parquet"
    pq.write_table(read_case(case), path, row_group_size=ROWS_PER_GROUP)
    return path


def estimated(case: Mapping[str, Any], name: str) -> dict[str, float]:
    """One column of R's coefficient table by term, without the aliased terms."""
    return {term: value for term, value in zip(case["terms"], case[name], strict=True) if value is not None}


def assert_close(
    got: Mapping[str, float],
    want: Mapping[str, float],
    tolerance: float,
    scale: Mapping[str, float],
) -> None:
    """|got - want| <= tolerance * scale for each name; a NaN is far from everything."""
    assert sorted(got) == sorted(want)
    far = {
        name: f"{got[name]!r}, R has {value!r}: {abs(got[name] - value) / scale[name]:.1e} off"
        for name, value in want.items()
        if not abs(got[name] - value) <= tolerance * scale[name]
    }
    assert not far


def assert_table_agrees(
    case: Mapping[str, Any],
    coefficients: Mapping[str, float],
    std_error: Mapping[str, float],
    z: Mapping[str, float],
    p_value: Mapping[str, float],
) -> None:
    """A table of coefficients against the case's, each column by term.

    Coefficients are compared on the scale of max(|b|, se), standard errors on their own, and z, the
    ratio, has the error of both. The tail p(z) changes relatively by about z^2 (or, near zero, |z|)
    times the relative change of z; below 1e-300 doubles have no full precision left.
    """
    tolerance = case["tolerance"]
    b, se = estimated(case, "coefficients"), estimated(case, "std_error")
    r_z, r_p = estimated(case, "z"), estimated(case, "p_value")
    assert_close(coefficients, b, tolerance, {t: max(abs(b[t]), se[t]) for t in b})
    assert_close(std_error, se, tolerance, se)
    assert_close(z, r_z, 2 * tolerance, {t: max(1.0, abs(r_z[t])) for t in b})
    tail = {t: max(r_p[t], 1e-300) * 2 * (1 + r_z[t] ** 2) for t in b}
    assert_close(p_value, r_p, 2 * tolerance, tail)


def by_term(terms: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Floats by the name of their term."""
    return dict(zip(terms, (float(value) for value in values), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_r(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = streamlr.fit(str(write_case(case, tmp_path)), **options_of(case))

    assert model.converged
    assert list(model.aliased) == case["aliased"]
    assert_table_agrees(
        case,
        by_term(model.terms, model.params),
        by_term(model.terms, model.bse),
        by_term(model.terms, model.zvalues),
        by_term(model.terms, model.pvalues),
    )

    glance = model.glance()
    likelihoods = {
        key: case[key] for key in ("log_likelihood", "null_log_likelihood", "deviance", "null_deviance")
    } | {"aic": case["aic"], "bic": case["bic"]}
    scale = {key: abs(value) for key, value in likelihoods.items()}
    assert_close({key: glance[key] for key in likelihoods}, likelihoods, LIKELIHOOD_TOLERANCE, scale)
    assert (model.llf, model.llnull) == (glance["log_likelihood"], glance["null_log_likelihood"])
    assert (model.aic, model.bic) == (glance["aic"], glance["bic"])

    counts = ("nobs", "df_model", "df_resid", "rows_read", "rows_used", "rows_dropped")
    assert {key: glance[key] for key in counts} == {key: case[key] for key in counts}
    assert model.nobs == case["nobs"]
    assert {column: rows for column, rows in model.dropped.items() if rows} == case["dropped"]


@pytest.mark.parametrize("name", ["aliased_sum", "aliased_nested"])
def test_aliased_terms_stand_in_the_table_without_numbers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = streamlr.fit(str(write_case(case, tmp_path)), **options_of(case))

    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    assert sorted(rows) == sorted(case["terms"])
    for term in case["aliased"]:
        numbers = {key: value for key, value in rows[term].items() if key != "term"}
        assert set(numbers.values()) == {None}
    assert not set(case["aliased"]) & set(model.terms)
    assert model.cov_params().shape == (len(model.terms), len(model.terms))


def test_command_prints_the_same_numbers(tmp_path: Path) -> None:
    case = CASES["birthwt"]
    arguments = ["fit", str(write_case(case, tmp_path)), "-y", case["fit"]["target"]]
    arguments += ["-x", ",".join(case["fit"]["features"])]
    arguments += ["--categorical", ",".join(case["fit"]["categorical"]), "--format", "json"]

    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)

    names = ["term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"]
    assert all(list(row) == [*names, "odds_ratio"] for row in printed["tidy"])
    column = {key: {row["term"]: row[key] for row in printed["tidy"]} for key in names[1:]}
    assert_table_agrees(case, column["estimate"], column["std_error"], column["statistic"], column["p_value"])
    # 1.959963984540054 is R's qnorm(0.975), to its last digit.
    b, se = estimated(case, "coefficients"), estimated(case, "std_error")
    scale = {term: max(abs(b[term]), se[term]) for term in b}
    for key, sign in (("conf_low", -1), ("conf_high", 1)):
        bound = {term: b[term] + sign * 1.959963984540054 * se[term] for term in b}
        # Bounds add the error of the estimate to twice that of the standard error.
        assert_close(column[key], bound, 3 * case["tolerance"], scale)

    glance = printed["glance"]
    for key in ("log_likelihood", "null_log_likelihood", "deviance", "null_deviance", "aic", "bic"):
        assert glance[key] == pytest.approx(case[key], rel=LIKELIHOOD_TOLERANCE, abs=0)
    for key in ("nobs", "df_model", "df_resid", "rows_read", "rows_used", "rows_dropped"):
        assert glance[key] == case[key]
    assert glance["converged"] is True
    assert not any(printed["dropped"].values())
    assert (printed["aliased"], printed["separation"]) == ([], None)
