"""Record the old service's archive in the ledger, in place: no file is moved, and none is rewritten unless asked for."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from storage_ledger import __version__
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import ADOPT, Entry, Kind
from storage_ledger.domain.message import MAX_BYTES
from storage_ledger.domain.payloads import ArchivedFileFields, ArchivedPayload, DescribedPayload
from storage_ledger.domain.study import ArchivedFile, State, Study
from storage_ledger.errors import ENTRY_DAMAGED, Retryable
from storage_ledger.ledger.contract import Ledger, Transaction
from storage_ledger.operations.adopt import legacy_archive
from storage_ledger.operations.adopt.legacy_archive import LegacyFile, NotAdoptable
from storage_ledger.operations.adopt.legacy_metadata import LegacyMetadata
from storage_ledger.pipeline.study_metadata import metadata_bytes

FILES_AT_ONCE = 256
BYTES_AT_ONCE = 4 << 20
LISTED = 1000


@dataclass(frozen=True, slots=True)
class AdoptNote:
    """A file or folder that was not adopted, or adopted with a remark; `path` is relative to ARCHIVE_PATH."""

    path: str
    code: str


@dataclass(slots=True)
class AdoptReport:
    """The result. `known`: files that were already in the ledger. `left_alone` and `remarks` list the first 1,000 each."""

    studies: int = 0
    files: int = 0
    bytes: int = 0
    known: int = 0
    folders: int = 0
    dry_run: bool = False
    left_alone_by_code: dict[str, int] = field(default_factory=dict)
    left_alone: list[AdoptNote] = field(default_factory=list)
    remarks_by_code: dict[str, int] = field(default_factory=dict)
    remarks: list[AdoptNote] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AdoptPlan:
    """The options of an adoption.

    `rewrite`: rewrite each metadata.json in this program's format; `tell`: also send each study's status to the Status
    Service; `any_file`: also adopt files that are not DICOM; `dry_run`: change nothing, and read headers only.
    """

    rewrite: bool = False
    tell: bool = False
    any_file: bool = False
    dry_run: bool = False


class Adoption:
    """One pass over the archive. The caller holds `serve.lock`; in a dry run without a ledger, `ledger` is None.

    Each commit is complete in itself: if the process is killed, the next run continues from there. `on_committed` is called after
    each commit.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        archive: FilesystemArchive,
        plan: AdoptPlan,
        *,
        clock: Callable[[], datetime],
        on_progress: Callable[[int], None] = lambda _: None,
        on_committed: Callable[[], None] = lambda: None,
        on_noted: Callable[[AdoptNote, bool], None] = lambda _, __: None,
        files_at_once: int = FILES_AT_ONCE,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._plan = plan
        self._clock = clock
        self._on_progress = on_progress
        self._on_committed = on_committed
        self._on_noted = on_noted
        self._files_at_once = files_at_once
        self._host = socket.gethostname()
        self._done = AdoptReport(dry_run=plan.dry_run)
        self._waiting: list[_Finds] = []

    def run(self) -> AdoptReport:
        """Adopt everything that can be adopted. Raises `Retryable` or `LedgerError` if archive or ledger fail; then run it again."""
        for study_id in legacy_archive.study_folders(self._archive.root, self._leave):
            try:
                with legacy_archive.open_study_folder(self._archive.root, study_id) as folder:
                    self._study(study_id, folder)
            except NotAdoptable as unfit:
                self._leave(study_id, unfit.code)
            except Retryable as error:
                if error.code != ENTRY_DAMAGED:
                    raise
                self._leave(study_id, error.code)
            self._done.folders += 1
            self._on_progress(self._done.folders)
        self._commit()
        return self._done

    def _study(self, study_id: str, folder: int) -> None:
        known = _Known.of(study_id, self._ledger)
        refusal = known.refusal(rewrite=self._plan.rewrite)
        seen = self._count_seen()
        said: LegacyMetadata | None = None
        names = legacy_archive.file_names(study_id, folder, self._leave, rewriting=self._plan.rewrite)
        for name in list(names) if self._plan.rewrite else names:  # rewriting changes the folder that is being listed
            path = f"{study_id}/{name}"
            if name in known.study.files:
                self._done.known += 1
                continue
            if refusal is not None:
                self._leave(path, refusal)
                continue
            try:
                found = legacy_archive.examine(folder, study_id, name, any_file=self._plan.any_file, whole=not self._plan.dry_run)
            except NotAdoptable as unfit:
                self._leave(path, unfit.code)
                continue
            if said is None:
                try:
                    said = self._read_legacy_metadata(study_id, folder, known)
                except NotAdoptable as unfit:
                    self._leave(f"{study_id}/metadata.json", unfit.code)
                    return
                self._done.studies += 1
                self._waiting.append(_Finds(study_id, known, said))
            self._take(folder, found)
        if self._count_seen() == seen:
            self._leave(study_id, "no-file")
        if said is not None and not self._plan.dry_run:
            os.fsync(folder)  # before the commit, so that the names just listed are durable

    def _count_seen(self) -> int:
        return self._done.files + self._done.known + sum(self._done.left_alone_by_code.values())

    def _read_legacy_metadata(self, study_id: str, folder: int, known: _Known) -> LegacyMetadata:
        if self._plan.rewrite and known.adopted is not None:
            return known.adopted  # an earlier run may have rewritten metadata.json
        data = legacy_archive.read_metadata(folder, MAX_BYTES)
        if data is None and not self._plan.rewrite:
            raise NotAdoptable("metadata-missing")
        said = LegacyMetadata.understood(study_id, data, rewritten=self._plan.rewrite, now=self._clock())
        for code in said.remarks:
            self._note(f"{study_id}/metadata.json", code, self._done.remarks, self._done.remarks_by_code)
        return said

    def _take(self, folder: int, file: LegacyFile) -> None:
        self._done.files += 1
        self._done.bytes += file.bytes
        if self._plan.dry_run:
            self._waiting.clear()
            return
        finds = self._waiting[-1]
        finds.files.append(file)
        size = sum(len(each.files) * each.said.size for each in self._waiting)
        if sum(len(each.files) for each in self._waiting) >= self._files_at_once or size >= BYTES_AT_ONCE:
            os.fsync(folder)
            self._commit()
            self._waiting.append(_Finds(finds.study_id, finds.known, finds.said))

    def _commit(self) -> None:
        """Commit all waiting files together. The old metadata.json is in the ledger, durably, before it is rewritten."""
        finds = [each for each in self._waiting if each.files]
        self._waiting = []
        if not finds or self._ledger is None:
            return
        self._archive.sync_new_folders(())
        if self._plan.rewrite:
            with self._ledger.write() as tx:
                for each in finds:
                    self._describe(tx, each)
            for each in finds:
                self._rewrite(self._ledger, each)
            self._archive.sync_new_folders(())
        with self._ledger.write() as tx:
            for each in finds:
                if not self._plan.rewrite:
                    self._describe(tx, each)
                self._append_archived(tx, each)
        self._on_committed()

    def _describe(self, tx: Transaction, finds: _Finds) -> None:
        known = finds.known
        if not known.study.described and not known.continued and tx.knows_study(finds.study_id):
            for file in finds.files:  # a reconciliation pass has just recorded a message for this study
                self._done.files -= 1
                self._done.bytes -= file.bytes
                self._leave(f"{finds.study_id}/{file.name}", "study-waits")
            self._done.studies -= 1
            finds.files.clear()
        known.continued = True
        begun = known.begun if self._plan.rewrite else {}
        finds.described = [begun.get(file.name) or tx.append(finds.said.described(file.name).entry(finds.study_id)) for file in finds.files]

    def _rewrite(self, ledger: Ledger, finds: _Finds) -> None:
        if not finds.files:
            return
        study = finds.known.study
        for entry, file in zip(finds.described, finds.files, strict=True):
            sop = (file.dicom or {}).get("SOPInstanceUID")
            study.apply(entry)
            study.archive(study.described[entry.position], ArchivedFile(file.name, file.name, file.bytes, file.sha256, sop, entry.position))
        data = metadata_bytes(study, ledger)
        self._archive.write_metadata(finds.study_id, data)
        finds.metadata_sha256 = hashlib.sha256(data).hexdigest()

    def _append_archived(self, tx: Transaction, finds: _Finds) -> None:
        for described, file in zip(finds.described, finds.files, strict=True):
            archived = ArchivedPayload(
                file=ArchivedFileFields(file.name, file.name, file.bytes, file.sha256),
                placement="already-there",
                metadata_sha256=finds.metadata_sha256 or finds.said.sha256,
                dicom=file.dicom,
                upload_path=file.name,
                software=__version__,
                host=self._host,
                dicom_error=file.dicom_error or None,
                adopted=True,
                tell=self._plan.tell or finds.known.status_sent,
                processing_time=finds.said.processing_time or None,
            )
            tx.append(archived.entry(finds.study_id, described=described.position))

    def _leave(self, path: str, code: str) -> None:
        self._note(path, code, self._done.left_alone, self._done.left_alone_by_code)

    def _note(self, path: str, code: str, listed: list[AdoptNote], by_code: dict[str, int]) -> None:
        noted = AdoptNote(os.fsencode(path).decode("utf-8", "backslashreplace"), code)
        by_code[code] = by_code.get(code, 0) + 1
        if len(listed) < LISTED:
            listed.append(noted)
        self._on_noted(noted, listed is self._done.left_alone)


@dataclass(slots=True)
class _Known:
    """What the ledger already has about a study.

    `adopted`: the metadata in the first `described` entry of an earlier adoption that rewrote metadata.json; `begun`: all such
    entries by file name. `ours`: the positions of all `described` entries that an adoption appended. `status_sent`: whether a status of
    the study was sent; `continued`: whether this adoption has appended to the study.
    """

    study: Study
    speaker_source: str | None
    adopted: LegacyMetadata | None
    begun: dict[str, Entry]
    ours: set[int]
    status_sent: bool
    continued: bool = False

    @classmethod
    def of(cls, study_id: str, ledger: Ledger | None) -> _Known:
        """Read a study's entries; without a ledger there are none."""
        study = Study.of(study_id, ledger.study(study_id) if ledger else ())
        status_sent = False
        source = adopted = None
        begun: dict[str, Entry] = {}
        ours: set[int] = set()
        for entry in ledger.study(study_id) if ledger else ():
            status_sent = status_sent or entry.kind == Kind.STATUS_SENT
            if entry.kind == Kind.DESCRIBED:
                described = DescribedPayload.of(entry)
                if described.source == ADOPT:
                    ours.add(entry.position)
                if study.speaker is not None and study.speaker.position == entry.position:
                    source = described.source
                if described.source == ADOPT and described.rewritten:
                    begun[described.upload_path] = entry
                    adopted = adopted or LegacyMetadata.of_described(described)
        return cls(study, source, adopted, begun, ours, status_sent)

    def refusal(self, *, rewrite: bool) -> str | None:
        """Return why a file of this study that is not in the ledger may not be adopted; None if it may.

        A file that an earlier adoption described but did not archive may: that run was interrupted, or the ledger was restored
        from a mirror that ended earlier.
        """
        uploads = self.study.uploads.values()
        if any(upload.state in {State.PENDING, State.FAILED} and upload.position not in self.ours for upload in uploads):
            return "study-waits"
        if self.study.files and not rewrite and self.speaker_source != ADOPT:
            return "study-known"  # its metadata.json would have to list the file
        return None


@dataclass(slots=True)
class _Finds:
    """Files of one study to be appended in the next commit."""

    study_id: str
    known: _Known
    said: LegacyMetadata
    files: list[LegacyFile] = field(default_factory=list)
    described: list[Entry] = field(default_factory=list)
    metadata_sha256: str = ""
