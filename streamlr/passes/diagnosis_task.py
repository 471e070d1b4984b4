"""What diagnosis sums over rows at the estimate: fit, influence, groups of probability, link test.

The first pass works out for every row its probability, leverage and residual, adds up what follows from them,
keeps the rows that stand out most, and counts rows by probability. Later passes, where any are needed, look
again into the few narrow ranges of probability that hold the borders of groups, and sum the loss of the link
test at another point. All results merge by the fixed tree over leaves, row numbers included: a leaf counts
its own rows, and merging moves the numbers of the leaf behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamlr.design.encoding import ALL, Encoder, Tally
from streamlr.kernels.block import Scratch
from streamlr.kernels.logistic import log_binomial_coefficients, row_losses, saturated_loss
from streamlr.kernels.scores import add_row_sums, fitted_rows, quadratic_forms
from streamlr.kernels.tile import Block
from streamlr.passes.sums import scratch_for
from streamlr.passes.tasks import DesignTask, check_finite

Floats = NDArray[np.float64]
Keys = NDArray[np.int64]

# Probabilities are ranked by their leading bits: 40 of the mantissa, so that rows with the same values are
# ties although their probabilities were rounded differently (row 7 of a vector and a last row alone are).
ROUNDED_BITS = np.int64(12)
LOWEST_KEY = int(np.float64(2.0**-64).view(np.int64) >> ROUNDED_BITS)
HIGHEST_KEY = int(np.float64(1.0).view(np.int64) >> ROUNDED_BITS)
# Bins of a round over all ranges that are looked into; 64 binades of p get 4,096 each.
BINS = 1 << 18
# Different probabilities that are told apart one by one, in the first pass and in later ones.
FIRST_MOST = 1 << 14
LATER_MOST = 1 << 18
# Rows that tell whether a block has about as many different probabilities as rows.
LOOKED_AT = 4_096
# A row with more leverage than this decides a coefficient alone: it cannot be left out.
DECIDES = 1.0 - 1e-10

# What is added up by probability.
COUNT, SUCCESSES, FAILURES, EXPECTED, EXPECTED_FAILURES = range(5)
AMOUNTS = 5


@dataclass(frozen=True)
class Fitted:
    """The rows of a block at the estimate, every array (n,).

    `unit`: what a row weighs by itself, one for each of the rows that a frequency weight stands for.
    """

    eta: Floats
    p: Floats
    q: Floats
    success: Floats
    failure: Floats
    weight: Floats
    unit: Floats

    @property
    def slope(self) -> Floats:
        """unit (k q - (n - k) p), the derivative of the row's log-likelihood in eta: unit (k - n p) with both
        tails exact."""
        return self.unit * (self.success * self.q - self.failure * self.p)

    @property
    def curvature(self) -> Floats:
        """unit n p q"""
        return self.unit * (self.success + self.failure) * self.p * self.q

    @property
    def pearson(self) -> Floats:
        """(k - n p) sqrt(unit) / sqrt(n p q), Pearson's residual; zero for a row without trials or weight."""
        curvature = self.curvature
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(curvature > 0.0, self.slope / np.sqrt(curvature), _of_nothing(self.slope))


def _of_nothing(slope: Floats) -> Floats:
    """The limit of slope / sqrt(curvature) where the curvature has underflowed."""
    return np.where(slope == 0.0, 0.0, np.copysign(np.inf, slope))


@dataclass(frozen=True)
class Influence:
    """What rows have to do with the estimate, every array (n,); NaN for rows that decide a coefficient alone.

    leverage      h = unit n p q x'Vx, V the inverse of the information
    pearson       r / sqrt(1 - h), Pearson's residual r standardised
    cooks         r**2 h / ((1 - h)**2 k), k coefficients
    moved         slope / (1 - h): leaving the row out moves the coefficients by about -V x moved
    eta           the linear predictor of the row after that, eta - x'Vx moved
    """

    leverage: Floats
    pearson: Floats
    cooks: Floats
    moved: Floats
    eta: Floats

    @classmethod
    def of(cls, rows: Fitted, form: Floats, parameters: int) -> Influence:
        """`form` (n,): x'Vx of every row."""
        leverage = rows.curvature * form
        rest = np.where(leverage < DECIDES, 1.0 - leverage, np.nan)
        slope = rows.slope
        moved = slope / rest
        cooks = slope * slope * form / (rest * rest * max(parameters, 1))
        return cls(leverage, rows.pearson / np.sqrt(rest), cooks, moved, rows.eta - form * moved)


@dataclass
class Groups:
    """Rows by probability: bins of `windows`, sums between them, and every probability in them while there
    are at most `most`.

    `windows`: (m, 2) closed ranges of keys, ascending, apart.
    """

    windows: Keys
    most: int
    bins: Floats = field(init=False)  # (m, bins) observations
    outside: Floats = field(init=False)  # (m + 1, AMOUNTS) before, between and behind the windows
    keys: Keys | None = field(init=False)  # (u,) those met in the windows, None where there were too many
    amounts: Floats = field(init=False)  # (u, AMOUNTS)
    highest: int = LOWEST_KEY  # the largest key of all observations

    def __post_init__(self) -> None:
        m = len(self.windows)
        self.bins = np.zeros((m, max(2, BINS // m)))
        self.outside = np.zeros((m + 1, AMOUNTS))
        self.keys = np.empty(0, dtype=np.int64)
        self.amounts = np.zeros((0, AMOUNTS))

    @property
    def widths(self) -> Keys:
        """(m,) keys in a bin of each window."""
        return -(-(self.windows[:, 1] - self.windows[:, 0] + 1) // self.bins.shape[1])

    def add(self, rows: Fitted, counts: Floats) -> None:
        """Add rows; `counts` (n,): how many observations each is in the ranking."""
        keys = keys_of_probability(rows.p)
        trials = rows.success + rows.failure
        amounts = np.column_stack(
            [
                counts,
                rows.weight * rows.success,
                rows.weight * rows.failure,
                rows.weight * trials * rows.p,
                rows.weight * trials * rows.q,
            ]
        )
        self.highest = max(self.highest, int(keys[counts > 0.0].max(initial=LOWEST_KEY)))
        place = np.searchsorted(self.windows[:, 0], keys, side="right") - 1
        inside = (place >= 0) & (keys <= self.windows[np.maximum(place, 0), 1])
        if not inside.all():
            between = place[~inside] + 1
            for column, amount in enumerate(amounts[~inside].T):
                self.outside[:, column] += np.bincount(between, amount, minlength=len(self.outside))
            keys, place, amounts = keys[inside], place[inside], amounts[inside]
        bins = (keys - self.windows[place, 0]) // self.widths[place]
        size = self.bins.shape[1]
        self.bins += np.bincount(place * size + bins, amounts[:, COUNT], minlength=self.bins.size).reshape(
            self.bins.shape
        )
        if self.keys is None:
            return
        if len(keys) > self.most and np.unique(keys[:LOOKED_AT]).size > LOOKED_AT // 2:
            self.keys = None
        else:
            self._join(keys, amounts)

    def merge(self, other: Groups) -> Groups:
        """Add another leaf's."""
        self.highest = max(self.highest, other.highest)
        self.bins += other.bins
        self.outside += other.outside
        if other.keys is None:
            self.keys = None
        elif self.keys is not None:
            self._join(other.keys, other.amounts)
        return self

    def _join(self, keys: Keys, amounts: Floats) -> None:
        assert self.keys is not None
        both, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        if len(both) > self.most:
            self.keys = None
            return
        together = np.concatenate([self.amounts, amounts])
        self.keys = both
        self.amounts = np.column_stack([np.bincount(place, column, len(both)) for column in together.T])


def keys_of_probability(p: Floats) -> Keys:
    """(n,) whole numbers in the order of probabilities: their leading bits; those below 2**-64 are one."""
    keys: Keys = np.clip(p.view(np.int64) >> ROUNDED_BITS, LOWEST_KEY, HIGHEST_KEY)
    return keys


def probability_of_key(key: int) -> float:
    """The least probability with the key."""
    return float(np.int64(key << int(ROUNDED_BITS)).view(np.float64))


def whole_range() -> Keys:
    """(1, 2) the window of all probabilities."""
    return np.array([[LOWEST_KEY, HIGHEST_KEY]], dtype=np.int64)


@dataclass(frozen=True)
class LinkPoint:
    """A point of the link test's regression on 1, u, u**2 with u = (eta - centre) / spread; `coef` (3,)."""

    centre: float
    spread: float
    coef: Floats


@dataclass
class LinkSums:
    """Loss, gradient (3,) and Hessian (3, 3) of the link test's regression, and the range of u."""

    loss: float = 0.0
    gradient: Floats = field(default_factory=lambda: np.zeros(3))
    hessian: Floats = field(default_factory=lambda: np.zeros((3, 3)))
    least_curvature: float = np.inf
    low: float = np.inf
    high: float = -np.inf

    def add(self, rows: Fitted, point: LinkPoint) -> None:
        """Add rows at a point."""
        u = (rows.eta - point.centre) / point.spread
        powers = np.stack([np.ones_like(u), u, u * u])
        success, failure = rows.weight * rows.success, rows.weight * rows.failure
        loss, slope, curvature = losses(point.coef @ powers, success, failure)
        counts = success + failure > 0.0
        self.loss += float(loss.sum())
        self.gradient += powers @ slope
        self.hessian += (powers * curvature) @ powers.T
        self.least_curvature = min(self.least_curvature, float(curvature[counts].min(initial=np.inf)))
        self.low = min(self.low, float(u[counts].min(initial=np.inf)))
        self.high = max(self.high, float(u[counts].max(initial=-np.inf)))

    def merge(self, other: LinkSums) -> LinkSums:
        """Add another leaf's."""
        self.loss += other.loss
        self.gradient += other.gradient
        self.hessian += other.hessian
        self.least_curvature = min(self.least_curvature, other.least_curvature)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        return self


def losses(eta: Floats, success: Floats, failure: Floats) -> tuple[Floats, Floats, Floats]:
    """Loss, slope and curvature of rows, each (n,); see `kernels.logistic.row_losses`."""
    n = eta.size
    scratch = np.empty((4, n))
    loss, slope, curvature = np.empty(n), np.empty(n), np.empty(n)
    bits = scratch.view(np.int64)
    row_losses(eta, success, failure, n, scratch, bits, loss, slope, curvature)  # type: ignore[no-untyped-call]
    return loss, slope, curvature


# The numbers of a row that is listed, each an array (m,) of `TopRows.numbers`.
NUMBERS = ("eta", "p", "success", "trials", "weight", "leverage", "pearson", "cooks", "moved")


@dataclass
class TopRows:
    """The `most` rows of largest `value`, (m,) descending, of equal ones the first, and what is told of them.

    `rows` (m,): numbers counted over all rows read; `numbers` (m, len(NUMBERS)); `x` (m, slots): their
    columns in the basis; `kept`: the values of the columns kept, a tuple a row.
    """

    most: int
    slots: int
    value: Floats = field(default_factory=lambda: np.empty(0))
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    numbers: Floats = field(default_factory=lambda: np.empty((0, len(NUMBERS))))
    x: Floats = field(init=False)
    kept: list[tuple[Any, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = np.empty((0, self.slots))

    def places(self, values: Floats) -> NDArray[np.int64]:
        """Which of some later rows, with these values (n,) or NaN, would be among the largest, descending."""
        least = self.value[-1] if len(self.value) >= self.most else -np.inf
        found = np.flatnonzero(values > least)
        if len(found) > self.most:
            among = values[found]
            border = np.partition(among, len(among) - self.most)[len(among) - self.most]
            ties = found[among == border]
            above = found[among > border]
            found = np.concatenate([above, ties[: self.most - len(above)]])
        return found[np.lexsort((found, -values[found]))]

    def take(self, other: TopRows) -> None:
        """Add rows that stand behind these in the data."""
        value = np.concatenate([self.value, other.value])
        rows = np.concatenate([self.rows, other.rows])
        order = np.lexsort((rows, -value))[: self.most]
        self.value, self.rows = value[order], rows[order]
        self.numbers = np.concatenate([self.numbers, other.numbers])[order]
        self.x = np.concatenate([self.x, other.x])[order]
        kept = self.kept + other.kept
        self.kept = [kept[place] for place in order]


@dataclass
class DiagnosisSums:
    """What the first pass finds; sums are over trials, weighted.

    `undetermined`: rows that decide a coefficient alone, which are in no sum of the leave-one-out kind.
    """

    groups: Groups
    top: TopRows
    link: LinkSums
    tally: Tally = field(default_factory=Tally)
    rows_seen: int = 0  # before any filter
    loss: float = 0.0
    log_binomial: float = 0.0
    saturated: float = 0.0
    pearson_chi2: float = 0.0
    brier: float = 0.0
    successes: float = 0.0
    failures: float = 0.0
    p_of_successes: float = 0.0
    p_of_failures: float = 0.0
    loo_loss: float = 0.0
    loo_brier: float = 0.0
    undetermined: int = 0

    def merge(self, other: DiagnosisSums) -> DiagnosisSums:
        """Add the leaf behind."""
        other.top.rows += self.rows_seen
        self.top.take(other.top)
        self.groups.merge(other.groups)
        self.link.merge(other.link)
        self.tally.merge(other.tally)
        self.rows_seen += other.rows_seen
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


SUMS = (
    "loss",
    "log_binomial",
    "saturated",
    "pearson_chi2",
    "brier",
    "successes",
    "failures",
    "p_of_successes",
    "p_of_failures",
    "loo_loss",
    "loo_brier",
    "undetermined",
)


@dataclass(frozen=True)
class AtEstimate(DesignTask):
    """A task that sees every row at the estimate, `coef` (k,) in the basis."""

    coef: Floats

    @property
    def cells(self) -> int:
        """Size of the result, in numbers."""
        return BINS

    def fitted(self, block: Block, scratch: Scratch) -> Fitted:
        """The rows of a block at the estimate. Raises `StreamlrError` for infinite values."""
        n = block.success.size
        eta, p, q = np.empty(n), np.empty(n), np.empty(n)
        coef = self.design.layout.to_slots(self.coef)
        fitted_rows(block.rows, self.basis.conditioning(), coef, scratch, eta, p, q)
        check_finite(eta)
        success = block.success.astype(np.float64)
        failure = block.trials - success if block.trials.size else 1.0 - success
        weight = block.weight if block.weight.size else np.ones(n)
        unit = np.ones(n) if self.design.weight_type == "frequency" else weight
        return Fitted(eta, p, q, success, failure, weight, unit)

    def counts(self, rows: Fitted) -> Floats:
        """(n,) observations that rows are in a ranking: trials, times a frequency weight."""
        trials = rows.success + rows.failure
        if self.design.weight_type == "frequency":
            return rows.weight * trials
        return np.where(rows.weight > 0.0, trials, 0.0)


@dataclass(frozen=True)
class DiagnosisTask(AtEstimate):
    """The first pass.

    `inverse`: (slots, slots) inverse of the information, None where influence is not wanted. `direction`:
    (slots,) c with change of a coefficient -c'x moved, where rows are ranked by that. `keep_columns`: columns
    to tell the values of.
    """

    inverse: Floats | None
    parameters: int
    by: str
    direction: Floats | None
    top: int
    keep_columns: tuple[str, ...]
    link: LinkPoint | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return tuple(dict.fromkeys((*self.design.columns, *self.keep_columns)))

    def __call__(self, parts: Sequence[Any]) -> DiagnosisSums:
        """The sums of one leaf."""
        slots = self.design.layout.slots
        sums = DiagnosisSums(Groups(whole_range(), FIRST_MOST), TopRows(self.top, slots), LinkSums())
        scratch = scratch_for(self.design.layout)
        for block, numbers, batch, places in self._numbered(parts, sums):
            if not block.success.size:
                continue
            rows = self.fitted(block, scratch)
            self._add_fit(sums, block, rows)
            sums.groups.add(rows, self.counts(rows))
            if self.link is not None:
                sums.link.add(rows, self.link)
            if self.inverse is not None:
                self._add_influence(sums, block, rows, scratch, numbers, batch, places)
        return sums

    def _numbered(
        self, parts: Sequence[Any], sums: DiagnosisSums
    ) -> Iterator[tuple[Block, NDArray[np.int64], pa.RecordBatch, NDArray[np.int64]]]:
        """Blocks with the number of every row in the leaf, the batch they are of and their places in it."""
        where = self.design.reader.where
        for part in parts:
            encoder = Encoder(self.design)
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                places = np.arange(batch.num_rows)
                if where is not None:
                    places = places[where.mask(batch)]
                block, used = encoder.encode_used(batch, sums.tally)
                if used is not ALL:
                    places = places[used]
                yield block, places + sums.rows_seen, batch, places
                sums.rows_seen += batch.num_rows

    def _add_fit(self, sums: DiagnosisSums, block: Block, rows: Fitted) -> None:
        success, failure = rows.weight * rows.success, rows.weight * rows.failure
        sums.loss += float(losses(rows.eta, success, failure)[0].sum())
        if block.trials.size:
            sums.log_binomial += log_binomial_coefficients(block.success, block.trials, block.weight)
            sums.saturated += saturated_loss(block.success, block.trials, block.weight)
        single = replace(rows, unit=rows.weight)
        sums.pearson_chi2 += float((single.pearson**2).sum())
        sums.brier += float((success * rows.q**2 + failure * rows.p**2).sum())
        sums.successes += float(success.sum())
        sums.failures += float(failure.sum())
        sums.p_of_successes += float((success * rows.p).sum())
        sums.p_of_failures += float((failure * rows.p).sum())

    def _add_influence(
        self,
        sums: DiagnosisSums,
        block: Block,
        rows: Fitted,
        scratch: Scratch,
        numbers: NDArray[np.int64],
        batch: pa.RecordBatch,
        places: NDArray[np.int64],
    ) -> None:
        n = rows.eta.size
        conditioning = self.basis.conditioning()
        assert self.inverse is not None
        form = np.empty(n)
        quadratic_forms(block.rows, conditioning, self.inverse, scratch, form)
        found = Influence.of(rows, form, self.parameters)
        success, failure = rows.weight * rows.success, rows.weight * rows.failure
        counts = success + failure > 0.0
        alone = counts & ~(found.leverage < DECIDES)
        sums.undetermined += int(np.count_nonzero(alone))
        left = counts & ~alone
        eta = np.where(left, found.eta, 0.0)
        p, q = _tails(eta)
        sums.loo_loss += float(losses(eta, success, failure)[0][left].sum())
        sums.loo_brier += float((success * q**2 + failure * p**2)[left].sum())
        if not self.top:
            return
        value = np.where(counts, self._value(block, found, scratch), np.nan)
        best = sums.top.places(value)
        if not best.size:
            return
        numbers_of_rows = np.column_stack(
            [
                rows.eta,
                rows.p,
                rows.success,
                rows.success + rows.failure,
                rows.weight,
                found.leverage,
                found.pearson,
                found.cooks,
                found.moved,
            ]
        )
        chosen = TopRows(self.top, sums.top.slots)
        chosen.value, chosen.rows = value[best], numbers[best]
        chosen.numbers = numbers_of_rows[best]
        chosen.x = self._columns_of(block, best, scratch)
        kept = [batch.column(name) for name in self.keep_columns]
        chosen.kept = [tuple(column[place].as_py() for column in kept) for place in places[best].tolist()]
        sums.top.take(chosen)

    def _value(self, block: Block, found: Influence, scratch: Scratch) -> Floats:
        """(n,) what rows are ranked by, NaN where there is none."""
        if self.by == "leverage":
            return found.leverage
        if self.direction is None:
            return found.cooks
        n = found.moved.size
        shift, p, q = np.empty(n), np.empty(n), np.empty(n)
        plain = replace(block, offset=np.empty(0))
        fitted_rows(plain.rows, self.basis.conditioning(), self.direction, scratch, shift, p, q)
        return np.abs(shift * found.moved)

    def _columns_of(self, block: Block, rows: NDArray[np.int64], scratch: Scratch) -> Floats:
        """(m, slots) the columns of some rows in the basis."""
        few = Block(
            [column[rows] for column in block.numeric],
            np.ascontiguousarray(block.codes[:, rows]),
            block.success[rows],
            np.empty(0),
            np.empty(0),
            np.empty(0),
        )
        columns = np.zeros((len(rows), self.design.layout.slots))
        for place, column in enumerate(columns):
            slope = np.zeros(len(rows))
            slope[place] = 1.0
            add_row_sums(few.rows, self.basis.conditioning(), slope, column, scratch)
        return columns


def _tails(eta: Floats) -> tuple[Floats, Floats]:
    """p and q = 1 - p, each with its full precision."""
    e = np.exp(-np.abs(eta))
    large, small = 1.0 / (1.0 + e), e / (1.0 + e)
    return np.where(eta > 0.0, large, small), np.where(eta > 0.0, small, large)


@dataclass
class LaterSums:
    """What later passes find: groups in narrower windows, the link test at another point."""

    groups: Groups | None
    link: LinkSums | None

    def merge(self, other: LaterSums) -> LaterSums:
        """Add another leaf's."""
        if self.groups is not None and other.groups is not None:
            self.groups.merge(other.groups)
        if self.link is not None and other.link is not None:
            self.link.merge(other.link)
        return self


@dataclass(frozen=True)
class LaterTask(AtEstimate):
    """A later pass: rows by probability in some windows (m, 2), the link test at a point, or both."""

    windows: Keys | None
    link: LinkPoint | None

    def __call__(self, parts: Sequence[Any]) -> LaterSums:
        """The sums of one leaf."""
        sums = LaterSums(
            None if self.windows is None else Groups(self.windows, LATER_MOST),
            None if self.link is None else LinkSums(),
        )
        scratch = scratch_for(self.design.layout)
        for block in self.blocks(parts, Tally()):
            if block.success.size:
                rows = self.fitted(block, scratch)
                if sums.groups is not None:
                    sums.groups.add(rows, self.counts(rows))
                if sums.link is not None and self.link is not None:
                    sums.link.add(rows, self.link)
        return sums
