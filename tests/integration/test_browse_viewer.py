"""OHIF's files over real HTTP: behind the login, with the right types, caching, compression and policies, and nothing else of the disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage_ledger.web.auth.credentials import hash_password
from tests.integration.test_browse import Browse, make_ledger

PASSWORD = "correct horse"  # noqa: S105 - of these tests only
APP = "app.bundle.0f6159c501addfe9.js"
SCRIPT = "const text = 'ü';\n" * 5000
NO_STORE, KEPT = "no-store", "private, max-age=31536000, immutable"


def make_viewer(folder: Path) -> Path:
    """Make a small folder as scripts/viewer prepares it, and a secret beside it."""
    made = folder / "viewer"
    (made / "assets").mkdir(parents=True)
    for name in (APP, "app.bundle.css", "manifest.json", "assets/logo.svg"):
        (made / name).write_text(SCRIPT)
        (made / f"{name}.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (made / "index.html").write_text("<!doctype html><title>A viewer</title>")
    (made / "app-config.js").write_text("from the folder")
    (made / "0ddf166f7a343eda.wasm").write_bytes(b"\0asm")
    (made / "a34f9d1faa5f3315.woff2").write_bytes(b"wOF2")
    (folder / "secret.js").write_text("secret")
    (made / "link.js").symlink_to(folder / "secret.js")
    (made / "folder").symlink_to(folder)
    return made


def token(name: str, may: str) -> str:
    """Return a line for BROWSE_TOKENS; the token is its name."""
    return f"{name}:{may}:{hashlib.sha256(name.encode()).hexdigest()}"


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    folder = tmp_path_factory.mktemp("viewer")
    tokens = " ".join([token("pacs", "dicomweb"), token("rest", "index,ledger,files,sql")])
    environment = {
        "BROWSE_PASSWORD_HASH": f"jane:{hash_password(PASSWORD)}",
        "BROWSE_TOKENS": tokens,
        "ARCHIVE_PATH": "/nowhere/archive",
        "BROWSE_TITLE": "City Hospital </script>",
    }
    started = Browse(make_ledger(folder), folder / "log", BROWSE_VIEWER_PATH=str(make_viewer(folder)), **environment).ready()
    assert started.log_in("jane", PASSWORD).status == 302
    yield started
    started.stop()


def get(browse: Browse, path: str, *, method: str = "GET", **headers: str) -> httpx.Response:
    given = {"accept-encoding": "identity", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.request(method, f"http://127.0.0.1:{browse.port}{path}", headers=given, cookies=browse.cookies, timeout=10)


@pytest.mark.parametrize(
    ("path", "media_type", "caching"),
    [
        ("/ohif/", "text/html; charset=utf-8", NO_STORE),
        ("/ohif/index.html", "text/html; charset=utf-8", NO_STORE),
        ("/ohif/app-config.js", "text/javascript; charset=utf-8", NO_STORE),
        (f"/ohif/{APP}", "text/javascript; charset=utf-8", KEPT),
        ("/ohif/0ddf166f7a343eda.wasm", "application/wasm", KEPT),
        ("/ohif/a34f9d1faa5f3315.woff2", "font/woff2", KEPT),
        ("/ohif/app.bundle.css", "text/css; charset=utf-8", NO_STORE),
        ("/ohif/manifest.json", "application/json", NO_STORE),
        ("/ohif/assets/logo.svg", "image/svg+xml", NO_STORE),
    ],
)
def test_each_kind_of_file_has_its_type_and_only_names_with_a_checksum_are_kept(browse: Browse, path: str, media_type: str, caching: str):
    answer = get(browse, path)
    assert (answer.status_code, answer.headers["content-type"], answer.headers["cache-control"]) == (200, media_type, caching)
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = get(browse, path, method="HEAD")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(answer.content)), b"")


def test_a_compressed_copy_is_sent_to_whom_accepts_it(browse: Browse):
    for accepts, coding in (("gzip", "gzip"), ("gzip;q=0", None), ("identity", None)):
        answer = get(browse, f"/ohif/{APP}", accept_encoding=accepts)
        assert answer.text == SCRIPT
        assert answer.headers.get("content-encoding") == coding
        assert (int(answer.headers["content-length"]) < len(SCRIPT) // 10) == (coding is not None)
        assert {"accept-encoding"} <= {name.strip().lower() for name in answer.headers["vary"].split(",")}
    assert "content-encoding" not in get(browse, "/ohif/0ddf166f7a343eda.wasm", accept_encoding="gzip").headers


def test_only_the_viewer_may_make_code_from_text_and_frame_a_pdf(browse: Browse):
    def policy(path: str) -> str:
        return get(browse, path).headers["content-security-policy"]

    of_site = policy("/")
    assert "unsafe" not in of_site
    assert "blob:" not in of_site
    expected = of_site.replace("object-src 'none'", "script-src 'self' 'unsafe-eval'; object-src 'self' blob:; frame-src blob:")
    assert policy(f"/ohif/{APP}") == policy("/ohif/viewer") == expected
    for elsewhere in ("/-/ledger/viewer.js", "/ohifx/a.js", "/dicom/1.2.3.1", "/dicom-web/studies"):
        assert policy(elsewhere) == of_site


def test_the_viewers_own_pages_are_its_start_page_to_a_browser_and_nothing_to_a_program(browse: Browse):
    address = "/ohif/viewer?StudyInstanceUIDs=1.2.3.1"
    page = get(browse, address, accept="text/html,*/*")
    assert (page.status_code, page.headers["cache-control"]) == (200, NO_STORE)
    assert "<title>A viewer" in page.text
    assert get(browse, address, accept="*/*").status_code == 404
    assert get(browse, "/ohif/missing.0f6159c501addfe9.js", accept="text/html,*/*").status_code == 404
    assert get(browse, "/ohif/missing.0f6159c501addfe9.js").headers["cache-control"] == NO_STORE
    to_folder = get(browse, "/ohif")
    assert (to_folder.status_code, to_folder.headers["location"]) == (302, "/ohif/")


@pytest.mark.parametrize(
    "path",
    ["/ohif/../secret.js", "/ohif/%2e%2e/secret.js", "/ohif/..%2fsecret.js", "/ohif/assets/..%2f..%2fsecret.js", "/ohif//secret.js",
     "/ohif/link.js", "/ohif/folder/secret.js", "/ohif/%00.js", f"/ohif/{APP}.gz", "/ohif/%2fetc%2fpasswd"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_served(browse: Browse, path: str):
    answer = browse.ask(path)  # http.client sends the path as it is
    assert answer.status == 404, answer.body
    assert "secret" not in answer.body


def test_the_configuration_names_this_site_only(browse: Browse):
    text = get(browse, "/ohif/app-config.js").text
    assert "from the folder" not in text
    assert not re.search("https?:|//", text)
    options = json.loads(re.search(r"window\.config = (\{.*?\n\});", text, re.DOTALL)[1])
    assert (options["routerBasename"], options["showStudyList"], len(options["dataSources"])) == ("/ohif", False, 1)
    source = options["dataSources"][0]["configuration"]
    assert options["name"] == source["friendlyName"] == "City Hospital </script>"
    assert (source["imageRendering"], source["thumbnailRendering"], source["omitQuotationForMultipartRequest"]) == (
        "wadors",
        "wadors",
        True,
    )
    assert 'window.location.origin + "/dicom-web"' in text


FILES = ("/ohif/", f"/ohif/{APP}", "/ohif/app-config.js", "/ohif")


def test_nothing_is_served_without_a_login_which_leads_back_to_the_study(browse: Browse):
    stranger = httpx.Client(base_url=f"http://127.0.0.1:{browse.port}")
    with stranger:
        for path in FILES:
            assert stranger.get(path).status_code == 403
        to_login = stranger.get("/ohif/viewer?StudyInstanceUIDs=1.2.3.1", headers={"accept": "text/html"})
        assert to_login.headers["location"] == "/-/login?next=/ohif/viewer%3FStudyInstanceUIDs%3D1.2.3.1"
        assert stranger.post("/ohif/").status_code == 405
        for who, status in (("pacs", (200, 302)), ("rest", (403,))):
            for path in FILES:
                assert stranger.get(path, headers={"authorization": f"Bearer {who}"}).status_code in status, path
        for path in ("/", "/index.json", "/file/s1/s1.dcm"):
            assert stranger.get(path, headers={"authorization": "Bearer pacs"}).status_code == 403


def test_a_study_has_a_link_to_the_viewer(browse: Browse):
    assert '<a class="button" href="/ohif/viewer?StudyInstanceUIDs=1.2.3.1">Open in viewer</a>' in browse.page("/dicom/1.2.3.1").body


def test_another_viewer_has_the_link_and_without_a_folder_there_is_no_ohif(tmp_path: Path):
    address = "weasis://%24dicom%3Ars+-r+%22studyUID%3D{StudyInstanceUID}%22"
    other = Browse(make_ledger(tmp_path), tmp_path / "log", "--no-login", BROWSE_VIEWER_URL=address).ready()
    try:
        assert f'href="{address.replace("{StudyInstanceUID}", "1.2.3.1")}">Open in viewer<' in other.page("/dicom/1.2.3.1").body
        assert other.page("/ohif/index.html").status == 404
    finally:
        other.stop()


def test_without_a_viewer_there_is_no_link_and_a_folder_without_one_is_a_wrong_setting(tmp_path: Path):
    ledger = make_ledger(tmp_path)
    plain = Browse(ledger, tmp_path / "log", "--no-login").ready()
    try:
        assert "Open in viewer" not in plain.page("/dicom/1.2.3.1").body
    finally:
        plain.stop()
    wrong = Browse(ledger, tmp_path / "log2", "--no-login", BROWSE_VIEWER_PATH=str(tmp_path))
    assert wrong.process.wait(30) == 2
    assert "BROWSE_VIEWER_PATH" in wrong.said()
    assert "run scripts/viewer" in wrong.said()
