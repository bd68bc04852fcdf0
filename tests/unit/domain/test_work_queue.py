"""Which duties an entry makes and discharges, and how long a failed one waits."""

import pytest

from storage_ledger.domain.backoff import Backoff, worth_an_entry
from storage_ledger.domain.entries import Kind, NewEntry, upcast
from storage_ledger.domain.ids import instant, later, rfc3339, uuid7
from storage_ledger.domain.work_queue import Changes, Stage, changes
from storage_ledger.errors import LedgerUnusable

CHANGES = {
    Kind.DESCRIBED: (NewEntry(Kind.DESCRIBED, {}, "S1"), Changes(add=(Stage.PLACE,))),
    Kind.ARCHIVED: (
        NewEntry(Kind.ARCHIVED, {}, "S1", cause=7),
        Changes(add=(Stage.REMOVE, Stage.TELL), drop=((7, Stage.PLACE),)),
    ),
    Kind.QUARANTINED: (NewEntry(Kind.QUARANTINED, {}, "S1", cause=7), Changes(add=(Stage.TELL,), drop=((7, Stage.PLACE),))),
    Kind.RELEASED: (NewEntry(Kind.RELEASED, {"described": 7}, "S1", cause=9), Changes(place_again=(7,))),
    Kind.DISCARDED: (NewEntry(Kind.DISCARDED, {}, "S1", cause=9), Changes(add=(Stage.TELL,))),
    Kind.REJECTED: (NewEntry(Kind.REJECTED, {"study_id": "S1"}), Changes(add=(Stage.TELL,))),
    Kind.STATUS_SENT: (
        NewEntry(Kind.STATUS_SENT, {"tells": [8, 9]}, "S1", cause=9),
        Changes(
            add=(Stage.CONFIRM,),
            drop=((8, Stage.TELL), (9, Stage.TELL), (9, Stage.CONFIRM)),
            drop_confirms=True,
        ),
    ),
    Kind.FAILED: (NewEntry(Kind.FAILED, {}, "S1", cause=7), Changes()),
    Kind.ACKNOWLEDGED: (NewEntry(Kind.ACKNOWLEDGED, {}), Changes()),
    Kind.RECOVERED: (NewEntry(Kind.RECOVERED, {}, cause=7), Changes()),
    Kind.VERIFIED: (NewEntry(Kind.VERIFIED, {}), Changes()),
    Kind.KEY: (NewEntry(Kind.KEY, {}), Changes()),
    Kind.HEADER_READ: (NewEntry(Kind.HEADER_READ, {}, "S1", cause=8), Changes()),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_each_kind_of_entry_changes_the_work_queue_as_expected(kind):
    entry, expected = CHANGES[kind]
    assert changes(entry) == expected


def test_an_adopted_file_adds_no_work_item_but_a_status_on_request():
    assert changes(NewEntry(Kind.DESCRIBED, {"source": "adopt"}, "S1")) == Changes()
    drop = ((7, Stage.PLACE),)
    assert changes(NewEntry(Kind.ARCHIVED, {"adopted": True}, "S1", cause=7)) == Changes(drop=drop)
    assert changes(NewEntry(Kind.ARCHIVED, {"adopted": True, "tell": True}, "S1", cause=7)) == Changes(add=(Stage.TELL,), drop=drop)


def test_no_status_is_sent_for_a_rejected_message_without_a_valid_study():
    assert changes(NewEntry(Kind.REJECTED, {"reason": "not-json"})) == Changes()


def test_no_kind_of_entry_leaves_a_described_study_without_a_next_step():
    ended_by = [kind for kind, (_, made) in CHANGES.items() if any(stage is Stage.PLACE for _, stage in made.drop)]
    assert ended_by == [Kind.ARCHIVED, Kind.QUARANTINED]
    assert all(Stage.TELL in CHANGES[kind][1].add for kind in ended_by)


def test_waits_double_up_to_the_cap():
    assert [Backoff(1, 10).wait_s(n, chance=1) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_waits_are_spread_over_their_upper_half():
    assert Backoff(1, 10).wait_s(3, chance=0) == 2
    assert Backoff(1, 10).wait_s(3, chance=0.5) == 3


def test_a_wait_stays_at_the_cap_however_often_it_failed():
    assert Backoff(0.5, 300).wait_s(10**9, chance=1) == 300


def test_of_a_thousand_failures_a_handful_becomes_entries():
    assert [n for n in range(1, 20_000) if worth_an_entry(n)] == [1, 10, 100, 1000, 10_000]


@pytest.mark.parametrize("schema", [0, 2])
def test_an_entry_of_an_unknown_schema_stops_the_service(schema):
    with pytest.raises(LedgerUnusable, match="ledger-newer"):
        upcast("described", schema, {})


def test_the_upcaster_leaves_the_current_schema_alone():
    assert upcast("described", 1, {"a": 1}) == {"a": 1}


def test_a_uuid_of_version_seven_is_made_as_rfc_9562_shows():
    # RFC 9562 appendix A.6: 2022-02-22T19:22:22Z, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    rand = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, rand) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_later_uuids_sort_after_earlier_ones():
    assert uuid7(1, b"\xff" * 10) < uuid7(2, b"\x00" * 10)


def test_instants_sort_as_their_texts_and_come_back_whole():
    texts = ["2025-12-31T23:59:59.999999Z", "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000001Z"]
    assert sorted(texts, key=instant) == sorted(texts) == texts
    assert [rfc3339(instant(text)) for text in texts] == texts
    assert later(texts[0], 0.000001) == texts[1]
