"""The contract of every message source (storage_ledger/pipeline/receive/source.py), each against a real server."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import socket
import threading

import pytest

from storage_ledger.errors import BadSettings
from storage_ledger.pipeline.receive.source import Delivery, Source
from storage_ledger.system.metrics import Metrics
from tests.support.listening import PUBSUB, STREAM, listening
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey, free_port
from tests.support.waiting import until


@pytest.fixture(params=[PUBSUB, STREAM], ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def listen(kind):
    with listening(kind) as make:
        yield make


def test_messages_arrive_in_order_with_exactly_their_bytes(kind, valkey, listen):
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
        *(b"%d" % number for number in range(300)),
    ]
    for raw in sent:
        kind.publish(valkey, channel, raw)
    assert [listener.next() for _ in sent] == sent


def test_a_delivery_names_its_source_and_may_be_acknowledged_twice_and_later(kind, valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    kind.publish(valkey, channel, b"1")
    delivery = listener.received.get(timeout=30)
    assert (delivery.raw, delivery.source) == (b"1", kind.name)
    source: Source = listener.source
    assert source.name == kind.name
    source.acknowledge([delivery, delivery])
    listener.close()
    source.acknowledge([delivery])


def test_it_is_subscribed_only_when_the_server_has_confirmed_it(kind, own_valkey, listen):
    own_valkey.stop()
    listener = listen(own_valkey.url, "described")
    until(lambda: listener.source.trouble == "redis-unreachable", what="the first attempt has failed")
    assert not listener.source.subscribed
    assert listener.metric("source_subscribed") == 0
    own_valkey.start()
    listener.subscribed()
    assert listener.source.trouble is None
    assert listener.metric("source_subscribed") == 1
    kind.publish(own_valkey, "described", b"1")
    assert listener.next() == b"1"


def test_a_killed_server_that_comes_back_is_subscribed_to_again(kind, own_valkey, listen, log):
    listener = listen(own_valkey.url, "described").subscribed()
    for times in (2, 3):
        own_valkey.kill()
        until(lambda: not listener.source.subscribed, what="the loss is seen")
        assert listener.metric("source_subscribed") == 0
        own_valkey.start()
        listener.subscribed(times)
        kind.publish(own_valkey, "described", b"%d" % times)
        assert listener.next() == b"%d" % times
    assert listener.subscriptions == 3
    assert listener.metric("source_reconnects_total") == 2
    assert log.getvalue().count("source.subscribed") == 3
    assert "code=redis-unreachable error_type=ConnectionError" in log.getvalue()
    assert "dropped" not in log.getvalue()


def test_a_connection_that_the_server_cuts_is_a_loss_and_a_new_subscription(kind, own_valkey, listen):
    listener = listen(own_valkey.url, "described").subscribed()
    for times in (2, 3):
        with contextlib.closing(own_valkey.client()) as client:
            client.client_kill_filter(_type="pubsub" if kind is PUBSUB else "normal", skipme=True)
        listener.subscribed(times)
    assert listener.metric("source_reconnects_total") == 2


def test_a_peer_that_is_gone_without_a_word_is_noticed(kind, valkey, listen):
    with contextlib.closing(Proxy(valkey.port)) as proxy:
        channel = valkey.channel()
        listener = listen(f"redis://127.0.0.1:{proxy.port}", channel, silence_s=0.6).subscribed()
        proxy.swallow.set()
        until(lambda: not listener.source.subscribed, what="the silence is noticed")
        assert listener.source.trouble == "redis-silent"
        proxy.swallow.clear()
        listener.subscribed(2)
        kind.publish(valkey, channel, b"1")
        assert listener.next() == b"1"
        listener.close()


def test_nothing_published_for_long_is_no_loss(kind, own_valkey, listen):
    listener = listen(own_valkey.url, "described", silence_s=1.5).subscribed()

    def asked() -> int:
        with contextlib.closing(own_valkey.client()) as client:
            found = client.info("commandstats")
        return sum(int(found.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("ping", "xreadgroup"))

    before = asked()
    until(lambda: asked() >= before + 4, what="an idle connection asks four times")  # 2.4 s: longer than the silence allowed
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
        assert listener.source.trouble == "redis-login-refused"
        assert listener.metric("source_reconnects_total") == 0
        with contextlib.closing(server.client()) as client:
            client.config_set("requirepass", "canary-password")
        listener.subscribed()
        assert "canary" not in log.getvalue()
    finally:
        listener.close()
        server.stop()


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
def test_it_ends_when_it_is_told_to_stop(away, valkey, listen, log):
    url = f"redis://127.0.0.1:{free_port()}" if away else valkey.url
    listener = listen(url, valkey.channel())
    if not away:
        listener.subscribed()
    listener.stop.set()
    listener.join()
    assert not listener.source.subscribed
    assert listener.metric("source_subscribed") == 0
    assert away or "source.lost" not in log.getvalue()


def test_waiting_for_the_next_attempt_ends_with_a_stop(kind):
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return 3600.0 + a + b

    stop = threading.Event()
    source = kind.make(f"redis://127.0.0.1:{free_port()}", "described", Metrics(), rng=Longest())
    thread = threading.Thread(target=source.run, args=(lambda _: None, stop))
    thread.start()
    until(lambda: source.trouble, what="the first attempt")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_a_long_absence_is_a_few_lines_of_the_log_which_say_where_the_server_was_looked_for(kind, log):
    stop = threading.Event()

    class AtOnce(random.Random):
        tries = 0

        def uniform(self, a: float, b: float) -> float:
            self.tries += 1
            if self.tries == 100:
                stop.set()
            return 0.0 * (a + b)

    rng, port = AtOnce(), free_port()
    kind.make(f"redis://user:canary@127.0.0.1:{port}", "described", Metrics(), rng=rng).run(lambda _: None, stop)
    lines = [line for line in log.getvalue().splitlines() if "source.lost" in line]
    assert [int(re.search(r"attempt=(\d+)", line)[1]) for line in lines] == [1, 2, 3, 4, 8, 16, 32, 64]
    assert all(f"address=127.0.0.1:{port} " in line for line in lines)
    assert "canary" not in log.getvalue()


def test_nothing_more_is_delivered_while_a_delivery_waits(kind, valkey, listen):
    channel = valkey.channel()
    gate, entered, seen = threading.Semaphore(0), threading.Semaphore(0), []

    def deliver(delivery: Delivery) -> None:
        seen.append(delivery.raw)
        entered.release()
        gate.acquire()

    listener = listen(valkey.url, channel, deliver=deliver, silence_s=1.0).subscribed()
    for number in range(5):
        kind.publish(valkey, channel, b"%d" % number)
    for number in range(5):
        assert entered.acquire(timeout=30)
        assert seen == [b"%d" % n for n in range(number + 1)]
        if number == 0:
            assert not entered.acquire(timeout=1.5)  # longer than the silence that counts as a loss
        gate.release()
    assert listener.subscriptions == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a bug")])
def test_an_error_of_the_receiver_comes_out_and_leaves_nothing_open(error, kind, own_valkey, listen):
    def deliver(_: Delivery) -> None:
        raise error

    listener = listen(own_valkey.url, "described", deliver=deliver).subscribed()
    kind.publish(own_valkey, "described", b"1")
    listener.join()
    assert listener.error is error
    assert not listener.source.subscribed

    def others() -> int:
        with contextlib.closing(own_valkey.client()) as client:
            return len(client.client_list()) - 1

    until(lambda: others() == 0, what="the server sees that we left")


def test_the_options_of_the_url_cannot_change_what_a_message_is(kind, valkey, listen):
    channel = valkey.channel()
    url = valkey.url + "?decode_responses=true&protocol=3&health_check_interval=1&max_connections=3&retry_on_timeout=true"
    listener = listen(url, channel).subscribed()
    for raw in (b"\xff\x00", b"plain"):
        kind.publish(valkey, channel, raw)
    assert [listener.next(), listener.next()] == [b"\xff\x00", b"plain"]


@pytest.mark.parametrize("url", ["redis://:canary@localhost?db=x", "redis://:canary@localhost?nonsense=1"])
def test_options_that_cannot_be_read_are_bad_settings_without_the_password(url, kind):
    with pytest.raises(BadSettings, match="REDIS_URL") as caught:
        kind.make(url, "described", Metrics())
    assert "canary" not in str(caught.value)


def test_the_waits_grow_to_five_seconds_and_begin_anew_after_a_subscription(kind, own_valkey, log):
    asked: list[float] = []

    class Never(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            asked.append(b)
            return 0.0

    own_valkey.stop()
    stop = threading.Event()
    source = kind.make(own_valkey.url, "described", Metrics(), rng=Never())
    thread = threading.Thread(target=source.run, args=(lambda _: None, stop))
    thread.start()
    until(lambda: len(asked) > 12, what="a dozen attempts")
    own_valkey.start()
    until(lambda: source.subscribed, what="subscribed")
    failed = len(asked)
    own_valkey.kill()
    until(lambda: len(asked) > failed + 1, what="two more attempts")
    stop.set()
    thread.join(30)
    assert asked[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert all(each == 5.0 for each in itertools.islice(asked, 6, failed))
    assert asked[failed : failed + 2] == [0.2, 0.4]
