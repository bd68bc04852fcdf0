"""Canonical JSON and the two hashes of an entry.

Fixed formats: what is stored, mirrored and proved depends on every byte of them. A golden vector stands in
docs/reference/hashes.md and in the tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def dumps(value: object) -> str:
    """Canonical JSON: keys sorted by code point, no spaces, not escaped to ASCII.

    Raises `ValueError` for NaN and infinities, `UnicodeEncodeError` for a lone surrogate: neither can be stored.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text


def loads(text: str) -> Any:
    """What `dumps` wrote."""
    return json.loads(text)


def payload_sha256(salt: bytes, payload: str) -> str:
    """Lower-case hex of SHA-256(salt ‖ payload as stored, UTF-8)."""
    return hashlib.sha256(salt + payload.encode("utf-8")).hexdigest()


def header(fields: Mapping[str, object]) -> bytes:
    """The canonical JSON of exactly the nine header fields, UTF-8."""
    return dumps({name: fields[name] for name in HEADER}).encode("utf-8")


def leaf_hash(fields: Mapping[str, object]) -> bytes:
    """SHA-256(0x00 ‖ header), 32 bytes: a leaf of an RFC 6962 §2.1 Merkle tree."""
    return hashlib.sha256(b"\x00" + header(fields)).digest()


HEADER = ("cause", "entry_id", "kind", "payload_sha256", "position", "recorded_at", "schema", "study_id", "version")
