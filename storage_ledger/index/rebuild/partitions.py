"""The fold of a whole ledger, in as many processes as help; and its tables brought together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from storage_ledger.index import patient_conflicts
from storage_ledger.index.rebuild import worker
from storage_ledger.index.search import write_search_text
from storage_ledger.index.tables import ADD, COLUMNS, NONE_ARRIVED, ROWID, conflicts, make_again, make_patients_again
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.sqlite import translated
from storage_ledger.system import logs
from storage_ledger.system.sqlite import quoted

MOST_PROCESSES = 4
WORTH_A_PROCESS = 20_000
"""Entries: below that, one process is done before a second one has started."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Other processes that help: how many, and where they find the ledger. `least`: entries from which on they do.

    They fold several shares each, so that what is folded is brought in while the rest still is.
    """

    ledger_file: Path
    processes: int
    least: int = WORTH_A_PROCESS
    shares_each: int = 4

    @property
    def shares(self) -> int:
        """In all."""
        return self.processes * self.shares_each

    @classmethod
    def of(cls, ledger_file: Path) -> Workers:
        """As many as there are processors that this process may use."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(ledger_file, min(usable, MOST_PROCESSES))


@contextmanager
def shares(index_file: Path, *, stretches: int, keep: int) -> Iterator[Shares]:
    """Room beside an index for the files of shares, empty in the end and in the beginning: call it while no other rebuild runs."""
    remove(left_over(index_file))
    made = Shares(index_file, stretches, keep)
    try:
        yield made
    finally:
        remove(made.files)


class Shares:
    """Files with all that comes of a ledger's entries up to a position, in the order of these. See `share`.

    `stretches`: into how many shares this process cuts the ledger when nobody helps it.
    """

    def __init__(self, index_file: Path, stretches: int, keep: int) -> None:
        self.files: list[Path] = []
        self._index_file = index_file
        self._stretches = stretches
        self._keep = keep

    def fold(self, ledger: Ledger, up_to: int, workers: Workers | None, on_progress: Callable[[int], None]) -> Generator[Path, None, None]:
        """Make them, and give each as soon as those before it have been given. Close this to end whoever helps.

        Several processes do it, or this one; this one also does what one of the others could not: then it succeeds here, or
        fails with the right error.
        """
        helped = workers is not None and workers.processes > 1 and up_to >= workers.least
        stretches = self._cut(up_to, workers.shares if workers and helped else self._stretches)
        given = 0
        if workers and helped:
            for file in _folded_by_processes(workers, stretches, on_progress):
                yield file
                given += 1
        for file, after, to in stretches[given:]:
            file.unlink()  # a worker may have begun it
            _make(file)
            with translated():
                worker.fold(file, ledger, after, to, on_progress, keep=self._keep)
            yield file

    def _cut(self, up_to: int, count: int) -> list[tuple[Path, int, int]]:
        bounds = [up_to * number // count for number in range(count + 1)]
        self.files = [self._new(number) for number in range(count)]
        return [(file, *each) for file, each in zip(self.files, pairwise(bounds), strict=True)]

    def _new(self, number: int) -> Path:
        # Named by the process, too: a worker of one that was killed just now must not find the file of its successor.
        file = self._index_file.with_name(f"{self._index_file.name}-share-{os.getpid()}-{number}")
        _make(file)
        return file


def _make(file: Path) -> None:
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def bring_in(connection: Any, prefix: str, folded: Iterable[Path]) -> list[int]:
    """Put what the shares hold into the tables with this prefix, in their order: what is in several is as the last one has it.

    What several of them have files of is named in the table `again`, which is the connection's own: `derive_again`. Each table is a
    transaction of its own: whoever follows has to wait for one of them at most. A share's file is removed once it is in. Returns
    the positions of the `verified` entries, ascending.
    """
    connection.execute("DROP TABLE IF EXISTS temp.again")
    connection.execute("CREATE TABLE temp.again (study_instance_uid TEXT PRIMARY KEY)")
    verified: list[int] = []
    for file in folded:
        connection.execute("ATTACH ? AS share", (f"file:{quoted(file)}?mode=ro",))
        try:
            again = f"SELECT study_instance_uid FROM share.dicom_studies JOIN {prefix}dicom_studies USING (study_instance_uid)"  # noqa: S608 - a name of ours
            connection.execute(f"INSERT OR IGNORE INTO again {again}")
            # A header that was read again may have moved a file to another study.
            moved = f"SELECT old.study_instance_uid FROM share.files new JOIN {prefix}files old ON old.rowid = new.position"  # noqa: S608 - the same
            left = "old.study_instance_uid IS NOT NULL AND old.study_instance_uid IS NOT new.study_instance_uid"
            connection.execute(f"INSERT OR IGNORE INTO again {moved} WHERE {left}")
            for table in (*worker.FOLDED, *worker.DERIVED):
                names = ", ".join((["rowid"] if table in ROWID else []) + [f'"{name}"' for name in COLUMNS[table]])
                how = f"INTO {prefix}{table} ({names}) SELECT {names} FROM share.{table}"  # noqa: S608 - names of ours
                connection.execute(f"INSERT {how} WHERE true {ADD}" if table == "arrivals" else f"INSERT OR REPLACE {how}")
            verified += [row[0] for row in connection.execute("SELECT position FROM share.verified ORDER BY position")]
        finally:
            connection.execute("DETACH share")
        file.unlink()
    connection.execute(NONE_ARRIVED.replace("arrivals", f"{prefix}arrivals"))
    return verified


def derive_again(connection: Any) -> None:
    """`series`, `dicom_studies`, `patients` and the flags of what no share knew by itself.

    Call it within a transaction, once the indexes are there. The statements are those of a follower.
    """
    chosen = "IN (SELECT study_instance_uid FROM again)"
    for statement in make_patients_again(chosen):
        connection.execute(statement)
    differing = {row[0] for row in connection.execute(conflicts("IS NOT NULL")).fetchall() if row[0]} | patient_conflicts.flag_all(
        connection
    )
    connection.executemany("INSERT OR IGNORE INTO again VALUES (?)", ((uid,) for uid in differing))
    for statement in make_again(chosen):
        connection.execute(statement)
    write_search_text(connection, chosen)
    connection.execute("DROP TABLE temp.again")


def left_over(index_file: Path) -> Iterator[Path]:
    """What a rebuild that was killed has left behind, if none runs now."""
    return index_file.parent.glob(f"{index_file.name}-share-*")


def remove(files: Iterable[Path]) -> None:
    """Those that are there."""
    for file in list(files):
        file.unlink(missing_ok=True)


def _folded_by_processes(workers: Workers, stretches: list[tuple[Path, int, int]], on_progress: Callable[[int], None]) -> Iterator[Path]:
    """Each file, in order, as soon as it is made; ends early where one is lost."""
    with ExitStack() as stack:
        said, say = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("r", "w"), strict=True))
        stack.enter_context(said)
        try:
            with say, _numbers(len(stretches)) as queue:
                processes = [stack.enter_context(_worker(workers, stretches, queue, say)) for _ in range(workers.processes)]
        except OSError as error:
            logs.get().warning("index.worker-lost", errno=error.errno)
            return
        reached: dict[int, int] = {}
        made: set[int] = set()
        given = 0
        for line in said:
            after, word = line.split()
            if word != worker.MADE:
                reached[int(after)] = int(word) - int(after)
                on_progress(sum(reached.values()))
                continue
            made.add(int(after))
            while given < len(stretches) and stretches[given][1] in made:
                yield stretches[given][0]
                given += 1
        codes = [process.wait() for process in processes]
    if any(codes):
        logs.get().warning("index.worker-lost", exit_code=next(filter(None, codes)))


@contextmanager
def _numbers(count: int) -> Iterator[IO[bytes]]:
    """A pipe that holds the numbers below `count` (256 at most), a byte each, and then ends: each is read by one process alone."""
    reads, fill = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    with reads:
        with fill:
            fill.write(bytes(range(count)))
        yield reads


@contextmanager
def _worker(workers: Workers, stretches: list[tuple[Path, int, int]], queue: IO[bytes], say: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Folds those of these whose numbers it gets. A Ctrl-C of the terminal is for this process alone: the other is ended by it."""
    asked = [os.fspath(each) if isinstance(each, Path) else str(each) for stretch in stretches for each in stretch]
    command = [sys.executable, "-I", "-m", worker.__name__, os.fspath(workers.ledger_file), *asked]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=queue, stdout=say, stderr=quiet, cwd="/", start_new_session=True) as process:  # and waits for it
        try:
            yield process
        finally:
            process.kill()
