"""Numbers at the edge of what a double holds, and data that only look as if they could be fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.objective import Objective
from streamlr.separating import prove
from streamlr.sources.memory import TableSource

RNG = np.random.default_rng(11)
N = 300
X = RNG.normal(size=N)
Y = (RNG.random(N) < 1 / (1 + np.exp(-X))).astype(np.int8)


def fit(**columns: np.ndarray) -> streamlr.Model:
    options = {"offset": "o"} if "o" in columns else {}
    return streamlr.fit({"y": Y, **columns}, target="y", **options)


@pytest.mark.parametrize("offset", [800.0, -800.0, 1e6])
def test_an_offset_that_is_one_number_moves_the_intercept_only(offset: float) -> None:
    plain, moved = fit(x=X), fit(x=X, o=np.full(N, offset))
    assert moved.converged
    np.testing.assert_allclose(moved.bse, plain.bse, rtol=1e-9)
    assert moved.params[1] == pytest.approx(plain.params[1], rel=1e-9)
    # The intercept cancels the offset, so it has the rounding of the offset.
    assert moved.params[0] == pytest.approx(plain.params[0] - offset, abs=1e-15 * abs(offset) + 1e-8)
    assert moved.llf == pytest.approx(plain.llf, rel=1e-9)


@pytest.mark.parametrize("rows", [2, 30, 100])
@pytest.mark.parametrize("size", [60.0, 1e4, -1e6])
def test_a_few_rows_whose_offset_decides_them_do_not_lead_astray(size: float, rows: int) -> None:
    """Their outcome is certain and they have it, so that they say nothing and the fit is that of the others.
    Their offset draws the mean of all far from what most rows have."""
    certain = np.arange(N) % (N // rows) == 1
    small = RNG.normal(size=N) * 0.3
    y = np.where(certain, size > 0, Y).astype(np.int8)
    data = {"y": y, "x": X, "o": np.where(certain, size, small)}
    with_them = streamlr.fit(data, target="y", offset="o")
    without = streamlr.fit({name: column[~certain] for name, column in data.items()}, target="y", offset="o")
    assert with_them.converged
    np.testing.assert_allclose(with_them.params, without.params, rtol=1e-8)
    np.testing.assert_allclose(with_them.bse, without.bse, rtol=1e-8)


def test_an_offset_that_leaves_no_row_to_learn_from_is_named() -> None:
    with pytest.raises(streamlr.StreamlrError, match="offset 'o'"):
        fit(x=X, o=np.where(np.arange(N) % 2 == 0, 1e200, -1e200))


@pytest.mark.parametrize("scale", [1e-140, 1e-60, 1e60, 1e140])
def test_columns_of_any_size_that_a_variance_allows(scale: float) -> None:
    plain, scaled = fit(x=X), fit(x=X * scale)
    np.testing.assert_allclose(scaled.params * [1, scale], plain.params, rtol=1e-9)
    np.testing.assert_allclose(scaled.bse * [1, scale], plain.bse, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e300, 1.7e308])
def test_columns_beyond_that_are_refused_by_name(scale: float) -> None:
    with pytest.raises(streamlr.StreamlrError, match=r"column 'x'.*[Rr]escale"):
        fit(x=np.clip(X, -1, 1) * scale)


def test_an_infinite_outcome_is_no_second_value() -> None:
    with pytest.raises(streamlr.StreamlrError, match=r"'y'.*infinite"):
        streamlr.fit({"y": np.where(Y == 1, np.inf, 0.0), "x": X}, target="y")


@pytest.mark.parametrize(
    ("levels", "others"),
    [
        (np.arange(N) % 2 == 0, np.where(np.arange(N) % 2 == 0, "True", "False")),
        (np.arange(N) % 2 == 0, (np.arange(N) % 2 == 0).astype(int)),
        (np.arange(N) % 3, (np.arange(N) % 3).astype(str)),
        ((np.arange(N) % 3).astype(str), np.arange(N) % 3),
    ],
    ids=["truth as text", "truth as numbers", "numbers as text", "text as numbers"],
)
def test_levels_of_another_kind_are_cast_when_nothing_is_lost(levels: np.ndarray, others: np.ndarray) -> None:
    options = {"categorical": ["g"]} if levels.dtype.kind == "i" else {}
    model = streamlr.fit({"y": Y, "g": levels}, target="y", **options)
    scores = model.predict({"g": levels})
    assert not np.isnan(scores).any()
    np.testing.assert_array_equal(model.predict({"g": others}), scores)


@pytest.mark.parametrize(
    ("levels", "others"),
    [
        (np.arange(N) % 2 == 0, np.where(np.arange(N) % 2 == 0, "yes", "no")),
        (np.arange(N) % 2 == 0, np.arange(N) % 3),
        (np.arange(N) % 3, np.array(["a", "b", "c"])[np.arange(N) % 3]),
        (np.array(["a", "b", "c"])[np.arange(N) % 3], np.arange(N) % 3 + 0.5),
        (np.array(["a", "b", "c"])[np.arange(N) % 3], np.arange(N) % 2 == 0),
    ],
    ids=[
        "truth as words",
        "truth as three numbers",
        "numbers as words",
        "text as fractions",
        "text as truth",
    ],
)
def test_levels_of_another_kind_are_refused_where_something_is_lost(
    levels: np.ndarray, others: np.ndarray
) -> None:
    options = {"categorical": ["g"]} if levels.dtype.kind == "i" else {}
    model = streamlr.fit({"y": Y, "g": levels}, target="y", **options)
    with pytest.raises(streamlr.StreamlrError, match="column 'g'"):
        model.predict({"g": others})


@pytest.mark.parametrize("level", [1e-12, 0.5, 0.9999999999999999])
def test_intervals_of_every_level(level: float) -> None:
    model = fit(x=X)
    low, high = model.conf_int(level).T
    assert np.all(low < model.params)
    assert np.all(model.params < high)
    assert np.isfinite([low, high]).all()


def test_rows_on_the_wrong_side_disprove_separation() -> None:
    """Wherever coefficients seem to go, it is the rows that say whether they can."""
    model = fit(x=X)
    source = TableSource(pa.table({"y": Y, "x": X}))

    def runner(work: Any, merge: Any) -> Any:
        return work(source.parts)

    objective = Objective(model.design, model.basis, runner, None)
    direction = np.array([0.0, 1.0])
    assert prove(objective, [direction], is_direction=True) is None
    assert prove(objective, [direction], is_direction=False) is None


def test_names_cannot_write_to_the_terminal() -> None:
    model = fit(**{"a\nb\x1b[31m": X})
    lines = str(model.summary()).splitlines()
    assert sum("\\nb\\x1b[31m" in line for line in lines) == 1
    assert "\x1b" not in str(model.summary())
