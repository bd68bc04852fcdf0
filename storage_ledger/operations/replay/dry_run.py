"""An archive and a Status Service that say what they are asked and change nothing: what a dry run is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import BinaryIO

from storage_ledger.archive.contract import Archive, Fixity, Placed
from storage_ledger.archive.uploads import Upload
from storage_ledger.pipeline.status_client import Statuses


class DryRunArchive:
    """See `archive.contract.Archive`: reads the real one, and writes nothing."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def place(self, upload: Upload, study_id: str, *, original_name: str, owned: Mapping[str, str], position: int) -> Placed:
        """Nobody places in a dry run: the name would depend on what was placed before."""
        raise NotImplementedError

    def put_back(self, copy: Upload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """As if."""
        del study_id, position, time
        return Placed(name, copy.size, sha256, "copied")

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """As it is."""
        return self._archive.is_marked(study_id, name, time)

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Nothing."""

    def write_metadata(self, study_id: str, data: bytes, *, ours: Callable[[bytes], bool] = lambda _: True) -> None:
        """Nothing."""

    def settle(self, studies: Collection[str]) -> set[str]:
        """Nothing."""
        del studies
        return set()

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """As it is."""
        return self._archive.check(study_id, name, sha256, size)

    def open(self, study_id: str, name: str) -> AbstractContextManager[BinaryIO]:
        """As it is."""
        return self._archive.open(study_id, name)

    def forget(self, study_id: str, position: int) -> None:
        """Nothing."""

    def trouble(self) -> tuple[str, str] | None:
        """As it is."""
        return self._archive.trouble()


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
