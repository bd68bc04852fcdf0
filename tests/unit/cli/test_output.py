"""What commands print, where no service is needed to see it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from storage_ledger.cli import quarantine, status
from storage_ledger.cli.output import counted, print_table
from storage_ledger.operations.report.quarantine import QuarantinedFile
from storage_ledger.operations.report.verifications import VerificationSummary

UUID = "3f0c7a52-9a8e-4d0b-b0a4-0c9d2c7b1e55"


def listed(study_id: str, width: int, upload: str | None = None) -> str:
    time = "2026-11-25T03:33:00.000000Z"
    item = QuarantinedFile(279, time, study_id, upload or f"{study_id}.dcm", "upload-missing", "", "", [], None)
    out = Console(file=io.StringIO(), width=width)
    print_table(out, *quarantine._listed([item]), wraps="")
    return out.file.getvalue()  # type: ignore[attr-defined] # it is ours


@pytest.mark.parametrize("upload", [None, f"{UUID}/another.dcm"])
@pytest.mark.parametrize("width", [40, 80, 100, 120])
def test_no_id_and_no_code_is_broken_however_narrow_the_terminal(width, upload):
    words = listed(UUID, width, upload).split()
    assert {UUID, "upload-missing"} <= set(words)
    assert (upload in words) == (upload is not None)


def test_no_character_of_an_id_of_any_length_is_left_out():
    longest = "abcdefgh" * 16
    assert longest in listed(longest, 80)


def test_an_upload_that_says_no_more_than_the_study_has_no_column():
    assert "Upload" not in listed(UUID, 120)
    assert "Upload" in listed(UUID, 120, "elsewhere.dcm")


def test_only_text_is_wrapped_between_words_and_a_table_too_wide_for_that_becomes_blocks():
    rows = [("archive-full", 12, "two words " * 6), ("short", 3, "x" * 30)]
    made = {}
    for width in (60, 50, 200):
        out = Console(file=io.StringIO(), width=width)
        print_table(out, ("Code", "Position", "Details"), rows, wraps="Details")
        made[width] = out.file.getvalue().splitlines()  # type: ignore[attr-defined] # it is ours
    assert max(map(len, made[60])) <= 60
    assert len(made[60]) > 3
    assert len(made[200]) == 3
    assert [line.split()[0] for line in made[50] if line.strip()] == ["Code", "Position", "Details", "two", "Code", "Position", "Details"]
    assert made[50][3].startswith(" " * 10), "below the text's beginning"
    out = Console(file=io.StringIO(), width=60)
    print_table(out, ("Code", "Details"), [("c" * 40, f"see {'9' * 64} there")], wraps="Details")
    assert "9" * 64 in out.file.getvalue(), "a UID is longer than what is left of the line"  # type: ignore[attr-defined] # it is ours
    out = Console(file=io.StringIO(), width=60)
    print_table(out, ("Code", "Details"), [], wraps="Details")
    assert out.file.getvalue() == ""  # type: ignore[attr-defined] # it is ours


def test_a_count_of_one_uses_the_singular():
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [counted(n, "study", "studies") for n in (1, 2)] == ["1 study", "2 studies"]
    time = "2026-11-25T03:33:00.000000Z"
    last = VerificationSummary(1, "verify", time, time, True, "all", 1, 1, 0, 0, 9900, 1, 0)
    assert status._verified(last).endswith(": 1 file, 9.9 kB intact, 1 finding")
    nothing = status._verified(replace(last, files=0, findings=0, unseen=3))
    assert nothing.endswith(": 0 files, 9.9 kB intact, 0 findings, 3 could not be checked")
