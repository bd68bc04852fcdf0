"""Parameters of searches that say nothing."""

from __future__ import annotations

import pytest

from storage_ledger.web.dicomweb.query import parse


@pytest.mark.parametrize("value", [",", "\\,", " , ", "\\\\"])
@pytest.mark.parametrize("name", ["ModalitiesInStudy", "StudyInstanceUID", "SOPClassUID"])
def test_a_list_of_nothing_matches_everything(name: str, value: str) -> None:
    found = parse([(name, value)])
    assert found.conditions == ()
    assert name in found.include
