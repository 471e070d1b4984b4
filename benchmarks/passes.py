"""What a pass over a problem costs beside what it must cost, and how often a fit reads the data.

`python benchmarks/passes.py --problem higgs` measures in one process, turn by turn: what pyarrow needs to
decode the used columns (the quicker of its two ways), what our reader needs, the kernels over blocks in
memory, a pass that decodes and a pass over kept blocks. Decoding and kernels are CPU seconds of one
thread, passes are wall seconds of all threads. Then three ratios are printed, medians over the turns:

    pass that decodes / ((pyarrow's decoding + kernels) / threads)
    our decoding / pyarrow's
    pass over kept blocks / ((Gram + link + linear predictor) / threads)

Gram and link are those of a tile in cache, for all rows. The linear predictor is measured in two ways: of the
kept rows, which are read from memory and conditioned for it, and of a tile that is in cache and conditioned.

Last a whole fit is run over a source that counts its reads, once with nothing kept between passes and once
as users run it. All blocks of the problem are held in memory here, 1.3 GB for `higgs`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import internals
import pyarrow.parquet as pq
from solvers.loading import parquet_files
from threadpoolctl import threadpool_limits

HERE = Path(__file__).parent


def read_row_groups(path: str, fit: internals.Fit) -> None:
    """pyarrow's way of one row group at a time."""
    for file in parquet_files(path):
        with pq.ParquetFile(file, read_dictionary=fit.coded) as parquet:
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group, columns=fit.columns, use_threads=False)


def read_batches(path: str, fit: internals.Fit) -> None:
    """pyarrow's way of a stream of batches of its own size."""
    for file in parquet_files(path):
        with pq.ParquetFile(file, read_dictionary=fit.coded) as parquet:
            for _ in parquet.iter_batches(columns=fit.columns, use_threads=False):
                pass


def tile_kernels(tile: internals.Tile, rows: int) -> None:
    """Gram and link as often as `rows` rows need them, on one tile in cache."""
    times = max(1, round(rows / tile.count))
    for kernel in (internals.gram, internals.link):
        kernel(tile, times)


def tile_predictor(tile: internals.Tile, rows: int) -> None:
    """The linear predictor as often as `rows` rows need it, on one tile that is in cache and conditioned."""
    internals.predict(tile, max(1, round(rows / tile.count)))


def seconds(clock: Callable[[], float], work: Callable[[], None]) -> float:
    gc.collect()
    start = clock()
    work()
    return clock() - start


def measure(path: str, target: str, features: list[str], threads: int, turns: int) -> None:
    """Measure turn by turn and print."""
    fit = internals.begin(path, target, features)
    threads = min(threads, len(fit.parts))
    cache = internals.full_cache(fit)
    tile = internals.tile_of(fit)
    steps: dict[str, tuple[Callable[[], float], Callable[[], None]]] = {
        "pyarrow, row groups": (process_time, lambda: read_row_groups(path, fit)),
        "pyarrow, batches": (process_time, lambda: read_batches(path, fit)),
        "our decoding": (process_time, lambda: internals.decode(fit)),
        "our decoding and encoding": (process_time, lambda: internals.encode(fit)),
        "kernels over kept blocks": (process_time, lambda: internals.run_kernels(fit, cache)),
        "pass that decodes": (perf_counter, lambda: internals.run_pass(fit, threads)),
        "pass over kept blocks": (perf_counter, lambda: internals.run_pass(fit, threads, cache)),
    }
    if not fit.coded:  # factors have kernels of their own, which no tile in cache stands for
        steps["Gram and link"] = (process_time, lambda: tile_kernels(tile, fit.rows))
        steps["predictor of kept rows"] = (process_time, lambda: internals.predict_blocks(fit, cache))
        steps["predictor of a tile"] = (process_time, lambda: tile_predictor(tile, fit.rows))
    for _, work in steps.values():  # compiles, and fills the page cache
        work()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, (clock, work) in steps.items():
            taken[name].append(seconds(clock, work))

    size = (
        os.path.getsize(path) if os.path.isfile(path) else sum(f.stat().st_size for f in parquet_files(path))
    )
    print(f"{path}: {fit.rows:,} rows, {len(fit.columns)} columns, {size / 1e9:.2f} GB, {threads} threads")
    for name, values in taken.items():
        clock = "wall" if steps[name][0] is perf_counter else "CPU"
        line = f"{name:28} {median(values):8.3f} s {clock:4} (least {min(values):.3f})"
        print(f"{line}, {1e9 * median(values) / fit.rows:6.1f} ns a row")

    turn = [dict(zip(taken, values, strict=True)) for values in zip(*taken.values(), strict=True)]
    ways = {way: median(taken[way]) for way in ("pyarrow, row groups", "pyarrow, batches")}
    theirs = min(ways, key=lambda way: ways[way])
    print(f"pyarrow's own decoding is that of {theirs.removeprefix('pyarrow, ')}")
    print_ratio(
        "pass that decodes / ((decoding + kernels) / threads)",
        [t["pass that decodes"] * threads / (t[theirs] + t["kernels over kept blocks"]) for t in turn],
        1.15,
    )
    print_ratio("our decoding / pyarrow's", [t["our decoding"] / t[theirs] for t in turn], 1.1)
    if not fit.coded:
        for predictor, goal in (("predictor of kept rows", 1.25), ("predictor of a tile", None)):
            print_ratio(
                f"pass over kept blocks / ((Gram + link + {predictor}) / threads)",
                [t["pass over kept blocks"] * threads / (t["Gram and link"] + t[predictor]) for t in turn],
                goal,
            )
    print_ratio(
        "pass over kept blocks / (kernels over kept blocks / threads)",
        [t["pass over kept blocks"] * threads / t["kernels over kept blocks"] for t in turn],
        None,
    )


def print_ratio(name: str, values: list[float], goal: float | None) -> None:
    wanted = "" if goal is None else f", at most {goal} wanted"
    print(f"{name}: {median(values):.3f} ({min(values):.3f}–{max(values):.3f}){wanted}")


def count_reads(path: str, target: str, features: list[str], memory: str | None) -> None:
    """Fit over a source that counts, and print how often every part was read."""
    for keep in (False, True):
        model, source = internals.fit_counted(path, target, features, keep=keep, memory=memory)
        design = model.design
        full = source.full_reads(design.columns)
        whole = source.rows * len(design.columns)
        kept = "as users run it" if keep else "with no block kept between passes"
        often = f"{min(full)}" if min(full) == max(full) else f"{min(full)} to {max(full)}"
        reads = f"every part was read in full {often} times; {len(full)} parts, {sum(full)} reads"
        print(f"a fit {kept}: {reads}")
        print(
            f"  values decoded, profile and sample included: {source.values_read() / whole:.2f} of the data; "
            f"the program's own word: {model.glance()['passes']} passes"
        )


def main() -> None:
    """Make the data where they are absent, then measure."""
    parser = argparse.ArgumentParser(description="Measure streamlr's passes over a benchmark problem.")
    parser.add_argument("--problem", default="higgs", help="a name of problems.PROBLEMS")
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", help="for the fit as users run it, such as 512MB")
    parser.add_argument("--only", choices=("time", "count"))
    options = parser.parse_args()
    command = [sys.executable, str(HERE / "problems.py"), options.problem]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--rows", str(options.rows)] if options.rows else []
    made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if options.only != "count":
        with threadpool_limits(1):
            measure(made["path"], made["target"], made["features"], options.threads, options.turns)
    if options.only == "count":
        count_reads(made["path"], made["target"], made["features"], options.memory)
    if options.only is None:  # in a process of its own, since what it may keep depends on its size
        sys.stdout.flush()
        subprocess.run([sys.executable, *sys.argv, "--only", "count"], check=True)


if __name__ == "__main__":
    main()
