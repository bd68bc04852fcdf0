"""The SQLite engine's own promises: its file, triggers, migrations and lock."""

import os
import re
import shutil
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerRefused, LedgerUnusable, Locked
from storage_ledger.ledger.dialect import SQLITE
from storage_ledger.ledger.entry_rows import COLUMNS, OF_STUDY_BEYOND, OPEN_OUTAGES
from storage_ledger.ledger.migrate import HEAD, _backup, migrate, require_owner, script_folder
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system import locks
from storage_ledger.system.sqlite import sqlite, wal_is_safe
from tests.support.making import archived, described, small_volume

ROOT = Path(__file__).resolve().parents[3]

SCHEMA = {
    "entries": "CREATE TABLE entries ( position INTEGER PRIMARY KEY, entry_id TEXT UNIQUE, study_id TEXT NULL, version INTEGER NULL, "
    "kind TEXT, schema INTEGER, recorded_at TEXT, cause INTEGER NULL, payload TEXT, payload_sha256 TEXT, salt BLOB, leaf_hash BLOB, "
    "UNIQUE (study_id, version) )",
    "pending": "CREATE TABLE pending ( position INTEGER NOT NULL REFERENCES entries (position), "
    "stage TEXT NOT NULL CHECK (stage IN ('place', 'remove', 'tell', 'confirm')), not_before TEXT NOT NULL, "
    "attempts INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (position, stage) ) WITHOUT ROWID",
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "alembic_version": "CREATE TABLE alembic_version ( version_num VARCHAR(32) NOT NULL, "
    "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num) )",
    "pending_due": "CREATE INDEX pending_due ON pending (stage, not_before, position)",
    "entries_of_no_study": "CREATE INDEX entries_of_no_study ON entries (kind, position) WHERE study_id IS NULL",
    "entries_of_upload": "CREATE INDEX entries_of_upload ON entries "
    "(CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END) "
    "WHERE CASE WHEN json_valid(payload) THEN json_extract(payload, '$.upload_path') END IS NOT NULL",
    "entries_naming_study": "CREATE INDEX entries_naming_study ON entries "
    "(CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END) "
    "WHERE study_id IS NULL AND CASE WHEN json_valid(payload) THEN json_extract(payload, '$.study_id') END IS NOT NULL",
    "entries_insert": "CREATE TRIGGER entries_insert BEFORE INSERT ON entries BEGIN "
    "SELECT RAISE(ABORT, 'entries: position must be the last one + 1') "
    "WHERE NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM entries); "
    "SELECT RAISE(ABORT, 'entries: this entry_id exists') WHERE EXISTS (SELECT 1 FROM entries WHERE entry_id = NEW.entry_id); "
    "SELECT RAISE(ABORT, 'entries: version must be the last one of the study + 1') WHERE NEW.study_id IS NOT NULL "
    "AND NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM entries WHERE study_id = NEW.study_id); "
    "SELECT RAISE(ABORT, 'entries: an entry of no study has no version') WHERE NEW.study_id IS NULL AND NEW.version IS NOT NULL; "
    "SELECT RAISE(ABORT, 'entries: cause must be an earlier entry') "
    "WHERE NEW.cause IS NOT NULL AND NOT EXISTS (SELECT 1 FROM entries WHERE position = NEW.cause); "
    "SELECT RAISE(ABORT, 'entries: recorded_at must not be earlier than that of the entry before') "
    "WHERE NEW.recorded_at < (SELECT recorded_at FROM entries WHERE position = NEW.position - 1); "
    "SELECT RAISE(ABORT, 'entries: a column is missing or of the wrong type') "
    "WHERE (NEW.study_id IS NOT NULL AND typeof(NEW.study_id) <> 'text') "
    "OR (NEW.version IS NOT NULL AND typeof(NEW.version) <> 'integer') "
    "OR (NEW.cause IS NOT NULL AND typeof(NEW.cause) <> 'integer') "
    "OR typeof(NEW.entry_id) <> 'text' OR typeof(NEW.kind) <> 'text' OR typeof(NEW.schema) <> 'integer' "
    "OR typeof(NEW.recorded_at) <> 'text' OR typeof(NEW.payload) <> 'text' OR typeof(NEW.payload_sha256) <> 'text' "
    "OR typeof(NEW.salt) <> 'blob' OR length(NEW.salt) <> 16 OR typeof(NEW.leaf_hash) <> 'blob' OR length(NEW.leaf_hash) <> 32; END",
    "entries_update": "CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never changed'); END",
    "entries_delete": "CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END",
}


def schema_of(path: Path) -> dict[str, str]:
    with closing(sqlite.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+", " ", sql).strip() for name, sql in rows}


def rows_of(path: Path) -> list[tuple]:
    with closing(sqlite.connect(path)) as connection:
        return connection.execute("SELECT * FROM entries ORDER BY position").fetchall()


# -- triggers


@pytest.fixture
def filled(tmp_path, ledgers):
    """Make a closed ledger file with three entries of two studies."""
    ledger = ledgers.open(tmp_path)
    with ledger.write() as tx:
        for study_id in ("A", "B", "A"):
            tx.append(NewEntry(Kind.DESCRIBED, described(), study_id))
    ledger.close()
    return tmp_path / "ledger.db"


def next_row(path: Path, **over) -> dict:
    """Return the row of a fourth entry, of study A."""
    row = dict(zip(COLUMNS.split(", "), rows_of(path)[2], strict=True))
    return {**row, "position": 4, "version": 3, "entry_id": "another", **over}


def insert(path: Path, row: dict, verb: str = "INSERT") -> None:
    with closing(sqlite.connect(path)) as connection:
        marks = ", ".join("?" * len(row))
        connection.execute(f"{verb} INTO entries ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
        connection.commit()


def test_the_row_that_the_refusals_are_made_from_would_itself_be_taken(filled):
    insert(filled, next_row(filled))
    assert len(rows_of(filled)) == 4


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET kind = 'x'",
        "UPDATE entries SET payload = '{}' WHERE position = 1",
        "UPDATE OR REPLACE entries SET entry_id = (SELECT entry_id FROM entries WHERE position = 1) WHERE position = 2",
        "UPDATE OR IGNORE entries SET kind = 'x'",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE position = 3",
    ],
)
def test_entries_are_neither_changed_nor_deleted(filled, statement):
    before = rows_of(filled)
    with closing(sqlite.connect(filled)) as connection, pytest.raises(sqlite.IntegrityError, match="entries are never"):
        connection.execute(statement)
    assert rows_of(filled) == before


WRONG = {
    "a position that exists": {"position": 3},
    "the position of another study's entry": {"position": 2},
    "a position with a gap": {"position": 5},
    "no position": {"position": None},
    "position zero": {"position": 0},
    "a negative position": {"position": -1},
    "a version that exists": {"version": 2},
    "a version with a gap": {"version": 4},
    "no version": {"version": None},
    "a version without a study": {"study_id": None},
    "a first version that is not 1": {"study_id": "new", "version": 2},
    "no entry_id": {"entry_id": None},
    "no kind": {"kind": None},
    "no schema": {"schema": None},
    "a schema that is no number": {"schema": "one"},
    "no recorded_at": {"recorded_at": None},
    "an earlier recorded_at": {"recorded_at": "2025-12-31T23:59:59.999999Z"},
    "no payload": {"payload": None},
    "a payload that is no text": {"payload": b"{}"},
    "no payload_sha256": {"payload_sha256": None},
    "no salt": {"salt": None},
    "a short salt": {"salt": bytes(15)},
    "a salt that is text": {"salt": "x" * 16},
    "no leaf_hash": {"leaf_hash": None},
    "a leaf_hash in hex": {"leaf_hash": "0" * 64},
    "a later cause": {"cause": 9},
    "itself as the cause": {"cause": 4},
    "a study_id that is no text": {"study_id": b"A", "version": 1},
    "a version that is no number": {"version": "three"},
    "a cause that is no number": {"cause": "one"},
}


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_the_next_entry_is_refused_whatever_the_verb(filled, wrong, verb):
    before = rows_of(filled)
    with pytest.raises((sqlite.IntegrityError, sqlite.OperationalError)):
        insert(filled, next_row(filled, **WRONG[wrong]), verb)
    assert rows_of(filled) == before


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
def test_an_entry_id_that_exists_is_refused_whatever_the_verb(filled, verb):
    before = rows_of(filled)
    with pytest.raises(sqlite.IntegrityError, match="this entry_id exists"):
        insert(filled, next_row(filled, entry_id=before[0][1]), verb)
    assert rows_of(filled) == before


def test_an_upsert_does_not_get_through_either(filled):
    before = rows_of(filled)
    row = next_row(filled, position=1)
    with closing(sqlite.connect(filled)) as connection, pytest.raises(sqlite.IntegrityError):
        connection.execute(
            f"INSERT INTO entries ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO UPDATE SET kind = 'x'",
            tuple(row.values()),
        )
    assert rows_of(filled) == before


# -- the file


def test_the_writer_is_in_wal_mode_and_fully_synchronous(tmp_path, ledgers):
    ledger = ledgers.open(tmp_path)
    with ledger._writer.connection() as connection:
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")]
    ledger.close()
    assert wal_is_safe(sqlite.sqlite_version_info)
    assert found == ["wal", 2, 1]


def test_a_reader_cannot_write(tmp_path, ledgers):
    ledger = ledgers.open(tmp_path)
    with ledger._reader.connection() as connection, pytest.raises(sqlite.OperationalError, match="readonly"):
        connection.execute("INSERT INTO meta VALUES ('x', 'y')")
    ledger.close()


def test_a_table_that_is_gone_is_an_error_of_ours_for_reads_appends_and_migrations(tmp_path, ledgers):
    ledger = ledgers.open(tmp_path)
    with closing(sqlite.connect(ledger.path)) as connection:
        connection.execute("DROP TABLE pending")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")  # 0002 makes an index that already exists
        connection.commit()
    with pytest.raises(LedgerRefused):
        ledger.queue()
    with pytest.raises(LedgerRefused), ledger.write() as tx:
        tx.append(NewEntry(Kind.DESCRIBED, described(), "A"))
    assert ledger.last() is None
    ledger.close()
    with pytest.raises(LedgerRefused):
        migrate(ledger.path)


@pytest.mark.parametrize("mask", [0, 0o077])
def test_the_ledgers_files_are_private_whatever_the_umask(tmp_path, mask):
    old = os.umask(mask)
    try:
        migrate(tmp_path / "ledger" / "ledger.db")
        ledger = SqliteLedger(tmp_path / "ledger" / "ledger.db")
        with ledger.write() as tx:
            tx.append(NewEntry(Kind.DESCRIBED, described(), "A"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ledger").iterdir()}
        ledger.close()
    finally:
        os.umask(old)
    assert modes == {"ledger.db": 0o640, "ledger.db-wal": 0o640, "ledger.db-shm": 0o640}
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) & 0o027 == 0


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 45, 0), False), ((3, 50, 6), False), ((3, 50, 7), True),
        ((3, 51, 0), False), ((3, 51, 2), False), ((3, 51, 3), True), ((3, 53, 4), True), ((4, 0, 0), True), ((3, 7, 0), False),
    ],
)  # fmt: skip
def test_which_sqlites_have_the_wal_reset_bug(version, safe):
    assert wal_is_safe(version) is safe


def test_a_ledger_that_does_not_exist_is_not_made_by_opening_it(tmp_path):
    with pytest.raises(LedgerUnusable, match=r"ledger-missing: .* check LEDGER_PATH"):
        SqliteLedger(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_means_something_in_a_uri_is_that_file(tmp_path, ledgers):
    folder = tmp_path / "a?b#c%41"
    ledger = ledgers.open(folder)
    with ledger.write() as tx:
        tx.append(NewEntry(Kind.DESCRIBED, described(), "A"))
    ledger.close()
    assert len(rows_of(folder / "ledger.db")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a?b#c%41"]


# -- migrations


def test_a_migrated_ledger_has_exactly_this_schema(tmp_path):
    done = migrate(tmp_path / "ledger.db")
    assert (done.before, done.after, done.changed, done.backup) == (None, HEAD, True, None)
    assert schema_of(tmp_path / "ledger.db") == SCHEMA


ADDED = {"0001": ("entries_of_upload", "entries_naming_study"), "0002": ("entries_naming_study",)}
"""Revision → the indexes that it lacked."""


def downgraded(path: Path, revision: str = "0001") -> None:
    """Turn the file into one of an earlier revision."""
    with closing(sqlite.connect(path)) as connection:
        for name in ADDED[revision]:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()


@pytest.mark.parametrize("revision", ADDED)
def test_a_ledger_of_an_earlier_revision_gets_the_indexes_that_it_lacks_and_keeps_its_entries(filled, revision):
    downgraded(filled, revision)
    before = rows_of(filled)
    done = migrate(filled)
    assert (done.before, done.after) == (revision, HEAD)
    assert done.backup.name == f"ledger.db.before-{revision}-to-{HEAD}"
    assert schema_of(filled) == SCHEMA
    assert rows_of(filled) == before
    assert rows_of(done.backup) == before
    ledger = SqliteLedger(filled)
    assert [entry.position for entry in ledger.of_upload("a.dcm")] == [1, 2, 3]
    ledger.close()


def test_the_entries_of_an_upload_are_found_through_the_index(filled):
    with closing(sqlite.connect(filled)) as connection:
        plans = [
            connection.execute(f"EXPLAIN QUERY PLAN SELECT {COLUMNS} FROM entries WHERE {SQLITE.upload_path} = 'a.dcm'").fetchall(),
            connection.execute(f"EXPLAIN QUERY PLAN {SQLITE.last_and_waiting}", ("a.dcm",)).fetchall(),
            connection.execute(f"EXPLAIN QUERY PLAN {SQLITE.to_place}", ("S1", "a.dcm")).fetchall(),
        ]
    assert all("USING INDEX entries_of_upload" in plan[0][3] or "USING COVERING INDEX entries_of_upload" in plan[0][3] for plan in plans)


def test_what_a_study_has_beyond_a_version_is_found_through_the_index_and_needs_no_sorting(filled):
    with closing(sqlite.connect(filled)) as connection:
        steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {OF_STUDY_BEYOND}", ("A", 1))]
    assert steps == ["SEARCH entries USING INDEX sqlite_autoindex_entries_2 (study_id=? AND version>?)"]


def test_due_work_is_read_in_the_order_of_the_index_however_much_is_due(tmp_path, ledgers):
    """As after an outage of the Status Service: whoever sorts 100,000 rows for each claim tells 150 studies a second."""
    ledger = ledgers.open(tmp_path)
    with ledger.write() as tx:
        for number in range(600):
            described_at = tx.append(NewEntry(Kind.DESCRIBED, described(f"{number}.dcm"), f"S{number}")).position
            tx.append(NewEntry(Kind.ARCHIVED, archived(f"{number}.dcm"), f"S{number}", described_at))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with ledger._reader.connection() as connection:
        connection.set_progress_handler(count, 1)
    found = ledger.due([Stage.REMOVE, Stage.TELL, Stage.CONFIRM], limit=4)
    assert [(work_item.entry.position, work_item.stage) for work_item in found] == [
        (2, Stage.REMOVE), (2, Stage.TELL), (4, Stage.REMOVE), (4, Stage.TELL),
    ]  # fmt: skip
    assert 0 < steps < 1500  # of the SQLite machine; 40,000 if all 1,200 rows are read
    ledger.close()


def test_the_entries_that_name_a_study_and_the_open_outages_are_found_through_indexes(filled):
    with closing(sqlite.connect(filled)) as connection:
        naming = connection.execute(
            f"EXPLAIN QUERY PLAN SELECT {COLUMNS} FROM entries WHERE {SQLITE.naming_study} ORDER BY position", ("S1",)
        )
        outages = connection.execute(f"EXPLAIN QUERY PLAN SELECT {COLUMNS} FROM entries WHERE {OPEN_OUTAGES} ORDER BY position")
        assert "USING INDEX entries_naming_study" in naming.fetchone()[3]
        steps = [step[3] for step in outages]
    assert sum("USING INDEX entries_of_no_study (kind=?)" in step for step in steps) == 2, steps
    assert not any(step.startswith(("SCAN", "CORRELATED")) for step in steps), steps


def test_a_payload_that_is_no_json_any_more_stops_neither_the_index_nor_a_check(filled):
    with closing(sqlite.connect(filled)) as connection:
        connection.executescript("DROP TRIGGER entries_update; UPDATE entries SET payload = 'erased' WHERE position = 1; REINDEX")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    ledger = SqliteLedger(filled)
    assert [entry.position for entry in ledger.of_upload("a.dcm")] == [2, 3]
    ledger.close()


def test_migrating_again_changes_nothing(tmp_path):
    path = tmp_path / "ledger.db"
    migrate(path)
    first = SqliteLedger(path)
    first.close()
    before = path.read_bytes()
    done = migrate(path)
    assert (done.changed, done.backup) == (False, None)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db"]


def test_each_ledger_gets_an_id_of_its_own(tmp_path):
    ids = set()
    for name in ("a", "b"):
        migrate(tmp_path / name / "ledger.db")
        ledger = SqliteLedger(tmp_path / name / "ledger.db")
        ids.add(ledger.ledger_id)
        ledger.close()
    assert len(ids) == 2


def test_several_processes_may_migrate_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from storage_ledger.ledger.migrate import migrate; import alembic.command\n"
        "print('ready', flush=True); sys.stdin.readline(); migrate(Path(sys.argv[1]))"
    )
    path = tmp_path / "ledger.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    assert [(error, code) for error, code in ended if code] == []
    assert schema_of(path) == SCHEMA
    with closing(sqlite.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone() == (2,)


def test_a_foreign_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(sqlite.connect(path)) as connection:
        connection.execute("CREATE TABLE somebodys (thing)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(LedgerUnusable, match="ledger-foreign"):
        migrate(path)
    assert path.read_bytes() == before


def test_a_foreign_database_that_happens_to_use_alembic_is_refused(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(sqlite.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('{HEAD}')")
    with pytest.raises(LedgerUnusable, match="ledger-foreign"):
        migrate(path)


def test_a_ledger_that_was_begun_without_scripts_is_made(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(sqlite.connect(path)) as connection:
        connection.execute(SCHEMA["alembic_version"])  # as Alembic makes it
        connection.commit()
    assert migrate(path).before is None
    assert schema_of(path) == SCHEMA


@pytest.mark.parametrize("left", [(), ("0001",)], ids=["none", "some"])
def test_a_program_without_its_scripts_says_so_and_leaves_the_folder_to_a_whole_one(tmp_path, left):
    shutil.copytree(ROOT / "storage_ledger", tmp_path / "storage_ledger", ignore=shutil.ignore_patterns("__pycache__", "browse"))
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    for script in (tmp_path / "alembic" / "versions").glob("*.py"):
        if not script.name.startswith(left or ("-",)):
            script.unlink()
    environment = {**os.environ, **{f"{name}_PATH": str(tmp_path / name.lower()) for name in ("LEDGER", "UPLOADS", "ARCHIVE")}}
    command = [sys.executable, "-m", "storage_ledger", "migrate"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("storage-ledger: migrations-missing: ")) == (2, True), done.stderr
    assert migrate(tmp_path / "ledger" / "ledger.db").before is None


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(LedgerUnusable, match="ledger-damaged"):
        migrate(path)
    assert path.read_bytes() == b"no database " * 1000


@pytest.mark.parametrize("revision", ["9999", "*", "../versions/0001", ""])
def test_a_ledger_of_a_revision_that_is_not_known_is_refused(tmp_path, ledgers, revision):
    path = ledgers.file(tmp_path)
    with closing(sqlite.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
    with pytest.raises(LedgerUnusable, match="ledger-newer"):
        migrate(path)
    assert schema_of(path) == SCHEMA


def test_head_is_the_newest_script():
    texts = [path.read_text(encoding="utf-8") for path in (script_folder() / "versions").glob("*.py")]
    found = {
        name: {match for text in texts for match in re.findall(rf'^{name} = "(\w+)"', text, re.MULTILINE)}
        for name in ("revision", "down_revision")
    }
    assert found["revision"] - found["down_revision"] == {HEAD}


def test_alembics_own_command_makes_the_same_schema(tmp_path):
    environment = {
        **os.environ,
        "LEDGER_PATH": str(tmp_path / "ledger"),
        "UPLOADS_PATH": str(tmp_path / "u"),
        "ARCHIVE_PATH": str(tmp_path / "a"),
    }
    command = [sys.executable, "-m", "alembic", "-c", "migrations.ini", "upgrade", "head"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert schema_of(tmp_path / "ledger" / "ledger.db") == SCHEMA
    assert stat.S_IMODE((tmp_path / "ledger" / "ledger.db").stat().st_mode) & 0o007 == 0
    ledger = SqliteLedger(tmp_path / "ledger" / "ledger.db")
    assert len(ledger.ledger_id) == 36
    ledger.close()


# -- serve.lock


TAKE_LOCK = """
import sys
from pathlib import Path
from storage_ledger.errors import Locked
from storage_ledger.system import locks
try:
    with locks.held(Path(sys.argv[1]), "restore"):
        print("held", flush=True)
        sys.stdin.readline()
except Locked as error:
    print(error.code, error.detail)
"""


def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    with locks.held(tmp_path / "serve.lock", "serve"):
        done = subprocess.run(
            [sys.executable, "-c", TAKE_LOCK, tmp_path / "serve.lock"], capture_output=True, text=True, check=True, input=""
        )
    assert done.stdout.startswith("locked ")
    assert f"`storage-ledger serve` (process {os.getpid()} on " in done.stdout


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", TAKE_LOCK, tmp_path / "serve.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Locked, match="restore"), locks.held(tmp_path / "serve.lock", "serve"):
        pass
    holder.kill()
    holder.communicate()
    with locks.held(tmp_path / "serve.lock", "serve"):
        pass


def test_a_lock_can_be_taken_again_and_its_file_stays(tmp_path):
    for _ in range(2):
        with locks.held(tmp_path / "serve.lock", "serve"):
            pass
    assert (tmp_path / "serve.lock").exists()


def test_a_holder_that_left_no_name_is_another_process(tmp_path):
    path = tmp_path / "serve.lock"
    with locks.held(path, "serve"):
        path.write_text("not json")
        with pytest.raises(Locked, match="another process"), locks.held(path, "serve"):
            pass


def test_the_copy_that_is_made_before_a_migration_is_whole_and_private(tmp_path, ledgers):
    path = ledgers.file(tmp_path)
    ledger = SqliteLedger(path)
    with ledger.write() as tx:
        written = [tx.append(NewEntry(Kind.DESCRIBED, described(), f"S{n}")) for n in range(50)]
    copy = _backup(path, "0000")  # while a writer has it open: what is in the WAL belongs to it
    ledger.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert copy.parent == path.parent
    restored = tmp_path / "restored" / "ledger.db"
    restored.parent.mkdir()
    copy.rename(restored)
    again = SqliteLedger(restored)
    assert (again.ledger_id, again.read(0, 100)) == (ledger.ledger_id, written)
    again.close()


WITHOUT_PYSQLITE3 = """
import sys
from pathlib import Path
sys.modules["pysqlite3"] = None  # as where it has no wheel
from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.system.sqlite import sqlite
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
assert sqlite.__name__ == "sqlite3"
folder = Path(sys.argv[1])
migrate(folder / "ledger.db")
ledger = SqliteLedger(folder / "ledger.db")
with ledger.write() as tx:
    tx.append(NewEntry(Kind.DESCRIBED, {"upload_path": "a.dcm", "message": {}, "source": "pubsub", "raw_sha256": ""}, "S1"))
assert len(ledger.of_upload("a.dcm")) == 1
index = Index(folder / "index.db", ledger)
assert index.rebuild() == 1
assert not index.ensure()
"""


def test_where_there_is_no_pysqlite3_the_standard_librarys_sqlite_serves(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYSQLITE3, tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr[-1000:] if done.returncode else "") == (0, "")


def test_a_ledger_on_a_file_system_that_is_mounted_read_only_is_told_as_that_and_not_as_a_matter_of_owners(tmp_path):
    with small_volume(tmp_path / "volume", "8m") as volume:
        migrate(volume / "ledger.db")
        subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
        for code, look in (("ledger-folder", migrate), ("ledger-not-writable", require_owner)):
            with pytest.raises(LedgerUnusable, match="mounted read-only") as caught:
                look(volume / "ledger.db")
            assert caught.value.code == code
            assert "user" not in caught.value.detail


def test_who_only_looks_whether_the_lock_is_held_keeps_nobody_from_it(tmp_path):
    looking = (
        "import sys; from pathlib import Path; from storage_ledger.system import locks\nwhile True:\n    locks.is_held(Path(sys.argv[1]))"
    )
    path = tmp_path / "serve.lock"
    lookers = [subprocess.Popen([sys.executable, "-c", looking, str(path)]) for _ in range(2)]
    try:
        for _ in range(3000):
            with locks.held(path, "serve"):
                assert locks.is_held(path)
    finally:
        for each in lookers:
            each.kill()
            each.wait()
