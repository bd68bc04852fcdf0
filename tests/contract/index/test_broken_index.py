"""A damaged or missing index.db is rebuilt or retried, and nothing else stops because of it."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.index.queries import ask_files, damaged, followed_position, studies_with_upload
from storage_ledger.index.schema import INDEXES, SCHEMA, TABLES
from storage_ledger.operations.report.status import current_status
from storage_ledger.operations.report.timeline import timeline_of
from storage_ledger.settings import Settings
from storage_ledger.system.sqlite import sqlite
from tests.property.test_index_properties import rows
from tests.support.making import archived, described
from tests.support.waiting import until

NAMES = [index.split(" ON ")[0].split()[-1] for index in INDEXES]


class Scene:
    """A ledger with some studies, its index, and the content of a correct index."""

    def __init__(self, folder: Path, ledgers) -> None:
        self.ledger = ledgers.open(folder)
        self.path = folder / "index.db"
        self.settings = Settings(uploads_path=folder / "u", archive_path=folder / "a", ledger_path=folder, http_port=0)
        self.wakeup = threading.Event()
        for number in range(3):
            self.append(f"S{number}")
        with closing(Index(self.path, self.ledger)) as index:
            index.ensure()

    def append(self, study_id: str) -> None:
        with self.ledger.write() as tx:
            cause = tx.append(NewEntry(Kind.DESCRIBED, described(f"{study_id}.dcm"), study_id), work_item=False).position
            tx.append(NewEntry(Kind.ARCHIVED, archived(f"{study_id}.dcm"), study_id, cause), work_item=False)
        self.wakeup.set()

    @contextmanager
    def serving(self) -> Iterator[Index]:
        """Let an index follow in a thread, which must still be alive at the end."""
        index = Index(self.path, self.ledger)
        stop = threading.Event()
        ended: list[BaseException | None] = []

        def run() -> None:
            try:
                index.run(stop, self.wakeup)
                ended.append(None)
            except BaseException as error:  # noqa: BLE001 - told below
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield index
            assert ended == []
        finally:
            stop.set()
            self.wakeup.set()
            thread.join(60)
            index.close()
        assert ended == [None]

    def is_right(self) -> bool:
        """Return whether it is up to date and equals a freshly built index."""
        if followed_position(self.path, self.ledger) != self.ledger.last().position:
            return False
        fresh = self.path.with_name("fresh.db")
        fresh.unlink(missing_ok=True)
        with closing(Index(fresh, self.ledger)) as index:
            index.rebuild()
        return schema(self.path) == schema(fresh) and rows(self.path) == rows(fresh)

    def look(self) -> None:
        """Read all that commands read; every call must return, with any result."""
        assert current_status(self.ledger, self.settings).position == self.ledger.last().position
        assert timeline_of(self.ledger, self.settings, "S1").state == "archived"
        ask_files(self.path, self.ledger, "SELECT name FROM files")
        damaged(self.path, self.ledger, 1)
        studies_with_upload(self.path, self.ledger, "quarantined")


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite.connect(path)) as connection:
        return set(connection.execute("SELECT type, name FROM sqlite_master"))


def script(sql: str):
    def break_it(path: Path) -> None:
        with closing(sqlite.connect(path, timeout=30)) as connection:
            connection.executescript(sql)

    return break_it


def replaced(make):
    """Replace it by something else."""

    def break_it(path: Path) -> None:
        for each in path.parent.glob("index.db*"):
            each.unlink()
        make(path)

    return break_it


def beside(suffix: str, make):
    def break_it(path: Path) -> None:
        other = Path(f"{path}{suffix}")
        other.unlink(missing_ok=True)
        make(other)

    return break_it


def folder_with_something(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("kept")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def foreign(path: Path) -> None:
    """Make another program's database with our version number."""
    with closing(sqlite.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE studies (x); CREATE TABLE progress (x); PRAGMA user_version = {SCHEMA}")


def holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data), 8192):
        data[at : at + 64] = bytes(64)
    path.write_bytes(data)


BROKEN = {
    **{f"without {table}": script(f"DROP TABLE {table}") for table in TABLES},
    **{f"without {name}": script(f"DROP INDEX {name}") for name in NAMES},
    **{f"{table} empty": script(f"DELETE FROM {table}") for table in ("progress",)},
    "without the search": script("DROP TABLE studies_fts; DROP TABLE dicom_studies_fts"),
    "without all": script("".join(f"DROP TABLE {table};" for table in TABLES)),
    "a table without a column": script("ALTER TABLE studies DROP COLUMN patient_birth_date"),
    "a table of another type": script("DROP TABLE files; CREATE TABLE files (study_id BLOB, name INTEGER)"),
    "a view in place of a table": script("DROP TABLE series; CREATE VIEW series AS SELECT 1 AS x"),
    "a trigger that refuses": script("CREATE TRIGGER no BEFORE INSERT ON uploads BEGIN SELECT RAISE(ABORT, 'no'); END"),
    "a trigger that changes things": script("CREATE TRIGGER no AFTER INSERT ON studies BEGIN DELETE FROM files; END"),
    "progress of text": script("UPDATE progress SET position = 'far', ledger_id = x'00'"),
    "progress of nothing": script(
        "DROP TABLE progress; CREATE TABLE progress (position, ledger_id, leaf_hash); INSERT INTO progress VALUES (NULL, NULL, NULL)"
    ),
    "progress before all": script("UPDATE progress SET position = -7"),
    "progress beyond all": script("UPDATE progress SET position = 9223372036854775807"),
    "progress twice": script("INSERT INTO progress SELECT * FROM progress"),
    "foreign": replaced(foreign),
    "empty": replaced(lambda path: path.touch()),
    "garbage": replaced(garbage),
    "pages of nothing": holes,
    "a FIFO": replaced(os.mkfifo),
    "a folder": replaced(lambda path: path.mkdir()),
    "a folder with something in it": replaced(folder_with_something),
    "a link to nowhere": replaced(lambda path: path.symlink_to("nowhere/at/all")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "a link to a FIFO": replaced(lambda path: (os.mkfifo(path.with_name("fifo")), path.symlink_to("fifo"))),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    **{f"{suffix} a FIFO": beside(suffix, os.mkfifo) for suffix in ("-wal", "-shm", "-journal")},
    **{f"{suffix} a folder": beside(suffix, lambda path: path.mkdir()) for suffix in ("-wal", "-shm", "-journal")},
    "gone": replaced(lambda _: None),
}  # fmt: skip


@pytest.fixture
def scene(tmp_path, ledgers) -> Scene:
    return Scene(tmp_path, ledgers)


@pytest.mark.parametrize("how", BROKEN)
def test_an_index_that_is_broken_at_the_start_is_rebuilt(scene, how):
    BROKEN[how](scene.path)
    scene.look()
    with scene.serving():
        scene.append("S8")
        until(scene.is_right, 30, what="the index to be right")
    scene.look()
    assert [path.name for path in scene.path.parent.rglob("mine")] == ["mine"] * (how == "a folder with something in it")


@pytest.mark.parametrize("how", BROKEN)
def test_an_index_that_breaks_while_it_is_followed_is_rebuilt(scene, how):
    with scene.serving() as index:
        until(scene.is_right, 30)
        BROKEN[how](scene.path)
        scene.look()
        scene.append("S8")
        until(scene.is_right, 30, what="the index to be right")
        until(lambda: index.trouble is None)


@pytest.mark.parametrize("table", ["studies", "uploads", "files"])
def test_garbage_rows_stop_nothing(scene, table):
    columns = [row[1] for row in columns_of(scene.path, table)]
    values = {name: "CAST(x'ff00fe' AS TEXT)" if n % 3 == 0 else "x'ff'" if n % 3 == 1 else "-1.5e300" for n, name in enumerate(columns)}
    assignments = ", ".join(f"{name} = {value}" for name, value in values.items() if name not in {"study_id", "name", "upload_path"})
    with scene.serving():
        until(scene.is_right, 30)
        script(f"UPDATE {table} SET {assignments}")(scene.path)
        scene.look()
        for study_id in ("S0", "S1", "S2", "S8"):
            scene.append(study_id)
        until(lambda: followed_position(scene.path, scene.ledger) == scene.ledger.last().position, 30)


def columns_of(path: Path, table: str):
    with closing(sqlite.connect(path)) as connection:
        return connection.execute(f"PRAGMA table_info({table})").fetchall()


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["folder", "fifo", "link"]
)
def test_an_unavailable_lock_is_reported_and_the_index_is_rebuilt_once_it_is_free(scene, log, make):
    script("DROP TABLE files")(scene.path)
    lock = scene.path.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    make(lock)
    with scene.serving() as index:
        until(lambda: index.trouble == "ledger-io", 30)
        scene.look()
        lock.rmdir() if lock.is_dir() else lock.unlink()
        until(scene.is_right, 90)
        until(lambda: index.trouble is None)


def test_an_entry_that_says_nothing_of_use_costs_one_rebuild_and_is_left_out(scene, log):
    with scene.ledger.write() as tx:
        position = tx.append(NewEntry(Kind.ARCHIVED, {"no": "file"}, "S1", 1), work_item=False).position
    with scene.serving() as index:
        until(lambda: index.position >= position and index.trouble is None, 60)
        scene.append("S8")
        until(lambda: index.position > position, 60)
        assert (index.damaged, index.trouble) == (1, None)
        assert log.getvalue().count("index.rebuild") < 4


def test_a_copy_of_an_index_under_the_name_of_its_journal_does_no_harm(scene):
    shutil.copy(scene.path, f"{scene.path}-journal")
    with scene.serving():
        scene.append("S8")
        until(scene.is_right, 30)
