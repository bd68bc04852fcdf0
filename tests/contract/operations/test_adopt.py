"""Adopt an archive of the old service from a real folder into a real ledger: everything possible, in place, nothing twice."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sqlite3

import pytest

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.reader import entries
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.adopt.adoption import Adoption, AdoptPlan, AdoptReport
from storage_ledger.operations.restore import from_mirror
from tests.support.making import damage
from tests.support.old_archive import BROKEN, REMARKS, add_broken, add_study, old_metadata, picture
from tests.support.pipeline import Pipeline


@pytest.fixture
def pipeline(tmp_path, ledgers) -> Pipeline:
    return Pipeline(tmp_path, ledgers)


def adopt(pipeline: Pipeline, *, at_once: int = 256, **asked: bool) -> AdoptReport:
    archive = FilesystemArchive(pipeline.archive)
    return Adoption(pipeline.ledger, archive, AdoptPlan(**asked), clock=pipeline.clock, files_at_once=at_once).run()


def folded(pipeline: Pipeline, study_id: str) -> bytes:
    """Return the metadata.json computed from the study's entries."""
    study = Study.of(study_id, pipeline.ledger.study(study_id))
    assert study.speaker is not None
    return metadata_json(study, DescribedPayload.of(pipeline.ledger.get(study.speaker.position)))


def noted(listed) -> dict[str, str]:
    return {each.path: each.code for each in listed}


def test_an_adopted_study_is_in_the_ledger_and_its_files_are_unchanged(pipeline):
    folder = add_study(pipeline.archive, "S1")
    before = picture(pipeline.archive)
    done = adopt(pipeline)
    assert (done.studies, done.files, done.bytes, done.known) == (1, 1, (folder / "S1.dcm").stat().st_size, 0)
    assert (done.left_alone, done.remarks) == ([], [])
    assert picture(pipeline.archive) == before
    described, archived = pipeline.ledger.study("S1")
    old = (folder / "metadata.json").read_bytes()
    assert described.data == {
        "message": {
            "study_id": "S1",
            "file_path": "S1.dcm",
            "metadata": {k: v for k, v in old_metadata("S1").items() if k.endswith("_info")},
            "validation_details": {"is_valid": True},
        },
        "source": "adopt",
        "upload_path": "S1.dcm",
        "raw": base64.b64encode(old).decode(),
        "raw_sha256": hashlib.sha256(old).hexdigest(),
        "processing_time": "2021-03-04T05:06:07.000008Z",
    }
    data = archived.data
    assert archived.cause == described.position
    assert data["file"]["sha256"] == hashlib.sha256((folder / "S1.dcm").read_bytes()).hexdigest()
    assert data["dicom"]["PatientID"] == "P-S1"
    assert data["metadata_sha256"] == hashlib.sha256(old).hexdigest()
    assert (data["placement"], data["adopted"]) == ("already-there", True)
    assert folded(pipeline, "S1") == old
    assert pipeline.ledger.queue() == []  # no upload to remove, and no status to send


def test_what_cannot_be_adopted_is_left_alone_and_listed_and_the_rest_is_adopted(pipeline):
    add_broken(pipeline.archive)
    before = picture(pipeline.archive)
    done = adopt(pipeline)
    assert noted(done.left_alone) == BROKEN
    assert noted(done.remarks) == REMARKS
    assert picture(pipeline.archive) == before
    studies = {"several", *(path.partition("/")[0] for path in REMARKS), "odd-numbers"}
    assert set(pipeline.ledger.studies_with_kind(Kind.ARCHIVED)) == studies
    assert (done.studies, done.files) == (len(studies), len(studies) + 1)
    for study_id in studies:
        assert folded(pipeline, study_id) == (pipeline.archive / study_id / "metadata.json").read_bytes()
    assert sum(done.left_alone_by_code.values()) == len(BROKEN)


def test_a_dry_run_says_the_same_and_does_nothing(pipeline):
    add_broken(pipeline.archive)
    looked = adopt(pipeline, dry_run=True)
    assert pipeline.ledger.last() is None
    done = adopt(pipeline)
    assert looked.dry_run
    assert (looked.studies, looked.files, looked.bytes) == (done.studies, done.files, done.bytes)
    assert (looked.left_alone, looked.remarks) == (done.left_alone, done.remarks)


def test_adopting_again_adds_only_files_that_arrived_since(pipeline):
    folder = add_study(pipeline.archive, "S1")
    old = (folder / "metadata.json").read_bytes()
    adopt(pipeline)
    assert adopt(pipeline).known == 1
    assert pipeline.kinds() == ["described", "archived"]
    add_study(pipeline.archive, "S2")
    (folder / "second.dcm").write_bytes((folder / "S1.dcm").read_bytes() + b"\0")
    done = adopt(pipeline)
    assert (done.studies, done.files, done.known) == (2, 2, 1)
    assert set(Study.of("S1", pipeline.ledger.study("S1")).files) == {"S1.dcm", "second.dcm"}
    assert folded(pipeline, "S1") == old == (folder / "metadata.json").read_bytes()


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_study_of_more_files_than_one_commit_takes(pipeline, rewrite):
    add_study(pipeline.archive, "S1", *(f"{i}.dcm" for i in range(5)))
    add_study(pipeline.archive, "S2", *(f"{i}.dcm" for i in range(3)))
    assert (adopt(pipeline, at_once=2, rewrite=rewrite).files, adopt(pipeline).known) == (8, 8)
    assert len(Study.of("S1", pipeline.ledger.study("S1")).files) == 5
    assert folded(pipeline, "S1") == (pipeline.archive / "S1" / "metadata.json").read_bytes()
    assert pipeline.kinds().count("archived") == pipeline.kinds().count("described") == 8


def test_the_index_shows_an_adopted_study_as_if_it_had_always_been_ours(pipeline, tmp_path):
    add_study(pipeline.archive, "S1", "one.dcm", "two.dcm")
    adopt(pipeline)
    index = Index(tmp_path / "index.db", pipeline.ledger)
    index.ensure()
    index.follow()
    index.close()
    connection = sqlite3.connect(tmp_path / "index.db")
    connection.row_factory = sqlite3.Row
    study = dict(connection.execute("SELECT * FROM studies").fetchone())
    files = connection.execute("SELECT * FROM files ORDER BY name").fetchall()
    connection.close()
    then = "2021-03-04T05:06:07.000008Z"
    assert study["state"] == "archived"
    assert (study["described_at"], study["archived_at"]) == (then, then)
    assert (study["patient_id"], study["study_description"], study["files"]) == ("P-S1", "THORAX", 2)
    assert [(row["archive_path"], row["archived_at"]) for row in files] == [("S1/one.dcm", then), ("S1/two.dcm", then)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-03-04T05:06:07+02:00", "2021-03-04T03:06:07.000000Z"),
        ("2021-03-04 05:06:07", "2021-03-04T05:06:07.000000Z"),
        ("2921-03-04T05:06:07", None),
        ("yesterday", None),
        (1614834367, None),
        ("0001-01-01T00:00:00+23:00", None),
    ],
)
def test_the_time_of_archiving_comes_from_the_old_metadata_where_possible(pipeline, text, expected):
    add_study(pipeline.archive, "S1", metadata=old_metadata("S1", processing_time=text))
    adopt(pipeline)
    assert pipeline.ledger.get(1).data.get("processing_time") == pipeline.ledger.get(2).data.get("processing_time") == expected


def test_a_redelivery_of_an_adopted_study_finds_its_file_there(pipeline):
    folder = add_study(pipeline.archive, "S1")
    old = (folder / "metadata.json").read_bytes()
    adopt(pipeline)
    groups = {k: v for k, v in old_metadata("S1").items() if k.endswith("_info")}
    pipeline.deliver(
        json.dumps(
            {"study_id": "S1", "file_path": "/app/uploads/S1.dcm", "metadata": groups, "validation_details": {"is_valid": True}}
        ).encode()
    )
    pipeline.finish()
    assert pipeline.kinds() == ["described", "archived", "described", "archived"]
    assert pipeline.ledger.get(4).data["placement"] == "already-there"
    assert (folder / "metadata.json").read_bytes() == old  # it has nothing newer
    pipeline.upload("S1.dcm", (folder / "S1.dcm").read_bytes())
    pipeline.say("S1", "S1.dcm", {"patient_info": {"patient_id": "NEW"}})
    pipeline.finish()
    assert pipeline.ledger.last().data["placement"] == "already-there"
    assert json.loads((folder / "metadata.json").read_bytes())["patient_info"] == {"patient_id": "NEW"}
    assert (folder / "metadata.json").read_bytes() == folded(pipeline, "S1")
    assert not (pipeline.uploads / "S1.dcm").exists()


def test_another_file_of_an_adopted_name_is_kept_beside_it(pipeline):
    folder = add_study(pipeline.archive, "S1")
    before = (folder / "S1.dcm").read_bytes()
    adopt(pipeline)
    pipeline.upload("S1.dcm", b"other bytes")
    pipeline.say("S1", "S1.dcm", {})
    pipeline.finish()
    assert (folder / "S1.dcm").read_bytes() == before
    assert len(pipeline.files()) == 2
    assert (folder / "metadata.json").read_bytes() == folded(pipeline, "S1")
    (folder / "third.dcm").write_bytes(before + b"\0")
    assert noted(adopt(pipeline).left_alone) == {"S1/third.dcm": "study-known"}  # metadata.json would have to list it


def test_a_study_of_ours_takes_in_its_other_files_only_where_metadata_may_be_rewritten(pipeline):
    pipeline.upload("S1.dcm", b"ours")
    pipeline.say("S1", "S1.dcm", {"patient_info": {"patient_id": "P"}})
    pipeline.place()
    add_study(pipeline.archive, "S2")
    (pipeline.archive / "S1" / "theirs.dcm").write_bytes(b"theirs")
    assert noted(adopt(pipeline).left_alone) == {"S1/theirs.dcm": "study-known"}
    assert adopt(pipeline, rewrite=True).files == 1
    assert (pipeline.archive / "S1" / "metadata.json").read_bytes() == folded(pipeline, "S1")
    document = json.loads(folded(pipeline, "S1"))
    assert [file["name"] for file in document["files"]] == ["S1.dcm", "theirs.dcm"]
    assert document["patient_info"] == {"patient_id": "P"}


def test_a_study_that_still_waits_is_left_to_the_service(pipeline):
    add_study(pipeline.archive, "S1")
    pipeline.say("S1", "S1.dcm", {})
    assert noted(adopt(pipeline).left_alone) == {"S1/S1.dcm": "study-waits"}
    assert pipeline.kinds() == ["described"]


def test_a_file_that_the_old_service_had_taken_settles_what_was_quarantined_for_lack_of_it(pipeline):
    pipeline.say("S1", "S1.dcm", {"patient_info": {"patient_id": "P"}})
    pipeline.clock.move(301)
    pipeline.place()
    assert pipeline.kinds() == ["described", "quarantined"]
    with pipeline.ledger.write() as tx:
        tx.append(NewEntry(Kind.STATUS_SENT, {"status": "failed", "http_status": 200, "attempts": 1, "tells": [2]}, "S1", 2))
    add_study(pipeline.archive, "S1")
    assert adopt(pipeline).files == 1
    study = Study.of("S1", pipeline.ledger.study("S1"))
    assert (study.state, study.failure) == ("archived", None)
    assert ("tell", 1) in [(length.stage, length.rows) for length in pipeline.ledger.queue()]


def test_metadata_is_rewritten_when_asked_and_the_old_bytes_stay_in_the_ledger(pipeline):
    folder = add_study(pipeline.archive, "S1", "one.dcm", "two.dcm")
    (add_study(pipeline.archive, "S2") / "metadata.json").unlink()
    old = (folder / "metadata.json").read_bytes()
    done = adopt(pipeline, rewrite=True)
    assert (done.files, done.left_alone, noted(done.remarks)) == (3, [], {"S2/metadata.json": "metadata-missing"})
    for study_id in ("S1", "S2"):
        data = (pipeline.archive / study_id / "metadata.json").read_bytes()
        assert data == folded(pipeline, study_id)
        assert list(pipeline.ledger.study(study_id))[-1].data["metadata_sha256"] == hashlib.sha256(data).hexdigest()
    document = json.loads((folder / "metadata.json").read_bytes())
    assert document["processing_time"] == "2021-03-04T05:06:07.000008Z"
    assert document["study_info"] == old_metadata("S1")["study_info"]
    assert sorted(file["name"] for file in document["files"]) == ["one.dcm", "two.dcm"]
    assert base64.b64decode(next(pipeline.ledger.study("S1")).data["raw"]) == old
    assert sorted(os.listdir(folder)) == ["metadata.json", "one.dcm", "two.dcm"]
    assert (adopt(pipeline, rewrite=True).files, adopt(pipeline).files) == (0, 0)


@pytest.mark.parametrize("again", [True, False])
def test_an_interrupted_rewrite_is_continued(pipeline, again):
    folder = add_study(pipeline.archive, "S1")
    old = (folder / "metadata.json").read_bytes()

    class Cut(Exception):
        pass

    class Cutting(FilesystemArchive):
        def write_metadata(self, study_id: str, data: bytes) -> None:
            super().write_metadata(study_id, data)
            (folder / ".metadata.json.tmp").write_bytes(b"half")
            (folder / "metadata.json").write_bytes(old)
            raise Cut

    with pytest.raises(Cut):
        Adoption(pipeline.ledger, Cutting(pipeline.archive), AdoptPlan(rewrite=True), clock=pipeline.clock).run()
    assert pipeline.kinds() == ["described"]
    assert pipeline.ledger.queue() == []
    done = adopt(pipeline, rewrite=again)
    assert (done.files, noted(done.left_alone)) == (1, {} if again else {"S1/.metadata.json.tmp": "is-hidden"})
    assert (folder / ".metadata.json.tmp").exists() == (not again)
    assert pipeline.kinds() == (["described", "archived"] if again else ["described", "described", "archived"])
    assert base64.b64decode(pipeline.ledger.get(1).data["raw"]) == old
    assert (folder / "metadata.json").read_bytes() == folded(pipeline, "S1")
    assert adopt(pipeline).known == 1


def test_non_dicom_files_are_adopted_on_request_or_if_named_like_dicom(pipeline):
    folder = add_study(pipeline.archive, "S1", "a.dcm")
    for name in ("notes.txt", "broken.dcm", "S1"):
        (folder / name).write_bytes(b"no dicom")
    assert noted(adopt(pipeline).left_alone) == {"S1/notes.txt": "not-dicom"}
    assert set(Study.of("S1", pipeline.ledger.study("S1")).files) == {"a.dcm", "broken.dcm", "S1"}
    assert adopt(pipeline, any_file=True).files == 1


def test_statuses_are_sent_only_on_request(pipeline):
    add_study(pipeline.archive, "S1", "one.dcm", "two.dcm")
    adopt(pipeline, tell=True)
    assert [(length.stage, length.rows) for length in pipeline.ledger.queue()] == [("tell", 2)]


def test_a_ledger_restored_from_the_mirror_has_no_work_items_for_adopted_studies(pipeline, tmp_path):
    add_broken(pipeline.archive)
    mirror = Mirror(pipeline.archive, tmp_path / "mirror.lock", pipeline.ledger)
    mirror.begin()
    Adoption(pipeline.ledger, FilesystemArchive(pipeline.archive), AdoptPlan(), clock=pipeline.clock, on_committed=mirror.catch_up).run()
    assert list(entries(pipeline.archive, pipeline.ledger.ledger_id)) == pipeline.ledger.read(0, 1000)
    from_mirror(pipeline.archive, tmp_path / "again" / "ledger.db")
    again = SqliteLedger(tmp_path / "again" / "ledger.db")
    assert again.read(0, 1000) == pipeline.ledger.read(0, 1000)
    assert again.queue() == []
    again.close()


@pytest.mark.parametrize("rewrite", [False, True])
def test_an_adoption_half_lost_with_a_torn_mirror_is_repeated(pipeline, tmp_path, rewrite):
    folder = add_study(pipeline.archive, "S1")
    old = (folder / "metadata.json").read_bytes()
    mirror = Mirror(pipeline.archive, tmp_path / "mirror.lock", pipeline.ledger)
    mirror.begin()
    Adoption(pipeline.ledger, FilesystemArchive(pipeline.archive), AdoptPlan(), clock=pipeline.clock, on_committed=mirror.catch_up).run()
    [segment] = (pipeline.archive / ".ledger").glob("*.entries")
    data = segment.read_bytes()
    segment.write_bytes(data[: data.index(b"\nentry", data.index(b"\nentry") + 1) + 9])
    from_mirror(pipeline.archive, tmp_path / "again" / "ledger.db")
    pipeline.ledger.close()
    pipeline.ledger = SqliteLedger(tmp_path / "again" / "ledger.db")
    assert pipeline.kinds() == ["described"]
    assert (adopt(pipeline, rewrite=rewrite).files, pipeline.kinds()) == (1, ["described", "described", "archived"])
    assert Study.of("S1", pipeline.ledger.study("S1")).state == "archived"
    assert (folder / "metadata.json").read_bytes() == folded(pipeline, "S1")
    assert (folded(pipeline, "S1") == old) == (not rewrite)
    assert adopt(pipeline).known == 1
    assert pipeline.ledger.queue() == []


def test_a_study_with_damaged_entries_is_left_alone_and_the_others_are_adopted(pipeline):
    add_study(pipeline.archive, "S1")
    adopt(pipeline)
    damage(pipeline.ledger, "UPDATE entries SET payload = replace(payload, 'S1', 'S9') WHERE position = 1")
    add_study(pipeline.archive, "S2")
    done = adopt(pipeline)
    assert done.left_alone_by_code == {"entry-damaged": 1}
    assert {entry.study_id for entry in pipeline.ledger.read(0, 100)} == {"S1", "S2"}


@pytest.mark.parametrize("other", [None, b"{", b"[1]", b'{"processing_time": []}', b'{"study_id": "\xff"}'])
def test_the_metadata_of_an_old_study_that_is_described_before_it_is_adopted_is_kept_aside(pipeline, other):
    folder = add_study(pipeline.archive, "S1")
    if other is not None:
        (folder / "metadata.json").write_bytes(other)
    old = (folder / "metadata.json").read_bytes()
    for n, name in enumerate(("new.dcm", "newer.dcm")):
        pipeline.upload(name, b"%d" % n)
        pipeline.say("S1", name, {"n": n})
        pipeline.finish()
    assert pipeline.metadata("S1")["n"] == 1
    aside = pipeline.archive / ".ledger" / "damaged" / "S1"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {"0-metadata.json": old}
