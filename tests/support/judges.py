"""Programs of others that judge ours, each in an environment of its own. Tests that cannot have one are skipped, and say why."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".judges"
INSTALL_WITHIN_S = 180
GO_PATH = Path("/usr/share/gocode")
"""Where Debian's packages put Go's libraries."""


@functools.cache
def judge(requirement: str, *, oldest: tuple[int, int] = (3, 11)) -> Path:
    """Return the `bin` of an environment with a package, given as `name==version`, for a Python not older than `oldest`.

    It is installed at the first use, and kept.
    """
    python = next(_pythons(oldest), None)
    if python is None:
        pytest.skip(f"{requirement} needs Python {oldest[0]}.{oldest[1]} or newer")
    FOLDER.mkdir(exist_ok=True)
    folder = FOLDER / requirement
    with (FOLDER / f"{requirement}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                subprocess.run([python, "-I", "-m", "venv", str(folder)], check=True, capture_output=True, timeout=INSTALL_WITHIN_S)
                pip = [
                    str(folder / "bin" / "python"),
                    "-I",
                    "-m",
                    "pip",
                    "-q",
                    "--no-input",
                    "--disable-pip-version-check",
                    "--retries",
                    "1",
                ]
                subprocess.run([*pip, "install", requirement], check=True, capture_output=True, timeout=INSTALL_WITHIN_S)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"{requirement} cannot be installed: {error}")
            done.touch()
    return folder / "bin"


@functools.cache
def go_program(source: Path) -> Path:
    """Return the program of one Go file that may use golang.org/x/mod, which is not downloaded. It is built at the first use, and kept."""
    compiler = shutil.which("go")
    if compiler is None or not (GO_PATH / "src" / "golang.org" / "x" / "mod" / "sumdb" / "tlog").is_dir():
        pytest.skip("Go and golang.org/x/mod are not installed: apt-get install golang-go golang-golang-x-mod-dev")
    folder = FOLDER / "go"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(folder / "cache")}
            subprocess.run([compiler, "build", "-o", program, source], check=True, timeout=INSTALL_WITHIN_S, env=environment)
    return program


def _pythons(oldest: tuple[int, int]) -> Iterator[str]:
    """Yield the Pythons that run: this one, those on PATH, those of pyenv."""
    if sys.version_info[:2] >= oldest:
        yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in range(14, oldest[1] - 1, -1):
        name = f"python3.{minor}"
        places = [*os.get_exec_path(), *(str(each / "bin") for each in sorted(pyenv.glob(f"3.{minor}.*")))]
        for candidate in (Path(place) / name for place in places):
            if (
                candidate.is_file()
                and subprocess.run([str(candidate), "-c", "import venv"], capture_output=True, check=False).returncode == 0
            ):
                yield str(candidate)
