"""Check ledger.db by itself: its schema, its table `meta`, SQLite's integrity check, and every entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from storage_ledger.domain.entries import CURRENT_SCHEMA, Entry, Kind, faults
from storage_ledger.domain.last_backup import NAME as LAST_BACKUP
from storage_ledger.errors import LedgerError, LedgerUnusable
from storage_ledger.ledger.migrate import SCHEMA_SQL, known_revisions, schema_as_migrated, schema_of
from storage_ledger.ledger.sql_ledger import METADATA_SYNCED
from storage_ledger.ledger.transaction import MOVED_TO
from storage_ledger.operations.verify.findings import Findings, Stopped
from storage_ledger.operations.verify.untrusting_reader import UntrustingReader

PART = "ledger"
FILE = "ledger.db"
MOST_DAMAGED = 10_000
"""Give up on details after this many damaged entries."""

_KINDS = frozenset(kind.value for kind in Kind)


@dataclass(slots=True)
class Damage:
    """The positions of damaged and missing entries. `overflow`: there are more than `MOST_DAMAGED`."""

    positions: set[int] = field(default_factory=set)
    overflow: bool = False

    def add(self, position: int) -> None:
        """Add a position, up to `MOST_DAMAGED` of them."""
        if len(self.positions) < MOST_DAMAGED:
            self.positions.add(position)
        else:
            self.overflow = True


def check_file(reader: UntrustingReader, found: Findings, stopped: Callable[[], bool]) -> None:
    """Compare schema and triggers with the migrations, check `meta` for one ledger_id, and run SQLite's `integrity_check`."""
    _schema(reader, found)
    _meta(reader, found)
    try:
        with reader.interruptible(stopped):
            lines = [str(row[0]) for row in reader.stream("PRAGMA integrity_check(20)")]
    except LedgerError:
        if stopped():  # SQLite reports an interruption as an error
            raise Stopped from None
        raise
    wrong = [line for line in lines if line != "ok" and "CHECK constraint failed in pending" not in line]  # see `work_items`
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        found.report("ledger-damaged", PART, path=FILE, detail="SQLite: " + "; ".join(wrong[:3]) + more)


def check_entries(reader: UntrustingReader, found: Findings, up_to: int, on_progress: Callable[[int], None]) -> Damage:
    """Check entries 1 to `up_to`: no gaps, valid hashes, timestamps in order, valid causes and versions."""
    damage = Damage()
    before, time = 0, ""
    while before < up_to:
        rows = reader.rows(before, up_to)
        for entry in rows:
            _gap(found, damage, before + 1, entry.position - 1)
            before = entry.position
            if _is_whole(entry, found, damage):
                _in_order(entry, time, found)
                time = max(time, entry.recorded_at)
        if not rows:
            _gap(found, damage, before + 1, up_to)
            before = up_to
        on_progress(before)
    return damage


def check_keys(reader: UntrustingReader, found: Findings, damage: Damage, up_to: int) -> None:
    """Check that each study's versions run 1, 2, 3 … by position, and that no entry_id occurs twice.

    Call it after `reader.repaired` is set.
    """
    known = {(entry.study_id, entry.version) for entry in reader.repaired.values() if entry is not None}
    guessing = damage.overflow or None in reader.repaired.values()
    lost = reader.stream(
        "SELECT e.position, e.study_id, e.version FROM entries e WHERE e.study_id IS NOT NULL AND e.position <= ? AND "
        "CASE WHEN e.version = 1 THEN EXISTS (SELECT 1 FROM entries p WHERE p.study_id = e.study_id AND p.version < 1) "
        "ELSE NOT EXISTS (SELECT 1 FROM entries p WHERE p.study_id = e.study_id AND p.version = e.version - 1 AND p.position < e.position) "
        "END",
        up_to,
    )
    for position, study_id, version in lost:
        explained = guessing or position in damage.positions or (study_id, version - 1) in known
        if not explained:
            found.report(
                "version-wrong", PART, position=position, study_id=study_id, path=FILE, detail=f"version {version} does not follow"
            )
    for position, _ in reader.stream("SELECT max(position), count(*) FROM entries GROUP BY entry_id HAVING count(*) > 1"):
        if position <= up_to and position not in damage.positions:
            found.report("entry-id-twice", PART, position=position, path=FILE)


def check_entry(entry: Entry, found: Findings) -> bool:
    """Check one entry by itself, reporting at most one finding. Return True if it is undamaged.

    Raises `LedgerUnusable` (`ledger-newer`) for an undamaged entry of a kind or schema that this program does not know.
    """
    wrong = faults(entry)
    if wrong:
        found.report(wrong[0], PART, position=entry.position, study_id=entry.study_id, path=FILE, detail=", ".join(wrong))
    elif entry.kind not in _KINDS or entry.schema > CURRENT_SCHEMA:
        raise LedgerUnusable("ledger-newer", f"the entry at position {entry.position} was written by a newer version of this program")
    return not wrong


def _is_whole(entry: Entry, found: Findings, damage: Damage) -> bool:
    whole = check_entry(entry, found)
    if not whole:
        damage.add(entry.position)
    return whole


def _in_order(entry: Entry, time: str, found: Findings) -> None:
    if entry.recorded_at < time:
        found.report("recorded-at-decreases", PART, position=entry.position, study_id=entry.study_id, path=FILE)
    if entry.cause is not None and not 0 < entry.cause < entry.position:
        found.report("cause-invalid", PART, position=entry.position, study_id=entry.study_id, path=FILE)


def _gap(found: Findings, damage: Damage, first: int, last: int) -> None:
    for position in range(first, min(last, first + MOST_DAMAGED) + 1):
        damage.add(position)
        found.report("entry-missing", PART, position=position, path=FILE)
    if last > first + MOST_DAMAGED:
        damage.overflow = True


def _schema(reader: UntrustingReader, found: Findings) -> None:
    here = schema_of(reader.sql(SCHEMA_SQL))
    tables = {name for kind, name, _ in here if kind == "table"}
    if not {"entries", "pending", "meta"} <= tables:
        raise LedgerUnusable("ledger-foreign", f"{reader.path} is an SQLite database, but not a complete ledger")
    versions = [row[0] for row in reader.sql("SELECT version_num FROM alembic_version")] if "alembic_version" in tables else []
    if len(versions) != 1 or versions[0] not in known_revisions():
        found.report("schema-changed", PART, path=FILE, detail="alembic_version does not hold one known revision")
    right = schema_as_migrated(versions[0] if versions else "")
    for kind, name in sorted({each[:2] for each in here ^ right}):
        if not any(each[:2] == (kind, name) for each in right):
            text = "is unexpected"
        elif any(each[:2] == (kind, name) for each in here):
            text = "differs from the migrations"
        else:
            text = "is missing"
        found.report("schema-changed", PART, path=FILE, detail=f"{kind} {name} {text}")


def _meta(reader: UntrustingReader, found: Findings) -> None:
    names = [row[0] for row in reader.sql("SELECT name FROM meta")]
    if "ledger_id" not in names:
        found.report("meta-changed", PART, path=FILE, detail="meta has no ledger_id")
    if len(names) != len(set(names)) or not set(names) <= {"ledger_id", METADATA_SYNCED, LAST_BACKUP, MOVED_TO}:
        found.report("meta-changed", PART, path=FILE, detail="meta has rows that no version of this program writes")
