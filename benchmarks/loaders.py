"""Which loader is the quickest from a problem's Parquet file to what a peer is handed, so that peers get it.

`python benchmarks/loaders.py --problem higgs` times, each in a fresh process and in turns, the loader of the
solvers (`solvers/loading.py`), pyarrow's whole table on all threads, pandas and polars: to one float64
matrix or, where there are factors, to a frame of categoricals. Wall and CPU seconds and peak memory are
printed. Where another one wins by more than noise, `solvers/loading.py` should change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import run
from process_tree import Run, measure

HERE = Path(__file__).parent


def with_loading(path: str, target: str, features: list[str]) -> Any:
    """What the solvers use: a thread a core over row groups, or a table of the file's dictionary codes."""
    from solvers.loading import factors, read_frame, read_matrix

    if factors(path, features):
        return read_frame(path, target, features)
    return read_matrix(path, target, features, order="F")


def with_pyarrow(path: str, target: str, features: list[str]) -> Any:
    import numpy as np
    import pyarrow.parquet as pq
    from solvers.loading import factors

    table = pq.read_table(path, columns=[*features, target])
    if factors(path, features):
        frame = table.to_pandas()
        return categorical(frame, factors(path, features))
    X = np.empty((table.num_rows, len(features)), order="F")
    for j, name in enumerate(features):
        X[:, j] = table[name].to_numpy()
    return X, table[target].to_numpy()


def with_pandas(path: str, target: str, features: list[str]) -> Any:
    import pandas as pd
    from solvers.loading import factors

    frame = pd.read_parquet(path, columns=[*features, target])
    if factors(path, features):
        return categorical(frame, factors(path, features))
    return frame[features].to_numpy(dtype="float64"), frame[target].to_numpy()


def with_polars(path: str, target: str, features: list[str]) -> Any:
    import polars as pl
    from solvers.loading import factors

    files = f"{path}/*.parquet" if Path(path).is_dir() else path
    frame = pl.read_parquet(files, columns=[*features, target])
    found = factors(path, features)
    if found:
        text = [name for name in found if frame[name].dtype == pl.String]
        return frame.with_columns(pl.col(text).cast(pl.Categorical)).to_pandas()
    numbers = frame.select(pl.col(features).cast(pl.Float64))
    return numbers.to_numpy(order="fortran"), frame[target].to_numpy()


def categorical(frame: Any, names: list[str]) -> Any:
    for name in names:
        frame[name] = frame[name].astype("category")
    return frame


LOADERS: dict[str, Callable[[str, str, list[str]], Any]] = {
    "loading.py": with_loading,
    "pyarrow": with_pyarrow,
    "pandas": with_pandas,
    "polars": with_polars,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time loaders on a benchmark problem.")
    parser.add_argument("--problem", default="higgs", help="a name of problems.PROBLEMS")
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)  # what the processes are started with
    options = parser.parse_args()
    if options.load:
        loader, path, target, features = options.load
        LOADERS[loader](path, target, json.loads(features))
        return 0
    data = run.make_data(options.problem, options.data, options.rows)
    runs: dict[str, list[Run]] = {name: [] for name in LOADERS}
    for turn in range(options.repeat + 1):
        for name in LOADERS:
            work = [name, data.path, data.target, json.dumps(data.features)]
            command = [sys.executable, __file__, "--load", *work]
            done = measure(command)
            if done.exit_code:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
            if turn:
                runs[name].append(done)
    rows = [["loader", "wall s", "CPU s", "peak GB"]]
    for name, each in runs.items():
        row = [name, run.spread([r.wall for r in each]), run.spread([r.user + r.system for r in each])]
        rows.append([*row, run.spread([r.peak / 1e9 for r in each])])
    run.print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
