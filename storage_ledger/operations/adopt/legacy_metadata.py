"""The old service's metadata.json → what a `described` entry says of an adopted file."""

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

STAMPS = frozenset({"study_id", "processing_time", "validation_details"})  # what the old service put on top of the message's metadata
MADE_BY_US = frozenset({"files"})  # and what this program adds, where it has written the file before


@dataclass(frozen=True, slots=True)
class LegacyMetadata:
    """What an old metadata.json says: the message that the old service received, as far as it can be known.

    `data`: its bytes; `rewritten`: whether the file is to be written anew; `remarks`: codes.
    """

    message: dict[str, Any]
    data: bytes | None
    processing_time: str | None
    rewritten: bool
    remarks: tuple[str, ...] = ()

    @classmethod
    def understood(cls, study_id: str, data: bytes | None, *, rewritten: bool, now: datetime) -> LegacyMetadata:
        """From the file's bytes, None where there is none. What cannot be understood is kept all the same, with a remark."""
        message: dict[str, Any] = {"study_id": study_id, "file_path": "-"}  # each file puts its own name here
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
        """About how many bytes an entry takes that carries it."""
        return 3 * len(self.data or b"") + 2048

    @property
    def sha256(self) -> str:
        """Of the file, in hex."""
        return hashlib.sha256(self.data or b"").hexdigest()

    def described(self, name: str) -> DescribedPayload:
        """What the `described` entry of the file `name` says."""
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
        """From what `described` made of it."""
        data = None if described.raw is None else base64.b64decode(described.raw)
        return cls(described.message, data, described.processing_time, described.rewritten)


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of 5,000 digits, nested without end
        return None
    return document if isinstance(document, dict) else None


def _as_message(said: dict[str, Any]) -> dict[str, Any]:
    """Judged as any message is, so that the ledger can hold it. A lone surrogate becomes its JSON escape first."""
    text = json.dumps(said, ensure_ascii=False)
    return parse(text.encode("utf-8", "backslashreplace"), UploadPaths("/")).message


def _moment(text: object, now: datetime) -> str | None:
    """The instant in UTC that an ISO 8601 text means; without an offset it is taken for UTC. None for none, or one to come."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return rfc3339(moment) if moment <= now else None
