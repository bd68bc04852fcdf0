"""Transfer syntaxes: which media type the frames of each have (PS3.18 table 8.7.3-5), and which can be decoded. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from storage_ledger.web.dicomweb.accept import AS_STORED, EXPLICIT_LITTLE_ENDIAN, Acceptable

OCTET_STREAM = "application/octet-stream"

NATIVE = frozenset({"1.2.840.10008.1.2", EXPLICIT_LITTLE_ENDIAN, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
"""Uncompressed pixels: implicit, explicit, deflated, and big endian."""

_JPEG = "1.2.840.10008.1.2.4."
MEDIA_TYPES = {
    **dict.fromkeys((f"{_JPEG}{last}" for last in (50, 51, 57, 70)), "image/jpeg"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (80, 81)), "image/jls"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (90, 91)), "image/jp2"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (92, 93)), "image/jpx"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (201, 202, 203)), "image/jphc"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (100, 101)), "video/mpeg"),
    **dict.fromkeys((f"{_JPEG}{last}" for last in (102, 103, 104, 105, 106, 107, 108)), "video/mp4"),
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
"""Of a compressed frame, by transfer syntax."""

DECODABLE = NATIVE | frozenset({"1.2.840.10008.1.2.5", *(f"{_JPEG}{last}" for last in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203))})
"""Those that the workers can decode: `render.DECODERS`, which the web page's process does not load."""


@dataclass(frozen=True, slots=True)
class FrameForm:
    """How frames are sent. `stored`: as they are in the file, else decoded."""

    media_type: str
    syntax: str
    stored: bool
    multipart: bool

    @property
    def part_type(self) -> str:
        """The Content-Type of one frame."""
        return f"{self.media_type}; transfer-syntax={self.syntax}"


def frame_form(accepted: Sequence[Acceptable], stored: str, frames: int) -> FrameForm | None:
    """Return how `frames` frames of an instance in the transfer syntax `stored` are sent; None: not as the client accepts them."""
    for each in accepted:
        if each.multipart is False and frames > 1:
            continue
        multipart = each.multipart is not False
        for media_type, syntax, as_stored in _forms(each, stored):
            return FrameForm(media_type, syntax, as_stored, multipart)
    return None


def _forms(each: Acceptable, stored: str) -> Iterator[tuple[str, str, bool]]:
    """Yield what satisfies this alternative, the best first."""
    uncompressed = OCTET_STREAM, EXPLICIT_LITTLE_ENDIAN, False
    if stored in NATIVE or stored == "":
        if each.allows(OCTET_STREAM) and each.syntax in {None, AS_STORED, EXPLICIT_LITTLE_ENDIAN, stored}:
            yield OCTET_STREAM, EXPLICIT_LITTLE_ENDIAN, True
        return
    own_type = MEDIA_TYPES.get(stored, OCTET_STREAM)
    takes_stored = each.syntax in {AS_STORED, stored}
    if takes_stored and each.allows(own_type):
        yield own_type, stored, True
    if takes_stored and each.allows(OCTET_STREAM):  # what viewers ask for; the transfer syntax says what the octets are
        yield OCTET_STREAM, stored, True
    if each.syntax in {None, EXPLICIT_LITTLE_ENDIAN} and each.allows(OCTET_STREAM) and stored in DECODABLE:
        yield uncompressed
    if each.syntax is None and each.allows(own_type):
        yield own_type, stored, True
