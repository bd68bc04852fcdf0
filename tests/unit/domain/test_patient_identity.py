"""Whether a message and a header, or two headers, name different patients."""

import pytest

from storage_ledger.domain.patient_identity import Difference, differences, disputed, found_in, names_any, said_by

SAME_NAMES = [
    ("DOE^JANE", "Doe^Jane^^"),
    ("DOE^JANE", "DOE^JANE "),
    ("DOE^JANE", "doe ^ jane"),
    ("DOE^JANE", "Doe, Jane"),
    ("DOE^JANE^^DR", "DOE^JANE"),
    ("DOE^JANE^^DR", "DOE^JANE^^PROF"),
    ("DOE^JANE^^^JR", "DOE^JANE"),
    ("O'BRIEN^PAT", "OBRIEN^PAT"),
    ("MEYER-SMITH^A", "Meyer Smith^A"),
    ("VAN DER BERG^P", "VANDERBERG^P"),
    ("M\u00fcller^J\u00f6rg", "Mu\u0308ller^Jo\u0308rg"),
    ("WEISS^PETER", "Wei\u00df^Peter"),
    ("\u03a0\u0391\u03a0\u0391\u03a3^\u039d", "\u03c0\u03b1\u03c0\u03b1\u03c2^\u03bd"),
    ("\uff39amada^Tarou", "Yamada^Tarou"),
    ("\uff94\uff8f\uff80\uff9e", "\u30e4\u30de\u30c0"),
    ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046", "YAMADA^TAROU"),
    ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "=\u5c71\u7530 \u592a\u90ce"),
    ("Yamada^Tarou", "=\u5c71\u7530^\u592a\u90ce"),
    ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530^\u592a\u90ce"),
    ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046", "\u3084\u307e\u3060^\u305f\u308d\u3046"),
    ("^^^^", "DOE^JANE"),
    ("==", "DOE^JANE"),
    ("", "DOE^JANE"),
]
OTHER_NAMES = [
    ("DOE^JANE", "DOE^JOHN"),
    ("DOE^JANE", "ROE^JANE"),
    ("DOE^JOHN^^^JR", "DOE^JOHN^^^SR"),
    ("M\u00dcLLER^J", "MILLER^J"),
    ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "Yamada^Tarou=\u5c71\u7530^\u6b21\u90ce"),
    ("\u5c71\u7530^\u592a\u90ce", "\u7530\u4e2d^\u592a\u90ce"),
    ("\u0915\u093f^\u0930", "\u0915\u0940^\u0930"),
    ("\u0627\u062d\u0645\u062f", "\u0645\u062d\u0645\u062f"),
    ("X", "Y"),
]


@pytest.mark.parametrize(("one", "other"), SAME_NAMES)
def test_another_spelling_of_a_name_is_not_a_difference(one, other):
    assert differences({"patient_name": one}, {"patient_name": other}) == []
    assert differences({"patient_name": other}, {"patient_name": one}) == []
    assert disputed([{"patient_name": one}, {"patient_name": other}]) == set()


@pytest.mark.parametrize(("one", "other"), OTHER_NAMES)
def test_another_name_is_a_difference(one, other):
    assert differences({"patient_name": one}, {"patient_name": other}) == [Difference("patient_name", one, other)]
    parts = disputed([{"patient_name": one}, {"patient_name": other}])
    assert names_any({"patient_name": one}, parts)
    assert names_any({"patient_name": other}, parts)


@pytest.mark.parametrize(
    ("attribute", "one", "other", "differ"),
    [
        ("patient_id", "SGC-1", "sgc-1 ", False),
        ("patient_id", "SGC-1", "SGC-2", True),
        ("patient_id", "0012", "12", True),
        ("patient_id", "4711", "", False),
        ("patient_birth_date", "19700101", "1970-01-01", False),
        ("patient_birth_date", "19700101", "1970.01.01", False),
        ("patient_birth_date", "19700101", "1970-01-01T00:00:00", False),
        ("patient_birth_date", "19700101", "19700102", True),
        ("patient_birth_date", "1970", "19700101", True),
        ("patient_sex", "F", "f ", False),
        ("patient_sex", "F", "female", False),
        ("patient_sex", "F", "M", True),
        ("study_instance_uid", "1.2.3", "1.2.3\0", False),
        ("study_instance_uid", "1.2.3", "1.2.30", True),
        ("series_instance_uid", "1.2.3", "1.2.4", True),
        ("sop_instance_uid", "1.2.3", "1.2.4", True),
    ],
)
def test_ids_dates_sexes_and_uids_are_compared_by_what_they_mean(attribute, one, other, differ):
    assert bool(differences({attribute: one}, {attribute: other})) is differ


def test_a_message_and_a_header_with_any_content_are_read():
    message = {"patient_info": {"patient_name": " DOE^JANE\0", "patient_id": 4711, "patient_sex": None}, "study_info": None}
    assert said_by(message) == {"patient_name": "DOE^JANE", "patient_id": "4711"}
    assert said_by({"patient_info": ["x"], "study_info": "y"}) == said_by({}) == {}
    assert found_in({"PatientName": "^^", "PatientID": ["1", "2"], "StudyInstanceUID": "1.2"}) == {
        "patient_id": "1\\2",
        "study_instance_uid": "1.2",
    }


def test_only_patients_with_a_disputed_part_differ():
    files = [
        {"patient_name": "DOE^JANE", "patient_id": "1"},
        {"patient_name": "DOE^JANE"},
        {"patient_id": "2"},
        {"patient_sex": "F"},
        {},
    ]
    parts = disputed(files)
    assert [names_any(each, parts) for each in files] == [True, False, True, False, False]
