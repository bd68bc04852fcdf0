"""Images and headers of DICOM files, rendered in separate processes because a file may be malicious.

`render` renders one frame as an image, `header_table` lists the header's elements, `dicom_json`, `bulk_data`, `frames` and `explicit`
return what DICOMweb asks for; all run in a `worker` process. `pool` runs the workers and ends those that take too long, `cache` keeps
the results. `serve` loads none of this.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

MediaKind = Literal["png", "jpeg", "json", "gif", "bytes"]

SIZES = (128, 256, 512, 1024, 2048)
"""Image sizes in pixels: width and height are at most this."""

MAX_FRAME = 1 << 24

WHY = {
    "no-pixels": "This file contains no image.",
    "not-dicom": "This file is not DICOM.",
    "header-unreadable": "The header of this file cannot be read.",
    "no-such-frame": "This file has fewer frames.",
    "no-such-element": "This file has no such element.",
    "no-such-region": "This region is not in the image.",
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
    """A request to a worker, about a file, or the same about several.

    `picture`: render frame `frame` (from 0), at most `size` by `size` pixels, with a window (centre, width) or the file's own. The
    window is in values after the modality LUT: Hounsfield units for CT. `function` replaces the file's function for that window.
    `media` and `quality` (1 to 100, of JPEG) are chosen by size if missing. `viewport`, in place of `size`: width and height, then
    possibly x, y, width and height of the source, each None for all of it, negative to flip it (PS3.18 §8.3.5.1.3).
    `about`: return frames and windows. `header`: list the header's elements.

    `dicom-json`, `dicom-xml`: the data set as DICOM JSON (`dicom_json.document`) or XML (`native_model`). `bulk`: a value that this
    leaves out, by its `path`. `frame`: one frame, as `stored` in the file or decoded. `explicit`: what is needed to write the file in
    Explicit VR Little Endian.
    """

    what: Literal["picture", "about", "header", "dicom-json", "dicom-xml", "bulk", "frame", "explicit"]
    frame: int = 0
    size: int = SIZES[0]
    window: tuple[float, float] | None = None
    function: Literal["linear", "linear-exact", "sigmoid"] | None = None
    media: Literal["jpeg", "png", "gif"] | None = None
    quality: int | None = None
    viewport: tuple[float | None, ...] | None = None
    path: str = ""
    stored: bool = False

    @lru_cache(256)  # noqa: B019 - requests are small, and the same one is made of thousands of files
    def to_json(self) -> str:
        """Return the request as JSON for a worker."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> RenderRequest:
        """Parse the JSON of `to_json`."""
        document = json.loads(text)
        window, viewport = document.pop("window"), document.pop("viewport")
        return cls(
            **document,
            window=None if window is None else (float(window[0]), float(window[1])),
            viewport=None if viewport is None else tuple(viewport),
        )


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered image, JSON document or other bytes.

    `about` describes the bytes. It comes from a worker: like the file, it is untrusted, and its types have to be checked.
    """

    kind: MediaKind
    data: bytes
    about: dict[str, Any] = field(default_factory=dict, hash=False)


LENGTHS = struct.Struct("!II")
"""Header of a worker's answer: the length of its JSON, and of the data that follows it."""

MAX_REQUEST_BYTES = 4096
MAX_FILES = 16
"""Of one request. A worker answers for each, in their order."""
MAX_ANSWER_BYTES = 64 << 20
