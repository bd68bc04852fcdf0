"""A file's data set as DICOM JSON (PS3.18 Annex F). Only for worker processes, like `render`.

Usual values take fast paths, because a viewer asks for thousands of headers at once; text beyond ASCII is pydicom's.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec
from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding
from pydicom.valuerep import TEXT_VR_DELIMS

from storage_ledger.archive.dicom_header import MAX_CHARACTER_SET_BYTES
from storage_ledger.web.files.pictures.levels import PIXELS, Level, Span, items, opened, vr_of

MAX_INLINE_BYTES = 512
"""Binary values up to this size are part of the document; longer ones are bulk data."""

MAX_NUMBERS_BYTES = 1 << 20
"""Longer values of numbers are bulk data too (PS3.18 §F.2.2): as JSON they take several times their size."""

BINARY = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN"})
_SINGLE_TEXT = frozenset({"LT", "ST", "UT", "UR"})
_OWN_REPERTOIRE = frozenset({"LO", "LT", "SH", "ST", "UC", "UT", "PN"})
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_CHARACTER_SET, _AVAILABLE_SYNTAX = 0x00080005, 0x00083002
_UTF8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
_SAFE_INTEGER = (1 << 53) - 1
_ENCODINGS = frozenset(python_encoding.values())
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_unusual = re.compile(rb"[\\\x1b]").search
"""Whether a text has several values or changes its character set."""
_decimal = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII).fullmatch


def document(file: BinaryIO) -> bytes:
    """Return the data set as JSON in UTF-8. Raises `Unavailable`."""
    return msgspec.json.encode(data_set(file))


def data_set(file: BinaryIO) -> dict[str, Any]:
    """Return the data set as Python objects of DICOM JSON, tags ascending. Raises `Unavailable`.

    File meta information and group lengths are not part of it.
    Long binary values and pixel data have a `BulkDataURI` that is a path for `bulk.bulk`: tags and item numbers, such as
    `54000100/1/54001010`. An element that cannot be read is left out.
    """
    found = opened(file)
    writer = _Writer()
    written = writer.level(found.top, [default_encoding], "")
    if writer.beyond_ascii:
        written["00080005"] = _UTF8
    written["00083002"] = {"vr": "UI", "Value": [found.syntax]}
    return dict(sorted(written.items()))


@lru_cache(1 << 16)
def _name(tag: int) -> str:
    return f"{tag:08X}"


@dataclass(slots=True)
class _Writer:
    """`beyond_ascii`: a text was."""

    beyond_ascii: bool = field(default=False)

    def level(self, level: Level, encodings: list[str], path: str) -> dict[str, Any]:
        written: dict[str, Any] = {}
        if (own := level.spans.get(_CHARACTER_SET)) is not None:
            encodings = _encodings(level, own)
        for tag in sorted(level.spans):
            if tag & 0xFFFF == 0:
                continue
            span = level.spans[tag]
            name = _name(tag)
            vr = vr_of(level, span)
            try:
                written[name] = self._members(level, span, vr, encodings, path + name)
            except (MemoryError, RecursionError):
                raise
            except Exception:  # noqa: BLE001, S112 - whatever a broken value makes a codec stumble over, it does not cost the others
                continue
        if own is not None:
            written["00080005"] = _UTF8
        return written

    def _members(self, level: Level, span: Span, vr: str, encodings: list[str], path: str) -> dict[str, Any]:
        length = span.end - span.value_at
        if length == 0:
            return {"vr": vr}
        if (convert := _USUAL_TEXT.get(vr)) is not None and (value := level.value(span)).isascii() and not _unusual(value):
            only = convert(value.decode("ascii"))
            return {"vr": vr} if only is None else {"vr": vr, "Value": [only]}
        if vr in BINARY:
            if length > MAX_INLINE_BYTES or span.tag in PIXELS:
                return {"vr": vr, "BulkDataURI": path}
            return {"vr": vr, "InlineBinary": base64.b64encode(level.little_endian(span, vr)).decode()}
        values: list[Any]
        if vr == "SQ":
            values = [self.level(item, encodings, f"{path}/{number}/") for number, item in enumerate(items(level, span), 1)]
        elif vr in NUMBERS:
            if length > MAX_NUMBERS_BYTES:
                return {"vr": vr, "BulkDataURI": path}
            values = _numbers(level.value(span), vr, is_little_endian=level.data.is_little_endian)
        elif vr == "AT":
            halves = struct.unpack(f"{'<' if level.data.is_little_endian else '>'}{length // 4 * 2}H", level.value(span)[: length // 4 * 4])
            values = [f"{group:04X}{number:04X}" for group, number in zip(halves[::2], halves[1::2], strict=True)]
        else:
            values = self._texts(level.value(span), vr, encodings)
        return {"vr": vr, "Value": values} if values and values != [None] else {"vr": vr}

    def _texts(self, value: bytes, vr: str, encodings: list[str]) -> list[Any]:
        if value.isascii() and b"\x1b" not in value:
            text = value.decode("ascii")
        else:
            text = _decoded(value, encodings if vr in _OWN_REPERTOIRE else [default_encoding])
            self.beyond_ascii = self.beyond_ascii or not text.isascii()
        if vr in _SINGLE_TEXT:
            return [text.rstrip("\0 ") or None]
        parts = text.rstrip("\0 ").split("\\") if "\\" in text else [text]
        convert = _USUAL_TEXT.get(vr, _stripped)
        return [convert(part) for part in parts]


def _stripped(text: str) -> str | None:
    return text.strip("\0 ") or None


def _person_name(text: str) -> dict[str, str] | None:
    groups = {name: part for name, group in zip(_GROUPS, text.split("="), strict=False) if (part := group.strip("\0 "))}
    return groups or None


def _number(text: str) -> int | float | str | None:
    """Return the number, or the text if it is none or would lose digits that count."""
    text = text.strip("\0 ")
    if not text:
        return None
    if text.isdecimal() and text.isascii() and len(text) <= 15:
        return int(text)
    if not _decimal(text) or not math.isfinite(number := float(text)):
        return text
    if number.is_integer() and "." not in text:
        return int(number) if abs(number) <= _SAFE_INTEGER else text
    return number


_USUAL_TEXT: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"), _stripped),
    "PN": _person_name,
    "IS": _number,
    "DS": _number,
}
"""How one value becomes JSON."""


def _numbers(value: bytes, vr: str, *, is_little_endian: bool) -> list[Any]:
    kind = NUMBERS[vr]
    size = struct.calcsize("<" + kind)
    count = len(value) // size
    numbers: list[Any] = list(struct.unpack(f"{'<' if is_little_endian else '>'}{count}{kind}", value[: count * size]))
    if kind in "fd":
        return [number if math.isfinite(number) else None for number in numbers]
    if kind in "Qq":
        return [number if abs(number) <= _SAFE_INTEGER else str(number) for number in numbers]
    return numbers


def _encodings(level: Level, span: Span) -> list[str]:
    """Return pydicom's encodings of a character set, or the default if it is not one of DICOM: some codecs take forever."""
    if span.end - span.value_at > MAX_CHARACTER_SET_BYTES:
        return [default_encoding]
    declared = level.value(span).decode("latin-1").rstrip("\0 ").split("\\")
    try:
        encodings = convert_encodings([each.strip("\0 ") for each in declared])
    except Exception:  # noqa: BLE001 - for an unknown one pydicom asks Python, whose search raises what it likes
        return [default_encoding]
    return encodings if _ENCODINGS.issuperset(encodings) else [default_encoding]


def _decoded(value: bytes, encodings: list[str]) -> str:
    """Decode text. Where nothing or something wrong is declared, it is UTF-8 if it can be, else Latin-1."""
    if b"\x1b" in value:
        text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    else:
        text = ""
        for encoding in (encodings[0] if encodings[0] != default_encoding else "utf-8", "utf-8", "latin-1"):
            try:
                text = value.decode(encoding)
                break
            except UnicodeError:
                continue
    return text.encode("utf-8", "replace").decode()
