"""Every error that is ours.

    StorageLedgerError
    ├── Retryable            try again later, for ever; nothing is lost by waiting
    ├── Permanent            waits for a person or a redelivery
    ├── Rejected             a message that is not a `described` event
    ├── LedgerError          the ledger itself
    │   ├── LedgerBusy       another process writes; or the ledger's volume is full (retryable)
    │   ├── LedgerRefused    SQLite takes this statement for an error; another one may succeed
    │   └── LedgerUnusable   stop the service: damaged, foreign, newer than the program
    ├── BackupError          a backup that could not be made, is none, or may not take the ledger's place
    ├── Locked               another process holds serve.lock or index.lock
    └── BadSettings          the environment

Each carries a stable `code` that goes into the ledger, the metrics and the docs. A code is never renamed. Texts are for
people and may name paths and positions, never a value from a message or a DICOM file.
"""

from __future__ import annotations


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
    """Something about ledger.db."""


class LedgerBusy(LedgerError):
    """Nothing was committed; the same append may be tried again (`ledger-busy`, `ledger-full`, `ledger-io`)."""


class LedgerRefused(LedgerError):
    """Nothing was committed, and SQLite does not say that it is full, busy or damaged (`ledger-refused`)."""


class LedgerUnusable(LedgerError):
    """The service must not go on with this ledger."""


class BackupError(StorageLedgerError):
    """Nothing was changed: no backup was left half made, no ledger was touched."""


class Locked(StorageLedgerError):
    """Another process holds `serve.lock`, or `index.lock` while it rebuilds the index; the detail names it."""


class BadSettings(StorageLedgerError):
    """One or more settings are wrong; the detail names them all."""
