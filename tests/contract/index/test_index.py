"""The contents of the index for studies and files, from hand-made entries that it follows one at a time."""

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial

import pytest

from storage_ledger.domain.entries import Kind, NewEntry, faults
from storage_ledger.domain.entries import header as header_of
from storage_ledger.errors import LedgerUnusable, Locked
from storage_ledger.index.database_file import IndexUnreadable
from storage_ledger.index.follower import BATCH, BUSY, BUSY_GATHER_S, GATHER_S, Index
from storage_ledger.index.rebuild import worker
from storage_ledger.index.rebuild.processes import RebuildProcesses
from storage_ledger.index.schema import INDEXES, SEARCH
from storage_ledger.index.writer import FollowingWriter
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system import locks
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages.search_terms import expression
from tests.property.test_index_properties import rows
from tests.support.large_ledger import make
from tests.support.making import Clock, archived, damage, described, made_entry


class Following:
    """A ledger and an index that follows after each entry."""

    def __init__(self, ledger, path):
        self.ledger = ledger
        self.index = Index(path, ledger)
        self.index.ensure()

    def append(self, kind, payload, study_id="S1", cause=None):
        with self.ledger.write() as tx:
            entry = tx.append(NewEntry(kind, payload, study_id, cause), work_item=False)
        self.index.follow()
        return entry

    def rows(self, sql):
        with closing(sqlite.connect(self.index.path)) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture
def following(tmp_path, ledgers, clock: Clock):
    made = Following(ledgers.open(tmp_path, clock), tmp_path / "index.db")
    yield made
    made.index.close()
    made.ledger.close()


def header(sop, study="1.2", **more):
    return {"SOPInstanceUID": sop, "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "Modality": "CT", **more}


def test_one_instance_uid_with_different_bytes_is_flagged_on_both_sides_however_late_it_comes(following):
    following.append(Kind.ARCHIVED, archived("a.dcm", content="x", dicom=header("9.1", "1.2")), "A")
    following.append(Kind.ARCHIVED, archived("b.dcm", content="x", dicom=header("9.1", "1.3")), "B")
    assert following.rows("SELECT sum(sop_conflict) FROM files") == [(0,)]
    following.append(Kind.ARCHIVED, archived("c.dcm", content="y", dicom=header("9.1", "1.4")), "C")
    expected = [("1.2", 1), ("1.3", 1), ("1.4", 1)]
    for _ in range(2):
        assert following.rows("SELECT study_instance_uid, sop_conflict FROM files ORDER BY 1") == expected
        assert following.rows("SELECT study_instance_uid, flagged FROM dicom_studies ORDER BY 1") == expected
        following.index.rebuild()


def test_a_message_whose_study_uid_is_not_its_files_is_flagged(following):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", {"study_info": {"study_instance_uid": "1.7"}})).position
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1", "1.2")), cause=cause)
    assert following.rows("SELECT study_uid_differs FROM files") == [(1,)]
    assert following.rows("SELECT study_instance_uid, flagged FROM dicom_studies") == [("1.2", 1)]
    assert following.rows("SELECT study_instance_uid FROM studies") == [("1.7",)]


def test_a_dicom_study_is_made_of_many_pipeline_studies(following):
    for number, series in enumerate(["1.2.1", "1.2.1", "1.2.2"]):
        name = f"{number}.dcm"
        following.append(Kind.ARCHIVED, archived(name, content=name, dicom=header(f"9.{number}", SeriesInstanceUID=series)), f"S{number}")
    assert following.rows("SELECT studies, series, files, bytes, modalities, flagged FROM dicom_studies") == [(3, 2, 3, 15, "CT", 0)]
    assert following.rows("SELECT series_instance_uid, files, bytes FROM series ORDER BY 1") == [("1.2.1", 2, 10), ("1.2.2", 1, 5)]


def test_a_study_is_described_when_it_first_was_and_archived_when_it_last_was(following, clock):
    times = []
    for kind, payload in [(Kind.DESCRIBED, described()), (Kind.ARCHIVED, archived())] * 2:
        clock.move(1)
        times.append(following.append(kind, payload).recorded_at)
    assert following.rows("SELECT described_at, archived_at, files, bytes, last_position FROM studies") == [(times[0], times[3], 1, 5, 4)]


def test_the_studys_state_follows_the_outcomes_of_its_uploads(following):
    states = []
    for kind, payload in [
        (Kind.DESCRIBED, described()),
        (Kind.FAILED, {"step": "place", "code": "archive-io", "upload_path": "a.dcm"}),
        (Kind.QUARANTINED, {"code": "upload-missing", "upload_path": "a.dcm"}),
        (Kind.STATUS_SENT, {"status": "failed", "tells": []}),
        (Kind.RELEASED, {"code": "upload-missing", "upload_path": "a.dcm", "described": 1, "by": "x", "reason": "y"}),
        (Kind.QUARANTINED, {"code": "upload-is-link", "upload_path": "a.dcm"}),
        (Kind.DISCARDED, {"code": "upload-is-link", "upload_path": "a.dcm", "by": "x", "reason": "y"}),
        (Kind.DESCRIBED, described()),
        (Kind.ARCHIVED, archived()),
        (Kind.FAILED, {"step": "remove", "code": "upload-io", "upload_path": "a.dcm"}),
        (Kind.STATUS_SENT, {"status": "archived", "tells": []}),
    ]:
        following.append(kind, payload)
        states += following.rows("SELECT state, status_sent, last_error FROM studies")
    assert states == [
        ("pending", None, None),
        ("failed", None, "archive-io"),
        ("quarantined", None, "upload-missing"),
        ("quarantined", "failed", "upload-missing"),
        ("pending", "failed", "upload-missing"),
        ("quarantined", "failed", "upload-is-link"),
        ("discarded", "failed", "upload-is-link"),
        ("pending", "failed", "upload-is-link"),
        ("archived", "failed", None),
        ("archived", "failed", "upload-io"),
        ("archived", "archived", None),
    ]


IDENTITY = "SELECT patient_name, patient_id, patient_birth_date, patient_sex"


def patient(name=None, patient_id=None, born=None, sex=None):
    given = {"PatientName": name, "PatientID": patient_id, "PatientBirthDate": born, "PatientSex": sex}
    return {keyword: value for keyword, value in given.items() if value is not None}


def said(name=None, patient_id=None, born=None, sex=None, **more):
    keys = ("patient_name", "patient_id", "patient_birth_date", "patient_sex")
    return {"patient_info": {k: v for k, v in zip(keys, (name, patient_id, born, sex), strict=True) if v is not None}, **more}


class Deliveries:
    """Messages with their files, as the pipeline records them."""

    def __init__(self, following):
        self._following = following

    def __call__(self, study_id, path="a.dcm", metadata=None, dicom=None, content=None, **more):
        cause = self._following.append(Kind.DESCRIBED, described(path, metadata), study_id).position
        payload = archived(path, content=content or f"{study_id}{path}", dicom=dicom) | more
        return self._following.append(Kind.ARCHIVED, payload, study_id, cause)

    def flags(self, *columns):
        """Return each file's flags by study_id and name; they must be the same in a rebuilt index."""
        sql = f"SELECT {', '.join(columns)} FROM files ORDER BY study_id, name"
        found, counts = self._following.rows(sql), self._following.rows("SELECT study_instance_uid, flagged FROM dicom_studies ORDER BY 1")
        self._following.index.rebuild()
        assert self._following.rows(sql) == found
        assert self._following.rows("SELECT study_instance_uid, flagged FROM dicom_studies ORDER BY 1") == counts
        return found


@pytest.fixture
def deliver(following):
    return Deliveries(following)


def test_values_from_the_message_take_precedence_over_the_header(following, deliver):
    deliver("S1", metadata={"study_info": {"study_date": "20260101"}}, dicom=header("9.1", StudyDate="20250101", StudyTime="1200"))
    assert following.rows("SELECT study_date, study_time FROM studies") == [("20260101", "1200")]
    assert following.rows("SELECT study_date, study_time FROM files") == [("20250101", "1200")]


@pytest.mark.parametrize(
    ("in_message", "in_header", "expected"),
    [
        (said("DOE^JANE"), patient("MUELLER^KAETHE", "SGC-1", "19400101", "F"), ("DOE^JANE", None, None, None)),
        (said(None, "SGC-2", sex="M"), patient("MUELLER^KAETHE", "SGC-1", "19400101", "F"), (None, "SGC-2", None, "M")),
        (said(born="19700101", sex="M"), patient("MUELLER^KAETHE", "SGC-1"), ("MUELLER^KAETHE", "SGC-1", None, None)),
        (said("^^^", born="19700101"), patient(patient_id="SGC-1"), (None, "SGC-1", None, None)),
        (said(born="19700101"), patient(sex="F"), (None, None, "19700101", None)),
        (said(), patient(sex="F"), (None, None, None, "F")),
        ({}, patient("MUELLER^KAETHE"), ("MUELLER^KAETHE", None, None, None)),
        (said("DOE^JANE"), {}, ("DOE^JANE", None, None, None)),
    ],
)
def test_the_patient_of_a_pipeline_study_is_the_messages_or_the_files_and_never_made_of_both(
    following, deliver, in_message, in_header, expected
):
    deliver("S1", metadata=in_message, dicom=header("9.1", **in_header))
    assert following.rows(f"{IDENTITY} FROM studies") == [expected]


def test_a_later_message_replaces_the_patient_of_a_pipeline_study_as_a_whole(following, deliver):
    deliver("S1", metadata=said("DOE^JANE", "1", "19700101", "F"), dicom=header("9.1"))
    deliver("S1", metadata={}, dicom=header("9.1"), placement="already-there")
    assert following.rows(f"{IDENTITY} FROM studies") == [("DOE^JANE", "1", "19700101", "F")]
    deliver("S1", metadata=said("ROE^RICHARD"), dicom=header("9.1"), placement="already-there")
    assert following.rows(f"{IDENTITY} FROM studies") == [("ROE^RICHARD", None, None, None)]


def test_the_patient_of_a_dicom_study_is_that_of_the_first_file_that_names_one(following, deliver):
    deliver("RS", dicom=header("9.1", PatientSex="O", Modality="RTSTRUCT"))
    assert following.rows(f"{IDENTITY} FROM dicom_studies") == [(None, None, None, "O")]
    deliver("C1", dicom=header("9.2", **patient("RICHTER^EVA", born="19500101")))
    deliver("C2", dicom=header("9.3", **patient("RICHTER^EVA", "4711", "19500101", "F")))
    for _ in range(2):
        assert following.rows(f"{IDENTITY} FROM dicom_studies") == [("RICHTER^EVA", None, "19500101", None)]
        following.index.rebuild()


def test_what_a_dicom_study_or_a_series_is_comes_from_the_first_file_that_says_it(following, deliver):
    deliver("RS", dicom={"SOPInstanceUID": "9.1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1", "InstitutionName": "A"})
    deliver("C1", dicom=header("9.2", StudyDate="20260102", AccessionNumber="ACC-9", InstitutionName="B", SeriesNumber=3))
    deliver("C2", dicom=header("9.3", StudyDate="20260103", StudyDescription="CT", StudyTime="12", Manufacturer="M", BodyPartExamined="X"))
    columns = "study_date, study_time, study_description, accession_number, institution_name, manufacturer, year, modalities"
    for _ in range(2):
        assert following.rows(f"SELECT {columns} FROM dicom_studies") == [("20260102", "12", "CT", "ACC-9", "A", "M", 2026, "CT")]
        assert following.rows("SELECT series_number, modality, body_part, files FROM series") == [(3, "CT", "X", 3)]
        following.index.rebuild()


TWO_PATIENTS = [
    [patient("NOTFALL^EINS", "TEMP0001"), patient("LEHMANN^ANNA", "4711")],
    [patient(patient_id="1"), patient("LEHMANN^ANNA"), patient("LEHMANN^ANNA", "2")],
    [patient("DOE^JANE", born="19700101"), patient("Doe^Jane^^", born="19710101"), patient("doe^jane", "7", "19700101")],
    [patient("A^B", "1", sex="F"), patient("A^B", "1", sex="M")],
    [patient("A^B=\u5c71\u7530"), patient("A^B=\u7530\u4e2d")],
]


@pytest.mark.parametrize("patients", TWO_PATIENTS)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_file_that_names_another_patient_than_a_file_of_its_study_is_flagged(following, deliver, patients, backwards):
    named = list(enumerate(patients))
    for number, each in reversed(named) if backwards else named:
        deliver(f"S{number}", dicom=header(f"9.{number}", **each))
    deliver("T", dicom=header("9.8"))  # names nobody
    deliver("U", dicom=header("9.9", "1.3", **patients[0]))  # another study
    differs = [int(len({tuple(each.items()) for each in patients}) > 1) for each in patients]
    if patients == TWO_PATIENTS[1]:
        differs = [1, 0, 1]  # the second one names no ID
    assert [row[0] for row in deliver.flags("patient_differs")] == [*differs, 0, 0]
    assert following.rows("SELECT study_instance_uid, flagged FROM dicom_studies ORDER BY 1") == [("1.2", sum(differs)), ("1.3", 0)]


def test_the_same_patient_in_another_spelling_is_not_flagged(deliver):
    for number, each in enumerate([patient("DOE^JANE", "p1", "19700101", "F"), patient("Doe^Jane^^", "P1 ", "1970.01.01", "f"), patient()]):
        deliver(f"S{number}", dicom=header(f"9.{number}", **each))
    assert deliver.flags("patient_differs") == [(0,), (0,), (0,)]


def test_a_message_about_another_patient_than_its_file_is_flagged_until_one_comes_that_agrees(following, deliver):
    rossi, mueller = said("ROSSI^GIULIA", "SGC-122138"), header("9.1", **patient("MUELLER^KAETHE", "SGC-106969"))
    first = deliver("S1", metadata=rossi, dicom=mueller)
    assert deliver.flags("message_differs", "study_uid_differs", "announced", "described") == [
        (1, 0, '{"patient_id":"SGC-122138","patient_name":"ROSSI^GIULIA"}', first.cause)
    ]
    again = deliver("S1", metadata=said("Mueller^Kaethe", "SGC-106969"), dicom=mueller, placement="already-there")
    assert deliver.flags("message_differs", "announced", "described") == [(0, None, again.cause)]
    assert following.rows("SELECT flagged FROM dicom_studies") == [(0,)]
    deliver("S1", metadata=rossi, dicom=mueller, placement="already-there")
    assert deliver.flags("message_differs") == [(1,)]
    assert following.rows("SELECT flagged FROM dicom_studies") == [(1,)]


def test_each_file_is_compared_with_the_message_that_it_came_with(deliver):
    deliver("S1", "a.dcm", said("DOE^JANE"), header("9.1", **patient("DOE^JANE")))
    deliver("S1", "b.dcm", said("ROE^RICHARD"), header("9.2", "1.3", **patient("ROE^RICHARD")))
    deliver("S1", "c.dcm", {}, header("9.3", "1.4", **patient("POE^EDGAR")))
    assert deliver.flags("message_differs", "study_uid_differs") == [(0, 0)] * 3


def test_a_message_that_had_to_wait_does_not_speak_for_a_file_once_a_newer_one_does(following, deliver):
    dicom = header("9.1", **patient("DOE^JANE"))
    old = following.append(Kind.DESCRIBED, described("a.dcm", said("WRONG^ONE"))).position
    deliver("S1", "a.dcm", said("DOE^JANE"), dicom)
    following.append(Kind.ARCHIVED, archived("a.dcm", content="S1a.dcm", dicom=dicom) | {"placement": "already-there"}, cause=old)
    assert deliver.flags("message_differs") == [(0,)]


def test_a_message_whose_entry_is_damaged_is_compared_with_nothing(following, deliver):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", said("DOE^JANE"))).position
    damage(following.ledger, f"UPDATE entries SET payload = replace(payload, 'JANE', 'JOHN') WHERE position = {cause}")
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1", **patient("ROE^R"))), cause=cause)
    assert following.rows("SELECT message_differs, announced FROM files") == [(0, None)]


def test_an_earlier_incomplete_state_and_a_message_without_its_upload_are_flagged(deliver):
    deliver("S1", "a.dcm", {}, header("9.1"), content="half")
    deliver("S1", "a.dcm", {}, header("9.1"), content="whole", supersedes="a.dcm", file=archived("a~1.dcm", content="whole")["file"])
    assert deliver.flags("name", "superseded", "unconfirmed") == [("a.dcm", 1, 0), ("a~1.dcm", 0, 0)]
    deliver("S1", "a~1.dcm", said("ROE^R"), header("9.1"), content="whole", placement="already-there", unconfirmed=True)
    assert deliver.flags("superseded", "unconfirmed") == [(1, 0), (0, 1)]
    deliver("S1", "a~1.dcm", said("ROE^R"), header("9.1"), content="whole", placement="already-there")
    assert deliver.flags("superseded", "unconfirmed") == [(1, 0), (0, 0)]


def test_a_superseded_name_that_is_no_file_of_the_study_changes_nothing(deliver):
    deliver("S1", "a.dcm", {}, header("9.1"), supersedes="z.dcm")
    deliver("S2", "a.dcm", {}, header("9.1"), supersedes="a.dcm")
    deliver("S3", "a.dcm", {}, header("9.1"), supersedes=["a.dcm"], unconfirmed="yes")
    assert deliver.flags("superseded", "unconfirmed") == [(0, 0)] * 3


class Counting:
    """A connection that counts the steps of SQLite's virtual machine."""

    def __init__(self, path):
        self.connection = sqlite.connect(path)
        self.steps = 0
        self.connection.set_progress_handler(self._step, 100)

    def _step(self):
        self.steps += 1
        return 0


@pytest.mark.parametrize("how", ["one patient", "many patients", "several modalities", "no series"])
def test_adding_a_file_costs_the_same_for_any_number_of_files_in_its_study(following, how):
    """Several in one transaction, as a follower gets them; also if a sender puts all patients into one study."""
    work = []
    for size in (100, 1000):
        counting = Counting(following.index.path)
        with closing(counting.connection) as connection:

            def one_more(number, size=size):
                who = patient(f"DOE^N{number}", f"{number}") if how == "many patients" else patient("DOE^JANE", "1")
                dicom = header(f"9.{size}.{number}", f"1.{size}", **who)
                if how == "several modalities":
                    dicom["Modality"] = ["CT", "SR"][number % 2]
                if how == "no series":
                    del dicom["SeriesInstanceUID"]
                return made_entry(number, "archived", archived(f"{number}.dcm", dicom=dicom), study_id=f"S{size}-{number}", version=1)

            FollowingWriter(connection, get=lambda _: None).apply([one_more(size * 10 + n) for n in range(size)])
            counting.steps = 0
            FollowingWriter(connection, get=lambda _: None).apply([one_more(size * 20 + n) for n in range(20)])
            connection.set_progress_handler(None, 0)
            work.append(counting.steps)
            found = connection.execute(
                "SELECT files, studies, series, flagged, modalities FROM dicom_studies WHERE study_instance_uid = ?", (f"1.{size}",)
            )
            series, flagged = int(how != "no series"), size + 20 if how == "many patients" else 0
            modalities = "CT, SR" if how == "several modalities" else "CT"
            assert found.fetchone() == (size + 20, size + 20, series, flagged, modalities)
    assert work[1] < 1.5 * work[0], work


def calls(work):
    """Return how many functions Python enters or resumes during the work."""
    count = 0

    def count_one(*_):
        nonlocal count
        count += 1

    sys.setprofile(count_one)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("described_first", [True, False])
def test_adding_a_file_costs_the_same_for_any_size_of_pipeline_study(following, described_first):
    work = []
    for size in (100, 1000):
        counting = Counting(following.index.path)
        with closing(counting.connection) as connection:
            kinds = [("described", described), ("archived", lambda name: archived(name, dicom=header(f"9.{name}")))]
            numbers = range(size + 20)
            steps = [(number, kind) for kind in kinds for number in numbers] if described_first else itertools.product(numbers, kinds)
            entries = [
                made_entry(size * 10 + at, kind, payload(f"{number}.dcm"), study_id=f"S{size}", version=at + 1)
                for at, (number, (kind, payload)) in enumerate(steps)
            ]
            FollowingWriter(connection, get=lambda _: None).apply(entries[:-20])
            counting.steps = 0
            called = calls(partial(FollowingWriter(connection, get=lambda _: None).apply, entries[-20:]))
            connection.set_progress_handler(None, 0)
            work.append((counting.steps, called))
            found = connection.execute("SELECT state, files FROM studies WHERE study_id = ?", (f"S{size}",))
            assert found.fetchone() == ("archived", size + 20)
    assert work[1][0] < 1.3 * work[0][0], work
    assert work[1][1] < 1.3 * work[0][1], work


@pytest.mark.usefixtures("the_same_anew")
def test_a_large_pipeline_study_that_is_followed_in_batches_is_as_a_rebuild_makes_it(following):
    rng = random.Random(1)
    for _ in range(60):
        with following.ledger.write() as tx:
            for _ in range(10):
                name = f"{rng.randrange(300)}.dcm"
                cause = tx.append(NewEntry(Kind.DESCRIBED, described(name), "S1"), work_item=False).position
                outcome = rng.choice(["archived", "archived", "archived", "waits", "quarantined", "failed", "discarded", "verified"])
                if outcome == "archived":
                    payload = archived(name, content=rng.choice("xy"), dicom=header(f"9.{name}", rng.choice(["1.2", "1.2", "1.3"])))
                    replaced = {"supersedes": f"{rng.randrange(300)}.dcm"} if rng.random() < 0.1 else {}
                    tx.append(NewEntry(Kind.ARCHIVED, payload | replaced, "S1", cause), work_item=False)
                elif outcome == "verified":
                    scope = {"scope": {"up_to": cause, "ranges": [[1, rng.randrange(1, cause + 1)]]}}
                    tx.append(NewEntry(Kind.VERIFIED, {"findings": [], "unchecked": []} | scope))
                elif outcome != "waits":
                    why = {"code": "upload-missing", "step": "place", "upload_path": name, "described": cause, "by": "x", "reason": "y"}
                    tx.append(NewEntry(Kind(outcome), why, "S1", cause), work_item=False)
        following.index.follow()
    assert following.rows("SELECT count(*) > 100 FROM files") == [(1,)]
    assert following.rows("SELECT count(DISTINCT state) FROM uploads") == [(5,)]


SAID = {
    "patient_info": {"patient_id": "SAID", "patient_name": "SAID^JANE", "patient_birth_date": "19700101"},
    "study_info": {"study_instance_uid": "1.7", "study_date": "20260102", "accession_number": "A-SAID"},
    "modality_info": {"modality": "MR"},
}
FILE_SAYS = "patient_id, patient_name, patient_birth_date, study_instance_uid, study_date, accession_number, modality, dicom_error"


def header_read(path="a.dcm", content="bytes", dicom=None, error=None):
    file = {key: archived(path, content=content)["file"][key] for key in ("name", "sha256")}
    return {"file": file, "dicom": dicom, "software": "0"} | ({"dicom_error": error} if error else {})


def unread(error="header-too-large", dicom=None, path="a.dcm", **more):
    return archived(path, dicom=dicom, **more) | {"dicom_error": error}


@pytest.fixture
def the_same_anew(following):
    """Assert that a rebuilt index is the same, wherever the rebuild divides the ledger."""
    yield
    followed = rows(following.index.path)
    for partitions in (1, 2, 3):
        index = Index(following.index.path.with_name(f"anew-{partitions}.db"), following.ledger, rebuild_partitions=partitions)
        index.rebuild()
        index.close()
        assert rows(index.path) == followed


@pytest.mark.usefixtures("the_same_anew")
def test_the_message_supplies_values_for_an_unreadable_header(following):
    """The study is then listed and found; the error code stays."""
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    following.append(Kind.ARCHIVED, unread(), cause=cause)
    assert following.rows(f"SELECT {FILE_SAYS} FROM files") == [
        ("SAID", "SAID^JANE", "19700101", "1.7", "20260102", "A-SAID", "MR", "header-too-large")
    ]
    assert following.rows("SELECT study_instance_uid, patient_name, files, flagged FROM dicom_studies") == [("1.7", "SAID^JANE", 1, 0)]
    assert following.rows("SELECT study_instance_uid FROM dicom_studies_fts JOIN dicom_studies ON first_position = dicom_studies_fts.rowid "
                          "WHERE dicom_studies_fts MATCH 'said'") == [("1.7",)]  # fmt: skip


@pytest.mark.usefixtures("the_same_anew")
@pytest.mark.parametrize(
    ("dicom", "expected"),
    [
        ({"PatientID": "FOUND"}, ("FOUND", None, None, "1.7")),
        ({"PatientName": "FOUND^JOE"}, (None, "FOUND^JOE", None, "1.7")),
        ({"PatientBirthDate": "19990101"}, ("SAID", "SAID^JANE", "19700101", "1.7")),
        ({"StudyInstanceUID": "1.2"}, ("SAID", "SAID^JANE", "19700101", "1.2")),
        ({"StudyInstanceUID": "1.2", "PatientID": "FOUND"}, ("FOUND", None, None, "1.2")),
    ],
)
def test_a_patient_is_of_the_header_or_of_the_message_and_never_of_both(following, dicom, expected):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    following.append(Kind.ARCHIVED, unread("header-cut", dicom), cause=cause)
    assert following.rows("SELECT patient_id, patient_name, patient_birth_date, study_instance_uid FROM files") == [expected]


@pytest.mark.usefixtures("the_same_anew")
def test_a_later_message_replaces_the_earlier_ones_values_and_is_not_flagged_as_a_mix_up(following):
    for number, patient in enumerate(("ONE^A", "TWO^B"), 1):
        said = {"patient_info": {"patient_name": patient, "patient_id": f"P{number}"}, "study_info": {"study_instance_uid": f"1.{number}"}}
        cause = following.append(Kind.DESCRIBED, described("a.dcm", said)).position
        following.append(Kind.ARCHIVED, unread(), cause=cause)
    assert following.rows("SELECT patient_name, patient_id, study_instance_uid, from_message, message_differs FROM files") == [
        ("TWO^B", "P2", "1.2", "patient, study", 0)
    ]
    assert following.rows("SELECT study_instance_uid, patient_name, files FROM dicom_studies") == [("1.2", "TWO^B", 1)]


@pytest.mark.usefixtures("the_same_anew")
def test_a_file_of_no_study_is_listed_until_a_message_or_a_header_names_one(following):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", {})).position
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom={"Modality": "OT"}), cause=cause)
    assert following.rows("SELECT dicom_error FROM files") == [("no-study-uid",)]
    cause = following.append(Kind.DESCRIBED, described("a.dcm", {"study_info": {"study_instance_uid": "1.9"}})).position
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom={"Modality": "OT"}) | {"placement": "already-there"}, cause=cause)
    assert following.rows("SELECT dicom_error, study_instance_uid, from_message FROM files") == [(None, "1.9", "study")]


@pytest.mark.usefixtures("the_same_anew")
def test_a_complete_header_without_a_patient_takes_only_the_patient_from_its_message(following):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), cause=cause)
    assert following.rows(f"SELECT {FILE_SAYS} FROM files") == [("SAID", "SAID^JANE", "19700101", "1.2", None, None, "CT", None)]
    assert following.rows("SELECT from_message, study_uid_differs FROM files") == [("patient", 1)]


@pytest.mark.usefixtures("the_same_anew")
def test_two_patients_that_only_messages_name_are_flagged_as_such(following):
    for number, patient in enumerate(("ANON^A", "ANON^B"), 1):
        said = {"patient_info": {"patient_name": patient, "patient_id": patient[-1]}}
        cause = following.append(Kind.DESCRIBED, described(f"{number}.dcm", said), f"S{number}").position
        following.append(Kind.ARCHIVED, archived(f"{number}.dcm", dicom=header(f"9.{number}")), f"S{number}", cause)
    assert following.rows("SELECT patient_differs, message_differs FROM files") == [(1, 0), (1, 0)]
    assert following.rows("SELECT patient_name, flagged FROM dicom_studies") == [("ANON^A", 2)]


@pytest.mark.usefixtures("the_same_anew")
def test_a_reread_header_replaces_the_values_from_the_message(following):
    """It also leaves no trace of the study under which the file was listed before."""
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    first = following.append(Kind.ARCHIVED, unread(dicom={"SeriesInstanceUID": "1.7.1"}), cause=cause).position
    following.append(Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2", PatientID="OTHER")), "S2")
    found = header("9.1", PatientID="FOUND", PatientName="FOUND^JOE", StudyDate="20250101", Rows=64)
    following.append(Kind.HEADER_READ, header_read(dicom=found), cause=first)
    assert following.rows(f"SELECT {FILE_SAYS} FROM files WHERE name = 'a.dcm'") == [
        ("FOUND", "FOUND^JOE", None, "1.2", "20250101", None, "CT", None)
    ]
    assert following.rows("SELECT sop_instance_uid, \"rows\", study_uid_differs FROM files WHERE name = 'a.dcm'") == [("9.1", 64, 1)]
    assert following.rows("SELECT study_instance_uid, patient_id, files FROM dicom_studies") == [("1.2", "FOUND", 2)]
    assert following.rows("SELECT series_instance_uid, files FROM series") == [("1.2.1", 2)]
    assert following.rows("SELECT modality, files, bytes FROM arrivals") == [("CT", 2, 10)]
    assert following.rows("SELECT count(*) FROM dicom_studies_fts WHERE dicom_studies_fts MATCH 'said'") == [(0,)]


@pytest.mark.usefixtures("the_same_anew")
def test_a_series_has_the_requests_of_its_first_file_that_names_any(following):
    first = following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "S1").position
    requests = [[{"RequestedProcedureID": f'"Ü"\\{number}'}, {"ScheduledProcedureStepID": "S"}] for number in range(3)]
    for number in (1, 2):
        dicom = header(f"9.{number + 1}", RequestAttributesSequence=requests[number])
        following.append(Kind.ARCHIVED, archived(f"{number}.dcm", dicom=dicom), f"S{number + 1}")
    of_series = "SELECT request_attributes FROM series"
    assert [json.loads(row[0]) for row in following.rows(of_series)] == [requests[1]]
    following.append(Kind.HEADER_READ, header_read(dicom=header("9.1", RequestAttributesSequence=requests[0])), "S1", cause=first)
    assert [json.loads(row[0]) for row in following.rows(of_series)] == [requests[0]]


@pytest.mark.usefixtures("the_same_anew")
def test_a_header_that_still_lacks_something_leaves_the_message_standing_in(following):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    first = following.append(Kind.ARCHIVED, unread(), cause=cause).position
    following.append(Kind.HEADER_READ, header_read(dicom={"SOPInstanceUID": "9.1"}, error="header-cut"), cause=first)
    assert following.rows(f"SELECT {FILE_SAYS}, sop_instance_uid FROM files") == [
        ("SAID", "SAID^JANE", "19700101", "1.7", "20260102", "A-SAID", "MR", "header-cut", "9.1")
    ]


@pytest.mark.usefixtures("the_same_anew")
@pytest.mark.parametrize("which", ["another name", "other bytes"])
def test_a_header_of_another_file_changes_nothing(following, which):
    first = following.append(Kind.ARCHIVED, unread()).position
    other = {"path": "b.dcm"} if which == "another name" else {"content": "others"}
    following.append(Kind.HEADER_READ, header_read(dicom=header("9.1"), **other), cause=first)
    assert following.rows("SELECT name, study_instance_uid, dicom_error FROM files") == [("a.dcm", None, "header-too-large")]


@pytest.mark.usefixtures("the_same_anew")
def test_instances_that_are_no_longer_in_conflict_lose_their_flag(following):
    following.append(Kind.ARCHIVED, archived("b.dcm", content="y", dicom=header("9.1", "1.3")), "B")
    first = following.append(Kind.ARCHIVED, unread("some-attributes-unreadable", header("9.1"))).position
    assert following.rows("SELECT sum(sop_conflict), sum(flagged) FROM files JOIN dicom_studies USING (study_instance_uid)") == [(2, 2)]
    following.append(Kind.HEADER_READ, header_read(dicom=header("9.2")), cause=first)
    assert following.rows("SELECT sum(sop_conflict), sum(flagged) FROM files JOIN dicom_studies USING (study_instance_uid)") == [(0, 0)]


@pytest.mark.usefixtures("the_same_anew")
def test_the_header_of_a_redelivery_counts_where_there_was_none(following):
    cause = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    following.append(Kind.ARCHIVED, unread(), cause=cause)
    again = following.append(Kind.DESCRIBED, described("a.dcm", SAID)).position
    following.append(Kind.ARCHIVED, archived(dicom=header("9.1")) | {"placement": "already-there"}, cause=again)
    assert following.rows("SELECT study_instance_uid, sop_instance_uid, dicom_error FROM files") == [("1.2", "9.1", None)]
    following.append(Kind.ARCHIVED, archived(dicom=header("9.9", "1.9")) | {"placement": "already-there"}, cause=again)
    assert following.rows("SELECT study_instance_uid, sop_instance_uid FROM files") == [("1.2", "9.1")]
    assert following.rows("SELECT study_instance_uid FROM dicom_studies") == [("1.2",)]


class Pauses(threading.Event):
    """A stop that waits for nobody, and notes how long it would have."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def wait(self, timeout=None):
        self.noted.append(timeout)
        return self.is_set()


class UntilCaughtUp(threading.Event):
    """A wakeup that stops whoever waits for it."""

    def __init__(self, stop):
        super().__init__()
        self._stop = stop

    def wait(self, _timeout=None):
        self._stop.set()
        return True


@pytest.mark.parametrize(
    ("entries", "pauses"),
    [(1, [GATHER_S]), (BUSY - 1, [GATHER_S]), (BUSY, [BUSY_GATHER_S]), (BATCH + 1, [0.0, GATHER_S])],
)
def test_while_many_entries_arrive_the_index_gathers_them_for_longer(following, entries, pauses):
    with following.ledger.write() as tx:
        for number in range(entries):
            tx.append(NewEntry(Kind.DESCRIBED, described(), f"S{number}"), work_item=False)
    stop = Pauses()
    following.index.run(stop, UntilCaughtUp(stop))
    assert stop.noted == pauses
    assert following.rows("SELECT count(*) FROM studies") == [(entries,)]


class Noting:
    """A connection that notes its statements."""

    def __init__(self, connection):
        self._connection = connection
        self.noted = set()

    def execute(self, sql, *values):
        self.noted.add(sql)
        return self._connection.execute(sql, *values)

    def executemany(self, sql, rows):
        self.noted.add(sql)
        return self._connection.executemany(sql, rows)


def test_batches_of_any_size_run_the_same_statements(following):
    """SQLite would otherwise compile them again for each batch."""
    noted = []
    following.append(Kind.DESCRIBED, described("first.dcm"), "first")
    with closing(sqlite.connect(following.index.path, isolation_level=None)) as connection:
        for size in (1, 2, 7):
            after = following.ledger.last().position
            with following.ledger.write() as tx:
                for number in range(size):
                    name = f"{size}-{number}.dcm"
                    cause = tx.append(NewEntry(Kind.DESCRIBED, described(name), name), work_item=False).position
                    dicom = header(f"9.{size}.{number}", f"1.{size}.{number}")
                    tx.append(NewEntry(Kind.ARCHIVED, archived(name, dicom=dicom), name, cause), work_item=False)
            noting = Noting(connection)
            FollowingWriter(noting, get=following.ledger.get).apply(following.ledger.read(after, 100))
            noted.append(noting.noted)
        assert connection.execute("SELECT count(*) FROM dicom_studies").fetchone() == (10,)
    assert noted[0] == noted[1] == noted[2]


def test_files_whose_header_could_not_be_read_are_counted_by_an_index_of_their_own(following):
    plan = following.rows("EXPLAIN QUERY PLAN SELECT dicom_error, count(*) FROM files WHERE dicom_error IS NOT NULL GROUP BY 1")
    assert "COVERING INDEX files_unread" in plan[0][-1]


@pytest.mark.parametrize("damage", ["garbage", "missing", "other ledger", "other schema", "other leaf"])
def test_an_index_that_does_not_match_is_rebuilt(following, ledgers, tmp_path, damage):
    following.append(Kind.ARCHIVED, archived(dicom=header("9.1")))
    before = following.rows("SELECT * FROM files")
    following.index.close()
    path = following.index.path
    if damage == "garbage":
        path.write_bytes(b"garbage " * 4096)
    elif damage == "missing":
        for file in tmp_path.glob("index.db*"):
            file.unlink()
    else:
        statement = {
            "other ledger": "UPDATE progress SET ledger_id = 'another'",
            "other schema": "PRAGMA user_version = 7",
            "other leaf": "UPDATE progress SET leaf_hash = x'00'",
        }[damage]
        with closing(sqlite.connect(path)) as connection:
            connection.executescript(statement + "; DELETE FROM files")
    following.index = Index(path, following.ledger)
    assert following.index.ensure()
    assert following.rows("SELECT * FROM files") == before
    assert not following.index.ensure()


def anew(following):
    """Open the index like another process's `replay --index`."""
    return Index(following.index.path, following.ledger, command="replay")


def test_a_follower_continues_from_where_another_process_rebuilt_the_index(following, ledgers, tmp_path):
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    with following.ledger.write() as tx:
        tx.append(NewEntry(Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2")), "A"), work_item=False)
    other = anew(following)
    assert other.rebuild() == 2
    other.close()
    assert following.index.position == 1
    assert (following.index.follow(), following.index.position) == (0, 2), "nothing is applied twice"
    following.append(Kind.ARCHIVED, archived("c.dcm", dicom=header("9.3")), "A")
    assert following.index.position == 3
    assert following.rows("SELECT files, bytes FROM studies") == [(3, 15)]
    assert following.rows("SELECT files FROM dicom_studies") == [(3,)]


def test_a_rebuilt_index_has_the_entries_followed_meanwhile(following):
    class Meanwhile:
        """A ledger that gets one more entry, which is followed, after the rebuild has read everything."""

        ledger_id = following.ledger.ledger_id
        last = following.ledger.last
        read = following.ledger.read

        def scan(self, after, up_to):
            yield from following.ledger.scan(after, up_to)
            following.append(Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2")), "B")

        study = following.ledger.study
        get = following.ledger.get

    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    other = Index(following.index.path, Meanwhile(), command="replay")
    assert other.rebuild() == 2
    other.close()
    assert following.rows("SELECT position FROM progress") == [(2,)]
    assert following.rows("SELECT study_id FROM studies ORDER BY 1") == [("A",), ("B",)]
    following.append(Kind.ARCHIVED, archived("c.dcm", dicom=header("9.3")), "C")
    assert following.rows("SELECT study_id FROM studies ORDER BY 1") == [("A",), ("B",), ("C",)]


@pytest.mark.parametrize("by_another", [False, True])
def test_a_removed_index_is_rebuilt_and_the_deleted_file_is_not_followed(following, by_another):
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    for file in following.index.path.parent.glob("index.db*"):
        file.unlink()
    if by_another:
        other = anew(following)
        other.rebuild()
        other.close()
    following.append(Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2")), "B")
    assert following.rows("SELECT study_id FROM studies ORDER BY 1") == [("A",), ("B",)]


def test_an_unreadable_index_is_rebuilt_by_a_command(following):
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    following.index.close()
    following.index.path.write_bytes(b"garbage " * 4096)
    following.index = anew(following)
    following.index.rebuild()
    assert following.rows("SELECT study_id FROM studies") == [("A",)]


def test_only_one_process_at_a_time_rebuilds_the_index(following):
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    with locks.held(following.index.path.with_suffix(".lock"), "replay"):
        with pytest.raises(Locked, match="storage-ledger replay"):
            following.index.rebuild()
        following.append(Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2")), "B")  # whoever follows need not wait for it
    assert following.rows("SELECT study_id FROM studies ORDER BY 1") == [("A",), ("B",)]


HOLD = """
import sys
from pathlib import Path
from storage_ledger.system import locks
with locks.held(Path(sys.argv[1]), "serve"):
    print("held", flush=True)
    sys.stdin.readline()
    Path(sys.argv[2]).unlink()
"""


def test_a_command_waits_for_a_running_rebuild_and_does_not_write_to_the_replaced_file(following):
    following.append(Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")), "A")
    path = following.index.path
    other = anew(following)
    assert not other.ensure()  # has the old file open now
    command = [sys.executable, "-c", HOLD, path.with_suffix(".lock"), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        told = []

        def waits(who):
            told.append(who)
            holder.stdin.write("\n")
            holder.stdin.flush()

        assert other.rebuild(waits=waits) == 1
    other.close()
    assert len(told) == 1
    assert told[0].startswith(f"`storage-ledger serve` (process {holder.pid} on ")
    with closing(sqlite.connect(path)) as connection:
        assert connection.execute("SELECT study_id FROM studies").fetchall() == [("A",)]


def test_a_matching_index_continues_from_its_position(following):
    following.append(Kind.DESCRIBED, described())
    following.index.close()
    following.index = Index(following.index.path, following.ledger)
    assert not following.index.ensure()
    assert following.index.position == 1
    following.append(Kind.ARCHIVED, archived())
    assert following.rows("SELECT position FROM progress") == [(2,)]


DAMAGES = {
    "payload-changed": "UPDATE entries SET payload = replace(payload, 'a.dcm', 'b.dcm') WHERE position = 2",
    "header-changed": "UPDATE entries SET study_id = 'S2' WHERE position = 2",
    "entry-unreadable": "UPDATE entries SET payload = x'00' WHERE position = 2",
}


@pytest.mark.parametrize("code", DAMAGES)
def test_a_damaged_entry_is_left_out_of_the_index_and_named(following, log, code):
    with following.ledger.write() as tx:
        for kind, payload, study_id in [
            (Kind.DESCRIBED, described(), "S1"),
            (Kind.ARCHIVED, archived(), "S1"),
            (Kind.ARCHIVED, archived(), "S3"),
        ]:
            tx.append(NewEntry(kind, payload, study_id), work_item=False)
    damage(following.ledger, DAMAGES[code])
    following.index.follow()
    for _ in range(2):
        assert following.rows("SELECT study_id, state FROM studies ORDER BY 1") == [("S1", "pending"), ("S3", "archived")]
        assert following.rows("SELECT study_id FROM files") == [("S3",)]
        assert following.rows("SELECT * FROM damaged") == [(2, code)]
        assert following.index.damaged == 1
        assert following.rows("SELECT position FROM progress") == [(3,)]
        following.index.rebuild()
    assert log.getvalue().count(f"event=index.entry-damaged position=2 code={code} count=1") == 3


def test_an_index_without_a_damaged_entry_is_rebuilt_once_the_entry_is_repaired(following):
    following.append(Kind.DESCRIBED, described())
    following.append(Kind.ARCHIVED, archived())
    whole = rows(following.index.path)
    damage(following.ledger, DAMAGES["payload-changed"])
    following.index.rebuild()
    following.append(Kind.STATUS_SENT, {"status": "archived", "tells": [2]})
    assert not following.index.ensure()
    damage(following.ledger, "UPDATE entries SET payload = replace(payload, 'b.dcm', 'a.dcm') WHERE position = 2")
    assert following.index.ensure()
    assert following.index.damaged == 0
    assert rows(following.index.path)["files"] == whole["files"]
    assert not following.index.ensure()


class Broken(SqliteLedger):
    """A ledger with an unreadable page."""

    def scan(self, after, up_to):
        yield from super().scan(after, up_to)
        raise LedgerUnusable("ledger-damaged", "a page")


def test_a_ledger_that_cannot_be_read_stops_a_rebuild_and_the_index_stays(following):
    following.append(Kind.DESCRIBED, described())
    before = rows(following.index.path)
    broken = Broken(following.ledger.path)
    index = Index(following.index.path, broken)
    with pytest.raises(LedgerUnusable, match="ledger-damaged"):
        index.rebuild()
    assert {name: found for name, found in rows(following.index.path).items() if not name.startswith("rebuild_")} == before
    index.close()
    broken.close()


@pytest.mark.parametrize(
    ("kind", "payload", "schema", "code"),
    [
        ("described", described(), 2, "ledger-newer"),
        ("verified", {}, 2, "entry-not-understood"),
        ("described", [], 1, "entry-not-understood"),
        ("archived", {"file": 7}, 1, "entry-not-understood"),
        ("verified", {"findings": 3}, 1, "entry-not-understood"),
    ],
)
def test_an_entry_that_this_program_cannot_read_is_left_out_and_named_and_the_rest_follows(following, kind, payload, schema, code):
    study_id = None if kind == "verified" else "S1"
    entry = made_entry(1, kind, payload, **({"study_id": None, "version": None} if study_id is None else {}))._replace(schema=schema)
    entry = entry._replace(leaf_hash=hashlib.sha256(b"\x00" + header_of(entry)).digest())
    with closing(sqlite.connect(following.ledger.path)) as connection:
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", entry)
        connection.commit()
    with following.ledger.write() as tx:
        for study in ("S1", "S2"):
            tx.append(NewEntry(Kind.DESCRIBED, described("b.dcm"), study))
    if kind != "verified":
        with pytest.raises(IndexUnreadable):  # the follower leaves it to a rebuild to find the cause
            following.index.follow()
    for take in (following.index.rebuild, following.index.follow):
        take()
        assert following.rows("SELECT position, code FROM damaged") == [(1, code)]
        assert following.rows("SELECT study_id, upload_path FROM uploads") == [("S1", "b.dcm"), ("S2", "b.dcm")]
    assert not following.index.ensure(), "it fits as it is"


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """Make a ledger of many kinds of stories, with `verified`, `restored` and damaged entries, and its index, built in one go."""
    folder = tmp_path_factory.mktemp("stories")
    make(folder / "ledger.db", 2_000)
    ledger = SqliteLedger(folder / "ledger.db")
    entries = ledger.read(0, 3_000)
    assert len(entries) == 2_000
    assert not any(map(faults, entries))
    files = [entry for entry in entries if entry.kind == Kind.ARCHIVED]
    seen = {"scope": {"up_to": 1_900, "ranges": [[1, 700], [900, 1_900]]}, "unchecked": [{"position": files[3].position}]}
    with ledger.write() as tx:
        for number, file in enumerate(files[::40]):
            found = {"findings": [{"code": "file-changed", "position": files[number].position}]}
            tx.append(NewEntry(Kind.VERIFIED, seen | found))
            tx.append(NewEntry(Kind.RESTORED, {"file": {"name": file.data["file"]["name"]}}, file.study_id))
            tx.append(NewEntry(Kind.ARCHIVED, file.data, file.study_id), work_item=False)
    for position in (1, files[5].position, 1_000, 1_001):
        damage(ledger, f"UPDATE entries SET payload = payload || ' ' WHERE position = {position}")
    damage(ledger, f"UPDATE entries SET study_id = 'another' WHERE position = {files[9].position}")
    damage(ledger, f"UPDATE entries SET payload = CAST(payload AS BLOB) WHERE position = {files[11].position}")
    index = Index(folder / "index.db", ledger)
    index.rebuild()
    assert index.damaged == 6
    index.close()
    yield ledger, rows(index.path)
    ledger.close()


@pytest.mark.parametrize("how", ["in partitions", "keeping little", "2 processes", "3 processes"])
def test_following_and_rebuilding_produce_the_same_index(stories, tmp_path, log, how):
    ledger, expected = stories
    more = {"in partitions": {"rebuild_partitions": 7}, "keeping little": {"rebuild_partitions": 3, "rebuild_keep": 5}}.get(
        how, {"processes": RebuildProcesses(ledger.path, int(how[0]) if how[0].isdigit() else 1, least=0)}
    )
    index = Index(tmp_path / "index.db", ledger, **more)
    seen = []
    assert index.rebuild(seen.append) == ledger.last().position
    assert rows(index.path) == expected
    assert index.damaged == 6
    assert seen == sorted(seen)
    assert seen[-1] == ledger.last().position
    assert "index.worker-lost" not in log.getvalue()
    assert "event=index.entry-damaged position=1 code=payload-changed count=6" in log.getvalue()
    index.close()
    assert {each.name for each in tmp_path.iterdir()} <= {"index.db", "index.db-wal", "index.db-shm", "index.lock", "index-file.lock"}


@pytest.mark.parametrize("partitions", [2, 3, 4, 5])
def test_a_study_is_the_same_wherever_a_rebuild_cuts_it(following, tmp_path, partitions):
    for kind, payload in [
        (Kind.DESCRIBED, described("a.dcm", {"patient_info": {"patient_id": "FIRST"}})),
        (Kind.ARCHIVED, archived("a.dcm", dicom=header("9.1")) | {"placement": "already-there"}),
        (Kind.DESCRIBED, described("b.dcm", {"patient_info": {"patient_id": "LAST"}})),
        (Kind.ARCHIVED, archived("b.dcm", dicom=header("9.2", "1.3")) | {"placement": "already-there"}),
        (Kind.QUARANTINED, {"code": "upload-missing", "upload_path": "c.dcm"}),
    ]:
        following.append(kind, payload)
    index = Index(tmp_path / "anew.db", following.ledger, rebuild_partitions=partitions)
    index.rebuild()
    index.close()
    assert rows(index.path) == rows(following.index.path)


def test_a_rebuild_reports_progress_for_every_entry_and_then_every_index(following):
    following.append(Kind.ARCHIVED, archived(dicom=header("9.1")))
    told: list[int | tuple[int, int]] = []
    following.index.rebuild(told.append, on_indexed=lambda done, of: told.append((done, of)))
    steps = len(INDEXES) + len(SEARCH) + 2  # the final rows of studies, and the facets
    assert told == [1, *((done, steps) for done in range(steps + 1))]


def test_a_rebuild_whose_workers_are_lost_is_done_by_one_process(stories, tmp_path, log):
    ledger, expected = stories
    index = Index(tmp_path / "index.db", ledger, processes=RebuildProcesses(tmp_path / "no-ledger.db", 2, least=0))
    index.rebuild()
    assert rows(index.path) == expected
    assert "event=index.worker-lost exit_code=1" in log.getvalue()
    index.close()


def test_a_worker_whose_reader_is_gone_ends_early(stories, tmp_path):
    ledger, _ = stories
    file = tmp_path / "share"
    file.touch()
    nobody, say = os.pipe()
    os.close(nobody)
    command = [sys.executable, "-m", worker.__name__, str(ledger.path), str(file), "0", "2000"]
    done = subprocess.run(command, input=b"\0", stdout=say, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(say)
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr


@pytest.mark.parametrize("shares", [True, False])
def test_leftovers_of_a_killed_rebuild_are_removed_at_the_next_start(following, shares):
    left = following.index.path.with_name("index.db-share-7-0")
    if shares:
        left.touch()
    with closing(sqlite.connect(following.index.path)) as connection:
        connection.execute("CREATE TABLE rebuild_studies (study_id)")
    with locks.held(following.index.path.with_suffix(".lock"), "replay"):
        assert not following.index.ensure()
    assert left.exists() == shares, "whoever holds the lock makes the index anew just now"
    assert any(name.startswith("rebuild_") for name in rows(following.index.path))
    assert not following.index.ensure()
    assert not left.exists()
    assert not any(name.startswith("rebuild_") for name in rows(following.index.path))


def test_a_ledger_that_workers_cannot_read_raises_the_ledgers_error(following, log):
    following.append(Kind.DESCRIBED, described())
    broken = Broken(following.ledger.path)
    index = Index(following.index.path, broken, processes=RebuildProcesses(following.ledger.path.with_name("no-ledger.db"), 2, least=0))
    with pytest.raises(LedgerUnusable, match="ledger-damaged"):
        index.rebuild()
    index.close()
    broken.close()
    assert not list(following.index.path.parent.glob("index.db-share-*"))


def finds(following, typed, table="dicom_studies"):
    """Return the keys of the rows found by a search."""
    key = "study_id" if table == "studies" else "study_instance_uid"
    with closing(sqlite.connect(following.index.path)) as connection:
        connection.execute(f"INSERT INTO {table}_fts ({table}_fts, rank) VALUES ('integrity-check', 1)")
        sql = f"SELECT {key} FROM {table} WHERE first_position IN (SELECT rowid FROM {table}_fts WHERE {table}_fts MATCH ?) ORDER BY 1"
        return [row[0] for row in connection.execute(sql, (expression(typed),))]


def test_a_dicom_study_is_found_by_the_values_of_all_its_files_however_late_they_come(following):
    emergency = header("9.1", PatientName="NOTFALL^EINS", PatientID="TEMP0001", AccessionNumber="TMPACC", StudyDate="20260102")
    patient = header("9.2", PatientName="Weiß^Jörg", PatientID="47-11", AccessionNumber="A2026-17", StudyDescription="MR Schädel")
    following.append(Kind.ARCHIVED, archived("a.dcm", content="x", dicom=emergency), "A")
    assert finds(following, "weiss") == []
    following.append(Kind.ARCHIVED, archived("b.dcm", content="y", dicom=patient | {"PatientBirthDate": "19440506"}), "B")
    following.append(Kind.ARCHIVED, archived("c.dcm", content="z", dicom=header("9.3", "1.3", PatientName="DOE^JANE")), "C")
    live = following.rows("SELECT * FROM dicom_studies ORDER BY 1")
    for _ in range(2):
        for typed in ("notfall", "TEMP0001", "2.1.2026", "WEISS", "joerg weiß", "4711", "a2026-17", "schaedel", "6.5.1944", "eins WEISS"):
            assert finds(following, typed) == ["1.2"], typed
        assert finds(following, "weiss doe") == []
        assert finds(following, "janedoe") == ["1.3"]
        following.index.rebuild()
        assert following.rows("SELECT * FROM dicom_studies ORDER BY 1") == live


def test_a_study_whose_first_file_says_nothing_is_found_by_what_the_others_say(following):
    following.append(Kind.ARCHIVED, archived("a.dcm", content="x", dicom=header("9.1", Modality="RTSTRUCT")), "A")
    ct = header("9.2", PatientName="RICHTER^EVA", AccessionNumber="ACC-RT-9", StudyDate="1997.06.09")
    following.append(Kind.ARCHIVED, archived("b.dcm", content="y", dicom=ct), "B")
    for _ in range(2):
        for typed in ("richter", "evarichter", "ACC-RT-9", "accrt9", "1997-06-09", "1997"):
            assert finds(following, typed) == ["1.2"], typed
        following.index.rebuild()


def test_a_pipeline_study_is_found_by_what_its_last_message_says(following):
    following.append(Kind.DESCRIBED, described("a.dcm", {"patient_info": {"patient_name": "Müller^Zoë", "patient_birth_date": "19440506"}}))
    assert finds(following, "MUELLER 6.5.1944", "studies") == ["S1"]
    following.append(Kind.DESCRIBED, described("a.dcm", {"patient_info": {"patient_name": "山田^太郎"}}))
    for _ in range(2):
        assert finds(following, "mueller", "studies") == []
        assert finds(following, "山田太郎", "studies") == finds(following, "太郎", "studies") == ["S1"]
        following.index.rebuild()


def test_shares_of_a_rebuild_that_disagree_about_a_study_come_to_what_a_follower_finds(ledgers, tmp_path, clock):
    ledger = ledgers.open(tmp_path, clock)
    with ledger.write() as tx:
        for number, name in enumerate(["DOE^JANE", "DOE^JANE", "Weiß^P", "ROE^R"]):
            dicom = header(f"9.{number}", PatientName=name, PatientID=f"P{number // 2}")
            tx.append(NewEntry(Kind.ARCHIVED, archived(f"{number}.dcm", content=str(number), dicom=dicom), f"S{number}"), work_item=False)
    followed = Index(tmp_path / "followed.db", ledger)
    followed.ensure()
    for partitions in (1, 2, 4):
        made = Index(tmp_path / f"{partitions}.db", ledger, rebuild_partitions=partitions)
        made.rebuild()
        assert rows(made.path) == rows(followed.path)
        made.close()
    followed.close()
    ledger.close()
