"""The tree of the program's own errors, and the codes that the program compares.

    StorageLedgerError
    ├── Retryable            retryable: the same call may succeed later; nothing is lost by waiting
    ├── Permanent            permanent: needs manual review or a redelivery
    ├── Rejected             permanent: a message that is not a valid `described` event
    ├── LedgerError          the ledger or its mirror
    │   ├── LedgerBusy       retryable: another process writes, or the ledger's volume is full, unreadable or read-only
    │   ├── LedgerRefused    retryable: SQLite rejected one statement; others may succeed
    │   └── LedgerUnusable   stop the service: the ledger or its mirror is damaged, foreign, missing, or newer than the program
    ├── BackupError          permanent: a backup failed, is not a valid backup, or would discard newer entries
    ├── CheckpointRefused    permanent: no checkpoint is signed; a person must decide
    ├── ProofError           permanent: no proof is written: there is no checkpoint for it, or no place
    ├── Locked               permanent: another process holds a lock (serve.lock, index.lock, or that of a backup folder)
    └── BadSettings          permanent: wrong settings

Each error carries a stable `code`, which the ledger, metrics and docs use and which is never renamed; domain/error_catalogue explains
it. Texts are for people. They may name paths and positions, but never a value from a message or a DICOM file.
"""

from __future__ import annotations

ARCHIVE_MISSING = "archive-missing"
CHECKPOINT_FORKED = "checkpoint-forked"
ENTRY_DAMAGED = "entry-damaged"
INDEX_UNREADABLE = "index-unreadable"
INTERNAL_ERROR = "internal-error"
LEDGER_DAMAGED = "ledger-damaged"
LEDGER_FULL = "ledger-full"
LEDGER_IO = "ledger-io"
LEDGER_NEWER = "ledger-newer"
MIRROR_DAMAGED = "mirror-damaged"
MIRROR_LAGS = "mirror-lags"
MIRROR_MISSING = "mirror-missing"
NOT_DICOM = "not-dicom"
PICTURE_CRASHED = "picture-crashed"
PICTURES_BUSY = "pictures-busy"
UPLOAD_CHANGING = "upload-changing"
UPLOAD_EMPTY = "upload-empty"
UPLOAD_HARD_LINKED = "upload-hard-linked"
UPLOAD_MISSING = "upload-missing"
UPLOAD_SETTLING = "upload-settling"
UPLOAD_UNREADABLE = "upload-unreadable"
UPLOADS_MISSING = "uploads-missing"
WITNESS_SAW_FORK = "witness-saw-fork"
# Code that compares error codes uses these names, so that mypy finds a misspelt one.


class StorageLedgerError(Exception):
    """Base class. `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str = "", *, errno: int | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.errno = errno


class Retryable(StorageLedgerError):
    """The same call may succeed later. `shared` marks a cause that affects other studies too, such as a full volume."""

    def __init__(self, code: str, detail: str = "", *, errno: int | None = None, shared: bool = False) -> None:
        super().__init__(code, detail, errno=errno)
        self.shared = shared


class Permanent(StorageLedgerError):
    """The same call will not succeed until a person or a new message changes something."""


class Rejected(StorageLedgerError):
    """A message is not a valid `described` event. `study_id` is set if the message has a valid one."""

    def __init__(self, code: str, detail: str, *, study_id: str | None = None) -> None:
        super().__init__(code, detail)
        self.study_id = study_id


class LedgerError(StorageLedgerError):
    """An error of ledger.db or its mirror."""


class LedgerBusy(LedgerError):
    """Nothing was committed; retry the same append (`ledger-busy`, `ledger-full`, `ledger-io`)."""


class LedgerRefused(LedgerError):
    """Nothing was committed: SQLite rejected the statement (`ledger-refused`), usually because of a bug or a changed schema."""


class LedgerUnusable(LedgerError):
    """The service must stop: it cannot safely use this ledger."""


class BackupError(StorageLedgerError):
    """A backup or restore failed. No ledger was changed, and no partial backup was left behind."""


class CheckpointRefused(StorageLedgerError):
    """No checkpoint is signed: the ledger does not continue its last one, or its key is missing, another one or unreadable."""


class ProofError(StorageLedgerError):
    """No proof was written: no checkpoint covers the entries, the ledger contradicts it, or the output cannot be written."""


class Locked(StorageLedgerError):
    """Another process holds a lock; the detail names it.

    `serve.lock` is held by the service, and by commands that need it stopped; `repair.lock` by each command that writes into the
    archive; `index.lock` while the index is rebuilt; a lock on a backup folder while a backup is written to it.
    """


class BadSettings(StorageLedgerError):
    """One or more settings are wrong; the detail names them all."""
