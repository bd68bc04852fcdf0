"""A whole file in Explicit VR Little Endian, without holding its pixels. Only for worker processes, like `render`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from storage_ledger.archive.dicom_elements import ITEM, UNDEFINED, Unreadable
from storage_ledger.web.files.pictures import Rendered, Unavailable
from storage_ledger.web.files.pictures.frames import IN_PLACE_BYTES, StoredPixels, code_stream, decoded, places, stored_pixels
from storage_ledger.web.files.pictures.levels import EXPLICIT, PIXELS, Level, OpenFile, Span, items, opened, vr_of

MAX_HEAD_BYTES = 32 << 20
"""Pixels up to this size that have to be rewritten, but not decoded, go into the head; larger ones come frame by frame."""

_LONG = frozenset(vr.value for vr in EXPLICIT_VR_LENGTH_32)
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"})
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
_META_LENGTH, _META_VERSION, _META_CLASS, _META_INSTANCE, _META_SYNTAX, _META_IMPLEMENTATION = (
    0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012,
)  # fmt: skip


def recipe(file: BinaryIO) -> Rendered:
    """Return what is needed to write the file again in Explicit VR Little Endian (PS3.5 §A.2, PS3.10 §7).

    `data` is a head and a tail. Between them go either `range` (offset and length in the file) or `frames` frames of `frame_bytes`
    each, decoded by `frames.frame`, and then `pad` zero bytes; `head` is the length of the head. Raises `Unavailable`, with
    `syntax-unsupported` if a frame cannot be decoded.
    """
    found = opened(file)
    top = found.top
    if not top.whole:
        raise Unavailable("header-unreadable")
    pixels = stored_pixels(found) if any(tag in top.spans for tag in PIXELS) else None
    changed: dict[int, bytes] = {}
    about: dict[str, Any] = {"frames": 0, "frame_bytes": None, "range": None, "pad": 0}
    outside, length = _outside(found, pixels), 0
    if outside is not None and pixels is not None and outside.tag == pixels.span.tag:
        if pixels.encapsulated:
            data, described = decoded(code_stream(found, pixels, 0), pixels, found.syntax)
            places(found, pixels, pixels.frames - 1)  # the caller cannot turn back half-way
            changed = _changed(pixels, described)
            about.update(frames=pixels.frames, frame_bytes=len(data))
        elif not (found.in_file and top.unit(outside, pixels.vr) == 1):
            about.update(frames=pixels.frames, frame_bytes=pixels.frame_bits // 8)
        length = about["frames"] * (about["frame_bytes"] or 0)
    if outside is not None and about["frame_bytes"] is None:
        length = outside.end - outside.value_at
        about["range"] = [outside.value_at, length]
    if length + 1 >= UNDEFINED:
        raise Unavailable("picture-too-large")
    about["pad"] = length & 1
    try:
        head = _meta(found) + _before(top, outside, changed)
        if outside is not None:
            vr = ("OW" if pixels.bits_allocated > 8 else "OB") if pixels is not None and pixels.encapsulated else vr_of(top, outside)
            head += _header(outside.tag, vr, length + about["pad"])
        tail = b"" if outside is None else _elements(top, [tag for tag in top.spans if tag > outside.tag], changed)
    except Unreadable as error:
        raise Unavailable("header-unreadable") from error
    return Rendered("bytes", head + tail, {"head": len(head), **about})


def _outside(found: OpenFile, pixels: StoredPixels | None) -> Span | None:
    """Return the one element whose value the head and tail leave out: the pixel data, else the longest that need not change."""
    top = found.top
    if pixels is None:
        long = [span for span in top.spans.values() if span.end - span.value_at > IN_PLACE_BYTES and not span.undefined]
        as_they_are = [span for span in long if found.in_file and (vr := vr_of(top, span)) in _LONG - {"SQ"} and top.unit(span, vr) == 1]
        return max(as_they_are, key=lambda span: span.end - span.value_at, default=None)
    span = pixels.span
    if pixels.encapsulated or (found.in_file and top.unit(span, pixels.vr) == 1):
        return span
    if span.end - span.value_at <= MAX_HEAD_BYTES:
        return None
    if pixels.frame_bits % 8:
        raise Unavailable("picture-too-large")
    if pixels.frame_bits == 0 or pixels.frames * pixels.frame_bits > (span.end - span.value_at) * 8:
        raise Unavailable("pixels-unreadable")
    return span


def _changed(pixels: StoredPixels, described: Mapping[str, Any]) -> dict[int, bytes]:
    """Return the elements that describe decoded pixels; those without bytes are left out (PS3.5 §A.2, PS3.3 §C.7.6.3)."""
    changed = dict.fromkeys(_OFFSET_TABLES, b"")
    if described["photometric"] != pixels.photometric:
        changed[_PHOTOMETRIC] = _element(_PHOTOMETRIC, "CS", described["photometric"].encode())
    if pixels.samples > 1:
        changed[_PLANAR] = _element(_PLANAR, "US", struct.pack("<H", described["planar"]))
    return changed


def _meta(found: OpenFile) -> bytes:
    """Return the preamble and the file meta information, with the new transfer syntax (PS3.10 §7.1)."""
    meta, top = found.meta, found.top
    values = {
        _META_VERSION: ("OB", b"\0\1"),
        _META_CLASS: ("UI", top.text(0x00080016).encode()),
        _META_INSTANCE: ("UI", top.text(0x00080018).encode()),
        _META_IMPLEMENTATION: ("UI", str(PYDICOM_IMPLEMENTATION_UID).encode()),
        **{tag: (vr_of(meta, span), meta.value(span)) for tag, span in meta.spans.items() if tag != _META_LENGTH and not span.undefined},
        _META_SYNTAX: ("UI", EXPLICIT.encode()),
    }
    group = b"".join(_element(tag, *values[tag]) for tag in sorted(values))
    return bytes(128) + b"DICM" + _element(_META_LENGTH, "UL", struct.pack("<L", len(group))) + group


def _before(top: Level, outside: Span | None, changed: Mapping[int, bytes]) -> bytes:
    tags = {*top.spans, *(tag for tag, element in changed.items() if element)}
    return _elements(top, [tag for tag in tags if outside is None or tag < outside.tag], changed)


def _elements(level: Level, tags: Iterable[int], changed: Mapping[int, bytes]) -> bytes:
    """Return elements, by tag and without group lengths, which would be wrong now."""
    return b"".join(changed[tag] if tag in changed else _written(level, level.spans[tag]) for tag in sorted(tags) if tag & 0xFFFF)


def _written(level: Level, span: Span) -> bytes:
    vr = vr_of(level, span)
    if span.cut:
        raise Unreadable("header-cut")
    if vr == "SQ":
        try:
            return _sequence(level, span)
        except Unreadable:
            if span.undefined or span.vr == "SQ":
                raise
            vr = "UN"  # a dictionary's mistake
    if span.undefined:  # compressed pixels in an icon: they stay as they are
        return _header(span.tag, vr, UNDEFINED) + level.value(span)
    return _element(span.tag, vr, level.little_endian(span, vr))


def _sequence(level: Level, span: Span) -> bytes:
    written = []
    for item in items(level, span):
        if not item.whole:
            raise Unreadable("header-cut")
        content = _elements(item, item.spans, {})
        written.append(struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, len(content)) + content)
    value = b"".join(written)
    return _header(span.tag, "SQ", len(value)) + value


def _element(tag: int, vr: str, value: bytes) -> bytes:
    if len(value) & 1:
        value += b" " if vr in _TEXT else b"\0"
    if vr not in _LONG and len(value) > 0xFFFF:
        vr = "UN"  # it has no room for the length (PS3.5 §6.2.2)
    return _header(tag, vr, len(value)) + value


def _header(tag: int, vr: str, length: int) -> bytes:
    if vr in _LONG:
        return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)
