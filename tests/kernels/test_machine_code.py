"""Machine code that is kept comes back in another process, as long as it is what would be compiled now."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from streamlr.kernels import machine_code
from streamlr.kernels.jit import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="nothing is compiled")

MODULE = """
import numpy as np
from streamlr.kernels.jit import kernel

@kernel
def doubled(x):
    total = 0.0
    for value in x:
        total += 2.0 * np.floor(value)
    return total

@kernel
def halved(x):
    return doubled(x) / 4.0
"""
# Results, and whether Numba was needed for them.
CALLS = """
import sys
import numpy as np
{before}
from own import doubled, halved
x = np.arange(5.0)
print(doubled(x), halved(x), "numba" in sys.modules)
{after}
"""


def calls(folder: Path, *, before: str = "", after: str = "", **environment: str | None) -> list[str]:
    """What a fresh process that calls two kernels prints, its errors behind it."""
    if not (folder / "own.py").exists():
        (folder / "own.py").write_text(MODULE)
    settings = {"NUMBA_CACHE_DIR": str(folder / "cache"), **environment}
    program = CALLS.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={
            **{key: value for key, value in os.environ.items() if key not in settings},
            **{key: value for key, value in settings.items() if value is not None},
            "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        },
    )
    return (done.stdout + done.stderr).split()


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache").iterdir())


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    assert calls(folder) == COMPILED_NOW
    return folder


@pytest.fixture
def compiled(compiled_once: Path, tmp_path: Path) -> Path:
    """A folder with the kernels and their code, at another place than where they were compiled."""
    return Path(shutil.copytree(compiled_once, tmp_path / "copy"))


COMPILED_NOW = ["20.0", "5.0", "True"]
LOADED = ["20.0", "5.0", "False"]


def test_code_that_is_kept_needs_no_compiler(compiled: Path) -> None:
    assert [path.name.partition("-")[0] for path in kept(compiled)] == ["own.doubled", "own.halved"]
    assert calls(compiled) == LOADED


def test_other_types_are_compiled_beside_what_was_loaded(compiled: Path) -> None:
    other = "print(doubled(x.astype('f4')), 'numba' in sys.modules)"
    assert calls(compiled, after=other) == [*LOADED, "20.0", "True"]
    assert calls(compiled, after=other) == [*LOADED, "20.0", "False"]
    assert len(kept(compiled)) == 3


def test_kernels_inside_functions_are_not_kept(compiled: Path) -> None:
    """They may contain anything that was around when they were defined."""
    local = (
        "from streamlr.kernels.jit import kernel\n"
        "def plus(n):\n"
        "    @kernel\n"
        "    def added(x):\n"
        "        return x[0] + n\n"
        "    return added\n"
        "print(plus(1)(x), plus(2)(x))"
    )
    (compiled / "local.py").write_text("import numpy as np\nx = np.arange(5.0)\n" + local)
    assert calls(compiled, after="import local") == [*LOADED, "1.0", "2.0"]
    assert len(kept(compiled)) == 2


def test_an_edited_kernel_is_compiled_again_with_all_that_call_it(compiled: Path) -> None:
    files = kept(compiled)
    (compiled / "own.py").write_text(MODULE.replace("2.0 *", "4.0 *"))
    assert calls(compiled) == ["40.0", "10.0", "True"]
    assert kept(compiled) == files  # in the place of the old code
    assert calls(compiled) == ["40.0", "10.0", "False"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "flipped name", "empty", "text"])
def test_damaged_files_are_not_loaded(compiled: Path, damage: str) -> None:
    path = kept(compiled)[0]
    data = path.read_bytes()

    def flipped(place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    damaged = {
        "cut": data[:-50],
        "flipped": flipped(-100),
        "flipped name": flipped(data.index(b"entry")),
        "empty": b"",
        "text": b"{}\nnothing",
    }
    path.write_bytes(damaged[damage])
    assert calls(compiled) == COMPILED_NOW
    assert path.read_bytes()[-100:] == data[-100:]
    assert calls(compiled) == LOADED


def test_code_that_calls_what_is_not_there_is_compiled_again(compiled: Path) -> None:
    """LLVM would end the process."""
    before = (
        "from streamlr.kernels import machine_code\n"
        "machine_code._read_whole = machine_code._read\n"
        "def read(*a):\n"
        "    found = machine_code._read_whole(*a)\n"
        "    return found and found._replace(externals=('no_such_function',))\n"
        "machine_code._read = read"
    )
    assert calls(compiled, before=before) == COMPILED_NOW


def test_settings_of_numba_have_code_of_their_own(compiled: Path) -> None:
    assert calls(compiled, NUMBA_OPT="1") == COMPILED_NOW
    assert calls(compiled, NUMBA_OPT="1") == LOADED
    assert calls(compiled) == LOADED
    assert len(kept(compiled)) == 4


def test_numba_can_be_imported_and_used_behind_code_that_was_loaded(compiled: Path) -> None:
    after = (
        "import numba\n"
        "own = numba.njit(lambda x: np.concatenate((x, x)).sum() + halved(x))\n"
        "print(own(x), doubled(x))"
    )
    assert calls(compiled, after=after) == [*LOADED, "25.0", "20.0"]


def test_without_the_variable_code_lies_beside_the_kernels(tmp_path: Path) -> None:
    assert calls(tmp_path, NUMBA_CACHE_DIR=None) == COMPILED_NOW
    assert len(list((tmp_path / "__pycache__").glob("own.*.kernel"))) == 2
    assert calls(tmp_path, NUMBA_CACHE_DIR=None) == LOADED


def test_where_that_cannot_be_written_it_lies_in_the_users_folder(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").write_text("a file, so that there can be no folder")
    own = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    assert calls(tmp_path, **own) == COMPILED_NOW
    assert calls(tmp_path, **own) == LOADED
    if sys.platform == "linux":
        assert len(list((tmp_path / "home" / "streamlr").glob("own.*.kernel"))) == 2


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "own.py").write_text(MODULE)
    printed = " ".join(calls(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "folder")))
    assert printed.startswith(" ".join(COMPILED_NOW))
    assert printed.count("no writable folder for compiled kernels") == 1


def test_the_version_of_numba_is_known_without_it():
    assert machine_code.numba_version() == version("numba")


def test_the_version_is_asked_for_where_no_folder_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "find_spec", lambda name: None)
    assert machine_code.numba_version.__wrapped__() == version("numba")


def test_types_are_not_registered_while_kernels_are_compiled(tmp_path: Path) -> None:
    """Threads that ask for types of arguments meanwhile would see a registry that changes."""
    before = (
        "import streamlr.kernels.compiling\n"
        "from numba.core.typing.typeof import typeof_impl\n"
        "known = len(typeof_impl.registry)"
    )
    assert calls(tmp_path, before=before, after="print(len(typeof_impl.registry) - known)")[-1] == "0"
