"""Entry → work items: which ones an entry adds to the work queue, and which ones it completes.

    described ──place──► archived ──remove──► (upload gone)
                            └─────tell──────► status-sent ──confirm──► (stays)
              ──place──► quarantined ──tell──► status-sent ──confirm──►
                            ├──► released ···► (place again)
                            └──► discarded ──tell──► status-sent ──confirm──►
    rejected  ──tell──► status-sent ──confirm──►

The ledger applies `changes` in the transaction of the entry itself, so no work is lost in a crash. Work items that end without an entry
(`remove`, `confirm`) are deleted by the step that performed them, once the effect is durable.
People append `released`, which adds the `place` of an earlier `described` again, and `discarded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, assert_never

from storage_ledger.domain.entries import ADOPT, Kind, NewEntry


class Stage(StrEnum):
    """The stages of the work queue: the work that an entry still requires. Stored names."""

    PLACE = "place"
    REMOVE = "remove"
    TELL = "tell"
    CONFIRM = "confirm"


StepName = Literal["place", "remove", "mirror", "tell"]
"""The steps that record failed attempts and outages. Stored names, and labels of metrics."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to the work queue: stages to add at the entry's position, and work items to delete.

    `drop_confirms`: also delete all read-backs of the study's earlier statuses. `place_again`: positions of `described` entries to place
    again.
    """

    add: tuple[Stage, ...] = ()
    drop: tuple[tuple[int, Stage], ...] = ()
    drop_confirms: bool = False
    place_again: tuple[int, ...] = ()


def changes(entry: NewEntry) -> Changes:
    """Return the work items that `entry` adds (at its own position) and completes."""
    cause = () if entry.cause is None else (entry.cause,)
    match entry.kind:
        case Kind.DESCRIBED:
            return Changes(add=() if entry.payload.get("source") == ADOPT else (Stage.PLACE,))
        case Kind.ARCHIVED:
            add: tuple[Stage, ...] = (Stage.REMOVE, Stage.TELL)
            if entry.payload.get("adopted"):  # there was no upload, and the old service sent the status
                add = (Stage.TELL,) if entry.payload.get("tell") else ()
            return Changes(add=add, drop=tuple((p, Stage.PLACE) for p in cause))
        case Kind.QUARANTINED:
            return Changes(add=(Stage.TELL,), drop=tuple((p, Stage.PLACE) for p in cause))
        case Kind.RELEASED:
            return Changes(place_again=(entry.payload["described"],))
        case Kind.DISCARDED:
            return Changes(add=(Stage.TELL,))
        case Kind.REJECTED:
            return Changes(add=(Stage.TELL,) if entry.payload.get("study_id") else ())
        case Kind.STATUS_SENT:
            told = tuple((p, Stage.TELL) for p in entry.payload["tells"])
            return Changes(add=(Stage.CONFIRM,), drop=told + tuple((p, Stage.CONFIRM) for p in cause), drop_confirms=True)
        case Kind.FAILED | Kind.RECOVERED | Kind.RESTORED | Kind.VERIFIED | Kind.ACKNOWLEDGED | Kind.HEADER_READ | Kind.KEY:
            return Changes()
        case _:
            assert_never(entry.kind)
