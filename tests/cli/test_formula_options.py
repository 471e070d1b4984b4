"""The options about formulas, rows and gaps on the command line, and what `explain` says of them.

What a command prints is compared with the library on the same rows chosen by hand, so each test says what an
option means and not what the program said before.
"""

from __future__ import annotations

import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlr
from streamlr.errors import StreamlrError
from streamlr.explanation import explain
from streamlr.sources.open import open_source

N = 400


@pytest.fixture(scope="module")
def wide() -> pa.Table:
    """late, three columns to use, and one of each kind that is left out."""
    rng = np.random.default_rng(13)
    x = rng.normal(2.0, 1.0, N)
    group = rng.choice(["a", "b", "c"], N)
    late = rng.random(N) < 1 / (1 + np.exp(1 - 0.5 * x + 0.4 * (group == "b")))
    start = datetime.datetime(2024, 1, 1)
    return pa.table(
        {
            "late": late.astype(np.int8),
            "x": pa.array(x, mask=np.arange(N) % 40 == 3),
            "group": pa.array(group),
            "flag": rng.random(N) < 0.5,
            "same": np.full(N, 7),
            "word": ["only"] * N,
            "void": pa.array([None] * N, pa.float64()),
            "id": [f"row {i:04}" for i in range(N)],
            "when": pa.array([start + datetime.timedelta(hours=i) for i in range(N)], pa.timestamp("us")),
            "day": np.arange(N) // 40,
        }
    )


def shared(model: Any) -> dict[str, float]:
    return dict(zip(model.terms, model.params, strict=True))


def assert_tidy(run: Any, model: Any) -> None:
    rows = {term: row["estimate"] for term, row in run.tidy().items() if row["estimate"] is not None}
    assert rows == pytest.approx(shared(model), rel=1e-7, abs=1e-9)


# Wide by default

LEFT_OUT = {
    "same": "constant",
    "word": "constant",
    "void": "all null",
    "id": "one level per row",
    "when": "date or time",
}


@pytest.mark.parametrize("options", [{}, {"write_statistics": False}, {"rows_per_group": 50}])
def test_what_is_left_out_is_listed_with_the_reason(cli, parquet, wide, options):
    parquet(wide, **options)
    run = cli("fit", "data.parquet", "-y", "late", "--format", "json")
    result = run.json()
    assert set(result["excluded"]) == set(LEFT_OUT)
    for column, reason in LEFT_OUT.items():
        assert reason in result["excluded"][column]
    assert list(run.tidy()) == ["Intercept", "x", "group[T.b]", "group[T.c]", "flag[T.True]", "day"]
    assert_tidy(run, streamlr.fit(wide.select(["late", "x", "group", "flag", "day"]), target="late"))
    for column in LEFT_OUT:
        run.says(f"left out: {column}")


@pytest.mark.parametrize("options", [{}, {"write_statistics": False}, {"rows_per_group": 50}])
def test_explain_lists_the_same_and_prints_a_formula_that_fits_the_same(cli, parquet, wide, options):
    parquet(wide, **options)
    found = json.loads(cli("explain", "data.parquet", "-y", "late", "--format", "json").stdout)
    assert set(found["excluded"]) == set(LEFT_OUT)
    for column, reason in LEFT_OUT.items():
        assert reason in found["excluded"][column]
    assert found["formula"] == "late ~ x + group + flag + day"
    assert found["design_columns_at_least"] == 6
    text = cli("explain", "data.parquet", "-y", "late").stdout
    assert "formula: late ~ x + group + flag + day" in text
    assert all(reason in text for reason in LEFT_OUT.values())
    by_default = cli("fit", "data.parquet", "-y", "late", "--format", "json")
    by_formula = cli("fit", "data.parquet", "--formula", found["formula"], "--format", "json")
    assert by_formula.tidy() == by_default.tidy()


def test_explain_of_an_id_in_a_large_file(cli, parquet):
    """Only a part is looked at; a fit leaves the column out, and so does the formula."""
    rng = np.random.default_rng(0)
    n = 300_000
    y = rng.integers(0, 2, n)
    parquet(
        pa.table({"y": y, "x": rng.normal(size=n) + y, "id": [f"{i:x}" for i in range(n)]}),
        rows_per_group=30_000,
    )
    found = json.loads(cli("explain", "data.parquet", "--format", "json").stdout)
    assert found["formula"] == "y ~ x"
    assert "one level per row" in found["excluded"]["id"]
    assert found["rows_looked_at"] < n


@pytest.mark.parametrize(
    "options",
    [
        ["-f", "late ~ group*x + bs(x, df=4)"],
        ["-f", "late ~ . - day"],
        ["-f", "late ~ 0 + group:x + C(day, reference=2)"],
        ["-f", "late ~ (x + group + flag)**2"],
        ["-f", "late ~ lump(group, top=1) + cut(x, quantiles=3) + poly(day, 2) + isnull(x)"],
        ["-y", "late", "--categorical", "day", "--exclude", "flag"],
        ["-y", "late", "-x", "x,group"],
    ],
)
def test_the_formula_of_explain_is_the_model_of_the_options(options, cli, parquet, wide):
    parquet(wide)
    formula = json.loads(cli("explain", "data.parquet", *options, "--format", "json").stdout)["formula"]
    first = cli("fit", "data.parquet", *options, "--format", "json").tidy()
    again = cli("fit", "data.parquet", "-f", formula, "--format", "json").tidy()
    assert again == first


NAMES = st.one_of(
    st.sampled_from(
        ["a b", "a'b", 'say "hi"', "x.y", "x+y", "a:b", "1st", "0", "None", "True", "class", "if",
         "lambda", "log", "C", "Intercept", "~", "größe", "名前", "a\\b", "{x}", "\\", "a\nb", " pad ",
         "x[T.1]", "."]
    ),
    st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable() and "`" not in s),
)  # fmt: skip


@given(st.lists(NAMES, min_size=3, max_size=3, unique=True))
def test_odd_names_of_columns_go_through_the_formula(names: list[str]) -> None:
    rng = np.random.default_rng(1)
    n = 200
    number, factor, outcome = names
    x = rng.normal(size=n)
    g = rng.choice(["p", "q"], n)
    y = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int)
    table = pa.table({number: x, factor: g, outcome: y})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        pq.write_table(table, path)
        found = _explained(path, target=outcome)
        first = streamlr.fit(path, target=outcome)
        again = streamlr.fit(path, found["formula"])
    assert again.terms == first.terms == ("Intercept", number, f"{factor}[T.q]")
    assert again.params.tobytes() == first.params.tobytes()


@pytest.mark.parametrize("name", ["a`b", "`", "``x", "x`"])
def test_a_backquote_in_a_name_is_written_twice(name: str) -> None:
    test_odd_names_of_columns_go_through_the_formula.hypothesis.inner_test(["x", name, "y"])
    test_odd_names_of_columns_go_through_the_formula.hypothesis.inner_test([name, "g", "y"])


def _explained(path: Path, **options: Any) -> dict[str, Any]:
    names = ("formula", "target", "features", "positive", "where", "weights", "offset", "trials")
    given: dict[str, Any] = {**dict.fromkeys(names), "exclude": [], "categorical": [], "numeric": []}
    given.update({"reference": {}, "missing": "drop", "weight_type": "frequency"})
    return explain(open_source(str(path)), threads=1, memory=None, **{**given, **options})


# Filters


def test_a_filter_is_a_smaller_table(cli, parquet, wide):
    parquet(wide, rows_per_group=40)
    keep = pa.array(
        [day >= 4 and same for day, same in zip(wide["day"].to_pylist(), [True] * N, strict=True)]
    )
    run = cli(
        "fit",
        "data.parquet",
        "-f",
        "late ~ x*group",
        "--where",
        "day >= 4",
        "--format",
        "json",
        "-o",
        "m.json",
    )
    rest = streamlr.fit(wide.filter(keep), "late ~ x*group")
    assert_tidy(run, rest)
    glance = run.json()["glance"]
    assert glance["rows_read"] == 240
    assert glance["rows_dropped"] == 6
    assert json.loads(Path("m.json").read_text())["provenance"]["where"] == "day >= 4"
    assert "where day >= 4" in cli("summary", "m.json").stdout
    scored = cli("predict", "m.json", "data.parquet", "-o", "scores.parquet")
    scored.says("400 rows scored", "10 could not be scored")


def test_explain_tells_of_row_groups_that_are_skipped(cli, parquet, wide):
    parquet(wide, rows_per_group=40)
    found = json.loads(
        cli(
            "explain", "data.parquet", "-f", "late ~ x*group", "--where", "day >= 4", "--format", "json"
        ).stdout
    )
    assert found["row_groups_skipped"] == 4
    assert found["rows"] == 240
    text = cli("explain", "data.parquet", "-f", "late ~ x", "--where", "day >= 4").stdout
    assert "4 row groups without such rows will not be read" in text
    assert "row groups without" not in cli("explain", "data.parquet", "-f", "late ~ x").stdout


def test_explain_looks_where_rows_are_kept(cli, parquet, wide):
    """No footer tells that the first rows are not kept."""
    parquet(wide.take(np.arange(N)), rows_per_group=40, write_statistics=False)
    found = json.loads(
        cli(
            "explain",
            "data.parquet",
            "-f",
            "late ~ scale(x) + group",
            "--where",
            "day = 5",
            "--format",
            "json",
        ).stdout
    )
    assert found["design_columns_at_least"] == 4


def test_a_filter_that_keeps_nothing(cli, parquet, wide):
    for options in ({}, {"write_statistics": False}):
        parquet(wide, **options)
        for formula in ("late ~ x", "late ~ scale(x)", "late ~ group"):
            run = cli("fit", "data.parquet", "-f", formula, "--where", "day > 100", "-o", "m.json")
            run.refused("data.parquet", "no rows", "--where")


def test_a_filter_of_a_column_that_is_not_there(cli, parquet, wide):
    parquet(wide)
    cli("fit", "data.parquet", "-f", "late ~ x", "--where", "dya > 3").refused("dya", "Did you mean 'day'?")
    cli("explain", "data.parquet", "-f", "late ~ x", "--where", "day >").refused("filter")


# Missing values


def test_missing_policies(cli, parquet, wide):
    parquet(wide)
    gaps = 10
    formula = "late ~ x + group"
    run = cli("fit", "data.parquet", "-f", formula, "--format", "json")
    assert run.json()["dropped"] == {"x": gaps}
    cli("fit", "data.parquet", "-f", formula, "--missing", "error").refused("x", gaps, "missing values")
    run = cli("fit", "data.parquet", "-f", formula, "--missing", "indicator", "--format", "json")
    assert_tidy(run, streamlr.fit(wide, formula, missing="indicator"))
    assert "isnull(x)[T.True]" in run.tidy()
    run.says("filled: x", "10 rows")
    run = cli("fit", "data.parquet", "-f", formula, "--missing", "fill=2.5", "--format", "json")
    filled = wide.set_column(1, "x", wide["x"].fill_null(2.5))
    assert_tidy(run, streamlr.fit(filled, formula))
    cli("fit", "data.parquet", "-f", formula, "--missing", "fill=none").refused("x", gaps, "none", "number")


@pytest.mark.parametrize("policy", ["mean", "fill", "fill=", "", "Drop"])
def test_a_policy_that_there_is_not_is_misuse(policy, cli, parquet, wide):
    parquet(wide)
    for command in ("fit", "explain"):
        cli(command, "data.parquet", "-f", "late ~ x", "--missing", policy).misused(
            "drop", "error", "indicator", "fill=VALUE"
        )


# Unseen levels


def test_unseen(cli, parquet, wide):
    parquet(wide)
    fitted = cli("fit", "data.parquet", "-f", "late ~ group*flag", "-o", "m.json")
    assert fitted.exit_code == 0
    rows = {"group": ["b", "new", "a"], "flag": [True, True, True]}
    parquet(pa.table(rows), "new.parquet")

    def scores() -> list[float | None]:
        return pq.read_table("scores.parquet")["probability"].to_pylist()

    run = cli("predict", "m.json", "new.parquet", "-o", "scores.parquet")
    run.says("3 rows scored", "1 could not be scored")
    plain = scores()
    assert [value is None for value in plain] == [False, True, False]
    run = cli("predict", "m.json", "new.parquet", "-o", "scores.parquet", "--unseen", "reference")
    run.says("3 rows scored")
    assert "could not" not in run.message
    assert scores() == [plain[0], plain[2], plain[2]]
    Path("scores.parquet").unlink()
    run = cli("predict", "m.json", "new.parquet", "-o", "scores.parquet", "--unseen", "error")
    run.refused("group", "new", "--unseen")
    cli("predict", "m.json", "new.parquet", "-o", "scores.parquet", "--unseen", "zero").misused("zero")


def test_unseen_cells(cli, parquet, wide):
    keep = [
        not (g == "c" and f) for g, f in zip(wide["group"].to_pylist(), wide["flag"].to_pylist(), strict=True)
    ]
    parquet(wide.filter(pa.array(keep)))
    run = cli("fit", "data.parquet", "-f", "late ~ group*flag", "-o", "m.json", "--format", "json")
    assert run.json()["aliased"] == ["group[T.c]:flag[T.True]"]
    assert run.tidy()["group[T.c]:flag[T.True]"]["estimate"] is None
    parquet(pa.table({"group": ["c", "c"], "flag": [True, False]}), "new.parquet")
    cli("predict", "m.json", "new.parquet", "-o", "scores.parquet").says("1 could not be scored")
    Path("scores.parquet").unlink()
    run = cli("predict", "m.json", "new.parquet", "-o", "scores.parquet", "--unseen", "error")
    run.refused("group:flag", "c", "True", "--unseen")


def test_a_cell_of_one_outcome_with_separation_error(cli, parquet, wide):
    cell = [g == "c" and f for g, f in zip(wide["group"].to_pylist(), wide["flag"].to_pylist(), strict=True)]
    late = pa.array([1 if in_cell else y for in_cell, y in zip(cell, wide["late"].to_pylist(), strict=True)])
    parquet(wide.set_column(0, "late", late))
    run = cli("fit", "data.parquet", "-f", "late ~ group*flag", "--separation", "error", "-o", "m.json")
    assert run.exit_code == 4
    run.says("group[T.c]:flag[T.True]", "one outcome")
    assert not run.changed
    run = cli("fit", "data.parquet", "-f", "late ~ group*flag", "--format", "json")
    assert run.json()["separation"]["rows_separated"] == sum(cell)
    run.says("set aside", "group[T.c]:flag[T.True]")


def test_hostile_formulas_are_one_message(cli, parquet, wide):
    parquet(wide)
    for formula in ("late ~ __import__('os')", "late ~ x.real", "late ~ " + "(" * 5_000, "late ~ nosuch(x)"):
        cli("fit", "data.parquet", "-f", formula, "-o", "m.json").refused()
    with pytest.raises(StreamlrError, match="isnull"):
        streamlr.fit(wide, "late ~ isnul(x)")


def test_explain_of_an_absorbed_factor(cli, parquet, wide):
    """Its levels are no columns of the design, and the formula is what stands beside --absorb."""
    parquet(wide)
    words = ("data.parquet", "-f", "late ~ x + group", "--absorb", "day", "--format", "json")
    found = json.loads(cli("explain", *words).stdout)
    assert found["formula"] == "late ~ x + group"
    assert found["design_columns_at_least"] == 3
    run = json.loads(cli("fit", *words).stdout)
    assert [row["term"] for row in run["tidy"]] == ["x", "group[T.b]", "group[T.c]"]
