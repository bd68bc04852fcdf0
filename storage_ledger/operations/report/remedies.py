"""What to do about a code, for commands and pages. The texts are in domain/error_catalogue."""

from __future__ import annotations

import shlex

from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.catalogue import explained
from storage_ledger.domain.error_catalogue.checkpoints import CHECKPOINTS
from storage_ledger.domain.error_catalogue.checkpoints_outside import OUTSIDE
from storage_ledger.domain.error_catalogue.explanation import Section, plain
from storage_ledger.domain.error_catalogue.ledger_and_mirror import LEDGER
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.quarantined_files import NAMED_TWICE, QUARANTINED_FILES
from storage_ledger.domain.error_catalogue.readiness import READINESS
from storage_ledger.domain.error_catalogue.rejected_messages import REJECTED_MESSAGES
from storage_ledger.domain.error_catalogue.retries import RETRIES

DAMAGED_FILES = (
    "A file of this study is missing or changed in the archive. Check the disk for errors, stop `serve`, and restore the file from a "
    "folder with copies."
)
CONTINUES = "The service then continues by itself."


def attention(code: str) -> str:
    """Return what to do about something that `status` itself found."""
    return advice(code, ATTENTION, READINESS)


def outage(code: str) -> str:
    """Return what to do about an outage."""
    return f"{advice(code, OUTAGES)} {CONTINUES}"


def not_ready(code: str) -> str:
    """Return what to do about a reason given by /readyz, or about a service that does not answer."""
    return advice(code, READINESS, OUTAGES, LEDGER, CHECKPOINTS, OUTSIDE, ATTENTION)


def failing(code: str) -> str:
    """Return what to do about a work item that is being retried."""
    return advice(code, RETRIES, OUTAGES)


def rejected(code: str) -> str:
    """Return what to do about a rejected message."""
    return f"Nothing was archived; the sender must publish a corrected message. {advice(code, REJECTED_MESSAGES)}"


def quarantined(code: str | None, *, named_twice: bool = False) -> str:
    """Return what to do about a quarantined file; `commands` returns the commands for it.

    `named_twice`: a file of the same path was archived for another study.
    """
    if named_twice:
        return NAMED_TWICE
    found = QUARANTINED_FILES.find(code)
    return plain(found.action) if found else "Fix the upload, then retry."


def commands(study_id: str, code: str | None) -> list[str]:
    """Return the commands for a quarantined file, the likeliest first; the operator fills in name and reason."""
    found = QUARANTINED_FILES.find(code)
    templates = (found.commands if found else ()) or QUARANTINED_FILES.commands
    return [each.replace("STUDY_ID", shlex.quote(study_id)) for each in templates]


def put_back(study_id: str | None = None) -> str:
    """Return the command that restores lost files from a folder of copies, for one study or all."""
    only = "" if study_id is None else f" --study {shlex.quote(study_id)}"
    return f"storage-ledger repair files{only} --source FOLDER"


def advice(code: str, *sections: Section) -> str:
    """Return what to do, from the first section that has the code; a code written by a newer program may be in none."""
    found = explained(code, sections)
    return plain(found.advice) if found else f"Run `storage-ledger explain {code}` with the program's newest version."
