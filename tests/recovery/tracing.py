"""strace as the hand that makes one system call fail, and what its trace tells."""

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
"""What `fsynced_again` looks at."""

TAKES_SPACE = frozenset({
    "fallocate", "fdatasync", "fsync", "ftruncate", "link", "linkat", "mkdir", "mkdirat", "open", "openat", "pwrite64", "rename",
    "renameat", "renameat2", "write",
})  # fmt: skip
"""What may say ENOSPC; an fsync does where space is taken late."""

_LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)\)\s+= (-?\w+|\?)(.*)$")
_UNFINISHED = " <unfinished ...>"
_BEGUN = re.compile(r"(\d+) +((\w+)\(.*)$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
_PATH = re.compile(r'(?:AT_FDCWD|\d+)<([^>]*)>(?:, "([^"]*)")?|"([^"]*)"')
_NAMED = frozenset({"openat", "newfstatat", "fchmodat", "unlinkat", "mkdirat", "linkat", "renameat", "renameat2", "utimensat", "statx"})


@dataclass(frozen=True, slots=True)
class Call:
    """One line of a trace. `number`: among the calls of that name in that process, beginning with 1, as `when=` counts."""

    name: str
    number: int
    arguments: str
    result: str
    injected: bool

    @property
    def paths(self) -> list[str]:
        """What its descriptors and names lead to."""
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
        """Letting go of a lock or of a file of the ledger can't: that takes a network file system, where a ledger is refused."""
        return not (self.name == "fcntl" or (self.name == "close" and "/ledger/" in self.arguments))

    @property
    def failed(self) -> bool:
        """Whether it returned an error."""
        return self.result == "-1"


def needs_strace() -> None:
    """Skip, saying so, where there is none, or none that may trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


def options(trace: Path, names: Iterable[str] = ALL, inject: str | None = None) -> list[str]:
    """The arguments of strace; `inject` as `fsync:error=EIO:when=3`."""
    wanted = ["-e", "trace=" + ",".join(f"?{name}" for name in names)]
    return ["-y", "-o", str(trace), "-e", "signal=none", *wanted, *(["-e", f"inject={inject}"] if inject else [])]


def attach(pid: int, arguments: list[str]) -> subprocess.Popen[str]:
    """Trace a process that waits; on return its next call is seen."""
    tracer = subprocess.Popen(["strace", "-p", str(pid), *arguments], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    said = []
    for line in tracer.stderr:
        if line.rstrip().endswith(" attached"):
            return tracer
        said.append(line)
    raise AssertionError(f"strace did not attach: {''.join(said)}")


def calls(trace: Path) -> Iterator[Call]:
    """Those of a trace, in the order in which they returned."""
    counts: Counter[tuple[str, str]] = Counter()
    begun: dict[str, tuple[str, int]] = {}  # of several threads one may be interrupted by the line of another
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith(_UNFINISHED):
            match = _BEGUN.match(line)
            if match is None and " ???(" in line:
                continue  # killed before strace knew which
            assert match is not None, line
            thread, start, name = match.groups()
            counts[thread, name] += 1
            begun[thread] = start.removesuffix(_UNFINISHED), counts[thread, name]
            continue
        number = 0
        if (match := _RESUMED.match(line)) is not None:
            thread, rest = match.groups()
            start, number = begun.pop(thread)
            line = f"{thread} {start}{rest}"  # noqa: PLW2901 - whole again
        if (match := _LINE.match(line)) is not None:
            thread, name, arguments, result, rest = match.groups()
            if not number:
                counts[thread or "", name] += 1
                number = counts[thread or "", name]
            yield Call(name, number, arguments, result, "(INJECTED)" in rest)


def fsynced_again(made: Iterable[Call], *, archive: Path, ledger: Path) -> list[dict[str, str]]:
    """What was trusted after an fsync of it had failed: the kernel may have dropped what it could not write.

    - `file-fsynced-again`: a file of the archive that was not made anew in between.
    - `folder-fsynced-again`: a folder of the archive into which the names that were not durable then were not put anew.
    - `ledger-fsynced-again`: a file of SQLite's that was not written in between; it writes the same pages once more.
    """
    disk = _Disk(archive, ledger)
    for call in made:
        paths = [path for path in call.paths if path.startswith((f"{archive}", f"{ledger}"))]
        if paths:
            disk.see(call, paths)
    return disk.found


class _Disk:
    """Which files and names an fsync has failed of, followed through the calls of a trace."""

    def __init__(self, archive: Path, ledger: Path) -> None:
        self._archive, self._ledger = f"{archive}", f"{ledger}"
        self._inodes: dict[str, int] = {}
        self._last = 0
        self._folders: set[str] = set()
        self._distrusted: set[int] = set()
        self._new_names: dict[str, set[str]] = {}  # by folder: since its last good fsync
        self._lost_names: dict[str, set[str]] = {}  # by folder: those of which an fsync failed
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
        elif lost and path.startswith(self._archive):  # in the ledger's SQLite ignores it: it does not ask again
            self._bad("folder", call, path)
            lost.clear()

    def _bad(self, what: str, call: Call, path: str) -> None:
        self.found.append({"code": f"{what}-fsynced-again", "path": path, "call": f"{call.name}:{call.number}"})
