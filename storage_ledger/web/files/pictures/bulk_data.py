"""Values that the DICOM JSON of a file leaves out (PS3.18 §10.4.1.1.5). Only for worker processes, like `render`."""

from __future__ import annotations

import re
from itertools import islice
from typing import BinaryIO

from storage_ledger.archive.dicom_elements import Unreadable
from storage_ledger.web.files.pictures import Rendered, Unavailable
from storage_ledger.web.files.pictures.dicom_json import BINARY, NUMBERS
from storage_ledger.web.files.pictures.frames import IN_PLACE_BYTES, fragments
from storage_ledger.web.files.pictures.levels import Level, OpenFile, Span, items, opened, vr_of

_path = re.compile(r"[0-9A-F]{8}(?:/[1-9][0-9]{0,6}/[0-9A-F]{8}){0,32}").fullmatch


def bulk(file: BinaryIO, path: str) -> Rendered:
    """Return the value at a path of `dicom_json.document`, in little endian.

    A long one that can be read from the file as it is, is not copied: `about` has its place, `at`, and its `length`. Pixel data in
    compressed frames are not bulk data. Raises `Unavailable`.
    """
    if not _path(path):
        raise Unavailable("no-such-element")
    found = opened(file)
    level, span = _at(found, path)
    vr = vr_of(level, span)
    if vr not in BINARY and vr not in NUMBERS:
        raise Unavailable("no-such-element")
    if span.cut:
        raise Unavailable("pixels-unreadable")
    if span.undefined:
        if level is found.top:
            raise Unavailable("no-such-element")
        source = level.data.source
        return Rendered("bytes", b"".join(source.at(at, length) for at, length in list(fragments(source, span.value_at))[1:]))
    length = span.end - span.value_at
    if length > IN_PLACE_BYTES and found.in_file and level.unit(span, vr) == 1:
        return Rendered("bytes", b"", {"at": span.value_at, "length": length})
    return Rendered("bytes", level.little_endian(span, vr))


def _at(found: OpenFile, path: str) -> tuple[Level, Span]:
    parts = path.split("/")
    level = found.top
    for tag, number in zip(parts[:-1:2], parts[1::2], strict=True):
        sequence = level.spans.get(int(tag, 16))
        if sequence is None or vr_of(level, sequence) != "SQ":
            raise Unavailable("no-such-element")
        try:
            item = next(islice(items(level, sequence), int(number) - 1, None), None)
        except Unreadable as error:
            raise Unavailable("header-unreadable") from error
        if item is None:
            raise Unavailable("no-such-element")
        level = item
    span = level.spans.get(int(parts[-1], 16))
    if span is None:
        raise Unavailable("no-such-element")
    return level, span
