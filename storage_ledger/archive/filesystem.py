"""The archive as folders and files, with every fsync that it takes to say "archived" and mean it."""

from __future__ import annotations

import errno as errnos
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from storage_ledger.archive.contract import Fixity, Placed
from storage_ledger.archive.uploads import Identity, Upload
from storage_ledger.core.layout import (
    DAMAGED_FOLDER,
    LEDGER_FOLDER,
    METADATA,
    archive_name,
    beside_name,
    damaged_name,
    putting_back_name,
    temporary_name,
)
from storage_ledger.errors import Permanent, Retryable
from storage_ledger.owners import hand_over
from storage_ledger.processors import LARGE_BYTES, any_of_them

FILE_MODE = 0o440
METADATA_MODE = 0o640
FOLDER_MODE = 0o750
LOW_BYTES = 1 << 20
_CHUNK = 1 << 20
METADATA_BYTES = 16 << 20
METADATA_TEMPORARY = ".metadata.json.tmp"
_RENEWED_TEMPORARY = ".renew.tmp"
_NO_LINKS = frozenset({errnos.EPERM, errnos.EOPNOTSUPP, errnos.ENOTSUP, errnos.ENOSYS})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FilesystemArchive:
    """See `contract.Archive`. `root` (ARCHIVE_PATH) must exist: an archive that is not mounted is not made up.

    After an fsync that failed the kernel may have dropped what it could not write, and the next one says that all is well
    (PostgreSQL's "fsyncgate"). So nothing is fsynced a second time: a copy is made anew, a name is put anew.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._recognised: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._new_folders: set[str] = set()  # of studies; made since the last good fsync of the root
        self._lost_folders: set[str] = set()  # an fsync of the root failed when they were new
        self._lost_metadata: set[str] = set()  # of studies; an fsync of their folder failed when it was new

    def recognise(self, device: int, inode: int) -> None:
        """From now on only this root folder is the archive: a volume that comes off leaves an empty folder of the same name."""
        self._recognised = (device, inode)

    def place(self, upload: Upload, study_id: str, *, original_name: str, owned: Mapping[str, str], position: int) -> Placed:
        """Copy under a hidden name, fsync, link to the final name (never over one), unlink the hidden one, fsync the folder.

        See `contract.Archive.place`. Where an fsync fails, the copy is thrown away, and so is the name that it was given.
        """
        with _translated(), self._study_folder(study_id, make=True) as folder:
            if not owned:
                self._require_own(study_id)
            temporary = temporary_name(position)
            _unlink(temporary, folder)
            try:
                with any_of_them(when=upload.size >= LARGE_BYTES):
                    sha256 = _copy(upload, temporary, folder)
                placed = self._link(folder, temporary, study_id, original_name, sha256, upload.size, owned, position)
            finally:
                _unlink(temporary, folder)
            try:
                os.fsync(folder)
            except OSError:
                if placed.placement == "copied":  # no entry knows it yet, and the upload is still there
                    _unlink(placed.name, folder)
                raise
            return placed

    def put_back(self, copy: Upload, study_id: str, *, name: str, sha256: str, position: int, time: int) -> Placed:
        """As `place`, but to a name that is known. The hidden name stays as the mark. See `contract.Archive.put_back`."""
        with _translated(), self._study_folder(study_id, make=True) as folder:
            mark = putting_back_name(name, time)
            _unlink(mark, folder)
            placed: Placed | None = None
            try:
                if _copy(copy, mark, folder) != sha256:
                    raise Retryable("upload-changing", "the copy no longer has the bytes for which it was chosen")  # noqa: TRY301 - undone like any other
                os.fsync(folder)  # the mark first: from here on it tells what was begun
                placed = self._link_owned(folder, mark, name, study_id, sha256, copy.size, position)
                os.fsync(folder)
            except (OSError, Retryable, Permanent):
                if placed is not None and placed.placement == "copied":  # its name may not be durable: the next attempt puts it anew
                    _unlink(name, folder)
                _unlink(mark, folder)
                raise
            return placed

    def is_marked(self, study_id: str, name: str, time: int) -> bool:
        """See `contract.Archive.is_marked`."""
        with _translated():
            try:
                with self._study_folder(study_id, make=False) as folder:
                    os.stat(putting_back_name(name, time), dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            return True

    def unmark(self, study_id: str, name: str, time: int) -> None:
        """See `contract.Archive.unmark`."""
        with _translated(), suppress(FileNotFoundError), self._study_folder(study_id, make=False) as folder:
            os.unlink(putting_back_name(name, time), dir_fd=folder)
            os.fsync(folder)

    def write_metadata(self, study_id: str, data: bytes, *, ours: Callable[[bytes], bool] = lambda _: True) -> None:
        """Write under a hidden name, fsync, rename, fsync the folder. See `contract.Archive.write_metadata`."""
        with _translated(), self._study_folder(study_id, make=True) as folder:
            set_aside = partial(self._set_aside, folder, METADATA, study_id, 0)
            lost = study_id in self._lost_metadata  # then it is ours, whatever it holds
            there = _check(METADATA, folder, hashlib.sha256(data).hexdigest(), len(data))
            if there is Fixity.CHANGED and not lost and not ours(_beginning(METADATA, folder)):
                set_aside()
            if lost or there is not Fixity.INTACT or not _synced(METADATA, folder):
                _replace_metadata(folder, data, set_aside)
            try:
                os.fsync(folder)
            except OSError:
                self._lost_metadata.add(study_id)
                _replace_metadata(folder, data, set_aside)
                self._lost_metadata.discard(study_id)
                raise
            self._lost_metadata.discard(study_id)

    def settle(self, studies: Collection[str]) -> set[str]:
        """See `contract.Archive.settle`."""
        with _translated():
            lost = self._discard_lost(studies)
            try:
                self._sync_root()
            except OSError:
                self._discard_lost(studies)
                raise
            return lost

    def check(self, study_id: str, name: str, sha256: str, size: int) -> Fixity:
        """See `contract.Archive.check`."""
        with _translated():
            try:
                with self._study_folder(study_id, make=False) as folder:
                    found = _check(name, folder, sha256, size)
                    if found is Fixity.INTACT and not _synced(name, folder):
                        found = self._renew(name, folder, sha256)
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
        if known:
            return self._link_owned(folder, temporary, known, study_id, sha256, size, position)
        for name in (plain, beside):
            if name in owned:
                continue
            try:
                if not _link_as(name, temporary, folder, sure=name == beside):
                    continue
            except FileExistsError:
                if _check(name, folder, sha256, size) is Fixity.INTACT and not _is_metadata(name, folder):
                    if not _synced(name, folder):
                        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)  # the same bytes, and these are durable
                    return Placed(name, size, sha256, "already-there")
                continue
            return Placed(name, size, sha256, "copied")
        raise Permanent("archive-name-taken", "both names that this file could have are taken by other bytes")

    def _link_owned(self, folder: int, temporary: str, name: str, study_id: str, sha256: str, size: int, position: int) -> Placed:
        """Under a name that the ledger gives to these bytes: what lies there and has others is damage, and set aside."""
        if not _is_metadata(name, folder):
            try:
                if _link_as(name, temporary, folder):
                    return Placed(name, size, sha256, "copied")
            except FileExistsError:
                if _check(name, folder, sha256, size) is Fixity.INTACT:
                    if not _synced(name, folder):
                        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)  # the same bytes, and these are durable
                    return Placed(name, size, sha256, "already-there")
                aside = self._set_aside(folder, name, study_id, position)
                if _link_as(name, temporary, folder):
                    return Placed(name, size, sha256, "copied", aside)
        raise Permanent("archive-name-taken", "the archive's file system takes the file's name for that of metadata.json")

    def _set_aside(self, folder: int, name: str, study_id: str, position: int) -> str:
        """Move what lies under `name` to .ledger/damaged/<study_id>/, durably; it is evidence. Returns its new path."""
        self._make_folder(LEDGER_FOLDER, DAMAGED_FOLDER, study_id)
        self._sync_root()
        parts = (LEDGER_FOLDER, DAMAGED_FOLDER, study_id)
        with self._folder(*parts) as damaged:
            taken = set(os.listdir(damaged))
            new = next(n for i in range(len(taken) + 1) if (n := damaged_name(position, name) + (f".{i}" if i else "")) not in taken)
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=damaged)
            try:
                os.fsync(damaged)
            except OSError:
                os.rename(new, name, src_dir_fd=damaged, dst_dir_fd=folder)  # the next attempt moves it anew
                raise
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

    def _require_own(self, study_id: str) -> None:
        """See that the folder of a study with no file yet is not another study's by a name that the file system takes for the same.

        SMB, APFS and NTFS do not tell upper from lower case, some of them forget a dot at the end. Raises `Permanent`.
        """
        with self._lock:
            if study_id in self._new_folders:  # nothing answered to its name
                return
        others = {study_id.swapcase(), study_id.rstrip("."), f"{study_id}."} - {study_id}
        if any(os.path.lexists(self.root / other) for other in others) and study_id not in os.listdir(self.root):
            text = "the archive's file system takes the study_id for that of another study, whose folder it is"
            raise Permanent("archive-folder-taken", text)

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
            hand_over(path, path.parent)
            if depth > 0:
                with self._folder(*parts[:depth]) as parent:
                    try:
                        os.fsync(parent)
                    except OSError:
                        os.rmdir(part, dir_fd=parent)
                        raise
            elif part != LEDGER_FOLDER:
                with self._lock:
                    self._new_folders.add(part)

    def _discard_lost(self, studies: Collection[str]) -> set[str]:
        """Remove those whose folders are not known to be durable: no entry knows of them, and the uploads are still there."""
        with self._lock:
            lost = self._lost_folders & set(studies)
        for study_id in lost:
            with suppress(FileNotFoundError), self._folder(study_id) as folder:
                for name in os.listdir(folder):
                    os.unlink(name, dir_fd=folder)
                os.rmdir(self.root / study_id)
            with self._lock:
                self._lost_folders.discard(study_id)
        return lost

    def _renew(self, name: str, folder: int, sha256: str) -> Fixity:
        """Put a durable copy in the place of a file whose fsync failed, in one step: what is there is what the ledger says."""
        with self._renewing:
            _unlink(_RENEWED_TEMPORARY, folder)
            try:
                source = os.open(name, _READ, dir_fd=folder)
                try:
                    upload = Upload(source, Identity.of(os.fstat(source)))
                    if _copy(upload, _RENEWED_TEMPORARY, folder) != sha256:
                        return Fixity.CHANGED
                finally:
                    os.close(source)
                os.rename(_RENEWED_TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                _unlink(_RENEWED_TEMPORARY, folder)
            return Fixity.INTACT

    def _sync_root(self) -> None:
        with self._lock:
            new = set(self._new_folders)
        try:
            with self._folder() as root:
                os.fsync(root)
        except OSError:
            with self._lock:
                self._lost_folders |= self._new_folders
                self._new_folders.clear()
            raise
        with self._lock:
            self._new_folders -= new

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


def _replace_metadata(folder: int, data: bytes, set_aside: Callable[[], str]) -> None:
    """A new file, durable, takes the name; the name is not, before the folder is fsynced. A folder of that name is set aside."""
    _unlink(METADATA_TEMPORARY, folder)
    try:
        descriptor = os.open(METADATA_TEMPORARY, _MAKE, 0o600, dir_fd=folder)
        try:
            _write_all(descriptor, data)
            os.fchmod(descriptor, METADATA_MODE)
            hand_over(descriptor, folder)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.rename(METADATA_TEMPORARY, METADATA, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            set_aside()
            os.rename(METADATA_TEMPORARY, METADATA, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        _unlink(METADATA_TEMPORARY, folder)


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
        hand_over(descriptor, folder)
        os.fsync(descriptor)
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _read(upload: Upload, buffer: memoryview, offset: int) -> int:
    upload.beat()
    try:
        return os.preadv(upload.descriptor, [buffer], offset)
    except OSError as error:
        raise Retryable("upload-io", os.strerror(error.errno or 0), errno=error.errno) from error


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _beginning(name: str, folder: int) -> bytes:
    """All of a file that is no larger than a metadata.json may be; nothing of what is no regular file."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return b""
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
        return file.read(METADATA_BYTES)


def _is_metadata(name: str, folder: int) -> bool:
    """Whether the file system takes `name` for that of metadata.json (METADATA.JSON, say), and so would have one replace the other."""
    try:
        metadata, own = (os.stat(each, dir_fd=folder, follow_symlinks=False) for each in (METADATA, name))  # mostly there is none yet
    except FileNotFoundError:
        return False
    # A client of a network file system may make up a number for each name that it sees.
    return os.path.samestat(own, metadata) or (own.st_size, own.st_mtime_ns) == (metadata.st_size, metadata.st_mtime_ns)


def _link_as(name: str, temporary: str, folder: int, *, sure: bool = False) -> bool:
    """Give a file that name too; not, and False, where the file system takes it for that of metadata.json.

    `sure`: a digest is in it, so it is not. Asking would mislead: a client of a network file system remembers a name for a second.
    """
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        text = "the archive's file system makes no hard links"
        raise Retryable("archive-no-links", text, errno=error.errno, shared=True) from error
    if sure or not _is_metadata(name, folder):
        return True
    _unlink(name, folder)
    return False


def _check(name: str, folder: int, sha256: str, size: int) -> Fixity:
    """Whether a regular file of these bytes lies there."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return Fixity.CHANGED
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return Fixity.MISSING
    try:
        if os.fstat(descriptor).st_size != size or digest_of(descriptor) != sha256:
            return Fixity.CHANGED
        return Fixity.INTACT
    finally:
        os.close(descriptor)


def _synced(name: str, folder: int) -> bool:
    """Fsync what lies there, since nobody knows who wrote it and whether he was killed. False: then it must be made anew."""
    descriptor = os.open(name, _READ, dir_fd=folder)
    try:
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def digest_of(descriptor: int) -> str:
    """SHA-256 in hex of all bytes of an open file; memory for one chunk."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    offset = 0
    with any_of_them(when=os.fstat(descriptor).st_size >= LARGE_BYTES):
        while count := os.preadv(descriptor, [buffer], offset):
            digest.update(buffer[:count])
            offset += count
    return digest.hexdigest()


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
