"""Invariances of the whole fit, as properties: what must not change the answer does not.

A model is a sum over rows, so it cannot depend on how the rows are cut, ordered or counted out to
threads. Data are drawn by their seed, with weak effects and enough rows of both outcomes in each
level that no maximum lies at infinity: a fit that is separated or does not converge fails the test
(the warning is an error).

Differences are |Δ| / max(|b|, standard error). The maximum is certified to TIGHT standard errors,
so two fits of the same data by different routes differ by twice that and by rounding, and 1e-12
leaves room for both; at the default setting the promise between two routes is 1e-8 each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import assume, given
from hypothesis import strategies as st

import streamlr

TIGHT = 2e-13
FEATURES = ["x", "z", "g"]
LEVELS = np.array(["a", "b", "c"])


@dataclass(frozen=True, repr=False)
class Rows:
    """y, x, z (n,) and g (n,) in 0..2; missing (n,) marks rows whose x is null."""

    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    g: np.ndarray
    missing: np.ndarray
    seed: int | None = None

    def __repr__(self) -> str:
        return f"Rows({len(self.y)} rows, {self.missing.sum()} nulls, seed {self.seed})"

    def table(self, labels: np.ndarray = LEVELS, **more: np.ndarray) -> pa.Table:
        return pa.table(
            {
                "y": pa.array(self.y.astype(np.int8)),
                "x": pa.array(self.x, mask=self.missing),
                "z": pa.array(self.z),
                "g": pa.array(labels[self.g]),
                **{name: pa.array(values) for name, values in more.items()},
            }
        )


def overlapping(rows: Rows, weight: np.ndarray | None = None) -> bool:
    """At least three used rows of each outcome in each level."""
    used = ~rows.missing if weight is None else ~rows.missing & (weight > 0)
    counts = np.zeros((3, 2), dtype=int)
    np.add.at(counts, (rows.g[used], rows.y[used]), 1)
    return counts.min() >= 3


@st.composite
def samples(draw: st.DrawFn) -> Rows:
    seed = draw(st.integers(0, 2**32 - 1), label="seed")
    rng = np.random.default_rng(seed)
    n = draw(st.integers(60, 400), label="rows")
    holes = draw(st.sampled_from([0.0, 0.05]), label="share of nulls")
    x = rng.normal(size=n)
    z = rng.normal(10.0, 3.0, n)  # not centred
    g = rng.integers(0, 3, n)
    eta = rng.normal(0, 0.5) + rng.normal(0, 0.4) * x + rng.normal(0, 0.1) * (z - 10)
    eta = eta + rng.normal(0, 0.4, 3)[g]
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    rows = Rows(y, x, z, g, rng.random(n) < holes, seed)
    assume(overlapping(rows))
    return rows


def fit(data: Any, **options: Any) -> Any:
    model = streamlr.fit(data, target="y", features=FEATURES, **{"tol": TIGHT, **options})
    assert model.converged
    assert np.isfinite(model.params).all()
    return model


def assert_same(left: Any, right: Any, tolerance: float = 1e-12) -> None:
    """Terms, coefficients, standard errors, log-likelihood and number of rows agree."""
    assert list(left.terms) == list(right.terms)
    assert_close(left.params, left.bse, right.params, right.bse, tolerance)
    assert abs(left.llf - right.llf) <= tolerance * abs(right.llf)
    assert abs(left.llnull - right.llnull) <= tolerance * abs(right.llnull)
    assert left.nobs == right.nobs


def assert_close(
    coef: np.ndarray,
    std_error: np.ndarray,
    expected_coef: np.ndarray,
    expected_error: np.ndarray,
    tolerance: float = 1e-12,
) -> None:
    scale = np.maximum(np.abs(expected_coef), expected_error)
    assert np.max(np.abs(coef - expected_coef) / scale) <= tolerance
    # The rest of the model has no scale of its own: relative.
    assert np.max(np.abs(std_error / expected_error - 1)) <= tolerance


def assert_identical(left: Any, right: Any) -> None:
    """To the last bit, and not by way of == between NaNs."""
    assert list(left.terms) == list(right.terms)
    for name in ("params", "bse"):
        assert getattr(left, name).tobytes() == getattr(right, name).tobytes(), name
    assert left.cov_params().tobytes() == right.cov_params().tobytes()
    assert (left.llf, left.llnull, left.nobs) == (right.llf, right.llnull, right.nobs)
    assert left.glance()["passes"] == right.glance()["passes"]


# How the rows are cut


@st.composite
def cuts(draw: st.DrawFn, most: int = 6) -> list[float]:
    """Borders as shares of the rows; repeated ones make empty pieces."""
    inner = draw(st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.33, 0.5, 0.9, 1.0]), max_size=most))
    return [0.0, *sorted(inner), 1.0]


def pieces(table: pa.Table, borders: list[float]) -> list[pa.Table]:
    at = [round(share * table.num_rows) for share in borders]
    return [table.slice(start, stop - start) for start, stop in pairwise(at)]


def with_own_dictionary(table: pa.Table, order: int) -> pa.Table:
    """g as a dictionary of this piece alone: its values in another order, and one never used."""
    values = np.roll(np.append(LEVELS, "unused"), order)
    codes = [int(np.flatnonzero(values == level)[0]) for level in table["g"].to_pylist()]
    g = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values))
    return table.set_column(table.column_names.index("g"), "g", g)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="properties-") as name:
        yield Path(name)


def write_row_groups(path: Path, parts: list[pa.Table], **options: Any) -> Path:
    with pq.ParquetWriter(path, parts[0].schema, **options) as writer:
        for part in parts:
            writer.write_table(part)
    return path


@given(rows=samples(), borders=cuts(), dictionary=st.booleans())
def test_any_split_into_row_groups(rows: Rows, borders: list[float], dictionary: bool) -> None:
    table = rows.table()
    with folder() as where:
        one = write_row_groups(where / "one.parquet", [table])
        many = write_row_groups(where / "many.parquet", pieces(table, borders), use_dictionary=dictionary)
        assert_same(fit(many), fit(one))


@given(rows=samples(), borders=cuts(), as_list=st.booleans())
def test_any_split_into_files(rows: Rows, borders: list[float], as_list: bool) -> None:
    """A directory or a list of paths; a file may be empty or lack some of the levels."""
    table = rows.table()
    with folder() as where:
        paths = [
            write_row_groups(where / f"part-{number:02d}.parquet", [piece])
            for number, piece in enumerate(pieces(table, borders))
        ]
        assert_same(fit([str(path) for path in paths] if as_list else where), fit(table))


@given(rows=samples(), borders=cuts(), order=st.integers(0, 3))
def test_any_split_into_chunks_with_dictionaries_of_their_own(
    rows: Rows, borders: list[float], order: int
) -> None:
    table = rows.table()
    chunks = [
        with_own_dictionary(piece, order + number) for number, piece in enumerate(pieces(table, borders))
    ]
    assert_same(fit(pa.concat_tables(chunks)), fit(table))


@given(rows=samples(), borders=cuts())
def test_default_tolerance_holds_between_splits(rows: Rows, borders: list[float]) -> None:
    """At the default setting two routes may differ by 1e-8 standard errors each, never by more."""
    table = rows.table()
    with folder() as where:
        many = write_row_groups(where / "many.parquet", pieces(table, borders))
        model, exact = fit(many, tol=1e-8), fit(table)
    assert np.max(np.abs(model.params - exact.params) / exact.bse) <= 1e-8
    assert np.max(np.abs(model.bse / exact.bse - 1)) <= 1e-6


@given(rows=samples(), seed=st.integers(0, 2**32 - 1), borders=cuts())
def test_any_order_of_rows(rows: Rows, seed: int, borders: list[float]) -> None:
    table = rows.table()
    shuffled = table.take(np.random.default_rng(seed).permutation(table.num_rows))
    with folder() as where:
        path = write_row_groups(where / "shuffled.parquet", pieces(shuffled, borders))
        assert_same(fit(path), fit(table))


# How the work is shared out


@given(rows=samples(), borders=cuts(), tight=st.booleans())
def test_threads_and_memory_change_no_bit(rows: Rows, borders: list[float], tight: bool) -> None:
    with folder() as where:
        path = write_row_groups(where / "data.parquet", pieces(rows.table(), borders))
        tol = TIGHT if tight else 1e-8
        alone = fit(path, threads=1, memory="1GB", tol=tol)
        for threads, memory in [(2, "300MB"), (3, "1GB"), (5, "300MB"), (1, "300MB")]:
            assert_identical(fit(path, threads=threads, memory=memory, tol=tol), alone)


@given(rows=samples(), borders=cuts())
def test_the_same_fit_twice_changes_no_bit(rows: Rows, borders: list[float]) -> None:
    """Table by table, file by file: nothing random, nothing left over from the first fit."""
    table = pa.concat_tables(pieces(rows.table(), borders))
    assert_identical(fit(table), fit(table))


# What a row counts


@given(rows=samples(), seed=st.integers(0, 2**32 - 1))
def test_frequency_weights_are_repetition(rows: Rows, seed: int) -> None:
    """Weight 3 is the row three times, weight 0 is no row; counts are of the repeated rows."""
    weight = np.random.default_rng(seed).integers(0, 5, len(rows.y))
    assume(overlapping(rows, weight))
    repeated = rows.table().take(np.repeat(np.arange(len(weight)), weight))
    weighted = fit(rows.table(w=weight), weights="w", weight_type="frequency")
    plain = fit(repeated)
    assert_same(weighted, plain)
    for number in ("aic", "bic"):
        expected = getattr(plain, number)
        assert abs(getattr(weighted, number) - expected) <= 1e-12 * abs(expected)
    assert weighted.glance()["df_resid"] == plain.glance()["df_resid"]


@given(
    rows=samples(),
    seed=st.integers(0, 2**32 - 1),
    weight_type=st.sampled_from(["frequency", "analytic"]),
)
def test_weight_zero_is_absence(rows: Rows, seed: int, weight_type: str) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 4, len(rows.y)).astype(float)
    weight[rng.random(len(weight)) < 0.3] = 0.0
    assume(overlapping(rows, weight))
    table = rows.table(w=weight)
    present = table.filter(pa.array(weight > 0))
    options = {"weights": "w", "weight_type": weight_type}
    assert_same(fit(table, **options), fit(present, **options))


@given(rows=samples(), factor=st.floats(0.01, 100))
def test_scaled_analytic_weights_scale_the_errors(rows: Rows, factor: float) -> None:
    """Weights times c leave the maximum where it is and divide the covariance by c."""
    weight = 0.5 + np.abs(np.sin(np.arange(len(rows.y))))
    model = fit(rows.table(w=weight), weights="w", weight_type="analytic")
    scaled = fit(rows.table(w=weight * factor), weights="w", weight_type="analytic")
    # The distance to the maximum is certified in the errors of each fit, which differ by sqrt(c).
    assert_close(scaled.params, scaled.bse * np.sqrt(factor), model.params, model.bse, 1e-11)


# How the columns are written


@given(
    rows=samples(),
    factor=st.one_of(
        st.integers(-20, 20).map(lambda power: 2.0**power),
        st.floats(-6, 6).map(lambda power: 10.0**power),
    ),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_rescaled_column_maps_back(rows: Rows, factor: float, sign: float) -> None:
    """x in other units: its coefficient in those units, everything else as before."""
    c = sign * factor
    model = fit(rows.table())
    scaled = fit(replace(rows, x=rows.x * c).table())
    units = np.where([term == "x" for term in model.terms], c, 1.0)
    assert_close(scaled.params * units, scaled.bse * np.abs(units), model.params, model.bse)
    assert abs(scaled.llf - model.llf) <= 1e-12 * abs(model.llf)


@given(rows=samples(), shift=st.integers(-64, 64))
def test_shifted_column_moves_the_intercept_only(rows: Rows, shift: int) -> None:
    """z + s: b(z) stays, the intercept falls by s·b(z), and the covariance follows."""
    model = fit(rows.table())
    shifted = fit(replace(rows, z=rows.z + shift).table())
    T = np.eye(len(model.terms))
    T[list(model.terms).index("Intercept"), list(model.terms).index("z")] = -shift
    errors = np.sqrt(np.diag(T @ model.cov_params() @ T.T))
    # T·V·T' itself cancels when the shift undoes the mean of z: (70/3)² · 2e-16 is 1e-13.
    assert_close(shifted.params, shifted.bse, T @ model.params, errors, 1e-11)


LABELS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8)


@given(rows=samples(), labels=st.lists(LABELS, min_size=3, max_size=3, unique=True).map(sorted))
def test_relabelled_levels_in_the_same_order(rows: Rows, labels: list[str]) -> None:
    """Names of levels are names: brackets, quotes, blanks and any script."""
    model = fit(rows.table())
    renamed = fit(rows.table(np.array(labels, dtype=object)))
    assert list(renamed.terms)[-2:] == [f"g[T.{label}]" for label in labels[1:]]
    assert_close(renamed.params, renamed.bse, model.params, model.bse)


@given(rows=samples(), reference=st.sampled_from(list(LEVELS)))
def test_any_reference_level_is_the_same_model(rows: Rows, reference: str) -> None:
    """Another reference changes the names of the contrasts, not one fitted probability."""
    table = rows.table()
    model, other = fit(table), fit(table, reference={"g": str(reference)})
    assert abs(other.llf - model.llf) <= 1e-12 * abs(model.llf)
    # A probability moves by at most p·q·|Δη|, and Δη is a sum of five terms of size |b·x| < 50.
    np.testing.assert_allclose(other.predict(table), model.predict(table), rtol=1e-11)
