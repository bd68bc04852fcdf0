"""What a worker's process is told, whatever moment the service is stopped at."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from storage_ledger.pipeline.wakeups import Wakeups
from storage_ledger.service.worker_processes import WorkerProcesses

ENDS_WHEN_TOLD = """
import json, socket
service = socket.socket(fileno=0).makefile("r")
for line in service:
    if json.loads(line).get("stop"):
        break
"""


class StoppedMeanwhile(threading.Event):
    """Set while the process starts: after it was asked for once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def is_set(self) -> bool:
        self.asked += 1
        return self.asked > 1


@pytest.fixture
def begin():
    event = threading.Event()
    event.set()
    return event


def worker(command):
    lock = os.open(os.devnull, os.O_RDONLY)
    processes = WorkerProcesses([command], lock=lock, known=lambda: {"mirrored": 0, "archive": None}, wakeups=Wakeups())
    return processes._workers[0], lock


@pytest.mark.timeout(30)
def test_a_process_that_starts_while_the_service_stops_is_told_so(begin):
    one, lock = worker([sys.executable, "-c", ENDS_WHEN_TOLD])
    one.run(StoppedMeanwhile(), begin)
    assert one.channel is None
    os.close(lock)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list descriptors")
def test_a_process_that_cannot_be_started_leaves_no_descriptor_open(begin):
    one, lock = worker(["/does/not/exist"])
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        one.run(threading.Event(), begin)
    assert os.listdir("/proc/self/fd") == before
    os.close(lock)
