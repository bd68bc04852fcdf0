"""Several studies in one batch: their files become durable one by one, or all together by syncing the whole file system.

One syncfs(2) costs about as much as a few fsyncs, whatever the number of files. But it waits for everything that other programs wrote to
that file system, and if it fails, all studies must be placed again. So it is used only for several studies, and not for a while after
it failed or was slow (docs/adr/0016).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from typing_extensions import override

from storage_ledger.archive import durable_copy
from storage_ledger.archive.contract import Batch
from storage_ledger.archive.durable_copy import FAILURES
from storage_ledger.archive.folders import ArchiveFolders
from storage_ledger.archive.study_folder import FilesystemStudyFolder
from storage_ledger.errors import Retryable
from storage_ledger.system import files

TOGETHER_FROM = 3  # studies
SLOW_S = 1.0
ALONE_FOR_S = 60.0


class SyncChoice:
    """Whether many files are now synced together. Shared by the threads of a process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._alone_until = 0.0
        self.possible = True  # as far as the last batch knew

    def together(self, root: int, studies: int) -> bool:
        """Return whether to sync the whole file system of `root` for this number of studies."""
        self.possible = self._monotonic() >= self._alone_until and files.can_sync_file_system(root)
        return self.possible and studies >= TOGETHER_FROM

    def took(self, seconds: float, *, failed: bool) -> None:
        """Note the duration of such a sync."""
        if failed or seconds > SLOW_S:
            self._alone_until = self._monotonic() + ALONE_FOR_S


class FilesystemBatch(Batch):
    """Studies as folders. `root`: ARCHIVE_PATH, opened before anything of the batch was written."""

    def __init__(self, folders: ArchiveFolders, choice: SyncChoice, root: int, studies: int, *, metadata_later: bool) -> None:
        self._folders = folders
        self._choice = choice
        self._root = root
        self._together = choice.together(root, studies)
        self._metadata_later = self._together or (metadata_later and files.can_sync_file_system(root))
        self._studies: dict[str, FilesystemStudyFolder] = {}

    @override
    def study(self, study_id: str, *, known: Mapping[str, str], is_ours: Callable[[bytes], bool]) -> FilesystemStudyFolder:
        fsync = durable_copy.no_fsync if self._together else durable_copy.fsync
        folder = self._studies[study_id] = FilesystemStudyFolder(
            self._folders, study_id, known, is_ours, alone=True, metadata_later=self._metadata_later, root=self._root, fsync=fsync
        )
        return folder

    @override
    def sync_copies(self) -> Retryable | None:
        return self._sync_whole() if self._together else None

    @override
    def sync_names(self) -> tuple[dict[str, Retryable], bool]:
        error = self._sync_whole() if self._together else None
        failed: dict[str, Retryable] = {}
        for study_id, folder in self._studies.items():
            if error is not None:
                folder.lost()
                failed[study_id] = error
                continue
            try:
                if self._together:
                    folder.synced()
                else:
                    folder.sync()
            except Retryable as raised:
                failed[study_id] = raised
        if self._together:
            lost, why = set(self._studies), Retryable("archive-io", "the study's folder was not durable when it was new")
            try:
                with files.translated(FAILURES):
                    lost = self._folders.discard_lost(self._studies)
            except Retryable as raised:
                why = raised
            failed |= dict.fromkeys(lost - failed.keys(), why)
        return failed, self._together

    def close(self) -> None:
        """Close all folders, and remove the copies that were not linked."""
        for folder in self._studies.values():
            folder.close()

    def _sync_whole(self) -> Retryable | None:
        began = time.monotonic()
        error = None
        try:
            with files.translated(FAILURES):
                self._folders.sync_whole(self._root)
        except Retryable as raised:
            error = raised
        self._choice.took(time.monotonic() - began, failed=error is not None)
        return error
