"""A work item of one study that failed and is retried."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

RETRIES = Section(
    "Retries of one file or study",
    where="a retry of one file or study",
    intro="""\
An entry `failed` is appended at the 1st, 10th, 100th … attempt; codes marked *quiet* append none.
Unless the table says otherwise, retries count in `storage_ledger_retries_total`.
They are not outages: `/readyz` does not change, and `storage-ledger status` shows them only as work that waits.
Alert on its age (`storage_ledger_oldest_pending_seconds`).
If five studies in a row cannot be placed because of the same code, it becomes an [outage](#outages): that is recorded once, not for each study.""",
    meanwhile="The attempt is repeated until it succeeds, after growing waits: up to 5 minutes to place, 10 to remove, 15 to send a status. Nothing is lost.",
    explanations=(
        Explanation(
            "upload-missing",
            steps=("place",),
            means="The file is not there yet. Quiet.",
            meanwhile="It is tried at least every 15 seconds, and quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Do nothing, or put the file back into uploads.",
        ),
        Explanation(
            "upload-unreadable",
            steps=("place", "remove"),
            means="The service may not read the file. Quiet.",
            meanwhile="If it is to be placed, it is quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Let the service's user read it: [match the uids](../how-to/match-uids.md).",
        ),
        Explanation(
            "upload-empty",
            steps=("place",),
            means="The file has no bytes yet. Quiet.",
            meanwhile="It is quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Do nothing, unless it lasts.",
        ),
        Explanation(
            "upload-hard-linked",
            steps=("place",),
            means="The file has a second name (hard link). Quiet.",
            meanwhile="It is quarantined after MISSING_FILE_GRACE_SECONDS.",
            action="Do nothing, unless it lasts.",
        ),
        Explanation(
            "upload-changing",
            steps=("place", "remove"),
            means="The file changed while it was read, or somebody has it open for writing. Quiet.",
            meanwhile="This may go on for as long as it changes. A file that is open for writing for longer than MISSING_FILE_GRACE_SECONDS is placed as it is, stays in uploads, and is placed once more when it has changed.",
            action="Do nothing; if it lasts, find out who writes to the file.",
        ),
        Explanation(
            "upload-settling",
            steps=("remove",),
            means="The service cannot know whether somebody still writes to the file. Quiet, and not counted.",
            meanwhile="The file is removed once it has not changed for UPLOAD_SETTLE_SECONDS.",
            action="Do nothing.",
        ),
        Explanation(
            "upload-io",
            steps=("place", "remove"),
            means="Reading the upload failed; errno says how.",
            action="Check the uploads disk and the kernel log.",
        ),
        Explanation(
            "archive-io",
            steps=("place", "remove"),
            means="The archive's disk reported an I/O error (EIO).",
            meanwhile="The copy was thrown away; the next attempt makes a new one.",
            action="Check the archive's disk and the kernel log, before anything else.",
        ),
        Explanation(
            "archive-not-writable",
            steps=("place", "remove"),
            means="The service may not write into this study's folder in the archive, or not read in it. For ARCHIVE_PATH itself this is an outage.",
            action="Check owner and mode of the study's folder: somebody else made it.",
        ),
        Explanation(
            "archive-error",
            steps=("place", "remove"),
            means="The archive's file system reported an error that has no code of its own; errno says which. 2 (ENOENT) means that another process took this attempt's temporary file for that of a killed process; the next attempt makes another copy.",
            action="Look up the errno. If the error stays, report it. With errno 2, make sure that only one service works in this archive.",
        ),
        Explanation(
            "hangs",
            steps=("place", "remove"),
            means="A call into uploads or the archive has shown no sign of life for two minutes. Usual causes are a network volume whose server is gone, a dying disk, or a huge file on a slow one.",
            meanwhile="Another worker takes over, up to 32 times; other files go on. It is recorded once, stands in `/readyz` and `storage_ledger_hanging` while it lasts, and does not count as a retry, because the call was not given up.",
            action="Check the kernel log for the volume. When the volume is back, the call goes on by itself; if it never comes back, unmount it by force (`umount -f`) and restart the service.",
        ),
        Explanation(
            "status-refused",
            steps=("tell",),
            means="The Status Service refuses this call: its answer was neither 2xx nor 5xx, 408 or 429. Or a web page answered: a login, a proxy, another service.",
            action="Check the Status Service's log for this study_id, and that STATUS_SERVICE_URL is the right service. Redirects are not followed.",
        ),
        Explanation(
            "status-unreadable",
            steps=("confirm",),
            means="The answer to a read-back was not an object with a `status`.",
            meanwhile="Nothing is sent again; neither an entry nor a metric shows it.",
            action="Check the Status Service; if something else answers there, correct STATUS_SERVICE_URL.",
        ),
        Explanation(
            "entry-damaged",
            steps=("place", "remove", "tell"),
            means="An entry of this study in the ledger does not match its hashes, or is missing. If it is the very entry that asks for the work, no `failed` is appended, but the log has `place.entry-damaged`, `remove.entry-damaged` or `tell.entry-damaged`.",
            meanwhile="For this study nothing is placed, removed or sent. The file is safe in uploads.",
            action="Keep LEDGER_PATH as it is, check its disk, then [make the ledger again](../how-to/ledger-volume-lost.md) from its mirror. The study then goes on by itself.",
        ),
        Explanation(
            "internal-error",
            steps=("place", "remove", "tell"),
            means="A bug in the program. The log line `place.internal-error`, `remove.internal-error` or `tell.internal-error` names the place. Also the code of `thread.failed`, after which the thread is started again.",
            meanwhile="The file is safe in uploads.",
            action="Report it with that log line.",
        ),
    ),
)
