"""Is there a finite maximum? What separation is called, and which terms it concerns.

Complete separation is proved: when the loss of all rows together is below log 2 times the least weight, every
row lies on its own side of the plane, and moving along the coefficients raises the likelihood for ever.
Quasi-complete separation is recognised by coefficients that diverge: the decrement keeps shrinking at the
slow rate that separated rows impose while no certificate of a finite maximum appears (see
`streamlr.newton`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import SeparationError

Floats = NDArray[np.float64]

# Terms whose share of the direction, in standard deviations of their columns, is below this are not named.
SHARE = 1e-3


def is_complete(loss: float, least_weight: float, has_offset: bool) -> bool:
    """Whether the loss alone proves complete separation. With an offset it proves nothing about x'coef."""
    return not has_offset and loss < math.log(2.0) * least_weight


def separated_terms(
    direction: Floats, raw_direction: Floats, names: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The terms that a direction moves, with the sign in which each goes to infinity; (p,) both."""
    largest = np.abs(direction).max(initial=0.0)
    return [
        {"term": name, "direction": 1 if raw > 0 else -1}
        for name, share, raw in zip(names, np.abs(direction), raw_direction, strict=True)
        if name != "Intercept" and share > SHARE * largest
    ]


def separation_error(
    kind: str, terms: Sequence[Mapping[str, Any]], separated: int, overlapping: int
) -> SeparationError:
    """The finding as the error that `fit` raises."""
    arrows = ", ".join(f"{t['term']} → {'+' if t['direction'] > 0 else '−'}∞" for t in terms[:12])
    more = ", …" if len(terms) > 12 else ""
    rows = (
        "every row is predicted perfectly"
        if kind == "complete"
        else f"{separated:,} rows are predicted perfectly, {overlapping:,} overlap"
    )
    return SeparationError(
        f"{kind} separation: no finite maximum-likelihood estimate exists ({rows}). "
        f"Diverging: {arrows}{more}. Leave out or merge the terms that give the outcome away.",
        {
            "kind": kind,
            "terms": [dict(term) for term in terms],
            "rows_separated": separated,
            "rows_overlapping": overlapping,
        },
    )
