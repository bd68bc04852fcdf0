"""Why an archived file is flagged, and why its DICOM header could not be read."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_MIX_UP = "Ask the sender which is right: this may be a patient mix-up. A new message that agrees with the file removes the flag."

FLAGS = Section(
    "Flags",
    intro="""\
Columns of [`files`](tables.md#files), shown by `status`, `show` and the web page's "Attention".
See [patient mix-ups](../how-to/patient-mix-up.md).""",
    meanwhile="The file is archived; the flag blocks nothing.",
    explanations=(
        Explanation(
            "patient-differs",
            means="Files of one DICOM study name different patients; all are flagged.",
            action="Find out from order and modality whose images these are. Have the wrong files sent again with a corrected header or another Study Instance UID.",
        ),
        Explanation(
            "message-differs",
            means="The message names a different patient, study, series or instance from the file's header. Pipeline studies are listed by message, DICOM studies by header.",
            action=_MIX_UP,
        ),
        Explanation(
            "study-uid-differs",
            means="The message has a different Study Instance UID from the file's header, by which the file is listed.",
            action=_MIX_UP,
        ),
        Explanation(
            "sop-conflict",
            means="Another file has the same SOP Instance UID but different bytes. Both are kept.",
            action="Compare them, and ask the sender which one counts. Often one is a correction.",
        ),
        Explanation(
            "superseded",
            means="The file is incomplete: it was archived while still being written. The later state is archived beside it.",
            action="Use the later file. Have the sender close files before it publishes messages.",
        ),
        Explanation(
            "unconfirmed",
            means="A message with different metadata arrived after the upload was removed: message and file were never seen together.",
            action="Compare the message with the header. If they do not match, have the right file uploaded and its message published again.",
        ),
    ),
)

_SEND_AGAIN = "Compare the file with the sender's original, and have it sent again."
NOT_DICOM = Explanation(
    "not-dicom",
    means="It is not a DICOM file (PS3.10).",
    action="Find out who sent it. Search finds the file by its message.",
)
HEADER_UNREADABLE = Explanation("header-unreadable", means="The header is corrupt, or nested too deeply.", action=_SEND_AGAIN)

HEADERS = Section(
    "Headers",
    intro="""\
Why a DICOM header is missing or incomplete in the `archived` entry (`dicom_error`) and the index.
It is read up to (0040,0275): no per-frame groups, contours or pixels.""",
    meanwhile="The file is archived unchanged; what could be read is in the index.",
    explanations=(
        NOT_DICOM,
        Explanation(
            "header-cut",
            means="The header is truncated.",
            action=_SEND_AGAIN,
        ),
        Explanation(
            "header-too-large",
            means="The header has more than 64 MiB (inflated) or 500,000 elements.",
            action="Ask the sender what wrote the file.",
        ),
        HEADER_UNREADABLE,
        Explanation(
            "no-study-uid",
            means="Neither header nor message has a Study Instance UID, as with a DICOMDIR. Only the index has this code.",
            action="Do nothing.",
        ),
        Explanation(
            "some-attributes-unreadable",
            means="Some values cannot be decoded or are longer than 64 KiB.",
            action="Do nothing.",
        ),
    ),
)
