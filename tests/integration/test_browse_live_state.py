"""The head of every page, and what the pages know about the running service, its volumes, and an index that is behind or gone."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.reason import Reason
from storage_ledger.index.follower import Index
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.operations.report.service_answer import ServiceAnswer, Space, ask
from storage_ledger.service.health import make_app
from storage_ledger.settings import SERVE_LOCK
from storage_ledger.system.http_server import WebServer
from storage_ledger.system.locks import held
from storage_ledger.system.metrics import Metrics
from storage_ledger.web.auth.credentials import new_token
from storage_ledger.web.pages.live_state import live_state
from storage_ledger.web.pages.service_state import ServiceState
from tests.support.browsing import CT, PASSWORD, Browse, hash_of, make_archive
from tests.support.waiting import until

PAGES = (
    "/",
    "/dicom",
    f"/dicom/{CT}",
    "/studies/ct-1",
    "/attention",
    "/ledger/entries/1",
    "/ledger/entries",
    "/index",
    "/index/files",
    "/no",
)


class Serve:
    """The HTTP endpoints of `serve`, with the values that a test chooses, while its lock is held."""

    def __init__(self, folder: Path) -> None:
        self.reasons: list[Reason] = []
        self.metrics = Metrics()
        self.server = WebServer(make_app(lambda: self.reasons, self.metrics.render), "127.0.0.1", 0)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(held(folder / "ledger" / SERVE_LOCK, "serve"))

    def close(self) -> None:
        self.server.stop()
        self._lock.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_archive(tmp_path / "archive")


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    with contextlib.closing(Serve(folder)) as serve:
        yield serve


@contextlib.contextmanager
def browsing(folder: Path, *arguments: str, **environment: str) -> Iterator[httpx.Client]:
    browse = Browse(folder, folder / "log", *(arguments or ("--no-login",)), **environment)
    try:
        with httpx.Client(base_url=browse.url, trust_env=False, timeout=15, headers={"Accept": "text/html"}) as client:
            yield client
    finally:
        browse.stop()


def head(client: httpx.Client, path: str = "/state") -> str:
    """Return the text of the state in a page's head; "" if there is none."""
    found = re.search(r'<p class="live".*?</p>', client.get(path).text, re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", found[0]).split()) if found else ""


def add(folder: Path, count: int) -> int:
    """Append entries that the index has not followed yet; return the last position."""
    with contextlib.closing(SqliteLedger(folder / "ledger" / "ledger.db")) as ledger, ledger.write() as tx:
        payload = {"reason": "not-json", "detail": "", "bytes": 1, "raw": "x", "raw_sha256": "", "source": "pubsub"}
        return [tx.append(NewEntry(Kind.REJECTED, payload), work_item=False) for _ in range(count)][-1].position


def rebuild(folder: Path) -> None:
    folder = folder / "ledger"
    with contextlib.closing(SqliteLedger(folder / "ledger.db")) as ledger, contextlib.closing(Index(folder / "index.db", ledger)) as index:
        index.rebuild()


def test_every_page_shows_whether_the_service_is_ready_and_why_not(folder: Path, serve: Serve):
    with browsing(folder, BROWSE_SERVICE_URL=serve.url) as client:
        until(lambda: head(client).startswith("Service ready"), what=lambda: head(client))
        assert {path: head(client, path).partition(" Entry")[0] for path in PAGES} == dict.fromkeys(PAGES, "Service ready")
        assert "1 thing needs" in client.get("/").text, "the quarantined study alone"
        serve.reasons = [Reason("redis-not-subscribed", "not receiving from Redis: redis-refused")]
        until(lambda: head(client).startswith("Service not ready"), what=lambda: head(client))
        assert {path: head(client, path).partition(" Entry")[0] for path in PAGES} == dict.fromkeys(PAGES, "Service not ready")
        home, attention = client.get("/").text, client.get("/attention").text
        assert "2 things need" in home
        assert "note-bad" in home
        assert "redis-not-subscribed" in home
        assert 'data-needs="2"' in client.get("/state").text
        for text in ("redis-not-subscribed", "not receiving from Redis: redis-refused", "Check that Redis runs at REDIS_URL"):
            assert text in attention
        serve.server.stop()
        until(lambda: head(client).startswith("Service does not answer"), what=lambda: head(client))
        assert "not-answering" in client.get("/attention").text


def test_free_space_and_unexplained_uploads_are_shown(folder: Path, serve: Serve):
    for name, free in (("uploads", 25e9), ("archive", 10e9), ("ledger", float("nan"))):
        serve.metrics.free_bytes.labels(name).set(free)
        serve.metrics.total_bytes.labels(name).set(100e9)
    serve.metrics.unexplained.set(3)
    with browsing(folder, BROWSE_SERVICE_URL=serve.url) as client:
        home = until(lambda: text if "Free space" in (text := client.get("/").text) else None)
        for text in ("archive, 10% free", "uploads, 25% free", "3 unexplained files", "storage-ledger reconcile"):
            assert text in home
        assert "ledger, " not in home, "it cannot be read"


def test_a_service_that_was_not_asked_is_amber_and_never_green(folder: Path):
    with contextlib.closing(SqliteLedger(folder / "ledger" / "ledger.db")) as ledger, ledger.write() as tx:
        quarantined = next(each for each in ledger.scan(0, 1000) if each.kind == Kind.QUARANTINED)
        by = {"by": "x", "reason": "y"}
        tx.append(NewEntry(Kind.DISCARDED, {"upload_path": "gone-1.dcm", "code": "upload-missing", **by}, "gone-1", quarantined.position))
        for item in ledger.pending_of("gone-1"):
            tx.drop(item.entry.position, item.stage)
    rebuild(folder)
    with held(folder / "ledger" / SERVE_LOCK, "serve"), browsing(folder) as client:
        home = client.get("/").text
        assert "Service not asked" in head(client)
        assert "light-warn" in client.get("/state").text
        for text in ("note-good", "things need", "thing needs"):
            assert text not in home
        assert "BROWSE_SERVICE_URL" in client.get("/attention").text


def test_no_page_waits_for_a_service_that_accepts_and_says_nothing(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent, held(folder / "ledger" / SERVE_LOCK, "serve"):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with browsing(folder, BROWSE_SERVICE_URL=url) as client:
            assert "Service ready" not in head(client)
            until(lambda: head(client).startswith("Service does not answer"), what=lambda: head(client))


def test_only_those_who_may_see_both_databases_see_the_state(folder: Path):
    token, hashed = new_token()
    settings = {"BROWSE_USER": "jane", "BROWSE_PASSWORD_HASH": hash_of(PASSWORD), "BROWSE_TOKENS": f"board:index/arrivals:{hashed}"}
    with browsing(folder, "--port", "0", **settings) as client:
        for path in ("/-/login", "/state", "/"):
            assert 'id="live"' not in client.get(path, follow_redirects=True).text
        page = client.get("/index/arrivals", headers={"Authorization": f"Bearer {token}"})
        assert (page.status_code, 'id="live"' in page.text) == (200, False)
        assert client.get("/state", headers={"Authorization": f"Bearer {token}"}).status_code == 403


def test_a_removed_index_is_shown_as_such_and_its_successor_without_a_restart(folder: Path):
    with browsing(folder) as client:
        assert client.get("/index/progress.json?_shape=array").json()[0]["position"] == 29
        (folder / "ledger" / "index.db").unlink()
        until(lambda: "Index cannot be read" in head(client))
        assert client.get("/dicom").status_code == 500
        assert "Index cannot be read" in head(client, "/dicom")
        assert "Index cannot be read" in head(client, "/ledger/entries/1")
        last = add(folder, 20)
        rebuild(folder)
        until(lambda: "Index" not in head(client))
        for _ in range(5):  # more than there are threads
            assert client.get("/index/progress.json?_shape=array").json()[0]["position"] == last
            assert client.get("/dicom").status_code == 200


def test_every_page_says_how_far_the_index_is_behind(folder: Path):
    with browsing(folder) as client:
        assert {path: "behind" in client.get(path).text for path in PAGES} == dict.fromkeys(PAGES, False)
        add(folder, 20)
        until(lambda: "Index 20 entries behind" in head(client))
        assert {path: "The index is 20 entries behind" in client.get(path).text for path in PAGES} == dict.fromkeys(PAGES, True)
        rebuild(folder)
        until(lambda: "behind" not in head(client))


def test_an_older_serve_answers_without_sizes(serve: Serve):
    serve.metrics.free_bytes.labels("archive").set(5)
    assert ask(serve.url, 10) == ServiceAnswer([], 0, {})
    serve.metrics.total_bytes.labels("archive").set(20)
    assert ask(serve.url + "/", 10) == ServiceAnswer([], 0, {"archive": Space(5, 20)})
    assert Space(5, 20).share_free == 0.25
    assert ask("http://127.0.0.1:1", 10) is None


def test_a_reason_that_the_ledger_tells_is_counted_once():
    reasons = [Reason("archive-full"), Reason("redis-not-subscribed")]
    state = ServiceState(serving=True, asked=True, answer=ServiceAnswer(reasons, None, {}))
    assert [each.code for each in state.reasons({"archive-full"})] == ["redis-not-subscribed"]
    assert [each.code for each in ServiceState(serving=False, asked=True).reasons()] == ["not-serving"]
    assert ServiceState().reasons() == []
    assert live_state(None, None, state, None).needs is None
