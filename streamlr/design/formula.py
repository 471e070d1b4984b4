"""A formula as a list of columns: `late ~ dep_delay + C(carrier)`.

The grammar is formulaic's parser; nothing is evaluated. Terms so far are columns, `C(column)`, `.` for all
other columns, and `0` or `-1` for no intercept; anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streamlr.errors import StreamlrError

CATEGORICAL = re.compile(r"C\(\s*(?:`([^`]+)`|([^\W\d]\w*))\s*\)")
DOT = re.compile(r"(?<![\w.])\.(?![\w.])")
# formulaic's parser takes seconds on formulas made to be slow; real ones are far below this.
MAXIMUM_LENGTH = 65_536


@dataclass(frozen=True)
class Formula:
    """What a formula says: outcome, intercept or none, and (column, made categorical) for every term."""

    target: str | None
    intercept: bool
    terms: tuple[tuple[str, bool], ...]
    written: frozenset[str]  # columns that the user wrote; others come from the dot
    has_dot: bool


def parse_formula(text: str, columns: Sequence[str]) -> Formula:
    """Read a formula; `columns` are what `.` may stand for. Raises `StreamlrError`."""
    from formulaic.errors import FormulaParsingError
    from formulaic.parser import DefaultFormulaParser

    if len(text) > MAXIMUM_LENGTH:
        raise StreamlrError(f"the formula has {len(text):,} characters; at most {MAXIMUM_LENGTH:,} are read.")
    if not text.replace("~", "").strip():
        raise StreamlrError(f"the formula {text!r} names no column.")
    outcome = text.partition("~")[0].strip().strip("`")
    available = [name for name in columns if name != outcome]
    try:
        parsed = DefaultFormulaParser(include_intercept=True).get_terms(
            text, context={"__formulaic_variables_available__": available}
        )
    except (FormulaParsingError, SyntaxError, RecursionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StreamlrError(f"cannot read the formula {text!r}: {reason}") from error
    target = None
    right = parsed
    if hasattr(parsed, "lhs"):
        left = list(parsed.lhs)
        if len(left) != 1 or len(left[0].factors) != 1:
            raise StreamlrError(f"the left side of {text!r} must be one column, the outcome.")
        target = left[0].factors[0].expr
        right = parsed.rhs
    intercept = False
    terms = []
    for term in right:
        if not hasattr(term, "factors"):
            raise StreamlrError(f"cannot use {text!r}: parts split by | are not supported.")
        factors = [factor.expr for factor in term.factors]
        if factors == ["1"]:
            intercept = True
        elif len(factors) > 1:
            raise StreamlrError(f"the interaction {':'.join(factors)} in {text!r} is not supported yet.")
        else:
            terms.append(_column_of(factors[0], term.factors[0].eval_method.value, text))
    right_side = text.partition("~")[2] if "~" in text else text
    has_dot = DOT.search(re.sub(r"`[^`]*`", "", right_side)) is not None
    words = set(re.findall(r"[^\W\d]\w*(?:\.\w+)*", re.sub(r"`[^`]*`", " ", right_side)))
    words.update(re.findall(r"`([^`]*)`", right_side))
    written = words if has_dot else {column for column, _ in terms}
    return Formula(target, intercept, tuple(terms), frozenset(written), has_dot)


def _column_of(expression: str, method: str, text: str) -> tuple[str, bool]:
    if method == "lookup":
        return expression, False
    match = CATEGORICAL.fullmatch(expression)
    if match:
        return match.group(1) or match.group(2), True
    raise StreamlrError(
        f"cannot use the term {expression} of {text!r}: terms are columns and C(column) so far."
    )
