"""Which event wakes which part of the service: one table.

Entries appended by another process wake no part; so each part also checks once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
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
    INDEX = auto()


class Signal(Enum):
    """Events that are not work items."""

    APPENDED = auto()
    """This process appended an entry."""
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
    Signal.APPENDED: (Sleeper.INDEX,),
    Signal.MIRRORED: (Sleeper.REMOVE, Sleeper.NOTIFY),
    Signal.SUBSCRIBED: (Sleeper.RECONCILE,),
    Signal.CAUGHT_UP: (Sleeper.RECONCILE,),
}
"""A stage means: work of that stage has become due."""


class Wakeups:
    """One event for each sleeper. Thread-safe."""

    def __init__(self) -> None:
        self._wakeups = {sleeper: threading.Event() for sleeper in Sleeper}

    def of(self, sleeper: Sleeper) -> threading.Event:
        """Set when there may be something to do; the sleeper clears it before it checks."""
        return self._wakeups[sleeper]

    def ring(self, happened: Stage | Signal) -> None:
        """Wake the sleepers that the table names for an event."""
        for sleeper in WAKES[happened]:
            self._wakeups[sleeper].set()

    def ring_all(self) -> None:
        """Wake all sleepers, for a stop."""
        for wakeup in self._wakeups.values():
            wakeup.set()

    def committed(self, commit: Commit) -> None:
        """Wake the sleepers that wait for what a commit added."""
        for stage in commit.due:
            self.ring(stage)
        if commit.kinds:
            self.ring(Signal.APPENDED)
