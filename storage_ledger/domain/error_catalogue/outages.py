"""Outages: causes that stop a step of the pipeline for all studies."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from dataclasses import replace

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section
from storage_ledger.domain.error_catalogue.retries import ARCHIVE_ERROR, ARCHIVE_IO, INTERNAL_ERROR, UPLOAD_IO
from storage_ledger.domain.error_catalogue.shared import ENTRY_DAMAGED, OWNER

_NOT_MIRRORED = "Archiving continues, but statuses and removals wait."
_NOT_REMOVED = "Files are archived and statuses sent; the uploads volume fills up."

ARCHIVE_MISSING = Explanation(
    "archive-missing",
    means="ARCHIVE_PATH is not mounted, does not hold the mirror, or denies access.",
    meanwhile="Nothing is written below the empty mount point.",
    action="Mount the archive volume; check its owner and mode.",
)
MIRROR_IO = Explanation(
    "mirror-io",
    means="The mirror in `.ledger/` cannot be read or written; errno says why.",
    meanwhile=_NOT_MIRRORED,
    action="Check the archive's disk and the kernel log.",
)
UPLOADS_MISSING = Explanation(
    "uploads-missing",
    means="UPLOADS_PATH cannot be opened, or became empty after the service saw files in it.",
    meanwhile="If the service has seen no file since its start, it takes an empty mount point for uploads and quarantines files as `upload-missing`.",
    action="Mount the uploads volume; check its owner and mode. Then retry quarantined files (`storage-ledger quarantine retry --all`). If the volume is new and empty, its first file ends the outage.",
)
STATUS_SERVICE_AWAY = Explanation(
    "status-service-away",
    means="The Status Service cannot be reached, is too slow, or keeps answering 5xx, 408 or 429.",
    meanwhile="Files are archived and uploads removed; missed statuses are sent later, oldest first.",
    action="Start the Status Service. If it lost its data, [re-send](../how-to/rebuild-what-is-derived.md#statuses) statuses older than ten minutes with `storage-ledger replay --statuses`.",
)

OUTAGES = Section(
    "Outages",
    intro="""\
One cause stops a step for all studies.
A `failed` entry without study_id marks the beginning, `recovered` the end.
Meanwhile `storage_ledger_outage` is 1, `/readyz` answers 503, and `storage-ledger status` exits with 1.
If an outage keeps returning, its cause must be gone for longer before it ends: 15 seconds, then 1, 4, 16, 60 minutes.""",
    meanwhile="Messages are recorded and work waits; the step tries one work item at a time. Nothing is lost or quarantined, and the service continues by itself, without restart or replay.",
    explanations=(
        Explanation(
            "archive-full",
            steps=("place", "mirror"),
            means="No space, inodes or quota left on the archive volume. `/readyz` reports this shortly before.",
            meanwhile="Files that still fit are archived.",
            action="Free up space or enlarge the volume; in the archive, delete only `.ledger/damaged/`.",
        ),
        replace(ARCHIVE_IO, steps=("place",)),
        replace(ARCHIVE_ERROR, steps=("place",)),
        replace(UPLOAD_IO, steps=("place",)),
        replace(ENTRY_DAMAGED, steps=("place",)),
        replace(INTERNAL_ERROR, steps=("place",)),
        replace(ARCHIVE_MISSING, steps=("place", "remove", "mirror")),
        replace(MIRROR_IO, steps=("mirror",)),
        Explanation(
            "ledger-io",
            steps=("mirror",),
            means="`mirror.lock` in LEDGER_PATH cannot be opened.",
            meanwhile=_NOT_MIRRORED,
            action="Check owner and mode of LEDGER_PATH, then its disk.",
        ),
        Explanation(
            "mirror-busy",
            steps=("mirror",),
            means="Another process holds `mirror.lock`: usually a command that hangs or was suspended.",
            meanwhile=_NOT_MIRRORED,
            action="Find that process (`fuser LEDGER_PATH/mirror.lock`) and end it.",
        ),
        Explanation(
            "mirror-moved",
            steps=("mirror",),
            means="The mirror changed while in use: another volume was mounted, or another program wrote to it.",
            meanwhile=_NOT_MIRRORED,
            action="Wait. If it persists, check which volume is mounted and what writes into `.ledger/`.",
        ),
        Explanation(
            "archive-read-only",
            steps=("place", "mirror"),
            means="The archive is mounted read-only, often by the kernel after a disk error.",
            action="Check the kernel log and the disk, then remount it writable.",
        ),
        Explanation(
            "archive-not-writable",
            steps=("place", "mirror"),
            means="The service lacks permission to create folders in ARCHIVE_PATH.",
            action=f"{OWNER}.",
        ),
        Explanation(
            "archive-no-links",
            steps=("place",),
            means="The archive's file system has no hard links (FAT, exFAT, some network file systems).",
            action="Move the archive to a file system with hard links.",
        ),
        Explanation(
            "archive-no-fsync",
            steps=("place",),
            means="The archive's file system lacks fsync (some FUSE and CIFS mounts), so files may not survive a power cut.",
            meanwhile="Nothing is recorded as archived; uploads stay. The `failed` entry has the errno.",
            action="Mount it with other options, or move the archive.",
        ),
        replace(UPLOADS_MISSING, steps=("place", "remove")),
        Explanation(
            "uploads-read-only",
            steps=("remove",),
            means="The uploads volume is mounted read-only.",
            meanwhile=_NOT_REMOVED,
            action="Remount it writable.",
        ),
        Explanation(
            "upload-not-removable",
            steps=("remove",),
            means="The service lacks permission to remove files from uploads.",
            meanwhile=_NOT_REMOVED,
            action="Let the service's user write into the folder ([match UID and GID](../how-to/match-uids.md)).",
        ),
        replace(STATUS_SERVICE_AWAY, steps=("tell",)),
    ),
)
