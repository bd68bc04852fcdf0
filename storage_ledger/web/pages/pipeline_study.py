"""A pipeline study: its history in the ledger, why it is waiting or failed, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from storage_ledger.domain.entries import Entry, Kind, faults
from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.flags_and_headers import HEADERS
from storage_ledger.domain.error_catalogue.verify import VERIFY
from storage_ledger.domain.ids import instant
from storage_ledger.domain.study import State, Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.ledger.dialect import SQLITE
from storage_ledger.operations.report.flags import flags_of
from storage_ledger.operations.report.remedies import commands, put_back
from storage_ledger.operations.report.timeline import NEXT, WAITS_FOR, summary_beside_kind, timeline_entry
from storage_ledger.web.pages import ledger_entries
from storage_ledger.web.pages.dicom_study import path
from storage_ledger.web.pages.error_codes import UNKNOWN, meaning, meaning_in
from storage_ledger.web.pages.formatting import modalities, person
from storage_ledger.web.pages.patients import sides
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one

MOST_ENTRIES = 500
"""Maximum number of entries shown, newest first; a study may be described any number of times."""

FIXITY = {"missing": "file-missing", "changed": "file-changed"}
"""`fixity` in the index → the finding code of `verify`."""

MOST_FILES = 200
"""Maximum number of files shown, each with an image. Most pipeline studies have one."""

MOST_DAMAGED = 20
"""Maximum number of damaged files named; the total is always shown."""

MOST_FLAGGED = 5
"""Maximum number of flagged files shown at the top of the page; each file also shows its own flags."""

MOST_PAYLOAD = 20_000
"""Characters of one payload."""

MOST_PAYLOADS = 1_000_000
"""Characters of all payloads on a page. The newest are shown, and the others on the pages of their entries."""

MOST_READ = 3_000_000
"""Characters of all payloads that are read: some 500 files of a usual study. Without a limit, a sender could fill the memory."""

_NEXT = {stage.value: text for stage, text in NEXT.items()}


def of_ledger(connection: Any, study_id: str) -> QueryRow:
    """Read the study's history from ledger.db; `entries` is empty if there is none.

    `is_cut`: only the newest entries were read, because all are too long (`MOST_READ`). State and status are then only theirs.
    """
    entries = ledger_entries.newest_of_study(connection, study_id, MOST_READ)
    count = (ask_one(connection, "SELECT count(*) AS n FROM entries WHERE study_id = ?", (study_id,)) or {"n": 0})["n"]
    pending = ask(
        connection,
        "SELECT p.position, p.stage, p.not_before, p.attempts, e.recorded_at FROM pending p JOIN entries e ON e.position = p.position "
        "WHERE e.study_id = ? ORDER BY p.position",
        (study_id,),
    )
    waits_for = {step for each in pending if each["stage"] != Stage.CONFIRM for step in WAITS_FOR[Stage(each["stage"])]}
    outages = [each for each in ledger_entries.outages(connection) if waits_for.intersection(each["steps"])] if waits_for else []
    rejected = [] if entries else _rejected(connection, study_id)
    # All has been read; what follows takes long for hostile messages, but no longer counts towards the time limit of queries.
    study = Study.as_far_as_whole(study_id, entries)
    whole = [each for each in entries if not faults(each)]
    told = [each.data["status"] for each in whole if each.kind == Kind.STATUS_SENT]
    return {
        "state": study.state.value if study.uploads else None,
        "told": told[-1] if told else None,
        "began": whole[0].recorded_at if whole else None,
        "took_s": _took(whole),
        "entries": _timeline(entries),
        "left_out": count - min(len(entries), MOST_ENTRIES),
        "is_cut": len(entries) < count,
        "next": [{**each, "text": _NEXT.get(each["stage"], each["stage"]), "trouble": _last_failure(whole, each)} for each in pending],
        "troubles": _unarchived_uploads(study, whole),
        "rejected": rejected,
        "entry_damaged": meaning("entry-damaged", ATTENTION).action if len(whole) < len(entries) else "",
        "outages": outages,
    }


def of_index(connection: Any, study_id: str) -> QueryRow:
    """Read from index.db: the patient, the files, and the DICOM studies that they belong to."""
    study = ask_one(connection, "SELECT * FROM studies WHERE study_id = ?", (study_id,))
    files = ask(connection, "SELECT * FROM files WHERE study_id = ? ORDER BY position, name LIMIT ?", (study_id, MOST_FILES))
    counts = {row["fixity"]: row["n"] for row in ask(connection, "SELECT fixity, count(*) AS n FROM files WHERE study_id = ? GROUP BY 1",
                                                     (study_id,))}  # fmt: skip
    dicom = {row["study_instance_uid"]: None for row in files if row["study_instance_uid"]}
    damaged = [_damaged(connection, study_id, fixity, counts[fixity]) for fixity in FIXITY if fixity in counts]
    return {
        "study": study,
        "damaged": damaged,
        "put_back": put_back(study_id) if damaged else "",
        "person": person(study["patient_name"]) if study else None,
        "kinds": modalities(study["modality"]) if study else [],
        "files": [{**row, "path": path(row), "header": meaning(row["dicom_error"], HEADERS), "flags": flags_of(row)} for row in files],
        "flagged": _flagged(connection, study_id),
        "more_files": max(0, sum(counts.values()) - MOST_FILES),
        "dicom": [{"uid": uid, "href": f"/dicom/{quote(uid, safe='')}"} for uid in dicom],
    }


def _flagged(connection: Any, study_id: str) -> list[QueryRow]:
    """Return the first files that disagree about the patient with their message or with other files of their DICOM study."""
    sql = "SELECT * FROM files WHERE study_id = ? AND (message_differs OR patient_differs) ORDER BY position, name LIMIT ?"
    return [{**row, **sides(row)} for row in ask(connection, sql, (study_id, MOST_FLAGGED))]


def _damaged(connection: Any, study_id: str, fixity: str, count: int) -> QueryRow:
    """Return the first missing or changed files, and their total."""
    sql = "SELECT name, verified_at FROM files WHERE study_id = ? AND fixity = ? ORDER BY position, name LIMIT ?"
    rows = ask(connection, sql, (study_id, fixity, MOST_DAMAGED))
    return {"fixity": fixity, "count": count, "rows": rows, **meaning(FIXITY[fixity], VERIFY)._asdict()}


def _unarchived_uploads(study: Study, entries: list[Entry]) -> list[QueryRow]:
    """Return each unarchived upload and why."""
    by_position = {each.position: each for each in entries}
    found = []
    for upload_path, upload in study.uploads.items():
        if upload.state in {State.ARCHIVED, State.PENDING}:
            continue
        at = by_position[upload.position]
        code = upload.code
        waits = upload.state is State.QUARANTINED
        means = meaning_in("quarantined" if upload.state is State.DISCARDED else at.kind, code)
        found.append({
            "upload_path": upload_path,
            "state": upload.state.value,
            "code": code,
            "position": upload.position,
            "recorded_at": at.recorded_at,
            "detail": summary_beside_kind(at) if at.kind == Kind.DISCARDED else str(at.data.get("detail") or at.data.get("reason") or ""),
            "means": means.means,
            "action": "" if upload.state is State.DISCARDED else means.action,
            "commands": commands(study.study_id, code) if waits else [],
            "retry_at": at.data.get("retry_at"),
            "attempt": at.data.get("attempt"),
        })  # fmt: skip
    return found


def _last_failure(entries: list[Entry], work_item: QueryRow) -> QueryRow | None:
    """Return why a work item's last attempt failed, if the ledger says."""
    if not work_item["attempts"] or work_item["stage"] == Stage.CONFIRM:
        return None
    failed = [each for each in entries if each.kind == Kind.FAILED and each.cause == work_item["position"]]
    data = next((each.data for each in reversed(failed)), {})
    code = data.get("code", "")
    return {"code": code, "meaning": meaning_in("failed", code)} if code else None


def _timeline(entries: list[Entry]) -> list[QueryRow]:
    shown = list(zip(entries, [None, *entries], strict=False))[-MOST_ENTRIES:]
    payloads = _payloads([entry for entry, _ in shown])
    return [
        asdict(timeline_entry(entry, earlier))
        | {
            "summary": summary_beside_kind(entry),
            "meaning": UNKNOWN if faults(entry) else meaning_in(entry.kind, _code(entry.data)),
            "payload": payloads.get(entry.position),
        }
        for entry, earlier in shown
    ]


def _payloads(entries: list[Entry]) -> dict[int, str]:
    """Return the payloads to show, by position."""
    found: dict[int, str] = {}
    left = MOST_PAYLOADS
    for entry in reversed(entries):
        if left > 0 and len(str(entry.payload)) <= MOST_PAYLOAD:
            text = ledger_entries.pretty(str(entry.payload))  # indented, it may be much longer
            left -= len(text)
            found[entry.position] = text
    return found


def _code(data: QueryRow) -> str:
    return str(data.get("code") or data.get("dicom_error") or "")


def _took(entries: list[Entry]) -> float | None:
    """Return the seconds from the first `described` to the first `archived`."""
    archived = next((each for each in entries if each.kind == Kind.ARCHIVED), None)
    return (instant(archived.recorded_at) - instant(entries[0].recorded_at)).total_seconds() if archived else None


def _rejected(connection: Any, study_id: str) -> list[QueryRow]:
    """Return rejected messages that name this study_id, newest first."""
    where = f"{SQLITE.naming_study} AND kind = 'rejected' AND position > ?"
    oldest = ask_one(connection, f"SELECT position FROM entries WHERE {SQLITE.naming_study} AND kind = 'rejected' "  # noqa: S608 - ours
                     "ORDER BY position DESC LIMIT 1 OFFSET ?", (study_id, MOST_ENTRIES))  # fmt: skip
    entries = ledger_entries.entries(connection, where, (study_id, oldest["position"] if oldest else 0))
    found = [(each, each.data) for each in reversed(entries) if not faults(each)]
    return [
        {
            "position": each.position,
            "recorded_at": each.recorded_at,
            "code": data["reason"],
            "detail": data["detail"],
            "means": meaning_in("rejected", data["reason"]),
        }
        for each, data in found
    ]
