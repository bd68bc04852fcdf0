"""Reconciliation: files in uploads without a pending message, because pub/sub lost it or because an upload was left over.

A pass walks through uploads at a gentle pace and judges each file (`verdict`). It changes no file. It only starts what the pipeline
does anyway: a lost message becomes `described` with the source `reconcile`, and a leftover gets another work item for its removal.
The steps place and remove check the real bytes again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import assert_never

from storage_ledger.archive.uploads import FoundUpload, Uploads
from storage_ledger.domain.entries import Entry
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, Retryable
from storage_ledger.ledger.contract import Ledger
from storage_ledger.pipeline.reconcile.verdict import Judge, Leftover, Missed, Other, Unexplained, age_s
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

AT_ONCE = 500
"""Files per batch. After each batch, the pass rests for as long as the batch took."""

BYTES_AT_ONCE = 1 << 30
"""Bytes of possible leftovers that are read before the pass rests. A larger file is still read to its end."""

MESSAGES_AT_ONCE = 2 << 20
"""Most bytes of messages in one commit."""

FRUITLESS_REQUESTS = 1000
"""After this many requests that explained nothing, the pass ends and the next one continues from there, so that a folder full of
unknown files does not keep the Status Service busy."""

LISTED = 1000
REST_S = 1.0
START_S = 2.0
"""A source usually subscribes within this time after the start, so that one pass covers both."""

SECOND_LOOK_S = 2.0
"""Time between two checks of a file that is old only by its modification time: a writer would change it in between."""


@dataclass(slots=True)
class Sweep:
    """The result so far, in numbers of files. `files`: the first `LISTED` unexplained ones.

    `young`: within the grace period. `changing`, `held` and `unasked`: see `verdict.Other`. `complete`: the pass reached the end of
    uploads. `trouble`: code of what prevented judging all files.
    """

    looked_at: int = 0
    young: int = 0
    changing: int = 0
    held: int = 0
    described: int = 0
    leftovers: int = 0
    unasked: int = 0
    unexplained: int = 0
    files: list[Unexplained] = field(default_factory=list)
    complete: bool = False
    trouble: str | None = None
    detail: str = ""


class Reconciler:
    """`sweep` does one pass through uploads; `run` repeats it. Several may work on one ledger at the same time.

    With `dry_run`, nothing is appended. `wakeup` is set when messages may have been missed, or to stop.
    """

    def __init__(
        self,
        ledger: Ledger,
        uploads: Uploads,
        client: StatusClient,
        *,
        metrics: Metrics,
        clock: Callable[[], datetime],
        grace_s: float,
        every_s: float = 0.0,
        second_look_s: float = SECOND_LOOK_S,
        wakeup: threading.Event,
        dry_run: bool = False,
    ) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._metrics = metrics
        self._clock = clock
        self._grace_s = grace_s
        self._every_s = every_s
        self._second_look_s = second_look_s
        self._judge = Judge(ledger, uploads, client, clock)
        self._wakeup = wakeup
        self._dry_run = dry_run
        self._walk: Generator[FoundUpload] | None = None
        self._done = Sweep()

    def run(self, stop: threading.Event) -> None:
        """Do a pass at the start, at each wake-up and every `every_s` seconds, until `stop` is set. With `every_s` 0, never.

        The first pass waits at most `START_S` for the first wake-up.
        A file whose message was missed existed before the wake-up but may still be within the grace period, so another pass
        follows after it.
        """
        if self._every_s == 0:
            stop.wait()
            return
        self._wakeup.wait(START_S)
        self._wakeup.set()
        timed = after_grace = time.monotonic()
        while True:
            self._wakeup.wait(max(0.0, min(timed, after_grace) - time.monotonic()))
            if stop.is_set():
                break
            now = time.monotonic()
            if self._wakeup.is_set():
                self._wakeup.clear()
                after_grace = now + self._grace_s + SECOND_LOOK_S
            elif now >= after_grace:
                after_grace = math.inf
            timed = now + self._every_s
            self.sweep(stop)
            stop.wait(REST_S)
        self._end_walk()

    def sweep(
        self, stop: threading.Event, *, most_fruitless: float = FRUITLESS_REQUESTS, on_progress: Callable[[Sweep], None] = lambda _: None
    ) -> Sweep:
        """Do one pass through uploads, or continue where the last one ended after `most_fruitless` requests that explained nothing.

        What it started (`described`, `leftovers`) is durable on return. An unreachable service or volume, or a ledger that cannot
        be written, is reported as `trouble`. Raises only `LedgerUnusable`.
        """
        if self._walk is None:
            self._walk, self._done = self._uploads.walk(), Sweep()
        done = self._done
        self._judge.begin()
        try:
            self._go_through(self._walk, done, stop, most_fruitless, on_progress)
        except (Retryable, LedgerBusy) as error:
            done.trouble, done.detail = error.code, error.detail
        if done.trouble is None and done.unasked:
            done.trouble, done.detail = "status-service-away", f"{done.unasked} files could not be asked about"
        if done.complete or done.trouble:
            self._end_walk()
        self._report(done, stop)
        return done

    def _go_through(
        self, walk: Generator[FoundUpload], done: Sweep, stop: threading.Event, most_fruitless: float, on_progress: Callable[[Sweep], None]
    ) -> None:
        ripe: deque[FoundUpload] = deque()
        while not stop.is_set():
            began = time.monotonic()
            if not ripe:
                if self._judge.fruitless >= most_fruitless:
                    return
                found = list(islice(walk, AT_ONCE))
                if not found:
                    done.complete = True
                    return
                ripe.extend(self._ripe(found, done, stop))
            self._judge_some(ripe, done, stop)
            on_progress(done)
            stop.wait(min(REST_S, time.monotonic() - began))

    def _ripe(self, found: list[FoundUpload], done: Sweep, stop: threading.Event) -> list[FoundUpload]:
        """Return the files older than the grace period; each is checked once more when it is judged.

        Nobody can set the kernel's change time (`ctime`). If it is old too, nothing was written in that time. If it is not (a copy that
        kept the original's time), only a second check shows whether somebody is still writing.
        """
        now_s = self._clock().timestamp()
        ripe = [each for each in found if each.identity is None or age_s(each.identity, now_s) >= self._grace_s]
        done.looked_at += len(found)
        done.young += len(found) - len(ripe)
        quiet_s = max(self._grace_s, self._second_look_s)
        if any(each.identity is not None and not quiet_s <= now_s - each.identity.changed_ns / 1e9 for each in ripe):
            stop.wait(self._second_look_s)
        return ripe

    def _judge_some(self, ripe: deque[FoundUpload], done: Sweep, stop: threading.Event) -> None:
        """Judge a commit's worth of files, and commit."""
        size = self._judge.bytes_read = 0
        handed_over: list[Missed | Leftover] = []
        while ripe and size < MESSAGES_AT_ONCE and self._judge.bytes_read < BYTES_AT_ONCE and not stop.is_set():
            match verdict := self._judge.verdict(ripe.popleft()):
                case Missed():
                    size += verdict.size
                    handed_over.append(verdict)
                case Leftover():
                    handed_over.append(verdict)
                case Unexplained():
                    done.unexplained += 1
                    if len(done.files) < LISTED:
                        done.files.append(verdict)
                case Other.HELD:
                    done.held += 1
                case Other.CHANGING:
                    done.changing += 1
                case Other.UNASKED:
                    done.unasked += 1
                case _:
                    assert_never(verdict)
        if handed_over:
            self._hand_over(handed_over, done)

    def _hand_over(self, verdicts: list[Missed | Leftover], done: Sweep) -> None:
        """Commit once. Whatever another process recorded about an upload since it was judged takes precedence. A dry run only counts."""
        if self._dry_run:
            done.leftovers += sum(isinstance(verdict, Leftover) for verdict in verdicts)
            done.described += sum(isinstance(verdict, Missed) for verdict in verdicts)
            return
        described: list[Entry] = []
        leftovers = held = 0
        with self._ledger.write() as tx:
            for verdict in verdicts:
                if not tx.is_settled(verdict.path, verdict.last):
                    held += 1
                elif isinstance(verdict, Leftover):
                    tx.add_work_item(verdict.position, Stage.REMOVE)
                    leftovers += 1
                elif verdict.new and tx.knows_study(verdict.study_id):
                    held += 1
                else:
                    described.append(tx.append(verdict.payload.entry(verdict.study_id)))
        done.described += len(described)
        done.leftovers += leftovers
        done.held += held
        self._metrics.reconciled.labels("described").inc(len(described))
        self._metrics.reconciled.labels("leftover").inc(leftovers)
        for entry in described:
            logs.get().warning("reconcile.described", study_id=entry.study_id, position=entry.position)
        if leftovers:
            logs.get().info("reconcile.leftovers", count=leftovers)

    def _report(self, done: Sweep, stop: threading.Event) -> None:
        if done.trouble is not None:
            logs.get().warning("reconcile.stopped-short", code=done.trouble, files=done.looked_at, pending=done.unasked)
            self._metrics.sweeps.labels(done.trouble).inc()
        elif done.complete:
            if done.unexplained:
                logs.get().warning("reconcile.unexplained", count=done.unexplained, files=done.looked_at)
            self._metrics.sweeps.labels("complete").inc()
            self._metrics.unexplained.set(done.unexplained)
            self._metrics.swept.set(self._clock().timestamp())
        elif not stop.is_set():
            self._metrics.sweeps.labels("to-be-continued").inc()

    def _end_walk(self) -> None:
        if self._walk is not None:
            self._walk.close()
            self._walk = None
