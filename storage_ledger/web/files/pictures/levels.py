"""The elements of a DICOM file and where their values are, down into sequences. Only for worker processes, like `render`.

Nothing is read ahead of need: a level is the data set or one item of a sequence, and holds places in the file, no values.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.valuerep import STANDARD_VR

from storage_ledger.archive.dicom_elements import (
    DEFLATED,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    WINDOW_BYTES,
    ByteSource,
    DataSet,
    Read,
    Unreadable,
    data_set,
    is_vr,
    reader,
)
from storage_ledger.web.files.pictures import Unavailable
from storage_ledger.web.files.pictures.byte_order import swapped, unit

MAX_DEPTH = 32
MAX_INFLATED_BYTES = 256 << 20

PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
"""Pixel data, float and double float pixel data (PS3.3 §C.7.6.3, §C.7.6.24, §C.7.6.25)."""

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

_DELIMITERS = 0xFFFE
_VRS = frozenset(vr.value for vr in STANDARD_VR)
_ALLOCATED, _REPRESENTATION, _LUT_DESCRIPTOR = 0x00280100, 0x00280103, 0x00283002


class Span(NamedTuple):
    """Where an element is in the file. `vr` as in the file: None if it gives none. `end` of its value, with delimiters if `undefined`.

    `cut`: the file or item ends before the value does.
    """

    tag: int
    vr: str | None
    at: int
    value_at: int
    end: int
    undefined: bool
    cut: bool


@dataclass(frozen=True, slots=True)
class Level:
    """The elements of a data set or item by tag. `whole` is False if the file ends or breaks within. `end`: after it.

    `ends`: where values of undefined length end, by where they begin, of the whole file.
    """

    data: DataSet
    spans: dict[int, Span]
    end: int
    whole: bool
    parent: Level | None
    ends: dict[int, int | None]

    def value(self, span: Span) -> bytes:
        """Return the value as it is in the file."""
        return self.data.source.at(span.value_at, span.end - span.value_at)

    def little_endian(self, span: Span, vr: str) -> bytes:
        """Return the value in little endian."""
        value = self.value(span)
        return value if self.data.is_little_endian else swapped(value, self.unit(span, vr))

    def unit(self, span: Span, vr: str) -> int:
        """Return how many bytes of the value have to be swapped together for little endian; 1 if none."""
        return 1 if self.data.is_little_endian else unit(vr, self.number(_ALLOCATED) if span.tag in PIXELS else None)

    def number(self, tag: int) -> int | None:
        """Return the value of an element of VR US or SS, from this level or the next one above that has it."""
        level: Level | None = self
        while level is not None:
            span = level.spans.get(tag)
            if span is not None and span.end - span.value_at >= 2:
                return int.from_bytes(level.data.source.at(span.value_at, 2), "little" if level.data.is_little_endian else "big")
            level = level.parent
        return None

    def text(self, tag: int) -> str:
        """Return an ASCII value, or an empty text."""
        span = self.spans.get(tag)
        return "" if span is None else self.value(span).decode("ascii", "replace").strip("\0 ")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file's data set and file meta information. `in_file`: positions are those in the file, which is not deflated."""

    top: Level
    meta: Level
    syntax: str
    in_file: bool


def opened(file: BinaryIO, *, up_to_pixels: bool = False) -> OpenFile:
    """Read where the elements are. Raises `Unavailable`.

    `up_to_pixels`: nothing after the pixel data, whose end is that of the file if it is undefined.
    """
    try:
        data = data_set(file)
    except Unreadable as error:
        raise Unavailable("header-unreadable") from error
    if data is None:
        raise Unavailable("not-dicom")
    source = _Disk(file)
    meta = _level(DataSet(source, 132 if data.has_prefix else 0, False, True, None, data.has_prefix), source.size, group=2)
    in_file = data.transfer_syntax not in DEFLATED
    if not in_file:
        source = _Disk(io.BytesIO(_inflated(file, meta.end)))
    top = _level(replace(data, source=source), source.size, up_to_pixels=up_to_pixels)
    if not (top.spans and (data.has_prefix or 0x00080016 in top.spans)):
        raise Unavailable("header-unreadable" if data.has_prefix else "not-dicom")
    return OpenFile(top, meta, data.transfer_syntax or _syntax(data), in_file)


def items(level: Level, span: Span) -> Iterator[Level]:
    """Yield the items of a sequence. Raises `Unreadable` if it is broken or too deep."""
    data = level.data
    order = "<" if data.is_little_endian else ">"
    if _depth(level) >= MAX_DEPTH:
        raise Unreadable("header-unreadable")
    position = span.value_at
    while position + 8 <= span.end:
        group, number, length = struct.unpack(order + "HHL", data.source.at(position, 8))
        tag, position = group << 16 | number, position + 8
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise Unreadable("header-unreadable")
        limit = span.end if length == UNDEFINED else min(position + length, span.end)
        # Some writers, and values of VR UN with undefined length (PS3.5 §6.2.2), change to implicit VR.
        implicit = data.is_implicit or (limit - position >= 8 and not is_vr(data.source.at(position + 4, 2)))
        item = _level(replace(data, position=position, is_implicit=implicit), limit, parent=level)
        yield item
        position = item.end if length == UNDEFINED else limit


def vr_of(level: Level, span: Span) -> str:
    """Return the VR: the file's, or where it gives none, an unknown one or UN, that of the dictionary; UN if no dictionary has it.

    A sequence in a value of VR UN with a length stays UN, because its encoding differs (PS3.5 §6.2.2).
    """
    tag, vr = span.tag, span.vr
    if span.undefined:
        return vr if vr in {"OB", "OW"} else "OB" if tag in PIXELS else "SQ"
    if vr in _VRS and vr != "UN":
        return vr
    if vr == "UN" and span.end - span.value_at >= 0xFFFF:
        return "UN"
    found = _private(level, tag) if tag >> 16 & 1 else _dictionary(tag)
    if found is None or (vr == "UN" and found == "SQ"):
        return "UN"
    return found if " " not in found else _ambiguous(level, found)


class _Disk(ByteSource):
    """A file, read at any position and without the limit that the index has."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def load(self, position: int, count: int) -> None:
        self._file.seek(position)
        self.window, self.window_at = self._file.read(min(max(count, WINDOW_BYTES), max(0, self.size - position))), position

    def require(self, position: int) -> None:
        if position > self.size:
            raise Unreadable("header-cut")


def _level(data: DataSet, limit: int, *, parent: Level | None = None, group: int | None = None, up_to_pixels: bool = False) -> Level:
    """Read one level. It ends at `limit`, at its item delimiter, before a tag of another group, or before the pixel data."""
    read = reader(data.source, is_implicit=data.is_implicit, is_little_endian=data.is_little_endian)
    spans: dict[int, Span] = {}
    ends: dict[int, int | None] = {} if parent is None else parent.ends
    position, whole = data.position, True
    while position + 8 <= limit:
        try:
            tag, vr, length, at, value_at = read(position, False)
        except Unreadable:
            whole = False
            break
        if tag == ITEM_END or (group is not None and tag >> 16 != group):
            return Level(data, spans, value_at if tag == ITEM_END else at, whole, parent, ends)
        if tag == 0 and length == 0:  # space that was allocated and never filled
            whole = whole and not any(data.source.at(position, WINDOW_BYTES))
            break
        if tag >> 16 == _DELIMITERS:
            position = value_at
            continue
        cut, undefined, position = False, length == UNDEFINED, value_at + length
        if undefined and up_to_pixels and tag in PIXELS:
            position = limit
        elif undefined:
            try:
                position = _end_of_undefined(value_at, read, ends)
            except Unreadable:
                cut, position = True, limit
        elif position > limit:
            cut, position = True, limit
        spans[tag] = Span(tag, vr, at, value_at, position, undefined, cut)
        whole = whole and not cut
        if up_to_pixels and tag in PIXELS:
            break
    return Level(data, spans, limit, whole, parent, ends)


def _end_of_undefined(position: int, read: Read, ends: dict[int, int | None]) -> int:
    """Return the position after the delimiter of a value of undefined length (PS3.5 §7.5). Raises `Unreadable`.

    `ends` keeps those of all levels within, None where there is none, so that nothing is walked over again for the next level.
    """
    if position not in ends:
        if read(position, True)[0] not in {ITEM, SEQUENCE_END}:
            raise Unreadable("header-unreadable")
        begun, at = [position], position
        try:
            while begun:
                tag, _, length, _, at = read(at, True)
                if tag in {ITEM_END, SEQUENCE_END}:
                    ends[begun.pop()] = at
                elif length == UNDEFINED:
                    begun.append(at)
                else:
                    at += length
        except Unreadable:
            ends.update(dict.fromkeys(begun))
            raise
    end = ends[position]
    if end is None:
        raise Unreadable("header-unreadable")
    return end


def _depth(level: Level) -> int:
    depth = 0
    while level.parent is not None:
        level, depth = level.parent, depth + 1
    return depth


def _syntax(data: DataSet) -> str:
    if not data.is_little_endian:
        return BIG_ENDIAN
    return IMPLICIT if data.is_implicit else EXPLICIT


@lru_cache(16384)
def _dictionary(tag: int) -> str | None:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UL" if tag & 0xFFFF == 0 else None


def _private(level: Level, tag: int) -> str | None:
    block = tag >> 8 & 0xFF
    if block == 0:
        return "LO" if tag & 0xFF >= 0x10 else None
    creator = level.text(tag & 0xFFFF0000 | block)
    return _private_dictionary(tag, creator) if creator else None


@lru_cache(16384)
def _private_dictionary(tag: int, creator: str) -> str | None:
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return None


def _ambiguous(level: Level, found: str) -> str:
    """Choose between the VRs of the dictionary as a data set without VRs is meant (PS3.5 §A.1, PS3.6)."""
    if found == "US or SS":
        return "SS" if level.number(_REPRESENTATION) == 1 else "US"
    if found == "US or OW":
        return "US" if level.number(_LUT_DESCRIPTOR) == 1 else "OW"
    return "OW" if "OW" in found else "UN"


def _inflated(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise Unavailable("header-unreadable") from error
    if inflater.unconsumed_tail:
        raise Unavailable("picture-too-large")
    return inflated
