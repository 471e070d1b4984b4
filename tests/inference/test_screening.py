"""Score tests of candidate terms: against R, against their definition, and what must not change them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest
from scipy import stats

import streamlr
from streamlr.errors import StreamlrError
from streamlr.inference.screening import Screening, benjamini_hochberg, screen
from streamlr.sources.open import open_source

REFERENCE = Path(__file__).parent.parent / "reference"
# scripts/make_screening_references.R wrote each from R's anova(test = "Rao").
CASES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((REFERENCE / "screening").glob("*.json"))
}
assert CASES, "no reference results"

# R's own rounding in sums over up to 6,366 rows, against which its definition by QR was checked to 1e-9.
TOLERANCE = 1e-8


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups are not gathered into one part, so that files of several have sums to merge."""
    monkeypatch.setattr("streamlr.sources.parquet.PART_ROWS", 1)


def table_of(case: Mapping[str, Any]) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    return pyarrow.csv.read_csv(REFERENCE / "data" / case["data"], convert_options=options)


def by_term(screening: Screening) -> dict[str, dict[str, Any]]:
    return {row["term"]: row for row in screening.tidy_rows()}


@pytest.mark.parametrize("name", sorted(CASES))
def test_agrees_with_r(name, parquet):
    case = CASES[name]
    # Row groups of 37 rows: many parts, none of them aligned with anything.
    path = parquet(table_of(case), rows_per_group=37)
    model = streamlr.fit(path, **case["fit"])
    found = by_term(screen(model, path, list(case["tests"])))
    assert set(found) == set(case["tests"])
    for term, wanted in case["tests"].items():
        row = found[term]
        assert row["df"] == wanted["df"], term
        assert row["rows_missing"] == wanted["rows_missing"], term
        for key in ("statistic", "p_value", "p_adjusted"):
            # p-values of large statistics magnify them: dp/p is about half the statistic's error.
            tolerance = TOLERANCE * max(1.0, wanted["statistic"])
            assert row[key] == pytest.approx(wanted[key], rel=tolerance, abs=0.0), (term, key)
        for key in ("estimate", "std_error"):
            if key in wanted:
                assert row[key] == pytest.approx(wanted[key], rel=TOLERANCE, abs=0.0), (term, key)
            else:
                assert row[key] is None


def definition(
    X: np.ndarray, Z: np.ndarray, y: np.ndarray, coef: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Statistic, one-step estimates and their errors from whole matrices, centred by QR on square roots."""
    w = np.ones(len(y)) if weight is None else weight
    p = 1 / (1 + np.exp(-X @ coef))
    r, c = w * (y - p), w * p * (1 - p)
    root = np.sqrt(c)[:, None]
    q, _ = np.linalg.qr(X * root)
    left = Z * root - q @ (q.T @ (Z * root))
    A = left.T @ left
    U = left.T @ (r / root[:, 0])
    return float(U @ np.linalg.solve(A, U)), np.linalg.solve(A, U), np.sqrt(np.diag(np.linalg.inv(A)))


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    """2,000 rows of y on x and group; near: mean 1e9, standard deviation 1; letter: six levels."""
    rng = np.random.default_rng(20)
    n = 2_000
    x = rng.normal(size=n)
    group = rng.choice(["a", "b", "c"], n)
    near = np.round(rng.normal(size=n), 6) + 0.3 * np.round(x, 6)
    y = (rng.random(n) < 1 / (1 + np.exp(-(0.5 * x - 0.4 * (group == "b") + 0.1 * near)))).astype(np.int64)
    return {
        "y": y,
        "x": x,
        "group": group,
        "near": near,
        "letter": rng.choice(list("uvwxyz"), n),
        "gap": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n) - x),
        "flag": rng.random(n) < 0.3,
    }


def design_of(rows: dict[str, np.ndarray]) -> np.ndarray:
    group = rows["group"]
    return np.column_stack([np.ones(len(group)), rows["x"], group == "b", group == "c"]).astype(float)


def dummies(values: np.ndarray) -> np.ndarray:
    return np.array([values == level for level in np.unique(values)[1:]]).T.astype(float)


def as_nulls(rows: dict[str, np.ndarray]) -> pa.Table:
    table = pa.table(rows)
    gap = pa.array(rows["gap"], mask=np.isnan(rows["gap"]))
    return table.set_column(table.column_names.index("gap"), "gap", gap)


@pytest.mark.parametrize("make", [pa.table, as_nulls])
def test_definition(rows, parquet, make):
    path = parquet(make(rows), rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group")
    X, y, coef = design_of(rows), rows["y"], model.params
    found = by_term(screen(model, path))
    assert set(found) == {"near", "letter", "gap", "flag"}
    for name in ("near", "gap"):
        there = ~np.isnan(rows[name])
        statistic, estimate, error = definition(X[there], rows[name][there, None], y[there], coef)
        row = found[name]
        assert row["statistic"] == pytest.approx(statistic, rel=1e-9)
        assert row["estimate"] == pytest.approx(estimate[0], rel=1e-9)
        assert row["std_error"] == pytest.approx(error[0], rel=1e-9)
        assert row["rows_missing"] == np.count_nonzero(~there)
    for name, df in (("letter", 5), ("flag", 1)):
        statistic, _, _ = definition(X, dummies(rows[name]), y, coef)
        assert (found[name]["df"], found[name]["estimate"]) == (df, None)
        assert found[name]["statistic"] == pytest.approx(statistic, rel=1e-9)


@pytest.mark.parametrize("formula", ["y ~ x + group", "y ~ 0 + group"])
@pytest.mark.parametrize("mean", [1e6, -1e9])
def test_far_from_zero(rows, parquet, formula, mean):
    """Adding a constant to a column changes no test where a constant is in the model's span."""
    # The first row group lies far from the others, and neither mean nor first value tells where most are.
    path = parquet(pa.table(rows), rows_per_group=301)
    far = {**rows, "near": rows["near"] + mean, "gap": rows["gap"] - mean}
    far_path = parquet(pa.table(far), "far.parquet", rows_per_group=301)
    terms = ["near", "gap", "near:group", "x:near"]
    if "x" not in formula:
        terms = ["near", "gap", "near:group"]
    model = streamlr.fit(path, formula)
    plain, moved = (by_term(screen(model, where, terms)) for where in (path, far_path))
    for term in terms:
        # What is left of the column has lost the digits of its mean: 1e-16 |mean| a value.
        tolerance = 1e-8 if abs(mean) < 1e7 else 1e-6
        assert moved[term]["df"] == plain[term]["df"]
        assert moved[term]["statistic"] == pytest.approx(plain[term]["statistic"], rel=tolerance), term


def test_far_from_zero_without_a_constant(rows, parquet):
    """Where no constant is in the span the test is of the column as it stands."""
    path = parquet(pa.table({**rows, "near": rows["near"] + 5.0}), rows_per_group=301)
    model = streamlr.fit(path, "y ~ 0 + x")
    found = by_term(screen(model, path, ["near"]))["near"]
    X = rows["x"][:, None]
    statistic, estimate, _ = definition(X, rows["near"][:, None] + 5.0, rows["y"], model.params)
    assert found["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert found["estimate"] == pytest.approx(estimate[0], rel=1e-9)


def test_a_column_that_is_nearly_constant_is_none(rows):
    """1000 + 0.001 noise leaves 1e-12 of a constant, which a mean of 1e4 turns into 1e-2 of the column."""
    x = 1000 + 0.001 * rows["x"]
    table = pa.table({"y": rows["y"], "x": x, "near": rows["near"] + 1e4})
    model = streamlr.fit(table, "y ~ 0 + x")
    statistic, _, _ = definition(x[:, None], rows["near"][:, None] + 1e4, rows["y"], model.params)
    found = by_term(screen(model, table, ["near"]))["near"]
    # 1e-8 of the column's squares is its own, so 1e-16 has become 1e-8.
    assert found["statistic"] == pytest.approx(statistic, rel=1e-6)


def test_threads_do_not_change_a_bit(rows, parquet):
    path = parquet(as_nulls(rows), rows_per_group=53)
    model = streamlr.fit(path, "y ~ x + group")
    terms = ["near", "gap", "letter", "flag", "gap:group", "letter:flag", "I(x**2)", "x:near"]
    one, four = (screen(model, path, terms, threads=threads) for threads in (1, 4))
    assert repr(one.result()) == repr(four.result())


def test_row_groups_change_rounding_alone(rows, parquet):
    terms = ["near", "gap", "letter", "gap:group", "letter:flag"]
    table = as_nulls(rows)
    whole, cut = parquet(table, "whole.parquet"), parquet(table, "cut.parquet", rows_per_group=19)
    model = streamlr.fit(whole, "y ~ x + group")
    one, many = (by_term(screen(model, path, terms)) for path in (whole, cut))
    for term in terms:
        assert many[term]["statistic"] == pytest.approx(one[term]["statistic"], rel=1e-10)


def test_dask_gives_the_same(rows):
    import dask.dataframe as dd

    frame = pd.DataFrame(rows)
    model = streamlr.fit(frame, "y ~ x + group")
    terms = ["near", "gap", "letter", "gap:group", "x:near"]
    one, other = (
        by_term(screen(model, data, terms)) for data in (frame, dd.from_pandas(frame, npartitions=4))
    )
    for term in terms:
        assert other[term]["statistic"] == pytest.approx(one[term]["statistic"], rel=1e-10)
        assert other[term]["rows_missing"] == one[term]["rows_missing"]


@pytest.mark.parametrize("weight_type", ["frequency", "analytic"])
def test_weights_are_repetitions(rows, parquet, weight_type):
    times = np.random.default_rng(3).integers(0, 4, len(rows["y"]))
    weighted = parquet(pa.table({**rows, "times": times}), "weighted.parquet", rows_per_group=301)
    repeated = pa.table({name: np.repeat(values, times) for name, values in rows.items()})
    repeated_path = parquet(repeated, "repeated.parquet", rows_per_group=400)
    terms = ["near", "gap", "letter", "near:group"]
    model = streamlr.fit(weighted, "y ~ x + group", weights="times", weight_type=weight_type)
    own = by_term(screen(model, weighted, terms))
    other = by_term(screen(streamlr.fit(repeated_path, "y ~ x + group"), repeated_path, terms))
    for term in terms:
        assert own[term]["statistic"] == pytest.approx(other[term]["statistic"], rel=1e-9)


def test_a_step_reaches_the_coefficient_of_a_weak_term(rows, parquet):
    """A^-1 U is Newton's step: near the truth it differs from the refit by its square."""
    path = parquet(pa.table(rows))
    found = by_term(screen(streamlr.fit(path, "y ~ x + group"), path, ["near"]))["near"]
    refit = streamlr.fit(path, "y ~ x + group + near")
    assert found["estimate"] == pytest.approx(refit.params[-1], rel=0.02)
    assert found["std_error"] == pytest.approx(refit.bse[-1], rel=0.02)


def test_one_pass(rows, parquet, monkeypatch):
    """Counted where rows are handed out, not by what the program says of itself."""
    path = parquet(as_nulls(rows), rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group")
    source = open_source(str(path))
    part_type = type(source.parts[0])
    read = part_type.read
    reads: list[tuple[tuple[str, ...], int]] = []

    def counted(part: Any, columns: Any, *others: Any, **options: Any) -> Any:
        for batch in read(part, columns, *others, **options):
            reads.append((tuple(columns), batch.num_rows))
            yield batch

    monkeypatch.setattr(part_type, "read", counted)
    assert screen(model, source).passes == 1
    assert sum(count for _, count in reads) == len(rows["y"])
    assert all(len(set(columns)) == len(columns) == 7 for columns, _ in reads)
    # The first rows tell where the numbers of an interaction lie: one batch of one column, which is no pass.
    reads.clear()
    assert screen(model, source, ["x:near", "letter"], threads=1).passes == 1
    small = [count for columns, count in reads if len(columns) == 1]
    assert len(small) == 1
    assert sum(count for columns, count in reads if len(columns) > 1) == len(rows["y"])


def test_thousands_of_candidates(rows):
    rng = np.random.default_rng(4)
    n, q = 500, 1_500
    Z = rng.normal(size=(n, q))
    table = pa.table({"y": rows["y"][:n], "x": rows["x"][:n], **{f"z{j}": Z[:, j] for j in range(q)}})
    model = streamlr.fit(table, "y ~ x")
    found = screen(model, table)
    assert (len(found.rows), found.passes, dict(found.skipped)) == (q, 1, {})
    X = np.column_stack([np.ones(n), rows["x"][:n]])
    for j in (0, 31, 32, 33, 1_499):
        statistic, _, _ = definition(X, Z[:, j : j + 1], rows["y"][:n], model.params)
        assert by_term(found)[f"z{j}"]["statistic"] == pytest.approx(statistic, rel=1e-9)
    statistics = [row.statistic for row in found.rows]
    assert statistics == sorted(statistics, reverse=True)
    # The null is true: p-values are uniform (the Kolmogorov distance of 1,500 is 0.035 at the 5% level).
    assert stats.kstest([row.p_value for row in found.rows], "uniform").statistic < 0.05


def test_default_candidates_and_what_is_left_out(rows, parquet):
    n = len(rows["y"])
    infinite = rows["near"].copy()
    infinite[[3, 1_500]] = np.inf
    table = pa.table(
        {
            **rows,
            "same": np.full(n, 0.1),
            "one": np.full(n, "only"),
            "when": pa.array(np.arange(n), pa.timestamp("s")),
            "pieces": pa.array([[1]] * n),
            "nothing": pa.nulls(n),
            "empty": pa.array([None] * n, pa.float64()),
            "id": [f"row {i}" for i in range(n)],
            "infinite": infinite,
            "__index_level_0__": np.arange(n),
        }
    )
    path = parquet(table, rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group")
    found = screen(model, path)
    assert set(by_term(found)) == {"near", "letter", "gap", "flag"}
    assert found.skipped == {
        "when": "date or time (timestamp[ms])",
        "pieces": "nested type (list<element: int64>)",
        "nothing": "all null",
        "empty": "all null",
        "__index_level_0__": "index written by pandas",
        "same": "constant",
        "one": "constant",
        "id": "more than 1,000 levels",
        "infinite": "2 infinite values",
    }
    few = table.slice(0, 300)
    assert screen(streamlr.fit(few, "y ~ x"), few).skipped["id"] == "a level per row"


def test_named_constants_and_combinations_are_aliased(rows):
    same, twice = np.full(len(rows["y"]), 0.1), 2 * rows["x"] + (rows["group"] == "b") - 1e4
    table = pa.table({**rows, "same": same, "twice": twice, "copy": np.round(rows["x"], 6)})
    model = streamlr.fit(table, "y ~ x + group")
    found = screen(model, table, ["twice", "copy", "same", "group", "near", "C(group)", "x"])
    assert [row.term for row in found.rows] == ["near", "twice", "copy", "same", "C(group)"]
    for row in found.rows[1:]:
        assert (row.df, row.statistic, row.p_value, row.p_adjusted, row.estimate) == (
            0,
            None,
            None,
            None,
            None,
        )
    assert found.rows[0].p_adjusted == found.rows[0].p_value  # the only one that is tested
    assert found.skipped == {"group": "in the model", "x": "in the model"}
    assert "4 more are aliased" in str(found)


def test_nearly_a_combination_is_tested(rows):
    """1e-4 of a column is its own: far above rounding."""
    table = pa.table({**rows, "twin": rows["x"] + 1e-4 * rows["near"]})
    model = streamlr.fit(table, "y ~ x + group")
    found = by_term(screen(model, table, ["twin", "near"]))
    assert found["twin"]["statistic"] == pytest.approx(found["near"]["statistic"], rel=1e-6)


def test_levels_that_come_late_and_levels_that_never_come(rows, parquet):
    """Dictionaries hold unused levels, and every row group knows its own."""
    n = len(rows["y"])
    late = np.where(np.arange(n) < 1_500, "early", rows["letter"])
    indices = pa.array(np.unique(late, return_inverse=True)[1].astype(np.int32))
    unused = [*np.unique(late), *(f"unused {i}" for i in range(2_000))]
    table = pa.table({**rows, "late": late}).append_column(
        "coded", pa.DictionaryArray.from_arrays(indices, pa.array(unused))
    )
    path = parquet(table, rows_per_group=101)
    model = streamlr.fit(path, "y ~ x + group")
    statistic, _, _ = definition(design_of(rows), dummies(late), rows["y"], model.params)
    for data in (path, table):
        found = by_term(screen(model, data, ["late", "coded"]))
        for name in ("late", "coded"):
            assert found[name]["df"] == 6
            assert found[name]["statistic"] == pytest.approx(statistic, rel=1e-9)


def test_limit_of_levels(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x + group")
    assert screen(model, table, ["letter", "near"], max_levels=5).skipped == {"letter": "more than 5 levels"}
    assert not screen(model, table, ["letter"], max_levels=6).skipped
    assert screen(model, table, ["letter:group", "near"], max_levels=17).skipped
    with pytest.raises(StreamlrError, match="max_levels must be at least 2, not 1"):
        screen(model, table, max_levels=1)


def test_level_with_one_outcome_only_has_a_test(rows):
    """The estimate would be infinite; the score test needs none."""
    sure = (rows["y"] == 1) & (rows["near"] > 1.0)
    table = pa.table({**rows, "sure": sure})
    model = streamlr.fit(table, "y ~ x + group")
    found = by_term(screen(model, table, ["sure"]))["sure"]
    statistic, _, _ = definition(design_of(rows), dummies(sure), rows["y"], model.params)
    assert found["statistic"] == pytest.approx(statistic, rel=1e-9)


def test_candidate_that_is_missing_wherever_a_level_is(rows, parquet):
    """Where the candidate is, one level of the model has no rows; the test is that of the others."""
    there = rows["group"] != "c"
    path = parquet(pa.table({**rows, "part": pa.array(rows["near"], mask=~there)}), rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group")
    X = design_of(rows)[there][:, :3]
    statistic, _, _ = definition(X, rows["near"][there, None], rows["y"][there], model.params[:3])
    found = by_term(screen(model, path, ["part"]))["part"]
    assert found["statistic"] == pytest.approx(statistic, rel=1e-8)


def test_candidate_that_is_missing_where_two_columns_differ(rows, parquet):
    """Over its rows two columns of the model are one, which the test then has once."""
    there = rows["letter"] > "v"
    other = np.where(there, 2 * rows["x"] - 1, rows["near"])
    path = parquet(
        pa.table({**rows, "other": other, "part": pa.array(rows["near"], mask=~there)}), rows_per_group=301
    )
    model = streamlr.fit(path, "y ~ x + other")
    x, near, y = rows["x"][there], rows["near"][there], rows["y"][there]
    b = model.params
    coef = np.array([b[0] - b[2], b[1] + 2 * b[2]])
    statistic, _, _ = definition(np.column_stack([np.ones(len(x)), x]), near[:, None], y, coef)
    assert by_term(screen(model, path, ["part"]))["part"]["statistic"] == pytest.approx(statistic, rel=1e-8)


def test_candidate_that_only_rows_without_weight_have(rows):
    weight = (rows["letter"] > "v").astype(float)
    table = pa.table({**rows, "w": weight, "part": pa.array(rows["near"], mask=weight > 0)})
    model = streamlr.fit(table, "y ~ x", weights="w")
    found = screen(model, table, ["part", "near"])
    assert [row.term for row in found.rows] == ["near"]
    assert "combinations of each other on the rows that have it" in found.skipped["part"]


def test_absorbed_effects_are_taken_out(rows, parquet):
    path = parquet(pa.table(rows), rows_per_group=301)
    absorbing = streamlr.fit(path, "y ~ x", absorb="group")
    plain = streamlr.fit(path, "y ~ x + group")
    terms = ["near", "gap", "letter", "near:group"]
    own, other = (by_term(screen(model, path, terms)) for model in (absorbing, plain))
    for term in terms:
        assert own[term]["df"] == other[term]["df"]
        assert own[term]["statistic"] == pytest.approx(other[term]["statistic"], rel=1e-8), term


def test_rows_dropped_by_the_model_stay_dropped(rows, parquet):
    """Nulls in the model's own columns, a filter, and a level set aside with its rows."""
    n = len(rows["y"])
    group = np.where((np.arange(n) % 50 == 0) & (rows["y"] == 1), "sure", rows["group"])
    x = pa.array(rows["x"], mask=np.arange(n) % 7 == 0)
    table = pa.table({**rows, "group": group, "x": x})
    path = parquet(table, rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group", where="near > -1")
    used = (np.arange(n) % 7 != 0) & (rows["near"] > -1) & (group != "sure")
    kept = {name: values[used] for name, values in rows.items()}
    statistic, _, _ = definition(design_of(kept), kept["near"][:, None], kept["y"], model.params)
    found = screen(model, path, ["near", "gap"])
    assert found.rows_used == np.count_nonzero(used)
    assert by_term(found)["near"]["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert by_term(found)["gap"]["rows_missing"] == np.count_nonzero(np.isnan(kept["gap"]))


def test_saved_model(rows, parquet, tmp_path):
    path = parquet(pa.table(rows), rows_per_group=301)
    model = streamlr.fit(path, "y ~ x + group")
    model.save(tmp_path / "model.json")
    loaded = streamlr.load(tmp_path / "model.json")
    assert repr(screen(loaded, path).result()) == repr(screen(model, path).result())


def test_other_rows_are_refused(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x + group")
    message = r"not at its maximum on these rows \(1,999 rows; .* standard errors away\): score tests need"
    with pytest.raises(StreamlrError, match=message):
        screen(model, table.slice(1), ["near"])
    with pytest.raises(StreamlrError, match="no row is left"):
        screen(model, table, ["near"], where="x > 100")


def test_unfinished_fit_is_refused(rows):
    table = pa.table(rows)
    with pytest.warns(streamlr.ConvergenceWarning):
        model = streamlr.fit(table, "y ~ x + group", max_passes=2, tol=1e-14)
    assert not model.converged
    table_of_others = table.slice(100)
    with pytest.raises(StreamlrError, match="had not converged"):
        screen(model, table_of_others, ["near"])


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (["nearr"], "no column 'nearr' .* Did you mean 'near'"),
        (["y"], "'y' is the target of the model"),
        (["log(y)"], "'y' cannot be both a feature and the target"),
        (["scale(near)"], r"scale\(near\) cannot be screened: scale\(\) learns from all rows"),
        (["near:poly(gap, 2)"], r"poly\(\) learns"),
        (["lump(letter, top=2)"], r"lump\(\) learns"),
        (["y ~ near"], "is a formula; name its terms alone"),
        (["1"], "names no term"),
        ([], "there is no candidate"),
        (["when"], "'when' cannot be a feature: date or time"),
    ],
)
def test_candidates_that_make_no_sense(rows, terms, message):
    n = len(rows["y"])
    table = pa.table({**rows, "when": pa.array(np.arange(n), pa.timestamp("s"))})
    model = streamlr.fit(table, "y ~ x + group")
    with pytest.raises(StreamlrError, match=message):
        screen(model, table, terms)


def test_penalised_models_are_refused(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x", absorb="letter", absorb_l2=0.01)
    with pytest.raises(StreamlrError, match=r"without a penalty, .* ridge on absorbed effects \(0\.01\)"):
        screen(model, table, ["near"])
    with pytest.raises(StreamlrError, match=r"without a penalty, .* fitted with that of Firth"):
        screen(streamlr.fit(table, "y ~ x", firth=True), table, ["near"])


def test_tables_that_do_not_fit_are_refused(rows, monkeypatch):
    table = as_nulls(rows)
    model = streamlr.fit(table, "y ~ x + group")
    monkeypatch.setattr("streamlr.inference.screening.available_memory", lambda: 2_000)
    with pytest.raises(StreamlrError, match=r"1 candidates against 4 columns .* above a quarter"):
        screen(model, table, ["near"], threads=1)
    # Room for the sums, and for the information of one candidate with gaps or twelve levels.
    other = table.append_column("other", pa.array(rows["near"], mask=np.arange(len(rows["y"])) % 9 == 0))
    monkeypatch.setattr("streamlr.inference.screening.available_memory", lambda: 11_600)
    assert len(screen(model, other, ["gap"], threads=1).rows) == 1
    with pytest.raises(
        StreamlrError, match=r"6\d\d B .* 0 levels, .* 2 candidates with missing values, of 544 B"
    ):
        screen(model, other, ["gap", "other"], threads=1)
    assert len(screen(model, other, ["letter"], threads=1).rows) == 1
    with pytest.raises(
        StreamlrError, match=r"6\d\d B .* 18 levels, or cells of levels, of 40 B each and 0 cand"
    ):
        screen(model, other, ["letter:group"], threads=1)


def test_room_is_checked_where_parts_meet(rows, parquet, monkeypatch):
    """No part has more than a few of the levels, all together have 18 cells."""
    path = parquet(pa.table(rows).sort_by("letter"), rows_per_group=150)
    model = streamlr.fit(path, "y ~ x + group")
    monkeypatch.setattr("streamlr.inference.screening.available_memory", lambda: 11_600)
    with pytest.raises(StreamlrError, match=r"6\d\d B .* 1[5-8] levels, or cells of levels"):
        screen(model, path, ["letter:group"], threads=1)


def test_formula_terms_expand_as_in_formulas(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x + group")
    found = screen(model, table, ["near * letter", "letter:near"])
    assert set(by_term(found)) == {"near", "letter", "near:letter"}
    assert found.tidy().column_names == [
        "term",
        "df",
        "statistic",
        "p_value",
        "p_adjusted",
        "estimate",
        "std_error",
        "rows_missing",
    ]
    assert found.tidy().num_rows == 3


def test_robust_models_say_that_tests_are_model_based(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x", cov="HC0")
    assert "based on the model" in str(screen(model, table, ["near"]))
    assert "based on the model" not in str(screen(streamlr.fit(table, "y ~ x"), table, ["near"]))


def test_clusters_are_no_candidates_unless_they_are_named(rows):
    table = pa.table(rows)
    model = streamlr.fit(table, "y ~ x", cluster="letter")
    assert set(by_term(screen(model, table))) == {"near", "gap", "flag", "group"}
    assert set(by_term(screen(model, table, "letter"))) == {"letter"}


def test_far_tail_keeps_its_digits(rows):
    """scipy's chi2 to 1e-78, where one less a probability would be zero."""
    often = np.where(rows["near"] > -0.6, rows["y"], 1 - rows["y"])
    letters = np.array([f"{a}{b}" for a, b in zip(rows["letter"], often, strict=True)])
    table = pa.table({**rows, "tell": often + 0.05 * rows["near"], "letters": letters})
    model = streamlr.fit(table, "y ~ x + group")
    for row in screen(model, table, ["tell", "letters"]).rows:
        assert row.statistic > 300
        assert row.p_value == pytest.approx(stats.chi2.sf(row.statistic, row.df), rel=1e-9, abs=0.0)
        assert row.p_value > 0.0


def test_benjamini_hochberg():
    # R: p.adjust(c(0.03, 0.001, 0.5, 0.02, 0.9), "BH")
    assert benjamini_hochberg([0.03, 0.001, 0.5, 0.02, 0.9]) == pytest.approx([0.05, 0.005, 0.625, 0.05, 0.9])
    assert benjamini_hochberg([]) == []
