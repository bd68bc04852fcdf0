"""The background scrub: verify archived files at a limited rate while the service runs, longest-unverified files first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime

from storage_ledger.archive.fixity import FixityReader
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.ids import instant, later, rfc3339
from storage_ledger.domain.payloads import VerifiedPayload, VerifiedScope, readable
from storage_ledger.errors import LedgerError, Retryable
from storage_ledger.index.queries import ask_files
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.verify.files import FileCounts, Files
from storage_ledger.operations.verify.findings import Findings, Stopped
from storage_ledger.operations.verify.record_result import Portion, payload_of
from storage_ledger.operations.verify.selection import VerifyPaths
from storage_ledger.operations.verify.untrusting_reader import BelievedFile, UntrustingReader
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.rate_limit import Pace

ROUND_S = 86_400.0
"""Each file is read at most once in this time; otherwise a small archive would be read, and entries appended, constantly."""

PORTION_S = 3600.0
LOOK_EVERY_S = 60.0
SETTLE_S = 2.0
_OLDEST = "SELECT position, verified_at FROM files ORDER BY verified_at IS NOT NULL, verified_at, position LIMIT ?"
_RECENT = "SELECT position FROM files WHERE position > ? AND position <= ? AND verified_at >= ?"
_LEFT = "SELECT position FROM files WHERE (verified_at IS NULL OR verified_at < ?) AND NOT position BETWEEN ? AND ? LIMIT ?"


class Scrub:
    """The scrub's thread. Each finding goes into a `verified` entry, the log and a metric; nothing is repaired."""

    def __init__(
        self,
        ledger: Ledger,
        paths: VerifyPaths,
        *,
        rate: float,
        metrics: Metrics,
        clock: Callable[[], datetime],
        index_position: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._paths = paths
        self._rate = rate
        self._pace: Pace | None = None  # kept across portions, since a new one starts with a burst
        self._metrics = metrics
        self._clock = clock
        self._index_position = index_position
        self._began: str | None = None  # of the current round
        self._unreadable: dict[int, str] = {}  # unreadable files, with the time of the attempt; they stay the oldest, so they are skipped

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set, then record the results so far and return within a second. With `rate` 0 only wait."""
        if self._rate <= 0:
            stop.wait()
            return
        self._remember()
        while not stop.is_set():
            try:
                wait_s = self.portion(stop)
            except (Retryable, LedgerError) as error:
                logs.get().warning("scrub.waits", code=error.code)
                wait_s = LOOK_EVERY_S
            stop.wait(wait_s)

    def portion(self, stop: threading.Event) -> float:
        """Verify the longest-unverified files for up to an hour or 10,000 files, and record the results.

        Returns how many seconds to wait before the next portion. Raises `Retryable` while the archive is unavailable, and
        `LedgerError`; the files are then read again.
        """
        now = rfc3339(self._clock())
        self._unreadable = {position: at for position, at in self._unreadable.items() if at > later(now, -ROUND_S)}
        last = self._ledger.last()
        if last is None or self._index_position() < last.position:
            return 1.0  # the index knows which files are oldest only after it has indexed the last portion
        rows = ask_files(self._paths.index_file, self._ledger, _OLDEST, len(self._unreadable) + 1) or []
        oldest = [row for row in rows if row[0] not in self._unreadable]
        if not oldest:
            return LOOK_EVERY_S
        first, verified_at = oldest[0]
        if verified_at is not None and verified_at > later(now, -ROUND_S):
            return min(LOOK_EVERY_S, (instant(verified_at) - instant(later(now, -ROUND_S))).total_seconds())
        self._began = self._began or now
        found = Findings()
        portion = Portion()
        found.on_found = portion.take
        with closing(UntrustingReader(self._paths.ledger_file)) as reader:
            self._read(reader, found, portion, first, last.position, stop)
        if portion.has_something:
            self._record(portion, last.position)
        if not stop.is_set():
            unreadable = [each.position for each in portion.unchecked if each.position is not None]
            self._unreadable |= dict.fromkeys(unreadable if portion.ranges else [first, *unreadable], now)
        return 0.0

    def _read(self, reader: UntrustingReader, found: Findings, portion: Portion, first: int, up_to: int, stop: threading.Event) -> None:
        pace = self._pace = self._pace or Pace(self._rate, burst_s=1.0, wait=stop.wait)

        def on_bytes(count: int) -> None:
            if stop.is_set():
                raise Stopped
            self._metrics.scrubbed_bytes.inc(count)
            pace.spend(count)

        archive = FixityReader(self._paths.archive_root, on_bytes)
        files = Files(reader, archive, found, wait=stop.wait, settle_s=SETTLE_S)
        until = later(rfc3339(self._clock()), PORTION_S)
        after = first - 1
        try:
            while after < up_to and not portion.is_full and not stop.is_set() and rfc3339(self._clock()) < until:
                some, end = reader.archived(after, up_to, 50)
                recent = self._recent(after, end)
                for file in (files.fact(entry) for entry in some):
                    if file is None:
                        continue
                    if stop.is_set() or portion.is_full or file.position in recent or file.position in self._unreadable:
                        return
                    self._one(files, file, portion)
                after = end
        except Stopped:
            return  # the unfinished file is not counted

    def _one(self, files: Files, file: BelievedFile, portion: Portion) -> None:
        counts = FileCounts()
        files.check(file, counts)
        portion.add(file.position, counts, alone=False)
        for outcome in ("intact", "damaged", "unchecked"):
            self._metrics.scrubbed_files.labels(outcome).inc(getattr(counts, outcome))

    def _recent(self, after: int, up_to: int) -> set[int]:
        since = later(rfc3339(self._clock()), -ROUND_S)
        return {row[0] for row in ask_files(self._paths.index_file, self._ledger, _RECENT, after, up_to, since) or []}

    def _record(self, portion: Portion, up_to: int) -> None:
        began = self._began or rfc3339(self._clock())
        complete = False
        if portion.ranges:
            first, last = portion.ranges[0][0], portion.ranges[-1][1]
            left = ask_files(self._paths.index_file, self._ledger, _LEFT, began, first, last, len(self._unreadable) + 1)
            complete = left is not None and all(row[0] in self._unreadable for row in left)
        scope = VerifiedScope(parts=["files"], selection="oldest", up_to=up_to, ranges=portion.ranges)
        with self._ledger.write() as tx:
            entry = tx.append(payload_of("scrub", began, scope, portion, complete=complete).entry())
        for each in portion.damaged:
            self._metrics.scrub_findings.labels(each.code).inc()
            logs.get().error("scrub.damaged", code=each.code, position=each.position, study_id=each.study_id)
        logs.get().info("scrub.portion", position=entry.position, files=portion.counts.files, bytes=portion.counts.bytes)
        if complete:
            self._began = None
            self._metrics.scrubbed.set(instant(entry.recorded_at).timestamp())

    def _remember(self) -> None:
        """Find the round that an earlier process began, to continue it."""
        newest = True
        for entry in self._ledger.of_no_study((Kind.VERIFIED.value,), 10_000):
            verified = readable(entry)
            if not isinstance(verified, VerifiedPayload) or verified.by != "scrub":
                continue
            if verified.complete:
                self._metrics.scrubbed.set(instant(entry.recorded_at).timestamp())
                return
            self._began = verified.began if newest else self._began
            newest = False
