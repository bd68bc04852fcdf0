"""Every error that is ours, and the codes that steer the program.

    StorageLedgerError
    ├── Retryable            retryable: the same call may succeed later; nothing is lost by waiting
    ├── Permanent            permanent: waits for a person or a redelivery
    ├── Rejected             permanent: a message that is not a `described` event
    ├── LedgerError          the ledger itself
    │   ├── LedgerBusy       retryable: another process writes; the ledger's volume is full or cannot be read or written
    │   ├── LedgerRefused    retryable: SQLite takes this statement for an error; another one may succeed
    │   └── LedgerUnusable   stop the service: the ledger or its mirror is damaged, foreign, missing, or newer than the program
    ├── BackupError          a backup that could not be made, is none, or may not take the ledger's place
    ├── Locked               another process holds a lock
    └── BadSettings          the environment

Each carries a stable `code` that goes into the ledger, the metrics and the docs. A code is never renamed. What each code means, what
happens meanwhile and what to do: domain/error_catalogue. Texts are for people and may name paths and positions, never a value from a
message or a DICOM file.
"""

from __future__ import annotations

ARCHIVE_MISSING = "archive-missing"
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
UPLOAD_CHANGING = "upload-changing"
UPLOAD_EMPTY = "upload-empty"
UPLOAD_HARD_LINKED = "upload-hard-linked"
UPLOAD_MISSING = "upload-missing"
UPLOAD_SETTLING = "upload-settling"
UPLOAD_UNREADABLE = "upload-unreadable"
UPLOADS_MISSING = "uploads-missing"
# Whoever decides by a code compares with one of these names, so that a misspelt one does not pass unnoticed.


class StorageLedgerError(Exception):
    """Base of all; `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str = "", *, errno: int | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.errno = errno


class Retryable(StorageLedgerError):
    """The same call may succeed later. `shared` marks a cause that is not this study's alone (a full volume)."""

    def __init__(self, code: str, detail: str = "", *, errno: int | None = None, shared: bool = False) -> None:
        super().__init__(code, detail, errno=errno)
        self.shared = shared


class Permanent(StorageLedgerError):
    """The same call will not succeed until a person or a new message changes something."""


class Rejected(StorageLedgerError):
    """A message that cannot become `described`; `study_id` is set when the message had a valid one."""

    def __init__(self, code: str, detail: str, *, study_id: str | None = None) -> None:
        super().__init__(code, detail)
        self.study_id = study_id


class LedgerError(StorageLedgerError):
    """Something about ledger.db, or about its mirror as a copy of it."""


class LedgerBusy(LedgerError):
    """Nothing was committed; the same append may be tried again (`ledger-busy`, `ledger-full`, `ledger-io`)."""


class LedgerRefused(LedgerError):
    """Nothing was committed, and SQLite does not say that it is full, busy or damaged (`ledger-refused`)."""


class LedgerUnusable(LedgerError):
    """The service must not go on with this ledger."""


class BackupError(StorageLedgerError):
    """Nothing was changed: no backup was left half made, no ledger was touched."""


class Locked(StorageLedgerError):
    """Another process holds a lock; the detail names it.

    `serve.lock`: `serve` runs, or a command that needs it stopped. `index.lock`: the index is being rebuilt. A lock on the folder of
    backups: a backup is being made there.
    """


class BadSettings(StorageLedgerError):
    """One or more settings are wrong; the detail names them all."""
