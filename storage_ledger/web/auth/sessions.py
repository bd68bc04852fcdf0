"""Logins: each has a random number in its signed cookie, so that a logout ends it for every copy of that cookie.

The numbers of ended logins are remembered until their cookies expire, and kept in a file across a restart.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage_ledger.system import logs

FILE = "browse-ended-logins"
"""Its name in LEDGER_PATH. One line for each ended login: its number, and until when its cookie is valid."""

_LINE = re.compile(r"([0-9a-f]{32}) ([0-9]{1,12})\n")


@dataclass(frozen=True, slots=True)
class Session:
    """A login of `user`, valid until `until`, in seconds since 1970."""

    user: str
    number: str
    until: int


class Sessions:
    """Begins and ends logins of `seconds`. `clock` returns seconds since 1970."""

    def __init__(self, file: Path, seconds: int, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._seconds = seconds
        self._clock = clock
        self._ended: dict[str, int] = {}
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._ended = {number: int(until) for number, until in _LINE.findall(file.read_text(encoding="ascii"))}
        if self._forget_expired():
            self._write("".join(f"{number} {until}\n" for number, until in self._ended.items()), os.O_TRUNC)

    def begin(self, user: str) -> Session:
        """Return a new login."""
        return Session(user, secrets.token_hex(16), int(self._clock()) + self._seconds)

    def is_valid(self, session: Session) -> bool:
        """Return whether the login has neither expired nor been ended."""
        return session.until > self._clock() and session.number not in self._ended

    def end(self, session: Session) -> None:
        """End the login. If that cannot be written, it holds until this process ends."""
        self._forget_expired()
        if session.number not in self._ended:
            self._ended[session.number] = session.until
            self._write(f"{session.number} {session.until}\n", os.O_APPEND)

    def _forget_expired(self) -> bool:
        known = len(self._ended)
        self._ended = {number: until for number, until in self._ended.items() if until > self._clock()}
        return len(self._ended) < known

    def _write(self, text: str, how: int) -> None:
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            logs.get().warning("browse.logouts-not-kept", errno=error.errno)
