"""What functions of a formula learn from the data, once and exactly: means, polynomials, knots, breaks.

Each function that learns has learners that take rounds over the rows in which its argument is not missing (as
R does, before rows with other gaps are dropped). A round is a sum like any other: added batch by batch,
merged part by part, so that neither the order of the rows nor how they are cut matters beyond rounding.

Quantiles are exact whatever the size of the data, in bounded memory: distinct values are counted while they
are few; otherwise rows are counted in bins of the ordered bit patterns of doubles, and bins that hold a
wanted rank are looked into again until their values are few. The error of a quantile is therefore zero; two
to five reads of the one column are what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.design.bases import cr_probabilities, polynomial_values, quantile_probabilities
from streamlr.design.expressions import Call, Column, Expression, nodes_of, text_of
from streamlr.design.features import Reader
from streamlr.design.functions import FUNCTIONS, options_of
from streamlr.design.values import State, as_numbers, evaluate, interval_labels
from streamlr.errors import StreamlrError

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

# Distinct values that are counted one by one: more than there can be ranks to find, 2 (MOST_INTERVALS + 1),
# as otherwise there would be no end to the rounds.
MOST_VALUES = 1 << 18
# Bins of a round, over all ranges that are looked into.
BINS = 1 << 16
# Share of its scale below which a polynomial is nothing but rounding, squared.
ROUNDING = 1e-26


@dataclass
class Moments:
    """Count, mean and squared deviations (Chan, Golub and LeVeque 1983, American Statistician 37, 242).

    `rest` is what the mean lacks as a double: n rest**2 would be added to the squares of a column whose mean
    is large beside its spread.
    """

    count: int = 0
    mean: float = 0.0
    rest: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, x: Floats) -> None:
        """Add values, none of them missing."""
        if x.size:
            with np.errstate(over="ignore", invalid="ignore"):  # an overflow is found in the end, and named
                mean = float(x.mean())
                deviations = x - mean
                rest = float(deviations.mean())
                squares = float(((deviations - rest) ** 2).sum())
            self.merge(Moments(x.size, mean, rest, squares, float(x.min()), float(x.max())))

    def merge(self, other: Moments) -> Moments:
        """Add another part's."""
        count = self.count + other.count
        if not self.count:
            self.mean, self.rest, self.squares = other.mean, other.rest, other.squares
        elif other.count:
            step = (other.mean - self.mean) + (other.rest - self.rest)
            self.squares += other.squares + step * step * self.count * other.count / count
            moved = self.rest + step * other.count / count
            mean = self.mean + moved
            self.mean, self.rest = mean, moved - (mean - self.mean)
        self.count = count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        return self


@dataclass
class Products:
    """Sums of p**2 and of x p**2 for the last of some orthogonal polynomials p of x - mean."""

    mean: float
    alpha: tuple[float, ...]
    norm2: tuple[float, ...]
    square: float = 0.0
    moment: float = 0.0

    def add(self, x: Floats) -> None:
        """Add values, none of them missing."""
        with np.errstate(over="ignore", invalid="ignore"):
            t = x - self.mean
            p = np.ones_like(t)
            if self.alpha:
                p = polynomial_values(t, np.array(self.alpha), np.array([*self.norm2, 1.0]))[:, -1]
            square = p * p
            self.square += float(square.sum())
            self.moment += float((square * t).sum())

    def merge(self, other: Products) -> Products:
        """Add another part's."""
        self.square += other.square
        self.moment += other.moment
        return self


@dataclass
class Distinct:
    """Values with how often they come, given up (`values` is None) when there are too many; and their range.

    `windows` (m, 2): only values whose keys lie in one of these closed ranges are taken.
    """

    windows: Keys | None = None
    values: Floats | None = field(default_factory=lambda: np.empty(0))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    rows: int = 0
    low: float = math.inf
    high: float = -math.inf

    def add(self, x: Floats) -> None:
        """Add values, none of them missing."""
        if self.windows is not None:
            keys = keys_of(x)
            place = np.searchsorted(self.windows[:, 0], keys, side="right") - 1
            x = x[(place >= 0) & (keys <= self.windows[np.maximum(place, 0), 1])]
        if not x.size:
            return
        x = x + 0.0  # -0.0 is 0.0, whichever comes first
        self.rows += x.size
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if self.values is not None:
            self._join(*np.unique(x, return_counts=True))

    def merge(self, other: Distinct) -> Distinct:
        """Add another part's."""
        self.rows += other.rows
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other.values is None:
            self.values = None
        elif self.values is not None:
            self._join(other.values, other.counts)
        return self

    def _join(self, values: Floats, counts: NDArray[np.int64]) -> None:
        assert self.values is not None
        both, place = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        total = np.zeros(both.size, dtype=np.int64)
        np.add.at(total, place, np.concatenate([self.counts, counts]))
        self.values, self.counts = (both, total) if both.size <= MOST_VALUES else (None, total[:0])


@dataclass
class Bins:
    """Rows in equal bins of keys, for each of the closed ranges `windows` (m, 2)."""

    windows: Keys
    counts: NDArray[np.int64] = field(init=False)  # (m, bins)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.windows), self.bins), dtype=np.int64)

    @property
    def bins(self) -> int:
        """Bins of each range."""
        return max(2, BINS // len(self.windows))

    @property
    def widths(self) -> list[int]:
        """Keys in a bin of each range."""
        return [-(-(int(high) - int(low) + 1) // self.bins) for low, high in self.windows]

    def add(self, x: Floats) -> None:
        """Add values, none of them missing."""
        keys = keys_of(x)
        place = np.searchsorted(self.windows[:, 0], keys, side="right") - 1
        inside = (place >= 0) & (keys <= self.windows[np.maximum(place, 0), 1])
        keys, place = keys[inside], place[inside]
        widths = np.array(self.widths, dtype=np.uint64)
        bins = ((keys - self.windows[place, 0]) // widths[place]).astype(np.int64)
        self.counts += np.bincount(place * self.bins + bins, minlength=self.counts.size).reshape(
            self.counts.shape
        )

    def merge(self, other: Bins) -> Bins:
        """Add another part's."""
        self.counts += other.counts
        return self


def keys_of(x: Floats) -> Keys:
    """(n,) integers in the order of the doubles: the sign bit turned, and all bits of negative numbers."""
    bits = (x + 0.0).view(np.uint64)  # -0.0 is 0.0
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


class Learner(Protocol):
    """One round over the rows: what is summed, and what follows from it, another round or the state."""

    def sums(self) -> Any:
        """Empty sums with `add` and `merge`."""

    def conclude(self, sums: Any) -> Learner | State:
        """The next round, or the state."""


@dataclass(frozen=True)
class ScaleLearner:
    """Mean and deviation, with n - 1 degrees of freedom as R's `scale` has it."""

    name: str
    with_deviation: bool

    def sums(self) -> Moments:
        """Moments."""
        return Moments()

    def conclude(self, sums: Moments) -> State:
        """The state."""
        _check_some(self.name, sums.count)
        if not math.isfinite(sums.mean) or (self.with_deviation and not math.isfinite(sums.squares)):
            raise _too_large(self.name)
        if not self.with_deviation:
            return {"mean": sums.mean}
        deviation = math.sqrt(sums.squares / (sums.count - 1)) if sums.count > 1 else 0.0
        if not deviation > 0.0:
            raise StreamlrError(f"{self.name} divides by the deviation of its argument, which is constant.")
        return {"mean": sums.mean, "deviation": deviation}


@dataclass(frozen=True)
class PolynomialLearner:
    """Coefficients of orthogonal polynomials, one degree a round (Stieltjes; Gautschi 2004, Orthogonal
    Polynomials: Computation and Approximation, section 2.2.3.1), of the argument less its mean."""

    name: str
    degree: int
    mean: float | None = None
    spread: float = 0.0
    alpha: tuple[float, ...] = ()
    norm2: tuple[float, ...] = (1.0,)

    def sums(self) -> Moments | Products:
        """Moments first, then products of the polynomials."""
        return Moments() if self.mean is None else Products(self.mean, self.alpha, self.norm2)

    def conclude(self, sums: Any) -> Learner | State:
        """One degree more, or the state."""
        if self.mean is None:
            _check_some(self.name, sums.count)
            if not math.isfinite(sums.squares):
                raise _too_large(self.name)
            return replace(self, mean=sums.mean, spread=sums.high - sums.low)
        # On too few different values the next polynomial is zero but for rounding.
        if self.alpha and not sums.square > ROUNDING * self.norm2[-1] * self.spread**2:
            raise StreamlrError(
                f"{self.name}: the degree must be less than the number of different values of its argument."
            )
        if not math.isfinite(sums.square + sums.moment):
            raise _too_large(self.name)
        alpha = (*self.alpha, sums.moment / sums.square)
        norm2 = (*self.norm2, sums.square)
        if len(norm2) < self.degree + 2:
            return replace(self, alpha=alpha, norm2=norm2)
        # R adds the mean to every alpha, which costs digits where it is large beside the spread.
        return {"mean": self.mean, "alpha": list(alpha[: self.degree]), "norm2": list(norm2)}


@dataclass(frozen=True)
class QuantileLearner:
    """Quantiles of type 7 (Hyndman and Fan 1996, American Statistician 50, 361-365) and the range.

    `finish` makes the state of (quantiles, low, high). `lower`, `upper`: values beyond do not count.
    `of_values`: quantiles of the distinct values, as long as they can be counted one by one.
    """

    name: str
    probabilities: tuple[float, ...]
    finish: Callable[[list[float], float, float], State]
    lower: float = -math.inf
    upper: float = math.inf
    of_values: bool = False
    windows: Keys | None = None  # closed ranges of keys that hold what is wanted
    below: tuple[int, ...] = ()  # rows below each of them
    total: int = 0
    low: float = math.inf
    high: float = -math.inf
    binned: bool = True  # the last round was one of bins

    def sums(self) -> Any:
        """Distinct values, or bins of what was too much."""
        inside: Any = Distinct(self.windows) if self.binned else Bins(self._windows)
        return Within(self.lower, self.upper, inside)

    @property
    def _windows(self) -> Keys:
        assert self.windows is not None
        return self.windows

    def conclude(self, sums: Any) -> Learner | State:
        """Another round, or the state."""
        found = sums.inside
        if isinstance(found, Bins):
            return self._narrowed(found)
        first = self.windows is None
        total = found.rows if first else self.total
        low, high = (found.low, found.high) if first else (self.low, self.high)
        _check_some(self.name, total)
        if found.values is None:
            whole = keys_of(np.array([low, high]))[None, :]
            return replace(
                self,
                windows=whole if first else self.windows,
                below=(0,) if first else self.below,
                total=total,
                low=low,
                high=high,
                binned=False,
            )
        if self.of_values and first:
            found.counts[:] = 1
            total = found.values.size
        return self.finish([self._quantile(p, found, total) for p in self.probabilities], low, high)

    def _quantile(self, probability: float, found: Distinct, total: int) -> float:
        place = (total - 1) * probability
        rank = math.floor(place + 4e-16 * total)  # R's fuzz against p (n - 1) falling just short
        share = max(place - rank, 0.0)
        value = self._value_at(rank, found)
        if share == 0.0 or rank + 1 >= total:
            return value
        above = self._value_at(rank + 1, found)
        step = above - value
        if not math.isfinite(step):
            return value * (1.0 - share) + above * share
        return value + share * step

    def _value_at(self, rank: int, found: Distinct) -> float:
        """The value of a rank, counted from zero over all rows."""
        assert found.values is not None
        counts, values = found.counts, found.values
        if self.windows is None:
            return float(values[np.searchsorted(np.cumsum(counts), rank, side="right")])
        keys = keys_of(values)
        place = int(np.searchsorted(np.array(self.below), rank, side="right")) - 1
        inside = (keys >= self.windows[place, 0]) & (keys <= self.windows[place, 1])
        at = np.searchsorted(np.cumsum(counts[inside]), rank - self.below[place], side="right")
        return float(values[inside][at])

    def _narrowed(self, bins: Bins) -> QuantileLearner:
        """The bins that hold a wanted rank as the ranges of the next round."""
        ranks = sorted(
            {
                min(math.floor((self.total - 1) * p + 4e-16 * self.total) + step, self.total - 1)
                for p in self.probabilities
                for step in (0, 1)
            }
        )
        windows: dict[tuple[int, int], int] = {}
        for rank in ranks:
            place = int(np.searchsorted(np.array(self.below), rank, side="right")) - 1
            ends = self.below[place] + np.cumsum(bins.counts[place])
            at = int(np.searchsorted(ends, rank, side="right"))
            low, high = (int(end) for end in self._windows[place])
            width = bins.widths[place]
            begin = low + at * width
            windows[begin, min(begin + width - 1, high)] = int(ends[at - 1]) if at else self.below[place]
        ordered = sorted(windows)
        return replace(
            self,
            windows=np.array(ordered, dtype=np.uint64),
            below=tuple(windows[window] for window in ordered),
            binned=True,
        )


@dataclass
class Within:
    """Sums of the values between two bounds."""

    lower: float
    upper: float
    inside: Any

    def add(self, x: Floats) -> None:
        """Add values, none of them missing."""
        bounded = math.isfinite(self.lower) or math.isfinite(self.upper)
        self.inside.add(x[(x >= self.lower) & (x <= self.upper)] if bounded else x)

    def merge(self, other: Within) -> Within:
        """Add another part's."""
        self.inside.merge(other.inside)
        return self


def _check_some(name: str, count: int) -> None:
    if not count:
        raise StreamlrError(f"{name} has nothing to learn from: its argument is missing in every row.")


def _too_large(name: str) -> StreamlrError:
    return StreamlrError(f"{name} cannot be learned: sums of powers of its argument overflow. Rescale it.")


def learner_of(call: Call) -> Learner | State:
    """How the state of a call is learned, or the state where it needs no data."""
    name, options = text_of(call), options_of(call)
    if call.function in ("center", "scale", "standardize"):
        return ScaleLearner(name, with_deviation=call.function != "center")
    if call.function == "poly":
        return PolynomialLearner(name, int(options.get("degree") or 1))
    if call.function == "cut":
        return _cut(name, options)
    return _spline(call.function, name, options)


def _cut(name: str, options: Mapping[str, Any]) -> Learner | State:
    right, lowest = options.get("right"), options.get("include_lowest")
    right = True if right is None else right
    lowest = options.get("quantiles") is not None if lowest is None else lowest

    def finish(breaks: Sequence[float]) -> State:
        distinct = sorted({float(value) for value in breaks})
        if len(distinct) < 2:
            raise StreamlrError(f"{name}: all its breaks are one number, {distinct[0]:g}.")
        labels = interval_labels(distinct, right, lowest)
        finite = [value if math.isfinite(value) else None for value in distinct]  # as JSON can hold them
        return {"breaks": finite, "labels": labels, "right": right, "include_lowest": lowest}

    if options.get("breaks") is not None:
        return finish(options["breaks"])
    count = int(options["quantiles"])
    probabilities = tuple(float(p) for p in np.arange(count + 1) / count)
    return QuantileLearner(name, probabilities, lambda found, low, high: finish(found))


def _spline(function: str, name: str, options: Mapping[str, Any]) -> Learner | State:
    degree = 3 if options.get("degree") is None else int(options["degree"])
    intercept = bool(options.get("include_intercept"))
    lower, upper = options.get("lower_bound"), options.get("upper_bound")
    given = options.get("knots")
    if isinstance(given, int | float):
        given = (given,)
    probabilities: tuple[float, ...] = ()
    if given is None:
        df = int(options["df"])
        if function == "cr":
            probabilities = tuple(float(p) for p in cr_probabilities(df))
        else:
            inner = df - int(intercept) - (degree if function == "bs" else 1)
            probabilities = tuple(float(p) for p in quantile_probabilities(max(inner, 0)))

    def finish(quantiles: list[float], low: float, high: float) -> State:
        ends = [float(lower) if lower is not None else low, float(upper) if upper is not None else high]
        knots = [float(value) for value in given] if given is not None else quantiles
        if not ends[0] < ends[1]:
            raise StreamlrError(f"{name}: its argument does not vary, so there is no spline of it.")
        outside = [value for value in knots if not ends[0] <= value <= ends[1]]
        if outside:
            raise StreamlrError(
                f"{name}: the knot {outside[0]:g} lies outside of the data, which go from {ends[0]:g} to "
                f"{ends[1]:g}."
            )
        if function == "cr":
            inner = [value for value in knots if ends[0] < value < ends[1]]
            knots = sorted({ends[0], *inner, ends[1]})
            return {"knots": knots}
        if given is None:  # values that come often can make quantiles meet each other and the ends
            knots = sorted({value for value in knots if ends[0] < value < ends[1]})
        return {
            "knots": sorted(knots),
            "lower": ends[0],
            "upper": ends[1],
            "degree": degree,
            "intercept": intercept,
        }

    return QuantileLearner(
        name,
        probabilities,
        finish,
        lower=-math.inf if lower is None else float(lower),
        upper=math.inf if upper is None else float(upper),
        of_values=function == "cr",
    )


@dataclass(frozen=True)
class LearningTask:
    """A round of learners: `wanted` are the expressions that they learn from, by the name of the state."""

    reader: Reader
    columns: tuple[str, ...]
    wanted: Mapping[str, Expression]
    learners: Mapping[str, Learner]
    coded: tuple[str, ...] = ()
    batch_rows: int = 65_536
    cells: int = 0

    def has(self, part: Any) -> bool:
        """No: every row is read."""
        return False

    def __call__(self, parts: Sequence[Any]) -> dict[str, Any]:
        """The sums of one leaf, by the name of the state."""
        sums = {name: learner.sums() for name, learner in self.learners.items()}
        for part in parts:
            for batch in part.read(self.columns, self.coded, self.batch_rows):
                frame = self.reader.frame(batch)
                for name, expression in self.wanted.items():
                    x = as_numbers(evaluate(expression, frame, self.reader.states))
                    x = x[np.isfinite(x)]  # infinities are found, and named, in the profile
                    sums[name].add(x)
        return sums

    @staticmethod
    def merge(sums: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        """Both together."""
        return {name: own.merge(others[name]) for name, own in sums.items()}


# Runs a task over all parts and merges the results.
Runner = Callable[[LearningTask], dict[str, Any]]


def learn(
    expressions: Sequence[Expression],
    reader: Reader,
    columns_for: Callable[[Sequence[str]], Any],
    run: Runner,
) -> Reader:
    """The reader with the states of all calls in some expressions that learn. Raises `StreamlrError`.

    `columns_for`: the columns to read for a task that looks at some.
    """
    calls = {
        text_of(node): node
        for expression in expressions
        for node in nodes_of(expression)
        if isinstance(node, Call) and FUNCTIONS[node.function].learns
    }
    states: dict[str, State] = {}
    learners: dict[str, Learner] = {}
    for name, call in calls.items():
        _take(name, learner_of(call), learners, states)
    while learners:
        # An argument that learns itself comes first; insides stand before what they are in.
        ready = {
            name: learner
            for name, learner in learners.items()
            if not any(
                isinstance(node, Call) and text_of(node) in learners
                for node in nodes_of(calls[name].arguments[0])
            )
        }
        wanted = {name: calls[name].arguments[0] for name in ready}
        names = [
            node.name
            for expression in wanted.values()
            for node in nodes_of(expression)
            if isinstance(node, Column)
        ]
        task = LearningTask(replace(reader, states=dict(states)), columns_for(names), wanted, ready)
        for name, sums in run(task).items():
            _take(name, ready[name].conclude(sums), learners, states)
    return replace(reader, states=states)


def learn_means(
    columns: Sequence[str], reader: Reader, columns_for: Callable[[Sequence[str]], Any], run: Runner
) -> dict[str, float]:
    """The means of some numeric columns over the rows where they are not missing."""
    wanted = {name: Column(name) for name in columns}
    learners: dict[str, Learner] = {name: ScaleLearner(name, with_deviation=False) for name in columns}
    sums = run(LearningTask(reader, columns_for(columns), wanted, learners))
    return {name: float(found.mean) for name, found in sums.items()}


def _take(name: str, found: Learner | State, learners: dict[str, Learner], states: dict[str, State]) -> None:
    """File what a round has led to: a state, or a learner with another round to go."""
    if isinstance(found, Mapping):
        learners.pop(name, None)
        states[name] = found
    else:
        learners[name] = found
