"""Parquet files: footers first, then runs of row groups, streamed in batches.

A part is some row groups of one file, in order, joined until they have enough rows to be worth a thread. Row
groups that a filter rules out by their footers are left out before they are joined. A part is decoded as a
whole, numbers and codes by kernels (`column_chunks.py`) and all else by Arrow; a row group too large for that
streams in bounded memory, in batches decoded straight from a small read buffer. Text columns stay dictionary
codes. Memory mapping is off because it counts the whole file as resident, and pre-buffering is off because it
reads whole row groups ahead (2.3 GB resident where this reads in 0.3).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamlr.errors import StreamlrError
from streamlr.sources.base import PART_BYTES, PART_ROWS, ColumnStatistics, check_unique_names

if TYPE_CHECKING:
    import pyarrow.compute as pc

    from streamlr.sources.column_chunks import StoredColumn

# Each column of a row group is read through a buffer of this size. Larger ones leave the second-level cache
# (126 ns a row of 28 floats with 1 MB, 107 with a quarter), smaller ones cost system calls.
READ_BUFFER = 1 << 18
# A part of up to this size, decoded, is read as a whole.
WHOLE_BYTES = 3 << 26
# Columns of a part that are decoded together.
COLUMNS_AT_ONCE = 8
# Parts of fewer rows are left to Arrow: kernels take 0.03 s to load.
KERNEL_ROWS = 1 << 14
# Row groups above the usual million of rows are worked on in ranges.
GIANT_ROWS = 1 << 20
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


Room = Callable[[Mapping[str, int]], Mapping[str, NDArray[np.uint8]]]


@dataclass(frozen=True)
class FileIdentity:
    """Which bytes a footer belonged to, so that a file changed between two passes is noticed."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> FileIdentity:
        """Identity of the file as it is now."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise StreamlrError(f"{path}: {error.strerror or error}.") from error
        return cls(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _metadata(identity: FileIdentity) -> pq.FileMetaData:
    path = identity.path
    if identity.size == 0:
        raise StreamlrError(f"{path} is empty (0 bytes); it is not a Parquet file.")
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        try:
            with open(path, "rb") as file:
                head = file.read(4)
        except OSError as denied:
            raise StreamlrError(f"{path}: {denied.strerror or denied}.") from denied
        if head == b"PAR1":
            raise StreamlrError(
                f"{path} is damaged or cut short: its footer cannot be read ({_first_line(error)})."
            ) from error
        raise StreamlrError(f"{path} is not a Parquet file (it does not begin with PAR1).") from error


@lru_cache(maxsize=256)
def _places(identity: FileIdentity) -> dict[str, int]:
    """Where the chunk of each column stands in a row group, by its path; of two with one path the first."""
    schema = _metadata(identity).schema
    return {schema.column(place).path: place for place in reversed(range(len(schema)))}


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


@dataclass(frozen=True)
class ParquetPart:
    """Some row groups of a file, by number, with the values of its Hive folders as columns.

    `casts`: columns whose type in this file is narrower than in the whole of the files.
    """

    identity: FileIdentity
    groups: tuple[int, ...]
    rows: int
    folders: tuple[tuple[str, Any], ...] = ()
    casts: tuple[tuple[str, pa.DataType], ...] = ()

    @property
    def first(self) -> int:
        """Number of its first row group."""
        return self.groups[0]

    @property
    def giant(self) -> bool:
        """Whether it is one row group too large to be left to one thread."""
        return self.rows > GIANT_ROWS

    @property
    def takes_room(self) -> bool:
        """That numbers can be read into memory at hand."""
        return True

    def read(
        self,
        columns: Sequence[str],
        coded: Sequence[str],
        batch_rows: int,
        *,
        parallel: bool = False,
        room: Room | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the columns asked for, in that order; `parallel`: decoded on several threads; `room`:
        where numbers may lie."""
        if FileIdentity.of(self.identity.path) != self.identity:
            raise StreamlrError(f"{self.identity.path} was changed while it was being read. Fit again.")
        folders = dict(self.folders)
        stored = [name for name in columns if name not in folders]
        codable = self._codable([name for name in coded if name not in folders])
        schema = _schema(self.identity)
        self._check_columns(stored, schema)
        try:
            if self._at_once(schema, stored):
                batches = self._whole(stored, codable, room)
            else:
                batches = self._streamed(stored, codable, batch_rows, parallel)
            while (batch := next(batches, None)) is not None:
                batch = _arranged(batch, columns, folders, dict(self.casts))
                yield batch
                del batch  # so that its memory is free while the next one is decoded
        except (pa.ArrowException, OSError) as error:
            raise StreamlrError(f"{self._culprit(stored)}: cannot be read ({_first_line(error)}).") from error

    def _open(self, codable: Sequence[str]) -> pq.ParquetFile:
        return pq.ParquetFile(
            self.identity.path,
            metadata=_metadata(self.identity),
            read_dictionary=codable,
            buffer_size=READ_BUFFER,
            pre_buffer=False,
            memory_map=False,
            page_checksum_verification=True,
        )

    def _at_once(self, schema: pa.Schema, stored: Sequence[str]) -> bool:
        """Whether all rows are decoded as one batch."""
        return bool(stored) and not self.giant and self.rows * row_width(schema, stored) <= WHOLE_BYTES

    def held_rows(self, columns: Sequence[str], batch_rows: int) -> int:
        """Rows in memory at once: the part's, or a batch and the one being decoded behind it."""
        schema = _schema(self.identity)
        present = set(schema.names)
        stored = [name for name in columns if name in present]
        return self.rows if self._at_once(schema, stored) else min(self.rows, 2 * batch_rows)

    def _streamed(
        self, stored: Sequence[str], codable: Sequence[str], batch_rows: int, parallel: bool
    ) -> Iterator[pa.RecordBatch]:
        with self._open(codable) as file:
            yield from file.iter_batches(
                batch_rows, row_groups=list(self.groups), columns=stored, use_threads=parallel
            )

    def _whole(
        self, stored: Sequence[str], codable: Sequence[str], room: Room | None
    ) -> Iterator[pa.RecordBatch]:
        """All rows as one batch, or as many as dictionaries end inside."""
        arrays: dict[str, Any] = self._by_kernels(stored, codable, room)
        left = [name for name in stored if name not in arrays]
        if left:
            arrays.update(self._by_arrow(left, codable))
        whole = pa.table({name: arrays[name] for name in stored})
        del arrays
        batches = iter(whole.to_batches())
        del whole
        yield from batches

    def _by_kernels(
        self, stored: Sequence[str], codable: Sequence[str], room: Room | None
    ) -> dict[str, pa.ChunkedArray]:
        """Those columns that kernels can read, where there are rows enough to be worth loading them."""
        if self.rows < KERNEL_ROWS:
            return {}
        from streamlr.sources.column_chunks import ChunkReader, chunks_of

        known = _stored_columns(self.identity)
        groups = [_metadata(self.identity).row_group(group) for group in self.groups]
        chunks = {}
        for name in stored:
            column = known.get(name)
            if column is not None and (not column.coded or name in codable):
                found = chunks_of(column, groups)
                if found is not None:
                    chunks[name] = found
        cast = dict(self.casts)
        sizes = {
            name: column.width * self.rows
            for name in chunks
            if not (column := known[name]).coded and not column.narrows and name not in cast
        }
        memory = {} if room is None else room(sizes)
        arrays = {}
        with ChunkReader(self.identity.path) as reader:
            for name in chunks:
                read = reader.read(known[name], chunks[name], memory.get(name))
                if read is not None:
                    arrays[name] = pa.chunked_array(read)
        return arrays

    def _by_arrow(
        self, stored: Sequence[str], codable: Sequence[str]
    ) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Columns that Arrow reads, some at a time, so that pages of those alone are in memory: 43 MB instead
        of 100 for 250,000 rows of 29 columns, and a seventh faster."""
        with self._open(codable) as file:
            for first in range(0, len(stored), COLUMNS_AT_ONCE):
                some = file.read_row_groups(
                    list(self.groups), columns=stored[first : first + COLUMNS_AT_ONCE], use_threads=False
                )
                yield from zip(some.column_names, some.columns, strict=True)

    def _codable(self, names: Sequence[str]) -> list[str]:
        """Columns that Arrow can decode to codes: all but delta-encoded ones."""
        if not names:
            return []
        metadata = _metadata(self.identity)
        places = _places(self.identity)
        return [
            name
            for name in names
            if name in places
            and not any(
                encoding.startswith("DELTA")
                for group in self.groups
                for encoding in metadata.row_group(group).column(places[name]).encodings
            )
        ]

    def _culprit(self, stored: Sequence[str]) -> str:
        """The row group that cannot be read, by reading them again one by one."""
        for group in self.groups:
            try:
                with pq.ParquetFile(self.identity.path, page_checksum_verification=True) as file:
                    file.read_row_group(group, columns=list(stored), use_threads=False)
            except (pa.ArrowException, OSError):
                return f"{self.identity.path}, row group {group}"
        return f"{self.identity.path}, row groups {self.first} to {self.groups[-1]}"

    def _check_columns(self, stored: Sequence[str], schema: pa.Schema) -> None:
        present = set(schema.names)
        missing = [name for name in stored if name not in present]
        if missing:
            raise StreamlrError(
                f"{self.identity.path} has no column '{missing[0]}', which other files of the data have."
            )


def row_width(schema: pa.Schema, columns: Sequence[str]) -> int:
    """Bytes of a decoded row; text counts as its codes."""
    width = 0
    for name in columns:
        kind = schema.field(name).type
        width += kind.bit_width // 8 if pa.types.is_primitive(kind) else 4
    return width


def _arranged(
    batch: pa.RecordBatch,
    columns: Sequence[str],
    folders: dict[str, Any],
    casts: dict[str, pa.DataType],
) -> pa.RecordBatch:
    arrays = []
    for name in columns:
        if name in casts:
            arrays.append(batch.column(name).cast(casts[name], safe=False))
        elif name not in folders:
            arrays.append(batch.column(name))
        elif isinstance(folders[name], str):
            codes = pa.repeat(pa.scalar(0, pa.int32()), batch.num_rows)
            arrays.append(pa.DictionaryArray.from_arrays(codes, pa.array([folders[name]])))
        else:
            arrays.append(pa.repeat(pa.scalar(folders[name], pa.int64()), batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


class ParquetSource:
    """One or more Parquet files, in the order given, read as one table."""

    def __init__(self, files: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """`files`: paths, each with the key=value folders that it lies in."""
        identities = [FileIdentity.of(path) for path, _ in files]
        schemas = [_schema(identity) for identity in identities]
        for identity, schema in zip(identities, schemas, strict=True):
            check_unique_names(schema, identity.path)
        folders = _typed_folders([folder for _, folder in files])
        self._identities = identities
        self._folders = folders
        self._schema = unify_schemas([(i.path, s) for i, s in zip(identities, schemas, strict=True)])
        for name in folders[0] if folders else ():
            kind = pa.string() if any(isinstance(f[name], str) for f in folders) else pa.int64()
            index = self._schema.get_field_index(name)
            field = pa.field(name, kind)
            self._schema = self._schema.append(field) if index < 0 else self._schema.set(index, field)
        self._keep([tuple(range(_metadata(identity).num_row_groups)) for identity in identities])

    def _keep(self, groups: Sequence[tuple[int, ...]]) -> None:
        """Be the rows of these row groups of every file and no others."""
        self._groups = groups
        self._parts = [
            part
            for identity, kept, folder in zip(self._identities, groups, self._folders, strict=True)
            for part in _parts_of(identity, kept, tuple(folder.items()), self._casts(_schema(identity)))
        ]
        self._statistics: dict[str, ColumnStatistics] = {}

    def where(self, condition: pc.Expression) -> ParquetSource:
        """This source without the row groups in which `condition` can be true of no row.

        What the footers tell of ranges and nulls decides, and for whole files the values of their folders.
        Rows for which the condition is not true remain in the other row groups, so whoever reads them must
        still look at each. A row group stays where its footer tells nothing (Arrow reads nothing from those
        of dictionary, float16 and date64 columns), and so do those of a file whose types the condition does
        not fit. `condition` may name any column of `schema`. Of a float column it must not ask for NaN:
        ranges leave NaN out, and one value told as both ends of a range is taken to stand in every row.
        """
        remaining = copy.copy(self)
        remaining._keep(
            [
                _possible_groups(identity, kept, self._kinds_in(identity, folder), folder, condition)
                for identity, kept, folder in zip(self._identities, self._groups, self._folders, strict=True)
            ]
        )
        return remaining

    def _kinds_in(self, identity: FileIdentity, folder: Mapping[str, Any]) -> pa.Schema:
        """All columns, those of the file with the types in which its footer tells their ranges."""
        stored = _schema(identity)
        own = set(stored.names) - set(folder)
        return pa.schema([stored.field(field.name) if field.name in own else field for field in self._schema])

    def _casts(self, schema: pa.Schema) -> tuple[tuple[str, pa.DataType], ...]:
        """Numbers that one file stores otherwise than the files together; text needs no cast to be coded."""
        return tuple(
            (field.name, self._schema.field(field.name).type)
            for field in schema
            if _is_number(field.type) and field.type != self._schema.field(field.name).type
        )

    @property
    def schema(self) -> pa.Schema:
        """Names and types, promoted over all files."""
        return self._schema

    @property
    def parts(self) -> Sequence[ParquetPart]:
        """Runs of row groups, file after file."""
        return self._parts

    @property
    def rows(self) -> int:
        """Number of rows, from the footers."""
        return sum(part.rows for part in self._parts)

    @property
    def origin(self) -> Sequence[str]:
        """The paths of the files."""
        return [identity.path for identity in self._identities]

    @property
    def row_groups(self) -> int:
        """Number of row groups of all files, without those that a filter rules out."""
        return sum(len(groups) for groups in self._groups)

    @property
    def row_groups_skipped(self) -> int:
        """Number of row groups that a filter rules out."""
        return sum(_metadata(identity).num_row_groups for identity in self._identities) - self.row_groups

    def numbered_in_files(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of rows over all row groups, those that a filter rules out as well, from numbers over those
        that remain; each (m,), from 0."""
        begins, sizes, at = [], [], 0
        for identity, kept in zip(self._identities, self._groups, strict=True):
            metadata = _metadata(identity)
            for group in range(metadata.num_row_groups):
                count = metadata.row_group(group).num_rows
                if group in kept:
                    begins.append(at)
                    sizes.append(count)
                at += count
        ends = np.cumsum(np.array(sizes, dtype=np.int64))
        group_of_row = np.searchsorted(ends, rows, side="right")
        moved = np.array(begins, dtype=np.int64) - (ends - np.array(sizes, dtype=np.int64))
        return rows + moved[group_of_row]

    def statistics(self, column: str) -> ColumnStatistics:
        """Null count and range of a column over the row groups that remain, where every footer tells them."""
        if column not in self._statistics:
            if self._folders and column in self._folders[0]:
                values = [f[column] for f, kept in zip(self._folders, self._groups, strict=True) if kept]
                self._statistics[column] = _folder_statistics(values)
            else:
                groups = list(zip(self._identities, self._groups, strict=True))
                self._statistics[column] = _footer_statistics(groups, column)
        return self._statistics[column]


@lru_cache(maxsize=256)
def _schema(identity: FileIdentity) -> pa.Schema:
    with pq.ParquetFile(identity.path, metadata=_metadata(identity)) as file:
        return file.schema_arrow


@lru_cache(maxsize=256)
def _stored_columns(identity: FileIdentity) -> dict[str, StoredColumn]:
    from streamlr.sources.column_chunks import stored_columns

    return stored_columns(_metadata(identity), _schema(identity))


def _parts_of(
    identity: FileIdentity,
    groups: Sequence[int],
    folders: tuple[tuple[str, Any], ...],
    casts: tuple[tuple[str, pa.DataType], ...],
) -> list[ParquetPart]:
    metadata = _metadata(identity)
    parts = []
    joined: list[int] = []
    rows = size = 0
    for group in groups:
        joined.append(group)
        rows += metadata.row_group(group).num_rows
        size += metadata.row_group(group).total_byte_size
        if rows >= PART_ROWS or size >= PART_BYTES or group == groups[-1]:
            if rows:
                parts.append(ParquetPart(identity, tuple(joined), rows, folders, casts))
            joined, rows, size = [], 0, 0
    return parts


def _possible_groups(
    identity: FileIdentity,
    groups: Sequence[int],
    kinds: pa.Schema,
    folder: Mapping[str, Any],
    condition: pc.Expression,
) -> tuple[int, ...]:
    """Those of the row groups of a file in which `condition` may be true of a row."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds  # imports pandas, which a fit without a filter does without
    from pyarrow.fs import LocalFileSystem

    known = None
    for name, value in folder.items():
        field = pc.field(name)
        told = field.is_null() if value is None else field == pa.scalar(value, kinds.field(name).type)
        known = told if known is None else known & told
    try:
        fragment = ds.ParquetFileFormat().make_fragment(identity.path, LocalFileSystem(), known)
        possible = {group.id for group in fragment.subset(condition, schema=kinds).row_groups}
    except (pa.ArrowException, OSError):
        # A condition that does not fit the types rules nothing out; an unreadable file is told by its reader.
        return tuple(groups)
    return tuple(group for group in groups if group in possible)


def _footer_statistics(
    row_groups: Sequence[tuple[FileIdentity, Sequence[int]]], column: str
) -> ColumnStatistics:
    nulls: int | None = 0
    ranges: list[Any] | None = []
    for identity, groups in row_groups:
        metadata = _metadata(identity)
        place = _places(identity).get(column)
        if place is None and groups:
            return ColumnStatistics()
        for group in groups:
            chunk = metadata.row_group(group).column(place)
            told = chunk.statistics
            counted = told is not None and told.has_null_count
            nulls = nulls + told.null_count if counted and nulls is not None else None
            all_null = counted and told.null_count == chunk.num_values
            if told is not None and told.has_min_max and _comparable(told.min):
                if ranges is not None:
                    ranges.extend((told.min, told.max))
            elif not all_null:
                ranges = None
    if not ranges:
        return ColumnStatistics(nulls)
    return ColumnStatistics(nulls, min(ranges), max(ranges))


def _comparable(value: Any) -> bool:
    """Whether a statistic is a value of the column and not the bytes of one."""
    return not isinstance(value, bytes)


def _folder_statistics(values: Sequence[Any]) -> ColumnStatistics:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ColumnStatistics()
    if not known:
        return ColumnStatistics(0)
    return ColumnStatistics(0, min(known), max(known))


def _typed_folders(folders: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Values of Hive folders: integers where every file's value is one, text otherwise, None for null."""
    keys = list(folders[0]) if folders else []
    if any(list(folder) != keys for folder in folders):
        raise StreamlrError(
            "the files lie in folders of different kinds: "
            f"some under {'/'.join(f'{key}=…' for key in keys) or 'no key=value folder'}, others not."
        )
    typed: list[dict[str, Any]] = [{} for _ in folders]
    for key in keys:
        values = [None if folder[key] == HIVE_NULL else unquote(folder[key]) for folder in folders]
        whole = all(value is None or re.fullmatch(r"-?(0|[1-9]\d{0,17})", value) for value in values)
        for target, value in zip(typed, values, strict=True):
            target[key] = int(value) if whole and value is not None else value
    return typed


def unify_schemas(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """One schema for several files; integers, floats and decimals meet as float64, texts as text.

    Raises `StreamlrError` naming both files where two types have nothing in common.
    """
    fields: dict[str, tuple[str, pa.DataType]] = {}
    for path, schema in schemas:
        for field in schema:
            if field.name not in fields:
                fields[field.name] = (path, field.type)
                continue
            first_path, first_type = fields[field.name]
            common = _common_type(first_type, field.type)
            if common is None:
                raise StreamlrError(
                    f"column '{field.name}' is {first_type} in {first_path} but {field.type} in {path}. "
                    "Write both files with one type."
                )
            fields[field.name] = (path if pa.types.is_null(first_type) else first_path, common)
    return pa.schema([pa.field(name, kind) for name, (_, kind) in fields.items()])


def _common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if _is_number(a) and _is_number(b):
        if pa.types.is_integer(a) and pa.types.is_integer(b) and pa.uint64() not in (a, b):
            return pa.int64()
        return pa.float64()
    plain_a = a.value_type if pa.types.is_dictionary(a) else a
    plain_b = b.value_type if pa.types.is_dictionary(b) else b
    if _is_text(plain_a) and _is_text(plain_b):
        return pa.string()
    if plain_a == plain_b:
        return plain_a
    return None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
