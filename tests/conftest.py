"""Fixtures shared by several kinds of tests: the real neighbouring services on loopback."""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from storage_ledger.system import logs
from tests.support.lanes import in_order
from tests.support.memory import in_memory
from tests.support.postgres import Postgres
from tests.support.status_server import StatusServer
from tests.support.valkey import Valkey
from tests.support.warm import Warm, close_shared, shared

# A shell without job control makes background processes ignore Ctrl-C; whatever the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt imported and collected objects from garbage collection: they live as long as the run, and scanning them costs a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests for the lanes."""
    if hasattr(config, "workerinput"):
        in_order(items)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey server for the whole run."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The run's server, empty, and restarted if an earlier test killed it; see `Valkey.channel`."""
    valkey_server.start()
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run, in memory: it syncs as it would on a disk. Each test makes its own schema."""
    with in_memory() as folder:
        folder.chmod(0o755)  # it runs as another user, if this is root
        server = Postgres(folder / "postgres")
        server.start()
        yield server
        server.end(signal.SIGQUIT)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey server that the test may kill."""
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def status_server() -> Iterator[StatusServer]:
    """A Status Service for this test alone."""
    server = StatusServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def warm() -> Warm:
    """Forks the service and other commands; see `Stack`."""
    return shared()


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """Fail if threads are left: they would keep the process alive for ever, unseen in a lane."""
    yield
    close_shared()
    others = set(threading.enumerate()) - {threading.main_thread()}
    for thread in others:
        if not thread.daemon:
            thread.join(30)
    assert [thread.name for thread in others if thread.is_alive() and not thread.daemon] == []


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that this process logs from here on, at every level, from any library."""
    root = logging.root
    handlers, level, show = root.handlers[:], root.level, warnings.showwarning
    stream = io.StringIO()
    logs.configure("DEBUG", stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], warnings.showwarning = handlers, show
    root.setLevel(level)
