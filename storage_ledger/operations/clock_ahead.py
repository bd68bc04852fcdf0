"""Detect that the ledger's last timestamp is ahead of the clock, and record that an operator acknowledged it.

An entry is never dated earlier than the one before it. If the clock jumps ahead even once, all later entries carry that wrong time
until real time has caught up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from storage_ledger.domain.entries import Entry, Kind, has_whole_header
from storage_ledger.domain.ids import instant, rfc3339
from storage_ledger.domain.payloads import AcknowledgedPayload, readable
from storage_ledger.ledger.contract import Ledger

CLOCK_AHEAD = "clock-ahead"
AHEAD_S = 60.0
"""A smaller difference between the ledger's last timestamp and the clock is not reported."""
ACKNOWLEDGED_READ = 64
"""How many of the newest `acknowledged` entries are read to find the one about the clock."""


@dataclass(frozen=True, slots=True)
class ClockAhead:
    """The ledger's last timestamp is `seconds` ahead of the clock; both times are RFC 3339."""

    ledger_time: str
    clock: str
    seconds: float

    @property
    def detail(self) -> str:
        """The text for reports."""
        return f"the ledger's last entry is dated {self.ledger_time}, but the clock says {self.clock}"


def ahead(ledger: Ledger, now: datetime) -> ClockAhead | None:
    """Return how far the ledger's last timestamp is ahead of `now`; None below a minute, or once that time was acknowledged."""
    return ahead_of(ledger.last(), ledger.of_no_study((Kind.ACKNOWLEDGED.value,), ACKNOWLEDGED_READ), now)


def ahead_of(last: Entry | None, acknowledged: Iterable[Entry], now: datetime) -> ClockAhead | None:
    """Like `ahead`, from the ledger's last entry and its newest `acknowledged` entries."""
    if last is None or not has_whole_header(last):
        return None
    moment = _moment(last.recorded_at)
    seconds = 0.0 if moment is None else (moment - now).total_seconds()
    if seconds <= AHEAD_S:
        return None
    said = (each for each in map(readable, acknowledged) if isinstance(each, AcknowledgedPayload) and each.code == CLOCK_AHEAD)
    known = max((each.ledger_time for each in said if _moment(each.ledger_time)), default="")
    return ClockAhead(last.recorded_at, rfc3339(now), seconds) if last.recorded_at > known else None


def _moment(text: str) -> datetime | None:
    """Return None if the text is not a timestamp with a time zone: an entry with valid hashes may still hold anything."""
    try:
        moment = instant(text)
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def acknowledge_ahead(ledger: Ledger, clock: Callable[[], datetime], *, by: str, reason: str) -> Entry | None:
    """Append an `acknowledged` entry about the clock; if the ledger is not ahead, append nothing and return None.

    Raises `LedgerBusy`.
    """
    with ledger.write() as tx:
        found = ahead(ledger, clock())
        if found is None:
            return None
        said = AcknowledgedPayload(code=CLOCK_AHEAD, by=by, reason=reason, ledger_time=found.ledger_time, clock=found.clock)
        return tx.append(said.entry())
