"""Partitions of the ledger: each is folded into a file of its own beside index.db, by another process or by this one."""

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
    """How the ledger is partitioned.

    `processes` fold the partitions of a large ledger. This process by itself makes `partitions` of it, and keeps the rows of
    `keep_studies` studies in memory meanwhile.
    """

    processes: RebuildProcesses | None
    partitions: int
    keep_studies: int


def folded(
    index_file: Path, ledger: IndexSource, up_to: int, options: RebuildOptions, on_progress: Callable[[int], None]
) -> Generator[Path, None, None]:
    """Fold the ledger up to a position. Gives the file of each partition as soon as it and all before it are complete.

    Other processes fold a large ledger. This process folds a small one, and also what another one could not: then it succeeds
    here, or fails with the right error: the driver's own where a file of a partition cannot be written. Close this to end the
    processes and to remove the files.
    """
    remove(left_over(index_file))
    processes = options.processes if options.processes is not None and options.processes.are_worth_it(up_to) else None
    planned = _planned(index_file, up_to, options.partitions if processes is None else processes.partitions)
    try:
        given = 0
        if processes is not None:
            for each in processes.fold(planned, on_progress):
                yield each.file
                given += 1
        for each in planned[given:]:
            each.file.unlink()  # another process may have begun it
            _create(each.file)
            worker.fold(each.file, ledger, each.after, each.up_to, on_progress, keep_studies=options.keep_studies)
            yield each.file
    finally:
        remove(each.file for each in planned)


def left_over(index_file: Path) -> Iterator[Path]:
    """The files that a killed rebuild has left behind, if none runs now."""
    return index_file.parent.glob(f"{index_file.name}-share-*")


def remove(files: Iterable[Path]) -> None:
    """Remove those of these files that are there."""
    for file in list(files):
        file.unlink(missing_ok=True)


def _planned(index_file: Path, up_to: int, count: int) -> list[Partition]:
    """Partitions of the same size, each with an empty file."""
    bounds = pairwise(up_to * number // count for number in range(count + 1))
    # Named by the process, too: a worker of one that was killed just now must not find the file of its successor.
    planned = [
        Partition(index_file.with_name(f"{index_file.name}-share-{os.getpid()}-{number}"), *each) for number, each in enumerate(bounds)
    ]
    for each in planned:
        _create(each.file)
    return planned


def _create(file: Path) -> None:
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
