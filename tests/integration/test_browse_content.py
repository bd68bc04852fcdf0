"""Images, headers, files and ZIPs over real HTTP, from the real process on a real archive with hostile files."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import itertools
import json
import os
import signal
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pydicom
import pytest
from PIL import Image

from storage_ledger.archive.dicom_header import read_header
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.integration.test_browse import Browse
from tests.support.dicom import make_file, testdata_files
from tests.support.waiting import until

STUDY = "1.2.826.0.1.3680043.8.498.1"
HOSTILE_NAME = 'a "b"; filename=evil.exe\r\nX: y\\ü%41<script>.dcm'
PATIENT = "CANARY^NAME"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.body))


class Site:
    """An archive, its ledger, and the process that shows both."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.ledger = folder / "archive", folder / "ledger"
        self.files: dict[tuple[str, str], bytes] = {}
        (self.archive / ".ledger").mkdir(parents=True)
        self.ledger.mkdir()

    def add(self, study_id: str, name: str, data: bytes) -> None:
        (self.archive / study_id).mkdir(exist_ok=True)
        (self.archive / study_id / name).write_bytes(data)
        self.files[study_id, name] = data

    def record(self) -> None:
        migrate(self.ledger / "ledger.db")
        ledger = SqliteLedger(self.ledger / "ledger.db")
        with ledger.write() as tx:
            for (study_id, name), data in self.files.items():
                (self.archive / study_id / "metadata.json").write_text(json.dumps({"study_id": study_id, "patient_info": {}}))
                dicom, why = read_header(io.BytesIO(data))
                message = {"study_id": study_id, "file_path": f"/app/uploads/{study_id}.dcm", "metadata": {}}
                facts = {"message": message, "source": "pubsub", "raw_sha256": "0" * 64, "upload_path": name}
                cause = tx.append(NewEntry(Kind.DESCRIBED, facts, study_id)).position
                file = {"name": name, "original_name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                facts = {
                    "file": file, "placement": "copied", "metadata_sha256": "b" * 64, "dicom": dicom, "upload_path": name,
                    "software": "0", "host": "h", **({"dicom_error": why} if why else {}),
                }  # fmt: skip
                tx.append(NewEntry(Kind.ARCHIVED, facts, study_id, cause))
        index = Index(self.ledger / "index.db", ledger)
        index.ensure()
        index.follow()
        index.close()
        ledger.close()

    def start(self, log: Path, *arguments: str, **environment: str) -> None:
        self.browse = Browse(self.ledger, log, *arguments, ARCHIVE_PATH=str(self.archive), **environment).ready()

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.browse.port, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


def bundled(name: str) -> bytes:
    return next(path for path in testdata_files() if path.name == name).read_bytes()


def made(tmp: Path, seed: int, **elements: Any) -> bytes:
    make_file(tmp / "x.dcm", seed=seed, study_uid=STUDY, patient_name=PATIENT, **elements)
    return (tmp / "x.dcm").read_bytes()


def with_pixels(data: bytes, **changes: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def nested(data: bytes, depth: int) -> bytes:
    """Nest sequences of undefined length before the pixels (group 0011 is private; explicit little endian)."""
    opened = struct.pack("<HH2sHI", 0x0011, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    at = data.index(struct.pack("<HH", 0x0020, 0x000D) + b"UI")
    return data[:at] + opened * depth + closed * depth + data[at:]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder)
    for number in range(3):
        site.add("ct", f"{number}.dcm", made(folder, number, InstanceNumber=3 - number))
    site.add("named", HOSTILE_NAME, made(folder, 7))
    site.add("twice", "A.dcm", made(folder, 8))
    site.add("twice", "a.dcm", made(folder, 9))
    for study_id, name in {
        "small": "CT_small.dcm", "sr": "test-SR.dcm", "plan": "rtplan.dcm", "ecg": "waveform_ecg.dcm", "lossy": "JPEG-lossy.dcm",
        "truncated": "MR_truncated.dcm", "frames": "rtdose.dcm",
    }.items():  # fmt: skip
        site.add(study_id, "x.dcm", bundled(name))
    site.add("text", "x.dcm", b"this is no DICOM file" * 100)
    site.add("deep", "x.dcm", nested(made(folder, 10), 5_000))
    site.add("huge", "x.dcm", with_pixels(made(folder, 11), Rows=65535, Columns=65535, SamplesPerPixel=1))
    site.add("bomb", "x.dcm", bomb(made(folder, 12)))
    site.add("secret", "x.dcm", made(folder, 13))
    site.add("gone", "x.dcm", made(folder, 14))
    site.add("other", "x.dcm", made(folder, 15))
    site.add("short", "x.dcm", made(folder, 16))
    site.add("lost", "x.dcm", made(folder, 18))
    site.add("lost-lossy", "x.dcm", bundled("JPEG-lossy.dcm"))
    cut = made(folder, 17)
    site.add("cut", "x.dcm", cut[: cut.index(b"CANARY^NAME") + 4])
    site.record()
    os.unlink(site.archive / "gone" / "x.dcm")
    os.truncate(site.archive / "short" / "x.dcm", 500)
    changed = bytearray((site.archive / "other" / "x.dcm").read_bytes())
    changed[-1] ^= 1
    (site.archive / "other" / "x.dcm").write_bytes(changed)
    os.unlink(site.archive / "secret" / "x.dcm")
    (folder / "outside").write_bytes(site.files["secret", "x.dcm"])
    os.symlink(folder / "outside", site.archive / "secret" / "x.dcm")
    site.start(folder / "log", "--no-login", BROWSE_CACHE_PATH=str(folder / "cache"), BROWSE_WORKERS="1")
    yield site
    site.browse.process.kill()
    site.browse.process.wait(20)


def bomb(data: bytes) -> bytes:
    """Make a deflated data set that inflates beyond a worker's memory limit (PS3.5 §A.5)."""
    meta = pydicom.dcmread(io.BytesIO(data)).file_meta
    meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    head = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(head, meta, enforce_standard=True)
    zeros = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = io.BytesIO()
    body.write(zeros.compress(struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, 1 << 31)))
    piece = bytes(1 << 24)
    body.write(zeros.compress(piece) + zeros.flush(zlib.Z_FULL_FLUSH))
    again = zeros.compress(piece) + zeros.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it, and so can be repeated
    body.write(again * 63 + zeros.flush())
    return bytes(128) + b"DICM" + head.getvalue() + body.getvalue()


def test_newest_checkpoint_is_a_text_that_caches_may_keep(site: Site):
    assert (site.get("/checkpoint").status, site.get("/checkpoint").body) == (404, b"No checkpoint has been signed yet\n")
    notes = site.archive / ".ledger" / "checkpoints"
    notes.mkdir()
    (notes / "9").write_bytes(b"older\n")
    (notes / "10").write_bytes(b"newer\n")
    (notes / "10.cosig").mkdir()
    (notes / "10.cosig" / "w").write_text("\u2014 w AAAAAAAA\n")
    answer = site.get("/checkpoint")
    assert (answer.status, answer.body.decode()) == (200, "newer\n\u2014 w AAAAAAAA\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=5"
    assert (site.get("/checkpoint", "HEAD").status, site.get("/checkpoint", "HEAD").body) == (200, b"")


def test_a_picture_is_small_private_and_known_again(site: Site):
    first = site.get("/image/small/x.dcm?size=128")
    assert (first.status, first.headers["content-type"], first.image().size) == (200, "image/jpeg", (128, 128))
    assert first.headers["cache-control"].startswith("private")
    assert first.headers["vary"] == "Cookie, Authorization"
    again = site.get("/image/small/x.dcm?size=100", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    view = site.get("/image/small/x.dcm?size=1024&window=40,400")
    assert (view.headers["content-type"], view.image().mode, view.image().size) == ("image/png", "L", (128, 128))
    assert site.get("/image/small/x.dcm?size=1024").body != view.body


@pytest.mark.parametrize(
    "query", ["size=x", "size=-1", "size=99999999", "frame=-1", "frame=1e3", "window=1", "window=1,0", "window=nan,1", "window=1,inf"]
)
def test_a_wrong_question_is_refused(site: Site, query: str):
    assert site.get(f"/image/small/x.dcm?{query}").status == 400


LIMITS = {"picture-too-large", "picture-too-slow"}
"""The limit that a bomb reaches first depends on the machine."""


@pytest.mark.parametrize(
    ("study_id", "why"),
    [
        ("sr", "no-pixels"), ("plan", "no-pixels"), ("ecg", "no-pixels"), ("lossy", "syntax-unsupported"), ("text", "not-dicom"),
        ("truncated", "pixels-unreadable"), ("gone", "file-missing"), ("short", "file-changed"),
        ("secret", "file-changed"), ("deep", "header-unreadable"),
        ("huge", "picture-too-large"), ("bomb", "picture-too-large"),
    ],
)  # fmt: skip
def test_what_has_no_picture_gets_a_quiet_one_and_says_why(site: Site, study_id: str, why: str):
    answer = site.get(f"/image/{study_id}/x.dcm?size=128")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/svg+xml")
    about = site.get(f"/image/{study_id}/x.dcm/about").json()
    assert answer.headers["x-picture-why"] == about["why"]
    assert about["why"] in (LIMITS if study_id == "bomb" else {why})
    assert about["text"].endswith(".")
    assert ("12-bit lossy JPEG" in about["text"]) == (why == "syntax-unsupported")
    assert site.get("/image/small/x.dcm").headers["content-type"] == "image/jpeg"  # the site continues


def test_a_file_that_is_lost_is_not_said_to_be_downloadable_whatever_was_said_of_its_image(site: Site):
    for study_id, why in (("lost", None), ("lost-lossy", "syntax-unsupported")):
        about = site.get(f"/image/{study_id}/x.dcm/about").json()
        assert (about["why"], about["downloadable"]) == (why, True)
        os.unlink(site.archive / study_id / "x.dcm")
        about = site.get(f"/image/{study_id}/x.dcm/about").json()
        assert (about["why"], about["downloadable"], "download" in about["text"]) == ("file-missing", False, False)
    assert site.get("/image/lost-lossy/x.dcm").headers["x-picture-why"] == "file-missing"


def test_about_tells_frames_and_windows(site: Site):
    small = site.get("/image/small/x.dcm/about").json()
    assert (small["frames"], small["why"]) == (1, None)
    assert {"name": "Lung", "center": -600.0, "width": 1500.0} in small["windows"]
    assert small["windows"][0]["name"] == "Automatic"
    frames = site.get("/image/frames/x.dcm/about").json()["frames"]
    assert frames == 15
    pictures = {site.get(f"/image/frames/x.dcm?frame={frame}").body for frame in range(frames)}
    assert len(pictures) == frames
    assert site.get("/image/frames/x.dcm?frame=15").headers["x-picture-why"] == "no-such-frame"


def test_a_header_is_a_table_and_a_hostile_one_does_no_harm(site: Site):
    rows = site.get("/header/small/x.dcm").json()["rows"]
    name = next(row for row in rows if row["tag"] == "(0010,0010)")
    assert name == {"tag": "(0010,0010)", "name": "Patient's Name", "vr": "PN", "value": "CompressedSamples^CT1", "depth": 0}
    assert site.get("/header/deep/x.dcm").json()["why"] == "header-unreadable"
    assert site.get("/header/text/x.dcm").json()["why"] == "not-dicom"
    assert site.get("/header/bomb/x.dcm").json()["why"] in LIMITS
    assert site.get("/header/sr/x.dcm").json()["rows"]


def test_metadata_is_returned_exactly_as_archived(site: Site):
    assert site.get("/metadata/ct").body == (site.archive / "ct" / "metadata.json").read_bytes()
    assert site.get("/metadata/nobody").status == 404
    assert site.get("/metadata/.ledger").status == 404


def test_a_file_is_its_bytes_with_their_digest(site: Site):
    data = site.files["ct", "0.dcm"]
    answer = site.get("/file/ct/0.dcm")
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert answer.headers["content-disposition"] == "attachment; filename=\"0.dcm\"; filename*=UTF-8''0.dcm"
    assert answer.headers["cache-control"] == "no-store"
    head = site.get("/file/ct/0.dcm", "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(data)))
    assert site.get("/file/ct/0.dcm", If_None_Match=answer.headers["etag"]).status == 304


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [("0-9", 206, 0, 9), ("10-", 206, 10, None), ("-10", 206, -10, None), ("5-999999999", 206, 5, None), ("9-5", 200, 0, None),
     ("0-1,3-4", 200, 0, None), ("x", 200, 0, None), ("-", 200, 0, None)],
)  # fmt: skip
def test_a_part_of_a_file_can_be_had(site: Site, wanted: str, status: int, first: int, last: int | None):
    data = site.files["ct", "0.dcm"]
    answer = site.get("/file/ct/0.dcm", Range=f"bytes={wanted}")
    assert (answer.status, answer.body) == (status, data[first:] if last is None else data[first : last + 1])
    if status == 206:
        begin = first % len(data)
        assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(answer.body) - 1}/{len(data)}"


def test_a_part_that_is_not_there_or_of_another_file_cannot(site: Site):
    data = site.files["ct", "0.dcm"]
    answer = site.get("/file/ct/0.dcm", Range=f"bytes={len(data)}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert site.get("/file/ct/0.dcm", Range="bytes=-0").status == 416
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    assert site.get("/file/ct/0.dcm", Range="bytes=0-9", If_Range=etag).status == 206
    for other in ('"x"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:37 GMT"):
        assert site.get("/file/ct/0.dcm", Range="bytes=0-9", If_Range=other).status == 200


def test_a_hostile_name_is_only_a_name(site: Site):
    answer = site.get(f"/file/named/{quote(HOSTILE_NAME, safe='')}")
    assert (answer.status, answer.body) == (200, site.files["named", HOSTILE_NAME])
    assert "x" not in answer.headers
    plain, _, encoded = answer.headers["content-disposition"].removeprefix("attachment; ").partition("; filename*=UTF-8''")
    assert plain.count('"') == 2
    assert "\\" not in plain
    assert unquote(encoded) == HOSTILE_NAME


def test_only_what_the_ledger_knows_is_given_out_and_no_link_followed(site: Site):
    for path in (
        "/file/ct/metadata.json", "/file/.ledger/x", "/file/ct/..%2f..%2fledger%2fledger.db", "/file/..%2fledger/ledger.db", "/file/ct/%00",
        "/image/ct/..%2fx", "/header/ct/nothing", "/zip/1.2.3", "/zip-study/nobody", "/image/nobody/x/about",
    ):  # fmt: skip
        assert site.get(path).status == 404, path
    assert site.get("/file/secret/x.dcm").json()["why"] == "file-changed"
    assert site.get("/file/gone/x.dcm").status == 404
    assert (site.get("/file/short/x.dcm").status, site.get("/file/short/x.dcm", Range="bytes=0-9").status) == (409, 409)


def test_a_file_that_has_changed_is_not_given_out_as_whole(site: Site):
    with pytest.raises(http.client.IncompleteRead):
        site.get("/file/other/x.dcm")


def test_a_study_is_a_zip_that_others_can_read(site: Site, tmp_path: Path):
    answer = site.get("/zip-study/ct")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"metadata.json", "0.dcm", "1.dcm", "2.dcm", "SHA256SUMS.txt"}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("1.dcm") == site.files["ct", "1.dcm"]
        sums = archive.read("SHA256SUMS.txt").decode()
    assert f"{hashlib.sha256(site.files['ct', '1.dcm']).hexdigest()}  1.dcm\n" in sums


def test_in_a_zip_no_two_names_are_alike_and_none_leads_elsewhere(site: Site):
    answer = site.get(f"/zip/{STUDY}")
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        names = archive.namelist()
        problems = archive.read("MISSING-OR-DAMAGED.txt").decode()
    assert len({name.casefold() for name in names}) == len(names)
    assert not [name for name in names if name.startswith(("/", ".")) or ".." in name or set(name) & set('<>:"\\|?*\r\n')]
    assert {"series-1-CT/A.dcm", "series-1-CT/a~2.dcm"} <= set(names)
    assert PATIENT not in str(answer.headers)
    assert "not in this ZIP" in problems
    assert "damaged" in problems


def test_nobody_writes_by_any_of_these(site: Site):
    for path in ("/image/ct/0.dcm", "/file/ct/0.dcm", "/zip/1", "/header/ct/0.dcm", "/metadata/ct"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert site.get(path, method).status == 405


def test_what_a_patient_is_called_is_in_no_log(site: Site):
    site.get("/zip-study/ct")
    site.get("/image/ct/0.dcm?size=1024")
    site.get("/index/dicom_studies.json?_search=CANARY")
    site.get("/studies/CANARY")
    site.get(f"/index/dicom_studies/{STUDY.replace('.', '~2E')}")
    said = site.browse.said()
    assert "route=zip-study" in said
    assert "study_id=ct" in said
    assert "actor=anybody" in said
    assert not [word for word in ("CANARY", STUDY, "Traceback") if word in said]
    assert "route=index/dicom_studies http_status=200 position=2" in said


def in_use(site: Site) -> int:
    """Return how many connections and archived files are open; of the databases, a connection is kept for each thread."""
    found = 0
    for descriptor in Path(f"/proc/{site.browse.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:") or os.readlink(descriptor).endswith(".dcm")
    return found


def test_who_hangs_up_leaves_nothing_open(site: Site):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    before = in_use(site)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", site.browse.port)) as connection:
            connection.sendall(f"GET /zip/{STUDY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b" 200 " in connection.recv(100)
    until(lambda: in_use(site) <= before + 1, 10, what="descriptors to be closed")


def test_a_picture_whose_asker_hangs_up_is_not_made(site: Site):
    """Nor the descriptor of its file kept: a page of thumbnails that is left at once would be rendered for nobody."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")
    workers = workers_of(site)
    before = in_use(site)
    os.kill(int(workers[0].name), signal.SIGSTOP)
    try:
        hung_up = []
        for number in range(10):
            connection = socket.create_connection(("127.0.0.1", site.browse.port))
            connection.sendall(f"GET /image/ct/1.dcm?window={number},7 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            hung_up.append(connection)
        until(lambda: in_use(site) > before + 20, 10, what="all of them to wait")
        for connection in hung_up:
            connection.close()
        # The one in the worker has a connection and a file. A connection that was kept may have been counted before, or not.
        until(lambda: in_use(site) <= before + 3, 8, what="all but the one in the worker to be forgotten")
    finally:
        os.kill(int(workers[0].name), signal.SIGCONT)


def test_what_is_kept_is_for_its_owner(site: Site):
    site.get("/image/small/x.dcm")
    kept = list((site.archive.parent / "cache").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_file()} == {0o640}
    assert {path.stat().st_mode & 0o777 for path in kept if path.is_dir()} == {0o750}


def test_worker_and_secrets_are_apart(site: Site):
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc here")
    workers = workers_of(site)
    assert b"BROWSE" not in (workers[0] / "environ").read_bytes()
    limits = Path(f"/proc/{site.browse.process.pid}/limits").read_text()
    assert limits.partition("Max core file size")[2].split()[:2] == ["0", "0"]


_windows = itertools.count(1000)


def workers_of(site: Site) -> list[Path]:
    """Return the image workers; one that was killed is restarted for the next image that is not cached."""
    site.get(f"/image/ct/0.dcm?window={next(_windows)},9")
    return until(lambda: [path for path in Path("/proc").glob("[0-9]*") if _is_worker(path, site.browse.process.pid)])


def _is_worker(path: Path, parent: int) -> bool:
    try:
        return f"PPid:\t{parent}\n" in (path / "status").read_text() and b"pictures.worker" in (path / "cmdline").read_bytes()
    except OSError:
        return False


def test_files_whose_header_cannot_be_read_are_listed_where_somebody_looks(site: Site):
    page = site.get("/attention").body.decode()
    unread, no_dicom = (page.index(f'id="{name}"') for name in ("headers", "no-dicom"))
    assert unread < page.index("<code>header-cut</code>") < page.index('href="/studies/cut"') < no_dicom
    assert no_dicom < page.index("<code>not-dicom</code>") < page.index('href="/studies/text"')
    assert "3 files without a complete header or study UID" in site.get("/").body.decode()
    assert "header-cut" in site.get("/studies/cut").body.decode()
