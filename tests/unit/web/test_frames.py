"""Single frames, as stored and decoded, from every way of storing them."""

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
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.utils import pack_bits
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from storage_ledger.web.files.pictures import RenderRequest, Unavailable
from storage_ledger.web.files.pictures.frames import frame
from storage_ledger.web.files.pictures.render import DECODERS
from tests.support.dicom import make_file, testdata_files

EXPLICIT = "1.2.840.10008.1.2.1"
UNDECODABLE = {"JPEG-lossy.dcm", "JPGExtended.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}
BROKEN = {"badVR.dcm", "MR_truncated.dcm", "SC_rgb_jpeg.dcm", "nested_priv_SQ.dcm"}
WITH_PIXELS = [path for path in testdata_files() if path.name not in BROKEN]


@pytest.fixture(autouse=True)
def ignore_what_pydicom_warns_of() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def asked(file: io.BytesIO, number: int = 0, *, stored: bool = True) -> tuple[bytes, dict[str, Any]]:
    made = frame(file, RenderRequest("frame", frame=number, stored=stored))
    if "at" not in made.about:
        return made.data, made.about
    assert made.data == b""
    return file.getvalue()[made.about["at"] :][: made.about["length"]], made.about


def code(file: io.BytesIO, number: int = 0, *, stored: bool = True) -> str:
    with pytest.raises(Unavailable) as refused:
        frame(file, RenderRequest("frame", frame=number, stored=stored))
    return refused.value.code


def saved(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> io.BytesIO:
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer


def film(*frames: bytes, pixel_data: bytes | None = None, **elements: Any) -> Dataset:
    """Return a data set of frames with 2 rows and 3 columns, RLE unless told otherwise."""
    made = make_file("/dev/null", rows=2, columns=3, NumberOfFrames=len(frames), **elements)
    made.PixelData = encapsulate(list(frames)) if pixel_data is None else pixel_data
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


@pytest.mark.parametrize("path", WITH_PIXELS, ids=lambda path: path.name)
def test_every_frame_of_pydicom_s_files_is_as_stored_and_as_pydicom_decodes_it(path: Path):
    file = io.BytesIO(path.read_bytes())
    read = pydicom.dcmread(path, force=True)
    keyword = next((name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in read), None)
    if keyword is None or "Rows" not in read:
        assert code(file) in {"no-pixels", "not-dicom", "pixels-unreadable"}
        return
    frames = int(read.get("NumberOfFrames") or 1)
    syntax = read.file_meta.get("TransferSyntaxUID") or ExplicitVRLittleEndian
    assert code(file, frames) == "no-such-frame"
    if path.name in UNDECODABLE:
        assert code(file, stored=False) in {"syntax-unsupported", "pixels-unreadable"}
        return
    encapsulated = syntax.is_encapsulated
    if encapsulated:
        expected = list(generate_frames(read.PixelData, number_of_frames=frames))
    for number in {0, frames // 2, frames - 1}:
        data, about = asked(file, number)
        decoded, described = asked(file, number, stored=False)
        if encapsulated:
            assert (data, about) == (expected[number], {"syntax": syntax})
        else:
            assert (data, about["syntax"]) == (decoded, EXPLICIT)
        assert described["syntax"] == EXPLICIT
        options = {"as_rgb": syntax == JPEGBaseline8Bit, "decoding_plugin": DECODERS.get(syntax, "")}
        if not encapsulated:
            options["correct_unused_bits"] = False
        array, properties = get_decoder(syntax).as_array(read, index=number, **options)
        compare(decoded, described, array, properties, encapsulated=encapsulated)


def compare(decoded: bytes, described: dict[str, Any], array: Any, properties: dict[str, Any], *, encapsulated: bool) -> None:
    assert (described["bits_allocated"], described["samples"]) == (properties["bits_allocated"], properties["samples_per_pixel"])
    if encapsulated:
        assert described["photometric"] == properties["photometric_interpretation"]
        assert described["planar"] == 0
    if described["photometric"] == "YBR_FULL_422":
        whole = np.frombuffer(decoded, np.uint8).reshape(-1, 4)
        assert (whole[:, 0] == array.reshape(-1, 6)[:, 0]).all()
    elif described["bits_allocated"] == 1:
        assert decoded == pack_bits(array, pad=False)
    else:
        kind = array.dtype.newbyteorder("<")
        planes = np.moveaxis(array, -1, 0) if described["planar"] == 1 else array
        assert (np.frombuffer(decoded, kind).reshape(planes.shape) == planes).all()


def test_bits_of_frames_that_do_not_begin_at_a_byte_are_moved():
    bits = np.random.default_rng(1).integers(0, 2, (5, 3, 3), dtype=np.uint8)
    made = make_file("/dev/null", rows=3, columns=3, NumberOfFrames=5, BitsAllocated=1, BitsStored=1, HighBit=0)
    made.PixelData = pack_bits(bits)
    for number in range(5):
        assert asked(saved(made), number)[0] == pack_bits(bits[number], pad=False)
    made.PixelData = made.PixelData[:4]
    assert code(saved(made), 4) == "pixels-unreadable"


@pytest.mark.parametrize(("bits", "vr"), [(8, "OW"), (8, "OB"), (16, "OW"), (32, "OW")])
def test_big_endian_frames_are_turned(bits: int, vr: str):
    values = np.random.default_rng(1).integers(0, 200, (3, 3, 3)).astype(f"u{bits // 8}")
    made = make_file("/dev/null", rows=3, columns=3, NumberOfFrames=3, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
    stored = values.astype(values.dtype.newbyteorder(">")).tobytes()
    stored += b"\0" * (len(stored) % 2)
    if (bits, vr) == (8, "OW"):
        stored = np.frombuffer(stored, "u2").byteswap().tobytes()
    made.add_new("PixelData", vr, stored)
    buffer = io.BytesIO()
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(buffer, made, implicit_vr=False, little_endian=False)
    for number in range(3):
        assert asked(buffer, number)[0] == values[number].tobytes()


def test_deflated_frames_are_inflated_and_large_frames_are_only_pointed_at():
    pixels = np.random.default_rng(1).integers(0, 4096, (2, 800, 800)).astype("<u2")
    made = make_file("/dev/null", rows=800, columns=800, NumberOfFrames=2)
    made.PixelData = pixels.tobytes()
    file = saved(made)
    data, about = asked(file, 1)
    assert data == pixels[1].tobytes()
    assert about == {"syntax": EXPLICIT, "at": file.getvalue().index(pixels[1].tobytes()), "length": 800 * 800 * 2}
    assert asked(saved(made, DeflatedExplicitVRLittleEndian), 1) == (pixels[1].tobytes(), {"syntax": EXPLICIT})


CODES = [b"\xff\xd8one\xff\xd9\0", b"\xff\xd8two!\xff\xd9", b"\xff\xd8three\xff\xd9\0"]


def in_items(*items: bytes) -> bytes:
    return b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item for item in items)


@pytest.mark.parametrize("table", ["basic", "extended", "none", "wrong", "too short", "elsewhere"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_frames_are_found_with_and_without_offset_tables(table: str, pieces: int):
    """Frames in one or more fragments; without a usable table, a frame of several ends with the marker of JPEG."""
    made = film(*CODES, pixel_data=encapsulate(CODES, fragments_per_frame=pieces, has_bot=table == "basic"))
    items = [part for each in CODES for part in ([each] if pieces == 1 else [each[:4], each[4:]])]
    if table == "extended" and pieces == 1:
        made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(CODES)
    elif table == "wrong":
        made.PixelData = in_items(struct.pack("<3L", 0, 3, 9), *items)
    elif table == "too short":
        made.PixelData = in_items(struct.pack("<L", 0), *items)
    elif table == "elsewhere":
        made.PixelData = in_items(struct.pack("<3L", 0xFFFFFFF0, 0xFFFFFFF0, 0xFFFFFFF8), *items)
    file = saved(made, JPEGBaseline8Bit)
    assert [asked(file, number)[0] for number in range(3)] == CODES
    assert asked(file, 2)[1] == {"syntax": JPEGBaseline8Bit}
    assert code(file, 3) == "no-such-frame"


def test_a_single_frame_may_be_in_many_fragments():
    made = film(b"ab", pixel_data=in_items(b"", b"ab", b"cd", b"ef"))
    assert asked(saved(made, RLELossless))[0] == b"abcdef"


def test_what_cannot_be_told_apart_is_refused():
    two_of_four = film(b"ab", b"cd", pixel_data=in_items(b"", b"ab", b"cd", b"ef", b"gh"))
    assert code(saved(two_of_four, RLELossless), 1) == "pixels-unreadable"
    too_few = film(b"ab", b"cd", b"ef", pixel_data=in_items(b"", b"ab", b"cd"))
    assert code(saved(too_few, RLELossless), 2) == "pixels-unreadable"
    video = film(b"ab", b"cd", pixel_data=in_items(b"", b"all of them!"))
    assert code(saved(video, UID("1.2.840.10008.1.2.4.102")), 1) == "syntax-unsupported"
    no_items = film(b"ab")
    file = saved(no_items, RLELossless).getvalue()
    broken = file.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x00\xe1")
    assert code(io.BytesIO(broken)) == "pixels-unreadable"
    cut = saved(film(CODES[0], CODES[1]), JPEGBaseline8Bit).getvalue()[:-14]
    assert code(io.BytesIO(cut), 1) == "pixels-unreadable"


def test_a_syntax_that_does_not_fit_the_pixels_is_refused():
    native = saved(make_file("/dev/null")).getvalue()
    assert code(io.BytesIO(native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))) == "pixels-unreadable"
    assert code(io.BytesIO(native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))) == "syntax-unsupported"
    rle = saved(film(b"ab"), RLELossless).getvalue()
    assert code(io.BytesIO(rle.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))) == "pixels-unreadable"
    unknown = io.BytesIO(rle.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.9\0"))
    assert asked(unknown) == (b"ab", {"syntax": "1.2.840.10008.1.2.9"})
    assert code(unknown, stored=False) == "syntax-unsupported"


def test_a_header_without_size_is_refused():
    assert code(saved(make_file("/dev/null", Rows=None))) == "pixels-unreadable"
    assert code(saved(make_file("/dev/null", NumberOfFrames=4)), 3) == "pixels-unreadable"  # the file has one


def test_pixel_arrays_are_what_the_pages_show():
    file = io.BytesIO(next(path for path in testdata_files() if path.name == "JPEG2000.dcm").read_bytes())
    shown = pixel_array(file, decoding_plugin="pylibjpeg")
    assert np.frombuffer(asked(file, stored=False)[0], shown.dtype).reshape(shown.shape).tolist() == shown.tolist()


def colour(photometric: str) -> tuple[Dataset, Any]:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = make_file("/dev/null", rows=8, columns=8, BitsAllocated=8, BitsStored=8, HighBit=7, SamplesPerPixel=3, PlanarConfiguration=0)
    made.PhotometricInterpretation = photometric
    made.PixelData = pixels.tobytes()
    made.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    made.PlanarConfiguration = 1  # as in the code stream
    return made, pixels


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_without_loss_stay_what_they_are_by_pixel(photometric: str):
    made, pixels = colour(photometric)
    file = saved(made, RLELossless)
    about = {"syntax": EXPLICIT, "photometric": photometric, "bits_allocated": 8, "samples": 3, "planar": 0}
    assert asked(file, stored=False) == (pixels.tobytes(), about)


def test_subsampled_colours_of_jpeg_become_rgb():
    file = io.BytesIO(next(path for path in testdata_files() if path.name == "examples_ybr_color.dcm").read_bytes())
    assert asked(file, stored=False)[1]["photometric"] == "RGB"
    assert pydicom.dcmread(io.BytesIO(file.getvalue())).PhotometricInterpretation == "YBR_FULL_422"
