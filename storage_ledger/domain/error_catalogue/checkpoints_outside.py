"""Why a checkpoint does not reach a place outside, and why a witness does not start."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

WITNESS = Section(
    "Witness",
    intro="Why `storage-ledger witness` [does not start](../how-to/keep-heads-elsewhere.md#run-a-witness).",
    meanwhile="Nothing is cosigned. Exit code 2.",
    explanations=(
        Explanation(
            "witness-records-missing",
            means="The witness's key is there, but not `witness.db`, which records what it has cosigned: it could cosign a second history.",
            action="Restore its latest state, never an older one. If that is lost, move the key away and start a new witness, under another name.",
        ),
        Explanation(
            "witness-records-unusable",
            means="`witness.db` cannot be opened, or is damaged.",
            action="Check its owner, mode and disk.",
        ),
        Explanation(
            "witness-key-missing",
            means="`witness.db` is there, but not `witness.key`.",
            action="Restore the file. If it is lost, start a new witness in another folder, under another name.",
        ),
        Explanation(
            "witness-key-wrong",
            means="`witness.db` belongs to another key, or to another name.",
            action="Use the name of the first start, and put the right key in place.",
        ),
    ),
)

OUTSIDE = Section(
    "Checkpoints outside",
    intro="Why `serve` cannot take a checkpoint to one of its [places outside](../how-to/keep-heads-elsewhere.md): `checkpoint.not-taken` in the log, and a metric.",
    meanwhile="It tries again, at least every 10 minutes, with the newest checkpoint. Signing, archiving and the other places continue.",
    explanations=(
        Explanation(
            "witness-saw-fork",
            means="A witness has cosigned another history of this ledger, or a longer one: the ledger is an old copy, or entries were changed or removed. Also a reason in `/readyz`.",
            action="Get the checkpoint that the witness has (its URL, `/`, the SHA-256 of the origin, `/checkpoint`), and compare: `storage-ledger verify --checkpoint FILE`. Then see [the ledger is forked](../how-to/ledger-forked.md).",
        ),
        Explanation(
            "witness-away",
            means="A witness cannot be reached, or answers with 5xx, 408, 425 or 429.",
            action="Check its URL in CHECKPOINT_WITNESSES and the network. Proxies are not used.",
        ),
        Explanation(
            "witness-refused",
            means="A witness refused to cosign (404: it does not know this log; 403: it knows another key for it), or its signature does not match the configured key.",
            action="Give its operator the output of `storage-ledger checkpoint --policy`, or correct its key in CHECKPOINT_WITNESSES.",
        ),
        Explanation(
            "tsa-away",
            means="The time-stamping authority cannot be reached, or answers with 5xx, 408, 425 or 429.",
            action="Check CHECKPOINT_TSA and the network. Proxies are not used.",
        ),
        Explanation(
            "tsa-refused",
            means="The authority's answer is not a valid time stamp of the checkpoint; the log has the reason.",
            action="If the certificate is the reason, correct CHECKPOINT_TSA_CERTIFICATES. If certificates are unsorted, have the authority send only its own (`openssl ts`: without `certs`).",
        ),
        Explanation(
            "exec-failed",
            means="The command of CHECKPOINT_EXEC cannot be started, failed, or took more than a minute.",
            action="Run it by hand as the service's user, with a checkpoint on standard input.",
        ),
    ),
)
