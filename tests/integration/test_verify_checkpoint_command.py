"""`storage-ledger checkpoint` and `verify --checkpoint` as commands: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage_ledger.ledger.mirror.writer import Mirror
from tests.support.making import Ledgers
from tests.support.pipeline import Pipeline
from tests.support.tampering import renamed, rewrite
from tests.support.warm import Warm


class Commands:
    """An archive of one study, and the commands for it."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder = folder
        self.warm = warm
        pipeline = Pipeline(folder, Ledgers(folder))
        pipeline.upload("a.dcm", b"bytes")
        pipeline.say("a", "a.dcm", {"patient_info": {"patient_name": "DOE^JANE"}})
        pipeline.place()
        mirror = Mirror(pipeline.archive, pipeline.ledger_folder / "mirror.lock", pipeline.ledger)
        mirror.begin()
        mirror.rewrite()
        pipeline.archive_all()
        self.archive, self.ledger = pipeline.archive, pipeline.ledger_folder
        paths = {"LEDGER_PATH": self.ledger, "ARCHIVE_PATH": self.archive, "UPLOADS_PATH": pipeline.uploads}
        self.environment = {**os.environ, **{name: str(path) for name, path in paths.items()}}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.warm.run(self.environment, self.folder, "storage-ledger", *arguments, timeout_s=60)

    def verify(self, *arguments: str) -> tuple[int, dict]:
        done = self.run("verify", "--json", *arguments)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def commands(tmp_path, warm):
    return Commands(tmp_path, warm)


def test_a_kept_checkpoint_finds_a_rewritten_history_which_is_not_signed(commands):
    signed = commands.run("checkpoint")
    assert signed.returncode == 0, signed.stderr
    note = commands.folder / "kept.txt"
    note.write_text(signed.stdout)
    code, found = commands.verify("--sample", "1", "--checkpoint", "kept.txt")
    size = int(signed.stdout.splitlines()[1])
    assert (code, found["findings"], found["checkpoints"], found["checkpoints_up_to"]) == (0, [], 3, size)
    assert "checkpoints" in found["parts"]
    assert "3 checkpoints agree" in commands.run("verify", "--no-record", "--checkpoint", "kept.txt").stdout

    rewrite(commands.ledger, commands.archive, renamed(("DOE^JANE", "ROE^JANE")))
    code, found = commands.verify("--checkpoint", "kept.txt")
    expected = [("checkpoint-mismatch", 1, f".ledger/checkpoints/{size}"), ("checkpoint-mismatch", 1, "kept.txt")]
    assert (code, sorted((each["code"], each["position"], each["path"]) for each in found["findings"])) == (1, expected)
    assert found["recorded"] == []
    command = [sys.executable, "-m", "storage_ledger", "verify", "--no-record", "--checkpoint", "-"]
    done = subprocess.run(command, env=commands.environment, input=signed.stdout, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "standard input" in done.stdout) == (1, True), done.stderr
    attention = json.loads(commands.run("status", "--json").stdout)["attention"]
    assert any("checkpoint-mismatch" in each["detail"] for each in attention), attention

    refused = commands.run("checkpoint")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "checkpoint-forked" in refused.stderr
    assert os.listdir(commands.archive / ".ledger" / "checkpoints") == [str(size)]


def test_a_file_that_cannot_be_read_or_a_single_study_is_a_wrong_option(commands):
    for arguments, why in ((("--checkpoint", "missing"), "cannot be read"), (("--study", "a", "--checkpoint", "x"), "cannot be combined")):
        done = commands.run("verify", *arguments)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
