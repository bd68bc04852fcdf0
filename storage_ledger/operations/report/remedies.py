"""What a person does about each code, and the commands for it."""

from __future__ import annotations

import shlex

from storage_ledger.operations.quarantine import BY, REASON

_RETRY = "then `storage-ledger quarantine retry`"
_DISCARD = "then `storage-ledger quarantine discard` this one"
ACTIONS = {
    "upload-missing": f"put the file back into uploads, {_RETRY}",
    "upload-unreadable": f"let the service's user read it, {_RETRY}",
    "upload-empty": f"have the file sent again, or put it into uploads, {_RETRY}",
    "upload-hard-linked": f"remove the file's other name, or replace the file by a copy of it, {_RETRY}",
    "upload-is-link": f"replace the link by the file itself, {_RETRY}",
    "upload-is-folder": f"publish a message for each file in it, {_DISCARD}",
    "upload-name-too-long": f"correct the sender and have the message published again, {_DISCARD}",
    "archive-folder-taken": f"have the file published again under another study_id, {_DISCARD}",
    "archive-copy-missing": f"restore the archive's file from a backup, or put it back into uploads, {_RETRY}",
    "archive-copy-changed": f"restore the archive's file from a backup, or put it back into uploads, {_RETRY}",
    "archive-name-taken": f"move what is not ours out of the study's archive folder: it has both names of this file, {_RETRY}",
}
TWICE_NAMED = (
    f"if both messages were about one file, nothing is lost: `storage-ledger quarantine discard` this one. Else {ACTIONS['upload-missing']}"
)
"""For `upload-missing` where a file of the same path was archived for another study."""
ENTRY_DAMAGED = (
    "look at the ledger's disk, stop `serve`, then `storage-ledger restore --from-mirror --force`, which keeps this one beside it: see "
    "docs/how-to/ledger-volume-lost.md"
)
DAMAGED_FILES = (
    "a file of it is missing or changed in the archive: see whether the disk fails, stop `serve`, and put it back from a folder with copies"
)
REJECTED_ACTION = (
    "nothing was archived: the sender has to publish a right message; each reason is explained in docs/reference/error-codes.md"
)
SEE = "see docs/reference/error-codes.md"
USUAL_ACTION = f"mend the upload, {_RETRY}"
OUTAGE_ACTIONS = {
    "entry-damaged": ENTRY_DAMAGED,
    "archive-io": "look at the archive's disk and the kernel's log; what failed is tried again by itself",
    "archive-error": "see errno in the entry `failed`; what failed is tried again by itself",
    "upload-io": "look at the disk of uploads and the kernel's log; what failed is tried again by itself",
    "internal-error": "report it with the lines `place.internal-error` or `thread.failed` of the log; the files are safe in uploads",
    "ledger-io": "see rights and owner of LEDGER_PATH, then its disk; it goes on by itself",
    "mirror-io": "look at the archive's disk and the kernel's log; it goes on by itself",
    "mirror-busy": "find the process that holds mirror.lock in LEDGER_PATH, and end it; it goes on by itself",
    "mirror-moved": "see that nobody writes into ARCHIVE_PATH/.ledger, and which volume is mounted; it goes on by itself",
    "archive-full": "make room on the archive's volume; it goes on by itself",
    "archive-missing": "mount the archive's volume; it goes on by itself",
    "archive-read-only": "remount the archive writable; it goes on by itself",
    "archive-not-writable": "let the service's user write into ARCHIVE_PATH; it goes on by itself",
    "archive-no-links": "move the archive to a file system with hard links (not FAT, exFAT); it goes on by itself",
    "archive-no-fsync": "move the archive to a file system that supports fsync on files and folders; it goes on by itself",
    "uploads-missing": "mount the uploads volume; it goes on by itself",
    "uploads-read-only": "mount uploads writable: archived files cannot be removed from it",
    "upload-not-removable": "let the service's user remove files from uploads: see docs/how-to/match-uids.md",
    "status-service-away": "start the Status Service; it goes on by itself, and tells all that it missed",
}
NOT_READY_ACTIONS = OUTAGE_ACTIONS | {
    "clock-ahead": "set the clock, find out which entries are dated wrong, then `storage-ledger acknowledge clock-ahead`: see "
    "docs/how-to/clock-ahead.md",
    "index-failing": "see rights and owner of LEDGER_PATH, then its disk; the index is rebuilt by itself, and archiving goes on",
    "ledger-busy": "find out which program holds ledger.db open in a transaction; it goes on by itself",
    "hangs": "see whether the volume answers, and the kernel's log; what hangs goes on by itself when it does",
    "ledger-full": "make room on the ledger's volume; it goes on by itself",
    "redis-not-subscribed": "see that Redis runs at REDIS_URL; it subscribes by itself, and looks through uploads for what it missed",
}
FAILING_ACTIONS = OUTAGE_ACTIONS | {
    "archive-not-writable": "see owner and mode of the study's folder in the archive: somebody else has made it",
    "hangs": NOT_READY_ACTIONS["hangs"],
    "status-refused": "see the Status Service's log for this study_id, and whether STATUS_SERVICE_URL is the right service",
    "upload-unreadable": "let the service's user read it: see docs/how-to/match-uids.md",
}
"""Of one study alone; all of them are tried again by themselves."""


def commands(study_id: str, code: str | None) -> list[str]:
    """For what is quarantined, to be copied into a terminal; the two words of the person are to be filled in."""
    verb = "discard" if "quarantine discard" in ACTIONS.get(code or "", "") else "retry"
    return [
        f"storage-ledger quarantine {each} {shlex.quote(study_id)} --by '{BY}' --reason '{REASON}'"
        for each in dict.fromkeys((verb, "retry", "discard"))
    ]


def put_back(study_id: str | None = None) -> str:
    """The command that looks for lost bytes in a folder; of one study, or of all."""
    only = "" if study_id is None else f" --study {shlex.quote(study_id)}"
    return f"storage-ledger replay --files{only} --source FOLDER"
