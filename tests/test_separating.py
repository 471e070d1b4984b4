"""Separation is proved by a direction: each is checked by row in fractions, its extent by a linear programme.

The programme of the oracle knows all rows at once and none of the code under test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.optimize import linprog

import streamlr
from streamlr import climbing, fitting, separating
from streamlr.cli import main
from streamlr.passes.cache import BlockCache
from streamlr.sources.memory import TablePart

Data = dict[str, Any]
REFERENCE = Path(__file__).parent / "reference" / "data"


def separation_of(data: Data, formula: str, **options: Any) -> dict[str, Any]:
    """The finding that a fit raises."""
    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(data, formula, **options)
    return caught.value.separation


def sides_of(y: Any, trials: Any = None, weight: Any = None) -> list[int | None]:
    """1 for rows of successes, -1 of failures, 0 of both, None for those that do not count."""
    n = len(y)
    trials = np.ones(n, dtype=int) if trials is None else np.asarray(trials)
    weight = np.ones(n) if weight is None else np.asarray(weight, dtype=float)
    found: list[int | None] = []
    for successes, of, w in zip(np.asarray(y), trials, weight, strict=True):
        counts = w > 0 and of > 0
        found.append(int(successes > 0) - int(successes < of) if counts else None)
    return found


def moved_by(finding: dict[str, Any], columns: Data, *, exactly: bool) -> list[int]:
    """(n,) the sign of x'd of each row along the direction of a finding, in fractions.

    `exactly`: the direction is read as one of small whole numbers, as that of a plane through whole numbers
    is, and x'd must be zero to count as zero. Else 1e-12 of the sum of absolute terms does.
    """
    values = {"Intercept": finding["intercept"], **{t["term"]: t["value"] for t in finding["terms"]}}
    largest = max(abs(term["value"]) for term in finding["terms"])
    direction = {name: Fraction(value) / Fraction(largest) for name, value in values.items()}
    if exactly:
        direction = {name: value.limit_denominator(10**6) for name, value in direction.items()}
    n = len(next(iter(columns.values())))
    columns = {"Intercept": np.ones(n), **columns}
    found = []
    for row in range(n):
        terms = [Fraction(float(columns[name][row])) * value for name, value in direction.items()]
        total, size = sum(terms), sum(abs(term) for term in terms)
        is_zero = total == 0 if exactly else abs(total) <= size * Fraction(1, 10**12)
        found.append(0 if is_zero else 1 if total > 0 else -1)
    return found


def check_direction(
    finding: dict[str, Any], columns: Data, sides: Sequence[int | None], *, exactly: bool = True
) -> None:
    """No row is on the wrong side, and those moved are as many as the finding says."""
    separated = overlapping = 0
    for side, way in zip(sides, moved_by(finding, columns, exactly=exactly), strict=True):
        if side is None:
            continue
        assert way in (0, side), f"a row of side {side} lies at {way}"
        separated += way != 0
        overlapping += way == 0
    assert (separated, overlapping) == (finding["rows_separated"], finding["rows_overlapping"])
    assert finding["kind"] == ("quasi-complete" if overlapping else "complete")
    for term in finding["terms"]:
        assert term["direction"] == np.sign(term["value"])


def signs(finding: dict[str, Any]) -> dict[str, int]:
    return {term["term"]: term["direction"] for term in finding["terms"]}


def oracle(X: np.ndarray, sides: Sequence[int | None]) -> np.ndarray:
    """(n,) which rows some direction separates, by one programme over all of them."""
    known = np.array([side is not None for side in sides])
    s = np.array([side or 0 for side in sides])
    pure, both = np.flatnonzero(known & (s != 0)), np.flatnonzero(known & (s == 0))
    m, k = len(pure), X.shape[1]
    found = linprog(
        np.r_[np.zeros(k), -np.ones(m)],
        A_ub=np.hstack([-s[pure, None] * X[pure], np.eye(m)]),
        b_ub=np.zeros(m),
        A_eq=np.hstack([X[both], np.zeros((len(both), m))]) if len(both) else None,
        b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=[(None, None)] * k + [(0, 1)] * m,
        method="highs",
    )
    assert found.status == 0
    separated = np.zeros(len(X), dtype=bool)
    separated[pure] = found.x[k:] > 0.5
    return separated


def is_fixed(X: np.ndarray, sides: Sequence[int | None], column: int, way: int) -> bool:
    """Whether no direction of the cone moves a column against `way`, by a programme over all rows."""
    known = np.array([side is not None for side in sides])
    s = np.array([side or 0 for side in sides])
    pure, both = X[known & (s != 0)] * s[known & (s != 0), None], X[known & (s == 0)]
    found = linprog(
        way * np.eye(X.shape[1])[column],
        A_ub=-pure,
        b_ub=np.zeros(len(pure)),
        A_eq=both if len(both) else None,
        b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=[(-1, 1)] * X.shape[1],
        method="highs",
    )
    assert found.status == 0
    return bool(found.fun > -1e-7)


# ---------------------------------------------------------------- textbook and constructed cases


def test_complete_separation_by_one_of_two_numbers() -> None:
    data = {
        "y": [0, 0, 0, 0, 1, 1, 1, 1],
        "a": [1, 2, 3, 3, 5, 6, 10, 11],
        "b": [3, 2, -1, -1, 2, 4, 1, 0],
    }
    finding = separation_of(data, "y ~ a + b")
    assert finding["kind"] == "complete"
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (8, 0)
    assert signs(finding)["a"] == 1
    check_direction(finding, data, sides_of(data["y"]), exactly=False)
    assert finding["rows_set_aside"] == 0
    assert not any("--separation" in sentence for sentence in finding["advice"])
    assert any("--firth" in sentence for sentence in finding["advice"])


def test_quasi_complete_separation_with_a_tie_at_the_cut() -> None:
    """At a = 3 both outcomes occur; all other rows lie on their own side of it."""
    data = {
        "y": [0, 0, 0, 0, 1, 1, 1, 1, 1, 1],
        "a": [1, 2, 3, 3, 3, 4, 5, 6, 10, 11],
        "b": [3, 0, -1, 4, 1, 0, 2, 7, 3, 4],
    }
    finding = separation_of(data, "y ~ a + b")
    (term,) = finding["terms"]
    assert (term["term"], term["direction"], term["sign_fixed"]) == ("a", 1, True)
    assert finding["intercept"] == pytest.approx(-3.0 * term["value"], rel=1e-14)
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (7, 3)
    check_direction(finding, data, sides_of(data["y"]))
    assert "--separation drop" in finding["advice"][0]


def endometrial() -> tuple[Data, dict[str, Any]]:
    stored = json.loads((REFERENCE / "endometrial.json").read_text())
    return {name: np.array(stored[name]) for name in ("NV", "PI", "EH", "HG")}, stored


def test_endometrial_cancer() -> None:
    """Heinze and Schemper 2002: neovascularisation goes with high grade only; other effects are finite."""
    data, _ = endometrial()
    finding = separation_of(data, "HG ~ NV + PI + EH")
    (term,) = finding["terms"]
    assert (term["term"], term["direction"], term["sign_fixed"]) == ("NV", 1, True)
    assert finding["intercept"] == 0.0
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (13, 66)
    check_direction(finding, data, sides_of(data["HG"]))


def test_endometrial_cancer_without_the_separated_rows_agrees_with_r() -> None:
    """R's glm of the 66 other rows, see scripts/make_separation_references.R; its standard errors are those
    of the step before the last."""
    data, stored = endometrial()
    model = streamlr.fit(data, "HG ~ NV + PI + EH", separation="drop")
    assert list(model.terms) == stored["terms"]
    np.testing.assert_allclose(model.params, stored["coefficients"], rtol=1e-8)
    np.testing.assert_allclose(model.bse, stored["std_error"], rtol=1e-7)
    assert model.llf == pytest.approx(stored["log_likelihood"], rel=1e-10)
    assert list(model.aliased) == ["NV"]
    assert model.separation is not None
    assert model.separation["rows_set_aside"] == 13
    probability = model.predict(data)
    assert set(probability[data["NV"] == 1]) == {1.0}
    assert np.all((probability > 0) & (probability < 1), where=data["NV"] == 0)


def whole_numbers(seed: int, n: int, low: int = -4, high: int = 4, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high + 1, size=(n, columns)).astype(float)


def coins(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, n)


def test_a_combination_of_three_numbers() -> None:
    """2a - b + c is zero in some rows, which have both outcomes; no single column separates anything."""
    X = whole_numbers(0, 300)
    along = 2 * X[:, 0] - X[:, 1] + X[:, 2]
    y = np.where(along == 0, coins(1, 300), along > 0).astype(int)
    data = {"y": y, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}
    finding = separation_of(data, "y ~ a + b + c")
    assert signs(finding) == {"a": 1, "b": -1, "c": 1}
    values = {term["term"]: term["value"] for term in finding["terms"]}
    assert values["a"] == pytest.approx(-2.0 * values["b"], rel=1e-12)
    assert values["c"] == pytest.approx(-values["b"], rel=1e-12)
    assert all(term["sign_fixed"] for term in finding["terms"])
    assert finding["rows_overlapping"] == int(np.sum(along == 0))
    check_direction(finding, data, sides_of(y))


@pytest.mark.parametrize("seed", [0, 39, 41])
def test_far_from_zero_rows_of_the_plane_stay_in_it(seed: int) -> None:
    """Centring takes 2**20 off: what a direction's rounding leaves of x'd must not pass for separation."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-8, 9, size=(60, 4)) / 8.0
    plane = np.r_[1.0, rng.integers(-2, 3, 4)[1:]]
    in_plane = rng.random(60) < 0.4
    X[in_plane, 0] = -(X[in_plane, 1:] @ plane[1:])
    along = X @ plane
    y = np.where(along == 0, rng.integers(0, 2, 60), along > 0).astype(int)
    data = {"y": y, **{name: X[:, j] + 2.0**20 for j, name in enumerate("abcd")}}
    finding = separation_of(data, "y ~ a + b + c + d")
    assert finding["rows_overlapping"] == int(np.sum(along == 0))
    check_direction(finding, data, sides_of(y))


def test_a_gap_of_a_billionth_is_one() -> None:
    """Outcomes change between 5 and 5 + 1e-9, where a coefficient would have to go beyond 1e9 to show it."""
    x = np.r_[np.arange(1, 101) / 20, 5 + 1e-9 + np.arange(40) / 20]
    data = {"y": np.repeat([0, 1], [100, 40]), "x": x}
    finding = separation_of(data, "y ~ x")
    assert (finding["kind"], finding["rows_separated"]) == ("complete", 140)
    check_direction(finding, data, sides_of(data["y"]), exactly=False)


def test_a_second_direction_inside_of_the_plane_of_the_first() -> None:
    """a tells all rows with a != 0, and b those of the others with b != 0: the first direction alone would
    leave rows that overlap with nothing."""
    X = whole_numbers(5, 400, -2, 2)
    a, b = X[:, 0], X[:, 1]
    y = np.where(a != 0, a > 0, np.where(b != 0, b < 0, coins(6, 400))).astype(int)
    data = {"y": y, "a": a, "b": b, "c": X[:, 2]}
    finding = separation_of(data, "y ~ a + b + c")
    assert signs(finding) == {"a": 1, "b": -1}
    assert finding["rows_overlapping"] == int(np.sum((a == 0) & (b == 0)))
    check_direction(finding, data, sides_of(y), exactly=False)
    model = streamlr.fit(data, "y ~ a + b + c", separation="drop", tol=1e-12)
    rest = (a == 0) & (b == 0)
    alone = streamlr.fit({"y": y[rest], "c": X[rest, 2]}, "y ~ c", tol=1e-12)
    assert model.terms == alone.terms
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, alone.bse, rtol=1e-7)
    np.testing.assert_array_equal(model.predict(data)[~rest], y[~rest])


def test_a_row_of_weight_zero_has_no_say() -> None:
    a = np.array([-3.0, -2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, -3.0])
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    w = np.array([2, 1, 1, 3, 1, 1, 2, 1, 0, 0])
    data = {"y": y, "a": a, "w": w}
    finding = separation_of(data, "y ~ a", weights="w")
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (6, 2)
    check_direction(finding, {"a": a}, sides_of(y, weight=w))
    w[8:] = 1
    assert streamlr.fit({**data, "w": w}, "y ~ a", weights="w").converged


def test_analytic_weights_are_no_trials() -> None:
    """However small the weights are, the loss of a certain row is not above log 2 of them."""
    a = np.array([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0])
    data = {"y": [0, 0, 0, 1, 1, 1], "a": a, "w": [1e-6, 1.0, 1e-3, 0.5, 1e-3, 1e3]}
    finding = separation_of(data, "y ~ a", weights="w", weight_type="analytic")
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (4, 2)
    check_direction(finding, {"a": a}, sides_of(data["y"]))


def test_rows_with_a_null_have_no_say() -> None:
    a = [-3.0, -2.0, 0.0, 0.0, 2.0, 3.0, 3.0, -3.0]
    y = [0, 0, 0, 1, 1, 1, 0, 1]
    b = [1.0, 0.5, 2.0, 1.0, 3.0, 1.0, None, None]
    table = pa.table({"y": y, "a": a, "b": b})
    finding = separation_of(table, "y ~ a + b")
    assert signs(finding)["a"] == 1
    used = {"a": a[:6], "b": b[:6]}
    check_direction(finding, used, sides_of(y[:6]), exactly=False)
    gaps = pa.table({"y": y, "a": a, "b": [1.0, 0.5, 2.0, 1.0, 3.0, 1.0, 0.0, 2.0]})
    assert streamlr.fit(gaps, "y ~ a + b").converged


def test_an_offset_moves_no_plane() -> None:
    """It makes the loss of every row as small as may be, and separates nothing by itself."""
    X = whole_numbers(7, 200)
    a = X[:, 0]
    y = np.where(a == 0, coins(8, 200), a > 0).astype(int)
    data = {"y": y, "a": a, "b": X[:, 1], "o": np.random.default_rng(9).normal(size=200) * 5}
    finding = separation_of(data, "y ~ a + b", offset="o")
    assert signs(finding) == {"a": 1}
    check_direction(finding, {"a": a}, sides_of(y))
    rng = np.random.default_rng(10)
    noisy = (rng.random(200) < 1 / (1 + np.exp(-a))).astype(int)
    telling = np.where(noisy == 1, 30.0, -30.0)
    model = streamlr.fit({**data, "y": noisy, "o": telling + rng.normal(size=200)}, "y ~ a", offset="o")
    assert np.isfinite(model.params).all()


def test_counts_with_both_outcomes_lie_in_the_plane() -> None:
    """Rows with successes and failures are overlapping, whatever their share."""
    a = np.array([-2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    b = np.array([1.0, -1.0, 0.0, 1.0, 2.0, 0.0, 1.0])
    data = {"k": [0, 0, 2, 1, 3, 5, 4], "n": [3, 4, 5, 4, 4, 5, 4], "a": a, "b": b}
    finding = separation_of(data, "k ~ a + b", trials="n")
    assert signs(finding) == {"a": 1}
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (4, 3)
    check_direction(finding, {"a": a, "b": b}, sides_of(data["k"], data["n"]))
    one_failure = {**data, "k": [0, 0, 2, 1, 3, 4, 3]}
    assert streamlr.fit(one_failure, "k ~ a + b", trials="n").converged
    dropped = streamlr.fit(data, "k ~ a + b", trials="n", separation="drop", tol=1e-12)
    alone = streamlr.fit({"k": [2, 1, 3], "n": [5, 4, 4], "b": b[2:5]}, "k ~ b", trials="n", tol=1e-12)
    np.testing.assert_allclose(dropped.params, alone.params, rtol=1e-9)


def test_counts_of_both_outcomes_hold_a_direction_back() -> None:
    """The count at a = 3 has successes for the most part, and a failure; a alone separates all other rows."""
    a = np.array([-2.0, -1.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0])
    mark = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    data = {"k": [0, 0, 3, 2, 4, 1, 2, 5], "n": [3, 2, 3, 2, 5, 2, 2, 5], "a": a, "mark": mark}
    finding = separation_of(data, "k ~ a + mark", trials="n")
    assert signs(finding) == {"mark": 1}
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (2, 6)
    check_direction(finding, data, sides_of(data["k"], data["n"]))


def test_a_column_that_repeats_others_hides_nothing() -> None:
    X = whole_numbers(11, 200)
    a, b = X[:, 0], X[:, 1]
    along = a - b
    y = np.where(along == 0, coins(12, 200), along > 0).astype(int)
    data = {"y": y, "a": a, "b": b, "same": 2 * a + b, "c": X[:, 2]}
    finding = separation_of(data, "y ~ a + b + same + c")
    assert finding["rows_overlapping"] == int(np.sum(along == 0))
    check_direction(finding, data, sides_of(y))


def test_slopes_inside_of_one_level() -> None:
    """Level q has a slope of its own that separates its rows; those of p overlap."""
    X = whole_numbers(13, 200)
    x = X[:, 0]
    g = np.where(np.arange(200) % 2 == 0, "p", "q")
    y = np.where((g == "q") & (x != 0), x > 0, coins(14, 200)).astype(int)
    finding = separation_of({"y": y, "x": x, "g": g}, "y ~ g * x")
    in_q = (g == "q").astype(float)
    columns = {"g[T.q]": in_q, "x": x, "g[T.q]:x": in_q * x}
    assert signs(finding) == {"g[T.q]:x": 1}
    assert finding["rows_separated"] == int(np.sum((g == "q") & (x != 0)))
    check_direction(finding, columns, sides_of(y))


def test_a_sign_that_the_cone_does_not_fix() -> None:
    """a alone separates every row, by so much that b may help either way; a cannot turn."""
    X = whole_numbers(15, 120, -2, 2)
    half = np.where(np.arange(120) % 2 == 0, 10.0, -10.0)
    data = {"y": (half > 0).astype(int), "a": half, "b": X[:, 0] + 0.25 * X[:, 1]}
    finding = separation_of(data, "y ~ a + b")
    assert finding["kind"] == "complete"
    fixed = {term["term"]: term["sign_fixed"] for term in finding["terms"]}
    assert fixed["a"] is True
    assert fixed.get("b", False) is False
    check_direction(finding, data, sides_of(data["y"]), exactly=False)


# ---------------------------------------------------------------- no false alarm


@pytest.mark.parametrize("slope", [8.0, 25.0])
def test_nearly_separated_is_fitted(slope: float) -> None:
    """Outcomes change from 0 to 1 within a few hundredths of x: |coefficients| of 25 and a finite maximum."""
    rng = np.random.default_rng(16)
    x, z = rng.normal(size=3_000), rng.normal(size=3_000)
    y = (rng.random(3_000) < 1 / (1 + np.exp(-np.clip(slope * (x + z), -700, 700)))).astype(int)
    model = streamlr.fit({"y": y, "x": x, "z": z}, "y ~ x + z")
    assert model.converged
    assert model.separation is None
    assert np.abs(model.params).max() > 0.6 * slope
    p = model.predict({"x": x, "z": z})
    assert np.abs([np.sum(y - p), np.sum((y - p) * x), np.sum((y - p) * z)]).max() < 1e-7


@pytest.mark.parametrize("settles", [True, False])
def test_asking_early_does_no_harm(settles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are asked after the second step, and say that there is a maximum, or nothing in time."""
    monkeypatch.setattr(climbing, "PATIENCE", 1)
    if not settles:
        monkeypatch.setattr(separating, "PROGRAMMES", 0)
    rng = np.random.default_rng(18)
    x = rng.normal(size=500)
    y = (rng.random(500) < 1 / (1 + np.exp(-6 * x))).astype(int)
    model = streamlr.fit({"y": y, "x": x}, "y ~ x")
    assert model.converged
    p = model.predict({"x": x})
    assert np.abs([np.sum(y - p), np.sum((y - p) * x)]).max() < 1e-8


def test_one_row_is_all_that_keeps_an_indicator_finite() -> None:
    """Of 2,000 rows with the mark one has the other outcome: its coefficient is log odds, not infinity."""
    rng = np.random.default_rng(17)
    mark = np.repeat([1.0, 0.0], 2_000)
    y = np.r_[np.ones(2_000), rng.integers(0, 2, 2_000)].astype(int)
    y[7] = 0
    model = streamlr.fit({"y": y, "mark": mark}, "y ~ mark")
    rest = y[2_000:].mean()
    expected = np.log(1_999) - np.log(rest / (1 - rest))
    assert model.separation is None
    assert model.params[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_one_row_out_of_place_leaves_a_finite_maximum(seed: int) -> None:
    X = whole_numbers(20 + seed, 300)
    along = X @ [1.0, -2.0, 1.0]
    y = (along > 0).astype(int)
    inside = np.flatnonzero((along == 1) & (np.abs(X).max(axis=1) <= 2))[0]
    y[inside] = 0
    sides = sides_of(y)
    expected = oracle(np.c_[np.ones(300), X], sides)
    data = {"y": y, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}
    if expected.any():
        assert separation_of(data, "y ~ a + b + c")["rows_separated"] == int(expected.sum())
    else:
        assert streamlr.fit(data, "y ~ a + b + c").converged


# ---------------------------------------------------------------- against a programme over all rows


def random_case(seed: int) -> tuple[Data, str, dict[str, Any], np.ndarray, list[int | None]]:
    """A small design of whole numbers: overlapping, separated, nearly so, or separated in two stages."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 5)), int(rng.integers(6, 40))
    high = int(rng.choice([1, 2, 3, 6, 1_000]))
    X = rng.integers(-high, high + 1, size=(n, k)).astype(float)
    along, further = X @ rng.integers(-2, 3, k) + rng.integers(-1, 2), X @ rng.integers(-2, 3, k)
    y = rng.integers(0, 2, n)
    if seed % 4:
        inside = np.where(further == 0, y, further > 0) if seed % 4 == 3 else y
        y = np.where(along == 0, inside, along > 0).astype(int)
    if seed % 4 == 2:
        y[rng.integers(0, n)] ^= 1
    data: Data = {f"x{j}": X[:, j] for j in range(k)}
    options: dict[str, Any] = {}
    weight = trials = None
    if rng.integers(0, 3) == 0:
        data["w"] = weight = rng.integers(0, 3, n)
        options["weights"] = "w"
    if rng.integers(0, 4) == 0:
        data["n"] = trials = rng.integers(1, 4, n)
        options["trials"] = "n"
        y = np.minimum(y * trials + (rng.random(n) < 0.1), trials)
    if rng.integers(0, 4) == 0:
        data["o"] = rng.normal(size=n) * 3
        options["offset"] = "o"
    data["y"] = y
    formula = "y ~ " + " + ".join(f"x{j}" for j in range(k))
    return data, formula, options, np.c_[np.ones(n), X], sides_of(y, trials, weight)


@pytest.mark.parametrize("start", range(0, 120, 20))
def test_random_designs_agree_with_a_linear_programme(start: int) -> None:
    """Verdict, extent and direction, which signs it fixes, and the fit of the rest."""
    seen = set()
    fixed = set()
    for seed in range(start, start + 20):
        data, formula, options, X, sides = random_case(seed)
        if not {1, -1} <= {s for s in sides if s} and not any(s == 0 for s in sides):
            continue
        separated = oracle(X, sides)
        counting = np.array([side is not None for side in sides])
        if not separated.any():
            assert streamlr.fit(data, formula, **options).converged, seed
            seen.add("none")
            continue
        finding = separation_of(data, formula, **options)
        seen.add(finding["kind"])
        assert finding["rows_separated"] == int(separated.sum()), seed
        assert finding["rows_overlapping"] == int((counting & ~separated).sum()), seed
        check_direction(finding, data, sides, exactly=False)
        if np.linalg.matrix_rank(X[counting]) == X.shape[1]:
            for term in finding["terms"]:
                if term["sign_fixed"] is not None:
                    expected = is_fixed(X, sides, 1 + int(term["term"][1:]), term["direction"])
                    assert term["sign_fixed"] is expected, (seed, term["term"])
                    fixed.add(expected)
        if finding["kind"] == "complete":
            continue
        model = streamlr.fit(data, formula, separation="drop", **options)
        probability = model.predict(data)
        limits = (probability == 0) | (probability == 1)
        np.testing.assert_array_equal(limits[counting], separated[counting], err_msg=str(seed))
        wanted = np.array([side == 1 for side in sides])[separated]
        np.testing.assert_array_equal(probability[separated], wanted, err_msg=str(seed))
    assert seen == {"none", "complete", "quasi-complete"}
    assert fixed == {True, False}


# ---------------------------------------------------------------- policies, reads, model files, the command


def marked(n: int = 300, levels: bool = True) -> Data:
    """A mark that goes with one outcome, beside a number and a factor of which a level does too."""
    rng = np.random.default_rng(31)
    x = rng.normal(size=n)
    g = np.array(list("abcd"))[rng.integers(0, 4 if levels else 3, n)]
    mark = ((rng.random(n) < 0.2) & (g != "d")).astype(float)
    y = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int)
    y = np.where(mark == 1, 1, np.where(g == "d", 0, y))
    return {"y": y, "x": x, "mark": mark, "g": g}


def test_error_says_whether_other_rows_overlap_beside_a_level() -> None:
    """Levels with one outcome are known before the fit; that all other rows are separated too is not."""
    x = np.arange(12.0)
    g = np.array(list("aabbaabbcccc"))
    data = {"x": x, "g": g, "y": np.where(g == "c", 0, (x > 3.5).astype(int))}
    finding = separation_of(data, "y ~ x + g", separation="error")
    assert (finding["kind"], finding["rows_separated"], finding["rows_overlapping"]) == ("complete", 12, 0)
    data["y"] = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0])
    X = np.column_stack([np.ones(12), x, g == "b", g == "c"]).astype(float)
    left = oracle(X, sides_of(data["y"]))
    finding = separation_of(data, "y ~ x + g", separation="error")
    assert (finding["kind"], finding["rows_separated"]) == ("quasi-complete", left.sum())
    assert any("--separation levels" in sentence for sentence in finding["advice"])


def test_error_of_a_level_of_counts_is_not_complete() -> None:
    g = np.array(list("aaabbbccc"))
    data = {
        "x": np.array([0.0, 2.0, 1.0, 3.0, 0.5, 1.0, 2.0, 0.0, 1.0]),
        "n": np.full(9, 5),
        "y": np.array([1, 3, 2, 4, 2, 1, 0, 0, 0]),
        "g": g,
    }
    finding = separation_of(data, "y ~ x + g", trials="n", separation="error")
    assert finding["kind"] == "quasi-complete"
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (3, 6)
    assert signs(finding) == {"g[T.c]": -1}


@pytest.mark.parametrize("policy", ["levels", "drop", "error"])
def test_no_policy_is_advised_where_the_other_rows_say_nothing(policy: str) -> None:
    """Rows with x = 0 overlap, and without an intercept have no say in anything."""
    data = {"x": np.array([1.0, 2.0, -1.0, 0.0, 0.0, 0.0]), "y": np.array([1, 1, 0, 0, 1, 0])}
    finding = separation_of(data, "y ~ x - 1", separation=policy)
    assert (finding["kind"], finding["rows_overlapping"]) == ("quasi-complete", 3)
    assert not any("--separation" in sentence for sentence in finding["advice"])


def test_policies() -> None:
    data = marked()
    beside, level = data["mark"] == 1, data["g"] == "d"
    finding = separation_of(data, "y ~ x + mark + g", separation="levels")
    assert separation_of(data, "y ~ x + mark + g", separation="error") == finding
    assert signs(finding) == {"g[T.d]": -1, "mark": 1}
    assert finding["rows_separated"] == int(np.sum(beside | level))
    assert finding["rows_set_aside"] == 0
    model = streamlr.fit(data, "y ~ x + mark + g", separation="drop")
    found = model.separation
    assert found is not None
    assert signs(dict(found)) == {"g[T.d]": -1, "mark": 1}
    assert found["rows_separated"] == found["rows_set_aside"] == int(np.sum(beside | level))
    rest = ~(beside | level)
    alone = streamlr.fit({name: column[rest] for name, column in data.items()}, "y ~ x + g")
    assert model.terms == alone.terms
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, alone.bse, rtol=1e-7)
    glance = model.glance()
    assert (glance["rows_read"], glance["rows_used"], glance["rows_dropped"]) == (300, int(rest.sum()), 0)
    rows = {row["term"]: row for row in model.tidy().to_pylist()}
    assert rows["mark"]["estimate"] is None
    assert list(model.aliased) == ["mark"]
    summary = str(model.summary())
    assert "separated, to +∞" in summary
    assert "separated: mark → +∞" in summary
    assert "aliased" not in summary


def test_error_is_raised_for_any_kind_and_nothing_is_left_to_drop() -> None:
    without = marked(levels=False)
    for policy in ("levels", "error"):
        assert signs(separation_of(without, "y ~ x + mark + g", separation=policy)) == {"mark": 1}
    x = np.arange(20.0)
    for policy in ("levels", "drop", "error"):
        finding = separation_of({"y": (x > 9).astype(int), "x": x}, "y ~ x", separation=policy)
        assert (finding["kind"], finding["rows_overlapping"]) == ("complete", 0)


def test_robust_errors_and_clusters_beside_separated_rows() -> None:
    data = {**marked(levels=False), "id": np.arange(300) // 5}
    rest = data["mark"] == 0
    alone = {name: column[rest] for name, column in data.items()}
    for options in ({"cov": "HC1"}, {"cluster": "id"}):
        model = streamlr.fit(data, "y ~ x + mark", separation="drop", **options)
        expected = streamlr.fit(alone, "y ~ x", **options)
        np.testing.assert_allclose(model.bse, expected.bse, rtol=1e-7)


def test_a_model_file_keeps_what_was_set_aside(tmp_path: Path) -> None:
    data = marked()
    model = streamlr.fit(data, "y ~ x + mark + g", separation="drop")
    model.save(str(tmp_path / "model.json"))
    again = streamlr.load(str(tmp_path / "model.json"))
    assert again.separation == model.separation
    new = {"x": np.array([0.3, 0.3, 0.3]), "mark": np.array([0.0, 1.0, 1.0]), "g": np.array(["a", "a", "d"])}
    np.testing.assert_array_equal(again.predict(new), model.predict(new))
    np.testing.assert_array_equal(again.predict(data), model.predict(data))
    assert again.predict(new)[1] == 1.0
    assert str(again.summary()) == str(model.summary())


def test_another_reference_level_needs_a_fit_where_a_direction_set_rows_aside() -> None:
    """The direction is kept by columns, which another reference would change."""
    model = streamlr.fit(marked(), "y ~ x + mark + g", separation="drop")
    with pytest.raises(streamlr.StreamlrError, match=r"--reference g=b"):
        model.relevel("g", "b")


def test_threads_and_parts_do_not_change_a_finding(tmp_path: Path) -> None:
    X = whole_numbers(33, 3_000)
    along = 2 * X[:, 0] - X[:, 1] + X[:, 2]
    y = np.where(along == 0, coins(34, 3_000), along > 0).astype(int)
    table = pa.table({"y": y, "a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    pq.write_table(table, tmp_path / "many.parquet", row_group_size=100)
    found = [
        separation_of(str(tmp_path / "many.parquet"), "y ~ a + b + c", threads=threads) for threads in (1, 2)
    ]
    assert found[0] == found[1]
    columns = {name: table[name].to_numpy() for name in "abc"}
    check_direction(found[0], columns, sides_of(y))


@dataclass
class Reads:
    """Rows that were read of tables, by whoever asked; every pass reads them again."""

    rows: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counted = Reads()
    read = TablePart.read

    def reading(part: TablePart, *arguments: Any) -> Iterator[pa.RecordBatch]:
        for batch in read(part, *arguments):
            counted.rows += batch.num_rows
            yield batch

    monkeypatch.setattr(TablePart, "read", reading)
    monkeypatch.setattr(fitting, "BlockCache", lambda *_: BlockCache(0, 0, None))
    return counted


def rare_level(separated: bool) -> pa.Table:
    rng = np.random.default_rng(35)
    n = 30_000
    level = rng.integers(0, 300, n)
    x = rng.normal(size=n)
    y = (rng.random(n) < 1 / (1 + np.exp(-x - 0.01 * (level % 7)))).astype(int)
    if separated:
        y[level == 123] = 1
    return pa.table({"y": y, "x": x, "level": level})


def test_one_level_of_300_costs_at_most_one_read_more_than_a_fit(reads: Reads) -> None:
    formula, rows = "y ~ x + C(level)", 30_000
    model = streamlr.fit(rare_level(separated=False), formula)
    assert model.separation is None
    one_fit = reads.rows / rows
    assert one_fit > model.statistics.passes > 3

    reads.rows = 0
    finding = separation_of(rare_level(separated=True), formula, separation="error")
    assert signs(finding) == {"C(level)[T.123]": 1}
    assert reads.rows / rows <= one_fit + 1.0  # the other rows may be separated too

    reads.rows = 0
    model = streamlr.fit(rare_level(separated=True), formula)
    assert model.separation is not None
    (term,) = model.separation["terms"]
    assert (term["term"], term["direction"], term["sign_fixed"]) == ("C(level)[T.123]", 1, True)
    assert reads.rows / rows <= one_fit + 1.0


def test_a_mark_is_found_before_coefficients_have_diverged_for_good(reads: Reads) -> None:
    """Decrements shrink by exp(-1/2) a step and would take thirty reads to become negligible."""
    finding = separation_of(pa.table(marked(3_000, levels=False)), "y ~ x + mark")
    assert signs(finding) == {"mark": 1}
    assert reads.rows / 3_000 < 20


def test_the_command_prints_the_finding_and_writes_no_model(tmp_path: Path) -> None:
    pq.write_table(pa.table(marked()), tmp_path / "data.parquet")
    output = tmp_path / "model.json"
    arguments = ["fit", str(tmp_path / "data.parquet"), "-y", "y", "-o", str(output), "--quiet"]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 4
    assert not output.exists()
    lines = text.stdout.splitlines()
    assert lines[0] == "Quasi-complete separation: no finite maximum-likelihood estimate exists"
    assert any(line.split()[:2] == ["mark", "+∞"] and line.endswith("fixed") for line in lines)
    assert "--separation drop" in text.stdout
    assert text.stderr.startswith("Error: quasi-complete separation")
    assert len(text.stderr.splitlines()) == 1

    printed = CliRunner().invoke(main, [*arguments, "--format", "json"])
    assert printed.exit_code == 4
    assert not output.exists()
    finding = json.loads(printed.stdout)["separation"]
    assert finding == separation_of({**marked()}, "y ~ x + mark + g")

    as_error = CliRunner().invoke(main, [*arguments, "--format", "json", "--separation", "error"])
    assert as_error.exit_code == 4
    assert json.loads(as_error.stdout)["separation"] == finding

    dropped = CliRunner().invoke(main, [*arguments, "--separation", "drop"])
    assert dropped.exit_code == 0, dropped.stderr
    assert output.exists()
    assert "separated: mark → +∞" in dropped.stdout
