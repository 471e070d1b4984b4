"""streamlr through its Python interface; reading and fitting are one stage there."""

from __future__ import annotations

from time import perf_counter

import streamlr

from . import Solution


def solve(path: str, target: str, features: list[str], memory: str | None = None) -> Solution:
    """Maximum likelihood by `streamlr.fit`; aliased terms are absent."""
    start = perf_counter()
    model = streamlr.fit(path, target=target, features=features, memory=memory)
    seconds = perf_counter() - start
    return {
        "coef": dict(zip(model.terms, model.params.tolist(), strict=True)),
        "std_error": dict(zip(model.terms, model.bse.tolist(), strict=True)),
        "load_seconds": None,
        "fit_seconds": seconds,
    }
