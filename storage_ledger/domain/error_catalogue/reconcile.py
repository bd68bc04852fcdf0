"""The search of uploads for lost messages: why it stopped short, and the files there that nothing explains."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

SWEEPS = Section(
    "Sweeps",
    where="a search of uploads that stopped short",
    intro="""\
Why a search of uploads for lost messages did not get to all files: `storage_ledger_sweeps_total`, the log line `reconcile.stopped-short`, exit code 2 of `storage-ledger reconcile`.
Besides these: `ledger-full`, `ledger-busy` and `ledger-io` of [the ledger](#the-ledger).""",
    meanwhile="The next search begins from the start; nothing is lost by waiting.",
    explanations=(
        Explanation(
            "uploads-missing",
            means="UPLOADS_PATH cannot be opened.",
            action="Mount the uploads volume; check who may enter it.",
        ),
        Explanation(
            "status-service-away",
            means="The Status Service did not answer, and its word was needed for some files.",
            meanwhile="Leftovers of archived files were handled all the same.",
            action="Start the Status Service.",
        ),
    ),
)

_REJECTED = "The Status Service says `described`, but a message with its `details` would be [rejected](#rejected-messages)."

UNEXPLAINED_FILES = Section(
    "Unexplained files",
    where="a file in uploads that nothing explains",
    intro="""\
A file in uploads, older than RECONCILE_GRACE_SECONDS, that no message or work item accounts for.
`storage-ledger reconcile` lists these files, `storage_ledger_unexplained_files` counts them.
"The study" is the one whose study_id is the file's name without its suffix.""",
    meanwhile="The file stays as it is.",
    explanations=(
        Explanation(
            "not-described",
            means="The Status Service has another status than `described` for the study; it stands beside the code. `uploaded`, `validating`: the pipeline has not finished, or has lost it. `failed`: see `storage-ledger show`. `archived`: another file, or other bytes, than the ledger knows. `other`: none of the pipeline's.",
            action="Find out where the pipeline stopped. If the file belongs to a study, publish its message. If it does not, take it out of uploads.",
        ),
        Explanation(
            "no-status",
            means="The Status Service knows no such study.",
            action="Find out where the pipeline stopped. If the Status Service has lost its data, or the file belongs to a study, publish its message. If it does not, take the file out of uploads.",
        ),
        Explanation(
            "no-metadata",
            means="The Status Service says `described`, but has no metadata in `details`.",
            action="Publish the file's message.",
        ),
        Explanation(
            "study-has-another-upload",
            means="The study has another file. The ledger knows the study by it; or `<study_id>.dcm` lies beside this one and comes first.",
            action="If this file belongs to the study too, publish its message. Otherwise take it out of uploads.",
        ),
        Explanation(
            "unsafe-study-id",
            means="The file's name cannot be a study_id: see [rejected messages](#rejected-messages).",
            action="If the file belongs to a study, publish its message. Otherwise take it out of uploads.",
        ),
        Explanation(
            "unsafe-path",
            means="The file's name is not UTF-8, so no message can name it.",
            action="Rename the file, then publish its message.",
        ),
        *(
            Explanation(code, means=_REJECTED, action="Check the descriptor service; publish a correct message.")
            for code in ("too-large", "nested-too-deep", "wrong-field")
        ),
        *(
            Explanation(code, means=f"The Status Service's answer about this study {how}.", action="Check the Status Service's log.")
            for code, how in (("status-refused", "is a refusal"), ("status-unreadable", "cannot be understood"))
        ),
        *(
            Explanation(
                f"upload-is-{what}",
                means=f"A {name}, not a regular file. It is not opened.",
                action="Take it out of uploads; put the file itself there.",
            )
            for what, name in (("link", "symbolic link"), ("fifo", "FIFO"), ("socket", "socket"), ("device", "device"))
        ),
        Explanation(
            "upload-unreadable",
            means="The service may not read the file.",
            action="[Match the uids](../how-to/match-uids.md).",
        ),
        Explanation(
            "upload-io",
            means="The disk cannot read the file.",
            action="Check the kernel log and the uploads disk.",
        ),
        Explanation(
            "entry-damaged",
            means="An entry of the ledger about this file is damaged, so nobody knows whether the file is archived.",
            action="[Make the ledger again](../how-to/ledger-volume-lost.md) from its mirror.",
        ),
        Explanation(
            "upload-name-too-long",
            means="The file's path is longer than the system allows.",
            action="Rename the file.",
        ),
        Explanation(
            "folder-unreadable",
            means="The service may not look into a folder, or the disk cannot read it. What it holds is not known.",
            action="[Match the uids](../how-to/match-uids.md); check the kernel log.",
        ),
        Explanation(
            "folder-too-deep",
            means="More than 32 folders are nested: this one is not searched.",
            action="Put the files elsewhere.",
        ),
    ),
)
