"""The worker processes of the service: started, woken, asked how they are, restarted when one ends, and stopped."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from typing_extensions import override

from storage_ledger.domain.reason import Reason
from storage_ledger.errors import LedgerUnusable
from storage_ledger.pipeline.wakeups import Sleeper, Wakeups
from storage_ledger.service.channel import Channel
from storage_ledger.service.steps import Steps, StepsReport, wait_to_begin
from storage_ledger.service.supervisor import Supervisor
from storage_ledger.service.threads import service_thread
from storage_ledger.service.worker import STEPS
from storage_ledger.system import cpu_affinity, logs
from storage_ledger.system.metrics import Snapshot, counted

ASKED_EVERY_S = 5.0
STOP_REPEATED_EVERY_S = 0.5
HANGS_AFTER_S = 15.0


class WorkerEnded(Exception):
    """A worker process ended although the service had not stopped it."""


class WorkerProcesses(Steps):
    """The steps in processes, each for its share of the studies.

    `commands`: the command line of each. They inherit `lock`, the descriptor of `serve.lock`: no other `serve` can start while one of
    them lives, even in a call that never returns. `known` returns what each must know at any time (see `Worker`); it is in every
    message, so that it arrives even if one is dropped.
    """

    def __init__(self, commands: Sequence[Sequence[str]], *, lock: int, known: Callable[[], dict[str, Any]], wakeups: Wakeups) -> None:
        self._known = known
        self._wakeups = wakeups
        self._heard = threading.Condition()
        self._workers = [_Worker(number, command, lock, self) for number, command in enumerate(commands)]
        wakeups.pass_on(STEPS, self._wake)

    def _wake(self, sleepers: frozenset[Sleeper]) -> None:
        self._tell({"wake": [sleeper.name for sleeper in sleepers]})

    @override
    def threads(self, supervisor: Supervisor, stop: threading.Event, begin: threading.Event) -> list[threading.Thread]:
        # One thread for each process, which starts it again whenever it ends, later each time.
        jobs = {f"worker-{worker.number}": partial(worker.run, stop, begin) for worker in self._workers}
        jobs["workers"] = partial(self._look_after, stop)
        return [service_thread(supervisor, name, job, stop) for name, job in jobs.items()]

    @override
    def report(self, until: float) -> StepsReport:
        # For a worker that does not answer in time, its last answer counts.
        before = {worker.number: worker.reports for worker in self._workers if worker.channel is not None}
        self._tell({"report": True})
        with self._heard:
            self._heard.wait_for(
                lambda: all(self._workers[number].reports > reports for number, reports in before.items()),
                max(0.0, until - time.monotonic()),
            )
        said = [worker.said for worker in self._workers if worker.said]
        hanging: dict[str, int] = {}
        for each in said:
            for step, calls in each["hanging"].items():
                hanging[step] = hanging.get(step, 0) + calls
        return StepsReport(
            hanging,
            [(step, code) for each in said for step, code in each["outages"]],
            [reason for worker in self._workers if (reason := worker.reason())],
            [snapshot for worker in self._workers for snapshot in (worker.past, (worker.said or {}).get("metrics", {}))],
        )

    def message(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return a message to a worker."""
        return self._known() | said

    def heard(self, worker: _Worker, message: dict[str, Any]) -> None:
        """Take a message from a worker."""
        if names := message.get("wake"):
            self._wakeups.wake({Sleeper[name] for name in names})
            return
        with self._heard:
            worker.said = message
            worker.reports += 1
            self._heard.notify_all()

    def _tell(self, said: dict[str, Any]) -> None:
        message = self.message(said)
        for worker in self._workers:
            worker.tell(message)

    def _look_after(self, stop: threading.Event) -> None:
        """Ask for reports: so figures of a process that dies are kept, and one that hangs is noticed. Then stop the processes."""
        while not stop.wait(ASKED_EVERY_S):
            self._tell({"report": True})
        while any(worker.channel is not None for worker in self._workers):
            self._tell({"stop": True})
            time.sleep(STOP_REPEATED_EVERY_S)


class _Worker:
    """One process, and its successors. `channel`: None while there is none. `said`: its last report; None until it works.

    `reports`: their number. `past`: the metrics of its predecessors.
    """

    def __init__(self, number: int, command: Sequence[str], lock: int, processes: WorkerProcesses) -> None:
        self.number = number
        self._command = command
        self._lock = lock
        self._processes = processes
        self.channel: Channel | None = None
        self.said: dict[str, Any] | None = None
        self.reports = 0
        self.past: Snapshot = {}
        self._pid = 0
        self._heard_at = time.monotonic()

    def run(self, stop: threading.Event, begin: threading.Event) -> None:
        """Start the process after `begin` is set, and listen to it until it ends.

        Raises `WorkerEnded`, and `LedgerUnusable` if that is why it ended.
        """
        wait_to_begin(begin, stop)
        if stop.is_set():
            return
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        try:
            with theirs, cpu_affinity.any_of_them():  # inherited
                # In its own session: Ctrl-C in the terminal reaches only this process, which then stops the worker.
                process = subprocess.Popen(self._command, stdin=theirs.fileno(), pass_fds=(self._lock,), start_new_session=True)
        except BaseException:
            channel.close()
            raise
        self._pid, self._heard_at = process.pid, time.monotonic()
        self.channel = channel
        try:
            # `_look_after` may have ended before there was a channel: then nobody else says stop.
            channel.send(self._processes.message({"report": True, "stop": stop.is_set()}))
            for message in channel.received():
                self._heard_at = time.monotonic()
                self._processes.heard(self, message)
        finally:
            self.channel = None
            channel.close()  # so it ends, if it has not
            code = process.wait()
            said, self.said = self.said, None
            if said:
                self.past = counted(self.past, said["metrics"])
        logs.get().info("worker.ended", pid=process.pid, exit_code=code)
        if said and said["unusable"]:
            raise LedgerUnusable(*said["unusable"])
        if not stop.is_set():
            raise WorkerEnded

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message, if there is a process."""
        if channel := self.channel:
            channel.send(message)

    def reason(self) -> Reason | None:
        """Return why the service is not ready because of this worker."""
        if self.channel is None or self.said is None:
            return Reason("worker-missing", f"worker {self.number} is not running yet; its studies wait")
        if failing := self.said["failing"]:
            text = f"thread {failing[0]} of worker {self.number} failed and is restarted: see `thread.failed` in the log"
            return Reason("internal-error", text)
        silent_s = time.monotonic() - self._heard_at
        if silent_s > HANGS_AFTER_S:
            return Reason("hangs", f"worker {self.number} (process {self._pid}) has not answered for {silent_s:.0f} s; its studies wait")
        return None
