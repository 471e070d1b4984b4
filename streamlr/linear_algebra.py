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
        return np.einsum("ij,ij->j", self.inverse_lower, self.inverse_lower) / self.scale**2

    def inverse(self) -> Floats:
        """(k, k) A^-1, symmetric to the last bit"""
        if not len(self.scale):
            return np.zeros((0, 0))
        lower, _ = lapack.dlauum(self.inverse_lower, lower=1)  # L^-1' L^-1, below the diagonal
        lower /= self.scale
        lower /= self.scale[:, np.newaxis]
        lower = np.tril(lower)
        return lower + np.tril(lower, -1).T


def factorise(matrix: Floats) -> Factor | None:
    """The factor of a symmetric matrix (k, k), None where it is not finite and positive definite."""
    diagonal = np.diagonal(matrix)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix / scale
    scaled /= scale[:, np.newaxis]
    lower = _cholesky_in_place(scaled)
    return None if lower is None else Factor(scale, _inverse_in_place(lower))


def cholesky(matrix: Floats) -> Floats | None:
    """Lower Cholesky factor (k, k), None where the matrix is not finite and positive definite."""
    return _cholesky_in_place(np.array(matrix, dtype=np.float64))


def inverse_of_lower(lower: Floats) -> Floats:
    """(k, k) inverse of a lower triangular matrix."""
    return _inverse_in_place(np.array(lower, dtype=np.float64, order="F"))


def _cholesky_in_place(matrix: Floats) -> Floats | None:
    """The lower factor in the memory of a symmetric matrix, which is overwritten.

    LAPACK wants columns one after another, and a symmetric matrix is its own transpose: nothing is copied. At
    4,000 columns copies took as long as the factor.
    """
    if not len(matrix):
        return matrix
    if not np.isfinite(np.einsum("ij->", matrix)):  # LAPACK may return a factor of what is no number
        return None
    lower, fault = lapack.dpotrf(matrix.T, lower=1, clean=1, overwrite_a=1)
    return lower if fault == 0 else None


def _inverse_in_place(lower: Floats) -> Floats:
    """The inverse in the memory of a lower triangular matrix in column order, which is overwritten."""
    if not len(lower):
        return lower
    inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    return inverse
