"""One `serve` at a time on a ledger in PostgreSQL, on whichever host.

An advisory lock keeps a second one out as long as the first is connected. If the first is cut off, the server gives the lock away, and
another may start. So each start also writes a new *term* into `meta`, which every transaction of the service and its workers compares:
who comes back after being cut off finds another term, and stops (`ledger-taken-over`).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from storage_ledger.errors import LedgerError, Locked
from storage_ledger.ledger.transaction import TERM
from storage_ledger.system.postgres import connect, errors_mapped

LOOK_EVERY_S = 2.0
_KEY = "hashtextextended('storage-ledger serve ' || current_schema(), 0)"


@contextmanager
def term_held(url: str) -> Iterator[str]:
    """Be the only `serve` during the block; yield the term. Raises `Locked`, `LedgerError`.

    If the connection is lost, the lock is taken again as soon as that is possible.
    """
    with errors_mapped():
        connection = connect(url)
    try:
        with errors_mapped():
            term = _begun(connection)
        stop = threading.Event()
        thread = threading.Thread(target=_keep, args=(url, connection, stop), name="term", daemon=True)
        thread.start()
        try:
            yield term
        finally:
            stop.set()
            thread.join()
    finally:
        connection.close()


def _begun(connection: psycopg.Connection[Any]) -> str:
    if not _locked(connection):
        raise Locked("locked", "another `serve` uses this ledger in PostgreSQL, perhaps on another host")
    term = str(uuid.uuid4())
    with connection.transaction():
        connection.execute("SELECT value FROM meta WHERE name = 'ledger_id' FOR UPDATE")  # nobody is in the middle of an append
        sql = "INSERT INTO meta (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        connection.execute(sql, (TERM, term))
    return term


def _locked(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(f"SELECT pg_try_advisory_lock({_KEY})").fetchone()
    return bool(row and row[0])


def _keep(url: str, connection: psycopg.Connection[Any], stop: threading.Event) -> None:
    """Notice a lost connection, and take the lock again on a new one: at once, or when the server has noticed the loss, too."""
    is_held = True
    try:
        while not stop.wait(LOOK_EVERY_S):
            with suppress(psycopg.Error, LedgerError):
                if connection.closed or connection.broken:
                    connection, is_held = connect(url), False
                is_held = is_held or _locked(connection)  # if another `serve` has it, its term tells us to stop
                connection.execute("SELECT 1")
    finally:
        connection.close()
