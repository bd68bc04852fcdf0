"""A damaged entry in the ledger: nothing acts on it, everything else continues, and after its repair its study does too."""

from __future__ import annotations

from contextlib import closing
from itertools import product

import pytest

from storage_ledger.domain.entries import Kind
from storage_ledger.errors import LedgerUnusable
from storage_ledger.operations.quarantine import Decision, DecisionTarget, decide, in_quarantine
from storage_ledger.operations.report.status import current_status
from storage_ledger.operations.report.timeline import timeline_of
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.settings import Settings
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages import ledger_entries as browse_ledger
from storage_ledger.web.pages import pipeline_study
from tests.support.making import damage
from tests.support.pipeline import Pipeline, tree

HURT = {
    "other bytes": "payload = replace(payload, 'a.dcm', 'b.dcm')",
    "no JSON": "payload = replace(payload, '{', '[')",
    "no UTF-8": "payload = CAST(x'7bff7d' AS TEXT)",
    "a BLOB": "payload = CAST(payload AS BLOB)",
    "no payload": "payload = NULL",
    "another kind": "kind = 'archivee'",
    "a kind of no text": "kind = CAST(x'ff' AS TEXT)",
    "another study": "study_id = 'S9'",
    "no study": "study_id = NULL",
    "another cause": "cause = 1",
    "another digest": "payload_sha256 = replace(payload_sha256, 'a', 'b') || '0'",
    "another salt": "salt = zeroblob(16)",
    "another leaf": "leaf_hash = zeroblob(32)",
}


class Hurt:
    """Damages an entry, and repairs it."""

    def __init__(self, pipeline: Pipeline, position: int) -> None:
        self.pipeline = pipeline
        self.position = position
        self.whole = pipeline.ledger.get(position)

    def by(self, how: str) -> None:
        damage(self.pipeline.ledger, f"UPDATE entries SET {HURT[how]} WHERE position = {self.position}")
        assert self.pipeline.ledger.get(self.position) != self.whole, "it changes something"

    def mend(self) -> None:
        columns = ", ".join(f"{name} = {_literal(value)}" for name, value in self.whole._asdict().items() if name != "position")
        damage(self.pipeline.ledger, f"UPDATE entries SET {columns} WHERE position = {self.position}")
        assert self.pipeline.ledger.get(self.position) == self.whole
        with self.pipeline.ledger.write() as tx:
            tx.make_due(beyond_s=0)


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"x'{value.hex()}'"
        case int():
            return str(value)
        case _:
            return "'" + str(value).replace("'", "''") + "'"


@pytest.fixture
def pipeline(tmp_path, ledgers, status_server):
    client = StatusClient(status_server.url)
    made = Pipeline(tmp_path, ledgers, client=client)
    yield made
    made.ledger.close()
    client.close()


def some_rounds(pipeline: Pipeline) -> None:
    """Like `finish`, for work that never ends."""
    for _ in range(6):
        pipeline.place()
        pipeline.remove()
        pipeline.tell()
        pipeline.clock.move(400)


def codes(pipeline: Pipeline, study_id: str) -> list[str]:
    return [entry.data["code"] for entry in pipeline.ledger.study(study_id) if entry.kind == Kind.FAILED]


@pytest.mark.parametrize(
    ("which", "how"),
    [
        *product(["waits to be placed"], HURT),
        *product(["described before", "archived before"], [how for how in HURT if how not in {"other bytes", "another cause"}]),
    ],
)
def test_nothing_is_placed_because_of_it(pipeline, which, how):
    pipeline.upload("first.dcm", b"first")
    pipeline.say("S1", "/app/uploads/first.dcm")
    pipeline.finish()
    pipeline.upload("a.dcm", b"a")
    pipeline.upload("b.dcm", b"not meant")
    pipeline.say("S1", "/app/uploads/a.dcm")
    pipeline.upload("other.dcm", b"other")
    pipeline.say("S2", "/app/uploads/other.dcm")
    kinds = [(entry.kind, entry.study_id) for entry in pipeline.ledger.read(0, 20)]
    position = {
        "waits to be placed": max(n for n, each in enumerate(kinds, 1) if each == ("described", "S1")),
        "described before": 1,
        "archived before": 1 + kinds.index(("archived", "S1")),
    }[which]
    hurt = Hurt(pipeline, position)
    before = tree(pipeline.archive)
    hurt.by(how)
    pipeline.restart()
    some_rounds(pipeline)
    after = tree(pipeline.archive)
    assert set(after.keys() - before.keys()) == {"S2/other.dcm", "S2/metadata.json"}, "others go on"
    assert all(after[path] == digest for path, digest in before.items())
    assert (pipeline.uploads / "a.dcm").read_bytes() == b"a"
    assert (pipeline.uploads / "b.dcm").exists()
    if which != "waits to be placed" and "study" not in how:
        assert set(codes(pipeline, "S1")) == {"entry-damaged"}
    hurt.mend()
    pipeline.finish()
    assert (pipeline.archive / "S1" / "a.dcm").read_bytes() == b"a"
    assert not (pipeline.uploads / "a.dcm").exists()
    assert (pipeline.archive / "S1" / "first.dcm").read_bytes() == b"first"
    pipeline.check_metadata()


@pytest.mark.parametrize("how", [how for how in HURT if how != "another cause"])
def test_no_upload_is_removed_and_nobody_is_told_because_of_it(pipeline, how, status_server):
    pipeline.upload("a.dcm", b"a")
    pipeline.upload("b.dcm", b"a")
    pipeline.say("S1", "/app/uploads/a.dcm")
    pipeline.place()
    [archived] = [entry.position for entry in pipeline.ledger.read(0, 20) if entry.kind == Kind.ARCHIVED]
    pipeline.say("S2", "/app/uploads/never-comes.dcm")
    hurt = Hurt(pipeline, archived)
    hurt.by(how)
    pipeline.restart()
    some_rounds(pipeline)
    assert (pipeline.uploads / "a.dcm").exists()
    assert (pipeline.uploads / "b.dcm").exists()
    assert status_server.posted("S1") == status_server.posted("S9") == []
    hurt.mend()
    pipeline.finish()
    assert not (pipeline.uploads / "a.dcm").exists()
    assert (pipeline.uploads / "b.dcm").exists()
    assert status_server.posted("S1") == ["archived"]


@pytest.mark.parametrize("how", [how for how in HURT if how != "another cause"])
def test_a_person_cannot_decide_on_it(pipeline, how):
    pipeline.say("S1", "/app/uploads/a.dcm")
    pipeline.clock.move(400)
    pipeline.finish()
    pipeline.say("S2", "/app/uploads/never-comes.dcm")
    hurt = Hurt(pipeline, 1)
    hurt.by(how)
    count = len(pipeline.ledger.read(0, 100))
    [answer] = decide(pipeline.ledger, Decision(Kind.DISCARDED, "Jane Doe", "gone"), [DecisionTarget("S1")])
    assert (answer.code, answer.position) == ("entry-damaged", None)
    assert len(list(in_quarantine(pipeline.ledger, ["S1"]))) <= 1
    assert len(pipeline.ledger.read(0, 100)) == count
    hurt.mend()
    assert [each.code for each in in_quarantine(pipeline.ledger, ["S1"])] == ["upload-missing"]


@pytest.mark.parametrize("how", [how for how in HURT if how not in {"another cause", "other bytes"}])
@pytest.mark.parametrize("position", [1, 2, 3])
def test_people_are_shown_what_is_whole_and_what_is_not(pipeline, how, position):
    pipeline.upload("a.dcm", b"a")
    pipeline.say("S1", "/app/uploads/a.dcm")
    pipeline.finish()
    hurt = Hurt(pipeline, position)
    hurt.by(how)
    settings = Settings(uploads_path=pipeline.uploads, archive_path=pipeline.archive, ledger_path=pipeline.ledger.path.parent)
    shown = timeline_of(pipeline.ledger, settings, "S1").to_json()
    assert current_status(pipeline.ledger, settings).position == pipeline.ledger.last().position
    with closing(sqlite.connect(pipeline.ledger.path)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # as Datasette reads
        page = pipeline_study.of_ledger(connection, "S1")
        browse_ledger.outages(connection)
        assert browse_ledger.entry(connection, position)["faults"]
        if "study" not in how:
            assert page["entry_damaged"].startswith("Check the disk of LEDGER_PATH")
    if "study" in how:
        assert position not in [each["position"] for each in shown["entries"]]
    else:
        for entries in (shown["entries"], page["entries"]):
            [summary] = [each["summary"] for each in entries if each["position"] == position]
            assert summary.startswith("damaged (")
            assert sum(each["summary"].startswith("damaged (") for each in entries) == 1
        assert shown["advice"].startswith("entry-damaged: ")


def test_a_damaged_entry_of_no_study_hides_no_other(pipeline, tmp_path):
    pipeline.deliver(b"{", b"[", b"x")
    hurt = Hurt(pipeline, 2)
    hurt.by("no JSON")
    kinds = ("rejected",)
    assert [each.position for each in pipeline.ledger.of_no_study(kinds, 10)] == [3, 1]
    assert [each.position for each in pipeline.ledger.of_no_study(kinds, 2)] == [3, 1], "the damaged one does not count"
    with closing(sqlite.connect(pipeline.ledger.path)) as connection:
        assert [each.position for each in browse_ledger.of_no_study(connection, kinds, 10)] == [3, 1]


HEADERS = [how for how in HURT if how not in {"other bytes", "no JSON", "no UTF-8", "a BLOB", "no payload", "another salt"}]


@pytest.mark.parametrize("how", HEADERS)
def test_nothing_is_appended_after_a_last_entry_that_may_not_be_believed(pipeline, how):
    pipeline.say("S1", "/app/uploads/a.dcm")
    hurt = Hurt(pipeline, 1)
    hurt.by(how)
    with pytest.raises(LedgerUnusable, match=r"ledger-damaged: the last entry, at position 1, .* restore --from-mirror --force"):
        pipeline.say("S2", "/app/uploads/b.dcm")
    assert len(pipeline.ledger.read(0, 100)) == 1


def test_the_time_of_a_damaged_last_entry_is_not_that_of_all_to_come(pipeline):
    pipeline.say("S1", "/app/uploads/a.dcm")
    damage(pipeline.ledger, "UPDATE entries SET recorded_at = '9' || substr(recorded_at, 2)")
    with pytest.raises(LedgerUnusable, match="ledger-damaged"):
        pipeline.say("S2", "/app/uploads/b.dcm")
