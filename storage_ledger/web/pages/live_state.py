"""The state in the head of every page: whether the service is ready, how far behind the index is, and how much needs attention."""

from __future__ import annotations

from dataclasses import dataclass

from storage_ledger.operations.verify.unrecorded_result import Unrecorded
from storage_ledger.web.pages import needs
from storage_ledger.web.pages.queries import QueryRow
from storage_ledger.web.pages.service_state import ServiceState

LAGS = 5
"""Entries that the index may be behind while it follows: more is shown."""

_SAID = {
    "ready": ("good", "Service ready"),
    "not-ready": ("bad", "Service not ready"),
    "not-serving": ("bad", "Service not running"),
    "not-answering": ("bad", "Service does not answer"),
    "not-asked": ("warn", "Service not asked"),
}


@dataclass(frozen=True, slots=True)
class LiveState:
    """`position`: the ledger's last; `followed`: the index's. `needs`: number of things under "Attention".

    Each is None if its database cannot be read now.
    """

    service: ServiceState
    position: int | None
    followed: int | None
    needs: int | None

    @property
    def light(self) -> str:
        """Return `good`, `warn` or `bad`."""
        return _SAID[self.service.word][0]

    @property
    def text(self) -> str:
        """Return the state of the service for people."""
        return _SAID[self.service.word][1]

    @property
    def behind(self) -> int:
        """Return how many entries the index is behind the ledger, if that is worth a word; otherwise 0."""
        count = 0 if self.position is None or self.followed is None else self.position - self.followed
        return count if count > LAGS else 0


def live_state(index: QueryRow | None, book: QueryRow | None, service: ServiceState, unrecorded: Unrecorded | None) -> LiveState:
    """Combine what `needs` reads from each database; None: it cannot be read now."""
    position = (book["last"] or {"position": 0})["position"] if book else None
    count = None if index is None or book is None else needs.count(index, book, service, unrecorded)
    return LiveState(service, position, index["followed"] if index else None, count)
