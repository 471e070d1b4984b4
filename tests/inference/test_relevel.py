"""Another reference level from a saved model: equal to a fit with that reference, to 1e-8.

Real data are compared with R's `glm(... relevel(x, ref = ))` (`tests/saved_models.py`), everything else with
`streamlr.fit(..., reference=...)` on the same rows, which makes the whole model anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_models import CASES, TOLERANCE, check_table, reread, saved

import streamlr


def make_table(n: int = 600, seed: int = 11) -> pa.Table:
    """y, numbers x and z, factors a (p, q, r, s) and b (u, v, w), a truth value t, whole numbers h and g."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "x": rng.normal(size=n),
        "z": rng.normal(2.0, 0.5, n),
        "a": rng.choice(["p", "q", "r", "s"], n),
        "b": rng.choice(["u", "v", "w"], n),
        "t": rng.random(n) < 0.4,
        "h": rng.integers(0, 3, n),
        "g": rng.integers(0, 40, n),
    }
    eta = 0.5 * columns["x"] + (columns["a"] == "q") - 0.6 * (columns["b"] == "v") * columns["t"]
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    return pa.table({"y": y, **columns, "w": rng.integers(1, 4, n), "n": rng.integers(1, 4, n)})


TABLE = make_table()


def check_equal(moved: streamlr.Model, fitted: streamlr.Model, data: Any = TABLE) -> None:
    """Everything that a model holds of its coefficients, and what it predicts."""
    assert moved.terms == fitted.terms
    assert list(moved.aliased) == list(fitted.aliased)
    assert moved.design == fitted.design
    size = np.sqrt(np.diagonal(fitted.cov_params()))
    assert np.all(np.abs(moved.params - fitted.params) <= TOLERANCE * size)
    np.testing.assert_allclose(moved.bse, fitted.bse, rtol=TOLERANCE)
    for robust in (False, True):
        expected = fitted.cov_params(robust=robust)
        size = np.sqrt(np.diagonal(expected))
        assert np.all(np.abs(moved.cov_params(robust=robust) - expected) <= TOLERANCE * np.outer(size, size))
    assert [row["term"] for row in moved.tidy_rows()] == [row["term"] for row in fitted.tidy_rows()]
    assert moved.separation == fitted.separation
    assert moved.llf == pytest.approx(fitted.llf, rel=1e-12)
    np.testing.assert_allclose(moved.predict(data), fitted.predict(data), rtol=1e-8)
    # The frozen basis scores as the user's coefficients do: what is written to a file predicts the same.
    np.testing.assert_array_equal(reread(moved).predict(data), moved.predict(data))


# Against R


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, place) for name, case in CASES.items() for place in range(len(case["relevel"]))],
)
def test_agrees_with_r(name: str, place: int) -> None:
    """glm with relevel(x, ref = ), its robust covariances with sandwich's; from the file alone."""
    stored = CASES[name]["relevel"][place]
    model = saved(name)
    moved = model.relevel(stored["column"], stored["reference"])
    check_table(moved, stored)
    check_table(reread(moved), stored)
    assert (moved.llf, moved.aic, moved.bic) == (model.llf, model.aic, model.bic)


# Against a fit


@pytest.mark.parametrize(
    ("formula", "changes"),
    [
        ("y ~ x + a", {"a": "s"}),
        ("y ~ a*b + x", {"a": "q"}),
        ("y ~ a*b + x", {"a": "r", "b": "w"}),
        ("y ~ a*x + z*b", {"a": "q", "b": "v"}),
        ("y ~ a + a:x", {"a": "q"}),
        ("y ~ a*b*x", {"b": "w"}),
        ("y ~ a*x*z", {"a": "s"}),
        ("y ~ t*x + a", {"t": True}),
        ("y ~ C(h) + x", {"h": 2}),
        ("y ~ C(h)*a", {"h": 1}),
        ("y ~ 0 + a + b", {"b": "w"}),
        ("y ~ 0 + a + b", {"a": "q"}),
        ("y ~ 0 + a:b + x", {"a": "q"}),
        ("y ~ x:a + b", {"a": "q"}),
        ("y ~ z + z:a + b", {"a": "q"}),
        ("y ~ z*x + z:x:a", {"a": "q"}),
        ("y ~ b + z:b + z:b:a", {"a": "q", "b": "w"}),
        ("y ~ bs(x, df=4)*a", {"a": "r"}),
        ("y ~ ns(x, df=3) + a + I(z**2)", {"a": "r"}),
        ("y ~ C(b, sum)*a", {"a": "q"}),
        ("y ~ cut(x, [-9, -1, 1, 9])*z + a", {"a": "q"}),
    ],
)
def test_equals_a_fit(formula: str, changes: Mapping[str, Any]) -> None:
    moved = reread(streamlr.fit(TABLE, formula, tol=1e-12))
    for column, level in changes.items():
        moved = moved.relevel(column, level)
    check_equal(moved, streamlr.fit(TABLE, formula, reference=changes, tol=1e-12))


@pytest.mark.parametrize(
    "options",
    [
        {"cov": "HC0"},
        {"cov": "HC3"},
        {"cluster": ["g"]},
        {"cluster": ["g", "b"], "small_sample": "full"},
        {"weights": "w"},
        {"weights": "w", "weight_type": "sampling"},
        {"offset": "z"},
        {"absorb": "g"},
        {"absorb": "g", "cov": "HC1"},
        {"firth": True},
        {"firth": True, "flic": True},
    ],
)
def test_equals_a_fit_with_other_options(options: dict[str, Any]) -> None:
    formula = "y ~ x*a + b"
    moved = reread(streamlr.fit(TABLE, formula, tol=1e-12, **options)).relevel("a", "r")
    fitted = streamlr.fit(TABLE, formula, reference={"a": "r"}, tol=1e-12, **options)
    check_equal(moved, fitted)
    if fitted.absorbed_effects is not None:
        assert moved.absorbed_effects is not None
        np.testing.assert_allclose(moved.absorbed_effects, fitted.absorbed_effects, atol=1e-7)


@pytest.mark.parametrize("missing", ["drop", "indicator", "fill=0"])
@pytest.mark.parametrize("factor", ["a", "lump(a, top=2)"])
def test_missing_values_and_merged_levels(missing: str, factor: str) -> None:
    """A level for missing values, and one for rare levels, stand where a fit puts them."""
    x, a = TABLE["x"].to_pylist(), TABLE["a"].to_pylist()
    x[20:50], a[:30] = [None] * 30, [None] * 30
    table = TABLE.set_column(1, "x", pa.array(x)).set_column(3, "a", pa.array(a))
    formula = f"y ~ x*{factor} + b"
    model = reread(streamlr.fit(table, formula, missing=missing, tol=1e-12))
    for level in model.design.categories[0].levels:
        fitted = streamlr.fit(table, formula, missing=missing, reference={"a": level}, tol=1e-12)
        check_equal(model.relevel("a", level), fitted, table)


def test_counts() -> None:
    table = TABLE.set_column(0, "y", pa.array(np.minimum(TABLE["y"].to_numpy() * 2, TABLE["n"].to_numpy())))
    moved = streamlr.fit(table, "y ~ a*x", trials="n", tol=1e-12).relevel("a", "s")
    fitted = streamlr.fit(table, "y ~ a*x", trials="n", reference={"a": "s"}, tol=1e-12)
    check_equal(moved, fitted, table)


@given(st.integers(0, 1_000))
def test_any_formula_equals_a_fit(seed: int) -> None:
    """Random sums of products of a, b, t, x and z."""
    rng = np.random.default_rng(seed)
    products = [
        ":".join(chosen)
        for size in (1, 2, 3)
        for chosen in itertools.combinations(["a", "b", "t", "x", "z"], size)
    ]
    chosen = rng.choice(products, int(rng.integers(1, 5)), replace=False)
    formula = "y ~ " + rng.choice(["", "0 + "]) + " + ".join(["a", *(term for term in chosen if term != "a")])
    model = streamlr.fit(TABLE, formula, tol=1e-12)
    fitted = streamlr.fit(TABLE, formula, reference={"a": "r"}, tol=1e-12)
    try:
        moved = model.relevel("a", "r")
    except streamlr.StreamlrError as error:
        if "only another fit can change it" in str(error):
            # R's rule takes `t` in a:t for a contrast because of t:x: what is spanned hangs on the reference.
            assert fitted.llf != pytest.approx(model.llf, abs=1e-6)
        else:  # products without their parts may be dependent, as in R
            assert model.aliased
            assert "fit again with that reference" in str(error)
    else:
        check_equal(moved, fitted)


@pytest.mark.parametrize(
    "formula", ["y ~ year + I(year**2) + I(year**3) + a*far", "y ~ year + I(year**2) + I(year**3)*a + far"]
)
def test_columns_far_from_zero(formula: str) -> None:
    """Centres and what is taken out of columns move as well: at 2e6 a raw round trip has no digits left."""
    rng = np.random.default_rng(2)
    table = TABLE.append_column("year", pa.array(2000.0 + rng.integers(0, 40, TABLE.num_rows)))
    table = table.append_column("far", pa.array(TABLE["x"].to_numpy() + 2.0e6))
    moved = streamlr.fit(table, formula, tol=1e-12).relevel("a", "q")
    fitted = streamlr.fit(table, formula, reference={"a": "q"}, tol=1e-12)
    assert moved.basis.reduced
    assert moved.terms == fitted.terms
    np.testing.assert_allclose(moved.zvalues, fitted.zvalues, rtol=1e-6)
    np.testing.assert_allclose(moved.predict(table), fitted.predict(table), rtol=1e-8)


@pytest.mark.parametrize(
    ("formula", "column", "level"),
    [
        ("y ~ x + a", "a", "r"),
        *(("y ~ a*b + x", "a", level) for level in "qrs"),
        *(("y ~ a*b + x", "b", level) for level in "vw"),
    ],
)
def test_levels_set_aside(formula: str, column: str, level: str) -> None:
    """A level and a cell with one outcome only keep their limits, under the names of the new reference."""
    y, a, b = (TABLE[name].to_numpy(zero_copy_only=False).copy() for name in ("y", "a", "b"))
    a = a.astype(object)
    a[:12], y[:12] = "zz", 1
    y[(a == "q") & (b == "w")] = 0
    table = TABLE.set_column(0, "y", pa.array(y)).set_column(3, "a", pa.array(a.tolist()))
    model = reread(streamlr.fit(table, formula, tol=1e-12))
    with pytest.raises(streamlr.StreamlrError, match=r"always 1.*Choose another"):
        model.relevel("a", "zz")
    try:
        moved = model.relevel(column, level)
    except streamlr.StreamlrError as error:  # the cell that has no rows left would be one of the references
        assert level in "qw"
        assert "fit again with that reference" in str(error)
    else:
        assert moved.separation is not None
        check_equal(moved, streamlr.fit(table, formula, reference={column: level}, tol=1e-12), table)


def test_an_aliased_number_stays_where_it_is() -> None:
    table = TABLE.append_column("twice", pa.array(2 * TABLE["x"].to_numpy()))
    moved = streamlr.fit(table, "y ~ x + twice + a", tol=1e-12).relevel("a", "q")
    check_equal(moved, streamlr.fit(table, "y ~ x + twice + a", reference={"a": "q"}, tol=1e-12), table)


def test_what_only_rows_can_settle() -> None:
    """Which level of an aliased factor has no estimate depends on the order of its columns."""
    a = TABLE["a"].to_pylist()
    coarse = pa.array(["one" if level in ("p", "q") else "two" for level in a])
    model = streamlr.fit(TABLE.append_column("coarse", coarse), "y ~ coarse + a")
    with pytest.raises(streamlr.StreamlrError, match=r"aliased.*fit again"):
        model.relevel("a", "r")


@pytest.mark.parametrize("level", ["q", "s"])
def test_empty_cells(level: str) -> None:
    """Equal where the same cells have columns, and refused in words where others would."""
    keep = ~((TABLE["a"].to_numpy(zero_copy_only=False) == "q") & TABLE["t"].to_numpy(zero_copy_only=False))
    table = TABLE.filter(pa.array(keep))
    model = streamlr.fit(table, "y ~ a*t + x", tol=1e-12)
    try:
        moved = model.relevel("a", level)
    except streamlr.StreamlrError as error:
        assert level == "q"
        assert "fit again with that reference" in str(error)
    else:
        fitted = streamlr.fit(table, "y ~ a*t + x", reference={"a": level}, tol=1e-12)
        check_equal(moved, fitted, table)


def test_names_of_what_has_no_estimate() -> None:
    """Follow the reference that is written in them."""
    keep = ~((TABLE["a"].to_numpy(zero_copy_only=False) == "q") & TABLE["t"].to_numpy(zero_copy_only=False))
    table = TABLE.filter(pa.array(keep))
    moved = streamlr.fit(table, "y ~ C(a, reference='p')*t", tol=1e-12).relevel("a", "s")
    check_equal(moved, streamlr.fit(table, "y ~ C(a, reference='s')*t", tol=1e-12), table)
    assert list(moved.aliased) == ["C(a, reference='s')[T.q]:t[T.True]"]
    y = TABLE["y"].to_numpy() * (TABLE["a"].to_numpy(zero_copy_only=False) != "r")
    table = TABLE.set_column(0, "y", pa.array(y))
    moved = streamlr.fit(table, "y ~ C(a, reference='p') + x", tol=1e-12).relevel("a", "s")
    check_equal(moved, streamlr.fit(table, "y ~ C(a, reference='s') + x", tol=1e-12), table)
    assert moved.separation is not None
    (term,) = moved.separation["terms"]
    assert (term["term"], term["direction"]) == ("C(a, reference='s')[T.r]", -1)


def test_there_and_back(model: streamlr.Model) -> None:
    back = model.relevel("a", "s").relevel("b", "w").relevel("a", "p").relevel("b", "u")
    assert back.terms == model.terms
    assert back.design == model.design
    np.testing.assert_allclose(back.params, model.params, rtol=1e-10)
    np.testing.assert_allclose(back.bse, model.bse, rtol=1e-10)
    assert model.relevel("a", "p") is model


@pytest.fixture(scope="module")
def model() -> streamlr.Model:
    return reread(streamlr.fit(TABLE, "y ~ x + a*b + C(h, sum) + C(t, reference=True)", cov="HC0"))


def test_a_whole_factor_is_tested_the_same(model: streamlr.Model) -> None:
    """With no interaction above it, and the interaction itself: a test knows no reference."""
    moved = model.relevel("a", "r")
    for term in ("a:b", "x", "C(h, sum)"):
        one, other = model.wald_test(term), moved.wald_test(term)
        assert (one.df, one.statistic) == (other.df, pytest.approx(other.statistic, rel=1e-8))
    for row, other in zip(model.term_tests(2), moved.term_tests(2), strict=True):
        assert other.statistic == pytest.approx(row.statistic, rel=1e-8)
    difference = model.wald_test("a[T.q] - a[T.r] = 0").rows[0]
    assert moved.params[moved.terms.index("a[T.q]")] == pytest.approx(difference.estimate, rel=1e-8)
    assert moved.bse[moved.terms.index("a[T.q]")] == pytest.approx(difference.std_error, rel=1e-8)


def test_a_reference_written_in_the_formula(model: streamlr.Model) -> None:
    """Is written anew, so that the name says what the model is."""
    moved = model.relevel("t", False)
    assert "C(t, reference=False)[T.True]" in moved.terms
    place = model.terms.index("C(t, reference=True)[T.False]")
    assert moved.params[moved.terms.index("C(t, reference=False)[T.True]")] == pytest.approx(
        -model.params[place], rel=1e-9
    )


def test_intervals_of_a_number() -> None:
    """A factor that no column holds, by its name."""
    model = streamlr.fit(TABLE, "y ~ cut(x, [-9, -1, 1, 9]) + z", tol=1e-12)
    moved = reread(model).relevel("cut(x, [-9, -1, 1, 9])", "(-1,1]")
    assert moved.terms[1:3] == ("cut(x, [-9, -1, 1, 9])[T.(-9,-1]]", "cut(x, [-9, -1, 1, 9])[T.(1,9]]")
    difference = model.wald_test(
        "`cut(x, [-9, -1, 1, 9])[T.(1,9]]` - `cut(x, [-9, -1, 1, 9])[T.(-1,1]]`"
    ).rows[0]
    assert (moved.params[2], moved.bse[2]) == pytest.approx(
        (difference.estimate, difference.std_error), rel=1e-9
    )
    np.testing.assert_allclose(moved.predict(TABLE), model.predict(TABLE), rtol=1e-12)


# What was profiled


@pytest.mark.parametrize("options", [{}, {"firth": True}])
def test_profiled_intervals_of_the_same_coefficients_move(options: dict[str, Any]) -> None:
    formula = "y ~ x + b*t"
    fitted = streamlr.fit(TABLE, formula, ci="profile", reference={"b": "w"}, **options)
    moved = reread(streamlr.fit(TABLE, formula, ci="profile", **options)).relevel("b", "w")
    assert moved.terms == fitted.terms
    assert moved.profile_bounds is not None
    known = ~np.isnan(moved.profile_bounds).any(axis=1)
    # The difference of the two references is the old one with the other sign; the intercept is another sum.
    assert [term for term, has in zip(moved.terms, known, strict=True) if has] == [
        "x",
        "b[T.u]",
        "b[T.u]:t[T.True]",
    ]
    np.testing.assert_allclose(moved.conf_int()[known], fitted.conf_int()[known], rtol=1e-6)
    np.testing.assert_allclose(moved.zvalues[known], fitted.zvalues[known], rtol=1e-5)
    assert moved.about()["profiled"] == ["x", "b[T.u]", "b[T.u]:t[T.True]"]


# What is refused


@pytest.mark.parametrize(
    ("column", "level", "says"),
    [
        ("nothing", "q", "no factor 'nothing'"),
        ("x", 1, "'x' is numeric"),
        ("a", "nothing", "a has no level 'nothing'"),
        ("h", 2, "coded by sum contrasts"),
        ("C(h, sum)", 2, "coded by sum contrasts"),
    ],
)
def test_refused(model: streamlr.Model, column: str, level: Any, says: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=says):
        model.relevel(column, level)


def test_refused_factors_of_other_kinds() -> None:
    with pytest.raises(streamlr.StreamlrError, match="absorbed"):
        streamlr.fit(TABLE, "y ~ x", absorb="a").relevel("a", "q")
    twice = streamlr.fit(TABLE, "y ~ C(h):x + C(h, sum):z")
    with pytest.raises(streamlr.StreamlrError, match="name the one to change"):
        twice.relevel("h", 2)
    used = streamlr.fit(TABLE, "y ~ x + a", where="a != 's'")
    with pytest.raises(streamlr.StreamlrError, match=r"no level 's'|no row"):
        used.relevel("a", "s")
