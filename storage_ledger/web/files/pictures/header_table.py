"""All elements of a DICOM file's header as a table. Only for worker processes, like `render`."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag

from storage_ledger.web.files.pictures import Unavailable

MAX_ROWS = 5000
MAX_DEPTH = 24
MAX_CHARACTERS = 1000
MAX_VALUES = 64
DEFERRED_BYTES = 64 << 10
_BINARY = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW"})


def table(file: BinaryIO) -> dict[str, Any]:
    """Return `rows` in the file's order, and `cut`: whether there are more than fit. Raises `Unavailable`.

    Each row has `tag`, `name`, `vr`, `value` (text for people; for binary values the size) and `depth`, 0 at the top. The items
    of a sequence are one level deeper than it, their elements two. Pixel data and everything after it are left out.
    """
    dataset = _read(file)
    rows: list[dict[str, Any]] = []
    if hasattr(dataset, "file_meta"):
        _add(rows, dataset.file_meta, 0)
    cut = not _add(rows, dataset, 0)
    return {"rows": rows, "cut": cut}


def _read(file: BinaryIO) -> Dataset:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, defer_size=DEFERRED_BYTES)
    except InvalidDicomError:
        file.seek(0, os.SEEK_SET)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, defer_size=DEFERRED_BYTES, force=True)
        if not dataset or "SOPClassUID" not in dataset:
            raise Unavailable("not-dicom") from None
        return dataset


def _add(rows: list[dict[str, Any]], dataset: Dataset, depth: int) -> bool:
    """Add rows for a dataset. Returns whether all of it fitted."""
    whole = True
    for tag in sorted(dataset.keys()):
        if len(rows) >= MAX_ROWS:
            return False
        raw: Any = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.value is None and raw.length > DEFERRED_BYTES:
            rows.append(_row(tag, _name(tag), str(raw.VR or ""), f"{raw.length:,} bytes", depth))
            continue
        try:
            element: Any = dataset[tag]
            sequence = bool(element.VR == "SQ")
            value = f"{len(element.value or []):,} items" if sequence else _text(element)
        except Exception:  # noqa: BLE001 - for a corrupt value pydicom raises any exception; the row says so
            rows.append(_row(tag, _name(tag), str(getattr(raw, "VR", "") or ""), "(cannot be read)", depth))
            continue
        rows.append(_row(tag, _safe(element.name), str(element.VR), value, depth))
        if sequence and depth + 2 > MAX_DEPTH:
            whole = False
        elif sequence:
            for number, item in enumerate(element.value or [], 1):
                if len(rows) >= MAX_ROWS:
                    return False
                rows.append(_row(BaseTag(0xFFFEE000), f"Item {number}", "", "", depth + 1))
                whole = _add(rows, item, depth + 2) and whole
    return whole


def _row(tag: BaseTag | int, name: str, vr: str, value: str, depth: int) -> dict[str, Any]:
    tag = BaseTag(tag)
    return {"tag": f"({tag.group:04X},{tag.element:04X})", "name": name, "vr": vr, "value": value, "depth": depth}


def _name(tag: BaseTag | int) -> str:
    return _safe(DataElement(tag, "UN", b"").name)


def _text(element: DataElement) -> str:
    value = element.value
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)) or element.VR in _BINARY:
        return f"{len(value):,} bytes" if hasattr(value, "__len__") else ""
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        more = f" … ({len(value):,} values)" if len(value) > MAX_VALUES else ""
        return _safe("\\".join(str(one) for one in value[:MAX_VALUES])) + more
    text = str(value)
    if element.VR == "UI" and (known := getattr(value, "name", text)) != text:
        text = f"{text} ({known})"
    return _safe(text)


def _safe(text: str) -> str:
    more = f" … ({len(text):,} characters)" if len(text) > MAX_CHARACTERS else ""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode() + more
