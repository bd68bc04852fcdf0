"""Entries → effects on the archive: place the files, write metadata.json. `remove` takes the uploads away.

The promise depends on this order; docs/explanation/how-a-move-survives-a-power-cut.md explains why.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import BinaryIO

from storage_ledger.archive.contract import Archive, Batch, Copied, Fixity, Placed, StudyFolder
from storage_ledger.archive.dicom_header import read_header
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity, Uploads
from storage_ledger.domain.backoff import NOT_WHOLE_YET, PLACE_PAUSES
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.ids import instant
from storage_ledger.domain.redeliveries import with_repeats
from storage_ledger.domain.study import ArchivedFile, DescribedEvent, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import ENTRY_DAMAGED, UPLOAD_CHANGING, Permanent, Retryable
from storage_ledger.ledger.contract import Ledger, WorkItem
from storage_ledger.pipeline.failures import NOT_WHOLE, WAITS_FOR_THE_FILE
from storage_ledger.pipeline.place.outcomes import Archived, BeforeMetadata, Outcome, PlacedUpload, Quarantined, Retry
from storage_ledger.pipeline.study_folds import StudyFolds
from storage_ledger.pipeline.study_metadata import may_overwrite, metadata_bytes
from storage_ledger.pipeline.worker_pool import Policy
from storage_ledger.pipeline.worker_threads import beat, hand_back, turn_to

MOST_EARLIER = 8  # earlier states of an upload that a new one is compared with
MOST_BYTES = 64 << 20  # once this much is copied, the other files are left to other batches
POLICY = Policy("place", "place", (Stage.PLACE,), workers=6, pauses=PLACE_PAUSES, studies=32, room=8)


@dataclass(slots=True)
class _StudyInHand:
    """The work items of one study in a batch. `repeats`: position of each to place → those that its outcome answers too."""

    study: Study
    work_items: dict[int, WorkItem]
    repeats: dict[int, list[int]]
    copied: dict[int, tuple[Copied, FileIdentity] | Retryable | Permanent] = field(default_factory=dict)

    def taken(self) -> list[int]:
        """Return the positions that are done: all, or those up to the last copy."""
        return list(self.work_items) if len(self.copied) == len(self.repeats) else [p for p in self.work_items if p <= max(self.copied)]


class Placer:
    """Places files, several studies in parallel: the work of a `WorkerPool`.

    `steady_since`: when the service started or the clock was last set. Waiting for a missing file counts from then at the earliest.
    """

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        archive: Archive,
        *,
        clock: Callable[[], datetime],
        grace_s: float,
        steady_since: Callable[[], datetime],
    ) -> None:
        self.folds = StudyFolds(ledger)
        self._ledger = ledger
        self._uploads = uploads
        self._archive = archive
        self._clock = clock
        self._grace_s = grace_s
        self._steady_since = steady_since
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def place_batch(self, work_items: list[WorkItem]) -> list[Outcome]:
        """Place the files of these work items, those of each study in order; then write its metadata.json once. Raises `LedgerError`.

        The work items of a study must follow each other. If they have many bytes, the last ones are handed back. On return,
        `Archived` outcomes are durable, except for the names of new study folders: see `sync_new_folders`.
        """
        outcomes: list[Outcome] = []
        in_hand: list[_StudyInHand] = []
        for study_id, items in _by_study(work_items).items():
            try:
                in_hand.append(self._in_hand(study_id, items))
            except Retryable as error:
                outcomes += [Retry(work_item, error) for work_item in items]
        if not in_hand:
            return outcomes
        with ExitStack() as stack:
            try:
                batch = stack.enter_context(self._archive.batch(len(in_hand)))
            except Retryable as error:
                return outcomes + [Retry(work_item, error) for each in in_hand for work_item in each.work_items.values()]
            return outcomes + self._placed(batch, in_hand)

    def _in_hand(self, study_id: str | None, work_items: list[WorkItem]) -> _StudyInHand:
        if study_id is None:  # every `described` has one
            raise Retryable(ENTRY_DAMAGED, "a `described` entry without study_id")
        study = self.folds.lend(study_id, [work_item.entry for work_item in work_items])
        by_position = {work_item.entry.position: work_item for work_item in work_items}
        # A redelivery of a pending event adds only its `described`: the outcome of the first one answers it.
        repeats = with_repeats((study.described[position].upload for position in by_position), study.deliveries)
        return _StudyInHand(study, by_position, repeats)

    def _placed(self, batch: Batch, in_hand: list[_StudyInHand]) -> list[Outcome]:
        """Copy all files, then sync them; then give them their names and write metadata.json, and sync these."""
        begun: list[tuple[_StudyInHand, StudyFolder]] = []
        room = MOST_BYTES
        for each in in_hand:
            if room < 0:
                break
            turn_to(each.study.study_id)
            known = {file.name: file.sha256 for file in each.study.files.values()}
            folder = batch.study(each.study.study_id, known=known, is_ours=may_overwrite(each.study))
            begun.append((each, folder))
            room -= self._copy(folder, each, room)
        last = begun[-1][0]
        hand_back(len(last.work_items) - len(last.taken()) + sum(len(rest.work_items) for rest in in_hand[len(begun) :]))
        turn_to(None)
        lost = batch.sync_copies()
        outcomes: list[Outcome] = []
        for each, folder in begun:
            turn_to(each.study.study_id)
            outcomes += self._named(folder, each, lost)
        turn_to(None)
        return self._synced(batch, outcomes)

    def _copy(self, folder: StudyFolder, each: _StudyInHand, most: int) -> int:
        """Copy the uploads of a study until they have more than `most` bytes, or note why one cannot be. Returns their bytes."""
        size = 0
        for position in each.repeats:
            if size > most:
                break
            described = each.study.described[position]
            try:
                copied = each.copied[position] = self._copied(folder, described)
                size += copied[0].bytes
            except (Retryable, Permanent) as error:
                each.copied[position] = error
        return size

    def _named(self, folder: StudyFolder, each: _StudyInHand, lost: Retryable | None) -> list[Outcome]:
        """Give the copies of a study their names, decide about the others, and write metadata.json. `lost`: the copies are not durable."""
        outcomes = [
            self._place(folder, each.study, each.work_items[position], each.repeats[position], lost or copied)
            for position, copied in each.copied.items()
        ]
        return self._with_metadata(folder, each.study, outcomes, {position: item.entry for position, item in each.work_items.items()})

    def _synced(self, batch: Batch, outcomes: list[Outcome]) -> list[Outcome]:
        """Make the names durable. `Archived` uploads of studies for which that fails become `Retry`."""
        lost, whole = batch.sync_names()
        for study_id in lost:
            self.folds.forget(study_id)
        return [
            outcome
            if not isinstance(outcome, Archived)
            else Retry(outcome.work_item, lost[outcome.upload.study_id])
            if outcome.upload.study_id in lost
            else replace(outcome, folder_synced=whole)
            for outcome in outcomes
        ]

    def _copied(self, folder: StudyFolder, described: DescribedEvent) -> tuple[Copied, FileIdentity]:
        with self._uploads.open(described.upload_path, beat) as upload:
            upload.check_complete()
            if upload.is_being_written and self._waited_s(described) < self._grace_s:
                raise Retryable("upload-changing", "somebody has it open for writing")
            return folder.copy(upload, position=described.position), upload.identity

    def _place(
        self,
        folder: StudyFolder,
        study: Study,
        work_item: WorkItem,
        repeats: list[int],
        copied: tuple[Copied, FileIdentity] | Retryable | Permanent,
    ) -> BeforeMetadata:
        described = study.described[work_item.entry.position]
        try:
            if isinstance(copied, Exception):
                raise copied
            original_name = described.upload_path.rpartition("/")[2]
            placed = folder.link(copied[0], original_name)
            return self._archived(folder, study, described, work_item, placed, original_name, copied[1])
        except (Retryable, Permanent) as error:
            try:
                outcome = self._not_placed(folder, study, described, work_item, error)
            except Retryable as another:  # the archive cannot be read: this file fails, the others of the batch do not
                return Retry(work_item, another)
        return replace(outcome, repeats=tuple(repeats)) if isinstance(outcome, Quarantined) else outcome

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
                sha256 = hashlib.sha256(data).hexdigest()
            except Retryable as raised:
                self.folds.forget(study.study_id)
                error = raised
        return [
            o if not isinstance(o, PlacedUpload) else Archived(o, sha256) if error is None else Retry(o.work_item, error) for o in outcomes
        ]

    def sync_new_folders(self, batches: list[list[Outcome]]) -> list[list[Outcome]]:
        """Sync the names of new study folders, one call for all batches. Uploads in folders that could not be synced become `Retry`."""
        studies = {o.upload.study_id for batch in batches for o in batch if isinstance(o, Archived) and not o.folder_synced}
        if not studies:
            return batches
        try:
            lost = self._archive.sync_new_folders(studies)
            error = Retryable("archive-io", "ARCHIVE_PATH could not be synced when the study's folder was new")
        except Retryable as raised:
            lost, error = studies, raised
        for study_id in lost:
            self.folds.forget(study_id)
        return [
            [Retry(o.work_item, error) if isinstance(o, Archived) and o.upload.study_id in lost else o for o in batch] for batch in batches
        ]


def _by_study(work_items: list[WorkItem]) -> dict[str | None, list[WorkItem]]:
    groups: dict[str | None, list[WorkItem]] = {}
    for work_item in work_items:
        groups.setdefault(work_item.entry.study_id, []).append(work_item)
    return groups


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
