"""Checkpoints and hash tiles over real HTTP: for everybody if wanted, with what caches may keep; never an entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage_ledger.ledger.migrate import migrate
from storage_ledger.web.auth.credentials import hash_password
from tests.integration.test_browse import Browse
from tests.support.making import damage
from tests.support.signed_ledger import SignedLedger, opened

FOR_EVER = "max-age=31536000, immutable"
PASSWORD = "correct horse"  # noqa: S105 - of these tests only


def make(folder: Path) -> list[str]:
    """Make a ledger with checkpoints of 301 and 600 entries, and return the notes."""
    (folder / "ledger").mkdir()
    migrate(folder / "ledger" / "ledger.db")
    notes = []
    with opened(folder) as made:
        for count in (300, 299):
            made.append(count)
            notes.append(made.sign())
        made.index()
    return notes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tlog")


@pytest.fixture(scope="module")
def notes(folder: Path) -> list[str]:
    return make(folder)


@pytest.fixture(scope="module")
def leaves(folder: Path, notes: list[str]) -> list[bytes]:
    with opened(folder) as made:
        return [entry.leaf_hash for entry in made.ledger.read(0, 1000)]


@pytest.fixture(scope="module")
def public(folder: Path, notes: list[str]) -> Iterator[Browse]:
    token = f"rest:index/arrivals:{hashlib.sha256(b'rest').hexdigest()}"
    environment = {"BROWSE_PASSWORD_HASH": f"jane:{hash_password(PASSWORD)}", "BROWSE_TOKENS": token, "TLOG_PUBLIC": "true"}
    started = Browse(folder / "ledger", folder / "log", ARCHIVE_PATH=str(folder / "archive"), **environment).ready()
    yield started
    started.stop()


def get(browse: Browse, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{browse.port}{path}", headers=headers, timeout=20)


def test_the_newest_checkpoint_is_shown_with_what_witnesses_have_added(public: Browse, folder: Path, notes: list[str]):
    answer = get(public, "/tlog/checkpoint")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert answer.headers["cache-control"] == "public, max-age=5"
    assert answer.text == notes[-1]


def test_tiles_are_shown_as_far_as_the_checkpoint_goes(public: Browse, leaves: list[bytes]):
    tiles = {"0/000": leaves[:256], "0/001": leaves[256:512], "0/002.p/88": leaves[512:600], "0/002.p/45": leaves[512:557],
             "0/000.p/3": leaves[:3]}  # fmt: skip
    for address, hashes in tiles.items():
        answer = get(public, f"/tlog/tile/{address}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream"), address
        assert answer.content == b"".join(hashes), address
        assert answer.headers["cache-control"] == f"public, {FOR_EVER}"
        head = get(public, f"/tlog/tile/{address}", "HEAD")
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(hashes) * 32), b"")
    roots = get(public, "/tlog/tile/1/000.p/2").content
    assert len(roots) == 64


@pytest.mark.parametrize(
    "path",
    ["/tlog/tile/0/002", "/tlog/tile/0/002.p/89", "/tlog/tile/0/003.p/1", "/tlog/tile/1/000", "/tlog/tile/1/000.p/3",
     "/tlog/tile/2/000.p/1", "/tlog/tile/0/0", "/tlog/tile/0/x000/000", "/tlog/tile/64/000", "/tlog/tile/0/000.p/0",
     "/tlog/tile/-1/000", "/tlog/tile/0/%00",
     "/tlog/tile/0/..%2f000", "/tlog/tile/", "/tlog/tile", "/tlog/", "/tlog/checkpoint/", "/tlog/x%ff", "/tlog/%0aindex.json",
     "/tlog/tile/63/x999/x999/x999/x999/x999/x999/999"],
)  # fmt: skip
def test_every_other_address_is_unknown(public: Browse, path: str):
    answer = public.ask(path)
    assert answer.status == 404, answer.body
    assert answer.header("cache-control") == "no-store"


def test_entries_are_never_published(public: Browse):
    public.log_in("jane", PASSWORD)
    for path in ("/tlog/tile/entries/000", "/tlog/tile/entries/002.p/88"):
        for answer in (get(public, path), public.ask(path)):
            body = answer.text if isinstance(answer, httpx.Response) else answer.body
            assert "Entries are not published, only their hashes" in body
    assert get(public, "/tlog/tile/entries/000").status_code == 404


def test_only_these_addresses_are_open_and_only_for_reading(public: Browse):
    for path in ("/ledger/entries.json", "/index.json", "/", "/tlog", "/tlogx/checkpoint", "/dicom-web/studies"):
        assert get(public, path).status_code in {401, 403}, path
    for path in ("//tlog/../index.json", "/tlog/..\\index", "/%74log/checkpoint"):
        assert public.ask(path).status == 400, path
    assert get(public, "/tlog/../index.json").status_code == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(public, "/tlog/checkpoint", method).status_code == 405
    assert "/tlog" not in public.said(), "hashes tell nothing of patients, so nobody is logged"


def test_unless_they_are_public_they_are_for_those_who_have_access(folder: Path, notes: list[str]):
    token = f"rest:index/arrivals:{hashlib.sha256(b'rest').hexdigest()}"
    ledger, archive = folder / "ledger", str(folder / "archive")
    private = Browse(ledger, folder / "private.log", ARCHIVE_PATH=archive, BROWSE_TOKENS=token).ready()
    try:
        for path in ("/tlog/checkpoint", "/tlog/tile/0/000", "/tlog/nothing"):
            assert get(private, path).status_code == 403
        answer = get(private, "/tlog/tile/0/000", Authorization="Bearer rest")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, f"private, {FOR_EVER}")
        assert get(private, "/tlog/checkpoint", Authorization="Bearer rest").text == notes[-1]
    finally:
        private.stop()


def test_a_ledger_that_does_not_lead_to_its_newest_checkpoint_shows_no_tiles(tmp_path: Path):
    notes = make(tmp_path)
    with opened(tmp_path) as made:
        damage(made.ledger, "UPDATE entries SET leaf_hash = zeroblob(32) WHERE position = 300")
    forked = Browse(tmp_path / "ledger", tmp_path / "log", "--no-login", ARCHIVE_PATH=str(tmp_path / "archive")).ready()
    try:
        assert get(forked, "/tlog/tile/0/000").status_code == 200
        answer = get(forked, "/tlog/tile/0/001")
        assert (answer.status_code, answer.text.partition(":")[0]) == (503, "checkpoint-forked")
        assert get(forked, "/tlog/checkpoint").text == notes[-1]
    finally:
        forked.stop()


def test_an_archive_that_is_away_or_has_no_checkpoint_is_told_apart(tmp_path: Path):
    (tmp_path / "ledger").mkdir()
    migrate(tmp_path / "ledger" / "ledger.db")
    SignedLedger(tmp_path).close()
    with opened(tmp_path) as made:
        made.index()
    (tmp_path / "archive").rename(tmp_path / "away")
    browse = Browse(tmp_path / "ledger", tmp_path / "log", "--no-login", ARCHIVE_PATH=str(tmp_path / "archive")).ready()
    try:
        answer = get(browse, "/tlog/checkpoint")
        assert (answer.status_code, answer.text, "retry-after" in answer.headers) == (503, "The archive is not available\n", True)
        assert get(browse, "/tlog/tile/0/000").status_code == 503
        (tmp_path / "away").rename(tmp_path / "archive")
        assert get(browse, "/tlog/checkpoint").text == "No checkpoint has been signed yet\n"
        assert get(browse, "/tlog/tile/0/000").status_code == 404
    finally:
        browse.stop()
