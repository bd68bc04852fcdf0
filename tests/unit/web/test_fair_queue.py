"""Whose turn it is in the queues: that of the askers in turn, and never all threads for one of them."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from storage_ledger.web.fair_queue import FairQueue, TooMany


class Scene:
    """A queue with two threads, one of them for one asker at most, and jobs that run until they are let go."""

    def __init__(self) -> None:
        self.queue: FairQueue[None] = FairQueue("test", 2, waiting=6, waiting_of_one=4, running_of_one=1)
        self.go = threading.Event()
        self.ran: list[str] = []

    def slow(self, asker: str) -> None:
        begun = threading.Event()

        def run() -> None:
            begun.set()
            self.go.wait(30)

        self.queue.submit(asker, run)
        assert begun.wait(30)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        scene = Scene()
        stack.enter_context(closing(scene.queue))
        stack.callback(scene.go.set)
        yield scene


def test_an_asker_with_slow_jobs_leaves_a_thread_to_others(scene: Scene):
    scene.slow("a")
    left = [scene.queue.submit("a", lambda: scene.ran.append("a")) for _ in range(3)]
    scene.queue.submit("b", lambda: scene.ran.append("b")).result(30)
    assert scene.ran == ["b"]
    scene.go.set()
    for each in left:
        each.result(30)
    assert scene.ran == ["b", "a", "a", "a"]


def test_askers_take_turns_and_the_first_is_before_all(scene: Scene):
    scene.slow("a")
    scene.slow("b")
    waiting = [scene.queue.submit(who, lambda who=who: scene.ran.append(who)) for who in ("c", "c", "d")]  # type: ignore[misc]
    waiting.append(scene.queue.submit("", lambda: scene.ran.append("first"), first=True))
    scene.queue.submit("a", lambda: None)
    scene.go.set()
    for each in waiting:
        each.result(30)
    assert scene.ran[0] == "first"
    assert scene.ran.index("d") < len(scene.ran) - 1


def test_no_more_jobs_wait_than_allowed_and_closing_cancels_them(scene: Scene):
    scene.slow("a")
    waiting = [scene.queue.submit("a", lambda: None) for _ in range(4)]
    with pytest.raises(TooMany):
        scene.queue.submit("a", lambda: None)
    threading.Timer(0, scene.go.set).start()
    scene.queue.close()
    assert all(each.done() for each in waiting)
    with pytest.raises(TooMany):
        scene.queue.submit("b", lambda: None)


def test_a_result_goes_with_who_asked_for_it():
    class Large:
        """Something that can be watched."""

    queue: FairQueue[Large] = FairQueue("test", 1, waiting=1, waiting_of_one=1)
    with closing(queue):
        gc.disable()
        try:
            future = queue.submit("a", Large)
            seen = weakref.ref(future.result(30))
            del future
            queue.submit("a", Large).result(30)  # its thread has nothing of the first one now
            assert seen() is None
        finally:
            gc.enable()
