"""Two processes on one work item, killed at random: no torn, missing or removed good file. See two_workers.py.

STORAGE_LEDGER_ROUNDS: how many work items (60), STORAGE_LEDGER_SEED: which.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.figures import note

ROUNDS = int(os.environ.get("STORAGE_LEDGER_ROUNDS", "40"))
SEED = int(os.environ.get("STORAGE_LEDGER_SEED", "5"))


@pytest.mark.timeout(4 * 3600)
def test_two_processes_on_one_work_item_leave_each_file_whole_under_its_name(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    command = [sys.executable, "-m", "tests.recovery.two_workers", tmp_path / "rounds", "--json", counts]
    command += ["--rounds", str(ROUNDS), "--seed", str(SEED)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert counts.exists(), done.stderr
    found = json.loads(counts.read_text())
    note(
        "two workers",
        points=found["counts"]["rounds"],
        of=ROUNDS,
        studies=ROUNDS,
        seed=SEED,
        violations=found["violations"],
        found=found["found"],
    )
    assert found["violations"] == 0, found
    assert found["counts"]["rounds"] == ROUNDS
    assert found["counts"]["killed"] > 0
