"""A ledger whose timestamps are ahead of the clock is reported until acknowledged, and again after the next such jump."""

from __future__ import annotations

from datetime import timedelta

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.ids import instant
from storage_ledger.operations.clock_ahead import AHEAD_S, CLOCK_AHEAD, acknowledge_ahead, ahead
from tests.support.making import described

YEARS_S = 74 * 365 * 86_400


@pytest.fixture
def ledger(ledgers, tmp_path, clock):
    opened = ledgers.open(tmp_path, clock)
    yield opened
    opened.close()


def append(ledger):
    with ledger.write() as tx:
        return tx.append(NewEntry(Kind.DESCRIBED, described(), "S1"))


def jump(ledger, clock, seconds):
    """Move the clock ahead for one entry."""
    clock.move(seconds)
    append(ledger)
    clock.move(-seconds)


def test_a_ledger_ahead_of_the_clock_is_reported_with_both_times_even_after_later_entries(ledger, clock):
    assert ahead(ledger, clock()) is None
    append(ledger)
    assert ahead(ledger, clock()) is None
    jump(ledger, clock, YEARS_S)
    for _ in range(3):
        found = ahead(ledger, clock())
        assert found.seconds == YEARS_S
        assert instant(found.ledger_time) - instant(found.clock) == timedelta(seconds=YEARS_S)
        append(ledger)


@pytest.mark.parametrize(("seconds", "said"), [(AHEAD_S, False), (AHEAD_S + 1, True), (-86_400, False)])
def test_a_difference_is_reported_from_one_minute(ledger, clock, seconds, said):
    append(ledger)
    jump(ledger, clock, seconds)
    assert (ahead(ledger, clock()) is not None) is said


def test_nothing_is_reported_once_the_clock_has_caught_up(ledger, clock):
    append(ledger)
    jump(ledger, clock, 3600)
    clock.move(3600 - AHEAD_S)
    assert ahead(ledger, clock()) is None


def test_a_persons_acknowledgement_is_an_entry_and_ends_it_until_the_next_jump(ledger, clock):
    append(ledger)
    jump(ledger, clock, YEARS_S)
    entry = acknowledge_ahead(ledger, clock, by="Ada", reason="BIOS battery, replaced")
    assert (entry.kind, entry.study_id, entry.data) == ("acknowledged", None, {
        "code": CLOCK_AHEAD, "by": "Ada", "reason": "BIOS battery, replaced",
        "ledger_time": "2099-12-14T12:00:00.000000Z", "clock": "2026-01-01T12:00:00.000000Z",
    })  # fmt: skip
    append(ledger)
    clock.move(86_400)
    assert ahead(ledger, clock()) is None
    jump(ledger, clock, YEARS_S)
    assert ahead(ledger, clock()).ledger_time == "2099-12-15T12:00:00.000000Z"
    assert acknowledge_ahead(ledger, clock, by="Ada", reason="again") is not None
    assert ahead(ledger, clock()) is None


def test_nothing_is_appended_if_the_ledger_is_not_ahead_or_was_acknowledged(ledger, clock):
    append(ledger)
    assert acknowledge_ahead(ledger, clock, by="Ada", reason="why not") is None
    jump(ledger, clock, 3600)
    assert acknowledge_ahead(ledger, clock, by="Ada", reason="known") is not None
    assert acknowledge_ahead(ledger, clock, by="Ada", reason="known") is None
    assert [entry.kind for entry in ledger.read(0, 10)] == ["described", "described", "acknowledged"]
