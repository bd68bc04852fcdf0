"""What only a ledger in PostgreSQL has: servers that are refused, commits that were not confirmed, tables that refuse changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.ledger.postgres import PostgresLedger
from storage_ledger.ledger.postgres_migrate import migrate
from storage_ledger.settings import Settings
from tests.support.making import described
from tests.support.memory import in_memory
from tests.support.postgres import Postgres

SAID = NewEntry(Kind.DESCRIBED, described(), "S1")


@pytest.fixture
def url(postgres_server: Postgres) -> str:
    made = postgres_server.schema()
    migrate(made)
    return made


@pytest.fixture
def ledger(url: str) -> Iterator[PostgresLedger]:
    made = PostgresLedger(url)
    yield made
    made.close()


def change(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_commit_that_ends_with_a_warning_was_not_confirmed(ledger: PostgresLedger, url: str):
    """As when somebody cancels one that waits for the synchronous standby."""
    warns = "BEGIN RAISE WARNING 'canceling wait for synchronous replication'; RETURN NULL; END"
    change(
        url,
        f"CREATE FUNCTION warns() RETURNS trigger LANGUAGE plpgsql AS $$ {warns} $$",
        "CREATE CONSTRAINT TRIGGER warns AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warns()",
    )
    called: list[int] = []
    with pytest.raises(LedgerBusy, match="ledger-standby"):
        append(ledger, called)
    assert called == []
    change(url, "DROP TRIGGER warns ON entries")
    with ledger.write() as tx:
        tx.append(SAID)


def append(ledger: PostgresLedger, called: list[int]) -> None:
    with ledger.write() as tx:
        tx.append(SAID)
        tx.on_commit(lambda: called.append(1))


@pytest.mark.parametrize(
    "statement",
    ["UPDATE entries SET kind = 'archived'", "DELETE FROM entries", "TRUNCATE entries", "INSERT INTO entries SELECT * FROM entries"],
)
def test_entries_cannot_be_changed_with_sql(ledger: PostgresLedger, url: str, statement: str):
    with ledger.write() as tx:
        entry = tx.append(SAID)
    with pytest.raises(psycopg.errors.RaiseException, match="entries"):
        change(url, statement)
    assert ledger.read(0, 10) == [entry]


@pytest.mark.parametrize(("position", "version", "cause"), [(3, 2, None), (2, 3, None), (2, 2, 2), (2, 2, 0)])
def test_entry_in_the_wrong_place_is_refused(ledger: PostgresLedger, url: str, position: int, version: int, cause: int | None):
    with ledger.write() as tx:
        entry = tx.append(SAID)
    row = entry._replace(position=position, entry_id="another", version=version, cause=cause)
    with psycopg.connect(url.replace("+psycopg", "")) as connection, pytest.raises(psycopg.errors.RaiseException, match="entries"):
        connection.execute(f"INSERT INTO entries VALUES ({', '.join(['%s'] * len(row))})", row)


def test_a_server_that_does_not_sync_is_refused(tmp_path: Path):
    with in_memory(tmp_path) as folder:
        folder.chmod(0o755)
        server = Postgres(folder / "postgres", fsync="off")
        server.start()
        with pytest.raises(LedgerUnusable, match="postgres-not-durable"):
            migrate(server.url)
        server.end(signal.SIGQUIT)


def test_a_session_that_would_not_wait_for_its_commit_is_refused(url: str):
    with pytest.raises(LedgerUnusable, match="postgres-not-durable"):
        PostgresLedger(f"{url}%20-c%20synchronous_commit%3Doff")


def test_a_database_that_is_not_utf8_is_refused(postgres_server: Postgres):
    with postgres_server.connect() as connection:
        connection.execute("CREATE DATABASE old ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(LedgerUnusable, match="postgres-not-utf8"):
        migrate(postgres_server.url.rpartition("/")[0] + "/old")


def test_a_schema_with_other_tables_of_these_names_is_refused_and_an_empty_one_has_no_ledger(postgres_server: Postgres):
    url = postgres_server.schema()
    with pytest.raises(LedgerUnusable, match="ledger-missing"):
        PostgresLedger(url)
    change(url, "CREATE TABLE meta (x int)")
    with pytest.raises(LedgerUnusable, match="ledger-foreign"):
        migrate(url)


def test_a_ledger_of_a_newer_program_is_refused(url: str):
    change(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerUnusable, match="ledger-newer"):
        migrate(url)


def test_a_server_that_is_away_is_waited_for():
    with pytest.raises(LedgerBusy, match="ledger-away"):
        PostgresLedger("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_alembic_itself_finds_the_database_of_the_settings(postgres_server: Postgres):
    url = postgres_server.schema()
    alembic = [sys.executable, "-m", "alembic", "-c", "migrations.ini", "upgrade", "head"]
    subprocess.run(alembic, env={**os.environ, "LEDGER_URL": url}, cwd=Path(__file__).parents[3], check=True, capture_output=True)
    PostgresLedger(url).close()


def test_the_password_is_read_from_its_file(tmp_path: Path):
    (tmp_path / "password").write_text("s/e c\n")
    settings = Settings(ledger_url="postgresql+psycopg://me@db:5/x?sslmode=require", ledger_password_file=tmp_path / "password")
    assert settings.ledger_address == "postgresql+psycopg://me:s%2Fe%20c@db:5/x?sslmode=require"
