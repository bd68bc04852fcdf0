"""Folders in memory, for tests that would mostly wait for a disk."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
_NAME = re.compile(r"storage-ledger-tests-([0-9]+)-.*")


@contextmanager
def in_memory(otherwise: Path | None = None) -> Iterator[Path]:
    """Make a folder in memory if possible, else in `otherwise` (None: the folder for temporary files). Removed at the end."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else otherwise
    with tempfile.TemporaryDirectory(prefix=f"storage-ledger-tests-{os.getpid()}-", dir=place) as folder:
        yield Path(folder)


def sweep() -> None:
    """Remove folders left by processes that have ended: their memory is not freed otherwise."""
    for name in os.listdir(MEMORY):  # at once: other processes remove some meanwhile
        found = _NAME.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(MEMORY / name, ignore_errors=True)
