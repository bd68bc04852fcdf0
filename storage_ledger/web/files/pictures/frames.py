"""Single frames of pixel data, as stored or decoded to little endian. Only for worker processes, like `render`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit

from storage_ledger.archive.dicom_elements import ITEM, SEQUENCE_END, ByteSource, Unreadable
from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.byte_order import swapped
from storage_ledger.web.files.pictures.levels import BIG_ENDIAN, EXPLICIT, IMPLICIT, PIXELS, OpenFile, Span, opened, vr_of
from storage_ledger.web.files.pictures.render import DECODERS, decoding

IN_PLACE_BYTES = 1 << 20
"""Longer values that are in the file as they are wanted are not copied: the answer has their place."""

NATIVE = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, str(DeflatedExplicitVRLittleEndian)})
_LOSSY_JPEG = frozenset({str(JPEGBaseline8Bit), str(JPEGExtended12Bit)})

_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011
_ALLOCATED, _STORED, _REPRESENTATION = 0x00280100, 0x00280101, 0x00280103
_OFFSETS = 0x7FE00001
_END_OF_IMAGE = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """Pixel data and the elements that describe them. `encapsulated`: compressed, in fragments (PS3.5 §A.4)."""

    span: Span
    vr: str
    encapsulated: bool
    frames: int
    rows: int
    columns: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    representation: int

    @property
    def frame_bits(self) -> int:
        """The size of a frame that is not compressed. In YBR_FULL_422, two pixels share their colour (PS3.3 §C.7.6.3.1.2)."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated
        return bits // 3 * 2 if self.photometric == "YBR_FULL_422" else bits

    def about(self) -> dict[str, Any]:
        """Describe a frame for the caller of a worker."""
        return {
            "photometric": self.photometric,
            "bits_allocated": self.bits_allocated,
            "samples": self.samples,
            "planar": self.planar,
        }


def frame(file: BinaryIO, request: RenderRequest) -> Rendered:
    """Return one frame: compressed as it is in the file if `stored` is true, otherwise in little endian, not compressed.

    `about` has the frame's transfer syntax (`syntax`); if decoded also `photometric`, `bits_allocated`, `samples` and `planar`. A long
    frame that is in the file like that is not copied: `about` has `at` and `length`. Raises `Unavailable`.
    """
    found = opened(file, up_to_pixels=True)
    pixels = stored_pixels(found)
    if not 0 <= request.frame < pixels.frames:
        raise Unavailable("no-such-frame")
    if not pixels.encapsulated:
        return _native(found, pixels, request.frame, {"syntax": EXPLICIT, **({} if request.stored else pixels.about())})
    code = code_stream(found, pixels, request.frame)
    if request.stored:
        return Rendered("bytes", code, {"syntax": found.syntax})
    data, about = decoded(code, pixels, found.syntax)
    return Rendered("bytes", data, {"syntax": EXPLICIT, **about})


def stored_pixels(found: OpenFile) -> StoredPixels:
    """Return where the pixel data are and what describes them. Raises `Unavailable`."""
    top = found.top
    span = next((top.spans[tag] for tag in PIXELS if tag in top.spans), None)
    if span is None:
        raise Unavailable("no-pixels")
    if span.undefined == (found.syntax in NATIVE):  # the transfer syntax says otherwise, or nobody knows it
        raise Unavailable("pixels-unreadable" if span.undefined or found.syntax in DECODERS else "syntax-unsupported")
    count = top.text(_FRAMES)
    return StoredPixels(
        span=span,
        vr=vr_of(top, span),
        encapsulated=span.undefined,
        frames=int(count) if count.isdecimal() and 0 < len(count) < 10 else 1,
        rows=top.number(_ROWS) or 0,
        columns=top.number(_COLUMNS) or 0,
        samples=top.number(_SAMPLES) or 1,
        photometric=top.text(_PHOTOMETRIC),
        planar=top.number(_PLANAR) or 0,
        bits_allocated={0x7FE00008: 32, 0x7FE00009: 64}.get(span.tag) or top.number(_ALLOCATED) or 0,
        bits_stored=top.number(_STORED) or top.number(_ALLOCATED) or 0,
        representation=top.number(_REPRESENTATION) or 0,
    )


def _native(found: OpenFile, pixels: StoredPixels, number: int, about: dict[str, Any]) -> Rendered:
    bits, span = pixels.frame_bits, pixels.span
    first, last = number * bits, (number + 1) * bits
    if bits == 0 or last > (span.end - span.value_at) * 8:
        raise Unavailable("pixels-unreadable")
    unit = found.top.unit(span, pixels.vr)
    if unit == 1 and bits % 8 == 0 and bits // 8 > IN_PLACE_BYTES and found.in_file:
        return Rendered("bytes", b"", {**about, "at": span.value_at + first // 8, "length": bits // 8})
    begin, end = first // 8 // unit * unit, -(-last // (8 * unit)) * unit
    data = found.top.data.source.at(span.value_at + begin, min(end, span.end - span.value_at) - begin)
    data = swapped(data, unit)
    first, last = first - begin * 8, last - begin * 8
    if first % 8 == 0 and last % 8 == 0:
        return Rendered("bytes", data[first // 8 : last // 8], about)
    # Frames of single bits follow each other without a gap (PS3.5 §8.1.1).
    bit_by_bit = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[first:last]
    return Rendered("bytes", np.packbits(bit_by_bit, bitorder="little").tobytes(), about)


def decoded(code: bytes, pixels: StoredPixels, syntax: str) -> tuple[bytes, dict[str, Any]]:
    """Decode a code stream, in the colours that the decoder gives; lossy JPEG, whose colours are subsampled, becomes RGB.

    Colours are by pixel. Raises `Unavailable`.
    """
    if syntax not in DECODERS or pixels.bits_allocated % 8:  # pydicom returns a byte for each pixel of one bit
        raise Unavailable("syntax-unsupported")
    options: dict[str, Any] = {
        "as_rgb": syntax in _LOSSY_JPEG,
        "number_of_frames": 1,
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": pixels.samples,
        "photometric_interpretation": pixels.photometric,
        "planar_configuration": pixels.planar,
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": pixels.representation,
    }
    with decoding():
        array, about = get_decoder(syntax).as_array(encapsulate([code]), index=0, decoding_plugin=DECODERS[syntax], **options)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.tobytes(), {
        "photometric": str(about["photometric_interpretation"]),
        "bits_allocated": pixels.bits_allocated,
        "samples": pixels.samples,
        "planar": 0,
    }


def code_stream(found: OpenFile, pixels: StoredPixels, number: int) -> bytes:
    """Return the fragments of one frame, joined. Raises `Unavailable`."""
    source = found.top.data.source
    return b"".join(source.at(at, length) for at, length in places(found, pixels, number))


def places(found: OpenFile, pixels: StoredPixels, number: int) -> list[tuple[int, int]]:
    """Return the places and lengths of a frame's fragments. Raises `Unavailable`; a video cannot be divided into frames."""
    source = found.top.data.source
    table = next(fragments(source, pixels.span.value_at), None)
    if table is None:
        raise Unavailable("pixels-unreadable")
    begin = sum(table)
    there = _by_table(found, pixels, number, source.at(*table), begin) or _by_count(source, begin, pixels.frames, number)
    if not there:
        raise Unavailable("pixels-unreadable" if found.syntax in DECODERS else "syntax-unsupported")
    return there


def _by_table(found: OpenFile, pixels: StoredPixels, number: int, table: bytes, begin: int) -> list[tuple[int, int]] | None:
    """Return the places of a frame's fragments by the extended or basic offset table; None if there is none or it is wrong."""
    extended = found.top.spans.get(_OFFSETS)
    table, size = (found.top.value(extended), 8) if extended is not None and extended.end > extended.value_at else (table, 4)
    if len(table) != pixels.frames * size:
        return None
    offset, *following = struct.unpack_from(f"<{min(2, pixels.frames - number)}{'Q' if size == 8 else 'L'}", table, number * size)
    until = begin + following[0] if following else None
    there: list[tuple[int, int]] = []
    try:
        for at, length in fragments(found.top.data.source, begin + offset):
            there.append((at, length))
            if until is not None and at + length >= until:
                break
    except Unavailable:
        return None
    return there if there and until in {None, sum(there[-1])} else None


def _by_count(source: ByteSource, begin: int, frames: int, number: int) -> list[tuple[int, int]] | None:
    """Return the places of a frame's fragments if each frame has one, or ends with the marker of JPEG; otherwise None."""
    there = list(fragments(source, begin))
    if frames == 1:
        return there
    if len(there) == frames:
        return [there[number]]
    found: list[list[tuple[int, int]]] = [[]]
    for at, length in there:
        found[-1].append((at, length))
        if _END_OF_IMAGE in source.at(at + max(0, length - 10), min(length, 10)):
            found.append([])
    return found[number] if len(found) - (not found[-1]) >= frames else None


def fragments(source: ByteSource, position: int) -> Iterator[tuple[int, int]]:
    """Yield the place and length of each item up to the delimiter or the end, the offset table first. Raises `Unavailable`."""
    while len(head := source.at(position, 8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        tag, position = group << 16 | element, position + 8
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise Unavailable("pixels-unreadable")
        try:
            source.require(position + length)
        except Unreadable as error:
            raise Unavailable("pixels-unreadable") from error
        yield position, length
        position += length
