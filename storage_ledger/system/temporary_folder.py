"""Folders for patients' data that nobody needs afterwards, not even after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage_ledger.system import files


@contextmanager
def scratch(prefix: str, parent: Path) -> Iterator[Path]:
    """A folder of mode 0700 in `parent`, removed at the end; what a killed process of this user left there is removed now.

    Whoever uses one holds a lock on it, and the kernel lets go of that however the process ends.
    """
    for old in parent.glob(f"{prefix}*"):
        with suppress(OSError), _locked(old):
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))  # under a name that nobody clears away until it is locked
    folder = made.with_name(made.name[1:])
    with _locked(made):
        made.rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with files.opened(folder, files.FOLDER) as descriptor:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(f"{folder} is not ours")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
