"""Archived files for the web page: found only through index rows, opened without following links, never written."""

from __future__ import annotations

import errno as errnos
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage_ledger.archive.filesystem import FilesystemArchive
from storage_ledger.domain.paths import METADATA, valid_study_id
from storage_ledger.errors import ARCHIVE_MISSING, Permanent, Retryable
from storage_ledger.web.files.pictures import Unavailable

Query = Callable[[str, Mapping[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]
"""Runs a query on the index: SQL and its parameters → rows."""

MAX_METADATA_BYTES = 16 << 20

_FILES = (
    "SELECT study_id, name, sha256, bytes, fixity, modality, study_date, series_number, instance_number, study_instance_uid FROM files "
)


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file's row in the index. `sha256` and `bytes` come from the ledger."""

    study_id: str
    name: str
    sha256: str
    bytes: int
    fixity: str
    modality: str | None
    study_date: str | None
    series_number: int | None
    instance_number: int | None
    study_instance_uid: str | None


class FileLookup:
    """Finds files with `query` and opens them in `archive`. Methods that open a file may block: call them in a thread."""

    def __init__(self, query: Query, archive: FilesystemArchive) -> None:
        self._query = query
        self._archive = archive

    async def file(self, study_id: str, name: str) -> IndexedFile | None:
        """Return the file with this name, or None."""
        rows = await self._query(f"{_FILES} WHERE study_id = :study_id AND name = :name", {"study_id": study_id, "name": name})
        return IndexedFile(**rows[0]) if rows else None

    async def of_study(self, study_id: str) -> list[IndexedFile]:
        """Return all files of a pipeline study, in the order in which they were archived."""
        return [IndexedFile(**row) for row in await self._query(f"{_FILES} WHERE study_id = :key ORDER BY position", {"key": study_id})]

    async def of_dicom_study(self, uid: str) -> list[IndexedFile]:
        """Return all files of a DICOM study, by series number and instance number."""
        order = "series_number, series_instance_uid, instance_number, position"
        return [IndexedFile(**row) for row in await self._query(f"{_FILES} WHERE study_instance_uid = :key ORDER BY {order}", {"key": uid})]

    async def studies_of_dicom_study(self, uid: str) -> list[str]:
        """Return the pipeline studies with a file of this DICOM study."""
        rows = await self._query("SELECT DISTINCT study_id FROM files WHERE study_instance_uid = :key", {"key": uid})
        return [str(row["study_id"]) for row in rows]

    async def knows(self, study_id: str) -> bool:
        """Return whether the index has this pipeline study."""
        return bool(await self._query("SELECT 1 AS one FROM studies WHERE study_id = :key", {"key": study_id}))

    async def first_position(self, uid: str) -> int | None:
        """Return the position of a DICOM study's first entry, which identifies the study without patient data."""
        rows = await self._query("SELECT first_position FROM dicom_studies WHERE study_instance_uid = :key", {"key": uid})
        return int(rows[0]["first_position"]) if rows else None

    def open(self, file: IndexedFile) -> int:
        """Open the file and return its descriptor. Raises `Unavailable`, also if the size differs from the ledger's."""
        if file.fixity == "changed":
            raise Unavailable("file-changed")
        descriptor, size = self._open(file.study_id, file.name)
        if size != file.bytes:
            os.close(descriptor)
            raise Unavailable("file-changed")
        return descriptor

    def check(self, file: IndexedFile) -> None:
        """Raise `Unavailable` if `open` would."""
        os.close(self.open(file))

    def metadata(self, study_id: str) -> bytes:
        """Return the bytes of a study's metadata.json. Raises `Unavailable`."""
        descriptor, size = self._open(study_id, METADATA)
        with os.fdopen(descriptor, "rb") as file:
            if size > MAX_METADATA_BYTES:
                raise Unavailable("file-unreadable")
            return file.read(MAX_METADATA_BYTES)

    def _open(self, study_id: str, name: str) -> tuple[int, int]:
        """Open a regular file and return its descriptor and size. Anything else is refused."""
        if not valid_study_id(study_id) or not _is_name(name):
            raise Unavailable("file-missing")
        try:
            with self._archive.open(study_id, name) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise Unavailable("file-changed")
                return os.dup(file.fileno()), status.st_size
        except (Permanent, Retryable) as error:
            if error.code == ARCHIVE_MISSING:
                raise Unavailable("archive-missing") from error
            match error.errno:
                case errnos.ENOENT:
                    raise Unavailable("file-missing") from error
                case errnos.ELOOP | errnos.ENOTDIR | errnos.ENXIO:
                    raise Unavailable("file-changed") from error
                case _:
                    raise Unavailable("file-unreadable") from error


def _is_name(name: str) -> bool:
    return not name.startswith(".") and "/" not in name and "\0" not in name and name != ""
