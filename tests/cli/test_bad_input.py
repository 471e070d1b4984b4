"""What happens when the input is wrong: one message that names it, exit 1, and nothing left behind.

Every case spoils one thing in an otherwise clean table and runs the program as a user would.
`Run.refused` holds the contract that all of them share; a test adds the names and the counts that
must stand in the message. The wording is free. Misused options are exit 2, separation exit 4.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import streamlr

TO_MODEL = ("-y", "late", "-o", "out.json")


# Files


def test_no_such_file(cli):
    cli("fit", "absent.parquet", *TO_MODEL).refused("absent.parquet")


def test_text_file_named_parquet(cli, tmp_path):
    (tmp_path / "notes.parquet").write_text("late,age\n0,31\n1,47\n" * 50)
    cli("fit", "notes.parquet", *TO_MODEL).refused("notes.parquet")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_file(cli, parquet, people, kept):
    path = parquet(people, "cut.parquet")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    cli("fit", "cut.parquet", *TO_MODEL).refused("cut.parquet")


def test_empty_file(cli, tmp_path):
    (tmp_path / "nothing.parquet").write_bytes(b"")
    cli("fit", "nothing.parquet", *TO_MODEL).refused("nothing.parquet")


def test_bad_file_among_good_ones_is_named(cli, parquet, people, tmp_path):
    for part in range(3):
        parquet(people.slice(part * 100, 100), f"parts/part-{part}.parquet")
    (tmp_path / "parts" / "part-1.parquet").write_bytes(b"PAR1, but no more than that")
    run = cli("fit", "parts", *TO_MODEL)
    run.refused("part-1.parquet")
    assert "part-0.parquet" not in run.message
    assert "part-2.parquet" not in run.message


def test_corrupt_page_is_told_with_its_file_and_row_group(cli, parquet, people):
    """Bytes change in one data page; the file carries checksums, so nobody has to guess."""
    path = parquet(
        people,
        "flipped.parquet",
        rows_per_group=50,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    age = pq.read_metadata(path).row_group(3).column(people.column_names.index("age"))
    spoilt = bytearray(path.read_bytes())
    middle = age.data_page_offset + age.total_compressed_size // 2
    for position in range(middle, middle + 8):
        spoilt[position] ^= 0xFF
    path.write_bytes(spoilt)
    run = cli("fit", "flipped.parquet", "-x", "age", *TO_MODEL)
    run.refused("flipped.parquet", "row group")


def test_zero_rows(cli, parquet, people):
    parquet(people.slice(0, 0), "hollow.parquet")
    cli("fit", "hollow.parquet", *TO_MODEL).refused("hollow.parquet")


def test_empty_directory(cli, tmp_path):
    (tmp_path / "folder_of_none").mkdir()
    cli("fit", "folder_of_none", *TO_MODEL).refused("folder_of_none")


def test_directory_of_skipped_names_only(cli, parquet, people):
    parquet(people, "hidden/_part.parquet")
    parquet(people, "hidden/.part.parquet")
    cli("fit", "hidden", *TO_MODEL).refused("hidden")


def test_glob_without_a_match(cli, parquet, people):
    parquet(people, "part-0.parquet")
    cli("fit", "missing-*.parquet", *TO_MODEL).refused("missing-*.parquet")


@pytest.mark.parametrize("other", [pa.string(), pa.list_(pa.float64()), pa.timestamp("us")], ids=str)
def test_column_of_incompatible_types_names_both_files(cli, parquet, people, spoil, other):
    values = {
        pa.string(): ["young"] * 347,
        pa.list_(pa.float64()): [[1.0]] * 347,
        pa.timestamp("us"): [datetime(2024, 1, 1)] * 347,
    }[other]
    parquet(people, "parts/part-0.parquet")
    parquet(spoil(people, "age", pa.array(values, other)), "parts/part-1.parquet")
    cli("fit", "parts", *TO_MODEL).refused("age", "part-0.parquet", "part-1.parquet")


def test_column_missing_from_one_file_names_it(cli, parquet, people):
    parquet(people, "parts/part-0.parquet")
    parquet(people.drop_columns(["age"]), "parts/part-1.parquet")
    cli("fit", "parts", "-x", "age,income", *TO_MODEL).refused("age", "part-1.parquet")


def test_duplicate_column_names(cli, parquet, people):
    twice = pa.Table.from_arrays(
        [people["late"], people["age"], people["income"], people["age"]],
        names=["late", "age", "income", "age"],
    )
    parquet(twice)
    cli("fit", "data.parquet", *TO_MODEL).refused("age")


# The target


def test_target_missing_with_a_near_name(cli, parquet, people):
    parquet(people)
    run = cli("fit", "data.parquet", "-y", "lates", "-o", "out.json")
    run.refused("lates", "late", "data.parquet", "Did you mean")


def test_target_missing_without_a_near_name(cli, parquet, people):
    parquet(people)
    run = cli("fit", "data.parquet", "-y", "zzqqxx", "-o", "out.json")
    run.refused("zzqqxx", "data.parquet")
    assert "Did you mean" not in run.message


@pytest.mark.parametrize("value", [0, 1, "yes", True], ids=repr)
def test_target_with_one_value(cli, parquet, people, spoil, value):
    parquet(spoil(people, "late", pa.array([value] * 347)))
    cli("fit", "data.parquet", *TO_MODEL).refused("late", str(value))


def test_target_with_one_value_left_after_missing_rows(cli, parquet, people, spoil):
    late = people["late"].to_numpy()
    age = pa.array(people["age"].to_numpy(), mask=late == 1)
    parquet(spoil(people, "age", age))
    cli("fit", "data.parquet", "-x", "age", *TO_MODEL).refused("late")


@pytest.mark.parametrize(
    ("values", "listed"),
    [([0, 1, 2], "0, 1, 2"), ([0.5, 1.5, 10.0], "0.5, 1.5, 10"), (["b", "a", "c"], "a, b, c")],
    ids=str,
)
def test_target_with_three_values_lists_them(cli, parquet, people, spoil, values, listed):
    target = pa.array([values[row % 3] for row in range(347)])
    parquet(spoil(people, "late", target))
    run = cli("fit", "data.parquet", *TO_MODEL)
    run.refused("late", 3)
    assert listed in run.message.replace("'", "").replace("10.0", "10")


def test_target_with_hundreds_of_values_does_not_list_them_all(cli, parquet, people):
    parquet(people)
    run = cli("fit", "data.parquet", "-y", "income", "-o", "out.json")
    run.refused("income")
    assert len(run.message) < 500


@pytest.mark.parametrize("kind", [pa.int8(), pa.string(), pa.bool_(), pa.null()], ids=str)
def test_target_all_null(cli, parquet, people, spoil, kind):
    parquet(spoil(people, "late", pa.nulls(347, kind)))
    cli("fit", "data.parquet", *TO_MODEL).refused("late")


def test_target_not_given_and_none_fits_lists_candidates(cli, parquet, people):
    table = people.rename_columns(["defaulted", "age", "income", "group", "exposure"])
    table = table.append_column("churned", pa.array([row % 3 == 0 for row in range(347)]))
    parquet(table)
    run = cli("fit", "data.parquet", "-o", "out.json")
    run.refused("defaulted", "churned")
    assert "--target" in run.message or "-y" in run.message


def test_target_not_given_and_several_fit(cli, parquet, people):
    table = people.rename_columns(["y", "age", "income", "group", "exposure"])
    parquet(table.append_column("label", table["y"]))
    cli("fit", "data.parquet", "-o", "out.json").refused("y", "label")


# Features


UNUSABLE = {
    "all null": pa.nulls(347, pa.float64()),
    "null type": pa.nulls(347),
    "date": pa.array([date(2024, 1, 1 + row % 28) for row in range(347)]),
    "timestamp": pa.array([datetime(2024, 1, 1 + row % 28) for row in range(347)]),
    "time": pa.array([time(row % 24) for row in range(347)]),
    "binary": pa.array([b"%d" % (row % 4) for row in range(347)]),
    "list": pa.array([[1.0, float(row % 4)] for row in range(347)]),
    "struct": pa.array([{"part": row % 4} for row in range(347)]),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_named_column_that_cannot_be_used(cli, parquet, people, spoil, kind):
    parquet(spoil(people, "visited", UNUSABLE[kind]))
    cli("fit", "data.parquet", "-x", "age,visited", *TO_MODEL).refused("visited")


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unnamed_column_that_cannot_be_used_is_left_out(cli, parquet, people, spoil, kind):
    parquet(spoil(people, "visited", UNUSABLE[kind]))
    run = cli("fit", "data.parquet", *TO_MODEL, "--format", "json")
    assert run.exit_code == 0, run.stderr
    assert list(run.json()["excluded"]) == ["visited"]
    assert run.json()["excluded"]["visited"].strip()
    run.says("visited")
    assert not any("visited" in term for term in run.tidy())
    assert run.changed == {"out.json"}


def with_customer(people: pa.Table) -> pa.Table:
    return people.append_column("customer", pa.array([f"C{row:05d}" for row in range(347)]))


def test_named_text_column_with_a_level_per_row(cli, parquet, people):
    parquet(with_customer(people))
    cli("fit", "data.parquet", "-x", "age,customer", *TO_MODEL).refused("customer", 347)


def test_unnamed_text_column_with_a_level_per_row_is_left_out(cli, parquet, people):
    parquet(with_customer(people))
    run = cli("fit", "data.parquet", *TO_MODEL, "--format", "json")
    assert run.exit_code == 0, run.stderr
    assert list(run.json()["excluded"]) == ["customer"]
    assert run.json()["excluded"]["customer"].strip()
    run.says("customer")
    assert not any("customer" in term for term in run.tidy())
    assert {"age", "income", "group[T.south]"} <= set(run.tidy())


@pytest.mark.parametrize("features", [("-x", "age,income"), ()], ids=["named", "by default"])
def test_infinities_are_counted(cli, parquet, people, spoil, features):
    values = [float("inf")] * 8 + [float("-inf")] * 5
    parquet(spoil(people, "income", values, rows=13), rows_per_group=6)
    cli("fit", "data.parquet", *features, *TO_MODEL).refused("income", 13)


def test_infinities_in_a_column_that_is_not_used_do_no_harm(cli, parquet, people, spoil):
    parquet(spoil(people, "income", float("inf"), rows=13))
    run = cli("fit", "data.parquet", "-x", "age", *TO_MODEL)
    assert run.exit_code == 0, run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-x", "age,incom"),
        ("--exclude", "incom"),
        ("--weights", "incom"),
        ("--offset", "incom"),
        ("--trials", "incom"),
        ("--categorical", "incom"),
        ("--numeric", "incom"),
        ("--reference", "incom=3"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unknown_column_is_named_with_a_suggestion(cli, parquet, people, arguments):
    parquet(people)
    run = cli("fit", "data.parquet", *arguments, *TO_MODEL)
    run.refused("incom", "Did you mean", "income")


@pytest.mark.parametrize("formula", ["late ~ age + incom", "lates ~ age", "late ~ C(incom)"])
def test_unknown_column_in_a_formula(cli, parquet, people, formula):
    parquet(people)
    run = cli("fit", "data.parquet", "-f", formula, "-o", "out.json")
    wrong, right = ("incom", "income") if "incom" in formula else ("lates", "late")
    run.refused(wrong, "Did you mean", right)


@pytest.mark.parametrize("option", ["--reference", "--positive"])
def test_unknown_level(cli, parquet, people, spoil, option):
    parquet(spoil(people, "late", pa.array(["no", "yes"] * 173 + ["no"])))
    value = "group=souht" if option == "--reference" else "maybe"
    expected = ("group", "souht", "south") if option == "--reference" else ("late", "maybe")
    cli("fit", "data.parquet", option, value, *TO_MODEL).refused(*expected)


# Rows


def test_no_rows_left_after_missing_values(cli, parquet, people):
    rows = np.arange(347)
    table = people.set_column(1, "age", pa.array(people["age"].to_numpy(), mask=rows < 200))
    table = table.set_column(2, "income", pa.array(people["income"].to_numpy(), mask=rows >= 200))
    parquet(table)
    cli("fit", "data.parquet", "-x", "age,income", *TO_MODEL).refused(347, "age", "income")


@pytest.mark.parametrize("hole", [None, float("nan")], ids=["null", "NaN"])
def test_missing_values_under_missing_error(cli, parquet, people, spoil, hole):
    parquet(spoil(people, "income", hole, rows=19), rows_per_group=7)
    run = cli("fit", "data.parquet", "-x", "age,income", "--missing", "error", *TO_MODEL)
    run.refused("income", 19)


# Weights, offset, trials


@pytest.mark.parametrize("weight_type", ["frequency", "analytic"])
@pytest.mark.parametrize(("value", "rows"), [(float("nan"), 17), (-1.0, 9), (float("inf"), 11)], ids=str)
def test_impossible_weights(cli, parquet, people, spoil, weight_type, value, rows):
    parquet(spoil(people, "exposure", value, rows=rows))
    options = ("-x", "age", "--weights", "exposure", "--weight-type", weight_type)
    cli("fit", "data.parquet", *options, *TO_MODEL).refused("exposure", rows)


def test_fractional_frequency_weights_name_the_other_kinds(cli, parquet, people, spoil):
    parquet(spoil(people, "exposure", 0.25, rows=21))
    options = ("-x", "age", "--weights", "exposure")
    cli("fit", "data.parquet", *options, *TO_MODEL).refused("exposure", "analytic")


def test_weights_that_are_all_zero(cli, parquet, people, spoil):
    parquet(spoil(people, "exposure", pa.array(np.zeros(347))))
    options = ("-x", "age", "--weights", "exposure")
    cli("fit", "data.parquet", *options, *TO_MODEL).refused("exposure")


@pytest.mark.parametrize("option", ["--weights", "--offset", "--trials"])
def test_text_where_a_number_is_needed(cli, parquet, people, option):
    parquet(people)
    cli("fit", "data.parquet", "-x", "age", option, "group", *TO_MODEL).refused("group")


def test_infinite_offset(cli, parquet, people, spoil):
    parquet(spoil(people, "exposure", float("-inf"), rows=13))
    options = ("-x", "age", "--offset", "exposure")
    cli("fit", "data.parquet", *options, *TO_MODEL).refused("exposure", 13)


def test_fewer_trials_than_successes(cli, parquet, people, spoil):
    table = people.append_column("shots", pa.array(np.full(347, 10)))
    table = spoil(table, "late", pa.array(np.arange(347) % 11))
    parquet(spoil(table, "late", 12, rows=23))
    run = cli("fit", "data.parquet", "-x", "age", "--trials", "shots", *TO_MODEL)
    run.refused("late", "shots", 23)


def test_negative_successes(cli, parquet, people, spoil):
    table = people.append_column("shots", pa.array(np.full(347, 10)))
    table = spoil(table, "late", pa.array(np.arange(347) % 11))
    parquet(spoil(table, "late", -1, rows=23))
    run = cli("fit", "data.parquet", "-x", "age", "--trials", "shots", *TO_MODEL)
    run.refused("late", 23)


# Where the model goes


@pytest.mark.parametrize("output", ["absent/out.json", "data.parquet/out.json", "folder"])
def test_output_that_cannot_be_written_is_told_before_the_fit(cli, parquet, people, spoil, tmp_path, output):
    """The data has an error of its own, found in the first pass; the output's comes first."""
    (tmp_path / "folder").mkdir()
    parquet(spoil(people, "late", pa.array(np.arange(347) % 3)))
    run = cli("fit", "data.parquet", "-y", "late", "-o", output)
    run.refused(output.removesuffix("/out.json"))
    assert "0, 1, 2" not in run.message


@pytest.mark.parametrize("spoilt", ["late", "age"])
def test_a_failed_fit_leaves_an_older_model_alone(cli, parquet, people, spoil, tmp_path, spoilt):
    (tmp_path / "out.json").write_text("yesterday's model")
    parquet(spoil(people, spoilt, pa.nulls(347, pa.int8())))
    cli("fit", "data.parquet", "-x", "age", *TO_MODEL).refused(spoilt)
    assert (tmp_path / "out.json").read_text() == "yesterday's model"


# Misuse is exit 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bogus",),
        ("--format", "xyz"),
        ("--threads", "0"),
        ("--threads", "two"),
        ("--conf-level", "2"),
        ("--conf-level", "0"),
        ("--missing", "sometimes"),
        ("--weight-type", "heavy"),
        ("--separation", "ignore"),
        ("--max-passes", "0"),
        ("--tol", "-1"),
        ("--memory", "much"),
        ("--reference", "group"),
    ],
    ids=" ".join,
)
def test_misused_option(cli, parquet, people, arguments):
    parquet(people)
    run = cli("fit", "data.parquet", *TO_MODEL, *arguments)
    run.misused(arguments[0])


def test_no_data_is_misuse(cli):
    cli("fit", *TO_MODEL).misused("DATA")


def test_unknown_command_is_misuse(cli):
    cli("fti", "data.parquet").misused("fti")


# Separation is exit 4


def assert_separated(run, *terms: str) -> None:
    run.without_traceback()
    assert run.exit_code == 4, run.stderr
    assert run.changed == frozenset()
    printed = run.stdout + run.stderr
    for term in terms:
        assert term in printed


def test_complete_separation_names_the_term(cli, parquet, people):
    late = people["late"].to_numpy()
    rng = np.random.default_rng(3)
    score = np.where(late == 1, 1.0, -1.0) * rng.uniform(0.5, 2.0, 347)
    parquet(people.append_column("telltale", pa.array(score)))
    assert_separated(cli("fit", "data.parquet", "-x", "telltale,age", *TO_MODEL), "telltale")


def with_sure_sign(people: pa.Table) -> pa.Table:
    """sure: a number, 1 in 40 rows, all of them late; everything else overlaps."""
    late = people["late"].to_numpy()
    sure = np.zeros(347)
    sure[np.flatnonzero(late == 1)[:40]] = 1.0
    return people.append_column("sure", pa.array(sure))


def test_quasi_complete_separation_names_the_guilty_term_only(cli, parquet, people):
    """The direction is unique here: sure alone runs away, upwards; age and income stay."""
    path = parquet(with_sure_sign(people))
    run = cli("fit", "data.parquet", "-x", "sure,age,income", *TO_MODEL)
    assert_separated(run, "sure")
    assert "quasi" in (run.stdout + run.stderr).lower()

    with pytest.raises(streamlr.SeparationError) as caught:
        streamlr.fit(path, target="late", features=["sure", "age", "income"])
    finding = caught.value.separation
    assert finding["kind"] == "quasi-complete"
    (term,) = finding["terms"]
    assert (term["term"], term["direction"], term["sign_fixed"]) == ("sure", 1, True)
    assert finding["rows_separated"] == 40
    assert finding["rows_overlapping"] == 307


def with_sure_level(people: pa.Table) -> pa.Table:
    """group gets a level 'arctic' on 30 rows, all of them late."""
    group = np.array(people["group"].to_pylist(), dtype=object)
    group[np.flatnonzero(people["late"].to_numpy() == 1)[:30]] = "arctic"
    return people.set_column(people.column_names.index("group"), "group", pa.array(group))


def test_level_with_one_outcome_under_separation_error(cli, parquet, people):
    parquet(with_sure_level(people))
    options = ("-x", "age,group", "--separation", "error", "--reference", "group=north")
    assert_separated(cli("fit", "data.parquet", *options, *TO_MODEL), "group[T.arctic]")


def test_level_with_one_outcome_is_set_aside_by_default(cli, parquet, people):
    """The rest is the fit without those rows; the level is listed, without a made-up estimate."""
    table = with_sure_level(people)
    parquet(table)
    parquet(table.filter(pc.not_equal(table["group"], "arctic")), "rest.parquet")
    options = ("-x", "age,group", "--reference", "group=north", *TO_MODEL, "--format", "json")
    run = cli("fit", "data.parquet", *options)
    rest = cli("fit", "rest.parquet", *options)
    assert run.exit_code == 0, run.stderr
    run.says("arctic")
    aside = run.tidy().pop("group[T.arctic]")
    assert all(value is None for key, value in aside.items() if key != "term")
    assert run.json()["glance"]["rows_used"] == 317
    for term, row in rest.tidy().items():
        close = 1e-7 * max(abs(row["estimate"]), row["std_error"])
        assert abs(run.tidy()[term]["estimate"] - row["estimate"]) <= close


# Size


LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, file=open("usage.txt", "w"))
"""


def peak_rss_of(folder: Path, *arguments: str) -> tuple[int, int]:
    """Exit code and peak resident bytes of one run of the program in `folder`.

    A process inherits its parent's peak at exec, and this one has pyarrow and numba in it; a bare
    interpreter in between, with no package loaded, keeps that out of the measurement.
    """
    program = "from streamlr.cli import main; main()"
    with open(folder / "stdout.txt", "w") as out, open(folder / "stderr.txt", "w") as err:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, sys.executable, "-c", program, *arguments],
            cwd=folder,
            stdout=out,
            stderr=err,
            check=True,
            timeout=600,
        )
    exit_code, kilobytes = (folder / "usage.txt").read_text().split()
    return int(exit_code), int(kilobytes) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_five_million_levels_are_left_out_without_holding_them(tmp_path: Path) -> None:
    """5 M rows, each with a text of its own: 5 M levels would be 500 MB before any arithmetic."""
    rng = np.random.default_rng(11)
    chunk = 250_000
    writer: pq.ParquetWriter | None = None
    for start in range(0, 5_000_000, chunk):
        x = rng.normal(size=chunk)
        late = rng.random(chunk) < 1 / (1 + np.exp(-0.5 * x))
        number = pc.cast(pa.array(np.arange(start, start + chunk)), pa.string())
        text = pc.binary_join_element_wise("customer-number", number, "-")
        table = pa.table({"late": late.astype(np.int8), "x": x, "customer": text})
        if writer is None:
            writer = pq.ParquetWriter(tmp_path / "large.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()

    exit_code, peak = peak_rss_of(
        tmp_path, "fit", "large.parquet", "-y", "late", "--format", "json", "-o", "out.json"
    )
    remarks = (tmp_path / "stderr.txt").read_text()
    assert exit_code == 0, remarks
    result = json.loads((tmp_path / "stdout.txt").read_text())
    assert list(result["excluded"]) == ["customer"]
    assert "customer" in remarks
    assert [row["term"] for row in result["tidy"]] == ["Intercept", "x"]
    assert result["glance"]["rows_used"] == 5_000_000
    assert peak < 700e6, f"{peak / 1e6:.0f} MB"


def test_peak_of_a_subprocess_is_its_own(tmp_path: Path) -> None:
    """The measurement itself: memory held here must not count there."""
    ballast = np.ones(60_000_000)  # 480 MB in this process
    exit_code, peak = peak_rss_of(tmp_path, "--help")
    assert ballast.sum() == 60_000_000
    assert exit_code == 0
    assert peak < 300e6
