"""The counts of DICOM studies per modality, institution and year, which pages read instead of counting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from storage_ledger.index.follower import Index
from storage_ledger.ledger.sqlite import SqliteLedger
from storage_ledger.system.sqlite import sqlite
from storage_ledger.web.pages import home, study_list
from storage_ledger.web.pages.study_list import ListRequest
from tests.support.making import Clock, Ledgers, archived


@pytest.fixture
def ledger(ledgers: Ledgers, tmp_path: Path, clock: Clock) -> Iterator[SqliteLedger]:
    made = ledgers.open(tmp_path, clock)
    yield made
    made.close()


@pytest.fixture
def index(ledger: SqliteLedger, tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index.db", ledger)
    made.ensure()
    yield made
    made.close()


def counted(index: Index) -> dict[tuple[str, str], int]:
    with closing(sqlite.connect(index.path)) as connection:
        return {(name, value): studies for name, value, studies in connection.execute("SELECT * FROM facets")}


def test_each_value_is_counted_and_counted_again_when_it_changes(ledger: SqliteLedger, index: Index):
    def file(name: str, study: str, **header: Any) -> dict[tuple[str, str], int]:
        dicom = {"SOPInstanceUID": f"{study}.{name}", "StudyInstanceUID": study, **header}
        with ledger.write() as tx:
            tx.append(NewEntry(Kind.ARCHIVED, archived(f"{name}.dcm", dicom=dicom), name), work_item=False)
        index.follow()
        return counted(index)

    first = file("a", "1.1", Modality="CT", InstitutionName="West", StudyDate="20250101")
    assert first == {("modality", "CT"): 1, ("institution", "West"): 1, ("year", "2025"): 1}
    assert file("b", "1.1", Modality="CT") == first
    second = file("c", "1.2", Modality="CT")
    assert second == {("modality", "CT"): 2, ("institution", "West"): 1, ("institution", ""): 1, ("year", "2025"): 1, ("year", ""): 1}
    third = {("modality", "CT"): 1, ("modality", "CT, SR"): 1, ("institution", "West"): 2, ("year", "2025"): 2}
    assert file("d", "1.2", Modality="SR", InstitutionName="West", StudyDate="20251231") == third
    index.rebuild()
    assert counted(index) == third


STUDIES = """
INSERT INTO dicom_studies (study_instance_uid, modalities, institution_name, year, series, files, bytes, studies, flagged,
                           first_archived_at, last_archived_at, first_position)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
SELECT '1.2.' || i, 'CT', 'West', 2025, 1, 1, 1, 1, 0, '2026-01-01', '2026-01-01', i FROM n"""


@pytest.mark.parametrize(
    "page",
    [lambda connection: home.of_index(connection, date(2026, 1, 1)), lambda connection: study_list.of_index(connection, ListRequest())],
)
def test_the_start_page_and_the_whole_list_cost_the_same_for_any_number_of_studies(index: Index, page: Any):
    work = []
    with closing(sqlite.connect(index.path)) as connection:
        for studies in (100, 10_000):
            connection.execute("DELETE FROM dicom_studies")
            connection.execute(STUDIES, (studies,))
            steps = []
            connection.set_progress_handler(lambda steps=steps: steps.append(1), 10)
            shown = page(connection)
            connection.set_progress_handler(None, 0)
            work.append(len(steps))
            assert studies in {shown.get("total"), shown.get("dicom_studies")}
    assert work[1] < 1.5 * work[0], work
