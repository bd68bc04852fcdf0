"""What an archive does, by who needs it: the place step, whoever reads, and whoever repairs.

One suite of tests, tests/contract/archive/test_archive.py, holds every archive to it. Every call may be made twice, and by several
processes at once, for one work item too. `OSError`s come as `Retryable` or `Permanent`. Nothing intact is ever replaced, except
by a durable copy of the same bytes, and no name under which a file was reported as placed is ever without one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Literal, Protocol

from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.domain.reason import Reason


class Fixity(StrEnum):
    """Does the file still have the bytes that the ledger says?

    `REPLACED`: a link, a folder or a device has its name. Only `fixity.FixityReader` tells that apart; the archive itself, which
    sets it aside like other bytes, calls it `CHANGED`.
    """

    INTACT = "intact"
    MISSING = "missing"
    CHANGED = "changed"
    REPLACED = "replaced"


Placement = Literal["copied", "already-there"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that is durably in the archive. `set_aside`: where the damaged file is kept whose place it took."""

    name: str
    bytes: int
    sha256: str
    placement: Placement
    set_aside: str | None = None


class StudyFolder(Protocol):
    """The files of one study, from `Archive.study`. For one thread, and only until that `with` ends."""

    def place(self, upload: OpenUpload, original_name: str, *, position: int) -> Placed:
        """Put the upload's bytes under their final name.

        On return the bytes and the name survive a power cut, but for the name of a study folder that is new: see
        `Archive.sync_new_folders`. If the same bytes are there already, whoever put them, they are `already-there`. Other bytes
        under a name that the ledger gives to these are kept as evidence first, and then replaced in one step. `position`: of the
        entry that is being placed; temporary files and evidence carry it in their names. Raises `Retryable` where another process
        took this attempt's temporary file for a killed process's.
        """
        ...

    def check(self, name: str, sha256: str, size: int) -> Fixity:
        """Read the file and compare; an intact one is durable on return."""
        ...

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The archived bytes, for reading. Any `OSError` within the `with` is taken for one of the archive."""
        ...

    def write_metadata(self, data: bytes) -> None:
        """Make `data` the study's metadata.json, whole or not at all, durable on return as with `place`.

        A file that is not ours (see `Archive.study`), or a folder, is set aside.
        """
        ...

    def discard_attempts(self, position: int) -> None:
        """Remove what interrupted attempts at `position` left, of whichever process, and a study folder that is empty then."""
        ...


class ArchiveReader(Protocol):
    """For whoever wants one file."""

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """See `StudyFolder.check`."""
        ...

    def open(self, study_id: str, name: str) -> AbstractContextManager[BinaryIO]:
        """See `StudyFolder.open`."""
        ...

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """Whether putting this file back was begun and may not have been recorded: see `ArchiveRepair.put_back`."""
        ...


class Archive(ArchiveReader, Protocol):
    """For the place step, and for whoever watches over it."""

    def study(
        self, study_id: str, *, known: Mapping[str, str] | None = None, is_ours: Callable[[bytes], bool] = lambda _: True
    ) -> AbstractContextManager[StudyFolder]:
        """Open a study for a batch of calls. Nothing is made in the archive before the first file or metadata.json is written.

        `known`: name → sha256 of the study's files in the ledger; what is placed meanwhile is added by itself. `is_ours`: whether
        we may have written a metadata.json that begins like this, so that it may be overwritten.
        """
        ...

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """Make the names of new study folders durable, also of those that a killed process made.

        Of these studies, whose new files no other batch has in hand and no entry knows yet, it returns those that must be placed
        again, since an earlier attempt failed when their folders were new; nothing of them is left in the archive, unless another
        process has put a file there.
        """
        ...

    def trouble(self) -> Reason | None:
        """Why nothing can be written into the archive just now; None if it can."""
        ...


class ArchiveRepair(Protocol):
    """For replay and repairs, which write again what the ledger says. A dry run has one that writes nothing."""

    def put_back(self, copy: OpenUpload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """Put an archived file's bytes back under its name; a file there that is not intact is set aside. Durable as with `place`.

        A mark of this `time` (how often the file was put back before) stays beside it until `unmark`: a run that is killed before
        the ledger has the entry finds it again. Raises `Retryable` (`upload-changing`) when the copy has other bytes.
        """
        ...

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """Remove the mark, durably, now that the ledger has the entry. Nothing happens if it is gone."""
        ...

    def write_metadata(self, study_id: str, data: bytes) -> None:
        """See `StudyFolder.write_metadata`; whatever file is there is overwritten."""
        ...

    def sync_new_folders(self, studies: Collection[str]) -> set[str]:
        """See `Archive.sync_new_folders`."""
        ...
