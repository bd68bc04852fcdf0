"""Restore archived files that are missing or damaged, from copies in other folders that have the same SHA-256."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storage_ledger import __version__
from storage_ledger.archive.contract import ArchiveReader, ArchiveRepair, Fixity, Placed
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.paths import archive_path
from storage_ledger.domain.payloads import RestoredFileFields, RestoredPayload
from storage_ledger.domain.study import ArchivedFile, Study
from storage_ledger.errors import UPLOADS_MISSING, Permanent, Retryable, StorageLedgerError
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.progress import ShowProgress, StartProgress
from storage_ledger.operations.replay.report import ReplayCounts
from storage_ledger.operations.unresolved_problems import Problem, Problems
from storage_ledger.system.parallel import batches, each_batch, in_parallel
from storage_ledger.system.sqlite import errors_mapped, sqlite

WORKERS = 6
BATCH = 64
TRIES = 5
"""`serve` takes the temporary file in a study's folder for that of a killed process, if it places a file there at the same time."""
UNRECORDED = "unrecorded"
LOST = "archive-io: the study's new folder could not be fsynced and was removed again"
UNSEARCHABLE = frozenset({"folder-unreadable", "folder-too-deep", "upload-io"})
MOST_UNSEARCHED = 1000
_COLUMNS = "study_id, name, sha256, bytes, position, time, found"


@dataclass(frozen=True, slots=True)
class MissingFile:
    """An archived file that does not match the ledger. `time`: the number of its earlier `restored` entries.

    `found`: `missing`, `changed`, or `unrecorded`: restored by a run that was killed before it could record this.
    """

    study_id: str
    name: str
    sha256: str
    bytes: int
    position: int
    time: int
    found: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """A file that was restored to the archive, durably. `source`: the path of the copy; None if no longer known."""

    wanted: MissingFile
    placed: Placed
    source: str | None


@dataclass(frozen=True, slots=True)
class AskedBy:
    """Who asked for files to be restored, and why, in their own words; None if they did not say."""

    by: str | None = None
    reason: str | None = None


def put_back(
    ledger: Ledger,
    archive: ArchiveReader,
    repair: ArchiveRepair,
    studies: Iterable[str],
    sources: Sequence[Path],
    *,
    dry_run: bool,
    problems: Problems,
    counts: ReplayCounts,
    studies_count: int,
    begin: StartProgress,
    asked: AskedBy = AskedBy(),
) -> None:
    """Read every archived file of these studies, and replace each one that is not intact with the first copy that matches.

    Sources are only read. Each restored file is durable, then recorded as `restored` (not in a `dry_run`). A file that no source
    has is reported as a problem. Raises `LedgerError`, and `Retryable` for a cause that affects all studies; files restored before
    that are recorded.
    """
    record = partial(_record, None if dry_run else ledger, repair, asked)
    with closing(_MissingFiles()) as missing, ThreadPoolExecutor(WORKERS, thread_name_prefix="files") as pool:
        with begin("Reading the archive", studies_count, "studies") as show:
            _check_archive(ledger, archive, repair, studies, pool, missing, problems, counts, show)
        search = _Search(repair, pool, missing, record, counts)
        for source in sources:
            if missing.left:
                with begin(f"Searching {_text(source)}", None, "files") as show:
                    search.through(source, show)
        for some in batches(missing.unrecorded(), BATCH):
            repair.sync_new_folders({each.study_id for each in some})
            record([_unrecorded(each, None) for each in some])
            counts.mended += len(some)
        for each, why in missing.unfound():
            counts.left += 1
            code = "archive-copy-missing" if each.found == Fixity.MISSING.value else "archive-copy-changed"
            problems.add(Problem(code, each.study_id, archive_path(each.study_id, each.name), each.position, why))
        for problem in search.unsearched if counts.left else ():
            problems.add(problem)


def _check_archive(
    ledger: Ledger,
    archive: ArchiveReader,
    repair: ArchiveRepair,
    studies: Iterable[str],
    pool: ThreadPoolExecutor,
    missing: _MissingFiles,
    problems: Problems,
    counts: ReplayCounts,
    show: ShowProgress,
) -> None:
    """Read every archived file; add those that do not match the ledger to `missing`."""
    done = size = 0
    for outcomes in each_batch(pool, lambda study_id: _check_study(ledger, archive, repair, study_id), batches(studies, BATCH)):
        for study_id, outcome in outcomes:
            if isinstance(outcome, StorageLedgerError):
                counts.left += 1
                problems.add(Problem(outcome.code, study_id, detail=outcome.detail))
                continue
            for file, time, found in outcome:
                counts.looked_at += 1
                size += file.bytes
                if isinstance(found, StorageLedgerError):
                    counts.left += 1
                    problems.add(Problem(found.code, study_id, archive_path(study_id, file.name), file.position, found.detail))
                elif found is not None:
                    missing.add(MissingFile(study_id, file.name, file.sha256, file.bytes, file.position, time, found))
        done += len(outcomes)
        show(done, size)


def _record(ledger: Ledger | None, repair: ArchiveRepair, asked: AskedBy, put: Sequence[PutBack]) -> None:
    """Append `restored` for each in one commit, then remove their markers. With `ledger` None (dry run) do neither."""
    if ledger is None:
        return
    with ledger.write() as tx:
        for each in put:
            tx.append(_restored(each, asked))
    for each in put:
        repair.unmark(each.wanted.study_id, each.wanted.name, each.wanted.time)


def _restored(put: PutBack, asked: AskedBy) -> NewEntry:
    return RestoredPayload(
        file=RestoredFileFields(put.wanted.name, put.wanted.bytes, put.wanted.sha256),
        found=put.wanted.found,
        source=put.source,
        software=__version__,
        host=socket.gethostname(),
        set_aside=put.placed.set_aside or None,
        by=asked.by,
        reason=asked.reason,
    ).entry(put.wanted.study_id, described=put.wanted.position)


def _check_study(
    ledger: Ledger, archive: ArchiveReader, repair: ArchiveRepair, study_id: str
) -> list[tuple[ArchivedFile, int, str | StorageLedgerError | None]]:
    """Return the study's files, each with the number of its `restored` entries and what is wrong with it (None: intact)."""
    study = Study.of(study_id, ledger.study(study_id))
    restored = ledger.study(study_id) if ledger.has_kind(study_id, Kind.RESTORED.value) else ()
    times = Counter(RestoredPayload.of(entry).file.name for entry in restored if entry.kind == Kind.RESTORED)
    found: list[tuple[ArchivedFile, int, str | StorageLedgerError | None]] = []
    for file in study.files.values():
        time = times[file.name]
        try:
            fixity = archive.check(study_id, file.name, file.sha256, file.bytes)
            if fixity is not Fixity.INTACT:
                found.append((file, time, fixity.value))
                continue
            found.append((file, time, UNRECORDED if archive.is_marked(study_id, file.name, time) else None))
            if time:  # the run that recorded it may have been killed before it removed the marker
                repair.unmark(study_id, file.name, time - 1)
        except (Retryable, Permanent) as error:
            if isinstance(error, Retryable) and error.shared:
                raise
            found.append((file, time, error))
    return found


def _unrecorded(wanted: MissingFile, source: str | None) -> PutBack:
    """Return a file that a killed run restored. It was fsynced when read just now; its marker stays until it is recorded."""
    return PutBack(wanted, Placed(wanted.name, wanted.bytes, wanted.sha256, "already-there"), source)


class _Search:
    """Searches the sources one after another. `unsearched`: the first files and folders in them that could not be read."""

    def __init__(
        self,
        repair: ArchiveRepair,
        pool: ThreadPoolExecutor,
        missing: _MissingFiles,
        record: Callable[[Sequence[PutBack]], None],
        counts: ReplayCounts,
    ) -> None:
        self._repair = repair
        self._pool = pool
        self._missing = missing
        self._record = record
        self._counts = counts
        self.unsearched: list[Problem] = []

    def through(self, source: Path, show: ShowProgress) -> None:
        """Search all regular files below a folder without following links; read only those with the length of a wanted file."""
        copies = Uploads(source)
        jobs: list[tuple[MissingFile, str]] = []
        seen = size = 0
        try:
            with closing(copies.walk()) as walk:
                for found in walk:
                    seen += 1
                    show(seen, size)
                    if found.code in UNSEARCHABLE:
                        self._not_searched(found.code, source, found.path)
                    if found.code is not None or found.identity is None or not self._missing.has_bytes(found.identity.size):
                        continue
                    sha256 = self._digest(copies, found.path)
                    size += found.identity.size
                    while some := self._missing.take(found.identity.size, sha256):
                        jobs += [(each, found.path) for each in some]
                        if len(jobs) >= BATCH:
                            self._put(copies, jobs)
                            jobs = []
                    if not self._missing.left:
                        break
        except Retryable as error:
            if error.code == UPLOADS_MISSING:
                raise Retryable("source-missing", f"{_text(source)} cannot be opened", errno=error.errno, shared=True) from error
            raise
        self._put(copies, jobs)
        if not seen:
            text = "this folder is empty: is it the right one, and is it mounted?"
            self.unsearched.append(Problem("source-empty", path=_text(source), detail=text))

    def _digest(self, copies: Uploads, path: str) -> str:
        """Return a file's SHA-256; "" if it cannot be read or is being changed."""
        try:
            with copies.open(path) as copy:
                sha256 = digest_of(copy.descriptor)
                copy.check_unchanged()
                return sha256
        except OSError:
            self._not_searched("upload-io", copies.root, path)
        except (Retryable, Permanent) as error:
            if error.code == UPLOADS_MISSING:
                raise
            self._not_searched(error.code, copies.root, path)
        return ""

    def _put(self, copies: Uploads, jobs: list[tuple[MissingFile, str]]) -> None:
        def put(job: tuple[MissingFile, str]) -> PutBack:
            wanted, path = job
            if wanted.found == UNRECORDED:
                return _unrecorded(wanted, _text(copies.root / path))
            for attempt in range(TRIES):
                try:
                    with copies.open(path) as copy:
                        placed = self._repair.put_back(
                            copy, wanted.study_id, name=wanted.name, sha256=wanted.sha256, position=wanted.position, time=wanted.time
                        )
                    return PutBack(wanted, placed, _text(copies.root / path))
                except Retryable as error:
                    if error.shared or error.errno != errno.ENOENT or attempt + 1 == TRIES:
                        raise
            raise AssertionError("unreachable")

        outcomes, stop = in_parallel(self._pool, put, jobs)
        done = [outcome for _, outcome in outcomes if isinstance(outcome, PutBack)]
        if done:
            lost = self._repair.sync_new_folders({each.wanted.study_id for each in done})
            for each in done:
                if each.wanted.study_id in lost:
                    self._missing.give_back(each.wanted, LOST)
            done = [each for each in done if each.wanted.study_id not in lost]
            self._record(done)
            self._counts.mended += len(done)
            self._counts.bytes += sum(each.wanted.bytes for each in done)
        for (wanted, _), outcome in outcomes:
            if isinstance(outcome, StorageLedgerError):
                self._missing.give_back(wanted, f"{outcome.code}: {outcome.detail}")
        if stop is not None:
            raise stop

    def _not_searched(self, code: str, source: Path, path: str) -> None:
        if len(self.unsearched) < MOST_UNSEARCHED:
            self.unsearched.append(Problem(code, None, _text(source / path), detail="in a source: cannot be read"))


class _MissingFiles:
    """The files to restore, in a temporary database: a lost archive may have millions of them."""

    def __init__(self) -> None:
        self._database = sqlite.connect("", isolation_level=None)
        self._database.execute(f"CREATE TABLE missing ({_COLUMNS}, taken DEFAULT 0, why DEFAULT '')")
        self._database.execute("CREATE INDEX missing_by_bytes ON missing (bytes, sha256) WHERE NOT taken")
        self._database.execute("CREATE INDEX missing_by_name ON missing (study_id, name)")
        self.left = 0

    def add(self, wanted: MissingFile) -> None:
        sql = f"INSERT INTO missing ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
        with errors_mapped():
            self._database.execute(sql, astuple(wanted))
        self.left += 1

    def has_bytes(self, count: int) -> bool:
        """Whether a file of this length is still missing."""
        return self._database.execute("SELECT 1 FROM missing WHERE bytes = ? AND NOT taken LIMIT 1", (count,)).fetchone() is not None

    def take(self, count: int, sha256: str) -> list[MissingFile]:
        """Return a batch of missing files with this size and checksum, and mark them as taken, so that none is returned twice."""
        some = "SELECT rowid FROM missing WHERE bytes = ? AND sha256 = ? AND NOT taken LIMIT ?"
        sql = f"UPDATE missing SET taken = 1 WHERE rowid IN ({some}) RETURNING {_COLUMNS}"  # noqa: S608 - constants
        rows = self._database.execute(sql, (count, sha256, BATCH)).fetchall()
        self.left -= len(rows)
        return [MissingFile(*row) for row in rows]

    def give_back(self, wanted: MissingFile, why: str) -> None:
        """Put the file back on the list of missing files after a failure, because another copy may work."""
        self._database.execute("UPDATE missing SET taken = 0, why = ? WHERE study_id = ? AND name = ?", (why, wanted.study_id, wanted.name))
        self.left += 1

    def unrecorded(self) -> Iterator[MissingFile]:
        """Yield the files that an earlier run restored and that no source has."""
        yield from (MissingFile(*row) for row in self._rows(f"SELECT {_COLUMNS} FROM missing WHERE NOT taken AND found = ?", UNRECORDED))  # noqa: S608

    def unfound(self) -> Iterator[tuple[MissingFile, str]]:
        """Yield the files that are still missing or damaged, each with the reason if a copy was found but could not be restored."""
        rows = self._rows(f"SELECT {_COLUMNS}, why FROM missing WHERE NOT taken AND found <> ? ORDER BY rowid", UNRECORDED)  # noqa: S608
        yield from ((MissingFile(*row[:-1]), row[-1]) for row in rows)

    def close(self) -> None:
        self._database.close()

    def _rows(self, sql: str, *values: str) -> Iterator[Any]:
        with closing(self._database.execute(sql, values)) as rows:
            yield from rows


def _text(path: Path) -> str:
    """Return a path as text that the ledger can store, even if it is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
