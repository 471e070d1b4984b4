"""How much terms say what other terms say already, from the information of a saved model alone.

Inflation factors and condition numbers are those of the weighted regression that the last Newton step was:
of the information X'WX with W = diag(w mu (1 - mu)), model-based whatever covariance the table uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.inference.equations import coefficient_blocks
from streamlr.inference.hypotheses import covariance_root
from streamlr.linear_algebra import inverse_of_lower, qr_triangle
from streamlr.report.grids import Field, Grid, TermTable

if TYPE_CHECKING:
    from streamlr.model import Model

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class InflationFactor:
    """GVIF of a term with `df` coefficients; `per_df` is GVIF^(1 / (2 df)), which compares terms of different
    size and is the factor by which a standard error grew where df is 1."""

    term: str
    gvif: float
    df: int
    per_df: float


@dataclass(frozen=True)
class InflationFactors(TermTable[InflationFactor]):
    """The inflation factors of all terms, in the order of the terms."""

    def grid(self) -> Grid:
        """Their table."""
        fields = (
            Field("term", "", "text"),
            Field("gvif", "GVIF"),
            Field("df", "df", "degrees"),
            Field("per_df", "GVIF^(1/(2 df))"),
        )
        return Grid(fields, self.as_dicts(), above=("Variance inflation factors",))


def vif(model: Model) -> InflationFactors:
    """Generalised variance inflation factors, one for each term with an estimate.

    With R the correlation matrix of the coefficients without the intercept, split into those of a term (1)
    and the others (2),

        GVIF = det(R_11) det(R_22) / det(R) = det(V_11) det((V^-1)_11),

    the second form of the covariance V, which needs no determinant of all other terms. A term with one
    coefficient has the usual VIF. Without an intercept the factors are not centred and may mean little.

    Agrees with R's `car::vif` of a glm (Fox and Monette 1992, Journal of the American Statistical
    Association 87, 178-183). Raises `StreamlrError` for a model without such a term.
    """
    blocks = [(name, own) for name, own in coefficient_blocks(model).items() if len(own)]
    if not blocks:
        raise StreamlrError("the model has no term beside the intercept, so nothing is inflated.")
    slopes = _slopes(model)
    root = covariance_root(model, robust=False).half[slopes]
    scaled = root / np.sqrt(np.einsum("ij,ij->i", root, root))[:, np.newaxis]
    triangle = qr_triangle(scaled.T)[: len(slopes)]
    # R = T'T, so that R^-1 is I I' with I = T^-1, whose rows are those of coefficients.
    inverse = inverse_of_lower(np.ascontiguousarray(triangle.T)).T
    place_of = {int(column): place for place, column in enumerate(slopes)}
    rows = []
    for name, own in blocks:
        places = [place_of[int(column)] for column in own]
        log_gvif = _log_determinant(triangle[:, places]) + _log_determinant(inverse[places].T)
        df = len(places)
        rows.append(InflationFactor(name, float(np.exp(log_gvif)), df, float(np.exp(log_gvif / (2 * df)))))
    return InflationFactors(tuple(rows))


def condition_number(model: Model, *, centred: bool = False) -> float:
    """Condition number of the information, its columns scaled to length one.

    sqrt(largest / smallest eigenvalue) of D X'WX D with D = diag(X'WX)^(-1/2): the largest condition index of
    Belsley, Kuh and Welsch (1980, Regression Diagnostics, section 3.2) for the columns of W^(1/2) X, the
    intercept among them and nothing centred. They call 30 and more a sign of dependencies that harm. A column
    far from zero is nearly the intercept, so with `centred` the intercept is taken out of the other columns
    first, as absorbed effects always are, which tells dependencies among them alone.

    Agrees with `kappa(sqrt(W) * X with columns of length one, exact = TRUE)` in R.
    """
    root = covariance_root(model, robust=False).half
    if centred:
        root = root[_slopes(model)]
    if not len(root):
        raise StreamlrError("the model has no coefficient whose dependence on others could be measured.")
    lengths = np.sqrt(np.einsum("ij,ij->i", root, root))
    triangle = qr_triangle((root / lengths[:, np.newaxis]).T)[: len(root)]
    inverse = inverse_of_lower(np.ascontiguousarray(triangle.T)).T
    inverse = inverse / np.sqrt(np.einsum("ij,ij->i", inverse, inverse))[:, np.newaxis]
    values = np.linalg.svd(inverse, compute_uv=False)
    return float(values[0] / values[-1])


def _slopes(model: Model) -> NDArray[np.int64]:
    """(s,) places of all coefficients but the intercept."""
    first = int(bool(model.design.intercept) and model.terms[:1] == ("Intercept",))
    return np.arange(first, len(model.params))


def _log_determinant(columns: Floats) -> float:
    """log det(C'C) of columns (m, df)."""
    triangle = qr_triangle(columns)[: columns.shape[1]]
    return 2.0 * float(np.log(np.abs(np.diagonal(triangle))).sum())
