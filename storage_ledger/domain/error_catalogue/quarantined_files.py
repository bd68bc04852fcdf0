"""A described file that could not be archived and waits for a person, by the code of its entry `quarantined`."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import BY, REASON, Explanation, Section

RETRY = f"storage-ledger quarantine retry STUDY_ID --by '{BY}' --reason '{REASON}'"
RETRY_ALL = f"storage-ledger quarantine retry --all --code CODE --by '{BY}' --reason '{REASON}'"
DISCARD = f"storage-ledger quarantine discard STUDY_ID --by '{BY}' --reason '{REASON}'"
NAMED_TWICE = (
    "If both messages are about one file, nothing is lost: discard this one. Otherwise put the file back into uploads, then retry."
)
"""What to do about `upload-missing` if a file of the same path was archived for another study."""

QUARANTINED_FILES = Section(
    "Quarantined files",
    where="a quarantined file",
    intro="""\
The file of a `described` message could not be archived, and waiting will not help.
An entry `quarantined` has the code; the Status Service is sent `failed`, with the code as `error`, as long as one file of the study is quarantined.

Once the cause is fixed, `storage-ledger quarantine retry` tries the file again; so does publishing its message again.
When the file is archived, the status becomes `archived`.
If the file will never come, `storage-ledger quarantine discard` gives it up: the status is then `archived` if the study has another file in the archive; otherwise it stays `failed` with this code.""",
    meanwhile="Nothing is removed from uploads, and nothing more happens until somebody acts.",
    commands=(RETRY, DISCARD),
    explanations=(
        Explanation(
            "upload-missing",
            means="No such file in uploads, and the time to wait for it (MISSING_FILE_GRACE_SECONDS) is over.",
            action="Put the file back into uploads, then retry. If a file of the same path was archived for another study (`storage-ledger quarantine show` says so) and both messages are about one file, nothing is lost: discard this one. If files regularly arrive later, raise MISSING_FILE_GRACE_SECONDS.",
        ),
        Explanation(
            "upload-unreadable",
            means="The service may not read the file, and the time to wait for it (MISSING_FILE_GRACE_SECONDS) is over.",
            action="Let the service's user read it ([match the uids](../how-to/match-uids.md)), then retry.",
        ),
        Explanation(
            "upload-empty",
            means="The file has no bytes, and the time to wait for them (MISSING_FILE_GRACE_SECONDS) is over. It stays in uploads.",
            action="Have the file sent again, or put the right one into uploads, then retry.",
        ),
        Explanation(
            "upload-hard-linked",
            means="The file has more than one name (hard links), and the time to wait for the others to go is over. The other name may be anybody's file, and its owner could change what is archived. The file stays in uploads.",
            action="Remove the other name, or replace the file by a copy of it (`cp a.dcm b && mv b a.dcm`), then retry.",
        ),
        Explanation(
            "upload-is-link",
            means="The file, or a folder on the way to it, is a symbolic link. Links are not followed: they may lead anywhere.",
            action="Replace the link by the file itself, then retry.",
        ),
        Explanation(
            "upload-is-folder",
            means="The path names a folder.",
            action="Publish a message for each file in it, then discard this one.",
            commands=(DISCARD, RETRY),
        ),
        Explanation(
            "upload-is-fifo",
            means="The path names a FIFO. It was not opened.",
            action="Put a file there, then retry.",
        ),
        Explanation(
            "upload-is-socket",
            means="The path names a socket. It was not opened.",
            action="Put a file there, then retry.",
        ),
        Explanation(
            "upload-is-device",
            means="The path names a device. It was not opened.",
            action="Find out who made it. Put a file there, then retry.",
        ),
        Explanation(
            "upload-name-too-long",
            means="The path is longer than the file system allows, so no such file can exist.",
            action="Correct the sender and have the message published again, then discard this one.",
            commands=(DISCARD, RETRY),
        ),
        Explanation(
            "archive-name-taken",
            means="The file's place in the archive is taken by something else. Both names that it could have are taken by something that the ledger does not know as this file; or the study's folder is a link or a file; or the archive's file system takes the file's name for that of metadata.json.",
            action="Look into the study's folder in the archive: somebody else has written there. Move that away, then retry.",
        ),
        Explanation(
            "archive-folder-taken",
            means="The archive's file system takes two study_ids for one name, and the folder is the other study's. It does not tell upper from lower case (SMB, APFS, NTFS), or drops a dot at the end.",
            action="Have the file published again under another study_id, then discard this one. Or move the archive to a file system that tells the names apart, then retry.",
            commands=(DISCARD, RETRY),
        ),
        Explanation(
            "archive-copy-missing",
            means="The study was described again, and the file is neither in uploads nor in the archive, which should have it.",
            action="[Put the archive's file back](../how-to/files-damaged-or-deleted.md) from a backup, or put it into uploads, then retry.",
        ),
        Explanation(
            "archive-copy-changed",
            means="The study was described again; the file is no longer in uploads, and the archive's copy has other bytes than the ledger says.",
            action="[Put the archive's file back](../how-to/files-damaged-or-deleted.md) from a backup, or put it into uploads, then retry. With the right file in uploads, the changed copy is moved to `.ledger/damaged/`.",
        ),
    ),
)
