"""`streamlr fit` when all is well: formats, streams, exit codes, and which columns it takes.

Numbers are compared with plain Newton on a design matrix that is built here by hand, in the
distance that the program promises: 1e-8 standard errors, or of the coefficient where that is more.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy.special import ndtr, ndtri

import streamlr

FEATURES = ("-x", "dep_delay,carrier,origin,weekend")
ARGUMENTS = ("fit", "data.parquet", "-y", "late", *FEATURES)

RESULT = {"tidy", "glance", "dropped", "aliased", "separation", "trace", "excluded"}
TIDY = ["term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"]
TIDY += ["odds_ratio"]
GLANCE = {
    *("nobs", "df_model", "df_resid", "log_likelihood", "null_log_likelihood", "deviance"),
    *("null_deviance", "aic", "bic", "pseudo_r2", "converged", "passes", "newton_decrement"),
    *("rows_read", "rows_used", "rows_dropped", "cov_type", "seconds", "peak_rss_bytes"),
}
TRACE = {
    *("pass", "log_likelihood", "max_gradient", "newton_decrement", "step", "seconds"),
    "rows_per_second",
}


def close(left: float, right: float, std_error: float, tolerance: float = 1e-7) -> bool:
    """Equal in the sense of the project: relative to the estimate or its standard error."""
    return abs(left - right) <= tolerance * max(abs(right), std_error)


def same_table(left: dict, right: dict, tolerance: float = 1e-7) -> None:
    """Two coefficient tables with the same terms in the same order and the same numbers."""
    assert list(left) == list(right)
    for term, row in right.items():
        for number in ("estimate", "std_error"):
            assert close(left[term][number], row[number], row["std_error"], tolerance), term


@pytest.fixture
def flights(flights_like, parquet):
    """The flights in the test's folder as data.parquet, in row groups of 97."""
    return parquet(flights_like, rows_per_group=97)


# JSON


def test_json_has_exactly_the_documented_keys(cli, flights):
    result = cli(*ARGUMENTS, "--format", "json").json()
    assert set(result) == RESULT
    assert all(list(row) == TIDY for row in result["tidy"])
    assert set(result["glance"]) == GLANCE
    assert result["trace"]
    assert all(set(step) == TRACE for step in result["trace"])
    assert result["separation"] is None
    assert result["aliased"] == []
    assert result["excluded"] == {}


def test_estimates_are_the_maximum(cli, flights, flights_design, maximum_likelihood):
    terms, X, y = flights_design
    expected = maximum_likelihood(X, y)
    result = cli(*ARGUMENTS, "--format", "json").json()
    assert [row["term"] for row in result["tidy"]] == terms
    for row, coef, std_error in zip(result["tidy"], expected.coef, expected.std_error, strict=True):
        assert close(row["estimate"], coef, std_error)
        assert math.isclose(row["std_error"], std_error, rel_tol=1e-6)


def test_the_rest_of_a_row_follows_from_estimate_and_error(cli, flights):
    """p through z, in both tails without cancellation; odds ratio exp(b); Wald interval."""
    for level in (0.95, 0.8):
        run = cli(*ARGUMENTS, "--format", "json", "--conf-level", level)
        for row in run.json()["tidy"]:
            z = row["estimate"] / row["std_error"]
            half = ndtri(0.5 + level / 2) * row["std_error"]
            assert math.isclose(row["statistic"], z, rel_tol=1e-12)
            assert math.isclose(row["p_value"], 2 * ndtr(-abs(z)), rel_tol=1e-9)
            assert math.isclose(row["odds_ratio"], math.exp(row["estimate"]), rel_tol=1e-12)
            assert close(row["conf_low"], row["estimate"] - half, row["std_error"], 1e-12)
            assert close(row["conf_high"], row["estimate"] + half, row["std_error"], 1e-12)


def test_glance_adds_up(cli, flights, flights_design, maximum_likelihood):
    _, X, y = flights_design
    n, k = X.shape
    glance = cli(*ARGUMENTS, "--format", "json").json()["glance"]
    log_likelihood = maximum_likelihood(X, y).log_likelihood
    null = n * (y.mean() * math.log(y.mean()) + (1 - y.mean()) * math.log(1 - y.mean()))
    expected = {
        "nobs": n,
        "df_model": k - 1,
        "df_resid": n - k,
        "log_likelihood": log_likelihood,
        "null_log_likelihood": null,
        "deviance": -2 * log_likelihood,
        "null_deviance": -2 * null,
        "aic": -2 * log_likelihood + 2 * k,
        "bic": -2 * log_likelihood + k * math.log(n),
        "pseudo_r2": 1 - log_likelihood / null,
    }
    for name, value in expected.items():
        assert math.isclose(glance[name], value, rel_tol=1e-10), name
    assert glance["converged"] is True
    assert glance["cov_type"] == "nonrobust"
    assert glance["newton_decrement"] <= 1e-8
    assert glance["seconds"] > 0
    assert glance["peak_rss_bytes"] > 20e6


def test_dropped_rows_count_under_each_column_and_once_in_total(cli, flights, flights_like):
    result = cli(*ARGUMENTS, "--format", "json").json()
    nulls = {name: flights_like[name].null_count for name in ("dep_delay", "carrier")}
    assert result["dropped"] == nulls
    used = flights_like.drop_null().num_rows
    assert 600 - used < sum(nulls.values()), "the table must have rows with two missing values"
    glance = result["glance"]
    assert (glance["rows_read"], glance["rows_used"]) == (600, used)
    assert glance["rows_dropped"] == 600 - used


def test_trace_has_one_line_per_pass_and_climbs(cli, flights):
    result = cli(*ARGUMENTS, "--format", "json").json()
    passes = [step["pass"] for step in result["trace"]]
    assert passes == sorted(passes)
    accepted = [step["log_likelihood"] for step in result["trace"]]
    assert accepted[-1] == pytest.approx(result["glance"]["log_likelihood"], rel=1e-9)


# Other formats


def numbers_in(line: str) -> list[float]:
    return [float(word) for word in re.findall(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?", line)]


def assert_row_shows(text: str, row: dict) -> None:
    """Estimate and standard error of the row stand in `text`, to three significant digits."""
    shown = numbers_in(text.replace("\N{MINUS SIGN}", "-"))
    for name in ("estimate", "std_error"):
        assert any(math.isclose(number, row[name], rel_tol=5e-3) for number in shown), (
            f"{name} {row[name]} of {row['term']} is not in {text!r}"
        )


def test_text_shows_every_term_with_its_numbers(cli, flights):
    run = cli(*ARGUMENTS)
    assert run.exit_code == 0
    lines = run.stdout.splitlines()
    for term, row in cli(*ARGUMENTS, "--format", "json").tidy().items():
        matching = [line for line in lines if line.strip(" │|").startswith(term + " ")]
        assert len(matching) == 1, f"{term} in\n{run.stdout}"
        assert_row_shows(matching[0].replace(term, "", 1), row)


def test_text_is_the_default_and_has_no_colours_in_a_pipe(cli, flights):
    run = cli(*ARGUMENTS)
    assert "\x1b" not in run.stdout + run.stderr

    def terms_only(text: str) -> list[str]:
        return re.findall(r"\w+\[T\.\w+\]", text)

    assert terms_only(run.stdout) == terms_only(cli(*ARGUMENTS, "--format", "text").stdout)


def test_text_tells_how_many_rows_were_used_and_dropped(cli, flights, flights_like):
    used = flights_like.drop_null().num_rows
    shown = numbers_in(cli(*ARGUMENTS).stdout)
    assert used in shown
    assert 600 - used in shown


def test_csv_is_the_tidy_table(cli, flights):
    run = cli(*ARGUMENTS, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(run.stdout)))
    assert list(rows[0]) == TIDY
    expected = cli(*ARGUMENTS, "--format", "json").tidy()
    assert [row["term"] for row in rows] == list(expected)
    for row in rows:
        for name in TIDY[1:]:
            assert float(row[name]) == expected[row["term"]][name], "CSV keeps every digit"


def test_csv_of_an_aliased_term_is_empty(cli, flights_like, parquet):
    twice = pc.multiply(flights_like["distance"], 2)
    parquet(flights_like.append_column("twice", twice))
    arguments = ("fit", "data.parquet", "-y", "late", "-x", "distance,twice")
    rows = list(csv.DictReader(io.StringIO(cli(*arguments, "--format", "csv").stdout)))
    assert [row["term"] for row in rows] == ["Intercept", "distance", "twice"]
    assert all(rows[2][name] == "" for name in TIDY[1:])


def test_markdown_is_one_table(cli, flights):
    run = cli(*ARGUMENTS, "--format", "markdown")
    table = [line for line in run.stdout.splitlines() if line.lstrip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]
    assert len({len(row) for row in cells}) == 1, "every row has as many cells as the header"
    assert all(re.fullmatch(r":?-+:?", cell) for cell in cells[1])
    body = {re.sub(r"[\\`*]", "", row[0]): row for row in cells[2:]}
    for term, row in cli(*ARGUMENTS, "--format", "json").tidy().items():
        assert_row_shows(" ".join(body[term][1:]), row)


def test_latex_is_a_balanced_tabular(cli, flights):
    run = cli(*ARGUMENTS, "--format", "latex")
    begun = re.findall(r"\\begin\{(\w+)\}", run.stdout)
    ended = re.findall(r"\\end\{(\w+)\}", run.stdout)
    assert begun == ended[::-1]
    assert begun[-1].startswith("tabular")
    assert not re.search(r"(?<!\\)[_%#]", run.stdout), "an underscore or percent is not escaped"
    lines = [line.strip() for line in run.stdout.splitlines()]
    for term, row in cli(*ARGUMENTS, "--format", "json").tidy().items():
        escaped = term.replace("_", r"\_")
        matching = [line for line in lines if re.sub(r"[{}]", "", line).startswith(escaped + " ")]
        assert len(matching) == 1, f"{escaped} in\n{run.stdout}"
        assert matching[0].endswith("\\\\")
        assert_row_shows(matching[0].replace("$", " "), row)
    ampersands = {line.count("&") for line in lines if line.endswith("\\\\") and "&" in line}
    assert len(ampersands) == 1


# The model file and exit codes


def test_output_writes_a_model_and_nothing_beside_it(cli, flights):
    run = cli(*ARGUMENTS, "--format", "json", "-o", "model.json")
    assert run.exit_code == 0
    assert run.changed == {"model.json"}
    model = streamlr.load(run.folder / "model.json")
    assert list(model.terms) == list(run.tidy())
    np.testing.assert_array_equal(
        model.params, [row["estimate"] for row in run.tidy().values()], strict=False
    )
    np.testing.assert_array_equal(model.bse, [row["std_error"] for row in run.tidy().values()])


def test_model_file_is_strict_json_and_replaces_an_older_one(cli, flights):
    (flights.parent / "model.json").write_text("yesterday's model")
    run = cli(*ARGUMENTS, "-o", "model.json")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the model file")

    text = (run.folder / "model.json").read_text()
    assert isinstance(json.loads(text, parse_constant=refuse), dict)


def test_without_output_nothing_is_written(cli, flights):
    assert cli(*ARGUMENTS).changed == frozenset()


def test_too_few_passes_is_exit_3_and_the_model_is_written(cli, flights):
    run = cli(*ARGUMENTS, "--max-passes", "1", "--format", "json", "-o", "model.json")
    run.without_traceback()
    assert run.exit_code == 3
    assert run.changed == {"model.json"}
    assert run.json()["glance"]["converged"] is False
    assert run.json()["glance"]["passes"] == 1
    run.says("1", "--max-passes")
    assert streamlr.load(run.folder / "model.json").converged is False


def test_python_warns_where_the_command_exits_with_3(flights):
    with pytest.warns(streamlr.ConvergenceWarning):
        model = streamlr.fit(flights, target="late", features=["dep_delay", "carrier"], max_passes=1)
    assert model.converged is False


# Streams


@pytest.mark.parametrize("form", ["text", "json", "csv", "markdown", "latex"])
def test_stderr_is_silent_in_a_pipe(cli, flights, form):
    run = cli(*ARGUMENTS, "--format", form, "-o", "model.json")
    assert run.exit_code == 0
    assert run.stderr == ""


def test_log_json_is_one_object_a_line_on_stderr(cli, flights):
    run = cli(*ARGUMENTS, "--format", "json", "--log-json")
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert all(isinstance(event, dict) for event in events)
    told = {event["pass"]: event for event in events if "pass" in event}
    for step in run.json()["trace"]:
        assert told[step["pass"]]["log_likelihood"] == step["log_likelihood"]


def test_log_json_tells_remarks_in_json_too(cli, flights_like, parquet):
    parquet(flights_like.append_column("note", pa.array([f"n{row}" for row in range(600)])))
    run = cli("fit", "data.parquet", "-y", "late", "--log-json")
    assert run.exit_code == 0
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert any("note" in json.dumps(event) for event in events)


@pytest.mark.parametrize("name", ["y", "target", "label", "outcome", "class"])
def test_target_left_out_is_found_and_said(cli, flights_like, parquet, name):
    names = [name, *flights_like.column_names[1:]]
    parquet(flights_like.rename_columns(names))
    guessed = cli("fit", "data.parquet", *FEATURES, "--format", "json")
    given = cli("fit", "data.parquet", "-y", name, *FEATURES, "--format", "json")
    guessed.says(name)
    assert given.stderr == ""
    assert guessed.tidy() == given.tidy()


def test_quiet_says_nothing(cli, flights_like, parquet):
    table = flights_like.rename_columns(["label", *flights_like.column_names[1:]])
    parquet(table.append_column("note", pa.array([f"n{row}" for row in range(600)])))
    run = cli("fit", "data.parquet", "--quiet", "--format", "json")
    assert run.exit_code == 0
    assert run.stderr == ""
    assert list(run.json()["excluded"]) == ["note"]


# Which columns are used


def test_every_usable_column_by_default(cli, flights, flights_like):
    tidy = cli("fit", "data.parquet", "-y", "late", "--format", "json").tidy()
    assert list(tidy) == [
        *("Intercept", "dep_delay", "distance", "month", "carrier[T.B6]", "carrier[T.DL]"),
        *("carrier[T.UA]", "origin[T.JFK]", "origin[T.LGA]", "weekend[T.True]"),
    ]


def test_unusable_columns_are_left_out_by_default_each_with_its_reason(cli, flights_like, parquet):
    left_out = {
        "nothing": pa.nulls(600, pa.float64()),
        "always": pa.array(np.full(600, 7)),
        "same_text": pa.array(["x"] * 600),
        "key": pa.array([f"row {row}" for row in range(600)]),
        "day": pa.array([date(2013, 1, 1 + row % 28) for row in range(600)]),
        "moment": pa.array([datetime(2013, 1, 1, row % 24) for row in range(600)]),
        "blob": pa.array([b"a", b"b"] * 300),
        "pair": pa.array([[1, 2]] * 600),
    }
    table = flights_like
    for name, values in left_out.items():
        table = table.append_column(name, values)
    parquet(table)
    run = cli("fit", "data.parquet", "-y", "late", "--format", "json")
    excluded = run.json()["excluded"]
    assert set(excluded) == set(left_out)
    assert all(reason.strip() for reason in excluded.values())
    run.says(*left_out)
    assert run.json()["dropped"] == {"dep_delay": 24, "carrier": 15}, "left out before rows drop"
    parquet(flights_like, "clean.parquet")
    clean = cli("fit", "clean.parquet", "-y", "late", "--format", "json")
    same_table(run.tidy(), clean.tidy(), 1e-12)


def test_integer_column_with_all_values_distinct_is_used_and_remarked_on(cli, flights_like, parquet):
    numbers = np.random.default_rng(5).permutation(600) * 7
    parquet(flights_like.append_column("serial", pa.array(numbers)))
    run = cli("fit", "data.parquet", "-y", "late", "--format", "json")
    assert run.exit_code == 0
    assert "serial" in run.tidy()
    assert "serial" not in run.json()["excluded"]
    run.says("serial")
    for other in ("distance", "month"):
        assert other not in run.stderr


def test_named_constant_is_aliased(cli, flights_like, parquet):
    parquet(flights_like.append_column("always", pa.array(np.full(600, 7))))
    run = cli("fit", "data.parquet", "-y", "late", "-x", "distance,always", "--format", "json")
    assert run.exit_code == 0
    assert run.json()["aliased"] == ["always"]
    assert run.json()["excluded"] == {}
    row = run.tidy()["always"]
    assert all(value is None for name, value in row.items() if name != "term")
    assert run.json()["glance"]["df_model"] == 1


def test_exclude(cli, flights):
    run = cli("fit", "data.parquet", "-y", "late", "--exclude", "month,carrier", "--format", "json")
    named = ("-x", "dep_delay,distance,origin,weekend", "--format", "json")
    same_table(run.tidy(), cli("fit", "data.parquet", "-y", "late", *named).tidy(), 1e-12)


def test_excluded_column_drops_no_rows(cli, flights):
    run = cli("fit", "data.parquet", "-y", "late", "--exclude", "carrier", "--format", "json")
    assert run.json()["dropped"] == {"dep_delay": 24}


def test_features_may_repeat_and_a_name_with_a_comma_wins(cli, flights_like, parquet):
    names = [{"distance": "miles, great circle"}.get(n, n) for n in flights_like.column_names]
    parquet(flights_like.rename_columns(names))
    run = cli(
        *("fit", "data.parquet", "-y", "late", "-x", "miles, great circle"),
        *("-x", "month,dep_delay", "--format", "json"),
    )
    assert list(run.tidy()) == ["Intercept", "miles, great circle", "month", "dep_delay"]


@pytest.mark.parametrize("option", ["--weights", "--offset"])
def test_weights_and_offset_are_no_features(
    cli, flights_like, parquet, flights_design, maximum_likelihood, option
):
    extra = np.random.default_rng(9).integers(1, 4, 600)
    values = extra if option == "--weights" else extra / 2
    parquet(flights_like.append_column("extra", pa.array(values)))
    run = cli(
        *("fit", "data.parquet", "-y", "late", option, "extra"),
        *("--exclude", "distance,month", "--format", "json"),
    )
    terms, X, y = flights_design
    used = np.array([None not in row.values() for row in flights_like.drop_columns(["late"]).to_pylist()])
    keyword = {"--weights": "weight", "--offset": "offset"}[option]
    expected = maximum_likelihood(X, y, **{keyword: values[used]})
    assert list(run.tidy()) == terms
    for row, coef, std_error in zip(run.tidy().values(), expected.coef, expected.std_error, strict=True):
        assert close(row["estimate"], coef, std_error)
        assert math.isclose(row["std_error"], std_error, rel_tol=1e-6)


# Levels and roles


def test_reference_level(cli, flights):
    """Against JFK: the coefficient of EWR is minus that of JFK against EWR."""
    usual = cli(*ARGUMENTS, "--format", "json").tidy()
    moved = cli(*ARGUMENTS, "--reference", "origin=JFK", "--format", "json").tidy()
    assert [t for t in moved if t.startswith("origin")] == ["origin[T.EWR]", "origin[T.LGA]"]
    jfk, lga = usual["origin[T.JFK]"], usual["origin[T.LGA]"]
    ewr = moved["origin[T.EWR]"]
    assert close(ewr["estimate"], -jfk["estimate"], jfk["std_error"])
    assert math.isclose(ewr["std_error"], jfk["std_error"], rel_tol=1e-6)
    difference = lga["estimate"] - jfk["estimate"]
    assert close(moved["origin[T.LGA]"]["estimate"], difference, lga["std_error"])
    intercept = usual["Intercept"]["estimate"] + jfk["estimate"]
    assert close(moved["Intercept"]["estimate"], intercept, usual["Intercept"]["std_error"])


TARGETS = {
    "text": (["no", "yes"], "no"),
    "bool": ([False, True], "False"),
    "0 and 1": ([0, 1], "0"),
    "-1 and 1": ([-1, 1], "-1"),
    "1 and 2": ([1, 2], "1"),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_positive_level(cli, flights, flights_like, parquet, kind):
    """The second of each pair counts as 1 unless the option says otherwise."""
    (low, high), other = TARGETS[kind]
    late = [high if value else low for value in flights_like["late"].to_pylist()]
    parquet(flights_like.set_column(0, "late", pa.array(late)), "recoded.parquet")
    expected = cli(*ARGUMENTS, "--format", "json").tidy()
    arguments = ("fit", "recoded.parquet", "-y", "late", *FEATURES, "--format", "json")
    same_table(cli(*arguments).tidy(), expected)
    turned = cli(*arguments, "--positive", other).tidy()
    for term, row in expected.items():
        assert close(turned[term]["estimate"], -row["estimate"], row["std_error"])
        assert math.isclose(turned[term]["std_error"], row["std_error"], rel_tol=1e-6)


def test_categorical_number_has_levels_in_numeric_order(cli, flights, flights_like):
    run = cli(
        *("fit", "data.parquet", "-y", "late", "-x", "dep_delay,month"),
        *("--categorical", "month", "--format", "json"),
    )
    levels = [f"C(month)[T.{month}]" for month in range(2, 13)]
    assert list(run.tidy()) == ["Intercept", "dep_delay", *levels]


def test_numeric_truth_value_is_one_column_under_its_own_name(cli, flights):
    factor = cli(*ARGUMENTS, "--format", "json").tidy()
    number = cli(*ARGUMENTS, "--numeric", "weekend", "--format", "json").tidy()
    assert "weekend[T.True]" not in number
    assert close(
        number["weekend"]["estimate"],
        factor["weekend[T.True]"]["estimate"],
        factor["weekend[T.True]"]["std_error"],
    )


def test_dictionary_column_is_a_factor(cli, flights_like, parquet):
    parquet(flights_like)
    encoded = flights_like.set_column(
        flights_like.column_names.index("carrier"),
        "carrier",
        flights_like["carrier"].dictionary_encode(),
    )
    parquet(encoded, "encoded.parquet")
    plain = cli(*ARGUMENTS, "--format", "json").tidy()
    arguments = ("fit", "encoded.parquet", "-y", "late", *FEATURES, "--format", "json")
    same_table(cli(*arguments).tidy(), plain, 1e-12)


def test_formula_is_the_same_model(cli, flights):
    formula = "late ~ dep_delay + carrier + origin + weekend"
    run = cli("fit", "data.parquet", "-f", formula, "--format", "json")
    same_table(run.tidy(), cli(*ARGUMENTS, "--format", "json").tidy(), 1e-12)


# Several files


def split_in_files(table, parquet, folder="parts"):
    for part in range(4):
        parquet(table.slice(part * 150, 150), f"{folder}/part-{part}.parquet", rows_per_group=70)


@pytest.mark.parametrize(
    "data",
    [
        ("parts",),
        ("parts/*.parquet",),
        ("parts/part-[0-3].parquet",),
        tuple(f"parts/part-{part}.parquet" for part in range(4)),
        ("parts/part-0.parquet", "parts/part-[123].parquet"),
    ],
    ids=["directory", "glob", "glob with a set", "files", "file and glob"],
)
def test_many_files_are_one_data_set(cli, flights, flights_like, parquet, data):
    split_in_files(flights_like, parquet)
    run = cli("fit", *data, "-y", "late", *FEATURES, "--format", "json")
    whole = cli(*ARGUMENTS, "--format", "json")
    same_table(run.tidy(), whole.tidy())
    assert run.json()["glance"]["rows_read"] == 600
    assert run.json()["dropped"] == whole.json()["dropped"]


def test_directory_skips_names_that_begin_with_underscore_or_dot(cli, flights, flights_like, parquet):
    split_in_files(flights_like, parquet)
    for name in ("_SUCCESS", "_metadata", ".part-0.parquet.crc", ".hidden.parquet"):
        (flights.parent / "parts" / name).write_bytes(b"not for reading")
    run = cli("fit", "parts", "-y", "late", *FEATURES, "--format", "json")
    assert run.exit_code == 0, run.stderr
    assert run.json()["glance"]["rows_read"] == 600


def test_integer_widths_of_files_are_promoted(cli, flights, flights_like, parquet):
    split_in_files(flights_like, parquet)
    wide = flights_like.slice(150, 150)
    position = wide.column_names.index("distance")
    parquet(
        wide.set_column(position, "distance", wide["distance"].cast(pa.float64())),
        "parts/part-1.parquet",
    )
    arguments = ("-y", "late", "-x", "distance,dep_delay", "--format", "json")
    run = cli("fit", "parts", *arguments)
    assert run.exit_code == 0, run.stderr
    same_table(run.tidy(), cli("fit", "data.parquet", *arguments).tidy())


def test_hive_partitions_become_columns(cli, flights, flights_like, parquet):
    """year is a number and origin a text, as the folder names have them."""
    year = pa.array(2011 + np.random.default_rng(2).integers(0, 3, 600))
    table = flights_like.append_column("year", year)
    parquet(table, "whole.parquet")
    for value in (2011, 2012, 2013):
        for origin in ("EWR", "JFK", "LGA"):
            chosen = pc.and_(pc.equal(table["year"], value), pc.equal(table["origin"], origin))
            part = table.filter(chosen).drop_columns(["year", "origin"])
            parquet(part, f"hive/year={value}/origin={origin}/part-0.parquet")
    arguments = ("-y", "late", "-x", "dep_delay,origin,year", "--format", "json")
    run = cli("fit", "hive", *arguments)
    assert run.exit_code == 0, run.stderr
    assert list(run.tidy()) == [*("Intercept", "dep_delay", "origin[T.JFK]", "origin[T.LGA]", "year")]
    same_table(run.tidy(), cli("fit", "whole.parquet", *arguments).tidy())


def test_rows_with_another_level_in_the_last_row_group_only(cli, flights_like, parquet):
    """The levels are those of every row, not of the first chunk seen."""
    origin = np.array(flights_like["origin"].to_pylist(), dtype=object)
    origin[-40:] = "SWF"
    position = flights_like.column_names.index("origin")
    parquet(flights_like.set_column(position, "origin", pa.array(origin)), rows_per_group=40)
    tidy = cli(*ARGUMENTS, "--format", "json").tidy()
    assert tidy["origin[T.SWF]"]["estimate"] is not None


def test_absorbing_a_factor_is_the_fit_with_its_dummies(cli, flights_like, parquet):
    parquet(flights_like, rows_per_group=40)
    arguments = ("fit", "data.parquet", "-y", "late", "-x", "dep_delay,weekend", "--format", "json")
    absorbed = cli(*arguments, "--absorb", "carrier")
    assert absorbed.exit_code == 0, absorbed.stderr
    assert "4 levels of 'carrier'" in absorbed.stderr
    assert list(absorbed.tidy()) == ["dep_delay", "weekend[T.True]"]
    dummies = cli(*arguments, "-x", "carrier").tidy()
    same_table(absorbed.tidy(), {term: dummies[term] for term in absorbed.tidy()})
    ridged = cli(*arguments, "--absorb", "carrier", "--absorb-l2", "0.01")
    assert list(ridged.tidy()) == ["Intercept", "dep_delay", "weekend[T.True]"]
    assert cli(*arguments, "--absorb", "carrier", "--absorb-l2", "-1").exit_code == 2
    nobody = cli(*arguments, "--absorb", "carier")
    assert nobody.exit_code == 1
    assert "did you mean" in nobody.stderr.lower()
