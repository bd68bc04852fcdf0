"""Reconciliation of orphaned uploads: real folders, a real ledger and HTTP Status Service, step by step in one thread."""

import hashlib
import json
import os
import socket
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage_ledger.archive.uploads import MAX_DEPTH, Uploads
from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Kind
from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline.reconcile import sweep, verdict
from storage_ledger.pipeline.reconcile.sweep import Reconciler, Sweep
from storage_ledger.pipeline.status_client import StatusClient
from storage_ledger.system.metrics import Metrics
from storage_ledger.system.sqlite import sqlite
from tests.support import making
from tests.support.making import Ledgers, damage, made_entry
from tests.support.pipeline import Pipeline, tree
from tests.support.status_server import Fault, StatusServer

METADATA = {"patient_info": {"patient_id": "P1", "patient_name": "DOE^JANE"}, "study_info": {}}
HOUR = timedelta(hours=1)
OWNER = hashlib.sha256(b"").hexdigest()[:8]


class Looking(Pipeline):
    """A reconciler, and a pipeline whose clock is an hour ahead of the real one, so that each new file is an hour old."""

    def __init__(self, folder: Path, ledgers: Ledgers, status: StatusServer) -> None:
        super().__init__(folder, ledgers)
        self.clock.now = datetime.now(UTC) + HOUR
        self.restart()
        self.status = status
        self.client = StatusClient(status.url)
        self.reconciler = self.another()

    def another(self, **how) -> Reconciler:
        """Make a reconciler, like one in a command beside the service."""
        return Reconciler(
            self.ledger,
            Uploads(self.uploads),
            self.client,
            metrics=self.metrics,
            clock=self.clock,
            grace_s=60,
            wakeup=threading.Event(),
            **{"second_look_s": 0.0, **how},
        )

    def sweep(self, **how) -> Sweep:
        return self.reconciler.sweep(threading.Event(), **how)

    def lost(self, name: str = "S1.dcm", content: bytes = b"content", details: object = METADATA) -> None:
        """Upload and describe a file whose message never arrives."""
        self.upload(name, content)
        self.says(Path(name).stem, "described", details)

    def says(self, study_id: str, status: str, details: object = None) -> None:
        self.status.statuses[study_id] = {"status": status, "timestamp": "", "details": details}

    def described(self):
        return [entry for entry in self.ledger.read(0, 10_000) if entry.kind == Kind.DESCRIBED]

    def close(self) -> None:
        self.client.close()
        self.ledger.close()


@pytest.fixture
def pipeline(tmp_path, ledgers: Ledgers, status_server):
    made = Looking(tmp_path, ledgers, status_server)
    yield made
    made.close()


def reasons(done: Sweep) -> dict[str, str]:
    return {file.path: file.code for file in done.files}


# -- a message that was lost


def test_a_lost_message_is_made_up_for_and_its_file_goes_the_ordinary_way(pipeline):
    pipeline.lost()
    done = pipeline.sweep()
    assert (done.described, done.unexplained, done.complete, done.trouble) == (1, 0, True, None)
    [entry] = pipeline.described()
    message = {"study_id": "S1", "file_path": "S1.dcm", "metadata": METADATA}
    assert entry.study_id == "S1"
    assert entry.data == {
        "message": message,
        "source": "reconcile",
        "raw_sha256": hashlib.sha256(canonical_json.dumps(message).encode()).hexdigest(),
        "upload_path": "S1.dcm",
    }
    pipeline.finish()
    assert pipeline.files() == {"S1/S1.dcm": hashlib.sha256(b"content").hexdigest()}
    assert tree(pipeline.uploads) == {}
    assert pipeline.metadata("S1")["patient_info"] == METADATA["patient_info"]
    pipeline.check_metadata()


def test_a_second_sweep_adds_nothing_whether_the_file_waits_or_is_archived(pipeline):
    pipeline.lost()
    pipeline.sweep()
    assert pipeline.sweep().held == 1
    pipeline.finish()
    assert pipeline.sweep().looked_at == 0
    assert pipeline.kinds() == ["described", "archived"]


def test_its_message_that_comes_after_all_makes_no_second_file(pipeline):
    pipeline.lost()
    pipeline.sweep()
    pipeline.say("S1", "S1.dcm", METADATA)
    pipeline.finish()
    pipeline.say("S1", "/app/uploads/S1.dcm", METADATA)
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/S1.dcm"]
    pipeline.check_metadata()


@pytest.mark.parametrize("content", [b"content", b"other bytes"])
def test_a_file_that_is_pending_is_held_whatever_the_status_service_says(pipeline, content):
    pipeline.lost(content=content)
    pipeline.say("S9", "S1.dcm")
    done = pipeline.sweep()
    assert (done.held, done.described, pipeline.status.reads) == (1, 0, [])


def test_a_file_that_is_quarantined_is_held(pipeline):
    (pipeline.uploads / "S1.dcm").symlink_to("elsewhere")
    pipeline.say("S9", "S1.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "quarantined"]
    assert pipeline.sweep().held == 1  # the link itself
    (pipeline.uploads / "S1.dcm").unlink()
    pipeline.lost()
    done = pipeline.sweep()
    assert (done.held, done.described) == (1, 0)


def test_a_young_file_is_left_alone_until_the_grace_is_over(pipeline):
    pipeline.lost()
    pipeline.clock.now = datetime.now(UTC)
    assert (pipeline.sweep().young, pipeline.described(), pipeline.status.reads) == (1, [], [])
    pipeline.clock.move(61)
    assert pipeline.sweep().described == 1


def test_a_clock_that_was_set_back_does_not_hide_a_file(pipeline):
    pipeline.lost()
    pipeline.clock.move(-10 * 86_400)
    assert pipeline.sweep().described == 1


def test_a_file_whose_time_lies_ahead_is_judged_by_its_last_change(pipeline):
    pipeline.lost()
    ahead = (datetime.now(UTC) + timedelta(days=400)).timestamp()
    os.utime(pipeline.uploads / "S1.dcm", (ahead, ahead))
    assert pipeline.sweep().described == 1


def test_a_file_below_a_folder_is_found(pipeline):
    pipeline.lost("a/b/S1.dcm")
    assert pipeline.sweep().described == 1
    pipeline.finish()
    assert list(pipeline.files()) == ["S1/S1.dcm"]


# -- still being written


class Writing(threading.Event):
    """A stop event during whose first wait more is written to the file."""

    def __init__(self, act) -> None:
        super().__init__()
        self.act = act

    def wait(self, _: float | None = None) -> bool:
        act, self.act = self.act, lambda: None
        act()
        return self.is_set()


def test_an_old_time_on_a_file_that_grows_between_two_looks_is_not_believed(pipeline):
    pipeline.lost()
    path = pipeline.uploads / "S1.dcm"
    pipeline.clock.now = datetime.now(UTC)

    def write() -> None:
        with path.open("ab") as file:
            file.write(b"more")
        os.utime(path, (0, 0))

    os.utime(path, (0, 0))
    done = pipeline.reconciler.sweep(Writing(write))
    assert (done.changing, done.described) == (1, 0)
    assert pipeline.sweep().described == 1  # and now it does not


def test_a_file_that_grows_while_the_status_service_is_asked_is_left_alone(pipeline):
    pipeline.lost()

    def grow(call):
        with (pipeline.uploads / "S1.dcm").open("ab") as file:
            file.write(b"more")

    pipeline.status.always = grow
    assert (pipeline.sweep().changing, pipeline.described()) == (1, [])


def test_a_file_that_is_taken_away_meanwhile_is_nobodys(pipeline):
    pipeline.upload("S1.dcm", b"x")
    pipeline.status.always = lambda _: (pipeline.uploads / "S1.dcm").unlink()
    done = pipeline.sweep()
    assert (done.changing, done.unexplained) == (1, 0)


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(pipeline, tmp_path):
    pipeline.lost()
    (tmp_path / "secret").write_bytes(b"content")

    def swap(call):
        (pipeline.uploads / "S1.dcm").unlink()
        (pipeline.uploads / "S1.dcm").symlink_to(tmp_path / "secret")

    pipeline.status.always = swap
    assert (pipeline.sweep().changing, pipeline.described()) == (1, [])


# -- what was left over


def archived(pipeline, name="S1.dcm", study_id="S1", content=b"content"):
    pipeline.upload(name, content)
    pipeline.say(study_id, name)
    pipeline.finish()
    pipeline.says(study_id, "archived", {"archive_path": "/app/archive/S1"})


@pytest.mark.parametrize(("name", "study_id"), [("S1.dcm", "S1"), ("deep/one.dcm", "S1"), ("no study\n.dcm", "S1")])
def test_a_leftover_is_removed_the_ordinary_way_and_adds_no_entry(pipeline, name, study_id):
    archived(pipeline, name, study_id)
    pipeline.upload(name, b"content")
    done = pipeline.sweep()
    assert (done.leftovers, done.described, done.unexplained) == (1, 0, 0)
    assert pipeline.status.reads == []
    assert [work_item.entry.position for [work_item] in pipeline.due(Stage.REMOVE)] == [2]
    assert tree(pipeline.uploads)  # it itself removes nothing
    assert pipeline.sweep().held == 1
    pipeline.finish()
    assert tree(pipeline.uploads) == {}
    assert pipeline.kinds() == ["described", "archived"]


def test_a_leftover_is_a_leftover_though_its_status_was_overwritten_with_described(pipeline):
    archived(pipeline)
    pipeline.lost()
    assert (pipeline.sweep().leftovers, len(pipeline.described())) == (1, 1)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: (path.unlink(), path.write_bytes(b"rotten!"))])
def test_a_leftover_whose_archived_file_is_damaged_mends_it_before_it_goes(pipeline, damage):
    archived(pipeline)
    damage(pipeline.archive / "S1" / "S1.dcm")
    pipeline.upload("S1.dcm", b"content")
    assert pipeline.sweep().leftovers == 1
    pipeline.remove()
    assert tree(pipeline.uploads)  # the only good copy
    pipeline.finish()
    assert (pipeline.archive / "S1" / "S1.dcm").read_bytes() == b"content"
    assert tree(pipeline.uploads) == {}
    assert [(archived.data["placement"], "set_aside" in archived.data) for archived in pipeline.ledger.read(2, 9)] in (
        [("copied", False)],
        [("copied", True)],
    )


@pytest.mark.parametrize("content", [b"CONTENT", b"longer than it was"])
def test_other_bytes_under_an_archived_name_are_no_leftover(pipeline, content):
    archived(pipeline)
    pipeline.upload("S1.dcm", content)
    done = pipeline.sweep()
    assert reasons(done) == {"S1.dcm": "not-described"}
    assert done.files[0].status == "archived"
    assert (pipeline.uploads / "S1.dcm").read_bytes() == content
    pipeline.lost(content=content)  # now the descriptor has described it
    assert pipeline.sweep().described == 1
    pipeline.finish()
    beside = f"S1~{hashlib.sha256(content).hexdigest()[:12]}.dcm"
    assert sorted(pipeline.files()) == sorted(["S1/S1.dcm", f"S1/{beside}"])


def test_of_several_versions_of_a_file_the_one_that_lies_there_is_the_leftover(pipeline):
    for content in (b"first", b"other", b"third"):
        archived(pipeline, content=content)
    pipeline.upload("S1.dcm", b"other")
    pipeline.sweep()
    assert [work_item.entry.position for [work_item] in pipeline.due(Stage.REMOVE)] == [4]
    pipeline.finish()
    assert (len(pipeline.files()), tree(pipeline.uploads)) == (3, {})


# -- what stays as it is


@pytest.mark.parametrize("status", ["uploaded", "validating", "validated", "validation_failed", "processing", "archived", "failed"])
def test_what_is_not_described_is_reported_with_its_status(pipeline, status):
    pipeline.upload("S1.dcm", b"x")
    pipeline.says("S1", status, METADATA)
    [file] = pipeline.sweep().files
    assert (file.path, file.bytes, file.code, file.status) == ("S1.dcm", 1, "not-described", status)
    assert 3500 < file.age_s < 3700
    assert tree(pipeline.uploads)


def test_a_status_that_is_none_of_the_pipelines_is_not_quoted(pipeline):
    pipeline.upload("S1.dcm", b"x")
    pipeline.says("S1", "DOE^JANE")
    assert pipeline.sweep().files[0].status == "other"


def test_a_study_that_the_status_service_does_not_know_is_reported(pipeline):
    pipeline.upload("S1.dcm", b"x")
    assert reasons(pipeline.sweep()) == {"S1.dcm": "no-status"}


@pytest.mark.parametrize("details", [None, {}, [], [1], "text", 7])
def test_described_without_metadata_is_reported(pipeline, details):
    pipeline.lost(details=details)
    assert reasons(pipeline.sweep()) == {"S1.dcm": "no-metadata"}


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("details", "code"),
    [
        ({"patient_info": "DOE^JANE"}, "wrong-field"),
        ({"pad": "x" * (1 << 20)}, "too-large"),
        (nested(80), "nested-too-deep"),
        (nested(900), "nested-too-deep"),
    ],
)
def test_metadata_that_no_message_may_have_are_reported(pipeline, details, code):
    pipeline.lost(details=details)
    assert reasons(pipeline.sweep()) == {"S1.dcm": code}


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"described","details":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
        b'{"status":"described","details":{"n":' + b"9" * 5000 + b"}}",
        b"\xff",
        b"[]",
    ],
)
def test_an_answer_that_cannot_be_read_is_reported(pipeline, body):
    pipeline.lost()
    pipeline.status.always = Fault(body=body)
    assert reasons(pipeline.sweep()) == {"S1.dcm": "status-unreadable"}


def test_metadata_with_odd_values_are_kept_as_a_messages_would_be(pipeline):
    pipeline.lost()
    pipeline.status.always = Fault(
        body=b'{"status":"described","details":{"n":1e999,"m":NaN,"s":"\\ud800","k\\udfff":"\\ud83d\\ude00","u":"\xc3\xa4"}}'
    )
    assert pipeline.sweep().described == 1
    pipeline.finish()
    [entry] = pipeline.described()
    assert entry.data["message"]["metadata"] == {"n": "Infinity", "m": "NaN", "s": "\ufffd", "k\ufffd": "\U0001f600", "u": "ä"}
    pipeline.check_metadata()


@pytest.mark.parametrize(
    "name",
    ["-S1.dcm", ".S1.dcm", "S 1.dcm", "S1\n.dcm", "ä.dcm", "x" * 140 + ".dcm", "S1..x.dcm", "\u202ecmd.dcm", "a'; DROP TABLE entries.dcm"],
)
def test_a_name_that_is_no_study_is_reported_and_nobody_is_asked(pipeline, name):
    pipeline.upload(name, b"x")
    assert reasons(pipeline.sweep()) == {name: "unsafe-study-id"}
    assert pipeline.status.reads == []


def test_a_name_that_is_no_utf8_is_reported_in_a_form_that_can_be_printed(pipeline):
    (pipeline.uploads / os.fsdecode(b"S1\xff.dcm")).write_bytes(b"x")
    done = pipeline.sweep()
    assert reasons(done) == {"S1\\xff.dcm": "unsafe-path"}
    json.dumps(done.files[0].path, ensure_ascii=False).encode()


def test_links_and_special_files_are_reported_and_not_opened(pipeline, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "S7.dcm").write_bytes(b"secret")
    for study in ("S2", "S3", "S4", "S5", "S7"):
        pipeline.says(study, "described", METADATA)
    (pipeline.uploads / "S2.dcm").symlink_to(outside / "S7.dcm")
    (pipeline.uploads / "folder").symlink_to(outside)
    os.mkfifo(pipeline.uploads / "S3.dcm")
    (pipeline.uploads / "S4.dcm").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        where = os.getcwd()
        os.chdir(pipeline.uploads)  # the path of a socket is short
        listener.bind("S5.dcm")
        os.chdir(where)
    done = pipeline.sweep()
    assert reasons(done) == {
        "S2.dcm": "upload-is-link",
        "folder": "upload-is-link",
        "S3.dcm": "upload-is-fifo",
        "S5.dcm": "upload-is-socket",
    }
    assert (pipeline.described(), pipeline.status.reads) == ([], [])


def test_folders_in_folders_are_walked_to_a_depth_and_no_further(pipeline):
    path = pipeline.uploads
    for _ in range(MAX_DEPTH + 2):
        path /= "d"
        path.mkdir()
    (path / "S2.dcm").write_bytes(b"x")
    pipeline.lost("/".join(["d"] * (MAX_DEPTH - 1)) + "/S1.dcm")
    done = pipeline.sweep()
    assert done.described == 1
    assert reasons(done) == {"/".join(["d"] * MAX_DEPTH): "folder-too-deep"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_we_may_not_read_is_reported_but_for_lost_and_found(pipeline):
    for name in ("closed", "lost+found"):
        (pipeline.uploads / name).mkdir(mode=0)
    assert reasons(pipeline.sweep()) == {"closed": "folder-unreadable"}


def test_a_second_file_with_a_studys_name_is_not_taken_for_it(pipeline):
    """`S1.part` is not `S1.dcm`; the gateway's naming or the ledger shows which one the descriptor meant."""
    pipeline.lost()
    pipeline.upload("S1.part", b"cont")
    pipeline.upload("S1", b"c")
    done = pipeline.sweep()
    assert (done.described, reasons(done)) == (1, {"S1.part": "study-has-another-upload", "S1": "study-has-another-upload"})
    pipeline.finish()
    pipeline.says("S1", "described", METADATA)
    assert reasons(pipeline.sweep()) == {"S1.part": "study-has-another-upload", "S1": "study-has-another-upload"}
    assert list(pipeline.files()) == ["S1/S1.dcm"]


def test_of_two_files_that_claim_one_study_in_one_sweep_one_is_taken(pipeline):
    pipeline.lost("a/S1.dcm", b"one")
    pipeline.lost("b/S1.dcm", b"two")
    assert pipeline.sweep().described == 1
    pipeline.finish()
    assert (len(pipeline.files()), len(tree(pipeline.uploads))) == (1, 1)


def test_a_rejected_message_leaves_its_file_reported(pipeline):
    pipeline.upload("S1.dcm", b"x")
    pipeline.deliver(b'{"study_id":"S1","file_path":"S1.dcm","metadata":7}')
    pipeline.says("S1", "failed", {"error": "wrong-field"})
    done = pipeline.sweep()
    assert (reasons(done), done.files[0].status) == ({"S1.dcm": "not-described"}, "failed")


# -- neighbours that are away


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_an_upload_that_a_crash_left_hidden_gets_its_name_back_when_nobody_answers_for_it(pipeline, folder):
    pipeline.upload(f"{folder}S1.dcm", b"content")
    pipeline.say("S1", f"{folder}S1.dcm")
    pipeline.place()
    hidden = pipeline.uploads / folder / f".remove-{OWNER}-2.tmp"
    (pipeline.uploads / folder / "S1.dcm").rename(hidden)
    assert (pipeline.sweep().held, hidden.exists()) == (1, True)  # the remover will remove it
    with pipeline.ledger.write() as tx:
        tx.drop(2, Stage.REMOVE)
    assert pipeline.sweep().changing == 1
    assert list(tree(pipeline.uploads)) == [f"{folder}S1.dcm"]
    assert pipeline.sweep().leftovers == 1
    pipeline.finish()
    assert tree(pipeline.uploads) == {}


@pytest.mark.parametrize(
    "name", [".remove-1.tmp", f".remove-{OWNER}-2.tmp", ".remove-99.tmp", ".remove-99999999999999999999.tmp", ".remove-02.tmp"]
)
def test_a_strangers_file_that_is_named_like_a_hidden_one_stays_as_it_is(pipeline, name):
    pipeline.upload("sub/S1.dcm", b"content")
    pipeline.say("S1", "sub/S1.dcm")
    pipeline.finish()
    pipeline.upload(name, b"a stranger's")  # in another folder than the upload of entry 2
    assert pipeline.sweep().unexplained == 1
    assert list(tree(pipeline.uploads)) == [name]


def test_while_the_status_service_is_away_leftovers_are_treated_and_the_rest_waits(pipeline):
    archived(pipeline, "left.dcm", "S0")
    pipeline.upload("left.dcm", b"content")
    for number in range(10):
        pipeline.lost(f"S{number + 1}.dcm")
    pipeline.status.always = Fault(code=500)
    done = pipeline.sweep()
    assert (done.trouble, done.unasked, done.leftovers, done.unexplained) == ("status-service-away", 10, 1, 0)
    assert len(pipeline.status.reads) == verdict.AWAY_AFTER
    assert 'storage_ledger_sweeps_total{outcome="status-service-away"} 1.0' in pipeline.metrics.render().decode()
    pipeline.status.always = None
    done = pipeline.sweep()
    assert (done.trouble, done.described) == (None, 10)


def test_one_failed_call_costs_one_file_its_turn(pipeline):
    for number in range(5):
        pipeline.lost(f"S{number}.dcm")
    pipeline.status.next(Fault(code=500))
    done = pipeline.sweep()
    assert (done.trouble, done.unasked, done.described) == ("status-service-away", 1, 4)


def test_uploads_that_are_not_mounted_are_a_trouble_and_no_error(pipeline):
    pipeline.uploads.rmdir()
    done = pipeline.sweep()
    assert (done.trouble, done.complete) == ("uploads-missing", False)
    pipeline.lost()
    assert pipeline.sweep().described == 1


def test_a_ledger_that_another_holds_is_a_trouble_and_nothing_is_lost(tmp_path, ledgers, status_server):
    pipeline = Looking(tmp_path, ledgers, status_server)
    pipeline.lost()
    with pipeline.ledger._writer.connection() as connection:  # the last connection: the next one waits as for another process
        connection.execute("PRAGMA busy_timeout = 1")
    other = reconcile_beside(pipeline)
    with other.write():
        done = pipeline.sweep()
    assert (done.trouble, done.described, pipeline.described()) == ("ledger-busy", 0, [])
    assert pipeline.sweep().described == 1
    other.close()
    pipeline.close()


def reconcile_beside(pipeline):
    """Open a second connection to the same ledger, like another process."""
    return SqliteLedger(pipeline.ledger.path, clock=pipeline.clock)


# -- large amounts, and concurrency


def test_a_sweep_goes_on_where_the_last_one_ended_after_fruitless_requests(pipeline, monkeypatch):
    monkeypatch.setattr(sweep, "AT_ONCE", 10)
    for number in range(55):
        pipeline.upload(f"S{number:02}.dcm", b"x")
    seen = []
    for _ in range(3):
        done = pipeline.sweep(most_fruitless=20)
        seen.append((done.looked_at, done.complete))
    assert seen == [(20, False), (40, False), (55, True)]
    assert {call.study_id for call in pipeline.status.reads} == {f"S{number:02}" for number in range(55)}
    assert len(pipeline.status.reads) == 55  # each once
    text = pipeline.metrics.render().decode()
    assert "storage_ledger_unexplained_files 55.0" in text
    assert pipeline.sweep(most_fruitless=20).looked_at == 20  # from the beginning again


class CountingLedger(SqliteLedger):
    """A ledger that counts the rows it reads."""

    read_rows = 0

    def _rows(self, *args):
        rows = super()._rows(*args)
        self.read_rows += len(rows)
        return rows


def test_a_sweep_reads_as_little_for_each_file_however_many_of_one_study_wait_to_be_removed(pipeline):
    for number in range(40):
        pipeline.upload(f"{number}.dcm", b"x")
        pipeline.say("S1", f"/app/uploads/{number}.dcm")
    pipeline.place()
    with closing(CountingLedger(pipeline.ledger.path, clock=pipeline.clock)) as ledger:
        looking = Reconciler(
            ledger, Uploads(pipeline.uploads), pipeline.client, metrics=pipeline.metrics, clock=pipeline.clock,
            grace_s=0, second_look_s=0.0, wakeup=threading.Event(),
        )  # fmt: skip
        pipeline.clock.move(3600)
        assert looking.sweep(threading.Event()).held == 40
        assert ledger.read_rows <= 40 * 4, "the two entries of each, and whether it waits"


def test_a_sweep_has_few_paths_in_memory_however_many_files_there_are(pipeline, monkeypatch):
    monkeypatch.setattr(sweep, "AT_ONCE", 7)
    monkeypatch.setattr(sweep, "LISTED", 5)
    for number in range(40):
        pipeline.upload(f"{number % 3}/S{number}.dcm", b"x")
    portions = []
    done = pipeline.sweep(on_progress=lambda done: portions.append(done.looked_at))
    assert portions == [7, 14, 21, 28, 35, 40]
    assert (done.unexplained, len(done.files)) == (40, 5)


def test_what_is_read_for_leftovers_is_bounded_between_two_rests_and_none_is_forgotten(pipeline, monkeypatch):
    monkeypatch.setattr(sweep, "BYTES_AT_ONCE", 10)
    for number in range(5):
        archived(pipeline, f"S{number}.dcm", f"S{number}", b"seven77")
    for number in range(5):
        pipeline.upload(f"S{number}.dcm", b"seven77")
    portions = []
    done = pipeline.sweep(on_progress=lambda done: portions.append(done.leftovers))
    assert (portions, done.leftovers) == ([2, 4, 5], 5)


def test_many_lost_messages_take_few_commits_and_none_takes_more_than_its_share(pipeline, monkeypatch):
    monkeypatch.setattr(sweep, "MESSAGES_AT_ONCE", 1000)
    for number in range(20):
        pipeline.lost(f"S{number}.dcm")
    portions = []
    done = pipeline.sweep(on_progress=lambda done: portions.append(done.described))
    assert done.described == 20
    assert 2 < len(portions) < 10


def test_a_stop_ends_a_sweep_between_two_files(pipeline):
    for number in range(10):
        pipeline.lost(f"S{number}.dcm")
    stop = threading.Event()
    pipeline.status.always = lambda _: stop.set() if len(pipeline.status.reads) == 3 else None
    done = pipeline.reconciler.sweep(stop)
    assert (done.described, done.complete) == (3, False)
    assert len(pipeline.status.reads) == 3


def test_two_sweeps_at_once_make_up_for_each_message_once(tmp_path, ledgers, status_server):
    """Two connections, as in two processes; many rounds."""
    pipeline = Looking(tmp_path, ledgers, status_server)
    other = reconcile_beside(pipeline)
    second = Reconciler(
        other, Uploads(pipeline.uploads), pipeline.client, metrics=Metrics(), clock=pipeline.clock, grace_s=60, second_look_s=0.0,
        wakeup=threading.Event(),
    )  # fmt: skip
    described = 0
    for number in range(60):
        pipeline.lost(f"R{number}-a.dcm")
        pipeline.lost(f"R{number}-b.dcm", b"other")
        archived(pipeline, f"R{number}-c.dcm", f"R{number}-c")
        archived(pipeline, f"R{number}-d.dcm", f"R{number}-d")
        pipeline.upload(f"R{number}-c.dcm", b"content")
        pipeline.lost(f"R{number}-d.dcm", b"another one with this name")
        start = threading.Barrier(2)
        done: list[Sweep] = []

        def run(reconciler: Reconciler, start: threading.Barrier = start, done: list[Sweep] = done) -> None:
            start.wait()
            done.append(reconciler.sweep(threading.Event()))

        threads = [threading.Thread(target=run, args=(each,)) for each in (pipeline.reconciler, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        described += 3
        assert sum(each.described for each in done) == 3
        assert len([entry for entry in pipeline.described() if entry.data["source"] == "reconcile"]) == described
        assert len([work_item for group in pipeline.due(Stage.REMOVE) for work_item in group]) == 1
        pipeline.finish()
        assert tree(pipeline.uploads) == {}
    assert len(pipeline.files()) == 300
    other.close()
    pipeline.close()


def test_what_is_said_of_an_upload_while_it_is_judged_wins(pipeline):
    """Between judging and appending, its message arrives, or one about its study with another file."""
    pipeline.lost()
    pipeline.lost("S2.dcm")

    def meanwhile(call):
        if call.study_id == "S1":
            pipeline.say("S1", "S1.dcm", METADATA)
        else:
            pipeline.say("S2", "elsewhere/S2.dcm", METADATA)

    pipeline.status.always = meanwhile
    done = pipeline.sweep()
    assert (done.held, done.described) == (2, 0)
    assert [entry.data["source"] for entry in pipeline.described()] == ["pubsub"] * 2


def test_a_walk_holds_folders_open_only_while_it_goes_on(pipeline):
    for number in range(30):
        pipeline.upload(f"{number}/S.dcm", b"x")
    before = len(os.listdir("/proc/self/fd"))
    walk = Uploads(pipeline.uploads).walk()
    next(walk)
    assert before < len(os.listdir("/proc/self/fd")) < before + 6
    walk.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_message_about_other_bytes_that_arrives_while_they_are_judged_is_the_only_one(pipeline):
    archived(pipeline)
    pipeline.lost(content=b"other bytes")
    pipeline.status.always = lambda _: pipeline.say("S1", "S1.dcm", METADATA)
    done = pipeline.sweep()
    assert (done.held, done.described, len(pipeline.described())) == (1, 0, 2)


def test_a_file_that_is_explained_while_it_is_judged_is_not_reported(pipeline):
    pipeline.upload("S1.dcm", b"x")
    pipeline.says("S1", "archived")  # status already sent, upload not yet removed
    pipeline.status.always = lambda _: pipeline.say("S1", "S1.dcm")
    done = pipeline.sweep()
    assert (done.held, done.unexplained) == (1, 0)


# -- when


class Counting(Reconciler):
    """A reconciler that counts its passes."""

    def __init__(self, *args, **how) -> None:
        super().__init__(*args, **how)
        self.swept = threading.Semaphore(0)

    def sweep(self, *args, **how) -> Sweep:
        done = super().sweep(*args, **how)
        self.swept.release()
        return done


def running(pipeline, **how):
    reconciler = Counting(
        pipeline.ledger, Uploads(pipeline.uploads), pipeline.client, metrics=pipeline.metrics, clock=pipeline.clock,
        **{"grace_s": 0, "second_look_s": 0.0, "wakeup": threading.Event(), **how},
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    thread.start()

    def end() -> None:
        stop.set()
        reconciler._wakeup.set()
        thread.join(30)
        assert not thread.is_alive()

    return reconciler, end


def test_it_sweeps_at_the_start_after_each_ring_and_once_more_when_the_grace_is_over(pipeline):
    reconciler, end = running(pipeline, every_s=3600, grace_s=0.2)
    for _ in range(2):  # at the start, and after the grace
        assert reconciler.swept.acquire(timeout=20)
    assert not reconciler.swept.acquire(blocking=False)
    reconciler._wakeup.set()
    for _ in range(2):
        assert reconciler.swept.acquire(timeout=20)
    end()


def test_it_sweeps_by_the_clock(pipeline):
    reconciler, end = running(pipeline, every_s=0.01, grace_s=3600)
    for _ in range(3):
        assert reconciler.swept.acquire(timeout=20)
    end()


def test_zero_seconds_switch_it_off_and_it_still_ends_when_told(pipeline):
    pipeline.lost()
    reconciler, end = running(pipeline, every_s=0)
    reconciler._wakeup.set()
    end()
    assert not reconciler.swept.acquire(blocking=False)
    assert pipeline.described() == []


def test_an_unmounted_folder_or_an_absent_neighbour_does_not_end_the_run_and_a_bug_does(pipeline):
    pipeline.uploads.rmdir()
    reconciler, end = running(pipeline, every_s=0.01)
    for _ in range(2):
        assert reconciler.swept.acquire(timeout=20)
    end()
    pipeline.lost()
    broken = pipeline.another(every_s=0.01)
    broken._judge = None
    with pytest.raises(AttributeError):
        broken.run(threading.Event())


def test_a_file_of_which_a_damaged_entry_tells_is_left_to_people(pipeline):
    pipeline.upload("S1.dcm", b"content")
    pipeline.say("S1", "/app/uploads/S1.dcm")
    pipeline.place()
    pipeline.lost("S2.dcm")
    before = len(pipeline.ledger.read(0, 100))
    damage(pipeline.ledger, "UPDATE entries SET payload = replace(payload, 'sha256', 'sha257') WHERE kind = 'archived'")
    done = pipeline.sweep()
    assert reasons(done) == {"S1.dcm": "entry-damaged"}
    assert [entry.study_id for entry in pipeline.ledger.read(before, 100)] == ["S2"]
    assert (pipeline.uploads / "S1.dcm").exists()


def test_a_file_that_an_entry_of_a_newer_program_names_is_left_to_people(pipeline):
    """For example after a downgrade. It must not end the service at every start."""
    pipeline.upload("S1.dcm", b"content")
    pipeline.say("S1", "/app/uploads/S1.dcm")
    pipeline.place()
    last = pipeline.ledger.last()
    newer = made_entry(
        last.position + 1, "archived", making.archived("S1.dcm"), version=last.version + 1, cause=1, schema=2, recorded_at=last.recorded_at
    )
    with closing(sqlite.connect(pipeline.ledger.path)) as connection:
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(newer))})", newer)
        connection.commit()
    pipeline.lost("S2.dcm")
    done = pipeline.sweep()
    assert reasons(done) == {"S1.dcm": "entry-damaged"}
    assert pipeline.ledger.last().study_id == "S2"
