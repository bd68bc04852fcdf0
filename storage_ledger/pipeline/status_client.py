"""The client of the Status Service: sends a study's status and reads it back."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import httpcore
import httpx
from typing_extensions import override

from storage_ledger.errors import BadSettings, Retryable
from storage_ledger.system.http_connection import BROKEN, Answer, Connection, client_context

MAX_ANSWER_BYTES = 4 << 20
"""A status may carry the whole metadata of its study in `details`; anything larger is not a status."""

MAX_IGNORED_BYTES = 64 << 10
"""How much is read of a body that does not matter, so that its connection can be kept."""

IGNORED_WITHIN_S = 1.0
"""Longest wait for the body of an answer whose code has arrived."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "storage-ledger"}
_AWAY_CODES = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Status:
    """The Status Service's record of a study. `details` is any JSON that was posted, usually patient data."""

    word: str
    details: Any


class Statuses(Protocol):
    """The notifier's view of a Status Service; see `StatusClient` for what each call raises."""

    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        """POST a status."""
        ...

    def read(self, study_id: str) -> str | None:
        """GET the status word, or None for an unknown study."""
        ...


class StatusClient(Statuses):
    """Keeps at most `connections` connections open, shared by any number of threads; further calls wait for one.

    `timeout_s` covers a whole call, from getting a connection to the last byte of the answer (but not the DNS lookup).
    Raises `BadSettings` if `base_url` is not a URL. The calls raise `Retryable`; the detail holds a number or the name of
    an error class, never text from the service:

    - `status-service-away`, shared: not reached, too slow, 5xx, 408 or 429;
    - `status-refused`: any answer but 2xx, including redirects, and a web page in answer to a status;
    - `status-unreadable` (reading only): not a JSON object with a string `status`, over 4 MiB, or endless.
    """

    def __init__(self, base_url: str, *, timeout_s: float = 10.0, connections: int = 8) -> None:
        self._timeout_s = timeout_s
        try:
            request = httpx.Request("GET", f"{base_url.rstrip('/')}/status/", headers=_HEADERS)
        except httpx.InvalidURL:
            request = None
        if request is None or request.url.scheme not in {"http", "https"} or not request.url.host:
            raise BadSettings("bad-settings", "STATUS_SERVICE_URL: is not a URL")
        url = request.url
        if url.username or url.password:
            next(httpx.BasicAuth(url.username, url.password).sync_auth_flow(request))
        self._path = url.raw_path
        self._headers = b"".join(b"%s: %s\r\n" % header for header in request.headers.raw)
        context = client_context()
        self._connections = [Connection(url, context) for _ in range(connections)]
        self._free: queue.LifoQueue[Connection] = queue.LifoQueue()  # the last used first, because its connection is still open
        for connection in self._connections:
            self._free.put(connection)

    @override
    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        """POST a status; return the HTTP status that accepted it (2xx). May be called twice: the last one wins.

        If it raises, the service may still have stored the status.
        """
        body = json.dumps({"status": status, "details": dict(details)}, allow_nan=False).encode("ascii")
        with self._call(b"POST", study_id, b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as answer:
            _ignore_body(answer)
            _check_code(answer.code)
            if answer.content_type.lower().startswith("text/html"):  # from a login page, a proxy or another port
                raise Retryable("status-refused", f"HTTP {answer.code} with a web page")
            return answer.code

    @override
    def read(self, study_id: str) -> str | None:
        """GET the status word, or None if the service does not know the study (404)."""
        found = self.look_up(study_id)
        return None if found is None else found.word

    def look_up(self, study_id: str) -> Status | None:
        """GET the status with its details, or None if the service does not know the study (404)."""
        with self._call(b"GET", study_id, b"\r\n") as answer:
            if answer.code == 404:
                _ignore_body(answer)
                return None
            if not 200 <= answer.code < 300:
                _ignore_body(answer)
                _check_code(answer.code)
            return _status(_body(answer))

    def close(self) -> None:
        """Close the kept connections. No call may be running or follow."""
        for connection in self._connections:
            connection.close()

    @contextlib.contextmanager
    def _call(self, method: bytes, study_id: str, rest: bytes) -> Iterator[Answer]:
        """Send a request and yield its answer. `rest`: what follows the headers of every request."""
        path = self._path + quote(study_id, safe="").encode("ascii")
        connection = self._free.get()
        try:
            request = b"%s %s HTTP/1.1\r\n%s%s" % (method, path, self._headers, rest)
            with contextlib.closing(connection.call(request, time.monotonic() + self._timeout_s)) as answer:
                yield answer
        except BROKEN as error:
            raise Retryable("status-service-away", type(error).__name__, shared=True) from error
        finally:
            self._free.put(connection)


def _check_code(code: int) -> None:
    if code >= 500 or code in _AWAY_CODES:
        raise Retryable("status-service-away", f"HTTP {code}", shared=True)
    if not 200 <= code < 300:
        raise Retryable("status-refused", f"HTTP {code}")


def _ignore_body(answer: Answer) -> None:
    """Read a small body to its end, so that the connection is kept; abandon a large, slow or broken one, which closes it.

    The status code has arrived; nothing in the body changes it.
    """
    taken = 0
    answer.until = min(answer.until, time.monotonic() + IGNORED_WITHIN_S)
    with contextlib.suppress(*BROKEN):
        for chunk in answer.body():
            taken += len(chunk)
            if taken > MAX_IGNORED_BYTES:
                return


def _body(answer: Answer) -> bytes:
    parts: list[bytes] = []
    taken = 0
    try:
        for chunk in answer.body():
            taken += len(chunk)
            if taken > MAX_ANSWER_BYTES:
                raise Retryable("status-unreadable", f"more than {MAX_ANSWER_BYTES} bytes")
            parts.append(chunk)
    except httpcore.TimeoutException as error:
        # The service works, but this answer has no end: the other studies need not wait.
        raise Retryable("status-unreadable", type(error).__name__) from error
    return b"".join(parts)


def _status(body: bytes) -> Status:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Retryable("status-unreadable", "not JSON") from None
    word = value.get("status") if isinstance(value, dict) else None
    if not isinstance(word, str):
        raise Retryable("status-unreadable", "no string `status`")
    return Status(word, value.get("details"))
