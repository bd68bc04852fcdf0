"""Quarantined files: described files that could not be archived and need manual review, by the code of the entry `quarantined`."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import BY, REASON, Explanation, Section
from storage_ledger.domain.error_catalogue.shared import NAME_TAKEN, OWNER, REPLACE

RETRY = f"storage-ledger quarantine retry STUDY_ID --by '{BY}' --reason '{REASON}'"
RETRY_ALL = f"storage-ledger quarantine retry --all --code CODE --by '{BY}' --reason '{REASON}'"
DISCARD = f"storage-ledger quarantine discard STUDY_ID --by '{BY}' --reason '{REASON}'"
NAMED_TWICE = (
    "If both messages are about one file, nothing is lost: discard this one. Otherwise put the file back into uploads, then retry."
)
"""What to do about `upload-missing` if a file of the same path was archived for another study."""

_PUT_BACK = "[Restore the archived file](../how-to/files-damaged-or-deleted.md), or put the file into uploads."
_STILL = "after MISSING_FILE_GRACE_SECONDS"

QUARANTINED_FILES = Section(
    "Quarantined files",
    intro="""\
A described file could not be archived, and waiting will not help: the `code` in a `quarantined` entry.
Meanwhile the study's status is `failed` with the code as `error`.

Once the cause is fixed, [retry](../how-to/look-after-it.md#when-something-is-quarantined), or publish the message again; discard a file that will never come.""",
    meanwhile="The file needs manual review; nothing is removed from uploads.",
    commands=(RETRY, DISCARD),
    explanations=(
        Explanation(
            "upload-missing",
            means=f"No such file in uploads {_STILL}.",
            action="Put the file back into uploads, then retry. If `quarantine show` names another study with the same file, discard this one. If files are often late, raise MISSING_FILE_GRACE_SECONDS.",
        ),
        Explanation(
            "upload-unreadable",
            means=f"The service still lacks permission to read the file {_STILL}.",
            action=f"{OWNER}, then retry.",
        ),
        Explanation(
            "upload-empty",
            means=f"The file is still empty {_STILL}.",
            action="Replace the file, or have it sent again; then retry.",
        ),
        Explanation(
            "upload-hard-linked",
            means=f"The file still has a second name (hard link) {_STILL}: its contents could change through it.",
            action="Remove the other name, or replace the file with a copy (`cp a.dcm b && mv b a.dcm`); then retry.",
        ),
        *(
            Explanation(f"upload-is-{what.lower()}", means=f"The path is a {what}.", action=REPLACE)
            for what in ("FIFO", "socket", "device")
        ),
        Explanation(
            "upload-is-link",
            means="The path is or contains a symbolic link.",
            action=REPLACE,
        ),
        Explanation(
            "upload-is-folder",
            means="The path is a folder.",
            action="Publish a message for each file in it, then discard this one.",
            commands=(DISCARD, RETRY),
        ),
        Explanation(
            "upload-name-too-long",
            means="The path is longer than the file system allows.",
            action="Have the sender publish the right path, then discard this one.",
            commands=(DISCARD, RETRY),
        ),
        NAME_TAKEN,
        Explanation(
            "archive-folder-taken",
            means="Another study uses the folder: the archive's file system ignores case or a trailing dot (SMB, APFS, NTFS).",
            action="Publish the file under another study_id, then discard this one; or move the archive to another file system, then retry.",
            commands=(DISCARD, RETRY),
        ),
        Explanation(
            "archive-copy-missing",
            means="The study was described again, but its file is in neither uploads nor the archive.",
            action=f"{_PUT_BACK} Then retry.",
        ),
        Explanation(
            "archive-copy-changed",
            means="The study was described again without an upload, and the archived file does not match its checksum.",
            action=f"{_PUT_BACK} Then retry.",
        ),
    ),
)
