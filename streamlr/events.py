"""What a fit tells while it runs. The library emits, the command line shows; nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """A sentence the user should see: a target inferred, a column left out."""

    text: str


@dataclass(frozen=True)
class Progress:
    """Rows done of a pass; `phase` is "profile", "sample" or "pass", `number` counts passes from 1."""

    phase: str
    number: int
    rows_done: int
    rows_total: int | None
    seconds: float


@dataclass(frozen=True)
class PassDone:
    """A pass over all data that became an iteration. Decrement and distance are in standard errors."""

    number: int
    log_likelihood: float
    newton_decrement: float
    distance: float
    step: float
    seconds: float
    rows_per_second: float


Event = Remark | Progress | PassDone
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that does nothing."""
