"""How much memory and how many cores there are, containers' limits respected, and what is in use."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

from streamlr.errors import StreamlrError

UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def parse_size(text: str | int) -> int:
    """Bytes of "4GB", "512MiB", "1.5g" or a plain number. Raises `StreamlrError`."""
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(text), re.IGNORECASE)
        if match is None or match.group(2).upper() not in UNITS:
            raise StreamlrError(f"cannot read {text!r} as a size; write 512MB or 4GB.")
        size = int(float(match.group(1)) * UNITS[match.group(2).upper()])
    if size <= 0:
        raise StreamlrError(f"a memory limit must be positive, not {text!r}.")
    return size


def format_size(size: float) -> str:
    """A size as people write it: 13.6 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # so that no size rounds to 1e+03
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 999.5 else f"{size:.0f} TB"


def available_memory() -> int:
    """Bytes that this process could have: the machine's free memory, or its container's limit if lower."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    free = _from_meminfo("MemAvailable") or total
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            free = min(free, int(limit))
    return free


def available_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    if quota.isdigit():
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def resident_bytes() -> int:
    """Resident size of this process now, 0 where the platform does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_resident_bytes() -> int:
    """Largest resident size of this process so far."""
    # Not getrusage where it can be helped: Linux carries its figure over from the process that started us.
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _from_meminfo(name: str) -> int | None:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
