"""Builds metadata.json from a study's entries."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from json.encoder import encode_basestring as _quoted
from operator import attrgetter

import msgspec

from storage_ledger.domain import canonical_json
from storage_ledger.domain.entries import ADOPT
from storage_ledger.domain.payloads import DescribedPayload
from storage_ledger.domain.study import GROUPS, ArchivedFile, Study, metadata_of, validation_details_of


def metadata_json(study: Study, described: DescribedPayload) -> bytes:
    """Return the file's bytes, which depend only on the study's entries, so that replay writes the same.

    `described` is the payload of the entry at `study.speaker`. The study must have at least one archived file.

    If that entry was adopted, the file stays as the old service left it, byte for byte, unless a rewrite was requested. Otherwise it starts
    with what readers of the old service's file expect: `study_id`, `processing_time` (the `recorded_at` of that `described` entry),
    `validation_details` and all five groups. Then come the message's other keys, then `files`.
    """
    by = study.speaker
    if by is None:
        raise ValueError("a study without an archived file has no metadata.json")
    if described.source == ADOPT and not described.rewritten:
        if described.raw is None:
            raise ValueError("this study was adopted without a metadata.json, and none was to be written")
        return base64.b64decode(described.raw)
    metadata = metadata_of(described.message)
    document = {
        "study_id": study.study_id,
        "processing_time": by.recorded_at if described.processing_time is None else described.processing_time,
        "validation_details": validation_details_of(described.message),
        **{group: metadata.get(group) or {} for group in GROUPS},
    }
    own = {*document, "files"}
    document.update({key: metadata[key] for key in sorted(metadata) if key not in own})
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    # The same bytes as `json.dumps(…, indent=2)`, which runs in pure Python and takes five times as long.
    head = msgspec.json.format(text.encode("utf-8"), indent=2)
    files = ",\n".join(map(_file_json, sorted(study.files.values(), key=_place_in_list)))
    return b'%s,\n  "files": [\n%s\n  ]\n}\n' % (head.removesuffix(b"\n}"), files.encode("utf-8"))


_place_in_list = attrgetter("position", "name")


def _file_json(file: ArchivedFile) -> str:
    # Formatted by hand for speed: each batch of new files writes all files of the study.
    sop = _quoted(uid) if isinstance(uid := file.sop_instance_uid, str) else _indented(uid)
    return (
        f'    {{\n      "name": {_quoted(file.name)},\n      "bytes": {file.bytes},\n      "sha256": {_quoted(file.sha256)},\n'
        f'      "sop_instance_uid": {sop},\n      "position": {file.position}\n    }}'
    )


def _indented(value: object) -> str:
    """Format a UID that is not a string: a header may have two, or none."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2).replace("\n", "\n      ")


def speaks_of(metadata: bytes, recorded: Collection[str]) -> bool:
    """Return whether `metadata_json` wrote these bytes for an event recorded at one of these times."""
    try:
        found = canonical_json.loads(metadata)
    except ValueError:
        return False
    time = found.get("processing_time") if isinstance(found, dict) else None
    return isinstance(time, str) and time in recorded
