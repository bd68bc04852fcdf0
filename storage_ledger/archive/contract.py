"""What an archive does. One suite of tests, tests/contract/test_archive.py, holds every archive to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Protocol

from storage_ledger.archive.uploads import Upload


class Fixity(StrEnum):
    """Does the file still have the bytes that the ledger says?"""

    INTACT = "intact"
    MISSING = "missing"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that is durably in the archive. `set_aside`: where a damaged one went that stood in its place."""

    name: str
    bytes: int
    sha256: str
    placement: str
    set_aside: str | None = None


class Archive(Protocol):
    """Every call may be made twice, and by several processes at once, for one work item too.

    `OSError`s come as `Retryable` or `Permanent`. Nothing intact is ever replaced, except by a durable copy of the same bytes, and no
    name under which `place` or `put_back` has reported a file is ever without it.
    """

    def place(self, upload: Upload, study_id: str, *, original_name: str, owned: Mapping[str, str], position: int) -> Placed:
        """Put the upload's bytes under their final name. `owned`: name → sha256 of the study's files in the ledger.

        On return the bytes and the name survive a power cut, but for a study folder that is new: see `settle`. If the same bytes are
        there already, whoever put them, they are `already-there`. Other bytes under a name that the ledger gives to these are kept as
        evidence first, and then replaced in one step. Raises `Retryable` where another process took this attempt's temporary file for
        a killed process's.
        """
        ...

    def put_back(self, copy: Upload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """Put an archived file's bytes back under its name; what lies there and is not intact is set aside. Durable as with `place`.

        A mark of this `time` (see `layout.putting_back_name`) stays beside it until `unmark`: who is killed before the ledger
        says that it was put back finds it again.
        Raises `Retryable` (`upload-changing`) when the copy has other bytes.
        """
        ...

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """Whether putting this file back was begun, and may not have been recorded."""
        ...

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """It is recorded: remove the mark, durably. Nothing happens if it is gone."""
        ...

    def write_metadata(self, study_id: str, data: bytes, *, ours: Callable[[bytes], bool] = lambda _: True) -> None:
        """Make `data` the study's metadata.json, whole or not at all, durable on return as with `place`.

        What has other bytes is set aside where `ours` says that they are not of our making, and so is a folder.
        """
        ...

    def settle(self, studies: Collection[str]) -> set[str]:
        """Make the names of study folders durable, whoever made them: a process that was killed may have, and not said so.

        Of these studies, whose new files nobody else has in hand and no entry knows yet, it returns those that must be
        placed again, since an earlier attempt failed when their folders were new; nothing of them is left in the archive, unless
        another process has put a file there.
        """
        ...

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """Read the file and compare; an intact one is durable on return."""
        ...

    def open(self, study_id: str, name: str) -> AbstractContextManager[BinaryIO]:
        """The archived bytes, for reading. An `OSError` of whatever is done within the `with` is taken for one of the archive."""
        ...

    def forget(self, study_id: str, position: int) -> None:
        """Remove what interrupted attempts at `position` left, of whichever process."""
        ...

    def trouble(self) -> tuple[str, str] | None:
        """Code and text of what keeps the archive from being written just now; None when nothing does."""
        ...
