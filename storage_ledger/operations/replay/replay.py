"""Makes again from the ledger what was lost: metadata.json of each study, and what the Status Service knew.

The projector's and the notifier's own code does it, with other collaborators: `looking.py` has those that change nothing.
Archived files are `putting_back`'s, the index is `Index.remake`'s, the mirror `Mirror.rewrite`'s.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Protocol, TypeVar

from storage_ledger.archive.contract import Archive, Fixity
from storage_ledger.domain.backoff import backoff_s
from storage_ledger.domain.entries import Entry, Kind
from storage_ledger.domain.paths import METADATA, archive_path
from storage_ledger.domain.study import Study
from storage_ledger.domain.work_queue import Stage
from storage_ledger.errors import LedgerError, Permanent, Retryable, StorageLedgerError
from storage_ledger.ledger.contract import Ledger, WorkItem
from storage_ledger.operations.findings import Finding, Findings
from storage_ledger.pipeline.notify import CONFIRM_AFTER, Notifier, NotTold, Stays, Told
from storage_ledger.pipeline.place import metadata_bytes
from storage_ledger.system import logs

WORKERS = 6
BATCH = 64
STUDIES_A_PAGE = 1000
REJECTED_A_PAGE = 256
AWAY_S = 15.0  # a restart of the Status Service is waited for, an outage is told
OUTCOMES = frozenset({Kind.ARCHIVED, Kind.QUARANTINED, Kind.DISCARDED})

T = TypeVar("T")
R = TypeVar("R")


class Part(StrEnum):
    """What can be made again, in the order in which it is."""

    MIRROR = "mirror"
    FILES = "files"
    METADATA = "metadata"
    INDEX = "index"
    STATUSES = "statuses"


@dataclass(slots=True)
class Tally:
    """Of one part. `mended`: now as the ledger says, and was not before; `left`: could not be, see the findings.

    Both and `looked_at` count files, metadata.json of studies, entries of index and mirror, statuses; `bytes`: of what was mended.
    """

    looked_at: int = 0
    mended: int = 0
    left: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted. `mirror_anew`: also where there is one; `study`: only this one; `rate`: statuses a second."""

    parts: frozenset[Part]
    sources: tuple[Path, ...] = ()
    study: str | None = None
    dry_run: bool = False
    rate: float = 100.0
    mirror_anew: bool = False


@dataclass(slots=True)
class Report:
    """What came of it. `position`: of the ledger when it began; `trouble`: what made it end before it was done, in part `ended_in`."""

    findings: Findings
    position: int = 0
    tallies: dict[Part, Tally] = field(default_factory=dict)
    trouble: StorageLedgerError | None = None
    ended_in: Part | None = None


class Show(Protocol):
    """Told how many are done by now, and how many bytes that were."""

    def __call__(self, done: int, size: int | None = None) -> None:
        """See above."""
        ...


Begin = Callable[[str, int | None, str], AbstractContextManager[Show]]
"""Title, how many there will be (None: nobody knows), of what: shows that it goes on while the `with` runs."""


def studies(ledger: Ledger, only: str | None = None) -> Iterator[str]:
    """Every study that was ever described, or only this one, in the order of their first entry; a page in memory."""
    if only is not None:
        yield only
        return
    after = 0
    while page := ledger.first_of_studies(after, STUDIES_A_PAGE):
        yield from (study_id for _, study_id in page)
        after = page[-1][0]


def metadata(ledger: Ledger, archive: Archive, chosen: Iterable[str], *, findings: Findings, tally: Tally, show: Show) -> None:
    """Write metadata.json of each study that has an archived file, where it is not byte for byte what the entries amount to.

    Durable on return. What fails by itself is a finding; raises `Retryable` for a shared cause, `LedgerError`.
    """

    def write(study_id: str) -> int | None:
        """How many bytes were written, 0 where all is well; None for a study that has no metadata.json."""
        study = Study.of(study_id, ledger.study(study_id))
        if study.speaker is None:
            return None
        data = metadata_bytes(study, ledger)
        if archive.check(study_id, METADATA, hashlib.sha256(data).hexdigest(), len(data)) is Fixity.INTACT:
            return 0
        archive.write_metadata(study_id, data)
        return len(data)

    done = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="metadata") as pool:
        for batch in batches(chosen, BATCH):
            outcomes, stop = in_parallel(pool, write, batch)
            written: list[str] = []
            for study_id, size in outcomes:
                if isinstance(size, StorageLedgerError):
                    tally.left += 1
                    findings.add(Finding(size.code, study_id, archive_path(study_id, METADATA), detail=size.detail))
                elif size is not None:
                    tally.looked_at += 1
                    tally.bytes += size
                    written += [study_id] if size else []
            if written:
                lost = archive.settle(written)
                tally.mended += len(written) - len(lost)
                tally.left += len(lost)
                for study_id in sorted(lost):
                    text = "the study's new folder could not be made durable, and was taken away again"
                    findings.add(Finding("archive-io", study_id, archive_path(study_id, METADATA), detail=text))
            done += len(outcomes)
            show(done)
            if stop is not None:
                raise stop


def statuses(
    ledger: Ledger,
    notifier: Notifier,
    chosen: Iterable[str],
    *,
    rejected: bool,
    record: Callable[[Sequence[Told]], None],
    pace: Callable[[], None],
    patience: Patience,
    findings: Findings,
    tally: Tally,
    show: Show,
) -> None:
    """Ask the Status Service for each study's status, and tell it again where it says `described` or nothing.

    With `rejected` also what it was told of rejected messages. `pace` is called before each question. A study of which
    something is still to be placed or told is the service's. Raises `Retryable` when the Status Service stays away for
    longer than `patience` lasts.
    """

    def tell(word: tuple[str, WorkItem]) -> Told | None:
        while True:
            patience.require()
            pace()
            outcome = notifier.tell([word[1]])
            if isinstance(outcome, NotTold) and outcome.error.shared:
                patience.wait(outcome.error)
                continue
            patience.renew()
            if isinstance(outcome, (NotTold, Stays)) and outcome.error is not None:
                raise outcome.error
            return outcome if isinstance(outcome, Told) else None

    words = chain(_last_words(ledger, chosen), _of_rejected(ledger) if rejected else ())
    done = 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="statuses") as pool:
        for batch in batches(words, BATCH):
            newest = {word[0]: word for word in reversed(batch)}  # several messages of one study_id may have been rejected
            outcomes, stop = in_parallel(pool, tell, list(newest.values()))
            told = [outcome for _, outcome in outcomes if isinstance(outcome, Told)]
            if told:
                record(told)
            tally.mended += len(told)
            for (study_id, _), outcome in outcomes:
                if isinstance(outcome, StorageLedgerError):
                    tally.left += 1
                    findings.add(Finding(outcome.code, study_id, detail=outcome.detail))
                else:
                    tally.looked_at += 1
            done += len(outcomes)
            show(done)
            if stop is not None:
                raise stop


def record_told(ledger: Ledger, notifier: Notifier) -> Callable[[Sequence[Told]], None]:
    """Appends `status-sent` for each, as the notifier does; one commit for all."""

    def record(told: Sequence[Told]) -> None:
        with ledger.write() as tx:
            for each in told:
                notifier.append_told(tx, each)

    return record


def _last_words(ledger: Ledger, chosen: Iterable[str]) -> Iterator[tuple[str, WorkItem]]:
    """Of each study of which something has come: what was last told of it, or, where nothing was (adopted), what last came."""
    for study_id in chosen:
        told = outcome = None
        for entry in ledger.study(study_id):
            if entry.kind == Kind.STATUS_SENT:
                told = entry
            elif entry.kind in OUTCOMES:
                outcome = entry
        word = told or outcome
        if word is not None:
            yield study_id, _to_read_back(word)


def _of_rejected(ledger: Ledger) -> Iterator[tuple[str, WorkItem]]:
    """What was told of rejected messages, newest first: an older word of the same study then finds that one standing."""
    before = None
    while page := list(ledger.of_no_study((Kind.STATUS_SENT.value,), REJECTED_A_PAGE, before=before)):
        yield from ((entry.data["study_id"], _to_read_back(entry)) for entry in page)
        before = page[-1].position


def _to_read_back(word: Entry) -> WorkItem:
    """Told again, it is read back once more, after the longest wait."""
    return WorkItem(word, Stage.CONFIRM, word.recorded_at, attempts=len(CONFIRM_AFTER) - 2)


class Patience:
    """With a neighbour that is away: for `lasts_s` from the first call that got no answer, of all threads together.

    `say` is told when somebody waits for the first time.
    """

    def __init__(
        self,
        lasts_s: float = AWAY_S,
        *,
        say: Callable[[Retryable], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._lasts_s = lasts_s
        self._say = say
        self._clock = clock
        self._pause = pause
        self._chance = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._lock = threading.Lock()
        self._since: float | None = None
        self._attempts = 0
        self._said = False
        self._over: Retryable | None = None

    def require(self) -> None:
        """Raise what ended it, where something has."""
        if self._over is not None:
            raise self._over

    def wait(self, error: Retryable) -> None:
        """A call got no answer: wait a while before the next one. Raises `error` when that has been so for too long."""
        with self._lock:
            now = self._clock()
            if self._since is None:
                self._since, self._attempts = now, 0
            self._attempts += 1
            left_s = self._since + self._lasts_s - now
            if left_s <= 0:
                self._over = self._over or error
                raise error
            wait_s = min(left_s, backoff_s(self._attempts, base_s=0.5, cap_s=4, chance=self._chance.random()))
            said, self._said = self._said, True
        if not said:
            self._say(error)
        self._pause(wait_s)

    def renew(self) -> None:
        """There was an answer."""
        with self._lock:
            self._since = None


class Pace:
    """At most `rate` calls a second go on, of however many threads; the others wait."""

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._every_s = 1 / rate
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self) -> None:
        """Wait for one's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._every_s
        if turn > now:
            self._sleep(turn - now)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` of them."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def in_parallel(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]
) -> tuple[list[tuple[T, R | StorageLedgerError]], BaseException | None]:
    """What came of each, in order, and what makes an end of it all once that is recorded: a shared cause, the ledger, Ctrl-C.

    What was not begun by then is left out. An error of one item is its outcome; a bug too, so that one study cannot stop
    the others.
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
