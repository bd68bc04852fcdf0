"""The running service: a few named threads, one way to stop, and never half-alive."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from storage_ledger import __version__, logs, processors
from storage_ledger.archive.contract import Archive
from storage_ledger.clock import ClockWatch
from storage_ledger.core.ids import instant
from storage_ledger.core.plan import Stage
from storage_ledger.errors import LedgerError, StorageLedgerError
from storage_ledger.index.sqlite import Index
from storage_ledger.intake import Intake
from storage_ledger.lane import Lane
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.engine import sqlite
from storage_ledger.metrics import Metrics
from storage_ledger.mirroring import Mirroring
from storage_ledger.notifier import Notifier
from storage_ledger.outages import Outages
from storage_ledger.projector import Projector
from storage_ledger.reconcile import Reconciler
from storage_ledger.remover import Remover
from storage_ledger.sources.contract import Source
from storage_ledger.verify.scrub import Scrub
from storage_ledger.web import WebServer

STOP_WITHIN_S = 25.0
SIGNALS_EVERY_S = 0.25


@dataclass(slots=True)
class Parts:
    """What the service runs; wired in `app`."""

    ledger: Ledger
    archive: Archive
    uploads_root: Path
    archive_root: Path
    ledger_root: Path
    source: Source
    intake: Intake
    projector: Projector
    remover: Remover
    notifier: Notifier
    mirroring: Mirroring
    reconciler: Reconciler
    scrub: Scrub
    index: Index
    index_bell: threading.Event
    outages: Outages
    metrics: Metrics
    clock: Callable[[], datetime]
    clock_watch: ClockWatch


class Service:
    """Runs the parts until a signal, or until one of them fails: then the whole process ends, and says why."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._reading_ended = threading.Event()
        self._placed = threading.Event()
        self._appended = threading.Event()
        self._mirrored = threading.Event()
        self._failed: tuple[str, BaseException] | None = None
        self._signal: signal.Signals | None = None

    def stop(self) -> None:
        """Finish what was begun, begin nothing more."""
        self._stop.set()
        parts = self._parts
        for lane in (*self._lanes(), parts.notifier.lane):
            lane.wake()
        parts.reconciler.ring()
        parts.index_bell.set()

    def run(self, web: WebServer) -> int:
        """Until stopped; 0, or 2 when a thread failed. Installs handlers for SIGTERM and SIGINT: call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        parts = self._parts
        parts.metrics.info.labels(__version__, sqlite.sqlite_version).set(1)
        gc.freeze()  # what is there by now stays: walking through it would be a fourteenth of all work
        last = parts.ledger.last()  # what fails here ends the process before anything has begun
        web.start(lambda job: self._in_thread("web", job))
        jobs: dict[str, Callable[[], None]] = {
            "intake": lambda: parts.intake.run(self._stop, self._reading_ended),
            "place": self._place,
            "remove": lambda: parts.remover.lane.run(self._placed),
            "mirror": lambda: parts.mirroring.run(self._appended),
            "notify": lambda: parts.notifier.lane.run(self._stop),
            "reconcile": lambda: parts.reconciler.run(self._stop),
            "outages": lambda: parts.outages.run(self._stop),
            "clock": lambda: parts.clock_watch.run(self._stop),
            "scrub": lambda: parts.scrub.run(self._stop),
            "index": lambda: parts.index.run(self._mirrored, parts.index_bell),
            "source": self._read_source,
        }
        threads = [threading.Thread(target=self._in_thread, args=(name, job), name=name, daemon=True) for name, job in jobs.items()]
        position = last.position if last else 0
        self._guarded("main", lambda: self._watch(threads, port=web.port, position=position))
        return self._wind_down([thread for thread in threads if thread.ident is not None], web)

    def _watch(self, threads: list[threading.Thread], **started: int) -> None:
        """Start them, and wait for a signal, or for one of them to fail."""
        for thread in threads:
            thread.start()
        logs.get().info("service.started", sqlite=sqlite.sqlite_version, version=__version__, **started)
        while self._signal is None and not self._stop.wait(SIGNALS_EVERY_S):
            pass
        if self._signal is not None:
            logs.get().info("service.stopping", signal=self._signal.name)
        self.stop()

    def reasons(self) -> list[dict[str, str]]:
        """Why the service is not ready; empty when it is. May block for as long as a file system does."""
        parts = self._parts
        found: list[tuple[str, str]] = []
        if not parts.source.subscribed:
            why = parts.source.trouble or "not asked yet"
            found.append(("redis-not-subscribed", f"nothing is heard from Redis: {why}"))
        if parts.intake.trouble is not None:
            found.append((parts.intake.trouble, "what arrives cannot be recorded"))
        try:
            with parts.ledger.write():
                pass
        except LedgerError as error:
            found.append((error.code, error.detail))
        trouble = parts.archive.trouble()
        if trouble is not None:
            found.append(trouble)
        if not parts.uploads_root.is_dir():
            found.append(("uploads-missing", "UPLOADS_PATH is not there: is the volume mounted?"))
        found += [(code, f"going on at step {step}") for step, code in parts.outages.current()]
        found += [
            ("hangs", f"{lane.hanging} calls of step {lane.name} have not come back for minutes") for lane in self._lanes() if lane.hanging
        ]
        return [{"code": code, "detail": detail} for code, detail in dict(found).items()]

    def render_metrics(self) -> bytes:
        """The metrics, with those that are looked up now."""
        parts, metrics = self._parts, self._parts.metrics
        queue = {length.stage: length for length in parts.ledger.queue()}
        for stage in Stage:
            length = queue.get(stage)
            metrics.pending.labels(stage.value).set(length.rows if length else 0)
            age_s = (parts.clock() - instant(length.oldest)).total_seconds() if length else 0.0
            metrics.oldest_pending.labels(stage.value).set(max(0.0, age_s))
        for lane in self._lanes():
            metrics.hanging.labels(lane.name).set(lane.hanging)
        last = parts.ledger.last()
        metrics.position.set(last.position if last else 0)
        metrics.index_position.set(parts.index.position)
        metrics.damaged_entries.set(parts.index.damaged)
        for volume, path in (
            ("uploads", parts.uploads_root),
            ("archive", parts.archive_root),
            ("ledger", parts.ledger_root),
        ):
            try:
                metrics.free_bytes.labels(volume).set(shutil.disk_usage(path).free)
            except OSError:
                metrics.free_bytes.labels(volume).set(float("nan"))
        return metrics.render()

    def _lanes(self) -> tuple[Lane[Any], ...]:
        """Those that call into volumes, where a call may hang."""
        return self._parts.projector.lane, self._parts.remover.lane

    def _read_source(self) -> None:
        try:
            self._parts.source.run(self._parts.intake.deliver, self._stop)
        finally:
            self._reading_ended.set()

    def _place(self) -> None:
        try:
            self._parts.projector.lane.run(self._stop)
            self._parts.mirroring.follow()
        finally:
            self._placed.set()  # now the uploads of what it placed last are removed as well
            self._parts.remover.lane.wake()

    def _in_thread(self, name: str, job: Callable[[], None]) -> None:
        processors.share_one()
        self._guarded(name, job)

    def _guarded(self, name: str, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - recorded, and the process ends with 2
            self._failed = self._failed or (name, error)
            code = error.code if isinstance(error, StorageLedgerError) else "internal-error"
            logs.get().critical("thread.died", thread=name, code=code, error_type=type(error).__name__, frames_at=logs.where(error))
            self.stop()
        else:
            if not self._stop.is_set():  # none of them ends before it is told to
                self._failed = self._failed or (name, RuntimeError("ended by itself"))
                logs.get().critical("thread.ended", thread=name)
                self.stop()

    def _wind_down(self, threads: list[threading.Thread], web: WebServer) -> int:
        deadline = time.monotonic() + STOP_WITHIN_S
        last = {"mirror": 1, "index": 2}  # they follow what the others append, and the mirror may append that it works again
        for thread in sorted(threads, key=lambda thread: last.get(thread.name, 0)):
            if thread.name == "mirror":
                self._appended.set()
                self._parts.mirroring.wake()
            elif thread.name == "index":
                self._mirrored.set()
                self._parts.index_bell.set()
            thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [thread.name for thread in threads if thread.is_alive()]
        code = 2 if self._failed else 0
        if stuck:
            # A file that hangs holds its thread for ever; all that was recorded is durable, the rest is still pending.
            logs.get().error("service.stuck", thread=",".join(stuck), exit_code=code)
            os._exit(code)
        web.stop()
        self._parts.index.close()
        self._parts.ledger.close()
        logs.get().info("service.stopped", exit_code=code)
        return code

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Nothing else: it runs in the middle of whatever the main thread does, which may hold the lock that a call would want.
        self._signal = signal.Signals(number)
