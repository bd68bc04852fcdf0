"""The `storage-ledger browse` process: wait for the databases, serve, end on a signal."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.errors import BadSettings, LedgerUnusable
from storage_ledger.system.http_server import Server, listen, port_of
from storage_ledger.system.sqlite import is_regular
from storage_ledger.system.temporary_folder import scratch
from storage_ledger.web.auth.credentials import Access, BrowseSettings
from storage_ledger.web.auth.middleware import HEALTH
from storage_ledger.web.auth.sessions import FILE, Sessions
from storage_ledger.web.auth.throttle import Attempts, OneAtATime
from storage_ledger.web.datasette.query_pool import QueryPool
from storage_ledger.web.fair_queue import FairQueue
from storage_ledger.web.files.pictures.cache import Cache
from storage_ledger.web.files.pictures.pool import Pool
from storage_ledger.web.service_watch import ServiceWatch
from storage_ledger.web.viewer.files import checked_folder
from storage_ledger.web.viewer.links import Viewer

PASSWORDS_WAITING = 20
"""Logins that may wait for their password check; further ones are asked to try again later."""

READERS = 4
"""Threads that read the databases: one more than somebody with slow statements may keep busy."""


def run(
    index: Path,
    ledger: Path,
    archive: Path,
    access: Access,
    settings: BrowseSettings,
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then return. Call it in the main thread. Port 0 takes a free port.

    `archive` is ARCHIVE_PATH; if it is missing, only images and downloads do not work. Waits up to BROWSE_WAIT_SECONDS for the
    two databases. `say` takes messages for the user. Raises `LedgerUnusable` if a database does not appear, `BadSettings` if
    the address cannot be used.
    """
    folder = settings.browse_viewer_path and checked_folder(settings.browse_viewer_path, access.prefix)
    viewer = Viewer(folder, settings.browse_viewer_url, access.prefix)
    with _signals() as ending:
        if not _wait_for(index, ledger, settings.browse_wait_seconds, ending.asked, say):
            return
        with (
            contextlib.closing(listen(host, port, "BROWSE")) as listener,
            contextlib.closing(Pool(settings.browse_workers)) as pool,
            _cache(settings, archive) as cache,
            contextlib.closing(OneAtATime("passwords", waiting=PASSWORDS_WAITING)) as passwords,
            contextlib.closing(ServiceWatch(settings.browse_service_url)) as service,
            contextlib.closing(FairQueue[Any]("sql", READERS, waiting=512, waiting_of_one=128, running_of_one=READERS - 1)) as turns,
            contextlib.closing(QueryPool()) as queries,
        ):
            pool.warm()
            from storage_ledger.web.datasette.plugin import ContentSources, Login, make_app  # noqa: PLC0415 - takes as long to load as the workers

            sessions = Sessions(ledger.with_name(FILE), access.login_s)
            content = ContentSources(FilesystemArchive(archive), pool, cache, viewer)
            app = make_app(index, ledger, access, content, Login(Attempts(), passwords, sessions), service, queries, turns)
            gc.freeze()  # scanning what lives as long as the process takes longer than most of what a page's JSON makes
            server = ending.server = Server(app, health=[HEALTH])
            server.should_exit = ending.asked.is_set()
            if access.open and not _is_loopback(host):
                say(f"WARNING: no login, and other machines have access: anyone who can reach {host} sees patient data.")
            say(f"Browse on http://{_in_url(host)}:{port_of(listener)}/")
            # When a query fails, Datasette writes the search text to `stderr`. Our log already holds the real one.
            with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
                server.run([listener])


@contextlib.contextmanager
def _cache(settings: BrowseSettings, archive: Path) -> Iterator[Cache]:
    size = settings.browse_cache_mb * 1_000_000
    if settings.browse_cache_path is not None:
        if settings.browse_cache_path.resolve().is_relative_to(archive.resolve()):
            raise BadSettings("bad-settings", "BROWSE_CACHE_PATH: must not be inside ARCHIVE_PATH, to which the web page never writes")
        try:
            settings.browse_cache_path.mkdir(mode=0o750, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.browse_cache_path):
                pass
        except OSError as error:
            text = f"BROWSE_CACHE_PATH: {settings.browse_cache_path} cannot be written to: {os.strerror(error.errno or 0)}"
            raise BadSettings("bad-settings", text, errno=error.errno) from error
        yield Cache(settings.browse_cache_path, size)
        return
    with scratch("storage-ledger-pictures-", Path(tempfile.gettempdir())) as folder:
        yield Cache(folder, size)


class _Ending:
    """Signal handler: ends the wait, or the server once it runs."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.server: Server | None = None

    def __call__(self, _: int, __: FrameType | None) -> None:
        self.asked.set()
        if self.server is not None:
            self.server.should_exit = True


@contextlib.contextmanager
def _signals() -> Iterator[_Ending]:
    ending = _Ending()
    before = {number: signal.signal(number, ending) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(index: Path, ledger: Path, wait_s: float, stop: threading.Event, say: Callable[[str], None]) -> bool:
    """Wait for both databases. Returns False if a signal came."""
    until = time.monotonic() + wait_s
    announced = False
    while missing := [path for path in (ledger, index) if not is_regular(path)]:
        names = " and ".join(str(path) for path in missing)
        if time.monotonic() >= until:
            code = "ledger-missing" if ledger in missing else "index-missing"
            raise LedgerUnusable(
                code, f"{names} not found after {wait_s:g} s: start `storage-ledger serve` with the same LEDGER_PATH, which creates it"
            )
        if not announced:
            say(f"Waiting for {names}, created by `storage-ledger serve` …")
            announced = True
        if stop.wait(0.1):
            return False
    return not stop.is_set()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
