"""A Redis stream as a source, read through a consumer group: at least once. Unacknowledged entries are delivered again.

The server keeps, for each consumer of the group, the entries that it was given and has not acknowledged. So a crash loses
nothing here: whatever a crash, a stop or a lost answer leaves unacknowledged is read again, by the same consumer in its next
session or by another one after a long idle time. If only the acknowledgement was lost, the message becomes a redelivery.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import redis
from typing_extensions import override

from storage_ledger.pipeline.receive.redis_connection import CONNECT_S, SILENCE_S, RedisSource, ask, bare_connection, parsing, trouble
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.system import logs
from storage_ledger.system.metrics import Metrics

GROUP = "storage-ledger"
"""The consumer group; several services that read one stream share its entries among them."""

FIELD = b"data"

TAKE_OVER_AFTER_S = 3600.0
"""Unacknowledged entries of another consumer are claimed after this time. It is long, because a live consumer whose ledger is full
does not acknowledge either, and would record them too."""

TAKE_OVER_EVERY_S = 60.0
"""How often such entries are looked for; also when a session begins."""

BLOCK_MS = 250
"""How long the server holds a read that has no entries."""

BLOCK_HOLDING_MS = 20
"""The same while delivered messages are being recorded: acknowledgements are sent between two reads."""

BATCH_MOST = 128
BATCH_BYTES = 1 << 20
"""Approximate size of one read, once the size of the entries is known."""

ACKNOWLEDGED_AT_ONCE = 1000

_FIRST = "0-0"
_BEYOND_ALL = f"{2**64 - 1}-{2**64 - 2}"

_Entry = tuple[str, list[bytes] | None]
"""An entry's id and its fields and values in turn; None if the entry was deleted before it was acknowledged."""


class Stream(RedisSource):
    """Reads one stream as `consumer` of the group `storage-ledger`, which it creates at the stream's beginning.

    `consumer` must stay the same when the process or machine changes, so that it finds its own unacknowledged entries, and
    no two running processes may share it. For the other arguments see `RedisSource`. Needs Redis 6.2 or newer.

    Everything, including acknowledgements, uses one connection in the thread of `run`; while that runs, `acknowledge` only
    queues.
    """

    name = "stream"

    def __init__(
        self,
        redis_url: str,
        stream: str,
        metrics: Metrics,
        *,
        consumer: str,
        take_over_after_s: float = TAKE_OVER_AFTER_S,
        on_subscribed: Callable[[], None] | None = None,
        rng: random.Random | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(redis_url, stream, metrics, on_subscribed=on_subscribed, rng=rng, silence_s=silence_s)
        self._redis_url = redis_url
        self._consumer = consumer
        self._take_over_after_ms = int(take_over_after_s * 1000)
        self._batch = 1
        self._lock = threading.Lock()  # guards everything below
        self._reading = False
        self._times_made = 0
        self._held: set[str] = set()  # delivered, not acknowledged yet
        self._owed: dict[str, None] = {}  # to be acknowledged, in order
        self._gave_up = False

    @override
    def run(self, deliver: Callable[[Delivery], None], stop: threading.Event) -> None:
        with self._lock:
            self._reading, self._gave_up = True, False
        try:
            super().run(deliver, stop)
        finally:
            with self._lock:
                self._reading = False
            self._acknowledge_afterwards()

    @override
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                made, _, entry_id = (delivery.token or "").partition(" ")
                if made == str(self._times_made):  # otherwise from a group that is gone: a new one may use the id for another entry
                    self._owed[entry_id] = None
            if self._reading:
                return
        self._acknowledge_afterwards()

    def _session(self, stop: threading.Event) -> Iterator[Delivery | None]:
        def call(*command: str) -> object:
            return ask(self._connection, *command, within_s=self._silence_s, stop=stop)

        self._open(call)
        self._begin()
        yield None
        self._batch = 1  # their size is not known yet
        yield from self._own(call, stop)
        looked_at = None
        while not stop.is_set():
            self._acknowledge_owed(call)
            if looked_at is None or time.monotonic() - looked_at > TAKE_OVER_EVERY_S:
                yield from self._stale(call, stop)
                looked_at = time.monotonic()
            block_ms = BLOCK_HOLDING_MS if self._held else BLOCK_MS
            answer = call(*self._read_group("BLOCK", str(block_ms)), ">")
            # Delivered even if we hold one with that id: the server delivered it again, so it has lost its state.
            yield from self._hand_over(_entries_of(answer), stop)

    def _open(self, call: Callable[..., object]) -> None:
        """Create the group if needed, and try every command that a session uses, so that a missing permission shows now."""
        try:
            call("XGROUP", "CREATE", self._channel, GROUP, _FIRST, "MKSTREAM")
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        else:
            with self._lock:  # an earlier group, if any, is gone with everything unacknowledged
                self._times_made += 1
                self._held.clear()
                self._owed.clear()
            logs.get().info("source.group-made", channel=self._channel)
        call(*self._read_group(), _BEYOND_ALL)
        call(*self._claim(_BEYOND_ALL), "JUSTID")
        call("XACK", self._channel, GROUP, _FIRST)

    def _own(self, call: Callable[..., object], stop: threading.Event) -> Iterator[Delivery]:
        """Yield our own unacknowledged entries: from an earlier run, or from an answer that was lost."""
        after = _FIRST
        while not stop.is_set():
            self._acknowledge_owed(call)
            entries = _entries_of(call(*self._read_group(), after))
            if not entries:
                return
            after = entries[-1][0]
            yield from self._hand_over(self._not_held(entries), stop)

    def _stale(self, call: Callable[..., object], stop: threading.Event) -> Iterator[Delivery]:
        """Claim entries that other consumers were given long ago and have not acknowledged."""
        after = _FIRST
        while not stop.is_set():
            self._acknowledge_owed(call)
            match call(*self._claim(after)):
                case [bytes(cursor), list(found), list(deleted)]:
                    pass
                case [bytes(cursor), list(found)]:  # Redis 6.2: a deleted entry is None, and appears among our own later
                    deleted = []
                case _:
                    raise redis.InvalidResponse
            entries = self._not_held(_checked([each for each in found if each is not None]))
            self._miss(sum(_id(each) not in self._held for each in deleted))
            if entries:
                self._metrics.stream_taken_over.inc(len(entries))
                logs.get().warning("source.taken-over", channel=self._channel, count=len(entries))
            yield from self._hand_over(entries, stop)
            after = _id(cursor)
            if after == _FIRST:
                return

    def _not_held(self, entries: list[_Entry]) -> list[_Entry]:
        return [entry for entry in entries if entry[0] not in self._held]

    def _hand_over(self, entries: list[_Entry], stop: threading.Event) -> Iterator[Delivery]:
        """Deliver entries. Those left at a stop stay unacknowledged and are delivered again."""
        missed = [entry_id for entry_id, fields in entries if fields is None]
        self._miss(len(missed))
        with self._lock:
            self._owed.update(dict.fromkeys(missed))  # nothing to deliver again
        for entry_id, fields in entries:
            if stop.is_set():
                return
            if fields is not None:
                yield Delivery(_raw(fields), self.name, f"{self._times_made} {entry_id}")
                with self._lock:
                    self._held.add(entry_id)
                self._metrics.stream_pending.set(len(self._held))
        if entries:
            size = sum(len(part) for _, fields in entries for part in fields or ())
            self._batch = max(1, min(BATCH_MOST, 2 * self._batch, len(entries) * BATCH_BYTES // max(1, size)))

    def _miss(self, count: int) -> None:
        if count:
            self._metrics.stream_missed.inc(count)
            logs.get().error("source.entries-missed", channel=self._channel, count=count)

    def _acknowledge_owed(self, call: Callable[..., object]) -> None:
        """Send the queued acknowledgements; an error leaves the rest queued."""
        while True:
            with self._lock:
                ids = [*self._owed][:ACKNOWLEDGED_AT_ONCE]
            if not ids:
                return
            call("XACK", self._channel, GROUP, *ids)
            with self._lock:
                for entry_id in ids:
                    self._owed.pop(entry_id, None)
                self._held.difference_update(ids)
            self._metrics.stream_pending.set(len(self._held))

    def _acknowledge_afterwards(self) -> None:
        """Send them after reading has ended. If that fails, the next start receives these as redeliveries."""
        if not self._owed or self._gave_up:
            return
        connection = bare_connection(self._redis_url)
        try:
            with parsing():
                connection.connect()
            self._acknowledge_owed(lambda *command: ask(connection, *command, within_s=CONNECT_S))
        except (redis.RedisError, OSError) as error:
            self._gave_up = True
            logs.get().warning("source.not-acknowledged", code=trouble(error), count=len(self._owed))
        finally:
            connection.disconnect()

    def _read_group(self, *options: str) -> tuple[str, ...]:
        return (
            "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", str(self._batch), *options, "STREAMS", self._channel,
        )  # fmt: skip

    def _claim(self, after: str) -> tuple[str, ...]:
        return (
            "XAUTOCLAIM", self._channel, GROUP, self._consumer, str(self._take_over_after_ms), after, "COUNT", str(self._batch),
        )  # fmt: skip


def _entries_of(answer: object) -> list[_Entry]:
    match answer:
        case None:
            return []
        case [[_, list(entries)]]:
            return _checked(entries)
        case _:
            raise redis.InvalidResponse


def _checked(entries: list[object]) -> list[_Entry]:
    checked: list[_Entry] = []
    for entry in entries:
        match entry:
            case [bytes(entry_id), None]:
                checked.append((_id(entry_id), None))
            case [bytes(entry_id), list(fields)] if all(isinstance(part, bytes) for part in fields):
                checked.append((_id(entry_id), fields))
            case _:
                raise redis.InvalidResponse
    return checked


def _id(raw: bytes) -> str:
    return raw.decode("ascii", "replace")


def _raw(fields: list[bytes]) -> bytes:
    """Return what the intake validates: the value of `data`. An entry of any other shape becomes a JSON list, which is never an event."""
    if len(fields) == 2 and fields[0] == FIELD:
        return fields[1]
    return json.dumps([part.decode("utf-8", "backslashreplace") for part in fields], ensure_ascii=False).encode()
