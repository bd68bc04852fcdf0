"""What a person should do about a code, as commands say it. The texts stand in domain/error_catalogue."""

from __future__ import annotations

import shlex

from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.catalogue import explained
from storage_ledger.domain.error_catalogue.explanation import REFERENCE, Section, plain
from storage_ledger.domain.error_catalogue.ledger_and_mirror import LEDGER
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.quarantined_files import NAMED_TWICE, QUARANTINED_FILES
from storage_ledger.domain.error_catalogue.readiness import READINESS
from storage_ledger.domain.error_catalogue.rejected_messages import REJECTED_MESSAGES
from storage_ledger.domain.error_catalogue.retries import RETRIES

DAMAGED_FILES = (
    "A file of this study is missing or changed in the archive. Check whether the disk fails, stop `serve`, and put the file back from a "
    "folder that has copies."
)
CONTINUES = "The service then continues by itself."


def attention(code: str) -> str:
    """About something that `status` itself noticed."""
    return advice(code, ATTENTION, READINESS)


def outage(code: str) -> str:
    """About a cause that stops all studies."""
    return f"{advice(code, OUTAGES)} {CONTINUES}"


def not_ready(code: str) -> str:
    """About what the service names in /readyz, or that it does not answer."""
    return advice(code, READINESS, OUTAGES, LEDGER, ATTENTION)


def failing(code: str) -> str:
    """About a work item of one study that is retried."""
    return advice(code, RETRIES, OUTAGES)


def rejected(code: str) -> str:
    """About a message that was rejected."""
    return f"Nothing was archived; the sender has to publish a correct message. {advice(code, REJECTED_MESSAGES)}"


def quarantined(code: str | None, *, named_twice: bool = False) -> str:
    """About a quarantined file, without the commands: `commands` has them.

    `named_twice`: a file of the same path was archived for another study.
    """
    if named_twice:
        return NAMED_TWICE
    found = QUARANTINED_FILES.find(code)
    return plain(found.action) if found else "Fix the upload, then retry."


def commands(study_id: str, code: str | None) -> list[str]:
    """For a quarantined file, the likeliest first, to be copied into a terminal; name and reason are to be filled in."""
    found = QUARANTINED_FILES.find(code)
    templates = (found.commands if found else ()) or QUARANTINED_FILES.commands
    return [each.replace("STUDY_ID", shlex.quote(study_id)) for each in templates]


def put_back(study_id: str | None = None) -> str:
    """The command that looks for lost files in a folder; of one study, or of all."""
    only = "" if study_id is None else f" --study {shlex.quote(study_id)}"
    return f"storage-ledger replay --files{only} --source FOLDER"


def advice(code: str, *sections: Section) -> str:
    """What to do, in the first of these sections that explains the code; a newer program may have written one that none has."""
    found = explained(code, sections)
    return plain(found.advice) if found else f"See {REFERENCE}."
