"""DICOM JSON as XML (PS3.19 §A.1)."""

from __future__ import annotations

from typing import Any

import pytest

from storage_ledger.web.files.pictures.native_model import native_model
from tests.support.native_model import VALUE, parsed


def written(data_set: dict[str, Any]) -> str:
    """Return what is within the document's element, without the namespace."""
    parsed(native_model(data_set))
    return native_model(data_set).decode().partition('preserve">')[2].removesuffix("</NativeDicomModel>\n")


def value_of(text: str) -> str | None:
    """Return a value as an XML parser reads it."""
    return parsed(native_model({"00104000": {"vr": "LT", "Value": [text]}})).findtext(f".//{VALUE}")


def test_values_have_numbers_and_an_empty_one_is_left_out() -> None:
    assert written({"00280030": {"vr": "DS", "Value": [0.5, None, 2]}, "00100020": {"vr": "LO"}}) == (
        '<DicomAttribute tag="00280030" vr="DS" keyword="PixelSpacing"><Value number="1">0.5</Value><Value number="3">2</Value>'
        '</DicomAttribute><DicomAttribute tag="00100020" vr="LO" keyword="PatientID"></DicomAttribute>'
    )


def test_a_name_has_its_groups_and_components() -> None:
    names = {"Alphabetic": "Yamada^Tarou^^Dr.", "Ideographic": "\u5c71\u7530"}
    assert written({"00100010": {"vr": "PN", "Value": [names]}}) == (
        '<DicomAttribute tag="00100010" vr="PN" keyword="PatientName"><PersonName number="1"><Alphabetic><FamilyName>Yamada</FamilyName>'
        "<GivenName>Tarou</GivenName><NamePrefix>Dr.</NamePrefix></Alphabetic><Ideographic><FamilyName>\u5c71\u7530</FamilyName>"
        "</Ideographic></PersonName></DicomAttribute>"
    )


def test_items_binary_values_and_references() -> None:
    inner = {"00081155": {"vr": "UI", "Value": ["1.2"]}}
    data_set = {
        "00081140": {"vr": "SQ", "Value": [inner, {}]},
        "00189810": {"vr": "OB", "InlineBinary": "AAE="},
        "7FE00010": {"vr": "OW", "BulkDataURI": "7FE00010"},
    }
    assert '<Item number="1"><DicomAttribute tag="00081155" vr="UI" keyword="ReferencedSOPInstanceUID"><Value number="1">1.2' in written(
        data_set
    )
    assert '<Item number="2"></Item>' in written(data_set)
    assert "<InlineBinary>AAE=</InlineBinary>" in written(data_set)
    assert '<BulkData uri="7FE00010"/>' in written(data_set)


def test_a_private_attribute_has_its_creator_in_place_of_the_block() -> None:
    private = {"00090011": {"vr": "LO", "Value": ['A "B" <C>']}, "00091102": {"vr": "LO", "Value": ["x"]}, "00091202": {"vr": "LO"}}
    assert '<DicomAttribute tag="00090002" vr="LO" privateCreator=\'A "B" &lt;C&gt;\'>' in written(private)
    assert '<DicomAttribute tag="00090011" vr="LO">' in written(private)
    assert '<DicomAttribute tag="00091202" vr="LO">' in written(private)  # nobody has reserved this block


@pytest.mark.parametrize("text", ["a<b>&c]]>", "two\r\nlines\ttab", " spaces ", "\u5c71\U0001f600", '"quoted"'])
def test_any_text_comes_back(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["\x00", "\x1b", "\ufffe", "\ud800"])
def test_what_xml_cannot_hold_is_replaced(text: str) -> None:
    assert value_of(f"a{text}b") == "a\ufffdb"
