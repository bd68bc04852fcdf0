"""Redis pub/sub as a source: at most once, so what is published while we are away is the reconciler's work."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from storage_ledger import logs
from storage_ledger.errors import BadSettings
from storage_ledger.metrics import Metrics
from storage_ledger.sources.contract import Delivery, Source

POLL_S = 0.25
"""How long one read waits: what a stop has to wait for at most."""

CONNECT_S = 5.0
"""How long connecting, each step of the handshake and each write may take; a stop waits for it."""

SILENCE_S = 25.0
"""A server that says nothing for so long, not even to our PINGs, is gone, whatever TCP believes."""

BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 5.0


class PubSub(Source):
    """Subscribes to one channel and subscribes again whenever that is lost.

    `on_subscribed` is called in the thread of `run` after every subscription that the server confirmed, the first one
    too: from then on nothing is missed, until the next loss. Raises `BadSettings` for options in the URL that cannot be
    read; whether the server can be reached shows in `run` only, which then waits 0.2 to 5 s (doubling, full jitter)
    between attempts. A stop takes at most about 0.3 s, and 5 s while a server neither accepts nor refuses a connection.
    """

    name = "pubsub"

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
        self._connection = _connection(redis_url)
        self._channel = channel
        self._metrics = metrics
        self._on_subscribed = on_subscribed
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._silence_s = silence_s
        self._subscribed = threading.Event()

    @property
    def subscribed(self) -> bool:
        """True from the server's confirmation until the loss of that connection is noticed (25 s at most)."""
        return self._subscribed.is_set()

    def run(self, deliver: Callable[[Delivery], None], stop: threading.Event) -> None:
        """See `Source.run`."""
        with contextlib.closing(self._messages(stop)) as messages:
            for raw in messages:
                if raw is not None:
                    deliver(Delivery(raw, self.name))
                elif self._on_subscribed is not None:
                    self._on_subscribed()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to do: pub/sub forgets a message when it has sent it."""

    def _messages(self, stop: threading.Event) -> Generator[bytes | None, None, None]:
        """All connections' messages, one after the other; None where a subscription begins."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    yield from self._session(stop)
                except (redis.RedisError, OSError) as error:
                    failures = 1 if self.subscribed else failures + 1
                    self._lost(error, failures, stop)
        finally:
            self._close()

    def _lost(self, error: Exception, failures: int, stop: threading.Event) -> None:
        if self.subscribed:
            self._metrics.reconnects.inc()
        self._close()
        wait_s = self._rng.uniform(0, min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)))
        # Never the error's text: it may quote the URL, and with it a password.
        logs.get().warning("source.lost", error_type=type(error).__name__, attempt=failures, after_s=round(wait_s, 3))
        stop.wait(wait_s)

    def _session(self, stop: threading.Event) -> Generator[bytes | None, None, None]:
        """One connection's messages, until `stop` or the error that ends it."""
        with _parsing():
            self._connection.connect()
        self._connection.send_command("SUBSCRIBE", self._channel, check_health=False)
        heard = asked = time.monotonic()
        while not stop.is_set():
            answer = self._read()
            if answer is None:
                now = time.monotonic()
                if now - heard > self._silence_s:
                    raise redis.TimeoutError
                if now - max(heard, asked) > self._silence_s * 0.4:
                    self._connection.send_command("PING", check_health=False)
                    asked = now
                continue
            match answer:
                case [b"message", _, bytes(data)]:
                    yield data
                case [b"subscribe", _, _] if not self.subscribed:
                    self._subscribed.set()
                    self._metrics.subscribed.set(1)
                    logs.get().info("source.subscribed", channel=self._channel)
                    yield None
                case [b"unsubscribe", _, _]:
                    raise redis.ConnectionError
                case _:
                    pass  # a PONG, or what a later server may say
            heard = time.monotonic()  # after the delivery: while that blocks, we don't listen

    def _read(self) -> object:
        """One answer, or None when none is complete within POLL_S; the part that has come is kept for the next read."""
        try:
            with _parsing():
                return self._connection.read_response(disable_decoding=True, disconnect_on_error=False, timeout=POLL_S)
        except redis.TimeoutError:
            return None

    def _close(self) -> None:
        self._subscribed.clear()
        self._metrics.subscribed.set(0)
        self._connection.disconnect()


@contextlib.contextmanager
def _parsing() -> Iterator[None]:
    """Translate what redis-py's parser raises on bytes that are not RESP: something else listens on that port."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise redis.InvalidResponse from error


class _Connection(Protocol):
    """What we use of a redis-py connection, which has hardly any types of its own."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_command(self, *args: str, check_health: bool) -> None: ...
    def read_response(self, disable_decoding: bool = False, *, timeout: float, disconnect_on_error: bool) -> object: ...


def _connection(redis_url: str) -> _Connection:
    """Make a connection that is not connected yet.

    redis-py's own PubSub is not for us. It resubscribes by itself (even with no retries allowed: its failure callback
    reconnects before the retries are counted), so that nobody learns of the gap; and its health check sends PINGs but
    never looks for the answers, so that a peer that is gone without a FIN goes unnoticed (redis/client.py 8.1.0,
    PubSub._execute and check_health; redis/redis-py#2417).
    """
    try:
        pool = ConnectionPool.from_url(redis_url, maint_notifications_config=MaintNotificationsConfig(enabled=False))
        options = {name: value for name, value in pool.connection_kwargs.items() if name not in _POOL_ONLY}
        connection: _Connection = pool.connection_class(**{**options, **_OURS})
    except (ValueError, TypeError, redis.RedisError):
        # Not the error's text: it quotes the URL.
        raise BadSettings("bad-settings", "REDIS_URL: has an option that is unknown or cannot be read") from None
    return connection


_POOL_ONLY = frozenset({"timeout", "max_connections"})

_OURS = {
    "protocol": 2,  # one shape for every answer, and it needs no HELLO, which restricted users may lack
    "decode_responses": False,
    "socket_connect_timeout": CONNECT_S,
    "socket_timeout": CONNECT_S,
    "health_check_interval": 0,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
    "retry_on_error": [],
}
