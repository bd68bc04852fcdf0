"""Re-read the headers of archived files that have none in the ledger, or only part of one.

Either the header was too large for an earlier version of this program, or the file was damaged and has been restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from storage_ledger import __version__
from storage_ledger.archive.contract import ArchiveReader, Fixity
from storage_ledger.archive.dicom_header import read_header
from storage_ledger.domain.entries import Entry, Kind, NewEntry
from storage_ledger.domain.paths import archive_path
from storage_ledger.domain.payloads import ArchivedPayload, HeaderReadFileFields, HeaderReadPayload
from storage_ledger.domain.study import Study
from storage_ledger.errors import StorageLedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.progress import ShowProgress
from storage_ledger.operations.unresolved_problems import Problem, Problems
from storage_ledger.system.parallel import batches, each_batch

WORKERS = 4
BATCH = 64
ENTRIES_A_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class KnownHeader:
    """The header of one archived file according to the ledger. `position`: of the file's `archived` entry."""

    study_id: str
    name: str
    sha256: str
    bytes: int
    position: int
    dicom: dict[str, Any] | None
    error: str | None

    @property
    def is_whole(self) -> bool:
        """Whether the header is complete, so that re-reading it cannot add anything."""
        return self.dicom is not None and self.error is None


@dataclass(frozen=True, slots=True)
class ChangedHeader:
    """A header that was read and differs from the ledger."""

    known: KnownHeader
    dicom: dict[str, Any] | None
    error: str | None

    def entry(self) -> NewEntry:
        """Return the `header-read` entry to append."""
        return HeaderReadPayload(
            file=HeaderReadFileFields(self.known.name, self.known.sha256),
            dicom=self.dicom,
            software=__version__,
            dicom_error=self.error or None,
        ).entry(self.known.study_id, archived=self.known.position)


@dataclass(slots=True)
class HeaderCounts:
    """Counts of files read, of headers that differ from the ledger (`changed`), and of headers still incomplete (`left`)."""

    looked_at: int = 0
    changed: int = 0
    left: int = 0


def headers_of(study_id: str, entries: Iterable[Entry]) -> list[KnownHeader]:
    """Return the headers of a study's files according to its entries. Raises `Retryable` (`entry-damaged`) as `Study.of` does."""
    telling: list[tuple[int, ArchivedPayload | HeaderReadPayload]] = []

    def keep_header_entries() -> Iterator[Entry]:
        for entry in entries:
            yield entry
            if entry.kind == Kind.ARCHIVED:
                telling.append((entry.position, ArchivedPayload.of(entry)))
            elif entry.kind == Kind.HEADER_READ:
                telling.append((entry.position, HeaderReadPayload.of(entry)))

    files = Study.of(study_id, keep_header_entries()).files
    found: dict[str, KnownHeader] = {}
    for position, said in telling:
        name = said.file.name
        known = found.get(name)
        if isinstance(said, ArchivedPayload) and known is None:
            file = files[name]
            found[name] = KnownHeader(study_id, name, file.sha256, file.bytes, position, said.dicom, said.dicom_error)
        elif known is not None and (isinstance(said, HeaderReadPayload) or (not known.is_whole and said.dicom is not None)):
            found[name] = replace(known, dicom=said.dicom, error=said.dicom_error)
    return list(found.values())


def studies_to_read(ledger: Ledger, up_to: int, show: ShowProgress) -> list[str]:
    """Return the studies that have an entry with no header or an incomplete one, in ledger order. Reads the whole ledger."""
    found: dict[str, None] = {}
    after = 0
    while after < up_to and (page := ledger.read(after, ENTRIES_A_PAGE)):
        for entry in page:
            if entry.study_id is not None and entry.kind in {Kind.ARCHIVED, Kind.HEADER_READ} and _may_lack_header(entry.payload):
                found[entry.study_id] = None
        after = page[-1].position
        show(after)
    return list(found)


def _may_lack_header(payload: str) -> bool:
    """Guess from the text, which is not parsed because this runs for every entry: at worst a study is read needlessly."""
    return '"dicom":null' in payload or '"dicom_error":' in payload


def reread_headers(
    ledger: Ledger,
    archive: ArchiveReader,
    studies: Iterable[str],
    *,
    every: bool,
    dry_run: bool,
    problems: Problems,
    counts: HeaderCounts,
    show: ShowProgress,
) -> None:
    """Re-read the incomplete headers of these studies' files (`every`: all), and append `header-read` for those that differ.

    Commits once per batch; a `dry_run` commits nothing. A missing or changed file is reported as a problem, and its header is not read.
    Raises `LedgerError`, and `Retryable` for a cause that affects all studies.
    """

    def look(study_id: str) -> list[tuple[KnownHeader, ChangedHeader | Fixity | StorageLedgerError | None]]:
        return [(known, _read(archive, known)) for known in headers_of(study_id, ledger.study(study_id)) if every or not known.is_whole]

    done = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="headers") as pool:
        for outcomes in each_batch(pool, look, batches(studies, BATCH)):
            new: list[ChangedHeader] = []
            for study_id, outcome in outcomes:
                if isinstance(outcome, StorageLedgerError):
                    problems.add(Problem(outcome.code, study_id, detail=outcome.detail))
                    continue
                for known, found in outcome:
                    _count(known, found, problems, counts)
                    new += [found] if isinstance(found, ChangedHeader) else []
            if new and not dry_run:
                with ledger.write() as tx:
                    for each in new:
                        tx.append(each.entry())
            done += len(outcomes)
            show(done)


def _read(archive: ArchiveReader, known: KnownHeader) -> ChangedHeader | Fixity | StorageLedgerError | None:
    """Return None if the header matches the ledger."""
    try:
        fixity = archive.check(known.study_id, known.name, known.sha256, known.bytes)
        if fixity is not Fixity.INTACT:
            return fixity
        with archive.open(known.study_id, known.name) as file:
            dicom, error = read_header(file)
    except StorageLedgerError as failed:
        if getattr(failed, "shared", False):
            raise
        return failed
    if dicom is None and known.dicom is not None:
        return None  # keep the known header rather than replace it with none
    return None if (dicom, error) == (known.dicom, known.error) else ChangedHeader(known, dicom, error)


def _count(known: KnownHeader, found: ChangedHeader | Fixity | StorageLedgerError | None, problems: Problems, counts: HeaderCounts) -> None:
    path = archive_path(known.study_id, known.name)
    match found:
        case Fixity():
            code = "file-missing" if found is Fixity.MISSING else "file-changed"
            problems.add(Problem(code, known.study_id, path, known.position, "its header was not read"))
        case StorageLedgerError():
            problems.add(Problem(found.code, known.study_id, path, known.position, found.detail))
        case ChangedHeader():
            counts.looked_at += 1
            counts.changed += 1
            counts.left += found.dicom is None or found.error is not None
        case None:
            counts.looked_at += 1
            counts.left += not known.is_whole


def studies_with_reread_headers(ledger: Ledger, only: str | None) -> Iterator[str]:
    """Yield the studies with a `header-read` entry: a killed run may not have rewritten their metadata.json."""
    if only is None:
        yield from ledger.studies_with_kind(Kind.HEADER_READ.value)
    elif ledger.has_kind(only, Kind.HEADER_READ.value):
        yield only
