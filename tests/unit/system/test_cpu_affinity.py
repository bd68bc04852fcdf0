"""The service's threads share one processor; what works for long without the interpreter's lock may use any."""

from __future__ import annotations

import os
import threading

import pytest

from storage_ledger.system.cpu_affinity import any_of_them, share_one

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell")


def in_a_thread(job):
    found = []
    thread = threading.Thread(target=lambda: found.append(job()))
    thread.start()
    thread.join()
    return found[0]


def mine() -> set[int]:
    return os.sched_getaffinity(0)


def test_a_thread_and_those_that_it_starts_share_one_processor_and_the_main_thread_keeps_all():
    given = mine()

    def job():
        share_one()
        return mine(), in_a_thread(mine)

    (one, of_a_child), (other, _) = in_a_thread(job), in_a_thread(job)
    assert len(one) == 1
    assert one == of_a_child == other
    assert one <= given
    assert mine() == given


def test_long_work_may_use_every_processor_and_then_returns_to_the_shared_one():
    given = mine()

    def job():
        share_one()
        with any_of_them():
            meanwhile = mine(), in_a_thread(mine)
        after = mine()
        with any_of_them(when=False):
            return meanwhile, after, mine()

    meanwhile, after, small = in_a_thread(job)
    assert meanwhile == (given, given)
    assert len(after) == 1
    assert small == after


def test_without_a_shared_processor_nothing_changes():
    given = mine()
    with any_of_them():
        assert mine() == given
    assert mine() == given
