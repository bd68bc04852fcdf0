"""`storage-ledger backup` and `restore --from-backup`."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

BACKUPS = Section(
    "Backups",
    where="`storage-ledger backup` or `restore --from-backup`",
    intro="Errors of `storage-ledger backup` and `storage-ledger restore --from-backup`.",
    meanwhile="The command ends with 2. No ledger was changed, and no half-made backup was left behind.",
    explanations=(
        Explanation(
            "backup-full",
            means="The volume that should take the copy is full.",
            action="Make room there, then run it again.",
        ),
        Explanation(
            "backup-folder",
            means="DEST cannot be made, read or written, or is inside the service's own folders; the text says which.",
            action="Check that its volume is mounted. Give it to the service's user: `chown 10001:10001`, in compose on the host's side of the mount.",
        ),
        Explanation(
            "backup-io",
            means="The disk failed while reading or writing; the text has its reason.",
            action="Check the kernel log.",
        ),
        Explanation(
            "backup-exists",
            means="There is already a backup with this very time.",
            action="Run it again.",
        ),
        Explanation(
            "backup-missing",
            means="There is no backup in this folder.",
            action="Name a folder that has a `manifest.json`, or one that holds such folders.",
        ),
        Explanation(
            "backup-damaged",
            means="An entry, a digest or the manifest of the backup is not as it was written. From `backup`: the ledger itself is damaged at that position.",
            action="From `restore`: take an older backup, then run `restore --from-mirror` for the rest. From `backup`: stop `serve`, copy LEDGER_PATH away as it is, then restore.",
        ),
        Explanation(
            "backup-newer",
            means="A newer version of the program made the backup.",
            action="Restore with that version.",
        ),
        Explanation(
            "backup-older",
            means="The ledger in place has more entries than the backup.",
            action="Most likely you need no backup. If you do, add `--force`.",
        ),
        Explanation(
            "backup-disagrees",
            means="Ledger and backup have different entries at the same position: one of them went on from an old copy.",
            action="Find out which one is right: the archive's mirror agrees with one of them. Then add `--force`, or leave it.",
        ),
    ),
)
