"""Whether the web page answers: whether a statement gets its turn in the threads that read the databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

WITHIN_S = 3.0
"""`compose.yaml` waits four seconds for the answer."""


class Health:
    """Asks with `ask`, one question at a time however many want to know."""

    def __init__(self, ask: Callable[[], Awaitable[object]], within_s: float = WITHIN_S) -> None:
        self._ask = ask
        self._within_s = within_s
        self._asking: asyncio.Future[object] | None = None

    async def answers(self) -> bool:
        """Return whether there is an answer in time. An error, such as a damaged file, is one: a restart would not help."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # an error that nobody fetches is logged
        await asyncio.wait({self._asking}, timeout=self._within_s)
        return self._asking.done()
