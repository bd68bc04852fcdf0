"""The keys of what each command prints with --json, each with what its name does not say.

tests/integration/test_json_keys.py compares them with what the commands print.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Json:
    """One object with these keys; `listed`: a list of such objects. `like`: a command that prints these keys, too."""

    keys: dict[str, str]
    listed: bool = False
    like: str = ""


JSON_KEYS = {
    "status": Json(
        {
            "position": "",
            "recorded_at": "",
            "ledger_id": "",
            "studies": "",
            "index_position": "",
            "mirror_position": "",
            "serving": "",
            "queue": "",
            "quarantined": "",
            "flagged": "",
            "headers_unreadable": "",
            "unexplained": "these three: files, or null if not known",
            "last_verify": "null, or `by`, `began`, `recorded_at`, `complete`, `selection`, `files`, `intact`, `damaged`, `unchecked`, "
            "`bytes`, `findings`, `unseen`",
            "last_complete_verify": "the same, of the last run over the whole archive",
            "coverage": "`files`, `recent` (read in the last 30 days), `never`, `oldest`",
            "last_backup": "null, or `position`, `created`",
            "last_checkpoint": "null, or `size`, `written_at`",
            "outside": "`name`, `entries`, `waiting_s`: the places outside that get checkpoints",
            "volumes": "",
            "attention": "",
        }
    ),
    "show": Json(
        {
            "study_id": "",
            "state": "",
            "status_sent": "",
            "files": "`fixity` and `verified_at` from the index, `patient` from the header, `flags`, `message` and `differences` where "
            "message and header differ",
            "entries": "",
            "next": "",
            "advice": "",
            "commands": "",
        }
    ),
    "explain": Json(
        {
            "code": "",
            "meanings": "`section`, `steps`, `means`, `meanwhile`, `action`, `commands`, `reference`",
        }
    ),
    "acknowledge": Json({"code": "", "position": "null: nothing recorded", "checkpoints": "sizes of those that were moved away"}),
    "quarantine list": Json(
        {
            "position": "",
            "recorded_at": "",
            "study_id": "",
            "upload_path": "",
            "code": "",
            "detail": "",
            "action": "",
            "commands": "",
        },
        listed=True,
    ),
    "quarantine show": Json(
        {"archived_as": "with `upload-missing`: study_ids that had a file of this path archived"}, listed=True, like="quarantine list"
    ),
    "quarantine retry": Json(
        {
            "study_id": "",
            "upload_path": "",
            "found": "state before, or null",
            "code": "",
            "position": "of the new entry, or null",
            "outcome": "with --wait: state, or null if it still waits",
            "outcome_code": "why it was quarantined again, or null",
        },
        listed=True,
    ),
    "quarantine discard": Json({}, listed=True, like="quarantine retry"),
    "checkpoint": Json({"origin": "", "size": "", "root": "in Base64", "note": ""}),
    "checkpoint rotate-key": Json({"position": "", "vkey": "", "replaces": "", "both_until": "null: the key before signs nothing more"}),
    "backup": Json(
        {
            "backup": "the new folder; the rest is manifest.json",
            "format": "",
            "ledger_id": "",
            "position": "",
            "leaf_hash": "of the last entry",
            "root": "of the [tree](mirror.md) over all entries",
            "sha256": "",
            "bytes": "of ledger.db",
            "revision": "of the schema",
            "program": "",
            "created": "",
        }
    ),
    "prove": Json(
        {
            "output": "",
            "study_ids": "",
            "positions": "",
            "payloads": "whether the proofs say what the entries say",
            "checkpoint": "`origin`, `size`, `root`",
        }
    ),
    "verify": Json(
        {
            "began": "",
            "up_to": "position",
            "parts": "",
            "files": "",
            "intact": "",
            "damaged": "",
            "unchecked_files": "",
            "bytes": "",
            "checkpoints": "how many today's entries continue",
            "checkpoints_up_to": "entries in the largest of these",
            "counts": "by code",
            "findings": "`code`, `part`, `position`, `study_id`, `path`, `detail`; the first 100,000",
            "unchecked": "likewise",
            "recorded": "positions",
            "not_recorded": "why, or null",
            "interrupted": "",
        }
    ),
    "replay": Json(
        {
            "dry_run": "",
            "position": "",
            "parts": "each with `looked_at`, `mended` (repaired), `left`, `bytes`",
            "trouble": "",
            "detail": "what ended the command early, or null",
            "findings": "`code`, `study_id`, `path`, `position`, `detail`; with `--mirror` or `--all` also `mirrored`, entries",
        }
    ),
    "repair mirror": Json({"mirrored": "entries"}, like="replay"),
    **dict.fromkeys(("repair index", "repair files", "repair metadata", "repair statuses"), Json({}, like="replay")),
    "restore": Json(
        {
            "dry_run": "",
            "ledger_id": "",
            "entries": "",
            "appended": "entries taken from the mirror",
            "set_aside": "the replaced ledger, or null",
            "mirror_beyond": "last position of the mirror, or null",
            "damaged": "position of the first damaged entry, or null",
            "mirror_damaged": "where, or null",
            "key_restored": "",
        }
    ),
    "repair headers": Json(
        {
            "dry_run": "",
            "headers": "`looked_at`, `changed` and `left` (still incomplete) files",
            "metadata_written": "studies",
            "trouble": "",
            "detail": "what ended the command early, or null",
            "findings": "`code`, `study_id`, `path`, `position`, `detail`",
        }
    ),
    "reconcile": Json(
        {
            "dry_run": "",
            "looked_at": "",
            "young": "newer than RECONCILE_GRACE_SECONDS",
            "changing": "",
            "held": "pending or quarantined",
            "described": "recovered",
            "leftovers": "",
            "unasked": "",
            "unexplained": "",
            "files": "the first 1,000 unexplained: `path`, `bytes`, `age_s`, `code`, `status`",
            "complete": "",
            "trouble": "",
            "detail": "",
        }
    ),
    "copy-ledger": Json({"entries": "", "root": "of the tree over all entries of both", "moved": "false: `serve` was running"}),
    "adopt": Json(
        {
            "studies": "",
            "files": "",
            "bytes": "",
            "known": "already in the ledger",
            "folders": "",
            "dry_run": "",
            "left_alone_by_code": "",
            "left_alone": "the first 1,000: `path`, `code`",
            "remarks_by_code": "",
            "remarks": "likewise",
        }
    ),
}
