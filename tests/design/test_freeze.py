"""The frozen design: which outcome is 1, the order of levels, references, and levels set aside."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.errors import SeparationError, StreamlrError

N = 300
RNG = np.random.default_rng(5)
X = RNG.normal(size=N)
G = RNG.choice(["a", "b", "c"], N)
Y = (RNG.random(N) < 1 / (1 + np.exp(-0.5 * X))).astype(np.int64)
ROWS = np.arange(N)


def fit(data: Any, **options: Any) -> streamlr.Model:
    return streamlr.fit(data, **{"target": "y", "tol": 1e-12, **options})


# Which outcome is 1


POSITIVES: list[tuple[Any, Any, Any]] = [
    (False, True, True),
    (0, 1, 1),
    (-1, 1, 1),
    (0.0, 1.0, 1),
    (-1.0, 1.0, 1),
    (1, 2, 2),
    (0, 2, 2),
    (-2, -1, -1),
    (9, 10, 10),
    (0.5, 1.5, 1.5),
    ("no", "yes", "yes"),
    ("0", "1", "1"),
    ("10", "9", "9"),  # texts by code point
    ("False", "True", "True"),
    ("Yes", "no", "no"),  # upper case first
    ("", "x", "x"),
    ("z", "é", "é"),  # code points, no alphabet of any language
    (2**60, 2**60 + 1, 2**60 + 1),
]


@pytest.mark.parametrize(("low", "high", "positive"), POSITIVES, ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_positive_level(low: Any, high: Any, positive: Any, first: int) -> None:
    """Whichever of the two comes first in the rows."""
    y = Y if Y[0] == first else 1 - Y
    model = fit({"y": pa.array([high if value else low for value in y]), "x": X})
    assert model.design.positive == positive
    assert type(model.design.positive) is type(positive) or positive == 1
    expected = fit({"y": y, "x": X})
    np.testing.assert_allclose(model.params, expected.params, rtol=1e-11)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, 0),
        (0, 1, "0"),
        (0, 1, 0.0),
        (False, True, False),
        (False, True, "False"),
        ("no", "yes", "no"),
        (1, 2, "1"),
        (0.5, 1.5, "0.5"),
        (1.0, 2.0, "1"),
        ("1", "2", 1),
    ],
)
def test_positive_by_request(low: Any, high: Any, wanted: Any) -> None:
    model = fit({"y": pa.array([high if value else low for value in Y]), "x": X}, positive=wanted)
    assert model.design.positive == low
    np.testing.assert_allclose(model.params, -fit({"y": Y, "x": X}).params, rtol=1e-9)


def test_positive_that_is_no_value() -> None:
    with pytest.raises(StreamlrError, match=r"'y' has no value 'maybe'.*0 and 1"):
        fit({"y": Y, "x": X}, positive="maybe")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0], r"1 value \(0\)"),
        ([0, 1, 2], r"3 values \(0, 1, 2\)"),
        (["b", "c", "a"], r"3 values \(a, b, c\)"),
    ],
)
def test_outcomes_that_are_not_two(values: list[Any], words: str) -> None:
    with pytest.raises(StreamlrError, match=f"'y' has {words}.*needs 2"):
        fit({"y": [values[i % len(values)] for i in range(N)], "x": X})


def test_many_outcomes_are_not_listed_in_full() -> None:
    with pytest.raises(StreamlrError) as caught:
        fit({"y": RNG.normal(size=N), "x": X})
    assert len(str(caught.value)) < 400


# Order and names of levels


@pytest.mark.parametrize(
    ("values", "reference", "levels"),
    [
        ([10, 9, -1], -1, ["9", "10"]),
        ([2.5, 10.0, -0.5], -0.5, ["2.5", "10.0"]),
        (["10", "9", "-1"], "-1", ["10", "9"]),
        (["b", "B", "a"], "B", ["a", "b"]),
        (["é", "z", "a"], "a", ["z", "é"]),
        (["a", "a ", ""], "", ["a", "a "]),
        (["😀", "～", "a"], "a", ["～", "😀"]),  # code points, not UTF-16
        ([True, False, False], False, ["True"]),
        ([2**53 + 1, 2**53, 2**53 + 2], 2**53, [str(2**53 + 1), str(2**53 + 2)]),
    ],
    ids=str,
)
def test_order_of_levels(values: list[Any], reference: Any, levels: list[str]) -> None:
    column = [values[i % 3] for i in range(N)]
    name = "C(v)" if not isinstance(values[0], str | bool) else "v"
    model = fit({"y": Y, "v": column}, categorical=["v"])
    assert model.terms == ("Intercept", *(f"{name}[T.{level}]" for level in levels))
    assert model.design.categories[0].reference == reference


def test_order_of_rows_does_not_matter() -> None:
    y, g = np.r_[Y, Y], np.r_[G, G]
    terms = {fit({"y": y[order], "g": g[order]}).terms for order in (slice(None), np.argsort(g)[::-1])}
    assert terms == {("Intercept", "g[T.b]", "g[T.c]")}


def test_minus_zero_is_zero() -> None:
    values = np.where(ROWS % 2 == 0, 0.0, -0.0)
    values[ROWS % 3 == 0] = 1.0
    model = fit({"y": Y, "v": values}, categorical=["v"])
    assert model.terms == ("Intercept", "C(v)[T.1.0]")


# References


@pytest.mark.parametrize("wanted", ["a", "b", "c"])
def test_reference_by_request(wanted: str) -> None:
    model = fit({"y": Y, "g": G}, reference={"g": wanted})
    others = [level for level in "abc" if level != wanted]
    assert model.terms == ("Intercept", *(f"g[T.{level}]" for level in others))
    plain = fit({"y": Y, "g": G})
    assert model.llf == pytest.approx(plain.llf, rel=1e-13)
    level = dict(zip(plain.terms, plain.params, strict=True))
    shift = level.get(f"g[T.{wanted}]", 0.0)
    assert model.params[0] == pytest.approx(level["Intercept"] + shift, abs=1e-10)


@pytest.mark.parametrize("wanted", [2, "2", 2.0, "2.0"])
def test_reference_of_numbers_in_any_writing(wanted: Any) -> None:
    model = fit({"y": Y, "h": ROWS % 3}, categorical=["h"], reference={"h": wanted})
    assert model.terms == ("Intercept", "C(h)[T.0]", "C(h)[T.1]")


@pytest.mark.parametrize("wanted", [True, "True", 1, "1"])
def test_reference_of_truth_values(wanted: Any) -> None:
    model = fit({"y": Y, "b": X > 0}, reference={"b": wanted})
    assert model.terms == ("Intercept", "b[T.False]")


def test_reference_that_is_no_level() -> None:
    with pytest.raises(StreamlrError, match=r"'g' has no level 'bb'.*Did you mean 'b'"):
        fit({"y": Y, "g": G}, reference={"g": "bb"})


def test_reference_without_a_used_row() -> None:
    table = pa.table({"y": Y, "g": G, "x": pa.array(X, mask=G == "c")})
    with pytest.raises(StreamlrError, match="'c'"):
        fit(table, reference={"g": "c"})


def test_reference_without_intercept() -> None:
    """All levels have a coefficient, as in R; the reference by request comes first."""
    model = streamlr.fit({"y": Y, "g": G}, "y ~ 0 + g", reference={"g": "b"})
    assert model.terms == ("g[b]", "g[a]", "g[c]")


# Levels with one outcome only


def with_levels(**sure: tuple[int, int]) -> dict[str, Any]:
    """y, x and g; each name in `sure` is a level of g on some rows of one outcome: (outcome, rows)."""
    g = G.astype(object).copy()
    start = 0
    for level, (outcome, rows) in sure.items():
        chosen = np.flatnonzero(outcome == Y)[start : start + rows]
        g[chosen] = level
        start += rows
    return {"y": Y, "x": X, "g": g.astype(str)}


def told(level: str, direction: int, sign_fixed: bool | None = True) -> dict[str, Any]:
    """A level set aside, as a finding has it."""
    return {
        "term": f"g[T.{level}]",
        "direction": direction,
        "value": float(direction),
        "sign_fixed": sign_fixed,
    }


def test_levels_are_set_aside_with_their_rows() -> None:
    data = with_levels(up=(1, 10), down=(0, 7))
    model = fit(data)
    assert model.terms == ("Intercept", "x", "g[T.b]", "g[T.c]")
    glance = model.glance()
    assert (glance["rows_read"], glance["rows_used"], glance["rows_dropped"]) == (N, N - 17, 0)
    rest = ~np.isin(data["g"], ["up", "down"])
    alone = fit({name: values[rest] for name, values in data.items()})
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-11)
    np.testing.assert_allclose(model.bse, alone.bse, rtol=1e-11)
    assert model.llf == pytest.approx(alone.llf, rel=1e-13)
    assert model.llnull == pytest.approx(alone.llnull, rel=1e-13)
    assert model.nobs == alone.nobs


def test_levels_set_aside_stand_in_the_table_without_numbers() -> None:
    model = fit(with_levels(up=(1, 10), down=(0, 7)))
    rows = {row.pop("term"): row for row in model.tidy().to_pylist()}
    assert list(rows) == ["Intercept", "x", "g[T.b]", "g[T.c]", "g[T.down]", "g[T.up]"]
    for level in ("g[T.down]", "g[T.up]"):
        assert set(rows[level].values()) == {None}
    finding = dict(model.separation or {})
    assert "--firth" in " ".join(finding.pop("advice"))
    assert finding == {
        "kind": "quasi-complete",
        "terms": [told("down", -1), told("up", 1)],
        "rows_separated": 17,
        "rows_overlapping": N - 17,
        "rows_set_aside": 17,
    }
    assert list(model.aliased) == []
    assert model.cov_params().shape == (4, 4)
    assert "g[T.up]" in str(model.summary())


def test_level_of_one_row_is_set_aside() -> None:
    model = fit(with_levels(single=(1, 1)))
    assert model.separation is not None
    assert model.separation["terms"] == [told("single", 1)]


@pytest.mark.parametrize("name", ["A first", "z last"])
def test_a_level_set_aside_is_no_reference(name: str) -> None:
    model = fit(with_levels(**{name: (0, 9)}))
    assert model.design.categories[0].reference == "a"
    with pytest.raises(StreamlrError, match=f"'{name}'.*one outcome"):
        fit(with_levels(**{name: (0, 9)}), reference={"g": name})


def test_direction_is_that_of_the_positive_outcome() -> None:
    data = with_levels(up=(1, 10))
    model = fit({**data, "y": np.where(data["y"] == 1, "no", "yes")})
    assert model.separation is not None
    assert model.separation["terms"] == [told("up", -1)]
    assert set(model.predict({"x": X[:1], "g": ["up"]})) == {0.0}


def test_separation_error_sets_nothing_aside() -> None:
    with pytest.raises(SeparationError) as caught:
        fit(with_levels(up=(1, 10), down=(0, 7)), separation="error")
    finding = caught.value.separation
    assert finding["kind"] == "quasi-complete"
    assert finding["terms"] == [told("down", -1, None), told("up", 1, None)]
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (17, N - 17)
    assert finding["rows_set_aside"] == 0
    assert "--separation levels" in str(caught.value)


def test_a_row_with_two_such_levels_counts_once() -> None:
    data = with_levels(up=(1, 10))
    h = np.where(data["g"] == "up", "up too", np.where(ROWS % 2 == 0, "p", "q"))
    model = fit({**data, "h": h})
    assert model.glance()["rows_used"] == N - 10
    assert model.separation is not None
    assert (model.separation["rows_separated"], model.separation["rows_overlapping"]) == (10, N - 10)
    with pytest.raises(SeparationError) as caught:
        fit({**data, "h": h}, separation="error")
    finding = caught.value.separation
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (10, N - 10)


def cascade() -> dict[str, Any]:
    """Setting aside g=up leaves h=s one-sided, and setting aside that leaves k=v so.

    h=s has 30 rows with outcome 0 and 10 with 1, the latter those of g=up; k=v has 20 rows with
    outcome 1 and 30 with 0, the latter those of h=s and g≠up.
    """
    g, h, k = (np.array(["a", "b"], dtype=object)[(ROWS // step) % 2] for step in (1, 2, 3))
    ones, zeros = np.flatnonzero(Y == 1), np.flatnonzero(Y == 0)
    g[ones[:10]] = "up"
    h[ones[:10]] = "s"
    h[zeros[:30]] = "s"
    k[zeros[:30]] = "v"
    k[ones[10:30]] = "v"
    return {"y": Y, "x": X, "g": g.astype(str), "h": h.astype(str), "k": k.astype(str)}


@pytest.mark.parametrize("order", list(itertools.permutations(["g", "h", "k"])), ids="".join)
def test_cascade(order: tuple[str, ...]) -> None:
    data = cascade()
    model = fit(data, features=["x", *order])
    assert model.separation is not None
    found = {term["term"]: term["direction"] for term in model.separation["terms"]}
    assert found == {"g[T.up]": 1, "h[T.s]": -1, "k[T.v]": 1}
    assert model.separation["rows_separated"] == 60
    rest = (data["g"] != "up") & (data["h"] != "s") & (data["k"] != "v")
    assert model.glance()["rows_used"] == rest.sum() == N - 60
    alone = fit({name: values[rest] for name, values in data.items()}, features=["x", *order])
    assert model.terms == alone.terms
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-10)


def test_cascade_scores_by_the_first_level_of_a_row() -> None:
    """Rows of g=up are always 1; those with h=s as well were set aside for g, not for h."""
    data = cascade()
    model = fit(data, features=["x", "g", "h", "k"])
    scores = model.predict(data)
    only_g = (data["g"] == "up") & (data["h"] != "s") & (data["k"] != "v")
    only_h = (data["g"] != "up") & (data["h"] == "s") & (data["k"] != "v")
    only_k = (data["g"] != "up") & (data["h"] != "s") & (data["k"] == "v")
    assert set(scores[only_g]) <= {1.0}
    assert set(scores[only_h]) <= {0.0}
    assert set(scores[only_k]) == {1.0}
    plain = ~(np.isin(data["g"], ["up"]) | np.isin(data["h"], ["s"]) | np.isin(data["k"], ["v"]))
    assert ((scores[plain] > 0) & (scores[plain] < 1)).all()


@pytest.mark.parametrize("kind", ["truth", "text", "dictionary"])
@pytest.mark.parametrize("named", [False, True])
def test_factor_of_two_levels_of_which_one_is_set_aside(kind: str, named: bool) -> None:
    """A flag that always goes with the outcome: its rows are set aside and one level remains."""
    on = np.zeros(N, dtype=bool)
    on[np.flatnonzero(Y == 1)[:20]] = True
    flag: Any = {
        "truth": on,
        "text": np.where(on, "yes", "no"),
        "dictionary": pa.array(np.where(on, "yes", "no")).dictionary_encode(),
    }[kind]
    data = {"y": Y, "x": X, "flag": flag}
    model = fit(data, features=["x", "flag"] if named else None)
    assert model.terms == ("Intercept", "x")
    alone = fit({"y": Y[~on], "x": X[~on]})
    np.testing.assert_allclose(model.params, alone.params, rtol=1e-11)
    assert model.glance()["rows_used"] == N - 20
    assert model.separation is not None
    (term,) = model.separation["terms"]
    assert term["direction"] == 1
    scores = model.predict(data)
    assert set(scores[on]) == {1.0}
    assert ((scores[~on] > 0) & (scores[~on] < 1)).all()


def test_factor_whose_every_level_has_one_outcome_is_complete_separation() -> None:
    with pytest.raises(SeparationError) as caught:
        fit({"y": Y, "x": X, "g": np.where(Y == 1, "yes", "no")})
    finding = caught.value.separation
    assert finding["kind"] == "complete"
    assert (finding["rows_separated"], finding["rows_overlapping"]) == (N, 0)


def test_cascade_that_ends_in_complete_separation_counts_every_row() -> None:
    g = np.where(Y == 1, "p", "q").astype(object)
    both = np.r_[np.flatnonzero(Y == 0)[:8]]
    g[both] = "p"  # p has both outcomes, but the rows with 0 all have h=s, which is one-sided
    h = np.array(["t", "u"], dtype=object)[ROWS % 2]
    h[both] = "s"
    with pytest.raises(SeparationError) as caught:
        fit({"y": Y, "x": X, "g": g.astype(str), "h": h.astype(str)})
    finding = caught.value.separation
    assert finding["kind"] == "complete"
    assert finding["rows_separated"] + finding["rows_overlapping"] == N


def test_one_outcome_by_weight_zero_is_one_outcome() -> None:
    """The other outcome of level c has no weight, so its coefficient is infinite all the same."""
    weight = np.where((G == "c") & (Y == 0), 0, 1)
    model = fit({"y": Y, "x": X, "g": G, "w": weight}, weights="w")
    assert model.separation is not None
    assert model.separation["terms"] == [told("c", 1)]


def test_trials_set_aside_levels_without_a_failure() -> None:
    trials = np.full(N, 4)
    successes = RNG.binomial(4, 0.5, N)
    successes[G == "c"] = 4
    model = fit({"y": successes, "t": trials, "x": X, "g": G}, trials="t")
    assert model.separation is not None
    assert model.separation["terms"] == [told("c", 1)]
    assert model.predict({"x": [0.0], "g": ["c"]}).tolist() == [1.0]


def test_what_is_set_aside_depends_on_used_rows_only() -> None:
    """c has both outcomes, but only one in rows that are not missing."""
    table = pa.table({"y": Y, "x": pa.array(X, mask=(G == "c") & (Y == 0)), "g": G})
    model = fit(table)
    assert model.separation is not None
    assert model.separation["terms"] == [told("c", 1)]
    nan = pa.table({"y": Y, "x": pa.array(np.where((G == "c") & (Y == 0), np.nan, X)), "g": G})
    assert fit(nan).separation == model.separation


def test_a_long_list_of_levels_set_aside_is_told_in_few_words() -> None:
    """Thousands of rare levels must not be thousands of lines."""
    from streamlr.events import Remark

    g = [f"rare {i}" if i % 2 else f"common {i % 3}" for i in range(2_000)]
    y = RNG.integers(0, 2, 2_000)
    heard: list[Any] = []
    model = streamlr.fit({"y": y, "g": g}, on_event=heard.append)
    assert model.separation is not None
    assert len(model.separation["terms"]) == 1_000
    assert sum(isinstance(event, Remark) for event in heard) < 50
