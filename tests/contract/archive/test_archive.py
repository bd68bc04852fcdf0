"""The contract of every archive and of uploads. Add an implementation to `ARCHIVES` to run all of it."""

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage_ledger.archive.batch import TOGETHER_FROM
from storage_ledger.archive.contract import Fixity
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import FileIdentity, Uploads
from storage_ledger.errors import Permanent, Retryable
from tests.support.making import small_volume
from tests.support.placing import place_in, study_of


class InLargeBatches(FilesystemArchive):
    """The same archive, as it syncs many studies together."""

    def batch(self, studies):
        return super().batch(max(studies, TOGETHER_FROM))


ARCHIVES = [FilesystemArchive, InLargeBatches]


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "uploads").mkdir()
    return Uploads(tmp_path / "uploads")


@pytest.fixture(params=ARCHIVES)
def archive(request, tmp_path):
    (tmp_path / "archive").mkdir()
    return request.param(tmp_path / "archive")


class Placing:
    """Uploads a file and places it; keeps what the ledger would have."""

    def __init__(self, uploads, archive):
        self.uploads, self.archive = uploads, archive
        self.owned: dict[str, str] = {}
        self.position = 0

    def __call__(self, content: bytes, name: str = "a.dcm", *, study_id: str = "S1", owned: dict[str, str] | None = None):
        self.position += 1
        (self.uploads.root / "incoming").write_bytes(content)
        with self.uploads.open("incoming") as upload:
            known = self.owned if owned is None else owned
            placed = place_in(self.archive, upload, name, study_id=study_id, known=known, position=self.position)
        self.owned[placed.name] = placed.sha256
        assert placed.sha256 == digest(content)
        assert placed.bytes == len(content)
        assert content_of(self.archive, study_id, placed.name) == content
        return placed


def discard_attempts(archive, study_id, position):
    with study_of(archive, study_id) as folder:
        folder.discard_attempts(position)


@pytest.fixture
def place(uploads, archive):
    return Placing(uploads, archive)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content_of(archive, study_id, name) -> bytes:
    with archive.open(study_id, name) as file:
        return file.read()


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def put(path: Path, content: bytes) -> None:
    """Write a file as another program would, over any existing one."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


# -- place


@pytest.mark.parametrize("content", [b"", b"x", b"0123456789abcdef" * 200_000])
def test_bytes_lie_under_their_name_and_nothing_else_lies_there(place, archive, content):
    placed = place(content)
    archive.sync_new_folders(())
    assert (placed.name, placed.placement, placed.set_aside) == ("a.dcm", "copied", None)
    assert tree(archive.root) == {"S1/a.dcm": content}


def test_the_upload_stays(place, uploads):
    place(b"x")
    assert (uploads.root / "incoming").read_bytes() == b"x"
    assert (uploads.root / "incoming").stat().st_nlink == 1


def test_the_same_bytes_again_are_already_there_and_are_not_touched(place, archive):
    place(b"x")
    before = (archive.root / "S1" / "a.dcm").stat()
    assert place(b"x").placement == "already-there"
    after = (archive.root / "S1" / "a.dcm").stat()
    assert (before.st_ino, before.st_mtime_ns, after.st_nlink) == (after.st_ino, after.st_mtime_ns, 1)
    assert list(tree(archive.root)) == ["S1/a.dcm"]


def test_the_same_bytes_are_already_there_even_if_the_ledger_does_not_know_yet(place, archive):
    """The process crashed between placing and recording."""
    place(b"x")
    assert place(b"x", owned={}).placement == "already-there"


def test_the_same_bytes_under_another_name_are_another_file(place, archive):
    place(b"x")
    assert place(b"x", "b.dcm").placement == "copied"
    assert tree(archive.root) == {"S1/a.dcm": b"x", "S1/b.dcm": b"x"}


def test_other_bytes_of_the_same_name_lie_beside_and_again_are_already_there(place, archive):
    place(b"x")
    beside = f"a~{digest(b'y')[:12]}.dcm"
    assert (place(b"y").name, place(b"z").name) == (beside, f"a~{digest(b'z')[:12]}.dcm")
    again = place(b"y")
    assert (again.name, again.placement) == (beside, "already-there")
    assert place(b"x").name == "a.dcm"


def test_what_lies_there_unknown_to_the_ledger_is_not_overwritten(place, archive):
    put(archive.root / "S1" / "a.dcm", b"a strangers")
    assert place(b"x").name == f"a~{digest(b'x')[:12]}.dcm"
    assert content_of(archive, "S1", "a.dcm") == b"a strangers"


def test_a_name_that_the_ledger_gives_to_other_bytes_is_taken_even_if_its_file_is_missing(place, archive):
    place(b"x")
    (archive.root / "S1" / "a.dcm").unlink()
    assert place(b"y").name == f"a~{digest(b'y')[:12]}.dcm"
    assert place(b"x").name == "a.dcm"


def test_a_file_that_lies_beside_a_stranger_stays_there_when_the_stranger_goes(place, archive):
    put(archive.root / "S1" / "a.dcm", b"a strangers")
    beside = place(b"x").name
    (archive.root / "S1" / "a.dcm").unlink()
    again = place(b"x")
    assert (again.name, again.placement) == (beside, "already-there")
    assert list(tree(archive.root)) == [f"S1/{beside}"]


def test_a_missing_file_is_put_back_under_the_name_that_the_ledger_knows(place, archive):
    place(b"x")
    beside = place(b"y").name
    (archive.root / "S1" / beside).unlink()
    (archive.root / "S1" / "a.dcm").unlink()
    again = place(b"y")
    assert (again.name, again.placement) == (beside, "copied")


@pytest.mark.parametrize("damaged", [b"X", b"", b"xy", b"y"])
def test_a_damaged_file_is_set_aside_with_its_content_and_the_good_one_placed(place, archive, damaged):
    place(b"x")
    put(archive.root / "S1" / "a.dcm", damaged)
    placed = place(b"x")
    assert (placed.name, placed.placement) == ("a.dcm", "copied")
    assert tree(archive.root) == {"S1/a.dcm": b"x", placed.set_aside: damaged}
    assert placed.set_aside.startswith(".ledger/damaged/S1/")


def test_every_damaged_file_of_one_name_is_kept(place, archive):
    place(b"x")
    aside = set()
    for damaged in (b"1", b"2", b"3"):
        put(archive.root / "S1" / "a.dcm", damaged)
        place.position = 7
        aside.add(place(b"x").set_aside)
    assert {(archive.root / name).read_bytes() for name in aside} == {b"1", b"2", b"3"}


@pytest.mark.parametrize("what", ["folder", "link"])
def test_what_took_a_known_name_and_is_no_file_is_set_aside(place, archive, tmp_path, what):
    place(b"x")
    where = archive.root / "S1" / "a.dcm"
    where.unlink()
    (tmp_path / "elsewhere").write_bytes(b"x")
    where.mkdir() if what == "folder" else where.symlink_to(tmp_path / "elsewhere")
    assert place(b"x").set_aside is not None
    assert where.is_file()
    assert not where.is_symlink()


@pytest.mark.timeout(20)
def test_a_fifo_that_took_a_name_does_not_block(place, archive):
    place(b"x")
    where = archive.root / "S1" / "a.dcm"
    where.unlink()
    os.mkfifo(where)
    assert archive.check("S1", "a.dcm", digest(b"x"), 1) is Fixity.CHANGED
    assert place(b"x").set_aside is not None


def test_when_both_names_are_taken_by_other_bytes_it_waits_for_a_person(place, archive):
    put(archive.root / "S1" / "a.dcm", b"1")
    put(archive.root / "S1" / f"a~{digest(b'x')[:12]}.dcm", b"2")
    with pytest.raises(Permanent) as caught:
        place(b"x")
    assert caught.value.code == "archive-name-taken"
    assert sorted(tree(archive.root).values()) == [b"1", b"2"]


@pytest.mark.parametrize("name", ["metadata.json", ".hidden", ".place-1.tmp", "x" * 250 + ".dcm"])
def test_a_name_that_would_clash_is_replaced(place, archive, name):
    placed = place(b"x", name)
    assert placed.name.startswith(digest(b"x")[:12])
    assert list(tree(archive.root)) == [f"S1/{placed.name}"]


def test_what_an_interrupted_attempt_left_is_used_for_nothing(place, archive):
    put(archive.root / "S1" / ".place-1.tmp", b"half")
    place(b"whole")
    assert tree(archive.root) == {"S1/a.dcm": b"whole"}


@pytest.mark.parametrize("mask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(place, archive, mask):
    old = os.umask(mask)
    try:
        place(b"x")
        put(archive.root / "S1" / "a.dcm", b"damaged")
        aside = place(b"x").set_aside
        archive.write_metadata("S1", b"{}")
    finally:
        os.umask(old)
    mode = {name: stat.S_IMODE((archive.root / name).stat().st_mode) for name in ("S1", "S1/a.dcm", "S1/metadata.json")}
    assert mode == {"S1": 0o750, "S1/a.dcm": 0o440, "S1/metadata.json": 0o640}
    folders = [".ledger", ".ledger/damaged", os.path.dirname(aside)]
    assert [stat.S_IMODE((archive.root / name).stat().st_mode) for name in folders] == [0o750] * 3


def test_an_upload_that_grew_while_it_was_open_is_no_file_that_ever_was(uploads, archive):
    path = uploads.root / "growing"
    path.write_bytes(b"x" * 10)
    with uploads.open("growing") as upload:
        with path.open("ab") as file:
            file.write(b"y")
        with pytest.raises(Retryable) as caught:
            place_in(archive, upload, "growing")
    assert (caught.value.code, caught.value.shared) == ("upload-changing", False)
    assert tree(archive.root) == {}


def test_an_upload_that_was_written_over_while_it_was_open_is_not_placed(uploads, archive):
    path = uploads.root / "changing"
    path.write_bytes(b"one")
    with uploads.open("changing") as upload:
        path.write_bytes(b"two")
        os.utime(path, ns=(0, 0))  # a coarse clock might not tell the two writes apart
        with pytest.raises(Retryable, match="upload-changing"):
            place_in(archive, upload, "changing")
    assert tree(archive.root) == {}


def test_an_upload_that_goes_on_growing_does_not_fill_the_archive(uploads, tmp_path):
    path = uploads.root / "growing"
    path.write_bytes(b"x" * 10)
    with small_volume(tmp_path / "small", "1m") as root, uploads.open("growing") as upload:
        os.truncate(path, 64 << 20)
        with pytest.raises(Retryable) as caught:
            place_in(FilesystemArchive(root), upload, "growing")
    assert (caught.value.code, caught.value.shared) == ("upload-changing", False)


def test_an_upload_that_was_cut_while_it_was_open_is_not_placed(uploads, archive):
    path = uploads.root / "cut"
    path.write_bytes(b"x" * 10)
    with uploads.open("cut") as upload:
        os.truncate(path, 3)
        with pytest.raises(Retryable, match="upload-changing"):
            place_in(archive, upload, "cut")
    assert tree(archive.root) == {}


def test_from_another_file_system_it_is_copied_all_the_same(archive):
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    folder = Path("/dev/shm") / f"uploads-of-{os.getpid()}"
    folder.mkdir()
    try:
        if folder.stat().st_dev == archive.root.stat().st_dev:
            pytest.skip("/dev/shm is the same file system as tmp_path")
        (folder / "a.dcm").write_bytes(b"x" * 3_000_000)
        uploads = Uploads(folder)
        with uploads.open("a.dcm") as upload:
            placed = place_in(archive, upload, "a.dcm")
        uploads.remove("a.dcm", upload.identity, 1, settled=False)
        uploads.sync_folders(["a.dcm"])
        assert content_of(archive, "S1", placed.name) == b"x" * 3_000_000
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)


def test_a_full_volume_leaves_no_final_name_and_is_a_shared_cause(uploads, tmp_path):
    (uploads.root / "large").write_bytes(b"x" * (2 << 20))
    with small_volume(tmp_path / "small", "1m") as root:
        archive = FilesystemArchive(root)
        with pytest.raises(Retryable) as caught, uploads.open("large") as upload:
            place_in(archive, upload, "large")
        assert (caught.value.code, caught.value.errno, caught.value.shared) == ("archive-full", errno.ENOSPC, True)
        assert tree(root) == {}
        (root / "ballast").write_bytes(bytes(1 << 20))
        with pytest.raises(Retryable, match="archive-full"):
            archive.write_metadata("S1", b"x" * 10_000)
        assert list(tree(root)) == ["ballast"]
        assert archive.trouble().code == "archive-full"


def test_an_archive_that_is_not_there_is_a_shared_cause_and_is_not_made_up(place, archive):
    archive.root.rmdir()
    for call in (
        lambda: place(b"x"),
        lambda: archive.write_metadata("S1", b"{}"),
        lambda: archive.check("S1", "a.dcm", digest(b"x"), 1),
    ):
        with pytest.raises(Retryable) as caught:
            call()
        assert (caught.value.code, caught.value.shared) == ("archive-missing", True)
    assert archive.trouble().code == "archive-missing"
    assert not archive.root.exists()


@pytest.mark.parametrize("what", ["link", "dangling link", "file"])
def test_a_study_folder_that_is_none_waits_for_a_person_and_nothing_is_written_elsewhere(place, archive, tmp_path, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = archive.root / "S1"
    {
        "link": lambda: folder.symlink_to(outside),
        "dangling link": lambda: folder.symlink_to(outside / "new"),
        "file": lambda: folder.write_bytes(b""),
    }[what]()
    for call in (lambda: place(b"x"), lambda: archive.write_metadata("S1", b"{}")):
        with pytest.raises(Permanent) as caught:
            call()
        assert caught.value.code == "archive-name-taken"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("what", ["link", "file"])
def test_discarding_attempts_in_a_study_folder_that_is_none_does_nothing(archive, tmp_path, what):
    folder = archive.root / "S1"
    folder.symlink_to(tmp_path) if what == "link" else folder.write_bytes(b"x")
    discard_attempts(archive, "S1", 1)
    assert os.path.lexists(folder)


def test_a_study_folder_that_we_may_not_write_into_is_that_studys_trouble_alone(place, archive):
    place(b"x")
    folder = archive.root / "S1"
    with immutable(folder), pytest.raises(Retryable) as caught:
        place(b"y")
    assert caught.value.code == "archive-not-writable"
    assert not caught.value.shared, "one folder with a wrong owner would keep all other studies waiting"


class immutable:  # noqa: N801 - reads as what it does
    """Make the folder immutable, even for root, during the `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        if (
            os.geteuid() != 0
            or shutil.which("chattr") is None
            or subprocess.run(["chattr", "+i", self.folder], capture_output=True, check=False).returncode
        ):
            pytest.skip("chattr +i does not work here")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["chattr", "-i", self.folder], check=True)


# -- durability that a restart must not forget


PLACE_AND_SYNC = """
import sys
from pathlib import Path
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from tests.support.placing import place_in
archive, uploads = FilesystemArchive(Path(sys.argv[1])), Uploads(Path(sys.argv[2]))
with uploads.open("a.dcm") as upload:
    place_in(archive, upload, "a.dcm")
archive.sync_new_folders(())
"""


@pytest.mark.parametrize("folder_was_made", [False, True])
def test_a_study_folder_is_made_durable_also_when_a_killed_process_had_made_it(uploads, archive, tmp_path, folder_was_made):
    (uploads.root / "a.dcm").write_bytes(b"x")
    if folder_was_made:
        (archive.root / "S1").mkdir()
    synced = synced_by(PLACE_AND_SYNC, tmp_path, archive.root, uploads.root)
    assert str(archive.root) in synced
    assert str(archive.root / "S1") in synced


CHECK = """
import hashlib, sys
from pathlib import Path
from storage_ledger.archive.filesystem import FilesystemArchive
print(FilesystemArchive(Path(sys.argv[1])).check("S1", "a.dcm", hashlib.sha256(b"x").hexdigest(), 1))
"""


def test_an_intact_file_that_somebody_else_may_have_put_there_is_made_durable_with_its_name(archive, tmp_path):
    put(archive.root / "S1" / "a.dcm", b"x")
    synced = synced_by(CHECK, tmp_path, archive.root)
    assert str(archive.root / "S1" / "a.dcm") in synced
    assert str(archive.root / "S1") in synced


BATCH = """
import sys
from pathlib import Path
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from tests.support.placing import place_in
archive, uploads = FilesystemArchive(Path(sys.argv[1])), Uploads(Path(sys.argv[2]))
with archive.batch(1) as batch:
    folder = batch.study("S1", known={}, is_ours=lambda _: True)
    for position in range(1, 4):
        with uploads.open("a.dcm") as upload:
            copied = folder.copy(upload, position=position)
        placed = folder.link(copied, f"{position}.dcm")
        with folder.open(placed.name) as file:
            assert file.read() == b"x"
    folder.write_metadata(b"{}")
    batch.sync_names()
archive.sync_new_folders(["S1"])
"""


def test_a_batch_opens_its_study_folder_once_and_the_archive_twice(uploads, archive, tmp_path):
    (uploads.root / "a.dcm").write_bytes(b"x")
    opened = re.findall(r"openat\(.*O_DIRECTORY.* = \d+<([^>]*)>", trace_of("openat", BATCH, tmp_path, archive.root, uploads.root))
    assert (opened.count(str(archive.root / "S1")), opened.count(str(archive.root))) == (1, 2)


def synced_by(program, folder, *arguments) -> list[str]:
    """Return what a program fsyncs."""
    return re.findall(r"fsync\(\d+<([^>]*)>\)\s+= 0", trace_of("fsync", program, folder, *arguments))


def trace_of(calls, program, folder, *arguments) -> str:
    """Return the system calls of a program, from strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", trace, sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return trace.read_text()


# -- metadata


# -- put back


def put_back(uploads, archive, content, *, name="a.dcm", wanted=None, time=0, study_id="S1"):
    """Put back a copy from some folder; `wanted`: the bytes in the ledger, if the copy differs."""
    (uploads.root / "copy").write_bytes(content)
    with uploads.open("copy") as copy:
        sha256 = digest(content if wanted is None else wanted)
        return archive.put_back(copy, study_id, name=name, sha256=sha256, position=7, time=time)


@pytest.mark.parametrize("name", ["a.dcm", ".hidden", "x" * 220, "metadata.json.dcm"])
def test_a_lost_file_is_put_back_under_whatever_name_the_ledger_has_for_it(uploads, archive, name):
    placed = put_back(uploads, archive, b"good", name=name)
    assert (placed.name, placed.bytes, placed.placement, placed.set_aside) == (name, 4, "copied", None)
    assert archive.check("S1", name, digest(b"good"), 4) is Fixity.INTACT
    assert (uploads.root / "copy").read_bytes() == b"good"


def test_a_damaged_file_is_set_aside_when_the_good_one_is_put_back(uploads, archive, place):
    place(b"good")
    os.chmod(archive.root / "S1" / "a.dcm", 0o640)
    (archive.root / "S1" / "a.dcm").write_bytes(b"damaged")
    placed = put_back(uploads, archive, b"good")
    assert content_of(archive, "S1", "a.dcm") == b"good"
    assert (archive.root / placed.set_aside).read_bytes() == b"damaged"
    assert stat.S_IMODE((archive.root / "S1" / "a.dcm").stat().st_mode) == 0o440


def test_an_intact_file_is_not_touched_by_putting_it_back(uploads, archive, place):
    place(b"good")
    before = (archive.root / "S1" / "a.dcm").stat()
    assert put_back(uploads, archive, b"good").placement == "already-there"
    assert (archive.root / "S1" / "a.dcm").stat().st_ino == before.st_ino


def test_a_copy_that_has_other_bytes_by_now_is_not_put_back(uploads, archive):
    with pytest.raises(Retryable) as raised:
        put_back(uploads, archive, b"other", wanted=b"good")
    assert raised.value.code == "upload-changing"
    assert os.listdir(archive.root / "S1") == []


def test_what_was_put_back_is_marked_until_that_is_taken_away(uploads, archive):
    put_back(uploads, archive, b"good")
    assert archive.is_marked("S1", "a.dcm", 0)
    assert not archive.is_marked("S1", "a.dcm", 1), "another time"
    assert not archive.is_marked("S1", "b.dcm", 0)
    assert not archive.is_marked("S2", "a.dcm", 0)
    put_back(uploads, archive, b"good")  # again, by a run that found the marker
    for _ in range(2):
        archive.unmark("S1", "a.dcm", 0)
    assert not archive.is_marked("S1", "a.dcm", 0)
    assert os.listdir(archive.root / "S1") == ["a.dcm"]
    archive.unmark("S2", "a.dcm", 0)
    assert os.listdir(archive.root) == ["S1"]


def test_metadata_is_replaced_whole_and_writing_it_again_touches_nothing(archive):
    path = archive.root / "S1" / "metadata.json"
    archive.write_metadata("S1", b'{"n": 1}')
    archive.write_metadata("S1", b'{"n": 2}')
    before = path.stat()
    archive.write_metadata("S1", b'{"n": 2}')
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert tree(archive.root) == {"S1/metadata.json": b'{"n": 2}'}


def test_a_reader_keeps_the_old_metadata_while_the_new_is_written(archive):
    archive.write_metadata("S1", b"old")
    with archive.open("S1", "metadata.json") as file:
        archive.write_metadata("S1", b"new!")
        assert file.read() == b"old"


def test_metadata_that_is_a_link_is_replaced_and_not_followed(archive, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (archive.root / "S1").mkdir()
    (archive.root / "S1" / "metadata.json").symlink_to(tmp_path / "elsewhere")
    archive.write_metadata("S1", b"{}")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (archive.root / "S1" / "metadata.json").is_symlink()


def test_a_folder_in_the_place_of_metadata_is_set_aside_with_all_that_is_in_it(archive):
    (archive.root / "S1").mkdir()
    put(archive.root / "S1" / "metadata.json" / "somebody's", b"mine")
    archive.write_metadata("S1", b"{}")
    assert tree(archive.root) == {"S1/metadata.json": b"{}", ".ledger/damaged/S1/0-metadata.json/somebody's": b"mine"}
    (archive.root / "S1" / "metadata.json").unlink()
    (archive.root / "S1" / "metadata.json").mkdir()
    archive.write_metadata("S1", b"{}")
    assert sorted(os.listdir(archive.root / ".ledger" / "damaged" / "S1")) == ["0-metadata.json", "0-metadata.json.1"]
    assert (archive.root / "S1" / "metadata.json").read_bytes() == b"{}"


def test_metadata_that_an_interrupted_write_left_is_used_for_nothing(archive):
    put(archive.root / "S1" / ".metadata.json.tmp", b"half")
    archive.write_metadata("S1", b"whole")
    assert tree(archive.root) == {"S1/metadata.json": b"whole"}


# -- check, open, forget


def test_check_tells_intact_from_changed_from_missing(place, archive):
    place(b"content")
    sha256, size = digest(b"content"), 7
    assert archive.check("S1", "a.dcm", sha256, size) is Fixity.INTACT
    assert archive.check("S1", "b.dcm", sha256, size) is Fixity.MISSING
    assert archive.check("S2", "a.dcm", sha256, size) is Fixity.MISSING
    for damaged in (b"Content", b"conten", b"content!", b""):
        put(archive.root / "S1" / "a.dcm", damaged)
        assert archive.check("S1", "a.dcm", sha256, size) is Fixity.CHANGED
    (archive.root / "S1" / "a.dcm").unlink()
    (archive.root / "S1" / "a.dcm").mkdir()
    assert archive.check("S1", "a.dcm", sha256, size) is Fixity.CHANGED


def test_a_link_to_the_right_bytes_is_not_intact(place, archive, tmp_path):
    place(b"x")
    (archive.root / "S1" / "a.dcm").rename(tmp_path / "moved")
    (archive.root / "S1" / "a.dcm").symlink_to(tmp_path / "moved")
    assert archive.check("S1", "a.dcm", digest(b"x"), 1) is Fixity.CHANGED


def test_open_does_not_follow_a_link(archive, tmp_path):
    (archive.root / "S1").mkdir()
    (archive.root / "S1" / "a.dcm").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(Retryable), archive.open("S1", "a.dcm"):
        pass


def test_discarding_attempts_leaves_nothing_of_an_attempt_that_came_to_nothing(archive):
    put(archive.root / "S1" / ".place-7.tmp", b"half")
    for _ in range(2):
        discard_attempts(archive, "S1", 7)
        assert list(archive.root.iterdir()) == []


def test_discarding_attempts_leaves_what_is_kept_and_what_others_are_at(place, archive):
    place(b"x")
    put(archive.root / "S1" / ".place-8.tmp", b"others")
    discard_attempts(archive, "S1", 7)
    assert tree(archive.root) == {"S1/a.dcm": b"x", "S1/.place-8.tmp": b"others"}


def test_syncing_new_folders_twice_or_when_there_are_none_is_fine(place, archive):
    archive.sync_new_folders(())
    place(b"x")
    archive.sync_new_folders(())
    archive.sync_new_folders(())


def test_an_archive_without_trouble_says_none(archive):
    assert archive.trouble() is None


# -- what an upload may be


def refused(uploads, path: str) -> str:
    with pytest.raises((Permanent, Retryable)) as caught, uploads.open(path):
        pass
    return f"{type(caught.value).__name__} {caught.value.code}"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link inside", "link outside", "dangling link", "folder", "fifo", "socket", "device"])
def test_what_is_no_regular_file_waits_for_a_person_and_is_not_opened(uploads, tmp_path, kind, monkeypatch):
    path = uploads.root / "odd.dcm"
    (uploads.root / "good.dcm").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"x")
    monkeypatch.chdir(uploads.root)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            {
                "link inside": lambda: path.symlink_to("good.dcm"),
                "link outside": lambda: path.symlink_to(tmp_path / "outside"),
                "dangling link": lambda: path.symlink_to("nothing"),
                "folder": path.mkdir,
                "fifo": lambda: os.mkfifo(path),
                "socket": lambda: listener.bind("odd.dcm"),
                "device": lambda: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
            }[kind]()
        except PermissionError:
            pytest.skip(f"making a {kind} takes root")
        assert refused(uploads, "odd.dcm") == f"Permanent upload-is-{kind.split()[0] if 'dangling' not in kind else 'link'}"
        assert uploads.identity_of("odd.dcm") is None


@pytest.mark.parametrize("target", ["inside", "outside"])
def test_a_folder_on_the_way_that_is_a_link_is_refused(uploads, tmp_path, target):
    real = {"inside": uploads.root / "real", "outside": tmp_path / "outside"}[target]
    real.mkdir()
    (real / "a.dcm").write_bytes(b"x")
    (uploads.root / "sub").symlink_to(real)
    assert refused(uploads, "sub/a.dcm") == "Permanent upload-is-link"
    assert uploads.identity_of("sub/a.dcm") is None
    with pytest.raises(Permanent):
        uploads.remove("sub/a.dcm", FileIdentity.of((real / "a.dcm").stat()), 1, settled=True)
    assert (real / "a.dcm").exists()


@pytest.mark.timeout(20)
def test_a_fifo_on_the_way_does_not_block(uploads):
    os.mkfifo(uploads.root / "sub")
    assert refused(uploads, "sub/a.dcm") == "Retryable upload-missing"


@pytest.mark.parametrize("path", ["no.dcm", "no/such/folder/a.dcm", "file/a.dcm"])
def test_what_is_missing_may_yet_come(uploads, path):
    (uploads.root / "file").write_bytes(b"")
    assert refused(uploads, path) == "Retryable upload-missing"
    assert uploads.identity_of(path) is None
    uploads.sync_folders([path])


@pytest.mark.parametrize("path", ["x" * 300, "x" * 300 + "/a.dcm"])
def test_a_name_that_cannot_exist_waits_for_a_person(uploads, path):
    assert refused(uploads, path) == "Permanent upload-name-too-long"


def test_a_path_of_very_many_folders_is_just_missing(uploads):
    assert refused(uploads, "a/" * 100_000 + "b") == "Retryable upload-missing"


def test_without_uploads_path_the_cause_is_shared(uploads):
    uploads.root.rmdir()
    with pytest.raises(Retryable) as caught, uploads.open("a.dcm"):
        pass
    assert (caught.value.code, caught.value.shared) == ("uploads-missing", True)
    with pytest.raises(Retryable):
        uploads.identity_of("a.dcm")


def test_uploads_path_itself_may_be_a_link(uploads, tmp_path):
    (uploads.root / "a.dcm").write_bytes(b"x")
    (tmp_path / "link").symlink_to("uploads")
    with Uploads(tmp_path / "link").open("a.dcm") as upload:
        assert upload.size == 1


UNREADABLE = """
import os, sys
from pathlib import Path
from storage_ledger.archive.uploads import Uploads
from storage_ledger.errors import Retryable
root = os.open(sys.argv[1], os.O_RDONLY)
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
uploads = Uploads(Path(f"/proc/self/fd/{root}"))
for name in ("closed.dcm", "closed/a.dcm"):
    try:
        with uploads.open(name):
            print("opened")
    except Retryable as error:
        print(error.code, error.shared)
try:
    uploads.remove("foreign.dcm", uploads.identity_of("foreign.dcm"), 1, settled=True)
except Retryable as error:
    print(error.code, error.shared)
"""


def test_what_we_may_not_read_or_remove_is_tried_again(uploads):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    (uploads.root / "closed.dcm").write_bytes(b"x")
    (uploads.root / "closed.dcm").chmod(0)
    (uploads.root / "foreign.dcm").write_bytes(b"x")
    (uploads.root / "closed").mkdir(mode=0)
    uploads.root.chmod(0o555)
    done = subprocess.run([sys.executable, "-c", UNREADABLE, uploads.root], capture_output=True, text=True, check=False)
    uploads.root.chmod(0o755)
    assert done.stdout.splitlines() == ["upload-unreadable False", "upload-unreadable False", "upload-not-removable True"], done.stderr
    assert (uploads.root / "foreign.dcm").exists()


def test_a_write_or_a_replacement_changes_the_identity(uploads):
    path = uploads.root / "a.dcm"
    path.write_bytes(b"one")
    first = uploads.identity_of("a.dcm")
    assert first == uploads.identity_of("a.dcm") == FileIdentity.of(path.stat())
    with path.open("ab") as file:
        file.write(b"more")
    second = uploads.identity_of("a.dcm")
    (uploads.root / "new").write_bytes(b"onemore")
    (uploads.root / "new").rename(path)
    third = uploads.identity_of("a.dcm")
    os.utime(path, ns=(0, 0))
    assert len({first, second, third, uploads.identity_of("a.dcm")}) == 4


def test_what_somebody_has_open_for_writing_is_not_removed_nor_what_was_written_to_since(uploads):
    path = uploads.root / "a.dcm"
    path.write_bytes(b"x")
    identity = uploads.identity_of("a.dcm")
    with path.open("rb"), path.open("ab") as writer:
        assert removing(uploads, identity) == "upload-changing"
        writer.write(b"and this")
    assert removing(uploads, identity) == "upload-changing"
    assert path.read_bytes() == b"xand this"
    assert removing(uploads, uploads.identity_of("a.dcm")) is None
    assert not path.exists()


def removing(uploads: Uploads, identity: FileIdentity) -> str | None:
    try:
        uploads.remove("a.dcm", identity, 1, settled=False)
    except Retryable as error:
        return error.code
    return None


def test_removing_twice_does_nothing_more(uploads):
    (uploads.root / "sub").mkdir()
    (uploads.root / "sub" / "a.dcm").write_bytes(b"x")
    identity = uploads.identity_of("sub/a.dcm")
    for _ in range(2):
        uploads.remove("sub/a.dcm", identity, 1, settled=False)
        uploads.sync_folders(["sub/a.dcm", "sub/b.dcm", "c.dcm"])
    assert list((uploads.root / "sub").iterdir()) == []
    (uploads.root / "sub").rmdir()
    uploads.sync_folders(["sub/a.dcm"])
