"""Reads a DICOM file's header for the index, within limits; never fatal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from pydicom import config
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR
from pydicom.values import convert_value

from storage_ledger.archive.dicom_elements import ITEM, SEQUENCE_END, UNDEFINED, DataSet, Element, Unreadable, data_set, is_delimiter

# Values are kept as they are, even invalid ones. pydicom's warnings would quote them in the logs.
config.settings.reading_validation_mode = config.IGNORE

# The QIDO-RS attributes of DICOM PS3.18 §10.6.3 at study, series and instance level, and other attributes that people search for.
ATTRIBUTES = (
    "SpecificCharacterSet",
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "StudyID", "StudyDescription",
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "Modality", "SeriesDescription", "SeriesNumber", "SeriesDate", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    "BodyPartExamined", "ProtocolName", "Manufacturer", "ManufacturerModelName", "StationName", "InstitutionName",
    "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation", "ImageType",
)  # fmt: skip

REQUESTS = "RequestAttributesSequence"
OF_A_REQUEST = ("ScheduledProcedureStepID", "RequestedProcedureID")
"""What of this sequence's items is read. An item may have a character set of its own."""

_KEYWORDS = {int(Tag(keyword)): keyword for keyword in ATTRIBUTES}
_REQUESTS = int(Tag(REQUESTS))
_KEYWORDS_IN_REQUESTS = {int(Tag(keyword)): keyword for keyword in ("SpecificCharacterSet", *OF_A_REQUEST)}
_LAST = max(*_KEYWORDS, _REQUESTS)
_ALL_KEYWORDS = _KEYWORDS | _KEYWORDS_IN_REQUESTS
_DICTIONARY_VRS = {tag: str(dictionary_VR(tag)) for tag in _ALL_KEYWORDS}
_CHARACTER_SET = int(Tag("SpecificCharacterSet"))
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ENOUGH = frozenset(int(Tag(keyword)) for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
"""Once these are read, no sequence beyond `_LAST` is walked: only a file out of order could have more after it."""

MAX_VALUE_CHARACTERS = 1024
MAX_VALUE_BYTES = 8 << 10
"""A longer value is left out, not decoded: as pydicom objects, one-letter names take a hundred times their size, and some codecs take
time that grows with the square of the length."""

MAX_CHARACTER_SET_BYTES = 256
"""The same for the character set, whose encodings pydicom tries for each part of each name: all of DICOM's together are shorter."""

MAX_REQUESTS = 64
MAX_REQUEST_BYTES = 256
"""Of one value of an item: an ID has at most 16 characters."""


def read_header(file: BinaryIO) -> tuple[dict[str, Any] | None, str | None]:
    """Return the attributes by keyword and None, or None and a stable error code, or both if only some could be read.

    Values are texts, whole numbers, or lists of these; person names with `^` and `=` as in the file. `REQUESTS` is a list of such
    dictionaries, whose JSON has at most `MAX_VALUE_CHARACTERS`. A missing or empty attribute is left out. `TransferSyntaxUID`
    comes from the file meta information (PS3.10 §7.1). Nothing after the last of the attributes is read: contours,
    functional groups of each frame, pixels. Codes: `not-dicom`, and, with
    what was read before, `header-cut`, `header-too-large`, `header-unreadable`, `some-attributes-unreadable`.
    """
    try:
        found = data_set(file)
    except Unreadable as error:
        return None, error.code
    if found is None:
        return None, "not-dicom"
    raw, requests, left_out, code = _wanted(found)
    header, undecoded = _decoded(raw, is_little_endian=found.is_little_endian)
    items, some_undecoded = _decoded_requests(requests, raw.get(_CHARACTER_SET), is_little_endian=found.is_little_endian)
    if items:
        header[REQUESTS] = items
    # Without the prefix of PS3.10 §7.1, it counts as DICOM only if it has a SOP Class UID.
    if not (found.has_prefix or {"SOPClassUID", "SOPInstanceUID"} <= header.keys()):
        return None, "not-dicom"
    if code is not None and not header:
        return None, code
    if found.transfer_syntax:
        header["TransferSyntaxUID"] = _text(found.transfer_syntax)
    if not header:
        return None, "not-dicom"
    return header, code or ("some-attributes-unreadable" if left_out or undecoded or some_undecoded else None)


_Raw = dict[int, tuple[str, bytes]]
"""By tag: the VR, and the value as in the file."""


def _wanted(found: DataSet) -> tuple[_Raw, list[_Raw], bool, str | None]:
    """Return the elements of `ATTRIBUTES`, those of each request, whether any was left out, and a code if the header ended too early."""
    raw: _Raw = {}
    requests: list[_Raw] = []
    left_out = False
    tag: int | None = None
    elements = found.elements(opened=_REQUESTS)
    try:
        for tag, vr, length, _, value_at in elements:
            if tag > _LAST:
                if vr is None and not (found.is_implicit or is_delimiter(tag)):
                    return raw, requests, left_out, "header-unreadable"
                if tag in _PIXELS or (length == UNDEFINED and raw.keys() >= _ENOUGH):
                    break
            elif tag in _KEYWORDS:
                if length > (MAX_CHARACTER_SET_BYTES if tag == _CHARACTER_SET else MAX_VALUE_BYTES):
                    left_out = True
                    continue
                value = found.value(value_at, length)
                raw[tag] = _known_vr(tag, vr), value
            elif tag == _REQUESTS:
                requests, some_left_out = _in_requests(found, elements)
                left_out = left_out or some_left_out
    except Unreadable as error:
        if tag is None or tag <= _LAST or not raw.keys() >= _ENOUGH:  # a later element may be anything
            return raw, requests, left_out, error.code
    return raw, requests, left_out, None if tag is not None else "header-cut"


def _in_requests(found: DataSet, elements: Iterator[Element]) -> tuple[list[_Raw], bool]:
    """Return the wanted elements of each item of the sequence, up to whose end `elements` is read, and whether any was left out."""
    requests: list[_Raw] = []
    left_out = False
    for tag, vr, length, _, value_at in elements:
        if tag == SEQUENCE_END:
            break
        if tag == ITEM:
            if len(requests) <= MAX_REQUESTS:
                requests.append({})
        elif not (requests or is_delimiter(tag)):
            left_out = True  # no sequence at all
        elif tag in _KEYWORDS_IN_REQUESTS:
            if len(requests) > MAX_REQUESTS or length > MAX_REQUEST_BYTES:
                left_out = True
            else:
                requests[-1][tag] = _known_vr(tag, vr), found.value(value_at, length)
    return requests[:MAX_REQUESTS], left_out


def _known_vr(tag: int, vr: str | None) -> str:
    """Return the VR of the file, or the dictionary's if the file gives none or UN, which only values of 64 kB need (PS3.5 §6.2.2)."""
    return _DICTIONARY_VRS[tag] if vr is None or vr == "UN" else vr


def _decoded(raw: _Raw, *, is_little_endian: bool) -> tuple[dict[str, Any], bool]:
    encodings = _encodings(raw.get(_CHARACTER_SET), is_little_endian=is_little_endian)
    undecoded = encodings is None  # texts may have been read in the wrong character set
    encodings = encodings or [default_encoding]
    ascii_vrs = _ASCII_VRS if encodings[0] in _ASCII_ENCODINGS else _DEFAULT_REPERTOIRE_VRS
    header: dict[str, Any] = {}
    for tag, (vr, data) in raw.items():
        value: Any
        if vr in ascii_vrs and len(data) <= MAX_VALUE_CHARACTERS and _ascii(data):
            value = data.decode("ascii").strip("\0 ")
        elif vr == "US" and len(data) == 2:
            value = int.from_bytes(data, "little" if is_little_endian else "big")
        else:
            try:
                found = _converted(tag, vr, data, encodings if tag != _CHARACTER_SET else None, is_little_endian=is_little_endian)
                undecoded = undecoded or (isinstance(found, bytes) and bool(found.strip(b"\0 ")))  # of a VR that is not text
                value = _plain(found)
            except Exception:  # noqa: BLE001 - pydicom raises whatever a broken value makes it stumble over; it does not cost the others
                undecoded = True
                continue
            if vr in CUSTOMIZABLE_CHARSET_VR and not _is_text(value):
                undecoded = True  # the character set's codec failed, and pydicom returned the text's bytes as numbers
                continue
        if value not in (None, "", []):
            header[_ALL_KEYWORDS[tag]] = value
    return header, undecoded


def _decoded_requests(
    requests: list[_Raw], character_set: tuple[str, bytes] | None, *, is_little_endian: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Return the items that have any of the attributes, as many as fit into a value, and whether any was lost."""
    inherited: _Raw = {} if character_set is None else {_CHARACTER_SET: character_set}
    found: list[dict[str, Any]] = []
    lost = False
    for each in requests:
        item, undecoded = _decoded(inherited | each, is_little_endian=is_little_endian)
        item.pop("SpecificCharacterSet", None)
        lost = lost or undecoded
        if item:
            found.append(item)
    while len(json.dumps(found, ensure_ascii=False)) > MAX_VALUE_CHARACTERS:
        found.pop()
        lost = True
    return found, lost


_DEFAULT_REPERTOIRE_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI"})
_ASCII_VRS = _DEFAULT_REPERTOIRE_VRS | {"LO", "PN", "SH"}
_ASCII_ENCODINGS = frozenset({default_encoding, "latin_1", "UTF8"})
_ascii = re.compile(rb"[ -<>-\[\]-~]*+[\0 ]*+").fullmatch
"""Whether a value of these VRs and encodings is one printable ASCII text, without a backslash (further values) or an equals sign
(further components of a name). Most values are, and pydicom would return the same text at ten times the cost."""


def _converted(tag: int, vr: str, data: bytes, encodings: list[str] | None, *, is_little_endian: bool) -> Any:
    """Return the value as pydicom's `Dataset` would."""
    raw = RawDataElement(BaseTag(tag), vr, len(data), data, 0, False, is_little_endian)
    value = convert_value(vr, raw, encodings)
    return Sequence(value) if vr == "SQ" else value


def _encodings(character_set: tuple[str, bytes] | None, *, is_little_endian: bool) -> list[str] | None:
    """Return the encodings of text for pydicom, or None if the character set cannot be read."""
    if character_set is None:
        return [default_encoding]
    try:
        return convert_encodings(_converted(_CHARACTER_SET, *character_set, None, is_little_endian=is_little_endian))
    except Exception:  # noqa: BLE001 - the same: the caller reports it
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return [_plain(item) for item in list(value)[:64]]
    if isinstance(value, int) and abs(value) < 1 << 53:
        return int(value)
    return _text(value)


def _is_text(value: Any) -> bool:
    return not any(isinstance(item, int) for item in (value if isinstance(value, list) else [value]))


def _text(value: Any) -> str:
    """Return storable text: without lone surrogates, of limited length."""
    return str(value)[:MAX_VALUE_CHARACTERS].encode("utf-8", "replace").decode("utf-8").strip("\0 ")
