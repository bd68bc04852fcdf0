"""Reconciliation of uploads: why a pass stopped short, and the files that nothing explains."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.outages import STATUS_SERVICE_AWAY, UPLOADS_MISSING
from storage_ledger.domain.error_catalogue.retries import UPLOAD_IO
from storage_ledger.domain.error_catalogue.shared import (
    ENTRY_DAMAGED,
    FOLDER_UNREADABLE,
    REPLACE,
    STATUS_REFUSED,
    STATUS_UNREADABLE,
    UPLOAD_UNREADABLE,
)

SWEEPS = Section(
    "Reconciliation",
    intro="""\
A pass stopped before it had checked every file: `storage_ledger_sweeps_total`, `reconcile.stopped-short` in the log, exit code 2 of `reconcile`.
`ledger-full`, `ledger-busy` and `ledger-io` occur too.""",
    meanwhile="The next pass starts from the beginning; nothing is lost.",
    explanations=(
        UPLOADS_MISSING,
        STATUS_SERVICE_AWAY,
    ),
)

_PUBLISH_OR_REMOVE = "Publish its message if it belongs to a study; otherwise take it out of uploads."
_FIND_OUT = f"Find out where the pipeline stopped. {_PUBLISH_OR_REMOVE}"

UNEXPLAINED_FILES = Section(
    "Unexplained files",
    intro="""\
`storage-ledger reconcile` lists files in uploads that are older than RECONCILE_GRACE_SECONDS and belong to no message or work item.
"The study" is the one whose study_id is the file's name without its suffix.""",
    meanwhile="The file is left alone.",
    explanations=(
        Explanation(
            "not-described",
            means="The study's status is not `described` but the one shown. `archived`: the ledger has a different file for it; `other`: a word unknown to the pipeline.",
            action=_FIND_OUT,
        ),
        Explanation(
            "no-status",
            means="The Status Service does not know the study.",
            action=_FIND_OUT,
        ),
        Explanation(
            "no-metadata",
            means="The Status Service says `described`, but has no metadata in `details`.",
            action="Publish the file's message.",
        ),
        Explanation(
            "study-has-another-upload",
            means="The study already has another file, in the ledger or as `<study_id>.dcm` beside this one.",
            action=_PUBLISH_OR_REMOVE,
        ),
        Explanation(
            "unsafe-study-id",
            means="The file's name cannot be a study_id.",
            action=_PUBLISH_OR_REMOVE,
        ),
        Explanation(
            "unsafe-path",
            means="The file's name is not UTF-8, so no message can name it.",
            action="Rename the file, then publish its message.",
        ),
        *(
            Explanation(
                code,
                means="The Status Service's `details` would be [rejected](#rejected-messages).",
                action="Check the descriptor, then publish a correct message.",
            )
            for code in ("too-large", "nested-too-deep", "wrong-field")
        ),
        STATUS_REFUSED,
        STATUS_UNREADABLE,
        *(
            Explanation(f"upload-is-{what.lower()}", means=f"The path is a {what}.", action=REPLACE)
            for what in ("FIFO", "socket", "device")
        ),
        Explanation("upload-is-link", means="The path is or contains a symbolic link.", action=REPLACE),
        UPLOAD_UNREADABLE,
        replace(UPLOAD_IO, steps=()),
        ENTRY_DAMAGED,
        Explanation(
            "upload-name-too-long",
            means="The path is longer than the file system allows.",
            action="Rename the file.",
        ),
        FOLDER_UNREADABLE,
        Explanation(
            "folder-too-deep",
            means="More than 32 folders are nested; deeper ones are not searched.",
            action="Move the files up.",
        ),
    ),
)
