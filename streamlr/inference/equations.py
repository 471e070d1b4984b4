"""Linear hypotheses as text: `"x1 - 2*x2 = 1"`, `"carrier[T.AA] = carrier[T.UA], age"`, or a term by name.

Names of terms hold brackets, commas, spaces and operators, so at each place the longest name that the model
knows is taken and nothing needs quotes.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamlr.design.design import terms_with_limits
from streamlr.design.expressions import Column
from streamlr.design.features import unwrapped
from streamlr.design.terms import Variable
from streamlr.errors import StreamlrError, did_you_mean

if TYPE_CHECKING:
    from streamlr.model import Model

Floats = NDArray[np.float64]

LONGEST_TEXT = 10_000
DEEPEST = 50
MOST_ROWS = 10_000
# Variables of a term whose name is understood in any order.
MOST_PERMUTED = 3

NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
SPACE = re.compile(r"\s*")


def coefficient_blocks(model: Model) -> dict[str, NDArray[np.int64]]:
    """The places of each term's coefficients among `model.terms`, in the order of the terms.

    Aliased coefficients have no place, and absorbed terms are not there.
    """
    design = model.design
    own = design.layout.own_columns
    active = model.basis.active[:own]
    places = np.cumsum(active) - 1
    return {
        name: places[columns][active[columns]]
        for name, columns in design.term_columns.items()
        if design.absorbed is None or name != design.absorbed.name
    }


def parse_hypotheses(model: Model, texts: Iterable[str]) -> tuple[Floats, Floats]:
    """L (m, k) and r (m,) of hypotheses in text; see `wald_test`. Raises `StreamlrError`."""
    vocabulary = _vocabulary(model)
    rows: list[tuple[dict[int, float], float]] = []
    for text in texts:
        if len(text) > LONGEST_TEXT:
            raise StreamlrError(
                f"the hypothesis has {len(text):,} characters, more than {LONGEST_TEXT:,}. Give several, "
                "or a matrix."
            )
        rows.extend(_Reading(text, vocabulary).equations())
        if len(rows) > MOST_ROWS:
            raise StreamlrError(f"the hypothesis has more than {MOST_ROWS:,} equations.")
    if not rows:
        raise StreamlrError("the hypothesis is empty: name a term, or an equation such as 'x1 - 2*x2 = 1'.")
    matrix = np.zeros((len(rows), len(model.params)))
    for row, (coefficients, _) in zip(matrix, rows, strict=True):
        for place, value in coefficients.items():
            row[place] = value
    return matrix, np.array([value for _, value in rows])


@dataclass(frozen=True)
class _Vocabulary:
    """What names mean: places of coefficients; terms with the places of theirs; and names that stand for no
    estimate, with the reason."""

    coefficients: Mapping[str, int]
    terms: Mapping[str, tuple[int, ...]]
    without: Mapping[str, str]

    def names(self) -> list[str]:
        return [*self.coefficients, *self.terms, *self.without]


def _vocabulary(model: Model) -> _Vocabulary:
    design = model.design
    coefficients = {name: place for place, name in enumerate(model.terms)}
    without: dict[str, str] = {}
    for factor in design.categories:
        if design.has_reference(factor):
            name = f"{factor.name}[T.{factor.reference}]"
            without[name] = f"{name} is the reference level: its coefficient is 0 by definition. Leave it out"
        if factor.absorbed:
            without[factor.name] = f"the effects of {factor.name} are absorbed and have no covariance"
    for name, outcome in terms_with_limits(design).items():
        without[name] = f"{name} is set aside (its outcome is always {outcome}) and is not estimable"
    for name in model.aliased:
        without[name] = f"{name} is aliased (a combination of earlier terms) and is not estimable"
    terms: dict[str, tuple[int, ...]] = {}
    others: dict[str, set[str]] = {}
    blocks = coefficient_blocks(model)
    for name, term in zip(design.term_columns, design.terms, strict=True):
        if name not in blocks:
            continue
        terms[name] = tuple(blocks[name].tolist())
        variables = [design.variables[variable] for variable in term.variables]
        if len(variables) <= MOST_PERMUTED:
            for order in permutations([_names_of(variable) for variable in variables]):
                for names in product(*order):
                    others.setdefault(":".join(names), set()).add(name)
    for other, owners in others.items():
        if len(owners) == 1:
            terms.setdefault(other, terms[next(iter(owners))])
    return _Vocabulary(
        coefficients,
        {name: own for name, own in terms.items() if name not in coefficients},
        {name: why for name, why in without.items() if name not in coefficients},
    )


def _names_of(variable: Variable) -> tuple[str, ...]:
    """What a variable may be called in the name of a term: `C(race)` is about race as well."""
    inner = unwrapped(variable.feature.expression)
    return tuple(dict.fromkeys([variable.feature.name, *([inner.name] if isinstance(inner, Column) else [])]))


@dataclass
class _Side:
    """One side of an equation: a combination of coefficients and a constant, or a whole term."""

    coefficients: dict[int, float]
    constant: float = 0.0
    term: str | None = None

    @property
    def is_constant(self) -> bool:
        return not self.coefficients and self.term is None

    def plus(self, other: _Side, sign: float, shown: str) -> _Side:
        for side in (self, other):
            if side.term is not None:
                raise StreamlrError(
                    f"{side.term} in '{shown}' has several coefficients or none: name one of them, or let "
                    f"{side.term} stand alone to test that all are 0."
                )
        total = dict(self.coefficients)
        for place, value in other.coefficients.items():
            total[place] = total.get(place, 0.0) + sign * value
        return _Side(total, self.constant + sign * other.constant)

    def times(self, factor: float) -> _Side:
        return _Side({p: v * factor for p, v in self.coefficients.items()}, self.constant * factor)


class _Reading:
    """One pass over the text of a hypothesis, from left to right."""

    def __init__(self, text: str, vocabulary: _Vocabulary) -> None:
        self._text = text
        self._known = vocabulary
        self._at = 0
        self._depth = 0
        names = vocabulary.names()
        self._names = set(names)
        self._lengths = sorted({len(name) for name in names}, reverse=True)
        # Spaces inside of names may be left out where that leaves no doubt.
        close: dict[str, set[str]] = {}
        for name in names:
            close.setdefault("".join(name.split()), set()).add(name)
        self._close = {key: next(iter(found)) for key, found in close.items() if len(found) == 1}
        self._close_lengths = sorted({len(key) for key in self._close}, reverse=True)
        self._places = [i for i, character in enumerate(text) if not character.isspace()]
        self._squeezed = "".join(text[i] for i in self._places)

    def equations(self) -> list[tuple[dict[int, float], float]]:
        """Every equation as coefficients and the value of their combination."""
        found = []
        while True:
            begin = self._at
            sides = [self._sum()]
            while self._take("="):
                self._take("=")  # Python's way of writing it
                sides.append(self._sum())
            shown = self._text[begin : self._at].strip()
            if len(sides) == 1:
                sides.append(_Side({}))
            for left, right in pairwise(sides):
                found.extend(self._equation(left, right, shown))
            if self._done():
                return found
            if not self._take(","):
                raise self._fault("an equation ends here, but no comma follows")
            if self._done():
                return found

    def _equation(self, left: _Side, right: _Side, shown: str) -> list[tuple[dict[int, float], float]]:
        for one, other in ((left, right), (right, left)):
            if one.term is not None and other.is_constant and other.constant == 0.0:
                own = self._known.terms[one.term]
                if not own:
                    raise StreamlrError(
                        f"{one.term} has no coefficient with an estimate, so it is not estimable."
                    )
                return [({place: 1.0}, 0.0) for place in own]
        total = left.plus(right, -1.0, shown)
        coefficients = {place: value for place, value in total.coefficients.items() if value != 0.0}
        if not coefficients:
            raise StreamlrError(f"'{shown}' says nothing about any coefficient: name a term of the model.")
        return [(coefficients, 0.0 - total.constant)]

    def _sum(self) -> _Side:
        begin = self._at
        sign = -1.0 if self._take("-") else 1.0
        if sign > 0:
            self._take("+")
        side = self._product()
        if sign < 0:
            side = _Side({}).plus(side, -1.0, self._text[begin : self._at].strip())
        while True:
            if self._take("+"):
                sign = 1.0
            elif self._take("-"):
                sign = -1.0
            else:
                return side
            following = self._product()
            side = side.plus(following, sign, self._text[begin : self._at].strip())

    def _product(self) -> _Side:
        begin = self._at
        side = self._operand()
        while True:
            divided = self._take("/")
            if not divided and not self._take("*"):
                return side
            other = self._operand()
            shown = self._text[begin : self._at].strip()
            if divided and other.is_constant and other.constant == 0.0:
                raise StreamlrError(f"'{shown}' divides by zero.")
            if not other.is_constant and (divided or not side.is_constant):
                raise StreamlrError(
                    f"'{shown}' is not linear: coefficients can be multiplied by numbers alone."
                )
            for one in (side, other):
                if one.term is not None:
                    one.plus(_Side({}), 1.0, shown)  # raises
            if other.is_constant:
                side = side.times(1.0 / other.constant if divided else other.constant)
            else:
                side = other.times(side.constant)
            if not all(math.isfinite(v) for v in (side.constant, *side.coefficients.values())):
                raise StreamlrError(f"'{shown}' is too large a number.")

    def _operand(self) -> _Side:
        self._skip()
        if self._at >= len(self._text):
            raise self._fault("a term or a number is missing at the end")
        if self._text[self._at] == "`":
            return self._meaning(self._quoted())
        number = NUMBER.match(self._text, self._at)
        name, end = self._name()
        if number is not None and number.end() >= end and not self._runs_on(number.end()):
            self._at = number.end()
            value = float(number.group())
            if not math.isfinite(value):
                raise StreamlrError(f"'{number.group()}' is too large a number.")
            return _Side({}, value)
        if name is not None:
            self._at = end
            return self._meaning(name)
        if self._take("("):
            self._depth += 1
            if self._depth > DEEPEST:
                raise StreamlrError(f"the hypothesis has more than {DEEPEST} brackets inside of each other.")
            side = self._sum()
            self._depth -= 1
            if not self._take(")"):
                raise self._fault("a bracket is not closed")
            return side
        word = self._word()
        if not word:
            raise self._fault(f"'{self._text[self._at]}' stands where a term or a number should")
        raise self._unknown(word)

    def _name(self) -> tuple[str | None, int]:
        """The longest name that is known at this place, and where it ends."""
        text, at = self._text, self._at
        exact = next(
            (
                text[at : at + length]
                for length in self._lengths
                if text[at : at + length] in self._names and self._ends(text[at : at + length], at + length)
            ),
            None,
        )
        found, end = exact, at + len(exact) if exact is not None else at
        start = bisect_left(self._places, at)
        for length in self._close_lengths:
            key = self._squeezed[start : start + length]
            if len(key) < length or key not in self._close:
                continue
            stop = self._places[start + length - 1] + 1
            if stop > end and self._ends(key, stop):
                return self._close[key], stop
        return found, end

    def _ends(self, name: str, end: int) -> bool:
        """Whether a name may end here: not where the text goes on with a longer name that is not known."""
        if not name or end > len(self._text):
            return False
        following = self._text[end : end + 1]
        if following in ("[", "(", ":"):
            return False
        return not (_is_of_word(name[-1]) and _is_of_word(following))

    def _runs_on(self, end: int) -> bool:
        return _is_of_word(self._text[end : end + 1])

    def _quoted(self) -> str:
        end = self._text.find("`", self._at + 1)
        while end >= 0 and self._text[end : end + 2] == "``":
            end = self._text.find("`", end + 2)
        if end < 0:
            raise self._fault("a backquote is not closed")
        name = self._text[self._at + 1 : end].replace("``", "`")
        self._at = end + 1
        if name not in self._names:
            raise self._unknown(name)
        return name

    def _meaning(self, name: str) -> _Side:
        known = self._known
        if name in known.coefficients:
            return _Side({known.coefficients[name]: 1.0})
        if known.terms.get(name):
            return _Side({}, term=name)
        if name in known.without:
            raise StreamlrError(f"{known.without[name]}.")
        return _Side({}, term=name)

    def _word(self) -> str:
        """What stands here up to a delimiter outside of brackets, for a message."""
        depth = 0
        end = self._at
        while end < len(self._text):
            character = self._text[end]
            depth += (character in "([") - (character in ")]")
            if depth < 0 or (depth == 0 and (character in ",=+-*/" or character.isspace())):
                break
            end += 1
        return self._text[self._at : end]

    def _unknown(self, name: str) -> StreamlrError:
        shown = name if len(name) <= 80 else name[:77] + "..."
        return StreamlrError(f"the model has no term '{shown}'.{did_you_mean(name, self._known.names())}")

    def _fault(self, what: str) -> StreamlrError:
        text = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        return StreamlrError(f"'{text}' is no hypothesis: {what} (character {self._at + 1}).")

    def _skip(self) -> None:
        found = SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, symbol: str) -> bool:
        self._skip()
        if self._text.startswith(symbol, self._at):
            self._at += len(symbol)
            return True
        return False

    def _done(self) -> bool:
        self._skip()
        return self._at >= len(self._text)


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character in ("_", ".") if character else False


# ------------------------------------------------------------------ matrices and labels
