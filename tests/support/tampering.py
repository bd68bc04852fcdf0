"""Rewrites a whole archive as somebody who may write both volumes could: every hash is computed again, so that nothing contradicts it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.index.follower import Index
from storage_ledger.ledger.mirror.writer import Mirror
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite

Change = Callable[[Entry], dict[str, Any] | None]
"""Returns what an entry shall have instead: `payload` as text, `recorded_at`; an empty dictionary leaves it, None removes it."""


def rewrite(ledger_folder: Path, archive: Path, change: Change) -> None:
    """Change entries in the ledger, and make mirror, metadata.json and index of what they say now. Checkpoints are left alone."""
    file = ledger_folder / "ledger.db"
    _rewrite_ledger(file, change)
    for segment in (archive / ".ledger").glob("*.entries"):
        segment.unlink()
    (ledger_folder / "index.db").unlink()
    with closing(SqliteLedger(file)) as ledger:
        mirror = Mirror(archive, ledger_folder / "mirror.lock", ledger)
        mirror.begin()
        mirror.rewrite()
        for study_id in ledger.studies_with_kind(Kind.ARCHIVED):
            entries = list(ledger.study(study_id))
            study = Study.of(study_id, entries)
            [described] = [DescribedPayload.of(entry) for entry in entries if entry.position == study.speaker.position]
            put(archive / study_id / "metadata.json", metadata_json(study, described))
        index = Index(ledger_folder / "index.db", ledger)
        index.ensure()
        index.close()


def renamed(*names: tuple[str, str]) -> Change:
    """Replace texts in all payloads."""

    def change(entry: Entry) -> dict[str, Any]:
        payload = entry.payload
        for before, after in names:
            payload = payload.replace(before, after)
        return {"payload": payload}

    return change


def put(path: Path, data: bytes) -> None:
    """Replace a file of the archive."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Copy:
    """Both volumes as they are now, to be brought back later."""

    def __init__(self, kept: Path, *folders: Path) -> None:
        self._folders = {folder: kept / folder.name for folder in folders}
        for folder, copy in self._folders.items():
            shutil.copytree(folder, copy)

    def bring_back(self) -> None:
        """Restore both."""
        for folder, copy in self._folders.items():
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)


def _rewrite_ledger(file: Path, change: Change) -> None:
    with closing(sqlite.connect(file)) as connection:
        entries = [Entry(*row) for row in connection.execute("SELECT * FROM entries ORDER BY position")]
        pending = connection.execute("SELECT * FROM pending").fetchall()
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'entries'").fetchall()
        rows, moved = _changed(entries, change)
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DELETE FROM pending")
        connection.execute("DELETE FROM entries")
        connection.executemany(f"INSERT INTO entries VALUES ({', '.join('?' * 12)})", rows)
        kept = [(moved[position], *more) for position, *more in pending if position in moved]
        connection.executemany("INSERT INTO pending VALUES (?, ?, ?, ?)", kept)
        for _, sql in triggers:
            connection.execute(sql)
        connection.commit()


def _changed(entries: list[Entry], change: Change) -> tuple[list[Entry], dict[int, int]]:
    """Return the new entries, and the new position of each old one."""
    rows: list[Entry] = []
    moved: dict[int, int] = {}
    versions: dict[str, int] = {}
    for entry in entries:
        given = change(entry)
        if given is None:
            continue
        position = moved[entry.position] = len(rows) + 1
        version = None
        if entry.study_id is not None:
            version = versions[entry.study_id] = versions.get(entry.study_id, 0) + 1
        payload = canonical_json.loads(given.get("payload", entry.payload))
        if "tells" in payload:
            payload["tells"] = [moved[each] for each in payload["tells"]]
        text = canonical_json.dumps(payload)
        made = entry._replace(
            position=position,
            version=version,
            cause=entry.cause and moved[entry.cause],
            recorded_at=given.get("recorded_at", entry.recorded_at),
            payload=text,
            payload_sha256=canonical_json.payload_sha256(entry.salt, text),
        )
        rows.append(made._replace(leaf_hash=canonical_json.leaf_hash(made._asdict())))
    return rows, moved
