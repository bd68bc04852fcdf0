"""tables.md, from a freshly migrated ledger, a fresh index, and the descriptions beside their schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from storage_ledger.index import descriptions as index
from storage_ledger.index.column_sources import FROM_HEADER
from storage_ledger.index.follower import Index
from storage_ledger.ledger import descriptions as ledger
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system import logs
from storage_ledger.system.sqlite import sqlite

HEAD = """\
# Tables

<!-- scripts/reference writes this page from storage_ledger/{ledger,index}/descriptions.py and the schemas: edit it there. -->

Two SQLite files in LEDGER_PATH, in [WAL or rollback mode](../explanation/the-ledger.md#wal-and-full).
Read them as the service's user and read-only (`sqlite3 -readonly`, `mode=ro`), never on a network file system, and never with `immutable`.

- Times are RFC 3339 in UTC, such as `2026-01-01T12:00:00.000001Z`; they sort as text.
- DICOM dates and times are text as in the file: `20260101`, `120000`. The tags of DICOM columns: see [files](#files).
- Sizes are in bytes.
"""

LEDGER = """\
## ledger.db
The ledger: the record of everything, and the file to back up.
Only migrations change its schema.
"""

INDEX = """\
## index.db
The index: the ledger folded into tables, for searching.
Do not write to it.
It has no migrations: if it is missing, or does not match the schema or the ledger, it is rebuilt automatically.
"""

PATIENT = """\
## Who the patient is
Name, ID, birth date and sex of a row always come from one source:

- in `files`, the file's header;
- in `dicom_studies`, the first file that has a name or an ID, or else the first file;
- in `studies`, the last message that has a name or an ID; else the first file that has one; else the first message or file with a birth date or a sex.

The flags compare each of the four, if both sides have it.
These differences are ignored: case, spaces, punctuation, trailing `^`, full and half width, composed and decomposed letters, a name's prefix, hyphens in a date.
Accents, digits and other letters count.
The alphabetic, ideographic and phonetic groups of a name are each compared with the same group, and a suffix (`JR`) if both names have one.

`patient_differs` is set on every file that names one of the patients in question: the index cannot know which one is right.
"""  # noqa: E501


def page() -> str:
    """Return the page. Raises `KeyError` for a table, column or trigger without a description, or a description without one."""
    logs.configure("WARNING")
    with TemporaryDirectory() as folder:
        tables, triggers = _ledger_of(Path(folder))
        indexed = _index_of(Path(folder))
    _require(triggers, ledger.TRIGGERS)
    return "\n".join([
        HEAD,
        LEDGER,
        *_sections(tables, ledger.TABLES, ledger.COLUMNS),
        "### Triggers",
        *(f"- `{name}` refuses {ledger.TRIGGERS[name]}" for name in triggers),
        "",
        INDEX,
        *_sections(indexed, index.TABLES, index.COLUMNS),
        PATIENT,
    ])  # fmt: skip


Columns = dict[str, str]
"""Name and type of each column of a table."""


def _ledger_of(folder: Path) -> tuple[dict[str, Columns], list[str]]:
    migrate(folder / "ledger.db")
    with closing(sqlite.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        return _tables(connection, or_null=""), [name for (name,) in triggers]


def _index_of(folder: Path) -> dict[str, Columns]:
    with closing(SqliteLedger(folder / "ledger.db")) as source, closing(Index(folder / "index.db", source)) as built:
        built.ensure()
    with closing(sqlite.connect(f"file:{folder / 'index.db'}?mode=ro", uri=True)) as connection:
        return _tables(connection, or_null=" or NULL")


def _tables(connection: Any, or_null: str) -> dict[str, Columns]:
    """Return the tables without those that SQLite makes by itself. `or_null` follows the type of a column that may be NULL."""
    made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"))
    searches = tuple(f"{name}_" for name, sql in made.items() if "VIRTUAL" in sql)
    sql = "SELECT name, type || iif(\"notnull\" OR pk, '', ?) FROM pragma_table_xinfo(?) WHERE hidden <> 1"
    return {name: dict(connection.execute(sql, (or_null, name))) for name in made if not name.startswith(searches)}


def _sections(tables: Mapping[str, Columns], texts: Mapping[str, str], meanings: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    _require(tables, texts)
    for name, text in texts.items():
        yield f"### {name}"
        if text:
            yield text
        if name not in meanings:
            yield f"Columns: {', '.join(f'`{column}`' for column in tables[name])}.\n"
            continue
        yield from _rows(tables[name], meanings[name], tags=name == "files")
        yield ""


def _rows(columns: Columns, meanings: Mapping[str, str], *, tags: bool) -> Iterator[str]:
    """Yield a line for each description, with its columns, then one for the DICOM attributes of each type, with their tags if asked for."""
    attributes: dict[str, list[str]] = {}
    described: dict[str, list[str]] = {}
    for name, type_ in columns.items():
        if name in meanings:
            described.setdefault(f"{type_}: {meanings[name]}", []).append(f"`{name}`")
        else:
            if name not in FROM_HEADER:
                raise KeyError(f"column {name} has no description")
            tag = Tag(tag_for_keyword(FROM_HEADER[name]))
            attributes.setdefault(type_, []).append(f"`{name}` ({tag.group:04X},{tag.element:04X})" if tags else f"`{name}`")
    yield from (f"- {', '.join(names)} {meaning}" for meaning, names in described.items())
    for type_, names in attributes.items():
        yield f"- DICOM, {type_}: {', '.join(names)}."
    _require(columns.keys() & meanings, meanings)


def _require(real: Any, described: Any) -> None:
    if wrong := set(real) ^ set(described):
        raise KeyError(f"described, or in the schema, but not both: {', '.join(sorted(wrong))}")
