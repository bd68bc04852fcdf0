"""ledger.db, its mirror on the archive volume, and single entries."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_STOPS = "The command or the service stops (exit code 2)."
_APPENDS_AGAIN = "Nothing is recorded or acknowledged meanwhile; the append is repeated."

LEDGER = Section(
    "The ledger",
    where="the ledger",
    intro="Errors of `ledger.db`, and of opening it. Some stop the command or the service; with the others the service retries.",
    explanations=(
        Explanation(
            "ledger-full",
            means="The ledger's volume is full.",
            meanwhile=f"{_APPENDS_AGAIN} Redis is not read: what pub/sub drops stays in uploads and is searched for afterwards; a stream keeps its events.",
            action="Make room on the ledger's volume: [what may be deleted](../how-to/look-after-it.md#disk-space).",
        ),
        Explanation(
            "ledger-busy",
            means="Another process has held the ledger's write lock for 30 seconds.",
            meanwhile=_APPENDS_AGAIN,
            action="Find the program that has the file open, such as a `sqlite3` shell in a transaction, and end it.",
        ),
        Explanation(
            "ledger-refused",
            means="SQLite refuses to append or to read, and does not say that the file is full, busy or damaged: somebody changed a table or trigger by hand.",
            meanwhile=f"{_APPENDS_AGAIN} Messages wait in memory, and Redis is not read.",
            action="See which statement the log names; undo the change, or [make the ledger again](../how-to/ledger-volume-lost.md).",
        ),
        Explanation(
            "ledger-io",
            means="SQLite could not read or write the file: an I/O error, missing rights, a read-only file system, or the folder is gone.",
            meanwhile=f"{_APPENDS_AGAIN} The web page goes on to show what was recorded.",
            action="Check rights and owner of LEDGER_PATH: all programs that open it must run as one user. Then check the disk: a kernel makes a file system read-only after a disk error. In that case look at the kernel log, stop the service, check the disk and mount it again.",
        ),
        Explanation(
            "ledger-missing",
            means="There is no `ledger.db`.",
            meanwhile=_STOPS,
            action="Check LEDGER_PATH. To make a new ledger, run `storage-ledger migrate` or start `serve`.",
        ),
        Explanation(
            "ledger-not-writable",
            means="This user may not write into LEDGER_PATH, and the command writes or copies the ledger; or the file system is mounted read-only, then the text says so. Nothing was opened.",
            meanwhile=_STOPS,
            action="Run it as the service's user, whom the text names: in compose `docker compose exec storage-service storage-ledger …`. If it is read-only, look at the kernel log, check the disk and remount it.",
        ),
        Explanation(
            "index-missing",
            means="`browse` found no `index.db`.",
            meanwhile=_STOPS,
            action="Start `serve` with the same LEDGER_PATH: it makes the index.",
        ),
        Explanation(
            "ledger-folder",
            means="The ledger's folder or file cannot be made or written to; the text says why.",
            meanwhile=_STOPS,
            action="Give the folder to the service's user. If the text says read-only, look at the kernel log, check the disk and remount it.",
        ),
        Explanation(
            "ledger-on-network-file-system",
            means="LEDGER_PATH is on NFS, SMB, 9p, virtiofs or the like, where SQLite's locks or its WAL do not work.",
            meanwhile=_STOPS,
            action="Move the ledger to a local disk.",
        ),
        Explanation(
            "ledger-foreign",
            means="The file is an SQLite database, but not a ledger.",
            meanwhile=_STOPS,
            action="Check LEDGER_PATH.",
        ),
        Explanation(
            "ledger-without-id",
            means="The file has a `meta` table, but no ledger_id in it: `migrate` did not make it.",
            meanwhile=_STOPS,
            action="Restore a backup.",
        ),
        Explanation(
            "migrations-missing",
            means="The program's own scripts that make or upgrade a ledger are missing or cannot be read. Nothing was changed.",
            meanwhile=_STOPS,
            action="Install the program again; check that the service's user may read it.",
        ),
        Explanation(
            "ledger-newer",
            means="A newer version of the program wrote the ledger.",
            meanwhile=_STOPS,
            action="Run that version or a newer one. The only way back is the backup that the migration made.",
        ),
        Explanation(
            "ledger-damaged",
            means="The ledger is damaged. SQLite says so, or that it cannot read a page, which it does not tell apart. Or the last entry, after which the next would be appended, does not match its hash; or an entry is damaged that the mirror does not have yet.",
            meanwhile=_STOPS,
            action="Stop the service. Copy LEDGER_PATH away as it is and check the disk. If the file can be read after all, `serve` starts on it; otherwise [make the ledger again](../how-to/ledger-volume-lost.md) with `restore --from-mirror --force`, or from a backup.",
        ),
        Explanation(
            "sqlite-too-old",
            means="The SQLite library is older than 3.35.",
            meanwhile=_STOPS,
            action="Install `pysqlite3`, or a newer Python.",
        ),
        Explanation(
            "sqlite-journal-mode",
            means="SQLite did not accept the journal mode that makes a commit durable.",
            meanwhile=_STOPS,
            action="Close the other process that holds the file: that is the usual cause.",
        ),
        Explanation(
            "sqlite-synchronous",
            means="SQLite did not accept the `synchronous` setting that makes a commit durable.",
            meanwhile=_STOPS,
            action="Report it: this is a bug, or a strange build of SQLite.",
        ),
    ),
)

_RESTORE = "storage-ledger restore --from-mirror"

MIRROR = Section(
    "The mirror",
    where="the mirror",
    intro="Errors of the ledger's copy on the archive volume. [What the mirror is](mirror.md).",
    meanwhile="`serve` and `restore` end with 2 before they have changed anything.",
    explanations=(
        Explanation(
            "mirror-foreign",
            means="The archive holds the mirror of another ledger. Often LEDGER_PATH is a new, empty volume. From `restore --from-backup`: the backup is of another ledger than the mirror.",
            action="Mount the right volumes; or make the ledger again from this mirror with `storage-ledger restore --from-mirror`. For a backup: name one of the right ledger.",
        ),
        Explanation(
            "mirror-ahead",
            means="The mirror has entries that the ledger lacks: the ledger is an old copy.",
            action="Append the missing entries from the mirror.",
            commands=(_RESTORE,),
        ),
        Explanation(
            "mirror-disagrees",
            means="Ledger and mirror have different entries at the same position: one of them went on from an old copy.",
            action="Keep both. Make the mirror's ledger in another folder (LEDGER_PATH) with `storage-ledger restore --from-mirror`, and compare: [how](../how-to/old-backup-restored.md).",
        ),
        Explanation(
            "mirror-missing",
            means="The ledger has entries, and the archive holds no mirror of them.",
            action="Mount the archive. If it was lost and there is a copy: [archive volume lost](../how-to/archive-volume-lost.md). If it is new on purpose, run `storage-ledger replay --mirror`.",
        ),
        Explanation(
            "mirror-damaged",
            means="A line of the mirror is not as it was written; segment and line are named.",
            action="If you have the ledger, run `storage-ledger replay --mirror`. To restore from the mirror, take the segment from a copy of the archive.",
        ),
    ),
)

_CHANGED = "Find out who or what changed the file below SQLite. Keep the file, and restore a backup beside it."
_UPDATE = "Update this program, then rebuild the index."

ENTRIES = Section(
    "Entries",
    where="a single entry",
    intro="What is wrong with a single entry, judged by its own hashes. `storage-ledger verify` reports these.",
    explanations=(
        Explanation("payload-changed", means="Payload and salt do not give `payload_sha256`.", action=_CHANGED),
        Explanation("header-changed", means="The header does not give `leaf_hash`.", action=_CHANGED),
        Explanation("entry-unreadable", means="The columns cannot be hashed at all.", action=_CHANGED),
        *(
            Explanation(
                code,
                means="The entry matches its hashes, but this program cannot read its payload: another program wrote it.",
                meanwhile="The index goes on without it (table `damaged`); everything else goes on as well.",
                action=_UPDATE,
                commands=("storage-ledger replay --index",),
            )
            for code in ("entry-not-understood", "ledger-newer")
        ),
    ),
)
