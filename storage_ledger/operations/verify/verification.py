"""One verification: compare ledger, mirror, archive and index with each other, part by part.

    ledger      by itself: schema, meta, SQLite's integrity check, every entry
    mirror      every byte, against the ledger
    checkpoints each signed root, against the entries
    pending     the work queue, against the entries
    files       each archived file, and metadata.json
    strangers   unexpected files and folders in the archive: not in the ledger
    index       against a freshly built index

Damage is reported once, for the part where it is: later parts take a damaged entry of the ledger from the mirror. Nothing is
repaired.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from storage_ledger.archive.fixity import FixityReader
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.errors import LEDGER_DAMAGED, LedgerBusy, LedgerUnusable, Retryable
from storage_ledger.ledger.mirror import reader
from storage_ledger.ledger.mirror.reader import MirrorEnd
from storage_ledger.operations.verify import index, ledger, mirror
from storage_ledger.operations.verify.checkpoints import CheckpointsCheck
from storage_ledger.operations.verify.files import FileCounts, Files, UntrackedFiles
from storage_ledger.operations.verify.findings import Stopped
from storage_ledger.operations.verify.record_result import Append, Recording
from storage_ledger.operations.verify.report import VerifyProgress, VerifyReport
from storage_ledger.operations.verify.selection import FileSelection, VerifyOptions, VerifyPaths
from storage_ledger.operations.verify.untrusting_reader import BelievedFile, UntrustingReader
from storage_ledger.operations.verify.work_queue import WorkQueueCheck
from storage_ledger.system.rate_limit import Pace

PARTS = ("ledger", "mirror", "checkpoints", "pending", "files", "strangers", "index")
"""The parts in their order, by their names in `verified` entries."""


NOT_RELIABLE = "some entries of the ledger are damaged and not in the mirror"


class Verification:
    """One verification: call `run` once. `append` appends a `verified` entry and returns its position; None: record nothing."""

    def __init__(
        self,
        paths: VerifyPaths,
        options: VerifyOptions,
        *,
        clock: Callable[[], datetime],
        stopped: Callable[[], bool],
        wait: Callable[[float], object],
        append: Append | None,
        on_progress: Callable[[VerifyProgress], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._paths = paths
        self._options = options
        self._clock = clock
        self._stopped = stopped
        self._wait = wait
        self._on_progress = on_progress
        self._chance = chance
        self._reader = UntrustingReader(paths.ledger_file)
        self._report = VerifyReport(rfc3339(clock()))
        self._ledger_id = ""
        self._recording = Recording(append, self._report, options)
        self._pace = Pace(options.rate, burst_s=1.0, wait=wait)
        self._bytes = 0
        self._reading: VerifyProgress | None = None

    def run(self) -> VerifyReport:
        """Check everything. Raises `LedgerUnusable` if the ledger cannot be read at all, or is newer than this program."""
        report = self._report
        try:
            self._all() if self._options.study_id is None else self._one_study(self._options.study_id)
        except Stopped:
            report.interrupted = True
        except LedgerUnusable as error:
            if error.code != LEDGER_DAMAGED:
                raise
            report.found.report("ledger-damaged", ledger.PART, path=ledger.FILE, detail=error.detail)
            for part in PARTS:
                if part not in report.parts:
                    report.found.unseen("ledger-damaged", part, detail="SQLite cannot read all of the ledger")
        self._recording.end_if_damaged()
        try:
            self._recording.finish()
        finally:
            self._reader.close()
        return report

    # -- the parts

    def _all(self) -> None:
        report, found = self._report, self._report.found
        ledger.check_file(self._reader, found, self._stopped)
        report.up_to = self._reader.last()
        damage = ledger.check_entries(self._reader, found, report.up_to, self._progress_of("ledger", report.up_to))
        self._identify(damage)
        if damage.overflow:
            for part in PARTS[1:]:
                found.unseen("ledger-damaged", part, detail="too much of the ledger is damaged to compare with it")
            report.parts.append("ledger")
            return
        ledger.check_keys(self._reader, found, damage, report.up_to)
        report.parts.append("ledger")
        has_mirror = self._mirror()
        self._checkpoints()
        self._pending()
        self._recording.end_if_damaged()
        self._archive(has_mirror=has_mirror)
        self._index()

    def _one_study(self, study_id: str) -> None:
        report = self._report
        report.up_to = self._reader.last()
        known = False
        for row in self._reader.sql("SELECT position FROM entries WHERE study_id = ? ORDER BY position", study_id):
            known = True
            for entry in self._reader.rows(row[0] - 1, row[0]):
                ledger.check_entry(entry, report.found)
        report.parts.append("ledger")
        if not known:
            raise LedgerUnusable("study-unknown", f"no study {study_id} in the ledger")
        self._recording.end_if_damaged()
        archive = self._opened_archive()
        if archive is None:
            return
        files = self._files(archive)
        study = self._reader.study(study_id)
        self._reading = VerifyProgress("files", 0, len(study.files), 0, sum(file.bytes for file in study.files.values()))
        for file in study.files.values():
            self._read(files, file, alone=True)
        report.parts.append("files")
        UntrackedFiles(self._reader, archive, report.found, serving=self._paths.serving).of_study(study_id)
        report.parts.append("strangers")

    def _identify(self, damage: ledger.Damage) -> None:
        """Determine the ledger_id, and get the mirror's copies of damaged and missing entries."""
        ids = self._reader.sql("SELECT value FROM meta WHERE name = 'ledger_id'")
        self._ledger_id = ids[0][0] if ids else ""
        try:
            looked = reader.look(self._paths.archive_root)
        except OSError:
            self._reader.repaired = dict.fromkeys(damage.positions)
            return  # `_mirror` reports why
        if not ids and looked.ledger_id is not None:
            self._ledger_id = looked.ledger_id  # the missing ledger_id has been reported
        elif looked.ledger_id not in {None, self._ledger_id}:
            common = min(looked.position, self._report.up_to)
            theirs = reader.entries_at(self._paths.archive_root, {1, common})
            ours = {position: self._reader.get(position) for position in theirs}
            if theirs and all(own is not None and own.leaf_hash == theirs[p].leaf_hash for p, own in ours.items()):
                self._report.found.report("meta-changed", "ledger", path=ledger.FILE, detail="its ledger_id differs from the mirror's")
                self._ledger_id = looked.ledger_id or ""
            else:
                self._reader.repaired = dict.fromkeys(damage.positions)
                return
        last = self._reader.last()
        beyond = range(last + 1, min(looked.position, last + ledger.MOST_DAMAGED) + 1)
        lost = damage.positions | set(beyond)
        known = reader.entries_at(self._paths.archive_root, lost) if lost else {}
        self._reader.repaired = {position: known.get(position) for position in lost}
        if looked.position > last:
            self._report.up_to = max(self._report.up_to, looked.position)
            text = f"the mirror goes up to {looked.position}, the ledger only to {last}"
            self._report.found.report("mirror-ahead", "ledger", position=last + 1, path=ledger.FILE, detail=text)

    def _mirror(self) -> bool:
        """Check the mirror. Return whether this ledger has one."""
        found, root = self._report.found, self._paths.archive_root
        before = self._reader.last()
        while before in self._reader.repaired:  # an entry missing from the end of the ledger cannot be mirrored
            before -= 1
        try:
            looked = reader.look(root)
            if looked.ledger_id not in {None, self._ledger_id}:
                text = f"it belongs to ledger {looked.ledger_id}; this ledger is {self._ledger_id}"
                found.report("mirror-foreign", mirror.PART, path=LEDGER_FOLDER, detail=text)
                return False
            check = mirror.MirrorCheck(
                self._reader,
                root,
                self._ledger_id,
                found,
                set(self._reader.repaired),
                stopped=self._check_stop,
                on_progress=self._progress_of("mirror", before),
            )
            self._check_end_of_mirror(check.run(quiet_tail=True), before)
        except (FileNotFoundError, NotADirectoryError):
            if before and root.is_dir():
                found.report("mirror-missing", mirror.PART, path=LEDGER_FOLDER, detail="there is no mirror. Is this the right volume?")
            elif before:
                found.unseen("archive-missing", mirror.PART, path=LEDGER_FOLDER, detail="ARCHIVE_PATH does not exist")
            return before == 0
        except OSError as error:
            found.unseen("mirror-io", mirror.PART, path=LEDGER_FOLDER, detail=error.strerror or "")
            return True
        self._report.parts.append("mirror")
        return True

    def _check_end_of_mirror(self, state: mirror.CheckedMirror, before: int) -> None:
        """Report an incomplete end only after waiting: `serve` may be mirroring entries now."""
        now: mirror.CheckedMirror | MirrorEnd = state
        waited = 0.0
        most = self._options.settle_s if self._paths.serving() else min(1.0, self._options.settle_s)
        while (now.tail or now.position < before) and waited < most and not state.reported:
            self._wait(0.5)
            self._check_stop()
            waited += 0.5
            now = reader.look(self._paths.archive_root)
        if state.reported:
            return
        if now.position < before:
            text = f"the mirror ends at position {now.position}, the ledger at {before}"
            self._report.found.report("mirror-lags", mirror.PART, position=now.position + 1, path=state.path, detail=text)
        elif now.tail:
            text = "unexpected data after the last batch"
            self._report.found.report("mirror-damaged", mirror.PART, position=now.position + 1, path=state.path, detail=text)

    def _checkpoints(self) -> None:
        report, paths = self._report, self._paths
        check = CheckpointsCheck(
            self._reader,
            paths.archive_root,
            paths.latest_checkpoint,
            self._ledger_id,
            report.found,
            on_progress=self._progress_of("checkpoints", report.up_to),
        )
        report.checkpoints = check.run(self._options.checkpoints, report.up_to)
        report.parts.append("checkpoints")

    def _pending(self) -> None:
        if None in self._reader.repaired.values():
            self._report.found.unseen("ledger-damaged", "pending", path=ledger.FILE, detail=NOT_RELIABLE)
            return
        work_items = WorkQueueCheck(self._reader)
        for entry in self._reader.believed(0, self._report.up_to):
            work_items.apply(entry)
            if entry.position % 1000 == 0:
                self._check_stop()
        with self._reader.snapshot():
            for entry in self._reader.believed(self._report.up_to, self._reader.last()):
                work_items.apply(entry)
            rows = self._reader.sql("SELECT position, stage, not_before, attempts FROM pending ORDER BY position, stage")
            work_items.judge(rows, self._report.found, self._clock())
        self._report.parts.append("pending")

    def _archive(self, *, has_mirror: bool) -> None:
        archive = self._opened_archive()
        if archive is None:
            return
        if not has_mirror and not any(name.name not in {LEDGER_FOLDER, "lost+found"} for name in archive.names()):
            for part in ("files", "strangers"):
                self._report.found.unseen("archive-missing", part, detail="ARCHIVE_PATH is empty: is the volume mounted?")
            return
        try:
            self._all_files(self._files(archive))
            self._report.parts.append("files")
            untracked = UntrackedFiles(self._reader, archive, self._report.found, serving=self._paths.serving)
            for count in untracked.all():
                self._check_stop()
                self._on_progress(VerifyProgress("strangers", count))
            self._report.parts.append("strangers")
        except Retryable as error:
            self._report.found.unseen(error.code, "files", detail=error.detail)
        except OSError as error:
            self._report.found.unseen("archive-io", "strangers", detail=error.strerror or "")

    def _all_files(self, files: Files) -> None:
        selection = FileSelection(self._options, self._paths.index_file, self._reader, self._chance)
        self._reading = VerifyProgress("files", 0, selection.files, 0, selection.bytes)
        after = 0
        while after < self._report.up_to:
            some, end = self._reader.archived(after, self._report.up_to)
            take = selection.of(after, end)
            consecutive = self._options.selection == "all"
            for entry in some:
                file = files.fact(entry)
                if file is None:
                    continue
                if take(file):
                    self._read(files, file, alone=not consecutive)
                    consecutive = True
                else:
                    consecutive = False
            after = end

    def _read(self, files: Files, file: BelievedFile, *, alone: bool) -> None:
        """Check one file. `alone`: the one before it was not checked."""
        self._check_stop()
        counts = FileCounts()
        files.check(file, counts)
        self._report.counts.add(counts)
        if self._reading is not None:
            self._reading = replace(self._reading, done=self._reading.done + 1, bytes=self._bytes)
            self._on_progress(self._reading)
        self._recording.add(file.position, counts, alone=alone)

    def _index(self) -> None:
        found = self._report.found
        if None in self._reader.repaired.values():
            found.unseen("ledger-damaged", index.PART, path=index.FILE, detail=NOT_RELIABLE)
            return
        try:
            index.check_index(
                self._reader,
                self._paths.index_file,
                self._ledger_id,
                found,
                stopped=self._check_stop,
                on_progress=self._progress_of("index", self._report.up_to),
            )
        except LedgerBusy as error:
            found.unseen(error.code, index.PART, path=index.FILE, detail=error.detail)
            return
        except OSError as error:
            found.unseen("ledger-io", index.PART, path=index.FILE, detail=error.strerror or "")
            return
        self._report.parts.append("index")

    # -- shared by the parts

    def _opened_archive(self) -> FixityReader | None:
        try:
            return FixityReader(self._paths.archive_root, self._on_bytes)
        except Retryable as error:
            for part in ("files", "strangers"):
                self._report.found.unseen(error.code, part, detail=error.detail)
            return None

    def _files(self, archive: FixityReader) -> Files:
        return Files(self._reader, archive, self._report.found, wait=self._wait, settle_s=min(2.0, self._options.settle_s))

    def _on_bytes(self, count: int) -> None:
        self._bytes += count
        self._pace.spend(count)
        self._check_stop()
        if self._reading is not None:
            self._on_progress(replace(self._reading, bytes=self._bytes))

    def _check_stop(self) -> None:
        if self._stopped():
            raise Stopped

    def _progress_of(self, part: str, total: int) -> Callable[[int], None]:
        def tell(done: int) -> None:
            self._check_stop()
            self._on_progress(VerifyProgress(part, done, total))

        return tell
