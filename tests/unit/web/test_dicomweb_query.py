"""Parameters of searches: those that say nothing, and names of attributes."""

from __future__ import annotations

import pytest

from storage_ledger.web.dicomweb.attributes import keyword_of
from storage_ledger.web.dicomweb.query import parse


@pytest.mark.parametrize("value", [",", "\\,", " , ", "\\\\"])
@pytest.mark.parametrize("name", ["ModalitiesInStudy", "StudyInstanceUID", "SOPClassUID"])
def test_a_list_of_nothing_matches_everything(name: str, value: str) -> None:
    found = parse([(name, value)])
    assert found.conditions == ()
    assert name in found.include


@pytest.mark.parametrize("name", ["00400275.00401001", "RequestAttributesSequence.RequestedProcedureID", "00400275.RequestedProcedureID"])
def test_an_attribute_in_a_sequence_is_named_by_keywords_and_tags(name: str) -> None:
    (condition,) = parse([(name, "RP-1")]).conditions
    assert condition.keyword == "RequestAttributesSequence.RequestedProcedureID"
    assert parse([("includefield", name)]).include == parse([(name, "")]).include == {"RequestAttributesSequence"}


@pytest.mark.parametrize("name", ["00400275.", ".00401001", "00400275..00401001", "00400275.nonsense", "."])
def test_half_a_name_is_no_attribute(name: str) -> None:
    assert parse([(name, "x")]).unsupported == ("a parameter that is not an attribute",)


def test_names_that_clients_invent_are_not_kept_for_ever() -> None:
    for number in range(10_000):
        parse([(f"Name{number}", "x")])
    assert keyword_of.cache_info().currsize < 5_000
