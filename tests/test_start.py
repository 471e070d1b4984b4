"""Where Newton starts: samples, and that a poor one costs neither the answer nor a pass.

The answer is compared with plain Newton on whole matrices (`maximum_likelihood` of conftest). Passes are
counted where parts are read, with nothing kept between passes, and never taken from the program's word.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlr
from streamlr import climbing, fitting, sampling
from streamlr.objective import SINGLE_DRIFT
from streamlr.passes.cache import BlockCache
from streamlr.passes.sums import Sums
from streamlr.passes.tasks import SumsTask
from streamlr.sampling import Sample
from streamlr.sources import parquet
from streamlr.start import Starts


class Reads:
    """How often the parts of a file are read, by their first row group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of_part: Counter[int] = Counter()
        self.gradients = 0
        self.singles = 0
        read = parquet.ParquetPart.read

        def counted(part: Any, columns: Any, coded: Any, batch_rows: int, **options: Any) -> Iterator[Any]:
            self.of_part[part.first] += 1
            yield from read(part, columns, coded, batch_rows, **options)

        monkeypatch.setattr(parquet.ParquetPart, "read", counted)
        work = SumsTask.__call__

        def watched(task: SumsTask, parts: Sequence[Any]) -> Any:
            self.gradients += not task.with_hessian
            self.singles += task.single
            return work(task, parts)

        monkeypatch.setattr(SumsTask, "__call__", watched)


def make_samples_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a thousand rows, samples of three of them from any data, and nothing kept between passes."""
    monkeypatch.setattr(parquet, "PART_ROWS", 1_000)
    monkeypatch.setattr(sampling, "WORTH_A_SAMPLE", 0)
    monkeypatch.setattr(sampling, "SAMPLE_ROWS", (3_000, 4_000))
    monkeypatch.setattr(sampling, "ROWS_A_COLUMN", 375)  # of eight or nine, where a Hessian is dear
    monkeypatch.setattr(sampling, "EVENTS_A_COLUMN", 10)
    monkeypatch.setattr(BlockCache, "begin", lambda cache, part: None)


@dataclass(frozen=True)
class Fitted:
    """A model, and what it took: `passes`: reads of the part read least, as a sample is read more often."""

    model: Any
    passes: int
    reads: Counter[int]
    sample: Sample | None
    trusted: bool
    gradients: int
    singles: int
    drift: float  # how far off the first Hessian is told to be


def fitted(path: Path, *, sampling: bool, dear: bool, max_passes: int = 50) -> Fitted:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", streamlr.ConvergenceWarning)
        make_samples_small(patch)
        patch.setattr("streamlr.design.layout.DEAR", 4 if dear else 256)
        if not sampling:
            patch.setattr(fitting, "sample_of", lambda *arguments: None)
        reads = Reads(patch)
        begin = fitting.starts_of
        seen: list[tuple[Sample | None, Starts]] = []

        def spied(*arguments: Any) -> Any:
            found = begin(*arguments)
            sample = arguments[-1]
            seen.append((sample, found))
            return found

        patch.setattr(fitting, "starts_of", spied)
        first_pass = fitting.begin
        drifts = []

        def noted(*arguments: Any, **options: Any) -> Any:
            coef, evaluation = first_pass(*arguments, **options)
            drifts.append(evaluation.drift)
            return coef, evaluation

        patch.setattr(fitting, "begin", noted)
        model = streamlr.fit(path, target="y", threads=2, memory="2GB", max_passes=max_passes)
    sample, found = seen[-1]
    return Fitted(
        model=model,
        passes=min(reads.of_part.values()),
        reads=reads.of_part,
        sample=sample,
        trusted=len(found.points) == 1 and np.count_nonzero(found.points[0]) > 1,
        gradients=reads.gradients,
        singles=reads.singles,
        drift=drifts[-1],
    )


N = 30_000
# Rows of the three parts that a sample is made of, and of the one that it is checked on.
SEEN = np.isin(np.arange(N) // 1_000, (0, 5, 10, 20))


def logistic_outcome(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    return (rng.random(eta.size) < 1 / (1 + np.exp(-eta))).astype(np.int8)


def homogeneous(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weak and strong effects, one factor, no order."""
    x = rng.normal(size=(4, N)) * [[1.0], [3.0], [0.1], [10.0]] + [[0.0], [5.0], [0.0], [-20.0]]
    g = rng.integers(0, 4, N)
    eta = -1.0 + 0.8 * x[0] - 0.2 * (x[1] - 5) + 2.0 * x[2] + 0.3 * (g == 2) + 0.02 * x[3]
    return {"y": logistic_outcome(rng, eta), **{f"x{j}": x[j] for j in range(4)}, "g": g}


def reordered(data: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[order] for name, values in data.items()}


def by_outcome(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Failures first: most parts know one outcome only."""
    data = homogeneous(rng)
    return reordered(data, np.argsort(data["y"], kind="stable"))


def by_outcome_backwards(rng: np.random.Generator) -> dict[str, np.ndarray]:
    data = homogeneous(rng)
    return reordered(data, np.argsort(-data["y"], kind="stable"))


def by_feature(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Each part sees a sliver of the strongest column."""
    data = homogeneous(rng)
    return reordered(data, np.argsort(data["x0"], kind="stable"))


def by_level(rng: np.random.Generator) -> dict[str, np.ndarray]:
    data = homogeneous(rng)
    return reordered(data, np.argsort(data["g"], kind="stable"))


def by_outcome_and_feature(rng: np.random.Generator) -> dict[str, np.ndarray]:
    data = homogeneous(rng)
    return reordered(data, np.lexsort((data["x1"], data["y"])))


def opposite_halves(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Effects change their sign in the middle of the file; together they nearly vanish."""
    data = homogeneous(rng)
    sign = np.where(np.arange(N) < N // 2, 1.5, -1.4)
    data["y"] = logistic_outcome(rng, sign * (data["x0"] + 0.4 * (data["x1"] - 5)))
    return data


def odd_first_parts(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Strong effects in the parts that a sample takes and in the one it is checked on, and the opposite
    everywhere else: no check on few rows can tell."""
    data = homogeneous(rng)
    eta = np.where(SEEN, 3.0, -0.5) * data["x0"] + 0.2 * data["x1"] - 1
    data["y"] = logistic_outcome(rng, eta)
    return data


def rare(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Six events in a thousand rows."""
    data = homogeneous(rng)
    data["y"] = logistic_outcome(rng, -5.8 + 0.8 * data["x0"] + 2.0 * data["x2"] + 0.5 * (data["g"] == 1))
    return data


def rare_and_sorted(rng: np.random.Generator) -> dict[str, np.ndarray]:
    data = rare(rng)
    return reordered(data, np.argsort(-data["y"], kind="stable"))


def unseen_level(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Level 9, with the strongest effect, is in parts 21 to 23 alone."""
    data = homogeneous(rng)
    rows = slice(21_000, 24_000)
    data["g"][rows] = np.where(rng.random(3_000) < 0.6, 9, data["g"][rows])
    data["y"][rows] = logistic_outcome(rng, np.where(data["g"][rows] == 9, 2.5, -1.0))
    return data


def separated_samples(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Elsewhere an ordinary logistic model, wherever a sample looks a threshold."""
    data = homogeneous(rng)
    data["y"] = np.where(SEEN, data["x0"] > 0, data["y"]).astype(np.int8)
    return data


def constant_in_samples(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A column that is zero wherever a sample looks, and runs to hundreds elsewhere."""
    data = homogeneous(rng)
    data["x3"] = np.where(SEEN, 0.0, rng.normal(size=N) * 300)
    data["y"] = np.where(
        SEEN, data["y"], logistic_outcome(rng, -1 + 0.8 * data["x0"] + 0.004 * data["x3"])
    ).astype(np.int8)
    return data


def tiny_in_samples(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A column in other units wherever a sample looks."""
    data = homogeneous(rng)
    data["x2"] = np.where(SEEN, 1e-6 * data["x2"], data["x2"])
    return data


def missing_in_samples(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """No row that a sample looks at can be used."""
    data = homogeneous(rng)
    data["x1"] = np.where(SEEN, np.nan, data["x1"])
    return data


def missing_in_the_check(rng: np.random.Generator) -> dict[str, np.ndarray]:
    data = homogeneous(rng)
    data["x1"][5_000:6_000] = np.nan
    return data


def nearly_collinear(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A column repeats another but for a hundredth."""
    data = homogeneous(rng)
    data["x2"] = data["x0"] + 0.01 * data["x2"]
    return data


KINDS: list[Callable[[np.random.Generator], dict[str, np.ndarray]]] = [
    homogeneous,
    by_outcome,
    by_outcome_backwards,
    by_feature,
    by_level,
    by_outcome_and_feature,
    opposite_halves,
    odd_first_parts,
    rare,
    rare_and_sorted,
    unseen_level,
    separated_samples,
    constant_in_samples,
    tiny_in_samples,
    missing_in_samples,
    missing_in_the_check,
    nearly_collinear,
]


@cache
def both_fits(name: str, dear: bool) -> tuple[dict[str, np.ndarray], Fitted, Fitted]:
    """The data of a kind, their fit as it is, and that without a sample; made once for all tests."""
    (kind,) = (kind for kind in KINDS if kind.__name__ == name)
    data = kind(np.random.default_rng(20240501))
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        path = Path(folder) / "data.parquet"
        columns = {column: pa.array(values, from_pandas=True) for column, values in data.items()}
        pq.write_table(pa.table({**columns, "g": data["g"].astype(str)}), path, row_group_size=1_000)
        return data, *(fitted(path, sampling=sampling, dear=dear) for sampling in (True, False))


def cases() -> list[Any]:
    """Every kind, with a Hessian that is dear or not."""
    return [
        pytest.param(kind.__name__, dear, id=f"{kind.__name__}-{'dear' if dear else 'plain'}")
        for kind in KINDS
        for dear in (False, True)
    ]


@pytest.mark.parametrize(("name", "dear"), cases())
def test_whatever_a_sample_says_the_fit_is_right(
    name: str, dear: bool, maximum_likelihood: Callable[..., Any]
) -> None:
    """Within 1e-8 standard errors of plain Newton, and of its own rounding, with columns of size 300."""
    data, with_sample, without = both_fits(name, dear)
    assert with_sample.sample is not None
    assert without.sample is None
    # Of thirty parts; two are checked by gradients alone, and three bend the first step by some more.
    assert (with_sample.gradients >= 30, without.gradients >= 30) == (dear, dear)
    used = np.isfinite(data["x1"])
    levels = np.unique(data["g"])
    X = np.column_stack(
        [
            np.ones(N),
            *(data[f"x{j}"] for j in range(4)),
            *(data["g"] == level for level in levels[1:]),
        ]
    )[used]
    reference = maximum_likelihood(X, data["y"][used])
    for fit in (with_sample, without):
        model = fit.model
        assert model.converged
        assert list(model.terms) == ["Intercept", "x0", "x1", "x2", "x3", *(f"g[T.{i}]" for i in levels[1:])]
        assert np.max(np.abs(model.params - reference.coef) / reference.std_error) <= 1e-8 + 1e-10
        np.testing.assert_allclose(model.bse, reference.std_error, rtol=1e-6)
        assert model.llf == pytest.approx(reference.log_likelihood, rel=1e-12)


@pytest.mark.parametrize(("name", "dear"), cases())
def test_a_sample_never_costs_a_pass(name: str, dear: bool) -> None:
    _, with_sample, without = both_fits(name, dear)
    assert with_sample.passes <= without.passes


@pytest.mark.parametrize("dear", [False, True], ids=["plain", "dear"])
@pytest.mark.parametrize("name", ["homogeneous", "by_feature", "by_level"])
def test_a_good_sample_is_trusted_and_saves_reading(name: str, dear: bool) -> None:
    """Its own reading included, and that of the parts that it is checked on. Where the file is sorted the
    first pass looks at the null model too, and the sample wins."""
    _, with_sample, without = both_fits(name, dear)
    assert with_sample.trusted == (name == "homogeneous")
    assert not without.trusted
    assert with_sample.passes < without.passes
    assert with_sample.reads.total() < without.reads.total()


def test_single_precision_steers_a_steady_wide_fit_and_no_other() -> None:
    """One pass over thirty parts; what is reported is in double precision, as all other tests say."""
    steered = both_fits("homogeneous", True)[1]
    assert steered.singles == 30
    assert steered.drift == SINGLE_DRIFT  # so that it is reported of no model, and proves a little less
    assert both_fits("nearly_collinear", True)[1].drift == 0.0
    assert both_fits("homogeneous", False)[1].singles == 0
    for name in ("nearly_collinear", "unseen_level", "by_level"):
        assert both_fits(name, True)[1].singles == 0
    assert both_fits("homogeneous", True)[2].singles == 0


@pytest.mark.parametrize("max_passes", [1, 3])
def test_a_fit_with_few_passes_is_told_with_sums_in_double_precision(max_passes: int, tmp_path: Path) -> None:
    """It may end anywhere, and its standard errors with it."""
    data = homogeneous(np.random.default_rng(20240501))
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({**data, "g": data["g"].astype(str)}), path, row_group_size=1_000)
    fit = fitted(path, sampling=True, dear=True, max_passes=max_passes)
    assert not fit.model.converged
    assert fit.trusted
    assert (fit.singles, fit.drift) == (0, 0.0)


@pytest.mark.parametrize("name", ["by_outcome", "by_outcome_and_feature", "rare_and_sorted"])
def test_a_sample_that_does_not_describe_other_rows_is_not_trusted(name: str) -> None:
    """The part that it is checked on knows one outcome, so that no model but that one describes it."""
    _, with_sample, without = both_fits(name, False)
    assert not with_sample.trusted
    assert with_sample.passes == without.passes


def test_only_the_sample_and_its_check_are_read_more_often() -> None:
    _, fit, _ = both_fits("homogeneous", False)
    assert fit.sample is not None
    often = {part for part, count in fit.reads.items() if count > fit.passes}
    assert often == {part.first for part in [*fit.sample.stages[-1], *fit.sample.checks]}
    assert often == {0, 5, 10, 15, 20}


def test_a_wide_sample_goes_by_stages() -> None:
    """The part of the first stage is read for that alone, and then with the others."""
    _, fit, _ = both_fits("homogeneous", True)
    assert fit.sample is not None
    assert [[part.first for part in stage] for stage in fit.sample.stages] == [[0], [0, 10, 20]]
    assert fit.reads[0] > fit.reads[10] == fit.reads[20]


def test_the_same_start_every_time() -> None:
    """Nothing of a sample is drawn by chance: the same bits from the same file."""
    first = both_fits("homogeneous", True)[1].model
    both_fits.cache_clear()
    again = both_fits("homogeneous", True)[1].model
    assert again.params.tobytes() == first.params.tobytes()
    assert again.bse.tobytes() == first.bse.tobytes()
    assert again.llf == first.llf


def test_a_long_factor_starts_from_what_its_levels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log odds of the levels of each factor by itself, added up, unless rows show the null model better."""
    monkeypatch.setattr("streamlr.design.layout.LONG", 5)
    rng = np.random.default_rng(6)
    n = 4_000
    g, h = rng.integers(0, 12, n), rng.integers(0, 4, n)
    eta = np.sin(3.0 * g) + 0.5 * np.cos(h)
    data = {"y": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int), "g": g.astype(str), "h": h.astype(str)}
    model = streamlr.fit(data, "y ~ g + h", tol=1e-10)
    # One factor alone is at its maximum, but for the half events: what is left is how two of them overlap.
    assert model.llf - model.trace[0]["log_likelihood"] < 0.01 * (model.llf - model.llnull)
    # Four factors say the same, so that adding them up goes four times as far.
    same = {name: np.char.add(name, data["g"]) for name in "abcd"}
    again = streamlr.fit({**data, **same}, "y ~ a + b + c + d", tol=1e-10)
    assert again.trace[0]["log_likelihood"] == pytest.approx(again.llnull, rel=1e-12)
    assert again.converged


def test_many_columns_reuse_a_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "MANY_COLUMNS", 5)
    monkeypatch.setattr(climbing, "WORTH_SPARING", 1)
    rng = np.random.default_rng(7)
    n = 6_000
    data = {"x": rng.normal(size=n), "g": rng.integers(0, 9, n).astype(str)}
    data["y"] = (rng.random(n) < 1 / (1 + np.exp(-data["x"]))).astype(int)
    hessians = []
    assemble = Sums.hessian
    monkeypatch.setattr(Sums, "hessian", lambda sums: hessians.append(1) or assemble(sums))
    model = streamlr.fit(data, "y ~ x + g")
    assert model.converged
    assert len(hessians) < model.statistics.passes
    monkeypatch.setattr(climbing, "MANY_COLUMNS", 5_000)
    plain = streamlr.fit(data, "y ~ x + g", tol=1e-12)
    np.testing.assert_allclose(model.params, plain.params, rtol=0, atol=1e-8 * plain.bse.max())
    np.testing.assert_allclose(model.bse, plain.bse, rtol=2e-6)


# A large sample, and the pass that it saves


def fit_of_large_sample(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """With parts of a thousand rows, a large sample of seven of them, and a fit that need not be so exact, as
    of 30,000 rows one pass less is not to be had at 1e-8."""
    make_samples_small(monkeypatch)
    monkeypatch.setattr(sampling, "WORTH_A_LARGE_SAMPLE", 0)
    monkeypatch.setattr(sampling, "LARGE_SAMPLE", 7_500 * 29 ** (2 / 3) / 5 ** (2 / 3))
    monkeypatch.setattr(sampling, "TIMES_LARGER", 1)
    monkeypatch.setattr(climbing, "WORTH_SPARING", 0)
    monkeypatch.setattr(climbing, "SPARE_ERROR", 5e-6)
    reads = Reads(monkeypatch)
    model = streamlr.fit(path, target="y", exclude=["g"], tol=1e-6, **options)
    return model, min(reads.of_part.values()) - 1  # the outcome was read before


@pytest.fixture
def numbers_file(tmp_path: Path) -> Path:
    """Four numeric columns, and a factor to leave out."""
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(homogeneous(np.random.default_rng(20240501))), path, row_group_size=1_000)
    return path


def test_a_large_sample_saves_a_pass(
    numbers_file: Path, monkeypatch: pytest.MonkeyPatch, maximum_likelihood: Callable[..., Any]
) -> None:
    """Two passes, and what they tell is as near as they say."""
    model, passes = fit_of_large_sample(numbers_file, monkeypatch)
    assert model.converged
    assert model.glance()["passes"] == passes == 2
    data = homogeneous(np.random.default_rng(20240501))
    exact = maximum_likelihood(np.column_stack([np.ones(N), *(data[f"x{j}"] for j in range(4))]), data["y"])
    assert np.max(np.abs(model.params - exact.coef) / exact.std_error) <= 1e-6
    np.testing.assert_allclose(model.bse, exact.std_error, rtol=5e-6)
    assert model.llf == pytest.approx(exact.log_likelihood, rel=1e-10)


def test_without_tails_the_pass_is_needed(numbers_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlr.surrogate.Surrogate.directions", lambda *arguments: None)
    model, passes = fit_of_large_sample(numbers_file, monkeypatch)
    assert model.converged
    assert passes == 3


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"memory": "300MB"}])
def test_a_large_sample_leads_to_the_same_bits(
    options: dict[str, Any], numbers_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = fit_of_large_sample(numbers_file, monkeypatch, threads=2)
    other, _ = fit_of_large_sample(numbers_file, monkeypatch, **options)
    np.testing.assert_array_equal(one.params, other.params)
    np.testing.assert_array_equal(one.bse, other.bse)
