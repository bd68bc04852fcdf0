"""One lane of the work queue: claim what is due, work on it in a few threads, record the outcomes in groups."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from storage_ledger import logs
from storage_ledger.core.ids import instant
from storage_ledger.core.plan import Stage
from storage_ledger.core.retry import backoff_s
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.contract import Duty, Ledger

Outcome = TypeVar("Outcome")
AHEAD = 4  # studies that are claimed for each worker
GATHER_S = 0.01
CALM_S = 60.0  # so long without a shared cause, and the pauses begin small again
LOOK_EVERY_S = 1.0  # another process may append; nobody tells us


class Lane(Generic[Outcome]):
    """Duties of some stages. One study is in at most one pair of hands, and its duties go in order.

    `work` gets the due duties of one study (with `by_study=False`: of all) and returns an outcome; `record` gets the
    outcomes that are there, and commits them together: the slower the disk, the larger the groups. It is also told
    whether they were all begun after the last pause: only then does a success say that a shared cause has gone. What
    `record` could not commit (`LedgerBusy`) is simply done again: every effect may be done twice. `gather_s`: how long to
    wait for company; `drain`: on a stop, do what is due before ending; `up_to`: only entries up to that position count.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        stages: Sequence[Stage],
        *,
        work: Callable[[list[Duty]], Outcome],
        record: Callable[[list[Outcome], bool], None],
        workers: int,
        by_study: bool = True,
        most: int = 64,
        gather_s: float = 0.0,
        drain: bool = False,
        up_to: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self._ledger = ledger
        self._stages = stages
        self._work = work
        self._record = record
        self._workers = workers
        self._by_study = by_study
        self._most = most
        self._gather_s = gather_s
        self._drain = drain
        self._up_to = up_to
        self._bell = threading.Event()
        self._running: dict[Future[Outcome], list[Duty]] = {}
        self._begun: dict[Future[Outcome], int] = {}
        self._paused_until = 0.0
        self._probing = False
        self._pauses = 0
        self._round = 0
        self._resumed_at = 0.0
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def wake(self) -> None:
        """There may be something to do."""
        self._bell.set()

    def pause(self, *, base_s: float = 0.5, cap_s: float = 30.0) -> float:
        """A shared cause: claim nothing for a while, longer each time, then try one at a time. Returns the seconds."""
        if not self._probing and time.monotonic() - self._resumed_at > CALM_S:
            self._pauses = 0
        self._pauses += 1
        self._round += 1
        seconds = backoff_s(self._pauses, base_s=base_s, cap_s=cap_s, chance=self._random.random())
        self._paused_until = time.monotonic() + seconds
        self._probing = True
        return seconds

    def resume(self) -> None:
        """The shared cause has gone. If it comes back soon, the next pause is longer than the last one all the same."""
        if self._probing:
            self._resumed_at = time.monotonic()
        self._paused_until = 0.0
        self._probing = False

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set and what was begun is recorded."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix=self.name) as pool:
            while True:
                if self._gather_s and not stop.is_set():
                    stop.wait(self._gather_s)  # nobody waits for this lane: fewer and larger groups cost less
                elif len(self._running) > 1:
                    stop.wait(GATHER_S)  # others are about to end: one commit for all of them
                self._bell.clear()
                self._collect()
                if stop.is_set():
                    if not self._running and self._drain:
                        self._claim(pool)
                    if not self._running:
                        return
                    self._bell.wait(LOOK_EVERY_S)
                    continue
                wait_s = self._claim(pool)
                self._bell.wait(wait_s)

    def _claim(self, pool: ThreadPoolExecutor) -> float:
        """Hand out what is due; returns after how many seconds to look again."""
        paused_s = self._paused_until - time.monotonic()
        if paused_s > 0:
            return min(paused_s, LOOK_EVERY_S)
        # Some wait in the pool already, so that a worker that is done need not wait for the ledger.
        room = 1 if self._probing else self._workers * AHEAD
        free = room - len(self._running)
        if free <= 0 or (free < room / 2 and len(self._running) > self._workers):
            return LOOK_EVERY_S
        busy = [duty.entry.position for duties in self._running.values() for duty in duties]
        studies = {duty.entry.study_id for duties in self._running.values() for duty in duties if duty.entry.study_id}
        try:
            due = self._ledger.due(
                self._stages,
                limit=max(self._most, free),
                busy=busy,
                busy_studies=studies if self._by_study else (),
                up_to=self._up_to() if self._up_to else None,
            )
            groups = self._groups(due)[:free]
            for group in groups:
                future = pool.submit(self._work, group)
                self._running[future] = group
                self._begun[future] = self._round
                future.add_done_callback(lambda _: self._bell.set())
            return self._next_due_s() if len(groups) < free else LOOK_EVERY_S
        except LedgerBusy as error:
            return self._stumbled(error)

    def _groups(self, due: list[Duty]) -> list[list[Duty]]:
        if not self._by_study:
            return [due] if due else []
        groups: dict[str | int, list[Duty]] = {}
        for duty in due:
            groups.setdefault(duty.entry.study_id or duty.entry.position, []).append(duty)
        return [sorted(group[: self._most], key=lambda duty: duty.entry.position) for group in groups.values()]

    def _collect(self) -> None:
        done = [future for future in self._running if future.done()]
        if not done:
            return
        try:
            self._record([future.result() for future in done], all(self._begun[future] == self._round for future in done))
        except LedgerBusy as error:
            self._stumbled(error)
        finally:
            for future in done:
                del self._running[future], self._begun[future]

    def _stumbled(self, error: LedgerBusy) -> float:
        seconds = self.pause()
        logs.get().warning("ledger.busy", thread=self.name, code=error.code, due_in_s=round(seconds, 1))
        return seconds

    def _next_due_s(self) -> float:
        due = self._ledger.next_due(self._stages)
        return LOOK_EVERY_S if due is None else min(LOOK_EVERY_S, max(0.005, instant(due).timestamp() - time.time()))
