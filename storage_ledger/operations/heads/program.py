"""Gives checkpoints to a program (CHECKPOINT_EXEC), which mails, prints or commits them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from storage_ledger.errors import Retryable
from storage_ledger.ledger.proof.checkpoints import CheckpointFolder
from storage_ledger.operations.heads.place import Head, Place
from storage_ledger.system import cpu_affinity, files
from storage_ledger.system.files import opened

WITHIN_S = 60.0
LOOK_EVERY_S = 0.2
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")
"""Variables that the program inherits. The service's own are not among them: some are secrets."""
FILE_MODE = 0o640


class Program(Place):
    """A command, without a shell. Gets the note with its cosignatures on standard input; its output is thrown away.

    A note counts as taken when the command ends with 0; `taken` then keeps that durably. A crash in between gives it the note again.
    """

    name = "exec"

    def __init__(self, command: Sequence[str], folder: CheckpointFolder, taken: Path, *, within_s: float = WITHIN_S) -> None:
        self._command = command
        self._folder = folder
        self._taken = taken
        self._within_s = within_s

    @override
    def has(self, head: Head) -> bool:
        try:
            with opened(self._taken.parent, files.VOLUME) as folder:
                return files.read_file(self._taken.name, folder, 128) == self._digest(head)
        except OSError:
            return False

    @override
    def take(self, head: Head, stop: threading.Event) -> None:
        self._run(self._folder.joined(head.checkpoint.size) or head.note, stop)
        try:
            with opened(self._taken.parent, files.VOLUME) as folder:
                files.replace_file(self._taken.name, self._digest(head), folder, FILE_MODE, temporary=f".{self._taken.name}.tmp")
        except OSError as error:
            code = "ledger-full" if error.errno in files.NO_SPACE else "ledger-io"
            raise Retryable(code, f"{self._taken.name} cannot be written", errno=error.errno, shared=True) from error

    def _digest(self, head: Head) -> bytes:
        """Identify the note and the command, so that a changed command gets the newest note at once."""
        return hashlib.sha256("\0".join([*self._command, ""]).encode() + head.note).hexdigest().encode() + b"\n"

    def _run(self, note: bytes, stop: threading.Event) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            with cpu_affinity.any_of_them():  # inherited
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # ValueError: a NUL
            number = error.errno if isinstance(error, OSError) else None
            raise Retryable("exec-failed", f"it cannot be started: {os.strerror(number or 0)}", errno=number) from error
        try:
            code = self._wait(process, note, stop)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if code:
            raise Retryable("exec-failed", f"its exit code was {code}" if code > 0 else f"signal {-code} ended it")

    def _wait(self, process: subprocess.Popen[bytes], note: bytes, stop: threading.Event) -> int:
        until = time.monotonic() + self._within_s
        rest: bytes | None = note
        while True:
            try:
                process.communicate(rest, LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                rest = None  # the next call sends what is left
                if stop.is_set():
                    raise Retryable("exec-failed", "the service is stopping") from None
                if time.monotonic() > until:
                    raise Retryable("exec-failed", f"it did not end within {self._within_s:.0f} s") from None
            else:
                return process.returncode
