"""`scripts/bench archive` runs all its own opponents and reports every figure; its Status Service answers as the reference does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.valkey import free_port
from tests.support.waiting import until

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_small_run_reports_every_figure(tmp_path):
    small = ["--pairs", "1", "--total", "4", "--files", "2", "--sizes", "8", "--places", "same", "--opponents", "naive,floor",
             "--rates", "20", "--seconds", "0.2", "--idle-seconds", "0.2"]  # fmt: skip
    command = [
        sys.executable,
        str(BENCHMARKS / "bench_archive.py"),
        "--folder",
        str(tmp_path),
        "--json",
        str(tmp_path / "out.json"),
        *small,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rates, latency, targets = json.loads((tmp_path / "out.json").read_text())
    assert [row[0] for table in (rates, latency) for row in table["rows"]] == ["8 KB, same device, 2 a study", "20/s"]
    assert {row[0] for row in targets["rows"]} == {"idle: CPU of all processes", "memory of all processes"}
    for table in (rates, latency, targets):
        assert {len(row) for row in table["rows"]} == {len(table["head"])}
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.fixture
def lean_status():
    port = free_port()
    process = subprocess.Popen([sys.executable, str(BENCHMARKS / "lean_status.py"), str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def up() -> bool:
                try:
                    return client.get("/health").status_code == 200
                except httpx.ConnectError:
                    return False

            until(up)
            yield client
    finally:
        process.kill()
        process.wait()


def test_the_lean_status_service_keeps_and_counts(lean_status):
    assert lean_status.get("/status/a").status_code == 404
    for status in ("failed", "archived"):
        body = {"status": status, "details": {"text": "x" * 100_000}}
        assert lean_status.post("/status/a", json=body).json() == {"message": "Status updated", "study_id": "a"}
    found = lean_status.get("/status/a").json()
    assert (found["study_id"], found["status"], len(found["details"]["text"])) == ("a", "archived", 100_000)
    assert lean_status.post("/status/a", content=b"[]").status_code == 400
    assert (lean_status.get("/count").json(), list(lean_status.get("/arrivals").json())) == (2, ["a"])
    assert (lean_status.delete("/status/a").status_code, lean_status.get("/elsewhere").status_code) == (405, 404)
