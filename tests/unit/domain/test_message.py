"""Which messages are events, and why the others are not."""

import json

import pytest

from storage_ledger.domain import canonical_json
from storage_ledger.domain.message import MAX_BYTES, parse
from storage_ledger.domain.paths import UploadPaths
from storage_ledger.errors import Rejected

PATHS = UploadPaths("/data/uploads", ("/app/uploads",))
CANARY = "KANARIENVOGEL^TWEETY"


def raw(**over) -> bytes:
    message = {"study_id": "S1", "file_path": "/app/uploads/a.dcm", **over}
    return json.dumps({key: value for key, value in message.items() if value is not ...}).encode()


def with_metadata(text: str) -> bytes:
    """A valid message whose `metadata.extra` is this piece of JSON."""
    return ('{"study_id":"S1","file_path":"a.dcm","metadata":{"extra":' + text + "}}").encode("utf-8", "surrogatepass")


def nested(depth: int, bracket: str = "[]") -> bytes:
    """A message whose deepest array lies at `depth`, the message itself being 1."""
    start, end = bracket
    return with_metadata(start * (depth - 2) + end * (depth - 2))


def rejected(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        parse(data, PATHS)
    return caught.value


# -- what passes


def test_a_plain_message_is_kept_as_it_came():
    message = {
        "study_id": "123e4567-e89b-12d3-a456-426614174000",
        "file_path": "/app/uploads/sub/a.dcm",
        "metadata": {"patient_info": {"patient_name": "DOE^JANE"}, "error": "x", "more": [1, 2.5, None, True, "Å😀"]},
        "validation_details": {"is_valid": True},
        "unknown": {"kept": 1},
    }
    parsed = parse(json.dumps(message).encode(), PATHS)
    assert (parsed.study_id, parsed.upload_path, parsed.plain) == (message["study_id"], "sub/a.dcm", True)
    assert parsed.message == message


@pytest.mark.parametrize(
    "over", [{}, {"metadata": None}, {"metadata": {}}, {"validation_details": None}, {"metadata": {"study_info": None}}]
)
def test_metadata_its_groups_and_validation_details_may_be_null_or_missing(over):
    assert parse(raw(**over), PATHS).plain


def test_dicoms_study_id_is_not_the_pipelines():
    parsed = parse(raw(metadata={"study_info": {"study_id": "../../etc"}}), PATHS)
    assert parsed.study_id == "S1"


@pytest.mark.parametrize("number", ["0", "9007199254740991", "-9007199254740991", "0.1", "1.50", "1e3", "2.5E-3", "1e22", "123456789.125"])
def test_numbers_that_a_double_holds_are_plain(number):
    parsed = parse(with_metadata(number), PATHS)
    assert parsed.plain
    assert parsed.message["metadata"]["extra"] == float(number)


def test_a_pair_of_surrogates_is_one_character_and_plain():
    parsed = parse(with_metadata(r'"\ud83d\ude00"'), PATHS)
    assert (parsed.message["metadata"]["extra"], parsed.plain) == ("\U0001f600", True)


# -- what is JSON, but not I-JSON: an event all the same


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"a":1,"a":2}', {"a": 2}),
        ("1e400", "1e400"),
        ("-1e400", "-1e400"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("9" * 5000, "9" * 5000),
        ("9007199254740992", "9007199254740992"),
        ("-9007199254740992", "-9007199254740992"),
        ("0.1000000000000000000001", "0.1000000000000000000001"),
        ("1e-400", "1e-400"),
        ("1e-99999999999999999999", "1e-99999999999999999999"),
        (r'"a\ud800b"', "a\ufffdb"),
        (r'{"\udfff":["\udc00"]}', {"\ufffd": ["\ufffd"]}),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
    ],
)
def test_what_is_not_i_json_is_an_event_that_is_not_plain_and_can_be_stored(text, kept):
    parsed = parse(with_metadata(text), PATHS)
    assert not parsed.plain
    assert parsed.message["metadata"]["extra"] == kept
    assert canonical_json.loads(canonical_json.dumps(parsed.message)) == parsed.message


def test_a_byte_order_mark_costs_the_plainness_only():
    parsed = parse(b"\xef\xbb\xbf" + raw(), PATHS)
    assert (parsed.study_id, parsed.plain) == ("S1", False)


def test_of_a_field_that_comes_twice_the_last_counts():
    parsed = parse(b'{"study_id":"old","study_id":"new","file_path":"a.dcm"}', PATHS)
    assert (parsed.study_id, parsed.plain) == ("new", False)


# -- what is rejected


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b" " * (MAX_BYTES + 1), "too-large"),
        (b'{"study_id": "\xff"}', "not-utf8"),
        ('{"study_id": "\ud800"}'.encode("utf-8", "surrogatepass"), "not-utf8"),
        (b"", "not-json"),
        (b"{", "not-json"),
        (b"{'a': 1}", "not-json"),
        (raw() + b"x", "not-json"),
        (b'{"study_id": "a\nb"}', "not-json"),
        (b"[]", "not-an-object"),
        (b'"text"', "not-an-object"),
        (b"7", "not-an-object"),
        (b"7.5", "not-an-object"),
        (b"9" * 5000, "not-an-object"),
        (b"null", "not-an-object"),
        (b"true", "not-an-object"),
        (b"[" * 20_000, "nested-too-deep"),
        (b'{"a":' * 20_000, "nested-too-deep"),
        (nested(65), "nested-too-deep"),
        (b"{}", "missing-field"),
        (raw(study_id=...), "missing-field"),
        (raw(file_path=...), "missing-field"),
        (raw(study_id=None), "wrong-field"),
        (raw(study_id=7), "wrong-field"),
        (raw(file_path=["a"]), "wrong-field"),
        (raw(metadata=[]), "wrong-field"),
        (raw(metadata="x"), "wrong-field"),
        (raw(metadata={"patient_info": "x"}), "wrong-field"),
        (raw(metadata={"location_info": []}), "wrong-field"),
        (raw(validation_details=True), "wrong-field"),
        (raw(study_id=""), "unsafe-study-id"),
        (raw(study_id=".."), "unsafe-study-id"),
        (raw(study_id="a/b"), "unsafe-study-id"),
        (raw(study_id="a\0"), "unsafe-study-id"),
        (raw(study_id="a\n"), "unsafe-study-id"),
        (raw(study_id="x" * 129), "unsafe-study-id"),
        (raw(study_id="\ud800"), "unsafe-study-id"),
        (raw(file_path=""), "unsafe-path"),
        (raw(file_path="../a"), "unsafe-path"),
        (raw(file_path="/etc/passwd"), "unsafe-path"),
        (raw(file_path="/app/uploads"), "unsafe-path"),
        (raw(file_path="a\0b"), "unsafe-path"),
        (raw(file_path="a\ud800b"), "unsafe-path"),
    ],
)
def test_an_invalid_event_is_rejected_with_its_code(data, code):
    assert rejected(data).code == code


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_nesting_is_limited_to_sixty_four_levels(bracket):
    if bracket == "{}":
        deep = [('{"a":' * (n - 2) + "1" + "}" * (n - 2)) for n in (64, 65)]
        good, bad = with_metadata(deep[0]), with_metadata(deep[1])
    else:
        good, bad = nested(64), nested(65)
    assert parse(good, PATHS).plain
    assert rejected(bad).code == "nested-too-deep"


def test_a_message_of_exactly_the_largest_size_is_judged_by_its_content():
    assert parse(raw().ljust(MAX_BYTES), PATHS).study_id == "S1"


@pytest.mark.parametrize("data", [nested(65), raw(file_path="/etc/passwd"), raw(file_path="\ud800"), raw(file_path=...), raw(metadata=7)])
def test_a_rejection_names_the_study_where_the_message_had_a_valid_one(data):
    assert rejected(data).study_id == "S1"


@pytest.mark.parametrize("data", [raw(study_id="../x"), raw(study_id=1), raw(study_id=...), b"[]", b"{"])
def test_a_rejection_names_no_study_that_is_not_valid(data):
    assert rejected(data).study_id is None


@pytest.mark.parametrize(
    "data",
    [
        f'{{"{CANARY}'.encode(),
        f'["{CANARY}"]'.encode(),
        f'"{CANARY}"'.encode(),
        CANARY.encode() + b"\xff",
        with_metadata("[" * 63 + f'"{CANARY}"' + "]" * 63),
        raw(study_id=f"{CANARY}/"),
        raw(study_id=[CANARY]),
        raw(study_id=..., **{CANARY: CANARY}),
        raw(file_path=f"/etc/{CANARY}"),
        raw(file_path=f"../{CANARY}"),
        raw(file_path={CANARY: CANARY}),
        raw(metadata=CANARY),
        raw(metadata={"patient_info": CANARY}),
        raw(validation_details=[CANARY]),
    ],
)
def test_no_rejection_quotes_the_message(data):
    error = rejected(data)
    assert error.detail
    chain = [error, error.__cause__, *([] if error.__suppress_context__ else [error.__context__])]
    assert all(CANARY not in f"{link} {getattr(link, 'args', '')}" for link in chain)
