"""Explanations and instructions that several sections share."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation

RESTORE = "storage-ledger restore --from-mirror --force"

OWNER = "Correct its owner or mode ([match UID and GID](../how-to/match-uids.md))"
REPLACE = "Replace it with the file itself."
RESTORE_LEDGER = (
    "Check the disk of LEDGER_PATH, stop the service, then [restore the ledger from its mirror](../how-to/ledger-volume-lost.md)."
)

ENTRY_DAMAGED = Explanation(
    "entry-damaged",
    means="An entry is missing or does not match its hashes: something changed the ledger's file.",
    meanwhile="Nothing is placed, removed or sent for its study; files are safe in uploads. The index continues without the entry.",
    action=RESTORE_LEDGER,
    commands=(RESTORE,),
)
FOLDER_UNREADABLE = Explanation(
    "folder-unreadable",
    means="The folder cannot be read: no permission, or a disk error.",
    action=f"{OWNER}, or check the kernel log.",
)
HANGS = Explanation(
    "hangs",
    means="A call into uploads or the archive made no progress for two minutes, or a check of `/readyz` for 1.5 seconds: a lost file server, a dying disk, or a huge file.",
    meanwhile="Up to 32 other threads take over.",
    action="Check the volume and the kernel log; if it never answers, unmount it by force (`umount -f`), then restart the service.",
)
INDEX_MISSING = Explanation(
    "index-missing",
    means="There is no readable index.db.",
    meanwhile="The service rebuilds it by itself.",
    action="Start the service with the same LEDGER_PATH. If that does not help, rebuild the index.",
    commands=("storage-ledger replay --index",),
)
LEDGER_BUSY = Explanation(
    "ledger-busy",
    means="Another process or thread holds the ledger's write lock: for 1 second in `/readyz`, for 30 elsewhere.",
    meanwhile="Nothing is recorded; the append is retried.",
    action="Find the program that has `ledger.db` open, such as a `sqlite3` shell, and end it.",
)
LEDGER_DAMAGED = Explanation(
    "ledger-damaged",
    means="SQLite reports damage, the last entry does not match its hash, or a damaged entry is not in the mirror.",
    action="Stop the service, copy LEDGER_PATH away, and check its disk. Unless the file is readable again, [restore the ledger](../how-to/ledger-volume-lost.md) from its mirror or a backup.",
    commands=(RESTORE,),
)
MIRROR_LAGS = Explanation(
    "mirror-lags",
    means="The mirror lacks entries of the ledger.",
    meanwhile="Until an entry is mirrored, its status is not sent and its upload not removed.",
    action="Start the service, or check its log and outages. If it lagged without a crash, the mirror's end was cut off.",
)
MIRROR_MISSING = Explanation(
    "mirror-missing",
    means="The archive holds no mirror of the ledger.",
    action="Mount the archive. If it was lost, [restore a copy](../how-to/archive-volume-lost.md); if it is new on purpose, run `storage-ledger replay --mirror`.",
)
NAME_TAKEN = Explanation(
    "archive-name-taken",
    means="Something unknown has the file's name or its study's folder in the archive, or the file system confuses the name with metadata.json.",
    action="Move what another program left there, then try again.",
)
STATUS_REFUSED = Explanation(
    "status-refused",
    means="The Status Service refused the call (neither 2xx, 5xx, 408 nor 429), or a proxy or login page answered.",
    action="Check the Status Service's log and STATUS_SERVICE_URL. Redirects are not followed.",
)
STATUS_UNREADABLE = Explanation(
    "status-unreadable",
    means="The Status Service's answer was not an object with a `status`.",
    action="Check the Status Service and STATUS_SERVICE_URL.",
)
STUDY_UNKNOWN = Explanation(
    "study-unknown",
    means="The ledger has no entry for the study_id of `--study`.",
    meanwhile="Exit code 2.",
    action="Check the spelling.",
)
UPLOAD_UNREADABLE = Explanation("upload-unreadable", means="The service lacks permission to read the file.", action=f"{OWNER}.")
