"""Failures of `storage-ledger backup` and `restore --from-backup`."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

BACKUPS = Section(
    "Backups",
    intro="Errors of `storage-ledger backup` and `restore --from-backup`.",
    meanwhile="Exit code 2; no ledger was changed, and no partial backup left behind.",
    explanations=(
        Explanation(
            "backup-full",
            means="The destination volume is full.",
            action="Make room there, then run it again.",
        ),
        Explanation(
            "backup-folder",
            means="DEST cannot be created, read or written, or is inside the service's folders; the text says which.",
            action="Mount its volume; give it to the service's user (on the host: `chown 10001:10001`).",
        ),
        Explanation(
            "backup-io",
            means="The disk failed; the text says why.",
            action="Check the kernel log.",
        ),
        Explanation(
            "backup-exists",
            means="There is already a backup with this timestamp.",
            action="Run it again.",
        ),
        Explanation(
            "backup-missing",
            means="There is no backup in this folder.",
            action="Name a folder with a `manifest.json`, or its parent.",
        ),
        Explanation(
            "backup-damaged",
            means="The backup is damaged; if `backup` reports this, the ledger is.",
            action="Restore an older backup, then run `storage-ledger restore --from-mirror` for the rest. For the ledger: stop the service, copy LEDGER_PATH away, then restore it.",
        ),
        Explanation(
            "backup-newer",
            means="A newer version of the program made the backup.",
            action="Restore it with that version.",
        ),
        Explanation(
            "backup-older",
            means="The current ledger has more entries than the backup.",
            action="Keep the ledger. To restore the backup anyway, add `--force`.",
        ),
        Explanation(
            "backup-disagrees",
            means="Ledger and backup have different entries at one position: one of them was continued from an older copy.",
            action="Find out which one agrees with the archive's mirror. To restore the backup, add `--force`.",
        ),
    ),
)
