"""The loop of whatever follows the ledger: when it waits, for what, and how it ends."""

from __future__ import annotations

import threading

import pytest

from storage_ledger.ledger.follower import LOOK_EVERY_S, TRIES_ONCE_STOPPED, Behind, CaughtUp, Round, RoundFailed, follow_until_stopped


class Noted(threading.Event):
    """An event that waits for nobody, and notes how long it would have."""

    def __init__(self, name: str, notes: list[object]) -> None:
        super().__init__()
        self._name = name
        self._notes = notes

    def wait(self, timeout: float | None = None) -> bool:
        self._notes.append((self._name, timeout))
        return self.is_set()


class Scene:
    """Rounds that come to what the test says; the stop comes in the middle of one of them."""

    def __init__(self) -> None:
        self.notes: list[object] = []
        self.wakeup = Noted("wakeup", self.notes)
        self.stop = Noted("stop", self.notes)

    def run(self, *rounds: Round, stop_in: int) -> list[object]:
        script = iter(enumerate(rounds))

        def apply_more() -> Round:
            assert not self.wakeup.is_set(), "what rings during a round must not be missed"
            number, done = next(script)
            self.notes.append(number)
            self.wakeup.set()
            if number == stop_in:
                self.stop.set()
            return done

        follow_until_stopped(apply_more, self.wakeup, self.stop)
        assert next(script, None) is None, "there are rounds left"
        return self.notes


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_one_that_has_caught_up_waits_for_the_bell_and_one_that_is_behind_does_not(scene):
    notes = scene.run(CaughtUp(moved=True), Behind(), Behind(0.1), CaughtUp(moved=False), CaughtUp(moved=False), stop_in=3)
    assert notes == [0, ("wakeup", LOOK_EVERY_S), 1, ("stop", 0.0), 2, ("stop", 0.1), 3, ("wakeup", LOOK_EVERY_S), 4]


def test_after_a_failure_only_a_stop_cuts_the_pause_short(scene):
    notes = scene.run(RoundFailed(7.0), CaughtUp(moved=False), CaughtUp(moved=False), stop_in=1)
    assert notes == [0, ("stop", 7.0), 1, ("wakeup", LOOK_EVERY_S), 2]


def test_after_the_stop_it_continues_until_there_is_nothing_new(scene):
    notes = scene.run(Behind(), Behind(), CaughtUp(moved=True), CaughtUp(moved=False), stop_in=0)
    assert [each for each in notes if isinstance(each, int)] == [0, 1, 2, 3]


def test_a_round_that_began_before_the_stop_is_not_the_last(scene):
    assert scene.run(CaughtUp(moved=False), CaughtUp(moved=False), stop_in=0) == [0, ("wakeup", LOOK_EVERY_S), 1]


def test_once_stopped_it_gives_up_after_some_failures(scene):
    scene.run(*[RoundFailed(60.0)] * TRIES_ONCE_STOPPED, stop_in=0)


def test_one_that_has_failed_for_long_is_tried_once_more_after_a_stop(scene):
    scene.run(*[RoundFailed(60.0)] * 9, stop_in=7)


def test_a_failure_that_is_over_is_forgotten(scene):
    scene.run(RoundFailed(1), RoundFailed(1), CaughtUp(moved=True), RoundFailed(1), RoundFailed(1), CaughtUp(moved=False), stop_in=2)


def test_what_a_round_raises_ends_it(scene):
    def broken() -> Round:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        follow_until_stopped(broken, scene.wakeup, scene.stop)
