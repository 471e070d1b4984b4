"""What an argument is: a path, several, a folder, a glob, a frame or a dataset, and which source reads it."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any

from streamlr.errors import StreamlrError, did_you_mean
from streamlr.sources.base import Source

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")


def open_source(data: Any) -> Source:
    """The source that reads `data`; only metadata is read here.

    `data`: a path, folder or glob, a list of them, a pandas, polars or dask frame, a pyarrow Table or
    Dataset, a dict of arrays, or anything with the Arrow PyCapsule interface. Raises `StreamlrError`.
    """
    if isinstance(data, str | os.PathLike):
        return _open_paths([os.fspath(data)])
    if isinstance(data, list | tuple):
        if not data or not all(isinstance(item, str | os.PathLike) for item in data):
            raise StreamlrError("a list of data must hold at least one path, and paths only.")
        return _open_paths([os.fspath(item) for item in data])
    module = type(data).__module__
    if module.startswith("streamlr.sources."):
        return data
    if module.startswith(("dask.", "dask_expr.")) and hasattr(getattr(data, "_meta", None), "columns"):
        from streamlr.sources.dask import DaskSource

        return DaskSource(data)
    if module.startswith("pyarrow._dataset") and hasattr(data, "get_fragments"):
        from streamlr.sources.arrow import DatasetSource

        return DatasetSource(data)
    from streamlr.sources.memory import TableSource, table_of

    return TableSource(table_of(data), origin=f"a {module.split('.')[0]} {type(data).__name__}")


def _open_paths(paths: Sequence[str]) -> Source:
    from streamlr.sources.parquet import ParquetSource

    return ParquetSource([file for path in paths for file in _files_of(path)])


def _files_of(path: str) -> list[tuple[str, Mapping[str, str]]]:
    """The files a path stands for, in sorted order, each with its key=value folders."""
    if os.path.isdir(path):
        files = _files_below(path)
        if not files:
            raise StreamlrError(f"{path} holds no Parquet file (names ending in .parquet, .parq or .pq).")
        return [(file, _hive_folders(os.path.relpath(file, path))) for file in files]
    if os.path.exists(path):
        return [(path, {})]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        fixed = os.path.dirname(path[: min(path.find(c) for c in "*?[" if c in path)])
        files = []
        for match in matches:
            if os.path.isdir(match):
                files.extend(_files_below(match))
            elif not os.path.basename(match).startswith(("_", ".")):
                files.append(match)
        if not files:
            raise StreamlrError(f"no file matches {path}.")
        return [(file, _hive_folders(os.path.relpath(file, fixed or "."))) for file in files]
    folder = os.path.dirname(path) or "."
    neighbours = os.listdir(folder) if os.path.isdir(folder) else []
    raise StreamlrError(f"{path} does not exist.{did_you_mean(os.path.basename(path), neighbours)}")


def _files_below(folder: str) -> list[str]:
    found: list[str] = []
    visited: set[str] = set()  # links are followed, and each folder is read once however many lead to it

    def fail(error: OSError) -> None:
        raise StreamlrError(f"{error.filename}: {error.strerror or error}.") from error

    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(place)
        if here in visited:
            folders[:] = []
            continue
        visited.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        found.extend(
            os.path.join(place, name)
            for name in names
            if name.lower().endswith(PARQUET_SUFFIXES) and not name.startswith(("_", "."))
        )
    return sorted(found)


def _hive_folders(relative: str) -> dict[str, str]:
    folders = {}
    for piece in os.path.dirname(relative).split(os.sep):
        key, equals, value = piece.partition("=")
        if equals and key:
            folders[key] = value
    return folders
