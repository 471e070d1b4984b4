"""How fast the kernels are on one core, beside BLAS and beside the most that the core was seen to do.

`python benchmarks/kernels.py` prints a table of rounds that take turns, so that a slow spell hits all
alike; ratios are medians of those within a round. `pytest benchmarks/kernels.py` measures each alone
with pytest-benchmark, to compare two commits. Useful operations are counted: p (p + 1) a row for the
Gram matrix, half of the square, whatever a kernel computes besides. The peak is the best of all rounds
of a large square `dgemm` on one thread, which is a lower bound of what the core could do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from time import perf_counter

import internals
import numpy as np
import pytest
from scipy.linalg.blas import dgemm, dsyrk
from threadpoolctl import threadpool_limits

COLUMNS = (8, 29, 100, 300)  # p, the intercept among them
ROWS = 16_384
LEVELS = {"month": 12, "hour": 20, "carrier": 16, "origin": 3, "dest": 105}
PEAK_SIZE = 1_500
LONGER = (1, 4, 16)  # dsyrk may take tiles as long as ours or longer, whichever is best for it
ROUND = 0.02  # seconds at least for one measurement

# Of one tile, but `add_block`, which is of a whole block.
KERNELS: dict[str, Callable[[internals.Tile, int], None]] = {
    "fill_tile": internals.fill,
    "add_linear_predictor": internals.predict,
    "row_losses": internals.link,
    "add_gram": internals.gram,
    "add_fourth_powers": internals.fourth_powers,
    "add_block": internals.whole_block,
}


@cache
def tile_of(p: int) -> internals.Tile:
    """A tile of p dense columns: an intercept and p - 1 normal columns in float64."""
    rng = np.random.default_rng(p)
    names = [f"x{j}" for j in range(1, p)]
    data = dict(zip(names, rng.standard_normal((p - 1, ROWS)), strict=True))
    data["y"] = rng.integers(0, 2, ROWS).astype(np.int8)
    return internals.tile_of(internals.begin(data, "y", names))


@cache
def tile_of_factors() -> internals.Tile:
    """Factors with as many levels as those of the flights, evenly spread, and three numbers."""
    rng = np.random.default_rng(1)
    rows = 8 * ROWS  # a block that is worth taking factors together for
    data = {f"x{j}": rng.standard_normal(rows) for j in range(3)}
    for name, levels in LEVELS.items():
        data[name] = np.array([f"{level:03}" for level in range(levels)])[rng.integers(0, levels, rows)]
    names = list(data)
    data["y"] = rng.integers(0, 2, rows).astype(np.int8)
    return internals.tile_of(internals.begin(data, "y", names))


def factors_round() -> tuple[float, float]:
    """ns a row of all sums of a block: factors together, and one by one."""
    tile = tile_of_factors()
    both = [
        1e9 * seconds_a_time(lambda times, tile=tile: internals.whole_block(tile, times)) / tile.rows_of_block
        for tile in (tile, internals.factor_by_factor(tile))
    ]
    return both[0], both[1]


@cache
def syrk_operands(p: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in columns, (count, p) in Fortran order as BLAS likes them, and where the sums go."""
    rows = np.asfortranarray(np.random.default_rng(p).standard_normal((count, p)))
    return rows, np.zeros((p, p), order="F")


def syrk(p: int, count: int, times: int) -> None:
    """BLAS on the same problem: sums += rows' rows, lower half."""
    rows, sums = syrk_operands(p, count)
    for _ in range(times):
        dsyrk(1.0, rows, beta=1.0, c=sums, trans=1, lower=1, overwrite_c=1)


@cache
def square() -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(0).standard_normal((PEAK_SIZE, PEAK_SIZE)))


def peak() -> float:
    """Billions of operations a second of a large square product on this thread."""
    start = perf_counter()
    dgemm(1.0, square(), square())
    return 2e-9 * PEAK_SIZE**3 / (perf_counter() - start)


def seconds_a_time(work: Callable[[int], None]) -> float:
    """Seconds that one of `times` takes, over at least `ROUND` seconds."""
    times = 1
    while True:
        start = perf_counter()
        work(times)
        seconds = perf_counter() - start
        if seconds >= ROUND:
            return seconds / times
        times = max(2 * times, int(1.2 * times * ROUND / max(seconds, 1e-6)))


def useful(p: int, count: int) -> float:
    """Billions of operations of the Gram matrix of `count` rows."""
    return 1e-9 * p * (p + 1) * count


def gram_round(p: int) -> tuple[float, float, float]:
    """Billions of operations a second: ours, dsyrk on a tile as long, dsyrk on its best length."""
    tile = tile_of(p)
    ours = useful(p, tile.count) / seconds_a_time(lambda times: internals.gram(tile, times))
    theirs = [
        useful(p, length * tile.count)
        / seconds_a_time(lambda times, length=length: syrk(p, length * tile.count, times))
        for length in LONGER
    ]
    return ours, theirs[0], max(theirs)


def nanoseconds_a_row(name: str, p: int) -> float:
    tile = tile_of(p)
    rows = tile.rows_of_block if name == "add_block" else tile.count
    return 1e9 * seconds_a_time(lambda times: KERNELS[name](tile, times)) / rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Measure streamlr's kernels on one core.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with threadpool_limits(1):
        for p in COLUMNS:  # compiles everything
            gram_round(p)
            for name in KERNELS:
                nanoseconds_a_row(name, p)
        factors_round()
        most = 0.0
        factors: list[tuple[float, float]] = []
        grams: dict[int, list[tuple[float, ...]]] = {p: [] for p in COLUMNS}
        times: dict[tuple[str, int], list[float]] = {(name, p): [] for name in KERNELS for p in COLUMNS}
        for _ in range(rounds):
            most = max(most, peak())
            for p in COLUMNS:
                grams[p].append(gram_round(p))
            for name, p in times:
                times[name, p].append(nanoseconds_a_row(name, p))
            factors.append(factors_round())

    print(f"Gram matrix, float64, GFLOP/s on one core: median (best) of {rounds} rounds")
    print(f"the core's peak: {most:.1f} at least")
    heads = ("add_gram", "dsyrk", "dsyrk longer")
    print(f"{'p':>4}" + "".join(f"{head:>16}" for head in heads) + "   ours over: dsyrk   longer     peak")
    for p, rows in grams.items():
        cells = [f"{median(column):6.1f} ({max(column):5.1f})" for column in zip(*rows, strict=True)]
        ratios = [median(row[0] / row[place] for row in rows) for place in (1, 2)]
        ratios.append(median(row[0] for row in rows) / most)
        print(f"{p:>4}" + "".join(f"{cell:>16}" for cell in cells) + f"{ratios[0]:19.2f}", end="")
        print(f"{ratios[1]:9.2f}{ratios[2]:9.2f}")
    print(f"\nns a row on one core: median (least) of {rounds} rounds")
    print("all of one tile that stays in the cache, but add_block, which is of a block in memory")
    print(f"{'':22}" + "".join(f"{f'p = {p}':>18}" for p in COLUMNS))
    for name in KERNELS:
        cells = [f"{median(times[name, p]):8.2f} ({min(times[name, p]):6.2f})" for p in COLUMNS]
        print(f"{name:22}" + "".join(f"{cell:>18}" for cell in cells))
    together, alone = (f"{median(column):.1f} ({min(column):.1f})" for column in zip(*factors, strict=True))
    print(f"\nadd_block of factors of {', '.join(map(str, LEVELS.values()))} levels and 3 numbers, ns a row")
    print(f"factors together {together}, one by one {alone}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("p", COLUMNS)
@pytest.mark.parametrize("name", KERNELS)
def test_kernel(benchmark, name: str, p: int) -> None:
    """One call is `times` of the kernel; ns a row and GFLOP/s stand in the extra information."""
    tile = tile_of(p)
    rows = tile.rows_of_block if name == "add_block" else tile.count
    times = max(1, ROWS // rows)
    KERNELS[name](tile, 1)  # compiles
    benchmark(KERNELS[name], tile, times)
    seconds = benchmark.stats.stats.median / times
    benchmark.extra_info["ns_a_row"] = round(1e9 * seconds / rows, 3)
    if name in ("add_gram", "add_block"):
        benchmark.extra_info["gflops"] = round(useful(p, rows) / seconds, 2)


@pytest.mark.parametrize("p", COLUMNS)
def test_dsyrk(benchmark, p: int) -> None:
    """BLAS on the problem of `add_gram`, a tile as long."""
    count = tile_of(p).count
    times = max(1, ROWS // count)
    benchmark(syrk, p, count, times)
    benchmark.extra_info["gflops"] = round(useful(p, count) * times / benchmark.stats.stats.median, 2)


if __name__ == "__main__":
    main()
