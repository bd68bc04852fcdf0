"""Compare index.db, row by row, with an index freshly built from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from typing_extensions import override

from storage_ledger.domain.entries import Entry
from storage_ledger.errors import LedgerRefused, LedgerUnusable
from storage_ledger.index.follower import Index
from storage_ledger.index.schema import SCHEMA, SEARCH, TABLES
from storage_ledger.ledger.contract import IndexSource
from storage_ledger.operations.verify.findings import Findings
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader
from storage_ledger.system.sqlite import as_it_is, connect, errors_mapped, is_regular, sqlite
from storage_ledger.system.temporary_folder import scratch

PART = "index"
FILE = "index.db"
_SCRATCH = "verify-"


class BelievedLedger(IndexSource):
    """The undamaged entries of a ledger up to a position, as the source of an index."""

    def __init__(self, reader: UntrustingReader, ledger_id: str, up_to: int, stopped: Callable[[], None]) -> None:
        self._reader = reader
        self._stopped = stopped
        self.ledger_id = ledger_id
        self.up_to = up_to

    @override
    def read(self, after: int, limit: int) -> list[Entry]:
        self._stopped()
        return list(self._reader.believed(after, min(self.up_to, after + limit)))

    @override
    def scan(self, after: int, up_to: int) -> Iterator[Entry]:
        self._stopped()
        yield from self._reader.believed(after, min(self.up_to, up_to))

    @override
    def study(self, study_id: str) -> Iterator[Entry]:
        return self._reader.of_study(study_id)

    @override
    def get(self, position: int) -> Entry | None:
        return self._reader.get(position) if position <= self.up_to else None

    @override
    def last(self) -> Entry | None:
        return self.get(self.up_to)


def check_index(
    reader: UntrustingReader,
    index_file: Path,
    ledger_id: str,
    found: Findings,
    *,
    stopped: Callable[[], None],
    on_progress: Callable[[int], None],
) -> None:
    """Build a temporary index from the same entries (in LEDGER_PATH, of the same size), compare all tables, and remove it.

    If `serve` updates index.db meanwhile, the new one is brought to the same position first. Raises `OSError` or a
    `LedgerError` if there is no space for it.
    """
    if not index_file.exists():
        if reader.sql("SELECT 1 FROM entries WHERE study_id IS NOT NULL LIMIT 1"):
            found.report("index-missing", PART, path=FILE, detail="`storage-ledger serve` rebuilds it when it starts")
        return
    try:
        live = _Rows(index_file) if is_regular(index_file) else None
    except (LedgerUnusable, LedgerRefused):
        live = None
    if live is None:
        found.report("index-unreadable", PART, path=FILE, detail="SQLite cannot read it")
        return
    with closing(live):
        try:
            position = _followed_position(reader, live, found)
            if position is None:
                return
            ledger = BelievedLedger(reader, ledger_id, position, stopped)
            with scratch(_SCRATCH, index_file.parent) as folder, closing(Index(folder / FILE, ledger)) as index:
                index.rebuild(on_progress)
                with live.snapshot():
                    ledger.up_to = _position(live) or position
                    while index.follow():
                        stopped()
                    with closing(_Rows(folder / FILE)) as right:
                        _tables(right, live, found, stopped)
        except _Unreadable:
            found.report("index-unreadable", PART, path=FILE, detail="SQLite cannot read all of it")


def _followed_position(reader: UntrustingReader, live: _Rows, found: Findings) -> int | None:
    """Return the position of the index; if it is not one of this ledger, report that and return None."""
    if live.version != SCHEMA:
        found.report("index-differs", PART, path=FILE, detail="made by another version: `storage-ledger serve` rebuilds it")
        return None
    position = _position(live)
    entry = reader.get(position) if position else None
    if position is None or (position and (entry is None or _leaf(live) != entry.leaf_hash)):
        found.report("index-differs", PART, path=FILE, detail="progress: its position is not one of this ledger")
        return None
    return position


def _position(live: _Rows) -> int | None:
    rows = list(live.rows("SELECT position FROM progress")) if live.has("progress") else []
    return rows[0][0] if len(rows) == 1 and isinstance(rows[0][0], int) else None


def _leaf(live: _Rows) -> object:
    return next(iter(live.rows("SELECT leaf_hash FROM progress")), (None,))[0]


def _tables(right: _Rows, live: _Rows, found: Findings, stopped: Callable[[], None]) -> None:
    for name in sorted(live.schema ^ right.schema):
        found.report("index-differs", PART, path=FILE, detail=f"{name[0]} {name[1]}: differs from this version's schema")
    for table in TABLES:
        if live.has(table):
            _table(table, right, live, found, stopped)
    for table in SEARCH:
        if live.has(f"{table}_fts") and any(a != b for a, b in zip_longest(right.words(table), live.words(table))):
            found.report("index-differs", PART, path=FILE, detail=f"{table}_fts: search results differ")


def _table(table: str, right: _Rows, live: _Rows, found: Findings, stopped: Callable[[], None]) -> None:
    """Compare a table's rows in both files, both sorted by key."""
    columns = right.columns(table)
    keys = [columns.index(name) for name in right.key(table)]
    order = f" ORDER BY {', '.join(str(key + 1) for key in keys)}" if keys else ""
    sql = f'SELECT * FROM "{table}"{order}'  # noqa: S608 - names of ours
    ours, theirs = right.rows(sql), live.rows(sql)
    a, b = next(ours, None), next(theirs, None)
    count = 0
    while a is not None or b is not None:
        count += 1
        if count % 1000 == 0:
            stopped()
        left = None if a is None else _sortable(a, keys)
        other = None if b is None else _sortable(b, keys)
        if a is not None and (left == other):
            if a != b and b is not None:
                wrong = [name for name, x, y in zip(columns, a, b, strict=True) if x != y or type(x) is not type(y)]
                _row(found, table, columns, a, f"{', '.join(wrong)} differs from the ledger")
            a, b = next(ours, None), next(theirs, None)
        elif other is None or (left is not None and left < other):
            _row(found, table, columns, a, "a row is missing")
            a = next(ours, None)
        else:
            _row(found, table, columns, b, "a row is not in the ledger")
            b = next(theirs, None)


def _row(found: Findings, table: str, columns: list[str], row: Any, text: str) -> None:
    values = dict(zip(columns, row, strict=True))
    position = next((values[name] for name in ("position", "first_position") if isinstance(values.get(name), int)), None)
    found.report("index-differs", PART, position=position, study_id=values.get("study_id"), path=FILE, detail=f"{table}: {text}")


def _sortable(row: Any, keys: list[int]) -> tuple[tuple[int, Any], ...]:
    """Return a sort key with SQLite's order of types: NULL, numbers, text, blobs; text and blobs by their bytes."""
    return tuple(_rank(row[key]) for key in keys)


def _rank(value: Any) -> tuple[int, Any]:
    match value:
        case None:
            return 0, 0
        case int() | float():
            return 1, value
        case str():
            return 2, value.encode("utf-8", "surrogateescape")
        case _:
            return 3, bytes(value)


class _Unreadable(Exception):
    """SQLite cannot read all of the index; `__cause__` says why."""


class _Rows:
    """Reads one index file."""

    def __init__(self, path: Path) -> None:
        with errors_mapped():
            self._connection = connect(path)
            try:
                self._connection.text_factory = as_it_is
                # `words` needs a temporary table; the file itself is open with mode=ro.
                self._connection.execute("PRAGMA query_only = OFF")
                self.version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                made = list(self._connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master"))
            except BaseException:
                self._connection.close()
                raise
        hidden = tuple(f"{table}_fts_" for table in SEARCH)
        self.schema = {tuple(row) for row in made if not row[1].startswith((*hidden, "rebuild_", "sqlite_stat"))}
        self._tables = {row[1] for row in made if row[0] == "table"}

    def close(self) -> None:
        self._connection.close()

    def has(self, table: str) -> bool:
        return table in self._tables

    def columns(self, table: str) -> list[str]:
        return [row[0] for row in self.rows("SELECT name FROM pragma_table_info(?)", table)]

    def key(self, table: str) -> list[str]:
        return [row[0] for row in self.rows("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", table)]

    def words(self, table: str) -> Iterator[Any]:
        """Yield every word of the full-text index with its place, ordered by word (sqlite.org/fts5.html §7)."""
        name = f"{table}_words"
        list(self.rows(f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.{name} USING fts5vocab(main, {table}_fts, instance)"))
        yield from self.rows(f"SELECT term, doc, col, offset FROM temp.{name}")  # noqa: S608 - names of ours

    def rows(self, sql: str, *values: object) -> Iterator[Any]:
        try:
            yield from self._connection.execute(sql, values)
        except sqlite.Error as error:
            raise _Unreadable from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything in the `with` block from one snapshot."""
        list(self.rows("BEGIN"))
        try:
            yield
        finally:
            list(self.rows("ROLLBACK"))
