"""Which names are safe, where a message's path points, and what a file is called in the archive.

Paths are judged as text here. What a file *is* (a link, a FIFO, missing) is seen by who opens it.
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
_WORKER = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_ATTEMPT = re.compile(r"\.(?:place-([0-9]+)|metadata(?:\.json)?|renew)(?:-[A-Za-z0-9]+-[0-9]+)?\.tmp", re.ASCII)
_MARK = re.compile(r"\.restore-[0-9]+-[0-9a-f]{16}\.tmp", re.ASCII)


def valid_study_id(text: object) -> bool:
    """1 to 128 characters of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit, no `..`."""
    return isinstance(text, str) and STUDY_ID.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, slots=True)
class UploadPaths:
    """The uploads folder as we name it, and as neighbours name it. All absolute."""

    own: str
    neighbours: tuple[str, ...] = ()

    def resolve(self, file_path: str) -> str:
        """The path relative to UPLOADS_PATH that a message's `file_path` means. Raises `ValueError` saying why not."""
        if not file_path:
            raise ValueError("is empty")
        if "\0" in file_path:
            raise ValueError("holds a NUL")
        try:
            file_path.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("is not text that can be written as UTF-8") from None
        if ".." in file_path.split("/"):
            raise ValueError("has a '..' component")
        parts = _parts(file_path)
        if file_path.startswith("/"):
            roots = [_parts(root) for root in (self.own, *self.neighbours)]
            below = [parts[len(root) :] for root in roots if parts[: len(root)] == root]
            if not below:
                raise ValueError("leads outside of UPLOADS_PATH")
            parts = below[0]
        if not parts:
            raise ValueError("is UPLOADS_PATH itself")
        return "/".join(parts)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def archive_name(original: str, sha256: str) -> str:
    """The name under which a file with these bytes is kept: its own, unless that would hide it or clash."""
    if not original.startswith(".") and original != METADATA and len(original.encode("utf-8")) <= MAX_NAME_BYTES:
        return original
    _, suffix = _split(original)
    return sha256[:12] + (suffix if len(suffix.encode("utf-8")) <= MAX_SUFFIX_BYTES else "")


def beside_name(name: str, sha256: str) -> str:
    """The name of a file whose plain name is taken by other bytes: `<stem>~<first 12 of sha256><suffix>`."""
    stem, suffix = _split(name)
    return f"{stem}~{sha256[:12]}{suffix}"


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix; a dot at the beginning or the end makes none. Our own: these names are fixed, pathlib's rule is not."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, "")


def temporary_name(what: str, worker: str, epoch: int) -> str:
    """The hidden name under which one attempt writes a file before it links or renames it. No two attempts share one.

    `what`: `place-<position>`, `metadata` or `renew`. `worker`: letters and digits, one word for each process.
    `epoch`: a number that the worker uses once.
    """
    if not _WORKER.fullmatch(worker):
        raise ValueError("a worker's name is 1 to 32 letters and digits")
    return f".{what}-{worker}-{epoch}.tmp"


def is_attempt(name: str, position: int | None = None) -> bool:
    """Whether a temporary name is an attempt's (of any attempt at `position`), which nobody needs once the attempt has ended.

    Earlier versions used fixed names (`.place-41.tmp`, `.metadata.json.tmp`, `.renew.tmp`): those count too.
    """
    found = _ATTEMPT.fullmatch(name)
    return found is not None and (position is None or found[1] == str(position))


def is_temporary(name: str) -> bool:
    """Whether a name in a study's folder belongs to work in progress: an attempt's file, or a mark of `replay --files`."""
    return is_attempt(name) or _MARK.fullmatch(name) is not None


def putting_back_name(name: str, time: int) -> str:
    """The hidden name beside `name` of a copy that replay puts back, until the ledger says that it is there.

    `time`: how often the ledger says so before. Once it is recorded, a leftover of this time is no other's.
    """
    return f".restore-{time}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.tmp"


def archive_path(study_id: str, name: str) -> str:
    """Relative to ARCHIVE_PATH."""
    return f"{study_id}/{name}"


def damaged_name(position: int, name: str) -> str:
    """The name in `.ledger/damaged/<study_id>/` of a file that was set aside while placing `position`."""
    return f"{position}-{name}"


def study_folder(archive_root: str, study_id: str) -> str:
    """Absolute, as it is told to the Status Service."""
    return f"{archive_root.rstrip('/')}/{study_id}"
