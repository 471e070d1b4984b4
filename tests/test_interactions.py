"""Interactions without expansion against the same model expanded: columns built in NumPy, plain Newton.

`expanded` writes out every column of a term that the design keeps as codes of cells and scales, so the
expected numbers come from a matrix and twelve lines of algebra (`conftest.maximum_likelihood`), which stops
at steps of 1e-10; the tolerance of 1e-9 is that, with a fit of 1e-12. Where the data are nearly collinear, a
reparameterisation that is exact stands in for the plain algebra, or mpmath does the sums in 40 digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.design import terms as terms_module
from streamlr.design.profile import CellCounts
from streamlr.errors import SeparationError

TOLERANCE = 1e-9
N = 900
RNG = np.random.default_rng(4)
G = RNG.choice(["a", "b", "c"], N)
H = RNG.choice(["p", "q", "r", "s"], N)
B = RNG.random(N) < 0.4
X = RNG.normal(2.0, 1.5, N)
Z = RNG.normal(0.0, 1.0, N)
ETA = -0.4 + 0.3 * X + 0.5 * (G == "b") * (H == "q") - 0.4 * (G == "c") * X * 0.3 + 0.4 * B * Z
Y = (RNG.random(N) < 1 / (1 + np.exp(-ETA))).astype(np.int64)
DATA: dict[str, Any] = {"y": Y, "g": G, "h": H, "b": B, "x": X, "z": Z}
Fit = Callable[..., Any]


def level(name: str) -> np.ndarray:
    """The 0/1 column of `g[T.b]`, `g[b]` or `b[T.True]`, or the number itself."""
    if "[" not in name:
        return np.asarray(DATA[name], dtype=float)
    column, _, text = name.partition("[")
    text = text.removeprefix("T.").removesuffix("]")
    return np.array([str(value) == text for value in DATA[column]], dtype=float)


def expanded(terms: Sequence[str]) -> np.ndarray:
    """(n, k) the columns that names of terms stand for."""
    columns = []
    for term in terms:
        column = np.ones(len(Y))
        for name in term.split(":") if term != "Intercept" else ():
            column = column * level(name)
        columns.append(column)
    return np.column_stack(columns)


def fit(data: Any, formula: str, **options: Any) -> streamlr.Model:
    model = streamlr.fit(data, formula, tol=options.pop("tol", 1e-12), **options)
    assert model.converged
    return model


def assert_agrees(model: streamlr.Model, expected: Any, tolerance: float = TOLERANCE) -> None:
    scale = np.maximum(np.abs(expected.coef), expected.std_error)
    assert np.max(np.abs(model.params - expected.coef) / scale) <= tolerance
    np.testing.assert_allclose(model.bse, expected.std_error, rtol=tolerance)


def names_of(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Names of all cells, the levels of the first varying fastest."""
    return [f"{one}:{two}" for two in second for one in first]


G_T = ["g[T.b]", "g[T.c]"]
H_T = ["h[T.q]", "h[T.r]", "h[T.s]"]
G_ALL = ["g[a]", "g[b]", "g[c]"]
H_ALL = ["h[p]", "h[q]", "h[r]", "h[s]"]

CASES: dict[str, list[str]] = {
    "y ~ g*h": ["Intercept", *G_T, *H_T, *names_of(G_T, H_T)],
    "y ~ 0 + g:h": names_of(G_ALL, H_ALL),
    "y ~ g + g:h": ["Intercept", *G_T, *names_of(G_ALL, H_T)],
    "y ~ h + g:h": ["Intercept", *H_T, *names_of(G_T, H_ALL)],
    "y ~ g*x": ["Intercept", *G_T, "x", *names_of(G_T, ["x"])],
    "y ~ g:x": ["Intercept", *names_of(G_ALL, ["x"])],
    "y ~ g + g:x": ["Intercept", *G_T, *names_of(G_ALL, ["x"])],
    "y ~ x + x:g": ["Intercept", "x", *names_of(["x"], G_T)],
    "y ~ x:z": ["Intercept", "x:z"],
    "y ~ g*x*z": [
        "Intercept",
        *G_T,
        "x",
        "z",
        *names_of(G_T, ["x"]),
        *names_of(G_T, ["z"]),
        "x:z",
        *names_of(G_T, ["x:z"]),
    ],
    "y ~ g*b*x": [
        "Intercept",
        *G_T,
        "b[T.True]",
        "x",
        *names_of(G_T, ["b[T.True]"]),
        *names_of(G_T, ["x"]),
        "b[T.True]:x",
        *names_of(G_T, ["b[T.True]:x"]),
    ],
    "y ~ (g + h + b)**3": [
        "Intercept",
        *G_T,
        *H_T,
        "b[T.True]",
        *names_of(G_T, H_T),
        *names_of(G_T, ["b[T.True]"]),
        *names_of(H_T, ["b[T.True]"]),
        *[f"{cell}:b[T.True]" for cell in names_of(G_T, H_T)],
    ],
}


@pytest.mark.parametrize("formula", CASES)
def test_terms_are_products_of_columns(formula: str, maximum_likelihood: Fit) -> None:
    model = fit(DATA, formula)
    assert sorted(model.terms) == sorted(CASES[formula])
    assert model.aliased == []
    assert_agrees(model, maximum_likelihood(expanded(model.terms), Y))
    # The certificate is a claim about the maximum: the score of the expanded model vanishes there.
    X_all = expanded(model.terms)
    score = X_all.T @ (Y - 1 / (1 + np.exp(-X_all @ model.params)))
    decrement = np.sqrt(score @ model.cov_params() @ score)
    assert decrement <= 1e-11


@pytest.mark.parametrize("formula", ["y ~ g*h", "y ~ g:x + h", "y ~ (g + h + b)**3"])
def test_weights_trials_and_offset(formula: str, maximum_likelihood: Fit) -> None:
    weight = RNG.integers(1, 4, N)
    offset = RNG.normal(0, 0.3, N)
    model = fit({**DATA, "w": weight, "o": offset}, formula, weights="w", offset="o")
    assert_agrees(model, maximum_likelihood(expanded(model.terms), Y, weight, offset))

    trials = RNG.integers(1, 5, N)
    success = RNG.binomial(trials, 0.3)
    counted = fit({**DATA, "y": success, "m": trials, "o": offset}, formula, trials="m", offset="o")
    X_all = expanded(counted.terms)
    assert_agrees(counted, maximum_likelihood(X_all, success / trials, trials, offset))


def test_a_search_for_cells_finds_what_a_table_does(
    monkeypatch: pytest.MonkeyPatch, maximum_likelihood: Fit
) -> None:
    table = fit(DATA, "y ~ g*h + b:h:x")
    monkeypatch.setattr(terms_module, "LARGEST_TABLE", 2)
    searched = fit(DATA, "y ~ g*h + b:h:x")
    assert searched.params.tobytes() == table.params.tobytes()
    assert_agrees(searched, maximum_likelihood(expanded(searched.terms), Y))
    new = {"g": ["a", "zz", "c"], "h": ["p", "q", "s"], "b": [True, False, True], "x": [1.0, 2.0, 3.0]}
    scores = searched.predict(new)
    assert np.isnan(scores).tolist() == [False, True, False]


# Many cells


def test_sixty_by_fifty_cells() -> None:
    """A saturated model, where every cell has its logit: 3,000 columns from 20,000 rows.

    Cells hold 6 or 7 rows, of which the outcome is 1 in 2, 3 or 4.
    """
    n = 20_000
    cell = np.arange(n) % 3_000
    count = np.bincount(cell)
    turn = np.arange(n) // 3_000
    y = turn < 2 + cell % 3
    data = {"y": y, "a": [f"a{c % 60:02}" for c in cell], "b": [f"b{c // 60:02}" for c in cell]}
    model = fit(pa.table(data), "y ~ 0 + a:b", tol=1e-10)
    ones = np.bincount(cell, weights=y)
    expected = np.log(ones / (count - ones))
    errors = np.sqrt(count / (ones * (count - ones)))
    assert model.terms[:2] == ("a[a00]:b[b00]", "a[a01]:b[b00]")
    np.testing.assert_allclose(model.params, expected, atol=1e-9)
    np.testing.assert_allclose(model.bse, errors, rtol=1e-9)


# Cells without rows, and cells of one outcome


def without_cell(*cells: tuple[str, str]) -> np.ndarray:
    keep = np.ones(N, dtype=bool)
    for g, h in cells:
        keep &= ~((g == G) & (h == H))
    return keep


def some(data: dict[str, Any], keep: np.ndarray) -> dict[str, Any]:
    return {name: np.asarray(values)[keep] for name, values in data.items()}


def tidy(model: streamlr.Model) -> dict[str, dict[str, Any]]:
    return {row["term"]: row for row in model.tidy_rows()}


@pytest.mark.parametrize("formula", ["y ~ g*h", "y ~ 0 + g:h", "y ~ g + g:h"])
def test_empty_cells_are_aliased(formula: str, maximum_likelihood: Fit) -> None:
    keep = without_cell(("b", "q"), ("c", "s"))
    model = fit(some(DATA, keep), formula)
    whole = fit(DATA, formula)
    gone = sorted(set(whole.terms) - set(model.terms))
    first = "g[b]" if formula != "y ~ g*h" else "g[T.b]"
    assert f"{first}:h[T.q]" in gone or f"{first}:h[q]" in gone
    assert sorted(model.aliased) == gone
    assert len(gone) == 2
    rows = tidy(model)
    for name in gone:
        assert rows[name]["estimate"] is None
        assert rows[name]["std_error"] is None
    assert_agrees(model, maximum_likelihood(expanded(model.terms)[keep], Y[keep]))


def test_an_empty_cell_of_two_references_costs_a_column(maximum_likelihood: Fit) -> None:
    """No cell with a column is empty, but the columns of the other cells then add up to others."""
    keep = without_cell(("a", "p"))
    model = fit(some(DATA, keep), "y ~ g*h")
    assert len(model.terms) == 11
    assert len(model.aliased) == 1
    assert_agrees(model, maximum_likelihood(expanded(model.terms)[keep], Y[keep]))


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize("formula", ["y ~ g*h", "y ~ 0 + g:h", "y ~ g + g:h + x"])
def test_cells_of_one_outcome_are_set_aside(formula: str, outcome: int) -> None:
    cell = (G == "b") & (H == "q")
    y = np.where(cell, outcome, Y)
    data = {**DATA, "y": y}
    model = fit(data, formula)
    rest = fit(some(data, ~cell), formula)
    assert model.terms == rest.terms
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9)
    np.testing.assert_allclose(model.bse, rest.bse, rtol=1e-9)
    assert (model.llf, model.nobs) == pytest.approx((rest.llf, rest.nobs), rel=1e-12)
    assert model.statistics.rows_set_aside == int(cell.sum())
    finding = model.separation
    assert finding is not None
    assert finding["rows_separated"] == int(cell.sum())
    (named,) = finding["terms"]
    assert named["direction"] == (1 if outcome else -1)
    name = named["term"]
    assert re.fullmatch(r"g\[(T\.)?b\]:h\[(T\.)?q\]", name)
    assert tidy(model)[name]["estimate"] is None
    assert name not in (*model.terms, *model.aliased)
    # Such rows score their limit, others as ever.
    scores = model.predict({"g": ["b", "a"], "h": ["q", "q"], "x": [0.0, 0.0]})
    assert scores[0] == outcome
    assert 0 < scores[1] < 1
    with pytest.raises(SeparationError) as caught:
        streamlr.fit(data, formula, separation="error")
    assert caught.value.separation["rows_separated"] == int(cell.sum())


def test_setting_aside_goes_on_until_nothing_is_left_to() -> None:
    """Once the one-outcome cell is away, its level has one outcome; once that is away, another has."""
    keep = (G != "b") | (H == "q") | (H == "r")
    y = np.where((G == "b") & (H == "q"), 1, Y)
    y = np.where((G == "b") & (H == "r"), 0, y)
    data = some({**DATA, "y": y}, keep)
    model = fit(data, "y ~ g*h")
    rest = fit(some(data, data["g"] != "b"), "y ~ g*h")
    assert model.terms == rest.terms
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9)
    assert model.statistics.rows_set_aside == int((data["g"] == "b").sum())
    assert model.predict({"g": ["b", "b"], "h": ["q", "r"]}).tolist() == [1.0, 0.0]


def test_a_level_all_of_whose_cells_are_set_aside() -> None:
    """The column of `s` is not estimated, the rest is as without its rows, and its cells score limits."""
    frame = []
    for g in ("a", "b", "c"):
        for h in ("p", "q", "r"):
            frame += [(g, h, i % 2) for i in range(8)]
    frame += [("a", "s", 1)] * 5 + [("b", "s", 0)] * 4
    data = {name: [row[i] for row in frame] for i, name in enumerate(("g", "h", "y"))}
    model = fit(data, "y ~ g*h")
    assert model.statistics.rows_set_aside == 9
    rest = fit({name: values[:72] for name, values in data.items()}, "y ~ g*h")
    assert model.terms == rest.terms
    assert not any("s]" in name for name in model.terms)
    np.testing.assert_allclose(model.params, rest.params, atol=1e-12)
    assert model.predict({"g": ["a", "b"], "h": ["s", "s"]}).tolist() == [1.0, 0.0]


def test_all_cells_of_one_outcome_is_complete_separation() -> None:
    y = (G == "b") ^ (H == "q")
    with pytest.raises(SeparationError) as caught:
        streamlr.fit({**DATA, "y": y}, "y ~ g*h")
    assert caught.value.separation["kind"] == "complete"


# Conditioning


@pytest.mark.parametrize("formula", ["y ~ g*x", "y ~ g + g:x", "y ~ g*h + g:x", "y ~ 0 + g + g:x"])
def test_a_number_far_from_zero(formula: str) -> None:
    """x = t + 1e6 is exact in doubles, so slopes are those of t, and a level moves by 1e6 of its slopes."""
    t = np.round(X * 1024) / 1024
    near = fit({**DATA, "x": t}, formula, tol=1e-11)
    far = fit({**DATA, "x": t + 1e6}, formula, tol=1e-11)
    assert far.terms == near.terms
    back = np.linalg.solve(expanded_at(far.terms, 1e6), np.eye(len(far.terms)))
    expected = back @ near.params
    errors = np.sqrt(np.diag(back @ near.cov_params() @ back.T))
    assert np.max(np.abs(far.params - expected) / np.maximum(np.abs(expected), errors)) <= 1e-8
    np.testing.assert_allclose(far.bse, errors, rtol=1e-8)
    assert far.llf == pytest.approx(near.llf, rel=1e-12)


def expanded_at(terms: Sequence[str], shift: float) -> np.ndarray:
    """(k, k) from coefficients with x + shift to those with x: every slope of some rows adds to what these
    rows have without it, which is an exact combination of the columns without x."""
    without = [place for place, name in enumerate(terms) if "x" not in name.split(":")]
    columns = expanded([terms[place] for place in without])
    change = np.eye(len(terms))
    for place, name in enumerate(terms):
        if "x" in name.split(":"):
            rest = ":".join(part for part in name.split(":") if part != "x") or "Intercept"
            (combination, residual, *_) = np.linalg.lstsq(columns, expanded([rest])[:, 0])
            assert residual.size == 0 or residual[0] < 1e-18
            change[without, place] = shift * np.round(combination)
    return change


@pytest.mark.xfail(
    strict=True,
    reason="nothing takes up the centre of a scale where neither levels nor their sum are columns",
)
def test_slopes_without_levels_far_from_zero() -> None:
    """`g:x` with no g has nothing that takes up the centre: 40 digits do what doubles cannot."""
    n = 150
    x = np.round(X[:n] * 64) / 64 + 1e6
    data = {"y": Y[:n], "g": G[:n], "x": x}
    model = fit(data, "y ~ g:x", tol=1e-8)
    columns = np.column_stack([np.ones(n), *((data["g"] == level) * x for level in "abc")])
    coef, errors = newton_in_digits(columns, data["y"])
    assert np.max(np.abs(model.params - coef) / np.maximum(np.abs(coef), errors)) <= 1e-8
    np.testing.assert_allclose(model.bse, errors, rtol=1e-8)


def newton_in_digits(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with mpmath.workdps(50):
        A = mpmath.matrix(X.tolist())
        n, k = X.shape
        beta = mpmath.zeros(k, 1)
        for _ in range(60):
            eta = A * beta
            p = [1 / (1 + mpmath.exp(-value)) for value in eta]
            weighed = A.copy()
            for i in range(n):
                for j in range(k):
                    weighed[i, j] *= p[i] * (1 - p[i])
            hessian = A.T * weighed
            gradient = A.T * mpmath.matrix([int(y[i]) - p[i] for i in range(n)])
            step = mpmath.lu_solve(hessian, gradient)
            beta += step
            if mpmath.norm(step) < mpmath.mpf(10) ** -30:
                break
        inverse = hessian**-1
        return (
            np.array([float(value) for value in beta]),
            np.array([float(mpmath.sqrt(inverse[j, j])) for j in range(k)]),
        )


# Columns of a scaled factor that have no estimate


def test_a_number_constant_within_a_level_is_aliased(maximum_likelihood: Fit) -> None:
    x = np.where(G == "c", 3.0, X)
    model = fit({**DATA, "x": x}, "y ~ g + g:x")
    assert model.aliased == ["g[c]:x"]
    assert tidy(model)["g[c]:x"]["estimate"] is None
    assert "g[c]:x" not in model.terms
    columns = [np.ones(N), *((level == G) for level in "bc"), *((level == G) * x for level in "ab")]
    assert_agrees(model, maximum_likelihood(np.column_stack(columns), Y))


def test_a_number_that_is_zero_in_a_level_is_aliased(maximum_likelihood: Fit) -> None:
    x = np.where(G == "b", 0.0, X)
    model = fit({**DATA, "x": x}, "y ~ g:x")
    assert model.aliased == ["g[b]:x"]
    columns = [np.ones(N), *((level == G) * x for level in "ac")]
    assert_agrees(model, maximum_likelihood(np.column_stack(columns), Y))


@pytest.mark.parametrize("formula", ["y ~ g*x + C(g, sum):x", "y ~ g:x + x"])
def test_a_term_that_repeats_others_is_aliased(formula: str) -> None:
    model = fit(DATA, formula)
    plain = fit(DATA, "y ~ g*x" if "sum" in formula else "y ~ g:x")
    assert model.llf == pytest.approx(plain.llf, rel=1e-12)
    assert len(model.terms) == len(plain.terms)


def test_contrasts_meet_others_as_products(maximum_likelihood: Fit) -> None:
    model = fit(DATA, "y ~ C(g, sum)*h + C(h, sum)*x")
    g = np.column_stack([(level == G) * 1.0 - (G == "c") for level in "ab"])
    h = expanded(H_T)
    sums = np.column_stack([(level == H) * 1.0 - (H == "s") for level in "pqr"])
    blocks = [np.ones((N, 1)), g, h, X[:, None], *(g * h[:, [j]] for j in range(3)), sums * X[:, None]]
    reference = maximum_likelihood(np.column_stack(blocks), Y)
    assert model.aliased == [f"C(h, sum)[S.{level}]" for level in "pqr"], "they say what h says"
    assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-12)
    scores = model.predict(DATA)
    eta = np.column_stack(blocks) @ reference.coef
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-eta)), rtol=1e-8)


# Factors that lie in others, so that what one says another has said


@pytest.mark.parametrize(
    "formula", ["y ~ city + state*x", "y ~ city + state + state:x", "y ~ city + state*x*z"]
)
def test_a_factor_within_another_and_its_slopes(formula: str, maximum_likelihood: Fit) -> None:
    """The levels of a state are sums of those of its cities, and aliased; its slopes are not."""
    city = np.array([f"{h}{g}" for g, h in zip(G, H, strict=True)])
    data = {**DATA, "city": city, "state": G, "x": X + 5.0}
    model = fit(data, formula)
    assert model.aliased == ["state[T.b]", "state[T.c]"]
    columns = []
    for term in model.terms:
        column = np.ones(N)
        for name in term.split(":") if term != "Intercept" else ():
            known, _, text = name.partition("[")
            values = np.asarray(data[known])
            word = text.removeprefix("T.").removesuffix("]")
            column = column * (values == word if text else values.astype(float))
        columns.append(column)
    assert_agrees(model, maximum_likelihood(np.column_stack(columns), Y))


def with_sure_level(outcome: int = 1) -> dict[str, Any]:
    """g has a level z1 of twenty rows with one outcome."""
    g, y = G.astype(object).copy(), Y.copy()
    g[:20], y[:20] = "z1", outcome
    return {"y": y, "x": X, "g": g.astype(str), "h": H}


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + C(g, sum)",
        "y ~ x*C(g, helmert)",
        "y ~ C(g, sum)*h",
        "y ~ x + g + C(g, sum):x",
        "y ~ C(g, poly)",
    ],
)
@pytest.mark.parametrize("outcome", [0, 1])
def test_levels_with_one_outcome_under_any_coding(formula: str, outcome: int, tmp_path: Path) -> None:
    data = with_sure_level(outcome)
    model = streamlr.fit(data, formula, tol=1e-12)
    rest = streamlr.fit({name: values[20:] for name, values in data.items()}, formula, tol=1e-12)
    assert model.terms == rest.terms
    np.testing.assert_allclose(model.params, rest.params, rtol=1e-9, atol=1e-9)
    assert model.glance()["rows_used"] == N - 20
    model.save(tmp_path / "m.json")
    scores = streamlr.load(tmp_path / "m.json").predict(data)
    np.testing.assert_array_equal(scores[:20], outcome)
    np.testing.assert_allclose(scores[20:], rest.predict(data)[20:], rtol=1e-9)


@pytest.mark.parametrize("formula", ["y ~ x*g*h", "y ~ g*h + x:h:g", "y ~ x + g*h"])
def test_a_cell_set_aside_scores_its_limit_whatever_else_it_is_in(formula: str) -> None:
    cell = (G == "b") & (H == "q")
    data = {"y": np.where(cell, 0, Y), "x": X, "g": G, "h": H}
    model = streamlr.fit(data, formula)
    for unseen in ("null", "reference", "error"):
        scores = model.predict(data, unseen=unseen)
        np.testing.assert_array_equal(scores[cell], 0.0)
        assert not np.isnan(scores).any()
    assert not any("g[T.b]" in name and "h[T.q]" in name for name in model.aliased if "x" not in name)


def test_empty_cells_are_named_with_all_that_they_are_multiplied_by() -> None:
    keep = ~((G == "b") & (H == "q"))
    model = streamlr.fit({"y": Y[keep], "x": X[keep], "g": G[keep], "h": H[keep]}, "y ~ poly(x, 2)*g*h")
    empty = "g[T.b]:h[T.q]"
    assert sorted(model.aliased) == [empty, f"poly(x, 2)[1]:{empty}", f"poly(x, 2)[2]:{empty}"]
    assert len(model.tidy()) == len(model.terms) + len(model.aliased)


def test_a_reference_in_the_formula_and_another_by_option_are_one_too_many() -> None:
    data = {"y": Y, "x": X, "g": G, "h": H}
    with pytest.raises(streamlr.StreamlrError, match=r"'b'.*'a'"):
        streamlr.fit(data, "y ~ C(g, reference='b')*x", reference={"g": "a"})
    with pytest.raises(streamlr.StreamlrError, match=r"C\(g, poly\).*no reference"):
        streamlr.fit(data, "y ~ C(g, poly)", reference={"g": "b"})
    with pytest.raises(streamlr.StreamlrError, match=r"lumps the level"):
        streamlr.fit(data, "y ~ lump(g, top=1)", reference={"g": min(set(G), key=list(G).count)})


def test_more_cells_than_a_hessian_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellCounts, "limit", 5)
    with pytest.raises(streamlr.StreamlrError, match="g:h has more than 5 cells"):
        streamlr.fit({"y": Y, "g": G, "h": H}, "y ~ g*h")
