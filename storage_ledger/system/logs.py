"""Structured logs without patient data: only fields of an allow-list pass, and no third party's texts.

A line is an event name with fields: `projection.failed position=41 code=no-space attempt=2`. Add a field only if it can never hold a
value from a message, a DICOM file, a file name or a third party's error text. `lost` is the number of lines before this one that could
not be written.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

ALLOWED = frozenset({
    "action", "actor", "address", "after_s", "attempt", "attempts", "bytes", "channel", "code", "count", "dropped", "due_in_s", "entries",
    "environment", "errno", "error_type", "event", "exit_code", "files", "frames_at", "from_revision", "holder_pid", "host",
    "http_status", "journal_mode", "kind", "ledger_id", "level", "library", "logger", "lost", "pending", "pid", "port", "position",
    "positions", "reason", "reference", "route", "rows", "schema", "seconds", "signal", "source", "sqlite", "stage", "status", "step",
    "study_id", "thread", "timestamp", "to_revision", "version",
})  # fmt: skip


def configure(level: str, *, environment: str = "", stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (default: standard error), one line for each event.

    Third-party loggers (redis, httpx, pydicom, uvicorn) and Python warnings pass only as logger name and level: their texts quote the
    offending value.
    """
    out = _Lossy(stream or sys.stderr)
    numeric = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _environment(environment),
            _lost(out),
            _allow_list,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True, repr_native_str=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    handler = _Foreign()
    handler.setLevel(max(numeric, logging.WARNING))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for name in ("pydicom", "httpx", "httpcore", "uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "sqlalchemy"):
        foreign = logging.getLogger(name)
        foreign.handlers[:] = []
        foreign.propagate = True
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pydicom\.")  # they quote the offending value
    warnings.showwarning = _silent_warning


def get() -> Any:
    """Return the logger. Call it where you log, so that `configure` takes effect."""
    return structlog.get_logger()


def where(error: BaseException) -> str:
    """Return file, line and function of an error's frames, innermost last, without its text, which may quote a value."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " > ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}:{f.name}" for f in frames)


def _environment(name: str) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if name:
            event["environment"] = name
        return event

    return add


def _lost(out: _Lossy) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if out.lost:
            event["lost"] = out.lost
        return event

    return add


def _allow_list(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop fields that are not allowed, and add their number as `dropped`."""
    dropped = [key for key in event if key not in ALLOWED]
    for key in dropped:
        del event[key]
    for key, value in event.items():
        if not isinstance(value, (str, int, float, bool, type(None))):
            event[key] = type(value).__name__
    if dropped:
        event["dropped"] = len(dropped)
    return event


class _Lossy:
    """A stream that may lose lines: a full disk or a stuck reader must not end or block a thread.

    The reader of a pipe may get stuck (a container's log driver, Ctrl-S), and a full pipe blocks its writers. A line waits for up to
    `PATIENCE_MS`, later lines not at all until there is room. `lost`: lines lost since the last one written.
    """

    PATIENCE_MS = 1000

    def __init__(self, stream: TextIO | None) -> None:
        self.lost = 0
        self._stream = stream
        self._descriptor = None
        with suppress(OSError, ValueError, AttributeError):  # not every stream is a file
            self._descriptor = stream.fileno() if stream else None

    def write(self, text: str) -> None:
        """Write a line or lose it; one longer than PIPE_BUF may lose only its end."""
        try:
            if self._descriptor is not None:
                self._write(self._descriptor, text.encode("utf-8", "backslashreplace"))
            elif self._stream is not None:
                self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed
            self.lost += 1
        else:
            self.lost = 0

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""

    def _write(self, descriptor: int, line: bytes) -> None:
        """Write to a descriptor; raises `BlockingIOError` if there is no room in time."""
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        for start in range(0, len(line), select.PIPE_BUF):  # a pipe with room takes this much without waiting
            if not room.poll(0 if self.lost else self.PATIENCE_MS):
                raise BlockingIOError
            os.write(descriptor, line[start : start + select.PIPE_BUF])


class _Foreign(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error_type = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        fields = {"error_type": error_type} if error_type else {}
        level = max((known for known in (10, 20, 30, 40, 50) if known <= record.levelno), default=10)  # libraries invent others
        get().log(level, "foreign.message", logger=record.name, **fields)


def _silent_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    del message  # pydicom quotes the offending value in it
    get().debug("foreign.warning", error_type=category.__name__)
