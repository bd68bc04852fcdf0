"""entry-kinds.md, from storage_ledger/domain/payloads."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from storage_ledger.domain import canonical_json, payloads
from storage_ledger.domain.entries import Kind

HEAD = """\
# Entry kinds

<!-- scripts/reference writes this page from storage_ledger/domain/payloads: edit it there. -->

The kinds of rows in [`entries`](tables.md#entries).
`payload` is canonical JSON ([hashes](hashes.md)); all kinds are at `schema` 1.
New fields may be added; a changed or removed field gets a new `schema` number.

Unless a section says otherwise, `study_id` is the study's.
*Optional* fields are left out where they do not apply; all others are always present.
A field listed without a type is a string.
Times are RFC 3339 in UTC with microseconds, sizes are in bytes, SHA-256 is in hex.
"""

STUDY = "123e4567-e89b-12d3-a456-426614174000"
FILE = f"{STUDY}.dcm"
ORIGIN = "storage-ledger/9d4ddd97-1a03-4bc2-a9fd-03ca72b70ef4"
SHA256 = "0806b171514c484dc775086f5d468be7f8e5535bfe1791f9e9dac8dbec894162"
CT = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "TransferSyntaxUID": "1.2.840.10008.1.2.1", "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5", "StudyDate": "20260101", "PatientName": "DOE^JANE", "PatientID": "P1",
    "Modality": "CT", "InstanceNumber": 2, "Rows": 32, "Columns": 32,
}  # fmt: skip
MESSAGE = {
    "study_id": STUDY,
    "file_path": f"/app/uploads/{FILE}",
    "metadata": {
        "patient_info": {"patient_name": "DOE^JANE", "patient_id": "P1", "patient_birth_date": "19700101", "patient_sex": "F"},
        "study_info": {
            "study_id": "S1", "study_instance_uid": "1.2.3", "study_date": "20260101", "study_time": "120000",
            "study_description": "THORAX", "accession_number": "A1",
        },
        "modality_info": {"modality": "CT", "manufacturer": "ACME"},
        "exposure_info": {},
        "location_info": {"institution_name": "General Hospital"},
    },
    "validation_details": {"is_valid": True},
}  # fmt: skip

EXAMPLES: tuple[payloads.AnyPayload, ...] = (
    payloads.DescribedPayload(MESSAGE, "pubsub", "7f627d9d7ab406c4970b92f9d54cbe308e8105fe08e1c83483e8c44334c54b03", FILE),
    payloads.RejectedPayload(
        "unsafe-path", "file_path has a '..' component", "pubsub", 40, "1af2b8ae9b1d43add86835b07d70caa1be3be02814618e96aca8941610ac9133",
        raw="eyJzdHVkeV9pZCI6ICJlc2MiLCAiZmlsZV9wYXRoIjogIi4uL3gifQ==", study_id="esc",
    ),
    payloads.ArchivedPayload(
        payloads.ArchivedFileFields(FILE, FILE, 2958, SHA256), "copied",
        "f4e96fd494f5229a990c4db99ea5848471c7a6fcc9a173297081c1dd3e5dae95", CT, FILE, software="0.1.0", host="storage-1",
    ),
    payloads.FailedPayload("tell", "status-service-away", "ConnectError", None, attempt=5, retry_at="2026-11-23T21:54:09.072947Z"),
    payloads.RecoveredPayload("tell", "status-service-away"),
    payloads.QuarantinedPayload("upload-missing", "no such file", "gone.dcm", by="projector"),
    payloads.ReleasedPayload("gone.dcm", "upload-missing", by="Jane Doe", reason="the gateway has sent it again", described=1),
    payloads.DiscardedPayload("link.dcm", "upload-is-link", by="Jane Doe", reason="a test of the sender, no study"),
    payloads.StatusSentPayload("archived", 200, attempts=1, tells=[2]),
    payloads.RestoredPayload(
        payloads.RestoredFileFields(FILE, 2958, SHA256), "changed", f"/srv/backup/archive/{STUDY}/{FILE}",
        software="0.1.0", host="storage-1", set_aside=f".ledger/damaged/{STUDY}/1-{FILE}",
    ),
    payloads.VerifiedPayload(
        "verify", "2026-11-24T02:00:00.000000Z",
        payloads.VerifiedScope(["ledger", "mirror", "pending", "files", "strangers", "index"], "all", up_to=6, ranges=[[2, 5]]),
        payloads.VerifiedCounts(files=2, intact=1, damaged=1, unchecked=0, bytes=2958, findings=1),
        findings=[payloads.VerifiedFinding("file-changed", 2, STUDY, f"{STUDY}/{FILE}")], unchecked=[], complete=True, software="0.1.0",
    ),
    payloads.AcknowledgedPayload(
        "clock-ahead", by="A. Lovelace", reason="BIOS battery empty; clock set, battery replaced",
        ledger_time="2100-01-01T00:00:07.000000Z", clock="2026-03-02T08:15:00.000000Z",
    ),
    payloads.HeaderReadPayload(
        payloads.HeaderReadFileFields(FILE, SHA256),
        CT | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1", "Modality": "MR", "NumberOfFrames": 340, "Rows": 256, "Columns": 256},
        software="0.1.0",
    ),
    payloads.KeyPayload(f"{ORIGIN}+c5f80879+AdwoscKDipn7HnS1lhVODYzf+ymMYtOdrNpB6WOBB0xP"),
)  # fmt: skip

TYPES = {str: "", int: "integer", bool: "boolean", dict: "object", list: "list"}
PLURALS = {str: "strings", int: "integers", list: "pairs"}


def page() -> str:
    """Return the page: a section for each kind, with its fields and an example."""
    examples = {example.KIND: example for example in EXAMPLES}
    known: dict[str, str] = {}
    return "\n".join([HEAD, *(line for kind in Kind for line in _section(examples[kind], known))])


def _section(example: payloads.AnyPayload, known: dict[str, str]) -> Iterator[str]:
    """`known`: by the line of a field, the first kind that has it. A kind that shares several fields with it only names them."""
    payload = type(example)
    yield f"## {payload.KIND.value}"
    yield "\n\n".join(map(_sentences, inspect.getdoc(payload).split("\n\n")))
    yield ""
    lines = {f"- `{name}`{type_ and f' ({type_})'}: {meaning}": f"`{name}`" for name, type_, meaning in fields_of(payload)}
    first = {line: known.setdefault(line, payload.KIND.value) for line in lines}
    shared = {kind for kind, count in Counter(first.values()).items() if count > 1 and kind != payload.KIND.value}
    yield from (line for line in lines if first[line] not in shared)
    for kind in sorted(shared):
        yield f"- {', '.join(name for line, name in lines.items() if first[line] == kind)}: As in `{kind}`."
    yield ""
    yield f"```json\n{canonical_json.dumps(example.stored())}\n```"
    yield ""


def _sentences(paragraph: str) -> str:
    """One sentence a line."""
    return re.sub(r"(?<=\.) (?=[A-Z`])", "\n", " ".join(paragraph.split()))


def fields_of(record: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the dotted name, the type and the meaning of each field; in place of an object, its fields."""
    hints, meanings = get_type_hints(record), _meanings(record)
    seen = set()
    for each in fields(record):
        hint = hints[each.name]
        nested, mark = (get_args(hint)[0], "[]") if get_origin(hint) is list else (hint, "")
        if not is_dataclass(hint):
            yield prefix + each.name, _type(hint, optional=each.default is not MISSING), meanings[each.name]
        if is_dataclass(nested) and nested not in seen:
            seen.add(nested)
            yield from fields_of(nested, f"{prefix}{each.name}{mark}.")


def _type(hint: Any, *, optional: bool) -> str:
    if optional:
        of = get_args(hint)[0] if isinstance(hint, UnionType) else hint
        return ", ".join(filter(None, (_type(of, optional=False), "optional")))
    if isinstance(hint, UnionType):
        of, _ = get_args(hint)
        return f"{_type(of, optional=False) or 'string'} or null"
    if get_origin(hint) is list:
        return f"list of {PLURALS.get(get_origin(get_args(hint)[0]) or get_args(hint)[0], 'objects')}"
    return TYPES[get_origin(hint) or hint]


def _meanings(record: type) -> dict[str, str]:
    """Return the text below each field of a class. Raises `KeyError` in `fields_of` for a field that has none."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
