"""Any metadata.json of the old service can be adopted, is kept byte for byte, and can be stored."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from storage_ledger.domain import canonical_json
from storage_ledger.domain.ids import instant
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import GROUPS, Study
from storage_ledger.index.columns import STUDY
from storage_ledger.index.rows import StudyRows
from storage_ledger.operations.adopt.legacy_metadata import LegacyMetadata
from tests.support.making import archived, made_entry
from tests.support.old_archive import old_metadata

NOW = datetime(2026, 1, 1, tzinfo=UTC)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("2021-03-04T05:06:07"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*GROUPS, "study_id", "processing_time", "validation_details", "files", "error"])
documents = st.dictionaries(keys, values).map(lambda value: json.dumps(value).encode())
like_an_old_one = st.dictionaries(keys, values, max_size=2).map(lambda more: json.dumps({**old_metadata("S1"), **more}).encode())


@given(st.one_of(st.binary(max_size=200), documents, like_an_old_one), st.booleans())
@example(b'{"a": 1e400, "b": NaN, "c": "\\ud800", "c": ' + b"9" * 5000 + b"}", False)
@example(b"[" * 100_000, True)
@example(b'{"patient_info": ' * 900 + b"1" + b"}" * 900, False)
@example(b"\xef\xbb\xbf{}", False)
def test_whatever_the_old_file_holds_it_is_kept_and_can_be_stored(data, rewritten):
    old = LegacyMetadata.understood("S1", data, rewritten=rewritten, now=NOW)
    payload = old.described("a.dcm").stored()
    described = made_entry(1, "described", payload)  # canonical JSON: it can be stored
    assert described.data == canonical_json.loads(canonical_json.dumps(payload))
    assert base64.b64decode(payload["raw"]) == data
    assert (payload["message"]["study_id"], payload["message"]["file_path"]) == ("S1", "a.dcm")
    assert "processing_time" not in payload or instant(payload["processing_time"]) <= NOW
    entries = [described, made_entry(2, "archived", {**archived("a.dcm"), "adopted": True}, cause=1)]
    written = metadata_json(Study.of("S1", entries), DescribedPayload.of(described))
    rows = StudyRows.new("S1")
    for entry in entries:
        rows.apply(entry)
    assert rows.study[STUDY.state] == "archived"
    if not rewritten:
        assert written == data
    else:
        document = json.loads(written)
        assert document["study_id"] == "S1"
        assert all(isinstance(document[group], dict) for group in GROUPS)
        assert [file["name"] for file in document["files"]] == ["a.dcm"]


@given(st.binary(max_size=50))
def test_what_the_old_service_wrote_is_understood_as_the_message_that_it_had(raw):
    text = raw.decode("utf-8", "replace")
    document = old_metadata("S1", error=text, patient_info={"patient_name": text})
    old = LegacyMetadata.understood("S1", json.dumps(document).encode(), rewritten=False, now=NOW)
    assert old.remarks == ()
    groups = {key: value for key, value in document.items() if key not in {"study_id", "processing_time", "validation_details"}}
    assert old.message["metadata"] == groups
    assert old.message["validation_details"] == {"is_valid": True}
