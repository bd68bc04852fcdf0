"""The flags of a file in the index, and the differences between its message and its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_ledger.domain.patient_identity import differences


@dataclass(frozen=True, slots=True)
class Flag:
    """A reason to review an archived file; it blocks nothing. `storage-ledger explain CODE` explains each code."""

    code: str
    title: str

    @property
    def column(self) -> str:
        """The flag's column in table `files` of the index."""
        return self.code.replace("-", "_")


FLAGS = (
    Flag(code="patient-differs", title="Different patients in one DICOM study"),
    Flag(code="message-differs", title="Message and file disagree"),
    Flag(code="study-uid-differs", title="Message and file name different studies"),
    Flag(code="sop-conflict", title="Same SOP Instance UID, different bytes"),
    Flag(code="superseded", title="Earlier, incomplete version of an upload"),
    Flag(code="unconfirmed", title="Message without its upload"),
)


def flags_of(row: Mapping[str, Any]) -> list[str]:
    """Return the codes of the flags set in a row of `files`."""
    return [flag.code for flag in FLAGS if row.get(flag.column)]


def message_and_file(row: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the message and the header of a file, given its row of `files`.

    `message`: the patient and study named in the message; `differences`: the attributes that differ, each with both values.
    """
    message = json.loads(row["announced"]) if row.get("announced") else {}
    found = differences(message, row)
    return {
        "message": message,
        "differences": [{"attribute": each.attribute, "message": each.said, "file": each.found} for each in found],
    }
