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
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import streamlr
from streamlr import climbing, fitting, sampling
from streamlr.design import layout
from streamlr.passes.cache import BlockCache
from streamlr.passes.tasks import SumsTask
from streamlr.sources import parquet

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


@dataclass(frozen=True, repr=False)
class Wide:
    """y (n,), numbers (columns, n) and two factors (n,) of three and four levels."""

    y: np.ndarray
    numbers: np.ndarray
    factors: tuple[np.ndarray, np.ndarray]
    seed: int

    @classmethod
    def drawn(cls, seed: int, rows: int, columns: int) -> Wide:
        rng = np.random.default_rng(seed)
        numbers = rng.normal(size=(columns, rows)) * rng.uniform(0.1, 5, (columns, 1))
        numbers += rng.normal(size=(columns, 1)) * 3  # not centred
        factors = rng.integers(0, 3, rows), rng.integers(0, 4, rows)
        effect = rng.normal(size=columns) * 0.5 / np.sqrt(columns) / numbers.std(axis=1)
        eta = effect @ (numbers - numbers.mean(axis=1, keepdims=True)) - 0.5
        eta += rng.normal(0, 0.5, 3)[factors[0]] + rng.normal(0, 0.5, 4)[factors[1]]
        y = (rng.random(rows) < 1 / (1 + np.exp(-eta))).astype(np.int8)
        return cls(y, numbers, factors, seed)

    def __repr__(self) -> str:
        return f"Wide({self.numbers.shape[1]} rows, {len(self.numbers)} numbers, seed {self.seed})"

    def write(self, path: Path, rows_per_group: int) -> Path:
        named = {f"x{j}": column for j, column in enumerate(self.numbers)}
        factors = {f"g{f}": np.array(list("abcd"))[codes] for f, codes in enumerate(self.factors)}
        pq.write_table(pa.table({"y": self.y, **named, **factors}), path, row_group_size=rows_per_group)
        return path

    def matrix(self) -> np.ndarray:
        levels = [codes == level for codes in self.factors for level in range(1, codes.max() + 1)]
        return np.column_stack([np.ones(len(self.y)), *self.numbers, *levels])


@pytest.mark.parametrize("sampled", [False, True], ids=["null", "sample"])
@pytest.mark.parametrize("seed", range(3))
def test_neither_threads_nor_memory_nor_cache_change_a_bit_of_a_wide_fit(
    seed: int, sampled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Hessian that is reused, in twenty parts, from a sample of four of them or the null model."""
    monkeypatch.setattr(layout, "DEAR", 8)
    monkeypatch.setattr(parquet, "PART_ROWS", 400)
    if sampled:
        monkeypatch.setattr(sampling, "WORTH_A_SAMPLE", 0)
        monkeypatch.setattr(sampling, "SAMPLE_ROWS", (1_600, 1_600))
    wide = Wide.drawn(seed, 8_000, 9)
    path = wide.write(tmp_path / "wide.parquet", 400)
    gradients: list[int] = []
    work = SumsTask.__call__

    def watched(task: SumsTask, parts: Any) -> Any:
        if not task.with_hessian:
            gradients.append(len(parts))
        return work(task, parts)

    monkeypatch.setattr(SumsTask, "__call__", watched)
    sample_of = fitting.sample_of
    taken: list[Any] = []

    def told(*arguments: Any) -> Any:
        taken.append(sample_of(*arguments))
        return taken[-1]

    monkeypatch.setattr(fitting, "sample_of", told)
    alone = streamlr.fit(path, target="y", threads=1, memory="2GB")
    assert alone.converged
    assert sum(gradients) >= 20  # a whole pass without a Hessian at least
    assert [sample and len(sample.stages[-1]) for sample in taken] == [4 if sampled else None]
    begin = BlockCache.begin
    for threads, memory, cached in [
        (1, "2GB", False),
        (2, "2GB", True),
        (2, "300MB", True),
        (3, "2GB", False),
        (3, "300MB", True),
        (5, "2GB", True),
    ]:
        monkeypatch.setattr(BlockCache, "begin", begin if cached else lambda cache, part: None)
        assert_identical(streamlr.fit(path, target="y", threads=threads, memory=memory), alone)


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


# What is proved of the estimate


def exact_maximum(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maximum (k,) in 80 bits, the Hessian (k, k) there and standard errors (k,).

    Newton whose gradients are summed in extended precision: steps by a Hessian in doubles contract by 1e-10
    or so each, whatever they leave of its rounding, so that the last two only remove what gradients leave.
    """
    wide = X.astype(np.longdouble)
    coef = np.zeros(X.shape[1], dtype=np.longdouble)
    for _ in range(15):
        _, slope, curvature = naive.losses(wide @ coef, y, 1 - y)
        hessian = (X * curvature.astype(float)[:, None]).T @ X
        step = np.linalg.solve(hessian, (wide.T @ slope).astype(float))
        coef = coef - step
    assert np.sqrt(step @ hessian @ step) < 1e-15, "the reference itself did not converge"
    return coef, hessian, np.sqrt(np.diag(np.linalg.inv(hessian)))


@pytest.mark.parametrize("dear", [False, True], ids=["plain", "dear"])
@pytest.mark.parametrize("seed", range(10))
def test_the_estimate_is_as_near_as_is_proved(
    seed: int, dear: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a pass is left out too, and for a loose tolerance; in the metric of the maximum's Hessian."""
    monkeypatch.setattr(climbing, "WORTH_SPARING", 0)
    monkeypatch.setattr(layout, "DEAR", 2 if dear else 256)
    rng = np.random.default_rng(seed + 100)
    wide = Wide.drawn(seed, int(rng.integers(500, 4_000)), int(rng.integers(2, 12)))
    path = wide.write(tmp_path / "wide.parquet", 1_000)
    best, hessian, errors = exact_maximum(wide.matrix(), wide.y)
    for tol, spare in ((1e-8, 1e-6), (1e-8, 1e-2), (1e-3, 1e-2)):
        monkeypatch.setattr(climbing, "SPARE_ERROR", spare)
        model = streamlr.fit(path, target="y", tol=tol)
        assert model.converged
        proved = model.glance()["newton_decrement"]
        assert 0 < proved <= tol
        step = (model.params - best).astype(float)
        # The metric at the maximum is that at the estimate up to a share of u times the distance, below 1e-2
        # here; 1e-12 is the rounding of coefficients on their way into the units of the columns.
        assert np.sqrt(step @ hessian @ step) <= proved * (1.01 if tol > 1e-8 else 1 + 1e-6) + 1e-12
        # Errors of the estimate are right to `spare`, and it moves by u times the distance at most.
        assert np.max(np.abs(model.bse / errors - 1)) <= spare + 30 * proved


def test_a_pass_is_left_out_where_it_could_only_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the path which leaves it out is taken, and changes neither estimates nor likelihood."""
    spared = 0
    for seed in range(10):
        path = Wide.drawn(seed, 2_000, 4).write(tmp_path / f"{seed}.parquet", 1_000)
        monkeypatch.setattr(climbing, "WORTH_SPARING", 10**12)
        whole = streamlr.fit(path, target="y")
        monkeypatch.setattr(climbing, "WORTH_SPARING", 0)
        for spare in (1e-6, 1e-2):
            monkeypatch.setattr(climbing, "SPARE_ERROR", spare)
            short = streamlr.fit(path, target="y")
            assert short.glance()["passes"] <= whole.glance()["passes"]
            spared += short.glance()["passes"] < whole.glance()["passes"]
            assert np.max(np.abs(short.params - whole.params) / whole.bse) <= 1e-8
            assert np.max(np.abs(short.bse / whole.bse - 1)) <= spare
            # What the last step gains is left out of no likelihood; 5e-15 is the rounding of its sums.
            assert abs(short.llf - whole.llf) <= 5e-15 * abs(whole.llf)
    assert spared >= 10


def test_no_fit_of_quasi_separated_data_converges() -> None:
    """Rows off the plane x'd = 0 have the outcome of their side; in it, exactly in doubles, lie both."""
    for seed in range(80, 100):
        rng = np.random.default_rng(seed)
        k = int(rng.integers(2, 7))
        X = np.round(rng.normal(size=(40 * k, k)) * rng.uniform(0.2, 3, k) * 64) / 64
        d = np.r_[1.0, rng.integers(-3, 4, k)[1:]]
        X[: 4 * k, 0] = -(X[: 4 * k, 1:] @ d[1:])
        side = X @ d
        y = np.where(side == 0.0, rng.permutation(40 * k) % 2, side > 0).astype(int)
        names = [f"x{j}" for j in range(k)]
        data = {"y": y, **dict(zip(names, X.T, strict=True))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", streamlr.ConvergenceWarning)
            try:
                model = streamlr.fit(data, f"y ~ {' + '.join(names)} - 1")
            except streamlr.SeparationError:
                continue
        assert not model.converged, (seed, model.bse.max())
