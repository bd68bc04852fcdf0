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

import httpx

from storage_ledger.errors import BadSettings, Retryable
from storage_ledger.system.http_connection import Connection, Deadline

MAX_ANSWER_BYTES = 4 << 20
"""A status may carry the whole metadata of its study in `details`; anything larger is not a status."""

MAX_IGNORED_BYTES = 64 << 10
"""How much is read of a body that does not matter, so that its connection can be kept."""

IGNORED_WITHIN_S = 1.0
"""Longest wait for the body of an answer whose code has arrived."""

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


class StatusClient:
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
        self._timeout = {"timeout": httpx.Timeout(timeout_s).as_dict()}
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL:
            raise BadSettings("bad-settings", "STATUS_SERVICE_URL: is not a URL") from None
        self._base_url = str(url).rstrip("/")
        self._headers = _headers(url)
        context = httpx.create_ssl_context()
        self._connections = [Connection(context) for _ in range(connections)]
        self._free: queue.LifoQueue[Connection] = queue.LifoQueue()  # the last used first, because its connection is still open
        for connection in self._connections:
            self._free.put(connection)

    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        """POST a status; return the HTTP status that accepted it (2xx). May be called twice: the last one wins.

        If it raises, the service may still have stored the status.
        """
        body = json.dumps({"status": status, "details": dict(details)}, allow_nan=False).encode("ascii")
        with self._call("POST", study_id, body) as (answer, deadline):
            _ignore_body(answer, deadline)
            _check_code(answer.status_code)
            if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
                raise Retryable(
                    "status-refused", f"HTTP {answer.status_code} with a web page"
                )  # from a login page, a proxy or another port
            return answer.status_code

    def read(self, study_id: str) -> str | None:
        """GET the status word, or None if the service does not know the study (404)."""
        found = self.look_up(study_id)
        return None if found is None else found.word

    def look_up(self, study_id: str) -> Status | None:
        """GET the status with its details, or None if the service does not know the study (404)."""
        with self._call("GET", study_id) as (answer, deadline):
            if answer.status_code == 404:
                _ignore_body(answer, deadline)
                return None
            if not answer.is_success:
                _ignore_body(answer, deadline)
                _check_code(answer.status_code)
            return _status(_body(answer))

    def close(self) -> None:
        """Close the kept connections. No call may be running or follow."""
        for connection in self._connections:
            connection.transport.close()

    @contextlib.contextmanager
    def _call(self, method: str, study_id: str, body: bytes | None = None) -> Iterator[tuple[httpx.Response, Deadline]]:
        url = f"{self._base_url}/status/{quote(study_id, safe='')}"
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        request = httpx.Request(method, url, content=body, headers=headers, extensions=self._timeout)
        connection = self._free.get()
        try:
            connection.deadline.at = time.monotonic() + self._timeout_s
            with contextlib.closing(connection.transport.handle_request(request)) as answer:
                yield answer, connection.deadline
        except httpx.HTTPError as error:
            raise Retryable("status-service-away", type(error).__name__, shared=True) from error
        finally:
            self._free.put(connection)


def _headers(url: httpx.URL) -> dict[str, str]:
    """Return the headers of every request, with the URL's user name and password, if it has them."""
    found = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "storage-ledger"}
    if url.username or url.password:
        signed = next(httpx.BasicAuth(url.username, url.password).sync_auth_flow(httpx.Request("GET", url)))
        found["Authorization"] = signed.headers["Authorization"]
    return found


def _check_code(code: int) -> None:
    if code >= 500 or code in _AWAY_CODES:
        raise Retryable("status-service-away", f"HTTP {code}", shared=True)
    if not 200 <= code < 300:
        raise Retryable("status-refused", f"HTTP {code}")


def _ignore_body(answer: httpx.Response, deadline: Deadline) -> None:
    """Read a small body to its end, so that the connection is kept; abandon a large, slow or broken one, which closes it.

    The status code has arrived; nothing in the body changes it.
    """
    taken = 0
    deadline.at = min(deadline.at, time.monotonic() + IGNORED_WITHIN_S)
    with contextlib.suppress(httpx.HTTPError):
        for chunk in answer.iter_raw():
            taken += len(chunk)
            if taken > MAX_IGNORED_BYTES:
                return


def _body(answer: httpx.Response) -> bytes:
    parts: list[bytes] = []
    taken = 0
    try:
        for chunk in answer.iter_raw():
            taken += len(chunk)
            if taken > MAX_ANSWER_BYTES:
                raise Retryable("status-unreadable", f"more than {MAX_ANSWER_BYTES} bytes")
            parts.append(chunk)
    except httpx.TimeoutException as error:
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
