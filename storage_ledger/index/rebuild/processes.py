"""Worker processes that fold partitions of the ledger, each taking the next one when it is free."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from storage_ledger.index.rebuild import worker
from storage_ledger.system import logs

MOST_PROCESSES = 4
WORTH_A_PROCESS = 20_000
"""Number of entries below which one process finishes before a second one has started."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The ledger's entries after position `after` up to `up_to`, and the file that they are folded into."""

    file: Path
    after: int
    up_to: int


@dataclass(frozen=True, slots=True)
class RebuildProcesses:
    """The number of worker processes for a rebuild, used for ledgers of `least` entries or more.

    Each folds several partitions, so that merging starts while others are still being folded.
    """

    ledger_file: Path
    processes: int
    least: int = WORTH_A_PROCESS
    partitions_each: int = 4

    @property
    def partitions(self) -> int:
        """Total number of partitions, 256 at most."""
        return self.processes * self.partitions_each

    @classmethod
    def of(cls, ledger_file: Path) -> RebuildProcesses:
        """Use one worker per processor available to this process, up to `MOST_PROCESSES`."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(ledger_file, min(usable, MOST_PROCESSES))

    def are_worthwhile_for(self, entries: int) -> bool:
        """Return whether worker processes would rebuild a ledger of this size faster."""
        return self.processes > 1 and entries >= self.least

    def fold(self, partitions: Sequence[Partition], on_progress: Callable[[int], None]) -> Iterator[Partition]:
        """Yield each partition in order, as soon as its file is complete; stop early if a process is lost.

        `on_progress` gets the total number of entries folded so far. Closing the iterator kills the processes.
        """
        with ExitStack() as stack:
            said, say = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("r", "w"), strict=True))
            stack.enter_context(said)
            try:
                with say, _queue(len(partitions)) as queue:
                    running = [stack.enter_context(self._worker(partitions, queue, say)) for _ in range(self.processes)]
            except OSError as error:
                logs.get().warning("index.worker-lost", errno=error.errno)
                return
            yield from _complete(partitions, said, on_progress)
            codes = [process.wait() for process in running]
        if any(codes):
            logs.get().warning("index.worker-lost", exit_code=next(filter(None, codes)))

    @contextmanager
    def _worker(self, partitions: Sequence[Partition], queue: IO[bytes], say: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process that folds the partitions whose numbers it reads from `queue`; kill it at the end."""
        asked = [text for each in partitions for text in (os.fspath(each.file), str(each.after), str(each.up_to))]
        command = [sys.executable, "-I", "-m", worker.__name__, os.fspath(self.ledger_file), *asked]
        # In its own session: Ctrl-C in the terminal reaches only this process, which then ends the worker.
        with subprocess.Popen(
            command, stdin=queue, stdout=say, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True
        ) as process:  # leaving the block waits for it
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def _queue(count: int) -> Iterator[IO[bytes]]:
    """Yield a pipe that serves as a job queue: one byte per partition number below `count`, then end of file."""
    reads, fill = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    with reads:
        with fill:
            fill.write(bytes(range(count)))
        yield reads


def _complete(partitions: Sequence[Partition], said: IO[str], on_progress: Callable[[int], None]) -> Iterator[Partition]:
    """Read the workers' reports (see `worker`) until the last worker has ended; yield completed partitions in order."""
    reached: dict[int, int] = {}
    complete: set[int] = set()
    given = 0
    for line in said:
        after, word = line.split()
        if word != worker.COMPLETE:
            reached[int(after)] = int(word) - int(after)
            on_progress(sum(reached.values()))
            continue
        complete.add(int(after))
        while given < len(partitions) and partitions[given].after in complete:
            yield partitions[given]
            given += 1
