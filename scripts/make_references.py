"""Makes tests/reference: data from statsmodels, fits by R, and a check of each fit in 50 digits.

Run it as ``python scripts/make_references.py`` where Rscript and statsmodels are installed; nothing
in the tests needs either. It writes the data sets that statsmodels ships, runs
``make_references.R``, which writes all other data and one JSON per case, and then repeats every fit
by Newton's method in 50 decimal digits on the exact doubles of R's design matrix. R's numbers are
stored; the run fails where one of them is more than 1e-11 from the 50-digit one.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmath
import statsmodels.api as sm
from mpmath import mp, mpf

SCRIPTS = Path(__file__).resolve().parent
REFERENCE = SCRIPTS.parent / "tests" / "reference"

DIGITS = 50
AGREEMENT = 1e-11  # the tests compare to 1e-8, so R's share of that is nothing
STEP = mpf("1e-35")  # Newton stops below this many standard errors

PER_TERM = ("coefficients", "std_error", "z", "p_value")
NUMBERS = ("log_likelihood", "null_log_likelihood", "deviance", "null_deviance", "aic", "bic")


@dataclass(frozen=True)
class Rows:
    """The rows of one case: n-vectors of exact numbers and the n by k design, column by column."""

    successes: list[mpf]
    trials: list[mpf]
    weight: list[mpf]
    offset: list[mpf]
    columns: list[list[mpf]]


@dataclass(frozen=True)
class Exact:
    """Maximum-likelihood fit in 50 digits; coefficients and errors are None where aliased."""

    coefficients: list[mpf | None]
    std_error: list[mpf | None]
    log_likelihood: mpf
    saturated: mpf


def write_statsmodels_data(folder: Path) -> None:
    """Writes spector, fair (with affair = affairs > 0) and star98 (with NTOTAL) as CSV."""
    spector = sm.datasets.spector.load_pandas().data
    spector.to_csv(folder / "spector.csv", index=False)

    fair = sm.datasets.fair.load_pandas().data
    fair["affair"] = (fair.pop("affairs") > 0).astype(int)
    whole = ["rate_marriage", "religious", "educ", "occupation", "occupation_husb"]
    fair[whole] = fair[whole].astype(int)
    fair.to_csv(folder / "fair.csv", index=False)

    star98 = sm.datasets.star98.load_pandas().data
    star98.insert(1, "NTOTAL", (star98["NABOVE"] + star98.pop("NBELOW")).astype(int))
    star98["NABOVE"] = star98["NABOVE"].astype(int)
    star98.to_csv(folder / "star98.csv", index=False)


def read_design(path: Path) -> tuple[list[str], Rows]:
    """Term names and rows from R's design file, whose numbers are hexadecimal doubles."""
    with path.open() as lines:
        names = lines.readline().rstrip("\n").split("\t")
        table = [[mpf(float.fromhex(cell)) for cell in line.split("\t")] for line in lines]
    table = [row for row in table if row[2] > 0]
    columns = [list(column) for column in zip(*table, strict=True)]
    return names[4:], Rows(columns[0], columns[1], columns[2], columns[3], columns[4:])


def check_stored_columns(case: dict[str, Any], path: Path) -> None:
    """Raises if R fitted other doubles than a correct reader of the CSV gets."""
    with (REFERENCE / "data" / case["data"]).open() as lines:
        stored = list(csv.DictReader(lines))
    with path.open() as lines:
        design = list(csv.DictReader(lines, delimiter="\t"))
    if len(stored) != len(design):
        return  # rows were filtered or dropped; those files hold integers and short decimals
    sources = {term: term for term in case["terms"] if term in case["columns"]}
    for header, keyword in (("trials", "trials"), ("weight", "weights"), ("offset", "offset")):
        if keyword in case["fit"]:
            sources[header] = case["fit"][keyword]
    for row, fitted in zip(stored, design, strict=True):
        for header, column in sources.items():
            if float(row[column]) != float.fromhex(fitted[header]):
                raise ValueError(f"{case['case']}: {column} is {row[column]}, R has {fitted}")


def dot(left: Sequence[mpf], right: Sequence[mpf]) -> mpf:
    """Sum of products, rounded once, skipping zeros."""
    return mpmath.fdot((a, b) for a, b in zip(left, right, strict=True) if a and b)


def log_sigmoid(eta: mpf) -> mpf:
    """Logarithm of 1 / (1 + exp(-eta))."""
    return -mpmath.log1p(mpmath.exp(-eta))


def linear_predictor(rows: Rows, kept: Sequence[int], coef: Sequence[mpf]) -> list[mpf]:
    """The linear predictor: offset + X coef, an n-vector."""
    eta = list(rows.offset)
    for b, j in zip(coef, kept, strict=True):
        eta = [e + b * x if x else e for e, x in zip(eta, rows.columns[j], strict=True)]
    return eta


def hessian_and_gradient(
    rows: Rows, kept: Sequence[int], eta: Sequence[mpf]
) -> tuple[mpmath.matrix, mpmath.matrix]:
    """X' W X of shape (k, k) and X'(successes - trials p), both with the weights."""
    p = [1 / (1 + mpmath.exp(-e)) for e in eta]
    curvature = [w * n * q * (1 - q) for w, n, q in zip(rows.weight, rows.trials, p, strict=True)]
    residual = [
        w * (y - n * q) for w, y, n, q in zip(rows.weight, rows.successes, rows.trials, p, strict=True)
    ]
    k = len(kept)
    hessian = mpmath.matrix(k, k)
    for a in range(k):
        weighted = [c * x if x else x for c, x in zip(curvature, rows.columns[kept[a]], strict=True)]
        for b in range(a + 1):
            hessian[a, b] = hessian[b, a] = dot(weighted, rows.columns[kept[b]])
    gradient = mpmath.matrix([dot(residual, rows.columns[j]) for j in kept])
    return hessian, gradient


def log_likelihood(rows: Rows, eta: Sequence[mpf]) -> mpf:
    """Weighted binomial log-likelihood with its coefficients (0 for single trials)."""
    return mpmath.fsum(
        w
        * (
            (mpmath.log(mpmath.binomial(n, y)) if n > 1 else 0)
            + y * log_sigmoid(e)
            + (n - y) * log_sigmoid(-e)
        )
        for w, n, y, e in zip(rows.weight, rows.trials, rows.successes, eta, strict=True)
    )


def saturated_log_likelihood(rows: Rows) -> mpf:
    """The log-likelihood at the observed shares, from which the deviance is measured."""

    def row(n: mpf, y: mpf) -> mpf:
        if n == 1:
            return mpf(0)
        terms = [count * mpmath.log(count / n) for count in (y, n - y) if count]
        return mpmath.log(mpmath.binomial(n, y)) + mpmath.fsum(terms)

    return mpmath.fsum(
        w * row(n, y) for w, n, y in zip(rows.weight, rows.trials, rows.successes, strict=True)
    )


def newton(rows: Rows, kept: Sequence[int], start: Sequence[float]) -> Exact:
    """Newton's method from `start` until a step is below 1e-35 standard errors."""
    coef = [mpf(b) for b in start]
    for _ in range(100):
        hessian, gradient = hessian_and_gradient(rows, kept, linear_predictor(rows, kept, coef))
        covariance = hessian**-1
        step = covariance * gradient
        error = [mpmath.sqrt(covariance[j, j]) for j in range(len(kept))]
        coef = [b + s for b, s in zip(coef, step, strict=True)]
        if all(abs(s) <= STEP * e for s, e in zip(step, error, strict=True)):
            break
    else:
        raise ArithmeticError("Newton's method in 50 digits has not converged in 100 steps")
    eta = linear_predictor(rows, kept, coef)
    coefficients: list[mpf | None] = [None] * len(rows.columns)
    std_error: list[mpf | None] = [None] * len(rows.columns)
    for place, j in enumerate(kept):
        coefficients[j], std_error[j] = coef[place], error[place]
    return Exact(coefficients, std_error, log_likelihood(rows, eta), saturated_log_likelihood(rows))


def check_aliased(rows: Rows, kept: Sequence[int]) -> None:
    """Raises unless each column that is not kept is a combination of kept ones before it."""
    for j in set(range(len(rows.columns))) - set(kept):
        earlier = [i for i in kept if i < j]
        gram = mpmath.matrix(len(earlier), len(earlier))
        for a, i in enumerate(earlier):
            for b, h in enumerate(earlier):
                gram[a, b] = dot(rows.columns[i], rows.columns[h])
        right = mpmath.matrix([dot(rows.columns[i], rows.columns[j]) for i in earlier])
        solution = mpmath.lu_solve(gram, right)
        combination = [mpf(0)] * len(rows.trials)
        for b, i in zip(solution, earlier, strict=True):
            combination = [c + b * x for c, x in zip(combination, rows.columns[i], strict=True)]
        worst = max(abs(c - x) for c, x in zip(combination, rows.columns[j], strict=True))
        if worst > mpf("1e-30"):
            raise ArithmeticError(f"column {j} is called aliased but is {worst} from the others")


def exact_results(rows: Rows, case: dict[str, Any]) -> dict[str, Any]:
    """The case's numbers in 50 digits, rounded once to doubles."""
    kept = [j for j, b in enumerate(case["coefficients"]) if b is not None]
    check_aliased(rows, kept)
    fit = newton(rows, kept, [case["coefficients"][j] for j in kept])
    ones = Rows(rows.successes, rows.trials, rows.weight, rows.offset, [[mpf(1)] * len(rows.trials)])
    null = newton(ones, [0], [0.0])
    z = [None if b is None else b / s for b, s in zip(fit.coefficients, fit.std_error, strict=True)]
    rank = len(kept)

    def rounded(values: Sequence[mpf | None]) -> list[float | None]:
        return [None if v is None else float(v) for v in values]

    return {
        "coefficients": rounded(fit.coefficients),
        "std_error": rounded(fit.std_error),
        "z": rounded(z),
        "p_value": rounded([None if v is None else mpmath.erfc(abs(v) / mp.sqrt(2)) for v in z]),
        "log_likelihood": float(fit.log_likelihood),
        "null_log_likelihood": float(null.log_likelihood),
        "deviance": float(2 * (fit.saturated - fit.log_likelihood)),
        "null_deviance": float(2 * (null.saturated - null.log_likelihood)),
        "aic": float(-2 * fit.log_likelihood + 2 * rank),
        "bic": float(-2 * fit.log_likelihood + rank * mpmath.log(case["nobs"])),
    }


def largest_difference(case: dict[str, Any], exact: dict[str, Any]) -> float:
    """Largest difference of R's numbers from the exact ones, in the measure that the tests use."""
    differences = [abs(case[name] - exact[name]) / abs(exact[name]) for name in NUMBERS]
    for place, exact_b in enumerate(exact["coefficients"]):
        if exact_b is None:
            continue
        b, s, z, p = (case[name][place] for name in PER_TERM)
        _, exact_s, exact_z, exact_p = (exact[name][place] for name in PER_TERM)
        differences += [
            abs(b - exact_b) / max(abs(exact_b), exact_s),
            abs(s - exact_s) / exact_s,
            abs(z - exact_z) / max(1, abs(exact_z)),
            # The tail's relative change is z^2 times that of z; below 1e-300 it underflows.
            abs(p - exact_p) / max(exact_p, 1e-300) / (1 + exact_z**2),
        ]
    return float(max(differences))


def check_in_fifty_digits(name: str, designs: Path) -> None:
    """Compares one case with its fit in 50 digits and notes the difference in its file."""
    path = REFERENCE / f"{name}.json"
    case = json.loads(path.read_text())
    terms, rows = read_design(designs / f"{name}.tsv")
    if terms != case["terms"]:
        raise ValueError(f"{name}: the design has {terms}, the result {case['terms']}")
    check_stored_columns(case, designs / f"{name}.tsv")
    difference = largest_difference(case, exact_results(rows, case))
    print(f"{name:24s} R differs by {difference:.1e}")
    if difference > AGREEMENT:
        raise ArithmeticError(f"{name}: R is {difference:.1e} from the fit in {DIGITS} digits")
    case["difference_from_50_digits"] = float(f"{difference:.0e}")
    path.write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Writes everything below tests/reference."""
    mp.dps = DIGITS
    (REFERENCE / "data").mkdir(parents=True, exist_ok=True)
    write_statsmodels_data(REFERENCE / "data")
    with tempfile.TemporaryDirectory() as folder:
        designs = Path(folder)
        subprocess.run(
            ["Rscript", str(SCRIPTS / "make_references.R"), str(REFERENCE), str(designs)],
            check=True,
        )
        for design in sorted(designs.glob("*.tsv")):
            check_in_fifty_digits(design.stem, designs)


if __name__ == "__main__":
    main()
