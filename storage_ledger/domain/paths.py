"""Rules for paths: which names are safe, where a message's path points, how files are named in the archive.

Paths are only checked as text here. The code that opens a file checks what it is (a link, a FIFO, missing).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

STUDY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
METADATA = "metadata.json"
MAX_NAME_BYTES = 200
MAX_SUFFIX_BYTES = 16
LEDGER_FOLDER = ".ledger"
DAMAGED_FOLDER = "damaged"
CHECKPOINTS_FOLDER = "checkpoints"
_WORKER = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_ATTEMPT = re.compile(r"\.(?:place-([0-9]+)|metadata(?:\.json)?|renew)(?:-[A-Za-z0-9]+-[0-9]+)?\.tmp", re.ASCII)
_MARK = re.compile(r"\.restore-[0-9]+-[0-9a-f]{16}\.tmp", re.ASCII)


def valid_study_id(text: object) -> bool:
    """Return whether it is 1 to 128 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or digit, without `..`."""
    return isinstance(text, str) and STUDY_ID.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, slots=True)
class UploadPaths:
    """The path of the uploads folder here, and in the services that publish messages. All absolute."""

    own: str
    neighbours: tuple[str, ...] = ()

    def resolve(self, file_path: str) -> str:
        """Return a message's `file_path` relative to UPLOADS_PATH. Raises `ValueError`; its text continues `file_path …`."""
        if not file_path:
            raise ValueError("is empty")
        if "\0" in file_path:
            raise ValueError("contains a NUL character")
        try:
            file_path.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("cannot be encoded as UTF-8") from None
        if ".." in file_path.split("/"):
            raise ValueError("has a '..' component")
        parts = _parts(file_path)
        if file_path.startswith("/"):
            roots = [_parts(root) for root in (self.own, *self.neighbours)]
            below = [parts[len(root) :] for root in roots if parts[: len(root)] == root]
            if not below:
                raise ValueError("is outside UPLOADS_PATH")
            parts = below[0]
        if not parts:
            raise ValueError("is UPLOADS_PATH itself")
        return "/".join(parts)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def archive_name(original: str, sha256: str) -> str:
    """Return a file's name in the archive: its own, unless that is hidden, reserved or too long."""
    if not original.startswith(".") and original != METADATA and len(original.encode("utf-8")) <= MAX_NAME_BYTES:
        return original
    _, suffix = _split(original)
    return sha256[:12] + (suffix if len(suffix.encode("utf-8")) <= MAX_SUFFIX_BYTES else "")


def beside_name(name: str, sha256: str) -> str:
    """Return the name for a file whose own name is taken by a file with different bytes: `<stem>~<first 12 of sha256><suffix>`."""
    stem, suffix = _split(name)
    return f"{stem}~{sha256[:12]}{suffix}"


def _split(name: str) -> tuple[str, str]:
    """Split into stem and suffix; a dot at the start or the end does not count. Not pathlib, whose rule may change: these names may not."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


def temporary_name(what: str, worker: str, epoch: int) -> str:
    """Return the hidden name under which an attempt writes a file before it links or renames it. No two attempts share a name.

    `what`: `place-<position>`, `metadata` or `renew`. `worker`: letters and digits, unique to the process.
    `epoch`: a number that the worker uses only once.
    """
    if not _WORKER.fullmatch(worker):
        raise ValueError("a worker's name must be 1 to 32 letters and digits")
    return f".{what}-{worker}-{epoch}.tmp"


def is_attempt(name: str, position: int | None = None) -> bool:
    """Return whether this is an attempt's temporary file (at `position`, if given), which is useless once the attempt has ended.

    The fixed names of earlier versions (`.place-41.tmp`, `.metadata.json.tmp`, `.renew.tmp`) count too.
    """
    found = _ATTEMPT.fullmatch(name)
    return found is not None and (position is None or found[1] == str(position))


def is_temporary(name: str) -> bool:
    """Return whether a name in a study's folder belongs to work in progress: an attempt's file, or a marker of `replay --files`."""
    return is_attempt(name) or _MARK.fullmatch(name) is not None


def putting_back_name(name: str, time: int) -> str:
    """Return the hidden name, beside `name`, of a copy that replay is restoring, until the ledger records it.

    `time`: number of earlier `restored` entries of this file, so that a stale marker is not mistaken for the current one.
    """
    return f".restore-{time}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.tmp"


def archive_path(study_id: str, name: str) -> str:
    """Return a file's path relative to ARCHIVE_PATH."""
    return f"{study_id}/{name}"


def damaged_name(position: int, name: str) -> str:
    """Return the name, in `.ledger/damaged/<study_id>/`, of a file set aside while placing `position`."""
    return f"{position}-{name}"


def study_folder(archive_root: str, study_id: str) -> str:
    """Return the absolute path of a study's folder, as sent to the Status Service."""
    return f"{archive_root.rstrip('/')}/{study_id}"
