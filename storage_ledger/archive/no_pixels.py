"""Loads pydicom without the image libraries, which it imports wherever they are installed: 40 MB that reading headers does not need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("numpy", "PIL", "gdcm", "pylibjpeg", "openjpeg", "libjpeg", "rle")


@contextmanager
def without_image_libraries() -> Iterator[None]:
    """Let imports of image libraries fail until the `with` block ends, except those that were imported before."""
    hidden = [name for name in LIBRARIES if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # importing it raises ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
