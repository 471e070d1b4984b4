"""Factors of positive definite matrices, by LAPACK.

`scipy.linalg` is imported here and not where it is used, so that its BLAS is loaded, and can be held to one
thread, before a fit begins. It costs nothing: numba imports it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Factor:
    """A = D L L' D with D = diag(scale), scaled so that L L' has a unit diagonal; `inverse_lower` is L^-1."""

    scale: Floats  # (k,)
    inverse_lower: Floats  # (k, k)

    def half_solve(self, vector: Floats) -> Floats:
        """(k,) L^-1 D^-1 vector, whose length is that of the vector in the metric of A^-1."""
        return self.inverse_lower @ (vector / self.scale)

    def solve(self, vector: Floats) -> Floats:
        """(k,) A^-1 vector"""
        return (self.inverse_lower.T @ self.half_solve(vector)) / self.scale

    def inverse_diagonal(self) -> Floats:
        """(k,) diagonal of A^-1"""
        return (self.inverse_lower**2).sum(axis=0) / self.scale**2

    def inverse(self) -> Floats:
        """(k, k) A^-1, symmetric to the last bit"""
        whole = self.inverse_lower.T @ self.inverse_lower
        lower = np.tril(whole / np.multiply.outer(self.scale, self.scale))
        return lower + np.tril(lower, -1).T


def factorise(matrix: Floats) -> Factor | None:
    """The factor of a symmetric matrix (k, k), None where it is not finite and positive definite."""
    if not np.isfinite(matrix).all():
        return None
    diagonal = np.diagonal(matrix)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    lower = cholesky(matrix / np.multiply.outer(scale, scale))
    return None if lower is None else Factor(scale, inverse_of_lower(lower))


def cholesky(matrix: Floats) -> Floats | None:
    """Lower Cholesky factor (k, k), None where the matrix is not positive definite."""
    try:
        return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None


def inverse_of_lower(lower: Floats) -> Floats:
    """(k, k) inverse of a lower triangular matrix."""
    if not len(lower):
        return lower
    inverse, _ = lapack.dtrtri(lower, lower=1)
    return np.tril(inverse)
