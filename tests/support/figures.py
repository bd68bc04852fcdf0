"""What a fault programme has done so far, for who runs it: scripts/faults reads this file every few seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def note(programme: str, **counts: Any) -> None:
    """Write the counts of one programme (`points`, `of`, `studies`, `violations`, …) in place of those before.

    Into the file STORAGE_LEDGER_FIGURES, which holds one JSON object by programme; nothing happens where that is unset.
    Only one process writes it at a time.
    """
    name = os.environ.get("STORAGE_LEDGER_FIGURES")
    if not name:
        return
    path = Path(name)
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps({**figures, programme: counts}), encoding="utf-8")
    part.replace(path)
