"""Files that `storage-ledger adopt` did not adopt, and its remarks on those it did."""

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.shared import ENTRY_DAMAGED, OWNER, REPLACE

_UNREADABLE = f"{OWNER}, or check the kernel log."

LEFT_ALONE = Section(
    "Left alone by adopt",
    intro="What `storage-ledger adopt` did not adopt.",
    meanwhile="It is left alone. Once the cause is fixed, run `adopt` again for the rest.",
    explanations=(
        Explanation(
            "not-a-folder",
            means="It is directly in ARCHIVE_PATH, but not a folder.",
            action="Move it away if it does not belong there.",
        ),
        Explanation(
            "unsafe-study-id",
            means="The folder's name cannot be a study_id.",
            action="If it is a study, rename the folder.",
        ),
        Explanation("is-link", means="It is a symbolic link.", action=REPLACE),
        Explanation("is-special", means="It is a FIFO, socket or device.", action=REPLACE),
        Explanation(
            "is-folder", means="It is a folder inside a study; its files were not read.", action="Move them up into the study's folder."
        ),
        Explanation("is-hidden", means="Its name begins with a dot.", action="If it belongs to a study, rename it."),
        Explanation("unsafe-name", means="Its name is not UTF-8.", action="Rename it."),
        Explanation("name-too-long", means="Its name is longer than 200 bytes.", action="Rename it."),
        Explanation(
            "empty-file",
            means="The file is empty: the old service or its disk failed.",
            action="Restore it from another copy.",
        ),
        Explanation(
            "not-dicom",
            means="It is not a DICOM file, nor named like one (`.dcm`, `.dicom`, `.dic`, or the study's id).",
            action="Do nothing, or adopt it with `--any-file`.",
        ),
        Explanation(
            "no-file",
            means="The study's folder holds nothing but metadata.json.",
            action="Restore the file, or remove the folder.",
        ),
        Explanation(
            "metadata-missing",
            means="The study has no metadata.json. As a remark: one was written.",
            action="Run `adopt` with `--rewrite-metadata`, which writes one with empty groups.",
        ),
        Explanation(
            "metadata-too-large",
            means="metadata.json is larger than 1 MiB.",
            action="Check its contents. Keep a copy, then shorten it.",
        ),
        *(
            Explanation(f"{what}-not-regular", means=f"A link, FIFO or folder is in place of {name}.", action=REPLACE)
            for what, name in (("metadata", "metadata.json"), ("file", "a file"))
        ),
        *(
            Explanation(f"{what}-unreadable", means=f"{name} cannot be read: no permission, or a disk error.", action=_UNREADABLE)
            for what, name in (("folder", "The folder"), ("file", "The file"), ("metadata", "metadata.json"))
        ),
        Explanation("file-changing", means="The file is being written.", action="Stop the program that writes to it."),
        Explanation(
            "study-known",
            means="The service already archived other files of the study.",
            action="Run `adopt` with `--rewrite-metadata`, which adopts the file.",
        ),
        ENTRY_DAMAGED,
        Explanation(
            "study-waits",
            means="A file of the study is still waiting to be placed.",
            action="Run the service until it is archived or quarantined, then run `adopt` again.",
        ),
    ),
)

REMARKS = Section(
    "Remarks of adopt",
    intro="`storage-ledger adopt` adopted these files, with a remark.",
    explanations=(
        Explanation(
            "metadata-not-understood",
            means="metadata.json is not UTF-8 or JSON, or does not have the form of the service's messages.",
            meanwhile="It is kept, in place and in the ledger; the index uses the file's header.",
            action="Check it if you need its contents.",
        ),
        Explanation(
            "study-id-differs",
            means="metadata.json has a different study_id from its folder; the folder's is used.",
            action="Find out which one is right.",
        ),
    ),
)
