"""Fixed clocks, hand-made entries and ledgers, and small volumes that can be filled."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.ids import rfc3339, uuid7
from storage_ledger.ledger.migrate import migrate
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite

_KINDS = Path(__file__).parents[2] / "docs" / "reference" / "entry-kinds.md"
EXAMPLES = {
    Kind(kind): example
    for kind, example in re.findall(r"^## ([a-z-]+)\n.*?^```json\n(.*?)\n```", _KINDS.read_text(), re.DOTALL | re.MULTILINE)
}
"""The payload of each kind in the reference: canonical JSON, as it was stored."""


class Clock:
    """A clock that changes only when it is set or moved."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        """Move the clock forward, or back."""
        self.now += timedelta(seconds=seconds)


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    """Return a source of reproducible random bytes."""
    return random.Random(seed).randbytes


class Ledgers:
    """Makes ledgers quickly: the first is migrated, the others are copies of it."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "ledger.db"
        migrate(self._template)
        self._numbers = itertools.count()

    def file(self, folder: Path) -> Path:
        """Make a migrated, empty ledger file in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self._template, folder / "ledger.db"))

    def open(self, folder: Path, clock: Callable[[], datetime] | None = None, **more: Any) -> SqliteLedger:
        """Open a new, empty ledger in `folder`."""
        return SqliteLedger(self.file(folder), clock=clock or Clock(), **{"randomness": seeded(next(self._numbers)), **more})


def described(path: str = "a.dcm", metadata: Mapping[str, Any] | None = None, **over: Any) -> dict[str, Any]:
    """Make the payload of a `described` entry."""
    message: dict[str, Any] = {"study_id": "S1", "file_path": path}
    if metadata is not None:
        message["metadata"] = dict(metadata)
    message.update(over)
    return {"message": message, "source": "pubsub", "raw_sha256": _digest(canonical_json.dumps(message)), "upload_path": path}


def archived(path: str = "a.dcm", name: str | None = None, content: str = "bytes", dicom: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make the payload of an `archived` entry."""
    name = name or path.rpartition("/")[2]
    file = {"name": name, "original_name": name, "bytes": len(content), "sha256": _digest(content)}
    by = {"software": "0", "host": "h"}
    return {"file": file, "placement": "copied", "metadata_sha256": _digest(""), "dicom": dicom, "upload_path": path, **by}


def failed(step: str, code: str, **over: Any) -> dict[str, Any]:
    """Make the payload of a `failed` entry."""
    return {"step": step, "code": code, "detail": "", "errno": None, "attempt": 1, "retry_at": None, **over}


def quarantined(code: str, path: str) -> dict[str, Any]:
    """Make the payload of a `quarantined` entry."""
    return {"code": code, "detail": "", "upload_path": path, "by": "projector"}


def made_entry(
    position: int,
    kind: str,
    payload: dict[str, Any],
    *,
    study_id: str | None = "S1",
    version: int | None = None,
    cause: int | None = None,
    schema: int = 1,
    recorded_at: str | None = None,
) -> Entry:
    """Make a valid entry, recorded `position` seconds after midnight; its version defaults to its position."""
    text = canonical_json.dumps(payload)
    salt = bytes([position % 256]) * 16
    fields = {
        "position": position,
        "entry_id": uuid7(position, bytes([position % 256]) * 10),
        "study_id": study_id,
        "version": (version or position) if study_id is not None else None,
        "kind": kind,
        "schema": schema,
        "recorded_at": recorded_at or rfc3339(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=position)),
        "cause": cause,
        "payload_sha256": canonical_json.payload_sha256(salt, text),
    }
    return Entry(**fields, payload=text, salt=salt, leaf_hash=canonical_json.leaf_hash(fields))


@contextmanager
def small_volume(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small file system, soon full. Skips the test where none can be mounted."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small volume takes root and mount(8)")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def damage(ledger: SqliteLedger, statement: str) -> None:
    """Change the ledger's file past its triggers, as anyone with write access could."""
    with closing(sqlite.connect(ledger.path)) as connection:
        trigger = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries_update'").fetchone()[0]
        connection.executescript(f"DROP TRIGGER entries_update; {statement}; {trigger}")


def fill(path: Path) -> None:
    """Fill the file's volume to the last page."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while os.write(descriptor, bytes(4096)):
                pass
    finally:
        os.close(descriptor)


def _digest(text: str) -> str:
    return canonical_json.payload_sha256(b"", text)
