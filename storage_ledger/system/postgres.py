"""Connections to a PostgreSQL database, and its driver's errors as ours. Needs the extra `postgres`."""

from __future__ import annotations

import errno as errnos
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psycopg
from psycopg import errors, pq

from storage_ledger.errors import LedgerBusy, LedgerError, LedgerRefused, LedgerUnusable
from storage_ledger.system.sqlite import BUSY_TIMEOUT_S

OLDEST_SUPPORTED = 15
CONNECT_TIMEOUT_S = 10
IDLE_IN_TRANSACTION_S = 5
KEPT = 8  # idle connections a database keeps

_OPTIONS = {
    "application_name": "storage-ledger",
    "client_encoding": "UTF8",
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    # A server or network that is gone is noticed, even while a call waits for its answer.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    # Whoever holds the write lock and is cut off must not block the others for long.
    "options": f"-c synchronous_commit=on -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_S}s "
    f"-c lock_timeout={int(BUSY_TIMEOUT_S)}s -c tcp_user_timeout=15000 -c timezone=UTC "
    # Each statement has an index that fits, whatever the tables' sizes: no plan is made twice, and none reads a whole table because the
    # server has no statistics yet.
    "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off",
}
"""What each connection is opened with, unless the URL says otherwise. `options` of the URL come after these."""


class PostgresDatabase:
    """Connections to one database, made when they are needed. Thread-safe; a connection is lent to one thread at a time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._idle: list[psycopg.Connection[Any]] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection outside any transaction: each statement is its own transaction. Raises `LedgerError`."""
        with errors_mapped():
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)

    @contextmanager
    def transaction(self, *, within_s: float = BUSY_TIMEOUT_S, pipelined: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection in a transaction (READ COMMITTED), committed when the block ends and rolled back if it raises.

        It waits up to `within_s` for each lock, then raises `LedgerBusy`. On return everything is durable, on the synchronous standbys
        too: a COMMIT that returns with a warning was not waited for (`LedgerBusy`).

        `pipelined`: a statement is sent at once, but its result, or error, is only waited for when somebody reads it, or at the end.
        """
        with self.connection() as connection:
            warnings: list[str] = []
            handler = _noting(warnings)
            try:
                with connection.pipeline() if pipelined else nullcontext():
                    connection.execute("BEGIN")
                    if within_s != BUSY_TIMEOUT_S:
                        connection.execute(f"SET LOCAL lock_timeout = '{max(1, int(within_s * 1000))}ms'")
                    yield connection
                    connection.add_notice_handler(handler)
                    connection.execute("COMMIT")
            except BaseException:
                if connection.info.transaction_status in _IN_TRANSACTION:
                    connection.execute("ROLLBACK")
                raise
            finally:
                with suppress(ValueError):  # not added: the block had raised
                    connection.remove_notice_handler(handler)
        if warnings:
            raise LedgerBusy("ledger-standby", f"the commit was not confirmed by the standby ({warnings[0]})")

    def close(self) -> None:
        """Close idle connections now, and those in use when they are returned."""
        self._closed = True
        self._forget_idle()

    def _take(self) -> psycopg.Connection[Any]:
        try:
            return self._idle.pop()
        except IndexError:
            return connect(self.url)

    def _give_back(self, connection: psycopg.Connection[Any]) -> None:
        if connection.closed or connection.broken:
            self._forget_idle()  # what ended this one has probably ended them all
        elif self._closed or len(self._idle) >= KEPT or connection.info.transaction_status is not pq.TransactionStatus.IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _forget_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


_IN_TRANSACTION = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)


def _noting(warnings: list[str]) -> Any:
    def note(diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "a warning")

    return note


def connect(url: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode. Raises the driver's errors, and `LedgerUnusable` for a database that cannot hold a ledger.

    Refused: a server older than `OLDEST_SUPPORTED`, one that does not sync its commits, a database that is not UTF-8.
    """
    asked = psycopg.conninfo.conninfo_to_dict(driver_url(url))
    given = {**_OPTIONS, **asked, "options": f"{_OPTIONS['options']} {asked.get('options', '')}"}
    connection = psycopg.connect(autocommit=True, **given)  # type: ignore[arg-type]
    try:
        _require_suitable(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_suitable(connection: psycopg.Connection[Any]) -> None:
    if connection.info.server_version < OLDEST_SUPPORTED * 10_000:
        text = f"PostgreSQL {connection.info.server_version // 10_000} is too old: at least {OLDEST_SUPPORTED} is needed"
        raise LedgerUnusable("postgres-too-old", text)
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise LedgerUnusable("postgres-not-utf8", "the database's encoding must be UTF8: create it with ENCODING 'UTF8'")
    row = connection.execute("SELECT current_setting('fsync'), current_setting('synchronous_commit')").fetchone()
    if row is not None and (row[0] != "on" or row[1] in ("off", "local")):
        text = f"the server's fsync is {row[0]} and synchronous_commit is {row[1]}: commits would not survive a power cut"
        raise LedgerUnusable("postgres-not-durable", text)


def driver_url(url: str) -> str:
    """Return the URL as libpq takes it, from one of the form `postgresql+psycopg://…` that SQLAlchemy takes."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


@contextmanager
def errors_mapped() -> Iterator[None]:
    """Map every driver error of the `with` block to ours: see `as_ours`."""
    try:
        yield
    except psycopg.Error as error:
        raise as_ours(error) from error


_BUSY = ("55P03", "40001", "40P01", "57014", "25P03", "25P04", "53300", "53400")
_AWAY = ("08", "57P", "25006")


def as_ours(error: psycopg.Error) -> LedgerError:
    """Map a driver error to one of ours by its SQLSTATE (PostgreSQL documentation, appendix A); the only place that does.

    A server that is away, restarts or has become a standby, and locks, can be waited for (`LedgerBusy`); damage, a missing schema or
    missing rights cannot (`LedgerUnusable`). The rest is a trigger or constraint that fired, or a bug (`LedgerRefused`).
    After a COMMIT that was cut off, nobody knows whether it happened. The work is then done again, which changes nothing.
    """
    state = error.sqlstate or ""
    if state.startswith("53100"):
        return LedgerBusy("ledger-full", "the ledger's database has no space left: nothing was recorded", errno=errnos.ENOSPC)
    if state in _BUSY:
        return LedgerBusy("ledger-busy", f"another process has held the ledger's lock too long (SQLSTATE {state})")
    if state == "42501":
        return LedgerUnusable("postgres-denied", f"the database user lacks a right: {_first_line(error)}")
    if state.startswith("28") or state == "3D000":
        return LedgerBusy("ledger-away", f"PostgreSQL refuses the connection: {_first_line(error)}")
    if state in ("42P01", "3F000"):
        return LedgerUnusable("ledger-missing", "the database has no ledger: `storage-ledger migrate` creates it")
    if state.startswith("XX00"):
        return LedgerUnusable("ledger-damaged", f"PostgreSQL says that data is damaged: {_first_line(error)}")
    if state.startswith("58"):
        return LedgerBusy("ledger-io", f"PostgreSQL cannot read or write (SQLSTATE {state})", errno=errnos.EIO)
    if state.startswith(_AWAY) or (not state and isinstance(error, psycopg.OperationalError)):
        return LedgerBusy("ledger-away", f"PostgreSQL cannot be reached, or ended the connection: {_first_line(error)}")
    return LedgerRefused("ledger-refused", f"PostgreSQL refuses a statement ({state or type(error).__name__})")


def _first_line(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return text.strip().partition("\n")[0]
