"""Expressions inside formulas: `log(x + 1)`, `C(carrier, reference='UA')`, `bs(age, df=4)`, as trees.

The text is read by a small grammar of its own and never evaluated as Python: there are names of columns,
numbers, text, lists, arithmetic, comparisons, and calls of the functions in `streamlr.design.functions`.
Nothing else can be written, so nothing else can happen. `text_of` writes a tree back in one normal form,
which is the name of the term.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from streamlr.errors import StreamlrError

MAXIMUM_DEPTH = 100

Plain = float | int | str | bool | None


@dataclass(frozen=True)
class Column:
    """A column of the data."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A number, a text, True, False, None, or a list of these."""

    value: Plain | tuple[Plain, ...]


@dataclass(frozen=True)
class Word:
    """A bare word that names an option: `sum` in `C(x, sum)`."""

    text: str


@dataclass(frozen=True)
class Operation:
    """An operator with one operand or two."""

    operator: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True)
class Call:
    """A function with what stands in its parentheses; `options` are those given by name."""

    function: str
    arguments: tuple[Expression, ...]
    options: tuple[tuple[str, Expression], ...] = ()


Expression = Column | Constant | Word | Operation | Call

TOKENS = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | `(?P<quoted>(?:[^`]|``)*)`(?!`)
    | (?P<name>[^\W\d]\w*(?:\.\w+)*)
    | (?P<symbol>\*\*|//|<=|>=|==|!=|[-+*/%^<>()\[\],=&|~!])
    )""",
    re.VERBOSE,
)
# How tightly an operator binds: `&` and `|` looser than comparisons, as in R.
BINARY = {
    "|": 1, "&": 2,
    "==": 4, "!=": 4, "<": 4, "<=": 4, ">": 4, ">=": 4,
    "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8,
}  # fmt: skip
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
NOT, SUM, NEGATIVE = 3, 5, 7
WORDS: dict[str, Plain] = {
    "True": True, "TRUE": True, "False": False, "FALSE": False, "None": None, "NULL": None, "Inf": math.inf,
}  # fmt: skip
SAME = {"or": "|", "and": "&", "^": "**", "not": "~", "!": "~"}
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def parse_expression(text: str) -> Expression:
    """The tree of an expression. Raises `StreamlrError` for anything that is none."""
    reader = _Reader(text)
    found = reader.expression(0, 0)
    reader.end()
    reader.check_height(found)
    return found


class _Reader:
    """Reads tokens one by one; `depth` bounds how deep it may go into parentheses and signs."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        place, end = 0, len(text.rstrip())
        while place < end:
            match = TOKENS.match(text, place)
            if match is None:
                raise self._fault(f"'{text[place:].strip()[:20]}' is not understood")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind]))
            place = match.end()
        self._tokens.append(("end", ""))

    def expression(self, least: int, depth: int) -> Expression:
        """What stands here, up to an operator that binds looser than `least`."""
        if depth > MAXIMUM_DEPTH:
            raise self._fault(f"it is nested more than {MAXIMUM_DEPTH} deep")
        left = self._prefix(depth)
        chained = False
        while True:
            operator = self._operator()
            binding = BINARY.get(operator, 0)
            if binding < max(least, 1):
                return left
            self._at += 1
            # A power takes its right side whole: 2 ** 3 ** 2 is 2 ** 9.
            right = self.expression(binding if operator == "**" else binding + 1, depth + 1)
            if operator in COMPARISONS and chained:
                raise self._fault("comparisons cannot be chained; write (a < b) & (b < c)")
            chained = operator in COMPARISONS
            left = Operation(operator, (left, right))

    def end(self) -> None:
        """Nothing may be left."""
        kind, text = self._tokens[self._at]
        if kind != "end":
            raise self._fault(f"'{text}' is not expected there")

    def check_height(self, expression: Expression) -> None:
        """A long sum is a high tree, though it has no parentheses; what walks trees walks by recursion."""
        level = [expression]
        for _ in range(MAXIMUM_DEPTH + 1):
            level = [inside for node in level for inside in insides_of(node)]
            if not level:
                return
        raise self._fault(
            f"it joins or nests more than {MAXIMUM_DEPTH} operators; put parentheses around parts of it"
        )

    def _operator(self) -> str:
        kind, text = self._tokens[self._at]
        if kind == "symbol" or (kind == "name" and text in SAME):
            return SAME.get(text, text)
        return ""

    def _prefix(self, depth: int) -> Expression:
        operator = self._operator()
        if operator in ("-", "+", "~"):
            self._at += 1
            operand = self.expression(NOT if operator == "~" else NEGATIVE, depth + 1)
            if operator == "+":
                return operand
            if operator == "-" and isinstance(operand, Constant) and type(operand.value) in (int, float):
                return Constant(-operand.value)  # type: ignore[operator]
            return Operation(operator, (operand,))
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            if not math.isfinite(float(text)):
                raise self._fault(f"{text if len(text) <= 20 else text[:20] + '...'} is too large a number")
            return Constant(float(text) if re.search(r"[.eE]", text) else int(text))
        if kind == "text":
            return Constant(ESCAPE.sub(lambda found: ESCAPED.get(found[1], found[1]), text[1:-1]))
        if kind == "quoted":
            return Column(text.replace("``", "`"))
        if kind == "name" and text in WORDS:
            return Constant(WORDS[text])
        if kind == "name":
            return self._call(text, depth) if self._tokens[self._at] == ("symbol", "(") else Column(text)
        if (kind, text) == ("symbol", "("):
            inner = self.expression(0, depth + 1)
            self._expect(")")
            return inner
        if (kind, text) == ("symbol", "["):
            return self._list(depth)
        raise self._fault("it ends too early" if kind == "end" else f"'{text}' is not expected there")

    def _call(self, function: str, depth: int) -> Expression:
        self._at += 1
        arguments: list[Expression] = []
        options: list[tuple[str, Expression]] = []
        while self._tokens[self._at] != ("symbol", ")"):
            kind, text = self._tokens[self._at]
            if kind == "name" and self._tokens[self._at + 1] == ("symbol", "="):
                self._at += 2
                if any(text == name for name, _ in options):
                    raise self._fault(f"'{text}' is given twice")
                options.append((text, self.expression(0, depth + 1)))
            elif options:
                raise self._fault("what is given by name must stand last")
            else:
                arguments.append(self.expression(0, depth + 1))
            if self._tokens[self._at] != ("symbol", ","):
                break
            self._at += 1
        self._expect(")")
        if function == "c" and not options:  # R's way to write a list
            return self._constants(arguments)
        if function == "C":
            return _with_coding(tuple(arguments), tuple(options))
        return Call(function.removeprefix("np."), tuple(arguments), tuple(options))

    def _list(self, depth: int) -> Constant:
        items: list[Expression] = []
        while self._tokens[self._at] != ("symbol", "]"):
            items.append(self.expression(0, depth + 1))
            if self._tokens[self._at] != ("symbol", ","):
                break
            self._at += 1
        self._expect("]")
        return self._constants(items)

    def _constants(self, items: list[Expression]) -> Constant:
        values: list[Plain] = []
        for item in items:
            if not isinstance(item, Constant) or isinstance(item.value, tuple):
                raise self._fault("a list holds numbers or texts only")
            values.append(item.value)
        return Constant(tuple(values))

    def _expect(self, symbol: str) -> None:
        kind, text = self._tokens[self._at]
        if (kind, text) != ("symbol", symbol):
            raise self._fault(f"'{symbol}' is missing" + (f" before '{text}'" if text else " at the end"))
        self._at += 1

    def _fault(self, reason: str) -> StreamlrError:
        shown = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        return StreamlrError(f"cannot read the expression {shown!r}: {reason}.")


def _with_coding(arguments: tuple[Expression, ...], options: tuple[tuple[str, Expression], ...]) -> Call:
    """A call of `C`, whose coding is a word and no column: `sum`, `Sum`, `contr.sum`, `Treatment('a')`."""
    if len(arguments) > 1 and isinstance(arguments[1], Call):
        coding = arguments[1]
        inside = [*(("reference", value) for value in coding.arguments), *coding.options]
        arguments, options = (arguments[0], Word(coding.function), *arguments[2:]), (*inside, *options)
    elif len(arguments) > 1 and isinstance(arguments[1], Column):
        arguments = (arguments[0], Word(arguments[1].name), *arguments[2:])
    words = [
        (name, Word(value.name) if name == "coding" and isinstance(value, Column) else value)
        for name, value in options
    ]
    return Call("C", arguments, tuple(words))


def text_of(expression: Expression) -> str:
    """The expression in normal form: one space around operators but the power, none around `=`."""
    return _text(expression, 0)


def _text(expression: Expression, least: int) -> str:
    if isinstance(expression, Column):
        return quoted(expression.name)
    if isinstance(expression, Word):
        return expression.text
    if isinstance(expression, Constant):
        text = _constant(expression.value)
        return f"({text})" if text.startswith("-") and least > NEGATIVE else text
    if isinstance(expression, Call):
        inside = [_text(argument, 0) for argument in expression.arguments]
        inside += [f"{name}={_text(value, 0)}" for name, value in expression.options]
        return f"{expression.function}({', '.join(inside)})"
    operator, operands = expression.operator, expression.operands
    if len(operands) == 1:
        binding = NOT if operator == "~" else NEGATIVE
        text = f"{operator}{_text(operands[0], SUM if operator == '~' else binding)}"
    elif operator in ("&", "|"):
        binding = BINARY[operator]
        text = f"{_text(operands[0], SUM)} {operator} {_text(operands[1], SUM)}"
    else:
        binding = BINARY[operator]
        power = operator == "**"
        left = binding + 1 if power or operator in COMPARISONS else binding
        right = binding if power else binding + 1
        space = "" if power else " "
        text = f"{_text(operands[0], left)}{space}{operator}{space}{_text(operands[1], right)}"
    return f"({text})" if binding < least else text


def _constant(value: Plain | tuple[Plain, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_constant, value))}]"
    if not isinstance(value, str):
        return repr(value).replace("inf", "Inf")
    quote = '"' if "'" in value and '"' not in value else "'"
    text = value.replace("\\", "\\\\").replace(quote, "\\" + quote)
    for letter, character in ESCAPED.items():
        text = text.replace(character, "\\" + letter)
    return f"{quote}{text}{quote}"


def quoted(name: str) -> str:
    """The name of a column as it is written inside an expression."""
    plain = re.fullmatch(r"[^\W\d]\w*(?:\.\w+)*", name) and name not in WORDS and name not in SAME
    return name if plain else "`" + name.replace("`", "``") + "`"


def columns_of(expression: Expression) -> tuple[str, ...]:
    """The columns that an expression reads, each once."""
    return tuple(dict.fromkeys(node.name for node in nodes_of(expression) if isinstance(node, Column)))


def nodes_of(expression: Expression) -> Iterator[Expression]:
    """The expression and everything inside it, insides first."""
    for inside in insides_of(expression):
        yield from nodes_of(inside)
    yield expression


def insides_of(expression: Expression) -> tuple[Expression, ...]:
    """What stands directly inside an expression."""
    if isinstance(expression, Call):
        return (*expression.arguments, *(value for _, value in expression.options))
    return expression.operands if isinstance(expression, Operation) else ()
