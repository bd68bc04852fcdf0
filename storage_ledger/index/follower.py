"""index.db: follows the ledger by position, in its own transactions, and is rebuilt when it does not fit or cannot be read.

It is disposable: whatever is in it, or happens to it, nothing else may stop because of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from storage_ledger.domain.entries import Entry, faults
from storage_ledger.errors import LedgerBusy, LedgerError, LedgerUnusable, Locked, StorageLedgerError
from storage_ledger.index import fixity
from storage_ledger.index.batch import KEEP_STUDIES, UNFOLDED, Batch
from storage_ledger.index.rebuild.partitions import Workers, bring_in, derive_again, left_over, remove, shares
from storage_ledger.index.schema import SHADOW, progress_of, right_schema, schema, schema_version
from storage_ledger.index.tables import INDEXES, SCHEMA, SEARCH, TABLES
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.sqlite import translated
from storage_ledger.system import cpu_affinity, locks, logs
from storage_ledger.system.ownership import hand_over
from storage_ledger.system.sqlalchemy_engine import driver, open_engine, sqlite
from storage_ledger.system.sqlite import beside_of, is_regular

BATCH = 500
GATHER_S = 0.1  # one batch for what belongs together: a study's entries follow each other closely
REBUILD_CACHE_KB = 65_536
RECHECKED = 100
PAGE_BYTES = 8_192
"""Of a new file: a rebuild takes a twentieth less time than with 4,096, and an entry that is followed writes half as much again."""
TRIES_ONCE_STOPPED = 3
PAUSE_MOST_S = 60.0
READ_WITHIN_MS = 2_000
"""How long a reader waits for somebody who has locked the whole file: a page or a command can do without the index."""

T = TypeVar("T")


class Index:
    """Writes index.db. Losing it loses nothing: it is made again from position 1.

    Two processes may: one that follows, and a command that makes it anew. Each transaction reads where the index stands;
    whoever makes it anew holds `index.lock`, and `command` is what it is called there. `damaged`: how many entries are not
    in it, since they are not what their hashes say; the table of that name has them. `workers` help with a rebuild; by
    itself it takes the ledger in so many stretches, and keeps so many studies in memory.
    """

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        *,
        command: str = "serve",
        workers: Workers | None = None,
        rebuild_stretches: int = 1,
        rebuild_keep: int = KEEP_STUDIES,
    ) -> None:
        self.path = path
        self._ledger = ledger
        self._command = command
        self._workers = workers
        self._rebuild_stretches = rebuild_stretches
        self._rebuild_keep = rebuild_keep
        self.position = 0
        self.damaged = 0
        self.trouble: str | None = None
        """The code of what keeps it from being written and rebuilt; None while it follows."""
        self._engine: Engine | None = None  # opened when it is first needed: a file that cannot be opened is no reason not to start
        self._opened: tuple[int, int] | None = None
        self._version: int | None = None  # of the schema, as SQLite counts its changes, when it was last seen to be ours

    def follow(self) -> int:
        """Apply what the ledger has beyond the index, one batch in one transaction. Returns how many entries.

        Where another process has rebuilt the index meanwhile, it goes on from where that one stands; where somebody has
        changed its tables, it is rebuilt. Raises `Locked` while another process rebuilds it.
        """
        if self._is_replaced():
            self._open_again()
            self.ensure()
        entries = self._ledger.read(self.position, BATCH)
        with self._transaction() as connection:
            progress = progress_of(connection)
            stands = progress is not None and progress[0] == self.position and schema_version(connection) == self._version
            batch = Batch(driver(connection), get=self._ledger.get)
            if stands and entries:
                batch.apply(entries)
                _set_progress(driver(connection).execute, entries[-1], self._ledger.ledger_id)
        if not stands:
            self.ensure()
            return self.follow()
        if not entries:
            return 0
        self.position = entries[-1].position
        self.damaged += len(batch.damaged)
        _say(batch.damaged)
        return len(entries)

    def ensure(self) -> bool:
        """Rebuild it if it is missing, of another schema or ledger, disagrees with this one, or lacks an entry that was mended.

        True if so. Raises `Locked` while another process does.
        """
        try:
            fits = self._fits()
        except _Unreadable:
            logs.get().warning("index.unreadable")
            fits = False
        if not fits:
            self.remake()
        elif self._has_left_over():
            with suppress(Locked, LedgerBusy), locks.held(self.path.with_suffix(".lock"), self._command):
                with self._transaction() as connection:
                    _drop_shadows(connection)
                remove(left_over(self.path))
        return not fits

    def remake(
        self,
        on_progress: Callable[[int], None] = lambda _: None,
        *,
        on_made: Callable[[int, int], None] = lambda _, __: None,
        waits: Callable[[str], None] | None = None,
    ) -> int:
        """`rebuild`, whatever lies there now: a file that SQLite cannot read is thrown away. Returns the position.

        Others may read and follow meanwhile. While another process makes it anew: `waits`, see `lock.held`; else raises `Locked`.
        """
        with locks.held(self.path.with_suffix(".lock"), self._command, waits=waits), cpu_affinity.any_of_them():
            try:
                if self._is_replaced():  # by whoever held the lock before
                    self._open_again()
                return self.rebuild(on_progress, on_made)
            except _Unreadable:
                self._discard()
                return self.rebuild(on_progress, on_made)

    def rebuild(self, on_progress: Callable[[int], None] = lambda _: None, on_made: Callable[[int, int], None] = lambda _, __: None) -> int:
        """Make every table again from the ledger, into shadow tables that take the place of the old in one transaction.

        Readers see the old index until then. Every entry is checked against its hashes; one that does not fit is left out, and
        `damaged` counts it. Memory stays the same however many entries there are, but for SQLite's sorting for two indexes at a
        time. On the disk it needs room for the new index and about as much again. Returns the position that it now stands at.
        `on_progress` hears how many entries are folded; then `on_made` how many of how many indexes and searches are made, from 0.
        """
        last = self._ledger.last()
        position = last.position if last else 0
        logs.get().info("index.rebuild", position=position)
        with shares(self.path, stretches=self._rebuild_stretches, keep=self._rebuild_keep) as beside, self._shadows():
            fold = beside.fold(self._ledger, position, self._workers, on_progress)
            with closing(fold) as folded, self._judged(), self._held() as held:
                verified = bring_in(held, SHADOW, _of_ledger(folded))
            with self._transaction() as connection:  # whoever follows has to wait now
                self._take_over(connection, on_made)
                sql = driver(connection).execute
                fixity.apply_all(sql, (self._of_ledger(partial(self._ledger.get, each)) for each in reversed(verified)))
                # What was applied meanwhile to the tables that are gone now must be in the new ones, too.
                if (beyond := Batch(driver(connection), get=self._ledger.get).apply(self._beyond(position))) is not None:
                    last = beyond
                _set_progress(sql, last, self._ledger.ledger_id)
                damaged = sql("SELECT position, code FROM damaged ORDER BY position").fetchall()
                sql("PRAGMA cache_size = -2000")
                self._version = schema_version(connection)
        _say(damaged)
        self.position, self.damaged = last.position if last else 0, len(damaged)
        return self.position

    def run(self, stop: threading.Event, bell: threading.Event) -> None:
        """Follow until `stop` is set and all is applied; `bell` rings when there is more. A broken index is rebuilt.

        Raises `LedgerUnusable` when the ledger is, and nothing else: what goes wrong with the index is logged, tried again with
        growing pauses, and in `trouble` from the second time on.
        """
        behind, failures = True, 0
        cure: Callable[[], object] | None = None
        while behind or not stop.is_set():
            try:
                if cure is not None:
                    cure()
                    cure = None
                if self.position == 0:
                    self.ensure()
                bell.clear()
                applied = self.follow()
            except LedgerUnusable:
                raise
            except Locked:  # another process rebuilds it
                logs.get().warning("index.busy", code="locked")
                stop.wait(5.0)
                failures += 1
                behind = failures < TRIES_ONCE_STOPPED  # and then, on a stop, the next start follows
            except Exception as error:  # noqa: BLE001 - it is disposable: whatever is wrong with it, the service goes on
                failures += 1
                behind = failures < TRIES_ONCE_STOPPED
                cure = self._cure(error, failures) or cure
                self._trouble_with(error, failures)
                stop.wait(min(PAUSE_MOST_S, 0.5 * 2.0 ** min(failures, 10)))
            else:
                self.trouble = None
                behind, failures = applied > 0, 0
                if not behind:
                    bell.wait(1.0)
                elif applied < BATCH:
                    stop.wait(GATHER_S)

    def close(self) -> None:
        """Release the file."""
        if self._engine is not None:
            self._engine.dispose()

    def _cure(self, error: Exception, failures: int) -> Callable[[], object] | None:
        """What to do before the next try. A file that SQLite cannot write in spite of several tries is given up for a new one."""
        if isinstance(error, _Unreadable):
            return self.remake
        if isinstance(error, _Unwritable) and error.code == "ledger-io" and failures % TRIES_ONCE_STOPPED == 0:
            return self._discard
        return None

    def _trouble_with(self, error: Exception, failures: int) -> None:
        cause = error.__cause__ if isinstance(error, _Unreadable) and error.__cause__ else error
        code = cause.code if isinstance(cause, StorageLedgerError) else "index-unreadable"
        errno = getattr(cause, "errno", None)
        frames = {"frames_at": logs.where(cause)} if code == "index-unreadable" else {}
        logs.get().error("index.failed", code=code, errno=errno, attempt=failures, error_type=type(cause).__name__, **frames)
        if failures > 1:
            self.trouble = code

    def _beyond(self, position: int) -> Iterator[Entry]:
        while some := self._of_ledger(partial(self._ledger.read, position, BATCH)):
            yield from some
            position = some[-1].position

    def _of_ledger(self, read: Callable[[], T]) -> T:
        """Read from the ledger while the index is written: what fails there is not the index's fault."""
        try:
            return read()
        except Exception as error:
            raise _LedgerUnreadable from error

    def _take_over(self, connection: Connection, on_made: Callable[[int, int], None]) -> None:
        sql = connection.exec_driver_sql
        for table in SEARCH:
            sql(f"DROP TABLE IF EXISTS {table}_fts")  # takes the tables behind it along, which cannot be dropped by themselves
        old = [(row[0], row[1]) for row in sql("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')")]
        for kind, name in old:
            if not name.startswith((SHADOW, "sqlite_")):
                sql(f'DROP {kind} IF EXISTS "{name.replace(chr(34), chr(34) * 2)}"')
        for name in TABLES:
            sql(f"ALTER TABLE {SHADOW}{name} RENAME TO {name}")
        late = [index for index in INDEXES if " ON dicom_studies " in index]
        soon = [index for index in INDEXES if index not in late]
        steps: list[Callable[[], Any]] = [
            *(partial(sql, index) for index in soon),
            partial(_make_search, sql, "studies"),
            partial(derive_again, driver(connection)),
            *(partial(sql, index) for index in late),
            partial(_make_search, sql, "dicom_studies"),
        ]
        on_made(0, len(steps))
        for number, step in enumerate(steps, 1):
            step()
            on_made(number, len(steps))
        sql(f"PRAGMA user_version = {SCHEMA}")

    def _fits(self) -> bool:
        with self._transaction() as connection:
            progress = progress_of(connection)
            if progress is None or schema(connection) != right_schema():
                return False
            known = [row[0] for row in connection.exec_driver_sql(f"SELECT position FROM damaged WHERE code <> '{UNFOLDED}'")]  # noqa: S608 - a constant
            version = schema_version(connection)
        if not _is_of(progress, self._ledger) or any(map(self._is_whole, known[:RECHECKED])):
            return False
        self.position, self.damaged, self._version = progress[0], len(known), version
        return True

    def _has_left_over(self) -> bool:
        """Whether there is something of a rebuild: it goes on just now, or was killed, perhaps when all its shares were in."""
        with self._transaction() as connection:
            shadow = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = ?", (f"{SHADOW}studies",)).first()
        return shadow is not None or any(left_over(self.path))

    def _is_whole(self, position: int) -> bool:
        """Whether an entry that was left out could be folded now: it was restored, or this program knows its schema."""
        entry = self._ledger.get(position)
        if entry is None or faults(entry):
            return False
        try:
            _ = entry.data
        except LedgerUnusable:
            return False
        return True

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._judged(), self._file().begin() as connection:
            yield connection

    @contextmanager
    def _shadows(self) -> Iterator[None]:
        """Empty tables beside those that are read; they do not stay when something fails."""
        with self._transaction() as connection:
            connection.exec_driver_sql(f"PRAGMA cache_size = -{REBUILD_CACHE_KB}")
            _drop_shadows(connection)
            for name, columns in TABLES.items():
                connection.exec_driver_sql(f"CREATE TABLE {SHADOW}{name} {columns}")
        try:
            yield
        except BaseException:
            with suppress(Exception), self._transaction() as connection:
                _drop_shadows(connection)
            raise

    @contextmanager
    def _held(self) -> Iterator[Any]:
        """The driver's connection, outside of any transaction."""
        held = self._file().raw_connection()
        try:
            yield held.driver_connection
        finally:
            held.close()

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except _LedgerUnreadable as error:  # while the index was written: that is not the index's fault
            raise error.__cause__ or error from None
        except (OSError, MemoryError):  # of the machine: no other index would help
            raise
        except LedgerBusy as error:
            raise _Unwritable(error.code, f"index.db: {error.detail}", errno=error.errno) from error
        except Exception as error:  # of an entry, too, that this program cannot read: a rebuild leaves it out
            raise _Unreadable from error

    def _file(self) -> Engine:
        return self._engine or self._open()

    def _open(self) -> Engine:
        self._make_way()
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
            self.path.chmod(0o640)
            hand_over(self.path, self.path.parent)
        except FileExistsError:
            pass
        status = self.path.stat()
        self._opened = (status.st_dev, status.st_ino)
        self._engine = open_engine(self.path, writable=True, durable=False, pool_size=1, page_bytes=PAGE_BYTES)
        return self._engine

    def _is_replaced(self) -> bool:
        """Whether the file that we have open is no longer the one of that name, or nobody else could open it and its log."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._opened or not is_regular(self.path)

    def _open_again(self) -> None:
        self.close()
        if not self.path.exists():
            self._remove(*beside_of(self.path))  # of the file that is gone
        self._open()
        self.position = 0

    def _discard(self) -> None:
        """A file that SQLite cannot use: whoever has it open keeps the old one, the new one is made beside it."""
        if not self._is_replaced() or self.path.is_file():
            self.close()
            self._remove(self.path, *beside_of(self.path))
        self._open_again()

    def _make_way(self) -> None:
        """Remove what is no regular file, and set a folder aside: neither is ours, and opening a FIFO would never end."""
        for path in (self.path, *beside_of(self.path)):
            if not path.is_file() and os.path.lexists(path):
                self._remove(path)

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                free = next(each for n in count(1) if not os.path.lexists(each := path.with_name(f"{path.name}.set-aside-{n}")))
                path.rename(free)
                logs.get().warning("index.folder-set-aside")
            else:
                path.unlink(missing_ok=True)


def _drop_shadows(connection: Connection) -> None:
    for name in TABLES:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SHADOW}{name}")


def _of_ledger(folded: Iterator[Path]) -> Iterator[Path]:
    """What fails there is not the index's fault."""
    try:
        yield from folded
    except (sqlite.Error, SQLAlchemyError, OSError):  # of a share: see `_judged`
        raise
    except Exception as error:
        raise _LedgerUnreadable from error


def _make_search(sql: Callable[[str], Any], table: str) -> None:
    sql(SEARCH[table])
    sql(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')")  # noqa: S608 - a name of ours


def _set_progress(sql: Callable[..., Any], last: Entry | None, ledger_id: str) -> None:
    sql("DELETE FROM progress")
    sql("INSERT INTO progress VALUES (?, ?, ?)", (last.position, ledger_id, last.leaf_hash) if last else (0, ledger_id, b""))


def _say(damaged: list[tuple[int, str]]) -> None:
    if damaged:
        logs.get().error("index.entry-damaged", position=damaged[0][0], code=damaged[0][1], count=len(damaged))


def standing(path: Path, ledger: Ledger) -> int | None:
    """The position at which the index stands; None where there is none that can be read and fits this ledger."""
    found = _ask(path, ledger, "SELECT 1", ())
    return None if found is None else found[0]


def studies_with_upload(path: Path, ledger: Ledger, state: str) -> tuple[int, list[str]] | None:
    """The studies with an upload in `state` (any but `archived`), at the position that comes with them. None: see `standing`."""
    sql = "SELECT DISTINCT study_id FROM uploads WHERE state = ? AND state <> 'archived'"  # as the index over it is written
    found = _ask(path, ledger, sql, (state,))
    return None if found is None else (found[0], [row[0] for row in found[1]])


def ask_files(path: Path, ledger: Ledger, sql: str, *values: object) -> list[Any] | None:
    """What the index says of files; None where there is none that can be read and fits this ledger."""
    found = _ask(path, ledger, sql, values)
    return None if found is None else list(found[1])


def damaged(path: Path, ledger: Ledger, limit: int) -> list[tuple[int, str]]:
    """Position and fault of the first entries that are not in the index, since they are not what their hashes say."""
    found = _ask(path, ledger, "SELECT position, code FROM damaged ORDER BY position LIMIT ?", (limit,))
    return [] if found is None else [(row[0], row[1]) for row in found[1]]


def archived_from(path: Path, ledger: Ledger, upload_path: str) -> list[str]:
    """The studies for which an upload of this path is archived, as far as the index knows; it reads every upload."""
    found = _ask(path, ledger, "SELECT study_id FROM uploads WHERE upload_path = ? AND state = 'archived' LIMIT 10", (upload_path,))
    return [] if found is None else [row[0] for row in found[1]]


def _ask(path: Path, ledger: Ledger, sql: str, values: tuple[object, ...]) -> tuple[int, Sequence[Any]] | None:
    if not is_regular(path):
        return None
    try:
        engine = open_engine(path, writable=False, pool_size=1)
        try:
            with translated(), engine.begin() as connection:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {READ_WITHIN_MS}")
                progress = progress_of(connection)
                if progress is None or not _is_of(progress, ledger):
                    return None
                rows = connection.exec_driver_sql(sql, values).fetchall()
        finally:
            engine.dispose()
    except (LedgerError, SQLAlchemyError, sqlite.Error, OSError):
        return None  # whoever writes it rebuilds it
    if any(isinstance(value, bytes) for row in rows for value in row):  # no column that is asked for here holds bytes
        return None
    return progress[0], rows


def _is_of(progress: tuple[int, str, bytes], ledger: Ledger) -> bool:
    position, ledger_id, leaf_hash = progress
    if ledger_id != ledger.ledger_id:
        return False
    entry = ledger.get(position)
    return not position or (entry is not None and entry.leaf_hash == leaf_hash)


class _Unreadable(Exception):
    """The index cannot be used as it is; the cause says why."""


class _Unwritable(LedgerBusy):
    """The index cannot be read or written just now (full, locked, I/O error)."""


class _LedgerUnreadable(Exception):
    """The ledger cannot be used, and no new index will help; the cause says why."""
