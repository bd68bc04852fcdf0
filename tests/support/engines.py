"""The engines of the ledger, as the contract's tests see them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.postgres import PostgresLedger
from storage_ledger.ledger.postgres_migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from tests.support.making import Clock, Ledgers, seeded
from tests.support.postgres import Postgres

ENGINES = ["sqlite", "postgres"]


class Sqlite:
    """Ledgers in files below a folder."""

    def __init__(self, folder: Path, ledgers: Ledgers) -> None:
        self._folder = folder
        self._ledgers = ledgers

    def open(self, name: str = "ledger", clock: Callable[[], datetime] | None = None, **more: Any) -> Ledger:
        """Make a new, empty ledger of this name and open it."""
        return self._ledgers.open(self._folder / name, clock, **more)

    def address(self, name: str = "ledger") -> str:
        """Return what `again` takes."""
        return str(self._folder / name / "ledger.db")

    def close(self) -> None:
        """Nothing to do: SQLite needs none."""


class PostgreSql:
    """Ledgers in schemas of one database."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._urls: dict[str, str] = {}
        self._numbers = itertools.count()
        self._opened: list[Ledger] = []

    def open(self, name: str = "ledger", clock: Callable[[], datetime] | None = None, **more: Any) -> Ledger:
        """Make a new, empty ledger of this name and open it."""
        url = self._urls[name] = self._server.schema()
        migrate(url)
        self._opened.append(PostgresLedger(url, clock=clock or Clock(), **{"randomness": seeded(next(self._numbers)), **more}))
        return self._opened[-1]

    def close(self) -> None:
        """Close what was opened."""
        for ledger in self._opened:
            ledger.close()

    def address(self, name: str = "ledger") -> str:
        """Return what `again` takes."""
        return self._urls[name]


def again(address: str) -> Ledger:
    """Open an existing ledger once more."""
    return PostgresLedger(address) if "://" in address else SqliteLedger(Path(address))
