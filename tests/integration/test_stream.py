"""Behaviour specific to streams: a consumer group on a real server, and every way to lose or repeat an entry."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis._parsers.base import BaseParser

from storage_ledger.domain.message import parse
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.errors import Rejected
from storage_ledger.pipeline.receive import redis_connection
from storage_ledger.pipeline.receive.source import Delivery
from storage_ledger.pipeline.receive.stream import BATCH_MOST, GROUP, TAKE_OVER_AFTER_S, Stream
from storage_ledger.system.metrics import Metrics
from tests.support.listening import STREAM, Listener, listening
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey, free_port
from tests.support.waiting import until

S = "described"


@pytest.fixture
def listen():
    with listening(STREAM) as make:
        yield make


@pytest.fixture
def client(own_valkey):
    with contextlib.closing(own_valkey.client()) as made:
        yield made


@pytest.fixture
def durable(tmp_path) -> Iterator[Valkey]:
    """A server that keeps confirmed data when it is killed."""
    server = Valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    yield server
    server.stop()


def numbered(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


def take(listener: Listener, count: int) -> list[Delivery]:
    return [listener.received.get(timeout=30) for _ in range(count)]


def raws(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.raw for delivery in deliveries]


def no_more(listener: Listener, server: Valkey, mark: bytes) -> None:
    """Fail if anything arrives before an entry that is added now."""
    server.add(S, mark)
    assert listener.next() == mark


# -- from the first entry on, and again until it is acknowledged


def test_what_was_added_before_the_group_was_there_is_read_from_the_beginning(own_valkey, listen):
    for raw in numbered(0, 5):
        own_valkey.add(S, raw)
    listener = listen(own_valkey.url, S)
    assert raws(take(listener, 5)) == numbered(0, 5)


def test_what_was_not_acknowledged_comes_again_at_the_next_start_before_what_is_new(own_valkey, listen):
    first = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 400):
        own_valkey.add(S, raw)
    deliveries = take(first, 400)
    first.source.acknowledge([each for each in deliveries if int(each.raw) % 2])
    first.close()
    own_valkey.add(S, b"400")
    assert own_valkey.unacknowledged(S) == 200
    second = listen(own_valkey.url, S)
    again = take(second, 201)
    assert raws(again) == [raw for raw in numbered(0, 401) if not int(raw) % 2]
    until(lambda: second.metric("stream_pending") == 201, what="the metric to follow what was read")
    second.source.acknowledge(again)
    until(lambda: own_valkey.unacknowledged(S) == 0, what="all acknowledged")
    until(lambda: second.metric("stream_pending") == 0)
    no_more(second, own_valkey, b"end")


def test_nothing_is_acknowledged_before_acknowledge_is_called(own_valkey, listen):
    listener = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 3):
        own_valkey.add(S, raw)
    deliveries = take(listener, 3)
    no_more(listener, own_valkey, b"x")  # it has been reading on meanwhile
    assert own_valkey.unacknowledged(S) == 4
    listener.source.acknowledge(deliveries[:2])
    until(lambda: own_valkey.unacknowledged(S) == 2)


def test_what_is_committed_after_reading_has_ended_is_acknowledged_all_the_same(own_valkey, listen):
    listener = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 3):
        own_valkey.add(S, raw)
    deliveries = take(listener, 3)
    listener.close()
    assert own_valkey.unacknowledged(S) == 3
    listener.source.acknowledge(deliveries)
    assert own_valkey.unacknowledged(S) == 0


def test_a_final_acknowledgement_to_an_unavailable_server_is_tried_once_and_logged(own_valkey, listen, log):
    listener = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 2):
        own_valkey.add(S, raw)
    one, other = take(listener, 2)
    listener.close()
    own_valkey.kill()
    listener.source.acknowledge([one])
    listener.source.acknowledge([other])
    assert log.getvalue().count("source.not-acknowledged code=redis-unreachable count=1") == 1


def test_an_acknowledgement_that_the_server_could_not_take_is_made_up_for(durable, listen):
    listener = listen(durable.url, S).subscribed()
    for raw in numbered(0, 5):
        durable.add(S, raw)
    deliveries = take(listener, 5)
    durable.kill()
    until(lambda: not listener.source.subscribed)
    listener.source.acknowledge(deliveries[:4])
    durable.start()
    listener.subscribed(2)
    until(lambda: durable.unacknowledged(S) == 1, what="made up for")
    no_more(listener, durable, b"x")  # the fifth is still being processed: it is not redelivered
    listener.source.acknowledge(deliveries[4:])


def test_acknowledging_and_delivering_do_not_wait_for_each_other(own_valkey, listen):
    """The receiver is full: nothing is read, and what it commits is acknowledged as soon as it has space."""
    gate = threading.Semaphore(0)
    seen: list[Delivery] = []

    def deliver(delivery: Delivery) -> None:
        seen.append(delivery)
        if len(seen) == 3:
            gate.acquire()

    for raw in numbered(0, 300):
        own_valkey.add(S, raw)
    listener = listen(own_valkey.url, S, deliver=deliver)
    until(lambda: len(seen) == 3)
    listener.source.acknowledge(seen[:2])
    gate.release()
    until(lambda: len(seen) == 300)
    until(lambda: own_valkey.unacknowledged(S) == 298)


def test_an_entry_whose_receiver_failed_is_in_nobodys_hands(own_valkey):
    def fail(_: Delivery) -> None:
        raise ValueError

    stop = threading.Event()
    seen: list[bytes] = []

    def deliver(delivery: Delivery) -> None:
        seen.append(delivery.raw)
        stop.set()

    own_valkey.add(S, b"1")
    source = Stream(own_valkey.url, S, Metrics(), consumer="we")
    with pytest.raises(ValueError):  # noqa: PT011 - it has no text
        source.run(fail, stop)
    source.run(deliver, stop)
    assert seen == [b"1"]


# -- connections cut, servers killed


def test_connections_cut_in_the_middle_lose_and_repeat_nothing(durable, listen):
    """Entries in an answer that never arrived are read again; entries that arrived and are being processed are not."""
    with contextlib.closing(Proxy(durable.port)) as proxy:
        listener = listen(f"redis://127.0.0.1:{proxy.port}", S).subscribed()
        sent = numbered(0, 3000)
        cuts = 0

        def add() -> None:
            with contextlib.closing(durable.client()) as publisher:
                for raw in sent:
                    publisher.xadd(S, {"data": raw})

        adding = threading.Thread(target=add)
        adding.start()
        got: list[Delivery] = []
        while len(got) < len(sent):
            got.append(listener.received.get(timeout=20))
            if len(got) % 150 == 0:
                proxy.cut()
                cuts += 1
            if len(got) % 70 == 0:
                listener.source.acknowledge(got[-70:])
        adding.join()
        assert raws(got) == sent
        assert cuts == 20
        assert (listener.metric("source_reconnects_total") or 0) > 5
        listener.source.acknowledge(got)
        until(lambda: durable.unacknowledged(S) == 0)
        listener.close()


def test_a_lost_answer_is_read_again_in_order(own_valkey, listen):
    with contextlib.closing(Proxy(own_valkey.port)) as proxy:
        listener = listen(f"redis://127.0.0.1:{proxy.port}", S, silence_s=0.5).subscribed()
        for number in range(20):
            proxy.swallow.set()  # mostly a read is waiting at the server: then its answer is swallowed
            sent = numbered(3 * number, 3)
            for raw in sent:
                own_valkey.add(S, raw)
            until(lambda: not listener.source.subscribed, what="the silence is noticed")
            lost = own_valkey.unacknowledged(S)
            proxy.swallow.clear()
            listener.subscribed(number + 2)
            got = take(listener, 3)
            assert raws(got) == sent
            if lost:
                break
            listener.source.acknowledge(got)
            until(lambda: own_valkey.unacknowledged(S) == 0)
        assert lost > 0
        listener.close()


def test_a_server_killed_and_restarted_under_the_flow_loses_nothing(durable, listen):
    listener = listen(durable.url, S).subscribed()
    sent: list[bytes] = []
    got: list[bytes] = []
    for round_ in range(6):
        for raw in numbered(round_ * 200, 200):
            durable.add(S, raw)
            sent.append(raw)
            while not listener.received.empty():
                delivery = listener.received.get()
                got.append(delivery.raw)
                listener.source.acknowledge([delivery])
        durable.kill()
        durable.start()
    until(lambda: listener.source.subscribed, 20)
    while set(got) != set(sent):
        delivery = listener.received.get(timeout=30)
        got.append(delivery.raw)
        listener.source.acknowledge([delivery])
    until(lambda: durable.unacknowledged(S) == 0)
    assert list(dict.fromkeys(got)) == sent


# -- other consumers


def test_two_consumers_share_the_entries_and_none_gets_one_twice(own_valkey, listen):
    one, other = (listen(own_valkey.url, S, consumer=name).subscribed() for name in ("one", "other"))
    sent = numbered(0, 1000)
    for raw in sent:
        own_valkey.add(S, raw)
    until(lambda: one.received.qsize() + other.received.qsize() >= 1000)
    shares = [raws(take(each, each.received.qsize())) for each in (one, other)]
    assert sorted(shares[0] + shares[1], key=int) == sent
    assert all(shares)


def test_entries_of_a_dead_consumer_are_taken_over_when_they_have_lain_long_enough(own_valkey, listen, log):
    dead = listen(own_valkey.url, S, consumer="dead").subscribed()
    for raw in numbered(0, 300):
        own_valkey.add(S, raw)
    take(dead, 300)
    dead.close()
    heir = listen(own_valkey.url, S, consumer="heir").subscribed()
    no_more(heir, own_valkey, b"new")  # not at once
    heir.close()
    heir = listen(own_valkey.url, S, consumer="heir", take_over_after_s=0.001)
    got = take(heir, 301)
    assert raws(got) == [b"new", *numbered(0, 300)]  # its own first
    assert heir.metric("stream_taken_over_total") == 300
    assert "source.taken-over" in log.getvalue()
    heir.source.acknowledge(got)
    until(lambda: own_valkey.unacknowledged(S) == 0)


def test_what_we_hold_ourselves_is_not_taken_over_from_us(own_valkey, listen):
    with contextlib.closing(Proxy(own_valkey.port)) as proxy:
        listener = listen(f"redis://127.0.0.1:{proxy.port}", S, take_over_after_s=0.0).subscribed()
        for raw in numbered(0, 10):
            own_valkey.add(S, raw)
        take(listener, 10)
        proxy.cut()  # a session begins with looking for stale entries
        listener.subscribed(2)
        no_more(listener, own_valkey, b"x")
        assert listener.metric("stream_taken_over_total") == 0
        listener.close()


def test_a_taken_over_entry_that_a_stop_left_behind_is_ours_at_the_next_start(own_valkey, client, listen):
    client.xgroup_create(S, GROUP, "0", mkstream=True)
    for raw in numbered(0, 10):
        own_valkey.add(S, raw)
    client.xreadgroup(GROUP, "dead", {S: ">"})
    stop = threading.Event()
    seen: list[bytes] = []

    def deliver(delivery: Delivery) -> None:
        seen.append(delivery.raw)
        stop.set()

    source = Stream(own_valkey.url, S, Metrics(), consumer="we", take_over_after_s=0)
    source.run(deliver, stop)
    assert seen == [b"0"]
    listener = listen(own_valkey.url, S)  # which takes over nothing that is fresh
    assert raws(take(listener, 1)) == [b"0"]


def test_an_hour_is_how_long_another_consumer_may_take():
    assert TAKE_OVER_AFTER_S == 3600


class Redis62(threading.Thread):
    """Answers like Redis 6.2: XAUTOCLAIM returns two items, with deleted entries as None."""

    CLAIMED = b"*2\r\n$3\r\n0-0\r\n*2\r\n*-1\r\n*2\r\n$3\r\n7-0\r\n*2\r\n$4\r\ndata\r\n$5\r\nstale\r\n"
    NOTHING = b"*2\r\n$3\r\n0-0\r\n*0\r\n"

    def __init__(self) -> None:
        super().__init__(name="redis-6.2")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.acknowledged: list[bytes] = []

    def run(self) -> None:
        with self._listener, self._listener.accept()[0] as connection, connection.makefile("rwb") as stream:
            while (line := stream.readline()).startswith(b"*"):
                command = [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
                stream.write(self._answer(command))
                stream.flush()

    def _answer(self, command: list[bytes]) -> bytes:
        match command:
            case [b"XAUTOCLAIM", *_]:
                return self.NOTHING if b"JUSTID" in command else self.CLAIMED
            case [b"XREADGROUP", *_, b">"]:
                return b"*-1\r\n"
            case [b"XREADGROUP", *_]:
                return b"*1\r\n*2\r\n$1\r\ns\r\n*0\r\n"
            case [b"XACK", _, _, *ids]:
                self.acknowledged += ids
                return b":1\r\n"
            case [b"XGROUP", *_]:
                return b"-BUSYGROUP exists\r\n"
        return b"+OK\r\n"


def test_the_answer_of_redis_6_2_to_taking_over_is_understood(listen):
    server = Redis62()
    server.start()
    listener = listen(server.url, "s")
    delivery = take(listener, 1)[0]
    assert delivery.raw == b"stale"
    listener.source.acknowledge([delivery])
    until(lambda: b"7-0" in server.acknowledged)
    listener.close()
    server.join(30)


# -- invalid and deleted entries


def test_an_entry_of_any_other_shape_is_delivered_as_what_the_intake_rejects(own_valkey, client, listen):
    good = json.dumps({"study_id": "s", "file_path": "x.dcm"})
    shapes: list[list[str | bytes]] = [
        ["study_id", "s", "file_path", "x.dcm"],
        ["data", good, "trace", "1"],
        ["data", good, "data", good],
        ["Data", good],
        ["message", good],
        [b"\xff\x00", b"\xfe"],
        ["", ""],
    ]
    for shape in shapes:
        client.execute_command("XADD", S, "*", *shape)
    listener = listen(own_valkey.url, S)
    got = take(listener, len(shapes))
    for delivery in got:
        with pytest.raises(Rejected) as caught:
            parse(delivery.raw, UploadPaths("/u", ("/u",)))
        assert caught.value.code == "not-an-object"
        assert caught.value.study_id is None
    assert json.loads(got[0].raw) == ["study_id", "s", "file_path", "x.dcm"]
    assert json.loads(got[5].raw) == ["\\xff\0", "\\xfe"]
    listener.source.acknowledge(got)
    until(lambda: own_valkey.unacknowledged(S) == 0)
    no_more(listener, own_valkey, b"x")


def test_entries_that_were_deleted_before_they_came_are_counted_and_not_asked_for_again(own_valkey, client, listen, log):
    first = listen(own_valkey.url, S).subscribed()
    ids = [own_valkey.add(S, raw) for raw in numbered(0, 5)]
    take(first, 5)
    first.close()
    client.xdel(S, ids[1], ids[3])
    second = listen(own_valkey.url, S)
    got = take(second, 3)
    assert raws(got) == [b"0", b"2", b"4"]
    second.source.acknowledge(got)
    until(lambda: own_valkey.unacknowledged(S) == 0, what="the deleted ones as well")
    assert second.metric("stream_missed_total") == 2
    assert "source.entries-missed channel=described" in log.getvalue()


def test_deleted_entries_of_a_dead_consumer_are_counted_as_well(own_valkey, client, listen):
    client.xgroup_create(S, GROUP, "0", mkstream=True)
    ids = [own_valkey.add(S, raw) for raw in numbered(0, 5)]
    client.xreadgroup(GROUP, "dead", {S: ">"})
    client.xdel(S, *ids[:2])
    listener = listen(own_valkey.url, S, take_over_after_s=0)
    assert raws(take(listener, 3)) == [b"2", b"3", b"4"]
    assert listener.metric("stream_missed_total") == 2
    assert own_valkey.unacknowledged(S) == 3


def test_what_is_trimmed_while_it_is_in_our_hands_is_not_missed(own_valkey, client, listen):
    listener = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 3):
        own_valkey.add(S, raw)
    got = take(listener, 3)
    client.xtrim(S, maxlen=0, approximate=False)
    client.client_kill_filter(_type="normal", skipme=True)
    listener.subscribed(2)
    no_more(listener, own_valkey, b"x")
    assert listener.metric("stream_missed_total") == 0
    listener.source.acknowledge(got)
    until(lambda: own_valkey.unacknowledged(S) == 1)


def test_large_entries_are_read_one_by_one_and_small_ones_in_batches(own_valkey, listen):
    listener = listen(own_valkey.url, S).subscribed()
    for raw in numbered(0, 1000):
        own_valkey.add(S, raw)
    listener.source.acknowledge(take(listener, 1000))
    listener.close()
    for raw in numbered(0, 1000):
        own_valkey.add(S, raw)
    listener = listen(own_valkey.url, S)
    take(listener, 1000)
    assert listener.source._batch == BATCH_MOST
    for _ in range(8):
        own_valkey.add(S, b"x" * 5_000_000)
    take(listener, 8)
    until(lambda: listener.source._batch == 1)


def trim_script() -> str:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "publish-through-a-stream.md").read_text()
    return page.partition("```lua\n")[2].partition("```")[0]


def test_the_script_of_the_how_to_trims_only_what_every_group_has_acknowledged(own_valkey, client, listen):
    trim = client.register_script(trim_script())
    ids = [own_valkey.add(S, raw) for raw in numbered(0, 20)]
    beyond = b"99999999999999-0"
    with pytest.raises(redis.ResponseError, match="not there yet"):
        trim(keys=[S], args=[beyond])
    assert client.xlen(S) == 20
    listener = listen(own_valkey.url, S)
    got = take(listener, 20)
    assert trim(keys=[S], args=[beyond]) == 0  # nothing is acknowledged
    client.xgroup_create(S, "another", ids[7])
    listener.source.acknowledge([*got[:5], *got[9:]])
    until(lambda: own_valkey.unacknowledged(S) == 4)
    assert trim(keys=[S], args=[ids[2]]) == 2  # the rest is too young
    assert trim(keys=[S], args=[beyond]) == 3
    assert client.xrange(S)[0][0] == ids[5]
    listener.source.acknowledge(got[5:9])
    until(lambda: own_valkey.unacknowledged(S) == 0)
    trim(keys=[S], args=[beyond])
    assert client.xrange(S)[0][0] == ids[7]  # the last that the other group was given
    client.xgroup_destroy(S, "another")
    trim(keys=[S], args=[beyond])
    assert client.xrange(S)[0][0] == ids[19]


def test_a_group_that_is_put_back_gives_out_again_what_was_acknowledged(own_valkey, client, listen):
    listener = listen(own_valkey.url, S).subscribed()
    ids = [own_valkey.add(S, raw) for raw in numbered(0, 10)]
    listener.source.acknowledge(take(listener, 10))
    until(lambda: own_valkey.unacknowledged(S) == 0)
    listener.close()
    client.xgroup_setid(S, GROUP, ids[6])
    assert raws(take(listen(own_valkey.url, S), 3)) == numbered(7, 3)


# -- a server that has lost its data


def test_a_group_that_vanished_is_made_again_from_the_beginning(own_valkey, client, listen, log):
    listener = listen(own_valkey.url, S).subscribed()
    for lost in (client.flushall, lambda: client.delete(S), lambda: client.xgroup_destroy(S, GROUP)):
        lost()
        own_valkey.add(S, b"1")
        while listener.next() != b"1":
            pass
    assert "code=redis-group-gone" in log.getvalue()
    assert log.getvalue().count("source.group-made") == 4


def test_acknowledging_what_a_vanished_group_gave_out_does_not_touch_an_entry_of_the_same_id(own_valkey, client, listen):
    listener = listen(own_valkey.url, S).subscribed()
    client.xadd(S, {"data": b"old"}, id="1-1")
    old = take(listener, 1)
    client.flushall()
    client.xadd(S, {"data": b"new"}, id="1-1")
    new = take(listener, 1)
    assert raws(new) == [b"new"]
    listener.source.acknowledge(old)
    no_more(listener, own_valkey, b"x")  # it has had the time to tell the server
    assert own_valkey.unacknowledged(S) == 2
    listener.source.acknowledge(new)
    until(lambda: own_valkey.unacknowledged(S) == 1)


# -- a server that refuses


def test_a_key_of_another_type_is_named_and_tried_again(own_valkey, client, listen, log):
    client.set(S, "text")
    listener = listen(own_valkey.url, S)
    until(lambda: log.getvalue().count("code=redis-wrong-type") >= 2)
    assert listener.source.trouble == "redis-wrong-type"
    assert listener.metric("source_reconnects_total") == 0
    client.delete(S)
    listener.subscribed()


def test_a_replica_that_takes_no_writes_is_named_and_tried_again(own_valkey, client, listen):
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    listener = listen(own_valkey.url, S)
    until(lambda: listener.source.trouble == "redis-read-only")
    client.execute_command("REPLICAOF", "NO", "ONE")
    listener.subscribed()


@pytest.mark.parametrize("command", ["xgroup", "xreadgroup", "xautoclaim", "xack"])
def test_a_right_that_is_missing_shows_before_anything_is_read(command, own_valkey, client, listen):
    own_valkey.add(S, b"1")
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", f"-{command}")
    listener = listen(own_valkey.url.replace("//", "//reader:pw@"), S)
    until(lambda: listener.source.trouble == "redis-no-permission")
    assert listener.received.empty()
    assert listener.subscriptions == 0
    client.execute_command("ACL", "SETUSER", "reader", f"+{command}")
    assert listener.next() == b"1"


def test_the_rights_that_the_how_to_names_are_enough(own_valkey, client, listen):
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", f"~{S}", "+xgroup|create", "+xreadgroup", "+xautoclaim", "+xack")
    listener = listen(own_valkey.url.replace("//", "//reader:pw@"), S).subscribed()
    own_valkey.add(S, b"1")
    got = take(listener, 1)
    listener.source.acknowledge(got)
    until(lambda: own_valkey.unacknowledged(S) == 0)


def test_a_cluster_is_named(tmp_path, listen):
    server = Valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        listener = listen(server.url, S)
        until(lambda: listener.source.trouble == "redis-cluster")
        listener.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "redis-wrong-type"),
        ("NOPERM User reader has no permissions to run the 'xack' command", "redis-no-permission"),
        ("NOAUTH Authentication required.", "redis-login-refused"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "redis-login-refused"),
        ("ERR invalid password", "redis-login-refused"),
        ("LOADING Redis is loading the dataset in memory", "redis-loading"),
        ("READONLY You can't write against a read only replica.", "redis-read-only"),
        ("MOVED 3999 127.0.0.1:6381", "redis-cluster"),
        ("CLUSTERDOWN Hash slot not served", "redis-cluster"),
        ("NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option", "redis-group-gone"),
        ("UNBLOCKED the stream key no longer exists", "redis-group-gone"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "redis-not-writable"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", "redis-not-writable"),
        ("ERR unknown command 'XAUTOCLAIM', with args beginning with: ", "redis-too-old"),
        ("ERR unknown command `XAUTOCLAIM`, with args beginning with: ", "redis-too-old"),
        ("ERR something else", "redis-refuses"),
        ("max number of clients reached", "redis-refuses"),
        ("ERR max number of clients reached", "redis-unreachable"),
    ],
)
def test_each_word_of_the_server_has_its_code(said, code):
    assert redis_connection.trouble(BaseParser.parse_error(said)) == code
