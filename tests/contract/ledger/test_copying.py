"""A ledger is copied between engines entry by entry, and what is not its beginning is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.merkle_tree import Tree
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerBusy, LedgerUnusable
from storage_ledger.ledger.copying import LedgerCopy
from storage_ledger.ledger.local_copy import opened_copy
from storage_ledger.ledger.migrate import make_again
from storage_ledger.ledger.postgres import PostgresLedger
from storage_ledger.ledger.postgres_migrate import migrate, take_id
from storage_ledger.ledger.sql_ledger import SqlLedger
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.support.making import Ledgers, archived, described
from tests.support.postgres import Postgres


class Both:
    """A ledger and an empty copy of it, in the other engine."""

    def __init__(self, folder: Path, url: str, *, to_postgres: bool, ledgers: Ledgers) -> None:
        self.file = folder / "ledger.db"
        self.url = url
        migrate(url)
        if to_postgres:
            sqlite = ledgers.open(folder)
            take_id(url, sqlite.ledger_id)
            self.source: SqlLedger = sqlite
            self.target: SqlLedger = PostgresLedger(url)
        else:
            self.source = PostgresLedger(url)
            make_again(self.file, self.source.ledger_id)
            self.target = SqliteLedger(self.file)
        self.copy = LedgerCopy(self.source, self.target)

    def append(self, ledger: SqlLedger, count: int) -> None:
        with ledger.write() as tx:
            for number in range(count):
                tx.append(NewEntry(Kind.DESCRIBED, described(f"{number}.dcm", {"note": "é\\\t\u2028"}), f"S{number % 3}"))

    def all(self) -> None:
        while self.copy.follow(limit=4):
            pass
        self.copy.copy_queue()

    def same(self) -> bool:
        ours, theirs = self.source.read(0, 10_000), self.target.read(0, 10_000)
        everything = 2**62
        return ours == theirs and self.source.work_queue(everything) == self.target.work_queue(everything)


@pytest.fixture(params=["to PostgreSQL", "to SQLite"])
def both(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: Postgres, ledgers: Ledgers) -> Iterator[Both]:
    made = Both(tmp_path, postgres_server.schema(), to_postgres=request.param == "to PostgreSQL", ledgers=ledgers)
    yield made
    made.source.close()
    made.target.close()


def test_copy_has_the_same_rows_and_work_and_root(both: Both):
    both.append(both.source, 11)
    both.all()
    assert both.same()
    with both.source.write() as tx:
        tx.append(NewEntry(Kind.ARCHIVED, archived(), "S1", 2))
        tx.postpone(1, Stage.PLACE, due_in_s=7, attempts=3)
    both.all()
    assert both.same()
    assert both.copy.roots() == (Tree().extend(both.source.leaf_hashes(0, 99)).root(),) * 2


def test_copy_continues_where_another_has_stopped(both: Both):
    both.append(both.source, 6)
    both.copy.follow(limit=4)
    other = LedgerCopy(both.source, both.target)
    assert (other.follow(limit=4), other.position, other.follow()) == (2, 6, 0)
    assert both.copy.follow() == 0


def test_what_is_not_its_beginning_is_refused(both: Both):
    both.append(both.source, 3)
    both.append(both.target, 2)
    with pytest.raises(LedgerUnusable, match="copy-disagrees"):
        both.copy.follow()


def test_copy_that_is_ahead_is_refused(both: Both):
    both.append(both.source, 3)
    both.all()
    both.append(both.target, 1)
    with pytest.raises(LedgerUnusable, match="copy-disagrees"):
        both.copy.follow()


def test_damaged_entry_is_not_copied(both: Both):
    both.append(both.source, 5)
    damage(both, 4)
    with pytest.raises(LedgerUnusable, match=r"ledger-damaged.*position 4"):
        both.copy.follow()
    assert both.target.last() is None


def damage(both: Both, position: int) -> None:
    change = f"UPDATE entries SET payload = replace(payload, '3.dcm', '4.dcm') WHERE position = {position}"
    if isinstance(both.source, SqliteLedger):
        with closing(sqlite3.connect(both.file)) as connection:
            connection.execute("DROP TRIGGER entries_update")
            connection.execute(change)
            connection.commit()
    else:
        with psycopg.connect(both.url.replace("+psycopg", "")) as connection:
            connection.execute("ALTER TABLE entries DISABLE TRIGGER entries_update")
            connection.execute(change)


def test_after_a_move_only_the_target_is_appended_to(both: Both):
    both.append(both.source, 5)
    both.source.note_metadata_synced(3)
    both.copy.finish("there")
    assert both.same()
    assert both.target.metadata_synced() == 3
    with pytest.raises(LedgerUnusable, match=r"ledger-moved.*there"):
        both.append(both.source, 1)
    both.append(both.target, 1)
    assert both.target.last().position == 6  # type: ignore[union-attr]


def test_two_that_copy_at_once_copy_each_entry_once(both: Both, monkeypatch: pytest.MonkeyPatch):
    both.append(both.source, 5)
    other = LedgerCopy(both.source, both.target)
    read = both.source.read

    def first_the_other(after: int, limit: int) -> object:
        monkeypatch.undo()
        entries = read(after, limit)
        other.follow(limit=2)
        return entries

    monkeypatch.setattr(both.source, "read", first_the_other)
    with pytest.raises(LedgerBusy):
        both.copy.follow()
    both.all()
    assert both.same()


def test_ledger_of_its_own_is_never_taken_for_a_copy(tmp_path: Path, ledgers: Ledgers):
    own = ledgers.open(tmp_path)
    with own.write() as tx:
        tx.append(NewEntry(Kind.DESCRIBED, described(), "S1"))
    with pytest.raises(LedgerUnusable, match="a ledger of its own"):
        opened_copy(tmp_path / "ledger.db", own.ledger_id, "there")
    own.close()
