"""What it takes to read the columns of a problem's Parquet file, one kind after another, beside pyarrow.

`python benchmarks/columns.py --problem flights` reads some row groups on one thread, turn by turn: columns of
one type by our kernels and by pyarrow, text as dictionary codes by both, and prints CPU nanoseconds a value,
medians over the turns. Columns that kernels leave to pyarrow are named.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import internals
import pyarrow.parquet as pq
import run
from solvers.loading import parquet_files

GROUPS = 10
MOST_COLUMNS = 32


def seconds(work: Callable[[], None]) -> float:
    """CPU seconds of one call."""
    begin = process_time()
    work()
    return process_time() - begin


def by_pyarrow(
    path: str, metadata: pq.FileMetaData, groups: list[int], columns: list[str], texts: list[str]
) -> None:
    """Some columns at a time, as our reader has pyarrow do it."""
    options = {"metadata": metadata, "read_dictionary": texts, "buffer_size": 1 << 18, "pre_buffer": False}
    with pq.ParquetFile(path, **options) as file:
        for group in groups:
            for first in range(0, len(columns), 8):
                file.read_row_group(group, columns=columns[first : first + 8], use_threads=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading columns beside pyarrow.")
    parser.add_argument("--problem", default="flights", help="a name of problems.PROBLEMS, in one file")
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    parser.add_argument("--data", type=Path, help="default: STREAMLR_BENCH_DATA or benchmarks/data")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    data = run.make_data(options.problem, options.data, options.rows)
    (path,) = map(str, parquet_files(data.path))
    metadata, schema = pq.read_metadata(path), pq.read_schema(path)
    groups = list(range(min(GROUPS, metadata.num_row_groups)))
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in (*data.features, data.target):
        kinds[str(schema.field(name).type)].append(name)
    print(f"{'columns':>24} {'ours':>8} {'pyarrow':>8}   ns a value; {rows:,} rows of {path}")
    for kind, names in kinds.items():
        columns = names[:MOST_COLUMNS]
        texts = columns if kind == "string" else []
        reader = internals.KernelReader(path)
        reader.read(groups, columns)
        times: dict[str, list[float]] = {"ours": [], "pyarrow": []}
        for _ in range(options.repeat):
            times["ours"].append(seconds(lambda r=reader, c=columns: r.read(groups, c)))
            times["pyarrow"].append(
                seconds(lambda c=columns, t=texts: by_pyarrow(path, metadata, groups, c, t))
            )
        ours, its = (1e9 * median(each) / (rows * len(columns)) for each in times.values())
        remark = f"   left to pyarrow: {', '.join(sorted(reader.left))}" if reader.left else ""
        print(f"{f'{len(columns)} {kind}':>24} {ours:8.2f} {its:8.2f}{remark}")


if __name__ == "__main__":
    main()
