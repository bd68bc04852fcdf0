"""Which archived files a retrieve is about: one per SOP Instance UID."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage_ledger.web.files.lookup import IndexedFile, Query

_AT_A_TIME = 10_000

UID = re.compile("[0-9.]{1,64}")

_COLUMNS = """position, study_id, name, sha256, bytes, fixity, modality, study_date, series_number, instance_number, study_instance_uid,
  series_instance_uid, sop_instance_uid, transfer_syntax_uid, frames, "rows" AS pixel_rows"""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance: its UIDs, and the file that holds it. `frames`: 0 if it has no image."""

    study: str
    series: str
    uid: str
    position: int
    syntax: str
    frames: int
    file: IndexedFile

    @property
    def path(self) -> str:
        """Its address below the service."""
        return f"/studies/{self.study}/series/{self.series}/instances/{self.uid}"


@dataclass(frozen=True, slots=True)
class Named:
    """The UIDs that an address names."""

    study: str
    series: str | None = None
    instance: str | None = None


class Instances:
    """Finds instances with `query`, which runs on the index."""

    def __init__(self, query: Query) -> None:
        self._query = query

    async def find(self, named: Named) -> list[Instance]:
        """Return the instances in the order of their series and instance numbers.

        Files whose UIDs are none are left out: no address reaches them, and answers contain UIDs in headers and addresses.
        Of several files with the same UIDs, the first one counts that is neither damaged nor an incomplete copy.
        """
        conditions = "study_instance_uid = :study AND series_instance_uid IS NOT NULL AND sop_instance_uid IS NOT NULL"
        if named.series is not None:
            conditions += " AND series_instance_uid = :series"
        if named.instance is not None:
            conditions += " AND sop_instance_uid = :instance"
        parameters: dict[str, Any] = {"study": named.study, "series": named.series, "instance": named.instance, "after": 0}
        best: dict[tuple[str, str], Mapping[str, Any]] = {}
        while True:
            rows = await self._query(
                f"SELECT {_COLUMNS}, superseded FROM files WHERE {conditions} AND position > :after ORDER BY position LIMIT {_AT_A_TIME}",  # noqa: S608 - our own names
                parameters,
            )
            for row in rows:
                key = row["series_instance_uid"], row["sop_instance_uid"]
                if not all(map(UID.fullmatch, key)):
                    continue
                if key not in best or _rank(row) < _rank(best[key]):
                    best[key] = row
            if len(rows) < _AT_A_TIME:
                break
            parameters["after"] = rows[-1]["position"]
        return [_instance(row) for row in sorted(best.values(), key=_order)]


def _rank(row: Mapping[str, Any]) -> tuple[bool, bool, int]:
    return row["superseded"] != 0, row["fixity"] in {"missing", "changed"}, row["position"]


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    last = 1 << 60
    return (
        last if row["series_number"] is None else row["series_number"],
        row["series_instance_uid"],
        last if row["instance_number"] is None else row["instance_number"],
        row["position"],
    )


def _instance(row: Mapping[str, Any]) -> Instance:
    names = ("study_id", "name", "sha256", "bytes", "fixity", "modality", "study_date", "series_number", "instance_number")
    file = IndexedFile(**{name: row[name] for name in names}, study_instance_uid=row["study_instance_uid"])
    frames = max(1, row["frames"] or 1) if row["pixel_rows"] else 0
    return Instance(
        row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"], row["position"],
        syntax if UID.fullmatch(syntax := row["transfer_syntax_uid"] or "") else "", frames, file,
    )  # fmt: skip
