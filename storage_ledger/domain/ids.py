"""Creates identifiers and timestamps from values passed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def uuid7(unix_ms: int, random_bytes: bytes) -> str:
    """Return a UUID version 7 (RFC 9562 §5.7) from milliseconds since 1970 and 10 random bytes."""
    rand = int.from_bytes(random_bytes[:10], "big")
    value = (unix_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (rand >> 64 & 0xFFF) << 64 | 0b10 << 62 | rand & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def rfc3339(moment: datetime) -> str:
    """Return the time as RFC 3339 in UTC with microseconds and `Z`; such texts sort chronologically."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="microseconds")[:-6] + "Z"  # without +00:00


def instant(text: str) -> datetime:
    """Parse a time written by `rfc3339`."""
    return datetime.fromisoformat(text)


def later(text: str, seconds: float) -> str:
    """Return the time `seconds` after `text`, both as RFC 3339."""
    return rfc3339(instant(text) + timedelta(seconds=seconds))
