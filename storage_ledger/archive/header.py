"""What a DICOM file's header says, for the index: read within limits, and never fatal.

A file is hostile until shown otherwise: sequences nested without end, elements of 4 GB, deflated bombs.
"""

from __future__ import annotations

import io
import os
import zlib
from typing import Any, BinaryIO

import pydicom
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag

# Values are taken as they are: a wrong one is the sender's word, and pydicom's warnings would quote it in the logs.
config.settings.reading_validation_mode = config.IGNORE

# The QIDO-RS attributes of DICOM PS3.18 §10.6.3 at study, series and instance level, and what people look for besides.
ATTRIBUTES = (
    "SpecificCharacterSet",
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "StudyID", "StudyDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "Modality", "SeriesDescription", "SeriesNumber", "SeriesDate", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    "BodyPartExamined", "ProtocolName", "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName",
    "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation", "ImageType",
)  # fmt: skip

_TAGS = [Tag(keyword) for keyword in ATTRIBUTES]  # looked up once: that takes as long as reading a value
_KEYWORDS = dict(zip(map(int, _TAGS), ATTRIBUTES, strict=True))

MAX_READ_BYTES = 8 << 20
MAX_READS = 100_000
WINDOW_BYTES = 64 << 10
MAX_INFLATED_BYTES = 16 << 20
MAX_VALUE_CHARACTERS = 1024
MAX_VALUE_BYTES = 64 << 10
"""A longer value is left out, not decoded: as objects of pydicom's, names of one letter each take a hundred times their bytes."""


class _TooMuch(Exception):
    pass


class _Limited(io.RawIOBase):
    """A file that gives out only so much: skipping is free, reading is counted."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._position = 0
        self._window = b""
        self._window_at = 0
        self._bytes = MAX_READ_BYTES
        self._reads = MAX_READS

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position  # asking the file is a system call, and pydicom asks for each element

    def read(self, count: int | None = -1) -> bytes:
        self._reads -= 1
        left = max(0, self._size - self._position)
        everything = count is None or count < 0
        wanted = left if everything or count is None else min(count, left)
        if wanted > self._bytes or self._reads < 0:
            raise _TooMuch
        self._bytes -= wanted
        data = self._read(wanted)
        self._position += len(data)
        if everything:
            _refuse_bomb(data)
        return data

    def _read(self, wanted: int) -> bytes:
        begin = self._position - self._window_at
        if not 0 <= begin <= len(self._window) - wanted:
            self._file.seek(self._position)
            self._window, self._window_at, begin = self._file.read(max(wanted, WINDOW_BYTES)), self._position, 0
        return self._window[begin : begin + wanted]


def read_header(file: BinaryIO) -> tuple[dict[str, Any] | None, str | None]:
    """The attributes by keyword, and None; or None and a stable code for why not; or both, when some could not be read.

    Values are texts, whole numbers, or lists of these; person names with `^` and `=` as in the file. A missing or empty
    attribute is left out. `TransferSyntaxUID` comes from the file meta information (PS3.10 §7.1). Codes: `not-dicom`,
    `header-too-large`, `header-unreadable`, `some-attributes-unreadable`.
    """
    try:
        dataset = _read(file)
    except _TooMuch:
        return None, "header-too-large"
    except InvalidDicomError:
        return None, "not-dicom"
    except (RecursionError, MemoryError):
        return None, "header-unreadable"
    except Exception:  # noqa: BLE001 - pydicom raises whatever a broken file makes it stumble over; the code is the record
        return None, "header-unreadable"
    found: dict[str, Any] = {}
    partly = False
    for tag in list(dataset.keys()):
        keyword = _KEYWORDS.get(int(tag))
        if keyword is None:
            continue
        if _is_long(dataset, tag):
            partly = True
            continue
        try:
            value = _plain(dataset[tag].value)
        except Exception:  # noqa: BLE001 - one attribute that cannot be decoded does not cost the others
            partly = True
            continue
        if value not in (None, "", []):
            found[keyword] = value
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax:
        found["TransferSyntaxUID"] = _text(syntax)
    if not found:
        return None, "not-dicom"
    return found, "some-attributes-unreadable" if partly else None


def _read(file: BinaryIO) -> Dataset:
    try:
        return _dcmread(file, force=False)
    except InvalidDicomError:
        # Without the 128-byte preamble of PS3.10 §7.1: taken for DICOM only if it names what it is.
        dataset = _dcmread(file, force=True)
        names = [Tag("SOPClassUID"), Tag("SOPInstanceUID")]
        if not all(name in dataset and not _is_long(dataset, name) and dataset[name].value for name in names):
            raise
        return dataset


def _dcmread(file: BinaryIO, *, force: bool) -> FileDataset:
    file.seek(0)
    return pydicom.dcmread(_Limited(file), stop_before_pixels=True, specific_tags=list(_TAGS), force=force)


def _is_long(dataset: Dataset, tag: BaseTag) -> bool:
    raw: Any = dataset.get_item(tag)
    return isinstance(raw, RawDataElement) and raw.value is not None and len(raw.value) > MAX_VALUE_BYTES


def _refuse_bomb(data: bytes) -> None:
    """pydicom reads to the end of the file only to inflate it (PS3.5 §A.5), and does that without a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data, MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise _TooMuch


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return [_plain(item) for item in list(value)[:64]]
    if isinstance(value, int) and abs(value) < 1 << 53:
        return int(value)
    return _text(value)


def _text(value: Any) -> str:
    """Storable text: no lone surrogates, bounded length."""
    return str(value)[:MAX_VALUE_CHARACTERS].encode("utf-8", "replace").decode("utf-8").strip("\0 ")
