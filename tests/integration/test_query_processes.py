"""SQL in processes of its own, on real files: it ends in time and in bounds, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.datasette.query_pool import QueryPool, TooSlowError
from storage_ledger.web.datasette.query_process import TOO_LARGE, TOO_MUCH_MEMORY, Found, NoAnswer, Question
from tests.support.waiting import until

FOR_HOURS = "instr(zeroblob(60000000), zeroblob(30000000) || x'01')"


ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    with closing(sqlite.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one'), (2, 'two')")
    return path


@pytest.fixture
def pool() -> Iterator[QueryPool]:
    with closing(QueryPool(kill_after_s=0.5)) as pool:
        yield pool


def ask(pool: QueryPool, file: Path, sql: str, *values: object, limit_s: float = 60, most: int = 0) -> Found | NoAnswer:
    return pool.run(Question(str(file), sql, values, limit_s, most))


def test_an_answer_has_columns_rows_and_says_whether_there_are_more(pool: QueryPool, file: Path):
    assert ask(pool, file, "SELECT * FROM t WHERE a < ?", 9) == Found(["a", "b"], [(1, "one"), (2, "two")], cut=False)
    assert ask(pool, file, "SELECT a FROM t", most=1) == Found(["a"], [(1,)], cut=True)


@pytest.mark.parametrize(
    "sql", [f"SELECT {FOR_HOURS}", "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"]
)
def test_a_statement_ends_in_time_and_the_next_one_is_answered(pool: QueryPool, file: Path, sql: str):
    with pytest.raises(TooSlowError):
        ask(pool, file, sql, limit_s=0.1)
    assert ask(pool, file, "SELECT 1") == Found(["1"], [(1,)], cut=False)


def test_a_statement_that_sqlite_can_stop_does_not_cost_a_process(pool: QueryPool, file: Path):
    ask(pool, file, "SELECT 1")
    before = pool.pids
    with pytest.raises(TooSlowError):
        ask(pool, file, ENDLESS, limit_s=0.005)
    ask(pool, file, "SELECT 1")
    assert pool.pids == before


def test_a_reader_that_was_killed_no_longer_keeps_its_snapshot(pool: QueryPool, file: Path):
    with closing(sqlite.connect(file, isolation_level=None)) as writer:
        with pytest.raises(TooSlowError):
            ask(pool, file, f"SELECT a, {FOR_HOURS} FROM t", limit_s=0.1)
        writer.execute("INSERT INTO t VALUES (3, 'three')")
        assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert ask(pool, file, "SELECT count(*) FROM t") == Found(["count(*)"], [(3,)], cut=False)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT length(hex(randomblob(450000000)))", TOO_MUCH_MEMORY),
        ("SELECT zeroblob(20000000)", TOO_LARGE),
        ("SELECT a.a FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n, t o, t p, t q, t r, t s, t u", TOO_LARGE),
    ],
)
def test_an_answer_that_is_too_large_is_none(pool: QueryPool, file: Path, sql: str, why: str):
    answer = ask(pool, file, sql)
    assert isinstance(answer, NoAnswer)
    assert answer.message == why
    assert isinstance(ask(pool, file, "SELECT 1"), Found)


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1", "SELECT 1; SELECT 2", "SELECT ?, ?", "SELECT 1\0", "SELECT nothing", "SELECT * FROM t WHERE a > ?1 AND ?2 > ?3 --",
        "INSERT INTO t VALUES (1, 2)", "DELETE FROM t", "ATTACH 'other.db' AS other", "PRAGMA user_version = 1",
        "SELECT abs(-9223372036854775808)",
    ],
)  # fmt: skip
def test_what_sqlite_refuses_is_an_answer_and_changes_nothing(pool: QueryPool, file: Path, sql: str):
    before = file.read_bytes()
    for values in ((), (10**30,), ("\ud800",), ([1],)):
        answer = ask(pool, file, sql, *values)
        assert isinstance(answer, NoAnswer), (values, answer)
        assert not answer.damaged
    assert file.read_bytes() == before


def test_a_damaged_file_is_told_apart_and_one_that_replaces_it_is_read(pool: QueryPool, file: Path, tmp_path: Path):
    assert isinstance(ask(pool, file, "SELECT * FROM t"), Found)
    (tmp_path / "bad").write_bytes(b"\xff" * 5000)
    (tmp_path / "bad").replace(file)
    answer = ask(pool, file, "SELECT * FROM t")
    assert isinstance(answer, NoAnswer)
    assert answer.damaged
    file.unlink()
    Path(f"{file}-wal").unlink(missing_ok=True)
    Path(f"{file}-shm").unlink(missing_ok=True)
    assert ask(pool, file, "SELECT * FROM t") == NoAnswer("unable to open database file")
    with closing(sqlite.connect(file)) as connection:
        connection.executescript("CREATE TABLE t (c); INSERT INTO t VALUES ('new')")
    assert ask(pool, file, "SELECT * FROM t") == Found(["c"], [("new",)], cut=False)


def test_a_process_that_ends_is_replaced(pool: QueryPool, file: Path):
    ask(pool, file, "SELECT 1")
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    assert {type(ask(pool, file, "SELECT 1")) for _ in range(2)} >= {Found}
    assert pool.pids != [pid]


def test_close_ends_all_processes_and_their_statements(file: Path):
    pool = QueryPool()
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, pool, file, f"SELECT {FOR_HOURS}", limit_s=60)
        until(lambda: asked.running() and len(pool.pids) == 1, 30)
        (pid,) = pool.pids
        pool.close()
        assert isinstance(asked.result(20), NoAnswer)
    assert isinstance(ask(pool, file, "SELECT 1"), NoAnswer)
    until(lambda: not Path(f"/proc/{pid}").exists(), 20)


def test_a_statement_ends_also_when_the_web_page_was_killed(file: Path):
    program = (
        "import sys, threading; from storage_ledger.web.datasette.query_pool import QueryPool, Question\n"
        f"pool = QueryPool(); question = Question({str(file)!r}, {f'SELECT {FOR_HOURS}'!r}, (), 0.5)\n"
        "threading.Thread(target=pool.run, args=[question]).start()\n"
        "while not pool.pids: pass\n"
        "print(pool.pids[0], flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), 30)
