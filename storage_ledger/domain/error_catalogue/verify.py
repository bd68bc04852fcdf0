"""What `storage-ledger verify` and the scrub find."""

# ruff: noqa: E501 - a sentence is one line; … is part of a name

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.checkpoints import FORKED
from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.ledger_and_mirror import MIRROR
from storage_ledger.domain.error_catalogue.outages import ARCHIVE_MISSING, MIRROR_IO
from storage_ledger.domain.error_catalogue.retries import ARCHIVE_IO
from storage_ledger.domain.error_catalogue.shared import INDEX_MISSING, LEDGER_DAMAGED, MIRROR_LAGS, RESTORE, RESTORE_LEDGER, STUDY_UNKNOWN

_PUT_BACK = "storage-ledger repair files --source FOLDER"
_METADATA = "storage-ledger replay --metadata"
_INDEX = "storage-ledger replay --index"
_SOURCE = "Check the disk. [Restore the file](../how-to/files-damaged-or-deleted.md) from any folder of copies, or put it into uploads and publish its message again."
_REBUILD = "Rebuild the index; the service may be running."

FILE_MISSING = Explanation("file-missing", means="An archived file is not in the archive.", action=_SOURCE, commands=(_PUT_BACK,))
FILE_CHANGED = Explanation(
    "file-changed", means="An archived file does not match its checksum or size.", action=_SOURCE, commands=(_PUT_BACK,)
)

CHECKPOINT_FINDINGS = (
    Explanation(
        "checkpoint-mismatch",
        means="Today's entries do not lead to the root of a checkpoint: an entry was changed, removed or added at the position or later, up to the checkpoint's size.",
        action="Treat it as tampering until you know otherwise. Stop the service, copy both volumes, and [find out what was changed](../how-to/ledger-forked.md).",
    ),
    Explanation(
        "checkpoint-ahead",
        means="A checkpoint has more entries than the ledger: the ledger is an old copy, or its end was cut off.",
        action="If you have restored a backup, restore the newest one, or [the mirror](../how-to/ledger-volume-lost.md). Otherwise treat it as tampering.",
        commands=(RESTORE,),
    ),
    FORKED,
    Explanation(
        "checkpoint-missing",
        means="A signed checkpoint is not in the archive, but its copy in LEDGER_PATH is, or its time stamp or cosignatures are.",
        action="If you restored an older copy of the archive, that is why. Otherwise find out who removed it, and compare the ledger with checkpoints that others keep (`storage-ledger verify --checkpoint FILE`).",
    ),
    Explanation(
        "checkpoint-damaged",
        means="A checkpoint cannot be read, was changed after it was signed, or is signed by no key that the ledger records. Or a file in its `.cosig` folder is not a list of signatures.",
        action="If it was typed, check for typing errors. Compare it with other copies. If it is in `.ledger/checkpoints`, find out who wrote it, move it away, and check the disk of ARCHIVE_PATH.",
    ),
    Explanation(
        "checkpoint-foreign",
        means="A checkpoint names another ledger.",
        action="Check which file you gave. If it is the right one, the ledger was replaced: find out when its ledger_id changed.",
    ),
)

VERIFY = Section(
    "Verify",
    intro="""\
Findings of `storage-ledger verify` and the scrub; single entries have the codes of [entries](#entries).
Before you repair anything, find out *why* it happened: a failing disk, or another program that writes there.
Repair [the ledger first](../how-to/verify.md#when-something-is-damaged).""",
    meanwhile="Nothing is repaired.",
    explanations=(
        *(
            Explanation(code, means=means, action=RESTORE_LEDGER, commands=(RESTORE,))
            for code, means in (
                ("entry-missing", "There is a gap in the positions."),
                ("version-wrong", "The entry's version does not follow the study's previous one."),
                ("entry-id-twice", "Two entries have the same entry_id."),
                ("recorded-at-decreases", "The entry is dated earlier than the one before."),
                ("cause-invalid", "The entry's cause is not an earlier entry."),
                ("schema-changed", "A table, index, trigger or the revision differs from the migrations; the detail names it."),
                ("meta-changed", "ledger_id is missing or changed, or `meta` has extra rows."),
            )
        ),
        LEDGER_DAMAGED,
        Explanation(
            "duty-missing",
            means="A study needs a file placed or a status sent, but the work queue (`pending`) has no row for it.",
            action="Stop the service and restore the ledger from its mirror; for one study, publish its message again.",
            commands=(RESTORE,),
        ),
        Explanation(
            "duty-unexplained",
            means="A row of the work queue (`pending`) follows from no entry, or never becomes due.",
            action="Restart the service. If that does not help, stop it and restore the ledger from its mirror.",
            commands=(RESTORE,),
        ),
        *MIRROR.explanations,
        MIRROR_LAGS,
        *CHECKPOINT_FINDINGS,
        FILE_MISSING,
        FILE_CHANGED,
        Explanation(
            "file-replaced",
            means="A link, folder or FIFO is in place of an archived file or its folder.",
            action=_SOURCE,
            commands=(_PUT_BACK,),
        ),
        Explanation(
            "file-exposed",
            means="An archived file is intact, but world-writable.",
            action="Run `chmod o-w` on it.",
        ),
        Explanation(
            "metadata-missing",
            means="A study has no metadata.json.",
            action="Stop the service and rebuild it.",
            commands=(_METADATA,),
        ),
        Explanation(
            "metadata-changed",
            means="A study's metadata.json does not match the ledger.",
            action="Keep a copy to find out who changed it, then stop the service and rebuild it.",
            commands=(_METADATA,),
        ),
        Explanation(
            "untracked-file",
            means="The archive has a file that the ledger does not know.",
            action="Find out whose it is, and move it away. While the service is stopped, you may remove `.place-….tmp`, `.metadata….tmp` and `.renew….tmp`.",
        ),
        Explanation(
            "untracked-folder",
            means="The archive has a folder in which the ledger knows no file.",
            action="Find out whose it is, and move it away. If it is a study of the old service, run `storage-ledger adopt`.",
        ),
        Explanation(
            "index-differs",
            means="index.db does not match the ledger; the detail says where.",
            action=_REBUILD,
            commands=(_INDEX,),
        ),
        Explanation(
            "index-unreadable",
            means="SQLite cannot read index.db.",
            action=_REBUILD,
            commands=(_INDEX,),
        ),
        INDEX_MISSING,
        ARCHIVE_MISSING,
        replace(ARCHIVE_IO, steps=()),
        replace(MIRROR_IO, steps=()),
        Explanation("ledger-io", means="The disk cannot read the ledger.", action="Check the disk of LEDGER_PATH and the kernel log."),
        Explanation(
            "archive-not-readable",
            means="This user lacks permission to read a file or folder.",
            action="Run `verify` as the service's user.",
        ),
        STUDY_UNKNOWN,
    ),
)
