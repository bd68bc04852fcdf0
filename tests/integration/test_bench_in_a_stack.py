"""`scripts/bench browse --compose` inside a stack leaves the user's own data alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage_ledger.domain.entries import Kind, NewEntry
from tests.support.making import Ledgers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Make the volumes of a stack with an empty ledger."""
    Ledgers(tmp_path).file(tmp_path / "ledger")
    (tmp_path / "archive" / ".ledger").mkdir(parents=True)
    return tmp_path


def run(volumes: Path, program: str, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{program}.py"), *arguments]
    places = {f"{name.upper()}_PATH": str(volumes / name) for name in ("ledger", "archive", "uploads")}
    return subprocess.run(command, env={**os.environ, **places}, input=said, capture_output=True, text=True, timeout=60, check=False)


def test_an_empty_stack_is_filled_once_and_known_again(volumes):
    assert run(volumes, "fed_service", "whose").returncode == 0
    first = run(volumes, "fed_service", "fill", "2")
    assert (first.returncode, first.stdout.count("files in the ledger")) == (0, 1), first.stderr
    again = run(volumes, "fed_service", "fill", "2")
    assert (again.returncode, again.stdout.count("files in the ledger")) == (0, 0), again.stderr
    written = run(volumes, "commits_alone", said="0.2\n")
    assert written.returncode == 0, written.stderr
    assert json.loads(written.stdout)["rate"] > 0


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("ledger", ["fed_service", "whose"]),
        ("ledger", ["fed_service", "fill", "2"]),
        ("ledger", ["fed_service", "feed"]),
        ("ledger", ["commits_alone"]),
        ("archive that lost its ledger", ["fed_service", "whose"]),
    ],
)
def test_a_stack_with_somebodys_studies_is_left_alone(volumes, command, where):
    if where == "ledger":
        ledger = Ledgers(volumes / "others").open(volumes / "ledger")
        with ledger.write() as tx:
            tx.append(NewEntry(Kind.REJECTED, {}, "somebodys"))
        ledger.close()
    else:
        (volumes / "archive" / "somebodys").mkdir()
    before = sorted(volumes.rglob("*"))

    done = run(volumes, *command)

    assert done.returncode == 1
    assert "measure a stack of its own" in done.stderr
    assert [path for path in sorted(volumes.rglob("*")) if not path.name.endswith(("-shm", "-wal"))] == [
        path for path in before if not path.name.endswith(("-shm", "-wal"))
    ]
