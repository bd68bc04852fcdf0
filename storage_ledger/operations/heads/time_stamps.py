"""Has checkpoints time-stamped by an authority (TSA): RFC 3161 over HTTP.

What is stamped is the SHA-256 of the note's file as it was signed, `ARCHIVE_PATH/.ledger/checkpoints/<size>`, without cosignatures. The
response is kept beside it as it came, `<size>.tsr`.
"""

from __future__ import annotations

import hashlib
import threading

import rfc3161_client
from cryptography import x509
from typing_extensions import override

from storage_ledger.errors import Retryable
from storage_ledger.operations.heads.keeper import Keeper
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.system.http_connection import BROKEN
from storage_ledger.system.http_post import post

WITHIN_S = 20.0
MOST_BYTES = 65_535
"""Of a response: what `CheckpointFolder` reads again."""
LATER = frozenset({408, 425, 429})
_GRANTED = rfc3161_client.PKIStatus.GRANTED.value
_UNSORTED = "InvalidSetOrdering"


class TimeStamps(Place):
    """One authority. `roots`: the certificates that its own must lead to, in PEM form.

    Without roots, a response is kept if it is granted, and for this note and request; nobody has checked its signature then.
    """

    name = "tsa"

    def __init__(self, url: str, roots: bytes | None, keeper: Keeper) -> None:
        self._url = url
        self._roots = roots
        self._keeper = keeper

    @override
    def has(self, head: Head) -> bool:
        kept = self._keeper.folder.time_stamp(head.checkpoint.size)
        try:
            return kept is not None and self._fault(kept, head.note) is None
        except ValueError:
            return False

    @override
    def take(self, head: Head, stop: threading.Event) -> None:
        del stop  # the deadline of a request is short enough
        request = rfc3161_client.TimestampRequestBuilder().data(head.note).hash_algorithm(rfc3161_client.HashAlgorithm.SHA256).build()
        try:
            reply = post(self._url, request.as_bytes(), "application/timestamp-query", within_s=WITHIN_S, most_bytes=MOST_BYTES)
        except (*BROKEN, OSError) as error:
            raise Retryable("tsa-away", type(error).__name__) from error
        if reply.code >= 500 or reply.code in LATER:
            raise Retryable("tsa-away", f"HTTP {reply.code}")
        if reply.code != 200:
            raise Retryable("tsa-refused", f"HTTP {reply.code}")
        try:
            fault = self._fault(reply.body, head.note, request.nonce)
        except ValueError as error:
            fault = "it lists its certificates unsorted, against DER" if _UNSORTED in str(error) else "it is no time stamp"
        if fault is not None:
            raise Retryable("tsa-refused", fault)
        self._keeper.add_time_stamp(head.checkpoint.size, reply.body)

    def _fault(self, response: bytes, note: bytes, nonce: int | None = None) -> str | None:
        """Return why this is no valid time stamp of the note; None if it is one. Raises `ValueError` if it cannot be read."""
        found = rfc3161_client.decode_timestamp_response(response)
        if found.status != _GRANTED:
            return f"it is not granted (status {found.status})"
        if found.tst_info.message_imprint.message != hashlib.sha256(note).digest():
            return "it is for something else"
        if nonce is not None and found.tst_info.nonce != nonce:
            return "it answers another request"
        if self._roots is not None:
            try:
                roots = x509.load_pem_x509_certificates(self._roots)
            except ValueError:
                return "CHECKPOINT_TSA_CERTIFICATES has no certificate in PEM form"
            try:
                rfc3161_client.VerifierBuilder(roots=roots).build().verify_message(found, note)
            except rfc3161_client.VerificationError:
                return "its signature or certificate is not valid, or leads to none of CHECKPOINT_TSA_CERTIFICATES"
        return None
