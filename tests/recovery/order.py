"""Check the order of effects from outside: a model of the worst disk, fed with an strace log of the real service.

This disk keeps only what was fsynced: a file's bytes if the file was, a name if its folder was. Anything else *may or may not*
survive a power cut, so each rule assumes the worse case: what an entry relies on must be durable before the first instant at which
the entry may be durable, and what relies on an entry must not begin before the entry certainly is. That is all POSIX promises. Real
file systems promise more, each in its own way, so real power cuts may never reveal a missing fsync of a directory.

The ledger is not parsed: the writes to its files are replayed, and SQLite opens the result. Shares no code with the package.
"""

from __future__ import annotations

import codecs
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.memory import in_memory

CALLS = (
    "openat,write,pwrite64,ftruncate,fchmod,fsync,fdatasync,syncfs,link,linkat,unlink,unlinkat,rename,renameat,renameat2,"
    "mkdir,mkdirat,rmdir,sendto,recvfrom"
)
STRACE = ["strace", "-f", "-y", "-qq", "-x", "-s", "8300", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o"]
"""The log's path and the command follow. `-s` must be large enough for a whole page of the ledger."""

_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_RETURNED = re.compile(r"(.*)\)\s+= (-?\d+)(?:<.*>(?:\(deleted\))?)?(?: E\w+ \(.*\))?$", re.DOTALL)
_FD = re.compile(r"(?:(\d+)|AT_FDCWD)<([^>]*)>")
_HIDDEN = re.compile(r"\.remove-[0-9a-f]{8}-\d+\.tmp")
_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\.\.\.)?')


@dataclass(eq=False)
class File:
    """`version` grows with each change; `durable` is the version that certainly survives. Only the ledger's bytes are kept."""

    version: int = 1
    durable: int = 0
    names: int = 0
    content: bytearray = field(default_factory=bytearray)
    kept: bytes = b""


@dataclass(eq=False)
class Folder:
    """The names that processes see, and those that certainly survive."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    synced_at: int = 0


@dataclass(frozen=True)
class Call:
    """One system call, reported twice: at its beginning (`result` None) and at its end."""

    thread: str
    name: str
    arguments: str
    result: int | None


def calls(log: Path) -> Iterator[Call]:
    """Yield the calls in the order of their beginnings and ends."""
    begun: dict[str, str] = {}
    for line in log.read_text("latin-1").splitlines():
        found = _LINE.match(line)
        if found is None or found[2].startswith(("+++", "---", "???", "<... ???")):
            continue
        thread, text = found.groups()
        if resumed := _RESUMED.match(text):
            name, text = resumed[1], begun.pop(thread, "") + resumed[2]
        else:
            call = _CALL.match(text)
            if call is None:
                raise ValueError(f"not a line of strace: {line[:200]}")
            name, text = call.groups()
            if text.endswith("<unfinished ...>"):
                begun[thread] = text.removesuffix("<unfinished ...>")
                yield Call(thread, name, begun[thread], None)
                continue
            returned = _RETURNED.match(text)
            yield Call(thread, name, text if returned is None else returned[1], None)
        returned = _RETURNED.match(text)
        if returned is not None:  # otherwise the process was killed in it, and the result is unknown
            yield Call(thread, name, returned[1], int(returned[2]))


class Disk:
    """Takes the logs of one run of the service after another; collects `violations` and counts what it `saw`."""

    def __init__(self, uploads: Path, archive: Path, ledger: Path) -> None:
        self.roots = {str(uploads): Folder(), str(archive): Folder(), str(ledger): Folder()}
        self.uploads, self.archive, self.ledger = self.roots.values()
        self.violations: list[dict] = []
        self.saw: Counter[str] = Counter()
        self._clock = 0
        self._syncing: dict[str, tuple] = {}
        self._posts: dict[str, str] = {}
        self._answers: Counter[str] = Counter()
        self._commit_follows = False
        self._metadata: dict[int, tuple] = {}
        self._outside: dict[int, Path] = {}
        self._may = State()
        self._must = State()

    def bad(self, code: str, **where: object) -> None:
        self.violations.append({"code": code, **where})

    def outside(self, path: Path, *, described: int) -> None:
        """Record that another program replaced this file without any fsync, before that one of the next `described` entries (from 1)."""
        self._outside[self.saw["described"] + described] = path

    def _replaced_outside(self, described: int) -> None:
        if path := self._outside.pop(described, None):
            folder, name = self._place(str(path))
            folder.names[name] = File(names=1)

    def uploaded(self, name: str) -> None:
        """Record that a neighbour put this into uploads, durably. Call it before the run that removes it."""
        self.uploads.names[name] = self.uploads.durable[name] = File(durable=1, names=1)

    def feed(self, log: Path) -> None:
        """Read the log of one process from start to end. Call it before the next one starts."""
        self._syncing.clear()
        self._posts.clear()
        self._commit_follows = False
        for call in calls(log):
            self._clock += 1
            handle = getattr(self, f"_{call.name}", None)
            if handle is not None:
                handle(call)
        for root, folder in self.roots.items():
            self._killed_in_a_call(Path(root), folder)
        # A commit that a killed process had begun to write may be lost; the next process continues from what is there.
        self._may = State.of({name: bytes(node.content) for name, node in self._ledger_files()})

    def _killed_in_a_call(self, path: Path, folder: Folder) -> None:
        """Look whether a call that a killed process had begun took effect. If it did, the effect is not durable."""
        found = {each.name: each for each in path.iterdir()}
        for name in folder.names.keys() - found.keys():
            del folder.names[name]
        for name, each in found.items():
            if name not in folder.names:
                folder.names[name] = Folder() if each.is_dir() else File(names=1)
            node = folder.names[name]
            if isinstance(node, Folder):
                self._killed_in_a_call(each, node)
            elif self._is_ledger(str(each)) and node.content != each.read_bytes():
                node.content = bytearray(each.read_bytes())
                node.version += 1

    # -- what happens to files

    def _openat(self, call: Call) -> None:
        if call.result is None or call.result < 0:
            return
        path = self._joined(call.arguments, 0)
        if path is None or not self._ours(path):
            return
        if path in self.roots:
            return
        folder, name = self._place(path)
        if name not in folder.names:
            if "O_CREAT" not in call.arguments:
                return  # it existed before, and is irrelevant
            folder.names[name] = File(names=1)
        node = folder.names[name]
        if "O_TRUNC" in call.arguments and isinstance(node, File):
            self._changed(node, path)
            node.content.clear()

    def _write(self, call: Call) -> None:
        self._pwrite64(call)

    def _pwrite64(self, call: Call) -> None:
        node, path = self._descriptor(call)
        if not isinstance(node, File):
            return
        if call.result is None:
            if self._is_ledger(path) and self._commit_follows and len(self._data(call)) > 24:
                # From here on the transaction may be on the disk: any process may have synced it.
                self._commit_follows = False
                self._look(self._with_write(node, call))
            return
        if call.result <= 0:
            return
        self._changed(node, path)
        if self._is_ledger(path) and call.name == "pwrite64":
            data = self._data(call)[: call.result]
            self._apply(node.content, data, self._offset(call))
            if path.endswith("-wal") and len(data) == 24:
                self._commit_follows = data[4:8] != b"\0\0\0\0"  # sqlite.org/fileformat2.html §4.1: the size, in a commit frame

    def _ftruncate(self, call: Call) -> None:
        node, path = self._descriptor(call)
        if isinstance(node, File) and call.result == 0:
            self._changed(node, path)
            size = int(call.arguments.rsplit(",", 1)[1])
            del node.content[size:]

    def _fchmod(self, call: Call) -> None:
        node, _ = self._descriptor(call)
        if isinstance(node, File) and call.result == 0:
            node.version += 1

    def _fdatasync(self, call: Call) -> None:
        self._fsync(call)

    def _fsync(self, call: Call) -> None:
        node, path = self._descriptor(call)
        if call.result is None:
            if isinstance(node, File):
                self._syncing[call.thread] = (node, node.version, bytes(node.content))
            elif node is not None:
                self._syncing[call.thread] = (node, self._clock, dict(node.names))
            return
        begun = self._syncing.pop(call.thread, None)
        if call.result != 0 or begun is None:
            return
        node, at, kept = begun
        if isinstance(node, File):
            if at > node.durable:
                node.durable, node.kept = at, kept
        elif at > node.synced_at:
            node.synced_at, node.durable = at, kept
        if self._is_ledger(path) or node is self.ledger:
            self._look()
            self._settled()

    def _syncfs(self, call: Call) -> None:
        node, _ = self._descriptor(call)
        if not isinstance(node, Folder):
            return
        if call.result is None:
            folders = [(each, dict(each.names)) for each in _folders(node)]
            self._syncing[call.thread] = (folders, self._clock, [(each, each.version) for each in _files_below(node)])
            return
        begun = self._syncing.pop(call.thread, None)
        if call.result == 0 and begun is not None:
            folders, at, below = begun
            copies = sum(version > each.durable and not self._linked_finally(each) for each, version in below)
            self.saw["copies-together"] += copies >= 3
            for each, version in below:
                each.durable = max(each.durable, version)
            for folder, names in folders:
                if at > folder.synced_at:
                    folder.synced_at, folder.durable = at, names
            self.saw["syncfs"] += 1

    def _link(self, call: Call) -> None:
        self._linkat(call)

    def _linkat(self, call: Call) -> None:
        source, target = self._two(call)
        if call.result is None:
            self._gets_its_name(source, target)
        if call.result != 0:
            return
        folder, name = self._place(source)
        node = folder.names[name]
        to, new = self._place(target)
        to.names[new] = node
        if isinstance(node, File):
            node.names += 1
        self.saw["link"] += 1

    def _unlink(self, call: Call) -> None:
        self._unlinkat(call)

    def _rmdir(self, call: Call) -> None:
        self._unlinkat(call)

    def _unlinkat(self, call: Call) -> None:
        path = self._joined(call.arguments, 0)
        if path is None or not self._ours(path):
            return
        folder, name = self._place(path)
        root = self._root(path)
        if call.result is None:
            if root is self.uploads:
                if not _HIDDEN.fullmatch(name):  # otherwise its removal began with the rename
                    self._removes(path)
            elif root is self.archive and self._is_final(path) and isinstance(folder.names.get(name), File):
                self.bad("archived-file-removed", path=path)
        elif call.result == 0:
            gone = folder.names.pop(name, None)
            if isinstance(gone, File):
                gone.names -= 1
            if root is self.uploads:
                self.saw["upload-removed"] += 1
            if self._is_ledger(path):
                self._look()
                self._settled()

    def _rename(self, call: Call) -> None:
        self._renameat(call)

    def _renameat2(self, call: Call) -> None:
        self._renameat(call)

    def _renameat(self, call: Call) -> None:
        source, target = self._two(call)
        if not self._ours(target):
            return
        to, new = self._place(target)
        if call.result is None:
            if self._root(target) is self.uploads:
                if _HIDDEN.fullmatch(new):
                    self._removes(source)
                elif new in to.names:
                    self.bad("renamed-over", path=target)
            self._gets_its_name(source, target)
            ours = new == "metadata.json" or new.endswith(".entries")  # rewritten completely and renamed over the old one
            if self._root(target) is self.archive and new in to.names and not ours and not self._may_be_replaced(source, target):
                self.bad("renamed-over", path=target)
        elif call.result == 0:
            folder, name = self._place(source)
            node = folder.names.pop(name, None)
            if node is None:  # a neighbour's file, unknown to this model: it exists until the folder is synced
                node = folder.durable[name] = File()
            to.names[new] = node

    def _gets_its_name(self, source: str, target: str) -> None:
        """Check that a file in the archive has all its bytes before it gets its final name. Those of metadata.json may follow."""
        if self._root(target) is not self.archive or not self._is_final(target) or target.endswith("/metadata.json"):
            return
        folder, name = self._place(source)
        node = folder.names.get(name)
        if isinstance(node, File) and node.durable != node.version:
            self.bad("named-too-early", path=target)

    def _removes(self, path: str) -> None:
        """Check the removal of an upload, by unlink or by a rename to a hidden name: it needs a work item."""
        relative = path.removeprefix(next(iter(self.roots)) + "/")
        if not self._must.has_duty("remove", relative):
            self.bad("upload-removed-too-early", path=relative)

    def _may_be_replaced(self, source: str, target: str) -> bool:
        """Return whether a durable file replaces one that no entry names, or a damaged one that is kept under a second name."""
        from_, name = self._place(source)
        file = from_.names.get(name)
        to, new = self._place(target)
        if not isinstance(file, File) or file.durable != file.version:
            return False
        return tuple(target.split("/")[-2:]) not in self._may.files or self._is_evidence(to.names[new])

    def _is_evidence(self, node: File | Folder) -> bool:
        folder: File | Folder | None = self.archive
        for part in (".ledger", "damaged"):
            folder = folder.durable.get(part) if isinstance(folder, Folder) else None
        studies = folder.durable.values() if isinstance(folder, Folder) else ()
        return any(isinstance(study, Folder) and node in study.durable.values() for study in studies)

    def _mkdir(self, call: Call) -> None:
        self._mkdirat(call)

    def _mkdirat(self, call: Call) -> None:
        path = self._joined(call.arguments, 0)
        if call.result == 0 and path is not None and self._ours(path):
            folder, name = self._place(path)
            folder.names[name] = Folder()

    def _changed(self, node: File, path: str) -> None:
        node.version += 1
        if self._root(path) is self.archive and self._linked_finally(node):
            self.bad("archived-file-written", path=path)

    # -- what neighbours are sent

    def _sendto(self, call: Call) -> None:
        if call.result is not None:
            return
        socket = self._socket(call)
        data = self._data(call)
        for count in re.findall(rb"\*(\d+)\r\n\$4\r\nXACK\r\n(?!.*\$3\r\n0-0\r\n)", data, re.DOTALL):
            self.saw["acknowledged"] += int(count) - 3
            if self.saw["acknowledged"] > self._must.heard:
                self.bad("acknowledged-too-early", acknowledged=self.saw["acknowledged"], recorded=self._must.heard)
        if found := re.match(rb"POST /status/(\S+) HTTP", data):
            self._posts[socket] = found[1].decode()
            data = data.partition(b"\r\n\r\n")[2]
        if data.startswith(b'{"status"') and socket in self._posts:
            study_id, word = self._posts[socket], json.loads(data)["status"]
            self.saw["told"] += 1
            if word == "archived" and study_id not in self._must.archived:
                self.bad("told-too-early", study_id=study_id)

    def _recvfrom(self, call: Call) -> None:
        study_id = self._posts.get(self._socket(call)) if call.result and call.result > 0 else None
        if study_id and re.match(rb"HTTP/1.1 2\d\d", self._data(call)):
            self._answers[study_id] += 1
            del self._posts[self._socket(call)]

    # -- what the ledger says

    def _look(self, files: dict[str, bytes] | None = None) -> None:
        """Check what may be in the ledger from now on: everything it relies on must be durable."""
        state = State.of(files or {name: bytes(node.content) for name, node in self._ledger_files()})
        if len(state.entries) < len(self._may.entries):
            return  # another thread's fsync ended during the write of a commit that was checked at its beginning
        for entry in state.entries[len(self._may.entries) :]:
            self._entry(entry)
        self._metadata_noted(state.metadata_synced)
        for position, stage in self._may.work_items - state.work_items:
            self._duty_gone(state, position, stage)
        self._may = state

    def _settled(self) -> None:
        """Note what is certainly in the ledger: both its bytes and its name were synced."""
        self._must = State.of({name: node.kept for name, node in self._ledger_files() if self.ledger.durable.get(name) is node})

    def _entry(self, entry: dict) -> None:
        data, position, study_id = entry["data"], entry["position"], entry["study_id"]
        self.saw[entry["kind"]] += 1
        if entry["kind"] == "described":
            self._replaced_outside(self.saw["described"])
        if entry["kind"] == "archived":
            if (lacking := self._lacking(f"{study_id}/{data['file']['name']}")) is not None:
                self.bad("archived-too-early", position=position, name=data["file"]["name"], not_durable=lacking)
            # Its bytes follow from the ledger: see `_metadata_noted`.
            if (lacking := self._lacking(f"{study_id}/metadata.json")) not in {None, "its bytes"}:
                self.bad("archived-too-early", position=position, name="metadata.json", not_durable=lacking)
            node = self.archive.names[study_id].names["metadata.json"] if lacking in {None, "its bytes"} else None
            self._metadata[position] = (study_id, node, node.version if node else 0)
            # Only the name of a file set aside must be durable: whatever damaged it may not have synced its bytes.
            if "set_aside" in data and (lacking := self._lacking(data["set_aside"])) not in {None, "its bytes"}:
                self.bad("set-aside-not-durable", position=position, not_durable=lacking)
        elif entry["kind"] == "status-sent":
            study_id = study_id or data["study_id"]
            if self._answers[study_id] == 0:
                self.bad("status-sent-too-early", position=position)
            self._answers[study_id] -= 1

    def _metadata_noted(self, up_to: int) -> None:
        """Check what the ledger says of metadata.json: that of each entry up to there is durable, or was replaced by a later one."""
        for position in [each for each in self._metadata if each <= up_to]:
            study_id, node, version = self._metadata.pop(position)
            if node is not None and node.durable < version and node in self.archive.names[study_id].names.values():
                self.bad("metadata-noted-too-early", position=position, noted=up_to)

    def _duty_gone(self, state: State, position: int, stage: str) -> None:
        entry = state.entries[position - 1]
        if stage == "remove":
            path = entry["data"]["upload_path"]
            folder, name = self._place(f"{next(iter(self.roots))}/{path}")
            for names, code in ((folder.names, "upload-still-there"), (folder.durable, "removal-not-durable")):
                if name in names and (position, path) not in state.placed_again:
                    self.bad("duty-dropped-too-early", position=position, why=code)
        elif stage == "tell" and entry["study_id"] is not None and position not in state.told:
            self.bad("duty-dropped-too-early", position=position, why="nobody-told")

    def _lacking(self, path: str) -> str | None:
        """Return what of this path in the archive a power cut may lose; None if nothing."""
        node: File | Folder = self.archive
        for part in path.split("/"):
            below = node.names.get(part) if isinstance(node, Folder) else None
            if below is None:
                return f"{part}: not there"
            if node.durable.get(part) is not below:
                return f"{part}: its name"
            node = below
        return None if isinstance(node, File) and node.durable == node.version else "its bytes"

    # -- reading the log

    def _ours(self, path: str) -> bool:
        return any(path == root or path.startswith(root + "/") for root in self.roots)

    def _root(self, path: str) -> Folder | None:
        return next((folder for root, folder in self.roots.items() if path == root or path.startswith(root + "/")), None)

    def _place(self, path: str) -> tuple[Folder, str]:
        root = next(root for root in self.roots if path.startswith(root + "/"))
        *folders, name = path.removeprefix(root + "/").split("/")
        node = self.roots[root]
        for part in folders:
            below = node.names.get(part)
            if not isinstance(below, Folder):  # made by another program
                below = node.names[part] = node.durable[part] = Folder()
            node = below
        return node, name

    def _is_final(self, path: str) -> bool:
        parts = path.split("/")
        return ".ledger" not in parts and not parts[-1].startswith(".")

    def _linked_finally(self, node: File) -> bool:
        folders = [f for name, f in self.archive.names.items() if isinstance(f, Folder) and name != ".ledger"]
        return any(n is node and not name.startswith(".") for f in folders for name, n in f.names.items())

    def _is_ledger(self, path: str) -> bool:
        return self._root(path) is self.ledger and path.rsplit("/", 1)[1].startswith("ledger.db") and not path.endswith("-shm")

    def _ledger_files(self) -> list[tuple[str, File]]:
        names = ("ledger.db", "ledger.db-wal", "ledger.db-journal")
        return [(name, node) for name in names if isinstance(node := self.ledger.names.get(name), File)]

    def _with_write(self, node: File, call: Call) -> dict[str, bytes]:
        files = {name: bytearray(each.content) for name, each in self._ledger_files()}
        name = next(name for name, each in self._ledger_files() if each is node)
        self._apply(files[name], self._data(call), self._offset(call))
        return {name: bytes(content) for name, content in files.items()}

    @staticmethod
    def _apply(content: bytearray, data: bytes, offset: int) -> None:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    @staticmethod
    def _offset(call: Call) -> int:
        return int(call.arguments.rsplit(",", 1)[1])

    @staticmethod
    def _data(call: Call) -> bytes:
        found = _STRING.search(call.arguments)
        if found is None:
            return b""
        if found[2] and call.name == "pwrite64":
            raise ValueError("the log does not hold all of a write to the ledger")
        return codecs.escape_decode(found[1].encode("latin-1"))[0]

    @staticmethod
    def _socket(call: Call) -> str:
        found = _FD.match(call.arguments)
        return found[2] if found else ""

    def _descriptor(self, call: Call) -> tuple[File | Folder | None, str]:
        found = _FD.match(call.arguments)
        if found is None or found[1] is None or not self._ours(found[2]):
            return None, ""
        if found[2] in self.roots:  # perhaps through a duplicated descriptor, which this log does not show
            return self.roots[found[2]], found[2]
        folder, name = self._place(found[2])  # as strace found it at that moment: several processes use the same numbers
        return folder.names.get(name), found[2]

    def _two(self, call: Call) -> tuple[str, str]:
        source, target = self._joined(call.arguments, 0), self._joined(call.arguments, 1)
        if source is None or target is None:
            raise ValueError(f"{call.name} without two paths")
        return source, target

    @staticmethod
    def _joined(arguments: str, number: int) -> str | None:
        """Return the path of a call: a string, relative to the descriptor before it, if any."""
        strings = list(_STRING.finditer(arguments))
        if len(strings) <= number:
            return None
        text = codecs.escape_decode(strings[number][1].encode("latin-1"))[0].decode("utf-8", "surrogateescape")
        if text.startswith("/"):
            return text
        before = [found for found in _FD.finditer(arguments) if found.end() <= strings[number].start()]
        return f"{before[-1][2]}/{text}" if before else None


def _files_below(folder: Folder) -> Iterator[File]:
    for node in folder.names.values():
        if isinstance(node, Folder):
            yield from _files_below(node)
        else:
            yield node


def _folders(folder: Folder) -> Iterator[Folder]:
    yield folder
    for node in folder.names.values():
        if isinstance(node, Folder):
            yield from _folders(node)


@dataclass
class State:
    """The ledger as SQLite reads it."""

    entries: list[dict] = field(default_factory=list)
    work_items: set[tuple[int, str]] = field(default_factory=set)
    metadata_synced: int = 0

    @classmethod
    def of(cls, files: dict[str, bytes]) -> State:
        if not files.get("ledger.db") and not files.get("ledger.db-wal"):
            return cls()
        with in_memory() as folder:
            for name, data in files.items():
                (folder / name).write_bytes(data)
            with closing(sqlite3.connect(folder / "ledger.db")) as connection:
                connection.row_factory = sqlite3.Row
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
                    return cls()
                entries = [dict(row) for row in connection.execute("SELECT position, study_id, kind, cause, payload FROM entries")]
                work_items = {(row[0], row[1]) for row in connection.execute("SELECT position, stage FROM pending")}
                noted = connection.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'metadata_synced'").fetchone()
        for entry in entries:
            entry["data"] = json.loads(entry["payload"])
        return cls(entries, work_items, noted[0] if noted else 0)

    @property
    def archived(self) -> set[str]:
        return {entry["study_id"] for entry in self.entries if entry["kind"] == "archived"}

    @property
    def files(self) -> set[tuple[str, str]]:
        """Return study and name of each archived file."""
        return {(entry["study_id"], entry["data"]["file"]["name"]) for entry in self.entries if entry["kind"] == "archived"}

    @property
    def heard(self) -> int:
        """Return the number of messages received: each becomes one entry."""
        return sum(entry["kind"] in {"described", "rejected"} for entry in self.entries)

    @property
    def told(self) -> set[int]:
        return {position for entry in self.entries if entry["kind"] == "status-sent" for position in entry["data"]["tells"]}

    @property
    def placed_again(self) -> set[tuple[int, str]]:
        """Return the removals replaced by another placing, because the upload was no longer the archived file."""
        return {
            (e["position"], e["data"]["upload_path"])
            for e in self.entries
            if (e["cause"], "place") in self.work_items and e["kind"] == "archived"
        }

    def has_duty(self, stage: str, path: str) -> bool:
        return any(s == stage and self.entries[p - 1]["data"].get("upload_path") == path for p, s in self.work_items)
