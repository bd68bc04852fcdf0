"""The checkpoints on the archive volume: `ARCHIVE_PATH/.ledger/checkpoints/`.

    <size>                  the note with the log's own signatures; never overwritten
    <size>.cosig/<witness>  signature lines of a witness, whose name is percent-encoded
    <size>.tsr              a time stamp of the note (RFC 3161)

Whoever writes the archive writes here, too, so nothing read from here is believed without its signature.
"""

from __future__ import annotations

import errno as errnos
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from storage_ledger.domain.checkpoint import Checkpoint
from storage_ledger.domain.paths import CHECKPOINTS_FOLDER, DAMAGED_FOLDER, LEDGER_FOLDER
from storage_ledger.domain.signed_note import MOST_BYTES, Signature, SignedNote
from storage_ledger.errors import ARCHIVE_MISSING, Retryable
from storage_ledger.ledger.mirror.last_segment import free_name, make_mirror_folder
from storage_ledger.ledger.mirror.reader import ABOUT, FAILURES, NOT_A_FILE
from storage_ledger.system import files
from storage_ledger.system.files import FOLDER, opened, opened_volume, translated

FILE_MODE = 0o640
FOLDER_MODE = 0o750
WITNESSES_READ = 64
SIGNATURES_SHOWN = 64
"""Go's reader of notes refuses more than 100, those of the log included."""
LATEST = "checkpoint.latest"
"""In LEDGER_PATH: a copy of the last checkpoint."""

_SIZE = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_BESIDE = re.compile(rf"({_SIZE.pattern})\.(?:cosig|tsr)", re.ASCII)
_TEMPORARY = ".checkpoint.tmp"


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A note as its file's name and time say, unchecked. `written_at`: seconds since 1970."""

    size: int
    written_at: float


class CheckpointFolder:
    """The checkpoints of one archive. Reading is thread-safe; writers hold `LEDGER_PATH/checkpoint.lock`.

    All methods raise `Retryable` if the volume fails or is not mounted.
    """

    def __init__(self, archive_root: Path) -> None:
        self._root = archive_root

    def sizes(self) -> list[int]:
        """Return the sizes of all checkpoints, in order; empty if there are none, or there is no mirror."""
        return sorted(int(name) for name in self._names() if _SIZE.fullmatch(name))

    def without_note(self) -> list[str]:
        """Return the names of time stamps and cosignatures whose checkpoint is missing."""
        names = self._names()
        return sorted(name for name in names if (found := _BESIDE.fullmatch(name)) and found[1] not in names)

    def unexpected(self) -> list[str]:
        """Return the names in the folder that are neither a checkpoint nor what belongs to one."""
        return sorted(name for name in self._names() - {_TEMPORARY} if not _SIZE.fullmatch(name) and not _BESIDE.fullmatch(name))

    def newest(self) -> KeptCheckpoint | None:
        """Return the checkpoint of the largest size; None if there is none."""
        sizes = self.sizes()
        try:
            with self._folder() as folder:
                return KeptCheckpoint(sizes[-1], os.stat(str(sizes[-1]), dir_fd=folder, follow_symlinks=False).st_mtime) if sizes else None
        except _Missing:
            return None

    def read(self, size: int) -> bytes | None:
        """Return the note as it was signed, whether or not it is valid; None if there is none."""
        return self._read(str(size))

    def latest(self) -> bytes | None:
        """Return the note of the largest size, with what witnesses have added; None if there is none."""
        return self.joined(sizes[-1]) if (sizes := self.sizes()) else None

    def joined(self, size: int) -> bytes | None:
        """Return the note of this size with the signatures of `cosignatures`, as many as a note may have; None if there is none."""
        note = self.read(size)
        if note is None:
            return None
        for each in self.cosignatures(size)[:SIGNATURES_SHOWN]:
            line = each.line.encode()
            if len(note) + len(line) <= MOST_BYTES:
                note += line
        return note

    def cosignatures(self, size: int) -> list[Signature]:
        """Return the signatures in `<size>.cosig/`, by name, without files that hold anything else."""
        return [each for _, signatures in self._witness_files(size) for each in signatures or []]

    def unreadable_cosignatures(self, size: int) -> list[str]:
        """Return the names of the files that `cosignatures` leaves out."""
        return [f"{size}.cosig/{name}" for name, signatures in self._witness_files(size) if signatures is None]

    def _witness_files(self, size: int) -> Iterator[tuple[str, list[Signature] | None]]:
        with suppress(_Missing), self._folder() as folder, opened(f"{size}.cosig", FOLDER, folder) as witnesses:
            for name in sorted(set(os.listdir(witnesses)) - {_TEMPORARY})[:WITNESSES_READ]:
                try:
                    text = _bytes_of(name, witnesses, MOST_BYTES).decode("utf-8")
                    yield name, [Signature.parse(line) for line in text.splitlines()]
                except FileNotFoundError:
                    continue
                except ValueError:
                    yield name, None

    def time_stamp(self, size: int) -> bytes | None:
        """Return `<size>.tsr`, or None."""
        return self._read(f"{size}.tsr")

    def publish(self, note: SignedNote) -> bytes:
        """Write a note under its size, durable on return, and return the bytes that are there now: another's, if it was first.

        A killed caller leaves a temporary file at most, which the next one removes.
        """
        name = str(Checkpoint.parse(note.text).size)
        with self._writable() as folder:
            files.unlink_if_exists(_TEMPORARY, folder)
            files.write_file(_TEMPORARY, note.data, folder, FILE_MODE)
            with suppress(FileExistsError):
                os.link(_TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            os.unlink(_TEMPORARY, dir_fd=folder)
            os.fsync(folder)
            return files.read_file(name, folder, MOST_BYTES)

    def set_aside(self, size: int, note: bytes) -> None:
        """Move a note, and what was added to it, to `.ledger/damaged/` as evidence. If it is not here, it is written there.

        Durable on return. May be called again.
        """
        with self._writable() as folder, opened("..", FOLDER, folder) as parent:
            make_mirror_folder(DAMAGED_FOLDER, parent)
            with opened(DAMAGED_FOLDER, FOLDER, parent) as damaged:
                if self.read(size) != note:
                    files.write_file(free_name(damaged, f"checkpoint-{size}"), note, damaged, FILE_MODE)
                else:
                    for name in (f"{size}.cosig", f"{size}.tsr", str(size)):  # the note last: a killed caller comes again for it
                        with suppress(FileNotFoundError):
                            os.rename(name, free_name(damaged, f"checkpoint-{name}"), src_dir_fd=folder, dst_dir_fd=damaged)
                os.fsync(damaged)
            os.fsync(folder)

    def add_cosignatures(self, size: int, witness: str, lines: str) -> None:
        """Keep a witness's signature lines for the checkpoint of this size, in place of older ones. Durable on return."""
        with self._writable() as folder:
            name = f"{size}.cosig"
            if files.make_folder(name, folder, FOLDER_MODE):
                os.fsync(folder)
            with opened(name, FOLDER, folder) as witnesses:
                files.replace_file(witness_file(witness), lines.encode(), witnesses, FILE_MODE, temporary=_TEMPORARY)

    def add_time_stamp(self, size: int, response: bytes) -> None:
        """Keep the time stamp of the checkpoint of this size. Durable on return."""
        with self._writable() as folder:
            files.replace_file(f"{size}.tsr", response, folder, FILE_MODE, temporary=_TEMPORARY)

    def _names(self) -> set[str]:
        try:
            with self._folder() as folder:
                return set(os.listdir(folder))
        except _Missing:
            return set()

    def _read(self, name: str) -> bytes | None:
        try:
            with self._folder() as folder:
                return _bytes_of(name, folder, MOST_BYTES + 1)
        except _Missing:
            return None

    @contextmanager
    def _writable(self) -> Iterator[int]:
        try:
            with self._folder(make=True) as folder:
                yield folder
        except _Missing as error:
            raise Retryable(ARCHIVE_MISSING, "ARCHIVE_PATH holds no mirror", shared=True) from error

    @contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[int]:
        """Open the folder. Raises `_Missing` if it, or what is opened in it, is not there; only the mirror makes the folder above."""
        with (
            opened_volume(self._root, setting="ARCHIVE_PATH", code=ARCHIVE_MISSING) as root,
            translated(FAILURES, ABOUT),
            _apart_from_missing(),
            opened(LEDGER_FOLDER, FOLDER, root) as parent,
        ):
            if make and files.make_folder(CHECKPOINTS_FOLDER, parent, FOLDER_MODE):
                os.fsync(parent)
            with opened(CHECKPOINTS_FOLDER, FOLDER, parent) as folder:
                yield folder


class _Missing(Exception):
    """A file or folder is missing, which is not a failure of the volume."""


def _bytes_of(name: str, folder: int, limit: int) -> bytes:
    """Return the first bytes of a file; none of a folder, link or socket, which must not stop what reads the others."""
    try:
        return files.read_file(name, folder, limit)
    except OSError as error:
        if error.errno in NOT_A_FILE - {errnos.ENOENT}:
            return b""
        raise


@contextmanager
def _apart_from_missing() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _Missing from error


def witness_file(name: str) -> str:
    """Return the file name for a witness's name: percent-encoded, without a leading dot."""
    return quote(name, safe="").replace(".", "%2E", 1 if name.startswith(".") else 0)[:200]
