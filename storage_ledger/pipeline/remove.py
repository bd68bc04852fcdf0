"""Archived → the upload removed: durably, and only if the archive has exactly its bytes.

The last effect of a move; docs/explanation/how-a-move-survives-a-power-cut.md explains why.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import assert_never

from storage_ledger.archive.contract import ArchiveReader, Fixity
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, KeptFolder, Uploads, folder_of
from storage_ledger.domain.backoff import REMOVE_AGAIN, REMOVE_PAUSES, worth_an_entry
from storage_ledger.domain.entries import Kind, require_whole
from storage_ledger.domain.ids import later, rfc3339
from storage_ledger.domain.payloads import ArchivedPayload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import UPLOAD_SETTLING, Permanent, Retryable
from storage_ledger.ledger.contract import Transaction, WorkItem
from storage_ledger.pipeline.failures import QUIET, append_failed
from storage_ledger.pipeline.worker_pool import Policy, Report
from storage_ledger.system.metrics import Metrics

POLICY = Policy("remove", "remove", (Stage.REMOVE,), workers=1, pauses=REMOVE_PAUSES, by_study=False, most=256, gather_s=0.05, drain=True)
"""One batch for all studies, so that one fsync covers a whole folder."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The upload is gone, or never existed."""

    work_item: WorkItem


@dataclass(frozen=True, slots=True)
class PlaceAgain:
    """The upload now has other bytes, or the archive's file is not intact: place it again."""

    work_item: WorkItem


@dataclass(frozen=True, slots=True)
class Settling:
    """It may still be being written: try again after `due_in_s`."""

    work_item: WorkItem
    due_in_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """To be tried again later."""

    work_item: WorkItem
    error: Retryable


Removal = Gone | PlaceAgain | Settling | Failed


@dataclass(frozen=True, slots=True)
class _Copied:
    """The state of an upload from which the archive's file was copied or verified, and since when it is known (monotonic)."""

    identity: FileIdentity
    since: float


class Remover:
    """Removes uploads and records the outcomes: the work of a `WorkerPool`."""

    def __init__(
        self,
        uploads: Uploads,
        archive: ArchiveReader,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        settle_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uploads = uploads
        self._archive = archive
        self._metrics = metrics
        self._clock = clock
        self._settle_s = settle_s
        self._monotonic = monotonic
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._copied: dict[int, _Copied] = {}

    def remember(self, position: int, identity: FileIdentity) -> None:
        """Note that the file of the `archived` entry at this position was copied from this state of the upload: no need to read it."""
        self._copied[position] = _Copied(identity, self._monotonic())

    def remove_batch(self, work_items: list[WorkItem]) -> list[Removal]:
        """Remove the uploads of archived files, then fsync their folders.

        An upload is removed only if the archive has exactly its bytes: it is the file that was copied, unchanged since, or (after a
        restart) its SHA-256 is the ledger's and the archive's file was read and is intact. And only if nobody is writing to it:
        the kernel says so, or it has not changed for UPLOAD_SETTLE_SECONDS.
        """
        with closing(KeptFolder()) as kept:
            removals = [self._remove(work_item, kept) for work_item in work_items]
            gone = [path for path, removal in removals if path is not None and isinstance(removal, Gone)]
            failed = self._uploads.sync_folders(gone, kept)
        return [
            Failed(removal.work_item, failed[folder_of(path)])
            if path is not None and isinstance(removal, Gone) and folder_of(path) in failed
            else removal
            for path, removal in removals
        ]

    def _remove(self, work_item: WorkItem, kept: KeptFolder) -> tuple[str | None, Removal]:
        """Remove one upload whose path is known."""
        path = None
        try:
            require_whole([work_item.entry])
            if work_item.entry.kind != Kind.ARCHIVED:  # an unexplained row; there is no upload to remove
                return path, Gone(work_item)
            archived = ArchivedPayload.of(work_item.entry)
            path = archived.upload_path
            return path, self._removed(work_item, archived, kept)
        except Retryable as error:
            return path, Failed(work_item, error)
        except Permanent:  # no longer a regular file, so not what was archived
            return path, Gone(work_item)

    def _removed(self, work_item: WorkItem, archived: ArchivedPayload, kept: KeptFolder) -> Removal:
        path, position = archived.upload_path, work_item.entry.position
        now = self._uploads.identity_of(path, kept)
        if now is None and self._uploads.recover(path, position):
            now = self._uploads.identity_of(path)
        if now is None:
            return Gone(work_item)
        copied = self._copied.get(position)
        if copied is None or now != copied.identity:
            kept.close()  # reading may take minutes
            if not self._is_archived(work_item.entry.study_id, archived):
                return PlaceAgain(work_item)
            copied = self._copied[position] = _Copied(now, self._monotonic())
        settles_in_s = copied.since + self._settle_s - self._monotonic()
        try:
            self._uploads.remove(path, now, position, settled=settles_in_s <= 0, kept=kept)
        except Retryable as error:
            if error.code != UPLOAD_SETTLING:
                raise
            return Settling(work_item, max(settles_in_s, 0.05))
        return Gone(work_item)

    def _is_archived(self, study_id: str | None, archived: ArchivedPayload) -> bool:
        file = archived.file
        with self._uploads.open(archived.upload_path) as upload:
            same = upload.size == file.bytes and digest_of(upload.descriptor) == file.sha256
            upload.check_unchanged()
        if study_id is None or not same:
            return False
        try:
            return self._archive.check(study_id, file.name, file.sha256, file.bytes) is Fixity.INTACT
        except Permanent:  # the study's folder is a link or a file: placing it again reports that
            return False

    def record(self, tx: Transaction, batches: list[list[Removal]], _fresh: bool) -> Report:
        """Delete the work items whose upload is durably gone."""
        removals = [removal for batch in batches for removal in batch]
        for removal in removals:
            position = removal.work_item.entry.position
            match removal:
                case Gone():
                    tx.drop(position, Stage.REMOVE)
                case PlaceAgain():
                    tx.drop(position, Stage.REMOVE)
                    if removal.work_item.entry.cause is not None:
                        tx.add_work_item(removal.work_item.entry.cause, Stage.PLACE)
                case Settling():
                    tx.postpone(position, Stage.REMOVE, due_in_s=removal.due_in_s, attempts=removal.work_item.attempts)
                case Failed():
                    self._postpone(tx, removal)
                case _:
                    assert_never(removal)
        met = [removal.error for removal in removals if isinstance(removal, Failed) and removal.error.shared][:1]
        works = not met and any(isinstance(removal, Gone) for removal in removals) and not tx.is_retrying(Stage.REMOVE)
        return Report(met, works, on_commit=partial(self._count, removals))

    def _postpone(self, tx: Transaction, failed: Failed) -> None:
        work_item, error = failed.work_item, failed.error
        attempt = work_item.attempts + 1
        wait_s = REMOVE_AGAIN.wait_s(attempt, chance=self._random.random())
        tx.postpone(work_item.entry.position, Stage.REMOVE, due_in_s=wait_s, attempts=attempt)
        if not error.shared and error.code not in QUIET and worth_an_entry(attempt):
            append_failed(tx, "remove", work_item, error, attempt=attempt, retry_at=later(rfc3339(self._clock()), wait_s))

    def _count(self, removals: list[Removal]) -> None:
        for removal in removals:
            if isinstance(removal, Failed):
                self._metrics.retries.labels("remove", removal.error.code).inc()
            elif not isinstance(removal, Settling):
                self._copied.pop(removal.work_item.entry.position, None)
