"""What a place outside is, and the checkpoint that it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from storage_ledger.domain.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Head:
    """A checkpoint that one of the ledger's keys has signed. `note`: its file, without what witnesses have added; `text`: what it signs."""

    checkpoint: Checkpoint
    text: str
    note: bytes


class Place(Protocol):
    """Somewhere outside that gets each newest checkpoint. Both calls raise `Retryable`, and `LedgerError`."""

    name: str
    """For logs, metrics and people."""

    def has(self, head: Head) -> bool:
        """Return whether the place has this checkpoint already, by what is kept here."""
        ...

    def take(self, head: Head, stop: threading.Event) -> None:
        """Hand it over, and keep durably what comes back. May be called twice. Returns early after `stop`, with an error."""
        ...
