"""The functions that formulas may call, and whether an expression makes sense for the types of the columns.

`kind_of` checks a whole expression before a row is read, so that what is wrong with it is named at once. A
function maps values row by row (`log`, `year`, `lower`), or it has a state that is learned once from all rows
before the fit (`scale`, `poly`, `bs`, `cut`). `C`, `cut`, `lump` and `hash` make factors. What each does to a
batch is in `streamlr.design.values`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from streamlr.design.columns import is_number, is_text
from streamlr.design.expressions import (
    COMPARISONS,
    Call,
    Column,
    Constant,
    Expression,
    Operation,
    Word,
    nodes_of,
    text_of,
)
from streamlr.errors import StreamlrError, did_you_mean

Kind = Literal["number", "logical", "text", "time", "factor"]

CODINGS = {"treatment": "treatment", "sum": "sum", "helmert": "helmert", "poly": "poly"}
LONGEST_POLYNOMIAL = 30
MOST_SPLINE_COLUMNS = 200
MOST_BUCKETS = 100_000
MOST_INTERVALS = 1_000
# Functions that make several columns.
SEVERAL = ("poly", "bs", "ns", "cr")


@dataclass(frozen=True)
class Function:
    """A function: what its first argument may be, what it returns, and the names of its options.

    `options` are constants, given by name or in this order behind the first argument.
    """

    takes: tuple[Kind, ...]
    gives: Kind
    options: tuple[str, ...] = ()
    many: bool = False  # takes two arguments or more, and no options
    learns: bool = False


# What users of other programs look for.
FOREIGN = {
    "factor": " Write C(x).",
    "as.factor": " Write C(x).",
    "Q": " Write the name in backquotes.",
    "offset": " Name the column with --offset (offset=...).",
    "isin": " Write (x == 'a') | (x == 'b').",
    "ifelse": " Conditions count as 0 and 1 in arithmetic.",
}

NUMERIC: tuple[Kind, ...] = ("number", "logical")
ANY: tuple[Kind, ...] = ("number", "logical", "text", "time")
LEVELS: tuple[Kind, ...] = ("number", "logical", "text")

ROUNDING = ("floor", "ceil", "round", "sign")
CALENDAR = ("year", "month", "day", "dow", "hour", "minute")

FUNCTIONS: dict[str, Function] = {
    **{name: Function(NUMERIC, "number") for name in ("log", "log1p", "log2", "log10", "exp", "sqrt", "abs")},
    **{name: Function(NUMERIC, "number") for name in ("sign", "floor", "ceil")},
    "round": Function(NUMERIC, "number", ("digits",)),
    "clip": Function(NUMERIC, "number", ("lower", "upper")),
    "min": Function(NUMERIC, "number", many=True),
    "max": Function(NUMERIC, "number", many=True),
    "I": Function(ANY, "number"),
    "C": Function(LEVELS, "factor", ("coding", "reference", "levels")),
    "center": Function(NUMERIC, "number", learns=True),
    "scale": Function(NUMERIC, "number", learns=True),
    "standardize": Function(NUMERIC, "number", learns=True),
    "poly": Function(NUMERIC, "number", ("degree",), learns=True),
    "bs": Function(
        NUMERIC,
        "number",
        ("df", "knots", "degree", "include_intercept", "lower_bound", "upper_bound"),
        learns=True,
    ),
    "ns": Function(
        NUMERIC, "number", ("df", "knots", "include_intercept", "lower_bound", "upper_bound"), learns=True
    ),
    "cr": Function(NUMERIC, "number", ("df", "knots", "lower_bound", "upper_bound"), learns=True),
    "cut": Function(NUMERIC, "factor", ("breaks", "quantiles", "right", "include_lowest"), learns=True),
    "lump": Function(LEVELS, "factor", ("min", "top")),
    "hash": Function(LEVELS, "factor", ("buckets",)),
    **{name: Function(("time",), "number") for name in CALENDAR},
    "isnull": Function(ANY, "logical"),
    "lower": Function(("text",), "text"),
    "strip": Function(("text",), "text"),
    "len": Function(("text",), "number"),
}


def kind_of(expression: Expression, types: Mapping[str, pa.DataType]) -> Kind:
    """What the values of an expression are. Raises `StreamlrError` where it makes no sense for the types."""
    if isinstance(expression, Column):
        return column_kind(expression.name, types[expression.name])
    if isinstance(expression, Constant):
        return _constant_kind(expression)
    if isinstance(expression, Operation):
        return _operation_kind(expression, types)
    if isinstance(expression, Word):
        raise StreamlrError(f"'{expression.text}' is no value.")
    return _call_kind(expression, types)


def check_alone(expression: Expression) -> None:
    """Refuse functions that make several columns, or a factor, inside of others. Raises `StreamlrError`."""
    inner = expression
    while isinstance(inner, Call) and inner.function == "I" and inner.arguments:
        inner = inner.arguments[0]
    for node in nodes_of(inner):
        if node is not inner and isinstance(node, Call) and node.function in SEVERAL:
            raise StreamlrError(
                f"{text_of(expression)}: {node.function} makes several columns and must stand alone, such as "
                f"{text_of(node)}."
            )


def is_whole(expression: Expression, types: Mapping[str, pa.DataType]) -> bool:
    """Whether the values of a numeric expression are whole numbers whatever the rows hold."""
    if isinstance(expression, Column):
        return bool(pa.types.is_integer(types[expression.name]))
    if isinstance(expression, Constant):
        return isinstance(expression.value, int)
    if isinstance(expression, Operation):
        whole = all(is_whole(operand, types) for operand in expression.operands)
        return expression.operator in ("+", "-", "*", "%", "//") and whole
    if isinstance(expression, Word):
        return False
    if expression.function in ("I", "abs", "min", "max"):
        return all(is_whole(argument, types) for argument in expression.arguments)
    if expression.function == "round":
        return int(options_of(expression).get("digits") or 0) <= 0
    return expression.function in (*ROUNDING, *CALENDAR, "len")


def column_kind(name: str, kind: pa.DataType) -> Kind:
    """What the values of a column are. Raises `StreamlrError` where nothing can be done with them."""
    stored = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_number(stored) or pa.types.is_null(stored):
        return "number"
    if pa.types.is_boolean(stored):
        return "logical"
    if is_text(stored):
        return "text"
    if pa.types.is_timestamp(stored) or pa.types.is_date(stored):
        return "time"
    raise StreamlrError(f"column '{name}' ({kind}) cannot be used in a formula.")


def _constant_kind(constant: Constant) -> Kind:
    if isinstance(constant.value, bool):
        return "logical"
    if isinstance(constant.value, int | float):
        return "number"
    if isinstance(constant.value, str):
        return "text"
    raise StreamlrError(f"{text_of(constant)} cannot stand there: a value for each row is needed.")


def _operation_kind(operation: Operation, types: Mapping[str, pa.DataType]) -> Kind:
    kinds = [kind_of(operand, types) for operand in operation.operands]
    shown = text_of(operation)
    if "factor" in kinds:
        raise StreamlrError(f"{shown}: a factor cannot be calculated with.")
    if operation.operator in ("&", "|", "~"):
        if any(kind != "logical" for kind in kinds):
            raise StreamlrError(f"{shown}: {operation.operator} joins conditions, such as (x > 1) & (y < 2).")
        return "logical"
    if operation.operator in COMPARISONS:
        texts = [isinstance(operand, Constant) for operand in operation.operands]
        alike = {"number" if kind == "logical" else kind for kind in kinds}
        if len(alike) > 1 and not (alike == {"time", "text"} and any(texts)):
            raise StreamlrError(f"{shown}: {kinds[0]} cannot be compared with {kinds[1]}.")
        return "logical"
    if any(kind not in NUMERIC for kind in kinds):
        wrong = next(kind for kind in kinds if kind not in NUMERIC)
        raise StreamlrError(f"{shown}: arithmetic needs numbers, and there is a {wrong}.")
    return "number"


def _call_kind(call: Call, types: Mapping[str, pa.DataType]) -> Kind:
    function = FUNCTIONS.get(call.function)
    if function is None:
        hint = FOREIGN.get(call.function) or did_you_mean(call.function, list(FUNCTIONS))
        raise StreamlrError(
            f"there is no function '{call.function}'.{hint} Functions are: {', '.join(sorted(FUNCTIONS))}."
        )
    shown = text_of(call)
    if not call.arguments or (function.many and len(call.arguments) < 2):
        raise StreamlrError(
            f"{shown}: {'two columns or more' if function.many else 'a column'} must be given."
        )
    values = call.arguments if function.many else call.arguments[:1]
    kinds = [kind_of(value, types) for value in values]
    for kind, value in zip(kinds, values, strict=True):
        if kind not in function.takes:
            raise StreamlrError(
                f"{shown}: {call.function} takes {' or '.join(function.takes)}, and {text_of(value)} is a "
                f"{kind}."
            )
    options = options_of(call)
    check = CHECKS.get(call.function)
    if check is not None:
        check(shown, options)
    return kinds[0] if call.function == "I" else function.gives


def options_of(call: Call) -> dict[str, Any]:
    """The options of a call by name. Raises `StreamlrError` for one that the function does not have."""
    function, shown = FUNCTIONS[call.function], text_of(call)
    names = function.options
    given = call.arguments[1:] if not function.many else ()
    if len(given) > len(names):
        raise StreamlrError(f"{shown}: {call.function} takes {1 + len(names)} arguments at most.")
    found: dict[str, Any] = {}
    for name, value in [*zip(names, given, strict=False), *call.options]:
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "it has none"
            raise StreamlrError(f"{shown}: {call.function} has no option '{name}'; {known}.")
        if name in found:
            raise StreamlrError(f"{shown}: '{name}' is given twice.")
        if call.function == "C" and name == "coding":
            found[name] = _coding(shown, value)
        else:
            found[name] = _constant(shown, value)
    return found


def _constant(shown: str, value: Expression) -> Any:
    if not isinstance(value, Constant):
        raise StreamlrError(f"{shown}: {text_of(value)} must be a number, a text or a list of them.")
    return value.value


def _coding(shown: str, value: Expression) -> str:
    """A coding as it is written: sum, Sum, contr.sum, 'sum'."""
    name = value.text if isinstance(value, Word) else str(value.value) if isinstance(value, Constant) else ""
    found = CODINGS.get(name.lower().removeprefix("contr."))
    if found is None:
        raise StreamlrError(f"{shown}: there is no coding {text_of(value)}; there are {', '.join(CODINGS)}.")
    return found


def _whole(shown: str, options: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = options.get(name)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise StreamlrError(f"{shown}: {name} must be a whole number from {least} to {most}, not {value!r}.")


def _numbers(shown: str, options: Mapping[str, Any], name: str) -> None:
    value = options.get(name)
    if value is None:
        return
    listed = value if isinstance(value, tuple) else (value,)
    if not listed or any(type(item) not in (int, float) for item in listed):
        raise StreamlrError(f"{shown}: {name} must be a list of numbers, not {value!r}.")


def _number(shown: str, options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if options.get(name) is not None and type(options[name]) not in (int, float):
            raise StreamlrError(f"{shown}: {name} must be a number, not {options[name]!r}.")


def _truth(shown: str, options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if options.get(name) is not None and type(options[name]) is not bool:
            raise StreamlrError(f"{shown}: {name} must be True or False, not {options[name]!r}.")


def _one_of(shown: str, options: Mapping[str, Any], *names: str) -> None:
    if sum(options.get(name) is not None for name in names) != 1:
        raise StreamlrError(f"{shown}: give one of {' and '.join(f'{name}=' for name in names)}.")


def _check_spline(shown: str, options: Mapping[str, Any]) -> None:
    _one_of(shown, options, "df", "knots")
    least = 2 if shown.startswith("cr(") else 1
    _whole(shown, options, "df", least, MOST_SPLINE_COLUMNS)
    _whole(shown, options, "degree", 0, 10)
    _numbers(shown, options, "knots")
    _number(shown, options, "lower_bound", "upper_bound")
    _truth(shown, options, "include_intercept")
    if shown.startswith("bs(") and options.get("df") is not None:
        degree = options.get("degree")
        least = (3 if degree is None else degree) + int(options.get("include_intercept") or False)
        if options["df"] < least:
            raise StreamlrError(f"{shown}: df must be at least {least} for this degree.")


def _check_cut(shown: str, options: Mapping[str, Any]) -> None:
    _one_of(shown, options, "breaks", "quantiles")
    _whole(shown, options, "quantiles", 2, MOST_INTERVALS)
    _numbers(shown, options, "breaks")
    _truth(shown, options, "right", "include_lowest")
    breaks = options.get("breaks")
    if breaks is not None and (not isinstance(breaks, tuple) or len(set(breaks)) < 2):
        raise StreamlrError(f"{shown}: breaks must be a list of at least two different numbers.")


def _check_lump(shown: str, options: Mapping[str, Any]) -> None:
    _one_of(shown, options, "min", "top")
    _whole(shown, options, "min", 1, 1 << 62)
    _whole(shown, options, "top", 1, 1 << 62)


def _check_hash(shown: str, options: Mapping[str, Any]) -> None:
    if options.get("buckets") is None:
        raise StreamlrError(f"{shown}: give the number of buckets, such as hash(x, 64).")
    _whole(shown, options, "buckets", 2, MOST_BUCKETS)


def _check_poly(shown: str, options: Mapping[str, Any]) -> None:
    _whole(shown, options, "degree", 1, LONGEST_POLYNOMIAL)


def _check_levels(shown: str, options: Mapping[str, Any]) -> None:
    levels = options.get("levels")
    if levels is None:
        return
    if not isinstance(levels, tuple) or len(set(levels)) < len(levels) or len(levels) < 2:
        raise StreamlrError(f"{shown}: levels must be a list of at least two different values.")


def _check_clip(shown: str, options: Mapping[str, Any]) -> None:
    _number(shown, options, "lower", "upper")
    lower, upper = options.get("lower"), options.get("upper")
    if lower is not None and upper is not None and lower > upper:
        raise StreamlrError(f"{shown}: lower must not be above upper.")


CHECKS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    "poly": _check_poly,
    "bs": _check_spline,
    "ns": _check_spline,
    "cr": _check_spline,
    "cut": _check_cut,
    "lump": _check_lump,
    "hash": _check_hash,
    "C": _check_levels,
    "clip": _check_clip,
    "round": lambda shown, options: _whole(shown, options, "digits", -300, 300),
}
