"""Images and headers of DICOM files, rendered in separate processes because a file may be malicious.

`render` renders one frame as an image, `header_table` lists the header's elements; both run in a `worker` process. `pool` runs
the workers and ends those that take too long, `cache` keeps the results. `serve` loads none of this.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal

MediaKind = Literal["png", "jpeg", "json"]

SIZES = (128, 256, 512, 1024, 2048)
"""Image sizes in pixels: width and height are at most this."""

MAX_FRAME = 1 << 24

WHY = {
    "no-pixels": "This file contains no image.",
    "not-dicom": "This file is not DICOM.",
    "header-unreadable": "The header of this file cannot be read.",
    "no-such-frame": "This file has fewer frames.",
    "syntax-unsupported": "No decoder for this transfer syntax (12-bit lossy JPEG, video or a rare one). You can download the file.",
    "pixels-unreadable": "The pixels cannot be decoded: they are damaged or do not match the header.",
    "picture-too-large": "Rendering this image needs too much memory.",
    "picture-too-slow": "Rendering this image takes too long.",
    "picture-crashed": "The decoder crashed on this file.",
    "pictures-busy": "Too many images are being rendered. Try again in a moment.",
    "archive-missing": "The archive is not available. Try again later.",
    "file-missing": "This file is missing from the archive.",
    "file-changed": "This file is no longer the one that was archived: it does not match the ledger.",
    "file-unreadable": "This file cannot be read from the archive.",
}
"""Why there is no image, header or file: code → text for the user."""


class Unavailable(Exception):
    """An image, header or file is not available. `code` is a key of `WHY`; `where` is a place in the code, never a value."""

    def __init__(self, code: str, where: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.where = where


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A request to a worker, about one file.

    `picture`: render frame `frame` (from 0), at most `size` by `size` pixels, with a window (centre, width) or the file's own. The
    window is in values after the modality LUT: Hounsfield units for CT. `about`: return frames and windows. `header`: list the
    header's elements.
    """

    what: Literal["picture", "about", "header"]
    frame: int = 0
    size: int = SIZES[0]
    window: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON for a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RenderRequest:
        """Parse the JSON of `to_json`."""
        window = document.pop("window")
        return cls(**document, window=None if window is None else (float(window[0]), float(window[1])))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered image or JSON document: its type and bytes."""

    kind: MediaKind
    data: bytes


LENGTHS = struct.Struct("!II")
"""Header of a worker's answer: the length of its JSON, and of the data that follows it."""

MAX_REQUEST_BYTES = 4096
