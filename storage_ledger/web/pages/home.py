"""The start page: counts, what needs attention, latest arrivals."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from storage_ledger.domain import last_backup
from storage_ledger.domain.last_backup import LastBackup
from storage_ledger.index.schema import FLAGGED
from storage_ledger.operations.report.verifications import COVERAGE, COVERAGE_DAYS, coverage, last_complete, verification
from storage_ledger.web.pages import needs
from storage_ledger.web.pages.chart import Chart, stacked
from storage_ledger.web.pages.ledger_entries import verified
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one
from storage_ledger.web.pages.study_list import LATEST, with_covers

DAYS = 30
NEWEST = 12


def of_index(connection: Any, today: date) -> QueryRow:
    """Read from index.db, using only counters and covering indexes: a few milliseconds at any size."""
    total = ask_one(connection, "SELECT coalesce(sum(files), 0) AS files, coalesce(sum(bytes), 0) AS bytes FROM arrivals")
    flagged = ask_one(connection, f"SELECT count(*) AS n FROM files WHERE {FLAGGED}")  # noqa: S608 - names of ours
    unread = ask_one(connection, "SELECT count(*) AS n FROM files INDEXED BY files_unread WHERE dicom_error IS NOT NULL")
    return {
        **(total or {}),
        **needs.of_index(connection),
        "dicom_studies": (ask_one(connection, "SELECT coalesce(sum(studies), 0) AS n FROM facets WHERE name = 'year'") or {"n": 0})["n"],
        "flagged": (flagged or {"n": 0})["n"],
        "unread": (unread or {"n": 0})["n"],
        "coverage": coverage(connection.execute(COVERAGE, ((today - timedelta(days=COVERAGE_DAYS)).isoformat(),)).fetchall()),
        "chart": _chart(connection, today),
        "latest": with_covers(connection, ask(connection, f"{LATEST} LIMIT {NEWEST}")),
    }


def of_ledger(connection: Any) -> QueryRow:
    """Read from ledger.db: last position, work in progress, last verification."""
    backup = ask_one(connection, "SELECT value FROM meta WHERE name = ?", (last_backup.NAME,))
    rejected = ask_one(connection, "SELECT count(*) AS n, max(recorded_at) AS last FROM (SELECT recorded_at FROM entries "
                       "WHERE kind = 'rejected' AND study_id IS NULL ORDER BY position DESC LIMIT 1000)")  # fmt: skip
    return {
        **needs.of_ledger(connection),
        "rejected": rejected,
        "verified": verification(verified(connection)),
        "complete": last_complete(verified(connection)),
        "backup": LastBackup.of(backup["value"]) if backup else None,
    }


def _chart(connection: Any, today: date) -> Chart:
    first = today - timedelta(days=DAYS - 1)
    rows = ask(connection, "SELECT day, modality, files, bytes FROM arrivals WHERE day >= ?", (first.isoformat(),))
    days = [(first + timedelta(days=n)).isoformat() for n in range(DAYS)]
    return stacked(days, [(row["day"], row["modality"] or "none", row["files"]) for row in rows])
