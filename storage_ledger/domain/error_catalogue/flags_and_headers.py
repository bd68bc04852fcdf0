"""Why an archived file is flagged, and why its DICOM header could not be read."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_MIX_UP = "Ask whoever describes the files, before anybody uses one of the two names: a mix-up of patients begins like this. A message that agrees with the file, published again, removes the flag."

FLAGS = Section(
    "Flags",
    where="a flagged file",
    intro="""\
Why an archived file is *flagged*: a column of [`files`](tables.md#files) with the same name is 1.
`status` counts these files in a line of their own, the web page lists them under "Attention", and `storage-ledger show` names them.
What counts as another patient: [who the patient is](tables.md#who-the-patient-is).
Step by step: [when two patients are mixed up](../how-to/patient-mix-up.md).""",
    meanwhile="The file is archived, and nothing waits for it.",
    explanations=(
        Explanation(
            "patient-differs",
            means="Another file of the same DICOM study names another patient. All of them are archived, shown and found; every file that names one of these patients has the flag, because the service cannot know which patient is the right one.",
            action="Find out from the order and the modality whose images these are. Have the files of the wrong patient sent again with the right header, or under a Study Instance UID of their own.",
        ),
        Explanation(
            "message-differs",
            means="The message names another patient, study, series or instance than the header of its file. A pipeline study is listed under what the message says, a DICOM study under what the header says.",
            action=_MIX_UP,
        ),
        Explanation(
            "study-uid-differs",
            means="The message gives another Study Instance UID than the header of its file. The file is listed under what its header says.",
            action=_MIX_UP,
        ),
        Explanation(
            "sop-conflict",
            means="Another file has the same SOP Instance UID and other bytes. Both are kept.",
            action="Compare them; ask the sender which one counts. Often one was corrected and sent again.",
        ),
        Explanation(
            "superseded",
            means="The file is an earlier, incomplete state of its upload, archived while its sender was still writing it. It is kept, and a later state of the same upload is archived beside it.",
            action="Use the later file. Have the sender publish its message after it has closed the file.",
        ),
        Explanation(
            "unconfirmed",
            means="A later message with other metadata came when the file's upload was gone. Whether that message is about the same file is not known: the two were never seen together.",
            action="Compare the message with the file's header. If it was about another file, have that one uploaded again and its message published again.",
        ),
    ),
)

_CUT = "What comes before is in the index."

HEADERS = Section(
    "Headers",
    where="a file whose header is not, or not completely, known",
    intro="""\
Why the DICOM header of a file is not, or not completely, in its `archived` entry (`dicom_error`) and in the index.
Only the part of the header that the index needs is read, up to (0040,0245): functional groups of each frame, contours and pixels are not.""",
    meanwhile="The file is archived all the same, byte for byte.",
    explanations=(
        Explanation(
            "not-dicom",
            means="Not a DICOM file (PS3.10), or one without a preamble that does not name its class and instance.",
            action="Do nothing, if that was to be expected; the file is found by what its message says.",
        ),
        Explanation(
            "header-cut",
            means=f"The file ends in the middle of its header, or an element claims to be longer than the file: it was cut off on its way, or is damaged. {_CUT}",
            action="Compare the file with the sender's original, and have it sent again.",
        ),
        Explanation(
            "header-too-large",
            means=f"More than 64 MiB or 500,000 elements come before the last attribute that the index needs, also when inflated. {_CUT}",
            action="Ask the sender what wrote the file: no ordinary object is like this.",
        ),
        Explanation(
            "header-unreadable",
            means=f"The structure of the header is broken. {_CUT}",
            action="Compare the file with the sender's original, and have it sent again.",
        ),
        Explanation(
            "no-study-uid",
            means="Neither the file's header nor its message names a study (Study Instance UID): a DICOMDIR, for example, or an object that was never part of a study. The code stands in the index only.",
            meanwhile="The file is in no list of studies.",
            action="Do nothing, if that was to be expected; the file is found here, and by its pipeline study.",
        ),
        Explanation(
            "some-attributes-unreadable",
            means="Some values could not be decoded, or are longer than 64 KiB; the others are in the index.",
            action="Do nothing.",
        ),
    ),
)
