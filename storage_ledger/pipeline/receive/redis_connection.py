"""Base of the sources on a Redis server: one plain connection, and one session after another on it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from typing_extensions import override

from storage_ledger.errors import BadSettings
from storage_ledger.pipeline.receive.source import Delivery, Source
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

POLL_S = 0.25
"""Longest wait of one read, and so the longest that a stop waits for it."""

CONNECT_S = 5.0
"""Longest time for connecting, for each step of the handshake and for each write; a stop waits for it."""

SILENCE_S = 25.0
"""A server that does not answer a request for this long is gone, whatever TCP reports."""

SAID_ALL = 3
"""The first failed attempts in a row that are all logged; then only the 4th, 8th, 16th … and any with another cause."""
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 5.0


class RedisSource(Source):
    """Starts a new session whenever one is lost. Subclasses implement `_session`.

    `on_subscribed` is called in the thread of `run` when each session begins, including the first. Raises `BadSettings`
    for unreadable options in the URL. Only `run` finds out whether the server can be reached and accepts the login; it
    waits 0.2 to 5 s (doubling, full jitter) between attempts. A stop takes at most about half a second, or 5 s while a
    server neither accepts nor refuses a connection.
    """

    def __init__(
        self,
        redis_url: str,
        channel: str,
        metrics: Metrics,
        *,
        on_subscribed: Callable[[], None] | None = None,
        rng: random.Random | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._connection = bare_connection(redis_url)
        self._channel = channel
        self._metrics = metrics
        self._on_subscribed = on_subscribed
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._silence_s = silence_s
        self._subscribed = threading.Event()
        self._trouble: str | None = None

    @property
    @override
    def subscribed(self) -> bool:
        """Return True from the server's confirmation until the loss of the connection is noticed (at most 25 s later)."""
        return self._subscribed.is_set()

    @property
    @override
    def trouble(self) -> str | None:
        return self._trouble

    @override
    def run(self, deliver: Callable[[Delivery], None], stop: threading.Event) -> None:
        with contextlib.closing(self._deliveries(stop)) as deliveries:
            for delivery in deliveries:
                if delivery is not None:
                    deliver(delivery)
                elif self._on_subscribed is not None:
                    self._on_subscribed()

    @abstractmethod
    def _session(self, stop: threading.Event) -> Iterator[Delivery | None]:
        """Yield the deliveries of a new connection until `stop` or the error that ends it. Calls `self._begin()` once."""

    def _begin(self) -> None:
        """Note that the server has confirmed the subscription: messages published from now on arrive, until the next loss."""
        self._trouble = None
        self._subscribed.set()
        self._metrics.subscribed.set(1)
        logs.get().info("source.subscribed", source=self.name, channel=self._channel)

    def _deliveries(self, stop: threading.Event) -> Generator[Delivery | None, None, None]:
        """Yield the deliveries of all sessions in turn, and None when a session begins."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    with parsing():
                        self._connection.connect()
                    yield from self._session(stop)
                except (redis.RedisError, OSError) as error:
                    if stop.is_set():
                        return
                    failures = 1 if self.subscribed else failures + 1
                    self._lost(error, failures, stop)
        finally:
            self._close()

    def _lost(self, error: Exception, failures: int, stop: threading.Event) -> None:
        if self.subscribed:
            self._metrics.reconnects.inc()
        before, self._trouble = self._trouble, trouble(error)
        self._close()
        wait_s = self._rng.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)))
        # A weekend's outage is a dozen lines. Never log the error's text: it may quote the URL and its password.
        if self._trouble != before or failures <= SAID_ALL or failures.bit_count() == 1:
            word = {"code": self._trouble, "error_type": type(error).__name__, "attempt": failures, "after_s": round(wait_s, 3)}
            logs.get().warning("source.lost", address=_address(self._connection), **word)
        stop.wait(wait_s)

    def _close(self) -> None:
        self._subscribed.clear()
        self._metrics.subscribed.set(0)
        self._connection.disconnect()


def _address(connection: Any) -> str:
    """Return the server's address without user and password."""
    return str(getattr(connection, "path", None) or f"{connection.host}:{connection.port}")


def trouble(error: Exception) -> str:
    """Return the stable code for what the server refuses, or for why it cannot be reached."""
    by_word = {
        "LOADING": "redis-loading",
        "NOAUTH": "redis-login-refused",
        "WRONGPASS": "redis-login-refused",
        "NOPERM": "redis-no-permission",
        "WRONGTYPE": "redis-wrong-type",
        "NOGROUP": "redis-group-gone",
        "UNBLOCKED": "redis-group-gone",
        "READONLY": "redis-read-only",
        "MOVED": "redis-cluster",
        "ASK": "redis-cluster",
        "TRYAGAIN": "redis-cluster",
        "CLUSTERDOWN": "redis-cluster",
        "MISCONF": "redis-not-writable",
        "NOREPLICAS": "redis-not-writable",
        "OOM": "redis-not-writable",
    }
    by_type = (
        (redis.AuthenticationError, "redis-login-refused"),
        (redis.TimeoutError, "redis-silent"),
        (redis.InvalidResponse, "redis-not-understood"),
        ((redis.ConnectionError, OSError), "redis-unreachable"),
    )
    if "unknown command" in str(error):
        return "redis-too-old"
    # Redis begins an error with a code word; redis-py removes it if it has a class for it.
    word = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    if word in by_word:
        return by_word[word]
    return next((code for kind, code in by_type if isinstance(error, kind)), "redis-refuses")


def read(connection: _Connection) -> object:
    """Read one answer. Raises `redis.TimeoutError` if none is complete within POLL_S; a partial answer is kept for the next read."""
    with parsing():
        return connection.read_response(disable_decoding=True, disconnect_on_error=False, timeout=POLL_S)


def ask(connection: _Connection, *command: str, within_s: float, stop: threading.Event | None = None) -> object:
    """Return one command's answer. Raises the server's refusal, and `redis.TimeoutError` after `within_s` or soon after `stop`."""
    connection.send_command(*command, check_health=False)
    asked = time.monotonic()
    while True:
        try:
            return read(connection)
        except redis.TimeoutError:
            if time.monotonic() - asked > within_s or (stop is not None and stop.is_set()):
                raise


class _Connection(Protocol):
    """The parts of a redis-py connection that we use; redis-py has hardly any types."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_command(self, *args: str, check_health: bool) -> None: ...
    def read_response(self, disable_decoding: bool = False, *, timeout: float, disconnect_on_error: bool) -> object: ...


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Translate what redis-py's parser raises for bytes that are not RESP: another kind of server is on that port."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise redis.InvalidResponse from error


def bare_connection(redis_url: str) -> _Connection:
    """Return a connection object that is not connected yet.

    redis-py's own clients are unsuitable. They reconnect silently (PubSub even with no retries allowed: its failure
    callback reconnects before the retries are counted), so the gap goes unnoticed. And the health check of PubSub sends
    PINGs but never checks for the answers, so a peer that is gone without a FIN goes unnoticed
    (redis/client.py 8.1.0, PubSub._execute and check_health; redis/redis-py#2417).
    """
    try:
        pool = ConnectionPool.from_url(redis_url, maint_notifications_config=MaintNotificationsConfig(enabled=False))
        options = {name: value for name, value in pool.connection_kwargs.items() if name not in _POOL_ONLY}
        connection: _Connection = pool.connection_class(**{**options, **_OURS})
    except (ValueError, TypeError, redis.RedisError):
        # Not the error's text, which quotes the URL.
        raise BadSettings("bad-settings", "REDIS_URL: has an option that is unknown or cannot be read") from None
    return connection


_POOL_ONLY = frozenset({"timeout", "max_connections"})

_OURS = {
    "protocol": 2,  # one form of answer, and no need for HELLO, which restricted users may not be allowed
    "decode_responses": False,
    "socket_connect_timeout": CONNECT_S,
    "socket_timeout": CONNECT_S,
    "health_check_interval": 0,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "retry_on_error": [],
}
