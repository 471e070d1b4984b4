"""A formula as terms: `late ~ dep_delay + C(carrier) * log(distance)`.

formulaic's parser reads the grammar (Wilkinson and Rogers 1973, Applied Statistics 22, 392-399) into a tree
of operators; what they mean is worked out here on sets of variables, as R does it, under bounds that keep any
text fast: formulaic's own expansion takes 15 seconds for seven terms to the power of seven. Nothing is
evaluated. formulaic sees a mark in place of every variable, because it would read calls as Python does, where
`x^(2+1)` and `x^2+1` are one.

A term is a set of variables, each an expression; the empty one is the intercept. Terms come by the number of
their variables, as R orders them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from streamlr.design.expressions import (
    MAXIMUM_DEPTH,
    Column,
    Constant,
    Expression,
    columns_of,
    parse_expression,
)
from streamlr.errors import StreamlrError

MAXIMUM_LENGTH = 65_536
MAXIMUM_TERMS = 10_000
LARGEST_POWER = 4
# Variables and terms that are looked at while the operators are worked out: 0.5 s.
MOST_STEPS = 1_000_000
# What a formula is cut into: names in backquotes, texts, words, and single characters. What has no end takes
# all that is left, so that no text is looked through twice.
PIECES = re.compile(
    r"""`(?:[^`]|``)+(?:`(?!`)|\Z)|'(?:[^'\\]|\\.)*(?:'|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)|%in%|[\w.]+|\s+|.""",
    re.DOTALL,
)
CLOSING = {"(": ")", "[": "]", "{": "}"}
SIGNS = ("+", "-", "~", "!")
OPERATORS = (*SIGNS, "*", "/", ":", "^", "%in%")
# A character of no script, which stands with a number for a variable.
MARK = "\ue000"

Term = tuple[Expression, ...]
# Terms by their variables as a set, so that a:b and b:a are one.
Terms = dict[frozenset[Expression], Term]


@dataclass(frozen=True)
class Formula:
    """What a formula says: outcome (None: it names none), intercept or none, and terms.

    `written`: columns that the user wrote; others come from the dot.
    """

    target: str | None
    intercept: bool
    terms: tuple[Term, ...]
    written: frozenset[str]
    has_dot: bool


def parse_formula(text: str, columns: Sequence[str]) -> Formula:
    """Read a formula; `columns` are what `.` may stand for. Raises `StreamlrError`."""
    if not text.replace("~", "").strip():
        raise StreamlrError(f"the formula {text!r} names no column.")
    reader = _Reader(text, columns)
    left, right = reader.sides()
    target = None
    if left is not None:
        found = [term for term in reader.terms(left).values() if term]
        if len(found) != 1 or len(found[0]) != 1 or not isinstance(found[0][0], Column):
            raise StreamlrError(f"the left side of {_short(text)} must be one column, the outcome.")
        target = found[0][0].name
        reader.leave_out(target)
    terms = list(reader.terms(right).values())
    return Formula(
        target=target,
        intercept=() in terms,
        terms=tuple(sorted((term for term in terms if term), key=len)),
        written=frozenset(reader.written),
        has_dot=reader.has_dot,
    )


class _Marked:
    """A formula with a mark in place of every variable: names, calls, and what stands in braces.

    Raises `StreamlrError` for what is beyond the bounds under which formulaic's parser is quick; real
    formulas are far below them.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAXIMUM_LENGTH:
            raise StreamlrError(
                f"the formula has {len(text):,} characters; at most {MAXIMUM_LENGTH:,} are read."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StreamlrError("the formula is not valid Unicode text.") from error
        self._whole = text
        self._pieces = PIECES.findall(text)
        self.variables: list[str] = []
        written: list[str] = []
        depth = joined = signs = at = 0
        while at < len(self._pieces):
            piece = self._pieces[at]
            follows = self._pieces[at + 1] if at + 1 < len(self._pieces) else ""
            end = at + 1
            if piece == "{" or (follows == "(" and re.match(r"[^\W\d]", piece)):
                end = self._end_of(at if piece == "{" else at + 1)
                inside = self._pieces[at + 1 : end - 1] if piece == "{" else self._pieces[at:end]
                piece = self._mark("".join(inside).strip())
            elif piece == "`":
                raise self._fault("a name in backquotes is empty or has no end")
            elif piece[0] == "`" or (re.match(r"[\w.]", piece) and not re.fullmatch("[0-9.]+", piece)):
                piece = self._mark(piece)
            depth += (piece == "(") - (piece == ")")
            signs = signs + 1 if piece in SIGNS else signs * piece.isspace()
            joined += piece in OPERATORS
            if depth > MAXIMUM_DEPTH or signs > MAXIMUM_DEPTH:
                raise StreamlrError(f"the formula is nested more than {MAXIMUM_DEPTH} deep.")
            if joined > MAXIMUM_TERMS:
                raise StreamlrError(f"the formula {_short(text)} has more than {MAXIMUM_TERMS:,} operators.")
            if piece in ("[", "]", "{", "}"):
                raise self._fault(f"'{piece}' is not expected there")
            if piece == "|":  # formulaic takes 90 s for 30,000 of them, to say the same
                raise StreamlrError(f"cannot use {_short(text)}: the operator | has no meaning there.")
            written.append(piece)
            at = end
        self.text = "".join(written)

    def shown(self, message: str) -> str:
        """A message about marks as one about variables."""
        for number in reversed(range(len(self.variables) if MARK in message else 0)):
            message = message.replace(f"{MARK}{number}", self.variables[number].strip("`"))
        return message

    def _mark(self, variable: str) -> str:
        self.variables.append(variable)
        return f"`{MARK}{len(self.variables) - 1}`"

    def _end_of(self, at: int) -> int:
        """Where what is opened here has been closed."""
        awaited: list[str] = []
        while at < len(self._pieces):
            piece = self._pieces[at]
            at += 1
            if piece in CLOSING:
                awaited.append(CLOSING[piece])
                if len(awaited) > MAXIMUM_DEPTH:
                    raise StreamlrError(f"the formula is nested more than {MAXIMUM_DEPTH} deep.")
            elif piece in CLOSING.values():
                if awaited.pop() != piece:
                    raise self._fault(f"there is a '{piece}' that closes nothing")
                if not awaited:
                    return at
        raise self._fault(f"'{awaited[-1]}' is missing at the end")

    def _fault(self, reason: str) -> StreamlrError:
        return StreamlrError(f"cannot read the formula {_short(self._whole)}: {reason}.")


class _Reader:
    """The tree of a formula and the terms that its operators make."""

    def __init__(self, text: str, columns: Sequence[str]) -> None:
        self._text = text
        self._marked = _Marked(text)
        self._steps = 0
        self._columns = list(columns)
        self.written: set[str] = set()
        self.has_dot = False

    def sides(self) -> tuple[Any, Any]:
        """The trees left and right of the tilde; None where there is no left side."""
        from formulaic.errors import FormulaParsingError
        from formulaic.parser import DefaultFormulaParser

        try:
            tree = DefaultFormulaParser(include_intercept=True).get_ast(self._marked.text)
        except (FormulaParsingError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise StreamlrError(
                f"cannot read the formula {_short(self._text)}: {self._marked.shown(_reason(error))}"
            ) from error
        if _symbol(tree) != "~":
            return None, tree
        return (tree.args[0], tree.args[1]) if len(tree.args) == 2 else (None, tree.args[0])

    def leave_out(self, target: str) -> None:
        """The outcome is none of the columns that a dot stands for."""
        self._columns = [name for name in self._columns if name != target]

    def terms(self, tree: Any, depth: int = 0) -> Terms:
        """Terms that a tree stands for. A long sum is a deep tree: its left arms are not recursed into."""
        if depth > MAXIMUM_DEPTH:
            raise StreamlrError(
                f"the formula {_short(self._text)} joins more than {MAXIMUM_DEPTH} operators."
            )
        pending = []
        while _symbol(tree) in ("+", "-") and len(tree.args) == 2:
            pending.append((_symbol(tree), tree.args[1]))
            tree = tree.args[0]
        found = self._single(tree, depth + 1)
        for symbol, other in reversed(pending):
            terms = self._single(other, depth + 1)
            self._spend(len(terms))
            for key, term in terms.items():
                if symbol == "+":
                    found.setdefault(key, term)
                else:
                    found.pop(key, None)
            self._check_number(found)
        return found

    def _single(self, tree: Any, depth: int) -> Terms:
        symbol = _symbol(tree)
        if symbol is None:
            return self._leaf(tree)
        if symbol == ".":
            self.has_dot = True
            return self._bounded((Column(name),) for name in self._columns)
        if symbol in ("+", "-"):
            if len(tree.args) == 2:
                return self.terms(tree, depth)
            if symbol == "+":
                return self.terms(tree.args[0], depth)
        if len(tree.args) == 2 and symbol in ("**", "^"):
            return self._power(self.terms(tree.args[0], depth), tree.args[1])
        if len(tree.args) == 2 and symbol in (":", "*", "/", "in"):
            left, right = (self.terms(side, depth) for side in tree.args)
            if symbol == "/":
                return self._bounded([*left.values(), *self._crossed([_union(left)], right.values())])
            if symbol == "in":
                return self._bounded(self._crossed(left.values(), [_union(right)]))
            crossed = self._crossed(left.values(), right.values())
            return self._bounded(crossed if symbol == ":" else [*left.values(), *right.values(), *crossed])
        raise StreamlrError(f"cannot use {_short(self._text)}: the operator {symbol} has no meaning there.")

    def _leaf(self, token: Any) -> Terms:
        text, kind = str(token.token), token.kind.value
        if kind == "value" and text in ("0", "1"):
            # Zero is "no intercept": formulaic has made it a subtraction of 1 where it stands alone.
            return {frozenset(): ()} if text == "1" else {}
        if kind == "value":
            raise self._no_term(text)
        variable = self._marked.variables[int(text.removeprefix(MARK))]
        expression = parse_expression(variable)
        if isinstance(expression, Constant):
            raise self._no_term(variable)
        self.written.update(columns_of(expression))
        return {frozenset([expression]): (expression,)}

    def _no_term(self, text: str) -> StreamlrError:
        return StreamlrError(
            f"cannot use {_short(self._text)}: {_short(text)} is no term. For a constant write I(1)."
        )

    def _power(self, terms: Terms, exponent: Any) -> Terms:
        text = str(getattr(exponent, "token", ""))
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= LARGEST_POWER:
            raise StreamlrError(
                f"cannot use {_short(self._text)}: a power of terms must be a whole number from 1 to "
                f"{LARGEST_POWER}. For a power of a number write I(x**2)."
            )
        found = terms
        for _ in range(int(text) - 1):
            found = self._bounded([*found.values(), *self._crossed(found.values(), terms.values())])
        return found

    def _crossed(self, left: Iterable[Term], right: Iterable[Term]) -> Iterable[Term]:
        """Every term of one side joined with every one of the other."""
        left, right = list(left), list(right)
        self._spend(sum(map(len, left)) * len(right) + sum(map(len, right)) * len(left))
        return (tuple(dict.fromkeys((*a, *b))) for a, b in product(left, right))

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise StreamlrError(f"the formula {_short(self._text)} takes too long to work out.")

    def _bounded(self, terms: Iterable[Term]) -> Terms:
        """Each term once, in the order they come."""
        found: Terms = {}
        for term in terms:
            found.setdefault(frozenset(term), term)
            self._check_number(found)
        return found

    def _check_number(self, terms: Terms) -> None:
        if len(terms) > MAXIMUM_TERMS:
            raise StreamlrError(f"the formula {_short(self._text)} makes more than {MAXIMUM_TERMS:,} terms.")


def _union(terms: Terms) -> Term:
    """All variables of some terms as one term."""
    return tuple(dict.fromkeys(variable for term in terms.values() for variable in term))


def _symbol(tree: Any) -> str | None:
    """The operator of a tree, None for a leaf."""
    operator = getattr(tree, "operator", None)
    return None if operator is None else str(operator.symbol)


def _reason(error: BaseException) -> str:
    """The first line of what the parser said, without the codes that colour it."""
    lines = re.sub(r"\x1b\[[0-9;]*m|[⧛⧚]", "", str(error)).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if re.search(r"Unknown operator '[=<>!&]", reason):
        return f"{reason} Conditions and arithmetic stand inside I(...), such as I(x > 3)."
    return reason.replace("insuffient", "insufficient")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
