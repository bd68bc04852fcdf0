"""What /readyz says while the service is not ready, and why nothing is heard from Redis."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import BY, REASON, Explanation, Section

READINESS = Section(
    "Readiness",
    where="`/readyz`",
    intro="""\
What `/readyz` may name.
Besides these: every code of [outages](#outages), and `ledger-full`, `ledger-io` and `ledger-damaged` of [the ledger](#the-ledger).
Reasons with the same code and different details are listed separately; the steps that one outage stops are joined.""",
    explanations=(
        Explanation(
            "redis-not-subscribed",
            means="The service is not subscribed to the channel, or does not read the stream; the detail has [the reason](#redis).",
            meanwhile="It retries for ever, at least every 5 seconds. What is recorded is archived and sent. What is published to a channel meanwhile does not arrive, stays in uploads and is [searched for there](../how-to/make-up-for-lost-messages.md) afterwards; a stream keeps its events.",
            action="Check that Redis runs at REDIS_URL, and do what the reason in the detail says.",
        ),
        Explanation(
            "archive-full",
            means="Hardly any bytes or inodes are left on the archive's volume. Here this is said before it becomes an outage.",
            action="Make room on the volume, or enlarge it.",
        ),
        Explanation(
            "archive-missing",
            means="ARCHIVE_PATH cannot be opened, or is not the folder that holds the mirror, checked just now.",
            action="Mount the archive's volume; check who may enter it.",
        ),
        Explanation(
            "archive-read-only",
            means="The archive's file system is read-only, checked just now.",
            action="Check the kernel log and the disk, then remount it writable.",
        ),
        Explanation(
            "archive-not-writable",
            means="The service's user may not write into ARCHIVE_PATH, checked just now.",
            action="Let the service's user write into ARCHIVE_PATH: [match the uids](../how-to/match-uids.md).",
        ),
        Explanation(
            "uploads-missing",
            means="UPLOADS_PATH is not a folder, checked just now.",
            action="Mount the uploads volume.",
        ),
        Explanation(
            "hangs",
            means="Calls into uploads or the archive do not return: see [retries](#retries-of-one-file-or-study). Or one of the checks behind `/readyz` has not returned within 1.5 seconds; the detail names it.",
            meanwhile="Each file that hangs keeps its thread; up to 32 others take over. Work on volumes that answer goes on.",
            action="Check the kernel log for the volume, and whether it answers. When it is back, everything goes on by itself. If it never comes back, unmount it by force (`umount -f`) and restart the service: while the kernel waits for a volume it lets no process end, so stopping the service takes until the volume answers or is gone.",
        ),
        Explanation(
            "ledger-busy",
            means="Another process, or a thread of this one, has held the ledger's write lock for more than a second.",
            meanwhile="Nothing is recorded; the service continues by itself.",
            action="Find the program that has `ledger.db` open in a transaction, and end it.",
        ),
        Explanation(
            "internal-error",
            means="A thread of the service failed within the last minute, or a check failed: a bug. The detail names it.",
            meanwhile="The thread was started again, with growing pauses; the other threads go on, and nothing is lost.",
            action="Report it with the lines `thread.failed` or `check.failed` of the log.",
        ),
        Explanation(
            "index-failing",
            means="index.db can be neither written nor rebuilt; the detail has the code.",
            meanwhile="Archiving and statuses go on; the web page and searches show old data or none. It is retried at least once a minute.",
            action="Check rights and owner of LEDGER_PATH, then its disk. The index is rebuilt by itself.",
        ),
        Explanation(
            "clock-ahead",
            means="The ledger's last entry is dated more than a minute ahead of the clock. `storage-ledger status` says so too.",
            meanwhile="Everything goes on, but each new entry gets the ledger's last time until the right time has caught up.",
            action="Set the clock, find out which entries are dated wrong, then [acknowledge it](../how-to/clock-ahead.md).",
            commands=(f"storage-ledger acknowledge clock-ahead --by '{BY}' --reason '{REASON}'",),
        ),
    ),
)

REDIS = Section(
    "Redis",
    where="the connection to Redis",
    intro="""\
Why nothing is heard from Redis: in the log as `source.lost code=…`, and in the detail of `redis-not-subscribed`.
The log has the first three attempts, then the 4th, 8th, 16th and so on, and any with another code, each with the `address` that was tried.
The server's own text is never logged.""",
    meanwhile="The service retries for ever, at least every 5 seconds.",
    explanations=(
        Explanation(
            "redis-unreachable",
            means="No connection could be made, or the server closed it.",
            action="Start Redis; check REDIS_URL.",
        ),
        Explanation(
            "redis-silent",
            means="The server is connected, but did not answer for 25 seconds, or for 5 while connecting.",
            action="Check the network, and what the server is busy with.",
        ),
        Explanation(
            "redis-login-refused",
            means="User or password is wrong or missing.",
            action="Correct REDIS_URL, or the server's users.",
        ),
        Explanation(
            "redis-no-permission",
            means="The user may not use the channel, the key or a command.",
            action="[Give the rights](../how-to/publish-through-a-stream.md#read).",
        ),
        Explanation(
            "redis-loading",
            means="The server is still reading its data.",
            action="Wait until it has finished.",
        ),
        Explanation(
            "redis-read-only",
            means="The server is a replica, and reading through a group writes.",
            action="Name the primary in REDIS_URL.",
        ),
        Explanation(
            "redis-not-writable",
            means="The server accepts no writes: it is out of memory, or cannot write to its disk.",
            action="Give it memory or disk; check its log.",
        ),
        Explanation(
            "redis-cluster",
            means="The server is a node of a cluster that does not have the key, or has no slots.",
            action="Name the node that has it in REDIS_URL; redirections are not followed.",
        ),
        Explanation(
            "redis-wrong-type",
            means="The key that DESCRIBED_STREAM names is not a stream.",
            action="Use another name, or delete the key.",
        ),
        Explanation(
            "redis-group-gone",
            means="The stream or its group was deleted while the service was reading.",
            meanwhile="It is made again at once, from the beginning of the stream.",
            action="Find out who deleted it, and whether events were lost with it.",
        ),
        Explanation(
            "redis-too-old",
            means="The server does not know a command that the service needs.",
            action="Install Redis 6.2 or newer to use a stream.",
        ),
        Explanation(
            "redis-not-understood",
            means="What answers there does not speak the Redis protocol.",
            action="Check host and port in REDIS_URL.",
        ),
        Explanation(
            "redis-refuses",
            means="The server answered with another error.",
            action="Check the server's log, and try by hand with `redis-cli`.",
        ),
    ),
)
