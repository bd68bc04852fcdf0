"""Compare the archive with the ledger: every archived file, each metadata.json, and unexpected files in the archive."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from storage_ledger.archive.contract import Fixity
from storage_ledger.archive.fixity import FixityReader, FixityReport
from storage_ledger.domain.entries import Entry, faults
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.paths import LEDGER_FOLDER, METADATA, archive_path, is_temporary, valid_study_id
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.untrusting_reader import BelievedFile, UntrustingReader

PART = "archive"
KEPT_FILES = 50_000
"""How many names of archived files are cached (some 20 MB), so that a study whose entries are spread out is read once."""

LOOKS = 3


@dataclass(slots=True)
class FileCounts:
    """Counts of files by result. `bytes`: of the intact ones."""

    files: int = 0
    intact: int = 0
    damaged: int = 0
    unchecked: int = 0
    bytes: int = 0

    def add(self, other: FileCounts) -> None:
        """Add the other counts to these."""
        for name in ("files", "intact", "damaged", "unchecked", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Files:
    """Checks single files. A file that a running service may be writing is re-read before it is reported."""

    def __init__(
        self, reader: UntrustingReader, archive: FixityReader, found: Findings, *, wait: Callable[[float], object], settle_s: float
    ) -> None:
        self._reader = reader
        self._archive = archive
        self._found = found
        self._wait = wait
        self._settle_s = settle_s
        self._known = _KnownFiles(reader)

    def fact(self, archived: Entry) -> BelievedFile | None:
        """Return the file of an `archived` entry if that entry is the first with this name; otherwise None."""
        if faults(archived) or archived.study_id is None:
            self._found.unseen("ledger-damaged", PART, position=archived.position, detail="the entry is damaged")
            return None
        file = self._known.of(archived.study_id).get(archived.data["file"]["name"])
        return file if file is not None and file.position == archived.position else None

    def check(self, file: BelievedFile, counts: FileCounts) -> None:
        """Check one file; with a study's first file, also check its metadata.json."""
        counts.files += 1
        path = archive_path(file.study_id, file.name)
        where: dict[str, Any] = {"position": file.position, "study_id": file.study_id, "path": path}
        try:
            report = self._read(file)
        except OSError as error:
            counts.unchecked += 1
            self._found.unseen(unseen_code(error), PART, **where, detail=os.strerror(error.errno or 0))
        else:
            if report.fixity is Fixity.INTACT:
                counts.intact += 1
                counts.bytes += report.bytes
            else:
                counts.damaged += 1
                self._found.report(code_of(report.fixity), PART, **where, detail=report.detail)
            self._report_exposed(report, where)
        if self._known.is_first(file):
            self.check_metadata(file.study_id)

    def check_metadata(self, study_id: str) -> None:
        """Compare a study's metadata.json with its entries, byte for byte."""
        where: dict[str, Any] = {"study_id": study_id, "path": archive_path(study_id, METADATA)}
        try:
            found = self._metadata(study_id)
        except OSError as error:
            self._found.unseen(unseen_code(error), PART, **where, detail=os.strerror(error.errno or 0))
            return
        if found is None:
            return
        report, position = found
        if report.fixity is not Fixity.INTACT:
            code = "metadata-missing" if report.fixity is Fixity.MISSING else "metadata-changed"
            self._found.report(code, PART, **where, position=position, detail=report.detail)
        self._report_exposed(report, {**where, "position": position})

    def _read(self, file: BelievedFile) -> FixityReport:
        report = self._archive.read(file.study_id, file.name, file.sha256, file.bytes)
        if report.fixity is not Fixity.INTACT:  # `serve` may be replacing it with a good one
            if self._reader.is_placing(file.study_id):
                self._wait(self._settle_s)
            report = self._archive.read(file.study_id, file.name, file.sha256, file.bytes)
        return report

    def _metadata(self, study_id: str) -> tuple[FixityReport, int] | None:
        """Check the file, and also return the position of the message that it is built from.

        Return None if it cannot be checked, or may be ahead of the ledger because a file of the study is being placed.
        """
        found: tuple[FixityReport, int] | None = None
        for _ in range(LOOKS):
            study = self._reader.study(study_id)
            if not study.whole or study.speaker is None or study.study.speaker is None:
                self._found.unseen("ledger-damaged", PART, study_id=study_id, path=archive_path(study_id, METADATA))
                return None
            right = metadata_json(study.study, study.speaker)
            report = self._archive.read(study_id, METADATA, hashlib.sha256(right).hexdigest(), len(right))
            found = (report, study.study.speaker.position)
            if report.fixity is Fixity.INTACT:
                break
            if self._reader.is_placing(study_id):
                return None
        return found

    def _report_exposed(self, report: FixityReport, where: dict[str, Any]) -> None:
        if report.exposed:
            self._found.report("file-exposed", PART, **where, detail="anyone on this machine may write to it")


class _KnownFiles:
    """A cache of the archived files of recently used studies, by study and name.

    A study's entries are read on first use and never re-read, so it cannot answer questions about later entries.
    """

    def __init__(self, reader: UntrustingReader) -> None:
        self._reader = reader
        self._studies: OrderedDict[str, dict[str, BelievedFile]] = OrderedDict()
        self._count = 0

    def of(self, study_id: str) -> dict[str, BelievedFile]:
        """Return the study's files by name, ordered by position."""
        known = self._studies.get(study_id)
        if known is None:
            known = self._studies[study_id] = self._reader.study(study_id).files
            self._count += len(known)
            while self._count > KEPT_FILES and len(self._studies) > 1:
                self._count -= len(self._studies.popitem(last=False)[1])
        self._studies.move_to_end(study_id)
        return known

    def is_first(self, file: BelievedFile) -> bool:
        """Return whether this is the study's first archived file."""
        return next(iter(self.of(file.study_id).values())).position == file.position


class UntrackedFiles:
    """Finds unexpected files and folders: those in the archive that are not in the ledger."""

    def __init__(self, reader: UntrustingReader, archive: FixityReader, found: Findings, *, serving: Callable[[], bool]) -> None:
        self._reader = reader
        self._archive = archive
        self._found = found
        self._serving = serving

    def all(self) -> Iterator[int]:
        """Search the whole archive; yield the number of folders so far."""
        for count, name in enumerate(self._archive.names(), 1):
            if not (name.is_folder and name.name in {LEDGER_FOLDER, "lost+found"}):
                self._top(name.name, is_folder=name.is_folder)
            yield count

    def of_study(self, study_id: str) -> None:
        """Search this study's folder only."""
        self._top(study_id, is_folder=True)

    def _top(self, name: str, *, is_folder: bool) -> None:
        known = self._reader.names(name) if valid_study_id(name) else set[str]()
        if known is None:
            study = self._reader.study(name)
            known = set(study.files)
            if not study.whole:
                self._found.unseen("ledger-damaged", PART, study_id=name, path=name)
                return
        if not is_folder:
            if not known:  # if known: a file in place of a study's folder, reported with the study's files
                self._found.report("untracked-file", PART, path=name)
            return
        if not known and not self._is_placing(name):
            if valid_study_id(name) and self._reader.study(name).files:
                return  # it was archived in the meantime
            self._found.report("untracked-folder", PART, study_id=name if valid_study_id(name) else None, path=name)
            return
        self._folder(name, known)

    def _folder(self, study_id: str, known: set[str]) -> None:
        try:
            names = [each for each in self._archive.names(study_id) if each.name not in known and each.name != METADATA]
        except FileNotFoundError:
            return
        except OSError as error:
            self._found.unseen(unseen_code(error), PART, study_id=study_id, path=study_id, detail=os.strerror(error.errno or 0))
            return
        if not names or self._is_placing(study_id):
            return
        known = set(self._reader.study(study_id).files)
        for each in names:
            temporary = is_temporary(each.name) and not each.is_folder and self._serving()
            if each.name not in known and not temporary:
                code = "untracked-folder" if each.is_folder else "untracked-file"
                self._found.report(code, PART, study_id=study_id, path=f"{study_id}/{each.name}")

    def _is_placing(self, study_id: str) -> bool:
        return valid_study_id(study_id) and self._reader.is_placing(study_id)


def code_of(fixity: Fixity) -> str:
    """Return the finding code for a file that is not intact."""
    match fixity:
        case Fixity.MISSING:
            return "file-missing"
        case Fixity.REPLACED:
            return "file-replaced"
        case Fixity.CHANGED:
            return "file-changed"
        case Fixity.INTACT:
            raise ValueError("an intact file has no code")
        case _:
            assert_never(fixity)


def unseen_code(error: OSError) -> str:
    """Return the code that says why something could not be read."""
    return "archive-not-readable" if isinstance(error, PermissionError) else "archive-io"
