"""What a program may see: the middle part of `name:may:hash` in BROWSE_TOKENS. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from storage_ledger.web.datasette.table_metadata import COLUMNS

FILES = "files"
DICOMWEB = "dicomweb"
SQL = "sql"
USUAL = "index,ledger"
"""The default grant: all tables, no files."""

WORDS = "index, ledger, index/TABLE, ledger/TABLE, files, dicomweb, sql"
_FILE_ROUTES = frozenset({"image", "header", "metadata", "file", "zip", "zip-study", "proof", "proof-study"})
_DICOMWEB_ROUTES = frozenset({"dicom-web", "ohif"})


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of one token: databases and tables (`index`, `index/arrivals`), `files`, `dicomweb`, `sql`. Everything else is refused.

    A whole database includes its saved queries; both databases together include our own pages. `sql` applies only to whole
    databases.
    """

    words: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Grant:
        """Parse words separated by commas. Raises `ValueError` with a message for the user."""
        words = frozenset(text.split(","))
        for word in sorted(words - _KNOWN):
            database, _, table = word.partition("/")
            if table and database in COLUMNS:
                raise ValueError(f"unknown table; {database} has {', '.join(COLUMNS[database])}")
            raise ValueError(f"unknown grant; a token may be granted {WORDS}")
        if SQL in words and not words & COLUMNS.keys():
            raise ValueError("sql needs all of index or ledger")
        return cls(words)

    def path(self, path: str) -> bool:
        """Return whether the path is allowed. `action` decides about tables and pages."""
        first = path.split("/")[1]
        if first in _DICOMWEB_ROUTES:
            return DICOMWEB in self.words
        return first not in _FILE_ROUTES or FILES in self.words

    def action(self, action: str, resource: str | Collection[str] | None) -> bool:
        """Return whether the grant allows a Datasette action."""
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
        """Return the words, sorted and separated by commas."""
        return ",".join(sorted(self.words))


_KNOWN = {FILES, DICOMWEB, SQL, *COLUMNS, *(f"{database}/{table}" for database, tables in COLUMNS.items() for table in tables)}
