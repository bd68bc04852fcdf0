"""Works on many items in threads, batch by batch, so that one failure does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from storage_ledger.errors import LedgerError, Permanent, Retryable, StorageLedgerError
from storage_ledger.system import logs

T = TypeVar("T")
R = TypeVar("R")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split into lists of up to `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def each_batch(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[Sequence[T]]
) -> Iterator[list[tuple[T, R | StorageLedgerError]]]:
    """Iterate over the outcomes of each batch.

    The exception that stops the work (see `in_parallel`) is raised when the next batch is requested, after the caller has recorded the
    last outcomes.
    """
    for batch in items:
        outcomes, stop = in_parallel(pool, work, batch)
        yield outcomes
        if stop is not None:
            raise stop


def in_parallel(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]
) -> tuple[list[tuple[T, R | StorageLedgerError]], BaseException | None]:
    """Return each item's outcome, in order, and the exception to raise once they are recorded: a shared cause, the ledger, Ctrl-C.

    Items that were not started by then are left out. An error of one item, or a bug, is its outcome: one study must not stop the
    others.
    """
    futures: list[Future[R]] = [pool.submit(work, item) for item in items]
    stop: BaseException | None = None
    try:
        wait(futures)
    except KeyboardInterrupt as interrupt:
        stop = interrupt
        for future in futures:
            future.cancel()
        wait(futures)
    outcomes: list[tuple[T, R | StorageLedgerError]] = []
    for item, future in zip(items, futures, strict=True):
        if future.cancelled():
            continue
        error = future.exception()
        match error:
            case None:
                outcomes.append((item, future.result()))
            case LedgerError() | Retryable(shared=True):
                stop = stop or error
            case StorageLedgerError():
                outcomes.append((item, error))
            case Exception():
                logs.get().error("replay.internal-error", error_type=type(error).__name__, frames_at=logs.where(error))
                outcomes.append((item, Permanent("internal-error", type(error).__name__)))
            case _:
                stop = stop or error
    return outcomes, stop
