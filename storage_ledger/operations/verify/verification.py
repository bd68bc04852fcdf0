"""One verification: the ledger, the mirror, the archive and the index, each against the others, and what came of it as entries.

    ledger      by itself: schema, meta, SQLite's own check, every entry
    mirror      every byte, against the ledger
    pending     against the fold of the entries
    files       each file that is archived, and metadata.json
    strangers   what lies in the archive that the ledger does not know
    index       against a fresh fold

What is damaged in one of them is told there, and not again by what follows from it: an entry that is damaged in the ledger is
taken from the mirror for the rest. Nothing is repaired.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from storage_ledger.archive.fixity import Inspection
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.paths import LEDGER_FOLDER
from storage_ledger.domain.payloads import VerifiedPayload, VerifiedScope
from storage_ledger.errors import LedgerBusy, LedgerError, LedgerUnusable, Retryable
from storage_ledger.operations.verify import index, ledger, mirror
from storage_ledger.operations.verify.files import Counts, Files, Strangers
from storage_ledger.operations.verify.findings import Findings, Stopped
from storage_ledger.operations.verify.recording import Portion, payload_of
from storage_ledger.operations.verify.selection import Chosen, Options
from storage_ledger.operations.verify.untrusting_reader import Facts, FileFact
from storage_ledger.operations.verify.work_queue import WorkQueueCheck
from storage_ledger.settings import Settings
from storage_ledger.system import locks
from storage_ledger.system.pacing import Pace

PARTS = ("ledger", "mirror", "pending", "files", "strangers", "index")


@dataclass(frozen=True, slots=True)
class Places:
    """Where all of it lies. `serving`: whether `serve` runs just now."""

    ledger_file: Path
    index_file: Path
    archive_root: Path
    serving: Callable[[], bool]

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """As the settings have it."""
        return cls(settings.ledger_file, settings.index_file, settings.archive_path, partial(locks.is_held, settings.lock_file))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. `total` None: nobody knows. `bytes` and `total_bytes` of files; 0 and None elsewhere."""

    part: str
    done: int
    total: int | None = None
    bytes: int = 0
    total_bytes: int | None = None


@dataclass(slots=True)
class Verified:
    """What came of it. `up_to`: the position that all was judged by. `parts`: what was looked at, whole or in part.

    `recorded`: positions of the `verified` entries; `not_recorded`: why there are none (any more). `interrupted`: it was told
    to stop, and not all was looked at.
    """

    began: str
    up_to: int = 0
    parts: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    found: Findings = field(default_factory=Findings)
    recorded: list[int] = field(default_factory=list)
    not_recorded: str | None = None
    interrupted: bool = False


Record = Callable[[VerifiedPayload], int]


class Verification:
    """`run` once. `record` appends a `verified` entry and returns its position; None: nothing is to be recorded."""

    def __init__(
        self,
        places: Places,
        options: Options,
        *,
        clock: Callable[[], datetime],
        stopped: Callable[[], bool],
        wait: Callable[[float], object],
        record: Record | None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._places = places
        self._options = options
        self._clock = clock
        self._stopped = stopped
        self._wait = wait
        self._record = record
        self._on_progress = on_progress
        self._chance = chance
        self._facts = Facts(places.ledger_file)
        self._report = Verified(rfc3339(clock()))
        self._ledger_id = ""
        self._open = Portion()
        self._pace = Pace(options.rate, burst_s=1.0, wait=wait)
        self._bytes = 0
        self._reading: Progress | None = None

    def run(self) -> Verified:
        """Look at all of it. Raises `LedgerUnusable` where the ledger cannot be read at all, or is newer than this program."""
        report = self._report
        report.found.on_found = self._open.take
        try:
            self._all() if self._options.study_id is None else self._one_study(self._options.study_id)
        except Stopped:
            report.interrupted = True
        except LedgerUnusable as error:
            if error.code != "ledger-damaged":
                raise
            report.found.report("ledger-damaged", ledger.PART, path=ledger.FILE, detail=error.detail)
            for part in PARTS:
                if part not in report.parts:
                    report.found.unseen("ledger-damaged", part, detail="SQLite cannot read all of the ledger")
        self._judge_recording()
        try:
            if not report.interrupted or self._open.has_something:
                self._close(complete=not report.interrupted)
        finally:
            self._facts.close()
        return report

    # -- the parts

    def _all(self) -> None:
        report, found = self._report, self._report.found
        ledger.check_file(self._facts, found, self._stopped)
        report.up_to = self._facts.last()
        damage = ledger.check_entries(self._facts, found, report.up_to, self._tell("ledger", report.up_to))
        self._identify(damage)
        if damage.overflow:
            for part in PARTS[1:]:
                found.unseen("ledger-damaged", part, detail="too much of the ledger is damaged to judge by it")
            report.parts.append("ledger")
            return
        ledger.check_keys(self._facts, found, damage, report.up_to)
        report.parts.append("ledger")
        has_mirror = self._mirror()
        self._pending()
        self._judge_recording()
        self._archive(has_mirror=has_mirror)
        self._index()

    def _one_study(self, study_id: str) -> None:
        report = self._report
        report.up_to = self._facts.last()
        known = False
        for row in self._facts.sql("SELECT position FROM entries WHERE study_id = ? ORDER BY position", study_id):
            known = True
            for entry in self._facts.rows(row[0] - 1, row[0]):
                ledger.check_entry(entry, report.found)
        report.parts.append("ledger")
        if not known:
            raise LedgerUnusable("study-unknown", f"the ledger knows no study {study_id}")
        self._judge_recording()
        archive = self._inspection()
        if archive is None:
            return
        files = self._files(archive)
        facts = self._facts.study(study_id)
        self._reading = Progress("files", 0, len(facts.files), 0, sum(file.bytes for file in facts.files.values()))
        for file in sorted(facts.files.values(), key=lambda file: file.position):
            self._read(files, file, alone=True)
        report.parts.append("files")
        Strangers(self._facts, archive, report.found, serving=self._places.serving).of_study(study_id)
        report.parts.append("strangers")

    def _identify(self, damage: ledger.Damage) -> None:
        """Whose ledger it is, and what the mirror has in place of entries that are damaged or gone."""
        ids = self._facts.sql("SELECT value FROM meta WHERE name = 'ledger_id'")
        self._ledger_id = ids[0][0] if ids else ""
        try:
            looked = mirror.look(self._places.archive_root)
        except OSError:
            self._facts.repaired = dict.fromkeys(damage.positions)
            return  # `_mirror` tells why
        if not ids and looked.ledger_id is not None:
            self._ledger_id = looked.ledger_id  # that it is gone was told
        elif looked.ledger_id not in {None, self._ledger_id}:
            common = min(looked.position, self._report.up_to)
            theirs = mirror.entries_at(self._places.archive_root, {1, common})
            ours = {position: self._facts.get(position) for position in theirs}
            if theirs and all(own is not None and own.leaf_hash == theirs[p].leaf_hash for p, own in ours.items()):
                self._report.found.report("meta-changed", "ledger", path=ledger.FILE, detail="its ledger_id is not that of the mirror")
                self._ledger_id = looked.ledger_id or ""
            else:
                self._facts.repaired = dict.fromkeys(damage.positions)
                return
        last = self._facts.last()
        beyond = range(last + 1, min(looked.position, last + ledger.MOST_DAMAGED) + 1)
        lost = damage.positions | set(beyond)
        known = mirror.entries_at(self._places.archive_root, lost) if lost else {}
        self._facts.repaired = {position: known.get(position) for position in lost}
        if looked.position > last:
            self._report.up_to = max(self._report.up_to, looked.position)
            text = f"the mirror goes up to {looked.position}, the ledger only to {last}"
            self._report.found.report("mirror-ahead", "ledger", position=last + 1, path=ledger.FILE, detail=text)

    def _mirror(self) -> bool:
        """Whether there is one that is this ledger's."""
        found, root = self._report.found, self._places.archive_root
        before = self._facts.last()
        while before in self._facts.repaired:  # nobody mirrors what is none of the ledger's
            before -= 1
        try:
            looked = mirror.look(root)
            if looked.ledger_id not in {None, self._ledger_id}:
                text = f"it is that of ledger {looked.ledger_id}, this one is {self._ledger_id}"
                found.report("mirror-foreign", mirror.PART, path=LEDGER_FOLDER, detail=text)
                return False
            check = mirror.MirrorCheck(
                self._facts,
                root,
                self._ledger_id,
                found,
                set(self._facts.repaired),
                stopped=self._check_stop,
                on_progress=self._tell("mirror", before),
            )
            self._settle_mirror(check.run(quiet_tail=True), before)
        except (FileNotFoundError, NotADirectoryError):
            if before and root.is_dir():
                found.report("mirror-missing", mirror.PART, path=LEDGER_FOLDER, detail="there is no mirror. Is this the right volume?")
            elif before:
                found.unseen("archive-missing", mirror.PART, path=LEDGER_FOLDER, detail="ARCHIVE_PATH is not there")
            return before == 0
        except OSError as error:
            found.unseen("mirror-io", mirror.PART, path=LEDGER_FOLDER, detail=error.strerror or "")
            return True
        self._report.parts.append("mirror")
        return True

    def _settle_mirror(self, state: mirror.MirrorState, before: int) -> None:
        """What follows the last batch, and what is not mirrored yet, may be under way: look again before it is told."""
        now = state
        waited = 0.0
        most = self._options.settle_s if self._places.serving() else min(1.0, self._options.settle_s)
        while (now.tail or now.position < before) and waited < most and not state.told:
            self._wait(0.5)
            self._check_stop()
            waited += 0.5
            now = mirror.look(self._places.archive_root)
        if state.told:
            return
        if now.position < before:
            text = f"nothing after position {now.position} is mirrored; the ledger goes up to {before}"
            self._report.found.report("mirror-lags", mirror.PART, position=now.position + 1, path=state.path, detail=text)
        elif now.tail:
            text = "something follows the last batch"
            self._report.found.report("mirror-damaged", mirror.PART, position=now.position + 1, path=state.path, detail=text)

    def _pending(self) -> None:
        if None in self._facts.repaired.values():
            self._report.found.unseen("ledger-damaged", "pending", path=ledger.FILE, detail="not all of the ledger can be believed")
            return
        work_items = WorkQueueCheck(self._facts)
        for entry in self._facts.believed(0, self._report.up_to):
            work_items.apply(entry)
            if entry.position % 1000 == 0:
                self._check_stop()
        with self._facts.snapshot():
            for entry in self._facts.believed(self._report.up_to, self._facts.last()):
                work_items.apply(entry)
            rows = self._facts.sql("SELECT position, stage, not_before, attempts FROM pending ORDER BY position, stage")
            work_items.judge(rows, self._report.found, self._clock())
        self._report.parts.append("pending")

    def _archive(self, *, has_mirror: bool) -> None:
        archive = self._inspection()
        if archive is None:
            return
        if not has_mirror and not any(name.name not in {LEDGER_FOLDER, "lost+found"} for name in archive.names()):
            for part in ("files", "strangers"):
                self._report.found.unseen("archive-missing", part, detail="ARCHIVE_PATH is empty: is the volume mounted?")
            return
        try:
            self._all_files(self._files(archive))
            self._report.parts.append("files")
            strangers = Strangers(self._facts, archive, self._report.found, serving=self._places.serving)
            for count in strangers.all():
                self._check_stop()
                self._on_progress(Progress("strangers", count))
            self._report.parts.append("strangers")
        except Retryable as error:
            self._report.found.unseen(error.code, "files", detail=error.detail)
        except OSError as error:
            self._report.found.unseen("archive-io", "strangers", detail=error.strerror or "")

    def _all_files(self, files: Files) -> None:
        chosen = Chosen(self._options, self._places.index_file, self._facts, self._chance)
        self._reading = Progress("files", 0, chosen.files, 0, chosen.bytes)
        after = 0
        while after < self._report.up_to:
            some, end = self._facts.archived(after, self._report.up_to)
            take = chosen.of(after, end)
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

    def _read(self, files: Files, file: FileFact, *, alone: bool) -> None:
        """Read one file. `alone`: the one before it was not read."""
        self._check_stop()
        counts = Counts()
        files.check(file, counts)
        self._report.counts.add(counts)
        self._open.add(file.position, counts, alone=alone)
        if self._reading is not None:
            self._reading = replace(self._reading, done=self._reading.done + 1, bytes=self._bytes)
            self._on_progress(self._reading)
        if self._open.is_full:
            self._close(complete=False)

    def _index(self) -> None:
        found = self._report.found
        if None in self._facts.repaired.values():
            found.unseen("ledger-damaged", index.PART, path=index.FILE, detail="not all of the ledger can be believed")
            return
        try:
            index.check_index(
                self._facts,
                self._places.index_file,
                self._ledger_id,
                found,
                stopped=self._check_stop,
                on_progress=self._tell("index", self._report.up_to),
            )
        except LedgerBusy as error:
            found.unseen(error.code, index.PART, path=index.FILE, detail=error.detail)
            return
        except OSError as error:
            found.unseen("ledger-io", index.PART, path=index.FILE, detail=error.strerror or "")
            return
        self._report.parts.append("index")

    # -- what they share

    def _inspection(self) -> Inspection | None:
        try:
            return Inspection(self._places.archive_root, self._on_bytes)
        except Retryable as error:
            for part in ("files", "strangers"):
                self._report.found.unseen(error.code, part, detail=error.detail)
            return None

    def _files(self, archive: Inspection) -> Files:
        return Files(self._facts, archive, self._report.found, wait=self._wait, settle_s=min(2.0, self._options.settle_s))

    def _on_bytes(self, count: int) -> None:
        self._bytes += count
        self._pace.spend(count)
        self._check_stop()
        if self._reading is not None:
            self._on_progress(replace(self._reading, bytes=self._bytes))

    def _check_stop(self) -> None:
        if self._stopped():
            raise Stopped

    def _tell(self, part: str, total: int) -> Callable[[int], None]:
        def tell(done: int) -> None:
            self._check_stop()
            self._on_progress(Progress(part, done, total))

        return tell

    def _judge_recording(self) -> None:
        """An entry beyond a ledger that is damaged, or that the mirror contradicts, would make it worse."""
        if self._record is not None and any(
            each.part in {"ledger", "mirror"} and each.code != "mirror-lags" for each in self._report.found.damaged
        ):
            self._record = None
            self._report.not_recorded = "nothing is appended to a ledger that is damaged, or beside a mirror that is"

    def _close(self, *, complete: bool) -> None:
        """Record what was seen since the last time."""
        if self._record is None:
            return
        portion, report = self._open, self._report
        self._open = Portion()
        report.found.on_found = self._open.take
        scope = VerifiedScope(
            parts=["files"] if portion.ranges and not complete else [*report.parts],
            selection=self._options.selection,
            up_to=report.up_to,
            ranges=portion.ranges,
            study_id=self._options.study_id,
        )
        try:
            report.recorded.append(self._record(payload_of("verify", report.began, scope, portion, complete=complete)))
        except (LedgerError, Retryable) as error:
            report.not_recorded = f"{error.code}: {error.detail}"
            self._record = None
