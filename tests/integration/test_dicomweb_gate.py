"""Who may use DICOMweb: the gate of the web page, tokens, and pages of other sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage_ledger.web.auth.credentials import new_token
from tests.support.browsing import CT, PASSWORD, Browse, hash_of, make_archive

VIEWER = "https://viewer.example.org"


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browse, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("gate")
    tokens = {grant: new_token() for grant in ("dicomweb", "files", "index,ledger")}
    environment = {
        "BROWSE_PASSWORD_HASH": f"jane:{hash_of(PASSWORD)}",
        "BROWSE_TOKENS": " ".join(f"t{number}:{grant}:{hashed}" for number, (grant, (_, hashed)) in enumerate(tokens.items())),
        "BROWSE_CORS_ORIGINS": VIEWER,
        "BROWSE_PUBLIC_URL": "https://images.example.org/archive/",
    }
    browse = Browse(make_archive(folder / "archive"), folder / "browse.log", **environment)
    yield browse, {grant: text for grant, (text, _) in tokens.items()}
    browse.stop()


def test_who_may(browse: tuple[Browse, dict[str, str]]) -> None:
    site, tokens = browse
    address = f"{site.url}/dicom-web/studies"
    answer = httpx.get(address)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(address, headers={"Accept": "text/html"}).status_code == 302
    statuses = {grant: httpx.get(address, headers={"Authorization": f"Bearer {text}"}).status_code for grant, text in tokens.items()}
    assert statuses == {"dicomweb": 200, "files": 403, "index,ledger": 403}
    others = {"Authorization": f"Bearer {tokens['dicomweb']}"}
    for path in ("/index/studies.json", "/file/ct-1/ct-1.dcm", "/dicom"):
        assert httpx.get(site.url + path, headers=others).status_code == 403
    with httpx.Client(base_url=site.url) as client:
        form = client.get("/-/login").text
        secret = re.search(r'name="csrftoken" value="([^"]+)"', form)
        fields = {"username": "jane", "password": PASSWORD, **({"csrftoken": secret[1]} if secret else {})}
        assert client.post("/-/login", data=fields).status_code == 302
        assert len(client.get("/dicom-web/studies?PatientID=P-1").json()) == 1


def test_pages_of_other_sites(browse: tuple[Browse, dict[str, str]]) -> None:
    site, tokens = browse
    address = f"{site.url}/dicom-web/studies"
    asking = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(address, headers={"Origin": VIEWER, **asking})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, VIEWER)
    assert "access-control-allow-credentials" not in allowed.headers
    other = httpx.options(address, headers={"Origin": "https://evil.example.org", **asking})
    assert (other.status_code, other.headers.get("access-control-allow-origin")) == (400, None)
    who = {"Authorization": f"Bearer {tokens['dicomweb']}"}
    assert httpx.get(address, headers={"Origin": VIEWER, **who}).headers["access-control-allow-origin"] == VIEWER
    for origin, path in (("https://evil.example.org", "/dicom-web/studies"), (VIEWER, "/"), (VIEWER, "/-/login")):
        assert "access-control-allow-origin" not in httpx.get(site.url + path, headers={"Origin": origin, **who}).headers


def test_addresses_are_those_of_the_setting(browse: tuple[Browse, dict[str, str]]) -> None:
    site, tokens = browse
    (study,) = httpx.get(f"{site.url}/dicom-web/studies?PatientID=P-1", headers={"Authorization": f"Bearer {tokens['dicomweb']}"}).json()
    assert study["00081190"]["Value"] == [f"https://images.example.org/archive/dicom-web/studies/{CT}"]


def test_the_log_says_who_and_no_patient(browse: tuple[Browse, dict[str, str]]) -> None:
    site, tokens = browse
    httpx.get(f"{site.url}/dicom-web/studies/{CT}/metadata?PatientName=DOE", headers={"Authorization": f"Bearer {tokens['dicomweb']}"})
    said = site.said()
    assert re.search(r"event=browse.looked actor=token:t0 route=dicom-web .*position=\d+", said)
    assert "DOE" not in said
    assert CT not in said


@pytest.mark.parametrize("setting", ["viewer.example.org", "https://viewer.example.org/", "*", "javascript:1"])
def test_an_origin_that_is_none_is_refused_at_the_start(tmp_path: Path, setting: str) -> None:
    with pytest.raises(AssertionError, match="BROWSE_CORS_ORIGINS"):
        Browse(make_archive(tmp_path / "archive"), tmp_path / "browse.log", "--no-login", BROWSE_CORS_ORIGINS=setting)
