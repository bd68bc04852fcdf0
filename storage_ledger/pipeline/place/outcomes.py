"""What became of a work item of the step place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage_ledger.archive.contract import Placed
from storage_ledger.archive.uploads import FileIdentity
from storage_ledger.domain.study import DescribedEvent
from storage_ledger.errors import Retryable
from storage_ledger.ledger.contract import WorkItem


@dataclass(frozen=True, slots=True)
class PlacedUpload:
    """The file is durable in the archive and in its study's fold. `identity`: of the upload from which it was copied.

    `supersedes`: the name of an earlier, incomplete state of the same upload. `unconfirmed`: the upload is gone, and this message says
    something about it that no message said while it existed.
    """

    study_id: str
    work_item: WorkItem
    described: DescribedEvent
    placed: Placed
    original_name: str
    dicom: dict[str, Any] | None
    dicom_error: str | None
    identity: FileIdentity | None
    supersedes: str | None
    unconfirmed: bool


@dataclass(frozen=True, slots=True)
class Archived:
    """A placed upload whose study's metadata.json, with this SHA-256, is written. `folder_synced`: so is the name of its study's folder."""

    upload: PlacedUpload
    metadata_sha256: str
    folder_synced: bool = False

    @property
    def work_item(self) -> WorkItem:
        """Return the work item that this completes."""
        return self.upload.work_item


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Only a person or a redelivery can help. `repeats`: the redeliveries of its event that were due at the same time."""

    study_id: str
    work_item: WorkItem
    described: DescribedEvent
    code: str
    detail: str
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """To be tried again. `due_in_s`: None for the usual backoff. `common`: many fail with this now; it is recorded once for all."""

    work_item: WorkItem
    error: Retryable
    due_in_s: float | None = None
    common: bool = False


BeforeMetadata = PlacedUpload | Quarantined | Retry
Outcome = Archived | Quarantined | Retry
