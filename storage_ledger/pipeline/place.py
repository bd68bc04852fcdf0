"""Entries → effects on the archive: place the file, write metadata.json, record the outcome. `remove` takes the upload away.

The promise depends on this order; docs/explanation/how-a-move-survives-a-power-cut.md explains why.
"""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, BinaryIO

from storage_ledger import __version__
from storage_ledger.archive.contract import Archive, Fixity, Placed, StudyFolder
from storage_ledger.archive.dicom_header import read_header
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, Uploads
from storage_ledger.domain.backoff import NOT_WHOLE_YET, PLACE_AGAIN, PLACE_PAUSES, worth_an_entry
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.payloads import ArchivedFileFields, ArchivedPayload, QuarantinedPayload
from storage_ledger.domain.redeliveries import with_repeats
from storage_ledger.domain.study import ArchivedFile, DescribedEvent, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import ENTRY_DAMAGED, UPLOAD_CHANGING, Permanent, Retryable
from storage_ledger.ledger.contract import Ledger, Transaction, WorkItem
from storage_ledger.pipeline.failures import NOT_WHOLE, QUIET, WAITS_FOR_THE_FILE, append_failed
from storage_ledger.pipeline.study_folds import StudyFolds
from storage_ledger.pipeline.study_metadata import may_overwrite, metadata_bytes
from storage_ledger.pipeline.worker_pool import Policy, Report
from storage_ledger.pipeline.worker_threads import beat
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

MOST_EARLIER = 8  # earlier states of an upload that a new one is compared with
COMMON_AFTER = 5  # studies in a row with the same failure: then the cause is shared
POLICY = Policy("place", "place", (Stage.PLACE,), workers=6, pauses=PLACE_PAUSES)


@dataclass(frozen=True, slots=True)
class PlacedUpload:
    """The file is durable in the archive and in its study's fold. `identity`: of the upload from which it was copied.

    `supersedes`: the name of an earlier, incomplete state of the same upload. `unconfirmed`: the upload is gone, and this message says
    something about it that no message said while it existed.
    """

    study_id: str
    work_item: WorkItem
    described: DescribedEvent
    placed: Placed
    original_name: str
    dicom: dict[str, Any] | None
    dicom_error: str | None
    identity: FileIdentity | None
    supersedes: str | None
    unconfirmed: bool


@dataclass(frozen=True, slots=True)
class Archived:
    """A placed upload whose metadata.json, with this SHA-256, is durable too."""

    upload: PlacedUpload
    metadata_sha256: str

    @property
    def work_item(self) -> WorkItem:
        """Return the work item that this completes."""
        return self.upload.work_item


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Only a person or a redelivery can help. `repeats`: the redeliveries of its event that were due at the same time."""

    study_id: str
    work_item: WorkItem
    described: DescribedEvent
    code: str
    detail: str
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """To be tried again. `due_in_s`: None for the usual backoff. `common`: many fail with this now; it is recorded once for all."""

    work_item: WorkItem
    error: Retryable
    due_in_s: float | None = None
    common: bool = False


BeforeMetadata = PlacedUpload | Quarantined | Retry
Outcome = Archived | Quarantined | Retry


class Placer:
    """Places files, several studies in parallel, and records the outcomes: the work of a `WorkerPool`.

    `on_copied`: is called with the position of an `archived` entry and the identity of the upload from which its file was copied.
    `steady_since`: when the service started or the clock was last set. Waiting for a missing file counts from then at the earliest.
    """

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        archive: Archive,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        grace_s: float,
        steady_since: Callable[[], datetime],
        on_copied: Callable[[int, FileIdentity], None],
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._archive = archive
        self._metrics = metrics
        self._clock = clock
        self._grace_s = grace_s
        self._on_copied = on_copied
        self._steady_since = steady_since
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._host = socket.gethostname()
        self._folds = StudyFolds(ledger)
        self._in_a_row: dict[str, set[str | None]] = {}

    def place_batch(self, work_items: list[WorkItem]) -> list[Outcome]:
        """Place the files of these work items, all of one study, in order; then write its metadata.json once. Raises `LedgerError`.

        On return, `Archived` outcomes are durable, except for the name of a new study folder: see `sync_new_folders`.
        """
        study_id = work_items[0].entry.study_id
        if study_id is None:  # every `described` has one
            damaged = Retryable(ENTRY_DAMAGED, "a `described` entry without study_id")
            return [Retry(work_item, damaged) for work_item in work_items]
        try:
            study = self._folds.lend(study_id, [work_item.entry for work_item in work_items])
        except Retryable as error:
            return [Retry(work_item, error) for work_item in work_items]
        by_position = {work_item.entry.position: work_item for work_item in work_items}
        # A redelivery of a pending event adds only its `described`: the outcome of the first one answers it.
        to_place = with_repeats((study.described[position].upload for position in by_position), study.deliveries)
        known = {file.name: file.sha256 for file in study.files.values()}
        with self._archive.study(study_id, known=known, is_ours=may_overwrite(study)) as folder:
            outcomes = [self._place(folder, study, by_position[position], repeats) for position, repeats in to_place.items()]
            return self._with_metadata(folder, study, outcomes, {position: item.entry for position, item in by_position.items()})

    def _place(self, folder: StudyFolder, study: Study, work_item: WorkItem, repeats: list[int]) -> BeforeMetadata:
        described = study.described[work_item.entry.position]
        try:
            return self._copied(folder, study, described, work_item)
        except (Retryable, Permanent) as error:
            try:
                outcome = self._not_placed(folder, study, described, work_item, error)
            except Retryable as another:  # the archive cannot be read: this file fails, the others of the batch do not
                return Retry(work_item, another)
        return replace(outcome, repeats=tuple(repeats)) if isinstance(outcome, Quarantined) else outcome

    def _copied(self, folder: StudyFolder, study: Study, described: DescribedEvent, work_item: WorkItem) -> PlacedUpload:
        original_name = described.upload_path.rpartition("/")[2]
        with self._uploads.open(described.upload_path, beat) as upload:
            upload.check_complete()
            if upload.is_being_written and self._waited_s(described) < self._grace_s:
                raise Retryable("upload-changing", "somebody has it open for writing")
            placed = folder.place(upload, original_name, position=described.position)
            identity = upload.identity
        return self._archived(folder, study, described, work_item, placed, original_name, identity)

    def _not_placed(
        self, folder: StudyFolder, study: Study, described: DescribedEvent, work_item: WorkItem, error: Retryable | Permanent
    ) -> BeforeMetadata:
        if isinstance(error, Permanent):
            folder.discard_attempts(described.position)
            return Quarantined(study.study_id, work_item, described, error.code, error.detail)
        if error.code == UPLOAD_CHANGING:
            return Retry(work_item, error, due_in_s=self._soon_s(work_item))
        if error.code not in WAITS_FOR_THE_FILE:
            return Retry(work_item, error)
        folder.discard_attempts(described.position)
        damage: Fixity | None = None
        if error.code not in NOT_WHOLE:
            # Nothing in uploads: this may be a redelivery of an archived file.
            if self._recover(study, described):
                return Retry(work_item, error, due_in_s=0.0)
            try:
                found = _in_archive(folder, study, described)
            except Permanent as taken:  # the study's folder is a link or a file
                return Quarantined(study.study_id, work_item, described, taken.code, taken.detail)
            if isinstance(found, Placed):
                return self._archived(folder, study, described, work_item, found, study.files[found.name].original_name, None)
            damage = found
        waited_s = self._waited_s(described)
        if waited_s >= self._grace_s:
            if damage is None:
                return Quarantined(study.study_id, work_item, described, error.code, error.detail)
            text = "the archive's file is not what the ledger says, and uploads has none"
            return Quarantined(study.study_id, work_item, described, f"archive-copy-{damage.value}", text)
        return Retry(work_item, error, due_in_s=min(self._soon_s(work_item), self._grace_s - waited_s))

    def _soon_s(self, work_item: WorkItem) -> float:
        return NOT_WHOLE_YET.wait_s(work_item.attempts + 1, chance=self._random.random())

    def _recover(self, study: Study, described: DescribedEvent) -> bool:
        """Give an upload its name again that an interrupted removal had hidden. Returns whether there was one."""
        if described.upload_path not in study.sources:  # nothing of it is archived, so nothing of it was being removed
            return False
        return any(
            self._uploads.recover(described.upload_path, work_item.entry.position)
            for work_item in self._ledger.pending_of(study.study_id)
            if work_item.stage is Stage.REMOVE and work_item.entry.data.get("upload_path") == described.upload_path
        )

    def _waited_s(self, described: DescribedEvent) -> float:
        """Return the seconds since it was recorded or since `steady_since`: a volume may be mounted late, or the clock set."""
        steady_since, now, recorded = self._steady_since(), self._clock(), instant(described.recorded_at)
        since = max(recorded, steady_since) if recorded <= now else steady_since
        return (now - since).total_seconds()

    def _archived(
        self,
        folder: StudyFolder,
        study: Study,
        described: DescribedEvent,
        work_item: WorkItem,
        placed: Placed,
        original_name: str,
        identity: FileIdentity | None,
    ) -> PlacedUpload:
        with folder.open(placed.name) as file:
            dicom, dicom_error = read_header(file)
            sop = (dicom or {}).get("SOPInstanceUID")
            supersedes = (
                None if identity is None else _superseded(file, sop, placed.bytes, described, study.earlier_states(described, placed.name))
            )
        confirmed = identity is not None or study.is_confirmed(described)
        archived = ArchivedFile(placed.name, original_name, placed.bytes, placed.sha256, sop, described.position)
        study.archive(described, archived, confirmed=confirmed)
        return PlacedUpload(
            study.study_id, work_item, described, placed, original_name, dicom, dicom_error, identity, supersedes, unconfirmed=not confirmed
        )

    def _with_metadata(self, folder: StudyFolder, study: Study, outcomes: list[BeforeMetadata], at_hand: dict[int, Entry]) -> list[Outcome]:
        """Write metadata.json if its content changes. Placed uploads become `Archived`, or `Retry` if it cannot be written."""
        sha256, error = "", None
        if any(isinstance(outcome, PlacedUpload) for outcome in outcomes):
            try:
                data = metadata_bytes(study, self._ledger, at_hand)
                folder.write_metadata(data)
                folder.sync()
                sha256 = hashlib.sha256(data).hexdigest()
            except Retryable as raised:
                self._folds.forget(study.study_id)
                error = raised
        return [
            o if not isinstance(o, PlacedUpload) else Archived(o, sha256) if error is None else Retry(o.work_item, error) for o in outcomes
        ]

    def sync_new_folders(self, batches: list[list[Outcome]]) -> list[list[Outcome]]:
        """Sync the names of new study folders, one call for all batches. Uploads in folders that could not be synced become `Retry`."""
        studies = {o.upload.study_id for batch in batches for o in batch if isinstance(o, Archived)}
        try:
            lost = self._archive.sync_new_folders(studies)
            error = Retryable("archive-io", "ARCHIVE_PATH could not be synced when the study's folder was new")
        except Retryable as raised:
            lost, error = studies, raised
        for study_id in lost:
            self._folds.forget(study_id)
        return [
            [Retry(o.work_item, error) if isinstance(o, Archived) and o.upload.study_id in lost else o for o in batch] for batch in batches
        ]

    def record(self, tx: Transaction, batches: list[list[Outcome]], fresh: bool) -> Report:
        """Append the outcomes. Only this commit makes it true that the files are archived."""
        outcomes = self._with_common_causes([outcome for batch in batches for outcome in batch], fresh)
        recorded: list[tuple[Entry, Outcome]] = []
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
        if fresh and any(isinstance(o, Archived) for o in outcomes):
            self._in_a_row.clear()
        alike = [o for o in outcomes if isinstance(o, Retry) and not o.error.shared and o.error.code not in QUIET]
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


def _in_archive(folder: StudyFolder, study: Study, described: DescribedEvent) -> Placed | Fixity | None:
    """Return the last file archived from this upload if all are intact, otherwise what is wrong with one; None if there are none."""
    for name in sorted(study.sources.get(described.upload_path, ())):
        file = study.files[name]
        fixity = folder.check(name, file.sha256, file.bytes)
        if fixity is not Fixity.INTACT:
            return fixity
    latest = study.files.get(study.latest.get(described.upload_path, ""))
    return None if latest is None else Placed(latest.name, latest.bytes, latest.sha256, "already-there")


def _superseded(file: BinaryIO, sop: str | None, size: int, by: DescribedEvent, earlier: list[ArchivedFile]) -> str | None:
    """Return the name of an earlier, incomplete state of the same upload that this file supersedes, or None.

    Either this file begins with the earlier one (the writer continued), or the same event brought both and they are not known to be
    different instances (the writer started over). A file that was replaced by an unrelated one is complete and stays.
    """
    for each in earlier[:MOST_EARLIER]:
        other_instance = sop is not None and each.sop_instance_uid is not None and sop != each.sop_instance_uid
        if each.position == by.position and not other_instance:
            return each.name
        if each.bytes < size and digest_of(file.fileno(), each.bytes) == each.sha256:
            return each.name
    return None
