"""What each code means and what to do about it, in the words of docs/reference/error-codes.md; a test holds the two together."""

# ruff: noqa: E501, RUF001 - a sentence is one line, with its own dashes, as in that page

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """For people. `action` may be a sentence that begins with "The same"."""

    means: str
    action: str


REJECTED = {
    "too-large": Meaning(
        "More than 1 MiB.",
        "Publish less: the metadata belongs into the message, pixels and private elements do not.",
    ),
    "not-utf8": Meaning(
        "The bytes are not UTF-8.",
        "Encode the message as UTF-8.",
    ),
    "not-json": Meaning(
        "The text is not JSON.",
        "Look at line and column in the detail. Often another program uses the same channel.",
    ),
    "not-an-object": Meaning(
        "JSON, but a list, a string, a number or null. Also an entry of a stream that is anything but one field data: raw has its fields and values as a list.",
        "Publish one object a message; in a stream, as data.",
    ),
    "nested-too-deep": Meaning(
        "Objects or lists nested deeper than 64.",
        "Publish the metadata flat.",
    ),
    "missing-field": Meaning(
        "study_id or file_path is missing; the detail names it.",
        "Add the field.",
    ),
    "wrong-field": Meaning(
        "A field has the wrong type; the detail names it. study_id and file_path are strings; metadata, its five groups and validation_details are objects or null.",
        "Correct the type.",
    ),
    "unsafe-study-id": Meaning(
        "Not 1 to 128 characters of A–Z a–z 0–9 . _ -, beginning with a letter or digit, and no .. in it. It becomes a folder's name.",
        "Use another id. No status can be told for this one.",
    ),
    "unsafe-path": Meaning(
        "file_path is empty, UPLOADS_PATH itself, has a .. or a NUL, cannot be written as UTF-8, or leads outside of uploads; the detail says which.",
        "If a neighbour has uploads mounted elsewhere, name that place in NEIGHBOUR_UPLOADS_PATHS. Then publish again.",
    ),
    "not-processable": Meaning(
        "Reading or recording the message failed in a way that nobody foresaw; the log line intake.not-processable says where. The other messages are not affected.",
        "Report it with that line. The file is still in uploads: correct the message and publish it again.",
    ),
}
"""Of the section 'Rejected messages'."""

QUARANTINED = {
    "upload-missing": Meaning(
        "No such file in uploads, and the time to wait for it (MISSING_FILE_GRACE_SECONDS) is over.",
        "Put the file back, retry. Was the same path described under another study_id? storage-ledger quarantine show says so. If files come later than that, raise the grace.",
    ),
    "upload-unreadable": Meaning(
        "We may not read it, and the time to wait for it (MISSING_FILE_GRACE_SECONDS) is over.",
        "Let the service's user read it (match uids), retry.",
    ),
    "upload-empty": Meaning(
        "The file has no bytes, and the time to wait for them (MISSING_FILE_GRACE_SECONDS) is over. It stays in uploads.",
        "Have it sent again, or put the right file there, retry.",
    ),
    "upload-hard-linked": Meaning(
        "The file has more than one name (hard links), and the time to wait for the others to go is over. The other name may be anybody's file, and whoever has that could change what is archived. It stays in uploads.",
        "Remove the other name, or put a copy in its place (cp a.dcm b && mv b a.dcm), retry.",
    ),
    "upload-is-link": Meaning(
        "It, or a folder on the way to it, is a symbolic link. Links are not followed: they may lead anywhere.",
        "Put the file itself there, retry.",
    ),
    "upload-is-folder": Meaning(
        "A folder.",
        "Publish a message for each file in it, discard this one.",
    ),
    "upload-is-fifo": Meaning(
        "A FIFO. It was not opened.",
        "Put a file there, retry.",
    ),
    "upload-is-socket": Meaning(
        "A socket. It was not opened.",
        "Put a file there, retry.",
    ),
    "upload-is-device": Meaning(
        "A device. It was not opened.",
        "Find out who made it. Put a file there, retry.",
    ),
    "upload-name-too-long": Meaning(
        "The path is longer than the file system allows, so no such file can exist.",
        "Correct the sender, discard this one.",
    ),
    "archive-name-taken": Meaning(
        "Both names that the file could have in the archive are taken by something that the ledger does not know as this file; or the study's folder is a link or a file; or the archive's file system takes the file's name for that of metadata.json.",
        "Look into the study's folder in the archive: somebody else has written there. Move that away, retry.",
    ),
    "archive-folder-taken": Meaning(
        "The archive's file system takes two study_ids for one name, and the study's folder is another study's: it does not tell upper from lower case (SMB, APFS, NTFS), or forgets a dot at the end.",
        "Have the file published again under another study_id, discard this one. Or move the archive to a file system that tells them apart, retry.",
    ),
    "archive-copy-missing": Meaning(
        "Described again; uploads has no file any more, and the archive's, which the ledger knows, is gone.",
        "Put the archive's file back from a backup, or put it into uploads; retry.",
    ),
    "archive-copy-changed": Meaning(
        "Described again; uploads has no file any more, and the archive's has other bytes than the ledger says.",
        "Put the archive's file back from a backup, or put it into uploads; retry. With the right file in uploads, the changed one is set aside in .ledger/damaged/.",
    ),
}
"""Of the section 'Quarantined files'."""

RETRIED = {
    "hangs": Meaning(
        "A call into uploads or the archive has given no sign of life for two minutes: a volume over the network whose server is gone, a dying disk, or a huge file on a slow one. Another worker has taken over, up to 32 times; the others go on. Said once; also in /readyz while it lasts, and in storage_ledger_hanging. Not counted as a retry: it was not given up.",
        "See the kernel's log for the volume. What hangs goes on by itself when the volume is back; if it never comes back, restart the service.",
    ),
    "upload-missing": Meaning(
        "Not there yet. Quiet; tried at least every 15 seconds, then quarantined after the grace.",
        "Nothing; or put the file back.",
    ),
    "upload-unreadable": Meaning(
        "We may not read it. Quiet; when placing, quarantined after the grace.",
        "Match the uids.",
    ),
    **dict.fromkeys(
        ("upload-empty", "upload-hard-linked"),
        Meaning("No bytes yet, or a second name. Quiet; quarantined after the grace.", "Nothing, unless it lasts."),
    ),
    "upload-changing": Meaning(
        "It changed while it was read, or somebody has it open for writing. Quiet, for as long as it goes on. A file that is open for writing for longer than the grace is placed as it is, stays in uploads, and is placed once more when it has changed.",
        "Nothing; if it lasts, find out who writes.",
    ),
    "upload-settling": Meaning(
        "Whether somebody still writes cannot be known: UPLOAD_SETTLE_SECONDS have to pass without a change. Quiet, not counted.",
        "Nothing.",
    ),
    "upload-io": Meaning(
        "Reading it failed; errno says how.",
        "Look at the uploads disk and the kernel's log.",
    ),
    "archive-io": Meaning(
        "EIO from the archive. The copy was thrown away; a new one is made next time.",
        "Look at the archive's disk and the kernel's log, before anything else.",
    ),
    "archive-not-writable": Meaning(
        "Our user may not write into this study's folder, or not read in it. Of ARCHIVE_PATH itself it is an outage.",
        "See owner and mode of the folder: somebody else has made it.",
    ),
    "archive-error": Meaning(
        "Any other error of the archive's file system; errno says which. 2 (ENOENT): another process took this attempt's temporary file for a killed process's; the next attempt makes another copy.",
        "Look the errno up. If it stays, report it. With 2: see that only one service works in this archive.",
    ),
    "status-refused": Meaning(
        "The Status Service answered neither 2xx nor 5xx, 408 or 429: it refuses this call. Or it answered with a web page: a login, a proxy, another service.",
        "See its log for this study_id. Is STATUS_SERVICE_URL the right service? Redirects are not followed.",
    ),
    "status-unreadable": Meaning(
        "The answer to a read-back was no object with a status. It counts as nothing to mend: nothing is told again, and neither entry nor metric shows it.",
        "See the Status Service; if something else answers there, correct STATUS_SERVICE_URL.",
    ),
    "entry-damaged": Meaning(
        "An entry of this study in the ledger is not what its hashes say, or is missing: nothing is placed, removed or told. Where it is the very entry that asks for this, no failed is appended, but the log has place.entry-damaged, remove.entry-damaged or tell.entry-damaged.",
        "Keep LEDGER_PATH as it is, look at the disk, then make the ledger again from its mirror. It goes on by itself then. The file is safe in uploads.",
    ),
    "internal-error": Meaning(
        "A bug: the log has place.internal-error, remove.internal-error or tell.internal-error with the place in the program. Also the code of thread.failed, after which the thread is started again.",
        "Report it with that line. The file is safe in uploads.",
    ),
}
"""Of the section 'Retries of one file or study'."""

OUTAGES = {
    "archive-io": Meaning(
        "EIO from the archive for one study after the other. Each copy was thrown away.",
        "Look at the archive's disk and the kernel's log, before anything else.",
    ),
    "archive-error": Meaning(
        "Any other error of the archive's file system, for one study after the other; errno says which.",
        "Look the errno up.",
    ),
    "upload-io": Meaning(
        "Reading uploads fails for one study after the other.",
        "Look at the uploads disk and the kernel's log.",
    ),
    "entry-damaged": Meaning(
        "Entries of one study after the other are damaged.",
        "Keep LEDGER_PATH as it is, look at the disk, then make the ledger again from its mirror.",
    ),
    "internal-error": Meaning(
        "A bug that meets one study after the other.",
        "Report it with the lines place.internal-error of the log. The files are safe in uploads.",
    ),
    "ledger-io": Meaning(
        "The lock that writers of the mirror share, in LEDGER_PATH, cannot be had.",
        "See rights and owner of LEDGER_PATH, then its disk.",
    ),
    "archive-full": Meaning(
        "No space, no inodes or no quota left on the archive's volume.",
        "Make room, or enlarge it.",
    ),
    "archive-missing": Meaning(
        "ARCHIVE_PATH cannot be opened, or it is another folder than the one that holds the mirror: not mounted, or not ours to enter.",
        "Mount it; see who may enter it.",
    ),
    "mirror-io": Meaning(
        "The mirror in .ledger/ could not be read or written; errno says how. Archiving goes on; nothing is told or removed.",
        "Look at the archive's disk and the kernel's log.",
    ),
    "mirror-busy": Meaning(
        "Another process has held mirror.lock for seconds: a command that hangs, perhaps stopped by a signal. Archiving goes on; nothing is told or removed.",
        "Find that process (fuser LEDGER_PATH/mirror.lock), and end it.",
    ),
    "mirror-moved": Meaning(
        "The mirror's last segment has changed under our hands: another volume was mounted, or somebody wrote to it.",
        "Nothing, if it does not last.",
    ),
    "archive-read-only": Meaning(
        "The archive's file system is read-only. A kernel does that after a disk error.",
        "See the kernel's log, check the disk, remount.",
    ),
    "archive-not-writable": Meaning(
        "Our user may not make a study's folder there.",
        "Match the uids.",
    ),
    "archive-no-links": Meaning(
        "The archive's file system makes no hard links, by which a file gets its name without ever replacing another one.",
        "Move the archive to a file system that does: FAT, exFAT and some network file systems do not.",
    ),
    "archive-no-fsync": Meaning(
        "The archive's file system does not support fsync on files or on folders, so no file on it is known to survive a power cut. Nothing is archived there.",
        "Move the archive to a file system that does: some FUSE and CIFS mounts do not. See errno in the entry failed, and the mount's options.",
    ),
    "uploads-missing": Meaning(
        "UPLOADS_PATH cannot be opened; or files were found there before, and now it is another folder with nothing in it: "
        "the volume came off.",
        "Mount it; see who may enter it. A new, empty volume on purpose: nothing, the first file in it ends this.",
    ),
    "uploads-read-only": Meaning(
        "Uploads are mounted read-only: what is archived cannot be removed. Archiving goes on.",
        "Mount it writable.",
    ),
    "upload-not-removable": Meaning(
        "We may not remove files there. Archiving goes on, uploads fill up.",
        "Match the uids: removing takes the right to write into the *folder*.",
    ),
    "status-service-away": Meaning(
        "Not reached, too slow, or 5xx, 408, 429, several times in a row. Archiving goes on.",
        "Start it. All that it missed is told then.",
    ),
}
"""Of the section 'Outages'."""

FLAGS = {
    "patient-differs": Meaning(
        "Files of one DICOM study name different patients. All of them are archived, shown and found; every file that names one of these patients has the flag, since nobody can tell from here which patient is the right one.",
        "Find out from the order and the modality whose images these are. Have the files of the wrong patient sent again with the right header, or under a Study Instance UID of their own.",
    ),
    "message-differs": Meaning(
        "The message names another patient, study, series or instance than the header of its file. A pipeline study is listed under what the message says, a DICOM study under what the header says.",
        "Ask whoever describes the files, before anybody uses one of the two names: a mix-up of patients begins like this. A message that agrees with the file, published again, takes the flag away.",
    ),
    "study-uid-differs": Meaning(
        "The message gives another Study Instance UID than the header of its file. The file is listed under what its header says.",
        "The same.",
    ),
    "sop-conflict": Meaning(
        "Two files say that they are the same image, and are not. Both are kept.",
        "Compare them; ask the sender which one counts. Often one was corrected and sent again.",
    ),
    "superseded": Meaning(
        "The file was archived while its sender still wrote it. It is kept, and a later state of the same upload is archived beside it.",
        "Use the later file. Have the sender publish its message after it has closed the file.",
    ),
    "unconfirmed": Meaning(
        "A message with other metadata came for a file that was archived already, and its upload was gone. Whether it speaks of the same file is not known: the two were never seen together.",
        "Compare the message with the file's header. If it was about another file, have that one uploaded again and its message published again.",
    ),
}
"""Of the section 'Flags'."""

HEADERS = {
    "not-dicom": Meaning(
        "Not a DICOM file (PS3.10), or one without a preamble that does not name its class and instance.",
        "Nothing, if that was to be expected; it is found by what its message says.",
    ),
    "no-study-uid": Meaning(
        "The header was read, and neither it nor the file's message names a study (Study Instance UID): a DICOMDIR, for one, or an object that was never part of a study. It is in no list of studies. Said in the index only.",
        "Nothing, if that was to be expected; it is found here, and by its pipeline study.",
    ),
    "header-cut": Meaning(
        "The file ends in the middle of its header, or an element says that it is longer than the file: it was cut off on its way, or is damaged. What comes before is in the index.",
        "Compare the file with the sender's original, and have it sent again.",
    ),
    "header-too-large": Meaning(
        "More than 64 MiB or 500,000 elements come before the last attribute that the index needs, also when inflated. What comes before is in the index.",
        "Ask the sender what wrote the file: no ordinary object is like this.",
    ),
    "header-unreadable": Meaning(
        "The structure of the header is broken. What comes before is in the index.",
        "Compare the file with the sender's original, and have it sent again.",
    ),
    "some-attributes-unreadable": Meaning(
        "Some values could not be decoded, or are longer than 64 KiB; the others are there.",
        "Nothing.",
    ),
}
"""Of the section 'Headers'."""

VERIFIED = {
    "duty-missing": Meaning(
        "By the entries somebody must still place a file or tell a status, and pending has no such row: nobody will.",
        "storage-ledger restore --from-mirror --force makes the rows again; for one study, have its message published again.",
    ),
    "duty-unexplained": Meaning(
        "A row of pending for which the entries give no reason, or that waits for ever.",
        "Restart serve: what is put off becomes due. If it stays, storage-ledger restore --from-mirror --force.",
    ),
    "mirror-lags": Meaning(
        "The ledger has entries that the mirror lacks, and nobody brings it up.",
        "Start serve. After a crash that is all; otherwise the mirror's end was cut off.",
    ),
    "file-missing": Meaning(
        "An archived file is not there.",
        "With serve stopped, storage-ledger replay --files --source FOLDER: it finds the bytes in any folder with copies, whatever they are called there, and puts them back. Or put the file back into uploads and publish its message again.",
    ),
    "file-changed": Meaning(
        "It has other bytes than the ledger says.",
        "See first whether the disk fails. Then as for one that is missing; the changed one is set aside in .ledger/damaged/.",
    ),
    "file-replaced": Meaning(
        "In its place, or its folder's, lies a link, a folder, a FIFO or the like. It was not opened.",
        "Find out who did that; then as for one that is missing.",
    ),
    "file-exposed": Meaning(
        "Its bytes are right, but everybody on the machine may write to it.",
        "chmod o-w. Other modes, owners and further hard links are no findings.",
    ),
    "metadata-missing": Meaning(
        "A study has no metadata.json.",
        "With serve stopped, storage-ledger replay --metadata.",
    ),
    "metadata-changed": Meaning(
        "Its metadata.json is not, byte for byte, what the entries amount to.",
        "With serve stopped, storage-ledger replay --metadata; first keep a copy, if you want to know who wrote it.",
    ),
    "untracked-file": Meaning(
        "A file in the archive, or in .ledger/, that the ledger does not know. Temporary files are none while the service runs, nor is anything while a file of the study waits to be placed.",
        "Find out whose it is, and move it away. A .place-….tmp, .metadata….tmp or .renew….tmp was left by a crash: serve removes it when it next writes into that study; until then you may remove it while serve is stopped.",
    ),
    "untracked-folder": Meaning(
        "A folder in the archive of which the ledger knows no archived file; told once, whatever lies in it.",
        "Find out whose it is, and move it away; or, if it is a study of the old service, take it in with storage-ledger adopt.",
    ),
    "index-differs": Meaning(
        "A row, table or the position of index.db is not what the ledger amounts to; the detail names it.",
        "storage-ledger replay --index; serve and browse may run.",
    ),
    "index-unreadable": Meaning(
        "SQLite cannot read index.db.",
        "storage-ledger replay --index; serve and browse may run.",
    ),
    "index-missing": Meaning(
        "There is no index.db.",
        "Start serve.",
    ),
}
"""Of the section 'Verify', what a `verified` entry can tell: beside a damaged ledger or mirror none is written."""
