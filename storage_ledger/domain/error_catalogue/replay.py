"""What `storage-ledger replay` could not repair."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

REPLAY = Section(
    "Replay",
    where="`storage-ledger replay`",
    intro="""\
What `storage-ledger replay` could not repair; it lists these, and ends with 1.
Besides these: the codes of [retries](#retries-of-one-file-or-study) `archive-io`, `archive-not-writable`, `archive-error`, `status-refused`, `status-unreadable`, `entry-damaged` and `internal-error` (the log then has `replay.internal-error`).
An [outage](#outages) ends it with 2 instead: fix the cause, and run it again.""",
    explanations=(
        Explanation(
            "archive-copy-missing",
            means="The archive's file is gone, and no `--source` has a copy. If a source had one, the detail says why it could not be put back.",
            meanwhile="The file stays in the ledger; when the study is sent again, it is put back.",
            action="Name more sources: backups, old archives, uploads, the modality's export.",
        ),
        Explanation(
            "archive-copy-changed",
            means="The archive's file, or what is in its place, has other bytes, and no source has the right ones.",
            meanwhile="It is left as it is. When the study is sent again, the right file is put back.",
            action="Name more sources: backups, old archives, uploads, the modality's export.",
        ),
        Explanation(
            "archive-name-taken",
            means="The file's place in the archive is taken by something else. The study's folder is a link or a file; or the archive's file system takes the file's name for that of metadata.json.",
            action="Move that away, then run it again.",
        ),
        *(
            Explanation(
                code,
                means=f"A part of a source could not be searched: {why}. Reported if files are still missing.",
                action="Let the service's user read it, or name the folder below it as a source of its own.",
            )
            for code, why in (
                ("folder-unreadable", "a folder cannot be read"),
                ("folder-too-deep", "more than 32 folders are nested"),
                ("upload-io", "the disk cannot read a file"),
                ("upload-unreadable", "a file may not be read"),
                ("upload-changing", "a file changes"),
            )
        ),
        Explanation(
            "source-empty",
            means="A source is an empty folder. Reported if files are still missing.",
            action="Check that it is the folder you meant: Docker makes an empty folder for a path that does not exist.",
        ),
        Explanation(
            "source-missing",
            means="A source can no longer be opened. The command ends with 2.",
            action="Mount it, then run the command again.",
        ),
        Explanation(
            "study-unknown",
            means="The ledger has no entry for the study_id that `--study` names. The command ends with 2.",
            action="Check the study_id: it is the pipeline's.",
        ),
    ),
)
