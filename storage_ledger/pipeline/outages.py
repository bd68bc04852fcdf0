"""Shared causes (a full disk, an absent neighbour): one `failed` entry when one begins, one `recovered` when it ends.

A cause that comes and goes (small files fit on a nearly full volume, large ones don't) would fill the ledger with pairs of
these. So each time that it came back, it must have been gone for longer before it counts as ended.

An outage for which nothing waits any more is gone, too: what did wait is archived, quarantined or given up, and nothing will
try that step before the next file comes. After a restart that is how the end of one is seen that had no time to be recorded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from storage_ledger.domain.backoff import calm_s
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.contract import Ledger, Transaction
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

LOOK_EVERY_S = 1.0
REMEMBERED_S = 86_400.0
READY_AFTER_S = 30.0

WAITS = {"place": [Stage.PLACE], "remove": [Stage.REMOVE], "tell": [Stage.TELL, Stage.CONFIRM]}
"""What waits while a step fails. The mirror is tried all the time."""

Key = tuple[str, str]


@dataclass(slots=True)
class _Outage:
    """`positions`: of its `failed` (one, unless an earlier process forgot one). `well_since`: last met then; None while it is met."""

    positions: list[int]
    well_since: float | None = None


class Outages:
    """What goes on just now, by step and code; what the ledger tells of before this process counts."""

    def __init__(self, ledger: Ledger, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open: dict[Key, _Outage] = {}
        self._ended: dict[Key, list[float]] = {}
        for entry in ledger.open_outages():
            data = entry.data
            key = (str(data.get("step")), str(data.get("code")))
            self._open.setdefault(key, _Outage([])).positions.append(entry.position)
            self._metrics.outage.labels(*key).set(1)

    def current(self) -> list[Key]:
        """(step, code) of each that keeps us from being ready: met within the last half minute, or not seen to be over."""
        with self._lock:
            now = self._monotonic()
            return sorted(key for key, o in self._open.items() if o.well_since is None or now - o.well_since < READY_AFTER_S)

    def goes_on(self, step: str) -> bool:
        """Whether something of that step is met, and was not seen to work since."""
        with self._lock:
            return any(key[0] == step and outage.well_since is None for key, outage in self._open.items())

    def begin(self, tx: Transaction, step: str, code: str, *, detail: str, errno: int | None, attempt: int, retry_at: str) -> None:
        """It is met: append `failed`, unless it is going on already."""
        with self._lock:
            outage = self._open.get((step, code))
            if outage is not None:
                outage.well_since = None
                return
        payload = {
            "step": step,
            "code": code,
            "detail": detail,
            "errno": errno,
            "attempt": attempt,
            "retry_at": retry_at,
        }
        position = tx.append(NewEntry(Kind.FAILED, payload)).position

        def opened() -> None:
            with self._lock:
                self._open[step, code] = _Outage([position])
            self._metrics.outage.labels(step, code).set(1)
            logs.get().error("outage.begins", step=step, code=code, errno=errno)

        tx.on_commit(opened)

    def end(self, tx: Transaction, step: str) -> None:
        """The step works again. Appends `recovered` for what has been gone long enough; `run` sees to the rest."""
        with self._lock:
            now = self._monotonic()
            for key, outage in self._open.items():
                if key[0] == step and outage.well_since is None:
                    outage.well_since = now
        self._append_ended(tx)

    def run(self, stop: threading.Event) -> None:
        """Append `recovered` for what nobody has met for long enough, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Once."""
        try:
            self._let_go()
            if not self._due():
                return
            with self._ledger.write() as tx:
                self._append_ended(tx)
        except LedgerBusy as error:
            logs.get().warning("ledger.busy", thread="outages", code=error.code)

    def _let_go(self) -> None:
        """Of what nothing waits for."""
        with self._lock:
            steps = {step for (step, _), outage in self._open.items() if outage.well_since is None}
        idle = {
            step for step in steps & WAITS.keys() if not self._ledger.due(WAITS[step], limit=1) and not self._ledger.next_due(WAITS[step])
        }
        with self._lock:
            for (step, _), outage in self._open.items():
                if step in idle and outage.well_since is None:
                    outage.well_since = self._monotonic()

    def _due(self) -> dict[Key, list[int]]:
        with self._lock:
            now = self._monotonic()
            return {
                key: outage.positions
                for key, outage in self._open.items()
                if outage.well_since is not None and now - outage.well_since >= calm_s(self._ends_lately(key, now))
            }

    def _ends_lately(self, key: Key, now: float) -> int:
        lately = [at for at in self._ended.get(key, ()) if now - at < REMEMBERED_S]
        self._ended[key] = lately
        return len(lately)

    def _append_ended(self, tx: Transaction) -> None:
        over = self._due()
        for (step, code), positions in over.items():
            for position in positions:
                tx.append(NewEntry(Kind.RECOVERED, {"step": step, "code": code}, cause=position))

        def closed() -> None:
            with self._lock:
                for key in over:
                    del self._open[key]
                    self._ended.setdefault(key, []).append(self._monotonic())
            for step, code in over:
                self._metrics.outage.labels(step, code).set(0)
                logs.get().info("outage.ends", step=step, code=code)

        if over:
            tx.on_commit(closed)
