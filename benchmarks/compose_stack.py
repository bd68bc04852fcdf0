"""A compose stack that runs, for a benchmark: filled with made-up studies, with a login, and given events from inside it."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from storage_ledger.web.auth.credentials import hash_password

ROOT = Path(__file__).resolve().parent.parent
OURS = ("storage-service", "datasette")
UP = ("up", "--detach", "--no-build", "--wait")


class Inside:
    """A `fed_service.Service` in a container of the stack's own: its methods, a line each way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.examples: dict[str, Any] = self._line()

    def burst(self, events: int) -> float:
        return float(self._call("burst", events))

    def files(self, count: int) -> list[tuple[str, str]]:
        return list(self._call("files", count))

    def round(self, messages: list[tuple[str, str]], seconds: float) -> dict[str, float]:
        return dict(self._call("round", messages, seconds))

    def _call(self, *words: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def filled(compose: list[str], studies: int, port: int) -> Iterator[tuple[Inside, str]]:
    """What feeds the stack that `compose` means, and a cookie for its pages on `port`. Its pictures are forgotten.

    Where its ledger is empty, so many studies are put into it; where it has others than these, this ends with a sentence.
    """
    _run(*compose, *_program("fed_service", "whose"))
    password = secrets.token_hex()
    with tempfile.TemporaryDirectory() as folder:
        login = Path(folder, "login.yaml")
        hashed = hash_password(password).replace("$", "$$")  # compose reads a $ as the beginning of a variable
        environment = {"BROWSE_PASSWORD_HASH": f"bench:{hashed}", "BROWSE_PASSWORD_HASH_FILE": ""}
        login.write_text(json.dumps({"services": {"datasette": {"environment": environment}}}))  # JSON is YAML
        try:
            _run(*compose, "stop", *OURS)
            _run(*compose, *_program("fed_service", "fill", str(studies)))
            _run(*compose, "run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "datasette", "-c", "rm -rf /app/cache/*")
            _run(*compose, "-f", str(login), *UP, *OURS)
            with subprocess.Popen(
                [*compose, *_program("fed_service", "feed")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                yield Inside(process), _cookie(f"http://127.0.0.1:{port}", password)
        finally:
            _run(*compose, *UP, "--no-deps", *OURS)


@contextlib.contextmanager
def writing(compose: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`commits_alone` on the ledger of that stack, whose service is stopped meanwhile: one process writes."""
    _run(*compose, "stop", OURS[0])
    command = [*compose, *_program("commits_alone")]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield process
    finally:
        _run(*compose, *UP, "--no-deps", OURS[0])


def stat_of_browse(compose: list[str]) -> str:
    """What Linux tells in /proc of the process that answers for the pages: the first child of the container's init."""
    read = "read -r child _ </proc/1/task/1/children; cat /proc/$child/stat"
    command = [*compose, "exec", "-T", "datasette", "sh", "-c", read]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout


def _program(name: str, *arguments: str) -> list[str]:
    """What compose is told so that a program of this folder runs beside the stack's services, on their volumes and as their user."""
    mounts = [word for name in ("benchmarks", "tests") for word in ("-v", f"{ROOT / name}:/bench/{name}:ro")]
    return [
        "run",
        "--rm",
        "--no-deps",
        "-T",
        *mounts,
        "--entrypoint",
        "python",
        "storage-service",
        f"/bench/benchmarks/{name}.py",
        *arguments,
    ]


def _run(*command: str) -> None:
    code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        sys.exit(f"ended with {code}, and said why above: {' '.join(command)}")


def _cookie(site: str, password: str) -> str:
    """Of somebody who has logged in, as a person does."""
    with httpx.Client(base_url=site, timeout=30, trust_env=False) as browser:
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)"', browser.get("/-/login").text))
        answer = browser.post("/-/login", data={"username": "bench", "password": password, **hidden})
    given = [each.partition(";")[0] for each in answer.headers.get_list("Set-Cookie") if each.startswith("ds_actor=")]
    assert given, f"{site} lets nobody in: {answer.status_code}"
    return given[0]
