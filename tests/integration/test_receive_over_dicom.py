"""Studies that come over the DICOM network, as docs/how-to/receive-over-the-dicom-network.md sets it up: the real storescp with the
options of compose.receive.yaml, the program that hands its files over, and the real service."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
import yaml
from pydicom.data import get_testdata_file

from tests.support.browsing import Browse
from tests.support.dicom import make_file
from tests.support.stack import Stack
from tests.support.status_server import Fault, StatusServer
from tests.support.valkey import Valkey, free_port
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.receive.yaml").read_text())["services"]
MISSING = [name for name in ("storescp", "dcmsend") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install dcmtk")

KINDS = ("SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm", "test-SR.dcm", "waveform_ecg.dcm", "liver_1frame.dcm")
"""Transfer syntaxes and kinds of objects that a modality may send, and that dcmsend sends as they are."""

DCMTK = "1.2.276.0.7230010.3.0.3."
"""The beginning of its Implementation Class UID; its version follows."""


class Front:
    """storescp and the program that hands over, with their folder, in front of a service that the test starts."""

    def __init__(self, root: Path, valkey: Valkey, status: StatusServer) -> None:
        self.stack = Stack(root, valkey, status.url, RECONCILE_GRACE_SECONDS=0, RECONCILE_SECONDS=1)
        self.incoming = root / "incoming"
        self.incoming.mkdir()
        self.port = free_port()
        command = [str(self.incoming) if each == "/app/incoming" else each for each in COMPOSE["dicom-receiver"]["command"]]
        command = [str(self.port) if each == "11112" else "ARCHIVE" if "DICOM_AE_TITLE" in each else each for each in command]
        self.receiver = subprocess.Popen(["storescp", *command], cwd=root)
        self.log = root / "handover.log"
        self.handover: subprocess.Popen[bytes] | None = None
        until(self._receives, 20, what="storescp to listen")

    def send(self, *files: Path, by: str = "SCANNER") -> None:
        """Send files in one association, each in the transfer syntax that it has."""
        command = ["dcmsend", "--decompress-never", "-aet", by, "-aec", "ARCHIVE", "127.0.0.1", str(self.port), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def hand_over(self) -> None:
        """Start the program, with the variables of its container."""
        values = {**self.stack.environment, "INCOMING_PATH": str(self.incoming), "QUIET_SECONDS": "0.2"}
        environment = {
            name: values[name] for name in (*COMPOSE["dicom-handover"]["environment"], "QUIET_SECONDS", "PATH") if name in values
        }
        program = COMPOSE["dicom-handover"]["volumes"][0].partition(":")[0]
        with self.log.open("ab") as log:
            self.handover = subprocess.Popen([sys.executable, ROOT / program], env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL for the program that hands over."""
        if self.handover is not None:
            self.handover.kill()
            self.handover.wait(10)

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def waiting(self) -> list[str]:
        return sorted(path.name for path in self.incoming.iterdir())

    def archived(self) -> list[Path]:
        return sorted(path for path in self.stack.archive.glob("[0-9a-f]*/*") if path.name != "metadata.json")

    def all_done(self) -> bool:
        return not self.waiting() and not list(self.stack.uploads.iterdir()) and self.stack.idle()

    def close(self) -> None:
        self.kill()
        self.receiver.kill()
        self.receiver.wait(10)
        self.stack.close()

    def _receives(self) -> bool:
        assert self.receiver.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@pytest.fixture
def front(tmp_path: Path, valkey: Valkey, status_server: StatusServer) -> Iterator[Front]:
    made = Front(tmp_path, valkey, status_server)
    yield made
    made.close()


def slices(folder: Path, count: int, study: str = "1.2.826.0.1.3680043.8.498.31") -> list[Path]:
    """Write a CT of so many slices."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        make_file(path, study_uid=study, series_uid=f"{study}.1", sop_uid=f"{study}.1.{number + 1}", seed=number)
    return paths


def data_set(file: bytes) -> bytes:
    """Return what follows the file meta information (PS3.10 §7.1)."""
    assert file[128:132] == b"DICM"
    return file[144 + int.from_bytes(file[140:144], "little") :]


def statuses_of(front: Front, status_server: StatusServer) -> set[str | None]:
    return {status_server.status(path.parent.name) for path in front.archived()}


def test_what_modalities_send_is_archived_and_comes_back_over_dicomweb(front, status_server, tmp_path):
    sent = [*slices(tmp_path / "sent", 12), *(Path(str(get_testdata_file(name))) for name in KINDS)]
    front.send(*sent)
    received = {hashlib.sha256(path.read_bytes()).hexdigest() for path in front.incoming.iterdir()}
    assert len(received) == len(sent)
    front.stack.start()
    front.hand_over()
    until(lambda: len(front.archived()) == len(sent) and front.all_done(), 60, what="everything to be archived")
    until(lambda: statuses_of(front, status_server) == {"archived"}, 30, what="the statuses")

    browse = Browse(front.stack.root, tmp_path / "browse.log", "--no-login")
    try:
        for path in sent:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            address = f"/dicom-web/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
            got = httpx.get(browse.url + address, headers={"Accept": "application/dicom; transfer-syntax=*"}, timeout=30).content
            assert hashlib.sha256(got).hexdigest() in received, path.name
            there = pydicom.dcmread(io.BytesIO(got))
            assert there == pydicom.dcmread(path)
            if path.parent == tmp_path / "sent":  # dcmsend writes the others' sequences in its own way
                assert data_set(got) == data_set(path.read_bytes())
            ours, theirs = there.file_meta, header.file_meta
            assert (ours.MediaStorageSOPInstanceUID, ours.TransferSyntaxUID) == (header.SOPInstanceUID, theirs.TransferSyntaxUID)
            assert ours.SourceApplicationEntityTitle == "SCANNER"
            assert ours.ImplementationClassUID.startswith(DCMTK)
    finally:
        browse.stop()


def test_the_message_and_the_status_are_those_of_the_descriptor(front, status_server, tmp_path):
    path = tmp_path / "a.dcm"
    make_file(path, patient_name="MÜLLER^JÖRG", StudyID="S1", Manufacturer="x" * 9000, ModalitiesInStudy=["CT", "MR"])
    front.send(path)
    front.hand_over()
    until(lambda: not front.waiting(), 30, what="the file to be handed over")  # nobody listens yet
    [upload] = front.stack.uploads.iterdir()
    details = status_server.statuses[upload.stem]["details"]
    assert status_server.status(upload.stem) == "described"
    assert details["patient_info"]["patient_name"] == "MÜLLER^JÖRG"
    assert details["study_info"]["study_id"] == "S1"
    assert len(details["modality_info"]["manufacturer"]) == 4096
    assert set(details) == {"patient_info", "study_info", "modality_info", "exposure_info", "location_info"}
    front.stack.start()  # it missed the message, and finds the file
    until(lambda: len(front.archived()) == 1 and front.all_done(), 30, what="the file to be archived")
    assert "MÜLLER" not in front.log.read_text()


def test_nothing_is_lost_when_the_program_is_killed_again_and_again(front, tmp_path):
    sent = slices(tmp_path / "sent", 20)
    front.stack.start()
    for number in range(0, len(sent), 4):
        front.send(*sent[number : number + 4])
        front.hand_over()
        seen = len(front.archived())
        until(lambda seen=seen: len(front.archived()) > seen, 30, what="a file to be archived")
        front.kill()
    front.hand_over()
    until(front.all_done, 60, what="everything to be handed over")
    assert {data_set(path.read_bytes()) for path in front.archived()} == {data_set(path.read_bytes()) for path in sent}
    assert len(front.archived()) == len(sent)
    assert front.stack.check()["violations"] == []


def test_a_file_that_is_sent_twice_is_archived_once_and_its_status_stays(front, status_server, tmp_path):
    [path] = slices(tmp_path / "sent", 1)
    front.stack.start()
    front.hand_over()
    for _ in range(2):
        front.send(path)
    until(lambda: len(front.said()) == 2 and front.all_done(), 30, what="both to be handed over")
    front.send(path)
    until(lambda: len(front.said()) == 3 and front.all_done(), 30, what="the third to be handed over")
    [archived] = front.archived()
    assert len({each["study_id"] for each in front.said()}) == 1
    until(lambda: status_server.status(archived.parent.name) == "archived", 30, what="the status")
    posted = status_server.posted(archived.parent.name)
    assert "described" not in posted[posted.index("archived") :]


def test_files_wait_while_the_status_service_or_redis_is_away(front, valkey, status_server, tmp_path):
    first, second = slices(tmp_path / "sent", 2)
    status_server.always = Fault(code=500)
    front.hand_over()
    front.send(first)
    until(lambda: front.log.exists() and "Status Service" in front.log.read_text(), 30, what="the program to say that it waits")
    assert len(front.waiting()) == 1
    assert list(front.stack.uploads.iterdir()) == []
    status_server.always = None
    until(lambda: not front.waiting(), 30, what="the file to be handed over")

    front.kill()
    port = free_port()  # nobody listens there
    front.stack.environment["REDIS_URL"] = f"redis://127.0.0.1:{port}"
    front.hand_over()
    front.send(second)
    until(lambda: "Redis does not answer" in front.log.read_text(), 30, what="the program to say that it waits")
    assert len(front.waiting()) == 1
    front.kill()
    front.stack.environment["REDIS_URL"] = valkey.url
    front.stack.start()
    front.hand_over()
    until(lambda: len(front.archived()) == 2 and front.all_done(), 60, what="both to be archived")


def test_what_is_being_written_waits_and_hostile_names_are_left(front, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    (front.incoming / "link").symlink_to(secret)
    (front.incoming / "folder").mkdir()
    os.mkfifo(front.incoming / "pipe")
    broken = bytes(range(256)) * 4
    (front.incoming / "no\nDICOM").write_bytes(broken)
    front.stack.start()
    with (front.incoming / "growing").open("wb") as growing:
        growing.write(b"half")
        growing.flush()
        os.utime(growing.fileno(), (1e9, 1e9))
        front.hand_over()
        until(lambda: len(front.archived()) == 1, 30, what="the file that is no DICOM to be archived")
        assert front.archived()[0].read_bytes() == broken
        assert "growing" in front.waiting()
        growing.write(b" and half")
    until(lambda: front.waiting() == ["folder", "link", "pipe"], 30, what="what was written to be handed over")
    until(lambda: {path.read_bytes() for path in front.archived()} == {broken, b"half and half"}, 30, what="it to be archived")
    assert secret.exists()
    assert {each["file"] for each in front.said() if each["event"] == "left"} == {"folder", "link", "pipe"}


def test_the_stream_is_used_if_it_is_set(front, valkey, tmp_path):
    [path] = slices(tmp_path / "sent", 1)
    front.stack.environment["DESCRIBED_STREAM"] = front.stack.channel
    front.send(path)
    front.hand_over()
    until(lambda: not front.waiting(), 30, what="the file to be handed over")
    front.stack.start()
    until(lambda: len(front.archived()) == 1 and front.all_done(), 30, what="the file to be archived")
    with contextlib.closing(valkey.client()) as client:
        assert client.xlen(front.stack.channel) == 1
