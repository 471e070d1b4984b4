"""Designs made by hand, of columns as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamlr.design.design import Design
from streamlr.design.expressions import Column
from streamlr.design.features import Feature, Reader
from streamlr.design.terms import Factor, Number, Term


def number(column: str, *, named: bool = False) -> Number:
    return Number(Feature(Column(column), column, categorical=False, named=named))


def factor(column: str, levels: Sequence[Any], reference: Any, *, name: str | None = None) -> Factor:
    feature = Feature(Column(column), name or column, categorical=True, named=False)
    return Factor(feature, tuple(levels), reference)


def design(*variables: Number | Factor, trials: str | None = None) -> Design:
    """A model of y with an intercept and a term for each variable."""
    return Design(
        target="y",
        positive=1,
        negative=0,
        intercept=True,
        variables=variables,
        terms=tuple(Term((place,), (False,)) for place in range(len(variables))),
        reader=Reader(),
        weights=None,
        weight_type="frequency",
        offset=None,
        trials=trials,
        missing="drop",
    )
