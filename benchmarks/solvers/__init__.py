"""One module per program, all with one signature, so that a runner can treat them alike.

A solver is a module with `solve(path, target, features) -> Solution`: it reads the Parquet file (or
directory) itself, and features that are text or boolean are factors in treatment coding. A module
whose name ends in `_cli` is a whole program instead: `command(path, target)` is what a shell would run,
every other column being a feature, and `read(stdout)` turns what it printed into a Solution; it imports
the standard library only. Terms carry streamlr's names: `Intercept`, `f01`, `carrier[T.AA]`. Options, as
in `streamlr_cli:memory=512MB`, are further keyword arguments, whose values are text.
"""

from __future__ import annotations

from typing import TypedDict


class Solution(TypedDict):
    """What a solver found, by term, and the seconds of its two stages (None: not separable)."""

    coef: dict[str, float]
    std_error: dict[str, float] | None
    load_seconds: float | None
    fit_seconds: float | None
