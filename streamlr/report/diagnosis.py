"""Diagnosis as text: what fits, what does not, and which rows to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamlr.report.text import aligned, degrees, fixed, number, p_value, printable

RANKED_BY = {"cooks": "Cook's distance", "leverage": "leverage"}


def diagnosis_text(found: Mapping[str, Any]) -> str:
    """The result of `Diagnosis.result()` as text."""
    blocks = [
        [f"note: {printable(remark)}" for remark in found["remarks"]],
        _fit(found),
        _groups(found["hosmer_lemeshow"]),
        _link(found["link_test"]),
        _rows(found),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _fit(found: Mapping[str, Any]) -> list[str]:
    r2 = found["pseudo_r2"]
    passes = f"{found['passes']} pass{'' if found['passes'] == 1 else 'es'}"
    chi2 = f"{_or_none(found['pearson_chi2'], 8)} on {degrees(found['df_resid'])} degrees of freedom"
    lines = [
        f"{found['rows_used']:,} rows used, read in {passes}; log-likelihood {found['log_likelihood']:.8g}",
        f"Pearson chi-square {chi2}: dispersion {_or_none(found['dispersion'])}",
        f"deviance {_or_none(found['deviance'], 8)}: dispersion {_or_none(found['deviance_dispersion'])}",
        f"R²: McFadden {_or_none(r2['mcfadden'], 4)}, Cox–Snell {_or_none(r2['cox_snell'], 4)}, "
        f"Nagelkerke {_or_none(r2['nagelkerke'], 4)}, Tjur {_or_none(r2['tjur'], 4)}",
        f"log loss {_or_none(found['log_loss'], 6)}, Brier score {_or_none(found['brier'], 6)}",
    ]
    if found["loo_log_loss"] is not None:
        left_out = f"{found['loo_log_loss']:.6g}, {found['loo_brier']:.6g}"
        lines[-1] += f"; each row by the fit without it (one step): {left_out}"
    return [*lines, *_collinearity(found["collinearity"])]


def _collinearity(found: Mapping[str, Any]) -> list[str]:
    if not found["vif"]:
        return []
    most = max(found["vif"], key=lambda row: float(row["per_df"]))
    return [
        f"condition number {number(found['condition_number'], 4)}, with the intercept taken out "
        f"{number(found['centred_condition_number'], 4)}; errors inflated at most "
        f"{number(most['per_df'], 4)} times ({printable(most['term'])})"
    ]


def _groups(test: Mapping[str, Any]) -> list[str]:
    heads = ["p up to", "n", "observed", "expected"]
    rows = [
        [number(group["p_up_to"]), f"{group['n']:,}", f"{group['observed']:,}", fixed(group["expected"], 2)]
        for group in test["groups"]
    ]
    line = f"Hosmer–Lemeshow test in {len(rows)} group{'s' * (len(rows) != 1)}: "
    if test["statistic"] is None or test["p_value"] is None:
        line += "too few groups, or none expected in one"
    else:
        line += f"chi-square {number(test['statistic'])} on {test['df']}, p = {p_value(test['p_value'])}"
    return [line, *aligned([heads, *rows], left=())]


def _link(link: Mapping[str, Any] | None) -> list[str]:
    if link is None:
        return []
    rows = [["", "estimate", "std. error", "z", "p"]]
    for name, key in (("eta", "hat"), ("eta²", "hatsq"), ("Intercept", "intercept")):
        row = link[key]
        numbers = [number(row["estimate"]), number(row["std_error"]), fixed(row["statistic"], 2)]
        rows.append([name, *numbers, p_value(row["p_value"])])
    return ["link test: a small p of eta² speaks against the link or the terms", *aligned(rows, left=())]


def _rows(found: Mapping[str, Any]) -> list[str]:
    listed = found["influential"]
    if not listed:
        return []
    kind, _, term = found["by"].partition(":")
    ranked = RANKED_BY.get(kind) or f"the change of {printable(term)}"
    keep = list(listed[0]["keep"])
    heads = [
        *map(printable, keep),
        "row",
        "successes",
        "p",
        "leverage",
        "Pearson residual",
        "Cook's distance",
    ]
    if term:
        heads.append(f"change of {printable(term)}")
    rows = [heads]
    for row in listed:
        cells = [printable(str(value)) if value is not None else "" for value in row["keep"].values()]
        counts = row["successes"], row["trials"]
        cells += [
            str(row["row"]),
            str(counts[0]) if counts[1] == 1 else f"{counts[0]} of {counts[1]}",
            number(row["p"]),
            number(row["leverage"]),
            number(row["pearson_residual"]),
            number(row["cooks_distance"]),
        ]
        if term:
            cells.append(number(row["dfbeta"][term]))
        rows.append(cells)
    return [
        f"rows of most influence, by {ranked} (numbered from 0 as they were read)",
        *aligned(rows, left=()),
    ]


def _or_none(value: float | None, digits: int = 5) -> str:
    return "none" if value is None else number(value, digits)
