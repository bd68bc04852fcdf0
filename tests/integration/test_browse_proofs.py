"""Proofs and reports of the web page, over HTTP, on a real archive."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage_ledger.settings import Settings
from storage_ledger.system.sqlite import sqlite
from storage_ledger.wiring.checkpoint import signer_of
from storage_ledger.wiring.stores import reading
from tests.support.browsing import CT, Browse, make_archive


def settings_of(folder: Path) -> Settings:
    return Settings(ledger_path=folder / "ledger", archive_path=folder / "archive", uploads_path=folder / "uploads")


def sign(folder: Path) -> None:
    """Sign a checkpoint of all entries."""
    settings = settings_of(folder)
    (folder / "archive" / ".ledger").mkdir(exist_ok=True)
    with reading(settings) as ledger:
        signer_of(settings, ledger).sign(lambda: ledger.last().position)


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def folder(unsigned, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("signed") / "archive"
    shutil.copytree(unsigned, made)
    sign(made)
    return made


class Site:
    """The web page of an archive."""

    def __init__(self, folder: Path) -> None:
        self.browse = Browse(folder, folder / "browse.log", "--no-login")

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.browse.url).netloc, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site(folder) -> Iterator[Site]:
    made = Site(folder)
    yield made
    made.browse.stop()


def unpacked(data: bytes, folder: Path) -> list[Path]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
    return sorted(folder.glob("*/*.tlog-proof"))


def verified(folder: Path, bundle: Path, *files: Path) -> int:
    """Check a download as an auditor does, with the policy of the ledger and the program of the download."""
    policy = bundle / "policy"
    with reading(settings_of(folder)) as ledger:
        keys = [each.data["vkey"] for each in ledger.of_no_study(["key"], 10)]
    policy.write_text("".join(f"log {key}\n" for key in keys) + "quorum none\n")
    program = next(bundle.glob("*/verify.py"))
    proofs = sorted(bundle.glob("*/*.tlog-proof"))
    return subprocess.run([sys.executable, "-I", "-S", program, policy, *proofs, *files], check=False, capture_output=True).returncode


@pytest.mark.parametrize(("path", "entries"), [("/proof-study/ct-1", 2), (f"/proof/{CT}", 12)])
def test_downloaded_proof_is_valid_and_proves_the_archived_file(site, folder, tmp_path, path, entries):
    status, headers, data = site.get(path)
    assert status == 200, data
    assert headers["content-type"] == "application/zip"
    assert headers["content-disposition"].startswith('attachment; filename="proof-')
    assert headers["cache-control"] == "no-store"
    assert len(unpacked(data, tmp_path)) == entries
    assert verified(folder, tmp_path, folder / "archive" / "ct-1" / "ct-1.dcm") == 0
    assert verified(folder, tmp_path, folder / "archive" / "mr-1" / "mr-1.dcm") == 1
    assert site.get(path, "HEAD")[2] == b""


def test_download_is_in_the_access_log(site):
    site.get("/proof-study/ct-2")
    site.get("/studies/ct-2/report")
    assert "route=proof-study http_status=200 study_id=ct-2" in site.browse.said()
    assert "route=studies http_status=200 study_id=ct-2" in site.browse.said()
    assert CT not in site.browse.said()


def test_report_has_entries_digests_and_the_checkpoint_as_text_and_code(site, folder):
    for path, entries in (("/studies/ct-1/report", 2), (f"/dicom/{CT}/report", 12)):
        status, _, page = site.get(path)
        text = page.decode()
        assert status == 200
        assert f"{entries} entries were checked against the checkpoint" in text
        with sqlite.connect(f"file:{folder / 'ledger' / 'ledger.db'}?mode=ro", uri=True) as connection:
            [(digest, leaf)] = connection.execute("SELECT payload_sha256, hex(leaf_hash) FROM entries WHERE position = 1").fetchall()
        assert digest in text
        assert leaf.lower() in text
        [note] = [each for each in (folder / "archive" / ".ledger" / "checkpoints").iterdir() if each.is_file()]
        assert note.read_text().splitlines()[2] in text
        assert '<svg xmlns="http://www.w3.org/2000/svg" viewBox=' in text or "<svg viewBox=" in text
        assert " style=" not in text, "the policy forbids it"


def test_hostile_name_stays_text_in_a_report(site):
    text = site.get("/studies/evil-1/report")[2].decode()
    assert "EVE" in text
    assert "<script>document" not in text
    assert "<img src=x" not in text


def test_unknown_studies_have_no_proof_and_no_report(site):
    for path in ("/proof-study/nobody", "/proof/1.2.3.4", "/studies/nobody/report", "/dicom/1.2.3.4/report", "/proof-study/ct-1/x"):
        assert site.get(path)[0] == 404, path


def test_entry_that_was_changed_since_is_not_proved(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "archive")
    with sqlite.connect(copy / "ledger" / "ledger.db") as connection:
        trigger = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries_update'").fetchone()[0]
        connection.executescript(
            f"DROP TRIGGER entries_update; UPDATE entries SET leaf_hash = randomblob(32) WHERE position = 9; {trigger}"
        )
    (copy / "ledger" / "tree.cache").unlink(missing_ok=True)
    site = Site(copy)
    try:
        status, _, data = site.get("/proof-study/ct-1")
        assert (status, json.loads(data)["why"]) == (409, "checkpoint-forked")
        page = site.get("/studies/ct-1/report")[2].decode()
        assert "<strong>Not proved:</strong>" in page
        assert "<svg" not in page
    finally:
        site.browse.stop()


def test_button_says_why_there_is_no_proof_yet(unsigned, tmp_path):
    copy = shutil.copytree(unsigned, tmp_path / "archive")
    site = Site(copy)
    try:
        for path, page in (("/proof-study/ct-1", "/studies/ct-1"), (f"/proof/{CT}", f"/dicom/{CT}")):
            status, _, data = site.get(path)
            assert (status, json.loads(data)["why"]) == (409, "checkpoint-none")
            text = site.get(page)[2].decode()
            assert 'id="no-proof">No checkpoint has been signed yet.' in text
            assert f'href="{path}"' not in text
        assert "<strong>Not proved:</strong> No checkpoint has been signed yet." in site.get("/studies/ct-1/report")[2].decode()
    finally:
        site.browse.stop()
