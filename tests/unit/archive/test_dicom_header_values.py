"""The values of a DICOM header are those that pydicom reads."""

import io
import random
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from storage_ledger.archive.dicom_header import (
    ATTRIBUTES,
    MAX_VALUE_BYTES,
    MAX_VALUE_CHARACTERS,
    OF_A_REQUEST,
    REQUESTS,
    read_header,
)
from tests.support.dicom import testdata_files

# The service ignores pydicom's warnings (they quote values); here they would become errors inside of it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

TAGS = sorted(int(Tag(keyword)) for keyword in ATTRIBUTES if keyword != "SpecificCharacterSet")
TEXT_VRS = ("AE", "AS", "CS", "DA", "DT", "LO", "PN", "SH", "TM", "UI")


def file_of(values: dict[int, tuple[str, bytes]], order: str = "<", character_set: bytes = b"") -> bytes:
    """A Part 10 file of these elements; without VRs if they are empty."""
    if character_set:
        values = {0x00080005: ("CS" if next(iter(values.values()))[0] else "", character_set), **values}
    syntax = (
        b"1.2.840.10008.1.2.2\0" if order == ">" else b"1.2.840.10008.1.2.1\0" if next(iter(values.values()))[0] else b"1.2.840.10008.1.2\0"
    )
    meta = element(0x00020010, "UI", syntax)
    return (
        b"\0" * 128
        + b"DICM"
        + element(0x00020000, "UL", struct.pack("<I", len(meta)))
        + meta
        + b"".join(element(tag, vr, value, order) for tag, (vr, value) in values.items())
    )


def element(tag: int, vr: str, value: bytes, order: str = "<") -> bytes:
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not vr:
        return head + struct.pack(order + "I", len(value)) + value
    if vr in EXPLICIT_VR_LENGTH_32:
        return head + vr.encode() + struct.pack(order + "HI", 0, len(value)) + value
    return head + vr.encode() + struct.pack(order + "H", len(value)) + value


def read_by_pydicom(dataset: Dataset) -> dict[str, Any]:
    """The attributes as `read_header` returns them, from pydicom's own data set."""
    found = of_a_data_set(dataset, ATTRIBUTES)
    if items := [item for each in dataset.get(REQUESTS) or [] if (item := of_a_data_set(each, OF_A_REQUEST))]:
        found[REQUESTS] = items
    return found


def of_a_data_set(dataset: Dataset, keywords: Iterable[str]) -> dict[str, Any]:
    found = {}
    for keyword in keywords:
        try:
            value = plain(dataset[keyword].value)
        except Exception:  # noqa: BLE001, S112 - not there, or pydicom cannot read it
            continue
        if value not in (None, "", []):
            found[keyword] = value
    return found


def plain(value: Any) -> Any:
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, list) or type(value).__name__ == "MultiValue":
        return [plain(item) for item in list(value)[:64]]
    if isinstance(value, int) and abs(value) < 1 << 53:
        return int(value)
    return str(value)[:MAX_VALUE_CHARACTERS].encode("utf-8", "replace").decode().strip("\0 ")


def assert_same(data: bytes) -> None:
    found, error = read_header(io.BytesIO(data))
    assert error in {None, "some-attributes-unreadable"}
    assert found is not None
    found.pop("TransferSyntaxUID", None)
    assert found == read_by_pydicom(dcmread(io.BytesIO(data), force=True))


def test_every_file_that_pydicom_brings_has_the_values_that_pydicom_reads():
    compared = 0
    for path in testdata_files():
        with path.open("rb") as file:
            found, error = read_header(file)
        if found is None or error is not None:
            continue
        found.pop("TransferSyntaxUID", None)
        try:
            dataset = dcmread(path, stop_before_pixels=True, force=True)
        except Exception:  # noqa: BLE001, S112 - the reader of the header is less strict
            continue
        assert found == read_by_pydicom(dataset), path.name
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("character_set", [b"", b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"utf_16", b"cp037"])
@pytest.mark.parametrize("vr", TEXT_VRS)
def test_every_byte_in_a_text_is_read_as_pydicom_reads_it(vr, character_set):
    texts = [text for byte in range(256) for text in (bytes([byte]), b"A%cB" % byte, b" %c \0" % byte)]
    for first in range(0, len(texts), len(TAGS)):
        batch = zip(TAGS, texts[first : first + len(TAGS)], strict=False)
        assert_same(file_of({tag: (vr, text) for tag, text in batch}, character_set=character_set))


@pytest.mark.parametrize("length", [MAX_VALUE_CHARACTERS - 1, MAX_VALUE_CHARACTERS, MAX_VALUE_CHARACTERS + 1, MAX_VALUE_CHARACTERS + 40])
def test_a_text_is_cut_where_pydicom_text_would_be(length):
    texts = [b"x" * length, b" " * 30 + b"x" * (length - 30), b"x" * (length - 30) + b" " * 30, b" " * (length - 1) + b"x"]
    for vr in TEXT_VRS:
        assert_same(file_of({tag: (vr, text) for tag, text in zip(TAGS, texts, strict=False)}))


VALUES = (
    b"", b" ", b"\0", b"\0\0", b"DOE^JANE", b"DOE^JANE=X=Y", b"X==", b"A\\B", b" A \\ B ", b"\\", b"M\xfcller^\xc4", b"\xff" * 8,
    b"\x1b$B\x1b(J\x80\x81", b"12", b" 12 ", b"-5", b"1.0", b"1.5", b"9007199254740993", b"1_0", b"\n1.2.3\n", b"1\0", b"\x01\x02",
    b"\0\x01\x02", b"\x01\0\x02\0", b"1\\" * 70 + b"2", b"\xc3\xa4" * 600,
)  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("seed", range(3))
def test_values_of_any_vr_are_read_as_pydicom_reads_them(seed, order):
    chance = random.Random(seed)
    vrs = sorted(vr.value for vr in STANDARD_VR if vr != "SQ")
    for character_set in (b"", b"ISO_IR 100", b"ISO_IR 192", b"ISO 2022 IR 13\\ISO 2022 IR 87", b"NONSENSE"):
        for _ in range(12):
            explicit = {tag: (chance.choice(vrs), chance.choice(VALUES)) for tag in TAGS}
            assert_same(file_of(explicit, order, character_set))
            typical = {tag: (str(dictionary_VR(tag)), chance.choice(VALUES)) for tag in TAGS}
            assert_same(file_of(typical, order, character_set))


def test_values_without_a_vr_are_read_as_pydicom_reads_them():
    for character_set in (b"", b"ISO_IR 192"):
        for value in VALUES:
            assert_same(file_of(dict.fromkeys(TAGS, ("", value)), character_set=character_set))


@pytest.mark.parametrize("length", [MAX_VALUE_BYTES, MAX_VALUE_BYTES + 2])
def test_a_value_of_unknown_vr_is_text_unless_it_is_too_long(length):
    data = file_of({0x00080018: ("UI", b"1.2.3\0"), 0x00100010: ("UN", b"A" * length)})
    found, error = read_header(io.BytesIO(data))
    assert found is not None
    assert ("PatientName" in found, error) == ((True, None) if length == MAX_VALUE_BYTES else (False, "some-attributes-unreadable"))


@pytest.mark.parametrize("items", [b"", struct.pack("<HHI", 0xFFFE, 0xE000, 12) + element(0x00080060, "CS", b"MR  ")])
def test_a_sequence_in_place_of_a_text_is_read_as_pydicom_reads_it(items):
    assert_same(file_of({0x00080018: ("UI", b"1.2.3\0"), 0x00100010: ("SQ", items)}))
