"""Redis pub/sub as a source: at most once. Messages published while the service is away are recovered by the reconciler."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import redis
from typing_extensions import override

from storage_ledger.pipeline.receive.redis_connection import RedisSource, read
from storage_ledger.pipeline.receive.source import Delivery


class PubSub(RedisSource):
    """Subscribes to one channel, and again after each loss. Between a subscription and its loss, no message is missed.

    For its arguments see `RedisSource`.
    """

    name = "pubsub"

    @override
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing: pub/sub forgets a message once it is sent."""

    def _session(self, stop: threading.Event) -> Iterator[Delivery | None]:
        self._connection.send_command("SUBSCRIBE", self._channel, check_health=False)
        heard = asked = time.monotonic()
        while not stop.is_set():
            try:
                answer = read(self._connection)
            except redis.TimeoutError:
                now = time.monotonic()
                if now - heard > self._silence_s:
                    raise
                if now - max(heard, asked) > self._silence_s * 0.4:
                    self._connection.send_command("PING", check_health=False)
                    asked = now
                continue
            match answer:
                case [b"message", _, bytes(data)]:
                    yield Delivery(data, self.name)
                case [b"subscribe", _, _] if not self.subscribed:
                    self._begin()
                    yield None
                case [b"unsubscribe", _, _]:
                    raise redis.ConnectionError
                case _:
                    pass  # a PONG, or something that a later server sends
            heard = time.monotonic()  # after the delivery, because nothing is read while that blocks
