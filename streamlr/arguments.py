"""What the functions of the package are handed, checked where it is handed over: columns are named by texts,
settings are numbers. Whatever else comes is refused in one line that says what to hand over instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from streamlr.errors import StreamlrError


def column(argument: str, value: Any) -> str | None:
    """The name of one column, or None. Raises `StreamlrError` for anything else, such as its values."""
    if value is None or isinstance(value, str):
        return value
    hint = ": put the values into a column of the data, and name it" if hasattr(value, "__len__") else ""
    raise StreamlrError(f"{argument} must be the name of a column, not {_kind(value)}{hint}.")


def columns(argument: str, value: Any) -> tuple[str, ...]:
    """Names of columns, of which a text is one; none for None. Raises `StreamlrError` for anything else."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise StreamlrError(f"{argument} must be names of columns, as texts, not {_kind(value)}.")
    return tuple(str(name) for name in names)


def by_column(argument: str, value: Any) -> dict[str, Any]:
    """A mapping from names of columns; empty for None. Raises `StreamlrError` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise StreamlrError(
            f"{argument} must be a dict by column, such as {{'carrier': 'UA'}}, not {value!r}."
        )
    return {str(name): entry for name, entry in value.items()}


def text(argument: str, value: Any) -> str | None:
    """A text, or None. Raises `StreamlrError` for anything else."""
    if value is None or isinstance(value, str):
        return value
    raise StreamlrError(f"{argument} must be a text, not {_kind(value)}.")


def number(argument: str, value: Any) -> float:
    """A number. Raises `StreamlrError` for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    raise StreamlrError(f"{argument} must be a number, not {value!r}.")


def probability(argument: str, value: Any) -> float:
    """A number between 0 and 1, both excluded. Raises `StreamlrError` for anything else."""
    level = number(argument, value)
    if not 0.0 < level < 1.0:
        raise StreamlrError(f"{argument} must lie between 0 and 1, not {value}.")
    return level


def whole(argument: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`. Raises `StreamlrError` for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise StreamlrError(f"{argument} must be a whole number, not {value!r}.")
    count = int(value)
    if most is not None and not least <= count <= most:
        raise StreamlrError(f"{argument} must lie between {least} and {most:,}, not {count:,}.")
    if count < least:
        raise StreamlrError(f"{argument} must be at least {least}, not {count}.")
    return count


def _kind(value: Any) -> str:
    """What a value is, for a message: short ones themselves, others by their type."""
    if isinstance(value, bool | int | float):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
