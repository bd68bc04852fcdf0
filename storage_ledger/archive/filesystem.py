"""The archive as folders and files: implements the contract. `study_folder` shows step by step how a file is placed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from storage_ledger.archive.batch import TOGETHER_FROM, FilesystemBatch, SyncChoice
from storage_ledger.archive.contract import Archive, ArchiveRepair, Fixity, Placed
from storage_ledger.archive.durable_copy import FAILURES
from storage_ledger.archive.folders import ArchiveFolders
from storage_ledger.archive.study_folder import FilesystemStudyFolder
from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.domain.reason import Reason
from storage_ledger.errors import Retryable
from storage_ledger.system import files
from storage_ledger.system.files import FolderId

LOW_BYTES = 1 << 20
LOW_FILES = 64


class FilesystemArchive(Archive, ArchiveRepair):
    """A folder for each study below `root` (ARCHIVE_PATH), which must exist: it is never created.

    Several processes may work in one archive, even on one work item: each writes to its own temporary names, which contain
    `worker`, links only complete files, and replaces a file only by one rename over it. A final name that another process
    may rely on is never unlinked or renamed away.

    After a failed fsync the kernel may have dropped what it could not write, and the next fsync reports success
    (PostgreSQL's "fsyncgate"). So a failed fsync is never repeated: a new copy is made, and the name is linked again.

    `metadata_later`: a batch leaves the bytes of metadata.json to `sync_metadata`, for a service that writes it again after a
    power cut. Ignored if the file system cannot be synced as a whole.
    """

    def __init__(self, root: Path, *, worker: str | None = None, metadata_later: bool = False) -> None:
        self.root = root
        self._folders = ArchiveFolders(root, worker or os.urandom(6).hex())
        self._metadata_later = metadata_later
        self._choice = SyncChoice()
        self._root_before: int | None = None  # opened before the last `sync_metadata`

    @property
    def recognised(self) -> FolderId | None:
        """Return the only root folder that is accepted as the archive; None: any."""
        return self._folders.recognised

    def recognise(self, root: FolderId) -> None:
        """Accept only this root folder as the archive from now on: an unmounted volume leaves an empty folder of the same name."""
        self._folders.recognised = root

    def syncs_together(self, studies: int) -> bool:
        """Return whether a batch of that many studies syncs them together, as far as the last batch knew; if not, parallel is better."""
        return self._choice.possible and studies >= TOGETHER_FROM

    @override
    @contextmanager
    def batch(self, studies: int) -> Iterator[FilesystemBatch]:
        with ExitStack() as stack:
            with files.translated(FAILURES):
                root = stack.enter_context(self._folders.opened())
                batch = FilesystemBatch(self._folders, self._choice, root, studies, metadata_later=self._metadata_later)
            stack.callback(batch.close)
            yield batch

    @contextmanager
    def _study(self, study_id: str, *, alone: bool = True) -> Iterator[FilesystemStudyFolder]:
        """Open a study for one call. `alone`: no other thread of this process writes into its folder."""
        folder = FilesystemStudyFolder(self._folders, study_id, {}, lambda _: True, alone=alone, metadata_later=False)
        try:
            yield folder
        finally:
            folder.close()

    @override
    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        with files.translated(FAILURES):
            lost = self._folders.discard_lost(studies)
            try:
                self._folders.sync_root()
            except OSError:
                self._folders.discard_lost(studies)
                raise
            return lost

    @override
    def sync_metadata(self) -> None:
        # The kernel reports an error to ARCHIVE_PATH as it was opened before the last call.
        with files.translated(FAILURES), self._folders.opened() as root:
            if not files.can_sync_file_system(root):
                return  # each was synced when it was written
            before, self._root_before = self._root_before, os.dup(root)
            try:
                files.sync_file_system(root if before is None else before)
            finally:
                if before is not None:
                    os.close(before)

    @override
    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        with self._study(study_id) as folder:
            return folder.check(name, sha256, size)

    @override
    @contextmanager
    def open(self, study_id: str, name: str) -> Iterator[BinaryIO]:
        with self._study(study_id) as folder, folder.open(name) as file:
            yield file

    @override
    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        with self._study(study_id, alone=False) as folder:
            return folder.put_back(copy, name=name, sha256=sha256, position=position, time=time)

    @override
    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        with self._study(study_id) as folder:
            return folder.is_marked(name, time)

    @override
    def unmark(self, study_id: str, name: str, time: int) -> None:
        with self._study(study_id) as folder:
            folder.unmark(name, time)

    @override
    def write_metadata(self, study_id: str, data: bytes) -> None:
        with self._study(study_id) as folder:
            folder.write_metadata(data)
            folder.sync()

    @override
    def trouble(self) -> Reason | None:
        try:
            with files.translated(FAILURES), self._folders.opened() as root:
                status = os.fstatvfs(root)
        except Retryable as error:
            return Reason(error.code, f"{error.detail}. Is the volume mounted?")
        if status.f_flag & os.ST_RDONLY:
            return Reason("archive-read-only", "the archive's file system is mounted read-only")
        if not os.access(self.root, os.W_OK | os.X_OK):
            return Reason("archive-not-writable", f"user {os.geteuid()} may not write into ARCHIVE_PATH")
        if status.f_bavail * status.f_frsize < LOW_BYTES or (status.f_files and status.f_favail < LOW_FILES):
            return Reason("archive-full", f"{status.f_bavail * status.f_frsize} bytes free on the archive's volume")
        return None
