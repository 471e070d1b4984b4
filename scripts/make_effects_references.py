"""Makes tests/reference/effects: average marginal effects by differences of predictions, checked twice.

Run it as ``python scripts/make_effects_references.py`` where statsmodels, marginaleffects, patsy, pandas and
polars before version 2 are installed; nothing in the tests needs any of them. Fits are statsmodels' GLM on
patsy's design, iterated to rounding. Effects are made of its predictions alone, by the definition: contrasts
from designs with a column replaced, slopes by fourth-order differences in the column, derivatives in the
coefficients by fourth-order differences in each, so that no formula of a derivative is shared with what is
tested. The run fails where statsmodels' ``get_margeff`` (analytic, 1e-8) or marginaleffects (differences of
its own, 1e-6) say otherwise.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import patsy
import statsmodels.api as sm
import statsmodels.formula.api as smf
from marginaleffects import avg_comparisons, avg_slopes
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REFERENCE = Path(__file__).resolve().parent.parent / "tests" / "reference"
OUT = REFERENCE / "effects"

# Fourth-order differences: f' = [8 (f(h) - f(-h)) - (f(2h) - f(-2h))] / 12 h.
STENCIL = ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0))
COLUMN_STEP = 1e-3  # of its standard deviation
SPLINE_STEP = 1e-4  # at a knot the error is of second order
COEF_STEP = 1e-3  # of its standard error

GET_MARGEFF = "statsmodels Logit.fit().get_margeff({})"
MARGINALEFFECTS = "marginaleffects {} of a statsmodels fit"


@dataclass(frozen=True)
class Case:
    """A fit and its effects. `slopes`: columns; `levels`: columns with their levels, the reference first.

    `formula` is patsy's, `fit` and `effects` are what streamlr gets. `margeff`: arguments of `get_margeff`,
    for models of numbers and 0/1 dummies; `packages`: whether marginaleffects can do it.
    """

    name: str
    covers: str
    data: str
    columns: dict[str, str]
    formula: str
    fit: dict[str, Any]
    slopes: tuple[str, ...] = ()
    levels: dict[str, list[Any]] = field(default_factory=dict)
    effects: dict[str, Any] = field(default_factory=dict)
    margeff: dict[str, Any] | None = None
    packages: bool = True
    cov: str = "nonrobust"
    held: Callable[[pd.DataFrame], dict[str, Any]] | None = None


BIRTHWT = {
    "low": "int64",
    "age": "int64",
    "lwt": "int64",
    "race": "int64",
    "smoke": "int64",
    "ptl": "int64",
    "ht": "int64",
    "ui": "int64",
    "ftv": "int64",
}
BIRTHWT_TEXT = {
    "low": "bool",
    "age": "int64",
    "lwt": "int64",
    "race": "string",
    "smoke": "bool",
    "ht": "bool",
}
SPECTOR = {"GPA": "double", "TUCE": "double", "PSI": "double", "GRADE": "double"}
FAIR = {
    "rate_marriage": "int64",
    "age": "double",
    "yrs_married": "double",
    "children": "double",
    "religious": "int64",
    "educ": "int64",
    "occupation": "int64",
    "occupation_husb": "int64",
    "affair": "int64",
}
FAIR_NUMBERS = ("rate_marriage", "age", "yrs_married", "children", "religious", "educ")
PIMA = {
    "npreg": "int64",
    "glu": "int64",
    "bp": "int64",
    "skin": "int64",
    "bmi": "double",
    "ped": "double",
    "age": "int64",
    "type": "string",
}
PIMA_NUMBERS = ("npreg", "glu", "bp", "skin", "bmi", "ped", "age")
TITANIC = {"Class": "string", "Sex": "string", "Age": "string", "Survived": "string", "Freq": "int64"}
NWTCO = {"rel": "int64", "histol": "int64", "stage": "int64", "age": "int64", "weight": "double"}
SNAILS = {
    "Species": "string",
    "Rel.Hum": "double",
    "Temp": "int64",
    "Deaths": "int64",
    "N": "int64",
    "log_exposure": "double",
}

CASES = (
    Case(
        "spector",
        "numbers and a dummy",
        "spector.csv",
        SPECTOR,
        "GRADE ~ GPA + TUCE + C(PSI)",
        {"formula": "GRADE ~ GPA + TUCE + C(PSI)"},
        slopes=("GPA", "TUCE"),
        levels={"PSI": [0.0, 1.0]},
        margeff={"at": "overall", "dummy": True},
    ),
    Case(
        "spector_mean",
        "all columns at their means",
        "spector.csv",
        SPECTOR,
        "GRADE ~ GPA + TUCE + PSI",
        {"formula": "GRADE ~ GPA + TUCE + PSI"},
        slopes=("GPA", "TUCE", "PSI"),
        effects={"at": "mean"},
        margeff={"at": "mean"},
        held=lambda rows: {name: rows[name].mean() for name in ("GPA", "TUCE", "PSI")},
    ),
    Case(
        "fair",
        "6,366 rows of numbers",
        "fair.csv",
        FAIR,
        "affair ~ " + " + ".join(FAIR_NUMBERS),
        {"formula": "affair ~ " + " + ".join(FAIR_NUMBERS)},
        slopes=FAIR_NUMBERS,
        margeff={"at": "overall"},
    ),
    Case(
        "fair_mean",
        "6,366 rows of numbers, at their means",
        "fair.csv",
        FAIR,
        "affair ~ " + " + ".join(FAIR_NUMBERS),
        {"formula": "affair ~ " + " + ".join(FAIR_NUMBERS)},
        slopes=FAIR_NUMBERS,
        effects={"at": "mean"},
        margeff={"at": "mean"},
        held=lambda rows: {name: rows[name].mean() for name in FAIR_NUMBERS},
    ),
    Case(
        "birthwt",
        "integers, some of them factors, and robust errors",
        "birthwt.csv",
        BIRTHWT,
        "low ~ age + lwt + C(smoke) + C(ht) + ptl",
        {"formula": "low ~ age + lwt + C(smoke) + C(ht) + ptl", "cov": "HC0"},
        slopes=("age", "lwt", "ptl"),
        levels={"smoke": [0, 1], "ht": [0, 1]},
        margeff={"at": "overall", "dummy": True},
        cov="HC0",
    ),
    Case(
        "birthwt_formula",
        "a logarithm times a factor, a square, pairwise contrasts",
        "birthwt_text.csv",
        BIRTHWT_TEXT,
        "low ~ np.log(age) * C(race) + lwt + I(lwt**2) + C(smoke)",
        {"formula": "low ~ log(age) * race + lwt + I(lwt**2) + smoke"},
        slopes=("age", "lwt"),
        levels={"race": ["black", "other", "white"], "smoke": [False, True]},
        effects={"contrasts": "pairwise"},
    ),
    Case(
        "birthwt_splines",
        "B-splines, natural splines and orthogonal polynomials",
        "birthwt.csv",
        BIRTHWT,
        # patsy has no ns and no poly: these columns span the same.
        "low ~ bs(lwt, knots=[110, 121, 140], lower_bound=70, upper_bound=260)"
        " + cr(age, knots=[20, 25], constraints='center') + ptl + I(ptl**2)"
        " + cr(ftv, knots=[1, 3], constraints='center')",
        {
            "formula": "low ~ bs(lwt, knots=[110, 121, 140], lower_bound=70, upper_bound=260)"
            " + ns(age, knots=[20, 25]) + poly(ptl, 2) + cr(ftv, knots=[1, 3])"
        },
        slopes=("lwt", "age", "ptl", "ftv"),
        packages=False,
    ),
    Case(
        "birthwt_at",
        "effects with a number and a factor held at a value",
        "birthwt_text.csv",
        BIRTHWT_TEXT,
        "low ~ age * C(smoke) + lwt * C(race)",
        {"formula": "low ~ age * smoke + lwt * race"},
        slopes=("age", "lwt"),
        levels={"race": ["black", "other", "white"], "smoke": [False, True]},
        effects={"at": {"age": 30, "race": "white"}},
        held=lambda rows: {"age": 30, "race": "white"},
        packages=False,
    ),
    Case(
        "pima_missing",
        "missing values in three columns",
        "pima_tr2.csv",
        PIMA,
        "type ~ " + " + ".join(PIMA_NUMBERS),
        {"formula": "type ~ " + " + ".join(PIMA_NUMBERS)},
        slopes=PIMA_NUMBERS,
        margeff={"at": "overall"},
        packages=False,  # which keeps the name "type" for itself
    ),
    Case(
        "titanic",
        "frequency weights, zeros among them, and interactions of factors",
        "titanic.csv",
        TITANIC,
        "Survived ~ C(Class) * C(Sex) + C(Age)",
        {"formula": "Survived ~ Class * Sex + Age", "weights": "Freq"},
        levels={
            "Class": ["1st", "2nd", "3rd", "Crew"],
            "Sex": ["Female", "Male"],
            "Age": ["Adult", "Child"],
        },
    ),
    Case(
        "nwtco",
        "analytic weights that are fractions",
        "nwtco.csv",
        NWTCO,
        "rel ~ C(histol) * age + C(stage)",
        {
            "formula": "rel ~ C(histol) * age + C(stage)",
            "weights": "weight",
            "weight_type": "analytic",
        },
        slopes=("age",),
        levels={"histol": [1, 2], "stage": [1, 2, 3, 4]},
    ),
    Case(
        "snails",
        "counts with an offset, averaged over rows",
        "snails.csv",
        SNAILS,
        "Deaths ~ C(Species) * Q('Rel.Hum') + Temp",
        {
            "formula": "Deaths ~ Species * `Rel.Hum` + Temp",
            "trials": "N",
            "offset": "log_exposure",
        },
        slopes=("Rel.Hum", "Temp"),
        levels={"Species": ["A", "B"]},
        packages=False,
    ),
)


@dataclass(frozen=True)
class Fit:
    """A fit by statsmodels: coefficients (k,), their covariance, and predictions for any rows."""

    rows: pd.DataFrame
    weight: Floats
    offset: Floats
    coef: Floats
    covariance: Floats
    design_info: Any

    def design(self, rows: pd.DataFrame) -> Floats:
        return np.asarray(patsy.build_design_matrices([self.design_info], rows)[0])


def positive_of(values: pd.Series) -> Floats:
    """The outcome as 0 and 1; of texts the last is 1."""
    if values.dtype == bool or pd.api.types.is_numeric_dtype(values):
        return values.to_numpy().astype(np.float64)
    return (values == sorted(values.unique())[-1]).to_numpy().astype(np.float64)


def read(case: Case) -> pd.DataFrame:
    rows = pd.read_csv(REFERENCE / "data" / case.data)
    used = [name for name in case.columns if name in rows.columns]
    rows = rows[used].dropna().reset_index(drop=True)
    for name, kind in case.columns.items():
        if kind == "double":
            rows[name] = rows[name].astype(np.float64)
    return rows


def fitted(case: Case) -> Fit:
    rows = read(case)
    target, formula = (side.strip() for side in case.formula.split("~"))
    design = patsy.dmatrix(formula, rows)
    weights, trials, offset = (case.fit.get(role) for role in ("weights", "trials", "offset"))
    y = positive_of(rows[target])
    endog = y if trials is None else np.column_stack([rows[target], rows[trials] - rows[target]])
    weight = np.ones(len(rows)) if weights is None else rows[weights].to_numpy(dtype=np.float64)
    shift = np.zeros(len(rows)) if offset is None else rows[offset].to_numpy(dtype=np.float64)
    model = sm.GLM(endog, np.asarray(design), sm.families.Binomial(), offset=shift, freq_weights=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.fit(tol=1e-15, tol_criterion="params", maxiter=100, cov_type=case.cov)
    return Fit(
        rows,
        weight,
        shift,
        np.asarray(result.params),
        np.asarray(result.cov_params()),
        design.design_info,
    )


def effects_of(case: Case, fit: Fit) -> list[dict[str, Any]]:
    """Every effect by the definition, with its standard error."""
    held = {} if case.held is None else case.held(weighted(fit))
    base = fit.rows.assign(**held)
    share = fit.weight / fit.weight.sum()
    effects: list[tuple[str, str, list[tuple[float, Floats]]]] = []
    for name in case.slopes:
        step = (SPLINE_STEP if "knots" in case.formula else COLUMN_STEP) * fit.rows[name].std()
        moved = [
            (factor / (12.0 * step), fit.design(base.assign(**{name: base[name] + times * step})))
            for times, factor in STENCIL
        ]
        effects.append((name, "dy/dx", moved))
    for name, levels in case.levels.items():
        designs = [fit.design(base.assign(**{name: level})) for level in levels]
        for a in range(len(levels)):
            for b in range(a + 1, len(levels)):
                if a == 0 or case.effects.get("contrasts") == "pairwise":
                    pair = [(1.0, designs[b]), (-1.0, designs[a])]
                    effects.append((name, f"{levels[b]} - {levels[a]}", pair))
    found = []
    errors = np.sqrt(np.diag(fit.covariance))
    for name, contrast, parts in effects:

        def average(coef: Floats, parts: list[tuple[float, Floats]] = parts) -> np.longdouble:
            """In 19 digits, of which differences of differences leave eleven."""
            rows = sum(
                factor / (1.0 + np.exp(-(X.astype(np.longdouble) @ coef + fit.offset))) for factor, X in parts
            )
            return np.longdouble(share @ rows)

        jacobian = np.empty(len(fit.coef))
        for j, error in enumerate(errors):
            unit = np.zeros(len(fit.coef), dtype=np.longdouble)
            unit[j] = COEF_STEP * error
            change = sum(factor * average(fit.coef + times * unit) for times, factor in STENCIL)
            jacobian[j] = change / (12.0 * COEF_STEP * error)
        found.append(
            {
                "term": name,
                "contrast": contrast,
                "estimate": float(average(fit.coef.astype(np.longdouble))),
                "std_error": float(np.sqrt(jacobian @ fit.covariance @ jacobian)),
            }
        )
    return found


def weighted(fit: Fit) -> pd.DataFrame:
    assert (fit.weight == 1.0).all(), "means of weighted rows have no case yet"
    return fit.rows


def check_with_statsmodels(case: Case, fit: Fit, found: list[dict[str, Any]]) -> None:
    assert case.margeff is not None
    rows = fit.rows.copy()
    target = case.formula.split("~")[0].strip()
    rows[target] = positive_of(rows[target])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = smf.logit(case.formula, rows).fit(
            disp=0, method="newton", maxiter=100, tol=0.0, cov_type=case.cov
        )
        margins = result.get_margeff(**case.margeff).summary_frame()
    for row in found:
        name = row["term"]
        label = next(label for label in margins.index if label == name or label.startswith(f"C({name})"))
        told = margins.loc[label]
        close(row["estimate"], told["dy/dx"], 1e-8, f"{case.name} {name} get_margeff")
        close(row["std_error"], told["Std. Err."], 1e-8, f"{case.name} {name} get_margeff error")


def check_with_marginaleffects(case: Case, fit: Fit, found: list[dict[str, Any]]) -> None:
    rows = fit.rows.copy()
    target = case.formula.split("~")[0].strip()
    rows[target] = positive_of(rows[target])
    for name in case.levels:  # it takes no other type for a factor
        rows[name] = rows[name].astype(str).astype("category")
    weights = case.fit.get("weights")
    keywords = {} if weights is None else {"freq_weights": rows[weights].to_numpy(dtype=np.float64)}
    model = smf.glm(case.formula, rows, family=sm.families.Binomial(), **keywords)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.fit(tol=1e-15, tol_criterion="params", maxiter=100, cov_type=case.cov)
        wts = {} if weights is None else {"wts": weights}
        by_name: dict[tuple[str, str], tuple[float, float]] = {}
        for name in case.slopes:
            fine = avg_slopes(result, variables=name, eps=1e-3, **wts).to_dicts()[0]
            by_name[name, "dy/dx"] = fine["estimate"], extrapolated_error(result, name, wts)
        for name in case.levels:
            kind = {name: "pairwise"}
            for row in avg_comparisons(result, variables=kind, **wts).to_dicts():
                by_name[name, row["contrast"]] = row["estimate"], row["std_error"]
    for row in found:
        key = (row["term"], row["contrast"])
        estimate, error = by_name.get(key, (np.nan, np.nan))
        if np.isnan(estimate):
            estimate, error = by_name[key[0], " - ".join(reversed(key[1].split(" - ")))]
            estimate = -estimate
        close(row["estimate"], estimate, 1e-6, f"{case.name} {key} marginaleffects")
        close(row["std_error"], error, 1e-6, f"{case.name} {key} marginaleffects error")


def extrapolated_error(result: Any, name: str, wts: dict[str, str]) -> float:
    """The standard error of a slope that those of marginaleffects tend to as its steps become small.

    Its derivatives are differences of differences, which leave a narrow step no digits. Wide steps do, and
    what they are off by goes with the square of the step in the column, and with the step in a coefficient.
    """
    narrow = 1.5 * COEF_STEP * float(np.min(result.bse))

    def error(eps: float, step: float) -> float:
        row = avg_slopes(result, variables=name, eps=eps, eps_vcov=step, **wts).to_dicts()[0]
        return float(row["std_error"])

    def extrapolated(eps: float) -> float:
        near, wide, wider = (error(eps, times * narrow) for times in (1.0, 2.0, 4.0))
        return (8.0 * near - 6.0 * wide + wider) / 3.0

    near, wide, wider = (extrapolated(eps) for eps in (0.1, 0.2, 0.4))
    return (64.0 * near - 20.0 * wide + wider) / 45.0


def close(ours: float, theirs: float, tolerance: float, what: str) -> None:
    if not abs(ours - theirs) <= tolerance * abs(theirs):
        raise SystemExit(f"{what}: {ours!r} here, {theirs!r} there")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for case in CASES:
        fit = fitted(case)
        found = effects_of(case, fit)
        checked = []
        if case.margeff is not None:
            check_with_statsmodels(case, fit, found)
            shown = ", ".join(f"{key}={value!r}" for key, value in case.margeff.items())
            checked.append(GET_MARGEFF.format(shown))
        if case.packages and case.held is None:
            check_with_marginaleffects(case, fit, found)
            checked.append(MARGINALEFFECTS.format("avg_slopes, avg_comparisons"))
        stored = {
            "case": case.name,
            "covers": case.covers,
            "formula_of_patsy": case.formula,
            "computed_by": f"differences of predictions of statsmodels {sm.__version__}'s GLM",
            "checked_with": checked,
            "data": case.data,
            "columns": case.columns,
            "fit": case.fit,
            "effects": case.effects,
            "rows_used": len(fit.rows),
            "rows": found,
        }
        (OUT / f"{case.name}.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
