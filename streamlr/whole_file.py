"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from streamlr.errors import StreamlrError


def check_writable(path: str) -> None:
    """Raise `StreamlrError` where a file at `path` could not be written, before hours of work."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise StreamlrError(f"cannot write {path}: the folder {folder} does not exist.")
    if os.path.isdir(path):
        raise StreamlrError(f"cannot write {path}: it is a folder.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StreamlrError(f"cannot write {path}: it is no regular file.")
    if not os.access(folder, os.W_OK):
        raise StreamlrError(f"cannot write {path}: no permission to write in {folder}.")


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises `StreamlrError` where the file cannot be written.
    """
    check_writable(path)
    path = os.path.realpath(path)  # a link stays, and what it points to is replaced
    folder, name = os.path.split(os.path.abspath(path))
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
        os.close(descriptor)
    except OSError as error:
        raise StreamlrError(f"cannot write {path}: {error.strerror or error}.") from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise StreamlrError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
