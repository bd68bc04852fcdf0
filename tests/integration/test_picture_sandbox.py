"""Code in an image worker, as a decoder's bug would run it, tries to reach what the worker does not need."""

from __future__ import annotations

import asyncio
import io
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest

from storage_ledger.system import sandbox
from storage_ledger.system.sandbox import LANDLOCK, SECCOMP, hide_memory
from storage_ledger.web.files.pictures import LENGTHS, MAX_ANSWER_BYTES, Rendered, RenderRequest, Unavailable, worker
from storage_ledger.web.files.pictures.pool import Pool, _receive
from tests.support.as_user import as_user
from tests.support.dicom import make_file, testdata_files

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

# What runs in place of a decoder. A try that raises nothing has succeeded.
PROGRAM = r"""
import ctypes, json, mmap, os, resource, socket, sys, threading
from storage_ledger.system import sandbox
from storage_ledger.web.files.pictures import Rendered, worker

without, folder, parent, port = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": (101, 310, 319, 425, 434, 321, 298), "aarch64": (117, 270, 279, 425, 434, 280, 241)}[os.uname().machine]
PTRACE, READ_OTHER, MEMFD, URING, PIDFD, BPF, PERF = NUMBERS


def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def number(n, *arguments):
    call(libc.syscall, n, *arguments)


def write_by_mmap(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[0:1] = b"!"


def connect(family, address):
    with socket.socket(family) as s:
        s.connect(address)


def child():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def program():
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def thread():
    t = threading.Thread(target=int)
    t.start()
    t.join()


def executable_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def made_executable():
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
    call(libc.mprotect, ctypes.c_void_p(address), ctypes.c_size_t(4096), 7)


def memory_of_parent():
    local, remote, buffer = (ctypes.c_size_t * 2)(), (ctypes.c_size_t * 2)(), ctypes.create_string_buffer(8)
    start = int(open(f"/proc/{parent}/maps").readline().split("-")[0], 16)
    local[0], local[1], remote[0], remote[1] = ctypes.addressof(buffer), 8, start, 8
    number(READ_OTHER, parent, local, 1, remote, 1, 0)


def tries(file):
    given = file.fileno()
    return {
        "read the cookie secret": lambda: open(f"{folder}/browse-secret").read(),
        "read the ledger": lambda: open(f"{folder}/ledger.db", "rb").read(),
        "open the ledger for writing": lambda: os.close(os.open(f"{folder}/ledger.db", os.O_RDWR)),
        "change the ledger by mmap": lambda: write_by_mmap(f"{folder}/ledger.db"),
        "truncate the ledger": lambda: os.truncate(f"{folder}/ledger.db", 1),
        "rename the ledger": lambda: os.rename(f"{folder}/ledger.db", f"{folder}/x"),
        "create a file": lambda: os.close(os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY)),
        "remove a file": lambda: os.unlink(f"{folder}/remove-me"),
        "make a folder": lambda: os.mkdir(f"{folder}/folder"),
        "link a file": lambda: os.link(f"{folder}/browse-secret", f"{folder}/linked"),
        "make a symbolic link": lambda: os.symlink("/etc/passwd", f"{folder}/symlink"),
        "change a mode": lambda: os.chmod(f"{folder}/browse-secret", 0o644),
        "change an owner": lambda: os.chown(f"{folder}/browse-secret", os.getuid(), -1),
        "list a folder": lambda: os.listdir(folder),
        "see whether a file exists": lambda: os.stat(f"{folder}/browse-secret"),
        "read the parent's environment": lambda: open(f"/proc/{parent}/environ", "rb").read(),
        "open the parent's memory": lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDWR)),
        "read the parent's memory": memory_of_parent,
        "trace the parent": lambda: (number(PTRACE, 0x4206, parent, 0, 0), number(PTRACE, 17, parent, 0, 0)),
        "send the parent a signal": lambda: os.kill(parent, 0),
        "take hold of the parent": lambda: number(PIDFD, parent, 0),
        "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
        "connect over TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "connect to a Unix socket": lambda: connect(socket.AF_UNIX, f"{folder}/socket"),
        "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "make a socket": lambda: socket.socket().close(),
        "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)),
        "start a program": program,
        "fork": child,
        "start a thread": thread,
        "map memory that can be executed": executable_memory,
        "make memory executable": made_executable,
        "make a file in memory": lambda: number(MEMFD, b"x", 0),
        "io_uring": lambda: number(URING, 1, ctypes.create_string_buffer(120)),
        "change the mode of the file it was sent": lambda: os.fchmod(given, 0o600),
        "open the file it was sent for writing": lambda: os.close(os.open(f"/proc/self/fd/{given}", os.O_RDWR)),
        "move to another folder": lambda: os.chdir(folder),
        "ask for the host's name": lambda: os.uname(),
        "change its priority": lambda: os.nice(0),
    }


def attack(request, file):
    told = {}
    for what, do in tries(file).items():
        try:
            do()
        except (OSError, RuntimeError) as error:
            told[what] = type(error).__name__
        else:
            told[what] = "done"
    return Rendered("json", json.dumps(told).encode())


for each in without:
    if each:
        setattr(sandbox, f"_{each}", lambda: False)
worker._make = attack
worker.main()
"""


@contextmanager
def hostile_worker(folder: Path, *without: str) -> Iterator[tuple[frozenset[str], dict[str, str]]]:
    """Yield what confines the worker, and what became of each try."""
    (folder / "browse-secret").write_text("secret")
    (folder / "ledger.db").write_bytes(bytes(4096))
    (folder / "remove-me").write_text("x")
    make_file(folder / "x.dcm")
    ours, its = socket.socketpair()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as unix,
        ours,
        its,
        open(folder / "x.dcm", "rb") as file,
    ):
        unix.bind(str(folder / "socket"))
        unix.listen()
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, ",".join(without), str(folder), str(os.getpid()), str(port)],
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
        )
        try:
            until, received = time.monotonic() + 60, bytearray()
            ready, _ = _receive(ours, until, received, MAX_ANSWER_BYTES)
            socket.send_fds(ours, [RenderRequest("about").to_json().encode()], [file.fileno()])
            reply, data = _receive(ours, until, received, MAX_ANSWER_BYTES)
            assert reply == {"kind": "json"}, reply
            yield frozenset(ready["sandbox"]), json.loads(data)
        finally:
            process.kill()
            process.wait()


def done(told: dict[str, Any]) -> set[str]:
    return {what for what, became in told.items() if became == "done"}


def test_a_worker_reaches_nothing_but_the_file_it_was_sent(tmp_path: Path):
    with hostile_worker(tmp_path) as (confined, told):
        if confined != {LANDLOCK, SECCOMP}:
            pytest.skip(f"this kernel has only {sorted(confined)}")
        assert done(told) <= {"ask for the host's name"}
        assert len(told) > 35
    assert sorted(path.name for path in tmp_path.iterdir()) == ["browse-secret", "ledger.db", "remove-me", "socket", "x.dcm"]
    assert (tmp_path / "ledger.db").read_bytes() == bytes(4096)


def test_without_the_sandbox_it_would_reach_all_of_it(tmp_path: Path):
    """The tries are real ones: otherwise the test above proves nothing."""
    if os.geteuid() != 0:
        pytest.skip("as another user some of them fail anyway")
    with hostile_worker(tmp_path, "landlock", "seccomp") as (confined, told):
        assert confined == set()
        assert set(told) - done(told) <= {"trace the parent", "io_uring", "read the parent's memory"}  # a container may forbid them


def test_either_half_alone_keeps_files_and_network_away(tmp_path: Path):
    for half, other in ((LANDLOCK, SECCOMP), (SECCOMP, LANDLOCK)):
        folder = tmp_path / half
        folder.mkdir()
        with hostile_worker(folder, other) as (confined, told):
            if confined != {half}:
                continue
            reached = done(told)
        assert not {what for what in reached if "read the" in what or "ledger" in what or "create" in what or "start a program" in what}
        assert "connect over TCP" not in reached


def test_a_machine_whose_calls_have_other_numbers_gets_no_filter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert sandbox._seccomp() is False


def one_of_each_kind() -> list[Path]:
    """Bundled files: one for each transfer syntax, and one for each character set."""
    found: dict[object, Path] = {}
    for path in testdata_files():
        dataset = pydicom.dcmread(path, force=True, specific_tags=["SpecificCharacterSet"])
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        found.setdefault(syntax, path)
        found.setdefault(str(dataset.get("SpecificCharacterSet")), path)
    return list(found.values())


@pytest.mark.filterwarnings("ignore:.*")
def test_in_the_sandbox_files_of_every_kind_are_rendered_as_outside():
    """What a library loads at first use must have been loaded before: nothing can be opened any more."""
    pool = Pool(1)

    def inside(path: Path, request: RenderRequest) -> Any:
        with path.open("rb") as file:
            try:
                return asyncio.run(pool.make(file.fileno(), request)).data
            except Unavailable as error:
                return error.code

    def outside(path: Path, request: RenderRequest) -> Any:
        try:
            return worker._make(request, io.BytesIO(path.read_bytes())).data
        except Unavailable as error:
            return error.code
        except Exception:  # noqa: BLE001 - as in the worker
            return "pixels-unreadable"

    try:
        paths = one_of_each_kind()
        assert len(paths) > 15
        for path in paths:
            for request in (RenderRequest("picture", size=512), RenderRequest("header")):
                assert inside(path, request) == outside(path, request), path.name
    finally:
        pool.close()


HOSTILE_ANSWERS = [
    (b'{"kind": "svg"}', "picture-crashed"),
    (b'{"kind": ["png"]}', "picture-crashed"),
    (b'{"code": "no-such-code"}', "picture-crashed"),
    (b'{"code": {"a": 1}, "kind": "html"}', "picture-crashed"),
    (b'{"code": "no-pixels", "where": "x\\nlevel=error event=forged"}', "no-pixels"),
    (b"[]", "picture-crashed"),
    (b"1", "picture-crashed"),
    (b"{", "picture-crashed"),
    (b"[" * 100_000, "picture-crashed"),
    (b"\xff", "picture-crashed"),
]


def answered(tmp_path: Path, sent: bytes, files: int) -> list[Rendered | Unavailable]:
    """Return the results of so many files, if the worker sends these bytes."""
    make_file(tmp_path / "x.dcm")
    pool = Pool(1)
    ours, its = socket.socketpair()
    try:
        (each,) = pool._workers
        each.start()
        assert each._line is not None
        each._line.close()
        each._line = ours
        its.sendall(sent)
        its.shutdown(socket.SHUT_WR)
        return asyncio.run(pool.make_some([lambda: os.open(tmp_path / "x.dcm", os.O_RDONLY)] * files, RenderRequest("picture")))
    finally:
        its.close()
        pool.close()


@pytest.mark.parametrize(("answer", "code"), HOSTILE_ANSWERS)
def test_what_a_worker_answers_is_not_trusted(answer: bytes, code: str, tmp_path: Path):
    """A file may have taken it over."""
    (made,) = answered(tmp_path, LENGTHS.pack(len(answer), 0) + answer, 1)
    assert isinstance(made, Unavailable)
    assert (made.code, made.where) == (code, "")


ANSWER = LENGTHS.pack(15, 4) + b'{"kind": "png"}data'


def test_an_answer_too_many_is_no_answer(tmp_path: Path):
    first, second = answered(tmp_path, ANSWER * 3, 2)
    assert first == Rendered("png", b"data")
    assert isinstance(second, Unavailable)
    assert second.code == "picture-crashed"


def test_a_file_that_fails_after_others_is_not_at_fault_yet(tmp_path: Path):
    assert answered(tmp_path, ANSWER, 3) == [Rendered("png", b"data")]
    (made,) = answered(tmp_path, b"", 3)
    assert isinstance(made, Unavailable)
    assert made.code == "picture-crashed"


def test_a_process_that_hides_its_memory_shows_nobody_its_secrets():
    def read_by_another(of: int) -> bool:
        """Whether a process of the same user can read the environment."""
        return subprocess.run(["cat", f"/proc/{of}/environ"], capture_output=True, check=False).returncode == 0

    def scenario(become: Any) -> list[bool]:
        become()
        sandbox._prctl(sandbox._PR_SET_DUMPABLE, 1)  # as after an execve; the change of user has taken it away
        before = read_by_another(os.getpid())
        hide_memory()
        return [before, read_by_another(os.getpid())]

    if os.geteuid() != 0:
        pytest.skip("other users take root")
    assert as_user(scenario) == [True, False]
