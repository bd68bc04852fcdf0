"""The reports of `status`, `show` and `quarantine` on real ledgers, archives and indexes: each problem once, with its remedy."""

from __future__ import annotations

import gc
import json
import os
import shlex
import threading
import tracemalloc
from contextlib import closing
from typing import Any

import pytest

from storage_ledger.domain.canonical_json import leaf_hash_of
from storage_ledger.domain.entries import Kind, NewEntry, header
from storage_ledger.domain.study import Study
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.operations.clock_ahead import ahead
from storage_ledger.operations.quarantine import Decision
from storage_ledger.operations.report.quarantine import quarantined
from storage_ledger.operations.report.status import current_status
from storage_ledger.operations.report.timeline import summary_beside_kind, timeline_of
from storage_ledger.operations.report.verifications import last_verify
from storage_ledger.operations.verify import unrecorded_result
from storage_ledger.operations.verify.selection import VerifyOptions
from storage_ledger.pipeline.failures import Outages
from storage_ledger.settings import Settings
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages import ledger_entries as browse_ledger
from storage_ledger.web.pages import pipeline_study
from storage_ledger.wiring import verify
from tests.support import making
from tests.support.dicom import described, make_file
from tests.support.making import EXAMPLES, made_entry
from tests.support.pipeline import Pipeline


class Scene:
    """A pipeline, and the reports that commands make of it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.settings = Settings(
            uploads_path=pipeline.uploads, archive_path=pipeline.archive, ledger_path=pipeline.ledger.path.parent, http_port=0
        )
        self.mirror = Mirror(pipeline.archive, self.settings.mirror_lock_file, pipeline.ledger)
        self.mirror.begin()

    def follow(self) -> None:
        """Bring mirror and index up to date."""
        self.mirror.catch_up()
        index = Index(self.settings.index_file, self.pipeline.ledger)
        index.ensure()
        while index.follow():
            pass
        index.close()

    def archive(self, *study_ids: str) -> None:
        for study_id in study_ids:
            self.pipeline.upload(f"{study_id}.dcm", study_id.encode() * 100)
            self.pipeline.say(study_id, f"{study_id}.dcm")
        self.pipeline.finish()
        self.follow()

    def verified(self, *findings: dict[str, Any], unchecked: tuple[dict[str, Any], ...] = ()) -> None:
        """Append the entry of a `verify` run with these findings."""
        last = self.pipeline.ledger.last()
        up_to = last.position if last else 0
        counts = {"files": 0, "intact": 0, "damaged": 0, "unchecked": 0, "bytes": 0, "findings": len(findings)}
        scope = {"parts": ["files"], "selection": "all", "up_to": up_to, "ranges": [[1, up_to]]}
        payload = {"by": "verify", "began": "1", "scope": scope, "counts": counts, "findings": [*findings], "unchecked": [*unchecked]}
        with self.pipeline.ledger.write() as tx:
            tx.append(NewEntry(Kind.VERIFIED, {**payload, "complete": True, "software": "0"}))
        self.follow()

    def status(self) -> dict[str, Any]:
        return current_status(self.pipeline.ledger, self.settings).to_json()

    def needs(self) -> list[str]:
        """Return the codes, without those caused by the missing service and the pipeline's clock, which is in the past."""
        return [item["code"] for item in self.status()["attention"] if item["code"] not in {"not-serving", "waiting-long"}]

    def study(self, study_id: str) -> dict[str, Any]:
        return timeline_of(self.pipeline.ledger, self.settings, study_id).to_json()


@pytest.fixture
def scene(tmp_path, ledgers):
    return Scene(Pipeline(tmp_path / "run", ledgers, grace_s=0))


def test_flagged_files_are_counted_but_need_no_attention(scene):
    for twin in ("a", "b"):
        made = make_file(scene.pipeline.uploads / f"{twin}.dcm", study_uid="1.2.3", sop_uid="1.2.3.4", seed=ord(twin))
        scene.pipeline.say(twin, f"{twin}.dcm", described(twin, f"{twin}.dcm", made)["metadata"])
    scene.pipeline.finish()
    scene.follow()
    assert (scene.status()["flagged"], scene.needs()) == (2, [])


def test_files_with_unreadable_headers_are_counted_but_need_no_attention(scene):
    assert scene.status()["headers_unreadable"] is None, "there is no index yet"
    make_file(scene.pipeline.uploads / "cut.dcm")
    whole = (scene.pipeline.uploads / "cut.dcm").read_bytes()
    scene.pipeline.upload("cut.dcm", whole[: whole.index(b"DOE^JANE") + 3])
    scene.pipeline.upload("note.dcm", b"no DICOM at all")
    scene.pipeline.upload("whole.dcm", whole)
    for name in ("cut", "note", "whole"):
        scene.pipeline.say(name, f"{name}.dcm")
    scene.pipeline.finish()
    scene.follow()
    assert (scene.status()["headers_unreadable"], scene.needs()) == (2, [])


def mixed_up(scene: Scene) -> None:
    """Archive a file of one patient whose message names another."""
    made = make_file(scene.pipeline.uploads / "a.dcm", patient_name="MUELLER^KAETHE", patient_id="SGC-106969")
    metadata = described("a", "a.dcm", made)["metadata"]
    metadata["patient_info"] |= {"patient_name": "ROSSI^GIULIA", "patient_id": "SGC-122138"}
    scene.pipeline.say("a", "a.dcm", metadata)
    scene.pipeline.finish()


def test_a_study_reports_a_message_about_another_patient_even_without_an_index(scene):
    mixed_up(scene)
    [without_index] = scene.study("a")["files"]
    scene.follow()
    [file] = scene.study("a")["files"]
    assert without_index | {"fixity": "unverified"} == file
    assert file["flags"] == ["message-differs"]
    assert [(each["attribute"], each["message"], each["file"]) for each in file["differences"]] == [
        ("patient_name", "ROSSI^GIULIA", "MUELLER^KAETHE"),
        ("patient_id", "SGC-122138", "SGC-106969"),
    ]


def test_files_of_different_patients_are_counted_as_flagged(scene):
    mixed_up(scene)
    for name, patient in (("b", "DOE^JANE"), ("c", "ROE^RICHARD")):
        made = make_file(scene.pipeline.uploads / f"{name}.dcm", study_uid="1.2.3", patient_name=patient, seed=ord(name))
        scene.pipeline.say(name, f"{name}.dcm", described(name, f"{name}.dcm", made)["metadata"])
    scene.pipeline.finish()
    scene.follow()
    assert (scene.status()["flagged"], scene.needs()) == (3, [])
    assert [file["flags"] for name in "bc" for file in scene.study(name)["files"]] == [["patient-differs"], ["patient-differs"]]


def test_an_unavailable_archive_is_reported_once_for_all_blocked_steps(scene):
    scene.archive("S1")
    scene.pipeline.archive.rename(scene.pipeline.archive.with_name("away"))
    assert scene.needs() == ["archive-missing"]
    with scene.pipeline.ledger.write() as tx:
        for step in ("place", "mirror"):
            payload = {"step": step, "code": "archive-missing", "detail": "", "errno": 2, "attempt": 1, "retry_at": None}
            tx.append(NewEntry(Kind.FAILED, payload))
    [item] = [item for item in scene.status()["attention"] if item["code"] == "archive-missing"]
    assert item["detail"].startswith("step mirror and place, since ")
    assert "mirror-missing" not in scene.needs()


def test_an_available_archive_without_a_mirror_is_distinguished(scene):
    scene.archive("S1")
    (scene.pipeline.archive / ".ledger").rename(scene.pipeline.archive.with_name("mirror"))
    assert scene.needs() == ["mirror-missing"]


def test_an_outage_is_reported_while_it_lasts_however_many_entries_follow(scene):
    scene.archive("S1")
    with scene.pipeline.ledger.write() as tx:
        tx.append(NewEntry(Kind.FAILED, {"step": "place", "code": "archive-full"}))
        for _ in range(100):
            begun = tx.append(NewEntry(Kind.FAILED, {"step": "tell", "code": "status-service-away"}))
            tx.append(NewEntry(Kind.RECOVERED, {"step": "tell", "code": "status-service-away"}, cause=begun.position))
    scene.follow()
    assert scene.needs() == ["archive-full"]
    with closing(sqlite.connect(scene.pipeline.ledger.path)) as connection:
        assert [each["code"] for each in browse_ledger.outages(connection)] == ["archive-full"]


def reject(scene: Scene, study_id: str, size: int) -> NewEntry:
    payload = {"reason": "unsafe-path", "detail": "", "bytes": size, "raw": "x" * size, "raw_sha256": "", "source": "pubsub"}
    return NewEntry(Kind.REJECTED, {**payload, "study_id": study_id})


def test_a_rejected_message_is_in_its_studys_timeline_however_many_others_follow(scene):
    with scene.pipeline.ledger.write() as tx:
        tx.append(reject(scene, "S1", 10), work_item=False)
        for _ in range(1100):
            tx.append(reject(scene, "other", 10), work_item=False)
    told = scene.study("S1")
    assert ([entry["kind"] for entry in told["entries"]], told["state"]) == (["rejected"], "rejected")
    with closing(sqlite.connect(scene.pipeline.ledger.path)) as connection:
        assert [each["position"] for each in pipeline_study.of_ledger(connection, "S1")["rejected"]] == [1]
        assert len(pipeline_study.of_ledger(connection, "other")["rejected"]) == pipeline_study.MOST_ENTRIES


def peak_of(call) -> int:
    """Return the peak of memory allocated by Python, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_studys_timeline_takes_no_more_memory_for_larger_messages(scene):
    with scene.pipeline.ledger.write() as tx:
        for n in range(200):
            tx.append(NewEntry(Kind.DESCRIBED, making.described("a.dcm", {"n": n}, pad="x" * 200_000), "large"), work_item=False)
            tx.append(NewEntry(Kind.DESCRIBED, making.described("a.dcm", {"n": n}, pad="x"), "small"), work_item=False)
            tx.append(reject(scene, "many-large", 50_000), work_item=False)
            tx.append(reject(scene, "many-small", 50), work_item=False)
    large, small = (peak_of(lambda name=name: scene.study(name)) for name in ("large", "small"))
    assert large - small < 10 * 200_000
    large, small = (peak_of(lambda name=name: scene.study(name)) for name in ("many-large", "many-small"))
    assert large - small < 10 * 50_000
    assert peak_of(lambda: Study.of("large", scene.pipeline.ledger.study("large"))) < 10 * 200_000


def test_without_an_index_damage_is_reported_as_unknown(scene):
    assert scene.needs() == [], "a ledger without entries needs no index"
    scene.archive("S1")
    scene.verified({"code": "file-changed", "position": 2, "study_id": "S1", "path": "S1/S1.dcm"})
    assert scene.needs() == ["damaged-files"]
    os.truncate(scene.settings.index_file, 100)
    assert scene.needs() == ["index-missing"]
    for path in scene.settings.ledger_path.glob("index.db*"):
        path.unlink()
    assert scene.needs() == ["index-missing"]


def test_findings_of_verify_are_reported(scene):
    scene.archive("S1", "S2")
    first = {"code": "file-missing", "position": 3, "study_id": "S1", "path": "S1/S1.dcm"}
    second = {"code": "file-changed", "position": 4, "study_id": "S2", "path": "S2/S2.dcm"}
    strangers = [{"code": "untracked-file", "position": None, "study_id": None, "path": f"x{n}"} for n in range(2)]
    scene.verified(first, second, *strangers, {"code": "metadata-missing", "position": 3, "study_id": "S1", "path": "S1/metadata.json"})
    told = {item["code"]: item["detail"] for item in scene.status()["attention"]}
    assert told["damaged-files"] == "2 archived files were missing or changed when last read; first: S1/S1.dcm, missing"
    assert told["verify-findings"].startswith("2 untracked-file, 1 metadata-missing; the latest at ")


def test_a_verify_run_that_checked_nothing_does_not_count_as_clean(scene):
    scene.archive("S1")
    scene.verified(unchecked=({"code": "archive-missing", "position": None, "study_id": None, "path": None},))
    assert (scene.status()["last_verify"]["findings"], scene.status()["last_verify"]["unseen"]) == (0, 1)


def test_a_studys_timeline_reports_a_damaged_file_and_how_to_restore_it(scene):
    scene.archive("S1", "S2")
    scene.verified({"code": "file-missing", "position": 3, "study_id": "S1", "path": "S1/S1.dcm"})
    told = scene.study("S1")
    assert ([file["fixity"] for file in told["files"]], told["commands"]) == (
        ["missing"],
        ["storage-ledger repair files --study S1 --source FOLDER"],
    )
    assert "missing or changed" in told["advice"]
    told = scene.study("S2")
    assert ([file["fixity"] for file in told["files"]], told["advice"], told["commands"]) == (["intact"], None, [])


def test_a_quarantined_file_is_listed_with_complete_commands(scene):
    scene.pipeline.say("S1", "gone.dcm")
    scene.pipeline.place()
    told = scene.study("S1")
    [item] = quarantined(scene.pipeline.ledger, scene.settings, "S1")
    assert told["commands"] == item.commands
    assert [shlex.split(command)[:4] for command in told["commands"]] == [
        ["storage-ledger", "quarantine", verb, "S1"] for verb in ("retry", "discard")
    ]


@pytest.mark.parametrize(("by", "reason"), [("YOUR NAME", "it is there now"), ("Jane Doe", "WHY")])
def test_placeholders_for_name_and_reason_are_refused(by, reason):
    with pytest.raises(ValueError, match="is a placeholder"):
        Decision(Kind.RELEASED, by, reason)


def test_a_failing_work_item_is_reported_with_its_remedy(scene):
    scene.pipeline.say("S1", "S1.dcm")
    [work_item] = scene.pipeline.ledger.pending_of("S1")
    payload = {"step": "place", "code": "archive-not-writable", "detail": "", "errno": 13, "attempt": 1, "retry_at": work_item.not_before}
    payload |= {"upload_path": "S1.dcm"}
    with scene.pipeline.ledger.write() as tx:
        tx.append(NewEntry(Kind.FAILED, payload, "S1", work_item.entry.position))
        tx.postpone(work_item.entry.position, work_item.stage, due_in_s=1, attempts=1)
    [step] = scene.study("S1")["next"]
    assert (step["failed_with"]["code"], "owner and mode" in step["failed_with"]["action"]) == ("archive-not-writable", True)


def test_a_rejected_message_says_who_must_act(scene):
    scene.pipeline.say("S1", "/elsewhere/a.dcm")
    told = scene.study("S1")
    assert told["state"] == "rejected"
    assert "the sender must publish" in told["advice"]
    assert scene.study("unknown")["advice"] is None


def test_unrecorded_findings_are_reported_until_a_later_run_is_recorded(scene):
    scene.archive("S1")
    pipeline, settings = scene.pipeline, scene.settings
    mirror = next((settings.archive_path / ".ledger").glob("*.entries"))
    whole = mirror.read_bytes()
    mirror.chmod(0o640)
    mirror.write_bytes(whole.replace(b"S1.dcm", b"S2.dcm"))

    def verified(**which) -> list[int]:
        return verify.verify(settings, VerifyOptions(**which), record=True, stop=threading.Event()).recorded

    assert (verified(), scene.needs()) == ([], ["verify-findings"])
    [item] = [item for item in scene.status()["attention"] if item["code"] == "verify-findings"]
    assert item["detail"].startswith("1 mirror-damaged, at ")
    mirror.write_bytes(whole)
    assert (len(verified(study_id="S1")), scene.needs()) == (1, ["verify-findings"]), "it has not looked at the mirror"
    (settings.ledger_path / unrecorded_result.FILE).write_text("{")
    assert scene.needs() == ["verify-findings"], "whatever it said"
    assert (len(verified()), scene.needs()) == (1, [])
    assert pipeline.ledger.last().kind == Kind.VERIFIED


# -- entries in one line


SUMMARIES = {
    Kind.DESCRIBED: "a.dcm (pubsub)",
    Kind.REJECTED: "unsafe-path, file_path has a '..' component",
    Kind.ARCHIVED: "a.dcm, 2958 bytes, copied",
    Kind.FAILED: "tell failed: status-service-away, attempt 5, next retry at 2026-11-23T21:54:09.072947Z",
    Kind.RECOVERED: "tell works again after status-service-away",
    Kind.QUARANTINED: "upload-missing, no such file",
    Kind.RELEASED: "by Jane Doe: the gateway has sent it again",
    Kind.DISCARDED: "by Jane Doe: a test of the sender, no study",
    Kind.STATUS_SENT: "archived",
    Kind.RESTORED: "a.dcm (was changed), from /srv/backup/archive/a/a.dcm",
    Kind.VERIFIED: "1 of 2 files intact, findings: 1, by verify",
    Kind.ACKNOWLEDGED: "clock-ahead by A. Lovelace: BIOS battery empty; clock set, battery replaced",
    Kind.HEADER_READ: "a.dcm, complete",
    Kind.KEY: "c5f80879 signs checkpoints",
}


@pytest.mark.parametrize("kind", Kind)
def test_an_entry_of_each_kind_has_a_summary_to_stand_beside_its_kind(kind):
    payload = json.loads(EXAMPLES[kind].replace("123e4567-e89b-12d3-a456-426614174000", "a"))
    assert summary_beside_kind(made_entry(1, kind.value, payload)) == SUMMARIES[kind]


def test_an_entry_that_cannot_be_read_says_so_beside_its_kind():
    entry = made_entry(1, Kind.ARCHIVED.value, {"file": 7})
    assert summary_beside_kind(entry) == "this version cannot read its content"
    assert summary_beside_kind(entry._replace(payload="{}")).startswith("damaged (")


# -- entries with unexpected content


ODD = [[], {}, "text", 7, None, {"code": 5, "by": [], "file": "x", "message": 3, "step": {}, "scope": [], "ledger_time": "zzz"}]


@pytest.mark.parametrize("kind", [kind.value for kind in Kind] + ["unheard-of"])
@pytest.mark.parametrize("study_id", ["a", None])
def test_an_entry_with_any_content_does_not_hide_the_rest_of_the_report(scene, kind, study_id):
    """Their hashes are valid: written by another program, a bug or a forger."""
    scene.archive("a", "b")
    first = scene.pipeline.ledger.last().position + 1
    with closing(sqlite.connect(scene.pipeline.ledger.path)) as connection:
        (version,) = connection.execute("SELECT max(version) FROM entries WHERE study_id = 'a'").fetchone()
        for number, payload in enumerate(ODD):
            entry = made_entry(first + number, kind, payload, study_id=study_id, version=version + 1 + number, cause=1)
            later = entry._replace(recorded_at=scene.pipeline.ledger.last().recorded_at)
            entry = later._replace(leaf_hash=leaf_hash_of(header(later)))
            connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", entry)
        connection.commit()
    index = Index(scene.settings.index_file, scene.pipeline.ledger)
    index.rebuild()
    index.close()
    assert scene.status()["position"] == first + len(ODD) - 1
    assert scene.study("b")["state"] == "archived"
    assert len(scene.study("a")["entries"]) >= 2
    assert len(scene.study("a")["files"]) == 1
    Outages(scene.pipeline.ledger, Metrics())
    ahead(scene.pipeline.ledger, scene.pipeline.clock())
    quarantined(scene.pipeline.ledger, scene.settings)
    last_verify(scene.pipeline.ledger)
