"""What needs attention: by kind and code, each code explained once, with the files or entries below it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from storage_ledger.domain.entries import Kind
from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.flags_and_headers import FLAGS as FLAG_MEANINGS
from storage_ledger.domain.error_catalogue.flags_and_headers import HEADERS
from storage_ledger.domain.error_catalogue.ledger_and_mirror import LEDGER
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.quarantined_files import RETRY_ALL
from storage_ledger.domain.error_catalogue.readiness import READINESS
from storage_ledger.domain.error_catalogue.verify import VERIFY
from storage_ledger.index.schema import FLAGGED
from storage_ledger.operations.report.flags import FLAGS, Flag
from storage_ledger.operations.report.remedies import commands, put_back
from storage_ledger.operations.report.verifications import OpenFinding, found_besides_files
from storage_ledger.operations.verify.unrecorded_result import Unrecorded
from storage_ledger.web.pages import ledger_entries
from storage_ledger.web.pages.dicom_study import path
from storage_ledger.web.pages.error_codes import meaning, meaning_in
from storage_ledger.web.pages.formatting import person
from storage_ledger.web.pages.patients import patients_of, sides
from storage_ledger.web.pages.pipeline_study import FIXITY
from storage_ledger.web.pages.queries import QueryRow, ask
from storage_ledger.web.pages.service_state import ServiceState

MOST = 10
"""Maximum number of rows listed per code, newest first; the total is always shown."""

MOST_REJECTED = 200


def of_index(connection: Any) -> QueryRow:
    """Read from index.db: unarchived uploads, and files that are damaged, flagged or have an unreadable header."""
    return {
        "uploads": [_uploads(connection, state, code, count) for state, code, count in _codes(connection)],
        "broken": ask(connection, "SELECT position, code FROM damaged ORDER BY position LIMIT ?", (MOST,)),
        "broken_means": meaning("entry-damaged", ATTENTION),
        "damaged": [group for fixity in FIXITY if (group := _damaged(connection, fixity))["count"]],
        "flagged": [group for flag in FLAGS if (group := _flagged(connection, flag))["count"]],
        "unread": _unread(connection),
    }


def of_ledger(connection: Any) -> QueryRow:
    """Read from ledger.db: outages and rejected messages."""
    found: dict[str, list[QueryRow]] = {}
    entries = list(ledger_entries.of_no_study(connection, (Kind.REJECTED.value,), MOST_REJECTED))
    for each in entries:
        data = each.data
        found.setdefault(str(data["reason"]), []).append({
            "position": each.position, "recorded_at": each.recorded_at, "detail": data["detail"], "study_id": data.get("study_id"),
            "bytes": data.get("bytes"),
        })  # fmt: skip
    rejected = [
        {"code": code, "meaning": meaning_in("rejected", code), "rows": rows[:MOST], "count": len(rows)} for code, rows in found.items()
    ]
    return {
        "outages": ledger_entries.outages(connection),
        "ahead": ledger_entries.clock_ahead(connection),
        "ahead_means": meaning("clock-ahead", READINESS),
        "waiting": ledger_entries.waiting_long(connection),
        "waiting_means": meaning("waiting-long", ATTENTION),
        "rejected": rejected,
        "all_rejected": len(entries) < MOST_REJECTED,
        "found": _found(connection),
    }


def of_service(service: ServiceState, known: Collection[str]) -> list[QueryRow]:
    """Return why the service needs attention, each reason with its meaning; `known`: codes that are listed anyway."""
    sections = (READINESS, OUTAGES, LEDGER, ATTENTION)
    return [{"code": each.code, "detail": each.detail, **meaning(each.code, *sections)._asdict()} for each in service.reasons(known)]


def unrecorded(what: Unrecorded) -> list[QueryRow]:
    """Group findings that could not be recorded; only a new run of `verify` says where they are."""
    return [{"code": code, **meaning(code, VERIFY)._asdict(), "count": count, "at": what.at} for code, count in what.counts.most_common()]


def _found(connection: Any) -> list[QueryRow]:
    """Group the open findings of `verify`, except those about files that the index lists as damaged."""
    groups: dict[str, list[OpenFinding]] = {}
    for each in found_besides_files(ledger_entries.verified(connection)):
        groups.setdefault(each.code, []).append(each)
    return [{"code": code, **meaning(code, VERIFY)._asdict(), "rows": rows[:MOST], "count": len(rows)} for code, rows in groups.items()]


def _codes(connection: Any) -> Iterable[tuple[str, str, int]]:
    rows = ask(connection, "SELECT state, coalesce(code, '') AS code, count(*) AS n FROM uploads WHERE state <> 'archived' "
                           "AND state IN ('quarantined', 'failed') GROUP BY 1, 2 ORDER BY state DESC, n DESC")  # fmt: skip
    return [(row["state"], row["code"], row["n"]) for row in rows]


def _uploads(connection: Any, state: str, code: str, count: int) -> QueryRow:
    sql = """
SELECT u.study_id, u.upload_path, u.position, s.patient_name, s.patient_id, s.modality, s.study_description, s.described_at
FROM uploads u LEFT JOIN studies s USING (study_id)
WHERE u.state <> 'archived' AND u.state = ? AND coalesce(u.code, '') = ? ORDER BY u.position DESC LIMIT ?"""
    rows = [
        {**row, "person": person(row["patient_name"]), "command": commands(row["study_id"], code)[0]}
        for row in ask(connection, sql, (state, code, MOST))
    ]
    means = meaning_in(state, code)
    return {
        "state": state,
        "code": code,
        "count": count,
        "rows": rows,
        "means": means.means,
        "action": means.action,
        "command": RETRY_ALL.replace("CODE", code) if state == "quarantined" else "",
    }


def _damaged(connection: Any, fixity: str) -> QueryRow:
    where = "INDEXED BY files_damaged WHERE fixity IN ('missing', 'changed') AND fixity = ?"  # otherwise SQLite chooses a larger index
    found = {**meaning(FIXITY[fixity], VERIFY)._asdict(), **_files(connection, where, (fixity,))}
    return {"code": FIXITY[fixity], "fixity": fixity, "command": put_back(), **found}


def _flagged(connection: Any, flag: Flag) -> QueryRow:
    found = _files(connection, f"WHERE {FLAGGED} AND {flag.column}", ())
    if flag.column == "patient_differs":
        found["rows"], found["studies"] = [], _mixed_up(connection)
    return {"code": flag.code, "column": flag.column, "title": flag.title, **meaning(flag.code, FLAG_MEANINGS)._asdict(), **found}


def _mixed_up(connection: Any) -> list[QueryRow]:
    """Return the DICOM studies with several patients, each with its patients, latest files first."""
    sql = f"""
SELECT study_instance_uid, count(*) AS files, max(archived_at) AS archived_at, max(study_description) AS study_description
FROM files WHERE {FLAGGED} AND patient_differs GROUP BY 1 ORDER BY max(position) DESC LIMIT {MOST}"""  # noqa: S608 - names of ours
    rows = [each for each in ask(connection, sql) if each["study_instance_uid"]]
    return [{**row, **patients_of(connection, row["study_instance_uid"])} for row in rows]


def _unread(connection: Any) -> list[QueryRow]:
    """Group files whose header could not be read completely by code, the most frequent code first."""
    unread = "INDEXED BY files_unread WHERE dicom_error IS NOT NULL"
    codes = ask(connection, f"SELECT dicom_error AS code, count(*) AS n FROM files {unread} GROUP BY 1 ORDER BY n DESC, 1")  # noqa: S608 - ours
    return [
        {
            "code": row["code"],
            **meaning(row["code"], HEADERS)._asdict(),
            **_files(connection, f"{unread} AND dicom_error = ?", (row["code"],)),
        }
        for row in codes
    ]


def _files(connection: Any, where: str, values: tuple[Any, ...]) -> QueryRow:
    columns = (
        "study_id, name, modality, study_description, position, archived_at, verified_at, announced, "
        "patient_name, patient_id, patient_birth_date, patient_sex, study_instance_uid, series_instance_uid, sop_instance_uid"
    )
    rows = ask(connection, f"SELECT {columns} FROM files {where} ORDER BY position DESC LIMIT {MOST}", values)  # noqa: S608 - names and conditions of ours
    count = next(iter(connection.execute(f"SELECT count(*) FROM files {where}", values)))[0]  # noqa: S608 - the same
    return {"count": count, "rows": [{**row, "person": person(row["patient_name"]), "path": path(row), **sides(row)} for row in rows]}
