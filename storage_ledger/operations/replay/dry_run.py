"""Read-only stand-ins for the archive's repair and the Status Service, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from storage_ledger.archive.contract import Placed
from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.pipeline.status_client import Statuses


class DryRunRepair:
    """An `archive.contract.ArchiveRepair` that reports success and writes nothing."""

    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """Report the copy as written."""
        del study_id, position, time
        return Placed(name, copy.size, sha256, "copied")

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Do nothing, because there is no marker."""

    def write_metadata(self, study_id: str, data: bytes) -> None:
        """Do nothing."""

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """Return no lost folders, because none was created."""
        del studies
        return set()


class DryRunStatuses:
    """A `Statuses` client that reads real statuses and sends none."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        """Report the status as accepted."""
        del study_id, status, details
        return 200

    def read(self, study_id: str) -> str | None:
        """Read the study's current status."""
        return self._statuses.read(study_id)
