"""`scripts/test`: run pytest, all tests in parallel lanes or chosen ones in a single one, and report what was skipped.

A lane is a process (pytest-xdist) that gets whole files, slowest first: see `in_order`. Most tests spend their time waiting for
a disk, a timer or another process, so there are twice as many lanes as processors.
"""

# ruff: noqa: T201 - prints to the terminal
from __future__ import annotations

import faulthandler
import os
import sys

import pytest

from tests.support.guard import guarded
from tests.support.memory import sweep

LANES_OF_A_PROCESSOR = 2
MOST = 8
LONGEST_FIRST = (
    "tests/recovery/test_syscalls.py",
    "tests/integration/test_lost_messages.py",
    "tests/integration/test_the_way_of_one_event.py",
    "tests/recovery/",
    "tests/browser/",
    "tests/integration/",
    "tests/contract/pipeline/test_reconcile.py",
    "tests/property/",
    "tests/contract/",
    "tests/unit/",
)
"""The order of files and folders in the lanes; files that are not listed come first."""


class Lanes:
    """A pytest plugin: sets the number of lanes for `-n auto` and counts skipped tests."""

    def __init__(self) -> None:
        self.skipped: int | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_auto_num_workers(self, config: pytest.Config) -> int:
        """Return the number of lanes; 0 (this process) to run single tests."""
        option = config.option
        chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword or option.markexpr
        looks = option.capture == "no" or option.collectonly or option.usepdb or option.trace or getattr(option, "lf", False)
        return 0 if chosen or looks else min(MOST, LANES_OF_A_PROCESSOR * (os.cpu_count() or 1))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Count the skipped tests, from the reports, since with lanes only reports reach this process."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not session.config.option.collectonly and any(reporter.stats.values()):
            self.skipped = len(reporter.stats.get("skipped", []))


def in_order(items: list[pytest.Item]) -> None:
    """Sort the tests by file, slowest first, so that the last ones handed out are short."""

    def place(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(name)), -1)

    items.sort(key=place)


def main() -> int:
    """Return pytest's exit code: 0 all passed, 1 some failed, 2 interrupted, …"""
    sys.argv[0] = "scripts/test"
    print("Python", sys.version.split()[0], flush=True)
    lanes = Lanes()
    code = pytest.main(["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", *sys.argv[1:]], plugins=[lanes])
    if lanes.skipped:
        print(f"SKIPPED: {lanes.skipped} tests, reasons above")
    elif lanes.skipped == 0:
        print("nothing skipped")
    faulthandler.dump_traceback_later(30, exit=True)  # a leftover thread would keep the process alive for ever: show where it is
    return code


if __name__ == "__main__":
    sweep()
    sys.exit(guarded(main))
