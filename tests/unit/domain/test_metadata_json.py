"""metadata.json: what it holds, in which order, and which event it speaks of."""

import json

import pytest

from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import GROUPS, State, Study
from tests.support.making import archived, described, failed, made_entry, quarantined


def fold(*entries):
    return Study.of("S1", entries)


def document(*entries) -> bytes:
    """The bytes of metadata.json after these entries."""
    study = fold(*entries)
    speaker = next(entry for entry in entries if entry.position == study.speaker.position)
    return metadata_json(study, DescribedPayload.of(speaker))


def parsed(*entries) -> dict:
    return json.loads(document(*entries))


def story(*steps):
    """("said", path, metadata) and ("kept", path, content, cause), as entries 1, 2, 3 …"""
    entries = []
    for position, (what, path, *more) in enumerate(steps, 1):
        if what == "said":
            entries.append(made_entry(position, "described", described(path, more[0])))
        else:
            content, cause = more
            entries.append(made_entry(position, "archived", archived(path, content=content), cause=cause))
    return entries


def test_the_whole_file_is_these_bytes():
    message = {"modality_info": {"modality": "CT"}, "zz": 1, "error": "Å", "patient_info": None}
    entries = [
        made_entry(1, "described", described("a.dcm", message, validation_details={"is_valid": True})),
        made_entry(2, "archived", archived("a.dcm", content="bytes", dicom={"SOPInstanceUID": "1.2.3"}), cause=1),
    ]
    assert (
        document(*entries).decode()
        == """{
  "study_id": "S1",
  "processing_time": "2026-01-01T00:00:01.000000Z",
  "validation_details": {
    "is_valid": true
  },
  "patient_info": {},
  "study_info": {},
  "modality_info": {
    "modality": "CT"
  },
  "exposure_info": {},
  "location_info": {},
  "error": "Å",
  "zz": 1,
  "files": [
    {
      "name": "a.dcm",
      "bytes": 5,
      "sha256": "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9",
      "sop_instance_uid": "1.2.3",
      "position": 1
    }
  ]
}
"""
    )


@pytest.mark.parametrize("uid", [None, "1.2.3", 'quote " and \\', "é\u2028", ["1.2", "1.3"], [], 7])
def test_each_file_is_written_as_json_dumps_would_write_it(uid):
    said = made_entry(1, "described", described("a.dcm", {}))
    kept = made_entry(2, "archived", {**archived("a.dcm"), "dicom": {"SOPInstanceUID": uid}}, cause=1)
    written = document(said, kept)
    assert written.decode() == json.dumps(json.loads(written), indent=2, ensure_ascii=False) + "\n"
    assert json.loads(written)["files"][0]["sop_instance_uid"] == uid


@pytest.mark.parametrize("over", [{}, {"metadata": None}, {"metadata": {}, "validation_details": None}])
def test_all_five_groups_and_validation_details_are_there_even_when_the_message_had_none(over):
    payload = described("a.dcm")
    payload["message"].update(over)
    found = parsed(made_entry(1, "described", payload), made_entry(2, "archived", archived("a.dcm"), cause=1))
    assert list(found) == ["study_id", "processing_time", "validation_details", *GROUPS, "files"]
    assert [found[name] for name in ("validation_details", *GROUPS)] == [{}] * 6


def test_hostile_keys_of_the_metadata_override_nothing():
    hostile = {"study_id": "evil", "processing_time": "evil", "validation_details": {"evil": 1}, "files": ["evil"], "ok": 1}
    found = parsed(*story(("said", "a.dcm", hostile), ("kept", "a.dcm", "x", 1)))
    assert "evil" not in json.dumps(found)
    assert found["study_id"] == "S1"
    assert [file["name"] for file in found["files"]] == ["a.dcm"]
    assert found["ok"] == 1


def test_dicoms_study_id_stays_in_its_group():
    found = parsed(*story(("said", "a.dcm", {"study_info": {"study_id": "DICOM-7"}}), ("kept", "a.dcm", "x", 1)))
    assert (found["study_id"], found["study_info"]) == ("S1", {"study_id": "DICOM-7"})


def test_a_new_file_speaks_for_the_study():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "b.dcm", {"n": 2}), ("kept", "b.dcm", "y", 3))
    found = parsed(*entries)
    assert (found["n"], found["processing_time"]) == (2, entries[2].recorded_at)
    assert [(file["name"], file["position"]) for file in found["files"]] == [("a.dcm", 1), ("b.dcm", 3)]


def test_a_new_file_speaks_even_with_the_same_metadata():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "b.dcm", {"n": 1}), ("kept", "b.dcm", "y", 3))
    assert parsed(*entries)["processing_time"] == entries[2].recorded_at


def test_different_metadata_for_the_same_file_speaks_for_the_study():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "a.dcm", {"n": 2}), ("kept", "a.dcm", "x", 3))
    found = parsed(*entries)
    assert (found["n"], found["processing_time"]) == (2, entries[2].recorded_at)
    assert [file["position"] for file in found["files"]] == [1]


@pytest.mark.parametrize(("before", "after"), [({"n": 1}, {"n": True}), ({"n": 1}, {"n": 1.0}), ({"n": 0}, {"n": False})])
def test_metadata_that_only_python_takes_for_equal_is_different(before, after):
    entries = story(("said", "a.dcm", before), ("kept", "a.dcm", "x", 1), ("said", "a.dcm", after), ("kept", "a.dcm", "x", 3))
    assert json.dumps(parsed(*entries)["n"]) == json.dumps(after["n"])


def test_other_validation_details_count_as_different_metadata():
    entries = [
        made_entry(1, "described", described(validation_details={"is_valid": True})),
        made_entry(2, "archived", archived(), cause=1),
        made_entry(3, "described", described(validation_details={"is_valid": False})),
        made_entry(4, "archived", archived(), cause=3),
    ]
    assert parsed(*entries)["validation_details"] == {"is_valid": False}


def test_a_pure_redelivery_changes_no_byte():
    once = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1))
    twice = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 3))
    assert document(*once) == document(*twice)


def test_several_files_with_metadata_of_their_own_redelivered_in_any_order_change_no_byte():
    first = [("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "b.dcm", {"n": 2}), ("kept", "b.dcm", "y", 3)]
    again = [("said", "b.dcm", {"n": 2}), ("kept", "b.dcm", "y", 5), ("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 7)]
    assert document(*story(*first)) == document(*story(*first, *again))


def test_a_change_that_is_taken_back_is_two_changes():
    steps = [(what, "a.dcm", *more) for n in (1, 2, 1) for what, *more in [("said", {"n": n}), ("kept", "x", 0)]]
    entries = story(*[(*step[:3], index) if step[0] == "kept" else step for index, step in enumerate(steps)])
    found = parsed(*entries)
    assert (found["n"], found["processing_time"]) == (1, entries[4].recorded_at)


def test_what_is_described_but_not_archived_says_nothing():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "b.dcm", {"n": 2}))
    assert parsed(*entries)["n"] == 1


def test_the_event_speaks_that_was_described_last_whichever_was_archived_last():
    entries = story(("said", "a.dcm", {"n": 1}), ("said", "b.dcm", {"n": 2}), ("kept", "b.dcm", "y", 2), ("kept", "a.dcm", "x", 1))
    assert parsed(*entries)["n"] == 2


def test_outcomes_that_archive_nothing_change_no_byte():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1))
    more = [
        made_entry(3, "status-sent", {"status": "archived", "tells": [2]}, cause=2),
        made_entry(4, "failed", failed("place", "archive-io", upload_path="a.dcm"), cause=1),
        made_entry(5, "quarantined", quarantined("upload-missing", "b.dcm"), cause=1),
    ]
    assert document(*entries) == document(*entries, *more)


def test_feeding_an_outcome_before_it_is_appended_comes_to_the_same():
    entries = story(("said", "a.dcm", {"n": 1}), ("kept", "a.dcm", "x", 1), ("said", "b.dcm", {"n": 2}), ("kept", "b.dcm", "y", 3))
    early = fold(*entries[:3])
    late = fold(*entries)
    early.archive(early.described[3], late.files["b.dcm"])
    said = DescribedPayload.of(entries[2])
    assert metadata_json(early, said) == metadata_json(late, said)


def test_a_study_without_an_archived_file_has_no_metadata():
    with pytest.raises(ValueError, match="without an archived file"):
        metadata_json(fold(*story(("said", "a.dcm", {}))), DescribedPayload({}, "pubsub", "", "a.dcm"))


def test_the_state_of_a_study_is_that_of_the_upload_which_most_needs_attention():
    a, b = made_entry(1, "described", described("a.dcm")), made_entry(2, "described", described("b.dcm"))
    a_kept = made_entry(3, "archived", archived("a.dcm"), cause=1)
    b_failed = made_entry(4, "failed", failed("place", "archive-io", upload_path="b.dcm"), cause=2)
    b_lost = made_entry(5, "quarantined", quarantined("upload-missing", "b.dcm"), cause=2)
    b_again = made_entry(6, "described", described("b.dcm"))
    b_kept = made_entry(7, "archived", archived("b.dcm"), cause=6)
    told = [a, b, a_kept, b_failed, b_lost, b_again, b_kept]
    states = [fold(*told[: n + 1]).state for n in range(len(told))]
    assert states == [
        State.PENDING, State.PENDING, State.PENDING, State.FAILED, State.QUARANTINED, State.PENDING, State.ARCHIVED,
    ]  # fmt: skip
    assert fold(*told[:5]).quarantine_code == "upload-missing"
    assert fold(*told).quarantine_code is None
