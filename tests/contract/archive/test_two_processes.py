"""Several processes on one archive: no torn file and no good file removed, even if one is stopped, killed or gets an error."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage_ledger.archive.contract import Fixity
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.domain.paths import is_attempt
from storage_ledger.errors import Retryable
from tests.contract.archive.test_archive import digest, discard_attempts, put, tree
from tests.support.placing import place_in, study_of


@pytest.fixture
def root(tmp_path):
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"


@pytest.fixture
def uploads(tmp_path):
    (tmp_path / "uploads").mkdir()
    return Uploads(tmp_path / "uploads")


@pytest.fixture
def one(root):
    return FilesystemArchive(root, worker="one")


@pytest.fixture
def two(root):
    return FilesystemArchive(root, worker="two")


def place(archive, uploads, content=b"x", *, name="a.dcm", owned=None, position=41, beat=lambda: None):
    if not (uploads.root / name).exists():
        (uploads.root / name).write_bytes(content)
    with uploads.open(name, beat) as upload:
        return place_in(archive, upload, name, known=owned, position=position)


# -- temporary names


def test_temporary_names_carry_the_position_the_worker_and_an_epoch(one, uploads, root):
    seen = set()
    for _ in range(2):
        place(one, uploads, beat=lambda: seen.update(name for name in os.listdir(root / "S1") if name != "a.dcm"))
    assert len(seen) == 2
    assert all(re.fullmatch(r"\.place-41-one-[0-9]+\.tmp", name) and is_attempt(name, 41) for name in seen)


def test_each_process_has_a_name_of_its_own(root, uploads):
    seen = set()
    for _ in range(2):
        place(FilesystemArchive(root), uploads, beat=lambda: seen.update(name for name in os.listdir(root / "S1") if is_attempt(name)))
    assert len({name.split("-")[2] for name in seen}) == 2


@pytest.mark.parametrize("worker", ["a/b", "..", "a-1", "a.b", "x" * 33, "a\n", "é"])
def test_a_worker_whose_name_cannot_stand_in_a_file_name_is_refused(root, uploads, worker):
    with pytest.raises(ValueError, match="letters and digits"):
        place(FilesystemArchive(root, worker=worker), uploads)
    assert tree(root) == {}


def test_a_copy_whose_file_another_process_took_away_is_tried_again_and_never_linked(one, two, uploads, root):
    """The other process mistakes the file for a killed process's. The first one then links its own complete file, or nothing."""
    others = []

    def at_once():
        if not others:
            others.append(place(two, uploads).placement)

    with pytest.raises(Retryable) as caught:
        place(one, uploads, beat=at_once)
    assert (caught.value.code, caught.value.errno, caught.value.shared) == ("archive-error", errno.ENOENT, False)
    assert tree(root) == {"S1/a.dcm": b"x"}
    assert (others, place(one, uploads).placement) == (["copied"], "already-there")


def test_a_process_leaves_its_own_files_alone_that_another_thread_writes(one, uploads, root):
    """As when a hung thread continues."""
    others = []

    def at_once():
        if not others:
            others.append("")
            others[0] = place(one, uploads, b"y", name="b.dcm", position=42).placement

    assert place(one, uploads, beat=at_once).placement == "copied"
    assert (others, tree(root)) == (["copied"], {"S1/a.dcm": b"x", "S1/b.dcm": b"y"})


LEFT = [".place-7.tmp", ".place-7-dead-3.tmp", ".metadata.json.tmp", ".metadata-dead-4.tmp", ".renew.tmp", ".renew-dead-9.tmp"]


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_process_left_goes_when_the_study_is_next_written(one, uploads, root, name, when):
    """`after`: this process used the folder before the other one was killed in it, and takes over its work."""
    if when == "after":
        place(one, uploads, b"earlier", name="e.dcm")
    put(root / "S1" / name, b"half")
    place(one, uploads)
    assert [each for each in os.listdir(root / "S1") if each.startswith(".")] == []
    put(root / "S1" / name, b"half")
    one.write_metadata("S1", b"{}")
    assert [each for each in os.listdir(root / "S1") if each.startswith(".")] == []


def test_names_that_only_look_like_temporary_ones_stay(one, uploads, root):
    kept = [".place-x.tmp", ".place-1.tmp.bak", "place-1.tmp", ".other.tmp", ".restore-0-0123456789abcdef.tmp", "metadata.json.tmp"]
    for name in kept:
        put(root / "S1" / name, b"not ours")
    place(one, uploads)
    assert sorted(tree(root)) == sorted([*(f"S1/{name}" for name in kept), "S1/a.dcm"])


def test_discarding_attempts_takes_the_files_of_that_position_whichever_process_left_them(one, root):
    for name in (".place-7.tmp", ".place-7-dead-3.tmp", ".place-77-dead-3.tmp"):
        put(root / "S1" / name, b"half")
    discard_attempts(one, "S1", 7)
    assert os.listdir(root / "S1") == [".place-77-dead-3.tmp"]
    discard_attempts(one, "S1", 77)
    assert os.listdir(root) == []


MANY = """
archive, uploads = FilesystemArchive(root), Uploads(root.parent / "uploads")
for n in range(40):
    with uploads.open("a.dcm") as upload:
        place_in(archive, upload, f"{n}.dcm", position=n + 1)
    archive.write_metadata("S1", b"%d" % n)
"""


def test_a_study_of_many_files_is_listed_once_and_not_for_each_file(uploads, root, tmp_path):
    (uploads.root / "a.dcm").write_bytes(b"x")
    run = under_strace(MANY, tmp_path, root, "getdents64")
    assert len(os.listdir(root / "S1")) == 41
    assert 1 <= sum(str(root / "S1") in call for call in run.calls) <= 4


# -- damage


def test_evidence_is_kept_before_the_good_file_takes_the_name_in_one_step(uploads, root, tmp_path):
    run = under_strace(DAMAGED, tmp_path, damaged_in(root, uploads), "link,linkat,rename,renameat,renameat2,unlink,unlinkat,fsync")
    final, aside = str(root / "S1"), str(root / ".ledger/damaged/S1")
    steps = [call for call in run.calls if '"a.dcm"' in call or (aside in call and ("link" in call or "fsync" in call))]
    kinds = ["evidence" if aside in call and "link" in call else "fsync" if "fsync" in call else call.split("(")[0] for call in steps]
    assert [kind.removesuffix("2") for kind in kinds] == ["linkat", "linkat", "evidence", "fsync", "renameat"], steps
    assert steps[0].endswith("= -1 EEXIST (File exists)")
    assert "place-41-" in steps[1].split(",")[3], "judged under a temporary name, which the next attempt removes if this one is killed"
    assert steps[-1].count(final) == 2, "from a temporary name in the same folder"
    assert '"a.dcm"' not in steps[-1].split(",")[1], "the name itself is not moved"
    assert tree(root) == {"S1/a.dcm": b"good", ".ledger/damaged/S1/41-a.dcm": b"damaged"}


@pytest.mark.parametrize("fault", ["signal=SIGKILL", "error=EIO"])
@pytest.mark.parametrize("call", ["linkat", "renameat", "unlinkat", "fsync"])
def test_a_damaged_file_keeps_its_name_and_its_evidence_whichever_call_is_the_last_or_fails(uploads, root, tmp_path, call, fault):
    met = 0
    for number in range(1, 12):
        shutil.rmtree(root)
        root.mkdir()
        damaged_in(root, uploads)
        run = under_strace(DAMAGED, tmp_path, root, call, inject=f"{call}:{fault}:when={number}", check=False)
        if not run.met:
            break
        met += 1
        there = (root / "S1" / "a.dcm").read_bytes()
        aside = [path.read_bytes() for path in root.glob(".ledger/damaged/S1/*")]
        assert there in {b"good", b"damaged"}
        assert (there, aside) != (b"good", []), "evidence"
        assert all(each == b"damaged" for each in aside)
        if fault == "error=EIO" and there == b"damaged":
            assert aside == [], "an attempt that failed keeps no evidence: there would be one for each"
        under_strace(DAMAGED, tmp_path, root, call)
        found = tree(root)
        assert found.pop("S1/a.dcm") == b"good"
        assert set(found.values()) == {b"damaged"}
        assert all(name.startswith(".ledger/damaged/S1/") for name in found)
    assert met >= 1


def test_what_turns_out_to_be_good_is_no_evidence(one, root, tmp_path):
    """Another process writes metadata.json between its check and the link that keeps it."""
    put(root / "S1" / "metadata.json", b"a strangers")
    asked = []

    def ours(data):
        asked.append(data)
        assert not (root / ".ledger" / "damaged" / "S1").exists(), "killed now, this one would leave it"
        if len(asked) == 1:
            (tmp_path / "theirs").write_bytes(b"{}")
            (tmp_path / "theirs").replace(root / "S1" / "metadata.json")
        return data == b"{}"

    with study_of(one, is_ours=ours) as folder:
        folder.write_metadata(b"{}")
    assert tree(root) == {"S1/metadata.json": b"{}"}
    assert asked[0] == b"a strangers"


OTHERS = """
os.setgid(65534)
os.setuid(65534)
""" + (
    DAMAGED := """
archive, uploads = FilesystemArchive(root), Uploads(root.parent / "uploads")
owned = {"a.dcm": hashlib.sha256(b"good").hexdigest()}
with uploads.open("good") as upload:
    placed = place_in(archive, upload, "a.dcm", known=owned, position=41)
print(placed.placement, placed.set_aside)
"""
)


def damaged_in(root, uploads):
    put(root / "S1" / "a.dcm", b"damaged")
    (uploads.root / "good").write_bytes(b"good")
    return root


def test_another_users_file_that_may_not_be_linked_is_moved_as_evidence(uploads, root):
    """As when root puts a file back from a backup: with protected_hardlinks the kernel lets no other user link it."""
    if os.geteuid() != 0:
        pytest.skip("a file of another user takes root")
    damaged_in(root, uploads)
    for path in (root, root / "S1"):
        os.chown(path, 65534, 65534)
    os.chmod(root / "S1" / "a.dcm", 0o644)
    os.chmod(uploads.root, 0o755)  # noqa: S103 - whatever umask an earlier test has left
    os.chmod(uploads.root / "good", 0o644)
    descriptors = [os.open(path, os.O_RDONLY) for path in (root, uploads.root)]  # pytest's folder is closed to others
    at, from_ = (f"/proc/self/fd/{each}" for each in descriptors)
    text = BEGINNING + OTHERS.replace('root.parent / "uploads"', f'Path("{from_}")')
    done = subprocess.run([sys.executable, "-c", text, at], capture_output=True, text=True, check=False, pass_fds=descriptors)
    for each in descriptors:
        os.close(each)
    assert done.stdout.split() == ["copied", ".ledger/damaged/S1/41-a.dcm"], done.stderr
    assert tree(root) == {"S1/a.dcm": b"good", ".ledger/damaged/S1/41-a.dcm": b"damaged"}


# -- an fsync that fails


PLACED = """
archive, uploads = FilesystemArchive(root), Uploads(root.parent / "uploads")
for attempt in range(4):
    try:
        with uploads.open("good") as upload:
            print(place_in(archive, upload, "a.dcm", known=%s, position=41).placement)
        break
    except Retryable as error:
        print(error.code, error.shared, os.path.exists(root / "S1" / "a.dcm"))
"""
FIRST, AGAIN = PLACED % "{}", PLACED % '{"a.dcm": hashlib.sha256(b"good").hexdigest()}'


@pytest.mark.parametrize("program", [FIRST, AGAIN], ids=["new", "missing"])
@pytest.mark.parametrize("when", ["2", "2..3", "2..4"], ids=["once", "and the copy that replaces it fails too", "and the next one"])
def test_a_name_stays_when_the_fsync_of_its_folder_fails_since_another_process_may_have_recorded_it(uploads, root, tmp_path, program, when):
    (uploads.root / "good").write_bytes(b"good")
    run = under_strace(
        program, tmp_path, root, "fsync,link,linkat,rename,renameat,unlink,unlinkat,openat", inject=f"fsync:error=EIO:when={when}"
    )
    *failed, last = run.output
    assert failed
    assert failed[0] == "archive-io False True"
    assert last == "already-there"
    assert not [call for call in run.calls if call.startswith("unlink") and '"a.dcm"' in call]
    synced = [n for n, call in enumerate(run.calls) if call.startswith("fsync") and str(root / "S1>") in call]
    again = [n for n, call in enumerate(run.calls) if call.startswith("rename") and '"a.dcm"' in call]
    assert synced[0] < again[-1] < synced[-1], "the name was put again before its folder was fsynced again"
    assert tree(root) == {"S1/a.dcm": b"good"}


LOST = """
one, two, uploads = FilesystemArchive(root), FilesystemArchive(root), Uploads(root.parent / "uploads")
def place(archive, position, owned):
    with uploads.open("good") as upload:
        return place_in(archive, upload, "a.dcm", known=owned, position=position)
place(one, 1, {})
one.write_metadata("S1", b"{}")
if %(others)s is not None:
    placed = place(two, 1, %(others)s)
    two.write_metadata("S1", b"{}")
    two.sync_new_folders(["S1"])
print("recorded")
os.write(2, b"")
try:
    one.sync_new_folders(["S1"])
    print("settled")
except Retryable as error:
    print(error.code, os.path.exists(root / "S1" / "a.dcm"))
print(sorted(one.sync_new_folders(["S1"])))
"""


OWNED = '{"a.dcm": hashlib.sha256(b"good").hexdigest()}'


@pytest.mark.parametrize("others", [None, "{}", OWNED], ids=["nobody", "another", "another, which the ledger gave the name before"])
def test_a_new_folder_whose_fsync_failed_is_taken_away_only_if_nobody_else_has_a_file_in_it(uploads, root, tmp_path, others):
    (uploads.root / "good").write_bytes(b"good")
    run = under_strace(LOST % {"others": others}, tmp_path, root, "fsync")
    roots = [n for n, call in enumerate(run.calls, 1) if f"<{root}>" in call]
    shutil.rmtree(root)
    root.mkdir()
    number = roots[1 if others else 0]
    run = under_strace(LOST % {"others": others}, tmp_path, root, "fsync", inject=f"fsync:error=EIO:when={number}")
    assert run.output[:2] == ["recorded", f"archive-io {others is not None}"]
    assert tree(root) == ({"S1/a.dcm": b"good", "S1/metadata.json": b"{}"} if others else {})


def test_the_root_is_fsynced_by_a_descriptor_that_is_older_than_the_new_folder(uploads, root, tmp_path):
    (uploads.root / "good").write_bytes(b"good")
    run = under_strace(FIRST + "archive.sync_new_folders(['S1'])", tmp_path, root, "openat,mkdir,mkdirat,fcntl,dup,fsync")
    made = next(n for n, call in enumerate(run.calls) if call.startswith("mkdir"))
    last = next(call for call in run.calls if call.startswith("fsync") and f"<{root}>" in call)
    descriptor = re.match(r"fsync\((\d+)<", last)[1]
    copied = [call for call in run.calls if call.startswith(("fcntl", "dup")) and re.search(rf"= {descriptor}<", call)]
    source = re.search(r"\((\d+)<", copied[-1])[1]
    opened = [n for n, call in enumerate(run.calls) if call.startswith("openat") and re.search(rf"= {source}<{root}>", call)]
    assert min(opened) < made


RENEWED = """
archive = FilesystemArchive(root)
print(archive.check("S1", "metadata.json", hashlib.sha256(b"{}").hexdigest(), 2))
"""


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_copied_again_because_its_fsync_failed_keeps_its_mode(one, uploads, root, tmp_path, number):
    place(one, uploads)
    one.write_metadata("S1", b"{}")
    before = os.stat(root / "S1" / "metadata.json").st_ino
    under_strace(RENEWED, tmp_path, root, "fsync", inject=f"fsync:error=EIO:when={number}", check=number == 1)
    assert os.stat(root / "S1" / "metadata.json").st_ino != before
    modes = {name: stat.S_IMODE(os.stat(root / "S1" / name).st_mode) for name in ("a.dcm", "metadata.json")}
    assert modes == {"a.dcm": 0o440, "metadata.json": 0o640}
    assert one.check("S1", "metadata.json", digest(b"{}"), 2) is Fixity.INTACT


def test_a_copy_that_was_taken_away_while_a_file_was_checked_does_not_make_the_file_missing(one, uploads, root, tmp_path):
    place(one, uploads)
    one.write_metadata("S1", b"{}")
    calls = "fsync,rename,renameat,renameat2"
    run = under_strace(RENEWED, tmp_path, root, calls, inject="fsync:error=EIO:when=1", check=False)
    assert run.output == ["intact"]
    taken_away = "renameat:error=ENOENT:when=1"  # as after another process's unlink
    run = under_strace(RENEWED, tmp_path, root, calls, inject=["fsync:error=EIO:when=1", taken_away], check=False)
    assert run.output == []
    assert "archive-error" in run.errors


def test_a_volume_that_cannot_even_be_asked_is_trouble_and_no_crash(root, tmp_path):
    run = under_strace("print(FilesystemArchive(root).trouble().code)", tmp_path, root, "fstatfs", inject="fstatfs:error=EIO")
    assert run.output == ["archive-io"]


# -- a volume without fsync


@pytest.mark.parametrize("code", ["EINVAL", "EOPNOTSUPP", "ENOSYS"])
@pytest.mark.parametrize("number", [1, 2], ids=["of files", "of folders"])
def test_a_volume_without_fsync_is_an_outage_of_its_own(uploads, root, tmp_path, code, number):
    (uploads.root / "good").write_bytes(b"good")
    run = under_strace(FIRST, tmp_path, root, "fsync", inject=f"fsync:error={code}:when={number}+{2 if number == 2 else 1}")
    assert {line.rpartition(" ")[0] for line in run.output} == {"archive-no-fsync True"}
    assert (uploads.root / "good").read_bytes() == b"good"
    assert [path for path in root.rglob("*") if is_attempt(path.name)] == []


# -- how


BEGINNING = """
import hashlib, os, sys
from pathlib import Path
from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.archive.uploads import Uploads
from storage_ledger.errors import Retryable
from tests.support.placing import place_in
root = Path(sys.argv[1])
"""


class Run:
    """The output of a program, and its calls on the archive, in order."""

    def __init__(self, output: str, errors: str, trace: str, root: Path) -> None:
        self.output = output.splitlines()
        self.errors = errors
        self.calls = [re.sub(r"\s+=", " =", line.split(maxsplit=1)[1]) for line in trace.splitlines() if str(root) in line]
        self.met = "(INJECTED)" in trace or "killed by SIGKILL" in trace


def under_strace(text: str, folder: Path, root: Path, calls: str, *, inject: str | Sequence[str] = (), check: bool = True) -> Run:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = folder / "trace"
    only = ",".join(f"?{name}" for name in calls.split(","))
    faults = [each for fault in ([inject] if isinstance(inject, str) else inject) for each in ("-e", f"inject={fault}")]
    command = ["strace", "-f", "-y", "-e", f"trace={only}", *faults, "-o", trace]
    done = subprocess.run([*command, sys.executable, "-c", BEGINNING + text, root], capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert not check or done.returncode == 0, done.stderr
    return Run(done.stdout, done.stderr, trace.read_text(), root)
