"""Columns that kernels read are what Arrow reads, from files of every kind; the rest is left to Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamlr
from streamlr.errors import StreamlrError
from streamlr.sources import column_chunks, parquet
from streamlr.sources.column_chunks import ChunkReader, chunks_of, stored_columns
from streamlr.sources.open import open_source

N = 3000
rng = np.random.default_rng(17)
NUMBERS: dict[str, Any] = {
    "float32": rng.normal(size=N).astype(np.float32),
    "float64": rng.normal(size=N),
    "floats": rng.normal(size=N).astype(np.float32).astype(np.float64),
    "few": rng.integers(0, 7, N) / 4,
    "constant": np.full(N, 2.5),
    "sorted": np.sort(rng.integers(0, 90, N)).astype(np.float64),
    "odd": rng.choice([np.nan, -0.0, np.inf, -np.inf, 5e-324], N),
    "flag": rng.integers(0, 2, N).astype(np.int8),
    "rare": (rng.random(N) < 0.01).astype(np.int8),
    **{f"{sign}int{bits}": rng.integers(0, 100, N).astype(f"{sign}int{bits}")
       for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "negative": rng.integers(-(2**62), 2**62, N),
    "small": rng.integers(-128, 128, N).astype(np.int8),
}  # fmt: skip
TEXTS = {
    "text": np.array(["", "a", "ünïcode", "long" * 40])[rng.integers(0, 4, N)],
    "same": np.full(N, "same"),
    "many": np.array([f"level {i}" for i in range(900)])[rng.integers(0, 900, N)],
}
TABLE = pa.table(NUMBERS | {name: pa.array(texts) for name, texts in TEXTS.items()})


def read_by_kernels(path: Path | str, groups: list[int] | None = None) -> dict[str, pa.ChunkedArray]:
    """Columns of row groups that kernels read; every one is what Arrow makes of it."""
    metadata = pq.read_metadata(path)
    groups = list(range(metadata.num_row_groups)) if groups is None else groups
    row_groups = [metadata.row_group(group) for group in groups]
    arrays = {}
    with ChunkReader(str(path)) as reader:
        for name, column in stored_columns(metadata, pq.read_schema(path)).items():
            chunks = chunks_of(column, row_groups)
            read = None if chunks is None else reader.read(column, chunks)
            if read is not None:
                arrays[name] = pa.chunked_array(read)
    texts = [name for name, array in arrays.items() if pa.types.is_dictionary(array.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        by_arrow = file.read_row_groups(groups, columns=list(arrays))
    for name, array in arrays.items():
        array.validate(full=True)
        assert array.type == by_arrow[name].type
        assert bits_of(array) == bits_of(by_arrow[name]), name
        for ours, its in zip(array.chunks, by_arrow[name].chunks, strict=False):
            if pa.types.is_dictionary(array.type):
                assert ours.dictionary.equals(its.dictionary)
    return arrays


def bits_of(array: pa.ChunkedArray) -> list[Any]:
    """Values as lists, floats by their bits, so that signs of zeros and NaN count."""
    if pa.types.is_floating(array.type):
        kind = f"int{array.type.bit_width}"
        return array.combine_chunks().to_numpy(zero_copy_only=False).view(kind).tolist()
    return array.to_pylist()


@pytest.mark.parametrize("compression", ["snappy", "none"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"row_group_size": 700, "data_page_size": 64, "write_batch_size": 100},
        {"row_group_size": 1, "use_dictionary": False},
        {"dictionary_pagesize_limit": 400, "data_page_size": 500, "write_batch_size": 64},
        {"write_page_index": True, "write_statistics": False},
    ],
    ids=str,
)
def test_numbers_and_codes_are_what_arrow_reads(
    tmp_path: Path, compression: str, version: str, shape: dict[str, Any]
) -> None:
    table = TABLE.slice(0, 40) if shape.get("row_group_size") == 1 else TABLE
    pq.write_table(table, tmp_path / "t.parquet", compression=compression, data_page_version=version, **shape)
    read = read_by_kernels(tmp_path / "t.parquet")
    assert set(NUMBERS) <= set(read)
    if shape.get("use_dictionary", True) and "dictionary_pagesize_limit" not in shape:
        assert set(TEXTS) <= set(read)


def test_columns_that_cannot_have_nulls_have_no_levels(tmp_path: Path) -> None:
    schema = pa.schema([field.with_nullable(False) for field in TABLE.schema])
    for version in ("1.0", "2.0"):
        pq.write_table(TABLE.cast(schema), tmp_path / "t.parquet", data_page_version=version)
        assert set(read_by_kernels(tmp_path / "t.parquet")) == set(TABLE.column_names)


def test_some_row_groups_are_read_in_their_order(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet", row_group_size=500)
    read = read_by_kernels(tmp_path / "t.parquet", [4, 1])
    assert read["float64"].to_pylist() == [*NUMBERS["float64"][2000:2500], *NUMBERS["float64"][500:1000]]
    assert read["many"].num_chunks == 2


@pytest.mark.parametrize(
    "columns",
    [
        {"x": pa.array([1.5, None, 2.5])},
        {"x": pa.array([None, None], pa.float64())},
        {"x": pa.array(["a", None])},
        {"x": pa.array([True, False])},
        {"x": pa.array([[1.0], [2.0, 3.0]])},
        {"x": pa.array([{"x": 1.0}, {"x": 2.0}])},
        {"x": pa.array([1, 2], pa.timestamp("us"))},
        {"x": pa.array([1, 2], pa.date32())},
        {"x": pa.array(np.array([1.5, 2.5], np.float16))},
        {"x": pa.array(["a", "b"], pa.large_string())},
        {"x": pa.array([b"a", b"b"])},
        {"x": pa.array([])},
    ],
    ids=lambda columns: str(columns["x"].type) + (" with nulls" if columns["x"].null_count else ""),
)
@pytest.mark.parametrize("statistics", [True, False])
def test_everything_else_is_left_to_arrow(tmp_path: Path, columns: dict[str, Any], statistics: bool) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", write_statistics=statistics)
    assert read_by_kernels(tmp_path / "t.parquet") == {}


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "zstd"},
        {"compression": "lz4"},
        {"write_page_checksum": True},
        {"use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"},
    ],
    ids=str,
)
def test_other_ways_of_storing_numbers_are_left_to_arrow(tmp_path: Path, options: dict[str, Any]) -> None:
    pq.write_table(TABLE.select(["float64", "float32"]), tmp_path / "t.parquet", **options)
    assert read_by_kernels(tmp_path / "t.parquet") == {}


def test_delta_coded_integers_are_left_to_arrow(tmp_path: Path) -> None:
    options: Any = {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"}
    pq.write_table(TABLE.select(["int32", "int64"]), tmp_path / "t.parquet", **options)
    assert read_by_kernels(tmp_path / "t.parquet") == {}


def test_a_chunk_of_more_pages_than_the_table_holds_is_left_to_arrow(tmp_path: Path) -> None:
    shape: Any = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    pq.write_table(TABLE.select(["float32"]), tmp_path / "t.parquet", **shape)
    assert read_by_kernels(tmp_path / "t.parquet") == {}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of both versions, whose pages are damaged below."""
    folder = tmp_path_factory.mktemp("damage")
    table = TABLE.select(["few", "float64", "rare", "text", "int8"]).slice(0, 300)
    files = {}
    for version in ("1.0", "2.0"):
        for compression in ("none", "snappy"):
            path = folder / f"{version} {compression}.parquet"
            pq.write_table(
                table, path, data_page_version=version, compression=compression, data_page_size=400,
                write_batch_size=50,
            )  # fmt: skip
            files[path.name] = path.read_bytes()
    return files


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pages_are_refused_or_mean_what_they_mean_to_arrow(
    stored: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of what kernels make something of, Arrow makes the same, or tells that it is damaged."""
    name = data.draw(st.sampled_from(sorted(stored)))
    whole = bytearray(stored[name])
    pages = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(4, pages - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(whole)
    metadata = pq.read_metadata(path)
    group = metadata.row_group(0)
    with ChunkReader(str(path)) as reader:
        for column_name, column in stored_columns(metadata, pq.read_schema(path)).items():
            chunks = chunks_of(column, [group])
            assert chunks is not None
            read = reader.read(column, chunks)
            if read is None:
                continue
            try:
                with pq.ParquetFile(path, read_dictionary=["text"]) as file:
                    (by_arrow,) = file.read(columns=[column_name], use_threads=False).columns
            except (pa.ArrowException, OSError):
                continue
            if not pa.types.is_dictionary(column.type):
                assert bits_of(pa.chunked_array(read)) == bits_of(by_arrow)
            else:
                assert pa.chunked_array(read).cast(pa.binary()).equals(by_arrow.cast(pa.binary()))


def test_a_part_joins_what_kernels_and_arrow_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TABLE.append_column("gap", pa.array(np.where(NUMBERS["flag"], 1.5, np.nan), from_pandas=True))
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    monkeypatch.setattr(parquet, "KERNEL_ROWS", 1)
    columns = ["many", "gap", "float32", "flag"]
    (part,) = open_source(str(tmp_path / "t.parquet")).parts
    batches = list(part.read(columns, ["many"], 1 << 17))
    whole = pa.Table.from_batches(batches)
    assert whole.column_names == columns
    for name in columns:
        assert whole[name].to_pylist() == table[name].to_pylist()
    assert [batch.num_rows for batch in batches] == [1000, 1000, 1000]


def test_kernels_read_parts_of_many_rows_and_arrow_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    (part,) = open_source(str(tmp_path / "t.parquet")).parts
    read: list[str] = []
    plain = column_chunks.ChunkReader.read

    def noted(reader: Any, column: Any, *rest: Any) -> Any:
        read.append(str(column.type))
        return plain(reader, column, *rest)

    monkeypatch.setattr(column_chunks.ChunkReader, "read", noted)
    list(part.read(["float32", "text", "flag"], ["text"], 1 << 17))
    assert read == []
    monkeypatch.setattr(parquet, "KERNEL_ROWS", N)
    list(part.read(["float32", "text", "flag"], ["text"], 1 << 17))
    assert read == ["float", str(column_chunks.CODED), "int8"]
    list(part.read(["text"], [], 1 << 17))  # texts themselves
    assert len(read) == 3


def test_numbers_are_read_into_memory_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that kernels of a fit take as they are; what is narrowed, coded or Arrow's lies elsewhere."""
    table = TABLE.append_column("gap", pa.array([None, *range(1, N)], pa.float64()))
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    monkeypatch.setattr(parquet, "KERNEL_ROWS", 1)
    (part,) = open_source(str(tmp_path / "t.parquet")).parts
    memory: dict[str, np.ndarray] = {}

    def room(sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        memory.update({name: np.zeros(size, np.uint8) for name, size in sizes.items() if name != "int64"})
        return memory

    columns = ["float64", "many", "float32", "int8", "int32", "int64", "gap", "uint32"]
    whole = pa.Table.from_batches(list(part.read(columns, ["many"], 1 << 17, room=room)))
    assert set(memory) == {"float64", "float32", "int32"}
    for name in columns:
        assert whole[name].to_pylist() == table[name].to_pylist()
    for name, bytes_there in memory.items():
        assert bytes_there.view(name).tolist() == NUMBERS[name].tolist()
        first = whole[name].chunk(0).buffers()[1]
        assert first is not None
        assert bytes_there.ctypes.data <= first.address < bytes_there.ctypes.data + bytes_there.nbytes


def test_a_damaged_page_is_told_of_in_arrows_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "KERNEL_ROWS", 1)
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE.select(["flag", "float64"]), path)
    whole = bytearray(path.read_bytes())
    offset = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    whole[offset : offset + 12] = b"\xff" * 12
    path.write_bytes(whole)
    with pytest.raises(StreamlrError, match=r"t\.parquet, row group 0: cannot be read \("):
        streamlr.fit(str(path), "flag ~ float64")
