"""The loop of the threads that follow the ledger: mirror and index."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

LOOK_EVERY_S = 1.0  # another process's appends set no wakeup
TRIES_ONCE_STOPPED = 3


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All entries present when the round began are applied. `moved`: whether there were any."""

    moved: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """Some entries are applied, and there may be more: the next round begins after `pause_s`."""

    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """Nothing could be applied: the next round begins after `pause_s`, even if entries are appended."""

    pause_s: float


Round = CaughtUp | Behind | RoundFailed


def follow_until_stopped(apply_more: Callable[[], Round], wakeup: threading.Event, stop: threading.Event) -> None:
    """Run rounds; once caught up, wait for `wakeup`.

    After `stop`, continue until a round finds nothing new, so that earlier appends are applied, or until `TRIES_ONCE_STOPPED` rounds
    in a row have failed. The caller sets `wakeup` together with `stop`. An exception from a round ends the loop.
    """
    failures = 0
    while True:
        stopping = stop.is_set()  # read first, so that this round sees everything appended before the stop
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
