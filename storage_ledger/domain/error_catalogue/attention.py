"""What `storage-ledger status` lists under "Needs attention"."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.shared import ENTRY_DAMAGED, INDEX_MISSING, MIRROR_LAGS, MIRROR_MISSING

ATTENTION = Section(
    "Attention",
    intro="""\
`storage-ledger status` lists these under "Needs attention", with [outages](#outages) and [readiness](#readiness).
The web page lists the same, except volumes and mirror; readiness only with `BROWSE_SERVICE_URL`.
It adds flagged files, unreadable headers, retries and rejected messages.""",
    explanations=(
        Explanation(
            "quarantined",
            means="Files need manual review; the detail says how many.",
            action="List them, then [retry or discard](../how-to/look-after-it.md#when-something-is-quarantined) each.",
            commands=("storage-ledger quarantine list",),
        ),
        Explanation(
            "waiting-long",
            means="A work item has waited for more than 15 minutes.",
            action="If there is an outage, fix its cause; otherwise check the log, and run `storage-ledger show` for the study.",
        ),
        Explanation(
            "not-serving",
            means="No `storage-ledger serve` is running on this ledger: nothing holds `serve.lock`.",
            meanwhile="Nothing is archived, sent or removed; missed messages are recovered later.",
            action="Start the service; its log says why it ended.",
        ),
        Explanation(
            "not-answering",
            means="The service runs, but `/readyz` did not answer within 10 seconds.",
            action="Check HTTP_HOST, HTTP_PORT and its log. It may still be starting, or a volume may hang.",
        ),
        INDEX_MISSING,
        ENTRY_DAMAGED,
        MIRROR_MISSING,
        MIRROR_LAGS,
        *(
            Explanation(
                f"{volume}-missing",
                means=f"This command cannot read {volume.upper()}_PATH.",
                action="Mount the volume, or correct the setting.",
            )
            for volume in ("uploads", "archive", "ledger")
        ),
        Explanation(
            "damaged-files",
            means="Archived files were missing or changed when last read; the detail names the first.",
            action="Run `storage-ledger show` for the study; it says how to [restore files](../how-to/files-damaged-or-deleted.md).",
        ),
        Explanation(
            "verify-findings",
            means="`verify` or the scrub found something other than damaged files, and no complete run since was clean. Findings that could not be recorded are in `LEDGER_PATH/verify-not-recorded.json`.",
            action="Follow the advice that a new run prints.",
            commands=("storage-ledger verify",),
        ),
    ),
)
