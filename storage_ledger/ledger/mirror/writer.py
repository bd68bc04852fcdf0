"""The ledger's copy on the archive volume (`ARCHIVE_PATH/.ledger/`): what is told to others, or removed, is in it first.

It follows the ledger by position, as the index does. Each append is a batch of entries and the root of the tree over
all of them so far, fsynced. From it alone the ledger can be made again.
"""

from __future__ import annotations

import errno as errnos
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.paths import DAMAGED_FOLDER, LEDGER_FOLDER
from storage_ledger.errors import LedgerUnusable, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.mirror import segments
from storage_ledger.ledger.mirror.segments import Batch, Begin
from storage_ledger.system import locks, logs
from storage_ledger.system.files import chown_like_folder

SEGMENT_ENTRIES = 4096
SEGMENT_BYTES = 8 << 20
READ_ENTRIES = 256
FOLDER_MODE = 0o750
FILE_MODE = 0o640
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = ".segment.tmp"
LOCK_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Of a folder or file: another one of the same name differs. `size` in bytes, 0 for a folder."""

    device: int
    inode: int
    size: int


@dataclass(slots=True)
class _Tail:
    """The segment that is appended to. `state`: as we left it; `entries`: how many it holds; `tree`: over all so far."""

    name: str
    root: Identity
    state: Identity
    entries: int
    tree: Tree


class Mirror:
    """Appends to the mirror; safe from several threads, and several processes may do it for one ledger.

    `lock_file` lies on the ledger's volume: the archive may be a network file system that locks badly. `on_recognised`
    is told the identity of the archive's root folder whenever the mirror in it was found to be this ledger's.
    """

    def __init__(
        self,
        archive_root: Path,
        lock_file: Path,
        ledger: Ledger,
        *,
        on_recognised: Callable[[Identity], None] = lambda _: None,
    ) -> None:
        self._root = archive_root
        self._lock_file = lock_file
        self._ledger = ledger
        self._on_recognised = on_recognised
        self._mutex = threading.Lock()
        self._tail: _Tail | None = None
        self._position = 0

    @property
    def position(self) -> int:
        """Up to here all entries are durably mirrored, as far as this process has seen to it."""
        return self._position

    def begin(self) -> None:
        """Make the mirror of a ledger that has no entries yet. Nothing happens if there is one, or if there are entries.

        Nothing may be appended before this has succeeded: entries without a mirror are taken for the wrong archive. Raises
        `Retryable` when the volume fails.
        """
        with self._alone():
            if self._ledger.last() is not None:
                return
            with self._folder(make=True) as (_, folder):
                if not _names(folder):
                    _write_anew(folder, segments.segment_name(1), segments.begin_line(self._ledger.ledger_id, Tree()))

    def check(self) -> None:
        """See that the mirror there is this ledger's, and not ahead of it: look only, from the last segment.

        Raises `LedgerUnusable` (`mirror-missing`, `mirror-foreign`, `mirror-ahead`, `mirror-disagrees`), each with the
        command that mends it, and `Retryable` when the volume fails.
        """
        with self._alone(), self._folder() as (root, folder):
            self._survey(folder)
        self._on_recognised(root)

    def catch_up(self) -> int:
        """Append what the ledger has beyond the mirror; durable on return, and `position` says so. Returns how many entries.

        May be called twice. After a write or fsync that failed the last segment is made anew from the ledger, under
        another name first: what the kernel dropped cannot be synced again. Errors as with `check`, but a volume that has
        come off (`archive-missing`) is `Retryable`.
        """
        try:
            with self._alone():
                count = 0
                while entries := self._more():
                    self._append(entries)
                    count += len(entries)
                return count
        except LedgerUnusable as error:
            if error.code == "mirror-missing":  # it was there at the start
                raise Retryable("archive-missing", "ARCHIVE_PATH holds no mirror any more", shared=True) from error
            raise

    def rewrite(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Make the whole mirror anew from the ledger, for an archive that has none; an old one is set aside first.

        What is damaged in the ledger is written as it is: a reader of the mirror takes it for damaged, too.
        Returns the number of entries. May be called again after it was interrupted.
        """
        with self._alone():
            with self._folder(make=True) as (_, folder):
                self._tail = None
                for name in reversed(_names(folder)):  # cut short, it leaves a mirror that only ends earlier
                    _set_aside(folder, name)
                _write_anew(folder, segments.segment_name(1), segments.begin_line(self._ledger.ledger_id, Tree()))
            while entries := self._more():
                self._append(entries, as_they_are=True)
                on_progress(self._position)
            return self._position

    def _more(self) -> list[Entry]:
        """The next batch: no more than a segment takes, and no more than a segment's bytes in memory."""
        if self._tail is None or not self._untouched(self._tail):
            self._open()
        found: list[Entry] = []
        size = 0
        while len(found) < SEGMENT_ENTRIES and size < SEGMENT_BYTES:
            wanted = min(READ_ENTRIES, SEGMENT_ENTRIES - len(found))
            some = self._ledger.read(self._position + len(found), wanted)
            found += some
            size += sum(len(entry.payload) for entry in some)
            if len(some) < wanted:
                break
        return found

    def _append(self, entries: list[Entry], *, as_they_are: bool = False) -> None:
        tail = self._tail
        if tail is None:
            raise RuntimeError("the mirror is opened before it is appended to")
        if not as_they_are and (damaged := next(filter(faults, entries), None)):
            raise _not_whole(damaged.position)
        self._tail = None  # until it is durable nobody knows what the file holds
        tree = tail.tree.copy()
        full = tail.entries >= SEGMENT_ENTRIES or tail.state.size >= SEGMENT_BYTES
        head = segments.begin_line(self._ledger.ledger_id, tree) if full else b""
        name = segments.segment_name(tree.size + 1) if full else tail.name
        data = head + segments.batch_bytes(self._ledger.ledger_id, tree, entries)
        with self._folder() as (root, folder):
            if root != tail.root:
                raise Retryable("mirror-moved", "another volume has been mounted at ARCHIVE_PATH meanwhile", shared=True)
            if full:
                _remove(folder, name)  # left by somebody who did not get so far
            with _opened(name, (_MAKE if full else os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), folder) as descriptor:
                if full:
                    os.fchmod(descriptor, FILE_MODE)
                    chown_like_folder(descriptor, folder)
                elif _identity(descriptor) != tail.state:
                    raise Retryable("mirror-moved", "the mirror's last segment has been changed meanwhile", shared=True)
                _write_all(descriptor, data)
                os.fsync(descriptor)
                state = _identity(descriptor)
            if full:
                os.fsync(folder)
        self._tail = _Tail(name, root, state, (0 if full else tail.entries) + len(entries), tree)
        self._position = tree.size

    def _untouched(self, tail: _Tail) -> bool:
        with self._folder() as (root, folder):
            try:
                status = os.stat(tail.name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return root == tail.root and Identity(status.st_dev, status.st_ino, status.st_size) == tail.state

    def _open(self) -> None:
        """Find the end, and make the last segment anew: whoever wrote it may have been killed, or its fsync have failed."""
        self._tail = None
        with self._folder() as (root, folder):
            survey = self._survey(folder)
            if not survey.whole:
                _set_aside_copy(folder, survey.name)
                logs.get().error("mirror.damaged", position=survey.tree.size)
            elif survey.torn:
                logs.get().info("mirror.repaired", position=survey.tree.size, bytes=survey.torn)
            state = _write_anew(folder, survey.name, survey.data)
            self._tail = _Tail(survey.name, root, state, survey.entries, survey.tree)
            self._position = survey.tree.size
        self._on_recognised(root)

    def _survey(self, folder: int) -> _Survey:
        """What the last segment is, and what it ought to be by the ledger. Raises `LedgerUnusable` where they contradict."""
        names = _names(folder)
        if not names:
            raise _missing(self._ledger)
        name = names[-1]
        data = _read(folder, name)
        before = (segments.first_position(name) or 1) - 1
        begin: Begin | None = None
        sizes: list[int] = []
        said: list[Entry] = []
        ids: set[str] = set()
        for _, line in segments.lines(data):
            match line:
                case Begin():
                    begin = line
                    ids.add(line.ledger_id)
                case Batch():
                    sizes.append(line.size)
                    ids.add(line.ledger_id)
                case Entry():
                    said.append(line)
        last = self._ledger.last()
        position = last.position if last else 0
        if ids and ids != {self._ledger.ledger_id}:
            raise _foreign(self._ledger, min(ids - {self._ledger.ledger_id}), position)
        claimed = max([before, *sizes, *(entry.position for entry in said)])
        if claimed > position:
            raise _ahead(claimed, position)
        ours = self._as_recorded(said, before, claimed)
        tree = self._tree_before(folder, names, begin, before)
        expected = [segments.begin_line(self._ledger.ledger_id, tree)]
        count = 0
        for size in sizes:
            batch = [ours[p] for p in range(tree.size + 1, size + 1)]
            if batch:
                expected.append(segments.batch_bytes(self._ledger.ledger_id, tree, batch))
                count += len(batch)
        right = b"".join(expected)
        # After the last batch there may be entries of one that was not completed, and a torn line: no more than that.
        rest = data[len(right) :]
        whole = right.startswith(data) or (data.startswith(right) and all(isinstance(line, Entry) for _, line in segments.lines(rest)))
        return _Survey(name, right, tree, count, whole=whole, torn=len(rest) if whole else 0)

    def _as_recorded(self, said: list[Entry], after: int, up_to: int) -> dict[int, Entry]:
        """The ledger's entries; one that is damaged there as the mirror has it. That may be the only whole copy of it."""
        ours = self._entries(after, up_to)
        for entry in said:
            own = ours.get(entry.position)
            if own is not None and faults(own):
                ours[entry.position] = entry
            elif own is not None and own.leaf_hash != entry.leaf_hash:
                raise _disagrees(entry.position)
        return ours

    def _entries(self, after: int, up_to: int) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        while after < up_to:
            some = self._ledger.read(after, min(READ_ENTRIES, up_to - after))
            found.update((entry.position, entry) for entry in some)
            after += len(some)
        return found

    def _tree_before(self, folder: int, names: list[str], begin: Begin | None, before: int) -> Tree:
        """The tree over what earlier segments hold: from the two lines that say so, or from the ledger if they don't agree."""
        if before == 0:
            return Tree()
        if begin is not None and begin.before.size == before and len(names) > 1:
            last_line = _last_line(folder, names[-2])
            if isinstance(last_line, Batch) and (last_line.size, last_line.root) == (before, begin.before.root()):
                return begin.before.copy()
        tree = Tree()
        while tree.size < before:
            tree.extend(entry.leaf_hash for entry in self._ledger.read(tree.size, min(READ_ENTRIES, before - tree.size)))
        return tree

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, of all threads and processes."""
        with self._mutex:
            descriptor = self._locked()
            try:
                with _translated():
                    yield
            finally:
                locks.let_go(descriptor)

    def _locked(self) -> int:
        """A descriptor that holds the lock."""
        try:
            descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
            chown_like_folder(descriptor, self._lock_file.parent)
            try:
                _take(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise Retryable("ledger-io", f"mirror.lock: {os.strerror(error.errno or 0)}", errno=error.errno, shared=True) from error
        return descriptor

    @contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[tuple[Identity, int]]:
        """The mirror's folder, open, and the identity of the archive's root that it lies in."""
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            text = f"ARCHIVE_PATH cannot be opened: {os.strerror(error.errno or 0)}"
            raise Retryable("archive-missing", text, errno=error.errno, shared=True) from error
        try:
            if make:
                _make_folder(root, LEDGER_FOLDER)
            try:
                folder = os.open(LEDGER_FOLDER, _FOLDER, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                raise _missing(self._ledger) from None
            try:
                yield _identity(root, sized=False), folder
            finally:
                os.close(folder)
        finally:
            os.close(root)


def _take(descriptor: int) -> None:
    """Whoever writes the mirror has the lock for one batch; a process that hangs may have it for ever."""
    until = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                text = f"another process has held mirror.lock for {LOCK_WITHIN_S:.0f} s"
                raise Retryable("mirror-busy", text, shared=True) from None
            time.sleep(0.02)
        else:
            return


@dataclass(frozen=True, slots=True)
class _Survey:
    """Of the last segment. `data`: its bytes as the ledger has them, up to the last batch; `tree`, `entries`: of those.

    `whole`: what lies there agrees with them; `torn`: bytes of a batch that was not completed.
    """

    name: str
    data: bytes
    tree: Tree
    entries: int
    whole: bool
    torn: int


def mirrored_position(archive_root: Path) -> int | None:
    """Up to which position the mirror says to go, from its last lines; None where there is none, or it can't be read."""
    folder_path = archive_root / LEDGER_FOLDER
    with suppress(OSError), _opened(str(folder_path), _FOLDER) as folder:
        names = _names(folder)
        if names:
            sizes = [line.size for _, line in segments.lines(_read(folder, names[-1])) if isinstance(line, Batch)]
            return max(sizes, default=(segments.first_position(names[-1]) or 1) - 1)
    return None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a mirror is of: how many segments, and the ledger's id from the last line that is whole and has one."""

    ledger_id: str
    segments: int


def look(archive_root: Path) -> Mirrored:
    """Whose mirror lies there. Raises `LedgerUnusable` (`mirror-missing`, `mirror-damaged`)."""
    with _translated(), _opened_folder(archive_root) as folder:
        names = _names(folder)
        for name in reversed(names):
            ids = [line.ledger_id for _, line in segments.lines(_read(folder, name)) if isinstance(line, Begin | Batch)]
            if ids:
                return Mirrored(ids[-1], len(names))
    raise LedgerUnusable("mirror-damaged", f"no line of {len(names)} segments in {LEDGER_FOLDER}/ says whose mirror it is")


def entries(
    archive_root: Path, ledger_id: str, known: Tree | None = None, *, on_proved: Callable[[int], None] = lambda _: None
) -> Iterator[Entry]:
    """All entries of the mirror in order, each checked: hashes, positions, the tree's root after every batch.

    Of a last batch that a crash cut short those entries are given that are whole: they were in the ledger before they
    came here. Raises `LedgerUnusable`: `mirror-damaged` naming segment and line, after all entries before it were given.

    With `known`, the tree over what is known already, it begins with the segment that holds the last entry of that, and damage up to
    there is passed over: the root of the first batch beyond says whether all of it was the same. `on_proved` hears up to which
    position a root has said so.
    """
    tree = known.copy() if known is not None else Tree()
    passing = tree.size > 0
    with _translated(), _opened_folder(archive_root) as folder:
        names = _names(folder)
        begun = sum(1 for name in names if (segments.first_position(name) or 0) <= tree.size)
        for name in names[max(0, begun - 1) :]:
            if not passing and segments.first_position(name) != tree.size + 1:
                raise _damaged(name, 1, f"it should begin at position {tree.size + 1}: is a segment missing?")
            data = _read(folder, name)
            number = 0
            for number, (_, line) in enumerate(segments.lines(data), 1):
                if passing and _goes_no_further(line, tree):
                    if isinstance(line, Entry):
                        yield line
                    continue
                passing = False
                trouble = _contradiction(line, number, tree, ledger_id)
                if trouble is not None:
                    raise _damaged(name, number, trouble)
                if isinstance(line, Entry):
                    tree.append(line.leaf_hash)
                    yield line
                else:
                    on_proved(tree.size)
            if not data.endswith(b"\n") and name != names[-1]:
                raise _damaged(name, number + 1, "the line does not end")


def _goes_no_further(line: segments.Line | None, known: Tree) -> bool:
    match line:
        case Entry():
            return line.position <= known.size
        case Batch():
            return line.size < known.size or (line.size, line.root) == (known.size, known.root())
        case Begin():
            return line.before.size < known.size
        case None:
            return True


def _contradiction(line: segments.Line | None, number: int, tree: Tree, ledger_id: str) -> str | None:
    """What is wrong with a line, after all before it; None when nothing is."""
    match line:
        case None:
            return "it is not as it was written"
        case Entry() if number > 1 and line.position == tree.size + 1:
            return None
        case Begin() if number == 1 and (line.ledger_id, line.before) == (ledger_id, tree):
            return None
        case Batch() if number > 1 and (line.ledger_id, line.size, line.root) == (ledger_id, tree.size, tree.root()):
            return None
        case _:
            return "it does not follow from those before it"


@contextmanager
def _opened_folder(archive_root: Path) -> Iterator[int]:
    try:
        descriptor = os.open(archive_root / LEDGER_FOLDER, _FOLDER)
    except OSError as error:
        text = f"{archive_root / LEDGER_FOLDER} cannot be opened: {os.strerror(error.errno or 0)}. Is the archive's volume mounted?"
        raise LedgerUnusable("mirror-missing", text, errno=error.errno) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _damaged(name: str, line: int, text: str) -> LedgerUnusable:
    return LedgerUnusable("mirror-damaged", f"{LEDGER_FOLDER}/{name}, line {line}: {text}")


def _names(folder: int) -> list[str]:
    """The segments, in order. A file of another name is none; verify tells of it."""
    return sorted(name for name in os.listdir(folder) if segments.first_position(name) is not None)


def _make_folder(parent: int, name: str) -> None:
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return
    with _opened(name, _FOLDER, parent) as made:
        os.fchmod(made, FOLDER_MODE)  # whatever the umask
        chown_like_folder(made, parent)
    os.fsync(parent)


def _write_anew(folder: int, name: str, data: bytes) -> Identity:
    """A file of these bytes under this name, durable on return: written under another one, fsynced, renamed."""
    _remove(folder, _TEMPORARY)
    with _opened(_TEMPORARY, _MAKE, folder) as descriptor:
        os.fchmod(descriptor, FILE_MODE)
        chown_like_folder(descriptor, folder)
        _write_all(descriptor, data)
        os.fsync(descriptor)
        os.rename(_TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
        return _identity(descriptor)


def _set_aside(folder: int, name: str) -> None:
    """Move it to `damaged/`: evidence."""
    _make_folder(folder, DAMAGED_FOLDER)
    with _opened(DAMAGED_FOLDER, _FOLDER, folder) as damaged:
        os.rename(name, _free(damaged, name), src_dir_fd=folder, dst_dir_fd=damaged)
        os.fsync(damaged)
    os.fsync(folder)


def _set_aside_copy(folder: int, name: str) -> None:
    """Link it into `damaged/`; the name itself is about to be taken over by a right one."""
    _make_folder(folder, DAMAGED_FOLDER)
    with _opened(DAMAGED_FOLDER, _FOLDER, folder) as damaged:
        os.link(name, _free(damaged, name), src_dir_fd=folder, dst_dir_fd=damaged, follow_symlinks=False)
        os.fsync(damaged)


def _free(damaged: int, name: str) -> str:
    taken = set(os.listdir(damaged))
    return next(n for i in range(len(taken) + 1) if (n := f"{name}.{time.time_ns() // 1_000_000}{f'.{i}' if i else ''}") not in taken)


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _read(folder: int, name: str) -> bytes:
    with _opened(name, _READ, folder) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def _last_line(folder: int, name: str) -> segments.Line | None:
    with _opened(name, _READ, folder) as descriptor:
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, 4096, max(0, size - 4096))
    return segments.parse(end[:-1].rpartition(b"\n")[2]) if end.endswith(b"\n") else None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _opened(name: str, flags: int, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, flags, FILE_MODE, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(descriptor: int, *, sized: bool = True) -> Identity:
    status = os.fstat(descriptor)
    return Identity(status.st_dev, status.st_ino, status.st_size if sized else 0)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = os.strerror(error.errno or 0)
        match error.errno:
            case errnos.ENOSPC | errnos.EDQUOT:
                code = "archive-full"
            case errnos.EROFS:
                code = "archive-read-only"
            case errnos.EACCES | errnos.EPERM:
                code = "archive-not-writable"
            case _:
                code = "mirror-io"
        raise Retryable(code, f"the mirror in {LEDGER_FOLDER}/: {text}", errno=error.errno, shared=True) from error


def _missing(ledger: Ledger) -> LedgerUnusable:
    last = ledger.last()
    return LedgerUnusable(
        "mirror-missing",
        f"the ledger has {last.position if last else 0} entries, but ARCHIVE_PATH holds no mirror of it ({LEDGER_FOLDER}/). "
        "Is the archive's volume mounted, and is it the right one? If the archive is new on purpose: `storage-ledger replay --mirror`",
    )


def _foreign(ledger: Ledger, other: str, position: int) -> LedgerUnusable:
    return LedgerUnusable(
        "mirror-foreign",
        f"the archive's mirror is that of ledger {other}; LEDGER_PATH holds ledger {ledger.ledger_id} with {position} entries. "
        "If the ledger's volume is new or was lost: `storage-ledger restore --from-mirror`. "
        "Else the wrong volume is mounted at ARCHIVE_PATH or LEDGER_PATH",
    )


def _ahead(claimed: int, position: int) -> LedgerUnusable:
    return LedgerUnusable(
        "mirror-ahead",
        f"the archive's mirror goes up to position {claimed}, the ledger only to {position}: an old backup of the ledger? "
        "`storage-ledger restore --from-mirror` takes over what it lacks",
    )


def _not_whole(position: int) -> LedgerUnusable:
    return LedgerUnusable(
        "ledger-damaged",
        f"the entry at position {position} is not what its hashes say, and the mirror does not have it yet. Restore a backup: "
        "`storage-ledger restore --from-backup`. Without one, `storage-ledger replay --mirror` makes a mirror of what is there",
    )


def _disagrees(position: int) -> LedgerUnusable:
    return LedgerUnusable(
        "mirror-disagrees",
        f"ledger and mirror tell different things at position {position}: one of them went on from an old copy. "
        "Keep both as they are; `storage-ledger restore --from-mirror` tells how to make the mirror's ledger again beside it",
    )
