"""What a machine may see: the words between its name and its hash in BROWSE_TOKENS. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from storage_ledger.web.datasette.table_metadata import COLUMNS

FILES = "files"
SQL = "sql"
USUAL = "index,ledger"
"""Where nothing is said: all tables, none of the files."""

WORDS = "index, ledger, index/TABLE, ledger/TABLE, files, sql"
_FILE_ROUTES = frozenset({"image", "header", "metadata", "file", "zip", "zip-study"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What is said: databases and tables (`index`, `index/arrivals`), `files`, `sql`; nothing else can be seen.

    A whole database brings its ready-made queries, both together our own pages. `sql` is for the databases that are granted whole.
    """

    words: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Grant:
        """From words with commas between them. Raises `ValueError` that says what is wrong with them."""
        words = frozenset(text.split(","))
        for word in sorted(words - _KNOWN):
            database, _, table = word.partition("/")
            if table and database in COLUMNS:
                raise ValueError(f"{database} has no table of that name, but {', '.join(COLUMNS[database])}")
            raise ValueError(f"a machine may be granted {WORDS}")
        if SQL in words and not words & COLUMNS.keys():
            raise ValueError("sql is of no use without index or ledger as a whole")
        return cls(words)

    def path(self, path: str) -> bool:
        """Whether an address is not refused by itself. Of tables and pages `action` decides."""
        return path.split("/")[1] not in _FILE_ROUTES or FILES in self.words

    def action(self, action: str, resource: str | Collection[str] | None) -> bool:
        """Whether it may do what Datasette calls so."""
        match action, resource:
            case "view-database", str(database):
                return database in self.words
            case "view-table", (database, table):
                return database in self.words or f"{database}/{table}" in self.words
            case "view-query", (database, _):
                return database in self.words
            case "execute-sql", str(database):
                return SQL in self.words and database in self.words
            case _:
                return False

    def __str__(self) -> str:
        """As it is written."""
        return ",".join(sorted(self.words))


_KNOWN = {FILES, SQL, *COLUMNS, *(f"{database}/{table}" for database, tables in COLUMNS.items() for table in tables)}
