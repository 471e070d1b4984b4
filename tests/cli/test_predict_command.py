"""`streamlr predict`: probabilities as Parquet, in the order of the rows, null where none exists.

The model's own `predict` gives the expected values, and once the formula 1/(1 + exp(-Xb)) does,
so that both cannot be wrong together.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr

PREDICT = ("predict", "model.json", "new.parquet", "-o", "scores.parquet")


@pytest.fixture
def flights_with_id(flights_like):
    """The flights with an id that is neither sorted nor the row number."""
    return flights_like.append_column("id", pa.array(np.random.default_rng(4).permutation(600) + 1000))


@pytest.fixture
def fitted(cli, parquet, flights_like):
    """model.json in the folder: late ~ dep_delay + carrier + origin + weekend."""
    parquet(flights_like, "train.parquet")
    features = "dep_delay,carrier,origin,weekend"
    run = cli("fit", "train.parquet", "-y", "late", "-x", features, "-o", "model.json")
    assert run.exit_code == 0, run.stderr
    return streamlr.load(run.folder / "model.json")


def scores(run) -> pa.Table:
    run.without_traceback()
    assert run.exit_code == 0, run.stderr
    assert run.changed == {"scores.parquet"}
    assert run.stdout == ""
    return pq.read_table(run.folder / "scores.parquet")


def as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Values with NaN for null; a NaN in the file itself is an error."""
    values = column.to_pylist()
    assert not any(value is not None and value != value for value in values)
    return np.array([np.nan if value is None else value for value in values])


def test_scores_are_the_probabilities(cli, fitted, parquet, flights_with_id, flights_design):
    complete = flights_with_id.drop_null()
    parquet(complete, "new.parquet")
    table = scores(cli(*PREDICT))
    assert table.column_names == ["probability"]
    _, X, _ = flights_design
    expected = 1 / (1 + np.exp(-(X @ fitted.params)))
    np.testing.assert_allclose(as_numpy(table["probability"]), expected, rtol=1e-10)
    # 1e-13: blocks that end elsewhere may round the last bit of a dot product differently.
    np.testing.assert_allclose(as_numpy(table["probability"]), fitted.predict(complete), rtol=1e-13)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_of_rows_is_kept_over_many_row_groups(cli, fitted, parquet, flights_with_id, threads):
    parquet(flights_with_id, "new.parquet", rows_per_group=13)
    table = scores(cli(*PREDICT, "--keep", "id", "--threads", threads))
    assert sorted(table.column_names) == ["id", "probability"]
    assert table["id"].to_pylist() == flights_with_id["id"].to_pylist()
    assert table.schema.field("id").type == pa.int64()
    np.testing.assert_allclose(as_numpy(table["probability"]), fitted.predict(flights_with_id), rtol=1e-13)


def test_several_kept_columns_keep_types_and_nulls(cli, fitted, parquet, flights_with_id):
    parquet(flights_with_id, "new.parquet", rows_per_group=50)
    table = scores(cli(*PREDICT, "--keep", "id,month,dep_delay"))
    for name in ("id", "month", "dep_delay"):
        assert table[name].to_pylist() == flights_with_id[name].to_pylist()
        assert table.schema.field(name).type == flights_with_id.schema.field(name).type


def test_rows_that_cannot_be_scored_are_null(cli, fitted, parquet, flights_like):
    """A null number, NaN, a null text and a level never seen; the row after them is scored."""
    good = flights_like.drop_null().slice(0, 1).to_pylist()[0]
    spoilt = [
        {"dep_delay": None},
        {"dep_delay": float("nan")},
        {"carrier": None},
        {"carrier": "ZZ"},
        {"weekend": None},
        {"month": None},  # not in the model: no reason not to score
        {},
    ]
    parquet(
        pa.Table.from_pylist([good | change for change in spoilt], flights_like.schema),
        "new.parquet",
        rows_per_group=2,
    )
    probability = scores(cli(*PREDICT))["probability"].to_pylist()
    assert probability[:5] == [None] * 5
    assert probability[5] == probability[6]
    assert 0 < probability[6] < 1
    in_python = fitted.predict(pq.read_table(cli(*PREDICT).folder / "new.parquet"))
    np.testing.assert_array_equal(np.isnan(in_python), [True] * 5 + [False] * 2)


def test_target_and_unused_columns_are_not_needed(cli, fitted, parquet, flights_like):
    needed = ["weekend", "origin", "carrier", "dep_delay"]  # in another order, too
    parquet(flights_like.select(needed), "new.parquet")
    np.testing.assert_allclose(
        as_numpy(scores(cli(*PREDICT))["probability"]), fitted.predict(flights_like), rtol=1e-13
    )


def test_a_chunk_without_some_levels_is_scored_by_the_frozen_design(cli, fitted, parquet, flights_like):
    """One origin only in the new file: its code there must not become the reference level."""
    chosen = flights_like.filter(pa.array([o == "LGA" for o in flights_like["origin"].to_pylist()]))
    parquet(chosen, "new.parquet")
    everything = fitted.predict(flights_like)
    mask = np.array(flights_like["origin"].to_pylist()) == "LGA"
    np.testing.assert_allclose(as_numpy(scores(cli(*PREDICT))["probability"]), everything[mask], rtol=1e-13)


def test_files_of_a_directory_are_scored_in_sorted_order(cli, fitted, parquet, flights_with_id):
    for part in (2, 0, 1):
        parquet(flights_with_id.slice(part * 200, 200), f"new/part-{part}.parquet")
    run = cli("predict", "model.json", "new", "-o", "scores.parquet", "--keep", "id")
    assert scores(run)["id"].to_pylist() == flights_with_id["id"].to_pylist()


def test_python_writes_the_same_scores(cli, fitted, parquet, flights_with_id):
    path = parquet(flights_with_id, "new.parquet", rows_per_group=70)
    table = scores(cli(*PREDICT))
    streamlr.predict(fitted, path, path.parent / "python.parquet")
    other = pq.read_table(path.parent / "python.parquet")
    assert other["probability"].to_pylist() == table["probability"].to_pylist()


def test_level_set_aside_scores_its_limit(cli, parquet, flights_like):
    """Every row of carrier ZZ was late, of YY none: the limits are 1 and 0."""
    late = flights_like["late"].to_numpy()
    carrier = np.array(flights_like["carrier"].to_pylist(), dtype=object)
    carrier[np.flatnonzero(late == 1)[:20]] = "ZZ"
    carrier[np.flatnonzero(late == 0)[:20]] = "YY"
    position = flights_like.column_names.index("carrier")
    table = flights_like.set_column(position, "carrier", pa.array(carrier))
    parquet(table, "train.parquet")
    run = cli("fit", "train.parquet", "-y", "late", "-x", "distance,carrier", "-o", "model.json")
    assert run.exit_code == 0, run.stderr
    parquet(table, "new.parquet", rows_per_group=55)
    probability = as_numpy(scores(cli(*PREDICT))["probability"])
    assert set(probability[carrier == "ZZ"]) == {1.0}
    assert set(probability[carrier == "YY"]) == {0.0}
    others = probability[(carrier == "AA") | (carrier == "UA")]
    assert ((others > 0) & (others < 1)).all()


# What can be wrong


def test_column_of_the_model_missing_from_the_data(cli, fitted, parquet, flights_like):
    renamed = ["delay_dep" if n == "dep_delay" else n for n in flights_like.column_names]
    parquet(flights_like.rename_columns(renamed), "new.parquet")
    cli(*PREDICT).refused("dep_delay", "new.parquet")


def test_column_of_another_type(cli, fitted, parquet, flights_like):
    position = flights_like.column_names.index("dep_delay")
    text = pa.array(["early", "late"] * 300)
    parquet(flights_like.set_column(position, "dep_delay", text), "new.parquet")
    cli(*PREDICT).refused("dep_delay")


def test_unknown_kept_column(cli, fitted, parquet, flights_with_id):
    parquet(flights_with_id, "new.parquet")
    cli(*PREDICT, "--keep", "mnth").refused("mnth", "month")


def test_no_such_model(cli, parquet, flights_like):
    parquet(flights_like, "new.parquet")
    cli(*PREDICT).refused("model.json")


@pytest.mark.parametrize("content", ["", "not JSON", "{}", "[1, 2]", '{"format": '])
def test_file_that_is_no_model(cli, parquet, flights_like, tmp_path, content):
    parquet(flights_like, "new.parquet")
    (tmp_path / "model.json").write_text(content)
    cli(*PREDICT).refused("model.json")


def test_damaged_data_leaves_no_half_written_scores(cli, fitted, parquet, flights_like):
    parquet(flights_like.slice(0, 300), "new/part-0.parquet")
    damaged = parquet(flights_like.slice(300), "new/part-1.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    cli("predict", "model.json", "new", "-o", "scores.parquet").refused("part-1.parquet")


def test_output_folder_that_does_not_exist(cli, fitted, parquet, flights_like):
    parquet(flights_like, "new.parquet")
    cli("predict", "model.json", "new.parquet", "-o", "absent/scores.parquet").refused("absent")


def test_no_data_is_misuse(cli, fitted):
    cli("predict", "model.json", "-o", "scores.parquet").misused("DATA")
