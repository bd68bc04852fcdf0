"""The contract of a source of messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as received, with any bytes; the source needs `token` to acknowledge it."""

    raw: bytes
    source: str
    token: str | None = None


class Source(Protocol):
    """Delivers messages. `name` is stored as the `source` of `described` entries and is never renamed."""

    name: str

    @property
    def subscribed(self) -> bool:
        """Return whether a message published now will arrive. Thread-safe."""

    @property
    def trouble(self) -> str | None:
        """Return the code that says why it is not subscribed; None while it is, and before the first attempt. Thread-safe."""

    def run(self, deliver: Callable[[Delivery], None], stop: threading.Event) -> None:
        """Deliver one message after another, in the order of the server, until `stop` is set; call it from one thread.

        Reconnects by itself, for ever: an unreachable server never ends it. `deliver` may block, and nothing more is read
        meanwhile (backpressure). An exception from `deliver` ends the run and is raised here.
        """

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the server not to deliver these again. Call it only after the ledger's commit; calling it twice is harmless."""
