"""Archived → the upload removed: durably, and never anything but what the archive holds.

The last effect of a move; docs/explanation/how-a-move-survives-a-power-cut.md tells why it comes last.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from storage_ledger.archive.contract import ArchiveReader, Fixity
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, Uploads, folder_of
from storage_ledger.domain.backoff import backoff_s, worth_an_entry
from storage_ledger.domain.entries import Entry, require_whole
from storage_ledger.domain.ids import later, rfc3339
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.pipeline.failures import QUIET, append_failed, record_hanging
from storage_ledger.pipeline.outages import Outages
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.system.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Removal:
    """Of one upload. `place_again`: something else lies there now, or the archive's file is not intact.

    `settles_in_s`: it may still be being written; look again then.
    """

    work_item: WorkItem
    path: str
    error: Retryable | None = None
    place_again: bool = False
    settles_in_s: float | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nothing keeps the upload any more."""
        return self.error is None and not self.place_again and self.settles_in_s is None


@dataclass(frozen=True, slots=True)
class _Copied:
    """The state of an upload that the archive's file was copied from, or compared with, and since when we know it (monotonic)."""

    identity: FileIdentity
    since: float


class Remover:
    """One worker pool, in batches, so that one fsync serves a whole folder."""

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        archive: ArchiveReader,
        *,
        outages: Outages,
        metrics: Metrics,
        clock: Callable[[], datetime],
        settle_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        mirrored: Callable[[], int] | None = None,
        bell: threading.Event,
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._archive = archive
        self._outages = outages
        self._metrics = metrics
        self._clock = clock
        self._settle_s = settle_s
        self._monotonic = monotonic
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._copied: dict[int, _Copied] = {}
        self.pool: WorkerPool[list[Removal]] = WorkerPool(
            "remove",
            ledger,
            [Stage.REMOVE],
            work=self.remove_batch,
            record=self.record,
            metrics=metrics,
            bell=bell,
            workers=1,
            by_study=False,
            most=256,
            gather_s=0.05,
            drain=True,
            up_to=mirrored,
            on_hanging=lambda work_items: record_hanging(ledger, "remove", work_items[:1]),
        )

    def remember(self, position: int, identity: FileIdentity) -> None:
        """The file of the `archived` entry there was copied from this very state of the upload: it need not be read again."""
        self._copied[position] = _Copied(identity, self._monotonic())

    def remove_batch(self, work_items: list[WorkItem]) -> list[Removal]:
        """Remove the uploads of archived files, then fsync their folders.

        An upload goes only if it is, byte for byte, what the archive holds: the very file that was copied and nobody
        touched since, or (after a restart) one whose digest is the ledger's while the archive's file is read and intact.
        And only where nobody writes to it: the kernel says so, or it has not changed for UPLOAD_SETTLE_SECONDS.
        """
        removals = [self._remove(work_item) for work_item in work_items]
        failed = self._uploads.sync_folders(r.path for r in removals if r.is_gone)
        return [replace(r, error=failed[folder_of(r.path)]) if r.is_gone and folder_of(r.path) in failed else r for r in removals]

    def _remove(self, work_item: WorkItem) -> Removal:
        path = ""
        position = work_item.entry.position
        try:
            require_whole([work_item.entry])
            data = work_item.entry.data
            path = data["upload_path"]
            now = self._uploads.look(path)
            if now is None and self._uploads.recover(path, position):
                now = self._uploads.look(path)
            if now is None:
                return Removal(work_item, path)
            copied = self._copied.get(position)
            if copied is None or now != copied.identity:
                if not self._is_archived(work_item.entry, data["file"], path):
                    return Removal(work_item, path, place_again=True)
                copied = self._copied[position] = _Copied(now, self._monotonic())
            settles_in_s = copied.since + self._settle_s - self._monotonic()
            try:
                self._uploads.remove(path, now, position, settled=settles_in_s <= 0)
            except Retryable as error:
                if error.code != "upload-settling":
                    raise
                return Removal(work_item, path, settles_in_s=max(settles_in_s, 0.05))
            return Removal(work_item, path)
        except Retryable as error:
            return Removal(work_item, path, error=error)
        except Permanent:  # no longer a regular file: not what we archived, not ours to remove
            return Removal(work_item, path)

    def _is_archived(self, archived: Entry, file: dict[str, Any], path: str) -> bool:
        with self._uploads.open(path) as upload:
            same = upload.size == file["bytes"] and digest_of(upload.descriptor) == file["sha256"]
            upload.check_unchanged()
        if archived.study_id is None or not same:
            return False
        try:
            return self._archive.check(archived.study_id, file["name"], file["sha256"], file["bytes"]) is Fixity.INTACT
        except Permanent:  # the study's folder is a link or a file: who places it again says so
            return False

    def record(self, batches: list[list[Removal]], fresh: bool = True) -> None:
        """Drop the work items whose upload is durably gone; nobody has to care any more."""
        removals = [removal for batch in batches for removal in batch]
        shared = next((r.error for r in removals if r.error is not None and r.error.shared), None)
        pause_s = self.pool.pause(cap_s=60) if shared is not None else 0.0
        with self._ledger.write() as tx:
            for removal in removals:
                position = removal.work_item.entry.position
                if removal.error is not None:
                    self._postpone(tx, removal, removal.error)
                elif removal.settles_in_s is not None:
                    tx.postpone(position, Stage.REMOVE, due_in_s=removal.settles_in_s, attempts=removal.work_item.attempts)
                else:
                    tx.drop(position, Stage.REMOVE)
                    if removal.place_again and removal.work_item.entry.cause is not None:
                        tx.add_work_item(removal.work_item.entry.cause, Stage.PLACE)
            if shared is not None:
                retry_at = later(rfc3339(self._clock()), pause_s)
                self._outages.begin(tx, "remove", shared.code, detail=shared.detail, errno=shared.errno, attempt=1, retry_at=retry_at)
            elif any(r.is_gone for r in removals) and not tx.is_retrying(Stage.REMOVE):
                self._outages.end(tx, "remove")
        for removal in removals:
            if removal.error is not None:
                self._metrics.retries.labels("remove", removal.error.code).inc()
            elif removal.settles_in_s is None:
                self._copied.pop(removal.work_item.entry.position, None)
        if shared is None and fresh:
            self.pool.resume()

    def _postpone(self, tx: Transaction, removal: Removal, error: Retryable) -> None:
        work_item = removal.work_item
        attempt = work_item.attempts + 1
        wait_s = backoff_s(attempt, base_s=1, cap_s=600, chance=self._random.random())
        tx.postpone(work_item.entry.position, Stage.REMOVE, due_in_s=wait_s, attempts=attempt)
        if not error.shared and error.code not in QUIET and worth_an_entry(attempt):
            append_failed(tx, "remove", work_item, error, attempt=attempt, retry_at=later(rfc3339(self._clock()), wait_s))
