"""Failures of one work item, which is retried."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.shared import ENTRY_DAMAGED, HANGS, STATUS_REFUSED, STATUS_UNREADABLE, UPLOAD_UNREADABLE

UPLOAD_IO = Explanation(
    "upload-io",
    steps=("place", "remove"),
    means="The disk cannot read the upload; errno says why.",
    action="Check the uploads disk and the kernel log. Copy what is readable to another disk.",
)
ARCHIVE_IO = Explanation(
    "archive-io",
    steps=("place", "remove"),
    means="The archive's disk reported an I/O error (EIO).",
    meanwhile="Failed copies are deleted; the file is copied again.",
    action="Check the archive's disk and the kernel log. Move the archive off a failing disk, then [verify it](../how-to/verify.md).",
)
ARCHIVE_ERROR = Explanation(
    "archive-error",
    steps=("place", "remove"),
    means="The archive's file system reported another error; errno says which.",
    action="Look up the errno. With 2 (ENOENT), make sure that only one service uses this archive.",
)
INTERNAL_ERROR = Explanation(
    "internal-error",
    steps=("place", "remove", "tell"),
    means="A bug in the program. The log line `….internal-error`, `thread.failed` or `check.failed` says where.",
    meanwhile="A thread that failed is restarted; files are safe in uploads.",
    action="Report it with that log line.",
)

RETRIES = Section(
    "Retries",
    intro="""\
One file or study failed.
A [`failed`](entry-kinds.md#failed) entry records it, except for uploads that are missing, unreadable, empty, hard-linked, changing or settling.
A code that prevents five studies in a row from being placed becomes an [outage](#outages).""",
    meanwhile="The work item is retried until it succeeds, at least every 5 minutes (place), 10 (remove) or 15 (tell). Nothing is lost.",
    explanations=(
        Explanation(
            "upload-missing",
            steps=("place",),
            means="The file is not there yet.",
            meanwhile="The service checks at least every 15 seconds, and quarantines it after MISSING_FILE_GRACE_SECONDS.",
            action="Put the file back into uploads, or wait.",
        ),
        Explanation(
            "upload-unreadable",
            steps=("place", "remove"),
            means=UPLOAD_UNREADABLE.means,
            action=UPLOAD_UNREADABLE.action,
        ),
        Explanation(
            "upload-empty",
            steps=("place",),
            means="The file is still empty.",
            meanwhile="It is quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Wait; if it persists, check the sender.",
        ),
        Explanation(
            "upload-hard-linked",
            steps=("place",),
            means="The file has a second name.",
            meanwhile="It is quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Wait; if it persists, remove the other name.",
        ),
        Explanation(
            "upload-changing",
            steps=("place", "remove"),
            means="The file is changing, or open for writing.",
            meanwhile="A file open for longer than MISSING_FILE_GRACE_SECONDS is archived as it is, and again if it changes.",
            action="Wait; if it persists, find out what writes to the file.",
        ),
        Explanation(
            "upload-settling",
            steps=("remove",),
            means="A program may still be writing the file.",
            meanwhile="It is removed once unchanged for UPLOAD_SETTLE_SECONDS.",
            action="Do nothing.",
        ),
        UPLOAD_IO,
        ARCHIVE_IO,
        Explanation(
            "archive-not-writable",
            steps=("place", "remove"),
            means="The service lacks permission to read or write this study's folder in the archive.",
            action="Correct owner and mode of the folder; another user created it.",
        ),
        ARCHIVE_ERROR,
        replace(HANGS, steps=("place", "remove")),
        replace(STATUS_REFUSED, steps=("tell",)),
        replace(STATUS_UNREADABLE, steps=("confirm",)),
        replace(ENTRY_DAMAGED, steps=("place", "remove", "tell")),
        INTERNAL_ERROR,
    ),
)
