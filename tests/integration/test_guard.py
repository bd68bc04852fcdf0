"""Processes left behind by a test run end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.memory import MEMORY, sweep
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a process the orphans of its descendants")

RUN = textwrap.dedent("""
    import os, pathlib, signal, subprocess, sys
    from tests.support.guard import guarded

    def work():
        lane = "import os, subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
        subprocess.run([sys.executable, "-c", lane + "; sys.stdin.read()"], stdin=subprocess.DEVNULL)
        print("the lane has ended", flush=True)
        {then}
        return 7

    sys.exit(guarded(work))
""")


def start(then: str) -> tuple[subprocess.Popen[str], int]:
    """Start a run; return it and the pid of what its lane has left behind."""
    run = subprocess.Popen([sys.executable, "-c", RUN.format(then=then)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    orphan = int(run.stdout.readline())
    assert run.stdout.readline() == "the lane has ended\n"
    return run, orphan


def test_what_an_ended_lane_has_started_ends_with_the_run_and_is_counted():
    run, orphan = start("pass")
    _, err = run.communicate(timeout=30)
    assert (run.returncode, err) == (7, "ended 1 processes that were left behind\n")
    assert not Path(f"/proc/{orphan}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_all_that_it_started(number):
    run, orphan = start("signal.pause()")
    run.send_signal(number)
    run.communicate(timeout=30)
    assert run.returncode == 128 + number
    assert not Path(f"/proc/{orphan}").exists()


def test_folders_in_memory_of_processes_that_have_gone_are_removed_and_no_others():
    if not os.access(MEMORY, os.W_OK):
        pytest.skip("no /dev/shm here")
    gone = subprocess.Popen(["true"])
    gone.wait()
    theirs, ours = (MEMORY / f"storage-ledger-tests-{pid}-of-test-guard" for pid in (gone.pid, os.getpid()))
    for folder in (theirs, ours):
        (folder / "in it").mkdir(parents=True)
    try:
        sweep()
        until(lambda: not theirs.exists())
        assert (ours / "in it").exists()
    finally:
        (ours / "in it").rmdir()
        ours.rmdir()
