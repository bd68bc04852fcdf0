"""What stops a step for all studies just now."""

from __future__ import annotations

from storage_ledger.core.entries import Kind
from storage_ledger.ledger.contract import Ledger


def going_on(ledger: Ledger) -> list[tuple[str, str, str]]:
    """The outages that go on: step, code, since when."""
    found: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str]] = set()
    for entry in ledger.of_no_study((Kind.FAILED.value, Kind.RECOVERED.value), limit=64):
        data = entry.data
        key = (data["step"], data["code"])
        if key not in seen and entry.kind == Kind.FAILED:
            found.append((*key, entry.recorded_at))
        seen.add(key)
    return found


def by_code(outages: list[tuple[str, str, str]]) -> list[tuple[str, list[str], str]]:
    """One cause stops several steps: code, steps, since when the first of them."""
    found: dict[str, tuple[list[str], str]] = {}
    for step, code, since in outages:
        steps, first = found.get(code, ([], since))
        found[code] = ([*steps, step], min(first, since))
    return [(code, *rest) for code, rest in found.items()]
