"""Properties of any bytes, names and entries."""

import json
import os

from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import EncodedEntry, Entry, faults
from storage_ledger.domain.message import Parsed, parse
from storage_ledger.domain.metadata_json import metadata_json
from storage_ledger.domain.paths import UploadPaths, archive_name, beside_name, valid_study_id
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import Study
from storage_ledger.errors import Rejected
from tests.support.making import archived, described, made_entry

PATHS = UploadPaths("/data/uploads", ("/app/uploads", "/mnt/in"))
CODES = {
    "too-large", "not-utf8", "not-json", "not-an-object", "nested-too-deep",
    "missing-field", "wrong-field", "unsafe-study-id", "unsafe-path",
}  # fmt: skip

any_text = st.text(st.characters(exclude_categories=()), max_size=30)  # including surrogates
pieces = st.sampled_from(
    ["", ".", "..", "...", "a", "a.dcm", "etc", "data", "uploads", "app", "\0", "~", "..\\", "%2e%2e", "\uff0e\uff0e", "x" * 300]
)
paths = st.one_of(
    any_text,
    st.lists(pieces, max_size=8).map("/".join),
    st.lists(pieces, max_size=6).map(lambda parts: "/data/uploads/" + "/".join(parts)),
    st.lists(pieces, max_size=6).map(lambda parts: "/app/uploads" + "/".join(parts)),
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
groups = st.one_of(st.none(), st.dictionaries(st.text(max_size=8), json_values, max_size=3))
messages = st.fixed_dictionaries(
    {
        "study_id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
        "file_path": st.sampled_from(["a.dcm", "/app/uploads/s/a.dcm"]),
    },
    optional={
        "metadata": st.none()
        | st.dictionaries(st.text(max_size=8), json_values, max_size=3).flatmap(
            lambda extra: st.fixed_dictionaries({}, optional={"patient_info": groups, "study_info": groups}).map(
                lambda some: {**extra, **some}
            )
        ),
        "validation_details": groups,
        "more": json_values,
    },
)


def judged(raw: bytes) -> Parsed | Rejected:
    """Return the result of `parse`; any other exception fails the test."""
    try:
        return parse(raw, PATHS)
    except Rejected as rejected:
        return rejected


def check(found: Parsed | Rejected) -> None:
    """Check what intake relies on for any input."""
    match found:
        case Rejected():
            assert found.code in CODES
            assert found.study_id is None or valid_study_id(found.study_id)
            canonical_json.dumps(found.detail)
        case Parsed():
            assert valid_study_id(found.study_id)
            assert found.message["study_id"] == found.study_id
            assert canonical_json.loads(canonical_json.dumps(found.message)) == found.message
            stays_below(found.upload_path)


def stays_below(path: str) -> None:
    assert path
    assert not path.startswith("/")
    assert "\0" not in path
    assert not {"", ".", ".."} & set(path.split("/"))
    assert os.path.normpath(f"/data/uploads/{path}") == f"/data/uploads/{path}"


@settings(max_examples=400)
@given(paths)
@example("/data/uploads/../uploads2/x")
@example("/app/uploads/..")
def test_no_path_leads_out_of_uploads(path):
    try:
        resolved = PATHS.resolve(path)
    except ValueError:
        return
    stays_below(resolved)


@settings(max_examples=300)
@given(st.one_of(any_text, st.lists(pieces, max_size=4).map("/".join)))
def test_a_valid_study_id_is_one_harmless_folder_name(text):
    if valid_study_id(text):
        assert os.path.normpath(f"/archive/{text}") == f"/archive/{text}"
        assert "/" not in text
        assert text.isascii()
        assert text[0] not in ".-"
        assert len(text) <= 128


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120), st.sampled_from(["metadata.json", "a", "a.dcm"])
    ),
    st.binary(min_size=1),
)
def test_an_archived_name_is_visible_is_not_metadata_and_fits(name, content):
    name = name.replace("/", "_").replace("\0", "_")
    if name in {".", ".."}:
        return
    sha256 = canonical_json.payload_sha256(b"", content.hex())
    plain = archive_name(name, sha256)
    for kept in (plain, beside_name(plain, sha256)):
        assert kept
        assert not kept.startswith(".")
        assert kept != "metadata.json"
        assert "/" not in kept
        assert len(kept.encode()) <= 255
    assert archive_name(plain, sha256) == plain
    assert beside_name(plain, sha256) != plain


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=200),
        any_text.map(lambda text: text.encode("utf-8", "surrogatepass")),
        json_values.map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_are_an_event_or_are_rejected(raw):
    check(judged(raw))


@settings(max_examples=300)
@given(messages, st.data())
def test_a_mutated_message_is_an_event_or_is_rejected(message, data):
    raw = bytearray(json.dumps(message, ensure_ascii=data.draw(st.booleans())).encode("utf-8"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(at, min(len(raw), at + 8)))
        raw[at:end] = data.draw(
            st.sampled_from([b"", b'"', b"{", b"[" * 70, b"\\ud800", b"\xff", b"1e999", b"NaN", b"null", b",", b":", b"\0", b"9" * 30])
            | st.binary(max_size=4)
        )
    check(judged(bytes(raw)))


@settings(max_examples=300)
@given(messages, st.booleans())
def test_a_valid_message_is_an_event_and_is_kept_as_it_came(message, ascii_only):
    parsed = parse(json.dumps(message, ensure_ascii=ascii_only).encode("utf-8"), PATHS)
    assert parsed.plain
    assert canonical_json.dumps(parsed.message) == canonical_json.dumps(message)


@settings(max_examples=300)
@given(json_values)
def test_canonical_json_comes_back_and_has_one_form(value):
    text = canonical_json.dumps(value)
    assert canonical_json.loads(text) == value
    assert canonical_json.dumps(canonical_json.loads(text)) == text
    assert canonical_json.dumps(shuffled(value)) == text
    text.encode("utf-8")


def shuffled(value):
    """Return the same value with its keys in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(st.recursive(json_values | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_what_was_written_is_read_as_the_standard_library_reads_it(value):
    text = canonical_json.dumps(value)
    read = canonical_json.loads(text)
    assert (read, repr(read)) == (json.loads(text), repr(json.loads(text)))


@given(
    st.fixed_dictionaries(
        {name: st.text() for name in ("entry_id", "kind", "payload_sha256", "recorded_at")}
        | {name: st.integers() for name in ("position", "schema")}
        | {"cause": st.none() | st.integers(), "study_id": st.none() | st.text(), "version": st.none() | st.integers()}
    )
)
def test_a_header_is_canonical_json(fields):
    assert canonical_json.header(fields).decode() == canonical_json.dumps(fields)


@settings(max_examples=300)
@given(st.data(), json_values, st.booleans(), st.booleans())
def test_any_flipped_bit_of_an_entry_is_seen(data, value, of_a_study, encoded):
    entry = made_entry(300, "described", {"value": value}, study_id="S1" if of_a_study else None, cause=7)
    if encoded:
        entry = EncodedEntry(*entry._replace(payload=entry.payload.encode()))
        assert entry.data == {"value": value}
    assert faults(entry) == []
    name = data.draw(st.sampled_from(Entry._fields))
    stored = getattr(entry, name)
    flipped = data.draw(flips(stored))
    assert flipped != stored
    assert faults(entry._replace(**{name: flipped})) != []


def flips(stored):
    """Return the column with one bit flipped, as it would be read back; NULL becomes a value."""
    match stored:
        case None:
            return st.sampled_from([0, 1, "", "x"])
        case int():
            return st.integers(0, 62).map(lambda bit: stored ^ (1 << bit))
        case str():
            raw = stored.encode("utf-8")
            return st.integers(0, len(raw) * 8 - 1).map(lambda bit: flip(raw, bit).decode("utf-8", "surrogateescape"))
        case bytes():
            return st.integers(0, len(stored) * 8 - 1).map(lambda bit: flip(stored, bit))


def flip(raw: bytes, bit: int) -> bytes:
    return raw[: bit // 8] + bytes([raw[bit // 8] ^ (1 << bit % 8)]) + raw[bit // 8 + 1 :]


@given(st.dictionaries(st.text(max_size=8), json_values | st.integers(), max_size=4))
def test_metadata_json_is_laid_out_as_the_standard_library_lays_out_json(said):
    path = "a.dcm"
    entries = [
        made_entry(1, "described", described(path, said)),
        made_entry(2, "archived", archived(path, content="x"), cause=1),
    ]
    study = Study.of("S1", entries)
    data = metadata_json(study, DescribedPayload.of(entries[0]))
    assert data.decode() == json.dumps(json.loads(data), indent=2, ensure_ascii=False) + "\n"
