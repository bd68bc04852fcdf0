"""What SQL and filters may cost, in the real process: time, memory, threads, and the way back for a user who mistyped."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from storage_ledger.web.auth.credentials import hash_password
from tests.integration.test_browse import Browse, make_ledger

FOR_HOURS = "instr(zeroblob(60000000), zeroblob(30000000) || x'01')"
PASSWORD = "correct horse"  # noqa: S105 - of these tests only


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ledger(tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def browse(folder: Path, tmp_path: Path) -> Iterator[Browse]:
    browse = Browse(folder, tmp_path / "log", "--no-login", BROWSE_SQL_USERS="*").ready()
    yield browse
    browse.process.kill()
    browse.process.wait(20)


def shout(browse: Browse, sql: str) -> socket.socket:
    """Ask and do not wait for the answer."""
    asker = socket.create_connection(("127.0.0.1", browse.port))
    asker.sendall(f"GET /ledger.json?sql={quote(sql)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return asker


def test_statements_that_would_take_hours_block_nothing_and_do_not_keep_it_from_ending(browse: Browse):
    askers = [shout(browse, f"select position, {FOR_HOURS} from entries") for _ in range(3)]
    assert browse.page("/index").status == 200
    assert browse.page("/dicom").status == 200
    assert browse.ask("/-/health").status == 200
    assert browse.ask("/index.json?sql=select+1").json()["rows"] == [[1]]
    askers += [shout(browse, f"select {FOR_HOURS}") for _ in range(3)]
    assert browse.stop() == 0
    for asker in askers:
        asker.close()


def test_a_long_pattern_on_long_values_is_refused(browse: Browse):
    for way in ("contains", "startswith", "endswith", "like", "notlike", "glob"):
        assert browse.ask(f"/ledger/entries.json?payload__{way}={'a' * 201}").status == 400
        assert browse.ask(f"/ledger/entries.json?payload__{way}={'a' * 200}").status == 200


@pytest.mark.parametrize("sql", ["selec 1", "select nothing", "select 1; select 2", "drop table entries", "select 1\0", FOR_HOURS])
def test_sql_that_fails_is_not_lost(browse: Browse, sql: str):
    page = browse.page(f"/ledger?sql={quote('select ' + sql if sql == FOR_HOURS else sql)}")
    assert page.status == 400
    area = re.search(r'<textarea id="sql" name="sql"[^>]*>(.*)</textarea>', page.body, re.DOTALL)
    assert area
    assert sql in html.unescape(area[1])


def test_own_sql_needs_a_setting_which_the_page_names(folder: Path, tmp_path: Path):
    browse = Browse(folder, tmp_path / "log", BROWSE_PASSWORD_HASH=f"jane:{hash_password(PASSWORD)}").ready()
    try:
        assert browse.log_in("jane", PASSWORD).status == 302
        for path in ("/index", "/ledger?sql=select+1", "/index/studies?_where=1"):
            page = browse.page(path)
            assert "BROWSE_SQL_USERS" in page.body
            assert "<textarea" not in page.body
        assert page.status == 403
        assert browse.page("/ledger/waiting_longest").status == 200
    finally:
        browse.stop()


def test_without_a_login_nobody_runs_sql_either(folder: Path, tmp_path: Path):
    browse = Browse(folder, tmp_path / "log", "--no-login").ready()
    try:
        assert browse.ask("/index.json?sql=select+1").status == 403
    finally:
        browse.stop()
