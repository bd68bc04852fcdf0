"""The steps place, remove and notify as threads: of the service itself (`WORKERS=0`), or of a worker process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from typing_extensions import override

from storage_ledger.domain.reason import Reason
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.pipeline.worker_pool import WorkerPool
from storage_ledger.service.supervisor import Supervisor
from storage_ledger.service.threads import service_thread
from storage_ledger.system.metrics import Snapshot

LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Pools:
    """The worker pools of the three steps."""

    placing: WorkerPool[Any]
    removing: WorkerPool[Any]
    notifying: WorkerPool[Any]

    def hanging(self) -> dict[str, int]:
        """Return the number of hanging calls for each step that calls into volumes."""
        return {pool.policy.step: pool.hanging for pool in (self.placing, self.removing)}


@dataclass(frozen=True, slots=True)
class StepsReport:
    """How the steps are doing: see `Service.reasons`. `metrics`: of other processes."""

    hanging: dict[str, int] = field(default_factory=dict)
    outages: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    metrics: list[Snapshot] = field(default_factory=list)


class Steps(Protocol):
    """The three steps, wherever they run."""

    def threads(self, supervisor: Supervisor, stop: threading.Event, begin: threading.Event) -> list[threading.Thread]:
        """Return the threads that run the steps, not started. They end after `stop` is set and started work is recorded.

        No file is placed before `begin` is set.
        """
        ...

    def report(self, until: float) -> StepsReport:
        """Return how they are doing; answers before `until` (monotonic)."""
        ...


class StepsHere(Steps):
    """The steps as threads of this process. `mirror_now` returns once the last files placed are in the mirror, or after a few seconds."""

    def __init__(self, pools: Pools, wakeups: Wakeups, mirror_now: Callable[[], object]) -> None:
        self._pools = pools
        self._wakeups = wakeups
        self._mirror_now = mirror_now
        self._placed = threading.Event()

    @override
    def threads(self, supervisor: Supervisor, stop: threading.Event, begin: threading.Event) -> list[threading.Thread]:
        # The remover stops last, so that it also removes the uploads of the last files placed.
        pools = self._pools
        return [
            service_thread(supervisor, "place", lambda: self._place(stop, begin), stop, at_end=self._have_placed),
            service_thread(supervisor, "remove", lambda: pools.removing.run(self._placed), self._placed),
            service_thread(supervisor, "notify", lambda: pools.notifying.run(stop), stop),
        ]

    @override
    def report(self, until: float) -> StepsReport:
        return StepsReport(self._pools.hanging())

    def _place(self, stop: threading.Event, begin: threading.Event) -> None:
        wait_to_begin(begin, stop)
        self._pools.placing.run(stop)
        self._mirror_now()

    def _have_placed(self) -> None:
        self._placed.set()
        self._wakeups.of(Sleeper.REMOVE).set()


def wait_to_begin(begin: threading.Event, stop: threading.Event) -> None:
    """Return when one of them is set."""
    while not begin.wait(LOOK_EVERY_S) and not stop.is_set():
        pass
