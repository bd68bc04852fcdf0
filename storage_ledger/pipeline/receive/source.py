"""What every source of messages promises to the intake."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came, of any bytes whatever; `token` is what the source needs to acknowledge it."""

    raw: bytes
    source: str
    token: str | None = None


class Source(Protocol):
    """Brings messages. `name` goes into the ledger as the `source` of a `described` entry and is never renamed."""

    name: str

    @property
    def subscribed(self) -> bool:
        """Whether what is published now will reach us. May be asked from any thread."""

    @property
    def trouble(self) -> str | None:
        """The stable code of why we are not subscribed; None while we are, and before the first attempt. From any thread."""

    def run(self, deliver: Callable[[Delivery], None], stop: threading.Event) -> None:
        """Deliver one message after another, in the order of the server, until `stop` is set; call it from one thread.

        Reconnects by itself, for ever: an unreachable server never ends it. `deliver` may block, and nothing more is
        read meanwhile (backpressure); what it raises ends the run and comes out of here.
        """

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the server that these need not come again: only after the ledger's commit; twice does no harm."""
