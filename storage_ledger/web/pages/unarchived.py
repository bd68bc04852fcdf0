"""Pipeline studies that match a search but are not in the list of DICOM studies: quarantined, failed, pending, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storage_ledger.domain.error_catalogue.flags_and_headers import FLAGS, HEADERS
from storage_ledger.index.schema import FLAGGED
from storage_ledger.web.pages.error_codes import meaning, meaning_in
from storage_ledger.web.pages.formatting import modalities, person
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one
from storage_ledger.web.pages.search_terms import Term, all_of
from storage_ledger.web.pages.study_list import id_range

MOST = 20
"""Maximum number of rows shown, newest first."""

SAID = "The message matches; the file's header does not."

# Archived studies that the list of DICOM studies cannot show: without a study UID, or whose message differs from the header.
_DIFFERS = f"SELECT study_id FROM files WHERE {FLAGGED} AND message_differs"  # noqa: S608 - names of ours
_UNSEEN = f"SELECT study_id FROM files WHERE study_instance_uid IS NULL UNION ALL {_DIFFERS}"  # noqa: S608 - the same
_OUTSIDE = f"(state IN ('pending', 'failed', 'quarantined', 'discarded') OR study_id IN ({_UNSEEN}))"
_NAMED = "(study_instance_uid = ? OR study_id IN (?, ?) OR study_id BETWEEN ? AND ? OR study_id BETWEEN ? AND ?)"
_WORDS = "first_position IN (SELECT rowid FROM studies_fts WHERE studies_fts MATCH ?)"


def of_index(connection: Any, terms: Sequence[Term], *, archived: bool = False) -> QueryRow:
    """Return `rows`, the newest, each with its state and reason, and `total`.

    `archived`: include archived ones, for a search that finds no DICOM study: the message may match where the header does not.
    """
    if not terms:
        return {"rows": [], "total": 0}
    where, values = _conditions(connection, terms, "1" if archived else _OUTSIDE)
    # One query counts and finds: for a short word, the search takes nearly all of the time.
    sql = f"SELECT study_id, count(*) OVER () AS total FROM studies WHERE {where} ORDER BY last_position DESC LIMIT ?"  # noqa: S608 - ours
    found = ask(connection, sql, [*values, MOST])
    rows = [ask(connection, "SELECT * FROM studies WHERE study_id = ?", (each["study_id"],))[0] for each in found]
    return {"rows": [_shown(connection, row) for row in rows], "total": found[0]["total"] if found else 0}


def _conditions(connection: Any, terms: Sequence[Term], which: str) -> tuple[str, list[Any]]:
    parts: list[str] = [which]
    values: list[Any] = []
    words: list[Term] = []
    for term in terms:
        text, lower = term.text, term.text.lower()  # a UUID may be in capitals
        named = [text, text, lower, *id_range(text), *id_range(lower)]
        if ask_one(connection, f"SELECT 1 FROM studies WHERE {_NAMED} LIMIT 1", named):  # noqa: S608 - ours
            parts.append(f"({_NAMED} OR {_WORDS})")
            values += [*named, term.match]
        else:
            words.append(term)
    if words:
        parts.append(_WORDS)
        values.append(all_of(words))
    return " AND ".join(parts), values


def _shown(connection: Any, row: QueryRow) -> QueryRow:
    code, means = _archived(connection, row["study_id"]) if row["state"] == "archived" else _elsewhere(connection, row)
    return {**row, "code": code, "means": means, "person": person(row["patient_name"]), "kinds": modalities(row["modality"])}


def _archived(connection: Any, study_id: str) -> tuple[str | None, str]:
    sql = "SELECT dicom_error, study_instance_uid, message_differs FROM files WHERE study_id = ? ORDER BY study_instance_uid LIMIT 1"
    file = ask_one(connection, sql, (study_id,))
    if file is None:
        return None, ""
    if file["study_instance_uid"] is None:
        code = file["dicom_error"]
        return code, meaning(code, HEADERS).means or "The header has no Study Instance UID."
    return ("message-differs", meaning("message-differs", FLAGS).means) if file["message_differs"] else (None, SAID)


def _elsewhere(connection: Any, row: QueryRow) -> tuple[str | None, str]:
    upload = ask_one(
        connection,
        "SELECT code FROM uploads WHERE study_id = ? AND state <> 'archived' AND state = ? ORDER BY position DESC LIMIT 1",
        (row["study_id"], row["state"]),
    )
    code = upload["code"] if upload else None
    return code, meaning_in(row["state"], code).means if code else ""
