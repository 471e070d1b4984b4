"""Which columns are aliased and which only look it, against fits in columns that are well conditioned.

The reference works in Z, columns of its own that span what the model's columns span; raw coefficients follow
by exact algebra. Differences are in standard errors. Fits are certified to TIGHT of them, and the reference
iterates to rounding, so what remains is rounding times the condition of what streamlr works in, which is at
worst 1e-6 ** -0.5 = 1e3: hence CLOSE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import designs
import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.aliasing import nominate, settle_basis
from streamlr.design.basis import Basis
from streamlr.objective import Objective

TIGHT = 1e-11
CLOSE = 1e-9
N = 500

Fit = Callable[..., Any]


def outcome(eta: np.ndarray, seed: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).random(eta.size) < 1 / (1 + np.exp(-eta))).astype(np.int8)


def base(seed: int = 1, rows: int = N) -> dict[str, np.ndarray]:
    """Two independent columns of different size and an outcome that depends on both."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.normal(50.0, 20.0, rows)
    return {"a": a, "b": b, "y": outcome(0.3 + 0.7 * a - 0.02 * (b - 50))}


def estimates(model: streamlr.Model) -> dict[str, tuple[float, float]]:
    """Coefficient and standard error by term."""
    return {
        term: (float(b), float(se)) for term, b, se in zip(model.terms, model.params, model.bse, strict=True)
    }


def check_same(model: streamlr.Model, terms: list[str], reference: Any, close: float = CLOSE) -> None:
    """The model has these terms, in any order, with the reference's numbers."""
    assert model.converged
    found = estimates(model)
    assert sorted(found) == sorted(terms)
    for term, coef, error in zip(terms, reference.coef, reference.std_error, strict=True):
        assert abs(found[term][0] - coef) <= close * error, term
        assert abs(found[term][1] - error) <= close * error, term
    assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-12)


def design(*columns: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(columns[0])), *columns])


def dummies(codes: np.ndarray, levels: list[Any]) -> list[np.ndarray]:
    return [(codes == level).astype(float) for level in levels]


def from_orthogonal(maximum_likelihood: Fit, Q: np.ndarray, R: np.ndarray, y: np.ndarray) -> Any:
    """The reference for X = QR, fitted in orthogonal columns and taken back to those of X."""
    found = maximum_likelihood(Q, y)
    p, q = (1 / (1 + np.exp(sign * (Q @ found.coef))) for sign in (-1, 1))
    covariance = np.linalg.inv(Q.T @ ((p * q)[:, None] * Q))
    back = np.linalg.inv(R)
    errors = np.sqrt(np.diag(back @ covariance @ back.T))
    return replace(found, coef=back @ found.coef, std_error=errors)


@pytest.mark.parametrize(
    ("features", "aliased", "kept"),
    [
        (["a", "b", "both"], "both", ["a", "b"]),
        (["both", "a", "b"], "b", ["both", "a"]),
        (["a", "both", "b"], "b", ["a", "both"]),
    ],
)
def test_a_sum_of_two_columns(
    features: list[str], aliased: str, kept: list[str], maximum_likelihood: Fit
) -> None:
    """Of dependent columns the last is aliased, wherever the sum itself stands."""
    data = base()
    data["both"] = data["a"] + data["b"]
    model = streamlr.fit(data, target="y", features=features, tol=TIGHT)
    assert list(model.aliased) == [aliased]
    check_same(
        model, ["Intercept", *kept], maximum_likelihood(design(*(data[name] for name in kept)), data["y"])
    )
    row = next(row for row in model.tidy_rows() if row["term"] == aliased)
    assert row["estimate"] is None
    assert row["std_error"] is None


@pytest.mark.parametrize("factor", [1.0, -1.0, 3.0, 1e-9, 1e9])
@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_a_column_twice(factor: float, shift: float, maximum_likelihood: Fit) -> None:
    """Also in other units and with another zero: the intercept makes up for it."""
    data = base()
    data["again"] = factor * data["b"] + shift * factor
    model = streamlr.fit(data, target="y", tol=TIGHT)
    assert list(model.aliased) == ["again"]
    check_same(model, ["Intercept", "a", "b"], maximum_likelihood(design(data["a"], data["b"]), data["y"]))


@pytest.mark.parametrize("mean", [1e3, 1e6, 1e9])
def test_a_residual_is_zero_to_the_rounding_of_what_it_was_made_of(
    mean: float, maximum_likelihood: Fit
) -> None:
    """A tenth of a column of large mean is rounded in the digits of the mean, not of the deviation."""
    data = base()
    near = np.random.default_rng(2).normal(size=N)
    data["far"] = mean + near
    data["tenth"] = 0.1 * data["far"]
    model = streamlr.fit(data, target="y", features=["a", "far", "tenth"], tol=TIGHT)
    assert list(model.aliased) == ["tenth"]
    reference = maximum_likelihood(design(data["a"], data["far"] - mean), data["y"])
    assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-12)
    coef, error = estimates(model)["far"]
    assert abs(coef - reference.coef[2]) <= CLOSE * reference.std_error[2]
    assert error == pytest.approx(reference.std_error[2], rel=CLOSE)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 0.1, 1e9, 1e-200])
def test_a_constant_column(value: float, maximum_likelihood: Fit) -> None:
    """Named it is aliased, as in R; otherwise it is left out with the reason."""
    data = base()
    data["same"] = np.full(N, value)
    reference = maximum_likelihood(design(data["a"], data["b"]), data["y"])
    named = streamlr.fit(data, target="y", features=["same", "a", "b"], tol=TIGHT)
    assert list(named.aliased) == ["same"]
    assert not named.excluded
    check_same(named, ["Intercept", "a", "b"], reference)
    unnamed = streamlr.fit(data, target="y", tol=TIGHT)
    assert list(unnamed.aliased) == []
    assert "constant" in unnamed.excluded["same"]
    check_same(unnamed, ["Intercept", "a", "b"], reference)


CITIES = np.array(["Bonn", "Köln", "Ulm", "Lyon", "Metz", "Nice", "Bari", "Rome"])
COUNTRY = np.array(["DE", "DE", "DE", "FR", "FR", "FR", "IT", "IT"])


def nested(seed: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = rng.integers(0, 8, 800)
    a = rng.normal(size=800)
    y = outcome(0.4 * a + rng.normal(0, 0.5, 8)[code])
    return {"y": y, "a": a, "city": CITIES[code], "country": COUNTRY[code]}


def test_a_factor_nested_in_another(maximum_likelihood: Fit) -> None:
    """Countries first: the last city of each country but the reference's is told by the others."""
    data = nested()
    model = streamlr.fit(data, target="y", features=["country", "city", "a"], tol=TIGHT)
    # Levels sort as Bari, Bonn, ...; Bari and DE are no columns. FR is the sum of its three cities, and what
    # is neither FR nor IT of the three of DE; Rome alone is not Italy.
    assert sorted(model.aliased) == ["city[T.Nice]", "city[T.Ulm]"]
    columns = {f"country[T.{c}]": data["country"] == c for c in ("FR", "IT")}
    columns |= {f"city[T.{c}]": data["city"] == c for c in sorted(CITIES) if c != "Bari"}
    kept = [name for name in columns if name not in model.aliased]
    X = design(*(columns[name] for name in kept), data["a"])
    check_same(model, ["Intercept", *kept, "a"], maximum_likelihood(X, data["y"]))


def test_cities_first_leave_nothing_to_their_countries(maximum_likelihood: Fit) -> None:
    data = nested()
    model = streamlr.fit(data, target="y", features=["a", "city", "country"], tol=TIGHT)
    assert sorted(model.aliased) == ["country[T.FR]", "country[T.IT]"]
    names = sorted(CITIES)[1:]
    X = design(data["a"], *dummies(data["city"], names))
    check_same(model, ["Intercept", "a", *(f"city[T.{c}]" for c in names)], maximum_likelihood(X, data["y"]))


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_powers_of_the_year_are_estimable(degree: int, maximum_likelihood: Fit) -> None:
    """Raw powers leave a pivot of 1e-13 and less, and every one of them has its own coefficient."""
    rng = np.random.default_rng(6)
    year = rng.integers(1990, 2021, 2000).astype(float)
    t = (year - 2005.0) / 15.0
    data: dict[str, np.ndarray] = {f"year{p}": year**p for p in range(1, degree + 1)}
    data["y"] = outcome(0.2 + 0.5 * t - 0.8 * t**2 + 0.9 * t**3)
    model = streamlr.fit(data, target="y", tol=TIGHT)
    assert list(model.aliased) == []
    # Chebyshev polynomials of t span the same columns and are nearly orthogonal.
    Z = np.polynomial.chebyshev.chebvander(t, degree)
    reference = maximum_likelihood(Z, data["y"])
    p = 1 / (1 + np.exp(-(Z @ reference.coef)))
    # year**4 = 1.6e13 is a whole number, and of its variation 1e-10 is its own: the residual column is
    # left with 1.6e13 * 2**-53 / (15**4 / 8) = 3e-7 of rounding in the worst case.
    np.testing.assert_allclose(model.predict(data), p, rtol=1e-8 if degree < 4 else 1e-6)
    # The highest coefficient is that of T_d times 2**(d - 1) / 15**d, whatever the other columns are.
    lead = 2.0 ** (degree - 1) / 15.0**degree
    coef, error = estimates(model)[f"year{degree}"]
    close = 1e-7 if degree < 4 else 1e-5
    assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-12 if degree < 4 else 1e-10)
    assert abs(coef - lead * reference.coef[-1]) <= close * lead * reference.std_error[-1]
    assert error == pytest.approx(lead * reference.std_error[-1], rel=close)


@pytest.mark.parametrize("features", [["a", "far"], ["far", "a"]])
def test_a_column_of_mean_1e9_and_deviation_1e_3(features: list[str], maximum_likelihood: Fit) -> None:
    """Its values are multiples of 2**-23, so it holds what it holds: x - 1e9 is exact."""
    data = base()
    data["far"] = 1e9 + 1e-3 * np.random.default_rng(8).normal(size=N)
    near = (data["far"] - 1e9) * 1e3
    model = streamlr.fit(data, target="y", features=features, tol=TIGHT)
    assert list(model.aliased) == []
    reference = maximum_likelihood(design(data["a"], near), data["y"])
    found = estimates(model)
    for term, place, unit in (("a", 1, 1.0), ("far", 2, 1e3)):
        coef, error = found[term]
        assert abs(coef - unit * reference.coef[place]) <= CLOSE * unit * reference.std_error[place]
        assert error == pytest.approx(unit * reference.std_error[place], rel=CLOSE)
    # coef0 - 1e9 * 1e3 * coef: a number of 1e12 times the slope, of which the slope's CLOSE is left.
    intercept, error = found["Intercept"]
    want = reference.coef[0] - 1e12 * reference.coef[2]
    assert abs(intercept - want) <= CLOSE * 1e12 * reference.std_error[2]
    p = 1 / (1 + np.exp(-(design(data["a"], near) @ reference.coef)))
    np.testing.assert_allclose(model.predict(data), p, rtol=1e-10)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "a", "b")])
def test_nearly_collinear_is_not_collinear(
    noise: float, order: tuple[str, ...], maximum_likelihood: Fit
) -> None:
    """c = a + b + noise; what c says beyond a and b is its own, however little."""
    rng = np.random.default_rng(9)
    a, b, e = rng.normal(size=(3, N))
    c = a + b + noise * e
    own = np.array([math.fsum([z, -x, -y]) for x, y, z in zip(a, b, c, strict=True)]) / noise
    data = {"a": a, "b": b, "c": c, "y": outcome(0.2 + 0.5 * a - 0.3 * b + 0.6 * own)}
    model = streamlr.fit(data, target="y", features=list(order), tol=TIGHT)
    assert list(model.aliased) == []
    reference = maximum_likelihood(design(a, b, own), data["y"])
    assert model.converged
    # The residual is formed from numbers of size 3 with rounding 3 * 2**-53 each, which is that share of
    # the noise, and adds up to a few of them.
    close = max(CLOSE, 20 * 2.0**-53 / noise)
    found = estimates(model)
    wants = {"c": (reference.coef[3] / noise, reference.std_error[3] / noise)}
    wants["Intercept"] = (reference.coef[0], reference.std_error[0])
    for term, (coef, error) in wants.items():
        assert abs(found[term][0] - coef) <= close * error, term
        assert found[term][1] == pytest.approx(error, rel=close), term
    # What the residual's rounding adds to eta is no combination of columns, so the likelihood moves by
    # its sum with the residuals y - p, below sqrt(n) of it.
    assert abs(model.llf - reference.log_likelihood) <= math.sqrt(N) * close


@pytest.mark.parametrize("factors", [1, 2])
def test_a_level_of_weight_zero_alone_is_aliased(factors: int, maximum_likelihood: Fit) -> None:
    data = base()
    rng = np.random.default_rng(10)
    data["g"] = np.array(["p", "q", "r", "s"])[rng.integers(0, 4, N)]
    data["h"] = np.array(["u", "v"])[rng.integers(0, 2, N)]
    data["w"] = np.where(data["g"] == "r", 0, rng.integers(1, 4, N))
    features = ["g", "a", "h"][: factors + 1]
    model = streamlr.fit(data, target="y", features=features, weights="w", tol=TIGHT)
    assert list(model.aliased) == ["g[T.r]"]
    columns = [*dummies(data["g"], ["q", "s"]), data["a"], *dummies(data["h"], ["v"])][: factors + 2]
    terms = ["Intercept", "g[T.q]", "g[T.s]", "a", "h[T.v]"][: factors + 3]
    check_same(model, terms, maximum_likelihood(design(*columns), data["y"], weight=data["w"]))


def test_a_reference_level_of_weight_zero_alone(maximum_likelihood: Fit) -> None:
    """Then the other levels add up to the intercept, and the last of them is aliased."""
    data = base()
    rng = np.random.default_rng(10)
    data["g"] = np.array(["p", "q", "r", "s"])[rng.integers(0, 4, N)]
    data["w"] = np.where(data["g"] == "p", 0, 2)
    model = streamlr.fit(data, target="y", features=["g", "a"], weights="w", tol=TIGHT)
    assert list(model.aliased) == ["g[T.s]"]
    X = design(*dummies(data["g"], ["q", "r"]), data["a"])
    check_same(
        model, ["Intercept", "g[T.q]", "g[T.r]", "a"], maximum_likelihood(X, data["y"], weight=data["w"])
    )


def test_a_column_that_varies_in_rows_of_weight_zero_alone(maximum_likelihood: Fit) -> None:
    data = base()
    data["w"] = np.r_[np.zeros(20, dtype=int), np.ones(N - 20, dtype=int)]
    data["c"] = np.r_[np.arange(20.0), np.full(N - 20, 5.0)]
    model = streamlr.fit(data, target="y", features=["a", "c", "b"], weights="w", tol=TIGHT)
    assert list(model.aliased) == ["c"]
    X = design(data["a"], data["b"])
    check_same(model, ["Intercept", "a", "b"], maximum_likelihood(X, data["y"], weight=data["w"]))


def test_without_an_intercept_the_first_factor_has_every_level(maximum_likelihood: Fit) -> None:
    data = base()
    rng = np.random.default_rng(11)
    data["g"] = np.array(["p", "q", "r"])[rng.integers(0, 3, N)]
    data["h"] = np.array(["u", "v", "w"])[rng.integers(0, 3, N)]
    model = streamlr.fit(data, "y ~ 0 + a + g + h", tol=TIGHT)
    assert list(model.aliased) == []
    X = np.column_stack([data["a"], *dummies(data["g"], ["p", "q", "r"]), *dummies(data["h"], ["v", "w"])])
    terms = ["a", "g[p]", "g[q]", "g[r]", "h[T.v]", "h[T.w]"]
    check_same(model, terms, maximum_likelihood(X, data["y"]))


@pytest.mark.parametrize(
    ("formula", "aliased"), [("y ~ 0 + g + one + a", "one"), ("y ~ 0 + one + g + a", "g[r]")]
)
def test_without_an_intercept_a_constant_stands_in_for_it(
    formula: str, aliased: str, maximum_likelihood: Fit
) -> None:
    data = base()
    data["g"] = np.array(["p", "q", "r"])[np.random.default_rng(12).integers(0, 3, N)]
    data["one"] = np.full(N, 2.5)
    model = streamlr.fit(data, formula, tol=TIGHT)
    assert list(model.aliased) == [aliased]
    levels = ["p", "q", "r"] if aliased == "one" else ["p", "q"]
    columns = {f"g[{level}]": (data["g"] == level).astype(float) for level in levels}
    if aliased != "one":
        columns["one"] = data["one"]
    X = np.column_stack([*columns.values(), data["a"]])
    check_same(model, [*columns, "a"], maximum_likelihood(X, data["y"]))


def test_without_an_intercept_a_shifted_column_is_another(maximum_likelihood: Fit) -> None:
    """b and b + 7 are aliased beside an intercept only; two of them span it, and a third adds nothing."""
    data = base()
    data["b7"] = data["b"] + 7.0
    data["b9"] = data["b"] + 9.0
    model = streamlr.fit(data, "y ~ 0 + b + b7 + a + b9", tol=TIGHT)
    assert list(model.aliased) == ["b9"]
    Q, R = np.linalg.qr(np.column_stack([data["b"], data["b7"], data["a"]]))
    check_same(model, ["b", "b7", "a"], from_orthogonal(maximum_likelihood, Q, R, data["y"]))


def rank(columns: list[list[Fraction]]) -> int:
    """Rank of a matrix of fractions, by elimination without rounding."""
    rows = [list(column) for column in columns]
    found = 0
    for place in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][place]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        for i in range(found + 1, len(rows)):
            share = rows[i][place] / rows[found][place]
            if share:
                rows[i] = [x - share * y for x, y in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


@pytest.mark.parametrize("seed", range(20))
def test_random_dependencies_among_columns_and_factors(seed: int, maximum_likelihood: Fit) -> None:
    """Whole-number columns, some of them combinations of others and of levels: rank decides, exactly."""
    rng = np.random.default_rng(seed)
    rows = 200
    g = rng.integers(0, 4, rows)
    own = rng.integers(-20, 21, (4, rows))
    columns: dict[str, np.ndarray] = {f"x{j}": own[j] for j in range(4)}
    for j in range(3):
        mix = rng.integers(-3, 4, 4) @ own + rng.integers(-5, 6)
        columns[f"d{j}"] = mix + rng.integers(-9, 10, 4)[g] * rng.integers(0, 2)
    names = [*columns, "g"]
    rng.shuffle(names)
    y = outcome(0.03 * own[0] - 0.02 * own[1] + np.array([0.0, 0.3, -0.2, 0.4])[g], seed)
    data = {name: columns[name].astype(float) for name in columns} | {"g": np.array(list("klmn"))[g], "y": y}
    model = streamlr.fit(data, target="y", features=names, tol=TIGHT)

    kept, gone, spanned = ["Intercept"], [], [[Fraction(1)] * rows]
    for name in names:
        levels = [(f"g[T.{level}]", g == code) for code, level in enumerate("klmn") if code]
        for term, column in levels if name == "g" else [(name, columns[name])]:
            candidate = [*spanned, [Fraction(int(value)) for value in column]]
            if rank(candidate) == len(candidate):
                spanned = candidate
                kept.append(term)
            else:
                gone.append(term)
    assert gone
    assert sorted(model.aliased) == sorted(gone)
    Q, R = np.linalg.qr(np.array(spanned, dtype=float).T)
    check_same(model, kept, from_orthogonal(maximum_likelihood, Q, R, y))


@pytest.mark.parametrize("seed", [3, 6, 8, 9])
def test_a_chain_of_nearly_dependent_columns(seed: int, maximum_likelihood: Fit) -> None:
    """u1 and u2 tell e1 magnified 256 times, with u3 e2 magnified 65,536 times; u4 is e2 and nothing else.

    No pair of columns is close, no pivot before u4's is below 1e-5, and u4 is aliased in exact arithmetic.
    """
    rng = np.random.default_rng(seed)
    e = np.round(rng.normal(size=(4, N)) * 64)
    y = (rng.random(N) < 1 / (1 + np.exp(-e[0] / 64))).astype(np.int8)
    u1, u2, u3 = e[0], e[0] + e[1] / 256, e[1] + e[2] / 256
    model = streamlr.fit({"u1": u1, "u2": u2, "u3": u3, "u4": e[2], "y": y}, target="y")
    assert list(model.aliased) == ["u4"]
    reference = maximum_likelihood(design(e[0], e[1], e[2]), y)
    assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-9)


def test_more_columns_than_rows() -> None:
    """Five distinct rows, each with both outcomes: an intercept and four columns are all that there is."""
    rng = np.random.default_rng(13)
    patterns = rng.normal(size=(9, 5))
    row = np.repeat(np.arange(5), 12)
    data = {f"x{j}": patterns[j][row] for j in range(9)}
    y = np.tile(np.arange(12) < 5, 5)
    y[:3] = True
    model = streamlr.fit(data | {"y": y}, target="y", features=[f"x{j}" for j in range(9)], tol=TIGHT)
    assert list(model.aliased) == ["x4", "x5", "x6", "x7", "x8"]
    share = np.array([y[row == i].mean() for i in range(5)])
    # Saturated: every pattern has its own share, whatever the condition of four random columns.
    np.testing.assert_allclose(model.predict(data), share[row], rtol=1e-9)


@dataclass(frozen=True)
class WholeTable:
    """All rows as one part."""

    table: pa.Table

    def read(self, columns: list[str], coded: Any, batch_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.table.select(columns).to_batches(max_chunksize=batch_rows)


def test_a_settled_basis_moves_no_row() -> None:
    """Where the start has coefficients for aliased and for nearly aliased columns, others take them over."""
    rng = np.random.default_rng(15)
    a, b, e = rng.normal(size=(3, N))
    g = np.array(["p", "q", "r"])[rng.integers(0, 3, N)]
    columns = {"a": a, "b": b, "sum": a + b, "near": a - 2 * b + 1e-5 * e, "p": (g == "p") * 2.0}
    terms = [designs.number(name, named=True) for name in columns]
    made = designs.design(*terms[:4], designs.factor("g", ["q", "r"], "p"), terms[4])
    part = WholeTable(pa.table(columns | {"g": g, "y": outcome(a)}))
    centre, scale = (np.array([f(x) for x in columns.values()]) for f in (np.mean, np.std))
    objective = Objective(
        made, Basis.of(made.layout, centre, 1 / scale), lambda work, merge: work([part]), None
    )
    start = rng.normal(size=made.layout.columns) * 0.5
    before = objective(start)
    settled, coef, evaluation, aliased = settle_basis(objective, start, before)
    assert [made.column_names[column] for column in aliased] == ["sum", "p"]
    assert [made.column_names[column] for column in settled.basis.reduced] == ["near"]
    # What one column says is moved to others: eta, some units here, is rounded in its last digits.
    again = settled(coef)
    assert evaluation.loss == pytest.approx(before.loss, rel=1e-13)
    assert again.loss == pytest.approx(before.loss, rel=1e-13)
    np.testing.assert_allclose(again.gradient, evaluation.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again.hessian, evaluation.hessian, rtol=1e-9, atol=1e-9)
    # What is left is well conditioned, and the box holds the rows of the reduced column: 1e-5 e, stretched
    # to the information that the whole column had.
    size = np.sqrt(np.diag(again.hessian))
    assert np.linalg.cond(again.hessian / np.multiply.outer(size, size)) < 1e3
    assert 2.0 < settled.box().extent[3] < 6.0


def test_nominations_of_a_hessian() -> None:
    rng = np.random.default_rng(14)
    Z = rng.normal(size=(50, 4)) * [1.0, 1e3, 1e-4, 1.0]
    whole, kept = nominate(Z.T @ Z, [])
    assert whole == []
    np.testing.assert_array_equal(kept, np.arange(4))
    X = np.column_stack([Z[:, :2], Z[:, 0] * 2 - Z[:, 1] * 3, Z[:, 2], np.zeros(50), Z[:, 3]])
    found, kept = nominate(X.T @ X, [])
    np.testing.assert_array_equal(kept, [0, 1, 3, 5])
    assert [nomination.column for nomination in found] == [2, 4]
    # Beside columns a thousand times larger the coefficient 2 keeps the digits that those leave of it.
    np.testing.assert_allclose(found[0].gamma, [2, -3, 0, 0, 0, 0], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found[1].gamma, 0.0)
    near = np.column_stack([Z[:, 0], Z[:, 0] + 1e-5 * Z[:, 3], Z[:, 1]])
    assert [nomination.column for nomination in nominate(near.T @ near, [])[0]] == [1]
    assert 1 not in [nomination.column for nomination in nominate(near.T @ near, [1])[0]]
