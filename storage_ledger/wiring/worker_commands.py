"""How many worker processes `serve` starts, and how each begins.

    python -P -m storage_ledger.wiring.worker_commands TERM PROCESSOR NUMBER OF

TERM is empty for a ledger in SQLite. Standard input is the socket to the service.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys

from storage_ledger.archive.no_pixels import without_image_libraries
from storage_ledger.domain.share import Share
from storage_ledger.service.channel import Channel
from storage_ledger.settings import Settings
from storage_ledger.system import cpu_affinity, logs

MOST_UNASKED = 4


def processes(settings: Settings) -> int:
    """Return the number of worker processes: as set, or one for each processor, at most four."""
    return min(cpu_affinity.usable(), MOST_UNASKED) if settings.workers is None else settings.workers


def commands(count: int, term: str | None) -> list[list[str]]:
    """Return the command line of each of `count` workers. Their processors are those after this process's."""
    python = [sys.executable, "-P", "-m", __spec__.name]
    return [[*python, term or "", str(cpu_affinity.number() + 1 + number), str(number), str(count)] for number in range(count)]


def main() -> int:
    """Run a worker and return its exit code. What it cannot survive is logged without texts, which may quote patient data."""
    faulthandler.enable()  # a crash in native code then leaves the Python frames, without values
    term, *rest = sys.argv[1:]
    processor, number, of = map(int, rest)
    cpu_affinity.choose(processor)
    try:
        with without_image_libraries():
            from storage_ledger.wiring.worker import work  # noqa: PLC0415 - pydicom is loaded only here
        service = Channel(socket.socket(fileno=os.dup(0)))
        service.wait_for_message()  # if the service has ended meanwhile, no file is opened
        return work(Settings.load(), Share(number, of), service, term or None)
    except EOFError:
        return 1
    except BaseException as error:  # noqa: BLE001 - the service restarts the process
        logs.get().critical("worker.died", error_type=type(error).__name__, frames_at=logs.where(error))
        return 1


if __name__ == "__main__":
    os._exit(main())  # not waiting for a thread in a call that never returns
