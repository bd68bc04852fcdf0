"""Who wakes up when something happens: one table.

What another process appends wakes nobody here: each part also looks by itself, once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import Enum, auto

from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.contract import Commit


class Sleeper(Enum):
    """A part of the service that sleeps between two looks at the ledger."""

    PLACE = auto()
    REPLICATE = auto()
    REMOVE = auto()
    NOTIFY = auto()
    RECONCILE = auto()
    INDEX = auto()


class Signal(Enum):
    """What happens and is no work item."""

    APPENDED = auto()
    """This process appended an entry."""
    MIRRORED = auto()
    """The mirror has more entries than before."""
    SUBSCRIBED = auto()
    """Redis is heard again. What was published before is lost."""
    CAUGHT_UP = auto()
    """The ledger could not be written for a while; by now all messages that were kept meanwhile are recorded."""


WAKES: Mapping[Stage | Signal, tuple[Sleeper, ...]] = {
    Stage.PLACE: (Sleeper.PLACE,),
    Stage.REMOVE: (Sleeper.REPLICATE, Sleeper.REMOVE),  # its `archived` may be in the mirror already: a leftover
    Stage.TELL: (Sleeper.REPLICATE,),
    Stage.CONFIRM: (),  # due seconds later: the pool sleeps until then
    Signal.APPENDED: (Sleeper.INDEX,),
    Signal.MIRRORED: (Sleeper.REMOVE, Sleeper.NOTIFY),
    Signal.SUBSCRIBED: (Sleeper.RECONCILE,),
    Signal.CAUGHT_UP: (Sleeper.RECONCILE,),
}
"""A stage stands for work of that stage that has become due."""


class Wakeups:
    """One event for each sleeper. Safe to use from several threads."""

    def __init__(self) -> None:
        self._wakeups = {sleeper: threading.Event() for sleeper in Sleeper}

    def of(self, sleeper: Sleeper) -> threading.Event:
        """Set when there may be something to do; the sleeper clears it before it looks."""
        return self._wakeups[sleeper]

    def ring(self, happened: Stage | Signal) -> None:
        """Wake whoever the table names."""
        for sleeper in WAKES[happened]:
            self._wakeups[sleeper].set()

    def ring_all(self) -> None:
        """Wake everybody: a stop was asked for."""
        for wakeup in self._wakeups.values():
            wakeup.set()

    def committed(self, commit: Commit) -> None:
        """Wake whoever waits for what this commit has brought."""
        for stage in commit.due:
            self.ring(stage)
        if commit.kinds:
            self.ring(Signal.APPENDED)
