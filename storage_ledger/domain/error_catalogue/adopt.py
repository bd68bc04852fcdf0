"""`storage-ledger adopt`: what it left alone, and what it remarked on."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_UNREADABLE = "Give the service's user the right to read it; check the kernel log."
_FILE_ITSELF = "Put the file itself there."

LEFT_ALONE = Section(
    "Left alone by adopt",
    where="what `storage-ledger adopt` left alone",
    intro="What `storage-ledger adopt` did not take in, and why.",
    meanwhile="It stays as it is. Once the cause is fixed, run `adopt` again: it takes in what it has not yet taken.",
    explanations=(
        Explanation(
            "not-a-folder",
            means="Something in ARCHIVE_PATH itself is not a folder.",
            action="Move it elsewhere, if it is not yours.",
        ),
        Explanation(
            "unsafe-study-id",
            means="The folder's name cannot be a study_id. That is 1 to 128 characters of `A-Z a-z 0-9 . _ -`, begins with a letter or digit, and contains no `..`.",
            action="Rename the folder, if it is a study.",
        ),
        Explanation("is-link", means="A symbolic link. It was not opened.", action=_FILE_ITSELF),
        Explanation("is-special", means="A FIFO, socket or device. It was not opened.", action=_FILE_ITSELF),
        Explanation(
            "is-folder", means="A folder inside a study. It was not opened.", action="Put the files themselves into the study's folder."
        ),
        Explanation("is-hidden", means="Its name begins with a dot: mostly it is another program's.", action="Rename it, if it is yours."),
        Explanation("unsafe-name", means="Its name is not UTF-8.", action="Rename it."),
        Explanation("name-too-long", means="Its name is longer than 200 bytes.", action="Rename it."),
        Explanation(
            "empty-file",
            means="The file has no bytes: the old service, or its disk, failed.",
            action="Restore it from another copy; if there is none, note the loss.",
        ),
        Explanation(
            "not-dicom",
            means="Not a DICOM file, and not named like one (`.dcm`, `.dicom`, `.dic`, or the study's id).",
            action="Do nothing, if it is somebody's note. `--any-file` takes it in.",
        ),
        Explanation(
            "no-file",
            means="A study's folder holds no file except metadata.json.",
            action="Restore the file, or remove the folder.",
        ),
        Explanation(
            "metadata-missing",
            means="There is no metadata.json beside the file. As a remark: there was none, and it was written.",
            action="Run it with `--rewrite-metadata`, which makes one with the list of files. Its groups are empty, since nobody knows what the message said.",
        ),
        Explanation(
            "metadata-too-large",
            means="metadata.json is larger than 1 MiB.",
            action="Check that it is what its name says. Keep a copy, then shorten it.",
        ),
        *(
            Explanation(f"{what}-not-regular", means=f"A link, FIFO or folder has the name of {name}.", action=_FILE_ITSELF)
            for what, name in (("metadata", "metadata.json"), ("file", "a file"))
        ),
        *(
            Explanation(f"{what}-unreadable", means=f"The service may not read {name}, or the disk cannot.", action=_UNREADABLE)
            for what, name in (("folder", "the folder"), ("file", "the file"), ("metadata", "metadata.json"))
        ),
        Explanation("file-changing", means="Somebody writes to the file.", action="Stop whoever does."),
        Explanation(
            "study-known",
            means="This service has archived files of the study as well, so that its metadata.json would have to name this file.",
            action="Run it with `--rewrite-metadata`, which takes the file in.",
        ),
        Explanation(
            "entry-damaged",
            means="What the ledger knows of the study is damaged.",
            action="[Make the ledger again](../how-to/ledger-volume-lost.md) from its mirror, then run `adopt` again.",
        ),
        Explanation(
            "study-waits",
            means="A file of the study waits to be placed.",
            action="Let `serve` finish, or let the file be quarantined; then run `adopt` again.",
        ),
    ),
)

REMARKS = Section(
    "Remarks of adopt",
    where="a remark of `storage-ledger adopt`",
    intro="What `storage-ledger adopt` took in all the same, but found remarkable.",
    explanations=(
        Explanation(
            "metadata-not-understood",
            means="metadata.json is not UTF-8, not JSON, or does not have the form of the service's messages.",
            meanwhile="Its bytes are kept, in place and in the ledger; the index takes what it shows from the file's header.",
            action="Do nothing, or look at it.",
        ),
        Explanation(
            "study-id-differs",
            means="metadata.json names another study_id than its folder. The folder's counts.",
            action="Find out how that came about.",
        ),
    ),
)
