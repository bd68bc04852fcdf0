"""The link of a study to a viewer, which addresses a setting may hold, and which files a viewer's folder gives."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from storage_ledger.errors import BadSettings
from storage_ledger.web.auth.credentials import BrowseSettings
from storage_ledger.web.viewer.files import INDEX, MARKER, checked_folder, is_hashed, open_file
from storage_ledger.web.viewer.links import Viewer
from storage_ledger.web.viewer.routes import accepts_gzip, with_viewer

WEASIS = "weasis://%24dicom%3Ars+-r+%22studyUID%3D{StudyInstanceUID}%22"


def test_another_viewer_goes_before_ours_and_without_both_there_is_no_link():
    assert Viewer(None, None).link("1.2") is None
    assert Viewer(Path("folder"), None).link("1.2") == "/ohif/viewer?StudyInstanceUIDs=1.2"
    assert Viewer(Path("folder"), WEASIS).link("1.2") == "weasis://%24dicom%3Ars+-r+%22studyUID%3D1.2%22"


def test_a_study_uid_cannot_leave_its_place_in_the_link():
    link = Viewer(None, "https://viewer.example/?a={StudyInstanceUID}&b=1").link('1&b=2#"> ü/{StudyInstanceUID}')
    assert link == "https://viewer.example/?a=1%26b%3D2%23%22%3E%20%C3%BC%2F%7BStudyInstanceUID%7D&b=1"


@pytest.mark.parametrize("address", [WEASIS, "https://viewer.example/{StudyInstanceUID}", "http://localhost:3000/?s={StudyInstanceUID}",
                                     "radiant://?n=pstv&v=0020000D&v={StudyInstanceUID}"])  # fmt: skip
def test_a_viewer_may_be_a_site_or_a_program(address: str):
    assert BrowseSettings(browse_viewer_url=address).browse_viewer_url == address


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert('{StudyInstanceUID}')",
        "JavaScript:alert('{StudyInstanceUID}')",
        "\tjavascript:alert('{StudyInstanceUID}')",
        "java\nscript:alert('{StudyInstanceUID}')",
        "data:text/html,{StudyInstanceUID}",
        "vbscript:{StudyInstanceUID}",
        "file:///etc/{StudyInstanceUID}",
        "view-source:{StudyInstanceUID}",
        "//viewer.example/{StudyInstanceUID}",
        "/viewer/{StudyInstanceUID}",
        "https://viewer.example/",
        "https://viewer.example/{StudyUID}",
        "https://viewer.example/{StudyInstanceUID}{x}",
        "https://viewer.example/ {StudyInstanceUID}",
        "https://viewer.example/ü{StudyInstanceUID}",
        "{StudyInstanceUID}",
    ],
)
def test_a_viewer_is_no_script_no_file_and_has_the_place_of_the_study(monkeypatch: pytest.MonkeyPatch, address: str):
    monkeypatch.setenv("BROWSE_VIEWER_URL", address)
    with pytest.raises(BadSettings, match="BROWSE_VIEWER_URL: ") as caught:
        BrowseSettings.load()
    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip, deflate, br, zstd", True),
        ("GZIP", True),
        ("br;q=1.0, gzip;q=0.8", True),
        ("*", True),
        ("gzip;q=0.001", True),
        ("gzip;q=0, *", False),
        ("gzip; q=0.000", False),
        ("*;q=0", False),
        ("identity", False),
        ("x-gzip2", False),
        ("", False),
    ],
)
def test_gzip_is_sent_only_to_whom_accepts_it(header: str, accepted: bool):
    assert accepts_gzip(header) is accepted


def test_only_names_with_a_checksum_may_be_kept_for_ever():
    names = ["app.bundle.0f6159c501addfe9.js", "0ddf166f7a343eda.wasm", "fonts/a34f9d1faa5f3315.woff2", INDEX, "app.bundle.css",
             "app-config.js", "app.bundle.0f6159c501addfe9/x.js", "x0f6159c501addfe9.js", "0f6159c501addfe.js"]  # fmt: skip
    assert list(map(is_hashed, names)) == [True, True, True, False, False, False, False, False, False]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "viewer"
    (made / "assets").mkdir(parents=True)
    (tmp_path / "secret.js").write_text("secret")
    for name in (INDEX, "app.js", "app.js.gz", "assets/logo.svg", "other.exe", ".hidden.js", "LICENSE"):
        (made / name).write_text(name)
    (made / "link.js").symlink_to(tmp_path / "secret.js")
    (made / "linked").symlink_to(tmp_path)
    (made / "folder.js").mkdir()
    os.mkfifo(made / "pipe.js")
    return made


def read(folder: Path, name: str, *, gzip: bool = False) -> str | None:
    found = open_file(folder, name, gzip=gzip)
    if found is None:
        return None
    with found.opened:
        return found.opened.read().decode()


def test_regular_files_are_found_and_their_compressed_copies(folder: Path):
    assert [read(folder, name) for name in (INDEX, "app.js", "assets/logo.svg", "LICENSE")] == [
        INDEX,
        "app.js",
        "assets/logo.svg",
        "LICENSE",
    ]
    assert [read(folder, name, gzip=True) for name in (INDEX, "app.js")] == [INDEX, "app.js.gz"]


@pytest.mark.parametrize(
    "name",
    ["../secret.js", "assets/../../secret.js", "./app.js", "/app.js", "app.js/", "assets//logo.svg", "", "link.js", "linked/secret.js",
     "folder.js", "pipe.js", "assets", "other.exe", ".hidden.js", "app.js.gz", "app.js\0", "\ud800.js", "x" * 5000 + ".js"],
)  # fmt: skip
def test_nothing_else_of_the_folder_and_nothing_outside_of_it_is_found(folder: Path, name: str):
    assert read(folder, name) is None


@pytest.mark.parametrize(("method", "leaves_after"), [("GET", 99), ("HEAD", 99), ("GET", 0), ("GET", 1)])
def test_however_an_answer_ends_its_file_is_closed(folder: Path, method: str, leaves_after: int):
    (folder / "app.js").write_bytes(bytes(300_000))
    sent = []

    async def send(message: Message) -> None:
        if len(sent) == leaves_after:
            raise OSError("the reader has gone")
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError(scope)

    scope = {"type": "http", "method": method, "path": "/ohif/app.js", "query_string": b"", "headers": [], "asgi": {"spec_version": "2.4"}}
    before = os.listdir("/proc/self/fd")
    with contextlib.suppress(ClientDisconnect):
        asyncio.run(with_viewer(fallback, folder, "")(scope, receive, send))
    assert sum(len(message.get("body", b"")) for message in sent) == (300_000 if (method, leaves_after) == ("GET", 99) else 0)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_folder_without_a_prepared_viewer_is_a_wrong_setting(folder: Path, tmp_path: Path):
    assert checked_folder(folder) == folder
    for form, accepted in ((1, False), (2, True)):
        (folder / MARKER).write_text(f'{{"form": {form}}}')
        assert checked_folder(folder) == folder
        with contextlib.nullcontext() if accepted else pytest.raises(BadSettings, match="only at the root"):
            assert checked_folder(folder, "/archive") == folder
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadSettings, match="run scripts/viewer"):
            checked_folder(wrong)
