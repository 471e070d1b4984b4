"""Wald tests of contrasts and terms from a saved model: against R, their formula, and what texts mean.

The numbers of real data are R's (`tests/saved_models.py`). Everything else is judged by the formula in
`saved_models.wald`, on the covariance that the model reports.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_models import CASES, TOLERANCE, check_table, reread, saved, saved_smaller, wald

import streamlr
from streamlr.errors import StreamlrError
from streamlr.inference.equations import LONGEST_TEXT

# Of statistics and p-values: both are several times as sensitive as an estimate.
OF_TESTS = 2 * TOLERANCE
OF_TAILS = 1e-7


def table_of_many_names(n: int = 700) -> pa.Table:
    """Outcome y, numbers x1, x2, `odd name`, whole numbers hour, and factors state (CA, NV, WA) and sex."""
    rng = np.random.default_rng(5)
    columns = {
        "x1": rng.normal(size=n),
        "x2": rng.normal(3.0, 2.0, n),
        "odd name": rng.normal(size=n),
        "hour": rng.integers(0, 3, n),
        "state": rng.choice(["CA", "NV", "WA, the rest"], n),
        "sex": rng.choice(["f", "m"], n),
    }
    eta = 0.4 * columns["x1"] - 0.2 * columns["x2"] + 0.5 * (columns["state"] == "CA")
    return pa.table({"y": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int), **columns})


FORMULA = "y ~ x1 * state + I(x1**2) + x2 + `odd name` + C(hour) + sex:state"


@pytest.fixture(scope="module")
def model() -> streamlr.Model:
    return reread(streamlr.fit(table_of_many_names(), FORMULA))


# Against R


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, case in CASES.items() for place in range(len(case["tests"]))]
)
def test_agrees_with_linear_hypothesis(name: str, place: int) -> None:
    """car::linearHypothesis(test = "Chisq", vcov. = that of the model)."""
    stored = CASES[name]["tests"][place]
    found = saved(name).wald_test(stored["text"])
    assert found.df == stored["df"]
    assert found.statistic == pytest.approx(stored["statistic"], rel=OF_TESTS)
    assert found.p_value == pytest.approx(stored["p_value"], rel=OF_TAILS)
    errors = [row.std_error for row in found.rows]
    np.testing.assert_allclose(errors, stored["std_error"], rtol=TOLERANCE)
    # The estimate of R less the value it is compared with is what z is made of.
    for row, estimate, error in zip(found.rows, stored["estimate"], stored["std_error"], strict=True):
        assert abs(row.estimate - estimate) <= TOLERANCE * error
        assert row.statistic == pytest.approx((estimate - row.null_value) / error, abs=OF_TESTS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("type", [2, 3])
def test_terms_agree_with_anova(name: str, type: int) -> None:
    """car::Anova(test.statistic = "Wald", vcov. = that of the model)."""
    stored = CASES[name][f"type{type}"]
    found = saved(name).term_tests(type)
    assert [row.term for row in found] == stored["term"]
    assert [row.df for row in found] == stored["df"]
    np.testing.assert_allclose([row.statistic for row in found], stored["statistic"], rtol=OF_TESTS)
    np.testing.assert_allclose([row.p_value for row in found], stored["p_value"], rtol=OF_TAILS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["smaller"]])
def test_all_that_a_model_adds_agrees_with_waldtest(name: str) -> None:
    """lmtest::waldtest(smaller, larger, test = "Chisq") of whole terms."""
    models = (saved(name), *saved_smaller(name))
    for larger, smaller, stored in zip(models, models[1:], CASES[name]["smaller"], strict=False):
        if stored["wald_statistic"] is None:  # the terms of one are no terms of the other
            continue
        added = [term for term in larger.design.term_columns if term not in smaller.design.term_columns]
        found = larger.wald_test(added)
        assert found.df == stored["df"]
        assert found.statistic == pytest.approx(stored["wald_statistic"], rel=OF_TESTS)


@pytest.mark.parametrize("name", CASES)
def test_table_and_other_levels_agree_with_r(name: str) -> None:
    """confint.default at 50, 90 and 99.9%, from the file alone."""
    case, model = CASES[name], saved(name)
    check_table(model, case["table"])
    for level, stored in case["intervals"].items():
        found = model.conf_int(float(level))
        size = TOLERANCE * (model.bse + np.abs(found - model.params[:, np.newaxis]).max(axis=1))
        assert np.all(np.abs(found - np.array(stored)) <= size[:, np.newaxis])
    if case["criteria"] is not None:
        stored = case["criteria"]
        assert (model.llf, model.aic, model.bic) == pytest.approx(
            (stored["log_likelihood"], stored["aic"], stored["bic"]), rel=1e-12
        )


# What a text means


@pytest.mark.parametrize(
    ("text", "rows", "value"),
    [
        ("x1 - 2*x2 = 1", [{"x1": 1, "x2": -2}], [1]),
        ("x1 = 2*x2 + 1", [{"x1": 1, "x2": -2}], [1]),
        ("x1 == 2 * x2", [{"x1": 1, "x2": -2}], [0]),
        ("-x1 + x2*2/4 = -.5e0", [{"x1": -1, "x2": 0.5}], [-0.5]),
        ("1 = x1", [{"x1": -1}], [-1]),
        ("2*(x1 - (x2 + 1))", [{"x1": 2, "x2": -2}], [2]),
        ("x1 + x1 + x2 - x2 = 3", [{"x1": 2}], [3]),
        ("x1, x2 = 1,", [{"x1": 1}, {"x2": 1}], [0, 1]),
        ("x1 = x2 = 0.5", [{"x1": 1, "x2": -1}, {"x2": 1}], [0, 0.5]),
        ("state[T.NV] = 0", [{"state[T.NV]": 1}], [0]),
        ("x1:state[T.NV] - x1", [{"x1:state[T.NV]": 1, "x1": -1}], [0]),
        (
            "state[T.WA, the rest]-state[T.NV]=0,x1",
            [{"state[T.WA, the rest]": 1, "state[T.NV]": -1}, {"x1": 1}],
            [0, 0],
        ),
        ("C(hour)[T.1] = C(hour)[T.2]", [{"C(hour)[T.1]": 1, "C(hour)[T.2]": -1}], [0]),
        ("I(x1**2) - x1", [{"I(x1**2)": 1, "x1": -1}], [0]),
        ("I( x1 ** 2 ) = 3", [{"I(x1**2)": 1}], [3]),
        ("odd name + x1", [{"odd name": 1, "x1": 1}], [0]),
        ("`odd name` * 2 = 1", [{"odd name": 2}], [1]),
        ("Intercept = -1", [{"Intercept": 1}], [-1]),
        ("state", [{"state[T.NV]": 1}, {"state[T.WA, the rest]": 1}], [0, 0]),
        ("0 = state", [{"state[T.NV]": 1}, {"state[T.WA, the rest]": 1}], [0, 0]),
        ("hour, x2 = 1", [{"C(hour)[T.1]": 1}, {"C(hour)[T.2]": 1}, {"x2": 1}], [0, 0, 1]),
        ("C(hour)", [{"C(hour)[T.1]": 1}, {"C(hour)[T.2]": 1}], [0, 0]),
        ("state:x1", [{"x1:state[T.NV]": 1}, {"x1:state[T.WA, the rest]": 1}], [0, 0]),
    ],
)
def test_texts(model: streamlr.Model, text: str, rows: list[dict[str, float]], value: list[float]) -> None:
    matrix = np.zeros((len(rows), len(model.terms)))
    for row, coefficients in zip(matrix, rows, strict=True):
        for name, weight in coefficients.items():
            row[model.terms.index(name)] = weight
    found = model.wald_test(text)
    expected = model.wald_test(matrix, value=value)
    assert (found.statistic, found.df, found.p_value) == (
        expected.statistic,
        expected.df,
        expected.p_value,
    )
    assert found.rows == expected.rows
    assert found.statistic == pytest.approx(wald(model, matrix, value), rel=1e-8)


def test_every_coefficient_and_every_term_is_understood(model: streamlr.Model) -> None:
    for place, name in enumerate(model.terms):
        found = model.wald_test(name)
        assert found.statistic == pytest.approx(model.zvalues[place] ** 2, rel=1e-9)
        assert found.p_value == pytest.approx(model.pvalues[place], rel=1e-9)
        low, high = model.conf_int()[place]
        assert (found.rows[0].conf_low, found.rows[0].conf_high) == pytest.approx((low, high), rel=1e-9)
    types = model.term_tests(3)
    for term in model.design.term_columns:
        assert model.wald_test(term).statistic == pytest.approx(types[term].statistic, rel=1e-9)


def test_labels_can_be_read_back(model: streamlr.Model) -> None:
    rng = np.random.default_rng(1)
    matrix = np.zeros((20, len(model.terms)))
    for row in matrix:
        row[rng.choice(len(row), 3, replace=False)] = rng.choice([-2.5, -1.0, 1.0, 0.5, 3.0], 3)
    for row in matrix:
        label = model.wald_test(row, value=-1.25).rows[0].contrast
        assert model.wald_test(label).rows == model.wald_test(row, value=-1.25).rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty|is missing"),
        ("   ", "is empty|is missing"),
        (",", "','"),
        ("x1,,x2", "','"),
        ("=", "'='"),
        ("x1 =", "is missing at the end"),
        ("x1 = = = 2", "is missing|'='"),
        ("x3", "no term 'x3'"),
        ("x10", "no term 'x10'"),
        ("x1 + x2y", "no term 'x2y'"),
        ("stat", "no term 'stat'. Did you mean 'state'"),
        ("state[T.OR]", r"no term 'state\[T.OR\]'"),
        ("state[T.CA]", "reference level"),
        ("state[T.NV", "no term"),
        ("state + x1", "several coefficients"),
        ("2*state", "several coefficients"),
        ("-state", "several coefficients"),
        ("state = 1", "several coefficients"),
        ("x1*x2", "not linear"),
        ("1/x1", "not linear"),
        ("x1/0", "divides by zero"),
        ("x1/(1-1)", "divides by zero"),
        ("x1**2", "stands where|no hypothesis"),
        ("x1^2", "no comma follows"),
        ("x1 x2", "no comma follows"),
        ("2x1", "no term '2x1'"),
        ("x1 = 1e999", "too large"),
        ("x1*1e300*1e300", "too large"),
        ("1e300*1e300*x1", "too large"),
        ("x1 - x1", "says nothing"),
        ("1 = 1", "says nothing"),
        ("3", "says nothing"),
        ("x1 = 1, x1 = 2", "contradict"),
        ("x1 = x2, x2 = 3, x1 = 4", "contradict"),
        ("(x1", "bracket is not closed"),
        ("x1)", "no comma follows"),
        ("(" * 60 + "x1" + ")" * 60, "brackets inside"),
        ("`x1", "backquote is not closed"),
        ("`x1``", "backquote is not closed"),
        ("`nope`", "no term 'nope'"),
        ("x1 = 1; drop table", "no comma follows"),
        ("__import__('os').system('true')", "no term"),
        ("x1\x00", "no comma follows"),
        ("x1 = ∞", "no term"),
        ("x1 <= 2", "no comma follows"),
        ("nan", "no term 'nan'"),
        ("x1 = inf", "no term 'inf'"),
        ("x1 + " * 3_000 + "x1", "characters"),
    ],
)
def test_what_is_no_hypothesis(model: streamlr.Model, text: str, says: str) -> None:
    with pytest.raises(streamlr.StreamlrError, match=says) as raised:
        model.wald_test(text)
    assert len(str(raised.value)) < 400


@given(
    st.lists(
        st.sampled_from(
            [
                *["x1", "x2", "state", "state[T.NV]", "hour", "C(hour)[T.1]", "I(x1**2)", "odd name", "sex"],
                *["+", "-", "*", "/", "=", ",", "(", ")", "[", "]", ":", "`", " ", ".", "e", "'", '"', "\\"],
                *["0", "1", "2.5", "1e400", "\n", "\x1b", "é", "∞", "T.", "C("],
            ]
        ),
        max_size=14,
    ).map("".join)
    | st.text(max_size=30)
)
def test_any_text_is_a_test_or_a_message(text: str) -> None:
    model = _any_model()
    try:
        found = model.wald_test(text)
    except streamlr.StreamlrError as error:
        assert str(error)
    else:
        assert 1 <= found.df <= len(model.terms)
        assert 0.0 <= found.p_value <= 1.0


@cache
def _any_model() -> streamlr.Model:
    return streamlr.fit(table_of_many_names(), FORMULA)


def test_a_long_text_is_refused_before_it_is_read(model: streamlr.Model) -> None:
    with pytest.raises(streamlr.StreamlrError, match="10,001 characters"):
        model.wald_test("x" * (LONGEST_TEXT + 1))


# Matrices


@pytest.mark.parametrize(
    ("matrix", "value", "says"),
    [
        ([[1.0, 2.0]], None, "a column for each of the"),
        ([], None, "a column for each of the"),
        (None, None, "text or a matrix|a column for each"),
        ([["x1", 1]], None, "text or a matrix"),
        ("eye", [1.0, 2.0], "as many values"),
        ("nan", None, "not finite"),
        ("eye", np.inf, "not finite"),
        ("zero", None, "row 1 of the hypothesis matrix is all zero"),
    ],
)
def test_matrices_that_are_refused(model: streamlr.Model, matrix: Any, value: Any, says: str) -> None:
    k = len(model.terms)
    known = {"eye": np.eye(k), "nan": np.full((1, k), np.nan), "zero": np.zeros((1, k))}
    given_ = known[matrix] if isinstance(matrix, str) else matrix
    with pytest.raises(streamlr.StreamlrError, match=says):
        model.wald_test(given_, value=value)


def test_a_text_has_its_values_and_a_level_is_a_level(model: streamlr.Model) -> None:
    with pytest.raises(streamlr.StreamlrError, match="give none beside it"):
        model.wald_test("x1 = 1", value=1.0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(streamlr.StreamlrError, match="between 0 and 1"):
            model.wald_test("x1", conf_level=level)


@given(st.integers(0, 10_000))
def test_the_statistic_is_that_of_the_space_of_equations(seed: int) -> None:
    """Other equations that say the same, and ones that follow from them, change nothing."""
    model = _any_model()
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 5))
    rows, value = rng.normal(size=(m, len(model.terms))), rng.normal(size=m)
    mixing = rng.normal(size=(m + 2, m))
    one = model.wald_test(rows, value=value)
    other = model.wald_test(mixing @ rows, value=mixing @ value)
    assert one.df == other.df == m
    assert other.statistic == pytest.approx(one.statistic, rel=1e-6)
    assert one.statistic == pytest.approx(wald(model, rows, value), rel=1e-8)
    assert len(other.rows) == m + 2


# Terms


def test_type_2_is_the_difference_of_two_tests(model: streamlr.Model) -> None:
    places = {term: np.flatnonzero([term in rows for rows in _terms_of(model)]) for term in _every(model)}
    unit = np.eye(len(model.terms))
    relatives = {"x1": ["x1:state"], "state": ["x1:state", "sex:state"]}
    found = model.term_tests(2)
    assert [row.term for row in found] == list(model.design.term_columns)
    for row in found:
        above = np.concatenate([[], *(places[term] for term in relatives.get(row.term, []))]).astype(int)
        both = np.concatenate([above, places[row.term]])
        difference = wald(model, unit[both]) - (wald(model, unit[above]) if len(above) else 0.0)
        assert row.statistic == pytest.approx(difference, rel=1e-7)


def _terms_of(model: streamlr.Model) -> list[set[str]]:
    names = model.design.column_names
    return [
        {term for term, columns in model.design.term_columns.items() if name in names[columns]}
        for name in model.terms
    ]


def _every(model: streamlr.Model) -> list[str]:
    return list(model.design.term_columns)


def test_another_type_is_refused(model: streamlr.Model) -> None:
    for type in (1, 4, "II"):
        with pytest.raises(streamlr.StreamlrError, match="type 2 or 3"):
            model.term_tests(type)  # type: ignore[arg-type]


def test_terms_without_an_estimate() -> None:
    table = table_of_many_names()
    twice = pa.array(2.0 * table["x1"].to_numpy())
    one = pa.array(["only"] * table.num_rows)
    table = table.append_column("twice", twice).append_column("one", one)
    model = reread(streamlr.fit(table, "y ~ x1 + twice + state + one"))
    for type in (2, 3):
        found = model.term_tests(type)
        assert (found["twice"].df, found["twice"].statistic, found["twice"].p_value) == (0, None, None)
        assert found["x1"].statistic == pytest.approx(model.zvalues[1] ** 2, rel=1e-9)
    for text in ("twice", "x1 - twice", "one"):
        with pytest.raises(streamlr.StreamlrError, match="not estimable"):
            model.wald_test(text)


def test_a_level_set_aside_and_absorbed_effects_are_not_tested() -> None:
    table = table_of_many_names()
    y = table["y"].to_numpy().copy()
    state = np.array(table["state"].to_pylist(), dtype=object)
    state[:9], y[:9] = "ZZ", 1
    table = table.set_column(0, "y", pa.array(y)).set_column(5, "state", pa.array(state.tolist()))
    model = reread(streamlr.fit(table, "y ~ x1 + state"))
    assert model.wald_test("state").df == 2
    with pytest.raises(streamlr.StreamlrError, match=r"set aside \(its outcome is always 1\)"):
        model.wald_test("state[T.ZZ]")
    absorbed = reread(streamlr.fit(table, "y ~ x1 + state", absorb="sex"))
    assert [row.term for row in absorbed.term_tests()] == ["x1", "state"]
    with pytest.raises(streamlr.StreamlrError, match="absorbed"):
        absorbed.wald_test("sex")


# Covariances


@pytest.mark.parametrize("options", [{"cov": "HC1"}, {"cluster": ["day"]}])
def test_a_robust_model_is_tested_with_its_covariance(options: dict[str, Any]) -> None:
    table = table_of_many_names()
    table = table.append_column("day", pa.array(np.arange(table.num_rows) % 60))
    model = reread(streamlr.fit(table, "y ~ x1 + x2 + state", **options))
    plain = streamlr.fit(table, "y ~ x1 + x2 + state")
    found = model.wald_test("state, x1 = x2")
    matrix = [[0, 1, -1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert found.statistic == pytest.approx(wald(model, matrix), rel=1e-8)
    assert found.statistic != pytest.approx(wald(plain, matrix), rel=1e-3)
    assert found.cov_type == model.term_tests().cov_type == model.covariance_type != "nonrobust"


def test_few_clusters_test_few_equations() -> None:
    """Three clusters make a covariance of rank two at most, as sandwich's is."""
    table = table_of_many_names().append_column("third", pa.array(np.arange(700) % 3))
    model = reread(streamlr.fit(table, "y ~ x1 + x2 + state", cluster=["third"]))
    assert model.wald_test("x1").df == 1
    with pytest.raises(streamlr.StreamlrError, match="too few clusters"):
        model.wald_test("x1, x2, state")
    assert model.term_tests()["state"].df == 2


def test_an_indefinite_covariance_is_tested_where_it_is_positive() -> None:
    """That of two-way clusters may have negative variances; what it says of others is not changed by them."""
    rng = np.random.default_rng(0)
    table = table_of_many_names(120)
    table = table.append_column("c", pa.array(rng.integers(0, 7, 120)))
    table = table.append_column("d", pa.array(rng.integers(0, 9, 120)))
    model = reread(streamlr.fit(table, "y ~ x1 + x2 + state + `odd name` + C(hour)", cluster=["c", "d"]))
    assert np.linalg.eigvalsh(model.cov_params()).min() < 0
    unit = np.eye(len(model.terms))
    tested = refused = 0
    for some in combinations(range(len(unit)), 3):
        V = model.cov_params()[np.ix_(some, some)]
        if np.linalg.eigvalsh(V).min() > 1e-6 * np.trace(V):
            found = model.wald_test(unit[list(some)])
            assert found.statistic == pytest.approx(wald(model, unit[list(some)]), rel=1e-6)
            np.testing.assert_allclose(
                [row.std_error for row in found.rows], model.bse[list(some)], rtol=1e-9
            )
            tested += 1
        elif np.linalg.eigvalsh(V).min() < 0:
            with pytest.raises(streamlr.StreamlrError, match="not positive definite for 3 equations"):
                model.wald_test(unit[list(some)])
            refused += 1
    assert tested
    assert refused


def test_columns_far_from_zero_keep_their_digits() -> None:
    """Where the raw covariance has lost all digits: a year's square beside the year, and interactions."""
    rng = np.random.default_rng(3)
    n = 800
    near, state = rng.normal(size=n), rng.choice(["a", "b", "c"], n)
    y = (rng.random(n) < 1 / (1 + np.exp(-near * (state == "b")))).astype(int)
    # Steps of 2**-20 are exact at either place.
    near = np.round(near * 2**20) / 2**20
    far = near + 2.0**24
    near_model = streamlr.fit({"y": y, "x": near, "s": state}, "y ~ x * s")
    far_model = reread(streamlr.fit({"y": y, "x": far, "s": state}, "y ~ x * s"))
    for text in ("x:s", "x, x:s", "x:s[T.b] = x:s[T.c]", "s, x, x:s"):
        one, other = near_model.wald_test(text), far_model.wald_test(text)
        assert other.statistic == pytest.approx(one.statistic, rel=1e-7), text


# How it looks


def test_table_of_a_test(model: streamlr.Model) -> None:
    found = model.wald_test("x1 - 2*x2 = 1, sex:state", conf_level=0.9)
    text = str(found)
    assert text.startswith("Wald test of x1 - 2*x2 = 1, sex:state: chi-squared = ")
    assert "df = 4" in text
    assert "90% from" in text
    assert "<table>" in found._repr_html_()
    assert found.as_dict()["rows"][0]["contrast"] == "x1 - 2*x2 = 1"
    assert str(model.term_tests(2)).startswith("Wald tests of terms, type II")
    with pytest.raises(KeyError):
        model.term_tests()["nothing"]


def test_a_name_cannot_write_to_the_terminal() -> None:
    table = table_of_many_names().rename_columns({"x1": "x1\x1b[31m"})
    model = streamlr.fit(table, target="y", features=["x1\x1b[31m", "x2"])
    for shown in (model.wald_test("`x1\x1b[31m` = x2"), model.term_tests(), model.vif()):
        assert "\x1b" not in str(shown)
        assert "x1" in str(shown)
    smaller = streamlr.fit(table, target="y", features=["x2"])
    assert "\x1b" not in str(streamlr.compare(smaller, model))


def test_huge_and_tiny_multiples_are_the_same_test():
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(2, 300))
    model = streamlr.fit({"y": (rng.random(300) < 0.5).astype(int), "x": x, "z": z}, "y ~ x + z")
    plain = model.wald_test("x - 2*z")
    for size in ("1e300", "1e200", "1e-200", "1e-300"):
        scaled = model.wald_test(f"{size}*x - 2*{size}*z")
        assert scaled.statistic == pytest.approx(plain.statistic, rel=1e-12)
        assert scaled.rows[0].std_error == pytest.approx(float(size) * plain.rows[0].std_error, rel=1e-12)
    for text in ("1e308*x + 1e308*x", "x = 1e308"):
        with pytest.raises(StreamlrError, match="large"):
            model.wald_test(text)


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, float("nan")])
def test_a_level_that_is_none(level):
    model = streamlr.fit({"y": [0, 1, 0, 1, 1], "x": [1.0, 2, 3, 4, 0]}, "y ~ x")
    with pytest.raises(StreamlrError, match="level must lie between 0 and 1"):
        model.conf_int(level)
