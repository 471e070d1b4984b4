"""What functions learn: exact quantiles, moments, polynomials, in bounded memory, whatever the order of rows.

References are NumPy's `quantile` (linear, which is R's type 7), plain sums in extended precision, and the QR
factorisation of powers, which is what R's `poly` is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlr.design import learning
from streamlr.design.expressions import parse_expression
from streamlr.design.features import Reader
from streamlr.design.learning import (
    Bins,
    Distinct,
    LearningTask,
    Moments,
    QuantileLearner,
    keys_of,
    learn,
    learn_means,
)
from streamlr.design.values import Frame, as_numbers, evaluate
from streamlr.errors import StreamlrError

Floats = np.ndarray


def quantiles(
    parts: Sequence[Floats],
    probabilities: Sequence[float],
    rounds: list[Any] | None = None,
    **options: Any,
) -> tuple[list[float], float, float]:
    """Quantiles and range, each part summed by itself and merged, as passes do."""
    found: Any = QuantileLearner(
        "q", tuple(probabilities), lambda values, low, high: {"all": (values, low, high)}, **options
    )
    while isinstance(found, QuantileLearner):
        sums = []
        for part in parts:
            own = found.sums()
            own.add(part)
            sums.append(own)
        merged = functools.reduce(lambda a, b: a.merge(b), sums)
        if rounds is not None:
            rounds.append(merged.inside)
        found = found.conclude(merged)
    result: tuple[list[float], float, float] = found["all"]
    return result


def cut_up(x: Floats, rng: np.random.Generator, count: int = 5) -> list[Floats]:
    """The values in another order, in parts of other sizes."""
    return np.split(rng.permutation(x), np.sort(rng.integers(0, x.size + 1, count - 1)))


def assert_quantiles(found: Sequence[float], x: Floats, probabilities: Sequence[float]) -> None:
    """Equal but for the two ways to write a + t (b - a), which round differently by one unit."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.quantile(x, probabilities, method="linear")
    ranks = np.asarray(probabilities) * (x.size - 1)
    ordered = np.sort(x)
    low, high = ordered[np.floor(ranks).astype(int)], ordered[np.ceil(ranks).astype(int)]
    slack = 4 * np.spacing(np.maximum(np.abs(low), np.abs(high)))
    assert np.all(np.abs(np.array(found) - expected) <= slack)


PROBABILITIES = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999, 1.0)
RNG = np.random.default_rng(20)
SETS = {
    "one": np.array([3.5]),
    "two": np.array([2.0, -1.0]),
    "small": np.array([1.0, 5.0, 2.0, 2.0, 9.0, -4.0]),
    "normal": RNG.normal(size=3001),
    "ties": RNG.integers(0, 4, 3000).astype(float),
    "mostly one value": np.where(RNG.random(3000) < 0.97, 7.0, RNG.normal(size=3000)),
    "all equal": np.full(500, -2.5),
    "wide": RNG.choice([-1, 1], 2000) * 10.0 ** RNG.uniform(-300, 300, 2000),
    "denormal": RNG.integers(-1000, 1000, 2000) * 5e-324,
    "zeros": np.where(RNG.random(1000) < 0.5, 0.0, -0.0),
    "around zero": np.concatenate([np.full(300, -0.0), np.full(300, 0.0), RNG.normal(size=300) * 1e-320]),
    "neighbours": 1.0 + np.arange(2000) * 2.0**-52,
    "ends of the doubles": np.array([1.7e308, -1.7e308] * 50 + [0.0]),
}


@pytest.fixture(params=["as they are", "forced to bins"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Forced: so few values may be counted one by one that bins are needed, many times over."""
    forced = request.param == "forced to bins"
    if forced:
        monkeypatch.setattr(learning, "MOST_VALUES", 20)
        monkeypatch.setattr(learning, "BINS", 64)
    return forced


@pytest.mark.parametrize("name", SETS)
def test_quantiles_are_exact(name: str, limits: bool) -> None:
    x = SETS[name]
    rounds: list[Any] = []
    found, low, high = quantiles([x], PROBABILITIES, rounds)
    assert_quantiles(found, x, PROBABILITIES)
    assert (low, high) == (x.min(), x.max())
    assert any(isinstance(sums, Bins) for sums in rounds) == (limits and np.unique(x).size > 20)


@pytest.mark.parametrize("name", SETS)
def test_order_and_parts_do_not_matter_to_the_last_bit(name: str, limits: bool) -> None:
    """Also not to the sign of zero."""
    x = SETS[name]
    rng = np.random.default_rng(3)
    expected = quantiles([x], PROBABILITIES)
    expected_bits = np.array([*expected[0], *expected[1:]]).tobytes()
    for _ in range(4):
        values, low, high = quantiles(cut_up(x, rng), PROBABILITIES)
        assert np.array([*values, low, high]).tobytes() == expected_bits


@settings(max_examples=60)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=80),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(10, 40),  # there are up to ten ranks to find
)
def test_quantiles_of_any_numbers(values: list[float], probabilities: list[float], most: int) -> None:
    x = np.array(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "MOST_VALUES", most)
        patch.setattr(learning, "BINS", 16)
        found, low, high = quantiles(np.array_split(x, 3), probabilities)
    for value, probability in zip(found, probabilities, strict=True):
        place = (x.size - 1) * probability
        below = np.sort(x)[math.floor(place + 4e-16 * x.size)]
        above = np.sort(x)[min(math.floor(place + 4e-16 * x.size) + 1, x.size - 1)]
        assert below <= value <= above
    if np.ptp(x / 4) < 4e307:
        assert_quantiles(found, x, probabilities)
    assert (low, high) == (x.min(), x.max())


def test_more_values_than_are_counted_one_by_one() -> None:
    """600,000 doubles: at most 2 to the 18 are counted, so bins are needed in earnest."""
    x = np.random.default_rng(6).standard_t(2, 600_000)
    rounds: list[Any] = []
    found, low, high = quantiles(np.split(x, 6), PROBABILITIES, rounds)
    assert_quantiles(found, x, PROBABILITIES)
    assert (low, high) == (x.min(), x.max())
    assert [type(sums) for sums in rounds] == [Distinct, Bins, Distinct]


def test_thousand_quantiles() -> None:
    x = np.random.default_rng(7).normal(size=300_000)
    probabilities = np.arange(1001) / 1000
    assert_quantiles(quantiles(np.split(x, 3), probabilities)[0], x, probabilities)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is added, no sums hold more numbers than they may."""
    monkeypatch.setattr(learning, "MOST_VALUES", 500)
    monkeypatch.setattr(learning, "BINS", 1024)
    rng = np.random.default_rng(8)
    held = []

    def numbers_of(sums: Distinct | Bins) -> int:
        if isinstance(sums, Bins):
            return sums.counts.size
        assert (sums.values is None) <= (sums.counts.size == 0)
        return sums.counts.size + (0 if sums.values is None else sums.values.size)

    for sums in (Distinct(), Bins(np.array([[0, 2**64 - 1]], np.uint64))):
        for _ in range(50):
            sums.add(rng.normal(size=300))
            held.append(numbers_of(sums))
            other = type(sums)() if isinstance(sums, Distinct) else Bins(sums.windows)
            other.add(rng.integers(0, 400, 300).astype(float))
            held.append(numbers_of(sums.merge(other)))
    assert max(held) <= 1024
    rounds: list[Any] = []
    quantiles([rng.normal(size=20_000)], np.arange(201) / 200, rounds)
    assert max(numbers_of(sums) for sums in rounds) <= 1024
    assert len(rounds) <= 15  # bins of 1,024 over up to 402 ranges halve or third them


def test_between_the_ends_of_the_doubles() -> None:
    """Their difference is no double."""
    found, _, _ = quantiles([np.array([-1.6e308, 1.6e308])], [0.25, 0.5])
    assert found == pytest.approx([-0.8e308, 0.0], rel=1e-15)


def test_bounds_leave_values_out() -> None:
    x = np.arange(100.0)
    found, low, high = quantiles([x], [0.5], lower=10.0, upper=20.0)
    assert (found, low, high) == ([15.0], 10.0, 20.0)


def test_keys_have_the_order_of_the_doubles() -> None:
    x = np.array([-math.inf, -1.7e308, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, 1.7e308, math.inf])
    keys = keys_of(x).astype(object)
    assert keys[4] == keys[5]
    assert list(np.delete(keys, 4)) == sorted(set(keys))


# Through `learn`


def table(**columns: Any) -> pa.RecordBatch:
    arrays = [pa.array(value) for value in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def learned(
    texts: Sequence[str], *batches: pa.RecordBatch, tasks: list[LearningTask] | None = None
) -> Reader:
    class Part:
        def __init__(self, batch: pa.RecordBatch) -> None:
            self.batch = batch

        def read(self, columns: Sequence[str], coded: Sequence[str], rows: int) -> list[pa.RecordBatch]:
            return [self.batch.select(list(columns))]

    def run(task: LearningTask) -> dict[str, Any]:
        if tasks is not None:
            tasks.append(task)
        return functools.reduce(LearningTask.merge, [task([Part(batch)]) for batch in batches])

    columns_for = lambda names: tuple(dict.fromkeys(names))  # noqa: E731
    return learn([parse_expression(text) for text in texts], Reader(), columns_for, run)


def columns_of(text: str, reader: Reader, batch: pa.RecordBatch) -> Floats:
    found: Floats = as_numbers(evaluate(parse_expression(text), Frame(batch), reader.states))
    return found


@pytest.mark.parametrize("centre", [0.0, 1e9, -1e12])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e6])
def test_moments(centre: float, spread: float) -> None:
    """Against sums in extended precision. What is possible is limited by the mean as a double."""
    x = centre + spread * np.random.default_rng(1).normal(size=4000)
    halves = [table(x=part) for part in np.array_split(x, 7)]
    reader = learned(["scale(x)", "center(x)", "standardize(x)"], *halves)
    mean = math.fsum(x) / x.size
    offsets = x - x[0]  # exact or nearly so, where the mean itself has no digits left
    centred = offsets - math.fsum(offsets) / x.size
    deviation = math.sqrt(math.fsum(centred**2) / (x.size - 1))
    state = reader.states["scale(x)"]
    assert state["mean"] == pytest.approx(mean, rel=1e-15, abs=1e-15 * spread)
    assert state["deviation"] == pytest.approx(deviation, rel=1e-12)
    assert reader.states["standardize(x)"] == state
    assert reader.states["center(x)"] == {"mean": state["mean"]}
    found = columns_of("scale(x)", reader, table(x=x))
    np.testing.assert_allclose(
        found, centred / deviation, rtol=1e-12, atol=1e-12 + 2 * np.spacing(abs(mean)) / spread
    )


@pytest.mark.parametrize(("centre", "degree"), [(0.0, 6), (3.0, 4), (1e9, 4), (-1e9, 2)])
def test_polynomials_are_those_of_qr(centre: float, degree: int) -> None:
    """R's `poly`: columns of Q of the powers of x - mean, signs so that leading coefficients are positive."""
    deviations = np.round(np.random.default_rng(2).normal(size=2000) * 2**20) / 2**20  # exact after the shift
    x = centre + deviations
    reader = learned([f"poly(x, {degree})"], *(table(x=part) for part in np.array_split(x, 5)))
    t = (deviations - deviations.mean()).astype(np.float64)
    q, r = np.linalg.qr(np.vander(t, degree + 1, increasing=True))
    expected = (q * np.sign(np.diag(r)))[:, 1:].T
    found = columns_of(f"poly(x, {degree})", reader, table(x=x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found @ found.T, np.eye(degree), rtol=0, atol=1e-12)


def test_gaps_and_infinities_are_passed_over() -> None:
    x = [1.0, None, math.nan, 4.0, math.inf, -math.inf, 2.0]
    texts = ["scale(x)", "cut(x, quantiles=2)", "poly(x, 1)", "bs(x, df=4)", "scale(log(y))"]
    whole = table(x=x, y=[math.e, 0.0, None, -1.0, 1.0, 1.0, math.e])
    reader = learned(texts, whole.slice(0, 3), whole.slice(3))
    assert reader.states["scale(x)"]["mean"] == pytest.approx(7 / 3, rel=1e-15)
    assert reader.states["cut(x, quantiles=2)"]["breaks"] == [1.0, 2.0, 4.0]
    assert reader.states["bs(x, df=4)"]["knots"] == [2.0]
    assert (reader.states["bs(x, df=4)"]["lower"], reader.states["bs(x, df=4)"]["upper"]) == (1.0, 4.0)
    assert reader.states["scale(log(y))"]["mean"] == pytest.approx(0.5)


def test_knots() -> None:
    x = np.random.default_rng(4).exponential(size=999)
    x = np.concatenate([x, x[:400]])  # values that come twice count twice for bs and ns, once for cr
    texts = ["bs(x, df=6)", "ns(x, df=4)", "cr(x, df=5)", "bs(x, knots=[1, 0.5], degree=2)"]
    texts += ["ns(x, df=3, lower_bound=0.1, upper_bound=2)"]
    reader = learned(texts, *(table(x=part) for part in np.array_split(x, 4)))
    bs, ns, cr, given_knots, bounded = (reader.states[text] for text in texts)
    np.testing.assert_allclose(bs["knots"], np.quantile(x, [0.25, 0.5, 0.75]), rtol=1e-15)
    assert (bs["lower"], bs["upper"], bs["degree"], bs["intercept"]) == (x.min(), x.max(), 3, False)
    np.testing.assert_allclose(ns["knots"], np.quantile(x, [0.25, 0.5, 0.75]), rtol=1e-15)
    np.testing.assert_allclose(cr["knots"], np.quantile(np.unique(x), np.arange(5) / 4), rtol=1e-15)
    assert given_knots["knots"] == [0.5, 1.0]
    inside = x[(x >= 0.1) & (x <= 2.0)]
    np.testing.assert_allclose(bounded["knots"], np.quantile(inside, [1 / 3, 2 / 3]), rtol=1e-15)
    assert (bounded["lower"], bounded["upper"]) == (0.1, 2.0)


def test_quantiles_that_meet_are_one_break() -> None:
    reader = learned(["cut(x, quantiles=4)"], table(x=[0.0] * 70 + [1.0] * 10 + [2.0] * 20))
    assert reader.states["cut(x, quantiles=4)"]["breaks"] == [0.0, 1.0, 2.0]
    assert reader.states["cut(x, quantiles=4)"]["labels"] == ["[0,1]", "(1,2]"]


def test_learning_inside_of_learning() -> None:
    x = np.random.default_rng(5).uniform(1, 9, 800)
    texts = ["scale(log(x))", "poly(scale(x), 2)", "cut(center(x), quantiles=3)", "scale(x + center(x))"]
    tasks: list[LearningTask] = []
    batches = [table(x=part, other=part) for part in np.array_split(x, 3)]
    reader = learned(texts, *batches, tasks=tasks)
    whole = table(x=x)
    np.testing.assert_allclose(
        columns_of("scale(log(x))", reader, whole),
        (np.log(x) - np.log(x).mean()) / np.log(x).std(ddof=1),
        rtol=1e-12,
        atol=1e-13,
    )
    z = (x - x.mean()) / x.std(ddof=1)
    q, r = np.linalg.qr(np.vander(z, 3, increasing=True))
    np.testing.assert_allclose(
        columns_of("poly(scale(x), 2)", reader, whole), (q * np.sign(np.diag(r)))[:, 1:].T, atol=1e-13
    )
    np.testing.assert_allclose(
        reader.states["cut(center(x), quantiles=3)"]["breaks"],
        np.quantile(x - x.mean(), [0, 1 / 3, 2 / 3, 1]),
        rtol=1e-12,
        atol=1e-14,
    )
    assert set(reader.states) == {*texts, "scale(x)", "center(x)"}
    assert all(task.columns == ("x",) for task in tasks)
    first = set(tasks[0].learners)
    assert first == {"scale(log(x))", "scale(x)", "center(x)"}  # the others need these


def test_nothing_to_learn_reads_nothing() -> None:
    tasks: list[LearningTask] = []
    text = "cut(x, [2, 0, 1])"
    reader = learned([text, "log(x)"], table(x=[1.0]), tasks=tasks)
    assert tasks == []
    assert reader.states[text]["breaks"] == [0.0, 1.0, 2.0]


def test_means_for_filling() -> None:
    batches = [table(x=[1.0, None, 4.0], y=[2, 4, 6]), table(x=[math.nan, 1.0, None], y=[8, 10, None])]

    class Part:
        def __init__(self, batch: pa.RecordBatch) -> None:
            self.batch = batch

        def read(self, *_: Any) -> list[pa.RecordBatch]:
            return [self.batch]

    def run(task: LearningTask) -> dict[str, Any]:
        return task([Part(batch) for batch in batches])

    assert learn_means(["x", "y"], Reader(), tuple, run) == {"x": 2.0, "y": 6.0}


@pytest.mark.parametrize(
    ("text", "x", "named"),
    [
        *(
            (text, [None, None, math.nan], "has nothing to learn from: its argument is missing in every row")
            for text in ("scale(x)", "center(x)", "poly(x, 2)", "bs(x, df=4)", "cut(x, quantiles=3)")
        ),
        ("scale(log(x))", [-1.0, -2.0], r"scale\(log\(x\)\) has nothing to learn from"),
        ("scale(x)", [2.0, 2.0, 2.0], "constant"),
        ("scale(x)", [2.0], "constant"),
        ("poly(x, 2)", [1.0, 2.0, 1.0, 2.0], r"poly\(x, 2\): the degree must be less than the number"),
        ("poly(x, 1)", [1e9] * 5, "the degree must be less than the number"),
        ("poly(x, 3)", [1e9, 1e9 + 1, 1e9 + 2] * 40, "the degree must be less than the number"),
        ("cut(x, quantiles=3)", [5.0] * 9, "all its breaks are one number, 5"),
        ("bs(x, df=4)", [5.0] * 9, "does not vary"),
        ("cr(x, df=3)", [5.0] * 9, "does not vary"),
        ("bs(x, knots=[7])", [1.0, 5.0], "knot 7 lies outside of the data, which go from 1 to 5"),
        ("scale(x)", [1e300, -1e300, 1e299], "overflow. Rescale it"),
        ("center(x)", [1.7e308] * 4, "overflow. Rescale it"),
        ("poly(x, 2)", [1e300, -1e300, 1e299], "overflow. Rescale it"),
        ("poly(x, 4)", [1e80, -1e80, 1e79, 3e79, -2e79, 7e79], "overflow. Rescale it"),
    ],
)
def test_what_cannot_be_learned_is_named(text: str, x: list[Any], named: str) -> None:
    with pytest.raises(StreamlrError, match=named):
        learned([text], table(x=pa.array(x, pa.float64())))


def test_merging_with_nothing_changes_nothing() -> None:
    full, empty = Moments(), Moments()
    full.add(np.array([1.0, 4.0, -2.0]))
    before = vars(full).copy()
    full.merge(empty)
    assert vars(full).copy() == before
    empty.merge(full)
    assert vars(empty) == before
