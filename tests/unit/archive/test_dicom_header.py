"""Reading a DICOM header: what it finds, and that no file is too hostile."""

import io
import json
import struct
import tracemalloc
import zlib

import pytest
from pydicom.tag import Tag

from storage_ledger.archive.dicom_elements import MAX_ELEMENTS, MAX_INFLATED_BYTES, WINDOW_BYTES
from storage_ledger.archive.dicom_header import ATTRIBUTES, MAX_VALUE_BYTES, MAX_VALUE_CHARACTERS, read_header
from tests.support.dicom import make_file, sequence, testdata_files

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


def rest(uids: bytes = b"1.2.4") -> bytes:
    """What a header has behind the SOP UIDs, and elements behind the last wanted one."""
    return (
        short(0x10, 0x10, b"PN", b"DOE^JANE") + short(0x10, 0x20, b"LO", b"P1") + short(0x20, 0xD, b"UI", uids + b"\0")
        + short(0x20, 0xE, b"UI", b"1.2.5\0") + short(0x28, 8, b"IS", b"340") + short(0x28, 0x10, b"US", struct.pack("<H", 32))
    )  # fmt: skip


FOUND = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "1.2.3", "PatientName": "DOE^JANE", "PatientID": "P1",
    "StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5", "NumberOfFrames": 340, "Rows": 32,
    "TransferSyntaxUID": "1.2.840.10008.1.2.1",
}  # fmt: skip


class Counted(io.BytesIO):
    """Counts what is read of it."""

    reads = taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.reads += 1
        self.taken += len(data)
        return data


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
    assert set(unread.values()) <= {"not-dicom", "header-cut"}
    assert len(unread) < len(files) / 10


def test_every_truncation_gives_a_part_of_the_attributes_and_a_code(tmp_path):
    private = sequence(0x09, 0x1010, [sequence(0x09, 0x1020, [short(8, 0x60, b"CS", b"MR")] * 2)] * 3)
    data = part10(SOP + private + rest() + long(0x7FE0, 0x10, b"OW", 100, bytes(100)))
    whole, error = read_header(io.BytesIO(data))
    assert (whole, error) == (FOUND, None)
    body = len(part10(b""))
    boundaries, at = set(), body + len(SOP)
    for length in (0, len(private), 16, 10, 14, 14, 12, 10):
        at += length
        boundaries.add(at)
    boundaries.add(body + len(short(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0")))
    for end in range(at):
        found, error = read_header(io.BytesIO(data[:end]))
        assert (found or {}).items() <= whole.items(), end
        if end not in boundaries:  # at the end of an element nothing says that more was to come
            assert error in ({"not-dicom"} if end < 132 else {"header-cut"}), end
        assert found or error, end


def test_a_value_that_is_cut_is_not_taken():
    data = part10(SOP + rest(b"1.2.840.4"))
    found, error = read_header(io.BytesIO(data[: data.index(b"1.2.840.4") + 4]))
    assert (found.get("StudyInstanceUID"), found["PatientName"], error) == (None, "DOE^JANE", "header-cut")


def test_room_that_was_made_for_a_file_and_not_filled_is_a_cut():
    data = part10(SOP + bytes(1 << 20))
    found, error = read_header(io.BytesIO(data))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "header-cut")


def test_a_file_that_ends_behind_its_meta_information_is_cut():
    assert read_header(io.BytesIO(part10(b""))) == (None, "header-cut")


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("frames", [340, 12_000])
def test_functional_groups_of_every_frame_are_not_read(defined, frames):
    """Enhanced MR, segmentations, slides: all that is looked for stands before them."""
    frame = b"".join(sequence(0x20, number, [short(0x20, 0x9157, b"UL", bytes(4)) * 5], defined=defined) for number in range(20))
    file = Counted(part10(SOP + rest() + sequence(0x5200, 0x9230, [frame] * frames, defined=defined) + long(0x7FE0, 0x10, b"OW", 0)))
    assert read_header(file) == (FOUND, None)
    assert file.taken <= 4 * WINDOW_BYTES
    assert file.reads <= 4


@pytest.mark.parametrize("defined", [True, False])
def test_the_contours_of_a_structure_set_are_not_read(defined):
    contour = short(0x3006, 0x42, b"CS", b"CLOSED_PLANAR") + short(0x3006, 0x50, b"DS", b"1.25\\-7.5\\3" * 3000)
    file = Counted(part10(SOP + rest() + sequence(0x3006, 0x39, [contour] * 800, defined=defined)))
    assert len(file.getvalue()) > 25 << 20
    assert read_header(file) == (FOUND, None)
    assert file.taken <= 4 * WINDOW_BYTES


@pytest.mark.parametrize("defined", [True, False])
def test_a_segmentation_that_refers_to_thousands_of_images_is_read(defined):
    """The sequence that refers to them stands before the patient's name."""
    refers = short(8, 0x1150, b"UI", b"1.2.840.10008.5.1.4.1.1.4") + short(8, 0x1155, b"UI", b"1.2.826.0.1.3680043.8.498.1234567890")
    series = sequence(8, 0x114A, [refers] * 20_000, defined=defined) + short(0x20, 0xE, b"UI", b"1.2.9\0")
    file = io.BytesIO(part10(SOP + sequence(8, 0x1115, [series], defined=defined) + rest()))
    assert read_header(file) == (FOUND, None)


@pytest.mark.parametrize("vr", [b"SQ", b"UN"])
@pytest.mark.parametrize("depth", [50, 3000, 20_000])
def test_elements_after_deeply_nested_private_sequences_are_found(depth, vr):
    item = struct.pack("<HH", 0xFFFE, 0xE000) + FOREVER
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    nest = (long(9, 0x1010, vr, 0xFFFFFFFF) + item) * depth + ends * depth
    (found, error), peak = peak_of(part10(SOP + nest + rest()))
    assert (found, error) == (FOUND, None)
    assert peak < 1 << 20


def test_a_private_sequence_of_unknown_vr_has_items_in_implicit_vr():
    """PS3.5 §6.2.2: whatever the rest of the file has."""
    inner = implicit(9, 0x1011, b"AB") + implicit(9, 0x1012, bytes(40))
    nest = long(9, 0x1010, b"UN", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    undefined = struct.pack("<HH", 0xFFFE, 0xE000) + FOREVER + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    data = part10(SOP + nest + undefined + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) + rest())
    assert read_header(io.BytesIO(data)) == (FOUND, None)


@pytest.mark.parametrize("length", [66, 72, 90, 0x1042, 0x2_0042])
@pytest.mark.parametrize("vr", [b"UN", b"SQ"])
def test_a_length_within_a_sequence_is_not_taken_for_a_vr(vr, length):
    """Its lowest byte is that of a capital letter: of an element in implicit VR, and of an item in explicit VR."""
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    inner = implicit(9, 0x1011, b"x" * length)
    undefined = struct.pack("<HH", 0xFFFE, 0xE000) + FOREVER + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, length) + long(9, 0x1012, b"OB", length - 12, b"x" * (length - 12))
    for items in (undefined, item):
        data = part10(SOP + long(9, 0x1010, vr, 0xFFFFFFFF) + items + end + rest())
        assert read_header(io.BytesIO(data)) == (FOUND, None)


def test_a_reader_that_has_lost_its_way_before_the_uids_says_so():
    """In implicit VR a byte too many makes anything an element, most often one behind all that is looked for."""
    values = [(8, 0x16, b"1.2\0"), (8, 0x18, b"1.2.3\0"), (8, 0x60, b"MR\0"), (0x10, 0x10, b"DOE^JANE"), (0x20, 0xD, b"1.2.4\0")]
    data = part10(b"".join(implicit(*each) for each in values), IMPLICIT)
    data = data.replace(implicit(8, 0x60, b"MR\0"), struct.pack("<HHI", 8, 0x60, 2) + b"MR\0")
    found, error = read_header(io.BytesIO(data))
    assert (found["SOPInstanceUID"], found["Modality"], found.get("StudyInstanceUID"), error) == ("1.2.3", "MR", None, "header-cut")


def test_attributes_behind_elements_that_are_out_of_order_are_found():
    data = part10(SOP + short(0x51, 0x10, b"LO", b"SIEMENS") + sequence(0x2005, 0x1402, [SOP] * 3) + rest())
    assert read_header(io.BytesIO(data)) == (FOUND, None)


def test_a_data_set_of_another_encoding_than_the_transfer_syntax_says_is_read():
    implicit_vr = b"".join(implicit(*each) for each in [(8, 0x16, b"1.2\0"), (8, 0x18, b"1.2.3\0"), (0x10, 0x20, b"P1")])
    values = [(8, 0x18, b"1.2.3\0"), (0x10, 0x20, b"P1")]
    big = b"".join(struct.pack(">HH2sH", group, number, b"LO", len(value)) + value for group, number, value in values)
    for data in (part10(implicit_vr), part10(SOP + short(0x10, 0x20, b"LO", b"P1"), IMPLICIT), part10(big)):
        found, error = read_header(io.BytesIO(data))
        assert (found["SOPInstanceUID"], found["PatientID"], error) == ("1.2.3", "P1", None)


def test_a_vr_that_is_damaged_costs_nothing_but_its_element():
    data = part10(SOP + rest()).replace(b"PN\x08\x00DOE", b"P\xf4\x08\x00DOE")
    found, error = read_header(io.BytesIO(data))
    assert (found, error) == ({key: value for key, value in FOUND.items() if key != "PatientName"}, "some-attributes-unreadable")


def test_a_value_whose_vr_says_that_it_is_no_text_is_counted():
    data = part10(SOP + rest()).replace(short(0x10, 0x10, b"PN", b"DOE^JANE"), long(0x10, 0x10, b"OB", 8, b"DOE^JANE"))
    found, error = read_header(io.BytesIO(data))
    assert (found, error) == ({key: value for key, value in FOUND.items() if key != "PatientName"}, "some-attributes-unreadable")


def test_the_last_attribute_that_is_looked_for_is_where_the_reader_stops():
    """A new attribute beyond the functional groups would have them read again."""
    assert max(map(Tag, ATTRIBUTES)) < 0x30060000


def test_every_truncation_of_a_real_file_is_read_or_gets_a_code(tmp_path):
    make_file(tmp_path / "a.dcm", rows=2, columns=2)
    data = (tmp_path / "a.dcm").read_bytes()
    whole, _ = read_header(io.BytesIO(data))
    for end in range(0, len(data), 3):
        found, error = read_header(io.BytesIO(data[:end]))
        assert found or error, end
        assert (found or {}).items() <= whole.items(), end


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
    assert (found, error in {"not-dicom", "header-cut"}) == (None, True)


def test_a_data_set_without_a_preamble_is_dicom_when_it_names_what_it_is():
    implicit = b"".join(
        struct.pack("<HHI", 8, element, len(uid)) + uid for element, uid in [(0x16, b"1.2.840.10008.5.1.4.1.1.2\0"), (0x18, b"1.2.3\0")]
    )
    found, _ = read_header(io.BytesIO(implicit))
    assert found["SOPInstanceUID"] == "1.2.3"


def test_a_data_set_without_a_preamble_is_not_dicom_when_it_does_not():
    implicit = struct.pack("<HHI", 8, 0x60, 2) + b"CT"
    assert read_header(io.BytesIO(implicit)) == (None, "not-dicom")


@pytest.mark.parametrize("depth", [50, 2000, 20_000])
def test_sequences_nested_without_end_raise_nothing(depth):
    item = struct.pack("<HH", 0xFFFE, 0xE000) + FOREVER
    nest = (long(8, 0x1140, b"SQ", 0xFFFFFFFF) + item) * depth
    (found, error), peak = peak_of(part10(SOP + nest))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "header-cut")
    assert peak < 1 << 20


def test_nested_sequences_of_a_stated_length_raise_nothing():
    nest = b""
    for _ in range(3000):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nest)) + nest
        nest = long(8, 0x1140, b"SQ", len(item), item)
    assert read_header(io.BytesIO(part10(SOP + nest + rest()))) == (FOUND, None)


def test_a_deflated_file_is_read():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(SOP + short(0x10, 0x10, b"PN", b"DOE^JANE")) + packer.flush()
    found, error = read_header(io.BytesIO(part10(body, DEFLATED)))
    assert (found["PatientName"], error) == ("DOE^JANE", None)


@pytest.mark.parametrize("syntax", [DEFLATED, b"1.2.840.10008.1.2.4.95", b"1.2.840.10008.1.2.4.205"])
def test_of_a_large_deflated_file_only_the_beginning_is_inflated(syntax):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(SOP + rest() + long(0x7FE0, 0x10, b"OW", 200 << 20))
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    (found, error), peak = peak_of(part10(body, syntax))
    assert (found, error) == ({**FOUND, "TransferSyntaxUID": syntax.decode()}, None)
    assert peak < 1 << 20


def test_what_comes_before_a_deflate_bomb_is_kept():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    size = MAX_INFLATED_BYTES + (8 << 20)
    body = packer.compress(SOP + long(9, 0x1010, b"OB", size))
    body += b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.compress(rest()) + packer.flush()
    (found, error), peak = peak_of(part10(body, DEFLATED))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "header-too-large")
    assert peak < 1 << 20


def test_a_deflated_file_that_is_cut_gives_what_comes_before():
    packer = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
    body = packer.compress(SOP + rest()) + packer.flush()
    for end in range(len(body) - 1):
        found, error = read_header(io.BytesIO(part10(body[:end], DEFLATED)))
        assert (found or {}).items() <= {**FOUND, "TransferSyntaxUID": DEFLATED.decode()}.items()
        assert error == "header-cut", end


def test_what_calls_itself_deflated_and_is_not_gets_a_code():
    assert read_header(io.BytesIO(part10(SOP * 10, DEFLATED))) == (None, "header-unreadable")


@pytest.mark.parametrize("length", [0xFFFFFFFE, 0x7FFFFFFF, 50 << 20])
@pytest.mark.parametrize("tag", [(0x10, 0x10), (0x08, 0x08), (0x09, 0x10)])
def test_an_element_that_says_to_be_huge_takes_no_memory(length, tag):
    (found, error), peak = peak_of(part10(SOP + long(*tag, b"UN", length, bytes(1000))))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "header-cut")
    assert peak < 4 << 20


def test_an_element_that_is_huge_costs_nothing_but_itself():
    """100 MB that nobody asks for, and a name of 9 MB."""
    (found, error), peak = peak_of(part10(SOP + long(9, 0x1010, b"OB", 100 << 20, bytes(100 << 20)) + rest()))
    assert (found, error) == (FOUND, None)
    assert peak < 1 << 20
    value = b"A" * (9 << 20)
    (found, error), peak = peak_of(part10(SOP + long(0x10, 0x10, b"UT", len(value), value) + rest()[16:]))
    assert (found["StudyInstanceUID"], found.get("PatientName"), error) == ("1.2.4", None, "some-attributes-unreadable")
    assert peak < 1 << 20


def test_elements_without_end_are_too_large():
    data = part10(SOP + short(9, 0x10, b"CS", b"") * (MAX_ELEMENTS + 1000) + rest())
    found, error = read_header(io.BytesIO(data))
    assert (found["SOPInstanceUID"], found.get("PatientName"), error) == ("1.2.3", None, "header-too-large")


def test_a_long_value_is_cut():
    found, _ = read_header(io.BytesIO(part10(SOP + short(0x10, 0x10, b"PN", b"A" * MAX_VALUE_BYTES))))
    assert found["PatientName"] == "A" * MAX_VALUE_CHARACTERS


def test_of_many_values_the_first_ones_are_kept():
    values = b"\\".join([b"A"] * 4_000)
    (found, _), peak = peak_of(part10(SOP + short(8, 8, b"CS", values)))
    assert found["ImageType"] == ["A"] * 64
    assert peak < 32 << 20


def test_a_value_of_very_many_values_is_not_decoded():
    values = b"a\\" * 500_000
    (found, error), peak = peak_of(part10(implicit(8, 0x18, b"1.2.3\0") + implicit(0x10, 0x10, values), IMPLICIT))
    assert (found["SOPInstanceUID"], error) == ("1.2.3", "some-attributes-unreadable")
    assert peak < 8 << 20


@pytest.mark.parametrize("charset", [b"\\ISO 2022 IR 87" * 18, b"\\XYZ" * 16_000])
def test_a_character_set_of_very_many_encodings_is_not_used(charset):
    """pydicom would try each of them for each part of each name: 25 seconds for one file of 2 MB."""
    header = part10(short(8, 5, b"CS", charset) + SOP + short(0x10, 0x10, b"PN", b"DOE"))
    found, error = read_header(io.BytesIO(header))
    assert (found.get("SpecificCharacterSet"), found["PatientName"], error) == (None, "DOE", "some-attributes-unreadable")


def test_a_text_that_takes_long_to_decode_is_left_out():
    header = part10(short(8, 5, b"CS", b"punycode") + SOP + short(0x10, 0x10, b"PN", b"9" * (MAX_VALUE_BYTES + 2)))
    found, error = read_header(io.BytesIO(header))
    assert ("PatientName" in found, error) == (False, "some-attributes-unreadable")


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


@pytest.mark.parametrize("name", [b"M\xfcller^\xc4", b"M\xfcller", b"M\xfcller\\\xc4"], ids=["of 8 bytes", "of 6", "two"])
@pytest.mark.parametrize("charset", [b"idna", b"undefined"])
def test_a_character_set_whose_codec_fails_makes_no_numbers_of_a_name(charset, name):
    """pydicom tries other types of value when the text cannot be decoded, numbers among them."""
    found, code = read_header(io.BytesIO(part10(short(8, 5, b"CS", charset) + SOP + short(0x10, 0x10, b"PN", name))))
    assert found is not None
    assert ("PatientName" in found, code) == (False, "some-attributes-unreadable")


@pytest.mark.parametrize(("vr", "value"), [(b"US", b"\x64\x00"), (b"AT", b"\x08\x00\x05\x00")])
def test_a_character_set_that_cannot_be_read_is_reported_because_names_may_be_wrong(vr, value):
    found, code = read_header(io.BytesIO(part10(short(8, 5, vr, value) + SOP + rest())))
    assert (found["PatientName"], code) == ("DOE^JANE", "some-attributes-unreadable")


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
