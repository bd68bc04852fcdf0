"""CPU time, memory, descriptors and threads of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for each, fields in _all():
        children.setdefault(int(fields[1]), []).append(each)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far, those of its members that have ended and were waited for included."""
    members = set(tree(pid))
    return sum(sum(map(int, fields[11:15])) for each, fields in _all() if each in members) / _TICKS


def own_cpu_s(pid: int) -> float:
    """User and system time of this process alone."""
    return sum(sum(map(int, fields[11:13])) for each, fields in _all() if each == pid) / _TICKS


def pss_mb(pid: int) -> float:
    """Proportional set size of the tree: shared pages count once."""
    return _memory_mb(pid, "Pss:")


def rss_mb(pid: int) -> float:
    """Resident set sizes of the tree: shared pages count for each process."""
    return _memory_mb(pid, "Rss:")


def descriptors(pid: int) -> int:
    """Open file descriptors of the tree."""
    return _entries(pid, "fd")


def threads(pid: int) -> int:
    """Threads of the tree."""
    return _entries(pid, "task")


def _memory_mb(pid: int, name: str) -> float:
    kb = 0
    for each in tree(pid):
        with suppress(OSError):
            rows = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            kb += sum(int(row.split()[1]) for row in rows if row.startswith(name))
    return kb / 1024


def _entries(pid: int, folder: str) -> int:
    found = 0
    for each in tree(pid):
        with suppress(OSError):
            found += len(os.listdir(f"/proc/{each}/{folder}"))
    return found


def _all() -> Iterator[tuple[int, list[str]]]:
    """Each process with the fields of its stat file behind the name: state, parent, … (proc_pid_stat(5) from field 3)."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                yield int(folder.name), (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
