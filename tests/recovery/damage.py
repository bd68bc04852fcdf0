"""Single damages to a ledger, its mirror, archive or index, and what a verification must report for each."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage_ledger.system.sqlite import sqlite

COLUMNS = ("entry_id", "study_id", "version", "kind", "schema", "recorded_at", "cause", "payload", "payload_sha256", "salt", "leaf_hash")
INDEXED = {
    "studies": "study_id",
    "uploads": "study_id",
    "files": "study_id",
    "dicom_studies": "study_instance_uid",
    "series": "series_instance_uid",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """One expected finding. None matches anything."""

    part: str
    position: int | None = None
    path: str | None = None

    def fits(self, found: Any) -> bool:
        return (
            found.part == self.part
            and (self.position is None or found.position == self.position)
            and (self.path is None or found.path == self.path)
        )


@dataclass(slots=True)
class World:
    """The folders to damage. `saved` has a copy of everything, so that damage can be undone byte for byte."""

    root: Path
    saved: Path
    rng: random.Random
    studies: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        return self.root / "ledger" / "ledger.db"

    @property
    def index(self) -> Path:
        return self.root / "ledger" / "index.db"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def mirror(self) -> Path:
        return self.archive / ".ledger"

    def save(self) -> None:
        shutil.copytree(self.root, self.saved, symlinks=True)

    def undo(self) -> None:
        """Restore what differs from the copy."""
        for name in ("second-name", "elsewhere.dcm", "elsewhere.entries"):
            (self.root / name).unlink(missing_ok=True)
        for folder in ("ledger", "archive"):
            here, there = self.root / folder, self.saved / folder
            for path in sorted(here.rglob("*"), reverse=True):
                twin = there / path.relative_to(here)
                if path.is_symlink() or not os.path.lexists(twin) or path.is_dir() != twin.is_dir() or path.is_fifo():
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for twin in sorted(there.rglob("*")):
                path = here / twin.relative_to(there)
                if twin.is_dir():
                    path.mkdir(exist_ok=True)
                elif not path.exists() or path.read_bytes() != twin.read_bytes() or path.stat().st_mode != twin.stat().st_mode:
                    path.unlink(missing_ok=True)
                    shutil.copy2(twin, path)

    def segments(self) -> list[Path]:
        return sorted(self.mirror.glob("*.entries"))

    def files(self) -> list[Path]:
        """Return the archived files, without metadata.json."""
        return [path for path in sorted(self.archive.glob("*/*")) if path.parent.name != ".ledger" and path.name != "metadata.json"]

    def metadata(self) -> list[Path]:
        return sorted(self.archive.glob("*/metadata.json"))

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.archive))

    def ask(self, statement: str, *values: object) -> list[Any]:
        with closing(sqlite.connect(self.ledger)) as connection:
            return list(connection.execute(statement, values))

    def change(self, *statements: tuple[str, tuple[object, ...]], file: Path | None = None) -> None:
        """Run SQL without the triggers, then restore them."""
        with closing(sqlite.connect(file or self.ledger)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            triggers = list(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            for statement, values in statements:
                assert connection.execute(statement, values).rowcount != 0, statement
            for _, sql in triggers:
                connection.execute(sql)
            connection.commit()

    def last(self) -> int:
        return int(self.ask("SELECT max(position) FROM entries")[0][0])


Damage = Callable[[World], Iterable[Expected]]
DAMAGES: dict[str, Damage] = {}


def damage(made: Damage) -> Damage:
    DAMAGES[made.__name__] = made
    return made


def flipped(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def rewrite(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode & 0o7777
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


# -- the ledger


def _other(rng: random.Random, value: object) -> tuple[str, object]:
    """Return SQL and a different value of the same type."""
    if value is None:
        return "?", rng.choice([1, "x"])
    if isinstance(value, int):
        return "?", value ^ 1 << rng.randrange(6)
    if isinstance(value, bytes):
        return "?", flipped(rng, value)
    return "CAST(? AS TEXT)", flipped(rng, str(value).encode())


@damage
def a_column_of_an_entry(world: World) -> list[Expected]:
    position, column = world.rng.randint(1, world.last()), world.rng.choice([*COLUMNS, "payload", "payload"])
    if column == "version" and not world.ask("SELECT version FROM entries WHERE position = ?", position)[0][0]:
        column = "payload"
    [(value,)] = world.ask(f"SELECT {column} FROM entries WHERE position = ?", position)
    mark, other = _other(world.rng, value)
    if column == "version":
        other = 1000 + int(value)
    world.change((f"UPDATE entries SET {column} = {mark} WHERE position = ?", (other, position)))
    return [Expected("ledger", position, "ledger.db")]


@damage
def a_column_set_to_null(world: World) -> list[Expected]:
    position, column = (
        world.rng.randint(1, world.last()),
        world.rng.choice(["payload", "kind", "recorded_at", "salt", "leaf_hash", "entry_id"]),
    )
    world.change((f"UPDATE entries SET {column} = NULL WHERE position = ?", (position,)))
    return [Expected("ledger", position)]


@damage
def two_columns_of_an_entry_swapped(world: World) -> list[Expected]:
    position = world.rng.randint(1, world.last())
    world.change(("UPDATE entries SET entry_id = recorded_at, recorded_at = entry_id WHERE position = ?", (position,)))
    return [Expected("ledger", position)]


@damage
def the_payloads_of_two_entries_swapped(world: World) -> list[Expected]:
    one, two = world.rng.sample(range(1, world.last() + 1), 2)
    values = {p: world.ask("SELECT payload, payload_sha256, salt FROM entries WHERE position = ?", p)[0] for p in (one, two)}
    sql = "UPDATE entries SET payload = ?, payload_sha256 = ?, salt = ? WHERE position = ?"
    world.change((sql, (*values[one], two)), (sql, (*values[two], one)))
    return [Expected("ledger", one), Expected("ledger", two)]


@damage
def the_positions_of_two_entries_swapped(world: World) -> list[Expected]:
    one, two = world.rng.sample(range(1, world.last() + 1), 2)
    sql = "UPDATE entries SET position = ? WHERE position = ?"
    world.change((sql, (-1, one)), (sql, (one, two)), (sql, (two, -1)))
    return [Expected("ledger", one), Expected("ledger", two)]


@damage
def an_entry_in_the_middle_deleted(world: World) -> list[Expected]:
    position = world.rng.randint(1, world.last() - 1)
    world.change(("DELETE FROM entries WHERE position = ?", (position,)))
    return [Expected("ledger", position)]


@damage
def the_last_entries_deleted(world: World) -> list[Expected]:
    first = world.last() + 1 - world.rng.randint(1, 3)
    world.change(("DELETE FROM entries WHERE position >= ?", (first,)))
    return [Expected("ledger", first)]


@damage
def an_entry_invented_at_the_end(world: World) -> list[Expected]:
    position = world.last() + 1
    columns = "entry_id, kind, schema, recorded_at, payload, payload_sha256, salt, leaf_hash"
    picked = columns.replace("entry_id", "'invented'")
    sql = f"INSERT INTO entries (position, {columns}) SELECT ?, {picked} FROM entries WHERE position = ?"
    world.change((sql, (position, position - 1)))
    return [Expected("ledger", position)]


@damage
def a_trigger_dropped(world: World) -> list[Expected]:
    with closing(sqlite.connect(world.ledger)) as connection:
        connection.execute(f"DROP TRIGGER entries_{world.rng.choice(['insert', 'update', 'delete'])}")
    return [Expected("ledger", None, "ledger.db")]


@damage
def a_trigger_that_does_nothing(world: World) -> list[Expected]:
    with closing(sqlite.connect(world.ledger)) as connection:
        connection.execute("DROP TRIGGER entries_update")
        connection.execute("CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT 1; END")
    return [Expected("ledger", None, "ledger.db")]


@damage
def an_index_or_table_of_the_ledger(world: World) -> list[Expected]:
    sql = world.rng.choice(["DROP INDEX pending_due", "DROP INDEX entries_of_upload", "CREATE TABLE notes (text)"])
    with closing(sqlite.connect(world.ledger)) as connection:
        connection.execute(sql)
    return [Expected("ledger", None, "ledger.db")]


@damage
def meta_or_revision(world: World) -> list[Expected]:
    sql = world.rng.choice(
        [
            "UPDATE meta SET value = 'another'",
            "DELETE FROM meta",
            "INSERT INTO meta VALUES ('x', 'y')",
            "UPDATE alembic_version SET version_num = '9999'",
            "DELETE FROM alembic_version",
        ]
    )
    world.change((sql, ()))
    return [Expected("ledger", None, "ledger.db")]


@damage
def a_duty_lost(world: World) -> list[Expected]:
    position, stage = world.rng.choice(world.ask("SELECT position, stage FROM pending WHERE stage IN ('place', 'tell')"))
    world.change(("DELETE FROM pending WHERE position = ? AND stage = ?", (position, stage)))
    return [Expected("ledger", position, "ledger.db")]


@damage
def a_duty_too_many(world: World) -> list[Expected]:
    sql = {
        "place": "SELECT position FROM entries WHERE kind = 'status-sent'",
        "remove": "SELECT position FROM entries WHERE kind = 'described'",
        "tell": "SELECT position FROM entries e WHERE kind = 'archived' AND NOT EXISTS "
        "(SELECT 1 FROM pending p WHERE p.position = e.position AND stage = 'tell')",
        "confirm": "SELECT position FROM entries WHERE kind = 'archived'",
        "else": "SELECT position FROM entries",
    }
    stage = world.rng.choice(sorted(sql))
    [position] = world.rng.choice(world.ask(sql[stage]))
    world.change(("INSERT INTO pending VALUES (?, ?, '2026-01-01T12:00:00.000000Z', 0)", (position, stage)))
    return [Expected("ledger", position, "ledger.db")]


@damage
def a_duty_put_off_for_ever(world: World) -> list[Expected]:
    position, stage = world.rng.choice(world.ask("SELECT position, stage FROM pending WHERE stage <> 'confirm'"))
    other = world.rng.choice(["9999-01-01T00:00:00.000000Z", "never"])
    world.change(("UPDATE pending SET not_before = ? WHERE position = ? AND stage = ?", (other, position, stage)))
    return [Expected("ledger", position, "ledger.db")]


# -- the mirror


@damage
def a_bit_of_the_mirror(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    rewrite(path, flipped(world.rng, path.read_bytes()))
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_segment_cut_short(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    data = path.read_bytes()
    rewrite(path, data[: world.rng.randrange(len(data))])
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_segment_cut_at_a_line(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    lines = path.read_bytes().splitlines(keepends=True)
    rewrite(path, b"".join(lines[: world.rng.randrange(1, len(lines))]))
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_segment_removed(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    path.unlink()
    return [Expected("mirror", None, world.relative(path))]


@damage
def the_last_segment_removed(world: World) -> list[Expected]:
    path = world.segments()[-1]
    path.unlink()
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_segment_renamed(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    path.rename(path.with_name("kept.old"))
    return [Expected("mirror", None, world.relative(path)), Expected("mirror", None, ".ledger/kept.old")]


@damage
def a_line_of_the_mirror_twice(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    lines = path.read_bytes().splitlines(keepends=True)
    at = world.rng.randrange(len(lines))
    rewrite(path, b"".join([*lines[: at + 1], lines[at], *lines[at + 1 :]]))
    return [Expected("mirror", None, world.relative(path))]


@damage
def two_lines_of_the_mirror_swapped(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    lines = path.read_bytes().splitlines(keepends=True)
    at = world.rng.choice([i for i in range(1, len(lines) - 1) if lines[i][:5] == lines[i + 1][:5] == b"entry"])
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    rewrite(path, b"".join(lines))
    return [Expected("mirror", None, world.relative(path))]


@damage
def an_entry_missing_in_the_mirror(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    lines = path.read_bytes().splitlines(keepends=True)
    at = world.rng.choice([i for i, line in enumerate(lines) if line.startswith(b"entry")])
    rewrite(path, b"".join([*lines[:at], *lines[at + 1 :]]))
    return [Expected("mirror", None, world.relative(path))]


@damage
def something_behind_the_mirrors_end(world: World) -> list[Expected]:
    path = world.segments()[-1]
    rewrite(path, path.read_bytes() + world.rng.choice([b"\n", b"entry\t", b"nonsense\n", b"\0" * 100]))
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_stranger_in_the_mirror(world: World) -> list[Expected]:
    path = world.mirror / world.rng.choice(["notes.txt", "000000000001.entries.bak", "1.entries"])
    path.write_bytes(b"x")
    return [Expected("mirror", None, world.relative(path))]


@damage
def a_link_in_place_of_a_segment(world: World) -> list[Expected]:
    path = world.rng.choice(world.segments())
    shutil.copy(path, world.root / "elsewhere.entries")
    path.unlink()
    path.symlink_to(world.root / "elsewhere.entries")
    return [Expected("mirror", None, world.relative(path))]


@damage
def the_mirror_gone(world: World) -> list[Expected]:
    shutil.rmtree(world.mirror)
    return [Expected("mirror", None, ".ledger")]


# -- the archive


def _file(world: World) -> tuple[Path, list[Expected]]:
    path = world.rng.choice(world.files())
    return path, [Expected("archive", None, world.relative(path))]


@damage
def a_bit_of_a_file(world: World) -> list[Expected]:
    path, expected = _file(world)
    rewrite(path, flipped(world.rng, path.read_bytes()))
    return expected


@damage
def a_file_cut_short(world: World) -> list[Expected]:
    path, expected = _file(world)
    data = path.read_bytes()
    rewrite(path, data[: world.rng.randrange(len(data))])
    return expected


@damage
def a_file_with_more(world: World) -> list[Expected]:
    path, expected = _file(world)
    rewrite(path, path.read_bytes() + b"\0")
    return expected


@damage
def a_file_deleted(world: World) -> list[Expected]:
    path, expected = _file(world)
    path.unlink()
    return expected


@damage
def a_file_renamed(world: World) -> list[Expected]:
    path, expected = _file(world)
    other = path.with_name("renamed.dcm")
    path.rename(other)
    return [*expected, Expected("archive", None, world.relative(other))]


@damage
def a_link_in_place_of_a_file(world: World) -> list[Expected]:
    path, expected = _file(world)
    shutil.copy(path, world.root / "elsewhere.dcm")
    path.unlink()
    path.symlink_to(world.root / "elsewhere.dcm")
    return expected


@damage
def something_else_in_place_of_a_file(world: World) -> list[Expected]:
    path, expected = _file(world)
    path.unlink()
    world.rng.choice([path.mkdir, lambda: os.mkfifo(path)])()
    return expected


@damage
def the_bytes_of_two_files_swapped(world: World) -> list[Expected]:
    one, two = world.rng.sample(world.files(), 2)
    a, b = one.read_bytes(), two.read_bytes()
    if a == b:
        b += b"!"
    rewrite(one, b)
    rewrite(two, a if a != two.read_bytes() else a + b"?")
    changed = [path for path in (one, two) if path.read_bytes() != (world.saved / path.relative_to(world.root)).read_bytes()]
    return [Expected("archive", None, world.relative(path)) for path in changed]


@damage
def a_file_that_anybody_may_write(world: World) -> list[Expected]:
    path = world.rng.choice([*world.files(), *world.metadata()])
    path.chmod(0o666)
    return [Expected("archive", None, world.relative(path))]


@damage
def metadata_changed(world: World) -> list[Expected]:
    path = world.rng.choice(world.metadata())
    data = path.read_bytes()
    other = world.rng.choice([flipped(world.rng, data), data[: world.rng.randrange(len(data))], data + b"\n"])
    rewrite(path, other)
    return [Expected("archive", None, world.relative(path))]


@damage
def metadata_gone(world: World) -> list[Expected]:
    path = world.rng.choice(world.metadata())
    path.unlink()
    if world.rng.random() < 0.5:
        path.mkdir()
    return [Expected("archive", None, world.relative(path))]


@damage
def a_study_gone(world: World) -> list[Expected]:
    folder = world.rng.choice(world.metadata()).parent
    expected = [Expected("archive", None, world.relative(path)) for path in folder.iterdir()]
    shutil.rmtree(folder)
    return expected


@damage
def a_study_renamed(world: World) -> list[Expected]:
    folder = world.rng.choice(world.metadata()).parent
    expected = [Expected("archive", None, world.relative(path)) for path in folder.iterdir()]
    other = folder.with_name("renamed")
    folder.rename(other)
    return [*expected, Expected("archive", None, "renamed")]


@damage
def a_stranger_among_the_files(world: World) -> list[Expected]:
    folder = world.rng.choice(world.metadata()).parent
    path = folder / world.rng.choice([".hidden", "thumbs.db", ".place-1.tmp", "metadata.json~", "\udcff.dcm"])
    path.write_bytes(b"x")
    return [Expected("archive", None, os.fsencode(world.relative(path)).decode("utf-8", "backslashreplace"))]


@damage
def a_strange_folder(world: World) -> list[Expected]:
    folder = world.rng.choice([world.archive / "unknown", world.archive / ".trash", world.rng.choice(world.metadata()).parent / "below"])
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    return [Expected("archive", None, world.relative(folder))]


@damage
def a_stranger_beside_the_studies(world: World) -> list[Expected]:
    path = world.archive / world.rng.choice(["README", "unknown-study"])
    path.write_bytes(b"x")
    return [Expected("archive", None, world.relative(path))]


# -- the index


@damage
def a_cell_of_the_index(world: World) -> list[Expected]:
    table = world.rng.choice(sorted(INDEXED))
    key = INDEXED[table]
    with closing(sqlite.connect(world.index)) as connection:
        columns = [row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk = 0", (table,))]
        column = world.rng.choice([name for name in columns if name not in {"position", "first_position"}])
        [value] = world.rng.choice(list(connection.execute(f"SELECT {key} FROM {table}")))
        assert connection.execute(f'UPDATE {table} SET "{column}" = coalesce("{column}", 0) || \'!\' WHERE {key} = ?', (value,)).rowcount
        count = connection.execute(f"SELECT count(*) FROM {table} WHERE {key} = ?", (value,)).fetchone()[0]
        connection.commit()
    return [Expected("index", None, "index.db")] * count


@damage
def a_row_of_the_index_gone(world: World) -> list[Expected]:
    table = world.rng.choice(sorted(INDEXED))
    with closing(sqlite.connect(world.index)) as connection:
        [value] = world.rng.choice(list(connection.execute(f"SELECT {INDEXED[table]} FROM {table}")))
        count = connection.execute(f"DELETE FROM {table} WHERE {INDEXED[table]} = ?", (value,)).rowcount
        connection.commit()
    return [Expected("index", None, "index.db")] * count


@damage
def a_row_too_many_in_the_index(world: World) -> list[Expected]:
    with closing(sqlite.connect(world.index)) as connection:
        connection.execute("INSERT INTO uploads VALUES ('S0', 'invented.dcm', 'archived', NULL, 1)")
        connection.commit()
    return [Expected("index", None, "index.db")]


@damage
def the_progress_or_the_shape_of_the_index(world: World) -> list[Expected]:
    sql = world.rng.choice(
        [
            "UPDATE progress SET position = position - 1",
            "UPDATE progress SET leaf_hash = x'00'",
            "UPDATE progress SET ledger_id = 'another'",
            "DELETE FROM progress",
            "DROP INDEX files_by_sop",
            "CREATE TABLE notes (text)",
            "INSERT INTO studies_fts (studies_fts, rowid, patient_name) VALUES ('delete', 1, 'DOE^JANE')",
            "INSERT INTO studies_fts (rowid, patient_name) VALUES (999999, 'invented')",
        ]
    )
    with closing(sqlite.connect(world.index)) as connection:
        connection.execute(sql)
        connection.commit()
    return [Expected("index", None, "index.db")]


@damage
def the_index_no_database(world: World) -> list[Expected]:
    world.index.write_bytes(b"garbage " * 4096)
    return [Expected("index", None, "index.db")]


@damage
def the_index_gone(world: World) -> list[Expected]:
    world.index.unlink()
    return [Expected("index", None, "index.db")]


# -- no damage


@damage
def what_is_no_damage(world: World) -> list[Expected]:
    path = world.rng.choice(world.files())
    world.rng.choice([lambda: path.chmod(0o640), lambda: os.link(path, world.root / "second-name"), lambda: os.utime(path, (1, 1))])()
    return []
