"""Read-only stand-ins for the archive's repair and the Status Service, for `--dry-run`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from typing_extensions import override

from storage_ledger.archive.contract import ArchiveRepair, Placed
from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.pipeline.status_client import Statuses


class DryRunRepair(ArchiveRepair):
    """Reports success and writes nothing."""

    @override
    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        return Placed(name, copy.size, sha256, "copied")

    @override
    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Do nothing, because there is no marker."""

    @override
    def write_metadata(self, study_id: str, data: bytes) -> None:
        """Do nothing."""

    @override
    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        return set()  # no folder was created, so none is lost


class DryRunStatuses(Statuses):
    """Reads real statuses and sends none."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    @override
    def tell(self, study_id: str, status: str, details: Mapping[str, object]) -> int:
        return 200

    @override
    def read(self, study_id: str) -> str | None:
        return self._statuses.read(study_id)
