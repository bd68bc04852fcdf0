"""The web page below a path of its host (BROWSE_PUBLIC_URL): every link stays below it, and all addresses work."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest

from storage_ledger.errors import BadSettings
from storage_ledger.web.auth.credentials import BrowseSettings
from tests.integration.test_browse_viewer import APP, make_viewer
from tests.support.browsing import CT, PASSWORD, Browse, hash_of, make_archive

PREFIX = "/imaging/archive"
ADDRESSES = re.compile(r"<[^>]*?\s(?:href|src|action)=\"([^\"]*)\"")
PAGE = f'<!doctype html><script src="/ohif/{APP}"></script><a href="https://ohif.org/">x</a>'


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    folder = tmp_path_factory.mktemp("prefix")
    viewer = make_viewer(folder)
    (viewer / "index.html").write_text(PAGE)
    settings = {
        "BROWSE_USER": "jane",
        "BROWSE_PASSWORD_HASH": hash_of(PASSWORD),
        "BROWSE_SQL_USERS": "jane",
        "BROWSE_VIEWER_PATH": str(viewer),
    }
    made = Browse(make_archive(folder), folder / "log", BROWSE_PUBLIC_URL=f"https://images.example.org{PREFIX}/", **settings)
    yield made
    made.stop()


@pytest.fixture
def stranger(browse: Browse) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=browse.url, timeout=30, headers={"Accept": "text/html"}) as client:
        yield client


@pytest.fixture
def client(stranger: httpx.Client) -> httpx.Client:
    """Somebody who is logged in."""
    page = stranger.get(f"{PREFIX}/-/login")
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', page.text))
    answer = stranger.post(f"{PREFIX}/-/login", data={"username": "jane", "password": PASSWORD, "next": "/dicom", **hidden})
    assert (answer.status_code, answer.headers["location"]) == (302, f"{PREFIX}/dicom")
    return stranger


def addresses(page: str) -> set[str]:
    return {unescape(each) for each in ADDRESSES.findall(page)}


def shape(address: str) -> tuple[str, tuple[str, ...]]:
    """Return what tells one page from another: of a table, one page with each set of parameters is enough."""
    parts = urlsplit(address)
    return re.sub(r"[0-9]+", "0", parts.path), tuple(sorted(parse_qs(parts.query)))


def test_every_link_of_every_page_stays_below_the_prefix_and_leads_somewhere(client: httpx.Client):
    todo, seen = deque([f"{PREFIX}/"]), set()
    visited = 0
    while todo:
        address = todo.popleft()
        if shape(address) in seen:
            continue
        seen.add(shape(address))
        visited += 1
        answer = client.get(address)
        assert answer.status_code in {200, 302} or "/image/" in address or (answer.status_code == 400 and "_sort" in address), address
        if answer.status_code == 302:
            assert answer.headers["location"].startswith(f"{PREFIX}/"), address
            todo.append(answer.headers["location"])
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        for found in addresses(answer.text):
            if urlsplit(found).scheme or found.startswith("#"):
                continue
            assert not found.startswith("/") or found.startswith(f"{PREFIX}/"), (address, found)
            if "_fts_" not in found:  # Datasette's links to the rows of the search's own tables lead nowhere
                todo.append(urljoin(address, found).partition("#")[0])
    assert visited > 100
    assert {f"{PREFIX}/dicom", f"{PREFIX}/attention", f"{PREFIX}/favicon.ico", f"{PREFIX}/ohif/viewer"} <= {path for path, _ in seen}


@pytest.mark.parametrize("path", ["/index/files.json?_size=1", "/index.json", "/.json", "/index/files.json?_facet=modality&_size=1"])
def test_addresses_in_json_have_the_prefix(client: httpx.Client, path: str):
    def texts(value: object) -> Iterator[str]:
        match value:
            case dict():
                for each in value.values():
                    yield from texts(each)
            case list():
                for each in value:
                    yield from texts(each)
            case str():
                yield value

    found = [text for text in texts(client.get(PREFIX + path).json()) if text.startswith("/")]
    assert all(text.startswith(f"{PREFIX}/") for text in found), found


def test_a_login_leads_back_below_the_prefix_and_a_logout_to_its_start(client: httpx.Client, browse: Browse):
    asked = httpx.get(f"{browse.url}{PREFIX}/dicom/{CT}?series=1", headers={"Accept": "text/html"})
    assert asked.headers["location"] == f"{PREFIX}/-/login?next=/dicom/{CT}%3Fseries%3D1"
    hidden = dict(re.findall(r'<input type="hidden" name="(csrftoken)" value="([^"]+)"', client.get(f"{PREFIX}/").text))
    answer = client.post(f"{PREFIX}/-/logout", data=hidden)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{PREFIX}/")
    assert client.get(f"{PREFIX}/").status_code == 302


def test_a_request_without_the_prefix_is_answered_too_for_health_checks_and_for_proxies_that_remove_it(client: httpx.Client):
    assert client.get("/-/health").text == "ok"
    page = client.get(f"/dicom/{CT}")
    assert page.status_code == 200
    assert f"{PREFIX}/ohif/viewer?StudyInstanceUIDs={CT}" in addresses(page.text)


def test_what_looks_like_the_prefix_is_not_removed_and_hostile_paths_are_still_refused(client: httpx.Client):
    assert client.get(f"{PREFIX}x/dicom").status_code == 404
    assert client.get(f"{PREFIX}{PREFIX}/dicom").status_code == 404
    assert client.get(f"{PREFIX}//evil.example/").status_code == 400
    assert client.get(f"{PREFIX}/%5cevil.example/").status_code == 400
    assert client.get(f"{PREFIX}/index~/files").status_code == 400


def test_the_viewer_and_dicomweb_know_the_prefix(client: httpx.Client):
    assert client.get(f"{PREFIX}/ohif").headers["location"] == f"{PREFIX}/ohif/"
    page = client.get(f"{PREFIX}/ohif/viewer?StudyInstanceUIDs={CT}")
    assert page.text == PAGE.replace("/ohif/app", f"{PREFIX}/ohif/app")
    config = client.get(f"{PREFIX}/ohif/app-config.js").text
    assert f'window.PUBLIC_URL = "{PREFIX}/ohif/";' in config
    assert f'"routerBasename": "{PREFIX}/ohif"' in config
    assert f'window.location.origin + "{PREFIX}/dicom-web"' in config
    [study] = client.get(f"{PREFIX}/dicom-web/studies?StudyInstanceUID={CT}", headers={"Accept": "application/dicom+json"}).json()
    assert study["00081190"]["Value"] == [f"https://images.example.org{PREFIX}/dicom-web/studies/{CT}"]


@pytest.mark.parametrize(
    "url", ["https://x.example/dicom", "https://x.example/ohif/a", "https://x.example/a/../b", "https://x.example/a b"]
)
def test_a_prefix_that_could_be_read_in_two_ways_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BROWSE_PUBLIC_URL", url)
    with pytest.raises(BadSettings, match="BROWSE_PUBLIC_URL"):
        BrowseSettings.load()


def test_templates_and_scripts_have_no_address_without_the_prefix():
    web = Path(__file__).resolve().parents[2] / "storage_ledger" / "web"
    for template in (web / "templates").glob("*.html"):
        assert not re.findall(r'(?:href|src|action)="/', template.read_text()), template.name
    for script in (web / "static").glob("*.js"):
        assert not re.findall(r'(?<!ROOT \+ )"/(?!about")[a-z]', script.read_text()), script.name
