"""Back up the ledger while the service runs; check each backup when it is created and again before it is used.

A backup is a folder with `ledger.db`, `manifest.json`, the newest signed `checkpoint` if there is one, and the private `checkpoint.key`
that signs them if asked for. It gets its final name once it is complete.
The manifest shows damage, not tampering: whoever can write to the folder can write both files.
"""

from __future__ import annotations

import errno as errnos
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from storage_ledger import __version__
from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.errors import LEDGER_DAMAGED, LEDGER_FULL, LEDGER_IO, LEDGER_NEWER, BackupError, LedgerError, LedgerUnusable, Locked
from storage_ledger.ledger.entry_rows import COLUMNS
from storage_ledger.ledger.migrate import revision_of
from storage_ledger.ledger.snapshot import MODE, copy_to
from storage_ledger.system import files
from storage_ledger.system.sqlite import errors_mapped, quoted, sqlite

FORMAT = "storage-ledger-backup 1"
LEDGER = "ledger.db"
MANIFEST = "manifest.json"
NOTE = "checkpoint"
KEY = "checkpoint.key"
KEY_MODE = 0o400
FOLDER_MODE = 0o750
MAX_MANIFEST_BYTES = 65_536
MAX_KEY_BYTES = 16_384
_PREFIX = "ledger-"
_PART = ".part"
_CHUNK = 1 << 20
_ROWS = 500

BackupProgress = Callable[[str, int, int], None]
"""Called with the current step (`copied`, `checked`), the amount done and the total, in bytes or entries."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of manifest.json.

    `sha256`, `bytes`: of the backup's ledger.db; `leaf_hash`: of its last entry; `root`: of the Merkle tree over all its entries.
    """

    format: str
    ledger_id: str
    position: int
    leaf_hash: str
    root: str
    sha256: str
    bytes: int
    revision: str
    program: str
    created: str


def back_up(
    ledger_file: Path,
    dest: Path,
    *,
    now: datetime,
    note: bytes | None = None,
    key: bytes | None = None,
    on_progress: BackupProgress = lambda *_: None,
) -> tuple[Path, Manifest]:
    """Make a new backup in `dest`, a folder of backups, which is created if it is missing (its parent is not).

    `note`, `key`: the newest checkpoint, read before this call so that it covers no more than the backup, and the key that signs.

    On return the backup is complete and durable, and every entry in it has been checked. Nothing in `dest` is overwritten.
    Raises `BackupError` (nothing is left behind), `LedgerError`, and `Locked` while another backup is being made there.
    """
    revision = revision_of(ledger_file)
    if revision is None:
        raise LedgerUnusable("ledger-missing", f"{ledger_file} is empty: there is nothing to back up")
    name = f"{_PREFIX}{now:%Y%m%dT%H%M%S%fZ}"
    final, part = dest / name, dest / f".{name}{_PART}"
    with _translated(dest), _alone(dest):
        if final.exists():
            raise BackupError("backup-exists", f"{final} already exists and is not overwritten")
        try:
            part.mkdir(FOLDER_MODE)
            part.chmod(FOLDER_MODE)  # whatever the umask
            files.chown_like_folder(part, dest)
            copy_to(ledger_file, part / LEDGER, lambda done, pages: on_progress("copied", done, pages))
            sha256, size = _digest(part / LEDGER)
            manifest = Manifest(FORMAT, *check_copy(part / LEDGER, on_progress), sha256, size, revision, __version__, rfc3339(now))
            with files.opened(part, files.FOLDER) as folder:
                files.write_file(MANIFEST, (json.dumps(asdict(manifest), indent=2) + "\n").encode(), folder, MODE)
                for beside, data, mode in ((NOTE, note, MODE), (KEY, key, KEY_MODE)):
                    if data is not None:
                        files.write_file(beside, data, folder, mode)
                os.fsync(folder)
            part.rename(final)
            files.fsync_path(dest)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final, manifest


def find(place: Path) -> tuple[Path, Manifest]:
    """Return the backup at `place`, or the newest one in that folder, and its manifest; ledger.db is not read yet.

    Raises `BackupError`.
    """
    with _translated(place):
        if (place / MANIFEST).exists():
            return place, _manifest(place)
        names = sorted(each.name for each in place.iterdir() if each.name.startswith(_PREFIX) and (each / MANIFEST).exists())
        if not names:
            raise BackupError("backup-missing", f"{place} is not a backup (it has no {MANIFEST}) and contains none ({_PREFIX}…/)")
        return place / names[-1], _manifest(place / names[-1])


def put_back_key(folder: Path, path: Path, *, dry_run: bool = False) -> bool:
    """Copy the backup's key to `path`, durably. Returns False, and does nothing, if the backup has none or anything is at `path`.

    Raises `BackupError`.
    """
    with _translated(path.parent):
        if not (folder / KEY).exists() or os.path.lexists(path):
            return False
        if not dry_run:
            with _regular(folder / KEY) as file, files.opened(path.parent, files.VOLUME) as parent:
                files.replace_file(path.name, file.read(MAX_KEY_BYTES), parent, KEY_MODE, temporary=f".{path.name}.tmp")
        return True


def take_out(folder: Path, manifest: Manifest, target: Path, on_progress: BackupProgress = lambda *_: None) -> None:
    """Copy the backup's ledger to `target`, which must not exist, and check all of it: SHA-256, every entry, the Merkle root.

    The copy is fsynced on return. Raises `BackupError` (`backup-damaged`, with what is wrong; the copy is then removed).
    """
    with _translated(target.parent):
        try:
            _take_out(folder, manifest, target, on_progress)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _take_out(folder: Path, manifest: Manifest, target: Path, on_progress: BackupProgress) -> None:
    digest, size = _copy(folder / LEDGER, target, manifest.bytes, lambda done: on_progress("copied", done, manifest.bytes))
    if (digest, size) != (manifest.sha256, manifest.bytes):
        raise BackupError("backup-damaged", f"{folder / LEDGER} does not have the SHA-256 given in {MANIFEST}")
    revision = _revision_of(target, folder)  # before any entry: a newer schema may have other columns
    found = (*check_copy(target, on_progress), revision)
    if found != (manifest.ledger_id, manifest.position, manifest.leaf_hash, manifest.root, manifest.revision):
        raise BackupError("backup-damaged", f"{folder / MANIFEST} does not match the entries in {LEDGER}")


def _revision_of(copy: Path, folder: Path) -> str:
    try:
        revision = revision_of(copy)
    except LedgerUnusable as error:
        if error.code == LEDGER_NEWER:
            text = f"{folder / LEDGER} has a newer schema than this program knows: restore it with the version that made it"
            raise BackupError("backup-newer", text) from error
        raise BackupError("backup-damaged", f"{folder / LEDGER} is not a ledger: use another backup") from error
    if revision is None:
        raise BackupError("backup-damaged", f"{folder / LEDGER} is empty: use another backup")
    return revision


def check_copy(file: Path, on_progress: BackupProgress = lambda *_: None) -> tuple[str, int, str, str]:
    """Check every entry of a copy against its hashes, without gaps in the positions. Nothing may be writing to the copy.

    Returns ledger_id, last position, its leaf hash and the Merkle root, both in hex. Raises `BackupError`.
    """
    tree, last = Tree(), ""
    with errors_mapped(), closing(sqlite.connect(f"file:{quoted(file)}?mode=ro&immutable=1", uri=True)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'ledger_id'").fetchone()
        total = connection.execute("SELECT coalesce(max(position), 0) FROM entries").fetchone()[0]
        found = connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY position")  # noqa: S608 - constants
        while rows := found.fetchmany(_ROWS):
            for entry in (Entry(*each) for each in rows):
                wrong = faults(entry) if entry.position == tree.size + 1 else ["entry-missing"]
                if wrong:
                    raise BackupError("backup-damaged", f"the entry at position {tree.size + 1}: {', '.join(wrong)}")
                tree.append(entry.leaf_hash)
                last = entry.leaf_hash.hex()
            on_progress("checked", tree.size, total)
    if row is None:
        raise BackupError("backup-damaged", "the backup has no ledger_id")
    return row[0], tree.size, last, tree.root().hex()


def _manifest(folder: Path) -> Manifest:
    try:
        with _regular(folder / MANIFEST) as file:
            said = json.loads(file.read(MAX_MANIFEST_BYTES))
        if isinstance(said, dict) and said.get("format") != FORMAT and "format" in said:  # its other fields may differ, too
            raise BackupError("backup-newer", f"{folder / MANIFEST} has a newer format than this program knows: run a newer version")
        manifest = Manifest(**said)
    except (ValueError, TypeError, RecursionError):
        raise BackupError("backup-damaged", f"{folder / MANIFEST} cannot be read: use another backup") from None
    if not (isinstance(manifest.position, int) and isinstance(manifest.bytes, int)):
        raise BackupError("backup-damaged", f"{folder / MANIFEST} cannot be read: use another backup")
    return manifest


@contextmanager
def _alone(dest: Path) -> Iterator[None]:
    """Allow one backup at a time, and remove leftovers of a killed one. On a volume without flock there is no lock."""
    if not dest.exists():
        dest.mkdir(FOLDER_MODE)
        files.chown_like_folder(dest, dest.parent)
        files.fsync_path(dest.parent)
    with files.opened(dest, files.VOLUME) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked("locked", f"another backup is being made in {dest}") from None
        except OSError as error:
            if error.errno not in {errnos.ENOTSUP, errnos.ENOLCK, errnos.ENOSYS, errnos.EINVAL}:
                raise
        for left in dest.glob(f".{_PREFIX}*{_PART}"):
            shutil.rmtree(left)
        yield


@contextmanager
def _translated(place: Path) -> Iterator[None]:
    try:
        yield
    except LedgerError as error:
        if error.code == LEDGER_FULL:
            raise _full(place) from error
        if error.code == LEDGER_IO:
            raise BackupError("backup-io", f"the ledger cannot be read, or {place} cannot be written", errno=error.errno) from error
        if error.code == LEDGER_DAMAGED:
            raise BackupError("backup-damaged", error.detail) from error
        raise
    except OSError as error:
        text = os.strerror(error.errno or 0)
        if error.errno in {errnos.EACCES, errnos.EPERM}:
            text = f"{place}: user {os.geteuid()} may not {'write there' if os.access(place, os.R_OK | os.X_OK) else 'open it'}"
            raise BackupError("backup-folder", text, errno=error.errno) from error
        if error.errno in files.NO_SPACE:
            raise _full(place) from error
        if error.errno in {errnos.EIO, errnos.ESTALE}:
            raise BackupError("backup-io", f"{place}: {text}", errno=error.errno) from error
        if error.errno == errnos.ENOENT:
            raise BackupError("backup-folder", _missing(Path(error.filename or place)), errno=error.errno) from error
        raise BackupError("backup-folder", f"{error.filename or place}: {text}", errno=error.errno) from error


def _missing(path: Path) -> str:
    """Return which folder on the way to the path is missing, and whether a volume may not be mounted."""
    there = next(each for each in path.parents if each.exists())
    own = there.stat().st_dev == Path("/").stat().st_dev
    asked = f", and {there} is on the system's own volume: is the volume for backups mounted?" if own else ""
    return f"{path}: {there / path.relative_to(there).parts[0]} does not exist{asked}"


def _full(place: Path) -> BackupError:
    return BackupError("backup-full", f"the volume of {place} is full: nothing was done and nothing was left there", errno=errnos.ENOSPC)


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


@contextmanager
def _regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a backup. A FIFO would block, and a device may be endless: they raise `BackupError`."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BackupError("backup-damaged", f"{path} is not a regular file: use another backup")
        yield file


def _copy(source: Path, target: Path, most: int, on_progress: Callable[[int], None]) -> tuple[str, int]:
    """Copy and fsync; return the SHA-256 of what was read, and its length. Reads little more than `most` bytes."""
    digest, size = hashlib.sha256(), 0
    with _regular(source) as read, files.opened(target, files.CREATE) as descriptor:
        while size <= most and (chunk := read.read(_CHUNK)):
            digest.update(chunk)
            files.write_all(descriptor, chunk)
            size += len(chunk)
            on_progress(size)
        files.set_mode_and_owner(descriptor, target.parent, MODE)
        os.fsync(descriptor)
    return digest.hexdigest(), size
