"""Asks `serve` every few seconds how it is, in a thread of its own: no page waits for the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from storage_ledger.operations.report.service_answer import ServiceAnswer, ask
from storage_ledger.web.pages.service_state import ServiceState

EVERY_S = 5.0
WITHIN_S = 3.0
"""Longer than the two seconds in which `serve` answers."""

VALID_S = 30.0
"""How long an answer counts: a server that answers byte by byte could keep the thread waiting for ever."""


class ServiceWatch:
    """The last answer of the `serve` at `url`; with None nobody is asked. The thread starts at once and ends with `close`."""

    def __init__(self, url: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._latest: tuple[float, ServiceAnswer | None] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service-watch", daemon=True)
        if url is not None:
            self._thread.start()

    def state(self, *, serving: bool) -> ServiceState:
        """Return the state of the service, as of its last answer. `serving`: whether its lock is held."""
        latest = self._latest
        if latest is None:
            return ServiceState(serving, asked=False, answer=None)
        at, answer = latest
        return ServiceState(serving, asked=True, answer=answer if self._clock() - at < VALID_S else None)

    def close(self) -> None:
        """End the thread; one that waits for an answer ends with the process."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            answer = ask(self._url or "", WITHIN_S)
            self._latest = self._clock(), answer
            self._stop.wait(EVERY_S)
