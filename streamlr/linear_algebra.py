"""Factors of positive definite matrices: dense ones by LAPACK, bordered ones by block elimination.

A Hessian is an array (k, k); a `Blocked`, a matrix in which a run of columns is known never to meet, as the
levels of a factor do not; or a `Bordered`, whose last block is diagonal and which is never formed: that of a
factor whose effects are absorbed. `diagonal`, `plus_diagonal`, `product`, `restricted`, `is_finite`, `solve`
and `factorise` take any, so that whoever uses them need not know which it is. Columns that never meet are
eliminated first: with 3,000 of 5,000 the factor costs a fifth.

What is large is worked on in blocks of fixed borders, by as many threads as `threads_of_algebra` allows; the
result is the same for any number of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamlr.lapack import blas, lapack

Floats = NDArray[np.float64]

# Numbers of a border that are worked on at once, so that what is computed of it needs no second border.
AT_ONCE = 1 << 19
# Columns that are mirrored at once: both copies of such a block stay in the second-level cache.
MIRRORED = 128
# Rows of a matrix that a thread works on at once.
ROWS_AT_ONCE = 256
# Steps of a power iteration that is to tell orders of magnitude.
POWERS = 5

_threads: ContextVar[int] = ContextVar("threads", default=1)


@contextlib.contextmanager
def threads_of_algebra(count: int) -> Iterator[None]:
    """As many threads may work on large matrices inside of the block."""
    before = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(before)


def _for_each(work: Callable[[slice], None], blocks: list[slice]) -> None:
    """Work on blocks that do not depend on each other."""
    count = min(_threads.get(), len(blocks))
    if count < 2:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, blocks))


def _blocks(count: int) -> list[slice]:
    return [slice(first, min(first + ROWS_AT_ONCE, count)) for first in range(0, count, ROWS_AT_ONCE)]


@dataclass(frozen=True)
class Bordered:
    """The symmetric matrix [[dense, border], [border', diag(tail)]] of order p + m, which is never formed."""

    dense: Floats  # (p, p)
    border: Floats  # (p, m)
    tail: Floats  # (m,)

    def __len__(self) -> int:
        return len(self.dense) + len(self.tail)

    @property
    def chunks(self) -> Iterator[slice]:
        """Runs of columns of the border; where they end depends on its shape alone."""
        step = max(AT_ONCE // max(len(self.dense), 1), 1)
        return (slice(first, first + step) for first in range(0, len(self.tail), step))

    def schur_complement(self) -> Floats:
        """(p, p) dense - border diag(1 / tail) border', symmetric to the last bit."""
        left = self.dense.copy()
        if len(left) <= ROWS_AT_ONCE:
            for chunk in self.chunks if len(left) else ():
                half = self.border[:, chunk] / np.sqrt(self.tail[chunk])
                left -= half @ half.T
            return left

        def subtract(rows: slice) -> None:
            for chunk in self.chunks:
                half = self.border[: rows.stop, chunk] / np.sqrt(self.tail[chunk])
                left[rows, : rows.stop] -= half[rows] @ half.T

        _for_each(subtract, _blocks(len(left)))
        _mirror(left)
        return left

    def completed(self, vector: Floats) -> Floats:
        """(p + m,) `vector` (p,) and in front of the border what brings the last m products to zero.

        Of a combination of columns it is the combination with its regression on the last m taken out.
        """
        return np.concatenate([vector, -(vector @ self.border) / self.tail])


@dataclass(frozen=True)
class Blocked:
    """A symmetric matrix (k, k) in which the columns of `run` never meet: their block is diagonal.

    `inner` has the run last.
    """

    inner: Bordered
    run: slice

    def __len__(self) -> int:
        return len(self.inner)

    @cached_property
    def factor(self) -> BlockedFactor | None:
        """Its factor, None where it is not finite and positive definite."""
        found = factorise(self.inner)
        return BlockedFactor(self, found) if isinstance(found, BorderedFactor) else None

    @property
    def others(self) -> NDArray[np.int64]:
        """(p,) the columns in front of the run and behind it."""
        return np.concatenate([np.arange(self.run.start), np.arange(self.run.stop, len(self))])

    def run_last(self, vector: Floats) -> Floats:
        """(k,) a vector in the order of `inner`."""
        return np.concatenate([vector[: self.run.start], vector[self.run.stop :], vector[self.run]])

    def run_back(self, vector: Floats) -> Floats:
        """(k,) a vector in the order of `inner` in that of the matrix."""
        p, start = len(self.inner.dense), self.run.start
        return np.concatenate([vector[:start], vector[p:], vector[start:p]])

    @property
    def matrix(self) -> Floats:
        """(k, k) the matrix as an array"""
        others, run = self.others, self.run
        whole = np.zeros((len(self), len(self)))
        whole[np.ix_(others, others)] = self.inner.dense
        whole[others, run] = self.inner.border
        whole[run, others] = self.inner.border.T
        places = np.arange(run.start, run.stop)
        whole[places, places] = self.inner.tail
        return whole


Hessian = Floats | Blocked | Bordered


@dataclass(frozen=True)
class Inverse:
    """The inverse of a matrix, formed when it is asked for: of 5,000 columns it takes 200 MB and a second."""

    of: Blocked

    @cached_property
    def matrix(self) -> Floats:
        """(k, k) the inverse, symmetric to the last bit"""
        assert self.of.factor is not None, "it has been inverted for standard errors"
        return self.of.factor.into_inverse()


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

    def into_inverse(self) -> Floats:
        """(k, k) A^-1, symmetric to the last bit, in the memory of the factor, which is of no use after it.

        At 5,000 columns each copy takes 200 MB.
        """
        if not len(self.scale):
            return np.zeros((0, 0))
        # L^-1' L^-1, below the diagonal
        lower, _ = lapack.dlauum(self.inverse_lower, lower=1, overwrite_c=1)
        lower /= self.scale
        lower /= self.scale[:, np.newaxis]
        _mirror(lower)
        return lower


@dataclass(frozen=True)
class BorderedFactor:
    """A bordered matrix with the factor of its Schur complement.

    Its inverse is that of the Schur complement in the first block, and everything else follows from it by
    products with the border (Boyd and Vandenberghe 2004, Convex Optimization, appendix C.4). A factor of it
    has the diagonal first and the dense block last: L = [[sqrt(tail), 0], [border / sqrt(tail), L of S]].
    """

    matrix: Bordered
    schur: Factor

    def half_solve(self, vector: Floats) -> Floats:
        """(p + m,) L^-1 vector, whose length is that of the vector in the metric of the inverse."""
        first, last = self._split(vector)
        rest = first - self.matrix.border @ (last / self.matrix.tail)
        return np.concatenate([self.schur.half_solve(rest), last / np.sqrt(self.matrix.tail)])

    def solve(self, vector: Floats) -> Floats:
        """(p + m,) the inverse times a vector"""
        matrix = self.matrix
        first, last = self._split(vector)
        head = self.schur.solve(first - matrix.border @ (last / matrix.tail))
        return np.concatenate([head, (last - head @ matrix.border) / matrix.tail])

    def inverse_diagonal(self) -> Floats:
        """(p + m,) diagonal of the inverse: of S^-1, and of D^-1 + D^-1 B' S^-1 B D^-1."""
        matrix = self.matrix
        last = 1.0 / matrix.tail

        def add(chunk: slice) -> None:
            columns = matrix.border[:, chunk] / self.schur.scale[:, np.newaxis]
            half = blas.dtrmm(1.0, self.schur.inverse_lower, columns, lower=1)
            last[chunk] += np.einsum("ij,ij->j", half, half) / matrix.tail[chunk] ** 2

        _for_each(add, list(matrix.chunks) if len(matrix.dense) else [])
        return np.concatenate([self.schur.inverse_diagonal(), last])

    def into_inverse(self) -> Floats:
        """(p, p) the first block of the inverse, in the memory of the factor; see `Factor.into_inverse`"""
        return self.schur.into_inverse()

    def _split(self, vector: Floats) -> tuple[Floats, Floats]:
        p = len(self.matrix.dense)
        return vector[:p], vector[p:]


@dataclass(frozen=True)
class BlockedFactor:
    """The factor of a `Blocked`, whose run is eliminated first."""

    matrix: Blocked
    inner: BorderedFactor

    @cached_property
    def condition(self) -> float:
        """About the largest eigenvalue of the inverse of the matrix scaled to a unit diagonal.

        By power iteration (Golub and Van Loan 2013, Matrix Computations, section 7.3.1), which comes from
        below; a tenth of it is never reported here in practice.
        """
        scale = np.sqrt(diagonal(self.matrix.inner))
        vector = np.full(len(scale), 1.0 / math.sqrt(len(scale)))
        largest = 0.0
        for _ in range(POWERS):
            vector = scale * self.inner.solve(scale * vector)
            largest = float(np.sqrt(vector @ vector))
            vector /= largest
        return largest

    def half_solve(self, vector: Floats) -> Floats:
        """(k,) L^-1 vector in the order of elimination; its length is that in the metric of the inverse."""
        return self.inner.half_solve(self.matrix.run_last(vector))

    def solve(self, vector: Floats) -> Floats:
        """(k,) the inverse times a vector"""
        return self.matrix.run_back(self.inner.solve(self.matrix.run_last(vector)))

    def inverse_diagonal(self) -> Floats:
        """(k,) diagonal of the inverse"""
        return self.matrix.run_back(self.inner.inverse_diagonal())

    def into_inverse(self) -> Floats:
        """(k, k) the inverse, symmetric to the last bit"""
        matrix, schur = self.matrix, self.inner.schur
        others, run, tail = matrix.others, matrix.run, matrix.inner.tail
        head = Factor(schur.scale, schur.inverse_lower.copy(order="F")).into_inverse()
        whole = np.empty((len(matrix), len(matrix)))
        whole[np.ix_(others, others)] = head
        shares = matrix.inner.border / tail
        middle = np.empty_like(shares)

        def multiply(rows: slice) -> None:
            np.matmul(head[rows], shares, out=middle[rows])

        def fill(rows: slice) -> None:
            block = shares[:, rows].T @ middle[:, : rows.stop]
            block[np.arange(len(block)), np.arange(rows.start, rows.stop)] += 1.0 / tail[rows]
            whole[run.start + rows.start : run.start + rows.stop, run.start : run.start + rows.stop] = block

        _for_each(multiply, _blocks(len(head)))
        whole[others, run] = -middle
        whole[run, others] = -middle.T
        _for_each(fill, _blocks(len(tail)))
        _mirror(whole[run, run])
        return whole


AnyFactor = Factor | BlockedFactor | BorderedFactor


def diagonal(hessian: Hessian) -> Floats:
    """(k,) the diagonal."""
    if isinstance(hessian, Bordered):
        return np.concatenate([np.diagonal(hessian.dense), hessian.tail])
    if isinstance(hessian, Blocked):
        return hessian.run_back(diagonal(hessian.inner))
    return np.diagonal(hessian)


def product(hessian: Hessian, vector: Floats) -> Floats:
    """(k,) the matrix times a vector."""
    if isinstance(hessian, Blocked):
        return hessian.run_back(product(hessian.inner, hessian.run_last(vector)))
    if not isinstance(hessian, Bordered):
        return hessian @ vector
    p = len(hessian.dense)
    first, last = vector[:p], vector[p:]
    return np.concatenate(
        [hessian.dense @ first + hessian.border @ last, first @ hessian.border + hessian.tail * last]
    )


def plus_diagonal(hessian: Hessian, values: Floats) -> Hessian:
    """The matrix with `values` (k,) added to its diagonal."""
    if isinstance(hessian, Bordered):
        p = len(hessian.dense)
        return Bordered(_plus(hessian.dense, values[:p]), hessian.border, hessian.tail + values[p:])
    if isinstance(hessian, Blocked):
        inner = plus_diagonal(hessian.inner, hessian.run_last(values))
        assert isinstance(inner, Bordered)
        return Blocked(inner, hessian.run)
    return _plus(hessian, values)


def _plus(matrix: Floats, values: Floats) -> Floats:
    found = matrix.copy()
    np.einsum("ii->i", found)[:] += values
    return found


def restricted(hessian: Hessian, places: NDArray[np.int64]) -> Hessian:
    """Rows and columns `places`, ascending; the matrix itself where that is all of them."""
    if len(places) == len(hessian):
        return hessian
    if isinstance(hessian, Blocked):
        start, stop = (int(end) for end in np.searchsorted(places, [hessian.run.start, hessian.run.stop]))
        length = hessian.run.stop - hessian.run.start
        own = np.concatenate([places[:start], places[stop:] - length])
        last = places[start:stop] - hessian.run.start
        inner = hessian.inner
        return Blocked(
            Bordered(inner.dense[np.ix_(own, own)], inner.border[np.ix_(own, last)], inner.tail[last]),
            slice(start, stop),
        )
    if not isinstance(hessian, Bordered):
        return hessian[np.ix_(places, places)]
    p = len(hessian.dense)
    split = int(np.searchsorted(places, p))
    first, last = places[:split], places[split:] - p
    border = hessian.border if split == p else hessian.border[first]
    if len(last) == len(hessian.tail):
        return Bordered(hessian.dense[np.ix_(first, first)], border, hessian.tail)
    return Bordered(hessian.dense[np.ix_(first, first)], border[:, last], hessian.tail[last])


def is_finite(hessian: Hessian) -> bool:
    """Whether every number of it is finite."""
    if isinstance(hessian, Bordered):
        return all(np.isfinite(block).all() for block in (hessian.dense, hessian.tail)) and bool(
            np.isfinite(hessian.border.sum())
        )
    if isinstance(hessian, Blocked):
        return is_finite(hessian.inner)
    return bool(np.isfinite(hessian).all())


def solve(hessian: Hessian, vector: Floats) -> Floats:
    """(k,) the inverse times a vector, for a matrix that need not be positive definite to rounding."""
    if isinstance(hessian, Blocked):
        return hessian.run_back(solve(hessian.inner, hessian.run_last(vector)))
    if not isinstance(hessian, Bordered):
        return np.asarray(np.linalg.solve(hessian, vector), dtype=np.float64)
    p = len(hessian.dense)
    first, last = vector[:p], vector[p:]
    head = np.linalg.solve(hessian.schur_complement(), first - hessian.border @ (last / hessian.tail))
    return np.concatenate([head, (last - head @ hessian.border) / hessian.tail])


def factorise(matrix: Hessian) -> AnyFactor | None:
    """The factor of a symmetric matrix (k, k), None where it is not finite and positive definite."""
    if isinstance(matrix, Blocked):
        return matrix.factor
    if isinstance(matrix, Bordered):
        # The smallest normal number: below, a reciprocal may be infinite.
        if not (is_finite(matrix) and (matrix.tail >= np.finfo(np.float64).tiny).all()):
            return None
        schur = _factorise(matrix.schur_complement())
        return None if schur is None else BorderedFactor(matrix, schur)
    return _factorise(matrix)


def _factorise(matrix: Floats) -> Factor | None:
    own = np.diagonal(matrix)
    scale = np.sqrt(np.where(own > 0, own, 1.0))
    scaled = matrix / scale
    scaled /= scale[:, np.newaxis]
    lower = _cholesky_in_place(scaled)
    return None if lower is None else Factor(scale, _inverse_in_place(lower))


def make_symmetric(matrix: Floats) -> None:
    """Write the mean of (k, k) and its transpose into it."""
    k = len(matrix)
    for first in range(0, k, MIRRORED):
        rows = slice(first, min(first + MIRRORED, k))
        block = matrix[rows, rows]
        matrix[rows, rows] = 0.5 * (block + block.T)
        behind = 0.5 * (matrix[rows, rows.stop :] + matrix[rows.stop :, rows].T)
        matrix[rows, rows.stop :] = behind
        matrix[rows.stop :, rows] = behind.T


def _mirror(matrix: Floats) -> None:
    """Write what stands below the diagonal (k, k) above it as well."""
    k = len(matrix)
    for first in range(0, k, MIRRORED):
        rows = slice(first, min(first + MIRRORED, k))
        block = np.tril(matrix[rows, rows])
        matrix[rows, rows] = block + np.tril(block, -1).T
        matrix[rows, rows.stop :] = matrix[rows.stop :, rows].T


def cholesky(matrix: Floats) -> Floats | None:
    """Lower Cholesky factor (k, k), None where the matrix is not finite and positive definite."""
    return _cholesky_in_place(np.array(matrix, dtype=np.float64))


def inverse_of_lower(lower: Floats) -> Floats:
    """(k, k) inverse of a lower triangular matrix."""
    return _inverse_in_place(np.array(lower, dtype=np.float64, order="F"))


def pivoted_cholesky(matrix: Floats, tolerance: float) -> tuple[Floats, NDArray[np.int64]]:
    """Lower factor (r, r) of the rows of a semidefinite matrix (k, k) that are independent, and an order of
    all rows (k,) in which these are the first.

    A pivot up to `tolerance` is rounding (Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., section 10.3).
    """
    packed, order, rank, _ = lapack.dpstrf(matrix, tol=tolerance, lower=1)
    return np.tril(packed[:rank, :rank]), np.asarray(order, dtype=np.int64) - 1


def qr_triangle(matrix: Floats) -> Floats:
    """(min(m, n), n) upper triangle R of the QR of (m, n)."""
    return np.asarray(np.linalg.qr(matrix, mode="r"))


def solve_lower(lower: Floats, right: Floats, *, transposed: bool = False) -> Floats:
    """right (m, ...) with the inverse of a lower triangle (m, m), or of its transpose, applied."""
    if not lower.size:
        return right
    # LAPACK wants columns one after another: those of a triangle in row order are the rows of its transpose.
    if lower.flags.f_contiguous:
        solved, fault = lapack.dtrtrs(lower, right, lower=1, trans=int(transposed))
    else:
        solved, fault = lapack.dtrtrs(lower.T, right, lower=0, trans=int(not transposed))
    if fault:
        raise np.linalg.LinAlgError("a triangle with a zero on its diagonal has no inverse")
    return np.asarray(solved)


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
