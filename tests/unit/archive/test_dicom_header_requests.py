"""RequestAttributesSequence in a DICOM header: its items, in every encoding, and limits of what is kept."""

import io
import json
import struct
import tracemalloc
import zlib

import pytest

from storage_ledger.archive.dicom_elements import WINDOW_BYTES
from storage_ledger.archive.dicom_header import MAX_REQUEST_BYTES, MAX_REQUESTS, MAX_VALUE_CHARACTERS, REQUESTS, read_header
from storage_ledger.domain.patient_identity import text_of
from tests.support.dicom import sequence

DEFLATED, EXPLICIT, IMPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0"
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HHI", 0xFFFE, element, 0) for element in (0xE000, 0xE00D, 0xE0DD))


def short(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def implicit(group: int, element: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", group, element, len(value) if length is None else length) + value


HEAD = short(8, 0x16, b"UI", b"1.2.3\0") + short(8, 0x18, b"UI", b"1.2.4\0") + short(0x20, 0xD, b"UI", b"1.2.5\0")
TAIL = short(0x40, 0x280, b"ST", b"comment")


def part10(data: bytes, syntax: bytes = EXPLICIT) -> bytes:
    return bytes(128) + b"DICM" + short(2, 0x10, b"UI", syntax) + data


def request(step: bytes, procedure: bytes) -> bytes:
    """An item with more than is looked for: attributes that the data set has too, and sequences in it."""
    code = sequence(0x40, 8, [short(8, 0x100, b"SH", b"CODE"), sequence(0x40, 0x275, [short(0x40, 9, b"SH", b"INNER")])])
    return short(8, 0x50, b"SH", b"ACC") + code + short(0x40, 9, b"SH", step) + short(0x40, 0x1001, b"SH", procedure)


def read(data: bytes, syntax: bytes = EXPLICIT) -> tuple[object, str | None]:
    """Return the requests that the header has, and its code."""
    found, error = read_header(io.BytesIO(part10(data, syntax)))
    assert found is not None
    assert (found["StudyInstanceUID"], "AccessionNumber" in found) == ("1.2.5", False)
    return found.get(REQUESTS), error


TWO = [
    {"ScheduledProcedureStepID": "S1", "RequestedProcedureID": "R1"},
    {"ScheduledProcedureStepID": "S2", "RequestedProcedureID": "R2"},
]


@pytest.mark.parametrize("defined", [True, False])
def test_items_are_read_with_lengths_and_with_delimiters(defined):
    data = HEAD + sequence(0x40, 0x275, [request(b"S1", b"R1"), request(b"S2", b"R2")], defined=defined) + TAIL
    assert read(data) == (TWO, None)


def test_items_are_read_from_a_deflated_data_set_that_needs_several_windows():
    long = sequence(0x40, 8, [short(8, 0x100, b"SH", b"C" * 100)] * (WINDOW_BYTES // 50))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = HEAD + sequence(0x40, 0x275, [long + request(b"S1", b"R1"), long + request(b"S2", b"R2")], defined=True) + TAIL
    assert read(deflate.compress(data) + deflate.flush(), DEFLATED) == (TWO, None)


def test_items_without_vrs_are_read():
    item = implicit(0x40, 9, b"S1") + implicit(0x40, 0x1001, b"R1")
    items = implicit(0xFFFE, 0xE000, item)
    head = implicit(8, 0x16, b"1.2.3\0") + implicit(8, 0x18, b"1.2.4\0") + implicit(0x20, 0xD, b"1.2.5\0")
    assert read(head + implicit(0x40, 0x275, items), IMPLICIT) == (TWO[:1], None)
    assert read(HEAD + struct.pack("<HH2sHI", 0x40, 0x275, b"UN", 0, len(items)) + items + TAIL) == (TWO[:1], None)


def test_an_item_is_read_in_its_own_character_set_or_in_that_of_the_file():
    latin, utf_8 = short(8, 5, b"CS", b"ISO_IR 100"), short(8, 5, b"CS", b"ISO_IR 192")
    items = [short(0x40, 9, b"SH", b"\xc4"), utf_8 + short(0x40, 9, b"SH", "Ä".encode())]
    assert read(latin + HEAD + sequence(0x40, 0x275, items)) == ([{"ScheduledProcedureStepID": "Ä"}] * 2, None)


@pytest.mark.parametrize("items", [[], [b""], [b"", short(0x40, 9, b"SH", b"")], [short(0x40, 0x1001, b"SH", b"  ")]])
def test_items_with_nothing_in_them_are_left_out(items):
    assert read(HEAD + sequence(0x40, 0x275, items) + TAIL) == (None, None)


def test_a_file_that_ends_in_an_item_has_a_code():
    data = HEAD + sequence(0x40, 0x275, [request(b"S1", b"R1")])
    for end in range(len(HEAD) + 12, len(data)):
        assert read(data[:end]) == (None, "header-cut"), end


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (ITEM_END + struct.pack("<HHI", 0xFFFE, 0xE000, 10) + short(0x40, 9, b"SH", b"S1") + ITEM_END, TWO[:1]),  # surplus delimiters
        (struct.pack("<HHI", 0xFFFE, 0xE000, 10) + short(0x40, 9, b"SH", b"S1") + SEQUENCE_END, TWO[:1]),
        (struct.pack("<HHI", 0xFFFE, 0xE000, 20) + short(0x40, 9, b"SH", b"S1") + struct.pack("<HH2sH", 8, 0x50, b"SH", 200), TWO[:1]),
        (struct.pack("<HHI", 0xFFFE, 0xE000, 1 << 31) + short(0x40, 9, b"SH", b"S1"), TWO[:1]),
        (b"no sequence at all, but text....", None),
        (b"\xff" * 40, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("deflated", [False, True])
def test_what_follows_a_broken_sequence_is_read_if_it_says_its_length(items, expected, deflated):
    late = short(0x20, 0xE, b"UI", b"1.2.6\0")  # out of order, so that it would be lost
    data = HEAD + struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, len(items)) + items + late + TAIL
    if deflated:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    found, error = read_header(io.BytesIO(part10(data, DEFLATED if deflated else EXPLICIT)))
    assert found is not None
    expected_requests = expected and [{"ScheduledProcedureStepID": "S1"}]
    assert (found["StudyInstanceUID"], found["SeriesInstanceUID"], found.get(REQUESTS)) == ("1.2.5", "1.2.6", expected_requests)
    assert error in ({None} if expected else {"some-attributes-unreadable"})


def test_values_and_items_beyond_the_limits_are_left_out():
    longest = b"S" * MAX_REQUEST_BYTES
    found, error = read(HEAD + sequence(0x40, 0x275, [request(longest, b"R1"), request(longest + b"SS", b"R2")]))
    assert found == [{"ScheduledProcedureStepID": longest.decode(), "RequestedProcedureID": "R1"}, {"RequestedProcedureID": "R2"}]
    assert error == "some-attributes-unreadable"
    last = [b""] * MAX_REQUESTS + [request(b"S1", b"R1")]
    assert read(HEAD + sequence(0x40, 0x275, last)) == (None, "some-attributes-unreadable")
    assert read(HEAD + sequence(0x40, 0x275, last[1:])) == (TWO[:1], None)


@pytest.mark.parametrize("letter", [b"S", b'"', b"\x01"])
def test_the_index_has_the_items_that_are_kept_as_json(letter):
    """It cuts longer texts."""
    found, error = read(HEAD + sequence(0x40, 0x275, [request(letter * 64, b"R%d" % number) for number in range(MAX_REQUESTS)]))
    assert isinstance(found, list)
    assert len(found) > 1
    assert error == "some-attributes-unreadable"
    text = text_of(found)
    assert text is not None
    assert len(text) <= MAX_VALUE_CHARACTERS
    assert json.loads(text) == found


def test_200_000_items_take_little_memory():
    file = io.BytesIO(part10(HEAD + sequence(0x40, 0x275, [b""] * 200_000, defined=True)))
    tracemalloc.start()
    try:
        found, error = read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found or {}).get("StudyInstanceUID") == "1.2.5"
    assert (error, peak < 1 << 20) == (None, True)
