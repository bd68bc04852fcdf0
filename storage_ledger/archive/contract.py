"""The contract of an archive, by caller: the step place, readers, and repairs.

One suite of tests, tests/contract/archive/test_archive.py, tests every implementation. Every call may be made twice, and by several
processes at the same time, even for one work item. `OSError`s are raised as `Retryable` or `Permanent`. Nothing intact is replaced,
except by a durable copy of the same bytes, and a name under which a file was reported as placed is never without a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Literal, Protocol

from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.domain.reason import Reason
from storage_ledger.errors import Retryable


class Fixity(StrEnum):
    """Whether the file still has the bytes recorded in the ledger.

    `REPLACED`: a link, a folder or a device has its name. Only `fixity.FixityReader` distinguishes this; the archive itself
    reports `CHANGED`, because it sets both aside.
    """

    INTACT = "intact"
    MISSING = "missing"
    CHANGED = "changed"
    REPLACED = "replaced"


Placement = Literal["copied", "already-there"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that is durable in the archive. `set_aside`: where the damaged file that it replaced is kept."""

    name: str
    bytes: int
    sha256: str
    placement: Placement
    set_aside: str | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """A complete copy under a temporary name, until it is linked or its study's batch ends."""

    temporary: str
    bytes: int
    sha256: str
    position: int


class StudyFolder(Protocol):
    """The files of one study in a `Batch`. For one thread, until the batch ends."""

    def copy(self, upload: OpenUpload, *, position: int) -> Copied:
        """Copy the upload's bytes into the folder. They are durable after `Batch.sync_copies`.

        `position`: of the entry being placed; temporary files and evidence have it in their names.
        """
        ...

    def link(self, copied: Copied, original_name: str) -> Placed:
        """Give durable bytes their final name, which is durable after `Batch.sync_names`.

        If the same bytes are there already, whoever wrote them, the result is `already-there`. Other bytes under a name that the ledger
        assigns to these are first kept as evidence, then replaced in one step. Raises `Retryable` if another process removed this
        attempt's temporary file as left over from a killed process.
        """
        ...

    def check(self, name: str, sha256: str, size: int) -> Fixity:
        """Read and compare the file. If it is intact, it is durable on return."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open the archived file for reading. Any `OSError` within the `with` is treated as an error of the archive."""
        ...

    def write_metadata(self, data: bytes) -> None:
        """Replace the study's metadata.json with `data` atomically.

        After `Batch.sync_names` its name survives a power cut; its bytes only after `Archive.sync_metadata`, if the archive leaves them
        to it. A file that we did not write (see `Batch.study`), or a folder, is set aside.
        """
        ...

    def discard_attempts(self, position: int) -> None:
        """Remove the temporary files of interrupted attempts at `position`, of any process, and the study folder if it is then empty."""
        ...


class Batch(Protocol):
    """Studies whose files become durable together. For one thread."""

    def study(self, study_id: str, *, known: Mapping[str, str], is_ours: Callable[[bytes], bool]) -> StudyFolder:
        """Open a study. Nothing is created before the first file or metadata.json is written.

        `known`: name → SHA-256 of the study's files in the ledger; files placed in this batch are added. `is_ours`: decides
        from its bytes whether we may have written a metadata.json, so that it may be overwritten.
        """
        ...

    def sync_copies(self) -> Retryable | None:
        """Make the bytes of all copies durable. Returns why that failed, if it did: then none may be linked."""
        ...

    def sync_names(self) -> tuple[dict[str, Retryable], bool]:
        """Make the names of all files that were linked durable.

        Returns the studies for which that failed, and why: they must be placed again. The second value says whether the
        names of new study folders are durable as well; if not, see `Archive.sync_new_folders`.
        """
        ...


class ArchiveReader(Protocol):
    """Reads single files."""

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """See `StudyFolder.check`."""
        ...

    def open(self, study_id: str, name: str) -> AbstractContextManager[BinaryIO]:
        """See `StudyFolder.open`."""
        ...

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """Return whether a restore of this file was begun and may not be recorded: see `ArchiveRepair.put_back`."""
        ...


class Archive(ArchiveReader, Protocol):
    """For the step place, and for readiness checks."""

    def batch(self, studies: int) -> AbstractContextManager[Batch]:
        """Begin a batch of that many studies. Raises `Retryable`."""
        ...

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """Make the names of new study folders durable, including those created by a killed process.

        No other batch may be working on these studies, and no entry may name their new files yet. Returns the studies that must be
        placed again because an earlier fsync failed when their folders were new; their new files have been removed, unless
        another process has stored a file there.
        """
        ...

    def sync_metadata(self) -> None:
        """Make every metadata.json durable that was written before, by any process. Raises `Retryable`; then none is known to be."""
        ...

    def trouble(self) -> Reason | None:
        """Return why nothing can be written to the archive now, or None."""
        ...


class ArchiveRepair(Protocol):
    """For replay and repairs, which write again what the ledger records. A dry run uses one that writes nothing."""

    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """Restore an archived file's bytes under its name, and set aside a damaged file there. Durable as in `place`.

        A mark for this `time` (the number of earlier restores of the file) stays beside it until `unmark`, so that a run after a kill
        knows that the ledger may lack the entry. Raises `Retryable` (`upload-changing`) if the copy has other bytes.
        """
        ...

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Remove the mark, durably, once the ledger has the entry. Does nothing if it is gone."""
        ...

    def write_metadata(self, study_id: str, data: bytes) -> None:
        """Write metadata.json as `StudyFolder.write_metadata` does, but overwrite any file there."""
        ...

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """See `Archive.sync_new_folders`."""
        ...
