"""What /readyz reports while the service is not ready, and why the connection to Redis fails."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.explanation import BY, REASON, Explanation, Section
from storage_ledger.domain.error_catalogue.retries import INTERNAL_ERROR
from storage_ledger.domain.error_catalogue.shared import HANGS, LEDGER_BUSY

READINESS = Section(
    "Readiness",
    intro="""\
`/readyz` also reports [outages](#outages) (a failing volume even before the outage begins), `ledger-full`, `ledger-io` and `ledger-damaged`.""",
    explanations=(
        Explanation(
            "redis-not-subscribed",
            means="The service receives no events; the detail has the [Redis](#redis) code.",
            meanwhile="It tries to reconnect at least every 5 seconds. Events missed on a channel are [recovered from uploads](../how-to/make-up-for-lost-messages.md); a stream keeps them.",
            action="Check that Redis runs at REDIS_URL; look up the code in the detail.",
        ),
        HANGS,
        LEDGER_BUSY,
        replace(INTERNAL_ERROR, steps=()),
        Explanation(
            "metadata-unchecked",
            means="After a start, each metadata.json that a power cut may have damaged is compared with the ledger; after a restore, every one.",
            meanwhile="Messages are recorded; no file is archived yet.",
            action="Wait. If it lasts, look for `metadata.not-recovered` in the log.",
        ),
        Explanation(
            "worker-missing",
            means="A worker process is starting, or has ended and will be restarted; the detail says which.",
            meanwhile="Its studies wait; the other workers continue.",
            action="If it lasts, look for `thread.failed` with its name in the log, and for the kernel's out-of-memory messages.",
        ),
        Explanation(
            "index-failing",
            means="index.db can be neither written nor rebuilt; the detail has the code.",
            meanwhile="Archiving continues; the web page shows old data or none. The service retries every minute.",
            action="Check owner and mode of LEDGER_PATH, then its disk.",
        ),
        Explanation(
            "clock-ahead",
            means="The last entry is dated more than a minute ahead of the clock.",
            meanwhile="New entries repeat its time until the clock catches up.",
            action="Set the clock, find the wrong entries, then [acknowledge it](../how-to/clock-ahead.md).",
            commands=(f"storage-ledger acknowledge clock-ahead --by '{BY}' --reason '{REASON}'",),
        ),
    ),
)

REDIS = Section(
    "Redis",
    intro="""\
The detail of [`redis-not-subscribed`](#redis-not-subscribed), and of `source.lost` in the log, which has the `address`.""",
    meanwhile="The service tries to reconnect at least every 5 seconds.",
    explanations=(
        Explanation(
            "redis-unreachable",
            means="The server refused or closed the connection, or cannot be reached.",
            action="Start Redis; check REDIS_URL.",
        ),
        Explanation(
            "redis-silent",
            means="The server did not answer for 25 seconds, or 5 while connecting.",
            action="Check the network, and what the server is busy with.",
        ),
        Explanation(
            "redis-login-refused",
            means="The user or password is wrong or missing.",
            action="Correct REDIS_URL, or the server's users.",
        ),
        Explanation(
            "redis-no-permission",
            means="The user has no permission for the channel, the key or a command.",
            action="[Grant the rights](../how-to/publish-through-a-stream.md#read).",
        ),
        Explanation(
            "redis-loading",
            means="The server is still loading its data.",
            action="Wait until it has finished.",
        ),
        Explanation(
            "redis-read-only",
            means="The server is a replica, but a consumer group needs to write.",
            action="Name the primary in REDIS_URL.",
        ),
        Explanation(
            "redis-not-writable",
            means="The server refuses writes: it is out of memory, or its disk is failing.",
            action="Give it more memory or disk space; check its log.",
        ),
        Explanation(
            "redis-cluster",
            means="The server is a cluster node that does not hold the key, or has no slots.",
            action="Name the right node in REDIS_URL; redirects are not followed.",
        ),
        Explanation(
            "redis-wrong-type",
            means="The key named by DESCRIBED_STREAM is not a stream.",
            action="Use another name, or delete the key.",
        ),
        Explanation(
            "redis-group-gone",
            means="The stream or its group was deleted while in use.",
            meanwhile="The group is re-created, from the start of the stream.",
            action="Find out who deleted it, and whether events were lost.",
        ),
        Explanation(
            "redis-too-old",
            means="The server lacks a command.",
            action="Install Redis 6.2 or newer to use a stream.",
        ),
        Explanation(
            "redis-not-understood",
            means="The server does not speak the Redis protocol.",
            action="Check host and port in REDIS_URL.",
        ),
        Explanation(
            "redis-refuses",
            means="The server answered with another error.",
            action="Check the server's log; try by hand with `redis-cli`.",
        ),
    ),
)
