"""Whether a JSON object is valid as DICOM JSON (PS3.18 Annex F)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
BULK = BINARY | {"DS", "FL", "FD", "IS", "LT", "SL", "SS", "ST", "SV", "UC", "UL", "UN", "US", "UT", "UV"}
TEXTS = {"AE", "AS", "AT", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
WHOLE_NUMBERS = {"SL": (-(1 << 31), (1 << 31) - 1), "SS": (-(1 << 15), (1 << 15) - 1), "UL": (0, (1 << 32) - 1), "US": (0, (1 << 16) - 1)}
GROUPS = {"Alphabetic", "Ideographic", "Phonetic"}
SAFE = (1 << 53) - 1


def faults(document: bytes) -> list[str]:
    """Return what is wrong with a document; an empty list if nothing is."""

    def no_constants(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        parsed = json.loads(document.decode("utf-8"), parse_constant=no_constants, object_pairs_hook=no_doubles)
    except ValueError as error:
        return [str(error)]
    return faults_of(parsed) if isinstance(parsed, dict) else ["no object"]


def faults_of(data_set: dict[str, Any]) -> list[str]:
    """Return what is wrong with a data set."""
    return list(_data_set(data_set, ""))


def _data_set(level: dict[str, Any], where: str) -> Iterator[str]:
    if list(level) != sorted(level):
        yield f"{where}: not in the order of tags (F.2.2)"
    for tag, element in level.items():
        here = f"{where}/{tag}"
        if not re.fullmatch("[0-9A-F]{8}", tag) or tag.endswith("0000"):
            yield f"{here}: no name of an attribute (F.2.2)"
        if not isinstance(element, dict) or "vr" not in element:
            yield f"{here}: no vr"
            continue
        if not element.keys() <= {"vr", "Value", "BulkDataURI", "InlineBinary"} or len(element) > 2:
            yield f"{here}: members {sorted(element)}"
        yield from _element(element, here)


def _element(element: dict[str, Any], here: str) -> Iterator[str]:
    vr = element["vr"]
    if vr not in BINARY | BULK | TEXTS | {"PN", "SQ"}:
        yield f"{here}: unknown vr {vr}"
    if "BulkDataURI" in element and not (vr in BULK and isinstance(element["BulkDataURI"], str) and element["BulkDataURI"]):
        yield f"{here}: BulkDataURI (F.2.6)"
    if "InlineBinary" in element:
        try:
            good = bool(base64.b64decode(element["InlineBinary"], validate=True))
        except (ValueError, TypeError):
            good = False
        if not good or vr not in BINARY:
            yield f"{here}: InlineBinary (F.2.7)"
    if "Value" in element:
        values = element["Value"]
        if vr in BINARY or not isinstance(values, list) or not values or values == [None]:
            yield f"{here}: Value of {vr}: {str(values)[:40]} (F.2.4, F.2.5)"
            return
        for number, value in enumerate(values, 1):
            if vr == "SQ":
                yield from _data_set(value, f"{here}/{number}") if isinstance(value, dict) else [f"{here}: an item is no object"]
            elif value is not None and not _is_of(value, vr):
                yield f"{here}: {value!r} as {vr} (Table F.2.3-1)"


def _is_of(value: Any, vr: str) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match vr:
        case "PN":
            return (
                isinstance(value, dict) and bool(value) and value.keys() <= GROUPS and all(isinstance(v, str) and v for v in value.values())
            )
        case "AT":
            return isinstance(value, str) and bool(re.fullmatch("[0-9A-F]{8}", value))
        case "IS" | "DS":
            return is_number or (isinstance(value, str) and value != "")
        case "SV" | "UV":
            return (isinstance(value, int) and abs(value) <= SAFE) or (isinstance(value, str) and bool(re.fullmatch("-?[0-9]+", value)))
        case "FL" | "FD":
            return is_number
        case _ if vr in WHOLE_NUMBERS:
            low, high = WHOLE_NUMBERS[vr]
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        case _:
            return isinstance(value, str) and value != ""
