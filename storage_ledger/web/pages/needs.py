"""What needs attention, in numbers: for the head of every page and for the start page. Counted as in `storage-ledger status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from storage_ledger.operations.clock_ahead import CLOCK_AHEAD
from storage_ledger.operations.report.status import waits_long
from storage_ledger.operations.report.verifications import found_besides_files
from storage_ledger.operations.verify.unrecorded_result import Unrecorded
from storage_ledger.web.pages.ledger_entries import clock_ahead, outages, verified
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one
from storage_ledger.web.pages.service_state import ServiceState


def of_index(connection: Any) -> QueryRow:
    """Read from index.db, using only covering indexes: a few milliseconds at any size."""
    states = ask(connection, "SELECT state, count(*) AS n FROM studies WHERE state IN ('pending', 'failed', 'quarantined') GROUP BY state")
    damaged = ask_one(connection, "SELECT count(*) AS n FROM files INDEXED BY files_damaged WHERE fixity IN ('missing', 'changed')")
    broken = ask_one(connection, "SELECT count(*) AS n FROM damaged")
    progress = ask_one(connection, "SELECT position FROM progress")
    return {
        "states": {row["state"]: row["n"] for row in states},
        "damaged": (damaged or {"n": 0})["n"],
        "broken": (broken or {"n": 0})["n"],
        "followed": progress["position"] if progress else 0,
    }


def of_ledger(connection: Any) -> QueryRow:
    """Read from ledger.db: last position, work in progress, outages, findings of `verify`."""
    last = ask_one(connection, "SELECT position, recorded_at FROM entries ORDER BY position DESC LIMIT 1")
    oldest = ask_one(
        connection,
        "SELECT e.recorded_at, p.stage FROM pending p JOIN entries e ON e.position = p.position "
        "WHERE p.stage <> 'confirm' ORDER BY p.position LIMIT 1",
    )
    return {
        "last": last,
        "oldest": oldest,
        "waits_long": oldest is not None and waits_long(oldest["recorded_at"], datetime.now(UTC)),
        "outages": outages(connection),
        "ahead": clock_ahead(connection),
        "found": len(found_besides_files(verified(connection))),
    }


def known(book: QueryRow) -> set[str]:
    """Return the codes that the ledger itself tells: a service that is not ready for the same reason is not counted again."""
    return {each["code"] for each in book["outages"]} | ({CLOCK_AHEAD} if book["ahead"] else set())


def count(index: QueryRow, book: QueryRow, service: ServiceState, unrecorded: Unrecorded | None) -> int:
    """Return how many things need attention. Automatic retries and flags do not: nobody has to do anything now."""
    files = index["states"].get("quarantined", 0) + index["damaged"] + index["broken"]
    others = book["found"] + (unrecorded.counts.total() if unrecorded else 0) + book["waits_long"] + (book["ahead"] is not None)
    return int(files + others + len(book["outages"]) + len(service.reasons(known(book))))
