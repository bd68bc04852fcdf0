"""The pub/sub source against a real server."""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage_ledger.errors import BadSettings
from storage_ledger.metrics import Metrics
from storage_ledger.sources.contract import Delivery, Source
from storage_ledger.sources.pubsub import PubSub
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey, free_port
from tests.support.waiting import until


class Listener:
    """A source that runs in a thread, and what came out of it."""

    def __init__(self, url: str, channel: str, *, deliver: Callable[[Delivery], None] | None = None, **options: float):
        self.metrics = Metrics()
        self.subscriptions = 0
        self.received: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.source = PubSub(url, channel, self.metrics, on_subscribed=self._count, rng=random.Random(7), **options)
        self.error: BaseException | None = None
        self._deliver = deliver or self.received.put
        self._thread = threading.Thread(target=self._run, name="source")
        self._thread.start()

    def _count(self) -> None:
        self.subscriptions += 1

    def _run(self) -> None:
        try:
            self.source.run(self._deliver, self.stop)
        except ValueError as error:
            self.error = error

    def subscribed(self, times: int = 1) -> Listener:
        until(lambda: self.subscriptions >= times and self.source.subscribed, 20, what=f"subscription {times}")
        return self

    def next(self) -> bytes:
        return self.received.get(timeout=10).raw

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"storage_ledger_source_{name}")

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop.set()
        self.join()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as stack:

        def make(url: str, channel: str, **options: object) -> Listener:
            listener = Listener(url, channel, **options)  # type: ignore[arg-type]
            stack.callback(listener.close)
            return listener

        yield make


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server that may be killed."""
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()


def test_messages_arrive_in_order_with_exactly_their_bytes(valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    sent = [
        b"{}",
        b"",
        b"\xff\xfe\x00 not UTF-8 \r\n$5\r\n",
        "Jürgen".encode(),
        b"x" * 3_000_000,
        b"subscribe",
        b"pong",
    ]
    for raw in sent:
        assert valkey.publish(channel, raw) == 1
    assert [listener.next() for _ in sent] == sent


def test_a_delivery_names_its_source_and_has_no_token(valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    valkey.publish(channel, b"1")
    delivery = listener.received.get(timeout=10)
    assert delivery == Delivery(b"1", "pubsub", None)
    source: Source = listener.source
    source.acknowledge([delivery, delivery])


def test_messages_of_other_channels_do_not_arrive(valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    assert valkey.publish(channel + "x", b"other") == 0
    valkey.publish(channel, b"mine")
    assert listener.next() == b"mine"


def test_it_is_subscribed_only_when_the_server_has_confirmed_it(own_valkey, listen):
    own_valkey.stop()
    listener = listen(own_valkey.url, "described")
    assert not listener.source.subscribed
    assert listener.metric("subscribed") == 0
    own_valkey.start()
    listener.subscribed()
    assert listener.metric("subscribed") == 1
    assert own_valkey.publish("described", b"1") == 1


def test_a_killed_server_that_comes_back_is_subscribed_to_again(own_valkey, listen, log):
    listener = listen(own_valkey.url, "described").subscribed()
    for times in (2, 3):
        own_valkey.kill()
        until(lambda: not listener.source.subscribed, what="the loss is seen")
        assert listener.metric("subscribed") == 0
        own_valkey.start()
        listener.subscribed(times)
        assert own_valkey.publish("described", b"%d" % times) == 1
        assert listener.next() == b"%d" % times
    assert listener.subscriptions == 3
    assert listener.metric("reconnects_total") == 2
    assert log.getvalue().count("source.subscribed") == 3
    assert "error_type='ConnectionError'" in log.getvalue() or "error_type=ConnectionError" in log.getvalue()
    assert "dropped_fields" not in log.getvalue()


def test_a_connection_that_the_server_cuts_is_a_loss_and_a_new_subscription(valkey, listen):
    listener = listen(valkey.url, valkey.channel()).subscribed()
    for times in (2, 3):
        with contextlib.closing(valkey.client()) as client:
            client.client_kill_filter(_type="pubsub")
        listener.subscribed(times)
    assert listener.metric("reconnects_total") == 2


def test_a_peer_that_is_gone_without_a_word_is_noticed(valkey, listen):
    with contextlib.closing(Proxy(valkey.port)) as proxy:
        channel = valkey.channel()
        listener = listen(f"redis://127.0.0.1:{proxy.port}", channel, silence_s=0.6).subscribed()
        proxy.swallow.set()
        until(lambda: not listener.source.subscribed, what="the silence is noticed")
        proxy.swallow.clear()
        listener.subscribed(2)
        valkey.publish(channel, b"1")
        assert listener.next() == b"1"
        listener.close()


def test_a_quiet_channel_is_no_loss(valkey, listen):
    listener = listen(valkey.url, valkey.channel(), silence_s=0.6).subscribed()

    def pings() -> int:
        with contextlib.closing(valkey.client()) as client:
            return int(client.info("commandstats").get("cmdstat_ping", {}).get("calls", 0))

    before = pings()
    until(lambda: pings() >= before + 5, what="five PINGs of an idle connection")  # 1.2 s: twice the silence allowed
    assert listener.subscriptions == 1
    assert listener.source.subscribed


def test_a_refused_password_is_tried_again_until_it_is_right(tmp_path, listen, log):
    server = Valkey(tmp_path, password="hemlig")  # noqa: S106 - of a server that lives for a second
    server.start()
    try:
        listener = listen(server.url.replace("hemlig", "canary-password"), "described")
        until(lambda: log.getvalue().count("source.lost") >= 3, what="three refusals")
        assert listener.running
        assert not listener.source.subscribed
        assert listener.metric("reconnects_total") == 0
        with contextlib.closing(server.client()) as client:
            client.config_set("requirepass", "canary-password")
        listener.subscribed()
        assert "AuthenticationError" in log.getvalue()
        assert "canary" not in log.getvalue()
    finally:
        listener.close()
        server.stop()


def test_a_channel_that_the_user_may_not_read_is_tried_again(own_valkey, listen, log):
    with contextlib.closing(own_valkey.client()) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "resetchannels")
        listener = listen(own_valkey.url.replace("//", "//reader:pw@"), "described")
        until(lambda: "NoPermissionError" in log.getvalue(), what="the refusal is logged")
        client.execute_command("ACL", "SETUSER", "reader", "&described")
        listener.subscribed()


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*x\r\n", b"$-7\r\nabc\r\n", b"*1\r\n" * 5000, b"+OK\r\n", b""])
def test_something_else_on_that_port_is_tried_again(greeting, listen, log):
    other = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                with contextlib.suppress(ConnectionError), other.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(greeting)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        listener = listen(f"redis://127.0.0.1:{other.getsockname()[1]}", "described")
        until(lambda: log.getvalue().count("source.lost") >= 2, what="two attempts")
        assert listener.running
        assert not listener.source.subscribed
    finally:
        stop.set()
        other.shutdown(socket.SHUT_RDWR)
        thread.join()
        other.close()


@pytest.mark.parametrize("away", [True, False])
def test_it_ends_when_it_is_told_to_stop(away, valkey, listen):
    url = f"redis://127.0.0.1:{free_port()}" if away else valkey.url
    listener = listen(url, valkey.channel())
    if not away:
        listener.subscribed()
    listener.stop.set()
    listener.join()
    assert not listener.source.subscribed
    assert listener.metric("subscribed") == 0


def test_waiting_for_the_next_attempt_ends_with_a_stop(valkey):
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 3600.0 + a + b

    metrics, stop = Metrics(), threading.Event()
    source = PubSub(f"redis://127.0.0.1:{free_port()}", "described", metrics, rng=Longest())
    thread = threading.Thread(target=source.run, args=(lambda _: None, stop))
    thread.start()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_nothing_more_is_read_while_a_delivery_waits(valkey, listen):
    channel = valkey.channel()
    gate, entered, seen = threading.Semaphore(0), threading.Semaphore(0), []

    def deliver(delivery: Delivery) -> None:
        seen.append(delivery.raw)
        entered.release()
        gate.acquire()

    listener = listen(valkey.url, channel, deliver=deliver, silence_s=0.2).subscribed()
    with contextlib.closing(valkey.client()) as client:
        for number in range(5):
            client.publish(channel, b"%d" % number)
    for number in range(5):
        assert entered.acquire(timeout=10)
        assert seen == [b"%d" % n for n in range(number + 1)]
        if number == 0:
            assert not entered.acquire(timeout=0.5)  # longer than the silence that counts as a loss
        gate.release()
    assert listener.subscriptions == 1


def test_an_error_of_the_receiver_comes_out_and_leaves_nothing_open(valkey, listen):
    def deliver(_: Delivery) -> None:
        raise ValueError("a bug")

    channel = valkey.channel()
    listener = listen(valkey.url, channel, deliver=deliver).subscribed()
    valkey.publish(channel, b"1")
    listener.join()
    assert str(listener.error) == "a bug"
    assert not listener.source.subscribed
    until(lambda: valkey.publish(channel, b"2") == 0, what="the server sees that we left")


def test_the_options_of_the_url_cannot_change_what_a_message_is(valkey, listen):
    channel = valkey.channel()
    url = valkey.url + "?decode_responses=true&protocol=3&health_check_interval=1&max_connections=3&retry_on_timeout=true"
    listener = listen(url, channel).subscribed()
    for raw in (b"\xff\x00", b"plain"):
        valkey.publish(channel, raw)
    assert [listener.next(), listener.next()] == [b"\xff\x00", b"plain"]


@pytest.mark.parametrize("url", ["redis://:canary@localhost?db=x", "redis://:canary@localhost?nonsense=1"])
def test_options_that_cannot_be_read_are_bad_settings_without_the_password(url):
    with pytest.raises(BadSettings, match="REDIS_URL") as caught:
        PubSub(url, "described", Metrics())
    assert "canary" not in str(caught.value)


def test_the_waits_grow_to_five_seconds_and_begin_anew_after_a_subscription(own_valkey, log):
    asked: list[float] = []

    class Never(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            asked.append(b)
            return 0.0

    own_valkey.stop()
    stop = threading.Event()
    source = PubSub(own_valkey.url, "described", Metrics(), rng=Never())
    thread = threading.Thread(target=source.run, args=(lambda _: None, stop))
    thread.start()
    until(lambda: len(asked) > 12, what="a dozen attempts")
    own_valkey.start()
    until(lambda: source.subscribed, what="subscribed")
    failed = len(asked)
    own_valkey.kill()
    until(lambda: len(asked) > failed + 1, what="two more attempts")
    stop.set()
    thread.join(10)
    assert asked[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert all(each == 5.0 for each in itertools.islice(asked, 6, failed))
    assert asked[failed : failed + 2] == [0.2, 0.4]
