"""Sums of marginal effects against whole matrices: predictions, slopes, and derivatives of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import naive
import numpy as np
import pyarrow as pa
import pytest

import streamlr
from streamlr.design.encoding import Encoder, Tally
from streamlr.passes.effects_task import Averages, AveragesTask, EffectsTask, EffectSums, Setting

# `big` is far from zero, so that its square is conditioned by taking it out.
FORMULA = "late ~ big + I(big**2) + dep_delay * carrier + bs(month, df=4) + origin:big + flag:log(distance)"
N = 400


@dataclass(frozen=True)
class TablePart:
    """A part of a source, in memory."""

    table: pa.Table

    @property
    def rows(self) -> int:
        return len(self.table)

    def read(self, columns: Sequence[str], coded: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.table.select(list(columns)).combine_chunks().to_batches(max_chunksize=batch_rows)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rng = np.random.default_rng(8)
    month = rng.integers(1, 13, N)
    return pa.table(
        {
            "late": rng.integers(0, 2, N),
            "big": 1000.0 + rng.normal(size=N),
            "dep_delay": pa.array(rng.normal(5, 20, N), mask=rng.random(N) < 0.05),
            "carrier": rng.choice(["AA", "B6", "DL"], N),
            "origin": rng.choice(["EWR", "JFK", "LGA"], N),
            "flag": rng.random(N) < 0.5,
            "month": month.astype(float) + rng.uniform(0, 0.1, N),
            "distance": rng.integers(100, 2000, N),
            "w": rng.integers(0, 4, N),
            "shift": rng.normal(0, 0.2, N),
        }
    )


@pytest.fixture(scope="module")
def model(table) -> streamlr.Model:
    found = streamlr.fit(table, FORMULA, weights="w", offset="shift")
    assert found.basis.reduced, "no column has others taken out of it"
    assert found.design.layout.scaled == 3
    return found


@dataclass(frozen=True)
class Twin:
    """The design as matrices (n, slots)."""

    model: streamlr.Model
    rows: pa.Table  # used rows

    def matrix(self, **changed: Any) -> np.ndarray:
        table = self.rows
        for name, values in changed.items():
            type_ = pa.float64() if table[name].type == pa.int64() else table[name].type
            values = pa.array(np.broadcast_to(values, len(table)).tolist(), type_)
            table = table.set_column(table.column_names.index(name), name, values)
        design = self.model.design
        (batch,) = table.select(list(design.columns)).combine_chunks().to_batches()
        block = Encoder(design).encode(batch, Tally())
        return naive.design_matrix(block, self.model.basis.conditioning(), design.layout.slots)

    def slope(self, name: str) -> np.ndarray:
        x = self.rows[name].to_numpy().astype(float)
        h = 1e-3 * x.std()
        moved = {times: self.matrix(**{name: x + times * h}) for times in (1, -1, 2, -2)}
        return (8 * (moved[1] - moved[-1]) - (moved[2] - moved[-2])) / (12 * h)


def task_of(model, slopes=(), settings=(), fixed=()) -> EffectsTask:
    return EffectsTask(model.design, model.basis, None, model.coef_of_basis, slopes, settings, fixed)


@pytest.mark.parametrize("fixed", [{}, {"dep_delay": -7.5, "origin": "LGA"}])
def test_sums_are_those_of_whole_matrices(model, table, fixed, monkeypatch):
    monkeypatch.setattr(type(model.design), "batch_rows", 64)
    slopes = ("big", "dep_delay", "month", "distance")
    levels = {"carrier": ("AA", "B6", "DL"), "flag": (False, True), "origin": ("EWR", "JFK", "LGA")}
    kinds = {"flag": "logical"}
    settings = tuple(
        Setting(name, value, kinds.get(name, "text")) for name, values in levels.items() for value in values
    )
    holding = tuple(
        Setting(name, value, "text" if isinstance(value, str) else "number") for name, value in fixed.items()
    )
    sums = task_of(model, slopes, settings, holding)([TablePart(table)])

    used = table.filter(pa.array(~np.isnan(table["dep_delay"].to_numpy())))
    assert (sums.tally.rows_read, sums.tally.rows_used) == (N, len(used))
    weight = used["w"].to_numpy()
    assert sums.weight == weight.sum()
    assert not sums.lost.any()

    layout = model.design.layout
    coef = layout.to_slots(model.coef_of_basis)
    columns = layout.slot_of_column
    twin = Twin(model, used)
    offset = used["shift"].to_numpy()
    for name, value in fixed.items():
        held = pa.array([value] * len(used))
        twin = Twin(model, twin.rows.set_column(used.column_names.index(name), name, held))
    X = twin.matrix()
    p = 1 / (1 + np.exp(-(X @ coef + offset)))
    for place, name in enumerate(slopes):
        if name in fixed:
            near = {times: twin.matrix(**{name: fixed[name] + times * 0.5}) for times in (1, -1)}
            slope = near[1] - near[-1]  # it is linear in the column
        else:
            slope = twin.slope(name)
        density = weight * p * (1 - p)
        gradient = density @ slope + (density * (1 - 2 * p) * (slope @ coef)) @ X
        # The twin's differences have ten digits, and across a knot of a spline, where its third derivative
        # jumps, eight. Some coefficients move a slope by nothing but rounding.
        assert sums.values[place] == pytest.approx(density @ (slope @ coef), rel=1e-7, abs=0), name
        scale = np.abs(gradient[columns]).max()
        np.testing.assert_allclose(
            sums.gradients[place, columns], gradient[columns], rtol=1e-7, atol=1e-9 * scale, err_msg=name
        )
    for place, setting in enumerate(settings, start=len(slopes)):
        X = twin.matrix(**{setting.column: setting.value})
        p = 1 / (1 + np.exp(-(X @ coef + offset)))
        gradient = (weight * p * (1 - p)) @ X
        assert sums.values[place] == pytest.approx(weight @ p, rel=1e-12, abs=0), setting
        scale = np.abs(gradient[columns]).max()
        np.testing.assert_allclose(
            sums.gradients[place, columns], gradient[columns], rtol=1e-10, atol=1e-13 * scale
        )


def test_merging_halves_is_the_whole(model, table):
    task = task_of(model, ("big", "month"), (Setting("carrier", "B6", "text"),))
    whole = task([TablePart(table)])
    halves = task([TablePart(table.slice(0, 150))]).merge(task([TablePart(table.slice(150))]))
    two_parts = task([TablePart(table.slice(0, 150)), TablePart(table.slice(150))])
    for sums in (halves, two_parts):
        np.testing.assert_allclose(sums.values, whole.values, rtol=1e-12)
        scale = np.abs(whole.gradients).max()
        np.testing.assert_allclose(sums.gradients, whole.gradients, rtol=1e-11, atol=1e-13 * scale)
        assert sums.weight == whole.weight
        assert sums.tally.rows_used == whole.tally.rows_used


def test_rows_in_which_something_does_not_exist_are_counted(model, table):
    """Rows of weight zero are not; other batches, and columns held at a value, are as they were."""
    distance, weight, delay = (table[name].to_pylist() for name in ("distance", "w", "dep_delay"))
    distance[:3], weight[:3], delay[:3] = [0, 0, 0], [1, 0, 2], [1.0, 1.0, 1.0]
    broken = pa.table({**{name: table[name] for name in table.column_names}, "distance": distance})
    broken = pa.table(
        {**{name: broken[name] for name in broken.column_names}, "w": weight, "dep_delay": delay}
    )
    settings = (
        Setting("carrier", "B6", "text"),
        Setting("distance", 500, "number"),
        Setting("distance", 0, "number"),
    )
    parts = [TablePart(broken.slice(0, 200)), TablePart(broken.slice(200))]
    sums = task_of(model, ("dep_delay", "distance"), settings)(parts)
    used = np.count_nonzero((broken["w"].to_numpy() > 0) & ~np.isnan(broken["dep_delay"].to_numpy()))
    assert sums.lost.tolist() == [2, 2, 2, 0, used]
    task = task_of(model, ("dep_delay", "distance"), settings)
    assert task(parts[:1]).merge(task(parts[1:])).lost.tolist() == sums.lost.tolist()
    rest = task_of(model, ("dep_delay", "distance"), settings[:1])(parts[1:])
    np.testing.assert_array_equal(sums.values[:3], rest.values)
    np.testing.assert_array_equal(sums.gradients[:3], rest.gradients)
    held = task_of(model, ("dep_delay", "distance"), (), (Setting("distance", 500, "number"),))(parts)
    assert held.lost.tolist() == [0, 0]


def test_averages(model, table):
    task = AveragesTask(model.design, model.basis, None, ("dep_delay", "distance"))
    assert task.cells == 2
    found = task([TablePart(table.slice(0, 99))]).merge(task([TablePart(table.slice(99))]))
    used = table.filter(pa.array(~np.isnan(table["dep_delay"].to_numpy())))
    weight = used["w"].to_numpy()
    assert found.weight == weight.sum()
    expected = [weight @ used[name].to_numpy() for name in ("dep_delay", "distance")]
    np.testing.assert_allclose(found.sums, expected, rtol=1e-12)


def test_sizes(model):
    task = task_of(model, ("big",), (Setting("carrier", "B6", "text"), Setting("carrier", "DL", "text")))
    assert task.cells == 3 * model.design.layout.slots
    zeros = EffectSums.zeros(3, 5)
    assert (zeros.values.shape, zeros.gradients.shape, zeros.lost.shape) == ((3,), (3, 5), (3,))
    assert Averages(np.zeros(2)).weight == 0.0


@pytest.mark.parametrize(
    ("setting", "type_", "values"),
    [
        (Setting("x", 2.5, "number"), pa.float64(), [2.5, 2.5]),
        (Setting("x", 2, "number"), pa.int64(), [2, 2]),
        (Setting("x", True, "logical"), pa.bool_(), [True, True]),
        (Setting("x", "ü", "text"), None, ["ü", "ü"]),
        (Setting("x", None, "number"), pa.float64(), [None, None]),
        (Setting("x", None, "text"), pa.string(), [None, None]),
        (Setting("x", None, "logical"), pa.bool_(), [None, None]),
    ],
)
def test_a_column_at_a_value(setting, type_, values):
    array = setting.array(2)
    assert array.to_pylist() == values
    assert type_ is None or array.type == type_
