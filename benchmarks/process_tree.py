"""Runs a program to its end and accounts for every process that it starts, its orphans included.

CPU seconds are exact: this process makes itself the one that adopts orphans (Linux,
PR_SET_CHILD_SUBREAPER), waits for every last descendant, and adds up what the kernel says of each.

Peak memory of a program that stays one process is the kernel's own high-water mark, which misses
nothing. Of a program that starts others (a Java server) it is the largest sum of the resident sizes of
all its living processes, looked at ten times a second, or the high-water mark of the largest of them
where that is more. Pages that two processes share count in both, and a peak shorter than a tenth of a
second can be missed; for servers of several gigabytes neither comes to a percent. Looking costs less
than a thousandth of a core while there is one process.

Imports the standard library only, so that a child begins small.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter, sleep

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
DISK_BLOCK = 512  # bytes in one unit of ru_inblock
LOOK = 0.1  # seconds between two looks at the living processes
GRACE = 30.0  # seconds that processes left behind have to end by themselves
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Run:
    """A program that has ended: seconds, bytes, and what it printed."""

    wall: float  # until the process that was started ended
    user: float  # of all its processes
    system: float
    peak: int
    processes: int  # the most that were alive at one look
    disk: int  # bytes that had to come from the disk, not from the page cache
    exit_code: int
    timed_out: bool
    stdout: str
    stderr: str


def measure(command: Sequence[str], timeout: float | None = None) -> Run:
    """Run a command to its end, or for `timeout` seconds and then no longer."""
    adopt_orphans()
    # A program that is installed has its bytecode; one that is run from its sources is to keep it as well.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        start = perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        watch = Watch(process.pid, start + timeout if timeout else None)
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        used = [usage, *wait_for_orphans()]
        watch.stop()
        out.seek(0)
        err.seek(0)
        return Run(
            wall=wall,
            user=sum(each.ru_utime for each in used),
            system=sum(each.ru_stime for each in used),
            peak=max(watch.peak, *(each.ru_maxrss * PEAK_UNIT for each in used)),
            processes=watch.processes,
            disk=sum(each.ru_inblock for each in used) * DISK_BLOCK,
            exit_code=process.returncode,
            timed_out=watch.timed_out,
            stdout=out.read(),
            stderr=err.read(),
        )


class Watch:
    """A thread that looks at a program's processes now and then, and ends them when time is up."""

    def __init__(self, pid: int, deadline: float | None) -> None:
        self.peak = 0
        self.processes = 1
        self.timed_out = False
        self._pid = pid
        self._deadline = deadline
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK):
            if self._deadline is not None and perf_counter() > self._deadline:
                self.timed_out = True
                end_descendants()
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            alive = list(descendants())
            self.processes = max(self.processes, len(alive))
            if len(alive) > 1:
                self.peak = max(self.peak, sum(map(resident_bytes, alive)))


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends; elsewhere than on Linux nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_orphans() -> Iterator:
    """What each process left behind has used, once it has ended; after a time of grace they are ended."""
    deadline = perf_counter() + GRACE
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            yield usage
            continue
        if perf_counter() > deadline:
            end_descendants()
        sleep(0.02)


def descendants(root: int | None = None) -> Iterator[int]:
    """The living processes below one, by default this one, from what the kernel says of its threads."""
    root = os.getpid() if root is None else root
    for thread in Path(f"/proc/{root}/task").glob("*/children"):
        with suppress(OSError):
            for child in thread.read_text().split():
                yield int(child)
                yield from descendants(int(child))


def end_descendants() -> None:
    for pid in descendants():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def resident_bytes(pid: int) -> int:
    """Resident size of a process now, 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
