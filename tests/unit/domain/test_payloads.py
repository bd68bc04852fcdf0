"""Payloads: what is stored of each kind, and what becomes of a stored row that is not what its kind demands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

import storage_ledger
from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Entry, Kind, NewEntry
from storage_ledger.domain.payloads import (
    ArchivedPayload,
    DescribedPayload,
    FailedPayload,
    RecoveredPayload,
    RejectedPayload,
    StatusSentPayload,
    UnreadablePayload,
)
from storage_ledger.errors import LedgerUnusable
from tests.support.making import EXAMPLES

PACKAGE = Path(storage_ledger.__file__).parent

DESCRIBED = json.loads(EXAMPLES[Kind.DESCRIBED])


def stored(kind: str, payload: object, schema: int = 1) -> Entry:
    return Entry(7, "", "S1", 1, kind, schema, "", None, payload, "", b"", b"")


def test_there_is_a_type_for_each_kind():
    assert {each.KIND for each in get_args(payloads.AnyPayload)} == set(Kind) == EXAMPLES.keys()


@pytest.mark.parametrize("kind", Kind)
def test_what_is_read_is_stored_as_the_same_bytes(kind):
    assert canonical_json.dumps(payloads.of(stored(kind, EXAMPLES[kind])).stored()) == EXAMPLES[kind]


def test_an_optional_field_is_absent_until_it_says_something():
    plain = DescribedPayload(message={"study_id": "S1"}, source="pubsub", raw_sha256="ab", upload_path="a.dcm")
    assert plain.entry("S1") == NewEntry(
        Kind.DESCRIBED, {"message": {"study_id": "S1"}, "source": "pubsub", "raw_sha256": "ab", "upload_path": "a.dcm"}, "S1"
    )
    more = DescribedPayload({}, "adopt", "ab", "a.dcm", raw="", processing_time="t", rewritten=True)
    assert more.stored().keys() - plain.stored().keys() == {"raw", "processing_time", "rewritten"}


def test_a_null_that_is_always_there_is_stored():
    failed = FailedPayload(step="tell", code="status-service-away", detail="", errno=None, attempt=1, retry_at=None)
    assert failed.stored().items() >= {"errno": None, "retry_at": None}.items()
    assert "upload_path" not in failed.stored()


def test_the_cause_and_the_study_go_into_the_entry():
    archived = payloads.of(stored(Kind.ARCHIVED, EXAMPLES[Kind.ARCHIVED]))
    assert isinstance(archived, ArchivedPayload)
    entry = archived.entry("S1", described=3)
    assert (entry.kind, entry.study_id, entry.cause) == (Kind.ARCHIVED, "S1", 3)
    rejected = RejectedPayload("not-json", "", "pubsub", 3, "ab", "eyJ4", study_id="S1").entry()
    assert (rejected.study_id, rejected.payload["study_id"]) == (None, "S1")
    recovered = RecoveredPayload("tell", "status-service-away").entry(failed=5)
    assert (recovered.study_id, recovered.cause) == (None, 5)
    told = StatusSentPayload("archived", 200, 1, [4]).entry("S1", cause=4)
    assert told == NewEntry(Kind.STATUS_SENT, {"status": "archived", "http_status": 200, "attempts": 1, "tells": [4]}, "S1", 4)


ODD = {
    "no JSON": "{",
    "no object": "[]",
    "null": "null",
    "a field that is missing": canonical_json.dumps({key: value for key, value in DESCRIBED.items() if key != "upload_path"}),
    "a path that is no text": canonical_json.dumps({**DESCRIBED, "upload_path": 7}),
    "a path that is null": canonical_json.dumps({**DESCRIBED, "upload_path": None}),
    "a message that is a list": canonical_json.dumps({**DESCRIBED, "message": []}),
    "nested without end": "[" * 100_000,
    "a BLOB": b"\xff\xfe",
    "no payload": None,
    "a number": 7,
}


@pytest.mark.parametrize("payload", ODD.values(), ids=ODD)
def test_a_row_that_is_not_what_its_kind_demands_is_unreadable_and_nothing_else(payload):
    entry = stored("described", payload)
    for read in (payloads.of, DescribedPayload.of):
        with pytest.raises(UnreadablePayload, match="position 7"):
            read(entry)
    assert payloads.readable(entry) is None


def test_a_field_of_a_later_version_is_ignored():
    assert DescribedPayload.of(stored("described", canonical_json.dumps({**DESCRIBED, "later": 1}))).stored() == DESCRIBED


def test_another_kind_is_not_taken_for_this_one():
    with pytest.raises(UnreadablePayload):
        ArchivedPayload.of(stored("restored", EXAMPLES[Kind.RESTORED]))
    for kind in ("archivee", None, 7):
        with pytest.raises(UnreadablePayload):
            payloads.of(stored(kind, "{}"))


def test_an_entry_of_a_newer_schema_is_not_guessed_at():
    newer = stored("described", EXAMPLES[Kind.DESCRIBED], schema=2)
    with pytest.raises(LedgerUnusable, match="ledger-newer"):
        payloads.of(newer)
    assert payloads.readable(newer) is None


def test_entries_are_built_from_payloads_alone():
    """A `NewEntry` from a dict has no study or cause that its kind demands. The ledger alone takes over what another one has written."""
    built = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if re.search(r"\bNewEntry\(", path.read_text(encoding="utf-8"))
    }
    assert {path for path in built if not path.startswith("domain/payloads/")} == {"ledger/transaction.py"}
