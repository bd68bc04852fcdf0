"""The quarantined uploads, each with its reason and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage_ledger.domain.entries import Kind
from storage_ledger.domain.study import State
from storage_ledger.errors import UPLOAD_MISSING
from storage_ledger.index.queries import archived_from, studies_with_upload
from storage_ledger.ledger.contract import Ledger
from storage_ledger.operations.quarantine import QuarantinedUpload, in_quarantine
from storage_ledger.operations.report import remedies
from storage_ledger.settings import Settings


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """An upload that needs manual review, why, and what to do. `position`: of its `quarantined` entry.

    `archived_as`: other studies for which a file of this path was archived; None if that was not checked.
    """

    position: int
    recorded_at: str
    study_id: str
    upload_path: str
    code: str
    detail: str
    action: str
    commands: list[str]
    archived_as: list[str] | None

    def to_json(self) -> dict[str, Any]:
        """Return what `quarantine list --json` and `quarantine show --json` print."""
        return {name: value for name, value in asdict(self).items() if name != "archived_as" or value is not None}


def quarantined(ledger: Ledger, settings: Settings, study_id: str | None = None) -> list[QuarantinedFile]:
    """Return the quarantined uploads, oldest first. For a single study also find other studies that archived the same path."""
    studies = [study_id] if study_id is not None else _maybe_quarantined(ledger, settings.index_file)
    found = []
    for each in sorted(in_quarantine(ledger, studies), key=lambda each: each.position):
        others = _archived_as(ledger, settings.index_file, each) if study_id is not None else None
        found.append(
            QuarantinedFile(
                position=each.position,
                recorded_at=each.recorded_at,
                study_id=each.study_id,
                upload_path=each.upload_path,
                code=each.code,
                detail=each.detail,
                action=remedies.quarantined(each.code, named_twice=bool(others)),
                commands=remedies.commands(each.study_id, each.code),
                archived_as=others,
            )
        )
    return found


def _maybe_quarantined(ledger: Ledger, index_file: Path) -> list[str]:
    """Return all studies with a quarantined upload, and perhaps others. Without an index this reads the whole ledger."""
    position, found = studies_with_upload(index_file, ledger, State.QUARANTINED.value) or (0, [])
    return list(dict.fromkeys([*found, *ledger.studies_with_kind(Kind.QUARANTINED.value, after=position)]))


def _archived_as(ledger: Ledger, index_file: Path, upload: QuarantinedUpload) -> list[str]:
    """Return the other studies that archived the missing upload: if two study_ids name one upload, only the first gets it."""
    if upload.code != UPLOAD_MISSING:
        return []
    return [each for each in archived_from(index_file, ledger, upload.upload_path) if each != upload.study_id]
