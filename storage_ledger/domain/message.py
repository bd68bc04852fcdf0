"""Bytes of a message → a `described` event, or the reason why it is rejected.

JSON that is not plain I-JSON (RFC 7493: duplicate keys, numbers beyond a double, lone surrogates) is still accepted. It is converted to
the nearest canonical JSON, and `plain` is False, so that the raw bytes are stored as well.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, StrictStr, ValidationError

from storage_ledger.domain.paths import UploadPaths, valid_study_id
from storage_ledger.errors import Rejected

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_SAFE_INTEGER = (1 << 53) - 1
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class _Group(BaseModel):
    """Any object; its keys are not checked."""


class _Metadata(BaseModel):
    patient_info: _Group | None = None
    study_info: _Group | None = None
    modality_info: _Group | None = None
    exposure_info: _Group | None = None
    location_info: _Group | None = None


class _Message(BaseModel):
    """What is checked; other keys are allowed, and stored as they are."""

    study_id: StrictStr
    file_path: StrictStr
    metadata: _Metadata | None = None
    validation_details: _Group | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A valid `described` event. `upload_path`: its file_path, relative to UPLOADS_PATH."""

    study_id: str
    upload_path: str
    message: dict[str, Any]
    plain: bool


def parse(raw: bytes, paths: UploadPaths) -> Parsed:
    """Parse one message from arbitrary bytes. Raises `Rejected` with a stable code; the detail quotes nothing from the message."""
    if len(raw) > MAX_BYTES:
        raise Rejected("too-large", f"{len(raw)} bytes; the limit is {MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("not-utf8", f"byte {error.start} is not UTF-8") from None
    value, plain = _json(text)
    if not isinstance(value, dict):
        raise Rejected("not-an-object", f"a JSON {_json_type(value)}; an event is a JSON object")
    stated = value.get("study_id")
    study_id = stated if valid_study_id(stated) else None
    brackets = text.count("{") + text.count("[")  # at least as many as levels: the usual message needs no closer look
    if brackets > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise Rejected("nested-too-deep", f"nested deeper than {MAX_DEPTH} levels", study_id=study_id)
    if (path := value.get("file_path")) is not None and isinstance(path, str) and _SURROGATE.search(path):
        raise Rejected("unsafe-path", "file_path cannot be encoded as UTF-8", study_id=study_id)
    if _ESCAPED_SURROGATE.search(text):
        value, clean = _without_surrogates(value)
        plain = plain and clean
    _check_fields(value, study_id)
    if study_id is None:
        raise Rejected(
            "unsafe-study-id",
            "study_id must be 1 to 128 characters of A-Z a-z 0-9 . _ -, start with a letter or digit, and not contain '..'",
        )
    try:
        upload_path = paths.resolve(value["file_path"])
    except ValueError as error:
        raise Rejected("unsafe-path", f"file_path {error}", study_id=study_id) from None
    return Parsed(study_id, upload_path, value, plain)


def _check_fields(value: dict[str, Any], study_id: str | None) -> None:
    try:
        _Message.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        missing = [p for p in problems if p["type"] == "missing"]
        names = ", ".join(".".join(str(part) for part in p["loc"]) for p in (missing or problems))
        code = "missing-field" if missing else "wrong-field"
        expected = "study_id and file_path are strings; metadata, its five groups and validation_details are objects or null"
        raise Rejected(code, f"{names}: {expected}", study_id=study_id) from None


def _json(text: str) -> tuple[Any, bool]:
    """Parse leniently. Returns the value, and whether it is plain I-JSON."""
    odd: list[None] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            odd.append(None)
        return made

    def integer(literal: str) -> int | str:
        if len(literal) <= 17 and abs(number := int(literal)) <= MAX_SAFE_INTEGER:
            return number
        odd.append(None)
        return literal

    def floating(literal: str) -> float | str:
        number = float(literal)
        if len(literal) <= 400 and math.isfinite(number) and _same_number(literal, number):
            return number
        odd.append(None)
        return literal

    def constant(literal: str) -> str:
        odd.append(None)
        return literal

    if text.startswith("\ufeff"):
        odd.append(None)
        text = text[1:]
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=floating, parse_constant=constant)
    except RecursionError:
        raise Rejected("nested-too-deep", f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise Rejected("not-json", f"not JSON at line {error.lineno}, column {error.colno}") from None
    return value, not odd


def _same_number(literal: str, number: float) -> bool:
    try:
        return Decimal(literal) == Decimal(repr(number))
    except InvalidOperation:
        return False


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for item in level if isinstance(item, (dict, list)) for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


def _without_surrogates(value: Any) -> tuple[Any, bool]:
    """Return the value with U+FFFD for each lone surrogate, and whether there was none. The depth was checked before."""
    if isinstance(value, str):
        clean = _SURROGATE.sub("\ufffd", value)
        return clean, clean == value
    if isinstance(value, list):
        items = [_without_surrogates(item) for item in value]
        return [item for item, _ in items], all(ok for _, ok in items)
    if isinstance(value, dict):
        pairs = [(_without_surrogates(key), _without_surrogates(item)) for key, item in value.items()]
        return {key: item for (key, _), (item, _) in pairs}, all(a and b for (_, a), (_, b) in pairs)
    return value, True


def _json_type(value: Any) -> str:
    names = {str: "string", list: "array", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names[type(value)]
