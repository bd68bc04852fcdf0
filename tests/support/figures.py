"""The progress of a fault programme, in a file that scripts/faults reads every few seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def note(programme: str, **counts: Any) -> None:
    """Replace the counts of one programme (`points`, `of`, `studies`, `violations`, …) in the file STORAGE_LEDGER_FIGURES.

    The file holds one JSON object per programme. Without that variable nothing is written. Only one process may write at a time.
    """
    name = os.environ.get("STORAGE_LEDGER_FIGURES")
    if not name:
        return
    path = Path(name)
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps({**figures, programme: counts}), encoding="utf-8")
    part.replace(path)
