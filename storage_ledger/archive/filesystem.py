"""The archive as folders and files, with every fsync that it takes to say "archived" and mean it."""

from __future__ import annotations

import errno as errnos
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from storage_ledger.archive import durable_copy
from storage_ledger.archive.contract import Fixity, Placed
from storage_ledger.archive.durable_copy import FAILURES, FILE_MODE, METADATA_MODE
from storage_ledger.archive.durable_copy import digest_of as digest_of  # noqa: PLC0414 - remover and reconcile import it from here
from storage_ledger.archive.uploads import Identity, Upload
from storage_ledger.domain.paths import (
    DAMAGED_FOLDER,
    LEDGER_FOLDER,
    METADATA,
    archive_name,
    beside_name,
    damaged_name,
    is_attempt,
    putting_back_name,
    temporary_name,
)
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.system import files
from storage_ledger.system.cpu_affinity import LARGE_BYTES, any_of_them
from storage_ledger.system.files import FolderId

FOLDER_MODE = 0o750
LOW_BYTES = 1 << 20
KNOWN_FOLDERS = 1024
ROUNDS = 16  # in which other processes may change a file under our hands before we leave it to the next attempt


class FilesystemArchive:
    """See `contract.Archive`. `root` (ARCHIVE_PATH) must exist: an archive that is not mounted is not made up.

    Several processes may work in one archive, and even on one work item: each writes to temporary names of its own, which carry
    `worker`, links what is whole, and replaces a file only by one rename over it. A final name is never unlinked or renamed
    away where another process may rely on it.

    After an fsync that failed the kernel may have dropped what it could not write, and the next one says that all is well
    (PostgreSQL's "fsyncgate"). So nothing is fsynced a second time: a new copy is made, and the name is put again.
    """

    def __init__(self, root: Path, *, worker: str | None = None) -> None:
        self.root = root
        self._worker = worker or os.urandom(6).hex()
        self._epochs = itertools.count(1)
        self._in_use: set[str] = set()  # temporary names of this process
        self._known: OrderedDict[str, tuple[int, bool]] = OrderedDict()  # study → its folder's mtime_ns as we left it; left in order?
        self._recognised: FolderId | None = None
        self._lock = threading.Lock()
        self._new_folders: dict[str, set[int]] = {}  # study → inodes that we put there; made since the last good fsync of the root
        self._lost_folders: dict[str, set[int]] = {}  # an fsync of the root failed when they were new
        self._root_before: int | None = None  # the root, open since before the first of the new folders was made
        self._lost_names: set[tuple[str, str]] = set()  # (study, name); an fsync of their folder failed, and putting them again did too

    def recognise(self, device: int, inode: int) -> None:
        """From now on only this root folder is the archive: a volume that comes off leaves an empty folder of the same name."""
        self._recognised = FolderId(device, inode)

    def place(self, upload: Upload, study_id: str, *, original_name: str, owned: Mapping[str, str], position: int) -> Placed:
        """Copy to a temporary name, fsync, link to the final name (never over one), unlink the temporary one, fsync the folder.

        See `contract.Archive.place`. Where an fsync fails, the next attempt makes a new copy.
        """
        with files.translated(FAILURES), self._study_folder(study_id, make=True) as folder:
            if not owned:
                self._require_own(study_id)
            with self._temporary(f"place-{position}", folder) as temporary:
                with any_of_them(when=upload.size >= LARGE_BYTES):
                    sha256 = durable_copy.copy(upload, temporary, folder, FILE_MODE)
                self._note_ours(study_id, temporary, folder)
                placed = self._link(folder, temporary, study_id, original_name, sha256, upload.size, owned, position)
            self._sync_names(folder, study_id, placed.name, sha256)
            return placed

    def put_back(self, copy: Upload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """As `place`, but to a name that is known. A second hidden name stays as the mark. See `contract.Archive.put_back`."""
        with files.translated(FAILURES), self._study_folder(study_id, make=True, alone=False) as folder:
            mark = putting_back_name(name, time)
            placed: Placed | None = None
            try:
                with self._temporary(f"place-{position}", folder) as temporary:
                    if durable_copy.copy(copy, temporary, folder, FILE_MODE) != sha256:
                        raise Retryable("upload-changing", "the copy no longer has the bytes for which it was chosen")  # noqa: TRY301 - undone like any other
                    self._note_ours(study_id, temporary, folder)
                    durable_copy.rename_over(temporary, mark, folder)  # whole, whoever else renames one over it
                durable_copy.fsync(folder)  # the mark first: from here on it says what was begun
                placed = self._link_owned(folder, mark, name, study_id, sha256, copy.size, position)
                self._sync_names(folder, study_id, name, sha256)
            except (OSError, Retryable, Permanent):
                if placed is None:  # else it was put back, and the mark says that no entry says so yet
                    files.unlink_if_exists(mark, folder)
                raise
            return placed

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """See `contract.Archive.is_marked`."""
        with files.translated(FAILURES):
            try:
                with self._study_folder(study_id, make=False) as folder:
                    os.stat(putting_back_name(name, time), dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """See `contract.Archive.unmark`."""
        with files.translated(FAILURES), suppress(FileNotFoundError), self._study_folder(study_id, make=False) as folder:
            os.unlink(putting_back_name(name, time), dir_fd=folder)
            durable_copy.fsync(folder)

    def write_metadata(self, study_id: str, data: bytes, *, ours: Callable[[bytes], bool] = lambda _: True) -> None:
        """Write to a temporary name, fsync, rename, fsync the folder. See `contract.Archive.write_metadata`."""
        with files.translated(FAILURES), self._study_folder(study_id, make=True) as folder:
            sha256 = hashlib.sha256(data).hexdigest()

            def foreign(name: str, folder: int) -> bool:
                return durable_copy.check(name, folder, sha256, len(data)) is Fixity.CHANGED and not ours(
                    durable_copy.beginning(name, folder)
                )

            lost = (study_id, METADATA) in self._lost_names  # then it is ours, whatever it holds
            found = durable_copy.check(METADATA, folder, sha256, len(data))
            if lost or found is not Fixity.INTACT or not durable_copy.synced(METADATA, folder):
                self._replace_metadata(folder, data, study_id, (lambda *_: False) if lost else foreign)
            try:
                durable_copy.fsync(folder)
            except OSError:
                self._lost_names.add((study_id, METADATA))
                self._replace_metadata(folder, data, study_id, lambda *_: False)
                self._lost_names.discard((study_id, METADATA))
                raise
            self._lost_names.discard((study_id, METADATA))

    def settle(self, studies: Collection[str]) -> set[str]:
        """See `contract.Archive.settle`."""
        with files.translated(FAILURES):
            lost = self._discard_lost(studies)
            try:
                self._sync_root()
            except OSError:
                self._discard_lost(studies)
                raise
            return lost

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """See `contract.Archive.check`."""
        with files.translated(FAILURES):
            try:
                with self._study_folder(study_id, make=False) as folder:
                    found = durable_copy.check(name, folder, sha256, size)
                    if found is Fixity.INTACT and ((study_id, name) in self._lost_names or not durable_copy.synced(name, folder)):
                        found = self._renew(name, folder, study_id, sha256)
                    if found is Fixity.INTACT:
                        self._sync_names(folder, study_id, name, sha256)
                    return found
            except FileNotFoundError:
                self._require_root()
                return Fixity.MISSING

    @contextmanager
    def open(self, study_id: str, name: str) -> Iterator[BinaryIO]:
        """See `contract.Archive.open`."""
        with files.translated(FAILURES), self._study_folder(study_id, make=False) as folder:
            descriptor = os.open(name, files.READ, dir_fd=folder)
        with files.translated(FAILURES), os.fdopen(descriptor, "rb") as file:  # of whoever reads it, too
            yield file

    def forget(self, study_id: str, position: int) -> None:
        """See `contract.Archive.forget`."""
        with files.translated(FAILURES), suppress(FileNotFoundError, Permanent), self._study_folder(study_id, make=False) as folder:
            names = os.listdir(folder)
            ours = [name for name in names if is_attempt(name, position)]
            for name in ours:
                files.unlink_if_exists(name, folder)
            if len(ours) == len(names):  # an attempt that came to nothing leaves nothing
                self._remove_empty(study_id)

    def trouble(self) -> tuple[str, str] | None:
        """See `contract.Archive.trouble`."""
        try:
            with files.translated(FAILURES), self._folder() as root:
                status = os.fstatvfs(root)
        except Retryable as error:
            return error.code, f"{error.detail}. Is the volume mounted?"
        if status.f_flag & os.ST_RDONLY:
            return "archive-read-only", "the archive's file system is mounted read-only"
        if not os.access(self.root, os.W_OK | os.X_OK):
            return "archive-not-writable", f"user {os.geteuid()} may not write into ARCHIVE_PATH"
        if status.f_bavail * status.f_frsize < LOW_BYTES or (status.f_files and status.f_favail < 64):
            return "archive-full", f"{status.f_bavail * status.f_frsize} bytes free on the archive's volume"
        return None

    def _link(
        self,
        folder: int,
        temporary: str,
        study_id: str,
        original_name: str,
        sha256: str,
        size: int,
        owned: Mapping[str, str],
        position: int,
    ) -> Placed:
        """Find the name that these bytes have or get, and see that they lie there.

        The ledger decides first: a name that it gives to these bytes is theirs, even if something else lies there now
        (that is damage: set aside); one that it gives to other bytes is taken, even if nothing lies there now.
        """
        plain = archive_name(original_name, sha256)
        beside = beside_name(plain, sha256)
        known = next((name for name in (plain, beside) if owned.get(name) == sha256), None)
        if known:
            return self._link_owned(folder, temporary, known, study_id, sha256, size, position)
        for name in (plain, beside):
            if name in owned:
                continue
            try:
                if durable_copy.link_as(name, temporary, folder, sure=name == beside):
                    return Placed(name, size, sha256, "copied")
            except FileExistsError:
                if durable_copy.check(name, folder, sha256, size) is Fixity.INTACT and not durable_copy.is_metadata(name, folder):
                    # No entry knows it, so nobody knows whether whoever linked it made it durable. Ours is.
                    self._put_over(folder, temporary, name, position)
                    return Placed(name, size, sha256, "already-there")
        raise Permanent("archive-name-taken", "both names that this file could have are taken by other bytes")

    def _link_owned(self, folder: int, source: str, name: str, study_id: str, sha256: str, size: int, position: int) -> Placed:
        """Under a name that the ledger gives to these bytes: other bytes there are damage, and are set aside."""
        for _ in range(ROUNDS):
            if durable_copy.is_metadata(name, folder):
                break
            try:
                if durable_copy.link_as(name, source, folder):
                    return Placed(name, size, sha256, "copied")
                break
            except FileExistsError:
                found = durable_copy.check(name, folder, sha256, size)
            put = partial(self._put_over, folder, source, name, position)
            if found is Fixity.INTACT:
                if (study_id, name) in self._lost_names or not durable_copy.synced(name, folder):
                    put()
                return Placed(name, size, sha256, "already-there")
            if found is Fixity.CHANGED:
                damaged = partial(_is_changed, sha256=sha256, size=size)
                aside = self._set_aside(folder, name, study_id, position, damaged, put)
                if aside is not None:
                    return Placed(name, size, sha256, "copied", aside)
        else:
            raise Retryable("archive-error", "other processes keep changing the file under this name")
        raise Permanent("archive-name-taken", "the archive's file system takes the file's name for that of metadata.json")

    def _put_over(self, folder: int, source: str, name: str, position: int) -> None:
        """Give `source`'s durable file the name too, in one step, over whatever file has it."""
        with self._temporary(f"place-{position}", folder) as spare:
            durable_copy.link_as(spare, source, folder, sure=True)
            durable_copy.rename_over(spare, name, folder)

    def _set_aside(
        self,
        folder: int,
        name: str,
        study_id: str,
        position: int,
        damaged: Callable[[str, int], bool],
        put: Callable[[], None],
    ) -> str | None:
        """Keep what has `name` as evidence in .ledger/damaged/<study_id>/, durably; only then `put` the right file over the name.

        The evidence is a second link, so that the name is never without a file. A folder, or a file that we may not link
        (another user's), is moved. None, and nothing is put: another process was faster, the name has another file by now.
        """
        parts = (LEDGER_FOLDER, DAMAGED_FOLDER, study_id)
        self._make_folder(*parts)
        self._sync_root()
        with self._folder(*parts) as aside:
            kept, moved = _keep(name, folder, aside, damaged_name(position, name))
            try:
                durable_copy.fsync(aside)
                if not moved:
                    if not damaged(kept, aside):
                        files.unlink_if_exists(kept, aside)
                        return None
                    if not durable_copy.same_file(name, folder, kept, aside):
                        return None
                put()
            except BaseException:  # the next attempt begins from the start: no evidence is kept twice
                if moved and not files.exists(name, folder):
                    os.rename(kept, name, src_dir_fd=aside, dst_dir_fd=folder)
                elif not moved and durable_copy.same_file(name, folder, kept, aside):
                    files.unlink_if_exists(kept, aside)
                raise
        return "/".join((*parts, kept))

    def _replace_metadata(self, folder: int, data: bytes, study_id: str, foreign: Callable[[str, int], bool]) -> None:
        """A new, durable file takes the name; the folder is not fsynced yet. What is `foreign`, or a folder, is set aside."""
        with self._temporary("metadata", folder) as temporary:
            files.write_file(temporary, data, folder, METADATA_MODE, fsync=durable_copy.fsync)
            self._note_ours(study_id, temporary, folder)
            put = partial(durable_copy.rename_over, temporary, METADATA, folder)
            if foreign(METADATA, folder) and self._set_aside(folder, METADATA, study_id, 0, foreign, put) is not None:
                return
            try:
                put()
            except IsADirectoryError:
                self._set_aside(folder, METADATA, study_id, 0, lambda *_: True, put)

    @contextmanager
    def _temporary(self, what: str, folder: int) -> Iterator[str]:
        """A name for a new file that no other attempt has, of this process or of another; gone at the end."""
        name = temporary_name(what, self._worker, next(self._epochs))
        self._in_use.add(name)
        try:
            yield name
        finally:
            try:
                files.unlink_if_exists(name, folder)
            finally:
                self._in_use.discard(name)

    def _sweep(self, study_id: str, folder: int, *, alone: bool) -> None:
        """Remove what killed processes left of their attempts. Looks only into a folder that changed since we left it.

        A live process whose temporary file this takes away cannot link it any more, and tries again.
        `alone`: no other thread of ours works in it, so any change is another process's.
        """
        changed, in_order = self._known.get(study_id, (0, False))
        if in_order and (not alone or changed == os.fstat(folder).st_mtime_ns):
            return
        for name in os.listdir(folder):
            if is_attempt(name) and name not in self._in_use:
                files.unlink_if_exists(name, folder)

    def _leave(self, study_id: str, folder: int, *, in_order: bool) -> None:
        changed = os.fstat(folder).st_mtime_ns
        with self._lock:
            self._known[study_id] = changed, in_order
            self._known.move_to_end(study_id)
            if len(self._known) > KNOWN_FOLDERS:
                self._known.popitem(last=False)

    @contextmanager
    def _study_folder(self, study_id: str, *, make: bool, alone: bool = True) -> Iterator[int]:
        """The study's folder, open. With `make` it is made where it is missing, and swept (see `_sweep`)."""
        if make:
            self._make_folder(study_id)
        try:
            with self._folder(study_id) as folder:
                if not make:
                    yield folder
                    return
                self._sweep(study_id, folder, alone=alone)
                in_order = False
                try:
                    yield folder
                    in_order = True
                finally:
                    self._leave(study_id, folder, in_order=in_order)
        except NotADirectoryError as error:
            raise Permanent("archive-name-taken", "the study's folder is a link or a file", errno=error.errno) from error

    def _require_own(self, study_id: str) -> None:
        """See that the folder of a study with no file yet is not another study's by a name that the file system takes for the same.

        SMB, APFS and NTFS do not tell upper from lower case, some of them forget a dot at the end. Raises `Permanent`.
        """
        with self._lock:
            if study_id in self._new_folders:  # nothing answered to its name
                return
        others = {study_id.swapcase(), study_id.rstrip("."), f"{study_id}."} - {study_id}
        if any(os.path.lexists(self.root / other) for other in others) and study_id not in os.listdir(self.root):
            text = "the archive's file system takes the study_id for that of another study, whose folder it is"
            raise Permanent("archive-folder-taken", text)

    def _make_folder(self, *parts: str) -> None:
        """Make what is missing of these folders, each with its mode, whatever the umask."""
        with self._folder() as root:
            for depth, part in enumerate(parts):
                with files.opened_below(root, *parts[:depth]) as parent:
                    try:
                        made = files.make_folder(part, parent, FOLDER_MODE)
                    except PermissionError as error:
                        shared = depth == 0  # nobody's study can be made; further down it is one folder's trouble alone
                        text = os.strerror(error.errno or 0)
                        raise Retryable("archive-not-writable", text, errno=error.errno, shared=shared) from error
                    if made and depth == 0 and part != LEDGER_FOLDER:
                        self._note_new(part, root)
                    if depth > 0:  # also one that was there: whoever made it may have been killed before this
                        _sync_parent(parent, part)

    def _note_new(self, study_id: str, root: int) -> None:
        with self._lock:
            self._new_folders.setdefault(study_id, set())
            if self._root_before is None:
                self._root_before = os.dup(root)

    def _note_ours(self, study_id: str, temporary: str, folder: int) -> None:
        """Remember which files this process puts into a folder that is not durable yet. See `_discard_lost`."""
        with self._lock:
            ours = self._new_folders.get(study_id, self._lost_folders.get(study_id))
        if ours is not None:
            ours.add(os.stat(temporary, dir_fd=folder, follow_symlinks=False).st_ino)

    def _discard_lost(self, studies: Collection[str]) -> set[str]:
        """Remove those whose folders are not known to be durable: no entry knows of them, and the uploads are still there.

        Only if this process put everything there, and nobody else has been in the folder since: another process may have recorded
        a file there, its own or one of ours.
        """
        with self._lock:
            lost = {study_id: self._lost_folders[study_id] for study_id in studies if study_id in self._lost_folders}
        for study_id, ours in lost.items():
            with suppress(FileNotFoundError), self._folder(study_id) as folder:
                names = os.listdir(folder)
                alone = self._known.get(study_id, (0, False))[0] == os.fstat(folder).st_mtime_ns
                if alone and all(os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino in ours for name in names):
                    for name in names:
                        os.unlink(name, dir_fd=folder)
                    self._remove_empty(study_id)
            with self._lock:
                self._lost_folders.pop(study_id, None)
        return set(lost)

    def _remove_empty(self, study_id: str) -> None:
        try:
            os.rmdir(self.root / study_id)
        except OSError as error:
            if error.errno not in {errnos.ENOENT, errnos.ENOTEMPTY, errnos.EEXIST}:  # another process removed or uses it
                raise

    def _sync_names(self, folder: int, study_id: str, name: str, sha256: str) -> None:
        """Fsync the study's folder. Where that fails, a new copy takes the name at once, so that the next fsync means something again.

        The name is not unlinked: another process may have found the file, and have recorded it.
        """
        try:
            durable_copy.fsync(folder)
        except OSError:
            self._lost_names.add((study_id, name))
            if self._renew(name, folder, study_id, sha256) is Fixity.INTACT:
                self._lost_names.discard((study_id, name))
            raise
        self._lost_names.discard((study_id, name))

    def _renew(self, name: str, folder: int, study_id: str, sha256: str) -> Fixity:
        """Put a durable copy over a file of which an fsync failed, in one step: what has the name is what the ledger says."""
        with self._temporary("renew", folder) as temporary:
            with files.opened(name, files.READ, folder) as source:
                status = os.fstat(source)
                mode = METADATA_MODE if name == METADATA else FILE_MODE
                if durable_copy.copy(Upload(source, Identity.of(status)), temporary, folder, mode) != sha256:
                    return Fixity.CHANGED
            if not os.path.samestat(status, os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return durable_copy.check(name, folder, sha256, status.st_size)  # another process has put its own there, durably
            self._note_ours(study_id, temporary, folder)
            durable_copy.rename_over(temporary, name, folder)
            return Fixity.INTACT

    def _sync_root(self) -> None:
        """Fsync ARCHIVE_PATH, by a descriptor that is older than the new folders.

        The kernel tells each open descriptor of an error once: one opened later may not hear of it when another process has.
        """
        with self._lock:
            new, before, self._root_before = set(self._new_folders), self._root_before, None
        try:
            with self._folder() as root:
                durable_copy.fsync(root if before is None else before)
        except OSError:
            with self._lock:
                self._lost_folders |= self._new_folders
                self._new_folders.clear()
            raise
        finally:
            if before is not None:
                os.close(before)
        with self._lock:
            for study_id in new:
                self._new_folders.pop(study_id, None)

    def _require_root(self) -> None:
        with self._folder():
            pass

    @contextmanager
    def _folder(self, *parts: str) -> Iterator[int]:
        opened_root = files.opened_volume(self.root, setting="ARCHIVE_PATH", code="archive-missing", same_as=self._recognised)
        with opened_root as root, files.opened_below(root, *parts) as folder:
            yield folder


def _keep(name: str, folder: int, aside: int, wanted: str) -> tuple[str, bool]:
    """Give what has `name` a free name like `wanted` in the folder `aside` too. Returns that, and whether it had to be moved there."""
    for number in itertools.count():
        kept = f"{wanted}.{number}" if number else wanted
        try:
            os.link(name, kept, src_dir_fd=folder, dst_dir_fd=aside, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in files.NO_HARD_LINKS:
                raise
            break
        return kept, False
    taken = set(os.listdir(aside))
    kept = next(new for number in itertools.count() if (new := f"{wanted}.{number}" if number else wanted) not in taken)
    os.rename(name, kept, src_dir_fd=folder, dst_dir_fd=aside)
    return kept, True


def _sync_parent(parent: int, made: str) -> None:
    try:
        durable_copy.fsync(parent)
    except OSError:
        with suppress(OSError):  # it stays if another process has put something in it
            os.rmdir(made, dir_fd=parent)
        raise


def _is_changed(name: str, folder: int, *, sha256: str, size: int) -> bool:
    return durable_copy.check(name, folder, sha256, size) is Fixity.CHANGED
