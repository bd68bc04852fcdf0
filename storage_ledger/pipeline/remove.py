"""Archived → the upload removed: durably, and never anything but what the archive holds.

The last effect of a move; docs/explanation/how-a-move-survives-a-power-cut.md tells why it comes last.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from storage_ledger.archive.contract import Archive, Fixity
from storage_ledger.archive.filesystem import digest_of
from storage_ledger.archive.uploads import Identity, Uploads, folder_of
from storage_ledger.domain.backoff import backoff_s, worth_an_entry
from storage_ledger.domain.entries import Entry, require_whole
from storage_ledger.domain.ids import later, rfc3339
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.ledger.contract import Duty, Ledger, Transaction
from storage_ledger.pipeline.failures import QUIET, append_failed, record_hanging
from storage_ledger.pipeline.outages import Outages
from storage_ledger.pipeline.worker_pool import Lane
from storage_ledger.system.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Removal:
    """Of one upload. `place_again`: something else lies there now, or the archive's file is not intact.

    `settles_in_s`: it may still be being written; look again then.
    """

    duty: Duty
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

    identity: Identity
    since: float


class Remover:
    """One lane, in batches, so that one fsync serves a whole folder. `on_place_again`: a file is to be placed once more."""

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        archive: Archive,
        *,
        outages: Outages,
        metrics: Metrics,
        clock: Callable[[], datetime],
        settle_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        mirrored: Callable[[], int] | None = None,
        on_place_again: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._archive = archive
        self._outages = outages
        self._metrics = metrics
        self._clock = clock
        self._settle_s = settle_s
        self._monotonic = monotonic
        self._on_place_again = on_place_again
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._copied: dict[int, _Copied] = {}
        self.lane: Lane[list[Removal]] = Lane(
            "remove",
            ledger,
            [Stage.REMOVE],
            work=self.remove_batch,
            record=self.record,
            metrics=metrics,
            workers=1,
            by_study=False,
            most=256,
            gather_s=0.05,
            drain=True,
            up_to=mirrored,
            on_hanging=lambda duties: record_hanging(ledger, "remove", duties[:1]),
        )

    def remember(self, position: int, identity: Identity) -> None:
        """The file of the `archived` entry there was copied from this very state of the upload: it need not be read again."""
        self._copied[position] = _Copied(identity, self._monotonic())

    def remove_batch(self, duties: list[Duty]) -> list[Removal]:
        """Remove the uploads of archived files, then fsync their folders.

        An upload goes only if it is, byte for byte, what the archive holds: the very file that was copied and nobody
        touched since, or (after a restart) one whose digest is the ledger's while the archive's file is read and intact.
        And only where nobody writes to it: the kernel says so, or it has not changed for UPLOAD_SETTLE_SECONDS.
        """
        removals = [self._remove(duty) for duty in duties]
        failed = self._uploads.settle(r.path for r in removals if r.is_gone)
        return [replace(r, error=failed[folder_of(r.path)]) if r.is_gone and folder_of(r.path) in failed else r for r in removals]

    def _remove(self, duty: Duty) -> Removal:
        path = ""
        position = duty.entry.position
        try:
            require_whole([duty.entry])
            data = duty.entry.data
            path = data["upload_path"]
            now = self._uploads.look(path)
            if now is None and self._uploads.recover(path, position):
                now = self._uploads.look(path)
            if now is None:
                return Removal(duty, path)
            copied = self._copied.get(position)
            if copied is None or now != copied.identity:
                if not self._is_archived(duty.entry, data["file"], path):
                    return Removal(duty, path, place_again=True)
                copied = self._copied[position] = _Copied(now, self._monotonic())
            settles_in_s = copied.since + self._settle_s - self._monotonic()
            try:
                self._uploads.remove(path, now, position, settled=settles_in_s <= 0)
            except Retryable as error:
                if error.code != "upload-settling":
                    raise
                return Removal(duty, path, settles_in_s=max(settles_in_s, 0.05))
            return Removal(duty, path)
        except Retryable as error:
            return Removal(duty, path, error=error)
        except Permanent:  # no longer a regular file: not what we archived, not ours to remove
            return Removal(duty, path)

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
        """Drop the duties whose upload is durably gone; nobody has to care any more."""
        removals = [removal for batch in batches for removal in batch]
        shared = next((r.error for r in removals if r.error is not None and r.error.shared), None)
        pause_s = self.lane.pause(cap_s=60) if shared is not None else 0.0
        with self._ledger.write() as tx:
            for removal in removals:
                position = removal.duty.entry.position
                if removal.error is not None:
                    self._postpone(tx, removal, removal.error)
                elif removal.settles_in_s is not None:
                    tx.postpone(position, Stage.REMOVE, due_in_s=removal.settles_in_s, attempts=removal.duty.attempts)
                else:
                    tx.drop(position, Stage.REMOVE)
                    if removal.place_again and removal.duty.entry.cause is not None:
                        tx.place_again(removal.duty.entry.cause)
            if shared is not None:
                retry_at = later(rfc3339(self._clock()), pause_s)
                self._outages.begin(tx, "remove", shared.code, detail=shared.detail, errno=shared.errno, attempt=1, retry_at=retry_at)
            elif any(r.is_gone for r in removals) and not tx.is_retrying(Stage.REMOVE):
                self._outages.end(tx, "remove")
        for removal in removals:
            if removal.error is not None:
                self._metrics.retries.labels("remove", removal.error.code).inc()
            elif removal.settles_in_s is None:
                self._copied.pop(removal.duty.entry.position, None)
        if shared is None and fresh:
            self.lane.resume()
        if any(r.place_again for r in removals):
            self._on_place_again()

    def _postpone(self, tx: Transaction, removal: Removal, error: Retryable) -> None:
        duty = removal.duty
        attempt = duty.attempts + 1
        wait_s = backoff_s(attempt, base_s=1, cap_s=600, chance=self._random.random())
        tx.postpone(duty.entry.position, Stage.REMOVE, due_in_s=wait_s, attempts=attempt)
        if not error.shared and error.code not in QUIET and worth_an_entry(attempt):
            append_failed(tx, "remove", duty, error, attempt=attempt, retry_at=later(rfc3339(self._clock()), wait_s))
