"""One frame of a DICOM file as an image. Only for worker processes, because a malicious file may crash the decoder.

Grey values go through (DICOM PS3.3 §C.11, PS3.4 §N.2): stored value → modality LUT → VOI LUT or window → inversion if white
means low. These steps run once per possible value, at most 65,536, and the pixels are then looked up in the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from storage_ledger.web.files.pictures import Rendered, RenderRequest, Unavailable
from storage_ledger.web.files.pictures.viewport import encoded, sized

TAGS = (
    "SOPClassUID", "Modality", "Rows", "Columns", "NumberOfFrames", "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "PresentationLUTShape",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "FrameTime", "CineRate", "RecommendedDisplayFrameRate",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip

MAX_WINDOWS = 16
CT_WINDOWS = (
    ("Soft tissue", 40.0, 400.0), ("Lung", -600.0, 1500.0), ("Bone", 480.0, 2500.0), ("Brain", 40.0, 80.0), ("Liver", 60.0, 160.0),
)  # fmt: skip
"""Common windows in Hounsfield units: name, centre, width."""

DECODERS: Mapping[str, str] = {
    JPEGBaseline8Bit: "pillow", JPEGExtended12Bit: "pillow",
    JPEG2000Lossless: "pylibjpeg", JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg", HTJ2KLosslessRPCL: "pylibjpeg", HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
    JPEGLossless: "gdcm", JPEGLosslessSV1: "gdcm", JPEGLSLossless: "gdcm", JPEGLSNearLossless: "gdcm",
}  # fmt: skip
"""The decoder for each compressed syntax. pydicom would ask GDCM first, whose bundled libraries are of 1998 to 2017."""

_PADDED = (0.5, 99.5)
_MAX_VALUES = 1 << 16
_MAX_ASPECT = 8.0

Pixels: TypeAlias = NDArray[Any]


def picture(file: BinaryIO, request: RenderRequest) -> Rendered:
    """Render the frame as PNG, or as JPEG if small, unless the request says otherwise. Raises `Unavailable`."""
    dataset = read(file)
    pixels = _decode(file, dataset, request.frame)
    image = _image(pixels, dataset, request)
    return encoded(sized(image, _aspect(dataset, request.frame), request), request)


def about(file: BinaryIO, request: RenderRequest) -> dict[str, Any]:
    """Return `frames`, `rows`, `columns`, `frame_ms` (0: not a cine loop) and `windows` (name, centre, width) for a viewer.

    The first window is the one used if a request names none. Raises `Unavailable` if the frame cannot be shown.
    """
    dataset = read(file)
    pixels = _decode(file, dataset, request.frame)
    windows = [] if _is_colour(pixels, dataset) else _windows(dataset, request.frame)
    if not windows and not _is_colour(pixels, dataset):
        windows = [("Automatic", *_automatic(_Values(pixels, dataset, request.frame)))]
    if str(dataset.get("Modality", "")) == "CT" and "RescaleSlope" in dataset and not _is_colour(pixels, dataset):
        windows += CT_WINDOWS
    return {
        "frames": _frames(dataset),
        "rows": int(pixels.shape[0]),
        "columns": int(pixels.shape[1]),
        "frame_ms": _frame_ms(dataset) if _frames(dataset) > 1 else 0,
        "windows": [{"name": name, "center": center, "width": width} for name, center, width in windows],
    }


def read(file: BinaryIO) -> Dataset:
    """Read the header elements that describe the image (`TAGS`). Raises `Unavailable`."""
    try:
        return _dcmread(file, force=False)
    except InvalidDicomError:
        dataset = _dcmread(file, force=True)  # without the preamble of PS3.10 §7.1
        if "SOPClassUID" not in dataset:
            raise Unavailable("not-dicom") from None
        return dataset


def _dcmread(file: BinaryIO, *, force: bool) -> Dataset:
    file.seek(0)
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=force)


def _frames(dataset: Dataset) -> int:
    return max(1, int(dataset.get("NumberOfFrames") or 1))


def _frame_ms(dataset: Dataset) -> int:
    """Return how long each frame of a cine loop is shown, in milliseconds (PS3.3 §C.7.6.5)."""
    if time := _number(dataset.get("FrameTime")):
        return round(min(max(time, 10), 10_000))
    rate = _number(dataset.get("RecommendedDisplayFrameRate")) or _number(dataset.get("CineRate"))
    return round(min(max(1000 / rate, 10), 10_000)) if rate and rate > 0 else 0


def _decode(file: BinaryIO, dataset: Dataset, frame: int) -> Pixels:
    """Decode one frame, reading no more of the file. Returns rows, columns and, for colour, samples; YBR becomes RGB."""
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise Unavailable("no-pixels")
    if not 0 <= frame < _frames(dataset):
        raise Unavailable("no-such-frame")
    with decoding():
        pixels: Pixels = _pixels(file, dataset, frame)
    if pixels.ndim not in {2, 3} or (pixels.ndim == 3 and pixels.shape[2] not in {3, 4}):
        raise Unavailable("pixels-unreadable")
    return pixels


@contextmanager
def decoding() -> Iterator[None]:
    """Turn pydicom's errors about pixel data into `Unavailable`."""
    try:
        yield
    except NotImplementedError:
        raise Unavailable("syntax-unsupported") from None
    except ValueError as error:
        raise Unavailable("pixels-unreadable") from error
    except AttributeError as error:
        # pydicom raises it for a file without pixel data and for a header without the elements that describe it.
        raise Unavailable("no-pixels" if "no 'Pixel Data'" in str(error) else "pixels-unreadable") from error
    except RuntimeError as error:
        unsupported = "plugins are missing" in str(error) or "does not support" in str(error)  # such as 12-bit JPEG: docs/adr/0011
        raise Unavailable("syntax-unsupported" if unsupported else "pixels-unreadable") from error


def _pixels(file: BinaryIO, dataset: Dataset, frame: int) -> Pixels:
    file.seek(0)
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax == DeflatedExplicitVRLittleEndian:  # a frame can only be reached by decompressing everything before it
        return pixel_array(pydicom.dcmread(file), index=frame)
    options: dict[str, Any] = {"decoding_plugin": DECODERS.get(syntax, "")} if syntax else {"transfer_syntax_uid": _guessed_syntax(dataset)}
    return pixel_array(file, index=frame, **options)


def _guessed_syntax(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian


def _is_colour(pixels: Pixels, dataset: Dataset) -> bool:
    return pixels.ndim == 3 or str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR"


def _image(pixels: Pixels, dataset: Dataset, request: RenderRequest) -> Image.Image:
    if pixels.ndim == 3:
        return Image.fromarray(_eight_bits(pixels[..., :3], int(dataset.get("BitsStored") or 8)))
    if str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR":
        colours = apply_color_lut(pixels, dataset)
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return Image.fromarray(_eight_bits(colours[..., :3], 16 if colours.dtype.itemsize == 2 else bits))
    return Image.fromarray(_grey(_Values(pixels, dataset, request.frame), request))


def _eight_bits(pixels: Pixels, bits: int) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray((pixels >> max(0, bits - 8)).clip(0, 255).astype(np.uint8))


class _Values:
    """A grey frame after the modality LUT. `ramp`: its possible values. `at`: each pixel's place in `ramp`."""

    def __init__(self, pixels: Pixels, dataset: Dataset, frame: int) -> None:
        self.about = _of_frame(dataset, frame)
        self.shape = pixels.shape
        stored: Pixels
        if pixels.dtype.kind in "iu" and int(pixels.max()) - int(pixels.min()) < _MAX_VALUES:
            low = int(pixels.min())
            self.at: Pixels = (
                pixels.astype(np.int64, copy=False) - low if pixels.dtype.itemsize > 2 else pixels.astype(np.int32) - low
            ).ravel()
            stored = np.arange(low, int(pixels.max()) + 1, dtype=np.int32 if pixels.dtype.itemsize <= 2 else np.int64)
            self.counts: Pixels = np.bincount(self.at, minlength=len(stored))
        else:
            # Floats and 32-bit values (doses, parametric maps): far more steps than an eye can tell apart.
            finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
            low_, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
            step = (high - low_) / (_MAX_VALUES - 1) or 1.0
            scaled = np.nan_to_num((pixels.astype(np.float32) - low_) / step, nan=0.0).clip(0, _MAX_VALUES - 1)
            self.at = scaled.astype(np.int32).ravel()
            stored = low_ + step * np.arange(_MAX_VALUES, dtype=np.float64)
            self.counts = np.bincount(self.at, minlength=len(stored))
        self._leave_out_padding(stored)
        self.ramp = np.asarray(apply_modality_lut(stored, self.about), dtype=np.float64)

    def _leave_out_padding(self, stored: Pixels) -> None:
        """Ignore the padding around the image when choosing a window (PS3.3 §C.7.5.1.1.2)."""
        first = self.about.get("PixelPaddingValue")
        if isinstance(first, int):
            last = self.about.get("PixelPaddingRangeLimit", first)
            last = last if isinstance(last, int) else first
            padded = (stored >= min(first, last)) & (stored <= max(first, last))
            if self.counts[~padded].any():
                self.counts = np.where(padded, 0, self.counts)


def _grey(values: _Values, request: RenderRequest) -> NDArray[np.uint8]:
    about = values.about
    function = str(about.get("VOILUTFunction") or "LINEAR")
    if request.window is not None:
        asked = request.function.upper().replace("-", "_") if request.function else function
        shown = _windowed(values.ramp, *request.window, asked)
    elif about.get("VOILUTSequence"):
        table = about.VOILUTSequence[0]
        top = max(1, (1 << int(table.LUTDescriptor[2])) - 1)
        shown = np.asarray(apply_voi(np.rint(values.ramp).astype(np.int64), about), dtype=np.float64) / top
    elif own := _own_windows(about):
        shown = _windowed(values.ramp, *own[0][1:], function)
    else:
        shown = _windowed(values.ramp, *_automatic(values), "LINEAR_EXACT")
    shown = shown.clip(0.0, 1.0)
    if str(about.get("PhotometricInterpretation", "")) == "MONOCHROME1" or str(about.get("PresentationLUTShape", "")) == "INVERSE":
        shown = 1.0 - shown
    table_: NDArray[np.uint8] = np.rint(shown * 255).astype(np.uint8)
    grey: NDArray[np.uint8] = table_[values.at].reshape(values.shape)
    return grey


def _windowed(values: Pixels, center: float, width: float, function: str) -> Pixels:
    """Map the window to 0 to 1 (PS3.3 §C.11.2.1.2 and .3). Values outside may be below 0 or above 1."""
    match function:
        case "SIGMOID":
            return np.asarray(1.0 / (1.0 + np.exp((-4.0 * (values - center) / width).clip(-700, 700))))
        case "LINEAR_EXACT":
            return np.asarray((values - center) / width + 0.5)
        case _:
            if width <= 1:
                return np.asarray((values > center - 0.5).astype(np.float64))
            return np.asarray((values - (center - 0.5)) / (width - 1) + 0.5)


def _automatic(values: _Values) -> tuple[float, float]:
    """Return a window (centre, width) over the middle 99 % of the frame's values."""
    total = np.cumsum(values.counts)
    low, high = (float(values.ramp[int(np.searchsorted(total, share / 100 * total[-1]))]) for share in _PADDED)
    low, high = min(low, high), max(low, high)
    return ((low + high) / 2, (high - low) or 1.0)


def _windows(dataset: Dataset, frame: int) -> list[tuple[str, float, float]]:
    return _own_windows(_of_frame(dataset, frame))


def _own_windows(about: Dataset) -> list[tuple[str, float, float]]:
    """Return the windows in the file: name, centre, width."""
    names = [str(name) for name in _list(about.get("WindowCenterWidthExplanation"))]
    found: list[tuple[str, float, float]] = []
    pairs = zip(_list(about.get("WindowCenter")), _list(about.get("WindowWidth")), strict=False)
    for place, (center_, width_) in enumerate(pairs):
        center, width = _number(center_), _number(width_)
        if center is not None and width is not None and width > 0 and len(found) < MAX_WINDOWS:
            name = names[place].strip()[:64] if place < len(names) and names[place].strip() else f"Window {place + 1}"
            found.append((name.encode("utf-8", "replace").decode(), center, width))
    return found


_GROUPS: Mapping[str, tuple[str, ...]] = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
"""Attributes that an enhanced image has once for all frames or once per frame (PS3.3 §C.7.6.16.2)."""


def _of_frame(dataset: Dataset, frame: int) -> Dataset:
    """Return the attributes of one frame as if it were a single-frame image."""
    if "SharedFunctionalGroupsSequence" not in dataset and "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    found = Dataset()
    found.update({element.tag: element for element in dataset if "FunctionalGroups" not in element.keyword})
    for groups in (
        _list(dataset.get("SharedFunctionalGroupsSequence"))[:1],
        _list(dataset.get("PerFrameFunctionalGroupsSequence"))[frame : frame + 1],
    ):
        for group in groups:
            for sequence, keywords in _GROUPS.items():
                for item in _list(group.get(sequence))[:1]:
                    found.update({item[keyword].tag: item[keyword] for keyword in keywords if keyword in item})
    return found


def _aspect(dataset: Dataset, frame: int) -> float:
    """Return a pixel's height divided by its width (PS3.3 §C.7.6.3.1.7, §10.7.1)."""
    about = _of_frame(dataset, frame)
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        pair = [_number(value) for value in _list(about.get(keyword))]
        if len(pair) == 2 and pair[0] and pair[1] and pair[0] > 0 and pair[1] > 0:
            aspect = pair[0] / pair[1]
            return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
    return 1.0


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, bytes, int, float)) or not hasattr(value, "__len__") else list(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
