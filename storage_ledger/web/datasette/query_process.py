"""The process that runs SQL for the web page: one statement at a time, read-only, within limits, until its parent closes the socket.

SQLite looks at a time limit only between two instructions, and one instruction, such as a call of `instr()`, may take hours: such a
process is killed. `query_pool` runs it as `python -m storage_ledger.web.datasette.query_process`.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from storage_ledger.system.sqlite import quoted, sqlite
from storage_ledger.web.datasette.replaceable_file import ReplaceableFile
from storage_ledger.web.pages.search_terms import expression, names_person

MAX_ANSWER_BYTES = 16 << 20
"""Memory for the values of one answer. The web page holds them several times over while it makes JSON of them."""

MAX_MEMORY_BYTES = 192 << 20
"""Address space limit, on top of what the process takes when it starts."""

KILL_AFTER_S = 1.0
"""How long after its time limit a statement is killed."""

TOO_LARGE = f"More than {MAX_ANSWER_BYTES >> 20} MB in one answer: ask for fewer rows or columns."
TOO_MUCH_MEMORY = "This needs too much memory."
_READING = frozenset({sqlite.SQLITE_SELECT, sqlite.SQLITE_READ, sqlite.SQLITE_FUNCTION, sqlite.SQLITE_RECURSIVE, sqlite.SQLITE_PRAGMA})
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_INSTRUCTIONS = 1000
"""SQLite instructions between two looks at the clock: about 0.1 ms."""


@dataclass(frozen=True, slots=True)
class Question:
    """A statement for the file `path`, with its parameters. `most_rows`: how many rows to return; 0 means all."""

    path: str
    sql: str
    parameters: Mapping[str, Any] | Sequence[Any]
    limit_s: float
    most_rows: int = 0

    def packed(self) -> bytes:
        """Return the question as bytes."""
        values = list(self.parameters) if isinstance(self.parameters, (list, tuple)) else dict(self.parameters)
        return marshal.dumps((self.path, self.sql, values, self.limit_s, self.most_rows))


@dataclass(frozen=True, slots=True)
class Found:
    """An answer. `cut`: there are more rows than `most_rows`."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no answer. `damaged`: it is the file, not the statement. `last`: the process ends."""

    message: str
    damaged: bool = False
    last: bool = False


INTERRUPTED = NoAnswer("interrupted")
"""SQLite's own word for a statement that its progress handler has stopped."""


def unpacked(data: bytes) -> Found | NoAnswer:
    """Return the answer that the bytes of a process hold. Not pickle: a process that was taken over could run code here."""
    found, *values = marshal.loads(data)  # noqa: S302 - only values
    return Found(*values) if found else NoAnswer(*values)


def main() -> None:
    """Answer questions until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and then closes the socket
    _limit()
    line = Connection(os.dup(0))
    line.send_bytes(b"ready")
    files: dict[str, ReplaceableFile] = {}
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            asked = Question(*marshal.loads(line.recv_bytes()))  # noqa: S302 - from our parent
            # The parent kills a process that does not answer; SIGALRM ends it also if the parent was killed before.
            signal.setitimer(signal.ITIMER_REAL, asked.limit_s + 2 * KILL_AFTER_S)
            answer = _answer(files.setdefault(asked.path, ReplaceableFile(Path(asked.path), partial(_connect, asked.path))), asked)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if isinstance(answer, Found):
                line.send_bytes(marshal.dumps((True, answer.columns, answer.rows, answer.cut)))
            else:
                line.send_bytes(marshal.dumps((False, answer.message, answer.damaged, answer.last)))
                if answer.last:
                    return


def _connect(path: str) -> Any:
    connection = sqlite.connect(f"file:{quoted(Path(path))}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = lambda data: str(data, "utf-8", "replace")
    connection.create_function("escape_fts", 1, expression)
    connection.create_function("names_person", 2, names_person)
    connection.set_authorizer(lambda action, *_: sqlite.SQLITE_OK if action in _READING else sqlite.SQLITE_DENY)
    return connection


def _answer(file: ReplaceableFile, asked: Question) -> Found | NoAnswer:
    try:
        connection = file.connection()
        until = time.monotonic() + asked.limit_s
        connection.set_progress_handler(lambda: time.monotonic() >= until, _INSTRUCTIONS)
        with contextlib.closing(connection.cursor()) as cursor:
            return _fetched(cursor.execute(asked.sql, asked.parameters), asked.most_rows)
    except MemoryError:
        return NoAnswer(TOO_MUCH_MEMORY, last=True)
    except (sqlite.Error, sqlite.Warning, ValueError, OverflowError, TypeError) as error:  # not only SQLite refuses statements and values
        return NoAnswer(str(error), damaged=getattr(error, "sqlite_errorname", "").startswith(_DAMAGE))


def _fetched(cursor: Any, most_rows: int) -> Found | NoAnswer:
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        if most_rows and len(rows) == most_rows:
            return Found([each[0] for each in cursor.description], rows, cut=True)
        size += sum(map(sys.getsizeof, row))
        if size > MAX_ANSWER_BYTES:
            return NoAnswer(TOO_LARGE)
        rows.append(row)
    return Found([each[0] for each in cursor.description or ()], rows, cut=False)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain patient data
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere the time limit has to suffice
        with open("/proc/self/statm", encoding="ascii") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # if the machine runs out of memory, end this process first


if __name__ == "__main__":
    main()
