"""Canonical JSON and the two hashes of an entry.

Fixed formats: what is stored, mirrored and proved depends on every byte of them. A golden vector stands in
docs/reference/hashes.md and in the tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import product
from types import NoneType
from typing import Any

import msgspec


def dumps(value: object) -> str:
    """Canonical JSON: keys sorted by code point, no spaces, not escaped to ASCII.

    Raises `ValueError` for NaN and infinities, `UnicodeEncodeError` for a lone surrogate: neither can be stored.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    return text


def loads(text: str | bytes) -> Any:
    """What `dumps` wrote, or its UTF-8; integers of any size too. Raises `ValueError` for what is no JSON, or what could not be stored."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


_decode = msgspec.json.Decoder().decode  # as `json.loads` for whatever `dumps` can write, in a third of its time


def payload_sha256(salt: bytes, payload: str | bytes) -> str:
    """Lower-case hex of SHA-256(salt ‖ payload as stored); bytes are its UTF-8."""
    hashed = _begun()
    hashed.update(salt)
    hashed.update(payload if isinstance(payload, bytes) else payload.encode())
    return hashed.hexdigest()


HEADER = ("cause", "entry_id", "kind", "payload_sha256", "position", "recorded_at", "schema", "study_id", "version")


def header(fields: Mapping[str, object]) -> bytes:
    """The canonical JSON of exactly the nine header fields, UTF-8. Raises as `dumps` does, and `TypeError` for a wrong type."""
    return header_of(*(fields[name] for name in HEADER))


def header_of(
    cause: object,
    entry_id: object,
    kind: object,
    payload_sha256: object,
    position: object,
    recorded_at: object,
    schema: object,
    study_id: object,
    version: object,
) -> bytes:
    """The same of the values, in the order of `HEADER`: what `dumps` would write, in a seventh of its time.

    A million of them are checked whenever the index is made anew.
    """
    types = (
        cause.__class__, entry_id.__class__, kind.__class__, payload_sha256.__class__, position.__class__,
        recorded_at.__class__, schema.__class__, study_id.__class__, version.__class__,
    )  # fmt: skip
    if types not in _TYPES:  # else bytes would be written as the text that is their Base64
        raise TypeError("a field of the header is of another type")
    return _encode(_Header(cause, entry_id, kind, payload_sha256, position, recorded_at, schema, study_id, version))


class _Header(msgspec.Struct, gc=False):
    cause: object
    entry_id: object
    kind: object
    payload_sha256: object
    position: object
    recorded_at: object
    schema: object
    study_id: object
    version: object


_TYPES = frozenset(product((NoneType, int), [str], [str], [str], [int], [str], [int], (NoneType, str), (NoneType, int)))
_encode = msgspec.json.Encoder().encode  # fields in the order of the class
# A copy of a hash that has begun takes less time than a new one, which OpenSSL looks up by its name.
_begun = hashlib.sha256().copy
_begun_leaf = hashlib.sha256(b"\x00").copy


def leaf_hash(fields: Mapping[str, object]) -> bytes:
    """The leaf hash of exactly the nine header fields. Raises as `header` does."""
    return leaf_hash_of(header(fields))


def leaf_hash_of(header: bytes) -> bytes:
    """SHA-256(0x00 ‖ header), 32 bytes: a leaf of an RFC 6962 §2.1 Merkle tree."""
    hashed = _begun_leaf()
    hashed.update(header)
    return hashed.digest()
