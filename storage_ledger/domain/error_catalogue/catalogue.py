"""All sections of the catalogue, in the order of the reference page, and look-ups by code."""

from __future__ import annotations

from collections.abc import Iterable

from storage_ledger.domain.error_catalogue.adopt import LEFT_ALONE, REMARKS
from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.backups import BACKUPS
from storage_ledger.domain.error_catalogue.checkpoints import CHECKPOINTS
from storage_ledger.domain.error_catalogue.checkpoints_outside import OUTSIDE, WITNESS
from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.flags_and_headers import FLAGS, HEADERS
from storage_ledger.domain.error_catalogue.ledger_and_mirror import ENTRIES, LEDGER, MIRROR, POSTGRES
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.pictures import PICTURES
from storage_ledger.domain.error_catalogue.quarantined_files import QUARANTINED_FILES
from storage_ledger.domain.error_catalogue.readiness import READINESS, REDIS
from storage_ledger.domain.error_catalogue.reconcile import SWEEPS, UNEXPLAINED_FILES
from storage_ledger.domain.error_catalogue.rejected_messages import REJECTED_MESSAGES
from storage_ledger.domain.error_catalogue.replay import REPLAY
from storage_ledger.domain.error_catalogue.retries import RETRIES
from storage_ledger.domain.error_catalogue.settings_and_locks import SETTINGS_AND_LOCKS
from storage_ledger.domain.error_catalogue.verify import VERIFY

SECTIONS = (
    REJECTED_MESSAGES,
    QUARANTINED_FILES,
    RETRIES,
    OUTAGES,
    SWEEPS,
    UNEXPLAINED_FILES,
    REPLAY,
    LEDGER,
    POSTGRES,
    MIRROR,
    BACKUPS,
    CHECKPOINTS,
    OUTSIDE,
    WITNESS,
    LEFT_ALONE,
    REMARKS,
    SETTINGS_AND_LOCKS,
    READINESS,
    REDIS,
    ATTENTION,
    VERIFY,
    PICTURES,
    FLAGS,
    HEADERS,
    ENTRIES,
)


def codes() -> list[str]:
    """Return every code, in alphabetical order."""
    return sorted({each.code for section in SECTIONS for each in section.explanations})


def meanings(code: str) -> list[tuple[Section, Explanation]]:
    """Return each section that has the code, with its explanation; empty for an unknown code."""
    return [(section, found) for section in SECTIONS if (found := section.find(code))]


def explained(code: str | None, sections: Iterable[Section]) -> Explanation | None:
    """Return the explanation from the first of these sections that has the code, or None."""
    return next((found for section in sections if (found := section.find(code))), None)
