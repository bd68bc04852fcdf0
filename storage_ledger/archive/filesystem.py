"""The archive as folders and files, with every fsync that it takes to say "archived" and mean it."""

from __future__ import annotations

import errno as errnos
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from storage_ledger.archive.contract import Fixity, Placed
from storage_ledger.archive.uploads import Upload
from storage_ledger.core.layout import (
    DAMAGED_FOLDER,
    LEDGER_FOLDER,
    METADATA,
    archive_name,
    beside_name,
    damaged_name,
    temporary_name,
)
from storage_ledger.errors import Permanent, Retryable

FILE_MODE = 0o440
METADATA_MODE = 0o640
FOLDER_MODE = 0o750
LOW_BYTES = 1 << 20
_CHUNK = 1 << 20
METADATA_TEMPORARY = ".metadata.json.tmp"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FilesystemArchive:
    """See `contract.Archive`. `root` (ARCHIVE_PATH) must exist: an archive that is not mounted is not made up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._recognised: tuple[int, int] | None = None

    def recognise(self, device: int, inode: int) -> None:
        """From now on only this root folder is the archive: a volume that comes off leaves an empty folder of the same name."""
        self._recognised = (device, inode)

    def place(self, upload: Upload, study_id: str, *, original_name: str, owned: Mapping[str, str], position: int) -> Placed:
        """Copy under a hidden name, fsync, link to the final name (never over one), unlink the hidden one, fsync the folder.

        See `contract.Archive.place`. An fsync that failed is never repeated on the same file: the copy is thrown away.
        """
        with _translated(), self._study_folder(study_id, make=True) as folder:
            temporary = temporary_name(position)
            _unlink(temporary, folder)
            try:
                sha256 = _copy(upload, temporary, folder)
                placed = self._link(folder, temporary, study_id, original_name, sha256, upload.size, owned, position)
            finally:
                _unlink(temporary, folder)
            os.fsync(folder)
            return placed

    def write_metadata(self, study_id: str, data: bytes) -> None:
        """Write under a hidden name, fsync, rename, fsync the folder. See `contract.Archive.write_metadata`."""
        with _translated(), self._study_folder(study_id, make=True) as folder:
            if not _has_bytes(METADATA, folder, data):
                _unlink(METADATA_TEMPORARY, folder)
                try:
                    descriptor = os.open(METADATA_TEMPORARY, _MAKE, 0o600, dir_fd=folder)
                    try:
                        _write_all(descriptor, data)
                        os.fchmod(descriptor, METADATA_MODE)
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                    os.rename(METADATA_TEMPORARY, METADATA, src_dir_fd=folder, dst_dir_fd=folder)
                finally:
                    _unlink(METADATA_TEMPORARY, folder)
            os.fsync(folder)

    def settle(self) -> None:
        """See `contract.Archive.settle`."""
        with _translated(), self._folder() as root:
            os.fsync(root)

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """See `contract.Archive.check`."""
        with _translated():
            try:
                with self._study_folder(study_id, make=False) as folder:
                    found = _check(name, folder, sha256, size)
                    if found is Fixity.INTACT:
                        os.fsync(folder)
                    return found
            except FileNotFoundError:
                self._require_root()
                return Fixity.MISSING

    @contextmanager
    def open(self, study_id: str, name: str) -> Iterator[BinaryIO]:
        """See `contract.Archive.open`."""
        with _translated(), self._study_folder(study_id, make=False) as folder:
            descriptor = os.open(name, _READ, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            yield file

    def forget(self, study_id: str, position: int) -> None:
        """See `contract.Archive.forget`."""
        with _translated(), suppress(FileNotFoundError, Permanent), self._study_folder(study_id, make=False) as folder:
            _unlink(temporary_name(position), folder)
            if not os.listdir(folder):  # an attempt that came to nothing leaves nothing
                os.rmdir(self.root / study_id)

    def trouble(self) -> tuple[str, str] | None:
        """See `contract.Archive.trouble`."""
        try:
            with self._folder() as root:
                status = os.fstatvfs(root)
        except Retryable as error:
            return error.code, f"{error.detail}. Is the volume mounted?"
        if status.f_flag & os.ST_RDONLY:
            return "archive-read-only", "the archive's file system is mounted read-only"
        if not os.access(self.root, os.W_OK | os.X_OK):
            return "archive-not-writable", f"user {os.geteuid()} may not write into ARCHIVE_PATH"
        if status.f_bavail * status.f_frsize < LOW_BYTES or (status.f_files and status.f_favail < 64):
            return "archive-full", f"{status.f_bavail * status.f_frsize} bytes free on the archive's volume"
        return None

    def _link(
        self,
        folder: int,
        temporary: str,
        study_id: str,
        original_name: str,
        sha256: str,
        size: int,
        owned: Mapping[str, str],
        position: int,
    ) -> Placed:
        """Find the name that these bytes have or get, and see that they lie there.

        The ledger decides first: a name that it gives to these bytes is theirs, even if something else lies there now
        (that is damage: set aside); one that it gives to other bytes is taken, even if nothing lies there now.
        """
        plain = archive_name(original_name, sha256)
        beside = beside_name(plain, sha256)
        known = next((name for name in (plain, beside) if owned.get(name) == sha256), None)
        for name in (known,) if known else (plain, beside):
            if name in owned and owned[name] != sha256:
                continue
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                if _check(name, folder, sha256, size) is Fixity.INTACT:
                    return Placed(name, size, sha256, "already-there")
                if name != known:
                    continue
                aside = self._set_aside(folder, name, study_id, position)
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
                return Placed(name, size, sha256, "copied", aside)
            return Placed(name, size, sha256, "copied")
        raise Permanent("archive-name-taken", "both names that this file could have are taken by other bytes")

    def _set_aside(self, folder: int, name: str, study_id: str, position: int) -> str:
        """Move what lies under `name` to .ledger/damaged/<study_id>/, durably; it is evidence. Returns its new path."""
        self._make_folder(LEDGER_FOLDER, DAMAGED_FOLDER, study_id)
        self.settle()
        parts = (LEDGER_FOLDER, DAMAGED_FOLDER, study_id)
        with self._folder(*parts) as damaged:
            taken = set(os.listdir(damaged))
            new = next(n for i in range(len(taken) + 1) if (n := damaged_name(position, name) + (f".{i}" if i else "")) not in taken)
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=damaged)
            os.fsync(damaged)
        os.fsync(folder)
        return "/".join((*parts, new))

    @contextmanager
    def _study_folder(self, study_id: str, *, make: bool) -> Iterator[int]:
        if make:
            self._make_folder(study_id)
        try:
            with self._folder(study_id) as folder:
                yield folder
        except NotADirectoryError as error:
            raise Permanent("archive-name-taken", "the study's folder is a link or a file", errno=error.errno) from error

    def _make_folder(self, *parts: str) -> None:
        """Make what is missing of these folders, each with its mode, whatever the umask."""
        self._require_root()
        path = self.root
        for depth, part in enumerate(parts):
            path = path / part
            try:
                os.mkdir(path, FOLDER_MODE)
            except FileExistsError:
                continue
            except PermissionError as error:
                shared = depth == 0  # nobody's study can be made; further down it is one folder's trouble alone
                raise Retryable("archive-not-writable", os.strerror(error.errno or 0), errno=error.errno, shared=shared) from error
            os.chmod(path, FOLDER_MODE, follow_symlinks=False) if os.chmod in os.supports_follow_symlinks else os.chmod(path, FOLDER_MODE)
            if depth > 0:
                with self._folder(*parts[:depth]) as parent:
                    os.fsync(parent)

    def _require_root(self) -> None:
        with self._folder():
            pass

    @contextmanager
    def _folder(self, *parts: str) -> Iterator[int]:
        try:
            current = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Retryable(
                "archive-missing",
                f"ARCHIVE_PATH cannot be opened: {os.strerror(error.errno or 0)}",
                errno=error.errno,
                shared=True,
            ) from error
        try:
            status = os.fstat(current)
            if self._recognised not in {None, (status.st_dev, status.st_ino)}:
                raise Retryable("archive-missing", "another volume, or none, is mounted at ARCHIVE_PATH", shared=True)
            for part in parts:
                below = os.open(part, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)


def _copy(upload: Upload, name: str, folder: int) -> str:
    """Copy the upload's bytes into a new file, durable on return. Returns their SHA-256 in hex."""
    descriptor = os.open(name, _MAKE, 0o600, dir_fd=folder)
    try:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_CHUNK, upload.size + 1)))
        done = 0
        while count := _read(upload, buffer, done):
            digest.update(buffer[:count])
            _write_all(descriptor, buffer[:count])
            done += count
            if done > upload.size:
                raise Retryable("upload-changing", "the file grew while it was read")
        upload.check_unchanged()
        if done != upload.size:
            raise Retryable("upload-changing", "the file's length changed while it was read")
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _read(upload: Upload, buffer: memoryview, offset: int) -> int:
    try:
        return os.preadv(upload.descriptor, [buffer], offset)
    except OSError as error:
        raise Retryable("upload-io", os.strerror(error.errno or 0), errno=error.errno) from error


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _check(name: str, folder: int, sha256: str, size: int) -> Fixity:
    """Whether a regular file of these bytes lies there; it is fsynced if so, since who linked it may have been killed."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return Fixity.CHANGED
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return Fixity.MISSING
    try:
        if os.fstat(descriptor).st_size != size or digest_of(descriptor) != sha256:
            return Fixity.CHANGED
        os.fsync(descriptor)
        return Fixity.INTACT
    finally:
        os.close(descriptor)


def digest_of(descriptor: int) -> str:
    """SHA-256 in hex of all bytes of an open file; memory for one chunk."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    while count := os.preadv(descriptor, [buffer], offset):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def _has_bytes(name: str, folder: int, data: bytes) -> bool:
    return _check(name, folder, hashlib.sha256(data).hexdigest(), len(data)) is Fixity.INTACT


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = os.strerror(error.errno or 0)
        match error.errno:
            case errnos.ENOSPC | errnos.EDQUOT:
                raise Retryable("archive-full", text, errno=error.errno, shared=True) from error
            case errnos.EROFS:
                raise Retryable("archive-read-only", text, errno=error.errno, shared=True) from error
            case errnos.EACCES | errnos.EPERM:
                raise Retryable("archive-not-writable", text, errno=error.errno) from error
            case errnos.EIO:
                raise Retryable("archive-io", text, errno=error.errno) from error
            case _:
                raise Retryable("archive-error", text, errno=error.errno) from error
