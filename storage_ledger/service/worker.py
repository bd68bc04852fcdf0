"""A worker process: place, remove and notify for its share of the studies, as threads; the service tells it when to look and stop.

It shares nothing with the others but the ledger and the volumes. It ends when the service does, however that ended.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage_ledger.ledger.contract import Ledger
from storage_ledger.pipeline.failures import Outages
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.service.channel import Channel
from storage_ledger.service.clock_watch import ClockWatch
from storage_ledger.service.steps import Pools, StepsHere
from storage_ledger.service.supervisor import Supervisor
from storage_ledger.service.threads import service_thread
from storage_ledger.system import logs
from storage_ledger.system.files import FolderId
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.signals import signals_heard

STEPS = frozenset({Sleeper.PLACE, Sleeper.REMOVE, Sleeper.NOTIFY})
"""The sleepers that are in the worker processes; all others are in the service's."""
MIRRORED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What a worker process runs; wired in `storage_ledger.wiring.worker`. `recognise`: gets the folder that is the archive."""

    ledger: Ledger
    pools: Pools
    wakeups: Wakeups
    outages: Outages
    metrics: Metrics
    clock_watch: ClockWatch
    recognise: Callable[[FolderId], None]
    known: Known


@dataclass(slots=True)
class Known:
    """What the service has reported. `mirrored`: the mirror's last position."""

    mirrored: int = 0


class Worker:
    """Runs the parts until the service says stop or ends."""

    def __init__(self, parts: WorkerParts, service: Channel) -> None:
        self._parts = parts
        self._service = service
        self._stop = threading.Event()
        self._supervisor = Supervisor(parts.metrics, on_unusable=self._end)
        self._begin = threading.Event()
        self._begin.set()  # otherwise the service would not have started this process
        self._steps = StepsHere(parts.pools, parts.wakeups, self._mirror_now)
        parts.wakeups.pass_on(frozenset(Sleeper) - STEPS, self._wake)

    def run(self) -> int:
        """Run until stopped; return 0, or 2 if the ledger is unusable. Handles SIGTERM: call it in the main thread."""
        with signals_heard((signal.SIGTERM,), self._on_signal):
            return self._run()

    def _run(self) -> int:
        parts = self._parts
        gc.freeze()  # as the service does
        threads = [
            *self._steps.threads(self._supervisor, self._stop, self._begin),
            service_thread(self._supervisor, "outages", lambda: parts.outages.run(self._stop), self._stop),
            service_thread(self._supervisor, "clock", lambda: parts.clock_watch.run(self._stop), self._stop),
        ]
        threading.Thread(target=self._listen, name="channel", daemon=True).start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._report()
        parts.ledger.close()
        return self._supervisor.exit_code

    def _listen(self) -> None:
        for message in self._service.received():
            self._heed(message)
        os._exit(1)  # the service has ended: all that is recorded is durable, and the next one takes up the rest

    def _heed(self, message: dict[str, Any]) -> None:
        if root := message.get("archive"):
            self._parts.recognise(FolderId(*root))
        self._parts.known.mirrored = max(self._parts.known.mirrored, message["mirrored"])
        self._parts.wakeups.wake({Sleeper[name] for name in message.get("wake", ())})
        if message.get("stop"):
            self._end()
        if message.get("report"):
            self._report()

    def _wake(self, sleepers: frozenset[Sleeper]) -> None:
        self._service.send({"wake": [sleeper.name for sleeper in sleepers]})

    def _report(self) -> None:
        parts = self._parts
        self._service.send(
            {
                "unusable": self._supervisor.unusable,
                "failing": self._supervisor.failing(),
                "hanging": parts.pools.hanging(),
                "outages": parts.outages.current(),
                "metrics": parts.metrics.snapshot(),
            }
        )

    def _mirror_now(self) -> None:
        """Wait until the last entry is in the mirror; the service mirrors without being asked."""
        last = self._parts.ledger.last()
        until = time.monotonic() + MIRRORED_WITHIN_S
        removes = self._parts.wakeups.of(Sleeper.REMOVE)
        while last is not None and self._parts.known.mirrored < last.position and time.monotonic() < until:
            removes.wait(0.1)
            removes.clear()

    def _end(self) -> None:
        self._stop.set()
        self._parts.wakeups.wake(STEPS)

    def _on_signal(self, number: signal.Signals) -> None:
        logs.get().info("worker.stopping", signal=number.name)
        self._end()
