"""The web page behind a real nginx with TLS, configured as docs/how-to/nginx.conf says, at the root of a host and below a path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.browsing import CT, PASSWORD, Browse, hash_of, make_archive
from tests.support.nginx import Nginx

CLIENT = "127.0.0.2"
"""Not the address from which nginx asks the page."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module", params=["/", "/archive/"])
def site(request: pytest.FixtureRequest, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Browse]]:
    folder = tmp_path_factory.mktemp("site")
    nginx = Nginx(folder, request.param)
    settings = {"BROWSE_USER": "jane", "BROWSE_PASSWORD_HASH": hash_of(PASSWORD), "BROWSE_TRUSTED_PROXIES": "127.0.0.1"}
    browse = Browse(archive, folder / "browse", BROWSE_PUBLIC_URL=nginx.public_url, BROWSE_HOSTS="localhost", **settings)
    nginx.start(browse.url)
    yield nginx, browse
    nginx.stop()
    browse.stop()


@pytest.fixture
def client(site: tuple[Nginx, Browse]) -> Iterator[httpx.Client]:
    """Somebody who is logged in."""
    nginx, _ = site
    transport = httpx.HTTPTransport(verify=nginx.context(), local_address=CLIENT)
    with httpx.Client(base_url=nginx.public_url, transport=transport, timeout=30, headers={"Accept": "text/html"}) as client:
        page = client.get("/-/login")
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', page.text))
        form = {"username": "jane", "password": PASSWORD, "next": f"/dicom/{CT}", **hidden}
        answer = client.post(
            "/-/login", data=form, headers={"X-Forwarded-For": "192.0.2.7", "Origin": nginx.public_url.removesuffix("/archive")}
        )
        assert answer.status_code == 302, answer.text
        assert answer.headers["location"] == f"{httpx.URL(nginx.public_url).path.rstrip('/')}/dicom/{CT}"
        yield client


def test_pages_have_the_headers_of_tls_and_cookies_of_this_host_alone(client: httpx.Client):
    page = client.get(f"/dicom/{CT}")
    assert page.status_code == 200
    assert page.headers["strict-transport-security"] == "max-age=31536000"
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert {cookie.name for cookie in client.cookies.jar} >= {"__Host-ds_actor"}
    assert all(cookie.secure and cookie.path == "/" for cookie in client.cookies.jar)


def test_addresses_in_dicomweb_are_those_that_a_client_can_ask(client: httpx.Client, site: tuple[Nginx, Browse]):
    nginx, _ = site
    json_only = {"Accept": "application/dicom+json"}
    [study] = client.get(f"/dicom-web/studies?StudyInstanceUID={CT}", headers=json_only).json()
    url = study["00081190"]["Value"][0]
    assert url == f"{nginx.public_url}/dicom-web/studies/{CT}"
    instances = client.get(f"{url}/metadata", headers=json_only).json()
    assert len(instances) == 6
    bulk = instances[0]["7FE00010"]["BulkDataURI"]
    assert bulk.startswith(f"{nginx.public_url}/dicom-web/")
    assert len(client.get(bulk, headers={"Accept": "application/octet-stream"}).content) == 64 * 64 * 2


def test_files_arrive_byte_for_byte_and_addresses_as_they_were_sent(client: httpx.Client, site: tuple[Nginx, Browse], archive: Path):
    file = archive / "archive" / "ct-1" / "ct-1.dcm"
    assert client.get("/file/ct-1/ct-1.dcm").content == file.read_bytes()
    assert client.get("/file/ct-1/ct-1.dcm", headers={"Range": "bytes=0-99"}).content == file.read_bytes()[:100]
    for hostile in ("//evil.example/", "/%5cevil.example/", "/index/files%2ejson", "/index/%66iles"):
        assert client.get(site[0].public_url + hostile).status_code in {400, 404}, hostile  # nginx decodes none, and merges none


def test_the_log_has_the_address_that_nginx_saw_and_nginx_logs_no_search(client: httpx.Client, site: tuple[Nginx, Browse]):
    nginx, browse = site
    assert client.get("/dicom?q=CANARY^NAME").status_code == 200
    [address] = {
        found for line in browse.said().splitlines() if "event=browse.login" in line for found in re.findall("address=([0-9.]+)", line)
    }
    assert address == CLIENT  # not what the client claims
    plain = httpx.get(f"http://localhost:{nginx.plain_port}/dicom?q=CANARY^NAME")
    assert plain.status_code == 301
    assert plain.headers["location"].startswith("https://localhost/dicom")
    assert "CANARY" not in nginx.said()
