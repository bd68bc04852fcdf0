"""Canonical JSON and the two hashes of an entry.

These formats are fixed: the ledger, the mirror and every proof depend on each byte. docs/reference/hashes.md has a worked example,
which the tests check.
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
    """Return canonical JSON: keys sorted by code point, no spaces, no ASCII escapes.

    Raises `ValueError` for NaN and infinities and `UnicodeEncodeError` for lone surrogates, which cannot be stored.
    """
    text = _encode_text(value)
    text.encode("utf-8")
    return text


_encode_text = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def loads(text: str | bytes) -> Any:
    """Decode what `dumps` wrote, as text or UTF-8, with integers of any size. Raises `ValueError` if it is not JSON or not storable."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


_decode = msgspec.json.Decoder().decode  # equals `json.loads` for all that `dumps` writes, three times as fast


def payload_sha256(salt: bytes, payload: str | bytes) -> str:
    """Return SHA-256(salt ‖ stored payload) in lower-case hex. A payload in bytes is the UTF-8 of the text."""
    hashed = _begun()
    hashed.update(salt)
    hashed.update(payload if isinstance(payload, bytes) else payload.encode())
    return hashed.hexdigest()


HEADER = ("cause", "entry_id", "kind", "payload_sha256", "position", "recorded_at", "schema", "study_id", "version")


def header(fields: Mapping[str, object]) -> bytes:
    """Return the canonical JSON of exactly the nine header fields, in UTF-8.

    Raises what `dumps` raises, and `TypeError` for a wrong type.
    """
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
    """Like `header`, from values in the order of `HEADER`: the same bytes, seven times as fast.

    A rebuild of the index checks millions of headers.
    """
    types = (
        cause.__class__, entry_id.__class__, kind.__class__, payload_sha256.__class__, position.__class__,
        recorded_at.__class__, schema.__class__, study_id.__class__, version.__class__,
    )  # fmt: skip
    if types not in _TYPES:  # otherwise bytes would be encoded as Base64 text
        raise TypeError("a header field has the wrong type")
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
# Copying a started hash is faster than creating one, which OpenSSL looks up by name.
_begun = hashlib.sha256().copy
_begun_leaf = hashlib.sha256(b"\x00").copy


def leaf_hash(fields: Mapping[str, object]) -> bytes:
    """Return the leaf hash of exactly the nine header fields. Raises the same errors as `header`."""
    return leaf_hash_of(header(fields))


def leaf_hash_of(header: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ header), 32 bytes: a leaf of an RFC 6962 §2.1 Merkle tree."""
    hashed = _begun_leaf()
    hashed.update(header)
    return hashed.digest()
