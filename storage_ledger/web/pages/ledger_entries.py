"""Reads ledger.db for pages: an entry with its proof, ongoing outages, the last verification."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.outages import by_code, going_on
from storage_ledger.ledger.entry_rows import COLUMNS, OPEN_OUTAGES
from storage_ledger.operations.clock_ahead import ACKNOWLEDGED_READ, ClockAhead, ahead_of
from storage_ledger.operations.report.status import waits_long
from storage_ledger.operations.report.timeline import summary_beside_kind
from storage_ledger.operations.report.verifications import VERIFIED_READ
from storage_ledger.web.pages.error_codes import meaning
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one, marks

SHOWN_CHARACTERS = 200_000
"""Characters of a payload that are shown; the row's JSON has the rest."""

SUMMARISED_CHARACTERS = 20_000
"""Characters of a payload that is summarised in a table, which may have 1,000 of them: the event loop waits for it."""


def entry(connection: Any, position: int) -> QueryRow | None:
    """Return one entry, its cause and the entries that it caused, or None."""
    found = entries(connection, "position = ?", (position,))
    if not found:
        return None
    this = found[0]
    effects = ask(
        connection,
        "SELECT position, kind, recorded_at FROM entries WHERE study_id = ? AND cause = ? ORDER BY position LIMIT 50",
        (this.study_id, position),
    )
    neighbours = ask_one(
        connection,
        "SELECT (SELECT max(position) FROM entries WHERE position < :at) AS before, "
        "(SELECT min(position) FROM entries WHERE position > :at) AS after",
        {"at": position},
    )
    cause = ask_one(connection, "SELECT position, kind, recorded_at FROM entries WHERE position = ?", (this.cause,))
    return {
        "entry": this,
        "payload": pretty(str(this.payload)),
        "faults": faults(this),
        "cause": cause,
        "effects": effects,
        **(neighbours or {}),
    }


def entries(connection: Any, where: str, values: tuple[Any, ...]) -> list[Entry]:
    """Return the entries that match a condition, in order."""
    return [Entry(*row) for row in connection.execute(f"SELECT {COLUMNS} FROM entries WHERE {where} ORDER BY position", values)]  # noqa: S608 - ours


def newest_of_study(connection: Any, study_id: str, most_characters: int) -> list[Entry]:
    """Return the entries of a study, in order; only the newest if all of their payloads together are longer than this."""
    found: list[Entry] = []
    left = most_characters
    sql = f"SELECT {COLUMNS} FROM entries WHERE study_id = ? ORDER BY version DESC"  # noqa: S608 - ours
    for row in connection.execute(sql, (study_id,)):
        each = Entry(*row)
        left -= len(str(each.payload))
        if found and left < 0:
            break
        found.append(each)
    return sorted(found, key=lambda each: each.position)


def summary_of_row(row: Mapping[str, Any]) -> str:
    """Return the summary of a row of the table `entries`; empty if its payload is long or the page was asked to leave columns out."""
    try:
        entry = Entry(*(row[column] for column in Entry._fields))
        if len(str(entry.payload)) > SUMMARISED_CHARACTERS:
            return ""
        return summary_beside_kind(entry._replace(position=int(row["position"])))  # Datasette makes text of a primary key
    except KeyError:
        return ""


def pretty(payload: str) -> str:
    """Indent a payload, keeping its order of keys; only the beginning of a huge one."""
    text = payload
    if len(text) <= SHOWN_CHARACTERS:
        try:
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            text = payload
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "\n…"


def outages(connection: Any) -> list[QueryRow]:
    """Return the current outages, which stop all studies. A cause that stops several steps is listed once, from its start."""
    failed = [each for each in entries(connection, OPEN_OUTAGES, ()) if not faults(each)]
    return [asdict(cause) | meaning(cause.code, OUTAGES)._asdict() for cause in by_code(going_on(failed))]


def clock_ahead(connection: Any) -> ClockAhead | None:
    """Return how far the ledger's last timestamp is ahead of this machine's clock, unless that was acknowledged."""
    last = next(iter(entries(connection, "position = (SELECT max(position) FROM entries)", ())), None)
    acknowledged = of_no_study(connection, (Kind.ACKNOWLEDGED.value,), ACKNOWLEDGED_READ)
    return ahead_of(last, acknowledged, datetime.now(UTC))


def waiting_long(connection: Any) -> list[QueryRow]:
    """Return overdue work items by stage: their number, and the time of the oldest."""
    sql = (
        "SELECT q.stage, q.n, e.recorded_at AS oldest FROM (SELECT stage, count(*) AS n, min(position) AS position FROM pending "
        "WHERE stage <> 'confirm' GROUP BY stage) q JOIN entries e USING (position) ORDER BY q.position"
    )
    return [row for row in ask(connection, sql) if waits_long(row["oldest"], datetime.now(UTC))]


def of_no_study(connection: Any, kinds: tuple[str, ...], limit: int) -> Iterator[Entry]:
    """Return the newest entries of these kinds without a study_id, newest first, leaving out damaged ones."""
    sql = f"SELECT {COLUMNS} FROM entries WHERE study_id IS NULL AND kind IN ({marks(kinds)}) ORDER BY position DESC"  # noqa: S608 - marks
    return islice((each for each in map(Entry._make, connection.execute(sql, kinds)) if not faults(each)), limit)


def verified(connection: Any) -> Iterator[Entry]:
    """Return the `verified` entries, newest first."""
    return of_no_study(connection, (Kind.VERIFIED.value,), VERIFIED_READ)
