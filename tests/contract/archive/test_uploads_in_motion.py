"""Uploads that change, move or vanish while being archived: every byte ends up in the archive or stays in uploads."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from storage_ledger.archive import safe_unlink
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import FileIdentity, Uploads
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.pipeline.remove import Remover
from tests.support.as_user import SERVICE, as_user, open_folder
from tests.support.dicom import make_file
from tests.support.making import seeded
from tests.support.pipeline import Pipeline

WHOLE = bytes(range(256)) * 400
STOP = 255
OWNER = hashlib.sha256(b"").hexdigest()[:8]
"""The owner in hidden names while no ledger is named."""


def hidden(position):
    return safe_unlink.hidden_name(OWNER, position)


RENAMES = int(os.environ.get("RENAMES", "1000"))


@pytest.fixture
def pipeline(tmp_path, ledgers):
    pipeline = Pipeline(tmp_path, ledgers)
    yield pipeline
    pipeline.ledger.close()


class OneLedger:
    """A ledger made by root and given to the service's user."""

    def __init__(self, folder, ledgers):
        self.path = ledgers.file(folder / "service" / "ledger")
        for path in (self.path, self.path.parent, self.path.parent.parent):
            os.chown(path, SERVICE, SERVICE)

    def open(self, _, clock):
        return SqliteLedger(self.path, clock=clock, randomness=seeded(1))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_kind(pipeline, kind):
    return [entry for entry in pipeline.ledger.read(0, 10_000) if entry.kind == kind]


# -- written while it is archived


def test_a_foreign_file_that_is_described_too_early_loses_no_byte_and_its_first_copy_is_superseded(ledgers):
    with open_folder() as folder:

        def scenario(become):
            uploads = folder / "uploads"
            uploads.mkdir()
            uploads.chmod(0o2777)
            writer = (uploads / "a.dcm").open("wb", buffering=0)
            writer.write(WHOLE[:30_000])
            (uploads / "a.dcm").chmod(0o644)
            ledger = OneLedger(folder, ledgers)
            become()
            pipeline = Pipeline(folder / "service", ledger, uploads=uploads)
            pipeline.say("S1", "a.dcm")
            pipeline.place()  # immediately: nothing shows that it is incomplete
            pipeline.remove()
            there = (uploads / "a.dcm").exists()
            pipeline.clock.move(1)
            writer.write(WHOLE[30_000:])
            writer.close()
            pipeline.clock.move(10)
            pipeline.finish()
            archived = [entry.data for entry in of_kind(pipeline, "archived")]
            return {
                "there": there,
                "left": os.listdir(uploads),
                "files": pipeline.files(),
                "names": [data["file"]["name"] for data in archived],
                "supersedes": [data.get("supersedes") for data in archived],
                "pending": pipeline.ledger.queue() and [length.stage for length in pipeline.ledger.queue()],
            }

        found = as_user(scenario)
    assert (found["there"], found["left"]) == (True, [])
    assert sorted(found["files"].values()) == sorted([digest(WHOLE[:30_000]), digest(WHOLE)])
    assert found["supersedes"] == [None, "a.dcm"]
    assert found["names"][0] == "a.dcm"
    assert found["pending"] == ["tell"]


def test_a_foreign_file_stays_until_it_has_not_changed_for_the_settling_time(ledgers):
    with open_folder() as folder:

        def scenario(become):
            uploads = folder / "uploads"
            uploads.mkdir()
            uploads.chmod(0o777)
            (uploads / "a.dcm").write_bytes(WHOLE)
            (uploads / "a.dcm").chmod(0o644)  # whatever umask an earlier test has left
            ledger = OneLedger(folder, ledgers)
            become()
            pipeline = Pipeline(folder / "service", ledger, uploads=uploads)
            pipeline.say("S1", "a.dcm")
            pipeline.place()
            seen = []
            for seconds in (0, 4, 0.9):
                pipeline.clock.move(seconds)
                pipeline.remove()
                seen.append((uploads / "a.dcm").exists())
            pipeline.clock.move(0.2)
            pipeline.remove()
            failed = [entry.data["code"] for entry in of_kind(pipeline, "failed")]
            return [*seen, (uploads / "a.dcm").exists(), pipeline.ledger.due([Stage.REMOVE], limit=9), failed]

        assert as_user(scenario) == [True, True, True, False, [], []]


def test_after_a_restart_a_foreign_file_has_to_settle_again(ledgers):
    with open_folder() as folder:

        def scenario(become):
            uploads = folder / "uploads"
            uploads.mkdir()
            uploads.chmod(0o777)
            (uploads / "a.dcm").write_bytes(WHOLE)
            (uploads / "a.dcm").chmod(0o644)  # whatever umask an earlier test has left
            ledger = OneLedger(folder, ledgers)
            become()
            pipeline = Pipeline(folder / "service", ledger, uploads=uploads)
            pipeline.say("S1", "a.dcm")
            pipeline.place()
            pipeline.clock.move(3600)
            pipeline.restart()
            pipeline.remove()
            there = (uploads / "a.dcm").exists()
            pipeline.clock.move(5)
            pipeline.remove()
            return [there, (uploads / "a.dcm").exists()]

        assert as_user(scenario) == [True, False]


def test_our_own_users_file_goes_at_once(pipeline):
    pipeline.upload("a.dcm", WHOLE)
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.remove()
    assert os.listdir(pipeline.uploads) == []


def test_a_writer_that_never_closes_does_not_keep_the_file_out_of_the_archive_for_ever(pipeline):
    pipeline.upload("a.dcm", WHOLE[:100])
    pipeline.say("S1", "a.dcm")
    with (pipeline.uploads / "a.dcm").open("ab", buffering=0) as writer:
        pipeline.place()
        assert pipeline.kinds() == ["described"]
        pipeline.clock.move(pipeline.grace_s + 1)
        pipeline.place()
        pipeline.remove()
        assert (pipeline.kinds(), os.listdir(pipeline.uploads)) == (["described", "archived"], ["a.dcm"])
        writer.write(WHOLE[100:])
    pipeline.finish()
    assert set(pipeline.files().values()) == {digest(WHOLE[:100]), digest(WHOLE)}
    assert [entry.data.get("supersedes") for entry in of_kind(pipeline, "archived")] == [None, "a.dcm"]


# -- no upload yet


@pytest.mark.parametrize("later", [b"", WHOLE])
def test_an_empty_file_may_be_filled_within_the_grace_and_is_quarantined_after_it(pipeline, later):
    pipeline.upload("a.dcm", b"")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    assert pipeline.kinds() == ["described"]
    pipeline.upload("a.dcm", later)
    pipeline.clock.move(pipeline.grace_s - 1)
    pipeline.place()
    pipeline.clock.move(2)
    pipeline.finish()
    if later:
        assert pipeline.files() == {"S1/a.dcm": digest(WHOLE)}
    else:
        assert [entry.data["code"] for entry in of_kind(pipeline, "quarantined")] == ["upload-empty"]
        assert (pipeline.files(), os.listdir(pipeline.uploads)) == ({}, ["a.dcm"])


def test_a_redelivery_with_an_empty_upload_is_not_taken_for_the_file_that_is_archived(pipeline):
    pipeline.upload("a.dcm", WHOLE)
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    pipeline.upload("a.dcm", b"")
    pipeline.say("S1", "a.dcm")
    pipeline.finish()
    assert pipeline.kinds() == ["described", "archived", "described", "quarantined"]
    assert pipeline.files() == {"S1/a.dcm": digest(WHOLE)}


@pytest.mark.parametrize("published", [True, False])
def test_a_file_with_a_second_name_waits_until_it_has_one_and_is_quarantined_after_the_grace(pipeline, published):
    pipeline.upload("being-written", WHOLE)
    os.link(pipeline.uploads / "being-written", pipeline.uploads / "a.dcm")
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    assert pipeline.kinds() == ["described"]
    if published:
        os.unlink(pipeline.uploads / "being-written")
        pipeline.finish()
        assert pipeline.files() == {"S1/a.dcm": digest(WHOLE)}
        return
    pipeline.finish()
    assert [entry.data["code"] for entry in of_kind(pipeline, "quarantined")] == ["upload-hard-linked"]
    assert (pipeline.files(), sorted(os.listdir(pipeline.uploads))) == ({}, ["a.dcm", "being-written"])


# -- another message, and nothing to compare it with


def test_a_redelivery_that_says_something_else_of_a_file_that_is_gone_is_marked(pipeline):
    pipeline.upload("a.dcm", WHOLE)
    for said in (1, 2, 2, 1):
        pipeline.say("S1", "a.dcm", {"patient_info": {"patient_id": str(said)}})
        pipeline.finish()
    archived = [entry.data for entry in of_kind(pipeline, "archived")]
    assert [data["placement"] for data in archived] == ["copied", "already-there", "already-there", "already-there"]
    assert [data.get("unconfirmed", False) for data in archived] == [False, True, True, False]
    pipeline.check_metadata()


def test_a_redelivery_that_says_something_else_beside_the_same_file_is_not_marked(pipeline):
    for said in (1, 2):
        pipeline.upload("a.dcm", WHOLE)
        pipeline.say("S1", "a.dcm", {"n": said})
        pipeline.finish()
    pipeline.say("S1", "a.dcm", {"n": 1})  # it was seen with this file once
    pipeline.finish()
    assert [entry.data.get("unconfirmed") for entry in of_kind(pipeline, "archived")] == [None, None, None]


# -- replaced, hidden, moved away


def test_a_file_that_a_crash_left_hidden_gets_its_name_back_and_is_removed(pipeline):
    pipeline.upload("sub/a.dcm", WHOLE)
    pipeline.say("S1", "sub/a.dcm")
    pipeline.place()
    path = pipeline.uploads / "sub" / hidden(2)
    os.rename(pipeline.uploads / "sub" / "a.dcm", path)
    pipeline.restart()
    pipeline.finish()
    assert os.listdir(pipeline.uploads / "sub") == []
    assert pipeline.kinds() == ["described", "archived"]


def test_another_file_that_a_crash_left_hidden_is_archived(pipeline):
    pipeline.upload("a.dcm", WHOLE)
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    pipeline.upload("other", b"corrected")
    os.rename(pipeline.uploads / "other", pipeline.uploads / hidden(2))  # it took the name just before the rename
    os.unlink(pipeline.uploads / "a.dcm")
    pipeline.restart()
    pipeline.say("S1", "a.dcm", {"n": 2})
    pipeline.place()  # its own message is processed before the removal
    pipeline.finish()
    assert set(pipeline.files().values()) == {digest(WHOLE), digest(b"corrected")}
    assert os.listdir(pipeline.uploads) == []
    assert not any(entry.data.get("unconfirmed") for entry in of_kind(pipeline, "archived"))


@pytest.mark.parametrize("between", ["link and unlink", "another file came"])
def test_a_hidden_file_whose_name_is_taken_is_kept_under_a_name_that_people_see(tmp_path, between):
    uploads = Uploads(tmp_path)
    path = tmp_path / hidden(7)
    path.write_bytes(b"hidden")
    if between == "link and unlink":
        os.link(path, tmp_path / "a.dcm")
        assert uploads.recover("a.dcm", 7)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.dcm": b"hidden"}
        return
    (tmp_path / "a.dcm").write_bytes(b"another")
    assert uploads.recover("a.dcm", 7)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.dcm": b"another", f"a.dcm~remove-{OWNER}-7.tmp": b"hidden"}
    assert not uploads.recover("a.dcm", 7)


@pytest.mark.parametrize("name", ["a", "x" * 255, "ü" * 127])
def test_the_name_beside_it_always_fits(tmp_path, name):
    (tmp_path / name).write_bytes(b"another")
    for _ in range(3):
        (tmp_path / hidden(2**62)).write_bytes(b"hidden")
        assert Uploads(tmp_path).recover(name, 2**62)
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_took_the_name_of_an_upload_and_is_no_file_keeps_it(tmp_path, kind):
    path = tmp_path / hidden(7)
    {"folder": path.mkdir, "link": lambda: path.symlink_to("x"), "fifo": lambda: os.mkfifo(path)}[kind]()
    assert Uploads(tmp_path).recover("a.dcm", 7)
    assert os.listdir(tmp_path) == ["a.dcm"]


def test_where_the_file_system_cannot_rename_without_replacing_a_link_does_it(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "old").write_bytes(b"x")
    safe_unlink.link_to_new(folder, "old", "new")
    (tmp_path / "old").write_bytes(b"y")
    with pytest.raises(FileExistsError):
        safe_unlink.link_to_new(folder, "old", "new")
    os.close(folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"y", "new": b"x"}


def test_a_senders_file_that_is_named_like_a_hidden_one_is_an_upload_like_any_other(ledgers):
    with open_folder() as folder:

        def scenario(become):
            uploads = folder / "uploads"
            uploads.mkdir()
            uploads.chmod(0o777)
            name = hidden(2)
            (uploads / name).write_bytes(WHOLE[:1000])
            (uploads / name).chmod(0o666)
            ledger = OneLedger(folder, ledgers)
            become()
            pipeline = Pipeline(folder / "service", ledger, uploads=uploads)
            pipeline.say("own", name)
            pipeline.place()  # entry 2
            pipeline.remove()
            there = os.listdir(uploads) == [name]
            with (uploads / name).open("ab") as writer:
                writer.write(WHOLE[1000:])
            pipeline.clock.move(10)
            pipeline.finish()
            return [there, os.listdir(uploads), sorted(pipeline.files().values())]

        found = as_user(scenario)
    assert found == [True, [], sorted([digest(WHOLE[:1000]), digest(WHOLE)])]


def test_a_complete_file_that_another_one_replaced_is_not_called_incomplete(pipeline, tmp_path):
    for number in (1, 2):
        make_file(tmp_path / f"{number}.dcm", patient_name=f"P{number}", seed=number)
    pipeline.upload("a.dcm", (tmp_path / "1.dcm").read_bytes())
    pipeline.say("S1", "a.dcm")
    pipeline.place()
    os.replace(tmp_path / "2.dcm", pipeline.uploads / "a.dcm")
    pipeline.finish()
    archived = [entry.data for entry in of_kind(pipeline, "archived")]
    assert [data.get("supersedes") for data in archived] == [None, None]
    assert len(pipeline.files()) == 2


def test_the_rest_of_a_file_that_comes_with_a_message_of_its_own_supersedes_its_beginning(pipeline):
    for content in (WHOLE[:50_000], WHOLE):
        pipeline.upload("a.dcm", content)
        pipeline.say("S1", "a.dcm")
        pipeline.finish()
    assert [entry.data.get("supersedes") for entry in of_kind(pipeline, "archived")] == [None, "a.dcm"]


def test_another_message_about_a_file_that_is_gone_is_about_its_last_state(pipeline):
    for size in (3000, 6000, 9000):
        pipeline.upload("b.dcm", WHOLE[:size])
        pipeline.say("S1", "b.dcm", {"n": 1})
        pipeline.finish()
    last = of_kind(pipeline, "archived")[-1].data["file"]["name"]
    pipeline.say("S1", "b.dcm", {"n": 2})
    pipeline.finish()
    told = of_kind(pipeline, "archived")[-1].data
    assert (told["file"]["name"], told["unconfirmed"]) == (last, True)


@contextmanager
def replacing(root: Path):
    """Start a process that replaces `a.dcm` by `new` up to 120 microseconds after each signal. Return two functions: signal, wait."""
    shared = mmap.mmap(-1, 2)
    pid = os.fork()
    if pid == 0:
        delays = random.Random(1)
        while True:
            while shared[0] == shared[1]:
                pass
            if shared[0] == STOP:
                os._exit(0)
            until = time.perf_counter() + delays.random() * 120e-6
            while time.perf_counter() < until:
                pass
            os.rename(root / "new", root / "a.dcm")
            shared[1] = shared[0]

    def let_go():
        shared[0] = (shared[1] + 1) % STOP

    def wait():
        while shared[0] != shared[1]:
            pass

    try:
        yield let_go, wait
    finally:
        shared[0] = STOP
        os.waitpid(pid, 0)


def test_files_that_are_replaced_at_the_moment_of_removal_are_never_lost(tmp_path):
    """The name may refer to another file at each check."""
    uploads = Uploads(tmp_path)
    met = 0
    with replacing(tmp_path) as (let_go, wait):
        for number in range(1, RENAMES + 1):
            (tmp_path / "a.dcm").write_bytes(b"first")
            (tmp_path / "new").write_bytes(b"%d" % number)
            identity = uploads.identity_of("a.dcm")
            let_go()
            with suppress(Retryable):
                uploads.remove("a.dcm", identity, number, settled=True)
                met -= 1
            met += 1
            wait()
            left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            assert left == {"a.dcm": b"%d" % number}
    assert met > 0  # otherwise the two never met


@pytest.mark.parametrize("as_link", [True, False])
def test_a_folder_of_uploads_that_is_moved_away_stops_nobody(pipeline, tmp_path, as_link):
    for number in range(3):
        pipeline.upload(f"day0/{number}.dcm", b"day0 %d" % number)
        pipeline.upload(f"day1/{number}.dcm", b"day1 %d" % number)
        pipeline.say(f"A{number}", f"day0/{number}.dcm")
        pipeline.say(f"B{number}", f"day1/{number}.dcm")
    pipeline.place()
    os.rename(pipeline.uploads / "day0", tmp_path / "day0.real")
    if as_link:
        (pipeline.uploads / "day0").symlink_to(tmp_path / "day0.real")
    pipeline.finish()
    assert os.listdir(pipeline.uploads / "day1") == []
    assert len(os.listdir(tmp_path / "day0.real")) == 3
    assert pipeline.ledger.due([Stage.REMOVE], limit=9) == []


class MovesUploadsWhileReading:
    """An archive whose second check takes so long that somebody moves `day0` away meanwhile and puts a link in its place."""

    def __init__(self, pipeline, to):
        self.archive = FilesystemArchive(pipeline.archive)
        self.uploads = pipeline.uploads
        self.to = to
        self.checks = 0

    def check(self, *file):
        self.checks += 1
        if self.checks == 2:
            os.rename(self.uploads / "day0", self.to)
            (self.uploads / "day0").symlink_to(self.to)
        return self.archive.check(*file)


def test_nothing_is_removed_from_a_folder_that_was_moved_away_while_files_were_read(pipeline, tmp_path):
    for number in range(2):
        pipeline.upload(f"day0/{number}.dcm", b"%d" % number)
        pipeline.say(f"S{number}", f"day0/{number}.dcm")
    pipeline.place()
    moving = MovesUploadsWhileReading(pipeline, tmp_path / "day0.real")
    remover = Remover(Uploads(pipeline.uploads), moving, metrics=pipeline.metrics, clock=pipeline.clock, settle_s=5)
    remover.remove_batch(pipeline.ledger.due([Stage.REMOVE], limit=9))
    assert (moving.checks, os.listdir(tmp_path / "day0.real")) == (2, ["1.dcm"])


FOLDERS_OPENED = """
import sys
from pathlib import Path
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline
folder = Path(sys.argv[1])
pipeline = Pipeline(folder / "service", Ledgers(folder))
for number in range(5):
    pipeline.upload(f"sub/{number}.dcm", b"%d" % number)
    pipeline.say(f"S{number}", f"sub/{number}.dcm")
pipeline.place()
opened = []
sys.addaudithook(lambda event, details: opened.append(str(details[0])) if event == "open" else None)
pipeline.remove()
print(opened.count("sub"), opened.count(str(pipeline.uploads)), len(list((pipeline.uploads / "sub").iterdir())))
"""


def test_a_batch_opens_a_folder_of_uploads_once(tmp_path):
    done = subprocess.run([sys.executable, "-c", FOLDERS_OPENED, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["1 1 0"], done.stderr


def test_a_folder_that_becomes_a_link_before_it_is_synced_needs_no_sync(tmp_path):
    uploads = Uploads(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "day0").symlink_to("real")
    assert uploads.sync_folders(["day0/a.dcm", "gone/a.dcm", "a.dcm"]) == {}


def test_nothing_is_removed_through_a_folder_that_became_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.dcm").write_bytes(b"x")
    (tmp_path / "day0").symlink_to("real")
    with pytest.raises(Permanent):
        Uploads(tmp_path).remove("day0/a.dcm", FileIdentity.of((tmp_path / "real" / "a.dcm").stat()), 1, settled=True)
    assert (tmp_path / "real" / "a.dcm").exists()
    shutil.rmtree(tmp_path / "real")


def test_an_upload_below_many_folders_takes_few_descriptors(tmp_path):
    levels = 300
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a", dir_fd=folder)
        below = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    with open(os.open("x.dcm", os.O_CREAT | os.O_WRONLY, dir_fd=folder), "wb") as file:
        file.write(b"data")
    os.close(folder)
    before = len(os.listdir("/proc/self/fd"))
    with Uploads(tmp_path).open("/".join(["a"] * levels + ["x.dcm"])) as upload:
        assert upload.size == 4
        assert len(os.listdir("/proc/self/fd")) - before < 8
    assert len(os.listdir("/proc/self/fd")) == before
