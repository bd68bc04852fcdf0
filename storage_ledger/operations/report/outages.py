"""What stops a step for all studies at the moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from storage_ledger.domain.entries import Entry


@dataclass(frozen=True, slots=True)
class OngoingOutage:
    """One step is stopped. `since`: RFC 3339; `position`: of the entry that says so."""

    step: str
    code: str
    since: str
    position: int


@dataclass(frozen=True, slots=True)
class OngoingCause:
    """One cause, which may stop several steps. `since` and `position`: of the first of them."""

    code: str
    steps: list[str]
    since: str
    position: int


def going_on(failed: Iterable[Entry]) -> list[OngoingOutage]:
    """The outages that go on, newest first, from the entries of `Ledger.open_outages`; one a step and code, since its first."""
    found: dict[tuple[str, str], OngoingOutage] = {}
    for entry in failed:
        data = entry.data
        step, code = str(data.get("step")), str(data.get("code"))
        found.setdefault((step, code), OngoingOutage(step, code, entry.recorded_at, entry.position))
    return list(reversed(found.values()))


def by_code(outages: Iterable[OngoingOutage]) -> list[OngoingCause]:
    """The outages by their cause, in the order of the first of each."""
    found: dict[str, list[OngoingOutage]] = {}
    for each in outages:
        found.setdefault(each.code, []).append(each)
    return [
        OngoingCause(code, [each.step for each in some], min(each.since for each in some), min(each.position for each in some))
        for code, some in found.items()
    ]
