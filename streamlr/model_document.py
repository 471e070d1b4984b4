"""What the document of a model file must hold: the types and ranges that everything made of it counts on.

A file is written by this program, but people edit files, and programs cut them. What is checked here needs no
knowledge of the design; that numbers fit the design, and that its functions can be computed, is checked where
the design is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

# No sum of two numbers of a fit is then infinite.
LARGEST = 1e300
# A column is divided by its scale.
SMALLEST = 1e-300
KINDS = ("number", "text", "logical", "time")
COVARIANCES = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")


def parsed(text: str) -> Any:
    """The JSON value of a text; numbers beyond those of JSON and floats are refused. Raises `ValueError`."""
    return json.loads(text, parse_constant=_no_number, parse_float=_finite_float, parse_int=_finite_int)


def check_document(content: Mapping[str, Any]) -> None:
    """Raise `ValueError` or `KeyError` for the first entry that is missing or cannot be what it should be."""
    _check_entries(content, "", TOP)
    _check_entries(content["statistics"], "statistics", STATISTICS)
    _check_entries(content["provenance"], "provenance", PROVENANCE)
    design = content["design"]
    _check_entries(design, "design", DESIGN)
    for variable in design["variables"]:
        _check_entries(variable, "a variable", VARIABLE)
        if variable["kind"] == "factor":
            _check_entries(variable, "a factor", FACTOR)
            known = [*variable["levels"], *(level for level, _ in variable["set_aside"])]
            known += [] if variable["reference"] is None else [variable["reference"]]
            if len({(isinstance(level, bool), level) for level in known}) < len(known):
                raise ValueError(f"{variable['name']} has a level twice")
            if len({_sort_of(level) for level in (*known, *variable["unused"])}) > 1:
                raise ValueError(f"the levels of {variable['name']} are of several types")
        else:
            _check_entries(variable, "a number", NUMBER)
    if "absorb_l2" in design and not _is_amount(design["absorb_l2"]):
        raise ValueError("absorb_l2 of design is not a number of 0 or more")
    basis = content["basis"]
    if not (len(basis["reduced"]) == len(basis["gamma"]) == len(basis["stretch"])):
        raise ValueError("the lengths of reduced, gamma and stretch of basis do not agree")
    if not all(_is_count(column) for column in basis["reduced"]):
        raise ValueError("reduced of basis is not a list of columns")
    if not all(
        _is_number(value) and abs(value) >= SMALLEST for value in (*basis["scale"], *basis["stretch"])
    ):
        raise ValueError("scale or stretch of basis holds a zero or no number")
    if "profile" in content and not _is_level(content["profile"]["level"]):
        raise ValueError("level of profile does not lie between 0 and 1")
    if content["statistics"]["converged"] and content["statistics"]["newton_decrement"] is None:
        raise ValueError("newton_decrement of statistics is none, although the fit converged")
    if "penalty" in content:
        _check_entries(content["penalty"], "penalty", PENALTY)
    for term in design["terms"]:
        _check_entries(term, "a term", TERM)
    met = [frozenset(term["variables"]) for term in design["terms"]]
    if len(set(met)) < len(met):
        raise ValueError("a term stands twice in the design")
    if (finding := content["separation"]) is not None:
        _check_entries(finding, "separation", SEPARATION)
        for term in finding["terms"]:
            _check_entries(term, "a term of separation", SEPARATED)


def _check_entries(value: Any, where: str, checks: Mapping[str, Check]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    for key, check in checks.items():
        if key not in value:
            raise ValueError(f"{key} is missing" + (f" in {where}" if where else ""))
        if not check(value[key]):
            shown = repr(value[key])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise ValueError(f"{key} " + (f"of {where} " if where else "") + f"cannot be {shown}")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _finite_int(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST:
        raise ValueError("an integer is too large")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def _is_amount(value: Any) -> bool:
    return _is_number(value) and value >= 0.0


def _is_log_likelihood(value: Any) -> bool:
    # Of probabilities, so not positive; binomial coefficients leave some rounding.
    return _is_number(value) and value < 1.0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_level(value: Any) -> bool:
    return _is_number(value) and 0.0 < value < 1.0


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_category(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def _is_outcome(value: Any) -> bool:
    return type(value) is int and value in (0, 1)


def _sort_of(level: Any) -> type:
    return float if type(level) is int else type(level)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _dict_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _one_of(*known: str) -> Check:
    return lambda value: type(value) is str and value in known


def _is_set_aside(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_category(value[0]) and _is_outcome(value[1])


TOP: dict[str, Check] = {
    "terms": _list_of(_is_text),
    "conf_level": _is_level,
    "dropped": _dict_of(_is_count),
    "excluded": _dict_of(_is_text),
    "aliased": _list_of(_is_text),
    "clusters": _dict_of(_is_count),
    "covariance_type": _one_of(*COVARIANCES),
    "small_sample": _one_of("none", "clusters", "full"),
    "trace": _list_of(_dict_of(_or_none(_is_number))),
    "std_errors": _list_of(_or_none(_is_amount)),
    "separation": lambda value: value is None or isinstance(value, dict),
    "design": lambda value: isinstance(value, dict),
    "basis": lambda value: isinstance(value, dict),
}
STATISTICS: dict[str, Check] = {
    "nobs": lambda value: _is_number(value) and value > 0.0,
    "log_likelihood": _is_log_likelihood,
    "null_log_likelihood": _is_log_likelihood,
    "deviance": _is_number,
    "null_deviance": _is_number,
    "converged": _is_bool,
    "passes": _is_count,
    "newton_decrement": _or_none(_is_amount),
    "rows_read": _is_count,
    "rows_used": _is_count,
    "rows_dropped": _is_count,
    "rows_set_aside": _is_count,
    "seconds": _is_amount,
    "peak_rss_bytes": _is_count,
    "absorbed_parameters": _is_amount,
}
PROVENANCE: dict[str, Check] = {
    "origin": _list_of(_is_text),
    "where": _or_none(_is_text),
    "tolerance": _or_none(_is_amount),
}
DESIGN: dict[str, Check] = {
    "target": _is_text,
    "positive": _or_none(_is_category),
    "negative": _or_none(_is_category),
    "intercept": _is_bool,
    "weights": _or_none(_is_text),
    "weight_type": _one_of("frequency", "analytic", "sampling"),
    "offset": _or_none(_is_text),
    "trials": _or_none(_is_text),
    "missing": _or_none(_one_of("drop", "error", "indicator", "fill")),
    "clusters": _list_of(_is_text),
    "variables": _list_of(lambda value: isinstance(value, dict)),
    "terms": _list_of(lambda value: isinstance(value, dict)),
    "fills": _dict_of(_is_number),
    "states": _dict_of(lambda value: isinstance(value, dict) and isinstance(value.get("knots", []), list)),
    "kinds": _dict_of(_one_of(*KINDS)),
}
VARIABLE: dict[str, Check] = {
    "kind": _one_of("number", "factor"),
    "expression": _is_text,
    "name": _is_text,
    "named": _is_bool,
    "whole": _is_bool,
    "absorbed": _is_bool,
}
TERM: dict[str, Check] = {"variables": _list_of(_is_count), "full": _list_of(_is_bool)}
PENALTY: dict[str, Check] = {
    "log_likelihood": _is_number,
    "null_log_likelihood": _or_none(_is_number),
    "df": _is_count,
    "flic_shift": _or_none(_is_number),
}
NUMBER: dict[str, Check] = {"suffixes": _list_of(_is_text)}
FACTOR: dict[str, Check] = {
    "levels": _list_of(_is_category),
    "reference": _or_none(_is_category),
    "set_aside": _list_of(_is_set_aside),
    "unused": _list_of(_is_category),
    "coding": _one_of("treatment", "sum", "helmert", "poly"),
    "kept": _or_none(_list_of(_is_category)),
    "missing_level": _or_none(_is_category),
}
SEPARATION: dict[str, Check] = {
    "kind": _one_of("complete", "quasi-complete"),
    "terms": _list_of(lambda value: isinstance(value, dict)),
    "rows_separated": _is_count,
    "rows_overlapping": _is_count,
}
SEPARATED: dict[str, Check] = {
    "term": _is_text,
    "direction": lambda value: type(value) is int and value in (-1, 1),
}
