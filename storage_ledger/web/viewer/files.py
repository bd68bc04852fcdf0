"""The files that scripts/viewer has prepared: opened by name, following no link, each with its media type."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from storage_ledger.errors import BadSettings
from storage_ledger.system import files

INDEX = "index.html"
MARKER = "storage-ledger-viewer.json"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webapp": "application/manifest+json",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
    "": "text/plain; charset=utf-8",  # LICENSE
}
"""Fixed, because Python's own table depends on the machine."""

_HASHED = re.compile(r"(?:.*\.)?[0-9a-f]{16}\.[a-z0-9]+")
"""A name with the checksum of its content."""


@dataclass(frozen=True, slots=True)
class ViewerFile:
    """An open file, and what its response says of it."""

    opened: BinaryIO
    size: int
    media_type: str
    gzipped: bool


def checked_folder(folder: Path, prefix: str = "") -> Path:
    """Return the folder if it has a prepared viewer, which works below `prefix`. Raises `BadSettings`."""
    found = open_file(folder, INDEX, gzip=False)
    if found is None:
        raise BadSettings(
            "bad-settings", f"BROWSE_VIEWER_PATH: {folder} has no {INDEX} that can be read: run scripts/viewer for this folder"
        )
    found.opened.close()
    if prefix and _form(folder) == 1:
        raise BadSettings(
            "bad-settings", f"BROWSE_VIEWER_PATH: what {folder} has works only at the root of a host: run scripts/viewer for it"
        )
    return folder


def _form(folder: Path) -> object:
    """Return the form in which scripts/viewer has prepared the folder; None if it does not say."""
    marker = open_file(folder, MARKER, gzip=False)
    if marker is None:
        return None
    with marker.opened as file:
        try:
            said = json.loads(file.read(1 << 16))
        except ValueError:
            return None
    return said.get("form") if isinstance(said, dict) else None


def open_file(folder: Path, name: str, *, gzip: bool) -> ViewerFile | None:
    """Open a file of the folder, with `gzip` its compressed copy if it has one. None if there is no such regular file.

    May block: call it in a thread.
    """
    parts = name.split("/")
    kind = TYPES.get(PurePosixPath(parts[-1]).suffix)
    if kind is None or any(not part or part.startswith(".") or "\0" in part for part in parts):
        return None
    try:
        with files.opened(folder, files.VOLUME) as root, files.opened_below(root, *parts[:-1]) as below:
            found = _regular(f"{parts[-1]}.gz", below) if gzip else None
            gzipped = found is not None
            found = found or _regular(parts[-1], below)
    except (OSError, UnicodeEncodeError):
        return None
    return None if found is None else ViewerFile(found, os.fstat(found.fileno()).st_size, kind, gzipped)


def is_hashed(name: str) -> bool:
    """Return whether a file of this name never changes."""
    return _HASHED.fullmatch(name.rpartition("/")[2]) is not None


def _regular(name: str, folder: int) -> BinaryIO | None:
    """Open a regular file; None if the name is of anything else."""
    try:
        descriptor = os.open(name, files.READ, dir_fd=folder)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        files.close_after_reading(descriptor)
        return None
    return os.fdopen(descriptor, "rb", buffering=0)
