"""The report about a study that an auditor prints and files: its entries as sentences, its digests, and the checkpoint that covers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import segno
from markupsafe import Markup

from storage_ledger.domain.entries import Entry
from storage_ledger.domain.signed_note import encoded
from storage_ledger.errors import ProofError, Retryable
from storage_ledger.operations.prove.covering import require_covered
from storage_ledger.operations.report.timeline import summary_beside_kind
from storage_ledger.web.files.proofs import StudyProofs, reason
from storage_ledger.web.pages.formatting import person
from storage_ledger.web.pages.queries import QueryRow, ask, ask_one

MOST_ENTRIES = 500
"""Maximum number of entries printed, oldest first; the bundle of proofs has all."""
MOST_FILES = 500


def of_pipeline_study(connection: Any, study_id: str) -> QueryRow:
    """Read the patient and the files of a pipeline study from the index."""
    study = ask_one(connection, "SELECT * FROM studies WHERE study_id = ?", (study_id,))
    return _known(study, ask(connection, f"{_FILES} WHERE study_id = ? ORDER BY position, name LIMIT ?", (study_id, MOST_FILES + 1)))


def of_dicom_study(connection: Any, uid: str) -> QueryRow:
    """Read the patient, the files and the pipeline studies of a DICOM study from the index."""
    study = ask_one(connection, "SELECT * FROM dicom_studies WHERE study_instance_uid = ?", (uid,))
    files = ask(connection, f"{_FILES} WHERE study_instance_uid = ? ORDER BY position, name LIMIT ?", (uid, MOST_FILES + 1))
    studies = ask(connection, "SELECT DISTINCT study_id FROM files WHERE study_instance_uid = ?", (uid,))
    return {**_known(study, files), "studies": [row["study_id"] for row in studies]}


async def of_studies(made: StudyProofs, studies: Sequence[str]) -> QueryRow | None:
    """Return the entries, the checkpoint if it covers them, and otherwise why it does not; None if there are no entries.

    `is_proved`: each entry shown was just checked against the checkpoint.
    """
    try:
        entries = await made.entries_of(studies)
    except (ProofError, Retryable) as error:
        return {"entries": [], "left_out": 0, "unproved": reason(error), "checkpoint": None}
    if not entries:
        return None
    shown = entries[:MOST_ENTRIES]
    found: QueryRow = {"entries": [_row(each) for each in shown], "left_out": len(entries) - len(shown), "unproved": "", "checkpoint": None}
    try:
        newest = await made.newest()
        require_covered(newest.signed, entries[-1].position)
        await made.proofs(newest, shown, with_payload=False)
    except (ProofError, Retryable) as error:
        return found | {"unproved": reason(error)}
    signed = newest.signed
    about = {"origin": signed.checkpoint.origin, "size": signed.checkpoint.size, "root": encoded(signed.checkpoint.root)}
    return found | {"checkpoint": about | {"text": signed.joined.decode(), "code": _code(signed.note)}}


_FILES = "SELECT study_id, name, bytes, sha256, position FROM files"


def _known(study: QueryRow | None, files: list[QueryRow]) -> QueryRow:
    return {"study": study, "person": person(study["patient_name"]) if study else None, "files": files[:MOST_FILES],
            "more_files": len(files) > MOST_FILES}  # fmt: skip


def _row(entry: Entry) -> QueryRow:
    return {
        "position": entry.position,
        "kind": entry.kind,
        "recorded_at": entry.recorded_at,
        "sentence": summary_beside_kind(entry),
        "leaf_hash": entry.leaf_hash.hex(),
        "payload_sha256": entry.payload_sha256,
        "study_id": entry.study_id,
    }


def _code(note: bytes) -> Markup | None:
    """Return the note as a QR code in SVG; None if it is too long for one."""
    try:
        code = segno.make(note, error="m", micro=False)
    except segno.DataOverflowError:
        return None
    return Markup(code.svg_inline(omitsize=True, border=4, dark="#000", light="#fff", svgclass=None, lineclass=None))  # noqa: S704 - only squares
