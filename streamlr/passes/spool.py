"""Encoded blocks on local disk, for sources that are slow to decode: what memory has no room for is read back
as it was encoded.

One file, which is removed when the fit ends; where the system allows it, it has no name to begin with.
"""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass

from streamlr.errors import StreamlrError
from streamlr.kernels.tile import Block
from streamlr.passes.packing import Memory, Packing, aligned


class Spool:
    """A file that blocks are written to and read from, by any number of threads. A context manager."""

    def __init__(self, folder: str) -> None:
        """`folder`: where the file lies. Raises `StreamlrError` where it cannot be written."""
        self._folder = folder
        self._lock = threading.Lock()
        self._end = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="streamlr-", dir=folder)  # noqa: SIM115
        except OSError as error:
            raise StreamlrError(f"cannot spool in {folder}: {error.strerror or error}.") from error

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, block: Block) -> Spooled:
        """Write a block. Raises `StreamlrError` where the disk is full."""
        packing = Packing.of(block)
        memory = aligned(packing.size)
        packing.pack(block, memory)
        with self._lock:
            begin = self._end
            self._end += packing.size
        try:
            done = 0
            while done < packing.size:
                done += os.pwrite(self._file.fileno(), memory[done:].data, begin + done)
        except OSError as error:
            raise StreamlrError(
                f"cannot write to the spool in {self._folder} after {begin:,} bytes: "
                f"{error.strerror or error}. Choose a folder with more room, or fit without a spool."
            ) from error
        return Spooled(self, begin, packing)

    def read(self, begin: int, memory: Memory) -> None:
        """Fill `memory` from the file. Raises `StreamlrError` where it cannot be read."""
        done = 0
        while done < memory.size:
            try:
                count = os.preadv(self._file.fileno(), [memory[done:].data], begin + done)
            except OSError as error:
                raise StreamlrError(
                    f"cannot read the spool in {self._folder}: {error.strerror or error}."
                ) from error
            if count == 0:
                raise StreamlrError(f"the spool in {self._folder} was cut short while it was in use.")
            done += count


@dataclass(frozen=True)
class Spooled:
    """A block in a spool."""

    spool: Spool
    begin: int
    packing: Packing

    def load(self) -> Block:
        """The block, in memory of its own."""
        memory = aligned(self.packing.size)
        self.spool.read(self.begin, memory)
        return self.packing.view(memory)
