"""The thread that takes the newest checkpoint outside."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage_ledger.domain.backoff import OUTSIDE_AGAIN
from storage_ledger.domain.reason import Reason
from storage_ledger.errors import WITNESS_SAW_FORK, LedgerUnusable, StorageLedgerError
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class _Turn:
    """A place, the note that it has, and when it is tried again (monotonic). `waits_since`: when the oldest one that it lacks came."""

    place: Place
    has: bytes = b""
    failures: int = 0
    due: float = 0.0
    waits_since: float | None = None
    saw_fork: bool = False


class Heads:
    """Looks every second for a new checkpoint, whoever signed it, and hands it to each place in turn.

    A place that fails is tried again, less and less often, always with the newest checkpoint; the others do not wait for it longer than
    for one request. `newest` returns the newest note, or None. `read` returns what it says if one of the ledger's keys has signed it.
    `make_places` and `read` are called once there is a note; until then, no cryptography is loaded.
    """

    def __init__(
        self,
        make_places: Callable[[], Sequence[Place]],
        newest: Callable[[], bytes | None],
        read: Callable[[bytes], Head | None],
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_places = make_places
        self._newest = newest
        self._read = read
        self._metrics = metrics
        self._monotonic = monotonic
        self._turns: list[_Turn] = []
        self._note: bytes | None = None
        self._head: Head | None = None

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set; then return once the request that is under way has ended."""
        while not stop.wait(LOOK_EVERY_S):
            self.look(stop)

    def look(self, stop: threading.Event) -> None:
        """Hand the newest checkpoint to each place that lacks it and is due. Raises `LedgerUnusable`."""
        head = self._current()
        if head is None:
            return
        for turn in self._turns:
            if stop.is_set():
                return
            if turn.has != head.note and self._monotonic() >= turn.due:
                self._try(turn, head, stop)
            waits_s = 0.0 if turn.waits_since is None else self._monotonic() - turn.waits_since
            self._metrics.outside_waiting.labels(turn.place.name).set(waits_s)

    def reasons(self) -> list[Reason]:
        """Return an alarm for each witness that has seen another history of this ledger."""
        return [
            Reason(WITNESS_SAW_FORK, f"{each.place.name} has cosigned another history of this ledger")
            for each in self._turns
            if each.saw_fork
        ]

    def _current(self) -> Head | None:
        note = self._newest()
        if note != self._note:
            self._note, self._head = note, None if note is None else self._read(note)
            if self._head is not None and not self._turns:
                self._turns = [_Turn(place) for place in self._make_places()]
        return self._head

    def _try(self, turn: _Turn, head: Head, stop: threading.Event) -> None:
        place = turn.place
        turn.waits_since = turn.waits_since or self._monotonic()
        try:
            if not place.has(head):
                place.take(head, stop)
                logs.get().info("checkpoint.taken", source=place.name, entries=head.checkpoint.size)
        except LedgerUnusable:
            raise
        except StorageLedgerError as error:
            turn.failures += 1
            wait_s = OUTSIDE_AGAIN.wait_s(turn.failures, chance=random.random())  # noqa: S311 - spreads retries
            turn.due = self._monotonic() + wait_s
            turn.saw_fork = turn.saw_fork or error.code == WITNESS_SAW_FORK
            self._metrics.outside_failures.labels(place.name, error.code).inc()
            say = logs.get().error if error.code == WITNESS_SAW_FORK else logs.get().warning
            say(
                "checkpoint.not-taken",
                source=place.name,
                code=error.code,
                reason=error.detail,
                attempt=turn.failures,
                due_in_s=round(wait_s),
            )
        else:
            turn.has, turn.failures, turn.due, turn.waits_since, turn.saw_fork = head.note, 0, 0.0, None, False
            self._metrics.outside_entries.labels(place.name).set(head.checkpoint.size)
        self._metrics.witness_forked.labels(place.name).set(turn.saw_fork)
