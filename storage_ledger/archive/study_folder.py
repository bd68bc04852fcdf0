"""One study's folder: how a file gets its final name, and how damaged or foreign files are kept as evidence.

`copy` and `link` read top to bottom: temporary file, copy, length check, fsync; link to the final name, unlink the temporary. `sync` fsyncs
the folder once for all of them. For many studies, `batch` syncs the whole file system instead. `durable_copy` has each of these steps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import BinaryIO

from typing_extensions import override

from storage_ledger.archive import durable_copy
from storage_ledger.archive.contract import Copied, Fixity, Placed, StudyFolder
from storage_ledger.archive.durable_copy import FAILURES, FILE_MODE, METADATA_MODE
from storage_ledger.archive.folders import ArchiveFolders, remove_if_empty
from storage_ledger.archive.uploads import FileIdentity, OpenUpload
from storage_ledger.domain.paths import (
    DAMAGED_FOLDER,
    LEDGER_FOLDER,
    METADATA,
    archive_name,
    beside_name,
    damaged_name,
    is_attempt,
    putting_back_name,
)
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.system import files
from storage_ledger.system.cpu_affinity import LARGE_BYTES, any_of_them

ROUNDS = 16  # while other processes keep changing the file, before it is left to the next attempt


class FilesystemStudyFolder(StudyFolder):
    """A study as a folder. The first call that needs it opens it and ARCHIVE_PATH; they stay open until `close`.

    After a failed call the next one opens both again: another process may have removed the empty folder, or the volume may
    have been unmounted. In a batch, `root` is its ARCHIVE_PATH, and the only one. `fsync`: for the bytes of copies.
    """

    def __init__(
        self,
        folders: ArchiveFolders,
        study_id: str,
        known: Mapping[str, str],
        is_ours: Callable[[bytes], bool],
        *,
        alone: bool,
        metadata_later: bool,
        root: int | None = None,
        fsync: Callable[[int], None] = durable_copy.fsync,
    ) -> None:
        self._folders = folders
        self._study_id = study_id
        self._known = dict(known)
        self._is_ours = is_ours
        self._alone = alone
        self._metadata_later = metadata_later
        self._root_of_batch = root
        self._fsync = fsync
        self._stack = ExitStack()
        self._root: int | None = None
        self._folder: int | None = None
        self._made = False
        self._copies: dict[str, ExitStack] = {}
        self._unsynced: dict[str, str] = {}
        self._metadata_unsynced = False

    @override
    def copy(self, upload: OpenUpload, *, position: int) -> Copied:
        with files.translated(FAILURES), self._written() as folder, ExitStack() as stack:
            if not self._known:
                self._folders.require_own(self._opened_root(), self._study_id)
            temporary = stack.enter_context(self._folders.temporary(f"place-{position}", folder))
            with any_of_them(when=upload.size >= LARGE_BYTES):
                sha256 = durable_copy.copy(upload, temporary, folder, FILE_MODE, fsync=self._fsync)
            self._folders.note_ours(self._study_id, temporary, folder)
            self._copies[temporary] = stack.pop_all()
            return Copied(temporary, upload.size, sha256, position)

    @override
    def link(self, copied: Copied, original_name: str) -> Placed:
        if copied.temporary not in self._copies:  # `close` has removed it
            raise Retryable("archive-error", "the study's folder changed while files were placed in it")
        with files.translated(FAILURES), self._written() as folder, self._copies.pop(copied.temporary):
            placed = self._link(folder, copied.temporary, original_name, copied.sha256, copied.bytes, copied.position)
            self._known[placed.name] = self._unsynced[placed.name] = copied.sha256
            return placed

    def put_back(self, copy: OpenUpload, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """Store the copy as `ArchiveRepair.put_back` says. A second hidden name stays as the mark."""
        with files.translated(FAILURES), self._written() as folder:
            mark = putting_back_name(name, time)
            placed: Placed | None = None
            try:
                with self._folders.temporary(f"place-{position}", folder) as temporary:
                    if durable_copy.copy(copy, temporary, folder, FILE_MODE) != sha256:
                        raise Retryable("upload-changing", "the copy no longer has the bytes for which it was chosen")  # noqa: TRY301 - undone like any other
                    self._folders.note_ours(self._study_id, temporary, folder)
                    durable_copy.rename_over(temporary, mark, folder)  # complete, even if another process renames its own over it
                durable_copy.fsync(folder)  # the mark first: from now on it shows that a restore was begun
                placed = self._link_known(folder, mark, name, sha256, copy.size, position)
                self._sync_name(folder, name, sha256)
            except (OSError, Retryable, Permanent):
                if placed is None:  # otherwise it is restored, and the mark shows that no entry says so yet
                    files.unlink_if_exists(mark, folder)
                raise
            return placed

    def is_marked(self, name: str, time: int) -> bool:
        """Return whether the mark of this restore is there."""
        with files.translated(FAILURES), suppress(FileNotFoundError):
            return files.exists(putting_back_name(name, time), self._opened())
        return False

    def unmark(self, name: str, time: int) -> None:
        """Remove the mark, durably."""
        with files.translated(FAILURES), suppress(FileNotFoundError):
            folder = self._opened()
            os.unlink(putting_back_name(name, time), dir_fd=folder)
            durable_copy.fsync(folder)

    @override
    def check(self, name: str, sha256: str, size: int) -> Fixity:
        with files.translated(FAILURES):
            try:
                folder = self._opened()
                found = durable_copy.check(name, folder, sha256, size)
                if found is Fixity.INTACT and not self._is_durable(name, folder):
                    found = self._renew(name, folder, sha256)
                if found is Fixity.INTACT:
                    self._sync_name(folder, name, sha256)
            except FileNotFoundError:
                with self._folders.opened():  # it is missing on the right volume
                    return Fixity.MISSING
            return found

    @override
    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with (
            files.translated(FAILURES),
            files.opened(name, files.READ, self._opened()) as descriptor,
            os.fdopen(descriptor, "rb", closefd=False) as file,
        ):
            yield file

    @override
    def write_metadata(self, data: bytes) -> None:
        with files.translated(FAILURES), self._written() as folder:
            sha256 = hashlib.sha256(data).hexdigest()

            def foreign(name: str, folder: int) -> bool:
                changed = durable_copy.check(name, folder, sha256, len(data)) is Fixity.CHANGED
                return changed and not self._is_ours(durable_copy.first_bytes(name, folder))

            lost = (self._study_id, METADATA) in self._folders.lost_names  # then we wrote it, whatever it contains
            found = durable_copy.check(METADATA, folder, sha256, len(data))
            if lost or found is not Fixity.INTACT or not (self._metadata_later or durable_copy.sync_file(METADATA, folder)):
                self._replace_metadata(folder, data, (lambda *_: False) if lost else foreign)
            self._metadata_unsynced = True

    def sync(self) -> None:
        """Fsync the folder, which makes all names in it durable. Raises `Retryable`: then new copies take the names."""
        if not (self._unsynced or self._metadata_unsynced):
            return
        with files.translated(FAILURES):
            folder = self._opened()
            try:
                durable_copy.fsync(folder)
            except OSError:
                self.lost()
                for name, sha256 in self._unsynced.items():
                    self._renew_lost(folder, name, sha256)
                raise
        self.synced()

    def synced(self) -> None:
        """Note that all names are durable. Raises `Retryable` if another process has removed one, or renamed the folder, meanwhile."""
        if not (self._unsynced or self._metadata_unsynced):
            return
        with files.translated(FAILURES):
            folder = self._opened()
            if not all(files.exists(name, folder) for name in self._unsynced):
                raise Retryable("archive-error", "another process removed a file that was just placed")
            self._folders.lost_names.difference_update((self._study_id, name) for name in self._unsynced)
            if self._metadata_unsynced:
                self._folders.lost_names.discard((self._study_id, METADATA))
            self._unsynced.clear()
            self._metadata_unsynced = False
            if not durable_copy.is_named(self._study_id, self._opened_root(), folder):
                raise Retryable("archive-error", "the study's folder was renamed or replaced while files were placed in it")

    def lost(self) -> None:
        """Note that a sync failed: the next attempt must store again what was linked or written."""
        self._folders.lost_names.update((self._study_id, name) for name in self._unsynced)
        if self._metadata_unsynced:
            self._folders.lost_names.add((self._study_id, METADATA))

    @override
    def discard_attempts(self, position: int) -> None:
        with files.translated(FAILURES), suppress(FileNotFoundError, Permanent):
            folder = self._opened()
            names = os.listdir(folder)
            ours = [name for name in names if is_attempt(name, position)]
            for name in ours:
                files.unlink_if_exists(name, folder)
            if len(ours) == len(names):  # a failed attempt leaves nothing
                remove_if_empty(self._study_id, self._opened_root())
                self.close()

    def close(self) -> None:
        """Remove copies that were not linked, close the folder and ARCHIVE_PATH; a later call opens them again."""
        for name in list(self._copies):
            with suppress(OSError):
                self._copies.pop(name).close()
        self._root = self._folder = None
        self._made = False
        self._stack.close()

    # -- the folder

    @contextmanager
    def _written(self) -> Iterator[int]:
        """Return the folder, created if missing, and cleared of temporary files of killed processes."""
        if not self._made:
            if self._folders.make(self._opened_root(), self._study_id):
                self._folder = None  # the folder opened before has been removed
            self._made = True
        folder = self._opened()
        self._folders.sweep(self._study_id, folder, alone=self._alone)
        in_order = False
        try:
            yield folder
            in_order = True
        finally:
            self._folders.leave(self._study_id, folder, in_order=in_order)
            if not in_order and not self._copies:
                self.close()

    def _opened(self) -> int:
        """Return the folder. Raises `FileNotFoundError` if there is none, `Permanent` if it is a link or a file."""
        if self._folder is None:
            root = self._opened_root()
            try:
                self._folder = self._stack.enter_context(files.opened_below(root, self._study_id))
            except NotADirectoryError as error:
                raise Permanent("archive-name-taken", "the study's folder is a link or a file", errno=error.errno) from error
        return self._folder

    def _opened_root(self) -> int:
        if self._root_of_batch is not None:
            return self._root_of_batch
        if self._root is None:
            self._root = self._stack.enter_context(self._folders.opened())
        return self._root

    # -- names

    def _link(self, folder: int, temporary: str, original_name: str, sha256: str, size: int, position: int) -> Placed:
        """Find the name that these bytes have or get, and make sure that they are stored under it.

        The ledger decides first: a name that it assigns to these bytes is theirs, even if something else has it now (damage, which
        is set aside); a name that it assigns to other bytes is taken, even if no file has it now.
        """
        plain = archive_name(original_name, sha256)
        beside = beside_name(plain, sha256)
        known = next((name for name in (plain, beside) if self._known.get(name) == sha256), None)
        if known:
            return self._link_known(folder, temporary, known, sha256, size, position)
        for name in (plain, beside):
            if name in self._known:
                continue
            try:
                if durable_copy.link_as(name, temporary, folder, sure=name == beside):
                    return Placed(name, size, sha256, "copied")
            except FileExistsError:
                if durable_copy.check(name, folder, sha256, size) is Fixity.INTACT and not durable_copy.is_metadata(name, folder):
                    # No entry names it, so it may not be durable. Ours is.
                    self._put_over(folder, temporary, name, position)
                    return Placed(name, size, sha256, "already-there")
        raise Permanent("archive-name-taken", "both names that this file could have are taken by other bytes")

    def _link_known(self, folder: int, source: str, name: str, sha256: str, size: int, position: int) -> Placed:
        """Store the bytes under a name that the ledger assigns to them: other bytes there are damage, and are set aside."""
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
                if not self._is_durable(name, folder):
                    put()
                return Placed(name, size, sha256, "already-there")
            if found is Fixity.CHANGED:
                damaged = partial(durable_copy.is_changed, sha256=sha256, size=size)
                aside = self._set_aside(folder, name, position, damaged, put)
                if aside is not None:
                    return Placed(name, size, sha256, "copied", aside)
        else:
            raise Retryable("archive-error", "other processes keep changing the file under this name")
        raise Permanent("archive-name-taken", "the archive's file system takes the file's name for that of metadata.json")

    def _put_over(self, folder: int, source: str, name: str, position: int) -> None:
        """Give the durable file `source` this name too, in one step, replacing any file there."""
        with self._folders.temporary(f"place-{position}", folder) as spare:
            durable_copy.link_as(spare, source, folder, sure=True)
            durable_copy.rename_over(spare, name, folder)

    def _replace_metadata(self, folder: int, data: bytes, foreign: Callable[[str, int], bool]) -> None:
        """Rename a new file to the name; the folder is not fsynced yet. A `foreign` file, or a folder, is set aside."""
        with self._folders.temporary("metadata", folder) as temporary:
            fsync = durable_copy.no_fsync if self._metadata_later else durable_copy.fsync
            files.write_file(temporary, data, folder, METADATA_MODE, fsync=fsync)
            self._folders.note_ours(self._study_id, temporary, folder)
            put = partial(durable_copy.rename_over, temporary, METADATA, folder)
            if foreign(METADATA, folder) and self._set_aside(folder, METADATA, 0, foreign, put) is not None:
                return
            try:
                put()
            except IsADirectoryError:
                self._set_aside(folder, METADATA, 0, lambda *_: True, put)

    def _set_aside(self, folder: int, name: str, position: int, damaged: Callable[[str, int], bool], put: Callable[[], None]) -> str | None:
        """Keep what has `name` as evidence in .ledger/damaged/<study_id>/, durably, before `put` replaces it with the right file.

        The evidence is a second link, so that the name is never without a file. A folder, or a file that we may not link (another
        user's), is moved. Returns None without calling `put` if another process was faster and the name has another file now.
        """
        parts = (LEDGER_FOLDER, DAMAGED_FOLDER, self._study_id)
        with ExitStack() as judged:
            spare = judged.enter_context(self._folders.temporary(f"place-{position}", folder))  # not evidence, if it is killed now
            moved = not durable_copy.link_if_possible(name, spare, folder)
            if not moved and not damaged(spare, folder):
                return None
            self._folders.make(self._opened_root(), *parts)
            self._folders.sync_root()
            with files.opened_below(self._opened_root(), *parts) as aside:
                kept = durable_copy.keep_evidence(name if moved else spare, folder, aside, damaged_name(position, name), move=moved)
                try:
                    judged.close()  # before `put`, after which nobody may have a reason to look for it
                    durable_copy.fsync(aside)
                    if not moved and not durable_copy.same_file(name, folder, kept, aside):
                        return None
                    put()
                except BaseException:  # the next attempt starts again: no evidence is kept twice
                    if moved and not files.exists(name, folder):
                        os.rename(kept, name, src_dir_fd=aside, dst_dir_fd=folder)
                    elif not moved and durable_copy.same_file(name, folder, kept, aside):
                        files.unlink_if_exists(kept, aside)
                    raise
        return "/".join((*parts, kept))

    # -- after a failed fsync

    def _is_durable(self, name: str, folder: int) -> bool:
        """Fsync the file. False if that fails, or an fsync of its name had failed: then the file must be stored again."""
        return (self._study_id, name) not in self._folders.lost_names and durable_copy.sync_file(name, folder)

    def _sync_name(self, folder: int, name: str, sha256: str) -> None:
        """Fsync the study's folder. If that fails, a new copy takes the name at once, so that the next fsync is meaningful.

        The name is not unlinked: another process may have found the file and recorded it.
        """
        try:
            durable_copy.fsync(folder)
        except OSError:
            self._renew_lost(folder, name, sha256)
            raise
        self._folders.lost_names.discard((self._study_id, name))

    def _renew_lost(self, folder: int, name: str, sha256: str) -> None:
        self._folders.lost_names.add((self._study_id, name))
        if self._renew(name, folder, sha256) is Fixity.INTACT:
            self._folders.lost_names.discard((self._study_id, name))

    def _renew(self, name: str, folder: int, sha256: str) -> Fixity:
        """Rename a durable copy over a file whose fsync failed. What has the name must be what the ledger records."""
        with self._folders.temporary("renew", folder) as temporary:
            with files.opened(name, files.READ, folder) as source:
                status = os.fstat(source)
                mode = METADATA_MODE if name == METADATA else FILE_MODE
                if durable_copy.copy(OpenUpload(source, FileIdentity.of(status)), temporary, folder, mode) != sha256:
                    return Fixity.CHANGED
            if not os.path.samestat(status, os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return durable_copy.check(name, folder, sha256, status.st_size)  # another process has stored its own there, durably
            self._folders.note_ours(self._study_id, temporary, folder)
            durable_copy.rename_over(temporary, name, folder)
            return Fixity.INTACT
