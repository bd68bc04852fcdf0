"""Cosignatures of witnesses: Ed25519 over a checkpoint with the time (c2sp.org/tlog-cosignature v1.0.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from storage_ledger.domain.checkpoint import cosigned
from storage_ledger.domain.signed_note import COSIGNATURE, Signature, VerifierKey
from storage_ledger.ledger.proof.keys import SigningKey, is_signed

_TIME = struct.Struct(">Q")


def cosigner(key: SigningKey) -> VerifierKey:
    """Return the public key that verifies what `cosign` signs."""
    return VerifierKey(key.name, COSIGNATURE, key.verifier.public_key)


def cosign(key: SigningKey, text: str, time: int) -> Signature:
    """Sign the text of a checkpoint at a time in seconds since 1970."""
    return Signature(key.name, cosigner(key).key_id, _TIME.pack(time) + key.private.sign(cosigned(time, text)))


def cosigned_at(text: str, signatures: Iterable[Signature], witness: VerifierKey) -> tuple[Signature, int] | None:
    """Return the first valid cosignature of a witness, with its time in seconds since 1970; None if there is none."""
    for each in signatures:
        if each.is_by(witness) and len(each.value) > _TIME.size:
            time = _TIME.unpack_from(each.value)[0]
            if is_signed(cosigned(time, text), each.value[_TIME.size :], witness):
                return each, time
    return None
