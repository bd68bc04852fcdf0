"""Make one system call fail through strace, and read strace's trace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

READS = (
    "access", "fstat", "fstatfs", "getdents64", "lseek", "lstat", "newfstatat", "pread64", "preadv", "read", "stat", "statfs", "statx",
)  # fmt: skip
CHANGES = (
    "chmod", "close", "copy_file_range", "fallocate", "fchmod", "fchmodat", "fchown", "fcntl", "fdatasync", "flock", "fsync", "ftruncate",
    "link", "linkat", "mkdir", "mkdirat", "mmap", "open", "openat", "pwrite64", "pwritev", "rename", "renameat", "renameat2", "rmdir",
    "sendfile", "unlink", "unlinkat", "utimensat", "write",
)  # fmt: skip
ALL = (*READS, *CHANGES)
FSYNCS = (
    "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "mkdirat", "open", "openat", "pwrite64", "rename", "renameat",
    "renameat2", "rmdir", "unlink", "unlinkat", "write",
)  # fmt: skip
"""The calls that `fsynced_again` needs."""

TAKES_SPACE = frozenset({
    "fallocate", "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "mkdirat", "open", "openat", "pwrite64", "rename",
    "renameat", "renameat2", "write",
})  # fmt: skip
"""The calls that may return ENOSPC; fsync does with delayed allocation."""

_LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)\)\s+= (-?\w+|\?)(.*)$")
_UNFINISHED = " <unfinished ...>"
_BEGUN = re.compile(r"(\d+) +((\w+)\(.*)$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_PATH = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>(?:, "([^"]*)")?|"([^"]*)"')
_NAMED = frozenset({"openat", "newfstatat", "fchmodat", "unlinkat", "mkdirat", "linkat", "renameat", "renameat2", "utimensat", "statx"})


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace. `number`: among that process's calls of this name, from 1, as in `when=`."""

    name: str
    number: int
    arguments: str
    result: str
    injected: bool

    @property
    def paths(self) -> list[str]:
        """Return the paths of its descriptors and names."""
        found = []
        for folder, name, plain in _PATH.findall(self.arguments):
            if plain.startswith("/"):
                found.append(plain)
            elif folder and self.name in _NAMED and name:
                found.append(name if name.startswith("/") else f"{folder}/{name}")
            elif folder:
                found.append(folder)
        return found

    @property
    def may_fail(self) -> bool:
        """Return whether it can fail: unlocking and closing a ledger file can fail only on network volumes, where `serve` will not run."""
        return not (self.name == "fcntl" or (self.name == "close" and "/ledger/" in self.arguments))

    @property
    def failed(self) -> bool:
        """Return whether it returned an error."""
        return self.result == "-1"


def needs_strace() -> None:
    """Skip the test if strace is missing or may not trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


def options(trace: Path, names: Iterable[str] = ALL, inject: str | None = None) -> list[str]:
    """Return the arguments of strace; `inject`: like `fsync:error=EIO:when=3`."""
    wanted = ["-e", "trace=" + ",".join(f"?{name}" for name in names)]
    return ["-y", "-o", str(trace), "-e", "signal=none", *wanted, *(["-e", f"inject={inject}"] if inject else [])]


def attach(pid: int, arguments: list[str]) -> subprocess.Popen[str]:
    """Trace a process; from the return on, all its calls are traced. With `-f` among the arguments, those of all its threads are."""
    tracer = subprocess.Popen(["strace", "-p", str(pid), *arguments], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = []
    for line in tracer.stderr:
        if " attached" in line:
            return tracer
        said.append(line)
    raise AssertionError(f"strace did not attach: {''.join(said)}")


def calls(trace: Path) -> Iterator[Call]:
    """Return the calls of a trace in the order in which they returned."""
    counts: Counter[tuple[str, str]] = Counter()
    begun: dict[str, tuple[str, int]] = {}  # with several threads, another thread's line may interrupt a call
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith(_UNFINISHED):
            match = _BEGUN.match(line)
            if match is None and " ???(" in line:
                continue  # killed before strace had read the call
            assert match is not None, line
            thread, start, name = match.groups()
            counts[thread, name] += 1
            begun[thread] = start.removesuffix(_UNFINISHED), counts[thread, name]
            continue
        number = 0
        if (match := _RESUMED.match(line)) is not None:
            thread, rest = match.groups()
            start, number = begun.pop(thread)
            line = f"{thread} {start}{rest}"  # noqa: PLW2901 - the two halves joined
        if (match := _LINE.match(line)) is not None:
            thread, name, arguments, result, rest = match.groups()
            if not number:
                counts[thread or "", name] += 1
                number = counts[thread or "", name]
            yield Call(name, number, arguments, result, "(INJECTED)" in rest)


def fsynced_again(made: Iterable[Call], *, archive: Path, ledger: Path) -> list[dict[str, str]]:
    """Return what was trusted after a failed fsync, although the kernel may have dropped the data that it could not write.

    - `file-fsynced-again`: a file of the archive that was not re-created in between.
    - `folder-fsynced-again`: a folder of the archive whose names, not durable then, were not re-created.
    - `ledger-fsynced-again`: a file of SQLite that was not written in between; SQLite writes the same pages again.
    """
    disk = _Disk(archive, ledger)
    for call in made:
        paths = [path for path in call.paths if path.startswith((f"{archive}", f"{ledger}"))]
        if paths:
            disk.see(call, paths)
    return disk.found


class _Disk:
    """The files and names whose fsync failed, tracked through the calls of a trace."""

    def __init__(self, archive: Path, ledger: Path) -> None:
        self._archive, self._ledger = f"{archive}", f"{ledger}"
        self._inodes: dict[str, int] = {}
        self._last = 0
        self._folders: set[str] = set()
        self._distrusted: set[int] = set()
        self._new_names: dict[str, set[str]] = {}  # by folder: names since its last successful fsync
        self._lost_names: dict[str, set[str]] = {}  # by folder: names whose fsync failed
        self.found: list[dict[str, str]] = []

    def see(self, call: Call, paths: list[str]) -> None:
        path = paths[0]
        if call.name in {"fsync", "fdatasync"}:
            (self._sync_folder if path in self._folders else self._sync_file)(call, path)
        elif call.failed:
            return
        elif call.name in {"openat", "open"}:
            if "O_DIRECTORY" in call.arguments:
                self._folders.add(path)
            elif "O_EXCL" in call.arguments:
                self._inodes.pop(path, None)
                self._named(path)
        elif call.name in {"mkdir", "mkdirat"}:
            self._named(path)
        elif call.name in {"pwrite64", "write", "ftruncate"} and path.startswith(self._ledger):
            self._distrusted.discard(self._inode(path))
        elif call.name in {"link", "linkat"}:
            self._inodes[paths[1]] = self._inode(path)
            self._named(paths[1])
        elif call.name in {"rename", "renameat", "renameat2"}:
            self._inodes[paths[1]] = self._inode(path)
            self._gone(path)
            self._named(paths[1])
        elif call.name in {"unlink", "unlinkat", "rmdir"}:
            self._gone(path)

    def _inode(self, path: str) -> int:
        if path not in self._inodes:
            self._last += 1
            self._inodes[path] = self._last
        return self._inodes[path]

    def _named(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self._new_names.setdefault(folder, set()).add(name)
        self._lost_names.get(folder, set()).discard(name)

    def _gone(self, path: str) -> None:
        self._inodes.pop(path, None)
        folder, _, name = path.rpartition("/")
        self._new_names.get(folder, set()).discard(name)
        self._lost_names.get(folder, set()).discard(name)

    def _sync_file(self, call: Call, path: str) -> None:
        number = self._inode(path)
        if call.failed:
            self._distrusted.add(number)
        elif number in self._distrusted:
            self._bad("ledger" if path.startswith(self._ledger) else "file", call, path)
            self._distrusted.discard(number)

    def _sync_folder(self, call: Call, path: str) -> None:
        new, lost = self._new_names.pop(path, set()), self._lost_names.setdefault(path, set())
        if call.failed:
            lost |= new
        elif lost and path.startswith(self._archive):  # in the ledger's folder SQLite ignores the error and does not retry
            self._bad("folder", call, path)
            lost.clear()

    def _bad(self, what: str, call: Call, path: str) -> None:
        self.found.append({"code": f"{what}-fsynced-again", "path": path, "call": f"{call.name}:{call.number}"})
