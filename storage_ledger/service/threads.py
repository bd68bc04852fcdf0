"""The named threads of the service and of its worker processes: supervised, and all on one processor."""

from __future__ import annotations

import threading
from collections.abc import Callable

from storage_ledger.service.supervisor import Supervisor
from storage_ledger.system import cpu_affinity


def service_thread(
    supervisor: Supervisor, name: str, job: Callable[[], None], stop: threading.Event, *, at_end: Callable[[], None] = lambda: None
) -> threading.Thread:
    """Return a thread for `job`, not started, which ends after `stop` is set; see `Supervisor.run`."""

    def run() -> None:
        cpu_affinity.share_one()
        supervisor.run(name, job, stop, at_end=at_end)

    return threading.Thread(target=run, name=name, daemon=True)
