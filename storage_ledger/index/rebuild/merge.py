"""Merges the partitions of a rebuild into one set of tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage_ledger.index import patient_conflicts
from storage_ledger.index.derived_tables import ADD_TO_ARRIVALS, DROP_EMPTY_ARRIVALS, flag_conflicts, recompute_patients, recompute_studies
from storage_ledger.index.rebuild.worker import DERIVED, FOLDED
from storage_ledger.index.schema import COLUMNS, ROWID
from storage_ledger.index.search import write_search_text
from storage_ledger.system.sqlite import quoted


def merge(connection: Any, prefix: str, files: Iterable[Path]) -> list[int]:
    """Merge these partition files, in order, into the tables with this prefix; if several have a row, the last one wins.

    DICOM studies with files in several partitions are noted in the table `temp.recompute`, for `recompute_noted`. Each table of a partition
    is a transaction of its own, so a process that follows the ledger waits for one table at most. A file is deleted once merged.
    Returns the positions of the `verified` entries, ascending.
    """
    connection.execute("DROP TABLE IF EXISTS temp.recompute")
    connection.execute("CREATE TABLE temp.recompute (study_instance_uid TEXT PRIMARY KEY)")
    verified: list[int] = []
    for file in files:
        connection.execute("ATTACH ? AS partition", (f"file:{quoted(file)}?mode=ro",))
        try:
            _note_studies_of_several(connection, prefix)
            for table in (*FOLDED, *DERIVED):
                names = ", ".join((["rowid"] if table in ROWID else []) + [f'"{name}"' for name in COLUMNS[table]])
                rows = f"INTO {prefix}{table} ({names}) SELECT {names} FROM partition.{table}"  # noqa: S608 - our own names
                added_up = table == "arrivals"
                connection.execute(f"INSERT {rows} WHERE true {ADD_TO_ARRIVALS}" if added_up else f"INSERT OR REPLACE {rows}")
            verified += [row[0] for row in connection.execute("SELECT position FROM partition.verified ORDER BY position")]
        finally:
            connection.execute("DETACH partition")
        file.unlink()
    connection.execute(DROP_EMPTY_ARRIVALS.replace("arrivals", f"{prefix}arrivals"))
    return verified


def _note_studies_of_several(connection: Any, prefix: str) -> None:
    several = f"SELECT study_instance_uid FROM partition.dicom_studies JOIN {prefix}dicom_studies USING (study_instance_uid)"  # noqa: S608 - our own names
    connection.execute(f"INSERT OR IGNORE INTO recompute {several}")
    # A re-read header may have moved a file to another DICOM study.
    moved = f"SELECT old.study_instance_uid FROM partition.files new JOIN {prefix}files old ON old.rowid = new.position"  # noqa: S608 - as above
    left = "old.study_instance_uid IS NOT NULL AND old.study_instance_uid IS NOT new.study_instance_uid"
    connection.execute(f"INSERT OR IGNORE INTO recompute {moved} WHERE {left}")


def recompute_noted(connection: Any) -> None:
    """Recompute what no partition could know alone: conflicts, and the studies that `merge` noted.

    Call it in a transaction, once the indexes exist.
    """
    chosen = "IN (SELECT study_instance_uid FROM recompute)"
    for statement in recompute_patients(chosen):
        connection.execute(statement)
    flagged = {row[0] for row in connection.execute(flag_conflicts("IS NOT NULL")).fetchall() if row[0]}
    flagged |= patient_conflicts.flag_all(connection)
    connection.executemany("INSERT OR IGNORE INTO recompute VALUES (?)", ((uid,) for uid in flagged))
    for statement in recompute_studies(chosen):
        connection.execute(statement)
    write_search_text(connection, chosen)
    connection.execute("DROP TABLE temp.recompute")
