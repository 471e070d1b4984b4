"""The exceptions of streamlr: one root, and the few children that a caller would tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class StreamlrError(Exception):
    """Something about files, columns, formulas or numbers; the message says what, where and what to do."""


class SeparationError(StreamlrError):
    """The likelihood has no finite maximum. `separation` is shaped as in the JSON result."""

    def __init__(self, message: str, separation: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.separation = dict(separation)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.separation)


def remedies(aside: str | None) -> list[str]:
    """What to do about separation, a sentence each; `aside`: the policy that fits the overlapping rows."""
    found = [
        "Leave out or merge the terms that give the outcome away.",
        "Keep them with Firth's penalised likelihood: --firth.",
    ]
    if aside is not None:
        found.insert(0, f"Set the rows predicted perfectly aside and fit the others: --separation {aside}.")
    return found


class ConvergenceWarning(UserWarning):
    """The estimates were returned without a proof that they are within the tolerance of the maximum."""


LONGEST_NAME = 200


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, or nothing: " Did you mean 'income'?"."""
    names = list(known)
    if len(name) > LONGEST_NAME:  # nobody types such a name by mistake, and comparing takes seconds
        return ""
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if not near:
        lowered = {known_name.lower(): known_name for known_name in names}
        near = [lowered[match] for match in get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)]
    return f" Did you mean '{near[0]}'?" if near else ""
