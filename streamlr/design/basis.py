"""The basis that Newton works in, and the exact way back from it to the user's columns.

Numeric columns are centred and scaled, and a column that is nearly a combination of earlier ones has that
combination taken out row by row:

    z_j = (x_j - centre_j) scale_j          b_j = (z_j - sum over i before j of gamma_ji b_i) stretch_j

Both only condition the arithmetic: coefficients and covariances are mapped back by exact linear algebra, so
centre, scale and gamma may come from a sample. `active` leaves out columns without an estimate.

What centring adds to every row is taken up by the intercept or, where there is none, by the effects of an
absorbed factor, of which every row has one. Absorbed columns stand last and no column is made of what stands
behind it, so all maps hold for the own columns alone as well: values may end in front of absorbed columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.design.layout import Layout
from streamlr.kernels.tile import Conditioning
from streamlr.linear_algebra import BlockedFactor, make_symmetric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Conditioning of a layout; `reduced` and `gamma` are in model columns, ascending."""

    layout: Layout
    centre: Floats  # (q + s,) of the numeric columns, then of the scales
    scale: Floats  # (q + s,)
    active: NDArray[np.bool_]  # (k,)
    reduced: tuple[int, ...] = ()
    gamma: tuple[Floats, ...] = ()  # each (k,)
    stretch: tuple[float, ...] = ()

    @classmethod
    def of(cls, layout: Layout, centre: Floats, scale: Floats, free_effects: bool = True) -> Basis:
        """Centred and scaled, nothing taken out.

        With nothing to take it up, centring would change the model: without an intercept there have to be
        absorbed effects, and `free_effects` that no ridge holds back; a scale needs the factor without it.
        """
        free = bool(layout.intercept or (layout.absorbed and free_effects))
        kept = [free] * layout.numeric + [host >= 0 for host in layout.hosts]
        centre = np.where(kept, centre, 0.0)
        return cls(layout, centre, scale, np.ones(layout.columns, dtype=np.bool_))

    def conditioning(self) -> Conditioning:
        """The arrays that kernels take."""
        layout = self.layout
        slots = layout.slot_of_column
        gamma = np.zeros((len(self.reduced), layout.slots))
        for row, values in zip(gamma, self.gamma, strict=True):
            row[slots] = values
        return Conditioning(
            intercept=layout.intercept,
            centre=self.centre,
            scale=self.scale,
            dense=layout.dense,
            scales=layout.padded,
            plain=layout.plain,
            starts=layout.starts,
            reduced=slots[list(self.reduced)].astype(np.int64),
            gamma=gamma,
            stretch=np.array(self.stretch, dtype=np.float64),
        )

    def without(self, columns: NDArray[np.int64]) -> Basis:
        """The same basis with some columns inactive."""
        active = self.active.copy()
        active[columns] = False
        return replace(self, active=active)

    def dropping(self, layout: Layout, numbers: Sequence[int]) -> Basis:
        """The basis of `layout`, which lacks some inactive numeric columns of this one."""
        columns = self.numeric_columns[list(numbers)]
        moved = np.delete(np.arange(len(self.active)), columns).tolist()
        return replace(
            self,
            layout=layout,
            centre=np.delete(self.centre, numbers),
            scale=np.delete(self.scale, numbers),
            active=np.delete(self.active, columns),
            reduced=tuple(moved.index(column) for column in self.reduced),
            gamma=tuple(np.delete(row, columns) for row in self.gamma),
        )

    def reduce(self, column: int, gamma: Floats, stretch: float) -> Basis:
        """Take `gamma` (k,), a combination of earlier basis columns, out of a dense column."""
        reduced = dict(zip(self.reduced, zip(self.gamma, self.stretch, strict=True), strict=True))
        if column in reduced:
            old_gamma, old_stretch = reduced[column]
            # b' = (b - gamma b_earlier) stretch with b = (z - old_gamma b_earlier) old_stretch
            gamma, stretch = old_gamma + gamma / old_stretch, old_stretch * stretch
        reduced[column] = (gamma, stretch)
        columns = tuple(sorted(reduced))
        return replace(
            self,
            reduced=columns,
            gamma=tuple(reduced[c][0] for c in columns),
            stretch=tuple(reduced[c][1] for c in columns),
        )

    def to_conditioned(self, values: Floats) -> Floats:
        """Coefficients of the basis columns, (k, ...) or (p, ...), as coefficients of the z columns."""
        out = np.array(values, dtype=np.float64)
        self._make_conditioned(out)
        return out

    def _make_conditioned(self, out: Floats) -> None:
        """`to_conditioned` in place, along the first axis."""
        for column, gamma, stretch in reversed(
            list(zip(self.reduced, self.gamma, self.stretch, strict=True))
        ):
            out[column] *= stretch
            out -= np.multiply.outer(gamma[: len(out)], out[column])

    def from_conditioned(self, values: Floats) -> Floats:
        """The way back of `to_conditioned`, which keeps the linear predictor of every row."""
        out = np.array(values, dtype=np.float64)
        for column, gamma, stretch in zip(self.reduced, self.gamma, self.stretch, strict=True):
            out += np.multiply.outer(gamma[: len(out)], out[column])
            out[column] /= stretch
        return out

    def to_raw(self, values: Floats) -> Floats:
        """Coefficients of the basis columns, (k, ...) or (p, ...), as coefficients of the user's columns."""
        out = np.array(values, dtype=np.float64)
        self._make_raw(out)
        return out

    def _make_raw(self, out: Floats) -> None:
        """`to_raw` in place, along the first axis."""
        self._make_conditioned(out)
        layout = self.layout
        numeric, q = self.numeric_columns, layout.numeric
        out[numeric] *= self.scale[:q].reshape((-1,) + (1,) * (out.ndim - 1))
        if layout.intercept:
            out[self._intercept] -= np.tensordot(self.centre[:q], out[numeric], axes=1)
        elif layout.absorbed:
            out[layout.own_columns :] -= np.tensordot(self.centre[:q], out[numeric], axes=1)
        for place, host in enumerate(layout.hosts):
            columns = layout.factor_columns[layout.plain + place]
            out[columns] *= self.scale[q + place]
            if host >= 0:
                moved = self.centre[q + place] * out[columns]
                if place in self._full_hosts:  # for all levels the reference's is taken up
                    if layout.intercept:
                        out[self._intercept] -= moved[0]
                    else:
                        out[layout.own_columns :] -= moved[0]
                    moved = moved[1:] - moved[0]
                out[layout.factor_columns[host]] -= moved

    def raw_variances(self, factor: BlockedFactor) -> Floats | None:
        """(active,) variances of the user's coefficients, from the factor of the Hessian of active columns.

        None where columns take in so many others that the whole covariance is needed.
        """
        layout, q = self.layout, self.layout.numeric
        if self.reduced or self.centre[q:].any():
            return None
        scale = np.ones(layout.columns)
        scale[self.numeric_columns] = self.scale[:q]
        for place in range(layout.scaled):
            scale[layout.factor_columns[layout.plain + place]] = self.scale[q + place]
        variances = factor.inverse_diagonal() * scale[self.active] ** 2
        if layout.intercept and self.centre.any():
            shares = np.zeros(layout.columns)
            shares[self._intercept] = 1.0
            shares[self.numeric_columns] = -self.centre[:q] * self.scale[:q]
            shares = shares[self.active]
            place = int(np.count_nonzero(self.active[: self._intercept]))
            variances[place] = shares @ factor.solve(shares)
        return variances

    @property
    def unhosted(self) -> NDArray[np.bool_]:
        """(q + s,) scales whose centre nothing takes up, because a column of its host has no estimate."""
        layout = self.layout
        found = np.zeros(self.centre.shape, dtype=np.bool_)
        for place, host in enumerate(layout.hosts):
            if host >= 0 and self.centre[layout.numeric + place] != 0.0:
                scaled = self.active[layout.factor_columns[layout.plain + place]]
                needed = scaled[1:] | scaled[0] if place in self._full_hosts else scaled
                lost = needed & ~self.active[layout.factor_columns[host]]
                found[layout.numeric + place] = lost.any()
        return found

    def without_centres(self, which: NDArray[np.bool_]) -> Basis:
        """The same basis with the centres of some inputs (q + s,) at zero."""
        return replace(self, centre=np.where(which, 0.0, self.centre))

    @property
    def _full_hosts(self) -> set[int]:
        return {place for place, full in enumerate(self.layout.full_hosts) if full}

    @property
    def _intercept(self) -> int:
        return int(np.flatnonzero(self.layout.slot_of_column == 0)[0])

    def covariance_to_raw(self, covariance: Floats) -> Floats:
        """(k, k) or (p, p) covariance of basis coefficients as that of the user's, in one copy."""
        whole = np.array(covariance, dtype=np.float64)
        self._make_raw(whole)
        self._make_raw(whole.T)
        make_symmetric(whole)
        return whole

    @property
    def numeric_columns(self) -> NDArray[np.int64]:
        """(q,) model column of each numeric column."""
        layout = self.layout
        column_of_slot = np.empty(layout.slots, dtype=np.int64)
        column_of_slot[layout.slot_of_column] = np.arange(layout.columns)
        return column_of_slot[layout.intercept : layout.dense]
