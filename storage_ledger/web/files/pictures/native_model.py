"""A data set of DICOM JSON as XML, in the Native DICOM Model (PS3.19 §A.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_HEAD = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_not_xml = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FIRST_PRIVATE = 0x1000


def native_model(data_set: Mapping[str, Any]) -> bytes:
    """Return the document. Characters that XML does not allow become U+FFFD."""
    return "".join((_HEAD, *_attributes(data_set), "</NativeDicomModel>\n")).encode()


def _attributes(level: Mapping[str, Any]) -> Iterator[str]:
    for tag, members in level.items():
        vr = members["vr"]
        yield f'<DicomAttribute tag="{_tag(level, tag)}" vr="{vr}"{_names(level, tag)}>'
        if "BulkDataURI" in members:
            yield f"<BulkData uri={_attribute(members['BulkDataURI'])}/>"
        elif "InlineBinary" in members:
            yield f"<InlineBinary>{members['InlineBinary']}</InlineBinary>"
        for number, value in enumerate(members.get("Value", ()), 1):
            if vr == "SQ":
                yield f'<Item number="{number}">'
                yield from _attributes(value)
                yield "</Item>"
            elif value is not None:
                yield f'<PersonName number="{number}">{_person(value)}</PersonName>' if vr == "PN" else _value(number, value)
        yield "</DicomAttribute>"


def _creator(level: Mapping[str, Any], tag: str) -> str | None:
    """Return the private creator of a private attribute, if there is one."""
    number = int(tag, 16)
    if not number >> 16 & 1 or number & 0xFFFF < _FIRST_PRIVATE:
        return None
    values = level.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value")
    return str(values[0]) if values else None


def _tag(level: Mapping[str, Any], tag: str) -> str:
    """Return the tag, without the block that a private creator has reserved in this file."""
    return tag if _creator(level, tag) is None else f"{tag[:4]}00{tag[6:]}"


def _names(level: Mapping[str, Any], tag: str) -> str:
    creator, keyword = _creator(level, tag), keyword_for_tag(int(tag, 16))
    return (f" keyword={_attribute(keyword)}" if keyword else "") + (f" privateCreator={_attribute(creator)}" if creator else "")


def _person(groups: Mapping[str, str]) -> str:
    written = []
    for group, text in groups.items():
        parts = zip(_COMPONENTS, text.split("^", len(_COMPONENTS) - 1), strict=False)
        written.append(f"<{group}>{''.join(f'<{name}>{_text(part)}</{name}>' for name, part in parts if part)}</{group}>")
    return "".join(written)


def _value(number: int, value: Any) -> str:
    return f'<Value number="{number}">{_text(str(value))}</Value>'


def _text(text: str) -> str:
    return escape(_not_xml.sub("\ufffd", text), {"\r": "&#13;"})


def _attribute(text: str) -> str:
    return quoteattr(_not_xml.sub("\ufffd", text))
