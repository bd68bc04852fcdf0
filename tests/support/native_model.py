"""XML of the Native DICOM Model, parsed."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from storage_ledger.web.files.pictures.native_model import NAMESPACE

ATTRIBUTE, ITEM, VALUE, BULK_DATA = (f"{{{NAMESPACE}}}{name}" for name in ("DicomAttribute", "Item", "Value", "BulkData"))


def parsed(document: bytes) -> ET.Element:
    """Return the root."""
    root = ET.fromstring(document)  # noqa: S314 - our own
    assert root.tag == f"{{{NAMESPACE}}}NativeDicomModel"
    assert root.get("{http://www.w3.org/XML/1998/namespace}space") == "preserve"
    return root
