"""The old service's metadata.json → the `described` entry of an adopted file."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import ADOPT
from storage_ledger.domain.ids import rfc3339
from storage_ledger.domain.message import parse
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.errors import Rejected

STAMPS = frozenset({"study_id", "processing_time", "validation_details"})  # added by the old service to the message's metadata
MADE_BY_US = frozenset({"files"})  # added by this program, if it has written the file before


@dataclass(frozen=True, slots=True)
class LegacyMetadata:
    """The contents of an old metadata.json: the message that the old service received, as far as it can be reconstructed.

    `data`: the file's bytes; `rewritten`: whether the file is to be rewritten; `remarks`: codes.
    """

    message: dict[str, Any]
    data: bytes | None
    processing_time: str | None
    rewritten: bool
    remarks: tuple[str, ...] = ()

    @classmethod
    def understood(cls, study_id: str, data: bytes | None, *, rewritten: bool, now: datetime) -> LegacyMetadata:
        """Parse the file's bytes (None: no such file). What cannot be parsed is kept too, with a remark."""
        message: dict[str, Any] = {"study_id": study_id, "file_path": "-"}  # `described` replaces this with a file's name
        if data is None:
            return cls(message, None, None, rewritten, ("metadata-missing",))
        document = _document(data)
        if document is None:
            return cls(message, data, None, rewritten, ("metadata-not-understood",))
        metadata = {key: value for key, value in document.items() if key not in STAMPS | MADE_BY_US}
        said = message | {"metadata": metadata}
        if "validation_details" in document:
            said["validation_details"] = document["validation_details"]
        try:
            message = _as_message(said)
        except (Rejected, RecursionError):
            return cls(message, data, None, rewritten, ("metadata-not-understood",))
        remarks = () if document.get("study_id") == study_id else ("study-id-differs",)
        return cls(message, data, _moment(document.get("processing_time"), now), rewritten, remarks)

    @property
    def size(self) -> int:
        """Return roughly how many bytes an entry with this metadata takes."""
        return 3 * len(self.data or b"") + 2048

    @property
    def sha256(self) -> str:
        """Return the file's SHA-256 in hex."""
        return hashlib.sha256(self.data or b"").hexdigest()

    def described(self, name: str) -> DescribedPayload:
        """Return the payload of the `described` entry for the file `name`."""
        message = self.message | {"file_path": name}
        data = canonical_json.dumps(message).encode("utf-8") if self.data is None else self.data
        return DescribedPayload(
            message=message,
            source=ADOPT,
            raw_sha256=hashlib.sha256(data).hexdigest(),
            upload_path=name,
            raw=None if self.data is None else base64.b64encode(self.data).decode("ascii"),
            processing_time=self.processing_time or None,
            rewritten=self.rewritten,
        )

    @classmethod
    def of_described(cls, described: DescribedPayload) -> LegacyMetadata:
        """Reconstruct the metadata from a payload that `described` returned."""
        data = None if described.raw is None else base64.b64decode(described.raw)
        return cls(described.message, data, described.processing_time, described.rewritten)


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, a number of 5,000 digits, nested too deep
        return None
    return document if isinstance(document, dict) else None


def _as_message(said: dict[str, Any]) -> dict[str, Any]:
    """Validate old metadata like any message, so that the ledger can store it. Lone surrogates become JSON escapes first."""
    text = json.dumps(said, ensure_ascii=False)
    return parse(text.encode("utf-8", "backslashreplace"), UploadPaths("/")).message


def _moment(text: object, now: datetime) -> str | None:
    """Parse an ISO 8601 text into a UTC timestamp; without an offset it is read as UTC. None if invalid or in the future."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return rfc3339(moment) if moment <= now else None
