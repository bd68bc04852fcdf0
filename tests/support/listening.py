"""Run a message source in its own thread and collect its deliveries."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storage_ledger.pipeline.receive.pubsub import PubSub
from storage_ledger.pipeline.receive.redis_connection import RedisSource
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.receive.stream import Stream
from storage_ledger.system.metrics import Metrics
from tests.support.valkey import Valkey
from tests.support.waiting import until


@dataclass(frozen=True)
class Kind:
    """A kind of source, and how to publish to it."""

    name: str
    make: Callable[..., RedisSource]
    publish: Callable[[Valkey, str, bytes], object]


def _stream(url: str, channel: str, metrics: Metrics, **options: Any) -> Stream:
    return Stream(url, channel, metrics, **{"consumer": "we", **options})


PUBSUB = Kind("pubsub", PubSub, Valkey.publish)
STREAM = Kind("stream", _stream, Valkey.add)


class Listener:
    """A running source. `deliver`: called with each delivery; by default deliveries are put into `received`."""

    def __init__(self, kind: Kind, url: str, channel: str, *, deliver: Callable[[Delivery], None] | None = None, **options: Any):
        self.metrics = Metrics()
        self.subscriptions = 0
        self.received: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.source = kind.make(url, channel, self.metrics, **{"on_subscribed": self._count, "rng": random.Random(7), **options})
        self.error: BaseException | None = None
        self._deliver = deliver or self.received.put
        self._thread = threading.Thread(target=self._run, name="source")
        self._thread.start()

    def _count(self) -> None:
        self.subscriptions += 1

    def _run(self) -> None:
        try:
            self.source.run(self._deliver, self.stop)
        except (ValueError, OSError) as error:
            self.error = error

    def subscribed(self, times: int = 1) -> Listener:
        until(lambda: self.subscriptions >= times and self.source.subscribed, 20, what=f"subscription {times}")
        return self

    def next(self) -> bytes:
        return self.received.get(timeout=30).raw

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"storage_ledger_{name}")

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop.set()
        self.join()


@contextlib.contextmanager
def listening(kind: Kind) -> Iterator[Callable[..., Listener]]:
    """Makes listeners; all of them are ended after the test."""
    with contextlib.ExitStack() as stack:

        def make(url: str, channel: str, **options: object) -> Listener:
            listener = Listener(kind, url, channel, **options)  # type: ignore[arg-type]
            stack.callback(listener.close)
            return listener

        yield make
