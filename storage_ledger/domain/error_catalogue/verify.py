"""What `storage-ledger verify` and the scrub find."""

# ruff: noqa: E501 - a sentence is one line; … is part of a name

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_RESTORE = "storage-ledger restore --from-mirror --force"
_MAKE_AGAIN = "Stop the service and keep the file, then make the ledger again from its mirror."
_ORDER = "Entries that match their hashes were not changed."
_PUT_BACK = "storage-ledger replay --files --source FOLDER"
_METADATA = "storage-ledger replay --metadata"
_INDEX = "storage-ledger replay --index"

VERIFY = Section(
    "Verify",
    where="`storage-ledger verify` or the scrub",
    intro="""\
What `storage-ledger verify` and the scrub find; `part` says where.
Besides these a single entry has the codes of [entries](#entries).
Before you repair anything, find out *why*: a disk that begins to fail, or somebody who writes there.""",
    meanwhile="Nothing is repaired.",
    explanations=(
        Explanation(
            "entry-missing", means="ledger.db has no entry at this position, but has later ones.", action=_MAKE_AGAIN, commands=(_RESTORE,)
        ),
        Explanation(
            "version-wrong",
            means="The entry's version does not follow that of its study's entry before it.",
            action=_MAKE_AGAIN,
            commands=(_RESTORE,),
        ),
        Explanation("entry-id-twice", means="Two entries have the same entry_id.", action=_MAKE_AGAIN, commands=(_RESTORE,)),
        Explanation(
            "recorded-at-decreases",
            means="The entry has an earlier time than the entry before it.",
            action=_MAKE_AGAIN,
            commands=(_RESTORE,),
        ),
        Explanation("cause-invalid", means="The entry's cause is not an earlier entry.", action=_MAKE_AGAIN, commands=(_RESTORE,)),
        Explanation(
            "schema-changed",
            means="A table, index or trigger of ledger.db is not as the migrations make it, or the revision is unknown; the detail names it. Without its triggers, entries can be changed.",
            action=f"Find out who opened the file for writing. {_MAKE_AGAIN} {_ORDER}",
            commands=(_RESTORE,),
        ),
        Explanation(
            "meta-changed",
            means="ledger_id is missing or another one, or `meta` has extra rows.",
            action=f"Find out who opened the file for writing. {_MAKE_AGAIN} {_ORDER}",
            commands=(_RESTORE,),
        ),
        Explanation(
            "ledger-damaged",
            means="SQLite's own check says that the file is damaged. As *could not be checked*: something depends on entries that are damaged and that the mirror does not have either.",
            action=_MAKE_AGAIN,
            commands=(_RESTORE,),
        ),
        Explanation(
            "duty-missing",
            means="By its entries a study still needs a file placed or a status sent, but `pending` has no such row: it will never be done.",
            action="Make the rows again from the mirror, with `serve` stopped; for one study, have its message published again.",
            commands=(_RESTORE,),
        ),
        Explanation(
            "duty-unexplained",
            means="A row of `pending` has no reason in the entries, or waits for ever.",
            action="Restart `serve`: what was put off becomes due. If the row stays, stop `serve` and make the rows again from the mirror.",
            commands=(_RESTORE,),
        ),
        Explanation(
            "mirror-damaged",
            means="The mirror is not as it was written, at this line; or a segment is gone, cut off or not a file. Adjoining lines are one finding.",
            action="Check the archive's disk, then make the mirror again from the ledger; the old one is kept in `.ledger/damaged/`.",
            commands=("storage-ledger replay --mirror",),
        ),
        Explanation(
            "mirror-disagrees",
            means="Ledger and mirror have different entries at this position, and each matches its own hashes.",
            action="Keep both. One of them went on from an old copy, or was forged: [compare them](../how-to/old-backup-restored.md), then decide.",
        ),
        Explanation(
            "mirror-ahead",
            means="The mirror has entries that the ledger lacks. The ledger is an old backup, or entries were deleted at its end.",
            action="Append the missing entries from the mirror, with `serve` stopped.",
            commands=("storage-ledger restore --from-mirror",),
        ),
        Explanation(
            "mirror-lags",
            means="The ledger has entries that the mirror lacks, and no process adds them.",
            action="Start `serve`. After a crash that is all; otherwise the end of the mirror was cut off.",
        ),
        Explanation(
            "mirror-foreign",
            means="The mirror is that of another ledger.",
            action="Check that the right volumes are mounted.",
        ),
        Explanation(
            "mirror-missing",
            means="There is no mirror.",
            action="Check that the right volume is mounted.",
        ),
        Explanation(
            "file-missing",
            means="An archived file is not in the archive.",
            action="Put it back from any folder that has copies, whatever their names, with `serve` stopped. Or put the file into uploads and publish its message again.",
            commands=(_PUT_BACK,),
        ),
        Explanation(
            "file-changed",
            means="An archived file has other bytes than the ledger says.",
            action="First check whether the disk fails. Then put the file back from any folder that has copies, with `serve` stopped; the changed one is moved to `.ledger/damaged/`. Or put the file into uploads and publish its message again.",
            commands=(_PUT_BACK,),
        ),
        Explanation(
            "file-replaced",
            means="A link, folder, FIFO or the like is in the place of an archived file or of its folder. It was not opened.",
            action="Find out who did that. Then put the file back from any folder that has copies, with `serve` stopped.",
            commands=(_PUT_BACK,),
        ),
        Explanation(
            "file-exposed",
            means="An archived file has the right bytes, but everybody on the machine may write to it.",
            action="Run `chmod o-w` on it. Other modes, owners and further hard links are no findings.",
        ),
        Explanation(
            "metadata-missing",
            means="A study has no metadata.json.",
            action="Write it again, with `serve` stopped.",
            commands=(_METADATA,),
        ),
        Explanation(
            "metadata-changed",
            means="A study's metadata.json differs from what its entries give.",
            action="Keep a copy, if you want to find out who changed it. Then write it again, with `serve` stopped.",
            commands=(_METADATA,),
        ),
        Explanation(
            "untracked-file",
            means="A file in the archive, or in `.ledger/`, that the ledger does not know. Temporary files do not count while the service runs, nor does anything while a file of the study waits to be placed.",
            action="Find out whose it is, and move it away. A crash leaves `.place-….tmp`, `.metadata….tmp` or `.renew….tmp`: `serve` removes it when it next writes into that study; until then you may remove it while `serve` is stopped.",
        ),
        Explanation(
            "untracked-folder",
            means="A folder in the archive of which the ledger knows no archived file. It is reported once, whatever it holds.",
            action="Find out whose it is, and move it away; or, if it is a study of the old service, take it in with `storage-ledger adopt`.",
        ),
        Explanation(
            "index-differs",
            means="A row, a table or the position of index.db is not what the ledger gives; the detail names it.",
            action="Rebuild the index; `serve` and `browse` may run.",
            commands=(_INDEX,),
        ),
        Explanation(
            "index-unreadable",
            means="SQLite cannot read index.db.",
            action="Rebuild the index; `serve` and `browse` may run.",
            commands=(_INDEX,),
        ),
        Explanation(
            "index-missing",
            means="There is no index.db.",
            action="Start `serve`.",
        ),
        Explanation(
            "archive-missing",
            means="Could not be checked: ARCHIVE_PATH is not there, is empty, or became another folder meanwhile.",
            action="Mount the archive's volume.",
        ),
        *(
            Explanation(
                code,
                means=f"Could not be checked: the disk cannot read {what}.",
                action="Check the kernel log. A file that can never be read is as good as lost: restore it.",
            )
            for code, what in (("archive-io", "a file of the archive"), ("mirror-io", "the mirror"), ("ledger-io", "the ledger"))
        ),
        Explanation(
            "archive-not-readable",
            means="Could not be checked: this user may not read it.",
            action="Run `verify` as the service's user.",
        ),
        Explanation(
            "study-unknown",
            means="`--study` names a study of which the ledger knows nothing. Nothing was checked.",
            action="Check the spelling: it is the pipeline's study_id.",
        ),
    ),
)
