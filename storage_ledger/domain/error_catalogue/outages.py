"""A cause that stops a step of the pipeline for all studies."""

# ruff: noqa: E501 - a sentence is one line

from __future__ import annotations

from storage_ledger.domain.error_catalogue.explanation import Explanation, Section

_WAITS = "Messages are recorded; the files wait in uploads, and one of them is tried at least every 30 seconds."
_RESTORE = "storage-ledger restore --from-mirror --force"

OUTAGES = Section(
    "Outages",
    where="an outage",
    intro="""\
A cause that all studies share.
One entry `failed` without study_id is appended when it begins, one `recovered` when it ends; meanwhile `storage_ledger_outage` is 1, `/readyz` answers 503, and `storage-ledger status` ends with 1.
An outage that ended and came back must be gone for longer before it counts as ended: 15 seconds, then 1, 4, 16, 60 minutes.
So a volume that is nearly full, where small files fit and large ones do not, leaves a handful of entries a day and no more.

[By what has happened](../how-to/outages.md).""",
    meanwhile="The step pauses and tries one work item at a time until one succeeds. Nothing is lost or quarantined. Once the cause is gone, the service continues by itself: no restart, no replay.",
    explanations=(
        Explanation(
            "archive-full",
            steps=("place", "mirror"),
            means="No space, no inodes or no quota is left on the archive's volume.",
            meanwhile=_WAITS + " If the volume is nearly full, small files that fit are archived.",
            action="Make room on the volume, or enlarge it. Of what the archive holds, only `.ledger/damaged/` may be deleted.",
        ),
        Explanation(
            "archive-io",
            steps=("place",),
            means="The archive's disk reports I/O errors (EIO) for one study after the other.",
            meanwhile="Each copy that failed is thrown away and made again.",
            action="Check the archive's disk and the kernel log, before anything else. A disk that does this once will do it again: move the archive, then [verify](../how-to/verify.md).",
        ),
        Explanation(
            "archive-error",
            steps=("place",),
            means="The archive's file system reports another error for one study after the other; errno says which.",
            meanwhile=_WAITS,
            action="Look up the errno in the entry `failed`.",
        ),
        Explanation(
            "upload-io",
            steps=("place",),
            means="Reading uploads fails for one study after the other.",
            action="Check the uploads disk and the kernel log. Copy what can be read to another disk; a file that is gone ends as `upload-missing`.",
        ),
        Explanation(
            "entry-damaged",
            steps=("place",),
            means="Entries of one study after the other do not match their hashes.",
            meanwhile="The files are safe in uploads.",
            action="Keep LEDGER_PATH as it is and check its disk. Stop `serve`, then [make the ledger again](../how-to/ledger-volume-lost.md) from its mirror; the old ledger is kept beside it.",
            commands=(_RESTORE,),
        ),
        Explanation(
            "internal-error",
            steps=("place",),
            means="A bug in the program affects one study after the other.",
            meanwhile="The files are safe in uploads.",
            action="Report it with the lines `place.internal-error` or `thread.failed` of the log.",
        ),
        Explanation(
            "archive-missing",
            steps=("place", "remove", "mirror"),
            means="ARCHIVE_PATH cannot be opened, or is not the folder that holds the mirror. The volume is not mounted, or the service may not enter it.",
            meanwhile=_WAITS + " The empty folder under the mount point is not written to: the archive is known by its mirror.",
            action="Mount the archive's volume; check who may enter it.",
        ),
        Explanation(
            "mirror-io",
            steps=("mirror",),
            means="The mirror in `.ledger/` could not be read or written; errno says how.",
            meanwhile="Archiving goes on, but no status is sent and no upload removed.",
            action="Check the archive's disk and the kernel log.",
        ),
        Explanation(
            "ledger-io",
            steps=("mirror",),
            means="The lock that writers of the mirror share, in LEDGER_PATH, cannot be opened.",
            meanwhile="Archiving goes on, but no status is sent and no upload removed.",
            action="Check rights and owner of LEDGER_PATH, then its disk.",
        ),
        Explanation(
            "mirror-busy",
            steps=("mirror",),
            means="Another process has held `mirror.lock` for seconds. Usually it is a command that hangs, perhaps stopped by a signal.",
            meanwhile="Archiving goes on, but no status is sent and no upload removed.",
            action="Find that process (`fuser LEDGER_PATH/mirror.lock`) and end it.",
        ),
        Explanation(
            "mirror-moved",
            steps=("mirror",),
            means="The mirror's last segment changed while the service was using it. Another volume was mounted, or somebody wrote to it.",
            meanwhile="Archiving goes on, but no status is sent and no upload removed.",
            action="Do nothing, unless it lasts. Then check which volume is mounted, and that nobody writes into ARCHIVE_PATH/.ledger.",
        ),
        Explanation(
            "archive-read-only",
            steps=("place", "mirror"),
            means="The archive's file system is read-only. A kernel does that after a disk error.",
            meanwhile=_WAITS,
            action="Check the kernel log and the disk, then remount it writable.",
        ),
        Explanation(
            "archive-not-writable",
            steps=("place", "mirror"),
            means="The service's user may not make a study's folder in the archive.",
            meanwhile=_WAITS,
            action="Let the service's user write into ARCHIVE_PATH: [match the uids](../how-to/match-uids.md).",
        ),
        Explanation(
            "archive-no-links",
            steps=("place",),
            means="The archive's file system cannot make hard links. The service needs them to name a file without ever replacing another one.",
            meanwhile=_WAITS,
            action="Move the archive to a file system with hard links: FAT, exFAT and some network file systems have none.",
        ),
        Explanation(
            "archive-no-fsync",
            steps=("place",),
            means="The archive's file system does not support fsync on files or on folders, so no file on it is known to survive a power cut.",
            meanwhile="Nothing is archived there. A file may have its name in the archive already, but the ledger does not say `archived`, and the upload stays.",
            action="Mount it with other options, or move the archive to a file system that supports fsync: some FUSE and CIFS mounts do not. The entry `failed` has the errno.",
        ),
        Explanation(
            "uploads-missing",
            steps=("place", "remove"),
            means="UPLOADS_PATH cannot be opened, or its volume came off: files were found there before, and now it is another, empty folder.",
            meanwhile="Messages are recorded; files wait. If the service has found no file since it started, it cannot tell the empty folder under the mount point from uploads: each file then waits MISSING_FILE_GRACE_SECONDS and is quarantined as `upload-missing`.",
            action="Mount the uploads volume; check who may enter it. Files that were quarantined meanwhile: `storage-ledger quarantine retry --all`. If it is a new, empty volume on purpose, do nothing: the first file in it ends this.",
        ),
        Explanation(
            "uploads-read-only",
            steps=("remove",),
            means="Uploads are mounted read-only, so archived files cannot be removed from there.",
            meanwhile="Files are archived and their status is sent; uploads stay and are removed later.",
            action="Mount uploads writable.",
        ),
        Explanation(
            "upload-not-removable",
            steps=("remove",),
            means="The service may not remove files from uploads.",
            meanwhile="Files are archived and their status is sent; uploads fill up, and are removed later.",
            action="Let the service's user write into the folder, which is what removing takes: [match the uids](../how-to/match-uids.md).",
        ),
        Explanation(
            "status-service-away",
            steps=("tell",),
            means="The Status Service cannot be reached, is too slow, or answered 5xx, 408 or 429 several times in a row.",
            meanwhile="Files are archived and uploads removed; statuses wait.",
            action="Start the Status Service. It is then sent all that it missed, oldest first. If it lost its data, statuses of the last ten minutes are sent again by themselves; the others [by `replay --statuses`](../how-to/rebuild-what-is-derived.md#statuses).",
        ),
    ),
)
