"""Which event wakes which part of the service: one table.

Entries appended by a command wake no part; so each part also checks once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from enum import Enum, auto

from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.contract import Commit


class Sleeper(Enum):
    """A part of the service that sleeps between two checks of the ledger."""

    PLACE = auto()
    REPLICATE = auto()
    REMOVE = auto()
    NOTIFY = auto()
    RECONCILE = auto()
    COPY = auto()
    INDEX = auto()


class Signal(Enum):
    """Events that are not work items."""

    APPENDED = auto()
    """This process appended an entry."""
    COPIED = auto()
    """The local copy of a ledger in PostgreSQL, which the index follows, has more entries than before."""
    MIRRORED = auto()
    """The mirror has more entries than before."""
    SUBSCRIBED = auto()
    """Redis is subscribed again. Messages published before are lost."""
    CAUGHT_UP = auto()
    """The ledger was not writable for a while; all messages kept meanwhile are now recorded."""


WAKES: Mapping[Stage | Signal, tuple[Sleeper, ...]] = {
    Stage.PLACE: (Sleeper.PLACE,),
    Stage.REMOVE: (Sleeper.REPLICATE, Sleeper.REMOVE),  # a leftover, whose `archived` may be in the mirror already
    Stage.TELL: (Sleeper.REPLICATE,),
    Stage.CONFIRM: (),  # due seconds later: the pool sleeps until then
    Signal.APPENDED: (Sleeper.COPY, Sleeper.INDEX),
    Signal.COPIED: (Sleeper.INDEX,),
    Signal.MIRRORED: (Sleeper.REMOVE, Sleeper.NOTIFY),
    Signal.SUBSCRIBED: (Sleeper.RECONCILE,),
    Signal.CAUGHT_UP: (Sleeper.RECONCILE,),
}
"""A stage means: work of that stage has become due."""


class Wakeups:
    """One event for each sleeper of this process. Thread-safe."""

    def __init__(self) -> None:
        self._wakeups = {sleeper: threading.Event() for sleeper in Sleeper}
        self._elsewhere: frozenset[Sleeper] = frozenset()
        self._pass_on: Callable[[frozenset[Sleeper]], None] = lambda _: None

    def pass_on(self, elsewhere: frozenset[Sleeper], to: Callable[[frozenset[Sleeper]], None]) -> None:
        """Let `to` wake the sleepers that are in other processes, several at once. Call it before any thread starts."""
        self._elsewhere, self._pass_on = elsewhere, to

    def of(self, sleeper: Sleeper) -> threading.Event:
        """Set when there may be something to do; the sleeper clears it before it checks."""
        return self._wakeups[sleeper]

    def ring(self, *happened: Stage | Signal) -> None:
        """Wake the sleepers that the table names for these events."""
        self.wake({sleeper for each in happened for sleeper in WAKES[each]})

    def wake(self, sleepers: Collection[Sleeper]) -> None:
        """Wake these sleepers, wherever they are."""
        for sleeper in sleepers:
            self._wakeups[sleeper].set()
        if elsewhere := self._elsewhere.intersection(sleepers):
            self._pass_on(elsewhere)

    def ring_all(self) -> None:
        """Wake all sleepers, for a stop."""
        self.wake(frozenset(Sleeper))

    def committed(self, commit: Commit) -> None:
        """Wake the sleepers that wait for what a commit added."""
        self.ring(*commit.due, *([Signal.APPENDED] if commit.kinds else []))
