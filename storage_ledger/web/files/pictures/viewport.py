"""An image at the size and in the format that was asked for. Only for worker processes, like `render`."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, ImageOps

from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable

MAX_SIDE = 8192
"""No image is enlarged beyond this width or height."""

JPEG_UP_TO = 256
"""Images up to this size are JPEG, which is small. Larger ones, which a user may examine, are PNG: every grey value is kept."""

JPEG_QUALITY = 88


def sized(image: Image.Image, aspect: float, request: RenderRequest) -> Image.Image:
    """Return the image that fits the request's size or viewport; `aspect` is a pixel's height divided by its width.

    The size never enlarges, a viewport does. Raises `Unavailable` (`no-such-region`) if the viewport's source is not in the image.
    """
    if request.viewport is None:
        return image.resize(fitting(image.size, aspect, request.size), Image.Resampling.BOX, reducing_gap=None)
    width, height, *source = request.viewport
    if source:
        image = _region(image, *source)
    fitted = fitting(image.size, aspect, min(width or 1, MAX_SIDE), min(height or 1, MAX_SIDE), enlarge=True)
    smaller = fitted[0] <= image.width and fitted[1] <= image.height
    return image.resize(fitted, Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC, reducing_gap=None)


def encoded(image: Image.Image, request: RenderRequest) -> Rendered:
    """Return the image in the requested format, or in the one that suits its size."""
    media: Literal["jpeg", "png", "gif"] = request.media or ("jpeg" if request.size <= JPEG_UP_TO else "png")
    buffer = io.BytesIO()
    match media:
        case "jpeg":
            image.save(buffer, "JPEG", quality=request.quality or JPEG_QUALITY)
        case "png":
            image.save(buffer, "PNG", compress_level=1)
        case "gif":
            image.save(buffer, "GIF")
    return Rendered(media, buffer.getvalue())


def fitting(size: tuple[int, int], aspect: float, width: float, height: float | None = None, *, enlarge: bool = False) -> tuple[int, int]:
    """Return the largest size that keeps the proportions within these limits."""
    own_width, own_height = (size[0], size[1] * aspect) if aspect >= 1 else (size[0] / aspect, size[1])
    scale = min(width / own_width, (width if height is None else height) / own_height)
    scale = scale if enlarge else min(1.0, scale)
    return max(1, round(own_width * scale)), max(1, round(own_height * scale))


def _region(image: Image.Image, x: float | None, y: float | None, width: float | None, height: float | None) -> Image.Image:
    """Cut out the source of a viewport; a negative width or height flips it (PS3.18 §8.3.5.1.3)."""
    x, y, width, height = x or 0, y or 0, width or image.width, height or image.height
    box = (max(0, round(x)), max(0, round(y)), min(image.width, round(x + abs(width))), min(image.height, round(y + abs(height))))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise Unavailable("no-such-region")
    image = image.crop(box)
    if width < 0:
        image = ImageOps.mirror(image)
    return ImageOps.flip(image) if height < 0 else image
