"""A real browser on the real process: Debian's chromium with playwright. Without chromium these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from storage_ledger.system.sqlite import sqlite
from tests.support.browsing import PASSWORD, Browse, hash_of, make_archive

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
SCREENSHOTS = Path(__file__).parent / "screenshots"
SAVED = os.environ.get("SCREENSHOTS")
"""Which screenshots to save, for people to look at: None, `wide`, or `all` widths, which takes minutes. Each light and dark."""

WIDTHS = (360, 768, 1024, 1400, 1920)
WIDE = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}
TITLE, CONTACT = "City Hospital, a test installation", "PACS team <pacs@city.example>, phone 1234"

expect.set_options(timeout=20_000)  # a machine may be busy


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium, once per module: playwright keeps an event loop running in this thread."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def opened(chromium: Browser, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    """Web pages open to everyone."""
    browse = Browse(archive, tmp_path_factory.mktemp("log") / "log", "--no-login", BROWSE_SQL_USERS="*")
    yield browse
    browse.stop()


@pytest.fixture(scope="module")
def guarded(chromium: Browser, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browse]:
    """Web pages where jane may log in."""
    login = {"BROWSE_USER": "jane", "BROWSE_PASSWORD_HASH": hash_of(PASSWORD)}
    browse = Browse(archive, tmp_path_factory.mktemp("log") / "log", BROWSE_TITLE=TITLE, BROWSE_CONTACT=CONTACT, **login)
    yield browse
    browse.stop()


@pytest.fixture
def broken(chromium: Browser, archive: Path, tmp_path: Path) -> Iterator[Browse]:
    """Web pages on an index without studies."""
    folder = shutil.copytree(archive, tmp_path / "archive")
    with closing(sqlite.connect(folder / "ledger" / "index.db")) as index:
        index.execute("DROP TABLE dicom_studies")
    browse = Browse(folder, tmp_path / "log", "--no-login", BROWSE_CONTACT=CONTACT)
    yield browse
    browse.stop()


class Visitor:
    """A page that records every complaint of the browser."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.url = url
        self.complaints: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: None if request.url.startswith((url, "data:")) else self.complaints.append(request.url))

    def go(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def shoot(self, name: str) -> None:
        """Save a screenshot if they are wanted."""
        if SAVED:
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)  # playwright creates the folder

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            where = message.location.get("url", "")
            if where == self.page.url and any(status in message.text for status in ("400", "403", "404", "500")):
                return  # the page itself, which is expected to have one of these status codes
            self.complaints.append(f"{message.type}: {message.text} {where}")


@pytest.fixture(scope="module")
def one_page(chromium: Browser, opened: Browse) -> Iterator[Visitor]:
    context = chromium.new_context(timezone_id="Asia/Kolkata", permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(20_000)
    yield Visitor(context, opened.url)
    context.close()


@pytest.fixture
def reader(one_page: Visitor) -> Iterator[Visitor]:
    """A visitor of the open site, in India, who only reads, and so can reuse one browser page in many tests: a new one costs a second."""
    one_page.complaints.clear()
    one_page.page.set_viewport_size(WIDE)
    one_page.page.emulate_media(color_scheme="light", media="screen")
    yield one_page
    assert one_page.complaints == []


@pytest.fixture(scope="module")
def page_with_login(chromium: Browser, guarded: Browse) -> Iterator[Visitor]:
    context = chromium.new_context(viewport=WIDE)
    yield Visitor(context, guarded.url)
    context.close()


@pytest.fixture
def stranger(page_with_login: Visitor) -> Iterator[Visitor]:
    """A visitor of the site with a login, not logged in."""
    page_with_login.page.context.clear_cookies()
    page_with_login.complaints.clear()
    yield page_with_login
    assert page_with_login.complaints == []
