"""how-to/outages.md: the runbook by symptom, with the actions of storage_ledger/domain/error_catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator

from storage_ledger.domain.error_catalogue.attention import ATTENTION
from storage_ledger.domain.error_catalogue.catalogue import explained
from storage_ledger.domain.error_catalogue.ledger_and_mirror import LEDGER, MIRROR
from storage_ledger.domain.error_catalogue.outages import OUTAGES
from storage_ledger.domain.error_catalogue.readiness import READINESS
from storage_ledger.domain.error_catalogue.settings_and_locks import SETTINGS_AND_LOCKS

CODES = "../reference/error-codes.md"

HEAD = """\
# When something is down, full or broken

<!-- scripts/reference writes this page. -->

Fix the cause: the service then continues by itself, without restart or `replay`.
Meanwhile files wait in uploads; messages that the service could not record are [recovered](make-up-for-lost-messages.md).
If data is gone: [when something is lost](look-after-it.md#when-something-is-lost). Other codes: [error codes](../reference/error-codes.md).

1. `storage-ledger status` lists what needs attention and what to do.
2. `storage-ledger explain CODE` says what a code means.
3. `storage-ledger show STUDY_ID` says what is holding up one study; in the log, look for `outage.begins`.
"""

SYMPTOMS = {
    "The archive": {
        "Full, or nearly": "archive-full",
        "Not mounted": "archive-missing mirror-missing",
        "Read-only": "archive-read-only",
        "No permission": "archive-not-writable",
        "Disk errors": "archive-io",
        "Unsuitable file system": "archive-no-links archive-no-fsync",
        "Mirror not written": "mirror-io mirror-busy mirror-moved",
    },
    "Uploads": {
        "Full": "archive-full upload-not-removable uploads-read-only",
        "Not mounted": "uploads-missing",
        "Files not removed": "upload-not-removable uploads-read-only",
        "Disk errors": "upload-io",
    },
    "The ledger's volume": {
        "Full": "ledger-full",
        "Read-only, or no permission": "ledger-io",
        "Locked": "ledger-busy",
        "Index not updated": "index-failing",
    },
    "Elsewhere": {
        "Status Service down": "status-service-away",
        "Redis down": "redis-not-subscribed",
        "File server hangs": "hangs",
        "Clock was ahead": "clock-ahead",
    },
    "The service": {
        "The web page shows red": "not-serving not-answering redis-not-subscribed index-failing",
        "Not running": "not-serving",
        "Not answering": "not-answering",
        "Does not start, or exits with 2": "bad-settings locked ledger-damaged ledger-newer mirror-missing mirror-foreign mirror-ahead",
    },
    "Files and entries": {
        "Quarantined": "quarantined",
        "Waiting too long": "waiting-long",
        "Damaged or missing": "damaged-files",
        "Verification finds damage": "verify-findings",
        "Ledger damaged": "entry-damaged ledger-damaged",
        "Mirror damaged": "mirror-damaged",
    },
}
"""By place and symptom, the codes; the page shows the first sentence of the first one's action, unless `INSTEAD` has another."""

INSTEAD = {
    ("Uploads", "Full"): "Files wait here during an outage of the archive, or if they cannot be removed. `storage-ledger reconcile` lists "
    "files that belong to no message.",
    ("The service", "The web page shows red"): 'Open "Attention": it lists the reasons and what to do.',
    ("The service", "Does not start, or exits with 2"): "Its last log lines say why: [the service does not "
    "start](look-after-it.md#if-the-service-does-not-start).",
    ("Files and entries", "Verification finds damage"): "[Repair the ledger first](verify.md#when-something-is-damaged), then files, then "
    "the rest.",
}
"""For a symptom whose codes need different actions: what to do first, by place and symptom."""


def page() -> str:
    """Return the page: the symptoms by place."""
    return "\n".join([HEAD, *_symptoms()])


def _symptoms() -> Iterator[str]:
    for place, symptoms in SYMPTOMS.items():
        yield f"## {place}"
        for symptom, codes in symptoms.items():
            links = ", ".join(f"[`{code}`]({CODES}#{code})" for code in codes.split())
            yield f"- **{symptom}** ({links}): {INSTEAD.get((place, symptom)) or _first_step(codes.split()[0])}"
        yield ""


def _first_step(code: str) -> str:
    found = explained(code, (OUTAGES, READINESS, ATTENTION, LEDGER, MIRROR, SETTINGS_AND_LOCKS))
    if found is None:
        raise ValueError(code)
    first = re.split(r"(?<=\.)\s", found.action, maxsplit=1)[0]
    return re.sub(r"\]\((?!\.\./)", "](../reference/", first).replace("](../how-to/", "](")
