"""What representation a request accepts: the Accept header and the parameter `accept` (PS3.18 §8.7; RFC 9110 §12.5.1). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
AS_STORED = "*"
"""As a transfer syntax: whatever the file has."""

XML = "application/dicom+xml"
MAX_RANGES = 64

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[^"]')


@dataclass(frozen=True, slots=True)
class Acceptable:
    """One alternative of a request, for one part. `multipart`: None if the client takes both. `syntax`: None if it names none."""

    type: str
    multipart: bool | None = None
    syntax: str | None = None

    def allows(self, media_type: str) -> bool:
        """Return whether this alternative includes the media type."""
        main, _, sub = self.type.partition("/")
        of, _, kind = media_type.partition("/")
        return main in {"*", of} and sub in {"*", kind}


def acceptable(header: str, parameters: Sequence[str]) -> list[Acceptable]:
    """Return the alternatives in order of preference: those of the query parameter `accept` first, and only those if there are any.

    `parameters`: its values. Without both, everything is accepted. Raises `ValueError` if one is not a media range.
    """
    text = ", ".join(each for each in parameters if each.strip())
    ranked = sorted(_ranges(text or header or "*/*"), key=lambda pair: -pair[0])
    return [each for quality, each in ranked if quality > 0]


def _ranges(text: str) -> Iterable[tuple[float, Acceptable]]:
    found = [each for each in _split(text, ",") if each.strip()]
    if len(found) > MAX_RANGES:
        raise ValueError(f"Accept: more than {MAX_RANGES} media types")
    for each in found:
        kind, parameters = _media_type(each)
        quality = _quality(parameters.get("q", "1"))
        syntax = parameters.get("transfer-syntax")
        if kind != "multipart/related":
            yield quality, Acceptable(kind, None if kind == "*/*" else False, syntax)
            continue
        part, inner = _media_type(parameters.get("type", "*/*"))  # clients put the transfer syntax inside the quotes, too
        yield quality, Acceptable(part, multipart=True, syntax=inner.get("transfer-syntax", syntax))


def _media_type(text: str) -> tuple[str, Mapping[str, str]]:
    kind, *rest = (part.strip() for part in _split(text, ";"))
    kind = kind.lower()
    if kind == "*":
        kind = "*/*"
    if not re.fullmatch(r"[\w!#$&^*.+-]+/[\w!#$&^*.+-]+", kind, re.ASCII):
        raise ValueError("Accept: not a list of media types")
    pairs = (each.partition("=") for each in rest if each)
    return kind, {name.strip().lower(): _unquoted(value.strip()) for name, _, value in pairs}


def _quality(text: str) -> float:
    if not re.fullmatch(r"[01](?:\.[0-9]{0,3})?|\.[0-9]{1,3}", text):  # Java's own clients send q=.2
        raise ValueError("Accept: q is not a number from 0 to 1")
    return float(text)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text


def _split(text: str, separator: str) -> list[str]:
    """Split where the separator is outside quotes. Raises `ValueError` if a quote is not closed."""
    parts = [""]
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError("Accept: a quote is not closed")
        if piece[0] == separator:
            parts.append("")
        else:
            parts[-1] += piece[0]
        at = piece.end()
    return parts


def data_set_type(accepted: Sequence[Acceptable]) -> str | None:
    """Return the media type of data sets (§8.7.3.2): of DICOM JSON, or of each part if it is XML. None if the client takes neither."""
    for each in accepted:
        for kind in (XML,) if each.multipart else ("application/dicom+json", "application/json"):
            if each.allows(kind):
                return kind
    return None


def syntax_for(accepted: Acceptable, stored: str, *, decodable: bool) -> str | None:
    """Return the transfer syntax in which a stored instance or frame satisfies this alternative; None if none does.

    Without a named syntax it is Explicit VR Little Endian (§8.7.3.5.2). `decodable`: whether the stored one can be decoded.
    """
    match accepted.syntax or EXPLICIT_LITTLE_ENDIAN:
        case "*":
            return stored
        case named if named == stored:
            return stored
        case named if named == EXPLICIT_LITTLE_ENDIAN and decodable:
            return named
        case _:
            return None
