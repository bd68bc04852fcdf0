"""The real OHIF in the real browser: from a study's page to its images, with a login, over DICOMweb."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SCREENSHOTS, WIDE
from tests.support.browsing import CT, PASSWORD, Browse, hash_of
from tests.support.nginx import Nginx
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
LOADS_WITHIN_MS = 120_000
"""OHIF compiles 27 MB of scripts first, and draws without a graphics card."""

COLOURS = """() => {
  const canvas = [...document.querySelectorAll("canvas")].find(each => each.width > 400);  // the others are for the small pictures
  if (canvas === undefined) return 0;
  const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(data).size;
}"""
"""How many colours the image has: one if it is black."""


@pytest.fixture(scope="module")
def viewer() -> Path:
    """A folder that scripts/viewer has prepared: the one that is named, or the demo's, which npm fetches the first time."""
    if given := os.environ.get("BROWSE_TEST_VIEWER"):
        return Path(given)
    folder = ROOT / "build" / "viewer"
    patience = {"npm_config_fetch_retries": "0", "npm_config_fetch_timeout": "60000"}
    done = subprocess.run([ROOT / "scripts" / "viewer", folder], env=os.environ | patience, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no OHIF: set BROWSE_TEST_VIEWER to a folder that scripts/viewer has prepared. {done.stderr}")
    return folder


@pytest.fixture(scope="module")
def with_viewer(chromium: Browser, viewer: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    log = tmp_path_factory.mktemp("log") / "log"
    browse = Browse(archive, log, BROWSE_USER="jane", BROWSE_PASSWORD_HASH=hash_of(PASSWORD), BROWSE_VIEWER_PATH=str(viewer))
    yield browse
    browse.stop()


@pytest.fixture
def page(chromium: Browser, with_viewer: Browse) -> Iterator[Page]:
    context = chromium.new_context(viewport=WIDE, ignore_https_errors=True)  # nginx has a certificate of its own
    context.set_default_timeout(LOADS_WITHIN_MS)
    yield context.new_page()
    context.close()


def opened(page: Page, url: str) -> None:
    """Log in, open the study's page and from it OHIF; return once its image is drawn. Nothing may fail or come from elsewhere."""
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.on("request", lambda asked: None if asked.url.startswith((f"{url}/", "data:", "blob:")) else refused.append(asked.url))
    page.goto(f"{url}/dicom/{CT}")
    page.get_by_label("User").fill("jane")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Open in viewer").click()
    page.wait_for_url(f"{url}/ohif/viewer?StudyInstanceUIDs={CT}")
    until(lambda: page.evaluate(COLOURS) > 10, LOADS_WITHIN_MS / 1000, what="an image")  # the policy forbids wait_for_function
    page.get_by_text("Skip all").click()  # the tour that OHIF offers at the first visit
    expect(page.get_by_text("Axial").first).to_be_visible()
    assert refused == []


def test_a_study_opens_in_ohif_after_the_login_and_its_image_is_drawn(page: Page, with_viewer: Browse):
    opened(page, with_viewer.url)
    page.screenshot(path=SCREENSHOTS / "ohif.png")


def test_a_study_opens_in_ohif_below_a_path_behind_nginx_with_tls(page: Page, viewer: Path, archive: Path, tmp_path: Path):
    nginx = Nginx(tmp_path, "/archive/")
    login = {"BROWSE_USER": "jane", "BROWSE_PASSWORD_HASH": hash_of(PASSWORD)}
    browse = Browse(archive, tmp_path / "log", BROWSE_PUBLIC_URL=nginx.public_url, BROWSE_VIEWER_PATH=str(viewer), **login)
    try:
        nginx.start(browse.url)
        opened(page, nginx.public_url)
        page.goto(f"{nginx.public_url}/dicom")
        expect(page.get_by_role("link", name="Doe, Jane").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        broken = page.evaluate("() => [...document.images].filter(each => each.complete && !each.naturalWidth).map(each => each.src)")
        assert broken == []
    finally:
        nginx.stop()
        browse.stop()
