"""Run a function as another user, in a fork of this process, which has already imported everything."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SERVICE = 10001
"""The user of the image."""


@contextmanager
def open_folder(uid: int = SERVICE) -> Iterator[Path]:
    """Make a folder owned by that user that others may enter, unlike pytest's own folders. Skips the test without root."""
    if os.geteuid() != 0:
        pytest.skip("other users take root")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o711)
        os.chown(folder, uid, uid)
        yield folder
    finally:
        shutil.rmtree(folder)


def open_package(folder: Path) -> Path:
    """Copy the package and its migrations below `folder` for other users, who may have no access to the checkout."""
    checkout = Path(__file__).resolve().parents[2]
    copy = folder / "package"
    shutil.copytree(checkout / "storage_ledger", copy / "storage_ledger", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(checkout / "alembic", copy / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "migrations.ini", copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def as_user(function: Callable[[Callable[[], None]], Any], uid: int = SERVICE) -> Any:
    """Run `function` in its own process and return its result, which must fit into JSON.

    It starts as root, so that it can prepare files of other users, and becomes the user when it calls its argument.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:

            def become() -> None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)

            answer = json.dumps(function(become)).encode()
            while answer:
                answer = answer[os.write(write_end, answer) :]
            code = 0
        except BaseException:  # noqa: BLE001 - the parent asserts on the exit code
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the other user's process failed: its traceback stands in standard error"
    return json.loads(answer)
