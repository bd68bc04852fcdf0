"""Files written again in Explicit VR Little Endian: the same elements and the same pixels."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from storage_ledger.web.files.pictures import RenderRequest, Unavailable, explicit
from storage_ledger.web.files.pictures.explicit import recipe
from storage_ledger.web.files.pictures.frames import frame
from storage_ledger.web.files.pictures.render import DECODERS
from tests.support.dicom import make_file, testdata_files

REFUSED = {
    "JPEG-lossy.dcm": "syntax-unsupported",
    "JPGExtended.dcm": "syntax-unsupported",
    "JPEG2000-embedded-sequence-delimiter.dcm": "pixels-unreadable",
    "MR_truncated.dcm": "header-unreadable",
    "rtplan_truncated.dcm": "header-unreadable",
    "no_meta.dcm": "not-dicom",
}
DESCRIBING = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"}


@pytest.fixture(autouse=True)
def ignore_what_pydicom_warns_of() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def rewritten(file: io.BytesIO) -> bytes:
    """Do what the caller of a worker does."""
    made = recipe(file)
    about = made.about
    assert about.keys() == {"head", "frames", "frame_bytes", "range", "pad"}
    pixels = b""
    if about["range"] is not None:
        at, length = about["range"]
        pixels = file.getvalue()[at : at + length]
        assert len(pixels) == length
    for number in range(about["frames"]):
        one = frame(file, RenderRequest("frame", frame=number))
        data = one.data or file.getvalue()[one.about["at"] :][: one.about["length"]]
        assert len(data) == about["frame_bytes"]
        pixels += data
    return made.data[: about["head"]] + pixels + bytes(about["pad"]) + made.data[about["head"] :]


def compare(old: Dataset, new: Dataset, where: str = "") -> None:
    tags = {tag for tag in list(old.keys()) if tag.element != 0}
    changed = {tag for tag in tags | set(new.keys()) if pydicom.datadict.keyword_for_tag(tag) in DESCRIBING} if not where else set()
    assert tags - changed == set(new.keys()) - changed, where
    for tag in sorted(tags - changed):
        try:
            one = old[tag]
        except Exception:  # noqa: BLE001, S112 - what pydicom cannot convert is not compared
            continue
        other = new[tag]
        here = f"{where}/{tag}"
        assert (other.VR, other.VM) == (one.VR, one.VM), here
        if one.VR == "SQ":
            for number, (item, other_item) in enumerate(zip(one.value, other.value, strict=True)):
                compare(item, other_item, f"{here}[{number}]")
        elif one.VR in {"OB", "OW", "UN", "OF", "OD", "OL", "OV"}:
            same = other.value == one.value or other.value == (one.value or b"") + b"\0"
            turned = len(one.value or b"") % 2 == 0 and other.value == np.frombuffer(one.value or b"", "u2").byteswap().tobytes()
            assert same or turned, here
        else:
            assert str(other.value).rstrip("\0 ") == str(one.value).rstrip("\0 "), here


@pytest.mark.parametrize("path", testdata_files(), ids=lambda path: path.name)
def test_every_file_of_pydicom_has_the_same_elements_and_pixels_again(path: Path):
    file = io.BytesIO(path.read_bytes())
    if path.name in REFUSED:
        with pytest.raises(Unavailable, match=REFUSED[path.name]):
            recipe(file)
        return
    content = rewritten(file)
    old, new = pydicom.dcmread(path, force=True), pydicom.dcmread(io.BytesIO(content))
    assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert struct.unpack("<L", content[140:144])[0] == content.index(bytes(new_group(new)), 144) - 144
    compare(old, new)
    if not ("PixelData" in old and "Rows" in old and "BitsAllocated" in old) or path.name in {"badVR.dcm", "SC_rgb_jpeg.dcm"}:
        return
    syntax = old.file_meta.get("TransferSyntaxUID") or {
        (True, True): ImplicitVRLittleEndian, (False, True): ExplicitVRLittleEndian, (False, False): ExplicitVRBigEndian,
    }[old.original_encoding]  # fmt: skip
    before, _ = get_decoder(syntax).as_array(old, decoding_plugin=DECODERS.get(syntax, ""), allow_excess_frames=False)
    after, _ = get_decoder(ExplicitVRLittleEndian).as_array(new, allow_excess_frames=False)
    assert before.shape == after.shape
    assert (before == after).all()


def new_group(new: Dataset) -> bytes:
    """The first tag after the file meta information, as bytes."""
    first = min(new.keys())
    return struct.pack("<HH", first.group, first.element)


def saved(dataset: Dataset, syntax: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    options = {} if syntax != ExplicitVRBigEndian else {"implicit_vr": False, "little_endian": False}
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True, **options)
    return buffer


def test_native_little_endian_pixels_are_taken_from_the_file():
    made = make_file("/dev/null", rows=100, columns=100)
    made.add_new(0xFFFCFFFC, "OB", b"\0" * 10)
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        file = saved(made, syntax)
        about = recipe(file).about
        assert (about["range"], about["frames"]) == ([file.getvalue().index(made.PixelData), 20_000], 0)
        assert len(recipe(file).data) < 2_000
        new = pydicom.dcmread(io.BytesIO(rewritten(file)))
        assert (new.PixelData, new[0xFFFCFFFC].value) == (made.PixelData, b"\0" * 10)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_pixels_to_be_turned_are_in_the_head_or_come_by_frames(syntax: Any, monkeypatch: pytest.MonkeyPatch):
    made = make_file("/dev/null", rows=10, columns=10, NumberOfFrames=3)
    values = np.arange(300, dtype=">u2" if syntax == ExplicitVRBigEndian else "<u2")
    made.PixelData = values.tobytes()
    file = saved(made, syntax)
    assert recipe(file).about["frames"] == 0
    whole = rewritten(file)
    monkeypatch.setattr(explicit, "MAX_HEAD_BYTES", 100)
    assert recipe(file).about | {"head": 0} == {"head": 0, "frames": 3, "frame_bytes": 200, "range": None, "pad": 0}
    assert rewritten(file) == whole
    assert pydicom.dcmread(io.BytesIO(whole)).PixelData == values.astype("<u2").tobytes()


def test_a_long_document_is_not_copied():
    made = make_file("/dev/null", EncapsulatedDocument=bytes(3 << 20))
    del made.PixelData
    file = saved(made, ImplicitVRLittleEndian)
    assert recipe(file).about["range"][1] == 3 << 20
    assert pydicom.dcmread(io.BytesIO(rewritten(file))).EncapsulatedDocument == bytes(3 << 20)


def test_an_odd_number_of_bytes_is_padded():
    made = make_file("/dev/null", rows=3, columns=3, NumberOfFrames=3, BitsAllocated=8, BitsStored=8, HighBit=7)
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    made.PixelData = pixels.tobytes() + b"\0"
    made.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = saved(made, RLELossless)
    about = recipe(file).about
    assert (about["frames"], about["frame_bytes"], about["pad"]) == (3, 9, 1)
    content = rewritten(file)
    assert len(content) % 2 == 0
    assert pydicom.dcmread(io.BytesIO(content)).pixel_array.tolist() == pixels.tolist()


def test_private_elements_and_tables_survive_without_vrs():
    made = make_file(
        "/dev/null", PixelRepresentation=1, SmallestImagePixelValue=-5, SpecificCharacterSet="ISO_IR 100", PatientName="Müller"
    )
    made["SmallestImagePixelValue"].VR = "SS"
    block = made.private_block(0x29, "NOBODY KNOWS", create=True)
    block.add_new(1, "LO", "secret")
    inner = Dataset()
    inner.PatientComments = "x" * 70_000
    block.add_new(2, "SQ", [inner])
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 16], b"\1\2\3\4\5\6\7\0"
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    made.VOILUTSequence = [table]
    new = pydicom.dcmread(io.BytesIO(rewritten(saved(made, ImplicitVRLittleEndian))))
    assert (new.SmallestImagePixelValue, new["SmallestImagePixelValue"].VR) == (-5, "SS")
    assert (new[0x00291001].value, new[0x00291001].VR) == (b"secret", "UN")
    assert new.VOILUTSequence[0].LUTData == table.LUTData
    assert (new.SpecificCharacterSet, new.PatientName) == ("ISO_IR 100", "Müller")
    raw = struct.pack("<HHL", 0xFFFE, 0xE000, 70_008) + struct.pack("<HHL", 0x10, 0x4000, 70_000) + b"x" * 70_000
    assert new[0x00291002].value in {raw, raw[:4] + struct.pack("<L", 0xFFFFFFFF) + raw[8:] + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)}


def test_a_value_too_long_for_its_vr_becomes_un():
    made = make_file("/dev/null", PatientComments="x" * 70_000)
    new = pydicom.dcmread(io.BytesIO(rewritten(saved(made, ImplicitVRLittleEndian))))
    assert (new[0x00104000].VR, new[0x00104000].value) == ("UN", b"x" * 70_000)


def test_a_file_without_meta_information_gets_it():
    made = make_file("/dev/null")
    content = saved(made, ImplicitVRLittleEndian).getvalue()
    bare = io.BytesIO(content[content.index(b"\x08\x00\x05\x00") :])
    new = pydicom.dcmread(io.BytesIO(rewritten(bare)))
    assert new.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert new.PixelData == made.PixelData


def test_colours_by_plane_are_by_pixel_when_decoded_and_the_header_says_so():
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = make_file("/dev/null", rows=8, columns=8, BitsAllocated=8, BitsStored=8, HighBit=7, SamplesPerPixel=3, PlanarConfiguration=0)
    made.PhotometricInterpretation = "RGB"
    made.PixelData = pixels.tobytes()
    made.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    made.PlanarConfiguration = 1
    new = pydicom.dcmread(io.BytesIO(rewritten(saved(made, RLELossless))))
    assert (new.PlanarConfiguration, new.PixelData) == (0, pixels.tobytes())


def test_a_film_that_lacks_its_last_frame_is_refused_before_anything_is_written():
    made = make_file("/dev/null", rows=3, columns=3, NumberOfFrames=2, BitsAllocated=8, BitsStored=8, HighBit=7)
    made.PixelData = bytes(18)
    made.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    *frames, last = generate_frames(made.PixelData, number_of_frames=2)
    whole = encapsulate([*frames, last], has_bot=True)
    made.PixelData = whole[: -len(last) - 8]
    file = saved(made, RLELossless)
    assert frame(file, RenderRequest("frame")).data == bytes(9)
    with pytest.raises(Unavailable, match="pixels-unreadable"):
        recipe(file)
