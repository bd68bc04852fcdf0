"""Canonical JSON and the two hashes, held to numbers that were computed without this program."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage_ledger.domain import canonical_json

DOC = Path(__file__).resolve().parents[3] / "docs" / "reference" / "hashes.md"

SALT = bytes(range(16))
PAYLOAD = {"text": 'Åsa 😀 "\\ \0', "source": "pubsub", "message": {"study_id": "S1", "file_path": "/app/uploads/a.dcm"}}
STORED = r"""{"message":{"file_path":"/app/uploads/a.dcm","study_id":"S1"},"source":"pubsub","text":"Åsa 😀 \"\\ \u0000"}"""
FIELDS = {
    "version": 3,
    "study_id": "S1",
    "schema": 1,
    "recorded_at": "2026-01-01T12:00:00.000001Z",
    "position": 42,
    "payload_sha256": "77d65f4435a782f6b4cb65ce83c0f78983269d5f6e43ace5f183c99acab4f663",
    "kind": "described",
    "entry_id": "019b7a5f-2c00-7000-8000-000000000001",
    "cause": None,
}
HEADER = (
    b'{"cause":null,"entry_id":"019b7a5f-2c00-7000-8000-000000000001","kind":"described",'
    b'"payload_sha256":"77d65f4435a782f6b4cb65ce83c0f78983269d5f6e43ace5f183c99acab4f663","position":42,'
    b'"recorded_at":"2026-01-01T12:00:00.000001Z","schema":1,"study_id":"S1","version":3}'
)
LEAF = "53f943d5dc92914deca30e14eb0fcc40644345ce8ee83bee08c74a297aabd6d2"


def test_the_golden_payload_is_stored_as_these_bytes():
    assert canonical_json.dumps(PAYLOAD) == STORED


def test_the_golden_payload_has_this_salted_digest():
    assert canonical_json.payload_sha256(SALT, STORED) == FIELDS["payload_sha256"]
    assert hashlib.sha256(SALT + STORED.encode()).hexdigest() == FIELDS["payload_sha256"]


def test_the_golden_header_has_these_bytes_in_any_order_of_fields():
    assert canonical_json.header(FIELDS) == HEADER
    assert canonical_json.header(dict(reversed(FIELDS.items()))) == HEADER


def test_the_golden_entry_has_this_leaf_hash():
    assert canonical_json.leaf_hash(FIELDS).hex() == LEAF
    assert hashlib.sha256(b"\x00" + HEADER).hexdigest() == LEAF


def test_the_header_takes_nothing_but_its_nine_fields():
    assert canonical_json.header({**FIELDS, "payload": "x", "salt": b"y"}) == HEADER


def test_each_field_of_the_header_changes_the_leaf():
    other = {"cause": 1, "study_id": None, "version": None, "schema": 2, "position": 41}
    changed = {name: canonical_json.leaf_hash({**FIELDS, name: other.get(name, f"{FIELDS[name]}x")}) for name in FIELDS}
    assert len({bytes.fromhex(LEAF), *changed.values()}) == 10


@pytest.mark.parametrize("missing", sorted(FIELDS))
def test_a_header_with_a_missing_field_is_refused(missing):
    with pytest.raises(KeyError):
        canonical_json.header({name: value for name, value in FIELDS.items() if name != missing})


@pytest.mark.parametrize("wrong", [{"kind": b"x"}, {"position": "1"}, {"version": 1.0}, {"study_id": 1}])
def test_a_header_with_a_value_of_the_wrong_type_is_refused(wrong):
    with pytest.raises(TypeError):
        canonical_json.header({**FIELDS, **wrong})


@pytest.mark.parametrize("text", ["", "{", "NaN", "1e400", '"\\ud800"', "[1,]"])
def test_what_cannot_have_been_stored_is_not_read(text):
    with pytest.raises(ValueError, match=r"."):
        canonical_json.loads(text)


def test_keys_are_sorted_by_code_point_at_every_depth():
    # U+FF01 comes before U+1F600 by code point, and after it by the UTF-16 units that RFC 8785 sorts by.
    assert canonical_json.dumps({"\U0001f600": 1, "\uff01": 2, "b": {"z": 1, "a": 2}, "B": [{"y": 1, "x": 2}]}) == (
        '{"B":[{"x":2,"y":1}],"b":{"a":2,"z":1},"\uff01":2,"\U0001f600":1}'
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_refused(number):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json.dumps({"deep": [number]})


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, ["x\udc80"]])
def test_lone_surrogates_are_refused(value):
    with pytest.raises(UnicodeEncodeError):
        canonical_json.dumps(value)


def test_the_page_on_hashes_prints_what_it_says_and_what_this_program_computes():
    page = DOC.read_text(encoding="utf-8")
    code, printed = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("python", "text"))
    ran = subprocess.run([sys.executable, "-X", "utf8", "-I", "-c", code], capture_output=True, check=True)
    assert ran.stdout.decode("utf-8") == printed
    assert printed.splitlines() == [FIELDS["payload_sha256"], HEADER.decode(), LEAF]
