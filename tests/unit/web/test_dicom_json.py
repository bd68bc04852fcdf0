"""A data set as DICOM JSON: valid by Annex F for every file of pydicom, with the values that pydicom reads."""

from __future__ import annotations

import base64
import io
import json
import math
import random
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_charset_files
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from storage_ledger.web.files.pictures import Unavailable
from storage_ledger.web.files.pictures.bulk_data import bulk
from storage_ledger.web.files.pictures.dicom_json import BINARY, document
from tests.support.annex_f import faults
from tests.support.dicom import make_file, sequence, testdata_files

EXPLICIT = "1.2.840.10008.1.2.1"
FILES = testdata_files()
NOT_DICOM = {"no_meta.dcm"}
CUT_OFF = {"7FE00010": 8130}
"""The pixel data of MR_truncated.dcm, and what there is of it."""
CHARSETS = sorted(Path(name) for name in get_charset_files("*.dcm"))


@pytest.fixture(autouse=True)
def ignore_what_pydicom_warns_of() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def part10(body: bytes, syntax: str = EXPLICIT) -> io.BytesIO:
    """Return a file with these bytes as its data set."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return io.BytesIO(bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", len(uid)) + uid + body)


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    if vr in {*BINARY, "SQ", "UT", "UC", "UR", "SV", "UV"}:
        return struct.pack("<HH2sHL", group, number, vr.encode(), 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def of(file: io.BytesIO) -> dict[str, Any]:
    made = document(file)
    assert faults(made) == []
    return json.loads(made)


def saved(dataset: Dataset) -> io.BytesIO:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer


@pytest.mark.parametrize("path", [*FILES, *CHARSETS], ids=lambda path: path.name)
def test_every_file_of_pydicom_gives_valid_json_with_the_values_that_pydicom_reads(path: Path):
    content = path.read_bytes()
    if path.name in NOT_DICOM:
        with pytest.raises(Unavailable, match="not-dicom"):
            document(io.BytesIO(content))
        return
    made = document(io.BytesIO(content))
    assert faults(made) == []
    read = pydicom.dcmread(io.BytesIO(content), force=True)
    compare(read, json.loads(made), content, "", top=True)


def compare(read: Dataset, made: dict[str, Any], content: bytes, path: str, *, top: bool = False) -> None:
    expected = {f"{int(tag):08X}" for tag in list(read.keys()) if tag.element != 0}
    unwanted = {"00080005", "00083002"} if top else set()
    assert set(made) - unwanted == expected - unwanted, path
    for tag in sorted(expected - {"00080005", "00083002"}):
        try:
            one = read[int(tag, 16)]
        except Exception:  # noqa: BLE001, S112 - what pydicom cannot convert is not compared
            continue
        got = made[tag]
        where = f"{path}{tag}"
        if one.VR == "SQ" and got["vr"] == "UN":
            continue  # pydicom guesses; its content in implicit VR stays as it is
        assert got["vr"] == one.VR, where
        match one.VR:
            case "SQ":
                assert len(got.get("Value", [])) == len(one.value), where
                for number, (item, got_item) in enumerate(zip(one.value, got.get("Value", []), strict=True), 1):
                    compare(item, got_item, content, f"{where}/{number}/")
            case vr if vr in BINARY:
                compare_bytes(one, got, content, where)
            case _:
                assert plain(one) == got.get("Value", []), where


def compare_bytes(one: Any, got: dict[str, Any], content: bytes, where: str) -> None:
    value = one.value or b""
    if "BulkDataURI" in got:
        assert got["BulkDataURI"] == where
        if one.is_undefined_length:
            return
        if where in CUT_OFF and one.value is not None and len(one.value) == CUT_OFF[where]:
            with pytest.raises(Unavailable, match="pixels-unreadable"):
                bulk(io.BytesIO(content), where)
            return
        made = bulk(io.BytesIO(content), where)
        data = made.data if not made.about else content[made.about["at"] : made.about["at"] + made.about["length"]]
    else:
        data = base64.b64decode(got.get("InlineBinary", ""))
    if data != value:  # big endian, of 16 bits or 32
        assert data in {np.frombuffer(value, kind).byteswap().tobytes() for kind in ("u2", "u4") if len(value) % 4 == 0}, where


def plain(one: Any) -> list[Any]:
    """Return pydicom's value as Annex F has it."""
    values = one.value if isinstance(one.value, MultiValue | list) else [one.value]
    return [converted(value, one.VR) for value in values] if one.value not in (None, "", b"") else []


def converted(value: Any, vr: str) -> Any:
    match vr:
        case "PN":
            groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), (str(part).strip() for part in value.components), strict=False))
            return {name: text for name, text in groups.items() if text} or None
        case "AT":
            return f"{int(value):08X}"
        case "IS" | "DS":
            return None if value in (None, "") else "1A" if value == "1A" else float(value)
        case "FL" | "FD":
            return value if math.isfinite(value) else None
        case "US" | "SS" | "UL" | "SL":
            return value
        case "LT" | "ST" | "UT" | "UR":
            return str(value).rstrip("\0 ") or None
        case _:
            return str(value).strip("\0 ") or None


def test_numbers_are_numbers_if_they_are_and_text_otherwise():
    made = of(
        part10(
            element(0x18, 0x50, "DS", b" 1.250\\-7\\1e3\\1A\\nan\\1_0\\1e999\\\\+.5 ")
            + element(0x20, 0x13, "IS", b"7\\-12\\5.5\\x\\12345678901234567890")
        )
    )
    assert made["00180050"]["Value"] == [1.25, -7, 1000, "1A", "nan", "1_0", "1e999", None, 0.5]
    assert made["00200013"]["Value"] == [7, -12, 5.5, "x", "12345678901234567890"]


def test_floats_that_are_no_number_in_json_are_null():
    made = of(
        part10(
            element(0x18, 0x9073, "FD", struct.pack("<3d", 1.5, math.nan, math.inf))
            + element(0x18, 0x9074, "FD", struct.pack("<d", math.nan))
            + element(0x18, 0x9075, "SV", struct.pack("<2q", -(1 << 53), 12))
        )
    )
    assert made["00189073"]["Value"] == [1.5, None, None]
    assert made["00189074"] == {"vr": "FD"}
    assert made["00189075"]["Value"] == [str(-(1 << 53)), 12]


def test_empty_values_have_no_value_and_those_among_others_are_null():
    made = of(
        part10(
            element(0x8, 0x60, "CS", b"")
            + element(0x8, 0x50, "SH", b"  ")
            + element(0x8, 0x1010, "SH", b"A\\\\B ")
            + element(0x8, 0x1140, "SQ", b"")
            + sequence(0x8, 0x1110, [b"", element(0x8, 0x60, "CS", b"CT")], defined=True)
            + element(0x10, 0x10, "PN", b"A^B\\\\^C=")
        )
    )
    assert made["00080060"] == {"vr": "CS"}
    assert made["00080050"] == {"vr": "SH"}
    assert made["00081010"]["Value"] == ["A", None, "B"]
    assert made["00081140"] == {"vr": "SQ"}
    assert made["00081110"]["Value"] == [{}, {"00080060": {"vr": "CS", "Value": ["CT"]}}]
    assert made["00100010"]["Value"] == [{"Alphabetic": "A^B"}, None, {"Alphabetic": "^C"}]


@pytest.mark.parametrize(
    ("declared", "stored", "shown"),
    [
        (b"ISO_IR 100", b"M\xfcller", "Müller"),
        (b"ISO_IR 192", "Müller".encode(), "Müller"),
        (b"ISO_IR 192", b"M\xfcller", "Müller"),  # wrong
        (None, "Müller".encode(), "Müller"),
        (None, b"M\xfcller", "Müller"),
        (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
        (b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "山田^太郎"),
        (b"NO SUCH SET", b"M\xfcller", "Müller"),
        (b"a\0b ", b"M\xfcller", "Müller"),
        (b"idna", b"M\xfcller", "Müller"),
        (b"unicode_escape", b"\xfc\\ud800", "ü\\ud800"),
    ],
)
def test_text_is_utf8_whatever_is_declared(declared: bytes | None, stored: bytes, shown: str):
    body = b"" if declared is None else element(0x8, 5, "CS", declared + b" " * (len(declared) % 2))
    made = of(part10(body + element(0x10, 0x4000, "LT", stored + b" " * (len(stored) % 2))))
    assert made["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert made["00104000"]["Value"] == [shown]


def test_text_in_ascii_needs_no_character_set_and_items_have_their_own():
    item = element(0x8, 5, "CS", b"ISO_IR 100") + element(0x10, 0x10, "PN", b"M\xfcller^A=B=C^D ")
    made = of(part10(element(0x10, 0x10, "PN", b"A^B ")))
    assert "00080005" not in made
    made = of(part10(sequence(0x8, 0x1110, [item])))
    (inner,) = made["00081110"]["Value"]
    assert inner["00080005"]["Value"] == ["ISO_IR 192"]
    assert inner["00100010"]["Value"] == [{"Alphabetic": "Müller^A", "Ideographic": "B", "Phonetic": "C^D"}]
    assert made["00080005"]["Value"] == ["ISO_IR 192"]


def test_long_binary_values_are_bulk_data_at_a_path_and_short_ones_inline():
    wave = bytes(range(256)) * 4
    inner = element(0x5400, 0x1010, "OW", wave) + element(0x5400, 0x1004, "US", b"\x10\0")
    file = part10(element(0x8, 0x60, "CS", b"CT") + sequence(0x5400, 0x100, [b"", inner]) + element(0x7FE0, 0x10, "OW", b"\1\2"))
    made = of(file)
    assert made["54000100"]["Value"][1]["54001010"] == {"vr": "OW", "BulkDataURI": "54000100/2/54001010"}
    assert made["7FE00010"] == {"vr": "OW", "BulkDataURI": "7FE00010"}
    assert bulk(file, "54000100/2/54001010").data == wave
    assert bulk(file, "7FE00010").data == b"\1\2"
    for path in (
        "54000100/1/54001010",
        "54000100/3/54001010",
        "54000100",
        "00280010",
        "54000100/2/54001010/1/00080060",
        "../x",
        "7fe00010",
    ):
        with pytest.raises(Unavailable, match="no-such-element"):
            bulk(file, path)
    short = of(part10(element(0x29, 0x10, "LO", b"ACME") + element(0x29, 0x1010, "UN", b"ab")))
    assert short["00291010"] == {"vr": "UN", "InlineBinary": base64.b64encode(b"ab").decode()}


def test_a_long_value_is_not_copied_if_it_is_in_the_file_as_it_is_wanted():
    value = bytes(3 << 20)
    file = part10(element(0x42, 0x11, "OB", value))
    made = bulk(file, "00420011")
    assert (made.data, made.about) == (b"", {"at": file.getbuffer().nbytes - len(value), "length": len(value)})


def test_a_long_value_that_has_to_be_turned_is_copied():
    header = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", 20) + b"1.2.840.10008.1.2.2\0"
    body = struct.pack(">HH2sHH", 0x28, 0x10, b"US", 2, 1) + struct.pack(">HH2sHL", 0x7FE0, 0x10, b"OW", 0, 2 << 20) + b"\1\2" * (1 << 20)
    made = bulk(io.BytesIO(header + body), "7FE00010")
    assert (made.data, made.about) == (b"\2\1" * (1 << 20), {})


def test_a_long_value_in_a_deflated_file_is_copied():
    made = make_file("/dev/null", EncapsulatedDocument=b"pdf!" * (1 << 19))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found = bulk(saved(made), "00420011")
    assert (found.data, found.about) == (b"pdf!" * (1 << 19), {})


def test_big_endian_values_are_turned():
    file = io.BytesIO(
        bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", 20) + b"1.2.840.10008.1.2.2\0"
        + struct.pack(">HH2sHH", 0x28, 0x10, b"US", 2, 258)
        + struct.pack(">HH2sHHH", 0x28, 0x9, b"AT", 4, 0x18, 0x1063)
        + struct.pack(">HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + b"\1\2\3\4"
    )  # fmt: skip
    made = of(file)
    assert (made["00280010"]["Value"], made["00280009"]["Value"]) == ([258], ["00181063"])
    assert bulk(file, "7FE00010").data == b"\2\1\4\3"


def test_sequences_in_un_without_a_length_are_read_and_those_with_one_stay_bytes():
    inner = struct.pack("<HHL", 0x8, 0x60, 2) + b"CT"
    items = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    open_ended = struct.pack("<HH2sHL", 0x29, 0x1020, b"UN", 0, 0xFFFFFFFF) + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    made = of(part10(element(0x29, 0x1010, "UN", items) + open_ended))
    assert made["00291010"] == {"vr": "UN", "InlineBinary": base64.b64encode(items).decode()}
    assert made["00291020"] == {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["CT"]}}]}


def test_a_length_in_such_a_sequence_may_look_like_a_vr():
    inner = struct.pack("<HHL", 0x8, 0x60, 2) + b"CT" + struct.pack("<HHL", 0x10, 0x4000, 0x4144) + b"x" * 0x4144  # DA
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
    body = struct.pack("<HH2sHL", 0x29, 0x1020, b"UN", 0, 0xFFFFFFFF) + item + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    (read,) = of(part10(body))["00291020"]["Value"]
    assert read["00104000"] == {"vr": "LT", "Value": ["x" * 0x4144]}


def test_broken_elements_cost_no_other():
    deep = b""
    for _ in range(100):
        deep = sequence(0x8, 0x1140, [deep], defined=True)
    broken = element(0x8, 0x1110, "SQ", b"no items at all!") + element(0x28, 0x10, "US", b"\1")
    made = of(part10(element(0x8, 0x60, "CS", b"CT") + broken + element(0x28, 0x11, "US", b"\2\0")))
    assert made.keys() == {"00080060", "00083002", "00280010", "00280011"}
    assert "00083002" in of(part10(deep[:4096] + element(0x10, 0x20, "LO", b"P1")))
    cut = make_file("/dev/null")
    made = of(io.BytesIO(saved(cut).getvalue()[:-500]))
    assert made["7FE00010"]["BulkDataURI"] == "7FE00010"
    with pytest.raises(Unavailable):
        bulk(io.BytesIO(saved(cut).getvalue()[:-500]), "7FE00010")


def test_the_transfer_syntax_is_named_and_the_same_file_gives_the_same_bytes():
    file = saved(make_file("/dev/null", ReferencedImageSequence=Sequence([Dataset()])))
    assert of(file)["00083002"] == {"vr": "UI", "Value": [EXPLICIT]}
    assert document(file) == document(file)
    assert of(file)["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "DOE^JANE"}]}


@pytest.mark.parametrize("content", [b"", b"x" * 200, bytes(128) + b"DICM", bytes(4096), b"\x08\0"])
def test_what_is_not_dicom_is_refused(content: bytes):
    with pytest.raises(Unavailable):
        document(io.BytesIO(content))


@pytest.mark.parametrize("path", [*CHARSETS[::4], *FILES[::6]], ids=lambda path: path.name)
def test_damaged_files_give_valid_json_or_a_reason(path: Path):
    rng = random.Random(path.name)
    content = path.read_bytes()[: 64 << 10]
    for _ in range(20):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 8)):
            at = rng.randrange(min(len(damaged), 6000))
            damaged[at] = rng.choice((0, 1, 0x41, 0x53, 0x51, 0xFE, 0xFF, rng.randrange(256)))
        del damaged[rng.randrange(len(damaged) // 2, len(damaged)) :]
        with suppress(Unavailable):
            assert faults(document(io.BytesIO(bytes(damaged)))) == []
