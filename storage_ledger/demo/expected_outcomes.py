"""Reads from the ledger what happened to each upload, and compares it with what should have happened."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from storage_ledger.demo.dicom_files import Case, DemoUpload
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.ids import instant
from storage_ledger.domain.paths import archive_path
from storage_ledger.ledger.contract import Ledger

REJECTED_AS = "not-json"
QUARANTINED_AS = "upload-missing"


@dataclass(frozen=True, slots=True)
class Figures:
    """The demo's results. `seconds`: from the first `described` entry to the last archived file."""

    studies: int
    files: int
    bytes: int
    dicom_studies: int
    patients: int
    modalities: int
    seconds: float
    archived: int
    several: int
    broken: int
    twice: int
    told_again: int
    quarantined: int
    rejected: int

    @property
    def files_per_s(self) -> float:
        """Archived files per second."""
        return self.files / self.seconds if self.seconds else 0.0


class Watch:
    """Follows the ledger by position. Call `look` repeatedly."""

    def __init__(self, ledger: Ledger, uploads: Sequence[DemoUpload]) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._expected = {upload.study_id: "failed" if upload.case is Case.MISSING else "archived" for upload in uploads}
        self._first_at: datetime | None = None
        self._last_archived_at: datetime | None = None
        self._copies: dict[tuple[str, str], str] = {}
        self._already_there: Counter[str] = Counter()
        self._quarantined: dict[str, str] = {}
        self._rejected: list[str] = []
        self._last_sent: dict[str, Entry] = {}
        self._read_back: dict[str, Entry] = {}
        self._settled: set[str] = set()
        self.resent: dict[str, None] = {}  # a set that keeps the order
        self.retries = 0
        self.position = 0

    @property
    def outcomes(self) -> int:
        """How many messages were archived, quarantined or rejected. Redeliveries are not counted."""
        return len(self._copies) + len(self._quarantined) + len(self._rejected)

    @property
    def messages(self) -> int:
        """The number of messages that are sent, without redeliveries."""
        return len(self._uploads) + 1

    @property
    def settled(self) -> int:
        """The number of studies with the expected status at the Status Service that will not be overwritten again."""
        return len(self._settled)

    @property
    def studies(self) -> int:
        """The number of pipeline studies that are sent."""
        return len(self._expected)

    @property
    def troubles(self) -> str:
        """Counts of rejected and quarantined messages and retries, as text."""
        found = [("rejected", len(self._rejected)), ("quarantined", len(self._quarantined)), ("retries", self.retries)]
        return ", ".join(f"{count} {name}" for name, count in found if count)

    def is_archived(self, study_id: str) -> bool:
        """Return whether a file of the study is archived."""
        return any(copy == study_id for copy, _ in self._copies)

    def look(self) -> list[str]:
        """Read new entries. Returns a line of text for each one that the user should see immediately."""
        news: list[str] = []
        while entries := self._ledger.read(self.position, 500):
            for entry in entries:
                news += self._apply(entry)
            self.position = entries[-1].position
        return news

    def check_statuses(self, spoken: Collection[str], status_of: Callable[[str], str | None]) -> None:
        """Read back the status of studies in `spoken` from the Status Service, once after each `status-sent` entry."""
        for study_id, sent in self._last_sent.items():
            expected = self._expected.get(study_id)
            if study_id in spoken and study_id not in self._settled and self._read_back.get(study_id) is not sent:
                self._read_back[study_id] = sent
                if sent.data["status"] == expected == status_of(study_id):
                    self._settled.add(study_id)

    @property
    def is_done(self) -> bool:
        """Whether every message, including the redelivery, has its outcome and every status is as expected."""
        twice = [upload.study_id for upload in self._uploads if upload.case is Case.TWICE]
        return (
            self.outcomes >= self.messages
            and len(self._settled) == len(self._expected)
            and all(self._already_there[study_id] for study_id in twice)
        )

    def differences(self, archive: Path) -> list[str]:
        """Return a sentence for each difference from the expected result. Compares the checksums of all archived files."""
        found = []
        for upload in self._uploads:
            if upload.case is not Case.MISSING:
                found += self._differs(upload, archive)
            elif self._quarantined.get(upload.study_id) != QUARANTINED_AS:
                found.append(f"{upload.study_id}: its file never arrived, but it is not quarantined")
            if upload.case is Case.TWICE and not self._already_there[upload.study_id]:
                found.append(f"{upload.study_id}: its second message left no `already-there` entry")
        missing = {upload.study_id for upload in self._uploads if upload.case is Case.MISSING}
        found += [f"{study_id}: quarantined ({code})" for study_id, code in self._quarantined.items() if study_id not in missing]
        found += [
            f"{study_id}: its status at the Status Service is not `{expected}`"
            for study_id, expected in self._expected.items()
            if study_id not in self._settled
        ]
        if self._rejected != [REJECTED_AS]:
            found.append(f"rejected messages: {', '.join(self._rejected) or 'none'}; expected one, {REJECTED_AS}")
        return found

    def figures(self) -> Figures:
        """Return the results. Call it once the demo is done."""
        there = [upload for upload in self._uploads if (upload.study_id, upload.name) in self._copies]
        took_s = (self._last_archived_at - self._first_at).total_seconds() if self._first_at and self._last_archived_at else 0.0

        def studies_of(case: Case) -> int:
            return len({upload.study_id for upload in there if upload.case is case})

        return Figures(
            studies=len({upload.study_id for upload in self._uploads}),
            files=len(there),
            bytes=sum(len(upload.data) for upload in there),
            dicom_studies=len({upload.dicom_study for upload in there} - {None}),
            patients=len({upload.patient_id for upload in there} - {None}),
            modalities=len({upload.modality for upload in there} - {None}),
            seconds=took_s,
            archived=len({upload.study_id for upload in there}),
            several=studies_of(Case.SEVERAL),
            broken=studies_of(Case.BROKEN),
            twice=sum(1 for count in self._already_there.values() if count),
            told_again=len(self.resent),
            quarantined=len(self._quarantined),
            rejected=len(self._rejected),
        )

    def _differs(self, upload: DemoUpload, archive: Path) -> list[str]:
        there = self._copies.get((upload.study_id, upload.name))
        if there is None:
            return [f"{upload.study_id}: {upload.name} is not archived"]
        try:
            data = (archive / archive_path(upload.study_id, upload.name)).read_bytes()
        except OSError as error:
            return [f"{upload.study_id}: {upload.name} cannot be read in the archive: {error.strerror}"]
        if not there == upload.sha256 == hashlib.sha256(data).hexdigest():
            return [f"{upload.study_id}: {upload.name} does not match what was sent"]
        return []

    def _apply(self, entry: Entry) -> list[str]:
        study_id, data = entry.study_id or "", entry.data
        match entry.kind:
            case Kind.DESCRIBED:
                self._first_at = self._first_at or instant(entry.recorded_at)
            case Kind.ARCHIVED:
                return self._apply_archived(entry, study_id, data)
            case Kind.QUARANTINED:
                self._quarantined[study_id] = data["code"]
                return [f"quarantined  {study_id[:8]}: {data['code']}"]
            case Kind.REJECTED:
                self._rejected.append(data["reason"])
                return [f"rejected     message: {data['detail']}"]
            case Kind.STATUS_SENT:
                self._last_sent[study_id] = entry
                if data.get("reason") == "overwritten":
                    self.resent[study_id] = None
            case Kind.FAILED:
                self.retries += 1
                return [f"retry        step {data['step']}: {data['code']}"]
        return []

    def _apply_archived(self, entry: Entry, study_id: str, data: dict[str, Any]) -> list[str]:
        if data["placement"] == "already-there":
            self._already_there[study_id] += 1
            return [f"redelivered  {study_id[:8]}: already archived, no second file"]
        self._copies[study_id, data["file"]["name"]] = data["file"]["sha256"]
        self._last_archived_at = instant(entry.recorded_at)
        if data["dicom"] is None:
            return [f"broken file  {study_id[:8]}: {data.get('dicom_error')}, archived as received"]
        return []
