"""What commands print, where no service is needed to see it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from storage_ledger.cli import quarantine, status
from storage_ledger.cli.output import counted
from storage_ledger.operations.report.quarantine import QuarantinedFile
from storage_ledger.operations.report.verifications import VerificationSummary

UUID = "3f0c7a52-9a8e-4d0b-b0a4-0c9d2c7b1e55"


def listed(study_id: str, width: int) -> str:
    time = "2026-11-25T03:33:00.000000Z"
    rows = quarantine._listed([QuarantinedFile(279, time, study_id, f"{study_id}.dcm", "upload-missing", "", "", [], None)])
    out = Console(file=io.StringIO(), width=width)
    out.print(rows)
    return out.file.getvalue()  # type: ignore[attr-defined] # it is ours


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_id_that_the_next_command_takes_stays_in_one_piece(width):
    assert f" {UUID} " in listed(UUID, width)


def test_no_character_of_an_id_of_any_length_is_left_out():
    longest = "abcdefgh" * 16
    text = "".join(listed(longest, 80).split())
    assert all(text.count(letter) >= 32 for letter in "abcdefgh"), text  # in the id, and in the file's name


def test_a_count_of_one_uses_the_singular():
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [counted(n, "study", "studies") for n in (1, 2)] == ["1 study", "2 studies"]
    time = "2026-11-25T03:33:00.000000Z"
    last = VerificationSummary(1, "verify", time, time, True, "all", 1, 1, 0, 0, 9900, 1, 0)
    assert status._verified(last).endswith(": 1 file, 9.9 kB intact, 1 finding")
    nothing = status._verified(replace(last, files=0, findings=0, unseen=3))
    assert nothing.endswith(": 0 files, 9.9 kB intact, 0 findings, 3 could not be checked")
