"""Pictures and headers of DICOM files, made in processes of their own: a file is hostile until shown otherwise.

`render` makes a picture of one frame, `header` a table of elements, `worker` is the process in which both happen, `pool` keeps
a few of these and ends the ones that take too long, `cache` keeps what they made. `serve` loads none of it.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Literal

MediaKind = Literal["png", "jpeg", "json"]

SIZES = (128, 256, 512, 1024, 2048)
"""The sides of the squares, in pixels, into which pictures are made to fit."""

MAX_FRAME = 1 << 24

WHY = {
    "no-pixels": "There is no picture in this file.",
    "not-dicom": "This file is not DICOM.",
    "header-unreadable": "The header of this file cannot be read.",
    "no-such-frame": "The file has no such frame.",
    "syntax-unsupported": "Nothing here decodes this transfer syntax: 12-bit lossy JPEG, video, or a rare one. The file can be downloaded.",
    "pixels-unreadable": "The pixels cannot be decoded: they are damaged, or not as the header says.",
    "picture-too-large": "Making the picture takes more memory than it may.",
    "picture-too-slow": "Making the picture takes longer than it may.",
    "picture-crashed": "The decoder crashed on this file.",
    "pictures-busy": "Too many pictures are asked for just now: try again.",
    "archive-missing": "The archive cannot be reached just now.",
    "file-missing": "The archive does not have this file.",
    "file-changed": "The file in the archive is not the one that was archived.",
    "file-unreadable": "The file in the archive cannot be read.",
}
"""Why there is no picture: code → the text shown."""


class Unavailable(Exception):
    """There is none to be had; `code` is a key of `WHY`. `where` names the place in the program, never a value."""

    def __init__(self, code: str, where: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.where = where


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """What is wanted of a file.

    `picture`: frame number `frame` (from 0) within `size` by `size` pixels, with a window (centre, width; in the values that
    the modality LUT gives, Hounsfield units for CT) or the file's own. `about`: what can be asked of it. `header`: its elements.
    """

    what: Literal["picture", "about", "header"]
    frame: int = 0
    size: int = SIZES[0]
    window: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """For a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RenderRequest:
        """The reverse."""
        window = document.pop("window")
        return cls(**document, window=None if window is None else (float(window[0]), float(window[1])))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered picture or document: its bytes, and their type."""

    kind: MediaKind
    data: bytes


LENGTHS = struct.Struct("!II")
"""Before what a worker says: the length of its JSON, and of the bytes behind that."""

MAX_REQUEST_BYTES = 4096
