"""A factor whose effects are absorbed: estimated with the rest, but eliminated from every linear system.

An absorbed factor may have a million levels. Every level has an effect and none is the reference, so the
model has no intercept beside it; numeric columns may still be centred, because the effects take up what
centring adds. With a ridge on the effects they no longer can stand in for an intercept, and it stays.
"""

from __future__ import annotations

import math
from dataclasses import replace

from streamlr.design.columns import why_unusable
from streamlr.design.expressions import Column
from streamlr.design.features import Feature, unwrapped
from streamlr.design.spec import Spec
from streamlr.errors import StreamlrError, did_you_mean


def absorbing(spec: Spec, column: str | None, ridge: float) -> Spec:
    """The spec with the effects of `column` absorbed, and held back by `ridge` times half their squares.

    The absorbed factor becomes the last term, whether it was a feature before or not. Raises `StreamlrError`
    for a column that cannot be a factor, or has another role.
    """
    if not (ridge >= 0.0 and math.isfinite(ridge)):
        raise StreamlrError(f"absorb_l2 must be zero or a positive number, not {ridge}.")
    if column is None:
        if ridge:
            raise StreamlrError("absorb_l2 needs a column to absorb (absorb=...).")
        return spec
    if column not in spec.types:
        raise StreamlrError(f"no column '{column}' to absorb.{did_you_mean(column, list(spec.types))}")
    if column in (spec.target, spec.weights, spec.offset, spec.trials):
        raise StreamlrError(
            f"column '{column}' cannot be both absorbed and the target, weights, offset or trials."
        )
    if column in spec.reference:
        raise StreamlrError(
            f"column '{column}' is absorbed: every level has an effect, and none is the reference."
        )
    reason = why_unusable(spec.types[column])
    if reason is not None:
        raise StreamlrError(f"column '{column}' cannot be absorbed: {reason}.")
    alone = {
        place
        for place, feature in enumerate(spec.features)
        if unwrapped(feature.expression) == Column(column)
    }
    for term in spec.terms:
        if len(term) > 1 and alone & set(term):
            raise StreamlrError(
                f"column '{column}' is absorbed and cannot meet other variables in a term as well."
            )
    others = spec.without(alone, {})
    absorbed = Feature(Column(column), column, categorical=True, named=True, absorbed=True)
    return replace(
        others,
        features=(*others.features, absorbed),
        terms=(*others.terms, (len(others.features),)),
        intercept=spec.intercept and ridge > 0.0,
        excluded={name: why for name, why in spec.excluded.items() if name != column},
        absorb_l2=ridge,
    )
