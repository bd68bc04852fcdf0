"""Runs something in a process of its own, and ends whatever that leaves behind: Ctrl-C ends the lanes of a test run at once."""

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
    """What `work` returns; 128 and its number where a signal ended it. What it has started ends with it, in sessions of their own too.

    Only on Linux, where a process can have the orphans of its descendants: elsewhere this is `work()`. To be called before
    there are threads.
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
        print(f"ended {left} processes that were left behind", file=sys.stderr)  # noqa: T201 - for a person
    return code


def _wait_for(child: int) -> int:
    """Takes the orphans of others, too. A signal that only we got is passed on; Ctrl-C on a terminal goes to all by itself."""
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
    """Each that is ended leaves its own children to us."""
    count = 0
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, children):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        count += len(children)
    return count
