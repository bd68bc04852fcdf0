"""The descriptor kit leaves none open, whatever has a file's name."""

import os

import pytest

from storage_ledger.ledger.mirror import reader
from storage_ledger.system import files


@pytest.mark.parametrize("read", [lambda folder: files.read_file("x", folder), lambda folder: reader.read_segment(folder, "x")])
def test_a_folder_with_a_files_name_is_no_file_and_leaves_no_descriptor(tmp_path, read):
    (tmp_path / "x").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with files.opened(tmp_path, files.FOLDER) as folder, pytest.raises(OSError, match=r"directory|regular"):
        read(folder)
    assert len(os.listdir("/proc/self/fd")) == before
