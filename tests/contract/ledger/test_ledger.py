"""The contract of every ledger engine. Add an engine to engines.py to run all of it."""

import errno
import hashlib
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Kind, NewEntry, faults
from storage_ledger.domain.ids import instant, rfc3339
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.redeliveries import DescribedUpload
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy
from storage_ledger.ledger.contract import Commit
from tests.support.engines import ENGINES, PostgreSql, Sqlite, again
from tests.support.making import Clock, archived, described, fill, made_entry, small_volume

APPEND_MANY = """
import sys
from storage_ledger.domain.entries import Kind, NewEntry
from tests.support.engines import again

name, count = sys.argv[2], int(sys.argv[3])
ledger = again(sys.argv[1])
for start in range(0, count, 10):
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(start, start + 10):
        with ledger.write() as tx:
            for study_id in ("both", f"only-{name}"):
                tx.append(NewEntry(Kind.DESCRIBED, {"by": name, "number": number}, study_id))
ledger.close()
"""


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    sqlite = request.param == "sqlite"
    made = Sqlite(tmp_path, request.getfixturevalue("ledgers")) if sqlite else PostgreSql(request.getfixturevalue("postgres_server"))
    yield made
    made.close()


@pytest.fixture
def ledger(engine, clock):
    opened = engine.open(clock=clock)
    yield opened
    opened.close()


def said(study_id="S1", **over) -> NewEntry:
    return NewEntry(Kind.DESCRIBED, described(**over), study_id)


def append(ledger, *entries, **how):
    with ledger.write() as tx:
        return [tx.append(entry, **how) for entry in entries]


def work_items(ledger, study_id="S1"):
    return [(work_item.entry.position, work_item.stage) for work_item in ledger.pending_of(study_id)]


# -- entries


def test_a_new_ledger_is_empty_and_has_an_id(ledger):
    assert ledger.last() is None
    assert ledger.get(1) is None
    assert ledger.read(0, 10) == []
    assert ledger.count_studies() == 0
    assert ledger.queue() == []
    assert len(ledger.ledger_id) == 36


def test_positions_and_versions_have_no_gaps(ledger):
    append(ledger, said("A"), said("B"))
    append(ledger, said("A"), NewEntry(Kind.REJECTED, {"reason": "not-json"}), said("C"))
    append(ledger, said("A"))
    found = [(entry.position, entry.study_id, entry.version) for entry in ledger.read(0, 100)]
    assert found == [(1, "A", 1), (2, "B", 1), (3, "A", 2), (4, None, None), (5, "C", 1), (6, "A", 3)]


def test_an_entry_reads_back_as_it_was_appended_and_holds_its_own_proof(ledger):
    new = NewEntry(Kind.DESCRIBED, {"text": 'Å😀\0"', "n": [1, 2.5, None]}, "S1")
    [entry] = append(ledger, new)
    assert entry == ledger.get(1) == ledger.last()
    assert entry.data == new.payload
    assert faults(entry) == []
    assert entry.payload_sha256 == hashlib.sha256(entry.salt + canonical_json.dumps(new.payload).encode()).hexdigest()
    assert (entry.kind, entry.schema, entry.cause) == ("described", 1, None)


def test_each_entry_has_a_salt_and_an_id_of_its_own(ledger):
    entries = append(ledger, *[said() for _ in range(20)])
    assert len({entry.salt for entry in entries}) == len({entry.entry_id for entry in entries}) == 20


def test_read_gives_what_lies_beyond_a_position_in_order_and_no_more_than_asked(ledger):
    append(ledger, *[said() for _ in range(7)])
    assert [entry.position for entry in ledger.read(2, 3)] == [3, 4, 5]
    assert [entry.position for entry in ledger.read(5, 100)] == [6, 7]
    assert ledger.read(7, 100) == []


def test_a_scan_gives_a_stretch_in_order_as_it_was_when_it_began(ledger):
    entries = append(ledger, *[said() for _ in range(5)])
    scan = ledger.scan(1, 10)
    assert next(scan) == entries[1]
    append(ledger, said())
    assert [entry.position for entry in scan] == [3, 4, 5]
    assert list(ledger.scan(2, 4)) == entries[2:4]
    assert list(ledger.scan(6, 6)) == list(ledger.scan(6, 9)) == []


def test_a_study_is_read_in_order_and_alone(ledger):
    append(ledger, said("A"), said("B"), said("A"))
    assert [entry.position for entry in ledger.study("A")] == [1, 3]
    assert list(ledger.study("a")) == []


def test_a_study_is_read_on_from_a_version(ledger):
    append(ledger, said("A"), said("B"), said("A"), said("A"))
    assert [(entry.position, entry.version) for entry in ledger.study("A", after=1)] == [(3, 2), (4, 3)]
    assert list(ledger.study("A", after=3)) == []
    with ledger.write() as tx:
        tx.append(said("A"))
        assert [entry.version for entry in tx.study("A", after=2)] == [3, 4]


def test_kinds_of_studies(ledger):
    append(ledger, said("A"), said("B"), NewEntry(Kind.QUARANTINED, {}, "B", 2), said("A"), NewEntry(Kind.REJECTED, {}))
    assert (ledger.has_kind("B", "quarantined"), ledger.has_kind("A", "quarantined")) == (True, False)
    assert ledger.studies_with_kind("described") == ["A", "B"]
    assert ledger.studies_with_kind("rejected") == []
    assert (ledger.studies_with_kind("described", after=1), ledger.studies_with_kind("quarantined", after=3)) == (["B", "A"], [])
    assert [ledger.count_studies(after=position) for position in range(4)] == [2, 1, 0, 0]


def test_studies_are_found_by_the_beginning_of_their_id(ledger):
    append(ledger, said("abc-2"), said("abc-1"), said("abc-1"), said("abd"), said("ab"), said("z"), NewEntry(Kind.REJECTED, {}))
    assert ledger.studies_beginning("abc", 9) == ["abc-1", "abc-2"]
    assert ledger.studies_beginning("ab", 3) == ["ab", "abc-1", "abc-2"]
    assert (ledger.studies_beginning("z", 9), ledger.studies_beginning("y", 9)) == (["z"], [])


def test_studies_come_page_by_page_in_the_order_of_their_first_entry(ledger):
    append(ledger, said("B"), NewEntry(Kind.REJECTED, {"reason": "not-json"}), said("A"), said("B"), said("C"))
    assert ledger.first_of_studies(0, 2) == [(1, "B"), (3, "A")]
    assert ledger.first_of_studies(3, 2) == [(5, "C")]
    assert ledger.first_of_studies(5, 2) == []


def test_entries_of_no_study_come_newest_first(ledger):
    append(
        ledger, NewEntry(Kind.REJECTED, {}), said(), NewEntry(Kind.FAILED, {}), NewEntry(Kind.FAILED, {}, "S1"), NewEntry(Kind.REJECTED, {})
    )
    assert [entry.position for entry in ledger.of_no_study(["rejected", "failed"], 10)] == [5, 3, 1]
    assert [entry.position for entry in ledger.of_no_study(["rejected"], 1)] == [5]
    assert [entry.position for entry in ledger.of_no_study(["rejected", "failed"], 10, before=5)] == [3, 1]
    assert list(ledger.of_no_study(["rejected"], 10, before=1)) == []


def test_entries_of_no_study_that_name_one_are_found_by_it_however_many_others_there_are(ledger):
    others = [NewEntry(Kind.REJECTED, {"reason": "missing-field", "study_id": f"O{number}"}) for number in range(50)]
    mine = NewEntry(Kind.REJECTED, {"reason": "missing-field", "study_id": "S1"})
    append(ledger, mine, *others, said("S1"), NewEntry(Kind.REJECTED, {"reason": "not-json"}), mine)
    assert [entry.position for entry in ledger.naming_study("S1")] == [1, 54]
    assert list(ledger.naming_study("s1")) == []


def failed(step="place", code="archive-full", study_id=None) -> NewEntry:
    return NewEntry(Kind.FAILED, {"step": step, "code": code}, study_id)


def test_an_outage_stays_open_until_its_own_end_is_recorded_whatever_came_after_it(ledger):
    append(ledger, failed(), said("S1"), failed(study_id="S1"))
    for _ in range(100):
        [begun] = append(ledger, failed("tell", "status-service-away"))
        append(ledger, NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"}, cause=begun.position))
    assert [entry.position for entry in ledger.open_outages()] == [1]
    append(ledger, NewEntry(Kind.RECOVERED, {"step": "place", "code": "archive-full"}, cause=1))
    assert ledger.open_outages() == []


def test_entries_are_read_one_by_one_and_a_reader_that_stops_early_keeps_nothing_busy(ledger):
    append(ledger, *(said() for _ in range(3)), *(NewEntry(Kind.REJECTED, {"study_id": "S1"}) for _ in range(3)))
    for _ in range(50):  # more than there are connections
        readers = [ledger.study("S1"), ledger.naming_study("S1"), ledger.of_no_study(["rejected"], 3)]
        assert [next(reader).position for reader in readers] == [1, 4, 6]
        del readers
    held = ledger.study("S1")
    next(held)
    append(ledger, said())
    assert [entry.position for entry in held] == [2, 3]
    assert len(list(ledger.study("S1"))) == 4


# -- who else writes


def test_whoever_does_not_want_to_wait_long_for_another_writer_is_told_that_it_is_busy(ledger, engine):
    other = again(engine.address())
    append(ledger, said())
    with other.write(), pytest.raises(LedgerBusy, match="ledger-busy"), ledger.write(within_s=0.05):
        pass
    append(ledger, said())
    assert ledger.last().position == 2
    other.close()


def test_nor_does_it_wait_for_another_thread(ledger):
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger.write():
            holds.set()
            ends.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(30)
    with pytest.raises(LedgerBusy, match="ledger-busy"), ledger.write(within_s=0.05):
        pass
    ends.set()
    thread.join()
    append(ledger, said())


# -- time


def test_recorded_at_is_the_clocks_and_never_goes_back_with_it(ledger, clock):
    append(ledger, said())
    clock.move(-3600)
    append(ledger, said())
    clock.move(3601)
    append(ledger, said())
    times = [entry.recorded_at for entry in ledger.read(0, 10)]
    assert times == ["2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:00.000000Z", "2026-01-01T12:00:01.000000Z"]


def test_what_is_appended_after_the_clock_was_set_back_is_due_at_once(ledger, clock):
    append(ledger, said("A"))
    clock.move(-86_400)
    append(ledger, said("B"))
    assert [work_item.entry.study_id for work_item in ledger.due([Stage.PLACE], limit=10)] == ["B"]


def test_after_a_start_everything_put_off_is_due_even_if_the_clock_was_set_back(ledger, clock):
    append(ledger, said("A"), said("B"))
    with ledger.write() as tx:
        tx.postpone(2, Stage.PLACE, due_in_s=300, attempts=4)
    clock.move(-86_400)
    with ledger.write() as tx:
        tx.make_due(beyond_s=600)
    assert [(work_item.entry.position, work_item.attempts) for work_item in ledger.due([Stage.PLACE], limit=10)] == [(1, 0), (2, 4)]


def test_a_start_leaves_read_backs_that_lie_within_reach_as_they_are(ledger, clock):
    sent = NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": []}, "S1")
    append(ledger, sent)
    append(ledger, NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": []}, "S2"))
    with ledger.write() as tx:
        tx.postpone(1, Stage.CONFIRM, due_in_s=600, attempts=0)
        tx.postpone(2, Stage.CONFIRM, due_in_s=601, attempts=0)
        tx.make_due(beyond_s=600)
    soon = {work_item.entry.position: work_item.not_before for study in ("S1", "S2") for work_item in ledger.pending_of(study)}
    assert soon[1] == rfc3339(clock.now + timedelta(seconds=600))
    assert soon[2] <= rfc3339(clock.now + timedelta(seconds=600))


# -- duties


def test_an_entrys_duties_are_made_and_discharged_in_its_own_transaction(ledger):
    append(ledger, said())
    assert work_items(ledger) == [(1, Stage.PLACE)]
    append(ledger, NewEntry(Kind.ARCHIVED, archived(), "S1", 1))
    assert work_items(ledger) == [(2, Stage.REMOVE), (2, Stage.TELL)]
    append(ledger, NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": [2]}, "S1", 2))
    assert work_items(ledger) == [(2, Stage.REMOVE), (3, Stage.CONFIRM)]
    append(ledger, NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": []}, "S1", 3))
    assert work_items(ledger) == [(2, Stage.REMOVE), (4, Stage.CONFIRM)]


def test_a_word_of_release_makes_the_duty_to_place_anew_in_its_own_transaction(ledger, clock):
    append(ledger, said(), NewEntry(Kind.QUARANTINED, {}, "S1", 1), NewEntry(Kind.STATUS_SENT, {"tells": [2]}, "S1", 2))
    clock.move(5)
    with pytest.raises(Boom):
        append_and_fail(ledger, NewEntry(Kind.RELEASED, {"described": 1}, "S1", 2))
    assert work_items(ledger) == [(3, Stage.CONFIRM)]
    append(ledger, NewEntry(Kind.RELEASED, {"described": 1}, "S1", 2))
    assert work_items(ledger) == [(1, Stage.PLACE), (3, Stage.CONFIRM)]
    assert [(work_item.entry.position, work_item.attempts, work_item.not_before) for work_item in ledger.due([Stage.PLACE], limit=9)] == [
        (1, 0, rfc3339(clock.now))
    ]
    append(ledger, NewEntry(Kind.QUARANTINED, {}, "S1", 1), NewEntry(Kind.DISCARDED, {}, "S1", 5))
    assert work_items(ledger) == [(3, Stage.CONFIRM), (5, Stage.TELL), (6, Stage.TELL)]


def test_a_new_status_ends_the_read_backs_of_earlier_ones_of_its_own_study_only(ledger):
    sent = {"status": "archived", "tells": []}
    append(ledger, NewEntry(Kind.STATUS_SENT, sent, "S1"), NewEntry(Kind.STATUS_SENT, sent, "S2"), NewEntry(Kind.STATUS_SENT, sent, "S1"))
    assert (work_items(ledger, "S1"), work_items(ledger, "S2")) == ([(3, Stage.CONFIRM)], [(2, Stage.CONFIRM)])


def test_a_status_discharges_what_it_tells_even_of_another_study(ledger):
    append(ledger, said("A"), NewEntry(Kind.ARCHIVED, archived(), "A", 1))
    append(ledger, NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": [2]}, "A", 2))
    assert work_items(ledger, "A") == [(2, Stage.REMOVE), (3, Stage.CONFIRM)]


def test_an_entry_appended_without_duty_makes_none_and_still_discharges(ledger):
    append(ledger, said())
    append(ledger, NewEntry(Kind.ARCHIVED, archived(), "S1", 1), work_item=False)
    assert work_items(ledger) == []


def test_a_duty_made_for_later_is_due_then(ledger, clock):
    append(ledger, said(), due_in_s=5)
    assert ledger.due([Stage.PLACE], limit=10) == []
    clock.move(5)
    assert [work_item.entry.position for work_item in ledger.due([Stage.PLACE], limit=10)] == [1]


def test_the_longest_due_comes_first_and_the_lower_position_among_equals(ledger, clock):
    append(ledger, said("A"), said("B"), said("C"))
    with ledger.write() as tx:
        tx.postpone(1, Stage.PLACE, due_in_s=2, attempts=1)
        tx.postpone(2, Stage.PLACE, due_in_s=1, attempts=1)
        tx.postpone(3, Stage.PLACE, due_in_s=1, attempts=1)
    clock.move(10)
    assert [work_item.entry.position for work_item in ledger.due([Stage.PLACE], limit=10)] == [2, 3, 1]
    assert [work_item.entry.position for work_item in ledger.due([Stage.PLACE], limit=1)] == [2]


def test_what_is_in_somebodys_hands_is_not_due(ledger):
    append(ledger, said("A"), said("A"), said("B"), NewEntry(Kind.REJECTED, {"study_id": "A"}))
    stages = [Stage.PLACE, Stage.TELL]
    due = lambda **busy: sorted(work_item.entry.position for work_item in ledger.due(stages, limit=10, **busy))  # noqa: E731
    assert due() == [1, 2, 3, 4]
    assert due(busy=[2, 4]) == [1, 3]
    assert due(busy_studies=["A"]) == [3, 4]
    assert due(busy=[3], busy_studies=["A"]) == [4]


def test_only_the_stages_asked_for_are_due(ledger):
    append(ledger, said("A"), NewEntry(Kind.ARCHIVED, archived(), "A", 1), said("B"))
    found = [(work_item.entry.position, work_item.stage) for work_item in ledger.due([Stage.REMOVE, Stage.PLACE], limit=10)]
    assert sorted(found) == [(2, Stage.REMOVE), (3, Stage.PLACE)]
    assert ledger.due([Stage.CONFIRM], limit=10) == []


def test_next_due_is_the_first_moment_that_is_still_to_come(ledger, clock):
    assert ledger.next_due([Stage.PLACE]) is None
    append(ledger, said("A"), said("B"), said("C"))
    assert ledger.next_due([Stage.PLACE]) is None
    with ledger.write() as tx:
        tx.postpone(1, Stage.PLACE, due_in_s=9, attempts=1)
        tx.postpone(2, Stage.PLACE, due_in_s=4, attempts=1)
    assert ledger.next_due([Stage.TELL]) is None
    assert ledger.next_due([Stage.PLACE, Stage.TELL]) == rfc3339(clock.now + timedelta(seconds=4))
    clock.move(4)
    assert ledger.next_due([Stage.PLACE]) == rfc3339(clock.now + timedelta(seconds=5))


def test_dropping_and_postponing_what_is_gone_does_nothing(ledger):
    append(ledger, said())
    for _ in range(2):
        with ledger.write() as tx:
            tx.drop(1, Stage.PLACE)
            tx.drop(99, Stage.TELL)
            tx.postpone(1, Stage.PLACE, due_in_s=1, attempts=1)
            assert not tx.is_pending(1, Stage.PLACE)
    assert work_items(ledger) == []


def test_a_duty_to_place_can_be_made_anew_once(ledger):
    append(ledger, said(), NewEntry(Kind.ARCHIVED, archived(), "S1", 1))
    for _ in range(2):
        with ledger.write() as tx:
            tx.add_work_item(1, Stage.PLACE)
            assert tx.is_pending(1, Stage.PLACE)
    assert [work_item.entry.position for work_item in ledger.due([Stage.PLACE], limit=10)] == [1]


def test_a_duty_to_remove_can_be_made_anew_once(ledger):
    append(ledger, said(), NewEntry(Kind.ARCHIVED, archived(), "S1", cause=1))
    with ledger.write() as tx:
        tx.drop(2, Stage.REMOVE)
        tx.add_work_item(2, Stage.REMOVE)
        tx.add_work_item(2, Stage.REMOVE)
    assert [work_item.entry.position for work_item in ledger.due([Stage.REMOVE], limit=9)] == [2]


def test_an_uploads_entries_are_found_in_order_whichever_study_they_are_of(ledger):
    append(ledger, said(), said(path="b.dcm"), said("S2"), NewEntry(Kind.ARCHIVED, archived(), "S1", cause=1))
    append(ledger, NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": [4]}, "S1", cause=4))
    assert [(entry.position, entry.study_id) for entry in ledger.of_upload("a.dcm")] == [(1, "S1"), (3, "S2"), (4, "S1")]
    assert ledger.of_upload("a") == ledger.of_upload("A.DCM") == ledger.of_upload("") == []


def test_an_upload_is_settled_when_its_last_entry_is_the_one_named_and_nothing_is_to_be_placed_or_removed(ledger):
    def settled(path, position):
        with ledger.write() as tx:
            return tx.is_settled(path, position)

    assert settled("a.dcm", 0)
    append(ledger, said())
    assert not settled("a.dcm", 0)
    assert not settled("a.dcm", 1)  # to be placed
    append(ledger, NewEntry(Kind.ARCHIVED, archived(), "S1", cause=1))
    assert not settled("a.dcm", 2)  # to be removed
    with ledger.write() as tx:
        tx.drop(2, Stage.REMOVE)
    assert settled("a.dcm", 2)  # a status still to be sent does not concern the upload
    assert not settled("a.dcm", 1)
    append(ledger, said("S2"))
    with ledger.write() as tx:
        tx.drop(3, Stage.PLACE)
    assert (settled("a.dcm", 2), settled("a.dcm", 3)) == (False, True)
    assert settled("b.dcm", 0)


def test_the_queue_is_told_stage_by_stage(ledger, clock):
    append(ledger, said("A"))
    clock.move(5)
    append(ledger, said("B"))
    with ledger.write() as tx:
        tx.postpone(1, Stage.PLACE, due_in_s=60, attempts=1)
    [length] = ledger.queue()
    assert (length.stage, length.rows) == (Stage.PLACE, 2)
    assert length.oldest == rfc3339(clock.now - timedelta(seconds=5))
    assert length.next_due == rfc3339(clock.now)


def test_only_a_described_entry_makes_a_study_known(ledger):
    append(ledger, NewEntry(Kind.REJECTED, {"study_id": "A"}), said("B"))
    with ledger.write() as tx:
        assert (tx.knows_study("A"), tx.knows_study("B"), tx.knows_study("C")) == (False, True, False)


def test_whether_an_upload_waits_is_asked_of_all_the_entries_that_name_it(ledger):
    append(ledger, said(path="a.dcm"), said(path="b.dcm"), said("S2", path="a.dcm"))
    assert [ledger.is_upload_waiting(path) for path in ("a.dcm", "b.dcm", "c.dcm")] == [True, True, False]
    append(ledger, NewEntry(Kind.ARCHIVED, archived("a.dcm"), "S1", 1), NewEntry(Kind.QUARANTINED, {"upload_path": "b.dcm"}, "S1", 2))
    assert [ledger.is_upload_waiting(path) for path in ("a.dcm", "b.dcm")] == [True, False], "what is to be told does not count"
    with ledger.write() as tx:
        tx.drop(4, Stage.REMOVE)
    assert ledger.is_upload_waiting("a.dcm"), "S2 waits"
    with ledger.write() as tx:
        tx.drop(3, Stage.PLACE)
    assert not ledger.is_upload_waiting("a.dcm")


def test_a_work_item_is_pending_until_it_is_dropped(ledger):
    append(ledger, said())
    assert [ledger.is_pending(1, stage) for stage in (Stage.PLACE, Stage.REMOVE)] == [True, False]
    with ledger.write() as tx:
        tx.drop(1, Stage.PLACE)
    assert not ledger.is_pending(1, Stage.PLACE)


# -- repeats: the same message once more, while the first is pending


def repeats(tx, entry):
    said = DescribedPayload.of(entry)
    return tx.pending_repeats(entry.study_id, DescribedUpload(entry.position, said.upload_path, said.raw_sha256))


def test_a_repeat_is_a_pending_entry_of_the_same_study_upload_and_bytes(ledger):
    first, *_ = append(ledger, said(), said(), said(path="b.dcm"), said("S2"), said())
    with ledger.write() as tx:
        assert repeats(tx, first) == [2, 5]
        tx.drop(2, Stage.PLACE)
        assert repeats(tx, first) == [5]


def test_an_earlier_one_that_was_put_off_is_a_repeat_too(ledger):
    *_, last = append(ledger, said(), said(path="b.dcm"), said(metadata={"n": 1}), said())
    with ledger.write() as tx:
        assert repeats(tx, last) == [1]


def test_a_message_that_only_mentions_the_digest_is_no_repeat(ledger):
    [first] = append(ledger, said())
    append(ledger, said(metadata={"error": first.data["raw_sha256"]}))
    with ledger.write() as tx:
        assert repeats(tx, first) == []


def test_what_was_contradicted_meanwhile_is_no_repeat(ledger):
    """Messages one, other, one: the last is `one`, and it must not be lost."""
    first, *_ = append(ledger, said(metadata={"n": 1}), said(metadata={"n": 2}), said(metadata={"n": 1}))
    with ledger.write() as tx:
        assert repeats(tx, first) == []
        tx.drop(2, Stage.PLACE)  # answered already, but still between the two
        assert repeats(tx, first) == []


def test_what_a_transaction_is_told_to_expect_changes_no_answer(ledger):
    append(ledger, said(), said(), said(path="b.dcm"), said("S2"), said())
    first = ledger.get(1)
    with ledger.write() as tx:
        tx.expect({"S1", "S2", "new"}, {1: "a.dcm", 3: "b.dcm", 4: "a.dcm"})
        assert [tx.is_pending(position, Stage.PLACE) for position in (1, 2, 3, 4, 99)] == [True, True, True, True, False]
        assert not tx.is_pending(1, Stage.REMOVE)
        assert repeats(tx, first) == [2, 5]
        assert repeats(tx, ledger.get(3)) == []
        tx.drop(2, Stage.PLACE)
        tx.drop(3, Stage.PLACE)
        assert (repeats(tx, first), tx.is_pending(3, Stage.PLACE)) == ([5], False)
        assert [tx.append(said(study)).version for study in ("S1", "S1", "new", "S2", "new", "other")] == [5, 6, 1, 2, 2, 1]
        assert tx.is_pending(6, Stage.PLACE)
        assert repeats(tx, first) == [5, 6, 7]
        assert repeats(tx, ledger.get(4)) == [9], "one came after it was counted"
    assert [entry.version for entry in ledger.study("S1")] == [1, 2, 3, 4, 5, 6]


# -- transactions


class Boom(Exception):
    pass


def append_and_fail(ledger, *entries, called=None):
    with ledger.write() as tx:
        for entry in entries:
            tx.append(entry)
        tx.postpone(2, Stage.TELL, due_in_s=5, attempts=3)
        if called is not None:
            tx.on_commit(lambda: called.append(1))
        raise Boom


def test_an_exception_leaves_nothing_behind(ledger):
    append(ledger, said())
    called = []
    with pytest.raises(Boom):
        append_and_fail(ledger, NewEntry(Kind.ARCHIVED, archived(), "S1", 1), called=called)
    assert ledger.last().position == 1
    assert work_items(ledger) == [(1, Stage.PLACE)]
    assert called == []
    assert [entry.position for entry in append(ledger, said("S2"))] == [2]


def test_an_entry_that_cannot_be_stored_leaves_nothing_behind(ledger):
    with pytest.raises(ValueError, match="JSON"):
        append(ledger, said(), NewEntry(Kind.DESCRIBED, {"n": float("nan")}, "S1"))
    assert ledger.last() is None
    assert work_items(ledger) == []


def test_what_waits_for_the_commit_sees_the_entry_durable(ledger):
    seen = []
    with ledger.write() as tx:
        tx.append(said())
        tx.on_commit(lambda: seen.append(ledger.last()))
        assert ledger.last() is None
    assert [entry.position for entry in seen] == [1]


def test_a_transaction_reads_a_study_with_what_it_has_appended_itself(ledger):
    append(ledger, said("A"), said("B"))
    with ledger.write() as tx:
        entry = tx.append(said("A"))
        assert [each.position for each in tx.study("A")] == [1, entry.position]
        assert list(tx.study("A"))[-1] == entry
        assert list(tx.study("C")) == []


def test_a_transaction_sees_its_own_entries(ledger):
    with ledger.write() as tx:
        assert [tx.append(said()).version, tx.append(said()).version] == [1, 2]
        assert tx.is_pending(2, Stage.PLACE)
        assert tx.knows_study("S1")


def test_threads_append_without_gaps(ledger):
    def work(name):
        for _ in range(25):
            append(ledger, said(name), said("all"))

    threads = [threading.Thread(target=work, args=(f"T{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = ledger.read(0, 1000)
    assert [entry.position for entry in entries] == list(range(1, 201))
    assert [entry.version for entry in ledger.study("all")] == list(range(1, 101))


def test_after_each_commit_the_ledger_says_what_it_brought(engine):
    told = []
    ledger = engine.open(on_commit=told.append)
    append(ledger, said(), said())
    with pytest.raises(Boom):
        append_and_fail(ledger, said())
    with ledger.write():
        pass
    append(ledger, NewEntry(Kind.VERIFIED, {}))
    with ledger.write() as tx:
        tx.drop(1, Stage.PLACE)
    with ledger.write() as tx:
        tx.add_work_item(1, Stage.PLACE)
    ledger.close()
    assert told == [
        Commit(("described", "described"), frozenset({Stage.PLACE})),
        Commit(("verified",), frozenset()),
        Commit((), frozenset({Stage.PLACE})),
    ]


def test_two_processes_append_without_gaps(engine):
    engine.open().close()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND_MANY, engine.address(), name, "300"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    for _ in range(30):  # ten at a time: SQLite is not fair, and one of them might be done before the other begins
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    ledger = again(engine.address())
    entries = ledger.read(0, 2000)
    both = list(ledger.study("both"))
    ledger.close()
    assert [entry.position for entry in entries] == list(range(1, 1201))
    assert [entry.version for entry in both] == list(range(1, 601))
    assert sorted(entry.recorded_at for entry in entries) == [entry.recorded_at for entry in entries]
    assert all(faults(entry) == [] for entry in entries)
    for name in ("a", "b"):
        assert [entry.data["number"] for entry in both if entry.data["by"] == name] == list(range(300))


def append_until_busy(ledger, new) -> LedgerBusy:
    """Append until the volume is full; a few entries may still fit into pages that SQLite already has."""
    for _ in range(1000):
        try:
            append(ledger, new)
        except LedgerBusy as error:
            return error
    raise AssertionError("it never got full")


def test_a_full_volume_refuses_records_nothing_and_is_forgiven(tmp_path, ledgers):
    large = said("S2", metadata={"large": "x" * 20_000})
    with small_volume(tmp_path / "small", "3m") as folder:
        ledger = ledgers.open(folder)
        append(ledger, said())
        fill(folder / "ballast")
        error = append_until_busy(ledger, large)
        assert (error.code, error.errno) == ("ledger-full", errno.ENOSPC)
        last = ledger.last().position
        assert [entry.position for entry in ledger.read(0, 10_000)] == list(range(1, last + 1))
        assert len(work_items(ledger, "S2")) == last - 1
        with pytest.raises(LedgerBusy):
            append(ledger, large)
        assert ledger.last().position == last
        (folder / "ballast").unlink()
        assert append(ledger, said("S3"))[0].position == last + 1
        ledger.close()


def test_entry_ids_are_of_version_seven_and_hold_the_time(ledger, clock):
    [entry] = append(ledger, said())
    assert entry.entry_id[14] == "7"
    assert int(entry.entry_id.replace("-", "")[:12], 16) == int(instant(entry.recorded_at).timestamp() * 1000)


def test_the_clock_and_the_randomness_are_the_ones_passed_in(engine):
    moment = Clock()
    made = [engine.open(name, moment, randomness=bytes) for name in ("a", "b")]
    first, second = (append(ledger, said())[0] for ledger in made)
    for ledger in made:
        ledger.close()
    assert first == second
    assert first.salt == bytes(16)


def test_entries_that_are_taken_over_are_the_same_and_their_duties_come_back(engine, clock):
    old = engine.open("old", clock)
    with old.write() as tx:
        first = tx.append(NewEntry(Kind.DESCRIBED, described("a.dcm"), "S1"))
        repeat = tx.append(NewEntry(Kind.DESCRIBED, described("a.dcm"), "S1"))
        other = tx.append(NewEntry(Kind.DESCRIBED, described("b.dcm"), "S2"))
        tx.drop(repeat.position, Stage.PLACE)
        done = tx.append(NewEntry(Kind.ARCHIVED, archived("a.dcm"), "S1", first.position))
        told = tx.append(NewEntry(Kind.STATUS_SENT, {"status": "archived", "tells": [done.position]}, "S1", done.position))
    for seconds, read_back in ((0, {(told.position, Stage.CONFIRM)}), (2 * 86_400, set())):
        clock.move(seconds)
        new = engine.open(f"new-{seconds}", clock)
        with new.write() as tx:
            for entry in old.read(0, 100):
                tx.take_over(entry)
        assert new.read(0, 100) == old.read(0, 100)
        work_items = {(work_item.entry.position, work_item.stage) for work_item in new.due(list(Stage), limit=100)}
        assert work_items == {(other.position, Stage.PLACE), (done.position, Stage.REMOVE)} | read_back


@pytest.mark.parametrize("changed", [{"source": None}, {"message": []}, {"upload_path": 5}])
def test_an_odd_described_that_was_archived_is_taken_over(ledger, changed):
    """Valid hashes do not prove a valid payload; a restore takes it over unchanged."""
    odd = {name: value for name, value in {**described("a.dcm"), **changed}.items() if value is not None}
    with ledger.write() as tx:
        tx.take_over(made_entry(1, "described", odd))
        tx.take_over(made_entry(2, "archived", archived("a.dcm"), cause=1))
    assert [entry.kind for entry in ledger.read(0, 10)] == ["described", "archived"]
