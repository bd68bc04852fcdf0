"""Records the outcomes of the step place. Only its commit makes it true that files are archived."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from storage_ledger import __version__
from storage_ledger.archive.uploads import FileIdentity
from storage_ledger.domain.backoff import PLACE_AGAIN, worth_an_entry
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.payloads import ArchivedFileFields, ArchivedPayload, QuarantinedPayload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.contract import Transaction
from storage_ledger.pipeline.failures import QUIET, append_failed
from storage_ledger.pipeline.place.outcomes import Archived, Outcome, PlacedUpload, Quarantined, Retry
from storage_ledger.pipeline.study_folds import StudyFolds
from storage_ledger.pipeline.worker_pool import Report
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

COMMON_AFTER = 5  # studies in a row with the same failure: then the cause is shared


class PlaceRecorder:
    """Appends the outcomes of a `Placer` and counts them.

    `folds`: the placer's. `on_copied`: is called with the position of an `archived` entry and the identity of the upload from which its
    file was copied.
    """

    def __init__(
        self, folds: StudyFolds, *, metrics: Metrics, clock: Callable[[], datetime], on_copied: Callable[[int, FileIdentity], None]
    ) -> None:
        self._folds = folds
        self._metrics = metrics
        self._clock = clock
        self._on_copied = on_copied
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._host = socket.gethostname()
        self._in_a_row: dict[str, set[str | None]] = {}

    def record(self, tx: Transaction, batches: list[list[Outcome]], fresh: bool) -> Report:
        """Append the outcomes. Only this commit makes it true that the files are archived."""
        outcomes = self._with_common_causes([outcome for batch in batches for outcome in batch], fresh)
        recorded: list[tuple[Entry, Outcome]] = []
        studies = {study_id for outcome in outcomes if (study_id := outcome.work_item.entry.study_id) is not None}
        tx.expect(studies, {outcome.work_item.entry.position: _upload(outcome) for outcome in outcomes})
        for outcome in sorted(outcomes, key=lambda o: o.work_item.entry.position):
            if tx.is_pending(outcome.work_item.entry.position, Stage.PLACE):
                entry = self._append(tx, outcome)
                if entry is not None:
                    recorded.append((entry, outcome))
            elif isinstance(outcome, Archived):  # another process has completed it meanwhile
                self._folds.forget(outcome.upload.study_id)
        met = [o.error for o in outcomes if isinstance(o, Retry) and (o.error.shared or o.common)][:1]
        works = not met and any(isinstance(o, Archived) for o in outcomes)
        return Report(met, works, on_commit=partial(self._count, recorded, outcomes))

    def _with_common_causes(self, outcomes: list[Outcome], fresh: bool) -> list[Outcome]:
        """Mark failures that hit one study after the other with no success between, as on a dying disk.

        Each is still postponed on its own, so that one bad file at the head of the queue delays no other.
        """
        alike = [o for o in outcomes if isinstance(o, Retry) and not o.error.shared and o.error.code not in QUIET]
        archived = sum(isinstance(o, Archived) for o in outcomes)
        if archived and fresh:
            self._in_a_row.clear()
        if archived >= len(alike):  # all began at the same time, so these do not follow each other
            return outcomes
        for outcome in alike:
            self._in_a_row.setdefault(outcome.error.code, set()).add(outcome.work_item.entry.study_id)
        common = {code for code, studies in self._in_a_row.items() if len(studies) >= COMMON_AFTER}
        return [replace(o, common=True) if isinstance(o, Retry) and not o.error.shared and o.error.code in common else o for o in outcomes]

    def _append(self, tx: Transaction, outcome: Outcome) -> Entry | None:
        position = outcome.work_item.entry.position
        match outcome:
            case Archived(upload):
                for repeat in tx.pending_repeats(upload.study_id, upload.described.upload):
                    tx.drop(repeat, Stage.PLACE)
                payload = self._archived_payload(upload, outcome.metadata_sha256)
                return tx.append(payload.entry(upload.study_id, described=position))
            case Quarantined():
                for repeat in outcome.repeats:
                    tx.drop(repeat, Stage.PLACE)
                quarantined = QuarantinedPayload(outcome.code, outcome.detail, outcome.described.upload_path, "projector")
                return tx.append(quarantined.entry(outcome.study_id, described=position))
            case Retry():
                if outcome.error.shared:
                    # The pool waits, not each work item. Another one is tried next: a smaller file may fit.
                    tx.postpone(position, Stage.PLACE, due_in_s=0, attempts=outcome.work_item.attempts)
                    return None
                attempt = outcome.work_item.attempts + 1
                wait_s = outcome.due_in_s
                if wait_s is None:
                    wait_s = PLACE_AGAIN.wait_s(attempt, chance=self._random.random())
                tx.postpone(position, Stage.PLACE, due_in_s=wait_s, attempts=attempt)
                if outcome.common or outcome.error.code in QUIET or not worth_an_entry(attempt):
                    return None
                retry_at = later(rfc3339(self._clock()), wait_s)
                return append_failed(tx, "place", outcome.work_item, outcome.error, attempt=attempt, retry_at=retry_at)

    def _archived_payload(self, upload: PlacedUpload, metadata_sha256: str) -> ArchivedPayload:
        placed = upload.placed
        return ArchivedPayload(
            file=ArchivedFileFields(placed.name, upload.original_name, placed.bytes, placed.sha256),
            placement=placed.placement,
            metadata_sha256=metadata_sha256,
            dicom=upload.dicom,
            upload_path=upload.described.upload_path,
            software=__version__,
            host=self._host,
            dicom_error=upload.dicom_error or None,
            set_aside=placed.set_aside or None,
            supersedes=upload.supersedes,
            unconfirmed=upload.unconfirmed,
        )

    def _count(self, recorded: list[tuple[Entry, Outcome]], outcomes: list[Outcome]) -> None:
        for study_id in {study_id for outcome in outcomes if (study_id := outcome.work_item.entry.study_id) is not None}:
            self._folds.keep(study_id)
        log = logs.get()
        for outcome in outcomes:
            if isinstance(outcome, Retry):
                self._metrics.retries.labels("place", outcome.error.code).inc()
        for entry, outcome in recorded:
            match outcome:
                case Archived(upload):
                    self._metrics.files.labels(upload.placed.placement).inc()
                    if upload.placed.placement != "already-there":
                        self._metrics.bytes.inc(upload.placed.bytes)
                    took_s = (instant(entry.recorded_at) - instant(outcome.work_item.entry.recorded_at)).total_seconds()
                    self._metrics.archive_seconds.observe(took_s)
                    if upload.identity is not None:
                        self._on_copied(entry.position, upload.identity)
                    log.info("archived", study_id=entry.study_id, position=entry.position, bytes=upload.placed.bytes)
                case Quarantined():
                    self._metrics.quarantined.labels(outcome.code).inc()
                    log.warning("quarantined", study_id=entry.study_id, position=entry.position, code=outcome.code)
                case Retry():
                    log.warning("place.failed", position=entry.cause, code=outcome.error.code, attempt=outcome.work_item.attempts + 1)


def _upload(outcome: Outcome) -> str:
    match outcome:
        case Archived(upload):
            return upload.described.upload_path
        case Quarantined():
            return outcome.described.upload_path
        case Retry():
            return ""
