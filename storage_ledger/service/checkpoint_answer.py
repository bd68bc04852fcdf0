"""The answer to GET /checkpoint, for the service's port and for the web page: the newest checkpoint. It needs no login."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.responses import PlainTextResponse, Response

from storage_ledger.errors import Retryable
from storage_ledger.system.checks_with_timeout import Hangs, TimedCheck

CHECKPOINT = "/checkpoint"
WITHIN_S = 1.5
KEPT_S = 5
"""A note is kept for this long, here and by caches, because anyone may ask, as often as they like."""

_HEADERS = {"Cache-Control": f"public, max-age={KEPT_S}", "Content-Type": "text/plain; charset=utf-8"}
_NONE = PlainTextResponse("No checkpoint has been signed yet\n", 404, {"Cache-Control": "no-store"})
_AWAY = PlainTextResponse("The archive is not available\n", 503, {"Cache-Control": "no-store", "Retry-After": "60"})


class CheckpointAnswer:
    """`read` returns the newest note, or None. Call it from any thread: it blocks for `WITHIN_S` at most, even if the archive hangs."""

    def __init__(self, read: Callable[[], bytes | None], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._check = TimedCheck("checkpoint", read)
        self._monotonic = monotonic
        self._kept: tuple[float, bytes] = -KEPT_S, b""

    def __call__(self) -> Response:
        """Return the answer: 200, 404 while there is no checkpoint, 503 if the archive cannot be read."""
        at, note = self._kept
        if not note or self._monotonic() - at >= KEPT_S:
            self._check.begin()
            try:
                found = self._check.result(time.monotonic() + WITHIN_S)
            except (Hangs, Retryable):
                return _AWAY
            if found is None:
                return _NONE
            self._kept = self._monotonic(), found
            note = found
        return Response(note, headers=_HEADERS)
