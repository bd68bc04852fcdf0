"""The running service: its named, supervised threads, and how they stop."""

from __future__ import annotations

import gc
import math
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from storage_ledger import __version__
from storage_ledger.archive.contract import Archive
from storage_ledger.domain.ids import instant
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.domain.reason import Reason
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerError
from storage_ledger.index.follower import Index
from storage_ledger.ledger.contract import Ledger, QueueLength
from storage_ledger.ledger.local_copy import LocalCopy
from storage_ledger.operations.clock_ahead import ahead
from storage_ledger.operations.heads.heads import Heads
from storage_ledger.operations.verify.scrub import Scrub
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.receive.intake import Intake
from storage_ledger.pipeline.receive.source import Source
from storage_ledger.pipeline.reconcile.sweep import Reconciler
from storage_ledger.pipeline.replicate import Replicator
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.service.checkpoint_signing import CheckpointSigning
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.service.metadata_sync import MetadataSync
from storage_ledger.service.steps import Steps
from storage_ledger.service.supervisor import Supervisor
from storage_ledger.service.threads import service_thread
from storage_ledger.system import cpu_affinity, logs
from storage_ledger.system.checks_with_timeout import Hangs, TimedCheck
from storage_ledger.system.http_server import WebServer
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.signals import signals_heard
from storage_ledger.system.sqlite import sqlite

STOP_WITHIN_S = 25.0
ANSWER_WITHIN_S = 1.5
"""A request for readiness or metrics is answered within this time; a check without a result is reported as hanging."""
WRITE_WITHIN_S = 1.0
"""If the ledger's write lock is not free within this time, another process holds it."""


@dataclass(slots=True)
class Parts:
    """What the service runs; wired in `storage_ledger.wiring.serve`."""

    ledger: Ledger
    archive: Archive
    uploads_root: Path
    archive_root: Path
    ledger_root: Path
    source: Source
    intake: Intake
    steps: Steps
    metadata_sync: MetadataSync
    replicator: Replicator
    reconciler: Reconciler
    scrub: Scrub
    checkpoints: CheckpointSigning
    heads: Heads | None
    copy: LocalCopy | None
    index: Index
    wakeups: Wakeups
    outages: Outages
    metrics: Metrics
    clock: Callable[[], datetime]
    clock_watch: ClockWatch


@dataclass(frozen=True, slots=True)
class _Figures:
    """The ledger's figures for the metrics."""

    queue: dict[Stage, QueueLength]
    position: int
    ahead_s: float
    backed_up: LastBackup | None
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class _Follower:
    """A thread that processes the entries that other threads append, and is stopped after them."""

    thread: threading.Thread
    stop: threading.Event
    wakeup: threading.Event


class Service:
    """Runs the parts until a signal arrives or the ledger becomes unusable. A part that fails is restarted."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._reading_ended = threading.Event()
        self._appended = threading.Event()
        self._mirror_done = threading.Event()
        self._supervisor = Supervisor(parts.metrics, on_unusable=self.stop)
        self._endings: queue.SimpleQueue[signal.Signals | None] = queue.SimpleQueue()
        self._checks: list[TimedCheck[list[Reason]]] = [
            TimedCheck("ledger", self._check_ledger),
            TimedCheck("archive", lambda: [trouble] if (trouble := parts.archive.trouble()) else []),
            TimedCheck("uploads", self._check_uploads),
        ]
        self._figures = TimedCheck("ledger's figures", self._look_up_figures)
        self._space = [
            TimedCheck(name, partial(_free_and_total_bytes, path))
            for name, path in (("uploads", parts.uploads_root), ("archive", parts.archive_root), ("ledger", parts.ledger_root))
        ]

    def stop(self) -> None:
        """Start no new work, and end once the current work is finished."""
        self._stop.set()
        self._parts.wakeups.ring_all()
        self._endings.put(None)

    def run(self, web: WebServer) -> int:
        """Run until stopped; return 0, or 2 on failure. Handles SIGTERM and SIGINT: call it in the main thread."""
        with signals_heard((signal.SIGTERM, signal.SIGINT), self._endings.put):
            return self._run(web)

    def _run(self, web: WebServer) -> int:
        parts = self._parts
        parts.metrics.info.labels(__version__, sqlite.sqlite_version).set(1)
        gc.freeze()  # these objects live as long as the process; scanning them repeatedly took 7% of all CPU time
        last = parts.ledger.last()  # an error here ends the process before any thread starts
        web.start(self._in_web_thread)
        source, heads = parts.source, parts.heads
        threads = [
            self._thread("intake", lambda: parts.intake.run(self._stop, self._reading_ended), at_end=parts.intake.close),
            *parts.steps.threads(self._supervisor, self._stop, parts.metadata_sync.recovered),
            self._thread("reconcile", lambda: parts.reconciler.run(self._stop)),
            self._thread("outages", lambda: parts.outages.run(self._stop)),
            self._thread("clock", lambda: parts.clock_watch.run(self._stop)),
            self._thread("scrub", lambda: parts.scrub.run(self._stop)),
            self._thread("checkpoints", lambda: parts.checkpoints.run(self._stop)),
            *([] if heads is None else [self._thread("heads", lambda: heads.run(self._stop))]),
            self._thread("source", lambda: source.run(parts.intake.deliver, self._stop), at_end=self._reading_ended.set),
        ]
        mirrors, copies, indexes = (parts.wakeups.of(each) for each in (Sleeper.REPLICATE, Sleeper.COPY, Sleeper.INDEX))
        synced, copied, copy = threading.Event(), threading.Event(), parts.copy
        followers = [  # in the order in which they stop: the mirror may append a `recovered` entry, and the index follows it
            _Follower(self._thread("metadata", lambda: parts.metadata_sync.run(synced), synced), synced, threading.Event()),
            _Follower(self._thread("mirror", lambda: parts.replicator.run(self._appended), self._appended), self._appended, mirrors),
            *([] if copy is None else [_Follower(self._thread("copy", lambda: copy.run(copied, copies), copied), copied, copies)]),
            _Follower(
                self._thread("index", lambda: parts.index.run(self._mirror_done, indexes), self._mirror_done), self._mirror_done, indexes
            ),
        ]
        position = last.position if last else 0
        failed = self._watch([*(each.thread for each in followers), *threads], port=web.port, position=position)
        return self._wind_down(threads, followers, web, failed=failed)

    def _watch(self, threads: list[threading.Thread], **started: int) -> bool:
        """Start the threads and wait for a signal or `stop`. Returns True if that failed."""
        try:
            for thread in threads:
                thread.start()
            logs.get().info("service.started", sqlite=sqlite.sqlite_version, version=__version__, **started)
            if (received := self._endings.get()) is not None:
                logs.get().info("service.stopping", signal=received.name)
        except BaseException as error:  # noqa: BLE001 - recorded, and the process ends with 2
            logs.get().critical("thread.died", thread="main", error_type=type(error).__name__, frames_at=logs.where(error))
            return True
        finally:
            self.stop()
        return False

    def reasons(self) -> list[Reason]:
        """Return why the service is not ready; empty if it is ready. Answers within two seconds, even if a check hangs."""
        parts = self._parts
        until = time.monotonic() + ANSWER_WITHIN_S
        for check in self._checks:
            check.begin()
        found: list[Reason] = [
            Reason("internal-error", f"thread {name} failed and was restarted: see `thread.failed` in the log")
            for name in self._supervisor.failing()
        ]
        if not parts.source.subscribed:
            why = parts.source.trouble or "not connected yet"
            found.append(Reason("redis-not-subscribed", f"not receiving from Redis: {why}"))
        if parts.intake.trouble is not None:
            found.append(Reason(parts.intake.trouble, "messages cannot be recorded"))
        if parts.index.trouble is not None:
            found.append(Reason("index-failing", f"index.db cannot be written or rebuilt ({parts.index.trouble}); archiving continues"))
        if parts.copy is not None and parts.copy.trouble is not None:
            found.append(Reason(parts.copy.trouble.code, f"the local copy of the ledger does not follow: {parts.copy.trouble.detail}"))
        if parts.checkpoints.trouble is not None:
            found.append(parts.checkpoints.trouble)
        if parts.heads is not None:
            found += parts.heads.reasons()
        for check in self._checks:
            found += _checked(check, until)
        if not parts.metadata_sync.recovered.is_set():
            found.append(Reason("metadata-unchecked", "each metadata.json written before the last start is compared with the ledger"))
        report = parts.steps.report(until)
        steps: dict[str, list[str]] = {}
        for step, code in sorted({*parts.outages.current(), *report.outages}):
            steps.setdefault(code, []).append(step)
        found += [Reason(code, f"step {' and '.join(each)}") for code, each in steps.items()]
        found += report.reasons
        found += [
            Reason("hangs", f"{calls} calls of step {step} have not returned for minutes")
            for step, calls in report.hanging.items()
            if calls
        ]
        return list(dict.fromkeys(found))

    def _check_ledger(self) -> list[Reason]:
        ledger = self._parts.ledger
        try:
            with ledger.write(within_s=WRITE_WITHIN_S):
                pass
            found = ahead(ledger, self._parts.clock())
        except LedgerError as error:
            return [Reason(error.code, error.detail)]
        return [] if found is None else [Reason("clock-ahead", found.detail)]

    def _check_uploads(self) -> list[Reason]:
        if self._parts.uploads_root.is_dir():
            return []
        return [Reason("uploads-missing", "UPLOADS_PATH does not exist: is the volume mounted?")]

    def render_metrics(self) -> bytes:
        """Update and return the metrics. Answers within two seconds: a figure whose check hangs keeps its last value.

        The free and total bytes of a volume that hangs are NaN.
        """
        parts, metrics = self._parts, self._parts.metrics
        until = time.monotonic() + ANSWER_WITHIN_S
        self._figures.begin()
        for volume in self._space:
            volume.begin()
        report = parts.steps.report(until)
        for step, calls in report.hanging.items():
            metrics.hanging.labels(step).set(calls)
        metrics.index_position.set(parts.index.position)
        metrics.index_failing.set(parts.index.trouble is not None)
        metrics.damaged_entries.set(parts.index.damaged)
        try:
            self._set_figures(self._figures.result(until))
        except (Hangs, LedgerError):
            pass
        except Exception as error:  # noqa: BLE001 - one missing figure must not hide the others
            logs.get().error("metrics.failed", error_type=type(error).__name__, frames_at=logs.where(error))
        for volume in self._space:
            try:
                free, total = volume.result(until)
            except Hangs:
                free = total = math.nan
            metrics.free_bytes.labels(volume.name).set(free)
            metrics.total_bytes.labels(volume.name).set(total)
        return metrics.render(report.metrics)

    def _look_up_figures(self) -> _Figures:
        ledger = self._parts.ledger
        last = ledger.last()
        found = ahead(ledger, self._parts.clock())
        queue = {length.stage: length for length in ledger.queue()}
        ahead_s = 0.0 if found is None else found.seconds
        return _Figures(queue, last.position if last else 0, ahead_s, ledger.last_backup(), _wal_bytes(self._parts.ledger_root))

    def _set_figures(self, figures: _Figures) -> None:
        metrics = self._parts.metrics
        for stage in Stage:
            length = figures.queue.get(stage)
            metrics.pending.labels(stage.value).set(length.rows if length else 0)
            age_s = (self._parts.clock() - instant(length.oldest)).total_seconds() if length else 0.0
            metrics.oldest_pending.labels(stage.value).set(max(0.0, age_s))
        metrics.position.set(figures.position)
        metrics.clock_ahead.set(figures.ahead_s)
        metrics.backed_up.set(0 if figures.backed_up is None else instant(figures.backed_up.created).timestamp())
        metrics.wal_bytes.set(figures.wal_bytes)

    def _thread(
        self, name: str, job: Callable[[], None], stop: threading.Event | None = None, *, at_end: Callable[[], None] = lambda: None
    ) -> threading.Thread:
        """Return a thread for `job`, which ends after `stop` is set (default: the service's own event)."""
        return service_thread(self._supervisor, name, job, stop or self._stop, at_end=at_end)

    def _in_web_thread(self, job: Callable[[], None]) -> None:
        cpu_affinity.share_one()
        self._supervisor.run("web", job, self._stop)

    def _wind_down(self, threads: list[threading.Thread], followers: list[_Follower], web: WebServer, *, failed: bool) -> int:
        """Wait for the threads, which are stopping, then stop the followers one after the other. Returns the exit code."""
        deadline = time.monotonic() + STOP_WITHIN_S
        for thread in threads:
            _join(thread, deadline)
        for follower in followers:
            follower.stop.set()
            follower.wakeup.set()
            _join(follower.thread, deadline)
        stuck = [thread.name for thread in (*threads, *(each.thread for each in followers)) if thread.is_alive()]
        code = 2 if failed else self._supervisor.exit_code
        if stuck:
            # A hanging file blocks its thread for ever. Everything recorded is durable; the rest is still pending.
            logs.get().error("service.stuck", thread=",".join(stuck), exit_code=code)
            os._exit(code)
        web.stop()
        self._parts.index.close()
        if self._parts.copy is not None:
            self._parts.copy.close()
        self._parts.ledger.close()
        logs.get().info("service.stopped", exit_code=code)
        return code


def _join(thread: threading.Thread, deadline: float) -> None:
    if thread.ident is not None:  # None: it was never started
        thread.join(max(0.0, deadline - time.monotonic()))


def _checked(check: TimedCheck[list[Reason]], until: float) -> list[Reason]:
    try:
        return check.result(until)
    except Hangs as hangs:
        return [Reason("hangs", f"the check of {check.name} has not returned for {hangs.after_s:.0f} s")]
    except Exception as error:  # noqa: BLE001 - reported in the answer
        logs.get().error("check.failed", reason=check.name, error_type=type(error).__name__, frames_at=logs.where(error))
        return [Reason("internal-error", f"the check of {check.name} failed: see `check.failed` in the log")]


def _wal_bytes(folder: Path) -> int:
    try:
        return (folder / "ledger.db-wal").stat().st_size
    except OSError:
        return 0  # a rollback journal, or no ledger yet


def _free_and_total_bytes(path: Path) -> tuple[float, float]:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return math.nan, math.nan
    return float(usage.free), float(usage.total)
