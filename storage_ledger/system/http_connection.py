"""A kept-open HTTP/1.1 connection with a deadline for each call: httpcore's sockets and h11's parser, without a client and its pool."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import h11
import httpcore
import httpx

KEEP_IDLE_S = 3.0
"""Shorter than uvicorn's five seconds: if the server closed an idle connection first, a POST could be lost."""

MAX_HEAD_BYTES = 100 << 10
"""Longest status line with its headers; also the longest line of a chunked body."""

BROKEN = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError)
"""What a call raises if it gets no whole answer. The names of the classes are httpx's, too; their texts may hold the server's."""

_READ_BYTES = 64 << 10
_PLAIN_HEAD = re.compile(
    rb"HTTP/1\.1 (2(?!04)\d\d|3(?!04)\d\d|[45]\d\d) [\t -~]*\r\n"  # 204 and 304 have no body, whatever the headers say
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)*)\r\n"
)
_ANY_REQUEST = h11.Request(method="GET", target="/", headers=[("Host", "")])  # the end of an answer is the same for a POST


def client_context() -> ssl.SSLContext:
    """Return how a client speaks TLS: HTTP/1.1 alone, and with servers that the system trusts, or SSL_CERT_FILE."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection:
    """One connection, used by one call at a time. No redirects, cookies, proxies or second attempts.

    It costs a sixth of the CPU of httpx's transport, which parses URL and headers several times for each call. A pool for all
    threads would close connections that it has just given to another thread (httpcore 1.0.9, encode/httpcore#1110: with 8 threads
    on 4 connections, 37 of 4,000 POSTs failed with EBADF or hung, and each would count as an outage).
    """

    def __init__(self, url: httpx.URL, context: ssl.SSLContext, *, keep_idle_s: float = KEEP_IDLE_S) -> None:
        """Take the scheme (http or https), host and port of `url`; connect at the first call."""
        self._keep_idle_s = keep_idle_s
        self._host = url.raw_host.decode("ascii")
        self._port = {"http": 80, "https": 443}[url.scheme] if url.port is None else url.port
        self._context = context if url.scheme == "https" else None
        self._stream: httpcore.NetworkStream | None = None
        self._keep_until = 0.0

    def call(self, request: bytes, until: float) -> Answer:
        """Send a GET or POST, and return its answer when the headers have arrived; the caller closes it.

        `until` is the end of the call (`time.monotonic`); time-outs of single reads could be outlasted by a slow answer.
        Raises one of `BROKEN`; then the server may still have acted on the request. It is never sent twice.
        """
        try:
            stream = self._opened(until)
            with contextlib.suppress(httpcore.WriteError):  # a server may answer, and close, before it has read all
                stream.write(request, left(until, httpcore.WriteTimeout))
            return Answer(self, stream, until)
        except BaseException:
            self.close()
            raise

    def keep(self) -> None:
        """Keep the connection for the next call."""
        self._keep_until = time.monotonic() + self._keep_idle_s

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _opened(self, until: float) -> httpcore.NetworkStream:
        # An idle connection can be read from only when the server has closed it, or sent what nobody asked for.
        if self._stream is not None and (time.monotonic() > self._keep_until or self._stream.get_extra_info("is_readable")):
            self.close()
        if self._stream is None:
            self._stream = httpcore.SyncBackend().connect_tcp(self._host, self._port, left(until, httpcore.ConnectTimeout))
            if self._context is not None:
                self._stream = self._stream.start_tls(self._context, self._host, left(until, httpcore.ConnectTimeout))
        return self._stream


class Answer:
    """An answer whose headers have arrived. `until`: the end of the call, which may be brought forward."""

    def __init__(self, connection: Connection, stream: httpcore.NetworkStream, until: float) -> None:
        self.until = until
        self._connection = connection
        self._stream = stream
        data = self._read()
        head = plain_head(data)
        self._framing: _Length | _Parsed = _Parsed(data, self._read) if head is None else _Length(head, data, self._read)
        self.code = self._framing.code
        self.content_type = self._framing.content_type

    def body(self) -> Iterator[bytes]:
        """Yield the body as it arrives, without its chunked encoding. Raises one of `BROKEN`."""
        return self._framing.body()

    def close(self) -> None:
        """Keep the connection if the body was read to its end and nothing follows it; close it otherwise."""
        if self._framing.reusable():
            self._connection.keep()
        else:
            self._connection.close()

    def _read(self) -> bytes:
        return self._stream.read(_READ_BYTES, left(self.until, httpcore.ReadTimeout))


@dataclass(frozen=True, slots=True)
class PlainHead:
    """The usual head of an answer: HTTP/1.1, a length, and nothing that ends the connection. `size`: of the head itself."""

    code: int
    content_type: str
    length: int
    size: int


def plain_head(data: bytes) -> PlainHead | None:
    """Return what an answer's first bytes say if its head is whole and plain; None leaves it to h11, which costs three times as much."""
    match = _PLAIN_HEAD.match(data)
    if match is None:
        return None
    lines = [line.partition(b":") for line in match[2].split(b"\r\n")[:-1]]
    headers = {name.lower(): value.strip(b" \t") for name, _, value in lines}
    length = headers.get(b"content-length", b"")
    if (
        len(headers) < len(lines)  # one is there twice
        or not (length.isdigit() and len(length) < 19)
        or b"transfer-encoding" in headers
        or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive"
    ):
        return None
    return PlainHead(int(match[1]), headers.get(b"content-type", b"").decode("ascii"), int(length), match.end())


class _Length:
    """The body that follows a plain head."""

    def __init__(self, head: PlainHead, data: bytes, read: Callable[[], bytes]) -> None:
        self.code = head.code
        self.content_type = head.content_type
        self._read = read
        self._data = data[head.size :]
        self._left = head.length

    def body(self) -> Iterator[bytes]:
        while self._data or self._left > 0:
            data = self._data or self._read()
            if not data:
                raise httpcore.RemoteProtocolError
            yield data[: self._left]
            self._data = b""
            self._left -= len(data)  # negative: there is more than the body

    def reusable(self) -> bool:
        return self._left == 0


class _Parsed:
    """Any other answer, as h11 reads it."""

    def __init__(self, data: bytes, read: Callable[[], bytes]) -> None:
        self._read = read
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._parser.send(_ANY_REQUEST)
        self._parser.send(h11.EndOfMessage())
        self._parser.receive_data(data)
        while isinstance(head := self._event(), h11.InformationalResponse):
            pass
        if not isinstance(head, h11.Response):
            raise httpcore.RemoteProtocolError
        self.code = head.status_code
        self.content_type = next((value.decode("latin-1") for name, value in head.headers if name == b"content-type"), "")

    def body(self) -> Iterator[bytes]:
        while isinstance(event := self._event(), h11.Data):
            yield bytes(event.data)

    def reusable(self) -> bool:
        parser = self._parser
        return parser.our_state is h11.DONE and parser.their_state is h11.DONE and not parser.trailing_data[0]

    def _event(self) -> object:
        try:
            while (event := self._parser.next_event()) is h11.NEED_DATA:
                self._parser.receive_data(self._read())
        except h11.RemoteProtocolError as error:
            raise httpcore.RemoteProtocolError from error
        return event


def left(until: float, error: type[Exception]) -> float:
    """Return the time-out of one step; raise `error` when there is no time left."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise error
    return seconds
