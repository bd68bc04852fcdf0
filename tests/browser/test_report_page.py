"""The report about a study and the download of its proof, in a real browser."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import WIDE, Visitor
from tests.browser.test_pages import look_at
from tests.integration.test_browse_proofs import sign
from tests.support.browsing import CT, Browse


@pytest.fixture
def auditor(chromium: Browser, archive: Path, tmp_path: Path) -> Iterator[Visitor]:
    """A visitor, in India, of an archive with a checkpoint."""
    folder = shutil.copytree(archive, tmp_path / "archive")
    sign(folder)
    browse = Browse(folder, tmp_path / "log", "--no-login")
    context = chromium.new_context(viewport=WIDE, timezone_id="Asia/Kolkata", color_scheme="light")
    made = Visitor(context, browse.url)
    yield made
    context.close()
    browse.stop()
    assert made.complaints == []


def test_report_is_found_read_and_printed_and_the_proof_downloaded(auditor: Visitor):
    page = auditor.go(f"/dicom/{CT}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download proof").click()
    with zipfile.ZipFile(download.value.path()) as bundle:
        assert sum(name.endswith(".tlog-proof") for name in bundle.namelist()) == 12
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"DICOM study {CT}")
    entry = page.locator(".report-entries li").first
    utc, here = entry.locator(".whole").inner_text(), entry.locator("time").inner_text()
    assert utc.endswith(" UTC")
    [minute] = re.findall(r"\d\d:(\d\d)", here)
    assert int(minute) == (int(utc[14:16]) + 30) % 60, f"India is half an hour apart: {here}"
    code = page.get_by_role("img", name="The signed checkpoint as a QR code")
    expect(code).to_be_visible()
    box = code.locator("svg").bounding_box()
    assert box is not None
    assert 200 < box["width"] == pytest.approx(box["height"], abs=1), "large enough for a telephone"
    look_at(auditor, "report")
    page.set_viewport_size(WIDE)
    page.emulate_media(media="print")
    expect(code).to_be_visible()
    expect(page.get_by_role("navigation").first).to_be_hidden()
    expect(page.get_by_role("contentinfo")).to_contain_text("UTC+05:30")
    auditor.shoot("report-print")
