"""A clock that is set is noticed, whichever way; one that merely goes a little wrong is not."""

from datetime import timedelta

import pytest

from storage_ledger.errors import LedgerBusy
from storage_ledger.service.clock_watch import SET_BY_S, ClockWatch
from tests.support.making import Clock


class Watched:
    """A clock that can be set, a stopwatch, and how often it was noticed; `busy`: so often the ledger cannot be written."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stopwatch_s = 100.0
        self.noticed = 0
        self.busy = 0
        self.watch = ClockWatch(self.clock, on_set=self._on_set, monotonic=lambda: self.stopwatch_s)

    def _on_set(self) -> None:
        if self.busy:
            self.busy -= 1
            raise LedgerBusy("ledger-busy", "")
        self.noticed += 1

    def pass_time(self, seconds: float, *, set_by_s: float = 0.0) -> None:
        self.stopwatch_s += seconds
        self.clock.now += timedelta(seconds=seconds + set_by_s)
        self.watch.look()


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize("set_by_s", [SET_BY_S, 3600, -SET_BY_S, -86_400])
def test_a_clock_that_is_set_is_noticed_once(watched, set_by_s):
    watched.pass_time(1)
    watched.pass_time(1, set_by_s=set_by_s)
    watched.pass_time(1)
    assert watched.noticed == 1


def test_time_that_passes_and_a_clock_that_is_slewed_are_not(watched):
    watched.pass_time(86_400)
    for _ in range(100):
        watched.pass_time(1, set_by_s=0.5)
    assert watched.noticed == 0


def test_on_set_is_retried_while_the_ledger_cannot_be_written(watched):
    watched.busy = 2
    watched.pass_time(1, set_by_s=-60)
    watched.pass_time(1)
    assert watched.noticed == 0
    watched.pass_time(1)
    watched.pass_time(1)
    assert watched.noticed == 1
