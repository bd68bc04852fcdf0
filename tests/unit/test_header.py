"""Reading a DICOM header: what it finds, and that no file is too hostile."""

import io
import json
import struct
import tracemalloc
import zlib

import pytest

from storage_ledger.archive.header import MAX_INFLATED_BYTES, MAX_READ_BYTES, MAX_READS, MAX_VALUE_CHARACTERS, read_header
from tests.support.dicom import make_file, testdata_files

# The service ignores pydicom's warnings (they quote values); here they would become errors inside of it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

EXPLICIT, IMPLICIT, DEFLATED = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1.99"
FOREVER = b"\xff\xff\xff\xff"


def short(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def long(group: int, element: int, vr: bytes, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH2sHI", group, element, vr, 0, length) + value


def implicit(group: int, element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", group, element, len(value)) + value


def part10(dataset: bytes, syntax: bytes = EXPLICIT) -> bytes:
    """A Part 10 file around this data set."""
    uid = short(2, 0x10, b"UI", syntax + b"\0" * (len(syntax) % 2))
    return b"\0" * 128 + b"DICM" + short(2, 0, b"UL", struct.pack("<I", len(uid))) + uid + dataset


SOP = short(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0") + short(8, 0x18, b"UI", b"1.2.3\0")


def peak_of(data: bytes) -> tuple[tuple[dict | None, str | None], int]:
    """What `read_header` says, and how many bytes it took at most."""
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        found = read_header(file)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_plain_file_gives_its_attributes_by_keyword(tmp_path):
    make_file(tmp_path / "a.dcm", study_uid="1.2.3", series_uid="1.2.4", sop_uid="1.2.5", patient_name="ÅNG^Ö", SeriesNumber=7)
    with (tmp_path / "a.dcm").open("rb") as file:
        found, error = read_header(file)
    assert error is None
    wanted = {
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", "SOPInstanceUID": "1.2.5", "PatientName": "ÅNG^Ö",
        "SeriesNumber": 7, "Rows": 32, "Columns": 32, "InstanceNumber": 1, "Modality": "CT",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    }  # fmt: skip
    assert {key: found.get(key) for key in wanted} == wanted
    assert "ReferringPhysicianName" not in found


def test_every_file_that_pydicom_brings_is_read_or_gets_a_code():
    files = testdata_files()
    assert len(files) > 100
    unread = {}
    for path in files:
        with path.open("rb") as file:
            found, error = read_header(file)
        assert found or error, path.name
        assert json.loads(json.dumps(found, allow_nan=False)) == found, path.name
        if found is None:
            unread[path.name] = error
    assert set(unread.values()) <= {"not-dicom", "header-unreadable"}
    assert len(unread) < len(files) / 10


def test_every_truncation_of_a_file_is_read_or_gets_a_code(tmp_path):
    make_file(tmp_path / "a.dcm", rows=2, columns=2)
    data = (tmp_path / "a.dcm").read_bytes()
    for end in range(0, len(data), 3):
        found, error = read_header(io.BytesIO(data[:end]))
        assert found or error, end


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"DICM",
        b"\0" * 128 + b"DICM",
        b"\0" * 200,
        b"not a DICOM file at all\n" * 100,
        b"%PDF-1.7",
        b"\xff" * 5000,
        b"PK\x03\x04",
    ],
)
def test_what_is_not_dicom_gets_a_code(data):
    found, error = read_header(io.BytesIO(data))
    assert (found, error in {"not-dicom", "header-unreadable"}) == (None, True)


def test_a_data_set_without_a_preamble_is_dicom_when_it_names_what_it_is():
    implicit = b"".join(
        struct.pack("<HHI", 8, element, len(uid)) + uid for element, uid in [(0x16, b"1.2.840.10008.5.1.4.1.1.2\0"), (0x18, b"1.2.3\0")]
    )
    found, _ = read_header(io.BytesIO(implicit))
    assert found["SOPInstanceUID"] == "1.2.3"


def test_a_data_set_without_a_preamble_is_not_dicom_when_it_does_not():
    implicit = struct.pack("<HHI", 8, 0x60, 2) + b"CT"
    assert read_header(io.BytesIO(implicit)) == (None, "not-dicom")


@pytest.mark.parametrize("depth", [50, 2000, 200_000])
def test_sequences_nested_without_end_raise_nothing(depth):
    item = struct.pack("<HH", 0xFFFE, 0xE000) + FOREVER
    nest = (long(8, 0x1140, b"SQ", 0xFFFFFFFF) + item) * depth
    (found, error), peak = peak_of(part10(SOP + nest))
    assert found or error
    assert peak < 64 << 20


def test_nested_sequences_of_a_stated_length_raise_nothing():
    nest = b""
    for _ in range(3000):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nest)) + nest
        nest = long(8, 0x1140, b"SQ", len(item), item)
    found, error = read_header(io.BytesIO(part10(SOP + nest)))
    assert found or error


def test_a_deflated_file_is_read():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(SOP + short(0x10, 0x10, b"PN", b"DOE^JANE")) + packer.flush()
    found, error = read_header(io.BytesIO(part10(body, DEFLATED)))
    assert (found["PatientName"], error) == ("DOE^JANE", None)


def test_a_deflate_bomb_is_too_large_and_is_not_inflated():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(SOP) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    (found, error), peak = peak_of(part10(body, DEFLATED))
    assert (found, error) == (None, "header-too-large")
    assert peak < 3 * MAX_INFLATED_BYTES


def test_what_calls_itself_deflated_and_is_not_gets_a_code():
    assert read_header(io.BytesIO(part10(SOP * 10, DEFLATED))) == (None, "header-unreadable")


@pytest.mark.parametrize("length", [0xFFFFFFFE, 0x7FFFFFFF, 50 << 20])
@pytest.mark.parametrize("tag", [(0x10, 0x10), (0x08, 0x08), (0x09, 0x10)])
def test_an_element_that_says_to_be_huge_takes_no_memory(length, tag):
    (found, error), peak = peak_of(part10(SOP + long(*tag, b"UN", length, bytes(1000))))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", None)
    assert peak < 4 << 20


def test_an_element_that_is_huge_is_too_large():
    value = b"A" * (MAX_READ_BYTES + 2)
    (found, error), peak = peak_of(part10(SOP + long(0x10, 0x10, b"UT", len(value), value)))
    assert (found, error) == (None, "header-too-large")
    assert peak < 8 << 20


def test_elements_without_end_are_too_large():
    data = part10(SOP + short(9, 0x10, b"CS", b"") * (MAX_READS + 1000))
    assert read_header(io.BytesIO(data)) == (None, "header-too-large")


def test_a_long_value_is_cut():
    found, _ = read_header(io.BytesIO(part10(SOP + short(0x10, 0x10, b"PN", b"A" * 60_000))))
    assert found["PatientName"] == "A" * MAX_VALUE_CHARACTERS


def test_of_many_values_the_first_ones_are_kept():
    values = b"\\".join([b"A"] * 30_000)
    (found, _), peak = peak_of(part10(SOP + short(8, 8, b"CS", values)))
    assert found["ImageType"] == ["A"] * 64
    assert peak < 32 << 20


def test_a_value_of_very_many_values_is_not_decoded():
    values = b"a\\" * 500_000
    (found, error), peak = peak_of(part10(implicit(8, 0x18, b"1.2.3\0") + implicit(0x10, 0x10, values), IMPLICIT))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "some-attributes-unreadable")
    assert peak < 8 << 20


def test_without_a_preamble_neither():
    values = b"1\\" * 500_000
    found, peak = peak_of(implicit(8, 0x16, values) + implicit(8, 0x18, values))
    assert found == (None, "not-dicom")
    assert peak < 8 << 20


def test_pixels_are_not_read(tmp_path):
    pixels = bytes(64 << 20)
    (found, error), peak = peak_of(part10(SOP + long(0x7FE0, 0x10, b"OW", len(pixels)) + pixels))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", None)
    assert peak < 4 << 20


@pytest.mark.parametrize("value", [b"\xff\xfe\x00\xd8", b"\x1b$B\x1b(J\x80\x81", b"\xed\xa0\x80"])
@pytest.mark.parametrize("charset", [b"ISO_IR 192", b"ISO 2022 IR 87", b"ISO_IR 100", b"NONSENSE"])
def test_text_that_cannot_be_decoded_costs_nothing_but_itself(charset, value):
    found, _ = read_header(io.BytesIO(part10(short(8, 5, b"CS", charset) + SOP + short(0x10, 0x10, b"PN", value))))
    assert found["SOPInstanceUID"] == "1.2.3"
    json.dumps(found).encode("utf-8")


@pytest.mark.parametrize("number", [b"not a number", b"1e400", b"9" * 64, b"-", b"1\\x"])
def test_a_number_that_is_none_costs_nothing_but_itself(number):
    found, _ = read_header(io.BytesIO(part10(SOP + short(0x20, 0x13, b"IS", number))))
    assert found["SOPInstanceUID"] == "1.2.3"
    json.dumps(found, allow_nan=False)
