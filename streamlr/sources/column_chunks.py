"""Column chunks of Parquet files that kernels read: numbers without nulls, and codes of texts.

Arrow spends 3 to 14 ns on a value of such a column, most of it on dictionaries that hold nearly every value
and on compression; the kernels of `streamlr.kernels.pages` take a third of that for codes, two thirds for
numbers, and nine tenths in row groups of 20,000 rows (`benchmarks/columns.py`). Whatever they do not know
(nulls, nested and delta-coded columns, checksums, other compressions, anything damaged) is left to Arrow,
column by column, so that a file means here what it means there, and damage is told of in Arrow's words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamlr.kernels.pages import (
    CODES,
    DICTIONARY_PAGE,
    EIGHT_BYTES,
    FIELDS,
    FOUR_BYTES,
    KIND,
    SIZE,
    STRIP,
    VALUES,
    Bytes,
    Sink,
    fill_column,
    split_texts,
    walk_pages,
)

CODE = np.uint32
CODED = pa.dictionary(pa.int32(), pa.string())
NO_FOURS = np.empty(0, np.uint32)
NO_EIGHTS = np.empty(0, np.uint64)
# The types in which numbers lie in memory first, by how they are stored and what Arrow makes of them.
STORED_AS: dict[tuple[str, str], type[Any]] = {
    ("FLOAT", "float"): np.uint32,
    ("DOUBLE", "double"): np.uint64,
    ("INT64", "int64"): np.uint64,
    ("INT64", "uint64"): np.uint64,
    **{("INT32", f"{sign}int{bits}"): np.uint32 for sign in ("", "u") for bits in (8, 16, 32)},
}
COMPRESSIONS = ("UNCOMPRESSED", "SNAPPY")
LENGTH_BYTES = 4  # what tells the length of a text
# Pages that a chunk has room for in the table of their headers: one for so many of its bytes. Writers make
# pages of 20,000 values or of a megabyte; a chunk of smaller ones is left to Arrow.
BYTES_A_PAGE = 256
FEWEST_PAGES = 64
# Snappy's longest copy is 64 bytes told by three, so that no page grows more than this out of compression.
GROWTH = 22
LEAST_PAGE = 64
# A part decodes to some hundred megabytes at most; a footer or a header that tells of more in one chunk or
# page is not to be believed, or has texts of which Arrow needs less memory.
LARGEST_CHUNK = 1 << 26
LARGEST_PAGE = 1 << 27


@dataclass(frozen=True)
class StoredColumn:
    """A column of a file that kernels know.

    `place`: of its chunk in a row group. `type`: of the arrays that it becomes. `stored`: uint32 or uint64,
    as its values or codes are in memory first. `optional`: whether its schema allows for nulls.
    """

    place: int
    type: pa.DataType
    stored: type[Any]
    optional: bool

    @property
    def coded(self) -> bool:
        """Whether it is texts, which are read as codes."""
        return self.type is CODED

    @property
    def width(self) -> int:
        """Bytes that a value takes as it is stored."""
        return np.dtype(self.stored).itemsize

    @property
    def narrows(self) -> bool:
        """Whether values become others of fewer bytes, or of a type that kernels of a fit do not know."""
        return str(self.type) not in ("float", "double", "int32", "int64")


class Chunk(NamedTuple):
    """Where the values of a column in one row group lie in the file, and how many there are."""

    begin: int
    size: int
    rows: int
    snappy: bool


def stored_columns(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, StoredColumn]:
    """The columns that kernels know, by name; none on machines whose numbers begin with the highest byte."""
    columns = {}
    for place in range(metadata.num_columns if sys.byteorder == "little" else 0):
        column = metadata.schema.column(place)
        if column.max_repetition_level > 0 or column.max_definition_level > 1 or column.path != column.name:
            continue
        kind = schema.field(column.name).type
        if column.physical_type == "BYTE_ARRAY" and kind in (pa.string(), CODED):
            kind, stored = CODED, CODE
        elif (column.physical_type, str(kind)) in STORED_AS:
            stored = STORED_AS[column.physical_type, str(kind)]
        else:
            continue
        columns[column.name] = StoredColumn(place, kind, stored, column.max_definition_level == 1)
    return columns


def chunks_of(column: StoredColumn, groups: Sequence[pq.RowGroupMetaData]) -> list[Chunk] | None:
    """The chunks of a column in some row groups; None where the footer tells of anything unknown to kernels.

    It does not tell of every page, so it is `ChunkReader.read` that has the last word.
    """
    chunks = []
    for group in groups:
        metadata = group.column(column.place)
        compression = metadata.compression
        size = metadata.total_compressed_size
        if compression not in COMPRESSIONS or metadata.file_path or not 0 <= size <= LARGEST_CHUNK:
            return None
        if column.optional and (statistics := metadata.statistics) is not None and statistics.null_count:
            return None
        begin = metadata.data_page_offset
        if metadata.has_dictionary_page and metadata.dictionary_page_offset:
            begin = min(begin, metadata.dictionary_page_offset)
        chunks.append(Chunk(begin, size, group.num_rows, compression == "SNAPPY"))
    return chunks


class ChunkReader:
    """Reads columns of one file, one after another, through the same few buffers."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._file_size = os.fstat(self._file).st_size
        self._strip = np.empty(STRIP, dtype=np.int32)
        self._chunk = self._scratch = self._dictionary = _allocated(0)
        self._pages = np.empty((FEWEST_PAGES, FIELDS), dtype=np.int64)

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def read(
        self, column: StoredColumn, chunks: Sequence[Chunk], memory: Bytes | None = None
    ) -> list[pa.Array] | None:
        """All values as one array, or the codes of each chunk as one; None: Arrow must read them.

        `memory` (rows * width,): where the values of a column that does not narrow shall lie.
        """
        if column.coded:
            arrays = [self._coded(chunk, column) for chunk in chunks]
            return None if any(array is None for array in arrays) else arrays
        rows = sum(chunk.rows for chunk in chunks)
        buffer = pa.allocate_buffer(rows * column.width) if memory is None else pa.py_buffer(memory)
        values = np.frombuffer(buffer, column.stored)
        first = 0
        for chunk in chunks:
            if self._fill(chunk, column, values[first : first + chunk.rows]) is None:
                return None
            first += chunk.rows
        return [pa.Array.from_buffers(column.type, rows, [None, _narrowed(buffer, values, column.type)])]

    def _coded(self, chunk: Chunk, column: StoredColumn) -> pa.DictionaryArray | None:
        """The codes of a chunk and the texts that they stand for."""
        codes = pa.allocate_buffer(chunk.rows * CODE().itemsize)
        dictionary = self._fill(chunk, column, np.frombuffer(codes, CODE))
        if dictionary is None:
            return None
        count, size = dictionary
        lengths = LENGTH_BYTES * count
        offsets = pa.allocate_buffer(lengths + LENGTH_BYTES)
        texts = pa.allocate_buffer(size - lengths)
        into = np.frombuffer(offsets, np.int32), np.frombuffer(texts, np.uint8)
        if not split_texts(self._dictionary, size, count, *into):
            return None
        return pa.DictionaryArray.from_arrays(
            pa.Array.from_buffers(pa.int32(), chunk.rows, [None, codes]),
            pa.Array.from_buffers(pa.string(), count, [None, offsets, texts]),
            safe=False,  # the kernel has compared every code with the size of the dictionary
        )

    def _fill(self, chunk: Chunk, column: StoredColumn, out: NDArray[Any]) -> tuple[int, int] | None:
        """Values or codes of a chunk into `out` (rows,); how many its dictionary has, in how many bytes."""
        data = self._read(chunk)
        if data is None:
            return None
        room = data.size // BYTES_A_PAGE
        if room > len(self._pages):
            self._pages = np.empty((room, FIELDS), dtype=np.int64)
        pages = self._pages
        total, largest = walk_pages(data, out.size, pages)
        if total <= 0 or largest > min(GROWTH * data.size + LEAST_PAGE, LARGEST_PAGE):
            return None
        count = size = 0
        if pages[0, KIND] == DICTIONARY_PAGE:
            count, size = int(pages[0, VALUES]), int(pages[0, SIZE])
            self._dictionary = _grown(self._dictionary, size)
        self._scratch = _grown(self._scratch, largest)
        found = fill_column(
            data,
            pages,
            total,
            chunk.snappy,
            column.optional,
            self._scratch,
            self._dictionary,
            _sink(column, out, self._dictionary),
            self._strip,
        )
        return (count, size) if found else None

    def _read(self, chunk: Chunk) -> Bytes | None:
        """The bytes of a chunk, valid until the next one is read; None where the file ends before they do."""
        if chunk.begin < 0 or chunk.begin + chunk.size > self._file_size:
            return None
        self._chunk = _grown(self._chunk, chunk.size)
        data = self._chunk[: chunk.size]
        read = 0
        while read < chunk.size:
            more = os.preadv(self._file, [data[read:].data], chunk.begin + read)
            if more == 0:
                return None
            read += more
        return data


def _sink(column: StoredColumn, out: NDArray[Any], dictionary: Bytes) -> Sink:
    memory = out.view(np.uint8)
    if column.stored is np.uint64:
        return Sink(EIGHT_BYTES, memory, NO_FOURS, out, NO_FOURS, dictionary.view(np.uint64))
    become = CODES if column.coded else FOUR_BYTES
    return Sink(become, memory, out, NO_EIGHTS, dictionary.view(np.uint32), NO_EIGHTS)


def _allocated(size: int) -> Bytes:
    """Memory from Arrow's pool, which keeps what is given back: fresh pages cost more than filling them."""
    return np.frombuffer(pa.allocate_buffer(size), np.uint8)


def _grown(memory: Bytes, size: int) -> Bytes:
    return memory if memory.size >= size else _allocated(-(-size // 8) * 8)


def _narrowed(memory: pa.Buffer, values: NDArray[Any], kind: pa.DataType) -> pa.Buffer:
    """Integers of 32 bits in the memory that `kind` takes."""
    if kind.bit_width == 8 * values.itemsize:
        return memory
    narrow = pa.allocate_buffer(values.size * kind.bit_width // 8)
    np.copyto(np.frombuffer(narrow, kind.to_pandas_dtype()), values, casting="unsafe")
    return narrow
