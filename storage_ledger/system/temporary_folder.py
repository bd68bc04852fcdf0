"""Temporary folders for patient data, removed even after a kill."""

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
    """Create a folder of mode 0700 in `parent`, and remove it at the end. Removes folders that killed processes of this user left.

    A process holds a lock on its folder, which the kernel releases however the process ends.
    """
    for old in parent.glob(f"{prefix}*"):
        with suppress(OSError), _locked(old):
            shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))  # a name that no process removes, until it is locked
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
