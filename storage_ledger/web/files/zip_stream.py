"""A study as a ZIP file, created while it is sent: uncompressed, of any size, with one piece of one file in memory.

If files are missing or damaged, the ZIP file ends with a text file that lists them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
import unicodedata
import zipfile
from collections.abc import Callable, Generator, Sequence
from typing import IO, Any, cast

from storage_ledger.web.files.lookup import IndexedFile
from storage_ledger.web.files.pictures import WHY, Unavailable

PIECE = 64 << 10
"""The server keeps one or two of them for each reader, however slow."""

DIGESTS = "SHA256SUMS.txt"
PROBLEMS = "MISSING-OR-DAMAGED.txt"
MAX_NAME_BYTES = 120

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")


def zipped(
    kept: Sequence[tuple[str, IndexedFile]], opened: Callable[[IndexedFile], int], extra: Sequence[tuple[str, bytes]] = ()
) -> Generator[bytes]:
    """Yield a ZIP file of these files, each under its path (see `paths`), and of some short texts.

    `opened` returns a descriptor or raises `Unavailable`. SHA256SUMS.txt has the checksums from the ledger, for `sha256sum -c`.
    MISSING-OR-DAMAGED.txt lists files that could not be read or whose checksum does not match.
    """
    out = _Out()
    problems: list[str] = []
    sums: list[str] = []
    with zipfile.ZipFile(cast("IO[bytes]", out), "w", zipfile.ZIP_STORED, allowZip64=True, strict_timestamps=False) as archive:
        for path, data in extra:
            archive.writestr(_info(path), data)
        for path, one in kept:
            sums.append(f"{one.sha256}  {path}\n")
            try:
                descriptor = opened(one)
            except Unavailable as error:
                problems.append(f"{path}: not in this ZIP. {WHY[error.code]}\n")
                continue
            digest = hashlib.sha256()
            try:
                with os.fdopen(descriptor, "rb", buffering=0) as file, archive.open(_info(path), "w", force_zip64=True) as member:
                    while piece := file.read(PIECE):
                        digest.update(piece)
                        member.write(piece)
                        yield out.taken()
            except OSError:
                problems.append(f"{path}: cut short in this ZIP. {WHY['file-unreadable']}\n")
                continue
            if digest.hexdigest() != one.sha256:
                problems.append(f"{path}: in this ZIP, but damaged. {WHY['file-changed']}\n")
        archive.writestr(_info(DIGESTS), "".join(sums).encode())
        if problems:
            archive.writestr(_info(PROBLEMS), "".join(problems).encode())
    yield out.taken()


def paths(kept: Sequence[IndexedFile], *, series: bool) -> list[tuple[str, IndexedFile]]:
    """Return a path for each file, valid on every system and unique even if case is ignored. `series`: one folder per series."""
    taken = {DIGESTS.casefold(), PROBLEMS.casefold(), "metadata.json"}
    found = []
    for one in kept:
        folder = (
            f"series-{one.series_number if one.series_number is not None else 'x'}-{safe_name(one.modality or 'OT')}/" if series else ""
        )
        stem, suffix = os.path.splitext(safe_name(one.name))
        path, number = f"{folder}{stem}{suffix}", 1
        while _folded(path) in taken:
            number += 1
            path = f"{folder}{stem}~{number}{suffix}"
        taken.add(_folded(path))
        found.append((path, one))
    return found


def safe_name(text: str) -> str:
    """Return a file name without special meaning on any system or in a terminal."""
    name = unicodedata.normalize("NFC", _FORBIDDEN.sub("_", text.encode("utf-8", "replace").decode())).strip(" .")
    stem, suffix = os.path.splitext(name)
    while len((stem + suffix).encode()) > MAX_NAME_BYTES:
        stem, suffix = (stem[:-1], suffix) if len(stem) > 1 else (stem, suffix[:-1])
    name = (stem + suffix).strip(" .") or "file"
    return f"_{name}" if _RESERVED.fullmatch(name) or name.startswith("-") else name


def _folded(path: str) -> str:
    return unicodedata.normalize("NFKC", path).casefold()


def _info(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, time.gmtime()[:6])
    info.external_attr = 0o100640 << 16
    return info


class _Out(io.RawIOBase):
    """Buffers what the ZIP file writes. It cannot seek, so sizes follow the data."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data
