"""Walks over the top-level elements of a DICOM data set and reads only the requested values.

Files may be hostile: endless nesting, elements of 4 GB, deflate bombs. So nothing here recurses, a value is read only on
request, and both bytes and elements are limited. (pydicom reads up to the pixels, recurses, and returns nothing at a limit.)
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

MAX_READ_BYTES = 64 << 20
MAX_INFLATED_BYTES = 64 << 20
MAX_ELEMENTS = 500_000
"""Most elements read of one file, including those in sequences: under a second of one processor."""
WINDOW_BYTES = 16 << 10
MAX_UID_BYTES = 256

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = 0xFFFE
_TRANSFER_SYNTAX = 0x00020010
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
"""Deflated Explicit VR Little Endian (PS3.5 §A.5), and the two JPIP Referenced Deflate syntaxes (§A.7, §A.11)."""

_HEADER_BYTES = 12
"""The longest header of an element: of a VR with a length of 32 bits (PS3.5 §7.1.2)."""
_VRS = {vr.value.encode(): (vr.value, vr in EXPLICIT_VR_LENGTH_32) for vr in STANDARD_VR}


class Unreadable(Exception):
    """The data set cannot be read any further; everything before is valid. `code`: why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Element = tuple[int, str | None, int, int, int]
"""The tag, VR and length of one element, and the positions of its header and value. The VR is None if the file does not give it."""

END: Element = (-1, None, 0, 0, 0)


class ByteSource(ABC):
    """Bytes by position, held one window at a time; positions only increase."""

    def __init__(self) -> None:
        self.window = b""
        self.window_at = 0

    @abstractmethod
    def load(self, position: int, count: int) -> None:
        """Have `count` bytes from `position` in the window; fewer only at the end.

        Raises `Unreadable` (`header-too-large`, `header-unreadable`).
        """

    @abstractmethod
    def require(self, position: int) -> None:
        """Check that the file reaches `position`. Raises `Unreadable` (`header-cut`) otherwise."""

    def at(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes; fewer only at the end. Raises `Unreadable` like `load`."""
        begin = position - self.window_at
        if not 0 <= begin <= len(self.window) - count:
            self.load(position, count)
            begin = position - self.window_at
        return self.window[begin : begin + count]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that can be walked once. `has_prefix`: the file has the preamble and prefix of PS3.10 §7.1."""

    source: ByteSource
    position: int
    is_implicit: bool
    is_little_endian: bool
    transfer_syntax: str | None
    has_prefix: bool

    def elements(self, opened: int | None = None) -> Iterator[Element]:
        """Yield the top-level elements in file order. Raises `Unreadable`.

        After the sequence `opened` come its items and their elements, not those of sequences in them, and always a `SEQUENCE_END`.
        """
        return _walk(self.source, self.position, is_implicit=self.is_implicit, is_little_endian=self.is_little_endian, opened=opened)

    def value(self, value_at: int, length: int) -> bytes:
        """Return the value of the element that `elements` yielded last; its length must be defined. Raises `Unreadable`."""
        value = self.source.at(value_at, length)
        if len(value) < length:
            raise Unreadable("header-cut")
        return value


def data_set(file: BinaryIO) -> DataSet | None:
    """Return the data set of a file, even without preamble or file meta information; None if it is not DICOM.

    Byte order and VR encoding are detected from the first element, whatever the transfer syntax says. Raises `Unreadable`.
    """
    source: ByteSource = _File(file)
    has_prefix = source.at(0, 132)[128:] == b"DICM"
    if not has_prefix and source.at(0, 2) not in _FIRST_GROUPS:
        return None
    try:
        position, syntax = _meta(source, 132 if has_prefix else 0)
        if syntax in DEFLATED:
            source, position = _Inflated(file, position), 0
        position = _after_command_set(source, position)
        head = source.at(position, 6)
    except Unreadable:
        if has_prefix:
            raise
        return None
    group = int.from_bytes(head[:2], "little")
    big_endian = group != 0 and group & 0xFF == 0  # 0008 reads as 0800
    return DataSet(source, position, not is_vr(head[4:6]), not big_endian, syntax, has_prefix)


_FIRST_GROUPS = frozenset(struct.pack(order, group) for group in (0, 2, 4, 8) for order in ("<H", ">H"))


def _meta(source: ByteSource, position: int) -> tuple[int, str | None]:
    """Return where the data set begins, and the transfer syntax in group 2. The group length is not trusted."""
    syntax = None
    for tag, _, length, at, value_at in _walk(source, position, is_implicit=False, is_little_endian=True):
        if tag >> 16 != 2:
            return at, syntax
        if tag == _TRANSFER_SYNTAX and length <= MAX_UID_BYTES:
            syntax = source.at(value_at, length).decode("ascii", "replace").strip("\0 ") or None
        position = value_at + length
    return position, syntax


def _after_command_set(source: ByteSource, position: int) -> int:
    """Return where the data set begins: some files have elements of a DICOM message before it (PS3.7 §6.3)."""
    for tag, _, length, at, value_at in _walk(source, position, is_implicit=True, is_little_endian=True):
        if tag >> 16 != 0:
            return at
        position = value_at + length
    return position


def _walk(source: ByteSource, position: int, *, is_implicit: bool, is_little_endian: bool, opened: int | None = None) -> Iterator[Element]:
    read = reader(source, is_implicit=is_implicit, is_little_endian=is_little_endian)
    while (element := read(position, False)) is not END:
        tag, _, length, _, position = element
        if tag == 0 and length == 0:
            raise Unreadable("header-cut")  # preallocated space that was never filled
        yield element
        if tag >> 16 == _DELIMITERS:
            continue  # a surplus delimiter
        if tag == opened:
            position = yield from _in_sequence(position, length, read)
            yield SEQUENCE_END, None, 0, position, position
            source.require(position)
        elif length == UNDEFINED:
            position = _end_of_undefined(position, read)
        else:
            position += length
            source.require(position)
    source.require(position)


Read = Callable[[int, bool], Element]


def reader(source: ByteSource, *, is_implicit: bool, is_little_endian: bool) -> Read:
    """Return a function that reads the header of the element at a position."""
    implicit, explicit, length_of = _UNPACK[is_little_endian]
    vrs, left = _VRS.get, MAX_ELEMENTS

    def read(position: int, is_nested: bool) -> Element:
        """Read the header of one element. Returns `END` at the end, unless in a sequence. Raises `Unreadable`."""
        nonlocal left
        window, begin = source.window, position - source.window_at
        there = len(window) - begin
        if there < _HEADER_BYTES or begin < 0:
            source.load(position, _HEADER_BYTES)
            window, begin = source.window, position - source.window_at
            there = len(window) - begin
            if there <= 0 and not is_nested:
                return END
        left -= 1
        if left < 0:
            raise Unreadable("header-too-large")
        if there < 8:
            raise Unreadable("header-cut")
        if not is_implicit:
            group, number, vr, length = explicit(window, begin)
            if group != _DELIMITERS:  # in which these bytes are a length, and some lengths look like a VR
                known = vrs(vr)
                if known is not None and known[1]:
                    if there < _HEADER_BYTES:
                        raise Unreadable("header-cut")
                    return group << 16 | number, known[0], length_of(window, begin + 8)[0], position, position + 12
                if known is not None:
                    return group << 16 | number, known[0], length, position, position + 8
                # A damaged or unknown VR; in sequences, more likely the length of an implicit VR element, such as 66 or 90.
                if is_vr(vr) or (not is_nested and b"AA" <= vr <= b"ZZ"):
                    return group << 16 | number, vr.decode("latin-1"), length, position, position + 8
        # Items and delimiters have no VR, and some writers change to implicit VR within sequences.
        group, number, length = implicit(window, begin)
        return group << 16 | number, None, length, position, position + 8

    return read


_UNPACK = {
    is_little_endian: tuple(struct.Struct(order + fields).unpack_from for fields in ("HHL", "HH2sH", "L"))
    for is_little_endian, order in ((True, "<"), (False, ">"))
}


def _in_sequence(position: int, length: int, read: Read) -> Generator[Element, None, int]:
    """Yield the items of a sequence and their elements (PS3.5 §7.5), and an element that is in no item. Returns where the sequence ends.

    An element that is longer than its item is left out, so that no position is before one that was read.
    """
    end, end_of_item = _end(position, length), position
    while position < end:
        element = read(position, True)
        tag, _, size, _, value_at = element
        if tag == SEQUENCE_END:
            position = value_at
            break
        if tag in {ITEM, ITEM_END}:
            position = value_at
            end_of_item = min(end, _end(value_at, size)) if tag == ITEM else value_at
        elif position >= end_of_item:
            if length == UNDEFINED:
                raise Unreadable("header-unreadable")
            yield element
            break
        elif size == UNDEFINED:
            position = _end_of_undefined(value_at, read)
        elif value_at + size > end_of_item:
            position = end_of_item
            continue
        else:
            position = value_at + size
        yield element
    return position if length == UNDEFINED else max(position, end)


def _end(position: int, length: int) -> int:
    return sys.maxsize if length == UNDEFINED else position + length


def _end_of_undefined(position: int, read: Read) -> int:
    """Return the position after the delimiter of a value of undefined length (PS3.5 §7.5), counting open levels instead of recursing."""
    if read(position, True)[0] not in {ITEM, SEQUENCE_END}:
        raise Unreadable("header-unreadable")
    depth = 1
    while depth:
        tag, _, length, _, position = read(position, True)
        if tag in {ITEM_END, SEQUENCE_END}:
            depth -= 1
        elif length == UNDEFINED:
            depth += 1
        else:
            position += length
    return position


def is_delimiter(tag: int) -> bool:
    """Return whether the tag is of an item or delimiter (PS3.5 §7.5), which has no VR."""
    return tag >> 16 == _DELIMITERS


def is_vr(text: bytes) -> bool:
    """Return whether the bytes look like a VR, even one that the standard does not have."""
    return len(text) == 2 and text.isalpha() and text.isupper()  # bytes: ASCII letters alone


class _File(ByteSource):
    """A file."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._left = MAX_READ_BYTES

    def load(self, position: int, count: int) -> None:
        wanted = min(max(count, WINDOW_BYTES), max(0, self._size - position))
        self._left -= wanted
        if self._left < 0:
            raise Unreadable("header-too-large")
        self._file.seek(position)
        self.window, self.window_at = self._file.read(wanted), position

    def require(self, position: int) -> None:
        if position > self._size:
            raise Unreadable("header-cut")


class _Inflated(ByteSource):
    """The inflated content of a file from `position` on, inflated only as far as requested."""

    def __init__(self, file: BinaryIO, position: int) -> None:
        super().__init__()
        self._file = file
        self._file.seek(position)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def load(self, position: int, count: int) -> None:
        self._inflate(position, position + count)

    def require(self, position: int) -> None:
        end = self._inflate(position, position + 1)
        if end < position or (end == position and not self._inflater.eof):
            raise Unreadable("header-cut")

    def _inflate(self, start: int, end: int) -> int:
        """Inflate up to `end`, if there is that much, and forget what is before `start`. Returns how much is inflated now."""
        there = self.window_at + len(self.window)
        while there < end and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._file.read(WINDOW_BYTES)
            if not packed:
                break
            if there > MAX_INFLATED_BYTES:
                raise Unreadable("header-too-large")
            try:
                more = self._inflater.decompress(packed, WINDOW_BYTES)
            except zlib.error:
                raise Unreadable("header-unreadable") from None
            past = max(0, min(start, there) - self.window_at)
            self.window = self.window[past:] + more
            self.window_at += past
            there += len(more)
        return there
