"""What stops a step for all studies just now."""

from __future__ import annotations

from collections.abc import Iterable

from storage_ledger.domain.entries import Entry

Outage = tuple[str, str, str, int]
"""Step, code, since when (RFC 3339), and the position of the entry that says so."""


def going_on(failed: Iterable[Entry]) -> list[Outage]:
    """The outages that go on, newest first, from the entries of `Ledger.open_outages`; one a step and code, since its first."""
    found: dict[tuple[str, str], Outage] = {}
    for entry in failed:
        data = entry.data
        step, code = str(data.get("step")), str(data.get("code"))
        found.setdefault((step, code), (step, code, entry.recorded_at, entry.position))
    return list(reversed(found.values()))


def by_code(outages: Iterable[Outage]) -> list[tuple[str, list[str], str, int]]:
    """One cause stops several steps: code, steps, and since when and at which position the first of them."""
    found: dict[str, tuple[list[str], str, int]] = {}
    for step, code, since, position in outages:
        steps, first, at = found.get(code, ([], since, position))
        found[code] = ([*steps, step], min(first, since), min(at, position))
    return [(code, *rest) for code, rest in found.items()]
