"""Each command started as its own Python; other tests fork from a process that has imported everything."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import typer.main

from storage_ledger.cli.main import app
from tests.support.making import Ledgers
from tests.support.stack import Stack
from tests.support.waiting import until

ARGUMENTS = {
    "acknowledge": ["clock-ahead", "--by", "Ada", "--reason", "to see what it says"],
    "show": ["nobody"],
    "quarantine": ["list"],
    "restore": ["--from-mirror"],
    "replay": ["--mirror"],
    "backup": ["backups"],
    "copy-ledger": ["--to", "postgresql+psycopg://nobody@127.0.0.1:1/none"],
    "prove": ["nobody", "--output", "proof"],
    "verify-proof": ["policy", "1.tlog-proof"],
}
SERVERS = {"serve", "browse", "demo", "status-service", "witness"}  # started cold in their own tests
COMMANDS = sorted(set(typer.main.get_command(app).commands) - SERVERS)  # type: ignore[attr-defined] # it is a group


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Make an empty ledger; each command gets a copy."""
    folder = tmp_path_factory.mktemp("empty")
    Ledgers(folder).file(folder / "ledger")
    return folder / "ledger"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_all_that_it_needs(command, ledger, tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, cold=True)
    shutil.copytree(ledger, stack.ledger, dirs_exist_ok=True)
    done = stack.command(command, *ARGUMENTS.get(command, []))
    assert done.returncode in {0, 1, 2}, done.stderr
    assert "Usage:" not in done.stderr, "give it the arguments that it needs to begin, in ARGUMENTS"
    assert "internal-error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crash_in_native_code_leaves_the_frames_in_the_log(tmp_path, valkey, status_server):
    stack = Stack(tmp_path, valkey, status_server.url, cold=True, WORKERS=1)
    try:
        stack.start()
        crashed = stack.workers()
        os.kill(crashed[0], signal.SIGSEGV)
        until(lambda: stack.workers() not in ([], crashed), 30, what="a new worker")
        assert stack.log.read_text().count("Fatal Python error: Segmentation fault") == 1
        os.kill(stack.process.pid, signal.SIGSEGV)
        assert stack.process.wait(30) == -signal.SIGSEGV
        assert stack.log.read_text().count("Fatal Python error: Segmentation fault") == 2
    finally:
        stack.close()
