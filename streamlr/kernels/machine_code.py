"""Machine code of kernels: kept in files, loaded, called.

A file holds one kernel for arguments of some types. Its name tells everything that the code depends on but
what the kernels themselves say. That stands in its head behind a checksum: once any of their sources has
changed the code is compiled anew and put in its place. Files lie in `NUMBA_CACHE_DIR` where that is set, else
beside the kernels (`__pycache__`), else in the user's folder for caches; where none of them can be written to
kernels are compiled for this process alone and one line says so.

Code is called as Numba calls it, `status = code(result, exception, words, results)`, which is its convention
for functions of two integers without a result. The arguments stand in `words`, eight bytes each, what the
kernel returns is put into `results`.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding

Kinds = Sequence[Any]

# What code that takes arrays refers to although it never lets go of one.
RELEASE = "NRT_MemInfo_call_dtor"
# Where results and exceptions go that no kernel has: nobody reads it.
_unread = (ctypes.c_int64 * 2)()
_UNREAD = ctypes.addressof(_unread)
_PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p
)
SUCCESSFUL = (0, -2)  # Numba's codes of a function that returned, and of one that returned None
_loaded: list[Any] = []  # code is there as long as its engine is
_told = False


class Compiled(NamedTuple):
    """What a compiler makes of a kernel."""

    code: bytes  # an object file
    symbol: str  # the function in it
    externals: tuple[str, ...]  # what it calls that is not in it
    results: str  # the words of what it returns, as `struct` has them
    is_tuple: bool  # whether they are returned as a tuple


class MachineCode:
    """A kernel that can be called with packed words."""

    def __init__(self, compiled: Compiled, name: str) -> None:
        self._name = name
        self._function = _PROTOTYPE(_address_of(compiled))
        self._results = struct.Struct(compiled.results)
        self._is_tuple = compiled.is_tuple

    def __call__(self, words: bytes) -> Any:
        results = ctypes.create_string_buffer(self._results.size) if self._results.size else None
        status = self._function(_UNREAD, _UNREAD + 8, words, results)
        if status not in SUCCESSFUL:
            raise RuntimeError(f"the kernel {self._name} failed with status {status}")
        if results is None:
            return None
        values = self._results.unpack(results.raw)
        return values if self._is_tuple else values[0]


def find(function: Callable[..., Any], kinds: Kinds, compile_: Callable[[Kinds], Compiled]) -> MachineCode:
    """The machine code of a kernel for arguments of some kinds: loaded, or compiled and kept."""
    name = function.__qualname__
    source = Path(function.__code__.co_filename)
    if "<locals>" in name or not source.exists():  # what it consists of is not in a file alone
        return MachineCode(compile_(kinds), name)
    file = f"{source.stem}.{name}-{_digest(_host(), _written(kinds))}.kernel"
    stamp = _SOURCES if source.parent == _FOLDER else _digest(_SOURCES, source.read_bytes())
    folders = _folders(source)
    for folder in folders:
        compiled = _read(folder / file, stamp)
        if compiled is not None and all(_is_there(external) for external in compiled.externals):
            return MachineCode(compiled, name)
    compiled = compile_(kinds)
    if not any(_write(folder / file, stamp, compiled) for folder in folders):
        _tell_of_no_folder()
    return MachineCode(compiled, name)


def _address_of(compiled: Compiled) -> int:
    engine = _new_engine()
    engine.add_object_file(binding.ObjectFileRef.from_data(compiled.code))
    engine.finalize_object()
    _loaded.append(engine)
    return int(engine.get_function_address(compiled.symbol))


def _new_engine() -> Any:
    machine = _target().create_target_machine(jit=True)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


@cache
def _target() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    if binding.address_of_symbol(RELEASE) is None:  # Numba, should anybody import it later, puts in its own
        binding.add_symbol(RELEASE, ctypes.cast(ctypes.pythonapi.Py_FatalError, ctypes.c_void_p).value)
    return binding.Target.from_default_triple()


def _is_there(external: str) -> bool:
    """Whether code that calls a function of this name can be loaded; where not LLVM ends the process."""
    if not _loaded:
        _loaded.append(_new_engine())  # the first one makes the functions of this process known
    return binding.address_of_symbol(external) is not None


@cache
def _host() -> str:
    """All that machine code depends on beside the kernels: compiler, processor, settings of Numba, and where
    an array's fields begin behind the head of a Python object."""
    settings = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith("NUMBA_")]
    return "\n".join(
        [
            *(setting for setting in settings if not setting.startswith("NUMBA_CACHE_DIR=")),
            *(numba_version(), llvmlite.__version__, np.__version__, sys.platform),
            *(binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()),
            str(object.__basicsize__),
        ]
    )


@cache
def numba_version() -> str:
    """The version of Numba, which is not imported for it.

    `importlib.metadata` knows it, but takes 0.015 s to be imported; the folder of what it knows has the
    version in its name.
    """
    spec = find_spec("numba")
    if spec is not None and spec.origin is not None:
        found = list(Path(spec.origin).parents[1].glob("numba-*.dist-info"))
        if len(found) == 1:
            return found[0].name.removeprefix("numba-").removesuffix(".dist-info")
    from importlib.metadata import version

    return version("numba")


def _written(kinds: Kinds) -> str:
    return " ".join(
        f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind) for kind in kinds
    )


def _digest(*parts: str | bytes) -> str:
    total = blake2b(digest_size=10)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


# As they are when kernels are imported: code that is compiled later is theirs, even if they change meanwhile.
_FOLDER = Path(__file__).parent
_SOURCES = _digest(*(path.read_bytes() for path in sorted(_FOLDER.glob("*.py"))))


def _folders(source: Path) -> list[Path]:
    """Where machine code may lie, the first choice first."""
    told = os.environ.get("NUMBA_CACHE_DIR")
    if told:
        return [Path(told)]
    if sys.platform == "win32":
        users = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        users = "~/Library/Caches"
    else:
        users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [source.parent / "__pycache__", Path(os.path.expanduser(users)) / "streamlr"]


def _read(path: Path, stamp: str) -> Compiled | None:
    """What a file holds; None where there is none, or one that is older than the sources or damaged."""
    try:
        checksum, _, rest = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != b"%d" % zlib.crc32(rest):
        return None
    head, _, code = rest.partition(b"\n")
    sources, symbol, externals, results, is_tuple = json.loads(head)
    return Compiled(code, symbol, tuple(externals), results, is_tuple) if sources == stamp else None


def _write(path: Path, stamp: str, compiled: Compiled) -> bool:
    """Whether a file could be written. Others see it whole or not at all."""
    code, *told = compiled
    rest = json.dumps([stamp, *told]).encode() + b"\n" + code
    mine = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.write_bytes(b"%d\n" % zlib.crc32(rest) + rest)
        os.replace(mine, path)
    except OSError:
        with suppress(OSError):
            mine.unlink()
        return False
    return True


def _tell_of_no_folder() -> None:
    global _told
    if not _told:
        _told = True
        line = "streamlr: no writable folder for compiled kernels; compiling them for this run only"
        sys.stderr.write(f"{line} (set NUMBA_CACHE_DIR to keep them)\n")
