"""Behaviour specific to pub/sub; tests/contract/pipeline/test_source.py has the rest."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.listening import PUBSUB, listening
from tests.support.waiting import until


@pytest.fixture
def listen():
    with listening(PUBSUB) as make:
        yield make


def test_a_delivery_needs_no_token(valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    valkey.publish(channel, b"1")
    assert listener.received.get(timeout=30).token is None


def test_messages_of_other_channels_do_not_arrive(valkey, listen):
    channel = valkey.channel()
    listener = listen(valkey.url, channel).subscribed()
    assert valkey.publish(channel + "x", b"other") == 0
    valkey.publish(channel, b"mine")
    assert listener.next() == b"mine"


def test_subscribed_means_that_the_server_counts_us(own_valkey, listen):
    listen(own_valkey.url, "described").subscribed()
    assert own_valkey.publish("described", b"1") == 1


def test_a_channel_that_the_user_may_not_read_is_tried_again(own_valkey, listen, log):
    with contextlib.closing(own_valkey.client()) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "+@all", "resetchannels")
        listener = listen(own_valkey.url.replace("//", "//reader:pw@"), "described")
        until(lambda: "code=redis-no-permission" in log.getvalue(), what="the refusal is logged")
        client.execute_command("ACL", "SETUSER", "reader", "&described")
        listener.subscribed()
