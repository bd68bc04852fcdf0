"""An archive's repair and a Status Service that change nothing: what a dry run is given in place of the real ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from storage_ledger.archive.contract import Placed
from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.pipeline.status_client import Statuses


class DryRunRepair:
    """See `archive.contract.ArchiveRepair`: says what it would write, and writes nothing."""

    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """As if the copy had been written."""
        del study_id, position, time
        return Placed(name, copy.size, sha256, "copied")

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Nothing was marked."""

    def write_metadata(self, study_id: str, data: bytes) -> None:
        """Nothing is written."""

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """Nothing was made, so nothing is lost."""
        del studies
        return set()


class DryRunStatuses:
    """See `status.Statuses`: reads what stands, and tells nothing."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        """As if it had been accepted."""
        del study_id, status, details
        return 200

    def read(self, study_id: str) -> str | None:
        """As it stands."""
        return self._statuses.read(study_id)
