"""What `storage-ledger status` lists under "Needs attention"."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

ATTENTION = Section(
    "Attention",
    where="`storage-ledger status`",
    intro="""\
What `storage-ledger status` lists under "Needs attention", besides every [outage](#outages) and what the running service says of its [readiness](#readiness).
The web page lists the same under "Attention", except for readiness, which only the service knows, and for volumes and mirror.
What the web page lists there as flagged, with an unreadable header, rejected, or failing and retried needs nobody: `status` ends with 0 all the same.""",
    explanations=(
        Explanation(
            "quarantined",
            means="Files wait for a person; the detail says how many.",
            action="See which ones, and what to do about each.",
            commands=("storage-ledger quarantine list",),
        ),
        Explanation(
            "waiting-long",
            means="Something has waited for more than 15 minutes to be placed or removed, or for its status to be sent.",
            action="If there is an outage, end that first. Otherwise see the log and `/metrics` for what it fails with, and run `storage-ledger show` for a study that is not archived.",
        ),
        Explanation(
            "not-serving",
            means="No `storage-ledger serve` runs on this ledger: none holds `serve.lock`.",
            meanwhile="Nothing is archived, sent or removed. What is published to a channel stays in uploads and is searched for there afterwards.",
            action="Start `serve`; its log says why it ended.",
        ),
        Explanation(
            "not-answering",
            means="`serve` runs, but its `/readyz` did not answer within 10 seconds.",
            action="Check that HTTP_HOST and HTTP_PORT are those of the service, and whether it is just starting. Otherwise see its log: a volume may hang.",
        ),
        Explanation(
            "index-missing",
            means="The ledger has entries, and there is no index of them that can be read. Which files are damaged or flagged is not known.",
            meanwhile="`serve` makes the index by itself.",
            action="Wait. If it lasts, rebuild the index.",
            commands=("storage-ledger replay --index",),
        ),
        Explanation(
            "entry-damaged",
            means="An entry of the ledger does not match its hashes: something changed the file below SQLite. The first one is named, with [what is wrong](#entries). The log has `index.entry-damaged`.",
            meanwhile="The index goes on without the entry, and takes it in at the next start after the repair.",
            action="Check the disk of LEDGER_PATH. Stop `serve`, then [make the ledger again](../how-to/ledger-volume-lost.md) from its mirror; the old ledger is kept beside it.",
            commands=("storage-ledger restore --from-mirror --force",),
        ),
        Explanation(
            "mirror-missing",
            means="The ledger has entries, and ARCHIVE_PATH holds no mirror of them.",
            action="Check that the right volume is mounted.",
        ),
        Explanation(
            "mirror-lags",
            means="The oldest entry that is not mirrored is older than a minute.",
            meanwhile="Until an entry is mirrored, its status is not sent and its upload not removed.",
            action="Check that `serve` runs. See its log, and the outages.",
        ),
        *(
            Explanation(
                f"{volume}-missing",
                means=f"{volume.upper()}_PATH cannot be looked at from here.",
                action="Check that the volume is mounted, and that the setting is the same as the service's.",
            )
            for volume in ("uploads", "archive", "ledger")
        ),
        Explanation(
            "damaged-files",
            means="Archived files were missing or changed when they were last read. The detail says how many, and names the first.",
            action="See which ones, and what to do: [verify](../how-to/verify.md). `storage-ledger show` of a study has its command.",
        ),
        Explanation(
            "verify-findings",
            means="`verify` or the scrub found something besides missing and changed files, and no complete run of `verify` since then was without it. Also findings that could not be recorded, because ledger or mirror are damaged: `verify-not-recorded.json` beside the ledger has them until a run can be recorded again.",
            action="Run it again; each of its codes says what to do: [verify](../how-to/verify.md).",
            commands=("storage-ledger verify",),
        ),
    ),
)
