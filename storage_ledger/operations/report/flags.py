"""The flags of a file in the index, and what its message and its header say where they disagree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_ledger.domain.patient_identity import differences


@dataclass(frozen=True, slots=True)
class Flag:
    """Why a person should look at an archived file. Nothing waits for it. `docs/reference/error-codes.md` explains each code."""

    code: str
    title: str

    @property
    def column(self) -> str:
        """Its column of `files` in the index."""
        return self.code.replace("-", "_")


FLAGS = (
    Flag(code="patient-differs", title="Different patients in one DICOM study"),
    Flag(code="message-differs", title="Message and file disagree"),
    Flag(code="study-uid-differs", title="Message and file name different studies"),
    Flag(code="sop-conflict", title="The same SOP Instance UID, other bytes"),
    Flag(code="superseded", title="An earlier, incomplete state of an upload"),
    Flag(code="unconfirmed", title="A message without its upload"),
)


def flags_of(row: Mapping[str, Any]) -> list[str]:
    """The codes of the flags that a row of `files` has."""
    return [flag.code for flag in FLAGS if row.get(flag.column)]


def message_and_file(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the message and the header of a row of `files` say, and where they disagree: nothing where they don't.

    `message`: whom and what the message names; `differences`: the attributes that differ, each with both values.
    """
    message = json.loads(row["announced"]) if row.get("announced") else {}
    found = differences(message, row)
    return {
        "message": message,
        "differences": [{"attribute": each.attribute, "message": each.said, "file": each.found} for each in found],
    }
