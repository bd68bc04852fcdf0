"""Divides the ledger into partitions; each is folded into its own file beside index.db, by another process or this one."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from storage_ledger.index.rebuild import worker
from storage_ledger.index.rebuild.processes import Partition, RebuildProcesses
from storage_ledger.ledger.contract import IndexSource


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """How a rebuild divides its work.

    `processes` fold the partitions of a large ledger. Without them, this process folds `partitions` partitions, keeping the rows of up
    to `keep_studies` studies in memory.
    """

    processes: RebuildProcesses | None
    partitions: int
    keep_studies: int


def folded(
    index_file: Path, ledger: IndexSource, up_to: int, options: RebuildOptions, on_progress: Callable[[int], None]
) -> Generator[Path, None, None]:
    """Fold the ledger up to a position. Yields each partition's file as soon as it and all earlier ones are complete.

    Other processes fold a large ledger. This process folds a small one, and any partition that another process could not fold: it then
    succeeds here or raises the actual error (the driver's own if a partition file cannot be written). Close the generator to end the
    processes and delete the files.
    """
    remove(left_over(index_file))
    processes = options.processes if options.processes is not None and options.processes.are_worthwhile_for(up_to) else None
    planned = _planned(index_file, up_to, options.partitions if processes is None else processes.partitions)
    try:
        given = 0
        if processes is not None:
            for each in processes.fold(planned, on_progress):
                yield each.file
                given += 1
        for each in planned[given:]:
            each.file.unlink()  # another process may have started it
            _create(each.file)
            worker.fold(each.file, ledger, each.after, each.up_to, on_progress, keep_studies=options.keep_studies)
            yield each.file
    finally:
        remove(each.file for each in planned)


def left_over(index_file: Path) -> Iterator[Path]:
    """Return the partition files left by a killed rebuild, or in use by a running one."""
    return index_file.parent.glob(f"{index_file.name}-share-*")


def remove(files: Iterable[Path]) -> None:
    """Remove these files, if they exist."""
    for file in list(files):
        file.unlink(missing_ok=True)


def _planned(index_file: Path, up_to: int, count: int) -> list[Partition]:
    """Return partitions of equal size, each with a new empty file."""
    bounds = pairwise(up_to * number // count for number in range(count + 1))
    # The process id is in the name so that a worker of a rebuild just killed cannot write to a file of the next one.
    planned = [
        Partition(index_file.with_name(f"{index_file.name}-share-{os.getpid()}-{number}"), *each) for number, each in enumerate(bounds)
    ]
    for each in planned:
        _create(each.file)
    return planned


def _create(file: Path) -> None:
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
