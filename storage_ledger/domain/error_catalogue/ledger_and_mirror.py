"""ledger.db, its mirror on the archive volume, and single entries."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.shared import INDEX_MISSING, LEDGER_BUSY, LEDGER_DAMAGED, MIRROR_MISSING, RESTORE, RESTORE_LEDGER

_RETRIED = "Nothing is recorded; the append is retried."
_READ_ONLY = "If it is mounted read-only, check the kernel log, then remount it."

LEDGER = Section(
    "The ledger",
    intro="Errors of `ledger.db`, and of opening it: exit code 2, unless the append is retried.",
    explanations=(
        Explanation(
            "ledger-full",
            means="The ledger's volume is full.",
            meanwhile=f"{_RETRIED} Redis is not read; missed messages are recovered later.",
            action="Make room on the ledger's volume: [what may be deleted](../how-to/look-after-it.md#disk-space).",
        ),
        LEDGER_BUSY,
        Explanation(
            "ledger-refused",
            means="SQLite refuses to read or append, usually because a table or trigger was changed by hand.",
            meanwhile=f"{_RETRIED} Redis is not read.",
            action="Undo the change (the log has the statement), or [restore the ledger from its mirror](../how-to/ledger-volume-lost.md).",
        ),
        Explanation(
            "ledger-io",
            means="SQLite cannot read or write the file: I/O error, permissions, missing folder or read-only file system.",
            meanwhile=_RETRIED,
            action=f"Check owner and mode of LEDGER_PATH; all programs must run as one user. {_READ_ONLY}",
        ),
        Explanation(
            "ledger-missing",
            means="There is no `ledger.db`.",
            action="Check LEDGER_PATH. For a new ledger, run `storage-ledger migrate` or start the service.",
        ),
        Explanation(
            "ledger-not-writable",
            means="This user lacks permission to write to LEDGER_PATH, or it is mounted read-only.",
            action=f"Run it as the user named in the text (compose: `docker compose exec storage-service storage-ledger …`). {_READ_ONLY}",
        ),
        INDEX_MISSING,
        Explanation(
            "ledger-folder",
            means="The ledger's folder or file cannot be created or written; the text says why.",
            action=f"Give the folder to the service's user. {_READ_ONLY}",
        ),
        Explanation(
            "ledger-on-network-file-system",
            means="LEDGER_PATH is on NFS, SMB, 9p, virtiofs or similar, where SQLite is not safe.",
            action="Move the ledger to a local disk.",
        ),
        Explanation(
            "ledger-foreign",
            means="The SQLite database is not a ledger.",
            action="Check LEDGER_PATH.",
        ),
        Explanation(
            "ledger-without-id",
            means="The table `meta` has no ledger_id: `migrate` did not create this file.",
            action="Restore a backup.",
        ),
        Explanation(
            "migrations-missing",
            means="The program's own migrations are missing or unreadable.",
            action="Reinstall the program.",
        ),
        Explanation(
            "ledger-newer",
            means="A newer version of the program wrote the ledger.",
            action="Run that version, or restore the backup that the migration made.",
        ),
        LEDGER_DAMAGED,
        Explanation(
            "sqlite-too-old",
            means="The SQLite library is older than 3.35.",
            action="Install `pysqlite3`, or a newer Python.",
        ),
        Explanation(
            "sqlite-journal-mode",
            means="SQLite rejected the journal mode that makes commits durable.",
            action="End the other process that has the file open.",
        ),
        Explanation(
            "sqlite-synchronous",
            means="SQLite rejected the `synchronous` setting that makes commits durable.",
            action="Report it: a bug, or an unusual build of SQLite.",
        ),
    ),
)

POSTGRES = Section(
    "The ledger in PostgreSQL",
    intro="Errors that only a ledger in PostgreSQL can have.",
    explanations=(
        Explanation(
            "ledger-away",
            means="The server cannot be reached, ended the connection, refuses the login, or has become a standby.",
            meanwhile=f"{_RETRIED} Nothing is lost: Redis is not read, and missed messages are recovered later.",
            action="Check the server, its log and LEDGER_URL. The service continues by itself.",
        ),
        Explanation(
            "ledger-standby",
            means="A commit ended with a warning before the synchronous standby confirmed it, so a failover could lose it.",
            meanwhile="It counts as not recorded, and is repeated.",
            action="Check the standby. Do not cancel commits that wait for it.",
        ),
        Explanation(
            "ledger-moved",
            means="`copy-ledger` moved this ledger to another engine, or it is the local copy of a ledger in PostgreSQL.",
            action="Set LEDGER_URL as the text says; unset it if the ledger was moved back to SQLite.",
        ),
        Explanation(
            "ledger-taken-over",
            means="Another `serve` has begun to use this ledger while this one was cut off from the server.",
            meanwhile="This one stops, so that two never archive at once.",
            action="Let only one run. Restart this one if the other was a mistake, and is stopped.",
        ),
        Explanation(
            "copy-disagrees",
            means="A copy of the ledger has other entries than the ledger: one of them was continued from an older copy.",
            action="Compare both with the archive's mirror. A local copy can be removed (`ledger.db*`, while `serve` and `browse` are stopped): `serve` re-creates it.",
        ),
        Explanation(
            "postgres-denied",
            means="The database user lacks a right on the ledger's tables.",
            action="Grant it, as the text says.",
        ),
        Explanation(
            "postgres-not-durable",
            means="The server has `fsync` off, or `synchronous_commit` is `off` or `local`: a power cut could lose commits.",
            action="Set both to `on`, for the server, the database and the user.",
        ),
        Explanation(
            "postgres-not-utf8",
            means="The database's encoding is not UTF-8.",
            action="Create a database with `ENCODING 'UTF8'`.",
        ),
        Explanation(
            "postgres-too-old",
            means="The server is older than PostgreSQL 15.",
            action="Upgrade it.",
        ),
    ),
)

MIRROR = Section(
    "The mirror",
    intro="Errors of the [mirror](mirror.md), the ledger's copy on the archive volume.",
    meanwhile="`serve` and `restore` exit with 2 before they change anything.",
    explanations=(
        Explanation(
            "mirror-foreign",
            means="The mirror does not belong to the ledger in LEDGER_PATH (often a new, empty volume) or in the backup.",
            action="Mount the right volumes, or name the right backup. If the ledger is lost, run `storage-ledger restore --from-mirror`.",
        ),
        Explanation(
            "mirror-ahead",
            means="The mirror has newer entries than the ledger, which is an old copy.",
            action="Stop the service, then append the missing entries from the mirror.",
            commands=("storage-ledger restore --from-mirror",),
        ),
        Explanation(
            "mirror-disagrees",
            means="Ledger and mirror have different entries at one position: one of them was continued from an older copy.",
            action="Keep both. Run `storage-ledger restore --from-mirror` with another LEDGER_PATH, and [compare them](../how-to/old-backup-restored.md).",
        ),
        MIRROR_MISSING,
        Explanation(
            "mirror-damaged",
            means="The mirror was changed at this line, or a segment is missing or cut off.",
            action="Check the archive's disk, then rebuild the mirror with `storage-ledger replay --mirror`. Without a ledger, take the segment from a copy of the archive.",
        ),
    ),
)


ENTRIES = Section(
    "Entries",
    intro="What is wrong with a single entry, found by `storage-ledger verify`.",
    explanations=(
        *(
            Explanation(code, means=means, action=RESTORE_LEDGER, commands=(RESTORE,))
            for code, means in (
                ("payload-changed", "Payload and salt do not match `payload_sha256`."),
                ("header-changed", "The header does not match `leaf_hash`."),
                ("entry-unreadable", "Its columns cannot be hashed."),
            )
        ),
        *(
            Explanation(
                code,
                means="The entry matches its hashes, but this program cannot read its payload: another version wrote it, or somebody who computed the hashes.",
                meanwhile="The index continues without it (table `damaged`).",
                action="Update this program, then rebuild the index. If it is the newest version already, find out who wrote the entry.",
                commands=("storage-ledger replay --index",),
            )
            for code in ("entry-not-understood", "ledger-newer")
        ),
    ),
)
