"""Run the fault tests in their long form: named programmes, one after another, with a table at the end.

A programme is a test file in this folder and an environment variable that sets its size; the tests write their counts as they go
(tests/support/figures.py). To add one, add a line to PROGRAMMES.
"""

# ruff: noqa: T201 - prints to the terminal
from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.results import conditions, table, write_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EVERY_S = 10.0
TAIL = 60  # how many lines of the tests' own output are shown for a failure


@dataclass(frozen=True, slots=True)
class Programme:
    """`--<name> N` is passed to the tests in `file` as `variable`; the default is `count`."""

    name: str
    option: str
    file: str
    variable: str
    count: int
    help: str


PROGRAMMES = (
    Programme(
        "syscalls", "points", "test_syscalls.py", "STORAGE_LEDGER_POINTS", 3000, "system calls that fail or are the last; 0: every one"
    ),
    Programme("full", "full", "test_full.py", "STORAGE_LEDGER_FULL", 1, "volumes that are full: every level (1), every second (2), …"),
    Programme("cuts", "cuts", "test_power_cut.py", "STORAGE_LEDGER_CUTS", 300, "power cuts"),
    Programme("hangs", "hangs", "test_hanging.py", "STORAGE_LEDGER_HANGS", 12, "file systems that are frozen for a while"),
    Programme("kills", "kills", "test_kill.py", "STORAGE_LEDGER_KILLS", 500, "kill -9 under traffic"),
    Programme("workers", "rounds", "test_two_workers.py", "STORAGE_LEDGER_ROUNDS", 10_000, "work items that two processes do at once"),
    Programme(
        "worker-faults", "worker-faults", "test_worker_faults.py", "STORAGE_LEDGER_WORKER_FAULTS", 120, "worker processes killed or stopped"
    ),
    Programme("redis", "redis", "test_redis_faults.py", "STORAGE_LEDGER_REDIS", 100, "faults of Redis"),
    Programme("status", "status", "test_status_faults.py", "STORAGE_LEDGER_STATUS", 500, "studies told to a Status Service that fails"),
    Programme(
        "commands",
        "commands",
        "test_killed_commands.py",
        "STORAGE_LEDGER_COMMANDS",
        60,
        "kill -9 of backup, restore, adopt; 0: at every call",
    ),
    Programme(
        "signing",
        "signings",
        "test_killed_signing.py",
        "STORAGE_LEDGER_SIGNINGS",
        0,
        "kill -9 of a process that signs a checkpoint or replaces its key; 0: at every call",
    ),
    Programme(
        "rebuilds",
        "rebuilds",
        "test_killed_rebuild.py",
        "STORAGE_LEDGER_REBUILDS",
        60,
        "kill -9 of a rebuild of the index by several processes",
    ),
    Programme("damages", "damages", "test_damage.py", "STORAGE_LEDGER_DAMAGES", 1000, "single damages that verify must name"),
    Programme("hostile", "messages", "test_hostile.py", "STORAGE_LEDGER_MESSAGES", 10_000, "hostile messages"),
)


@dataclass(slots=True)
class Result:
    """One row of the table. `outcome`: clean, violated, skipped, failed (the tests could not be run)."""

    programme: str
    outcome: str = "clean"
    points: int = 0
    studies: int = 0
    seconds: float = 0.0
    seed: int = 0
    violations: int = 0
    skipped: list[str] = field(default_factory=list)


def main() -> int:
    """Return 0 clean, 1 violations, 2 could not run, 130 interrupted."""
    given = _arguments()
    measured = conditions()
    names = given.only or [programme.name for programme in PROGRAMMES]
    results: list[Result] = []
    code = 0
    try:
        for programme in PROGRAMMES:
            if programme.name in names:
                result = _run(programme, getattr(given, programme.option.replace("-", "_")), given.seed)
                results.append(result)
                code = {"violated": 1, "failed": code or 2}.get(result.outcome, code)
    except KeyboardInterrupt:
        code = 130
    _show(results)
    if given.json is not None:
        found = {"seed": given.seed, "exit_code": code, "programmes": [asdict(result) for result in results]}
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.write and code in {0, 1}:
        _write(measured, results)
    return code


def _write(measured: str, results: list[Result]) -> None:
    rows = [
        (f"`{r.programme}`", r.outcome, f"{r.points:,}", f"{r.studies:,}" if r.studies else "", f"{r.seconds:.0f}", str(r.violations))
        for r in results
    ]
    text = table(("programme", "outcome", "faults", "studies", "seconds", "violations"), rows)
    write_table(ROOT / "docs" / "reliability.md", "faults", f"{measured} Seed {results[0].seed}.\n\n{text}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Runs the fault programmes in their long form. Ends with 0 clean, 1 violations, 2 could not, 130 interrupted.",
    )
    parser.add_argument("--only", action="append", metavar="NAME", choices=[p.name for p in PROGRAMMES], help="this one; may be repeated")
    parser.add_argument("--seed", type=int, default=5, help="of whatever is left to chance (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/reliability.md; takes all programmes")
    for programme in PROGRAMMES:
        text = f"{programme.name}: {programme.help} (default {programme.count})"
        parser.add_argument(f"--{programme.option}", type=int, default=programme.count, metavar="N", help=text)
    given = parser.parse_args()
    if given.write and given.only:
        parser.error("--write replaces the whole table: leave out --only")
    return given


def _run(programme: Programme, count: int, seed: int) -> Result:
    result = Result(programme.name, seed=seed)
    if not (HERE / programme.file).exists():
        result.outcome = "skipped"
        result.skipped = [f"tests/recovery/{programme.file} is not there"]
        _say(f"SKIPPED {programme.name}: {result.skipped[0]}")
        return result
    _say(f"{programme.name}: begins, {programme.variable}={count}, seed {seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        figures, output = Path(folder) / "figures.json", Path(folder) / "output"
        environment = {
            **os.environ,
            programme.variable: str(count),
            "STORAGE_LEDGER_SEED": str(seed),
            "STORAGE_LEDGER_FIGURES": str(figures),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tests", HERE / programme.file]
        with output.open("wb") as out:
            tests = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            exit_code = _wait(tests, lambda: _tell(programme, figures, began))
        except KeyboardInterrupt:
            os.killpg(tests.pid, signal.SIGINT)  # so that they can unmount, and end what they started
            tests.wait(60)
            raise
        finally:
            if tests.poll() is None:
                os.killpg(tests.pid, signal.SIGKILL)
        _judge(result, exit_code, _sum(figures), output.read_text(encoding="utf-8", errors="replace"))
    result.seconds = round(time.monotonic() - began, 1)
    for reason in result.skipped:
        _say(f"SKIPPED {programme.name}: {reason}")
    _say(f"{programme.name}: {result.outcome} after {result.seconds:.0f} s")
    return result


def _wait(tests: subprocess.Popen[bytes], tell: Callable[[], None]) -> int:
    while True:
        try:
            return tests.wait(EVERY_S)
        except subprocess.TimeoutExpired:
            tell()


def _tell(programme: Programme, figures: Path, began: float) -> None:
    counts = _sum(figures)
    of = f" of {counts['of']}" if counts.get("of") else ""
    found = f"{counts.get('points', 0)}{of} points, {counts.get('studies', 0)} studies, {counts.get('violations', 0)} violations"
    _say(f"{programme.name}: {time.monotonic() - began:.0f} s, {found}")


def _sum(figures: Path) -> dict[str, int]:
    """Add up the counts of one programme's tests."""
    total: dict[str, int] = {}
    noted: dict[str, dict[str, Any]] = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    for counts in noted.values():
        for name in ("points", "of", "studies", "violations"):
            total[name] = total.get(name, 0) + int(counts.get(name, 0))
    return total


def _judge(result: Result, exit_code: int, counts: dict[str, int], output: str) -> None:
    result.points, result.studies = counts.get("points", 0), counts.get("studies", 0)
    result.violations = counts.get("violations", 0)
    result.skipped = sorted(set(re.findall(r"^SKIPPED \[\d+\] (.*)$", output, re.MULTILINE)))
    if exit_code == 1:
        result.outcome, result.violations = "violated", max(1, result.violations)
    elif exit_code:
        result.outcome = "failed"
    elif result.violations:
        result.outcome = "violated"  # noted, though no test failed: assume the worse
    elif result.skipped and not re.search(r"\b\d+ passed\b", output):
        result.outcome = "skipped"
    if result.outcome in {"violated", "failed"}:
        print("\n".join(output.splitlines()[-TAIL:]), flush=True)


def _show(results: list[Result]) -> None:
    print(f"\n{'programme':<14}{'outcome':<10}{'points':>9}{'studies':>9}{'seconds':>9}{'seed':>7}{'violations':>12}")
    for r in results:
        print(f"{r.programme:<14}{r.outcome:<10}{r.points:>9}{r.studies:>9}{r.seconds:>9.0f}{r.seed:>7}{r.violations:>12}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
