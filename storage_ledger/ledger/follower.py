"""The loop of whatever follows the ledger in a thread of its own: the mirror and the index."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

LOOK_EVERY_S = 1.0  # what another process appends wakes nobody here
TRIES_ONCE_STOPPED = 3


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that the ledger had when the round began is applied. `moved`: whether anything was."""

    moved: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """Something is applied, and there may be more: the next round begins after `pause_s`."""

    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """Nothing could be applied: the next round begins after `pause_s`, whatever is appended meanwhile."""

    pause_s: float


Round = CaughtUp | Behind | RoundFailed


def follow_until_stopped(apply_more: Callable[[], Round], wakeup: threading.Event, stop: threading.Event) -> None:
    """Run one round after the other; `wakeup` says that there is more for one that has caught up.

    When `stop` is set it goes on until a round finds nothing new, so that all that was appended before is applied, or until
    `TRIES_ONCE_STOPPED` rounds in a row have failed. Who sets `stop` sets the wakeup, too. What a round raises ends it.
    """
    failures = 0
    while True:
        stopping = stop.is_set()  # asked before the round: it sees whatever was appended before the stop
        wakeup.clear()
        done = apply_more()
        failures = failures + 1 if isinstance(done, RoundFailed) else 0
        match done:
            case CaughtUp(moved=moved):
                if stopping and not moved:
                    return
                if not stopping:
                    wakeup.wait(LOOK_EVERY_S)
            case Behind(pause_s=pause_s):
                stop.wait(pause_s)
            case RoundFailed(pause_s=pause_s):
                if stopping and failures >= TRIES_ONCE_STOPPED:
                    return
                stop.wait(pause_s)
            case _:
                assert_never(done)
