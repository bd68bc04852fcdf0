"""What `storage-ledger replay` could not repair."""

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.retries import UPLOAD_IO
from storage_ledger.domain.error_catalogue.shared import FOLDER_UNREADABLE, NAME_TAKEN, STUDY_UNKNOWN, UPLOAD_UNREADABLE

_MORE_SOURCES = "Name more sources: backups, old archives, uploads, the modality's export."
_PUT_BACK_LATER = "The file is restored when the study is sent again."

REPLAY = Section(
    "Replay",
    intro="""\
What `replay` and `repair` could not repair: exit code 1.
Problems with a source are listed only if files are still missing; codes of [retries](#retries) occur too.
An [outage](#outages) ends the command with 2: fix the cause, then run it again.""",
    explanations=(
        Explanation(
            "archive-copy-missing",
            means="The archived file is gone, and no `--source` has a usable copy.",
            meanwhile=_PUT_BACK_LATER,
            action=_MORE_SOURCES,
        ),
        Explanation(
            "archive-copy-changed",
            means="The archived file does not match its checksum, and no source has a usable copy.",
            meanwhile=_PUT_BACK_LATER,
            action=_MORE_SOURCES,
        ),
        NAME_TAKEN,
        FOLDER_UNREADABLE,
        Explanation("folder-too-deep", means="More than 32 folders are nested in a source.", action="Name one of them as another source."),
        UPLOAD_UNREADABLE,
        Explanation("upload-changing", means="A file in a source is changing.", action="Run it again later."),
        replace(UPLOAD_IO, steps=()),
        Explanation(
            "source-empty",
            means="A source is an empty folder.",
            action="Check the path: Docker creates an empty folder for a missing one.",
        ),
        Explanation(
            "source-missing",
            means="A source can no longer be opened.",
            meanwhile="Exit code 2.",
            action="Mount it, then run it again.",
        ),
        STUDY_UNKNOWN,
    ),
)
