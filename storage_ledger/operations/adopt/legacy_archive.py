"""Read the archive as the old service left it, file by file, without changing it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_ledger.archive.dicom_header import read_header
from storage_ledger.archive.durable_copy import digest_of
from storage_ledger.archive.uploads import FileIdentity
from storage_ledger.domain.paths import LEDGER_FOLDER, MAX_NAME_BYTES, METADATA, is_attempt, valid_study_id
from storage_ledger.errors import NOT_DICOM
from storage_ledger.system.files import FOLDER, READ, opened

OF_THE_VOLUME = frozenset({LEDGER_FOLDER, "lost+found"})
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic")

LeftAlone = Callable[[str, str], None]
"""Called with a path, relative to ARCHIVE_PATH, and the code that says why it is not adopted."""


class NotAdoptable(Exception):
    """A file or folder cannot be adopted; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A file in the archive; durable if it was read completely. `sha256` is empty if only its header was read."""

    name: str
    bytes: int
    sha256: str
    dicom: dict[str, Any] | None
    dicom_error: str | None


def study_folders(root: Path, left_alone: LeftAlone) -> Iterator[str]:
    """Yield the study_ids that have a folder, in arbitrary order. Raises `OSError` if the root cannot be read."""
    with os.scandir(root) as found:
        for entry in found:
            if entry.name in OF_THE_VOLUME:
                continue
            if not entry.is_dir(follow_symlinks=False):
                left_alone(entry.name, "is-link" if entry.is_symlink() else "not-a-folder")
            elif not valid_study_id(entry.name):
                left_alone(entry.name, "unsafe-study-id")
            else:
                yield entry.name


def count_studies(root: Path) -> int | None:
    """Return the number of study folders; None if the archive cannot be read."""
    try:
        with os.scandir(root) as found:
            return sum(1 for entry in found if entry.name not in OF_THE_VOLUME and entry.is_dir(follow_symlinks=False))
    except OSError:
        return None


@contextmanager
def open_study_folder(root: Path, study_id: str) -> Iterator[int]:
    """Open the study's folder, for a descriptor. Raises `NotAdoptable` if it cannot be read or is no longer a folder."""
    try:
        descriptor = os.open(root / study_id, FOLDER)
    except OSError:
        raise NotAdoptable("folder-unreadable") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file_names(study_id: str, folder: int, left_alone: LeftAlone, *, rewriting: bool = False) -> Iterator[str]:
    """Yield the names of regular files in a study's folder except metadata.json, in arbitrary order. Calls `left_alone` for the rest.

    When `rewriting` metadata.json, temporary files of an interrupted attempt are ignored, because they will be removed.
    """
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name == METADATA or (rewriting and is_attempt(entry.name)):
                continue
            code = _why_not_adoptable(entry)
            if code is None:
                yield entry.name
            else:
                left_alone(f"{study_id}/{entry.name}", code)


def _why_not_adoptable(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "is-link"
    if entry.is_dir(follow_symlinks=False):
        return "is-folder"
    if not entry.is_file(follow_symlinks=False):
        return "is-special"
    if entry.name.startswith("."):
        return "is-hidden"
    try:
        size = len(entry.name.encode())
    except UnicodeEncodeError:
        return "unsafe-name"
    return "name-too-long" if size > MAX_NAME_BYTES else None


def read_metadata(folder: int, most_bytes: int) -> bytes | None:
    """Return the bytes of metadata.json after an fsync; None if there is none. Raises `NotAdoptable`."""
    try:
        with _opened(folder, METADATA, "metadata") as (descriptor, identity):
            if identity.size > most_bytes:
                raise NotAdoptable("metadata-too-large")
            data = b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
            os.fsync(descriptor)
            return data
    except FileNotFoundError:
        return None
    except OSError:
        raise NotAdoptable("metadata-unreadable") from None


def examine(folder: int, study_id: str, name: str, *, any_file: bool, whole: bool) -> LegacyFile:
    """Read a file's header; with `whole`, read and fsync the whole file. Raises `NotAdoptable`.

    A file that is not DICOM is accepted only if its name suggests DICOM, or with `any_file`.
    """
    try:
        with _opened(folder, name, "file") as (descriptor, identity):
            if identity.size == 0:
                raise NotAdoptable("empty-file")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                dicom, dicom_error = read_header(file)
            if dicom_error == NOT_DICOM and not any_file and not _has_dicom_name(name, study_id):
                raise NotAdoptable("not-dicom")
            sha256 = ""
            if whole:
                sha256 = digest_of(descriptor)
                os.fsync(descriptor)
            if FileIdentity.of(os.fstat(descriptor)) != identity:
                raise NotAdoptable("file-changing")
            return LegacyFile(name, identity.size, sha256, dicom, dicom_error)
    except OSError:
        raise NotAdoptable("file-unreadable") from None


def _has_dicom_name(name: str, study_id: str) -> bool:
    stem, dot, _ = name.rpartition(".")
    return name.lower().endswith(DICOM_SUFFIXES) or study_id in {name, stem if dot else name}


@contextmanager
def _opened(folder: int, name: str, what: str) -> Iterator[tuple[int, FileIdentity]]:
    """Open a regular file; never a link, FIFO or device, even if the name is replaced between check and open."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise NotAdoptable(f"{what}-not-regular")
    with opened(name, READ, folder) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAdoptable(f"{what}-not-regular")
        yield descriptor, FileIdentity.of(status)
