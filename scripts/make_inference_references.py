"""Makes tests/reference/inference: R's numbers by the script beside this one, checked against statsmodels.

Run it as ``python scripts/make_inference_references.py`` where Rscript (with sandwich, MASS, survival and
jsonlite) and statsmodels are installed; nothing in the tests needs either. statsmodels takes a row as an
observation, and ``HC1`` to ``HC3`` of its Logit are all HC0, so what can be compared is HC0 and clusters
(``use_correction=False`` is small_sample="none", ``True`` is "full") of rows that are no counts and have no
weights. The run fails where they differ by more than 1e-8.
"""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels
import statsmodels.formula.api as smf

SCRIPTS = Path(__file__).resolve().parent
REFERENCE = SCRIPTS.parent / "tests" / "reference"
AGREEMENT = 1e-8

# patsy's formula of each case, with its column of zeros and ones.
FORMULAS = {
    "birthwt": "low ~ age + lwt + C(race) + smoke + ptl + ht + ui + ftv",
    "infert": "case ~ education + age + parity + induced + spontaneous",
    "bacteria": "I(1 * (y == 'y')) ~ C(trt, Treatment('placebo')) + week",
    "pima_offset": "I(1 * (type == 'Yes')) ~ npreg + bmi + ped",
    "fair": "affair ~ C(occupation) + educ + C(occupation_husb) + rate_marriage + age + yrs_married"
    " + children + religious",
    "no_intercept": "GRADE ~ 0 + GPA + TUCE + PSI",
    "mtcars": "am ~ wt + hp",
}


def keywords_of(data: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any] | None:
    """What statsmodels calls a covariance, None where it has no such thing."""
    if options["cov"] == "HC0":
        return {"cov_type": "HC0"}
    if options["cov"] != "cluster" or options["small_sample"] == "clusters":
        return None
    codes = np.column_stack([pd.factorize(data[name])[0] for name in options["cluster"]])
    groups = codes[:, 0] if codes.shape[1] == 1 else codes
    corrected = options["small_sample"] == "full"
    return {"cov_type": "cluster", "cov_kwds": {"groups": groups, "use_correction": corrected}}


def check(name: str, formula: str) -> None:
    """Compares the standard errors of one case with Logit's and notes the difference in its file."""
    path = REFERENCE / "inference" / f"{name}.json"
    case = json.loads(path.read_text())
    data = pd.read_csv(REFERENCE / "data" / case["data"])
    offset = data[case["fit"]["offset"]] if "offset" in case["fit"] else None
    model = smf.logit(formula, data, offset=offset)
    start = model.fit(method="newton", tol=1e-14, maxiter=100, disp=0)
    # patsy puts factors first.
    names = {"Intercept": "Intercept"} | {
        n: n.replace("C(trt, Treatment('placebo'))", "trt") for n in model.exog_names
    }
    worst = 0.0
    for stored in case["covariances"]:
        keywords = keywords_of(data, stored["options"])
        if keywords is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # negative variances of two-way clusters
            found = model.fit(
                start_params=start.params, method="newton", tol=1e-14, maxiter=100, disp=0, **keywords
            )
            got = {names[term]: value for term, value in found.bse.items()}
        for term, value in zip(case["terms"], stored["std_error"], strict=True):
            column = term if term in got else term.replace("C(trt)", "trt")
            if value is None:
                assert np.isnan(got[column]), (name, term)
            else:
                worst = max(worst, abs(got[column] - value) / value)
    print(f"{name:20s} statsmodels differs by {worst:.0e}")
    if not worst < AGREEMENT:
        raise ArithmeticError(f"{name}: statsmodels differs by {worst:.1e}")
    note = f'  "difference_from_statsmodels": {float(f"{worst:.0e}")},\n'
    note += f'  "statsmodels": "{statsmodels.__version__}",\n'
    lines = path.read_text()
    path.write_text(lines.replace('  "terms": ', note + '  "terms": ', 1))


def main() -> None:
    """Writes everything below tests/reference/inference."""
    subprocess.run(["Rscript", str(SCRIPTS / "make_inference_references.R"), str(REFERENCE)], check=True)
    for name, formula in FORMULAS.items():
        check(name, formula)


if __name__ == "__main__":
    main()
