"""Folders for patients' data, on a real disk."""

import os
import signal
import subprocess
import sys

import pytest

from storage_ledger.system.temporary_folder import scratch

USES_ONE = """
import sys
from pathlib import Path
from storage_ledger.system.temporary_folder import scratch
with scratch("pictures-", Path(sys.argv[1])) as folder:
    (folder / "patient").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_another_one_uses_is_not(tmp_path):
    with subprocess.Popen([sys.executable, "-c", USES_ONE, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        theirs = other.stdout.readline().strip()
        with scratch("pictures-", tmp_path) as ours:
            assert sorted(map(str, tmp_path.iterdir())) == sorted([theirs, str(ours)])
            assert ours.stat().st_mode & 0o777 == 0o700
        other.send_signal(signal.SIGKILL)
    assert [str(path) for path in tmp_path.iterdir()] == [theirs]
    with scratch("pictures-", tmp_path) as ours:
        assert list(tmp_path.iterdir()) == [ours]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_folders_of_other_users_are_left_alone(tmp_path):
    theirs = tmp_path / "pictures-theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    (tmp_path / "pictures-link").symlink_to(theirs)
    with scratch("pictures-", tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures-link", "pictures-theirs"]
