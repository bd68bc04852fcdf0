"""Whoever asks for a look at something that hangs gets an answer in time."""

from __future__ import annotations

import threading
import time

import pytest

from storage_ledger.system.checks_with_timeout import Hangs, TimedCheck
from tests.support.waiting import until


def soon() -> float:
    return time.monotonic() + 30


def test_a_look_that_comes_back_is_waited_for():
    look = TimedCheck("x", lambda: ["found"])
    look.begin()
    assert look.result(soon()) == ["found"]


def test_one_that_hangs_is_not_and_only_one_thread_is_in_it():
    gate = threading.Event()
    began = []

    def wait() -> str:
        began.append(1)
        gate.wait(30)
        return "at last"

    look = TimedCheck("hanging", wait)
    for _ in range(5):
        look.begin()
        with pytest.raises(Hangs):
            look.result(time.monotonic())
    assert len([each for each in threading.enumerate() if each.name == "look-hanging"]) == 1
    gate.set()
    assert look.result(soon()) == "at last"
    assert began == [1]


def test_while_it_hangs_a_result_of_the_last_seconds_is_told():
    gate = threading.Event()
    results = iter(["first", "second"])

    def wait() -> str:
        result = next(results)
        if result == "second":
            gate.wait(30)
        return result

    look = TimedCheck("x", wait)
    look.begin()
    assert look.result(soon()) == "first"
    look.begin()
    assert look.result(time.monotonic()) == "first"
    gate.set()
    until(lambda: look.result(soon()) == "second")


def test_what_it_raises_is_raised_by_whoever_asks_and_the_next_look_is_a_new_one():
    answers = [LookupError(), "well"]

    def look_up() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    look = TimedCheck("x", look_up)
    look.begin()
    with pytest.raises(LookupError):
        look.result(soon())
    look.begin()
    assert look.result(soon()) == "well"
