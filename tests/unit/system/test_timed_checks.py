"""Whoever asks for a look at something that hangs gets an answer in time."""

from __future__ import annotations

import threading
import time

import pytest

from storage_ledger.system.checks_with_timeout import Hangs, TimedCheck
from tests.support.waiting import until


def soon() -> float:
    return time.monotonic() + 30


def test_a_check_that_returns_in_time_is_waited_for():
    look = TimedCheck("x", lambda: ["found"])
    look.begin()
    assert look.result(soon()) == ["found"]


def test_a_hanging_check_is_not_waited_for_and_occupies_only_one_thread():
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


def test_while_a_check_hangs_a_recent_result_is_returned():
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


def test_an_error_of_a_check_is_raised_by_result_and_the_next_check_starts_afresh():
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
