"""Ongoing outages, from the ledger's entries: causes that stop a step for all studies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage_ledger.domain.entries import Entry


@dataclass(frozen=True, slots=True)
class OngoingOutage:
    """A stopped step. `since`: RFC 3339; `positions`: its `failed` entries, more than one if the end of an outage was not recorded."""

    step: str
    code: str
    since: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OngoingCause:
    """A cause that stops one or more steps. `since` and `position`: of its earliest outage."""

    code: str
    steps: list[str]
    since: str
    position: int


def going_on(failed: Iterable[Entry]) -> list[OngoingOutage]:
    """Return ongoing outages, newest first, from the entries of `Ledger.open_outages`; one per step and code, since its first entry."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in failed:
        data = entry.data  # not `FailedPayload.of`: an unreadable entry must not prevent the service from starting
        found.setdefault((str(data.get("step")), str(data.get("code"))), []).append(entry)
    return [
        OngoingOutage(step, code, entries[0].recorded_at, tuple(entry.position for entry in entries))
        for (step, code), entries in reversed(found.items())
    ]


def by_code(outages: Iterable[OngoingOutage]) -> list[OngoingCause]:
    """Group outages by cause, in the order of each cause's first outage."""
    found: dict[str, list[OngoingOutage]] = {}
    for each in outages:
        found.setdefault(each.code, []).append(each)
    return [
        OngoingCause(code, [each.step for each in some], min(each.since for each in some), min(each.positions[0] for each in some))
        for code, some in found.items()
    ]
