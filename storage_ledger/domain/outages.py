"""Which outages go on, from the ledger's entries: what stops a step for all studies at the moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage_ledger.domain.entries import Entry


@dataclass(frozen=True, slots=True)
class OngoingOutage:
    """One step is stopped. `since`: RFC 3339; `positions`: of the entries that say so, more than one if the end of one was not recorded."""

    step: str
    code: str
    since: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OngoingCause:
    """One cause, which may stop several steps. `since` and `position`: of the first of them."""

    code: str
    steps: list[str]
    since: str
    position: int


def going_on(failed: Iterable[Entry]) -> list[OngoingOutage]:
    """The outages that go on, newest first, from the entries of `Ledger.open_outages`; one a step and code, since its first."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in failed:
        data = entry.data  # not `FailedPayload.of`: an entry that says nothing of use must not keep the service from starting
        found.setdefault((str(data.get("step")), str(data.get("code"))), []).append(entry)
    return [
        OngoingOutage(step, code, entries[0].recorded_at, tuple(entry.position for entry in entries))
        for (step, code), entries in reversed(found.items())
    ]


def by_code(outages: Iterable[OngoingOutage]) -> list[OngoingCause]:
    """The outages by their cause, in the order of the first of each."""
    found: dict[str, list[OngoingOutage]] = {}
    for each in outages:
        found.setdefault(each.code, []).append(each)
    return [
        OngoingCause(code, [each.step for each in some], min(each.since for each in some), min(each.positions[0] for each in some))
        for code, some in found.items()
    ]
