"""`scripts/bench size` and `scripts/bench soak` run by themselves and report every figure."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> list[list[str]]:
    """Run a benchmark; return the cells of the rows that it printed."""
    command = [sys.executable, str(BENCHMARKS / f"bench_{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("| ")]


def test_a_small_ledger_beside_a_smaller_one(tmp_path: Path):
    parts = ("--parts=rebuild,verify,writes,reads", "--small=300", "--entries=600", "--rounds=1")
    rows = run("size", *parts, "--folder", str(tmp_path))
    found = {row[0]: row[1:] for row in rows}
    assert found["what"] == ["300 entries", "600 entries", "ratio", "at most 1.5"]
    assert {"commit of one study, ms", "`show`, ms of CPU", "`status`, ms of CPU", "ledger.db", "together"} <= found.keys()
    assert all(cell for row in rows for cell in row)


def test_a_short_soak_archives_everything_once(tmp_path: Path):
    samples = tmp_path / "samples.csv"
    times = ("--minutes=0.06", "--rate=20", "--every=1", "--restart-minutes=0.03", "--down=0.2", "--settle-minutes=0")
    rows = run("soak", *times, "--folder", str(tmp_path), "--csv", str(samples))
    found = {row[0]: row[1:] for row in rows}
    once, of = found["studies archived exactly once"][0].split(" of ")
    assert once == of
    assert int(of) > 60
    assert [found[name][0] for name in ("backlog at the end", "uploads left", "exit code of `verify --sample 5%`")] == ["0"] * 3
    assert "memory of all processes (PSS)" in found
    with samples.open() as file:
        assert int(list(csv.DictReader(file))[-1]["archived"]) == int(of)


@pytest.fixture
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("svg", "model", "opponents", "results", "kept_connection", "processes", "study_files"):
        sys.modules.pop(name, None)


def benchmark_module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.usefixtures("benchmark_modules")
def test_a_chart_is_an_image_with_every_line_inside(tmp_path: Path):
    svg = benchmark_module("svg")
    lines = {"a & b": [(0.0, 0.0), (2.0, 30.0)], "c": [(1.0, 7.0)]}
    panels = [svg.Panel("rate", lines, [1.5]), svg.Panel("none", {"zero": [(0.0, 0.0)]})]
    image = ET.fromstring(svg.svg(panels, "minutes"))  # noqa: S314 - our own
    width, height = map(float, image.attrib["viewBox"].split()[2:])
    drawn = [tuple(map(float, point.split(","))) for line in image.findall(".//{*}polyline") for point in line.attrib["points"].split()]
    assert len(drawn) == 4
    assert all(0 <= x <= width and 0 <= y <= height for x, y in drawn)
    assert {"a & b", "c", "rate", "40", "minutes"} <= {text.text for text in image.findall(".//{*}text")}


@pytest.mark.usefixtures("benchmark_modules")
def test_the_model_says_what_limits():
    model, run = benchmark_module("model"), benchmark_module("opponents").Run
    parts = model.Parts.of([run(1.0, 0.5, first_cpu_s=0.1, lock_s=0.02)], studies=100)
    assert [round(each, 6) for each in (parts.first_ms, parts.worker_ms, parts.lock_ms)] == [1.0, 4.0, 0.2]
    assert [parts.rate(processors) for processors in (2, 4, 16)] == [
        (400.0, "processors"),
        (800.0, "processors"),
        (1000.0, "first process"),
    ]
