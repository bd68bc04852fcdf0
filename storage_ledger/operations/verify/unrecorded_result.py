"""Findings that could not be recorded in the ledger: kept in a file beside it until a later verification is recorded."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FILE = "verify-not-recorded.json"
WHEN, COUNTS = "recorded_at", "findings"


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """`counts`: findings by code. `at`: when the verification ended, RFC 3339; "" if the file cannot be read."""

    counts: Counter[str]
    at: str


def keep(ledger_folder: Path, counts: Mapping[str, int], at: str) -> None:
    """Write the file, replacing an earlier one. Not durable: a new verification would find the same. Raises `OSError`."""
    file = ledger_folder / FILE
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "w", encoding="utf-8") as out:
        json.dump({WHEN: at, COUNTS: dict(counts)}, out)
    part.replace(file)


def forget(ledger_folder: Path) -> None:
    """Remove the file, once a complete verification has been recorded."""
    (ledger_folder / FILE).unlink(missing_ok=True)


def kept(ledger_folder: Path) -> Unrecorded | None:
    """Return the file's content; None if there is no file."""
    try:
        text = (ledger_folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        text = b""
    with suppress(ValueError, TypeError, AttributeError, KeyError):
        said = json.loads(text)
        return Unrecorded(Counter({str(code): int(count) for code, count in said[COUNTS].items()}), str(said[WHEN]))
    return Unrecorded(Counter({"unreadable": 1}), "")
