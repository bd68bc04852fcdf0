"""Operations on one file by its name in an open folder: copy, compare, link, fsync."""

from __future__ import annotations

import errno as errnos
import hashlib
import itertools
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from storage_ledger.archive.contract import Fixity
from storage_ledger.archive.uploads import OpenUpload
from storage_ledger.domain.paths import METADATA
from storage_ledger.errors import Retryable
from storage_ledger.system import files
from storage_ledger.system.cpu_affinity import LARGE_BYTES, any_of_them
from storage_ledger.system.files import Failure

FILE_MODE = 0o440
METADATA_MODE = 0o640
METADATA_BYTES = 16 << 20
_CHUNK = 1 << 20
FAILURES: files.FailureTable = {
    **dict.fromkeys(files.NO_SPACE, Failure("archive-full", shared=True)),
    errnos.EROFS: Failure("archive-read-only", shared=True),
    errnos.EACCES: Failure("archive-not-writable"),
    errnos.EPERM: Failure("archive-not-writable"),
    errnos.EIO: Failure("archive-io"),
    None: Failure("archive-error"),
}


def fsync(descriptor: int) -> None:
    """Fsync a file or folder. Raises `OSError` if it fails, `Retryable` (`archive-no-fsync`) if the file system has no fsync."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in files.NO_FSYNC:
            raise
        text = "the archive's file system cannot fsync, so nothing on it is known to survive a power cut"
        raise Retryable("archive-no-fsync", text, errno=error.errno, shared=True) from error


def no_fsync(descriptor: int) -> None:
    """Leave it to a sync of the whole file system."""


def copy(upload: OpenUpload, name: str, folder: int, mode: int, *, fsync: Callable[[int], None] = fsync) -> str:
    """Copy the upload's bytes into a new file, and `fsync` it: then they are durable. Returns their SHA-256 in hex."""
    with files.opened(name, files.CREATE, folder) as descriptor:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_CHUNK, upload.size + 1)))
        done = 0
        while count := _read(upload, buffer, done):
            digest.update(buffer[:count])
            files.write_all(descriptor, buffer[:count])
            done += count
            if done > upload.size:
                raise Retryable("upload-changing", "the file grew while it was read")
        upload.check_unchanged()
        if done != upload.size:
            raise Retryable("upload-changing", "the file's length changed while it was read")
        files.set_mode_and_owner(descriptor, folder, mode)
        fsync(descriptor)
        return digest.hexdigest()


def sync_file(name: str, folder: int) -> bool:
    """Fsync a file whose writer may have been killed before it did. False: the fsync failed, and the file must be copied again."""
    with files.opened(name, files.READ, folder) as descriptor:
        try:
            fsync(descriptor)
        except OSError:
            return False
    return True


def check(name: str, folder: int, sha256: str, size: int) -> Fixity:
    """Return whether `name` is a regular file with these bytes."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return Fixity.CHANGED
        with files.opened(name, files.READ, folder) as descriptor:
            if os.fstat(descriptor).st_size != size or digest_of(descriptor) != sha256:
                return Fixity.CHANGED
            return Fixity.INTACT
    except FileNotFoundError:
        return Fixity.MISSING


def is_changed(name: str, folder: int, *, sha256: str, size: int) -> bool:
    """Return whether the name exists and is not a file with these bytes."""
    return check(name, folder, sha256, size) is Fixity.CHANGED


def digest_of(descriptor: int, size: int | None = None) -> str:
    """Return the SHA-256 in hex of an open file, or of its first `size` bytes, using the memory of one chunk."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    with any_of_them(when=os.fstat(descriptor).st_size >= LARGE_BYTES):
        while count := os.preadv(descriptor, [buffer[: None if size is None else min(_CHUNK, size - offset)]], offset):
            digest.update(buffer[:count])
            offset += count
    return digest.hexdigest()


def first_bytes(name: str, folder: int) -> bytes:
    """Return a file's bytes, at most as many as a metadata.json may have; none if it is not a regular file."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return b""
    return files.read_file(name, folder, METADATA_BYTES)


def link_as(name: str, temporary: str, folder: int, *, sure: bool = False) -> bool:
    """Give a file the name too, unless the file system takes that name for metadata.json's; then False.

    `sure`: the name contains a checksum, so it cannot be metadata.json. Asking could mislead: a network file system's client
    caches names for a second.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        raise _taken_away(error) from error
    except OSError as error:
        if error.errno not in files.NO_HARD_LINKS:
            raise
        text = "the archive's file system makes no hard links"
        raise Retryable("archive-no-links", text, errno=error.errno, shared=True) from error
    if sure or not is_metadata(name, folder):
        return True
    files.unlink_if_exists(name, folder)
    return False


def rename_over(temporary: str, name: str, folder: int) -> None:
    """Rename this attempt's durable file to `name` in one step, replacing any file there."""
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError as error:
        raise _taken_away(error) from error


def is_metadata(name: str, folder: int) -> bool:
    """Return whether the file system treats `name` (METADATA.JSON, say) as metadata.json, so that one would replace the other."""
    try:
        metadata, own = (os.stat(each, dir_fd=folder, follow_symlinks=False) for each in (METADATA, name))  # usually there is none yet
    except FileNotFoundError:
        return False
    # A network file system's client may invent an inode number for each name.
    return os.path.samestat(own, metadata) or (own.st_size, own.st_mtime_ns) == (metadata.st_size, metadata.st_mtime_ns)


def link_if_possible(name: str, spare: str, folder: int) -> bool:
    """Give what has `name` the name `spare` too. False if it cannot be linked: a folder, or another user's file."""
    try:
        os.link(name, spare, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in files.NO_HARD_LINKS:
            raise
        return False
    return True


def keep_evidence(name: str, folder: int, aside: int, wanted: str, *, move: bool) -> str:
    """Link or move what has `name` to a free name like `wanted` in the folder `aside`, and return that name. Not durable yet."""
    names = (f"{wanted}.{number}" if number else wanted for number in itertools.count())
    if move:
        kept = next(each for each in names if not files.exists(each, aside))
        os.rename(name, kept, src_dir_fd=folder, dst_dir_fd=aside)
        return kept
    while True:
        kept = next(names)
        with suppress(FileExistsError):
            os.link(name, kept, src_dir_fd=folder, dst_dir_fd=aside, follow_symlinks=False)
            return kept


def same_file(name: str, folder: int, other: str, others_folder: int) -> bool:
    """Return whether two names are links to the same file. False if one of them is gone."""
    try:
        return os.path.samestat(
            os.stat(name, dir_fd=folder, follow_symlinks=False), os.stat(other, dir_fd=others_folder, follow_symlinks=False)
        )
    except FileNotFoundError:
        return False


def is_named(name: str, folder: int, descriptor: int) -> bool:
    """Return whether the name is that of an open file or folder."""
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _taken_away(error: FileNotFoundError) -> Retryable:
    return Retryable("archive-error", "another process removed the temporary file of this attempt", errno=error.errno)


def _read(upload: OpenUpload, buffer: memoryview, offset: int) -> int:
    upload.beat()
    try:
        return os.preadv(upload.descriptor, [buffer], offset)
    except OSError as error:
        raise Retryable("upload-io", os.strerror(error.errno or 0), errno=error.errno) from error
