"""Run a function in its own process and end every process that it leaves behind, so that Ctrl-C ends all lanes of a test run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # prctl(2), Linux
WATCHED = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(work: Callable[[], int]) -> int:
    """Return what `work` returns, or 128 plus the signal that ended it; end all processes it started, in any session.

    Only on Linux, where a process can adopt its descendants' orphans; elsewhere this is just `work()`. Call it before any
    thread is started.
    """
    if sys.platform != "linux":
        return work()
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return work()
    code = _wait_for(child)
    if left := _end_all():
        print(f"ended {left} processes that were left behind", file=sys.stderr)  # noqa: T201 - for the terminal
    return code


def _wait_for(child: int) -> int:
    """Wait for the child, reaping orphans too. A signal sent to us alone is passed on; Ctrl-C on a terminal reaches all anyway."""
    while True:
        got = signal.sigwaitinfo(WATCHED)
        if got.si_signo != signal.SIGCHLD:
            if got.si_pid:
                os.kill(child, got.si_signo)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else 128 - code


def _end_all() -> int:
    """End all children, repeatedly: each one that ends leaves us its own."""
    count = 0
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, children):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        count += len(children)
    return count
