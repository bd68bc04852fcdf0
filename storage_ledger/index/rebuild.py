"""The fold of a whole ledger, in as many processes as help; and its tables brought together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from storage_ledger import logs
from storage_ledger.index import share
from storage_ledger.index.tables import ROWID, TABLES, arrived, conflicts, refresh
from storage_ledger.ledger.contract import Ledger
from storage_ledger.ledger.driver import quoted, sqlite

MOST_PROCESSES = 4
DERIVED = ("dicom_studies", "series", "arrivals")
WORTH_A_PROCESS = 20_000
"""Entries: below that, one process is done before a second one has started."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Other processes that help: how many, and where they find the ledger. `least`: entries from which on they do."""

    ledger_file: Path
    processes: int
    least: int = WORTH_A_PROCESS

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
        self.folded: list[Path] = []
        self.files: list[Path] = []
        self._index_file = index_file
        self._stretches = stretches
        self._keep = keep

    def fold(self, ledger: Ledger, up_to: int, workers: Workers | None, on_progress: Callable[[int], None]) -> None:
        """Make them: in several processes at once, or in this one.

        The latter also when one of the others could not: then it succeeds here, or fails with the right error.
        """
        if workers is not None and workers.processes > 1 and up_to >= workers.least:
            cut = self._cut(up_to, workers.processes)
            if _fold_in_processes(workers, cut, on_progress):
                return
            remove(self.files)
        for file, after, to in self._cut(up_to, self._stretches):
            share.fold(file, ledger, share.stretch(ledger, after, to, on_progress), keep=self._keep)

    @contextmanager
    def derived(self) -> Iterator[Callable[[], Path]]:
        """What is made from the table `files` is made in a thread meanwhile; call what this gives to wait for the file with it."""
        file, stop = self._new(), threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="derive") as pool:
            made = pool.submit(_derive, file, self.folded, stop)

            def wait() -> Path:
                made.result()
                return file

            try:
                yield wait
            finally:
                stop.set()

    def _cut(self, up_to: int, count: int) -> list[tuple[Path, int, int]]:
        bounds = [up_to * number // count for number in range(count + 1)]
        self.folded = [self._new() for _ in range(count)]
        return [(file, *each) for file, each in zip(self.folded, pairwise(bounds), strict=True)]

    def _new(self) -> Path:
        # Named by the process, too: a worker of one that was killed just now must not find the file of its successor.
        file = self._index_file.with_name(f"{self._index_file.name}-share-{os.getpid()}-{len(self.files)}")
        self.files.append(file)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        return file


def bring_together(connection: Any, prefix: str, files: list[Path]) -> None:
    """Put what the shares hold into the tables with this prefix, in their order: what is in several is as the last one has it.

    Each table is a transaction of its own: whoever follows has to wait for one of them at most.
    """
    for file in files:
        connection.execute("ATTACH ? AS share", (_uri(file),))
        try:
            for table in share.FOLDED:
                names = ", ".join((["rowid"] if table in ROWID else []) + _columns(connection, table))
                connection.execute(f"INSERT OR REPLACE INTO {prefix}{table} ({names}) SELECT {names} FROM share.{table}")  # noqa: S608 - names of ours
        finally:
            connection.execute("DETACH share")


def verified(files: list[Path]) -> list[int]:
    """Positions of the entries of that kind in the shares, ascending."""
    found = []
    for file in files:
        with _opened(file) as connection:
            found += [row[0] for row in connection.execute("SELECT position FROM verified ORDER BY position")]
    return found


def bring_derived(connection: Any, file: Path) -> None:
    """Put what was derived into the tables of the index; within the caller's transaction."""
    with _opened(file) as derived:
        conflicting = derived.execute("SELECT position FROM files WHERE sop_conflict")
        connection.executemany("UPDATE files SET sop_conflict = 1 WHERE rowid = ?", conflicting)
        for table in DERIVED:
            columns = len(_columns(connection, table))
            rows = derived.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name of ours
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)  # noqa: S608 - the same


def _derive(file: Path, folded: list[Path], stop: threading.Event) -> None:
    """`series`, `dicom_studies`, `arrivals` and the flags of `files`, by the statements that a follower uses, too."""
    with share.scratch(file) as connection:
        for table in ("files", *DERIVED):
            connection.execute(f"CREATE TABLE {table} {TABLES[table]}")
        columns = [name for name in _columns(connection, "files") if name != '"position"']
        connection.execute("DROP TABLE files")
        connection.execute(f"CREATE TABLE files (position INTEGER PRIMARY KEY, {', '.join(columns)})")
        names = ", ".join(["position", *columns])
        for number, each in enumerate(folded):
            connection.execute(f"ATTACH ? AS share{number}", (_uri(each),))
            connection.execute(f"INSERT OR REPLACE INTO files ({names}) SELECT {names} FROM share{number}.files")  # noqa: S608 - names of ours
        for statement in (
            "CREATE INDEX by_sop ON files (sop_instance_uid)",
            "CREATE INDEX by_uid ON files (study_instance_uid, series_instance_uid)",
            conflicts("IS NOT NULL"),
            *refresh("IS NOT NULL"),
            arrived(),
            "CREATE INDEX conflicting ON files (position) WHERE sop_conflict",
        ):
            if stop.is_set():  # nobody waits any more
                return
            connection.execute(statement).fetchall()


def _columns(connection: Any, table: str) -> list[str]:
    return [f'"{row[0]}"' for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _uri(file: Path) -> str:
    return f"file:{quoted(file)}?mode=ro"


def _opened(file: Path) -> closing[Any]:
    return closing(sqlite.connect(_uri(file), uri=True))


def left_over(index_file: Path) -> Iterator[Path]:
    """What a rebuild that was killed has left behind, if none runs now."""
    return index_file.parent.glob(f"{index_file.name}-share-*")


def remove(files: Iterable[Path]) -> None:
    """Those that are there."""
    for file in list(files):
        file.unlink(missing_ok=True)


def _fold_in_processes(workers: Workers, stretches: list[tuple[Path, int, int]], on_progress: Callable[[int], None]) -> bool:
    """Whether all of them have done their share."""
    with ExitStack() as stack:
        said, say = (os.fdopen(each, mode) for each, mode in zip(os.pipe(), ("r", "w"), strict=True))
        stack.enter_context(said)
        try:
            with say:
                processes = [stack.enter_context(_worker(workers, *each, say)) for each in stretches]
        except OSError as error:
            logs.get().warning("index.worker-lost", errno=error.errno)
            return False
        reached: dict[int, int] = {}
        for line in said:
            after, position = map(int, line.split())
            reached[after] = position - after
            on_progress(sum(reached.values()))
        codes = [process.wait() for process in processes]
    if any(codes):
        logs.get().warning("index.worker-lost", exit_code=next(filter(None, codes)))
    return not any(codes)


@contextmanager
def _worker(workers: Workers, file: Path, after: int, up_to: int, say: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Ctrl-C of the terminal is for this process alone: the other is ended by it."""
    command = [sys.executable, "-I", "-m", share.__name__, os.fspath(workers.ledger_file), os.fspath(file), str(after), str(up_to)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=say, stderr=quiet, cwd="/", start_new_session=True) as process:  # and waits for it
        try:
            yield process
        finally:
            process.kill()
